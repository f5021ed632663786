"""The search for hyperparameters: one budget for all, and nothing that is reported is looked at."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch
import tune

import notebooks
from mlu_utils import data, experiments, paths
from mlu_utils.attacks import shadows
from mlu_utils.studies import Profile, Recipe, Study
from mlu_utils.unlearning import METHODS


@pytest.fixture(scope="module", autouse=True)
def runs(tmp_path_factory):
    """Checkpoints of this file go to a folder of its own, one for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "RUNS", tmp_path_factory.mktemp("runs"))
        yield


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Trials of this test go to a folder of its own."""
    monkeypatch.setattr(experiments, "TUNING_FOLDER", tmp_path)
    experiments.read_trials.cache_clear()
    yield tmp_path
    experiments.read_trials.cache_clear()


def test_every_method_has_the_same_number_of_trials():
    assert set(tune.SPACES) == set(METHODS) - {"Retrain", "HeadReset"}
    for kind in tune.KINDS:
        trials = experiments.read_trials(kind)
        assert trials.groupby("method").size().to_dict() == dict.fromkeys(tune.searched(kind), 12)
        assert (trials[trials.trial == 0].hyperparameters == "{}").all()


def test_no_reported_request_was_searched():
    for profile in (Profile.load(name) for name in ("quick", "paper")):
        for study in map(profile.study, profile.studies):
            for wanted in tune.VALIDATION_STUDIES.values():
                assert (study.dataset, study.request) != (wanted.dataset, wanted.request)
                assert study.seed != wanted.seed


@pytest.mark.parametrize("profile", ["quick", "paper"])
def test_no_reported_person_was_searched(profile, monkeypatch):
    monkeypatch.setattr(shadows, "fit_stacked", lambda *_, **__: None)
    job = notebooks.find_job("06b_people_and_images", Profile.load(profile), None)
    reported = notebooks.resolve_parameters(job)
    targets = shadows.train_shadows(
        data.load("orl", size=reported["face_size"]),
        "small_cnn",
        kind="people",
        num_units=reported["num_people"],
        images_per_person=reported["photos_per_person"],
        num_shadows=4,
        recipe=shadows.PEOPLE_RECIPE,
        seed=reported["seed"],
    ).units.tolist()
    assert len(targets) == reported["num_people"] and not set(targets) & set(tune.VALIDATION_PEOPLE["candidates"])
    assert tune.VALIDATION_PEOPLE["seed"] not in range(reported["seed"], reported["seed"] + reported["num_shadows"])


@pytest.fixture(scope="module")
def few_shadows():
    return tune.train_people(num_shadows=4, seed=3)


def test_people_are_forgotten_when_nobody_can_tell_them_from_strangers(few_shadows):
    """Training anew without them is not part of the search, but it must be what the search strives for."""
    assert set(few_shadows.units.tolist()) <= set(tune.VALIDATION_PEOPLE["candidates"])
    before = tune.people_objective(few_shadows, list(few_shadows.models))
    anew = shadows.unlearn_shadows(few_shadows, "Retrain", shadows.PEOPLE_RECIPE.fit_options())
    after = tune.people_objective(few_shadows, anew)
    assert before["forgetting"] < 0.4 and after["forgetting"] > 0.85
    assert after["retained_accuracy"] > before["retained_accuracy"] - 0.05


@pytest.mark.parametrize(("what_they_say", "forgetting"), [("the same", 1), ("members are certain", 0)])
def test_forgetting_of_people_by_hand(few_shadows, what_they_say, forgetting, monkeypatch):
    """Losses that do not depend on what a network has met favour nobody, however hard somebody is to call."""
    hardness = torch.rand(few_shadows.table.num_images, generator=torch.Generator().manual_seed(0))
    number = {id(network): s for s, network in enumerate(few_shadows.models)}
    seen = []

    def predict(network, table, rows, **_):
        seen.append(table.split[rows])
        margin = hardness[rows]
        if what_they_say != "the same":
            who = torch.searchsorted(few_shadows.units, table.identity[rows]).clamp_max(len(few_shadows.units) - 1)
            margin = margin + 5 * torch.from_numpy(few_shadows.is_member[number[id(network)]])[who]
        sign = torch.where(table.labels[rows] > 0, 1.0, -1.0)
        return sign * margin[:, None]

    monkeypatch.setattr(tune, "predict_logits", predict)
    found = tune.people_objective(few_shadows, list(few_shadows.models))
    assert found["forgetting"] == pytest.approx(forgetting)
    assert len(seen) == 8 and not any((split == 2).any() for split in seen), "the search looked at the test split"


def test_configurations_repeat_and_start_with_the_default():
    first, again = (list(tune.configurations("SalUn", 12)) for _ in range(2))
    assert first == again and first[0] == {} and len(first) == 12
    other = list(tune.configurations("SalUn", 12, seed=1))
    assert other[1:] != first[1:]
    rates = [point["learning_rate"] for point in first[1:]]
    assert all(1e-3 <= rate <= 1e-1 for rate in rates) and len(set(rates)) > 8
    with pytest.raises(ValueError, match="unknown method with something to search 'HeadReset': choose one of FT, "):
        next(tune.configurations("HeadReset", 2))


def test_a_later_method_draws_points_of_its_own_and_moves_nobody_elses(monkeypatch):
    before = list(tune.configurations("SSD", 12))
    monkeypatch.setattr(tune, "METHODS", {"Yours": METHODS["SSD"], **METHODS})
    monkeypatch.setitem(tune.SPACES, "Yours", tune.SPACES["SSD"])
    own = list(tune.configurations("Yours", 12))
    assert own == list(tune.configurations("Yours", 12)) and own[1:] != before[1:]
    assert list(tune.configurations("SSD", 12)) == before


def test_spaces_name_hyperparameters_of_their_methods(monkeypatch):
    for method, space in tune.SPACES.items():
        assert set(space) <= set(METHODS[method].hyperparameters), method
        for choices in space.values():
            assert isinstance(choices, list) or 0 < choices["low"] < choices["high"]
    monkeypatch.setitem(tune.SPACES, "SSD", {"dampning": [0.1]})
    with pytest.raises(ValueError, match="unknown hyperparameter of SSD in spaces.yaml 'dampning'.*mean 'dampening'"):
        next(tune.configurations("SSD", 2))


def test_a_search_keeps_other_methods_and_survives_divergence(folder, monkeypatch):
    wanted = dataclasses.replace(tune.VALIDATION_STUDIES["class"], recipe=Recipe(num_epochs=1, is_augmented=False))
    monkeypatch.setitem(tune.VALIDATION_STUDIES, "class", wanted)
    space = {"learning_rate": [1e30], "num_epochs": [1], "batchnorm": ["eval"], "is_bounded": [False]}
    monkeypatch.setitem(tune.SPACES, "NegGrad", space)
    monkeypatch.setitem(tune.SPACES, "SSD", {"alpha": [1.0, 2.0]})
    tune.search("class", ("SSD",), num_trials=2)
    file = tune.search("class", ("NegGrad",), num_trials=2)
    trials = pd.read_csv(file)
    assert trials.groupby("method").size().to_dict() == {"NegGrad": 2, "SSD": 2}
    assert trials.query("method == 'NegGrad' and trial == 1").objective.item() == 0
    assert (trials.objective.between(0, 1)).all()
    assert experiments.tuned("NegGrad", "class") == {}


def test_the_objective_by_hand():
    values = {"dataset": "digits", "architecture": "small_cnn", "request": "class:8", "seed": 7}
    study = Study("o", "s", **values, recipe=Recipe(num_epochs=1, is_augmented=False))
    table, rows = study.table, study.table.rows("validation")

    class Always(torch.nn.Module):
        """Predicts one class whatever it sees."""

        def __init__(self, winner):
            super().__init__()
            self.fc, self.winner = torch.nn.Linear(1, 10), winner

        def forward(self, x):
            return self.fc(torch.zeros(len(x), 1)) * 0 + torch.eye(10)[self.winner]

    labels = table.labels[rows, 0]
    others = float((labels[labels != 8] == 2).float().mean())
    values = tune.objective(study, Always(2))
    assert values["forgetting"] == 1 and values["retained_accuracy"] == pytest.approx(others)
    assert tune.objective(study, Always(8)) == {"objective": 0, "retained_accuracy": 0, "forgetting": 0}
    assert tune._says_nothing(np.array([1.0, 0, math.nan]), np.array([1.0, 0, 5])) == 0
    assert tune._says_nothing(np.array([1.0, 0, 1, 0]), np.array([1.0, 1, 0, 0])) == 1


def test_chosen_values_lie_inside_the_space():
    for kind in tune.KINDS:
        for method in tune.searched(kind):
            for name, value in experiments.tuned(method, kind).items():
                if isinstance(choices := tune.SPACES[method].get(name), list):
                    assert value in choices, (kind, method, name)


def test_an_unknown_kind_is_refused():
    known = "label, class, images, people"
    with pytest.raises(ValueError, match=f"unknown kind of validation request 'labels': choose one of {known}"):
        tune.search("labels")


@pytest.mark.parametrize(("notebook", "method"), [("03_weight_filtering", "WF"), ("04_weight_pruning", "WP")])
def test_the_notebooks_explain_the_method_with_the_values_that_the_tables_use(notebook, method):
    parameters = notebooks.read_parameters(notebooks.read_notebook(notebooks.committed(notebook)), notebook)
    used = METHODS[method].hyperparameters | experiments.tuned(method, "label")
    # What follows from the network stands in the notebook as it is for its own.
    shared = {name for name in set(parameters) & set(used) if used[name] != "auto"}
    assert {name: parameters[name][1] for name in shared} == {name: used[name] for name in shared}
