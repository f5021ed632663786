"""Scores files, sidecars, refusals, and that every figure draws what it was given."""

import hashlib
import itertools
import json
import math
import subprocess

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from mlu_utils import paths, reporting


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


def record(profile="quick", **changes):
    """Return a provenance record without touching git."""
    values = {
        "notebook": "03_weight_filtering",
        "parameters": {"seed": 42, "eps": 0.5},
        "seeds": {"training": 42},
        "inputs": [],
        "profile": profile,
        "device": "cpu",
        "seconds": 1.5,
    }
    return reporting.provenance(**values | changes)


@pytest.fixture
def figures(tmp_path, monkeypatch):
    """Stand in for the repository's figures folder."""
    folder = tmp_path / "figures"
    monkeypatch.setattr(paths, "FIGURES", folder)
    return folder


@pytest.fixture
def table():
    """Return a small result table."""
    return pd.DataFrame([score(), score("WP", 0.91)])


# --- tidy scores --------------------------------------------------------------------------------------------


def test_scores_survive_the_file_to_the_last_digit(tmp_path):
    rows = [score(value=0.1 + 0.2), score("WP", 1 / 3), score("Original", float("nan"))]
    written = reporting.write_scores(tmp_path / "deep" / "scores.csv", rows)
    read = reporting.read_scores(tmp_path / "deep" / "scores.csv")
    pd.testing.assert_frame_equal(written, read, check_exact=True)
    assert tuple(read.columns) == reporting.SCORE_COLUMNS
    assert read["value"].tolist()[:2] == [0.1 + 0.2, 1 / 3]


def test_append_adds_new_rows_and_replaces_repeated_ones(tmp_path):
    path = tmp_path / "scores.csv"
    reporting.append_scores(path, [score(), score("WP", 0.5)])
    after = reporting.append_scores(path, [score("WP", 0.6), score("WF", 0.7)])
    assert dict(zip(after["method"], after["value"], strict=True)) == {"Retrain": 0.9, "WP": 0.6, "WF": 0.7}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": 93.0}, r"is 93.0 fraction; fractions lie in \[0, 1\] \(divide percentages"),
        ({"value": float("inf"), "unit": "s"}, "no value is infinite"),
        ({"method": "wp"}, "method 'wp' is unknown; accepted: Original, Retrain"),
        ({"reading": "literal"}, "reading 'literal' is unknown"),
        ({"unit": "%"}, "unit '%' is unknown"),
        ({"label": None}, "row 0: label is None; write '-'"),
        ({"seed": "first"}, "seeds must be whole"),
        ({"colour": "red"}, r"unknown columns \['colour'\]"),
    ],
)
def test_bad_rows_are_refused_before_anything_is_written(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        reporting.write_scores(tmp_path / "scores.csv", [score(**change)])
    assert list(tmp_path.iterdir()) == []


def test_repeated_and_missing_columns_are_refused(tmp_path):
    with pytest.raises(ValueError, match="two rows for"):
        reporting.write_scores(tmp_path / "scores.csv", [score(), score(value=0.5)])
    with pytest.raises(ValueError, match=r"missing columns \['unit'\]"):
        reporting.write_scores(tmp_path / "scores.csv", pd.DataFrame([score()]).drop(columns="unit"))


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.6, 0.9, 0.99])
def test_cut_off_scores_file_is_named(tmp_path, keep):
    path = tmp_path / "scores.csv"
    reporting.write_scores(path, [score("WP"), score()])
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(ValueError, match=r"scores\.csv"):
        reporting.read_scores(path)


def test_missing_retrain_is_refused_everywhere(tmp_path, table):
    without = table[table["method"] != "Retrain"]
    message = r"1 of 1 results have no Retrain row, such as \(quick, orl, resnet18, label:Smiling, 0, test"
    with pytest.raises(ValueError, match=message):
        reporting.require_retrain(without)
    with pytest.raises(ValueError, match=message):
        reporting.result_table(without, ["accuracy"])
    with pytest.raises(ValueError, match=message):
        reporting.write_table(without, "table2", tmp_path, record())
    with pytest.raises(ValueError, match=message):
        reporting.score_bars(without, "accuracy")
    assert list(tmp_path.iterdir()) == []
    reporting.require_retrain(table)


