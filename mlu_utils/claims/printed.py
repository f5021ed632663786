"""Printed numbers, and whether they agree with each other. Nothing is measured here.

Purpose: each check is a pure function of the printed tables, so that a test can alter a table and see its verdict turn.
Must not: train, score, write files, or hold a number that is printed: those lie in `data/reference/`.

*Tables* throughout: short name -> DataFrame as in the CSV file, see `load_tables`; rates are in percent there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import pandas as pd
import yaml

from mlu_utils import paths

CONSISTENT = "consistent"
INCONSISTENT = "inconsistent"
NOT_TESTABLE = "cannot be tested here"
BASELINES = ("CF-3", "SCRUB", "UNSIR", "SalUn")

Tables = Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class Finding:
    """What a check of printed numbers found: `computed` is in the claim's unit."""

    verdict: str
    computed: float
    reason: str
    printed: str = ""


@cache
def comparisons() -> dict:
    """Return what `comparisons.yaml` says: the printed tables, their claims, and our number for each."""
    return yaml.safe_load((paths.REFERENCE / "comparisons.yaml").read_text(encoding="utf-8"))


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
    return {short: load_printed(entry["file"]) for short, entry in comparisons()["tables"].items()}


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
    forms = {
        "between": f"{number}-{number}",
        "at_least": rf">=?\s*{number}|{number}\+",
        "at_most": rf"<=?\s*{number}",
        None: number,
    }
    for rule, form in forms.items():
        if match := re.fullmatch(form, str(text).strip()):
            values = tuple(float(group) for group in match.groups() if group is not None)
            return rule, values if rule == "between" else values[0]
    raise ValueError(f"printed value {text!r}: expected a number, a range 75-85, >93, 70+ or <5")


def information_bits(accuracy: float) -> float:
    """Return 1 - H(accuracy): the bits on a balanced binary label in an answer that is right with this rate."""
    return 1.0 + sum(p * math.log2(p) for p in (accuracy, 1.0 - accuracy) if p > 0)


def longest_line(sweep: pd.DataFrame, varied: str, fixed: str) -> pd.DataFrame:
    """Return the rows along which only `varied` changes, sorted by it."""
    return max((part for _, part in sweep.groupby(fixed)), key=len).sort_values(varied)


# --- what the checks read ---------------------------------------------------------------------------------


def _pick(table: pd.DataFrame, **wanted: str) -> pd.DataFrame:
    """Return the rows whose columns have these values; refuse to judge by none."""
    for column, value in wanted.items():
        table = table[table[column] == value]
    if table.empty:
        raise ValueError(f"no printed row with {wanted}: was the table altered?")
    return table


def _privacy_text(tables: Tables, quantity: str, method: str, dataset: str = "CelebA") -> str:
    return _pick(tables["privacy"], quantity=quantity, method=method, dataset=dataset).iloc[0]["value"]


def _privacy(tables: Tables, quantity: str, method: str, dataset: str = "CelebA") -> float | tuple[float, float]:
    return parse_printed(_privacy_text(tables, quantity, method, dataset))[1]


def _text(tables: Tables, claim_id: str) -> float | tuple[float, float]:
    return parse_printed(_pick(tables["text"], id=claim_id).iloc[0]["printed"])[1]


def _gender_accuracy(tables: Tables, method: str) -> float:
    wanted = {"method": method, "forgotten_attribute": "Gender", "attribute": "Gender", "split": "test"}
    return float(_pick(tables["table4"], **wanted).iloc[0]["accuracy_pct"])


def _retained(tables: Tables, name: str) -> pd.DataFrame:
    """Return retained accuracy in percent, one row a (dataset, model, split), one column a method."""
    rows = tables[name].rename(columns={"accuracy_pct": "retained_accuracy_pct"})
    rows = rows[rows["split"] != "forgotten_label"]
    return rows.pivot(index=["dataset", "model", "split"], columns="method", values="retained_accuracy_pct")


def _benchmark_wide(tables: Tables) -> pd.DataFrame:
    """Return one row a (dataset, task, method), one column a metric."""
    return tables["benchmark"].pivot(index=["dataset", "task", "method"], columns="metric", values="value")


