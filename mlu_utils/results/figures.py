"""Drawings. Each returns a closed `Figure`, which a notebook shows once, as the last value of a cell.

Must not: compute a score, choose a backend, show a window or write a file. `title` is that of the whole figure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import ArrayLike

from mlu_utils.results import style
from mlu_utils.results.scores import NOT_UNLEARNED, display_rank, method_display, require_retrain

_LEGEND = {"fontsize": 8, "frameon": False}
_CHANCE = {"color": "0.3", "linestyle": ":", "linewidth": 1}  # of what says nothing
_RETRAIN = {"color": style.RETRAIN, "linestyle": "--", "linewidth": 1.2}
_LINES = ("-", "--", ":", "-.")


def new_figure(**options: object) -> Figure:
    """Make a figure that no notebook shows by itself, so that returning it shows it once."""
    figure = plt.figure(layout="constrained", **options)
    plt.close(figure)
    return figure


# --- faces


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
    figure = new_figure(figsize=(num_columns * (face_size + 0.1), num_rows * cell_height + 0.3 * (title is not None)))
    for position, ax in enumerate(figure.subplots(num_rows, num_columns, squeeze=False).flat):
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
    return finish(figure, title)


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
        probs_before, probs_after: (N, K) in [0, 1], of the original and of the unlearned model.
        truth: (N, K), 1, 0 or nan = unknown.
        forgotten_label: one of `label_names`; its row is highlighted.
        before, after: names of the two methods.
        num_columns: faces in a row.

    Raises:
        ValueError: shapes that do not match, a value outside [0, 1], an unknown forgotten label.
    """
    faces = _faces(images)
    shape = (len(faces), len(label_names))
    arrays = {"probs_before": probs_before, "probs_after": probs_after, "truth": truth}
    arrays = {name: np.asarray(array, dtype=float) for name, array in arrays.items()}
    for name, array in arrays.items():
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}: expected (images, labels) = {shape}")
        if name != "truth" and not ((array >= 0) & (array <= 1)).all():
            raise ValueError(f"{name} holds values outside [0, 1]: pass probabilities, not logits")
    if forgotten_label not in label_names:
        raise ValueError(f"forgotten label {forgotten_label!r} is not among {', '.join(label_names)}")

    num_columns = min(num_columns, len(faces))
    num_rows = math.ceil(len(faces) / num_columns)
    figure = new_figure(figsize=(4.6 * num_columns, num_rows * max(1.5, 0.2 * shape[1] + 0.15) + 0.85))
    grid = figure.add_gridspec(num_rows, 2 * num_columns, width_ratios=[1.05, 1.5] * num_columns)
    colours = [style.method_style(method).colour for method in (before, after)]
    highlighted, highlight = list(label_names).index(forgotten_label), "#ffe9a8"
    positions = np.arange(shape[1])
    for i in range(len(faces)):
        row, column = divmod(i, num_columns)
        face_ax = figure.add_subplot(grid[row, 2 * column])
        face_ax.imshow(faces[i], interpolation="nearest")
        face_ax.set_axis_off()
        ax = figure.add_subplot(grid[row, 2 * column + 1])
        ax.axhspan(highlighted - 0.5, highlighted + 0.5, color=highlight, zorder=0, linewidth=0)
        for name, colour, offset in zip(("probs_before", "probs_after"), colours, (-0.2, 0.2), strict=True):
            ax.barh(positions + offset, arrays[name][i], 0.36, color=colour, zorder=2)
        ax.axvline(0.5, color="0.4", linewidth=0.8, linestyle=":", zorder=3)
        ax.set(xlim=(0, 1), ylim=(shape[1] - 0.5, -0.5), xticks=[0, 0.5, 1], yticks=positions)
        ax.set_xticklabels(["0", ".5", "1"], fontsize=7)
        marks = ["?" if math.isnan(t) else "\u25cf" if t else "\u25cb" for t in arrays["truth"][i]]
        names = [f"{name.replace('_', ' ')} {mark}" for name, mark in zip(label_names, marks, strict=True)]
        ax.set_yticklabels(names, fontsize=7)
        ax.get_yticklabels()[highlighted].set_fontweight("bold")
        ax.tick_params(length=0, pad=2)
        ax.grid(False)
        sns.despine(ax=ax, left=True)
        if i + num_columns >= len(faces):
            ax.set_xlabel("predicted probability", fontsize=7.5)
    handles = [
        Patch(color=colours[0], label=f"before ({before})"),
        Patch(color=colours[1], label=f"after ({after})"),
        Patch(color=highlight, label=f"forgotten: {forgotten_label.replace('_', ' ')}"),
        Line2D([], [], linestyle="", marker="o", color="k", markersize=4, label="label present"),
        Line2D([], [], linestyle="", marker="o", color="k", mfc="none", markersize=4, label="label absent"),
    ]
    ncols = 5 if num_columns > 1 else 2
    place = {"loc": "outside lower center", "ncols": ncols, "columnspacing": 1.4, "handletextpad": 0.5}
    figure.legend(handles=handles, **place, **_LEGEND)
    return finish(figure, title)


