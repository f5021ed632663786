"""The command line, `python -m mlu_utils.cli COMMAND`: for the Makefile, the Snakefile, run_experiment.py.

Each command imports what it needs inside its function, so that `--help` and a wrong argument answer at once.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

from mlu_utils import paths
from mlu_utils.naming import choices


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 1 failed, 2 refused its input."""
    parser = argparse.ArgumentParser(prog="mlu", description="Reproduction suite for multi-label unlearning.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (
        _add_experiment,
        _add_tune,
        _add_reproduce,
        _add_run_notebook,
        _add_prepare,
        _add_publish,
        _add_claims,
    ):
        add(commands)
    options = parser.parse_args(arguments)
    # torchvision's own, at import; nobody who runs a command can do anything about it.
    warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=FutureWarning)
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


ALL_METHODS = "all"
# The paper's names for the data sets that stand in for its own until the real one is on disk.
DATASET_ALIASES = {"CelebA": "synthfaces", "celeba": "synthfaces", "ORL": "orl"}


def _add_experiment(commands) -> None:
    parser = _command(commands, "experiment", _experiment, "run one unlearning experiment, from training to scores")
    parser.add_argument("--method", required=True, help="a method such as WP or SCRUB, or all")
    parser.add_argument("--dataset", required=True, help="orl, synthfaces, digits, or a folder with a labels.csv")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--label", help="label to forget for everyone (a class, on single-label data)")
    what.add_argument("--request", help="any request: label:X, class:X, people:1,2, images:4,5, partial:X@1,2")
    parser.add_argument("--model", help="resnet18, resnet50 or small_cnn; default: the profile's")
    parser.add_argument("--reading", default="targeted", help="printed, targeted or random (WF and WP)")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--profile", default="quick", help="where recipe and hyperparameters come from")
    parser.add_argument("--epochs", type=int, help="train for so many epochs instead of the profile's number")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result to this file")
    parser.add_argument("--save", type=Path, metavar="FILE", help="also write the unlearned model, as safetensors")
    parser.add_argument(
        "--reuse", action="store_true", help="take the reference models of an earlier run, with their timing"
    )


def _experiment(options) -> int:
    import json

    for name, file in (("--json", options.json), ("--save", options.save)):
        if file is not None and not file.resolve().parent.is_dir():
            raise FileNotFoundError(f"{name} {file}: the folder {file.parent} does not exist; create it")
    if options.save and options.method == ALL_METHODS:
        raise ValueError(f"--save {options.save}: --method all makes several models; name one method")
    results = run_experiment(
        method=options.method,
        dataset=DATASET_ALIASES.get(options.dataset, options.dataset),
        label=options.label,
        request=options.request,
        model=options.model,
        reading=options.reading,
        seed=options.seed,
        profile_name=options.profile,
        num_epochs=options.epochs,
        device=options.device,
        is_reused=options.reuse,
        save=options.save,
    )
    if options.json:
        content = results if options.method == ALL_METHODS else results[0]
        half_written = options.json.with_name(f".{options.json.name}.tmp")
        half_written.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        half_written.replace(options.json)
    print(_as_table(results) if options.method == ALL_METHODS else _as_text(results[0]))
    return 0


