"""The engine on a small project of its own: parameters, fingerprints, runs, publishing, the Snakefile."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import nbformat
import pytest

from mlu_utils import cli, notebook_runs, paths, studies

STUDY_PARAMETERS = """\
profile: str = "quick"  # which profile
study: str = "by-hand"  # which study
learning_rate: float = 0.1  # step size
num_epochs: int = 3  # passes over the data
"""
PROFILE = {
    "profile": "quick",
    "publish_study": "a",
    "defaults": {"learning_rate": 0.2},
    "studies": {"a": {}, "b": {"num_epochs": 7}},
}


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
    (root / "profiles" / "quick.yaml").write_text(json.dumps(PROFILE | changes))


def make_project(root):
    """Write a project with a small notebook for every rule, two studies and a package of its own."""
    for folder in ("notebooks", "profiles", "data/orl_attributes", "data/reference", "data/tuning", "mlu_utils"):
        (root / folder).mkdir(parents=True)
    for name in ("__init__.py", "naming.py", "paths.py", "studies.py", "notebook_runs.py", "cli.py"):
        (root / "mlu_utils" / name).write_bytes((paths.ROOT / "mlu_utils" / name).read_bytes())
    (root / "Snakefile").write_bytes((paths.ROOT / "Snakefile").read_bytes())
    (root / "mlu_utils" / "deep.py").write_text("VALUE = 1  # a comment\n")
    (root / "mlu_utils" / "filtering.py").write_text('"""A docstring."""\n\nfrom mlu_utils import deep\n')
    (root / "data" / "orl_attributes" / "labels.csv").write_text("image,label\n")
    (root / "data" / "reference" / "table.csv").write_text("value\n1\n")
    (root / "data" / "tuning" / "label.csv").write_text("method\nWF\n")
    for name, rule in notebook_runs.RULES.items():
        parameters = STUDY_PARAMETERS if rule.per_study else 'profile: str = "quick"  # which profile\n'
        parameters += "tau: float = 0.01  # threshold\n" if name == "04_weight_pruning" else ""
        imports = "from mlu_utils import filtering" if name == "03_weight_filtering" else "import math"
        write_notebook(root, name, imports, "print(1)", parameters=parameters)
    change_profile(root)
    return root


@pytest.fixture
def project(tmp_path, monkeypatch):
    root = make_project(tmp_path)
    for name in ("data", "notebooks", "profiles", "runs"):
        monkeypatch.setattr(paths, name.upper(), root / name)
    monkeypatch.setattr(paths, "ROOT", root)
    return root


def quick():
    return studies.load_profile("quick")


def job(notebook="02_original_model", study="a"):
    return notebook_runs.find_job(notebook, quick(), study)


# --- Parameters ---------------------------------------------------------------------------------------------


def test_parameters_are_read_with_type_default_and_meaning(project):
    read = notebook_runs.read_parameters(paths.NOTEBOOKS / "04_weight_pruning.ipynb")
    assert list(read) == ["profile", "study", "learning_rate", "num_epochs", "tau"]
    assert read["tau"] == notebook_runs.Parameter("tau", "float", 0.01, "threshold")


def test_defaults_then_profile_then_notebook_then_study(project):
    resolve = notebook_runs.resolve_parameters
    expected = {"profile": "quick", "study": "b", "learning_rate": 0.2, "num_epochs": 7}
    assert resolve("02_original_model", quick(), "b") == expected
    own = {"num_epochs": 7, "notebooks": {"04_weight_pruning": {"tau": 0.5}}}
    change_profile(project, notebooks={"04_weight_pruning": {"tau": 0.3}}, studies={"a": {}, "b": own})
    assert resolve("04_weight_pruning", quick(), "a")["tau"] == 0.3
    assert resolve("04_weight_pruning", quick(), "b")["tau"] == 0.5
    # A value for notebooks that don't have the parameter is simply not theirs.
    assert resolve("01_data_preparation", quick()) == {"profile": "quick"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"defaults": {"learning_rat": 0.1}},
            "no notebook has a parameter 'learning_rat'.*mean 'learning_rate'",
        ),
        ({"notebooks": {"02_original_model": {"tau": 0.1}}}, "02_original_model has no parameter 'tau'"),
        ({"notebooks": {"02_original": {}}}, "unknown notebook '02_original'.*mean '02_original_model'"),
        (
            {"defaults": {"learning_rate": "1e-3"}},
            r"quick.yaml: defaults.learning_rate: .*'1e-3'; write 0.001 \(YAML",
        ),
        ({"defaults": {"learning_rate": "1e-7"}}, "write 1.0e-07"),
        ({"defaults": {"learning_rate": True}}, "expected float, got bool True"),
        ({"defaults": {"learning_rate": float("nan")}}, "expected float|finite"),
        ({"defaults": {"num_epochs": 3.0}}, "expected int, got float 3.0; write 3"),
        ({"defaults": {"profile": "x"}}, "'profile' is filled in by the engine"),
        ({"studies": {"a": {"notebooks": {"99": {}}}}}, "studies.a.notebooks: unknown notebook '99'"),
    ],
)
def test_a_wrong_hyperparameter_is_refused_before_any_work(project, changes, message):
    change_profile(project, **changes)
    with pytest.raises(ValueError, match=message):
        notebook_runs.check_profile(quick())


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (3, "float", 3.0),
        (None, "int | None", None),
        (4, "int | None", 4),
        ([1, 2], "list[float]", [1.0, 2.0]),
    ],
)
def test_a_fitting_value_is_taken(value, annotation, expected):
    taken = notebook_runs.checked_value(value, annotation, "here")
    assert taken == expected and repr(taken) == repr(expected)


@pytest.mark.parametrize(
    ("value", "annotation", "message"),
    [
        ("false", "bool", "write true or false without quotes"),
        (1, "bool", "write true or false"),
        (7, "str", "put it in quotes"),
        (True, "int", "expected int, got bool True"),
        ("a", "list[str]", r"write \[a, b\]"),
        (["a", 1], "list[str]", r"here\[1\]: expected list\[str\], got int 1"),
        (float("inf"), "float", "finite"),
        ((1, 2), "tuple[int, int]", "unknown type 'tuple"),
    ],
)
def test_an_unfitting_value_is_refused(value, annotation, message):
    with pytest.raises(ValueError, match=message):
        notebook_runs.checked_value(value, annotation, "here")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("seed = 42", "expected 'name: type = literal"),
        ("seed: int", "expected 'name: type = literal"),
        ("folder: str = f'runs/{1}'", "is no literal; derive it in the next cell"),
        ("seed: int = 1\nseed: int = 2", "given twice"),
        ("seed: int = '1'", "default of seed: expected int, got str '1'; write 1"),
    ],
)
def test_a_parameters_cell_holds_annotated_literals_only(project, line, message):
    path = write_notebook(project, "02_original_model", parameters=line)
    with pytest.raises(ValueError, match=message):
        notebook_runs.read_parameters(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("profile: quick\nstudies: {a: {}}\nstudys: {}", "unknown key 'studys'.*mean 'studies'"),
        ("profile: other\nstudies: {a: {}}", "expected the file's name 'quick'"),
        ("profile: quick", "studies is empty"),
        ("profile: quick\nstudies: {a/b: {}}", "studies.a/b: use letters"),
        ("profile: quick\nstudies: {a: 3}", "studies.a: expected 'name: value'"),
        ("profile: quick\nstudies: {a: {}}\ndefaults: {x: 1, x: 2}", "key 'x' given twice"),
        ("profile: quick\nstudies: {a: {}}\npublish_study: c", "publish_study 'c'"),
        ("profile: [", "not valid YAML"),
        ("profile: !!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_a_malformed_profile_is_refused(project, text, message):
    (paths.PROFILES / "quick.yaml").write_text(text)
    with pytest.raises(ValueError, match=message) as refused:
        quick()
    assert "quick.yaml" in str(refused.value)


def test_unknown_names_list_the_known_ones(project):
    with pytest.raises(ValueError, match="unknown profile 'quik'.*quick.*did you mean 'quick'"):
        studies.load_profile("quik")
    with pytest.raises(ValueError, match="unknown study 'c' in profile 'quick': choose one of a, b"):
        job(study="c")
    with pytest.raises(ValueError, match="unknown notebook '02_orignal_model'.*did you mean '02_original_model'"):
        job("02_orignal_model")
    with pytest.raises(ValueError, match="once per study: give --study"):
        job(study=None)
    with pytest.raises(ValueError, match="once per profile: give no --study"):
        job("11_results", "a")


# --- Fingerprints -------------------------------------------------------------------------------------------

EVERYTHING = {
    (name, study)
    for name, rule in notebook_runs.RULES.items()
    for study in ("a" if rule.shows_steps else "ab" if rule.per_study else [None])
}


def changed_by(action):
    """Return the jobs, as (notebook's number, study), whose fingerprint differs after `action`."""
    before = notebook_runs.fingerprints(quick())
    action()
    for remembered in (
        notebook_runs._module_sha256,
        notebook_runs._imports_of_file,
        notebook_runs._data_sha256,
    ):
        remembered.cache_clear()
    after = notebook_runs.fingerprints(quick())
    assert set(before) == EVERYTHING
    return {(name.split("_")[0], study) for name, study in after if after[name, study] != before[name, study]}


def test_touching_or_looking_changes_nothing(project):
    def touch():
        for path in project.rglob("*"):
            os.utime(path)

    assert changed_by(touch) == set()


def test_outputs_metadata_comments_and_docstrings_change_nothing(project):
    def run_by_hand():
        path = paths.NOTEBOOKS / "02_original_model.ipynb"
        notebook = nbformat.read(path, as_version=4)
        notebook.cells[-1].outputs = [nbformat.v4.new_output("stream", text="1\n")]
        notebook.metadata.mlu = {"profile": "quick"}
        nbformat.write(notebook, path)
        edit(project / "mlu_utils" / "deep.py", "a comment", "another comment")
        edit(project / "mlu_utils" / "filtering.py", "A docstring", "Another docstring")

    assert changed_by(run_by_hand) == set()


def test_a_hyperparameter_changes_what_depends_on_it_and_nothing_else(project):
    tau = {"a": {"tau": 0.9}, "b": {"num_epochs": 7}}
    assert changed_by(lambda: change_profile(project, studies=tau)) == {("04", "a"), ("11", None)}
    epochs = {"a": {"tau": 0.9}, "b": {"num_epochs": 8}}
    after = changed_by(lambda: change_profile(project, studies=epochs))
    assert after == {("02", "b"), ("05", "b"), ("06", None), ("07b", None), ("07c", None), ("11", None)}


def test_code_changes_what_imports_it_even_indirectly(project):
    def change_module():
        edit(project / "mlu_utils" / "deep.py", "VALUE = 1", "VALUE = 2")

    assert changed_by(change_module) == {("03", "a"), ("11", None)}

    def change_cell():
        edit(paths.NOTEBOOKS / "02_original_model.ipynb", "print(1)", "print(2)")

    upstream = {(number, study) for number in ("02", "05") for study in "ab"} | {("03", "a"), ("04", "a")}
    assert changed_by(change_cell) == upstream | {("06", None), ("07b", None), ("07c", None), ("11", None)}


def test_data_changes_what_declares_it(project):
    changed = changed_by(lambda: (paths.DATA / "reference" / "table.csv").write_text("value\n2\n"))
    assert changed == {("11", None)}


def test_import_closure_sees_every_way_to_import(project):
    package = project / "mlu_utils" / "rooms"
    package.mkdir()
    (package / "__init__.py").write_text("from . import one\n")
    (package / "one.py").write_text("def f():\n    from .two import g\n    from .. import deep\n")
    (package / "two.py").write_text("g = 1\n")
    path = write_notebook(project, "02_original_model", "%matplotlib inline\nfrom mlu_utils.rooms import one as x")
    names = {f"mlu_utils{name}" for name in ("", ".rooms", ".rooms.one", ".rooms.two", ".deep")}
    assert notebook_runs.import_closure(path) == names


# --- One run ------------------------------------------------------------------------------------------------


def outputs_of(path):
    cells = nbformat.read(path, as_version=4).cells
    return "".join(output.text for cell in cells for output in cell.get("outputs", ()) if "text" in output)


def test_a_run_uses_this_interpreter_and_records_all_parameters(project, monkeypatch):
    # A user's own kernel named python3 must not be taken.
    theirs = project / "user" / "kernels" / "python3"
    theirs.mkdir(parents=True)
    spec = {"argv": ["/no/such/python", "{connection_file}"], "display_name": "x", "language": "python"}
    (theirs / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(project / "user"))
    source = "import os, sys\nimport tqdm\nfrom mlu_utils import paths\n"
    source += "list(tqdm.tqdm(range(3)))\n"
    source += "print(sys.executable, os.getcwd(), os.environ['TQDM_DISABLE'], paths.ROOT, num_epochs, study)"
    write_notebook(project, "02_original_model", source, parameters=STUDY_PARAMETERS)
    failed = job().output.with_suffix(".failed.ipynb")
    failed.parent.mkdir(parents=True)
    failed.write_text("{}")
    executed = notebook_runs.run_notebook(job())
    assert executed == project / "runs" / "quick" / "a" / "02_original_model.ipynb"
    assert outputs_of(executed) == f"{sys.executable} {project} 1 {project} 3 a\n"
    recorded = nbformat.read(executed, as_version=4).metadata.mlu
    assert recorded.parameters == {"profile": "quick", "study": "a", "learning_rate": 0.2, "num_epochs": 3}
    assert recorded.fingerprint == notebook_runs.fingerprints(quick())["02_original_model", "a"]
    assert [file.name for file in executed.parent.iterdir()] == [executed.name]


def test_a_failing_cell_leaves_no_result_and_is_not_repeated(project, capsys):
    counter = project / "count"
    source = f"open({str(counter)!r}, 'a').write('x')\nprint('so far')\nraise KeyError('Eyeglasess')"
    write_notebook(project, "02_original_model", source, parameters=STUDY_PARAMETERS)
    arguments = ["run-notebook", "--notebook", "02_original_model", "--profile", "quick", "--study", "a"]
    assert cli.main(arguments) == 1
    message = capsys.readouterr().err
    assert "02_original_model · a: a cell failed" in message
    assert "KeyError: 'Eyeglasess'" in message and "\x1b" not in message
    assert [file.name for file in job().output.parent.iterdir()] == ["02_original_model.failed.ipynb"]
    assert "so far" in outputs_of(job().output.with_suffix(".failed.ipynb"))
    assert counter.read_text() == "x"


def test_only_a_kernel_that_does_not_start_is_tried_again(project, monkeypatch):
    calls = []

    def start_fails_twice(path):
        calls.append(path)
        if len(calls) < 3:
            raise RuntimeError("Kernel didn't respond in 180 seconds")

    monkeypatch.setattr(notebook_runs, "_execute", start_fails_twice)
    assert notebook_runs.run_notebook(job()).exists()
    assert len(calls) == 3

    def start_always_fails(path):
        calls.append(path)
        raise RuntimeError("Kernel didn't respond in 180 seconds")

    calls.clear()
    monkeypatch.setattr(notebook_runs, "_execute", start_always_fails)
    with pytest.raises(RuntimeError, match="no kernel started in 3 tries"):
        notebook_runs.run_notebook(job(study="b"))
    assert len(calls) == 3

    def dies_in_a_cell(path):
        calls.append(path)
        notebook = nbformat.read(path, as_version=4)
        notebook.cells[1].metadata.papermill = {"status": "running"}
        nbformat.write(notebook, path)
        raise RuntimeError("Kernel died")

    calls.clear()
    monkeypatch.setattr(notebook_runs, "_execute", dies_in_a_cell)
    with pytest.raises(notebook_runs.CellFailed, match="the kernel was lost: RuntimeError: Kernel died"):
        notebook_runs.run_notebook(job(study="b"))
    assert len(calls) == 1
    assert not job(study="b").output.exists()


def test_an_interruption_leaves_no_result(project, monkeypatch):
    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(notebook_runs, "_execute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        notebook_runs.run_notebook(job())
    assert [file.name for file in job().output.parent.iterdir()] == ["02_original_model.failed.ipynb"]


# --- Copies for nbval and committed outputs -----------------------------------------------------------------


def test_prepared_copies_sort_in_running_order(project):
    written = notebook_runs.prepare(quick(), project / "build")
    names = [path.name for path in written]
    assert names == sorted(path.name for path in (project / "build").iterdir())
    assert "02_original_model__b.ipynb" in names and names[-1] == "11_results.ipynb"
    notebook = nbformat.read(project / "build" / "02_original_model__b.ipynb", as_version=4)
    nbformat.validate(notebook)
    injected = [cell for cell in notebook.cells if "injected-parameters" in cell.metadata.get("tags", ())]
    assert "num_epochs = 7" in injected[0].source and "learning_rate = 0.2" in injected[0].source


def test_prepare_never_empties_a_folder_of_other_files(project, capsys):
    (project / "mine").mkdir()
    (project / "mine" / "thesis.tex").touch()
    assert cli.main(["prepare", "--profile", "quick", "--into", str(project / "mine")]) == 2
    assert "holds other files than notebooks" in capsys.readouterr().err
    assert (project / "mine" / "thesis.tex").exists()


def pretend_to_run(project, text="42 images\n"):
    """Write every job's executed notebook as a run would have left it."""
    for each in notebook_runs.jobs(quick()):
        notebook = nbformat.from_dict(notebook_runs._parameterised(each))
        notebook.cells[-1].outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)]
        notebook.cells[-1].metadata.papermill = {"start_time": "2025-01-01T00:00:00"}
        each.output.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, each.output)


