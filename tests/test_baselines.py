"""Baselines: every method against NumPy in float64 on a linear network, then the one bug each is known for.

Breaking a method by hand (and putting it back) turned these tests red:
SCRUB, optimiser over the teacher's weights: `test_one_linear_layer_by_hand[SCRUB...]`,
`test_scrub_drives_the_student_and_spares_the_teacher`; SalUn, no restore: `test_one_linear_layer_by_hand[SalUn...]`,
`test_salun_leaves_every_other_weight_its_bits`; NegGrad, sign flipped: `test_one_linear_layer_by_hand[NegGrad...]`,
`test_neggrad_stops_at_chance_and_the_published_loss_does_not`.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import TinyNet, flat, same_bits, tiny_classes, tiny_model, tiny_table, tiny_task
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, log_softmax, rel_entr, softmax
from sklearn.linear_model import LogisticRegression
from torch import nn

from mlu_utils import models
from mlu_utils.data.batches import normalise
from mlu_utils.models import SmallCNN, build_model, copy_of
from mlu_utils.requests import ForgetRequest, entry_losses
from mlu_utils.training import NonFiniteLossError, fit, predict_logits
from mlu_utils.unlearning import METHODS, importance, salun, scrub, ssd, unlearn, unsir
from mlu_utils.unlearning.finetune import last_layers
from mlu_utils.unlearning.task import TaskBatches, ascent_loss

QUICK = settings(max_examples=60, deadline=None, derandomize=True, database=None)
PIXELS = 3 * 8 * 8
ALL = 1000  # larger than every table: one batch a pass, whose order does not matter


class LinearNet(nn.Module):
    """Logistic regression on the pixels in float64."""

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.fc = nn.Linear(PIXELS, num_outputs, dtype=torch.float64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, 3, 8, 8) to (B, num_outputs)."""
        return self.fc(x.flatten(1).double())


@pytest.fixture(autouse=True)
def _known_architectures(monkeypatch):
    monkeypatch.setitem(models.MODELS, "tiny", TinyNet)
    monkeypatch.setitem(models.MODELS, "linear", LinearNet)


def linear_model(table, *, seed: int = 1, num_epochs: int = 0) -> LinearNet:
    model = build_model("linear", table.num_outputs, seed=seed).eval()
    if num_epochs:
        fit(model, table, num_epochs=num_epochs, learning_rate=0.05, batch_size=8, seed=0)
    return model


def gappy_table(**options):
    """The multi-label table with unknown entries in every column, one of them in a forgotten person."""
    table = tiny_table(**options)
    labels = table.labels.clone()
    labels[4, 0] = labels[8, 1] = labels[9, 1] = labels[12, 2] = torch.nan
    return replace(table, labels=labels)


def losses_by_hand(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Loss of each entry (B, K), nan where it is unknown."""
    if y.dtype == np.int64:
        return -np.take_along_axis(log_softmax(z, axis=1), y, axis=1)
    return np.logaddexp(0, z) - y * z


class ByHand:
    """The linear network's gradients in NumPy; weights W (outputs, pixels + 1), the bias last."""

    def __init__(self, model: LinearNet, table, request: ForgetRequest) -> None:
        pixels = normalise(table.images).flatten(1).double().numpy()
        self.x = np.concatenate([pixels, np.ones((len(pixels), 1))], 1)
        self.y = table.labels.numpy()
        self.is_single_label = not table.is_multi_label
        train = (table.split == 0).numpy()[:, None]
        known = train & ~np.isnan(self.y)
        mask = request.mask(table).numpy()
        self.forget, self.retain, self.train = known & mask, known & ~mask, train
        self.teach_forget = mask & self.forget.any(1, keepdims=True)  # a teacher has a view of unknown entries too
        self.teach_retain = ~mask & self.retain.any(1, keepdims=True)
        self.start = weights_of(model)

    def _error(self, z: np.ndarray) -> np.ndarray:
        """Derivative of each image's loss in its logits."""
        if self.is_single_label:
            return softmax(z, axis=1) - np.eye(z.shape[1])[self.y[:, 0]]
        return expit(z) - np.nan_to_num(self.y)

    def loss_gradient(self, w: np.ndarray, chosen: np.ndarray, cap: float = np.inf) -> np.ndarray:
        z = self.x @ w.T
        counts = chosen & (np.nan_to_num(losses_by_hand(z, self.y)) <= cap)
        return (self._error(z) * counts).T @ self.x / chosen.sum()

    def divergence_gradient(self, w: np.ndarray, chosen: np.ndarray, temperature: float, is_bounded: bool):
        s, t = self.x @ w.T / temperature, self.x @ self.start.T / temperature
        if self.is_single_label:
            p, q = softmax(t, axis=1), softmax(s, axis=1)
            divergence, most = (rel_entr(p, r).sum(1, keepdims=True) for r in (q, np.full_like(p, 1 / p.shape[1])))
        else:
            p, q = expit(t), expit(s)
            divergence, most = (rel_entr(p, r) + rel_entr(1 - p, 1 - r) for r in (q, np.full_like(p, 0.5)))
        counts = chosen & (divergence < most) if is_bounded else chosen
        return temperature * ((q - p) * counts).T @ self.x / chosen.sum()

    def descend(self, w, gradients, *, learning_rate, momentum=0.0, weight_decay=0.0, rates=None, may_change=True):
        """SGD as torch defines it, one step for each function w -> gradient."""
        velocity = np.zeros_like(w)
        for gradient, rate in zip(gradients, rates or [learning_rate] * len(gradients), strict=True):
            velocity = momentum * velocity + gradient(w) + weight_decay * w
            w = np.where(may_change, w - rate * velocity, w)
        return w


def weights_of(model: LinearNet) -> np.ndarray:
    return torch.cat([model.fc.weight, model.fc.bias[:, None]], 1).detach().numpy().copy()


REQUESTS = [
    (gappy_table, "label:label1"),
    (gappy_table, "people:1,2"),
    (gappy_table, "partial:label0@0,1,3"),
    (tiny_classes, "class:2"),
    (tiny_classes, "images:0,4,5"),
]
SGD = {"learning_rate": 0.02, "momentum": 0.8, "weight_decay": 0.01}


def finetune_by_hand(hand, table, request):
    options = {"num_epochs": 3, "batch_size": ALL} | SGD
    return options, hand.descend(hand.start, [lambda w: hand.loss_gradient(w, hand.retain)] * 3, **SGD)


def eu_k_by_hand(hand, table, request):
    """One layer is the whole network: Retrain without its initial seed."""
    options, _ = finetune_by_hand(hand, table, request)
    fresh = weights_of(build_model("linear", table.num_outputs, seed=5))
    assert not np.allclose(fresh, hand.start)
    return options | {"k": 1}, hand.descend(fresh, [lambda w: hand.loss_gradient(w, hand.retain)] * 3, **SGD)


def neggrad_by_hand(hand, table, request, is_bounded=True):
    cap = math.log(table.num_outputs if hand.is_single_label else 2) if is_bounded else np.inf
    options = {"num_epochs": 6, "batch_size": ALL, "is_bounded": is_bounded} | SGD
    return options, hand.descend(hand.start, [lambda w: -hand.loss_gradient(w, hand.forget, cap)] * 6, **SGD)


def advanced_neggrad_by_hand(hand, table, request, alpha=0.5, anchor=0.0):
    cap = math.log(table.num_outputs if hand.is_single_label else 2)

    def gradient(w):
        keep = hand.loss_gradient(w, hand.retain) + 2 * anchor * (w - hand.start)
        return 2 * (alpha * keep - (1 - alpha) * hand.loss_gradient(w, hand.forget, cap))

    options = {"num_epochs": 4, "batch_size": ALL, "alpha": alpha, "anchor": anchor} | SGD
    return options, hand.descend(hand.start, [gradient] * 4, **SGD)


def scrub_by_hand(hand, table, request, is_bounded=True):
    alpha, gamma, temperature = 0.3, 0.7, 2.5

    def climb(w):
        return -hand.divergence_gradient(w, hand.teach_forget, temperature, is_bounded)

    def descent(w):
        keep = hand.divergence_gradient(w, hand.teach_retain, temperature, False)
        return gamma * hand.loss_gradient(w, hand.retain) + alpha * keep

    options = {"num_epochs": 4, "msteps": 3, "alpha": alpha, "gamma": gamma, "temperature": temperature}
    options |= {"is_bounded": is_bounded, "forget_batch_size": ALL, "retain_batch_size": ALL} | SGD
    options |= {"decay_epochs": (2, 3)}
    rates = [0.02] * 4 + [0.002] * 2 + [0.0002]
    steps = [climb, descent] * 3 + [descent]
    return options, hand.descend(hand.start, steps, rates=rates, **SGD)


def salun_by_hand(hand, table, request, share=0.4):
    salient = np.abs(hand.loss_gradient(hand.start, hand.forget))
    order = np.sort(salient.ravel())
    may_change = (salient > 0) & (salient >= order[max(1, math.ceil((1 - share) * order.size)) - 1])
    assert 0 < may_change.sum() <= share * order.size + 1
    generator = torch.Generator().manual_seed(5)
    steps = []
    for _ in range(4):
        epoch = ByHand(linear_model(table), table, request)
        epoch.y = salun.random_labels(tiny_task(str(request), table=table), generator).numpy()

        def gradient(w, epoch=epoch):
            return hand.loss_gradient(w, hand.retain) + epoch.loss_gradient(w, hand.forget)

        steps.append(gradient)
    options = {"num_epochs": 4, "share": share, "batch_size": ALL} | SGD
    return options, hand.descend(hand.start, steps, may_change=may_change, **SGD)


def ssd_by_hand(hand, table, request):
    """One batch: the mean of squared gradients is the square of one; 'auto' differs by the kind of request."""
    entries = hand.retain if request.kind in ("label", "partial") else hand.retain | hand.forget
    forget, reference = (hand.loss_gradient(hand.start, chosen) ** 2 for chosen in (hand.forget, entries))
    selected = forget > 1.3 * reference
    assert 0 < selected.sum() < selected.size
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = np.where(selected, np.minimum(0.9 * reference / forget, 1), 1)
    return {"alpha": 1.3, "dampening": 0.9, "batch_size": ALL}, hand.start * factors


LINEAR = {
    "FT": ("FT", finetune_by_hand, {}),
    "CF-k": ("CF-k", lambda *of: (finetune_by_hand(*of)[0] | {"k": 1}, finetune_by_hand(*of)[1]), {}),
    "EU-k": ("EU-k", eu_k_by_hand, {}),
    "NegGrad": ("NegGrad", neggrad_by_hand, {}),
    "NegGrad published": ("NegGrad", neggrad_by_hand, {"is_bounded": False}),
    "AdvNegGrad": ("AdvNegGrad", advanced_neggrad_by_hand, {}),
    "NegGrad+": ("AdvNegGrad", advanced_neggrad_by_hand, {"alpha": 0.9, "anchor": 0.05}),
    "SCRUB": ("SCRUB", scrub_by_hand, {}),
    "SCRUB published": ("SCRUB", scrub_by_hand, {"is_bounded": False}),
    "SalUn": ("SalUn", salun_by_hand, {}),
    "SSD": ("SSD", ssd_by_hand, {}),
}


@pytest.mark.parametrize(("make_table", "text"), REQUESTS)
@pytest.mark.parametrize("case", LINEAR)
def test_one_linear_layer_by_hand(case, make_table, text):
    table, request = make_table(), ForgetRequest.parse(text)
    name, by_hand, variant = LINEAR[case]
    model = linear_model(table)
    options, expected = by_hand(ByHand(model, table, request), table, request, **variant)
    ours = weights_of(unlearn(name, model, table, request, seed=5, **options)[0])
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-12)
    assert np.abs(expected - weights_of(model)).max() > 1e-4


