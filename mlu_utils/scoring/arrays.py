"""The door of every score: checked arrays, or an error that names the one at fault. Letters: see `checked`."""

import numpy as np
from numpy.typing import ArrayLike

_DTYPES = {"bool": ("b", "a boolean mask"), "whole": ("iu", "integers")}
_DIVERGED = "infinite: if a model has diverged, score its last good state"
_VALUES = {
    "real": (np.isfinite, f"nan or {_DIVERGED}"),
    "partial": (lambda a: ~np.isinf(a), _DIVERGED),
    "label": (lambda a: np.isnan(a) | (a == 0) | (a == 1), "neither 1, 0 nor nan (unknown)"),
}
# Which classes a score needs; the others are defined as soon as one label is known.
NEEDS = {"balanced_accuracy": (0, 1), "recall": (1,), "false_positive_rate": (0,), "auc": (0, 1)}


def checked(**arrays: tuple) -> list[np.ndarray | None]:
    """The arrays in the order given, real numbers as float64, or a ValueError if they are not as stated.

    Each is name=(values, shape, kind); values None stay None. A shape is a letter (n images, K labels, C classes, d
    features, S models: one number within a call) or number an axis, "n K", none empty. Kinds: "real" (finite, the
    default), "partial" (finite or nan = unknown), "label" (1, 0 or nan = unknown), "whole" (integers), "bool".

    >>> checked(logits=([[1, 2]], "n K"), forgotten=([True, False], "K", "bool"))
    [array([[1., 2.]]), array([ True, False])]
    """
    found, sizes, fits = {}, {}, True
    for name, (values, shape, *kind) in arrays.items():
        if values is None:
            continue
        kind, axes = kind[0] if kind else "real", shape.split()
        a = np.asarray(values, dtype=None if kind in _DTYPES else np.float64)
        if kind in _DTYPES and a.size and a.dtype.kind not in _DTYPES[kind][0]:
            raise ValueError(f"{name} has dtype {a.dtype}: expected {_DTYPES[kind][1]}")
        fits = fits and a.ndim == len(axes) and a.size > 0
        for axis, size in zip(axes, a.shape, strict=False):
            fits &= size == (int(axis) if axis.isdigit() else sizes.setdefault(axis, size))
        found[name] = a, f"({', '.join(axes)}{',' * (len(axes) == 1)})", kind
    if not fits:
        shapes = " and ".join(f"{name} {a.shape}" for name, (a, _, _) in found.items())
        raise ValueError(f"{shapes}: expected {' and '.join(shape for _, shape, _ in found.values())}, none empty")
    for name, (a, _, kind) in found.items():
        if kind in _VALUES and (bad := ~_VALUES[kind][0](a)).any():
            where = tuple(np.argwhere(bad)[0].tolist())
            what = f"{_VALUES[kind][1]}; the first is {a[where]:g} at index {where}"
            raise ValueError(f"{bad.sum()} of {a.size} {name} are {what}")
    return [found[name][0] if name in found else None for name in arrays]


def known_entries(logits: ArrayLike, labels: ArrayLike, score: str) -> tuple[np.ndarray, np.ndarray]:
    """Checked logits and boolean labels of the entries whose label is known, (m,) each, with all that a score needs."""
    logits, labels = checked(logits=(logits, "n"), labels=(labels, "n", "label"))
    is_known = ~np.isnan(labels)
    if not is_known.any():
        raise ValueError(f"none of the {labels.size} labels is known (all nan): nothing to score")
    positive = labels[is_known] == 1
    for value in NEEDS.get(score, ()):
        if not (positive == value).any():
            raise ValueError(f"{score} needs an entry labelled {value}, but all {positive.size} are {1 - value}")
    return logits[is_known], positive


def known_classes(logits: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Checked logits (n, C), C >= 2, and classes (n,) in 0 .. C - 1."""
    logits, labels = checked(logits=(logits, "n C"), classes=(labels, "n", "whole"))
    last = logits.shape[1] - 1
    if last < 1 or labels.min() < 0 or labels.max() > last:
        raise ValueError(f"classes span {labels.min()}..{labels.max()}: expected 0..{last}, at least two classes")
    return logits, labels


def model_sets(phi: ArrayLike, reference_phi: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Checked confidences (S, n) and (R, n) of two sets of at least two models each."""
    phi, reference_phi = checked(confidences=(phi, "S n"), reference_confidences=(reference_phi, "R n"))
    if min(len(phi), len(reference_phi)) < 2:
        raise ValueError(f"{len(phi)} and {len(reference_phi)} models: expected at least two models of a kind")
    return phi, reference_phi


def refuse_shared(what: str, given: ArrayLike, others: ArrayLike, remedy: str) -> None:
    """Refuse, with a ValueError, numbers of at least 0 (rows, people) that occur in both arrays."""
    shared = np.intersect1d(given, others)
    shared = shared[shared >= 0]
    if shared.size:
        raise ValueError(f"{shared.size} {what}, the first {shared[:5].tolist()}: {remedy}")
