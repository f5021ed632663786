"""Entropies, divergences and the inequalities between them: arrays in, numbers out, in nats; bits are nats / `BIT`.

Shapes: a distribution lies along the last axis; a channel is (..., A, Y), row a the distribution of the output given
the input a; a joint distribution is (..., A, Y) and sums to 1 over both. Leading axes are independent cases.
"""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import entr, log_ndtr, ndtr, rel_entr

BIT = math.log(2)  # nats in a bit


def _checked(values: ArrayLike, axes: tuple[int, ...], what: str) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    total = array.sum(axes) if array.size else np.zeros(1)
    if not (array >= 0).all() or not np.allclose(total, 1, atol=1e-9, rtol=0):
        raise ValueError(f"{what} must be at least 0 and sum to 1, got sum {np.ravel(total)[:3]}: divide by the sum")
    return array


def binary_entropy(p: ArrayLike) -> np.ndarray:
    """Return H(p) = -p ln p - (1 - p) ln(1 - p) for p in [0, 1]; H(p) = H(1 - p)."""
    p = np.asarray(p, dtype=float)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p must be in [0, 1], got {np.ravel(p)[:3]}: divide percent by 100")
    return entr(p) + entr(1 - p)


def kl_divergence(p: ArrayLike, q: ArrayLike) -> np.ndarray:
    """Return KL(p || q) = sum p ln(p / q) >= 0; infinite where q = 0 < p."""
    return rel_entr(_checked(p, (-1,), "p"), _checked(q, (-1,), "q")).sum(-1)


def total_variation(p: ArrayLike, q: ArrayLike) -> np.ndarray:
    """Return TV = 1/2 sum |p - q|, in [0, 1]: the advantage 2 PLR - 1 of the best attack that tells p from q."""
    return np.abs(_checked(p, (-1,), "p") - _checked(q, (-1,), "q")).sum(-1) / 2


def hockey_stick(p: ArrayLike, q: ArrayLike, epsilon: ArrayLike) -> np.ndarray:
    """Return sum max(p - e^epsilon q, 0): the smallest delta with P(S) <= e^epsilon Q(S) + delta for all events S.

    Source: Dwork and Roth (2014), Definition 2.4; Balle and Wang (2018), Theorem 5.
    """
    p, q = _checked(p, (-1,), "p"), _checked(q, (-1,), "q")
    return np.maximum(p - np.exp(np.asarray(epsilon, dtype=float))[..., None] * q, 0).sum(-1)


def joint(prior: ArrayLike, channel: ArrayLike) -> np.ndarray:
    """Return P(a, y) = prior(a) channel(a, y), (..., A, Y)."""
    return _checked(prior, (-1,), "a prior")[..., None] * _checked(channel, (-1,), "a channel's row")


def mutual_information(joint_distribution: ArrayLike) -> np.ndarray:
    """Return I(A; Y) of joint distributions (..., A, Y), in [0, min(H(A), H(Y))]."""
    both = _checked(joint_distribution, (-2, -1), "a joint distribution")
    return rel_entr(both, both.sum(-1, keepdims=True) * both.sum(-2, keepdims=True)).sum((-2, -1))


def best_success(joint_distribution: ArrayLike) -> np.ndarray:
    """Return the success of the best attack, sum_y max_a P(a, y): 1 - the Bayes error."""
    return _checked(joint_distribution, (-2, -1), "a joint distribution").max(-2).sum(-1)


def fano_lower_bound(success: ArrayLike, prior: ArrayLike = 0.5) -> np.ndarray:
    """Return H(prior) - H(success): what an attack on a binary label has shown about I(A; Y), at least.

    It holds for every attack, above or below chance. Negative values show nothing. `prior` is the share of label 1.

    Source: Fano (1961); Cover and Thomas (2006), Theorem 2.10.1: H(A | Y) <= H(error) for two classes.

    >>> round(float(fano_lower_bound(0.65) / BIT), 4)
    0.0659
    """
    return binary_entropy(prior) - binary_entropy(success)


def hellman_raviv_upper_bound(best: ArrayLike, prior: ArrayLike = 0.5) -> np.ndarray:
    """Return H(prior) - 2 (1 - best) ln 2: the most that I(A; Y) can be when the *best* attack's success is known.

    Source: Hellman and Raviv (1970): error of the best attack <= H(A | Y) / 2, in bits.
    """
    return binary_entropy(prior) - 2 * (1 - np.asarray(best, dtype=float)) * BIT


def bretagnolle_huber_bound(kl: ArrayLike) -> np.ndarray:
    """Return sqrt(1 - exp(-KL)) >= TV, never above 1. Source: Bretagnolle and Huber (1979)."""
    return np.sqrt(-np.expm1(-np.asarray(kl, dtype=float)))


def gaussian_privacy_delta(distance: ArrayLike, noise_std: float, epsilon: ArrayLike) -> np.ndarray:
    """Return the smallest delta for which two outputs at this distance are (epsilon, delta)-close after noise.

    The distance is Euclidean, the noise N(0, noise_std^2) on every coordinate. Without noise delta is 0 where the
    outputs are equal and 1 where they differ, whatever epsilon.

    Source: Balle and Wang (2018), Theorem 8: Phi(d/2s - eps s/d) - e^eps Phi(-d/2s - eps s/d).
    """
    distance, epsilon = np.broadcast_arrays(np.asarray(distance, dtype=float), np.asarray(epsilon, dtype=float))
    if noise_std == 0:
        return (distance > 0).astype(float)
    ratio = np.maximum(distance, np.finfo(float).tiny) / noise_std
    shift = epsilon / ratio
    delta = ndtr(ratio / 2 - shift) - np.exp(epsilon + log_ndtr(-ratio / 2 - shift))
    return np.where(distance > 0, np.clip(delta, 0, 1), 0.0)


def gaussian_privacy_noise(distance: float, epsilon: float, delta: float) -> float:
    """Return the smallest noise_std that makes outputs at this distance (epsilon, delta)-close; 0 if they are equal."""
    if not 0 < delta < 1:
        raise ValueError(f"delta must be in (0, 1), got {delta}: at 0 no Gaussian noise is enough, at 1 none is needed")
    if distance == 0:
        return 0.0

    def excess(log_std):
        return float(gaussian_privacy_delta(distance, distance * math.exp(log_std), epsilon)) - delta

    return distance * math.exp(brentq(excess, -12, 24, xtol=1e-12))
