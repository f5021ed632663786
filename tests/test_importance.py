"""Importance against brute force in float64: full Hessians, one image at a time."""

from __future__ import annotations

import pytest
import torch
from conftest import flat, tiny_classes, tiny_model, tiny_task
from torch import nn

from mlu_utils.data.batches import normalise
from mlu_utils.requests import entry_losses, forget_loss, retain_loss
from mlu_utils.unlearning import curvature, importance
from mlu_utils.unlearning.task import Task
from mlu_utils.unlearning.weight_pruning import pruning_scores

REQUESTS = ("label:label1", "people:1,2", "partial:label0@0,3", "images:0,1,4")
LOSS = {"forget": forget_loss, "retain": retain_loss}


def train_task(text="label:label1", **options) -> tuple[Task, torch.Tensor]:
    """A task and the rows that its gradients are taken on."""
    task = tiny_task(text, **options)
    return task, task.table.rows("train")


def brute_force_hessian_diagonal(task, rows, loss):
    """Differentiate the loss twice with torch.func, weight by weight."""
    images, labels = normalise(task.table.images[rows]).double(), task.table.labels[rows]
    parameters = {k: v.detach().double() for k, v in task.model.named_parameters()}
    buffers = {k: v.double() for k, v in task.model.named_buffers()}

    def value(weights):
        by_name = importance.unflatten(weights, parameters)
        logits = torch.func.functional_call(task.model, (by_name, buffers), images)
        return LOSS[loss](logits, labels, task.mask[rows])

    return torch.func.hessian(value)(flat(parameters.values())).diagonal()


@pytest.mark.parametrize("loss", ["forget", "retain"])
@pytest.mark.parametrize("text", [*REQUESTS, "class:2"])
def test_exact_diagonal_is_the_full_hessians_diagonal(text, loss):
    task, rows = train_task(text, table=tiny_classes() if text.startswith("class") else None)
    ours = curvature.diagonal_hessian(task, rows, loss=loss, batch_size=5)
    truth = brute_force_hessian_diagonal(task, rows, loss)
    torch.testing.assert_close(ours.double(), truth, rtol=2e-4, atol=1e-7)


def test_both_ways_to_square_agree():
    """Pairing positions and forming per-image gradients are the same number."""
    g, x = torch.randn(5, 4, 6, dtype=torch.float64), torch.randn(5, 7, 6, dtype=torch.float64)
    scale = torch.randn(5, dtype=torch.float64)
    truth = (torch.einsum("nop,nip->noi", g, x) * scale[:, None, None]).square().sum(0)
    for positions in (6, 0):
        original, curvature._MOST_PAIRED_POSITIONS = curvature._MOST_PAIRED_POSITIONS, positions
        try:
            ours = curvature._sums_of_squared_products(g, x, [torch.ones_like(scale), scale])
            torch.testing.assert_close(ours[1], truth)
            assert len(ours) == 2 and not torch.allclose(ours[0], truth)
        finally:
            curvature._MOST_PAIRED_POSITIONS = original


def test_sampled_diagonal_is_unbiased():
    task, rows = train_task()
    exact = curvature.diagonal_hessian(task, rows, loss="retain")
    draws = torch.stack(
        [curvature.diagonal_hessian(train_task(seed=s)[0], rows, loss="retain", method="sampled") for s in range(300)]
    )
    standard_error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - exact).abs() <= 5 * standard_error + 1e-7).all()
    assert draws.std(0).max() > 0  # two label signs do differ, so the check above can fail


def test_squared_minibatch_is_what_it_says_and_differs_from_the_hessian():
    task, rows = train_task()
    options = {"loss": "forget", "batch_size": 4}
    ours = curvature.diagonal_hessian(task, rows, method="squared_minibatch", **options)
    total = torch.zeros(sum(p.numel() for p in task.model.parameters()))
    for batch in rows.split(4):
        value = forget_loss(task.model(normalise(task.table.images[batch])), task.table.labels[batch], task.mask[batch])
        g = flat(torch.autograd.grad(value, list(task.model.parameters())))
        total += g.square() * len(batch) / len(rows)
    torch.testing.assert_close(ours, total)
    exact = curvature.diagonal_hessian(task, rows, **options)
    assert importance.rank_correlation(ours, exact) < 0.999
    assert importance.rank_correlation(exact, exact) == pytest.approx(1)


