"""Essential graph: parity with the authors' own code, and where ours differs from it on purpose."""

from __future__ import annotations

import pytest
import torch
from conftest import doubles, golden, tiny_model, tiny_table
from torch import nn
from torchvision.models import resnet18

from mlu_utils.models import SmallCNN
from mlu_utils.unlearning.essential_graph import (
    channel_weights,
    conv_layers,
    essential_channels,
    essential_graph,
    graph_layers,
    node_values,
    prune,
    pruned_channels,
)
from mlu_utils.unlearning.task import Task

BALANCE = {"balance": "protected", "none": "none", "multi": "value", "single": "protected"}


class Stored(nn.Module):
    """The network of the stored values: convolutions with BatchNorm and ReLU, mean over space, two linear layers."""

    def __init__(self, inputs: dict) -> None:
        super().__init__()
        names, width = inputs["conv_names"], 3
        self.rows = [(name, name.replace("conv", inputs["norm_name"])) for name in names]
        for (conv, norm), c_out, kernel in zip(self.rows, inputs["widths"], inputs["kernels"], strict=True):
            self.add_module(conv, nn.Conv2d(width, c_out, kernel, 1, kernel // 2, bias=inputs["conv_bias"]))
            self.add_module(norm, nn.BatchNorm2d(c_out))
            width = c_out
        self.linear1, self.linear2 = nn.Linear(width, 5), nn.Linear(5, len(inputs["targets"]))
        state = {name: doubles(values) for name, values in inputs["weights"].items()}
        self.double().eval().load_state_dict(state, strict=False)
        assert {n for n in self.state_dict() if "num_batches" not in n} == set(state)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv, norm in self.rows:
            x = self.get_submodule(norm)(self.get_submodule(conv)(x)).relu()
        return self.linear2(self.linear1(x.mean((2, 3))))


def load(name: str) -> tuple[dict, dict, Stored, list[str]]:
    inputs, outputs = golden(name)
    # All files but the last convolution belong to the published graph: the five in front of it.
    return inputs, outputs, Stored(inputs), inputs["conv_names"][-6:-1]


def weights_of(model: Stored, inputs: dict, layers: list[str]) -> dict[str, torch.Tensor]:
    """Layer -> (T, C), as published: one image a target, probability, before BatchNorm."""
    of_targets = [
        channel_weights(model, doubles([image]), [target], layers, score="probability", place="conv")
        for target, image in enumerate(inputs["images"])
    ]
    return {name: torch.cat([of[name][:, 0] for of in of_targets]) for name in layers}


def forgotten(inputs: dict, case: dict) -> torch.Tensor:
    chosen = torch.zeros(len(inputs["targets"]), dtype=torch.bool)
    chosen[case["forget"]] = True
    return chosen


@pytest.mark.parametrize("name", ["", "_dead_channels", "_substring", "_bn_name"])
def test_probabilities_and_channel_weights_are_the_published_ones(name):
    inputs, outputs, model, layers = load(f"essential_graph{name}")
    images = doubles(inputs["images"])
    torch.testing.assert_close(model(images).sigmoid(), doubles(outputs["probabilities_before"]), rtol=0, atol=1e-9)
    found = weights_of(model, inputs, layers)
    for layer in layers:
        expected = doubles([outputs["channel_weights"][layer][target] for target in inputs["targets"]])
        torch.testing.assert_close(found[layer], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("number", range(7))
def test_graphs_and_pruned_models_are_the_published_ones(number):
    inputs, outputs, model, _ = load("essential_graph")
    case, expected = inputs["cases"][number], outputs["cases"][number]
    layers, targets = expected["layers_of_graph"], inputs["targets"]
    is_forgotten = forgotten(inputs, case)
    chosen = {
        layer: essential_channels(weights, case["proportion"])
        for layer, weights in weights_of(model, inputs, layers).items()
    }
    for layer in layers:
        found = {t: chosen[layer][k].nonzero().flatten().tolist() for k, t in enumerate(targets)}
        wanted = expected["selected"][layer]
        assert {t: found[t] for t in wanted} == wanted
        if case["graph"] != "none":
            assert node_values(chosen[layer], is_forgotten).tolist() == expected["node_values"][layer]
    if case["graph"] == "single":
        layers = layers[-1:]
    goes = {layer: pruned_channels(chosen[layer], is_forgotten, BALANCE[case["graph"]]) for layer in layers}
    found = {layer: of.nonzero().flatten().tolist() for layer, of in goes.items() if of.any()}
    assert found == expected["pruned"]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    prune(model, goes)
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert sorted(changed) == sorted(expected["changed_tensors"])
    after = model(doubles(inputs["images"])).sigmoid()
    torch.testing.assert_close(after, doubles(expected["probabilities_after"]), rtol=0, atol=1e-9)


def test_with_balance_a_channel_that_another_target_needs_stays():
    """The published rule for several targets prunes it: conv3 channel 1 and conv4 channels 1 and 11 have value 5."""
    inputs, outputs, model, layers = load("essential_graph")
    number = [case["name"] for case in inputs["cases"]].index("balance_two_p30")
    is_forgotten = forgotten(inputs, inputs["cases"][number])
    weights = weights_of(model, inputs, layers)
    for layer, shared in (("conv3", {1}), ("conv4", {1, 11})):
        chosen = essential_channels(weights[layer], 0.3)
        assert set((node_values(chosen, is_forgotten) == 5).nonzero().flatten().tolist()) == shared
        protected = pruned_channels(chosen, is_forgotten, "protected").nonzero().flatten().tolist()
        assert set(outputs["cases"][number]["pruned"][layer]) - set(protected) == shared


@pytest.mark.parametrize("number", range(7))
def test_of_equal_weights_as_many_channels_are_chosen_as_asked_for(number):
    """The published code maps tied weights to the first of them, so it chooses fewer."""
    inputs, outputs, model, layers = load("essential_graph_dead_channels")
    case, expected = inputs["cases"][number], outputs["cases"][number]
    fewer = 0
    for layer, weights in weights_of(model, inputs, layers).items():
        chosen = essential_channels(weights, case["proportion"])
        assert chosen.sum(1).unique().tolist() == [int(case["proportion"] * weights.shape[1])]
        for k, target in enumerate(inputs["targets"]):
            published = expected["selected"].get(layer, {}).get(target)
            if published is not None:
                assert set(weights[k][published].tolist()) == set(weights[k][chosen[k]].tolist())
                fewer += len(published) < int(chosen[k].sum())
    assert fewer or case["proportion"] < 0.5  # with .3 conv5 has no tie among the chosen


def test_names_of_layers_are_matched_as_a_whole():
    """The published code finds conv1 in conv10 and prunes there, too."""
    inputs, outputs, model, layers = load("essential_graph_substring")
    case, expected = inputs["cases"][0], outputs["cases"][0]
    chosen = {
        layer: essential_channels(weights, case["proportion"])
        for layer, weights in weights_of(model, inputs, layers).items()
    }
    goes = {layer: pruned_channels(of, forgotten(inputs, case)) for layer, of in chosen.items()}
    prune(model, goes)
    zero = {
        name: rows
        for name in inputs["conv_names"]
        if (rows := (model.get_submodule(name).weight == 0).all((1, 2, 3)).nonzero().flatten().tolist())
    }
    assert "conv1" in zero and "conv10" not in zero and "conv10" in expected["pruned"]
    assert zero == {name: rows for name, rows in expected["pruned"].items() if name != "conv10"}


def test_the_norm_of_a_convolution_is_pruned_whatever_it_is_called():
    """The published code looks for "batchnorm" and leaves `bn1` alone: the channel then stays at a constant."""
    inputs, outputs, model, layers = load("essential_graph_bn_name")
    case, expected = inputs["cases"][0], outputs["cases"][0]
    assert conv_layers(model) == {conv: norm for conv, norm in model.rows}
    weights = weights_of(model, inputs, layers)
    goes = {
        layer: pruned_channels(essential_channels(of, case["proportion"]), forgotten(inputs, case))
        for layer, of in weights.items()
    }
    prune(model, goes)
    assert {n: of.nonzero().flatten().tolist() for n, of in goes.items() if of.any()} == expected["pruned"]
    assert not any("bn" in name for name in expected["changed_tensors"])
    seen = {}
    for conv, norm in model.rows:
        model.get_submodule(norm).register_forward_hook(lambda _m, _i, out, conv=conv: seen.update({conv: out}))
    model(doubles(inputs["images"]))
    for conv, of in goes.items():
        assert (seen[conv][:, of] == 0).all()
    after = model(doubles(inputs["images"])).sigmoid()
    assert (after - doubles(expected["probabilities_after"])).abs().max() > 1e-6


def test_the_last_convolutions_without_projections_are_the_graph():
    names = graph_layers(resnet18(), 5)
    assert names == ["layer3.1.conv2", "layer4.0.conv1", "layer4.0.conv2", "layer4.1.conv1", "layer4.1.conv2"]
    assert graph_layers(SmallCNN(2), 2) == ["trunk.3", "trunk.6"]
    assert conv_layers(resnet18())["layer4.0.downsample.0"] == "layer4.0.downsample.1"
    assert graph_layers(SmallCNN(2), 5) == ["trunk.0", "trunk.3", "trunk.6"]


def test_channel_weights_are_gradients_of_each_image():
    """Against finite differences: moving a channel behind BatchNorm by a constant moves the logit by weight x area."""
    torch.manual_seed(0)
    model = SmallCNN(2).double().eval()
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.weight.data.uniform_(-1, 1)
        norm.running_mean.normal_()
    images = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    for place, layer in (("norm", "trunk.4"), ("conv", "trunk.3")):
        found = channel_weights(model, images, [1], ["trunk.3"], place=place)["trunk.3"][0]
        for channel in (0, 7):

            def moved(by: float, layer=layer, channel=channel) -> torch.Tensor:
                def hook(_m, _i, out):
                    out = out.clone()
                    out[:, channel] += by
                    return out

                with model.get_submodule(layer).register_forward_hook(hook), torch.no_grad():
                    return model(images)[:, 1]

            difference = (moved(1e-6) - moved(-1e-6)) / 2e-6 / 16  # 4 x 4 positions
            torch.testing.assert_close(found[:, channel], difference, rtol=1e-5, atol=1e-9)


def test_a_pruned_channel_says_nothing_any_more():
    table, model = tiny_table(), tiny_model()
    task = Task(model, table, "label:label0", seed=1)
    pruned = essential_graph(task, proportion=0.5, num_layers=2, balance="none")
    rows = (pruned.conv1.weight == 0).all((1, 2, 3))
    assert rows.sum() == 1 and (pruned.conv1.bias[rows] == 0).all()
    assert (pruned.bn.weight[rows] == 0).all() and (pruned.bn.bias[rows] == 0).all()
    assert (pruned.conv2.weight == 0).all((1, 2, 3)).sum() == 1
    with pytest.raises(ValueError, match=r"proportion must be in \(0, 1\], got 0"):
        essential_graph(task, proportion=0)
