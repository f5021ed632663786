"""A user's own network and tensors: networks of torchvision with dropout, gates and a head of another name."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torchvision
from conftest import same_bits

import mlu_utils
from mlu_utils import ForgetRequest, ImageTable, paths, unlearn
from mlu_utils.models import head
from mlu_utils.training import predict_logits
from mlu_utils.unlearning import METHODS
from mlu_utils.unlearning.finetune import last_layers

HEADS = {"mobilenet_v3_small": "classifier.3", "efficientnet_b0": "classifier.1"}
# One pass each, and little noise: what is tested is that they work, not that they forget.
FEW = {"num_epochs": 1, "num_rounds": 1, "num_noise_images": 2, "noise_steps": 2, "instance_noise_steps": 2}


def my_table(*, num_classes: int = 0) -> ImageTable:
    """Twelve images of 32 px of six people, eight of them for training; three labels, or one of some classes."""
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(12, 3, generator=generator) < 0.5).float()
    labels[:2] = torch.tensor([[0.0], [1.0]])
    return ImageTable(
        images=torch.randint(0, 256, (12, 3, 32, 32), generator=generator, dtype=torch.uint8),
        labels=torch.arange(12)[:, None] % num_classes if num_classes else labels,
        label_names=("kind",) if num_classes else ("smile", "hat", "beard"),
        identity=torch.arange(12) // 2,
        split=torch.tensor([0] * 8 + [1, 1, 2, 2], dtype=torch.int8),
        source="mine",
        class_names=tuple("abcd"[:num_classes]),
    )


def network(name: str, num_outputs: int = 3) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(torchvision.models, name)(num_classes=num_outputs).eval()


def few(method: str) -> dict:
    return {name: value for name, value in FEW.items() if name in METHODS[method].hyperparameters}


def test_the_example_of_the_readme_runs(capsys):
    readme = (paths.ROOT / "README.md").read_text(encoding="utf-8")
    example = readme.partition("<!-- example: run by tests/test_user_models.py -->")[2].partition("<!-- end of")[0]
    exec(example.partition("```python\n")[2].partition("```")[0], {})
    assert "torch.Size([1, 3])" in capsys.readouterr().out


def test_the_library_in_ten_lines():
    images = torch.rand(40, 3, 32, 32)
    labels = torch.randint(0, 2, (40, 2))
    model = torchvision.models.mobilenet_v3_small(num_classes=2)

    table = ImageTable.from_tensors(images, labels, ["smile", "hat"])
    unlearned, record = unlearn("WP", model, table, "label:smile", seed=7, head="classifier.3")

    assert record.request == "label:smile" and record.unlearning_time_s > 0
    logits = predict_logits(unlearned, table, table.rows("test"))
    assert logits[:, 0].eq(0).all() and logits[:, 1].ne(0).any()
    assert model.training and not hasattr(model, "head_name")


CASES = [
    ("mobilenet_v3_small", 0, "label:hat"),
    ("mobilenet_v3_small", 0, "people:0,2"),
    ("efficientnet_b0", 4, "class:b"),
]
RUNS = [(m, *case) for m in METHODS for case in CASES if ForgetRequest.parse(case[2]).kind in METHODS[m].kinds]


@pytest.mark.parametrize(("method", "name", "num_classes", "text"), RUNS)
def test_every_method_takes_a_network_of_torchvision(method, name, num_classes, text):
    table = my_table(num_classes=num_classes)
    model = network(name, table.num_outputs)
    first, again = (
        unlearn(method, model, table, text, seed=seed, head=HEADS[name], **few(method))[0] for seed in (3, 3)
    )
    assert same_bits(first, again) and not any(m.training for m in first.modules())
    assert same_bits(model, network(name, table.num_outputs)) and not hasattr(model, "head_name")
    assert head(first) is first.get_submodule(HEADS[name])  # whoever scores it finds the head
    assert any(not torch.equal(p, q) for p, q in zip(model.parameters(), first.parameters(), strict=True))
    assert all(value.isfinite().all() for value in first.state_dict().values())


def test_the_runs_are_all_there():
    assert len(RUNS) >= 38  # HeadReset has two, twelve others have three, and there may be methods of other packages


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("method", ["HeadReset", "SCRUB", "WF", "WP"])
def test_without_a_head_the_error_says_what_to_pass(method, name):
    """Methods that only train need no head."""
    table, message = my_table(), f"no Linear layer named %s: pass head='{HEADS[name]}'"
    with pytest.raises(ValueError, match=message % "fc"):
        unlearn(method, network(name), table, "label:hat", **few(method))
    with pytest.raises(ValueError, match=message % "classifier"):
        unlearn(method, network(name), table, "label:hat", head="classifier", **few(method))


@pytest.mark.parametrize(
    ("name", "number", "last_three"),
    [
        ("mobilenet_v3_small", 15, ["classifier.3", "classifier.0", "features.12.1", "features.12.0"]),
        ("efficientnet_b0", 10, ["classifier.1", "features.8.1", "features.8.0", "features.7.0.block"]),
        ("vgg11_bn", 11, ["classifier.6", "classifier.3", "classifier.0"]),
        ("densenet121", 9, ["classifier", "features.norm5", "features.denseblock4", "features.transition3"]),
    ],
)
def test_the_last_blocks_of_a_trunk_and_a_head_are_those_of_the_trunk(name, number, last_three):
    with torch.device("meta"):
        model = getattr(torchvision.models, name)(num_classes=3)
    names = last_layers(model, 3)
    assert all(any(n == w or n.startswith(f"{w}.") for w in last_three) for n in names)
    assert all(any(n == w or n.startswith(f"{w}.") for n in names) for w in last_three)
    with_weights = [n for n, m in model.named_modules() if any(True for _ in m.parameters(recurse=False))]
    assert sorted(last_layers(model, number)) == sorted(with_weights)
    with pytest.raises(ValueError, match=rf"k must be in 1..{number} "):
        last_layers(model, number + 1)


def test_the_names_of_the_front_door_come_when_they_are_asked_for():
    code = (
        "import sys, mlu_utils\n"
        "assert 'torch' not in sys.modules\n"
        "from mlu_utils import ForgetRequest, ImageTable, Study, unlearn\n"
        "assert unlearn.__module__ == 'mlu_utils.unlearning'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert all(getattr(mlu_utils, name).__name__ == name for name in mlu_utils.__all__)
    with pytest.raises(AttributeError, match="module 'mlu_utils' has no attribute 'unlearned'"):
        mlu_utils.unlearned  # noqa: B018
