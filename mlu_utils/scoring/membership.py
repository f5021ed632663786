"""Membership inference: was this image (this label of it) among what the model learned from?

Purpose: signals per image (losses, logit-scaled confidences), attacks that turn them into scores, and one way to read
all of them: AUC, balanced accuracy, true positives at few false ones, with intervals, beside what two disjoint halves
of unseen images give.
Must not: train or run a model; shadow models come as their outputs.

Shapes: n images, K labels, C classes, S shadow models. A membership score (n,) is higher for likelier members;
`is_member` bool (n,). Confidences phi are (n,) for one label or class and (n, K) for several, those of shadows
(S, n) or (S, n, K), `shadow_is_member` bool (S, n). nan in phi = unknown label, which then says nothing.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score

from mlu_utils.scoring.bootstrap import (
    LEVEL,
    NUM_RESAMPLES,
    bootstrap,
    folded_auc,
    people,
    sorted_rows,
    weighted_auc,
    weighted_roc,
    with_intervals,
)
from mlu_utils.scoring.utility import check_finite, class_margins, known_classes, label_table

FALSE_POSITIVE_RATES = (0.01, 0.001)
MEMBERSHIP_METRICS = ("auc", "best_balanced_accuracy", *(f"tpr_at_fpr_{rate:g}" for rate in FALSE_POSITIVE_RATES))
_SMALLEST_STD = 1e-30  # shadows that all agree, as LiRA's authors do
_NUM_SHUFFLES = 100  # of who learned what, in a null
_NUM_SPLITS = 10  # of the logistic attack, as in the MUFAC protocol


# Signals


def label_confidence(logits: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Logit-scaled confidence of each binary label, (n, K): phi = log p_y - log(1 - p_y) = (2 y - 1) z, exactly.

    Returns:
        (n, K); nan where the label is unknown. High = sure and right.

    Source:
        Carlini et al. (2022), Membership Inference Attacks From First Principles, section IV-C.

    Differs:
        One phi a label instead of one an image; the attack adds up their log-ratios (a diagonal Gaussian).

    Example:
        >>> label_confidence([[2.0, 3.0, 1.0]], [[1, 0, np.nan]])
        array([[ 2., -3., nan]])
    """
    logits, labels = label_table(logits, labels)
    return (2 * labels - 1) * logits


