"""The identity benchmark's methods, step by step: parity with its own notebooks on stored batches, in float64.

What differs on purpose is named where it does. Which batches a notebook skips, and how often it starts over, is said by
the stored sequence here: no method of ours skips a batch.
"""

from __future__ import annotations

import sys

import pytest
import torch
from conftest import doubles, golden
from torch import nn

from mlu_utils.data import ImageTable
from mlu_utils.devices import FP32
from mlu_utils.models import copy_of
from mlu_utils.requests import entry_losses, retain_loss
from mlu_utils.training import descend, sgd
from mlu_utils.unlearning import unsir as unsir_module
from mlu_utils.unlearning.finetune import cf_k, finetune
from mlu_utils.unlearning.neggrad import advanced_neggrad, neggrad
from mlu_utils.unlearning.scrub import distillation_divergence
from mlu_utils.unlearning.task import Batch, Task
from mlu_utils.unlearning.unsir import unsir

FILES = ("mufac_steps", "mucac_multilabel_steps", "mucac_binary_steps")
SGD = {"learning_rate": 1e-3, "momentum": 0.0, "weight_decay": 0.0}


class Block(nn.Module):
    def __init__(self, c_in: int, c_out: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(c_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x)).relu()


class Stored(nn.Module):
    """The small network of the stored values, with the blocks of a ResNet-18."""

    def __init__(self, num_outputs: int, weights: dict) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            Block(*sizes) for sizes in ((4, 4, 1), (4, 4, 1), (4, 5, 3), (5, 6, 1))
        )
        self.fc = nn.Linear(6, num_outputs)
        self.double().load_state_dict({k: doubles(v) for k, v in weights.items()}, strict=False)
        assert {name for name in self.state_dict() if "num_batches" not in name} == set(weights)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn1(self.conv1(x)).relu()
        for block in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = block(x)
        return self.fc(x.mean((2, 3)))


class StoredTask(Task):
    """A task whose passes are the stored batches, in their order; `forget_in_order` says which of those to forget."""

    def __init__(self, inputs: dict, forget_in_order: tuple[int, ...] = (0, 1)) -> None:
        k = inputs["num_outputs"]
        model, sides = Stored(k, inputs["weights"]), {}
        for side in ("retain", "forget"):
            sides[side] = [(doubles(b["x255"]) / 255, torch.tensor(b["y"])) for b in inputs[f"{side}_batches"]]
        images = torch.cat([x for side in sides.values() for x, _ in side])
        labels = torch.cat([y for side in sides.values() for _, y in side])
        is_classes = labels.ndim == 1
        num_retain = sum(len(x) for x, _ in sides["retain"])
        table = ImageTable(
            images=(images * 255).round().to(torch.uint8),
            labels=labels[:, None] if is_classes else labels.float(),
            label_names=("class",) if is_classes else ("gender", "smiling", "young"),
            identity=(torch.arange(len(labels)) >= num_retain).long(),
            split=torch.zeros(len(labels), dtype=torch.int8),
            source="stored",
            class_names=tuple(map(str, range(k))) if is_classes else (),
        )
        super().__init__(model, table, "people:1", seed=0)
        row, self.sides = 0, {}
        for side, batches in sides.items():
            self.sides[side] = []
            for x, _ in batches:
                rows = torch.arange(row, row + len(x))
                row += len(x)
                y = table.labels[rows] if is_classes else table.labels[rows].double()
                self.sides[side].append(Batch(x, y, self.mask[rows], rows, FP32))
        self.forget_in_order = forget_in_order

    def batches(self, _batch_size: int) -> StoredTask:
        return self

    def retain(self, num_epochs: int = 1) -> list[Batch]:
        return self.sides["retain"] * num_epochs

    def forget(self, _num_epochs: int = 1) -> list[Batch]:
        return [self.sides["forget"][i] for i in self.forget_in_order]

    def pairs(self, num_epochs: int = 1) -> list[tuple[Batch, Batch]]:
        return [(self.sides["retain"][i], self.sides["forget"][j]) for i, j in self.forget_in_order]


def recorded(monkeypatch, module) -> list[float]:
    """Return a list that receives the losses of every descent that a method's module starts."""
    losses: list[float] = []

    def spy(*args, **kwargs) -> list[float]:
        found = descend(*args, **kwargs)
        losses.extend(found)
        return found

    monkeypatch.setattr(module, "descend", spy)
    return losses


