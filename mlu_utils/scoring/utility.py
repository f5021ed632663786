"""How well labels are predicted: accuracy, recall, false positive rate, AUC and their flip-safe reading.

Purpose: the numbers of the paper's Tables 2-5, and those that tell a forgotten label from an inverted one.
Must not: touch models, files or randomness; every function is a pure function of its arrays.

Shapes used throughout: n images, K labels, C classes. `logits` are real numbers of any float type;
`labels` of a binary label are 1, 0 or nan, and nan means unknown: such entries are dropped.

Prediction rule: label predicted <=> logit > 0, strictly. A logit of exactly 0 is a probability of one half,
carries no information, and so predicts nothing: it counts neither as a true nor as a false positive.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp
from scipy.stats import rankdata


def accuracy(logits: ArrayLike, labels: ArrayLike) -> float:
    """Share of known entries whose prediction equals the label.

    Args:
        logits: (n,), finite; positive means the label is predicted.
        labels: (n,), 1, 0 or nan = unknown; at least one known.

    Returns:
        In [0, 1]; higher is better on a retained label. On a forgotten label read `flip_safe_accuracy`.

    Raises:
        ValueError: wrong shapes, a logit that is nan or infinite, a label outside {0, 1, nan}, no known
            label.

    Example:
        >>> accuracy([2.0, -1.0, 0.0, 3.0], [1, 0, 1, float("nan")])
        0.6666666666666666
    """
    logits, positive = known_scores(logits, labels)
    return float(np.mean((logits > 0) == positive))


def recall(logits: ArrayLike, labels: ArrayLike) -> float:
    """Positive recall: share of true positives of the label that are still predicted.

    Args:
        logits: (n,), finite.
        labels: (n,), 1, 0 or nan; at least one 1.

    Returns:
        In [0, 1]; on a forgotten label compare with the retrained model's value.

    Raises:
        ValueError: as `accuracy`, or no entry is labelled 1.

    Example:
        >>> recall([2.0, -1.0, 0.0, -3.0], [1, 1, 1, 0])
        0.3333333333333333
    """
    logits, positive = known_scores(logits, labels, needs=(1,), score="recall")
    return float(np.mean(logits[positive] > 0))


def false_positive_rate(logits: ArrayLike, labels: ArrayLike) -> float:
    """Share of the label's true negatives that are predicted positive.

    Args:
        logits: (n,), finite.
        labels: (n,), 1, 0 or nan; at least one 0.

    Returns:
        In [0, 1]; lower is better on a retained label.

    Raises:
        ValueError: as `accuracy`, or no entry is labelled 0.

    Example:
        >>> false_positive_rate([2.0, -1.0, 0.0, -3.0], [0, 0, 0, 1])
        0.3333333333333333
    """
    logits, positive = known_scores(logits, labels, needs=(0,), score="false_positive_rate")
    return float(np.mean(logits[~positive] > 0))


def balanced_accuracy(logits: ArrayLike, labels: ArrayLike) -> float:
    """Mean of recall and true negative rate: one half for any constant prediction, whatever the base rate.

    Args:
        logits: (n,), finite.
        labels: (n,), 1, 0 or nan; both classes present.

    Returns:
        In [0, 1]; higher is better on a retained label.

    Raises:
        ValueError: as `accuracy`, or one class is missing.

    Example:
        >>> balanced_accuracy([1.0, 1.0, 1.0, 1.0], [1, 1, 1, 0])
        0.5
    """
    known_scores(logits, labels, needs=(0, 1), score="balanced_accuracy")
    return (recall(logits, labels) + 1.0 - false_positive_rate(logits, labels)) / 2.0


def auc(logits: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve: P(logit of a positive > logit of a negative), ties counting one half.

    The Mann-Whitney statistic from mid-ranks: (R_1 - n_1 (n_1 + 1) / 2) / (n_1 n_0), R_1 the positives' rank
    sum.

    Args:
        logits: (n,), finite; only their order matters.
        labels: (n,), 1, 0 or nan; both classes present.

    Returns:
        In [0, 1]; exactly .5 for a constant logit; below .5 the ranking is inverted and leaks just as much.

    Raises:
        ValueError: as `accuracy`, or one class is missing.

    Source:
        Hanley and McNeil (1982); equals `sklearn.metrics.roc_auc_score`.

    Example:
        >>> auc([0.1, 0.4, 0.4, 0.8], [0, 0, 1, 1])
        0.875
    """
    logits, positive = known_scores(logits, labels, needs=(0, 1), score="auc")
    n_1 = int(positive.sum())
    n_0 = positive.size - n_1
    rank_sum = rankdata(logits)[positive].sum()
    return float((rank_sum - n_1 * (n_1 + 1) / 2) / (n_1 * n_0))


