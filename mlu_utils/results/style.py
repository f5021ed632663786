"""How methods and metrics look: a fixed colour and marker a method, and the words on the axes."""

import zlib
from dataclasses import dataclass

from matplotlib.colors import to_rgba

from mlu_utils.naming import choices
from mlu_utils.results.scores import known_methods


@dataclass(frozen=True)
class MethodStyle:
    """How one method looks in every figure; either of the two tells it from its neighbours."""

    colour: str
    marker: str


# Names as in `scores.METHOD_ORDER`. The eight of the paper differ in lightness by at least 7 CIELAB units and stay
# apart (by 6) under the three colour-vision deficiencies; all have markers of their own.
METHOD_STYLES: dict[str, MethodStyle] = {
    "Original": MethodStyle("#111111", "o"),
    "Retrain": MethodStyle("#787878", "D"),
    "WF": MethodStyle("#0b5ea6", "s"),
    "WP": MethodStyle("#f08c1e", "^"),
    "CF-k": MethodStyle("#a9dcf5", "v"),
    "SCRUB": MethodStyle("#5a1460", "P"),
    "UNSIR": MethodStyle("#1a9c7c", "X"),
    "SalUn": MethodStyle("#eea5c8", "<"),
    "FT": MethodStyle("#cfc544", ">"),
    "NegGrad": MethodStyle("#a3262a", "p"),
    "AdvNegGrad": MethodStyle("#e2646c", "h"),
    "SSD": MethodStyle("#4b3fae", "*"),
    "LAF": MethodStyle("#8a6a35", "d"),
    "EssentialGraph": MethodStyle("#2f5d24", "8"),
    "WF-Net": MethodStyle("#a08de0", "H"),
    "EU-k": MethodStyle("#c2e6c6", "1"),
    "HeadReset": MethodStyle("#6fb04a", "2"),
    "Random control": MethodStyle("#dcdcdc", "."),
}
# For methods that others register. The numbers of colours and marks share no divisor, so every pair comes up.
_SPARE_COLOURS = ("#00a0b0", "#b35900", "#d61c8c", "#7a9e00", "#305070")
_SPARE_MARKERS = ("$\u2663$", "$\u2660$", "$\u25ca$", "$\u266b$")
RETRAIN = METHOD_STYLES["Retrain"].colour
NO_METHOD = MethodStyle("#999999", ".")  # a control, such as a network without training

# Where the words of a metric are not those of its name.
METRIC_DISPLAY = {
    "recall": "Positive recall",
    "auc": "AUC of the logit",
    "flip_safe_accuracy": "Flip-safe accuracy",
    "probe_auc": "Probe AUC",
    "seconds": "Time",
    "speedup": "Speed-up over Retrain",
}


def method_style(method: str) -> MethodStyle:
    """Return the fixed colour and marker of a method; one that others registered gets a spare, by its name."""
    if method in METHOD_STYLES:
        return METHOD_STYLES[method]
    if method not in (known := known_methods(method)):
        raise ValueError(f"method {method!r} has no style: {choices(method, known)}")
    number = zlib.crc32(method.encode())
    colour, marker = _SPARE_COLOURS[number % len(_SPARE_COLOURS)], _SPARE_MARKERS[number % len(_SPARE_MARKERS)]
    return MethodStyle(colour, marker)


def model_style(model: str) -> MethodStyle:
    """Return the style of a method, and the same grey for whatever else was measured beside them."""
    return method_style(model) if model in known_methods(model) else NO_METHOD


def mark(model: str, reading: str = "-", *, edge: float = 0.3, alpha: float = 1.0) -> dict:
    """Return the marker of a model as arguments of `plot`.

    Open for the reading as printed, its left half for the random one, its upper half where the last layer is spared.
    """
    style = model_style(model)
    if style.marker in "123":  # these have no face: their edge is all there is
        return {"marker": style.marker, "color": style.colour, "mec": style.colour, "mew": 1.5}
    look = {"marker": style.marker, "color": style.colour, "mec": "k", "mew": edge}
    look["markerfacecolor"] = to_rgba(style.colour, alpha)
    fills = {"printed": "none", "random": "left", "trunk": "top"}
    if reading in fills:
        look |= {"mec": style.colour, "mew": 1.2, "fillstyle": fills[reading]}
    return look
