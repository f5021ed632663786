"""How close the outputs of two models are on the same images; of an unlearned model to Retrain above all.

Must not: read a distance as forgetting by itself; near the original and near Retrain are both "small" where the two
hardly differ, so report the original's distance beside it.

Shapes: n images, K labels or C classes. `logits` (n, K) multi-label or (n, C) single-label, both models' in the same
row order; S models of one kind, confidences `phi` (S, n) as in `membership`.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, rel_entr, softmax

from mlu_utils.scoring.utility import check_finite, logit_table

KLOM_BINS = 20
KLOM_CLIP = 100.0
KLOM_FLOOR = 1e-5  # added to every bin's share: the largest KL is then about log(1e5) = 11.5


def label_js(logits_a: ArrayLike, logits_b: ArrayLike) -> np.ndarray:
    """Jensen-Shannon divergence of each label's Bernoulli distribution, mean over images: (K,) in [0, ln 2], nats.

    JS(p, q) = KL(p, m) / 2 + KL(q, m) / 2, m = (p + q) / 2. Average over the retained labels and read the forgotten
    one apart.

    Raises:
        ValueError: shapes that differ, non-finite logits.

    Source:
        Lin (1991); sum over outcomes, mean over images.

    Differs:
        Published implementations divide by the number of outcomes as well or normalise over the whole matrix, and
        arrive at values that are orders of magnitude too small.

    Example:
        >>> label_js([[0.0, 900.0]], [[0.0, -900.0]]).round(4)
        array([0.    , 0.6931])
    """
    a, b = _pair(logits_a, logits_b)
    p, q = (np.stack([expit(z), expit(-z)], axis=-1) for z in (a, b))  # (n, K, 2)
    return _js(p, q).mean(axis=0)


def class_js(logits_a: ArrayLike, logits_b: ArrayLike) -> float:
    """Jensen-Shannon divergence of the softmax outputs, mean over images, in [0, ln 2] nats; 0 = same outputs.

    Source, Differs: as `label_js`.

    Example:
        >>> class_js([[1.0, 1.0]], [[2.0, 2.0]])
        0.0
    """
    a, b = _pair(logits_a, logits_b)
    return float(_js(softmax(a, axis=1), softmax(b, axis=1)).mean())


def label_zrf(logits: ArrayLike, random_logits: ArrayLike) -> np.ndarray:
    """Zero-retrain forgetting score of each label: 1 - JS to a randomly initialised network on the forgotten images.

    Args:
        logits: (n, K), of the model under test.
        random_logits: (n, K), of a network of the same architecture that was never trained.

    Returns:
        (K,) in [1 - ln 2, 1]. The best value is not 1 but Retrain's.

    Source:
        Chundawat, Tarun, Mandal and Kankanhalli (2023), Can Bad Teaching Induce Forgetting?, equation 4.

    Differs:
        JS in its correct direction and normalisation, see `label_js`; theirs gives values above .99 for anything.

    Example:
        >>> label_zrf([[0.5]], [[0.5]])
        array([1.])
    """
    return 1.0 - label_js(logits, random_logits)


def class_zrf(logits: ArrayLike, random_logits: ArrayLike) -> float:
    """Zero-retrain forgetting score of single-label outputs, see `label_zrf`.

    Example:
        >>> class_zrf([[0.5, 0.0]], [[0.5, 0.0]])
        1.0
    """
    return 1.0 - class_js(logits, random_logits)


def activation_distance(logits_a: ArrayLike, logits_b: ArrayLike, *, is_multi_label: bool) -> float:
    """Mean over images of the L2 distance between the probability vectors; 0 = same outputs.

    Args:
        logits_a, logits_b: (n, K) or (n, C).
        is_multi_label: sigmoids, at most sqrt(K) apart; else the softmax, at most sqrt(2).

    Source:
        Golatkar, Achille and Soatto (2021); L2 as in Chundawat et al. (2023).

    Differs:
        Others take L1. With sigmoids the value grows with K: compare only within one set of labels.

    Example:
        >>> activation_distance([[900.0]], [[-900.0]], is_multi_label=True)
        1.0
    """
    a, b = _pair(logits_a, logits_b)
    p, q = (expit(a), expit(b)) if is_multi_label else (softmax(a, axis=1), softmax(b, axis=1))
    return float(np.linalg.norm(p - q, axis=1).mean())


def label_agreement(logits_a: ArrayLike, logits_b: ArrayLike) -> np.ndarray:
    """Share of images on which two models predict the same, per label, (K,) in [0, 1]; predicted = logit > 0.

    Example:
        >>> label_agreement([[1.0, 2.0], [1.0, -1.0]], [[3.0, -1.0], [2.0, -2.0]])
        array([1. , 0.5])
    """
    a, b = _pair(logits_a, logits_b)
    return ((a > 0) == (b > 0)).mean(axis=0)


def class_agreement(logits_a: ArrayLike, logits_b: ArrayLike) -> float:
    """Share of images on which two models predict the same class; of tied classes the first.

    Example:
        >>> class_agreement([[1.0, 2.0], [1.0, 0.0]], [[0.0, 5.0], [0.0, 1.0]])
        0.5
    """
    a, b = _pair(logits_a, logits_b)
    return float((a.argmax(axis=1) == b.argmax(axis=1)).mean())


def klom(phi: ArrayLike, reference_phi: ArrayLike) -> np.ndarray:
    """KL divergence of margins: per image, between histograms of its confidence over unlearned and retrained models.

    Args:
        phi: (S, n), of S unlearned models.
        reference_phi: (S', n), of S' retrained models.

    Returns:
        (n,) at least 0, nats; report mean and 95th percentile over forget, retain and unseen images apart. Its value
        under equal distributions falls with S and is not 0: give it beside that of two halves of the references.

    Raises:
        ValueError: fewer than two models of a kind, other numbers of images, non-finite confidences.

    Source:
        Rinberg et al. (2025), data-unlearning benchmark: 20 bins, confidences clipped to +-100, 1e-5 added.

    Differs:
        The bins of an image span its own values under both kinds of models; the shares sum to 1 after the floor.

    Example:
        >>> klom([[0.0], [1.0]], [[0.0], [1.0]])
        array([0.])
    """
    both = [np.clip(_models(values), -KLOM_CLIP, KLOM_CLIP) for values in (phi, reference_phi)]
    if both[0].shape[1] != both[1].shape[1]:
        raise ValueError(f"confidences {both[0].shape} and {both[1].shape}: the numbers of images differ")
    pooled = np.concatenate(both)
    low, width = pooled.min(axis=0), np.ptp(pooled, axis=0)
    width = np.where(width > 0, width, 1.0)
    shares = []
    for values in both:
        bins = np.minimum(((values - low) / width * KLOM_BINS).astype(np.int64), KLOM_BINS - 1)
        flat = bins + KLOM_BINS * np.arange(values.shape[1])
        counts = np.bincount(flat.ravel(), minlength=KLOM_BINS * values.shape[1]).reshape(-1, KLOM_BINS)
        share = counts / len(values) + KLOM_FLOOR
        shares.append(share / share.sum(axis=1, keepdims=True))
    return np.maximum(rel_entr(*shares).sum(axis=1), 0.0)


def _js(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence of distributions that lie along the last axis."""
    middle = (p + q) / 2
    # Rounding can leave equal distributions a hair below 0.
    return np.maximum((rel_entr(p, middle) + rel_entr(q, middle)).sum(axis=-1) / 2, 0.0)


def _pair(logits_a: ArrayLike, logits_b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    a, b = logit_table(logits_a), logit_table(logits_b)
    if a.shape != b.shape:
        raise ValueError(f"logits {a.shape} and {b.shape}: expected the same images and outputs")
    return a, b


def _models(phi: ArrayLike) -> np.ndarray:
    phi = np.asarray(phi, dtype=np.float64)
    if phi.ndim != 2 or len(phi) < 2 or not phi.size:
        raise ValueError(f"confidences have shape {phi.shape}: expected (S, n) of at least two models")
    check_finite(phi, "confidences")
    return phi
