"""Curvature: the exact diagonal of the Hessian of the forget or retain loss, from first derivatives only.

In a network whose layers are linear or piecewise linear (ReLU, max-pooling, BatchNorm in eval mode) the output is
piecewise linear in each single weight, so the second derivative of a logit vanishes and
diag(Hessian) = diag(Gauss-Newton):

    H_ww = 1/M sum_n sum_c (J_n^T v_nc)_w^2,    V_n = (v_n1 ... v_nC),   V_n V_n^T = Hessian of the loss of image n
                                                                          in its logits, M = number of entries

with J_n the Jacobian of the logits of image n. For one binary label that is sum_n s(1-s) (df/dw)^2.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from mlu_utils.data.batches import Batches
from mlu_utils.naming import require_choice
from mlu_utils.requests import entry_losses
from mlu_utils.training import in_eval_mode
from mlu_utils.unlearning.importance import Weights, chosen_entries, gradient_statistics, unflatten
from mlu_utils.unlearning.task import Pair, Task, without_weight_gradients

# exact: one backward pass for each logit that the loss reads. sampled: one backward pass in all, unbiased (random signs
# over the logits). squared_minibatch: mean over batches of the squared gradient, which others call Fisher: biased,
# depends on the batch size, accepts every network.
HESSIANS = ("exact", "sampled", "squared_minibatch")

# Backward nodes of operations that are linear, or piecewise linear, in their differentiable inputs.
_PIECEWISE_LINEAR_NODES = frozenset(
    "AccumulateGrad AsStrided Addmm Mm Convolution MkldnnConvolution ConvolutionOverrideable NativeBatchNorm "
    "CudnnBatchNorm MiopenBatchNorm Relu LeakyRelu Hardtanh Threshold MaxPool2D MaxPool2DWithIndices AvgPool2D "
    "AdaptiveAvgPool2D ConstantPadNd Mean Sum Add Sub Neg View UnsafeView Reshape ReshapeAlias T Transpose Permute "
    "Squeeze Unsqueeze Expand Cat Slice Select Clone Alias Copy ToCopy".split()
)


class ImageStatistics(NamedTuple):
    """Averages over images n of what one loss L = mean_n l_n does to each weight, flat over all weights."""

    hessian: torch.Tensor  # diagonal of the Hessian of L
    sensitivity: torch.Tensor  # root of the mean over images of (dl_n/dw)^2: images cannot cancel in it
    mean: torch.Tensor  # dL/dw


class NotPiecewiseLinearError(ValueError):
    """This network has no exact diagonal here."""


def diagonal_hessian(
    task: Task, rows: torch.Tensor, *, loss: str, method: str = "exact", batch_size: int = 64
) -> torch.Tensor:
    """Return the diagonal of the Hessian of the forget or retain loss, >= 0 for every weight, flat.

    The network has Conv2d, Linear and BatchNorm2d layers and piecewise linear activations, else a ValueError; the
    method is one of `HESSIANS`.

    Source: Schraudolph (2002) for the Gauss-Newton matrix; Hossain et al. (2025) do not say how they get H_ii.
    """
    require_choice("Hessian method", method, HESSIANS)
    if method == "squared_minibatch":
        return gradient_statistics(task, rows, loss=loss, batch_size=batch_size).mean_square
    return image_statistics(task, rows, loss=loss, method=method, batch_size=batch_size, has_gradient=False).hessian


def image_statistics(
    task: Task,
    rows: torch.Tensor,
    *,
    loss: str,
    method: str = "exact",
    batch_size: int = 64,
    has_gradient: bool = True,
    model: nn.Module | None = None,
) -> ImageStatistics:
    """Return curvature ("exact" or "sampled") and gradients (0 without `has_gradient`) from one pass over the rows."""
    model, device = model or task.model, task.device
    generator = torch.Generator().manual_seed(task.seed)
    mask = task.mask.to(device)
    num_entries = 0
    parameters = dict(model.named_parameters())
    hessian, squares, sums = (torch.zeros(sum(p.numel() for p in parameters.values()), device=device) for _ in "hgm")
    into = [unflatten(vector, parameters) for vector in (hessian, squares, sums)]
    with _LayerTap(model) as tap:
        for images, labels, batch_rows in Batches(task.table, rows, batch_size=batch_size, device=device):
            chosen = chosen_entries(labels, mask[batch_rows], loss)
            num_entries += int(chosen.sum())
            if not chosen.any():
                continue
            logits = tap.forward(images)
            factor = _loss_hessian_factor(logits.detach(), labels, chosen)  # (B, C, R)
            if method == "sampled":
                signs = torch.randint(0, 2, (len(images), 1, factor.shape[2]), generator=generator) * 2 - 1
                factor = (factor * signs.to(device)).sum(2, keepdim=True)
            gradient = output_gradient(logits, labels, chosen)  # (B, C)
            ones = torch.ones(len(images), device=device)
            if factor.shape[2] == 1 and has_gradient and chosen.shape[1] > 1 and int(chosen.any(0).sum()) == 1:
                # One logit: its curvature and its gradient are multiples of the same Jacobian row, one pass does.
                k = int(chosen.any(0).nonzero())
                cotangent = torch.zeros_like(gradient)
                cotangent[:, k] = 1
                wanted = [(factor[:, k, 0], into[0], None), (gradient[:, k], into[1], into[2])]
                tap.add_squares(logits, cotangent, wanted)
                continue
            for column in factor.unbind(2):
                if column.any():
                    tap.add_squares(logits, column, [(ones, into[0], None)])
            if has_gradient:
                tap.add_squares(logits, gradient, [(ones, into[1], into[2])])
    if num_entries == 0:
        raise ValueError(f"no entry of the {loss} loss among the {len(rows)} calibration images: choose other rows")
    hessian /= num_entries
    sums /= num_entries
    # l_n = (images / entries) * sum of the image's losses, so that L is the mean of l_n.
    squares *= len(rows) / num_entries**2
    return ImageStatistics(hessian, squares.sqrt(), sums)


def _loss_hessian_factor(logits: torch.Tensor, labels: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Return V (B, C, R) with V V^T = Hessian of the summed chosen losses in the logits of each image."""
    if labels.dtype == torch.int64:
        p = logits.softmax(1)
        # diag(p) - p p^T = V V^T with columns v_c = sqrt(p_c) (e_c - p).
        factor = p.sqrt()[:, None, :] * (torch.eye(p.shape[1], device=p.device) - p[:, :, None])
        return factor * chosen[:, :, None]
    s = logits.sigmoid()
    root = (s * (1 - s)).sqrt() * chosen
    used = torch.nonzero(chosen.any(0)).flatten()
    return torch.diag_embed(root)[:, :, used]


