"""Shared library of the multi-label unlearning reproduction suite; see README.md for the map."""

import importlib

__version__ = "0.1.0"
__all__ = ["ForgetRequest", "ImageTable", "Study", "unlearn"]  # what a user needs first

_HOMES = {"ForgetRequest": "requests", "ImageTable": "data.table", "Study": "studies", "unlearn": "unlearning"}


def __getattr__(name: str) -> object:
    """Import what is asked for, and torch with it, only now: `import mlu_utils` stays fast."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