def flip_safe_accuracy(logits: ArrayLike, labels: ArrayLike) -> float:
    """Accuracy max(a, 1 - a) of whoever may read the prediction backwards.

    A head with accuracy .0011 on a forgotten label has not forgotten it: negated it is right 99.89 % of the
    time.

    Args:
        logits: (n,), finite.
        labels: (n,), 1, 0 or nan; at least one known.

    Returns:
        In [.5, 1]; on a forgotten label lower is better, and the share of the commoner class, not .5, is what
        a head without information reaches: read it beside the retrained model's value and the AUC.

    Raises:
        ValueError: as `accuracy`.

    Example:
        >>> flip_safe_accuracy([-2.0, -1.0, 3.0], [1, 1, 0])
        1.0
    """
    value = accuracy(logits, labels)
    return max(value, 1.0 - value)


SCORES: dict[str, Callable[[ArrayLike, ArrayLike], float]] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "recall": recall,
    "false_positive_rate": false_positive_rate,
    "auc": auc,
    "flip_safe_accuracy": flip_safe_accuracy,
}

# Which classes a score needs; the rest are defined as soon as one label is known.
_NEEDS = {"balanced_accuracy": (0, 1), "recall": (1,), "false_positive_rate": (0,), "auc": (0, 1)}

# The scores whose mean over labels means something when base rates differ from label to label.
_MEAN_SCORES = ("accuracy", "balanced_accuracy", "auc")


