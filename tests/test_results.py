"""Scores files, sidecars, refusals, and that every figure draws what it was given."""

import hashlib
import itertools
import json
import math
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from mlu_utils import files, paths, results, unlearning
from mlu_utils.digests import import_closure
from mlu_utils.results import figures, scores, style
from mlu_utils.studies import Study


def score(method="Retrain", value=0.9, **changes):
    """Return one tidy row."""
    row = {
        "profile": "quick",
        "dataset": "orl",
        "model": "resnet18",
        "request": "label:Smiling",
        "seed": 0,
        "unlearning_seed": -1,
        "method": method,
        "reading": "targeted" if method in ("WF", "WP") else "-",
        "split": "test",
        "label": "retained",
        "metric": "accuracy",
        "value": value,
        "unit": "fraction",
    }
    return row | changes


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Stand in for the folder of runs."""
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def run(runs):
    """Return a run of a notebook about a profile."""
    return results.Run("11_results", {"profile": "smoke"})


def sidecar_of(file):
    return json.loads(file.with_suffix(".json").read_text())


@pytest.fixture
def table():
    """Return a small result table."""
    return pd.DataFrame([score(), score("WP", 0.91)])


# --- tidy scores --------------------------------------------------------------------------------------------


def test_scores_survive_the_file_to_the_last_digit(run):
    rows = [score(value=0.1 + 0.2), score("WP", 1 / 3), score("Original", float("nan"))]
    written = run.scores(rows)
    read = results.read_scores(run.folder / "scores_11.csv")
    pd.testing.assert_frame_equal(written, read, check_exact=True)
    assert tuple(read.columns) == results.SCORE_COLUMNS
    assert read["value"].tolist()[:2] == [0.1 + 0.2, 1 / 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": 93.0}, r"is 93.0 fraction; fractions lie in \[0, 1\] \(divide percentages"),
        ({"value": float("inf"), "unit": "s"}, "no value is infinite"),
        ({"method": "wp"}, "method 'wp' is unknown: choose one of Original, Retrain"),
        ({"reading": "literal"}, "reading 'literal' is unknown"),
        ({"unit": "%"}, "unit '%' is unknown"),
        ({"label": None}, "row 0: label is None; write '-'"),
        ({"seed": "first"}, "seeds must be whole"),
        ({"colour": "red"}, r"unknown columns \['colour'\]"),
    ],
)
def test_bad_rows_are_refused_before_anything_is_written(run, change, message):
    with pytest.raises(ValueError, match=message):
        run.scores([score(**change)])
    assert not run.folder.exists()


def test_repeated_and_missing_columns_are_refused(run):
    with pytest.raises(ValueError, match="two rows for"):
        run.scores([score(), score(value=0.5)])
    with pytest.raises(ValueError, match=r"missing columns \['unit'\]"):
        run.scores(pd.DataFrame([score()]).drop(columns="unit"))


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.6, 0.9, 0.99])
def test_cut_off_scores_file_is_named(run, keep):
    path = run.folder / "scores_11.csv"
    run.scores([score("WP"), score()])
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(ValueError, match=r"scores_11\.csv"):
        results.read_scores(path)


def test_missing_retrain_is_refused_everywhere(run, table):
    without = table[table["method"] != "Retrain"]
    message = r"1 of 1 results have no Retrain row, such as \(quick, orl, resnet18, label:Smiling, 0, test"
    with pytest.raises(ValueError, match=message):
        results.require_retrain(without)
    with pytest.raises(ValueError, match=message):
        results.result_table(without, ["accuracy"])
    with pytest.raises(ValueError, match=message):
        run.table(without, "table2")
    with pytest.raises(ValueError, match=message):
        figures.score_dots(without, "accuracy")
    assert not run.folder.exists()
    results.require_retrain(table)


@pytest.mark.parametrize("column", ["seed", "dataset", "request", "split", "label", "metric"])
def test_retrain_of_another_study_does_not_count(column):
    other = score(**{column: 1 if column == "seed" else "other"})
    with pytest.raises(ValueError, match="no Retrain row"):
        results.require_retrain(pd.DataFrame([other, score("WP")]))


def test_ratios_to_retrain_need_no_retrain_row():
    results.require_retrain(pd.DataFrame([score("WP", 40.0, metric="speedup", unit="x", label="-")]))


def test_result_table_orders_methods_and_signs_the_gap():
    rows = [
        score(method, value + seed / 100, seed=seed)
        for seed in (1, 0)
        for method, value in (("SalUn", 0.8), ("WP", 0.95), ("Retrain", 0.9), ("Original", 0.9))
    ]
    rows += [score("WP", 0.97, reading="printed", seed=seed) for seed in (0, 1)]
    got = results.result_table(pd.DataFrame(rows), ["accuracy"], labels=["retained"], splits=["test"])
    first = got[got["seed"] == 0]
    assert first["method"].tolist() == ["Original", "Retrain", "WP", "WP", "SalUn"]
    assert first["reading"].tolist() == ["-", "-", "targeted", "printed", "-"]
    np.testing.assert_allclose(first["retrain_gap"], [0, 0, 0.05, 0.07, -0.1])
    summary = results.summary_table(got).set_index(["method", "reading"])
    assert summary.loc[("SalUn", "-"), "num_seeds"] == 2
    assert summary.loc[("SalUn", "-"), "mean"] == pytest.approx(0.805)
    assert summary.loc[("SalUn", "-"), "sd"] == pytest.approx(0.01 / math.sqrt(2))
    with pytest.raises(ValueError, match=r"no scores for metrics \['auc'\].*there are: \['accuracy'\]"):
        results.result_table(pd.DataFrame(rows), ["auc"])


# --- a run and its sidecars -------------------------------------------------------------------------------------


def test_sidecar_holds_everything(runs, tmp_path, table):
    study = Study.load("smoke", "orl-eyeglasses")
    variables = {"profile": "smoke", "study": "orl-eyeglasses", "unlearning_seed": 7, "eps": 0.5, "np": np, "_": 3}
    run = results.Run("03_weight_filtering", variables, study)
    (tmp_path / "input.csv").write_bytes(b"abc")
    assert run.reads(tmp_path / "input.csv") == tmp_path / "input.csv"
    assert run.table(table, "table2_utility") is table
    path = runs / "smoke" / "orl-eyeglasses" / "table2_utility.csv"
    pd.testing.assert_frame_equal(results.read_scores(path), table)
    sidecar = sidecar_of(path)
    assert sidecar["file"] == "table2_utility.csv"
    assert sidecar["file_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert sidecar["notebook"] == "03_weight_filtering" and sidecar["profile"] == "smoke"
    parameters = sidecar["parameters"]
    assert parameters == {"profile": "smoke", "unlearning_seed": 7, "eps": 0.5, "study": study.facts(plan=True)}
    expected = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()
    assert sidecar["parameters_sha256"] == expected
    assert sidecar["seeds"] == {"training": study.seed, "unlearning": 7}
    # Outside the repository only the name is told; the hash is the published one of "abc".
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sidecar["inputs"] == {"input.csv": expected}
    assert set(sidecar["versions"]) == {"python", "torch", "numpy", "pandas", "sklearn"}
    assert sidecar["versions"]["numpy"] == np.__version__
    assert (sidecar["device"], sidecar["threads"]) == (str(study.torch_device), torch.get_num_threads())
    assert 0 < sidecar["seconds"] < 60
    assert {"commit", "is_dirty"} <= set(sidecar)


def test_only_plain_data_goes_on_record_and_later_changes_do_not():
    grid = [1, 2]
    variables = {
        "profile": "smoke",
        "seed": 3,
        "training_seeds": [1, 2],
        "grid": grid,
        "none": None,
        "change": {"a": 1},
    }
    others = {"In": [], "Out": {}, "_private": 1, "plt": plt, "array": np.ones(2), "arrays": [np.ones(2)], "k": {1: 2}}
    run = results.Run("06b_people", variables | others)
    grid.append(3)
    assert run.record()["parameters"] == variables | {"grid": [1, 2]}
    assert run.record()["seeds"] == {"evaluation": 3, "training": [1, 2]}


def test_a_run_needs_a_numbered_name_and_a_profile():
    with pytest.raises(ValueError, match="notebook is 'results': expected its number and name"):
        results.Run("results", {"profile": "smoke"})
    for variables in ({}, {"profile": ""}):
        with pytest.raises(ValueError, match="11_results needs a variable `profile`"):
            results.Run("11_results", variables)


def test_scores_lie_beside_the_figures_folder_under_the_number_of_the_notebook(run, runs):
    written = run.scores([score(), score("WP", 0.5)])
    run.table(pd.DataFrame({"a": [1]}), "table_a")
    pd.testing.assert_frame_equal(results.read_scores(runs / "smoke" / "scores_11.csv"), written)
    assert sidecar_of(runs / "smoke" / "scores_11.csv")["file"] == "scores_11.csv"
    assert (runs / "smoke" / "figures" / "table_a.csv").read_text() == "a\n1\n"
    with pytest.raises(ValueError, match="scores_11: two rows for"):
        run.scores([score(), score()])


def test_inputs_inside_the_repository_are_named_from_its_root(run, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    file = tmp_path / "data" / "scores.csv"
    file.parent.mkdir()
    file.write_text("x")
    run.reads(file)
    run.reads(str(file))
    assert list(run.record()["inputs"]) == ["data/scores.csv"]
    file.write_text("y")
    with pytest.raises(ValueError, match=r"two inputs are called data/scores\.csv"):
        run.reads(file)
    with pytest.raises(FileNotFoundError):
        run.reads(tmp_path / "absent.csv")


def git_state():
    record = results.Run("11_results", {"profile": "smoke"}).record()
    return record["commit"], record["is_dirty"]


def test_commit_and_dirty_flag_follow_git(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    assert git_state() == (None, None)  # not a repository

    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    git("init", "-q")
    (tmp_path / "code.py").write_text("1")
    git("add", "code.py")
    git("commit", "-q", "-m", "first")
    commit, is_dirty = git_state()
    assert len(commit) == 40 and is_dirty is False
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "fig1.png").write_text("regenerated")
    assert git_state() == (commit, False)  # published results are not a change of code
    (tmp_path / "code.py").write_text("2")
    assert git_state() == (commit, True)
    # A copy without .git inside this repository is not this commit.
    (tmp_path / "copy").mkdir()
    monkeypatch.setattr(paths, "ROOT", tmp_path / "copy")
    assert git_state() == (None, None)


def test_missing_git_is_tolerated(monkeypatch):
    def no_git(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", no_git)
    assert git_state() == (None, None)


@pytest.mark.parametrize("stem", ["Table2", "table 2", "table2.csv", "../table2", "", "_x"])
def test_bad_stem_is_refused(run, table, stem):
    with pytest.raises(ValueError, match="expected lower-case letters and digits"):
        run.table(table, stem)
    assert not run.folder.exists()


def test_empty_table_is_refused(run, table):
    with pytest.raises(ValueError, match="'t' has no rows"):
        run.table(table.iloc[:0], "t")


@pytest.mark.parametrize("fails_at", ["fsync", "replace"])
@pytest.mark.parametrize("is_first", [True, False])
def test_half_written_file_never_stays(run, monkeypatch, table, fails_at, is_first):
    def contents():
        return {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}

    if not is_first:
        run.table(table, "table2")
        run.scores(table)
    before = contents()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, fails_at, full_disk)
    for write in (lambda: run.table(table.assign(value=0.1), "table2"), lambda: run.scores([score("WF", 0.2)])):
        with pytest.raises(OSError, match="No space left"):
            write()
    assert contents() == before


def test_figure_that_fails_to_draw_leaves_nothing(run):
    picture = figures.new_figure()
    picture.text(0.5, 0.5, r"$\nonsense$")
    with pytest.raises(ValueError, match="nonsense"):
        run.figure(picture, "fig2")
    assert not run.folder.exists()


def test_same_figure_has_the_same_bytes(run):
    for stem in ("fig1", "fig2"):
        figure = figures.score_dots(dots_scores(), "accuracy")
        assert run.figure(figure, stem) is figure
    first, second = ((run.figures / f"fig{i}.png").read_bytes() for i in (1, 2))
    assert first == second and first.startswith(b"\x89PNG")


def test_a_run_leaves_the_backend_alone():
    with plt.rc_context():
        before = plt.get_backend()
        results.Run("11_results", {"profile": "smoke"})
        assert plt.get_backend() == before


def test_a_colour_concerns_only_what_draws():
    every_notebook = import_closure(source="from mlu_utils import results")
    assert {f"mlu_utils.results.{room}" for room in ("scores", "provenance")} <= set(every_notebook)
    assert "mlu_utils.results.style" not in every_notebook
    assert "mlu_utils.results.style" in import_closure(source="from mlu_utils.results import figures")


def test_what_handles_scores_only_loads_nothing_that_draws():
    code = "import sys, mlu_utils.results.scores, mlu_utils.results as r; r.read_scores\n"
    code += "print([name for name in ('matplotlib', 'seaborn', 'torch') if name in sys.modules])\n"
    code += "try:\n    r.figurs\nexcept AttributeError as error:\n    print(error)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=paths.ROOT)
    assert done.stdout.splitlines() == ["[]", "module 'mlu_utils.results' has no attribute 'figurs'"]
    assert all(hasattr(results, name) for name in results.__all__)


# --- style --------------------------------------------------------------------------------------------------

# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


def lab(colour, vision="normal"):
    """CIELAB of a colour as someone with that vision sees it."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(VISION[vision]) @ linear, 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    t = xyz / np.array([0.9505, 1.0, 1.089])
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_methods_can_be_told_apart():
    assert tuple(style.METHOD_STYLES) == scores.METHOD_ORDER
    styles = style.METHOD_STYLES
    for what in ("colour", "marker"):
        assert len({getattr(style, what) for style in styles.values()}) == len(styles)
    of_the_paper = list(styles)[:8]
    assert of_the_paper == ["Original", "Retrain", "WF", "WP", "CF-k", "SCRUB", "UNSIR", "SalUn"]
    for first, second in itertools.combinations(of_the_paper, 2):
        lightness = abs(lab(styles[first].colour)[0] - lab(styles[second].colour)[0])
        assert lightness >= 7, f"{first} and {second} look alike in greyscale"
    for vision, (first, second) in itertools.product(VISION, itertools.combinations(of_the_paper, 2)):
        a, b = styles[first], styles[second]
        distance = np.linalg.norm(lab(a.colour, vision) - lab(b.colour, vision))
        assert distance >= 6, f"{first} and {second} look alike with {vision}"