def adam_by_hand(gradient, x, *, num_steps, learning_rate):
    m, v = np.zeros_like(x), np.zeros_like(x)
    for step in range(1, num_steps + 1):
        g = gradient(x)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        x = x - learning_rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
    return x


@pytest.mark.parametrize(("make_table", "text"), [REQUESTS[0], REQUESTS[3]])
def test_unsir_with_a_bank_by_hand(monkeypatch, make_table, text):
    """Noise by Adam, one impairing step on images and noise, one repairing step on images."""
    table, request = make_table(), ForgetRequest.parse(text)
    model = linear_model(table)
    hand, recorded = ByHand(model, table, request), []
    learn = unsir.learn_noise

    def recording(task, model, labels, **options):
        recorded.append((learn(task, model, labels, **options), labels))
        return recorded[0][0]

    monkeypatch.setattr(unsir, "learn_noise", recording)
    unlearned, _ = unlearn(
        "UNSIR", model, table, request, seed=5, num_noise_images=2, noise_steps=3, noise_penalty=0.01,
        batch_size=ALL, impair_learning_rate=0.02, repair_learning_rate=0.03,
    )  # fmt: skip
    [(noise, labels)] = recorded
    noise, y = noise.flatten(1).double().numpy(), labels.numpy()

    start = torch.randn(len(noise), *table.images.shape[1:], generator=torch.Generator().manual_seed(5))
    known, pixels = ~np.isnan(y), hand.start[:, :-1]

    def error(z):
        if hand.is_single_label:
            return (softmax(z, axis=1) - np.eye(z.shape[1])[y[:, 0]]) / len(y)
        return (expit(z) - np.nan_to_num(y)) * known / known.sum()

    def of_noise(n):  # of minus the loss, plus the penalty
        return -error(n @ pixels.T + hand.start[:, -1]) @ pixels + 0.01 * 2 * n / len(n)

    expected = adam_by_hand(of_noise, start.flatten(1).double().numpy(), num_steps=3, learning_rate=0.1)
    np.testing.assert_allclose(noise, expected, atol=1e-5)

    def impair(w):
        shown = np.concatenate([noise, np.ones((len(noise), 1))], 1)
        return hand.loss_gradient(w, hand.retain) + error(shown @ w.T).T @ shown

    impaired = hand.descend(hand.start, [impair], learning_rate=0.02)
    repaired = hand.descend(impaired, [lambda w: hand.loss_gradient(w, hand.retain)], learning_rate=0.03)
    np.testing.assert_allclose(weights_of(unlearned), repaired, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("make_table", "text"), REQUESTS)
