"""Scores: NumPy arrays in, numbers out. No model, no table, no file and no picture is known here.

`utility` says how well labels are predicted. Of the privacy analysis, `attribute_inference` says what an attacker
learns about a forgotten label from outputs or features (`probe` holds the attackers), `membership` whether an image
was learned from, `entropy` whether outputs give forgotten data away, `distances` how close two models' outputs are,
`relearning` how fast a label comes back, `forgetting_quality` the challenge's epsilon, and `audit` what all that
means for a verdict; `bootstrap` gives the intervals.
"""

from mlu_utils.scoring.attribute_inference import attack_table, attribute_leak, excess_leak, split_by_identity
from mlu_utils.scoring.audit import audit_table, verify_unlearning
from mlu_utils.scoring.entropy import streisand, streisand_table
from mlu_utils.scoring.learning_curves import relearning_table
from mlu_utils.scoring.membership import membership_leak, null_on_halves
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
    "audit_table",
    "balanced_accuracy",
    "binary_scores",
    "class_scores",
    "excess_leak",
    "false_positive_rate",
    "flip_safe_accuracy",
    "label_scores",
    "linear_probe",
    "membership_leak",
    "null_on_halves",
    "recall",
    "relearning_table",
    "split_by_identity",
    "streisand",
    "streisand_table",
    "verify_unlearning",
]
