"""Phi, t intervals and slopes against SciPy, scikit-learn and least squares written out; intervals that cover."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import matthews_corrcoef

from mlu_utils.scoring.correlation import change_along_phi, mean_interval, phi_coefficients

NAN = float("nan")


@given(st.integers(0, 10_000), st.integers(2, 60), st.sampled_from([0.0, 0.3]))
def test_phi_agrees_with_sklearn_on_the_known_entries(seed, n, share_unknown):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (n, 4)).astype(float)
    labels[rng.random((n, 4)) < share_unknown] = NAN
    found = phi_coefficients(labels, 2)
    for k in range(4):
        known = ~np.isnan(labels[:, [k, 2]]).any(axis=1)
        a, b = labels[known, k], labels[known, 2]
        if len(set(a)) < 2 or len(set(b)) < 2:
            assert np.isnan(found[k])
        else:
            assert found[k] == pytest.approx(matthews_corrcoef(a, b), abs=1e-12)


def test_phi_of_a_big_table_does_not_overflow():
    labels = np.tile([[0.0, 1.0], [1.0, 0.0]], (100_000, 1))  # a product of four counts is 1e20, beyond int64
    np.testing.assert_array_equal(phi_coefficients(labels, 0), [1, -1])


def test_phi_refuses_what_is_no_label_table():
    with pytest.raises(ValueError, match="no column 2"):
        phi_coefficients(np.zeros((3, 2)), 2)
    with pytest.raises(ValueError, match="no column -1"):
        phi_coefficients(np.zeros((3, 2)), -1)
    with pytest.raises(ValueError, match="1 of 2 labels are neither 1, 0 nor nan"):
        phi_coefficients([[0.5, 1.0]], 0)


@given(st.integers(0, 10_000), st.integers(2, 9), st.sampled_from([0.9, 0.95]))
def test_mean_interval_agrees_with_scipy(seed, m, level):
    values = np.random.default_rng(seed).normal(3, 2, m)
    mean, low, high = mean_interval(values, level=level)
    expected = stats.ttest_1samp(values, 0).confidence_interval(level)
    assert (mean, low, high) == pytest.approx((values.mean(), expected.low, expected.high), rel=1e-9)


def test_one_run_has_no_interval_and_none_has_no_mean():
    assert mean_interval([0.7])[0] == 0.7 and np.isnan(mean_interval([0.7])[1:]).all()
    with pytest.raises(ValueError, match="none empty"):
        mean_interval([])
    with pytest.raises(ValueError, match="1 of 2 values are nan"):
        mean_interval([0.5, NAN])


def results(rng, *, num_models=12, num_labels=5, slope=-0.3, luck=0.0, noise=0.02):
    """A table of changes: each label's own level, one slope, luck shared by the labels of a model."""
    strength = np.repeat(np.arange(4) / 2, num_models // 4)
    phi = np.outer(strength, rng.uniform(-0.5, 0.5, num_labels))
    change = slope * np.abs(phi) + rng.normal(size=num_labels) + luck * rng.normal(size=(num_models, 1))
    change += noise * rng.normal(size=change.shape)
    model, label = np.indices(phi.shape)
    return phi.ravel(), change.ravel(), label.ravel(), model.ravel()


@given(st.integers(0, 10_000))
def test_slope_agrees_with_least_squares_with_a_column_a_label(seed):
    phi, change, label, model = results(np.random.default_rng(seed))
    found = change_along_phi(phi, change, label=label, model=model, seed=0, num_resamples=20)
    columns = np.column_stack([np.abs(phi), label[:, None] == np.arange(5)])
    slope, *intercepts = np.linalg.lstsq(columns, change, rcond=None)[0]
    assert found["slope"] == pytest.approx(slope, abs=1e-9)
    np.testing.assert_allclose(found["change"], np.mean(intercepts) + slope * found["phi"], atol=1e-9)
    assert found["phi"][0] == 0 and found["phi"][-1] == np.abs(phi).max()


def test_resampling_models_is_least_squares_on_repeated_models():
    phi, change, label, model = results(np.random.default_rng(3), luck=0.3)
    found = change_along_phi(phi, change, label=label, model=model, seed=5, num_resamples=400)
    rng, slopes = np.random.default_rng(0), []
    for _ in range(400):
        rows = np.concatenate([np.flatnonzero(model == m) for m in rng.integers(0, 12, 12)])
        columns = np.column_stack([np.abs(phi[rows]), label[rows, None] == np.arange(5)])
        slopes.append(np.linalg.lstsq(columns, change[rows], rcond=None)[0][0])
    expected = np.quantile(slopes, [0.025, 0.975])
    width = expected[1] - expected[0]
    assert [found["slope_low"], found["slope_high"]] == pytest.approx(expected, abs=0.15 * width)


def test_the_interval_covers_although_a_model_shares_its_luck():
    covered, narrow = 0, 0
    for seed in range(150):
        phi, change, label, model = results(np.random.default_rng(seed), luck=0.2)
        found = change_along_phi(phi, change, label=label, model=model, seed=seed, num_resamples=200)
        covered += found["slope_low"] <= -0.3 <= found["slope_high"]
        alone = change_along_phi(phi, change, label=label, model=np.arange(60), seed=seed, num_resamples=200)
        narrow += alone["slope_low"] <= -0.3 <= alone["slope_high"]
    assert covered >= 0.82 * 150  # .95 asked; twelve models are few for a bootstrap
    assert narrow < 0.75 * covered  # taking results for independent claims far too much


def test_an_easy_label_that_correlates_does_not_count():
    strength = np.tile([0.0, 0.0, 0.5, 1.0], 2)
    label, model = np.repeat([0, 1], 4), np.tile(np.arange(4), 2)
    phi = strength * np.where(label == 1, 0.6, 0.1)
    change = np.where(label == 1, 0.0, -0.5)  # constant in each label, yet it goes up with |phi| overall
    found = change_along_phi(phi, change, label=label, model=model, seed=0, num_resamples=50)
    assert found["slope"] == 0 and np.corrcoef(phi, change)[0, 1] > 0.4


def test_change_along_phi_is_order_invariant_and_refuses_what_has_no_slope():
    phi, change, label, model = results(np.random.default_rng(1))
    order = np.random.default_rng(2).permutation(len(phi))
    one = change_along_phi(phi, change, label=label, model=model, seed=0, num_resamples=50)
    two = change_along_phi(phi[order], change[order], label=label[order], model=model[order], seed=0, num_resamples=50)
    for key in one:
        np.testing.assert_allclose(one[key], two[key], atol=1e-12)
    with pytest.raises(ValueError, match=r"phi \(59,\) and change \(60,\)"):
        change_along_phi(phi[1:], change, label=label, model=model, seed=0)
    with pytest.raises(ValueError, match="1 of 60 change are nan"):
        change_along_phi(phi, np.where(np.arange(60) == 3, NAN, change), label=label, model=model, seed=0)
    with pytest.raises(ValueError, match="1 model: a slope"):
        change_along_phi(phi, change, label=label, model=np.zeros(60, int), seed=0)
    with pytest.raises(ValueError, match="varies between models"):
        change_along_phi(np.full(60, 0.2), change, label=label, model=model, seed=0)