def test_names_and_arrows():
    assert results.method_display("WF") == "WF"
    assert results.method_display("WF", "printed") == "WF (as printed)"
    with pytest.raises(ValueError, match="'Salun' has no style: .*did you mean 'SalUn'"):
        style.method_style("Salun")
    figure = figures.score_dots(dots_scores(), "accuracy", better="lower")
    assert figure.get_supxlabel() == "Accuracy, retained labels  \u2190 better"
    with pytest.raises(ValueError, match="better is 'up': choose one of higher, lower, retrain"):
        figures.score_dots(dots_scores(), "accuracy", better="up")


@pytest.fixture
def strangers(monkeypatch):
    """Register methods as other packages do."""
    names = ("Theirs", "Theirs too")
    registered = dict(unlearning.METHODS) | dict.fromkeys(names, unlearning.METHODS["FT"])
    monkeypatch.setattr(unlearning, "METHODS", registered)
    return names


def test_a_registered_method_of_others_is_accepted_drawn_and_comes_last(strangers, run):
    rows = [score(method, value) for method, value in (("Theirs too", 0.5), ("Theirs", 0.6), ("Retrain", 0.9))]
    written = run.scores([*rows, score("SSD", 0.7)])
    assert results.result_table(written, ["accuracy"])["method"].tolist() == ["Retrain", "SSD", *strangers]
    assert results.method_display("Theirs", "printed") == "Theirs (as printed)"
    first, second = (style.method_style(name) for name in strangers)
    ours = style.METHOD_STYLES.values()
    for what in ("colour", "marker"):
        taken = {getattr(one, what) for one in ours}
        assert getattr(first, what) not in taken and getattr(second, what) not in taken
    assert first == style.method_style("Theirs") != second
    run.figure(figures.score_dots(written, "accuracy"), "fig_theirs")
    attacked = attack_rows().replace({"WP": "Theirs"})
    names = [text.get_text() for text in figures.attack_intervals(attacked).axes[0].get_yticklabels()]
    assert names == ["Retrain", "Theirs", "Random network"]
    with pytest.raises(ValueError, match="'Their' is unknown: .*did you mean 'Theirs'"):
        run.scores([score("Their", 0.5)])


