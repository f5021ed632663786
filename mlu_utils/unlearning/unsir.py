"""UNSIR: impair the model with noise that maximises the error of what must be forgotten, then repair it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn

from mlu_utils.naming import require_at_least, require_choice
from mlu_utils.requests import entry_losses, mean_over, retain_loss
from mlu_utils.training import descend, in_eval_mode, sgd
from mlu_utils.unlearning.task import Batch, Task

FORMS = ("auto", "bank", "instance")


def noise_labels(task: Task) -> torch.Tensor:
    """Return one row of labels per noise bank: the values whose loss the noise maximises, nan elsewhere.

    A class has one bank, (1, 1). A label has two, absent and present, (2, K): noise for one of them alone would bend
    the label's output to a constant, which looks like forgetting to an accuracy and not to an AUC.
    """
    table, name = task.table, task.request.name
    if not table.is_multi_label:
        return torch.tensor([[table.class_index(name)]])
    labels = torch.full((2, table.num_labels), torch.nan)
    labels[:, table.label_index(name)] = torch.tensor([0.0, 1.0])
    return labels


class _Noise(nn.Module):
    """Images that learn."""

    def __init__(self, shape: tuple[int, ...], seed: int, like: torch.Tensor) -> None:
        super().__init__()
        self.images = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(like))

    def descend(self, model: nn.Module, objective: Callable, num_steps: int, learning_rate: float) -> torch.Tensor:
        """Return the images after Adam's steps on an objective of the model, whose own weights stay."""
        optimizer = torch.optim.Adam(self.parameters(), lr=learning_rate)
        needs = [p.requires_grad for p in model.parameters()]
        model.requires_grad_(False)
        try:
            descend(self, range(num_steps), lambda _: objective(self.images), optimizer)
        finally:
            for p, flag in zip(model.parameters(), needs, strict=True):
                p.requires_grad_(flag)
        return self.images.detach()


def learn_noise(
    task: Task,
    model: nn.Module,
    labels: torch.Tensor,
    *,
    num_steps: int,
    learning_rate: float,
    penalty: float,
) -> torch.Tensor:
    """Return images (len(labels), 3, H, W) that maximise the model's loss on the labels given.

    Minimises -mean loss + penalty * mean over images of the sum of squares, by Adam from standard normal noise.

    Args:
        task: gives the size of its images, the seed of the noise and the number format.
        model: in eval mode, not changed.
        labels: what each image is labelled with, as in the table, nan where nothing is said.
        num_steps, learning_rate: of Adam.
        penalty: lambda >= 0.

    Source: Tarun et al. (2023), equation 2.
    """
    shape = (len(labels), *task.table.images.shape[1:])
    noise = _Noise(shape, task.seed, next(model.parameters()))

    def objective(images: torch.Tensor) -> torch.Tensor:
        with task.precision.autocast(images.device):
            logits = model(images)
        return -_mean_loss(logits, labels) + penalty * images.square().flatten(1).sum(1).mean()

    return noise.descend(model, objective, num_steps, learning_rate)


def distant_noise(
    model: nn.Module, images: torch.Tensor, chosen: torch.Tensor, *, num_steps: int, learning_rate: float, seed: int
) -> torch.Tensor:
    """Return network inputs whose outputs lie far from those of the given images, clamped to [0, 1].

    Args:
        model: in eval mode while the noise is made; its weights and its mode stay.
        images: (B, 3, H, W), the images to forget.
        chosen: bool (B, num_outputs), outputs whose squared distance is maximised.
        num_steps, learning_rate: of Adam.
        seed: of the noise.

    Source: Choi and Na (2023), public notebooks.
    """
    noise = _Noise(tuple(images.shape), seed, images)
    with in_eval_mode(model):  # in train mode each forward pass would move BatchNorm's statistics
        with torch.no_grad():
            target = model(images)
        made = noise.descend(
            model, lambda x: -mean_over((model(x) - target).square(), chosen), num_steps, learning_rate
        )
    return made.clamp_(0, 1)


