"""One study, from data to scores: what the notebooks and the command line share and neither should repeat.

A study is a data set, a network, a request and a seed. This module trains (or loads) its two reference models,
scores any model the same way, and writes the tidy rows; the methods themselves are called by the notebooks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from mlu_utils import data, paths
from mlu_utils.data.batches import Augmentation
from mlu_utils.data.table import ImageTable
from mlu_utils.models import build_model, load_checkpoint, save_checkpoint
from mlu_utils.reporting import SCORE_COLUMNS
from mlu_utils.requests import ForgetRequest
from mlu_utils.runtime import Precision, environment_record, resolve_device, resolve_precision
from mlu_utils.scoring.probe import linear_probe
from mlu_utils.scoring.utility import class_scores, label_scores
from mlu_utils.training import fit, predict, predict_logits
from mlu_utils.unlearning import require_method, unlearn

SCORED_SPLITS = ("train", "validation", "test")
PROBE_SPLITS = ("train", "test")  # where the probe learns and is scored


@dataclass(frozen=True)
class Recipe:
    """How the original and the retrained model are trained; the defaults are the paper's.

    Args:
        num_epochs: passes over the training images.
        batch_size, learning_rate, momentum, weight_decay: of SGD.
        schedule: "constant" or "linear", see `training.fit`.
        is_augmented: flip, affine and colour jitter of each training image.
    """

    num_epochs: int = 50
    batch_size: int = 64
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "constant"
    is_augmented: bool = True

    def fit_options(self) -> dict:
        """Return the keyword arguments for `training.fit` and the method Retrain."""
        options = asdict(self)
        options["augmentation"] = Augmentation() if options.pop("is_augmented") else None
        return options


@dataclass(frozen=True)
class Study:
    """One experiment's identity, and where its results lie.

    Args:
        profile, name: of the profile and the study; results lie in `runs/<profile>/<name>/`.
        dataset: a name in `data.DATASETS` or a folder of images.
        dataset_options: arguments of that data set's loader.
        architecture: a name in `models.MODELS`.
        request: for example `label:Eyeglasses`, see `requests.ForgetRequest.parse`.
        seed: of training.
        recipe: how the reference models are trained.
        device, precision: see `runtime`.
    """

    profile: str
    name: str
    dataset: str
    architecture: str
    request: str
    seed: int
    recipe: Recipe = field(default_factory=Recipe)
    dataset_options: dict = field(default_factory=dict)
    device: str = "auto"
    precision: str = "auto"

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> Study:
        """Read a study out of a notebook's parameters (pass `globals()`) or of a resolved profile."""
        take = {f.name: parameters[f.name] for f in fields(Recipe)}
        options = {"size": parameters["image_size"], "num_images": parameters["num_images"]}
        names = ("profile", "dataset", "architecture", "request", "seed", "device", "precision")
        return cls(
            name=parameters["study"],
            recipe=Recipe(**take),
            dataset_options={name: value for name, value in options.items() if value is not None},
            **{name: parameters[name] for name in names},
        )

    @cached_property
    def table(self) -> ImageTable:
        """The data."""
        return data.load(self.dataset, **self.dataset_options)

    @cached_property
    def forget_request(self) -> ForgetRequest:
        """The parsed request."""
        return ForgetRequest.parse(self.request)

    @cached_property
    def mask(self) -> torch.Tensor:
        """Entries to forget, bool (N, K)."""
        return self.forget_request.mask(self.table)

    @cached_property
    def torch_device(self) -> torch.device:
        """The device to run on."""
        return resolve_device(self.device)

    @cached_property
    def number_format(self) -> Precision:
        """The number format of forward and backward passes."""
        return resolve_precision(self.precision, self.torch_device)

    @property
    def folder(self) -> Path:
        """Where this study's checkpoints and scores lie."""
        return paths.RUNS / self.profile / self.name

    @property
    def forgotten_names(self) -> tuple[str, ...]:
        """Names of the labels or classes that the request touches: the ones that are not simply retained."""
        if self.forget_request.kind in ("label", "class", "partial"):
            table, name = self.table, self.forget_request.name
            if table.is_multi_label:
                return (table.label_names[table.label_index(name)],)
            return (table.class_names[table.class_index(name)],)
        return ()


@dataclass(frozen=True)
class TrainedModel:
    """A reference model with how it came about."""

    model: nn.Module
    history: pd.DataFrame  # one row an epoch: epoch, retain_loss, seconds, validation_accuracy
    training_time_s: float  # without the validation passes
    is_from_disk: bool


