"""How close two models' outputs on n images are, for K labels or C classes; report the original's distance as well."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, rel_entr, softmax

from mlu_utils.scoring.arrays import checked, model_sets

KLOM_BINS = 20


def label_js(logits_a: ArrayLike, logits_b: ArrayLike) -> np.ndarray:
    """Jensen-Shannon divergence of each label's Bernoulli distribution, mean over images: (K,) in [0, ln 2], nats.

    JS(p, q) = KL(p, m) / 2 + KL(q, m) / 2, m = (p + q) / 2 (Lin, 1991), summed over outcomes; published code that also
    divides by their number, or normalises over the whole matrix, is orders of magnitude too small.

    >>> label_js([[0.0, 900.0]], [[0.0, -900.0]]).round(4)
    array([0.    , 0.6931])
    """
    p, q = (np.stack([expit(z), expit(-z)], axis=-1) for z in _pair(logits_a, logits_b))  # (n, K, 2)
    return _js(p, q).mean(axis=0)


def class_js(logits_a: ArrayLike, logits_b: ArrayLike) -> float:
    """Jensen-Shannon divergence of the softmax outputs, mean over images, in [0, ln 2] nats; see `label_js`."""
    return float(_js(*(softmax(z, axis=1) for z in _pair(logits_a, logits_b))).mean())


def label_zrf(logits: ArrayLike, random_logits: ArrayLike) -> np.ndarray:
    """Zero-retrain forgetting score of each label, (K,) in [1 - ln 2, 1]; the best value is not 1 but Retrain's.

    1 - `label_js` (single labels: 1 - `class_js`), on the forgotten images, to an untrained network of the same
    architecture. Source: Chundawat et al. (2023), Can Bad Teaching Induce Forgetting?, equation 4.
    """
    return 1.0 - label_js(logits, random_logits)


def activation_distance(logits_a: ArrayLike, logits_b: ArrayLike, *, is_multi_label: bool) -> float:
    """Mean over images of the L2 distance between the probability vectors, at most sqrt(K) (softmax: sqrt(2)).

    Source: Golatkar, Achille and Soatto (2021); L2 as in Chundawat et al. (2023), where others take L1. With sigmoids
    the value grows with K: compare only within one set of labels.
    """
    p, q = (expit(z) if is_multi_label else softmax(z, axis=1) for z in _pair(logits_a, logits_b))
    return float(np.linalg.norm(p - q, axis=1).mean())


def label_agreement(logits_a: ArrayLike, logits_b: ArrayLike) -> np.ndarray:
    """Share of images on which two models predict the same, per label, (K,) in [0, 1]; predicted = logit > 0."""
    a, b = _pair(logits_a, logits_b)
    return ((a > 0) == (b > 0)).mean(axis=0)


def klom(phi: ArrayLike, reference_phi: ArrayLike) -> np.ndarray:
    """KL divergence of margins: per image, between histograms of its confidence over unlearned and retrained models.

    Confidences are those of `membership`, (S, n) and (R, n), at least two models each, the result (n,), nats; equal
    distributions do not give 0: read that of two halves of the references beside it. Source: Rinberg et al. (2025),
    data-unlearning benchmark: 20 bins, clipped to +-100, 1e-5 added. Differs: an image's bins span its own values;
    shares sum to 1 after the floor.
    """
    both = [np.clip(values, -100.0, 100.0) for values in model_sets(phi, reference_phi)]
    pooled = np.concatenate(both)
    low, width = pooled.min(axis=0), np.ptp(pooled, axis=0)
    width = np.where(width > 0, width, 1.0)
    shares = []
    for values in both:
        bins = np.minimum(((values - low) / width * KLOM_BINS).astype(np.int64), KLOM_BINS - 1)
        flat = bins + KLOM_BINS * np.arange(values.shape[1])
        counts = np.bincount(flat.ravel(), minlength=KLOM_BINS * values.shape[1]).reshape(-1, KLOM_BINS)
        share = counts / len(values) + 1e-5  # the largest KL is then about log(1e5) = 11.5
        shares.append(share / share.sum(axis=1, keepdims=True))
    return np.maximum(rel_entr(*shares).sum(axis=1), 0.0)


def _js(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence of distributions that lie along the last axis."""
    middle = (p + q) / 2
    return np.maximum((rel_entr(p, middle) + rel_entr(q, middle)).sum(axis=-1) / 2, 0.0)  # rounding: a hair below 0


def _pair(logits_a: ArrayLike, logits_b: ArrayLike) -> list[np.ndarray]:
    return checked(logits_a=(logits_a, "n K"), logits_b=(logits_b, "n K"))
