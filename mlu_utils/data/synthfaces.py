"""Procedural face pictures with ten CelebA attributes: any number of people and images, any size.

Labels come from a Gaussian copula with CelebA-HQ's shares and correlations. A face is a set of traits, each a linear
function of labels, of factors that a person keeps and of factors that change with every picture; `draw_faces` paints
them as soft masks, back to front. Attributes share regions and traits of the face, so that a label can't be read off
one pixel. All these numbers are in `data/synthfaces.yaml`.

Shapes: N images, K = 10 labels, `size` pixels a side. Face coordinates: u to the right, v downwards, a face about 1
wide and 1.2 high around the origin. Random numbers come from the CPU; only painting uses the device.
"""

from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral, Real
from types import SimpleNamespace

import numpy as np
import torch
import yaml
from scipy.optimize import brentq
from scipy.stats import multivariate_normal, norm

from mlu_utils import paths
from mlu_utils.data.splits import stratified_split
from mlu_utils.data.table import ImageTable

_MADE_OF = yaml.safe_load((paths.DATA / "synthfaces.yaml").read_text(encoding="utf-8"))
SHARES, TRAITS, COLOURS = (_MADE_OF[name] for name in ("shares", "traits", "colours"))
PHI = {(a, b): phi for a, b, phi in _MADE_OF["phi"]}
LABEL_NAMES = tuple(SHARES)
IDENTITY_FACTORS, NUISANCE_FACTORS = (tuple(_MADE_OF[f"{name}_factors"]) for name in ("identity", "nuisance"))
MAX_STRENGTH = 1.5
MAX_LATENT = 0.97  # a latent correlation of 1 would make the copula singular
MIN_SIZE, MAX_SIZE = 16, 1024  # pixels
SPLIT_SEED = 42
# Half-ranges of the pose: shift in image half-widths, roll in radians, zoom as a factor, yaw as the parallax of the
# features in face units.
SHIFT, ROLL, ZOOM, YAW = 0.05, 0.10, 0.06, TRAITS["yaw"][1]["yaw"]
FACE_SCALE = 1.12  # image half-widths per face unit
GREYING = 0.75  # share of grey in the hair of an old person; brown hair keeps more of its colour
PIXELS_PER_CHUNK = {"cpu": 2**17, "cuda": 2**23}  # on the CPU a chunk's masks stay in the cache


def _check(name: str, value: float, low: float, high: float, fix: str, *, whole: bool = True) -> float:
    """Return the number as an int or float if it lies in the range."""
    if isinstance(value, bool) or not isinstance(value, Integral if whole else Real) or not low <= value <= high:
        kind = "whole number" if whole else "number"
        raise ValueError(f"{name} must be a {kind} from {low} to {high}, got {value!r}: {fix}")
    return int(value) if whole else float(value)


def _latent_correlation(share_a: float, share_b: float, phi: float) -> float:
    """Return the correlation of two standard normals, within +-`MAX_LATENT`, that gives `phi` once thresholded."""

    def excess(latent: float) -> float:
        both = multivariate_normal.cdf(norm.ppf([share_a, share_b]), cov=[[1.0, latent], [latent, 1.0]])
        return (both - share_a * share_b) / np.sqrt(share_a * share_b * (1 - share_a) * (1 - share_b)) - phi

    if not excess(-MAX_LATENT) < 0 < excess(MAX_LATENT):
        return float(np.copysign(MAX_LATENT, phi))
    return brentq(excess, -MAX_LATENT, MAX_LATENT, xtol=1e-6)


@lru_cache(maxsize=16)
def _copula_factor(strength: float) -> np.ndarray:
    """Return a (K, K) factor F with F F' the copula's correlation matrix, negative eigenvalues set to 0."""
    latent = np.eye(len(LABEL_NAMES))
    for (a, b), phi in PHI.items():
        i, j = LABEL_NAMES.index(a), LABEL_NAMES.index(b)
        latent[i, j] = latent[j, i] = _latent_correlation(SHARES[a], SHARES[b], strength * phi)
    values, vectors = np.linalg.eigh(latent)
    factor = vectors * np.sqrt(values.clip(min=0))
    return factor / np.linalg.norm(factor, axis=1, keepdims=True)


