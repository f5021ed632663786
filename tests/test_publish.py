"""What reaches the committed pages: outputs with the parameters that made them, figures, the README's table."""

import json
import re

import nbformat
import pandas as pd
import publish
import pytest
import run
from small_project import change_profile, edit, forget_files, job, make_project, quick, stale_notebooks, use_project

import notebooks
from mlu_utils import paths
from mlu_utils.studies import Profile

MARKED = f"# Title\n{publish.BEGIN}\nold\n{publish.END}\nthe end\n"


@pytest.fixture
def project(tmp_path, monkeypatch):
    root = use_project(make_project(tmp_path), monkeypatch)
    monkeypatch.setattr(publish, "STUDIES", ("a",))
    change_profile(root, notebooks={"04_weight_pruning": {"tau": 0.5}})
    (root / "README.md").write_text(MARKED)
    yield root
    forget_files()


def pretend_to_run(root, monkeypatch, text="42 images\n"):
    """Write every job's executed notebook, and the tables and pictures, as a run would have left them."""

    def execute(path):
        notebook = nbformat.read(path, as_version=4)
        notebook.cells[-1].outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)]
        notebook.cells[-1].metadata.papermill = {"start_time": "2025-01-01T00:00:00"}
        nbformat.write(notebook, path)

    monkeypatch.setattr(run, "_execute", execute)
    for each in notebooks.jobs(quick()):
        run.run_notebook(each)
    figures = root / "runs" / "quick" / "figures"
    figures.mkdir()
    write_tables(figures)
    for path in (
        figures / "fig3_seconds.png",
        *(root / "runs" / "quick" / name / "fig_trade_off.png" for name in "ab"),
    ):
        path.write_bytes(b"\x89PNG")
        path.with_suffix(".json").write_text("{}")


def write_tables(folder, recall=(0.25, 0.35)):
    common = {"request": "label:Eyeglasses", "reading": "targeted", "split": "test", "method": "WP"}
    rows = [{**common, "label": "Eyeglasses", "metric": "recall", "value": value} for value in recall]
    rows.append({**common, "reading": "printed", "label": "Eyeglasses", "metric": "recall", "value": 9.0})
    pd.DataFrame(rows).to_csv(folder / "table_forgetting.csv")
    retained = {**common, "label": "retained", "metric": "accuracy", "value": 1.0}
    pd.DataFrame([retained]).to_csv(folder / "table2_multilabel_utility.csv")
    pd.DataFrame([{**common, "split": "-", "label": "-", "metric": "speedup", "value": 54.4}]).to_csv(
        folder / "table_seconds.csv"
    )


def everything(root):
    kept = [*(root / "notebooks").iterdir(), *(root / "figures").iterdir(), root / "README.md"]
    return {path: path.read_bytes() for path in kept}


# Pages


