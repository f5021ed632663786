"""Notebooks as the workflow sees them: which needs which, what a job runs with, and whether its result is current.

A job is one notebook of one profile, for one study or for all of them. Its fingerprint covers everything that its
result depends on; a job runs again when that changes and for no other reason. Notebooks are read as JSON and never
executed to find out about them; nothing here imports torch, because `make reproduce` with nothing to do must end at
once.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this checkout's package, whatever is installed

from mlu_utils import paths
from mlu_utils.digests import PACKAGE, code_digest, digest
from mlu_utils.naming import choices
from mlu_utils.studies import Profile, checked_value

PARAMETERS_TAG, INJECTED_TAG = "parameters", "injected-parameters"
FILLED_IN = ("profile", "study", "change")  # by the workflow, never by a profile
# Colours and pictures count for the results page only. A notebook that trains would else train again for a colour; to
# draw its own pictures anew, delete its executed copy in runs/.
DRAWINGS = ("mlu_utils.results.style", "mlu_utils.results.figures")


@dataclass(frozen=True)
class Rule:
    """How one notebook takes part in a run.

    Args:
        needs: earlier notebooks whose results it reads.
        runs_for: "studies" (once each), "step_studies" (the profile's studies of this name) or "profile" (once).
        data: files or folders below `data/` that it depends on.
        uses_plan: whether what a study compares counts, and not only what it trains.
        counts_drawings: whether a change of `DRAWINGS` runs it again.
    """

    needs: tuple[str, ...] = ()
    runs_for: str = "studies"
    data: tuple[str, ...] = ()
    uses_plan: bool = False
    counts_drawings: bool = False


# A later notebook is a line here and a rule in the Snakefile. A notebook's needs sort before it.
RULES: dict[str, Rule] = {
    "01_data_preparation": Rule(runs_for="profile", data=("orl_attributes",)),
    "02_original_model": Rule(data=("orl_attributes",)),
    "03_weight_filtering": Rule(needs=("02_original_model",), runs_for="step_studies"),
    "04_weight_pruning": Rule(needs=("02_original_model",), runs_for="step_studies"),
    "05_baselines": Rule(needs=("02_original_model",), data=("tuning",), uses_plan=True),
    "06_privacy_analysis": Rule(
        needs=("02_original_model", "05_baselines"), runs_for="profile", data=("tuning", "orl_attributes")
    ),
    "06b_people_and_images": Rule(runs_for="profile", data=("tuning", "orl_attributes")),
    "07_appendix_proofs": Rule(runs_for="profile", data=("reference",)),
    "07b_label_correlation": Rule(needs=("02_original_model",), runs_for="profile", data=("tuning", "orl_attributes")),
    "07c_bounds_on_models": Rule(needs=("02_original_model",), runs_for="profile", data=("tuning",)),
}
RULES["11_results"] = Rule(needs=tuple(RULES), runs_for="profile", data=("reference",), counts_drawings=True)


# --- Jobs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One notebook of one profile, for one study or (study None) for all of them."""

    notebook: str
    profile: Profile = field(compare=False)
    study: str | None = None

    @property
    def executed(self) -> Path:
        """The executed notebook: it exists only once every cell has run."""
        return paths.RUNS / self.profile.name / (self.study or "") / f"{self.notebook}.ipynb"

    @property
    def marker(self) -> Path:
        """What Snakemake takes for the job's output: a small file with its record."""
        return self.executed.with_suffix(".done")

    @property
    def label(self) -> str:
        """What progress lines and errors call it."""
        return f"{self.notebook} · {self.study or self.profile.name}"

    def upstream(self) -> list[Job]:
        """Return the jobs whose results this one reads; a per-profile notebook reads those of every study."""
        return [job for need in RULES[self.notebook].needs for job in _jobs_of(need, self.profile, self.study)]


def _jobs_of(notebook: str, profile: Profile, study: str | None = None) -> list[Job]:
    runs_for = RULES[notebook].runs_for
    if runs_for == "profile":
        return [Job(notebook, profile)]
    return [Job(notebook, profile, name) for name in ([study] if study else getattr(profile, runs_for))]


def jobs(profile: Profile) -> list[Job]:
    """Return all jobs of a profile in an order in which they could run."""
    return [job for notebook in RULES for job in _jobs_of(notebook, profile)]


def find_job(notebook: str, profile: Profile, study: str | None) -> Job:
    """Return the job of these names; refuse an unknown one, a study missing, and one given where none belongs."""
    if notebook not in RULES:
        raise ValueError(f"unknown notebook {notebook!r}: {choices(notebook, RULES)}")
    if study is not None:
        profile.study(study)
    if (study is None) != (RULES[notebook].runs_for == "profile"):
        advice = "profile: give no --study" if study else f"study: give --study, {choices('', profile.studies)}"
        raise ValueError(f"{notebook} runs once per {advice}")
    return Job(notebook, profile, study)


# --- Notebook files and their parameters --------------------------------------------------------------------


def committed(notebook: str) -> Path:
    """Return the committed notebook of this name."""
    return paths.NOTEBOOKS / f"{notebook}.ipynb"


def read_notebook(path: Path) -> dict:
    """Return a notebook as JSON; refuse what is missing or none."""
    try:
        return {"cells": [], "metadata": {}} | json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing, though workflow/notebooks.py names it") from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is no readable notebook: {error}") from error


