"""Data sets: `load(name)` returns an `ImageTable`; one module a source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mlu_utils.data import digits, folder, orl, synthages, synthfaces
from mlu_utils.data.table import LABEL_ALIASES, SPLITS, ImageTable
from mlu_utils.naming import choices

DATASETS: dict[str, Callable[..., ImageTable]] = {
    "orl": orl.load,
    "synthfaces": synthfaces.load,
    "digits": digits.load,
    "synthages": synthages.load,
}

__all__ = ["DATASETS", "LABEL_ALIASES", "SPLITS", "ImageTable", "load"]


def load(name: str, **options) -> ImageTable:
    """Return a data set by name, or the folder of your own images at that path.

    Args:
        name: one of `DATASETS`, or the path of a folder with a `labels.csv` (see `data.folder`).
        **options: passed to the loader of that data set.

    Raises:
        ValueError: neither a known data set nor a folder.
    """
    if name in DATASETS:
        return DATASETS[name](**options)
    if Path(name).is_dir():
        return folder.load(folder=name, **options)
    raise ValueError(
        f"unknown data set {name!r}: give the path of a folder with a labels.csv, or {choices(name, DATASETS)}"
    )
