"""The engine below the Snakefile: which notebook needs which, its parameters, its fingerprint, one run of it.

A job is one notebook of one profile, for one study or for all of them. Its fingerprint covers everything that
its result depends on; Snakemake re-runs a job when that changes and for no other reason.

Nothing here may import torch, and papermill only where a notebook is run: `make reproduce` with nothing to do
must end at once. Notebooks are read as JSON text and never executed to find out about them.
"""

import ast
import contextlib
import hashlib
import io
import json
import math
import os
import re
import shutil
import sys
import tempfile
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mlu_utils import paths
from mlu_utils.naming import choices
from mlu_utils.studies import Profile

PACKAGE = "mlu_utils"
PARAMETERS_TAG = "parameters"
INJECTED_TAG = "injected-parameters"
RESERVED = ("profile", "study")  # filled in by the engine, never by a profile
SCALARS = {"bool": bool, "int": int, "float": float, "str": str}
KERNEL_START_RETRIES = 2
KERNEL_START_TIMEOUT_S = 180  # a cold import of torch on a busy disk
MAX_NOTEBOOK_BYTES = 1_000_000
MACHINE_PATH = re.compile(
    r"(?<![\w.])(/(?:home|root|Users|tmp|var/folders|opt|work)/[^\s'\"<>:)]*|[A-Z]:\\\\?Users\\[^\s'\"]*)"
)


@dataclass(frozen=True)
class NotebookRule:
    """How one notebook takes part in a run.

    `needs` names earlier notebooks; `data` names files or folders below `data/` whose content it depends on. A
    notebook that `shows_steps` explains one method on one study, so it runs for the profile's `step_studies` only.
    `seconds` is what a job roughly takes in the quick profile on one core: it decides what starts first, nothing else.
    """

    seconds: int
    needs: tuple[str, ...] = ()
    per_study: bool = True
    shows_steps: bool = False
    data: tuple[str, ...] = ()


# A later notebook is one more line here: Snakefile, fingerprints, smoke run and publishing all follow.
RULES: dict[str, NotebookRule] = {
    "01_data_preparation": NotebookRule(seconds=20, per_study=False, data=("orl_attributes",)),
    "02_original_model": NotebookRule(seconds=150, data=("orl_attributes",)),
    "03_weight_filtering": NotebookRule(seconds=70, needs=("02_original_model",), shows_steps=True),
    "04_weight_pruning": NotebookRule(seconds=50, needs=("02_original_model",), shows_steps=True),
    "05_baselines": NotebookRule(seconds=250, needs=("02_original_model",), data=("tuning",)),
    "06_privacy_analysis": NotebookRule(
        seconds=200, needs=("02_original_model", "05_baselines"), per_study=False, data=("tuning",)
    ),
    "07_appendix_proofs": NotebookRule(seconds=30, per_study=False),
    "07b_label_correlation": NotebookRule(
        seconds=200, needs=("02_original_model",), per_study=False, data=("tuning", "orl_attributes")
    ),
    "07c_bounds_on_models": NotebookRule(seconds=60, needs=("02_original_model",), per_study=False, data=("tuning",)),
    "11_results": NotebookRule(
        seconds=15,
        needs=(
            "01_data_preparation",
            "02_original_model",
            "03_weight_filtering",
            "04_weight_pruning",
            "05_baselines",
            "06_privacy_analysis",
            "07_appendix_proofs",
            "07b_label_correlation",
            "07c_bounds_on_models",
        ),
        per_study=False,
        data=("reference",),
    ),
}


class CellFailed(RuntimeError):
    """A notebook stopped with an error; the message shows the cell's own."""


# --- Parameters ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameter:
    """One line `name: annotation = default  # meaning` of the cell tagged `parameters`."""

    name: str
    annotation: str
    default: Any
    meaning: str = ""


