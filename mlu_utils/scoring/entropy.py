"""Entropy of the outputs, and whether it gives forgotten data away (the Streisand effect).

Purpose: entropies per image, their logarithm for the paper's Figure 2, and one number for each of its panels.
Must not: standardise the groups that are compared; that would hide the shift one looks for.

Shapes: n images, K labels, C classes. `logits` (n, K) multi-label or (n, C) single-label; entropies (n,) in nats.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import expit, log_softmax
from scipy.stats import ks_2samp

from mlu_utils.scoring.bootstrap import (
    LEVEL,
    NUM_RESAMPLES,
    bootstrap,
    folded_auc,
    sorted_rows,
    weighted_auc,
    with_intervals,
)
from mlu_utils.scoring.utility import check_finite, class_margins, known_classes, label_table, logit_table

SMALLEST_ENTROPY = 1e-12  # below this the logarithm shows rounding, not the model


def label_entropy(logits: ArrayLike) -> np.ndarray:
    """Bernoulli entropy of each label of each image, (n, K) in [0, ln 2]; `.mean(axis=1)` for one number an image.

    Example:
        >>> label_entropy([[0.0, 800.0]]).round(4)
        array([[0.6931, 0.    ]])
    """
    logits = logit_table(logits)
    # -log p = log(1 + exp(-z)): exact where p itself rounds to 1.
    return expit(logits) * np.logaddexp(0, -logits) + expit(-logits) * np.logaddexp(0, logits)


def class_entropy(logits: ArrayLike) -> np.ndarray:
    """Entropy of the softmax of each image, (n,) in [0, ln C].

    Example:
        >>> class_entropy([[0.0, 0.0], [0.0, 900.0]]).round(4)
        array([0.6931, 0.    ])
    """
    log_p = log_softmax(logit_table(logits), axis=1)
    return (np.exp(log_p) * -log_p).sum(axis=1)


def log_entropy(entropy: ArrayLike) -> np.ndarray:
    """Natural logarithm of entropies, those below 1e-12 raised to it first; the axis of the paper's Figure 2.

    Raises:
        ValueError: an entropy that is nan, infinite or negative beyond rounding.

    Example:
        >>> log_entropy([1.0, 0.0]).round(2)
        array([  0.  , -27.63])
    """
    entropy = np.asarray(entropy, dtype=np.float64)
    check_finite(entropy, "entropies")
    if (entropy < -SMALLEST_ENTROPY).any():
        raise ValueError(f"entropy {entropy.min():g} found: expected values of at least 0")
    return np.log(np.maximum(entropy, SMALLEST_ENTROPY))


def modified_label_entropy(logits: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Modified entropy of each binary label of each image, (n, K); low where the model is sure and right.

    For two classes of which y is true: -(1 - p_y) log p_y - p_other log(1 - p_other) = -2 (1 - p_y) log p_y.

    Args:
        logits: (n, K), finite.
        labels: (n, K), 1, 0 or nan.

    Returns:
        (n, K), at least 0; nan where the label is unknown.

    Source:
        Song and Mittal (2021), Systematic Evaluation of Privacy Risks of Machine Learning Models, section 3.2.

    Example:
        >>> modified_label_entropy([[0.0, 0.0]], [[1, np.nan]]).round(4)
        array([[0.6931,    nan]])
    """
    logits, labels = label_table(logits, labels)
    confidence = (2 * labels - 1) * logits
    with np.errstate(invalid="ignore"):  # unknown labels
        return 2 * expit(-confidence) * np.logaddexp(0, -confidence)