def unsir(
    task: Task,
    *,
    form: str = "auto",
    num_noise_images: int = 16,
    noise_steps: int = 40,
    noise_learning_rate: float = 0.1,
    noise_penalty: float = 0.1,
    instance_noise_steps: int = 5,
    instance_noise_learning_rate: float = 0.01,
    impair_epochs: int = 1,
    impair_learning_rate: float = 0.001,
    repair_epochs: int = 1,
    repair_learning_rate: float = 0.001,
    batch_size: int = 64,
    batchnorm: str = "train",
) -> nn.Module:
    """Return a copy that was impaired by noise and repaired on what is kept.

    bank (labels and classes): noise that the original finds hardest to call by the label or class is shown *as* that,
    beside images with what they keep; then images alone. instance (people, images, partial): each batch to keep is
    shown beside noise whose outputs lie far from those of a batch to forget, under the labels to keep; then
    images alone.

    Args:
        form: bank, instance, or auto: whichever fits the request.
        num_noise_images: bank: images of each bank.
        noise_steps, noise_learning_rate, noise_penalty: bank: see `learn_noise`.
        instance_noise_steps, instance_noise_learning_rate: instance: see `distant_noise`.
        impair_epochs, impair_learning_rate: stage 1, passes over the images to keep, SGD without momentum.
        repair_epochs, repair_learning_rate: stage 2, 0 epochs leave it out.

    Source: Tarun et al. (2023), Fast Yet Effective Machine Unlearning (bank); Choi and Na (2023), public notebooks
    (instance: its defaults and learning rates).

    Differs: bank: SGD instead of Adam, all images instead of a sample of each class, noise beside every batch with a
    loss of its own instead of one shuffled mixture, every noise image is used (the public code uses three of each
    batch and gives all forgotten classes the label 0), two banks for a label.
    """
    require_choice("form", form, FORMS)
    has_bank = task.request.kind in ("label", "class")
    if form == "auto":
        form = "bank" if has_bank else "instance"
    if form == "bank" and not has_bank:
        raise ValueError(f"a noise bank needs a label or a class, {task.request} has none: use form='instance'")
    require_at_least(1, impair_epochs=impair_epochs, num_noise_images=num_noise_images)
    require_at_least(0, repair_epochs=repair_epochs, noise_steps=noise_steps, instance_noise_steps=instance_noise_steps)
    require_at_least(0, noise_learning_rate=noise_learning_rate, noise_penalty=noise_penalty)
    require_at_least(0, instance_noise_learning_rate=instance_noise_learning_rate)
    unlearned, batches = task.start(), task.batches(batch_size)
    optimizers = [
        sgd(unlearned.parameters(), learning_rate=rate, momentum=0.0, weight_decay=0.0)
        for rate in (impair_learning_rate, repair_learning_rate)
    ]
    if form == "bank":
        labels = noise_labels(task).repeat_interleave(num_noise_images, 0).to(task.device)
        noise = learn_noise(
            task,
            unlearned,
            labels,
            num_steps=noise_steps,
            learning_rate=noise_learning_rate,
            penalty=noise_penalty,
        ).to(memory_format=task.precision.memory_format)
        impairing = batches.retain(impair_epochs), _beside_bank(task, unlearned, noise, labels, max(1, batch_size // 2))
    else:
        steps = {"num_steps": instance_noise_steps, "learning_rate": instance_noise_learning_rate}
        impairing = batches.pairs(impair_epochs), _beside_distant_noise(task, unlearned, steps)
    repairing = batches.retain(repair_epochs), lambda batch: batch.retain_loss(unlearned)
    for (items, objective), optimizer in zip((impairing, repairing), optimizers, strict=True):
        descend(unlearned, items, objective, optimizer, batchnorm=batchnorm, seed=task.seed)
    return unlearned


def _beside_bank(
    task: Task, model: nn.Module, noise: torch.Tensor, labels: torch.Tensor, num_picked: int
) -> Callable[[Batch], torch.Tensor]:
    """Return the loss of a batch to keep beside random images of the bank, each under its own labels."""
    picks = torch.Generator().manual_seed(task.seed)

    def impair(batch: Batch) -> torch.Tensor:
        picked = torch.randperm(len(noise), generator=picks)[:num_picked].to(noise.device)
        with task.precision.autocast(noise.device):
            logits = model(torch.cat([batch.images, noise[picked]]))
        keep = retain_loss(logits[: len(batch.rows)], batch.labels, batch.mask)
        return keep + _mean_loss(logits[len(batch.rows) :], labels[picked])

    return impair


def _beside_distant_noise(task: Task, model: nn.Module, steps: dict) -> Callable[[tuple[Batch, Batch]], torch.Tensor]:
    """Return the loss of a batch to keep and of noise far from a batch to forget, both under the labels to keep."""
    seeds: Iterator[int] = iter(range(task.seed, 2**63))

    def impair(pair: tuple[Batch, Batch]) -> torch.Tensor:
        retain, forget = pair
        size = min(len(retain.rows), len(forget.rows))
        chosen = forget.mask[:size]
        if chosen.shape[1] == 1:
            chosen = chosen.expand(-1, task.table.num_outputs)
        noise = distant_noise(model, forget.images[:size], chosen, **steps, seed=next(seeds))
        with task.precision.autocast(noise.device):
            of_noise = model(noise)
        of_noise = retain_loss(of_noise, retain.labels[:size], retain.mask[:size])
        return of_noise + retain.retain_loss(model)

    return impair


def _mean_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return mean_over(*entry_losses(logits, labels))
