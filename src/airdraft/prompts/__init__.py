"""Prompts whose keys and values come from elsewhere: a store of blocks, and a race between fetching and computing."""
