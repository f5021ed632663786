"""The workflow on a small project of its own: parameters, fingerprints, runs, prepared copies, the Snakefile."""

import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import nbformat
import pytest
import run
from small_project import (
    STUDIES,
    STUDY_PARAMETERS,
    change_profile,
    edit,
    forget_files,
    job,
    make_project,
    quick,
    use_project,
    write_notebook,
)

import notebooks
from mlu_utils import paths


@pytest.fixture
def project(tmp_path, monkeypatch):
    yield use_project(make_project(tmp_path), monkeypatch)
    forget_files()


# --- Parameters ---------------------------------------------------------------------------------------------


def parameters_cell(notebook):
    return next(notebooks.source_of(cell) for cell in notebook["cells"] if cell["id"] == "parameters")


def test_the_executed_copy_shows_the_values_that_it_runs_with(project):
    change_profile(project, notebooks={"04_weight_pruning": {"tau": 2, "names": ["x", 'a "ü"', "#"]}})
    copy = notebooks.parameterised(job("04_weight_pruning"), "f")
    assert parameters_cell(copy).splitlines() == [
        'profile: str = "quick"  # which profile',
        'study: str = "a"  # which study',
        "change: dict = {}  # any field of the study",
        "tau: float = 2.0  # threshold",
        'names: list[str] = ["x", "a \\"ü\\"", "#"]  # two',
    ]
    recorded = copy["metadata"]["mlu"]
    assert recorded["parameters"] == {
        "profile": "quick",
        "study": "a",
        "change": {},
        "tau": 2.0,
        "names": ["x", 'a "ü"', "#"],
    }
    assert recorded["fingerprint"] == "f" and recorded["study"] == "a"
    # Values that stay keep their text, and the code is the same whatever the values.
    change_profile(project)
    assert "'b',\n]  # two" in parameters_cell(notebooks.parameterised(job("04_weight_pruning"), "f"))
    committed = notebooks.read_notebook(notebooks.committed("04_weight_pruning"))
    assert notebooks.code_sha256(committed, "04") == recorded["code_sha256"]


def test_a_study_may_have_knobs_of_its_own(project):
    own = {"a": {"notebooks": {"04_weight_pruning": {"tau": 0.5}}}, "b": {}}
    change_profile(project, notebooks={"04_weight_pruning": {"tau": 0.3}}, studies=own)
    values = [notebooks.resolve_parameters(job("04_weight_pruning", study))["tau"] for study in "ab"]
    assert values == [0.5, 0.3]


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"04_weight_pruning": {"tua": 0.1}}, "04_weight_pruning has no parameter 'tua'.*mean 'tau'"),
        (
            {"04_weight_pruning": {"tau": "1e-3"}},
            r"notebooks.04_weight_pruning.tau: expected float.*'1e-3'; write 0.001",
        ),
        ({"04_weight_pruning": {"names": "WF"}}, r"expected list\[str\], got 'WF'; write \[a, b\]"),
        ({"04_weight_pruning": {"study": "b"}}, "'study' is filled in by the workflow"),
        ({"02_original": {}}, "unknown notebook '02_original'.*mean '02_original_model'"),
    ],
)
def test_a_wrong_knob_is_refused_before_any_work(project, knobs, message):
    change_profile(project, notebooks=knobs)
    with pytest.raises(ValueError, match=message):
        notebooks.check_profile(quick())


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
        notebooks.read_parameters(notebooks.read_notebook(path), path.name)


def test_unknown_names_list_the_known_ones(project):
    with pytest.raises(ValueError, match="unknown study 'c' in profile 'quick': choose one of a, b"):
        job(study="c")
    with pytest.raises(ValueError, match="unknown notebook '02_orignal_model'.*did you mean '02_original_model'"):
        job("02_orignal_model")
    with pytest.raises(ValueError, match="once per study: give --study"):
        job(study=None)
    with pytest.raises(ValueError, match="once per profile: give no --study"):
        job("11_results", "a")


# --- Fingerprints -------------------------------------------------------------------------------------------


def changed_by(action):
    """Return the jobs, as (notebook's number, study), whose fingerprint differs after `action`."""
    before = notebooks.fingerprints(quick())
    action()
    forget_files()
    after = notebooks.fingerprints(quick())
    assert list(before) == list(after) == notebooks.jobs(quick())
    return {f"{job.notebook.split('_')[0]}{job.study or ''}" for job in after if after[job] != before[job]}


