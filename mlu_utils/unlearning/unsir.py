"""UNSIR: impair the model with noise that maximises the error of what must be forgotten, then repair it."""

from collections.abc import Callable
from itertools import count

import torch
from torch import nn

from mlu_utils.naming import require_at_least, require_choice
from mlu_utils.requests import entry_losses, mean_over, retain_loss
from mlu_utils.training import descend, in_eval_mode, sgd
from mlu_utils.unlearning.task import Batch, Task, without_weight_gradients

FORMS = ("auto", "bank", "instance")


def noise_labels(task: Task) -> torch.Tensor:
    """Return one row of labels per noise bank: the values whose loss the noise maximises, nan elsewhere.

    A class has one bank, (1, 1). Each label has two, absent and present, (2, K): noise for one of them alone would bend
    the label's output to a constant, which looks like forgetting to an accuracy and not to an AUC.
    """
    table, names = task.table, task.request.names
    if not table.is_multi_label:
        return torch.tensor([[table.class_index(names[0])]])
    labels = torch.full((2 * len(names), table.num_labels), torch.nan)
    for number, name in enumerate(names):
        labels[2 * number : 2 * number + 2, table.label_index(name)] = torch.tensor([0.0, 1.0])
    return labels


def _descended(
    model: nn.Module, noise: torch.Tensor, objective: Callable, *, num_steps: int, learning_rate: float
) -> torch.Tensor:
    """Return the noise after Adam's steps on an objective of it and of the model, whose weights stay."""
    learner = nn.ParameterList([noise])
    with without_weight_gradients(model):
        optimizer = torch.optim.Adam(learner.parameters(), lr=learning_rate)
        descend(learner, range(num_steps), lambda _: objective(learner[0]), optimizer)
    return learner[0].detach()


def learn_noise(
    task: Task, model: nn.Module, labels: torch.Tensor, *, num_steps: int, learning_rate: float, penalty: float
) -> torch.Tensor:
    """Return images (len(labels), 3, H, W) that maximise the loss of the model, in eval mode, on the labels given.

    From normal noise, minimises -mean loss + penalty * mean over images of the sum of squares; nan labels say nothing.

    Source: Tarun et al. (2023), equation 2.
    """

    def objective(images: torch.Tensor) -> torch.Tensor:
        with task.precision.autocast(images.device):
            logits = model(images)
        return -_mean_loss(logits, labels) + penalty * images.square().flatten(1).sum(1).mean()

    generator = torch.Generator().manual_seed(task.seed)
    noise = torch.randn(len(labels), *task.table.images.shape[1:], generator=generator).to(next(model.parameters()))
    return _descended(model, noise, objective, num_steps=num_steps, learning_rate=learning_rate)


def distant_noise(
    model: nn.Module, images: torch.Tensor, chosen: torch.Tensor, *, seed: int, **steps: float
) -> torch.Tensor:
    """Return network inputs whose outputs lie far from those of the given images, clamped to [0, 1].

    Maximises the mean squared distance of the chosen outputs, bool (B, num_outputs), of the model in eval mode.

    Source: Choi and Na (2023), public notebooks.
    """
    with in_eval_mode(model):  # in train mode each forward pass would move BatchNorm's statistics
        with torch.no_grad():
            target = model(images)

        def objective(noise: torch.Tensor) -> torch.Tensor:
            return -mean_over((model(noise) - target).square(), chosen)

        start = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed)).to(images)
        return _descended(model, start, objective, **steps).clamp_(0, 1)


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
    """Return a copy that was impaired by noise in `impair_epochs` and repaired on images alone in `repair_epochs`.

    Both are passes over the images to keep, by SGD without momentum. Beside these images impairing shows, by form:
    bank (labels and classes): noise that the original finds hardest to call by the label or class, *as* that, from
    banks of `num_noise_images`; instance (people, images, partial): noise whose outputs lie far from those of a
    batch to forget, under the labels to keep. auto: whichever fits the request.

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
    impairing, repairing = (
        sgd(unlearned.parameters(), learning_rate=rate, momentum=0.0, weight_decay=0.0)
        for rate in (impair_learning_rate, repair_learning_rate)
    )
    if form == "bank":
        labels = noise_labels(task).repeat_interleave(num_noise_images, 0).to(task.device)
        steps = {"num_steps": noise_steps, "learning_rate": noise_learning_rate, "penalty": noise_penalty}
        noise = learn_noise(task, unlearned, labels, **steps).to(memory_format=task.precision.memory_format)
        shown, impair = batches.retain, _beside_bank(task, unlearned, noise, labels, max(1, batch_size // 2))
    else:
        steps = {"num_steps": instance_noise_steps, "learning_rate": instance_noise_learning_rate}
        shown, impair = batches.pairs, _beside_distant_noise(task, unlearned, steps)
    options = {"batchnorm": batchnorm, "seed": task.seed}
    descend(unlearned, shown(impair_epochs), impair, impairing, **options)
    descend(unlearned, batches.retain(repair_epochs), lambda b: b.retain_loss(unlearned), repairing, **options)
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
    seeds = count(task.seed)

    def impair(pair: tuple[Batch, Batch]) -> torch.Tensor:
        retain, forget = pair
        size = min(len(retain.rows), len(forget.rows))
        chosen = forget.mask[:size]
        if chosen.shape[1] == 1:
            chosen = chosen.expand(-1, task.table.num_outputs)
        noise = distant_noise(model, forget.images[:size], chosen, **steps, seed=next(seeds))
        with task.precision.autocast(noise.device):
            of_noise = model(noise)
        return retain_loss(of_noise, retain.labels[:size], retain.mask[:size]) + retain.retain_loss(model)

    return impair


def _mean_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return mean_over(*entry_losses(logits, labels))