def reference_model(study: Study, name: str, *, is_reused: bool = True) -> TrainedModel:
    """Return `original` or `retrained`, from its checkpoint when the very same training was done before.

    Checkpoints lie in `runs/<profile>/models/`, named by what they depend on: data, recipe, seed, request (retrained
    only), number format and the code that trains. Studies that differ in the request only share their original.

    Args:
        study: what to train on.
        name: original or retrained.
        is_reused: False trains anew even so, for a timing of this run.

    Raises:
        ValueError: another name.
    """
    if name not in ("original", "retrained"):
        raise ValueError(f"unknown reference model {name!r}: choose original or retrained")
    identity = {
        "table": study.table.sha256,
        "recipe": asdict(study.recipe),
        "seed": study.seed,
        "request": study.request if name == "retrained" else None,
        "precision": study.number_format.name,
        "architecture": study.architecture,
        "device": study.torch_device.type,
        "code": _training_code_sha256(),
    }
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    file = paths.RUNS / study.profile / "models" / f"{name}-{key}.safetensors"
    if is_reused and file.is_file():
        model, facts = load_checkpoint(file, architecture=study.architecture)
        history = pd.DataFrame(facts["history"])
        return TrainedModel(model.to(study.torch_device), history, facts["training_time_s"], True)

    table = study.table
    model = build_model(study.architecture, table.num_outputs, seed=study.seed).to(study.torch_device)
    validation = table.rows("validation")
    records = fit(
        model,
        table,
        mask=study.mask if name == "retrained" else None,
        seed=study.seed,
        precision=study.number_format,
        description=f"training {name}",
        after_epoch=lambda m, record: record.update(validation_accuracy=_retained_accuracy(study, m, validation)),
        **study.recipe.fit_options(),
    )
    model.to(memory_format=torch.contiguous_format)  # as it will come back from its checkpoint
    seconds = sum(record["seconds"] for record in records)
    facts = {
        "identity": identity,
        "history": records,
        "training_time_s": seconds,
        "environment": environment_record(study.torch_device),
    }
    save_checkpoint(file, model, facts)
    return TrainedModel(model, pd.DataFrame(records), seconds, False)


@dataclass(frozen=True)
class UnlearnedModel:
    """What a method made, and its cost."""

    model: nn.Module
    reading: str  # "-" for a method without readings
    unlearning_time_s: float
    first_call_s: float  # of an untimed first run, which pays for a cold start as well


def run_method(
    study: Study,
    original: nn.Module,
    method: str,
    reading: str,
    parameters: Mapping[str, Any],
    seed: int,
    *,
    is_timed: bool = True,
) -> UnlearnedModel:
    """Run a method with the hyperparameters found by name among the parameters.

    A timed method runs twice: the first run of a process also pays for memory and kernels that training has long
    since set up. Both times are reported.
    """
    entry = require_method(method)
    options = {name: parameters[name] for name in entry.hyperparameters if name in parameters}
    if "precision" in entry.hyperparameters:
        options["precision"] = study.number_format
    used = "-" if entry.readings == ("-",) else reading
    if used != "-":
        options["reading"] = used
    runs = [
        unlearn(method, original, study.table, study.forget_request, seed=seed, **options)
        for _ in range(2 if is_timed else 1)
    ]
    seconds = [record.unlearning_time_s for _, record in runs]
    return UnlearnedModel(runs[-1][0], used, seconds[-1], seconds[0])


def score_rows(
    study: Study,
    model: nn.Module,
    *,
    method: str,
    reading: str = "-",
    seed: int | None = None,
    splits: Iterable[str] = SCORED_SPLITS,
    has_probe: bool = True,
) -> pd.DataFrame:
    """Return the tidy rows of a model: every score of `scoring.utility` per split, and the probe on test.

    The probe learns on the features of the train split and is scored on the test split; it needs one binary
    question, so it runs for label and class requests only.

    Args:
        study: what is scored.
        model: on any device.
        method, reading: keys of the rows.
        seed: key of the rows; default: the study's.
        splits: splits to score.
        has_probe: whether the probe is fitted.
    """
    table, rows = study.table, []
    has_probe = has_probe and study.forget_request.kind in ("label", "class")
    predicted = {
        split: predict(model, table, table.rows(split)) for split in {*splits, *(PROBE_SPLITS if has_probe else ())}
    }
    for split in splits:
        indices = table.rows(split)
        logits = predicted[split][0].numpy()
        labels, mask = table.labels[indices].numpy(), study.mask[indices].numpy()
        if table.is_multi_label:
            scores = label_scores(logits, labels, table.label_names, mask)
        else:
            scores = class_scores(logits, labels[:, 0], table.class_names, mask[:, 0])
        rows += [{"split": split, "unit": "fraction", **row} for row in scores]
    if has_probe:
        features = {split: predicted[split][1].numpy() for split in PROBE_SPLITS}
        for metric, value in probe_scores(study, features).items():
            label = study.forgotten_names[0]
            rows.append({"split": "test", "label": label, "metric": metric, "value": value, "unit": "fraction"})
    return tidy(study, rows, method=method, reading=reading, seed=seed)