def test_readings_have_marks_of_their_own():
    looks = [style.mark("WP", reading) for reading in scores.READING_DISPLAY]
    assert looks[0] == looks[1], "one reading, or the targeted one: the method's plain mark"
    assert [look.get("fillstyle") for look in looks[1:]] == [None, "top", "none", "left"]
    with pytest.raises(ValueError, match="reading 'literal' is unknown"):
        results.method_display("WP", "literal")


# --- figures ------------------------------------------------------------------------------------------------


def faces(n):
    return np.random.default_rng(0).integers(0, 256, (n, 3, 12, 10), dtype=np.uint8)


def dots_scores():
    methods = [("Original", "-"), ("WP", "printed"), ("Retrain", "-"), ("WP", "targeted"), ("WP", "random")]
    rows = [
        score(method, 0.5 + 0.1 * i + 0.01 * seed, reading=reading, seed=seed)
        for i, (method, reading) in enumerate(methods)
        for seed in (0, 1)
    ]
    return pd.DataFrame(rows)


def all_figures():
    """Draw every figure the module offers, by name."""
    rng = np.random.default_rng(0)
    probabilities = rng.random((3, 2))
    layers = {"conv1": rng.random((4, 5)), "fc": np.array([0.0, 0.5]), "dead": np.zeros(3)}
    truth = np.array([[1, 0], [0, np.nan], [1, 1]])
    names = ["Male", "Young"]
    return {
        "face_grid": figures.face_grid(faces(5), titles=list("abcde"), annotations=[["x", "y"]] * 5),
        "before_after_faces": figures.before_after_faces(
            faces(3), names, probabilities, 1 - probabilities, truth, "Male"
        ),
        "score_dots": figures.score_dots(dots_scores(), "accuracy"),
        "layer_score_distributions": figures.layer_score_distributions(
            layers, reference=layers, names=("a", "b"), quantity="importance"
        ),
        "output_strips": figures.output_strips(
            {"WP": rng.random(6), "WF": rng.random(6)}, np.arange(6) < 2, quantity="x"
        ),
        "attack_intervals": figures.attack_intervals(attack_rows()),
        "method_curves": figures.method_curves({"WP": ([0, 1], [0.5, 0.6]), "x": ([0], [1])}, x="x", y="y", target=1),
    }


