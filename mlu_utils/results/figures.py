"""Drawings. Each returns a closed `Figure`, which a notebook shows once, as the last value of a cell.

Must not: compute a score, choose a backend, show a window or write a file. What can't be drawn is refused by a
ValueError that says why. `title` is that of the whole figure.
"""

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Patch, Rectangle
from numpy.typing import ArrayLike

from mlu_utils import paths
from mlu_utils.naming import choices
from mlu_utils.results import style
from mlu_utils.results.scores import NOT_UNLEARNED, display_rank, method_display, require_retrain

_LEGEND = {"fontsize": 8, "frameon": False}
_CHANCE = {"color": "0.3", "linestyle": ":", "linewidth": 1}  # of what says nothing
_RETRAIN = {"color": style.RETRAIN, "linestyle": "--", "linewidth": 1.2}
_BETTER = {"higher": "\u2192 better", "lower": "\u2190 better", "retrain": "ideal: Retrain's value"}


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
    title: str | None = None,
) -> Figure:
    """Faces in a grid, each with an optional title above and lines of text below.

    Args:
        images: uint8 (N, 3, H, W).
        titles: N short texts, such as "person 7".
        annotations: N lists of lines, such as the labels that are present.
    """
    faces, face_size = _faces(images), 1.25  # inches
    text_height = 0.22 * (titles is not None) + 0.1
    titles, annotations = titles or [""] * len(faces), annotations or [[]] * len(faces)
    for name, texts in (("titles", titles), ("annotations", annotations)):
        if len(texts) != len(faces):
            raise ValueError(f"{len(texts)} {name} for {len(faces)} images")
    num_columns, num_lines = min(num_columns, len(faces)), max(map(len, annotations))
    num_rows = math.ceil(len(faces) / num_columns)
    cell_height = face_size * faces.shape[1] / faces.shape[2] + 0.125 * num_lines + text_height
    figure = new_figure(figsize=(num_columns * (face_size + 0.1), num_rows * cell_height + 0.3 * (title is not None)))
    for position, ax in enumerate(_grid(figure, len(faces), num_columns)):
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
        sns.despine(ax=ax, left=True, bottom=True)
        ax.imshow(faces[position], interpolation="nearest")
        ax.set_title(titles[position], fontsize=8, fontweight="bold", pad=2)
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
    after: str = "WP",
) -> Figure:
    """Faces, and beside each the probability of every label by the original and by the unlearned model.

    Args:
        images: uint8 (N, 3, H, W).
        label_names: K names.
        probs_before, probs_after: (N, K) in [0, 1].
        truth: (N, K), 1, 0 or nan = unknown.
        forgotten_label: one of `label_names`; its row is highlighted.
        after: the method that unlearned.
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

    num_columns = min(2, len(faces))
    num_rows = math.ceil(len(faces) / num_columns)
    figure = new_figure(figsize=(4.6 * num_columns, num_rows * max(1.5, 0.2 * shape[1] + 0.15) + 0.85))
    # A face and its bars are two neighbours of a grid.
    cells = _grid(figure, 2 * len(faces), 2 * num_columns, width_ratios=[1.05, 1.5] * num_columns)
    colours = [style.method_style(method).colour for method in ("Original", after)]
    highlighted, highlight = list(label_names).index(forgotten_label), "#ffe9a8"
    positions = np.arange(shape[1])
    for i, (face_ax, ax) in enumerate(zip(cells[::2], cells[1::2], strict=True)):
        face_ax.imshow(faces[i], interpolation="nearest")
        face_ax.set_axis_off()
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
        Patch(color=colours[0], label="before (Original)"),
        Patch(color=colours[1], label=f"after ({after})"),
        Patch(color=highlight, label=f"forgotten: {forgotten_label.replace('_', ' ')}"),
        Line2D([], [], linestyle="", marker="o", color="k", markersize=4, label="label present"),
        Line2D([], [], linestyle="", marker="o", color="k", mfc="none", markersize=4, label="label absent"),
    ]
    place = {"loc": "outside lower center", "ncols": 5 if num_columns > 1 else 2}
    figure.legend(handles=handles, columnspacing=1.4, handletextpad=0.5, **place, **_LEGEND)
    return finish(figure)


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
        scores: tidy scores with their Retrain rows, of which metric, label and split choose.
        better: the better side, "higher" or "lower", or "retrain" where Retrain's value is the ideal.
        is_log: logarithmic axis, for times and speed-ups.
    """
    if better not in _BETTER:
        raise ValueError(f"better is {better!r}: {choices(better, _BETTER)}")
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
    num_rows = math.ceil(len(panels) / 5)
    num_columns = math.ceil(len(panels) / num_rows)
    figure = new_figure(figsize=(1.9 * num_columns + 2.2, num_rows * (0.2 * len(entries) + 0.9) + 0.6))
    names = [method_display(*pair) for pair in entries]
    for ax, panel in zip(_rows(figure, names, len(panels), num_columns), panels, strict=True):
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
    name = style.METRIC_DISPLAY.get(metric, metric.replace("_", " ").capitalize())
    of_label = {"-": "", "retained": ", retained labels", "forgotten": ", forgotten entries"}.get(label, f", {label}")
    in_unit = {"s": " (s)", "x": " (times)"}.get(unit, "")
    figure.supxlabel(f"{name}{of_label}{in_unit}  {_BETTER[better]}", fontsize=9)
    handles = [Line2D([], [], **_RETRAIN, label="Retrain")] if (chosen["method"] == "Retrain").any() else []
    seeds = chosen.loc[chosen["unlearning_seed"] != NOT_UNLEARNED, ["seed", "unlearning_seed"]]
    if len(seeds.drop_duplicates()) > 1:
        handles.append(Line2D([], [], color="k", marker=".", mfc="w", linewidth=0.8, label="seeds, ±1 sd"))
    _legend_on_top(figure, handles, title)
    return finish(figure)


