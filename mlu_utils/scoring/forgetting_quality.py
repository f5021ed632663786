"""Forgetting quality of the NeurIPS 2023 unlearning challenge: epsilon per example between two sets of models.

Purpose: how well an attacker who sees one confidence tells unlearned models from retrained ones.
Must not: be compared across numbers of models. With N models of a kind no error rate but 0 is below 1 / N, so epsilon
ends near ln(N - 1): 1.9 for N = 8, 6.2 for N = 512, and the bins that even a perfect method misses change with N.

Shapes: `unlearned_phi` (N, n) and `retrained_phi` (N', n), confidences of n forgotten examples, as in `membership`.
"""

import numpy as np
from numpy.typing import ArrayLike

from mlu_utils.scoring.utility import check_finite

DELTA = 1e-5
LARGEST_EPSILON = 50.0
BIN_WIDTH = 0.5
SMALLEST_WIDTH_RATIO = 0.01  # a distribution this much narrower than the other is told apart at sight


def example_epsilon(unlearned_phi: ArrayLike, retrained_phi: ArrayLike) -> np.ndarray:
    """Epsilon of each example: the best attack's ln of (1 - delta - one error rate) over the other one.

    For FPR and FNR of an attack: epsilon = max(ln((1 - delta - FPR) / FNR), ln((1 - delta - FNR) / FPR)), at least 0.
    Attacks: one threshold, and one interval inside which the narrower distribution is called. An attack with one error
    rate of exactly 0 is left out (too few models to know), with both 0 the models are told apart: 50.

    Args:
        unlearned_phi: (N, n), N >= 2.
        retrained_phi: (N', n), N' >= 2.

    Returns:
        (n,) in [0, 50]; 0 = no attack does better than guessing. Equal distributions do not give 0 for small N: give
        the value of two halves of the retrained models beside it.

    Raises:
        ValueError: fewer than two models of a kind, other numbers of examples, non-finite confidences.

    Source:
        Triantafillou et al. (2024), Are we making progress in unlearning?, section 4 and the challenge's metric; the
        bound is that of (epsilon, delta)-DP hypothesis testing (Kairouz, Oh and Viswanath, 2015).

    Differs:
        Thresholds lie between the observed values instead of on a grid of 100 a unit: no attack on the grid does
        better, and no separation narrower than the grid is missed. Intervals have both ends free, where the challenge
        slides one of a fixed width. An example without any usable attack has epsilon 0 (theirs stops). Two constant
        and equal distributions have 0.

    Example:
        >>> example_epsilon([[0.0, 0.0], [0.0, 1.0]], [[5.0, 0.0], [5.0, 1.0]])
        array([50.,  0.])
    """
    groups = [np.asarray(values, dtype=np.float64) for values in (unlearned_phi, retrained_phi)]
    for values in groups:
        if values.ndim != 2 or len(values) < 2 or not values.size:
            raise ValueError(f"confidences have shape {values.shape}: expected (N, n) of at least two models")
        check_finite(values, "confidences")
    if groups[0].shape[1] != groups[1].shape[1]:
        raise ValueError(f"confidences {groups[0].shape} and {groups[1].shape}: the numbers of examples differ")
    return np.array([_epsilon(a, b) for a, b in zip(groups[0].T, groups[1].T, strict=True)])


def forgetting_quality(epsilon: ArrayLike, *, num_models: int) -> dict[str, float]:
    """The challenge's F from the examples' epsilons, and their plain mean and median, which need no bins.

    Bin b = floor(epsilon / .5) is worth 2^-b points, from bin ceil(ln(N - 1)) / .5 on nothing; F = mean points.

    Args:
        epsilon: (n,), at least 0.
        num_models: N, the smaller number of models of a kind; at least 3, or no bin is left.

    Returns:
        forgetting_quality in [0, 1], higher is better; mean_epsilon, median_epsilon; num_bins, num_models. Compare F
        between equal num_models only.

    Raises:
        ValueError: too few models, or epsilons that are not finite or negative.

    Source:
        Triantafillou et al. (2024), section 4.

    Example:
        >>> forgetting_quality([0.1, 0.6, 50.0], num_models=512)["forgetting_quality"]
        0.5
    """
    epsilon = np.asarray(epsilon, dtype=np.float64)
    if epsilon.ndim != 1 or not epsilon.size or not (np.isfinite(epsilon) & (epsilon >= 0)).all():
        raise ValueError(f"epsilons have shape {epsilon.shape}: expected (n,), n >= 1, finite and at least 0")
    if num_models < 3:
        raise ValueError(f"num_models {num_models} leaves no bin: at least 3 models of a kind are needed")
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


def final_score(
    forgetting_quality: float,
    *,
    retained_accuracy: float,
    reference_retained_accuracy: float,
    test_accuracy: float,
    reference_test_accuracy: float,
) -> float:
    """The challenge's final score: F times retained accuracy over Retrain's, times test accuracy over Retrain's.

    Source: Triantafillou et al. (2024), section 4.

    Example:
        >>> final_score(0.5, retained_accuracy=0.9, reference_retained_accuracy=0.9, test_accuracy=0.4,
        ...     reference_test_accuracy=0.8)
        0.25
    """
    if min(reference_retained_accuracy, reference_test_accuracy) <= 0:
        raise ValueError(
            f"reference accuracies {reference_retained_accuracy} and {reference_test_accuracy}: expected above 0"
        )
    ratio = retained_accuracy / reference_retained_accuracy
    return forgetting_quality * ratio * (test_accuracy / reference_test_accuracy)


def _epsilon(a: np.ndarray, b: np.ndarray) -> float:
    """Epsilon of one example between confidences (N,) and (N',)."""
    width_a, width_b = np.ptp(a), np.ptp(b)
    if max(width_a, width_b) > 0:
        if min(width_a, width_b) / max(width_a, width_b) < SMALLEST_WIDTH_RATIO:
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
