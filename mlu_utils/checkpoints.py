"""Checkpoints: a network's weights and the facts about them in one safetensors file, which never runs code."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from mlu_utils.digests import digest
from mlu_utils.files import write_atomically
from mlu_utils.models import build_model, head, load_state


def checkpoint_key(facts: Mapping[str, Any]) -> str:
    """Return twelve digits that name a checkpoint by all that its model depends on."""
    return digest(facts)[:12]


def save_checkpoint(file: Path, model: nn.Module, metadata: dict) -> None:
    """Write a model of `build_model`, and facts that JSON can hold, to a file that appears only when it is whole."""
    facts = {"architecture": model.architecture, "num_outputs": head(model).out_features, **metadata}
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    text = json.dumps(facts, sort_keys=True)
    write_atomically({file: save(state, {"mlu": text, "sha256": _sha256(text, state)})})


def load_checkpoint(
    file: Path,
    *,
    architecture: str | None = None,
    num_outputs: int | None = None,
    facts: Mapping[str, Any] | None = None,
) -> tuple[nn.Module, dict]:
    """Return the model in eval mode and its metadata; no code of the file is executed.

    What is given as architecture, num_outputs or facts is what the metadata must say under this name.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is damaged, holds something else than expected, or a number that is not finite.
    """
    if not file.is_file():
        raise FileNotFoundError(f"checkpoint {file} is missing: train the model first")
    try:
        with safe_open(file, "pt") as stream:
            header = stream.metadata() or {}
            state = {name: stream.get_tensor(name) for name in stream.keys()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"checkpoint {file} is damaged ({error}): delete it and train again") from error
    if "mlu" not in header:
        raise ValueError(f"checkpoint {file} was not written by save_checkpoint: it says no architecture")
    metadata = json.loads(header["mlu"])
    for name, expected in (("architecture", architecture), ("num_outputs", num_outputs), ("facts", facts)):
        if expected is not None and metadata.get(name) != expected:
            raise ValueError(f"checkpoint {file} has {name} {metadata.get(name)!r}, expected {expected!r}")
    model = build_model(metadata["architecture"], metadata["num_outputs"], seed=0)
    for name, value in model.state_dict().items():
        if name in state and state[name].dtype != value.dtype:
            raise ValueError(f"checkpoint {file}: {name} is {state[name].dtype}, expected {value.dtype}")
        if name in state and not state[name].isfinite().all():
            raise ValueError(f"checkpoint {file}: {name} holds numbers that are not finite; train again")
    load_state(model, state, file)
    if header.get("sha256") != _sha256(header["mlu"], state):
        raise ValueError(f"checkpoint {file} is damaged (its weights are not those written): delete it and train again")
    return model.eval(), metadata


def _sha256(text: str, state: Mapping[str, torch.Tensor]) -> str:
    """Return the digest of metadata and weights."""
    found = hashlib.sha256(text.encode())
    for name in sorted(state):
        found.update(f"{name} {state[name].dtype} {tuple(state[name].shape)}".encode())
        found.update(state[name].contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()
