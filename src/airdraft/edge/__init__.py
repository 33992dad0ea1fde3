"""The edge: serves a target model to devices."""
