"""The attack of Label-Agnostic Forgetting: parity with its authors' code."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import golden

from mlu_utils.scoring.softmax_attack import softmax_attack, sorted_probabilities

INPUTS, OUTPUTS = golden("laf_attack")


def logits_of(formula: dict, n: int | None = None) -> np.ndarray:
    """Row i, column k of 0..9: a sin(b (i + 1) (k + 1)) + c cos(0.9 i + 2.1 k)."""
    i, k = np.arange(n or formula["n"])[:, None], np.arange(10)[None]
    return formula["a"] * np.sin(formula["b"] * (i + 1) * (k + 1)) + formula["c"] * np.cos(0.9 * i + 2.1 * k)


def test_features_are_the_published_ones():
    small = INPUTS["small_logits"]
    found = np.concatenate([sorted_probabilities(small[name]) for name in ("sample", "test")])
    assert np.abs(found - np.array(OUTPUTS["small_features"])).max() < 1e-9
    assert OUTPUTS["small_labels"] == 12 * [1] + 14 * [0]


@pytest.mark.parametrize("number", [0, 1])
def test_attack_is_the_published_one(number):
    given, expected = INPUTS["large"], OUTPUTS["large"][number]
    found = softmax_attack(*(logits_of(given[name]) for name in ("sample", "test")), logits_of(given["forget"][number]))
    assert found["num_learned"] == expected["attack_train_members"] == expected["attack_train_non_members"]
    assert (found["num_forget"], found["num_strangers"]) == (expected["n_forget"], expected["attack_eval_non_members"])
    assert found["all_members"] == pytest.approx(expected["accuracy_of_constant_member"], abs=1e-9)
    assert found["no_members"] == pytest.approx(expected["accuracy_of_constant_non_member"], abs=1e-9)
    assert found["accuracy"] == pytest.approx(expected["xgboost_accuracy"], abs=0.02)


def test_with_nothing_to_find_it_scores_as_a_coin():
    draw = np.random.default_rng(0).normal(size=(3, 2_000, 10))
    found = softmax_attack(draw[0], draw[1], draw[2][:500], most_rows=1_000)
    assert abs(found["auc"] - 0.5) < 0.06 and abs(found["accuracy"] - 0.5) < 0.06
    with pytest.raises(ValueError, match="2000 test images and most_rows 5000: none is left to ask about"):
        softmax_attack(draw[0], draw[1], draw[2])
