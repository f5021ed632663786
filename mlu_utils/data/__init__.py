"""Data sets: `load(name)` returns an `ImageTable`; one module a source, imported when it is asked for.

Another installed package adds a data set, a callable(**options) that returns an ImageTable, as an entry point of the
group `mlu_utils.datasets`; in its pyproject.toml: [project.entry-points."mlu_utils.datasets"] mine = "my_package:load".
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from mlu_utils.data.splits import SPLITS
from mlu_utils.data.table import LABEL_ALIASES, ImageTable
from mlu_utils.naming import choices

ENTRY_POINTS = "mlu_utils.datasets"
FOLDER = "mlu_utils.data.folder:load"  # of whatever names a folder with a labels.csv
DATASETS = {
    "orl": "mlu_utils.data.orl:load",
    "synthfaces": "mlu_utils.data.synthfaces:load",
    "digits": "mlu_utils.data.digits:load",
    "synthages": "mlu_utils.data.synthages:load",
}

__all__ = ["DATASETS", "LABEL_ALIASES", "SPLITS", "ImageTable", "load", "module_of", "names"]


def names() -> tuple[str, ...]:
    """Names of all data sets, first ours, then those of other installed packages."""
    return (*DATASETS, *sorted(entry_points(group=ENTRY_POINTS).names - DATASETS.keys()))


def load(name: str, **options) -> ImageTable:
    """Return a data set by name (`names()`), or the folder of your own images at that path (`data.folder`).

    Args:
        name: of a data set, or the path of a folder with a `labels.csv`.
        **options: passed to the loader of that data set.
    """
    source = _source(name)
    if source.value == FOLDER:
        options["folder"] = name
    table = source.load()(**options)
    if not isinstance(table, ImageTable):
        raise ValueError(f"data set {name!r} ({source.value}) returned {type(table).__name__}: expected an ImageTable")
    return table


def module_of(name: str) -> str:
    """Return the module that loads a data set, without importing it."""
    return _source(name).module


def _source(name: str) -> EntryPoint:
    """Return where the loader of a data set lies; ours come first, then other packages', then folders."""
    if name in DATASETS:
        return EntryPoint(name, DATASETS[name], ENTRY_POINTS)
    if installed := entry_points(group=ENTRY_POINTS, name=name):
        return next(iter(installed))
    if Path(name).is_dir():
        return EntryPoint(name, FOLDER, ENTRY_POINTS)
    raise ValueError(
        f"unknown data set {name!r}: give the path of a folder with a labels.csv, or {choices(name, names())}"
    )
