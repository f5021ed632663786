"""Run the notebooks of a profile: `python workflow/run.py reproduce --profile quick --cores all [-- snakemake args]`.

`reproduce` runs what is missing or out of date and leaves the rest alone; `notebook` runs one job (the Snakefile calls
it); `prepare` writes parameterised copies for nbval; `claims` prints the claims table. All of it writes below `runs/`
or into the folder that `prepare` is given.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import notebooks
from mlu_utils import paths
from mlu_utils.files import JOURNAL, write_atomically
from mlu_utils.studies import Profile
from notebooks import Job

KERNEL_STARTS = 3
KERNEL_START_TIMEOUT_S = 180  # a cold import of torch on a busy disk
MODELS = "models"  # checkpoints that jobs share; each is made again by whoever needs it
PREPARED = ".made-by-prepare"  # lists the notebooks of a folder that may be replaced as a whole
LEFT_BY_TOOLS = {PREPARED, ".ipynb_checkpoints", ".pytest_cache", "__pycache__"}


class CellFailed(RuntimeError):
    """A notebook stopped with an error; the message shows the cell's own."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable, text: str, profile: str = "quick") -> argparse.ArgumentParser:
        own = commands.add_parser(name, help=text, description=text)
        own.set_defaults(run=run)
        own.add_argument("--profile", default=profile)
        return own

    of = command("reproduce", reproduce, "run what is missing or out of date of a profile")
    of.add_argument("--cores", default="all", help="number of cores, or all")
    of.add_argument("snakemake", nargs="*", help="further arguments for snakemake, after --, e.g. -- --dry-run")
    command("check", check, "look up every name in a profile")
    of = command("notebook", run_one, "run one notebook, unless its result is current")
    of.add_argument("notebook", help="name without suffix, e.g. 02_original_model")
    of.add_argument("--study", help="left out for a notebook that runs once per profile")
    of = command("prepare", prepare, "write parameterised copies of the notebooks, without running them", "smoke")
    of.add_argument("--into", type=Path, required=True, help="folder, replaced as a whole if this command made it")
    of.add_argument("--fresh", action="store_true", help="also remove what the profile left in runs/")
    command("claims", print_claims, "print the claims beside ours and count the verdicts")
    options = parser.parse_args(arguments)
    return exit_status(lambda: options.run(options))


def exit_status(command: Callable[[], int | None]) -> int:
    """Run a command: 0 done, 1 failed, 2 refused its input, 130 interrupted; what the user can mend is one line."""
    try:
        return command() or 0
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; what is finished is kept", file=sys.stderr)
        return 130


# --- All jobs of a profile ----------------------------------------------------------------------------------


def reproduce(options: argparse.Namespace) -> int:
    """Let Snakemake run what is missing or out of date."""
    if options.cores != "all" and not (options.cores.isdecimal() and int(options.cores)):
        raise ValueError(f"--cores {options.cores}: expected a number of at least 1, or all")
    profile = Profile.load(options.profile)
    notebooks.check_profile(profile)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(paths.ROOT / "workflow" / "Snakefile")]
    command += ["--cores", options.cores, "--config", f"profile={profile.name}", "--scheduler", "greedy"]
    # The fingerprint among the params says what is out of date. A study that fails doesn't take the others with it.
    # Snakemake's own lock outlives it; ours does not.
    command += ["--rerun-triggers", "params", "--rerun-incomplete", "--keep-going", "--nolock"]
    command += ["--quiet", "host", "progress", "rules", "--nocolor", *options.snakemake]
    with lock() as file:
        if remove_outdated_markers(profile):  # in a process of its own, which gives torch's memory back
            checked = subprocess.run([sys.executable, __file__, "check", "--profile", profile.name], cwd=paths.ROOT)
            if checked.returncode:
                return checked.returncode
        # Nobody is at work: from here on our jobs may be, and Snakemake keeps the lock for them if we are killed.
        _take(file, fcntl.LOCK_SH)
        status = subprocess.run(command, cwd=paths.ROOT, pass_fds=(file.fileno(),)).returncode
    if status:
        print(
            "reproduce stopped: see the error above. What is finished is kept; run it again to go on.", file=sys.stderr
        )
    return status


def check(options: argparse.Namespace) -> None:
    """Look up every data set, network, label and method that the profile's studies name."""
    profile = Profile.load(options.profile)
    notebooks.check_profile(profile)
    for name in profile.studies:
        profile.study(name).check()


