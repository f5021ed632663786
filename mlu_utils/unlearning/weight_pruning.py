"""Weight Pruning (WP): three zones of importance, only the diagonal of the Hessian.

Hossain et al. (2025), Algorithm 2. The steps are functions, `weight_pruning` runs them in order: calibration images
-> sensitivity and diagonal Hessian -> importance -> forget set -> thresholds -> zones -> pruning -> constrained
fine-tuning, in rounds whose pruned share adapts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from mlu_utils.models import copy_of
from mlu_utils.naming import require_at_least, require_choice, require_share
from mlu_utils.requests import retain_loss
from mlu_utils.training import predict_logits
from mlu_utils.unlearning import READINGS, curvature, importance, selection
from mlu_utils.unlearning.constrained_finetune import constrained_finetune
from mlu_utils.unlearning.task import Task

# Zones of Algorithm 2, as values of an int8 vector over the weights.
UNTOUCHED, ZEROED, SHRUNK, NUDGED = 0, 1, 2, 3
ZONE_NAMES = ("untouched", "zeroed", "shrunk", "nudged")
TOLERANCE = 0.05  # growth of the retain loss that lets the share of weights grow


def pruning_importance(
    sensitivity: torch.Tensor, hessian: torch.Tensor, weights: torch.Tensor, *, alpha: float, beta: float
) -> torch.Tensor:
    """Return I(w) = alpha S(w) + beta 1/2 H_ww w^2 for each weight, both terms scaled to mean 1.

    Args:
        sensitivity: S(w) = |dL/dw|.
        hessian: H_ww >= 0, the diagonal of the Hessian of L.
        weights: w.
        alpha, beta: weights of the two terms, >= 0.

    Source: Hossain et al. (2025), Algorithm 2; the second term is LeCun, Denker and Solla (1990).

    Differs: S is a slope and 1/2 H w^2 a change of loss, about 10^4 times smaller in a ResNet-18: unscaled, no beta
    of order 1 would count, so each is divided by its mean.
    """
    tiny = torch.finfo(sensitivity.dtype).tiny
    saliency = (hessian * weights).mul_(weights)  # the factor 1/2 cancels against its mean
    scaled = sensitivity * (alpha / sensitivity.mean().clamp_min(tiny))
    return scaled.add_(saliency.mul_(beta / saliency.mean().clamp_min(tiny)))


def assign_zones(
    scores: torch.Tensor,
    chosen: torch.Tensor,
    thresholds: selection.Thresholds,
    *,
    reading: str,
    seed: int = 0,
) -> torch.Tensor:
    """Return int8: the zone of each weight; weights outside W_f are untouched.

    printed: below tau_l zeroed, up to tau_h shrunk, from tau_h on nudged. targeted: the other way round, from tau_h
    on zeroed (they matter to the forgotten entries and not to the others), below tau_l nudged. random: as many
    weights in each zone as in the targeted reading, picked at random.

    Raises:
        ValueError: unknown reading.

    Source: Hossain et al. (2025), Algorithm 2, step 3.
    """
    require_choice("reading", reading, READINGS)
    low, high = scores < thresholds.low, scores >= thresholds.high
    zeroed, nudged = (low, high) if reading == "printed" else (high, low)
    zones = torch.full(scores.shape, SHRUNK, dtype=torch.int8, device=scores.device)
    zones[nudged] = NUDGED
    zones[zeroed] = ZEROED
    zones[~chosen] = UNTOUCHED
    return selection.shuffled(zones, seed=seed) if reading == "random" else zones


@torch.no_grad()
def prune_weights(
    weights: torch.Tensor,
    zones: torch.Tensor,
    scores: torch.Tensor,
    gradient: torch.Tensor,
    *,
    scale: float,
    decay: float,
    reduced_rate: float,
) -> torch.Tensor:
    """Return the new weights: 0, w exp(-decay * score / scale), or w - reduced_rate * gradient, by zone.

    Args:
        weights: w.
        zones: int8, from `assign_zones`.
        scores: what the zones were made from.
        gradient: of the retain loss.
        scale: score at which the shrinking factor is exp(-decay), > 0.
        decay: lambda, >= 0.
        reduced_rate: alpha_r, >= 0.

    Source: Hossain et al. (2025), Algorithm 2, step 3.

    Differs: scores enter relative to `scale` (tau_h), because their unit is arbitrary; scores above it count as it.
    """
    # W_f is a small part of all weights: work on its entries only.
    touched = torch.nonzero(zones != UNTOUCHED).flatten()
    zone, weight = zones[touched], weights[touched]
    relative = torch.where(scores[touched] >= scale, 1, scores[touched] / scale)  # also where both are infinite
    shrunk = weight * torch.exp(-decay * relative)
    nudged = weight - reduced_rate * gradient[touched]
    new = torch.where(zone == ZEROED, 0, torch.where(zone == SHRUNK, shrunk, nudged))
    return weights.index_copy(0, touched, new)


def next_share(share: float, *, loss: float, first_loss: float, tolerance: float) -> float:
    """Return the share of weights for the next round: doubled while the retain loss allows it, else halved.

    Args:
        share: of this round.
        loss, first_loss: retain loss on the calibration images after pruning this round, and of the original model.
        tolerance: growth of the loss that is allowed, as a share of `first_loss`.

    Source: Hossain et al. (2025), Algorithm 2, step 4, which says only that the share adapts; the rule is ours.
    """
    return min(1.0, share * 2) if loss <= first_loss * (1 + tolerance) else share / 2


@dataclass(frozen=True)
class PruningScores:
    """I(w) of one loss for every weight, flat, and the gradient of that loss."""

    importance: torch.Tensor
    gradient: torch.Tensor


def pruning_scores(
    task: Task,
    rows: torch.Tensor,
    *,
    loss: str,
    alpha: float,
    beta: float,
    hessian: str,
    batch_size: int = 16,
    model: nn.Module | None = None,
) -> PruningScores:
    """Return I(w) of the forget or the retain loss for every weight.

    Args:
        task: what must be forgotten; its seed is that of a sampled Hessian.
        rows: calibration images.
        loss: "forget" or "retain".
        alpha, beta: see `pruning_importance`.
        hessian: one of `curvature.HESSIANS`, or "auto": exact where the network allows it, else squared_minibatch.
            "exact" costs one backward pass a label, so it suits the forget loss of a label request.
        batch_size: images a gradient is averaged over, for "squared_minibatch".
        model: network to look at, in eval mode; default: the task's.

    Differs: S(w) is the root mean square over images of |dl_n/dw| (with "squared_minibatch": the mean over batches
    of the batch's |dL/dw|), because images cancel in the plain gradient of a trained model.
    """
    model = model or task.model
    if hessian == "auto":
        hessian = "exact" if curvature.is_exact_for(model, task.table) else "squared_minibatch"
    if hessian == "squared_minibatch":
        of_batches = importance.gradient_statistics(task, rows, loss=loss, batch_size=batch_size, model=model)
        sensitivity, diagonal, gradient = of_batches.mean_absolute, of_batches.mean_square, of_batches.mean
    else:
        of_images = curvature.image_statistics(task, rows, loss=loss, method=hessian, model=model)
        sensitivity, diagonal, gradient = of_images.sensitivity, of_images.hessian, of_images.mean
    weights = importance.flat_weights(model)
    return PruningScores(pruning_importance(sensitivity, diagonal, weights, alpha=alpha, beta=beta), gradient)


@torch.no_grad()
def write_weights(model: nn.Module, flat: torch.Tensor) -> None:
    """Put flat weights back into the model, in place."""
    parameters = dict(model.named_parameters())
    for name, value in importance.unflatten(flat, parameters).items():
        parameters[name].copy_(value)


def weight_pruning(
    task: Task,
    *,
    reading: str = "targeted",
    calibration_split: str = "train",
    num_forget_images: int = 12,
    num_retain_images: int = 24,
    forget_hessian: str = "auto",
    retain_hessian: str = "squared_minibatch",
    alpha: float = 0.5,
    beta: float = 0.5,
    forget_share: float = 0.0005,
    num_rounds: int = 1,
    decay: float = 1.0,
    reduced_rate: float = 0.001,
    steps_per_round: int = 1,
    epsilon: float = 0.01,
) -> nn.Module:
    """Return a copy of the model that has forgotten the request, by Weight Pruning.

    The importance for the forgotten entries is that of the original model in every round: once a label's head row
    is 0 the forget loss has no gradient in the trunk any more. The importance for the retained entries is measured
    anew in each round.

    Args:
        reading: printed, targeted or random (see `unlearning.READINGS`).
        calibration_split: what gradients are taken on and fine-tuning learns from.
        num_forget_images, num_retain_images: calibration images for the two losses.
        forget_hessian, retain_hessian, alpha, beta: see `pruning_scores`.
        forget_share: share of weights in the forget set W_f of the first round; adapts, see `next_share`.
        num_rounds: rounds of pruning and fine-tuning.
        decay, reduced_rate: see `prune_weights`.
        steps_per_round, epsilon: of fine-tuning, see `constrained_finetune`.

    Source: Hossain et al. (2025), Algorithms 2 and 3.

    Differs: see the steps; `targeted` ranks W_f by importance for the forgotten entries relative to that for the
    retained ones and prunes from the top, the printed rule prunes from the bottom.
    """
    require_choice("reading", reading, READINGS)
    require_at_least(1, num_rounds=num_rounds)
    require_share(forget_share=forget_share)
    require_at_least(0, alpha=alpha, beta=beta, decay=decay, reduced_rate=reduced_rate)
    require_at_least(0, steps_per_round=steps_per_round, epsilon=epsilon)
    unlearned = copy_of(task.model)
    forget_rows, retain_rows = selection.calibration_rows(
        task, num_forget_images=num_forget_images, num_retain_images=num_retain_images, split=calibration_split
    )
    options = {"alpha": alpha, "beta": beta}
    forget = pruning_scores(task, forget_rows, loss="forget", hessian=forget_hessian, **options).importance
    parameters = dict(unlearned.named_parameters())
    exclusive = selection.exclusive_weights(task)
    modified = torch.zeros(len(forget), dtype=torch.bool, device=forget.device)
    first_loss, share = None, forget_share
    for number in range(num_rounds):
        retain = pruning_scores(task, retain_rows, loss="retain", hessian=retain_hessian, model=unlearned, **options)
        scores, chosen = selection.scored_forget_set(
            forget, share, reading=reading, scores=(forget, retain.importance), exclusive=exclusive
        )
        thresholds = selection.percentile_thresholds(scores[chosen])
        zones = assign_zones(scores, chosen, thresholds, reading=reading, seed=task.seed + number)
        if num_rounds > 1 and first_loss is None:
            first_loss = calibration_loss(task, unlearned, retain_rows)
        pruned = prune_weights(
            importance.flat_weights(unlearned),
            zones,
            scores,
            retain.gradient,
            scale=thresholds.high,
            decay=decay,
            reduced_rate=reduced_rate,
        )
        write_weights(unlearned, pruned)
        modified |= zones != UNTOUCHED
        if num_rounds > 1:
            loss = calibration_loss(task, unlearned, retain_rows)
            share = next_share(share, loss=loss, first_loss=first_loss, tolerance=TOLERANCE)
        constrained_finetune(
            task,
            unlearned,
            importance.unflatten(modified, parameters),
            num_steps=steps_per_round,
            epsilon=epsilon,
            split=calibration_split,
            round_number=number,
        )
    return unlearned


def calibration_loss(task: Task, model: nn.Module, rows: torch.Tensor) -> float:
    """Return the retain loss on the rows."""
    return float(retain_loss(predict_logits(model, task.table, rows), task.table.labels[rows], task.mask[rows]))
