"""Entropy of outputs in nats, and whether it gives forgotten data away (Streisand): n images, K labels, C classes."""

from collections.abc import Mapping
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import expit, log_softmax
from scipy.stats import ks_2samp

from mlu_utils.naming import require_choice
from mlu_utils.scoring.arrays import checked, known_classes
from mlu_utils.scoring.bootstrap import in_order, of_two_groups, weighted_auc
from mlu_utils.scoring.membership import label_confidence
from mlu_utils.scoring.utility import class_margins


def label_entropy(logits: ArrayLike) -> np.ndarray:
    """Bernoulli entropy of each label of each image, (n, K) in [0, ln 2].

    >>> label_entropy([[0.0, 800.0]]).round(4)
    array([[0.6931, 0.    ]])
    """
    (logits,) = checked(logits=(logits, "n K"))
    # -log p = log(1 + exp(-z)): exact where p itself rounds to 1.
    return expit(logits) * np.logaddexp(0, -logits) + expit(-logits) * np.logaddexp(0, logits)


def class_entropy(logits: ArrayLike) -> np.ndarray:
    """Entropy of the softmax of each image, (n,) in [0, ln C]."""
    (logits,) = checked(logits=(logits, "n C"))
    log_p = log_softmax(logits, axis=1)
    return (np.exp(log_p) * -log_p).sum(axis=1)


def log_entropy(entropy: ArrayLike) -> np.ndarray:
    """Natural logarithm of entropies, those below 1e-12, which are rounding, raised to it; the axis of Figure 2."""
    (entropy,) = checked(entropies=(entropy, "n"))
    if entropy.min() < -1e-12:
        raise ValueError(f"entropy {entropy.min():g} found: expected values of at least 0")
    return np.log(np.maximum(entropy, 1e-12))


def modified_label_entropy(logits: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Modified entropy of each binary label of each image, (n, K): -2 (1 - p_y) log p_y; nan where unknown."""
    confidence = label_confidence(logits, labels)
    with np.errstate(invalid="ignore"):  # unknown labels
        return 2 * expit(-confidence) * np.logaddexp(0, -confidence)


def modified_class_entropy(logits: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Modified entropy of each image, (n,): -(1 - p_y) log p_y - sum over i != y of p_i log(1 - p_i).

    Source: Song and Mittal (2021), Systematic Evaluation of Privacy Risks of Machine Learning Models, section 3.2. A
    widely copied implementation fills the columns of all labels for all rows, and has log p_i for log(1 - p_i).
    """
    logits, labels = known_classes(logits, labels)
    margins = class_margins(logits)  # log p = -log(1 + exp -m), log(1 - p) = -log(1 + exp m)
    terms = expit(margins) * np.logaddexp(0, margins)
    own = np.arange(len(labels)), labels
    terms[own] = expit(-margins[own]) * np.logaddexp(0, -margins[own])
    return terms.sum(axis=1)


def streisand(entropy: ArrayLike, reference_entropy: ArrayLike, *, seed: int, **draws: float) -> dict[str, float]:
    """How far two groups of entropies differ, in either direction: too sure gives data away as much as too unsure.

    The first (n,) are of data that may stand out, the others (m,) of unseen data, or of the same under Retrain; to
    standardise would hide a shift. mean_entropy_gap: mean minus the reference's, nats; ks, ks_p_value: two-sided
    Kolmogorov-Smirnov test; auc: P(entropy > reference's), ties half; leak_auc = max(auc, 1 - auc); both with `_low`,
    `_high`.
    """
    groups = checked(entropies=(entropy, "n"), reference_entropies=(reference_entropy, "m"))
    test = ks_2samp(*groups)
    pooled = np.concatenate(groups)
    pooled, is_first = in_order(pooled, np.arange(pooled.size) < groups[0].size)

    gap = float(np.sort(groups[0]).mean() - np.sort(groups[1]).mean())
    found = {"mean_entropy_gap": gap, "ks": float(test.statistic), "ks_p_value": float(test.pvalue)}
    return found | of_two_groups(("auc",), partial(weighted_auc, pooled), is_first, seed=seed, **draws)


def streisand_table(
    entropies: Mapping[str, Mapping[str, ArrayLike]], *, reference: str | None = "Retrain", seed: int, **draws: float
) -> pd.DataFrame:
    """One row of numbers for each panel (model and group) of the entropy figure.

    Entropies: model -> group -> (n,). A group is compared with the group "unseen" and with its like of the reference,
    if any. Columns: model, group, versus ("unseen" or the reference), num_images and those of `streisand`.
    """
    if reference is not None:
        require_choice("reference", reference, entropies)
    rows = []
    for model, groups in entropies.items():
        require_choice(f"group of {model}", "unseen", groups)
        for group, values in groups.items():
            pairs = {} if group == "unseen" else {"unseen": groups["unseen"]}
            if reference not in (None, model) and group in entropies[reference]:
                pairs[reference] = entropies[reference][group]
            for versus, other in pairs.items():
                row = {"model": model, "group": group, "versus": versus, "num_images": len(np.asarray(values))}
                rows.append(row | streisand(values, other, seed=seed, **draws))
    return pd.DataFrame(rows)
