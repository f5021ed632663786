"""Label correlation and what it does to unlearning: phi coefficients, and a score's change along them.

Purpose: how strongly each retained label correlates with the forgotten one, and whether a label that correlates more
loses more. Must not: train or unlearn.

Shapes: n images, K labels; m results, each of one retained label under one model.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from mlu_utils.scoring.bootstrap import LEVEL, NUM_RESAMPLES, bootstrap, interval, sorted_rows, with_intervals
from mlu_utils.scoring.utility import check_finite

NUM_LINE_POINTS = 25


def phi_coefficients(labels: ArrayLike, forgotten: int) -> np.ndarray:
    """Phi coefficient of every label with the forgotten one: Pearson's correlation of two columns of 0 and 1.

    phi = (n_11 n_00 - n_10 n_01) / sqrt(n_1. n_0. n_.1 n_.0), over the images in which both labels are known.

    Args:
        labels: (n, K), 1, 0 or nan = unknown.
        forgotten: column of the forgotten label.

    Returns:
        (K,) in [-1, 1], 1 for the forgotten label itself; nan where one of the two is constant. Two labels with
        different shares of 1 can't reach both ends.

    Raises:
        ValueError: another shape, no such column, values outside 1, 0 and nan.

    Source: Pearson (1900); Yule (1912), On the methods of measuring association between two attributes.

    Example:
        >>> phi_coefficients([[1, 0], [1, 0], [0, 1], [0, 1]], 0)
        array([ 1., -1.])
    """
    labels = np.asarray(labels, dtype=np.float64)
    if labels.ndim != 2 or not 0 <= forgotten < labels.shape[1]:
        raise ValueError(f"labels {labels.shape} have no column {forgotten}: expected (n, K) and a column below K")
    known = ~np.isnan(labels)
    if not np.isin(labels[known], (0, 1)).all():
        raise ValueError("labels hold values outside 1, 0 and nan (unknown)")
    both = known & known[:, [forgotten]]
    ones, other = (np.nan_to_num(labels) == 1) & both, (np.nan_to_num(labels[:, [forgotten]]) == 1) & both
    n, n_k, n_j = both.sum(0), ones.sum(0), other.sum(0)
    spread = n_k * (n - n_k) * np.float64(n_j * (n - n_j))
    with np.errstate(invalid="ignore"):
        return np.where(spread > 0, (n * (ones & other).sum(0) - n_k * n_j) / np.sqrt(spread), np.nan)


def mean_interval(values: ArrayLike, *, level: float = LEVEL) -> tuple[float, float, float]:
    """Mean of a few independent runs with its interval from Student's t: mean -+ t_(m-1) s / sqrt(m).

    Args:
        values: (m,), finite, one a seed.
        level: coverage, in (0, 1), right when the runs are independent and their spread is normal.

    Returns:
        mean, low, high; of a single run low and high are nan: it says nothing about its spread.

    Raises:
        ValueError: no values, or one that is nan or infinite.

    Source: Student (1908).

    Example:
        >>> [round(v, 3) for v in mean_interval([1.0, 2.0, 3.0])]
        [2.0, -0.484, 4.484]
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"values have shape {values.shape}: expected (m,) with at least one run")
    check_finite(values, "values")
    mean = float(values.mean())
    if len(values) == 1:
        return mean, float("nan"), float("nan")
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return mean, mean - float(half), mean + float(half)


def change_along_phi(
    phi: ArrayLike,
    change: ArrayLike,
    *,
    label: ArrayLike,
    model: ArrayLike,
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
    level: float = LEVEL,
) -> dict[str, float | np.ndarray]:
    """Slope of a retained label's change in |phi|, from each label against itself at other strengths.

    Least squares of change_i = a_label(i) + b |phi_i|. With an intercept a label, an easy label that happens to
    correlate does not pass for an effect of correlation.

    Args:
        phi: (m,) in [-1, 1], the label's correlation with the forgotten one in the data of that model.
        change: (m,) finite, such as accuracy minus the original model's.
        label: (m,) which retained label.
        model: (m,) integers, the model that the result comes from. Models are resampled, not results: those of one
            model share its luck.
        seed: of the resampling.
        num_resamples: number of resamples.
        level: coverage of the intervals.

    Returns:
        slope (change per unit of |phi|), slope_low, slope_high; and the line to draw: arrays phi, from 0 to the
        largest |phi|, change, change_low, change_high, at the labels' mean intercept.

    Raises:
        ValueError: lengths that differ, fewer than 2 models, values that are not finite, or no label whose |phi|
            varies.

    Source: least squares within groups (Mundlak, 1978); cluster bootstrap (Davison and Hinkley, 1997, section 3.8).

    Example:
        >>> line = change_along_phi([0, 0.5, 0, 0.5], [0, -1, 3, 2], label=list("aabb"), model=[0, 1, 0, 1], seed=0)
        >>> line["slope"], float(line["change"][0])
        (-2.0, 1.5)
    """
    phi, change = (np.asarray(values, dtype=np.float64) for values in (phi, change))
    label, model = np.asarray(label), np.asarray(model)
    if phi.ndim != 1 or not len(phi) or not phi.shape == change.shape == label.shape == model.shape:
        raise ValueError(
            f"phi {phi.shape}, change {change.shape}, label {label.shape} and model {model.shape}: expected four (m,)"
        )
    check_finite(phi, "phi")
    check_finite(change, "change")
    if len(np.unique(model)) < 2:
        raise ValueError(f"{len(np.unique(model))} model: a slope and its interval need results of at least 2")
    order = sorted_rows(phi, change, label, model)
    x, y, model = np.abs(phi[order]), change[order], model[order]
    in_label = (label[order][:, None] == np.unique(label)).astype(np.float64)  # (m, labels)
    grid = np.linspace(0, x.max(), NUM_LINE_POINTS)

    def line(weights: np.ndarray) -> np.ndarray:
        """Slope and the line at the grid, (b, 1 + points)."""
        with np.errstate(invalid="ignore", divide="ignore"):
            sums = weights @ in_label  # (b, labels)
            means = [np.nan_to_num((weights * v) @ in_label / sums) @ in_label.T for v in (x, y)]
            dx, dy = x - means[0], y - means[1]
            spread = (weights * dx * dx).sum(1)
            slope = np.where(spread > 1e-12, (weights * dx * dy).sum(1) / spread, np.nan)
            centre_x, centre_y = (weights @ v / weights.sum(1) for v in (x, y))
        return np.column_stack([slope, centre_y[:, None] + slope[:, None] * (grid - centre_x[:, None])])

    found = line(np.ones((1, len(x))))[0]
    if np.isnan(found[0]):
        raise ValueError("no label's |phi| varies between models: give results at two or more correlation strengths")
    samples = bootstrap(line, len(x), identity=model, seed=seed, num_resamples=num_resamples)
    low, high = np.transpose([interval(column, level=level) for column in samples[:, 1:].T])
    return with_intervals(("slope",), found[:1], samples[:, :1], level=level) | {
        "phi": grid,
        "change": found[1:],
        "change_low": low,
        "change_high": high,
    }
