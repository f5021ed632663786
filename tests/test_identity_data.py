"""MUFAC and CelebA-HQ: lists and images in the format on disk, and every fault by file and line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import notebooks
from mlu_utils import data, paths
from mlu_utils.data import celebahq, mufac
from mlu_utils.data.splits import SPLITS
from mlu_utils.requests import ForgetRequest
from mlu_utils.studies import Profile

PEOPLE = {"train": ("F0001", "F0002"), "val": ("F0801",), "test": ("F0851",)}


def picture(file: Path, seed: int, size: int = 16) -> None:
    """Write a smooth random picture: unlike noise it survives JPEG and resizing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    low = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(low).resize((size, size), Image.Resampling.BICUBIC).save(file, quality=95)


def mufac_archive(folder: Path, *, dialect: str = "families", num_photos: int = 4) -> Path:
    """Write some photographs of each person: the third is the first again."""
    seed = 0
    for part, families in PEOPLE.items():
        lines = []
        for family in families:
            for person in "DM":
                for k in range(num_photos):
                    name = f"{family}_AGE_{person}_{k}_a1.jpg"
                    picture(folder / f"{part}_images" / name, seed + (0 if k == 2 else k))
                    age = "abcdefgh"[(seed + k) % 8]
                    row = f"{family}, {person}, {age}, {name}"
                    lines.append(row if dialect == "families" else f"{name},{age},{family}_{person},0")
                seed += 10
        header = "family_id, person_id, age_class, image_path"
        header = header if dialect == "families" else "image_path,age_group,identity,forget_flag"
        (folder / f"custom_{part}_dataset.csv").write_text("\n".join([header, *lines]) + "\n")
    return folder


def hq_archive(folder: Path, *, numbers: tuple[int, ...] = (3, 3, 200, 1300, 5000, 6000)) -> Path:
    names = ("Bald", "Male", "Smiling", "Young")
    lines = [f"{i}.jpg  {' '.join('1' if (i >> k) & 1 else '-1' for k in range(4))}" for i in range(len(numbers))]
    folder.mkdir(exist_ok=True)
    (folder / "CelebA-HQ-attribute.txt").write_text("\n".join([str(len(numbers)), " ".join(names), *lines]) + "\n")
    identities = [f"{i}.jpg {number}" for i, number in enumerate(numbers)]
    (folder / "CelebA-HQ-identity.txt").write_text("\n".join(identities) + "\n")
    for i in range(len(numbers)):
        picture(folder / "CelebA-HQ-img" / f"{i}.jpg", i)
    return folder


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize("dialect", ["families", "identities"])
def test_mufac_in_both_dialects(tmp_path, dialect):
    table = data.load("mufac", folder=mufac_archive(tmp_path, dialect=dialect), size=16)
    assert table.images.shape == (32, 3, 16, 16) and not table.is_multi_label and len(table.class_names) == 8
    # What the archive calls val is the test set, what it calls test are the unseen images.
    assert [len(table.rows(name)) for name in SPLITS] == [16, 0, 8, 8]
    assert len(table.identity.unique()) == 8 and (table.identity.bincount() == 4).all()
    assert table.labels[:5, 0].tolist() == [0, 1, 2, 3, 2]
    assert mufac.forgotten_rows(table) == list(range(16))  # the first 1,500 of the training list, here all of it
    first = np.asarray(Image.open(tmp_path / "train_images" / "F0001_AGE_D_0_a1.jpg")).transpose(2, 0, 1)
    assert (table.images[0].numpy() == first).all()


def test_duplicates_are_counted_and_left_out(tmp_path):
    mufac_archive(tmp_path)
    # A photograph of the training set turns up among the unseen ones.
    copy = (tmp_path / "train_images" / "F0002_AGE_M_1_a1.jpg").read_bytes()
    (tmp_path / "test_images" / "F0851_AGE_D_1_a1.jpg").write_bytes(copy)
    table = data.load("mufac", folder=tmp_path, size=16)
    assert mufac.duplicates(table) == {
        ("train", "train"): 4,
        ("train", "unseen"): 1,
        ("test", "test"): 2,
        ("unseen", "unseen"): 2,
    }
    cleaned = data.load("mufac", folder=tmp_path, size=16, is_cleaned=True)
    assert mufac.duplicates(cleaned) == {}
    assert [len(cleaned.rows(name)) for name in ("train", "test", "unseen")] == [11, 6, 6]


MUFAC_FAULTS = [
    (
        "a letter",
        "F0001, D, a,",
        "F0001, D, k,",
        r"train_dataset.csv line 2: age_class is 'k', expected a letter from a",
    ),
    (
        "a row short",
        "F0001, D, b, F0001_AGE_D_1_a1.jpg",
        "F0001, D, b",
        "train_dataset.csv line 3: expected 4 values, got 3",
    ),
    (
        "a row twice",
        "F0001_AGE_D_1_a1",
        "F0001_AGE_D_0_a1",
        "line 3: image 'F0001_AGE_D_0_a1.jpg' is already on line 2",
    ),
    (
        "a header",
        "age_class",
        "age",
        r"line 1: expected a column age_class or age_group, got 'family_id,person_id,age,",
    ),
    ("a person", "person_id", "person", "line 1: expected image_path, age_class or age_group and a person, got"),
]


