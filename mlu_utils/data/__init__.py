"""Data sets: `load(name)` returns an `ImageTable`; one module a source, imported when it is asked for.

Another installed package adds a data set, a callable(**options) that returns an `ImageTable`, as an entry point of the
group `mlu_utils.datasets`; in its pyproject.toml: [project.entry-points."mlu_utils.datasets"] mine = "my_package:load".
"""

from __future__ import annotations

import pkgutil
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from mlu_utils.naming import choices

if TYPE_CHECKING:  # names of data sets are known without an import of torch
    from mlu_utils.data.table import ImageTable

ENTRY_POINTS = "mlu_utils.datasets"
FOLDER = "mlu_utils.data.folder:load"  # of whatever names a folder with a labels.csv
_TOOLS = {"batches", "folder", "scenarios", "splits", "table"}  # every other module here is a data set
_OURS = {
    module.name: EntryPoint(module.name, f"{__name__}.{module.name}:load", ENTRY_POINTS)
    for module in pkgutil.iter_modules(__path__)
    if module.name not in _TOOLS
}

__all__ = ["DATASETS", "LABEL_ALIASES", "SPLITS", "ImageTable", "load", "module_of"]


def _known() -> dict[str, EntryPoint]:
    """Return our data sets by name, then those of other installed packages."""
    return _OURS | {point.name: point for point in sorted(entry_points(group=ENTRY_POINTS)) if point.name not in _OURS}


def load(name: str, **options) -> ImageTable:
    """Return one of `DATASETS`, or your own images in the folder at that path, see `data.folder`.

    Options are those of its loader. Neither a data set nor a folder, or a loader that returns no `ImageTable`, is
    refused with a ValueError.
    """
    from mlu_utils.data.table import ImageTable

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
    if name in (known := _known()):
        return known[name]
    if Path(name).is_dir():
        return EntryPoint(name, FOLDER, ENTRY_POINTS)
    raise ValueError(
        f"unknown data set {name!r}: give the path of a folder with a labels.csv, or {choices(name, known)}"
    )


def __getattr__(name: str) -> object:
    if name == "DATASETS":  # packages come and go
        return _known()
    if name in ("ImageTable", "LABEL_ALIASES", "SPLITS"):  # they need torch
        from mlu_utils.data import table

        return getattr(table, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