def as_bytes(notebook: Mapping) -> bytes:
    """Return a notebook in the form that JupyterLab writes, so that saving by hand changes nothing else."""
    return (json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode()


def code_cells(notebook: Mapping) -> list[dict]:
    """Return the code cells; what papermill injected by hand is none of ours."""
    cells = (cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    return [cell for cell in cells if INJECTED_TAG not in cell["metadata"].get("tags", ())]


def source_of(cell: Mapping) -> str:
    """Return a cell's text, of which notebooks know two forms."""
    return cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])


def _split(notebook: Mapping, name: str) -> tuple[dict | None, list[dict]]:
    """Return the cell tagged `parameters` and the other code cells."""
    tagged, others = [], []
    for cell in code_cells(notebook):
        (tagged if PARAMETERS_TAG in cell["metadata"].get("tags", ()) else others).append(cell)
    if len(tagged) > 1:
        raise ValueError(f"{name}: {len(tagged)} cells are tagged {PARAMETERS_TAG!r}, expected one")
    return (tagged[0] if tagged else None), others


def _assignments(source: str, name: str) -> dict[str, ast.AnnAssign]:
    found: dict[str, ast.AnnAssign] = {}
    for node in ast.parse(source).body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name) or node.value is None:
            raise ValueError(
                f"{name}: parameter line {ast.unparse(node)!r}: expected 'name: type = literal  # meaning'"
            )
        if node.target.id in found:
            raise ValueError(f"{name}: parameter {node.target.id} is given twice")
        found[node.target.id] = node
    return found


def read_parameters(notebook: Mapping, name: str) -> dict[str, tuple[str, Any]]:
    """Return parameter -> (annotation, value) of the cell tagged `parameters`, which holds annotated literals only."""
    cell, _ = _split(notebook, name)
    parameters = {}
    for parameter, node in _assignments(source_of(cell), name).items() if cell else ():
        annotation, where = ast.unparse(node.annotation), f"{name}: default of {parameter}"
        try:
            value = ast.literal_eval(node.value)
        except ValueError:
            text = ast.unparse(node.value)
            raise ValueError(f"{where}: {text!r} is no literal; derive it in the next cell") from None
        parameters[parameter] = annotation, checked_value(value, annotation, where)
    return parameters


def write_parameters(notebook: dict, values: Mapping[str, Any], name: str) -> None:
    """Put values into the cell tagged `parameters`; comments, and the text of equal values, stay as they are."""
    cell, _ = _split(notebook, name)
    if cell is None:
        return
    lines = source_of(cell).splitlines()
    for parameter, node in reversed(_assignments(source_of(cell), name).items()):  # from the last to the first
        v = node.value
        if parameter in values and repr(ast.literal_eval(v)) != repr(values[parameter]):
            i, j = v.lineno - 1, v.end_lineno - 1
            before, after = lines[i].encode()[: v.col_offset], lines[j].encode()[v.end_col_offset :]
            lines[i : j + 1] = [f"{before.decode()}{_literal(values[parameter])}{after.decode()}"]
    cell["source"] = "\n".join(lines)


