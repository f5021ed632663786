"""Bootstrap intervals without a loop over resamples: a resample is a row of weights, a score a matrix product.

Shapes: n rows, B resamples. `values` (n,) real, `weights` (B, n) counts, how often a resample drew each row. `identity`
int (n,), the person of each row, -1 = unknown and a person of its own: with it people are drawn with all their rows.
Draws are a seed, num_resamples (1,000 unless told) and level (.95), the coverage of the intervals, in (0, 1).
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from mlu_utils.scoring.arrays import checked

LEVEL = 0.95
_CHUNK_ENTRIES = 2_000_000  # weights held at once: 16 MB


def bootstrap(
    statistic: Callable, num_rows: int, *, identity: ArrayLike | None = None, seed: int, num_resamples: int = 1_000
) -> np.ndarray:
    """Values (B, ...) of a statistic, weights (b, n) -> (b, ...), over resamples of rows that are `in_order`.

    Source: Efron (1979); over people the cluster bootstrap (Davison and Hinkley, 1997, section 3.8).
    """
    if num_rows < 1 or num_resamples < 1:
        raise ValueError(f"num_rows and num_resamples must be at least 1, got {num_rows} and {num_resamples}")
    unit = units(identity, num_rows)
    num_units = int(unit.max()) + 1
    rng = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_ENTRIES // num_rows)
    results = []
    for start in range(0, num_resamples, chunk):
        b = min(chunk, num_resamples - start)
        drawn = rng.integers(0, num_units, (b, num_units)) + num_units * np.arange(b)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=b * num_units).reshape(b, num_units)
        results.append(statistic(counts[:, unit].astype(np.float64)))
    return np.concatenate(results)


def units(identity: ArrayLike | None, num_rows: int) -> np.ndarray:
    """Number (n,) of what is drawn with each row: of its person, or of the row itself where nobody is known.

    >>> units([7, -1, 7, -1], 4)
    array([2, 1, 2, 0])
    """
    if identity is None:
        return np.arange(num_rows)
    (identity,) = checked(identity=(identity, str(num_rows), "whole"))
    return np.unique(np.where(identity >= 0, identity, -1 - np.arange(num_rows)), return_inverse=True)[1]


def in_order(*columns: ArrayLike | None) -> list[np.ndarray | None]:
    """The columns, rows in an order that depends on their content only; None stays None."""
    order = np.lexsort([np.asarray(column) for column in reversed(columns) if column is not None])
    return [None if column is None else np.asarray(column)[order] for column in columns]


def weighted_auc(values: np.ndarray, positive_weights: np.ndarray, negative_weights: np.ndarray) -> np.ndarray:
    """AUC (B,) of each row of weights (B, n): P(value of a positive > of a negative), ties half; nan without a side."""
    positive, negative = _by_value(values, positive_weights, negative_weights)
    below = np.cumsum(negative, axis=1) - negative / 2
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.where(pairs > 0, (positive * below).sum(axis=1) / np.where(pairs > 0, pairs, 1), np.nan)


def weighted_roc(values: np.ndarray, positive_weights: np.ndarray, negative_weights: np.ndarray) -> list[np.ndarray]:
    """True and false positive rate at every threshold, from the strictest on, both (B, number of distinct values)."""
    totals = [np.cumsum(counts, axis=1) for counts in _by_value(-values, positive_weights, negative_weights)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return [counts / counts[:, -1:] for counts in totals]


def interval(samples: ArrayLike, *, level: float = LEVEL) -> tuple[float, float]:
    """Percentile interval of values (B,); nan = not defined on that resample, left out of at most half of them."""
    samples = np.asarray(samples, dtype=np.float64)
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}")
    defined = samples[~np.isnan(samples)]
    if 2 * defined.size < samples.size or not defined.size:
        raise ValueError(f"the score is defined on {defined.size} of {samples.size} resamples only: too few rows")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def spread(names: Sequence[str], values: ArrayLike, samples: np.ndarray, *, level: float = LEVEL) -> dict[str, float]:
    """Name -> value, `<name>_low` and `<name>_high`, from values (k,) and samples (B, k)."""
    result = {}
    for name, value, column in zip(names, np.asarray(values), samples.T, strict=True):
        low, high = interval(column, level=level)
        result |= {name: float(value), f"{name}_low": low, f"{name}_high": high}
    return result


def of_two_groups(
    names: Sequence[str], scores: Callable, is_positive: np.ndarray, *, level: float = LEVEL, **options: object
) -> dict[str, float]:
    """`spread` of scores that tell two groups of rows, bool (n,), apart; the options are those of `bootstrap`.

    The scores take the weights of the positive rows and of the others, (b, n) each, and return (b,) or (b, k). With an
    "auc" comes leak_auc = max(auc, 1 - auc) and its folded interval, which begins at .5 where the AUC's holds .5.
    """

    def statistic(weights: np.ndarray) -> np.ndarray:
        return scores(weights * is_positive, weights * ~is_positive).reshape(len(weights), len(names))

    samples = bootstrap(statistic, len(is_positive), **options)
    result = spread(names, statistic(np.ones((1, len(is_positive))))[0], samples, level=level)
    if "auc" in names:
        value, low, high = (result[name] for name in ("auc", "auc_low", "auc_high"))
        result["leak_auc"] = max(value, 1 - value)
        result["leak_auc_low"] = 0.5 if low <= 0.5 <= high else min(abs(low - 0.5), abs(high - 0.5)) + 0.5
        result["leak_auc_high"] = max(high, 1 - low)
    return result


def _by_value(values: np.ndarray, *weights: np.ndarray) -> list[np.ndarray]:
    """Weights (B, n), summed over rows of one value, in ascending order of the values."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    return [np.add.reduceat(own[:, order], starts, axis=1) for own in weights]
