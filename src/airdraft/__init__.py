"""airdraft: draft on the device, verify at the edge. The text is the target model's own."""

__version__ = "0.1.0"
