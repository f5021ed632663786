"""Digits: scikit-learn's 1,797 real handwritten digits, 8 x 8 px, for single-label requests.

Source: Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI; the test part.
"""

import numpy as np
from sklearn.datasets import load_digits

from mlu_utils.data.table import ImageTable


def load(*, seed: int = 42) -> ImageTable:
    """Return the digits as one column of ten classes, split 65/25/10 by the seed."""
    bunch = load_digits()
    grey = (bunch.images * (255 / 16)).round().astype(np.uint8)[:, None]  # stored as 0..16
    names, source = tuple("0123456789"), f"digits(seed={seed})"
    return ImageTable.from_tensors(grey, bunch.target, ["digit"], class_names=names, source=source, seed=seed)
