"""From tidy scores to tables and figures, each with a record of where it came from.

Purpose: the one way in which a number or a picture reaches a folder. Files are written whole or not at all.
Must not: train, unlearn, score, choose a backend or show a window; every drawing function returns a closed
`Figure`, which a notebook displays exactly once as the last value of a cell.

Words used throughout: *scores* is a DataFrame with `SCORE_COLUMNS`, one row a number; a *study* is a profile,
dataset, model, request and seed. Rates are fractions in [0, 1]; percent appears in the table of claims only, because
the paper prints percent.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import json
import math
import os
import platform
import re
import subprocess
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import ArrayLike

from mlu_utils import paths
from mlu_utils.naming import choices

# --- tidy scores
# ----------------------------------------------------------------------------------------------

SCORE_COLUMNS = (
    "profile",
    "dataset",
    "model",
    "request",
    "seed",
    "unlearning_seed",
    "method",
    "reading",
    "split",
    "label",
    "metric",
    "value",
    "unit",
)
STUDY_COLUMNS = ("profile", "dataset", "model", "request", "seed")
NOT_UNLEARNED = -1  # unlearning_seed of the original and of the retrained model of the study's own seed
UNITS = ("fraction", "s", "x", "-")

_KEY_COLUMNS = tuple(column for column in SCORE_COLUMNS if column not in ("value", "unit"))
_SEED_COLUMNS = ("seed", "unlearning_seed")
_TEXT_COLUMNS = tuple(column for column in SCORE_COLUMNS if column not in (*_SEED_COLUMNS, "value"))


def write_scores(path: Path, rows: pd.DataFrame | Iterable[Mapping]) -> pd.DataFrame:
    """Write tidy scores, replacing the file as a whole, and return them as they were written.

    Args:
        path: the CSV file; its folder is created.
        rows: a DataFrame or mappings with exactly `SCORE_COLUMNS`.

    Raises:
        ValueError: a column missing or unknown, an unknown method, reading or unit, an infinite value, a rate
            outside [0, 1] (a percentage), two rows of one key.
    """
    scores = _checked_scores(rows, str(path))
    _replace_all({Path(path): _csv_bytes(scores)})
    return scores


def append_scores(path: Path, rows: pd.DataFrame | Iterable[Mapping]) -> pd.DataFrame:
    """Add tidy scores to a file, or start it, and return all of its rows.

    A row whose key (all columns but value and unit) is there already replaces the old one, so that repeating
    a step after a crash leaves the file as one clean run would. One process at a time may write one file.

    Args:
        path: the CSV file.
        rows: as `write_scores`.

    Raises:
        ValueError: as `write_scores`, or the file that is there isn't a scores file.
    """
    new = _checked_scores(rows, "the rows to append")
    if Path(path).exists():
        both = pd.concat([read_scores(path), new], ignore_index=True)
        new = both.drop_duplicates(list(_KEY_COLUMNS), keep="last", ignore_index=True)
    return write_scores(path, new)


def read_scores(path: Path) -> pd.DataFrame:
    """Read a scores file, to the last digit.

    Raises:
        ValueError: the file is empty, cut off, or breaks a rule of `write_scores`.
    """
    try:
        scores = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise ValueError(f"{path} isn't a whole scores file ({error}): delete it and run its study again") from error
    if "value" in scores:
        # Python's own conversion is exact in every release of pandas; an empty cell is an undefined score.
        with contextlib.suppress(ValueError, TypeError):
            scores["value"] = [float(text or "nan") for text in scores["value"]]
    return _checked_scores(scores, str(path))


def require_retrain(scores: pd.DataFrame) -> None:
    """Refuse scores of unlearned models that have no Retrain beside them.

    Every study's every (split, label, metric) needs its Retrain row; ratios to Retrain (unit "x") are exempt.

    Raises:
        ValueError: names the first few that lack it.
    """
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
    """Rows of the chosen metrics, per seed and in full precision, with their distance from Retrain.

    Args:
        scores: tidy scores.
        metrics: which metrics.
        labels: which labels, "retained" among them; default all.
        splits: which splits; default all.

    Returns:
        `SCORE_COLUMNS` and `retrain_gap` = value minus Retrain's (mean) value in the same study, split and label;
        nan for ratios to Retrain. Sorted by study, then split, label, metric, then the fixed order of
        methods.

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
    retrain = table[table["method"] == "Retrain"].groupby(keys, sort=False)["value"].mean().rename("_retrain")
    table = table.merge(retrain.reset_index(), on=keys, how="left")
    table["retrain_gap"] = table["value"] - table["_retrain"]
    order = table.assign(
        _method=table["method"].map(_METHOD_ORDER.get),
        _reading=table["reading"].map(list(READING_DISPLAY).index),
    ).sort_values([*keys, "_method", "_reading"], kind="stable")
    return order.drop(columns=["_retrain", "_method", "_reading"]).reset_index(drop=True)


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """Mean and spread over seeds of a `result_table`, for reading, not for storing.

    Returns:
        One row per profile, dataset, model, request, split, label, metric, method, reading: mean, sd (sample,
        nan for a single seed), num_seeds, retrain_gap (mean), unit.
    """
    keys = [column for column in (*_KEY_COLUMNS, "unit") if column not in _SEED_COLUMNS]
    return table.groupby(keys, sort=False, as_index=False).agg(
        mean=("value", "mean"),
        sd=("value", "std"),
        num_seeds=("value", "size"),
        retrain_gap=("retrain_gap", "mean"),
    )


def _checked_scores(rows: pd.DataFrame | Iterable[Mapping], where: str) -> pd.DataFrame:
    scores = rows.copy() if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    missing = [column for column in SCORE_COLUMNS if column not in scores]
    unknown = [column for column in scores if column not in SCORE_COLUMNS]
    if missing or unknown:
        raise ValueError(f"{where}: missing columns {missing}, unknown columns {unknown}; expected {SCORE_COLUMNS}")
    scores = scores[list(SCORE_COLUMNS)].reset_index(drop=True)
    for column in _TEXT_COLUMNS:
        is_text = scores[column].map(lambda value: isinstance(value, str) and value != "")
        if not is_text.all():
            row = int((~is_text).to_numpy().argmax())
            raise ValueError(f"{where}, row {row}: {column} is {scores[column][row]!r}; write '-' for not applicable")
    for column, accepted in (("method", METHOD_STYLES), ("reading", READING_DISPLAY), ("unit", UNITS)):
        for value in scores[column].unique():
            if value not in accepted:
                raise ValueError(f"{where}: {column} {value!r} is unknown; accepted: {', '.join(accepted)}")
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
    is_repeated = scores.duplicated(list(_KEY_COLUMNS))
    if is_repeated.any():
        raise ValueError(f"{where}: two rows for {tuple(scores.loc[is_repeated, list(_KEY_COLUMNS)].iloc[0])}")
    return scores


# --- provenance and writing
# -----------------------------------------------------------------------------------

_PROVENANCE_KEYS = (
    "notebook",
    "profile",
    "commit",
    "is_dirty",
    "parameters",
    "parameters_sha256",
    "seeds",
    "inputs",
    "versions",
    "device",
    "seconds",
)
_PACKAGES = {"torch": "torch", "numpy": "numpy", "pandas": "pandas", "sklearn": "scikit-learn"}