def remove_outdated_markers(profile: Profile) -> bool:
    """Remove the markers of jobs whose result is not the wanted one, or no longer lies there as it was written.

    Snakemake compares with its own records in `.snakemake`; without them it would take any marker for up to date, and
    it knows nothing of the other files. Return whether any job is out of date.
    """
    is_outdated = False
    for job, fingerprint in notebooks.fingerprints(profile).items():
        is_there = notebooks.noted_in(job.executed).get("fingerprint") == fingerprint
        if not is_there or not notebooks.is_current(notebooks.noted_in(job.marker), job, fingerprint):
            job.marker.unlink(missing_ok=True)
            is_outdated = True
    return is_outdated


@contextlib.contextmanager
def lock(*, is_shared: bool = False) -> Iterator:
    """Hold `runs/.lock`: a driver alone, then shared with its jobs; the system drops it when the last of them ends."""
    paths.RUNS.mkdir(parents=True, exist_ok=True)
    with open(paths.RUNS / ".lock", "a+") as file:
        _take(file, fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX)
        if not is_shared:
            file.truncate(0)
            print(os.getpid(), file=file, flush=True)
        yield file


def _take(file, kind: int) -> None:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise RuntimeError(
            f"another run is at work here (process {file.read().strip()}, or a job that it left behind); wait for it"
        ) from None


# --- One job ------------------------------------------------------------------------------------------------


