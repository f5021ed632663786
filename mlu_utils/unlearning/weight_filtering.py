"""Weight Filtering (WF): remove the weights whose composite score singles out what must be forgotten.

Hossain et al. (2025), Algorithm 1. The steps are functions, `weight_filtering` runs them in order:
calibration images -> influence of images -> composite scores -> forget set -> adaptive tau -> filtering ->
constrained fine-tuning, in rounds.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from mlu_utils.models import copy_of
from mlu_utils.naming import require_at_least, require_choice, require_share
from mlu_utils.unlearning import READINGS, importance, selection
from mlu_utils.unlearning.constrained_finetune import constrained_finetune
from mlu_utils.unlearning.influence import image_influence, most_influential
from mlu_utils.unlearning.task import Task

# Small batches, because images cancel in the gradient of a large one.
gradients_of = partial(importance.gradient_statistics, batch_size=16)


def composite_scores(
    of_forget: torch.Tensor, of_retain: torch.Tensor, *, forget_entries: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return S_w = S(w) I(w) for the entries to forget, and the same score for the entries to keep.

    Args:
        of_forget: I(w) = |dL_j/dw|, L_j the forget loss over the influential images (equation 2).
        of_retain: the same of the retain loss.
        forget_entries: share of the entries that must be forgotten. S(w) = |dL/dw| of the loss over all entries
            (equation 1) is taken as the mean of both, weighted by their entries: an upper bound of it that costs
            no third pass.

    Source: Hossain et al. (2025), Algorithm 1, step 4.
    """
    sensitivity = forget_entries * of_forget + (1 - forget_entries) * of_retain
    return sensitivity * of_forget, sensitivity * of_retain


def adaptive_tau(tau: float, *, overlap: float, curvature: float, first_curvature: float) -> float:
    """Return tau made more cautious by overlap and by curvature that has grown since the first round.

    tau (1 + overlap) * clip(curvature / first_curvature, 1/2, 2).

    Args:
        tau: the threshold to start from.
        overlap: how much both losses live in the same weights, in [0, 1].
        curvature, first_curvature: mean curvature of the retain loss, now and before the first filtering, >= 0.

    Source: Hossain et al. (2025), section on WF, which describes this in words only; the formula is ours.
    """
    ratio = curvature / first_curvature if first_curvature > 0 else 1.0
    return tau * (1 + overlap) * min(max(ratio, 0.5), 2.0)


def filtered_weights(
    scores: torch.Tensor, chosen: torch.Tensor, tau: float, *, reading: str, seed: int = 0
) -> torch.Tensor:
    """Return bool: which weights are filtered.

    Args:
        scores: printed: composite score; targeted and random: relative importance.
        chosen: bool, the forget set W_f.
        tau: threshold. printed: score below the mean score of W_f divided by `tau` (a larger tau is more
            cautious in every reading); targeted: relative importance above `tau`.
        reading: one of `unlearning.READINGS`.
        seed: of the random control.

    Raises:
        ValueError: unknown reading, tau <= 0, or an empty W_f.

    Source: Hossain et al. (2025), Algorithm 1, step 5.

    Differs: printed thresholds in units of the mean score of W_f, because raw scores depend on the network's size.
    """
    require_choice("reading", reading, READINGS)
    if not tau > 0:
        raise ValueError(f"tau must be positive, got {tau}")
    selection.require_weights(scores[chosen])
    if reading == "printed":
        return chosen & (scores < scores[chosen].mean() / tau)
    filtered = chosen & (scores > tau)
    return selection.shuffled(filtered, seed=seed) if reading == "random" else filtered


@torch.no_grad()
def filter_weights(model: nn.Module, filtered: dict[str, torch.Tensor], *, noise_std: float = 0.0, seed: int) -> None:
    """Set the filtered weights to 0, or to N(0, noise_std^2), in place."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if name in filtered and filtered[name].any():
            value = torch.zeros_like(p)
            if noise_std > 0:
                value = (noise_std * torch.randn(p.shape, generator=generator)).to(p.device)
            p.copy_(torch.where(filtered[name], value, p))


def weight_filtering(
    task: Task,
    *,
    reading: str = "targeted",
    calibration_split: str = "train",
    num_calibration_images: int = 64,
    influence_solver: str = "last_layer",
    influence_damping: float = 1e-3,
    influence_noise_std: float = 0.1,
    influential_share: float = 0.5,
    forget_share: float = 0.0005,
    tau: float = 4.0,
    filter_noise_std: float = 0.0,
    num_rounds: int = 2,
    steps_per_round: int = 2,
    epsilon: float = 0.01,
) -> nn.Module:
    """Return a copy of the model that has forgotten the request, by Weight Filtering.

    Args:
        reading: printed, targeted or random (see `unlearning.READINGS`).
        calibration_split, num_calibration_images: what gradients are taken on; fine-tuning learns from that split.
        influence_solver, influence_damping, influence_noise_std: see `influence.image_influence`.
        influential_share: share of calibration images that the influence keeps.
        forget_share: share of weights in the forget set W_f.
        tau: filtering threshold, see `filtered_weights`; adapted each round.
        filter_noise_std: 0: filtered weights become 0, else N(0, filter_noise_std^2).
        num_rounds: rounds of filtering and fine-tuning.
        steps_per_round, epsilon: of fine-tuning, see `constrained_finetune`.

    Source: Hossain et al. (2025), Algorithms 1 and 3.

    Differs: see the steps; `targeted` filters where the score for the forgotten entries is high relative to the
    same score for the retained ones, the printed rule filters low scores.
    """
    require_choice("reading", reading, READINGS)
    require_at_least(1, num_rounds=num_rounds)
    require_share(forget_share=forget_share, influential_share=influential_share)
    require_at_least(0, tau=tau, filter_noise_std=filter_noise_std, steps_per_round=steps_per_round, epsilon=epsilon)
    unlearned = copy_of(task.model)
    forget_rows, retain_rows = selection.calibration_rows(
        task,
        num_forget_images=num_calibration_images,
        num_retain_images=num_calibration_images,
        split=calibration_split,
    )
    influence = image_influence(
        task, forget_rows, solver=influence_solver, damping=influence_damping, noise_std=influence_noise_std
    )
    influential = most_influential(influence, forget_rows, influential_share)
    # Once a label's head row is 0 the forget loss has no gradient in the trunk: measure it on the original.
    of_forget = gradients_of(task, influential, loss="forget").mean_absolute
    forget_entries = float(task.mask.float().mean())
    parameters = dict(unlearned.named_parameters())
    exclusive = selection.exclusive_weights(task)
    modified = torch.zeros(len(of_forget), dtype=torch.bool, device=of_forget.device)
    first_curvature = None
    for number in range(num_rounds):
        of_retain = gradients_of(task, retain_rows, loss="retain", model=unlearned)
        curvature = float(of_retain.mean_square.mean())
        first_curvature = first_curvature or curvature
        scores, chosen = selection.scored_forget_set(
            of_forget,
            forget_share,
            reading=reading,
            scores=composite_scores(of_forget, of_retain.mean_absolute, forget_entries=forget_entries),
            exclusive=exclusive,
        )
        adapted = adaptive_tau(
            tau,
            overlap=selection.overlap(of_forget, of_retain.mean_absolute),
            curvature=curvature,
            first_curvature=first_curvature,
        )
        filtered = filtered_weights(scores, chosen, adapted, reading=reading, seed=task.seed + number)
        filter_weights(
            unlearned, importance.unflatten(filtered, parameters), noise_std=filter_noise_std, seed=task.seed
        )
        modified |= filtered
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