def probe_scores(study: Study, features: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return how well a linear probe reads the forgotten label or class from the penultimate features.

    Args:
        study: whose request names the label or class.
        features: (n, d) of the train split, on which the probe learns, and of the test split.
    """
    table, name = study.table, study.forgotten_names[0]
    if table.is_multi_label:
        target = table.labels[:, table.label_index(name)]
    else:
        target = (table.labels[:, 0] == table.class_index(name)).float()
    fit, test = ((features[split], target[table.rows(split)].numpy()) for split in PROBE_SPLITS)
    return linear_probe(*fit, *test, seed=0)


def time_rows(
    study: Study, seconds: float, *, method: str, reading: str = "-", seed: int | None = None, retrain_time_s: float
) -> pd.DataFrame:
    """Return the rows for seconds and for the speed-up over Retrain."""
    rows = [
        {"split": "-", "label": "-", "metric": "seconds", "value": seconds, "unit": "s"},
        {"split": "-", "label": "-", "metric": "speedup", "value": retrain_time_s / seconds, "unit": "x"},
    ]
    return tidy(study, rows, method=method, reading=reading, seed=seed)


def tidy(study: Study, rows: list[dict], *, method: str, reading: str = "-", seed: int | None = None) -> pd.DataFrame:
    """Return rows with the study's keys in front, columns as in `reporting.SCORE_COLUMNS`."""
    keys = {
        "profile": study.profile,
        "dataset": study.dataset,
        "model": study.architecture,
        "request": study.request,
        "seed": study.seed if seed is None else seed,
        "method": method,
        "reading": reading,
    }
    return pd.DataFrame([{**keys, **row} for row in rows])[list(SCORE_COLUMNS)]


def headline(study: Study, scores: pd.DataFrame) -> dict[str, float]:
    """Return the five numbers by which a method is judged, on the test split, nan where one has no meaning.

    retained_accuracy; recall, AUC and balanced accuracy of the forgotten entries; the probe's AUC.
    """
    test = scores[scores.split == "test"].set_index(["label", "metric"]).value
    name = study.forgotten_names[0] if study.forgotten_names else "forgotten"
    prefix = "forgotten_" if study.forget_request.kind == "partial" else ""

    def value(*keys: tuple[str, str]) -> float:
        return next((float(test[key]) for key in keys if key in test.index), float("nan"))

    return {
        "retained_accuracy": value(("retained", "accuracy")),
        "forget_recall": value((name, f"{prefix}recall"), ("forgotten", "recall"), ("forgotten", "accuracy")),
        "forget_auc": value((name, f"{prefix}auc"), ("forgotten", "auc")),
        "forget_balanced_accuracy": value((name, f"{prefix}balanced_accuracy"), ("forgotten", "balanced_accuracy")),
        "probe_auc": value((name, "probe_auc")),
    }


def probabilities(study: Study, model: nn.Module, rows: torch.Tensor) -> np.ndarray:
    """Return the predicted probability of each label or class, (len(rows), num_outputs)."""
    logits = predict_logits(model, study.table, rows)
    return (logits.sigmoid() if study.table.is_multi_label else logits.softmax(1)).numpy()


@cache
def _training_code_sha256() -> str:
    """Return the digest of the modules that decide what training gives."""
    package = Path(__file__).parent
    files = [package / f"{name}.py" for name in ("training", "models", "requests", "runtime", "experiments")]
    digest = hashlib.sha256()
    for file in sorted([*files, *(package / "data").glob("*.py")]):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _retained_accuracy(study: Study, model: nn.Module, rows: torch.Tensor) -> float:
    logits = predict_logits(model, study.table, rows, precision=study.number_format)
    labels, keep = study.table.labels[rows], ~study.mask[rows]
    if not study.table.is_multi_label:
        return float((logits.argmax(1, keepdim=True) == labels)[keep].float().mean())
    keep &= ~labels.isnan()
    return float(((logits > 0) == (labels > 0))[keep].float().mean())