def attack_rows(inputs=("logits", "features"), attackers=("linear", "mlp")):
    return pd.DataFrame(
        [
            {"model": model, "input": name, "attacker": attacker, "auc": 0.7, "auc_low": 0.6, "auc_high": 0.8}
            for model in ("Retrain", "WP", "Random network")
            for name in inputs
            for attacker in attackers
        ]
    )


def test_every_figure_draws_saves_and_stays_closed(run):
    open_before = plt.get_fignums()
    drawn = all_figures()
    assert len(drawn) == 7
    for stem, figure in drawn.items():
        assert isinstance(figure, Figure)
        run.figure(figure, f"fig_{stem}", dots_per_inch=40)
        assert (run.figures / f"fig_{stem}.png").stat().st_size > 1000
    assert plt.get_fignums() == open_before  # an open figure would be shown twice in a notebook


def test_output_strips_puts_each_image_on_its_side():
    values = np.array([0.9, 0.1, 0.2, 0.8])
    ax = figures.output_strips({"WP": values}, [True, False, False, True], quantity="Male").axes[0]
    has, has_not = (line.get_xydata() for line in ax.lines[:2])
    assert has[:, 1].tolist() == [0.9, 0.8] and has_not[:, 1].tolist() == [0.1, 0.2]
    assert has[:, 0].min() > has_not[:, 0].max()
    with pytest.raises(ValueError, match="outputs must hold 4 probabilities"):
        figures.output_strips({"WP": values[:3]}, [True, False, False, True], quantity="Male")


