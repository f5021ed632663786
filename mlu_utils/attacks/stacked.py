"""Many small networks trained at once: shadow models, each on its own half of the data.

The weights of S networks lie stacked in one tensor a layer, and one forward and backward pass serves all of them
(torch.func). Each network sees its rows in the order, and with the augmentation, that `training.fit` would give it
under the same seed: the result equals S separate trainings up to rounding.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence

import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from tqdm import tqdm

from mlu_utils.data.batches import Augmentation, Batches
from mlu_utils.data.table import ImageTable
from mlu_utils.naming import choices
from mlu_utils.requests import entry_losses
from mlu_utils.training import SCHEDULES, NonFiniteLossError, device_of, require_at_least, rows_with_entries, sgd


def random_halves(rows: torch.Tensor, num_models: int, *, num_images: int, seed: int) -> torch.Tensor:
    """Return which rows each model learns from, bool (num_models, num_images): halves in complementary pairs.

    Every model learns from as many rows, and every row is learned by half of the models: what LiRA needs. Of an odd
    number of rows, each pair leaves out one at random.

    Args:
        rows: int64, the rows to deal out; the others stay False.
        num_models: an even number.
        num_images: N of the table.
        seed: of the draws.

    Raises:
        ValueError: an odd number of models, or fewer than two rows.

    Example:
        >>> random_halves(torch.arange(6), 4, num_images=8, seed=0).sum(1).tolist()
        [3, 3, 3, 3]
    """
    if num_models < 2 or num_models % 2:
        raise ValueError(f"num_models must be even and at least 2, got {num_models}: halves come in pairs")
    if len(rows) < 2:
        raise ValueError(f"{len(rows)} rows cannot be halved: at least 2 are needed")
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(num_models, num_images, dtype=torch.bool)
    half = len(rows) // 2
    for pair in range(0, num_models, 2):
        order = rows[torch.randperm(len(rows), generator=generator)]
        masks[pair, order[:half]] = True
        masks[pair + 1, order[half : 2 * half]] = True
    return masks


def fit_stacked(
    models: Sequence[nn.Module],
    table: ImageTable,
    row_masks: torch.Tensor,
    *,
    mask: torch.Tensor | None = None,
    num_epochs: int,
    batch_size: int = 64,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    schedule: str = "constant",
    augmentation: Augmentation | None = None,
    seeds: Sequence[int],
    description: str = "training shadows",
) -> list[dict]:
    """Train the models in place, each on its rows, by SGD on the retain loss; leave them in eval mode.

    Args:
        models: S networks of one architecture on one device, each with its own initial weights.
        table: the data.
        row_masks: bool (S, N), the rows that each model learns from; the same number for all (`random_halves`).
        mask: bool (N, K), entries that the loss of every model leaves out, as in `training.fit`.
        num_epochs, batch_size, learning_rate, momentum, weight_decay, schedule, augmentation: see `training.fit`.
            On a CPU a step of all models should fit the cache: 16 small networks on 130 images of 32 x 26 px each
            took 2.0 s an epoch in batches of 64 and 1.2 s in batches of 16, where one after the other took .8 and 1.1.
        seeds: S seeds of order and augmentation.
        description: shown by the progress bar.

    Returns:
        One record an epoch: epoch (from 1), retain_loss (list of S means over the batches), seconds.

    Raises:
        ValueError: numbers of models, masks and seeds that differ, masks of different sizes, other architectures.
        NonFiniteLossError: the loss of a model was not finite; all models hold the last good weights.

    Differs: float32 only, images in contiguous format; `training.fit` may use bf16 and channels_last.
    """
    require_at_least("num_epochs", num_epochs, 1)
    if schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule {schedule!r}: {choices(schedule, SCHEDULES)}")
    mask = torch.zeros(table.labels.shape, dtype=torch.bool) if mask is None else mask.cpu()
    rows = _rows_of_each(models, table, row_masks.cpu(), mask, seeds)
    device = device_of(models[0])
    batches = [
        Batches(
            table,
            own,
            batch_size=batch_size,
            device=device,
            generator=torch.Generator().manual_seed(seed),
            augmentation=augmentation,
        )
        for own, seed in zip(rows, seeds, strict=True)
    ]
    for model in models:
        model.train()
    parameters, buffers = stack_module_state(list(models))
    skeleton = copy.deepcopy(models[0]).to("meta")  # the code of the forward pass without weights
    forward = vmap(lambda p, b, x: functional_call(skeleton, (p, b), (x,)), randomness="different")
    optimizer = sgd(parameters.values(), learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay)
    mask, num_steps = mask.to(device), num_epochs * len(batches[0])
    history, step = [], 0
    for epoch in tqdm(range(1, num_epochs + 1), desc=description, unit="epoch", disable=None, leave=False):
        last_good = [{k: v.detach().clone() for k, v in state.items()} for state in (parameters, buffers)]
        start, total = time.perf_counter(), torch.zeros(len(models), device=device)
        for parts in zip(*batches, strict=True):
            images, labels, batch_rows = (torch.stack(part) for part in zip(*parts, strict=True))  # (S, B, ...)
            losses = _retain_losses(forward(parameters, buffers, images), labels, mask[batch_rows])
            if schedule == "linear":
                optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / num_steps)
            optimizer.zero_grad(set_to_none=True)
            losses.sum().backward()  # no model's loss depends on another's weights
            optimizer.step()
            total += losses.detach()
            step += 1
        means = (total / len(batches[0])).tolist()
        is_good = torch.isfinite(total) & torch.stack(
            [p.isfinite().flatten(1).all(1) for p in parameters.values()]
        ).all(0)
        if not is_good.all():
            _write_back(models, *last_good)
            bad = int((~is_good).nonzero()[0])
            raise NonFiniteLossError(
                f"the loss of model {bad} became {means[bad]} in epoch {epoch} with learning_rate {learning_rate}: "
                "all models hold the last good weights; try a smaller learning rate"
            )
        history.append({"epoch": epoch, "retain_loss": means, "seconds": time.perf_counter() - start})
    _write_back(models, parameters, buffers)
    return history


def _rows_of_each(
    models: Sequence[nn.Module], table: ImageTable, row_masks: torch.Tensor, mask: torch.Tensor, seeds: Sequence[int]
) -> list[torch.Tensor]:
    """Return the rows that each model learns from, all of one length."""
    expected = (len(models), table.num_images)
    if not models or row_masks.dtype != torch.bool or row_masks.shape != expected or len(seeds) != len(models):
        raise ValueError(
            f"{len(models)} models, row_masks {row_masks.dtype} {tuple(row_masks.shape)} and {len(seeds)} seeds: "
            f"expected bool {expected} and one seed a model"
        )
    shapes = [{name: value.shape for name, value in model.state_dict().items()} for model in models]
    if any(other != shapes[0] for other in shapes):
        raise ValueError("the models differ in architecture: only networks of the same shapes can be stacked")
    rows = [rows_with_entries(table, own.nonzero().flatten(), mask) for own in row_masks]
    sizes = sorted({len(own) for own in rows})
    if len(sizes) > 1 or sizes[0] == 0:
        raise ValueError(
            f"the models would learn from {sizes} rows: stacked training needs the same number, at least 1, for each; "
            "draw the masks with random_halves"
        )
    return rows


def _retain_losses(logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return each model's `requests.retain_loss`, (S,), from tensors (S, B, ...)."""
    losses, known = entry_losses(logits.flatten(0, 1), labels.flatten(0, 1))
    chosen = known & ~mask.flatten(0, 1)
    return (losses * chosen).view(len(logits), -1).sum(1) / chosen.view(len(logits), -1).sum(1).clamp_min(1)


def _write_back(models: Sequence[nn.Module], parameters: dict, buffers: dict) -> None:
    for s, model in enumerate(models):
        model.load_state_dict({name: value[s].detach() for name, value in (parameters | buffers).items()})
        model.eval()