def sample_attributes(num_rows: int, *, correlation_strength: float = 1.0, seed: int) -> torch.Tensor:
    """Draw attribute labels with CelebA-HQ's shares and correlations, float32 (num_rows, 10) of 0 and 1.

    Exactly round(share * num_rows) rows of each column are 1, those with the largest latent normals: at least one and
    at most num_rows - 1 when there are two or more. `correlation_strength`, in [0, 1.5], is a factor on the phi
    coefficients `PHI`; 0 = independent.

    Source: Emrich & Piedmonte 1991 (thresholded normals); Rousseeuw & Molenberghs 1993 (eigenvalues set to 0).
    Differs: thresholds are the sample's own quantiles, so that a small table has every label in both classes.
    """
    num_rows = _check("num_rows", num_rows, 1, 2**31, "ask for at least one person")
    strength = _check("correlation_strength", correlation_strength, 0, MAX_STRENGTH, "0 = independent", whole=False)
    generator = torch.Generator().manual_seed(_check("seed", seed, 0, 2**63 - 1, "try 42"))
    factor = torch.from_numpy(_copula_factor(strength))
    latent = torch.randn(num_rows, len(LABEL_NAMES), generator=generator, dtype=torch.float64) @ factor.T
    labels = torch.zeros(num_rows, len(LABEL_NAMES))
    order = latent.argsort(dim=0, descending=True)
    fewest, most = (1, num_rows - 1) if num_rows > 1 else (0, 1)
    for column, share in enumerate(SHARES.values()):
        ones = min(max(round(share * num_rows), fewest), most)
        labels[order[:ones, column], column] = 1.0
    return labels


@dataclass
class _Canvas:
    """An image batch `rgb` (n, 3, h, w) and the face coordinates of its pixels, each (n, h, w)."""

    rgb: torch.Tensor
    u: torch.Tensor
    v: torch.Tensor
    pixel: float  # a pixel's side in face units: the width of an antialiased edge

    def paint(self, mask: torch.Tensor, colour: torch.Tensor) -> None:
        """Blend `colour` (n, 3, 1, 1) in where `mask` (n, h, w) is above 0."""
        self.rgb.lerp_(colour, mask.unsqueeze(1))

    def shade(self, mask: torch.Tensor) -> None:
        """Darken (mask < 0) or brighten (mask > 0) by the factor 1 + mask."""
        self.rgb.mul_((1 + mask).unsqueeze(1))

    def edge(self, distance: torch.Tensor) -> torch.Tensor:
        """Return the coverage, in [0, 1], by a shape whose border is `distance` away, > 0 inside."""
        return (distance / self.pixel).add_(0.5).clamp_(0, 1)

    def ellipse(self, u: torch.Tensor, v: torch.Tensor, width, height, softness: float = 0.0) -> torch.Tensor:
        """Return the coverage by the ellipse of those half-axes; `softness` in (0, 1] blurs its border."""
        inside = 1 - (u / width).square_() - (v / height).square_()
        return (inside.mul_(0.5 / softness) if softness else self.edge(inside * (0.5 * height))).clamp_(0, 1)

    def window(self, half_width: float, top: float, bottom: float) -> "_Canvas":
        """Return the part that holds |u| < half_width, top < v < bottom in every pose: less to paint."""
        size, reach = self.rgb.shape[-1], half_width + 2 * YAW
        small, large = FACE_SCALE * (1 - ZOOM) * np.cos(ROLL), FACE_SCALE * (1 + ZOOM)
        tilt = SHIFT + large * ROLL * reach
        edges = min(small * top, large * top) - tilt, max(small * bottom, large * bottom) + tilt
        first, last = (int((edge + 1) / 2 * size) for edge in edges)
        side = SHIFT + large * (reach + ROLL * max(-top, bottom))
        left = max(int((1 - side) / 2 * size) - 1, 0)
        box = (..., slice(max(first - 1, 0), last + 2), slice(left, size - left))
        return _Canvas(self.rgb[box], self.u[box].contiguous(), self.v[box].contiguous(), self.pixel)