def run_one(options: argparse.Namespace) -> None:
    """Run one notebook for one study, or for the profile."""
    profile = Profile.load(options.profile)
    job = notebooks.find_job(options.notebook, profile, options.study)
    notebooks.check_profile(profile)
    # `python3` must mean this interpreter, whatever kernel a user has registered under that name.
    os.environ.pop("JUPYTER_PATH", None)
    os.environ |= {
        "JUPYTER_PREFER_ENV_PATH": "1",
        "PYTHONPATH": os.pathsep.join([str(paths.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "TQDM_DISABLE": "1",
        # torchvision's own import warns; nobody who reads the notebook can do anything about it.
        "PYTHONWARNINGS": "ignore:`torch.jit.script` is deprecated:FutureWarning",
    }
    with lock(is_shared=True):
        print(f"{job.label} ...", flush=True)
        start = time.perf_counter()
        has_run = run_notebook(job)
        taken = f"{time.perf_counter() - start:.1f} s" if has_run else "is current"
        print(f"{job.label}: {taken}, {job.executed.relative_to(paths.ROOT)}", flush=True)


def run_notebook(job: Job) -> bool:
    """Run a job's notebook in a kernel of this very Python, unless its result is current; return whether it ran.

    The executed copy appears only when every cell has run, the marker after it. When a cell fails, what ran lies in
    `.failed.ipynb`.

    Raises:
        CellFailed: a cell raised an error, or the kernel died in it; never tried again.
        RuntimeError: the kernel did not start, three times over.
    """
    fingerprint = notebooks.fingerprint(job)
    noted = notebooks.noted_in(job.executed)
    has_run = not notebooks.is_current(noted, job, fingerprint)
    if has_run:
        running, failed = job.executed.with_suffix(".running.ipynb"), job.executed.with_suffix(".failed.ipynb")
        upstream = notebooks.upstream_digest(job)
        try:
            with _journal(job) as journal:
                _run_cells(job, notebooks.parameterised(job, fingerprint), running)
            executed = notebooks.read_notebook(running)
            noted = executed["metadata"]["mlu"]
            noted |= {"files": _digests(journal, job), "upstream": upstream}
            write_atomically({job.executed: notebooks.as_bytes(executed)})
        except BaseException:  # an interruption, too, leaves the part that ran to be read
            if running.exists():
                running.replace(failed)
            raise
        running.unlink()
        failed.unlink(missing_ok=True)
    kept = {name: noted[name] for name in ("fingerprint", "files", "upstream")}
    write_atomically({job.marker: (json.dumps(kept, indent=1, sort_keys=True) + "\n").encode()})
    return has_run


@contextlib.contextmanager
def _journal(job: Job) -> Iterator[set[Path]]:
    """Yield a set that in the end holds the files that this process and its kernel wrote."""
    file, written = job.executed.with_suffix(".written"), set()
    write_atomically({file: b""})
    os.environ[JOURNAL] = str(file)
    try:
        yield written
        written |= set(map(Path, file.read_text(encoding="utf-8").splitlines()))
    finally:
        del os.environ[JOURNAL]
        file.unlink(missing_ok=True)


def _digests(written: set[Path], job: Job) -> dict[str, str]:
    """Return file -> SHA-256 of what a job wrote below its profile's folder, checkpoints and notebooks apart."""
    folder = paths.RUNS / job.profile.name
    own = (
        path for path in sorted(written) if path.is_relative_to(folder) and path.suffix != ".ipynb" and path.exists()
    )
    shared = folder / MODELS
    return {
        str(path.relative_to(paths.RUNS)): notebooks.file_sha256(path) for path in own if shared not in path.parents
    }


def _run_cells(job: Job, notebook: dict, running: Path) -> None:
    from papermill.exceptions import PapermillExecutionError

    for attempt in range(1, KERNEL_STARTS + 1):
        write_atomically({running: notebooks.as_bytes(notebook)})
        try:
            return _execute(running)
        except PapermillExecutionError as error:
            failed = job.executed.with_suffix(".failed.ipynb").relative_to(paths.ROOT)
            trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback)) or f"{error.ename}: {error.evalue}"
            raise CellFailed(
                f"{job.label}: a cell failed; what ran is in {failed}\n{error.source}\n\n{trace}"
            ) from None
        except Exception as error:
            if _any_cell_started(running):
                raise CellFailed(f"{job.label}: the kernel was lost: {type(error).__name__}: {error}") from error
            if attempt == KERNEL_STARTS:
                raise RuntimeError(f"{job.label}: no kernel started in {attempt} tries: {error}") from error
            print(f"{job.label}: the kernel did not start ({error}); trying again", file=sys.stderr, flush=True)


def _execute(path: Path) -> None:
    """Execute a notebook in place, saving after each cell."""
    import papermill

    papermill.execute_notebook(
        path,
        path,
        kernel_name="python3",
        progress_bar=sys.stderr.isatty(),
        start_timeout=KERNEL_START_TIMEOUT_S,
        cwd=paths.ROOT,
        # Each start warns that TCP is not encrypted; it is this machine talking to itself.
        extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
    )


def _any_cell_started(path: Path) -> bool:
    cells = notebooks.read_notebook(path)["cells"]
    return any(cell["metadata"].get("papermill", {}).get("status", "pending") != "pending" for cell in cells)


# --- Copies for nbval, and the claims -----------------------------------------------------------------------


def prepare(options: argparse.Namespace) -> None:
    """Write a parameterised copy of every job's notebook; names sort in an order in which they can run."""
    profile, folder = Profile.load(options.profile), options.into.resolve()
    notebooks.check_profile(profile)
    _refuse_strangers(folder, options.into)
    copies = {}
    for job, fingerprint in notebooks.fingerprints(profile).items():
        name = f"{job.notebook}__{job.study}" if job.study else job.notebook
        copies[f"{name}.ipynb"] = notebooks.as_bytes(notebooks.parameterised(job, fingerprint))
    copies[PREPARED] = "\n".join(copies).encode()
    beside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    with lock() if options.fresh else contextlib.nullcontext():
        try:
            write_atomically({beside / name: content for name, content in copies.items()})
            if folder.exists():
                folder.rename(beside.with_suffix(".old"))
            beside.rename(folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
            shutil.rmtree(beside.with_suffix(".old"), ignore_errors=True)
        if options.fresh:
            shutil.rmtree(paths.RUNS / profile.name, ignore_errors=True)
    print(f"{len(copies) - 1} notebooks of profile {profile.name} in {options.into}")


def _refuse_strangers(folder: Path, given: Path) -> None:
    """Refuse a folder that `prepare` did not make, or that holds anything else by now."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"--into {given}: is no folder; name a new one")
    inside, own = {item.name for item in folder.iterdir()}, folder / PREPARED
    known = LEFT_BY_TOOLS | set(own.read_text(encoding="utf-8").splitlines()) if own.is_file() else set()
    if inside - known:
        raise ValueError(
            f"--into {given}: it would be replaced as a whole, and holds what this command did not write "
            f"({min(inside - known)}); name a new folder"
        )


def print_claims(options: argparse.Namespace) -> None:
    """Print every claim of the text that could be tested, and count the verdicts of all."""
    import pandas as pd

    from mlu_utils import claims

    folder = paths.RUNS / options.profile
    path = folder / "figures" / "claims.csv"
    if not path.exists():
        raise ValueError(f"{path.relative_to(paths.ROOT)} is missing: make reproduce PROFILE={options.profile}")
    audited = pd.read_csv(path)
    shown = audited[claims.is_of_text(audited) & (audited.verdict != claims.NOT_TESTABLE)]
    width = shown.claim_id.str.len().max()
    print(f"{'claim':{width}}  {'printed':>12}  {'from it, or ours':>16}  verdict")
    for row in shown.itertuples():
        print(f"{row.claim_id:{width}}  {row.printed:>12}  {row.ours:16.4g}  {row.verdict}")
    print(f"\n{claims.count_verdicts(audited).to_string()}")
    print(f"\n{len(audited)} claims with reasons: {path.relative_to(paths.ROOT)}; tables, figures: beside it")
    print(f"report: {(folder / '11_results.ipynb').relative_to(paths.ROOT)} (open it with: make lab)")


if __name__ == "__main__":
    sys.exit(main())