def test_a_job_for_each_study_or_for_the_profile(project):
    names = [f"{job.notebook.split('_')[0]}{job.study or ''}" for job in notebooks.jobs(quick())]
    assert names == [
        "01",
        "02a",
        "02b",
        "03a",
        "04a",
        "05a",
        "05b",
        "06",
        "06b",
        "07",
        "07b",
        "07c",
        "08",
        "09",
        "10",
        "11",
    ]


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
        notebook.cells[-1].source += "  # one"
        notebook.metadata.mlu = {"profile": "quick"}
        nbformat.write(notebook, path)
        edit(project / "mlu_utils" / "deep.py", "a comment", "another comment")
        edit(project / "mlu_utils" / "filtering.py", "A docstring", "Another docstring")

    assert changed_by(run_by_hand) == set()


def test_a_value_changes_what_depends_on_it_and_nothing_else(project):
    knobs = {"04_weight_pruning": {"tau": 0.9}}
    assert changed_by(lambda: change_profile(project, notebooks=knobs)) == {"04a", "11"}
    epochs = STUDIES | {"b": {"num_epochs": 8}}
    after = changed_by(lambda: change_profile(project, notebooks=knobs, studies=epochs))
    assert after == {"02b", "05b", "06", "07b", "07c", "09", "10", "11"}
    plan = epochs | {"b": {"num_epochs": 8, "max_epochs": 1}}
    assert changed_by(lambda: change_profile(project, notebooks=knobs, studies=plan)) == {"05b", "06", "11"}


def test_code_changes_what_imports_it_even_indirectly(project):
    package = project / "mlu_utils"
    assert changed_by(lambda: edit(package / "deep.py", "VALUE = 1", "VALUE = 2")) == {"03a", "11"}
    assert changed_by(lambda: edit(package / "results" / "scores.py", "1", "2")) == {"03a", "05a", "05b", "06", "11"}
    path = paths.NOTEBOOKS / "02_original_model.ipynb"
    upstream = {"02a", "02b", "03a", "04a", "05a", "05b"}
    assert changed_by(lambda: edit(path, "print(1)", "print(2)")) == upstream | {"06", "07b", "07c", "09", "10", "11"}


def test_a_colour_runs_no_training_again(project):
    assert changed_by(lambda: edit(project / "mlu_utils" / "results" / "style.py", "blue", "red")) == {"11"}


def test_a_line_of_a_method_runs_what_names_this_method(project):
    folder = project / "mlu_utils" / "unlearning"
    # Study b names no methods: all of them run. Study a compares WF only; 06 attacks SCRUB.
    assert changed_by(lambda: edit(folder / "scrub.py", "1", "2")) == {"05b", "06", "11"}
    assert changed_by(lambda: edit(folder / "ssd.py", "1", "2")) == {"05b", "06", "11"}
    assert changed_by(lambda: edit(folder / "weight_filtering.py", "1", "2")) == {"03a", "05a", "05b", "06", "11"}
    change_profile(project, studies={"a": {"methods": ["WF"]}, "b": {"methods": ["WF"]}})
    assert changed_by(lambda: edit(folder / "scrub.py", "2", "3")) == {"06", "11"}
    change_profile(project, notebooks={"06_privacy_analysis": {"attacked_methods": []}})
    assert changed_by(lambda: edit(folder / "scrub.py", "3", "4")) == {"05b", "06", "11"}


def test_a_method_counts_where_it_runs_and_not_where_it_is_only_shown(project):
    folder = project / "mlu_utils" / "unlearning"
    # The library runs the control for 03, all of whose cells are silent about it; 05 runs what its study compares.
    write_notebook(project, "05_baselines", "shown = ['SCRUB', 'WF']", parameters=STUDY_PARAMETERS)
    change_profile(project, studies={"a": {"methods": ["WF"]}, "b": {"methods": ["WF"], "retrain_seeds": [1]}})
    assert changed_by(lambda: edit(folder / "head_reset.py", "1", "2")) == {"03a", "11"}
    assert changed_by(lambda: edit(folder / "scrub.py", "1", "2")) == {"06", "11"}
    assert changed_by(lambda: edit(folder / "retrain.py", "1", "2")) == {"05a", "05b", "06", "11"}