def _literal(value: Any) -> str:
    """Return a value as Python text, with the quotes that our notebooks use."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_literal(key)}: {_literal(inner)}' for key, inner in value.items())}}}"
    return repr(value)


def resolve_parameters(job: Job) -> dict[str, Any]:
    """Return every parameter of a job's notebook with the value that it runs with; refuse names that it lacks."""
    parameters = _parameters_of(committed(job.notebook), committed(job.notebook).stat().st_mtime_ns)
    resolved = {name: value for name, (_, value) in parameters.items()}
    for name, value in job.profile.knobs(job.notebook, job.study).items():
        where = f"{job.profile.name}.yaml: notebooks.{job.notebook}.{name}"
        if name in FILLED_IN:
            raise ValueError(f"{where}: {name!r} is filled in by the workflow; remove it")
        if name not in parameters:
            raise ValueError(f"{where}: {job.notebook} has no parameter {name!r}: {choices(name, parameters)}")
        resolved[name] = checked_value(value, parameters[name][0], where)
    filled_in = {"profile": job.profile.name, "study": job.study, "change": {}}
    return resolved | {name: value for name, value in filled_in.items() if name in parameters}


@cache
def _parameters_of(path: Path, modified_ns: int) -> dict[str, tuple[str, Any]]:
    return read_parameters(read_notebook(path), path.stem)


def parameterised(job: Job, fingerprint: str) -> dict:
    """Return the job's notebook without outputs, its parameters cell showing the values that it runs with."""
    notebook = read_notebook(committed(job.notebook))
    parameters = resolve_parameters(job)
    write_parameters(notebook, parameters, job.notebook)
    for cell in code_cells(notebook):
        cell["outputs"], cell["execution_count"] = [], None
    notebook["metadata"]["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    notebook["metadata"]["mlu"] = {
        "profile": job.profile.name,
        "study": job.study,
        "parameters": parameters,
        "code_sha256": code_sha256(notebook, job.notebook),
        "fingerprint": fingerprint,
    }
    return notebook


def check_profile(profile: Profile) -> None:
    """Resolve every job's parameters, so that a typo is found before any long work starts."""
    for name in profile.notebooks:
        if name not in RULES:
            raise ValueError(f"{profile.name}.yaml: notebooks: unknown notebook {name!r}: {choices(name, RULES)}")
    for job in jobs(profile):
        resolve_parameters(job)


# --- Fingerprints -------------------------------------------------------------------------------------------


def code_sha256(notebook: Mapping, name: str) -> str:
    """Return the SHA-256 of a notebook's code cells as they are written, values of parameters left out."""
    _, others = _split(notebook, name)
    types = {parameter: annotation for parameter, (annotation, _) in read_parameters(notebook, name).items()}
    return digest([types, [source_of(cell) for cell in others]])


def fingerprints(profile: Profile) -> dict[Job, str]:
    """Return job -> fingerprint of all jobs of a profile, in the order of `jobs`."""
    known: dict[Job, str] = {}
    return {job: fingerprint(job, known) for job in jobs(profile)}


def fingerprint(job: Job, known: dict[Job, str] | None = None) -> str:
    """Return the SHA-256 of all that a job's result depends on.

    Code of its cells, of the modules that they import, directly or indirectly, and of the methods that it runs
    (comments and docstrings left out); parameters; what its study is; declared data; the same of every job upstream.
    `known` holds those computed so far, and grows.
    """
    known = {} if known is None else known
    if job not in known:
        rule, parameters = RULES[job.notebook], resolve_parameters(job)
        study = job.profile.study(job.study).facts(plan=rule.uses_plan) if job.study else {}
        facts = {
            "job": [job.notebook, job.profile.name, job.study],
            "code": _code_digest(job.notebook, parameters, study),
            "parameters": parameters,
            "study": study,
            "data": {name: _data_sha256(paths.DATA / name) for name in rule.data},
            "upstream": [[up.notebook, up.study, fingerprint(up, known)] for up in job.upstream()],
        }
        if rule.runs_for == "profile" and rule.needs:
            facts["publish_study"] = job.profile.publish_study
        known[job] = digest(facts)
    return known[job]


