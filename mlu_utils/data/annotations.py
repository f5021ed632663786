"""Reading annotation files and images with errors that name the file and the line."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError

_VALUES = {"0": 0.0, "1": 1.0, "-1": 0.0, "": float("nan"), "nan": float("nan")}


@dataclass(frozen=True)
class Annotations:
    """What an annotation file says: N image names, K label names, labels (N, K), identity (N,)."""

    images: list[str]
    label_names: tuple[str, ...]
    labels: torch.Tensor  # float32, nan = unknown
    identity: torch.Tensor  # int64, -1 = unknown


def read_label_csv(file: Path) -> Annotations:
    """Read `image,<label>,<label>...` with values 1, 0 (or -1), empty = unknown.

    A column named `identity` holds the number of the person and is no label.

    Raises:
        FileNotFoundError: no such file.
        ValueError: wrong header, a line with missing or extra values, a strange value, an image named twice.
    """
    if not file.is_file():
        raise FileNotFoundError(f"annotation file {file} is missing: expected a CSV with header image,<label>,...")
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:  # spreadsheets begin with a byte order mark
            lines = [[cell.strip() for cell in line] for line in csv.reader(stream)]
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text ({error}): save it as UTF-8") from error
    if not lines or len(lines[0]) < 2 or lines[0][0] != "image":
        found = ",".join(lines[0]) if lines else "an empty file"
        raise ValueError(f"{file} line 1: the header must be image,<label>,..., got {found!r}")
    if lines[0][1:] == ["identity"]:
        raise ValueError(f"{file} line 1: there is no label beside image and identity")
    columns = lines[0][1:]
    label_names = tuple(name for name in columns if name != "identity")
    names, values, identity, seen = [], [], [], {}
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(lines[0]):
            raise ValueError(f"{file} line {number}: expected {len(lines[0])} values, got {len(line)}")
        if line[0] in seen:
            raise ValueError(f"{file} line {number}: image {line[0]!r} is already on line {seen[line[0]]}")
        seen[line[0]] = number
        row, person = [], -1
        for name, text in zip(columns, line[1:], strict=True):
            if name == "identity":
                if not (text.isdecimal() and len(text) <= 18):  # fits int64
                    raise ValueError(f"{file} line {number}: identity is {text!r}, expected a whole number")
                person = int(text)
            elif text in _VALUES:
                row.append(_VALUES[text])
            else:
                raise ValueError(f"{file} line {number}: {name} is {text!r}, expected 1, 0, -1 or nothing (unknown)")
        names.append(line[0])
        values.append(row)
        identity.append(person)
    if not names:
        raise ValueError(f"{file}: no image is listed below the header")
    return Annotations(names, label_names, torch.tensor(values, dtype=torch.float32), torch.tensor(identity))


def read_image(file: Path, *, expected_size: tuple[int, int] | None = None) -> Image.Image:
    """Return a fully decoded image.

    Args:
        file: image file.
        expected_size: (width, height) in pixels that the format prescribes.

    Raises:
        FileNotFoundError: no such file.
        ValueError: corrupt or truncated, or of another size.
    """
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
