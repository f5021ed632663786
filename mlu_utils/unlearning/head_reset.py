"""Head reset: the cheapest way to silence a label, and the control that every other method must be read against."""

from __future__ import annotations

import torch
from torch import nn

from mlu_utils.data.table import ImageTable
from mlu_utils.models import copy_of, head
from mlu_utils.requests import ForgetRequest


def head_reset(model: nn.Module, table: ImageTable, request: ForgetRequest, *, seed: int) -> nn.Module:
    """Return a copy whose head row of the forgotten label is 0: the logit says nothing, the features say all.

    Args:
        model: the original model; not changed.
        table: the data.
        request: a label for everyone.
        seed: unused, there is nothing random; part of every method's signature.

    Raises:
        ValueError: another kind of request; a class cannot be silenced by a logit of 0 among the others, and a
            person has no row of the head.

    Source: ours, as a control.
    """
    del seed
    if request.kind != "label":
        raise ValueError(f"head_reset has no form for {request.kind} requests: only a label has a head row of its own")
    request.mask(table)
    unlearned = copy_of(model)
    layer, row = head(unlearned), table.label_index(request.name)
    with torch.no_grad():
        layer.weight[row] = 0
        if layer.bias is not None:
            layer.bias[row] = 0
    return unlearned
