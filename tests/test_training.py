"""Training against a bare loop, bit for bit; what the mask hides never reaches the weights."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from conftest import tiny_classes, tiny_model, tiny_table, tiny_task
from torch import nn

from mlu_utils import training
from mlu_utils.data.batches import Augmentation, normalise
from mlu_utils.devices import FP32, Precision
from mlu_utils.models import blocks, build_model, head
from mlu_utils.requests import ForgetRequest
from mlu_utils.training import (
    NonFiniteLossError,
    descend,
    extract_block_features,
    fit,
    linear_rates,
    predict,
    predict_logits,
    right_entries,
    sgd,
)

QUICK = {"num_epochs": 2, "batch_size": 5, "learning_rate": 0.05}


def network(table, *, seed: int = 0) -> nn.Module:
    return build_model("small_cnn", table.num_outputs, seed=seed)


def trained(table, *, seed: int = 0, **options) -> dict[str, torch.Tensor]:
    model = network(table)
    fit(model, table, seed=seed, **{**QUICK, **options})
    return model.state_dict()


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("make_table", [tiny_table, tiny_classes])
def test_fit_is_a_bare_loop(make_table, memory_format):
    table = make_table()
    ours = network(table)
    precision = Precision("fp32", None, memory_format)
    history = fit(
        ours, table, num_epochs=3, batch_size=5, learning_rate=0.05, momentum=0.8, weight_decay=0.01,
        seed=7, precision=precision,
    )  # fmt: skip

    theirs = network(table).to(memory_format=memory_format)
    rows = torch.nonzero(table.split == 0).flatten()
    images = normalise(table.images[rows]).to(memory_format=memory_format)
    labels = table.labels[rows]
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.8, weight_decay=0.01, fused=True)
    generator = torch.Generator().manual_seed(7)
    losses = []
    for _ in range(3):
        theirs.train()
        for chunk in torch.randperm(len(rows), generator=generator).split(5):
            logits = theirs(images[chunk])
            if table.is_multi_label:
                loss = nn.functional.binary_cross_entropy_with_logits(logits, labels[chunk], reduction="none").sum()
                loss = loss / labels[chunk].numel()
            else:
                loss = nn.functional.cross_entropy(logits, labels[chunk, 0], reduction="none").sum() / len(chunk)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert same_bits(ours.state_dict(), theirs.state_dict())
    assert [record["epoch"] for record in history] == [1, 2, 3]
    expected = [sum(losses[i : i + 3]) / 3 for i in (0, 3, 6)]
    assert [record["retain_loss"] for record in history] == pytest.approx(expected, rel=1e-6)
    assert all(record["seconds"] > 0 for record in history)


@pytest.mark.parametrize("of_images", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("of_weights", [torch.contiguous_format, torch.channels_last])
def test_the_fused_step_is_the_plain_one_in_any_memory_layout(of_weights, of_images):
    """Torch's fused SGD pairs weight and gradient by their place in memory."""
    options = {"momentum": 0.8, "weight_decay": 0.01}
    weights = {}
    for name in ("fused", "plain"):
        model = network(tiny_table()).to(memory_format=of_weights).train()
        fused = sgd(model.parameters(), learning_rate=0.05, **options)
        plain = torch.optim.SGD(model.parameters(), lr=0.05, fused=False, foreach=False, **options)
        generator = torch.Generator().manual_seed(1)
        for _ in range(3):
            images = torch.rand(6, 3, 12, 12, generator=generator).to(memory_format=of_images)
            model.zero_grad(set_to_none=True)
            model(images).square().mean().backward()
            (fused if name == "fused" else plain).step()
        weights[name] = model.state_dict()
    for name, value in weights["plain"].items():
        torch.testing.assert_close(weights["fused"][name], value, msg=name)


@pytest.mark.parametrize("augmentation", [None, Augmentation()])
def test_same_seed_same_weights(table, augmentation):
    assert same_bits(trained(table, augmentation=augmentation), trained(table, augmentation=augmentation))
    assert not same_bits(trained(table, augmentation=augmentation), trained(table, seed=1, augmentation=augmentation))