def modified_class_entropy(logits: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Modified entropy of each image, (n,): -(1 - p_y) log p_y - sum over i != y of p_i log(1 - p_i).

    Args:
        logits: (n, C), finite.
        labels: (n,), integers in [0, C).

    Source:
        Song and Mittal (2021), section 3.2.

    Differs:
        A widely copied implementation overwrites the column of every label that occurs for all rows, and takes
        log p_i where the formula has log(1 - p_i); this one has neither error.

    Example:
        >>> modified_class_entropy([[0.0, 0.0]], [1]).round(4)
        array([0.6931])
    """
    logits, labels = known_classes(logits, labels)
    margins = class_margins(logits)  # log p = -log(1 + exp -m), log(1 - p) = -log(1 + exp m)
    terms = expit(margins) * np.logaddexp(0, margins)
    own = np.arange(len(labels)), labels
    terms[own] = expit(-margins[own]) * np.logaddexp(0, -margins[own])
    return terms.sum(axis=1)


def streisand(
    entropy: ArrayLike,
    reference_entropy: ArrayLike,
    *,
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
    level: float = LEVEL,
) -> dict[str, float]:
    """How far two groups of entropies differ, in either direction: too sure gives data away as much as too unsure.

    Args:
        entropy: (n,), of the data that may stand out, for example the forgotten ones under the unlearned model.
        reference_entropy: (m,), of what they should look like: unseen data, or the same data under Retrain.
        seed: of the resampling.
        num_resamples: number of resamples.
        level: coverage of the interval.

    Returns:
        mean_entropy_gap: mean minus the reference's, nats, signed;
        ks, ks_p_value: two-sided Kolmogorov-Smirnov statistic in [0, 1] and its p-value, 0 = same distribution;
        auc, `_low`, `_high`: P(entropy > reference's), ties half; .5 = none the wiser;
        leak_auc, `_low`, `_high`: max(auc, 1 - auc).

    Raises:
        ValueError: an empty group, or values that are nan or infinite.

    Source:
        Kolmogorov-Smirnov two-sample test; AUC as the Mann-Whitney statistic, percentile bootstrap.

    Differs:
        LoTUS standardises each group before comparing them, which removes every shift of location.

    Example:
        >>> found = streisand([0.6, 0.7], [0.1, 0.2], seed=0)
        >>> found["ks"], found["auc"]
        (1.0, 1.0)
    """
    groups = [np.asarray(values, dtype=np.float64) for values in (entropy, reference_entropy)]
    for values in groups:
        if values.ndim != 1 or not values.size:
            raise ValueError(f"entropies have shape {values.shape}: expected (n,) with n >= 1")
        check_finite(values, "entropies")
    test = ks_2samp(*groups)
    pooled = np.concatenate(groups)
    is_first = np.arange(pooled.size) < groups[0].size
    order = sorted_rows(pooled, is_first)
    pooled, is_first = pooled[order], is_first[order]

    def statistic(weights: np.ndarray) -> np.ndarray:
        return weighted_auc(pooled, weights * is_first, weights * ~is_first)[:, None]

    samples = bootstrap(statistic, pooled.size, seed=seed, num_resamples=num_resamples)
    result = with_intervals(("auc",), statistic(np.ones((1, pooled.size)))[0], samples, level=level)
    return {
        "mean_entropy_gap": float(np.sort(groups[0]).mean() - np.sort(groups[1]).mean()),
        "ks": float(test.statistic),
        "ks_p_value": float(test.pvalue),
        **result,
        **folded_auc(result),
    }


def streisand_table(
    entropies: Mapping[str, Mapping[str, ArrayLike]],
    *,
    unseen: str = "unseen",
    reference: str | None = "Retrain",
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
    level: float = LEVEL,
) -> pd.DataFrame:
    """One row of numbers for each panel (model and group) of the entropy figure.

    Args:
        entropies: model -> group ("train", "test", "forget", "unseen") -> (n,) entropies.
        unseen: the group of images that nobody trained on; each other group is compared with it.
        reference: the model whose same group each group is compared with, or None.
        seed: of the resampling.
        num_resamples: number of resamples.
        level: coverage of the intervals.

    Returns:
        Columns model, group, versus (f"{unseen}" or the reference's name), num_images and those of `streisand`.

    Raises:
        ValueError: a model lacks the unseen group, or the reference is not among the models.

    Example:
        >>> table = streisand_table({"Retrain": {"train": [0.1, 0.2], "unseen": [0.1, 0.3]}}, seed=0)
        >>> table.versus.tolist()
        ['unseen']
    """
    if reference is not None and reference not in entropies:
        raise ValueError(f"reference {reference!r} is not among the models {', '.join(entropies)}: name one or None")
    rows = []
    for model, groups in entropies.items():
        if unseen not in groups:
            raise ValueError(f"{model} has no group {unseen!r}: it has {', '.join(groups)}")
        for group, values in groups.items():
            pairs = {} if group == unseen else {unseen: groups[unseen]}
            if reference not in (None, model) and group in entropies[reference]:
                pairs[reference] = entropies[reference][group]
            for versus, other in pairs.items():
                found = streisand(values, other, seed=seed, num_resamples=num_resamples, level=level)
                row = {"model": model, "group": group, "versus": versus, "num_images": len(np.asarray(values))}
                rows.append(row | found)
    return pd.DataFrame(rows)
