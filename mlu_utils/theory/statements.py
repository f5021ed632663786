"""Claims and verdicts: what a statement says, the small worlds in which it is tried, and how it comes out.

What is claimed, on which page, and which line of a proof is wrong stands in `data/reference/appendix_statements.csv`;
the worlds are in `worlds`. A verdict is never written down: it is computed from both sides of an inequality.
"""

import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import pandas as pd

from mlu_utils import paths
from mlu_utils.naming import require_choice

APPENDIX = paths.REFERENCE / "appendix_statements.csv"
_TEXTS = pd.read_csv(APPENDIX, keep_default_na=False, index_col=["statement", "form"])
STATEMENTS = tuple(dict.fromkeys(_TEXTS.index.get_level_values("statement")))
_ROUNDING = 1e-9  # what float64 may cost, relative
_ATTAINED = 1.01  # a bound that comes this near to the value in some case isn't called loose


class Case(NamedTuple):
    """Both sides of `left <= right` in one world."""

    name: str
    left: float
    right: float
    most: float = math.inf  # what left can't exceed, whatever the statement says


class Verdict(NamedTuple):
    """What the cases say of an inequality.

    It `fails` if a case breaks it; is `vacuous` if in every case its right side is at least what the left side can't
    exceed anyway; `loose` if its right side never comes within 1 % of a left side above 0; else it `holds`. A statement
    is `undefined` if some of its readings fail and some don't.
    """

    verdict: str
    factor: float  # left / right in the first, smallest counterexample; without one the smallest right / left
    worst_factor: float  # the largest of the same ratio
    counterexample: str = ""


def judge(cases: Iterable[Case]) -> Verdict:
    """Return the verdict of an inequality's cases, which are ordered from small to large."""
    cases = list(cases)
    if not cases or any(math.isnan(case.left) or math.isnan(case.right) for case in cases):
        raise ValueError(f"{len(cases)} cases, some sides nan: an inequality needs cases with two numbers each")
    broken = [case for case in cases if case.left > case.right + _ROUNDING * max(1, abs(case.left))]
    if broken:
        factors = [case.left / case.right if case.right > 0 else math.inf for case in broken]
        return Verdict("fails", factors[0], max(factors), broken[0].name)
    factors = [case.right / case.left for case in cases if case.left > _ROUNDING] or [math.inf]
    is_vacuous = all(case.right >= case.most - _ROUNDING for case in cases)
    verdict = "vacuous" if is_vacuous else "loose" if min(factors) > _ATTAINED else "holds"
    return Verdict(verdict, min(factors), max(factors))


@dataclass(frozen=True)
class Claim:
    """One statement in one form: printed, proof, nearest_true, added (A to F), a reading, or a line of a proof."""

    statement: str
    form: str
    try_cases: Callable[..., Iterable[Case]] | None  # None for a statement that has only readings
    broken: dict  # an argument of try_cases that takes away the premise of a true statement, so that it fails
    check: str  # what the cases are
    page: str
    inequality: str  # in LaTeX
    wrong_line: str

    @cached_property
    def verdict(self) -> Verdict:
        """Both sides compared, or the readings with each other."""
        if self.try_cases is not None:
            return judge(self.try_cases())
        found = [claim.verdict for form, claim in claims_of(self.statement).items() if form.startswith("reading")]
        is_open = len({verdict.verdict == "fails" for verdict in found}) == 2
        return Verdict("undefined", math.nan, math.nan) if is_open else found[0]

    def verdict_without_premise(self) -> Verdict:
        """Judge the claim with its premise taken away."""
        return judge(self.try_cases(**self.broken))


_CLAIMS: dict[tuple[str, str], Claim] = {}


def tries(statement: str, claimed: str, /, *, broken: dict | None = None, **options):
    """Register the decorated function, with these options, as the worlds of a claim; its docstring is the check."""

    def register(try_cases: Callable[..., Iterable[Case]] | None, check: str = ""):
        check = check or " ".join(inspect.getdoc(try_cases).split())
        tried = partial(try_cases, **options) if try_cases else None
        text = _TEXTS.loc[(statement, claimed)].to_dict()
        _CLAIMS[statement, claimed] = Claim(statement, claimed, tried, broken or {}, check, **text)
        return try_cases

    return register


def claims() -> list[Claim]:
    """Return all claims, in the order of the appendix."""
    return [_CLAIMS[key] for key in _TEXTS.index]


def claims_of(statement: str) -> dict[str, Claim]:
    """Return form -> claim of one statement."""
    require_choice("statement", statement, STATEMENTS)
    return {claim.form: claim for claim in claims() if claim.statement == statement}


def verdict_table() -> pd.DataFrame:
    """Judge every claim: one row each, with the fields of its `Verdict` and of its text."""
    table = pd.DataFrame({**vars(claim), **claim.verdict._asdict()} for claim in claims())
    order = ["statement", "form", "verdict", "factor", "worst_factor", "page", "wrong_line", "check", "counterexample"]
    return table.assign(says=table.inequality)[[*order, "says"]]