def _ramp(position: torch.Tensor, stops: list) -> torch.Tensor:
    """Return the colours (n, 3) at `position` (n,) in [-1, 1] of a piecewise linear colour ramp."""
    colours = torch.tensor(stops, device=position.device)
    steps = torch.arange(len(stops), device=position.device)
    nearness = 1 - ((position[:, None] + 1) / 2 * (len(stops) - 1) - steps).abs()
    return nearness.clamp(min=0) @ colours


def _hair_colour(brown: torch.Tensor, grey: torch.Tensor, tone: torch.Tensor, shade: torch.Tensor):
    """Return (n, 3): brown or another colour, turned grey by age, lighter or darker by `shade`."""
    brown, grey = brown[:, None], grey.clamp(0, 1)[:, None] * GREYING
    others = torch.tensor(COLOURS["other_hair"], device=tone.device)
    other = others[((tone + 1) / 2 * len(others)).long().clamp(max=len(others) - 1)]
    colour = brown * tone.new_tensor(COLOURS["brown"]) + (1 - brown) * other
    colour = torch.lerp(colour, tone.new_tensor(COLOURS["grey"]).expand_as(colour), grey * (1 - 0.7 * brown))
    return colour * (1 + 0.18 * shade[:, None])


def _traits(labels: torch.Tensor, identity: torch.Tensor, nuisance: torch.Tensor) -> SimpleNamespace:
    """Return each trait (n, 1, 1), colour (n, 3, 1, 1) and pose factor that the painter reads."""
    names, columns = LABEL_NAMES + IDENTITY_FACTORS + NUISANCE_FACTORS, (labels, identity, nuisance)
    inputs = dict(zip(names, torch.cat(columns, 1).T, strict=True))
    traits = {
        name: base + sum(amount * inputs[source] for source, amount in effects.items())
        for name, (base, effects) in TRAITS.items()
    }
    skin = _ramp(inputs["skin"], COLOURS["skin"])
    red = traits["lip_colour"].clamp(0, 1)[:, None]
    lip = (1 - red) * 0.82 * skin + red * skin.new_tensor(COLOURS["lip"])
    colours = {
        "skin": skin,
        "lip": lip * (0.65 + 0.35 * skin.mean(1, keepdim=True)),
        "eyes": _ramp(inputs["eye_colour"], COLOURS["eyes"]),
        "hair": _hair_colour(traits["brown"], traits["age"], inputs["hair_tone"], inputs["hair_shade"]),
        "back": 0.5 + 0.27 * torch.stack([inputs[f"back_{c}"] for c in ("red", "green", "blue")], 1),
        "clothes": 0.42 + 0.30 * torch.stack([inputs[f"clothes_{c}"] for c in ("red", "green", "blue")], 1),
        "dark": skin.new_tensor(COLOURS["dark"]).expand_as(skin),
        "white": torch.full_like(skin, 0.95),
    }
    colours["brow"] = colours["hair"] * 0.62
    scalars = {name: value[:, None, None] for name, value in (inputs | traits).items()}
    colours = {f"{name}_rgb": colour[:, :, None, None] for name, colour in colours.items()}
    return SimpleNamespace(**scalars, **colours)


def _body(c: _Canvas, t: SimpleNamespace) -> None:
    """Shoulders in clothes, neck with the shadow of the head, and the fold under a double chin."""
    c.paint(c.ellipse(c.u, c.v - 1.28, 0.55 + 0.9 * t.neck, 0.46), t.clothes_rgb)
    chin = 0.04 + t.face_length
    neck = c.edge(t.neck - c.u.abs() + (c.v - 0.7).clamp_(min=0) * 0.4)
    c.paint(neck * c.edge(c.v - 0.3) * c.edge(0.98 - c.v), t.skin_rgb * 0.80)
    fold = t.chin_fold.clamp(0, 1)
    lobe = c.ellipse(c.u, c.v - chin + 0.07, t.face_width * 0.90, 0.06 + 0.21 * fold) * fold
    c.paint(lobe, t.skin_rgb)


