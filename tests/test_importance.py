"""Importance against brute force in float64: full Hessians, one image at a time."""

from __future__ import annotations

import pytest
import torch
from conftest import tiny_classes, tiny_model, tiny_table
from torch import nn

from mlu_utils.data.batches import normalise
from mlu_utils.requests import ForgetRequest, entry_losses, forget_loss, retain_loss
from mlu_utils.unlearning import importance

REQUESTS = ("label:label1", "people:1,2", "partial:label0@0,3", "images:0,1,4")


def brute_force_hessian_diagonal(model, table, rows, mask, loss):
    """Differentiate the loss twice with torch.func, weight by weight."""
    images, labels = normalise(table.images[rows]).double(), table.labels[rows]
    parameters = {k: v.detach().double() for k, v in model.named_parameters()}
    buffers = {k: v.double() for k, v in model.named_buffers()}

    def value(flat):
        weights = importance.unflatten(flat, parameters)
        logits = torch.func.functional_call(model, (weights, buffers), images)
        return {"forget": forget_loss, "retain": retain_loss}[loss](logits, labels, mask[rows])

    flat = importance.flatten(parameters)
    return torch.func.hessian(value)(flat).diagonal()


@pytest.mark.parametrize("loss", ["forget", "retain"])
@pytest.mark.parametrize("request_text", REQUESTS)
def test_exact_diagonal_is_the_full_hessians_diagonal(request_text, loss):
    table, model = tiny_table(), tiny_model()
    mask, rows = ForgetRequest.parse(request_text).mask(table), table.rows("train")
    ours = importance.diagonal_hessian(model, table, rows, mask, loss=loss, batch_size=5)
    truth = brute_force_hessian_diagonal(model, table, rows, mask, loss)
    torch.testing.assert_close(importance.flatten(ours).double(), truth, rtol=2e-4, atol=1e-7)


@pytest.mark.parametrize("loss", ["forget", "retain"])
def test_exact_diagonal_of_cross_entropy(loss):
    table, model = tiny_classes(), tiny_model(4)
    mask, rows = ForgetRequest.parse("class:2").mask(table), table.rows("train")
    ours = importance.diagonal_hessian(model, table, rows, mask, loss=loss, batch_size=5)
    truth = brute_force_hessian_diagonal(model, table, rows, mask, loss)
    torch.testing.assert_close(importance.flatten(ours).double(), truth, rtol=2e-4, atol=1e-7)


def test_both_ways_to_square_agree():
    """Pairing positions and forming per-image gradients are the same number."""
    g, x = torch.randn(5, 4, 6, dtype=torch.float64), torch.randn(5, 7, 6, dtype=torch.float64)
    scale = torch.randn(5, dtype=torch.float64)
    truth = (torch.einsum("nop,nip->noi", g, x) * scale[:, None, None]).square().sum(0)
    for positions in (6, 0):
        original, importance._MOST_PAIRED_POSITIONS = importance._MOST_PAIRED_POSITIONS, positions
        try:
            ours = importance._sums_of_squared_products(g, x, [torch.ones_like(scale), scale])
            torch.testing.assert_close(ours[1], truth)
            assert len(ours) == 2 and not torch.allclose(ours[0], truth)
        finally:
            importance._MOST_PAIRED_POSITIONS = original


def test_sampled_diagonal_is_unbiased():
    table, model = tiny_table(), tiny_model()
    mask, rows = ForgetRequest.parse("label:label1").mask(table), table.rows("train")
    exact = importance.flatten(importance.diagonal_hessian(model, table, rows, mask, loss="retain"))
    draws = torch.stack(
        [
            importance.flatten(
                importance.diagonal_hessian(model, table, rows, mask, loss="retain", method="sampled", seed=s)
            )
            for s in range(300)
        ]
    )
    standard_error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - exact).abs() <= 5 * standard_error + 1e-7).all()
    assert draws.std(0).max() > 0  # two label signs do differ, so the check above can fail


def test_squared_minibatch_is_what_it_says_and_differs_from_the_hessian():
    table, model = tiny_table(), tiny_model()
    mask, rows = ForgetRequest.parse("label:label1").mask(table), table.rows("train")
    options = {"loss": "forget", "batch_size": 4}
    ours = importance.diagonal_hessian(model, table, rows, mask, method="squared_minibatch", **options)
    total = torch.zeros(sum(p.numel() for p in model.parameters()))
    for batch in rows.split(4):
        value = forget_loss(model(normalise(table.images[batch])), table.labels[batch], mask[batch])
        gradients = torch.autograd.grad(value, list(model.parameters()))
        total += torch.cat([g.reshape(-1) for g in gradients]) ** 2 * len(batch) / len(rows)
    torch.testing.assert_close(importance.flatten(ours), total)
    exact = importance.diagonal_hessian(model, table, rows, mask, **options)
    assert importance.rank_correlation(ours, exact) < 0.999
    assert importance.rank_correlation(exact, exact) == pytest.approx(1)


