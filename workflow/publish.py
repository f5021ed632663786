"""Put a finished profile into the committed pages: `python workflow/publish.py --profile quick`.

Outputs and parameters go into `notebooks/`, tables and pictures into `figures/`, the table of results into README.md.
Nothing is written unless all of it is fit; nothing else writes there.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import run

import notebooks
from mlu_utils import paths
from mlu_utils.digests import digest
from mlu_utils.files import write_atomically
from mlu_utils.studies import Profile
from notebooks import Job

MAX_NOTEBOOK_BYTES = 1_000_000
MACHINE_PATH = re.compile(
    r"(?<![\w.])(/(?:home|root|Users|tmp|var/folders|opt|work)/[^\s'\"<>:)]*|[A-Z]:\\\\?Users\\[^\s'\"]*)"
)
PICTURES = ("fig_*.png", "fig_*.json")  # of a study, published as <stem>_<study>

BEGIN, END = "<!-- results: written by make publish -->", "<!-- end of results -->"
STUDIES = ("orl-eyeglasses", "orl-smiling", "synthfaces-male")
METHODS = ("Original", "Retrain", "WF", "WP", "CF-k", "SCRUB", "UNSIR", "SalUn", "NegGrad", "SSD", "HeadReset")
# column: (table, metric, label or None for the forgotten one, digits or None for as many as a speed-up needs)
COLUMNS = {
    "recall": ("table_forgetting", "recall", None, 2),
    "AUC of its logit": ("table_forgetting", "auc", None, 2),
    "retained accuracy": ("table2_multilabel_utility", "accuracy", "retained", 3),
    "probe AUC": ("table_forgetting", "probe_auc", None, 2),
    "speed-up": ("table_seconds", "speedup", "-", None),
}


def main(arguments: list[str] | None = None) -> int:
    """Publish the profile that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="quick")
    options = parser.parse_args(arguments)
    return run.exit_status(lambda: publish(Profile.load(options.profile)))


def publish(profile: Profile) -> None:
    """Renew `notebooks/`, `figures/` and the README's table; what no run makes any more leaves `figures/`."""
    if profile.name == "smoke":
        raise ValueError("the numbers of profile smoke mean nothing: publish another one")
    with run.lock():
        readme = paths.ROOT / "README.md"
        pages, figures = _pages(profile), _figures(profile)
        before, _, after = split(readme.read_text(encoding="utf-8"))
        results = results_table(profile, paths.RUNS / profile.name / "figures")
        write_atomically(pages | figures | {readme: f"{before}{results}{after}".encode()})
        gone = [path for path in paths.FIGURES.iterdir() if path.is_file() and path not in figures]
        for path in gone:
            path.unlink()
    print(f"published: {len(pages)} notebooks, {len(figures)} files in figures/, the README's table of results")
    print(f"removed from figures/: {', '.join(sorted(path.name for path in gone)) or 'nothing'}")


def _figures(profile: Profile) -> dict[Path, bytes]:
    """Return path in `figures/` -> content of all that the profile's runs made for it."""
    runs = paths.RUNS / profile.name
    found = {paths.FIGURES / path.name: path for path in (runs / "figures").glob("[!.]*")}
    for study in profile.studies:
        for pattern in PICTURES:
            for path in (runs / study).glob(pattern):
                found[paths.FIGURES / f"{path.stem}_{study}{path.suffix}"] = path
    contents = {path: source.read_bytes() for path, source in sorted(found.items())}
    for path, content in contents.items():
        if path.suffix in (".csv", ".json") and (own := MACHINE_PATH.search(content.decode(errors="replace"))):
            raise ValueError(f"{found[path].relative_to(paths.ROOT)} names a path of this machine: {own[0]}")
    return contents


