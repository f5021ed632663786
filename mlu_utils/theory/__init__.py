"""Do the paper's theorems hold? Each statement computed, with its verdict, counterexample and nearest true form.

`information` holds quantities and known inequalities, `worlds` the statements with the small worlds that decide them,
`statements` the judge, `true_bounds` theorems A to F, `on_networks` both sides on given networks.
"""

from mlu_utils.theory import information, true_bounds, worlds
from mlu_utils.theory.statements import APPENDIX, STATEMENTS, claims, claims_of, verdict_table

__all__ = ["APPENDIX", "STATEMENTS", "claims", "claims_of", "information", "true_bounds", "verdict_table", "worlds"]
