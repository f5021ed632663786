"""Constrained fine-tuning: learn on the retained entries while the modified weights stay near their new values."""

from __future__ import annotations

import torch
from torch import nn

from mlu_utils.data.batches import Augmentation, Batches
from mlu_utils.data.table import ImageTable
from mlu_utils.requests import retain_loss
from mlu_utils.runtime import FP32, Precision
from mlu_utils.training import NonFiniteLossError, device_of


def constrained_finetune(
    model: nn.Module,
    table: ImageTable,
    rows: torch.Tensor,
    mask: torch.Tensor,
    modified: dict[str, torch.Tensor],
    *,
    num_steps: int,
    epsilon: float,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    batch_size: int = 64,
    augmentation: Augmentation | None = None,
    seed: int,
    precision: Precision = FP32,
) -> list[float]:
    """Train the model in place on the retain loss; after each step clamp every modified weight.

    BatchNorm stays in eval mode: its statistics do not move, and the clamp bounds the function that was scored.

    Args:
        model: on its device, in eval mode.
        table: the data.
        rows: images to learn from.
        mask: bool (N, K), entries to forget; no gradient comes from them.
        modified: parameter name -> bool tensor, the weights of W_f that were changed. Others move freely.
        num_steps: SGD steps, 0 = none.
        epsilon: half-width of the interval around the value right after modification, >= 0.
        learning_rate, momentum, batch_size: of SGD.
        augmentation: random changes of the images, or None.
        seed: of order and augmentation.
        precision: number format of the forward and backward pass.

    Returns:
        The retain loss before each step.

    Raises:
        ValueError: epsilon or num_steps below 0.
        NonFiniteLossError: the loss was not finite; the model then holds the values before fine-tuning.

    Source: Hossain et al. (2025), Algorithm 3.

    Differs: none known; the paper gives no number of steps.
    """
    if epsilon < 0:
        raise ValueError(f"epsilon must be at least 0, got {epsilon}")
    if num_steps < 0:
        raise ValueError(f"num_steps must be at least 0, got {num_steps}")
    if num_steps == 0:
        return []
    device = device_of(model)
    model.eval()
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    # Infinite bounds leave the other weights free, so that one clamp serves a whole tensor.
    bounds = {
        name: (
            torch.where(chosen, start[name] - epsilon, -torch.inf),
            torch.where(chosen, start[name] + epsilon, torch.inf),
        )
        for name, chosen in modified.items()
        if chosen.any()
    }
    parameters = dict(model.named_parameters())
    optimizer = torch.optim.SGD(parameters.values(), lr=learning_rate, momentum=momentum, foreach=True)
    batches = Batches(
        table,
        rows,
        batch_size=batch_size,
        device=device,
        generator=torch.Generator().manual_seed(seed),
        augmentation=augmentation,
        memory_format=precision.memory_format,
    )
    mask = mask.to(device)
    losses: list[torch.Tensor] = []
    while len(losses) < num_steps:
        for images, labels, batch_rows in batches:
            with precision.autocast(device):
                logits = model(images)
            loss = retain_loss(logits, labels, mask[batch_rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                for name, (low, high) in bounds.items():
                    parameters[name].clamp_(low, high)
            losses.append(loss.detach())
            if len(losses) == num_steps:
                break
    values = torch.stack(losses).tolist()
    if not torch.isfinite(torch.stack(losses)).all() or not all(p.isfinite().all() for p in parameters.values()):
        model.load_state_dict(start, strict=False)
        raise NonFiniteLossError(
            f"fine-tuning diverged (losses {values[:3]}...) with learning_rate {learning_rate}: "
            "the model is back where fine-tuning began; try a smaller learning rate"
        )
    return values