def output_strips(
    outputs: Mapping[str, ArrayLike], is_positive: ArrayLike, *, quantity: str, title: str | None = None
) -> Figure:
    """The predicted probability of what was forgotten, image by image: apart, mixed, or the wrong way round.

    Args:
        outputs: method name -> (n,) probabilities in [0, 1].
        is_positive: bool (n,), images that truly have the label or class.
        quantity: what the probability is of.
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
    ax.set(ylim=(-0.04, 1.04), ylabel=f"predicted probability of {quantity}")
    ax.set_xticks(range(len(outputs)), outputs, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    ax.grid(False, axis="x")
    ax.legend(handles=ax.lines[:2], loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, **_LEGEND)
    return finish(figure, title)


def attack_intervals(
    table: pd.DataFrame,
    *,
    reference: str = "Retrain",
    quantity: str = "AUC of the attack",
    title: str | None = None,
) -> Figure:
    """AUC of an attack with its interval for every model; a panel for each thing that was attacked.

    Args:
        table: columns model, input (the panels), attacker (up to four), auc, auc_low, auc_high; one row a mark.
        reference: model whose value is drawn as a line.
    """
    if table.empty:
        raise ValueError("the attack table has no rows: run the attacks first")
    panels, attackers = list(table["input"].unique()), list(table["attacker"].unique())
    models = sorted(table["model"].unique(), key=_rank)
    height = 0.135 * max(2, len(attackers)) * len(models) + 1.7
    figure = new_figure(figsize=(max(6.0, 2.3 * len(panels) + 1.6), height))
    for ax, name in zip(_rows(figure, models, len(panels), len(panels), sharex=True), panels, strict=True):
        part = table[table["input"] == name]
        for row in part.to_dict("records"):
            number, colour = attackers.index(row["attacker"]), style.model_style(row["model"]).colour
            offset = (number - (len(attackers) - 1) / 2) * min(0.32, 0.8 / len(attackers))
            y = models.index(row["model"]) + offset
            ax.plot([row["auc_low"], row["auc_high"]], [y, y], "-", color=colour, linewidth=1.6)
            ax.plot(row["auc"], y, "os^D"[number], color=colour, mec="k", mew=0.4, markersize=5)
        for known in part.loc[part["model"] == reference, "auc"][:1]:
            ax.axvline(known, **_RETRAIN | {"linewidth": 1}, zorder=0)
        ax.axvline(0.5, **_CHANCE, zorder=0)
        ax.set_title(str(name), fontsize=9)
        ax.grid(False, axis="y")
    figure.supxlabel(f"{quantity} (bar: 95 % interval)", fontsize=9)
    handles = [Line2D([], [], **_RETRAIN | {"linewidth": 1}, label=reference)]
    handles.append(Line2D([], [], **_CHANCE, label="no information"))
    for mark, attacker in zip("os^D", attackers, strict=False):
        handles.append(Line2D([], [], color="w", marker=mark, mfc="0.5", mec="k", label=attacker))
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
        target: a level to mark.
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
        scores, reference: layer -> scores of its weights, any shape, >= 0, in order of depth; drawn side by side.
        names: what the two sets are scores for.
    """
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
    ax.set(yscale="log", ylabel=quantity)
    zero_ax.set(ylabel="share\nexactly 0", ylim=(0, 1), yticks=[0, 1], xlim=(-0.7, len(scores) - 0.3))
    zero_ax.set_xticks(range(len(scores)), list(scores), rotation=90, fontsize=7)
    for each in (ax, zero_ax):
        each.grid(False, axis="x")
    handles = [Line2D([], [], color=colour, linewidth=4, label=name) for name, _, colour, _ in sets]
    look = {"color": "0.3", "marker": "o", "mfc": "w", "linewidth": 4, "markersize": 4}
    handles.append(Line2D([], [], **look, label="median, quartiles"))
    handles.append(Line2D([], [], color="0.3", linewidth=1, label="1 % to 99 % of non-zero"))
    _legend_on_top(figure, handles, title)
    return finish(figure)


