"""A project of two studies with a small notebook for every rule, for the tests of the workflow."""

import json
import os
import shutil

import nbformat
import publish

import notebooks
from mlu_utils import digests, paths
from mlu_utils.data import DATASETS, module_of
from mlu_utils.studies import Profile
from mlu_utils.unlearning import METHODS

ROOMS = ("data", "results", "unlearning")
STUDY_PARAMETERS = """\
profile: str = "by-hand"  # which profile
study: str = "by-hand"  # which study
change: dict = {}  # any field of the study
"""
OWN_PARAMETERS = {
    "02_original_model": "size: int = 3  # rows\n",
    "04_weight_pruning": "tau: float = 0.01  # threshold\nnames: list[str] = [\n    'é',  # one\n    'b',\n]  # two\n",
    "06_privacy_analysis": "attacked_methods: list[str] = ['SCRUB', 'WF']  # who is attacked\n",
}
CELLS = {
    "03_weight_filtering": "from mlu_utils import filtering, results\nfiltering.run('WF')",
    "05_baselines": "%matplotlib inline\nfrom mlu_utils import results",
    "11_results": "from mlu_utils import results",
}
STUDIES = {"a": {"methods": ["WF"]}, "b": {"num_epochs": 7}}
PROFILE = {"profile": "quick", "publish_study": "a", "defaults": {"learning_rate": 0.2}, "studies": STUDIES}


def write_notebook(root, name, *sources, parameters=""):
    cells = [nbformat.v4.new_markdown_cell("# A question", id="title")]
    cells.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}, id="parameters"))
    cells += [nbformat.v4.new_code_cell(source, id=f"step-{i}") for i, source in enumerate(sources)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = root / "notebooks" / f"{name}.ipynb"
    nbformat.write(notebook, path)
    return path


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def change_profile(root, **changes):
    # JSON is YAML.
    (root / "workflow" / "profiles" / "quick.yaml").write_text(json.dumps(PROFILE | changes))


def make_project(root):
    """Write a project with a small notebook for every rule, two studies and a package of its own."""
    package = root / "mlu_utils"
    for folder in ("notebooks", "workflow/profiles", "figures", *(f"mlu_utils/{room}" for room in ROOMS)):
        (root / folder).mkdir(parents=True)
    for name in ("__init__", "naming", "paths", "studies", "digests", "files", "unlearning/__init__", "data/__init__"):
        shutil.copy(paths.ROOT / "mlu_utils" / f"{name}.py", package / f"{name}.py")
    shutil.copy(paths.ROOT / "mlu_utils" / "unlearning" / "methods.yaml", package / "unlearning")
    for name in ("Snakefile", "run.py", "notebooks.py"):
        shutil.copy(paths.ROOT / "workflow" / name, root / "workflow" / name)
    for module in {*(method.module for method in METHODS.values()), *map(module_of, DATASETS)}:
        (root / f"{module.replace('.', '/')}.py").write_text("STEPS = 1\n")
    (package / "deep.py").write_text("VALUE = 1  # a comment\n")
    (package / "filtering.py").write_text('"""A docstring."""\n\nfrom mlu_utils import deep\n')
    (package / "results" / "__init__.py").write_text("from mlu_utils.results import scores, style\n")
    (package / "results" / "scores.py").write_text("COLUMNS = 1\n")
    (package / "results" / "style.py").write_text("COLOUR = 'blue'\n")
    for folder in {name for rule in notebooks.RULES.values() for name in rule.data}:
        (root / "data" / folder).mkdir(parents=True, exist_ok=True)
        (root / "data" / folder / "table.csv").write_text("value\n1\n")
    for name, rule in notebooks.RULES.items():
        parameters = 'profile: str = "by-hand"\n' if rule.runs_for == "profile" else STUDY_PARAMETERS
        parameters += OWN_PARAMETERS.get(name, "")
        write_notebook(root, name, CELLS.get(name, "import math"), "print(1)", parameters=parameters)
    change_profile(root)
    return root


def use_project(root, monkeypatch):
    for name in ("data", "notebooks", "runs", "figures"):
        monkeypatch.setattr(paths, name.upper(), root / name)
    monkeypatch.setattr(paths, "PROFILES", root / "workflow" / "profiles")
    monkeypatch.setattr(paths, "ROOT", root)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    forget_files()
    return root


def forget_files():
    digests.code_digest.cache_clear()
    for remembered in (notebooks._data_sha256, notebooks._content):
        remembered.cache_clear()


def stale_notebooks():
    """Return committed notebook -> why code, parameters and outputs don't belong together; empty when all do."""
    stale = {}
    for path in sorted(paths.NOTEBOOKS.glob("*.ipynb")):
        page = notebooks.read_notebook(path)
        published = page["metadata"].get("mlu", {})
        shown = {name: value for name, (_, value) in notebooks.read_parameters(page, path.stem).items()}
        if not published:
            stale[path.name] = "its outputs were never published"
        elif published.get("code_sha256") != notebooks.code_sha256(page, path.stem):
            stale[path.name] = "its code changed after its outputs were made"
        elif published.get("parameters") != shown:
            stale[path.name] = "the parameters that it shows are not those that made its outputs"
        elif published.get("outputs_sha256") != publish.outputs_sha256(page):
            stale[path.name] = "its outputs are not those that were published (run by hand and saved?)"
        elif unfit := publish.why_unfit(page, path.stat().st_size):
            stale[path.name] = unfit
    return stale


def quick():
    return Profile.load("quick")


def job(notebook="02_original_model", study="a"):
    return notebooks.find_job(notebook, quick(), study)
