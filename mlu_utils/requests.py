"""A deletion request is a mask over the label table; forget and retain loss follow from the mask.

`mask[n, k]` True = the model must forget label k of image n. Shapes: B images in a batch, N in the table, K label
columns (1 for single-label data), C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from mlu_utils.data.table import ImageTable
from mlu_utils.devices import at_least_float32
from mlu_utils.naming import REQUEST_KINDS as KINDS

_FORMS = (
    "label:Male, class:3, people:1,2, images:4,5, label:Male,Young, partial:Eyeglasses@1,2 (that label of these people)"
    " or partial:Eyeglasses@images:4,5 (of these images)"
)


@dataclass(frozen=True)
class ForgetRequest:
    """What must be forgotten; a kind that is unknown, or lacks its name or numbers, is refused with a ValueError.

    >>> ForgetRequest.parse("partial:Eyeglasses@1,2")
    ForgetRequest(kind='partial', name='Eyeglasses', ids=(1, 2))
    >>> str(ForgetRequest("label", "Male"))
    'label:Male'
    >>> ForgetRequest.parse("label:Male,Young").names
    ('Male', 'Young')
    """

    kind: str  # one of `KINDS`
    name: str = ""  # the label (label, partial), several with commas between, or the class (class)
    ids: tuple[int, ...] = ()  # identities (people, partial) or rows of the table (images, partial of images)
    is_of_images: bool = False  # partial: the numbers are rows of the table

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown request kind {self.kind!r}: write {_FORMS}")
        if self.kind in ("label", "class", "partial") and not self.name:
            raise ValueError(f"a {self.kind} request needs a name: write {_FORMS}")
        if self.kind in ("people", "images", "partial") and not self.ids:
            raise ValueError(f"a {self.kind} request needs at least one number: write {_FORMS}")
        if not all(self.names) or len(set(self.names)) < len(self.names):
            raise ValueError(f"the labels of {self} must be distinct and none empty: write {_FORMS}")

    @property
    def names(self) -> tuple[str, ...]:
        """The labels, or the class, that the request names."""
        parts = self.name.split(",") if self.kind in ("label", "partial") else [self.name]
        return tuple(part.strip() for part in parts) if self.name else ()

    @classmethod
    def parse(cls, text: str) -> ForgetRequest:
        """Read the written form of a request, which `str(request)` writes."""
        kind, _, rest = text.partition(":")
        name, numbers = rest, ""
        if kind == "partial" and "@" in rest:
            name, _, numbers = rest.rpartition("@")
        elif kind in ("people", "images"):
            name, numbers = "", rest
        is_of_images = kind == "partial" and numbers.startswith("images:")
        numbers = numbers.removeprefix("images:") if is_of_images else numbers
        try:
            ids = tuple(int(number) for number in numbers.split(",")) if numbers else ()
        except ValueError:
            raise ValueError(f"cannot read the numbers of request {text!r}: write {_FORMS}") from None
        return cls(kind, name.strip(), ids, is_of_images)

    def __str__(self) -> str:
        """Return the written form, for example `partial:Eyeglasses@1,2`."""
        before = "" if self.kind != "partial" else "@images:" if self.is_of_images else "@"
        return f"{self.kind}:{self.name}{before}{','.join(map(str, self.ids))}"

    def mask(self, table: ImageTable) -> torch.Tensor:
        """Return bool (N, K), True = this entry must be forgotten.

        A table that has no such label, class, person or image is refused with a ValueError, and so is a request that
        leaves the train split with nothing to forget or nothing to keep.
        """
        mask = torch.zeros(table.labels.shape, dtype=torch.bool)
        if self.kind == "class":
            mask[table.labels[:, 0] == table.class_index(self.name)] = True
        elif self.kind == "images" or self.is_of_images:
            if min(self.ids) < 0 or max(self.ids) >= table.num_images:
                raise ValueError(f"request {self}: images are numbered 0..{table.num_images - 1}")
            mask[np.ix_(self.ids, self._columns(table))] = True
        elif self.kind == "label":
            if not table.is_multi_label:
                other = f"class:{table.class_names[0]}"
                raise ValueError(f"request {self}: {table.source} is single-label; ask for {other}")
            mask[:, self._columns(table)] = True
        else:
            known = table.identity[table.identity >= 0]
            if missing := sorted(set(self.ids) - set(known.tolist())):
                have = f"people {int(known.min())}..{int(known.max())}" if len(known) else "no identities"
                raise ValueError(f"request {self}: no images of {missing}; {table.source} has {have}")
            rows = torch.isin(table.identity, torch.tensor(self.ids)).nonzero().flatten()
            mask[np.ix_(rows, self._columns(table))] = True
        rows = table.rows("train")
        entries = mask[rows][~table.labels[rows].isnan()]
        if not entries.any():
            raise ValueError(f"request {self} forgets nothing: no known training entry of {table.source} matches")
        if entries.all():
            raise ValueError(f"request {self} forgets everything: no training entry of {table.source} is left")
        return mask

    def _columns(self, table: ImageTable) -> list[int]:
        """Return the columns of the labels that the request names, all for people and images."""
        return [table.label_index(name) for name in self.names] or list(range(table.labels.shape[1]))


def entry_losses(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss of each entry of the label table and which entries are known, both (B, K).

    Labels are float (B, K) in {0, 1, nan}: binary cross-entropy of logits (B, K); or int64 (B, 1): cross-entropy of
    logits (B, C).
    """
    logits = at_least_float32(logits)
    if labels.dtype == torch.int64:
        losses = F.cross_entropy(logits, labels[:, 0], reduction="none")[:, None]
        return losses, torch.ones_like(losses, dtype=torch.bool)
    known = ~labels.isnan()
    target = torch.where(known, labels, 0).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none"), known


def image_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return each image's mean loss over its known labels, (B,); nan where none is known."""
    losses, known = entry_losses(logits, labels)
    return (losses * known).sum(1) / known.sum(1)


def forget_loss(logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean loss over the known entries to forget (mask True); 0 where the batch has none."""
    losses, known = entry_losses(logits, labels)
    return mean_over(losses, known & mask)


def retain_loss(logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean loss over the known entries to keep (mask False); 0 where the batch has none."""
    return forget_loss(logits, labels, ~mask)


def mean_over(losses: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Return the mean of the entries where `chosen` is True, 0 where none is; same shape, bool or 0 and 1."""
    return (losses * chosen).sum() / chosen.sum().clamp_min(1)
