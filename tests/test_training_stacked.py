"""Stacked training against separate trainings, model by model."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import tiny_classes, tiny_table

from mlu_utils.attacks.stacked import fit_stacked, random_halves
from mlu_utils.data.batches import Augmentation
from mlu_utils.models import build_model, head
from mlu_utils.requests import ForgetRequest
from mlu_utils.training import NonFiniteLossError, fit

OPTIONS = {"num_epochs": 3, "batch_size": 4, "learning_rate": 0.05, "momentum": 0.8, "weight_decay": 0.01}


def shadows(table, num_models=4, num_rows=None):
    rows = table.rows("train") if num_rows is None else table.rows("train")[:num_rows]
    models = [build_model("small_cnn", table.num_outputs, seed=s) for s in range(num_models)]
    return models, random_halves(rows, num_models, num_images=table.num_images, seed=0)


def assert_close(model, other):
    for (name, a), b in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("augmentation", [None, Augmentation()])
@pytest.mark.parametrize("schedule", ["constant", "linear"])
@pytest.mark.parametrize("make_table", [tiny_table, tiny_classes])
def test_stacked_training_equals_separate_trainings(make_table, schedule, augmentation):
    table = make_table(num_images=56)  # 28 train rows, 14 a model: batches of 4, 4, 4 and 2
    models, masks = shadows(table)
    separate = copy.deepcopy(models)
    options = {**OPTIONS, "schedule": schedule, "augmentation": augmentation}
    history = fit_stacked(models, table, masks, seeds=[7, 8, 9, 10], **options)
    for s, model in enumerate(separate):
        records = fit(model, table, rows=masks[s].nonzero().flatten(), seed=7 + s, **options)
        assert_close(models[s], model)
        assert [r["retain_loss"][s] for r in history] == pytest.approx([r["retain_loss"] for r in records], rel=1e-4)
    assert not any(model.training for model in models)
    with pytest.raises(AssertionError):
        assert_close(models[0], models[1])


def test_masked_entries_reach_no_model():
    table = tiny_table(num_images=32)
    request = ForgetRequest("label", "label1")
    models, masks = shadows(table)
    separate, other = copy.deepcopy(models), copy.deepcopy(models)
    fit_stacked(models, table, masks, mask=request.mask(table), seeds=range(4), **OPTIONS)
    for s, model in enumerate(separate):
        fit(model, table, rows=masks[s].nonzero().flatten(), mask=request.mask(table), seed=s, **OPTIONS)
        assert_close(models[s], model)
    fit_stacked(other, table, masks, seeds=range(4), **OPTIONS)
    with pytest.raises(AssertionError):
        assert_close(other[0], models[0])


def test_halves_are_balanced_and_complementary():
    rows = torch.arange(3, 20)  # 17 rows: each pair leaves one out
    masks = random_halves(rows, 6, num_images=25, seed=1)
    assert masks.shape == (6, 25) and (masks.sum(1) == 8).all()
    assert not masks[:, :3].any() and not masks[:, 20:].any()
    for pair in range(0, 6, 2):
        assert not (masks[pair] & masks[pair + 1]).any()
    assert not torch.equal(masks[0], masks[2])
    assert torch.equal(masks, random_halves(rows, 6, num_images=25, seed=1))


def test_a_diverging_model_stops_all_with_the_last_good_weights(table):
    models, masks = shadows(table, 2)
    start = copy.deepcopy(models)
    with pytest.raises(NonFiniteLossError, match="epoch 1 of models 0, 1: the loss became nan"):
        fit_stacked(models, table, masks, seeds=[0, 1], **{**OPTIONS, "learning_rate": 1e30})
    assert_close(models[0], start[0])
    assert_close(models[1], start[1])
    head(models[1]).bias.data[0] = torch.nan
    with pytest.raises(NonFiniteLossError, match="epoch 1 of models 1: the loss became nan"):
        fit_stacked(models, table, masks, seeds=[0, 1], **OPTIONS)
    assert_close(models[0], start[0])
    assert not any(model.training for model in models)


def test_bad_input_is_refused(table):
    models, masks = shadows(table)
    with pytest.raises(ValueError, match="num_models must be even"):
        random_halves(torch.arange(4), 3, num_images=4, seed=0)
    with pytest.raises(ValueError, match="1 rows cannot be halved"):
        random_halves(torch.arange(1), 2, num_images=4, seed=0)
    with pytest.raises(ValueError, match="4 models, .* and 3 seeds"):
        fit_stacked(models, table, masks, seeds=[0, 1, 2], **OPTIONS)
    unequal = masks.clone()
    unequal[0, :] = False
    unequal[0, table.rows("train")[0]] = True
    with pytest.raises(ValueError, match=r"would learn from \[1, 6\] rows"):
        fit_stacked(models, table, unequal, seeds=range(4), **OPTIONS)
    with pytest.raises(ValueError, match="differ in architecture"):
        fit_stacked([*models[:3], build_model("small_cnn", 5, seed=0)], table, masks, seeds=range(4), **OPTIONS)
    with pytest.raises(ValueError, match="unknown schedule"):
        fit_stacked(models, table, masks, seeds=range(4), **{**OPTIONS, "schedule": "cosine"})
