"""What notebooks and the command line do with a study: make models, score any of them the same way, compare methods.

Models are kept on disk, named by all that they depend on; what is there is not made again.
"""

import inspect
import json
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cache

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from mlu_utils import paths
from mlu_utils.checkpoints import checkpoint_key, load_checkpoint, save_checkpoint
from mlu_utils.devices import environment_record
from mlu_utils.digests import code_digest
from mlu_utils.models import build_model
from mlu_utils.naming import require_choice
from mlu_utils.requests import image_losses
from mlu_utils.results.scores import NOT_UNLEARNED, SCORE_COLUMNS, method_display, read_scores
from mlu_utils.scoring import audit, membership
from mlu_utils.scoring.arrays import refuse_shared
from mlu_utils.scoring.nomus import SMALLEST, attack_null, balanced_attack, benchmark_attack, matched_rows, nomus
from mlu_utils.scoring.probe import linear_probe
from mlu_utils.scoring.utility import class_scores, label_scores, reassign_removed_class
from mlu_utils.studies import Study
from mlu_utils.training import fit, predict, predict_logits, right_entries, rows_with_entries
from mlu_utils.unlearning import METHODS, require_method, unlearn

# A pass over the validation images took 9 % of an epoch's time (orl, ResNet-18); each fifth epoch shows the same curve.
EPOCHS_BETWEEN_VALIDATIONS = 5
SCORED_SPLITS = ("train", "validation", "test")
PROBE_SPLITS = ("train", "test")  # where the probe learns and is scored
SHADOW_SPLITS = ("validation", "test")  # what the secondary verification looks at
VERIFICATION = {"max_attribute_auc": 0.6, "max_excess_auc": 0.05, "max_membership_auc": 0.6, "num_resamples": 300}
MAIN_READINGS = ("-", "targeted")  # the one by which a method is judged; the others are controls

# Every trial of the search, `<kind>.csv`, written by workflow/tune.py. Kinds that were not searched take the nearest.
TUNING_FOLDER = paths.DATA / "tuning"
NEAREST_KIND = {"partial": "label"}
TOLERANCE = 0.02  # two standard errors of the difference of two objectives over 700 validation entries
PASSES = ("num_epochs", "impair_epochs", "repair_epochs", "msteps")  # hyperparameters that count passes over images


# --- Models of a study -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainedModel:
    """A reference model with how it came about."""

    model: nn.Module
    history: pd.DataFrame  # one row an epoch: epoch, retain_loss, seconds, validation_accuracy (nan: not measured)
    training_time_s: float  # without the validation passes
    is_from_disk: bool


@dataclass(frozen=True)
class UnlearnedModel:
    """What a method made, and its cost."""

    model: nn.Module
    reading: str  # "-" for a method without readings
    unlearning_time_s: float
    first_call_s: float  # of an untimed first run, which pays for a cold start as well


