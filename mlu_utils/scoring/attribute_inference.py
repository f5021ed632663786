"""Attribute inference: how much an attacker learns about a forgotten label, from which input, and beyond Retrain.

Shapes: n rows, d features, K labels. `scores` (n,) finite, higher = the attacker believes in label 1, 0 is its
threshold; `labels` (n,) 1, 0 or nan = unknown, dropped, both classes present. `identity`, seed and draws are those of
`bootstrap`: people are drawn where they are given. What breaks this is refused with a ValueError.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mlu_utils.naming import require_choice
from mlu_utils.scoring import bootstrap as boot
from mlu_utils.scoring.arrays import checked, known_entries, refuse_shared
from mlu_utils.scoring.probe import ATTACKERS, attack_logits


def split_by_identity(
    identity: ArrayLike, *, labels: ArrayLike | None = None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows to fit and to test an attacker on, ascending: half of the people each, with labels half of either kind."""
    unit = boot.units(identity, len(np.asarray(identity)))
    has_label = np.zeros(unit.max() + 1, dtype=bool)
    if labels is not None:
        has_label[unit[np.asarray(labels, dtype=np.float64) == 1]] = True
    rng = np.random.default_rng(seed)
    is_fit = np.zeros_like(has_label)
    for group in (np.flatnonzero(has_label), np.flatnonzero(~has_label)):
        is_fit[rng.permutation(group)[: round(len(group) / 2)]] = True
    if is_fit.all() or not is_fit.any():
        raise ValueError(f"{len(is_fit)} people cannot be split: one part would be empty")
    return np.flatnonzero(is_fit[unit]), np.flatnonzero(~is_fit[unit])


def permuted_labels(labels: ArrayLike, *, identity: ArrayLike | None = None, seed: int) -> np.ndarray:
    """Labels (n,) that say nothing about their row: the control that shows what an attacker finds by chance.

    With identities people swap labels; unknown labels stay. Permute rows to fit and to test with different seeds:
    against true labels a chance direction reads as an AUC far from .5. Source: control tasks (Hewitt and Liang, 2019).
    """
    labels = np.asarray(labels, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(labels))
    unit = boot.units(identity, len(labels))[known]
    rows = [known[unit == own] for own in np.unique(unit)]
    permuted = labels.copy()
    for mine, partner in zip(rows, np.random.default_rng(seed).permutation(len(rows)), strict=True):
        permuted[mine] = np.resize(labels[rows[partner]], len(mine))
    return permuted


def retained_label_inputs(labels: ArrayLike, forgotten: int) -> np.ndarray:
    """The other true labels (n, K) as an attack's input (n, 2 (K - 1)): each 1, -1 or 0 = unknown, then if known."""
    (labels,) = checked(labels=(labels, "n K", "label"))
    if not -labels.shape[1] <= forgotten < labels.shape[1]:
        raise ValueError(f"labels {labels.shape} have no column {forgotten}: expected a column below K")
    retained = np.delete(labels, forgotten, axis=1)
    known = ~np.isnan(retained)
    return np.concatenate([np.where(known, 2 * np.nan_to_num(retained) - 1, 0.0), known], axis=1)


