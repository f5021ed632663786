"""NegGrad: climb the loss of what must be forgotten; Advanced NegGrad and NegGrad+ descend the rest at once."""

import torch
from torch import nn

from mlu_utils.naming import require_at_least
from mlu_utils.requests import retain_loss
from mlu_utils.training import descend, sgd
from mlu_utils.unlearning.task import Batch, Task, ascent_loss, both_logits


def neggrad(
    task: Task,
    *,
    num_epochs: int = 5,
    learning_rate: float = 1e-4,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    batch_size: int = 64,
    is_bounded: bool = True,
    batchnorm: str = "train",
) -> nn.Module:
    """Return a copy that climbed the forget loss in `num_epochs` passes over the images to forget.

    Source: Golatkar, Achille and Soatto (2020) and Graves et al. (2021); defaults of Jia et al. (2023), public code.

    Differs: the loss is bounded unless `is_bounded` is False, see `task.ascent_loss`.
    """
    require_at_least(1, num_epochs=num_epochs)
    unlearned = task.start()

    def objective(batch: Batch) -> torch.Tensor:
        return -ascent_loss(batch.logits(unlearned), batch.labels, batch.mask, is_bounded=is_bounded)

    optimizer = sgd(unlearned.parameters(), learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay)
    batches = task.batches(batch_size).forget(num_epochs)
    descend(unlearned, batches, objective, optimizer, batchnorm=batchnorm, seed=task.seed)
    return unlearned


def advanced_neggrad(
    task: Task,
    *,
    alpha: float = 0.5,
    anchor: float = 0.0,
    num_epochs: int = 2,
    learning_rate: float = 1e-3,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    batch_size: int = 64,
    is_bounded: bool = True,
    batchnorm: str = "train",
) -> nn.Module:
    """Return a copy trained on 2 [alpha (L_retain + anchor |w - w0|^2) - (1 - alpha) L_forget].

    w0: the original weights. alpha in [0, 1]: 1/2 without anchor is Advanced NegGrad, L_retain - L_forget; NegGrad+
    has alpha = .95 and BatchNorm in eval mode. Each batch to keep has one to forget beside it.

    Source: Choi and Na (2023), public notebooks (Advanced NegGrad: defaults); Kurmanji et al. (2023) (NegGrad+).

    Differs: the factor 2, which makes one learning rate mean the same for both; `neggrad`'s bounded loss; no batch
    is skipped.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}")
    require_at_least(0, anchor=anchor)
    require_at_least(1, num_epochs=num_epochs)
    unlearned = task.start()
    first = [p.detach().clone() for p in unlearned.parameters()]

    def objective(pair: tuple[Batch, Batch]) -> torch.Tensor:
        retain, forget = pair
        of_retain, of_forget = both_logits(unlearned, retain, forget)
        keep = retain_loss(of_retain, retain.labels, retain.mask)
        if anchor:
            pairs = zip(unlearned.parameters(), first, strict=True)
            keep = keep + anchor * sum((p - p0).square().sum() for p, p0 in pairs)
        climb = ascent_loss(of_forget, forget.labels, forget.mask, is_bounded=is_bounded)
        return 2 * (alpha * keep - (1 - alpha) * climb)

    optimizer = sgd(unlearned.parameters(), learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay)
    batches = task.batches(batch_size).pairs(num_epochs)
    descend(unlearned, batches, objective, optimizer, batchnorm=batchnorm, seed=task.seed)
    return unlearned
