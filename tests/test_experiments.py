"""One experiment from the command line, hyperparameters and their search, ordered classes: small and in seconds."""

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

from mlu_utils import cli, data, experiments, models, notebook_runs, paths, references, shadows, studies, tuning
from mlu_utils.data import synthages
from mlu_utils.references import Recipe, Study
from mlu_utils.training import predict_logits
from mlu_utils.unlearning import METHODS

DIGITS = ["--dataset", "digits", "--label", "3", "--profile", "smoke", "--epochs", "1", "--reuse"]
SCORES = {"retained_accuracy", "forget_recall", "forget_auc", "forget_balanced_accuracy", "probe_auc"}


@pytest.fixture(scope="module", autouse=True)
def runs(tmp_path_factory):
    """Checkpoints of this file go to a folder of its own, one for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "RUNS", tmp_path_factory.mktemp("runs"))
        yield


def experiment(*arguments, target=None):
    more = ["--json", str(target)] if target else []
    status = cli.main(["experiment", *arguments, *more])
    return (status, json.loads(target.read_text())) if target and target.exists() else (status, None)


# The command


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if "class" in method.kinds])
def test_an_experiment_writes_what_it_promises(method, tmp_path, capsys):
    status, result = experiment("--method", method, *DIGITS, target=tmp_path / "result.json")
    assert status == 0
    keys = {"method", "reading", "dataset", "model", "request", "seed", "device", "speedup", "seconds", "scores"}
    assert keys <= set(result) and result["method"] == method and result["request"] == "class:3"
    assert result["model"] == "small_cnn" and {"retrain", "unlearn"} <= set(result["seconds"])
    assert set(result["scores"]) == SCORES
    for values in result["scores"].values():
        assert set(values) == {"original", "retrain", "unlearned"}
        assert all(value is None or 0 <= value <= 1 for value in values.values())
    assert result["speedup"] == pytest.approx(result["seconds"]["retrain"] / result["seconds"]["unlearn"])
    assert "retained_accuracy" in capsys.readouterr().out
    assert not list(tmp_path.glob(".*"))


def test_an_experiment_hands_over_the_unlearned_model(tmp_path):
    file = tmp_path / "unlearned.safetensors"
    _, result = experiment("--method", "WP", *DIGITS, "--save", str(file), target=tmp_path / "result.json")
    model, facts = models.load_checkpoint(file, architecture="small_cnn")
    assert facts["request"] == "class:3" and facts["outputs"] == [str(digit) for digit in range(10)]
    table = data.load("digits")
    rows = table.rows("test")
    of_three = table.labels[rows, 0] == 3
    right = predict_logits(model, table, rows).argmax(1) == table.labels[rows, 0]
    assert float(right[of_three].float().mean()) == pytest.approx(result["scores"]["forget_recall"]["unlearned"])
    assert float(right[~of_three].float().mean()) == pytest.approx(result["scores"]["retained_accuracy"]["unlearned"])


def test_every_method_takes_a_class():
    assert sum("class" in method.kinds for method in METHODS.values()) == len(METHODS) == 13


def test_the_same_command_gives_the_same_scores_to_the_last_digit(tmp_path):
    results = [experiment("--method", "SCRUB", *DIGITS, target=tmp_path / f"{i}.json")[1] for i in (1, 2)]
    assert results[0]["scores"] == results[1]["scores"]


def test_all_methods_make_one_table(tmp_path, capsys):
    status, results = experiment("--method", "all", *DIGITS, target=tmp_path / "all.json")
    assert status == 0 and [r["method"] for r in results] == [n for n, m in METHODS.items() if "class" in m.kinds]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 2 + len(results) - 1  # header; Original and Retrain; Retrain is no second row
    assert all(any(line.startswith(r["method"]) for line in lines) for r in results)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "SCRUBB", *DIGITS], "did you mean 'SCRUB'?"),
        (["--method", "WP", *DIGITS, "--reading", "targetted"], "unknown reading 'targetted' of WP: choose one of"),
        (["--method", "WP", "--dataset", "digits", "--label", "11", "--profile", "smoke"], "unknown class '11'"),
        (["--method", "WP", "--dataset", "digitz", "--label", "3"], "did you mean 'digits'?"),
        (["--method", "WP", *DIGITS, "--json", "/nowhere/at/all.json"], "does not exist; create it"),
        (["--method", "WP", *DIGITS, "--save", "/nowhere/at/all.safetensors"], "does not exist; create it"),
        (["--method", "all", *DIGITS, "--save", "one.safetensors"], "--method all makes several models; name one"),
        (["--method", "WP", *DIGITS, "--model", "resnet"], "unknown model 'resnet'"),
        (
            ["--method", "HeadReset", "--dataset", "digits", "--request", "images:1,2", "--profile", "smoke"],
            "HeadReset has no form for images requests: it takes label, class",
        ),
    ],
)
def test_bad_input_is_refused_before_any_training(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(references, "fit", lambda *_, **__: pytest.fail("training began"))
    arguments = [a for a in arguments if a != "--reuse"]
    assert cli.main(["experiment", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("num_epochs", "measured"), [(1, [1]), (5, [5]), (7, [5, 7])])
def test_validation_accuracy_of_each_fifth_epoch_and_of_the_last(num_epochs, measured):
    recipe = Recipe(num_epochs=num_epochs, is_augmented=False)
    study = Study("gaps", "s", "digits", "small_cnn", "class:3", 3, recipe)
    trained = references.reference_model(study, "original")
    known = trained.history.dropna()
    assert len(trained.history) == num_epochs and known.epoch.tolist() == measured
    rows = study.table.rows("validation")
    right = predict_logits(trained.model, study.table, rows).argmax(1) == study.table.labels[rows, 0]
    assert known.validation_accuracy.iloc[-1] == pytest.approx(float(right.float().mean()))
    again = references.reference_model(study, "original")  # gaps survive the checkpoint
    assert again.is_from_disk
    pd.testing.assert_frame_equal(again.history, trained.history)


def test_the_original_does_not_depend_on_the_request():
    histories = []
    for request in ("class:3", "class:5"):
        study = Study("shared", "s", "digits", "small_cnn", request, 3, Recipe(num_epochs=1, is_augmented=False))
        histories.append(references.reference_model(study, "original", is_reused=False).history)
    columns = ["retain_loss", "validation_accuracy"]
    pd.testing.assert_frame_equal(histories[0][columns], histories[1][columns])


# Unlearned models that stay on disk


def test_an_unlearned_model_is_made_once(monkeypatch):
    study = Study("kept", "s", "digits", "small_cnn", "class:3", 3, Recipe(num_epochs=1, is_augmented=False))
    how = ("WP", "targeted", {"forget_share": 0.01}, 7)
    made = experiments.unlearned_model(study, *how)
    original = references.reference_model(study, "original").model
    direct = experiments.run_method(study, original, *how, is_timed=False)
    with monkeypatch.context() as patch:
        patch.setattr(experiments, "run_method", lambda *_, **__: pytest.fail("made again"))
        again = experiments.unlearned_model(study, *how)
        for other in (
            ("WP", "printed", {"forget_share": 0.01}, 7),
            ("WP", "targeted", {"forget_share": 0.02}, 7),
            ("WP", "targeted", {"forget_share": 0.01}, 8),
            ("WF", "targeted", {"forget_share": 0.01}, 7),
        ):
            with pytest.raises(pytest.fail.Exception):
                experiments.unlearned_model(study, *other)
        with pytest.raises(pytest.fail.Exception):
            experiments.unlearned_model(dataclasses.replace(study, request="class:5"), *how)
        with pytest.raises(pytest.fail.Exception):
            experiments.unlearned_model(study, *how, is_reused=False)
    for (name, kept), value in zip(again.model.state_dict().items(), direct.model.state_dict().values(), strict=True):
        assert torch.equal(kept, value), name
    assert (again.unlearning_time_s, again.reading) == (made.unlearning_time_s, "targeted")


# Hyperparameters


@pytest.mark.parametrize("kind", tuning.KINDS)
@pytest.mark.parametrize("method", tuning.SPACES)
def test_chosen_is_the_quickest_of_the_best_trials_and_inside_the_space(method, kind):
    trials = tuning.read_trials(kind).query("method == @method")
    values = tuning.chosen(method, kind)
    own = trials[trials.hyperparameters == json.dumps(values)].iloc[0]
    best = trials.loc[trials.objective.idxmax()]
    assert own.objective >= best.objective - 0.02 and own.seconds <= best.seconds
    assert own.retained_accuracy >= best.retained_accuracy - 0.04 and own.forgetting >= best.forgetting - 0.04
    assert set(values) <= set(METHODS[method].hyperparameters)
    for name, space in tuning.SPACES[method].items():
        if name in values and isinstance(space, list):
            assert values[name] in space


def test_of_equally_quick_trials_the_best_is_chosen(tmp_path, monkeypatch):
    columns = {"method": "FT", "forgetting": 0.8}
    trials = pd.DataFrame(
        [
            {"trial": i, "hyperparameters": json.dumps({"num_epochs": i + 1}), "objective": o, "seconds": s, **columns}
            for i, (o, s) in enumerate([(0.900, 1.0), (0.905, 1.05), (0.910, 2.0), (0.80, 0.1), (0.0, math.nan)])
        ]
    ).assign(retained_accuracy=0.9)
    trials.to_csv(tmp_path / "label.csv", index=False)
    monkeypatch.setattr(tuning, "FOLDER", tmp_path)
    tuning.read_trials.cache_clear()
    assert tuning.chosen("FT", "label") == {"num_epochs": 2}
    tuning.read_trials.cache_clear()


@pytest.mark.parametrize(("notebook", "method"), [("03_weight_filtering", "WF"), ("04_weight_pruning", "WP")])
def test_the_notebooks_explain_the_method_with_the_values_that_the_tables_use(notebook, method):
    parameters = notebook_runs.read_parameters(paths.NOTEBOOKS / f"{notebook}.ipynb")
    used = METHODS[method].hyperparameters | tuning.chosen(method, "label")
    shared = set(parameters) & set(used) - {"precision"}
    assert {name: parameters[name].default for name in shared} == {name: used[name] for name in shared}


@pytest.mark.parametrize("max_epochs", [1, 2, 1000])
@pytest.mark.parametrize("kind", tuning.KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_a_cut_of_passes_lowers_numbers_of_passes_only(method, kind, max_epochs):
    defaults, tuned = METHODS[method].hyperparameters, tuning.chosen(method, kind)
    cut = tuning.chosen(method, kind, max_epochs)
    used, was = defaults | cut, defaults | tuned
    counts = {name for name in defaults if name.endswith("epochs") and name != "decay_epochs"} | {"msteps"}
    assert set(cut) == set(tuned) | counts & set(defaults)
    for name, value in was.items():
        assert used[name] == (min(value, max_epochs) if name in counts else value), name


def test_no_passes_at_all_are_refused():
    with pytest.raises(ValueError, match="max_epochs must be at least 1, or None .*, got 0"):
        tuning.chosen("FT", "label", 0)


def test_an_unsearched_kind_takes_the_nearest_and_an_unknown_one_is_refused(tmp_path, monkeypatch):
    assert tuning.chosen("SCRUB", "partial") == tuning.chosen("SCRUB", "label")
    assert tuning.chosen("HeadReset", "label") == {}
    monkeypatch.setattr(tuning, "FOLDER", tmp_path)
    tuning.read_trials.cache_clear()
    with pytest.raises(FileNotFoundError, match="label.csv is missing: run mlu tune --kind label"):
        tuning.chosen("SCRUB", "label")
    with pytest.raises(
        ValueError, match="no validation request for kind 'labels': choose one of label, class, images, people"
    ):
        tuning.search("labels")
    tuning.read_trials.cache_clear()


# The secondary verification


class Reads(torch.nn.Module):
    """Its features are the images' mean colours times `gates`, its logits the second of them, for every label."""

    def __init__(self, gates):
        super().__init__()
        self.register_buffer("gates", torch.tensor(gates))
        self.fc = torch.nn.Linear(3, 2)
        with torch.no_grad():
            self.fc.weight.copy_(torch.tensor([[0.0, 1.0, 0.0]]).expand(2, 3))
            self.fc.bias.zero_()

    def forward(self, x):
        return self.fc(x.mean((2, 3)) * self.gates)


