"""The link between device and edge: its rule (`pipe`) and its real-time form (`relay`)."""
