"""Six true statements about what an unlearned model still gives away, as functions: theorems A to F.

A: retained labels bound forgetting. B: what linear erasure promises. C: the same given the retained labels. D: a
certified lower bound on leakage. E: an upper bound, which only noise gives. F: the distance to a retrained head.
`worlds` checks each. Unit: nats.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit, ndtr, xlogy

from mlu_utils.theory import information as it


class RetainedLabelBound(NamedTuple):
    """What a model says about a forgotten label j through one retained label k, at least."""

    success: float  # of the best attack on j
    balanced_success: float  # the same where both values of j are attacked equally often
    information: float  # I(f; A_j) in nats
    true_success: float  # s_jk, of the best attack that sees the true A_k


def retained_label_bound(counts: ArrayLike, error: float) -> RetainedLabelBound:
    """Return what any model with this error on a retained label k tells about the forgotten label j (theorem A).

    The best guess of A_j from the model's own read-out of A_k errs at most where the guess from the true A_k errs or
    the read-out does (union bound): success s_jk - e_k. Among balanced values of j an image, and so an error, counts
    at most 1 / (2 min prior). I(f; A_j) is at least I(A_j; A_k) - h(e_k) (chain rule and Fano) and at least
    H(A_j) - h(s_jk - e_k) (Fano on that attack).

    `counts` (2, 2): images with A_j = row and A_k = column. `error`: e_k, the share of images on which the model's
    read-out of label k is wrong.
    """
    both = np.asarray(counts, dtype=float)
    both = both / both.sum()
    prior = both.sum(1)
    if not 0 <= error <= 1 or not (prior > 0).all():
        raise ValueError(f"error must be in [0, 1] and both values of the label occur, got {error} and {prior}")
    true = float(it.best_success(both))
    balanced = float((both / (2 * prior[:, None])).max(0).sum()) - error / (2 * prior.min())
    chain = float(it.mutual_information(both) - it.binary_entropy(error))
    shown = float(it.fano_lower_bound(max(true - error, 0.5), prior[1]))
    return RetainedLabelBound(true - error, balanced, max(chain, shown, 0.0), true)


def affine_gain(points: ArrayLike, labels: ArrayLike, weights: ArrayLike) -> float:
    """Return how much lower than the best constant's the best affine predictor's BCE is: 0 after linear erasure.

    Points are (n, d); labels (n,) 0 or 1 and not separable; weights (n,) probabilities.

    Source: Belrose et al. (2023), Theorem 3.1: 0 if and only if both classes have one mean.
    """
    x = np.column_stack([np.ones(len(labels)), np.asarray(points, dtype=float)])
    y, p = np.asarray(labels, dtype=float), np.asarray(weights, dtype=float)
    prior = float(p @ y)
    beta = np.append(logit(prior), np.zeros(x.shape[1] - 1))
    for _ in range(30):  # Newton's method
        s = expit(x @ beta)
        beta -= np.linalg.lstsq(x.T @ (x * (p * s * (1 - s))[:, None]), x.T @ (p * (s - y)), rcond=None)[0]
    loss = float(p @ np.logaddexp(0, np.where(y > 0, -1, 1) * (x @ beta)))
    return float(it.binary_entropy(prior)) - loss


def explained_share(features: ArrayLike, target: ArrayLike) -> float:
    """Return the share of the target's variance that the best affine function of the features explains, in [0, 1]."""
    x = np.column_stack([np.ones(len(target)), np.asarray(features, dtype=float)])
    z = np.asarray(target, dtype=float)
    residual = z - x @ np.linalg.lstsq(x, z, rcond=None)[0]
    return 1 - float(residual @ residual) / float(((z - z.mean()) ** 2).sum())


def unexplained_by(retained: ArrayLike, target: ArrayLike) -> np.ndarray:
    """Return r = z - E[z | c], (n,): the target less its mean among the images with the same retained labels (n, k)."""
    z = np.asarray(target, dtype=float)
    _, group = np.unique(np.asarray(retained), axis=0, return_inverse=True)
    group = group.reshape(-1)
    return z - (np.bincount(group, z) / np.bincount(group))[group]


def probe_certificate(
    probabilities: ArrayLike,
    labels: ArrayLike,
    *,
    identity: ArrayLike | None = None,
    prior: float | None = None,
    floor: float = 0.05,
    confidence: float = 0.95,
) -> float:
    """Return what Z tells about A at least, in nats, with this confidence, from a probe q(A | Z) on new images.

    I(Z; A) >= H(A) - E[-log q(A | Z)] for every q, however bad. The mean of the held-out losses is known up to
    Hoeffding's margin. 0 shows nothing.

    Args:
        probabilities, labels: (n,), the probe's probability of label 1 on images that it was not fitted on, and 0 or 1.
        identity: (n,), who is on an image; independent draws are then people, each counting once, and not images.
        prior: share of label 1 in the population; None: estimated here, which costs half of the risk.
        floor: probabilities are clipped to [floor, 1 - floor], so that losses are bounded; in (0, 1/2).

    Source: Barber and Agakov (2003); Hoeffding (1963), Theorem 2.
    """
    y = np.asarray(labels)
    if not 0 < floor < 0.5 or not np.isin(y, (0, 1)).all():
        raise ValueError(f"floor must be in (0, 0.5) and labels 0 or 1, got {floor} and {np.unique(y)[:5]}")
    q = np.clip(np.asarray(probabilities, dtype=float), floor, 1 - floor)
    losses = -(xlogy(y, q) + xlogy(1 - y, 1 - q))
    _, unit = np.unique(np.arange(len(y)) if identity is None else identity, return_inverse=True)
    losses, shares = (np.bincount(unit, values) / np.bincount(unit) for values in (losses, y))
    risk = (1 - confidence) / (1 if prior is not None else 2)
    loss = losses.mean() + math.log((1 - floor) / floor) * math.sqrt(math.log(1 / risk) / (2 * len(losses)))
    ends = np.array([prior])
    if prior is None:
        margin = math.sqrt(math.log(2 / risk) / (2 * len(losses)))
        ends = np.clip([shares.mean() - margin, shares.mean() + margin], 0, 1)  # H is concave: least at an end
    return max(float(it.binary_entropy(ends).min() - loss), 0.0)


def noisy_success_bound(diameter: ArrayLike, noise_std: float) -> np.ndarray:
    """Return Phi(diameter / 2 noise_std): the most that an attack on a balanced label can reach.

    `diameter`: largest Euclidean distance between two features, to which N(0, noise_std^2 I) is added before release.

    Source: the total variation of two Gaussians, 2 Phi(d / 2s) - 1, is convex in the pair; Neyman and Pearson (1933).
    """
    return ndtr(np.asarray(diameter, dtype=float) / (2 * noise_std))


def head_distance_bound(features: ArrayLike, gradient: ArrayLike, strong_convexity: float) -> np.ndarray:
    """Return |phi(x)| |grad L_retain(w')| / lambda (n,): how far a head's logit is from the retrained head's, at most.

    `features` (n, d) are phi(x), w' is the head that was not trained to the end; L2 regularisation lambda/2 |w|^2 of
    the retain loss gives the strong convexity lambda > 0.

    Source: Guo et al. (2020), section 3: |w' - w_*| <= |grad L(w')| / lambda, then Cauchy-Schwarz.
    """
    if not strong_convexity > 0:
        raise ValueError(f"strong_convexity must be above 0, got {strong_convexity}: add L2 regularisation to the head")
    return np.linalg.norm(features, axis=-1) * float(np.linalg.norm(gradient)) / strong_convexity
