"""SalUn: random labels, learnt only by the weights that are salient for what must be forgotten."""

import torch
from torch import nn

from mlu_utils.naming import require_at_least, require_choice, require_share
from mlu_utils.requests import forget_loss, retain_loss
from mlu_utils.training import descend, sgd
from mlu_utils.unlearning import importance, selection
from mlu_utils.unlearning.task import Batch, Task, both_logits

SALIENCIES = ("absolute", "signed", "relative")


def saliency_mask(
    task: Task, *, share: float, saliency: str = "absolute", batch_size: int = 64
) -> dict[str, torch.Tensor]:
    """Return parameter name -> bool: the share of all weights that may change, if 1 also those without any gradient.

    Weights are ranked by saliency, over batches of training images. "signed": |sum of the forget gradient|, as
    published; "absolute": sum of |gradient|, for a label forgotten for everyone, whose signed sum is close to 0 at a
    trained optimum; "relative": absolute, in units of the same for the retain loss.

    Source: Fan et al. (2024), equation 3; the threshold is set by the share, as in its public code.
    """
    require_choice("saliency", saliency, SALIENCIES)
    require_share(share=share)
    model = task.start()
    options = {"batch_size": batch_size, "model": model}
    rows = task.table.rows("train")
    statistics = importance.gradient_statistics(task, rows, loss="forget", **options)
    ranked = statistics.mean.abs() if saliency == "signed" else statistics.mean_absolute
    if saliency == "relative":
        kept = importance.gradient_statistics(task, rows, loss="retain", **options).mean_absolute
        ranked = selection.relative_importance(ranked, kept, exclusive=selection.exclusive_weights(task))
    chosen = torch.ones_like(ranked, dtype=torch.bool) if share == 1 else selection.forget_set(ranked, share)
    return importance.unflatten(chosen, dict(model.named_parameters()))


def random_labels(task: Task, generator: torch.Generator) -> torch.Tensor:
    """Return the label table with fresh random values, 0 or 1 or any class, in the entries to forget."""
    labels = task.table.labels
    if task.table.is_multi_label:
        drawn = torch.randint(2, labels.shape, generator=generator).to(labels.dtype)
        drawn = torch.where(labels.isnan(), labels, drawn)
    else:
        drawn = torch.randint(task.table.num_outputs, labels.shape, generator=generator)
    return torch.where(task.mask, drawn, labels).to(task.device)


def salun(
    task: Task,
    *,
    share: float = 0.5,
    saliency: str = "absolute",
    num_epochs: int = 10,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    batch_size: int = 64,
    batchnorm: str = "train",
) -> nn.Module:
    """Return a copy trained on random labels to forget and true labels to keep, in its `saliency_mask` only.

    The random labels are drawn anew in every epoch; each batch to keep has one to forget beside it. All other weights
    keep their bits: neither momentum nor weight decay moves them; running statistics of BatchNorm are no weights.

    Source: Fan et al. (2024), SalUn, equations 3-5; defaults of its public code.

    Differs: images to forget and to keep in one step instead of one pass after the other, so that few images to
    forget are seen several times an epoch; batches of 64 instead of 256; absolute saliency by default.
    """
    require_at_least(1, num_epochs=num_epochs)
    unlearned = task.start()
    optimizer = sgd(unlearned.parameters(), learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay)
    batches = task.batches(batch_size)
    may_change = saliency_mask(task, share=share, saliency=saliency)
    first = {name: p.detach().clone() for name, p in unlearned.named_parameters()}
    generator = torch.Generator().manual_seed(task.seed)
    labels = task.table.labels.to(task.device, copy=True)

    def objective(pair: tuple[Batch, Batch]) -> torch.Tensor:
        retain, forget = pair
        of_retain, of_forget = both_logits(unlearned, retain, forget)
        keep = retain_loss(of_retain, retain.labels, retain.mask)
        return keep + forget_loss(of_forget, labels[forget.rows], forget.mask)

    @torch.no_grad()
    def restore(_loss: torch.Tensor) -> None:
        for name, p in unlearned.named_parameters():
            p.copy_(torch.where(may_change[name], p, first[name]))

    for epoch in range(num_epochs):
        labels.copy_(random_labels(task, generator))
        options = {"batchnorm": batchnorm, "after_step": restore, "seed": task.seed + epoch}
        descend(unlearned, batches.pairs(), objective, optimizer, **options)
    return unlearned
