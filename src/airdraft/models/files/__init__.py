"""Where models come from: the hub, other programs' stores, folders, and what the files in them say."""