@pytest.fixture
def planted():
    """Images that show the label `gone` in red, their being trained on in green and chance in blue."""
    rng = np.random.default_rng(0)
    labels, split = rng.integers(0, 2, 1200), np.arange(1200) % 3
    chance = rng.integers(0, 50, (2, 1200))
    colours = np.stack([labels * 255, (split == 0) * 200 + chance[0], chance[1]], 1)
    table = data.ImageTable(
        images=torch.tensor(colours, dtype=torch.uint8)[:, :, None, None].expand(-1, -1, 4, 4).contiguous(),
        labels=torch.tensor(np.stack([labels, np.ones(1200)], 1), dtype=torch.float32),
        label_names=("gone", "kept"),
        identity=torch.arange(1200) // 6,
        split=torch.tensor(split, dtype=torch.int8),
        source="planted",
    )
    study = Study("o", "s", "planted", "none", "label:gone", 7)
    study.__dict__["table"] = table  # a cached property, so that nothing is loaded
    return study


@pytest.mark.parametrize(
    ("gates", "passed"),
    [
        ((1.0, 1.0, 1.0), [False, False, False]),
        ((0.0, 1.0, 1.0), [True, True, False]),
        ((1.0, 0.0, 1.0), [False, False, True]),
        ((0.0, 0.0, 1.0), [True, True, True]),
    ],
    ids=["says all", "label gone", "images forgotten", "both gone"],
)
def test_verification_fails_on_what_the_model_gives_away(planted, gates, passed):
    verdict = experiments.verify(planted, Reads(gates), Reads((0.0, 0.0, 1.0)), seed=0, num_resamples=50)
    assert verdict.checks.check.tolist() == ["attribute_auc", "excess_auc", "membership_auc"]
    assert verdict.checks.passed.tolist() == passed and verdict.passed == all(passed)


