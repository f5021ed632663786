"""Absolute paths of the repository, so that code runs the same from any folder; nothing is made or opened here."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"
REFERENCE = DATA / "reference"  # the paper's printed numbers
FIGURES = ROOT / "figures"  # what the quick profile regenerated, written by workflow/publish.py only
NOTEBOOKS = ROOT / "notebooks"
PROFILES = ROOT / "workflow" / "profiles"
RUNS = ROOT / "runs"  # git-ignored: checkpoints, scores, executed notebooks, logs