# --- scores


def score_dots(
    scores: pd.DataFrame,
    metric: str,
    *,
    label: str = "retained",
    split: str = "test",
    better: str = "higher",
    is_log: bool = False,
    title: str | None = None,
) -> Figure:
    """One score of every method beside Retrain's, which is a line; a panel for each dataset, model and request.

    Marks and numbers are means over seeds; with several seeds a bar shows one standard deviation and dots the seeds.

    Args:
        scores: tidy scores with their Retrain rows.
        metric: such as "accuracy".
        label: a label name, "retained", "forgotten" or "-".
        split: train, validation, test, unseen or "-".
        better: as `style.arrow`.
        is_log: logarithmic axis, for times and speed-ups.

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
    entry, panel_keys = ["method", "reading"], ["dataset", "model", "request"]
    entries = sorted(set(chosen[entry].itertuples(index=False, name=None)), key=lambda pair: display_rank(*pair))
    panels = [panel for _, panel in chosen.groupby(panel_keys, sort=False)]
    varying = [key for key in panel_keys if chosen[key].nunique() > 1]
    num_columns = min(len(panels), 5)
    num_rows = math.ceil(len(panels) / num_columns)
    figure = new_figure(figsize=(1.9 * num_columns + 2.2, num_rows * (0.2 * len(entries) + 0.9) + 0.6))
    axes = figure.subplots(num_rows, num_columns, squeeze=False, sharey=True)
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    for ax, panel in zip(axes.flat, panels, strict=False):
        for key, rows in panel.groupby(entry):
            y, values = entries.index(key), rows["value"].dropna().to_numpy()
            mean = values.mean() if len(values) else math.nan
            number = f"{mean:.3f}".removeprefix("0") if unit == "fraction" else f"{mean:.3g}"
            place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "center"}
            ax.annotate(number if len(values) else "undefined", (1, y), (2, 0), fontsize=6.5, **place)
            ax.plot(mean, y, linestyle="", markersize=6, zorder=4, **style.mark(*key, edge=0.5))
            if len(values) > 1:
                ax.errorbar(mean, y, xerr=values.std(ddof=1), color="k", capsize=2, linewidth=0.8, zorder=3)
                ax.plot(values, np.full(len(values), y), ".", color="w", mec="k", mew=0.4, markersize=3.5, zorder=5)
        for retrain in panel.loc[panel["method"] == "Retrain", ["value"]].mean().dropna():
            ax.axvline(retrain, **_RETRAIN, zorder=2)
        if is_log:
            ax.set_xscale("log")
            ax.xaxis.set_major_formatter("{x:g}")
        ax.margins(x=0.12)
        ax.tick_params(axis="x", labelsize=7)
        if varying:
            ax.set_title("\n".join(str(panel[key].iloc[0]) for key in varying), fontsize=8)
    names = [method_display(*pair) for pair in entries]
    axes[0, 0].set_yticks(range(len(entries)), names)
    axes[0, 0].set_ylim(len(entries) - 0.4, -0.6)
    for ax in axes[:, 0]:
        ax.tick_params(axis="y", labelsize=8)
    name = style.METRIC_DISPLAY.get(metric, metric.replace("_", " "))
    of_label = {"-": "", "retained": ", retained labels", "forgotten": ", forgotten entries"}.get(label, f", {label}")
    in_unit = {"s": " (s)", "x": " (times)"}.get(unit, "")
    arrow = style.arrow(better).replace("\u2191", "\u2192").replace("\u2193", "\u2190")  # the axis lies down
    figure.supxlabel(f"{name}{of_label}{in_unit}  {arrow}", fontsize=9)
    handles = [Line2D([], [], **_RETRAIN, label="Retrain")] if (chosen["method"] == "Retrain").any() else []
    seeds = chosen.loc[chosen["unlearning_seed"] != NOT_UNLEARNED, ["seed", "unlearning_seed"]]
    if len(seeds.drop_duplicates()) > 1:
        handles.append(Line2D([], [], color="k", marker=".", mfc="w", linewidth=0.8, label="seeds, ±1 sd"))
    _legend_on_top(figure, handles, title)
    return finish(figure)


def trade_off(scores: pd.DataFrame, *, forgotten: str, leak: str = "auc", title: str | None = None) -> Figure:
    """What the output still says about what was forgotten, against what was kept: one mark a run of a method.

    Args:
        scores: tidy scores of one study with its Retrain rows; the test split is shown.
        forgotten: label of the rows that hold `leak`, a label's or class's name or "forgotten".
        leak: "auc", shown as 2 |AUC - 1/2| (0 = the output says nothing), or a rate such as "recall", shown as it is.

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
    figure = new_figure(figsize=(7.4, 4.6))
    ax = figure.subplots()
    for (method, reading), runs in sorted(gap.groupby(level=keys[:2]), key=lambda group: display_rank(*group[0])):
        look = style.mark(method, reading, edge=0.5, alpha=0.6) | {"linestyle": "", "markersize": 8}
        ax.plot(said[runs.index], runs, label=method_display(method, reading), **look)
    ax.axhline(0, **_RETRAIN | {"linewidth": 1})
    ax.set_xlim(-0.06, 1.06)
    what = "2 |AUC \u2212 \u00bd| of the output" if leak == "auc" else style.METRIC_DISPLAY.get(leak, leak)
    ax.set_xlabel(f"{what}, {forgotten}\n\u2190 says nothing")
    ax.set_ylabel("retained accuracy minus Retrain's (points)\n\u2191 better")
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), **_LEGEND | {"fontsize": 7.5})
    return finish(figure, title)


