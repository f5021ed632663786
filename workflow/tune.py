"""Search hyperparameters with one budget for every method: `python workflow/tune.py --kind label`.

The search sees the original model and the validation split of the validation request (for people: and strangers, whom
the model has never met), nothing else: not the retrained model, not the test split, not the request of any table.
Every trial is kept in `data/tuning/<kind>.csv`; `experiments.tuned` chooses among them, so that the values in use
cannot drift from what was measured.
"""

import argparse
import json
import math
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import run
import torch
import yaml
from sklearn.metrics import roc_auc_score
from torch import nn
from tqdm import tqdm

from mlu_utils import data, experiments, paths
from mlu_utils.attacks.shadows import PEOPLE_RECIPE, Shadows, shares_right, train_shadows, unlearn_shadows
from mlu_utils.data.table import SPLITS
from mlu_utils.files import write_atomically
from mlu_utils.naming import require_choice
from mlu_utils.requests import image_losses
from mlu_utils.studies import Recipe, Study
from mlu_utils.training import NonFiniteLossError, predict_logits
from mlu_utils.unlearning import METHODS

# Method -> hyperparameter -> what to choose from.
SPACES: dict[str, dict[str, list | dict]] = yaml.safe_load((experiments.TUNING_FOLDER / "spaces.yaml").read_text())
# Under which number a method draws its points: its place here, so that the trials on disk stay what they are; a later
# method needs no place, it draws under a number of its name.
SEED_NUMBERS = (
    *("AdvNegGrad", "CF-k", "EU-k", "FT", "HeadReset", "NegGrad", "Retrain", "SCRUB", "SSD", "SalUn", "UNSIR", "WF"),
    *("WP", "EssentialGraph", "LAF"),
)
# What the search forgets, on models of these studies: other labels, classes, people and seeds than any table reports.
_DIGITS = {"dataset": "digits", "architecture": "small_cnn"}
_DIGITS["recipe"] = Recipe(num_epochs=30, learning_rate=0.05, is_augmented=False)
VALIDATION_STUDIES = {
    "label": Study("tuning", "label", dataset="orl", image_size=64, request="label:Bangs", seed=7),
    "class": Study("tuning", "class", request="class:8", seed=7, **_DIGITS),
    "images": Study("tuning", "images", request=f"images:{','.join(map(str, range(200)))}", seed=8, **_DIGITS),
}
# People of orl whose deletion notebook 06b does not report; each shadow network has never met half of them.
VALIDATION_PEOPLE = {
    "candidates": (4, 6, 7, 10, 14, 15, 16, 18, 20, 21, 25, 27, 30, 34, 35, 36, 39, 40),
    "num_units": 16,
    "images_per_person": 5,
    "num_shadows": 8,
    "seed": 107,
    "recipe": PEOPLE_RECIPE,
}
FACE_SIZE = 24  # px, height
KINDS = (*VALIDATION_STUDIES, "people")


def main(arguments: list[str] | None = None) -> int:
    """Search what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", required=True, help=f"of request: {', '.join(KINDS)}")
    parser.add_argument("--method", action="append", default=[], help="repeat for several; default: all")
    parser.add_argument("--trials", type=int, default=12, help="configurations a method, the default one included")
    options = parser.parse_args(arguments)

    def answer() -> None:
        file = search(options.kind, tuple(options.method), num_trials=options.trials)
        for method in options.method or searched(options.kind):
            print(f"{method:10} {experiments.tuned(method, options.kind) or 'its defaults'}")
        print(f"every trial: {file.relative_to(paths.ROOT)}")

    return run.exit_status(answer)


def searched(kind: str) -> list[str]:
    """Return the methods that take this kind of request and have something to search."""
    return [method for method in SPACES if kind in METHODS[method].kinds]


def configurations(method: str, num_trials: int, *, seed: int = 0) -> Iterator[dict]:
    """Yield the default ({}), then random points of the method's space; the same for the same seed."""
    require_choice("method with something to search", method, SPACES)
    for name in SPACES[method]:
        require_choice(f"hyperparameter of {method} in spaces.yaml", name, METHODS[method].hyperparameters)
    number = SEED_NUMBERS.index(method) if method in SEED_NUMBERS else zlib.crc32(method.encode())
    generator = np.random.default_rng([seed, number])
    yield {}
    for _ in range(num_trials - 1):
        point = {}
        for name, space in SPACES[method].items():
            if isinstance(space, list):
                point[name] = space[int(generator.integers(len(space)))]
            else:
                value = math.exp(generator.uniform(math.log(space["low"]), math.log(space["high"])))
                point[name] = float(f"{value:.1e}")
        if method == "WP":
            point["beta"] = 1 - point["alpha"]
        yield point


