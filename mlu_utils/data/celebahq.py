"""CelebA-HQ with identities, as MUCAC uses it: 40 attributes of 6,217 people, split by identity number; read from disk.

Identities are numbered by first appearance, so low numbers are people with many photographs: the benchmark's splits are
not exchangeable (forget 9.6 images a person and 26 % men, unseen 1.5 and 53 %), and an attack that tells them apart may
have found that and no memory. Source: Choi and Na (2023), Towards Machine Unlearning Benchmarks; labels of Lee et
al. (2020), CelebAMask-HQ.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from mlu_utils import paths
from mlu_utils.data.folder import read_image
from mlu_utils.data.splits import SPLITS
from mlu_utils.data.table import ImageTable

FOLDER = paths.DATA / "raw" / "celebahq"
NUM_IMAGES, NUM_PEOPLE = 30_000, 6_217
BENCHMARK_LABELS = ("Male", "Smiling", "Young")  # the order of the benchmark's head
ATTRIBUTE_FILES = ("CelebA-HQ-attribute.txt", "CelebAMask-HQ-attribute-anno.txt")  # the same layout under two names
IDENTITY_FILE, IMAGES = "CelebA-HQ-identity.txt", "CelebA-HQ-img"
# First and last identity of each part, as the benchmark cuts them; forgotten people are the first of the training set.
IDENTITIES = {"test": (0, 189), "train": (190, 4854), "unseen": (4855, NUM_PEOPLE - 1)}
FORGOTTEN = (190, 1249)


class Lists(NamedTuple):
    """The two lists, one row an image, in the order of the attribute file."""

    images: list[str]
    label_names: tuple[str, ...]
    labels: torch.Tensor  # float32 (N, K) in {0, 1}
    identity: torch.Tensor  # int64 (N,)


def load(
    *, folder: str | Path | None = None, size: int = 128, labels: tuple[str, ...] | list[str] = BENCHMARK_LABELS
) -> ImageTable:
    """Return the images, `size` x `size` px, with these attributes, split by identity as in MUCAC.

    Args:
        folder: of the lists and of `CelebA-HQ-img/`; default: `data/raw/celebahq`. Where listed images are missing (one
            public archive lacks 100) the rest is read, and `source` says how many.
        labels: attributes, in the order of the model's outputs.

    Raises:
        FileNotFoundError: a list or all images are missing; the message says where they can be had.
        ValueError: a line or an image that breaks the format; the message names file and line.
    """
    folder = FOLDER if folder is None else Path(folder)
    listed = read_lists(folder)
    unknown = [name for name in labels if name not in listed.label_names]
    if unknown or not labels:
        raise ValueError(f"labels must be some of {', '.join(listed.label_names)}, got {list(labels)}")
    rows = [row for row, name in enumerate(listed.images) if (folder / IMAGES / name).is_file()]
    if not rows:
        raise FileNotFoundError(f"{folder / IMAGES} holds none of the {len(listed.images)} listed images: {_ADVICE}")
    images = np.empty((len(rows), 3, size, size), np.uint8)
    for place, row in enumerate(tqdm(rows, desc="reading CelebA-HQ", disable=None)):
        picture = read_image(folder / IMAGES / listed.images[row]).convert("RGB")
        images[place] = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    columns = [listed.label_names.index(name) for name in labels]
    return ImageTable(
        images=torch.from_numpy(images),
        labels=listed.labels[rows][:, columns],
        label_names=tuple(labels),
        identity=listed.identity[rows],
        split=split_of(listed.identity[rows]),
        source=f"celebahq(size={size}, labels={'+'.join(labels)}, {len(rows)} of {len(listed.images)} images)",
    )


def split_of(identity: torch.Tensor) -> torch.Tensor:
    """Return the benchmark's split of each person, int8 (N,), an index into `SPLITS`."""
    split = torch.full(identity.shape, -1, dtype=torch.int8)
    for name, (first, last) in IDENTITIES.items():
        split[(identity >= first) & (identity <= last)] = SPLITS.index(name)
    return split


def forgotten_people(identity: torch.Tensor) -> list[int]:
    """Return the people whom the benchmark forgets, for `ForgetRequest("people", ids=...)`."""
    first, last = FORGOTTEN
    return sorted(set(identity[(identity >= first) & (identity <= last)].tolist()))


def read_lists(folder: Path) -> Lists:
    """Read attributes and identities, and hold them against each other.

    Raises:
        FileNotFoundError: a list is missing.
        ValueError: a wrong count line, a line of another length, a value other than 1 and -1, an image named twice, or
            one that stands in one list only.
    """
    file = next((folder / name for name in ATTRIBUTE_FILES if (folder / name).is_file()), folder / ATTRIBUTE_FILES[0])
    count, header, *lines = _lines(file)
    if len(count) != 1 or not count[0].isdecimal() or int(count[0]) != len(lines):
        raise ValueError(f"{file} line 1: {' '.join(count)!r} images are announced and {len(lines)} are listed")
    images: dict[str, int] = {}
    values = np.empty((len(lines), len(header)), np.float32)
    for number, (name, *row) in enumerate(lines, start=3):
        if len(row) != len(header):
            raise ValueError(f"{file} line {number}: expected {len(header)} values after the name, got {len(row)}")
        if name in images:
            raise ValueError(f"{file} line {number}: image {name} is already on line {images[name]}")
        if wrong := [text for text in row if text not in ("1", "-1")]:
            raise ValueError(f"{file} line {number}: {header[row.index(wrong[0])]} is {wrong[0]!r}, expected 1 or -1")
        images[name] = number
        values[number - 3] = [text == "1" for text in row]
    identity_file, people = folder / IDENTITY_FILE, {}
    for number, line in enumerate(_lines(identity_file), start=1):
        if len(line) != 2 or not line[1].isdecimal() or int(line[1]) >= NUM_PEOPLE:
            found = " ".join(line)
            raise ValueError(
                f"{identity_file} line {number}: expected an image and a number of 0..{NUM_PEOPLE - 1}, got {found!r}"
            )
        if line[0] in people:
            raise ValueError(f"{identity_file} line {number}: image {line[0]} has a person already")
        people[line[0]] = int(line[1])
    if alone := sorted(images.keys() ^ people.keys()):
        raise ValueError(
            f"{len(alone)} images stand in one of {file.name} and {IDENTITY_FILE} only, such as {alone[0]}"
        )
    identity = torch.tensor([people[name] for name in images])
    return Lists(list(images), tuple(header), torch.from_numpy(values), identity)


def _lines(file: Path) -> list[list[str]]:
    """Return the words of each line that has any: names and values may lie any number of blanks apart."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: {_ADVICE}")
    return [line.split() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]


_ADVICE = (
    f"expected {IMAGES}/0.jpg .. {NUM_IMAGES - 1}.jpg, {IDENTITY_FILE} and {ATTRIBUTE_FILES[0]} there (images and "
    "attributes: github.com/switchablenorms/CelebAMask-HQ; identities: the CelebA team, by request; non-commercial "
    "research, no redistribution), or run the same on embedded faces with --dataset synthfaces"
)
