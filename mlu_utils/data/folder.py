"""Your own images: a folder with `labels.csv` and the image files that it names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from mlu_utils.data.annotations import read_image, read_label_csv
from mlu_utils.data.splits import stratified_split
from mlu_utils.data.table import ImageTable


def load(*, folder: str | Path, size: int = 64, seed: int = 42) -> ImageTable:
    """Return the images of a folder, resized to `size` x `size`, split 65/25/10.

    `labels.csv` has the header `image,<label>,...` and optionally a column `identity` (whole numbers); values are 1, 0
    (or -1), empty = unknown; `image` is a path below the folder. An error about a line or image names file and line.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"folder {folder} does not exist: expected images and a labels.csv in it")
    listed = read_label_csv(folder / "labels.csv")
    images = np.empty((len(listed.images), 3, size, size), np.uint8)
    for row, name in enumerate(tqdm(listed.images, desc=f"reading {folder.name}", disable=None)):
        picture = read_image(folder / name).convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
        images[row] = np.asarray(picture).transpose(2, 0, 1)
    return ImageTable(
        images=torch.from_numpy(images),
        labels=listed.labels,
        label_names=listed.label_names,
        identity=listed.identity,
        split=stratified_split(listed.labels, seed=seed, label_names=listed.label_names),
        source=f"folder({folder.name}, size={size}, seed={seed})",
    )
