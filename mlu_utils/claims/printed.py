"""Printed numbers, and whether they agree with each other. Nothing is measured here.

Purpose: each group of checks reads the printed tables only, so that a test can alter one and see a verdict turn.
Must not: train, score, write files, or hold a number that is printed: those lie in `data/reference/`.

*Tables* throughout: short name -> DataFrame as in the CSV file, see `load_tables`; rates are in percent there.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
import yaml

from mlu_utils import paths

CONSISTENT = "consistent"
INCONSISTENT = "inconsistent"
NOT_TESTABLE = "cannot be tested here"
BASELINES = ["CF-3", "SCRUB", "UNSIR", "SalUn"]

Tables = Mapping[str, pd.DataFrame]
_Checks = Iterator[tuple]  # claim id, whether it holds (None: nobody can tell), the computed number, reason, printed


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


def check_printed(tables: Tables) -> dict[str, Finding]:
    """Return claim id -> what its check found."""
    return {claim_id: finding for group in CHECKS for claim_id, finding in run_checks(group, tables)}


def run_checks(group: Callable[[Tables], _Checks], tables: Tables) -> Iterator[tuple[str, Finding]]:
    """Yield claim ids and findings of one of the `CHECKS`."""
    for claim_id, holds, computed, reason, *printed in group(tables):
        verdict = NOT_TESTABLE if holds is None else CONSISTENT if holds else INCONSISTENT
        yield claim_id, Finding(verdict, float(computed), reason, *printed)


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


def _gender(tables: Tables, **wanted: str) -> pd.Series:
    """Return the accuracies on Gender when it is what was forgotten."""
    return _pick(tables["table4"], forgotten_attribute="Gender", attribute="Gender", **wanted)["accuracy_pct"]


def _retained(tables: Tables, *names: str) -> pd.DataFrame:
    """Return retained accuracy in percent, one row a (dataset, model, split), one column a method."""
    parts = []
    for name in names:
        rows = tables[name].rename(columns={"accuracy_pct": "retained_accuracy_pct"})
        rows = rows[rows["split"] != "forgotten_label"]
        parts.append(rows.pivot(index=["dataset", "model", "split"], columns="method", values="retained_accuracy_pct"))
    return pd.concat(parts)


def _listed(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _rounding(text: str) -> float:
    """Return half a unit of the last printed digit."""
    return 0.5 * 10.0 ** -len(text.partition(".")[2])


def _interval(text: str) -> np.ndarray:
    """Return the lowest and the highest number that is printed like this."""
    return float(text) + _rounding(text) * np.array([-1.0, 1.0])


# --- the checks, by what they are about -----------------------------------------------------------------------


def _of_settings(tables: Tables) -> _Checks:
    shares = [_text(tables, f"setting/split_{split}") for split in ("train", "validation", "test")]
    text = " + ".join(f"{share:g}" for share in shares)
    yield "check/splits_sum", sum(shares) == 100, sum(shares), f"{text} = {sum(shares):g}", text

    keys = ["dataset", "model", "method", "split"]
    counts = [tables["table2"][key].nunique() for key in keys]
    num_cells = len(tables["table2"].drop_duplicates(keys))
    is_full = num_cells == len(tables["table2"]) == math.prod(counts) == _text(tables, "check/table2_cells")
    yield "check/table2_cells", is_full, num_cells, f"{num_cells} different cells of {' x '.join(map(str, counts))}"

    shown, printed = tables["table4"]["attribute"].nunique(), f"K = {_text(tables, 'setting/num_labels'):g}"
    reason = f"{shown} of {printed} attributes are printed"
    yield "check/table4_attributes", f"K = {shown}" == printed, shown, reason, printed

    task = _pick(tables["benchmark"], dataset="MUFAC").iloc[0]["task"]
    released, printed = int(re.search(r"\d+", task)[0]), _text(tables, "setting/num_age_groups")
    reason = f"the release has {released} groups, the paper {printed:g}"
    yield "check/mufac_groups", released == printed, released, reason, f"{printed:g}"


def _of_information(tables: Tables) -> _Checks:
    for method in ("WF", "WP"):
        # C1, C2: 1 - H(p) at the printed attack success p, to the printed digits.
        success, text = _privacy(tables, "AIA success", method), _privacy_text(tables, "leakage bound", method)
        bound, bits = float(text), information_bits(success / 100)
        is_right, reason = abs(bits - bound) <= _rounding(text), f"1 - H({success / 100:g}) = {bits:.4f} bits"
        yield f"CelebA/leakage bound/{method}", is_right, bits, reason

        accuracy = float(_gender(tables, method=method, split="test").iloc[0])
        read = max(accuracy, 100 - accuracy)
        reason = f"reading the output, accuracy {accuracy:g} %, backwards is right for {read:g} %; "
        reason += f"the attack for {success:g} %"
        yield f"check/aia_against_table4/{method}", max(success, 100 - success) >= read, read, reason, f"{success:g}"

        bits = information_bits(accuracy / 100)
        reason = f"an accuracy of {accuracy:g} % on a balanced label carries {bits:.3f} bits, the bound is {bound:g}"
        yield f"check/bits_against_table4/{method}", bits <= bound, bits, reason, f"{bound:g}"

    # Read as an attack success, the printed range must cover that of each method, backwards where that is better.
    for group, methods in (("WF/WP", ["WF", "WP"]), ("baselines", BASELINES)):
        rule, value = parse_printed(_privacy_text(tables, "residual information", group, "all"))
        low, high = value if rule == "between" else (value, 100.0)
        ends = np.hstack([_privacy(tables, "AIA success", method) for method in methods])
        flipped = np.maximum(ends, 100.0 - ends)
        outside = np.maximum(low - flipped, flipped - high)
        reason = f"AIA success {_listed(ends)} %, read backwards below 50: {_listed(flipped)}; "
        reason += f"{(outside > 0).sum()} of {len(ends)} outside; mean as printed {ends.mean():.1f}"
        yield f"all/residual information/{group}", not (outside > 0).any(), flipped[outside.argmax()], reason

    # An attack on a binary attribute that is mostly wrong succeeds when its answer is turned round.
    wp, retrain = (_privacy(tables, "AIA success", method) for method in ("WP", "Retrain"))
    flipped = max(wp, 100 - wp)
    reason = f"{wp:g} % becomes {flipped:g} % backwards; Retrain: {retrain:g} %, chance: 50 %"
    yield "check/aia_below_chance", flipped <= max(retrain, 100 - retrain), flipped, reason, f"{wp:g}"

    # C3: 1/2 + 1/2 sqrt(1 - exp(-2 I)), I in nats.
    bits, success = (_privacy(tables, quantity, "WP") for quantity in ("leakage bound", "MIA success"))
    bound = 50 + 50 * math.sqrt(1 - math.exp(-2 * bits * math.log(2)))
    reason = f"{bits:g} bits allow {bound:.1f} %; printed {success:g} %"
    yield "check/mia_within_corollary3", success <= bound, bound, reason, f"{success:g}"


def _of_time(tables: Tables) -> _Checks:
    low, high = _text(tables, "check/appendix_e_range")
    printed = _pick(tables["privacy"], quantity="speed-up over Retrain")["value"].astype(float)
    outside = printed[~printed.between(low, high)]
    reason = f"printed {_listed(printed)}; outside the range: {_listed(outside) or 'none'}"
    yield "check/appendix_e_range", outside.empty, printed.min(), reason

    # The printed digits leave an interval for Retrain's time by each method; the two intervals must meet.
    quantities = ("unlearning time", "speed-up over Retrain")
    texts = {method: [_privacy_text(tables, name, method) for name in quantities] for method in ("WF", "WP")}
    times = {method: _interval(seconds) * _interval(speedup) for method, (seconds, speedup) in texts.items()}
    low, high = max(low for low, _ in times.values()), min(high for _, high in times.values())
    reason = ", ".join(f"{method} {first:.1f} to {last:.1f} s" for method, (first, last) in times.items())
    reason += f"; both hold for {low:.1f} to {high:.1f} s only" if low <= high else "; no time fits both"
    wf, wp = (float(seconds) * float(speedup) for seconds, speedup in texts.values())
    yield "check/retrain_time", low <= high, wf, reason, f"{wp:.1f}"

    longest = max(last for _, last in times.values())
    reason = f"printed seconds of unlearning times printed speed-ups give at most {longest:.0f} s"
    yield "check/retrain_hours", longest >= _text(tables, "check/retrain_hours"), longest, reason

    num_images = 202_599  # all of CelebA, Liu et al. (2015)
    num_epochs, share = _text(tables, "setting/num_epochs"), _text(tables, "setting/split_train") / 100
    seconds = times["WF"][1]
    speed = num_epochs * share * num_images / seconds
    reason = (
        f"at least {speed:,.0f} if all {num_images:,} images were used for {num_epochs:g} epochs; "
        "image size and number of images behind the printed seconds aren't known to us"
    )
    yield "check/training_speed", None, speed, reason, f"{seconds:.0f} s"


def _of_levels(tables: Tables) -> _Checks:
    # Every cell of WP, forgotten labels apart, must exceed the bound of the abstract.
    bound, retained = _privacy(tables, "retained accuracy", "WP", "all"), _retained(tables, "table2", "table3")
    table4 = tables["table4"]
    is_forgotten = table4["attribute"] == table4["forgotten_attribute"]
    others = _pick(table4[~is_forgotten], method="WP", split="test")
    scopes = {
        "all": retained["WP"],
        "test": retained.query("split == 'test'")["WP"],
        "attributes": others.set_index(["forgotten_attribute", "attribute"])["accuracy_pct"],
    }
    for scope, values in scopes.items():
        num_below, lowest = (values <= bound).sum(), ", ".join(values.idxmin())
        reason = f"{num_below} of {len(values)} cells at or below; the lowest, {values.min():g}, is {lowest}"
        yield f"check/retained_above_93/{scope}", num_below == 0, values.min(), reason, f">{bound:g}"

    # The mean over the splits, rounded or cut to the printed digits, or any one cell.
    text, cells = _privacy_text(tables, "forgotten attribute accuracy", "WP"), _gender(tables, method="WP")
    mean = cells.mean()
    holds = -_rounding(text) <= mean - float(text) < 2 * _rounding(text) or float(text) in cells.to_numpy()
    reason = f"cells {_listed(cells)}; their mean {mean:.4f} is {mean:.2f} when rounded, printed {text}"
    yield "check/forgotten_011", holds, mean, reason, text

    # Without information an answer is right at least as often as the rarer value of the label occurs.
    rarest = 20.8  # percent of CelebA-HQ with Oval_Face, the rarest value among the three forgotten labels
    values = table4.loc[is_forgotten, "accuracy_pct"]
    num_below, lowest = int((values < rarest).sum()), np.maximum(values, 100 - values).min()
    reason = (
        f"{num_below} of {len(values)} cells lie below what any constant answer reaches ({rarest} %): "
        "read as accuracy, the label is there backwards; only read as positive recall can the cells mean forgetting"
    )
    yield "check/forgotten_at_chance", num_below == 0, lowest, reason, f"{values.min():g}-{values.max():g}"

    values = _pick(tables["table2"], method="CF-3")["retained_accuracy_pct"]
    num_below, lowest = int((values < 50).sum()), values.min()
    reason = f"{num_below} of {len(values)} cells below 50 %, though the labels are binary and training never left them"
    yield "check/cf3_above_coin", num_below == 0, lowest, reason, f"{lowest:g}-{values.max():g}"

    rows = _pick(tables["table5"], dataset="CIFAR-10", method="Retrain")
    limit = 90.0 + 0.1 * float(_pick(rows, split="forgotten_label").iloc[0]["accuracy_pct"])
    lowest = rows.loc[rows["split"] != "forgotten_label", "accuracy_pct"].min()
    reason = f"with the forgotten tenth of the images no column could exceed {limit:g} %; the lowest is {lowest:g}"
    yield "check/table5_without_forgotten", lowest > limit, lowest, reason, f">{limit:g}"


def _of_order(tables: Tables) -> _Checks:
    for name in ("table2", "table3", "table5"):
        cells = _retained(tables, name)
        holds = cells["WP"] >= cells["Retrain"]
        yield f"check/wp_above_retrain/{name}", *_every_cell(holds, "WP is at or above Retrain")
        holds = cells[["WF", "WP"]].min(axis=1) > cells[BASELINES].max(axis=1)
        yield f"check/above_baselines/{name}", *_every_cell(holds, "WF and WP are above all four")
    cells = _retained(tables, "table2", "table3", "table5")
    yield "check/wp_above_wf", *_every_cell(cells["WP"] > cells["WF"], "WP is above WF")

    steps = []
    for varied, fixed in (("epsilon", "tau"), ("tau", "epsilon")):
        line = longest_line(tables["table1"], varied, fixed)
        steps += [*np.diff(line["accuracy_brown_hair_pct"]), *-np.diff(line["forgetting_gender_pct"])]
    num_kept = sum(step >= 0 for step in steps)
    reason = f"{num_kept} of {len(steps)} steps; {sum(step == 0 for step in steps)} of them change nothing"
    yield "check/table1_monotone", num_kept == len(steps), 100 * num_kept / len(steps), reason, "100"


def _every_cell(holds: pd.Series, reason: str) -> tuple[bool, float, str, str]:
    failing = "; ".join(", ".join(key) for key in holds.index[~holds][:3])
    reason = f"{reason} in {holds.sum()} of {len(holds)} cells" + (f", not in {failing}" if failing else "")
    return holds.all(), 100 * holds.mean(), reason, "100"


def _between_tables(tables: Tables) -> _Checks:
    rows = _pick(tables["table4"], forgotten_attribute="Gender")
    # Forgetting is read as 100 % minus the accuracy on the forgotten label.
    needs = {
        "forgetting": ("forgetting_gender_pct", 100 - _gender(tables, split="test")),
        "brown_hair": ("accuracy_brown_hair_pct", _pick(rows, attribute="Brown_Hair", split="test")["accuracy_pct"]),
    }
    for quantity, (column, cells) in needs.items():
        best, needed = tables["table1"][column].max(), cells.min()
        reason = f"the best of Table 1 is {best:g}; Table 4 needs at least {needed:g}"
        yield f"check/table1_against_table4/{quantity}", best >= needed, best, reason, f"{needed:g}"

    # Table 2's mean over K - 1 labels, less the retained ones in Table 4, leaves a mean for the unprinted labels.
    rows = _pick(rows[rows["attribute"] != "Gender"], dataset="CelebA")
    parts = rows.groupby(["method", "split"])["accuracy_pct"].agg(["sum", "count"])
    num_retained = _text(tables, "setting/num_labels") - 1
    # Half a unit of the last digit in each printed number, all on the side that would save the claim.
    slack = 0.005 * (num_retained + parts["count"])
    for model in ("ResNet-18", "ResNet-50"):
        means = _retained(tables, "table2").loc["CelebA", model][["WF", "WP"]].stack().swaplevel()
        needed = (num_retained * means - parts["sum"] - slack) / (num_retained - parts["count"])
        reason = f"{', '.join(needed.idxmax())}: the unprinted attributes need a mean of at least {needed.max():.2f} %"
        yield f"check/table2_against_table4/{model}", needed.max() <= 100, needed.max(), reason, "<=100"


def _of_benchmark(tables: Tables) -> _Checks:
    wide = tables["benchmark"].pivot(index=["dataset", "task", "method"], columns="metric", values="value")
    # Least squares for w in NoMUS = w Acc + (1 - w)(1 - 2 F), F = |MIA - 1/2| being the rows called MIA.
    kept = 1 - 2 * wide["MIA"]
    slope = wide["Test Acc"] - kept
    weight = float((slope * (wide["NoMUS"] - kept)).sum() / (slope**2).sum())
    worst = float((kept + weight * slope - wide["NoMUS"]).abs().max())
    reason = f"NoMUS = {weight:.4f} Acc + {1 - weight:.4f} (1 - 2 F) fits {len(wide)} scores to {worst:.5f}"
    yield "check/nomus_weight", abs(weight - 0.5) < 0.001 and worst < 0.001, weight, reason, "0.5"

    scores = wide["NoMUS"].unstack("method")
    holds = scores["Retrained"] > scores["Original"]
    counted = f"in {holds.sum()} of {len(holds)} tasks"
    yield "check/nomus_ranks_retrain_first", holds.all(), holds.sum(), counted, str(len(holds))

    # Every NoMUS by its parts, to the rounding of all three numbers, and top-2 against top-1.
    rounding = 0.00005 * (0.5 + 1 + 1) + 1e-9
    for key, row in wide.iterrows():
        score, top1, top2 = (row["Test Acc"] + 1 - 2 * row["MIA"]) / 2, row["Test Acc"], row["Top-2 Test Acc"]
        name, is_sum = "/".join(("benchmark", *key)), abs(score - row["NoMUS"]) <= rounding
        yield f"{name}/NoMUS", is_sum, score, f"(Acc + 1 - 2 F) / 2 = {score:.5f}"
        if not math.isnan(top2):
            yield f"{name}/Top-2 Test Acc", top2 >= top1, top2, f"top-1 is {top1:g}"


def _of_words(tables: Tables) -> _Checks:
    """Sentences of the text, each by the table that it speaks of."""
    cells = _retained(tables, "table2")
    for name, values in {
        "check/original_level": cells["Original"],
        "check/retrain_drop": cells["Original"] - cells["Retrain"],
    }.items():
        low, high = _text(tables, name)
        outside = values[(values < low) | (values > high)]
        farthest = values[(values - (low + high) / 2).abs().idxmax()]
        reason = f"{len(outside)} of {len(values)} cells outside; from {values.min():.2f} to {values.max():.2f}"
        yield name, outside.empty, farthest, reason

    bound, rows = _text(tables, "check/no_beard"), _pick(tables["table4"], forgotten_attribute="Gender")
    values = _pick(rows, attribute="No_Beard")["accuracy_pct"]
    num_above = (values > bound).sum()
    yield "check/no_beard", num_above == len(values), values.min(), f"{num_above} of {len(values)} cells above"

    num_weights, seconds = _text(tables, "check/full_hessian"), _privacy(tables, "unlearning time", "WF")
    peak = 15.1e12  # operations a second of the RTX 4060 that the paper names, in single precision
    rate = num_weights**3 / seconds
    reason = f"n^3 = {num_weights**3:.1e} operations in {seconds:g} s are {rate / peak:,.0f} times the card's peak"
    yield "check/full_hessian", rate <= peak, rate / 1e12, reason

    before, after = (_privacy(tables, "leakage bound", method) for method in ("WF", "WP"))
    reduction = 100 * (1 - after / before)
    reason = f"from {before:g} to {after:g} bits as printed"
    yield "check/leakage_halved", reduction > _text(tables, "check/leakage_halved"), reduction, reason

    # Whoever reads the retained label A_k off the output guesses A_j at least as well as from A_k, less the errors.
    pairs = load_printed("celebahq_label_pairs").set_index(["label_a", "label_b"]).loc[("Gender", "No_Beard")]
    without, with_it = sorted((pairs["neither"], pairs["only_a"])), sorted((pairs["only_b"], pairs["both"]))
    success = 100 * (without[1] + with_it[1]) / pairs.sum()
    for method in ("WF", "WP"):
        accuracy = _pick(rows, attribute="No_Beard", method=method, split="test").iloc[0]["accuracy_pct"]
        attack = _privacy(tables, "AIA success", method)
        least = success - (100 - accuracy)
        reason = f"No_Beard tells Gender in {success:.1f} % of CelebA-HQ's images and is right in {accuracy:g} %; "
        reason += f"the attack succeeds in {attack:g} %, backwards {100 - attack:g} %"
        yield f"check/retained_label_tells/{method}", max(attack, 100 - attack) >= least, least, reason, f"{attack:g}"


CHECKS = (_of_settings, _of_information, _of_time, _of_levels, _of_order, _of_words, _between_tables, _of_benchmark)
