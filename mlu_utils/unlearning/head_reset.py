"""Head reset: the cheapest way to silence a label or class, and the control to read every other method against."""

import torch
from torch import nn

from mlu_utils.models import copy_of, head
from mlu_utils.unlearning.task import Task

NEVER = -100.0  # logit of a class that must not win: its probability is below 1e-40


@torch.no_grad()
def head_reset(task: Task) -> nn.Module:
    """Return a copy whose head row of the forgotten label or class is constant: the features still say all.

    A label's logit becomes 0, which says nothing; a class's logit becomes so low that it never wins. Nothing is
    random, so the task's seed does not matter.

    Source: ours, as a control.
    """
    if (kind := task.request.kind) not in ("label", "class"):
        raise ValueError(f"head_reset has no form for {kind} requests: a label or class has a row of the head")
    unlearned, table = copy_of(task.model), task.table
    layer = head(unlearned)
    index = table.label_index if table.is_multi_label else table.class_index
    rows = [index(name) for name in task.request.names]
    layer.weight[rows] = 0
    layer.bias[rows] = 0 if table.is_multi_label else NEVER
    return unlearned