def test_unsir_with_instances_by_hand(monkeypatch, make_table, text):
    """One impairing step: noise far from images to forget, labelled as the first images to keep beside it."""
    table, request = make_table(), ForgetRequest.parse(text)
    model = linear_model(table)
    hand, noises, retained = ByHand(model, table, request), [], []
    make_noise, make_pairs = unsir.distant_noise, TaskBatches.pairs

    def recording_noise(model, images, chosen, **options):
        noises.append((make_noise(model, images, chosen, **options), images, chosen))
        return noises[-1][0]

    def recording_pairs(batches, num_epochs):
        for retain, forget in make_pairs(batches, num_epochs):
            retained.append((retain.rows, forget.rows))
            yield retain, forget

    monkeypatch.setattr(unsir, "distant_noise", recording_noise)
    monkeypatch.setattr(TaskBatches, "pairs", recording_pairs)
    options = {"form": "instance", "batch_size": ALL, "impair_learning_rate": 0.02, "repair_epochs": 0}
    unlearned, _ = unlearn("UNSIR", model, table, request, seed=5, **options)
    [(noise, images, chosen)], [(retain_rows, forget_rows)] = noises, retained
    size = min(len(retain_rows), len(forget_rows))
    assert torch.equal(images, normalise(table.images[forget_rows[:size]]))
    wanted = request.mask(table)[forget_rows[:size]]
    assert torch.equal(chosen, wanted.expand(-1, table.num_outputs) if hand.is_single_label else wanted)

    shown = ByHand(model, table, request)
    shown.x = shown.x.copy()
    shown.x[retain_rows[:size], :-1] = noise.flatten(1).double().numpy()
    entries = np.zeros_like(hand.retain)
    entries[retain_rows[:size]] = hand.retain[retain_rows[:size]]

    def impair(w):
        return hand.loss_gradient(w, hand.retain) + shown.loss_gradient(w, entries)

    expected = hand.descend(hand.start, [impair], learning_rate=0.02)
    np.testing.assert_allclose(weights_of(unlearned), expected, rtol=1e-9, atol=1e-12)


# What a method must not look at


BLIND_TO_LABELS = ["Retrain", "FT", "CF-k", "EU-k", "SCRUB", "UNSIR"]
BLIND_TO_PIXELS = ["Retrain", "FT", "CF-k", "EU-k"]
FEW = {
    "Retrain": {"num_epochs": 2, "batch_size": 5},
    "SCRUB": {"forget_batch_size": 3, "retain_batch_size": 5},
    "UNSIR": {"num_noise_images": 3, "noise_steps": 3, "batch_size": 5},
    "SSD": {"alpha": 1.0, "batch_size": 5},
}


def run(name, table, text, **options):
    model, request = tiny_model(table.num_outputs), ForgetRequest.parse(text)
    options = FEW.get(name, {"batch_size": 5}) | ({"k": 2} if name in ("CF-k", "EU-k") else {}) | options
    return unlearn(name, model, table, request, seed=3, **options)[0]


def with_other_labels(table, text):
    mask = ForgetRequest.parse(text).mask(table)
    other = 1 - table.labels if table.is_multi_label else (table.labels + 1) % table.num_outputs
    return replace(table, labels=torch.where(mask, other, table.labels))


def with_other_pixels(table, text):
    gone = ForgetRequest.parse(text).mask(table).all(1)
    assert gone.any() and not gone.all()
    return replace(table, images=torch.where(gone[:, None, None, None], 255 - table.images, table.images))


@pytest.mark.parametrize(("make_table", "text"), [(m, t) for m, t in REQUESTS if not t.startswith("class")])
@pytest.mark.parametrize("name", BLIND_TO_LABELS)
def test_labels_to_forget_are_never_read(name, make_table, text):
    table = make_table()
    assert same_bits(run(name, table, text), run(name, with_other_labels(table, text), text))


@pytest.mark.parametrize(("make_table", "text"), [REQUESTS[1], REQUESTS[3], REQUESTS[4]])
@pytest.mark.parametrize("name", BLIND_TO_PIXELS)
def test_pixels_of_images_without_anything_to_keep_are_never_read(name, make_table, text):
    table = make_table()
    assert same_bits(run(name, table, text), run(name, with_other_pixels(table, text), text))


@pytest.mark.parametrize("name", ["NegGrad", "AdvNegGrad", "SalUn", "SSD"])
def test_methods_that_work_on_the_labels_to_forget_read_them(name):
    """The comparisons above can fail."""
    for make_table, text in (REQUESTS[1], REQUESTS[4]):
        table = make_table()
        for other in (with_other_labels(table, text), with_other_pixels(table, text)):
            assert not same_bits(run(name, table, text), run(name, other, text))


# The two sides of a task


def test_a_task_has_the_known_training_entries_on_each_side():
    table = gappy_table()
    known, train = ~table.labels.isnan(), table.rows("train").tolist()
    for text in ("label:label1", "people:1,2", "partial:label0@0,1,3"):
        task, mask = tiny_task(text, table=table), ForgetRequest.parse(text).mask(table)
        assert torch.equal(task.mask, mask) and str(task.request) == text
        assert task.forget_rows.tolist() == [n for n in train if (mask & known)[n].any()]
        assert task.retain_rows.tolist() == [n for n in train if (~mask & known)[n].any()]
        batches = list(task.batches(4).forget())
        assert torch.equal(torch.cat([b.rows for b in batches]).sort().values, task.forget_rows)
        for b in batches:
            assert torch.equal(b.images, normalise(table.images[b.rows])) and torch.equal(b.mask, mask[b.rows])
            assert torch.equal(b.labels.nan_to_num(9), table.labels[b.rows].nan_to_num(9))
    # Unknown both: 4 for label0 of person 1, 8 and 9 for label1.
    assert 4 not in tiny_task("partial:label0@0,1,3", table=table).forget_rows
    assert not {8, 9} & set(tiny_task("label:label1", table=table).forget_rows.tolist())


def test_a_task_looks_at_its_model_in_eval_mode_and_leaves_it_alone():
    model = tiny_model()
    assert tiny_task(model=model).model is model
    for training in (model.train, model.bn.train):  # the whole, or one layer only
        model.eval()
        training()
        task = tiny_task(model=model)
        assert not any(m.training for m in task.model.modules()) and model.bn.training
        assert same_bits(task.model, model) and task.model.fc.weight.data_ptr() != model.fc.weight.data_ptr()


def test_a_start_is_a_copy_in_the_layout_of_the_number_format():
    task = tiny_task()
    start = task.start()
    assert same_bits(start, task.model) and not start.training
    assert start.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert task.model.conv1.weight.is_contiguous() and start.fc.weight.data_ptr() != task.model.fc.weight.data_ptr()


def test_one_side_is_served_once():
    """A label everyone has: one batch is both, and one forward pass serves both losses."""
    pairs = list(tiny_task().batches(4).pairs(2))
    assert len(pairs) == 6 and all(forget is retain for retain, forget in pairs)
    pairs = list(tiny_task(table=gappy_table()).batches(4).pairs())
    assert not any(forget is retain for retain, forget in pairs)  # rows 8 and 9 have nothing to forget


def test_pairs_start_over_in_a_fresh_order():
    """12 training images, 4 to forget: three retain passes need every forget image several times."""
    table = tiny_table(num_images=48)
    task, again, other = (tiny_task("people:1,2", table=table, seed=s) for s in (0, 0, 1))
    assert len(task.forget_rows) == 4 and len(task.retain_rows) == 20
    pairs = list(task.batches(2).pairs(3))
    assert len(pairs) == 30
    passes = [torch.cat([pairs[i][1].rows, pairs[i + 1][1].rows]).tolist() for i in range(0, 30, 2)]
    assert all(sorted(rows) == task.forget_rows.tolist() for rows in passes)
    assert len({tuple(rows) for rows in passes}) > 5
    retained = [torch.cat([retain.rows for retain, _ in pairs[i : i + 10]]) for i in (0, 10, 20)]
    assert all(torch.equal(rows.sort().values, task.retain_rows) for rows in retained)
    assert not torch.equal(retained[0], retained[1])
    ours, same, different = (
        [f.rows.tolist() for _, f in of] for of in (pairs, again.batches(2).pairs(3), other.batches(2).pairs(3))
    )
    assert ours == same and ours != different
    assert ours == [f.rows.tolist() for _, f in task.batches(2).pairs(3)]  # a task has no memory of its batches


