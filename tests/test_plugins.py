"""A method of a package outside this repository: known by name, run by `unlearn`, held to the contract."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from mlu_utils import unlearning

TESTS = Path(__file__).parent

MODULE = '''
import torch

from mlu_utils.models import copy_of
from mlu_utils.unlearning import Method


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


def run(environment, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments], cwd=TESTS.parent, env=environment, text=True, capture_output=True, timeout=600
    )


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
        "WP toy toy-careless 15 {'strength': 0.1} mlu_utils.unlearning.weight_pruning",
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
