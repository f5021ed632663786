"""A task: a model, a label table and what must be forgotten. Every method takes one and nothing else about its work."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from itertools import chain, repeat

import torch
from torch import nn

from mlu_utils.data.batches import Batches
from mlu_utils.data.table import ImageTable
from mlu_utils.devices import FP32, Precision
from mlu_utils.models import copy_of
from mlu_utils.requests import ForgetRequest, entry_losses, mean_over, retain_loss
from mlu_utils.training import device_of, rows_with_entries

Pair = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Batch:
    """Images with their part of the label table and of the mask, on the model's device."""

    images: torch.Tensor  # float32 (B, 3, H, W), normalised
    labels: torch.Tensor  # (B, K) as in the table
    mask: torch.Tensor  # bool (B, K), True = forget
    rows: torch.Tensor  # int64 (B,)
    precision: Precision

    def logits(self, model: nn.Module) -> torch.Tensor:
        """Return the model's logits (B, num_outputs), computed in the number format of this task."""
        with self.precision.autocast(self.images.device):
            return model(self.images)

    def retain_loss(self, model: nn.Module) -> torch.Tensor:
        """Return the model's loss on the entries to keep."""
        return retain_loss(self.logits(model), self.labels, self.mask)


@dataclass(eq=False)
class Task:
    """What a method is asked to do: make this model forget these entries of this table, which must know them."""

    model: nn.Module  # the original, on the device to work on; no method changes it
    table: ImageTable  # methods look at its train split, unless they say otherwise
    request: ForgetRequest | str
    _: KW_ONLY
    seed: int  # of everything that a method draws at random
    precision: Precision = FP32  # number format of forward and backward passes

    def __post_init__(self) -> None:
        # Calibration looks at the model as it predicts; a model in train mode is copied and left in that mode.
        if any(m.training for m in self.model.modules()):
            self.model = copy_of(self.model)
        if isinstance(self.request, str):
            self.request = ForgetRequest.parse(self.request)
        self.mask = self.request.mask(self.table)  # bool (N, K) on the CPU, True = forget this entry
        train = self.table.rows("train")
        # Training images with a known entry to forget, and those with one to keep, int64.
        self.forget_rows = rows_with_entries(self.table, train, ~self.mask)
        self.retain_rows = rows_with_entries(self.table, train, self.mask)

    @property
    def device(self) -> torch.device:
        """The device that the model lies on."""
        return device_of(self.model)

    def start(self) -> nn.Module:
        """Return a copy of the model to train, its weights laid out in memory as the number format likes them."""
        return copy_of(self.model).to(memory_format=self.precision.memory_format)

    def batches(self, batch_size: int) -> TaskBatches:
        """Return passes over the images to forget and to keep, in a random order that starts from the task's seed."""
        return TaskBatches(self, batch_size)


class Passes:
    """Rows of a task's table in batches; every iteration is a pass, in a new random order if there is a seed."""

    def __init__(self, task: Task, rows: torch.Tensor, batch_size: int, *, seed: int | None = None) -> None:
        self._precision, self._mask = task.precision, task.mask.to(task.device)
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        options = {"device": task.device, "memory_format": task.precision.memory_format}
        self._batches = Batches(task.table, rows, batch_size=batch_size, generator=generator, **options)

    def __iter__(self) -> Iterator[Batch]:
        for images, labels, rows in self._batches:
            yield Batch(images, labels, self._mask[rows], rows, self._precision)


class TaskBatches:
    """Passes over the two sides of a task, each in a new order."""

    def __init__(self, task: Task, batch_size: int) -> None:
        self._is_one_side = torch.equal(task.forget_rows, task.retain_rows)
        self._forget = Passes(task, task.forget_rows, batch_size, seed=task.seed)
        self._retain = Passes(task, task.retain_rows, batch_size, seed=task.seed + 1)

    def forget(self, num_epochs: int = 1) -> Iterator[Batch]:
        """Return passes over the images to forget."""
        return chain.from_iterable(repeat(self._forget, num_epochs))

    def retain(self, num_epochs: int = 1) -> Iterator[Batch]:
        """Return passes over the images with something to keep."""
        return chain.from_iterable(repeat(self._retain, num_epochs))

    def pairs(self, num_epochs: int = 1) -> Iterator[tuple[Batch, Batch]]:
        """Return passes over the images to keep, each batch with one to forget, which start over when used up.

        Where both are the same images a pair is one batch twice, so that one forward pass can serve both.
        """
        if self._is_one_side:
            return ((batch, batch) for batch in self.retain(num_epochs))
        return zip(self.retain(num_epochs), chain.from_iterable(repeat(self._forget)), strict=False)


@contextlib.contextmanager
def without_weight_gradients(model: nn.Module) -> Iterator[None]:
    """Run a block in which autograd forms no gradient of the model's weights."""
    flags = [(p, p.requires_grad) for p in model.parameters()]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for p, flag in flags:
            p.requires_grad_(flag)


def both_logits(model: nn.Module, retain: Batch, forget: Batch) -> Pair:
    """Return the logits of a pair of batches; one forward pass where they are the same."""
    of_retain = retain.logits(model)
    return of_retain, of_retain if forget is retain else forget.logits(model)


def ascent_loss(
    logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor, *, is_bounded: bool = True
) -> torch.Tensor:
    """Return the mean loss over the known entries to forget, for climbing, see `requests.forget_loss`.

    Bounded, an entry's loss counts up to that of a model that says nothing, log 2 for a binary label and log C for C
    classes, and has no gradient beyond: logits may still end just beyond 0 in the wrong order, so look at the AUC too.
    Unbounded, climbing turns a binary label round: it is predicted wrongly with certainty and can be read backwards.
    """
    losses, known = entry_losses(logits, labels)
    if is_bounded:
        losses = losses.clamp_max(math.log(2 if labels.dtype != torch.int64 else logits.shape[1]))
    return mean_over(losses, known & mask)
