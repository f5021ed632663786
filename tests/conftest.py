"""Small data and networks that every test can afford."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from torch import nn

from mlu_utils.data.table import ImageTable
from mlu_utils.unlearning.task import Task

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "workflow"))


def golden(name: str) -> tuple[dict, dict]:
    """Inputs and outputs of one file of `tests/golden`, which holds what the authors' own code gave."""
    content = json.loads((Path(__file__).parent / "golden" / f"{name}.json").read_text())
    return content["inputs"], content["outputs"]


def doubles(values: object) -> torch.Tensor:
    """Stored numbers as a float64 tensor."""
    return torch.tensor(values, dtype=torch.float64)


def tiny_table(*, num_images: int = 24, num_labels: int = 3, size: int = 8, seed: int = 0) -> ImageTable:
    """Random multi-label images whose label k shows as brightness of a stripe, people of four images each."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(num_images, num_labels, generator=generator) < 0.5).float()
    labels[:2] = torch.tensor([[0.0], [1.0]])  # both values occur
    images = torch.randint(0, 128, (num_images, 3, size, size), generator=generator)
    for k in range(num_labels):
        images[:, k % 3, k * size // num_labels, :] += (labels[:, k, None] * 120).long()
    split = torch.tensor([0, 0, 1, 2], dtype=torch.int8)[torch.arange(num_images) % 4]
    return ImageTable(
        images=images.to(torch.uint8),
        labels=labels,
        label_names=tuple(f"label{k}" for k in range(num_labels)),
        identity=torch.arange(num_images) // 4,
        split=split,
        source="tiny",
    )


def tiny_classes(*, num_images: int = 24, num_classes: int = 4, seed: int = 0) -> ImageTable:
    """Random single-label images whose class shows as brightness."""
    table = tiny_table(num_images=num_images, seed=seed)
    labels = (torch.arange(num_images) // 2 % num_classes)[:, None]
    images = (table.images // 4 + (labels[:, :, None, None] * 40).to(torch.uint8)).to(torch.uint8)
    return ImageTable(
        images=images,
        labels=labels,
        label_names=("class",),
        identity=table.identity,
        split=table.split,
        source="tiny classes",
        class_names=tuple(str(c) for c in range(num_classes)),
    )


class TinyNet(nn.Module):
    """Convolution, BatchNorm, in-place ReLU, strided convolution and head: every kind of layer, 126 weights."""

    def __init__(self, num_outputs: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 2, 3, 2, 1, bias=True)
        self.bn = nn.BatchNorm2d(2)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(2, 3, 3, 2, 1, bias=False)
        self.fc = nn.Linear(3, num_outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, 3, H, W) to (B, num_outputs)."""
        x = self.relu(self.bn(self.conv1(x)))
        return self.fc(self.relu(self.conv2(x)).mean((2, 3)))


def tiny_model(num_outputs: int = 3, *, seed: int = 0) -> TinyNet:
    """A TinyNet with BatchNorm statistics away from their initial values, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = TinyNet(num_outputs)
        for p in model.parameters():
            p.data += 0.2 * torch.randn_like(p)
        model.bn.running_mean.normal_()
        model.bn.running_var.uniform_(0.5, 2)
    model.architecture = "tiny"
    return model.eval()


def tiny_task(
    text: str = "label:label1", *, table: ImageTable | None = None, model: nn.Module | None = None, seed: int = 0
) -> Task:
    """A task on the tiny data; the model is new unless given."""
    table = table or tiny_table()
    return Task(model or tiny_model(table.num_outputs), table, text, seed=seed)


def same_bits(a: nn.Module, b: nn.Module) -> bool:
    """Whether two networks have the same weights and buffers."""
    ours, theirs = a.state_dict(), b.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


def flat(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    """One vector of many tensors."""
    return torch.cat([t.reshape(-1) for t in tensors])


@pytest.fixture
def table() -> ImageTable:
    """Return the multi-label table."""
    return tiny_table()


@pytest.fixture
def model() -> TinyNet:
    """Return the network for it."""
    return tiny_model()
