"""Your own images: a folder with `labels.csv` and the image files that it names; errors name file and line."""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from mlu_utils.data.splits import stratified_split
from mlu_utils.data.table import ImageTable

_VALUES = {"0": 0.0, "1": 1.0, "-1": 0.0, "": float("nan"), "nan": float("nan")}


class Annotations(NamedTuple):
    """What an annotation file says: N image names, K label names, labels (N, K), identity (N,)."""

    images: list[str]
    label_names: tuple[str, ...]
    labels: torch.Tensor  # float32, nan = unknown
    identity: torch.Tensor  # int64, -1 = unknown

    def table(self, images: np.ndarray, *, identity: torch.Tensor | None = None, seed: int, source: str) -> ImageTable:
        """Return these labels with their images, uint8 (N, 3, H, W), split 65/25/10 by image."""
        split = stratified_split(self.labels, seed=seed, label_names=self.label_names)
        identity = self.identity if identity is None else identity
        return ImageTable(torch.from_numpy(images), self.labels, self.label_names, identity, split, source)


def load(*, folder: str | Path, size: int = 64, seed: int = 42) -> ImageTable:
    """Return the images of a folder, resized to `size` x `size`, split 65/25/10 by image."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"folder {folder} does not exist: expected images and a labels.csv in it")
    listed = read_label_csv(folder / "labels.csv")
    images = np.empty((len(listed.images), 3, size, size), np.uint8)
    for row, name in enumerate(tqdm(listed.images, desc=f"reading {folder.name}", disable=None)):
        picture = read_image(folder / name).convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
        images[row] = np.asarray(picture).transpose(2, 0, 1)
    return listed.table(images, seed=seed, source=f"folder({folder.name}, size={size}, seed={seed})")


def read_label_csv(file: Path) -> Annotations:
    """Read `image,<label>,<label>...` with paths below the folder and values 1, 0 (or -1), empty = unknown.

    A column named `identity` holds the number of the person and is no label.
    """
    if not file.is_file():
        raise FileNotFoundError(f"annotation file {file} is missing: expected a CSV with header image,<label>,...")
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:  # spreadsheets begin with a byte order mark
            header, *lines = [[cell.strip() for cell in line] for line in csv.reader(stream)] or [[]]
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text ({error}): save it as UTF-8") from error
    if len(header) < 2 or header[0] != "image":
        found = ",".join(header) if header else "an empty file"
        raise ValueError(f"{file} line 1: the header must be image,<label>,..., got {found!r}")
    if len(set(header)) < len(header):
        raise ValueError(f"{file} line 1: a column is named twice in {','.join(header)!r}: rename one")
    if header[1:] == ["identity"]:
        raise ValueError(f"{file} line 1: there is no label beside image and identity")
    if not lines:
        raise ValueError(f"{file}: no image is listed below the header")
    images, labels, identity = {}, [], []
    for number, line in enumerate(lines, start=2):
        where = f"{file} line {number}"
        if len(line) != len(header):
            raise ValueError(f"{where}: expected {len(header)} values, got {len(line)}")
        if line[0] in images:
            raise ValueError(f"{where}: image {line[0]!r} is already on line {images[line[0]]}")
        images[line[0]] = number
        values = dict(zip(header[1:], line[1:], strict=True))
        person = values.pop("identity", None)
        if person is not None and not (person.isdecimal() and len(person) <= 18):  # fits int64
            raise ValueError(f"{where}: identity is {person!r}, expected a whole number")
        identity.append(-1 if person is None else int(person))
        for name, text in values.items():
            if text not in _VALUES:
                raise ValueError(f"{where}: {name} is {text!r}, expected 1, 0, -1 or nothing (unknown)")
        labels.append([_VALUES[text] for text in values.values()])
    label_names = tuple(name for name in header[1:] if name != "identity")
    return Annotations(list(images), label_names, torch.tensor(labels, dtype=torch.float32), torch.tensor(identity))


def read_image(file: Path, *, expected_size: tuple[int, int] | None = None) -> Image.Image:
    """Return a fully decoded image, of `expected_size` (width, height) in pixels where a format prescribes one."""
    if not file.is_file():
        raise FileNotFoundError(f"image {file} is missing: it is listed in the annotations")
    try:
        with Image.open(file) as image:
            image.load()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"image {file} is corrupt or truncated ({error}): replace the file") from error
    if expected_size and image.size != expected_size:
        raise ValueError(f"image {file} is {image.size} px, expected {expected_size} (width, height)")
    return image