def _head(c: _Canvas, t: SimpleNamespace) -> torch.Tensor:
    """Ears, the shaded head, an ellipse squarer at the jaw, and the crease above a double chin; return its mask."""
    ear = c.ellipse(c.u.abs() - t.face_width, c.v - 0.02, 0.07, 0.13)
    c.paint(ear, t.skin_rgb * 0.86)
    below, above = (c.v - 0.04).clamp_(min=0) / t.face_length, (c.v - 0.04).clamp_(max=0) / 0.64
    u2, below2 = (c.u / t.face_width * (1 + t.taper * below)).square_(), below.square()
    # 1 on the outline. The last term makes the squircle of Fernandez-Guasti (1992): 1 would be a square.
    outline = u2 + below2 + above.square_() - t.jaw.clamp(0, 1) * u2.clamp(max=1) * below2.clamp(max=1)
    head = c.edge((1 - outline) * 0.27)
    c.paint(head, t.skin_rgb * 1.03)
    # Roundness: skin turns away from the light towards the outline.
    c.shade(head * (-0.24 * outline.square_() + t.light_u * c.u - 0.05))
    crease = c.ellipse(c.u, c.v - 0.03 - t.face_length, t.face_width * 0.75, 0.075, 0.8)
    c.shade(crease * (-0.65 * t.chin_fold.clamp(0, 1)))
    return head


def _skin(c: _Canvas, t: SimpleNamespace) -> None:
    """Blush on the cheeks; for the old, lines on the forehead, beside the mouth and under the eyes."""
    u, v, age = (c.u - t.yaw * 0.8), c.v, t.age.clamp(0, 1)
    m = u.abs()
    cheek = c.ellipse(m - 0.29, v - 0.17, 0.16, 0.13, 1.0)
    c.paint(cheek * (t.blush * 0.5), t.lip_rgb)
    line = 0.45 * c.pixel + 0.006
    wave = v + 0.25 * u.square()
    forehead = sum(c.edge(line - (wave + height).abs_()) for height in (0.40, 0.33)) * c.edge(0.24 - m)
    laugh = c.edge(line - (m - 0.13 - 0.55 * (v - 0.16)).abs_() * 0.88) * c.edge(0.12 - (v - 0.26).abs_())
    e = m - t.eye_spacing
    bag = c.ellipse(e, v - 0.075, 0.12, 0.055, 0.6) - c.ellipse(e, v - 0.03, 0.13, 0.06)
    c.shade((forehead * -0.26 + laugh * -0.30 + bag.clamp_(min=0) * -0.40) * age)


def _eyes(c: _Canvas, t: SimpleNamespace) -> None:
    """Lashes, white, iris, pupil and glint; both at once by mirroring."""
    u, v = c.u - t.yaw, c.v + 0.055
    side = u.sign()
    m = u.abs() - t.eye_spacing
    c.shade(c.ellipse(m, v, 0.17, 0.12, 1.0) * -0.16)
    lash_width, lash_height = t.eye_width + 0.6 * t.lashes, t.eye_height + 0.2 * t.lashes
    c.paint(c.ellipse(m - 0.2 * t.lashes, v + t.lashes, lash_width, lash_height), t.dark_rgb)
    white = c.ellipse(m, v, t.eye_width, t.eye_height)
    c.paint(white, t.white_rgb)
    iris = m - side * t.gaze
    c.paint(c.ellipse(iris, v, 0.056, 0.056) * white, t.eyes_rgb)
    c.paint(c.ellipse(iris, v, 0.028, 0.028) * white, t.dark_rgb)
    c.paint(c.ellipse(iris - 0.02 * side, v + 0.022, 0.016, 0.016) * white, t.white_rgb)


