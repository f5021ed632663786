"""SalUn: random labels, learnt only by the weights that are salient for what must be forgotten."""

from __future__ import annotations

import torch
from torch import nn

from mlu_utils.data.table import ImageTable
from mlu_utils.models import copy_of
from mlu_utils.naming import choices
from mlu_utils.requests import ForgetRequest, forget_loss, retain_loss
from mlu_utils.devices import FP32, Precision
from mlu_utils.training import require_at_least, sgd
from mlu_utils.unlearning import importance, selection
from mlu_utils.unlearning.task import Batch, Sides, both_logits, descend

SALIENCIES = ("absolute", "signed", "relative")


def saliency_mask(
    model: nn.Module,
    table: ImageTable,
    rows: torch.Tensor,
    mask: torch.Tensor,
    *,
    share: float,
    saliency: str = "absolute",
    batch_size: int = 64,
    precision: Precision = FP32,
) -> dict[str, torch.Tensor]:
    """Return parameter name -> bool: the weights, ranked over the whole network, that may change.

    Args:
        model: the original model.
        table: the data.
        rows: images whose gradients are taken, where they have entries of the loss.
        mask: bool (N, K), entries to forget.
        share: of all weights that may change, in (0, 1]. Below 1 a weight without any gradient never may.
        saliency: what weights are ranked by. "signed": |sum over batches of the forget gradient|, as published;
            "absolute": sum of |gradient|, for a label forgotten for everyone, whose signed sum is close to 0 at a
            trained optimum; "relative": absolute, in units of the same for the retain loss.
        batch_size: images a gradient is averaged over.
        precision: number format.

    Raises:
        ValueError: unknown saliency, or share outside (0, 1].

    Source: Fan et al. (2024), equation 3; the threshold is set by the share, as in its public code.
    """
    if saliency not in SALIENCIES:
        raise ValueError(f"unknown saliency {saliency!r}: {choices(saliency, SALIENCIES)}")
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1], got {share}")
    options = {"batch_size": batch_size, "precision": precision}
    statistics = importance.gradient_statistics(model, table, rows, mask, loss="forget", **options)
    ranked = statistics.mean.abs() if saliency == "signed" else statistics.mean_absolute
    if saliency == "relative":
        kept = importance.gradient_statistics(model, table, rows, mask, loss="retain", **options).mean_absolute
        exclusive = selection.exclusive_weights(model, mask)
        ranked = selection.relative_importance(ranked, kept, exclusive=exclusive)
    chosen = torch.ones_like(ranked, dtype=torch.bool) if share == 1 else selection.forget_set(ranked, share)
    return importance.unflatten(chosen, dict(model.named_parameters()))


def random_labels(
    table: ImageTable, mask: torch.Tensor, generator: torch.Generator, device: torch.device
) -> torch.Tensor:
    """Return the label table with fresh random values, 0 or 1 or any class, in the entries to forget."""
    if table.is_multi_label:
        drawn = torch.randint(2, mask.shape, generator=generator).to(table.labels.dtype)
        drawn = torch.where(table.labels.isnan(), table.labels, drawn)
    else:
        drawn = torch.randint(table.num_outputs, mask.shape, generator=generator)
    return torch.where(mask, drawn, table.labels).to(device)


def salun(
    model: nn.Module,
    table: ImageTable,
    request: ForgetRequest,
    *,
    seed: int,
    share: float = 0.5,
    saliency: str = "absolute",
    num_epochs: int = 10,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    batch_size: int = 64,
    batchnorm: str = "train",
    precision: Precision = FP32,
) -> nn.Module:
    """Return a copy trained on random labels to forget and true labels to keep, in its salient weights only.

    The random labels are drawn anew in every epoch. All other weights keep their bits: neither momentum nor weight
    decay moves them. BatchNorm's running statistics are no weights and move unless `batchnorm` is "eval".

    Args:
        model: the original model; not changed.
        table: the data.
        request: what to forget.
        seed: of the order of the images and the random labels.
        share, saliency: see `saliency_mask`.
        num_epochs: passes over the images with something to keep; each batch has one to forget beside it.
        learning_rate, momentum, weight_decay, batch_size: of SGD.
        batchnorm: see `descent.descend`.
        precision: number format.

    Raises:
        ValueError: see `saliency_mask`; num_epochs below 1.

    Source: Fan et al. (2024), SalUn, equations 3-5; defaults of its public code.

    Differs: images to forget and to keep in one step instead of one pass after the other, so that few images to
    forget are seen several times an epoch; batches of 64 instead of 256; absolute saliency by default.
    """
    require_at_least("num_epochs", num_epochs, 1)
    mask = request.mask(table)
    unlearned = copy_of(model).to(memory_format=precision.memory_format)
    sides = Sides(unlearned, table, mask, batch_size=batch_size, seed=seed, precision=precision)
    may_change = saliency_mask(
        unlearned, table, table.rows("train"), mask, share=share, saliency=saliency, precision=precision
    )
    start = {name: p.detach().clone() for name, p in unlearned.named_parameters()}
    generator = torch.Generator().manual_seed(seed)
    labels = table.labels.to(sides.device, copy=True)

    def objective(pair: tuple[Batch, Batch]) -> torch.Tensor:
        retain, forget = pair
        of_retain, of_forget = both_logits(unlearned, retain, forget)
        keep = retain_loss(of_retain, retain.labels, retain.mask)
        return keep + forget_loss(of_forget, labels[forget.rows], forget.mask)

    @torch.no_grad()
    def restore() -> None:
        for name, p in unlearned.named_parameters():
            p.copy_(torch.where(may_change[name], p, start[name]))

    optimizer = sgd(unlearned.parameters(), learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay)
    for _ in range(num_epochs):
        labels.copy_(random_labels(table, mask, generator, sides.device))
        descend(unlearned, sides.pairs(), objective, optimizer, batchnorm=batchnorm, after_step=restore)
    return unlearned
