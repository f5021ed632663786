"""Tidy scores: one row a number, kept in files, judged beside Retrain.

A *study* is a profile, dataset, model, request and seed. Rates are fractions in [0, 1].
"""

import contextlib
import importlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mlu_utils.naming import choices

STUDY_COLUMNS = ("profile", "dataset", "model", "request", "seed")
KEY_COLUMNS = (*STUDY_COLUMNS, "unlearning_seed", "method", "reading", "split", "label", "metric")
SCORE_COLUMNS = (*KEY_COLUMNS, "value", "unit")
SEED_COLUMNS = ("seed", "unlearning_seed")
NOT_UNLEARNED = -1  # unlearning_seed of the original and of the retrained model of the study's own seed
UNITS = ("fraction", "s", "x", "-")
# reading -> what is added to a method's name; the keys are what scores accept, in display order.
READING_DISPLAY = {
    **{"-": "", "targeted": "targeted", "trunk": "last layer spared"},
    **{"printed": "as printed", "random": "random control"},
}
# In the order of every table and figure. Methods that others register with `unlearning.METHODS` follow.
METHOD_ORDER = tuple(
    "Original, Retrain, WF, WP, CF-k, SCRUB, UNSIR, SalUn, FT, NegGrad, AdvNegGrad, SSD, LAF, EssentialGraph, "
    "WF-Net, EU-k, HeadReset, Random control".split(", ")
)


def read_scores(path: Path) -> pd.DataFrame:
    """Read a scores file, to the last digit; refuse one that is empty, cut off or breaks a rule of `checked_scores`."""
    try:
        scores = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise ValueError(f"{path} isn't a whole scores file ({error}): delete it and run its study again") from error
    if "value" in scores:
        # Python's own conversion is exact in every release of pandas; an empty cell is an undefined score.
        with contextlib.suppress(ValueError, TypeError):
            scores["value"] = [float(text or "nan") for text in scores["value"]]
    return checked_scores(scores, str(path))


def require_retrain(scores: pd.DataFrame) -> None:
    """Refuse a study's (split, label, metric) that has no Retrain row; ratios to Retrain (unit "x") are exempt."""
    keys = [*STUDY_COLUMNS, "split", "label", "metric"]
    absolute = scores[scores["unit"] != "x"]
    has = set(absolute.loc[absolute["method"] == "Retrain", keys].itertuples(index=False, name=None))
    needs = dict.fromkeys(absolute[keys].itertuples(index=False, name=None))
    missing = [key for key in needs if key not in has]
    if missing:
        shown = "; ".join(", ".join(map(str, key)) for key in missing[:3])
        raise ValueError(
            f"{len(missing)} of {len(needs)} results have no Retrain row, such as ({shown}): without "
            "the retrained model's value no result can be judged; score Retrain for this study first"
        )