def test_pairs_of_a_partial_request_share_images():
    task = tiny_task("partial:label0@0,3")
    assert set(task.forget_rows.tolist()) < set(task.retain_rows.tolist())
    for retain, forget in task.batches(4).pairs(2):
        assert forget.mask[:, 0].all() and not forget.mask[:, 1:].any()
        assert torch.equal(retain.mask[:, 0], torch.isin(retain.rows, task.forget_rows))


# Climbing


@QUICK
@given(st.floats(-8, 8).filter(lambda z: abs(z) > 1e-9), st.sampled_from([0.0, 1.0]))
def test_a_bounded_binary_climb_ends_at_the_model_that_says_nothing(z, y):
    logits = torch.tensor([[z]], dtype=torch.float64, requires_grad=True)
    mask = torch.ones(1, 1, dtype=torch.bool)
    loss = ascent_loss(logits, torch.tensor([[y]]), mask)
    (gradient,) = torch.autograd.grad(loss, logits)
    is_beyond = losses_by_hand(np.array([[z]]), np.array([[y]])) > math.log(2)
    assert loss.item() == pytest.approx(min(float(np.logaddexp(0, z) - y * z), math.log(2)))
    assert float(gradient) == (0 if is_beyond else pytest.approx(float(expit(z) - y)))
    free = torch.autograd.grad(ascent_loss(logits, torch.tensor([[y]]), mask, is_bounded=False), logits)[0]
    assert float(free) == pytest.approx(float(expit(z) - y))


def test_a_bounded_climb_over_classes_and_unknown_entries():
    logits = torch.tensor([[0.0, 0.1, 0.0], [0.0, -0.1, 0.0]], dtype=torch.float64, requires_grad=True)
    mask = torch.ones(2, 1, dtype=torch.bool)
    (gradient,) = torch.autograd.grad(ascent_loss(logits, torch.tensor([[1], [1]]), mask), logits)
    assert gradient[0].ne(0).all() and gradient[1].eq(0).all()
    logits = torch.tensor([[0.3, -2.0, 1.0]], dtype=torch.float64)
    labels, mask = torch.tensor([[0.0, torch.nan, 1.0]]), torch.tensor([[True, True, False]])
    unbounded = ascent_loss(logits, labels, mask, is_bounded=False)
    assert float(unbounded) == pytest.approx(np.logaddexp(0, 0.3))
    assert float(ascent_loss(logits, labels, torch.zeros(1, 3, dtype=torch.bool))) == 0


def entry_means(model, table, mask):
    rows = table.rows("train")
    losses, known = entry_losses(predict_logits(model, table, rows), table.labels[rows])
    return float(losses[known & mask[rows]].mean()), float(losses[known & ~mask[rows]].mean())


@pytest.mark.parametrize(("make_table", "text"), [REQUESTS[0], REQUESTS[3]])
def test_neggrad_stops_at_chance_and_the_published_loss_does_not(make_table, text):
    table, request = make_table(num_images=80), ForgetRequest.parse(text)
    mask, model = request.mask(table), linear_model(make_table(num_images=80), num_epochs=2)
    options = {"learning_rate": 0.005, "momentum": 0.0, "weight_decay": 0.0, "batch_size": 8}

    def climbed(num_epochs, is_bounded):
        return unlearn(
            "NegGrad", model, table, request, seed=0, num_epochs=num_epochs, is_bounded=is_bounded, **options
        )[0]

    bounded, published = climbed(40, True), climbed(40, False)
    chance = math.log(2 if table.is_multi_label else table.num_outputs)
    before, at_chance, beyond = (entry_means(m, table, mask)[0] for m in (model, bounded, published))
    assert before < 0.5 * chance and 0.7 * chance < at_chance < 3 * chance and beyond > 10 * chance
    if not table.is_multi_label:  # a label's two values push against each other and never stop all at once
        assert same_bits(bounded, climbed(50, True)) and not same_bits(published, climbed(50, False))
    advanced, _ = unlearn("AdvNegGrad", model, table, request, seed=0, num_epochs=40, **options)
    assert entry_means(advanced, table, mask)[0] > 0.6 * chance
    assert entry_means(advanced, table, mask)[1] <= 1.1 * entry_means(model, table, mask)[1]


def test_neggrad_plus_between_its_ends():
    """Weight 1 is fine-tuning at twice the rate, weight 0 is NegGrad at twice the rate."""
    table, request = tiny_table(), ForgetRequest.parse("people:1,2")
    options = {"num_epochs": 1, "momentum": 0.0, "weight_decay": 0.0, "batch_size": ALL, "batchnorm": "eval"}
    for alpha, name in ((1.0, "FT"), (0.0, "NegGrad")):
        ours, _ = unlearn(
            "AdvNegGrad", tiny_model(), table, request, seed=0, alpha=alpha, learning_rate=0.01, **options
        )
        theirs, _ = unlearn(name, tiny_model(), table, request, seed=0, learning_rate=0.02, **options)
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)


def test_an_anchor_pulls_towards_the_original():
    table, model = tiny_table(), tiny_model()
    request = ForgetRequest.parse("label:label1")

    def distance(anchor):
        ours, _ = unlearn("AdvNegGrad", model, table, request, seed=0, anchor=anchor, learning_rate=0.1, num_epochs=5)
        return sum((p - q).square().sum().item() for p, q in zip(ours.parameters(), model.parameters(), strict=True))

    assert distance(2.0) < 0.7 * distance(0.0)


# CF-k and EU-k


TRAINED = {
    ("resnet18", "blocks", 1): "fc",
    ("resnet18", "blocks", 2): "fc layer4",
    ("resnet18", "blocks", 3): "fc layer4 layer3",
    ("resnet50", "blocks", 3): "fc layer4 layer3",
    ("resnet18", "modules", 1): "fc",
    ("resnet18", "modules", 3): "fc layer4.1.bn2 layer4.1.conv2 layer4.1.bn1 layer4.1.conv1",
    ("resnet50", "modules", 3): "fc layer4.2.bn3 layer4.2.conv3 layer4.2.bn2 layer4.2.conv2",
    ("small_cnn", "blocks", 1): "fc",
    ("small_cnn", "blocks", 3): "fc trunk.7 trunk.6 trunk.4 trunk.3",
    ("small_cnn", "modules", 3): "fc trunk.7 trunk.6 trunk.4 trunk.3",
}


@pytest.fixture(scope="module")
def architectures():
    with torch.device("meta"):  # names only, no weights
        return {name: models.MODELS[name](4) for name in ("resnet18", "resnet50", "small_cnn")}


@pytest.mark.parametrize(("architecture", "counting", "k"), TRAINED)
def test_the_last_layers_are_those_of_the_public_codes(architectures, architecture, counting, k):
    """Choi and Na unfreeze named blocks, Goel et al. single convolutions and what BatchNorm lies between."""
    model = architectures[architecture]
    with_weights = [n for n, m in model.named_modules() if any(True for _ in m.parameters(recurse=False))]
    wanted = TRAINED[architecture, counting, k].split()
    expected = {n for n in with_weights if any(n == w or n.startswith(f"{w}.") for w in wanted)}
    names = last_layers(model, k, counting)
    assert set(names) == expected and len(names) == len(expected) and names[0] == "fc"


