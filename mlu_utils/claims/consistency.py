"""Do the printed numbers agree with each other? Checks that need nothing measured.

Purpose: each check is a pure function of the printed tables, so that a test can alter a table and see its verdict turn.
Must not: train, score, write files, or hold a number that is printed: those lie in `data/reference/`.

*Tables* throughout: short name -> DataFrame as in the CSV file, see `load_tables`; rates are in percent there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from mlu_utils import paths

CONSISTENT = "consistent"
INCONSISTENT = "inconsistent"
NOT_TESTABLE = "cannot be tested here"
BASELINES = ("CF-3", "SCRUB", "UNSIR", "SalUn")

_TABLE_FILES = {
    "table1": "mlu_table1_sensitivity",
    "table2": "mlu_table2_multilabel_utility",
    "table3": "mlu_table3_mufac_age",
    "table4": "mlu_table4_attributewise",
    "table5": "mlu_table5_singlelabel",
    "privacy": "mlu_privacy_runtime",
    "benchmark": "benchmark_mufac_mucac",
    "text": "claims",
}
Tables = Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class Finding:
    """What a check of printed numbers found: `computed` is in the claim's unit."""

    verdict: str
    computed: float
    reason: str
    printed: str = ""


def load_printed(name: str) -> pd.DataFrame:
    """Read a table of printed numbers, such as "mlu_table1_sensitivity".

    Raises:
        ValueError: lists the tables there are.
    """
    known = sorted(path.stem for path in paths.REFERENCE.glob("*.csv"))
    if name not in known:
        raise ValueError(f"no printed table {name!r} in {paths.REFERENCE.name}/; there are {', '.join(known)}")
    return pd.read_csv(paths.REFERENCE / f"{name}.csv")


def load_tables() -> dict[str, pd.DataFrame]:
    """Read everything printed: table1 to table5, privacy, benchmark, and text (the rows of `claims.csv`)."""
    return {short: load_printed(name) for short, name in _TABLE_FILES.items()}


def parse_printed(text: str | float) -> tuple[str | None, float | tuple[float, float]]:
    """Read a printed number and the rule that its form implies.

    Returns:
        ("at_least", x) for ">93" and "70+", ("at_most", x) for "<5", ("between", (low, high)) for "75-85",
        and (None, x) for a plain number, whose rule someone has to choose.

    Raises:
        ValueError: none of these forms.

    Example:
        >>> parse_printed("75-85")
        ('between', (75.0, 85.0))
    """
    number = r"(-?\d+(?:\.\d+)?)"
    stripped = str(text).strip()
    if match := re.fullmatch(f"{number}-{number}", stripped):
        return "between", (float(match[1]), float(match[2]))
    if match := re.fullmatch(rf">=?\s*{number}|{number}\+", stripped):
        return "at_least", float(match[1] or match[2])
    if match := re.fullmatch(rf"<=?\s*{number}", stripped):
        return "at_most", float(match[1])
    if match := re.fullmatch(number, stripped):
        return None, float(match[1])
    raise ValueError(f"printed value {text!r}: expected a number, a range 75-85, >93, 70+ or <5")


def longest_line(sweep: pd.DataFrame, varied: str, fixed: str) -> pd.DataFrame:
    """Return the rows along which only `varied` changes, sorted by it."""
    return max((part for _, part in sweep.groupby(fixed)), key=len).sort_values(varied)


def benchmark_id(dataset: str, task: str, method: str, metric: str) -> str:
    """Return the claim id of a cell of the benchmark's tables."""
    return f"benchmark/{dataset}/{task}/{method}/{metric}"


# --- the checks -------------------------------------------------------------------------------------------

# claim id -> function of the tables.
CHECKS: dict[str, Callable[[Tables], Finding]] = {}


def _check(claim_id: str, *arguments: object) -> Callable[[Callable[..., Finding]], Callable[..., Finding]]:
    """Register a check under a claim's id; `arguments` are passed on before the tables."""

    def register(function: Callable[..., Finding]) -> Callable[..., Finding]:
        CHECKS[claim_id] = partial(function, *arguments)
        return function

    return register


def _finding(holds: bool, computed: float, reason: str, printed: str = "") -> Finding:
    return Finding(CONSISTENT if holds else INCONSISTENT, float(computed), reason, printed)