def _layers_with_weights(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers that have weights, by name; refuse those for which the identity above is not known to hold."""
    layers = {n: m for n, m in model.named_modules() if any(True for _ in m.parameters(recurse=False))}
    for name, module in layers.items():
        is_plain = not isinstance(module, nn.Conv2d) or (
            module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
        )
        if not (isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d) and is_plain):
            raise NotPiecewiseLinearError(
                f"layer {name!r} ({type(module).__name__}) has weights but no exact diagonal Hessian here (Linear, "
                "BatchNorm2d and Conv2d without groups, zeros as padding, have): use squared_minibatch"
            )
    return layers


class _LayerTap(contextlib.ExitStack):
    """Record each layer's input and output gradient: their outer products are the gradients of a batch's images."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model, self._layers = model, _layers_with_weights(model)
        self._inputs: dict[str, torch.Tensor] = {}
        self._gradients: dict[str, torch.Tensor] = {}

    def __enter__(self) -> _LayerTap:
        self.enter_context(in_eval_mode(self._model))
        # Weight gradients are formed here, per image; autograd must not form them too.
        self.enter_context(without_weight_gradients(self._model))
        for name, layer in self._layers.items():
            self.enter_context(layer.register_forward_hook(partial(self._record, name)))
        return self

    def _record(self, name: str, _module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if name in self._inputs:
            raise NotPiecewiseLinearError(f"layer {name!r} is used twice in a pass: no exact diagonal here")
        self._inputs[name] = inputs[0].detach()
        # A hook on the tensor sees the gradient before a later in-place ReLU, which reading .grad would miss.
        output.register_hook(partial(self._gradients.__setitem__, name))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits; refuse a network that is not piecewise linear in its weights."""
        self._inputs.clear()
        logits = self._model(images.requires_grad_())
        _require_piecewise_linear(logits)
        return logits

    def add_squares(
        self, logits: torch.Tensor, cotangent: torch.Tensor, wanted: list[tuple[torch.Tensor, Weights, Weights | None]]
    ) -> None:
        """For each (scale (B,), squares, sums) add sum_n (scale_n J_n^T v_n)^2 and sum_n scale_n J_n^T v_n to them."""
        self._gradients.clear()
        torch.autograd.backward(logits, cotangent, retain_graph=True)
        scales = [scale for scale, _, _ in wanted]
        for name, layer in self._layers.items():
            if name not in self._gradients:
                continue  # this logit does not depend on the layer
            for own, (g, x) in _gradient_factors(layer, self._inputs[name], self._gradients[name]).items():
                target = f"{name}.{own}" if name else own
                totals = _sums_of_squared_products(g, x, scales)
                for (scale, squares, sums), total in zip(wanted, totals, strict=True):
                    squares[target] += total.view_as(squares[target])
                    if sums is not None:
                        left = (g * scale[:, None, None]).transpose(0, 1).flatten(1)  # (O, B P)
                        sums[target] += (left @ x.transpose(0, 1).flatten(1).T).view_as(sums[target])


def _gradient_factors(layer: nn.Module, a: torch.Tensor, g: torch.Tensor) -> dict[str, Pair]:
    """Return for each parameter (B, O, P) and (B, I, P), whose product over P is the gradient of each image."""
    ones = torch.ones(len(a), 1, 1, dtype=a.dtype, device=a.device)
    if isinstance(layer, nn.BatchNorm2d):
        scale = torch.rsqrt(layer.running_var + layer.eps).view(1, -1, 1, 1)
        normalised = (a - layer.running_mean.view(1, -1, 1, 1)) * scale
        of_weight, of_bias = ((x.sum((2, 3))[:, :, None], ones) for x in (g * normalised, g))
        return {"weight": of_weight, "bias": of_bias}
    if isinstance(layer, nn.Linear):
        factors = {"weight": (g[:, :, None], a[:, :, None])}
    else:
        g = g.flatten(2)
        factors = {"weight": (g, F.unfold(a, layer.kernel_size, layer.dilation, layer.padding, layer.stride))}
    if layer.bias is not None:
        factors["bias"] = (g.reshape(*g.shape[:2], -1).sum(2, keepdim=True), ones)
    return factors


# Above this many output positions, forming the per-image gradient is cheaper than pairing positions.
_MOST_PAIRED_POSITIONS = 6
# Floats of per-image gradients held at a time: on a CPU they should stay in the cache.
_CHUNK_FLOATS = {"cpu": 2**20, "cuda": 2**26}


def _sums_of_squared_products(g: torch.Tensor, x: torch.Tensor, scales: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return sum_n (scale_n g_n x_n^T)^2, elementwise, (O, I), for each scale (B,); g is (B, O, P), x (B, I, P)."""
    batch, out, positions = g.shape
    squared_scales = torch.stack(scales).square().to(g.dtype)  # (S, B)
    # The square of a sum over few positions P is P (P + 1) / 2 pairs, each a product of matrices over the batch.
    if positions <= _MOST_PAIRED_POSITIONS:
        p, q = torch.triu_indices(positions, positions, device=g.device)
        twice = torch.where(p == q, 1.0, 2.0).to(g.dtype)
        left = g[:, :, p] * g[:, :, q] * twice
        right = (x[:, :, p] * x[:, :, q]).transpose(0, 1).reshape(x.shape[1], -1).T
        return [(left * scale[:, None, None]).transpose(0, 1).reshape(out, -1) @ right for scale in squared_scales]
    totals = torch.zeros(len(scales), out * x.shape[1], dtype=g.dtype, device=g.device)
    images = max(1, _CHUNK_FLOATS[g.device.type] // totals.shape[1])
    for start in range(0, batch, images):
        chunk = slice(start, start + images)
        gradients = torch.bmm(g[chunk], x[chunk].transpose(1, 2)).square_().flatten(1)  # (images, O I)
        totals.addmm_(squared_scales[:, chunk], gradients)
    return list(totals.view(len(scales), out, -1))


def output_gradient(logits: torch.Tensor, labels: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Return the gradient of the summed chosen losses in the logits, (B, C)."""
    leaf = logits.detach().requires_grad_()
    losses, _ = entry_losses(leaf, labels)
    return torch.autograd.grad((losses * chosen).sum(), leaf)[0]


def _require_piecewise_linear(logits: torch.Tensor) -> None:
    """Walk the autograd graph and refuse an operation that bends smoothly, such as GELU."""
    seen, stack = set(), [logits.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        kind = node.name().rstrip("0123456789").removesuffix("Backward")
        if kind.split("::")[-1] not in _PIECEWISE_LINEAR_NODES:
            raise NotPiecewiseLinearError(
                f"the network contains {kind}, which is not piecewise linear: there the diagonal of the Hessian "
                "differs from that of the Gauss-Newton matrix; use squared_minibatch"
            )
        stack.extend(parent for parent, _ in node.next_functions)
