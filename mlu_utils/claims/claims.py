"""Every printed number as a claim, how it is tested, and the verdict.

Purpose: one row for each number that the paper or the benchmark prints. Table cells are read from the CSV files in
`data/reference/`, numbers of the text from `claims.csv` there; no number is written twice.
Must not: train, score, draw or write files; what was measured is passed in.

Kinds of check, one for each claim:
- "printed numbers": do the printed numbers agree with each other? Nothing is measured, see `consistency`.
- "embedded data": does the claim hold in our runs on embedded data? Levels can't match there, since data and start
  weights differ, so each table cell becomes a relation: a method minus Retrain, an attribute under WP minus under WF, a
  forgotten label's accuracy. A difference is reproduced when ours lies within `RELATION_TOLERANCE` points of the
  printed one, or within half of it where that is more: what is printed above the tolerance must keep its sign. A
  forgotten label is reproduced when at most `FORGOTTEN_AT_MOST` percent is left, as accuracy and as positive recall.
- "paper's data": the printed level itself, within `LEVEL_TOLERANCE` points; testable when that data set is there.
- "setting": a choice and not a result; reproduced when every study of the run uses the same value.

Rates are fractions in [0, 1] in scores and `Measured`, percent in the claims, because the paper prints percent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mlu_utils.claims.consistency import (
    BASELINES,
    CONSISTENT,
    INCONSISTENT,
    NOT_TESTABLE,
    Finding,
    Tables,
    benchmark_id,
    check_printed,
    load_tables,
    longest_line,
    parse_printed,
)
from mlu_utils.naming import choices

REPRODUCED = "reproduced"
NOT_REPRODUCED = "not reproduced"
VERDICTS = (CONSISTENT, INCONSISTENT, REPRODUCED, NOT_REPRODUCED, NOT_TESTABLE)
PRINTED, EMBEDDED, OWN_DATA, SETTING = CHECK_KINDS = ("printed numbers", "embedded data", "paper's data", "setting")
RULES = ("at_least", "at_most", "between", "close")
COLUMNS = (
    "claim_id",
    "where",
    "quantity",
    "printed",
    "ours",
    "unit",
    "dataset_ours",
    "check",
    "verdict",
    "reason",
)

RELATION_TOLERANCE = 3.0  # points; one standard error of a difference over the 280 retained test entries of orl
FORGOTTEN_AT_MOST = 1.0  # percent; the largest printed value is 0.34
LEVEL_TOLERANCE = 2.0  # points; what another seed or split may change

# The printed data sets -> those of this suite that stand in for them, and the loaders of the real ones.
STAND_INS: dict[str, tuple[str, ...]] = {
    "CelebA": ("orl", "synthfaces"),
    "VGGFace2": ("orl", "synthfaces"),
    "MUFAC": ("synthages",),
    "MNIST": ("digits",),
}
LOADERS = {
    "CelebA": "celeba",
    "VGGFace2": "vggface2",
    "MUFAC": "mufac",
    "MUCAC": "celebahq",
    "CIFAR-10": "cifar10",
    "MNIST": "mnist",
    "SVHN": "svhn",
}
ARCHITECTURES = {"ResNet-18": "resnet18", "ResNet-50": "resnet50"}
METHOD_NAMES = {"CF-3": "CF-k", "Retrained": "Retrain"}  # printed -> ours, where they differ
LABEL_NAMES = {"Gender": "Male", "Young_Old": "Young"}
# Table 5: what each data set forgets.
FORGOTTEN_CLASSES = {"CIFAR-10": "class:truck", "MNIST": "class:3", "SVHN": "class:3"}


@dataclass(frozen=True)
class Measured:
    """Our number for one claim; rates and their differences as fractions, None with a reason where there is none."""

    value: float | None
    dataset: str = "-"
    reason: str = ""


@dataclass(frozen=True)
class Cell:
    """Where in the tidy scores a table cell's counterpart lies; empty fields match anything.

    Args:
        dataset: as printed.
        method, split, label, metric: as in the scores.
        request: a whole request, or its kind with a colon, such as "label:".
        model: architecture.
        against: the method whose score is subtracted.
    """

    dataset: str
    method: str
    split: str
    label: str
    metric: str
    request: str = ""
    model: str = ""
    against: str = ""


@dataclass(frozen=True)
class Claim:
    """One printed number, or one sentence about printed numbers.

    Args:
        claim_id: unique.
        where: section or table.
        quantity: what it is, in our words.
        printed: as printed; for a difference the difference of the printed numbers.
        unit: "%", "points", "s", ...; with the first two, ours is measured as a fraction.
        check: one of `CHECK_KINDS`.
        rule, tolerance: see `verdict`; empty where the printed form implies the rule.
        cell: where ours is found among the scores, for a table cell.
    """

    claim_id: str
    where: str
    quantity: str
    printed: str
    unit: str
    check: str
    rule: str = ""
    tolerance: float | None = None
    cell: Cell | None = None


# --- reading and judging ------------------------------------------------------------------------------------


def verdict(
    printed: float | tuple[float, float], ours: float | None, rule: str, *, tolerance: float | None = None
) -> str:
    """Judge our number against a printed one.

    Args:
        printed: the printed number, for "between" the pair (low, high).
        ours: in the same unit; None or nan where it could not be measured.
        rule: "at_least": ours >= printed; "at_most": ours <= printed; "between": low <= ours <= high;
            "close": |ours - printed| <= tolerance. Bounds belong to the reproduced side.
        tolerance: >= 0, in the same unit; for "close" only, and needed there.

    Returns:
        `REPRODUCED`, `NOT_REPRODUCED` or `NOT_TESTABLE`.

    Raises:
        ValueError: unknown rule, a pair where a number is needed or the other way round, tolerance missing.

    Example:
        >>> verdict(93.0, 94.1, "at_least"), verdict(93.0, 92.9, "at_least"), verdict(93.0, None, "at_least")
        ('reproduced', 'not reproduced', 'cannot be tested here')
    """
    if rule not in RULES:
        raise ValueError(f"rule {rule!r}: expected one of {', '.join(RULES)}")
    if isinstance(printed, tuple) != (rule == "between"):
        raise ValueError(f"printed {printed!r} does not fit the rule {rule!r}: only 'between' takes a pair")
    if (rule == "close") != (tolerance is not None and tolerance >= 0):
        raise ValueError(f"tolerance {tolerance!r} with rule {rule!r}: 'close' needs one >= 0, no other rule takes one")
    if ours is None or math.isnan(ours):
        return NOT_TESTABLE
    if rule == "between":
        holds = printed[0] <= ours <= printed[1]
    elif rule == "close":
        holds = abs(ours - printed) <= tolerance
    else:
        holds = ours >= printed if rule == "at_least" else ours <= printed
    return REPRODUCED if holds else NOT_REPRODUCED


# --- from printed tables to claims --------------------------------------------------------------------------

# quantity in 7.2 and 7.3 -> kind of check, rule and tolerance; ranges and bounds such as >93 carry their own rule.
_PRIVACY_RULES = {
    "AIA success": (EMBEDDED, "at_most", None),
    "MIA success": (EMBEDDED, "close", 2.0),
    "leakage bound": (PRINTED, "", None),
    "residual information": (PRINTED, "", None),
    "unlearning time": (OWN_DATA, "at_most", None),  # seconds on other data and another machine say nothing
    "speed-up over Retrain": (EMBEDDED, "at_least", None),
    "forgotten attribute accuracy": (EMBEDDED, "at_most", None),
    "retained accuracy": (OWN_DATA, "", None),
}
# The paper's point about these two runs the other way: Retrain is at chance, CF-3 leaks at least this much.
_PRIVACY_RULES_BY_METHOD = {
    ("AIA success", "Retrain"): (EMBEDDED, "close", 2.0),
    ("AIA success", "CF-3"): (EMBEDDED, "at_least", None),
}


def load_claims(tables: Tables | None = None) -> tuple[Claim, ...]:
    """Return every claim: the text's, then those of the tables' cells, levels and relations.

    Args:
        tables: as `load_tables` gives them, which is the default.

    Raises:
        ValueError: an id twice, or an unknown kind of check.
    """
    tables = load_tables() if tables is None else tables
    parts = (_text, _privacy, _table1, _table2, _table3, _table4, _table5, _benchmark)
    claims = tuple(claim for part in parts for claim in part(tables))
    seen: set[str] = set()
    for claim in claims:
        if claim.check not in CHECK_KINDS:
            raise ValueError(f"claim {claim.claim_id!r}: check {claim.check!r}: expected one of {CHECK_KINDS}")
        if claim.claim_id in seen:
            raise ValueError(f"claim {claim.claim_id!r} is there twice")
        seen.add(claim.claim_id)
    return claims


def _text(tables: Tables) -> Iterator[Claim]:
    for row in tables["text"].astype(object).where(tables["text"].notna(), "").to_dict("records"):
        tolerance = float(row["tolerance"]) if row["tolerance"] != "" else None
        names = ("id", "where", "quantity", "printed", "unit", "check", "rule")
        yield Claim(*(str(row[name]) for name in names), tolerance)


def _privacy(tables: Tables) -> Iterator[Claim]:
    for row in tables["privacy"].astype(str).itertuples():
        check, rule, tolerance = (
            _PRIVACY_RULES_BY_METHOD.get((row.quantity, row.method)) or _PRIVACY_RULES[row.quantity]
        )
        if parse_printed(row.value)[0]:
            rule, tolerance = "", None
        name, quantity = f"{row.dataset}/{row.quantity}/{row.method}", f"{row.quantity}, {row.method}, {row.dataset}"
        yield Claim(name, row.where, quantity, row.value, row.unit.split(" ")[0], check, rule, tolerance)


def _level(name: str, where: str, quantity: str, printed: float, cell: Cell | None, unit: str = "%") -> Claim:
    tolerance = LEVEL_TOLERANCE if unit == "%" else LEVEL_TOLERANCE / 100
    return Claim(name, where, quantity, f"{printed:g}", unit, OWN_DATA, "close", tolerance, cell)


def _relation(name: str, where: str, quantity: str, difference: float, cell: Cell | None) -> Claim:
    tolerance = max(RELATION_TOLERANCE, abs(difference) / 2)
    return Claim(name, where, quantity, f"{difference:.2f}", "points", EMBEDDED, "close", tolerance, cell)


def _table1(tables: Tables) -> Iterator[Claim]:
    table = tables["table1"]
    quantities = {"accuracy_brown_hair_pct": "retained accuracy", "forgetting_gender_pct": "forgetting"}
    for column, quantity in quantities.items():
        for row in table.to_dict("records"):
            name = f"table1/eps={row['epsilon']:g},tau={row['tau']:g}/{quantity}"
            yield _level(
                name, "Table 1", f"{quantity}, epsilon {row['epsilon']:g}, tau {row['tau']:g}", row[column], None
            )
        for varied, fixed in (("epsilon", "tau"), ("tau", "epsilon")):
            line = longest_line(table, varied, fixed)
            change = line[column].iloc[-1] - line[column].iloc[0]
            text = f"{quantity}, {varied} {line[varied].iloc[-1]:g} minus {line[varied].iloc[0]:g}"
            yield _relation(f"table1/{varied}/{quantity}", "Table 1", text, change, None)


def _utility(
    rows: pd.DataFrame, table: str, where: str, column: str, request: Callable[[str], str], is_model_matched: bool
) -> Iterator[Claim]:
    """Claims of a table of accuracies per method and split: each level, and each method minus Retrain."""
    keys = ["dataset", "model", "split"]
    retrain = rows[rows["method"] == "Retrain"].set_index(keys)[column]
    for row in rows.to_dict("records"):
        dataset, model, method, split = (row[key] for key in ("dataset", "model", "method", "split"))
        cell = Cell(
            dataset=dataset,
            method=_ours(method),
            split="test" if split == "forgotten_label" else split,
            label="forgotten" if split == "forgotten_label" else "retained",
            metric="accuracy",
            request=request(dataset),
            model=ARCHITECTURES[model],
        )
        what = f"accuracy on {'the forgotten class' if split == 'forgotten_label' else f'what is retained, {split}'}"
        place = f"{dataset}, {model}"
        yield _level(
            f"{table}/{dataset}/{model}/{method}/{split}", where, f"{what}, {method}, {place}", row[column], cell
        )
        if method == "Retrain":
            continue
        against = Cell(**{**vars(cell), "against": "Retrain", "model": cell.model if is_model_matched else ""})
        name = f"{table}/{dataset}/{model}/{method} - Retrain/{split}"
        difference = row[column] - retrain[dataset, model, split]
        yield _relation(name, where, f"{what}, {method} minus Retrain, {place}", difference, against)


def _table2(tables: Tables) -> Iterator[Claim]:
    return _utility(tables["table2"], "table2", "Table 2", "retained_accuracy_pct", lambda _: "label:", True)


def _table3(tables: Tables) -> Iterator[Claim]:
    return _utility(tables["table3"], "table3", "Table 3", "retained_accuracy_pct", lambda _: "class:", False)


def _table5(tables: Tables) -> Iterator[Claim]:
    return _utility(tables["table5"], "table5", "Table 5", "accuracy_pct", FORGOTTEN_CLASSES.__getitem__, False)


def _table4(tables: Tables) -> Iterator[Claim]:
    rows = tables["table4"]
    keys = ["dataset", "forgotten_attribute", "split", "attribute"]
    filtered = rows[rows["method"] == "WF"].set_index(keys)["accuracy_pct"]
    for row in rows.to_dict("records"):
        dataset, forgotten, split, attribute = (row[key] for key in keys)
        method, printed = row["method"], row["accuracy_pct"]
        request = f"label:{_ours(forgotten)}"
        cell = Cell(dataset, method, split, _ours(attribute), "accuracy", request)
        name = f"table4/{dataset}/{forgotten}/{{}}/{split}/{attribute}"
        text = f"on {attribute}, {{}}, {split}, {forgotten} forgotten, {dataset}"
        yield _level(name.format(method), "Table 4", "accuracy " + text.format(method), printed, cell)
        if attribute == forgotten:
            for metric in ("accuracy", "recall"):
                cell = Cell(**{**vars(cell), "metric": metric})
                quantity = f"{metric} {text.format(method)}"
                bound = f"<{FORGOTTEN_AT_MOST:g}"
                yield Claim(f"{name.format(method)}/{metric}", "Table 4", quantity, bound, "%", EMBEDDED, cell=cell)
        elif method == "WP":
            difference = printed - filtered[dataset, forgotten, split, attribute]
            against = Cell(**{**vars(cell), "against": "WF"})
            text = "accuracy " + text.format("WP minus WF")
            yield _relation(name.format("WP - WF"), "Table 4", text, difference, against)


def _benchmark(tables: Tables) -> Iterator[Claim]:
    for row in tables["benchmark"].itertuples():
        name = benchmark_id(row.dataset, row.task, row.method, row.metric)
        quantity = f"{row.metric}, {row.method}, {row.dataset} {row.task}"
        if row.metric in ("NoMUS", "Top-2 Test Acc"):
            yield Claim(name, "benchmark", quantity, f"{row.value:g}", "-", PRINTED)
        else:
            yield _level(name, "benchmark", quantity, row.value, None, unit="-")


def _ours(printed: str) -> str:
    """Return our name of a printed method or label."""
    return METHOD_NAMES.get(printed) or LABEL_NAMES.get(printed, printed)


# --- from our scores to measured claims ---------------------------------------------------------------------

# Text claims about retained accuracy on test: claim id -> (method, the methods it is compared with).
_COMPARISONS = {
    "text/wp_above_retrain": ("WP", ("Retrain",)),
    "text/wf_above_baselines": ("WF", BASELINES),
    "text/wp_above_baselines": ("WP", BASELINES),
    "text/cf3_collapses": ("Retrain", ("CF-3",)),
}
_FORGOTTEN = {"CelebA/forgotten attribute accuracy/WP": "accuracy", "text/forgotten_recall/WP": "recall"}

_Study = tuple[str, str, str]  # dataset, model, request
_Values = dict[tuple[str, str, str, str], float]  # method, split, label, metric -> mean over seeds


def measure(
    scores: pd.DataFrame,
    sweep: pd.DataFrame | None = None,
    *,
    stand_ins: Mapping[str, tuple[str, ...]] = STAND_INS,
) -> dict[str, Measured]:
    """Find our number for every claim that tidy scores can answer.

    Methods count in their targeted reading. A relation is the mean over the studies that fit (seeds averaged first),
    their range given as reason; a text claim takes the study that speaks most against it.

    Args:
        scores: tidy scores, as `reporting.read_scores` gives them.
        sweep: our Table 1: columns study, epsilon, tau, quantity (retained accuracy, forgetting), value.
        stand_ins: printed data set -> names of ours that stand in for it.

    Returns:
        Claim id -> number; what can't be measured from these scores is left out.
    """
    studies = _by_study(scores)
    measured = {}
    for claim in load_claims():
        if claim.cell is None:
            continue
        own = LOADERS[claim.cell.dataset]
        names = (own,) if claim.check == OWN_DATA else stand_ins.get(claim.cell.dataset, ())
        found = _measure_cell(claim.cell, studies, names)
        if found is not None:
            measured[claim.claim_id] = found
    faces = {key: values for key, values in studies.items() if key[0] in stand_ins.get("CelebA", ()) and _is_label(key)}
    measured |= _measure_text(faces)
    return measured if sweep is None else measured | _measure_sweep(sweep)


def _by_study(scores: pd.DataFrame) -> dict[_Study, _Values]:
    keys = ["dataset", "model", "request", "method", "split", "label", "metric"]
    means = scores[scores["reading"].isin(["-", "targeted"])].groupby(keys)["value"].mean()
    studies: dict[_Study, _Values] = {}
    for key, value in means.items():
        studies.setdefault(key[:3], {})[key[3:]] = value
    return studies


def _is_label(study: _Study) -> bool:
    return study[2].startswith("label:")


def _measure_cell(cell: Cell, studies: Mapping[_Study, _Values], datasets: Iterable[str]) -> Measured | None:
    found: dict[_Study, float] = {}
    for (dataset, model, request), values in studies.items():
        is_request = request == cell.request or (cell.request.endswith(":") and request.startswith(cell.request))
        if dataset not in datasets or not is_request or cell.model not in ("", model):
            continue
        key = (cell.split, cell.label, cell.metric)
        needed = [(cell.method, *key)] + ([(cell.against, *key)] if cell.against else [])
        if all(name in values for name in needed):
            found[dataset, model, request] = values[needed[0]] - (values[needed[1]] if cell.against else 0.0)
    if not found:
        return None
    numbers = list(found.values())
    spread = f"mean of {len(found)} studies, {100 * min(numbers):.1f} to {100 * max(numbers):.1f}"
    return Measured(float(np.mean(numbers)), _names(found), spread if len(found) > 1 else "1 study")


def _names(studies: Iterable[_Study]) -> str:
    return " and ".join(sorted({study[0] for study in studies})) or "-"


def _measure_text(faces: Mapping[_Study, _Values]) -> dict[str, Measured]:
    found: dict[str, dict[_Study, float]] = {}
    for claim_id, (method, others) in _COMPARISONS.items():
        wanted = [(_ours(name), "test", "retained", "accuracy") for name in (method, *others)]
        found[claim_id] = {
            study: values[wanted[0]] - max(values[name] for name in wanted[1:])
            for study, values in faces.items()
            if all(name in values for name in wanted)
        }
    for claim_id, metric in _FORGOTTEN.items():
        key = {study: ("WP", "test", study[2].partition(":")[2], metric) for study in faces}
        found[claim_id] = {study: -values[key[study]] for study, values in faces.items() if key[study] in values}
    for method in ("WF", "WP"):
        key = (method, "-", "-", "speedup")
        speedups = {study: values[key] for study, values in faces.items() if key in values}
        for place in ("CelebA/speed-up over Retrain", "VGGFace2/speed-up over Retrain", "appendix_e/speedup"):
            found[f"{place}/{method}"] = speedups
    measured = {}
    for claim_id, numbers in found.items():
        if numbers:
            value = min(numbers.values())  # of those above, the most is the worst for what is left of a label
            value = -value if claim_id in _FORGOTTEN else value
            measured[claim_id] = Measured(value, _names(numbers), f"least favourable of {len(numbers)} studies")
    return measured


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


def measure_settings(parameters: Mapping[str, Mapping[str, object]]) -> dict[str, Measured]:
    """Compare the settings of the run's studies with the printed ones.

    Args:
        parameters: study -> resolved parameters of its training, such as num_epochs.

    Returns:
        `setting/<name>` -> the printed value if every study uses it, else the value of the first that doesn't, which
        the reason names. Settings that no study has are left out.
    """
    measured = {}
    for claim in load_claims():
        name = claim.claim_id.removeprefix("setting/")
        used = {study: values[name] for study, values in parameters.items() if name in values}
        if claim.check != SETTING or not used:
            continue
        other = {study: value for study, value in used.items() if value != float(claim.printed)}
        reason = ", ".join(f"{study} {value:g}" for study, value in other.items()) or f"{len(used)} studies"
        value = next(iter(other.values()), float(claim.printed))
        measured[claim.claim_id] = Measured(float(value), "this run's studies", reason)
    return measured


# --- the audit ----------------------------------------------------------------------------------------------


def audit(measured: Mapping[str, Measured], tables: Tables | None = None) -> pd.DataFrame:
    """Put every printed number beside ours, with a verdict and its reason.

    Args:
        measured: claim id -> our number, from `measure`, `measure_settings` or a notebook of its own. Where the unit
            is "%" or "points", a fraction, which becomes percent here.
        tables: printed numbers, default `load_tables()`.

    Returns:
        `COLUMNS`, one row a claim; ours nan where there is none. For a check of printed numbers, ours is what was
        computed from them.

    Raises:
        ValueError: a measured id that is no claim or whose check uses printed numbers only, a percentage given as
            such, a claim without rule, or a check without claim.
    """
    tables = load_tables() if tables is None else tables
    claims, findings = load_claims(tables), check_printed(tables)
    _require_matching_ids({claim.claim_id: claim.check for claim in claims}, findings, measured)
    rows = []
    for claim in claims:
        if claim.check == PRINTED:
            finding = findings[claim.claim_id]
            printed, ours = finding.printed or claim.printed, finding.computed
            source, outcome, reason = "printed numbers", finding.verdict, finding.reason
        else:
            found = measured.get(claim.claim_id) or Measured(None, reason=_why_untested(claim))
            printed, source = claim.printed, found.dataset
            ours, outcome, reason = _judge(claim, found)
        rows.append(
            (
                claim.claim_id,
                claim.where,
                claim.quantity,
                printed,
                ours,
                claim.unit,
                source,
                claim.check,
                outcome,
                reason,
            )
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def count_verdicts(audited: pd.DataFrame) -> pd.DataFrame:
    """Return how many claims got which verdict, one row a verdict, one column a kind of check and `all`."""
    counts = pd.crosstab(audited["verdict"], audited["check"]).reindex(
        index=list(VERDICTS), columns=list(CHECK_KINDS), fill_value=0
    )
    return counts.assign(all=counts.sum(axis=1))


def is_of_text(audited: pd.DataFrame) -> pd.Series:
    """Return which claims are of the text or across tables, True, and which are a cell of one table, False."""
    return ~audited["claim_id"].str.match(r"table\d/|benchmark/")


def _require_matching_ids(
    kinds: Mapping[str, str], findings: Mapping[str, Finding], measured: Mapping[str, Measured]
) -> None:
    checked = {claim_id for claim_id, kind in kinds.items() if kind == PRINTED}
    if checked != set(findings):
        raise ValueError(f"claims and checks of printed numbers differ: {sorted(checked ^ set(findings))}")
    for claim_id in measured:
        if claim_id not in kinds:
            raise ValueError(f"no claim {claim_id!r}: {choices(claim_id, kinds)}")
        if claim_id in checked:
            raise ValueError(f"claim {claim_id!r} is checked by printed numbers alone: nothing to measure")


def _judge(claim: Claim, found: Measured) -> tuple[float, str, str]:
    """Return ours in the claim's unit, the verdict and its reason."""
    if found.value is None or math.isnan(found.value):
        return math.nan, NOT_TESTABLE, found.reason or "measured, but undefined"
    implied, printed = parse_printed(claim.printed)
    rule = claim.rule or implied
    if not rule:
        raise ValueError(f"claim {claim.claim_id!r} prints {claim.printed} and has no rule: choose from {RULES}")
    ours = float(found.value)
    if claim.unit in ("%", "points"):
        low = 0.0 if claim.unit == "%" else -1.0
        if not low <= ours <= 1.0:
            raise ValueError(f"claim {claim.claim_id!r}: ours is {ours}, expected a fraction in [{low:g}, 1]")
        ours *= 100.0
    outcome = verdict(printed, ours, rule, tolerance=claim.tolerance)
    checked = f"{rule} {claim.printed}" + (f" within {claim.tolerance:g}" if claim.tolerance is not None else "")
    return ours, outcome, f"rule: {checked}" + (f"; {found.reason}" if found.reason else "")


def _why_untested(claim: Claim) -> str:
    if claim.check == SETTING:
        return "a choice, not a result; not among the parameters of this run"
    if claim.check == OWN_DATA:
        return "a printed level: needs the paper's data set" + ("" if claim.unit != "s" else " and machine")
    if claim.cell is None:
        return "no study of this run measures it"
    methods = " and ".join(filter(None, (claim.cell.method, claim.cell.against)))
    where = ", ".join(filter(None, (claim.cell.model, f"a request {claim.cell.request}")))
    return f"no study of this run has {methods} with {where} on a stand-in for {claim.cell.dataset}"
