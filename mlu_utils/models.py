"""Networks that end in one linear head named `fc` on the penultimate features: label j's logit is row j."""

import copy
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from mlu_utils.devices import seeded
from mlu_utils.naming import require_choice


class SmallCNN(nn.Module):
    """Three convolutions with BatchNorm for images of 8 to 32 px: 3 -> 16 -> 32 -> 64 features."""

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        blocks = []
        for c_in, c_out, stride in ((3, 16, 1), (16, 32, 2), (32, 64, 2)):
            blocks += [nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()]
        self.trunk = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(64, num_outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images (B, 3, H, W) to logits (B, num_outputs)."""
        return self.fc(self.trunk(x))


class LafCNN(nn.Module):
    """The network of Shen et al. (2024) for MNIST: two 5 x 5 convolutions and 256 features without activation.

    Differs: one linear layer as head instead of two with nothing between them; images of other sizes than 28 px are
    pooled to the same 7 x 7 positions.
    """

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for c_in, c_out in ((3, 16), (16, 32)):
            layers += [nn.Conv2d(c_in, c_out, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
        self.trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(32 * 7 * 7, 256))
        self.fc = nn.Linear(256, num_outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images (B, 3, H, W) to logits (B, num_outputs)."""
        return self.fc(self.trunk(x))


MODELS: dict[str, Callable[[int], nn.Module]] = {
    "resnet18": lambda num_outputs: torchvision.models.resnet18(num_classes=num_outputs),
    "resnet50": lambda num_outputs: torchvision.models.resnet50(num_classes=num_outputs),
    "small_cnn": SmallCNN,
    "laf_cnn": LafCNN,
}


def build_model(
    architecture: str, num_outputs: int, *, seed: int, pretrained_weights: str | Path | None = None
) -> nn.Module:
    """Return a network of `MODELS` with `num_outputs` logits, initialised under `seed`.

    Pretrained weights are a state dict on disk (for example torchvision's ImageNet file) for everything but the last
    layer, which is new, as in the paper; a file that is missing or holds another network's is refused by its name.
    """
    require_choice("model", architecture, MODELS)
    with seeded(seed):
        model = MODELS[architecture](num_outputs)
    model.architecture = architecture
    if pretrained_weights:
        file = Path(pretrained_weights)
        if not file.is_file():
            raise FileNotFoundError(f"pretrained weights {file} are missing: download them or leave the option out")
        try:
            weights = dict(torch.load(file, map_location="cpu", weights_only=True))
        except Exception as error:  # unpickling fails in many ways; weights_only refuses code among them
            raise ValueError(f"{file} is no state dict that can be read without running code: {error}") from error
        new = {name: value for name, value in model.state_dict().items() if name.startswith("fc.")}
        load_state(model, {k: v for k, v in weights.items() if not k.startswith("fc.")} | new, file)
    return model


def fresh_model(model: nn.Module, *, seed: int) -> nn.Module:
    """Return a network of the same architecture on the same device with new weights, initialised under `seed`.

    One of `MODELS` is built as it was; of any other network each layer starts as PyTorch initialises it.
    """
    device, architecture = next(model.parameters()).device, getattr(model, "architecture", None)
    if architecture in MODELS:
        return build_model(architecture, head(model).out_features, seed=seed).to(device)
    fresh = copy.deepcopy(model).cpu()
    with seeded(seed):
        for module in fresh.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    return fresh.to(device)


def head(model: nn.Module) -> nn.Linear:
    """Return the last layer, whose rows are the labels and whose input are the penultimate features.

    It is called `fc`, or what the model's attribute `head_name` says; a network without it is refused.
    """
    name = getattr(model, "head_name", "fc")
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    if name not in layers:
        advice = f"pass head={list(layers)[-1]!r}" if layers else "a network needs one to have labels to forget"
        raise ValueError(f"{type(model).__name__} has no Linear layer named {name}: {advice}")
    return layers[name]


def blocks(model: nn.Module) -> dict[str, nn.Module]:
    """Return the network's blocks by name, in forward order: its residual blocks, else its ReLU layers."""
    found = {name: layer for name, layer in model.named_modules() if isinstance(layer, (BasicBlock, Bottleneck))}
    return found or {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.ReLU)}


def copy_of(model: nn.Module) -> nn.Module:
    """Return an independent copy in eval mode."""
    return copy.deepcopy(model).eval()


def load_state(model: nn.Module, state: dict[str, torch.Tensor], file: Path) -> None:
    """Put weights into a model of `MODELS`, or refuse those of another network by the name of their file."""
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{file} does not hold the weights of a {model.architecture}: {error}") from error
