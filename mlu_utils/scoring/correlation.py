"""Label correlation and a score's change along it: n images, K labels, m results of one label under one model each."""

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from mlu_utils.scoring.arrays import checked
from mlu_utils.scoring.bootstrap import LEVEL, bootstrap, in_order, interval, spread


def phi_coefficients(labels: ArrayLike, forgotten: int) -> np.ndarray:
    """Phi coefficient of every label with the forgotten one: Pearson's correlation of two columns of 0 and 1.

    (K,) in [-1, 1], over the images that know both labels, (n, K); nan where one is constant. Source: Yule (1912).

    >>> phi_coefficients([[1, 0], [1, 0], [0, 1], [0, 1]], 0)
    array([ 1., -1.])
    """
    (labels,) = checked(labels=(labels, "n K", "label"))
    if not 0 <= forgotten < labels.shape[1]:
        raise ValueError(f"labels {labels.shape} have no column {forgotten}: expected a column from 0 to below K")
    known = ~np.isnan(labels)
    both = known & known[:, [forgotten]]
    ones, other = (np.nan_to_num(labels) == 1) & both, (np.nan_to_num(labels[:, [forgotten]]) == 1) & both
    n, n_k, n_j = both.sum(0), ones.sum(0), other.sum(0)
    square = n_k * (n - n_k) * np.float64(n_j * (n - n_j))
    with np.errstate(invalid="ignore"):
        return np.where(square > 0, (n * (ones & other).sum(0) - n_k * n_j) / np.sqrt(square), np.nan)


def mean_interval(values: ArrayLike, *, level: float = LEVEL) -> tuple[float, float, float]:
    """Mean of a few runs (m,) -+ t_(m-1) s / sqrt(m), for a normal spread; nan for one run. Source: Student (1908)."""
    (values,) = checked(values=(values, "m"))
    mean = float(values.mean())
    if len(values) == 1:
        return mean, float("nan"), float("nan")
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return mean, mean - float(half), mean + float(half)


def change_along_phi(
    phi: ArrayLike, change: ArrayLike, *, label: ArrayLike, model: ArrayLike, seed: int, **draws: float
) -> dict[str, float | np.ndarray]:
    """Slope of a retained label's change in |phi|, from each label against itself at other strengths.

    Least squares of change_i = a_label(i) + b |phi_i| (within groups: Mundlak, 1978), so that an easy label that
    happens to correlate does not pass for an effect. phi is a label's correlation with the forgotten one in the model's
    data, change for example its accuracy minus the original's. Models are drawn, not their results, which share luck.

    Returns slope (per unit of |phi|), slope_low, slope_high, and the line at the labels' mean intercept: arrays phi,
    from 0 to the largest |phi|, change, change_low, change_high.
    """
    label = np.unique(label, return_inverse=True)[1]
    phi, y, label, model = in_order(
        *checked(phi=(phi, "m"), change=(change, "m"), label=(label, "m", "whole"), model=(model, "m", "whole"))
    )
    if model.min() == model.max():
        raise ValueError("1 model: a slope and its interval need results of at least 2")
    x, in_label = np.abs(phi), (label[:, None] == np.unique(label)).astype(np.float64)  # (m,), (m, labels)
    grid = np.linspace(0, x.max(), 25)

    def line(weights: np.ndarray) -> np.ndarray:
        """Slope and the line at the grid, (b, 1 + points)."""
        with np.errstate(invalid="ignore", divide="ignore"):
            sums = weights @ in_label  # (b, labels)
            means = [np.nan_to_num((weights * v) @ in_label / sums) @ in_label.T for v in (x, y)]
            dx, dy = x - means[0], y - means[1]
            variation = (weights * dx * dx).sum(1)
            slope = np.where(variation > 1e-12, (weights * dx * dy).sum(1) / variation, np.nan)
            centre_x, centre_y = (weights @ v / weights.sum(1) for v in (x, y))
        return np.column_stack([slope, centre_y[:, None] + slope[:, None] * (grid - centre_x[:, None])])

    found = line(np.ones((1, len(x))))[0]
    if np.isnan(found[0]):
        raise ValueError("no label's |phi| varies between models: give results at two or more correlation strengths")
    level = draws.pop("level", LEVEL)
    samples = bootstrap(line, len(x), identity=model, seed=seed, **draws)
    low, high = np.transpose([interval(column, level=level) for column in samples[:, 1:].T])
    ends = {"phi": grid, "change": found[1:], "change_low": low, "change_high": high}
    return spread(("slope",), found[:1], samples[:, :1], level=level) | ends
