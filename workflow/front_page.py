"""The README's table of results, written from `figures/`, so that no number there is typed by hand.

The table stands between two markers; `publish` renews it and a test compares it with the files.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mlu_utils import paths
from mlu_utils.studies import load_profile

BEGIN, END = "<!-- results: written by make publish -->", "<!-- end of results -->"
PROFILE, STUDIES = "quick", ("orl-eyeglasses", "orl-smiling", "synthfaces-male")
METHODS = ("Original", "Retrain", "WF", "WP", "CF-k", "SCRUB", "UNSIR", "SalUn", "NegGrad", "SSD", "HeadReset")
# (table, metric, label or None for the forgotten one, digits)
COLUMNS = {
    "recall": ("table_forgetting", "recall", None, 2),
    "AUC of its logit": ("table_forgetting", "auc", None, 2),
    "retained accuracy": ("table2_multilabel_utility", "accuracy", "retained", 3),
    "probe AUC": ("table_forgetting", "probe_auc", None, 2),
}


def results_table(folder: Path = paths.FIGURES) -> str:
    """Return the table in Markdown: test split, mean over the seeds, targeted readings.

    Args:
        folder: where `table_forgetting.csv`, `table2_multilabel_utility.csv` and `table_seconds.csv` lie.

    Raises:
        FileNotFoundError: a table is missing: run `make reproduce`.
        ValueError: a study of the table was not run.
    """
    names = (*dict.fromkeys(table for table, *_ in COLUMNS.values()), "table_seconds")
    tables = {name: pd.read_csv(folder / f"{name}.csv") for name in names}
    lines = [f"| forgotten | model | {' | '.join(COLUMNS)} | speed-up |", "|---" * (len(COLUMNS) + 3) + "|"]
    profile = load_profile(PROFILE)
    for name in STUDIES:
        study = profile.study(name)
        request = study["request"]
        forgotten = request.partition(":")[2]
        title = f"{forgotten} (`{study['dataset']}`, {study['num_epochs']} epochs)"
        for method in METHODS:
            cells = [
                _mean(tables[table], request, method, metric, label or forgotten, digits)
                for table, metric, label, digits in COLUMNS.values()
            ]
            speed = "" if method == "Original" else _mean(tables["table_seconds"], request, method, "speedup", "-", 1)
            if any(cells):
                lines.append(f"| {title} | {method} | {' | '.join(cells)} | {speed} |")
                title = ""
        if title:
            raise ValueError(f"no scores of {request} in {folder}: run the profile that publishes, then make publish")
    return "\n".join(lines)


def _mean(table: pd.DataFrame, request: str, method: str, metric: str, label: str, digits: int) -> str:
    """Return the mean over the seeds as the README prints it, empty where there is none."""
    chosen = table[
        (table.request == request)
        & (table.method == method)
        & table.reading.isin(["-", "targeted"])
        & table.split.isin(["-", "test"])
        & (table.metric == metric)
        & (table.label == label)
    ]
    if chosen.empty:
        return ""
    value = chosen.value.mean()
    if metric == "speedup":
        return f"{value:.1f}" if value < 10 else f"{value:.0f}"
    text = f"{value:.{digits}f}"
    return text[1:] if text.startswith("0.") else text


def split(readme: str) -> tuple[str, str, str]:
    """Return what stands before, between and after the markers.

    Raises:
        ValueError: the markers are missing.
    """
    before, begin, rest = readme.partition(f"{BEGIN}\n")
    table, end, after = rest.partition(f"\n{END}")
    if not begin or not end:
        raise ValueError(f"README.md lacks the lines {BEGIN!r} and {END!r} around its table of results")
    return before + begin, table, end + after


def update(readme: Path = paths.ROOT / "README.md", folder: Path = paths.FIGURES) -> None:
    """Renew the README's table from the files in `folder`."""
    before, _, after = split(readme.read_text(encoding="utf-8"))
    readme.write_text(before + results_table(folder) + after, encoding="utf-8")