def test_publishing_copies_outputs_and_nothing_else(project):
    before = {path.name: notebook_runs.code_sha256(path) for path in paths.NOTEBOOKS.iterdir()}
    assert set(notebook_runs.stale_notebooks().values()) == {"its outputs were never published"}
    pretend_to_run(project, f"read {project}/data/x.csv with {sys.executable}\n")
    notebook_runs.publish(quick())
    assert notebook_runs.stale_notebooks() == {}
    assert before == {path.name: notebook_runs.code_sha256(path) for path in paths.NOTEBOOKS.iterdir()}
    path = paths.NOTEBOOKS / "02_original_model.ipynb"
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert outputs_of(path) == "read data/x.csv with <environment>/bin/python\n".replace(
        "/bin/python", sys.executable.removeprefix(sys.prefix)
    )
    assert [cell.id for cell in notebook.cells] == ["title", "parameters", "step-0", "step-1"]
    assert "papermill" not in path.read_text() and "2025-01-01" not in path.read_text()
    assert {key: notebook.metadata.mlu[key] for key in ("profile", "study")} == {
        "profile": "quick",
        "study": "a",
    }


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("print(1)", "print(2)", "its code changed"),
        ("42 images", "43 images", "not those that were published"),
        ("42 images", "42 images in /home/someone/data", "not those that were published"),
    ],
)
def test_stale_outputs_are_found(project, old, new, reason):
    pretend_to_run(project)
    notebook_runs.publish(quick())
    edit(paths.NOTEBOOKS / "02_original_model.ipynb", old, new)
    stale = notebook_runs.stale_notebooks()
    assert list(stale) == ["02_original_model.ipynb"] and reason in stale["02_original_model.ipynb"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("see /opt/someone/file\n", "outputs name a path of this machine: /opt/someone/file"),
        ("x" * 1_000_001, "bytes"),
    ],
    ids=["machine path", "too big"],
)
def test_unfit_outputs_are_not_published(project, text, message):
    pretend_to_run(project, text)
    before = {path: path.read_text() for path in paths.NOTEBOOKS.iterdir()}
    with pytest.raises(ValueError, match=message):
        notebook_runs.publish(quick())
    assert before == {path: path.read_text() for path in paths.NOTEBOOKS.iterdir()}