def assert_equal(model: nn.Module, losses: list[float], expected: dict, *, statistics: bool = True) -> None:
    torch.testing.assert_close(doubles(losses), doubles(expected["losses"]), rtol=0, atol=1e-9)
    for name, values in expected["state_after_last_step"].items():
        if statistics or "running" not in name:
            found = model.state_dict()[name]
            torch.testing.assert_close(found, doubles(values), rtol=0, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def module_of(function) -> object:
    return sys.modules[function.__module__]


@pytest.mark.parametrize(
    ("name", "method"),
    [(name, method) for name in FILES for method in ("fine_tune", "cf3")] + [("mufac_steps", "fine_tune_train_mode")],
)
def test_training_on_what_is_kept(name, method, monkeypatch):
    inputs, outputs = golden(name)
    expected = outputs[method]
    task, losses = StoredTask(inputs), recorded(monkeypatch, module_of(finetune))
    options = SGD | {"num_epochs": 2, "batchnorm": expected["mode_at_start"]}
    if method == "cf3":
        # Differs by default: the running statistics of layers that are called frozen stay.
        made = cf_k(task, k=3, freezes_statistics=False, **options)
        stays = [n for n, p in task.model.named_parameters() if torch.equal(p, made.get_parameter(n))]
        assert {n.split(".")[0] for n in stays} == {"conv1", "bn1", "layer1", "layer2"}
    else:
        made = finetune(task, **options)
    assert_equal(made, losses, expected)
    assert not made.training  # Differs: a method always returns a model in eval mode


# Which stored batches the notebooks take: to forget, and (to keep, to forget). MUFAC makes as many tries as there are
# batches to keep and skips a try of unequal sizes, MUCAC's multi-label notebook batches that are not 64 images, the
# binary one neither where both are short.
NEGGRAD = {"mufac_steps": (0, 0), "mucac_multilabel_steps": (0, 0), "mucac_binary_steps": (0, 1, 0)}
PAIRS = {
    "mufac_steps": ((0, 0), (1, 0)),
    "mucac_multilabel_steps": ((0, 0), (0, 0)),
    "mucac_binary_steps": ((0, 0), (0, 0)),
}


@pytest.mark.parametrize("name", FILES)
def test_neggrad(name, monkeypatch):
    inputs, outputs = golden(name)
    losses = recorded(monkeypatch, module_of(neggrad))
    made = neggrad(StoredTask(inputs, NEGGRAD[name]), **SGD, is_bounded=False)
    assert_equal(made, losses, outputs["neggrad"])


@pytest.mark.parametrize("name", FILES)
def test_advanced_neggrad(name, monkeypatch):
    """Differs: what is kept goes forward first, as in MUFAC; in MUCAC last, which moves running statistics only."""
    inputs, outputs = golden(name)
    losses = recorded(monkeypatch, module_of(advanced_neggrad))
    made = advanced_neggrad(StoredTask(inputs, PAIRS[name]), **SGD, is_bounded=False)
    assert_equal(made, losses, outputs["advanced_neggrad"], statistics=name == "mufac_steps")


def test_the_divergence_of_distillation():
    inputs, outputs = golden("mufac_steps")
    student, teacher = doubles(inputs["kl_student"]).requires_grad_(), doubles(inputs["kl_teacher"])
    chosen = torch.ones(len(student), 1, dtype=torch.bool)
    options = {"temperature": outputs["distill_kl"]["T"], "is_single_label": True}
    value = distillation_divergence(student, teacher, chosen, **options)
    value.backward()
    torch.testing.assert_close(value.detach(), doubles(outputs["distill_kl"]["value"]), rtol=0, atol=1e-9)
    torch.testing.assert_close(student.grad, doubles(outputs["distill_kl"]["grad_student"]), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("name", "num_epochs", "rate"), [("mufac_steps", 2, 1e-3), ("mucac_binary_steps", 1, 1e-4)])
def test_scrub_in_the_benchmarks_order(name, num_epochs, rate):
    """Differs: `scrub` climbs before it descends, as its authors do; the notebooks descend first."""
    inputs, outputs = golden(name)
    task = StoredTask(inputs)
    student, teacher = task.start(), copy_of(task.model)
    optimizer = sgd(student.parameters(), **SGD | {"learning_rate": rate})

    def divergence(batch: Batch, logits: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            of_teacher = teacher(batch.images)
        everything = torch.ones_like(batch.mask)
        return distillation_divergence(logits, of_teacher, everything, temperature=4.0, is_single_label=True)

    def descent(batch: Batch) -> torch.Tensor:
        logits = batch.logits(student)
        return retain_loss(logits, batch.labels, batch.mask) + divergence(batch, logits)

    losses = []
    for _ in range(num_epochs):
        losses += descend(student, task.retain(), descent, optimizer)
        losses += descend(student, task.forget(), lambda b: -divergence(b, b.logits(student)), optimizer)
    assert_equal(student, losses, outputs["scrub"])


def test_scrub_of_the_multi_label_notebook_takes_a_softmax_of_labels_and_never_forgets():
    """Differs: `scrub` has a Bernoulli divergence per label, and climbs; the notebook has neither."""
    inputs, outputs = golden("mucac_multilabel_steps")
    task = StoredTask(inputs)
    student, teacher = task.start(), copy_of(task.model)
    optimizer = sgd(student.parameters(), **SGD)

    def descent(batch: Batch) -> torch.Tensor:
        logits = batch.logits(student)
        with torch.no_grad():
            of_teacher = teacher(batch.images)
        everything = torch.ones(len(logits), 1, dtype=torch.bool)
        softmax = distillation_divergence(logits, of_teacher, everything, temperature=4.0, is_single_label=True)
        return retain_loss(logits, batch.labels, batch.mask) + softmax

    assert_equal(student, descend(student, task.retain(2), descent, optimizer), outputs["scrub"])


def test_unsir_of_mufac(monkeypatch):
    """Both stages in eval mode, as that notebook happens to leave the model."""
    inputs, outputs = golden("mufac_unsir")
    drawn = iter(map(doubles, inputs["noise_init"]))
    monkeypatch.setattr(unsir_module.torch, "randn", lambda *_, **__: next(drawn))
    losses = recorded(monkeypatch, unsir_module)
    options = {"form": "instance", "impair_epochs": 2, "repair_epochs": 1, "batchnorm": "eval"}
    made = unsir(StoredTask(inputs, ((0, 0), (0, 0))), **options)
    first, second = outputs["unsir_stage1"], outputs["unsir_stage2_after_stage1"]
    of_noise, of_impairing, of_repairing = losses[:-5], losses[-5:-3], losses[-3:]
    found = doubles(of_noise).reshape(2, 5)
    for own, expected in zip(found, first["noise"], strict=True):
        torch.testing.assert_close(own, doubles(expected["losses"]), rtol=0, atol=2e-9)
    torch.testing.assert_close(doubles(of_impairing), doubles(first["losses"]), rtol=0, atol=2e-9)
    assert_equal(made, of_repairing, second)


@pytest.mark.parametrize("name", ["mucac_multilabel_unsir", "mucac_binary_steps"])
def test_repairing_of_mucac(name, monkeypatch):
    """Differs: `distant_noise` leaves the running statistics alone, where MUCAC's stage 1 moves them ten times a step.

    So stage 2 starts from the stored weights after stage 1.
    """
    inputs, outputs = golden(name)
    started = inputs | {"weights": outputs["unsir_stage1"]["state_after_last_step"]}
    losses = recorded(monkeypatch, module_of(finetune))
    made = finetune(StoredTask(started), num_epochs=1, **SGD)
    assert_equal(made, losses, outputs["unsir_stage2_after_stage1"])


@pytest.mark.parametrize("kind", ["single_label", "multi_label"])
def test_losses_and_accuracies_of_images(kind):
    """In eval mode; the notebooks' collector runs in whatever mode the model is in. Ours always evaluates."""
    inputs, outputs = golden("benchmark_losses")
    given = inputs[kind]
    model = Stored(given["num_outputs"], given["weights"])
    losses, logits, labels = [], [], []
    for batch in given["batches"]:
        y = torch.tensor(batch["y"])
        y = y[:, None] if y.ndim == 1 else y.double()
        with torch.no_grad():
            z = model(doubles(batch["x255"]) / 255)
        losses.append(entry_losses(z, y)[0].mean(1))
        logits.append(z)
        labels.append(y)
    torch.testing.assert_close(torch.cat(losses), doubles(outputs[f"{kind}_eval_mode"]), rtol=0, atol=1e-9)
    assert abs(torch.cat(losses) - doubles(outputs[f"{kind}_train_mode"])).max() > 1e-3
    z, y = torch.cat(logits), torch.cat(labels)
    if kind == "single_label":
        assert float((z.argmax(1) == y[:, 0]).double().mean()) == pytest.approx(outputs["mufac_evaluation"]["Acc"])
        top = (z.topk(2, dim=1).indices == y).any(1).double().mean()
        assert float(top) == pytest.approx(outputs["mufac_evaluation"]["Top-2 Acc"])
    else:
        right = ((z > 0) == (y > 0)).double().mean(0)
        expected = [outputs["mucac_multilabel_evaluation"][f"{n} Acc"] for n in ("Gender", "Smiling", "Young")]
        torch.testing.assert_close(right, doubles(expected), rtol=0, atol=1e-9)
