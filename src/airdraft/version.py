"""The version of this package. A leaf: everything may import it."""

__version__ = "0.1.0"
