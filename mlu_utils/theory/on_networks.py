"""Both sides of T2, T3 and T4 on given networks, and what a logit says about a label (T5).

The caller brings trained models, importances as flat tensors in the order of `model.parameters()`, and a table of
images. Nothing here trains, and no model is changed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn
from torch.func import functional_call, jvp

from mlu_utils.data.batches import Batches
from mlu_utils.data.table import ImageTable
from mlu_utils.theory import information as it
from mlu_utils.theory.cases import printed_epsilon
from mlu_utils.training import device_of, predict_logits
from mlu_utils.unlearning.selection import percentile_thresholds
from mlu_utils.unlearning.weight_pruning import flat_weights


def _require_flat(name: str, values: torch.Tensor, model: nn.Module) -> None:
    num_weights = sum(p.numel() for p in model.parameters())
    if values.shape != (num_weights,):
        raise ValueError(
            f"{name} has shape {tuple(values.shape)}, the model has {num_weights} weights: pass one value a weight, "
            "flat, in the order of model.parameters()"
        )


# --- T2 -----------------------------------------------------------------------------------------------------


def neighbouring_table(table: ImageTable, row: int, by: int) -> ImageTable:
    """Return a copy of the table in which one image, with its labels and person, is exchanged for another.

    Rows, splits and their number stay, so a method with the same seed draws the same rows from both tables; with one
    image less it would draw others, and the comparison would show the sample instead of the image.

    Args:
        table: the data.
        row: the image that goes.
        by: the image that takes its place; it stays where it is, too, so take one that nobody trains on.

    Raises:
        ValueError: a row outside the table, or exchanged for itself.
    """
    if not (0 <= row < table.num_images and 0 <= by < table.num_images) or row == by:
        raise ValueError(
            f"can't exchange image {row} for {by}: both must lie in 0..{table.num_images - 1} and be different"
        )
    columns = {name: getattr(table, name).clone() for name in ("images", "labels", "identity")}
    for values in columns.values():
        values[row] = values[by].clone()
    return replace(table, **columns, source=f"{table.source}, image {row} exchanged for {by}")


@dataclass(frozen=True)
class PruningPrivacy:
    """T2's promise for one pruning, and what two neighbouring data sets show.

    epsilon, delta: as printed. proof_epsilon: with the proof's 1/|D|. distance: between the two unlearned models'
    weights. needed_delta: smallest delta that any epsilon allows: 1 if the two differ, since nothing is random.
    noise_std: Gaussian noise on every weight that would make this pair (epsilon, delta)-close, nan where the
    promise is empty (epsilon infinite, delta 0 or 1).
    """

    epsilon: float
    proof_epsilon: float
    delta: float
    distance: float
    needed_delta: float
    noise_std: float

    @property
    def is_kept(self) -> bool:
        """Whether the pair is as close as printed; an infinite epsilon promises nothing and is always kept."""
        return math.isinf(self.epsilon) or self.needed_delta <= self.delta


def pruning_privacy(
    importance: torch.Tensor,
    chosen: torch.Tensor,
    unlearned: nn.Module,
    neighbour: nn.Module,
    *,
    decay: float,
    num_images: int,
) -> PruningPrivacy:
    """Return both sides of T2 for a model unlearned by Weight Pruning and the same with one image less or exchanged.

    Args:
        importance: I(w), flat.
        chosen: bool, flat, W_f.
        unlearned, neighbour: the pruned models of the two data sets, made with the same seed.
        decay: lambda of exp(-lambda I); `prune_weights` divides I by its scale, so its decay counts as decay / scale.
        num_images: |D|, images that the importance was averaged over.

    Raises:
        ValueError: flat tensors that don't fit the model, or an empty W_f.

    Source: Hossain et al. (2025), Theorem 2; Dwork and Roth (2014), Definition 2.4.

    Differs: differential privacy asks for every pair of neighbours; one pair can refute the promise, not prove it.
    """
    _require_flat("importance", importance, unlearned)
    _require_flat("chosen", chosen, unlearned)
    scores = importance[chosen].double()
    thresholds = percentile_thresholds(scores)
    ratio = (float(scores.max()), thresholds.low, thresholds.high, decay)
    epsilon, delta = printed_epsilon(*ratio), float((scores >= thresholds.high).double().mean())
    distance = float((flat_weights(unlearned).double() - flat_weights(neighbour).double()).norm())
    is_promise = math.isfinite(epsilon) and 0 < delta < 1
    return PruningPrivacy(
        epsilon,
        printed_epsilon(*ratio, num_images=num_images),
        delta,
        distance,
        float(it.gaussian_privacy_delta(distance, 0.0, epsilon)),
        it.gaussian_privacy_noise(distance, epsilon, delta) if is_promise else math.nan,
    )


# --- T3 -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClampBound:
    """Both sides of T3 on a table's images, and of the mean value inequality.

    change: the largest |f_w'(x) - f_w0(x)|_2 over the images, at `row`. printed: epsilon sqrt(sum S^2).
    mean_value: the largest over images of max_t |J(w_t) (w' - w0)|_2, t at `num_points` points of the path.
    path_gap: largest distance between the change and the path's integral: the error of those points. Both are nan
    without points.
    """

    change: float
    row: int
    printed: float
    mean_value: float
    path_gap: float


def clamp_bound(
    original: nn.Module,
    unlearned: nn.Module,
    table: ImageTable,
    rows: torch.Tensor,
    *,
    sensitivity: torch.Tensor,
    chosen: torch.Tensor,
    epsilon: float,
    num_points: int = 8,
    batch_size: int = 64,
) -> ClampBound:
    """Return both sides of T3, |f_w'(x) - f_w0(x)| over the images and epsilon sqrt(sum over W_j of S^2).

    The images can refute the bound, not prove it: its maximum is over all x.

    Args:
        original, unlearned: w0 and w'; of one architecture, on one device.
        table: the data.
        rows: images to look at.
        sensitivity: S(w) = |dL/dw|, flat.
        chosen: bool, flat, W_j: the weights that were modified.
        epsilon: half-width of the clamp.
        num_points: points of the straight path from w0 to w', middles of equal parts; each costs about two forward
            passes. 0: T3's own sides only.
        batch_size: images a forward pass.

    Raises:
        ValueError: flat tensors or models that don't fit together, other buffers (BatchNorm statistics) in one than in
            the other, a model in train mode, no row, or num_points below 0.

    Source: Hossain et al. (2025), Theorem 3; Rudin (1976), Theorem 5.19: |f(1) - f(0)| <= sup |f'(t)|.

    Differs: the maximum over the path is taken at `num_points` points, so `mean_value` may fall short of the true
    supremum; `path_gap` says by how much the points miss the integral.
    """
    for name, values in (("sensitivity", sensitivity), ("chosen", chosen)):
        _require_flat(name, values, original)
    if num_points < 0:
        raise ValueError(f"num_points must be at least 0, got {num_points}")
    start, end = _path_ends(original, unlearned)
    step = {name: end[name] - start[name] for name in start}
    dtype, device = next(original.parameters()).dtype, device_of(original)
    changes, slopes, gaps = [], [], []
    for images, _, _ in Batches(table, rows, batch_size=batch_size, device=device):
        images = images.to(dtype)

        def output(state, images=images):
            return functional_call(original, state, (images,))

        with torch.no_grad():
            change = output(end) - output(start)
            derivatives = []
            for i in range(num_points):
                here = {name: start[name] + (i + 0.5) / num_points * step[name] for name in start}
                derivatives.append(jvp(output, (here,), (step,))[1])
        changes.append(change.norm(dim=1))
        # Without points one nan stands for every derivative, and nan is what comes out.
        derivatives = torch.stack(derivatives or [change * torch.nan])  # (T, B, C)
        slopes.append(derivatives.norm(dim=2).amax(0))
        gaps.append((derivatives.mean(0) - change).norm(dim=1))
    changes = torch.cat(changes)
    return ClampBound(
        change=float(changes.max()),
        row=int(rows[int(changes.argmax())]),
        printed=epsilon * float(sensitivity[chosen].double().norm()),
        mean_value=float(torch.cat(slopes).max()),
        path_gap=float(torch.cat(gaps).max()),
    )


def _path_ends(original: nn.Module, unlearned: nn.Module) -> tuple[dict, dict]:
    """Return the weights of both models by name; everything else about them must be the same."""
    if original.training or unlearned.training:
        raise ValueError("a model is in train mode, where BatchNorm's output depends on the batch: call eval() first")
    start, end = ({name: p.detach() for name, p in model.named_parameters()} for model in (original, unlearned))
    if {name: p.shape for name, p in start.items()} != {name: p.shape for name, p in end.items()}:
        raise ValueError(
            "original and unlearned differ in names or shapes of weights: they must be of one architecture"
        )
    buffers = dict(unlearned.named_buffers())
    for name, value in original.named_buffers():
        if not torch.equal(value, buffers[name]):
            raise ValueError(f"buffer {name} moved: T3 is about weights, fine-tune with BatchNorm in eval mode")
    return start, end


# --- T4 -----------------------------------------------------------------------------------------------------


def mcdiarmid_delta(gamma: ArrayLike, num_images: int, change_per_image: ArrayLike) -> np.ndarray:
    """Return exp(-2 gamma^2 / (n c^2)), T4's delta: 1 promises nothing, 0 is certain.

    Args:
        gamma: >= 0.
        num_images: n, training images.
        change_per_image: c, what one training image changes the distance by at most, > 0.

    Raises:
        ValueError: change_per_image not above 0.

    Source: McDiarmid (1989), with the same c for every image.

    Example:
        >>> float(mcdiarmid_delta(1.0, 50, 0.2).round(4))
        0.3679
    """
    if not np.all(np.asarray(change_per_image) > 0):
        raise ValueError(f"change_per_image must be above 0, got {change_per_image}: measure it by exchanging images")
    return np.exp(-2 * np.square(gamma) / (num_images * np.square(change_per_image)))


@dataclass(frozen=True)
class RetrainBound:
    """Both sides of T4 on a table's images.

    distance: the largest |f^j_w'(x) - f^j_never(x)| over the images, at `row`. gamma: as printed. delta:
    exp(-2 gamma^2 / (n c^2)). share_within: of images within gamma, with its exact 95 % interval; it holds for new
    images of the same kind if the rows were drawn independently of both models.
    """

    distance: float
    row: int
    gamma: float
    delta: float
    share_within: it.Interval


def retrain_bound(
    original: nn.Module,
    unlearned: nn.Module,
    retrained: nn.Module,
    table: ImageTable,
    rows: torch.Tensor,
    *,
    output: int,
    influence: torch.Tensor | float,
    sensitivity: torch.Tensor,
    chosen: torch.Tensor,
    epsilon: float,
    num_images: int,
    change_per_image: float,
) -> RetrainBound:
    """Return both sides of T4: how far label j's logit is from the retrained model's, and gamma, delta.

    One pair of models is one draw of T4's probability: a distance above gamma refutes it only where delta is small.

    Args:
        original, unlearned, retrained: w0, w' and the model that never saw label j.
        table: the data.
        rows: images to look at, best of the test split.
        output: index of label j's logit.
        influence: I of gamma's first term; one value a weight (flat), or one number for all (an image's).
        sensitivity: S(w), flat.
        chosen: bool, flat, W_j.
        epsilon: half-width of the clamp.
        num_images: n, training images.
        change_per_image: c, what one training image changes the distance by at most, > 0.

    Raises:
        ValueError: tensors that don't fit the model, change_per_image not above 0.

    Source: Hossain et al. (2025), Theorem 4; McDiarmid (1989).

    Differs: |w| is taken of the original weights, those that unlearning removes; of the modified ones gamma's first
    term is smaller. The paper gives no c.
    """
    for name, values in (("sensitivity", sensitivity), ("chosen", chosen)):
        _require_flat(name, values, original)
    if isinstance(influence, torch.Tensor):
        _require_flat("influence", influence, original)
        influence = influence[chosen].double().abs()
    removed = (flat_weights(original)[chosen].double().abs() * influence).sum()
    gamma = float(removed) + epsilon * float(sensitivity[chosen].double().norm())
    delta = float(mcdiarmid_delta(gamma, num_images, change_per_image))
    logits = [predict_logits(model, table, rows)[:, output].double() for model in (unlearned, retrained)]
    distances = (logits[0] - logits[1]).abs()
    return RetrainBound(
        distance=float(distances.max()),
        row=int(rows[int(distances.argmax())]),
        gamma=gamma,
        delta=delta,
        share_within=it.share_interval(int((distances <= gamma).sum()), len(rows)),
    )


# --- T5 -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LabelLeakage:
    """What a number says about a binary label, in bits: two estimates of I, and what an attack has shown.

    success: of the attack "value above threshold", with its exact interval. shown: H(A) - H(success) at least, by
    Fano's inequality; entropy: H(A), the most there is.
    """

    nearest_neighbours: it.Interval
    binned: it.Interval
    success: it.Interval
    shown: float
    entropy: float


def label_leakage(
    values: ArrayLike, labels: ArrayLike, *, threshold: float = 0.0, num_groups: int = 10
) -> LabelLeakage:
    """Return T5's two quantities for one real output of a model, such as a logit.

    Args:
        values: (n,), in random order.
        labels: (n,), 0 or 1.
        threshold: of the attack; chosen on other data than these.
        num_groups: parts of the sample that the estimates' intervals come from.

    Raises:
        ValueError: labels other than 0 and 1, or too few of a class for the estimates.

    Differs: a constant, such as the logit of a head row set to 0, says 0 bits, and that is no estimate; nearest
    neighbours don't exist among equal values.
    """
    values, labels = np.asarray(values, dtype=float), np.asarray(labels)
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels must be 0 or 1, got {np.unique(labels)[:5]}: drop unknown ones first")
    if (values == values[0]).all():
        bits = [it.Interval(0.0, 0.0, 0.0)] * 2
    else:
        bits = [
            it.Interval(*(x / it.BIT for x in (found.value, found.low, found.high)))
            for estimator in (it.mutual_information_knn, it.mutual_information_binned)
            for found in (it.estimate(estimator, values, labels, num_groups=num_groups),)
        ]
    success = it.share_interval(int(((values > threshold) == (labels == 1)).sum()), len(labels))
    prior = float(labels.mean())
    shown = float(it.fano_lower_bound(success.value, prior)) / it.BIT
    return LabelLeakage(*bits, success, shown, float(it.binary_entropy(prior)) / it.BIT)
