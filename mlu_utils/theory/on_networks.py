"""Both sides of T2, T3 and T4 on given networks.

The caller brings trained models, of one architecture, on one device and in eval mode, scores as flat tensors in the
order of `model.parameters()`, and a table of images. Nothing here trains, and no model is changed.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.func import functional_call, jvp

from mlu_utils.data.batches import Batches
from mlu_utils.data.table import ImageTable
from mlu_utils.theory import information as it
from mlu_utils.theory.worlds import mcdiarmid_delta, printed_epsilon
from mlu_utils.training import device_of, predict_logits
from mlu_utils.unlearning.importance import flat_weights
from mlu_utils.unlearning.selection import percentile_thresholds


def _require_flat(model: nn.Module, **vectors: torch.Tensor) -> None:
    expected = sum(p.numel() for p in model.parameters())
    for name, values in vectors.items():
        if (shape := tuple(values.shape)) != (expected,):
            raise ValueError(f"{name} has shape {shape}, the model has {expected} weights: pass one value a weight")


def neighbouring_table(table: ImageTable, row: int, by: int) -> ImageTable:
    """Return a copy of the table in which one image, with its labels and person, is exchanged for another.

    The same seed draws the same rows from both. The image that takes its place also stays: take one nobody trains on.
    """
    if not (0 <= row < table.num_images and 0 <= by < table.num_images) or row == by:
        raise ValueError(f"can't exchange image {row} for {by}: take two different ones in 0..{table.num_images - 1}")
    columns = {name: getattr(table, name).clone() for name in ("images", "labels", "identity")}
    for values in columns.values():
        values[row] = values[by].clone()
    return replace(table, **columns, source=f"{table.source}, image {row} exchanged for {by}")


@dataclass(frozen=True)
class PruningPrivacy:
    """T2's promise for one pruning, and what two neighbouring data sets show."""

    epsilon: float  # as printed; infinite: nothing is promised
    delta: float  # as printed
    distance: float  # between both unlearned models' weights
    needed_delta: float  # the least that any epsilon allows: 1 if the two differ, since nothing is random
    noise_std: float  # Gaussian noise on every weight that would keep the promise here; nan where there is none


def pruning_privacy(
    importance: torch.Tensor, chosen: torch.Tensor, unlearned: nn.Module, neighbour: nn.Module, *, decay: float
) -> PruningPrivacy:
    """Return both sides of T2 for a model unlearned by Weight Pruning and the same on a neighbouring data set.

    Args:
        importance, chosen: I(w) and W_f (bool), flat.
        unlearned, neighbour: the pruned models of the two data sets, made with the same seed.
        decay: lambda of exp(-lambda I); that of `prune_weights` counts as decay / scale.

    Source: Hossain et al. (2025), Theorem 2; Dwork and Roth (2014), Definition 2.4.
    Differs: differential privacy asks for every pair of neighbours; one pair can refute the promise, not prove it.
    """
    _require_flat(unlearned, importance=importance, chosen=chosen)
    scores = importance[chosen].double()
    thresholds = percentile_thresholds(scores)
    epsilon, _ = printed_epsilon(float(scores.max()), thresholds.low, thresholds.high, decay)
    delta = float((scores >= thresholds.high).double().mean())
    distance = float(torch.dist(flat_weights(unlearned).double(), flat_weights(neighbour).double()))
    is_promise = math.isfinite(epsilon) and 0 < delta < 1
    noise = it.gaussian_privacy_noise(distance, epsilon, delta) if is_promise else math.nan
    return PruningPrivacy(epsilon, delta, distance, float(it.gaussian_privacy_delta(distance, 0.0, epsilon)), noise)


@dataclass(frozen=True)
class ClampBound:
    """Both sides of T3 on a table's images, and of the mean value inequality, its sound first step."""

    change: float  # the largest |f_w'(x) - f_w0(x)|_2 over the images
    printed: float  # epsilon sqrt(sum S^2)
    mean_value: float  # the largest |J(w_t) (w' - w0)|_2 over images and points w_t of the path; nan without points
    path_gap: float  # by how much the mean over these points misses the change


