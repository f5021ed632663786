"""Hyperparameters: searched with one budget for every method, on a request that is never reported.

The search sees the original model and the validation split of the validation request (for people: and strangers, whom
the model has never met), nothing else: not the retrained model, not the test split, not the request of any table.
Every trial is kept in `data/tuning/<kind>.csv`; the chosen values are read from there, so that they cannot drift from
what was measured.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from tqdm import tqdm

from mlu_utils import data, experiments, paths
from mlu_utils.data.table import SPLITS
from mlu_utils.naming import choices
from mlu_utils.references import Recipe, Study, reference_model
from mlu_utils.requests import entry_losses
from mlu_utils.attacks.shadows import Shadows, shares_right, train_shadows, unlearn_shadows
from mlu_utils.training import NonFiniteLossError, predict_logits
from mlu_utils.unlearning import METHODS, require_method

FOLDER = paths.DATA / "tuning"
TOLERANCE = 0.02  # two standard errors of the difference of two objectives over 700 validation entries
TRIAL_COLUMNS = ("method", "trial", "hyperparameters", "objective", "retained_accuracy", "forgetting", "seconds")


@dataclass(frozen=True)
class LogUniform:
    """Values between low and high, uniform in their logarithm, two significant digits."""

    low: float
    high: float


_RATE, _EPOCHS = LogUniform(1e-3, 1e-1), [1, 2, 4, 8]
# What is searched, method by method; everything else stays at the method's default, which is trial 0.
SPACES: dict[str, dict[str, LogUniform | list]] = {
    "FT": {"learning_rate": _RATE, "num_epochs": _EPOCHS},
    "CF-k": {"learning_rate": _RATE, "num_epochs": _EPOCHS, "k": [1, 2, 3], "momentum": [0.0, 0.9]},
    "EU-k": {"learning_rate": _RATE, "num_epochs": _EPOCHS, "k": [1, 2, 3]},
    "NegGrad": {"learning_rate": LogUniform(1e-5, 1e-2), "num_epochs": _EPOCHS, "batchnorm": ["train", "eval"]},
    "AdvNegGrad": {
        "learning_rate": _RATE,
        "num_epochs": _EPOCHS,
        "alpha": [0.5, 0.8, 0.95],
        "momentum": [0.0, 0.9],
        "batchnorm": ["train", "eval"],
    },
    "UNSIR": {
        "impair_learning_rate": _RATE,
        "repair_learning_rate": _RATE,
        "impair_epochs": [1, 2, 3],
        "noise_penalty": [0.1, 0.01, 0.001],
        "repair_epochs": [0, 1, 2],
    },
    "SCRUB": {
        "learning_rate": LogUniform(1e-4, 3e-2),
        "num_epochs": [2, 3, 5],
        "msteps": [1, 2, 3],
        "alpha": [0.001, 0.1, 0.5],
        "temperature": [2.0, 4.0],
    },
    "SalUn": {
        "learning_rate": _RATE,
        "num_epochs": _EPOCHS,
        "share": [0.1, 0.3, 0.5],
        "saliency": ["absolute", "signed", "relative"],
    },
    "SSD": {"alpha": LogUniform(0.1, 100), "dampening": [0.1, 0.5, 1.0]},
    "WF": {
        "forget_share": LogUniform(1e-4, 1e-1),
        "tau": LogUniform(1, 16),
        "epsilon": LogUniform(1e-3, 1e-1),
        "num_rounds": [1, 2, 4],
        "steps_per_round": [1, 2, 4],
    },
    "WP": {
        "forget_share": LogUniform(1e-4, 1e-1),
        "alpha": [0.25, 0.5, 0.75],
        "epsilon": LogUniform(1e-3, 1e-1),
        "num_rounds": [1, 2, 4],
        "steps_per_round": [1, 2, 4],
    },
}


@dataclass(frozen=True)
class ValidationRequest:
    """What the search forgets, and the recipe of the model it starts from."""

    dataset: str
    architecture: str
    request: str
    seed: int
    num_epochs: int
    image_size: int | None = None
    learning_rate: float = 0.01


# Other labels, classes, people and seeds than any table reports.
VALIDATION_REQUESTS = {
    "label": ValidationRequest("orl", "resnet18", "label:Bangs", seed=7, num_epochs=50, image_size=64),
    "class": ValidationRequest("digits", "small_cnn", "class:8", seed=7, num_epochs=30, learning_rate=0.05),
    "images": ValidationRequest(
        "digits",
        "small_cnn",
        "images:" + ",".join(map(str, range(200))),
        seed=8,
        num_epochs=30,
        learning_rate=0.05,
    ),
}


@dataclass(frozen=True)
class ValidationPeople:
    """People whom the search makes shadow networks forget; half of them each network has never met.

    Args:
        candidates: identities that they are drawn from.
        num_people, photos_per_person, num_shadows, seed: see `shadows.train_shadows`.
        image_size: height of the faces.
    """

    candidates: tuple[int, ...]
    num_people: int
    photos_per_person: int
    num_shadows: int
    seed: int
    image_size: int

    def train(self) -> Shadows:
        """Return the shadow networks, each of which has learned half of the people."""
        return train_shadows(
            data.load("orl", size=self.image_size),
            "small_cnn",
            kind="people",
            num_units=self.num_people,
            images_per_person=self.photos_per_person,
            num_shadows=self.num_shadows,
            recipe=PEOPLE_RECIPE,
            seed=self.seed,
            candidates=self.candidates,
        )


# People of orl whose deletion notebook 06 does not report.
VALIDATION_PEOPLE = ValidationPeople(
    candidates=(4, 6, 7, 10, 14, 15, 16, 18, 20, 21, 25, 27, 30, 34, 35, 36, 39, 40),
    num_people=16,
    photos_per_person=5,
    num_shadows=8,
    seed=107,
    image_size=24,
)
# How networks learn people from small faces, in the search and in notebook 06: small batches and a falling rate, so
# that they learn their labels.
PEOPLE_RECIPE = Recipe(num_epochs=16, batch_size=16, learning_rate=0.2, schedule="linear", is_augmented=False)
KINDS = (*VALIDATION_REQUESTS, "people")
# Kinds without a search of their own take the values of the nearest.
NEAREST_KIND = {"partial": "label"}
PASSES = ("num_epochs", "impair_epochs", "repair_epochs", "msteps")  # hyperparameters that count passes over images


def chosen(method: str, kind: str, max_epochs: int | None = None) -> dict:
    """Return the hyperparameters that the search chose for this kind of request; {} for a method without any to search.

    Chosen is the quickest of the trials whose objective lies within `TOLERANCE` of the best trial's, and each of its
    two parts within twice that: so small a difference is within the luck of the validation split, and a deletion has a
    deadline. Of those within 10 % of the quickest time, which is its noise, the best.

    Args:
        method: a name in `METHODS`.
        kind: of request.
        max_epochs: most passes over the images, at least 1; every number of passes above it is cut, where the method's
            own default stands as well. None: as tuned.

    Raises:
        FileNotFoundError: this kind was never searched.
        ValueError: unknown method, or one that was not part of the search, or max_epochs below 1.
    """
    if max_epochs is not None and max_epochs < 1:
        raise ValueError(f"max_epochs must be at least 1, or None for as many passes as tuned, got {max_epochs}")
    defaults = require_method(method).hyperparameters
    tuned = _tuned(method, kind) if method in SPACES else {}
    if max_epochs is None:
        return tuned
    return tuned | {name: min((defaults | tuned)[name], max_epochs) for name in PASSES if name in defaults}


def _tuned(method: str, kind: str) -> dict:
    trials = read_trials(NEAREST_KIND.get(kind, kind))
    own = trials[trials.method == method]
    if own.empty:
        raise ValueError(f"no trial of {method} for {kind} requests: run mlu tune --kind {kind} --method {method}")
    best = own.loc[own.objective.idxmax()]
    good = own[
        (own.objective >= best.objective - TOLERANCE)
        & (own.retained_accuracy >= best.retained_accuracy - 2 * TOLERANCE)
        & (own.forgetting >= best.forgetting - 2 * TOLERANCE)
    ]
    quick = good[good.seconds <= 1.1 * good.seconds.min()]
    return json.loads(quick.loc[quick.objective.idxmax(), "hyperparameters"])


@cache
def read_trials(kind: str) -> pd.DataFrame:
    """Return all trials of one kind of request."""
    file = FOLDER / f"{kind}.csv"
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: run mlu tune --kind {kind}")
    return pd.read_csv(file)


def configurations(method: str, num_trials: int, *, seed: int = 0) -> Iterator[dict]:
    """Yield the default ({}), then random points of the method's space; the same for the same seed.

    Raises:
        ValueError: a method without a space.
    """
    if method not in SPACES:
        raise ValueError(f"{method} has nothing to search: {choices(method, SPACES)}")
    generator = np.random.default_rng([seed, sorted(METHODS).index(method)])
    yield {}
    for _ in range(num_trials - 1):
        point = {}
        for name, space in SPACES[method].items():
            if isinstance(space, LogUniform):
                value = math.exp(generator.uniform(math.log(space.low), math.log(space.high)))
                point[name] = float(f"{value:.1e}")
            else:
                point[name] = space[int(generator.integers(len(space)))]
        if method == "WP":
            point["beta"] = 1 - point["alpha"]
        yield point


def objective(study: Study, model) -> dict[str, float]:
    """Return how good an unlearned model is on the validation split, without a look at Retrain: all in [0, 1].

    objective = (retained_accuracy + forgetting) / 2. forgetting is, for a label, 1 - 2 |AUC - 1/2| of its logit (1 =
    says nothing); for a class, 1 - recall; for images, 1 - 2 |AUC - 1/2| of the loss between those of the images that
    were trained on and those in the validation split. People: see `people_objective`.
    """
    table, rows = study.table, study.table.rows("validation")
    logits = predict_logits(model, table, rows)
    scores = experiments.utility_rows(study, rows, logits)
    retained = next(r["value"] for r in scores if (r["label"], r["metric"]) == ("retained", "accuracy"))
    kind = study.forget_request.kind
    if kind == "label":
        column = table.label_index(study.forget_request.name)
        forgetting = _says_nothing(table.labels[rows, column].numpy(), logits[:, column].numpy())
    elif kind == "class":
        own = table.labels[rows, 0] == table.class_index(study.forget_request.name)
        forgetting = 1 - float((logits[own].argmax(1) == table.class_index(study.forget_request.name)).float().mean())
    else:
        losses = []
        for split in ("train", "validation"):
            own = table.rows(split)
            own = own[study.mask[own].any(1)]
            losses.append(image_losses(predict_logits(model, table, own), table.labels[own]))
        is_member = np.repeat([1.0, 0.0], [len(part) for part in losses])
        forgetting = _says_nothing(is_member, np.concatenate(losses))
    return {"objective": (retained + forgetting) / 2, "retained_accuracy": retained, "forgetting": forgetting}


def _says_nothing(labels: np.ndarray, scores: np.ndarray) -> float:
    known = ~np.isnan(labels)
    return _silence(roc_auc_score(labels[known], scores[known]))


def _silence(auc: float) -> float:
    """Return 1 for an AUC of one half, which says nothing, down to 0 for one that says all, also read backwards."""
    return 1 - 2 * abs(auc - 0.5)


def people_objective(trained: Shadows, networks: list[nn.Module]) -> dict[str, float]:
    """Return how well networks have forgotten people, without a look at Retrain or the test split: all in [0, 1].

    objective = (retained_accuracy + forgetting) / 2. retained_accuracy: share of the known labels that is right on
    validation photos of people whom no request names. forgetting: 1 - 2 |AUC - 1/2| of the loss between the people
    that a network was made to forget and those it has never met, mean over the networks; once on the photos that were
    learned and once on validation photos of the same people, mean of both. Networks come in pairs that learned
    complementary halves, so that nobody's being hard to call favours either side.

    Args:
        trained: the shadows before.
        networks: the same after unlearning.
    """
    table = trained.table
    is_validation = table.split == SPLITS.index("validation")
    others = is_validation[trained.other_rows]
    forgetting = []
    for rows, unit in (
        (trained.target_rows, trained.target_units),
        (trained.other_rows[others], trained.other_units[others.numpy()]),
    ):
        loss = [image_losses(predict_logits(network, table, rows), table.labels[rows]) for network in networks]
        aucs = [roc_auc_score(met[unit], own) for met, own in zip(trained.is_member, loss, strict=True)]
        forgetting.append(_silence(float(np.mean(aucs))))
    bystanders = (is_validation & ~torch.isin(table.identity, trained.units)).nonzero().flatten()
    retained = float(shares_right(networks, table, bystanders).mean())
    forgotten = float(np.mean(forgetting))
    return {"objective": (retained + forgotten) / 2, "retained_accuracy": retained, "forgetting": forgotten}


def image_losses(logits: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    """Return each image's mean loss over its known labels, (B,)."""
    losses, known = entry_losses(logits, labels)
    return ((losses * known).sum(1) / known.sum(1)).numpy()


