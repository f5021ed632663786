"""Weight Filtering (WF): remove the weights whose composite score singles out what must be forgotten."""

from functools import partial

import torch
from torch import nn

from mlu_utils.naming import require_at_least, require_choice, require_share
from mlu_utils.unlearning import READINGS, importance, selection
from mlu_utils.unlearning.constrained_finetune import modified_in_rounds
from mlu_utils.unlearning.influence import image_influence, most_influential
from mlu_utils.unlearning.task import Pair, Task

# Small batches, because images cancel in the gradient of a large one.
gradients_of = partial(importance.gradient_statistics, batch_size=16)


def composite_scores(of_forget: torch.Tensor, of_retain: torch.Tensor, *, forget_entries: float) -> Pair:
    """Return S_w = S(w) I(w) for the entries to forget, and the same score for the entries to keep.

    I(w) = |dL_j/dw|, `of_forget`, with L_j the forget loss over the influential images (equation 2). S(w) = |dL/dw|
    of the loss over all entries (equation 1) is taken as the mean of both, weighted by the share of entries to
    forget: an upper bound of it that costs no third pass.
    """
    sensitivity = forget_entries * of_forget + (1 - forget_entries) * of_retain
    return sensitivity * of_forget, sensitivity * of_retain


def adaptive_tau(tau: float, *, overlap: float, curvature: float, first_curvature: float) -> float:
    """Return tau (1 + overlap) * clip(curvature / first_curvature, 1/2, 2).

    It is more cautious where both losses live in the same weights and where the retain loss has become more curved.
    """
    ratio = curvature / first_curvature if first_curvature > 0 else 1.0
    return tau * (1 + overlap) * min(max(ratio, 0.5), 2.0)


def filtered_weights(
    scores: torch.Tensor, chosen: torch.Tensor, tau: float, *, reading: str, seed: int = 0
) -> torch.Tensor:
    """Return bool: which weights of the chosen ones, the forget set W_f, are filtered; see `scored_forget_set`.

    printed: score below the mean score of W_f divided by `tau`; targeted and trunk: relative importance above `tau`;
    random: as many, picked at random. A larger tau is more cautious in every reading.
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
    """Return a copy of the model that has forgotten the request, by Weight Filtering, step by step.

    Args:
        reading: one of `unlearning.READINGS`.
        calibration_split, num_calibration_images: what gradients are taken on; fine-tuning learns from that split.
        influence_solver, influence_damping, influence_noise_std: see `influence.image_influence`.
        influential_share: share of calibration images that the influence keeps.
        forget_share: share of weights in the forget set W_f.
        tau: threshold of `filtered_weights`; adapted in each of the `num_rounds`.
        filter_noise_std: filtered weights become N(0, filter_noise_std^2).
        steps_per_round, epsilon: see `constrained_finetune`.

    Source: Hossain et al. (2025), Algorithms 1 and 3.

    Differs: S(w) in `composite_scores`; the paper describes an adaptive tau in words only, the formula is ours; printed
    compares with the mean score of W_f, because raw scores depend on the network's size; `targeted` filters where the
    score for the forgotten entries is high relative to the same for the retained ones, the printed rule low scores.
    """
    require_choice("reading", reading, READINGS)
    require_at_least(1, num_rounds=num_rounds)
    require_share(forget_share=forget_share, influential_share=influential_share)
    require_at_least(0, tau=tau, filter_noise_std=filter_noise_std, steps_per_round=steps_per_round, epsilon=epsilon)
    num_images = dict.fromkeys(("num_forget_images", "num_retain_images"), num_calibration_images)
    forget_rows, retain_rows = selection.calibration_rows(task, **num_images, split=calibration_split)
    influence = image_influence(
        task, forget_rows, solver=influence_solver, damping=influence_damping, noise_std=influence_noise_std
    )
    influential = most_influential(influence, forget_rows, influential_share)
    # Once a label's head row is 0 the forget loss has no gradient in the trunk: measure it on the original.
    of_forget = gradients_of(task, influential, loss="forget").mean_absolute
    forget_entries = float(task.mask.float().mean())
    heads = {"exclusive": selection.exclusive_weights(task), "last": selection.head_weights(task)}
    first_curvature = None

    def modify(model: nn.Module, number: int) -> torch.Tensor:
        nonlocal first_curvature
        of_retain = gradients_of(task, retain_rows, loss="retain", model=model)
        curvature = float(of_retain.mean_square.mean())
        first_curvature = first_curvature or curvature
        both = composite_scores(of_forget, of_retain.mean_absolute, forget_entries=forget_entries)
        scores, chosen = selection.scored_forget_set(of_forget, forget_share, reading=reading, scores=both, **heads)
        overlap = selection.overlap(of_forget, of_retain.mean_absolute)
        adapted = adaptive_tau(tau, overlap=overlap, curvature=curvature, first_curvature=first_curvature)
        filtered = filtered_weights(scores, chosen, adapted, reading=reading, seed=task.seed + number)
        by_name = importance.unflatten(filtered, dict(model.named_parameters()))
        filter_weights(model, by_name, noise_std=filter_noise_std, seed=task.seed)
        return filtered

    options = {"num_steps": steps_per_round, "epsilon": epsilon, "split": calibration_split}
    return modified_in_rounds(task, modify, num_rounds=num_rounds, **options)
