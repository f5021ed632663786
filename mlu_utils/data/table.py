"""One data structure for every data set: images and a label table, one row an image, one column a label.

Shapes used throughout the library: N images, C = 3 channels, H x W pixels, K labels. Nothing here reads a
file or moves data to a device.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch

from mlu_utils.naming import choices

SPLITS = ("train", "validation", "test", "unseen")

# The paper's names for two CelebA attributes.
LABEL_ALIASES = {"Gender": "Male", "Young_Old": "Young"}


@dataclass(frozen=True)
class ImageTable:
    """Images with their label table, identities and splits.

    Args:
        images: uint8 (N, 3, H, W), in memory or a read-only memory map.
        labels: multi-label: float32 (N, K) with values 0, 1 or nan (unknown); single-label: int64 (N, 1).
        label_names: K column names.
        identity: int64 (N,), the person in each image, -1 where unknown.
        split: int8 (N,), index into `SPLITS`.
        source: where the data came from, with every option that changes it.
        class_names: single-label only, names of the classes 0 .. len - 1.
        class_positions: ordered classes only, where each lies on their axis, such as the middle of an age group.

    Raises:
        ValueError: a shape, dtype or value breaks the description above.
    """

    images: torch.Tensor
    labels: torch.Tensor
    label_names: tuple[str, ...]
    identity: torch.Tensor
    split: torch.Tensor
    source: str
    class_names: tuple[str, ...] = field(default=())
    class_positions: tuple[float, ...] = field(default=())

    def __post_init__(self) -> None:
        n = self.images.shape[0]
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or self.images.shape[1] != 3:
            raise ValueError(f"images must be uint8 (N, 3, H, W), got {self.images.dtype} {tuple(self.images.shape)}")
        if n == 0:
            raise ValueError("images must hold at least one image, got 0")
        if self.labels.shape != (n, len(self.label_names)):
            raise ValueError(
                f"labels must be ({n}, {len(self.label_names)}) for {n} images and {len(self.label_names)} "
                f"label names, got {tuple(self.labels.shape)}"
            )
        if len(set(self.label_names)) != len(self.label_names):
            raise ValueError(f"label_names must be distinct, got {self.label_names}")
        if self.class_positions and len(self.class_positions) != len(self.class_names):
            raise ValueError(
                f"class_positions must be one per class, got {len(self.class_positions)} for {len(self.class_names)}"
            )
        if self.class_names:
            if self.labels.dtype != torch.int64 or self.labels.shape[1] != 1:
                raise ValueError(
                    "a single-label table needs int64 labels (N, 1), "
                    f"got {self.labels.dtype} {tuple(self.labels.shape)}"
                )
            low, high = int(self.labels.min()), int(self.labels.max())
            if low < 0 or high >= len(self.class_names):
                raise ValueError(f"classes must be 0..{len(self.class_names) - 1}, got {low}..{high}")
        else:
            if self.labels.dtype != torch.float32:
                raise ValueError(f"multi-label labels must be float32, got {self.labels.dtype}")
            known = self.labels[~self.labels.isnan()]
            strange = known[(known != 0) & (known != 1)]
            if len(strange):
                raise ValueError(f"labels must be 0, 1 or nan (unknown), got {float(strange[0])}")
        for name, value in (("identity", self.identity), ("split", self.split)):
            if value.shape != (n,):
                raise ValueError(f"{name} must be ({n},), got {tuple(value.shape)}")
        if int(self.split.min()) < 0 or int(self.split.max()) >= len(SPLITS):
            raise ValueError(f"split must index {SPLITS}, got {int(self.split.min())}..{int(self.split.max())}")

    @property
    def num_images(self) -> int:
        """Number of images N."""
        return self.images.shape[0]

    @property
    def num_labels(self) -> int:
        """Number of label columns K (1 for single-label data)."""
        return self.labels.shape[1]

    @property
    def is_multi_label(self) -> bool:
        """Whether the columns are independent binary labels rather than one class."""
        return not self.class_names

    @property
    def num_outputs(self) -> int:
        """Number of logits a model for this table has: K labels, or the number of classes."""
        return self.num_labels if self.is_multi_label else len(self.class_names)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Name of each logit."""
        return self.label_names if self.is_multi_label else self.class_names

    @cached_property
    def sha256(self) -> str:
        """Digest of images, labels, identities, splits and names: equal digests mean equal data."""
        digest = hashlib.sha256()
        for tensor in (self.images, self.labels, self.identity, self.split):
            digest.update(str((tensor.dtype, tuple(tensor.shape))).encode())
            digest.update(np.ascontiguousarray(tensor.numpy()).data)
        digest.update(repr((self.label_names, self.class_names)).encode())
        return digest.hexdigest()

    def rows(self, split: str) -> torch.Tensor:
        """Return the rows of one split, int64 and ascending.

        Raises:
            ValueError: no such split.
        """
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}: {choices(split, SPLITS)}")
        return torch.nonzero(self.split == SPLITS.index(split)).flatten()

    def label_index(self, name: str) -> int:
        """Return the column of a label; the paper's names Gender and Young_Old are accepted.

        Raises:
            ValueError: unknown label; the message lists the known ones and the nearest.
        """
        known = name if name in self.label_names else LABEL_ALIASES.get(name, name)
        return name_index(known, self.label_names, "label")

    def class_index(self, name: str) -> int:
        """Return the index of a class by its name.

        Raises:
            ValueError: multi-label table, or unknown class.
        """
        if self.is_multi_label:
            raise ValueError(f"{self.source} has labels, not classes: ask for label:{self.label_names[0]}")
        return name_index(name, self.class_names, "class")

    def with_split(self, split: torch.Tensor) -> ImageTable:
        """Return the same data under another split."""
        return replace(self, split=split)


def name_index(name: str, known: tuple[str, ...], what: str) -> int:
    """Return the position of `name` in `known`, or say what is known and which name is nearest.

    Raises:
        ValueError: `name` is not in `known`.
    """
    if name in known:
        return known.index(name)
    raise ValueError(f"unknown {what} {name!r}: {choices(name, known)}")
