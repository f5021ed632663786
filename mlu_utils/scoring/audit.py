"""What a deletion auditor asks: does it pass on unused data, and which method is best? Thresholds are the caller's."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mlu_utils.naming import require_choice
from mlu_utils.scoring.arrays import checked
from mlu_utils.scoring.attribute_inference import attack_table, attribute_leak, split_by_identity
from mlu_utils.scoring.learning_curves import TARGET_SHARE, relearning_table
from mlu_utils.scoring.membership import membership_leak, pooled

AUDIT_COLUMNS = ("retained_accuracy", "output_leak_auc", "feature_leak_auc", "relearning_steps", "unlearning_time_s")
AUDIT_QUESTIONS = ("keeps_utility", "is_silent_in_output", "is_gone_from_features", "is_slow_to_relearn", "is_quick")


def verify_unlearning(
    features: ArrayLike,
    reference_features: ArrayLike,
    labels: ArrayLike,
    *,
    identity: ArrayLike,
    member_scores: ArrayLike,
    shadow_scores: ArrayLike,
    max_attribute_auc: float,
    max_excess_auc: float,
    max_membership_auc: float,
    attacker: str = "linear",
    seed: int,
    **draws: float,
) -> pd.DataFrame:
    """The secondary verification of WF and WP: attribute and membership inference on shadow data.

    An attacker (`probe.ATTACKERS`) learns the forgotten label (n,) on half of the shadow people and is tested on the
    other half. Columns: check, value, low, high, threshold, passed (by the value), is_certain (so is the whole
    interval), reason.

    Args:
        features, reference_features: (n, d) and (n, e), of shadow images under the unlearned and the retrained model.
        member_scores, shadow_scores: membership scores (m,) of training images and (k,) of shadow images.
        max_attribute_auc, max_membership_auc: largest max(AUC, 1 - AUC) at which label and members count as hidden.
        max_excess_auc: largest AUC above the retrained model's; only it speaks about unlearning (see `linear_probe`).

    Source: Hossain et al. (2025), Algorithm 1, step 7: "verify with AIA and MIA on shadow data".
    Differs: the paper gives neither attacker nor threshold.
    """
    limits = {"attribute": max_attribute_auc, "excess": max_excess_auc, "membership": max_membership_auc}
    for name, value in limits.items():
        least = 0 if name == "excess" else 0.5
        if not least <= value <= 1:
            raise ValueError(f"max_{name}_auc {value} must lie in [{least}, 1]: {least} is no information at all")
    features, mark, labels, identity = checked(
        features=(features, "n d"),
        reference_features=(reference_features, "n e"),
        labels=(labels, "n", "label"),
        identity=(identity, "n", "whole"),
    )
    fit, test = split_by_identity(identity, labels=labels, seed=seed)
    inputs = {"unlearned": {"": (features[fit], features[test])}, "Retrain": {"": (mark[fit], mark[test])}}
    options = {"identity_fit": identity[fit], "identity_eval": identity[test], "seed": seed, **draws}
    attribute = attack_table(inputs, labels[fit], labels[test], attackers=[attacker], **options).iloc[0]
    membership = membership_leak(*pooled(member_scores, shadow_scores), seed=seed, **draws)
    rows = []
    for name, found, key, what in (
        ("attribute", attribute, "leak_auc", "the forgotten label is read"),
        ("excess", attribute, "excess_auc", "the label is read beyond Retrain"),
        ("membership", membership, "leak_auc", "members are told from others"),
    ):
        value, low, high, limit = found[key], found[f"{key}_low"], found[f"{key}_high"], limits[name]
        passed = value <= limit
        is_certain = high <= limit if passed else low > limit
        reason = (
            f"{name}_auc {value:.3f} [{low:.3f}, {high:.3f}] is {'within' if passed else 'above'} {limit:g}: {what} "
            f"{'no better than allowed' if passed else 'too well'}"
            f"{'' if is_certain else '; the interval crosses the threshold, so more shadow data could change this'}"
        )
        rows.append((f"{name}_auc", value, low, high, limit, passed, is_certain, reason))
    columns = ["check", "value", "low", "high", "threshold", "passed", "is_certain", "reason"]
    return pd.DataFrame(rows, columns=columns)


def audit_numbers(
    logits: Mapping[str, ArrayLike],
    labels: ArrayLike,
    forgotten: int,
    *,
    test_rows: ArrayLike,
    attacked_rows: ArrayLike,
    identity: ArrayLike,
    feature_leaks: Mapping[str, float],
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    seconds: Mapping[str, float],
    seed: int,
) -> dict[str, dict[str, float]]:
    """What `audit_table` takes: the five numbers of each model, of a request for the label in column `forgotten`.

    Args:
        logits, labels: model -> (N, K), of those to judge, and (N, K), 1, 0 or nan.
        test_rows, attacked_rows: images for the retained accuracy, and for reading the forgotten label from its logit.
        feature_leaks, seconds: model -> largest max(AUC, 1 - AUC) of an attack on its features, and unlearning time.
        curves: model -> (steps, balanced accuracies) of relearning up to `TARGET_SHARE` of "Original"'s score. Steps
            are infinite where only "Retrain"'s curve gets there; where it does not either, the last step counts.
    """
    labels = np.asarray(labels, dtype=np.float64)
    kept = np.delete(labels, forgotten, axis=1)[test_rows]
    known = ~np.isnan(kept)
    steps = relearning_table(curves, target=TARGET_SHARE * curves["Original"][1][0]).set_index("method")
    is_open = steps.is_censored & ~steps.is_censored["Retrain"]
    leak_options = {"identity": np.asarray(identity)[attacked_rows], "seed": seed, "num_resamples": 20}
    numbers = {}
    for model, own in logits.items():
        own = np.asarray(own)
        right = (np.delete(own, forgotten, axis=1)[test_rows] > 0) == (kept > 0)
        leak = attribute_leak(own[attacked_rows, forgotten], labels[attacked_rows, forgotten], **leak_options)
        numbers[model] = {
            "retained_accuracy": float(right[known].mean(dtype=np.float32)),
            "output_leak_auc": leak["leak_auc"],
            "feature_leak_auc": float(feature_leaks[model]),
            "relearning_steps": math.inf if is_open[model] else float(steps.steps[model]),
            "unlearning_time_s": seconds[model],
        }
    return numbers


def audit_table(
    numbers: Mapping[str, Mapping[str, float]],
    *,
    reference: str = "Retrain",
    max_utility_loss: float,
    max_output_excess: float,
    max_feature_excess: float,
    min_relearning_ratio: float,
    max_time_share: float = 1.0,
) -> pd.DataFrame:
    """Rank methods by what a deletion auditor asks; every question is put relative to the retrained model.

    A row a method, best first: rank, method, the numbers, the answers to `AUDIT_QUESTIONS` (None where not measured,
    which is not passed), num_passed, passed (all). Rank: more answers passed, then smaller leak from features, then
    higher retained accuracy, then less time; equal methods share a rank.

    Args:
        numbers: method -> number of each of `AUDIT_COLUMNS`, as from `audit_numbers`; nan = not measured.
        reference: the retrained model's row; it is shown and judged like the others.
        max_utility_loss, max_output_excess, max_feature_excess: most retained accuracy lost, and leaks above its own.
        min_relearning_ratio, max_time_share: least relearning steps and most time, over the reference's.

    >>> limits = dict(max_utility_loss=0, max_output_excess=0, max_feature_excess=0, min_relearning_ratio=1)
    >>> audit_table({"Retrain": dict(zip(AUDIT_COLUMNS, (0.9, 0.6, 0.7, 9, 60)))}, **limits).num_passed.item()
    5
    """
    require_choice("reference", reference, numbers)
    for method, values in numbers.items():
        if missing := [name for name in AUDIT_COLUMNS if name not in values]:
            raise ValueError(f"{method} lacks {', '.join(missing)}: give nan for what was not measured")
    table = pd.DataFrame.from_dict(numbers, orient="index")[list(AUDIT_COLUMNS)].astype(float)
    base = table.loc[reference]
    if base.isna().any():
        raise ValueError(f"{reference} has no {base.index[base.isna()][0]}: every question is put relative to it")
    accuracy, output, feature, steps, seconds = (table[name] for name in AUDIT_COLUMNS)
    slack = 1e-9  # 0.93 - 0.92 must not fail a limit of 0.01
    answers = [
        accuracy >= base.retained_accuracy - max_utility_loss - slack,
        output <= base.output_leak_auc + max_output_excess + slack,
        feature <= base.feature_leak_auc + max_feature_excess + slack,
        steps >= min_relearning_ratio * base.relearning_steps - slack,
        seconds <= max_time_share * base.unlearning_time_s + slack,
    ]
    for question, column, answer in zip(AUDIT_QUESTIONS, AUDIT_COLUMNS, answers, strict=True):
        table[question] = answer.astype(object).where(table[column].notna(), None)
    table["num_passed"] = sum(answer.astype(int) for answer in answers)
    table["passed"] = table.num_passed == len(AUDIT_QUESTIONS)
    keys = [-table.num_passed, feature.fillna(np.inf), -accuracy.fillna(-np.inf), seconds.fillna(np.inf)]
    key = pd.Series(list(zip(*(column.tolist() for column in keys), strict=True)), index=table.index)
    table.insert(0, "rank", [1 + sum(other < own for other in key) for own in key])
    table = table.rename_axis("method").reset_index().sort_values("rank", kind="stable", ignore_index=True)
    return table[["rank", "method", *AUDIT_COLUMNS, *AUDIT_QUESTIONS, "num_passed", "passed"]]
