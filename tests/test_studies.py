"""Studies and profiles: defaults, what overrides what, and every mistake refused with its place and the fix."""

import json
import re
import subprocess
import sys

import pytest

from mlu_utils import paths
from mlu_utils.studies import PLAN, Profile, Recipe, Study, checked_value, profile_names

PROFILE = {
    "profile": "quick",
    "defaults": {"learning_rate": 0.2, "retrain_seeds": [8]},
    "notebooks": {"01_data_preparation": {"seed": 3}},
    "studies": {"a": {}, "b": {"num_epochs": 7, "notebooks": {"04_weight_pruning": {"tau": 0.5}}}},
}


@pytest.fixture
def change_profile(tmp_path, monkeypatch):
    """Return a function that writes the profile `quick` with some of its keys exchanged, or as the text given."""
    monkeypatch.setattr(paths, "PROFILES", tmp_path)
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")

    def write(text: str | None = None, **changes):
        (tmp_path / "quick.yaml").write_text(text if text is not None else json.dumps(PROFILE | changes))

    write()
    return write


# What a study is


def test_defaults_then_profile_then_study_then_change(change_profile):
    assert Study("p", "s") == Study("p", "s", recipe=Recipe(num_epochs=50, learning_rate=0.01))
    b = Study.load("quick", "b")
    assert b == Study("quick", "b", recipe=Recipe(num_epochs=7, learning_rate=0.2), retrain_seeds=(8,))
    assert Study.load("quick", "a").recipe == Recipe(learning_rate=0.2)
    changed = Study.load("quick", "b", num_epochs=3, request="label:Smiling", unlearning_seeds=[1, 2])
    assert (changed.recipe.num_epochs, changed.request, changed.unlearning_seeds) == (3, "label:Smiling", (1, 2))
    assert changed.recipe.learning_rate == 0.2


def test_a_changed_study_has_a_folder_of_its_own(change_profile):
    folders = {
        str(Study.load("quick", "b", **change).folder.relative_to(paths.RUNS))
        for change in ({}, {"num_epochs": 3}, {"num_epochs": 4}, {"num_epochs": 3, "seed": 1})
    }
    assert len(folders) == 4 and "quick/b" in folders
    assert all(re.fullmatch(r"quick/b(\+[0-9a-f]{8})?", folder) for folder in folders)
    assert Study.load("quick", "b", momentum=1).folder == Study.load("quick", "b", momentum=1.0).folder


def test_facts_are_json_and_make_the_study_again(change_profile):
    study = Study.load("quick", "b", methods=["WP"])
    assert json.loads(json.dumps(study.facts())) == study.facts()
    again = Study.load("quick", "b", **study.facts())
    assert again.facts() == study.facts() and again.recipe == study.recipe
    assert set(study.facts()) - set(study.facts(plan=False)) == set(PLAN)
    assert {"num_epochs", "dataset", "seed"} <= set(study.facts(plan=False))
    assert not {"profile", "name", "recipe"} & set(study.facts())


@pytest.mark.parametrize("name", ["quick", "smoke", "paper"])
def test_our_own_profiles_are_sound(name):
    profile = Profile.load(name)
    assert name in profile_names() and profile.name == name
    assert profile.publish_study in profile.step_studies and set(profile.step_studies) <= set(profile.studies)
    for study in profile.studies:
        profile.study(study).check()


def test_reading_a_profile_does_not_import_torch():
    load = "from mlu_utils.studies import Study; Study.load('quick', 'digits-3')"
    code = f"import sys; {load}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=paths.ROOT)
    assert done.stdout.strip() == "False", done.stderr


def test_own_parameters_of_a_notebook(change_profile):
    profile = Profile.load("quick")
    assert profile.notebooks == ("01_data_preparation", "04_weight_pruning")
    assert profile.knobs("01_data_preparation") == {"seed": 3}
    assert profile.knobs("04_weight_pruning") == profile.knobs("04_weight_pruning", "a") == {}
    assert profile.knobs("04_weight_pruning", "b") == {"tau": 0.5}
    change_profile(notebooks={"04_weight_pruning": {"tau": 0.3, "alpha": 0.1}})
    assert Profile.load("quick").knobs("04_weight_pruning", "a") == {"tau": 0.3, "alpha": 0.1}
    assert Profile.load("quick").knobs("04_weight_pruning", "b") == {"tau": 0.5, "alpha": 0.1}


def test_first_study_is_shown_unless_the_profile_says_otherwise(change_profile):
    profile = Profile.load("quick")
    assert (profile.studies, profile.publish_study, profile.step_studies) == (("a", "b"), "a", ("a",))
    change_profile(publish_study="b", step_studies=["a", "b"])
    profile = Profile.load("quick")
    assert (profile.publish_study, profile.step_studies) == ("b", ("a", "b"))