@pytest.mark.parametrize(
    ("architecture", "counting", "number"),
    [
        ("resnet18", "blocks", 6),  # conv1, four stages, fc
        ("resnet50", "blocks", 6),
        ("resnet18", "modules", 21),  # 17 convolutions, 3 shortcuts, fc
        ("resnet50", "modules", 54),
        ("small_cnn", "blocks", 4),
        ("small_cnn", "modules", 4),
    ],
)
def test_the_last_layers_end_at_the_whole_network(architectures, architecture, counting, number):
    model = architectures[architecture]
    names = [set(last_layers(model, k, counting)) for k in range(1, number + 1)]
    assert all(a < b for a, b in zip(names, names[1:], strict=False))
    assert names[-1] == {n for n, m in model.named_modules() if any(True for _ in m.parameters(recurse=False))}
    for k in (0, -1, number + 1):
        with pytest.raises(ValueError, match=rf"k must be in 1..{number} \(the {counting} of this network\), got {k}"):
            last_layers(model, k, counting)


@pytest.mark.parametrize("name", ["CF-k", "EU-k"])
def test_frozen_layers_keep_weights_and_statistics(name):
    table, model = tiny_table(), tiny_model()
    for k, trained in ((1, {"fc"}), (2, {"fc", "conv2"}), (3, {"fc", "conv2", "bn", "conv1"})):
        ours = run(name, table, "people:1,2", k=k, weight_decay=0.1, momentum=0.9)
        changed = {n for n, value in ours.state_dict().items() if not torch.equal(value, model.state_dict()[n])}
        assert {n.split(".")[0] for n in changed} == trained
        assert ("bn.running_mean" in changed) == (k == 3)
        assert all(p.requires_grad for p in ours.parameters())
    public = run(name, table, "people:1,2", k=1, freezes_statistics=False)
    assert torch.equal(public.bn.weight, model.bn.weight) and torch.equal(public.conv1.weight, model.conv1.weight)
    assert not torch.equal(public.bn.running_mean, model.bn.running_mean)
    still = run(name, table, "people:1,2", k=1, freezes_statistics=False, batchnorm="eval")
    assert torch.equal(still.bn.running_mean, model.bn.running_mean)


def test_eu_k_starts_from_new_weights():
    table, model, fresh = tiny_table(), tiny_model(), build_model("tiny", 3, seed=3)
    ours = run("EU-k", table, "people:1,2", k=3, learning_rate=0.0, batchnorm="eval")
    assert same_bits(ours, fresh)  # statistics of a layer trained anew are new too
    ours = run("EU-k", table, "people:1,2", k=1, learning_rate=0.0)
    assert torch.equal(ours.fc.weight, fresh.fc.weight) and torch.equal(ours.fc.bias, fresh.fc.bias)
    assert torch.equal(ours.conv2.weight, model.conv2.weight) and torch.equal(ours.bn.weight, model.bn.weight)
    assert same_bits(run("CF-k", table, "people:1,2", k=3, learning_rate=0.0, batchnorm="eval"), model)


# SCRUB


LOGITS = st.lists(st.floats(-30, 30), min_size=3, max_size=3)


@QUICK
@given(LOGITS, LOGITS, st.floats(0.5, 8), st.lists(st.booleans(), min_size=3, max_size=3))
def test_bernoulli_divergence_is_scipys(student, teacher, temperature, chosen):
    ours = scrub.distillation_divergence(
        *(torch.tensor([z], dtype=torch.float64) for z in (student, teacher)),
        torch.tensor([chosen]),
        temperature=temperature,
        is_single_label=False,
    )
    p, q = expit(np.array([teacher, student]) / temperature)
    # expit(-z), as 1 - expit(z) has no digits left at z = 30.
    not_p, not_q = expit(-np.array([teacher, student]) / temperature)
    expected = temperature**2 * (rel_entr(p, q) + rel_entr(not_p, not_q))[chosen]
    assert float(ours) == pytest.approx(expected.mean() if any(chosen) else 0, rel=1e-9, abs=1e-9)


@QUICK
@given(st.integers(0, 2**31), st.floats(0.5, 8))
def test_softmax_divergence_is_torchs(seed, temperature):
    student, teacher = 5 * torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(seed))
    expected = F.kl_div((student / temperature).log_softmax(1), (teacher / temperature).softmax(1), reduction="none")
    chosen = torch.arange(6)[:, None] % 3 > 0
    ours = scrub.distillation_divergence(student, teacher, chosen, temperature=temperature, is_single_label=True)
    torch.testing.assert_close(ours, temperature**2 * expected.sum(1)[chosen[:, 0]].mean(), rtol=1e-3, atol=1e-4)


def test_only_a_softmax_is_blind_to_a_shift_of_all_logits():
    teacher = torch.tensor([[1.0, -2.0, 0.5]])
    for is_single_label, columns in ((True, 1), (False, 3)):
        chosen = torch.ones(1, columns, dtype=torch.bool)
        options = {"temperature": 2.0, "is_single_label": is_single_label}
        shifted = scrub.distillation_divergence(teacher + 3, teacher, chosen, **options)
        assert float(scrub.distillation_divergence(teacher, teacher, chosen, **options)) == pytest.approx(0, abs=1e-6)
        assert (float(shifted) < 1e-5) == is_single_label


@pytest.mark.parametrize("is_single_label", [True, False])
def test_a_bounded_divergence_has_no_gradient_beyond_the_student_that_says_nothing(is_single_label):
    teacher = torch.tensor([[2.0, -2.0]], dtype=torch.float64)
    chosen = torch.ones(1, 1 if is_single_label else 2, dtype=torch.bool)
    options = {"temperature": 3.0, "is_single_label": is_single_label}
    uniform = scrub.distillation_divergence(torch.zeros_like(teacher), teacher, chosen, **options)
    for factor in (0.9, 0.5, 0.01, -0.01, -0.5, -3):
        student = (factor * teacher).requires_grad_()
        bounded = scrub.distillation_divergence(student, teacher, chosen, is_bounded=True, **options)
        free = scrub.distillation_divergence(student, teacher, chosen, **options)
        (gradient,) = torch.autograd.grad(bounded, student, retain_graph=True)
        if factor > 0:
            assert bounded.item() == free.item() < uniform.item()
            assert torch.equal(gradient, torch.autograd.grad(free, student)[0]) and gradient.ne(0).all()
        else:
            assert bounded.item() == pytest.approx(uniform.item()) and free.item() > uniform.item()
            assert gradient.eq(0).all()


def divergences(student, teacher, table, mask):
    """Mean Bernoulli divergence on the training entries to forget and to keep."""
    rows = table.rows("train")
    s, t = (predict_logits(m, table, rows) for m in (student, teacher))
    options = {"temperature": 1.0, "is_single_label": False}
    return [float(scrub.distillation_divergence(s, t, m, **options)) for m in (mask[rows], ~mask[rows])]


