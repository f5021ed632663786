"""Scores: NumPy arrays in, numbers out. No model, no table, no file and no picture is known here.

`utility` says how well labels are predicted, `probe` how well a label can be read out of features.
"""

from mlu_utils.scoring.probe import linear_probe
from mlu_utils.scoring.utility import (
    SCORES,
    accuracy,
    auc,
    balanced_accuracy,
    binary_scores,
    class_scores,
    false_positive_rate,
    flip_safe_accuracy,
    label_scores,
    recall,
)

__all__ = [
    "SCORES",
    "accuracy",
    "auc",
    "balanced_accuracy",
    "binary_scores",
    "class_scores",
    "false_positive_rate",
    "flip_safe_accuracy",
    "label_scores",
    "linear_probe",
    "recall",
]
