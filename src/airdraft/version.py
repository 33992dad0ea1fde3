"""The version, in a module that imports nothing: everything may say which airdraft it is."""

__version__ = "0.1.0"
