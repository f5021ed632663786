"""From scores to tables and figures, each with a record of where it came from.

Purpose: the one way in which a number or a picture of a notebook reaches a folder.
Must not: train, unlearn or compute a score.

`Run` and what is done with scores can be taken from here, drawings from `results.figures`, looks from `results.style`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlu_utils.results.provenance import Run
    from mlu_utils.results.scores import (
        NOT_UNLEARNED,
        READING_DISPLAY,
        SCORE_COLUMNS,
        method_display,
        read_scores,
        require_retrain,
        result_table,
        summary_table,
        write_scores,
    )

__all__ = [
    "NOT_UNLEARNED",
    "READING_DISPLAY",
    "SCORE_COLUMNS",
    "Run",
    "method_display",
    "read_scores",
    "require_retrain",
    "result_table",
    "summary_table",
    "write_scores",
]


def __getattr__(name: str) -> object:
    """Import on use: whoever handles scores only, such as a command, need not wait for what draws."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{'provenance' if name == 'Run' else 'scores'}"), name)