def _pages(profile: Profile) -> dict[Path, bytes]:
    """Return committed notebook -> its content with the outputs of its run, and the parameters that made them."""
    pages = {}
    for notebook, rule in notebooks.RULES.items():
        job = Job(notebook, profile, None if rule.runs_for == "profile" else profile.publish_study)
        path, noted = notebooks.committed(notebook), notebooks.noted_in(job.executed)
        if not notebooks.is_current(noted, job, notebooks.fingerprint(job)):
            what = "is out of date" if noted else "has not run"
            raise ValueError(f"{job.label} {what}: make reproduce PROFILE={profile.name} first")
        page = notebooks.read_notebook(path)
        if not all("id" in cell for cell in page["cells"]):
            raise ValueError(f"{path.name}: its cells have no ids; open and save it in JupyterLab (nbformat 4.5)")
        notebooks.write_parameters(page, noted["parameters"], notebook)
        executed = {cell["id"]: cell for cell in notebooks.code_cells(notebooks.read_notebook(job.executed))}
        for count, cell in enumerate(notebooks.code_cells(page), start=1):
            cell["outputs"], cell["execution_count"] = _without_machine(executed[cell["id"]]["outputs"]), count
            for output in cell["outputs"]:
                output |= {"execution_count": count} if "execution_count" in output else {}
            for part in (page, cell, *cell["outputs"]):
                for name in ("papermill", "execution"):
                    part.get("metadata", {}).pop(name, None)
        page["metadata"]["mlu"] = {
            "profile": profile.name,
            "study": job.study,
            "parameters": noted["parameters"],
            "code_sha256": notebooks.code_sha256(page, notebook),
            "outputs_sha256": outputs_sha256(page),
        }
        pages[path] = notebooks.as_bytes(page)
        if unfit := why_unfit(page, len(pages[path])):
            raise ValueError(f"{path.name}: {unfit}")
    return pages


def outputs_sha256(notebook: Mapping) -> str:
    """Return the SHA-256 of all outputs of a notebook, execution counts left out."""
    outputs = (output for cell in notebooks.code_cells(notebook) for output in cell["outputs"])
    return digest([{name: own for name, own in output.items() if name != "execution_count"} for output in outputs])


def why_unfit(notebook: Mapping, size: int) -> str:
    """Return what makes a notebook unfit to be published, empty when nothing does."""
    for text in notebooks.texts([cell["outputs"] for cell in notebooks.code_cells(notebook)]):
        if own := MACHINE_PATH.search(text):
            return f"its outputs name a path of a machine: {own[0]}"
    return f"it has {size} bytes with its outputs, at most {MAX_NOTEBOOK_BYTES}" if size > MAX_NOTEBOOK_BYTES else ""


def _without_machine(outputs: list) -> list:
    """Return outputs with this machine's folders written as a reader's: relative, or below `~`."""
    text = json.dumps(outputs)
    folders = [(f"{paths.ROOT}{os.sep}", ""), (str(paths.ROOT), "."), (sys.prefix, "<environment>")]
    for folder, name in (*folders, (sys.base_prefix, "<python>"), (str(Path.home()), "~")):
        text = text.replace(json.dumps(folder)[1:-1], name)
    return json.loads(text)


def results_table(profile: Profile, folder: Path) -> str:
    """Return the README's table in Markdown, from the tables in `folder`: test split, mean over the seeds."""
    means = {name: _means(folder / f"{name}.csv") for name, *_ in COLUMNS.values()}
    lines = [f"| forgotten | model | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 2) + "|"]
    for name in STUDIES:
        study = profile.study(name)
        forgotten = study.request.partition(":")[2]
        title = f"{forgotten} (`{study.dataset}`, {study.recipe.num_epochs} epochs)"
        for method in METHODS:
            cells = [
                _printed(means[table].get((study.request, method, metric, label or forgotten)), digits)
                for table, metric, label, digits in COLUMNS.values()
            ]
            if any(cells):
                lines.append(f"| {title} | {method} | {' | '.join(cells)} |")
                title = ""
        if title:
            raise ValueError(f"no scores of {study.request} in {folder}: make reproduce PROFILE={profile.name} first")
    return "\n".join(lines)


def _means(file: Path) -> pd.Series:
    """Return the means over the seeds, by request, method, metric and label."""
    scores = pd.read_csv(file)
    scores = scores[scores.reading.isin(["-", "targeted"]) & scores.split.isin(["-", "test"])]
    return scores.groupby(["request", "method", "metric", "label"]).value.mean()


def _printed(value: float | None, digits: int | None) -> str:
    if value is None:
        return ""
    return f"{value:.{int(value < 10)}f}" if digits is None else f"{value:.{digits}f}".removeprefix("0")


def split(readme: str) -> tuple[str, str, str]:
    """Return what stands before, between and after the markers."""
    before, begin, rest = readme.partition(f"{BEGIN}\n")
    table, end, after = rest.partition(f"\n{END}")
    if not begin or not end:
        raise ValueError(f"README.md lacks the lines {BEGIN!r} and {END!r} around its table of results")
    return before + begin, table, end + after


if __name__ == "__main__":
    sys.exit(main())
