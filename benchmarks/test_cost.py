"""Costs as ratios within one run: `make bench`. Nothing is asserted: a timing is not a test.

Compare rows of one group only, on a machine that does nothing else.
"""

import pytest
import torch

from mlu_utils import data
from mlu_utils.data.batches import normalise
from mlu_utils.devices import resolve_device, resolve_precision
from mlu_utils.experiments import tuned
from mlu_utils.models import build_model
from mlu_utils.requests import retain_loss
from mlu_utils.training import fit
from mlu_utils.unlearning import unlearn
from mlu_utils.unlearning.task import Task
from mlu_utils.unlearning.weight_pruning import pruning_scores

DEVICE = resolve_device()
PRECISION = resolve_precision("auto", DEVICE)
BATCH_SIZE = 64


@pytest.fixture(scope="module")
def table():
    return data.load("orl", size=64)


@pytest.fixture
def model(table):
    network = build_model("resnet18", table.num_outputs, seed=1).to(DEVICE)
    return network.to(memory_format=PRECISION.memory_format)


def finished(function):
    """Wait for the device, so that the clock sees all of the work."""

    def run(*args, **kwargs):
        result = function(*args, **kwargs)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        return result

    return run


# --- Training: fit should reach 95 % of the bare loop's images per second on a CPU, 90 % on a GPU --------------


def bare_epoch(model, images, labels, optimizer):
    """Forward, backward, step over images that already lie normalised on the device."""
    for x, y in zip(images.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True):
        with PRECISION.autocast(DEVICE):
            logits = model(x)
        loss = retain_loss(logits, y, torch.zeros_like(y, dtype=torch.bool))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


@pytest.mark.benchmark(group="training, one epoch of orl at 64 px, ResNet-18", warmup=True, warmup_iterations=1)
def test_bare_loop(benchmark, table, model):
    rows = table.rows("train")
    images = normalise(table.images[rows]).to(DEVICE, memory_format=PRECISION.memory_format)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True)
    model.train()
    benchmark.pedantic(
        finished(bare_epoch),
        (model, images, table.labels[rows].to(DEVICE), optimizer),
        rounds=10,
        warmup_rounds=2,
    )


@pytest.mark.benchmark(group="training, one epoch of orl at 64 px, ResNet-18")
def test_fit(benchmark, table, model):
    options = {"num_epochs": 1, "batch_size": BATCH_SIZE, "seed": 1, "precision": PRECISION}
    benchmark.pedantic(finished(fit), (model, table), options, rounds=10, warmup_rounds=2)


# --- Scoring for Weight Pruning: linear in images --------------------------------------------------------------


@pytest.mark.benchmark(group="Weight Pruning: scores from n images")
@pytest.mark.parametrize("num_images", [8, 16, 32, 64])
def test_scoring(benchmark, table, model, num_images):
    model.eval()
    task, rows = Task(model, table, "label:Eyeglasses", seed=1), table.rows("train")[:num_images]
    options = {"loss": "forget", "hessian": "exact", "alpha": 0.75, "beta": 0.25}
    benchmark.pedantic(finished(pruning_scores), (task, rows), options, rounds=5, warmup_rounds=1)


# --- Methods: seconds of one run with the tuned values, beside one epoch of training above ---------------------


@pytest.mark.benchmark(group="methods, label request on orl, ResNet-18")
@pytest.mark.parametrize("method", ["WP", "WF", "CF-k", "SSD", "SalUn", "SCRUB"])
def test_method(benchmark, table, model, method):
    options = {"seed": 1, "precision": PRECISION, **tuned(method, "label")}
    benchmark.pedantic(
        finished(unlearn),
        (method, model, table, "label:Eyeglasses"),
        options,
        rounds=3,
        warmup_rounds=1,
    )
