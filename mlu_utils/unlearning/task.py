"""Gradient steps over the images to forget and to keep: what the fine-tuning methods share.

A method says what it minimises; this module serves the batches, keeps BatchNorm in the mode asked for, and stops at
a loss that is not finite. Nothing here knows a method.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from mlu_utils.data.batches import Batches
from mlu_utils.data.table import ImageTable
from mlu_utils.requests import entry_losses, mean_over, retain_loss
from mlu_utils.devices import Precision
from mlu_utils.training import NonFiniteLossError, device_of, is_finite, rows_with_entries

BATCHNORM_MODES = ("train", "eval")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Batch:
    """Images with their part of the label table and of the mask, on the model's device."""

    images: torch.Tensor  # float32 (B, 3, H, W), normalised
    labels: torch.Tensor  # (B, K) as in the table
    mask: torch.Tensor  # bool (B, K), True = forget
    rows: torch.Tensor  # int64 (B,)
    precision: Precision

    def logits(self, model: nn.Module) -> torch.Tensor:
        """Return the model's logits (B, num_outputs), computed in the number format of this run."""
        with self.precision.autocast(self.images.device):
            return model(self.images)

    def retain_loss(self, model: nn.Module) -> torch.Tensor:
        """Return the model's loss on the entries to keep."""
        return retain_loss(self.logits(model), self.labels, self.mask)


class Sides:
    """The training images that a request wants forgotten, and those with something to keep.

    For a label request both are all images, for a class or a person they have none in common, for a partial request
    the first are among the second.

    Args:
        model: on the device where the batches shall lie.
        table: the data.
        mask: bool (N, K), entries to forget.
        batch_size: images a batch, of each side.
        seed: of the order of the images; each pass has a new one.
        precision: number format of the forward and backward pass.
        split: where the images come from.
    """

    def __init__(
        self,
        model: nn.Module,
        table: ImageTable,
        mask: torch.Tensor,
        *,
        batch_size: int,
        seed: int,
        precision: Precision,
        split: str = "train",
    ) -> None:
        rows = table.rows(split)
        self.forget_rows = rows_with_entries(table, rows, ~mask)
        self.retain_rows = rows_with_entries(table, rows, mask)
        self._is_one_side = torch.equal(self.forget_rows, self.retain_rows)
        self._precision = precision
        self.device = device_of(model)
        self._mask = mask.to(self.device)
        self._batches = [
            Batches(
                table,
                side,
                batch_size=batch_size,
                device=self.device,
                generator=torch.Generator().manual_seed(seed + number),
                memory_format=precision.memory_format,
            )
            for number, side in enumerate((self.forget_rows, self.retain_rows))
        ]

    def forget(self, num_epochs: int = 1) -> Iterator[Batch]:
        """Yield passes over the images to forget."""
        return self._passes(0, num_epochs)

    def retain(self, num_epochs: int = 1) -> Iterator[Batch]:
        """Yield passes over the images with something to keep."""
        return self._passes(1, num_epochs)

    def pairs(self, num_epochs: int = 1) -> Iterator[tuple[Batch, Batch]]:
        """Yield passes over the images to keep, each batch with one of images to forget, which start over when used up.

        Where both sides are the same images the pair is one batch twice, so that one forward pass can serve both.
        """
        if self._is_one_side:
            yield from ((batch, batch) for batch in self.retain(num_epochs))
            return
        forget = self._forever(0)
        for batch in self.retain(num_epochs):
            yield batch, next(forget)

    def _passes(self, side: int, num_epochs: int) -> Iterator[Batch]:
        for _ in range(num_epochs):
            for images, labels, rows in self._batches[side]:
                yield Batch(images, labels, self._mask[rows], rows, self._precision)

    def _forever(self, side: int) -> Iterator[Batch]:
        while True:  # a new order each time: itertools.cycle would repeat the first one and keep it in memory
            yield from self._passes(side, 1)


def both_logits(model: nn.Module, retain: Batch, forget: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits of a pair of batches; one forward pass where they are the same."""
    of_retain = retain.logits(model)
    return of_retain, of_retain if forget is retain else forget.logits(model)


def ascent_loss(
    logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor, *, is_bounded: bool = True
) -> torch.Tensor:
    """Return the mean loss over the known entries to forget, for climbing.

    Args:
        logits: (B, K) multi-label, (B, C) single-label.
        labels, mask: (B, K).
        is_bounded: an entry's loss counts up to that of a model that says nothing, log 2 for a binary label and
            log C for C classes, and has no gradient beyond. Unbounded, climbing turns a binary label round: it is
            predicted wrongly with certainty and can be read backwards. Bounded, the certainty goes, but logits may
            still end just beyond 0 in the wrong order: look at the AUC too.
    """
    losses, known = entry_losses(logits, labels)
    if is_bounded:
        losses = losses.clamp_max(math.log(2 if labels.dtype != torch.int64 else logits.shape[1]))
    return mean_over(losses, known & mask)


def descend(
    model: nn.Module,
    items: Iterable[Item],
    objective: Callable[[Item], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    *,
    batchnorm: str = "train",
    frozen: Iterable[nn.Module] = (),
    after_step: Callable[[], None] | None = None,
) -> list[float]:
    """Take one optimiser step per item on the objective and leave the model in eval mode.

    Args:
        model: changed in place.
        items: what the objective is computed on, usually batches.
        objective: item -> loss to minimise.
        optimizer: over the weights that may change.
        batchnorm: "train": batch statistics, and the running ones move; "eval": they stay.
        frozen: modules that stay in eval mode whatever `batchnorm` says.
        after_step: called after each step.

    Returns:
        The loss before each step.

    Raises:
        ValueError: unknown batchnorm mode, or a batch of one image that BatchNorm cannot normalise.
        NonFiniteLossError: a loss or a weight was not finite; the model must be thrown away.
    """
    if batchnorm not in BATCHNORM_MODES:
        raise ValueError(f"unknown batchnorm mode {batchnorm!r}: choose train or eval")
    model.train(batchnorm == "train")
    for module in frozen:
        module.eval()
    losses = []
    for item in items:
        try:
            loss = objective(item)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ValueError(
                "a batch of one image has no variance for BatchNorm in train mode: set batchnorm to eval, or forget "
                f"more images at once ({error})"
            ) from error
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if after_step is not None:
            after_step()
        losses.append(loss.detach())
    model.eval()
    optimizer.zero_grad(set_to_none=True)
    values = torch.stack(losses) if losses else torch.zeros(1)
    if not (values.isfinite().all() and is_finite(model)):
        rate, last = optimizer.param_groups[0]["lr"], float(values[-1])
        raise NonFiniteLossError(
            f"the {'weights were not finite' if math.isfinite(last) else f'loss became {last}'} after {len(losses)} "
            f"steps with learning_rate {rate}: try a smaller learning rate"
        )
    return values.tolist() if losses else []