def test_a_line_of_a_data_set_runs_the_studies_of_this_data_set(project):
    folder = project / "mlu_utils" / "data"
    change_profile(project, studies=STUDIES | {"b": {"dataset": "digits", "request": "class:3"}})
    of_a, of_b = {"02a", "03a", "04a", "05a"}, {"02b", "05b"}
    assert changed_by(lambda: edit(folder / "digits.py", "1", "2")) >= of_b
    assert not changed_by(lambda: edit(folder / "digits.py", "2", "3")) & of_a
    assert changed_by(lambda: edit(folder / "orl.py", "1", "2")) >= of_a
    assert not changed_by(lambda: edit(folder / "orl.py", "2", "3")) & of_b
    assert changed_by(lambda: edit(folder / "synthages.py", "1", "2")) == set()


def test_data_changes_what_declares_it(project):
    changed = changed_by(lambda: (paths.DATA / "reference" / "table.csv").write_text("value\n2\n"))
    assert changed == {"07", "11"}


def test_what_a_changed_line_runs_again_in_the_real_notebooks(tmp_path, monkeypatch):
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in ("mlu_utils", "notebooks", "workflow"):
        shutil.copytree(paths.ROOT / folder, tmp_path / folder, ignore=ignore)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    library = tmp_path / "mlu_utils"

    def add(file, line):
        with open(library / file, "a") as stream:
            stream.write(f"\n{line}\n")

    assert changed_by(lambda: add("training.py", "# a comment")) == set()
    assert changed_by(lambda: add("results/style.py", "COLOUR = 1")) == {"11"}
    of_scrub = changed_by(lambda: add("unlearning/scrub.py", "X = 1"))
    assert {"05orl-eyeglasses", "06", "06b", "11"} <= of_scrub
    assert not of_scrub & {"01", "02orl-eyeglasses", "03orl-eyeglasses", "04orl-eyeglasses", "07", "07c"}
    forget_files()


# --- One run ------------------------------------------------------------------------------------------------


def outputs_of(path):
    cells = nbformat.read(path, as_version=4).cells
    return "".join(output.text for cell in cells for output in cell.get("outputs", ()) if "text" in output)


def arguments(job):
    of_study = ["--study", job.study] if job.study else []
    return ["notebook", job.notebook, "--profile", job.profile.name, *of_study]


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_a_run_uses_this_interpreter_and_records_what_it_wrote(project, monkeypatch, capsys):
    # A user's own kernel named python3 must not be taken.
    theirs = project / "user" / "kernels" / "python3"
    theirs.mkdir(parents=True)
    spec = {"argv": ["/no/such/python", "{connection_file}"], "display_name": "x", "language": "python"}
    (theirs / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(project / "user"))
    source = "import os, sys\nimport tqdm\nfrom mlu_utils import paths\nfrom mlu_utils.files import write_atomically\n"
    source += "list(tqdm.tqdm(range(3)))\n"
    source += "own = paths.RUNS / 'quick' / study / 'scores_02.csv'\n"
    source += "shared = paths.RUNS / 'quick' / 'models' / 'original.safetensors'\n"
    source += "write_atomically({own: b'1', shared: b'2', paths.ROOT / 'data' / 'cache': b'3'})\n"
    source += "print(sys.executable, os.getcwd(), os.environ['TQDM_DISABLE'], paths.ROOT, size, study)"
    write_notebook(project, "02_original_model", source, parameters=STUDY_PARAMETERS + "size: int = 3\n")
    executed = job().executed
    executed.parent.mkdir(parents=True)
    executed.with_suffix(".failed.ipynb").write_text("{}")
    assert run.main(arguments(job())) == 0
    assert executed == project / "runs" / "quick" / "a" / "02_original_model.ipynb"
    assert outputs_of(executed) == f"{sys.executable} {project} 1 {project} 3 a\n"
    recorded = nbformat.read(executed, as_version=4).metadata.mlu
    assert recorded.parameters == {"profile": "quick", "study": "a", "change": {}, "size": 3}
    assert recorded.fingerprint == notebooks.fingerprint(job())
    assert recorded.files == {"quick/a/scores_02.csv": notebooks.file_sha256(executed.parent / "scores_02.csv")}
    marker = json.loads(job().marker.read_text())
    assert marker == {name: recorded[name] for name in ("fingerprint", "files", "upstream")}
    assert names(executed.parent) == ["02_original_model.done", "02_original_model.ipynb", "scores_02.csv"]

    # What is current is not run again, even when its marker was lost; what lost a file is.
    capsys.readouterr()
    job().marker.unlink()
    before = executed.stat().st_mtime_ns
    assert run.main(arguments(job())) == 0 and "is current" in capsys.readouterr().out
    assert executed.stat().st_mtime_ns == before and json.loads(job().marker.read_text()) == marker
    (executed.parent / "scores_02.csv").write_text("edited")
    assert run.main(arguments(job())) == 0
    assert executed.stat().st_mtime_ns > before and (executed.parent / "scores_02.csv").read_text() == "1"


