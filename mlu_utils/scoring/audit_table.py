"""The numbers that the auditor's table judges, from outputs and curves of the models."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from mlu_utils.scoring.attribute_inference import attribute_leak
from mlu_utils.scoring.learning_curves import TARGET_SHARE, relearning_table


def audit_numbers(
    logits: Mapping[str, ArrayLike],
    labels: ArrayLike,
    forgotten: int,
    *,
    test_rows: ArrayLike,
    attacked_rows: ArrayLike,
    identity: ArrayLike,
    feature_leaks: Mapping[str, float],
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    seconds: Mapping[str, float],
    seed: int,
    original: str = "Original",
    reference: str = "Retrain",
) -> dict[str, dict[str, float]]:
    """Return what `audit_table` takes: the five numbers of each model, of a request for one label.

    Args:
        logits: model -> (N, K), of those to judge.
        labels: (N, K), 1, 0 or nan.
        forgotten: column of the forgotten label.
        test_rows: images on which the retained accuracy counts.
        attacked_rows: images on which the forgotten label is read from its own logit.
        identity: int (N,), the person on each.
        feature_leaks: model -> largest max(AUC, 1 - AUC) of an attack on its features.
        curves: model -> (steps, balanced accuracies) of relearning, the original's among them. Relearned is what comes
            up to `TARGET_SHARE` of its score.
        seconds: model -> unlearning time.
        seed: of resampling.

    Returns:
        model -> name -> number. Relearning steps are infinite where the curve ends below the target and the
        reference's does not; where both do, the last step stands for both.
    """
    labels = np.asarray(labels, dtype=np.float64)
    kept = np.delete(labels, forgotten, axis=1)[test_rows]
    known = ~np.isnan(kept)
    steps = relearning_table(curves, target=TARGET_SHARE * curves[original][1][0], reference=reference)
    steps = steps.set_index("method")
    is_open = steps.is_censored & ~steps.is_censored[reference]
    leak_options = {"identity": np.asarray(identity)[attacked_rows], "seed": seed, "num_resamples": 20}
    numbers = {}
    for model, own in logits.items():
        own = np.asarray(own)
        right = (np.delete(own, forgotten, axis=1)[test_rows] > 0) == (kept > 0)
        leak = attribute_leak(own[attacked_rows, forgotten], labels[attacked_rows, forgotten], **leak_options)
        numbers[model] = {
            "retained_accuracy": float(right[known].mean(dtype=np.float32)),
            "output_leak_auc": leak["leak_auc"],
            "feature_leak_auc": float(feature_leaks[model]),
            "relearning_steps": math.inf if is_open[model] else float(steps.steps[model]),
            "unlearning_time_s": seconds[model],
        }
    return numbers