def read_parameters(path: Path) -> dict[str, Parameter]:
    """Read the annotated literals of a notebook's cell tagged `parameters`.

    Args:
        path: The notebook.

    Returns:
        Parameter name -> parameter, in the order of the cell; empty when the notebook has no such cell.

    Raises:
        ValueError: Two such cells, a line that is no annotated literal, or an unknown type.
    """
    cells = [cell for cell in _code_cells(path) if PARAMETERS_TAG in cell["metadata"].get("tags", ())]
    if not cells:
        return {}
    if len(cells) > 1:
        raise ValueError(f"{path.name}: {len(cells)} cells are tagged {PARAMETERS_TAG!r}, expected one")
    source = _source(cells[0])
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    parameters = {}
    for node in ast.parse(source).body:
        line = ast.unparse(node)
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name) or node.value is None:
            raise ValueError(f"{path.name}: parameter line {line!r}: expected 'name: type = literal  # meaning'")
        name, annotation = node.target.id, ast.unparse(node.annotation)
        where = f"{path.name}: default of {name}"
        try:
            default = ast.literal_eval(node.value)
        except ValueError:
            raise ValueError(
                f"{where}: {ast.unparse(node.value)!r} is no literal; derive it in the next cell"
            ) from None
        if name in parameters:
            raise ValueError(f"{path.name}: parameter {name} is given twice")
        meaning = comments.get(node.end_lineno, "")
        parameters[name] = Parameter(name, annotation, checked_value(default, annotation, where), meaning)
    return parameters


def checked_value(value: Any, annotation: str, where: str) -> Any:
    """Return `value` as the annotated type, or refuse it.

    Args:
        value: What YAML or a literal gave.
        annotation: bool, int, float, str, list[one of them], each optionally `| None`.
        where: Named in the error message.

    Returns:
        The value; a whole number given for a float becomes a float, nothing else is converted.

    Raises:
        ValueError: Another type, or an infinite or undefined number.
    """
    return _checked(value, ast.parse(annotation, mode="eval").body, annotation, where)


def _checked(value, node, annotation, where):
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        sides = [node.left, node.right]
        optional = [side for side in sides if isinstance(side, ast.Constant) and side.value is None]
        if len(optional) == 1:
            sides.remove(optional[0])
            return None if value is None else _checked(value, sides[0], annotation, where)
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "list":
        if not isinstance(value, list):
            raise ValueError(f"{where}: expected {annotation}, got {value!r}; write [a, b]")
        return [_checked(item, node.slice, annotation, f"{where}[{i}]") for i, item in enumerate(value)]
    if not isinstance(node, ast.Name) or node.id not in SCALARS:
        raise ValueError(f"{where}: unknown type {annotation!r}; use {', '.join(SCALARS)}, list[one], or '... | None'")
    kind = SCALARS[node.id]
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ValueError(f"{where}: expected {annotation}, got {type(value).__name__} {value!r}{_advice(value, kind)}")
    if kind is float and not math.isfinite(value):
        raise ValueError(f"{where}: expected a finite number, got {value!r}")
    return value


def _advice(value, kind) -> str:
    if kind is bool and isinstance(value, str | int):
        return "; write true or false without quotes"
    if kind is str:
        return "; put it in quotes"
    if kind is int and isinstance(value, float) and value.is_integer():
        return f"; write {int(value)}"
    if kind in (int, float) and isinstance(value, str):
        with contextlib.suppress(ValueError):
            number = kind(value)
            # YAML 1.1 takes 1e-3 for text: it wants a point in the mantissa.
            text = re.sub(r"^(-?\d+)e", r"\1.0e", repr(number))
            return (
                f"; write {text} (YAML reads an exponent without a decimal point as text)"
                if kind is float
                else f"; write {text}"
            )
    return ""


