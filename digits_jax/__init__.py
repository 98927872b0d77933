"""A pure-JAX research codebase for handwritten digits."""

__version__ = "0.1.0"