# --- the framework

_TEXT_SIZE = 7.3  # points
_INK, _FAINT, _BAND, _DARK = "0.1", "0.45", "0.95", "0.25"
_DASHES = (0, (4, 2))


def framework_diagram() -> Figure:
    """Figure 1, from the request to the verdict, 17 cm wide, no text below 7 points, as `framework.yaml` describes it.

    Grey and line style carry all meaning; the two colours are those of WF and WP in every other figure.
    """
    plan = yaml.safe_load((paths.REFERENCE / "framework.yaml").read_text(encoding="utf-8"))
    width, height = plan["size"]
    figure = new_figure(figsize=(width / 25.4, height / 25.4), dpi=100)
    figure.set_layout_engine("none")  # every place is given in millimetres
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(0, height))
    ax.axis("off")
    for band in plan["bands"]:
        _draw_band(ax, width, **band)
    for box in plan["boxes"]:
        _draw_box(ax, **box)
    _draw_mask(ax, **plan["mask"])
    _draw_cell(ax, plan["frame"], fc="none", ec=_FAINT, lw=0.8, ls=(0, (3, 2)))
    for zone in plan["zones"]:
        _draw_cell(ax, zone["bounds"], fc=zone["face"], ec=_INK, lw=0.7)
        _write(ax, *zone["middle"], zone["text"], size=8)
    for x, y, text in plan["texts"]:
        _write(ax, x, y, text)
    for kind, line in (("arrows", "-"), ("dashed_arrows", _DASHES)):
        for corners in plan[kind]:
            _draw_arrow(ax, corners, line)
    return figure


