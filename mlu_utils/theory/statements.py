"""Claims and verdicts: what a statement says, the small worlds in which it is tried, and how it comes out.

A verdict is never written down: `judge` computes it from both sides of an inequality in every case. The claims
themselves are in `worlds`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import pandas as pd

from mlu_utils.naming import choices

# Pages of the authors' appendix (Promzi/unlearn_label, commit 338ecb2); A to F are ours.
PAGES = {"T1": "19-20", "T2": "20-21", "T3": "22", "T4": "22-23", "T5": "23", "C1": "23", "C2": "24", "T6": "24"}
PAGES |= {"C3": "24"} | dict.fromkeys("ABCDEF", "")
STATEMENTS = tuple(PAGES)
# printed; proof: what its proof gives; a reading or a single line of the proof; nearest_true; added: A to F.
FORMS = ("printed", "proof", "nearest_true", "added")
VERDICTS = ("holds", "loose", "vacuous", "undefined", "fails")
_ROUNDING = 1e-9  # what float64 may cost, relative
_ATTAINED = 1.01  # a bound that comes this near to the value in some case isn't called loose


@dataclass(frozen=True)
class Case:
    """Both sides of `left <= right` in one world; `most` is what left can't exceed, whatever the statement says."""

    name: str
    left: float
    right: float
    most: float = math.inf


@dataclass(frozen=True)
class Verdict:
    """What the cases say of an inequality.

    verdict: `fails` if a case breaks it; `vacuous` if in every case its right side is at least what the left side
    can't exceed anyway; `loose` if its right side never comes within 1 % of a left side above 0; else `holds`;
    `undefined` for a statement whose readings disagree.
    factor: where it fails left / right in the smallest counterexample, which is the first; else the smallest
    right / left. worst_factor: the largest of the same ratio.
    """

    verdict: str
    factor: float
    worst_factor: float
    counterexample: str = ""


def _ratio(above: float, below: float) -> float:
    return above / below if below > 0 else math.inf


def judge(cases: Iterable[Case]) -> Verdict:
    """Return the verdict of an inequality's cases, which are ordered from small to large.

    Raises:
        ValueError: no case, or a side that is not a number.
    """
    cases = list(cases)
    if not cases or any(math.isnan(case.left) or math.isnan(case.right) for case in cases):
        raise ValueError(f"{len(cases)} cases, some sides nan: an inequality needs cases with two numbers each")
    slack = [_ROUNDING * max(1, abs(case.left)) for case in cases]
    broken = [case for case, s in zip(cases, slack, strict=True) if case.left > case.right + s]
    if broken:
        factors = [_ratio(case.left, case.right) for case in broken]
        return Verdict("fails", factors[0], max(factors), broken[0].name)
    factors = [_ratio(case.right, case.left) for case in cases if case.left > _ROUNDING] or [math.inf]
    is_vacuous = all(case.right >= case.most - s for case, s in zip(cases, slack, strict=True))
    verdict = "vacuous" if is_vacuous else "loose" if min(factors) > _ATTAINED else "holds"
    return Verdict(verdict, min(factors), max(factors))


@dataclass(frozen=True)
class Claim:
    """One statement in one form.

    symbols: the inequality, in LaTeX. try_cases: yields the cases; None for a statement that has only readings.
    check: what they are. wrong_line: of the proof. broken: an argument of `try_cases` that takes away the premise on
    which a true statement rests, so that it fails.
    """

    statement: str
    form: str
    symbols: str
    try_cases: Callable[..., Iterable[Case]] | None
    check: str
    wrong_line: str
    broken: dict

    def verdict(self) -> Verdict:
        """Judge the claim; one that leaves open what it means is undefined where its readings come out differently."""
        if self.try_cases is not None:
            return judge(self.try_cases())
        found = [claim.verdict() for form, claim in claims_of(self.statement).items() if form.startswith("reading")]
        agree = len({verdict.verdict for verdict in found}) == 1
        return found[0] if agree else Verdict("undefined", math.nan, math.nan)

    def verdict_without_premise(self) -> Verdict:
        """Judge the claim with its premise taken away."""
        return judge(self.try_cases(**self.broken))


_CLAIMS: list[Claim] = []


def states(statement: str, form: str, symbols: str, /, *, wrong_line: str = "", broken: dict | None = None, **options):
    """Register the decorated function, with these options, as the worlds of a claim; its docstring is the check."""

    def register(try_cases: Callable[..., Iterable[Case]]) -> Callable[..., Iterable[Case]]:
        check = " ".join(inspect.getdoc(try_cases).split("\n\n")[0].split())
        tried = partial(try_cases, **options)
        _CLAIMS.append(Claim(statement, form, symbols, tried, check, wrong_line, broken or {}))
        return try_cases

    return register


def leave_open(statement: str, symbols: str, check: str) -> None:
    """Register a statement as printed that has a verdict only for each of its readings."""
    _CLAIMS.append(Claim(statement, "printed", symbols, None, check, check, {}))


def claims() -> list[Claim]:
    """Return all claims, by statement; of one statement: as printed, as proved, readings and lines, nearest true."""
    last = len(FORMS) - 2
    return sorted(
        _CLAIMS,
        key=lambda claim: (
            STATEMENTS.index(claim.statement),
            FORMS.index(claim.form) if claim.form in FORMS else last - 0.5,
        ),
    )


def claims_of(statement: str) -> dict[str, Claim]:
    """Return form -> claim of one statement.

    Raises:
        ValueError: no such statement.
    """
    if statement not in STATEMENTS:
        raise ValueError(f"unknown statement {statement!r}: {choices(statement, STATEMENTS)}")
    return {claim.form: claim for claim in claims() if claim.statement == statement}


def verdict_table() -> pd.DataFrame:
    """Judge every claim: one row each, with what `Verdict` says, the page, the wrong line of the proof and the check."""
    rows = []
    for claim in claims():
        found = claim.verdict()
        rows.append(
            {
                "statement": claim.statement,
                "form": claim.form,
                "verdict": found.verdict,
                "factor": found.factor,
                "worst_factor": found.worst_factor,
                "page": PAGES[claim.statement],
                "wrong_line": claim.wrong_line,
                "check": claim.check,
                "counterexample": found.counterexample,
            }
        )
    return pd.DataFrame(rows)


def report(*statements: str) -> str:
    """Return the claims of some statements as a Markdown table: form, inequality, verdict with its factors, cause."""
    lines = ["| | form | says | verdict | factor, worst | smallest counterexample |", "|---|---|---|---|---|---|"]
    notes = []
    for claim in (claim for name in statements for claim in claims_of(name).values()):
        found = claim.verdict()
        factors = "" if math.isnan(found.factor) else f"{found.factor:.3g}, {found.worst_factor:.3g}"
        form, page = claim.form.replace("_", " "), PAGES[claim.statement]
        where = f"{claim.statement}, p. {page}" if page else claim.statement
        counterexample = found.counterexample.replace("|", r"\|")
        symbols = claim.symbols.replace("|", r"\vert ")
        lines.append(f"| {where} | {form} | ${symbols}$ | **{found.verdict}** | {factors} | {counterexample} |")
        if claim.wrong_line:
            notes.append(f"- *{claim.statement}, {form}*: {claim.wrong_line}")
    return "\n".join([*lines, "", *(["**The wrong line.**", "", *notes] if notes else [])])
