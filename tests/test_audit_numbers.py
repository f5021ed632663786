"""The auditor's five numbers against plain counting."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlu_utils.scoring.audit import audit_numbers


def numbers(curves, **changes):
    rng = np.random.default_rng(0)
    labels = (rng.random((40, 3)) < 0.5).astype(float)
    logits = {"Retrain": rng.normal(size=(40, 3)), "WP": labels * 2 - 1 + rng.normal(size=(40, 3))}
    options = {
        "test_rows": np.arange(10, 30),
        "attacked_rows": np.arange(5, 35),
        "identity": np.arange(40) // 2,
        "feature_leaks": {"Retrain": 0.6, "WP": 0.7},
        "curves": curves,
        "seconds": {"Retrain": 9.0, "WP": 1.0},
        "seed": 0,
        **changes,
    }
    return labels, logits, audit_numbers(logits, labels, 1, **options)


CURVES = {
    "Original": ([0, 5, 10], [0.9, 0.9, 0.9]),
    "Retrain": ([0, 5, 10], [0.5, 0.6, 0.9]),
    "WP": ([0, 5, 10], [0.5, 0.6, 0.7]),
}


def test_numbers_are_those_of_plain_counting():
    labels, logits, found = numbers(CURVES)
    for model, own in logits.items():
        right = [(own[i, k] > 0) == labels[i, k] for i in range(10, 30) for k in (0, 2)]
        assert found[model]["retained_accuracy"] == pytest.approx(np.mean(right), abs=1e-6)
        pairs = [(own[i, 1], own[j, 1]) for i in range(5, 35) for j in range(5, 35) if labels[i, 1] > labels[j, 1]]
        auc = np.mean([a > b for a, b in pairs])
        assert found[model]["output_leak_auc"] == pytest.approx(max(auc, 1 - auc))
    assert [found[m]["feature_leak_auc"] for m in found] == [0.6, 0.7]
    assert [found[m]["unlearning_time_s"] for m in found] == [9.0, 1.0]


def test_unknown_labels_count_for_no_accuracy():
    labels, logits, _ = numbers(CURVES)
    labels[12, 0] = np.nan
    right = np.delete((logits["WP"] > 0) == (labels > 0), 1, axis=1)[10:30]
    known = ~np.isnan(np.delete(labels, 1, axis=1)[10:30])
    options = {"test_rows": np.arange(10, 30), "attacked_rows": np.arange(40), "identity": np.arange(40), "seed": 0}
    options |= {"feature_leaks": {"WP": 0.7}, "curves": CURVES, "seconds": {"WP": 1.0}}
    found = audit_numbers({"WP": logits["WP"]}, labels, 1, **options)
    assert found["WP"]["retained_accuracy"] == pytest.approx(right[known].mean(), abs=1e-6)


def test_steps_are_infinite_only_beside_a_reference_that_came_there():
    _, _, found = numbers(CURVES)
    assert [found[m]["relearning_steps"] for m in ("Retrain", "WP")] == [10, math.inf]
    never = CURVES | {"Retrain": ([0, 5, 10], [0.5, 0.5, 0.5])}
    _, _, found = numbers(never)
    assert [found[m]["relearning_steps"] for m in ("Retrain", "WP")] == [10, 10]
