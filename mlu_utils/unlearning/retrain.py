"""Retrain: the reference, trained from scratch with the entries to forget left out."""

from torch import nn

from mlu_utils.data.batches import Augmentation
from mlu_utils.models import fresh_model
from mlu_utils.training import fit
from mlu_utils.unlearning.task import Task


def retrain(
    task: Task,
    *,
    num_epochs: int = 50,
    batch_size: int = 64,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    schedule: str = "constant",
    augmentation: Augmentation | None = None,
) -> nn.Module:
    """Return a model of the same architecture that never saw the entries to forget, from the recipe of `training.fit`.

    Same seed and same initial weights as the original: the only difference is the mask. All K outputs are kept, so a
    forgotten label's head row stays where weight decay takes its initial value.

    Source: the gold standard of all unlearning papers; recipe of Hossain et al. (2025) as defaults.
    """
    recipe = {name: value for name, value in locals().items() if name != "task"}
    recipe |= {"mask": task.mask, "seed": task.seed, "precision": task.precision, "description": "retraining"}
    retrained = fresh_model(task.model, seed=task.seed)
    fit(retrained, task.table, **recipe)
    return retrained