def _code_digest(notebook: str, parameters: Mapping, study: Mapping) -> str:
    """Return the digest of a notebook's cells, of what they import and of the methods and data sets that they use.

    METHODS and DATASETS import on use, so that no import shows them. A job uses those that its cells, its parameters or
    its study name; an empty plan means all methods that take the request.
    """
    from mlu_utils.data import DATASETS, module_of
    from mlu_utils.unlearning import METHODS

    magic, source, named = _code_of(committed(notebook), committed(notebook).stat().st_mtime_ns)
    named = named.union(texts([parameters, study]))
    if study.get("methods") == []:
        kind = study["request"].partition(":")[0]
        named = named.union(name for name, method in METHODS.items() if kind in method.kinds)
    modules = {METHODS[name].module for name in METHODS if name in named}
    modules |= {module_of(name) for name in DATASETS if name in named}
    if study:
        modules.add(module_of(study["dataset"]))  # which may be a folder
    own = sorted(module for module in modules if module.partition(".")[0] == PACKAGE)
    excludes = () if RULES[notebook].counts_drawings else DRAWINGS
    try:
        return digest([magic, code_digest(*own, source=source, excludes=excludes)])
    except ValueError as error:
        raise ValueError(f"{notebook}.ipynb: {error}") from error


@cache
def _code_of(path: Path, modified_ns: int) -> tuple[list[str], str, frozenset]:
    """Return the lines of a notebook that only IPython understands, the others, and all constants in them."""
    _, cells = _split(read_notebook(path), path.stem)
    lines = "\n".join(source_of(cell) for cell in cells).splitlines()
    magic = [line for line in lines if line.lstrip().startswith(("%", "!"))]
    source = "\n".join("" if line in magic else line for line in lines)
    try:
        nodes = ast.walk(ast.parse(source))
    except SyntaxError as error:
        raise ValueError(f"{path.name}: a cell is no valid Python, {error.msg}: {error.text}") from error
    return magic, source, frozenset(node.value for node in nodes if isinstance(node, ast.Constant))


def texts(value: Any) -> Iterator[str]:
    """Yield every text in nested lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from texts(inner)


@cache
def _data_sha256(path: Path) -> str:
    if not path.exists():
        raise FileNotFoundError(f"{path.relative_to(paths.ROOT)} is missing, though workflow/notebooks.py names it")
    files = sorted(item for item in [path, *path.rglob("*")] if item.is_file())
    return digest({str(file.relative_to(path)): file_sha256(file) for file in files})


def file_sha256(path: Path) -> str | None:
    """Return the SHA-256 of a file, None when there is no such file."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


# --- Records of finished jobs -------------------------------------------------------------------------------


def is_current(noted: Mapping, job: Job, fingerprint: str) -> bool:
    """Whether a record says that a job's result is the one wanted, and that it still lies there as it was written.

    The record of upstream jobs counts as well: one that had to run again, because a file of it was lost, may have
    come to other numbers (seconds) under the same fingerprint.
    """
    return (
        noted.get("fingerprint") == fingerprint
        and noted.get("upstream") == upstream_digest(job)
        and all(file_sha256(paths.RUNS / name) == sha256 for name, sha256 in noted.get("files", {}).items())
    )


def upstream_digest(job: Job) -> str:
    """Return the SHA-256 of the records of all that a job reads."""
    return digest([file_sha256(up.marker) for up in job.upstream()])


def noted_in(path: Path) -> dict:
    """Return the record in a marker or an executed notebook; empty for a file that is missing or can't be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content["metadata"].get("mlu", {}) if path.suffix == ".ipynb" else dict(content)
    except (OSError, ValueError, KeyError, TypeError):
        return {}
