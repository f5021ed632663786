"""Constrained fine-tuning: learn on the retained entries while the modified weights stay near their new values."""

from collections.abc import Callable
from itertools import chain, islice, repeat

import torch
from torch import nn

from mlu_utils.models import copy_of
from mlu_utils.naming import require_at_least
from mlu_utils.training import NonFiniteLossError, descend, sgd
from mlu_utils.unlearning.importance import Weights, unflatten
from mlu_utils.unlearning.task import Passes, Task

MOMENTUM = 0.9  # as in training; the paper gives none


def constrained_finetune(
    task: Task,
    model: nn.Module,
    modified: Weights,
    *,
    num_steps: int,
    epsilon: float,
    learning_rate: float = 0.01,
    batch_size: int = 64,
    split: str = "train",
    round_number: int = 0,
) -> list[float]:
    """Train the model in place on the retain loss, clamp modified weights after each step, return the losses before.

    BatchNorm stays in eval mode: its statistics do not move, and the clamp bounds the function that was scored. Batches
    of the split come in an order of each round's own.

    Args:
        model: in eval mode; where the loss became infinite or nan (NonFiniteLossError) it is as before.
        modified: parameter name -> bool, the weights of W_f that were changed. Others move freely.
        epsilon: half-width of the interval around the value right after modification, >= 0.

    Source: Hossain et al. (2025), Algorithm 3, which gives no number of steps.
    """
    require_at_least(0, epsilon=epsilon, num_steps=num_steps)
    if num_steps == 0:
        return []
    parameters = dict(model.named_parameters())
    bounds = {}
    for name, chosen in modified.items():
        if chosen.any():  # infinite bounds leave the other weights free, so that one clamp serves a whole tensor
            value = parameters[name].detach()
            bounds[name] = [torch.where(chosen, value + s * epsilon, s * torch.inf) for s in (-1, 1)]

    @torch.no_grad()
    def clamp(_loss: torch.Tensor) -> None:
        for name, (low, high) in bounds.items():
            parameters[name].clamp_(low, high)

    passes = Passes(task, task.table.rows(split), batch_size, seed=task.seed + round_number)
    steps = islice(chain.from_iterable(repeat(passes)), num_steps)
    optimizer = sgd(parameters.values(), learning_rate=learning_rate, momentum=MOMENTUM, weight_decay=0.0)
    options = {"batchnorm": "eval", "after_step": clamp}
    try:
        return descend(model, steps, lambda batch: batch.retain_loss(model), optimizer, **options)
    except NonFiniteLossError as error:
        raise NonFiniteLossError(f"fine-tuning diverged: {error}") from None


def modified_in_rounds(
    task: Task, modify: Callable[[nn.Module, int], torch.Tensor], *, num_rounds: int, **options
) -> nn.Module:
    """Return a copy after rounds that modify weights and then fine-tune, with all weights modified so far near theirs.

    `modify(model, round)` changes the model in place and returns which weights, bool, flat over all of them.
    """
    unlearned = copy_of(task.model)
    parameters = dict(unlearned.named_parameters())
    modified = False
    for number in range(num_rounds):
        modified = modify(unlearned, number) | modified
        constrained_finetune(task, unlearned, unflatten(modified, parameters), **options, round_number=number)
    return unlearned
