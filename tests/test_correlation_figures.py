"""The figures of label correlation: each value with its own interval, each line with its slope."""

import numpy as np
import pandas as pd
import pytest
from test_correlation import NAN, results

from mlu_utils.results import reporting
from mlu_utils.scoring.correlation import change_along_phi


def test_interval_curves_draws_each_value_with_its_own_interval():
    table = pd.DataFrame(
        [("a", "WF", 0, 0.6, 0.5, 0.7), ("a", "WF", 1, 0.8, 0.7, 0.9), ("b", "control", 1, 0.9, NAN, NAN)],
        columns=["panel", "model", "x", "value", "low", "high"],
    )
    first, second = reporting.interval_curves(table, x="strength", y="AUC", chance=0.5).axes
    assert [first.get_title(), second.get_title()] == ["a", "b"]
    np.testing.assert_allclose(first.lines[0].get_ydata(), [0.6, 0.8])
    bars = [path.vertices[:, 1].tolist() for path in first.collections[0].get_paths()]
    assert bars == [[0.5, 0.7], [0.7, 0.9]]
    with pytest.raises(ValueError, match="no rows"):
        reporting.interval_curves(table[:0], x="strength", y="AUC")


def test_change_lines_draws_marks_line_and_slope():
    phi, change, label, model = results(np.random.default_rng(0))
    line = change_along_phi(phi, change, label=label, model=model, seed=0, num_resamples=20)
    points = pd.DataFrame({"model": "WP", "phi": phi, "change": change, "strength": model // 3 / 2})
    figure = reporting.change_lines(points, {"WP": line}, x="|phi|", y="change", shade="strength")
    ax = figure.axes[0]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), line["change"])
    np.testing.assert_allclose(ax.collections[0].get_offsets(), np.column_stack([np.abs(phi), change]))
    assert f"{line['slope']:+.3f}" in ax.get_title()
    with pytest.raises(ValueError, match=r"no points of \['WF'\]"):
        reporting.change_lines(points, {"WF": line}, x="|phi|", y="change", shade="strength")
