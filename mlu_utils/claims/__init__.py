"""The paper's printed numbers: whether they agree with each other (`printed`) and with ours (`compare`)."""

from mlu_utils.claims.compare import (
    VERDICTS,
    Measured,
    audit,
    count_verdicts,
    is_of_text,
    load_claims,
    measure,
    measure_settings,
)
from mlu_utils.claims.printed import INCONSISTENT, NOT_TESTABLE, load_printed

__all__ = [
    "INCONSISTENT",
    "NOT_TESTABLE",
    "VERDICTS",
    "Measured",
    "audit",
    "count_verdicts",
    "is_of_text",
    "load_claims",
    "load_printed",
    "measure",
    "measure_settings",
]
