"""synthfaces: repeatable, published label statistics, every attribute visible, bad arguments refused."""

import dataclasses

import numpy as np
import pytest
import torch

from mlu_utils.data import synthfaces
from mlu_utils.data.synthfaces import (
    IDENTITY_FACTORS,
    LABEL_NAMES,
    NUISANCE_FACTORS,
    PHI,
    SHARES,
    draw_faces,
    load,
    sample_attributes,
)

SMALL = {"num_images": 240, "num_people": 80, "size": 32}


def phi_matrix(labels: torch.Tensor) -> np.ndarray:
    return np.corrcoef(labels.numpy().T)


def factors(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        2 * torch.rand(n, len(names), generator=generator) - 1 for names in (IDENTITY_FACTORS, NUISANCE_FACTORS)
    )


@pytest.fixture(scope="module")
def table():
    return load(**SMALL)


def test_same_seed_same_bytes_and_another_seed_another_table(table):
    assert load(**SMALL).sha256 == table.sha256
    other = load(**SMALL, seed=43)
    assert not torch.equal(other.images, table.images)
    assert not torch.equal(other.labels, table.labels)


def test_bytes_depend_neither_on_threads_nor_on_chunks(monkeypatch):
    labels, (identity, nuisance) = sample_attributes(20, seed=1), factors(20)
    whole = draw_faces(labels, identity, nuisance)
    monkeypatch.setattr(synthfaces, "PIXELS_PER_CHUNK", {"cpu": 3 * 64**2})
    num_threads = torch.get_num_threads()
    assert torch.equal(draw_faces(labels, identity, nuisance), whole)
    assert torch.get_num_threads() == num_threads


def test_painting_inside_windows_loses_nothing(monkeypatch):
    labels, (identity, nuisance) = sample_attributes(256, seed=1), factors(256)
    # Poses at the ends of their ranges, where a window that is too small would cut a feature off.
    identity, nuisance = identity.sign(), nuisance.sign()
    cut = draw_faces(labels, identity, nuisance)
    monkeypatch.setattr(synthfaces._Canvas, "window", lambda canvas, *box: dataclasses.replace(canvas))
    assert (draw_faces(labels, identity, nuisance).int() - cut.int()).abs().max() <= 1


def test_shares_and_correlations_are_those_of_celebahq():
    labels = sample_attributes(30_000, seed=1)
    assert set(labels.unique().tolist()) == {0.0, 1.0}
    np.testing.assert_allclose(labels.mean(0), list(SHARES.values()), atol=1e-4)
    measured, expected = phi_matrix(labels), np.eye(len(LABEL_NAMES))
    for (a, b), phi in PHI.items():
        i, j = LABEL_NAMES.index(a), LABEL_NAMES.index(b)
        expected[i, j] = expected[j, i] = phi
    assert len(PHI) == 27
    np.testing.assert_allclose(measured, expected, atol=0.05)


def test_correlation_strength_zero_is_independent_and_more_is_stronger():
    off_diagonal = ~np.eye(len(LABEL_NAMES), dtype=bool)
    absolute = [
        np.abs(phi_matrix(sample_attributes(30_000, correlation_strength=strength, seed=1))[off_diagonal])
        for strength in (0.0, 0.5, 1.0, 1.5)
    ]
    assert absolute[0].max() < 0.05
    means = [values.mean() for values in absolute]
    assert means == sorted(means)


def test_a_small_table_has_every_label_in_both_classes():
    for num_people in (2, 5, 12):
        assert ((counts := sample_attributes(num_people, seed=3).sum(0)) >= 1).all()
        assert (counts <= num_people - 1).all()


@pytest.mark.parametrize("label", LABEL_NAMES)
def test_flipping_one_attribute_alone_is_visible_on_every_face(label):
    labels, (identity, nuisance) = sample_attributes(40, seed=2), factors(40)
    column = LABEL_NAMES.index(label)
    without, with_it = labels.clone(), labels.clone()
    without[:, column], with_it[:, column] = 0, 1
    change = (draw_faces(with_it, identity, nuisance).int() - draw_faces(without, identity, nuisance).int()).abs()
    changed_pixels = (change.amax(1) > 12).flatten(1).sum(1)
    assert changed_pixels.min() >= 10, f"{label} changes {changed_pixels.min()} of 4096 pixels"
    assert changed_pixels.float().mean() < 0.9 * 64**2


def test_faces_of_a_person_share_attributes_but_not_pictures(table):
    for person in range(SMALL["num_people"]):
        rows = torch.nonzero(table.identity == person).flatten()
        assert len(rows) == 3
        assert (table.labels[rows] == table.labels[rows[0]]).all()
        assert not torch.equal(table.images[rows[0]], table.images[rows[1]])


def test_table_says_what_it_holds(table):
    assert table.images.shape == (240, 3, 32, 32)
    assert table.label_names == LABEL_NAMES
    assert len(table.rows("train")) == 156
    for text in (
        "num_images=240",
        "num_people=80",
        "size=32",
        "correlation_strength=1",
        "seed=42",
    ):
        assert text in table.source
    assert 60 < table.images.float().mean() < 200


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_images": 10, "num_people": 20}, "num_images must be a whole number from 20"),
        ({"num_people": 1}, "num_people must be a whole number from 2"),
        ({"num_people": 2.5}, "2.5"),
        ({"size": 8}, "size must be a whole number from 16 to 1024, got 8"),
        ({"correlation_strength": -0.1}, "correlation_strength must be a number from 0 to 1.5, got -0.1"),
        ({"correlation_strength": float("nan")}, "got nan"),
        ({"correlation_strength": "high"}, "'high'"),
        ({"seed": -1}, "seed must be a whole number from 0"),
    ],
)
def test_bad_arguments_are_refused_by_name(options, named):
    with pytest.raises(ValueError, match=named):
        load(**options)


def test_draw_faces_refuses_wrong_shapes_and_values():
    labels, (identity, nuisance) = sample_attributes(4, seed=1), factors(4)
    with pytest.raises(ValueError, match=r"labels must be \(4, 10\), got \(4, 9\)"):
        draw_faces(labels[:, 1:], identity, nuisance)
    with pytest.raises(ValueError, match=r"nuisance must be \(4, 21\), got \(3, 21\)"):
        draw_faces(labels, identity, nuisance[1:])
    with pytest.raises(ValueError, match=r"identity_factors must lie in \[-1, 1\]"):
        draw_faces(labels, 2 * identity.sign(), nuisance)
    with pytest.raises(ValueError, match="labels must lie in"):
        draw_faces(labels * torch.nan, identity, nuisance)
