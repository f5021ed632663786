"""How much each weight matters to the entries to forget and to those to keep: averages of gradients.

Results are flat float32 vectors over all weights, on the model's device; `unflatten` gives them names and shapes.
Models run in eval mode and are left as they were.
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn

from mlu_utils.naming import require_choice
from mlu_utils.requests import entry_losses, mean_over
from mlu_utils.training import in_eval_mode
from mlu_utils.unlearning.task import Passes, Task

Weights = dict[str, torch.Tensor]
LOSSES = ("forget", "retain", "all")  # the mean loss over the entries to forget, those to keep, or both


class GradientStatistics(NamedTuple):
    """Averages over batches of the gradient g of one loss, flat over all weights."""

    mean: torch.Tensor  # g
    mean_absolute: torch.Tensor  # |g|
    mean_square: torch.Tensor  # g^2


def gradient_statistics(
    task: Task, rows: torch.Tensor, *, loss: str, batch_size: int = 64, model: nn.Module | None = None
) -> GradientStatistics:
    """Return the averages of one of `LOSSES`' gradient over batches of the rows, weighted by their number of entries.

    So `mean` is the gradient of the loss over all rows. `mean_absolute` is the sensitivity S(w) of Hossain et al.
    (2025), equation 1, which does not say whether images are averaged before or after the absolute value: at a
    trained optimum they cancel in large batches, so small ones say more. The model is the task's by default.
    """
    model, rows = model or task.model, rows.cpu()
    chosen = chosen_entries(task.table.labels, task.mask, loss)
    rows = rows[chosen[rows].any(1)]
    if len(rows) == 0:
        raise ValueError(f"no entry of the {loss} loss among the calibration images: choose other rows")
    total, totals = int(chosen[rows].sum()), None
    with in_eval_mode(model):
        for batch in Passes(task, rows, batch_size):
            entries = chosen_entries(batch.labels, batch.mask, loss)
            losses, _ = entry_losses(batch.logits(model), batch.labels)
            gradients = torch.autograd.grad(mean_over(losses, entries), list(model.parameters()))
            g, share = torch.cat([gradient.reshape(-1) for gradient in gradients]), int(entries.sum()) / total
            if totals is None:
                totals = [g * share, g.abs() * share, g.square() * share]
            else:
                totals[0].add_(g, alpha=share)
                totals[2].addcmul_(g, g, value=share)
                totals[1].add_(g.abs_(), alpha=share)
    return GradientStatistics(*totals)


def chosen_entries(labels: torch.Tensor, mask: torch.Tensor, loss: str) -> torch.Tensor:
    """Return which entries (B, K) a loss of `LOSSES` averages over."""
    require_choice("loss", loss, LOSSES)
    known = ~labels.isnan()
    return known if loss == "all" else known & (mask if loss == "forget" else ~mask)


def rank_correlation(a: torch.Tensor, b: torch.Tensor, *, num_samples: int = 200_000, seed: int = 0) -> float:
    """Return Spearman's rank correlation of two flat importances, over at most `num_samples` random weights."""
    if len(a) > num_samples:
        chosen = torch.randint(len(a), (num_samples,), generator=torch.Generator().manual_seed(seed))
        a, b = a[chosen.to(a.device)], b[chosen.to(b.device)]
    return float(spearmanr(a.cpu(), b.cpu()).statistic)


def flat_weights(model: nn.Module) -> torch.Tensor:
    """Return a flat copy of all weights."""
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


@torch.no_grad()
def write_weights(model: nn.Module, flat: torch.Tensor) -> None:
    """Put flat weights back into the model, in place."""
    parameters = dict(model.named_parameters())
    for name, value in unflatten(flat, parameters).items():
        parameters[name].copy_(value)


def unflatten(vector: torch.Tensor, like: Weights) -> Weights:
    """Return views of the vector with the names and shapes of `like`."""
    parts = vector.split([w.numel() for w in like.values()])
    return {name: part.view(w.shape) for (name, w), part in zip(like.items(), parts, strict=True)}


def by_stage(flat: torch.Tensor, like: Weights) -> dict[str, np.ndarray]:
    """Return the values of a flat vector grouped by the first part of the parameter names, such as `layer4`."""
    groups: dict[str, list[torch.Tensor]] = {}
    for name, values in unflatten(flat, like).items():
        groups.setdefault(name.split(".")[0], []).append(values.reshape(-1))
    return {stage: torch.cat(parts).cpu().numpy() for stage, parts in groups.items()}