def provenance(
    notebook: str,
    parameters: Mapping,
    seeds: Mapping[str, int],
    inputs: Iterable[Path],
    profile: str,
    device: str,
    seconds: float,
) -> dict:
    """Record of how a table or figure came about; what `write_table` and `save_figure` put into the sidecar.

    Args:
        notebook: name of the notebook, or of the command.
        parameters: the resolved parameters, defaults included.
        seeds: such as {"training": 42, "unlearning": 42, "evaluation": 42}.
        inputs: files that were read; each is hashed.
        profile: smoke, quick, paper or a user's own.
        device: name of the device that computed it.
        seconds: wall time of the computation.

    Returns:
        JSON-ready: the arguments, `parameters_sha256` (of their sorted JSON), `inputs` as path -> SHA-256,
        `commit` and `is_dirty` of the working tree (both None without git), `versions`.

    Raises:
        ValueError: empty notebook or profile, parameters that JSON can't hold, two inputs of one name.
        FileNotFoundError: an input is not there.
    """
    for name, value in (("notebook", notebook), ("profile", profile)):
        if not isinstance(value, str) or not value:
            raise ValueError(f"{name} is {value!r}: expected a name")
    parameters, seeds = _plain(parameters, "parameters"), _plain(seeds, "seeds")
    hashes: dict[str, str] = {}
    for path in map(Path, inputs):
        absolute = path.resolve()
        # Outside the repository only the name is kept: a sidecar must not tell where someone's home folder
        # lies.
        inside = absolute.is_relative_to(paths.ROOT)
        key = absolute.relative_to(paths.ROOT).as_posix() if inside else absolute.name
        if key in hashes:
            raise ValueError(f"two inputs are called {key}: give each file once, and different names outside the repo")
        with path.open("rb") as file:
            hashes[key] = hashlib.file_digest(file, "sha256").hexdigest()
    commit, is_dirty = _git_state()
    return {
        "notebook": notebook,
        "profile": profile,
        "commit": commit,
        "is_dirty": is_dirty,
        "parameters": parameters,
        "parameters_sha256": hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest(),
        "seeds": seeds,
        "inputs": hashes,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(package) for name, package in _PACKAGES.items()},
        },
        "device": str(device),
        "seconds": float(seconds),
    }


def write_table(table: pd.DataFrame, stem: str, folder: Path, provenance: Mapping) -> Path:
    """Write `<stem>.csv` in full precision and its sidecar `<stem>.json`, and return the CSV's path.

    Args:
        table: at least one row; the index is not written. With the columns of scores it needs its Retrain
            rows.
        stem: lower-case letters, digits and underscores, such as table2_multilabel_utility.
        folder: created when missing.
        provenance: from `provenance()`.

    Raises:
        ValueError: empty table, bad stem, incomplete provenance, missing Retrain, or a smoke run into
            `figures/`.
    """
    if table.empty:
        raise ValueError(f"table {stem!r} has no rows: nothing was computed for it")
    if set(SCORE_COLUMNS) <= set(table.columns):
        require_retrain(table)
    return _write_with_sidecar(_csv_bytes(table), stem, ".csv", Path(folder), provenance)


def save_figure(figure: Figure, stem: str, folder: Path, provenance: Mapping, *, dots_per_inch: int = 150) -> Path:
    """Write `<stem>.png` and its sidecar `<stem>.json`, and return the picture's path.

    Args:
        figure: any matplotlib figure.
        stem: as `write_table`.
        folder: created when missing.
        provenance: from `provenance()`.
        dots_per_inch: resolution.

    Raises:
        ValueError: bad stem, incomplete provenance, or a smoke run into `figures/`.
    """
    content = io.BytesIO()
    # Without the Software entry the same picture has the same bytes under another matplotlib.
    figure.savefig(content, format="png", dpi=dots_per_inch, metadata={"Software": None})
    return _write_with_sidecar(content.getvalue(), stem, ".png", Path(folder), provenance)


def _write_with_sidecar(content: bytes, stem: str, suffix: str, folder: Path, provenance: Mapping) -> Path:
    if not re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", stem):
        raise ValueError(f"stem {stem!r}: expected lower-case letters and digits joined by underscores, no suffix")
    missing = [key for key in _PROVENANCE_KEYS if key not in provenance]
    if missing:
        raise ValueError(f"provenance of {stem!r} lacks {missing}: build it with reporting.provenance()")
    if provenance["profile"] == "smoke" and folder.resolve().is_relative_to(paths.FIGURES.resolve()):
        raise ValueError(
            f"a smoke run can't write {stem}{suffix} into {paths.FIGURES.name}/: its numbers mean nothing; "
            f"write below {paths.RUNS.name}/smoke/ or run the quick profile"
        )
    path = folder / f"{stem}{suffix}"
    sidecar = {"file": path.name, "file_sha256": hashlib.sha256(content).hexdigest(), **provenance}
    # The sidecar names the hash of its file, so a crash between the two renames can be told afterwards.
    _replace_all({path: content, path.with_suffix(".json"): (json.dumps(sidecar, indent=2) + "\n").encode()})
    return path


def _replace_all(contents: Mapping[Path, bytes]) -> None:
    """Write files under temporary names first and rename them once every byte is on disk."""
    parts = {path: path.with_name(f".{path.name}.{uuid.uuid4().hex}.part") for path in contents}
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with parts[path].open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path, part in parts.items():
            os.replace(part, path)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def _csv_bytes(table: pd.DataFrame) -> bytes:
    return table.to_csv(index=False, lineterminator="\n").encode()


def _plain(values: Mapping, name: str) -> dict:
    """Copy into what JSON holds, so that the hash does not depend on NumPy or Path types."""

    def convert(value: object) -> object:
        if isinstance(value, np.generic | np.ndarray):
            return value.tolist()
        if isinstance(value, Path):
            return value.as_posix()
        raise TypeError(f"{type(value).__name__} {value!r}")

    try:
        return json.loads(json.dumps(dict(values), default=convert))
    except TypeError as error:
        raise ValueError(f"{name} holds a value that JSON can't: {error}") from error


