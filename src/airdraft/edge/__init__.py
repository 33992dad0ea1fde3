"""The edge, which serves a target model to devices."""