def clamp_bound(
    original: nn.Module,
    unlearned: nn.Module,
    table: ImageTable,
    rows: torch.Tensor,
    *,
    composite: torch.Tensor,
    chosen: torch.Tensor,
    epsilon: float,
    num_points: int = 8,
    batch_size: int = 64,
) -> ClampBound:
    """Return both sides of T3; its maximum is over all x, so that images can refute the bound and not prove it.

    Models and tensors that don't fit together, and BatchNorm buffers that moved, are refused with a ValueError.

    Args:
        original, unlearned: w0 and w'.
        table, rows, batch_size: images to look at.
        composite, chosen: S = |dL/dw| |dL_j/dw|, and W_j (bool), the weights that were modified; flat.
        epsilon: half-width of the clamp.
        num_points: points of the straight path, middles of equal parts, each about two forward passes; 0 = none.

    Source: Hossain et al. (2025), Theorem 3; Rudin (1976), Theorem 5.19: |f(1) - f(0)| <= sup |f'(t)|.
    """
    _require_flat(original, composite=composite, chosen=chosen)
    start, end = _path_ends(original, unlearned)
    step = {name: end[name] - start[name] for name in start}
    dtype, changes, slopes, gaps = next(original.parameters()).dtype, [], [], []
    for images, _, _ in Batches(table, rows, batch_size=batch_size, device=device_of(original)):

        def output(state: dict, images: torch.Tensor = images) -> torch.Tensor:
            return functional_call(original, state, (images.to(dtype),))

        points = ((i + 0.5) / num_points for i in range(num_points))
        with torch.no_grad():
            change = output(end) - output(start)
            states = ({name: start[name] + t * step[name] for name in start} for t in points)
            derivatives = [jvp(output, (here,), (step,))[1] for here in states]
        derivatives = torch.stack(derivatives or [change * torch.nan])  # (T, B, C)
        changes.append(change.norm(dim=1))
        slopes.append(derivatives.norm(dim=2).amax(0))
        gaps.append((derivatives.mean(0) - change).norm(dim=1))
    change, mean_value, path_gap = (float(torch.cat(values).max()) for values in (changes, slopes, gaps))
    return ClampBound(change, epsilon * float(composite[chosen].double().norm()), mean_value, path_gap)


def _path_ends(original: nn.Module, unlearned: nn.Module) -> tuple[dict, dict]:
    """Return the weights of both models by name; everything else about them must be the same."""
    if original.training or unlearned.training:
        raise ValueError("a model is in train mode, where BatchNorm's output depends on the batch: call eval() first")
    start, end = ({name: p.detach() for name, p in model.named_parameters()} for model in (original, unlearned))
    if [(name, p.shape) for name, p in start.items()] != [(name, p.shape) for name, p in end.items()]:
        raise ValueError("original and unlearned differ in their weights' names or shapes: take one architecture")
    for (name, value), (_, other) in zip(original.named_buffers(), unlearned.named_buffers(), strict=True):
        if not torch.equal(value, other):
            raise ValueError(f"buffer {name} moved: T3 is about weights, fine-tune with BatchNorm in eval mode")
    return start, end


@dataclass(frozen=True)
class RetrainBound:
    """Both sides of T4 on a table's images."""

    distance: float  # the largest |f^j_w'(x) - f^j_never(x)|
    gamma: float  # as printed
    squared_changes: float  # sum of c_ik^2
    delta: float  # 2 exp(-2 gamma^2 / sum c_ik^2); 1 or more promises nothing


def retrain_bound(
    original: nn.Module,
    unlearned: nn.Module,
    retrained: nn.Module,
    table: ImageTable,
    rows: torch.Tensor,
    *,
    output: int,
    influence: torch.Tensor | float,
    composite: torch.Tensor,
    chosen: torch.Tensor,
    epsilon: float,
) -> RetrainBound:
    """Return both sides of T4: how far label j's logit is from the retrained model's, and gamma, c and delta.

    c_ik, what weight w_ik changes the distance by at most, is 2 epsilon max_x |df^j/dw_ik| to first order: the clamp
    leaves it 2 epsilon of room. A distance above gamma, one draw, refutes T4 only where delta is small.

    Args:
        original, unlearned, composite, chosen, epsilon: see `clamp_bound`.
        retrained: the model that never saw label j.
        table, rows: images to look at, best of the test split; each costs one backward pass.
        output: index of label j's logit.
        influence: I of gamma's first term; one value a weight (flat), or one number for all (an image's).

    Source: Hossain et al. (2025), Theorem 4; McDiarmid (1989).
    Differs: |w| is taken of the original weights, those that unlearning removes; of the modified ones gamma's first
    term is smaller. The appendix names c_ik and doesn't compute it.
    """
    _require_flat(original, composite=composite, chosen=chosen)
    if isinstance(influence, torch.Tensor):
        _require_flat(original, influence=influence)
        influence = influence[chosen].double().abs()
    removed = flat_weights(original)[chosen].double().abs()
    gamma = float((removed * influence).sum()) + epsilon * float(composite[chosen].double().norm())
    steepest = torch.zeros_like(removed)
    for images, _, _ in Batches(table, rows, batch_size=1, device=device_of(unlearned)):
        slopes = torch.autograd.grad(unlearned(images)[0, output], list(unlearned.parameters()), materialize_grads=True)
        steepest = torch.maximum(steepest, torch.cat([g.flatten() for g in slopes])[chosen].double().abs())
    logits = [predict_logits(model, table, rows)[:, output].double() for model in (unlearned, retrained)]
    squared = float((2 * epsilon * steepest).square().sum())
    distance = float((logits[0] - logits[1]).abs().max())
    return RetrainBound(distance, gamma, squared, mcdiarmid_delta(gamma, squared))