def _git_state() -> tuple[str | None, bool | None]:
    """Commit and whether code differs from it; None, None where that can't be known."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(paths.ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    with contextlib.suppress(OSError, subprocess.SubprocessError):
        # A copy without .git inside another repository must not pass for that repository's commit.
        if Path(git("rev-parse", "--show-toplevel")).resolve() == paths.ROOT.resolve():
            commit = git("rev-parse", "HEAD")
            # figures/ is left out: the first figure written would make the tree dirty for the second.
            return commit, git("status", "--porcelain", "--", ".", ":(exclude)figures") != ""
    return None, None


# --- style
# ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MethodStyle:
    """How one method looks in every figure: three marks, any of which tells it from its neighbours."""

    colour: str
    marker: str
    hatch: str


# The order is the order of methods in every table and figure. The eight of the paper differ in lightness by
# at least 7 CIELAB units and stay apart under the three colour-vision deficiencies; baselines carry hatches
# as well.
METHOD_STYLES: dict[str, MethodStyle] = {
    "Original": MethodStyle("#111111", "o", ""),
    "Retrain": MethodStyle("#787878", "D", ""),
    "WF": MethodStyle("#0b5ea6", "s", ""),
    "WP": MethodStyle("#f08c1e", "^", ""),
    "CF-k": MethodStyle("#a9dcf5", "v", "//"),
    "SCRUB": MethodStyle("#5a1460", "P", "\\\\"),
    "UNSIR": MethodStyle("#1a9c7c", "X", "xx"),
    "SalUn": MethodStyle("#eea5c8", "<", ".."),
    "FT": MethodStyle("#cfc544", ">", "--"),
    "NegGrad": MethodStyle("#a3262a", "p", "||"),
    "AdvNegGrad": MethodStyle("#e2646c", "h", "++"),
    "SSD": MethodStyle("#4b3fae", "*", "oo"),
    "LAF": MethodStyle("#8a6a35", "d", "/"),
    "Essential graph": MethodStyle("#2f5d24", "8", "\\"),
    "WF-Net": MethodStyle("#a08de0", "H", "x"),
    "EU-k": MethodStyle("#c2e6c6", "1", "+"),
    "HeadReset": MethodStyle("#6fb04a", "2", "-"),
    "Random control": MethodStyle("#dcdcdc", ".", "O"),
}
_METHOD_ORDER = {name: position for position, name in enumerate(METHOD_STYLES)}

# reading -> what is added to a method's name; the keys are the values accepted in scores, in display order.
READING_DISPLAY = {"-": "", "targeted": "targeted", "printed": "as printed", "random": "random control"}

METRIC_DISPLAY = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "recall": "Positive recall",
    "false_positive_rate": "False positive rate",
    "auc": "AUC of the logit",
    "flip_safe_accuracy": "Flip-safe accuracy",
    "probe_accuracy": "Probe accuracy",
    "probe_balanced_accuracy": "Probe balanced accuracy",
    "probe_auc": "Probe AUC",
    "seconds": "Time",
    "speedup": "Speed-up over Retrain",
}
_CHANCE = {"auc": 0.5, "probe_auc": 0.5, "balanced_accuracy": 0.5, "probe_balanced_accuracy": 0.5}
_ARROWS = {"higher": "\u2191 better", "lower": "\u2193 better", "retrain": "ideal: Retrain's value"}

_ZONE_STYLES = {
    "zeroed": ("#1f1f1f", ""),
    "filtered": ("#1f1f1f", ""),
    "damped": ("#0b5ea6", "//"),
    "reduced rate": ("#f08c1e", ".."),
    "kept": ("#e6e6e6", ""),
}
_SPARE_STYLES = (("#1a9c7c", "xx"), ("#eea5c8", "\\\\"), ("#5a1460", "--"), ("#cfc544", "++"))


def method_style(method: str) -> MethodStyle:
    """Return the fixed colour, marker and hatch of a method.

    Raises:
        ValueError: names the methods there are and the nearest one.
    """
    if method not in METHOD_STYLES:
        raise ValueError(
            f"method {method!r} has no style: give a new method its row in reporting.METHOD_STYLES, or "
            f"{choices(method, METHOD_STYLES)}"
        )
    return METHOD_STYLES[method]


def method_display(method: str, reading: str = "-") -> str:
    """Return the name that a table or figure shows.

    Example:
        >>> method_display("WP", "printed")
        'WP (as printed)'
    """
    method_style(method)
    return f"{method} ({READING_DISPLAY[reading]})" if READING_DISPLAY[reading] else method


def arrow(better: str) -> str:
    """Return the mark of the better side of an axis.

    Args:
        better: "higher"; "lower"; "retrain" where the retrained model's value is the ideal, as for a
            forgotten label.

    Raises:
        ValueError: another word.

    Example:
        >>> arrow("higher")
        '↑ better'
    """
    if better not in _ARROWS:
        raise ValueError(f"better is {better!r}: expected one of {', '.join(_ARROWS)}")
    return _ARROWS[better]


def set_style() -> None:
    """Give all figures of this process the suite's look; without it a figure is complete but plainer."""
    sns.set_theme(
        context="paper",
        style="whitegrid",
        font_scale=1.1,
        rc={
            "axes.edgecolor": "0.3",
            "axes.titleweight": "bold",
            "grid.color": "0.9",
            "hatch.linewidth": 0.6,
            "figure.dpi": 100,
            "legend.frameon": False,
        },
    )


def _bar_look(method: str, reading: str) -> dict:
    """A method's own colour, paler for the reading as printed and hollow for the random control."""
    style = method_style(method)
    look = {"facecolor": style.colour, "edgecolor": "0.15", "linewidth": 0.8, "hatch": style.hatch}
    if reading == "printed":
        pale = tuple(0.45 * channel + 0.55 for channel in to_rgb(style.colour))
        look.update(facecolor=pale, hatch="////", edgecolor=style.colour)
    elif reading == "random":
        look.update(facecolor="white", hatch="", edgecolor=style.colour, linestyle="--", linewidth=1.4)
    return look


def _new_figure(**options: object) -> Figure:
    """Make a figure that no notebook shows by itself, so that returning it shows it once."""
    figure = plt.figure(layout="constrained", **options)
    plt.close(figure)
    return figure


def _legend_on_top(figure: Figure, handles: Sequence, title: str | None) -> None:
    """Put one legend above all panels, in as many columns as fit, with the figure's title as its heading.

    A suptitle would be laid over the legend: the layout keeps room for the taller of the two only.
    """
    for num_columns in range(len(handles), 0, -1):
        legend = figure.legend(
            handles=handles, title=title, title_fontsize="large", loc="outside upper center", ncols=num_columns,
            fontsize=8, frameon=False,
        )  # fmt: skip
        if num_columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


# --- figures
# --------------------------------------------------------------------------------------------------


def face_grid(
    images: ArrayLike,
    *,
    titles: Sequence[str] | None = None,
    annotations: Sequence[Sequence[str]] | None = None,
    num_columns: int = 6,
    face_size: float = 1.25,
    title: str | None = None,
) -> Figure:
    """Faces in a grid, each with an optional title above and lines of text below.

    Args:
        images: uint8 (N, 3, H, W).
        titles: N short texts, such as "person 7".
        annotations: N lists of lines, such as the labels that are present.
        num_columns: faces in a row.
        face_size: width of a face in inches.
        title: of the whole figure.

    Raises:
        ValueError: images of another shape or type, or texts of another number.
    """
    faces = _faces(images)
    for name, texts in (("titles", titles), ("annotations", annotations)):
        if texts is not None and len(texts) != len(faces):
            raise ValueError(f"{len(texts)} {name} for {len(faces)} images")
    num_columns = min(num_columns, len(faces))
    num_rows = math.ceil(len(faces) / num_columns)
    num_lines = max((len(lines) for lines in annotations), default=0) if annotations is not None else 0
    cell_height = face_size * faces.shape[1] / faces.shape[2] + 0.125 * num_lines + 0.22 * (titles is not None) + 0.1
    figure = _new_figure(figsize=(num_columns * (face_size + 0.1), num_rows * cell_height + 0.3 * (title is not None)))
    axes = figure.subplots(num_rows, num_columns, squeeze=False)
    for position, ax in enumerate(axes.flat):
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
        sns.despine(ax=ax, left=True, bottom=True)
        if position >= len(faces):
            ax.set_visible(False)
            continue
        ax.imshow(faces[position], interpolation="nearest")
        if titles is not None:
            ax.set_title(titles[position], fontsize=8, fontweight="bold", pad=2)
        if annotations is not None:
            # Padding to the same number of lines keeps the faces of a row level.
            lines = [*annotations[position], *[""] * (num_lines - len(annotations[position]))]
            ax.set_xlabel("\n".join(lines), fontsize=6.5, labelpad=2, linespacing=1.15)
    if title is not None:
        figure.suptitle(title)
    return figure


