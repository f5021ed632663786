"""Shared library of the multi-label unlearning reproduction suite; see README.md for the map."""

__version__ = "0.1.0"
