"""What notebooks and the command line do with a study: run a method, score any model the same way, write tidy rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from mlu_utils.models import load_checkpoint, save_checkpoint
from mlu_utils.references import Study, checkpoint_path, code_sha256, identity_of, reference_model
from mlu_utils.results.reporting import NOT_UNLEARNED, SCORE_COLUMNS
from mlu_utils.scoring import audit, membership
from mlu_utils.scoring.ordinal import reassign_removed_class
from mlu_utils.scoring.probe import linear_probe
from mlu_utils.scoring.utility import class_scores, label_scores
from mlu_utils.training import predict, predict_logits, rows_with_entries
from mlu_utils.unlearning import require_method, unlearn

SCORED_SPLITS = ("train", "validation", "test")
PROBE_SPLITS = ("train", "test")  # where the probe learns and is scored
SHADOW_SPLITS = ("validation", "test")  # what the secondary verification looks at


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
    used, options = _options(study, method, reading, parameters)
    runs = [
        unlearn(method, original, study.table, study.forget_request, seed=seed, **options)
        for _ in range(2 if is_timed else 1)
    ]
    seconds = [record.unlearning_time_s for _, record in runs]
    return UnlearnedModel(runs[-1][0], used, seconds[-1], seconds[0])


def unlearned_model(
    study: Study, method: str, reading: str, parameters: Mapping[str, Any], seed: int, *, is_reused: bool = True
) -> UnlearnedModel:
    """Return what an untimed `run_method` makes of the study's original, from its checkpoint where there is one.

    Checkpoints lie beside those of the reference models and are named likewise; the time is that of the run that
    made them.

    Args:
        study, method, reading, parameters, seed: see `run_method`.
        is_reused: False runs the method even so, for a timing of this run.
    """
    used, options = _options(study, method, reading, parameters)
    identity = {
        **identity_of(study),
        "request": study.request,
        "method": method,
        "options": {name: str(value) for name, value in options.items()},
        "unlearning_seed": seed,
        "unlearning_code": code_sha256("unlearning"),
    }
    file = checkpoint_path(study, f"unlearned-{method}", identity)
    if is_reused and file.is_file():
        model, facts = load_checkpoint(file, architecture=study.architecture)
        return UnlearnedModel(model.to(study.torch_device), used, facts["unlearning_time_s"], facts["first_call_s"])
    original = reference_model(study, "original").model
    made = run_method(study, original, method, reading, parameters, seed, is_timed=False)
    times = {"unlearning_time_s": made.unlearning_time_s, "first_call_s": made.first_call_s}
    save_checkpoint(file, made.model, {"identity": identity, **times})
    return made


def _options(study: Study, method: str, reading: str, parameters: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the reading as rows name it, and the method's arguments."""
    entry = require_method(method)
    options = {name: parameters[name] for name in entry.hyperparameters if name in parameters}
    if "precision" in entry.hyperparameters:
        options["precision"] = study.number_format
    used = "-" if entry.readings == ("-",) else reading
    if used != "-":
        options["reading"] = used
    return used, options


def score_rows(
    study: Study,
    model: nn.Module,
    *,
    method: str,
    reading: str = "-",
    unlearning_seed: int = NOT_UNLEARNED,
    splits: Iterable[str] = SCORED_SPLITS,
    has_probe: bool = True,
) -> pd.DataFrame:
    """Return the tidy rows of a model: every score of `scoring.utility` per split, and the probe on test.

    The model runs in the study's number format, in which it was trained. The probe learns on the features of the
    train split and is scored on the test split; it needs one binary question, so it runs for label and class requests
    only.

    Args:
        study: what is scored.
        model: on any device.
        method, reading: keys of the rows.
        unlearning_seed: key of the rows; the default says that nothing was unlearned.
        splits: splits to score.
        has_probe: whether the probe is fitted.
    """
    table, rows = study.table, []
    has_probe = has_probe and study.forget_request.kind in ("label", "class")
    predicted = {
        split: predict(model, table, table.rows(split), precision=study.number_format)
        for split in {*splits, *(PROBE_SPLITS if has_probe else ())}
    }
    for split in splits:
        scores = utility_rows(study, table.rows(split), predicted[split][0])
        rows += [{"split": split, "unit": "fraction", **row} for row in scores]
    if has_probe:
        features = {split: predicted[split][1].numpy() for split in PROBE_SPLITS}
        for metric, value in probe_scores(study, features).items():
            label = study.forgotten_names[0]
            rows.append({"split": "test", "label": label, "metric": metric, "value": value, "unit": "fraction"})
    return tidy(study, rows, method=method, reading=reading, unlearning_seed=unlearning_seed)


