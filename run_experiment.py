"""Run one unlearning experiment: `python run_experiment.py --method WP --dataset orl --label Eyeglasses`."""

from __future__ import annotations

import argparse
import csv
import json
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mlu_utils.files import write_atomically
from mlu_utils.naming import require_choice
from mlu_utils.studies import Profile, Study
from mlu_utils.unlearning import METHODS, require_kind, require_method

ALL_METHODS = "all"
# The paper's names for the data sets that stand in for its own where no folder of that name is there.
STAND_INS = {"CelebA": "synthfaces", "celeba": "synthfaces", "ORL": "orl"}


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 failed, 2 refused its input."""
    options = _parser().parse_args(arguments)
    is_all = options.method == ALL_METHODS
    # torchvision's own, at import; nobody who runs a command can do anything about it.
    warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=FutureWarning)
    try:
        for name, file in (("--json", options.json), ("--save", options.save)):
            if file and not file.resolve().parent.is_dir():
                raise FileNotFoundError(f"{name} {file}: the folder {file.parent} does not exist; create it")
            if file and file.is_dir():
                raise ValueError(f"{name} {file}: this is a folder; name a file")
        if options.save and is_all:
            raise ValueError(f"--save {options.save}: --method all makes several models; name one method")
        results = []
        for result in run(options):
            results.append(result)
            lines = _lines_of_table(result, is_first=len(results) == 1) if is_all else _lines(result)
            print("\n".join(lines), flush=True)
            if options.json:
                content = json.dumps(results if is_all else result, indent=2)
                write_atomically({options.json: f"{content}\n".encode()})
        return 0
    except (ValueError, OSError, RuntimeError, csv.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError | FileNotFoundError | csv.Error) else 1
    except KeyboardInterrupt:
        print("error: interrupted; trained models are kept, --reuse takes them", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Run one unlearning experiment, from training to scores.")
    parser.add_argument("--method", required=True, help="a method such as WP or SCRUB, or all")
    parser.add_argument("--dataset", required=True, help="orl, synthfaces, digits, ..., or a folder with a labels.csv")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--label", help="label to forget for everyone (a class, on single-label data)")
    what.add_argument("--request", help="any request: label:X, class:X, people:1,2, images:4,5, partial:X@1,2")
    parser.add_argument("--model", help="resnet18, resnet50, small_cnn or laf_cnn; default: the profile's")
    parser.add_argument("--reading", default="targeted", help="printed, targeted, trunk or random (WF and WP)")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--profile", default="quick", help="where recipe and hyperparameters come from")
    parser.add_argument("--epochs", type=int, help="train for so many epochs instead of the profile's number")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result to this file")
    parser.add_argument("--save", type=Path, metavar="FILE", help="also write the unlearned model, as safetensors")
    parser.add_argument(
        "--reuse", action="store_true", help="take the reference models of an earlier run, with their timing"
    )
    return parser


def run(options: argparse.Namespace) -> Iterator[dict]:
    """Yield one result a method, as soon as it is there: seconds, speed-up, and five test scores of three models.

    What is unknown or impossible among the options is a ValueError before any training starts.
    """
    from mlu_utils import experiments
    from mlu_utils.checkpoints import save_checkpoint

    names = list(METHODS) if options.method == ALL_METHODS else [options.method]
    for name in names:
        entry = require_method(name)
        if entry.readings != ("-",):
            require_choice(f"{name} reading", options.reading, entry.readings)
    study = _study(options)
    _ = study.mask  # a request that cannot be served is refused before any training
    kind = study.forget_request.kind
    if len(names) > 1:
        names = [name for name in names if kind in METHODS[name].kinds]
    require_kind(names[0], kind)

    original, retrained = (
        experiments.reference_model(study, name, is_reused=options.reuse) for name in ("original", "retrained")
    )

    def test_scores(model, method: str) -> dict[str, float]:
        found = experiments.headline(study, experiments.score_rows(study, model, method=method, splits=("test",)))
        return found | (experiments.benchmark_scores(study, model) if kind in ("people", "images") else {})

    scores = {"original": test_scores(original.model, "Original"), "retrain": test_scores(retrained.model, "Retrain")}
    for name in names:
        if name == "Retrain":
            seconds = retrained.training_time_s
            made = experiments.UnlearnedModel(retrained.model, "-", seconds, seconds)
        else:
            values = experiments.tuned(name, kind)
            made = experiments.run_method(study, original.model, name, options.reading, values, options.seed)
        of_all = scores | {"unlearned": test_scores(made.model, name)}
        result = {
            "method": name,
            "reading": made.reading,
            "dataset": study.dataset,
            "model": study.architecture,
            "request": study.request,
            "seed": study.seed,
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
        if study.dataset != options.dataset:
            result["stands_in_for"] = options.dataset
        if options.save:
            save_checkpoint(options.save, made.model, {**result, "outputs": list(study.table.output_names)})
        yield result


def _study(options: argparse.Namespace) -> Study:
    """Return the profile's first study on this data set, with what the user changed."""
    dataset = options.dataset
    if not Path(dataset).is_dir() and dataset in STAND_INS:
        dataset = STAND_INS[dataset]
        print(f"note: {options.dataset} is not here; {dataset} stands in for it", file=sys.stderr)
    profile = Profile.load(options.profile)
    same_data = [name for name in profile.studies if profile.study(name).dataset == dataset]
    given = {
        "dataset": dataset,
        "request": options.request or f"label:{options.label}",
        "seed": options.seed,
        "device": options.device,
        "architecture": options.model,
        "num_epochs": options.epochs,
    }
    change = {name: value for name, value in given.items() if value is not None}
    if not same_data:  # what the profile says of another data set's size does not apply
        change |= {"image_size": None, "num_images": None, "dataset_options": {}}
    study = profile.study(same_data[0] if same_data else profile.publish_study, **change)
    study = replace(study, profile="experiments", name=Path(dataset).name)
    if options.label and not study.table.is_multi_label:
        table, study = study.table, replace(study, request=f"class:{options.label}")
        study.__dict__["table"] = table  # a cached property: a folder of images is read once
    return study


