"""Shadows: who learned what, against plain counting; training and forgetting against doing it by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from conftest import tiny_classes, tiny_table
from hypothesis import given, settings
from hypothesis import strategies as st

from mlu_utils.attacks.shadows import (
    NULL,
    confidences,
    shadow_attacks,
    shares_right,
    train_shadows,
    unlearn_shadows,
)
from mlu_utils.models import build_model
from mlu_utils.requests import ForgetRequest
from mlu_utils.scoring.membership import attack_shadows, class_confidence, label_confidence, null_on_shuffles
from mlu_utils.studies import Recipe
from mlu_utils.training import fit, predict_logits
from mlu_utils.unlearning import unlearn

RECIPE = Recipe(num_epochs=1, batch_size=8, learning_rate=0.05, is_augmented=False)
PEOPLE = {"kind": "people", "num_units": 4, "images_per_person": 2}
IMAGES = {"kind": "images", "num_units": 8}


def people_table(seed=0):
    """A table of ten people with three to six images each, at least two in train; unknown people and labels."""
    rng = np.random.default_rng(seed)
    sizes = [6, 5, 4, 3, 6, 6, 4, 3, 5, 6]
    identity = np.repeat(np.arange(10) * 3 + 2, sizes)  # numbers with gaps
    split = rng.choice(np.array([0, 0, 0, 1, 2, 3], dtype=np.int8), 48)
    split[np.concatenate([np.flatnonzero(identity == person)[:2] for person in np.unique(identity)])] = 0
    identity[np.isin(identity, rng.choice(identity, 3))] = -1
    table = tiny_table(num_images=48)
    labels = table.labels.clone()
    labels[:, 1:][torch.from_numpy(rng.random((48, 2)) < 0.3)] = torch.nan
    order = rng.permutation(48)
    return dataclasses.replace(
        table, identity=torch.from_numpy(identity[order]), labels=labels, split=torch.from_numpy(split[order])
    )


def assert_same(model, other):
    for (name, a), b in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([PEOPLE, IMAGES]))
def test_who_learns_what(seed, targets):
    table = people_table(seed=seed)
    shadows = train_shadows(table, "small_cnn", num_shadows=4, recipe=RECIPE, seed=seed, **targets)
    is_train = table.split == 0
    name = torch.arange(48) if targets["kind"] == "images" else table.identity
    per_unit = targets.get("images_per_person", 1)
    assert len(shadows.models) == 4 and len(shadows.units) == targets["num_units"] == len(set(shadows.units.tolist()))
    assert (shadows.units >= 0).all()
    # Equal numbers of rows, of the train split only; complementary halves of the targets.
    assert len(set(shadows.learned_rows.sum(1).tolist())) == 1 and not (shadows.learned_rows & ~is_train).any()
    assert (shadows.is_member.sum(1) == targets["num_units"] // 2).all()
    assert (shadows.is_member[::2] != shadows.is_member[1::2]).all()
    learned = shadows.learned_rows.numpy()
    for u, unit in enumerate(shadows.units.tolist()):
        own, others = (
            shadows.target_rows[torch.from_numpy(shadows.target_units == u)],
            shadows.other_rows[torch.from_numpy(shadows.other_units == u)],
        )
        assert sorted([*own.tolist(), *others.tolist()]) == (name == unit).nonzero().flatten().tolist()
        assert len(own) == per_unit and not learned[:, others].any()
        for s in range(4):
            assert (learned[s, own] == shadows.is_member[s, u]).all()
    assert learned[:, (is_train & ~torch.isin(name, shadows.units)).numpy()].all()


@pytest.mark.parametrize("targets", [PEOPLE, IMAGES], ids=["people", "images"])
def test_a_shadow_forgets_what_it_learned_and_never_saw_the_rest(targets):
    table = people_table()
    shadows = train_shadows(table, "small_cnn", num_shadows=4, recipe=RECIPE, seed=1, **targets)
    for s in range(4):
        own = shadows.table_of(s)
        assert own.rows("train").tolist() == shadows.learned_rows[s].nonzero().flatten().tolist()
        for split in ("validation", "test"):
            assert torch.equal(own.rows(split), table.rows(split))
        forgotten = shadows.request(s).mask(own)[own.rows("train")].all(1)
        expected = shadows.target_rows[torch.from_numpy(shadows.is_member[s][shadows.target_units])]
        assert own.rows("train")[forgotten].tolist() == expected.tolist()
        assert shadows.request(s).kind == targets["kind"]
    assert torch.equal(table.split, people_table().split)


def test_shadows_train_and_forget_as_one_by_one():
    table = people_table()
    shadows = train_shadows(table, "small_cnn", num_shadows=4, recipe=RECIPE, seed=5, **PEOPLE)
    retrain = {"num_epochs": 2, "batch_size": 8, "learning_rate": 0.05}
    before = [{k: v.clone() for k, v in model.state_dict().items()} for model in shadows.models]
    retrained, tuned = (
        unlearn_shadows(shadows, method, values) for method, values in (("Retrain", retrain), ("FT", {"num_epochs": 1}))
    )
    everyone = shadows.learned_rows.all(0).nonzero().flatten()  # what no request touches
    for s, model in enumerate(shadows.models):
        assert all(torch.equal(before[s][k], v) for k, v in model.state_dict().items())
        alone = build_model("small_cnn", table.num_outputs, seed=5 + s)
        fit(alone, table, rows=shadows.learned_rows[s].nonzero().flatten(), seed=5 + s, **RECIPE.fit_options())
        assert_same(model, alone)
        again = build_model("small_cnn", table.num_outputs, seed=5 + s)
        fit(again, table, rows=everyone, seed=5 + s, **retrain)
        assert_same(retrained[s], again)
        members = tuple(shadows.units[torch.from_numpy(shadows.is_member[s])].tolist())
        request = ForgetRequest("people", ids=members)
        assert_same(tuned[s], unlearn("FT", model, shadows.table_of(s), request, seed=5 + s, num_epochs=1)[0])
    with pytest.raises(AssertionError):
        assert_same(retrained[0], shadows.models[0])
    again = train_shadows(table, "small_cnn", num_shadows=4, recipe=RECIPE, seed=5, **PEOPLE)
    assert torch.equal(again.learned_rows, shadows.learned_rows)
    assert all(
        torch.equal(a, b)
        for m, n in zip(again.models, shadows.models, strict=True)
        for a, b in zip(m.state_dict().values(), n.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("table", [people_table(), tiny_classes()], ids=["labels", "classes"])
def test_outputs_are_those_of_each_shadow(table):
    models = [build_model("small_cnn", table.num_outputs, seed=s).eval() for s in range(3)]
    rows = torch.randperm(24)
    phi, right = confidences(models, table, rows), shares_right(models, table, rows)
    for s, model in enumerate(models):
        logits, labels = predict_logits(model, table, rows).numpy(), table.labels[rows].numpy()
        for i in range(24):
            if table.is_multi_label:
                np.testing.assert_array_equal(phi[s, i], label_confidence(logits, labels)[i])
                hits = [(logits[i, k] > 0) == labels[i, k] for k in range(3) if not np.isnan(labels[i, k])]
                assert right[s, i] == pytest.approx(np.mean(hits))
            else:
                assert phi[s, i] == class_confidence(logits, labels[:, 0])[i]
                assert right[s, i] == (logits[i].argmax() == labels[i, 0])


def test_an_attack_finds_people_that_were_learned_by_heart():
    # Labels are coin flips and a person's images share them: known people are known on other photos, too.
    rng = np.random.default_rng(0)
    table = tiny_table(num_images=160)
    person = np.arange(160) // 10
    pixels = rng.integers(0, 256, (16, 3, 8, 8))[person] * 0.8 + rng.integers(0, 50, (160, 3, 8, 8))
    table = dataclasses.replace(
        table,
        images=torch.from_numpy(pixels.astype(np.uint8)),
        labels=torch.from_numpy(rng.integers(0, 2, (16, 3))[person]).float(),
        identity=torch.from_numpy(person),
    )
    recipe = Recipe(num_epochs=15, batch_size=16, learning_rate=0.1, is_augmented=False)
    targets = {"kind": "people", "num_units": 12, "images_per_person": 4}
    shadows = train_shadows(table, "small_cnn", num_shadows=8, recipe=recipe, seed=0, **targets)
    for rows, units in ((shadows.target_rows, shadows.target_units), (shadows.other_rows, shadows.other_units)):
        phi = confidences(shadows.models, table, rows)
        strong, weak = attack_shadows(phi, shadows.is_member, units, seed=0, num_resamples=50)
        assert strong["auc_low"] > 0.8 and weak["auc_low"] > 0.6
    retrained = unlearn_shadows(shadows, "Retrain", {"num_epochs": 2, "learning_rate": 0.1})
    phi = confidences(retrained, table, shadows.target_rows)
    strong, _ = attack_shadows(phi, shadows.is_member, shadows.target_units, seed=0, num_resamples=50)
    assert strong["auc_low"] < 0.5 < strong["auc_high"]


def test_shadow_attacks_lists_both_attacks_of_every_model_and_the_null():
    rng = np.random.default_rng(0)
    half = rng.random((4, 10)) < 0.5
    is_member = np.stack([half, ~half], axis=1).reshape(8, 10)
    phi = {name: rng.normal(size=(8, 10)) + shift * is_member for name, shift in {"Original": 5, "FT": 0}.items()}
    options = {"seed": 3, "num_resamples": 20}
    found = shadow_attacks(phi, is_member, np.arange(10), **options)
    assert found.model.tolist() == ["Original", "Original", "FT", "FT", NULL, NULL]
    for model, own in phi.items():
        expected = attack_shadows(own, is_member, np.arange(10), **options)
        assert found[found.model == model].drop(columns="model").dropna(axis=1).to_dict("records") == expected
    null = null_on_shuffles(phi["Original"], is_member, np.arange(10), seed=3)
    assert found[found.model == NULL].drop(columns="model").dropna(axis=1).to_dict("records") == null
    assert found.auc[0] > 0.95 and abs(found.auc[4] - 0.5) < 0.1


def test_bad_targets_are_refused():
    table = people_table()
    options = {"num_shadows": 4, "recipe": RECIPE, "seed": 0}
    for targets, message in (
        ({"kind": "labels", "num_units": 4}, "unknown kind of target 'labels'"),
        ({"kind": "people", "num_units": 4}, "images_per_person=None for people"),
        ({**IMAGES, "images_per_person": 2}, "images_per_person=2 for images"),
        ({**PEOPLE, "num_units": 3}, "num_units must be even and at least 2, got 3"),
        ({**PEOPLE, "images_per_person": 9}, "has 0 people with at least 9 training images"),
        ({**IMAGES, "num_units": 60}, "60 targets asked for, but tiny has"),
        ({**PEOPLE, "num_shadows": 3}, "num_models must be even"),
    ):
        with pytest.raises(ValueError, match=message):
            train_shadows(table, "small_cnn", **{**options, **targets})
    known = dataclasses.replace(table, identity=torch.arange(48) // 12, split=torch.zeros(48, dtype=torch.int8))
    with pytest.raises(ValueError, match="4 people are all of the train split"):
        train_shadows(known, "small_cnn", **options, **PEOPLE)
