"""A method and a data set of a package outside this repository, by the steps of CONTRIBUTING.md."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pandas as pd
import pytest

from mlu_utils import paths, unlearning

TESTS = Path(__file__).parent

MODULE = '''
import torch

from mlu_utils.data import ImageTable
from mlu_utils.models import copy_of
from mlu_utils.unlearning import Method


def stripes(*, num_images: int = 120) -> ImageTable:
    """Return noise with a bright row for each of two labels."""
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(num_images, 2, generator=generator) < 0.5).float()
    images = torch.rand(num_images, 3, 16, 16, generator=generator) / 2
    for k in range(2):
        images[:, :, 4 * k : 4 * k + 4] += labels[:, k, None, None, None] / 2
    return ImageTable.from_tensors(images, labels, ["upper", "lower"], source=f"stripes {num_images}")


def _shaken(model, strength, generator):
    unlearned = copy_of(model)
    with torch.no_grad():
        for p in unlearned.parameters():
            p += strength * torch.randn(p.shape, generator=generator)
    return unlearned


def toy(task, *, strength: float = 0.1):
    """Return a copy with noise on every weight."""
    return _shaken(task.model, strength, torch.Generator().manual_seed(task.seed))


def careless(task, *, strength: float = 0.1, precision: str = "fp32"):
    """The same from the global generator, with a hyperparameter that is the task's own business."""
    return _shaken(task.model, strength, None)


TOY = Method("toy_unlearning:toy", "Toy", "none: a test", kinds=("label", "people"))
CARELESS = Method("toy_unlearning:careless", "Careless toy", "none: a test", kinds=("label",))
'''
ENTRY_POINTS = """
[mlu_utils.methods]
toy = toy_unlearning:TOY
toy-careless = toy_unlearning:CARELESS
WP = toy_unlearning:TOY

[mlu_utils.datasets]
stripes = toy_unlearning:stripes
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """The variables of a process in which the toy package is installed, for any command that should know the method."""
    site = tmp_path_factory.mktemp("site")
    (site / "toy_unlearning.py").write_text(MODULE)
    installed = site / "toy_unlearning-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-unlearning\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(ENTRY_POINTS)
    path = [str(site), str(TESTS), str(TESTS.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(path)}


def run(environment, *arguments: str, folder: Path = TESTS.parent) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, text=True, capture_output=True, timeout=600
    )


@pytest.fixture(scope="module")
def checkout(environment, tmp_path_factory) -> tuple[dict[str, str], Path]:
    """A copy of what runs experiments, whose `runs/` is its own, and the variables for a process in it."""
    root = tmp_path_factory.mktemp("checkout")
    for part in ("mlu_utils", "data/tuning", "workflow/profiles"):
        shutil.copytree(paths.ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(paths.ROOT / "run_experiment.py", root)
    return environment | {"PYTHONPATH": os.pathsep.join([str(root), environment["PYTHONPATH"]])}, root


def test_an_installed_method_is_known_and_runs(environment):
    code = (
        "from conftest import tiny_model, tiny_table\n"
        "from mlu_utils import unlearn\n"
        "from mlu_utils.unlearning import METHODS\n"
        "print(*list(METHODS)[-3:], len(METHODS), METHODS['toy'].hyperparameters, METHODS['WP'].module)\n"
        "model, record = unlearn('toy', tiny_model(), tiny_table(), 'people:1', strength=0.5)\n"
        "print(record.method, record.hyperparameters)\n"
        "unlearn('tooy', tiny_model(), tiny_table(), 'people:1')"
    )
    result = run(environment, "-c", code)
    assert result.stdout.splitlines() == [
        # A name of ours cannot be taken over.
        "WP toy toy-careless 17 {'strength': 0.1} mlu_utils.unlearning.weight_pruning",
        "toy {'strength': 0.5}",
    ]
    assert "unknown method 'tooy': choose one of Retrain, " in result.stderr
    assert "toy, toy-careless; did you mean 'toy'?" in result.stderr


def test_an_installed_method_meets_the_contract_or_fails_it(environment):
    options = ("-m", "pytest", "-q", "-k", "toy", "-p", "no:cacheprovider", "--tb=no")
    result = run(environment, *options, str(TESTS / "test_unlearning.py"))
    failed = set(re.findall(r"^FAILED .*::(test_\w+)\[toy-careless\b", result.stdout, re.MULTILINE))
    assert failed == {
        "test_contract",
        "test_a_model_in_train_mode_gives_the_same_result_and_stays_there",
        "test_a_method_takes_a_task_and_a_few_hyperparameters_with_defaults",
    }, result.stdout
    # Of toy 3 contracts, train mode, signature, 5 kinds and bad requests pass, of the other 7 kinds and bad requests.
    assert re.search(r"^3 failed, 19 passed", result.stdout, re.MULTILINE), result.stdout


def test_what_is_no_method_is_refused_only_when_asked_for(monkeypatch):
    wrong = EntryPoint("wrong", "math:pi", unlearning.ENTRY_POINTS)
    monkeypatch.setattr(unlearning, "entry_points", lambda group: [wrong] if group == wrong.group else [])
    methods = unlearning._Methods({"ours": unlearning.METHODS["FT"]})
    assert list(methods) == ["ours", "wrong"] and len(methods) == 2
    with pytest.raises(TypeError, match="entry point 'wrong' of mlu_utils.methods is 3.14.*: expected an unlearning.M"):
        methods["wrong"]


def test_the_command_runs_an_installed_method_on_an_installed_data_set(checkout):
    environment, root = checkout
    options = ("--profile", "smoke", "--dataset", "stripes", "--label", "upper", "--json", "result.json")
    result = run(environment, "run_experiment.py", "--method", "toy", *options, folder=root)
    assert result.returncode == 0, result.stderr
    found = json.loads((root / "result.json").read_text())
    assert (found["method"], found["dataset"], found["request"]) == ("toy", "stripes", "label:upper")
    assert all(set(values) == {"original", "retrain", "unlearned"} for values in found["scores"].values())
    options = ("--method", "toy", "--dataset", "stripe", "--label", "upper")
    refused = run(environment, "run_experiment.py", *options, folder=root)
    assert refused.returncode == 2 and "did you mean 'stripes'?" in refused.stderr


def test_notebook_05_compares_an_installed_method_on_an_installed_data_set(checkout):
    environment, root = checkout
    change = {"dataset": "stripes", "request": "label:lower", "methods": ["HeadReset", "toy"], "image_size": None}
    result = run(
        environment,
        *("-m", "papermill", str(paths.NOTEBOOKS / "05_baselines.ipynb"), "out.ipynb", "--no-progress-bar"),
        *("-p", "profile", "smoke", "-y", json.dumps({"change": change | {"kept_methods": []}})),
        folder=root,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    (file,) = (root / "runs").rglob("scores_05.csv")
    scores = pd.read_csv(file)
    assert set(scores.dataset) == {"stripes"} and {"HeadReset", "toy"} <= set(scores.method)
    assert "none: a test" in (root / "out.ipynb").read_text()  # its source, in the table of who runs
