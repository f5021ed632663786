"""Relearning: train the forgotten label back, head only or the whole network, and note the score after each step.

What a model still knows of a label shows in how few steps bring it back; `scoring.learning_curves` turns the curves
into numbers. The model given is never modified.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from itertools import count, islice

import numpy as np
import torch
from torch import nn

from mlu_utils.data.batches import Batches
from mlu_utils.data.table import ImageTable
from mlu_utils.devices import FP32, Precision
from mlu_utils.models import copy_of, head
from mlu_utils.naming import require_at_least, require_choice
from mlu_utils.requests import ForgetRequest, forget_loss
from mlu_utils.scoring.utility import auc, balanced_accuracy, class_margins
from mlu_utils.training import descend, device_of, predict, predict_logits

SCOPES = ("head", "network")
_Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # inputs of the learner, labels, rows of the table


def relearn(
    model: nn.Module,
    table: ImageTable,
    request: ForgetRequest,
    *,
    scope: str,
    fit_rows: torch.Tensor,
    eval_rows: torch.Tensor,
    num_steps: int,
    learning_rate: float = 1e-3,
    batch_size: int = 256,
    evaluate_every: int = 1,
    seed: int,
    precision: Precision = FP32,
) -> list[dict]:
    """Return the curve of a copy of the model that learns the forgotten label again.

    A label is relearned from its column alone; a class from all classes: one alone teaches any network to say it.
    BatchNorm runs in eval mode, its statistics do not move.

    Args:
        scope: "head" trains the last layer on the features as they are; "network" trains every weight.
        fit_rows: labelled images to learn from; few, to ask how much the features still hold.
        eval_rows: images to score on; nobody's face should be in both.
        num_steps, batch_size: Adam steps, and images a step; at least 1.
        evaluate_every: steps between evaluations; step 0 and the last step are always evaluated.
        learning_rate, seed: of Adam, and of the order of the images; the same for all models that are compared.
        precision: number format of the network's passes; the head alone always learns in float32.

    Returns:
        Records: step (0 = as given), balanced_accuracy and auc of the label (of the class against the rest) on the rows
        to evaluate, loss of the step before (nan at step 0).

    Raises:
        ValueError: unknown scope, a request for neither a label nor a class, numbers below 1.
        NonFiniteLossError: the loss was not finite.

    Source: Chundawat, Tarun, Mandal and Kankanhalli (2023), Zero-Shot Machine Unlearning: Adam with rate .001, batches
    of 256, evaluated after every step.
    Differs: the label's own loss instead of that of all labels, and an evaluation set apart from the images learned
    from.
    """
    require_choice("scope", scope, SCOPES)
    if request.kind not in ("label", "class"):
        raise ValueError(f"relearning has no form for {request.kind} requests: only a label or a class is learned back")
    require_at_least(1, num_steps=num_steps, evaluate_every=evaluate_every, batch_size=batch_size)
    fit_rows, device = fit_rows.cpu(), device_of(model)
    generator = torch.Generator().manual_seed(seed)
    mask = request.mask(table) if request.kind == "label" else torch.ones(table.labels.shape, dtype=torch.bool)
    mask, curve, steps = mask.to(device), [], count(1)
    if scope == "network":
        layout = precision.memory_format
        learner, how = copy_of(model).to(memory_format=layout), {"device": device, "memory_format": layout}
        images = Batches(table, fit_rows, batch_size=batch_size, generator=generator, **how)
    else:
        learner, precision = copy.deepcopy(head(model)), FP32  # one layer: nothing to gain
        features, eval_features = (predict(model, table, rows)[1].to(device) for rows in (fit_rows, eval_rows))
        labels = table.labels[fit_rows].to(device)

    def endless() -> Iterator[_Batch]:
        while True:
            if scope == "network":
                yield from images
            else:
                for chunk in torch.randperm(len(fit_rows), generator=generator).split(batch_size):
                    yield features[chunk], labels[chunk], fit_rows[chunk]

    def objective(batch: _Batch) -> torch.Tensor:
        inputs, targets, rows = batch
        with precision.autocast(device):
            logits = learner(inputs)
        return forget_loss(logits, targets, mask[rows])

    def note(step: int, loss: float) -> None:
        if scope == "network":
            logits = predict_logits(learner, table, eval_rows, precision=precision)
        else:
            logits = learner(eval_features).detach().cpu()
        curve.append({"step": step, **_scores(logits, table, request, eval_rows), "loss": loss})

    def after_step(loss: torch.Tensor) -> None:
        if (step := next(steps)) % evaluate_every == 0 or step == num_steps:
            note(step, float(loss))

    note(0, math.nan)
    optimizer = torch.optim.Adam(learner.parameters(), lr=learning_rate)
    batches = islice(endless(), num_steps)
    descend(learner, batches, objective, optimizer, batchnorm="eval", after_step=after_step, is_watched=True)
    return curve


def relearning_curves(
    models: Mapping[str, nn.Module], table: ImageTable, request: ForgetRequest, **options: object
) -> dict[str, tuple[list[int], list[float]]]:
    """Return name -> (steps, balanced accuracies) of each model, what `scoring.learning_curves` takes."""
    records = {name: relearn(model, table, request, **options) for name, model in models.items()}
    return {name: ([r["step"] for r in own], [r["balanced_accuracy"] for r in own]) for name, own in records.items()}


def _scores(logits: torch.Tensor, table: ImageTable, request: ForgetRequest, rows: torch.Tensor) -> dict[str, float]:
    """Return balanced accuracy and AUC of the labels, their mean, or of the class against the rest."""
    labels = table.labels[rows.cpu()].numpy()
    if request.kind == "label":
        columns = [table.label_index(name) for name in request.names]
        sides = [(logits.numpy()[:, column], labels[:, column]) for column in columns]
    else:
        wanted = table.class_index(request.name)
        sides = [(class_margins(logits.numpy())[:, wanted], (labels[:, 0] == wanted).astype(float))]
    scores = {"balanced_accuracy": balanced_accuracy, "auc": auc}
    return {name: float(np.mean([score(*side) for side in sides])) for name, score in scores.items()}