def _brows(c: _Canvas, t: SimpleNamespace) -> None:
    """A band that thins outwards; an arched one peaks over the outer half of the eye."""
    m = (c.u - t.yaw).abs_() - t.eye_spacing
    along = m / 0.145
    middle = c.v + t.brow_height + t.brow_arch * (1.1 - (along - 0.2).square_())
    weight = t.brow_weight * (1.15 - 0.35 * along)
    c.paint(c.edge(weight - middle.abs_()) * c.edge(0.145 - m.abs()), t.brow_rgb)


def _nose(c: _Canvas, t: SimpleNamespace) -> None:
    """Bridge and wings as light and shadow; pointed: a narrow V, round: a broad U with nostrils."""
    u = c.u - t.yaw * 1.4
    m, v, point = u.abs(), c.v, t.nose_point.clamp(0, 1)
    down = ((v + 0.12) / (t.nose_tip + 0.12)).clamp_(0, 1)
    body = c.edge(t.nose_width * (0.25 + 0.75 * down) - m) * c.edge(t.nose_tip - v) * c.edge(v + 0.12)
    lit = 1 - 2 * (t.light_u < 0).to(u.dtype)
    shadow = (0.02 + 0.27 * point) * (1 + c.edge(-lit * u)) * down
    c.shade(body * (0.34 * point * c.edge(0.016 - m) - shadow))
    bulb = c.ellipse(u, v - t.nose_tip + 0.055, t.nose_width, 0.085, 0.8) * (1 - point)
    c.paint(bulb * 0.30, t.lip_rgb * 1.15)
    across = (m / t.nose_width).clamp_(max=1.2)
    under = t.nose_tip - torch.lerp(0.03 * across.square(), 0.13 * across, point) - v
    line = c.edge(0.016 - under.abs_()) * c.edge(t.nose_width - m)
    nostril = c.ellipse(m - 0.48 * t.nose_width, v - t.nose_tip + 0.022, 0.048, 0.032) * (1 - point)
    c.paint(line * 0.65 + nostril * 0.6 * (1 - line), t.skin_rgb * 0.42)


def _mouth(c: _Canvas, t: SimpleNamespace) -> None:
    """Upper lip with its bow, lower lip with a highlight, and teeth when open."""
    u = c.u - t.yaw
    across = (u / t.mouth_width).square_()
    bow = (1 - across).clamp_(min=0)
    v = c.v - t.mouth_height + t.smile * (across - 0.5)
    gap = t.mouth_open.clamp(min=0) * bow
    upper = t.lip_upper * bow.sqrt() * (1 - 0.25 * c.ellipse(u, v, 0.05, 0.3, 1.0))
    lower = t.lip_lower * bow.sqrt()
    inside = c.edge(t.mouth_width - u.abs())
    c.paint(c.edge(v + gap + upper) * c.edge(gap + lower - v) * inside, t.lip_rgb)
    c.shade(c.ellipse(u, v - gap - 0.5 * t.lip_lower, 0.09, 0.4 * t.lip_lower, 1.0) * 0.18)
    c.paint(c.edge(gap + 0.004 - v.abs()) * inside * 0.9, t.lip_rgb * 0.35)
    c.paint(c.edge(gap - 0.006 - v.abs()) * inside * (t.mouth_open > 0), t.white_rgb)
    c.shade(c.ellipse(u, v - 0.10, 0.13, 0.03, 1.0) * -0.12)


def _beard(c: _Canvas, t: SimpleNamespace, head: torch.Tensor) -> None:
    """Jaw, chin and moustache, under the mouth; from stubble to full."""
    u = c.u - 0.5 * t.yaw
    clear = c.ellipse(u, c.v - 0.04, t.face_width * 0.86, 0.38, 0.35)
    clear += c.ellipse(u, c.v - t.mouth_height, 0.13, 0.05, 0.8)
    moustache = c.ellipse(u, c.v - t.mouth_height + 0.075, 0.17, 0.05, 0.5)
    jaw = (1 - clear).clamp_(min=0) * (6 * c.v - 0.6).clamp_(0, 1)
    grain = 1 - 0.10 * (95 * c.u + 30 * c.v).sin_() * (80 * c.v).sin_()
    c.paint(head * torch.maximum(jaw, moustache) * grain * t.beard.clamp(0, 0.95), t.hair_rgb * 0.68)