@pytest.mark.parametrize("column", ["seed", "dataset", "request", "split", "label", "metric"])
def test_retrain_of_another_study_does_not_count(column):
    other = score(**{column: 1 if column == "seed" else "other"})
    with pytest.raises(ValueError, match="no Retrain row"):
        reporting.require_retrain(pd.DataFrame([other, score("WP")]))


def test_ratios_to_retrain_need_no_retrain_row():
    reporting.require_retrain(pd.DataFrame([score("WP", 40.0, metric="speedup", unit="x", label="-")]))


def test_result_table_orders_methods_and_signs_the_gap():
    rows = [
        score(method, value + seed / 100, seed=seed)
        for seed in (1, 0)
        for method, value in (("SalUn", 0.8), ("WP", 0.95), ("Retrain", 0.9), ("Original", 0.9))
    ]
    rows += [score("WP", 0.97, reading="printed", seed=seed) for seed in (0, 1)]
    got = reporting.result_table(pd.DataFrame(rows), ["accuracy"], labels=["retained"], splits=["test"])
    first = got[got["seed"] == 0]
    assert first["method"].tolist() == ["Original", "Retrain", "WP", "WP", "SalUn"]
    assert first["reading"].tolist() == ["-", "-", "targeted", "printed", "-"]
    np.testing.assert_allclose(first["retrain_gap"], [0, 0, 0.05, 0.07, -0.1])
    summary = reporting.summary_table(got).set_index(["method", "reading"])
    assert summary.loc[("SalUn", "-"), "num_seeds"] == 2
    assert summary.loc[("SalUn", "-"), "mean"] == pytest.approx(0.805)
    assert summary.loc[("SalUn", "-"), "sd"] == pytest.approx(0.01 / math.sqrt(2))
    with pytest.raises(ValueError, match=r"no scores for metrics \['auc'\].*there are: \['accuracy'\]"):
        reporting.result_table(pd.DataFrame(rows), ["auc"])


# --- provenance and atomic writing --------------------------------------------------------------------------