def objective(study: Study, model) -> dict[str, float]:
    """Return how good an unlearned model is on the validation split, without a look at Retrain: all in [0, 1].

    objective = (retained_accuracy + forgetting) / 2. forgetting is, for a label, 1 - 2 |AUC - 1/2| of its logit (1 =
    says nothing); for a class, 1 - recall; for images, 1 - 2 |AUC - 1/2| of the loss between those of the images that
    were trained on and those in the validation split.
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
        forgotten = table.class_index(study.forget_request.name)
        own = table.labels[rows, 0] == forgotten
        forgetting = 1 - float((logits[own].argmax(1) == forgotten).float().mean())
    else:
        losses = []
        for split in ("train", "validation"):
            own = table.rows(split)
            own = own[study.mask[own].any(1)]
            losses.append(image_losses(predict_logits(model, table, own), table.labels[own]).numpy())
        is_member = np.repeat([1.0, 0.0], [len(part) for part in losses])
        forgetting = _says_nothing(is_member, np.concatenate(losses))
    return _objective(retained, forgetting)


def _objective(retained: float, forgetting: float) -> dict[str, float]:
    return {"objective": (retained + forgetting) / 2, "retained_accuracy": retained, "forgetting": forgetting}


def _says_nothing(labels: np.ndarray, scores: np.ndarray) -> float:
    known = ~np.isnan(labels)
    return _silence(roc_auc_score(labels[known], scores[known]))


def _silence(auc: float) -> float:
    """Return 1 for an AUC of one half, which says nothing, down to 0 for one that says all, also read backwards."""
    return 1 - 2 * abs(auc - 0.5)


def train_people(**change) -> Shadows:
    """Return shadow networks, each of which has learned half of the validation people."""
    return train_shadows(data.load("orl", size=FACE_SIZE), "small_cnn", kind="people", **(VALIDATION_PEOPLE | change))


def people_objective(trained: Shadows, networks: list[nn.Module]) -> dict[str, float]:
    """Return how well networks have forgotten people, without a look at Retrain or the test split: all in [0, 1].

    objective = (retained_accuracy + forgetting) / 2. retained_accuracy: share of the known labels that is right on
    validation photos of people whom no request names. forgetting: 1 - 2 |AUC - 1/2| of the loss between the people
    that a network was made to forget and those it has never met, mean over the networks; once on the photos that were
    learned and once on validation photos of the same people, mean of both. Networks come in pairs that learned
    complementary halves, so that nobody's being hard to call favours either side. `networks` are those of `trained`
    after unlearning.
    """
    table = trained.table
    is_validation = table.split == SPLITS.index("validation")
    others = is_validation[trained.other_rows]
    forgetting = []
    for rows, unit in (
        (trained.target_rows, trained.target_units),
        (trained.other_rows[others], trained.other_units[others.numpy()]),
    ):
        loss = [image_losses(predict_logits(each, table, rows), table.labels[rows]).numpy() for each in networks]
        aucs = [roc_auc_score(met[unit], own) for met, own in zip(trained.is_member, loss, strict=True)]
        forgetting.append(_silence(float(np.mean(aucs))))
    bystanders = (is_validation & ~torch.isin(table.identity, trained.units)).nonzero().flatten()
    return _objective(float(shares_right(networks, table, bystanders).mean()), float(np.mean(forgetting)))


def search(kind: str, methods: tuple[str, ...] = (), *, num_trials: int = 12) -> Path:
    """Try `num_trials` configurations of each method (all by default) and return the file, whose other rows stay."""
    require_choice("kind of validation request", kind, KINDS)
    points = {method: list(configurations(method, num_trials)) for method in methods or searched(kind)}
    attempt = _attempt(kind)
    file = experiments.TUNING_FOLDER / f"{kind}.csv"
    for method, own in points.items():
        trials = []
        for number, point in enumerate(tqdm(own, desc=f"{kind}: {method}", disable=None, leave=False)):
            try:
                values = attempt(method, point)
            except NonFiniteLossError:  # a rate too high: the worst there is
                values = _objective(0.0, 0.0) | {"seconds": math.nan}
            trials.append({"method": method, "trial": number, "hyperparameters": json.dumps(point), **values})
        table = pd.DataFrame(trials)
        if file.exists():
            others = pd.read_csv(file)
            table = pd.concat([others[others.method != method], table])
        write_atomically({file: table.to_csv(index=False, lineterminator="\n").encode()})
        experiments.read_trials.cache_clear()
    return file


def _attempt(kind: str) -> Callable[[str, dict], dict[str, float]]:
    """Return method, hyperparameters -> objective and seconds of one network, on models that are trained now."""
    study = VALIDATION_STUDIES.get(kind)
    trained = experiments.reference_model(study, "original").model if study else train_people()

    def attempt(method: str, point: dict) -> dict[str, float]:
        if study:
            made = experiments.run_method(study, trained, method, "targeted", point, study.seed + 1, is_timed=False)
            return objective(study, made.model) | {"seconds": made.unlearning_time_s}
        start = time.perf_counter()
        networks = unlearn_shadows(trained, method, point)
        seconds = (time.perf_counter() - start) / len(networks)
        return people_objective(trained, networks) | {"seconds": seconds}

    return attempt


if __name__ == "__main__":
    sys.exit(main())