def before_after_faces(
    images: ArrayLike,
    label_names: Sequence[str],
    probs_before: ArrayLike,
    probs_after: ArrayLike,
    truth: ArrayLike,
    forgotten_label: str,
    *,
    before: str = "Original",
    after: str = "WP",
    num_columns: int = 2,
    title: str | None = None,
) -> Figure:
    """Faces, and beside each the predicted probability of every label before and after unlearning.

    Args:
        images: uint8 (N, 3, H, W).
        label_names: K names.
        probs_before: (N, K) in [0, 1], the original model's.
        probs_after: (N, K) in [0, 1], the unlearned model's.
        truth: (N, K), 1, 0 or nan = unknown.
        forgotten_label: one of `label_names`; its row is highlighted.
        before: method name of the first bar.
        after: method name of the second bar.
        num_columns: faces in a row.
        title: of the whole figure.

    Raises:
        ValueError: shapes that do not match, a value outside [0, 1], an unknown forgotten label.
    """
    faces = _faces(images)
    shape = (len(faces), len(label_names))
    before_bars, after_bars, truth = (np.asarray(a, dtype=float) for a in (probs_before, probs_after, truth))
    for name, array in (("probs_before", before_bars), ("probs_after", after_bars), ("truth", truth)):
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}: expected (images, labels) = {shape}")
    for name, array in (("probs_before", before_bars), ("probs_after", after_bars)):
        if not ((array >= 0) & (array <= 1)).all():
            raise ValueError(f"{name} holds values outside [0, 1]: pass probabilities, not logits")
    if forgotten_label not in label_names:
        raise ValueError(f"forgotten label {forgotten_label!r} is not among {', '.join(label_names)}")

    num_columns = min(num_columns, len(faces))
    num_rows = math.ceil(len(faces) / num_columns)
    row_height = max(1.5, 0.2 * shape[1] + 0.15)
    figure = _new_figure(figsize=(4.6 * num_columns, num_rows * row_height + 0.85))
    grid = figure.add_gridspec(num_rows, 2 * num_columns, width_ratios=[1.05, 1.5] * num_columns)
    styles = [method_style(before), method_style(after)]
    row_of_forgotten = list(label_names).index(forgotten_label)
    positions = np.arange(shape[1])
    for i in range(len(faces)):
        row, column = divmod(i, num_columns)
        face_ax = figure.add_subplot(grid[row, 2 * column])
        face_ax.imshow(faces[i], interpolation="nearest")
        face_ax.set_axis_off()
        ax = figure.add_subplot(grid[row, 2 * column + 1])
        ax.axhspan(row_of_forgotten - 0.5, row_of_forgotten + 0.5, color="#ffe9a8", zorder=0, linewidth=0)
        for bars, style, offset in zip((before_bars, after_bars), styles, (-0.2, 0.2), strict=True):
            ax.barh(positions + offset, bars[i], 0.36, color=style.colour, zorder=2)
        ax.axvline(0.5, color="0.4", linewidth=0.8, linestyle=":", zorder=3)
        ax.set(xlim=(0, 1), ylim=(shape[1] - 0.5, -0.5), xticks=[0, 0.5, 1], yticks=positions)
        ax.set_xticklabels(["0", ".5", "1"], fontsize=7)
        marks = ["?" if math.isnan(t) else "\u25cf" if t else "\u25cb" for t in truth[i]]
        names = [f"{name.replace('_', ' ')} {mark}" for name, mark in zip(label_names, marks, strict=True)]
        ax.set_yticklabels(names, fontsize=7)
        ax.get_yticklabels()[row_of_forgotten].set_fontweight("bold")
        ax.tick_params(length=0, pad=2)
        ax.grid(False)
        sns.despine(ax=ax, left=True)
        if i + num_columns >= len(faces):
            ax.set_xlabel("predicted probability", fontsize=7.5)
    handles = [
        Patch(color=styles[0].colour, label=f"before ({before})"),
        Patch(color=styles[1].colour, label=f"after ({after})"),
        Patch(color="#ffe9a8", label=f"forgotten: {forgotten_label.replace('_', ' ')}"),
        Line2D([], [], linestyle="", marker="o", color="k", markersize=4, label="has the label"),
        Line2D([], [], linestyle="", marker="o", color="k", mfc="none", markersize=4, label="has it not"),
    ]
    num_legend_columns = 5 if num_columns > 1 else 2
    figure.legend(
        handles=handles, loc="outside lower center", ncols=num_legend_columns, fontsize=8, frameon=False,
        columnspacing=1.4, handletextpad=0.5,
    )  # fmt: skip
    if title is not None:
        figure.suptitle(title)
    return figure