def _draw_band(ax: Axes, width: float, ends: tuple[float, float], number: str, lines: Sequence[str]) -> None:
    (bottom, top), middle = ends, sum(ends) / 2
    shape = "round,pad=0,rounding_size=2"
    ax.add_patch(FancyBboxPatch((1, bottom), width - 2, top - bottom, boxstyle=shape, fc=_BAND, ec="none", zorder=0))
    _write(ax, 2.5, middle, number, size=15, weight="bold", color=_FAINT, ha="left")
    _write(ax, 7.5, middle, "\n".join(lines), size=8, weight="bold", ha="left", linespacing=1.28)


def _draw_box(
    ax: Axes, bounds: Sequence[float], *, title="", lines=(), method="", face="white", is_dashed=False
) -> None:
    x, y, width, height = bounds
    edge = {"ec": _INK, "lw": 0.9, "ls": _DASHES if is_dashed else "-"}
    ax.add_patch(FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=1.3", fc=face, **edge))
    if method:
        _draw_cell(ax, (x + 0.9, y + 1.3, 1.6, height - 2.6), fc=style.method_style(method).colour, ec="none")
    looks = [(title, 8.0, "bold")] if title else []
    looks += [(line, 9.0 if method and not place else _TEXT_SIZE, "normal") for place, line in enumerate(lines)]
    spaces = [0.52 * size for _, size, _ in looks]  # mm a line
    top = y + (height + sum(spaces)) / 2 if lines else y + height - 1.0
    for (line, size, weight), space in zip(looks, spaces, strict=True):
        _write(ax, x + width / 2, top - space / 2, line, size=size, weight=weight)
        top -= space


def _draw_mask(ax: Axes, corner: Sequence[float], cell: Sequence[float], num_cells: int, forgotten: int) -> None:
    (x, y), (width, height) = corner, cell
    for row in range(num_cells):
        for column in range(num_cells):
            face = _DARK if column == forgotten else "white"
            _draw_cell(ax, (x + width * column, y + height * row, width, height), fc=face, ec="0.5", lw=0.5)


def _draw_cell(ax: Axes, bounds: Sequence[float], **look: object) -> None:
    ax.add_patch(Rectangle(bounds[:2], *bounds[2:], **look))


def _write(ax: Axes, x: float, y: float, text: str, **look: object) -> None:
    look = {"size": _TEXT_SIZE, "color": _INK, "math_fontfamily": "dejavusans", "ha": "center"} | look
    ax.text(x, y, text, va="center", **look)


def _draw_arrow(ax: Axes, corners: Sequence[Sequence[float]], line: object) -> None:
    ax.plot(*zip(*corners[:-1], strict=True), color=_INK, lw=1.0, ls=line, solid_joinstyle="miter")
    head = {"arrowstyle": "-|>,head_width=0.18,head_length=0.36", "color": _INK, "lw": 1.0, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", xy=corners[-1], xytext=corners[-2], arrowprops=head)


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


def _grid(figure: Figure, num_panels: int, num_columns: int, **shared: object) -> list[Axes]:
    """Add so many panels row by row; the rest of the last row stays empty."""
    axes = figure.subplots(math.ceil(num_panels / num_columns), num_columns, squeeze=False, **shared).flat
    for ax in axes[num_panels:]:
        ax.set_visible(False)
    return axes[:num_panels]


def _rows(figure: Figure, names: Sequence[str], num_panels: int, num_columns: int, **shared: object) -> list[Axes]:
    """Add panels that share their rows, one a name, the first on top."""
    axes = _grid(figure, num_panels, num_columns, sharey=True, **shared)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.4, -0.6)
    for ax in axes[::num_columns]:
        ax.tick_params(axis="y", labelsize=8)
    return axes


def _rank(model: str) -> float:
    """Return the sort key of a model: methods in their order, then controls, which are no methods."""
    return math.inf if style.model_style(model) is style.NO_METHOD else display_rank(model)


def _faces(images: ArrayLike) -> np.ndarray:
    """Checked images as (N, H, W, 3) for drawing."""
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != np.uint8 or not len(images):
        raise ValueError(f"images {images.dtype} {images.shape}: expected uint8 (N, 3, H, W) with N >= 1")
    return images.transpose(0, 2, 3, 1)
