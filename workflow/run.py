"""Run the notebooks of a profile: `python workflow/run.py reproduce --profile quick --cores all [-- snakemake args]`.

`reproduce` runs what is missing or out of date and leaves the rest alone; `notebook` runs one job (the Snakefile calls
it); `prepare` writes parameterised copies for nbval; `claims` prints the claims table. All of it writes below `runs/`
and `build/`.
"""

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
from collections.abc import Callable, Iterator
from pathlib import Path

import notebooks
from mlu_utils import paths
from mlu_utils.files import JOURNAL, write_atomically
from mlu_utils.studies import Profile
from notebooks import Job

KERNEL_STARTS = 3
KERNEL_START_TIMEOUT_S = 180  # a cold import of torch on a busy disk


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
    of = command("prepare", prepare, "write parameterised copies of the notebooks to build/, without a run", "smoke")
    of.add_argument("--fresh", action="store_true", help="also remove what the profile left in runs/")
    command("claims", print_claims, "print the claims beside ours and count the verdicts")
    options = parser.parse_args(arguments)
    return exit_status(lambda: options.run(options))


def exit_status(command: Callable[[], int | None]) -> int:
    """Run a command: 0 done, 1 failed, 2 refused its input, 130 interrupted; what the user can mend is one line."""
    try:
        return command() or 0
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, RuntimeError) else 2
    except KeyboardInterrupt:
        print("interrupted; what is finished is kept", file=sys.stderr)
        return 130


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
        print("stopped: see the error above. What is finished is kept; run it again to go on.", file=sys.stderr)
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
    outdated = []
    for job, fingerprint in notebooks.fingerprints(profile).items():
        is_there = notebooks.noted_in(job.executed).get("fingerprint") == fingerprint
        if not is_there or not notebooks.is_current(notebooks.noted_in(job.marker), job, fingerprint):
            job.marker.unlink(missing_ok=True)
            outdated.append(job)
    return bool(outdated)


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

    The executed copy appears only when every cell has run, the marker after it. When a cell fails or the kernel dies in
    it (`CellFailed`), what ran lies in `.failed.ipynb`; only a kernel that does not start is tried again.
    """
    fingerprint = notebooks.fingerprint(job)
    noted = notebooks.noted_in(job.executed)
    has_run = not notebooks.is_current(noted, job, fingerprint)
    if has_run:
        running, failed = job.executed.with_suffix(".running.ipynb"), job.executed.with_suffix(".failed.ipynb")
        upstream = notebooks.upstream_digest(job)
        try:
            with _files_written(job) as files:
                _run_cells(job, notebooks.parameterised(job, fingerprint), running)
            executed = notebooks.read_notebook(running)
            noted = executed["metadata"]["mlu"]
            noted |= {"files": files, "upstream": upstream}
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
def _files_written(job: Job) -> Iterator[dict[str, str]]:
    """Yield a mapping that in the end holds file -> SHA-256 of what the job wrote below its profile's folder.

    Left out are notebooks, and checkpoints, which jobs share: each is made again by whoever needs it.
    """
    folder, journal = paths.RUNS / job.profile.name, job.executed.with_suffix(".written")
    files: dict[str, str] = {}
    write_atomically({journal: b""})
    os.environ[JOURNAL] = str(journal)
    try:
        yield files
        for path in map(Path, journal.read_text(encoding="utf-8").splitlines()):
            is_own = path.is_relative_to(folder) and not path.is_relative_to(folder / "models")
            if is_own and path.suffix != ".ipynb" and path.exists():
                files[str(path.relative_to(paths.RUNS))] = notebooks.file_sha256(path)
    finally:
        del os.environ[JOURNAL]
        journal.unlink(missing_ok=True)


def _run_cells(job: Job, notebook: dict, running: Path) -> None:
    from papermill.exceptions import PapermillExecutionError

    for attempt in range(1, KERNEL_STARTS + 1):
        write_atomically({running: notebooks.as_bytes(notebook)})
        try:
            return _execute(running)
        except PapermillExecutionError as error:
            failed = job.executed.with_suffix(".failed.ipynb").relative_to(paths.ROOT)
            trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback)) or f"{error.ename}: {error.evalue}"
            text = f"{job.label}: a cell failed; what ran is in {failed}\n{error.source}\n\n{trace}"
            raise CellFailed(text) from None
        except Exception as error:
            states = (c["metadata"].get("papermill", {}) for c in notebooks.read_notebook(running)["cells"])
            if any(state.get("status", "pending") != "pending" for state in states):
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


def prepare(options: argparse.Namespace) -> None:
    """Write a parameterised copy of every job's notebook; names sort in an order in which they can run."""
    profile = Profile.load(options.profile)
    notebooks.check_profile(profile)
    folder, copies = paths.ROOT / "build" / f"{profile.name}_notebooks", {}
    for job, fingerprint in notebooks.fingerprints(profile).items():
        name = f"{job.notebook}__{job.study}" if job.study else job.notebook
        copies[folder / f"{name}.ipynb"] = notebooks.as_bytes(notebooks.parameterised(job, fingerprint))
    with lock() if options.fresh else contextlib.nullcontext():
        write_atomically(copies)
        for path in folder.glob("*.ipynb"):  # copies of jobs that are no more
            if path not in copies and path.stem.partition("__")[0] in notebooks.RULES:
                path.unlink()
        if options.fresh:
            shutil.rmtree(paths.RUNS / profile.name, ignore_errors=True)
    print(f"{len(copies)} notebooks of profile {profile.name} in {folder.relative_to(paths.ROOT)}")


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