def _pick(table: pd.DataFrame, **wanted: str) -> pd.DataFrame:
    """Return the rows whose columns have these values; refuse to judge by none."""
    for column, value in wanted.items():
        table = table[table[column] == value]
    if table.empty:
        raise ValueError(f"no printed row with {wanted}: was the table altered?")
    return table


def _privacy_value(tables: Tables, quantity: str, method: str, dataset: str = "CelebA") -> float | tuple[float, float]:
    row = _pick(tables["privacy"], quantity=quantity, method=method, dataset=dataset).iloc[0]
    return parse_printed(row["value"])[1]


def _text_value(tables: Tables, claim_id: str) -> float | tuple[float, float]:
    return parse_printed(_pick(tables["text"], id=claim_id).iloc[0]["printed"])[1]


def _listed(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _rounding(text: str) -> float:
    """Return half a unit of the last printed digit."""
    return 0.5 * 10.0 ** -len(text.partition(".")[2])


def information_bits(accuracy: float) -> float:
    """Return 1 - H(accuracy): the bits on a balanced binary label in an answer that is right with this rate.

    Args:
        accuracy: in [0, 1]; 0 and 1 both give a whole bit, .5 gives none.

    Example:
        >>> round(information_bits(0.11), 4), information_bits(0.5)
        (0.5001, 0.0)
    """
    return 1.0 + sum(p * math.log2(p) for p in (accuracy, 1.0 - accuracy) if p > 0)


@_check("CelebA/leakage bound/WF", "WF")
@_check("CelebA/leakage bound/WP", "WP")
def _corollary_bits(method: str, tables: Tables) -> Finding:
    """C1, C2: 1 - H(p) at the printed attack success p, to the printed digits."""
    success = _privacy_value(tables, "AIA success", method)
    row = _pick(tables["privacy"], quantity="leakage bound", method=method).iloc[0]
    bits, printed = information_bits(success / 100), float(row["value"])
    reason = f"1 - H({success / 100:g}) = {bits:.4f} bits"
    return _finding(abs(bits - printed) <= _rounding(row["value"]), bits, reason)


@_check("all/residual information/WF/WP", ("WF", "WP"), "WF/WP")
@_check("all/residual information/baselines", BASELINES, "baselines")
def _residual_information(methods: tuple[str, ...], group: str, tables: Tables) -> Finding:
    """Read as an attack success, the printed range must cover that of each method, backwards where that is better."""
    rule = parse_printed(_pick(tables["privacy"], quantity="residual information", method=group).iloc[0]["value"])
    low, high = rule[1] if rule[0] == "between" else (rule[1], 100.0)
    printed = [_privacy_value(tables, "AIA success", method) for method in methods]
    ends = [end for value in printed for end in (value if isinstance(value, tuple) else (value,))]
    flipped = [max(end, 100.0 - end) for end in ends]
    outside = [value for value in flipped if not low <= value <= high]
    reason = f"AIA success {_listed(ends)} %, read backwards below 50: {_listed(flipped)}; "
    reason += f"{len(outside)} of {len(flipped)} outside; mean as printed {np.mean(ends):.1f}"
    return _finding(not outside, max(flipped, key=lambda value: max(low - value, value - high)), reason)


@_check("check/appendix_e_range")
def _appendix_e_range(tables: Tables) -> Finding:
    low, high = _text_value(tables, "check/appendix_e_range")
    printed = _pick(tables["privacy"], quantity="speed-up over Retrain")["value"].astype(float)
    outside = [value for value in printed if not low <= value <= high]
    reason = f"printed {_listed(printed)}; outside the range: {_listed(outside) or 'none'}"
    return _finding(not outside, printed.min(), reason)


@_check("check/splits_sum")
def _splits_sum(tables: Tables) -> Finding:
    shares = [_text_value(tables, f"setting/split_{split}") for split in ("train", "validation", "test")]
    text = " + ".join(f"{share:g}" for share in shares)
    return _finding(sum(shares) == 100, sum(shares), f"{text} = {sum(shares):g}", text)


@_check("check/table2_cells")
def _table2_cells(tables: Tables) -> Finding:
    keys = ["dataset", "model", "method", "split"]
    counts = [tables["table2"][key].nunique() for key in keys]
    num_cells = len(tables["table2"].drop_duplicates(keys))
    is_full = num_cells == len(tables["table2"]) == math.prod(counts) == _text_value(tables, "check/table2_cells")
    return _finding(is_full, num_cells, f"{num_cells} different cells of {' x '.join(map(str, counts))}")


@_check("check/table4_attributes")
def _table4_attributes(tables: Tables) -> Finding:
    shown, num_labels = tables["table4"]["attribute"].nunique(), _text_value(tables, "setting/num_labels")
    return _finding(
        shown == num_labels, shown, f"{shown} of K = {num_labels:g} attributes are printed", f"K = {num_labels:g}"
    )


@_check("check/mufac_groups")
def _mufac_groups(tables: Tables) -> Finding:
    task = _pick(tables["benchmark"], dataset="MUFAC").iloc[0]["task"]
    released, printed = int(re.search(r"\d+", task)[0]), _text_value(tables, "setting/num_age_groups")
    return _finding(
        released == printed, released, f"the release has {released} groups, the paper {printed:g}", f"{printed:g}"
    )


@_check("check/retained_above_93/all", ("train", "validation", "test"))
@_check("check/retained_above_93/test", ("test",))
def _retained_above_93(splits: tuple[str, ...], tables: Tables) -> Finding:
    cells = pd.concat([tables["table2"], tables["table3"]])
    cells = cells[(cells["method"] == "WP") & cells["split"].isin(splits)].reset_index(drop=True)
    return _above_bound(tables, cells["retained_accuracy_pct"], cells[["dataset", "model", "split"]])


@_check("check/retained_above_93/attributes")
def _attributes_above_93(tables: Tables) -> Finding:
    cells = _pick(tables["table4"], method="WP", split="test")
    cells = cells[cells["attribute"] != cells["forgotten_attribute"]].reset_index(drop=True)
    return _above_bound(tables, cells["accuracy_pct"], cells[["forgotten_attribute", "attribute"]])


def _above_bound(tables: Tables, values: pd.Series, names: pd.DataFrame) -> Finding:
    bound = _privacy_value(tables, "retained accuracy", "WP", "all")
    num_below = int((values <= bound).sum())
    lowest = ", ".join(names.loc[values.idxmin()])
    reason = f"{num_below} of {len(values)} cells at or below; the lowest, {values.min():g}, is {lowest}"
    return _finding(num_below == 0, values.min(), reason, f">{bound:g}")


@_check("check/forgotten_011")
def _forgotten_accuracy(tables: Tables) -> Finding:
    """The mean over the splits, rounded or cut to the printed digits, or any one cell."""
    text = _pick(tables["privacy"], quantity="forgotten attribute accuracy").iloc[0]["value"]
    cells = _pick(tables["table4"], method="WP", forgotten_attribute="Gender", attribute="Gender")["accuracy_pct"]
    mean = cells.mean()
    gap = mean - float(text)
    holds = -_rounding(text) <= gap < 2 * _rounding(text) or float(text) in cells.to_numpy()
    reason = f"cells {_listed(cells)}; their mean {mean:.4f} is {mean:.2f} when rounded, printed {text}"
    return _finding(holds, mean, reason, text)


@_check("check/retrain_time")
def _retrain_time(tables: Tables) -> Finding:
    """Printed digits leave an interval for each method's Retrain time; the two intervals must meet."""
    times = {method: _retrain_interval(tables, method) for method in ("WF", "WP")}
    low, high = max(low for low, _ in times.values()), min(high for _, high in times.values())
    reason = ", ".join(f"{method} {low:.1f} to {high:.1f} s" for method, (low, high) in times.items())
    reason += f"; both hold for {low:.1f} to {high:.1f} s only" if low <= high else "; no time fits both"
    products = [
        _privacy_value(tables, "unlearning time", method) * _privacy_value(tables, "speed-up over Retrain", method)
        for method in ("WF", "WP")
    ]
    return _finding(low <= high, products[0], reason, f"{products[1]:.1f}")


def _retrain_interval(tables: Tables, method: str) -> tuple[float, float]:
    ends = []
    for quantity in ("unlearning time", "speed-up over Retrain"):
        text = _pick(tables["privacy"], quantity=quantity, method=method, dataset="CelebA").iloc[0]["value"]
        ends.append((float(text) - _rounding(text), float(text) + _rounding(text)))
    return ends[0][0] * ends[1][0], ends[0][1] * ends[1][1]


@_check("check/training_speed")
def _training_speed(tables: Tables) -> Finding:
    num_images = 202_599  # all of CelebA, Liu et al. (2015)
    num_epochs, share = _text_value(tables, "setting/num_epochs"), _text_value(tables, "setting/split_train") / 100
    seconds = _retrain_interval(tables, "WF")[1]
    speed = num_epochs * share * num_images / seconds
    reason = (
        f"at least {speed:,.0f} if all {num_images:,} images were used for {num_epochs:g} epochs; "
        "image size and number of images behind the printed seconds aren't known to us"
    )
    return Finding(NOT_TESTABLE, speed, reason, f"{seconds:.0f} s")


@_check("check/aia_below_chance")
def _aia_below_chance(tables: Tables) -> Finding:
    """An attack on a binary attribute that is mostly wrong succeeds when its answer is turned round."""
    wp, retrain = (_privacy_value(tables, "AIA success", method) for method in ("WP", "Retrain"))
    flipped = max(wp, 100 - wp)
    reason = f"{wp:g} % becomes {flipped:g} % backwards; Retrain: {retrain:g} %, chance: 50 %"
    return _finding(flipped <= max(retrain, 100 - retrain), flipped, reason, f"{wp:g}")


@_check("check/aia_against_table4/WF", "WF")
@_check("check/aia_against_table4/WP", "WP")
def _aia_against_table4(method: str, tables: Tables) -> Finding:
    accuracy, success = _gender_accuracy(tables, method), _privacy_value(tables, "AIA success", method)
    read = max(accuracy, 100 - accuracy)
    reason = (
        f"reading the output, accuracy {accuracy:g} %, backwards is right for {read:g} %; the attack for {success:g} %"
    )
    return _finding(max(success, 100 - success) >= read, read, reason, f"{success:g}")


@_check("check/bits_against_table4/WF", "WF")
@_check("check/bits_against_table4/WP", "WP")
def _bits_against_table4(method: str, tables: Tables) -> Finding:
    accuracy, bound = _gender_accuracy(tables, method), _privacy_value(tables, "leakage bound", method)
    bits = information_bits(accuracy / 100)
    reason = f"an accuracy of {accuracy:g} % on a balanced label carries {bits:.3f} bits, the bound is {bound:g}"
    return _finding(bits <= bound, bits, reason, f"{bound:g}")


def _gender_accuracy(tables: Tables, method: str) -> float:
    wanted = {"method": method, "forgotten_attribute": "Gender", "attribute": "Gender", "split": "test"}
    return float(_pick(tables["table4"], **wanted).iloc[0]["accuracy_pct"])


@_check("check/forgotten_at_chance")
def _forgotten_at_chance(tables: Tables) -> Finding:
    """Without information an answer is right at least as often as the rarer value of the label occurs."""
    rarest = 20.8  # percent of CelebA-HQ with Oval_Face, the rarest value among the three forgotten labels
    cells = tables["table4"]
    values = cells.loc[cells["attribute"] == cells["forgotten_attribute"], "accuracy_pct"]
    num_below = int((values < rarest).sum())
    lowest = float(np.maximum(values, 100 - values).min())
    reason = (
        f"{num_below} of {len(values)} cells lie below what any constant answer reaches ({rarest} %): "
        "read as accuracy, the label is there backwards; only read as positive recall can the cells mean forgetting"
    )
    return _finding(num_below == 0, lowest, reason, f"{values.min():g}-{values.max():g}")


@_check("check/cf3_above_coin")
def _cf3_above_coin(tables: Tables) -> Finding:
    values = _pick(tables["table2"], method="CF-3")["retained_accuracy_pct"]
    num_below = int((values < 50).sum())
    reason = f"{num_below} of {len(values)} cells below 50 %, though the labels are binary and training never left them"
    return _finding(num_below == 0, values.min(), reason, f"{values.min():g}-{values.max():g}")


def _retained(tables: Tables, name: str) -> pd.DataFrame:
    """Return retained accuracy in percent, one row a (dataset, model, split), one column a method."""
    rows = tables[name].rename(columns={"accuracy_pct": "retained_accuracy_pct"})
    rows = rows[rows["split"] != "forgotten_label"]
    return rows.pivot(index=["dataset", "model", "split"], columns="method", values="retained_accuracy_pct")


def _share_of_cells(holds: pd.Series, reason: str) -> Finding:
    failing = "; ".join(", ".join(key) for key in holds.index[~holds][:3])
    reason = f"{reason} in {int(holds.sum())} of {len(holds)} cells" + (f", not in {failing}" if failing else "")
    return _finding(bool(holds.all()), 100 * holds.mean(), reason, "100")


@_check("check/wp_above_retrain/table2", "table2")
@_check("check/wp_above_retrain/table3", "table3")
@_check("check/wp_above_retrain/table5", "table5")
def _wp_above_retrain(name: str, tables: Tables) -> Finding:
    cells = _retained(tables, name)
    return _share_of_cells(cells["WP"] >= cells["Retrain"], "WP is at or above Retrain")


@_check("check/above_baselines/table2", "table2")
@_check("check/above_baselines/table3", "table3")
@_check("check/above_baselines/table5", "table5")
def _above_baselines(name: str, tables: Tables) -> Finding:
    cells = _retained(tables, name)
    holds = cells[["WF", "WP"]].min(axis=1) > cells[list(BASELINES)].max(axis=1)
    return _share_of_cells(holds, "WF and WP are above all four")


@_check("check/wp_above_wf")
def _wp_above_wf(tables: Tables) -> Finding:
    cells = pd.concat([_retained(tables, name) for name in ("table2", "table3", "table5")])
    return _share_of_cells(cells["WP"] > cells["WF"], "WP is above WF")


@_check("check/table1_monotone")
def _table1_monotone(tables: Tables) -> Finding:
    steps = []
    for varied, fixed in (("epsilon", "tau"), ("tau", "epsilon")):
        line = longest_line(tables["table1"], varied, fixed)
        steps += [*np.diff(line["accuracy_brown_hair_pct"]), *-np.diff(line["forgetting_gender_pct"])]
    num_kept = sum(step >= 0 for step in steps)
    reason = f"{num_kept} of {len(steps)} steps; {sum(step == 0 for step in steps)} of them change nothing"
    return _finding(num_kept == len(steps), 100 * num_kept / len(steps), reason, "100")


@_check("check/table1_against_table4/forgetting", "forgetting_gender_pct", "Gender")
@_check("check/table1_against_table4/brown_hair", "accuracy_brown_hair_pct", "Brown_Hair")
def _table1_against_table4(column: str, attribute: str, tables: Tables) -> Finding:
    """Forgetting is read as 100 % minus the accuracy on the forgotten label."""
    cells = _pick(tables["table4"], forgotten_attribute="Gender", attribute=attribute, split="test")["accuracy_pct"]
    needed = (100 - cells).min() if attribute == "Gender" else cells.min()
    best = tables["table1"][column].max()
    reason = f"the best of Table 1 is {best:g}; Table 4 needs at least {needed:g}"
    return _finding(best >= needed, best, reason, f"{needed:g}")


@_check("check/table2_against_table4/ResNet-18", "ResNet-18")
@_check("check/table2_against_table4/ResNet-50", "ResNet-50")
def _table2_against_table4(model: str, tables: Tables) -> Finding:
    """Table 2's mean over K - 1 labels, less the retained ones in Table 4, leaves a mean for the unprinted labels."""
    rows = _pick(tables["table4"], dataset="CelebA", forgotten_attribute="Gender")
    rows = rows[rows["attribute"] != "Gender"]
    parts = rows.groupby(["method", "split"])["accuracy_pct"].agg(["sum", "count"])
    means = _retained(tables, "table2").loc["CelebA", model][["WF", "WP"]].stack().swaplevel()
    num_retained = _text_value(tables, "setting/num_labels") - 1
    # Half a unit of the last digit in each printed number, all on the side that would save the claim.
    slack = 0.005 * (num_retained + parts["count"])
    needed = (num_retained * means - parts["sum"] - slack) / (num_retained - parts["count"])
    reason = f"{', '.join(needed.idxmax())}: the unprinted attributes need a mean of at least {needed.max():.2f} %"
    return _finding(needed.max() <= 100, needed.max(), reason, "<=100")


@_check("check/table5_without_forgotten")
def _table5_without_forgotten(tables: Tables) -> Finding:
    rows = _pick(tables["table5"], dataset="CIFAR-10", method="Retrain")
    limit = 90.0 + 0.1 * float(_pick(rows, split="forgotten_label").iloc[0]["accuracy_pct"])
    lowest = rows.loc[rows["split"] != "forgotten_label", "accuracy_pct"].min()
    reason = f"with the forgotten tenth of the images no column could exceed {limit:g} %; the lowest is {lowest:g}"
    return _finding(lowest > limit, lowest, reason, f">{limit:g}")


@_check("check/mia_within_corollary3")
def _mia_within_corollary3(tables: Tables) -> Finding:
    """C3: 1/2 + 1/2 sqrt(1 - exp(-2 I)), I in nats."""
    bits, success = (_privacy_value(tables, quantity, "WP") for quantity in ("leakage bound", "MIA success"))
    bound = 50 + 50 * math.sqrt(1 - math.exp(-2 * bits * math.log(2)))
    return _finding(
        success <= bound, bound, f"{bits:g} bits allow {bound:.1f} %; printed {success:g} %", f"{success:g}"
    )


def _benchmark_wide(tables: Tables) -> pd.DataFrame:
    """Return one row a (dataset, task, method), one column a metric."""
    return tables["benchmark"].pivot(index=["dataset", "task", "method"], columns="metric", values="value")


@_check("check/nomus_weight")
def _nomus_weight(tables: Tables) -> Finding:
    """Least squares for w in NoMUS = w Acc + (1 - w)(1 - 2 F), F = |MIA - 1/2| being the rows called MIA."""
    wide = _benchmark_wide(tables)
    kept = 1 - 2 * wide["MIA"]
    slope = wide["Test Acc"] - kept
    weight = float((slope * (wide["NoMUS"] - kept)).sum() / (slope**2).sum())
    worst = float((kept + weight * slope - wide["NoMUS"]).abs().max())
    reason = f"NoMUS = {weight:.4f} Acc + {1 - weight:.4f} (1 - 2 F) fits {len(wide)} scores to {worst:.5f}"
    return _finding(abs(weight - 0.5) < 0.001 and worst < 0.001, weight, reason, "0.5")


@_check("check/nomus_ranks_retrain_first")
def _nomus_ranks_retrain_first(tables: Tables) -> Finding:
    scores = _benchmark_wide(tables)["NoMUS"].unstack("method")
    holds = scores["Retrained"] > scores["Original"]
    return _finding(bool(holds.all()), holds.sum(), f"in {holds.sum()} of {len(holds)} tasks", str(len(holds)))


def _benchmark_findings(tables: Tables) -> dict[str, Finding]:
    """Check every printed NoMUS by its parts, to the rounding of all three numbers, and top-2 against top-1."""
    findings = {}
    for (dataset, task, method), row in _benchmark_wide(tables).iterrows():
        score = (row["Test Acc"] + 1 - 2 * row["MIA"]) / 2
        rounding = 0.00005 * (0.5 + 1 + 1) + 1e-9
        reason = f"(Acc + 1 - 2 F) / 2 = {score:.5f}"
        finding = _finding(abs(score - row["NoMUS"]) <= rounding, score, reason)
        findings[benchmark_id(dataset, task, method, "NoMUS")] = finding
        if not math.isnan(row["Top-2 Test Acc"]):
            reason = f"top-1 is {row['Test Acc']:g}"
            finding = _finding(row["Top-2 Test Acc"] >= row["Test Acc"], row["Top-2 Test Acc"], reason)
            findings[benchmark_id(dataset, task, method, "Top-2 Test Acc")] = finding
    return findings


def check_printed(tables: Tables | None = None) -> dict[str, Finding]:
    """Return claim id -> what its check of the printed numbers found.

    Args:
        tables: as `load_tables` gives them, which is the default.
    """
    tables = load_tables() if tables is None else tables
    return {claim_id: check(tables) for claim_id, check in CHECKS.items()} | _benchmark_findings(tables)