def test_scrub_drives_the_student_and_spares_the_teacher(monkeypatch):
    """Climbing raises the divergence on the label to forget, descending lowers it on the others."""
    table, request = tiny_table(num_images=80), ForgetRequest.parse("label:label1")
    model, mask = tiny_model(), request.mask(table)
    fit(model, table, num_epochs=20, batch_size=8, learning_rate=0.05, seed=0)
    teacher, seen = copy_of(model), []
    original = scrub.descend

    def recording(student, *rest, **options):
        before = divergences(student, teacher, table, mask)
        result = original(student, *rest, **options)
        seen.append((before, divergences(student, teacher, table, mask)))
        return result

    monkeypatch.setattr(scrub, "descend", recording)
    options = {"gamma": 0.0, "alpha": 1.0, "weight_decay": 0.0, "momentum": 0.0, "learning_rate": 0.05}
    student, _ = unlearn("SCRUB", model, table, request, seed=0, num_epochs=3, retain_batch_size=8, **options)
    assert same_bits(model, teacher) and not same_bits(student, teacher)
    climbs, descents = [seen[0], seen[2]], [seen[1], seen[3], seen[4]]
    assert all(after[0] > 1.1 * before[0] for before, after in climbs)
    assert all(after[1] < before[1] for before, after in descents)
    assert seen[-1][1][0] > 5 * seen[-1][1][1]


def test_scrub_climbs_first_and_slows_down_as_published(monkeypatch):
    stream = []

    def recording(student, batches, objective, optimizer, **options):
        rows = sorted(n for batch in batches for n in batch.rows.tolist())
        sizes = options["batchnorm"]
        stream.append((objective.__name__, round(optimizer.param_groups[0]["lr"], 12), rows, sizes))

    monkeypatch.setattr(scrub, "descend", recording)
    table = tiny_table()
    run("SCRUB", table, "people:1,2", num_epochs=5, msteps=3, decay_epochs=(2, 4), learning_rate=0.1)
    forget, retain = [4, 5, 8, 9], [0, 1, 12, 13, 16, 17, 20, 21]
    assert stream == [
        (what, rate, forget if what == "climb" else retain, "train")
        for what, rate in (
            [("climb", 0.1), ("descent", 0.1)] * 2  # epochs 1 and 2
            + [("climb", 0.01), ("descent", 0.01)]
            + [("descent", 0.01), ("descent", 0.001)]  # msteps is over; a decay epoch itself still has the old rate
        )
    ]


@pytest.mark.parametrize(("make_table", "text"), [*REQUESTS[1:4], (tiny_table, "images:0,1,4,9")])
def test_a_rewind_is_the_nearest_of_all_epochs(make_table, text):
    """The student after n epochs is what a run of n epochs returns: try them all."""
    table = make_table(num_images=40)
    options = {"learning_rate": 0.2, "decay_epochs": (), "alpha": 0.1, "msteps": 2, "momentum": 0.0}
    students = [run("SCRUB", table, text, num_epochs=n, **options) for n in range(1, 5)]
    mask, train, validation = ForgetRequest.parse(text).mask(table), table.split == 0, table.split == 1

    def error(model, chosen):
        logits, wrong = predict_logits(model, table, torch.arange(table.num_images)), []
        for n, k in torch.nonzero(chosen).tolist():
            guess = float(logits[n, k] > 0) if table.is_multi_label else int(logits[n].argmax())
            if not math.isnan(table.labels[n, k]):
                wrong.append(guess != table.labels[n, k].item())
        return np.mean(wrong)

    like = mask & validation[:, None]
    if not like.any():  # neither these images nor the class lie in the validation split: all entries there
        assert text in ("images:0,1,4,9", "class:2")
        like = validation[:, None].expand_as(mask)
    target = error(students[-1], like)
    gaps = [abs(error(s, mask & train[:, None]) - target) for s in students]
    ours = run("SCRUB", table, text, num_epochs=4, is_rewound=True, **options)
    assert [same_bits(ours, s) for s in students].index(True) == int(np.argmin(gaps))


def test_a_rewind_compares_with_known_entries_of_the_same_labels():
    task = tiny_task("partial:label0@0,3")
    table, mask, labels = task.table, task.mask, task.table.labels.clone()
    rows = table.rows("validation")
    assert torch.equal(scrub._unseen_like(task), mask[rows])
    # Nobody knows those people's there: the same label of the others.
    labels[mask & (table.split != 0)[:, None]] = torch.nan
    expected = torch.zeros(len(rows), 3, dtype=torch.bool)
    expected[:, 0] = ~labels[rows, 0].isnan()
    unknown = tiny_task("partial:label0@0,3", table=replace(table, labels=labels))
    assert torch.equal(scrub._unseen_like(unknown), expected) and expected.any()


# SalUn


def test_salun_leaves_every_other_weight_its_bits():
    """Ten epochs with momentum and weight decay, both of which moved masked weights in the public code."""
    task = tiny_task("people:1,2")
    model = task.model
    may_change = salun.saliency_mask(task, share=0.3)
    ours = salun.salun(task, share=0.3, num_epochs=10, momentum=0.9, weight_decay=0.1, batch_size=5)
    changed, allowed = 0, 0
    for name, p in model.named_parameters():
        moved = ours.get_parameter(name) != p
        assert not (moved & ~may_change[name]).any(), name
        changed, allowed = changed + int(moved.sum()), allowed + int(may_change[name].sum())
    assert 0.9 * allowed < changed <= allowed < 0.35 * sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("make_table", [gappy_table, tiny_classes])
def test_salun_draws_new_labels_in_every_epoch(monkeypatch, make_table):
    table, drawn = make_table(num_images=64), []
    original = salun.random_labels

    def recording(*arguments):
        drawn.append(original(*arguments))
        return drawn[-1]

    monkeypatch.setattr(salun, "random_labels", recording)
    run("SalUn", table, "people:1,2,3,4", num_epochs=10)
    mask = ForgetRequest.parse("people:1,2,3,4").mask(table)
    assert len(drawn) == 10 and len({tuple(d[mask].tolist()) for d in drawn}) == 10
    for d in drawn:
        assert torch.equal(d[~mask].nan_to_num(9), table.labels[~mask].nan_to_num(9)) and d.dtype == table.labels.dtype
        assert torch.equal(d.isnan(), table.labels.isnan())
        values = set(range(table.num_outputs if not table.is_multi_label else 2))
        assert set(d[mask & ~d.isnan()].tolist()) == values
    share = torch.stack([d[mask] for d in drawn]).nan_to_num(0.5).float()
    middle = 0.5 if table.is_multi_label else (table.num_outputs - 1) / 2
    assert abs(float(share.mean()) - middle) < 5 * float(share.std()) / share.numel() ** 0.5


@pytest.mark.parametrize("saliency", salun.SALIENCIES)
@pytest.mark.parametrize("text", ["label:label1", "people:1,2"])
def test_the_saliency_mask_by_hand(saliency, text):
    table = gappy_table()
    task = tiny_task(text, table=table, model=linear_model(table))
    hand = ByHand(task.model, table, task.request)

    def of_batches(chosen):
        rows = torch.from_numpy(np.flatnonzero(chosen.any(1)))
        batches, parts = [rows[i : i + 3] for i in range(0, len(rows), 3)], []
        if len(batches[-1]) == 1:
            batches = [*batches[:-2], torch.cat(batches[-2:])]
        for batch in batches:
            entries = np.zeros_like(chosen)
            entries[batch] = chosen[batch]
            if entries.any():
                parts.append((entries.sum() / chosen[rows].sum(), hand.loss_gradient(hand.start, entries)))
        return parts

    forget = of_batches(hand.forget)
    ranked = sum(share * np.abs(g) for share, g in forget)
    if saliency == "signed":
        ranked = np.abs(sum(share * g for share, g in forget))
    if saliency == "relative":
        kept = sum(share * np.abs(g) for share, g in of_batches(hand.retain))
        exclusive = np.zeros_like(ranked, dtype=bool)
        exclusive[1] = text.startswith("label")
        ranked = np.where(exclusive, np.inf, ranked / ranked.mean() / (kept / kept.mean() + 1e-3))
    weights = np.concatenate([ranked[:, :-1].ravel(), ranked[:, -1]])
    threshold = np.sort(weights)[max(1, math.ceil(0.8 * weights.size)) - 1]
    expected = (weights >= threshold) & (weights > 0)
    ours = salun.saliency_mask(task, share=0.2, saliency=saliency, batch_size=3)
    assert np.array_equal(flat(ours.values()).numpy(), expected)
    assert all(chosen.all() for chosen in salun.saliency_mask(task, share=1).values())
    other_rows = [ours["fc.weight"][k].any() for k in (0, 2)]
    assert any(other_rows) == text.startswith("people")  # a label's gradient does not reach the others' rows