def test_sidecar_holds_everything(figures, tmp_path, table):
    scores_file = tmp_path / "scores.csv"
    scores_file.write_bytes(b"abc")
    path = reporting.write_table(table, "table2_utility", figures, record(inputs=[scores_file]))
    sidecar = json.loads((figures / "table2_utility.json").read_text())
    assert path == figures / "table2_utility.csv"
    pd.testing.assert_frame_equal(reporting.read_scores(path), table)
    assert sidecar["file"] == "table2_utility.csv"
    assert sidecar["file_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert sidecar["notebook"] == "03_weight_filtering" and sidecar["profile"] == "quick"
    assert sidecar["parameters"] == {"seed": 42, "eps": 0.5} and sidecar["seeds"] == {"training": 42}
    # Outside the repository only the name is told; the hash is the published one of "abc".
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sidecar["inputs"] == {"scores.csv": expected}
    assert set(sidecar["versions"]) == {"python", "torch", "numpy", "pandas", "sklearn"}
    assert sidecar["versions"]["numpy"] == np.__version__
    assert (sidecar["device"], sidecar["seconds"]) == ("cpu", 1.5)
    assert {"commit", "is_dirty"} <= set(sidecar)


def test_parameter_hash_follows_values_not_order_or_types():
    first = record(parameters={"a": 1, "b": [0.5, 2.5]})["parameters_sha256"]
    assert record(parameters={"b": np.array([0.5, 2.5]), "a": np.int64(1)})["parameters_sha256"] == first
    assert record(parameters={"a": 2, "b": [0.5, 2.5]})["parameters_sha256"] != first
    with pytest.raises(ValueError, match="parameters holds a value that JSON can't: object"):
        record(parameters={"a": object()})
    with pytest.raises(ValueError, match="profile is ''"):
        record(profile="")


def test_inputs_inside_the_repository_are_named_from_its_root(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "scores.csv").write_text("x")
    assert list(record(inputs=[tmp_path / "runs" / "scores.csv"])["inputs"]) == ["runs/scores.csv"]
    with pytest.raises(FileNotFoundError):
        record(inputs=[tmp_path / "absent.csv"])


def test_commit_and_dirty_flag_follow_git(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    assert (record()["commit"], record()["is_dirty"]) == (None, None)  # not a repository

    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    git("init", "-q")
    (tmp_path / "code.py").write_text("1")
    git("add", "code.py")
    git("commit", "-q", "-m", "first")
    assert len(record()["commit"]) == 40 and record()["is_dirty"] is False
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "fig1.png").write_text("regenerated")
    assert record()["is_dirty"] is False  # its own output is not a change of code
    (tmp_path / "code.py").write_text("2")
    assert record()["is_dirty"] is True
    # A copy without .git inside this repository is not this commit.
    (tmp_path / "copy").mkdir()
    monkeypatch.setattr(paths, "ROOT", tmp_path / "copy")
    assert record()["commit"] is None


def test_missing_git_is_tolerated(monkeypatch):
    def no_git(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", no_git)
    assert (record()["commit"], record()["is_dirty"]) == (None, None)


def test_smoke_run_cannot_write_into_figures(figures, tmp_path, table):
    picture = plt.figure()
    plt.close(picture)
    message = r"smoke run can't write .* into figures/.*write below runs/smoke/ or run the quick profile"
    roundabout = tmp_path / "elsewhere"
    figures.mkdir()
    roundabout.symlink_to(figures, target_is_directory=True)
    for folder in (figures, figures / "sub", tmp_path / "runs" / ".." / "figures", roundabout):
        with pytest.raises(ValueError, match=message):
            reporting.write_table(table, "table2", folder, record("smoke"))
        with pytest.raises(ValueError, match=message):
            reporting.save_figure(picture, "fig2", folder, record("smoke"))
    assert list(figures.iterdir()) == []
    assert reporting.write_table(table, "table2", tmp_path / "runs", record("smoke")).exists()
    assert reporting.write_table(table, "table2", figures, record("quick")).exists()


@pytest.mark.parametrize("stem", ["Table2", "table 2", "table2.csv", "../table2", "", "_x"])
def test_bad_stem_is_refused(tmp_path, table, stem):
    with pytest.raises(ValueError, match="expected lower-case letters and digits"):
        reporting.write_table(table, stem, tmp_path, record())


def test_incomplete_provenance_and_empty_table_are_refused(tmp_path, table):
    with pytest.raises(ValueError, match=r"lacks \['commit'\]"):
        reporting.write_table(table, "t", tmp_path, {k: v for k, v in record().items() if k != "commit"})
    with pytest.raises(ValueError, match="'t' has no rows"):
        reporting.write_table(table.iloc[:0], "t", tmp_path, record())


@pytest.mark.parametrize("fails_at", ["fsync", "replace"])
@pytest.mark.parametrize("is_first", [True, False])
def test_half_written_file_never_stays(tmp_path, monkeypatch, table, fails_at, is_first):
    before = {}
    if not is_first:
        reporting.write_table(table, "table2", tmp_path, record())
        reporting.append_scores(tmp_path / "scores.csv", table)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(reporting.os, fails_at, full_disk)
    with pytest.raises(OSError, match="No space left"):
        reporting.write_table(table.assign(value=0.1), "table2", tmp_path, record())
    with pytest.raises(OSError, match="No space left"):
        reporting.append_scores(tmp_path / "scores.csv", [score("WF", 0.2)])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_figure_that_fails_to_draw_leaves_nothing(tmp_path):
    picture = plt.figure()
    plt.close(picture)
    picture.text(0.5, 0.5, r"$\nonsense$")
    with pytest.raises(ValueError, match="nonsense"):
        reporting.save_figure(picture, "fig2", tmp_path, record())
    assert list(tmp_path.iterdir()) == []


def test_same_figure_has_the_same_bytes(tmp_path):
    first, second = (
        reporting.save_figure(reporting.score_bars(bars_scores(), "accuracy"), f"fig{i}", tmp_path, record())
        for i in (1, 2)
    )
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes().startswith(b"\x89PNG")


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
    styles = reporting.METHOD_STYLES
    for what in ("colour", "marker"):
        assert len({getattr(style, what) for style in styles.values()}) == len(styles)
    of_the_paper = list(styles)[:8]
    assert of_the_paper == ["Original", "Retrain", "WF", "WP", "CF-k", "SCRUB", "UNSIR", "SalUn"]
    for first, second in itertools.combinations(of_the_paper, 2):
        lightness = abs(lab(styles[first].colour)[0] - lab(styles[second].colour)[0])
        assert lightness >= 7, f"{first} and {second} look alike in greyscale"
    for vision, (first, second) in itertools.product(VISION, itertools.combinations(styles, 2)):
        a, b = styles[first], styles[second]
        distance = np.linalg.norm(lab(a.colour, vision) - lab(b.colour, vision))
        assert distance >= 8 or a.hatch != b.hatch, f"{first} and {second} look alike with {vision}"


def test_names_and_arrows():
    assert reporting.method_display("WF") == "WF"
    assert reporting.method_display("WF", "printed") == "WF (as printed)"
    with pytest.raises(ValueError, match="'Salun' has no style: .*did you mean 'SalUn'"):
        reporting.method_style("Salun")
    assert reporting.arrow("lower") == "\u2193 better"
    with pytest.raises(ValueError, match="better is 'up': expected one of higher, lower, retrain"):
        reporting.arrow("up")


# --- figures ------------------------------------------------------------------------------------------------


def faces(n):
    return np.random.default_rng(0).integers(0, 256, (n, 3, 12, 10), dtype=np.uint8)


def bars_scores():
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
    zones = pd.DataFrame({"layer": ["a", "a", "b"], "zone": ["kept", "zeroed", "odd"], "share": [0.7, 0.3, 1.0]})
    sweep = pd.DataFrame(
        itertools.product([0.1, 1.0], [0.01, 0.1], ["x", "y"], ["ours", "printed"], [0.5]),
        columns=["epsilon", "tau", "quantity", "source", "value"],
    )
    history = pd.DataFrame({"epoch": [1, 2], "retain_loss": [0.5, 0.4], "validation_accuracy": [0.6, 0.7]})
    truth = np.array([[1, 0], [0, np.nan], [1, 1]])
    names = ["Male", "Young"]
    return {
        "face_grid": reporting.face_grid(faces(5), titles=list("abcde"), annotations=[["x", "y"]] * 5),
        "before_after_faces": reporting.before_after_faces(
            faces(3), names, probabilities, 1 - probabilities, truth, "Male"
        ),
        "score_bars": reporting.score_bars(bars_scores(), "accuracy"),
        "layer_score_distributions": reporting.layer_score_distributions(
            layers, reference=layers, thresholds={"low": 0.1}
        ),
        "zone_shares": reporting.zone_shares(zones),
        "sensitivity_curves": reporting.sensitivity_curves(sweep),
        "training_curves": reporting.training_curves(history),
        "trade_off": reporting.trade_off(trade_off_scores(), forgotten="Male"),
        "output_strips": reporting.output_strips(
            {"WP": rng.random(6), "WF": rng.random(6)}, np.arange(6) < 2, quantity="x"
        ),
        "attack_intervals": reporting.attack_intervals(attack_rows()),
        "method_curves": reporting.method_curves(
            {"WP": ([0, 1], [0.5, 0.6]), "other": ([0], [1])}, x="x", y="y", target=1
        ),
        "entropy_distributions": reporting.entropy_distributions(
            {"a": {"WP": {"train": rng.random(9), "unseen": rng.random(9)}}}, {("a", "WP"): "AUC .5"}
        ),
    }


def trade_off_scores():
    """Retain .9 / .8 / .7; leak AUC 1, .5 and 0: an inverted output says as much as a right one."""
    rows = []
    for method, kept, leak in (("Original", 0.9, 1.0), ("Retrain", 0.8, 0.5), ("WP", 0.7, 0.0)):
        rows += [score(method, kept, label="retained"), score(method, leak, label="Male", metric="auc")]
    return pd.DataFrame(rows)


def attack_rows(inputs=("logits", "features"), attackers=("linear", "mlp")):
    return pd.DataFrame(
        [
            {"model": model, "input": name, "attacker": attacker, "auc": 0.7, "auc_low": 0.6, "auc_high": 0.8}
            for model in ("Retrain", "WP", "Random network")
            for name in inputs
            for attacker in attackers
        ]
    )


def test_every_figure_draws_saves_and_stays_closed(tmp_path):
    open_before = plt.get_fignums()
    drawn = all_figures()
    assert len(drawn) == 12
    for stem, figure in drawn.items():
        assert isinstance(figure, Figure)
        path = reporting.save_figure(figure, stem, tmp_path, record("smoke"), dots_per_inch=40)
        assert path.stat().st_size > 1000
    assert plt.get_fignums() == open_before  # an open figure would be shown twice in a notebook


def test_trade_off_counts_an_inverted_output_as_saying_all():
    ax = reporting.trade_off(trade_off_scores(), forgotten="Male").axes[0]
    marks = {line.get_label(): line.get_xydata()[0] for line in ax.lines if not line.get_label().startswith("_")}
    assert list(marks) == ["Original", "Retrain", "WP (targeted)"]
    np.testing.assert_allclose([y for _, y in marks.values()], [10, 0, -10], atol=1e-9)
    np.testing.assert_allclose([x for x, _ in marks.values()], [1, 0, 1], atol=0.03)  # marks are kept apart a little
    with pytest.raises(ValueError, match="no test scores for retained accuracy and auc of 'Young'"):
        reporting.trade_off(trade_off_scores(), forgotten="Young")
    scores = trade_off_scores().query("method != 'Retrain'")
    with pytest.raises(ValueError, match="needs Retrain's retained accuracy"):
        reporting.trade_off(scores, forgotten="Male")


def test_output_strips_puts_each_image_on_its_side():
    values = np.array([0.9, 0.1, 0.2, 0.8])
    ax = reporting.output_strips({"WP": values}, [True, False, False, True], quantity="Male").axes[0]
    has, has_not = (line.get_xydata() for line in ax.lines[:2])
    assert has[:, 1].tolist() == [0.9, 0.8] and has_not[:, 1].tolist() == [0.1, 0.2]
    assert has[:, 0].min() > has_not[:, 0].max()
    with pytest.raises(ValueError, match="outputs must hold 4 probabilities"):
        reporting.output_strips({"WP": values[:3]}, [True, False, False, True], quantity="Male")


def test_training_curves_connect_over_epochs_without_a_score():
    gaps = [np.nan, 0.6, np.nan, np.nan, 0.8]
    history = pd.DataFrame({"epoch": range(1, 6), "retain_loss": 0.5, "validation_accuracy": gaps})
    loss, accuracy = (ax.lines[0].get_xydata().tolist() for ax in reporting.training_curves(history).axes)
    assert [x for x, _ in loss] == [1, 2, 3, 4, 5] and accuracy == [[2, 0.6], [5, 0.8]]


def test_attack_intervals_draws_every_row_and_retrain_as_a_line():
    left, right = reporting.attack_intervals(attack_rows()).axes
    for ax in (left, right):
        bars = [line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_linestyle() == "-"]
        assert len(bars) == 6 and all(line.get_xdata() == pytest.approx([0.6, 0.8]) for line in bars)
        assert [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == "--"] == [0.7]
    with pytest.raises(ValueError, match="no rows"):
        reporting.attack_intervals(attack_rows()[:0])


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
    figure = reporting.attack_intervals(attack_rows(inputs, attackers), title=title)
    assert figure.get_figwidth() >= 6 and heading_is_clear(figure)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["Retrain", "no information", *attackers]
    assert figure.legends[0].get_title().get_text() == (title or "")


def test_the_check_of_a_heading_can_fail():
    figure = reporting.attack_intervals(attack_rows())
    figure.suptitle("A title in the legend's place")
    assert not heading_is_clear(figure)


def test_the_rows_of_entropy_distributions_have_limits_of_their_own():
    rng = np.random.default_rng(0)
    tasks = {
        task: {
            model: {group: rng.normal(mean + shift, sd, 50) for group in ("train", "unseen")}
            for shift, model in enumerate(("Original", "WF", "WP"))
        }
        for task, mean, sd in (("labels", -1, 0.1), ("classes", -9, 2))
    }
    figure = reporting.entropy_distributions(tasks, {}, title="Two tasks")
    assert heading_is_clear(figure)
    above, below = ({(ax.get_xlim(), ax.get_ylim()) for ax in figure.axes[row : row + 3]} for row in (0, 3))
    assert len(above) == len(below) == 1, "panels of one row differ in their limits"
    for limits, row in ((above, "labels"), (below, "classes")):
        values = np.concatenate([v for groups in tasks[row].values() for v in groups.values()])
        ((low, high), _) = next(iter(limits))
        assert high - low < 1.2 * np.ptp(values), "the other row's values squeeze this one"


def test_entropy_distributions_share_axes_and_rescale_nothing():
    low, high = np.full(4, -3.0), np.full(4, -1.0)
    tasks = {"a": {"WP": {"train": low, "unseen": high}, "WF": {"train": high, "unseen": high}}}
    first, second = reporting.entropy_distributions(tasks, {}).axes
    assert first.get_xlim() == second.get_xlim() and first.get_ylim() == second.get_ylim()
    heights = [patch.get_data().values for patch in first.patches]
    assert [int(h.argmax()) for h in heights] == [0, 23] and all(h.sum() == 1 for h in heights)
    with pytest.raises(ValueError, match="every task needs the same models"):
        reporting.entropy_distributions(tasks | {"b": {"WP": {"train": low}}}, {})


def test_set_style_leaves_the_backend_alone():
    with plt.rc_context():
        before = plt.get_backend()
        reporting.set_style()
        assert plt.get_backend() == before


def test_score_bars_draws_means_in_method_order_and_retrain_as_a_line():
    scores = bars_scores()
    ax = reporting.score_bars(scores, "accuracy").axes[0]
    names = [text.get_text() for text in ax.get_xticklabels()]
    assert names == ["Original", "Retrain", "WP\n(targeted)", "WP\n(as printed)", "WP\n(random control)"]
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], [0.505, 0.705, 0.805, 0.605, 0.905])
    dashed = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert [line.get_ydata()[0] for line in dashed] == [pytest.approx(0.705)]
    assert "\u2191 better" in ax.get_ylabel()
    assert ax.get_ylim()[0] == 0.0  # bars that start elsewhere lie about ratios


