"""Attribute inference: how much an attacker learns about a forgotten label, in which inputs, and beyond Retrain.

Purpose: scores with intervals, the excess over the retrained model, controls (permuted labels, retained labels only).
Must not: extract features; every input of an attack (logits, features of a block) is an array.

Shapes: n rows, d features, K labels. `scores` (n,) finite, higher = the attacker believes in label 1, 0 is its
threshold; `labels` (n,) 1, 0 or nan = unknown, dropped; `identity` int (n,), -1 = unknown.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mlu_utils.scoring.bootstrap import (
    LEVEL,
    NUM_RESAMPLES,
    bootstrap,
    folded_auc,
    people,
    sorted_rows,
    weighted_auc,
    with_intervals,
)
from mlu_utils.scoring.probe import ATTACKERS, attack_logits
from mlu_utils.scoring.utility import known_scores

LEAK_METRICS = ("accuracy", "balanced_accuracy", "auc")


def split_by_identity(
    identity: ArrayLike, *, labels: ArrayLike | None = None, fit_share: float = 0.5, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows to fit an attacker on and rows to test it on, without a person in common; both ascending.

    Args:
        identity: int (n,); rows of unknown people (-1) are dealt one by one.
        labels: (n,), 1, 0 or nan; when given, people with a 1 and people without are dealt out separately, so that
            both parts get their share of a rare label.
        fit_share: share of the people to fit on, in (0, 1).
        seed: decides who goes where.

    Raises:
        ValueError: fit_share outside (0, 1), or one part would be empty.

    Example:
        >>> fit, test = split_by_identity(np.array([0, 0, 1, 1, 2, 2, 3, 3]), seed=0)
        >>> len(fit), len(test)
        (4, 4)
    """
    if not 0 < fit_share < 1:
        raise ValueError(f"fit_share must lie in (0, 1), got {fit_share}")
    person = people(identity, len(np.asarray(identity)))
    names, index = np.unique(person, return_inverse=True)
    has_label = np.zeros(len(names), dtype=bool)
    if labels is not None:
        has_label[index[np.asarray(labels, dtype=np.float64) == 1]] = True
    rng = np.random.default_rng(seed)
    is_fit = np.zeros(len(names), dtype=bool)
    for group in (np.flatnonzero(has_label), np.flatnonzero(~has_label)):
        is_fit[rng.permutation(group)[: round(fit_share * len(group))]] = True
    if is_fit.all() or not is_fit.any():
        raise ValueError(f"{len(names)} people cannot be split with fit_share {fit_share}: one part would be empty")
    return np.flatnonzero(is_fit[index]), np.flatnonzero(~is_fit[index])


def refuse_shared_people(identity_fit: ArrayLike, identity_eval: ArrayLike) -> None:
    """Refuse rows to fit and rows to test that have a known person in common.

    Raises:
        ValueError: names the first shared people.
    """
    shared = np.intersect1d(identity_fit, identity_eval)
    shared = shared[shared >= 0]
    if shared.size:
        raise ValueError(
            f"{shared.size} people occur among the rows to fit and to test, the first {shared[:5].tolist()}: "
            "the attacker would recognise faces; split the rows with split_by_identity"
        )


def permuted_labels(labels: ArrayLike, *, identity: ArrayLike | None = None, seed: int) -> np.ndarray:
    """Labels that say nothing about their row: the control that shows what an attacker finds by chance.

    Permute the rows to fit and the rows to test, with different seeds. Against true test labels a chance direction
    that lies along the label would read as an AUC far from one half.

    Args:
        labels: (n,), 1, 0 or nan; unknown ones stay where they are.
        identity: int (n,); when given, people swap their labels and not images, so that a label that is constant
            within a person stays so, and the control is as uncertain as the attack.
        seed: of the permutation.

    Returns:
        (n,) float64. Without identities the known values are the same in another order; with them a person with
        more images than its partner repeats the partner's labels.

    Source:
        Control tasks: Hewitt and Liang (2019), Designing and Interpreting Probes.

    Example:
        >>> sorted(permuted_labels([1, 0, 0, 1], seed=0).tolist())
        [0.0, 0.0, 1.0, 1.0]
    """
    labels = np.array(labels, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(labels))
    rng = np.random.default_rng(seed)
    if identity is None:
        labels[known] = labels[rng.permutation(known)]
        return labels
    person = people(identity, len(labels))[known]
    rows = [known[person == name] for name in np.unique(person)]
    result = labels.copy()
    for mine, partner in zip(rows, rng.permutation(len(rows)), strict=True):
        result[mine] = np.resize(labels[rows[partner]], len(mine))
    return result