# What is refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("profile: quick\nstudies: {a: {}}\nstudys: {}", "unknown key 'studys'.*mean 'studies'"),
        ("profile: other\nstudies: {a: {}}", "expected the file's name 'quick'"),
        ("profile: quick", "studies is empty"),
        ("profile: quick\nstudies: {a/b: {}}", "studies.a/b: use letters"),
        ("profile: quick\nstudies: {'': {}}", "studies.: use letters"),
        ("profile: quick\nstudies: {a: 3}", "studies.a: expected 'name: value'"),
        ("profile: quick\nstudies: {a: {}}\ndefaults: {x: 1, x: 2}", "key 'x' given twice"),
        ("profile: quick\nstudies: {a: {}}\npublish_study: c", "publish_study 'c'"),
        ("profile: quick\nstudies: {a: {}}\nstep_studies: a", r"step_studies 'a': expected a list with 'a' in it"),
        ("profile: quick\nstudies: {a: {}}\nstep_studies: [a, c]", "step_studies 'c': choose one of a"),
        ("profile: quick\nstudies: {a: {}}\nnotebooks: {x: 3}", "notebooks.x: expected 'name: value'"),
        ("profile: quick\nstudies: {a: {notebooks: 3}}", "studies.a.notebooks: expected 'name: value'"),
        ("profile: quick\nstudies: {a: {}}\ndefaults: {1: 2}", "the name 1 is not text; put it in quotes"),
        ("profile: [", "not valid YAML"),
        ("profile: !!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_a_malformed_profile_is_refused(change_profile, text, message):
    change_profile(text)
    with pytest.raises(ValueError, match=message) as refused:
        Profile.load("quick")
    assert "quick.yaml" in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"defaults": {"learning_rat": 0.1}}, "quick.yaml: defaults.learning_rat: no value .*mean 'learning_rate'"),
        ({"studies": {"a": {"tau": 0.1}}}, "quick.yaml: studies.a.tau: no value of a study has this name: choose one"),
        ({"defaults": {"profile": "x"}}, "defaults.profile: no value of a study has this name"),
        ({"studies": {"a": {"recipe": {}}}}, "studies.a.recipe: no value of a study has this name"),
        ({"defaults": {"learning_rate": "1e-3"}}, r"quick.yaml: defaults.learning_rate: .*'1e-3'; write 0.001 \(YAML"),
        ({"defaults": {"learning_rate": "1e-7"}}, "write 1.0e-07"),
        ({"defaults": {"learning_rate": True}}, "expected float, got bool True"),
        ({"defaults": {"learning_rate": float("nan")}}, "expected float, got str 'NaN'$"),
        ({"studies": {"a": {"num_epochs": 3.0}}}, "studies.a.num_epochs: expected int, got float 3.0; write 3"),
        ({"studies": {"a": {"methods": "WP"}}}, r"studies.a.methods: expected tuple\[str, ...\], got 'WP'; write \["),
        ({"studies": {"a": {"num_epochs": 0}}}, "studies.a: num_epochs must be finite and at least 1, got 0"),
        ({"studies": {"a": {"learning_rate": -1}}}, "studies.a: learning_rate must be finite and at least 0, got -1"),
        ({"studies": {"a": {"max_epochs": 0}}}, "studies.a: max_epochs must be at least 1, or null .*, got 0"),
        ({"studies": {"a": {"unlearning_seeds": []}}}, "studies.a: unlearning_seeds is empty"),
    ],
)
def test_a_wrong_value_is_refused_when_the_profile_is_read(change_profile, changes, message):
    change_profile(**changes)
    with pytest.raises(ValueError, match=message):
        Profile.load("quick")


@pytest.mark.parametrize(
    ("names", "change", "message"),
    [
        (("quik", "a"), {}, "unknown profile 'quik': choose one of quick; did you mean 'quick'?"),
        (("quick", "c"), {}, "unknown study 'c' in profile 'quick': choose one of a, b"),
        (("quick", "a"), {"num_epoch": 3}, "change.num_epoch: .*did you mean 'num_epochs'"),
        (("quick", "a"), {"study": "b"}, "change.study: no value of a study has this name"),
        (("quick", "a"), {"num_epochs": "3"}, "change.num_epochs: expected int, got str '3'; write 3"),
    ],
)
def test_unknown_names_list_the_known_ones(change_profile, names, change, message):
    with pytest.raises(ValueError, match=message):
        Study.load(*names, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": "digit"}, "unknown data set 'digit': .*did you mean 'digits'"),
        ({"architecture": "resnet81"}, "unknown architecture 'resnet81': .*did you mean 'resnet18'"),
        ({"schedule": "linar"}, "unknown schedule 'linar': .*did you mean 'linear'"),
        ({"kept_methods": ["WPP"]}, "unknown method 'WPP'"),
        ({"request": "lable:X"}, "lable"),
        ({"precision": "fp8"}, "unknown precision 'fp8'"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
    ],
)
def test_names_that_nothing_answers_to(change_profile, change, message):
    with pytest.raises(ValueError, match=message):
        Study.load("quick", "a", **change).check()


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (3, "float", 3.0),
        (None, "int | None", None),
        (4, "int | None", 4),
        ([1, 2], "list[float]", [1.0, 2.0]),
        ([1, 2], "tuple[float, ...]", (1.0, 2.0)),
        ((), "tuple[str, ...]", ()),
        ({"a": [1]}, "dict", {"a": [1]}),
        ([1, None], "list[int | None]", [1, None]),
    ],
)
def test_a_fitting_value_is_taken(value, annotation, expected):
    taken = checked_value(value, annotation, "here")
    assert taken == expected and repr(taken) == repr(expected)


@pytest.mark.parametrize(
    ("value", "annotation", "message"),
    [
        ("false", "bool", "write true or false without quotes"),
        (1, "bool", "write true or false"),
        (7, "str", "put it in quotes"),
        (True, "int", "expected int, got bool True"),
        ("a", "list[str]", r"write \[a, b\]"),
        (["a", 1], "list[str]", r"here\[1\]: expected str, got int 1; put it in quotes"),
        (float("inf"), "float", "expected a finite number"),
        ([1], "dict", "expected dict, got list"),
        ((1, 2), "tuple[int, int]", "unknown type 'tuple"),
        (1, "complex", "unknown type 'complex'"),
        (1, "int | str", "unknown type"),
    ],
)
def test_an_unfitting_value_is_refused(value, annotation, message):
    with pytest.raises(ValueError, match=message):
        checked_value(value, annotation, "here")