def output_strips(
    outputs: Mapping[str, ArrayLike], is_positive: ArrayLike, *, quantity: str, title: str | None = None
) -> Figure:
    """The predicted probability of what was forgotten, image by image: apart, mixed, or the wrong way round.

    Args:
        outputs: method name -> (n,) probabilities in [0, 1].
        is_positive: bool (n,), images that truly have the label or class.
        quantity: what the probability is of.

    Raises:
        ValueError: nothing to draw, or lengths that differ.
    """
    is_positive = np.asarray(is_positive, dtype=bool)
    if not outputs or any(len(np.asarray(p)) != len(is_positive) for p in outputs.values()):
        raise ValueError(f"outputs must hold {len(is_positive)} probabilities a method, and at least one method")
    figure = new_figure(figsize=(max(4.0, 0.62 * len(outputs) + 1.4), 3.4))
    ax = figure.subplots()
    jitter = np.random.default_rng(0).uniform(-0.13, 0.13, len(is_positive))
    sides = (
        (is_positive, 0.19, {"color": "#f08c1e", "marker": "^", "label": "label present"}),
        (~is_positive, -0.19, {"color": "#0b5ea6", "marker": "o", "label": "label absent"}),
    )
    for x, probability in enumerate(outputs.values()):
        for chosen, shift, look in sides:
            look = look | {"linestyle": "", "mec": "k", "mew": 0.3, "alpha": 0.75, "markersize": 4}
            ax.plot(x + shift + jitter[chosen], np.asarray(probability)[chosen], **look)
    ax.axhline(0.5, **_CHANCE)
    ax.set_ylim(-0.04, 1.04)
    ax.set_xticks(range(len(outputs)), outputs, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    ax.set_ylabel(f"predicted probability of {quantity}")
    ax.grid(False, axis="x")
    ax.legend(handles=ax.lines[:2], loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, **_LEGEND)
    return finish(figure, title)


def attack_intervals(
    table: pd.DataFrame,
    *,
    panel: str = "input",
    reference: str = "Retrain",
    quantity: str = "AUC of the attack",
    title: str | None = None,
) -> Figure:
    """AUC of an attack with its interval for every model; a panel for each thing that was attacked.

    Args:
        table: columns model, `panel`, auc, auc_low, auc_high; one row a mark, several a model allowed when a column
            attacker (of up to four values) tells them apart.
        panel: column that makes the panels.
        reference: model whose value is drawn as a line.
        quantity: name of the axis.

    Raises:
        ValueError: nothing to draw.
    """
    if table.empty:
        raise ValueError("the attack table has no rows: run the attacks first")
    panels, models = list(dict.fromkeys(table[panel])), _in_order(table["model"])
    attackers = list(dict.fromkeys(table["attacker"])) if "attacker" in table else [None]
    height = 0.135 * max(2, len(attackers)) * len(models) + 1.7
    figure = new_figure(figsize=(max(6.0, 2.3 * len(panels) + 1.6), height))
    axes = figure.subplots(1, len(panels), sharey=True, sharex=True, squeeze=False)[0]
    for ax, name in zip(axes, panels, strict=True):
        part = table[table[panel] == name]
        for row in part.to_dict("records"):
            number = attackers.index(row.get("attacker"))
            offset = (number - (len(attackers) - 1) / 2) * min(0.32, 0.8 / len(attackers))
            y, known = models.index(row["model"]) + offset, style.model_style(row["model"])
            colour = "0.45" if known is style.NO_METHOD else known.colour
            ax.plot([row["auc_low"], row["auc_high"]], [y, y], "-", color=colour, linewidth=1.6)
            ax.plot(row["auc"], y, "os^D"[number], color=colour, mec="k", mew=0.4, markersize=5)
        for known in part.loc[part["model"] == reference, "auc"][:1]:
            ax.axvline(known, **_RETRAIN | {"linewidth": 1}, zorder=0)
        ax.axvline(0.5, **_CHANCE, zorder=0)
        ax.set_title(str(name), fontsize=9)
        ax.grid(False, axis="y")
    axes[0].set_yticks(range(len(models)), models, fontsize=8)
    axes[0].set_ylim(len(models) - 0.4, -0.6)
    figure.supxlabel(f"{quantity} (bar: 95 % interval)", fontsize=9)
    handles = [Line2D([], [], **_RETRAIN | {"linewidth": 1}, label=reference)]
    handles.append(Line2D([], [], **_CHANCE, label="no information"))
    for mark, attacker in zip("os^D", attackers if attackers != [None] else [], strict=False):
        handles.append(Line2D([], [], color="w", marker=mark, mfc="0.5", mec="k", label=str(attacker)))
    _legend_on_top(figure, handles, title)
    return finish(figure)


def method_curves(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    x: str,
    y: str,
    target: float | None = None,
    title: str | None = None,
) -> Figure:
    """A curve for each model, such as a score after each step of relearning or at each depth of the network.

    Args:
        curves: model -> (positions, values); a model that is no method is drawn grey.
        x, y: names of the axes.
        target: a level to mark, or None.

    Raises:
        ValueError: no curves.
    """
    if not curves:
        raise ValueError("no curves to draw")
    figure = new_figure(figsize=(7.2, 3.6))
    ax = figure.subplots()
    for name, (positions, values) in curves.items():
        line, width = ("--", 1.8) if name in ("Original", "Retrain") else ("-", 1.2)
        look = style.mark(name) | {"markersize": 4.5, "linestyle": line, "linewidth": width}
        ax.plot(positions, values, label=name, **look)
    if target is not None:
        ax.axhline(target, **_CHANCE)
    ax.set(xlabel=x, ylabel=y)
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), **_LEGEND)
    return finish(figure, title)


