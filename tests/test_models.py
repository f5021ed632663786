"""Networks and checkpoints: what is written comes back bit for bit, anything else is refused by name."""

from __future__ import annotations

import os
import pickle

import pytest
import torch
from conftest import same_bits, tiny_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from mlu_utils import files
from mlu_utils.checkpoints import checkpoint_key, load_checkpoint, save_checkpoint
from mlu_utils.models import MODELS, build_model, copy_of, fresh_model, head


@pytest.fixture
def trained():
    """Return a small_cnn whose buffers have moved."""
    model = build_model("small_cnn", 3, seed=1)
    model.train()(torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    return model


def test_the_seed_decides_the_weights():
    assert same_bits(build_model("small_cnn", 3, seed=1), build_model("small_cnn", 3, seed=1))
    assert not same_bits(build_model("small_cnn", 3, seed=1), build_model("small_cnn", 3, seed=2))


def test_building_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    build_model("small_cnn", 3, seed=1)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", MODELS)
def test_every_network_ends_in_its_head(name):
    model = build_model(name, 5, seed=0).eval()
    features = []
    head(model).register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    with torch.no_grad():
        logits = model(torch.randn(2, 3, 16, 16))
    assert logits.shape == (2, 5) and head(model).out_features == 5
    assert torch.equal(logits, head(model)(features[0]))
    assert model.architecture == name


def test_unknown_architecture():
    with pytest.raises(ValueError, match="unknown model 'resnet81': choose one of resnet18, resnet50, small_cnn, laf"):
        build_model("resnet81", 3, seed=0)


def test_a_network_without_head_is_refused():
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    with pytest.raises(ValueError, match="Sequential has no Linear layer named fc: pass head='2'"):
        head(network)
    network.head_name = "0"
    assert head(network) is network[0]
    model = tiny_model()
    model.fc = nn.Identity()
    with pytest.raises(ValueError, match="TinyNet has no Linear layer named fc: a network needs one to have labels"):
        head(model)


def test_a_fresh_model_has_new_weights_under_the_seed():
    model = build_model("small_cnn", 3, seed=1)
    assert same_bits(fresh_model(model, seed=2), build_model("small_cnn", 3, seed=2))


def test_a_fresh_model_of_a_network_that_we_did_not_build():
    model = tiny_model().eval()
    del model.architecture
    fresh, state = fresh_model(model, seed=2), torch.get_rng_state()
    again = fresh_model(model, seed=2)
    assert same_bits(fresh, again) and torch.equal(state, torch.get_rng_state())
    assert not same_bits(fresh, fresh_model(model, seed=3)) and same_bits(model, tiny_model())
    for name, p in fresh.named_parameters():
        assert name.startswith("bn") or not torch.equal(p, model.get_parameter(name))
    assert fresh.bn.running_mean.eq(0).all() and fresh.bn.weight.eq(1).all()


def test_a_copy_shares_nothing():
    model = tiny_model().train()
    copy = copy_of(model)
    assert same_bits(copy, model) and not copy.training and model.training and copy.architecture == "tiny"
    for p in copy.parameters():
        p.data.zero_()
    assert same_bits(model, tiny_model())


# Checkpoints


def test_round_trip_is_bit_identical(trained, tmp_path):
    file = tmp_path / "new" / "folder" / "original.safetensors"
    save_checkpoint(file, trained, {"seed": 1, "labels": ["a", "b"]})
    loaded, facts = load_checkpoint(file, architecture="small_cnn", num_outputs=3)
    assert same_bits(loaded, trained) and not loaded.training and loaded.architecture == "small_cnn"
    assert facts == {"seed": 1, "labels": ["a", "b"], "architecture": "small_cnn", "num_outputs": 3}
    assert [f.name for f in file.parent.iterdir()] == ["original.safetensors"]


def test_channels_last_weights_come_back(trained, tmp_path):
    trained.to(memory_format=torch.channels_last)
    save_checkpoint(tmp_path / "m.safetensors", trained, {})
    assert same_bits(load_checkpoint(tmp_path / "m.safetensors")[0], trained)


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()])
def test_a_half_written_file_never_stays(trained, tmp_path, monkeypatch, error):
    file = tmp_path / "m.safetensors"
    save_checkpoint(file, trained, {"version": 1})

    def fail(descriptor):
        raise error

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(type(error)):
        save_checkpoint(file, trained, {"version": 2})
    assert [f.name for f in tmp_path.iterdir()] == ["m.safetensors"] and load_checkpoint(file)[1]["version"] == 1


def test_a_key_names_facts_whatever_their_order():
    assert checkpoint_key({"a": 1, "b": None}) == checkpoint_key({"b": None, "a": 1}) != checkpoint_key({"a": 1})
    assert len(checkpoint_key({})) == 12


def changed(file, change):
    """Write the file again with other weights under its old header."""
    with safe_open(file, "pt") as stream:
        header = stream.metadata()
    save_file(change(load_file(file)), file, header)


def one_bit(state):
    weights = state["fc.weight"].view(torch.int32)
    weights[0, 0] = weights[0, 0] ^ 1
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (one_bit, "is damaged .its weights are not those written.: delete it and train again"),
        (
            lambda state: {n: v.half() if n == "fc.weight" else v for n, v in state.items()},
            "fc.weight is torch.float16",
        ),
        (lambda state: state | {"fc.bias": torch.full((3,), torch.nan)}, "fc.bias holds numbers that are not finite"),
    ],
)
def test_weights_that_were_not_written_are_refused(trained, tmp_path, change, message):
    file = tmp_path / "m.safetensors"
    save_checkpoint(file, trained, {})
    load_checkpoint(file)
    changed(file, change)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(file)