def _hair_back(c: _Canvas, t: SimpleNamespace) -> None:
    """Hair behind head and shoulders: long hair hangs down to them, a bald head keeps a fringe."""
    y = (c.v + 0.12).clamp_(min=0) / t.hair_length.clamp(min=0.2) + (c.v + 0.12).clamp_(max=0) / 0.62
    fall = c.ellipse(c.u, y, t.face_width + t.hair_volume, 1.0)
    fringe = c.ellipse(c.u.abs() - t.face_width + 0.03, c.v + 0.06, 0.085, 0.20)
    c.paint(torch.lerp(fringe, fall, t.hair_cover), t.hair_rgb * 0.78)


def _hair_front(c: _Canvas, t: SimpleNamespace) -> None:
    """Hair over the head, cut out by the face; a bald head shines."""
    width = t.face_width + 0.5 * t.hair_volume
    cap = c.ellipse(c.u, c.v + 0.10, width + 0.02, 0.60 + 0.5 * t.hair_volume)
    opening = c.ellipse(c.u - t.parting, c.v - 0.12, t.face_width * 0.98, 0.56)
    sides = c.edge(t.hair_length * 0.75 - 0.25 - c.v)
    flow = (c.u - t.parting) / (1.0 + 0.6 * c.v)  # strands fan out from the parting
    strands = 0.07 * (57 * flow).sin() + 0.06 * (31 * flow).sin()
    strands += 0.20 * c.ellipse(c.u - 0.5 * t.light_u, c.v + 0.54, 0.42, 0.10, 1.0)
    hair = cap * (1 - opening) * sides * t.hair_cover
    c.paint(hair, t.hair_rgb)
    c.shade(hair * strands)
    c.shade(c.ellipse(c.u - 0.6 * t.light_u, c.v + 0.42, 0.24, 0.10, 1.0) * (0.30 * (1 - t.hair_cover)))


def _paint_faces(t: SimpleNamespace, size: int) -> torch.Tensor:
    """Return float (n, 3, size, size) images, painted from the back to the front in the frame of the posed face."""
    centres = (torch.arange(size, device=t.yaw.device) + 0.5) * (2 / size) - 1
    across, down = centres[None, None, :], centres[None, :, None]
    x, y, scale = across - SHIFT * t.shift_u, down - SHIFT * t.shift_v, FACE_SCALE * (1 + ZOOM * t.zoom)
    cos, sin = (ROLL * t.roll).cos(), (ROLL * t.roll).sin()
    back = t.back_rgb * (1 + 0.3 * t.back_fade * (down + 0.5 * across)).unsqueeze(1)
    c = _Canvas(back, (cos * x + sin * y) / scale, (cos * y - sin * x) / scale, 2 / size / FACE_SCALE)
    _hair_back(c, t)
    _body(c, t)
    head = _head(c, t)
    _skin(c, t)
    _beard(c, t, head)
    _nose(c.window(0.24, -0.15, 0.34), t)
    _mouth(c.window(0.28, 0.18, 0.63), t)
    _hair_front(c, t)
    _eyes(c.window(0.42, -0.2, 0.1), t)
    _brows(c.window(0.42, -0.48, -0.04), t)
    c.rgb.mul_((t.gain + t.light_v * c.v).unsqueeze(1))
    c.rgb[:, 0] *= 1 + t.warmth
    c.rgb[:, 2] *= 1 - t.warmth
    return c.rgb