def test_augmentation_reaches_the_weights(table):
    assert not same_bits(trained(table), trained(table, augmentation=Augmentation()))


def test_training_draws_nothing_from_the_global_generator(table):
    state = torch.get_rng_state()
    first = trained(table, augmentation=Augmentation())
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(99)
    assert same_bits(first, trained(table, augmentation=Augmentation()))


def test_fit_learns(table):
    model = network(table)
    rows = table.rows("train")
    history = fit(model, table, num_epochs=40, batch_size=12, learning_rate=0.1, seed=0)
    assert history[-1]["retain_loss"] < 0.3 * history[0]["retain_loss"]
    assert ((predict_logits(model, table, rows) > 0) == (table.labels[rows] > 0)).float().mean() > 0.95


def test_the_linear_schedule_by_hand(table):
    ours, theirs = network(table), network(table).to(memory_format=torch.channels_last)
    fit(ours, table, num_epochs=2, batch_size=12, learning_rate=0.1, momentum=0, seed=0, schedule="linear")
    rows, generator = table.rows("train"), torch.Generator().manual_seed(0)
    theirs.train()
    for rate in (0.1, 0.05):
        batch = rows[torch.randperm(12, generator=generator)]
        logits = theirs(normalise(table.images[batch]).to(memory_format=torch.channels_last))
        loss = nn.functional.binary_cross_entropy_with_logits(logits, table.labels[batch])
        gradients = torch.autograd.grad(loss, list(theirs.parameters()))
        with torch.no_grad():
            for p, g in zip(theirs.parameters(), gradients, strict=True):
                p -= rate * (g + 5e-4 * p)
    for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


# What the mask hides


@pytest.mark.parametrize("text", ["label:label1", "people:1,2", "images:0,4,9", "partial:label0@0,3"])
@pytest.mark.parametrize("augmentation", [None, Augmentation()])
def test_masked_labels_never_reach_the_weights(table, text, augmentation):
    mask = ForgetRequest.parse(text).mask(table)
    flipped = replace(table, labels=torch.where(mask, 1 - table.labels, table.labels))
    ours, theirs = (trained(t, mask=mask, augmentation=augmentation) for t in (table, flipped))
    assert same_bits(ours, theirs)
    assert not same_bits(trained(table), trained(flipped))  # without the mask they matter


@pytest.mark.parametrize(
    ("make_table", "text"),
    [(tiny_table, "people:1,2"), (tiny_table, "images:0,4,9"), (tiny_classes, "class:2")],
)
def test_pixels_of_forgotten_images_never_reach_weights_or_batchnorm(make_table, text):
    table = make_table()
    mask = ForgetRequest.parse(text).mask(table)
    images = table.images.clone()
    images[mask.all(1)] = 255 - images[mask.all(1)]
    changed = replace(table, images=images)
    assert same_bits(trained(table, mask=mask), trained(changed, mask=mask))
    assert not same_bits(trained(table), trained(changed))


def test_retraining_equals_training_on_a_table_without_those_images(table):
    mask = ForgetRequest.parse("people:1,2").mask(table)
    kept = table.rows("train")[~mask[table.rows("train")].all(1)]
    assert same_bits(trained(table, mask=mask), trained(table, rows=kept))


def test_only_the_train_split_is_seen(table):
    images, labels = table.images.clone(), table.labels.clone()
    other = table.split != 0
    images[other], labels[other] = 0, 1 - labels[other]
    assert same_bits(trained(table), trained(replace(table, images=images, labels=labels)))


def test_unknown_labels_count_as_masked(table):
    """An unknown entry trains like a masked one, so the value under the mask is of no account."""
    unknown = torch.rand(table.labels.shape, generator=torch.Generator().manual_seed(0)) < 0.4
    unknown[0] = True
    holes = replace(table, labels=table.labels.masked_fill(unknown, torch.nan))
    weights = trained(holes)
    assert all(value.isfinite().all() for value in weights.values())
    assert same_bits(weights, trained(table, mask=unknown))


