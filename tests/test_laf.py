"""Label-Agnostic Forgetting: parity with the authors' own code, and what the corrected form does differently."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import doubles, golden, tiny_classes, tiny_model
from torch import nn

from mlu_utils.data import scenarios
from mlu_utils.training import descend
from mlu_utils.unlearning import laf as module
from mlu_utils.unlearning.laf import VAE, Extraction, alignment_loss, fit_vae, laf, saturated, train_in_turns, vae_loss
from mlu_utils.unlearning.task import Task

NAMES = {
    "encoder.linear1": "encoder.0",
    "encoder.linear2": "encoder.2",
    "encoder.linear3_1": "mean",
    "encoder.linear3_2": "log_variance",
    "decoder.linear1": "decoder.0",
    "decoder.linear2": "decoder.2",
    "decoder.linear3": "decoder.4",
}


def renamed(weights: dict) -> dict[str, torch.Tensor]:
    return {f"{NAMES[k.rpartition('.')[0]]}.{k.rpartition('.')[2]}": doubles(v) for k, v in weights.items()}


def vae_of(dims: list[int], weights: dict) -> VAE:
    vae = VAE(dims, is_bounded=True, seed=0).double()
    vae.load_state_dict(renamed(weights))
    return vae


def assert_close(found, expected, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(torch.as_tensor(found, dtype=torch.float64), doubles(expected), rtol=0, atol=tolerance)


def test_vae_gives_the_published_values():
    inputs, outputs = golden("laf_vae")
    vae = vae_of(inputs["dims"], inputs["weights"])
    features, noise = doubles(inputs["embeddings"]).requires_grad_(), doubles(inputs["noise"])
    made, mu, sigma = vae(features, noise)
    for found, name in ((made, "reconstruction"), (mu, "mu"), (sigma, "sigma"), (mu + sigma * noise, "z")):
        assert_close(found.detach(), outputs[name])
    loss = vae_loss(vae, features, noise)
    loss.backward()
    assert_close(loss.detach(), outputs["loss"])
    error = vae.errors(features, noise).mean()
    assert_close((loss - error).detach(), outputs["weighted_kl"])
    assert_close(features.grad, outputs["grad_embeddings"])
    for name, expected in renamed(outputs["grad_weights"]).items():
        assert_close(vae.get_parameter(name).grad, expected.tolist())


def test_vae_learns_as_published(monkeypatch):
    inputs, outputs = golden("laf_vae")
    vae = vae_of(inputs["dims"], inputs["weights"])
    noise = iter(map(doubles, inputs["train_noise"]))
    losses = []
    monkeypatch.setattr(module, "descend", lambda *a, **k: losses.extend(descend(*a, **k)))
    monkeypatch.setattr(torch, "randperm", lambda n, generator: torch.arange(n))  # batches were stored in order
    fit_vae(vae, doubles(inputs["embeddings"]), lambda _: next(noise), batch_size=4, seed=0)
    assert_close(losses, outputs["vae_train_losses"])
    for name, expected in renamed(outputs["vae_train_weights"]).items():
        assert_close(vae.get_parameter(name).detach(), expected.tolist())


@pytest.mark.parametrize("case", [0, 1], ids=["moderate", "saturated"])
def test_losses_are_the_published_ones(case):
    inputs, outputs = golden("laf_losses")
    given, expected = inputs["cases"][case], outputs[case]
    h, h_f = (vae_of(inputs["dims"], inputs[name]) for name in ("h", "h_f"))
    retain, forget = (doubles(given[name]).requires_grad_() for name in ("e_retain", "e_forget"))
    noises = [doubles(given["noise_h"]), doubles(given["noise_h_f"])]
    assert_close(saturated(h.errors(retain, noises[0])).sum().detach(), expected["retain_term"])
    assert_close(saturated(h_f.errors(forget, noises[1])).sum().detach(), expected["forget_term"])
    drawn = iter(noises)
    loss = Extraction(h, h_f, lambda _: next(drawn)).loss(retain, forget)
    assert_close(loss.detach(), expected["L_UE"])
    gradients = torch.autograd.grad(loss, [retain, forget])
    assert_close(gradients[0], expected["grad_L_UE_retain"])
    assert_close(gradients[1], expected["grad_L_UE_forget"])
    teachers = doubles(given["teacher_retain"]), doubles(given["teacher_forget"])
    for of_tau in expected["L_RA"]:
        loss = alignment_loss(retain, forget, *teachers, temperature=of_tau["tau"])
        assert_close(loss.detach(), of_tau["value"])
        for found, name in zip(
            torch.autograd.grad(loss, [retain, forget]), ("grad_retain", "grad_forget"), strict=True
        ):
            assert_close(found, of_tau[name])
    unchanged = alignment_loss(*teachers, *teachers, temperature=5)
    assert_close(unchanged, expected["L_RA_when_equal_to_teacher"])
    assert alignment_loss(*teachers, *teachers, temperature=5, is_summed=False).abs() < 1e-9  # the corrected form


class Two(nn.Module):
    """Two linear layers without anything between: `trunk` gives the features, `fc` the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.fc = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.trunk(x))