def resolve_parameters(notebook: str, profile: Profile, study: str | None = None) -> dict[str, Any]:
    """Return every parameter of a notebook with the value it runs with.

    Args:
        notebook: Notebook name without suffix.
        profile: Where values come from, see `Profile` for the precedence.
        study: Study name; None for a notebook that runs once per profile.

    Returns:
        Parameter name -> value, in the notebook's order, defaults included.

    Raises:
        ValueError: A value of the wrong type, or a name that the notebook (or, for a name given to all
            notebooks, every notebook) doesn't have.
    """
    parameters = read_parameters(notebook_path(notebook))
    resolved = {name: parameter.default for name, parameter in parameters.items()}
    for name, (value, where) in profile.overrides(notebook, study).items():
        if name in RESERVED:
            raise ValueError(f"{where}: {name!r} is filled in by the engine; rename it")
        if name in parameters:
            resolved[name] = checked_value(value, parameters[name].annotation, where)
        elif f"notebooks.{notebook}." in where:
            raise ValueError(f"{where}: {notebook} has no parameter {name!r}: {choices(name, parameters)}")
        elif name not in _all_parameter_names():
            raise ValueError(f"{where}: no notebook has a parameter {name!r}: {choices(name, _all_parameter_names())}")
    reserved = {"profile": profile.name, "study": study or ""}
    return resolved | {name: value for name, value in reserved.items() if name in parameters}


def check_profile(profile: Profile) -> None:
    """Resolve the parameters of every job, so that a typo is found before any long work starts.

    Raises:
        ValueError: See `resolve_parameters`; also a section for a notebook that doesn't exist.
    """
    sections = [(f"{profile.path.name}: notebooks", profile.notebooks)]
    for study, values in profile.studies.items():
        sections.append((f"{profile.path.name}: studies.{study}.notebooks", values.get("notebooks") or {}))
    for where, section in sections:
        for name in section:
            if name not in RULES:
                raise ValueError(f"{where}: unknown notebook {name!r}: {choices(name, RULES)}")
    for job in jobs(profile):
        resolve_parameters(job.notebook, profile, job.study)


def notebook_path(notebook: str) -> Path:
    """Return the committed notebook of this name.

    Raises:
        ValueError: No rule or no file of this name.
    """
    if notebook not in RULES:
        raise ValueError(f"unknown notebook {notebook!r}: {choices(notebook, RULES)}")
    path = paths.NOTEBOOKS / f"{notebook}.ipynb"
    if not path.exists():
        raise ValueError(f"notebooks/{path.name} is missing, though notebook_runs.RULES names it")
    return path


@cache
def _parameter_names(path: Path, modified_ns: int) -> frozenset[str]:
    return frozenset(read_parameters(path))


def _all_parameter_names() -> frozenset[str]:
    notebooks = [notebook_path(name) for name in RULES]
    return frozenset().union(*(_parameter_names(path, path.stat().st_mtime_ns) for path in notebooks)) - set(RESERVED)


# --- Jobs and fingerprints ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One notebook of one profile, for one study or (study None) for all of them."""

    notebook: str
    profile: Profile
    study: str | None = None

    @property
    def output(self) -> Path:
        """The executed notebook: it exists only once every cell has run."""
        return paths.RUNS / self.profile.name / (self.study or "") / f"{self.notebook}.ipynb"

    @property
    def label(self) -> str:
        """What progress lines and errors call it."""
        return f"{self.notebook} · {self.study or self.profile.name}"

    def upstream(self) -> list["Job"]:
        """Return the jobs whose results this one reads; a per-profile notebook reads those of every study."""
        return [job for need in RULES[self.notebook].needs for job in _jobs_of(need, self.profile, self.study)]


def _jobs_of(notebook: str, profile: Profile, study: str | None) -> list[Job]:
    if not RULES[notebook].per_study:
        return [Job(notebook, profile)]
    if study:
        return [Job(notebook, profile, study)]
    names = profile.step_studies if RULES[notebook].shows_steps else profile.studies
    return [Job(notebook, profile, name) for name in names]


def jobs(profile: Profile) -> list[Job]:
    """Return all jobs of a profile in an order in which they could run."""
    return [job for notebook in sorted(RULES) for job in _jobs_of(notebook, profile, None)]


def priorities(profile: Profile) -> dict[tuple[str, str | None], int]:
    """Return (notebook, study) -> priority: the job from which the longest chain to the end of the run starts is first.

    Of equal ones the study named first in the profile starts first.
    """
    everything = jobs(profile)
    seconds: dict[tuple[str, str | None], int] = {}
    for job in reversed(everything):
        after = [seconds[later.notebook, later.study] for later in everything if job in later.upstream()]
        seconds[job.notebook, job.study] = RULES[job.notebook].seconds + max(after, default=0)
    return {
        (job.notebook, job.study): seconds[job.notebook, job.study] * len(everything) - place
        for place, job in enumerate(everything)
    }


