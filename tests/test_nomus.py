"""NoMUS: parity with the benchmark's own notebooks and with the printed tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from conftest import golden
from hypothesis import given
from hypothesis import strategies as st

from mlu_utils import paths
from mlu_utils.scoring.nomus import attack_null, balanced_attack, benchmark_attack, matched_rows, nomus

INPUTS, OUTPUTS = golden("mufac_mia_nomus")
CASES = list(zip(INPUTS["cases"], OUTPUTS["mia"], strict=True))
PRINTED = pd.read_csv(paths.REFERENCE / "benchmark_mufac_mucac.csv")


@pytest.mark.parametrize(("given", "expected"), CASES, ids=[given["name"] for given, _ in CASES])
def test_attack_is_the_notebooks(given, expected):
    losses, wanted = (np.array(given[f"{side}_losses"]) for side in ("forget", "unseen")), expected["float64"]
    found = benchmark_attack(*losses)
    assert found["mia_accuracy"] == pytest.approx(wanted["MIA"], abs=1e-9)
    assert found["forgetting_score"] == pytest.approx(wanted["forgetting_score"], abs=1e-9)
    assert found["mia_sd"] == pytest.approx(np.std(wanted["split_accuracies"]), abs=1e-9)
    assert (found["num_members"], found["num_nonmembers"]) == (wanted["n_members"], wanted["n_non_members"])


def test_score_is_the_notebooks():
    parts, expected = INPUTS["score_parts"], OUTPUTS["nomus"]
    assert [nomus(part["acc"], part["mia"]) for part in parts] == pytest.approx(expected, abs=1e-12)


def test_every_printed_score_follows_from_its_printed_parts():
    cells = PRINTED.pivot_table(index=["dataset", "task", "method"], columns="metric", values="value", sort=False)
    found = [nomus(accuracy, 0.5 + f) for accuracy, f in zip(cells["Test Acc"], cells["MIA"], strict=True)]
    assert len(found) == 45
    assert np.abs(np.array(found) - cells["NoMUS"]).max() <= 0.00011  # half a digit of each part


def test_halves_of_one_set_cannot_be_told_apart():
    null = attack_null(np.random.default_rng(0).exponential(size=400))
    assert abs(null["mia_null"] - 0.5) < 0.05 and 0 < null["mia_null_sd"] < 0.1


def test_a_shift_of_difficulty_alone_is_called_membership():
    """Nobody was trained on either side: the attack's .5 holds for exchangeable sets only."""
    draw = np.random.default_rng(0)
    assert benchmark_attack(draw.exponential(size=400), 3 * draw.exponential(size=400))["mia_accuracy"] > 0.6


def test_the_larger_side_alone_is_called_membership():
    """The published attack scores the share of the larger side where losses say nothing; equal sides score a half."""
    forget, unseen = np.split(np.random.default_rng(0).exponential(size=240), [60])
    assert benchmark_attack(forget, unseen)["mia_accuracy"] == pytest.approx(0.75, abs=0.01)
    assert balanced_attack(forget, unseen)["mia_accuracy"] == pytest.approx(0.5, abs=0.06)
    found = benchmark_attack(forget, 3 + forget)["mia_accuracy"]
    assert balanced_attack(forget, 3 + forget)["mia_accuracy"] == pytest.approx(found, abs=0.05)


@given(
    st.lists(st.tuples(*[st.sampled_from([0.0, 1.0, np.nan])] * 2), min_size=1, max_size=12),
    st.lists(st.tuples(*[st.sampled_from([0.0, 1.0, np.nan])] * 2), min_size=1, max_size=12),
)
def test_matched_rows_are_as_many_pairs_of_equal_labels_as_there_are(a, b):
    first, second = matched_rows(a, b)
    assert len(set(first)) == len(first) == len(second) == len(set(second))
    np.testing.assert_array_equal(np.array(a)[first], np.array(b)[second])
    left_a, left_b = ({repr(x[i]) for i in set(range(len(x))) - set(rows)} for x, rows in ((a, first), (b, second)))
    assert not left_a & left_b


def test_an_attack_on_matched_pairs_cannot_live_on_labels():
    """Label 1 is hard to call and is common among the people to forget: nothing was learned of anybody."""
    draw = np.random.default_rng(0)
    labels = [(draw.random((400, 1)) < share).astype(float) for share in (0.8, 0.2)]
    losses = [draw.exponential(size=400) * (1 + 9 * own[:, 0]) for own in labels]
    rows = matched_rows(*labels)
    assert benchmark_attack(*losses)["mia_accuracy"] > 0.65
    assert benchmark_attack(*(own[i] for own, i in zip(losses, rows, strict=True)))["mia_accuracy"] < 0.57


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="9 losses to forget and 20 unseen: the attack needs 10"):
        benchmark_attack(np.ones(9), np.ones(20))
    with pytest.raises(ValueError, match="accuracy must be in"):
        nomus(59.5, 0.7)
