"""Fine-tuning: go on training on what is kept and hope that the rest fades. The lower bound of every comparison."""

from __future__ import annotations

from torch import nn

from mlu_utils.naming import require_at_least
from mlu_utils.training import descend, sgd
from mlu_utils.unlearning.task import Task


def finetune(
    task: Task,
    *,
    num_epochs: int = 10,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    batch_size: int = 64,
    batchnorm: str = "train",
) -> nn.Module:
    """Return a copy trained on the retain loss alone.

    Source: defaults of Jia et al. (2023), Model Sparsity Can Simplify Machine Unlearning (its public code).

    Differs: none for people and classes; for a label the loss leaves the label out and keeps every image.
    """
    require_at_least(1, num_epochs=num_epochs)
    unlearned = task.start()
    descend(
        unlearned,
        task.batches(batch_size).retain(num_epochs),
        lambda batch: batch.retain_loss(unlearned),
        sgd(unlearned.parameters(), learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay),
        batchnorm=batchnorm,
        seed=task.seed,
    )
    return unlearned
