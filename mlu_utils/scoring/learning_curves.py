"""How fast forgotten knowledge comes back: numbers from curves over training steps.

Purpose: steps until a target, beside the retrained model's, with what a curve that ended too early still tells.
Must not: train; the curves come from `mlu_utils.attacks.relearning`.

Shapes: `steps` (T,) ascending, starting at 0 = before the first step; `values` (T,) a score after that many steps.
"""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.integrate import trapezoid

from mlu_utils.scoring.utility import check_finite

TARGET_SHARE = 0.95  # of the original model's score


def steps_to_reach(steps: ArrayLike, values: ArrayLike, target: float) -> tuple[int, bool]:
    """First number of steps after which the score is at least the target, and whether the curve is censored.

    Args:
        steps: (T,) ascending integers from 0.
        values: (T,), finite.
        target: for example .95 times the original model's balanced accuracy.

    Returns:
        (steps, False), or (last step, True) if the target was never reached: at least one more step is needed.
        0 = the model is at the target as it stands, nothing has been forgotten. With an evaluation every m steps the
        number may be up to m - 1 too large.

    Raises:
        ValueError: wrong shapes, steps that do not start at 0 or do not rise, values or target not finite.

    Source:
        Chundawat, Tarun, Mandal and Kankanhalli (2023), Zero-Shot Machine Unlearning, section 5 (alpha = .05).

    Example:
        >>> steps_to_reach([0, 1, 2, 3], [0.5, 0.6, 0.9, 0.8], 0.85)
        (2, False)
        >>> steps_to_reach([0, 1], [0.5, 0.6], 0.85)
        (1, True)
    """
    steps, values = np.asarray(steps), np.asarray(values, dtype=np.float64)
    if steps.ndim != 1 or steps.shape != values.shape or not steps.size:
        raise ValueError(f"steps {steps.shape} and values {values.shape}: expected one shape (T,)")
    if steps[0] != 0 or (np.diff(steps) <= 0).any():
        raise ValueError(f"steps must start at 0 and rise, got {steps[:5].tolist()}...")
    check_finite(values, "values")
    if not math.isfinite(target):
        raise ValueError(f"target {target} is not finite")
    reached = np.flatnonzero(values >= target)
    return (int(steps[reached[0]]), False) if reached.size else (int(steps[-1]), True)


def anamnesis_index(
    steps: int, reference_steps: int, *, is_censored: bool = False, reference_is_censored: bool = False
) -> tuple[float, str]:
    """Steps to relearn over the retrained model's steps, and how to read it when a curve ended too early.

    Args:
        steps: r of the unlearned model, `steps_to_reach`.
        reference_steps: r of the retrained model.
        is_censored, reference_is_censored: the target was not reached within so many steps.

    Returns:
        The ratio and "exact", "at least" (the unlearned model's curve is censored), "at most" (the reference's is)
        or "unknown" (both are, or both need 0 steps; the ratio is then nan). 1 = as slow as a model that never saw
        the label; below 1 = residual knowledge; far above 1 = forced forgetting that may itself be noticed.

    Raises:
        ValueError: negative steps.

    Source:
        Chundawat, Tarun, Mandal and Kankanhalli (2023), anamnesis index, equation 6.

    Differs:
        Theirs takes a censored number of steps for the number of steps.

    Example:
        >>> anamnesis_index(5, 20)
        (0.25, 'exact')
        >>> anamnesis_index(5, 20, reference_is_censored=True)
        (0.25, 'at most')
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

    Args:
        curves: method -> (steps, values), all over the same rows, labels and learning rate.
        target: see `steps_to_reach`.
        reference: the method whose steps the index divides by.

    Returns:
        Columns method, start_value, steps, is_censored, anamnesis_index, index_is, mean_value (mean over steps, by
        the trapezoid rule, up to the shortest curve's end), mean_value_gap (minus the reference's; above 0 = relearns
        faster). The means need no target and are never censored.

    Raises:
        ValueError: the reference is not among the curves; as `steps_to_reach`.

    Example:
        >>> table = relearning_table({"WP": ([0, 1], [0.5, 0.9]), "Retrain": ([0, 1], [0.5, 0.6])}, target=0.9)
        >>> table.index_is.tolist()
        ['at most', 'unknown']
    """
    if reference not in curves:
        raise ValueError(f"reference {reference!r} is not among the curves {', '.join(curves)}")
    reached = {name: steps_to_reach(*curve, target) for name, curve in curves.items()}
    end = min(int(np.asarray(steps)[-1]) for steps, _ in curves.values())
    rows = []
    for name, (steps, values) in curves.items():
        r, is_censored = reached[name]
        index, kind = anamnesis_index(
            r, reached[reference][0], is_censored=is_censored, reference_is_censored=reached[reference][1]
        )
        steps, values = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
        inside = np.append(steps[steps < end], end)
        mean = trapezoid(np.interp(inside, steps, values), inside) / end if end else values[0]
        rows.append(
            {
                "method": name,
                "start_value": float(values[0]),
                "steps": r,
                "is_censored": is_censored,
                "anamnesis_index": index,
                "index_is": kind,
                "mean_value": float(mean),
            }
        )
    table = pd.DataFrame(rows)
    table["mean_value_gap"] = table.mean_value - float(table.mean_value[table.method == reference].iloc[0])
    return table