# --- steps of a method


def sensitivity_curves(sweep: pd.DataFrame, *, title: str | None = None) -> Figure:
    """Table 1's sweep: each quantity against epsilon at fixed tau, and against tau at fixed epsilon.

    Args:
        sweep: columns epsilon, tau, quantity, value; optional source, such as "ours" (solid) and "printed"
            (dashed). Quantities become rows of panels.

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
    figure = new_figure(figsize=(3.9 * len(columns), 2.4 * len(quantities) + 0.8))
    axes = figure.subplots(len(quantities), len(columns), squeeze=False, sharex="col", sharey="row")
    for column, (x, other) in zip(axes.T, columns, strict=True):
        for ax, quantity in zip(column, quantities, strict=True):
            rows = sweep[sweep["quantity"] == quantity]
            levels = [level for level, part in sweep.groupby(other) if part[x].nunique() > 1]
            for level, colour in zip(levels, sns.color_palette("viridis", len(levels)), strict=True):
                for number, source in enumerate(sources):
                    line = rows[(rows[other] == level) & (rows["source"] == source)].sort_values(x)
                    if len(line) > 1:
                        look = {"color": colour, "mfc": "white" if number else colour, "linestyle": _LINES[number % 4]}
                        look |= {"marker": "osD^"[number % 4], "markersize": 5}
                        ax.plot(line[x], line["value"], label=f"{source}, {symbols[other]} = {level:g}", **look)
            ax.set_xscale("log")
            ticks = sorted(sweep.loc[sweep[other].isin(levels), x].unique())
            ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            ax.minorticks_off()
        column[-1].set_xlabel(f"{x} ({symbols[x]})")
        column[0].legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, **_LEGEND | {"fontsize": 7.5})
    for ax, quantity in zip(axes[:, 0], quantities, strict=True):
        ax.set_ylabel(quantity)
    return finish(figure, title)


def layer_score_distributions(
    scores: Mapping[str, ArrayLike],
    *,
    reference: Mapping[str, ArrayLike],
    names: tuple[str, str],
    quantity: str,
    title: str | None = None,
) -> Figure:
    """Distribution of the weights' scores in each layer, logarithmic, and the share that is exactly 0.

    Args:
        scores: layer -> scores of its weights, any shape, >= 0, in order of depth.
        reference: scores of the same layers, drawn beside the first.
        names: what the two sets are scores for.
        quantity: name of the axis.

    Raises:
        ValueError: no layers, other layers in the reference, a negative or non-finite score.
    """
    if not scores:
        raise ValueError("scores holds no layer")
    if list(reference) != list(scores):
        raise ValueError(f"reference has the layers {list(reference)[:3]}..., scores {list(scores)[:3]}...")
    sets = [(names[0], scores, "#ec7d43", -0.18), (names[1], reference, "#1f4e79", 0.18)]
    figure = new_figure(figsize=(max(5.5, 0.26 * len(scores) + 1.8), 4.6))
    ax, zero_ax = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    for _, layers, colour, shift in sets:
        for x, (layer, values) in enumerate(layers.items()):
            values = np.asarray(values).ravel()
            if not len(values) or not np.isfinite(values).all() or values.min() < 0:
                raise ValueError(f"scores of layer {layer!r} must be finite and >= 0, and at least one")
            zero_ax.bar(x + shift, np.mean(values == 0), 0.34, color=colour, linewidth=0)
            if (values > 0).any():
                low, lower, median, upper, high = np.quantile(values[values > 0], [0.01, 0.25, 0.5, 0.75, 0.99])
                for ends, linewidth in (((low, high), 1), ((lower, upper), 4)):
                    ax.plot([x + shift] * 2, ends, color=colour, linewidth=linewidth, solid_capstyle="butt")
                ax.plot(x + shift, median, "o", color="w", mec=colour, markersize=4, zorder=4)
    ax.set_yscale("log")
    ax.set_ylabel(quantity)
    zero_ax.set(ylabel="share\nexactly 0", ylim=(0, 1), yticks=[0, 1], xlim=(-0.7, len(scores) - 0.3))
    zero_ax.set_xticks(range(len(scores)), list(scores), rotation=90, fontsize=7)
    for each in (ax, zero_ax):
        each.grid(False, axis="x")
    handles = [Line2D([], [], color=colour, linewidth=4, label=name) for name, _, colour, _ in sets]
    look = {"color": "0.3", "marker": "o", "mfc": "w", "linewidth": 4, "markersize": 4}
    handles.append(Line2D([], [], **look, label="median, quartiles"))
    handles.append(Line2D([], [], color="0.3", linewidth=1, label="1 % to 99 % of non-zero"))
    figure.legend(handles=handles, loc="outside upper center", ncols=2, **_LEGEND)
    if title is not None:
        ax.set_title(title)
    return finish(figure)


# --- what the drawings share


def finish(figure: Figure, title: str | None = None) -> Figure:
    """Finish a figure: no frame at the top and the right, and a title."""
    for ax in figure.axes:
        ax.spines[["top", "right"]].set_visible(False)
    if title is not None:
        figure.suptitle(title)
    return figure


def _legend_on_top(figure: Figure, handles: Sequence, title: str | None = None) -> None:
    """Put one legend above all panels, in as many columns as fit, with the figure's title as its heading.

    A suptitle would be laid over the legend: the layout keeps room for the taller of the two only.
    """
    place = {"loc": "outside upper center", "title": title, "title_fontsize": "large"}
    for num_columns in range(len(handles), 0, -1):
        legend = figure.legend(handles=handles, ncols=num_columns, **place, **_LEGEND)
        if num_columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


def _in_order(models: Iterable[str]) -> list[str]:
    """Models in the order of methods, each once; controls, which are no methods, come last."""
    is_control = {model: style.model_style(model) is style.NO_METHOD for model in models}
    return sorted(is_control, key=lambda model: math.inf if is_control[model] else display_rank(model))


def _faces(images: ArrayLike) -> np.ndarray:
    """Checked images as (N, H, W, 3) for drawing."""
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != np.uint8 or not len(images):
        raise ValueError(f"images {images.dtype} {images.shape}: expected uint8 (N, 3, H, W) with N >= 1")
    return images.transpose(0, 2, 3, 1)