def run_experiment(
    *,
    method: str,
    dataset: str,
    label: str | None,
    request: str | None,
    model: str | None,
    reading: str,
    seed: int,
    profile_name: str,
    num_epochs: int | None,
    device: str,
    is_reused: bool,
    save: Path | None = None,
) -> list[dict]:
    """Return one result a method: seconds, speed-up, and five test scores of three models.

    Args:
        method: a name in `unlearning.METHODS`, or "all": every method that takes this kind of request.
        dataset, model, seed, num_epochs, device: see the command's help.
        label, request: one of both.
        reading: of WF and WP.
        profile_name: the profile whose recipe for this data set is used.
        is_reused: take reference models of an earlier run.
        save: where the unlearned model goes, its result in the metadata; `models.load_checkpoint` reads it.

    Raises:
        ValueError: anything unknown or impossible among the arguments, before any training starts.
    """
    from mlu_utils import experiments, references, tuning
    from mlu_utils.models import save_checkpoint
    from mlu_utils.unlearning import METHODS, require_kind, require_method

    names = list(METHODS) if method == ALL_METHODS else [method]
    for name in names:
        entry = require_method(name)
        if reading not in entry.readings and entry.readings != ("-",):
            raise ValueError(f"unknown reading {reading!r} of {name}: {choices(reading, entry.readings)}")
    study = _study(dataset, label, request, model, seed, profile_name, num_epochs, device)
    _ = study.mask  # a request that cannot be served is refused before any training
    kind = study.forget_request.kind
    if method == ALL_METHODS:
        names = [name for name in names if kind in METHODS[name].kinds]
    require_kind(names[0], kind)

    original = references.reference_model(study, "original", is_reused=is_reused)
    retrained = references.reference_model(study, "retrained", is_reused=is_reused)
    scores = {
        name: experiments.headline(study, experiments.score_rows(study, m, method=label, splits=("test",)))
        for name, label, m in (("original", "Original", original.model), ("retrain", "Retrain", retrained.model))
    }
    results = []
    for name in names:
        if name == "Retrain":
            seconds = retrained.training_time_s
            made = experiments.UnlearnedModel(retrained.model, "-", seconds, seconds)
        else:
            made = experiments.run_method(study, original.model, name, reading, tuning.chosen(name, kind), seed)
        rows = experiments.score_rows(study, made.model, method=name, splits=("test",))
        of_all = scores | {"unlearned": experiments.headline(study, rows)}
        results.append(
            {
                "method": name,
                "reading": made.reading,
                "dataset": dataset,
                "model": study.architecture,
                "request": study.request,
                "seed": seed,
                "device": str(study.torch_device),
                "num_epochs": study.recipe.num_epochs,
                "speedup": retrained.training_time_s / made.unlearning_time_s,
                "seconds": {
                    "retrain": retrained.training_time_s,
                    "unlearn": made.unlearning_time_s,
                    "unlearn_first_call": made.first_call_s,
                },
                "scores": {
                    key: {model: _number(values[key]) for model, values in of_all.items()} for key in of_all["original"]
                },
            }
        )
        if save:
            save_checkpoint(save, made.model, {**results[-1], "outputs": list(study.table.output_names)})
    return results


def _study(dataset, label, request, model, seed, profile_name, num_epochs, device):
    """Return the study of an experiment: the profile's first one on this data set, with what the user changed."""
    from mlu_utils import notebook_runs, references, studies

    profile = studies.load_profile(profile_name)
    same_data = [name for name, values in profile.studies.items() if values.get("dataset") == dataset]
    parameters = notebook_runs.resolve_parameters(
        "02_original_model", profile, same_data[0] if same_data else profile.publish_study
    )
    if not same_data:  # what the profile says of another data set's size does not apply
        parameters |= {"image_size": None, "num_images": None}
    parameters |= {"dataset": dataset, "seed": seed, "device": device, "profile": "experiments"}
    parameters |= {"study": dataset.strip("/").split("/")[-1], "request": request or f"label:{label}"}
    if model:
        parameters["architecture"] = model
    if num_epochs is not None:
        parameters["num_epochs"] = num_epochs
    study = references.Study.from_parameters(parameters)
    if label and not study.table.is_multi_label:
        return replace(study, request=f"class:{label}")
    return study


def _number(value: float) -> float | None:
    """Return a number that JSON knows: null where a score has no meaning for this kind of request."""
    return None if value != value else value


def _as_text(result: dict) -> str:
    lines = [
        f"{result['method']} ({result['reading']}) on {result['dataset']}, {result['model']}, {result['request']}, "
        f"seed {result['seed']}, {result['num_epochs']} epochs, {result['device']}",
        f"{'test score':26} {'original':>9} {'retrain':>9} {'unlearned':>9}",
    ]
    for key, values in result["scores"].items():
        cells = " ".join(f"{'-' if v is None else format(v, '.4f'):>9}" for v in values.values())
        lines.append(f"{key:26} {cells}")
    seconds = result["seconds"]
    lines.append(
        f"seconds: retrain {seconds['retrain']:.1f}, unlearn {seconds['unlearn']:.2f}: {result['speedup']:.1f}x "
        f"(a first call in a fresh process: {seconds['unlearn_first_call']:.2f})"
    )
    return "\n".join(lines)


def _as_table(results: list[dict]) -> str:
    """Return one line a method, after those of the original and the retrained model."""
    first = results[0]
    keys = list(first["scores"])
    rows = [
        ("Original", [first["scores"][key]["original"] for key in keys], None),
        ("Retrain", [first["scores"][key]["retrain"] for key in keys], first["seconds"]["retrain"]),
    ]
    for result in results:
        if result["method"] != "Retrain":
            name = result["method"] + ("" if result["reading"] == "-" else f" ({result['reading']})")
            values = [result["scores"][key]["unlearned"] for key in keys]
            rows.append((name, values, result["seconds"]["unlearn"]))
    lines = [
        f"{first['dataset']}, {first['model']}, {first['request']}, seed {first['seed']}, "
        f"{first['num_epochs']} epochs, {first['device']}",
        f"{'test scores':20} " + " ".join(f"{key.replace('_', ' '):>24}" for key in keys) + f" {'seconds':>9}",
    ]
    for name, values, seconds in rows:
        cells = " ".join(f"{'-' if v is None else format(v, '.4f'):>24}" for v in values)
        lines.append(f"{name:20} {cells} {'-' if seconds is None else format(seconds, '.2f'):>9}")
    return "\n".join(lines)