def search(kind: str, methods: tuple[str, ...] = (), *, num_trials: int = 12) -> Path:
    """Try `num_trials` configurations of each method on the validation request and write every trial down.

    Trials of methods that are searched again are replaced, others stay.

    Args:
        kind: one of `KINDS`.
        methods: default: all with a space.
        num_trials: the same for each method; the first is its default.

    Returns:
        The file of trials.

    Raises:
        ValueError: unknown kind or method.
    """
    if kind not in KINDS:
        raise ValueError(f"no validation request for kind {kind!r}: {choices(kind, KINDS)}")
    attempt = _people_trials() if kind == "people" else _request_trials(kind)
    file = FOLDER / f"{kind}.csv"
    for method in methods or tuple(SPACES):
        trials = []
        points = list(configurations(method, num_trials))
        for number, point in enumerate(tqdm(points, desc=f"{kind}: {method}", disable=None, leave=False)):
            try:
                values = attempt(method, point)
            except NonFiniteLossError:  # a rate too high: the worst there is
                values = {"objective": 0.0, "retained_accuracy": 0.0, "forgetting": 0.0, "seconds": float("nan")}
            trials.append({"method": method, "trial": number, "hyperparameters": json.dumps(point), **values})
        _write_trials(file, method, trials)
    return file