@pytest.mark.parametrize(
    ("old", "new", "message"), [fault[1:] for fault in MUFAC_FAULTS], ids=[f[0] for f in MUFAC_FAULTS]
)
def test_faults_of_mufacs_lists(tmp_path, old, new, message):
    edit(mufac_archive(tmp_path) / "custom_train_dataset.csv", old, new)
    with pytest.raises(ValueError, match=message):
        data.load("mufac", folder=tmp_path, size=16)


def test_faults_of_mufacs_files(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"raw/mufac does not exist: unpack .*zip there .*terms hold.*synthages"
    ):
        data.load("mufac")
    folder = mufac_archive(tmp_path)
    image = folder / "val_images" / "F0801_AGE_D_1_a1.jpg"
    image.write_bytes(image.read_bytes()[:300])
    with pytest.raises(ValueError, match="custom_val_dataset.csv line 3: image .* is corrupt or truncated"):
        data.load("mufac", folder=folder, size=16)
    image.unlink()
    with pytest.raises(FileNotFoundError, match="custom_val_dataset.csv line 3: image .* is missing"):
        data.load("mufac", folder=folder, size=16)
    (folder / "custom_test_dataset.csv").unlink()
    picture(image, 1)
    with pytest.raises(FileNotFoundError, match="custom_test_dataset.csv is missing: expected custom_"):
        data.load("mufac", folder=folder, size=16)


def test_celebahq_as_mucac_splits_it(tmp_path):
    table = data.load("celebahq", folder=hq_archive(tmp_path), size=16)
    assert table.label_names == ("Male", "Smiling", "Young") and table.is_multi_label
    assert table.split.tolist() == [
        SPLITS.index(name) for name in ("test", "test", "train", "train", "unseen", "unseen")
    ]
    assert table.labels.tolist() == [[(i >> k) & 1 for k in (1, 2, 3)] for i in range(6)]
    people = celebahq.forgotten_people(table.identity)
    assert people == [200] and int(ForgetRequest("people", ids=tuple(people)).mask(table).sum()) == 3
    some = data.load("celebahq", folder=tmp_path, size=16, labels=["Bald"])
    assert some.label_names == ("Bald",) and some.labels[:, 0].tolist() == [0, 1, 0, 1, 0, 1]
    (tmp_path / "CelebA-HQ-img" / "4.jpg").unlink()
    fewer = data.load("celebahq", folder=tmp_path, size=16)
    assert fewer.num_images == 5 and fewer.source.endswith("5 of 6 images)")
    with pytest.raises(ValueError, match=r"labels must be some of Bald, Male, Smiling, Young, got \['Gender'\]"):
        data.load("celebahq", folder=tmp_path, labels=["Gender"])


HQ_FAULTS = [
    ("attribute", "6\n", "7\n", r"attribute.txt line 1: '7' images are announced and 6 are listed"),
    (
        "attribute",
        "2.jpg  -1 1 -1 -1",
        "2.jpg  -1 1 -1",
        "attribute.txt line 5: expected 4 values after the name, got 3",
    ),
    ("attribute", "2.jpg  -1", "2.jpg  0", "attribute.txt line 5: Bald is '0', expected 1 or -1"),
    ("attribute", "2.jpg", "1.jpg", "attribute.txt line 5: image 1.jpg is already on line 4"),
    ("attribute", "2.jpg", "9.jpg", "2 images stand in one of CelebA-HQ-attribute.txt and .* only, such as 2.jpg"),
    (
        "identity",
        "2.jpg 200",
        "2.jpg 6217",
        r"identity.txt line 3: expected an image and a number of 0..6216, got '2.jpg 6217'",
    ),
    ("identity", "2.jpg 200", "2.jpg", "identity.txt line 3: expected an image and a number"),
    ("identity", "2.jpg", "1.jpg", "identity.txt line 3: image 1.jpg has a person already"),
]


@pytest.mark.parametrize(("which", "old", "new", "message"), HQ_FAULTS)
def test_faults_of_celebahqs_lists(tmp_path, which, old, new, message):
    edit(hq_archive(tmp_path) / f"CelebA-HQ-{which}.txt", old, new)
    with pytest.raises(ValueError, match=message):
        data.load("celebahq", folder=tmp_path, size=16)


