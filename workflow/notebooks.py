"""Notebooks as the workflow sees them: which needs which, what a job runs with, and whether its result is current.

A job is one notebook of one profile, for one study or for all of them. It runs again when its fingerprint changes and
for no other reason. Nothing here executes a notebook or imports torch: `make reproduce` with nothing to do must end at
once.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this checkout's package, whatever is installed

from mlu_utils import paths
from mlu_utils.digests import PACKAGE, code_digest, digest
from mlu_utils.naming import choices, require_choice
from mlu_utils.studies import Profile, checked_value

PARAMETERS_TAG, INJECTED_TAG = "parameters", "injected-parameters"
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
        methods: names of methods that run in the library on its behalf, where no cell and no parameter names them.
        uses_plan: whether what a study compares counts, and not only what it trains; its cells then choose no method.
        counts_drawings: whether a change of `DRAWINGS` runs it again.
        seconds_to_end: from its start to the end of a quick run; who is furthest from the end starts first.
    """

    needs: tuple[str, ...] = ()
    runs_for: str = "studies"
    data: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    uses_plan: bool = False
    counts_drawings: bool = False
    seconds_to_end: int = 0


_MODEL, _DATA_SETS = ("02_original_model",), ("orl_attributes", "synthfaces.yaml")  # what our data sets read
_TUNED = ("tuning", *_DATA_SETS)
_BENCHMARK = "reference/benchmark_mufac_mucac.csv"
_STEPS = {"needs": _MODEL, "runs_for": "step_studies"}
_ONCE = {"runs_for": "profile"}
# A later notebook is a line here. A notebook's needs sort before it.
RULES: dict[str, Rule] = {
    "01_data_preparation": Rule(**_ONCE, data=_DATA_SETS, seconds_to_end=40),
    "02_original_model": Rule(data=_DATA_SETS, seconds_to_end=620),
    "03_weight_filtering": Rule(**_STEPS, methods=("HeadReset",), seconds_to_end=90),
    "04_weight_pruning": Rule(**_STEPS, seconds_to_end=70),
    "05_baselines": Rule(_MODEL, data=("tuning",), methods=("Retrain",), uses_plan=True, seconds_to_end=470),
    "06_privacy_analysis": Rule((*_MODEL, "05_baselines"), **_ONCE, data=_TUNED, seconds_to_end=220),
    "06b_people_and_images": Rule(**_ONCE, data=_TUNED, seconds_to_end=280),
    "07_appendix_proofs": Rule(**_ONCE, data=("reference",), seconds_to_end=50),
    "07b_label_correlation": Rule(_MODEL, **_ONCE, data=_TUNED, seconds_to_end=210),
    "07c_bounds_on_models": Rule(_MODEL, **_ONCE, data=("tuning",), seconds_to_end=80),
    "08_identity_unlearning": Rule(("06b_people_and_images",), **_ONCE, data=(_BENCHMARK, *_TUNED), seconds_to_end=160),
    "09_label_agnostic_forgetting": Rule(_MODEL, **_ONCE, data=("reference/laf_published.csv",), seconds_to_end=200),
    "10_essential_graph": Rule(_MODEL, **_ONCE, data=_DATA_SETS, seconds_to_end=150),
}
RULES["11_results"] = Rule(tuple(RULES), **_ONCE, data=("reference", *_TUNED), counts_drawings=True)


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
        return jobs(self.profile, RULES[self.notebook].needs, self.study)


def jobs(profile: Profile, of: Iterable[str] | None = None, study: str | None = None) -> list[Job]:
    """Return all jobs of a profile, or those of some notebooks and one study, in an order in which they could run."""
    found = []
    for notebook in RULES if of is None else of:
        runs_for = RULES[notebook].runs_for
        studies = [None] if runs_for == "profile" else [study] if study else getattr(profile, runs_for)
        found += [Job(notebook, profile, each) for each in studies]
    return found


