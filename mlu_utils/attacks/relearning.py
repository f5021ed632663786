"""Relearning: train the forgotten label back, head only or the whole network, and note the score after each step.

What a model still knows of a label shows in how few steps bring it back; `scoring.learning_curves` turns the curves
into numbers. The model given is never modified.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, count, islice, takewhile

import torch
from torch import nn

from mlu_utils.data.batches import Batches
from mlu_utils.data.table import ImageTable
from mlu_utils.devices import FP32, Precision
from mlu_utils.models import copy_of, head
from mlu_utils.naming import choices
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
    stop_at: float | None = None,
    seed: int,
    precision: Precision = FP32,
) -> list[dict]:
    """Return the curve of a copy of the model that learns the forgotten label again.

    A label is relearned from its column alone; a class from all classes, since images of one class alone teach any
    network to say that class.

    Args:
        model: unlearned, retrained or original; BatchNorm runs in eval mode, its statistics do not move.
        request: for a label or a class.
        scope: "head" trains the last layer on the features as they are; "network" trains every weight.
        fit_rows: labelled images to learn from; few, to ask how much the features still hold.
        eval_rows: images to score on; nobody's face should be in both.
        num_steps: Adam steps, at least 1.
        learning_rate: of Adam; one value for all models that are compared.
        batch_size: images a step; at most all of them.
        evaluate_every: steps between evaluations; step 0 and the last step are always evaluated.
        stop_at: stop once the balanced accuracy is at least this; default: take all steps.
        seed: of the order of the images; the same for all models that are compared.
        precision: number format of the network's passes; the head alone always learns in float32.

    Returns:
        Records: step (0 = as given), balanced_accuracy and auc of the label (of the class against the rest) on the
        rows to evaluate, loss of the step before (nan at step 0).

    Raises:
        ValueError: unknown scope, another kind of request, numbers below 1.
        NonFiniteLossError: the loss was not finite.

    Source:
        Chundawat, Tarun, Mandal and Kankanhalli (2023), Zero-Shot Machine Unlearning: Adam with rate .001, batches
        of 256, evaluated after every step.

    Differs:
        The label's own loss instead of that of all labels, and an evaluation set apart from the images learned from.
    """
    if scope not in SCOPES:
        raise ValueError(f"unknown scope {scope!r}: {choices(scope, SCOPES)}")
    if request.kind not in ("label", "class"):
        raise ValueError(f"relearning has no form for {request.kind} requests: only a label or a class is learned back")
    if min(num_steps, evaluate_every, batch_size) < 1:
        raise ValueError(
            f"num_steps {num_steps}, evaluate_every {evaluate_every}, batch_size {batch_size}: expected at least 1"
        )
    precision = FP32 if scope == "head" else precision  # one layer: nothing to gain
    learner, one_pass, predict_eval = _start(
        scope, model, table, fit_rows.cpu(), eval_rows.cpu(), batch_size, seed, precision
    )
    device = device_of(learner)
    mask = request.mask(table) if request.kind == "label" else torch.ones(table.labels.shape, dtype=torch.bool)
    mask = mask.to(device)
    step, curve = 0, [{"step": 0, **_scores(predict_eval(), table, request, eval_rows), "loss": float("nan")}]

    def objective(batch: _Batch) -> torch.Tensor:
        inputs, labels, rows = batch
        with precision.autocast(device):
            logits = learner(inputs)
        return forget_loss(logits, labels, mask[rows])

    def evaluate(loss: torch.Tensor) -> None:
        nonlocal step
        step += 1
        if step % evaluate_every == 0 or step == num_steps:
            curve.append({"step": step, **_scores(predict_eval(), table, request, eval_rows), "loss": float(loss)})

    batches = islice(chain.from_iterable(one_pass() for _ in count()), num_steps)
    if stop_at is not None:
        batches = takewhile(lambda _: curve[-1]["balanced_accuracy"] < stop_at, batches)
    optimizer = torch.optim.Adam(learner.parameters(), lr=learning_rate)
    descend(learner, batches, objective, optimizer, batchnorm="eval", after_step=evaluate, is_watched=True)
    return curve


def relearning_curves(
    models: Mapping[str, nn.Module], table: ImageTable, request: ForgetRequest, **options: object
) -> dict[str, tuple[list[int], list[float]]]:
    """Return name -> (steps, balanced accuracies) of every model under the same options of `relearn`.

    This is what `scoring.learning_curves.relearning_table` and a drawing of curves take.
    """
    records = {name: relearn(model, table, request, **options) for name, model in models.items()}
    return {name: ([r["step"] for r in own], [r["balanced_accuracy"] for r in own]) for name, own in records.items()}


def _start(
    scope: str,
    model: nn.Module,
    table: ImageTable,
    fit_rows: torch.Tensor,
    eval_rows: torch.Tensor,
    batch_size: int,
    seed: int,
    precision: Precision,
) -> tuple[nn.Module, Callable[[], Iterable[_Batch]], Callable[[], torch.Tensor]]:
    """Return a copy of what learns, what makes a pass over its inputs, and what predicts the rows to evaluate."""
    device, generator = device_of(model), torch.Generator().manual_seed(seed)
    if scope == "network":
        network, layout = copy_of(model), precision.memory_format
        network.to(memory_format=layout)
        images = Batches(
            table, fit_rows, batch_size=batch_size, device=device, generator=generator, memory_format=layout
        )
        return network, lambda: images, lambda: predict_logits(network, table, eval_rows, precision=precision)
    layer, labels = copy.deepcopy(head(model)), table.labels[fit_rows].to(device)
    features, eval_features = (predict(model, table, rows)[1].to(device) for rows in (fit_rows, eval_rows))

    def one_pass() -> Iterator[_Batch]:
        for chunk in torch.randperm(len(fit_rows), generator=generator).split(batch_size):
            yield features[chunk], labels[chunk], fit_rows[chunk]

    return layer, one_pass, lambda: layer(eval_features).detach().cpu()


def _scores(logits: torch.Tensor, table: ImageTable, request: ForgetRequest, rows: torch.Tensor) -> dict[str, float]:
    """Return balanced accuracy and AUC of the label, or of the class against the rest."""
    labels = table.labels[rows.cpu()].numpy()
    if request.kind == "label":
        column = table.label_index(request.name)
        values, truth = logits.numpy()[:, column], labels[:, column]
    else:
        wanted = table.class_index(request.name)
        values, truth = class_margins(logits.numpy())[:, wanted], (labels[:, 0] == wanted).astype(float)
    return {"balanced_accuracy": balanced_accuracy(values, truth), "auc": auc(values, truth)}
