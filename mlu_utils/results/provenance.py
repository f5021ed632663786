"""What a notebook leaves behind: scores, tables and figures, each with a sidecar that says where it came from."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import json
import platform
import re
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure

from mlu_utils import paths
from mlu_utils.devices import resolve_device
from mlu_utils.files import write_atomically
from mlu_utils.results.scores import SCORE_COLUMNS, checked_scores, csv_bytes, require_retrain

if TYPE_CHECKING:
    from mlu_utils.studies import Study

_PACKAGES = {"torch": "torch", "numpy": "numpy", "pandas": "pandas", "sklearn": "scikit-learn"}


class Run:
    """One run of a notebook: its parameters on record, and the one way in which it writes.

    Make it right after the parameters, of which those that are plain data go on record. It also gives figures the
    suite's look. All files lie below `runs/`, each `<stem>` (lower-case letters, digits, underscores) with a sidecar
    `<stem>.json` beside it: scores in `folder`, which is that of the study or the profile, the rest in `figures`.

    Args:
        notebook: number and name, such as "03_weight_filtering".
        variables: `globals()` of the notebook.
        study: what the notebook is about; None: a whole profile, whose name is then in `variables`.

    Attributes:
        seeds: on record; add those that are neither the study's nor a variable `seed` or `..._seed(s)`.
        device: on record; the study's, else the one that `auto` stands for.
    """

    def __init__(self, notebook: str, variables: Mapping[str, object], study: Study | None = None) -> None:
        if not re.fullmatch(r"\d+[a-z]?_[a-z0-9_]+", notebook):
            raise ValueError(f"notebook is {notebook!r}: expected its number and name, such as 03_weight_filtering")
        profile = study.profile if study is not None else variables.get("profile")
        if not isinstance(profile, str) or not profile:
            raise ValueError(f"profile is {profile!r}: {notebook} needs a variable `profile`, such as 'quick'")
        is_own = {name: not name.startswith("_") and name not in ("In", "Out") for name in variables}
        plain = {name: value for name, value in variables.items() if is_own[name] and _is_plain(value)}
        self.seeds = {} if study is None else {"training": study.seed}
        for name, value in plain.items():
            if (found := re.fullmatch(r"(?:(\w+)_)?seeds?", name)) is not None:
                self.seeds[found[1] or "evaluation"] = value
        facts = {} if study is None else {"study": study.facts(plan=True)}
        self.folder = paths.RUNS / profile if study is None else study.folder
        self.figures = self.folder / "figures" if study is None else self.folder
        self.device = str(resolve_device("auto") if study is None else study.torch_device)
        self._name, self._profile = notebook, profile
        self._parameters = json.loads(json.dumps(plain | facts))  # a copy, which later cells can't change
        self._inputs: dict[str, str] = {}
        self._start, self._git = time.perf_counter(), _git_state()
        _set_style()

    def reads(self, path: Path | str) -> Path:
        """Put an input on record with its hash, and return its path; two of one name need the same content."""
        path, absolute = Path(path), Path(path).resolve()
        # Outside the repository only the name is kept: a sidecar must not tell where someone's home folder lies.
        is_inside = absolute.is_relative_to(paths.ROOT)
        name = absolute.relative_to(paths.ROOT).as_posix() if is_inside else absolute.name
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if self._inputs.setdefault(name, found) != found:
            raise ValueError(f"two inputs are called {name}, with other contents: has it changed since it was read?")
        return path

    def scores(self, rows: pd.DataFrame | Iterable[Mapping]) -> pd.DataFrame:
        """Write `scores_<number of the notebook>.csv` as `scores.checked_scores` returns them, and return them."""
        stem = f"scores_{self._name.split('_')[0]}"
        scores = checked_scores(rows, stem)
        self._write(csv_bytes(scores), stem, ".csv", self.folder)
        return scores

    def table(self, table: pd.DataFrame, stem: str) -> pd.DataFrame:
        """Write `<stem>.csv` in full precision, without the index, and return the table.

        Raises:
            ValueError: no rows, a bad stem, or the columns of scores without Retrain's rows.
        """
        if table.empty:
            raise ValueError(f"table {stem!r} has no rows: nothing was computed for it")
        if set(SCORE_COLUMNS) <= set(table.columns):
            require_retrain(table)
        self._write(csv_bytes(table), stem, ".csv", self.figures)
        return table

    def figure(self, figure: Figure, stem: str, *, dots_per_inch: int = 150) -> Figure:
        """Write `<stem>.png` and return the figure, which a cell then shows."""
        content = io.BytesIO()
        # Without the Software entry the same picture has the same bytes under another matplotlib.
        figure.savefig(content, format="png", dpi=dots_per_inch, metadata={"Software": None})
        self._write(content.getvalue(), stem, ".png", self.figures)
        return figure

    def record(self) -> dict:
        """Return what the sidecar of a file written now would say about where it came from."""
        commit, is_dirty = self._git
        parameters = json.dumps(self._parameters, sort_keys=True).encode()
        versions = {name: importlib.metadata.version(package) for name, package in _PACKAGES.items()}
        return {
            "notebook": self._name,
            "profile": self._profile,
            "commit": commit,  # None without git, as is_dirty
            "is_dirty": is_dirty,
            "parameters": self._parameters,
            "parameters_sha256": hashlib.sha256(parameters).hexdigest(),
            "seeds": self.seeds,
            "inputs": self._inputs,
            "versions": {"python": platform.python_version(), **versions},
            "device": self.device,
            "threads": torch.get_num_threads(),
            "seconds": time.perf_counter() - self._start,  # since the run was made
        }

    def _write(self, content: bytes, stem: str, suffix: str, folder: Path) -> None:
        if not re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", stem):
            raise ValueError(f"stem {stem!r}: expected lower-case letters and digits joined by underscores, no suffix")
        path = folder / f"{stem}{suffix}"
        # The sidecar names the hash of its file, so a crash between the two renames can be told afterwards.
        sidecar = {"file": path.name, "file_sha256": hashlib.sha256(content).hexdigest(), **self.record()}
        write_atomically({path: content, path.with_suffix(".json"): (json.dumps(sidecar, indent=2) + "\n").encode()})


def _is_plain(value: object) -> bool:
    """Whether JSON can hold a value as it is."""
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(inner) for key, inner in value.items())
    return value is None or type(value) in (bool, int, float, str)


def _git_state() -> tuple[str | None, bool | None]:
    """Commit and whether code differs from it; None, None where that can't be known."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(paths.ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    with contextlib.suppress(OSError, subprocess.SubprocessError):
        # A copy without .git inside another repository must not pass for that repository's commit.
        if Path(git("rev-parse", "--show-toplevel")).resolve() == paths.ROOT.resolve():
            # figures/ is left out: published results are no change of code.
            return git("rev-parse", "HEAD"), git("status", "--porcelain", "--", ".", ":(exclude)figures") != ""
    return None, None


def _set_style() -> None:
    """Give all figures of this process the suite's look; without it a figure is complete but plainer."""
    rc = {"axes.edgecolor": "0.3", "axes.titleweight": "bold", "grid.color": "0.9", "hatch.linewidth": 0.6}
    rc |= {"figure.dpi": 100, "legend.frameon": False}
    sns.set_theme(context="paper", style="whitegrid", font_scale=1.1, rc=rc)
