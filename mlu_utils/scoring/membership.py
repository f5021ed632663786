"""Membership inference: was this image (this label of it) among what the model learned from?

Signals of an image (logit-scaled confidence, loss) become membership scores (n,), higher = likelier a member, and one
function reads them all: `membership_leak`. Shapes: n images, K labels, C classes, S shadow models, which come as their
outputs. Confidences phi are (n,) or (n, K), those of shadows (S, n) or (S, n, K); nan = unknown label. `identity`, seed
and draws are those of `bootstrap`. What breaks this is refused with a ValueError.
"""

from functools import partial

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm

from mlu_utils.naming import require_choice
from mlu_utils.scoring import bootstrap as boot
from mlu_utils.scoring.arrays import checked, known_classes
from mlu_utils.scoring.nomus import SMALLEST, split_accuracies
from mlu_utils.scoring.utility import class_margins

FALSE_POSITIVE_RATES = (0.01, 0.001)
MEMBERSHIP_METRICS = ("auc", "best_balanced_accuracy", *(f"tpr_at_fpr_{rate:g}" for rate in FALSE_POSITIVE_RATES))


def label_confidence(logits: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Logit-scaled confidence of each binary label, (n, K): phi = log p_y - log(1 - p_y) = (2 y - 1) z, exactly.

    Source: Carlini et al. (2022), Membership Inference Attacks From First Principles, IV-C, where images have one.
    """
    logits, labels = checked(logits=(logits, "n K"), labels=(labels, "n K", "label"))
    return (2 * labels - 1) * logits


def class_confidence(logits: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Logit-scaled confidence of the true class, (n,): phi = log p_y - log sum over i != y of p_i."""
    logits, labels = known_classes(logits, labels)
    return class_margins(logits)[np.arange(len(labels)), labels]


def confidence_loss(phi: ArrayLike) -> np.ndarray:
    """(Binary) cross-entropy of an image, (n,): -log p_y = log(1 + exp(-phi)), the mean over its known labels."""
    (phi,) = checked(confidences=(_with_labels(phi, 1), "n K", "partial"))
    known = _known(phi)
    losses = np.logaddexp(0, -np.where(known, phi, 0.0))
    return (losses * known).sum(axis=1) / known.sum(axis=1)


def membership_leak(
    scores: ArrayLike, is_member: ArrayLike, *, identity: ArrayLike | None = None, seed: int, **draws: float
) -> dict[str, float]:
    """How well scores tell members, bool (n,), from others, with bootstrap intervals; after Carlini et al. (2022).

    auc: below .5 = over-unlearned, "members" look stranger; best_balanced_accuracy: max over thresholds of (TPR + 1 -
    FPR) / 2, on these very rows; tpr_at_fpr_0.01 and _0.001: largest TPR with at most that FPR; leak_auc = max(auc, 1 -
    auc); all with `_low`, `_high`; num_members, num_nonmembers. Yeom et al. (2018): scores = -loss.

    >>> membership_leak([3.0, 2.0, 1.0, 0.0], [True, True, False, False], seed=0)["auc"]
    1.0
    """
    scores, is_member, identity = _labelled(scores, is_member, identity)
    metrics = partial(_membership_metrics, scores)
    result = boot.of_two_groups(MEMBERSHIP_METRICS, metrics, is_member, identity=identity, seed=seed, **draws)
    return result | {"num_members": int(is_member.sum()), "num_nonmembers": int((~is_member).sum())}


def pooled(member_values: ArrayLike, nonmember_values: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Values of members (n,) and of others (m,) in one array (n + m,), and is_member (n + m,)."""
    members, others = checked(members=(member_values, "n"), others=(nonmember_values, "m"))
    return np.concatenate([members, others]), np.arange(len(members) + len(others)) < len(members)


def null_on_halves(
    scores: ArrayLike, *, identity: ArrayLike | None = None, seed: int, num_splits: int = 1_000
) -> dict[str, float]:
    """What `membership_leak` gives where there is nothing to find: random halves of two or more unseen images.

    `MEMBERSHIP_METRICS`: mean over splits, 95 % within `_low` and `_high`; for other sizes only the AUC's null holds.
    """
    scores, identity = boot.in_order(*checked(scores=(scores, "n"), identity=(identity, "n", "whole")))
    unit = boot.units(identity, len(scores))
    num_units = int(unit.max()) + 1
    ranks = np.argsort(np.random.default_rng(seed).random((num_splits, num_units)), axis=1)
    is_member = (ranks < num_units // 2)[:, unit].astype(np.float64)
    return _null(_membership_metrics(scores, is_member, 1 - is_member))


def logistic_loss_attack(losses: ArrayLike, is_member: ArrayLike, *, seed: int = 0) -> dict[str, float]:
    """Accuracy of a logistic regression that tells forgotten images (members) from unseen ones by their loss.

    Mean over 10 stratified splits, 10 % to test; forgetting_score = |accuracy - .5|; num_members, num_nonmembers: used,
    at least ten of each. One threshold misses much: read `membership_leak` too. Source: MUFAC / MUCAC protocol (Choi
    and Na, 2023), after the NeurIPS 2023 challenge. Differs: the larger set is cut at random; theirs cuts members only.
    """
    losses, is_member, _ = _labelled(losses, is_member)
    rng = np.random.default_rng(seed)
    sides = [losses[is_member], losses[~is_member]]
    size = min(map(len, sides))
    if size < SMALLEST:
        raise ValueError(f"{len(sides[0])} members and {len(sides[1])} others: 10 % to test need ten of each")
    chosen = np.concatenate([np.sort(rng.permutation(side)[:size]) for side in sides])
    accuracies = split_accuracies(chosen, np.arange(2 * size) < size, seed=seed)
    accuracy = float(accuracies.mean())
    spread = {"forgetting_score": abs(accuracy - 0.5), "accuracy_sd": float(accuracies.std())}
    return {"accuracy": accuracy, **spread, "num_members": size, "num_nonmembers": size}


def lira(
    phi: ArrayLike,
    shadow_phi: ArrayLike,
    shadow_is_member: ArrayLike,
    *,
    never_trained: ArrayLike | None = None,
    variant: str = "online",
    is_global_variance: bool = False,
) -> np.ndarray:
    """Likelihood ratio (n,) of each image: its confidence, against those of shadows that learned from it or did not.

    With Gaussians N(mu_in, s_in), N(mu_out, s_out) an image and label, "online" is the sum over labels of log N(phi;
    in) - log N(phi; out); "offline" that of -log P(N(out) > phi), which needs no shadow that learned from the image. A
    global variance is one a label, better below some 64 shadows. U-LiRA (Hayes et al., 2024): members, bool (S, n),
    were unlearned again, as the attacked model was; `never_trained`, bool (S, n), are all others unless told, though
    some may still remember.

    Source: Carlini et al. (2022), Algorithm 1; medians as means as in its code.
    Differs: several labels make a diagonal Gaussian; offline adds up -log P over labels (Fisher's method). The global
    variance is that among an image's shadows, in and out apart; the authors' code pools all members. For U-LiRA, Ruli
    has kernel densities; no code of its authors is known.
    """
    require_choice("variant", variant, ("online", "offline"))
    outside = np.logical_not(shadow_is_member) if never_trained is None else never_trained
    phi, shadow_phi, inside, outside = checked(
        confidences=(_with_labels(phi, 1), "n K", "partial"),
        shadow_confidences=(_with_labels(shadow_phi, 2), "S n K", "partial"),
        learned_from_it=(shadow_is_member, "S n", "bool"),
        did_not=(outside, "S n", "bool"),
    )
    if (inside & outside).any():
        raise ValueError("a shadow both learned and never trained on an image: one of the two masks is wrong")
    if (np.isnan(shadow_phi) != np.isnan(phi)).any():
        raise ValueError("a confidence is nan in one model and not in another: nan means an unknown label, so in all")
    known = _known(phi)
    out = _gaussian(shadow_phi, outside, "did_not", is_global_variance)
    if variant == "offline":
        ratio = -norm.logsf(phi, *out)
    else:
        learned = _gaussian(shadow_phi, inside, "learned_from_it", is_global_variance)
        ratio = norm.logpdf(phi, *learned) - norm.logpdf(phi, *out)
    return np.where(known, ratio, 0.0).sum(axis=1)


def lira_leave_pair_out(shadow_phi: ArrayLike, shadow_is_member: ArrayLike, **options: object) -> np.ndarray:
    """Attack each shadow with all others but the one that learned the other half: scores (S, n); options of `lira`."""
    phi, is_member = np.asarray(shadow_phi, dtype=np.float64), complementary_pairs(shadow_is_member)
    if len(is_member) < 4:
        raise ValueError(f"{len(is_member)} shadows: an attack on one pair with the others needs at least 4")
    # Were only the attacked shadow left out, its own side would have one fewer: noise gets an AUC of .48 with 16.
    pair = np.arange(len(phi)) // 2
    others = pair[:, None] != pair  # (S, S)
    return np.stack([lira(own, phi[rest], is_member[rest], **options) for own, rest in zip(phi, others, strict=True)])


def complementary_pairs(is_member: ArrayLike) -> np.ndarray:
    """The memberships, bool (S, n), if of shadows 2k and 2k + 1 exactly one learned from each image; else an error."""
    (is_member,) = checked(memberships=(is_member, "S n", "bool"))
    if len(is_member) % 2:
        raise ValueError(f"{len(is_member)} shadows are no pairs: train an even number")
    same = is_member[::2] == is_member[1::2]
    if same.any():
        pair, image = np.argwhere(same)[0].tolist()
        which = f"of shadows {2 * pair} and {2 * pair + 1} not exactly one learned from image {image}"
        raise ValueError(f"{which}: deal an even number of images with attacks.stacked.random_halves")
    return is_member


def shuffled_pairs(is_member: ArrayLike, *, seed: int) -> np.ndarray:
    """Memberships (S, n) in which a coin decides, image by image, who of a pair learned from it: a null for attacks."""
    is_member = complementary_pairs(is_member)
    flips = np.random.default_rng(seed).random((len(is_member) // 2, is_member.shape[1])) < 0.5
    return is_member ^ np.repeat(flips, 2, axis=0)


def unit_scores(scores: ArrayLike, unit: ArrayLike) -> np.ndarray:
    """Membership scores of people, (U,) or (S, U), from those of their images, (n,) or (S, n): the mean.

    `unit`, int (n,), is the person of each image, 0 .. U - 1; a sum would favour many images. Source: Kandpal et al.
    (2023), User Inference Attacks on Large Language Models. Differs: ratios of `lira`; theirs have one reference model.
    """
    scores = np.asarray(scores, dtype=np.float64)
    _, unit = checked(scores=(np.atleast_2d(scores), "S n"), units=(unit, "n", "whole"))
    if unit.min() < 0 or not (counts := np.bincount(unit)).all():
        raise ValueError(f"units {unit.min()}..{unit.max()} have gaps: number those that have images 0..U-1")
    return scores @ (np.eye(len(counts))[unit] / counts)


def attack_shadows(
    shadow_phi: ArrayLike, is_member: ArrayLike, unit: ArrayLike, *, seed: int, **draws: float
) -> list[dict]:
    """A strong and a weak attack on shadows: how well each tells the units that a shadow learned from the others.

    `unit`, see `unit_scores`, are people or images; `is_member`, bool (S, U), has complementary pairs. Units are drawn.
    Records: attacker and all of `membership_leak`: "U-LiRA" (one variance), "loss threshold" (minus mean loss).
    """
    is_member = complementary_pairs(is_member)
    records = []
    for attacker, scores in _scores_of_units(shadow_phi, is_member, unit).items():
        identity = np.broadcast_to(np.arange(scores.shape[1]), scores.shape).ravel()
        found = membership_leak(scores.ravel(), is_member.ravel(), identity=identity, seed=seed, **draws)
        records.append({"attacker": attacker, **found})
    return records


def null_on_shuffles(
    shadow_phi: ArrayLike, is_member: ArrayLike, unit: ArrayLike, *, seed: int, num_shuffles: int = 100
) -> list[dict]:
    """What `attack_shadows` gives on `shuffled_pairs`: records of attacker and of what `null_on_halves` has."""
    samples: dict[str, list[np.ndarray]] = {}
    for seed_of_one in np.random.SeedSequence(seed).generate_state(num_shuffles):
        shuffled = shuffled_pairs(is_member, seed=int(seed_of_one))
        weights = shuffled.ravel()[None].astype(np.float64)
        for attacker, scores in _scores_of_units(shadow_phi, shuffled, unit).items():
            samples.setdefault(attacker, []).append(_membership_metrics(scores.ravel(), weights, 1 - weights)[0])
    return [{"attacker": name, **_null(np.stack(own))} for name, own in samples.items()]


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
    """Share of population images that an image dominates, (n,) in [0, 1]: made for one to four reference models.

    With p = exp(-loss) and p_out(x) its mean over references that did not learn x, ratio(x) = p(x) / (((1 + a) p_out(x)
    + (1 - a)) / 2); score = share of z with ratio(x) / ratio(z) > gamma >= 1. Losses are (n,), (S, n), (m,) and (S, m),
    >= 0, means over labels; no model learned the population. Let `rmia_offset` choose a in [0, 1], never the
    images under attack. Source: Zarifzadeh, Liu and Shokri (2024), Low-Cost High-Power Membership Inference Attacks.
    """
    if not 0 <= offset <= 1 or gamma < 1:
        raise ValueError(f"offset {offset} and gamma {gamma}: expected an offset in [0, 1] and gamma at least 1")
    log_ratio = _rmia_ratio(losses, reference_losses, np.logical_not(reference_is_member), offset)
    nobody = np.ones(np.shape(population_reference_losses), dtype=bool)
    log_ratio_z = np.sort(_rmia_ratio(population_losses, population_reference_losses, nobody, offset))
    return np.searchsorted(log_ratio_z, log_ratio - np.log(gamma), side="left") / len(log_ratio_z)


def rmia_offset(
    reference_losses: ArrayLike, reference_is_member: ArrayLike, population_reference_losses: ArrayLike
) -> float:
    """The offset in 0, .1, ..., 1 of `rmia` that best attacks the first of S >= 2 references with the others."""
    losses, population = np.asarray(reference_losses), np.asarray(population_reference_losses)
    if len(losses) < 2:
        raise ValueError(f"{len(losses)} reference model: tuning attacks one with the others, so it needs two")
    is_member = np.asarray(reference_is_member, dtype=bool)
    usable = (~is_member[1:]).any(axis=0)
    losses, is_member = losses[:, usable], is_member[:, usable]
    one, aucs = np.ones((1, losses.shape[1])), []
    for tenth in range(11):
        scores = rmia(losses[0], losses[1:], is_member[1:], population[0], population[1:], offset=tenth / 10)
        aucs.append(boot.weighted_auc(scores, one * is_member[0], one * ~is_member[0])[0])
    return int(np.nanargmax(aucs)) / 10


def _scores_of_units(shadow_phi: ArrayLike, is_member: np.ndarray, unit: ArrayLike) -> dict[str, np.ndarray]:
    """Scores (S, U) of the strong and of the weak attack."""
    phi, unit = np.asarray(shadow_phi, dtype=np.float64), np.asarray(unit)
    strong = lira_leave_pair_out(phi, is_member[:, unit], is_global_variance=True)
    weak = -confidence_loss(phi.reshape(-1, *phi.shape[2:])).reshape(phi.shape[:2])
    return {"U-LiRA": unit_scores(strong, unit), "loss threshold": unit_scores(weak, unit)}


def _rmia_ratio(losses: ArrayLike, reference_losses: ArrayLike, out: np.ndarray, offset: float) -> np.ndarray:
    losses, references, out = checked(
        losses=(losses, "n"), reference_losses=(reference_losses, "S n"), is_member=(out, "S n", "bool")
    )
    if (smallest := min(losses.min(), references.min())) < 0:
        raise ValueError(f"loss {smallest:g} found: expected losses of at least 0, not probabilities or logits")
    if not out.any(axis=0).all():
        raise ValueError(f"every reference learned from image {int(np.argmin(out.any(axis=0)))}: one must not have")
    mean_out = (np.exp(-references) * out).sum(axis=0) / out.sum(axis=0)
    return -losses - np.log(((1 + offset) * mean_out + (1 - offset)) / 2)


def _labelled(scores: ArrayLike, is_member: ArrayLike, identity: ArrayLike | None = None) -> list[np.ndarray | None]:
    """Checked arrays of members and others, in an order that depends on their content only."""
    scores, is_member, identity = checked(
        scores=(scores, "n"), is_member=(is_member, "n", "bool"), identity=(identity, "n", "whole")
    )
    if is_member.all() or not is_member.any():
        raise ValueError(f"all {scores.size} images are {'' if is_member.any() else 'non-'}members: both are needed")
    return boot.in_order(scores, is_member, identity)


def _membership_metrics(scores: np.ndarray, members: np.ndarray, others: np.ndarray) -> np.ndarray:
    """`MEMBERSHIP_METRICS` under each row of weights, (B, 4)."""
    tpr, fpr = boot.weighted_roc(scores, members, others)
    balanced = np.maximum(((tpr + 1 - fpr) / 2).max(axis=1), 0.5)  # .5: calling nobody a member
    # A rate is a ratio of counts: a rounding error must not turn 1 of 100 into more than .01.
    at = [np.where(fpr <= rate * (1 + 1e-12), tpr, 0.0).max(axis=1) for rate in FALSE_POSITIVE_RATES]
    columns = np.stack([boot.weighted_auc(scores, members, others), balanced, *at], axis=1)
    columns[np.isnan(columns[:, 0])] = np.nan
    return columns


def _null(samples: np.ndarray) -> dict[str, float]:
    return boot.spread(MEMBERSHIP_METRICS, np.nanmean(samples, axis=0), samples)


def _with_labels(phi: ArrayLike, num_axes: int) -> np.ndarray:
    """Confidences with a last axis of labels, which those of one label lack."""
    phi = np.asarray(phi, dtype=np.float64)
    return phi[..., None] if phi.ndim == num_axes else phi


def _known(phi: np.ndarray) -> np.ndarray:
    """Which labels are known, bool (n, K), at least one of each image."""
    known = ~np.isnan(phi)
    if not known.any(axis=1).all():
        raise ValueError(f"image {int(np.argmin(known.any(axis=1)))} has no known label: drop it")
    return known


def _gaussian(phi: np.ndarray, mask: np.ndarray, state: str, is_global_variance: bool) -> tuple[np.ndarray, ...]:
    """Median and standard deviation, both (n, K), over the shadows in the mask (S, n)."""
    counts, needed = mask.sum(axis=0), 1 if is_global_variance else 2
    if counts.min() < needed or counts.max() < 2:
        which = f"image {int(np.argmin(counts))} has {counts.min()} shadow models with {state}: at least {needed}"
        raise ValueError(f"{which} and two for some image; train more, leave it out, or use is_global_variance")
    chosen = mask[:, :, None]
    # nan sorts to the end: the middle of the others is at known places, much faster than np.nanmedian.
    ordered = np.sort(np.where(chosen, phi, np.nan), axis=0)
    images = np.arange(len(counts))
    center = (ordered[(counts - 1) // 2, images] + ordered[counts // 2, images]) / 2
    mean = np.where(chosen, phi, 0.0).sum(axis=0) / counts[:, None]
    squares = np.where(chosen, (phi - mean) ** 2, 0.0).sum(axis=0)
    variance = squares / counts[:, None]
    if is_global_variance:
        # Over degrees of freedom: a variance of few values is too small by (count - 1) / count.
        free = np.where(np.isnan(squares), 0, counts[:, None] - 1).sum(axis=0)
        variance = np.nansum(squares, axis=0) / np.maximum(free, 1)
    # Shadows may all agree; 1e-30 as LiRA's authors do.
    return center, np.broadcast_to(np.sqrt(variance), center.shape) + 1e-30
