"""Weight Pruning (WP): three zones of importance, only the diagonal of the Hessian."""

from typing import NamedTuple

import torch
from torch import nn

from mlu_utils.naming import require_at_least, require_choice, require_share
from mlu_utils.requests import retain_loss
from mlu_utils.training import predict_logits
from mlu_utils.unlearning import READINGS, curvature, importance, selection
from mlu_utils.unlearning.constrained_finetune import modified_in_rounds
from mlu_utils.unlearning.importance import write_weights
from mlu_utils.unlearning.task import Task

# Zones of Algorithm 2, as values of an int8 vector over the weights.
UNTOUCHED, ZEROED, SHRUNK, NUDGED = 0, 1, 2, 3
ZONE_NAMES = ("untouched", "zeroed", "shrunk", "nudged")
BATCH_SIZE = 16  # of gradients; small, because images cancel in a large one
TOLERANCE = 0.05  # growth of the retain loss that lets the share of weights grow


def pruning_importance(
    sensitivity: torch.Tensor, hessian: torch.Tensor, weights: torch.Tensor, *, alpha: float, beta: float
) -> torch.Tensor:
    """Return I(w) = alpha S(w) + beta 1/2 H_ww w^2 for each weight w, both terms scaled to mean 1.

    S(w) = |dL/dw| is the sensitivity, H_ww >= 0 the Hessian's diagonal. S is a slope and 1/2 H w^2 a change of loss,
    about 10^4 times smaller in a ResNet-18: unscaled, no beta of order 1 would count.
    """
    tiny = torch.finfo(sensitivity.dtype).tiny
    saliency = (hessian * weights).mul_(weights)  # the factor 1/2 cancels against its mean
    scaled = sensitivity * (alpha / sensitivity.mean().clamp_min(tiny))
    return scaled.add_(saliency.mul_(beta / saliency.mean().clamp_min(tiny)))


def assign_zones(
    scores: torch.Tensor, chosen: torch.Tensor, thresholds: selection.Thresholds, *, reading: str, seed: int = 0
) -> torch.Tensor:
    """Return int8: the zone of each weight; weights outside W_f are untouched.

    printed: below tau_l zeroed, up to tau_h shrunk, from tau_h on nudged. targeted and trunk: the other way round,
    from tau_h on zeroed (they matter to the forgotten entries and not to the others), below tau_l nudged. random: as
    many weights in each zone as in the targeted reading, picked at random.
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

    The gradient is that of the retain loss, decay is lambda, reduced_rate alpha_r; scores count up to `scale` (tau_h).
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
    """Return the next round's share of weights: doubled if the loss grew by at most `tolerance` of it, else halved."""
    return min(1.0, share * 2) if loss <= first_loss * (1 + tolerance) else share / 2


class PruningScores(NamedTuple):
    """I(w) of one loss for every weight, flat, and the gradient of that loss."""

    importance: torch.Tensor
    gradient: torch.Tensor


