"""Every printed number as a claim, ours beside it, and the verdict.

Purpose: one row for each number that the paper or the benchmark prints. The numbers lie in the CSV files of
`data/reference/`; which number of ours is compared with which of them, and by which rule, in `comparisons.yaml` there.
Must not: train, score, draw or write files; what was measured is passed in.

Kinds of check, one for each claim:
- "printed numbers": do the printed numbers agree with each other? Nothing is measured, see `printed`.
- "embedded data": does the claim hold in our runs on embedded data? Levels can't match there, since data and start
  weights differ, so each table cell becomes a relation, such as a method minus Retrain. A difference is judged by its
  sign, once it is larger than what chance makes of so few test entries; see `verdict_of_difference`.
- "paper's data": the printed level itself; testable when that data set is there.
- "setting": a choice and not a result; reproduced when every study of the run uses the same value.

Rates are fractions in [0, 1] in scores and `Measured`, percent in the claims, because the paper prints percent.

Beside each verdict stands the one that a measurement of 0 would get: what agrees with 0 as well is no evidence. Claims
that rest on one and the same number of ours count once (`evidence`).
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mlu_utils.claims.printed import (
    CONSISTENT,
    INCONSISTENT,
    NOT_TESTABLE,
    Tables,
    check_printed,
    comparisons,
    load_tables,
    longest_line,
    parse_printed,
)
from mlu_utils.naming import choices

REPRODUCED = "reproduced"
BELOW_RESOLUTION = "below resolution"
NOT_REPRODUCED = "not reproduced"
VERDICTS = (CONSISTENT, INCONSISTENT, REPRODUCED, BELOW_RESOLUTION, NOT_REPRODUCED, NOT_TESTABLE)
PRINTED, EMBEDDED, OWN_DATA, SETTING = CHECK_KINDS = ("printed numbers", "embedded data", "paper's data", "setting")
# How a printed number, a pair (low, high) for "between", is compared with ours; bounds belong to the reproduced side.
RULES = {
    "at_least": lambda printed, ours, _: ours >= printed,
    "at_most": lambda printed, ours, _: ours <= printed,
    "between": lambda printed, ours, _: printed[0] <= ours <= printed[1],
    "close": lambda printed, ours, tolerance: abs(ours - printed) <= tolerance,
}
SIGN = "sign"  # the rule of a difference whose printed value is a number and not a bound
RESOLUTION = 3.0  # points, of differences whose number of test entries is not known
COLUMNS = (
    *("claim_id", "where", "statement", "quantity", "printed", "ours", "unit", "resolution", "dataset_ours", "check"),
    *("verdict", "null_verdict", "evidence", "reason"),
)


@dataclass(frozen=True)
class Measured:
    """Our number for one claim; rates and their differences as fractions, None with a reason where there is none."""

    value: float | None
    dataset: str = "-"
    reason: str = ""
    resolution: float | None = None  # of a difference: two standard errors of it


@dataclass(frozen=True)
class Counterpart:
    """Where in the tidy scores our number for a claim lies; the fields are explained in `comparisons.yaml`."""

    dataset: str
    method: str
    split: str
    label: str
    metric: str
    request: str
    model: str = ""
    against: tuple[str, ...] = ()
    over: str = "mean"
    note: str = ""


@dataclass(frozen=True)
class Claim:
    """One printed number, or one sentence about printed numbers, as `comparisons.yaml` makes it of a printed row."""

    claim_id: str
    where: str
    quantity: str
    unit: str  # "%", "points", "s", ...; with the first two, ours is measured as a fraction
    check: str  # of `CHECK_KINDS`
    rule: str  # of `RULES`; empty where the printed form implies it
    printed: str  # for a difference that of the printed numbers
    tolerance: float | None
    ours: Counterpart | None  # if it lies among the scores
    statement: str = ""  # a sentence, of a claim of the text

    @property
    def is_difference(self) -> bool:
        """Whether ours is a difference of rates, which chance alone can make positive or negative."""
        return self.unit == "points" and self.check == EMBEDDED

    @property
    def evidence(self) -> str:
        """What of ours it rests on: claims about several printed data sets can share it."""
        if self.ours is None or self.check != EMBEDDED:
            return self.claim_id
        ours = (self.ours.method, *self.ours.against)
        request = self.ours.request
        return " ".join(filter(None, ("-".join(ours), self.ours.metric, self.ours.label, self.ours.split, request)))


def verdict(
    printed: float | tuple[float, float], ours: float | None, rule: str, *, tolerance: float | None = None
) -> str:
    """Return whether our number, None or nan where there is none, agrees with a printed one by one of the `RULES`.

    Raises:
        ValueError: unknown rule, a pair or a tolerance that the rule doesn't take, or none where it needs one.
    """
    if rule not in RULES:
        raise ValueError(f"rule {rule!r}: expected one of {', '.join(RULES)}")
    if isinstance(printed, tuple) != (rule == "between"):
        raise ValueError(f"printed {printed!r} does not fit the rule {rule!r}: only 'between' takes a pair")
    if (rule == "close") != (tolerance is not None and tolerance >= 0):
        raise ValueError(f"tolerance {tolerance!r} with rule {rule!r}: 'close' needs one >= 0, no other rule takes one")
    if ours is None or math.isnan(ours):
        return NOT_TESTABLE
    return REPRODUCED if RULES[rule](printed, ours, tolerance) else NOT_REPRODUCED


def verdict_of_difference(printed: float, ours: float | None, rule: str, *, resolution: float) -> str:
    """Return whether our difference agrees with a printed one, or with a printed bound, where it can be told at all.

    Both are in points; `resolution` is two standard errors of ours. With the rule "sign": reproduced if ours has the
    printed sign and 0 lies outside its interval, below resolution if 0 and the printed number both lie inside. With a
    bound: reproduced beyond it by more than the resolution, below resolution as near to it as that.
    """
    if rule not in (SIGN, "at_least", "at_most"):
        raise ValueError(f"rule {rule!r} of a difference: expected {SIGN}, at_least or at_most")
    if ours is None or math.isnan(ours):
        return NOT_TESTABLE
    if rule == SIGN:
        if abs(ours) > resolution:
            return REPRODUCED if ours * printed > 0 else NOT_REPRODUCED
        return BELOW_RESOLUTION if abs(ours - printed) <= resolution else NOT_REPRODUCED
    beyond = (ours - printed) * (1 if rule == "at_least" else -1)
    return BELOW_RESOLUTION if abs(beyond) <= resolution else REPRODUCED if beyond > 0 else NOT_REPRODUCED


# --- from printed tables to claims --------------------------------------------------------------------------


def load_claims(tables: Tables | None = None) -> tuple[Claim, ...]:
    """Return every claim of the printed tables, by default `load_tables()`; refuse an id twice or an unknown check."""
    tables = load_tables() if tables is None else tables
    claims: dict[str, Claim] = {}
    for name, shared in comparisons()["tables"].items():
        for claim in _claims_of(tables[name], shared):
            if claim.check not in CHECK_KINDS:
                raise ValueError(f"claim {claim.claim_id!r}: check {claim.check!r}: expected one of {CHECK_KINDS}")
            if claim.claim_id in claims:
                raise ValueError(f"claim {claim.claim_id!r} is there twice")
            claims[claim.claim_id] = claim
    return tuple(claims.values())


def _claims_of(table: pd.DataFrame, shared: Mapping) -> Iterator[Claim]:
    rows = table.astype(object).where(table.notna(), "").to_dict("records")
    keys = [column for column in table if not column.endswith("_pct")]
    by_keys = {tuple(row[key] for key in keys): row for row in rows}
    for row in rows:
        for own in shared["claims"]:
            if _fits(row, own.get("rows", {})) and not ("unless" in own and _fits(row, own["unless"])):
                other = {**row, **own["minus"]} if "minus" in own else None
                entry = {**shared, **own, "ours": {**shared.get("ours", {}), **own.get("ours", {})}}
                yield _claim(row, entry, other and by_keys[tuple(other[key] for key in keys)])


def _fits(row: Mapping, wanted: Mapping) -> bool:
    """Return whether a row has these values, of which a list allows several and {column} names another column."""
    options = {column: value if isinstance(value, list) else [value] for column, value in wanted.items()}
    return all(row[column] in _filled(allowed, row) for column, allowed in options.items())


def _filled(values: Iterable, words: Mapping) -> list:
    """Return values with each {column} of a text filled in."""
    return [value.format_map(words) if isinstance(value, str) else value for value in values]


def _claim(row: Mapping, entry: Mapping, other: Mapping | None) -> Claim:
    """Fill an entry of `comparisons.yaml` with a printed row, and with the row that is subtracted from it."""
    names = ("id", "where", "quantity", "unit", "check", "rule", "tolerance")
    claim_id, *texts, tolerance = (str(entry.get(name, "")).format_map(row) for name in names)
    printed, tolerance = row.get(entry["printed"], entry["printed"]), float(tolerance) if tolerance else None
    if other is not None:
        printed = f"{printed - other[entry['printed']]:.2f}"
    printed = printed if isinstance(printed, str) else f"{printed:g}"
    ours = _counterpart(row, entry["ours"] or comparisons()["text"].get(claim_id))
    return Claim(claim_id, *texts, printed, tolerance, ours, row.get("statement", ""))


def _counterpart(row: Mapping, entry: Mapping | None) -> Counterpart | None:
    if not entry:
        return None
    names = comparisons()["names"]
    words = {column: names.get(word, word) for column, word in row.items()}
    words |= comparisons()["datasets"].get(row.get("dataset"), {})
    entry = {**entry, "against": tuple(names.get(name, name) for name in entry.get("against", ()))}
    return Counterpart(**dict(zip(entry, _filled(entry.values(), words), strict=True)))


# --- from our scores to measured claims ---------------------------------------------------------------------

_Study = tuple[str, str, str]  # dataset, model, request
_Values = dict[tuple[str, str, str, str], float]  # method, split, label, metric -> mean over seeds


def measure(
    scores: pd.DataFrame,
    sweep: pd.DataFrame | None = None,
    *,
    entries: Mapping[_Study, Mapping[str, int]] | None = None,
) -> dict[str, Measured]:
    """Return claim id -> our number for every claim that these scores can answer.

    Methods count in their targeted reading. A relation is the mean over the studies that fit (seeds averaged first),
    their range given as reason; a claim of the text takes the study that speaks most against it.

    Args:
        scores: tidy scores, as `results.scores.read_scores` gives them.
        sweep: our Table 1: columns study, epsilon, tau, quantity (retained accuracy, forgetting), value.
        entries: of each study, `<split>/retained`, `<split>/forgotten` and `<split>/image` -> how many label entries,
            or images, an accuracy counts. Without it differences have the `RESOLUTION`.
    """
    measured, studies = {}, _by_study(scores)
    for claim in load_claims():
        if claim.ours is not None:
            about = comparisons()["datasets"][claim.ours.dataset]
            names = [about["loader"]] if claim.check == OWN_DATA else about.get("stand_ins", [])
            of_names = {study: values for study, values in studies.items() if study[0] in names}
            found = _measure(claim.ours, of_names, entries or {})
            if found is not None:
                measured[claim.claim_id] = found
    return measured if sweep is None else measured | _measure_sweep(sweep)


def _by_study(scores: pd.DataFrame) -> dict[_Study, _Values]:
    keys = ["dataset", "model", "request", "method", "split", "label", "metric"]
    means = scores[scores["reading"].isin(["-", "targeted"])].groupby(keys)["value"].mean()
    studies: dict[_Study, _Values] = {}
    for key, value in means.items():
        studies.setdefault(key[:3], {})[key[3:]] = value
    return studies


def _measure(ours: Counterpart, studies: Mapping[_Study, _Values], entries: Mapping) -> Measured | None:
    found: dict[_Study, float] = {}
    errors: dict[_Study, float] = {}
    for study, values in studies.items():
        _, model, request = study
        is_request = request == ours.request or (ours.request.endswith(":") and request.startswith(ours.request))
        label = request.partition(":")[2] if ours.label == "own" else ours.label
        wanted = [(method, ours.split, label, ours.metric) for method in (ours.method, *ours.against)]
        if is_request and ours.model in ("", model) and all(key in values for key in wanted):
            best = max((values[key] for key in wanted[1:]), default=0.0)
            found[study] = values[wanted[0]] - best
            # As if the two models erred independently: they see the same images, so the true error is smaller.
            of = label if label in ("retained", "forgotten") else "image"
            count = entries.get(study, {}).get(f"{ours.split}/{of}")
            spread = sum(rate * (1 - rate) for rate in (values[wanted[0]], best))
            errors[study] = math.sqrt(max(spread, 0.0) / count) if count else math.nan
    if not found:
        return None
    numbers = list(found.values())
    value = {"mean": np.mean, "min": min, "max": max}[ours.over](numbers)
    chosen = [errors[study] for study, number in found.items() if ours.over == "mean" or number == value]
    resolution = 2 * math.hypot(*chosen) / len(chosen) if ours.against else math.nan
    if ours.note:
        reason = f"{ours.note}; " + ", ".join(f"{study[0]} {number:.3f}" for study, number in found.items())
    elif ours.over != "mean":
        reason = f"least favourable of {len(found)} studies"
    elif len(found) > 1:
        reason = f"mean of {len(found)} studies, {100 * min(numbers):.1f} to {100 * max(numbers):.1f}"
    else:
        reason = "1 study"
    names = " and ".join(sorted({study[0] for study in found}))
    return Measured(float(value), names, reason, None if math.isnan(resolution) else resolution)


def _measure_sweep(sweep: pd.DataFrame) -> dict[str, Measured]:
    """Change of each quantity from the smallest to the largest epsilon (tau), mean over studies."""
    measured = {}
    for quantity in ("retained accuracy", "forgetting"):
        means = sweep[sweep["quantity"] == quantity].groupby(["epsilon", "tau"], as_index=False)["value"].mean()
        for varied, fixed in (("epsilon", "tau"), ("tau", "epsilon")):
            line = longest_line(means, varied, fixed)
            change = line["value"].iloc[-1] - line["value"].iloc[0]
            reason = f"our {varied} from {line[varied].iloc[0]:g} to {line[varied].iloc[-1]:g}"
            measured[f"table1/{varied}/{quantity}"] = Measured(float(change), "this run's studies", reason)
    return measured


def measure_settings(facts: Mapping[str, Mapping[str, object]]) -> dict[str, Measured]:
    """Return `setting/<name>` -> the printed value if every study of the run uses it, else the first other one.

    `facts` holds each study's values by name, such as num_epochs. The reason names the studies that depart.
    """
    measured = {}
    for claim in load_claims():
        name = claim.claim_id.removeprefix("setting/")
        used = {study: values[name] for study, values in facts.items() if name in values}
        if claim.check != SETTING or not used:
            continue
        # In scores and facts rates are fractions, in print percent.
        scale = 100.0 if claim.unit == "%" else 1.0
        printed, tolerance = float(claim.printed) / scale, (claim.tolerance or 0.0) / scale
        other = {study: value for study, value in used.items() if abs(value - printed) > tolerance}
        reason = ", ".join(f"{study} {value:g}" for study, value in other.items()) or f"{len(used)} studies"
        value = next(iter(other.values()), printed)
        measured[claim.claim_id] = Measured(float(value), "this run's studies", reason)
    return measured


# --- the audit ----------------------------------------------------------------------------------------------


def audit(measured: Mapping[str, Measured], tables: Tables | None = None) -> pd.DataFrame:
    """Return every printed number beside ours, with a verdict and its reason: `COLUMNS`, one row a claim.

    Args:
        measured: claim id -> our number, from `measure`, `measure_settings` or a notebook of its own. Where the unit
            is "%" or "points", a fraction, which becomes percent here. For a check of printed numbers, ours is what was
            computed from them.

    Raises:
        ValueError: a measured id that is no claim or whose check uses printed numbers only, a percentage given as
            such, a claim without rule, or a check without claim.
    """
    tables = load_tables() if tables is None else tables
    claims, findings = {claim.claim_id: claim for claim in load_claims(tables)}, check_printed(tables)
    checked = {claim.claim_id for claim in claims.values() if claim.check == PRINTED}
    if checked != set(findings):
        raise ValueError(f"claims and checks of printed numbers differ: {sorted(checked ^ set(findings))}")
    for claim_id in measured:
        if claim_id not in claims:
            raise ValueError(f"no claim {claim_id!r}: {choices(claim_id, claims)}")
        if claim_id in checked:
            raise ValueError(f"claim {claim_id!r} is checked by printed numbers alone: nothing to measure")
    rows = []
    for name, claim in claims.items():
        printed, source = claim.printed, "printed numbers"
        if (finding := findings.get(name)) is not None:
            printed = finding.printed or printed
            ours, outcome, reason, resolution, null = finding.computed, finding.verdict, finding.reason, math.nan, "-"
        else:
            found = measured.get(name) or Measured(None, reason=_why_untested(claim))
            source, (ours, outcome, reason, resolution, null) = found.dataset, _judge(claim, found)
        rows.append(
            (
                *(name, claim.where, claim.statement, claim.quantity, printed, ours, claim.unit, resolution, source),
                *(claim.check, outcome, null, claim.evidence, reason),
            )
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def count_verdicts(audited: pd.DataFrame) -> pd.DataFrame:
    """Return how many claims got which verdict: one row a verdict, one column a kind of check, `all` and the null.

    Claims with the same `evidence` count once, by the first of them. The column `embedded data, null` says how many of
    the claims on embedded data a measurement of 0 would give that verdict.
    """
    tested_first = audited.sort_values("verdict", key=lambda verdict: verdict == NOT_TESTABLE, kind="stable")
    counted = tested_first.drop_duplicates(["check", "evidence"])
    counts = pd.crosstab(counted["verdict"], counted["check"])
    counts = counts.reindex(index=list(VERDICTS), columns=list(CHECK_KINDS), fill_value=0)
    null = counted.loc[counted["check"] == EMBEDDED, "null_verdict"].value_counts()
    counts.insert(list(CHECK_KINDS).index(EMBEDDED) + 1, f"{EMBEDDED}, null", null.reindex(counts.index, fill_value=0))
    return counts.assign(all=counts[list(CHECK_KINDS)].sum(axis=1))


def is_of_text(audited: pd.DataFrame) -> pd.Series:
    """Return which claims are of the text or across tables, True, and which are a cell of one table, False."""
    return ~audited["claim_id"].str.match(r"table\d/|benchmark/")


def _judge(claim: Claim, found: Measured) -> tuple[float, str, str, float, str]:
    """Return ours in the claim's unit, the verdict, its reason, the resolution and the verdict of a measured 0."""
    if found.value is None or math.isnan(found.value):
        return math.nan, NOT_TESTABLE, found.reason or "measured, but undefined", math.nan, NOT_TESTABLE
    implied, printed = parse_printed(claim.printed)
    rule = claim.rule or implied
    if not rule:
        raise ValueError(f"claim {claim.claim_id!r} prints {claim.printed} and has no rule: choose from {[*RULES]}")
    ours = float(found.value)
    if claim.unit in ("%", "points"):
        low = 0.0 if claim.unit == "%" else -1.0
        if not low <= ours <= 1.0:
            raise ValueError(f"claim {claim.claim_id!r}: ours is {ours}, expected a fraction in [{low:g}, 1]")
        ours *= 100.0
    checked, resolution = f"{rule} {claim.printed}", math.nan
    if claim.is_difference:
        resolution = RESOLUTION if found.resolution is None else 100 * found.resolution
        outcome, null = (verdict_of_difference(printed, x, rule, resolution=resolution) for x in (ours, 0.0))
        checked += f", resolution {resolution:.1f}"
    else:
        outcome, null = (verdict(printed, x, rule, tolerance=claim.tolerance) for x in (ours, 0.0))
        checked += f" within {claim.tolerance:g}" if claim.tolerance is not None else ""
    return ours, outcome, f"rule: {checked}" + (f"; {found.reason}" if found.reason else ""), resolution, null


def _why_untested(claim: Claim) -> str:
    if claim.check == SETTING:
        return "a choice, not a result; not among the parameters of this run"
    if claim.check == OWN_DATA:
        return "a printed level: needs the paper's data set" + ("" if claim.unit != "s" else " and machine")
    if claim.ours is None or claim.ours.over != "mean":  # a claim of the text, or ours is no score
        return "no study of this run measures it"
    methods = " and ".join((claim.ours.method, *claim.ours.against))
    where = ", ".join(filter(None, (claim.ours.model, f"a request {claim.ours.request}")))
    return f"no study of this run has {methods} with {where} on a stand-in for {claim.ours.dataset}"
