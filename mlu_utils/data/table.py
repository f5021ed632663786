"""One data structure for every data set: images and a label table, one row an image, one column a label."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import ArrayLike

from mlu_utils.data.splits import SPLITS, stratified_split
from mlu_utils.naming import require_choice

LABEL_ALIASES = {"Gender": "Male", "Young_Old": "Young"}  # the paper's names for two CelebA attributes


@dataclass(frozen=True)
class ImageTable:
    """Images with their label table, identities and splits; data that break this description are refused.

    Args:
        images: uint8 (N, 3, H, W), in memory or a read-only memory map.
        labels: multi-label: float32 (N, K) with values 0, 1 or nan (unknown); single-label: int64 (N, 1).
        label_names: K column names.
        identity: int64 (N,), the person in each image, -1 where unknown.
        split: int8 (N,), index into `SPLITS`.
        source: where the data came from, with every option that changes it.
        class_names: single-label only, names of the classes 0 .. len - 1.
        class_positions: ordered classes only, where each lies on their axis, such as the middle of an age group.
    """

    images: torch.Tensor
    labels: torch.Tensor
    label_names: tuple[str, ...]
    identity: torch.Tensor
    split: torch.Tensor
    source: str
    class_names: tuple[str, ...] = ()
    class_positions: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        images, labels, n, k = self.images, self.labels, len(self.images), len(self.label_names)
        shape, found = tuple(labels.shape), f"got {images.dtype} {tuple(images.shape)}"
        is_rgb = images.dtype == torch.uint8 and images.ndim == 4 and images.shape[1] == 3
        _require(is_rgb, f"images must be uint8 (N, 3, H, W), {found}")
        _require(n > 0, "images must hold at least one image, got 0")
        _require(shape == (n, k), f"labels must be {(n, k)} for {n} images and {k} label names, got {shape}")
        _require(len(set(self.label_names)) == k, f"label_names must be distinct, got {self.label_names}")
        for name, value in (("identity", self.identity), ("split", self.split)):
            _require(value.shape == (n,), f"{name} must be ({n},), got {tuple(value.shape)}")
        _require_below(len(SPLITS), self.split, f"split must index {SPLITS}")
        classes, positions = len(self.class_names), len(self.class_positions)
        _require(positions in (0, classes), f"class_positions must be one per class, got {positions} for {classes}")
        if self.is_multi_label:
            _require(labels.dtype == torch.float32, f"multi-label labels must be float32, got {labels.dtype}")
            strange = labels[~(labels.isnan() | (labels == 0) | (labels == 1))].tolist()
            _require(not strange, f"labels must be 0, 1 or nan (unknown), got {strange and strange[0]}")
        else:
            is_one_column = labels.dtype == torch.int64 and k == 1
            _require(is_one_column, f"a single-label table needs int64 labels (N, 1), got {labels.dtype} {shape}")
            _require_below(classes, labels, f"classes must be 0..{classes - 1}")

    @classmethod
    def from_tensors(
        cls,
        images: ArrayLike | torch.Tensor,
        labels: ArrayLike | torch.Tensor,
        label_names: Sequence[str],
        *,
        identity: ArrayLike | torch.Tensor | None = None,
        split: ArrayLike | torch.Tensor | None = None,
        class_names: Sequence[str] = (),
        source: str = "tensors",
        seed: int = 0,
    ) -> ImageTable:
        """Return the table of your own tensors, arrays or lists; see the class.

        Args:
            images: (N, 3, H, W), or grey (N, 1, H, W); uint8, or real numbers in [0, 1].
            labels: (N, K), or (N,) for one label: 0, 1 or nan = unknown, of any type; with class names the classes.
            label_names, class_names, source: see the class.
            identity: whole numbers (N,); default: all unknown.
            split: (N,); default: `stratified_split` under the seed, images of a person together.

        >>> table = ImageTable.from_tensors(np.zeros((40, 1, 8, 8)), np.arange(40) % 2, ["odd"])
        >>> table.images.shape, [len(table.rows(name)) for name in SPLITS]
        (torch.Size([40, 3, 8, 8]), [26, 10, 4, 0])
        """
        images, labels = _tensor(images, "images"), _tensor(labels, "labels")
        found, is_picture = tuple(images.shape), images.ndim == 4 and images.shape[1] in (1, 3) and len(images) > 0
        _require(is_picture, f"images must be (N, 3, H, W) or (N, 1, H, W), got {found}: channels come before pixels")
        if images.dtype != torch.uint8:
            images = images.float()
            low, high = float(images.min()), float(images.max())  # nan if any pixel is
            _require(0 <= low and high <= 1, f"images must be uint8 or lie in [0, 1], got {low:g} to {high:g}")
            images = (images * 255).round().to(torch.uint8)
        labels = labels[:, None] if labels.ndim == 1 else labels
        labels = _whole(labels, "classes") if class_names else labels.float()
        names, unknown = tuple(label_names), torch.full((len(images),), -1)
        people = unknown if identity is None else _whole(_tensor(identity, "identity"), "identity")
        # Checked as a whole with everything in one split, before a split is dealt out.
        split_of = torch.zeros_like(unknown) if split is None else _whole(_tensor(split, "split"), "split")
        images = images.expand(-1, 3, -1, -1).contiguous()
        table = cls(images, labels, names, people, split_of.to(torch.int8), source, tuple(class_names))
        if split is None:
            people = None if identity is None else people
            table = table.with_split(stratified_split(labels, seed=seed, label_names=names, identity=people))
        return table

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
        return len(self.output_names)

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
        """Return the rows of one split, int64 and ascending; an unknown split is refused."""
        return torch.nonzero(self.split == name_index(split, SPLITS, "split")).flatten()

    def label_index(self, name: str) -> int:
        """Return the column of a label; the paper's names Gender and Young_Old are accepted."""
        known = name if name in self.label_names else LABEL_ALIASES.get(name, name)
        return name_index(known, self.label_names, "label")

    def class_index(self, name: str) -> int:
        """Return the index of a class by its name."""
        if self.is_multi_label:
            raise ValueError(f"{self.source} has labels, not classes: ask for label:{self.label_names[0]}")
        return name_index(name, self.class_names, "class")

    def with_split(self, split: torch.Tensor) -> ImageTable:
        """Return the same data under another split."""
        return replace(self, split=split)


def name_index(name: str, known: tuple[str, ...], what: str) -> int:
    """Return the position of `name` in `known`, or say what is known and which name is nearest."""
    require_choice(what, name, known)
    return known.index(name)


def _require(is_so: bool, message: str) -> None:
    if not is_so:
        raise ValueError(message)


def _require_below(limit: int, values: torch.Tensor, message: str) -> None:
    low, high = int(values.min()), int(values.max())
    _require(0 <= low and high < limit, f"{message}, got {low}..{high}")


def _tensor(values: ArrayLike | torch.Tensor, what: str) -> torch.Tensor:
    """Return numbers as a tensor on the CPU."""
    try:
        return torch.as_tensor(values if isinstance(values, torch.Tensor) else np.asarray(values)).detach().cpu()
    except TypeError as error:
        raise ValueError(f"{what} must be numbers: {error}") from error


def _whole(values: torch.Tensor, what: str) -> torch.Tensor:
    """Return whole numbers as int64."""
    _require(bool((values == values.to(torch.int64)).all()), f"{what} must be whole numbers, got {values.dtype}")
    return values.to(torch.int64)
