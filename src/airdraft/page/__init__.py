"""A page that shows texts while they are written, each token in the colour of who found it, and replays traces."""
