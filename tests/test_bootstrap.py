"""Weighted scores against scikit-learn, resample by resample; intervals that cover as often as they say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from mlu_utils.scoring.bootstrap import (
    bootstrap,
    in_order,
    interval,
    units,
    weighted_auc,
    weighted_roc,
)

NAN = float("nan")


@settings(deadline=None)  # scikit-learn is slow on a busy machine
@given(st.integers(0, 10_000), st.integers(2, 40), st.booleans())
def test_weighted_auc_and_roc_agree_with_sklearn(seed, n, has_ties):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 4, n).astype(float) if has_ties else rng.normal(size=n)
    positive = np.arange(n) % 2 == 0
    weights = rng.integers(0, 3, (5, n)).astype(float)
    got = weighted_auc(values, weights * positive, weights * ~positive)
    recall, false_rate = weighted_roc(values, weights * positive, weights * ~positive)
    for b in range(5):
        if weights[b][positive].sum() == 0 or weights[b][~positive].sum() == 0:
            assert np.isnan(got[b])
            continue
        ranks = np.unique(values, return_inverse=True)[1]
        assert got[b] == pytest.approx(metrics.roc_auc_score(positive, ranks, sample_weight=weights[b]), abs=1e-12)
        for t, threshold in enumerate(sorted(set(values), reverse=True)):
            called = weights[b] * (values >= threshold)
            assert recall[b, t] == pytest.approx(called[positive].sum() / weights[b][positive].sum())
            assert false_rate[b, t] == pytest.approx(called[~positive].sum() / weights[b][~positive].sum())
        assert recall.shape[1] == t + 1


def test_people_are_drawn_whole_and_unknown_ones_alone():
    identity = np.array([3, 3, 9, -1, -1, 9])
    weights = bootstrap(lambda w: w, 6, identity=identity, seed=0, num_resamples=200)
    assert weights.shape == (200, 6)
    assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, 2] == weights[:, 5]).all()
    assert (weights[:, 3] != weights[:, 4]).any()
    drawn = weights[:, [0, 2, 3, 4]]
    assert (drawn.sum(axis=1) == 4).all()  # four people drawn, however many images they have
    np.testing.assert_allclose(drawn.mean(axis=0), 1, atol=0.25)  # sd of a mean: sqrt(.75 / 200) = .06


def test_bootstrap_standard_error_is_that_of_a_mean():
    x = np.random.default_rng(0).normal(size=400)
    means = bootstrap(lambda w: w @ x / w.sum(axis=1), 400, seed=1, num_resamples=4000)
    assert means.std() == pytest.approx(x.std() / 20, rel=0.05)  # sd of a standard error: 1 / sqrt(8000) = 1.1 %
    again = bootstrap(lambda w: w @ x / w.sum(axis=1), 400, seed=1, num_resamples=4000)
    np.testing.assert_array_equal(means, again)


def test_intervals_of_an_auc_cover_the_truth():
    # Two equal distributions: the truth is .5. 100 intervals at 95 %: fewer than 87 has probability 4e-4.
    rng, hits = np.random.default_rng(2), 0
    positive = np.arange(80) < 40
    for seed in range(100):
        x = rng.normal(size=80)
        low, high = interval(
            bootstrap(lambda w, x=x: weighted_auc(x, w * positive, w * ~positive), 80, seed=seed, num_resamples=200)
        )
        hits += low <= 0.5 <= high
    assert 87 <= hits < 100


def test_large_sets_are_resampled_in_chunks(monkeypatch):
    monkeypatch.setattr("mlu_utils.scoring.bootstrap._CHUNK_ENTRIES", 70)
    sizes = []
    weights = bootstrap(lambda w: sizes.append(len(w)) or w, 20, seed=0, num_resamples=10)
    assert sizes == [3, 3, 3, 1] and weights.shape == (10, 20)
    assert (weights.sum(axis=1) == 20).all() and len(np.unique(weights, axis=0)) == 10


def test_sorted_rows_do_not_depend_on_the_order_they_came_in():
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 3, 50), rng.integers(0, 3, 50)
    order = rng.permutation(50)
    np.testing.assert_array_equal(in_order(a, b), in_order(a[order], b[order]))
    first, missing, _ = in_order(a, None, b)
    assert (np.diff(first) >= 0).all() and missing is None


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="at least 1, got 0 and 5"):
        bootstrap(lambda w: w, 0, seed=0, num_resamples=5)
    with pytest.raises(ValueError, match=r"identity \(2,\): expected \(3,\)"):
        units(np.array([1, 2]), 3)
    with pytest.raises(ValueError, match="dtype float64"):
        units(np.array([1.0, 2.0]), 2)
    with pytest.raises(ValueError, match="level must lie in"):
        interval([1.0], level=95)
    with pytest.raises(ValueError, match="defined on 1 of 3 resamples only"):
        interval([1.0, NAN, NAN])
