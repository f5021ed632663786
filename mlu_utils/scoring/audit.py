"""What a deletion auditor asks: did it pass on data never used, and which method does best on the whole.

Purpose: the paper's secondary verification (attribute and membership inference on shadow data) with explicit
thresholds, and one table of pass and fail over all methods.
Must not: choose a threshold silently, or call a method safe because an attack was too weak to tell.

Shapes: as in `attribute_inference` and `membership`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mlu_utils.scoring.attribute_inference import attribute_leak, excess_leak, refuse_shared_people, split_by_identity
from mlu_utils.scoring.bootstrap import LEVEL, NUM_RESAMPLES
from mlu_utils.scoring.membership import membership_leak, pooled
from mlu_utils.scoring.probe import attack_logits

AUDIT_COLUMNS = ("retained_accuracy", "output_leak_auc", "feature_leak_auc", "relearning_steps", "unlearning_time_s")
AUDIT_QUESTIONS = ("keeps_utility", "is_silent_in_output", "is_gone_from_features", "is_slow_to_relearn", "is_quick")


@dataclass(frozen=True)
class Verification:
    """Whether unlearning passed, and why.

    Args:
        passed: every check passed.
        checks: one row a check: check, value, low, high, threshold, passed, is_certain (the whole interval lies on the
            value's side of the threshold), reason.
    """

    passed: bool
    checks: pd.DataFrame

    @property
    def reasons(self) -> tuple[str, ...]:
        """One sentence a check."""
        return tuple(self.checks.reason)


def refuse_used_rows(shadow_rows: ArrayLike, used_rows: ArrayLike) -> None:
    """Refuse shadow data that took part in learning or unlearning.

    Args:
        shadow_rows: int, rows of the table to verify on.
        used_rows: int, every row that training, calibration or fine-tuning saw.

    Raises:
        ValueError: names the first rows in both.

    Example:
        >>> refuse_used_rows([7, 8], [1, 2])
    """
    shared = np.intersect1d(shadow_rows, used_rows)
    if shared.size:
        raise ValueError(
            f"{shared.size} shadow rows were used for learning or unlearning, the first {shared[:5].tolist()}: "
            "verify on a split that nothing else saw"
        )


def verify_unlearning(
    features: ArrayLike,
    reference_features: ArrayLike,
    labels: ArrayLike,
    *,
    identity: ArrayLike | None = None,
    member_scores: ArrayLike,
    shadow_scores: ArrayLike,
    max_attribute_auc: float,
    max_excess_auc: float,
    max_membership_auc: float,
    attacker: str = "linear",
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
    level: float = LEVEL,
) -> Verification:
    """The secondary verification of WF and WP: attribute and membership inference on shadow data.

    The attribute attacker learns the forgotten label on half of the shadow people and is tested on the other half.
    The membership attacker compares images that were unlearned (or learned) with shadow images, which nobody learned.

    Args:
        features: (n, d) of the shadow images under the unlearned model: logits, retained logits or features.
        reference_features: (n, d') of the same images under the retrained model.
        labels: (n,) of the forgotten label, 1, 0 or nan.
        identity: int (n,), so that no person is both learned from and tested on; default: every image its own.
        member_scores: (m,) membership scores (minus a loss, minus an entropy) of images in the training data.
        shadow_scores: (k,) the same of the shadow images.
        max_attribute_auc: largest max(AUC, 1 - AUC) at which the label counts as unreadable.
        max_excess_auc: largest AUC above the retrained model's.
        max_membership_auc: largest max(AUC, 1 - AUC) of the membership attack.
        attacker: a name in `probe.ATTACKERS`.
        seed: of the split, the attacker and the resampling.
        num_resamples: of the intervals.
        level: of the intervals.

    Returns:
        A `Verification` with the checks attribute_auc, excess_auc and membership_auc. A check passes by its value; an
        interval across the threshold makes it uncertain, which its reason says.

    Raises:
        ValueError: thresholds out of range, other numbers of rows; as `attack_logits` and `membership_leak`.

    Source:
        Hossain et al. (2025), Algorithm 1, step 7: "verify with AIA and MIA on shadow data".

    Differs:
        The paper gives neither attacker nor threshold; and a label that correlates with retained ones can be read from
        the retrained model too, so that only the excess speaks about unlearning.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> noise, labels = rng.normal(size=(80, 2)), np.arange(80) % 2
        >>> verdict = verify_unlearning(noise + 9 * labels[:, None], noise, labels, member_scores=noise[:, 0],
        ...     shadow_scores=noise[:, 0], max_attribute_auc=0.75, max_excess_auc=0.05, max_membership_auc=0.6, seed=0)
        >>> verdict.passed, verdict.checks.passed.tolist()
        (False, [False, False, True])
    """
    for name, value, low in (
        ("max_attribute_auc", max_attribute_auc, 0.5),
        ("max_excess_auc", max_excess_auc, 0.0),
        ("max_membership_auc", max_membership_auc, 0.5),
    ):
        if not low <= value <= 1:
            raise ValueError(f"{name} {value} must lie in [{low}, 1]: {low} is no information at all")
    features, reference_features = np.asarray(features), np.asarray(reference_features)
    labels = np.asarray(labels, dtype=np.float64)
    if not len(features) == len(reference_features) == len(labels):
        raise ValueError(
            f"{len(features)} rows of features, {len(reference_features)} of the reference, {len(labels)} labels: "
            "expected the same shadow images"
        )
    who = np.full(len(labels), -1) if identity is None else np.asarray(identity)
    fit, test = split_by_identity(who, labels=labels, seed=seed)
    refuse_shared_people(who[fit], who[test])
    scores = [
        attack_logits(x[fit], labels[fit], x[test], attacker=attacker, seed=seed)
        for x in (features, reference_features)
    ]
    options = {"seed": seed, "num_resamples": num_resamples, "level": level}
    by_person = options | {"identity": None if identity is None else who[test]}
    leak = attribute_leak(scores[0], labels[test], **by_person)
    excess = excess_leak(*scores, labels[test], is_two_sided=False, **by_person)
    membership = membership_leak(*pooled(member_scores, shadow_scores), **options)
    checks = [
        _check("attribute_auc", leak, "leak_auc", max_attribute_auc, "the forgotten label is read"),
        _check("excess_auc", excess, "excess_auc", max_excess_auc, "the label is read beyond Retrain"),
        _check("membership_auc", membership, "leak_auc", max_membership_auc, "members are told from others"),
    ]
    table = pd.DataFrame(checks)
    return Verification(bool(table.passed.all()), table)


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

    Args:
        numbers: method -> {retained_accuracy, output_leak_auc, feature_leak_auc, relearning_steps,
            unlearning_time_s}. Leaks are max(AUC, 1 - AUC) (`attribute_leak`), from all outputs and from the best
            attacked features. relearning_steps may be infinite = not relearned within the curve, and any value may be
            nan = not measured, which counts as not passed.
        reference: the retrained model's row; it is shown and judged like the others.
        max_utility_loss: how much retained accuracy may fall below the reference's.
        max_output_excess: how far output_leak_auc may lie above the reference's.
        max_feature_excess: how far feature_leak_auc may lie above the reference's.
        min_relearning_ratio: relearning steps over the reference's, at least.
        max_time_share: unlearning time over the reference's, at most.

    Returns:
        One row a method, best first: rank, method, the five numbers, the five answers keeps_utility,
        is_silent_in_output, is_gone_from_features, is_slow_to_relearn, is_quick (None where not measured),
        num_passed, passed (all five). Rank: more answers passed, then smaller leak from features, then higher retained
        accuracy, then less time; equal methods share a rank.

    Raises:
        ValueError: the reference is missing or has a nan, a method lacks a number.

    Source:
        Ours; the questions are those of the paper's section 7 (utility, AIA, runtime) and of relearning tests.

    Example:
        >>> row = dict(retained_accuracy=0.9, output_leak_auc=0.6, feature_leak_auc=0.7, relearning_steps=9,
        ...     unlearning_time_s=60)
        >>> table = audit_table({"Retrain": row, "WP": row | {"feature_leak_auc": 0.9, "unlearning_time_s": 1}},
        ...     max_utility_loss=0.01, max_output_excess=0.05, max_feature_excess=0.05, min_relearning_ratio=0.8)
        >>> table[["rank", "method", "num_passed"]].values.tolist()
        [[1, 'Retrain', 5], [2, 'WP', 4]]
    """
    if reference not in numbers:
        raise ValueError(f"reference {reference!r} is not among the methods {', '.join(numbers)}")
    for method, values in numbers.items():
        if missing := [name for name in AUDIT_COLUMNS if name not in values]:
            raise ValueError(f"{method} lacks {', '.join(missing)}: give nan for what was not measured")
    table = pd.DataFrame({method: {name: float(v[name]) for name in AUDIT_COLUMNS} for method, v in numbers.items()}).T
    base = table.loc[reference]
    if base.isna().any():
        raise ValueError(f"{reference} has no {base.index[base.isna()][0]}: every question is put relative to it")
    accuracy, output, feature, steps, seconds = (table[name] for name in AUDIT_COLUMNS)
    slack = 1e-9  # 0.93 - 0.92 must not fail a limit of 0.01
    answers = {
        "keeps_utility": accuracy >= base.retained_accuracy - max_utility_loss - slack,
        "is_silent_in_output": output <= base.output_leak_auc + max_output_excess + slack,
        "is_gone_from_features": feature <= base.feature_leak_auc + max_feature_excess + slack,
        "is_slow_to_relearn": steps >= min_relearning_ratio * base.relearning_steps - slack,
        "is_quick": seconds <= max_time_share * base.unlearning_time_s + slack,
    }
    for question, column in zip(AUDIT_QUESTIONS, AUDIT_COLUMNS, strict=True):
        table[question] = answers[question].astype(object).where(table[column].notna(), None)
    table["num_passed"] = sum(answers[question].astype(int) for question in AUDIT_QUESTIONS)
    table["passed"] = table.num_passed == len(AUDIT_QUESTIONS)
    keys = [-table.num_passed, feature.fillna(np.inf), -accuracy.fillna(-np.inf), seconds.fillna(np.inf)]
    key = pd.Series(list(zip(*(column.tolist() for column in keys), strict=True)), index=table.index)
    table.insert(0, "rank", [1 + sum(other < own for other in key) for own in key])
    return (
        table.rename_axis("method")
        .reset_index()
        .sort_values("rank", kind="stable", ignore_index=True)[
            ["rank", "method", *AUDIT_COLUMNS, *AUDIT_QUESTIONS, "num_passed", "passed"]
        ]
    )


def _check(name: str, found: Mapping[str, float], key: str, threshold: float, what: str) -> dict:
    value, low, high = found[key], found[f"{key}_low"], found[f"{key}_high"]
    passed = value <= threshold
    is_certain = high <= threshold if passed else low > threshold
    reason = (
        f"{name} {value:.3f} [{low:.3f}, {high:.3f}] is {'within' if passed else 'above'} {threshold:g}: {what} "
        f"{'no better than allowed' if passed else 'too well'}"
        f"{'' if is_certain else '; the interval crosses the threshold, so more shadow data could change this'}"
    )
    return {
        "check": name,
        "value": value,
        "low": low,
        "high": high,
        "threshold": threshold,
        "passed": passed,
        "is_certain": is_certain,
        "reason": reason,
    }
