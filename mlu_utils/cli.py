"""The command line, `python -m mlu_utils.cli COMMAND`: for the Makefile, the Snakefile, run_experiment.py.

Each command imports what it needs inside its function, so that `--help` and a wrong argument answer at once.
"""

import argparse
import contextlib
import csv
import os
import subprocess
import sys
import time
from pathlib import Path

from mlu_utils import paths


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 1 failed, 2 refused its input."""
    parser = argparse.ArgumentParser(prog="mlu", description="Reproduction suite for multi-label unlearning.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_add_experiment, _add_reproduce, _add_run_notebook, _add_prepare, _add_publish, _add_claims):
        add(commands)
    options = parser.parse_args(arguments)
    try:
        return options.run(options) or 0
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _command(commands, name: str, run, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    return parser


# --- experiment: one method on one data set, one label ------------------------------------------------------


def _add_experiment(commands) -> None:
    # EXPERIMENT COMMAND GOES HERE: its options, and _experiment below; run_experiment.py calls it.
    _command(commands, "experiment", _experiment, "run one unlearning experiment")


def _experiment(options) -> int:
    raise RuntimeError("the experiment command is not there yet")


# --- the engine: notebooks of a profile ---------------------------------------------------------------------


def _add_reproduce(commands) -> None:
    parser = _command(commands, "reproduce", _reproduce, "run what is missing or out of date of a profile")
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--cores", default="all", help="number of cores, or all")
    parser.add_argument(
        "snakemake", nargs="*", help="further arguments for snakemake, after --, e.g. -- --dry-run"
    )


def _reproduce(options) -> int:
    from mlu_utils import notebook_runs, studies

    profile = studies.load_profile(options.profile)
    notebook_runs.check_profile(profile)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(paths.ROOT / "Snakefile")]
    command += ["--cores", options.cores, "--config", f"profile={profile.name}"]
    # The fingerprint among the parameters says what is out of date; file times say nothing.
    command += ["--rerun-triggers", "params", "--rerun-incomplete"]
    # A study that fails doesn't take the others with it. Our lock goes with its process, Snakemake's doesn't.
    command += ["--keep-going", "--nolock", "--scheduler", "greedy", "--quiet", "host", "progress", "rules"]
    with _only_one_at_a_time():
        for path in notebook_runs.set_aside_outdated(profile):
            print(f"out of date, set aside: {path.relative_to(paths.ROOT)}")
        sys.stdout.flush()
        status = subprocess.run(command + options.snakemake, cwd=paths.ROOT).returncode
    if status != 0:
        print(
            "reproduce stopped: see the error above. What is finished is kept; run it again to go on.",
            file=sys.stderr,
        )
    return status


@contextlib.contextmanager
def _only_one_at_a_time():
    """Hold a lock that the operating system drops when this process ends, however it ends."""
    import fcntl

    paths.RUNS.mkdir(exist_ok=True)
    with open(paths.RUNS / ".lock", "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise RuntimeError(
                f"another run is at work here (process {lock.read().strip()}); wait for it"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _add_run_notebook(commands) -> None:
    parser = _command(
        commands, "run-notebook", _run_notebook, "run one notebook for one study (the Snakefile does)"
    )
    parser.add_argument("--notebook", required=True, help="name without suffix, e.g. 02_original_model")
    parser.add_argument("--profile", required=True)
    parser.add_argument("--study", help="left out for a notebook that runs once per profile")


def _run_notebook(options) -> int:
    from mlu_utils import notebook_runs, studies

    job = notebook_runs.find_job(options.notebook, studies.load_profile(options.profile), options.study)
    print(f"{job.label} ...", flush=True)
    start = time.perf_counter()
    output = notebook_runs.run_notebook(job)
    print(f"{job.label}: {time.perf_counter() - start:.1f} s, {output.relative_to(paths.ROOT)}", flush=True)
    return 0


def _add_prepare(commands) -> None:
    parser = _command(
        commands, "prepare", _prepare, "write parameterised copies of the notebooks, without running them"
    )
    parser.add_argument("--profile", default="smoke")
    parser.add_argument("--into", type=Path, required=True, help="folder, replaced as a whole")
    parser.add_argument("--fresh", action="store_true", help="also remove what the profile left in runs/")


def _prepare(options) -> int:
    import shutil

    from mlu_utils import notebook_runs, studies

    profile = studies.load_profile(options.profile)
    if options.into.exists() and any(item.suffix != ".ipynb" for item in options.into.iterdir()):
        raise ValueError(
            f"--into {options.into}: holds other files than notebooks; it would be replaced as a whole"
        )
    written = notebook_runs.prepare(profile, options.into)
    if options.fresh:
        shutil.rmtree(paths.RUNS / profile.name, ignore_errors=True)
    print(f"{len(written)} notebooks of profile {profile.name} in {options.into}")
    return 0


def _add_publish(commands) -> None:
    parser = _command(
        commands, "publish", _publish, "put the outputs of a finished profile into the committed notebooks"
    )
    parser.add_argument("--profile", default="quick")


def _publish(options) -> int:
    from mlu_utils import notebook_runs, studies

    for path in notebook_runs.publish(studies.load_profile(options.profile)):
        print(f"published {path.relative_to(paths.ROOT)}")
    return 0


def _add_claims(commands) -> None:
    parser = _command(commands, "claims", _claims, "print figures/claims.csv and say where the report lies")
    parser.add_argument("--profile", default="quick")


def _claims(options) -> int:
    table = paths.FIGURES / "claims.csv"
    if not table.exists():
        raise FileNotFoundError("figures/claims.csv is missing: make reproduce")
    with open(table, encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    report = paths.RUNS / options.profile / "11_results.ipynb"
    print(
        f"\n{len(rows) - 1} claims: {table.relative_to(paths.ROOT)}; tables, figures: {paths.FIGURES.name}/"
    )
    print(f"report: {report.relative_to(paths.ROOT)} (open it with: make lab)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