def test_a_failing_cell_leaves_no_result_and_is_not_repeated(project, capsys):
    counter = project / "count"
    source = f"open({str(counter)!r}, 'a').write('x')\nprint('so far')\nraise KeyError('Eyeglasess')"
    write_notebook(project, "02_original_model", source, parameters=STUDY_PARAMETERS)
    assert run.main(arguments(job())) == 1
    message = capsys.readouterr().err
    assert "02_original_model · a: a cell failed" in message
    assert "KeyError: 'Eyeglasess'" in message and "\x1b" not in message
    assert names(job().executed.parent) == ["02_original_model.failed.ipynb"]
    assert "so far" in outputs_of(job().executed.with_suffix(".failed.ipynb"))
    assert counter.read_text() == "x"


def test_only_a_kernel_that_does_not_start_is_tried_again(project, monkeypatch):
    calls = []

    def start_fails_twice(path):
        calls.append(path)
        if len(calls) < 3:
            raise RuntimeError("Kernel didn't respond in 180 seconds")

    monkeypatch.setattr(run, "_execute", start_fails_twice)
    assert run.run_notebook(job()) and job().executed.exists()
    assert len(calls) == 3

    def start_always_fails(path):
        calls.append(path)
        raise RuntimeError("Kernel didn't respond in 180 seconds")

    calls.clear()
    monkeypatch.setattr(run, "_execute", start_always_fails)
    with pytest.raises(RuntimeError, match="no kernel started in 3 tries"):
        run.run_notebook(job(study="b"))
    assert len(calls) == 3

    def dies_in_a_cell(path):
        calls.append(path)
        notebook = nbformat.read(path, as_version=4)
        notebook.cells[1].metadata.papermill = {"status": "running"}
        nbformat.write(notebook, path)
        raise RuntimeError("Kernel died")

    calls.clear()
    monkeypatch.setattr(run, "_execute", dies_in_a_cell)
    with pytest.raises(run.CellFailed, match="the kernel was lost: RuntimeError: Kernel died"):
        run.run_notebook(job(study="b"))
    assert len(calls) == 1
    assert not job(study="b").executed.exists() and not job(study="b").marker.exists()


def test_an_interruption_leaves_no_result(project, monkeypatch, capsys):
    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "_execute", interrupted)
    assert run.main(arguments(job())) == 130
    assert "interrupted" in capsys.readouterr().err
    assert names(job().executed.parent) == ["02_original_model.failed.ipynb"]


# --- Copies for nbval, and the claims -----------------------------------------------------------------------


PREPARE = ["prepare", "--profile", "quick"]


