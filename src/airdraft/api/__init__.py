"""OpenAI's HTTP API in front of a writer of texts: on a device, or at the edge for clients without a draft."""
