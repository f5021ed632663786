"""From scores to tables and figures, each with a record of where it came from.

Purpose: the one way in which a number or a picture of a notebook reaches a folder.
Must not: train, unlearn or compute a score.

`Run` and what is done with scores can be taken from here, drawings from `results.figures`, looks from `results.style`.
"""

__all__ = ["SCORE_COLUMNS", "Run", "method_display", "read_scores", "require_retrain", "result_table", "summary_table"]


def __getattr__(name: str) -> object:
    """Import on use: whoever handles scores only, such as a command, need not wait for what draws."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "Run":
        from mlu_utils.results.provenance import Run

        return Run
    from mlu_utils.results import scores

    return getattr(scores, name)
