"""Influence of images against explicit matrices in float64: Hessian of the head, dense Gauss-Newton matrix."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from conftest import flat, same_bits, tiny_classes, tiny_model, tiny_table, tiny_task

from mlu_utils.data.batches import normalise
from mlu_utils.models import head
from mlu_utils.requests import entry_losses, forget_loss
from mlu_utils.training import predict
from mlu_utils.unlearning import importance, influence
from mlu_utils.unlearning.influence import image_influence, most_influential

CASES = [
    (tiny_table, "label:label1"),
    (tiny_table, "people:1,2,3"),
    (tiny_table, "partial:label0@0,3,4"),
    (tiny_table, "images:0,1,4,9"),
    (tiny_classes, "class:2"),
    (tiny_classes, "people:0,1,2"),
]
EVERY_CASE = pytest.mark.parametrize(("make_table", "text"), CASES)

EVERY_SOLVER = pytest.mark.parametrize("solver", ["last_layer", "conjugate_gradient"])


def case(make_table, text, *, seed: int = 0):
    task = tiny_task(text, table=make_table(), seed=seed)
    return task, task.table.rows("train")


def noise_of(table, rows, seed: int) -> torch.Tensor:
    return torch.randn((len(rows), *table.images.shape[1:]), generator=torch.Generator().manual_seed(seed))


def features_in_float64(model, images: torch.Tensor) -> torch.Tensor:
    """Return what the float32 trunk computes, as float64: here only the algebra behind it is under test."""
    found = []
    hook = head(model).register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].double()))
    with torch.no_grad():
        model(images)
    hook.remove()
    return found[0]


def head_by_brute_force(task, rows, *, damping: float, noise_std: float) -> torch.Tensor:
    """Differentiate the forget loss twice in all weights of the head, invert, multiply."""
    model, table = task.model, task.table
    images, labels, chosen = normalise(table.images[rows]), table.labels[rows], task.mask[rows]
    phi = features_in_float64(model, images)
    noisy_phi = features_in_float64(model, images + noise_std * noise_of(table, rows, task.seed))
    like = {"weight": model.fc.weight.detach().double(), "bias": model.fc.bias.detach().double()}
    start = flat(like.values())

    def logits(weights, features):
        w = importance.unflatten(weights, like)
        return features @ w["weight"].T + w["bias"]

    hessian = torch.func.hessian(lambda w: forget_loss(logits(w, phi), labels, chosen))(start)
    inverse = torch.linalg.inv(hessian + damping * torch.eye(len(start), dtype=torch.float64))

    def gradient(features, n):
        def summed(w):
            losses, known = entry_losses(logits(w, features[n : n + 1]), labels[n : n + 1])
            return (losses * (known & chosen[n : n + 1])).sum()

        return torch.func.grad(summed)(start)

    return -torch.stack([gradient(noisy_phi, n) @ inverse @ gradient(phi, n) for n in range(len(rows))])


@EVERY_CASE
@pytest.mark.parametrize("damping", [1e-3, 0.5])
def test_last_layer_is_the_full_hessian_of_the_head(make_table, text, damping):
    task, rows = case(make_table, text, seed=4)
    options = {"damping": damping, "noise_std": 0.3}
    ours = image_influence(task, rows, solver="last_layer", **options)
    truth = head_by_brute_force(task, rows, **options)
    assert ours.dtype == torch.float64 and ours.shape == (len(rows),)
    # The noisy logits are rounded to float32 by the trunk's own head.
    torch.testing.assert_close(ours, truth, rtol=1e-4, atol=1e-6 * float(truth.abs().max()))
    untouched = ~task.mask[rows].any(1)
    assert (ours[untouched] == 0).all() and (ours[~untouched] != 0).all()


@EVERY_SOLVER
def test_unknown_labels_are_left_out(solver):
    table = tiny_table()
    rows, labels = table.rows("train"), table.labels.clone()
    labels[rows[:4], 1] = torch.nan
    task, rows = case(lambda: replace(table, labels=labels), "label:label1")
    options = {"damping": 1e-2, "noise_std": 0.3}
    ours = image_influence(task, rows, solver=solver, **options)
    assert (ours[:4] == 0).all() and (ours[4:] != 0).all() and ours.isfinite().all()
    if solver == "last_layer":
        truth = head_by_brute_force(task, rows, **options)
        torch.testing.assert_close(ours, truth, rtol=1e-4, atol=1e-6 * float(truth.abs().max()))


def gauss_newton_by_brute_force(model, images, noisy, labels, chosen, damping: float) -> torch.Tensor:
    """Build every Jacobian, every loss Hessian in the logits, and the dense damped Gauss-Newton matrix."""
    parameters = {k: v.detach().double() for k, v in model.named_parameters()}
    buffers = {k: v.double() for k, v in model.named_buffers()}
    start = flat(parameters.values())

    def logits(weights, x):
        return torch.func.functional_call(model, (importance.unflatten(weights, parameters), buffers), x[None])[0]

    def loss(z, y, counts):
        losses, _ = entry_losses(z[None], y[None])
        return (losses * counts[None]).sum()

    of_images, of_noise = (
        (torch.vmap(logits, (None, 0))(start, x), torch.vmap(torch.func.jacrev(logits), (None, 0))(start, x))
        for x in (images, noisy)
    )  # logits (N, C) and Jacobians (N, C, weights)
    gradients, noisy_gradients = (
        torch.einsum("nc,ncw->nw", torch.vmap(torch.func.grad(loss))(z, labels, chosen), jacobians)
        for z, jacobians in (of_images, of_noise)
    )
    z, jacobians = of_images
    of_logits = torch.vmap(torch.func.hessian(loss))(z, labels, chosen)
    total = torch.einsum("ncw,ncd,ndv->wv", jacobians, of_logits, jacobians)
    damped = total / int(chosen.sum()) + damping * torch.eye(len(start), dtype=torch.float64)
    return -(noisy_gradients * torch.linalg.solve(damped, gradients.T).T).sum(1)


@EVERY_CASE
def test_conjugate_gradient_is_the_dense_inverse(monkeypatch, make_table, text):
    task, rows = case(make_table, text, seed=4)
    images, labels, chosen = normalise(task.table.images[rows]).double(), task.table.labels[rows], task.mask[rows]
    noisy = images + 0.3 * noise_of(task.table, rows, 4).double()
    truth = gauss_newton_by_brute_force(task.model, images, noisy, labels, chosen, 0.05)
    scale = float(truth.abs().max())

    monkeypatch.setattr(influence, "MOST_ITERATIONS", 200)
    ours = image_influence(task, rows, solver="conjugate_gradient", damping=0.05, noise_std=0.3)
    torch.testing.assert_close(ours, truth, rtol=1e-2, atol=1e-3 * scale)
    # What is left is float32: the same solver in float64 agrees a thousand times better.
    model = copy.deepcopy(task.model).double()
    exact = influence._conjugate_gradient(model, (images, noisy), labels, chosen, 0.05)
    torch.testing.assert_close(exact, truth, rtol=1e-5, atol=1e-6 * scale)


def test_the_solvers_see_different_weights():
    task, rows = case(tiny_table, "label:label1")
    last, every = (image_influence(task, rows, solver=s) for s in influence.SOLVERS)
    assert not torch.allclose(last, every, rtol=0.1)


@EVERY_SOLVER
def test_without_noise_the_influence_is_negative(solver):
    """I = - g^T (H + damping)^-1 g with a positive matrix."""
    task, rows = case(tiny_table, "label:label1")
    assert (image_influence(task, rows, solver=solver, noise_std=0.0) < 0).all()


@EVERY_SOLVER
def test_repeatable_and_the_model_is_left_as_it_was(solver):
    model = tiny_model()
    task, again, other = (tiny_task(model=model, seed=s) for s in (0, 0, 1))
    rows = task.table.rows("train")
    first, same, different = (image_influence(t, rows, solver=solver) for t in (task, again, other))
    assert torch.equal(first, same) and not torch.equal(first, different)
    assert not model.training and not head(model)._forward_pre_hooks
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert same_bits(model, tiny_model())


def test_refusals():
    task, rows = case(tiny_table, "people:1,2")
    with pytest.raises(ValueError, match="unknown solver 'lissa': choose one of last_layer, conjugate_gradient"):
        image_influence(task, rows, solver="lissa")
    for damping in (0, -1):
        with pytest.raises(ValueError, match=rf"damping must be positive \(H may be singular\), got {damping}"):
            image_influence(task, rows, damping=damping)
    nobody = rows[~task.mask[rows].any(1)]
    with pytest.raises(ValueError, match=f"nothing to forget among the {len(nobody)} rows"):
        image_influence(task, nobody)
    in_train_mode = tiny_task("people:1,2", model=tiny_model().train())  # a task looks at its model in eval mode
    assert torch.equal(image_influence(in_train_mode, rows), image_influence(task, rows))
    before = image_influence(task, rows)
    task.model.train()
    assert torch.equal(image_influence(task, rows), before) and task.model.bn.training


def test_most_influential():
    rows = torch.tensor([10, 11, 12, 13, 14])
    scores = torch.tensor([0.1, -5.0, 3.0, 0.0, -0.2])
    assert most_influential(scores, rows, 0.4).tolist() == [11, 12]
    assert most_influential(scores, rows, 0.6).tolist() == [11, 12, 14]
    assert most_influential(scores, rows, 1e-9).tolist() == [11]
    assert most_influential(scores, rows, 1).tolist() == rows.tolist()
    assert most_influential(torch.zeros(5), rows, 0.4).tolist() == [10, 11]  # equals: the first
    for share in (0, 1.01, -1):
        with pytest.raises(ValueError, match=r"share must be in \(0, 1\], got"):
            most_influential(scores, rows, share)


def test_the_tiny_network_has_living_features():
    """Dead features would make the brute force above compare zeros."""
    table = tiny_table()
    assert (predict(tiny_model(), table, table.rows("train"))[1].mean(0) > 0.05).all()
