"""Digits: scikit-learn's 1,797 real handwritten digits, 8 x 8 px, for single-label requests.

Source: Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI; the test part.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits

from mlu_utils.data.splits import stratified_split
from mlu_utils.data.table import ImageTable


def load(*, seed: int = 42) -> ImageTable:
    """Return the digits as one column of ten classes, split 65/25/10 by the seed."""
    bunch = load_digits()
    grey = torch.from_numpy((bunch.images * (255 / 16)).round()).to(torch.uint8)  # stored as 0..16
    labels = torch.from_numpy(bunch.target).to(torch.int64)[:, None]
    return ImageTable(
        images=grey[:, None].expand(-1, 3, -1, -1).contiguous(),
        labels=labels,
        label_names=("digit",),
        identity=torch.full((len(grey),), -1),
        split=stratified_split(labels, seed=seed),
        source=f"digits(seed={seed})",
        class_names=tuple(str(digit) for digit in range(10)),
    )
