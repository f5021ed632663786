"""How methods and metrics look: a fixed colour, marker and hatch a method, and the words on the axes."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from matplotlib.colors import to_rgb, to_rgba

from mlu_utils.naming import choices
from mlu_utils.results.scores import known_methods


@dataclass(frozen=True)
class MethodStyle:
    """How one method looks in every figure: three marks, any of which tells it from its neighbours."""

    colour: str
    marker: str
    hatch: str


# Names as in `scores.METHOD_ORDER`. The eight of the paper differ in lightness by at least 7 CIELAB units and stay
# apart under the three colour-vision deficiencies; baselines carry hatches as well.
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
# For methods that others register. The numbers of colours and marks share no divisor, so every pair comes up.
_SPARE_COLOURS = ("#00a0b0", "#b35900", "#d61c8c", "#7a9e00", "#305070")
_SPARE_MARKERS = ("$\u2663$", "$\u2660$", "$\u25ca$", "$\u266b$")
RETRAIN = METHOD_STYLES["Retrain"].colour
NO_METHOD = MethodStyle("#999999", ".", "")  # a control, such as a network without training

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
CHANCE = {"auc": 0.5, "probe_auc": 0.5, "balanced_accuracy": 0.5, "probe_balanced_accuracy": 0.5}
_ARROWS = {"higher": "\u2191 better", "lower": "\u2193 better", "retrain": "ideal: Retrain's value"}


def method_style(method: str) -> MethodStyle:
    """Return the fixed colour, marker and hatch of a method; one that others registered gets a spare, by its name.

    Raises:
        ValueError: names the methods there are and the nearest one.
    """
    if method in METHOD_STYLES:
        return METHOD_STYLES[method]
    if method not in (known := known_methods(method)):
        raise ValueError(f"method {method!r} has no style: {choices(method, known)}")
    number = zlib.crc32(method.encode())
    colour, marker = _SPARE_COLOURS[number % len(_SPARE_COLOURS)], _SPARE_MARKERS[number % len(_SPARE_MARKERS)]
    return MethodStyle(colour, marker, "*")


def model_style(model: str) -> MethodStyle:
    """Return the style of a method, and the same grey for whatever else was measured beside them."""
    return method_style(model) if model in known_methods(model) else NO_METHOD


def mark(model: str, reading: str = "-", *, edge: float = 0.3, alpha: float = 1.0) -> dict:
    """Return the marker of a model as arguments of `plot`: open for the reading as printed, half for the random one."""
    style = model_style(model)
    if style.marker in "123":  # these have no face: their edge is all there is
        return {"marker": style.marker, "color": style.colour, "mec": style.colour, "mew": 1.5}
    look = {"marker": style.marker, "color": style.colour, "mec": "k", "mew": edge}
    look["markerfacecolor"] = to_rgba(style.colour, alpha)
    if reading in ("printed", "random"):
        look |= {"mec": style.colour, "mew": 1.2, "fillstyle": "none" if reading == "printed" else "left"}
    return look


def bar_look(method: str, reading: str) -> dict:
    """Return a bar's arguments: the method's colour, paler for the reading as printed, hollow for the random one."""
    style = method_style(method)
    look = {"facecolor": style.colour, "edgecolor": "0.15", "linewidth": 0.8, "hatch": style.hatch}
    if reading == "printed":
        pale = tuple(0.45 * channel + 0.55 for channel in to_rgb(style.colour))
        look.update(facecolor=pale, hatch="////", edgecolor=style.colour)
    elif reading == "random":
        look.update(facecolor="white", hatch="", edgecolor=style.colour, linestyle="--", linewidth=1.4)
    return look


def arrow(better: str) -> str:
    """Return the mark of the better side of an axis: "higher", "lower" or "retrain" (Retrain's value is the ideal).

    Raises:
        ValueError: another word.

    Example:
        >>> arrow("higher")
        '↑ better'
    """
    if better not in _ARROWS:
        raise ValueError(f"better is {better!r}: {choices(better, _ARROWS)}")
    return _ARROWS[better]
