"""Forgetting quality of the NeurIPS 2023 unlearning challenge: epsilon per example between two sets of models.

Never compare it across numbers of models: with N of a kind, epsilon ends near ln(N - 1), 1.9 for N = 8, 6.2 for 512.
"""

import numpy as np
from numpy.typing import ArrayLike

from mlu_utils.scoring.arrays import checked, model_sets

DELTA = 1e-5
LARGEST_EPSILON = 50.0
BIN_WIDTH = 0.5


def example_epsilon(unlearned_phi: ArrayLike, retrained_phi: ArrayLike) -> np.ndarray:
    """Epsilon (n,) of each example, 0 = guessing: how well the best attack tells confidences (S, n) from (R, n).

    For FPR and FNR of an attack: epsilon = max(ln((1 - delta - FPR) / FNR), ln((1 - delta - FNR) / FPR)), at least 0.
    Attacks: one threshold, and one interval inside which the narrower distribution is called. One with one error rate
    of exactly 0 is left out (too few models to know), with both 0 it counts 50. Read two halves of Retrain's beside it.

    Source: Triantafillou et al. (2024), Are we making progress in unlearning?, section 4 and the challenge's metric.
    Differs: thresholds lie between the observed values and not on a grid of 100 a unit. Intervals have both ends free,
    where the challenge slides one of a fixed width. Without a usable attack epsilon is 0 (theirs stops).
    """
    unlearned_phi, retrained_phi = model_sets(unlearned_phi, retrained_phi)
    return np.array([_epsilon(a, b) for a, b in zip(unlearned_phi.T, retrained_phi.T, strict=True)])


def forgetting_quality(epsilon: ArrayLike, *, num_models: int) -> dict[str, float]:
    """The challenge's F from the examples' epsilons (n,), and their plain mean and median, which need no bins.

    Bin b = floor(epsilon / .5) is worth 2^-b points, from bin ceil(ln(N - 1)) / .5 on nothing; F = mean points, in [0,
    1], higher is better. N = num_models is the smaller number of models of a kind, at least 3.

    >>> forgetting_quality([0.1, 0.6, 50.0], num_models=512)["forgetting_quality"]
    0.5
    """
    (epsilon,) = checked(epsilons=(epsilon, "n"))
    if epsilon.min() < 0 or num_models < 3:
        given = f"epsilons from {epsilon.min():g} on and num_models {num_models}"
        raise ValueError(f"{given}: expected at least 0, and at least 3 models of a kind, or no bin is left")
    num_bins = int(np.ceil(np.log(num_models - 1)) / BIN_WIDTH)
    bins = np.floor(epsilon / BIN_WIDTH)
    points = np.where(bins < num_bins, 2.0 ** -np.minimum(bins, num_bins), 0.0)
    return {
        "forgetting_quality": float(np.sort(points).mean()),
        "mean_epsilon": float(np.sort(epsilon).mean()),
        "median_epsilon": float(np.median(epsilon)),
        "num_bins": num_bins,
        "num_models": num_models,
    }


def _epsilon(a: np.ndarray, b: np.ndarray) -> float:
    """Epsilon of one example between confidences (N,) and (N',)."""
    width_a, width_b = np.ptp(a), np.ptp(b)
    if max(width_a, width_b) > 0:
        if min(width_a, width_b) / max(width_a, width_b) < 0.01:  # told apart at sight
            return LARGEST_EPSILON
    elif a[0] == b[0]:
        return 0.0
    values, bins = np.unique(np.concatenate([a, b]), return_inverse=True)
    # Shares at or below each cut; cut 0 lies below all values.
    below = [
        np.concatenate([[0.0], np.cumsum(np.bincount(part, minlength=len(values)))]) / len(part)
        for part in (bins[: len(a)], bins[len(a) :])
    ]
    # Single threshold: the set with the larger median lies above it.
    low, high = below if np.median(a) < np.median(b) else below[::-1]
    attacks = [(1 - low, high)]
    # Interval: the narrower set lies inside; (i, j) is the interval from cut i to cut j.
    narrow, wide = below if width_a < width_b else below[::-1]
    inside = [np.subtract.outer(share, share).T for share in (wide, narrow)]
    upper = np.triu_indices(len(values) + 1)
    attacks.append((inside[0][upper], 1 - inside[1][upper]))
    fpr, fnr = (np.concatenate(rates) for rates in zip(*attacks, strict=True))
    # Differences of shares: what should be 0 is at most a rounding error away from it.
    fpr, fnr = (np.where(rate < 1e-12, 0.0, rate) for rate in (fpr, fnr))
    if ((fpr == 0) & (fnr == 0)).any():
        return LARGEST_EPSILON
    usable = (fpr > 0) & (fnr > 0)
    if not usable.any():
        return 0.0
    fpr, fnr = fpr[usable], fnr[usable]
    gain = np.maximum(np.maximum(1 - DELTA - fpr, 0) / fnr, np.maximum(1 - DELTA - fnr, 0) / fpr).max()
    return float(np.clip(np.log(max(gain, 1.0)), 0.0, LARGEST_EPSILON))