@pytest.mark.parametrize("loss", ["forget", "retain", "all"])
@pytest.mark.parametrize("text", REQUESTS)
def test_sensitivity_of_one_batch_is_the_gradient(text, loss):
    task, rows = train_task(text)
    ours = importance.gradient_statistics(task, rows, loss=loss, batch_size=len(rows))
    small = importance.gradient_statistics(task, rows, loss=loss, batch_size=5)
    losses, known = entry_losses(task.model(normalise(task.table.images[rows])), task.table.labels[rows])
    mask = task.mask[rows]
    value = losses[known & {"forget": mask, "retain": ~mask, "all": mask | ~mask}[loss]].mean()
    truth = flat(torch.autograd.grad(value, list(task.model.parameters())))
    torch.testing.assert_close(ours.mean_absolute, truth.abs(), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(small.mean, truth, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("loss", ["forget", "retain"])
@pytest.mark.parametrize("text", REQUESTS)
def test_image_statistics_are_the_gradients_of_single_images(text, loss):
    task, rows = train_task(text)
    ours = curvature.image_statistics(task, rows, loss=loss, batch_size=5)
    chosen = task.mask if loss == "forget" else ~task.mask
    gradients = []
    for row in rows.tolist():
        losses, _ = entry_losses(task.model(normalise(task.table.images[[row]])), task.table.labels[[row]])
        gradients.append(flat(torch.autograd.grad((losses * chosen[[row]]).sum(), list(task.model.parameters()))))
    # The loss is the mean over images of these.
    of_images = torch.stack(gradients) * len(rows) / int(chosen[rows].sum())
    torch.testing.assert_close(ours.mean, of_images.mean(0), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(ours.sensitivity, of_images.square().mean(0).sqrt(), rtol=1e-3, atol=1e-5)


def test_images_cancel_in_the_mean_gradient_only():
    task, rows = train_task()
    per_image, mean = (
        importance.gradient_statistics(task, rows, loss="forget", batch_size=b).mean_absolute for b in (1, len(rows))
    )
    assert (per_image >= mean - 1e-7).all()
    assert per_image.sum() > 1.2 * mean.sum()


class _WithGelu(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)
        self.fc = nn.Linear(2, 3)

    def forward(self, x):
        return self.fc(nn.functional.gelu(self.conv(x)).mean((2, 3)))


def test_a_smooth_activation_is_refused():
    task, rows = train_task(model=_WithGelu())
    with pytest.raises(ValueError, match="Gelu.*not piecewise linear.*squared_minibatch"):
        curvature.diagonal_hessian(task, rows, loss="forget")
    options = {"loss": "forget", "alpha": 1, "beta": 1}
    for of, how in ((task, "squared_minibatch"), (train_task()[0], "exact")):
        auto, wanted = (pruning_scores(of, rows, hessian=h, **options) for h in ("auto", how))
        assert all(torch.equal(a, b) for a, b in zip(auto, wanted, strict=True))


def test_a_model_in_train_mode_gives_the_same_curvature():
    task, rows = train_task()
    in_train_mode = curvature.image_statistics(task, rows, loss="forget", model=tiny_model().train())
    in_eval_mode = curvature.image_statistics(task, rows, loss="forget", model=tiny_model())
    assert all(torch.equal(a, b) for a, b in zip(in_train_mode, in_eval_mode, strict=True))


def test_the_identity_does_fail_for_gelu(monkeypatch):
    """The refusal is not pedantry: with GELU the Gauss-Newton diagonal is another number."""
    task, rows = train_task(model=_WithGelu())
    truth = brute_force_hessian_diagonal(task, rows, "forget")
    monkeypatch.setattr(curvature, "_require_piecewise_linear", lambda _: None)
    ours = curvature.diagonal_hessian(task, rows, loss="forget")
    assert (ours.double() - truth).abs().max() > 0.01 * truth.abs().max()


def test_unknown_choices_are_named():
    task, rows = train_task()
    with pytest.raises(ValueError, match="unknown Hessian method 'fisher': choose one of exact"):
        curvature.diagonal_hessian(task, rows, loss="forget", method="fisher")
    with pytest.raises(ValueError, match="unknown loss 'keep': choose one of forget, retain, all"):
        importance.gradient_statistics(task, rows, loss="keep")
    people, rows = train_task("people:1,2")
    others = rows[~people.mask[rows].any(1)]
    with pytest.raises(ValueError, match="no entry of the forget loss"):
        importance.gradient_statistics(people, others, loss="forget")
    with pytest.raises(ValueError, match="no entry of the forget loss"):
        curvature.image_statistics(people, others, loss="forget")


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training):
    model = tiny_model().train(training)
    task, rows = train_task(model=model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    importance.gradient_statistics(task, rows, loss="forget", model=model)
    curvature.image_statistics(task, rows, loss="forget", model=model)
    assert model.training is training
    assert all(p.requires_grad for p in model.parameters())
    assert not model.conv1._forward_hooks
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
