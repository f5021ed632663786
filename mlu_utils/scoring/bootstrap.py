"""Bootstrap intervals without a loop over resamples: a resample is a row of weights, a score a matrix product.

Purpose: what every privacy score shares: resampled rows or people, AUC and rates under weights, intervals.
Must not: know what the values mean.

Shapes: n rows, B resamples. `values` (n,) real, `weights` (B, n) counts, how often a resample drew each row.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

NUM_RESAMPLES = 1_000
LEVEL = 0.95
_CHUNK_ENTRIES = 2_000_000  # weights held at once: 16 MB


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray],
    num_rows: int,
    *,
    identity: ArrayLike | None = None,
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
) -> np.ndarray:
    """Values of a statistic over resamples of the rows, or of whole people with all their rows.

    Args:
        statistic: maps weights (b, n) to values (b, ...).
        num_rows: n; at least 1. Sort the rows first (`sorted_rows`), or the result depends on their order.
        identity: int (n,), the person of each row, -1 = unknown and a person of its own; default: every row is.
        seed: of the draws.
        num_resamples: B, at least 1.

    Returns:
        (B, ...) values.

    Raises:
        ValueError: no rows, no resamples, or identities of another shape or type.

    Source:
        Efron (1979); over people: the cluster bootstrap (Davison and Hinkley, 1997, section 3.8).

    Example:
        >>> bootstrap(lambda weights: weights.sum(axis=1), 5, seed=0, num_resamples=3)
        array([5., 5., 5.])
    """
    if num_rows < 1 or num_resamples < 1:
        raise ValueError(f"num_rows and num_resamples must be at least 1, got {num_rows} and {num_resamples}")
    unit = np.arange(num_rows) if identity is None else np.unique(people(identity, num_rows), return_inverse=True)[1]
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


def people(identity: ArrayLike, num_rows: int) -> np.ndarray:
    """Integer (n,) identities in which every unknown person (-1) is somebody else.

    Raises:
        ValueError: not n integers.

    Example:
        >>> people([7, -1, 7, -1], 4)
        array([ 7, -2,  7, -4])
    """
    identity = np.asarray(identity)
    if identity.shape != (num_rows,) or not np.issubdtype(identity.dtype, np.integer):
        raise ValueError(
            f"identity has dtype {identity.dtype} and shape {identity.shape}: expected integers ({num_rows},)"
        )
    return np.where(identity >= 0, identity, -1 - np.arange(num_rows))


def sorted_rows(*columns: ArrayLike | None) -> np.ndarray:
    """Order of the rows that depends on their content only: rows that compare equal in all columns are equal.

    Example:
        >>> sorted_rows([3.0, 1.0, 1.0], None, [0, 1, 0])
        array([2, 1, 0])
    """
    return np.lexsort([np.asarray(column) for column in reversed(columns) if column is not None])


def weighted_auc(values: np.ndarray, positive_weights: np.ndarray, negative_weights: np.ndarray) -> np.ndarray:
    """AUC of each row of weights, (B,): P(value of a positive > value of a negative), ties counting one half.

    Args:
        values: (n,).
        positive_weights: (B, n), weight of each row as a positive.
        negative_weights: (B, n), as a negative.

    Returns:
        (B,) in [0, 1]; nan where one side has no weight.

    Example:
        >>> weighted_auc(np.array([0.1, 0.4, 0.4]), np.array([[0, 1, 0]]), np.array([[2, 0, 1]]))
        array([0.83333333])
    """
    order, starts = _ties(values)
    positive = np.add.reduceat(positive_weights[:, order], starts, axis=1)
    negative = np.add.reduceat(negative_weights[:, order], starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.where(pairs > 0, (positive * below).sum(axis=1) / np.where(pairs > 0, pairs, 1), np.nan)


def weighted_roc(
    values: np.ndarray, positive_weights: np.ndarray, negative_weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """True and false positive rate at every threshold, from the strictest on, both (B, number of distinct values).

    Args:
        values: (n,); at a threshold, rows with values at least as high are called positive.
        positive_weights: (B, n).
        negative_weights: (B, n).

    Example:
        >>> weighted_roc(np.array([0.1, 0.4, 0.9]), np.array([[0, 1, 1]]), np.array([[1, 0, 0]]))
        (array([[0.5, 1. , 1. ]]), array([[0., 0., 1.]]))
    """
    order, starts = _ties(-np.asarray(values))
    rates = []
    for weights in (positive_weights, negative_weights):
        counts = np.cumsum(np.add.reduceat(weights[:, order], starts, axis=1), axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            rates.append(counts / counts[:, -1:])
    return rates[0], rates[1]


def interval(samples: ArrayLike, *, level: float = LEVEL) -> tuple[float, float]:
    """Percentile interval of bootstrap values.

    Args:
        samples: (B,); nan = the score is not defined on that resample (it lacks a class) and is left out.
        level: coverage, in (0, 1).

    Raises:
        ValueError: more than half of the values are nan, or a level outside (0, 1).

    Example:
        >>> interval(range(101), level=0.5)
        (25.0, 75.0)
    """
    samples = np.asarray(samples, dtype=np.float64)
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}")
    defined = samples[~np.isnan(samples)]
    if 2 * defined.size < samples.size or not defined.size:
        raise ValueError(
            f"the score is defined on {defined.size} of {samples.size} resamples only: too few rows or people"
        )
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def with_intervals(names: Sequence[str], values: ArrayLike, samples: np.ndarray, *, level: float) -> dict[str, float]:
    """Name -> value, `<name>_low` and `<name>_high` of several scores.

    Args:
        names: of k scores.
        values: (k,) on all rows.
        samples: (B, k) on the resamples.
        level: coverage of the intervals.
    """
    result = {}
    for k, (name, value) in enumerate(zip(names, np.asarray(values), strict=True)):
        low, high = interval(samples[:, k], level=level)
        result |= {name: float(value), f"{name}_low": low, f"{name}_high": high}
    return result


def folded_auc(result: Mapping[str, float]) -> dict[str, float]:
    """leak_auc = max(AUC, 1 - AUC) with the folded interval: what an attacker has who may read a score backwards.

    An interval that contains one half keeps .5 as its lower end: the data don't tell that there is a leak.

    Args:
        result: auc, auc_low and auc_high.

    Example:
        >>> folded_auc({"auc": 0.0, "auc_low": 0.0, "auc_high": 0.25})
        {'leak_auc': 1.0, 'leak_auc_low': 0.75, 'leak_auc_high': 1.0}
    """
    value, low, high = (result[name] for name in ("auc", "auc_low", "auc_high"))
    return {
        "leak_auc": max(value, 1 - value),
        "leak_auc_low": 0.5 if low <= 0.5 <= high else min(abs(low - 0.5), abs(high - 0.5)) + 0.5,
        "leak_auc_high": max(high, 1 - low),
    }


def _ties(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ascending order of the values, and where in it each distinct value starts."""
    values = np.asarray(values)
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    return order, np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
