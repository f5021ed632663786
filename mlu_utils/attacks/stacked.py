"""Many small networks trained at once: shadow models, each on its own half of the data.

The weights of S networks lie stacked in one tensor a layer, and one forward and backward pass serves all of them
(torch.func). Each network sees its rows in the order, and with the augmentation, that `training.fit` would give it
under the same seed: the result equals S separate trainings up to rounding.
"""

import copy
import math
import time
from collections.abc import Sequence

import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from tqdm import tqdm

from mlu_utils.data.batches import Augmentation, Batches
from mlu_utils.data.table import ImageTable
from mlu_utils.naming import require_at_least, require_choice
from mlu_utils.requests import entry_losses
from mlu_utils.training import SCHEDULES, NonFiniteLossError, descend, device_of, linear_rates, rows_with_entries, sgd


def random_halves(rows: torch.Tensor, num_models: int, *, num_images: int, seed: int) -> torch.Tensor:
    """Return which rows each model learns from, bool (num_models, num_images): halves in complementary pairs.

    Half of the models, as LiRA needs, learn each of the rows; of an odd number each pair leaves out one at random.
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


class _Stack(nn.Module):
    """S networks of one architecture as one module: parameters (S, ...), images (S, B, ...) -> logits (S, B, K)."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.network = copy.deepcopy(models[0])
        parameters, buffers = stack_module_state(list(models))
        for name, value in (parameters | buffers).items():
            layer, _, own_name = name.rpartition(".")
            value = nn.Parameter(value.detach()) if name in parameters else value
            setattr(self.network.get_submodule(layer), own_name, value)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        parameters, buffers = dict(self.network.named_parameters()), dict(self.network.named_buffers())
        one = vmap(lambda p, b, x: functional_call(self.network, (p, b), (x,)), randomness="different")
        return one(parameters, buffers, images)

    def write_back(self, models: Sequence[nn.Module]) -> None:
        """Give each network its own weights and leave it in eval mode."""
        for s, model in enumerate(models):
            model.load_state_dict({name: value[s] for name, value in self.network.state_dict().items()})
            model.eval()


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
) -> list[dict]:
    """Train the models in place, each on its rows, by SGD on the retain loss; leave them in eval mode.

    On a CPU, choose batches so small that a step of all models fits the cache.

    Args:
        models: S networks of one architecture on one device, each with its own initial weights.
        row_masks: bool (S, N), the rows that each model learns from; the same number for all (`random_halves`).
        seeds: S seeds of order and augmentation.
        table, mask, num_epochs, batch_size, learning_rate, momentum, weight_decay, schedule, augmentation: see
            `training.fit`.

    Returns:
        One record an epoch: epoch (from 1), retain_loss (list of S means over the batches), seconds.

    Raises:
        ValueError: numbers of models, masks and seeds that differ, masks of different sizes, other architectures.
        NonFiniteLossError: the loss of a model was not finite; all models hold the weights before that epoch.

    Differs: float32 only, images in contiguous format; `training.fit` may use bf16 and channels_last.
    """
    require_at_least(1, num_epochs=num_epochs)
    require_choice("schedule", schedule, SCHEDULES)
    mask = torch.zeros(table.labels.shape, dtype=torch.bool) if mask is None else mask.cpu()
    rows, device = _rows_of_each(models, table, row_masks.cpu(), mask, seeds), device_of(models[0])
    how = {"batch_size": batch_size, "device": device, "augmentation": augmentation}
    batches = [
        Batches(table, own, generator=torch.Generator().manual_seed(seed), **how)
        for own, seed in zip(rows, seeds, strict=True)
    ]
    stack, mask = _Stack(models), mask.to(device)
    optimizer = sgd(stack.parameters(), learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay)
    rates = linear_rates(learning_rate, num_epochs * len(batches[0])) if schedule == "linear" else None
    history, of_steps = [], []

    def objective(parts: Sequence[tuple[torch.Tensor, ...]]) -> torch.Tensor:
        images, labels, batch_rows = (torch.stack(part) for part in zip(*parts, strict=True))  # (S, B, ...)
        losses = _retain_losses(stack(images), labels, mask[batch_rows])
        of_steps.append(losses.detach())
        return losses.sum()  # no model's loss depends on another's weights

    try:
        for epoch in tqdm(range(1, num_epochs + 1), desc="training shadows", unit="epoch", disable=None, leave=False):
            start = time.perf_counter()
            of_steps.clear()
            descend(stack, zip(*batches, strict=True), objective, optimizer, rates=rates)
            means = (sum(of_steps) / len(of_steps)).tolist()
            history.append({"epoch": epoch, "retain_loss": means, "seconds": time.perf_counter() - start})
    except NonFiniteLossError as error:
        bad = [str(s) for s, loss in enumerate(sum(of_steps).tolist()) if not math.isfinite(loss)]
        of_models = f" of models {', '.join(bad)}" if bad else ""
        raise NonFiniteLossError(f"epoch {epoch}{of_models}: {error}") from None
    finally:
        stack.write_back(models)
    return history


def _rows_of_each(
    models: Sequence[nn.Module], table: ImageTable, row_masks: torch.Tensor, mask: torch.Tensor, seeds: Sequence[int]
) -> list[torch.Tensor]:
    """Return the rows that each model learns from, all of one length."""
    expected, shape = (len(models), table.num_images), tuple(row_masks.shape)
    if not models or row_masks.dtype != torch.bool or shape != expected or len(seeds) != len(models):
        given = f"{len(models)} models, row_masks {row_masks.dtype} {shape} and {len(seeds)} seeds"
        raise ValueError(f"{given}: expected bool {expected} and one seed a model")
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
