"""Head reset: the cheapest way to silence a label or class, and the control to read every other method against."""

from __future__ import annotations

import torch
from torch import nn

from mlu_utils.data.table import ImageTable
from mlu_utils.models import copy_of, head
from mlu_utils.requests import ForgetRequest

NEVER = -100.0  # logit of a class that must not win: its probability is below 1e-40


def head_reset(model: nn.Module, table: ImageTable, request: ForgetRequest, *, seed: int) -> nn.Module:
    """Return a copy whose head row of the forgotten label or class is constant: the features still say all.

    A label's logit becomes 0, which says nothing; a class's logit becomes so low that it never wins.

    Args:
        model: the original model; not changed.
        table: the data.
        request: a label for everyone, or a class.
        seed: unused, there is nothing random; part of every method's signature.

    Raises:
        ValueError: another kind of request: a person has no row of the head.

    Source: ours, as a control.
    """
    del seed
    if request.kind not in ("label", "class"):
        raise ValueError(f"head_reset has no form for {request.kind} requests: a label or class has a row of the head")
    request.mask(table)
    unlearned = copy_of(model)
    layer = head(unlearned)
    row = table.label_index(request.name) if table.is_multi_label else table.class_index(request.name)
    with torch.no_grad():
        layer.weight[row] = 0
        layer.bias[row] = 0 if table.is_multi_label else NEVER
    return unlearned