def test_signed_saliency_vanishes_where_training_has_ended():
    """At the maximum likelihood fit the forget gradients of all images cancel: only noise is left to rank by."""
    generator = torch.Generator().manual_seed(0)
    table = tiny_table(num_images=4000)
    labels = torch.where(torch.rand(table.labels.shape, generator=generator) < 0.3, 1 - table.labels, table.labels)
    table = replace(table, labels=labels)
    model, rows = linear_model(table), table.rows("train")
    x, y = normalise(table.images[rows]).flatten(1).double().numpy(), labels[rows, 1].numpy()
    fitted = LogisticRegression(C=np.inf, tol=1e-10, max_iter=5000, solver="newton-cholesky").fit(x, y)
    model.fc.weight.data[1], model.fc.bias.data[1] = torch.from_numpy(fitted.coef_[0]), float(fitted.intercept_[0])
    statistics = importance.gradient_statistics(tiny_task(table=table, model=model), rows, loss="forget")
    absolute, signed = statistics.mean_absolute.max(), statistics.mean.abs().max()
    assert absolute > 0.01 and signed < 1e-6 * absolute


# UNSIR


def test_the_banks_of_noise():
    banks = unsir.noise_labels(tiny_task())
    assert banks[:, 1].tolist() == [0, 1] and banks[:, [0, 2]].isnan().all() and banks.shape == (2, 3)
    assert unsir.noise_labels(tiny_task("class:2", table=tiny_classes())).tolist() == [[2]]


@pytest.mark.parametrize(("make_table", "text"), [(tiny_table, "label:label1"), (tiny_classes, "class:2")])
def test_learnt_noise_raises_the_loss_and_leaves_the_model(make_table, text):
    task = tiny_task(text, table=make_table())
    model, labels = task.model, unsir.noise_labels(task).repeat_interleave(4, 0)

    def loss(num_steps, penalty=0.0):
        noise = unsir.learn_noise(task, model, labels, num_steps=num_steps, learning_rate=0.1, penalty=penalty)
        assert not noise.requires_grad and noise.shape == (len(labels), 3, 8, 8)
        known = ~labels.isnan() if labels.is_floating_point() else torch.ones_like(labels, dtype=torch.bool)
        with torch.no_grad():
            return entry_losses(model(noise), labels)[0][known].reshape(len(labels)), noise

    (before, _), (after, free), (_, small) = loss(0), loss(40), loss(40, 0.1)
    assert (after > before + 0.2).all()  # of both banks, where there are two
    assert small.square().sum() < 0.1 * free.square().sum()
    assert same_bits(model, tiny_model(task.table.num_outputs)) and all(p.grad is None for p in model.parameters())


def test_distant_noise_moves_the_outputs_away_and_leaves_the_model():
    table, model = tiny_table(), tiny_model().train()
    images = normalise(table.images[:6])
    for chosen in (torch.tensor([True, True, True]).expand(6, 3), torch.tensor([False, True, False]).expand(6, 3)):
        options = {"learning_rate": 0.05, "seed": 0}
        start, far = (unsir.distant_noise(model, images, chosen, num_steps=n, **options) for n in (0, 20))
        assert all(noise.min() >= 0 and noise.max() <= 1 and not noise.requires_grad for noise in (start, far))
        still = tiny_model()
        with torch.no_grad():
            near, away = (((still(noise) - still(images)).square() * chosen).sum() for noise in (start, far))
        assert away > 1.2 * near
        drawn = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
        assert torch.equal(start, drawn.clamp(0, 1))
    assert model.training and same_bits(model, tiny_model()) and all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("text", ["label:label1", "people:1,2"])
def test_unsir_without_repair_is_its_first_stage(text):
    """And repairing is fine-tuning from there, the images in the order that comes next."""
    table = tiny_table()
    options = {"batch_size": ALL, "batchnorm": "eval"}
    first = run("UNSIR", table, text, repair_epochs=0, **options)
    both = run("UNSIR", table, text, repair_epochs=2, repair_learning_rate=0.02, **options)
    finetuned, _ = unlearn(
        "FT", first, table, ForgetRequest.parse(text), seed=3, num_epochs=2, learning_rate=0.02, momentum=0.0,
        weight_decay=0.0, **options,
    )  # fmt: skip
    for p, q in zip(both.parameters(), finetuned.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)
    assert same_bits(first, run("UNSIR", table, text, repair_epochs=0, repair_learning_rate=1e9, **options))
    assert not same_bits(first, both) and not same_bits(first, tiny_model())


def test_every_form_of_unsir_has_its_requests():
    table = tiny_table()
    instance = run("UNSIR", table, "label:label1", form="instance")
    assert same_bits(run("UNSIR", table, "label:label1", form="bank"), run("UNSIR", table, "label:label1"))
    assert not same_bits(instance, run("UNSIR", table, "label:label1"))
    assert same_bits(run("UNSIR", table, "people:1", form="instance"), run("UNSIR", table, "people:1"))


# SSD and head reset


def test_dampening_factors_by_hand():
    forget = torch.tensor([10.0, 9.9, 1.0, 0.0, 4.0, 20.0])
    reference = torch.tensor([0.0, 1.0, 1.0, 0.0, 0.5, 1.0])
    ours = ssd.dampening_factors(forget, reference, alpha=2.0, dampening=3.0)
    torch.testing.assert_close(ours, torch.tensor([0, 3 / 9.9, 1, 1, 1.5 / 4, 0.15]))
    assert ssd.dampening_factors(forget, reference, alpha=2.0, dampening=100.0).tolist() == [0, 1, 1, 1, 1, 1]
    assert ssd.dampening_factors(forget, reference, alpha=2.0, dampening=0.0).tolist() == [0, 0, 1, 1, 0, 0]


def test_ssd_empties_the_head_row_of_a_label_and_no_other():
    table, model = tiny_table(), tiny_model()
    ours = run("SSD", table, "label:label1", alpha=1e9)  # only what the reference does not use at all
    assert ours.fc.weight[1].eq(0).all() and ours.fc.bias[1] == 0
    expected = copy_of(model)
    expected.fc.weight.data[1] = expected.fc.bias.data[1] = 0
    assert same_bits(ours, expected)
    assert predict_logits(ours, table, table.rows("test"))[:, 1].eq(0).all()
    partial = run("SSD", table, "partial:label1@1,2", alpha=1e9)
    assert same_bits(partial, model)  # the others still use the row


def test_the_reference_of_ssd():
    for make_table, text in REQUESTS:
        table = make_table()
        auto, retain, every = (run("SSD", table, text, reference=r) for r in ssd.REFERENCES)
        is_kept = text.split(":")[0] in ("label", "partial")
        assert same_bits(auto, retain) == is_kept and same_bits(auto, every) == (not is_kept)


