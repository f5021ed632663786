"""From importance, a flat float vector over all weights, to a choice of weights, a vector of the same length."""

from typing import NamedTuple

import torch

from mlu_utils.models import head
from mlu_utils.naming import require_at_least, require_share
from mlu_utils.training import rows_with_entries
from mlu_utils.unlearning.task import Pair, Task


def calibration_rows(task: Task, *, num_forget_images: int, num_retain_images: int, split: str = "train") -> Pair:
    """Return at most so many rows of the split for each loss; the paper claims to need no original training data."""
    require_at_least(1, num_forget_images=num_forget_images, num_retain_images=num_retain_images)
    table, rows = task.table, task.table.rows(split)

    def drawn(what: str, left_out: torch.Tensor, num_images: int) -> torch.Tensor:
        candidates = rows_with_entries(table, rows, left_out)
        if len(candidates) == 0:
            raise ValueError(f"the {split} split of {table.source} has nothing to {what} for this request")
        # Another order than that of fine-tuning under the same seed, whose first batch would repeat these images.
        order = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(task.seed + 2**32))
        return candidates[order[:num_images]].sort().values

    return drawn("forget", ~task.mask, num_forget_images), drawn("keep", task.mask, num_retain_images)


def quantile(values: torch.Tensor, q: float) -> torch.Tensor:
    """Return the value of rank ceil(q n), at least 1, of n values, without sorting them: a sample brackets the rank."""
    n = len(values)
    rank = max(1, min(n, int(-(-q * n // 1))))
    if n <= 100_000:
        return values.kthvalue(rank).values
    sample = values[:: n // 50_000].sort().values
    slack = 0.02 * len(sample)
    low = sample[max(0, int(q * len(sample) - slack))]
    high = sample[min(len(sample) - 1, int(q * len(sample) + slack))]
    below = int((values < low).sum())
    inside = values[(values >= low) & (values <= high)]
    if not below < rank <= below + len(inside):
        return values.kthvalue(rank).values  # the sample misled: search everything
    return inside.kthvalue(rank - below).values


def exclusive_weights(task: Task) -> torch.Tensor:
    """Return bool, flat: the head rows of labels that nobody keeps; only what must be forgotten uses them.

    Gradients alone do not show all of them: a feature that is 0 on every calibration image hides its weight.
    """
    mask, num_rows = task.mask, head(task.model).out_features
    # Single-label data have one column and rows that compete in one softmax: each row serves every class.
    return head_weights(task, mask.all(0) if mask.shape[1] == num_rows else torch.zeros(num_rows, dtype=torch.bool))


def head_weights(task: Task, rows: torch.Tensor | None = None) -> torch.Tensor:
    """Return bool, flat: the weights of the last layer, of these of its rows, bool (num_outputs,), or of all."""
    layer, parts = head(task.model), []
    for p in task.model.parameters():
        part = torch.zeros(p.shape, dtype=torch.bool, device=p.device)
        if p is layer.weight or p is layer.bias:
            part[slice(None) if rows is None else rows.to(p.device)] = True
        parts.append(part.reshape(-1))
    return torch.cat(parts)


def relative_importance(
    forget: torch.Tensor, retain: torch.Tensor, *, exclusive: torch.Tensor | None = None, damping: float = 1e-3
) -> torch.Tensor:
    """Return how much more a weight matters to what must be forgotten than to what must be kept.

    (forget / mean forget) / (retain / mean retain + damping): 1 = as much for one as for the other; infinite for the
    `exclusive_weights`. A measured retain importance of exactly 0 proves nothing: bf16 rounds small gradients to it,
    and calibration images may leave a feature at rest.
    """
    floor = torch.finfo(forget.dtype).tiny
    ratio = (forget / forget.mean().clamp_min(floor)) / (retain / retain.mean().clamp_min(floor) + damping)
    return ratio if exclusive is None else torch.where(exclusive, torch.inf, ratio)


def forget_set(forget: torch.Tensor, share: float, *, relative: torch.Tensor | None = None) -> torch.Tensor:
    """Return W_f: bool, True for the `share` of weights with the most influence on what must be forgotten.

    Given their `relative_importance` (the targeted reading), the weights of at least mean influence compete by this
    instead, and those of an infinite one are chosen whatever their influence; others of influence 0 never are.

    Source: Hossain et al. (2025), equation 2, whose threshold on the influence is not given.
    """
    require_share(forget_share=share)
    ranked = forget if relative is None else torch.where(forget >= forget.mean(), relative, 0)
    chosen = ranked > 0
    if share < 1:
        chosen &= ranked >= quantile(ranked, 1 - share)
    return chosen if relative is None else chosen | relative.isinf()


def scored_forget_set(
    forget: torch.Tensor,
    share: float,
    *,
    reading: str,
    scores: Pair,
    exclusive: torch.Tensor,
    last: torch.Tensor | None = None,
) -> Pair:
    """Return the scores by which a reading treats weights, and the `forget_set` W_f, which it treats.

    printed takes the first of the two scores as it is; the others take it relative to the second, and trunk takes no
    weight of the `last` layer, bool, flat.
    """
    if reading == "printed":
        return scores[0], forget_set(forget, share)
    if reading == "trunk":
        forget, exclusive = torch.where(last, 0, forget), None
    relative = relative_importance(*scores, exclusive=exclusive)
    return relative, forget_set(forget, share, relative=relative)


def overlap(forget: torch.Tensor, retain: torch.Tensor) -> float:
    """Return the cosine of two importances in [0, 1]: 1 = both losses live in the same weights."""
    return float(torch.nn.functional.cosine_similarity(forget, retain, dim=0))


def require_weights(chosen: torch.Tensor) -> None:
    """Refuse an empty choice of weights."""
    if not len(chosen):
        raise ValueError(
            "no weight has any influence on what must be forgotten (the model is certain of it on every calibration "
            "image): take more calibration images"
        )


class Thresholds(NamedTuple):
    """25th, 50th and 75th percentile of a score over W_f (tau_l, tau_m, tau_h of Algorithm 2)."""

    low: float
    middle: float
    high: float


def percentile_thresholds(scores: torch.Tensor) -> Thresholds:
    """Return the thresholds of the scores of the weights in W_f; infinite ones, of exclusive weights, do not count."""
    require_weights(scores)
    finite = scores[scores.isfinite()]
    return Thresholds(*(float(quantile(finite if len(finite) else scores, q)) for q in (0.25, 0.5, 0.75)))


def shuffled(choice: torch.Tensor, *, seed: int) -> torch.Tensor:
    """Return the same choice for as many weights, picked at random: the control."""
    order = torch.randperm(len(choice), generator=torch.Generator().manual_seed(seed))
    return choice[order.to(choice.device)]