def find_job(notebook: str, profile: Profile, study: str | None) -> Job:
    """Return the job of these names; refuse an unknown one, a study missing, and one given where none belongs."""
    require_choice("notebook", notebook, RULES)
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
    """Return a notebook as JSON; ValueError for what is missing or none."""
    try:
        return {"cells": [], "metadata": {}} | json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing, though workflow/notebooks.py names it") from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is no readable notebook: {error}") from error


def as_bytes(notebook: Mapping) -> bytes:
    """Return a notebook in the form that JupyterLab writes, so that saving by hand changes nothing else."""
    return (json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode()


def _is_tagged(cell: Mapping, tag: str) -> bool:
    return tag in cell["metadata"].get("tags", ())


def code_cells(notebook: Mapping) -> list[dict]:
    """Return the code cells; what papermill injected by hand is none of ours."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code" and not _is_tagged(cell, INJECTED_TAG)]


def source_of(cell: Mapping) -> str:
    """Return a cell's text, of which notebooks know two forms."""
    return cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])


def _split(notebook: Mapping, name: str) -> tuple[dict | None, list[dict]]:
    """Return the cell tagged `parameters` and the other code cells."""
    cells = code_cells(notebook)
    tagged = [cell for cell in cells if _is_tagged(cell, PARAMETERS_TAG)]
    if len(tagged) > 1:
        raise ValueError(f"{name}: {len(tagged)} cells are tagged {PARAMETERS_TAG!r}, expected one")
    return (tagged[0] if tagged else None), [cell for cell in cells if not _is_tagged(cell, PARAMETERS_TAG)]


def _assignments(notebook: Mapping, name: str) -> dict[str, tuple[str, Any, ast.expr]]:
    """Return parameter -> (annotation, value, where the value stands) of the cell tagged `parameters`."""
    cell, _ = _split(notebook, name)
    found: dict[str, tuple[str, Any, ast.expr]] = {}
    for node in ast.parse(source_of(cell)).body if cell else ():
        text = ast.unparse(node)
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name) or node.value is None:
            raise ValueError(f"{name}: parameter line {text!r}: expected 'name: type = literal  # meaning'")
        parameter, annotation = node.target.id, ast.unparse(node.annotation)
        if parameter in found:
            raise ValueError(f"{name}: parameter {parameter} is given twice")
        try:
            value = ast.literal_eval(node.value)
        except ValueError:
            raise ValueError(f"{name}: the value of {text!r} is no literal; derive it in the next cell") from None
        found[parameter] = annotation, checked_value(value, annotation, f"{name}: default of {parameter}"), node.value
    return found


def read_parameters(notebook: Mapping, name: str) -> dict[str, tuple[str, Any]]:
    """Return parameter -> (annotation, value) of the cell tagged `parameters`, which holds annotated literals only."""
    return {parameter: found[:2] for parameter, found in _assignments(notebook, name).items()}


@cache
def _content(path: Path) -> tuple[dict[str, tuple[str, Any]], str, frozenset]:
    """Return a notebook's parameters, its other code with magic lines as text, and the constants in it."""
    notebook = read_notebook(path)
    source = "\n".join(map(source_of, _split(notebook, path.stem)[1]))
    source = re.sub(r"^([ \t]*)([%!].*)$", lambda line: f"{line[1]}_ = {line[2]!r}", source, flags=re.MULTILINE)
    try:
        nodes = ast.walk(ast.parse(source))
    except SyntaxError as error:
        raise ValueError(f"{path.name}: a cell is no valid Python, {error.msg}: {error.text}") from error
    constants = frozenset(node.value for node in nodes if isinstance(node, ast.Constant))
    return read_parameters(notebook, path.stem), source, constants


