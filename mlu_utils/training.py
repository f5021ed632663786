"""One training loop for everything that trains, and prediction: batches in, weights or arrays out.

Retrain is `fit` with the entries to forget masked out. Nothing here knows a method or a score.
"""

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from torch import nn
from tqdm import tqdm

from mlu_utils.data.batches import Augmentation, Batches
from mlu_utils.data.table import ImageTable
from mlu_utils.devices import FP32, Precision, at_least_float32, seeded
from mlu_utils.models import blocks, head
from mlu_utils.naming import require_at_least, require_choice
from mlu_utils.requests import retain_loss

SCHEDULES = ("constant", "linear")


class NonFiniteLossError(RuntimeError):
    """A loss or a weight became infinite or nan; the model holds its last good weights."""


def device_of(model: nn.Module) -> torch.device:
    """Return the device that the weights lie on."""
    return next(model.parameters()).device


def rows_with_entries(table: ImageTable, rows: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the rows that have a known entry outside the mask, bool (N, K): those that training shows."""
    return rows[(~mask[rows] & ~table.labels[rows].isnan()).any(1)]


@contextlib.contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Run a block with the whole model in eval mode and give each module its own mode back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, was_training in modes.items():
            module.training = was_training


def sgd(
    parameters: Iterable[nn.Parameter], *, learning_rate: float, momentum: float, weight_decay: float
) -> torch.optim.SGD:
    """Return SGD over the parameters, fused: one pass over the memory a step; a number below 0 is refused.

    On a CPU the fused step takes weight and gradient to lie in memory alike and is silently wrong where they do not.
    `backward` sees to it; whoever assigns a gradient by hand must, too.
    """
    require_at_least(0, learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay)
    return torch.optim.SGD(parameters, lr=learning_rate, momentum=momentum, weight_decay=weight_decay, fused=True)


def descend(
    model: nn.Module,
    batches: Iterable,
    objective: Callable[..., torch.Tensor],
    optimizer: torch.optim.Optimizer,
    *,
    batchnorm: str = "train",
    frozen: Iterable[nn.Module] = (),
    rates: Iterator[float] | None = None,
    after_step: Callable[[torch.Tensor], None] | None = None,
    is_watched: bool = False,
    seed: int = 0,
) -> list[float]:
    """Take one optimiser step a batch on `objective(batch)` and return the loss before each: the loop of all training.

    The model changes in place and is left in eval mode.

    Args:
        batchnorm: "train": batch statistics, and the running ones move; "eval": they stay.
        frozen: modules that stay in eval mode whatever `batchnorm` says.
        rates: learning rates, one a step; None: the optimiser's own.
        after_step: called with the loss before the step.
        is_watched: check each loss before its step, for a caller who looks at the model in between; otherwise all at
            the end, because each look makes a GPU wait.
        seed: of what the model itself draws, such as dropout.

    Raises:
        ValueError: unknown batchnorm mode, or a batch of one image, which BatchNorm cannot normalise.
        NonFiniteLossError: a loss or a weight was not finite; the model is back where this call found it.
    """
    require_choice("batchnorm mode", batchnorm, ("train", "eval"))
    last_good = copy.deepcopy(model.state_dict())
    model.train(batchnorm == "train")
    for module in frozen:
        module.eval()
    losses: list[torch.Tensor] = []
    with seeded(seed):
        for batch in batches:
            try:
                loss = objective(batch)
            except ValueError as error:
                if "more than 1 value per channel" not in str(error):
                    raise
                raise ValueError(
                    "a batch of one image has no variance for BatchNorm in train mode: set batchnorm to eval, or "
                    f"forget more images at once ({error})"
                ) from error
            losses.append(loss.detach())
            if is_watched and not loss.isfinite():
                break
            if rates is not None:
                optimizer.param_groups[0]["lr"] = next(rates)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if after_step is not None:
                after_step(losses[-1])
    model.eval()
    optimizer.zero_grad(set_to_none=True)
    values = torch.stack(losses).tolist() if losses else []
    # The loss of the last step says nothing about the weights that this step left behind.
    if not all(map(math.isfinite, values)) or not all(bool(p.isfinite().all()) for p in model.parameters()):
        model.load_state_dict(last_good)
        what = next((f"loss became {v}" for v in values if not math.isfinite(v)), "weights were not finite")
        raise NonFiniteLossError(
            f"the {what} within {len(values)} steps with learning_rate {optimizer.param_groups[0]['lr']}: the model is "
            "back at its last good weights; try a smaller learning rate"
        )
    return values


def linear_rates(learning_rate: float, num_steps: int) -> Iterator[float]:
    """Yield rates that fall linearly, from the given one down to 0 after all steps."""
    return (learning_rate * (1 - step / num_steps) for step in range(num_steps))


def fit(
    model: nn.Module,
    table: ImageTable,
    *,
    rows: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    num_epochs: int,
    batch_size: int = 64,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    schedule: str = "constant",
    augmentation: Augmentation | None = None,
    seed: int,
    precision: Precision = FP32,
    after_epoch: Callable[[nn.Module, dict], None] | None = None,
    description: str = "training",
) -> list[dict]:
    """Train the model in place, on its device, by SGD on the retain loss and leave it in eval mode.

    Args:
        table, rows: the data, and which rows to train on; default: the train split.
        mask: bool (N, K), entries that the loss leaves out. An image with no entry left is not shown at all, so
            that its pixels do not reach BatchNorm's statistics either.
        num_epochs, batch_size, learning_rate, momentum, weight_decay: the paper's values are the defaults.
        schedule: "constant" (the paper's) or "linear", down to 0 over all steps: a short training ends closer to
            where a long one would, and two trainings differ less by chance.
        seed: of the order of the images, their augmentation, and dropout.
        after_epoch: called with the model in eval mode and the epoch's record, which it may extend, outside `seconds`.

    Returns:
        One record an epoch: epoch (from 1), retain_loss (mean over the batches), seconds.

    Raises:
        ValueError: num_epochs below 1, or no entry left to train on.
        NonFiniteLossError: the loss of an epoch was not finite; the model holds the weights before that epoch.
    """
    require_at_least(1, num_epochs=num_epochs)
    require_choice("schedule", schedule, SCHEDULES)
    device = device_of(model)
    mask = torch.zeros(table.labels.shape, dtype=torch.bool) if mask is None else mask.cpu()
    rows = rows_with_entries(table, table.rows("train") if rows is None else rows.cpu(), mask)
    model.to(memory_format=precision.memory_format)
    batches = Batches(
        table,
        rows,
        batch_size=batch_size,
        device=device,
        generator=torch.Generator().manual_seed(seed),
        augmentation=augmentation,
        memory_format=precision.memory_format,
    )
    mask = mask.to(device)

    def objective(batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
        images, labels, batch_rows = batch
        with precision.autocast(device):
            logits = model(images)
        return retain_loss(logits, labels, mask[batch_rows])

    optimizer = sgd(model.parameters(), learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay)
    rates = linear_rates(learning_rate, num_epochs * len(batches)) if schedule == "linear" else None
    history = []
    for epoch in tqdm(range(1, num_epochs + 1), desc=description, unit="epoch", disable=None, leave=False):
        start = time.perf_counter()
        try:
            losses = descend(model, batches, objective, optimizer, rates=rates, seed=seed + epoch)
        except NonFiniteLossError as error:
            raise NonFiniteLossError(f"epoch {epoch}: {error}") from None
        seconds = time.perf_counter() - start
        history.append({"epoch": epoch, "retain_loss": sum(losses) / len(losses), "seconds": seconds})
        if after_epoch is not None:
            after_epoch(model, history[-1])
            model.eval()
    return history


def predict_logits(model: nn.Module, table: ImageTable, rows: torch.Tensor, **options) -> torch.Tensor:
    """Return only the logits of `predict`."""
    return predict(model, table, rows, **options)[0]


@torch.no_grad()
def predict(
    model: nn.Module, table: ImageTable, rows: torch.Tensor, *, batch_size: int = 256, precision: Precision = FP32
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits (len(rows), num_outputs) and the penultimate features that the head turns into them.

    Both lie on the CPU, in float32, or float64 from a model of float64. The model runs in eval mode and is left as it
    was.
    """
    device = device_of(model)
    batches = Batches(table, rows, batch_size=batch_size, device=device, memory_format=precision.memory_format)
    logits, features = [], []
    hook = head(model).register_forward_pre_hook(lambda _, inputs: features.append(at_least_float32(inputs[0]).cpu()))
    with hook, in_eval_mode(model):
        for images, _, _ in batches:
            with precision.autocast(device):
                logits.append(at_least_float32(model(images)).cpu())
    return torch.cat(logits), torch.cat(features)


def right_entries(
    model: nn.Module, table: ImageTable, rows: torch.Tensor, chosen: torch.Tensor, *, precision: Precision = FP32
) -> torch.Tensor:
    """Return for each known entry among the chosen ones, bool (len(rows), K), whether it is predicted right, bool."""
    logits, labels = predict_logits(model, table, rows, precision=precision), table.labels[rows]
    right = (logits > 0) == (labels > 0) if table.is_multi_label else logits.argmax(1, keepdim=True) == labels
    return right[chosen & ~labels.isnan()]


def extract_block_features(
    model: nn.Module, table: ImageTable, rows: torch.Tensor, **options
) -> dict[str, torch.Tensor]:
    """Return what each of `models.blocks` puts out in `predict`, averaged over positions, in forward order.

    It is name -> float32 (len(rows), channels) on the CPU. A network without blocks, or one that runs a block more than
    once in a pass, is refused with a ValueError.
    """
    features: dict[str, list[torch.Tensor]] = {name: [] for name in blocks(model)}
    if not features:
        raise ValueError(f"{type(model).__name__} has neither residual blocks nor ReLU layers to look at")

    def keep(name: str, _module: nn.Module, _inputs: tuple, output: torch.Tensor) -> None:
        # Averaged here and now: the next layer may write into this output.
        features[name].append(output.float().flatten(2).mean(2).cpu() if output.ndim > 2 else output.float().cpu())

    with contextlib.ExitStack() as hooks:
        for name, block in blocks(model).items():
            hooks.enter_context(block.register_forward_hook(partial(keep, name)))
        predict(model, table, rows, **options)
    for name, parts in features.items():
        if (count := sum(map(len, parts))) != len(rows):
            raise ValueError(f"block {name} ran {count // len(rows)} times in a pass: give each use its own layer")
    return {name: torch.cat(parts) for name, parts in features.items()}
