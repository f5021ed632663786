"""How fast forgotten knowledge comes back: curves of rising integer steps (T,), 0 = before the first, and scores."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.integrate import trapezoid

from mlu_utils.naming import require_choice
from mlu_utils.scoring.arrays import checked

TARGET_SHARE = 0.95  # of the original model's score: the usual target


def steps_to_reach(steps: ArrayLike, values: ArrayLike, target: float) -> tuple[int, bool]:
    """First number of steps after which the score is at least the target, and whether the curve is censored.

    Censored = never reached: the last step. With an evaluation every m steps the number may be up to m - 1 too large.

    >>> steps_to_reach([0, 1, 2, 3], [0.5, 0.6, 0.9, 0.8], 0.85), steps_to_reach([0, 1], [0.5, 0.6], 0.85)
    ((2, False), (1, True))
    """
    steps, values = checked(steps=(steps, "T", "whole"), values=(values, "T"))
    if steps[0] != 0 or (np.diff(steps) <= 0).any():
        raise ValueError(f"steps must start at 0 and rise, got {steps[:5].tolist()}...")
    if not math.isfinite(target):
        raise ValueError(f"target {target} is not finite")
    reached = np.flatnonzero(values >= target)
    return (int(steps[reached[0]]), False) if reached.size else (int(steps[-1]), True)


def anamnesis_index(
    steps: int, reference_steps: int, *, is_censored: bool = False, reference_is_censored: bool = False
) -> tuple[float, str]:
    """Steps to relearn over the retrained model's steps: below 1 = residual knowledge; far above 1 may be noticed.

    The ratio is "exact", "at least" (the unlearned model's curve is censored), "at most" (the reference's is) or
    "unknown" (both are, or both need 0 steps: nan). Source: Chundawat, Tarun, Mandal and Kankanhalli (2023), Zero-Shot
    Machine Unlearning, equation 6. Differs: theirs takes a censored number as it is.
    """
    if steps < 0 or reference_steps < 0:
        raise ValueError(f"steps {steps} and {reference_steps}: expected at least 0")
    if is_censored and reference_is_censored or steps == reference_steps == 0:
        return math.nan, "unknown"
    ratio = steps / reference_steps if reference_steps else math.inf
    return ratio, "at least" if is_censored else "at most" if reference_is_censored else "exact"


def relearning_table(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]], *, target: float, reference: str = "Retrain"
) -> pd.DataFrame:
    """One row a method: steps to relearn, censoring, anamnesis index, and the score averaged over the curve.

    Curves: method -> (steps, values), over the same images, labels and learning rate. mean_value: by the trapezoid
    rule, up to the shortest curve's end, without a target; mean_value_gap: minus the reference's, above 0 = faster.
    """
    require_choice("reference", reference, curves)
    reached = {name: steps_to_reach(*curve, target) for name, curve in curves.items()}
    end = min(int(np.asarray(steps)[-1]) for steps, _ in curves.values())
    rows = []
    for name, (steps, values) in curves.items():
        (own, own_ends), (other, other_ends) = reached[name], reached[reference]
        index, kind = anamnesis_index(own, other, is_censored=own_ends, reference_is_censored=other_ends)
        steps, values = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
        inside = np.append(steps[steps < end], end)
        mean = trapezoid(np.interp(inside, steps, values), inside) / end if end else values[0]
        rows.append((name, float(values[0]), own, own_ends, index, kind, float(mean)))
    columns = ["method", "start_value", "steps", "is_censored", "anamnesis_index", "index_is", "mean_value"]
    table = pd.DataFrame(rows, columns=columns)
    table["mean_value_gap"] = table.mean_value - float(table.mean_value[table.method == reference].iloc[0])
    return table