def draw_factors(num_people: int, num_images: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the factors that each person keeps, (num_people, 25), and those of each image, (num_images, 21)."""
    sizes = (num_people, len(IDENTITY_FACTORS)), (num_images, len(NUISANCE_FACTORS))
    return tuple(2 * torch.rand(size, generator=generator) - 1 for size in sizes)


def draw_faces(
    labels: torch.Tensor,
    identity_factors: torch.Tensor,
    nuisance: torch.Tensor,
    *,
    size: int = 64,
    device: str | torch.device = "cpu",
) -> torch.Tensor:
    """Paint one face a row, uint8 (N, 3, size, size) on the device; equal rows give equal bytes on one type of device.

    Columns are those of `LABEL_NAMES` in [0, 1], `IDENTITY_FACTORS` and `NUISANCE_FACTORS` in [-1, 1]; the size, in
    pixels, is 16 to 1024.
    """
    size = _check("size", size, MIN_SIZE, MAX_SIZE, "64 shows every attribute")
    for name, table, columns, low in (
        ("labels", labels, LABEL_NAMES, 0),
        ("identity_factors", identity_factors, IDENTITY_FACTORS, -1),
        ("nuisance", nuisance, NUISANCE_FACTORS, -1),
    ):
        expected, found = (len(labels), len(columns)), tuple(table.shape)
        if found != expected:
            raise ValueError(f"{name} must be {expected}, got {found}: one row an image, columns {', '.join(columns)}")
        if not ((table >= low) & (table <= 1)).all():
            raise ValueError(f"{name} must lie in [{low}, 1], got {table.min():g} to {table.max():g}: clip it")
    images = torch.empty(len(labels), 3, size, size, dtype=torch.uint8, device=device)
    rows = max(1, PIXELS_PER_CHUNK.get(images.device.type, 2**23) // size**2)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on masks that fit the cache, sharing the work costs more than it saves
    try:
        for first in range(0, len(labels), rows):
            chunk = slice(first, first + rows)
            parts = (table[chunk].to(device, torch.float32) for table in (labels, identity_factors, nuisance))
            painted = _paint_faces(_traits(*parts), size)
            images[chunk] = painted.mul_(255).round_().clamp_(0, 255)
    finally:
        torch.set_num_threads(num_threads)
    return images


def load(
    *,
    num_images: int = 3000,
    num_people: int | None = None,
    size: int = 64,
    correlation_strength: float = 1.0,
    seed: int = 42,
    device: str | torch.device = "cpu",
) -> ImageTable:
    """Return faces of `num_people` people, image n of person n mod `num_people`, split 65/25/10 by image.

    A person keeps attributes and identity factors; pose, light, expression, background and clothes change.

    Args:
        num_images, num_people: at least an image a person, and 2 people; default: a fifth of the images.
        size: height and width in pixels, 16 to 1024.
        correlation_strength, seed: see `sample_attributes`; the split has a seed of its own.
        device: where to paint; the table is on the CPU.
    """
    if num_people is None:
        num_people = max(2, num_images // 5)
    num_people = _check("num_people", num_people, 2, 2**31, "try 600")
    num_images = _check("num_images", num_images, num_people, 2**31, "give each person one or more")
    size = _check("size", size, MIN_SIZE, MAX_SIZE, "64 shows every attribute")
    person_labels = sample_attributes(num_people, correlation_strength=correlation_strength, seed=seed)
    # A stream apart from the labels', so that a person looks alike whatever the correlations.
    generator = torch.Generator().manual_seed((seed + 2**32) % 2**63)
    person_factors, nuisance = draw_factors(num_people, num_images, generator)
    identity = torch.arange(num_images) % num_people
    labels = person_labels[identity]
    split = stratified_split(labels, seed=SPLIT_SEED, label_names=LABEL_NAMES)  # may refuse: before painting
    images = draw_faces(labels, person_factors[identity], nuisance, size=size, device=device).cpu()
    source = (
        f"synthfaces({num_images=}, {num_people=}, {size=}, {correlation_strength=:g}, {seed=}, "
        f"device={torch.device(device).type!r})"
    )
    return ImageTable(images, labels, LABEL_NAMES, identity, split, source)