def test_celebahq_under_the_other_name_and_with_odd_blanks(tmp_path):
    file = hq_archive(tmp_path) / "CelebA-HQ-attribute.txt"
    text = file.read_text().replace("  ", "\t ").replace("\n", " \r\n") + "\n\n"
    (tmp_path / "CelebAMask-HQ-attribute-anno.txt").write_bytes(text.encode())
    file.unlink()
    assert data.load("celebahq", folder=tmp_path, size=16).num_images == 6
    (tmp_path / "CelebAMask-HQ-attribute-anno.txt").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"attribute.txt is missing: expected CelebA-HQ-img/0.jpg .*--dataset synthf"
    ):
        data.load("celebahq", folder=tmp_path)


@pytest.mark.skipif(
    not (celebahq.FOLDER / celebahq.IDENTITY_FILE).is_file(), reason="the lists are not in data/raw/celebahq"
)
def test_the_real_lists_give_every_count_of_the_benchmark():
    lists = celebahq.read_lists(celebahq.FOLDER)
    assert (len(lists.images), len(lists.identity.unique()), len(lists.label_names)) == (30_000, 6_217, 40)
    columns = [lists.label_names.index(name) for name in celebahq.BENCHMARK_LABELS]
    parts = celebahq.IDENTITIES | {"forget": celebahq.FORGOTTEN, "retain": (1250, 4854)}
    expected = {
        "test": (190, 2065, [0.176, 0.445, 0.827]),
        "train": (4665, 25933, [0.372, 0.467, 0.777]),
        "unseen": (1362, 2002, [0.525, 0.532, 0.760]),
        "forget": (1060, 10183, [0.262, 0.511, 0.814]),
        "retain": (3605, 15750, [0.443, 0.438, 0.752]),
    }
    for name, (first, last) in parts.items():
        chosen = (lists.identity >= first) & (lists.identity <= last)
        people, images, shares = expected[name]
        assert (len(lists.identity[chosen].unique()), int(chosen.sum())) == (people, images), name
        assert lists.labels[chosen][:, columns].mean(0).tolist() == pytest.approx(shares, abs=5e-4), name
    split = celebahq.split_of(lists.identity)
    assert torch.equal(split.long().bincount(), torch.tensor([25_933, 0, 2_065, 2_002]))


def test_synthages_with_people_shows_each_at_every_age():
    table = data.load("synthages", num_images=300, num_people=40, size=16)
    assert len(table.identity.unique()) == 40 and "num_people=40" in table.source
    for person in (0, 17, 39):
        own = table.labels[table.identity == person, 0]
        assert own.unique().tolist() == [0, 1, 2, 3, 4]
    people = [set(table.identity[table.rows(name)].tolist()) for name in ("train", "validation", "test")]
    assert sum(map(len, people)) == 40  # nobody is in two splits
    with pytest.raises(ValueError, match="num_people must be in 30..300"):
        data.load("synthages", num_images=300, num_people=5)


def identity_notebook(**values) -> dict:
    """Run the cells of notebook 08 with these parameters and return its variables."""
    page = notebooks.read_notebook(notebooks.committed("08_identity_unlearning"))
    variables: dict = {"__name__": "__main__"}
    for cell in notebooks.code_cells(page):
        exec("".join(cell["source"]), variables)
        if notebooks.PARAMETERS_TAG in cell["metadata"].get("tags", ()):
            variables |= values
    return variables


@pytest.mark.parametrize("name", ["mufac", "celebahq"])
def test_notebook_08_runs_on_an_archive_by_one_changed_line(name, tmp_path, monkeypatch):
    """With the archive at its place: its own people, its own splits and the benchmark's own request."""
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    attacks = pd.read_csv(paths.FIGURES / "table_membership_people_and_images.csv")
    (tmp_path / "runs" / "smoke" / "figures").mkdir(parents=True)
    attacks.to_csv(tmp_path / "runs" / "smoke" / "figures" / "table_membership_people_and_images.csv", index=False)
    if name == "mufac":
        monkeypatch.setattr(mufac, "FOLDER", mufac_archive(tmp_path / name, num_photos=10))
        monkeypatch.setattr(mufac, "NUM_FORGOTTEN", 20)
    else:
        people = [10] * 6 + list(range(200, 212)) + list(range(1300, 1312)) + list(range(5000, 5012))
        monkeypatch.setattr(celebahq, "FOLDER", hq_archive(tmp_path / name, numbers=tuple(people)))
    small = Profile.load("smoke").content["notebooks"]["08_identity_unlearning"]
    found = identity_notebook(**small, profile="smoke", change={"dataset": name, "image_size": 16})
    scores, task = found["scores"], found["tasks"]["attributes"]
    own = scores[scores.task == "attributes"]
    assert task.table.source.startswith(name) and len(own) == 2 + len(found["plan"])
    assert len(task.table.rows("unseen")) >= 12 and own.mia_accuracy.between(0, 1).all()
    wanted = mufac.forgotten_rows(task.table) if name == "mufac" else list(range(6, 18))
    assert task.mask.any(1).nonzero().flatten().tolist() == wanted