# Refusals and failures


def test_bad_arguments(table):
    with pytest.raises(ValueError, match="num_epochs must be finite and at least 1, got 0"):
        trained(table, num_epochs=0)
    with pytest.raises(ValueError, match="unknown schedule 'cosine': choose one of constant, linear"):
        trained(table, schedule="cosine")
    with pytest.raises(ValueError, match="no rows to visit in tiny: the split or request left nothing"):
        trained(table, mask=torch.ones(24, 3, dtype=torch.bool))


def test_a_non_finite_loss_stops_and_keeps_the_last_good_weights(table):
    """One batch an epoch: the first loss is finite, its step is absurd, the second epoch breaks."""
    options = {"batch_size": 12, "learning_rate": 1e20}
    model, seen = network(table), []
    with pytest.raises(
        NonFiniteLossError, match=r"epoch 2: the loss became (nan|inf) .*1e\+20: .*last good weights; try a small"
    ):
        fit(
            model,
            table,
            num_epochs=5,
            seed=0,
            after_epoch=lambda m, _: seen.append(copy.deepcopy(m.state_dict())),
            **options,
        )
    assert len(seen) == 1
    assert same_bits(model.state_dict(), seen[0])
    assert same_bits(seen[0], trained(table, num_epochs=1, **options))
    assert not model.training


def test_a_non_finite_loss_in_the_first_epoch_gives_back_the_initial_weights(table):
    model = network(table)
    with pytest.raises(NonFiniteLossError, match="epoch 1: .*last good weights"):
        fit(model, table, num_epochs=2, batch_size=3, learning_rate=1e20, seed=0)
    assert same_bits(model.state_dict(), network(table).state_dict())


def test_weights_that_overflow_in_the_last_step_are_not_handed_over(table):
    model = network(table)
    try:
        fit(model, table, num_epochs=1, batch_size=12, learning_rate=3e38, seed=0, weight_decay=10)
    except NonFiniteLossError:
        assert same_bits(model.state_dict(), network(table).state_dict())
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_a_last_batch_of_one_image_does_not_crash_a_deep_network(table):
    model = build_model("resnet18", 3, seed=0)
    fit(model, table, rows=table.rows("train")[:5], num_epochs=1, batch_size=4, seed=0)


# The loop