def attribute_leak(
    scores: ArrayLike, labels: ArrayLike, *, identity: ArrayLike | None = None, seed: int, **draws: float
) -> dict[str, float]:
    """What scores tell about a label, with bootstrap intervals; an inverted score leaks in full.

    accuracy, balanced_accuracy, auc, leak_auc = max(auc, 1 - auc), each with `_low`, `_high`; num_images, num_people.

    >>> attribute_leak([-3.0, -2.0, -1.0, 1.0, 2.0, 3.0], [1, 1, 1, 0, 0, 0], seed=0)["leak_auc"]
    1.0
    """
    scores, positive, identity = _known_rows(labels, identity, scores)

    def metrics(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            recall = positives @ (scores > 0) / positives.sum(axis=1)
            specificity = negatives @ ~(scores > 0) / negatives.sum(axis=1)
        weights = positives + negatives
        accuracy = weights @ ((scores > 0) == positive) / weights.sum(axis=1)
        auc = boot.weighted_auc(scores, positives, negatives)
        return np.stack([accuracy, (recall + specificity) / 2, auc], axis=1)

    names = ("accuracy", "balanced_accuracy", "auc")
    result = boot.of_two_groups(names, metrics, positive, identity=identity, seed=seed, **draws)
    return result | {"num_images": len(scores), "num_people": int(boot.units(identity, len(scores)).max()) + 1}


def excess_leak(
    scores: ArrayLike, reference: ArrayLike, labels: ArrayLike, *, identity: ArrayLike | None = None, **draws: float
) -> dict[str, float]:
    """How much more scores tell about a label than Retrain's on the same rows: AUC minus AUC, the interval paired.

    excess_auc in [-1, 1], `_low`, `_high`; 0 = as much as Retrain. An inverted head's logit may need a minus first.
    """
    *both, positive, identity = _known_rows(labels, identity, scores, reference)

    def difference(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
        own, mark = (boot.weighted_auc(s, positives, negatives) for s in both)
        return own - mark

    return boot.of_two_groups(("excess_auc",), difference, positive, identity=identity, **draws)


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
    **draws: float,
) -> pd.DataFrame:
    """Attack every input of every model with every attacker, on the same rows and people: a row for each.

    Columns are those of `attribute_leak` and of `excess_leak`, nan where the reference has no such input. On few rows
    `leak_auc` favours the attacker: the labels under test choose the direction of the score. The others do not.

    Args:
        models: model -> input -> features (n, d) and (m, d) of the rows to fit and to test. A random network is one
            more model, `retained_label_inputs` one more input: correlation, which no unlearning can take away.
        reference: the model whose AUC on the same input and attacker is subtracted, or None.
        is_permuted: control: both sets of labels are permuted first (`permuted_labels`); AUCs are near one half.
        identity_fit, identity_eval: both or neither; nobody may occur in both.
    """
    if (identity_fit is None) != (identity_eval is None):
        raise ValueError("identity_fit and identity_eval belong together: give both or neither")
    if identity_fit is not None:
        remedy = "the attacker would recognise faces; split the rows with split_by_identity"
        refuse_shared("people occur among the rows to fit and to test", identity_fit, identity_eval, remedy)
    if reference is not None:
        require_choice("reference", reference, models)
    if is_permuted:
        labels_fit = permuted_labels(labels_fit, identity=identity_fit, seed=seed)
        labels_eval = permuted_labels(labels_eval, identity=identity_eval, seed=seed + 1)
    scores = {
        (model, name, attacker): attack_logits(fit, labels_fit, test, attacker=attacker, seed=seed)
        for model, inputs in models.items()
        for name, (fit, test) in inputs.items()
        for attacker in attackers
    }
    options = {"identity": identity_eval, "seed": seed, **draws}
    rows = []
    for (model, name, attacker), own in scores.items():
        row = {"model": model, "input": name, "attacker": attacker, "is_permuted": is_permuted}
        row |= attribute_leak(own, labels_eval, **options)
        row |= dict.fromkeys(("excess_auc", "excess_auc_low", "excess_auc_high"), np.nan)
        if (reference, name, attacker) in scores:
            row |= excess_leak(own, scores[reference, name, attacker], labels_eval, **options)
        rows.append(row)
    return pd.DataFrame(rows)


def _known_rows(labels: ArrayLike, identity: ArrayLike | None, *scores: ArrayLike) -> list[np.ndarray | None]:
    """Checked scores, boolean labels and identities of the known rows, in an order that depends on content only."""
    labels, identity = checked(labels=(labels, "n", "label"), identity=(identity, "n", "whole"))
    known = [known_entries(values, labels, "auc") for values in scores]
    identity = None if identity is None else identity[~np.isnan(labels)]
    return boot.in_order(*(values for values, _ in known), known[0][1], identity)
