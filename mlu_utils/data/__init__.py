"""Data sets: `load(name)` returns an `ImageTable`; one module a source, imported when it is asked for.

Another installed package adds a data set, a callable(**options) that returns an `ImageTable`, as an entry point of the
group `mlu_utils.datasets`; in its pyproject.toml: [project.entry-points."mlu_utils.datasets"] mine = "my_package:load".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from mlu_utils.naming import choices

if TYPE_CHECKING:  # names of data sets are known without an import of torch
    from mlu_utils.data.table import ImageTable

ENTRY_POINTS = "mlu_utils.datasets"
FOLDER = "mlu_utils.data.folder:load"  # of whatever names a folder with a labels.csv

__all__ = ["DATASETS", "LABEL_ALIASES", "SPLITS", "ImageTable", "load", "module_of"]


class _Sources(Mapping):
    """Name -> "module:function", of our data sets first, then of those of other installed packages."""

    _own = {name: f"mlu_utils.data.{name}:load" for name in ("orl", "synthfaces", "digits", "synthages")}

    def __getitem__(self, name: str) -> str:
        return self._own[name] if name in self._own else entry_points(group=ENTRY_POINTS)[name].value

    def __iter__(self) -> Iterator[str]:
        return iter((*self._own, *sorted(entry_points(group=ENTRY_POINTS).names - self._own.keys())))

    def __len__(self) -> int:
        return len(list(iter(self)))


DATASETS: Mapping[str, str] = _Sources()


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
    if name in DATASETS:
        return EntryPoint(name, DATASETS[name], ENTRY_POINTS)
    if Path(name).is_dir():
        return EntryPoint(name, FOLDER, ENTRY_POINTS)
    raise ValueError(
        f"unknown data set {name!r}: give the path of a folder with a labels.csv, or {choices(name, DATASETS)}"
    )


def __getattr__(name: str) -> object:
    if name in ("ImageTable", "LABEL_ALIASES", "SPLITS"):  # they need torch
        from mlu_utils.data import table

        return getattr(table, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