def test_a_notebook_changed_after_its_run_is_not_published(project):
    with pytest.raises(ValueError, match="01_data_preparation · quick has not run: make reproduce"):
        notebook_runs.publish(quick())
    pretend_to_run(project)
    edit(paths.NOTEBOOKS / "04_weight_pruning.ipynb", "print(1)", "print(2)")
    with pytest.raises(ValueError, match="04_weight_pruning.ipynb changed since it ran"):
        notebook_runs.publish(quick())


def test_claims_are_printed_and_counted_with_the_place_of_the_report(project, monkeypatch, capsys):
    monkeypatch.setattr(paths, "FIGURES", project / "figures")
    assert cli.main(["claims"]) == 2
    assert "figures/claims.csv is missing: make reproduce" in capsys.readouterr().err
    (project / "figures").mkdir()
    (project / "figures" / "claims.csv").write_text(
        "claim_id,printed,ours,check,verdict\n"
        "CelebA/speed-up over Retrain/WP,27.45,41.0,embedded data,reproduced\n"
        "table2/CelebA/ResNet-18/WP/test,95.12,,paper's data,cannot be tested here\n"
        "check/splits_sum,65 + 25 + 10,100,printed numbers,consistent\n"
    )
    assert cli.main(["claims"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[1:3]] == ["reproduced", "consistent"]
    assert "27.45" in lines[1] and "41" in lines[1]
    counts = {line[:24].strip(): line.split()[-1] for line in lines if line}
    assert counts["reproduced"] == counts["cannot be tested here"] == "1" and counts["inconsistent"] == "0"
    assert any("runs/quick/11_results.ipynb" in line for line in lines)
    assert cli.main(["claims", "--profile", "paper"]) == 2
    assert "runs/paper/figures/claims.csv is missing: make reproduce PROFILE=paper" in capsys.readouterr().err


# --- The Snakefile ------------------------------------------------------------------------------------------

# Runs no kernel, so that what Snakemake decides is tested in seconds: notes the job, fails where told to.
FAKE_RUN = """

def run_notebook(job):
    with open(paths.ROOT / "log", "a") as log:
        log.write(f"{job.notebook.split('_')[0]}{job.study or ''} ")
    if (paths.ROOT / "crash").exists() and (paths.ROOT / "crash").read_text() == job.notebook:
        raise CellFailed("crashed as told")
    key = (job.notebook, job.study)
    notebook = {"cells": [], "metadata": {"mlu": {"fingerprint": fingerprints(job.profile)[key]}}}
    _write_notebook(notebook, job.output)
    return job.output
"""


@pytest.fixture(scope="module")
def workflow(tmp_path_factory):
    root = make_project(tmp_path_factory.mktemp("workflow"))
    with open(root / "mlu_utils" / "notebook_runs.py", "a") as file:
        file.write(FAKE_RUN)

    def reproduce():
        """Return what ran, in order, and how `reproduce` ended."""
        (root / "log").write_text("")
        environment = os.environ | {"PYTHONPATH": str(root)}
        command = [sys.executable, "-m", "mlu_utils.cli", "reproduce", "--cores", "2"]
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
        return sorted((root / "log").read_text().split()), done

    return SimpleNamespace(root=root, reproduce=reproduce)


def test_the_workflow_runs_what_is_needed_and_nothing_else(workflow):
    root, everything = workflow.root, ["01", "02a", "02b", "03a", "04a", "05a", "05b", "06", "07", "07b", "07c", "11"]

    # A crash in the middle: what doesn't depend on it goes on.
    (root / "crash").write_text("03_weight_filtering")
    ran, done = workflow.reproduce()
    assert ran == everything[:-1] and done.returncode != 0
    assert "crashed as told" in done.stderr

    # The next run resumes there; a hyperparameter of one study changed meanwhile.
    (root / "crash").unlink()
    change_profile(root, studies={"a": {"tau": 0.9}, "b": {"num_epochs": 7}})
    ran, done = workflow.reproduce()
    assert ran == ["03a", "04a", "11"] and done.returncode == 0, done.stderr

    # Nothing changed, only times: nothing runs.
    for path in [root / "Snakefile", *root.glob("*/*"), *root.glob("runs/**/*.ipynb")]:
        os.utime(path)
    ran, done = workflow.reproduce()
    assert ran == [] and done.returncode == 0, done.stderr

    # Code, while Snakemake's own records are lost.
    edit(root / "mlu_utils" / "deep.py", "VALUE = 1", "VALUE = 2")
    subprocess.run(["rm", "-r", str(root / ".snakemake")], check=True)
    assert workflow.reproduce()[0] == ["03a", "11"]


def test_the_longest_chain_starts_first(project, monkeypatch):
    rules = {name: replace(rule, seconds=10) for name, rule in notebook_runs.RULES.items()}
    rules["07_appendix_proofs"] = replace(rules["07_appendix_proofs"], seconds=15)
    monkeypatch.setattr(notebook_runs, "RULES", rules)
    priority = notebook_runs.priorities(studies.load_profile("quick"))
    order = sorted(priority, key=priority.get, reverse=True)
    # 02, 05, 06 and 11 wait for each other; of equal chains the study named first; 07 and 11 before 06 and 11.
    expected = [(name, study) for name in ("02_original_model", "05_baselines") for study in ("a", "b")]
    assert order[:5] == [*expected, ("07_appendix_proofs", None)]
    assert order[-1] == ("11_results", None) and len(set(priority.values())) == len(order)


def test_a_typo_stops_the_workflow_before_any_work(workflow):
    text = (workflow.root / "profiles" / "quick.yaml").read_text()
    try:
        change_profile(workflow.root, defaults={"learning_rte": 0.1})
        ran, done = workflow.reproduce()
    finally:
        (workflow.root / "profiles" / "quick.yaml").write_text(text)
    assert ran == [] and done.returncode == 2
    assert "did you mean 'learning_rate'" in done.stderr and "Traceback" not in done.stderr


def test_two_runs_at_once_are_refused(project, capsys):
    with cli._only_one_at_a_time():
        assert cli.main(["reproduce", "--profile", "quick"]) == 1
    assert f"another run is at work here (process {os.getpid()})" in capsys.readouterr().err
