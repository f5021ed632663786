"""MUFAC: faces of Korean families with eight age groups, for forgetting people; read from disk as distributed.

The benchmark's names mislead: `custom_val_dataset.csv` is its test set and `custom_test_dataset.csv` its unseen set,
the non-members of the membership attack. Source: Choi and Na (2023), Towards Machine Unlearning Benchmarks.
"""

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.fft import dctn
from tqdm import tqdm

from mlu_utils import paths
from mlu_utils.data.folder import read_image
from mlu_utils.data.splits import SPLITS
from mlu_utils.data.table import ImageTable

FOLDER = paths.DATA / "raw" / "mufac"
AGE_GROUPS = ("0-6", "7-12", "13-19", "20-30", "31-45", "46-55", "56-66", "67-80")
MIDDLES = (3.0, 9.5, 16.0, 25.0, 38.0, 50.5, 61.0, 73.5)  # years
PARTS = {"train": "train", "val": "test", "test": "unseen"}  # part of the archive -> our split
NUM_FORGOTTEN = 1_500  # the benchmark forgets the first so many rows of its training list
# How the two public versions of the archive call age and person.
_AGE, _PERSON = ("age_class", "age_group"), (("family_id", "person_id"), ("identity",))


def load(*, folder: str | Path | None = None, size: int = 128, is_cleaned: bool = False) -> ImageTable:
    """Return the images, `size` x `size` px, with the age group as one ordered column of eight classes.

    Args:
        folder: the unpacked archive; default: `data/raw/mufac`.
        is_cleaned: leave out all but the first image of each perceptual hash (`duplicates`), in the order unseen, test,
            train, so that no image of the training set has a copy that counts as unseen.

    Raises:
        FileNotFoundError: the archive or a listed image is missing; the message says where the archive can be had.
        ValueError: a list or an image that breaks the format; the message names file and line.
    """
    folder = FOLDER if folder is None else Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} does not exist: unpack custom_korean_family_dataset_resolution_128.zip there (link in the README"
            " of github.com/ndb796/MachineUnlearning; the photographs are AI Hub's Family Relationship data, and its "
            "terms hold), or run the same on embedded faces with --dataset synthages"
        )
    images, labels, people, split = [], [], [], []
    for part, name in PARTS.items():
        file = folder / f"custom_{part}_dataset.csv"
        for number, (image, age, person) in enumerate(tqdm(_rows(file), desc=f"reading {part}", disable=None), start=2):
            try:
                picture = read_image(folder / f"{part}_images" / image)
            except (FileNotFoundError, ValueError) as error:
                raise type(error)(f"{file} line {number}: {error}") from error
            resized = picture.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
            images.append(np.asarray(resized).transpose(2, 0, 1))
            labels.append([age])
            people.append(person)
            split.append(SPLITS.index(name))
    names, numbers = np.unique(people, return_inverse=True)
    table = ImageTable(
        images=torch.from_numpy(np.stack(images)),
        labels=torch.tensor(labels),
        label_names=("age group",),
        identity=torch.from_numpy(numbers).long(),
        split=torch.tensor(split, dtype=torch.int8),
        source=f"mufac(size={size}, is_cleaned={is_cleaned})",
        class_names=AGE_GROUPS,
        class_positions=MIDDLES,
    )
    return _cleaned(table) if is_cleaned else table


def forgotten_rows(table: ImageTable) -> list[int]:
    """Return the rows that the benchmark forgets, for `ForgetRequest("images", ids=...)`: first of its training list.

    The cut after 1,500 rows follows no person, so one family may lie on both sides.
    """
    return table.rows("train")[:NUM_FORGOTTEN].tolist()


def perceptual_hashes(table: ImageTable) -> np.ndarray:
    """Return 64 bits of each image, uint64 (N,): which of its 8 x 8 lowest frequencies lie above their median.

    The frequencies are those of a grey copy of 32 x 32 px, as in the usual pHash.
    """
    hashes = []
    for image in table.images:
        grey = Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L").resize((32, 32), Image.Resampling.LANCZOS)
        low = dctn(np.asarray(grey, dtype=np.float64))[:8, :8]
        hashes.append(np.packbits(low > np.median(low)).view(np.uint64)[0])
    return np.array(hashes)


def duplicates(table: ImageTable) -> dict[tuple[str, str], int]:
    """Return how many pairs of images have one hash, by their splits: ("train", "unseen") -> count.

    Source: Spartalis et al. (2025), LoTUS, who found 54 such pairs and 4,575 within the training set.
    """
    hashes, split = perceptual_hashes(table), table.split.numpy()
    counts = {}
    for i, first in enumerate(SPLITS):
        for j, second in enumerate(SPLITS[i:], start=i):
            (a, of_a), (b, of_b) = (np.unique(hashes[split == s], return_counts=True) for s in (i, j))
            _, at, bt = np.intersect1d(a, b, assume_unique=True, return_indices=True)
            pairs = of_a[at] * of_b[bt] if i != j else of_a * (of_a - 1) // 2
            counts[first, second] = int(pairs.sum())
    return {splits: count for splits, count in counts.items() if count}


def _cleaned(table: ImageTable) -> ImageTable:
    """Return the table without the later images of each hash."""
    hashes, seen, kept = perceptual_hashes(table), set(), []
    for name in ("unseen", "test", "validation", "train"):
        for row in table.rows(name).tolist():
            if hashes[row] not in seen:
                seen.add(hashes[row])
                kept.append(row)
    rows = torch.tensor(sorted(kept))
    parts = {name: getattr(table, name)[rows] for name in ("images", "labels", "identity", "split")}
    return replace(table, **parts)


def _rows(file: Path) -> list[tuple[str, int, str]]:
    """Return image, age group 0..7 and person of each line of a list, of either dialect."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: expected custom_{{train,val,test}}_dataset.csv in the folder")
    with file.open(newline="", encoding="utf-8-sig") as stream:
        header, *lines = [[cell.strip() for cell in line] for line in csv.reader(stream)] or [[]]
    age = _column(file, header, _AGE)
    persons = next((names for names in _PERSON if set(names) <= set(header)), None)
    if "image_path" not in header or persons is None:
        found = ",".join(header)
        raise ValueError(f"{file} line 1: expected image_path, {' or '.join(_AGE)} and a person, got {found!r}")
    found, first = [], {}
    for number, line in enumerate(lines, start=2):
        if len(line) != len(header):
            raise ValueError(f"{file} line {number}: expected {len(header)} values, got {len(line)}")
        values = dict(zip(header, line, strict=True))
        image, letter = values["image_path"], values[age]
        if image in first:
            raise ValueError(f"{file} line {number}: image {image!r} is already on line {first[image]}")
        first[image] = number
        if letter not in "abcdefgh" or len(letter) != 1:
            raise ValueError(f"{file} line {number}: {age} is {letter!r}, expected a letter from a (0-6) to h (67-80)")
        found.append((image, "abcdefgh".index(letter), "_".join(values[name] for name in persons)))
    if not found:
        raise ValueError(f"{file}: no image is listed below the header")
    return found


def _column(file: Path, header: list[str], names: Sequence[str]) -> str:
    for name in names:
        if name in header:
            return name
    raise ValueError(f"{file} line 1: expected a column {' or '.join(names)}, got {','.join(header)!r}")
