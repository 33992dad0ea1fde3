"""OpenAI's HTTP API in front of a writer of texts: on the device's loopback, or at the edge for who has no draft."""