def _request_trials(kind: str) -> Callable[[str, dict], dict]:
    """Return method, hyperparameters -> objective and seconds, on a model trained for it."""
    wanted = VALIDATION_REQUESTS[kind]
    study = Study(
        profile="tuning",
        name=kind,
        dataset=wanted.dataset,
        architecture=wanted.architecture,
        request=wanted.request,
        seed=wanted.seed,
        recipe=Recipe(
            num_epochs=wanted.num_epochs, learning_rate=wanted.learning_rate, is_augmented=wanted.dataset != "digits"
        ),
        dataset_options={} if wanted.image_size is None else {"size": wanted.image_size},
    )
    original = reference_model(study, "original").model

    def attempt(method: str, point: dict) -> dict[str, float]:
        made = experiments.run_method(study, original, method, "targeted", point, study.seed + 1, is_timed=False)
        return objective(study, made.model) | {"seconds": made.unlearning_time_s}

    return attempt


def _people_trials() -> Callable[[str, dict], dict]:
    """Return the same for people, on shadows trained for it; seconds are those of one network."""
    trained = VALIDATION_PEOPLE.train()

    def attempt(method: str, point: dict) -> dict[str, float]:
        start = time.perf_counter()
        networks = unlearn_shadows(trained, method, point)
        seconds = (time.perf_counter() - start) / len(networks)
        return people_objective(trained, networks) | {"seconds": seconds}

    return attempt


def _write_trials(file: Path, method: str, trials: list[Mapping]) -> None:
    table = pd.DataFrame(trials, columns=list(TRIAL_COLUMNS))
    if file.exists():
        others = pd.read_csv(file)
        table = pd.concat([others[others.method != method], table])
    file.parent.mkdir(parents=True, exist_ok=True)
    half_written = file.with_suffix(".tmp")
    table.to_csv(half_written, index=False, lineterminator="\n")
    half_written.replace(file)
    read_trials.cache_clear()
