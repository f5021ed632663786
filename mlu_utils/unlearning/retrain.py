"""Retrain: the reference, trained from scratch with the entries to forget left out."""

from __future__ import annotations

from torch import nn

from mlu_utils.data.batches import Augmentation
from mlu_utils.data.table import ImageTable
from mlu_utils.models import build_model, head
from mlu_utils.requests import ForgetRequest
from mlu_utils.devices import FP32, Precision
from mlu_utils.training import device_of, fit


def retrain(
    model: nn.Module,
    table: ImageTable,
    request: ForgetRequest,
    *,
    seed: int,
    num_epochs: int = 50,
    batch_size: int = 64,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    schedule: str = "constant",
    augmentation: Augmentation | None = None,
    precision: Precision = FP32,
) -> nn.Module:
    """Return a model of the same architecture that never saw the entries to forget.

    Same recipe, same seed, same initial weights as the original: the only difference is the mask. All K outputs are
    kept, so a forgotten label's head row stays where weight decay takes its initial value.

    Args:
        model: the original, whose architecture and device are used; its weights are not.
        table: the data.
        request: what to forget.
        seed: of initialisation, order and augmentation.
        num_epochs, batch_size, learning_rate, momentum, weight_decay, schedule: see `training.fit`.
        augmentation, precision: likewise.

    Source: the gold standard of all unlearning papers; recipe of Hossain et al. (2025) as defaults.
    """
    retrained = build_model(model.architecture, head(model).out_features, seed=seed).to(device_of(model))
    fit(
        retrained,
        table,
        mask=request.mask(table),
        num_epochs=num_epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        momentum=momentum,
        weight_decay=weight_decay,
        schedule=schedule,
        augmentation=augmentation,
        seed=seed,
        precision=precision,
        description="retraining",
    )
    return retrained
