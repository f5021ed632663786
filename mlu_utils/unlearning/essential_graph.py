"""Essential graph: find the channels that explain a target and no other, and set them to 0. Nothing is trained.

A target is a label, or a class of single-label data. Shapes: T targets, C channels of a layer.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from mlu_utils.naming import require_at_least, require_choice
from mlu_utils.training import in_eval_mode
from mlu_utils.unlearning.task import Passes, Task

SCORES = ("logit", "probability")
PLACES = ("norm", "conv")
BALANCES = ("protected", "value", "none")
_BATCH_SIZE = 64


def conv_layers(model: nn.Module) -> dict[str, str | None]:
    """Return, in forward order, each convolution and the BatchNorm layer registered just after it or None, by name."""
    layers: dict[str, str | None] = {}
    last = None
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            layers[name], last = None, (name, module.out_channels)
        elif isinstance(module, nn.BatchNorm2d) and last and last[1] == module.num_features:
            layers[last[0]], last = name, None
    return layers


def graph_layers(model: nn.Module, num_layers: int) -> list[str]:
    """Return the convolutions of the graph: the last ones or all there are, no projection of a skip connection."""
    require_at_least(1, num_layers=num_layers)
    return [name for name in conv_layers(model) if "downsample" not in name][-num_layers:]


def channel_weights(
    model: nn.Module,
    images: torch.Tensor,
    targets: Sequence[int],
    layers: Sequence[str],
    *,
    score: str = "logit",
    place: str = "norm",
) -> dict[str, torch.Tensor]:
    """Return layer -> (T, B, C), the mean over positions of the gradient of each target's score by each channel.

    The model runs in eval mode and is left as it is; images are (B, 3, H, W), normalised; targets are columns of
    logits.

    Args:
        score: "logit", or "probability" of a sigmoid, whose gradient vanishes where the model is certain.
        place: "norm": behind BatchNorm, so that a channel counts with the sign that the network sees; "conv": before
            it, where a negative BatchNorm weight turns the sign round. Without BatchNorm both are the same.

    Source: Selvaraju et al. (2017), Grad-CAM, equation 1.
    """
    norms, modules = conv_layers(model), dict(model.named_modules())
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Callable:
        def hook(_module: nn.Module, _inputs: tuple, output: torch.Tensor) -> torch.Tensor:
            seen[name] = output
            return output.clone()  # the next layer may write into what it gets

        return hook

    with contextlib.ExitStack() as stack, in_eval_mode(model), torch.enable_grad():
        for name in layers:
            layer = modules[norms[name] or name if place == "norm" else name]
            stack.enter_context(layer.register_forward_hook(keep(name)))
        # An input that needs a gradient gives every layer one, whatever is frozen.
        logits = model(images.detach().requires_grad_())
        values = (logits if score == "logit" else logits.sigmoid()).sum(0)
        outputs = [seen[name] for name in layers]
        found = [torch.autograd.grad(values[target], outputs, retain_graph=True) for target in targets]
    return {
        name: torch.stack([gradient.mean((2, 3)) for gradient in of_layer])
        for name, of_layer in zip(layers, zip(*found, strict=True), strict=True)
    }


def essential_channels(weights: torch.Tensor, proportion: float) -> torch.Tensor:
    """Return bool (T, C): of each target the int(proportion * C) channels of the largest weights (T, C), with sign."""
    chosen = torch.zeros(weights.shape, dtype=torch.bool)
    largest = weights.cpu().argsort(dim=1, descending=True, stable=True)[:, : int(proportion * weights.shape[1])]
    return chosen.scatter(1, largest, value=True)


def node_values(chosen: torch.Tensor, is_forgotten: torch.Tensor) -> torch.Tensor:
    """Return int (C,): T for each target to forget, bool (T,), that chose the channel (T, C), less 1 for each other."""
    return len(chosen) * chosen[is_forgotten].sum(0) - chosen[~is_forgotten].sum(0)


def pruned_channels(chosen: torch.Tensor, is_forgotten: torch.Tensor, balance: str = "protected") -> torch.Tensor:
    """Return bool (C,): which channels go, of those chosen, bool (T, C), by targets to forget, bool (T,), or others.

    "protected": what a target to forget chose and none of the others. "value": whose node value is above T - 1, as
    published: the same for one target to forget, but a channel that two of them share goes even if another needs it.
    "none": whatever a target to forget chose.
    """
    if balance == "value":
        return node_values(chosen, is_forgotten) > len(chosen) - 1
    goes = chosen[is_forgotten].any(0)
    return goes & ~chosen[~is_forgotten].any(0) if balance == "protected" else goes


@torch.no_grad()
def prune(model: nn.Module, channels: Mapping[str, torch.Tensor]) -> None:
    """Set channels, layer -> bool (C,), to 0 in place: rows of the convolution and of its BatchNorm layer."""
    modules, norms = dict(model.named_modules()), conv_layers(model)
    for name, goes in channels.items():
        for layer in filter(None, (name, norms[name])):
            for p in modules[layer].parameters():
                p[goes.to(p.device)] = 0


def essential_graph(
    task: Task,
    *,
    proportion: float = 0.1,
    num_layers: int = 5,
    num_images: int = 100,
    score: str = "logit",
    place: str = "norm",
    balance: str = "protected",
) -> nn.Module:
    """Return a copy without the channels that are essential for the target to forget and for no other.

    Essential for a target are the channels with the largest `channel_weights`, averaged over its training images.

    Args:
        proportion: share of the channels of each layer that is essential for a target, in (0, 1].
        num_layers: convolutions of the graph, the last ones; of a smaller network all.
        num_images: images that the weights of a target are averaged over, at most; 1 is the published number.
        score, place: see `channel_weights`; published are "probability" and "conv".
        balance: see `pruned_channels`.

    Source: Xu et al. (2024), Towards Efficient Target-Level Machine Unlearning Based on Essential Graph; public code.

    Differs: many images instead of one; the logit and the place behind BatchNorm; exact names of layers, where the code
    matches parts of names; the last convolution is part of the graph; ties are broken by number, where the code chooses
    the first of them several times over.
    """
    if not 0 < proportion <= 1:
        raise ValueError(f"proportion must be in (0, 1], got {proportion}")
    require_at_least(1, num_images=num_images)
    for name, value, choices in (("score", score, SCORES), ("place", place, PLACES), ("balance", balance, BALANCES)):
        require_choice(name, value, choices)
    unlearned = task.start()
    is_forgotten = forgotten_targets(task)
    chosen = targets_graph(
        task, proportion=proportion, num_layers=num_layers, num_images=num_images, score=score, place=place
    )
    prune(unlearned, {name: pruned_channels(of, is_forgotten, balance) for name, of in chosen.items()})
    return unlearned


def targets_graph(
    task: Task, *, proportion: float, num_layers: int, num_images: int, score: str, place: str
) -> dict[str, torch.Tensor]:
    """Return layer -> bool (T, C): which channels are essential for which target; arguments of `essential_graph`."""
    layers, targets = graph_layers(task.model, num_layers), range(task.table.num_outputs)
    train = task.table.rows("train")
    labels = task.table.labels[train]
    order, used = torch.Generator().manual_seed(task.seed), torch.zeros(len(targets), task.table.num_images)
    for target in targets:
        has = labels[:, target] == 1 if task.table.is_multi_label else labels[:, 0] == target
        rows = train[has]
        used[target, rows[torch.randperm(len(rows), generator=order)[:num_images]]] = 1
    is_known = used.any(1)  # a target without a training image needs no channel
    used = (used / used.sum(1, keepdim=True).clamp_min(1)).to(task.device)
    # One forward pass of an image serves every target that it is used for.
    weights = dict.fromkeys(layers, 0.0)
    for batch in Passes(task, used.any(0).nonzero().flatten().cpu(), _BATCH_SIZE):
        found = channel_weights(task.model, batch.images, targets, layers, score=score, place=place)
        for name in layers:
            weights[name] += torch.einsum("tb,tbc->tc", used[:, batch.rows].to(found[name]), found[name])
    return {name: essential_channels(of, proportion) & is_known[:, None] for name, of in weights.items()}


def forgotten_targets(task: Task) -> torch.Tensor:
    """Return bool (T,): the targets to forget."""
    if task.table.is_multi_label:
        return task.mask.all(0)
    return torch.arange(task.table.num_outputs) == task.table.class_index(task.request.name)
