"""Bootstrap intervals without a loop over resamples: a resample is a row of weights, a score a matrix product.

Shapes: n rows, B resamples. `values` (n,) real, `weights` (B, n) counts, how often a resample drew each row. `identity`
int (n,), the person of each row, -1 = unknown and a person of its own: with it people are drawn with all their rows.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike

from mlu_utils.scoring.arrays import checked

NUM_RESAMPLES = 1_000
LEVEL = 0.95
_CHUNK_ENTRIES = 2_000_000  # weights held at once: 16 MB
Statistic = Callable[[np.ndarray], np.ndarray]  # weights (b, n) -> values (b, ...)


class Draws(TypedDict, total=False):
    """What a score with intervals takes beside the seed of its draws; 1,000 and .95 unless told."""

    num_resamples: int
    level: float  # coverage of the intervals, in (0, 1)


def bootstrap(
    statistic: Statistic,
    num_rows: int,
    *,
    identity: ArrayLike | None = None,
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
) -> np.ndarray:
    """Values (B, ...) of a statistic over resamples of the rows, which are to be sorted first (`in_order`).

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


def people(identity: ArrayLike, num_rows: int) -> np.ndarray:
    """Integer (n,) identities in which every unknown person (-1) is somebody else.

    >>> people([7, -1, 7, -1], 4)
    array([ 7, -2,  7, -4])
    """
    (identity,) = checked(identity=(identity, str(num_rows), "whole"))
    return np.where(identity >= 0, identity, -1 - np.arange(num_rows))


def units(identity: ArrayLike | None, num_rows: int) -> np.ndarray:
    """Number (n,) of what is drawn with each row: of its person, or without identities of the row itself."""
    return np.arange(num_rows) if identity is None else np.unique(people(identity, num_rows), return_inverse=True)[1]


def sorted_rows(*columns: ArrayLike | None) -> np.ndarray:
    """Order of the rows that depends on their content only: rows that compare equal in all columns are equal."""
    return np.lexsort([np.asarray(column) for column in reversed(columns) if column is not None])


def in_order(*columns: ArrayLike | None) -> list[np.ndarray | None]:
    """The columns in the order of `sorted_rows`; None stays None."""
    order = sorted_rows(*columns)
    return [None if column is None else np.asarray(column)[order] for column in columns]


def weighted_auc(values: np.ndarray, positive_weights: np.ndarray, negative_weights: np.ndarray) -> np.ndarray:
    """AUC (B,) of each row of weights (B, n): P(value of a positive > of a negative), ties half; nan without a side."""
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
    """True and false positive rate at every threshold, from the strictest on, both (B, number of distinct values)."""
    order, starts = _ties(-np.asarray(values))
    rates = []
    for weights in (positive_weights, negative_weights):
        counts = np.cumsum(np.add.reduceat(weights[:, order], starts, axis=1), axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            rates.append(counts / counts[:, -1:])
    return rates[0], rates[1]


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


def with_intervals(
    names: Sequence[str], statistic: Statistic, num_rows: int, *, level: float = LEVEL, **options
) -> dict[str, float]:
    """Name -> value, `<name>_low` and `<name>_high` of k scores; the rest as in `bootstrap`, with values (b, k)."""
    samples = bootstrap(statistic, num_rows, **options)
    return spread(names, statistic(np.ones((1, num_rows)))[0], samples, level=level)


def spread(names: Sequence[str], values: ArrayLike, samples: np.ndarray, *, level: float = LEVEL) -> dict[str, float]:
    """Name -> value, `<name>_low` and `<name>_high`, from values (k,) and samples (B, k)."""
    result = {}
    for k, (name, value) in enumerate(zip(names, np.asarray(values), strict=True)):
        low, high = interval(samples[:, k], level=level)
        result |= {name: float(value), f"{name}_low": low, f"{name}_high": high}
    return result


def folded_auc(result: Mapping[str, float]) -> dict[str, float]:
    """leak_auc = max(AUC, 1 - AUC) and its folded interval, which begins at .5 where the AUC's holds one half."""
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