def test_outputs_are_published_with_the_parameters_that_made_them(project, monkeypatch, capsys):
    before = {path.stem: path for path in paths.NOTEBOOKS.iterdir()}
    code = {stem: notebooks.code_sha256(notebooks.read_notebook(path), stem) for stem, path in before.items()}
    assert set(stale_notebooks().values()) == {"its outputs were never published"}
    (paths.FIGURES / "fig_of_an_older_run.png").touch()
    pretend_to_run(project, monkeypatch, f"read {project}/data/x.csv with {publish.sys.prefix}/bin/python\n")
    assert publish.main([]) == 0
    assert "removed from figures/: fig_of_an_older_run.png" in capsys.readouterr().out
    assert stale_notebooks() == {}
    assert code == {stem: notebooks.code_sha256(notebooks.read_notebook(path), stem) for stem, path in before.items()}
    path = notebooks.committed("04_weight_pruning")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.cells[-1].outputs[0].text == "read data/x.csv with <environment>/bin/python\n"
    assert [cell.id for cell in notebook.cells] == ["title", "parameters", "step-0", "step-1"]
    # What it shows was made with the parameters that it shows.
    shown = notebook.cells[1].source
    assert (
        'profile: str = "quick"  # which profile' in shown
        and 'study: str = "a"' in shown
        and "tau: float = 0.5" in shown
    )
    assert "papermill" not in path.read_text() and "2025-01-01" not in path.read_text()
    assert (notebook.metadata.mlu.profile, notebook.metadata.mlu.study) == ("quick", "a")
    assert notebook.metadata.mlu.parameters.tau == 0.5 and "fingerprint" not in notebook.metadata.mlu

    stems = ("fig3_seconds", "fig_trade_off_a", "fig_trade_off_b")
    tables = {f"table{name}.csv" for name in ("_forgetting", "2_multilabel_utility", "_seconds")}
    files = {path.name for path in paths.FIGURES.iterdir()}
    assert files == {f"{stem}.{kind}" for stem in stems for kind in ("png", "json")} | tables
    row = "| Eyeglasses (`orl`, 50 epochs) | WP | .30 |  | 1.000 |  | 54 |"
    assert (project / "README.md").read_text().splitlines()[3:6] == ["|---|---|---|---|---|---|---|", row, publish.END]

    # A published value is a default like any other: nothing runs again for it, and a second time nothing changes.
    published = everything(project)
    assert all(run.run_notebook(each) is False for each in notebooks.jobs(quick()))
    assert publish.main([]) == 0 and everything(project) == published


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("print(1)", "print(2)", "its code changed"),
        ("42 images", "43 images", "not those that were published"),
        ("42 images", "42 images in /home/someone/data", "not those that were published"),
        ("tau: float = 0.5", "tau: float = 0.6", "the parameters that it shows are not those"),
    ],
)
def test_stale_outputs_are_found(project, monkeypatch, old, new, reason):
    pretend_to_run(project, monkeypatch)
    publish.publish(quick())
    edit(notebooks.committed("04_weight_pruning"), old, new)
    stale = stale_notebooks()
    assert list(stale) == ["04_weight_pruning.ipynb"] and reason in stale["04_weight_pruning.ipynb"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("see /opt/someone/file\n", "outputs name a path of a machine: /opt/someone/file"),
        ("x" * 1_000_001, "bytes"),
    ],
    ids=["machine path", "too big"],
)
def test_unfit_outputs_are_not_published(project, monkeypatch, text, message):
    pretend_to_run(project, monkeypatch, text)
    before = everything(project)
    with pytest.raises(ValueError, match=message):
        publish.publish(quick())
    assert before == everything(project)


def test_what_has_not_run_or_is_out_of_date_is_not_published(project, monkeypatch):
    with pytest.raises(ValueError, match="01_data_preparation · quick has not run: make reproduce PROFILE=quick first"):
        publish.publish(quick())
    pretend_to_run(project, monkeypatch)
    before = everything(project)
    (project / "runs" / "quick" / "figures" / "fig3_seconds.json").write_text('{"input": "/home/someone/x"}')
    with pytest.raises(ValueError, match="fig3_seconds.json names a path of this machine: /home/someone/x"):
        publish.publish(quick())
    edit(project / "mlu_utils" / "deep.py", "VALUE = 1", "VALUE = 2")
    forget_files()
    with pytest.raises(ValueError, match="03_weight_filtering · a is out of date"):
        publish.publish(quick())
    job().marker.write_text("another result of the model")
    with pytest.raises(ValueError, match="03_weight_filtering · a is out of date"):
        publish.publish(quick())
    assert before == everything(project)


def test_a_smoke_run_is_never_published(project, capsys):
    (paths.PROFILES / "smoke.yaml").write_text(json.dumps({"profile": "smoke", "studies": {"a": {}}}))
    assert publish.main(["--profile", "smoke"]) == 2
    assert "the numbers of profile smoke mean nothing" in capsys.readouterr().err


# The README


def test_the_readme_shows_what_the_figures_hold():
    text = (paths.ROOT / "README.md").read_text(encoding="utf-8")
    wanted = publish.results_table(Profile.load("quick"), paths.FIGURES)
    assert publish.split(text)[1] == wanted, "figures/ and README differ: make publish"
    # Every picture and every file in figures/ that the README names exists.
    named = re.findall(r"figures/[\w.-]+\.(?:png|csv|json)", text)
    assert named and all((paths.ROOT / name).exists() for name in named)


def test_what_the_table_lacks_is_named(project, tmp_path):
    with pytest.raises(FileNotFoundError, match="table_forgetting.csv"):
        publish.results_table(quick(), tmp_path)
    write_tables(tmp_path)
    change_profile(project, studies={"a": {"request": "label:Smiling"}})
    with pytest.raises(ValueError, match="no scores of label:Smiling"):
        publish.results_table(quick(), tmp_path)
    with pytest.raises(ValueError, match="lacks the lines"):
        publish.split("no markers")