def utility_rows(study: Study, rows: torch.Tensor, logits: torch.Tensor) -> list[dict]:
    """Return every score of `scoring.utility` as {label, metric, value}.

    Of ordered classes also the accuracy with the removed class's images counted to the nearest class that is left,
    as label `reassigned`.

    Args:
        study: whose request says what is forgotten.
        rows: images, int64 (n,).
        logits: (n, num_outputs).
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
    study: Study,
    seconds: float,
    *,
    method: str,
    reading: str = "-",
    unlearning_seed: int = NOT_UNLEARNED,
    retrain_time_s: float,
) -> pd.DataFrame:
    """Return the rows for seconds and for the speed-up over Retrain."""
    rows = [
        {"split": "-", "label": "-", "metric": "seconds", "value": seconds, "unit": "s"},
        {"split": "-", "label": "-", "metric": "speedup", "value": retrain_time_s / seconds, "unit": "x"},
    ]
    return tidy(study, rows, method=method, reading=reading, unlearning_seed=unlearning_seed)


def tidy(
    study: Study, rows: list[dict], *, method: str, reading: str = "-", unlearning_seed: int = NOT_UNLEARNED
) -> pd.DataFrame:
    """Return rows with the study's keys in front, columns as in `reporting.SCORE_COLUMNS`."""
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
    logits = predict_logits(model, study.table, rows, precision=study.number_format)
    return (logits.sigmoid() if study.table.is_multi_label else logits.softmax(1)).numpy()


def verify(
    study: Study,
    model: nn.Module,
    retrained: nn.Module,
    *,
    used_splits: Iterable[str] = ("train",),
    max_attribute_auc: float = 0.6,
    max_excess_auc: float = 0.05,
    max_membership_auc: float = 0.6,
    seed: int,
    num_resamples: int = 300,
) -> audit.Verification:
    """Return the paper's secondary verification of a model that was asked to forget a label, on shadow data.

    Shadow data are the images of `SHADOW_SPLITS` with a known retained label. The attribute attacker reads the
    forgotten label from the penultimate features. The membership attacker tells training images from shadow images by
    the loss on the retained labels: a label request removes no image, so that this attack may succeed, on Retrain as
    well.

    Args:
        study: whose request asks for a label.
        model: the unlearned model.
        retrained: the retrained model, whose features are the mark.
        used_splits: splits that training, calibration or fine-tuning saw.
        max_attribute_auc, max_excess_auc, max_membership_auc: thresholds, see `audit.verify_unlearning`.
        seed: of the attackers and the intervals.
        num_resamples: of the intervals.

    Raises:
        ValueError: a request for anything but a label, used splits among the shadow data; see
            `audit.verify_unlearning`.

    Source: Hossain et al. (2025), Algorithm 1, step 7.

    Differs: see `audit.verify_unlearning`.
    """
    if study.forget_request.kind != "label":
        raise ValueError(f"verification reads a forgotten label, {study.request} has none: ask for label:<name>")
    table, column = study.table, study.table.label_index(study.forget_request.name)
    used, shadow, members = (
        rows_with_entries(table, torch.cat([table.rows(s) for s in splits]), study.mask)
        for splits in (used_splits, SHADOW_SPLITS, ("train",))
    )
    audit.refuse_used_rows(shadow.numpy(), used.numpy())
    rows = torch.cat([members, shadow])
    logits, features = predict(model, table, rows, precision=study.number_format)
    features, labels = features[len(members) :], table.labels[rows].numpy()
    phi = membership.label_confidence(np.delete(logits.numpy(), column, 1), np.delete(labels, column, 1))
    scores = -membership.confidence_loss(phi)
    return audit.verify_unlearning(
        features.numpy(),
        (
            features if retrained is model else predict(retrained, table, shadow, precision=study.number_format)[1]
        ).numpy(),
        labels[len(members) :, column],
        identity=table.identity[shadow].numpy(),
        member_scores=scores[: len(members)],
        shadow_scores=scores[len(members) :],
        max_attribute_auc=max_attribute_auc,
        max_excess_auc=max_excess_auc,
        max_membership_auc=max_membership_auc,
        seed=seed,
        num_resamples=num_resamples,
    )
