"""Do the paper's theorems hold? Each statement computed, with its verdict, counterexample and nearest true form.

`information` holds quantities and known inequalities, `cases` the small worlds in which statements are tried,
`statements` claims and verdicts, `steps` the proofs step by step, `models` both sides on given networks.
"""

from mlu_utils.theory import cases, information
from mlu_utils.theory.on_networks import (
    clamp_bound,
    label_leakage,
    mcdiarmid_delta,
    neighbouring_table,
    pruning_privacy,
    retrain_bound,
)
from mlu_utils.theory.statements import CLAIMS, FORMS, STATEMENTS, VERDICTS, claims_of, judge, verdict_table
from mlu_utils.theory.steps import STEPS, report

__all__ = [
    "CLAIMS",
    "FORMS",
    "STATEMENTS",
    "STEPS",
    "VERDICTS",
    "cases",
    "claims_of",
    "clamp_bound",
    "information",
    "judge",
    "label_leakage",
    "mcdiarmid_delta",
    "neighbouring_table",
    "pruning_privacy",
    "report",
    "retrain_bound",
    "verdict_table",
]
