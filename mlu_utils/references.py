"""A study, and the two models that everything is judged against: the original and the retrained one.

A study is a data set, a network, a request and a seed. Its reference models are trained once and kept on disk, named
by what they depend on. Nothing here unlearns or scores a method.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from mlu_utils import data, paths
from mlu_utils.data.batches import Augmentation
from mlu_utils.data.table import ImageTable
from mlu_utils.models import build_model, load_checkpoint, save_checkpoint
from mlu_utils.requests import ForgetRequest
from mlu_utils.devices import FP32, Precision, environment_record, resolve_device, resolve_precision
from mlu_utils.training import fit, right_entries

# A pass over the validation images took 9 % of an epoch's time (orl, ResNet-18); each fifth epoch shows the same curve.
EPOCHS_BETWEEN_VALIDATIONS = 5


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
        """The number format of forward and backward passes; `auto` is fp32 for the small network.

        Its epoch on the digits took .58 s in bf16 and .64 s in fp32 on an idle core, but beside other processes
        two threads needed 12 s and .3 s: bf16 kernels wait for each other by spinning.
        """
        is_small = self.architecture == "small_cnn" and self.precision == "auto"
        return FP32 if is_small else resolve_precision(self.precision, self.torch_device)

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
    history: pd.DataFrame  # one row an epoch: epoch, retain_loss, seconds, validation_accuracy (nan: not measured)
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
    identity = {**identity_of(study), "request": study.request if name == "retrained" else None}
    file = checkpoint_path(study, name, identity)
    if is_reused and file.is_file():
        model, facts = load_checkpoint(file, architecture=study.architecture)
        history = pd.DataFrame(facts["history"])
        return TrainedModel(model.to(study.torch_device), history, facts["training_time_s"], True)

    table = study.table
    mask = study.mask if name == "retrained" else torch.zeros_like(study.mask)
    model = build_model(study.architecture, table.num_outputs, seed=study.seed).to(study.torch_device)
    validation = table.rows("validation")

    def add_accuracy(m: nn.Module, record: dict) -> None:
        if record["epoch"] % EPOCHS_BETWEEN_VALIDATIONS and record["epoch"] != study.recipe.num_epochs:
            return
        right = right_entries(m, table, validation, ~mask[validation], precision=study.number_format)
        record["validation_accuracy"] = float(right.float().mean())

    records = fit(
        model,
        table,
        mask=mask,
        seed=study.seed,
        precision=study.number_format,
        description=f"training {name}",
        after_epoch=add_accuracy,
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


def identity_of(study: Study) -> dict:
    """Return all that a model of this study depends on, the request apart: what checkpoints are named by."""
    return {
        "table": study.table.sha256,
        "recipe": asdict(study.recipe),
        "seed": study.seed,
        "precision": study.number_format.name,
        "architecture": study.architecture,
        "device": study.torch_device.type,
        "code": code_sha256("training", "models", "requests", "runtime", "references", "data"),
    }


def checkpoint_path(study: Study, name: str, identity: Mapping[str, Any]) -> Path:
    """Return the file `<name>-<digest of the identity>` among the models of the study's profile."""
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    return paths.RUNS / study.profile / "models" / f"{name}-{key}.safetensors"


@cache
def code_sha256(*names: str) -> str:
    """Return the digest of these modules and subpackages of the package."""
    package, digest = Path(__file__).parent, hashlib.sha256()
    files = {file for name in names for file in (package / f"{name}.py", *(package / name).glob("*.py"))}
    for file in sorted(files):
        if file.is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()