def find_job(notebook: str, profile: Profile, study: str | None) -> Job:
    """Return the job of these names.

    Raises:
        ValueError: Unknown notebook or study, a study missing, or one given where none belongs.
    """
    notebook_path(notebook)
    if study is not None:
        profile.study(study)
    if RULES[notebook].per_study and study is None:
        raise ValueError(f"{notebook} runs once per study: give --study, {choices('', profile.studies)}")
    if not RULES[notebook].per_study and study is not None:
        raise ValueError(f"{notebook} runs once per profile: give no --study")
    return Job(notebook, profile, study)


def fingerprints(profile: Profile) -> dict[tuple[str, str | None], str]:
    """Return (notebook, study) -> SHA-256 of all that the result of this job depends on.

    Code cells (no outputs, no metadata), the modules that they import directly or indirectly (comments and
    docstrings left out), resolved parameters, declared data files, and the same of every upstream job.
    """
    cells, modules = {}, {}
    for notebook in RULES:
        path = notebook_path(notebook)
        cells[notebook] = code_sha256(path)
        modules[notebook] = {name: _module_sha256(_module_file(name)) for name in sorted(import_closure(path))}
    done: dict[tuple[str, str | None], str] = {}
    for job in jobs(profile):
        content = {
            "cells": cells[job.notebook],
            "modules": modules[job.notebook],
            "parameters": resolve_parameters(job.notebook, profile, job.study),
            "data": {name: _data_sha256(paths.DATA / name) for name in RULES[job.notebook].data},
            "upstream": [[up.notebook, up.study, done[up.notebook, up.study]] for up in job.upstream()],
        }
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        done[job.notebook, job.study] = digest
    return done


def set_aside_outdated(profile: Profile) -> list[Path]:
    """Rename executed notebooks that carry another fingerprint, and return where they are now.

    Snakemake compares with its own records in `.snakemake`; without them (deleted, or `runs/` came from
    another machine) it would take any file for up to date.
    """
    wanted = fingerprints(profile)
    moved = []
    for job in jobs(profile):
        if job.output.exists() and _recorded(job.output).get("fingerprint") != wanted[job.notebook, job.study]:
            moved.append(job.output.with_suffix(".outdated.ipynb"))
            job.output.replace(moved[-1])
    return moved


def code_sha256(path: Path) -> str:
    """Return the SHA-256 of a notebook's code cells: sources only, the injected one left out."""
    return hashlib.sha256("\0".join(_source(cell) for cell in _code_cells(path)).encode()).hexdigest()


def import_closure(path: Path) -> set[str]:
    """Return the names of all modules of this package that a notebook imports, directly or indirectly.

    Imports inside functions count; a module loaded through a computed name can't be seen.
    """
    # Lines for IPython, not for Python.
    source = "\n".join(re.sub(r"(?m)^\s*[%!].*$", "", _source(cell)) for cell in _code_cells(path))
    try:
        pending = list(imported_modules(ast.parse(source), package=""))
    except SyntaxError as error:
        raise ValueError(f"{path.name}: a code cell is no valid Python: {error}") from error
    closure = set()
    while pending:
        name = pending.pop()
        if name not in closure:
            closure.add(name)
            pending.extend(_imports_of_file(name, _module_file(name)))
    return closure