def score_bars(
    scores: pd.DataFrame,
    metric: str,
    *,
    label: str = "retained",
    split: str = "test",
    better: str = "higher",
    is_log: bool = False,
    title: str | None = None,
) -> Figure:
    """One score of every method beside Retrain's; a panel for each dataset, model and request.

    Bars are means over seeds; with several seeds a whisker shows one standard deviation and dots the seeds.

    Args:
        scores: tidy scores with their Retrain rows.
        metric: such as "accuracy".
        label: a label name, "retained", "forgotten" or "-".
        split: train, validation, test, unseen or "-".
        better: as `arrow`.
        is_log: logarithmic axis, for times and speed-ups.
        title: of the whole figure.

    Raises:
        ValueError: no such scores, or Retrain is missing among them.
    """
    chosen = scores[(scores["metric"] == metric) & (scores["label"] == label) & (scores["split"] == split)]
    if chosen.empty:
        there = scores[["metric", "label", "split"]].drop_duplicates().head(8).itertuples(index=False, name=None)
        raise ValueError(f"no scores for {(metric, label, split)}; there are, among others, {list(there)}")
    require_retrain(chosen)
    (unit, *other_units) = chosen["unit"].unique()
    if other_units:
        raise ValueError(f"{metric} comes in the units {unit}, {', '.join(other_units)}: one figure shows one unit")
    panel_keys = ["dataset", "model", "request"]
    panels = list(chosen.groupby(panel_keys, sort=False))
    varying = [key for key in panel_keys if chosen[key].nunique() > 1]
    num_bars = max(len(panel.groupby(["method", "reading"])) for _, panel in panels)
    num_columns = min(len(panels), 3 if num_bars <= 5 else 2)
    num_rows = math.ceil(len(panels) / num_columns)
    size = (num_columns * max(3.0, 0.58 * num_bars + 0.9), num_rows * 3.2 + 0.4)
    figure = _new_figure(figsize=size)
    axes = figure.subplots(num_rows, num_columns, squeeze=False, sharey=True)
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    for ax, (_, panel) in zip(axes.flat, panels, strict=False):
        bars = sorted(
            panel.groupby(["method", "reading"]),
            key=lambda bar: (_METHOD_ORDER[bar[0][0]], list(READING_DISPLAY).index(bar[0][1])),
        )
        for x, ((method, reading), rows) in enumerate(bars):
            values = rows["value"].dropna().to_numpy()
            if not len(values):
                ax.annotate(
                    "undefined",
                    (x, 0.03),
                    xycoords=("data", "axes fraction"),
                    rotation=90,
                    ha="center",
                    fontsize=8,
                )
                continue
            mean = values.mean()
            ax.bar(x, mean, 0.72, zorder=2, **_bar_look(method, reading))
            top = mean
            if len(values) > 1:
                sd = values.std(ddof=1)
                ax.errorbar(x, mean, sd, color="k", capsize=3, linewidth=1, zorder=4)
                spread = x + np.linspace(-0.16, 0.16, len(values))
                ax.plot(spread, values, ".", color="w", mec="k", mew=0.6, markersize=6, zorder=5)
                top = max(mean + sd, values.max())
            number = f"{mean:.3f}".lstrip("0") if unit == "fraction" and mean < 1 else f"{mean:.3g}"
            ax.annotate(
                number, (x, top), (0, 3), textcoords="offset points", ha="center", va="bottom", fontsize=7,
                bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}, zorder=6,
            )  # fmt: skip
        retrain = panel.loc[panel["method"] == "Retrain", "value"].mean()
        if not math.isnan(retrain):
            colour = method_style("Retrain").colour
            ax.axhline(retrain, color=colour, linestyle="--", linewidth=1.2, zorder=3)
        if metric in _CHANCE:
            ax.axhline(_CHANCE[metric], color="0.3", linestyle=":", linewidth=1, zorder=3)
        names = [method_display(method, reading).replace(" (", "\n(") for (method, reading), _ in bars]
        rotation = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if num_bars > 5 else {}
        ax.set_xticks(range(len(bars)), names, fontsize=8, **rotation)
        ax.set_xlim(-0.6, len(bars) - 0.4)
        ax.grid(False, axis="x")
        sns.despine(ax=ax)
        if is_log:
            ax.set_yscale("log")
            # The foot of a bar on a logarithmic axis must mean something: no speed-up, or half the least.
            positive = chosen.loc[chosen["value"] > 0, "value"]
            if len(positive):
                least, most = positive.min(), positive.max()
                ax.set_ylim(1.0 if unit == "x" and least > 1 else least / 2, most * 2)
            ax.yaxis.set_major_formatter("{x:g}")
        elif unit == "fraction":
            ax.set_ylim(0, 1.08)
            ax.set_yticks(np.linspace(0, 1, 6))
        else:
            ax.margins(y=0.12)
        if varying:
            ax.set_title("\n".join(str(panel[key].iloc[0]) for key in varying), fontsize=9)
    name = METRIC_DISPLAY.get(metric, metric.replace("_", " "))
    of_label = {"-": "", "retained": ", retained labels", "forgotten": ", forgotten entries"}.get(label, f", {label}")
    in_unit = f" ({unit})" if unit == "s" else " (times)" if unit == "x" else ""
    for ax in axes[:, 0]:
        ax.set_ylabel(f"{name}{of_label}{in_unit}\n{arrow(better)}")
    lines = []
    if (chosen["method"] == "Retrain").any():
        colour = method_style("Retrain").colour
        lines.append(Line2D([], [], color=colour, linestyle="--", linewidth=1.2, label="Retrain"))
    if metric in _CHANCE:
        lines.append(Line2D([], [], color="0.3", linestyle=":", linewidth=1, label="no information"))
    if len(chosen[list(_SEED_COLUMNS)].query("unlearning_seed != @NOT_UNLEARNED").drop_duplicates()) > 1:
        lines.append(Line2D([], [], color="k", marker=".", mfc="w", linewidth=1, label="seeds, ±1 sd"))
    if lines:
        figure.legend(handles=lines, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    if title is not None:
        figure.suptitle(title)
    return figure


def trade_off(scores: pd.DataFrame, *, forgotten: str, leak: str = "auc", title: str | None = None) -> Figure:
    """What the output still says about what was forgotten, against what was kept: one mark a run of a method.

    Args:
        scores: tidy scores of one study with its Retrain rows; the test split is shown.
        forgotten: label of the rows that hold `leak`, a label's or class's name or "forgotten".
        leak: "auc", shown as 2 |AUC - 1/2| (0 = the output says nothing), or a rate such as "recall", shown as it is.
        title: of the figure.

    Raises:
        ValueError: no such scores, or Retrain is missing among them.
    """
    test = scores[scores["split"] == "test"]
    keys = ["method", "reading", "unlearning_seed"]
    kept = test[(test["label"] == "retained") & (test["metric"] == "accuracy")].set_index(keys)["value"]
    said = test[(test["label"] == forgotten) & (test["metric"] == leak)].set_index(keys)["value"]
    if kept.empty or said.empty:
        raise ValueError(f"no test scores for retained accuracy and {leak} of {forgotten!r} among {len(scores)} rows")
    if "Retrain" not in kept.index:
        raise ValueError("the trade-off needs Retrain's retained accuracy: score Retrain for this study first")
    said = 2 * (said - 0.5).abs() if leak == "auc" else said
    gap = 100 * (kept - kept["Retrain"].mean())
    figure = _new_figure(figsize=(7.4, 4.6))
    ax = figure.subplots()
    for (method, reading), runs in sorted(
        gap.groupby(level=keys[:2]), key=lambda g: (_METHOD_ORDER[g[0][0]], list(READING_DISPLAY).index(g[0][1]))
    ):
        style = method_style(method)
        is_control = reading in ("printed", "random")
        # Many methods say nothing at all: a small shift, the same for all runs of one, keeps their marks apart.
        shift = 0.028 * ((_METHOD_ORDER[method] % 5) - 2) / 2
        ax.plot(
            said[runs.index] + shift,
            runs,
            style.marker,
            color="none" if is_control else style.colour,
            mec=style.colour if is_control else "k",
            mew=1.2 if is_control else 0.5,
            alpha=0.9,
            markersize=9 if style.marker in "123" else 8,
            label=method_display(method, reading),
        )
        if style.marker in "123":  # these marks have no face
            ax.lines[-1].set(mec=style.colour, mew=2)
    ax.axhline(0, color=method_style("Retrain").colour, linestyle="--", linewidth=1)
    ax.set_xlim(-0.06, 1.06)
    what = "2 |AUC \u2212 \u00bd| of the output" if leak == "auc" else METRIC_DISPLAY.get(leak, leak)
    ax.set_xlabel(f"{what}, {forgotten}\n\u2190 says nothing")
    ax.set_ylabel("retained accuracy minus Retrain's (points)\n\u2191 better")
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=7.5, frameon=False)
    sns.despine(ax=ax)
    if title is not None:
        figure.suptitle(title)
    return figure


def output_strips(
    outputs: Mapping[str, ArrayLike], is_positive: ArrayLike, *, quantity: str, title: str | None = None
) -> Figure:
    """The predicted probability of what was forgotten, image by image: apart, mixed, or the wrong way round.

    Args:
        outputs: method name -> (n,) probabilities in [0, 1].
        is_positive: bool (n,), images that truly have the label or class.
        quantity: what the probability is of.
        title: of the figure.

    Raises:
        ValueError: nothing to draw, or lengths that differ.
    """
    is_positive = np.asarray(is_positive, dtype=bool)
    if not outputs or any(len(np.asarray(p)) != len(is_positive) for p in outputs.values()):
        raise ValueError(f"outputs must hold {len(is_positive)} probabilities a method, and at least one method")
    figure = _new_figure(figsize=(max(4.0, 0.62 * len(outputs) + 1.4), 3.4))
    ax = figure.subplots()
    jitter = np.random.default_rng(0).uniform(-0.13, 0.13, len(is_positive))
    for x, probability in enumerate(outputs.values()):
        for side, colour, mark, name in ((1, "#f08c1e", "^", "has it"), (0, "#0b5ea6", "o", "has it not")):
            chosen = is_positive == bool(side)
            ax.plot(
                x + (0.19 if side else -0.19) + jitter[chosen],
                np.asarray(probability)[chosen],
                mark,
                color=colour,
                mec="k",
                mew=0.3,
                alpha=0.75,
                markersize=4,
                label=name if x == 0 else None,
            )
    ax.axhline(0.5, color="0.3", linestyle=":", linewidth=1)
    ax.set_ylim(-0.04, 1.04)
    ax.set_xticks(range(len(outputs)), outputs, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    ax.set_ylabel(f"predicted probability of {quantity}")
    ax.grid(False, axis="x")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=8, frameon=False)
    sns.despine(ax=ax)
    if title is not None:
        figure.suptitle(title)
    return figure


