"""Figure 1: the framework from the request to the verdict, drawn from code.

Purpose: one picture for the first page of the results, legible at the width of a printed page.
Must not: read data or results, show a window; every number and path belongs elsewhere.

Coordinates throughout: millimetres on the page, origin at the lower left.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from mlu_utils.results.figures import new_figure
from mlu_utils.results.style import method_style

WIDTH, HEIGHT = 170.0, 151.0  # mm: the text width of a page
_TEXT_SIZE = 7.3  # points
_INK, _FAINT, _BAND, _DARK = "0.1", "0.45", "0.95", "0.25"
_LEFT_RAIL, _RIGHT_RAIL = 28.5, 166.0


def framework_diagram() -> Figure:
    """Draw the framework: request, losses, importance, modification, fine-tuning, verification against Retrain.

    Returns:
        A closed figure, 17 cm wide, no text below 7 points. Grey and line style carry all meaning; the two colours
        are those of WF and WP in every other figure and come with the methods' names.

    Source: Hossain et al. (2025), Figure 1 and Algorithms 1-3; drawn anew, with the mask and the losses of this suite.
    """
    figure = new_figure(figsize=(WIDTH / 25.4, HEIGHT / 25.4), dpi=100)
    figure.set_layout_engine("none")  # every place is given in millimetres
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    ax.axis("off")
    _draw_request(ax)
    _draw_importance(ax)
    _draw_modification(ax)
    _draw_finetuning(ax)
    _draw_verification(ax)
    _draw_rails(ax)
    return figure


def _draw_request(ax: Axes) -> None:
    _band(ax, 115, 149, "1", "Request\nto losses")
    request = "forget label $y_j$\nfor everyone;\nor a class, people,\nimages, entries"
    _box(ax, (32, 121, 37, 24), "Deletion request", request)
    _arrow(ax, (69, 132), (77, 132))
    _draw_label_table(ax, 78, 123.7)
    _arrow(ax, (104.5, 138), (112, 138))
    _arrow(ax, (104.5, 125), (112, 125))
    _box(ax, (112, 132.5, 49, 12), "Retain loss $L_r$", "mean over the white entries")
    _box(ax, (112, 118.5, 49, 12), "Forget loss $L_f$", "mean over the dark entries", face="0.82")


def _draw_label_table(ax: Axes, x: float, y: float) -> None:
    """Draw the mask: six labels of six images, one column to be forgotten."""
    width, height, forgotten = 4.2, 2.8, 3
    for row in range(6):
        for column in range(6):
            face = _DARK if column == forgotten else "white"
            ax.add_patch(Rectangle((x + width * column, y + height * row), width, height, fc=face, ec="0.5", lw=0.5))
    top = y + 6 * height + 2.2
    for column, name in ((0, "$y_1$"), (1, "$y_2$"), (forgotten, "$y_j$"), (5, "$y_K$")):
        _text(ax, x + width * (column + 0.5), top, name)
    _text(ax, x + 3 * width, y - 3.2, "mask over the")
    _text(ax, x + 3 * width, y - 6.2, "table of labels")


def _draw_importance(ax: Axes) -> None:
    _band(ax, 82, 109, "2", "Importance\nof each\nweight")
    _box(ax, (32, 88, 24, 15), "Original", "model $f_{w_0}$")
    _arrow(ax, (56, 95.5), (61, 95.5))
    ax.add_patch(Rectangle((61, 84.5), 100, 22, fc="none", ec=_FAINT, lw=0.8, ls=(0, (3, 2))))
    filtering = "$S(w)\\cdot I(w)$\nsensitivity × influence"
    pruning = "$\\alpha\\,S(w)+\\beta\\,\\frac{1}{2}H_{ii}w^2$\nsensitivity + curvature"
    _box(ax, (63, 86, 46, 19), "WF  Weight Filtering", filtering, method="WF")
    _box(ax, (113, 86, 46, 19), "WP  Weight Pruning", pruning, method="WP")


def _draw_modification(ax: Axes) -> None:
    _band(ax, 43, 78, "3", "Modify\nthe forget\nset $W_f$")
    forget_set = "forget set $W_f$: the weights whose importance for the label passes the threshold"
    _box(ax, (32, 67, 129, 8), "", forget_set)
    _arrow(ax, (111, 84.5), (111, 75))
    _arrow(ax, (61, 67), (61, 64))
    _arrow(ax, (127, 67), (127, 64))
    rule = "$w\\leftarrow 0$  or  $w\\leftarrow\\mathcal{N}(0,\\sigma^2)$\nthreshold $\\tau$ adapts to curvature"
    _box(ax, (32, 45, 58, 19), "WF: filter", rule, method="WF")
    _box(ax, (93, 45, 68, 19), "WP: three zones", "", method="WP")
    zones = (("white", r"$w\leftarrow 0$"), ("0.88", r"$w\,e^{-\lambda I}$"), ("0.74", r"$w-\alpha_r\nabla L_r$"))
    for position, (face, name) in enumerate(zones):
        x = 96.5 + 21 * position
        ax.add_patch(Rectangle((x, 52.6), 21, 6.2, fc=face, ec=_INK, lw=0.7))
        _text(ax, x + 10.5, 55.6, name, size=8)
    _text(ax, 127.5, 50.4, "as printed: lowest $I$ on the left;")
    _text(ax, 127.5, 47.2, "as needed to forget: highest on the left")


def _draw_finetuning(ax: Axes) -> None:
    _band(ax, 27, 39, "4", "Fine-tune")
    clamp = r"after each step every $w\in W_f$ is clamped to $[\,w_{mod}-\varepsilon,\ w_{mod}+\varepsilon\,]$"
    _box(ax, (32, 28.2, 129, 9.6), "Constrained fine-tuning on $L_r$ only", clamp)
    _arrow(ax, (61, 45), (61, 37.8))
    _arrow(ax, (127, 45), (127, 37.8))


def _draw_verification(ax: Axes) -> None:
    _band(ax, 2, 23, "5", "Verify")
    attacks = "attribute inference (AIA)\nmembership (MIA)\nrelearning, utility"
    _box(ax, (32, 4, 37, 17), "Retrain $f_{w^*}$", "same recipe, masked\nentries never seen", is_dashed=True)
    _box(ax, (77, 4, 42, 17), "Same behaviour?", attacks, face="0.82")
    _box(ax, (127, 4, 34, 17), "Unlearned", "model $f_{w'}$")
    _arrow(ax, (144, 28.2), (144, 21))
    _arrow(ax, (127, 12.5), (119, 12.5))
    _arrow(ax, (69, 12.5), (77, 12.5))


def _draw_rails(ax: Axes) -> None:
    """Draw the paths that leave a band: losses to the scores, L_r to fine-tuning, the mask to Retrain."""
    _arrow(ax, (122, 118.5), (122, 106.5))
    _text(ax, 136, 112, "gradients")
    _path(ax, [(_RIGHT_RAIL, 112), (150, 112)])
    _arrow(ax, (150, 112), (150, 106.5))
    _path(ax, [(161, 138.5), (_RIGHT_RAIL, 138.5), (_RIGHT_RAIL, 33)])
    _arrow(ax, (_RIGHT_RAIL, 33), (161, 33))
    _path(ax, [(90.6, 115), (90.6, 112), (_LEFT_RAIL, 112), (_LEFT_RAIL, 12.5)], is_dashed=True)
    _arrow(ax, (_LEFT_RAIL, 12.5), (32, 12.5))


def _band(ax: Axes, bottom: float, top: float, number: str, title: str) -> None:
    style = "round,pad=0,rounding_size=2"
    ax.add_patch(FancyBboxPatch((1, bottom), WIDTH - 2, top - bottom, boxstyle=style, fc=_BAND, ec="none", zorder=0))
    middle, lines = (bottom + top) / 2, title.split("\n")
    _text(ax, 2.5, middle, number, size=15, weight="bold", color=_FAINT, align="left")
    for position, line in enumerate(lines):
        y = middle + 3.6 * ((len(lines) - 1) / 2 - position)
        _text(ax, 7.5, y, line, size=8, weight="bold", align="left")


def _box(ax: Axes, bounds: tuple, title: str, text: str, *, method: str = "", face="white", is_dashed=False) -> None:
    """Draw a rounded box: a bold title above lines; a method adds a stripe of its colour and enlarges its formula."""
    x, y, width, height = bounds
    edge = {"ec": _INK, "lw": 0.9, "ls": (0, (4, 2)) if is_dashed else "-"}
    ax.add_patch(FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=1.3", fc=face, **edge))
    if method:
        ax.add_patch(Rectangle((x + 0.9, y + 1.3), 1.6, height - 2.6, fc=method_style(method).colour, ec="none"))
    lines = [(title, 8.0, "bold")] if title else []
    for position, line in enumerate(text.split("\n") if text else []):
        lines.append((line, 9.0 if method and position == 0 else _TEXT_SIZE, "normal"))
    spaces = [0.52 * size for _, size, _ in lines]  # mm a line
    top = y + (height + sum(spaces)) / 2 if text else y + height - 1.0
    for (line, size, weight), space in zip(lines, spaces, strict=True):
        _text(ax, x + width / 2, top - space / 2, line, size=size, weight=weight)
        top -= space


def _text(ax: Axes, x: float, y: float, text: str, *, align: str = "center", **look: object) -> None:
    look = {"size": _TEXT_SIZE, "color": _INK, "math_fontfamily": "dejavusans"} | look
    ax.text(x, y, text, ha=align, va="center", **look)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    style = {"arrowstyle": "-|>,head_width=0.18,head_length=0.36", "color": _INK, "lw": 1.0, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", xy=end, xytext=start, arrowprops=style)


def _path(ax: Axes, points: Sequence[tuple[float, float]], *, is_dashed: bool = False) -> None:
    line = (0, (4, 2)) if is_dashed else "-"
    ax.plot(*zip(*points, strict=True), color=_INK, lw=1.0, ls=line, solid_joinstyle="miter")
