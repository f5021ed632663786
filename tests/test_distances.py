"""Distances between outputs against SciPy, at their known ends, and against histograms made by NumPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, softmax
from scipy.stats import entropy

from mlu_utils.scoring.distances import (
    activation_distance,
    class_js,
    klom,
    label_agreement,
    label_js,
    label_zrf,
)

NAN = float("nan")
PAIRS = {
    "label_js": label_js,
    "class_js": class_js,
    "label_zrf": label_zrf,
    "activation_distance, labels": lambda a, b: activation_distance(a, b, is_multi_label=True),
    "activation_distance, classes": lambda a, b: activation_distance(a, b, is_multi_label=False),
    "label_agreement": label_agreement,
}


def js(p, q, axis):
    # scipy.spatial.distance.jensenshannon takes a root and gives nan where rounding goes below 0.
    return (entropy(p, (p + q) / 2, axis=axis) + entropy(q, (p + q) / 2, axis=axis)) / 2


@given(st.integers(0, 10_000), st.floats(0.01, 300))
def test_js_agrees_with_scipy(seed, scale):
    rng = np.random.default_rng(seed)
    a, b = scale * rng.normal(size=(7, 3)), scale * rng.normal(size=(7, 3))
    p, q = (np.stack([expit(z), expit(-z)], axis=2) for z in (a, b))
    np.testing.assert_allclose(label_js(a, b), js(p, q, 2).mean(axis=0), atol=1e-9)
    expected = js(softmax(a, axis=1), softmax(b, axis=1), 1).mean()
    assert class_js(a, b) == pytest.approx(expected, abs=1e-9)
    np.testing.assert_allclose(label_zrf(a, b), 1 - label_js(a, b))
    assert 0 <= class_js(a, b) <= np.log(2) + 1e-12 and class_js(a, b) == pytest.approx(class_js(b, a))


def test_js_of_opposite_answers_is_log_two_whatever_the_number_of_images_and_classes():
    # The two published errors, an element mean and a normalisation over the matrix, both fail here.
    for n, num_classes in ((1, 2), (50, 2), (50, 10)):
        a, b = np.zeros((n, num_classes)), np.zeros((n, num_classes))
        a[:, 0], b[:, 1] = 2000.0, 2000.0
        assert class_js(a, b) == pytest.approx(np.log(2))
        np.testing.assert_allclose(label_js(a * 2 - 2000, b * 2 - 2000)[:2], np.log(2))


def test_activation_distance_and_agreement_by_loops():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(20, 4)), rng.normal(size=(20, 4))
    for is_multi_label, f in ((True, expit), (False, lambda z: softmax(z, axis=1))):
        expected = np.mean([np.sqrt(sum((x - y) ** 2)) for x, y in zip(f(a), f(b), strict=True)])
        assert activation_distance(a, b, is_multi_label=is_multi_label) == pytest.approx(expected)
    expected = [np.mean([(x > 0) == (y > 0) for x, y in zip(a[:, k], b[:, k], strict=True)]) for k in range(4)]
    np.testing.assert_allclose(label_agreement(a, b), expected)


@pytest.mark.parametrize("name", PAIRS)
def test_contract_of_every_distance(name):
    distance = PAIRS[name]
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(30, 3)), rng.normal(size=(30, 3))
    kept, order = (a.copy(), b.copy()), rng.permutation(30)
    np.testing.assert_allclose(distance(a, b), distance(a[order], b[order]), rtol=1e-12)
    assert not np.allclose(distance(a, b), distance(a, -b))
    np.testing.assert_array_equal(a, kept[0])
    np.testing.assert_array_equal(b, kept[1])
    same = {"distance": 0.0, "js": 0.0}.get(name.split(",")[0].split("_")[1], 1.0)
    np.testing.assert_allclose(distance(a, a), same, atol=1e-12)
    for bad in (NAN, np.inf):
        broken = b.copy()
        broken[4, 1] = bad
        with pytest.raises(ValueError, match=r"index \(4, 1\)"):
            distance(a, broken)
    with pytest.raises(ValueError, match=r"logits_a \(30, 3\) and logits_b \(29, 3\)"):
        distance(a, b[1:])


def test_klom_equals_numpy_histograms():
    rng = np.random.default_rng(2)
    phi, reference = rng.normal(size=(40, 6)) * 2, rng.normal(size=(30, 6))
    phi[0, 2] = 1e9  # clipped
    got = klom(phi, reference)
    for i in range(6):
        a, b = np.clip(phi[:, i], -100, 100), np.clip(reference[:, i], -100, 100)
        edges = np.linspace(min(a.min(), b.min()), max(a.max(), b.max()), 21)
        p, q = (np.histogram(x, edges)[0] / len(x) + 1e-5 for x in (a, b))
        assert got[i] == pytest.approx(entropy(p, q), rel=1e-6)


def test_klom_at_its_ends():
    rng = np.random.default_rng(3)
    same = rng.normal(size=(30, 4))
    np.testing.assert_allclose(klom(same, same[::-1]), 0, atol=1e-12)
    apart = klom(same, same + 50)
    assert (apart > 8).all() and (apart < np.log(1e5) + 0.1).all()
    assert klom(np.zeros((3, 1)), np.zeros((5, 1)))[0] == 0.0
    with pytest.raises(ValueError, match="at least two models"):
        klom([[1.0]], [[1.0]])
    with pytest.raises(ValueError, match=r"expected \(S, n\) and \(R, n\)"):
        klom(same, same[:, 1:])
    with pytest.raises(ValueError, match="1 of 120 confidences are nan"):
        klom(np.where(np.arange(120).reshape(30, 4) == 5, NAN, same), same)