def test_steps_are_the_published_ones():
    inputs, outputs = golden("laf_unlearning_steps")
    model = Two().double()

    def state(of: dict) -> dict[str, torch.Tensor]:
        return {name.replace("fc1", "trunk").replace("fc2", "fc"): doubles(values) for name, values in of.items()}

    model.load_state_dict(state(inputs["model"]))
    retain, forget = ([doubles(x) for x, _ in inputs[f"{side}_batches"]] for side in ("retain", "forget"))
    pairs = [pair for _ in range(inputs["epochs"]) for pair in zip(retain, forget, strict=False)]
    teacher = Two().double()
    teacher.load_state_dict(model.state_dict())
    noise = iter(map(doubles, inputs["noise_in_order"]))
    h, h_f = (vae_of(inputs["dims"], inputs[name]).requires_grad_(False) for name in ("h", "h_f"))
    seen = []

    def alignment(r: torch.Tensor, f: torch.Tensor, pair: tuple) -> torch.Tensor:
        with torch.no_grad():
            before = [teacher.trunk(x) for x in pair]
        return alignment_loss(r, f, *before, temperature=inputs["tau"])

    def features(x: torch.Tensor) -> torch.Tensor:
        seen.append({name: p.detach().clone() for name, p in model.named_parameters()})
        return model.trunk(x)

    extraction = Extraction(h, h_f, lambda _: next(noise))
    rates = inputs["lr_ue"], inputs["lr_ra"]
    losses = train_in_turns(model, pairs, features, extraction, alignment, rates=rates, seed=0)
    assert_close(losses, [step["loss"] for step in outputs["steps"]])
    assert_close(np.reshape(losses, (2, 2, 2)).mean(1)[:, 0], outputs["epoch_mean_L_UE"])
    assert_close(np.reshape(losses, (2, 2, 2)).mean(1)[:, 1], outputs["epoch_mean_L_RA"])
    after = [*seen[2::2], dict(model.named_parameters())]  # both batches of a pair look at the same weights
    for step, found in zip(outputs["steps"], after, strict=True):
        for name, expected in state(step["weights"]).items():
            assert_close(found[name].detach(), expected.tolist())


@pytest.mark.parametrize("number", range(3))
def test_scenarios_draw_what_the_public_code_draws(number):
    inputs, outputs = golden("laf_scenarios")
    labels, seed, expected = inputs["labels"], inputs["seeds"][number], outputs[number]
    assert expected["seed"] == seed
    found = {
        "random": scenarios.draw_removal(labels, scenarios.RANDOM_DATA, seed=seed),
        "noisy": scenarios.draw_removal(labels, scenarios.NOISY_LABELS, seed=seed, num_wrong_classes=9),
    }
    cases = [(found[name], expected[name]) for name in found]
    cases += [
        (scenarios.draw_removal(labels, fractions, seed=seed), of)
        for fractions, of in zip(inputs["class_fractions"], expected["classes"], strict=True)
    ]
    for removal, of in cases:
        for part in ("forget", "retain", "sample"):
            assert getattr(removal, part).tolist() == of[part]
    assert found["noisy"].labels.tolist() == expected["noisy"]["labels_after"]
    assert found["random"].labels.tolist() == labels


def test_scenarios_refuse_what_cannot_be_drawn():
    with pytest.raises(ValueError, match="expected 3 shares in"):
        scenarios.draw_removal([0, 1, 2], [0.5, 0.5], seed=0)
    with pytest.raises(ValueError, match="2 images to forget and 1 to keep"):
        scenarios.draw_removal([0, 1, 1], [0, 1], seed=0)


@pytest.mark.parametrize("form", module.FORMS)
def test_the_head_stays_unless_it_is_repaired(form):
    table = tiny_classes(num_images=60)
    task = Task(tiny_model(num_outputs=4), table, "class:2", seed=3)
    plain = laf(task, form=form, num_epochs=2)
    repaired = laf(task, form=form, num_epochs=2, repair_epochs=1)
    for name, value in plain.named_parameters():
        is_head = name.startswith("fc.")
        assert torch.equal(value, task.model.get_parameter(name)) == is_head, name
        assert torch.equal(value, repaired.get_parameter(name)) != is_head, name


def test_corrected_losses_do_not_grow_with_the_batch():
    generator = torch.Generator().manual_seed(0)
    e = [torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(4)]
    vaes = [VAE((5, 4, 3, 2), is_bounded=False, seed=s).double() for s in (0, 1)]
    extraction = Extraction(*vaes, lambda x: torch.zeros(len(x), 2, dtype=x.dtype), is_summed=False)
    twice = [torch.cat([x, x]) for x in e]
    torch.testing.assert_close(extraction.loss(*e[:2]), extraction.loss(*twice[:2]))
    torch.testing.assert_close(
        alignment_loss(*e, temperature=2.0, is_summed=False), alignment_loss(*twice, temperature=2.0, is_summed=False)
    )