def test_head_reset_by_hand():
    table, model = tiny_table(), tiny_model()
    ours, _ = unlearn("HeadReset", model, table, ForgetRequest.parse("label:label1"), seed=0)
    rows = table.rows("test")
    before, after = predict_logits(model, table, rows), predict_logits(ours, table, rows)
    assert after[:, 1].eq(0).all() and torch.equal(after[:, [0, 2]], before[:, [0, 2]])


# Bad arguments


BAD = [
    ("FT", {"batchnorm": "frozen"}, ValueError, "unknown batchnorm mode 'frozen': choose one of train, eval"),
    ("FT", {"learning_rate": math.nan}, ValueError, "learning_rate must be finite and at least 0, got nan"),
    ("FT", {"learning_rate": math.inf}, ValueError, "learning_rate must be finite and at least 0, got inf"),
    ("NegGrad", {"learning_rate": -0.1}, ValueError, "learning_rate must be finite and at least 0, got -0.1"),
    ("SCRUB", {"momentum": math.nan}, ValueError, "momentum must be finite and at least 0, got nan"),
    ("SalUn", {"weight_decay": -1.0}, ValueError, "weight_decay must be finite and at least 0, got -1.0"),
    ("UNSIR", {"repair_learning_rate": math.inf}, ValueError, "learning_rate must be finite and at least 0, got inf"),
    ("FT", {"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
    ("CF-k", {"k": 0}, ValueError, r"k must be in 1..3 \(the blocks of this network\), got 0"),
    ("EU-k", {"k": 4, "counting": "modules"}, ValueError, r"k must be in 1..3 \(the modules of this network\), got 4"),
    ("CF-k", {"counting": "layers"}, ValueError, "unknown counting 'layers': choose one of blocks, modules"),
    ("AdvNegGrad", {"alpha": 1.1}, ValueError, r"alpha must be in \[0, 1\], got 1.1"),
    ("AdvNegGrad", {"alpha": -0.1}, ValueError, r"alpha must be in \[0, 1\], got -0.1"),
    ("AdvNegGrad", {"alpha": math.nan}, ValueError, r"alpha must be in \[0, 1\], got nan"),
    ("AdvNegGrad", {"anchor": -1.0}, ValueError, "anchor must be finite and at least 0, got -1.0"),
    ("AdvNegGrad", {"anchor": math.nan}, ValueError, "anchor must be finite and at least 0, got nan"),
    ("UNSIR", {"form": "noise"}, ValueError, "unknown form 'noise': choose one of auto, bank, instance"),
    ("UNSIR", {"num_noise_images": 0}, ValueError, "num_noise_images must be finite and at least 1, got 0"),
    ("UNSIR", {"noise_penalty": -0.1}, ValueError, "noise_penalty must be finite and at least 0, got -0.1"),
    ("SCRUB", {"temperature": 0.0}, ValueError, "temperature must be above 0 and finite, got 0.0"),
    ("SalUn", {"saliency": "random"}, ValueError, "unknown saliency 'random': choose one of absolute, signed, relat"),
    ("SalUn", {"share": 0.0}, ValueError, r"share must be in \(0, 1\], got 0.0"),
    ("SalUn", {"share": 1.5}, ValueError, r"share must be in \(0, 1\], got 1.5"),
    ("SSD", {"alpha": 0.0}, ValueError, "alpha must be above 0 and dampening at least 0, got 0.0 and 1.0"),
    ("SSD", {"alpha": math.nan}, ValueError, "alpha must be above 0 and dampening at least 0, got nan and 1.0"),
    ("SSD", {"dampening": -1.0}, ValueError, "alpha must be above 0 and dampening at least 0, got 10.0 and -1.0"),
    ("SSD", {"reference": "forget"}, ValueError, "unknown reference 'forget': choose one of auto, retain, all"),
    ("FT", {"learning_rate": 1e30}, NonFiniteLossError, r"within \d+ steps with learning_rate 1e\+30: the model is"),
]


@pytest.mark.parametrize(("name", "options", "error", "message"), BAD)
def test_bad_arguments(name, options, error, message):
    table, model = tiny_table(), tiny_model()
    with pytest.raises(error, match=message):
        unlearn(name, model, table, ForgetRequest.parse("label:label1"), seed=0, **options)
    assert same_bits(model, tiny_model())


PASSES = ("num_epochs", "impair_epochs", "repair_epochs", "msteps", "num_rounds")
COUNTS = [(method, name) for method in METHODS for name in METHODS[method].hyperparameters if name in PASSES]
OPTIONAL = {("UNSIR", "repair_epochs"), ("LAF", "repair_epochs"), ("SCRUB", "msteps")}
LEAST = {count: 0 if count in OPTIONAL else 1 for count in COUNTS}


def test_every_number_of_passes_is_among_the_counts():
    """A hyperparameter that sounds like passes and isn't in `PASSES` would escape the refusals below."""
    sounds = {n for m in METHODS.values() for n in m.hyperparameters if n.endswith(("epochs", "steps", "rounds"))}
    others = {"decay_epochs", "noise_steps", "instance_noise_steps"}  # when, and how long noise is learnt
    assert sounds - others == set(PASSES) and len(COUNTS) == 15 and sum(LEAST.values()) == 12


@pytest.mark.parametrize("below", [1, 2])
@pytest.mark.parametrize(("method", "name"), COUNTS)
def test_a_method_without_passes_is_refused(method, name, below):
    model, least = build_model("small_cnn", 3, seed=0), LEAST[method, name]
    before = copy_of(model)
    request = "label:label1" if "label" in METHODS[method].kinds else "people:1"
    with pytest.raises(ValueError, match=f"{name} must be finite and at least {least}, got {least - below}"):
        unlearn(method, model, tiny_table(), request, seed=0, **{name: least - below})
    assert same_bits(model, before)


def test_optional_passes_can_be_left_out():
    """UNSIR without repair: see its own test. SCRUB without a climb distils: its weights move, but not to forget."""
    table, options = tiny_table(), {"num_epochs": 2, "learning_rate": 0.05}
    without = run("SCRUB", table, "label:label1", msteps=0, **options)
    assert not same_bits(without, tiny_model())
    assert not same_bits(without, run("SCRUB", table, "label:label1", msteps=1, **options))


def test_a_bank_needs_a_label_or_class():
    for text in ("people:1,2", "images:0,1", "partial:label0@0"):
        with pytest.raises(ValueError, match=f"a noise bank needs a label or a class, {text} has none: use form='inst"):
            run("UNSIR", tiny_table(), text, form="bank")


def test_a_rewind_needs_validation_entries_before_it_trains(monkeypatch):
    monkeypatch.setattr(scrub, "descend", lambda *_, **__: pytest.fail("trained before the check"))
    table = tiny_table()
    empty = replace(table, split=torch.where(table.split == 1, 2, table.split))
    labels = table.labels.clone()
    labels[table.rows("validation"), 1] = torch.nan
    for bad in (empty, replace(table, labels=labels)):
        with pytest.raises(ValueError, match="is_rewound compares with validation images and tiny has none: set it to"):
            run("SCRUB", bad, "label:label1", is_rewound=True)


def test_small_cnn_is_what_the_lists_above_assume():
    """Convolution, BatchNorm and ReLU three times: trunk.3 and trunk.6 are convolutions."""
    kinds = [type(m).__name__ for m in SmallCNN(2).trunk]
    assert kinds[:9] == ["Conv2d", "BatchNorm2d", "ReLU"] * 3