def test_a_checkpoint_of_other_facts_is_refused(trained, tmp_path):
    file = tmp_path / "m.safetensors"
    save_checkpoint(file, trained, {"facts": {"seed": 1}})
    assert load_checkpoint(file, facts={"seed": 1})[1]["facts"] == {"seed": 1}
    with pytest.raises(ValueError, match=r"has facts {'seed': 1}, expected {'seed': 2}"):
        load_checkpoint(file, facts={"seed": 2})


def test_missing_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="checkpoint .*none.safetensors is missing: train the model first"):
        load_checkpoint(tmp_path / "none.safetensors")


def test_checkpoint_of_another_architecture(trained, tmp_path):
    file = tmp_path / "m.safetensors"
    save_checkpoint(file, trained, {})
    with pytest.raises(ValueError, match="m.safetensors has architecture 'small_cnn', expected 'resnet18'"):
        load_checkpoint(file, architecture="resnet18")
    with pytest.raises(ValueError, match="m.safetensors has num_outputs 3, expected 8"):
        load_checkpoint(file, num_outputs=8)


def test_checkpoint_that_lies_about_its_architecture(trained, tmp_path):
    file = tmp_path / "m.safetensors"
    save_checkpoint(file, trained, {"num_outputs": 4})
    with pytest.raises(ValueError, match="(?s)m.safetensors does not hold the weights of a small_cnn: .*fc.weight"):
        load_checkpoint(file)


@pytest.mark.parametrize("length", [0, 4, 100, 0.5, 0.99])
def test_truncated_checkpoint(trained, tmp_path, length):
    file = tmp_path / "m.safetensors"
    save_checkpoint(file, trained, {})
    size = file.stat().st_size
    os.truncate(file, int(length * size) if isinstance(length, float) else length)
    with pytest.raises(ValueError, match=r"checkpoint .*m.safetensors is damaged \(.*\): delete it and train again"):
        load_checkpoint(file)


def test_file_of_somebody_else(tmp_path):
    save_file({"w": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="foreign.safetensors was not written by save_checkpoint"):
        load_checkpoint(tmp_path / "foreign.safetensors")


class _Malicious:
    def __reduce__(self):
        return (os.mkdir, (os.environ["MLU_TEST_MARK"],))


def test_a_pickle_is_no_checkpoint_and_is_not_executed(tmp_path, monkeypatch):
    monkeypatch.setenv("MLU_TEST_MARK", str(tmp_path / "executed"))
    (tmp_path / "m.safetensors").write_bytes(pickle.dumps(_Malicious()))
    with pytest.raises(ValueError, match="m.safetensors is damaged"):
        load_checkpoint(tmp_path / "m.safetensors")
    assert not (tmp_path / "executed").exists()


# Pretrained weights


def test_pretrained_weights_fill_all_but_the_head(trained, tmp_path):
    torch.save(trained.state_dict(), tmp_path / "w.pth")
    model = build_model("small_cnn", 7, seed=5, pretrained_weights=tmp_path / "w.pth")
    state = model.state_dict()
    for name, value in trained.state_dict().items():
        if not name.startswith("fc."):
            assert torch.equal(state[name], value)
    assert torch.equal(model.fc.weight, build_model("small_cnn", 7, seed=5).fc.weight)


def test_missing_pretrained_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match="pretrained weights .*w.pth are missing: download them or leave"):
        build_model("small_cnn", 3, seed=0, pretrained_weights=tmp_path / "w.pth")


def test_pretrained_weights_of_another_network(tmp_path):
    torch.save({"module.conv1.weight": torch.zeros(2)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="(?s)w.pth does not hold the weights of a small_cnn: .*module.conv1.weight"):
        build_model("small_cnn", 3, seed=0, pretrained_weights=tmp_path / "w.pth")


def build_from(file):
    return build_model("small_cnn", 3, seed=0, pretrained_weights=file)


def test_a_pickle_as_pretrained_weights_is_not_executed(tmp_path, monkeypatch):
    monkeypatch.setenv("MLU_TEST_MARK", str(tmp_path / "executed"))
    torch.save({"fc.weight": _Malicious()}, tmp_path / "w.pth")
    with pytest.raises(Exception, match="[Ww]eights.only"):
        build_from(tmp_path / "w.pth")
    assert not (tmp_path / "executed").exists()
    torch.load(tmp_path / "w.pth", weights_only=False)
    assert (tmp_path / "executed").exists()  # the file does bite, so the check above can fail


@pytest.mark.parametrize("kind", ["malicious", "garbage", "truncated", "tensor"])
def test_unreadable_pretrained_weights_are_named(tmp_path, monkeypatch, trained, kind):
    monkeypatch.setenv("MLU_TEST_MARK", str(tmp_path / "executed"))
    file = tmp_path / "w.pth"
    content = {"malicious": {"fc.weight": _Malicious()}, "tensor": torch.zeros(2)}.get(kind, trained.state_dict())
    torch.save(content, file)
    if kind == "garbage":
        file.write_bytes(b"<!DOCTYPE html>")
    if kind == "truncated":
        os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(ValueError, match=r"w\.pth"):
        build_from(file)


@pytest.mark.parametrize("kept", [0, 3])
def test_pretrained_weights_with_holes_are_refused(tmp_path, trained, kept):
    torch.save(dict(list(trained.state_dict().items())[:kept]), tmp_path / "w.pth")
    with pytest.raises(ValueError, match="does not hold the weights of a small_cnn"):
        build_from(tmp_path / "w.pth")