def retained_label_inputs(labels: ArrayLike, forgotten: int) -> np.ndarray:
    """The true labels other than the forgotten one as input of an attack, (n, 2 (K - 1)).

    What is read out of these is correlation between labels: no unlearning can remove it from anyone who knows the
    retained labels.

    Args:
        labels: (n, K), 1, 0 or nan.
        forgotten: column of the label that the attacker wants.

    Returns:
        For each retained label +1, -1 or 0 = unknown, then 1 where it is known and 0 where not.

    Example:
        >>> retained_label_inputs([[1, 0, np.nan]], 1)
        array([[1., 0., 1., 0.]])
    """
    labels = np.asarray(labels, dtype=np.float64)
    if labels.ndim != 2 or not -labels.shape[1] <= forgotten < labels.shape[1]:
        raise ValueError(f"labels {labels.shape} have no column {forgotten}: expected (n, K) and a column below K")
    retained = np.delete(labels, forgotten, axis=1)
    known = ~np.isnan(retained)
    return np.concatenate([np.where(known, 2 * np.nan_to_num(retained) - 1, 0.0), known], axis=1)


def attribute_leak(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    identity: ArrayLike | None = None,
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
    level: float = LEVEL,
) -> dict[str, float]:
    """What scores tell about a label, with bootstrap intervals; an inverted score leaks in full.

    `leak_auc` = max(AUC, 1 - AUC): whoever may read the score backwards. Its interval is the AUC's, folded at one
    half, so that an interval around one half keeps .5 as its lower end.

    Args:
        scores: (n,), finite: `attack_logits`, or the model's own logit of the label.
        labels: (n,), 1, 0 or nan; both classes present.
        identity: int (n,); when given, people are resampled and not images, which is right whenever a person has
            several images.
        seed: of the resampling.
        num_resamples: number of resamples.
        level: coverage of the intervals.

    Returns:
        accuracy, balanced_accuracy, auc and leak_auc, each with `_low` and `_high`; num_images, num_people.

    Raises:
        ValueError: as `utility.auc`; a class that occurs in too few people for an interval.

    Source:
        Percentile bootstrap (Efron, 1979).

    Example:
        >>> leak = attribute_leak([-3.0, -2.0, -1.0, 1.0, 2.0, 3.0], [1, 1, 1, 0, 0, 0], seed=0)
        >>> leak["auc"], leak["leak_auc"]
        (0.0, 1.0)
    """
    scores, positive, identity = _rows([scores], labels, identity)
    samples = bootstrap(
        lambda weights: _leak_metrics(scores[0], positive, weights),
        len(positive),
        identity=identity,
        seed=seed,
        num_resamples=num_resamples,
    )
    values = _leak_metrics(scores[0], positive, np.ones((1, len(positive))))[0]
    result = with_intervals(LEAK_METRICS, values, samples, level=level)
    num_people = len(positive) if identity is None else len(np.unique(people(identity, len(positive))))
    return result | folded_auc(result) | {"num_images": len(positive), "num_people": num_people}


def excess_leak(
    scores: ArrayLike,
    reference_scores: ArrayLike,
    labels: ArrayLike,
    *,
    is_two_sided: bool = True,
    identity: ArrayLike | None = None,
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
    level: float = LEVEL,
) -> dict[str, float]:
    """How much more scores tell about a label than the reference's scores on the same rows: AUC minus AUC.

    The interval is paired: both AUCs are taken on the same resample.

    Args:
        scores: (n,), finite, of the unlearned model.
        reference_scores: (n,), finite, of the retrained model, on the same rows in the same order.
        labels: (n,), 1, 0 or nan; both classes present.
        is_two_sided: read each score in the direction in which its AUC on all rows is at least one half, so that an
            inverted head counts as a leak: right for a model's own logit. A trained attacker has chosen its direction
            on other rows; False takes its AUC as it is.
        identity: int (n,), see `attribute_leak`.
        seed: of the resampling.
        num_resamples: number of resamples.
        level: coverage of the interval.

    Returns:
        excess_auc in [-.5, .5] (one-sided: [-1, 1]), `_low`, `_high`; 0 = as much as Retrain, below 0 = less.

    Raises:
        ValueError: as `attribute_leak`.

    Example:
        >>> excess_leak([3.0, 2.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0], [1, 1, 0, 0], seed=0)["excess_auc"]
        0.5
    """
    both, positive, identity = _rows([scores, reference_scores], labels, identity)
    ones = np.ones((1, len(positive)))
    aucs = [weighted_auc(s, ones * positive, ones * ~positive)[0] for s in both]
    signs = [-1.0 if is_two_sided and auc < 0.5 else 1.0 for auc in aucs]

    def difference(weights: np.ndarray) -> np.ndarray:
        aucs = [
            weighted_auc(sign * s, weights * positive, weights * ~positive) for sign, s in zip(signs, both, strict=True)
        ]
        return (aucs[0] - aucs[1])[:, None]

    samples = bootstrap(difference, len(positive), identity=identity, seed=seed, num_resamples=num_resamples)
    return with_intervals(("excess_auc",), difference(ones)[0], samples, level=level)


