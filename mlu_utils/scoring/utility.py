"""How well labels are predicted: the numbers of the paper's Tables 2 to 5, and whether an inverted label still leaks.

The scores in `SCORES` take finite logits (n,) and labels (n,), 1, 0 or nan = unknown, dropped, and return a number in
[0, 1], or a ValueError if a class that they need is missing. A label is predicted where its logit is above 0.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp
from scipy.stats import rankdata

from mlu_utils.scoring.arrays import NEEDS, checked, known_classes, known_entries

# The scores whose mean over labels means something when base rates differ from label to label.
MEAN_SCORES = ("accuracy", "balanced_accuracy", "auc")
_NAN = float("nan")


def accuracy(logits: ArrayLike, labels: ArrayLike) -> float:
    """Share of known entries whose prediction equals the label; of a forgotten label read `flip_safe_accuracy`."""
    logits, positive = known_entries(logits, labels, "accuracy")
    return float(np.mean((logits > 0) == positive))


def recall(logits: ArrayLike, labels: ArrayLike) -> float:
    """Share of the label's true positives that are predicted; of a forgotten label compare with Retrain's."""
    logits, positive = known_entries(logits, labels, "recall")
    return float(np.mean(logits[positive] > 0))


def false_positive_rate(logits: ArrayLike, labels: ArrayLike) -> float:
    """Share of the label's true negatives that are predicted positive."""
    logits, positive = known_entries(logits, labels, "false_positive_rate")
    return float(np.mean(logits[~positive] > 0))


def balanced_accuracy(logits: ArrayLike, labels: ArrayLike) -> float:
    """Mean of recall and true negative rate: one half for any constant prediction, whatever the base rate."""
    known_entries(logits, labels, "balanced_accuracy")
    return (recall(logits, labels) + 1.0 - false_positive_rate(logits, labels)) / 2.0


