"""Relearning curves: what is still known comes back first, the given model stays as it was, ends are reported."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from conftest import tiny_classes, tiny_model, tiny_table

from mlu_utils.attacks.relearning import relearn, relearning_curves
from mlu_utils.devices import BF16, FP32
from mlu_utils.models import build_model, head
from mlu_utils.requests import ForgetRequest, forget_loss
from mlu_utils.scoring.learning_curves import anamnesis_index, relearning_table, steps_to_reach
from mlu_utils.scoring.utility import balanced_accuracy
from mlu_utils.training import NonFiniteLossError, fit, predict, predict_logits
from mlu_utils.unlearning import unlearn

LABEL = ForgetRequest("label", "label1")


# Numbers from curves


def test_steps_to_reach_finds_the_first_crossing_even_if_the_curve_falls_again():
    assert steps_to_reach([0, 5, 10, 15], [0.5, 0.9, 0.4, 1.0], 0.9) == (5, False)
    assert steps_to_reach([0, 5], [0.5, 0.6], 0.5) == (0, False)
    assert steps_to_reach([0, 5], [0.5, 0.6], 0.61) == (5, True)
    for steps, values, match in (
        ([1, 2], [0.5, 0.5], "start at 0 and rise"),
        ([0, 0], [0.5, 0.5], "start at 0 and rise"),
        ([0, 1], [0.5, math.nan], "1 of 2 values are nan"),
        ([0], [0.5, 0.5], r"steps \(1,\) and values \(2,\): expected \(T,\)"),
    ):
        with pytest.raises(ValueError, match=match):
            steps_to_reach(steps, values, 0.9)
    with pytest.raises(ValueError, match="target nan"):
        steps_to_reach([0], [0.5], math.nan)


@pytest.mark.parametrize(
    ("steps", "reference", "censored", "reference_censored", "ratio", "kind"),
    [
        (10, 20, False, False, 0.5, "exact"),
        (50, 20, True, False, 2.5, "at least"),
        (10, 50, False, True, 0.2, "at most"),
        (50, 50, True, True, math.nan, "unknown"),
        (0, 0, False, False, math.nan, "unknown"),
        (3, 0, False, False, math.inf, "exact"),
        (0, 3, False, False, 0.0, "exact"),
    ],
)
def test_anamnesis_index_says_what_a_censored_curve_still_tells(
    steps, reference, censored, reference_censored, ratio, kind
):
    got = anamnesis_index(steps, reference, is_censored=censored, reference_is_censored=reference_censored)
    assert got == (pytest.approx(ratio, nan_ok=True), kind)


def test_table_compares_with_the_reference_up_to_the_shortest_curve():
    table = relearning_table(
        {"WP": ([0, 1, 2], [0.5, 0.9, 0.9]), "Retrain": ([0, 2, 4], [0.5, 0.7, 0.9])}, target=0.9
    ).set_index("method")
    assert (table.loc["WP", "steps"], table.loc["Retrain", "steps"]) == (1, 4)
    assert table.loc["WP", "anamnesis_index"] == 0.25 and table.loc["WP", "index_is"] == "exact"
    assert table.loc["WP", "mean_value"] == pytest.approx((0.7 + 0.9) / 2)
    assert table.loc["Retrain", "mean_value"] == pytest.approx(0.6)
    assert table.loc["WP", "mean_value_gap"] == pytest.approx(0.2)
    with pytest.raises(ValueError, match="unknown reference 'Retrain': choose one of WP"):
        relearning_table({"WP": ([0], [0.5])}, target=0.9)
    with pytest.raises(ValueError, match="expected at least 0"):
        anamnesis_index(-1, 2)


# Curves from models


def options(table, **changes):
    rows = {"fit_rows": table.rows("train"), "eval_rows": table.rows("test")}
    return {**rows, "num_steps": 5, "learning_rate": 0.01, "batch_size": 4, "seed": 0, **changes}


@pytest.mark.parametrize("scope", ["head", "network"])
@pytest.mark.parametrize("make_table", [tiny_table, tiny_classes])
def test_the_given_model_stays_as_it_was_and_the_same_seed_gives_the_same_curve(scope, make_table):
    table = make_table(num_images=40)
    request = LABEL if table.is_multi_label else ForgetRequest("class", "1")
    model = tiny_model(table.num_outputs).train()
    before = copy.deepcopy(model.state_dict())
    curve = relearn(model, table, request, scope=scope, **options(table))
    again = relearn(model, table, request, scope=scope, **options(table))
    assert [r["step"] for r in curve] == [0, 1, 2, 3, 4, 5]
    assert math.isnan(curve[0].pop("loss")) and math.isnan(again[0].pop("loss")) and curve == again
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training and all(p.grad is None for p in model.parameters())
    if table.is_multi_label:
        logits = predict_logits(model, table, table.rows("test"))[:, 1].numpy()
        expected = balanced_accuracy(logits, table.labels[table.rows("test"), 1].numpy())
        assert curve[0]["balanced_accuracy"] == expected


def test_head_relearning_equals_adam_on_the_features_by_hand():
    table, model = tiny_table(), tiny_model()
    rows = table.rows("train")
    curve = relearn(model, table, LABEL, scope="head", **options(table, batch_size=100, num_steps=3))
    layer = copy.deepcopy(head(model))
    features = predict(model, table, rows)[1]
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    losses = []
    for _ in range(3):
        logits = layer(features)[:, 1]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, table.labels[rows, 1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert [r["loss"] for r in curve[1:]] == pytest.approx(losses, rel=1e-5)


def test_network_relearning_descends_on_the_label_alone():
    table, model = tiny_table(), tiny_model()
    mask = LABEL.mask(table)
    rows = table.rows("train")
    loss = forget_loss(predict_logits(model, table, rows), table.labels[rows], mask[rows])
    curve = relearn(model, table, LABEL, scope="network", **options(table, batch_size=100, num_steps=40))
    assert curve[1]["loss"] == pytest.approx(float(loss), rel=1e-5)
    assert curve[-1]["loss"] < 0.8 * curve[1]["loss"]


def test_bf16_changes_the_network_curve_by_rounding_only_and_the_head_curve_not_at_all():
    table, model = tiny_table(), tiny_model()
    for scope, tolerance in (("head", 0.0), ("network", 0.02)):
        exact, rounded = (
            [r["loss"] for r in relearn(model, table, LABEL, scope=scope, precision=precision, **options(table))][1:]
            for precision in (FP32, BF16)
        )
        assert rounded == pytest.approx(exact, abs=tolerance)
        assert (rounded == exact) == (scope == "head")


def test_a_silenced_head_comes_back_faster_than_a_model_that_never_saw_the_label():
    table = tiny_table(num_images=240, size=12, num_labels=3)
    original = build_model("small_cnn", 3, seed=0)
    never = build_model("small_cnn", 3, seed=0)
    recipe = {"num_epochs": 25, "batch_size": 16, "learning_rate": 0.05, "seed": 0}
    fit(original, table, **recipe)
    fit(never, table, mask=LABEL.mask(table), **recipe)
    silenced, _ = unlearn("HeadReset", original, table, LABEL, seed=0)
    models = {"HeadReset": silenced, "Retrain": never, "Original": original}
    how = options(table, num_steps=60, batch_size=64, evaluate_every=3)
    curves = relearning_curves(models, table, LABEL, scope="head", **how)
    alone = relearn(silenced, table, LABEL, scope="head", **how)
    assert curves["HeadReset"] == ([r["step"] for r in alone], [r["balanced_accuracy"] for r in alone])
    start = {name: values[0] for name, (_, values) in curves.items()}
    assert start["HeadReset"] == 0.5 and start["Original"] > 0.9
    table = relearning_table(curves, target=0.95 * start["Original"]).set_index("method")
    assert table.loc["Original", "steps"] == 0
    assert table.loc["HeadReset", "mean_value_gap"] > 0.05
    assert table.loc["HeadReset", "anamnesis_index"] < 0.7


def test_evaluation_keeps_its_ends():
    table, model = tiny_table(), tiny_model()
    curve = relearn(model, table, LABEL, scope="head", **options(table, num_steps=7, evaluate_every=3))
    assert [r["step"] for r in curve] == [0, 3, 6, 7]


def test_bad_input_is_refused(table, model):
    with pytest.raises(ValueError, match="unknown scope 'tail'"):
        relearn(model, table, LABEL, scope="tail", **options(table))
    with pytest.raises(ValueError, match="no form for people requests"):
        relearn(model, table, ForgetRequest("people", ids=(1,)), scope="head", **options(table))
    with pytest.raises(ValueError, match="num_steps must be finite and at least 1, got 0"):
        relearn(model, table, LABEL, scope="head", **options(table, num_steps=0))
    with pytest.raises(NonFiniteLossError, match="the loss became"), np.errstate(all="ignore"):
        relearn(model, table, LABEL, scope="network", **options(table, learning_rate=1e30, evaluate_every=5))
