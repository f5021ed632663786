import re

import pandas as pd
import pytest

from mlu_utils import front_page, paths


def test_the_readme_shows_what_the_figures_hold():
    text = (paths.ROOT / "README.md").read_text(encoding="utf-8")
    assert front_page.split(text)[1] == front_page.results_table(), "figures/ and README differ: make publish"
    # Every picture and every file in figures/ that the README names exists.
    named = re.findall(r"figures/[\w.-]+\.(?:png|csv|json)", text)
    assert named and all((paths.ROOT / name).exists() for name in named)


def tables(folder, recall=(0.25, 0.35)):
    common = {"request": "label:Eyeglasses", "reading": "targeted", "split": "test", "method": "WP"}
    rows = [{**common, "label": "Eyeglasses", "metric": "recall", "value": value} for value in recall]
    rows.append({**common, "reading": "printed", "label": "Eyeglasses", "metric": "recall", "value": 9.0})
    pd.DataFrame(rows).to_csv(folder / "table_forgetting.csv")
    retained = {**common, "label": "retained", "metric": "accuracy", "value": 1.0}
    pd.DataFrame([retained]).to_csv(folder / "table2_multilabel_utility.csv")
    pd.DataFrame([{**common, "split": "-", "label": "-", "metric": "speedup", "value": 54.4}]).to_csv(
        folder / "table_seconds.csv"
    )


def test_a_row_is_the_mean_over_seeds_of_the_targeted_reading(tmp_path, monkeypatch):
    tables(tmp_path)
    monkeypatch.setattr(front_page, "STUDIES", front_page.STUDIES[:1])
    row = front_page.results_table(tmp_path).splitlines()[-1]
    assert row == "| Eyeglasses (`orl`, 50 epochs) | WP | .30 |  | 1.000 |  | 54 |"


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="table_forgetting.csv"):
        front_page.results_table(tmp_path)
    tables(tmp_path)
    with pytest.raises(ValueError, match="label:Smiling"):
        front_page.results_table(tmp_path)
    (tmp_path / "README.md").write_text("no markers")
    with pytest.raises(ValueError, match="lacks the lines"):
        front_page.update(tmp_path / "README.md", tmp_path)
