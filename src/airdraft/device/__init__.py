"""The device: drafts with a small model and lets an edge verify."""
