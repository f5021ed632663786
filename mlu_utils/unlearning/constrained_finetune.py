"""Constrained fine-tuning: learn on the retained entries while the modified weights stay near their new values."""

from __future__ import annotations

from itertools import chain, islice, repeat

import torch
from torch import nn

from mlu_utils.data.batches import Batches
from mlu_utils.data.table import ImageTable
from mlu_utils.requests import retain_loss
from mlu_utils.devices import FP32, Precision
from mlu_utils.training import NonFiniteLossError, device_of, require_at_least, sgd
from mlu_utils.unlearning.task import descend


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
        seed: of the order of the images.
        precision: number format of the forward and backward pass.

    Returns:
        The retain loss before each step.

    Raises:
        ValueError: epsilon or num_steps below 0.
        NonFiniteLossError: the loss was not finite; the model then holds the values before fine-tuning.

    Source: Hossain et al. (2025), Algorithm 3.

    Differs: none known; the paper gives no number of steps.
    """
    require_at_least("epsilon", epsilon, 0)
    require_at_least("num_steps", num_steps, 0)
    if num_steps == 0:
        return []
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
    parameters, device = dict(model.named_parameters()), device_of(model)
    batches = Batches(
        table,
        rows,
        batch_size=batch_size,
        device=device,
        generator=torch.Generator().manual_seed(seed),
        memory_format=precision.memory_format,
    )
    mask = mask.to(device)

    def objective(batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
        images, labels, batch_rows = batch
        with precision.autocast(device):
            logits = model(images)
        return retain_loss(logits, labels, mask[batch_rows])

    @torch.no_grad()
    def clamp() -> None:
        for name, (low, high) in bounds.items():
            parameters[name].clamp_(low, high)

    optimizer = sgd(parameters.values(), learning_rate=learning_rate, momentum=momentum, weight_decay=0.0)
    steps = islice(chain.from_iterable(repeat(batches)), num_steps)
    try:
        return descend(model, steps, objective, optimizer, batchnorm="eval", after_step=clamp)
    except NonFiniteLossError as error:
        model.load_state_dict(start, strict=False)
        raise NonFiniteLossError(f"fine-tuning diverged and the model is back where it began: {error}") from None
