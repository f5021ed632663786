"""One experiment from the command line, comparisons, tuned hyperparameters, ordered classes: small and in seconds."""

import dataclasses
import json
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from mlu_utils import data, experiments, paths
from mlu_utils.checkpoints import load_checkpoint
from mlu_utils.data import synthages
from mlu_utils.results.scores import checked_scores
from mlu_utils.studies import Recipe, Study
from mlu_utils.training import predict_logits
from mlu_utils.unlearning import METHODS

sys.path.insert(0, str(paths.ROOT))
import run_experiment  # noqa: E402

DIGITS = ["--dataset", "digits", "--label", "3", "--profile", "smoke", "--epochs", "1", "--reuse"]
SEARCHED_KINDS = sorted(file.stem for file in experiments.TUNING_FOLDER.glob("*.csv"))
SEARCHED_METHODS = sorted(set(METHODS) - {"Retrain", "HeadReset"})
BENCHMARK_SCORES = {"test_accuracy", "majority_accuracy", "mia_accuracy", "mia_matched", "mia_null", "nomus"}
SCORES = {"retained_accuracy", "forget_recall", "forget_auc", "forget_balanced_accuracy", "probe_auc"}


@pytest.fixture(scope="module", autouse=True)
def runs(tmp_path_factory):
    """Checkpoints of this file go to a folder of its own, one for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "RUNS", tmp_path_factory.mktemp("runs"))
        yield


def digits(profile, **change):
    """A study that trains in a second."""
    values = {"dataset": "digits", "architecture": "small_cnn", "request": "class:3", "seed": 3}
    return Study(profile, "s", **(values | {"recipe": Recipe(num_epochs=1, is_augmented=False)} | change))


def experiment(*arguments, target=None):
    more = ["--json", str(target)] if target else []
    status = run_experiment.main([*arguments, *more])
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


def test_people_are_scored_as_the_identity_benchmark_asks(tmp_path, capsys):
    asked = ["--dataset", "orl", "--request", "people:2,5,11,38", "--profile", "smoke", "--epochs", "1"]
    status, results = experiment("--method", "all", *asked, target=tmp_path / "all.json")
    assert status == 0 and [r["method"] for r in results] == [n for n, m in METHODS.items() if "people" in m.kinds]
    for result in results:
        assert set(result["scores"]) == SCORES | BENCHMARK_SCORES
        for name in ("nomus", "mia_accuracy", "mia_null", "test_accuracy"):
            assert all(0 <= value <= 1 for value in result["scores"][name].values())
        for at in ("original", "retrain", "unlearned"):
            values = {name: of[at] for name, of in result["scores"].items()}
            attack = 1 - 2 * abs(values["mia_accuracy"] - 0.5)
            assert values["nomus"] == pytest.approx((values["test_accuracy"] + attack) / 2)
    assert max(map(len, capsys.readouterr().out.splitlines())) < 200


def test_an_experiment_hands_over_the_unlearned_model(tmp_path):
    file = tmp_path / "unlearned.safetensors"
    _, result = experiment("--method", "WP", *DIGITS, "--save", str(file), target=tmp_path / "result.json")
    model, facts = load_checkpoint(file, architecture="small_cnn")
    assert facts["request"] == "class:3" and facts["outputs"] == [str(digit) for digit in range(10)]
    table = data.load("digits")
    rows = table.rows("test")
    of_three = table.labels[rows, 0] == 3
    right = predict_logits(model, table, rows).argmax(1) == table.labels[rows, 0]
    assert float(right[of_three].float().mean()) == pytest.approx(result["scores"]["forget_recall"]["unlearned"])
    assert float(right[~of_three].float().mean()) == pytest.approx(result["scores"]["retained_accuracy"]["unlearned"])


def test_every_method_takes_a_class():
    assert sum("class" in method.kinds for method in METHODS.values()) == len(METHODS) == 15


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
        (["--method", "WP", *DIGITS, "--reading", "targetted"], "unknown WP reading 'targetted': choose one of"),
        (["--method", "WP", "--dataset", "digits", "--label", "11", "--profile", "smoke"], "unknown class '11'"),
        (["--method", "WP", "--dataset", "digitz", "--label", "3"], "did you mean 'digits'?"),
        (["--method", "WP", *DIGITS, "--json", "/nowhere/at/all.json"], "does not exist; create it"),
        (["--method", "WP", *DIGITS, "--json", "."], "--json .: this is a folder; name a file"),
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
    monkeypatch.setattr(experiments, "fit", lambda *_, **__: pytest.fail("training began"))
    arguments = [a for a in arguments if a != "--reuse"]
    assert run_experiment.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_stand_in_is_announced_and_a_folder_of_that_name_wins(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(run_experiment.STAND_INS, "CelebA", "digits")
    asked = ["--method", "HeadReset", "--dataset", "CelebA", "--label", "3", "--profile", "smoke", "--epochs", "1"]
    status, result = experiment(*asked, "--reuse", target=tmp_path / "r.json")
    assert status == 0 and (result["dataset"], result["stands_in_for"]) == ("digits", "CelebA")
    assert "note: CelebA is not here; digits stands in for it" in capsys.readouterr().err
    (tmp_path / "CelebA").mkdir()
    assert run_experiment.main(asked) == 2
    error = capsys.readouterr().err
    assert "labels.csv" in error and "stands in" not in error


def test_help_answers_without_torch():
    code = "import sys, run_experiment\ntry: run_experiment.main(['--help'])\nexcept SystemExit: pass\n"
    code += "print('torch' in sys.modules, 'pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=paths.ROOT)
    assert done.stdout.splitlines()[-1] == "False False", done.stderr


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (OSError(28, "No space left on device"), 1, "error: [Errno 28] No space left on device\n"),
        (RuntimeError("the loss became nan"), 1, "error: the loss became nan\n"),
        (FileNotFoundError("x.csv is missing"), 2, "error: x.csv is missing\n"),
        (KeyboardInterrupt(), 130, "error: interrupted; trained models are kept, --reuse takes them\n"),
    ],
)
def test_a_failure_is_one_line(error, status, message, monkeypatch, capsys):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(experiments, "reference_model", fail)
    assert run_experiment.main(["--method", "WP", *DIGITS]) == status
    assert capsys.readouterr().err == message


def test_what_is_done_is_kept_when_a_later_method_fails(tmp_path, monkeypatch, capsys):
    run_method = experiments.run_method

    def fail_at_cf_k(study, model, method, *arguments, **options):
        if method == "CF-k":
            raise RuntimeError("the loss became nan")
        return run_method(study, model, method, *arguments, **options)

    monkeypatch.setattr(experiments, "run_method", fail_at_cf_k)
    status, results = experiment("--method", "all", *DIGITS, target=tmp_path / "all.json")
    assert status == 1 and [r["method"] for r in results] == ["Retrain", "HeadReset", "FT"]
    assert capsys.readouterr().out.splitlines()[-1].startswith("FT")


@pytest.mark.parametrize(("num_epochs", "measured"), [(1, [1]), (5, [5]), (7, [5, 7])])
def test_validation_accuracy_of_each_fifth_epoch_and_of_the_last(num_epochs, measured):
    recipe = Recipe(num_epochs=num_epochs, is_augmented=False)
    study = digits("gaps", recipe=recipe)
    trained = experiments.reference_model(study, "original")
    known = trained.history.dropna()
    assert len(trained.history) == num_epochs and known.epoch.tolist() == measured
    rows = study.table.rows("validation")
    right = predict_logits(trained.model, study.table, rows).argmax(1) == study.table.labels[rows, 0]
    assert known.validation_accuracy.iloc[-1] == pytest.approx(float(right.float().mean()))
    again = experiments.reference_model(study, "original")  # gaps survive the checkpoint
    assert again.is_from_disk
    pd.testing.assert_frame_equal(again.history, trained.history)


def test_the_original_does_not_depend_on_the_request():
    histories = []
    for request in ("class:3", "class:5"):
        study = digits("shared", request=request)
        histories.append(experiments.reference_model(study, "original", is_reused=False).history)
    columns = ["retain_loss", "validation_accuracy"]
    pd.testing.assert_frame_equal(histories[0][columns], histories[1][columns])


# Unlearned models that stay on disk


def test_an_unlearned_model_is_made_once(monkeypatch):
    study = digits("kept")
    how = ("WP", "targeted", {"forget_share": 0.01}, 7)
    made = experiments.unlearned_model(study, *how)
    original = experiments.reference_model(study, "original").model
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


def test_a_checkpoint_that_is_not_what_its_name_says_is_made_again():
    study, other = digits("damaged"), digits("damaged", seed=4)
    originals = [experiments.reference_model(each, "original") for each in (study, other)]
    files = sorted((paths.RUNS / "damaged" / "models").glob("original-*"))
    assert len(files) == 2
    contents = [file.read_bytes() for file in files]
    for file, content in zip(files, reversed(contents), strict=True):  # each takes the other's name
        file.write_bytes(content)
    with pytest.warns(UserWarning, match="has facts .* It is made again now"):
        again = experiments.reference_model(study, "original")
    assert not again.is_from_disk and torch.equal(again.model.fc.weight, originals[0].model.fc.weight)
    for file in files:
        file.write_bytes(contents[0][:1000])
    with pytest.warns(UserWarning, match="is damaged"):
        again = experiments.reference_model(other, "original")
    assert torch.equal(again.model.fc.weight, originals[1].model.fc.weight)


# Methods side by side


@pytest.fixture(scope="module")
def compared():
    """A study with a plan of each kind, its reference models, and what the comparison found."""
    plan = {"methods": ("HeadReset", "WP", "FT"), "one_seed_methods": ("FT",), "kept_methods": ("WP",)}
    study = digits("compared", **plan, unlearning_seeds=(7, 8), retrain_seeds=(9,), max_epochs=1)
    models = [experiments.reference_model(study, name) for name in ("original", "retrained")]
    return study, *models, experiments.compare(study, *models)


def test_the_plan_says_who_runs_how_often(compared):
    *_, found = compared
    runs = found.scores[["method", "reading", "unlearning_seed"]].drop_duplicates().apply(tuple, axis=1).tolist()
    assert runs == [
        ("HeadReset", "-", 7),
        ("WP", "printed", 7),
        ("WP", "targeted", 7),
        ("WP", "targeted", 8),
        ("WP", "trunk", 7),
        ("WP", "random", 7),
        ("FT", "-", 7),
        ("Retrain", "-", 9),
    ]
    assert list(found.outputs) == ["Original", "Retrain", "HeadReset", "WP", "FT"]
    assert list(found.settings) == ["HeadReset", "WP", "FT"] and found.settings["FT"]["num_epochs"] == 1


def test_a_comparison_scores_what_running_a_method_gives(compared):
    study, original, retrained, found = compared
    options = found.settings["WP"]
    made = experiments.run_method(study, original.model, "WP", "targeted", options, 7, is_timed=False)
    scored = experiments.score_rows(study, made.model, method="WP", reading="targeted", unlearning_seed=7)
    ours = found.scores.query("method == 'WP' and reading == 'targeted' and unlearning_seed == 7")
    times = ours.metric.isin(["seconds", "speedup"])
    pd.testing.assert_frame_equal(ours[~times].reset_index(drop=True), scored.reset_index(drop=True))
    seconds, speedup = ours[times].value
    assert speedup == pytest.approx(retrained.training_time_s / seconds)
    test = study.table.rows("test")
    assert (found.outputs["WP"] == experiments.probabilities(study, made.model, test)).all()
    checked_scores(found.scores, "the comparison")


def test_models_of_the_plan_stay_on_disk(compared, monkeypatch):
    study, *_, found = compared
    monkeypatch.setattr(experiments, "run_method", lambda *_, **__: pytest.fail("made again"))
    kept = experiments.unlearned_model(study, "WP", "targeted", found.settings["WP"], 7)
    output = experiments.probabilities(study, kept.model, study.table.rows("test"))
    assert (output == found.outputs["WP"]).all()
    with pytest.raises(pytest.fail.Exception):
        experiments.unlearned_model(study, "FT", "-", found.settings["FT"], 7)


def test_a_plan_without_methods_holds_all_that_take_the_request():
    for request, without in (("class:3", {"Retrain"}), ("images:1,2", {"Retrain", "HeadReset", "EssentialGraph"})):
        settings = experiments.plan_settings(digits("o", request=request))
        assert list(settings) == [name for name in METHODS if name not in without]
    with pytest.raises(ValueError, match="unknown method 'SCRUBB'.*did you mean 'SCRUB'"):
        experiments.plan_settings(digits("o", methods=("SCRUBB",)))


def test_reference_scores_are_those_on_disk(compared):
    study, original, retrained, _ = compared
    now = experiments.reference_scores(study, original, retrained)
    assert now.method.unique().tolist() == ["Original", "Retrain"]
    assert now[now.metric == "speedup"].value.tolist() == [1.0]
    study.folder.mkdir(parents=True, exist_ok=True)
    now.assign(value=now.value.clip(0, 0.5)).to_csv(study.folder / "scores_02.csv", index=False)
    again = experiments.reference_scores(study, original, retrained)
    assert again.value.max() == 0.5
    fresh = experiments.reference_scores(study, original, retrained, is_reused=False)
    pd.testing.assert_frame_equal(fresh, now)
    (study.folder / "scores_02.csv").unlink()


def test_readings_side_by_side(compared):
    study, original, retrained, found = compared
    how = (study, original, retrained, "WP", found.settings["WP"], 7)
    made, scores = experiments.compare_readings(*how, has_control=True)
    assert list(made) == ["printed", "targeted", "trunk", "random"]
    keys = scores[["method", "reading", "unlearning_seed"]].drop_duplicates().apply(tuple, axis=1).tolist()
    assert keys == [("WP", reading, -1) for reading in made] + [("HeadReset", "-", -1)]
    assert set(experiments.compare_readings(*how)[1].method) == {"WP"}
    table = experiments.headlines(study, scores, Original=original.model)
    assert table.index.tolist() == [
        *("Original", "WP (as printed)", "WP (targeted)", "WP (last layer spared)", "WP (random control)", "HeadReset")
    ]
    assert set(table.columns) == SCORES | {"seconds", "speedup"}
    assert math.isnan(table.seconds["Original"]) and (table.speedup[1:] > 0).all()
    part = scores[scores.reading == "targeted"]
    assert table.retained_accuracy["WP (targeted)"] == experiments.headline(study, part)["retained_accuracy"]


# Hyperparameters


@pytest.mark.parametrize(
    ("method", "kind"), [(m, k) for m in SEARCHED_METHODS for k in SEARCHED_KINDS if k in METHODS[m].kinds]
)
def test_chosen_is_the_quickest_of_the_best_trials(method, kind):
    trials = experiments.read_trials(kind).query("method == @method")
    values = experiments.tuned(method, kind)
    own = trials[trials.hyperparameters == json.dumps(values)].iloc[0]
    best = trials.loc[trials.objective.idxmax()]
    assert own.objective >= best.objective - 0.02 and own.seconds <= best.seconds
    assert own.retained_accuracy >= best.retained_accuracy - 0.04 and own.forgetting >= best.forgetting - 0.04
    assert set(values) <= set(METHODS[method].hyperparameters)


def test_of_equally_quick_trials_the_best_is_chosen(tmp_path, monkeypatch):
    columns = {"method": "FT", "forgetting": 0.8}
    trials = pd.DataFrame(
        [
            {"trial": i, "hyperparameters": json.dumps({"num_epochs": i + 1}), "objective": o, "seconds": s, **columns}
            for i, (o, s) in enumerate([(0.900, 1.0), (0.905, 1.05), (0.910, 2.0), (0.80, 0.1), (0.0, math.nan)])
        ]
    ).assign(retained_accuracy=0.9)
    trials.to_csv(tmp_path / "label.csv", index=False)
    monkeypatch.setattr(experiments, "TUNING_FOLDER", tmp_path)
    experiments.read_trials.cache_clear()
    assert experiments.tuned("FT", "label") == {"num_epochs": 2}
    experiments.read_trials.cache_clear()


@pytest.mark.parametrize("max_epochs", [1, 2, 1000])
@pytest.mark.parametrize("kind", SEARCHED_KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_a_cut_of_passes_lowers_numbers_of_passes_only(method, kind, max_epochs):
    defaults, tuned = METHODS[method].hyperparameters, experiments.tuned(method, kind)
    cut = experiments.tuned(method, kind, max_epochs)
    used, was = defaults | cut, defaults | tuned
    counts = {name for name in defaults if name.endswith("epochs") and name != "decay_epochs"} | {"msteps"}
    assert set(cut) == set(tuned) | counts & set(defaults)
    for name, value in was.items():
        assert used[name] == (min(value, max_epochs) if name in counts else value), name


def test_no_passes_at_all_are_refused():
    with pytest.raises(ValueError, match="max_epochs must be at least 1, or None .*, got 0"):
        experiments.tuned("FT", "label", 0)


def test_an_unsearched_kind_takes_the_nearest_and_an_unknown_one_is_refused(tmp_path, monkeypatch):
    assert experiments.tuned("SCRUB", "partial") == experiments.tuned("SCRUB", "label")
    assert experiments.tuned("HeadReset", "label") == {}
    monkeypatch.setattr(experiments, "TUNING_FOLDER", tmp_path)
    experiments.read_trials.cache_clear()
    with pytest.raises(FileNotFoundError, match="label.csv is missing: run python workflow/tune.py --kind label"):
        experiments.tuned("SCRUB", "label")
    experiments.read_trials.cache_clear()


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
    study = Study("o", "s", dataset="planted", architecture="none", request="label:gone", seed=7)
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
    assert verdict.check.tolist() == ["attribute_auc", "excess_auc", "membership_auc"]
    assert verdict.passed.tolist() == passed


def test_verification_leaves_the_forgotten_label_out_of_the_membership_attack(planted):
    model = Reads((0.0, 1.0, 1.0))
    values = [experiments.verify(planted, model, model, seed=0, num_resamples=50).value.tolist()]
    with torch.no_grad():
        model.fc.weight[0] = -9.0  # row 0 is the forgotten label's
    values.append(experiments.verify(planted, model, model, seed=0, num_resamples=50).value.tolist())
    assert values[0] == values[1] and values[0][1:] == [0.0, 1.0]


def test_verification_refuses_used_shadow_data_and_requests_without_a_label(planted):
    model = Reads((1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="400 shadow rows were used for learning or unlearning"):
        experiments.verify(planted, model, model, used_splits=("train", "validation"), seed=0)
    study = digits("o", request="class:8", seed=7)
    with pytest.raises(ValueError, match="verification reads one forgotten label, got class:8"):
        experiments.verify(study, model, model, seed=0)


# The identity benchmark's scores


def asked_of(labels, logits, split, monkeypatch, class_names=()):
    """What the benchmark asks of a model with these outputs that was told to forget person 0, the first twelve rows."""
    table = data.ImageTable.from_tensors(
        torch.zeros(len(labels), 3, 8, 8, dtype=torch.uint8),
        labels,
        ["a", "b"][: 1 if class_names else 2],
        identity=[0] * 12 + [1] * (len(labels) - 12),
        split=split,
        class_names=class_names,
    )
    monkeypatch.setattr(experiments, "predict_logits", lambda model, table, rows, **_: torch.as_tensor(logits)[rows])
    study = digits("benchmark", request="people:0")
    study.__dict__["table"] = table
    return experiments.benchmark_scores(study, None, num_draws=2)


def test_benchmark_scores_by_hand(monkeypatch):
    draw = np.random.default_rng(0)
    labels, logits = (draw.random((60, 2)) < 0.7).astype(float), draw.normal(size=(60, 2)).astype(np.float32)
    labels[40, 1] = np.nan
    split = np.repeat([0, 2], 30)
    found = asked_of(labels, logits, split, monkeypatch)
    known = ~np.isnan(labels[30:])
    assert found["test_accuracy"] == pytest.approx(((logits[30:] > 0) == (labels[30:] == 1))[known].mean())
    commoner = np.nanmean(labels[:30], 0) > 0.5
    assert found["majority_accuracy"] == pytest.approx((commoner == (labels[30:] == 1))[known].mean())
    assert "top2_accuracy" not in found and 0.2 < found["mia_accuracy"] < 0.8
    # A split of unseen people takes the test split's place in the attack, and photos of the forgotten are no strangers.
    learned = np.where(labels == 1, 9.0, -9.0).astype(np.float32)
    learned[30:] = 0
    sure = asked_of(labels, learned, np.where(np.arange(60) < 30, 0, np.where(np.arange(60) < 40, 2, 3)), monkeypatch)
    assert sure["mia_accuracy"] == 1 and sure["mia_matched"] == 1 and 0.2 < sure["mia_null"] < 0.8
    of_forgotten = np.where(np.arange(60) < 11, 0, np.where(np.arange(60) < 12, 2, np.where(np.arange(60) < 30, 0, 2)))
    assert asked_of(labels, learned, of_forgotten, monkeypatch)["mia_accuracy"] == 1


def test_benchmark_scores_of_classes_and_of_too_few_images(monkeypatch):
    labels, logits = np.arange(40) % 3, np.tile(np.float32([0, 2, 1]), (40, 1))
    split = np.repeat([0, 2], [25, 15])
    found = asked_of(labels, logits, split, monkeypatch, class_names=("x", "y", "z"))
    assert found["test_accuracy"] == pytest.approx(1 / 3) and found["top2_accuracy"] == pytest.approx(2 / 3)
    assert found["majority_accuracy"] == pytest.approx((labels[25:] == 0).mean())
    assert math.isnan(found["mia_null"]) and not math.isnan(found["nomus"])  # halves of 15 are below ten
    # Too few to forget, then too few strangers.
    for split in (np.repeat([1, 0, 2], [3, 22, 15]), np.repeat([0, 1, 2], [25, 6, 9])):
        few = asked_of(labels, logits, split, monkeypatch, class_names=("x", "y", "z"))
        assert math.isnan(few["mia_accuracy"]) and math.isnan(few["nomus"]) and 0 < few["test_accuracy"] < 1


def test_a_table_without_a_validation_split_is_trained_on():
    study = digits("no-validation")
    split = torch.where(study.table.split == 1, 0, study.table.split).to(torch.int8)
    study.__dict__["table"] = study.table.with_split(split)
    trained = experiments.reference_model(study, "original")
    assert len(trained.history) == 1 and "validation_accuracy" not in trained.history


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
    faces = {"dataset": "synthages", "num_images": 200, "image_size": 32}
    study = Study("o", "s", **faces, architecture="small_cnn", request="class:31-45", seed=7)
    rows = torch.arange(ages.num_images)
    goals = torch.where(ages.labels[:, 0] == 3, 2, ages.labels[:, 0])
    logits = torch.nn.functional.one_hot(goals, 5).float()
    scores = {(r["label"], r["metric"]): r["value"] for r in experiments.utility_rows(study, rows, logits)}
    assert scores["reassigned", "accuracy"] == 1 and scores["forgotten", "accuracy"] == 0
    logits = torch.nn.functional.one_hot(ages.labels[:, 0], 5).float()
    scores = {(r["label"], r["metric"]): r["value"] for r in experiments.utility_rows(study, rows, logits)}
    assert scores["reassigned", "accuracy"] == pytest.approx(0.8)