def write_parameters(notebook: dict, values: Mapping[str, Any], name: str) -> None:
    """Put values into the cell tagged `parameters`; comments, and the text of equal values, stay as they are."""
    cell, _ = _split(notebook, name)
    lines = source_of(cell).splitlines() if cell else []
    for parameter, (_, value, node) in reversed(_assignments(notebook, name).items()):  # from the last to the first
        if parameter in values and repr(value) != repr(values[parameter]):
            i, j = node.lineno - 1, node.end_lineno - 1
            before, after = lines[i].encode()[: node.col_offset], lines[j].encode()[node.end_col_offset :]
            lines[i : j + 1] = [f"{before.decode()}{_literal(values[parameter])}{after.decode()}"]
    if cell:
        cell["source"] = "\n".join(lines)


def _literal(value: Any) -> str:
    """Return a value as Python text, with the quotes that our notebooks use where JSON's text is Python's as well."""
    text = json.dumps(value, ensure_ascii=False)
    with contextlib.suppress(ValueError):  # of JSON's true, false and null
        return text if ast.literal_eval(text) == value else repr(value)
    return repr(value)


def resolve_parameters(job: Job) -> dict[str, Any]:
    """Return every parameter of a job's notebook with the value that it runs with; refuse names that it lacks."""
    parameters = _content(committed(job.notebook))[0]
    resolved = {name: value for name, (_, value) in parameters.items()}
    filled_in = {"profile": job.profile.name, "study": job.study, "change": {}}
    for name, value in job.profile.knobs(job.notebook, job.study).items():
        where = f"{job.profile.name}.yaml: notebooks.{job.notebook}.{name}"
        if name in filled_in:
            raise ValueError(f"{where}: {name!r} is filled in by the workflow; remove it")
        if name not in parameters:
            raise ValueError(f"{where}: {job.notebook} has no parameter {name!r}: {choices(name, parameters)}")
        resolved[name] = checked_value(value, parameters[name][0], where)
    return resolved | {name: value for name, value in filled_in.items() if name in parameters}


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
    """Return the SHA-256 of all that a job's result depends on; `known` holds those computed so far, and grows."""
    known = {} if known is None else known
    if job not in known:
        rule, parameters = RULES[job.notebook], resolve_parameters(job)
        study = job.profile.study(job.study).facts(plan=rule.uses_plan) if job.study else {}
        facts = {
            "job": [job.notebook, job.profile.name, job.study],
            "code": _code_digest(job.notebook, rule, parameters, study),
            "parameters": parameters,
            "study": study,
            "data": {name: _data_sha256(paths.DATA / name) for name in rule.data},
            "upstream": [[up.notebook, up.study, fingerprint(up, known)] for up in job.upstream()],
        }
        if rule.needs and not job.study:
            facts["publish_study"] = job.profile.publish_study
        known[job] = digest(facts)
    return known[job]


def _code_digest(notebook: str, rule: Rule, parameters: Mapping, study: Mapping) -> str:
    """Return the digest of a notebook's cells, of what they import and of the methods and data sets that they use.

    METHODS and DATASETS import on use, so that no import shows them. A job uses those that its rule, its cells, its
    parameters or its study names; an empty plan means all methods that take the request.
    """
    from mlu_utils.data import DATASETS, module_of
    from mlu_utils.unlearning import METHODS

    _, source, constants = _content(committed(notebook))
    named = {*rule.methods, *texts([parameters, study]), *(() if rule.uses_plan else constants)}
    if study.get("methods") == []:
        kind = study["request"].partition(":")[0]
        named |= {name for name, method in METHODS.items() if kind in method.kinds}
    modules = {METHODS[name].module for name in METHODS if name in named}
    modules |= {module_of(name) for name in DATASETS if name in named}
    if study and Path(study["dataset"]).is_dir():
        modules.add(module_of(study["dataset"]))
    own = sorted(module for module in modules if module.partition(".")[0] == PACKAGE)
    return code_digest(*own, source=source, excludes=() if rule.counts_drawings else DRAWINGS)


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