def test_sensitivity_is_the_absolute_gradient():
    table, model = tiny_table(), tiny_model()
    mask, rows = ForgetRequest.parse("people:1,2").mask(table), table.rows("train")
    ours = importance.sensitivity(model, table, rows, mask, loss="retain", batch_size=len(rows))
    statistics = importance.gradient_statistics(model, table, rows, mask, loss="retain", batch_size=5)
    value = retain_loss(model(normalise(table.images[rows])), table.labels[rows], mask[rows])
    truth = torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, list(model.parameters()))])
    torch.testing.assert_close(importance.flatten(ours), truth.abs(), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(statistics.mean, truth, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("loss", ["forget", "retain"])
@pytest.mark.parametrize("request_text", REQUESTS)
def test_image_statistics_are_the_gradients_of_single_images(request_text, loss):
    table, model = tiny_table(), tiny_model()
    mask, rows = ForgetRequest.parse(request_text).mask(table), table.rows("train")
    ours = importance.image_statistics(model, table, rows, mask, loss=loss, batch_size=5)
    chosen = mask if loss == "forget" else ~mask
    gradients = []
    for row in rows.tolist():
        losses, _ = entry_losses(model(normalise(table.images[[row]])), table.labels[[row]])
        gradients.append(torch.autograd.grad((losses * chosen[[row]]).sum(), list(model.parameters())))
    flat = torch.stack([torch.cat([g.reshape(-1) for g in image]) for image in gradients])
    flat *= len(rows) / int(chosen[rows].sum())  # the loss is the mean over images of these
    torch.testing.assert_close(ours.mean, flat.mean(0), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(ours.mean_square, flat.square().mean(0), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(ours.sensitivity, flat.square().mean(0).sqrt(), rtol=1e-3, atol=1e-5)


def test_images_cancel_in_the_mean_gradient_only():
    table, model = tiny_table(), tiny_model()
    mask, rows = ForgetRequest.parse("label:label1").mask(table), table.rows("train")
    per_image = importance.sensitivity(model, table, rows, mask, loss="forget", batch_size=1)
    mean = importance.sensitivity(model, table, rows, mask, loss="forget", batch_size=len(rows))
    assert (importance.flatten(per_image) >= importance.flatten(mean) - 1e-7).all()
    assert importance.flatten(per_image).sum() > 1.2 * importance.flatten(mean).sum()


class _WithGelu(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)
        self.fc = nn.Linear(2, 3)

    def forward(self, x):
        return self.fc(nn.functional.gelu(self.conv(x)).mean((2, 3)))


def test_a_smooth_activation_is_refused():
    table = tiny_table()
    mask = ForgetRequest.parse("label:label1").mask(table)
    with pytest.raises(ValueError, match="Gelu.*not piecewise linear.*squared_minibatch"):
        importance.diagonal_hessian(_WithGelu(), table, table.rows("train"), mask, loss="forget")


def test_batchnorm_in_train_mode_is_refused():
    table, model = tiny_table(), tiny_model().train()
    mask = ForgetRequest.parse("label:label1").mask(table)
    with pytest.raises(ValueError, match="'bn' is BatchNorm in train mode.*eval"):
        importance.diagonal_hessian(model, table, table.rows("train"), mask, loss="forget")


def test_the_identity_does_fail_for_gelu():
    """The refusal is not pedantry: with GELU the Gauss-Newton diagonal is another number."""
    table, model = tiny_table(), _WithGelu().eval()
    mask, rows = ForgetRequest.parse("label:label1").mask(table), table.rows("train")
    truth = brute_force_hessian_diagonal(model, table, rows, mask, "forget")
    allowed, importance._require_piecewise_linear = importance._require_piecewise_linear, lambda _: None
    try:
        ours = importance.diagonal_hessian(model, table, rows, mask, loss="forget")
    finally:
        importance._require_piecewise_linear = allowed
    difference = (importance.flatten(ours).double() - truth).abs().max()
    assert difference > 0.01 * truth.abs().max()


def test_unknown_choices_are_named():
    table, model = tiny_table(), tiny_model()
    mask, rows = ForgetRequest.parse("label:label1").mask(table), table.rows("train")
    with pytest.raises(ValueError, match="unknown Hessian method 'fisher': choose one of exact"):
        importance.diagonal_hessian(model, table, rows, mask, loss="forget", method="fisher")
    with pytest.raises(ValueError, match="unknown loss 'keep': choose forget or retain"):
        importance.sensitivity(model, table, rows, mask, loss="keep")
    with pytest.raises(ValueError, match="no entry of the forget loss"):
        importance.sensitivity(model, table, rows, torch.zeros_like(mask), loss="forget")


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training):
    table, model = tiny_table(), tiny_model().train(training)
    mask, rows = ForgetRequest.parse("label:label1").mask(table), table.rows("train")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    importance.sensitivity(model, table, rows, mask, loss="forget")
    if not training:
        importance.diagonal_hessian(model, table, rows, mask, loss="forget")
    assert model.training is training
    assert all(p.requires_grad for p in model.parameters())
    assert not model.conv1._forward_hooks
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