def reference_model(study: Study, name: str, *, is_reused: bool = True) -> TrainedModel:
    """Return `original` or `retrained`, from the checkpoint of the very same training if there is one and `is_reused`.

    Studies that differ in the request only share their original.
    """
    require_choice("reference model", name, ("original", "retrained"))

    def train() -> tuple[nn.Module, dict]:
        table = study.table
        mask = study.mask if name == "retrained" else torch.zeros_like(study.mask)
        model = build_model(study.architecture, table.num_outputs, seed=study.seed).to(study.torch_device)
        validation = table.rows("validation")

        def add_accuracy(m: nn.Module, record: dict) -> None:
            is_due = record["epoch"] % EPOCHS_BETWEEN_VALIDATIONS == 0 or record["epoch"] == study.recipe.num_epochs
            if not is_due or not len(validation):  # data sets as distributed may have no validation split
                return
            right = right_entries(m, table, validation, ~mask[validation], precision=study.number_format)
            record["validation_accuracy"] = float(right.float().mean())

        history = fit(
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
        return model, {"history": history, "training_time_s": sum(record["seconds"] for record in history)}

    facts = {"request": study.request if name == "retrained" else None}
    model, record, is_from_disk = _load_or_make(study, name, facts, train, is_reused)
    return TrainedModel(model, pd.DataFrame(record["history"]), record["training_time_s"], is_from_disk)


def run_method(
    study: Study, original: nn.Module, method: str, reading: str, parameters: dict, seed: int, *, is_timed: bool = True
) -> UnlearnedModel:
    """Run a method on its parameters, by name, and the reading where it has several.

    A timed method runs twice, and both times are reported: the first run also pays for memory and kernels.
    """
    options = _options(method, reading, parameters)
    seconds = []
    for _ in range(2 if is_timed else 1):
        model, record = unlearn(
            method, original, study.table, study.forget_request, seed=seed, precision=study.number_format, **options
        )
        seconds.append(record.unlearning_time_s)
    return UnlearnedModel(model, options.get("reading", "-"), seconds[-1], seconds[0])


def unlearned_model(
    study: Study, method: str, reading: str, parameters: dict, seed: int, *, is_reused: bool = True
) -> UnlearnedModel:
    """Return what an untimed `run_method` makes of the original, or its checkpoint with the time of its own run."""
    options = _options(method, reading, parameters)

    def run() -> tuple[nn.Module, dict]:
        original = reference_model(study, "original").model
        made = run_method(study, original, method, reading, parameters, seed, is_timed=False)
        return made.model, {"unlearning_time_s": made.unlearning_time_s}

    facts = {
        "request": study.request,
        "method": method,
        "options": {name: str(value) for name, value in options.items()},
        "unlearning_seed": seed,
        "unlearning_code": code_digest(source=inspect.getsource(inspect.getmodule(require_method(method).function))),
    }
    model, record, _ = _load_or_make(study, f"unlearned-{method}", facts, run, is_reused)
    seconds = record["unlearning_time_s"]
    return UnlearnedModel(model, options.get("reading", "-"), seconds, seconds)


def _load_or_make(
    study: Study, name: str, facts: dict, make: Callable[[], tuple[nn.Module, dict]], is_reused: bool
) -> tuple[nn.Module, dict, bool]:
    """Return a model, its record and whether it came from disk; what is made goes to `runs/<profile>/models/`."""
    facts = {
        "table": study.table.sha256,
        "recipe": asdict(study.recipe),
        "seed": study.seed,
        "precision": study.number_format.name,
        "architecture": study.architecture,
        "device": study.torch_device.type,
        "training_code": code_digest("mlu_utils.training", "mlu_utils.models", "mlu_utils.data"),
        **facts,
    }
    file = paths.RUNS / study.profile / "models" / f"{name}-{checkpoint_key(facts)}.safetensors"
    if is_reused and file.is_file():
        try:
            model, record = load_checkpoint(file, facts=facts)
            return model.to(study.torch_device), record, True
        except ValueError as error:
            warnings.warn(f"{error}. It is made again now.", stacklevel=3)
    model, record = make()
    save_checkpoint(file, model, {"facts": facts, "environment": environment_record(study.torch_device), **record})
    return model, record, False


def _options(method: str, reading: str, parameters: dict) -> dict:
    """Return the method's arguments among the parameters, and the reading where it has several."""
    entry = require_method(method)
    options = {name: parameters[name] for name in entry.hyperparameters if name in parameters}
    return options if entry.readings == ("-",) else options | {"reading": reading}


# --- Hyperparameters -------------------------------------------------------------------------------------------


def tuned(method: str, kind: str, max_epochs: int | None = None) -> dict:
    """Return the hyperparameters that the search chose for a kind of request; {} for a method without a search.

    Chosen is the quickest of the trials whose objective lies within `TOLERANCE` of the best trial's, and each of its
    two parts within twice that: so small a difference is within the luck of the validation split, and a deletion has a
    deadline. Of those within 10 % of the quickest time, which is its noise, the best. `max_epochs` cuts every number
    of passes over the images above it, the method's own defaults as well; None: as tuned. A kind that was never
    searched is refused.
    """
    if max_epochs is not None and max_epochs < 1:
        raise ValueError(f"max_epochs must be at least 1, or None for as many passes as tuned, got {max_epochs}")
    defaults, chosen = require_method(method).hyperparameters, {}
    trials = read_trials(NEAREST_KIND.get(kind, kind))
    own = trials[trials.method == method]
    if len(own):
        best = own.loc[own.objective.idxmax()]
        good = own[
            (own.objective >= best.objective - TOLERANCE)
            & (own.retained_accuracy >= best.retained_accuracy - 2 * TOLERANCE)
            & (own.forgetting >= best.forgetting - 2 * TOLERANCE)
        ]
        quick = good[good.seconds <= 1.1 * good.seconds.min()]
        chosen = json.loads(quick.loc[quick.objective.idxmax(), "hyperparameters"])
    if max_epochs is None:
        return chosen
    return chosen | {name: min((defaults | chosen)[name], max_epochs) for name in PASSES if name in defaults}


@cache
def read_trials(kind: str) -> pd.DataFrame:
    """Return all trials of one kind of request."""
    file = TUNING_FOLDER / f"{kind}.csv"
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: run python workflow/tune.py --kind {kind}")
    return pd.read_csv(file)


# --- Methods side by side --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """What `compare` found."""

    scores: pd.DataFrame  # tidy rows of every run
    outputs: dict[str, np.ndarray]  # `probabilities` of the test images: Original, Retrain and each method
    settings: dict[str, dict]  # method -> the hyperparameters it ran with, where they are not its defaults


def plan_settings(study: Study) -> dict[str, dict]:
    """Return method -> tuned hyperparameters, of the study's plan without Retrain; an empty plan holds all that can."""
    kind = study.forget_request.kind
    names = [name for name in study.methods or METHODS if kind in require_method(name).kinds and name != "Retrain"]
    return {name: tuned(name, kind, study.max_epochs) for name in names}


def compare(study: Study, original: TrainedModel, retrained: TrainedModel) -> Comparison:
    """Run every method of the study's plan, score each run and keep what later notebooks need.

    The main reading of a method runs once for each unlearning seed; other readings, `one_seed_methods` and the head
    reset, which draws nothing at random, run with the first only. Further Retrains follow, one for each of
    `retrain_seeds`. A first run of WP is thrown away: it would pay for a cold start, see `run_method`. Models of
    `kept_methods` stay on disk for `unlearned_model`.
    """
    settings, (first, *_) = plan_settings(study), study.unlearning_seeds
    plan = []
    for name in settings:
        for reading in METHODS[name].readings:
            is_repeated = reading in MAIN_READINGS and name not in ("HeadReset", *study.one_seed_methods)
            plan += [(name, reading, seed) for seed in (study.unlearning_seeds if is_repeated else (first,))]
    plan += [("Retrain", "-", seed) for seed in study.retrain_seeds]

    test = study.table.rows("test")
    references = {"Original": original.model, "Retrain": retrained.model}
    outputs = {name: probabilities(study, model, test) for name, model in references.items()}
    scores = []
    if "WP" in settings:
        run_method(study, original.model, "WP", "targeted", settings["WP"], 0, is_timed=False)
    for name, reading, seed in tqdm(plan, desc=f"{study.name}: methods", unit="run", disable=None, leave=False):
        values = study.recipe.fit_options() if name == "Retrain" else settings[name]
        is_main = reading in MAIN_READINGS and seed == first
        if is_main and name in study.kept_methods:
            made = unlearned_model(study, name, reading, values, seed, is_reused=False)
        else:
            made = run_method(study, original.model, name, reading, values, seed, is_timed=False)
        scores.append(_scored(study, made, name, retrained, seed))
        if is_main and name not in outputs:
            outputs[name] = probabilities(study, made.model, test)
    return Comparison(pd.concat(scores), outputs, settings)


def compare_readings(
    study: Study,
    original: TrainedModel,
    retrained: TrainedModel,
    method: str,
    parameters: dict,
    seed: int,
    *,
    has_control: bool = False,
) -> tuple[dict[str, UnlearnedModel], pd.DataFrame]:
    """Run a method once for each reading, and maybe the head reset; return reading -> model, and the rows of all."""
    made = {
        reading: run_method(study, original.model, method, reading, parameters, seed, is_timed=False)
        for reading in require_method(method).readings
    }
    scores = [_scored(study, each, method, retrained) for each in made.values()]
    if has_control and study.forget_request.kind in METHODS["HeadReset"].kinds:
        control = run_method(study, original.model, "HeadReset", "-", parameters, seed)
        scores.append(_scored(study, control, "HeadReset", retrained))
    return made, pd.concat(scores)


def reference_scores(
    study: Study, original: TrainedModel, retrained: TrainedModel, *, is_reused: bool = True
) -> pd.DataFrame:
    """Return the tidy rows of Original and Retrain: those that notebook 02 wrote, where they are there and reused."""
    file = study.folder / "scores_02.csv"
    if is_reused and file.is_file():
        return read_scores(file)
    as_made = UnlearnedModel(retrained.model, "-", retrained.training_time_s, retrained.training_time_s)
    return pd.concat(
        [score_rows(study, original.model, method="Original"), _scored(study, as_made, "Retrain", retrained)]
    )


def headlines(study: Study, scores: pd.DataFrame, **models: nn.Module) -> pd.DataFrame:
    """Return one row a run: its `headline`, seconds and speed-up over Retrain; `models`, without a time, come first."""
    names, rows = [], []
    for name, model in models.items():
        names.append(name)
        rows.append(headline(study, score_rows(study, model, method=name, splits=("test",))))
    for (method, reading, _), part in scores.groupby(["method", "reading", "unlearning_seed"], sort=False):
        costs = part[part.metric.isin(("seconds", "speedup"))].set_index("metric").value
        names.append(method_display(method, reading))
        rows.append(headline(study, part) | costs.to_dict())
    return pd.DataFrame(rows, index=names)


def _scored(
    study: Study, made: UnlearnedModel, method: str, retrained: TrainedModel, seed: int = NOT_UNLEARNED
) -> pd.DataFrame:
    keys = {"method": method, "reading": made.reading, "unlearning_seed": seed}
    seconds = made.unlearning_time_s
    times = [
        {"split": "-", "label": "-", "metric": "seconds", "value": seconds, "unit": "s"},
        {"split": "-", "label": "-", "metric": "speedup", "value": retrained.training_time_s / seconds, "unit": "x"},
    ]
    return pd.concat([score_rows(study, made.model, **keys), tidy(study, times, **keys)])


# --- Scores of one model ---------------------------------------------------------------------------------------


def score_rows(study: Study, model: nn.Module, *, splits: Iterable[str] = SCORED_SPLITS, **keys) -> pd.DataFrame:
    """Return the tidy rows of a model: every score of `scoring.utility` per split, and of a label or class the probe.

    The model runs in the study's number format, in which it was trained. The probe learns on the features of the
    train split and is scored on the test split. `keys` of the rows: see `tidy`.
    """
    table, rows = study.table, []
    has_probe = study.forget_request.kind in ("label", "class")
    predicted = {
        split: predict(model, table, table.rows(split), precision=study.number_format)
        for split in {*splits, *(PROBE_SPLITS if has_probe else ())}
    }
    for split in splits:
        scores = utility_rows(study, table.rows(split), predicted[split][0])
        rows += [{"split": split, "unit": "fraction", **row} for row in scores]
    for label in study.forgotten_names if has_probe else ():
        # Of a class, the mask says where it is.
        target = table.labels[:, table.label_index(label)] if table.is_multi_label else study.mask[:, 0].float()
        known = [(predicted[split][1].numpy(), target[table.rows(split)].numpy()) for split in PROBE_SPLITS]
        for metric, value in linear_probe(*known[0], *known[1], seed=0).items():
            rows.append({"split": "test", "label": label, "metric": metric, "value": value, "unit": "fraction"})
    return tidy(study, rows, **keys)


def utility_rows(study: Study, rows: torch.Tensor, logits: torch.Tensor) -> list[dict]:
    """Return every score of `scoring.utility` of logits (n, num_outputs) of these rows as {label, metric, value}.

    Of ordered classes also the accuracy with the removed class's images counted to the nearest class that is left,
    as label `reassigned`.
    """
    table = study.table
    labels, mask = table.labels[rows].numpy(), study.mask[rows].numpy()
    if table.is_multi_label:
        return label_scores(logits.numpy(), labels, table.label_names, mask)
    scores = class_scores(logits.numpy(), labels[:, 0], table.class_names, mask[:, 0])
    if study.forget_request.kind == "class" and table.class_positions:
        removed = table.class_index(study.forget_request.name)
        goals = reassign_removed_class(labels[:, 0], removed, table.class_positions)
        value = float((logits.argmax(1).numpy() == goals).mean())
        scores.append({"label": "reassigned", "metric": "accuracy", "value": value})
    return scores


def tidy(
    study: Study, rows: list[dict], *, method: str, reading: str = "-", unlearning_seed: int = NOT_UNLEARNED
) -> pd.DataFrame:
    """Return rows under the keys of their study and run, columns as in `results.SCORE_COLUMNS`."""
    keys = {
        "profile": study.profile,
        "dataset": study.dataset,
        "model": study.architecture,
        "request": study.request,
        "seed": study.seed,
        "unlearning_seed": unlearning_seed,
        "method": method,
        "reading": reading,
    }
    return pd.DataFrame([{**keys, **row} for row in rows])[list(SCORE_COLUMNS)]


def headline(study: Study, scores: pd.DataFrame) -> dict[str, float]:
    """Return the five numbers by which a method is judged, on the test split, nan where one has no meaning.

    retained_accuracy; recall, AUC and balanced accuracy of the forgotten entries; the probe's AUC; the last four are
    means over the labels of a request that names several.
    """
    test = scores[scores.split == "test"].set_index(["label", "metric"]).value
    names = study.forgotten_names or ("forgotten",)
    prefix = "forgotten_" if study.forget_request.kind == "partial" else ""

    def value(*keys: tuple[str, str]) -> float:
        return next((float(test[key]) for key in keys if key in test.index), float("nan"))

    def mean(metric: str, *others: tuple[str, str], prefix: str = prefix) -> float:
        return float(np.mean([value((name, prefix + metric), *others) for name in names]))

    return {
        "retained_accuracy": value(("retained", "accuracy")),
        "forget_recall": mean("recall", ("forgotten", "recall"), ("forgotten", "accuracy")),
        "forget_auc": mean("auc", ("forgotten", "auc")),
        "forget_balanced_accuracy": mean("balanced_accuracy", ("forgotten", "balanced_accuracy")),
        "probe_auc": mean("probe_auc", prefix=""),
    }


def benchmark_scores(study: Study, model: nn.Module, *, num_draws: int = 10) -> dict[str, float]:
    """Return what the identity benchmark asks of a model that was told to forget people or images.

    test_accuracy over the known labels of the test split, and majority_accuracy, what the commoner value of each label
    in training scores there; top2_accuracy of classes; mia_accuracy of the attack by loss between training images to
    forget and images that nobody trained on (the unseen split, else the test split, without images that the request
    covers); mia_matched, the same with equal labels on both sides; mia_null, between halves of the unseen; and nomus.
    Attacks on fewer than ten images of a side are nan.

    Source: Choi and Na (2023), see `scoring.nomus`. Differs: both sides of the attack have equally many images, mean
    over `num_draws`; majority, matched attack and null stand beside the scores.
    """
    table, labels = study.table, study.table.labels
    train, test, unseen = (table.rows(split) for split in ("train", "test", "unseen"))
    forget = rows_with_entries(table, train, ~study.mask)
    unseen = rows_with_entries(table, unseen if len(unseen) else test, study.mask)

    def logits(rows: torch.Tensor) -> torch.Tensor:
        return predict_logits(model, table, rows, precision=study.number_format)

    scores, predicted = {}, logits(test)
    if table.is_multi_label:
        known = ~labels[test].isnan()
        accuracy = ((predicted > 0) == (labels[test] > 0))[known].float().mean()
        majority = ((labels[train].nanmean(0) > 0.5) == (labels[test] > 0))[known].float().mean()
    else:
        accuracy = (predicted.argmax(1) == labels[test, 0]).float().mean()
        majority = (labels[test, 0] == labels[train, 0].bincount().argmax()).float().mean()
        scores["top2_accuracy"] = float((predicted.topk(2, 1).indices == labels[test]).any(1).float().mean())
    scores |= {"test_accuracy": float(accuracy), "majority_accuracy": float(majority)}
    members, others = (image_losses(logits(rows), labels[rows]).numpy() for rows in (forget, unseen))
    paired = matched_rows(labels[forget].numpy(), labels[unseen].numpy())
    found = {
        "mia_accuracy": lambda: balanced_attack(members, others, num_draws=num_draws)["mia_accuracy"],
        "mia_matched": lambda: benchmark_attack(members[paired[0]], others[paired[1]])["mia_accuracy"],
        "mia_null": lambda: attack_null(others, num_splits=num_draws)["mia_null"],
    }
    sizes = (min(len(members), len(others)), len(paired[0]), len(others) // 2)
    for (name, attack), size in zip(found.items(), sizes, strict=True):
        scores[name] = attack() if size >= SMALLEST else float("nan")
    is_attacked = sizes[0] >= SMALLEST
    return scores | {"nomus": nomus(float(accuracy), scores["mia_accuracy"]) if is_attacked else float("nan")}


def probabilities(study: Study, model: nn.Module, rows: torch.Tensor) -> np.ndarray:
    """Return the predicted probability of each label or class, (len(rows), num_outputs)."""
    logits = predict_logits(model, study.table, rows, precision=study.number_format)
    return (logits.sigmoid() if study.table.is_multi_label else logits.softmax(1)).numpy()


def verify(
    study: Study, model: nn.Module, retrained: nn.Module, *, used_splits: Iterable[str] = ("train",), **options
) -> pd.DataFrame:
    """Return the paper's secondary verification of a model that was asked to forget a label, on shadow data.

    Shadow data are the images of `SHADOW_SPLITS` with a known retained label. The attribute attacker reads the
    forgotten label from the penultimate features; its mark is what it reads from the retrained model's. The membership
    attacker tells training images from shadow images by the loss on the retained labels: a label request removes no
    image, so that this attack may succeed, on Retrain as well.

    Args:
        used_splits: splits that training, calibration or fine-tuning saw.
        **options: of `audit.verify_unlearning`: its seed, and what shall differ from `VERIFICATION`.

    Raises:
        ValueError: another kind of request, used splits among the shadow data; see `audit.verify_unlearning`.

    Source: Hossain et al. (2025), Algorithm 1, step 7. Differs: see `audit.verify_unlearning`.
    """
    if study.forget_request.kind != "label" or len(study.forgotten_names) > 1:
        raise ValueError(f"verification reads one forgotten label, got {study.request}: ask for label:<name>")
    table, column = study.table, study.table.label_index(study.forget_request.name)
    used, shadow, members = (
        rows_with_entries(table, torch.cat([table.rows(s) for s in splits]), study.mask)
        for splits in (used_splits, SHADOW_SPLITS, ("train",))
    )
    remedy = "verify on a split that nothing else saw"
    refuse_shared("shadow rows were used for learning or unlearning", shadow.numpy(), used.numpy(), remedy)
    rows = torch.cat([members, shadow])
    logits, features = predict(model, table, rows, precision=study.number_format)
    features, labels = features[len(members) :], table.labels[rows].numpy()
    phi = membership.label_confidence(np.delete(logits.numpy(), column, 1), np.delete(labels, column, 1))
    scores = -membership.confidence_loss(phi)
    mark = features if retrained is model else predict(retrained, table, shadow, precision=study.number_format)[1]
    return audit.verify_unlearning(
        features.numpy(),
        mark.numpy(),
        labels[len(members) :, column],
        identity=table.identity[shadow].numpy(),
        member_scores=scores[: len(members)],
        shadow_scores=scores[len(members) :],
        **(VERIFICATION | options),
    )