def imported_modules(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield the modules of this package that a syntax tree imports, with the packages above them.

    Args:
        tree: Syntax tree of a module or notebook.
        package: Package that relative imports start from.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join(parents + ([node.module] if node.module else []))
            names = [base] + [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == PACKAGE:
                yield from (
                    candidate
                    for candidate in (".".join(parts[:depth]) for depth in range(1, len(parts) + 1))
                    if _module_file(candidate).exists()  # else a function or class
                )


@cache
def _imports_of_file(name: str, file: Path) -> tuple[str, ...]:
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    return tuple(imported_modules(ast.parse(file.read_text(encoding="utf-8")), package))


def _module_file(name: str) -> Path:
    base = paths.ROOT.joinpath(*name.split("."))
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


@cache
def _module_sha256(file: Path) -> str:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


@cache
def _data_sha256(path: Path) -> str:
    if not path.exists():
        raise FileNotFoundError(f"{path.relative_to(paths.ROOT)} is missing, though notebook_runs.RULES names it")
    digest = hashlib.sha256()
    for file in sorted(item for item in [path, *path.rglob("*")] if item.is_file()):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{file.relative_to(path)}\0{content}\n".encode())
    return digest.hexdigest()


# --- Notebook files -----------------------------------------------------------------------------------------


def _read_notebook(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no readable notebook: {error}") from error


def _code_cells(path: Path) -> list[dict]:
    cells = [cell for cell in _read_notebook(path)["cells"] if cell["cell_type"] == "code"]
    return [cell for cell in cells if INJECTED_TAG not in cell["metadata"].get("tags", ())]


def _source(cell: Mapping) -> str:
    source = cell["source"]
    return "".join(source) if isinstance(source, list) else source


def _recorded(path: Path) -> dict:
    """Return what the engine noted in a notebook's metadata; empty for a file that it can't read."""
    try:
        return _read_notebook(path)["metadata"].get("mlu", {})
    except (ValueError, KeyError):
        return {}


def _write_notebook(notebook: Mapping, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    # The form that JupyterLab and nbformat write, so that saving by hand changes nothing else.
    text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _parameterised(job: Job) -> dict:
    """Return the job's notebook without outputs, its resolved parameters in a cell behind the defaults."""
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    notebook = load_notebook_node(str(notebook_path(job.notebook)))
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.metadata.kernelspec = {"name": "python3", "language": "python", "display_name": "Python 3"}
    parameters = resolve_parameters(job.notebook, job.profile, job.study)
    if parameters:
        notebook = parameterize_notebook(notebook, parameters, kernel_name="python3", language="python")
    notebook.metadata.mlu = {
        "profile": job.profile.name,
        "study": job.study,
        "parameters": parameters,
        "code_sha256": code_sha256(notebook_path(job.notebook)),
        "fingerprint": fingerprints(job.profile)[job.notebook, job.study],
    }
    return notebook


def prepare(profile: Profile, folder: Path) -> list[Path]:
    """Write a parameterised copy of every job's notebook, without outputs, for nbval to run.

    Args:
        profile: Usually smoke.
        folder: Replaced as a whole.

    Returns:
        The copies; their names sort in an order in which they can run.
    """
    check_profile(profile)
    shutil.rmtree(folder, ignore_errors=True)
    written = []
    for job in jobs(profile):
        name = f"{job.notebook}__{job.study}" if job.study else job.notebook
        written.append(folder / f"{name}.ipynb")
        _write_notebook(_parameterised(job), written[-1])
    return written


# --- Running one notebook -----------------------------------------------------------------------------------


def run_notebook(job: Job) -> Path:
    """Run one notebook in a kernel of this very Python and put the executed copy at `job.output`.

    The copy appears there only when every cell has run. When one fails it lies beside it, as `.failed.ipynb`.

    Raises:
        CellFailed: A cell raised an error, or the kernel died in it; never tried again.
        RuntimeError: The kernel did not start, three times over.
    """
    import nbformat
    from papermill.exceptions import PapermillExecutionError

    check_profile(job.profile)
    failed = job.output.with_suffix(".failed.ipynb")
    running = job.output.with_suffix(".running.ipynb")
    running.parent.mkdir(parents=True, exist_ok=True)
    notebook = _parameterised(job)
    try:
        for attempt in range(1 + KERNEL_START_RETRIES):
            nbformat.write(notebook, running)
            try:
                _execute(running)
                break
            except PapermillExecutionError as error:
                raise CellFailed(
                    f"{job.label}: a cell failed; what ran is in {failed.relative_to(paths.ROOT)}\n{_cell_error(error)}"
                ) from None
            except Exception as error:
                if _any_cell_started(running):
                    raise CellFailed(f"{job.label}: the kernel was lost: {type(error).__name__}: {error}") from error
                if attempt == KERNEL_START_RETRIES:
                    raise RuntimeError(
                        f"{job.label}: no kernel started in {1 + KERNEL_START_RETRIES} tries: {error}"
                    ) from error
                print(
                    f"{job.label}: the kernel did not start ({error}); trying again",
                    file=sys.stderr,
                    flush=True,
                )
    except BaseException:  # an interruption too leaves the part that ran to be read
        running.replace(failed)
        raise
    running.replace(job.output)
    failed.unlink(missing_ok=True)
    job.output.with_suffix(".outdated.ipynb").unlink(missing_ok=True)
    return job.output


def _execute(path: Path) -> None:
    """Execute a notebook in place, saving after each cell."""
    import papermill

    with _kernel_environment():
        papermill.execute_notebook(
            path,
            path,
            kernel_name="python3",
            progress_bar=sys.stderr.isatty(),
            start_timeout=KERNEL_START_TIMEOUT_S,
            cwd=paths.ROOT,
        )


@contextlib.contextmanager
def _kernel_environment() -> Iterator[None]:
    """Make `python3` mean this interpreter, import this repository's package and keep progress bars out.

    A user may have registered another Python under the name `python3`: the first folder of JUPYTER_PATH wins.
    """
    with tempfile.TemporaryDirectory() as folder:
        kernel = Path(folder) / "kernels" / "python3"
        kernel.mkdir(parents=True)
        # Each start warns that TCP is not encrypted; it is this machine talking to itself.
        quiet = "--IPKernelApp.log_level=CRITICAL"
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", quiet]
        spec = {"argv": command, "display_name": "Python 3", "language": "python"}
        (kernel / "kernel.json").write_text(json.dumps(spec))
        changes = {
            "JUPYTER_PATH": os.pathsep.join([folder, *filter(None, [os.environ.get("JUPYTER_PATH")])]),
            "PYTHONPATH": os.pathsep.join([str(paths.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "TQDM_DISABLE": "1",
            # torchvision's own import warns; nobody who reads the notebook can do anything about it.
            "PYTHONWARNINGS": "ignore:`torch.jit.script` is deprecated:FutureWarning",
        }
        before = {name: os.environ.get(name) for name in changes}
        os.environ.update(changes)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


def _any_cell_started(path: Path) -> bool:
    statuses = (cell["metadata"].get("papermill", {}).get("status") for cell in _read_notebook(path)["cells"])
    return any(status in ("running", "completed", "failed") for status in statuses)


def _cell_error(error) -> str:
    """Return the failing cell and its traceback as plain text."""
    traceback = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
    return f"{error.source}\n\n{traceback or f'{error.ename}: {error.evalue}'}"


# --- Committed outputs --------------------------------------------------------------------------------------


def publish(profile: Profile) -> list[Path]:
    """Copy the outputs of the executed notebooks into the committed ones.

    Sources stay as they are; outputs go to the cell of the same id. Nothing is written unless all are fit.

    Args:
        profile: Its `publish_study` is shown in the notebooks that run per study.

    Returns:
        The notebooks written.

    Raises:
        ValueError: A notebook has not run, changed since, still names a path of a machine, or gets too big.
    """
    ready = {}
    for notebook, rule in sorted(RULES.items()):
        job = Job(notebook, profile, profile.publish_study if rule.per_study else None)
        path = notebook_path(notebook)
        if not job.output.exists():
            raise ValueError(f"{job.label} has not run: make reproduce PROFILE={profile.name} first")
        if code_sha256(job.output) != code_sha256(path):
            raise ValueError(f"{path.name} changed since it ran: make reproduce PROFILE={profile.name} first")
        executed = {cell["id"]: cell for cell in _code_cells(job.output)}
        committed = _read_notebook(path)
        if not all("id" in cell for cell in committed["cells"]):
            raise ValueError(f"{path.name}: its cells have no ids; open and save it in JupyterLab (nbformat 4.5)")
        count = 0
        for cell in committed["cells"]:
            if cell["cell_type"] == "code":
                count += 1
                cell["outputs"] = [_without_machine(output, count) for output in executed[cell["id"]]["outputs"]]
                cell["execution_count"] = count
                _drop_run_metadata(cell["metadata"])
        _drop_run_metadata(committed["metadata"])
        committed["metadata"]["mlu"] = {
            "profile": profile.name,
            "study": job.study,
            "code_sha256": code_sha256(path),
            "outputs_sha256": outputs_sha256(committed),
        }
        found = machine_paths(committed)
        if found:
            raise ValueError(f"{path.name}: outputs name a path of this machine: {found[0]}")
        size = len(json.dumps(committed, indent=1))
        if size > MAX_NOTEBOOK_BYTES:
            raise ValueError(f"{path.name} would be {size} bytes with its outputs, at most {MAX_NOTEBOOK_BYTES}")
        ready[path] = committed
    for path, committed in ready.items():
        _write_notebook(committed, path)
    return list(ready)


def stale_notebooks(folder: Path | None = None) -> dict[str, str]:
    """Return committed notebook -> why its code and its outputs don't belong together; empty when all do."""
    stale = {}
    for path in sorted((folder or paths.NOTEBOOKS).glob("*.ipynb")):
        notebook = _read_notebook(path)
        recorded = notebook["metadata"].get("mlu", {})
        has_outputs = any(cell["outputs"] for cell in _code_cells(path))
        if not recorded:
            stale[path.name] = "its outputs were never published"
        elif has_outputs and recorded.get("code_sha256") != code_sha256(path):
            stale[path.name] = "its code changed after its outputs were made"
        elif has_outputs and recorded.get("outputs_sha256") != outputs_sha256(notebook):
            stale[path.name] = "its outputs are not those that were published (run by hand and saved?)"
        elif machine_paths(notebook):
            stale[path.name] = f"its outputs name a path of a machine: {machine_paths(notebook)[0]}"
        elif path.stat().st_size > MAX_NOTEBOOK_BYTES:
            stale[path.name] = f"it is bigger than {MAX_NOTEBOOK_BYTES} bytes"
    return stale


def outputs_sha256(notebook: Mapping) -> str:
    """Return the SHA-256 of all outputs of a notebook, execution counts left out."""
    outputs = [
        {key: _joined(value) for key, value in output.items() if key != "execution_count"}
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
        for output in cell["outputs"]
    ]
    return hashlib.sha256(json.dumps(outputs, sort_keys=True).encode()).hexdigest()


def machine_paths(notebook: Mapping) -> list[str]:
    """Return the absolute paths of a machine that a notebook's textual outputs show."""
    found = []
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            _map_text(output, lambda text: found.extend(MACHINE_PATH.findall(text)) or text)
    return found


def _without_machine(output: Mapping, execution_count: int) -> dict:
    """Return an output with this machine's folders written as a reader's: relative, or below `~`."""
    folders = [(f"{paths.ROOT}{os.sep}", ""), (str(paths.ROOT), "."), (sys.prefix, "<environment>")]
    folders += [(sys.base_prefix, "<python>"), (str(Path.home()), "~")]

    def replaced(text):
        for folder, name in folders:
            text = text.replace(folder, name)
        return text

    output = _map_text(output, replaced)
    _drop_run_metadata(output.get("metadata", {}))
    if "execution_count" in output:
        output["execution_count"] = execution_count
    return output


def _drop_run_metadata(metadata: dict) -> None:
    for key in ("papermill", "execution"):
        metadata.pop(key, None)


def _joined(value):
    """Return nbformat's two ways to write text (string, list of lines) as one."""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "".join(value)
    return {key: _joined(inner) for key, inner in value.items()} if isinstance(value, dict) else value


def _map_text(output: Mapping, change) -> dict:
    """Return a copy of an output with `change` applied to its text: streams, tracebacks, text/*."""
    output = {key: _joined(value) if key != "traceback" else value for key, value in output.items()}
    for key in ("text", "evalue"):
        if key in output:
            output[key] = change(output[key])
    if "traceback" in output:
        output["traceback"] = [change(line) for line in output["traceback"]]
    if "data" in output:
        textual = {kind for kind in output["data"] if kind.startswith("text/") or kind == "image/svg+xml"}
        output["data"] = {
            kind: change(content) if kind in textual else content for kind, content in output["data"].items()
        }
    return output