# --- tune: hyperparameters on a validation request -----------------------------------------------------------


def _add_tune(commands) -> None:
    parser = _command(commands, "tune", _tune, "search hyperparameters on a request that no table reports")
    parser.add_argument("--kind", required=True, help="label, class, images or people")
    parser.add_argument("--method", action="append", default=[], help="repeat for several; default: all")
    parser.add_argument("--trials", type=int, default=12, help="configurations a method, the default one included")


def _tune(options) -> int:
    from mlu_utils import tuning

    file = tuning.search(options.kind, tuple(options.method), num_trials=options.trials)
    for method in options.method or tuning.SPACES:
        print(f"{method:10} {tuning.chosen(method, options.kind) or 'its defaults'}")
    print(f"every trial: {file.relative_to(paths.ROOT)}")
    return 0


# --- the engine: notebooks of a profile ---------------------------------------------------------------------


def _add_reproduce(commands) -> None:
    parser = _command(commands, "reproduce", _reproduce, "run what is missing or out of date of a profile")
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--cores", default="all", help="number of cores, or all")
    parser.add_argument("snakemake", nargs="*", help="further arguments for snakemake, after --, e.g. -- --dry-run")


def _reproduce(options) -> int:
    from mlu_utils import notebook_runs, studies

    profile = studies.load_profile(options.profile)
    notebook_runs.check_profile(profile)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(paths.ROOT / "Snakefile")]
    command += ["--cores", options.cores, "--config", f"profile={profile.name}"]
    # The fingerprint among the parameters says what is out of date; file times say nothing.
    command += ["--rerun-triggers", "params", "--rerun-incomplete"]
    # A study that fails doesn't take the others with it. Our lock goes with its process, Snakemake's doesn't.
    command += [
        "--keep-going",
        "--nolock",
        "--scheduler",
        "greedy",
        "--quiet",
        "host",
        "progress",
        "rules",
        "--nocolor",
    ]
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
            raise RuntimeError(f"another run is at work here (process {lock.read().strip()}); wait for it") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _add_run_notebook(commands) -> None:
    parser = _command(commands, "run-notebook", _run_notebook, "run one notebook for one study (the Snakefile does)")
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
        raise ValueError(f"--into {options.into}: holds other files than notebooks; it would be replaced as a whole")
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
    from mlu_utils import front_page, notebook_runs, studies

    for path in notebook_runs.publish(studies.load_profile(options.profile)):
        print(f"published {path.relative_to(paths.ROOT)}")
    front_page.update()
    print("README.md: the table of results is that of figures/")
    return 0


def _add_claims(commands) -> None:
    parser = _command(commands, "claims", _claims, "print the claims beside ours and count the verdicts")
    parser.add_argument("--profile", default="quick")


def _claims(options) -> int:
    import pandas as pd

    from mlu_utils import claims

    is_published = options.profile == "quick"
    path = (paths.FIGURES if is_published else paths.RUNS / options.profile / "figures") / "claims.csv"
    if not path.exists():
        raise FileNotFoundError(f"{path.relative_to(paths.ROOT)} is missing: make reproduce PROFILE={options.profile}")
    audited = pd.read_csv(path)
    shown = audited[claims.is_of_text(audited) & (audited.verdict != claims.NOT_TESTABLE)]
    width = shown.claim_id.str.len().max()
    print(f"{'claim':{width}}  {'printed':>12}  {'from it, or ours':>16}  verdict")
    for row in shown.itertuples():
        print(f"{row.claim_id:{width}}  {row.printed:>12}  {row.ours:16.4g}  {row.verdict}")
    print(f"\n{claims.count_verdicts(audited).to_string()}")
    report = paths.RUNS / options.profile / "11_results.ipynb"
    print(f"\n{len(audited)} claims with reasons: {path.relative_to(paths.ROOT)}; tables, figures: beside it")
    print(f"report: {report.relative_to(paths.ROOT)} (open it with: make lab)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
