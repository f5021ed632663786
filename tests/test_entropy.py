"""Entropies against SciPy; Streisand numbers against closed forms; the modified entropy without its known errors."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, softmax
from sklearn import metrics

from mlu_utils.scoring.entropy import (
    class_entropy,
    label_entropy,
    log_entropy,
    modified_class_entropy,
    modified_label_entropy,
    streisand,
    streisand_table,
)

NAN = float("nan")


def test_entropies_agree_with_scipy_and_survive_extreme_logits():
    logits = np.random.default_rng(0).normal(size=(40, 5)) * 3
    expected = [[stats.bernoulli(p).entropy() for p in row] for row in expit(logits)]
    np.testing.assert_allclose(label_entropy(logits), expected, rtol=1e-9)
    np.testing.assert_allclose(class_entropy(logits), stats.entropy(softmax(logits, axis=1), axis=1), rtol=1e-9)
    # H = e^-z (z + 1) to first order: still exact where the probability rounds to 1.
    np.testing.assert_allclose(label_entropy([[50.0, -50.0]]), 51 * np.exp(-50), rtol=1e-12)
    assert np.isfinite(class_entropy([[1e4, -1e4, 0.0]])).all() and class_entropy([[0.0] * 8]) == pytest.approx(
        np.log(8)
    )


def test_log_entropy_is_clamped_and_refuses_what_is_no_entropy():
    np.testing.assert_allclose(log_entropy([0.0, 1e-20, 0.5]), [np.log(1e-12), np.log(1e-12), np.log(0.5)])
    with pytest.raises(ValueError, match="entropy -0.1 found"):
        log_entropy([-0.1])
    with pytest.raises(ValueError, match="1 of 1 entropies are nan"):
        log_entropy([NAN])


def test_modified_entropy_equals_plain_loops():
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(30, 4)), rng.integers(0, 4, 30)
    p = softmax(logits, axis=1)
    expected = [
        -(1 - p[i, y]) * np.log(p[i, y]) - sum(p[i, c] * np.log(1 - p[i, c]) for c in range(4) if c != y)
        for i, y in enumerate(labels)
    ]
    np.testing.assert_allclose(modified_class_entropy(logits, labels), expected, rtol=1e-9)
    # One label is the two-class case with logits (0, z); an image's value does not depend on the others' labels.
    binary = rng.integers(0, 2, 30)
    two = modified_class_entropy(np.stack([np.zeros(30), logits[:, 0]], axis=1), binary)
    np.testing.assert_allclose(modified_label_entropy(logits[:, :1], binary[:, None])[:, 0], two, rtol=1e-9)
    np.testing.assert_allclose(modified_class_entropy(logits[:1], labels[:1]), expected[:1], rtol=1e-9)
    sure_and_wrong = modified_class_entropy([[1000.0, 0.0]], [1])
    assert sure_and_wrong == pytest.approx(2000.0)  # -(1 - p_y) log p_y - p_other log(1 - p_other), 1000 each
    assert np.isnan(modified_label_entropy([[1.0]], [[NAN]])).all()


def test_streisand_agrees_with_scipy_and_sklearn():
    rng = np.random.default_rng(2)
    a, b = rng.exponential(1.0, 80), rng.exponential(1.4, 120)
    got = streisand(a, b, seed=0)
    test = stats.ks_2samp(a, b)
    assert (got["ks"], got["ks_p_value"]) == (test.statistic, test.pvalue)
    truth = np.arange(200) < 80
    assert got["auc"] == pytest.approx(metrics.roc_auc_score(truth, np.concatenate([a, b])), abs=1e-12)
    assert got["mean_entropy_gap"] == pytest.approx(a.mean() - b.mean())
    assert got["auc_low"] < got["auc"] < got["auc_high"]


@pytest.mark.parametrize(("shift", "auc"), [(-5.0, 0.0), (5.0, 1.0)])
def test_too_sure_gives_away_as_much_as_too_unsure(shift, auc):
    x = np.random.default_rng(3).uniform(size=50)
    got = streisand(x + 5 + shift, x + 5, seed=0)
    assert got["auc"] == auc and got["leak_auc"] == got["leak_auc_low"] == got["ks"] == 1.0


def test_equal_groups_give_nothing_away_and_order_does_not_matter():
    rng = np.random.default_rng(4)
    a, b = rng.exponential(size=300), rng.exponential(size=200)
    kept = a.copy()
    got = streisand(a, b, seed=0)
    assert got["auc_low"] < 0.5 < got["auc_high"] and got["ks_p_value"] > 0.01 and got["leak_auc_low"] == 0.5
    assert got == streisand(a[rng.permutation(300)], b[rng.permutation(200)], seed=0)
    np.testing.assert_array_equal(a, kept)
    same = streisand(a, a, seed=0)
    assert same["ks"] == same["mean_entropy_gap"] == 0.0 and same["auc"] == 0.5
    with pytest.raises(ValueError, match="1 of 300 entropies are nan"):
        streisand(np.where(np.arange(300) == 3, NAN, a), b, seed=0)
    with pytest.raises(ValueError, match=r"entropies \(0,\).*none empty"):
        streisand([], b, seed=0)


def test_table_has_a_number_for_each_panel():
    rng = np.random.default_rng(5)
    calm = {group: rng.uniform(0.2, 0.4, 60) for group in ("train", "test", "unseen")}
    loud = {"train": rng.uniform(0.6, 0.7, 60), "test": rng.uniform(0.2, 0.4, 60), "unseen": rng.uniform(0.2, 0.4, 60)}
    table = streisand_table({"Retrain": calm, "WP": loud}, seed=0, num_resamples=100)
    panels = table.set_index(["model", "group", "versus"])
    assert len(table) == 2 + 2 + 3  # against unseen for both models, against Retrain for every group of the other
    assert panels.loc[("WP", "train", "unseen")].auc == panels.loc[("WP", "train", "Retrain")].auc == 1.0
    assert abs(panels.loc[("Retrain", "train", "unseen")].auc - 0.5) < 0.2
    with pytest.raises(ValueError, match="unknown group of WP 'unseen': choose one of train"):
        streisand_table({"WP": {"train": [0.1]}}, reference=None, seed=0)
    with pytest.raises(ValueError, match="unknown reference 'Retrain': choose one of WP"):
        streisand_table({"WP": loud}, seed=0)
