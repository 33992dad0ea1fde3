"""The engines: each runs models of some kind of file, here or behind HTTP. `models/registry.py` lists them."""