def auc(logits: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve: P(logit of a positive > logit of a negative), ties counting one half.

    Source: Hanley and McNeil (1982), mid-ranks; sklearn's AUC takes logits that differ by a rounding error for equal.

    >>> auc([0.1, 0.4, 0.4, 0.8], [0, 0, 1, 1])
    0.875
    """
    logits, positive = known_entries(logits, labels, "auc")
    n_1 = int(positive.sum())
    n_0 = positive.size - n_1
    rank_sum = rankdata(logits)[positive].sum()
    return float((rank_sum - n_1 * (n_1 + 1) / 2) / (n_1 * n_0))


def flip_safe_accuracy(logits: ArrayLike, labels: ArrayLike) -> float:
    """Accuracy max(a, 1 - a) of whoever may read the prediction backwards; compare with Retrain's, see the AUC."""
    value = accuracy(logits, labels)
    return max(value, 1.0 - value)


_SCORES = (accuracy, balanced_accuracy, recall, false_positive_rate, auc, flip_safe_accuracy)
SCORES: dict[str, Callable[[ArrayLike, ArrayLike], float]] = {score.__name__: score for score in _SCORES}


def binary_scores(logits: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Every score in `SCORES` of one label, (n,) each; nan for a score that lacks a class it needs."""
    present = {value for value in (0, 1) if np.any(np.asarray(labels) == value)}
    return {
        name: score(logits, labels) if present and present.issuperset(NEEDS.get(name, ())) else _NAN
        for name, score in SCORES.items()
    }


def label_scores(logits: ArrayLike, labels: ArrayLike, label_names: Sequence[str], forgotten: ArrayLike) -> list[dict]:
    """Every score of every label, and the means over what was retained and what was forgotten.

    Logits and labels are (n, K), forgotten bool, (K,) for whole labels or (n, K) for entries. Records {"label",
    "metric", "value"}: each score over all known entries of a label; where these are forgotten in part, also of either
    part, as `forgotten_<score>` and `retained_<score>`; then, as labels "retained" and "forgotten", the means over
    labels of `MEAN_SCORES` on such entries. A score that lacks a class is nan and left out of the means.
    """
    request = forgotten, "K" if np.ndim(forgotten) == 1 else "n K", "bool"
    logits, labels, mask = checked(logits=(logits, "n K"), labels=(labels, "n K", "label"), forgotten=request)
    names = _names(label_names, logits.shape[1], "labels")
    mask = np.broadcast_to(mask, logits.shape)
    known, records = ~np.isnan(labels), []
    parts: dict[str, list[dict[str, float]]] = {"retained": [], "forgotten": []}
    for k, name in enumerate(names):
        records += _records(name, binary_scores(logits[:, k], labels[:, k]))
        split = {"forgotten": known[:, k] & mask[:, k], "retained": known[:, k] & ~mask[:, k]}
        is_partial = all(part.any() for part in split.values())
        for part_name, part in split.items():
            if part.any():
                scores = binary_scores(logits[part, k], labels[part, k])
                parts[part_name].append(scores)
                if is_partial:
                    records += _records(name, scores, f"{part_name}_")
    for part_name, columns in parts.items():
        for metric in MEAN_SCORES if columns else ():
            values = [scores[metric] for scores in columns if not np.isnan(scores[metric])]
            records += _records(part_name, {metric: float(np.mean(values)) if values else _NAN})
    return records


def class_scores(
    logits: ArrayLike, labels: ArrayLike, class_names: Sequence[str], forgotten_mask: ArrayLike
) -> list[dict]:
    """Scores of a single-label classifier: retained and forgotten images, and each class against the rest.

    A class is predicted where its logit exceeds all others; a tie predicts nothing. Logits are (n, C), labels integers
    (n,) in [0, C). Records as in `label_scores`: of a class recall, false_positive_rate, balanced_accuracy, auc (of
    `class_margins`), nan without images of it or of the rest; of "retained" and "forgotten" accuracy, if there are any.
    """
    logits, labels = known_classes(logits, labels)
    mask, _ = checked(forgotten_mask=(forgotten_mask, "n", "bool"), classes=(labels, "n", "whole"))
    names = _names(class_names, logits.shape[1], "classes")
    is_tie = (logits == logits.max(axis=1, keepdims=True)).sum(axis=1) > 1
    predicted = np.where(is_tie, -1, logits.argmax(axis=1))
    margins, records = class_margins(logits), []
    for c, name in enumerate(names):
        scores = binary_scores(np.where(predicted == c, 1.0, -1.0), labels == c)
        scores["auc"] = binary_scores(margins[:, c], labels == c)["auc"]
        wanted = ("recall", "false_positive_rate", "balanced_accuracy", "auc")
        records += _records(name, {metric: scores[metric] for metric in wanted})
    for part_name, part in (("retained", ~mask), ("forgotten", mask)):
        if part.any():
            records += _records(part_name, {"accuracy": float(np.mean(predicted[part] == labels[part]))})
    return records


def class_margins(logits: ArrayLike) -> np.ndarray:
    """Log-odds of each class against the rest under the softmax, (n, C): z_c - log sum over i != c of exp z_i."""
    (logits,) = checked(logits=(logits, "n C"))
    rest = [logsumexp(np.delete(logits, c, axis=1), axis=1) for c in range(logits.shape[1])]
    return logits - np.stack(rest, axis=1)


def reassign_removed_class(
    labels: ArrayLike, removed: int, positions: ArrayLike, values: ArrayLike | None = None
) -> np.ndarray:
    """The labels (n,) of ordered classes, every image of the removed class moved to the nearest class that is left.

    `positions` (C,) say where a class lies, such as an age group's middle in years, `values` (n,) where an image lies,
    by default at its class. Of two classes equally near the lower one. Source: Hossain et al. (2025), section 7.1
    (Table 3), "distance-based heuristic" over age groups, without a formula.
    """
    labels, positions, values = checked(labels=(labels, "n", "whole"), positions=(positions, "C"), values=(values, "n"))
    classes = np.arange(len(positions))
    if len(classes) < 2 or removed not in classes or not np.isin(labels, classes).all():
        what = f"labels span {labels.min()}..{labels.max()}, the removed class is {removed}"
        raise ValueError(f"{what}: expected 0..{len(classes) - 1}, at least two classes")
    left = np.delete(classes, removed)
    values = positions[labels] if values is None else values
    return np.where(labels == removed, left[np.abs(values[:, None] - positions[left]).argmin(1)], labels)


def _names(names: Sequence[str], count: int, what: str) -> tuple[str, ...]:
    names = tuple(names)
    if len(names) != count:
        raise ValueError(f"{len(names)} names for {count} {what}: {names}")
    if reserved := sorted({"retained", "forgotten"} & set(names)):
        raise ValueError(f"{reserved[0]!r} is reserved for the means over {what}: rename it")
    return names


def _records(label: str, values: dict[str, float], prefix: str = "") -> list[dict]:
    return [{"label": label, "metric": f"{prefix}{name}", "value": value} for name, value in values.items()]