PLAIN = {"learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.0}


def batches_of(text, model) -> list:
    return list(tiny_task(text, model=model).batches(4).retain())


def test_descend_leaves_eval_mode_and_tells_what_was_not_finite(model):
    batches = batches_of("label:label1", model)
    optimizer = sgd(model.parameters(), **PLAIN)
    modes = []

    def objective(batch):
        modes.append((model.bn.training, model.conv1.training))
        return batch.retain_loss(model)

    losses = descend(model, batches, objective, optimizer, frozen=[model.bn])
    assert len(losses) == 3 and modes == [(False, True)] * 3
    assert not any(m.training for m in model.modules()) and all(p.grad is None for p in model.parameters())
    assert descend(model, [], objective, optimizer) == []
    before = copy.deepcopy(model.state_dict())
    optimizer.param_groups[0]["lr"] = math.inf
    message = "the weights were not finite within 1 steps with learning_rate inf: the model is back at its last good"
    with pytest.raises(NonFiniteLossError, match=message):
        descend(model, batches[:1], objective, optimizer)
    assert same_bits(before, model.state_dict()) and not model.training
    with pytest.raises(NonFiniteLossError, match="the loss became nan within 3 steps"):
        descend(model, batches, objective, optimizer)
    assert same_bits(before, model.state_dict()) and not model.training


def test_descend_stops_at_once_only_when_watched(model):
    batches = batches_of("label:label1", model)
    for is_watched, steps in ((True, 2), (False, 3)):
        seen = []
        options = {"is_watched": is_watched, "after_step": lambda loss, seen=seen: seen.append(loss.item())}
        optimizer = sgd(model.parameters(), **PLAIN | {"learning_rate": 1e38})
        with pytest.raises(NonFiniteLossError, match=f"the loss became (nan|inf) within {steps} steps"):
            descend(model, batches, lambda b: b.retain_loss(model), optimizer, **options)
        assert len(seen) == (1 if is_watched else 3)  # no step is taken on a loss that was seen to be broken


def test_descend_takes_each_rate_and_shows_each_loss(model):
    """By hand: plain gradient steps, BatchNorm in eval mode."""
    batches, start = batches_of("label:label1", model), copy.deepcopy(model)
    rates, seen, expected = (0.3, 0.2, 0.1), [], []
    losses = descend(
        model,
        batches,
        lambda batch: batch.retain_loss(model),
        sgd(model.parameters(), **PLAIN),
        batchnorm="eval",
        rates=iter(rates),
        after_step=lambda loss: seen.append((loss.item(), model.fc.weight.detach().clone())),
    )
    for rate, batch, (loss_seen, weight_seen) in zip(rates, batches, seen, strict=True):
        loss = batch.retain_loss(start)
        expected.append(loss.item())
        for p, g in zip(start.parameters(), torch.autograd.grad(loss, list(start.parameters())), strict=True):
            p.data -= rate * g
        assert loss_seen == pytest.approx(loss.item(), rel=1e-5)
        torch.testing.assert_close(weight_seen, start.fc.weight.data)
    assert losses == pytest.approx(expected, rel=1e-5)
    assert torch.equal(model.bn.running_mean, start.bn.running_mean)
    assert list(linear_rates(0.4, 4)) == pytest.approx([0.4, 0.3, 0.2, 0.1])


def test_one_image_and_batchnorm_in_train_mode():
    """A ResNet at 32 px ends in 1 x 1 pixels: one image has no variance there."""
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3 * 8 * 8), nn.Linear(3 * 8 * 8, 3))
    [batch] = tiny_task("images:4", model=model).batches(4).forget()
    optimizer = sgd(model.parameters(), **PLAIN)

    def climb(batch):
        return -batch.logits(model).square().mean()

    with pytest.raises(
        ValueError, match="one image has no variance for BatchNorm in train mode: set batchnorm to eval"
    ):
        descend(model, [batch], climb, optimizer)
    assert len(descend(model, [batch], climb, optimizer, batchnorm="eval")) == 1


# Around the epochs


def test_after_epoch_sees_eval_mode_may_extend_the_record_and_is_not_timed(table, monkeypatch):
    seen, clock = [], [0.0]
    monkeypatch.setattr(training.time, "perf_counter", lambda: clock[0])

    def look(model, record):
        clock[0] += 60
        seen.append((model.training, record["epoch"]))
        record["extra"] = record["epoch"] * 10
        model.train()  # a careless visitor

    model = network(table)
    history = fit(model, table, num_epochs=2, batch_size=12, seed=0, after_epoch=look)
    assert seen == [(False, 1), (False, 2)]
    assert [record["extra"] for record in history] == [10, 20]
    assert [record["seconds"] for record in history] == [0, 0]
    assert not any(module.training for module in model.modules())
    assert same_bits(model.state_dict(), trained(table, num_epochs=2, batch_size=12, learning_rate=0.01))


# Prediction


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("make", [tiny_model, lambda: network(tiny_table())])
def test_logits_are_the_head_of_the_features(table, make, training):
    model = make().train(training)
    before = copy.deepcopy(model.state_dict())
    rows = torch.tensor([5, 3, 3, 20, 0])
    logits = predict_logits(model, table, rows, batch_size=2)
    features = predict(model, table, rows, batch_size=3)[1]
    assert logits.dtype == features.dtype == torch.float32
    assert logits.shape == (5, 3) and features.shape == (5, head(model).in_features)
    torch.testing.assert_close(
        nn.functional.linear(features, model.fc.weight, model.fc.bias), logits, rtol=1e-5, atol=1e-5
    )
    with torch.no_grad():
        expected = copy.deepcopy(model).eval()(normalise(table.images[rows]))
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(logits[1], logits[2]) and not torch.equal(logits[0], logits[1])
    assert model.training is training and same_bits(before, model.state_dict())
    assert not head(model)._forward_pre_hooks and not logits.requires_grad