def result_table(
    scores: pd.DataFrame,
    metrics: Sequence[str],
    *,
    labels: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Rows of the chosen metrics, labels and splits (default all), per seed and in full precision.

    Returns:
        `SCORE_COLUMNS` and `retrain_gap` = value minus Retrain's (mean) value in the same study, split and label;
        nan for ratios to Retrain. Sorted by study, split, label, metric, then in the fixed order of methods.

    Raises:
        ValueError: nothing is left, or a Retrain row is missing.
    """
    table = scores[scores["metric"].isin(metrics)]
    for column, chosen in (("label", labels), ("split", splits)):
        if chosen is not None:
            table = table[table[column].isin(chosen)]
    if table.empty:
        raise ValueError(
            f"no scores for metrics {list(metrics)}, labels {labels}, splits {splits}; metrics there are: "
            f"{sorted(scores['metric'].unique())}"
        )
    require_retrain(table)
    keys = [*STUDY_COLUMNS, "split", "label", "metric"]
    retrain = table["value"].where(table["method"] == "Retrain").groupby([table[key] for key in keys])
    table = table.assign(
        retrain_gap=table["value"] - retrain.transform("mean"),
        _rank=[display_rank(*pair) for pair in zip(table["method"], table["reading"], strict=True)],
    )
    return table.sort_values([*keys, "_rank"], kind="stable", ignore_index=True).drop(columns="_rank")


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """Mean, sd (sample, nan for a single seed) and mean `retrain_gap` over the seeds of a `result_table`."""
    keys = [column for column in (*KEY_COLUMNS, "unit") if column not in SEED_COLUMNS]
    return table.groupby(keys, sort=False, as_index=False).agg(
        mean=("value", "mean"),
        sd=("value", "std"),
        num_seeds=("value", "size"),
        retrain_gap=("retrain_gap", "mean"),
    )


def method_display(method: str, reading: str = "-") -> str:
    """Return the name that a table or figure shows; a method or reading that scores don't accept is refused."""
    _require("method", method, known_methods(method))
    _require("reading", reading, READING_DISPLAY)
    return f"{method} ({READING_DISPLAY[reading]})" if READING_DISPLAY[reading] else method


def display_rank(method: str, reading: str = "-") -> int:
    """Return the sort key of an entry in tables and figures."""
    readings = list(READING_DISPLAY)
    return known_methods(method).index(method) * len(readings) + readings.index(reading)


def known_methods(wanted: str) -> tuple[str, ...]:
    """Return the names that scores accept, in display order; registered ones are looked up if `wanted` is not ours."""
    if wanted in METHOD_ORDER:
        return METHOD_ORDER
    # Not imported above: scores of our own methods depend on no method's code.
    registered = importlib.import_module("mlu_utils.unlearning").METHODS
    return (*METHOD_ORDER, *(name for name in registered if name not in METHOD_ORDER))


def csv_bytes(table: pd.DataFrame) -> bytes:
    """Return a table as CSV in full precision, without its index."""
    return table.to_csv(index=False, lineterminator="\n").encode()


def checked_scores(rows: pd.DataFrame | Iterable[Mapping], where: str) -> pd.DataFrame:
    """Return rows as a table with exactly `SCORE_COLUMNS`; `where` opens the message of an error.

    Raises:
        ValueError: a column missing or unknown, an unknown method, reading or unit, an infinite value, a rate
            outside [0, 1] (a percentage), two rows of one key.
    """
    scores = rows.copy() if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    missing = [column for column in SCORE_COLUMNS if column not in scores]
    unknown = [column for column in scores if column not in SCORE_COLUMNS]
    if missing or unknown:
        raise ValueError(f"{where}: missing columns {missing}, unknown columns {unknown}; expected {SCORE_COLUMNS}")
    scores = scores[list(SCORE_COLUMNS)].reset_index(drop=True)
    for column in (column for column in SCORE_COLUMNS if column not in (*SEED_COLUMNS, "value")):
        is_text = scores[column].map(lambda value: isinstance(value, str) and value != "")
        if not is_text.all():
            row = int((~is_text).to_numpy().argmax())
            raise ValueError(f"{where}, row {row}: {column} is {scores[column][row]!r}; write '-' for not applicable")
    for column, accepted in (("method", known_methods), ("reading", READING_DISPLAY), ("unit", UNITS)):
        for value in scores[column].unique():
            _require(column, value, accepted(value) if callable(accepted) else accepted, f"{where}: ")
    try:
        scores = scores.astype({"seed": "int64", "unlearning_seed": "int64", "value": "float64"})
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: seeds must be whole and value a number ({error})") from error
    is_rate = scores["unit"] == "fraction"
    bad = np.isinf(scores["value"]) | (is_rate & ((scores["value"] < 0) | (scores["value"] > 1)))
    if bad.any():
        row = scores[bad].iloc[0]
        raise ValueError(
            f"{where}: {row['method']} {row['metric']} of {row['label']} is {row['value']} {row['unit']}; "
            "fractions lie in [0, 1] (divide percentages by 100) and no value is infinite"
        )
    is_repeated = scores.duplicated(list(KEY_COLUMNS))
    if is_repeated.any():
        raise ValueError(f"{where}: two rows for {tuple(scores.loc[is_repeated, list(KEY_COLUMNS)].iloc[0])}")
    return scores


def _require(what: str, value: str, accepted: Iterable[str], where: str = "") -> None:
    if value not in accepted:
        raise ValueError(f"{where}{what} {value!r} is unknown: {choices(value, accepted)}")
