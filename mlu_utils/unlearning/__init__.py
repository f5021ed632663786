"""Unlearning methods, a file a family, and `unlearn`, which runs one and says what it cost.

Contract: `method(task, *, <explicit hyperparameters>)` returns a new module in eval mode and leaves the task's model
untouched; same task, same result; no printing, saving or scoring; ValueError for a hyperparameter out of range.
`task` is a `task.Task`. What methods have in common means the same in all of them: num_epochs, passes over the images
with something to keep; learning_rate, momentum, weight_decay and batch_size, of SGD; batchnorm, see `training.descend`.

A method of another package takes part by the entry point group `mlu_utils.methods`: a name and a `Method`.
"""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from mlu_utils.naming import REQUEST_KINDS, require_choice

if TYPE_CHECKING:  # names and kinds of methods are known without an import of torch
    from torch import nn

    from mlu_utils.data.table import ImageTable
    from mlu_utils.devices import Precision
    from mlu_utils.requests import ForgetRequest

ENTRY_POINTS = "mlu_utils.methods"
# Of WF and WP. printed: the rule as the pseudocode has it; targeted: the reading that forgets; trunk: the same with the
# last layer spared, which shows what is forgotten beyond `HeadReset`; random: the control, which changes as many
# weights in the same way but picks them blindly.
READINGS = ("printed", "targeted", "trunk", "random")


@dataclass(frozen=True)
class Method:
    """A method and what it can do."""

    path: str  # "module:function"; the module is imported when the method is first used
    display_name: str
    paper: str  # authors, year and title
    kinds: tuple[str, ...] = REQUEST_KINDS  # of requests that it takes
    readings: tuple[str, ...] = ("-",)  # the default is for a method that can be read in one way only

    @property
    def module(self) -> str:
        """Name of the module that holds the function."""
        return self.path.partition(":")[0]

    @cached_property
    def function(self) -> Callable[..., nn.Module]:
        """The method itself."""
        return getattr(importlib.import_module(self.module), self.path.partition(":")[2])

    @property
    def hyperparameters(self) -> dict:
        """Names and defaults of the keyword arguments."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


class _Methods(Mapping):
    """Our methods by name, then those of other installed packages, which are loaded when asked for."""

    def __init__(self, own: dict[str, Method]) -> None:
        self._own = own

    @cached_property
    def _all(self) -> dict[str, Method | EntryPoint]:
        others = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
        return self._own | others | self._own  # ours come first, and none of their names can be taken over

    def __getitem__(self, name: str) -> Method:
        method = self._all[name]
        if isinstance(method, EntryPoint):
            method = method.load()
        if not isinstance(method, Method):
            raise TypeError(f"entry point {name!r} of {ENTRY_POINTS} is {method!r}: expected an unlearning.Method")
        return method

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)


def _ours() -> dict[str, Method]:
    """Return the methods of `methods.yaml`."""
    rows = yaml.safe_load(Path(__file__).with_name("methods.yaml").read_text(encoding="utf-8"))
    return {
        name: Method(
            f"{__name__}.{row.pop('path')}", **{k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
        )
        for name, row in rows.items()
    }


METHODS: Mapping[str, Method] = _Methods(_ours())


def require_method(name: str) -> Method:
    """Return the method of this name, or raise a ValueError that lists the known ones and the nearest."""
    require_choice("method", name, METHODS)
    return METHODS[name]


def require_kind(name: str, kind: str) -> Method:
    """Return the method of this name, or raise a ValueError if it does not take this kind of request."""
    method = require_method(name)
    if kind not in method.kinds:
        raise ValueError(f"{name} has no form for {kind} requests: it takes {', '.join(method.kinds)}")
    return method


@dataclass(frozen=True)
class UnlearningRecord:
    """What one run of a method cost."""

    method: str
    request: str
    seed: int
    hyperparameters: dict
    unlearning_time_s: float
    peak_memory_mib: float  # of the process (CPU) or of the allocator (CUDA) up to the end of the run


def unlearn(
    name: str,
    model: nn.Module,
    table: ImageTable,
    request: ForgetRequest | str,
    *,
    seed: int = 0,
    precision: Precision | str = "fp32",
    head: str | None = None,
    **hyperparameters,
) -> tuple[nn.Module, UnlearningRecord]:
    """Run a method by name and return the unlearned model with a record of what it cost.

    Everything that the method needs is inside the measured time: calibration, scoring, selection, fine-tuning.

    Args:
        name: a name in `METHODS`.
        model: on the device to work on; not changed.
        table: the data, see `ImageTable.from_tensors` for your own.
        request: of a kind that the method takes, for example "label:Smiling", see `ForgetRequest.parse`.
        precision: number format, "fp32", "bf16" or "auto".
        head: name of the last Linear layer where it is not `fc`, such as "classifier.1".
        **hyperparameters: of the method, see `METHODS[name].hyperparameters`.

    Example:
        >>> from mlu_utils import data, models
        >>> table = data.load("digits")
        >>> unlearned, record = unlearn("HeadReset", models.build_model("small_cnn", 10, seed=0), table, "class:3")
        >>> record.request
        'class:3'
    """
    from mlu_utils.devices import now, peak_memory_mib, resolve_precision
    from mlu_utils.requests import ForgetRequest
    from mlu_utils.training import device_of
    from mlu_utils.unlearning.task import Task

    request = ForgetRequest.parse(request) if isinstance(request, str) else request
    method = require_kind(name, request.kind)
    unknown = set(hyperparameters) - set(method.hyperparameters)
    if unknown:
        known = ", ".join(method.hyperparameters) or "none"
        raise ValueError(f"{name} has no hyperparameter {', '.join(sorted(unknown))}: it takes {known}")
    device = device_of(model)
    if isinstance(precision, str):
        precision = resolve_precision(precision, device)
    if head is not None:
        model = copy.copy(model)  # the same weights under an object of our own, which may know its head's name
        model.head_name = head
    start = now(device)
    unlearned = method.function(Task(model, table, request, seed=seed, precision=precision), **hyperparameters)
    seconds = now(device) - start
    return unlearned, UnlearningRecord(name, str(request), seed, hyperparameters, seconds, peak_memory_mib(device))
