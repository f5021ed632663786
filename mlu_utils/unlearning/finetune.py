"""Fine-tuning: go on training on what is kept and hope that the rest fades. The lower bound of every comparison."""

from __future__ import annotations

from torch import nn

from mlu_utils.training import descend, require_at_least, sgd
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

    Args:
        task: what to forget, and of which model.
        num_epochs: passes over the images with something to keep.
        learning_rate, momentum, weight_decay, batch_size: of SGD.
        batchnorm: see `training.descend`.

    Raises:
        ValueError: num_epochs below 1.

    Source: defaults of Jia et al. (2023), Model Sparsity Can Simplify Machine Unlearning (its public code).

    Differs: none for people and classes; for a label the loss leaves the label out and keeps every image.
    """
    require_at_least("num_epochs", num_epochs, 1)
    unlearned = task.start()
    descend(
        unlearned,
        task.batches(batch_size).retain(num_epochs),
        lambda batch: batch.retain_loss(unlearned),
        sgd(unlearned.parameters(), learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay),
        batchnorm=batchnorm,
    )
    return unlearned