def test_attack_intervals_draws_every_row_and_retrain_as_a_line():
    left, right = figures.attack_intervals(attack_rows()).axes
    for ax in (left, right):
        bars = [line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_linestyle() == "-"]
        assert len(bars) == 6 and all(line.get_xdata() == pytest.approx([0.6, 0.8]) for line in bars)
        assert [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == "--"] == [0.7]
    with pytest.raises(ValueError, match="no rows"):
        figures.attack_intervals(attack_rows()[:0])


def heading_is_clear(figure):
    """The legend is inside the figure, above all panels, and no title of its own overlaps it."""
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box, page = legend.get_window_extent(), figure.bbox
    is_inside = page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
    entries = [text.get_window_extent() for text in legend.get_texts()]
    titles = [text for text in (legend.get_title(), figure._suptitle) if text is not None and text.get_text()]
    is_apart = not any(title.get_window_extent().overlaps(entry) for title in titles for entry in entries)
    return is_inside and is_apart and all(ax.get_tightbbox().y1 <= box.y0 for ax in figure.axes)


MANY = ("linear", "a threshold for each class", "loss of a reference network", "mlp")


@pytest.mark.parametrize("title", [None, "Attribute inference on a data set with a name"])
@pytest.mark.parametrize("attackers", [("linear",), ("linear", "mlp"), MANY], ids=len)
@pytest.mark.parametrize("num_panels", [1, 2, 3])
def test_the_legend_of_attack_intervals_is_whole_and_clear_of_the_title(num_panels, attackers, title):
    inputs = ("logits", "features", "labels")[:num_panels]
    figure = figures.attack_intervals(attack_rows(inputs, attackers), title=title)
    assert figure.get_figwidth() >= 6 and heading_is_clear(figure)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["Retrain", "no information", *attackers]
    assert figure.legends[0].get_title().get_text() == (title or "")


