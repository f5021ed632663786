"""SSD: dampen the weights whose Fisher information for what must be forgotten stands out. No training."""

import math

import torch
from torch import nn

from mlu_utils.models import copy_of
from mlu_utils.naming import require_choice
from mlu_utils.unlearning import importance
from mlu_utils.unlearning.task import Task

REFERENCES = ("auto", "retain", "all")


def dampening_factors(forget: torch.Tensor, reference: torch.Tensor, *, alpha: float, dampening: float) -> torch.Tensor:
    """Return min(dampening * reference / forget, 1) where forget > alpha * reference, else 1: equations 5 and 6."""
    selected = forget > alpha * reference
    factor = (dampening * reference / torch.where(selected, forget, 1)).clamp_max(1)
    return torch.where(selected, factor, 1)


def ssd(
    task: Task, *, alpha: float = 10.0, dampening: float = 1.0, reference: str = "auto", batch_size: int = 64
) -> nn.Module:
    """Return a copy whose weights that matter to the forgotten entries more than to the reference are dampened.

    For a label forgotten for everyone the reference does not use the label's head row, so that row and its bias become
    exactly 0, but for the weights of features that are 0 on every image: the logit says nothing. The task's seed deals
    the batches over which a gradient is averaged before it is squared.

    Args:
        alpha: how far a weight must stand out, > 0.
        dampening: lambda of `dampening_factors`, >= 0.
        reference: "all": the loss over all training entries, as published; "retain": that over the entries to keep;
            "auto": retain for label and partial requests, where the images to forget are kept, else all.

    Source: Foster, Schoepf and Brintrup (2024), Fast Machine Unlearning Without Retraining Through Selective Synaptic
    Dampening; defaults of its public code for ResNets.

    Differs: the form for labels is ours.
    """
    require_choice("reference", reference, REFERENCES)
    if not (0 < alpha < math.inf and 0 <= dampening < math.inf):
        raise ValueError(f"alpha must be above 0 and dampening at least 0, got {alpha} and {dampening}")
    if reference == "auto":
        reference = "retain" if task.request.kind in ("label", "partial") else "all"
    order = torch.Generator().manual_seed(task.seed)

    def mean_square(rows: torch.Tensor, loss: str) -> torch.Tensor:
        rows = rows[torch.randperm(len(rows), generator=order)]
        return importance.gradient_statistics(task, rows, loss=loss, batch_size=batch_size).mean_square

    forget = mean_square(task.forget_rows, "forget")
    kept = mean_square(task.retain_rows if reference == "retain" else task.table.rows("train"), reference)
    factors = dampening_factors(forget, kept, alpha=alpha, dampening=dampening)
    unlearned = copy_of(task.model)
    importance.write_weights(unlearned, importance.flat_weights(unlearned) * factors)
    return unlearned
