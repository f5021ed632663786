"""Unlearning methods, one file each, and `unlearn`, which runs one and says what it cost.

Contract: `method(model, table, request, *, seed, <explicit hyperparameters>)` returns a new module in eval mode and
leaves its input untouched; same seed, same result; no printing, saving or scoring.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from mlu_utils.data.table import ImageTable
from mlu_utils.naming import choices
from mlu_utils.requests import KINDS, ForgetRequest
from mlu_utils.devices import Timer, peak_memory_mib
from mlu_utils.training import device_of
from mlu_utils.unlearning import (
    cf_k,
    finetune,
    head_reset,
    neggrad,
    retrain,
    salun,
    scrub,
    ssd,
    unsir,
    weight_filtering,
    weight_pruning,
)
from mlu_utils.unlearning.selection import READINGS


@dataclass(frozen=True)
class Method:
    """A method and what it can do."""

    function: Callable[..., nn.Module]
    display_name: str
    paper: str
    kinds: tuple[str, ...] = KINDS
    readings: tuple[str, ...] = ("-",)

    @property
    def hyperparameters(self) -> dict:
        """Names and defaults of the keyword arguments other than the seed."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "seed"}


_MLU = "Hossain, Marasco, Lin and King (2025), I Forgot About You!, ECML PKDD"
_CF_K = "Goel et al. (2022), Towards Adversarial Evaluations for Inexact Machine Unlearning"

METHODS = {
    "Retrain": Method(retrain.retrain, "Retrain", "the reference of every unlearning paper"),
    "HeadReset": Method(
        head_reset.head_reset, "Head reset (control)", "none: a control of ours", kinds=("label", "class")
    ),
    "FT": Method(finetune.finetune, "Fine-tuning", "a lower bound in every unlearning paper"),
    "CF-k": Method(cf_k.cf_k, "Catastrophic forgetting-k", _CF_K),
    "EU-k": Method(cf_k.eu_k, "Exact unlearning-k", _CF_K),
    "NegGrad": Method(neggrad.neggrad, "NegGrad", "Golatkar, Achille and Soatto (2020), Eternal Sunshine, CVPR"),
    "AdvNegGrad": Method(neggrad.advanced_neggrad, "Advanced NegGrad", "Choi and Na (2023), MUFAC and MUCAC"),
    "UNSIR": Method(unsir.unsir, "UNSIR", "Tarun et al. (2023), Fast Yet Effective Machine Unlearning, TNNLS"),
    "SCRUB": Method(scrub.scrub, "SCRUB", "Kurmanji et al. (2023), Towards Unbounded Machine Unlearning, NeurIPS"),
    "SalUn": Method(salun.salun, "SalUn", "Fan et al. (2024), SalUn, ICLR"),
    "SSD": Method(ssd.ssd, "Selective synaptic dampening", "Foster, Schoepf and Brintrup (2024), SSD, AAAI"),
    "WF": Method(weight_filtering.weight_filtering, "Weight Filtering", _MLU, readings=READINGS),
    "WP": Method(weight_pruning.weight_pruning, "Weight Pruning", _MLU, readings=READINGS),
}


def require_method(name: str) -> Method:
    """Return the method of this name.

    Raises:
        ValueError: unknown method; the message lists the known ones and the nearest.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}: {choices(name, METHODS)}")
    return METHODS[name]


def require_kind(name: str, kind: str) -> Method:
    """Return the method of this name if it takes this kind of request.

    Raises:
        ValueError: unknown method, or a kind that it refuses.
    """
    method = require_method(name)
    if kind not in method.kinds:
        raise ValueError(f"{name} has no form for {kind} requests: it takes {', '.join(method.kinds)}")
    return method


@dataclass(frozen=True)
class UnlearningRecord:
    """What one run of a method cost."""

    method: str
    request: str
    seed: int
    hyperparameters: dict
    unlearning_time_s: float
    peak_memory_mib: float  # of the process (CPU) or of the allocator (CUDA) up to the end of the run


def unlearn(
    name: str, model: nn.Module, table: ImageTable, request: ForgetRequest, *, seed: int, **hyperparameters
) -> tuple[nn.Module, UnlearningRecord]:
    """Run a method by name and return the unlearned model with a record of what it cost.

    Everything that the method needs is inside the measured time: calibration, scoring, selection, fine-tuning.

    Raises:
        ValueError: unknown method or hyperparameter, or a kind of request that the method does not take.
    """
    method = require_kind(name, request.kind)
    unknown = set(hyperparameters) - set(method.hyperparameters)
    if unknown:
        known = ", ".join(method.hyperparameters) or "none"
        raise ValueError(f"{name} has no hyperparameter {', '.join(sorted(unknown))}: it takes {known}")
    device = device_of(model)
    with Timer(device) as timer:
        unlearned = method.function(model, table, request, seed=seed, **hyperparameters)
    record = UnlearningRecord(name, str(request), seed, hyperparameters, timer.seconds, peak_memory_mib(device))
    return unlearned, record
