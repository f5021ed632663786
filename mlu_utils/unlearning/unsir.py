"""UNSIR: impair the model with noise that maximises the error of what must be forgotten, then repair it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from mlu_utils.data.table import ImageTable
from mlu_utils.models import copy_of
from mlu_utils.naming import choices
from mlu_utils.requests import ForgetRequest, entry_losses, mean_over, retain_loss
from mlu_utils.devices import FP32, Precision
from mlu_utils.training import device_of, require_at_least, sgd
from mlu_utils.unlearning.task import Batch, Sides, descend

FORMS = ("auto", "bank", "instance")


def noise_labels(table: ImageTable, request: ForgetRequest) -> torch.Tensor:
    """Return one row of labels per noise bank: the values whose loss the noise maximises, nan elsewhere.

    A class has one bank, (1, 1). A label has two, absent and present, (2, K): noise for one of them alone would bend
    the label's output to a constant, which looks like forgetting to an accuracy and not to an AUC.
    """
    if not table.is_multi_label:
        return torch.tensor([[table.class_index(request.name)]])
    labels = torch.full((2, table.num_labels), torch.nan)
    labels[:, table.label_index(request.name)] = torch.tensor([0.0, 1.0])
    return labels


def learn_noise(
    model: nn.Module,
    labels: torch.Tensor,
    *,
    image_shape: tuple[int, ...],
    num_steps: int,
    learning_rate: float,
    penalty: float,
    seed: int,
    precision: Precision = FP32,
) -> torch.Tensor:
    """Return images (len(labels), *image_shape) that maximise the model's loss on the labels given.

    Minimises -mean loss + penalty * mean over images of the sum of squares, by Adam from standard normal noise.

    Args:
        model: in eval mode, not changed.
        labels: what each image is labelled with, as in the table, nan where nothing is said.
        image_shape: (3, H, W).
        num_steps, learning_rate: of Adam.
        penalty: lambda >= 0.
        seed: of the noise.
        precision: number format of the forward and backward pass.

    Source: Tarun et al. (2023), equation 2.
    """
    noise = torch.randn(len(labels), *image_shape, generator=torch.Generator().manual_seed(seed))
    noise = noise.to(device_of(model)).requires_grad_()
    optimizer = torch.optim.Adam([noise], lr=learning_rate)
    for _ in range(num_steps):
        with precision.autocast(noise.device):
            logits = model(noise)
        loss = -_mean_loss(logits, labels) + penalty * noise.square().flatten(1).sum(1).mean()
        (noise.grad,) = torch.autograd.grad(loss, noise)
        optimizer.step()
    return noise.detach()


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
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed)).to(images)
    noise.requires_grad_()
    optimizer = torch.optim.Adam([noise], lr=learning_rate)
    was_training = model.training
    model.eval()  # in train mode each forward pass would move BatchNorm's statistics
    with torch.no_grad():
        target = model(images)
    for _ in range(num_steps):
        distance = (model(noise) - target).square()
        (noise.grad,) = torch.autograd.grad(-mean_over(distance, chosen), noise)
        optimizer.step()
    model.train(was_training)
    return noise.detach().clamp_(0, 1)


def unsir(
    model: nn.Module,
    table: ImageTable,
    request: ForgetRequest,
    *,
    seed: int,
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
    precision: Precision = FP32,
) -> nn.Module:
    """Return a copy that was impaired by noise and repaired on what is kept.

    bank (labels and classes): noise that the original finds hardest to call by the label or class is shown *as* that,
    beside images with what they keep; then images alone. instance (people, images, partial): each batch to keep is
    shown beside noise whose outputs lie far from those of a batch to forget, under the labels to keep; then
    images alone.

    Args:
        model: the original model; not changed.
        table: the data.
        request: what to forget.
        seed: of the noise and of the order of the images.
        form: bank, instance, or auto: whichever fits the request.
        num_noise_images: bank: images of each bank.
        noise_steps, noise_learning_rate, noise_penalty: bank: see `learn_noise`.
        instance_noise_steps, instance_noise_learning_rate: instance: see `distant_noise`.
        impair_epochs, impair_learning_rate: stage 1, passes over the images to keep, SGD without momentum.
        repair_epochs, repair_learning_rate: stage 2, 0 epochs leave it out.
        batch_size: images a batch.
        batchnorm: see `descent.descend`; the bank is learnt in eval mode whatever it says.
        precision: number format.

    Raises:
        ValueError: unknown form, a bank for a request without a label or class of its own, a number of noise
            images or of impairing passes below 1, or of repairing passes or a penalty below 0.

    Source: Tarun et al. (2023), Fast Yet Effective Machine Unlearning (bank); Choi and Na (2023), public notebooks
    (instance: its defaults and learning rates).

    Differs: bank: SGD instead of Adam, all images instead of a sample of each class, noise beside every batch with a
    loss of its own instead of one shuffled mixture, every noise image is used (the public code uses three of each
    batch and gives all forgotten classes the label 0), two banks for a label.
    """
    if form not in FORMS:
        raise ValueError(f"unknown form {form!r}: {choices(form, FORMS)}")
    has_bank = request.kind in ("label", "class")
    if form == "auto":
        form = "bank" if has_bank else "instance"
    if form == "bank" and not has_bank:
        raise ValueError(f"a noise bank needs a label or a class, {request} has none: use form='instance'")
    require_at_least("impair_epochs", impair_epochs, 1)
    require_at_least("repair_epochs", repair_epochs, 0)
    require_at_least("num_noise_images", num_noise_images, 1)
    require_at_least("noise_penalty", noise_penalty, 0)
    mask = request.mask(table)
    unlearned = copy_of(model).to(memory_format=precision.memory_format)
    sides = Sides(unlearned, table, mask, batch_size=batch_size, seed=seed, precision=precision)
    if form == "bank":
        labels = noise_labels(table, request).repeat_interleave(num_noise_images, 0).to(device_of(unlearned))
        noise = learn_noise(
            unlearned,
            labels,
            image_shape=tuple(table.images.shape[1:]),
            num_steps=noise_steps,
            learning_rate=noise_learning_rate,
            penalty=noise_penalty,
            seed=seed,
            precision=precision,
        ).to(memory_format=precision.memory_format)
        share = max(1, batch_size // 2)
        picks = torch.Generator().manual_seed(seed)

        def impair(batch: Batch) -> torch.Tensor:
            picked = torch.randperm(len(noise), generator=picks)[:share].to(noise.device)
            with precision.autocast(noise.device):
                logits = unlearned(torch.cat([batch.images, noise[picked]]))
            keep = retain_loss(logits[: len(batch.rows)], batch.labels, batch.mask)
            return keep + _mean_loss(logits[len(batch.rows) :], labels[picked])

        stream: Iterator = sides.retain(impair_epochs)
    else:
        seeds = iter(range(seed, 2**63))

        def impair(pair: tuple[Batch, Batch]) -> torch.Tensor:
            retain, forget = pair
            size = min(len(retain.rows), len(forget.rows))
            chosen = forget.mask[:size]
            noise = distant_noise(
                unlearned,
                forget.images[:size],
                chosen.expand(-1, table.num_outputs) if chosen.shape[1] == 1 else chosen,
                num_steps=instance_noise_steps,
                learning_rate=instance_noise_learning_rate,
                seed=next(seeds),
            )
            with precision.autocast(noise.device):
                of_noise = unlearned(noise)
            of_noise = retain_loss(of_noise, retain.labels[:size], retain.mask[:size])
            return of_noise + retain.retain_loss(unlearned)

        stream = sides.pairs(impair_epochs)

    for items, objective, rate in (
        (stream, impair, impair_learning_rate),
        (sides.retain(repair_epochs), lambda batch: batch.retain_loss(unlearned), repair_learning_rate),
    ):
        optimizer = sgd(unlearned.parameters(), learning_rate=rate, momentum=0.0, weight_decay=0.0)
        descend(unlearned, items, objective, optimizer, batchnorm=batchnorm)
    return unlearned


def _mean_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return mean_over(*entry_losses(logits, labels))