def layer_score_distributions(
    scores: Mapping[str, ArrayLike],
    *,
    reference: Mapping[str, ArrayLike] | None = None,
    names: tuple[str, str] = ("forgotten label", "retained labels"),
    quantity: str = "importance of a weight",
    thresholds: Mapping[str, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Distribution of the weights' scores in each layer, logarithmic, and the share that is exactly 0.

    Args:
        scores: layer -> scores of its weights, any shape, >= 0, in order of depth.
        reference: a second set of scores of the same layers, drawn beside the first.
        names: what the two sets are scores for.
        quantity: name of the axis.
        thresholds: name -> value, drawn as horizontal lines.
        title: of the whole figure.

    Raises:
        ValueError: no layers, other layers in the reference, a negative or non-finite score.
    """
    if not scores:
        raise ValueError("scores holds no layer")
    if reference is not None and list(reference) != list(scores):
        raise ValueError(f"reference has the layers {list(reference)[:3]}..., scores {list(scores)[:3]}...")
    sets = [(names[0], scores, "#ec7d43", -0.18), (names[1], reference, "#1f4e79", 0.18)][: 1 + (reference is not None)]
    zero_shares: dict[str, list[float]] = {name: [] for name, *_ in sets}
    figure = _new_figure(figsize=(max(5.5, 0.26 * len(scores) + 1.8), 4.6))
    ax, zero_ax = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    for name, layers, colour, offset in sets:
        shift = offset if len(sets) > 1 else 0.0
        for x, (layer, values) in enumerate(layers.items()):
            values = np.asarray(values).ravel()
            if not len(values) or not np.isfinite(values).all() or values.min() < 0:
                raise ValueError(f"scores of layer {layer!r} must be finite and >= 0, and at least one")
            zero_shares[name].append(float(np.mean(values == 0)))
            positive = values[values > 0]
            if not len(positive):
                continue
            low, lower, median, upper, high = np.quantile(positive, [0.01, 0.25, 0.5, 0.75, 0.99])
            ax.plot([x + shift] * 2, [low, high], color=colour, linewidth=1, solid_capstyle="butt")
            ax.plot([x + shift] * 2, [lower, upper], color=colour, linewidth=4, solid_capstyle="butt")
            ax.plot(x + shift, median, "o", color="w", mec=colour, markersize=4, zorder=4)
        width = 0.34 if len(sets) > 1 else 0.6
        zero_ax.bar(np.arange(len(scores)) + shift, zero_shares[name], width, color=colour, linewidth=0)
    for position, (name, value) in enumerate((thresholds or {}).items()):
        ax.axhline(value, color="0.2", linestyle=(0, (4, 2 + position)), linewidth=0.9, zorder=1)
        ax.annotate(
            name, (1, value), (3, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
            va="center", fontsize=8,
        )  # fmt: skip
    ax.set_yscale("log")
    ax.set_ylabel(quantity)
    zero_ax.set(ylabel="share\nexactly 0", ylim=(0, 1), yticks=[0, 1], xlim=(-0.7, len(scores) - 0.3))
    zero_ax.set_xticks(range(len(scores)), list(scores), rotation=90, fontsize=7)
    for each in (ax, zero_ax):
        each.grid(False, axis="x")
        sns.despine(ax=each)
    handles = [Line2D([], [], color=colour, linewidth=4, label=name) for name, _, colour, _ in sets]
    handles += [
        Line2D([], [], color="0.3", marker="o", mfc="w", linewidth=4, markersize=4, label="median, quartiles"),
        Line2D([], [], color="0.3", linewidth=1, label="1 % to 99 % of non-zero"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    if title is not None:
        ax.set_title(title)
    return figure


def zone_shares(shares: pd.DataFrame, *, title: str | None = None) -> Figure:
    """Which share of each layer's weights falls into which zone, as stacked bars.

    Args:
        shares: columns layer, zone, share in [0, 1]; layers in order of depth. Zones with a fixed look:
            zeroed, filtered, damped, reduced rate, kept.
        title: of the figure.

    Raises:
        ValueError: missing columns, a negative share, or a layer whose shares add up to more than 1.
    """
    missing = {"layer", "zone", "share"} - set(shares.columns)
    if missing:
        raise ValueError(f"shares lacks the columns {sorted(missing)}")
    layers, zones = list(dict.fromkeys(shares["layer"])), list(dict.fromkeys(shares["zone"]))
    zones.sort(key=lambda zone: list(_ZONE_STYLES).index(zone) if zone in _ZONE_STYLES else len(_ZONE_STYLES))
    wide = shares.pivot(index="layer", columns="zone", values="share").reindex(index=layers, columns=zones)
    wide = wide.fillna(0.0)
    if (wide < 0).any(axis=None) or (wide.sum(axis=1) > 1 + 1e-6).any():
        raise ValueError("shares must be >= 0 and add up to at most 1 in each layer")
    spare = iter(_SPARE_STYLES)
    figure = _new_figure(figsize=(max(4.5, 0.26 * len(layers) + 1.6), 3.8))
    ax = figure.subplots()
    bottom = np.zeros(len(layers))
    for zone in zones:
        colour, hatch = _ZONE_STYLES[zone] if zone in _ZONE_STYLES else next(spare, ("#888888", ""))
        heights = wide[zone].to_numpy()
        ax.bar(
            range(len(layers)), heights, 0.85, bottom, facecolor=colour, edgecolor="white", linewidth=0.4,
            hatch=hatch, label=zone,
        )  # fmt: skip
        bottom += heights
    ax.set_xticks(range(len(layers)), layers, rotation=90, fontsize=7)
    ax.set(ylabel="share of the layer's weights", ylim=(0, 1), xlim=(-0.6, len(layers) - 0.4))
    ax.grid(False, axis="x")
    sns.despine(ax=ax)
    figure.legend(loc="outside upper center", ncols=min(len(zones), 4), fontsize=8, frameon=False)
    if title is not None:
        ax.set_title(title)
    return figure


def sensitivity_curves(sweep: pd.DataFrame, *, title: str | None = None) -> Figure:
    """Table 1's sweep: each quantity against epsilon at fixed tau, and against tau at fixed epsilon.

    Args:
        sweep: columns epsilon, tau, quantity, value; optional source, such as "ours" (solid) and "printed"
            (dashed). Quantities become rows of panels.
        title: of the whole figure.

    Raises:
        ValueError: missing columns, two values for one point, or neither epsilon nor tau varies.
    """
    missing = {"epsilon", "tau", "quantity", "value"} - set(sweep.columns)
    if missing:
        raise ValueError(f"sweep lacks the columns {sorted(missing)}")
    sweep = sweep if "source" in sweep else sweep.assign(source="ours")
    if sweep.duplicated(["epsilon", "tau", "quantity", "source"]).any():
        raise ValueError("sweep has two values for one epsilon, tau, quantity and source: average the seeds first")
    quantities, sources = list(dict.fromkeys(sweep["quantity"])), list(dict.fromkeys(sweep["source"]))
    symbols = {"epsilon": "\u03b5", "tau": "\u03c4"}
    columns = [(x, other) for x, other in (("epsilon", "tau"), ("tau", "epsilon")) if sweep[x].nunique() > 1]
    if not columns:
        raise ValueError("sweep has one epsilon and one tau: nothing varies")
    figure = _new_figure(figsize=(3.9 * len(columns), 2.4 * len(quantities) + 0.8))
    axes = figure.subplots(len(quantities), len(columns), squeeze=False, sharex="col", sharey="row")
    for (column, (x, other)), (row, quantity) in ((c, r) for c in enumerate(columns) for r in enumerate(quantities)):
        ax = axes[row, column]
        rows = sweep[sweep["quantity"] == quantity]
        levels = [level for level, part in sweep.groupby(other) if part[x].nunique() > 1]
        colours = sns.color_palette("viridis", len(levels))
        for (level, colour), (position, source) in (
            (a, b) for a in zip(levels, colours, strict=True) for b in enumerate(sources)
        ):
            line = rows[(rows[other] == level) & (rows["source"] == source)].sort_values(x)
            if len(line) < 2:
                continue
            ax.plot(
                line[x], line["value"], marker="osD^"[position % 4], markersize=5, color=colour,
                linestyle=("-", "--", ":", "-.")[position % 4], mfc=colour if position == 0 else "white",
                label=f"{source}, {symbols[other]} = {level:g}",
            )  # fmt: skip
        ax.set_xscale("log")
        ticks = sorted(sweep.loc[sweep[other].isin(levels), x].unique())
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
        sns.despine(ax=ax)
        if column == 0:
            ax.set_ylabel(quantity)
        if row == len(quantities) - 1:
            ax.set_xlabel(f"{x} ({symbols[x]})")
        if row == 0:
            ax.legend(fontsize=7.5, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    if title is not None:
        figure.suptitle(title)
    return figure


def training_curves(history: pd.DataFrame, *, title: str | None = None) -> Figure:
    """Loss and scores against epochs.

    Args:
        history: column epoch and one column a curve, named <what>_<metric>, such as train_loss, retain_loss
            or validation_accuracy; curves of one metric share a panel. Optional column model (a method name):
            its colour. A column seconds is left out.
        title: of the whole figure.

    Raises:
        ValueError: no epoch column or no curve.
    """
    curves = [
        column
        for column in history.select_dtypes("number").columns
        if column not in ("epoch", "seed", "seconds") and history[column].notna().any()
    ]
    if "epoch" not in history or not curves:
        raise ValueError(f"history needs the column epoch and at least one curve, got {list(history.columns)}")
    known = sorted({"loss", *METRIC_DISPLAY}, key=len, reverse=True)
    panels: dict[str, list[str]] = {}
    for curve in curves:
        metric = next((name for name in known if curve == name or curve.endswith(f"_{name}")), curve)
        panels.setdefault(metric, []).append(curve)
    models = list(dict.fromkeys(history["model"])) if "model" in history else [None]
    spare = sns.color_palette("colorblind")
    figure = _new_figure(figsize=(4.0 * len(panels), 3.1))
    for ax, (metric, names) in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels.items(), strict=True):
        for (m, model), (position, name) in ((a, b) for a in enumerate(models) for b in enumerate(names)):
            rows = history if model is None else history[history["model"] == model]
            rows = rows[rows[name].notna()].sort_values("epoch")
            colour = spare[position if model is None else m]
            if model in METHOD_STYLES:
                colour = method_style(model).colour
            what = name.removesuffix(metric).strip("_").replace("_", " ")
            ax.plot(
                rows["epoch"], rows[name], color=colour, linestyle=("-", "--", ":", "-.")[position % 4],
                marker="o" if len(rows) <= 15 else "", markersize=3.5,
                label=", ".join(part for part in (model, what) if part) or None,
            )  # fmt: skip
        is_loss = metric == "loss" or metric.endswith("_loss")
        shown = METRIC_DISPLAY.get(metric, metric.replace("_", " ").capitalize())
        ax.set(xlabel="epoch", ylabel=f"{shown}  {arrow('lower' if is_loss else 'higher')}")
        ax.xaxis.get_major_locator().set_params(integer=True)
        if ax.get_legend_handles_labels()[1]:
            ax.legend(fontsize=8, frameon=False)
        sns.despine(ax=ax)
    if title is not None:
        figure.suptitle(title)
    return figure


def attack_intervals(
    table: pd.DataFrame,
    *,
    value: str = "auc",
    panel: str = "input",
    chance: float = 0.5,
    reference: str = "Retrain",
    quantity: str = "AUC of the attack",
    title: str | None = None,
) -> Figure:
    """One score of an attack with its interval for every model; a panel for each thing that was attacked.

    Args:
        table: columns model, `panel`, `value`, `<value>_low`, `<value>_high`; one row a mark, several a model allowed
            when a column attacker tells them apart.
        value: which score.
        panel: column that makes the panels.
        chance: value of an attack that knows nothing.
        reference: model whose value is drawn as a line.
        quantity: name of the axis.
        title: of the figure.

    Raises:
        ValueError: nothing to draw.
    """
    if table.empty:
        raise ValueError("the attack table has no rows: run the attacks first")
    panels, order = list(dict.fromkeys(table[panel])), list(METHOD_STYLES)
    # Controls, which are no methods, stand below.
    models = sorted(dict.fromkeys(table["model"]), key=lambda m: order.index(m) if m in order else len(order))
    attackers = list(dict.fromkeys(table["attacker"])) if "attacker" in table else [None]
    height = 0.135 * max(2, len(attackers)) * len(models) + 1.7
    figure = _new_figure(figsize=(max(6.0, 2.3 * len(panels) + 1.6), height))
    axes = figure.subplots(1, len(panels), sharey=True, sharex=True, squeeze=False)[0]
    for ax, name in zip(axes, panels, strict=True):
        part = table[table[panel] == name]
        for number, attacker in enumerate(attackers):
            own = part if attacker is None else part[part["attacker"] == attacker]
            offset = (number - (len(attackers) - 1) / 2) * min(0.32, 0.8 / len(attackers))
            for row in own.to_dict("records"):
                y = models.index(row["model"]) + offset
                colour = METHOD_STYLES[row["model"]].colour if row["model"] in METHOD_STYLES else "0.45"
                ax.plot([row[f"{value}_low"], row[f"{value}_high"]], [y, y], "-", color=colour, linewidth=1.6)
                ax.plot(row[value], y, "os^D"[number], color=colour, mec="k", mew=0.4, markersize=5)
        line = part.loc[part["model"] == reference, value]
        if len(line):
            colour = method_style("Retrain").colour
            ax.axvline(line.iloc[0], color=colour, linestyle="--", linewidth=1, zorder=0)
        ax.axvline(chance, color="0.3", linestyle=":", linewidth=1, zorder=0)
        ax.set_title(str(name), fontsize=9)
        ax.grid(False, axis="y")
        sns.despine(ax=ax)
    axes[0].set_yticks(range(len(models)), models, fontsize=8)
    axes[0].set_ylim(len(models) - 0.4, -0.6)
    figure.supxlabel(f"{quantity} (bar: 95 % interval)", fontsize=9)
    handles = [Line2D([], [], color=method_style("Retrain").colour, linestyle="--", linewidth=1, label=reference)]
    handles.append(Line2D([], [], color="0.3", linestyle=":", linewidth=1, label="no information"))
    if attackers != [None]:
        handles += [
            Line2D([], [], color="w", marker="os^D"[i], mfc="0.5", mec="k", label=str(a))
            for i, a in enumerate(attackers)
        ]
    _legend_on_top(figure, handles, title)
    return figure


def method_curves(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    x: str,
    y: str,
    target: float | None = None,
    is_log_x: bool = False,
    title: str | None = None,
) -> Figure:
    """A curve for each model, such as a score after each step of relearning or at each depth of the network.

    Args:
        curves: model -> (positions, values); a model that is no method is drawn grey.
        x, y: names of the axes.
        target: a level to mark, or None.
        is_log_x: logarithmic axis.
        title: of the figure.

    Raises:
        ValueError: no curves.
    """
    if not curves:
        raise ValueError("no curves to draw")
    figure = _new_figure(figsize=(7.2, 3.6))
    ax = figure.subplots()
    for name, (positions, values) in curves.items():
        style = METHOD_STYLES.get(name, MethodStyle("#999999", ".", ""))
        is_reference = name in ("Original", "Retrain")
        ax.plot(
            positions,
            values,
            linestyle="--" if is_reference else "-",
            marker=style.marker,
            color=style.colour,
            mec=style.colour if style.marker in "123" else "k",
            mew=1.5 if style.marker in "123" else 0.3,
            markersize=4.5,
            linewidth=1.8 if is_reference else 1.2,
            label=name,
        )
    if target is not None:
        ax.axhline(target, color="0.3", linestyle=":", linewidth=1)
    if is_log_x:
        ax.set_xscale("log")
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)
    sns.despine(ax=ax)
    if title is not None:
        figure.suptitle(title)
    return figure


def entropy_distributions(
    rows: Mapping[str, Mapping[str, Mapping[str, ArrayLike]]],
    numbers: Mapping[tuple[str, str], str],
    *,
    title: str | None = None,
) -> Figure:
    """Distributions of the logarithm of the output's entropy: the paper's Figure 2, one pair of axes a row.

    Nothing is rescaled: the panels of a row have the same limits. Tasks lie too far apart for limits in common.

    Args:
        rows: task (a row of panels) -> model (a column) -> group, such as train, test, unseen -> log entropies.
        numbers: (task, model) -> text written into its panel, such as the test for the Streisand effect.
        title: of the figure.

    Raises:
        ValueError: nothing to draw, or tasks with other models.
    """
    models = list(dict.fromkeys(model for task in rows.values() for model in task))
    if not models or any(list(task) != models for task in rows.values()):
        raise ValueError("every task needs the same models, in the same order, and there must be one")
    figure = _new_figure(figsize=(max(4.5, 2.05 * len(models) + 0.8), 2.3 * len(rows) + 0.7))
    axes = figure.subplots(len(rows), len(models), sharex="row", sharey="row", squeeze=False)
    looks = {"train": ("#0b5ea6", "-"), "test": ("#f08c1e", "--"), "unseen": ("#111111", ":")}
    for line, (task, columns) in zip(axes, rows.items(), strict=True):
        everything = np.concatenate([np.asarray(v) for groups in columns.values() for v in groups.values()])
        edges = np.linspace(*np.quantile(everything, [0.005, 1]), 25)
        for ax, (model, groups) in zip(line, columns.items(), strict=True):
            for group, values in groups.items():
                colour, style = looks.get(group, ("#787878", "-."))
                share, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
                ax.stairs(
                    share / len(np.asarray(values)), edges, color=colour, linestyle=style, linewidth=1.3, label=group
                )
            ax.text(0.03, 0.97, numbers.get((task, model), ""), transform=ax.transAxes, fontsize=6.5, va="top")
            if ax in axes[0]:
                ax.set_title(model, fontsize=9)
            sns.despine(ax=ax)
        line[0].set_ylabel(f"{task}\nshare of images", fontsize=8)
        top = line[0].get_ylim()[1]
        line[0].set_ylim(0, top * 1.3)  # room for the numbers
    figure.supxlabel("log of the output's entropy (nats)", fontsize=9)
    _legend_on_top(figure, axes[0, 0].get_legend_handles_labels()[0], title)
    return figure


def interval_curves(
    table: pd.DataFrame, *, x: str, y: str, panel: str = "panel", chance: float | None = None, title: str | None = None
) -> Figure:
    """A curve for each model with its interval at every position, such as a score against a property of the data.

    Args:
        table: columns model, `panel`, x, value, low, high, the last two nan where there is no interval; a model that
            is no method is drawn grey and dotted.
        x, y: names of the axes.
        panel: column that makes the panels.
        chance: a level to mark, or None.
        title: of the figure.

    Raises:
        ValueError: nothing to draw.
    """
    if table.empty:
        raise ValueError("the table of curves has no rows")
    panels, models = list(dict.fromkeys(table[panel])), list(dict.fromkeys(table["model"]))
    positions = np.unique(table["x"])
    step = 0.035 * np.diff(positions).min() if len(positions) > 1 else 0.0
    figure = _new_figure(figsize=(3.1 * len(panels) + 0.6, 3.5))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, name in zip(axes, panels, strict=True):
        for number, model in enumerate(models):
            own = table[(table[panel] == name) & (table["model"] == model)].sort_values("x")
            style = METHOD_STYLES.get(model, MethodStyle("#999999", ".", ""))
            at = own["x"] + step * (number - (len(models) - 1) / 2)  # side by side, or the bars would hide each other
            ax.vlines(at, own["low"], own["high"], color=style.colour, linewidth=1.1)
            ax.plot(
                at,
                own["value"],
                linestyle="--" if model in ("Original", "Retrain") else "-" if model in METHOD_STYLES else ":",
                marker=style.marker,
                color=style.colour,
                mec=style.colour if style.marker in "123" else "k",
                mew=1.5 if style.marker in "123" else 0.3,
                markersize=4.5,
                linewidth=1.2,
                label=model,
            )
        if chance is not None:
            ax.axhline(chance, color="0.3", linestyle=":", linewidth=1)
        ax.set_title(str(name), fontsize=9)
        ax.set_xticks(positions)
        sns.despine(ax=ax)
    axes[0].set_ylabel(y)
    figure.supxlabel(x, fontsize=9)
    known = {name: mark for ax in axes for mark, name in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(known.values(), known, loc="outside right center", fontsize=8, frameon=False)
    if title is not None:
        figure.suptitle(title)
    return figure


def change_lines(
    points: pd.DataFrame, lines: Mapping[str, Mapping], *, x: str, y: str, shade: str, title: str | None = None
) -> Figure:
    """A retained label's change against its correlation with the forgotten one: a panel a method, with the fitted line.

    Args:
        points: columns model, phi, change and `shade`; one row a label of one trained model.
        lines: method -> what `scoring.correlation.change_along_phi` returns; its order is that of the panels.
        x, y: names of the axes.
        shade: column of numbers that darkens the marks.
        title: of the figure.

    Raises:
        ValueError: no lines, or a method without points.
    """
    missing = [name for name in lines if name not in set(points["model"])]
    if not lines or missing:
        raise ValueError(f"every line needs points and there must be one line: no points of {missing}")
    num_columns = min(3, len(lines))
    num_rows = math.ceil(len(lines) / num_columns)
    figure = _new_figure(figsize=(2.9 * num_columns + 0.5, 2.4 * num_rows + 0.5))
    axes = figure.subplots(num_rows, num_columns, sharex=True, sharey=True, squeeze=False)
    greys = LinearSegmentedColormap.from_list("greys", ["0.88", "0.1"])
    marks = None
    for position, ax in enumerate(axes.flat):
        if position >= len(lines):
            ax.set_visible(False)
            continue
        name, line = list(lines.items())[position]
        own, colour = points[points["model"] == name], method_style(name).colour
        marks = ax.scatter(
            own["phi"].abs(),
            own["change"],
            c=own[shade],
            cmap=greys,
            vmin=points[shade].min(),
            vmax=points[shade].max(),
            s=14,
            edgecolors="0.4",
            linewidths=0.3,
        )
        ax.fill_between(line["phi"], line["change_low"], line["change_high"], color=colour, alpha=0.3, linewidth=0)
        ax.plot(line["phi"], line["change"], color=colour, linewidth=2)
        ax.axhline(0, color="0.3", linestyle=":", linewidth=1)
        slope = f"slope {line['slope']:+.3f} [{line['slope_low']:+.3f}, {line['slope_high']:+.3f}]"
        ax.set_title(f"{name}\n{slope}", fontsize=8.5)
        sns.despine(ax=ax)
    figure.supxlabel(x, fontsize=9)
    figure.supylabel(y, fontsize=9)
    ticks = np.unique(points[shade])
    figure.colorbar(marks, ax=axes, label=shade.replace("_", " "), fraction=0.03, pad=0.01, ticks=ticks)
    if title is not None:
        figure.suptitle(title)
    return figure


def _faces(images: ArrayLike) -> np.ndarray:
    """Checked images as (N, H, W, 3) for drawing."""
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != np.uint8 or not len(images):
        raise ValueError(f"images {images.dtype} {images.shape}: expected uint8 (N, 3, H, W) with N >= 1")
    return images.transpose(0, 2, 3, 1)