def test_verification_leaves_the_forgotten_label_out_of_the_membership_attack(planted):
    model = Reads((0.0, 1.0, 1.0))
    values = [experiments.verify(planted, model, model, seed=0, num_resamples=50).checks.value.tolist()]
    with torch.no_grad():
        model.fc.weight[0] = -9.0  # row 0 is the forgotten label's
    values.append(experiments.verify(planted, model, model, seed=0, num_resamples=50).checks.value.tolist())
    assert values[0] == values[1] and values[0][1:] == [0.0, 1.0]


def test_verification_refuses_used_shadow_data_and_requests_without_a_label(planted):
    model = Reads((1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="400 shadow rows were used for learning or unlearning"):
        experiments.verify(planted, model, model, used_splits=("train", "validation"), seed=0)
    study = Study("o", "s", "digits", "small_cnn", "class:8", 7)
    with pytest.raises(ValueError, match="verification reads a forgotten label, class:8 has none"):
        experiments.verify(study, model, model, seed=0)


# Ordered classes


@pytest.fixture(scope="module")
def ages():
    return data.load("synthages", num_images=200, size=32)


def test_ages_are_balanced_repeatable_and_ordered(ages):
    assert torch.bincount(ages.labels[:, 0]).tolist() == [40] * 5
    assert data.load("synthages", num_images=200, size=32).sha256 == ages.sha256
    assert data.load("synthages", num_images=200, size=32, seed=1).sha256 != ages.sha256
    assert ages.class_names == ("0-6", "13-16", "20-30", "31-45", "46-60")
    assert ages.class_positions == (3, 14.5, 25, 38, 53)
    with pytest.raises(ValueError, match="num_images must be at least 50.*got 49"):
        data.load("synthages", num_images=49)


def test_age_changes_faces_smoothly():
    attributes = torch.ones(61, 10)
    changed = synthages.aged(attributes, torch.arange(61.0))
    young = changed[:, synthages.LABEL_NAMES.index("Young")]
    assert (young[:21] == 1).all() and young[60] == 0 and (young[20:].diff() < 0).all()
    chin = changed[:, synthages.LABEL_NAMES.index("Double_Chin")]
    assert chin[0] == 1 and (chin[20:] == 0).all() and (chin[:21].diff() < 0).all()
    assert (attributes == 1).all() and ((changed >= 0) & (changed <= 1)).all()


def test_reassigned_accuracy_counts_the_neighbour_as_right(ages):
    study = Study("o", "s", "synthages", "small_cnn", "class:31-45", 7, dataset_options={"num_images": 200, "size": 32})
    rows = torch.arange(ages.num_images)
    goals = torch.where(ages.labels[:, 0] == 3, 2, ages.labels[:, 0])
    logits = torch.nn.functional.one_hot(goals, 5).float()
    scores = {(r["label"], r["metric"]): r["value"] for r in experiments.utility_rows(study, rows, logits)}
    assert scores["reassigned", "accuracy"] == 1 and scores["forgotten", "accuracy"] == 0
    logits = torch.nn.functional.one_hot(ages.labels[:, 0], 5).float()
    scores = {(r["label"], r["metric"]): r["value"] for r in experiments.utility_rows(study, rows, logits)}
    assert scores["reassigned", "accuracy"] == pytest.approx(0.8)
