"""Scores: NumPy arrays in, numbers out. No model, no table, no file and no picture is known here.

`utility` says how well labels are predicted; `probe` fits attackers to features, and `attribute_inference` says what
they learn about a forgotten label; `bootstrap` gives their intervals.
"""

from mlu_utils.scoring.attribute_inference import attack_table, attribute_leak, excess_leak, split_by_identity
from mlu_utils.scoring.probe import attack_logits, linear_probe
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
    "attack_logits",
    "attack_table",
    "attribute_leak",
    "auc",
    "balanced_accuracy",
    "binary_scores",
    "class_scores",
    "excess_leak",
    "false_positive_rate",
    "flip_safe_accuracy",
    "label_scores",
    "linear_probe",
    "recall",
    "split_by_identity",
]