def test_the_check_of_a_heading_can_fail():
    figure = figures.attack_intervals(attack_rows())
    figure.suptitle("A title in the legend's place")
    assert not heading_is_clear(figure)


def marks_of(ax):
    """Return row -> position of the large marks, and the texts beside the rows from the top."""
    marks = [line for line in ax.lines if line.get_markersize() == 6 and line.get_linestyle() == "None"]
    texts = sorted(ax.texts, key=lambda text: text.xy[1])
    return {int(y): x for line in marks for x, y in line.get_xydata()}, [text.get_text() for text in texts]


def test_score_dots_draws_means_in_method_order_and_retrain_as_a_line():
    ax = figures.score_dots(dots_scores(), "accuracy").axes[0]
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names == ["Original", "Retrain", "WP (targeted)", "WP (as printed)", "WP (random control)"]
    assert ax.yaxis_inverted()
    marks, texts = marks_of(ax)
    np.testing.assert_allclose([marks[row] for row in range(5)], [0.505, 0.705, 0.805, 0.605, 0.905])
    assert texts == [".505", ".705", ".805", ".605", ".905"]
    dashed = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert [line.get_xdata()[0] for line in dashed] == [pytest.approx(0.705)]
    assert "\u2192 better" in ax.figure.get_supxlabel()


def test_score_dots_gives_each_study_a_panel_and_shows_undefined_scores():
    scores = dots_scores()
    scores.loc[scores["method"] == "Original", "value"] = np.nan
    other = scores.assign(dataset="synthfaces", value=1.0)
    figure = figures.score_dots(pd.concat([scores, other[other["method"] != "WP"]]), "accuracy")
    assert [ax.get_title() for ax in figure.axes] == ["orl", "synthfaces"]
    assert [marks_of(ax)[1] for ax in figure.axes] == [
        ["undefined", ".705", ".805", ".605", ".905"],
        ["1.000", "1.000"],
    ]
    with pytest.raises(ValueError, match=r"no scores for \('auc', 'retained', 'test'\)"):
        figures.score_dots(scores, "auc")


def test_before_after_faces_draws_the_probabilities_and_highlights_the_forgotten_label():
    before, after = np.array([[0.9, 0.2]]), np.array([[0.4, 0.3]])
    figure = figures.before_after_faces(
        faces(1), ["Male", "Young"], before, after, np.array([[1, 0]]), "Male", after="WF"
    )
    bars = figure.axes[1]
    np.testing.assert_allclose(
        sorted(bar.get_width() for bar in bars.patches if bar.get_width() < 1), [0.2, 0.3, 0.4, 0.9]
    )
    labels = bars.get_yticklabels()
    assert [text.get_text() for text in labels] == ["Male \u25cf", "Young \u25cb"]
    assert [text.get_fontweight() for text in labels] == ["bold", "normal"]
    assert "forgotten: Male" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_figures_refuse_what_they_cannot_show():
    probabilities, truth = np.full((1, 2), 0.5), np.zeros((1, 2))
    with pytest.raises(ValueError, match=r"expected uint8 \(N, 3, H, W\)"):
        figures.face_grid(faces(2).astype(float))
    with pytest.raises(ValueError, match="3 titles for 2 images"):
        figures.face_grid(faces(2), titles=list("abc"))
    with pytest.raises(ValueError, match="pass probabilities, not logits"):
        figures.before_after_faces(faces(1), ["a", "b"], probabilities * 9, probabilities, truth, "a")
    with pytest.raises(ValueError, match=r"probs_after has shape \(1, 1\)"):
        figures.before_after_faces(faces(1), ["a", "b"], probabilities, probabilities[:, :1], truth, "a")
    with pytest.raises(ValueError, match="'c' is not among a, b"):
        figures.before_after_faces(faces(1), ["a", "b"], probabilities, probabilities, truth, "c")
    with pytest.raises(ValueError, match="layer 'fc' must be finite and >= 0"):
        figures.layer_score_distributions({"fc": [-1.0]}, reference={"fc": [1.0]}, names=("a", "b"), quantity="x")