def class_confidence(logits: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Logit-scaled confidence of the true class, (n,): phi = log p_y - log sum over i != y of p_i.

    Source:
        Carlini et al. (2022), section IV-C.

    Differs:
        From the logits, without the 1e-45 that keeps log p from minus infinity.

    Example:
        >>> class_confidence([[2.0, 0.0], [2.0, 0.0]], [0, 1])
        array([ 2., -2.])
    """
    logits, labels = known_classes(logits, labels)
    return class_margins(logits)[np.arange(len(labels)), labels]


def confidence_loss(phi: ArrayLike) -> np.ndarray:
    """Loss of an image from its confidences, (n,): -log p_y = log(1 + exp(-phi)), averaged over the known labels.

    This is cross-entropy for `class_confidence` and mean binary cross-entropy for `label_confidence`.

    Raises:
        ValueError: an image without a known label, or infinite values.

    Example:
        >>> confidence_loss([[0.0, np.nan], [0.0, 0.0]]).round(4)
        array([0.6931, 0.6931])
    """
    phi, known = _confidences(phi, (1, 2))
    if not known.any(axis=1).all():
        raise ValueError(f"image {int(np.argmin(known.any(axis=1)))} has no known label: drop it")
    losses = np.logaddexp(0, -np.where(known, phi, 0.0))
    return (losses * known).sum(axis=1) / known.sum(axis=1)


# One way to read every attack


def membership_leak(
    scores: ArrayLike,
    is_member: ArrayLike,
    *,
    identity: ArrayLike | None = None,
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
    level: float = LEVEL,
) -> dict[str, float]:
    """How well scores tell members from others, with bootstrap intervals.

    Args:
        scores: (n,), finite, higher = likelier a member: minus a loss, minus an entropy, `lira`, `rmia`.
        is_member: bool (n,); both kinds present.
        identity: int (n,); when given, people are resampled and not images.
        seed: of the resampling.
        num_resamples: number of resamples.
        level: coverage of the intervals.

    Returns:
        auc: .5 = nothing, below .5 = over-unlearned: the "members" look stranger than the others;
        best_balanced_accuracy: max over thresholds of (TPR + 1 - FPR) / 2, chosen on these very rows, so above .5
        even for noise: compare with `null_on_halves`;
        tpr_at_fpr_0.01 and tpr_at_fpr_0.001: largest TPR whose FPR is at most that; with fewer than 1 / rate
        non-members it means no false positive at all;
        each with `_low` and `_high`; leak_auc = max(auc, 1 - auc), `_low`, `_high`; num_members, num_nonmembers.

    Raises:
        ValueError: wrong shapes or types, scores that are not finite, one kind only.

    Source:
        Carlini et al. (2022), section III; percentile bootstrap.

    Example:
        >>> membership_leak([3.0, 2.0, 1.0, 0.0], [True, True, False, False], seed=0)["auc"]
        1.0
    """
    scores, is_member, identity = _labelled_scores(scores, is_member, identity)

    def statistic(weights: np.ndarray) -> np.ndarray:
        return _membership_metrics(scores, weights * is_member, weights * ~is_member)

    samples = bootstrap(statistic, len(scores), identity=identity, seed=seed, num_resamples=num_resamples)
    result = with_intervals(MEMBERSHIP_METRICS, statistic(np.ones((1, len(scores))))[0], samples, level=level)
    counts = {"num_members": int(is_member.sum()), "num_nonmembers": int((~is_member).sum())}
    return result | folded_auc(result) | counts


def pooled(member_values: ArrayLike, nonmember_values: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Values of members and of others in one array (n,), and is_member (n,).

    Example:
        >>> pooled([1.0], [2.0, 3.0])
        (array([1., 2., 3.]), array([ True, False, False]))
    """
    groups = [np.asarray(values, dtype=np.float64) for values in (member_values, nonmember_values)]
    if any(values.ndim != 1 or not values.size for values in groups):
        raise ValueError(f"members {groups[0].shape} and non-members {groups[1].shape}: expected (n,) with n >= 1 each")
    values = np.concatenate(groups)
    return values, np.arange(values.size) < groups[0].size


def null_on_halves(
    scores: ArrayLike,
    *,
    identity: ArrayLike | None = None,
    seed: int,
    num_splits: int = NUM_RESAMPLES,
    level: float = LEVEL,
) -> dict[str, float]:
    """What `membership_leak` gives where there is nothing to find: two disjoint random halves of unseen images.

    Args:
        scores: (n,), finite, of images that no model learned from; at least two.
        identity: int (n,); when given, whole people fall on one side.
        seed: of the splits.
        num_splits: number of splits.
        level: share of the splits between `_low` and `_high`.

    Returns:
        Each of `MEMBERSHIP_METRICS`: mean over the splits, `_low` and `_high`. With sets of other sizes than n / 2,
        the null of best_balanced_accuracy and of the rates is another one.

    Example:
        >>> null = null_on_halves([1.0, 1.0, 1.0, 1.0], seed=0)
        >>> null["auc"], null["auc_low"], null["auc_high"]
        (0.5, 0.5, 0.5)
    """
    scores = np.asarray(scores, dtype=np.float64)
    scores, _, identity = _labelled_scores(scores, np.arange(scores.size) == 0, identity)
    order = sorted_rows(scores, identity)
    scores, identity = scores[order], None if identity is None else identity[order]
    person = np.arange(len(scores)) if identity is None else people(identity, len(scores))
    unit = np.unique(person, return_inverse=True)[1]
    num_units = int(unit.max()) + 1
    rng = np.random.default_rng(seed)
    half = np.argsort(rng.random((num_splits, num_units)), axis=1) < num_units // 2
    is_member = half[:, unit].astype(np.float64)
    samples = _membership_metrics(scores, is_member, 1 - is_member)
    return with_intervals(MEMBERSHIP_METRICS, np.nanmean(samples, axis=0), samples, level=level)


# Attacks without shadow models


def loss_threshold_attack(losses: ArrayLike, is_member: ArrayLike, *, threshold: float) -> dict[str, float]:
    """Call an image a member if its loss is below the threshold.

    Args:
        losses: (n,), finite.
        is_member: bool (n,).
        threshold: the mean training loss of the attacked model.

    Returns:
        accuracy, balanced_accuracy, tpr, fpr; for AUC and intervals: `membership_leak(-losses, ...)`.

    Source:
        Yeom, Giacomelli, Fredrikson and Jha (2018), Privacy Risk in Machine Learning, adversary 1.

    Differs:
        Deterministic threshold instead of a coin weighted with the loss bound.

    Example:
        >>> loss_threshold_attack([0.1, 0.9, 0.8], [True, False, False], threshold=0.5)["accuracy"]
        1.0
    """
    losses, is_member, _ = _labelled_scores(losses, is_member, None)
    called = losses < threshold
    tpr, fpr = float(called[is_member].mean()), float(called[~is_member].mean())
    accuracy = float((called == is_member).mean())
    return {"accuracy": accuracy, "balanced_accuracy": (tpr + 1 - fpr) / 2, "tpr": tpr, "fpr": fpr}


def logistic_loss_attack(losses: ArrayLike, is_member: ArrayLike, *, seed: int = 0) -> dict[str, float]:
    """Accuracy of a logistic regression that tells forgotten images from unseen ones by their loss.

    Args:
        losses: (n,), finite; of the forgotten images (members) and of unseen ones.
        is_member: bool (n,); at least ten of each.
        seed: of the truncation and the splits.

    Returns:
        accuracy: mean over 10 stratified splits with 10 % to test; forgetting_score = |accuracy - .5|, 0 = nothing
        found; sd of the accuracy over the splits; num_members, num_nonmembers that were used.

    Source:
        MUFAC / MUCAC protocol (Choi and Na, 2023), after the starting kit of the NeurIPS 2023 unlearning challenge.

    Differs:
        The larger set is truncated at random to the size of the smaller; the protocol truncates the members only.
        Accuracy is above .5 for losses that are too low and for losses that are too high: read `auc` of
        `membership_leak(-losses, ...)` beside it. It misses differences that one threshold cannot see.

    Example:
        >>> logistic_loss_attack([0.0] * 20 + [9.0] * 20, [True] * 20 + [False] * 20)["accuracy"]
        1.0
    """
    losses, is_member, _ = _labelled_scores(losses, is_member, None)
    rng = np.random.default_rng(seed)
    sides = [losses[is_member], losses[~is_member]]
    size = min(map(len, sides))
    if size < 10:
        raise ValueError(
            f"{len(sides[0])} members and {len(sides[1])} others: 10 splits with 10 % to test need ten of each"
        )
    chosen = np.concatenate([np.sort(rng.permutation(side)[:size]) for side in sides])
    splits = StratifiedShuffleSplit(n_splits=_NUM_SPLITS, random_state=seed)
    accuracies = cross_val_score(
        LogisticRegression(), chosen[:, None], np.arange(2 * size) < size, cv=splits, scoring="accuracy"
    )
    return {
        "accuracy": float(accuracies.mean()),
        "forgetting_score": float(abs(accuracies.mean() - 0.5)),
        "accuracy_sd": float(accuracies.std()),
        "num_members": size,
        "num_nonmembers": size,
    }


# Attacks with shadow models


def lira(
    phi: ArrayLike,
    shadow_phi: ArrayLike,
    shadow_is_member: ArrayLike,
    *,
    variant: str = "online",
    is_global_variance: bool = False,
) -> np.ndarray:
    """Likelihood ratio of each image: its confidence, against those of shadows that learned from it or did not.

    With Gaussians N(mu_in, s_in) and N(mu_out, s_out) for each image and label:
    online: sum over labels of log N(phi; in) - log N(phi; out);
    offline: sum over labels of -log P(N(out) > phi), which needs no shadow that learned from the image.

    Args:
        phi: (n,) or (n, K), of the attacked model.
        shadow_phi: (S, n) or (S, n, K).
        shadow_is_member: bool (S, n), whether the shadow learned from the image.
        variant: "online" or "offline".
        is_global_variance: one standard deviation a label instead of one an image and label; recommended below some
            64 shadows.

    Returns:
        (n,) membership scores.

    Raises:
        ValueError: wrong shapes, a label known to some models only, too few shadows on either side of an image.

    Source:
        Carlini et al. (2022), Algorithm 1; medians as means as in its code. Several labels: a diagonal Gaussian.

    Differs:
        The global variance is the mean over images of the variance among an image's shadows, in and out apart; the
        authors' code pools all values of the members, which adds the differences between images to it.
        Offline adds up -log P over labels (Fisher's method); for one label it ranks as 1 - P does.

    Example:
        >>> shadows = np.array([[4.0], [6.0], [0.0], [2.0]])
        >>> lira([5.0], shadows, [[True], [True], [False], [False]]).round(3)
        array([8.])
    """
    if variant not in ("online", "offline"):
        raise ValueError(f"unknown variant {variant!r}: choose online or offline")
    phi, shadow_phi, known = _target_and_shadows(phi, shadow_phi)
    is_member = _state(shadow_is_member, shadow_phi, "shadow_is_member")
    out = _gaussian(shadow_phi, ~is_member, is_global_variance, "that did not learn from it")
    if variant == "offline":
        terms = -norm.logsf(phi, *out)
    else:
        within = _gaussian(shadow_phi, is_member, is_global_variance, "that learned from it")
        terms = norm.logpdf(phi, *within) - norm.logpdf(phi, *out)
    return np.where(known, terms, 0.0).sum(axis=1)


def u_lira(
    phi: ArrayLike,
    shadow_phi: ArrayLike,
    is_unlearned: ArrayLike,
    is_never_trained: ArrayLike,
    *,
    is_global_variance: bool = False,
) -> np.ndarray:
    """Likelihood ratio of each image: trained, then unlearned, against never trained.

    Args:
        phi: (n,) or (n, K), of the attacked unlearned model.
        shadow_phi: (S, n) or (S, n, K); every shadow that learned was unlearned with the same method and values.
        is_unlearned: bool (S, n), the shadow learned from the image and was made to forget it.
        is_never_trained: bool (S, n), it never learned from the image. A shadow that still remembers an image is
            in neither state for it.
        is_global_variance: see `lira`.

    Returns:
        (n,) scores, higher = likelier unlearned than never trained. Read with `membership_leak` over images that
        were unlearned and images that were never trained on.

    Raises:
        ValueError: as `lira`; a shadow in both states.

    Source:
        Hayes, Shumailov, Triantafillou, Khalifa and Papernot (2024), Inexact Unlearning Needs More Careful
        Evaluations to Avoid a False Sense of Privacy; no code of theirs is known, this follows the text.

    Differs:
        Gaussians as in `lira`; Ruli uses kernel densities.

    Example:
        >>> shadows = np.array([[4.0], [6.0], [0.0], [2.0]])
        >>> u_lira([1.0], shadows, [[1], [1], [0], [0]] > np.array(0), [[0], [0], [1], [1]] > np.array(0)).round(3)
        array([-8.])
    """
    phi, shadow_phi, known = _target_and_shadows(phi, shadow_phi)
    unlearned = _state(is_unlearned, shadow_phi, "is_unlearned")
    never = _state(is_never_trained, shadow_phi, "is_never_trained")
    if (unlearned & never).any():
        raise ValueError("a shadow is both unlearned and never trained for an image: one of the two masks is wrong")
    first = _gaussian(shadow_phi, unlearned, is_global_variance, "that unlearned it")
    second = _gaussian(shadow_phi, never, is_global_variance, "never trained on it")
    terms = norm.logpdf(phi, *first) - norm.logpdf(phi, *second)
    return np.where(known, terms, 0.0).sum(axis=1)


def lira_leave_pair_out(
    shadow_phi: ArrayLike, shadow_is_member: ArrayLike, *, variant: str = "online", is_global_variance: bool = False
) -> np.ndarray:
    """Attack each shadow with the others, save the one that learned the other half: scores (S, n).

    To be read flat beside `shadow_is_member`. Of shadows that were unlearned, this is `u_lira`: members have learned
    and unlearned the image, the others never saw it.

    Args:
        shadow_phi, variant, is_global_variance: see `lira`.
        shadow_is_member: bool (S, n), shadows 2k and 2k + 1 complementary (`training_stacked.random_halves`), so that
            each attack has as many shadows on either side. Were the attacked shadow alone left out, its own side would
            be one short and its Gaussian fit worse: noise then has an AUC of .48 with 16 shadows, where it now has .5.
            What is left, .06 / n with 16 shadows, is that shadows of one image help to attack each other.

    Raises:
        ValueError: fewer than two pairs, or pairs that are not complementary; as `lira`.

    Example:
        >>> shadows = np.array([[5.0], [0.0], [4.0], [2.0], [6.0], [1.0]])
        >>> scores = lira_leave_pair_out(shadows, [[True], [False]] * 3)
        >>> (scores[:, 0] > 0).tolist()
        [True, False, True, False, True, False]
    """
    shadow_phi, is_member = np.asarray(shadow_phi, dtype=np.float64), complementary_pairs(shadow_is_member)
    if len(is_member) < 4:
        raise ValueError(f"{len(is_member)} shadows: an attack on one pair with the others needs at least 4")
    pair = np.arange(len(shadow_phi)) // 2
    options = {"variant": variant, "is_global_variance": is_global_variance}
    attacks = [(s, pair != pair[s]) for s in range(len(shadow_phi))]
    return np.stack([lira(shadow_phi[s], shadow_phi[others], is_member[others], **options) for s, others in attacks])


def complementary_pairs(is_member: ArrayLike) -> np.ndarray:
    """Return the memberships, bool (S, n), if of shadows 2k and 2k + 1 exactly one learned from each image.

    Raises:
        ValueError: they are not so; the message gives the fix.
    """
    is_member = np.asarray(is_member)
    if is_member.ndim != 2 or is_member.dtype != bool or len(is_member) % 2:
        raise ValueError(f"memberships are {is_member.dtype} {is_member.shape}: expected bool (S, n) with an even S")
    same = is_member[::2] == is_member[1::2]
    if same.any():
        pair, image = np.argwhere(same)[0].tolist()
        raise ValueError(
            f"of shadows {2 * pair} and {2 * pair + 1} not exactly one learned from image {image}: deal an even number "
            "of images with training_stacked.random_halves"
        )
    return is_member


def shuffled_pairs(is_member: ArrayLike, *, seed: int) -> np.ndarray:
    """Memberships in which a coin decides, image by image and pair by pair, who of the two learned from it, (S, n).

    What an attack finds under them it finds in noise.

    Args:
        is_member: bool (S, n), complementary pairs.
        seed: of the coins.

    Example:
        >>> shuffled_pairs([[True] * 4, [False] * 4], seed=0).sum(axis=0)
        array([1, 1, 1, 1])
    """
    is_member = complementary_pairs(is_member)
    flips = np.random.default_rng(seed).random((len(is_member) // 2, is_member.shape[1])) < 0.5
    return is_member ^ np.repeat(flips, 2, axis=0)


# From images to people


def unit_scores(scores: ArrayLike, unit: ArrayLike) -> np.ndarray:
    """Membership scores of people from those of their images: the mean.

    Of equally many images a person, the mean log-likelihood ratio ranks people as the sum does, which is the ratio of
    the whole set when images are independent; of unequally many, the sum would rank by their number.

    Args:
        scores: (..., n), log-likelihood ratios (`lira`, `u_lira`) or minus a loss.
        unit: int (n,), the person of each image, 0 .. U - 1, each with at least one image.

    Returns:
        (..., U), higher = likelier a member.

    Raises:
        ValueError: other shapes or types, scores that are not finite, or a person without an image.

    Source:
        User-level inference: Kandpal et al. (2023), User Inference Attacks on Large Language Models, averages
        log-likelihood ratios over a user's texts. The question, with images that were not trained on: Li, Rezaei and
        Liu (2022), User-Level Membership Inference Attack against Metric Embedding Learning.

    Differs:
        Ratios of `lira`, between models with and without the person, where Kandpal et al. divide by one reference
        model; Li et al. attack distances of embeddings.

    Example:
        >>> unit_scores([1.0, 3.0, -1.0], [0, 0, 1])
        array([ 2., -1.])
    """
    scores, unit = np.asarray(scores, dtype=np.float64), np.asarray(unit)
    if unit.ndim != 1 or not unit.size or not np.issubdtype(unit.dtype, np.integer) or scores.shape[-1:] != unit.shape:
        raise ValueError(
            f"scores {scores.shape} and unit {unit.dtype} {unit.shape}: expected (..., n) and integers (n,)"
        )
    check_finite(scores, "scores")
    if unit.min() < 0 or not (counts := np.bincount(unit)).all():
        raise ValueError(f"units {unit.min()}..{unit.max()} have gaps: number those that have images 0..U-1")
    return scores @ (np.eye(len(counts))[unit] / counts)


def attack_shadows(
    shadow_phi: ArrayLike,
    is_member: ArrayLike,
    unit: ArrayLike,
    *,
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
) -> list[dict]:
    """A strong and a weak attack on shadows: how well each tells the units that a shadow learned from the others.

    Args:
        shadow_phi: (S, n) or (S, n, K), confidences of the shadows as they are now (unlearned or not).
        is_member: bool (S, U), the shadow learned from the unit, complementary pairs.
        unit: int (n,), the unit of each image, 0 .. U - 1: the image itself, or a person.
        seed: of the intervals, whose resamples draw units.
        num_resamples: of each interval.

    Returns:
        Two rows with attacker and everything of `membership_leak`: "U-LiRA" (`lira_leave_pair_out`, one variance for
        all images) and "loss threshold" (minus the mean loss).

    Raises:
        ValueError: as `lira_leave_pair_out` and `unit_scores`.

    Source:
        Hayes et al. (2024); Yeom et al. (2018).
    """
    is_member = complementary_pairs(is_member)
    rows = []
    for attacker, scores in _scores_of_units(shadow_phi, is_member, unit).items():
        identity = np.broadcast_to(np.arange(scores.shape[1]), scores.shape).ravel()
        options = {"identity": identity, "seed": seed, "num_resamples": num_resamples}
        rows.append({"attacker": attacker, **membership_leak(scores.ravel(), is_member.ravel(), **options)})
    return rows


def null_on_shuffles(
    shadow_phi: ArrayLike,
    is_member: ArrayLike,
    unit: ArrayLike,
    *,
    seed: int,
    num_shuffles: int = _NUM_SHUFFLES,
    level: float = LEVEL,
) -> list[dict]:
    """What `attack_shadows` gives where there is nothing to find: coins decide who learned what (`shuffled_pairs`).

    Args:
        shadow_phi, is_member, unit: see `attack_shadows`.
        seed: of the coins.
        num_shuffles: number of shuffles.
        level: share of the shuffles between `_low` and `_high`.

    Returns:
        Two rows with attacker and each of `MEMBERSHIP_METRICS`: mean over the shuffles, `_low` and `_high`. With few
        units the shuffles lie far apart: one of them alone says little.
    """
    is_member = complementary_pairs(is_member)
    samples: dict[str, list[np.ndarray]] = {}
    for seed_of_one in np.random.SeedSequence(seed).generate_state(num_shuffles):
        shuffled = shuffled_pairs(is_member, seed=int(seed_of_one))
        weights = shuffled.ravel()[None].astype(np.float64)
        for attacker, scores in _scores_of_units(shadow_phi, shuffled, unit).items():
            samples.setdefault(attacker, []).append(_membership_metrics(scores.ravel(), weights, 1 - weights)[0])
    return [
        {"attacker": name, **with_intervals(MEMBERSHIP_METRICS, np.mean(own, axis=0), np.stack(own), level=level)}
        for name, own in samples.items()
    ]


def _scores_of_units(shadow_phi: ArrayLike, is_member: np.ndarray, unit: ArrayLike) -> dict[str, np.ndarray]:
    """Scores (S, U) of the strong and of the weak attack."""
    phi, unit = np.asarray(shadow_phi, dtype=np.float64), np.asarray(unit)
    strong = lira_leave_pair_out(phi, is_member[:, unit], is_global_variance=True)
    weak = -confidence_loss(phi.reshape(-1, *phi.shape[2:])).reshape(phi.shape[:2])
    return {"U-LiRA": unit_scores(strong, unit), "loss threshold": unit_scores(weak, unit)}


def rmia(
    losses: ArrayLike,
    reference_losses: ArrayLike,
    reference_is_member: ArrayLike,
    population_losses: ArrayLike,
    population_reference_losses: ArrayLike,
    *,
    offset: float = 0.3,
    gamma: float = 1.0,
) -> np.ndarray:
    """Share of population images that an image dominates: made for one to four reference models.

    With p = exp(-loss) and p_out(x) its mean over the references that did not learn from x:
    ratio(x) = p(x) / (((1 + a) p_out(x) + (1 - a)) / 2); score = share of z with ratio(x) / ratio(z) > gamma.

    Args:
        losses: (n,), at least 0, of the attacked model: losses, not probabilities (`confidence_loss`).
        reference_losses: (S, n).
        reference_is_member: bool (S, n), whether the reference learned from the image; not all may have.
        population_losses: (m,), of images that neither the attacked model nor a reference learned from.
        population_reference_losses: (S, m).
        offset: a in [0, 1]; choose it with `rmia_offset`, never on the images under attack.
        gamma: at least 1.

    Returns:
        (n,) in [0, 1].

    Raises:
        ValueError: wrong shapes, negative or infinite losses, an image that every reference learned from.

    Source:
        Zarifzadeh, Liu and Shokri (2024), Low-Cost High-Power Membership Inference Attacks, offline form.

    Differs:
        p of several labels is exp of minus the mean loss, their geometric mean. The denominator is the same for
        population and image up to the references that are out.

    Example:
        >>> rmia([0.1, 2.0], [[1.0, 1.0]], [[False, False]], [1.0, 1.2], [[1.0, 1.0]])
        array([1., 0.])
    """
    if not 0 <= offset <= 1 or gamma < 1:
        raise ValueError(f"offset {offset} and gamma {gamma}: expected an offset in [0, 1] and gamma at least 1")
    out = ~np.asarray(reference_is_member, dtype=bool)
    log_ratio = _log_ratio(losses, reference_losses, out, offset)
    population = np.asarray(population_reference_losses)
    log_ratio_z = np.sort(_log_ratio(population_losses, population, np.ones(population.shape, dtype=bool), offset))
    return np.searchsorted(log_ratio_z, log_ratio - np.log(gamma), side="left") / len(log_ratio_z)


def rmia_offset(
    reference_losses: ArrayLike, reference_is_member: ArrayLike, population_reference_losses: ArrayLike
) -> float:
    """The offset in 0, .1, ..., 1 that best attacks the first reference model with the help of the others.

    Args:
        reference_losses: (S, n), S >= 2.
        reference_is_member: bool (S, n).
        population_reference_losses: (S, m).

    Source:
        Zarifzadeh, Liu and Shokri (2024): tuned on a paired model whose members are known, by AUC.

    Example:
        >>> rmia_offset([[0.0, 1.0], [1.0, 1.0]], [[True, False], [False, False]], [[1.0], [1.0]])
        0.0
    """
    losses, population = np.asarray(reference_losses), np.asarray(population_reference_losses)
    is_member = np.asarray(reference_is_member, dtype=bool)
    if len(losses) < 2:
        raise ValueError(f"{len(losses)} reference model: tuning attacks one with the others, so it needs two")
    usable = (~is_member[1:]).any(axis=0)
    aucs = []
    for tenth in range(11):
        scores = rmia(
            losses[0][usable],
            losses[1:][:, usable],
            is_member[1:][:, usable],
            population[0],
            population[1:],
            offset=tenth / 10,
        )
        one = np.ones((1, len(scores)))
        aucs.append(weighted_auc(scores, one * is_member[0][usable], one * ~is_member[0][usable])[0])
    return int(np.nanargmax(aucs)) / 10


def _log_ratio(losses: ArrayLike, reference_losses: ArrayLike, out: np.ndarray, offset: float) -> np.ndarray:
    losses, references = np.asarray(losses, dtype=np.float64), np.asarray(reference_losses, dtype=np.float64)
    if losses.ndim != 1 or references.shape != out.shape or references.shape[1:] != losses.shape or not losses.size:
        raise ValueError(
            f"losses {losses.shape}, references {references.shape}, members {out.shape}: expected (n,), (S, n), (S, n)"
        )
    for values in (losses, references):
        check_finite(values, "losses")
        if (values < 0).any():
            raise ValueError(f"loss {values.min():g} found: expected losses of at least 0, not probabilities or logits")
    if not out.any(axis=0).all():
        raise ValueError(f"every reference learned from image {int(np.argmin(out.any(axis=0)))}: one must not have")
    mean_out = (np.exp(-references) * out).sum(axis=0) / out.sum(axis=0)
    return -losses - np.log(((1 + offset) * mean_out + (1 - offset)) / 2)


def _labelled_scores(
    scores: ArrayLike, is_member: ArrayLike, identity: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Checked arrays in an order that depends on their content only."""
    scores, is_member = np.asarray(scores, dtype=np.float64), np.asarray(is_member)
    if scores.ndim != 1 or is_member.shape != scores.shape or is_member.dtype != bool:
        raise ValueError(
            f"scores {scores.shape} and is_member {is_member.shape} {is_member.dtype}: expected (n,) and bool (n,)"
        )
    check_finite(scores, "scores")
    if is_member.all() or not is_member.any():
        raise ValueError(f"all {scores.size} images are {'' if is_member.any() else 'non-'}members: both are needed")
    if identity is not None:
        identity = np.asarray(identity)
        people(identity, len(scores))  # refuses what is no identity
    order = sorted_rows(scores, is_member, identity)
    return scores[order], is_member[order], None if identity is None else identity[order]


def _membership_metrics(scores: np.ndarray, members: np.ndarray, others: np.ndarray) -> np.ndarray:
    """`MEMBERSHIP_METRICS` under each row of weights, (B, 4)."""
    tpr, fpr = weighted_roc(scores, members, others)
    balanced = np.maximum(((tpr + 1 - fpr) / 2).max(axis=1), 0.5)  # .5: calling nobody a member
    # A rate is a ratio of counts: a rounding error must not turn 1 of 100 into more than .01.
    at = [np.where(fpr <= rate * (1 + 1e-12), tpr, 0.0).max(axis=1) for rate in FALSE_POSITIVE_RATES]
    columns = np.stack([weighted_auc(scores, members, others), balanced, *at], axis=1)
    columns[np.isnan(columns[:, 0])] = np.nan
    return columns


def _confidences(phi: ArrayLike, dimensions: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Confidences with a last axis of labels, and which are known."""
    phi = np.asarray(phi, dtype=np.float64)
    if phi.ndim not in dimensions or not phi.size:
        raise ValueError(f"confidences have shape {phi.shape}: expected {' or '.join(map(str, dimensions))} dimensions")
    if np.isinf(phi).any():
        raise ValueError("infinite confidences found: the model has diverged")
    phi = phi[..., None] if phi.ndim == min(dimensions) else phi
    return phi, ~np.isnan(phi)


def _target_and_shadows(phi: ArrayLike, shadow_phi: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidences (n, K) and (S, n, K), and which labels are known, (n, K)."""
    phi, known = _confidences(phi, (1, 2))
    shadow_phi, shadow_known = _confidences(shadow_phi, (2, 3))
    if shadow_phi.shape[1:] != phi.shape:
        raise ValueError(
            f"confidences {phi.shape} and those of the shadows {shadow_phi.shape}: images or labels differ"
        )
    if (shadow_known != known).any():
        raise ValueError("a confidence is nan in one model and not in another: nan means an unknown label, so in all")
    if not known.any(axis=1).all():
        raise ValueError(f"image {int(np.argmin(known.any(axis=1)))} has no known label: drop it")
    return phi, shadow_phi, known


def _state(mask: ArrayLike, shadow_phi: np.ndarray, name: str) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.shape != shadow_phi.shape[:2]:
        raise ValueError(f"{name} has dtype {mask.dtype} and shape {mask.shape}: expected bool {shadow_phi.shape[:2]}")
    return mask


def _gaussian(
    shadow_phi: np.ndarray, mask: np.ndarray, is_global_variance: bool, which: str
) -> tuple[np.ndarray, np.ndarray]:
    """Median and standard deviation, both (n, K), over the shadows in the mask (S, n)."""
    counts = mask.sum(axis=0)
    needed = 1 if is_global_variance else 2
    if counts.min() < needed:
        raise ValueError(
            f"image {int(np.argmin(counts))} has {counts.min()} shadow models {which}: at least {needed} are needed; "
            "train more shadows, leave the image out, or use is_global_variance (one suffices then)"
        )
    if is_global_variance and counts.max() < 2:
        raise ValueError(f"no image has two shadow models {which}: a variance needs two; train more shadows")
    chosen = mask[:, :, None]
    # nan sorts to the end: the middle of the others is at known places, much faster than np.nanmedian.
    ordered = np.sort(np.where(chosen, shadow_phi, np.nan), axis=0)
    images = np.arange(len(counts))
    center = (ordered[(counts - 1) // 2, images] + ordered[counts // 2, images]) / 2
    mean = np.where(chosen, shadow_phi, 0.0).sum(axis=0) / counts[:, None]
    squares = np.where(chosen, (shadow_phi - mean) ** 2, 0.0).sum(axis=0)
    if is_global_variance:
        # Over degrees of freedom: a variance of few values is too small by (count - 1) / count.
        free = np.where(np.isnan(squares), 0, counts[:, None] - 1).sum(axis=0)
        variance = np.nansum(squares, axis=0) / np.maximum(free, 1)
    else:
        variance = squares / counts[:, None]
    return center, np.broadcast_to(np.sqrt(variance), center.shape) + _SMALLEST_STD