def attack_table(
    models: Mapping[str, Mapping[str, tuple[ArrayLike, ArrayLike]]],
    labels_fit: ArrayLike,
    labels_eval: ArrayLike,
    *,
    reference: str | None = "Retrain",
    attackers: Sequence[str] = tuple(ATTACKERS),
    is_permuted: bool = False,
    identity_fit: ArrayLike | None = None,
    identity_eval: ArrayLike | None = None,
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
    level: float = LEVEL,
) -> pd.DataFrame:
    """Attack every input of every model with every attacker, on the same rows and people.

    Args:
        models: model -> input -> (features of the rows to fit (n, d), of the rows to test (m, d)). Inputs are named
            by the caller: "all logits", "retained logits", "penultimate", a block. A random network is one more
            model, the retained labels are one more input (`retained_label_inputs`).
        labels_fit: (n,), 1, 0 or nan.
        labels_eval: (m,), likewise.
        reference: the model whose AUC on the same input and attacker is subtracted, or None.
        attackers: names in `probe.ATTACKERS`.
        is_permuted: control: the labels to fit and to test are permuted first (by person, where identities are
            given); every AUC should then be near one half.
        identity_fit: int (n,); both or neither of the identities.
        identity_eval: int (m,), nobody of whom may occur in identity_fit.
        seed: of attackers, permutations and resampling.
        num_resamples: of the intervals.
        level: coverage of the intervals.

    Returns:
        One row per model, input and attacker: model, input, attacker, is_permuted, the columns of `attribute_leak`,
        and those of `excess_leak`, nan where the reference has no such input.

    Raises:
        ValueError: shared people, identities of one side only, unknown reference or attacker; as `attack_logits`.

    Source:
        Protocol of probing frozen features; leakage due to failed unlearning = AUC minus the retrained model's AUC.

    Differs:
        `leak_auc` lets the labels of the rows to test choose the direction in which a score is read: on few rows this
        favours the attacker. `auc` and the excess are free of it, since the attackers are trained.
    """
    if (identity_fit is None) != (identity_eval is None):
        raise ValueError("identity_fit and identity_eval belong together: give both or neither")
    if identity_fit is not None:
        refuse_shared_people(identity_fit, identity_eval)
    if reference is not None and reference not in models:
        raise ValueError(f"reference {reference!r} is not among the models {', '.join(models)}: name one, or pass None")
    if is_permuted:
        labels_fit = permuted_labels(labels_fit, identity=identity_fit, seed=seed)
        labels_eval = permuted_labels(labels_eval, identity=identity_eval, seed=seed + 1)
    scores = {
        (model, name, attacker): attack_logits(fit, labels_fit, test, attacker=attacker, seed=seed)
        for model, inputs in models.items()
        for name, (fit, test) in inputs.items()
        for attacker in attackers
    }
    options = {"identity": identity_eval, "seed": seed, "num_resamples": num_resamples, "level": level}
    rows = []
    for (model, name, attacker), own in scores.items():
        row = {"model": model, "input": name, "attacker": attacker, "is_permuted": is_permuted}
        row |= attribute_leak(own, labels_eval, **options)
        if (reference, name, attacker) in scores:
            row |= excess_leak(own, scores[reference, name, attacker], labels_eval, is_two_sided=False, **options)
        rows.append(row)
    columns = ["excess_auc", "excess_auc_low", "excess_auc_high"]
    table = pd.DataFrame(rows)
    return table.reindex(columns=[*table.columns.drop(columns, errors="ignore"), *columns])


def _rows(
    scores: Sequence[ArrayLike], labels: ArrayLike, identity: ArrayLike | None
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray | None]:
    """Checked scores, boolean labels and identities of the known rows, in an order that depends on content only."""
    checked = [known_scores(s, labels, needs=(0, 1), score="an attack") for s in scores]
    positive = checked[0][1]
    known = ~np.isnan(np.asarray(labels, dtype=np.float64))
    if identity is not None:
        identity = np.asarray(identity)
        if identity.shape != known.shape:
            raise ValueError(f"identity has shape {identity.shape}: expected {known.shape}, one person a row")
        identity = identity[known]
    order = sorted_rows(*(s for s, _ in checked), positive, identity)
    return [s[order] for s, _ in checked], positive[order], None if identity is None else identity[order]


def _leak_metrics(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`LEAK_METRICS` under each row of weights, (B, 3); nan where a class is missing."""
    positive_weights, negative_weights = weights * positive, weights * ~positive
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = positive_weights @ (scores > 0) / positive_weights.sum(axis=1)
        specificity = negative_weights @ ~(scores > 0) / negative_weights.sum(axis=1)
    accuracy = weights @ ((scores > 0) == positive) / weights.sum(axis=1)
    auc_values = weighted_auc(scores, positive_weights, negative_weights)
    return np.stack([accuracy, (recall + specificity) / 2, auc_values], axis=1)