def binary_scores(logits: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Every score in `SCORES` of one binary label.

    Args:
        logits: (n,), finite.
        labels: (n,), 1, 0 or nan; both classes present.

    Returns:
        Score name -> value in [0, 1].

    Raises:
        ValueError: as `accuracy`, or one class is missing.

    Example:
        >>> binary_scores([1.0, -1.0], [1, 0])["auc"]
        1.0
    """
    return {name: score(logits, labels) for name, score in SCORES.items()}


def label_scores(
    logits: ArrayLike, labels: ArrayLike, label_names: Sequence[str], forgotten: ArrayLike
) -> list[dict[str, str | float]]:
    """Every score of every label, and the means over what was retained and what was forgotten.

    With F the forgotten entries, acc_k(S) the accuracy of label k over its known entries in S:
    retained accuracy = mean over the labels k with known entries outside F of acc_k(not F). When F is whole
    columns (the paper's requests) this is the mean over retained labels of their accuracy.

    Args:
        logits: (n, K), finite.
        labels: (n, K), 1, 0 or nan.
        label_names: K names.
        forgotten: bool, (K,) for whole labels, or (n, K), True = this entry had to be forgotten; all False
            for the Original model's plain scores.

    Returns:
        Rows {"label", "metric", "value"}, in label order:
        - label k: each score in `SCORES` over all its known entries;
        - label k, if some of its known entries are forgotten and some are not: the same scores over either
          part, as `forgotten_<score>` and `retained_<score>`;
        - "retained": accuracy, balanced_accuracy, auc, averaged over labels on the retained entries;
        - "forgotten": the same on the forgotten entries.
        A score that lacks a class (no bald person in the split) is nan and is left out of those means; a mean
        over nothing is nan.

    Raises:
        ValueError: wrong shapes or types, non-finite logits, labels outside {0, 1, nan}, a label called
            "retained" or "forgotten".

    Example:
        >>> logits, labels = [[1.0, -1.0], [-1.0, -1.0]], [[1, 1], [0, 0]]
        >>> rows = label_scores(logits, labels, ["Male", "Young"], [True, False])
        >>> [row["value"] for row in rows if row["label"] == "retained" and row["metric"] == "accuracy"]
        [0.5]
    """
    logits, labels = label_table(logits, labels)
    n, num_labels = logits.shape
    names = _names(label_names, num_labels, "labels")
    mask = _bool(forgotten, "forgotten")
    if mask.shape not in ((num_labels,), (n, num_labels)):
        raise ValueError(
            f"forgotten has shape {mask.shape}: expected ({num_labels},), one per label, or {(n, num_labels)}"
        )
    mask = np.broadcast_to(mask, (n, num_labels))

    rows: list[dict[str, str | float]] = []
    parts: dict[str, list[dict[str, float]]] = {"retained": [], "forgotten": []}
    known = ~np.isnan(labels)
    for k, name in enumerate(names):
        for metric, value in _defined_scores(logits[:, k], labels[:, k]).items():
            rows.append(_row(name, metric, value))
        split = {"forgotten": known[:, k] & mask[:, k], "retained": known[:, k] & ~mask[:, k]}
        is_partial = all(part.any() for part in split.values())
        for part_name, part in split.items():
            if not part.any():
                continue
            scores = _defined_scores(logits[part, k], labels[part, k])
            parts[part_name].append(scores)
            if is_partial:
                rows += [_row(name, f"{part_name}_{metric}", value) for metric, value in scores.items()]
    for part_name, columns in parts.items():
        if columns:
            for metric in _MEAN_SCORES:
                values = [scores[metric] for scores in columns if not np.isnan(scores[metric])]
                rows.append(_row(part_name, metric, float(np.mean(values)) if values else float("nan")))
    return rows


def class_scores(
    logits: ArrayLike, labels: ArrayLike, class_names: Sequence[str], forgotten_mask: ArrayLike
) -> list[dict[str, str | float]]:
    """Scores of a single-label classifier: retained and forgotten rows, and each class against the rest.

    A class is predicted where its logit exceeds every other; a tie for the first place predicts nothing.
    AUC of class c ranks rows by its margin m_c = z_c - log sum_{i != c} exp z_i, the log-odds of its softmax.

    Args:
        logits: (n, C), finite, C >= 2.
        labels: (n,), integers in [0, C).
        class_names: C names.
        forgotten_mask: bool (n,), True = this row had to be forgotten.

    Returns:
        Rows {"label", "metric", "value"}: per class recall, false_positive_rate, balanced_accuracy and auc,
        nan where the rows of the class or of the rest are missing; "retained" and "forgotten": accuracy, each
        only if it has rows. For a forgotten class, accuracy on its rows is its recall.

    Raises:
        ValueError: wrong shapes or types, non-finite logits, class out of range.

    Example:
        >>> rows = class_scores([[2.0, 0.0], [3.0, 1.0]], [0, 1], ["car", "truck"], [False, True])
        >>> [row["value"] for row in rows if row["label"] == "forgotten"]
        [0.0]
    """
    logits, labels = known_classes(logits, labels)
    names = _names(class_names, logits.shape[1], "classes")
    mask = _bool(forgotten_mask, "forgotten_mask")
    if mask.shape != labels.shape:
        raise ValueError(f"forgotten_mask has shape {mask.shape}: expected {labels.shape}")

    top = logits.max(axis=1)
    is_tie = (logits == top[:, None]).sum(axis=1) > 1
    predicted = np.where(is_tie, -1, logits.argmax(axis=1))
    margins = class_margins(logits)
    nan = float("nan")
    rows: list[dict[str, str | float]] = []
    for c, name in enumerate(names):
        positive = labels == c
        hit = predicted == c
        recall_c = float(hit[positive].mean()) if positive.any() else nan
        false_c = float(hit[~positive].mean()) if (~positive).any() else nan
        has_both = positive.any() and (~positive).any()
        rows += [
            _row(name, "recall", recall_c),
            _row(name, "false_positive_rate", false_c),
            _row(name, "balanced_accuracy", (recall_c + 1.0 - false_c) / 2.0),
            _row(name, "auc", auc(margins[:, c], positive) if has_both else nan),
        ]
    for part_name, part in (("retained", ~mask), ("forgotten", mask)):
        if part.any():
            rows.append(_row(part_name, "accuracy", float(np.mean(predicted[part] == labels[part]))))
    return rows


def class_margins(logits: ArrayLike) -> np.ndarray:
    """Log-odds of each class against the rest under the softmax, (n, C): z_c - log sum over i != c of exp z_i.

    Example:
        >>> class_margins([[2.0, 0.0]])
        array([[ 2., -2.]])
    """
    logits = logit_table(logits)
    rest = [logsumexp(np.delete(logits, c, axis=1), axis=1) for c in range(logits.shape[1])]
    return logits - np.stack(rest, axis=1)


def logit_table(logits: ArrayLike) -> np.ndarray:
    """Checked float64 logits (n, number of outputs).

    Raises:
        ValueError: another number of dimensions, empty, or not finite.
    """
    logits = np.asarray(logits, dtype=np.float64)
    if logits.ndim != 2 or not logits.size:
        raise ValueError(f"logits have shape {logits.shape}: expected (n, number of outputs)")
    check_finite(logits)
    return logits


def known_classes(logits: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Checked float64 logits (n, C) and integer classes (n,)."""
    logits, labels = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if logits.ndim != 2 or logits.shape[1] < 2 or labels.shape != logits.shape[:1] or not len(labels):
        raise ValueError(
            f"logits {logits.shape} and labels {labels.shape}: expected (n, C) and (n,), n >= 1 and C >= 2"
        )
    check_finite(logits)
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"class labels have dtype {labels.dtype}: expected integers")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(f"class labels span {labels.min()}..{labels.max()}: expected 0..{logits.shape[1] - 1}")
    return logits, labels


def known_scores(
    logits: ArrayLike, labels: ArrayLike, needs: tuple[int, ...] = (), score: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """Checked float64 logits and boolean labels of the known entries, both (m,) with m >= 1."""
    logits = np.asarray(logits, dtype=np.float64)
    labels = np.asarray(labels, dtype=np.float64)
    if logits.ndim != 1 or logits.shape != labels.shape:
        raise ValueError(f"logits {logits.shape} and labels {labels.shape}: expected two arrays of one shape (n,)")
    check_finite(logits)
    _check_binary(labels)
    is_known = ~np.isnan(labels)
    if not is_known.any():
        raise ValueError(f"none of the {labels.size} labels is known (all nan): nothing to score")
    positive = labels[is_known] == 1
    missing = [value for value in needs if not (positive == value).any()]
    if missing:
        raise ValueError(
            f"{score} needs an entry labelled {missing[0]}, but all {positive.size} known labels are {1 - missing[0]}"
        )
    return logits[is_known], positive


def label_table(logits: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Checked float64 logits and labels, both (n, K), labels 1, 0 or nan."""
    logits = np.asarray(logits, dtype=np.float64)
    labels = np.asarray(labels, dtype=np.float64)
    if logits.ndim != 2 or logits.shape != labels.shape:
        raise ValueError(f"logits {logits.shape} and labels {labels.shape}: expected two arrays of one shape (n, K)")
    check_finite(logits)
    _check_binary(labels)
    return logits, labels


def check_finite(values: np.ndarray, what: str = "logits") -> None:
    """Refuse nan and infinity.

    Raises:
        ValueError: says how many of `what` are bad, and where the first is.
    """
    bad = ~np.isfinite(values)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"{int(bad.sum())} of {values.size} {what} are nan or infinite, the first at index {where}: "
            "the model has diverged; score its last good state instead"
        )


def _check_binary(labels: np.ndarray) -> None:
    bad = ~(np.isnan(labels) | (labels == 0) | (labels == 1))
    if bad.any():
        raise ValueError(f"label {labels[bad][0]:g} found: expected 1, 0 or nan (unknown)")


def _bool(mask: ArrayLike, name: str) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.dtype != bool:
        # An index list such as [3] would otherwise pass for a mask.
        raise ValueError(f"{name} has dtype {mask.dtype}: expected a boolean mask")
    return mask


def _names(names: Sequence[str], count: int, what: str) -> tuple[str, ...]:
    names = tuple(names)
    if len(names) != count:
        raise ValueError(f"{len(names)} names for {count} {what}: {names}")
    reserved = sorted({"retained", "forgotten"} & set(names))
    if reserved:
        raise ValueError(f"{reserved[0]!r} is reserved for the means over {what}: rename it")
    return names


def _defined_scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """`binary_scores`, with nan for a score that lacks the class it needs."""
    present = {value for value in (0, 1) if (labels == value).any()}
    return {
        name: score(logits, labels) if present and present.issuperset(_NEEDS.get(name, ())) else float("nan")
        for name, score in SCORES.items()
    }


def _row(label: str, metric: str, value: float) -> dict[str, str | float]:
    return {"label": label, "metric": metric, "value": value}
