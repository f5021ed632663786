"""Forgetting quality against plain loops over attacks, and at the ends where the published code fails."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from mlu_utils.scoring.forgetting_quality import DELTA, example_epsilon, forgetting_quality

NAN = float("nan")


def loop_epsilon(a, b):
    if max(np.ptp(a), np.ptp(b)) == 0:
        return 0.0 if a[0] == b[0] else 50.0
    if min(np.ptp(a), np.ptp(b)) / max(np.ptp(a), np.ptp(b)) < 0.01:
        return 50.0
    values = sorted({*a, *b})
    cuts = [values[0] - 1, *((x + y) / 2 for x, y in zip(values[:-1], values[1:], strict=True)), values[-1] + 1]
    low, high = (a, b) if np.median(a) < np.median(b) else (b, a)
    narrow, wide = (a, b) if np.ptp(a) < np.ptp(b) else (b, a)
    rates = [(np.mean(low > t), np.mean(high <= t)) for t in cuts]
    rates += [
        (np.mean((wide > s) & (wide <= t)), 1 - np.mean((narrow > s) & (narrow <= t)))
        for i, s in enumerate(cuts)
        for t in cuts[i:]
    ]
    best = 0.0
    for fpr, fnr in rates:
        if fpr < 1e-12 and fnr < 1e-12:
            return 50.0
        if fpr > 1e-12 and fnr > 1e-12:
            for x, y in ((fpr, fnr), (fnr, fpr)):
                if 1 - DELTA - x > 0:
                    best = max(best, math.log((1 - DELTA - x) / y))
    return best


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.5, 2.0]), st.sampled_from([0.3, 1.0]), st.booleans())
def test_epsilon_equals_plain_loops(seed, shift, width, is_rounded):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(9, 2)), shift + width * rng.normal(size=(7, 2))
    if is_rounded:
        a, b = a.round(), b.round()
    expected = [loop_epsilon(a[:, i], b[:, i]) for i in range(2)]
    np.testing.assert_allclose(example_epsilon(a, b), expected, atol=1e-9)


def test_a_separation_finer_than_the_published_grid_is_found():
    a = np.linspace(0, 1e-4, 20)[:, None]
    assert example_epsilon(a, a + 2e-4)[0] == 50.0


def test_epsilon_of_two_shifted_gaussians_is_near_the_best_threshold_of_theory():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(4000, 1)), rng.normal(size=(4000, 1)) + 1
    got = example_epsilon(a[:400], b[:400])[0]
    cuts = np.linspace(-2, 3, 400)  # rates down to 1 / 400 can be seen
    fpr, fnr = norm.sf(cuts), norm.cdf(cuts - 1)
    seen = (fpr > 1 / 400) & (fnr > 1 / 400)
    best = np.maximum(np.log((1 - fpr[seen]) / fnr[seen]), np.log((1 - fnr[seen]) / fpr[seen])).max()
    assert best - 0.7 < got < best + 1.2  # one model more or less in a tail of one is a factor of two


def test_epsilon_saturates_with_the_number_of_models_and_f_must_not_be_compared_across_it():
    rng = np.random.default_rng(1)
    values = {}
    for num_models in (8, 64):
        epsilon = example_epsilon(rng.normal(size=(num_models, 60)), rng.normal(size=(num_models, 60)))
        assert epsilon[epsilon < 50].max() <= math.log(num_models - 1) + 1e-9
        values[num_models] = forgetting_quality(epsilon, num_models=num_models)
    assert [values[n]["num_bins"] for n in (8, 64)] == [4, 10]
    assert values[8]["forgetting_quality"] != pytest.approx(values[64]["forgetting_quality"], abs=0.02)


def test_ends_and_order():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(12, 5)), rng.normal(size=(10, 5))
    kept, order = a.copy(), rng.permutation(12)
    np.testing.assert_array_equal(example_epsilon(a, b), example_epsilon(a[order], b[::-1]))
    np.testing.assert_array_equal(a, kept)
    np.testing.assert_array_equal(example_epsilon(a, b), example_epsilon(b, a))
    constant = np.zeros((12, 5))
    assert (example_epsilon(constant, b) == 50).all() and (example_epsilon(constant, constant) == 0).all()
    assert (example_epsilon(constant, constant + 1) == 50).all()
    with pytest.raises(ValueError, match="at least two models"):
        example_epsilon(a[:1], b)
    with pytest.raises(ValueError, match=r"\(12, 5\) and reference_confidences \(10, 4\)"):
        example_epsilon(a, b[:, 1:])
    with pytest.raises(ValueError, match="1 of 60 confidences are nan"):
        example_epsilon(np.where(np.arange(60).reshape(12, 5) == 3, NAN, a), b)


def test_points_by_hand():
    got = forgetting_quality([0.0, 0.49, 0.5, 1.2, 3.9, 50.0], num_models=512)  # 14 bins
    assert got["forgetting_quality"] == pytest.approx((1 + 1 + 0.5 + 0.25 + 2.0**-7 + 0) / 6)
    assert got["num_bins"] == 14 and got["mean_epsilon"] == pytest.approx(56.09 / 6)
    assert forgetting_quality([1.9], num_models=8)["forgetting_quality"] == 2.0**-3
    assert forgetting_quality([2.0], num_models=8)["forgetting_quality"] == 0.0
    for bad, match in (([NAN], "are nan"), ([-1.0], "expected at least 0"), ([], "none empty")):
        with pytest.raises(ValueError, match=match):
            forgetting_quality(bad, num_models=8)
    with pytest.raises(ValueError, match="num_models 2: .* at least 3"):
        forgetting_quality([0.0], num_models=2)