@pytest.mark.parametrize("architecture", ["small_cnn", "resnet18"])
def test_block_features_are_the_averages_of_a_pass_by_hand(table, architecture):
    model = build_model(architecture, 3, seed=0).train()
    before = copy.deepcopy(model.state_dict())
    rows = torch.tensor([7, 0, 12, 3])
    got = extract_block_features(model, table, rows, batch_size=3)
    assert list(got) == list(blocks(model)) and len(got) == {"small_cnn": 3, "resnet18": 8}[architecture]
    reference = copy.deepcopy(model).eval()
    with torch.no_grad():
        x = normalise(table.images[rows])
        if architecture == "small_cnn":
            layers = reference.trunk
        else:
            stem = [reference.conv1, reference.bn1, reference.relu, reference.maxpool]
            layers = [*stem, *reference.layer1, *reference.layer2, *reference.layer3, *reference.layer4]
        for layer in layers:
            x = layer(x)
            name = next((name for name, block in blocks(reference).items() if block is layer), None)
            if name:
                torch.testing.assert_close(got[name], x.mean((2, 3)), rtol=1e-4, atol=1e-5)
    last = list(got.values())[-1]
    torch.testing.assert_close(last, predict(model, table, rows)[1], rtol=1e-4, atol=1e-5)  # the penultimate features
    assert model.training and same_bits(before, model.state_dict())
    assert not any(block._forward_hooks for block in blocks(model).values())


def test_block_features_refuse_networks_without_distinct_blocks(table):
    with pytest.raises(ValueError, match="block relu ran 2 times"):
        extract_block_features(tiny_model(), table, torch.arange(3))
    linear = nn.Sequential()
    linear.fc = nn.Linear(3, 3)
    with pytest.raises(ValueError, match="neither residual blocks nor ReLU"):
        extract_block_features(linear, table, torch.arange(3))


@pytest.mark.parametrize("make_table", [tiny_table, tiny_classes])
def test_right_entries_one_by_one(make_table):
    table = make_table()
    if table.is_multi_label:
        labels = table.labels.clone()
        labels[::3, 1] = torch.nan
        table = replace(table, labels=labels)
    rows = table.rows("train")
    chosen = torch.rand(len(rows), table.num_labels, generator=torch.Generator().manual_seed(0)) < 0.7
    model = tiny_model(table.num_outputs, seed=4)
    expected = []
    for i, row in enumerate(rows.tolist()):
        logits = predict_logits(model, table, torch.tensor([row]))[0].tolist()
        for k, value in enumerate(table.labels[row].tolist()):
            if chosen[i, k] and value == value:
                winner = logits[k] > 0 if table.is_multi_label else max(range(len(logits)), key=logits.__getitem__)
                expected.append(winner == value)
    assert right_entries(model, table, rows, chosen).tolist() == expected
    assert {True, False} == set(expected), "one answer only: a constant would pass"


def test_prediction_needs_rows(table):
    with pytest.raises(ValueError, match="no rows to visit"):
        predict_logits(tiny_model(), table, table.rows("unseen"))


def test_bf16_prediction_is_close_and_float32(table):
    bf16 = replace(FP32, name="bf16", autocast_dtype=torch.bfloat16)
    rows = torch.arange(24)
    exact, rough = (predict_logits(tiny_model(), table, rows, precision=p) for p in (FP32, bf16))
    assert rough.dtype == torch.float32 and not torch.equal(exact, rough)
    torch.testing.assert_close(exact, rough, rtol=0.05, atol=0.05)