def test_score_bars_gives_each_study_a_panel_and_shows_undefined_scores():
    scores = bars_scores()
    undefined = (scores["method"] == "Original") & (scores["seed"] >= 0)
    scores.loc[undefined, "value"] = np.nan
    other = scores.assign(dataset="synthfaces")
    figure = reporting.score_bars(pd.concat([scores, other]), "accuracy")
    assert [ax.get_title() for ax in figure.axes] == ["orl", "synthfaces"]
    assert "undefined" in [text.get_text() for text in figure.axes[0].texts]
    with pytest.raises(ValueError, match=r"no scores for \('auc', 'retained', 'test'\)"):
        reporting.score_bars(scores, "auc")


def test_before_after_faces_draws_the_probabilities_and_highlights_the_forgotten_label():
    before, after = np.array([[0.9, 0.2]]), np.array([[0.4, 0.3]])
    figure = reporting.before_after_faces(
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
        reporting.face_grid(faces(2).astype(float))
    with pytest.raises(ValueError, match="3 titles for 2 images"):
        reporting.face_grid(faces(2), titles=list("abc"))
    with pytest.raises(ValueError, match="pass probabilities, not logits"):
        reporting.before_after_faces(faces(1), ["a", "b"], probabilities * 9, probabilities, truth, "a")
    with pytest.raises(ValueError, match=r"probs_after has shape \(1, 1\)"):
        reporting.before_after_faces(faces(1), ["a", "b"], probabilities, probabilities[:, :1], truth, "a")
    with pytest.raises(ValueError, match="'c' is not among a, b"):
        reporting.before_after_faces(faces(1), ["a", "b"], probabilities, probabilities, truth, "c")
    with pytest.raises(ValueError, match="layer 'fc' must be finite and >= 0"):
        reporting.layer_score_distributions({"fc": [-1.0]})
    with pytest.raises(ValueError, match="add up to at most 1"):
        reporting.zone_shares(pd.DataFrame({"layer": ["a", "a"], "zone": ["x", "y"], "share": [0.7, 0.7]}))
    with pytest.raises(ValueError, match="nothing varies"):
        reporting.sensitivity_curves(pd.DataFrame({"epsilon": [1.0], "tau": [1.0], "quantity": ["x"], "value": [0.5]}))
    with pytest.raises(ValueError, match="needs the column epoch"):
        reporting.training_curves(pd.DataFrame({"loss": [1.0]}))
