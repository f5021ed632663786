"""Training on what is kept alone: fine-tuning of the whole network, CF-k of its last layers, EU-k of new ones."""

from torch import nn

from mlu_utils.models import fresh_model
from mlu_utils.naming import require_at_least, require_choice
from mlu_utils.training import descend, sgd
from mlu_utils.unlearning.task import Task

COUNTINGS = ("blocks", "modules")


def finetune(
    task: Task,
    *,
    num_epochs: int = 10,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    batch_size: int = 64,
    batchnorm: str = "train",
) -> nn.Module:
    """Return a copy trained on the retain loss alone, in the hope that the rest fades.

    Source: defaults of Jia et al. (2023), Model Sparsity Can Simplify Machine Unlearning (its public code).

    Differs: none for people and classes; for a label the loss leaves the label out and keeps every image.
    """
    require_at_least(1, num_epochs=num_epochs)
    unlearned = task.start()
    kept = task.batches(batch_size).retain(num_epochs)
    optimizer = sgd(unlearned.parameters(), learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay)
    options = {"batchnorm": batchnorm, "seed": task.seed}
    descend(unlearned, kept, lambda batch: batch.retain_loss(unlearned), optimizer, **options)
    return unlearned


def last_layers(model: nn.Module, k: int, counting: str = "blocks") -> list[str]:
    """Return the names of the modules with weights that CF-k trains, from the output backwards.

    Counting "blocks", these are the last k stages, of a ResNet-18 and k = 3 the head, layer4 and layer3 (Choi and Na);
    a plain sequence counts one block a convolution, a network of a trunk and a head the blocks of its trunk. Counting
    "modules": single Conv2d and Linear modules as registered, of a ResNet-18 and k = 3 the head and both convolutions
    of the last block (Goel et al.). The BatchNorm layers on the way belong to them.
    """
    require_choice("counting", counting, COUNTINGS)
    stages = _stages(model) if counting == "blocks" else []
    groups: list[list[str]] = []
    last = None
    for name, module in model.named_modules():
        if not any(True for _ in module.parameters(recurse=False)):
            continue
        stage = next((s for s in stages if name.startswith(f"{s}.")), None)  # such as layer4 of layer4.1.conv2
        if not groups or (stage != last if stage else isinstance(module, nn.Conv2d | nn.Linear)):
            groups.append([])
        groups[-1].append(name)
        last = stage
    if not 1 <= k <= len(groups):
        raise ValueError(f"k must be in 1..{len(groups)} (the {counting} of this network), got {k}")
    return [name for group in groups[: -k - 1 : -1] for name in reversed(group)]


def _stages(model: nn.Module) -> list[str]:
    """Return the names of the network's parts with weights: its children, or theirs while there are only two."""
    stages = {"": model}
    while len(stages) <= 2 and any(any(m.children()) for m in stages.values()):
        stages = {
            f"{name}.{child}".strip("."): part
            for name, m in stages.items()
            for child, part in ([*m.named_children()] or [("", m)])
            if any(True for _ in part.parameters())
        }
    return list(stages)


def cf_k(
    task: Task,
    *,
    k: int = 3,
    counting: str = "blocks",
    is_reinitialised: bool = False,
    num_epochs: int = 2,
    learning_rate: float = 1e-3,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    batch_size: int = 64,
    batchnorm: str = "train",
    freezes_statistics: bool = True,
) -> nn.Module:
    """Return a copy whose `last_layers` were trained on the retain loss, everything below frozen.

    `freezes_statistics` keeps the running statistics of frozen BatchNorm layers too. For `is_reinitialised` see `eu_k`.

    Source: Goel et al. (2022), Towards Adversarial Evaluations for Inexact Machine Unlearning; Choi and Na (2023),
    public notebooks: k = 3, counting and the other defaults.

    Differs: running statistics of frozen layers stay by default; in the public codes they move.
    """
    require_at_least(1, num_epochs=num_epochs)
    unlearned = task.start()
    trained = last_layers(unlearned, k, counting)
    modules = dict(unlearned.named_modules())
    if is_reinitialised:
        for name, module in fresh_model(task.model, seed=task.seed).named_modules():
            if name in trained:
                modules[name].load_state_dict(module.state_dict())
    chosen = {id(p) for name in trained for p in modules[name].parameters(recurse=False)}
    for p in unlearned.parameters():
        p.requires_grad_(id(p) in chosen)
    parameters = [p for p in unlearned.parameters() if p.requires_grad]
    frozen = [m for name, m in modules.items() if isinstance(m, nn.BatchNorm2d) and name not in trained]
    kept = task.batches(batch_size).retain(num_epochs)
    optimizer = sgd(parameters, learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay)
    options = {"batchnorm": batchnorm, "frozen": frozen if freezes_statistics else (), "seed": task.seed}
    descend(unlearned, kept, lambda batch: batch.retain_loss(unlearned), optimizer, **options)
    return unlearned.requires_grad_(True)


def eu_k(
    task: Task,
    *,
    k: int = 3,
    counting: str = "blocks",
    num_epochs: int = 10,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 5e-5,
    batch_size: int = 64,
    batchnorm: str = "train",
    freezes_statistics: bool = True,
) -> nn.Module:
    """Return a copy whose last k layers were trained from new weights on the retain loss: CF-k with a fresh start.

    Source: Goel et al. (2022); weight decay, momentum and batch size of its public code.

    Differs: a constant rate instead of restarts, 10 epochs instead of 62, the network's own initialisation.
    """
    return cf_k(**locals(), is_reinitialised=True)