def test_prepared_copies_sort_in_running_order(project):
    folder = project / "build" / "quick_notebooks"
    assert run.main(PREPARE) == 0
    copies = [path.name for path in sorted(folder.glob("*.ipynb"))]
    assert copies == [
        f"{job.notebook}__{job.study}.ipynb" if job.study else f"{job.notebook}.ipynb"
        for job in notebooks.jobs(quick())
    ]
    notebook = nbformat.read(folder / "02_original_model__b.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert 'study: str = "b"  # which study' in notebook.cells[1].source
    # Made again, every copy is replaced, one of a study that is no more leaves, and what is not ours stays.
    (folder / "11_results.ipynb").write_text("half")
    (folder / "02_original_model__c.ipynb").touch()
    (folder / "thesis.ipynb").touch()
    assert run.main(PREPARE) == 0
    assert nbformat.read(folder / "11_results.ipynb", as_version=4)
    assert names(folder) == [*copies, "thesis.ipynb"] and names(folder.parent) == ["quick_notebooks"]


def test_a_fresh_start_waits_for_nobodys_results(project, capsys):
    (project / "runs" / "quick").mkdir(parents=True)
    with run.lock(is_shared=True):
        assert run.main([*PREPARE, "--fresh"]) == 1
    assert "another run is at work here" in capsys.readouterr().err
    assert (project / "runs" / "quick").exists() and not (project / "build").exists()
    assert run.main([*PREPARE, "--fresh"]) == 0
    assert not (project / "runs" / "quick").exists() and (project / "build").exists()


def test_claims_are_printed_and_counted_with_the_place_of_the_report(project, capsys):
    assert run.main(["claims"]) == 2
    assert "runs/quick/figures/claims.csv is missing: make reproduce PROFILE=quick" in capsys.readouterr().err
    (project / "runs" / "quick" / "figures").mkdir(parents=True)
    (project / "runs" / "quick" / "figures" / "claims.csv").write_text(
        "claim_id,printed,ours,check,verdict,null_verdict,evidence\n"
        "CelebA/speed-up over Retrain/WP,27.45,41.0,embedded data,reproduced,not reproduced,WP speedup\n"
        "VGGFace2/speed-up over Retrain/WP,35.5,41.0,embedded data,reproduced,not reproduced,WP speedup\n"
        "table2/CelebA/ResNet-18/WP/test,95.12,,paper's data,cannot be tested here,-,table2\n"
        "check/splits_sum,65 + 25 + 10,100,printed numbers,consistent,-,check/splits_sum\n"
    )
    assert run.main(["claims"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[1:4]] == ["reproduced", "reproduced", "consistent"]
    assert "27.45" in lines[1] and "41" in lines[1]
    counts = {line[:24].strip(): line.split()[-1] for line in lines if line}
    assert counts["reproduced"] == counts["cannot be tested here"] == "1" and counts["inconsistent"] == "0"
    assert any("runs/quick/11_results.ipynb" in line for line in lines)


# --- The Snakefile ------------------------------------------------------------------------------------------

# Runs no kernel, so that what Snakemake decides is tested in seconds: notes the job, fails where told to.
FAKE_RUN = """
def _run_cells(job, notebook, running):
    with open(paths.ROOT / "log", "a") as log:
        log.write(f"{job.notebook.split('_')[0]}{job.study or ''} ")
    if (paths.ROOT / "crash").exists() and (paths.ROOT / "crash").read_text() == job.notebook:
        raise CellFailed("crashed as told")
    seconds = (paths.ROOT / "seconds").read_bytes()
    write_atomically({running: notebooks.as_bytes(notebook), job.executed.with_suffix(".csv"): seconds})


def _run_in_a_kernel("""


@pytest.fixture(scope="module")
def workflow(tmp_path_factory):
    # A folder's name must reach no shell unquoted.
    root = make_project(tmp_path_factory.mktemp("work flow") / "it's {here}")
    edit(root / "workflow" / "run.py", "\ndef _run_cells(", FAKE_RUN)
    edit(root / "workflow" / "run.py", ".check()", ".facts()")  # the real one asks the whole library
    (root / "seconds").write_text("1")

    def reproduce(*options):
        """Return what ran, in order, and how `reproduce` ended."""
        (root / "log").write_text("")
        command = [sys.executable, "workflow/run.py", "reproduce", *options]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True)
        return (root / "log").read_text().split(), done

    return SimpleNamespace(root=root, reproduce=reproduce)


def test_the_workflow_runs_what_is_needed_and_nothing_else(workflow):
    root, runs = workflow.root, workflow.root / "runs" / "quick"

    # What is furthest from the end starts first, of equals the study named first. A crash: what doesn't depend on it
    # goes on.
    (root / "crash").write_text("03_weight_filtering")
    ran, done = workflow.reproduce("--cores", "1")
    assert ran == ["02a", "02b", "05a", "05b", "06b", "06", "07b", "09", "08", "10", "03a", "07c", "04a", "07", "01"]
    assert done.returncode != 0 and "crashed as told" in done.stderr

    # The next run resumes there; a value of one notebook changed meanwhile.
    (root / "crash").unlink()
    change_profile(root, notebooks={"04_weight_pruning": {"tau": 0.9}})
    ran, done = workflow.reproduce("--cores", "2")
    assert sorted(ran) == ["03a", "04a", "11"] and done.returncode == 0, done.stderr

    # Nothing changed, only times: nothing runs.
    for path in [root / "workflow" / "Snakefile", *root.glob("*/*"), *runs.rglob("*")]:
        os.utime(path)
    ran, done = workflow.reproduce()
    assert ran == [] and done.returncode == 0, done.stderr

    # Code, while Snakemake's own records are lost.
    edit(root / "mlu_utils" / "deep.py", "VALUE = 1", "VALUE = 2")
    shutil.rmtree(root / ".snakemake")
    assert sorted(workflow.reproduce()[0]) == ["03a", "11"]

    # A lost file is made again. What read it runs again only when it came out differently.
    (runs / "a" / "05_baselines.csv").unlink()
    assert workflow.reproduce()[0] == ["05a"]
    (runs / "a" / "05_baselines.csv").write_text("edited")
    (root / "seconds").write_text("2")
    assert workflow.reproduce()[0] == ["05a", "06", "11"]

    # Killed between the end of a job and its marker: what is finished is not run again.
    (runs / "a" / "02_original_model.done").unlink()
    assert workflow.reproduce()[0] == []


def test_a_typo_stops_the_workflow_before_any_work(workflow):
    text = (workflow.root / "workflow" / "profiles" / "quick.yaml").read_text()
    try:
        change_profile(workflow.root, defaults={"learning_rte": 0.1})
        ran, done = workflow.reproduce()
    finally:
        (workflow.root / "workflow" / "profiles" / "quick.yaml").write_text(text)
    assert ran == [] and done.returncode == 2
    assert "did you mean 'learning_rate'" in done.stderr and "Traceback" not in done.stderr


def test_the_snakefile_has_a_rule_for_each_notebook(workflow):
    command = [sys.executable, "-m", "snakemake", "--snakefile", "workflow/Snakefile", "--list-rules"]
    done = subprocess.run(command, cwd=workflow.root, capture_output=True, text=True)
    assert sorted(done.stdout.split()) == sorted(["all", *notebooks.RULES]), done.stderr


def test_two_runs_at_once_are_refused_even_when_the_first_was_killed(project, capsys):
    with run.lock():
        assert run.main(["reproduce"]) == 1
    assert f"another run is at work here (process {os.getpid()}" in capsys.readouterr().err
    # What the driver does: alone, then shared with its jobs, which outlive it.
    with run.lock() as file:
        run._take(file, run.fcntl.LOCK_SH)
        with run.lock(is_shared=True):
            orphan = subprocess.Popen(
                [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[file.fileno()]
            )
    try:
        assert run.main(["reproduce"]) == 1
    finally:
        orphan.communicate(b"\n")
    with run.lock():
        pass


def test_names_that_nothing_answers_to_are_refused_before_any_work(project, monkeypatch, capsys):
    change_profile(project, studies={"a": {"dataset": "orrl"}})
    assert run.main(["check"]) == 2
    error = capsys.readouterr().err
    known = "celebahq, digits, mnist5k, mufac, orl, synthages, synthfaces"
    assert f"unknown data set 'orrl': choose one of {known}; did you mean" in error
    assert run.remove_outdated_markers(quick()), "fingerprints do not refuse it, so that the check does"
    change_profile(project, studies={"a": {"architecture": "resnet81"}})
    assert run.main(["check"]) == 2
    assert "unknown architecture 'resnet81'" in capsys.readouterr().err
    calls = []
    monkeypatch.setattr(
        run.subprocess, "run", lambda command, **_: calls.append(command) or SimpleNamespace(returncode=2)
    )
    assert run.main(["reproduce"]) == 2
    assert len(calls) == 1 and calls[0][2:] == ["check", "--profile", "quick"]


@pytest.mark.parametrize("cores", ["0", "-1", "two", "1.5"])
def test_a_wrong_number_of_cores_is_refused(project, cores, capsys):
    assert run.main(["reproduce", f"--cores={cores}"]) == 2
    assert f"--cores {cores}: expected a number of at least 1, or all" in capsys.readouterr().err