def pruning_scores(
    task: Task, rows: torch.Tensor, *, loss: str, hessian: str, model: nn.Module | None = None, **weighting: float
) -> PruningScores:
    """Return the `pruning_importance` of each weight of the model, by default the task's, for one loss.

    The Hessian is one of `curvature.HESSIANS`, or "auto": exact where the network allows it, else squared_minibatch.
    Exact costs one backward pass a label, so it suits the forget loss of a label request.

    S(w) is the root mean square over images of |dl_n/dw| (with "squared_minibatch": the mean over batches of the
    batch's |dL/dw|), because images cancel in the plain gradient of a trained model.
    """
    model = model or task.model
    if hessian == "auto":
        try:
            return pruning_scores(task, rows, loss=loss, hessian="exact", model=model, **weighting)
        except curvature.NotPiecewiseLinearError:
            hessian = "squared_minibatch"
    if hessian == "squared_minibatch":
        found = importance.gradient_statistics(task, rows, loss=loss, batch_size=BATCH_SIZE, model=model)
        sensitivity, diagonal = found.mean_absolute, found.mean_square
    else:
        found = curvature.image_statistics(task, rows, loss=loss, method=hessian, model=model)
        sensitivity, diagonal = found.sensitivity, found.hessian
    importances = pruning_importance(sensitivity, diagonal, importance.flat_weights(model), **weighting)
    return PruningScores(importances, found.mean)


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
    """Return a copy of the model that has forgotten the request, by Weight Pruning, step by step.

    Args:
        reading: one of `unlearning.READINGS`.
        calibration_split: what gradients are taken on and fine-tuning learns from.
        num_forget_images, num_retain_images: calibration images for the two losses.
        forget_hessian, retain_hessian: see `pruning_scores`.
        alpha, beta, decay, reduced_rate: >= 0, see `pruning_importance` and `prune_weights`.
        forget_share: share of weights in the forget set W_f of the first of `num_rounds`; adapts, see `next_share`.
        steps_per_round, epsilon: see `constrained_finetune`.

    Source: Hossain et al. (2025), Algorithms 2 and 3; LeCun, Denker and Solla (1990) for the second term of I(w).

    Differs: both terms of I(w) are scaled, see `pruning_importance`; S(w) is an average of absolute gradients, see
    `pruning_scores`; scores shrink weights relative to tau_h; the paper says only that the share adapts, the rule is
    ours; `targeted` ranks W_f by importance for the forgotten entries relative to that for the retained ones and
    prunes from the top, the printed rule prunes from the bottom.
    """
    require_choice("reading", reading, READINGS)
    require_at_least(1, num_rounds=num_rounds)
    require_share(forget_share=forget_share)
    require_at_least(0, alpha=alpha, beta=beta, decay=decay, reduced_rate=reduced_rate)
    require_at_least(0, steps_per_round=steps_per_round, epsilon=epsilon)
    forget_rows, retain_rows = selection.calibration_rows(
        task, num_forget_images=num_forget_images, num_retain_images=num_retain_images, split=calibration_split
    )
    weighting = {"alpha": alpha, "beta": beta}
    # Once a label's head row is 0 the forget loss has no gradient in the trunk: measure it on the original.
    forget = pruning_scores(task, forget_rows, loss="forget", hessian=forget_hessian, **weighting).importance
    heads = {"exclusive": selection.exclusive_weights(task), "last": selection.head_weights(task)}
    share, adapts = forget_share, num_rounds > 1
    first_loss = calibration_loss(task, task.model, retain_rows) if adapts else None

    def modify(model: nn.Module, number: int) -> torch.Tensor:
        nonlocal share
        retain = pruning_scores(task, retain_rows, loss="retain", hessian=retain_hessian, model=model, **weighting)
        both = forget, retain.importance
        scores, chosen = selection.scored_forget_set(forget, share, reading=reading, scores=both, **heads)
        thresholds = selection.percentile_thresholds(scores[chosen])
        zones = assign_zones(scores, chosen, thresholds, reading=reading, seed=task.seed + number)
        how = {"scale": thresholds.high, "decay": decay, "reduced_rate": reduced_rate}
        write_weights(model, prune_weights(importance.flat_weights(model), zones, scores, retain.gradient, **how))
        if adapts:
            loss = calibration_loss(task, model, retain_rows)
            share = next_share(share, loss=loss, first_loss=first_loss, tolerance=TOLERANCE)
        return zones != UNTOUCHED

    options = {"num_steps": steps_per_round, "epsilon": epsilon, "split": calibration_split}
    return modified_in_rounds(task, modify, num_rounds=num_rounds, **options)


def calibration_loss(task: Task, model: nn.Module, rows: torch.Tensor) -> float:
    """Return the retain loss on the rows."""
    return float(retain_loss(predict_logits(model, task.table, rows), task.table.labels[rows], task.mask[rows]))