def _listed(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _rounding(text: str) -> float:
    """Return half a unit of the last printed digit."""
    return 0.5 * 10.0 ** -len(text.partition(".")[2])


def _interval(text: str) -> np.ndarray:
    """Return the lowest and the highest number that is printed like this."""
    return float(text) + _rounding(text) * np.array([-1.0, 1.0])


# --- the checks -------------------------------------------------------------------------------------------

CHECKS: dict[str, Callable[[Tables], Finding]] = {}  # claim id -> function of the tables


def _check(claim_id: str, *cases: str) -> Callable[[Callable[..., Finding]], Callable[..., Finding]]:
    """Register a check under a claim's id; with cases once for each, which fills the id's {} and comes first."""

    def register(function: Callable[..., Finding]) -> Callable[..., Finding]:
        CHECKS.update({claim_id.format(case): partial(function, case) for case in cases} or {claim_id: function})
        return function

    return register


def _finding(holds: bool, computed: float, reason: str, printed: str = "") -> Finding:
    return Finding(CONSISTENT if holds else INCONSISTENT, float(computed), reason, printed)


@_check("CelebA/leakage bound/{}", "WF", "WP")
def _corollary_bits(method: str, tables: Tables) -> Finding:
    """C1, C2: 1 - H(p) at the printed attack success p, to the printed digits."""
    success, printed = _privacy(tables, "AIA success", method), _privacy_text(tables, "leakage bound", method)
    bits = information_bits(success / 100)
    reason = f"1 - H({success / 100:g}) = {bits:.4f} bits"
    return _finding(abs(bits - float(printed)) <= _rounding(printed), bits, reason)


@_check("all/residual information/{}", "WF/WP", "baselines")
def _residual_information(group: str, tables: Tables) -> Finding:
    """Read as an attack success, the printed range must cover that of each method, backwards where that is better."""
    rule, value = parse_printed(_privacy_text(tables, "residual information", group, "all"))
    low, high = value if rule == "between" else (value, 100.0)
    methods = BASELINES if group == "baselines" else group.split("/")
    ends = np.hstack([_privacy(tables, "AIA success", method) for method in methods])
    flipped = np.maximum(ends, 100.0 - ends)
    outside = np.maximum(low - flipped, flipped - high)
    reason = f"AIA success {_listed(ends)} %, read backwards below 50: {_listed(flipped)}; "
    reason += f"{(outside > 0).sum()} of {len(ends)} outside; mean as printed {ends.mean():.1f}"
    return _finding(not (outside > 0).any(), flipped[outside.argmax()], reason)


@_check("check/appendix_e_range")
def _appendix_e_range(tables: Tables) -> Finding:
    low, high = _text(tables, "check/appendix_e_range")
    printed = _pick(tables["privacy"], quantity="speed-up over Retrain")["value"].astype(float)
    outside = printed[~printed.between(low, high)]
    reason = f"printed {_listed(printed)}; outside the range: {_listed(outside) or 'none'}"
    return _finding(outside.empty, printed.min(), reason)


@_check("check/splits_sum")
def _splits_sum(tables: Tables) -> Finding:
    shares = [_text(tables, f"setting/split_{split}") for split in ("train", "validation", "test")]
    text = " + ".join(f"{share:g}" for share in shares)
    return _finding(sum(shares) == 100, sum(shares), f"{text} = {sum(shares):g}", text)


@_check("check/table2_cells")
def _table2_cells(tables: Tables) -> Finding:
    keys = ["dataset", "model", "method", "split"]
    counts = [tables["table2"][key].nunique() for key in keys]
    num_cells = len(tables["table2"].drop_duplicates(keys))
    is_full = num_cells == len(tables["table2"]) == math.prod(counts) == _text(tables, "check/table2_cells")
    return _finding(is_full, num_cells, f"{num_cells} different cells of {' x '.join(map(str, counts))}")


@_check("check/table4_attributes")
def _table4_attributes(tables: Tables) -> Finding:
    shown, printed = tables["table4"]["attribute"].nunique(), f"K = {_text(tables, 'setting/num_labels'):g}"
    return _finding(f"K = {shown}" == printed, shown, f"{shown} of {printed} attributes are printed", printed)


@_check("check/mufac_groups")
def _mufac_groups(tables: Tables) -> Finding:
    task = _pick(tables["benchmark"], dataset="MUFAC").iloc[0]["task"]
    released, printed = int(re.search(r"\d+", task)[0]), _text(tables, "setting/num_age_groups")
    reason = f"the release has {released} groups, the paper {printed:g}"
    return _finding(released == printed, released, reason, f"{printed:g}")


@_check("check/retained_above_93/{}", "all", "test", "attributes")
def _retained_above_93(scope: str, tables: Tables) -> Finding:
    """Every cell of WP, forgotten labels apart, must exceed the bound of the abstract."""
    if scope == "attributes":
        cells, keys = tables["table4"], ["forgotten_attribute", "attribute"]
        cells = cells[cells["attribute"] != cells["forgotten_attribute"]]
    else:
        cells, keys = pd.concat([tables["table2"], tables["table3"]]), ["dataset", "model", "split"]
    cells = _pick(cells, method="WP") if scope == "all" else _pick(cells, method="WP", split="test")
    values = cells.set_index(keys).filter(like="accuracy_pct").iloc[:, 0]
    bound = _privacy(tables, "retained accuracy", "WP", "all")
    num_below, lowest = (values <= bound).sum(), ", ".join(values.idxmin())
    reason = f"{num_below} of {len(values)} cells at or below; the lowest, {values.min():g}, is {lowest}"
    return _finding(num_below == 0, values.min(), reason, f">{bound:g}")


@_check("check/forgotten_011")
def _forgotten_accuracy(tables: Tables) -> Finding:
    """The mean over the splits, rounded or cut to the printed digits, or any one cell."""
    text = _privacy_text(tables, "forgotten attribute accuracy", "WP")
    cells = _pick(tables["table4"], method="WP", forgotten_attribute="Gender", attribute="Gender")["accuracy_pct"]
    mean = cells.mean()
    gap = mean - float(text)
    holds = -_rounding(text) <= gap < 2 * _rounding(text) or float(text) in cells.to_numpy()
    reason = f"cells {_listed(cells)}; their mean {mean:.4f} is {mean:.2f} when rounded, printed {text}"
    return _finding(holds, mean, reason, text)


def _retrain_interval(tables: Tables, method: str) -> np.ndarray:
    """Return between which seconds Retrain's time lies, by the printed digits of a method's time and speed-up."""
    seconds, speedup = (_privacy_text(tables, name, method) for name in ("unlearning time", "speed-up over Retrain"))
    return _interval(seconds) * _interval(speedup)


@_check("check/retrain_time")
def _retrain_time(tables: Tables) -> Finding:
    """Printed digits leave an interval for each method's Retrain time; the two intervals must meet."""
    times = {method: _retrain_interval(tables, method) for method in ("WF", "WP")}
    low, high = max(low for low, _ in times.values()), min(high for _, high in times.values())
    reason = ", ".join(f"{method} {first:.1f} to {last:.1f} s" for method, (first, last) in times.items())
    reason += f"; both hold for {low:.1f} to {high:.1f} s only" if low <= high else "; no time fits both"
    wf, wp = (
        _privacy(tables, "unlearning time", method) * _privacy(tables, "speed-up over Retrain", method)
        for method in times
    )
    return _finding(low <= high, wf, reason, f"{wp:.1f}")


@_check("check/training_speed")
def _training_speed(tables: Tables) -> Finding:
    num_images = 202_599  # all of CelebA, Liu et al. (2015)
    num_epochs, share = _text(tables, "setting/num_epochs"), _text(tables, "setting/split_train") / 100
    seconds = _retrain_interval(tables, "WF")[1]
    speed = num_epochs * share * num_images / seconds
    reason = (
        f"at least {speed:,.0f} if all {num_images:,} images were used for {num_epochs:g} epochs; "
        "image size and number of images behind the printed seconds aren't known to us"
    )
    return Finding(NOT_TESTABLE, float(speed), reason, f"{seconds:.0f} s")


@_check("check/aia_below_chance")
def _aia_below_chance(tables: Tables) -> Finding:
    """An attack on a binary attribute that is mostly wrong succeeds when its answer is turned round."""
    wp, retrain = (_privacy(tables, "AIA success", method) for method in ("WP", "Retrain"))
    flipped = max(wp, 100 - wp)
    reason = f"{wp:g} % becomes {flipped:g} % backwards; Retrain: {retrain:g} %, chance: 50 %"
    return _finding(flipped <= max(retrain, 100 - retrain), flipped, reason, f"{wp:g}")


@_check("check/aia_against_table4/{}", "WF", "WP")
def _aia_against_table4(method: str, tables: Tables) -> Finding:
    accuracy, success = _gender_accuracy(tables, method), _privacy(tables, "AIA success", method)
    read = max(accuracy, 100 - accuracy)
    reason = f"reading the output, accuracy {accuracy:g} %, backwards is right for {read:g} %; "
    reason += f"the attack for {success:g} %"
    return _finding(max(success, 100 - success) >= read, read, reason, f"{success:g}")


@_check("check/bits_against_table4/{}", "WF", "WP")
def _bits_against_table4(method: str, tables: Tables) -> Finding:
    accuracy, bound = _gender_accuracy(tables, method), _privacy(tables, "leakage bound", method)
    bits = information_bits(accuracy / 100)
    reason = f"an accuracy of {accuracy:g} % on a balanced label carries {bits:.3f} bits, the bound is {bound:g}"
    return _finding(bits <= bound, bits, reason, f"{bound:g}")


@_check("check/forgotten_at_chance")
def _forgotten_at_chance(tables: Tables) -> Finding:
    """Without information an answer is right at least as often as the rarer value of the label occurs."""
    rarest = 20.8  # percent of CelebA-HQ with Oval_Face, the rarest value among the three forgotten labels
    cells = tables["table4"]
    values = cells.loc[cells["attribute"] == cells["forgotten_attribute"], "accuracy_pct"]
    num_below = int((values < rarest).sum())
    reason = (
        f"{num_below} of {len(values)} cells lie below what any constant answer reaches ({rarest} %): "
        "read as accuracy, the label is there backwards; only read as positive recall can the cells mean forgetting"
    )
    lowest = np.maximum(values, 100 - values).min()
    return _finding(num_below == 0, lowest, reason, f"{values.min():g}-{values.max():g}")


@_check("check/cf3_above_coin")
def _cf3_above_coin(tables: Tables) -> Finding:
    values = _pick(tables["table2"], method="CF-3")["retained_accuracy_pct"]
    num_below = int((values < 50).sum())
    reason = f"{num_below} of {len(values)} cells below 50 %, though the labels are binary and training never left them"
    return _finding(num_below == 0, values.min(), reason, f"{values.min():g}-{values.max():g}")


@_check("check/wp_above_retrain/{}", "table2", "table3", "table5")
def _wp_above_retrain(name: str, tables: Tables) -> Finding:
    cells = _retained(tables, name)
    return _every_cell(cells["WP"] >= cells["Retrain"], "WP is at or above Retrain")


@_check("check/above_baselines/{}", "table2", "table3", "table5")
def _above_baselines(name: str, tables: Tables) -> Finding:
    cells = _retained(tables, name)
    holds = cells[["WF", "WP"]].min(axis=1) > cells[list(BASELINES)].max(axis=1)
    return _every_cell(holds, "WF and WP are above all four")


@_check("check/wp_above_wf")
def _wp_above_wf(tables: Tables) -> Finding:
    cells = pd.concat([_retained(tables, name) for name in ("table2", "table3", "table5")])
    return _every_cell(cells["WP"] > cells["WF"], "WP is above WF")


def _every_cell(holds: pd.Series, reason: str) -> Finding:
    failing = "; ".join(", ".join(key) for key in holds.index[~holds][:3])
    reason = f"{reason} in {holds.sum()} of {len(holds)} cells" + (f", not in {failing}" if failing else "")
    return _finding(holds.all(), 100 * holds.mean(), reason, "100")


@_check("check/table1_monotone")
def _table1_monotone(tables: Tables) -> Finding:
    steps = []
    for varied, fixed in (("epsilon", "tau"), ("tau", "epsilon")):
        line = longest_line(tables["table1"], varied, fixed)
        steps += [*np.diff(line["accuracy_brown_hair_pct"]), *-np.diff(line["forgetting_gender_pct"])]
    num_kept = sum(step >= 0 for step in steps)
    reason = f"{num_kept} of {len(steps)} steps; {sum(step == 0 for step in steps)} of them change nothing"
    return _finding(num_kept == len(steps), 100 * num_kept / len(steps), reason, "100")


@_check("check/table1_against_table4/{}", "forgetting", "brown_hair")
def _table1_against_table4(quantity: str, tables: Tables) -> Finding:
    """Forgetting is read as 100 % minus the accuracy on the forgotten label."""
    is_forgetting = quantity == "forgetting"
    attribute = "Gender" if is_forgetting else "Brown_Hair"
    cells = _pick(tables["table4"], forgotten_attribute="Gender", attribute=attribute, split="test")["accuracy_pct"]
    needed = (100 - cells if is_forgetting else cells).min()
    best = tables["table1"]["forgetting_gender_pct" if is_forgetting else "accuracy_brown_hair_pct"].max()
    reason = f"the best of Table 1 is {best:g}; Table 4 needs at least {needed:g}"
    return _finding(best >= needed, best, reason, f"{needed:g}")


@_check("check/table2_against_table4/{}", "ResNet-18", "ResNet-50")
def _table2_against_table4(model: str, tables: Tables) -> Finding:
    """Table 2's mean over K - 1 labels, less the retained ones in Table 4, leaves a mean for the unprinted labels."""
    rows = _pick(tables["table4"], dataset="CelebA", forgotten_attribute="Gender")
    rows = rows[rows["attribute"] != "Gender"]
    parts = rows.groupby(["method", "split"])["accuracy_pct"].agg(["sum", "count"])
    means = _retained(tables, "table2").loc["CelebA", model][["WF", "WP"]].stack().swaplevel()
    num_retained = _text(tables, "setting/num_labels") - 1
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
    bits, success = (_privacy(tables, quantity, "WP") for quantity in ("leakage bound", "MIA success"))
    bound = 50 + 50 * math.sqrt(1 - math.exp(-2 * bits * math.log(2)))
    return _finding(
        success <= bound, bound, f"{bits:g} bits allow {bound:.1f} %; printed {success:g} %", f"{success:g}"
    )


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
    return _finding(holds.all(), holds.sum(), f"in {holds.sum()} of {len(holds)} tasks", str(len(holds)))


def _benchmark_findings(tables: Tables) -> dict[str, Finding]:
    """Check every printed NoMUS by its parts, to the rounding of all three numbers, and top-2 against top-1."""
    findings = {}
    rounding = 0.00005 * (0.5 + 1 + 1) + 1e-9
    for key, row in _benchmark_wide(tables).iterrows():
        score, top1, top2 = (row["Test Acc"] + 1 - 2 * row["MIA"]) / 2, row["Test Acc"], row["Top-2 Test Acc"]
        name = "/".join(("benchmark", *key))
        is_sum = abs(score - row["NoMUS"]) <= rounding
        findings[f"{name}/NoMUS"] = _finding(is_sum, score, f"(Acc + 1 - 2 F) / 2 = {score:.5f}")
        if not math.isnan(top2):
            findings[f"{name}/Top-2 Test Acc"] = _finding(top2 >= top1, top2, f"top-1 is {top1:g}")
    return findings


def check_printed(tables: Tables | None = None) -> dict[str, Finding]:
    """Return claim id -> what its check of the printed numbers found.

    Args:
        tables: as `load_tables` gives them, which is the default.
    """
    tables = load_tables() if tables is None else tables
    return {claim_id: check(tables) for claim_id, check in CHECKS.items()} | _benchmark_findings(tables)