def _number(value: float) -> float | None:
    """Return a number that JSON knows: null where a score has no meaning for this kind of request."""
    return None if value != value else float(value)


def _cell(value: float | None, width: int, digits: int = 4) -> str:
    return f"{'-' if value is None else format(value, f'.{digits}f'):>{width}}"


def _lines(result: dict) -> list[str]:
    seconds, scores = result["seconds"], result["scores"].items()
    return [
        f"{result['method']} ({result['reading']}) on {_setting(result)}",
        f"{'test score':26} {'original':>9} {'retrain':>9} {'unlearned':>9}",
        *(f"{key:26} " + " ".join(_cell(value, 9) for value in values.values()) for key, values in scores),
        f"seconds: retrain {seconds['retrain']:.1f}, unlearn {seconds['unlearn']:.2f}: {result['speedup']:.1f}x "
        f"(a first call in a fresh process: {seconds['unlearn_first_call']:.2f})",
    ]


def _lines_of_table(result: dict, *, is_first: bool) -> list[str]:
    """Return the line of a method; before the first those of the table's head, of the original and of Retrain.

    Scores without a meaning for this kind of request have no column.
    """
    shown = {name: of for name, of in result["scores"].items() if any(value is not None for value in of.values())}

    def line(name: str, model: str, seconds: float | None) -> str:
        cells = [_cell(of[model], max(9, len(key))) for key, of in shown.items()]
        return " ".join([f"{name:20}", *cells, _cell(seconds, 9, 2)])

    lines = []
    if is_first:
        names = " ".join(f"{key.replace('_', ' '):>9}" for key in shown)
        lines = [_setting(result), f"{'test scores':20} {names} {'seconds':>9}", line("Original", "original", None)]
        lines.append(line("Retrain", "retrain", result["seconds"]["retrain"]))
    if result["method"] != "Retrain":
        name = result["method"] + ("" if result["reading"] == "-" else f" ({result['reading']})")
        lines.append(line(name, "unlearned", result["seconds"]["unlearn"]))
    return lines


def _setting(result: dict) -> str:
    return (
        f"{result['dataset']}, {result['model']}, {result['request']}, seed {result['seed']}, "
        f"{result['num_epochs']} epochs, {result['device']}"
    )


if __name__ == "__main__":
    sys.exit(main())
