"""Shadow networks for membership attacks: each learns half of the targets and is then made to forget them again.

A target is what a deletion request may name: a single image, or a person with all photos. The networks and what they
put out come from here; the attacks, which know arrays only, lie in `scoring.membership`.

Shapes: S shadows, U targets (units), N images of the table, n rows, K labels.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import nn

from mlu_utils.attacks.stacked import fit_stacked, random_halves
from mlu_utils.data.table import SPLITS, ImageTable
from mlu_utils.models import build_model
from mlu_utils.naming import choices
from mlu_utils.requests import ForgetRequest
from mlu_utils.scoring.membership import attack_shadows, class_confidence, label_confidence, null_on_shuffles
from mlu_utils.studies import Recipe
from mlu_utils.training import predict_logits, right_entries
from mlu_utils.unlearning import unlearn

UNITS = ("images", "people")
NULL = "Null (membership shuffled)"  # a control that `shadow_attacks` lists among the models
# How networks learn people from small faces, in the search of hyperparameters and in notebook 06b: small batches and a
# falling rate, so that they learn their labels.
PEOPLE_RECIPE = Recipe(num_epochs=16, batch_size=16, learning_rate=0.2, schedule="linear", is_augmented=False)


@dataclass(frozen=True)
class Shadows:
    """Trained shadows, and what each of them has seen.

    Args:
        models: S networks in eval mode; 2k and 2k + 1 have learned from complementary halves of the targets.
        table: only its train split was learned from.
        kind: "images" or "people", what a target is; also the kind of the request that forgets it.
        units: int64 (U,), rows of the table (images) or identities (people).
        is_member: bool (S, U), the shadow learned from the target.
        learned_rows: bool (S, N), all rows that the shadow learned from.
        target_rows: int64 (n,), images of the targets that half of the shadows learned from.
        target_units: int64 (n,), the target of each of them, as an index into `units`.
        other_rows, other_units: the same for images of the targets that no shadow learned from; none for images.
        seed: shadow s was initialised and trained under seed + s.
        training_time_s: of all shadows together.
    """

    models: tuple[nn.Module, ...]
    table: ImageTable
    kind: str
    units: torch.Tensor
    is_member: np.ndarray
    learned_rows: torch.Tensor
    target_rows: torch.Tensor
    target_units: np.ndarray
    other_rows: torch.Tensor
    other_units: np.ndarray
    seed: int
    training_time_s: float

    def request(self, shadow: int) -> ForgetRequest:
        """Return what this shadow is asked to forget: every target that it learned from."""
        members = self.units[torch.from_numpy(self.is_member[shadow])]
        return ForgetRequest(self.kind, ids=tuple(members.tolist()))

    def table_of(self, shadow: int) -> ImageTable:
        """Return the data as this shadow knows it: training images that it never learned from count as unseen."""
        split = self.table.split.clone()
        split[(split == SPLITS.index("train")) & ~self.learned_rows[shadow]] = SPLITS.index("unseen")
        return self.table.with_split(split)


def train_shadows(
    table: ImageTable,
    architecture: str,
    *,
    kind: str,
    num_units: int,
    num_shadows: int,
    recipe: Recipe,
    seed: int,
    images_per_person: int | None = None,
    candidates: Iterable[int] | None = None,
) -> Shadows:
    """Draw targets at random and train the shadows on half of them each, and on all training images besides, at once.

    Every target is learned by half of the shadows. A person is learned with `images_per_person` training images or
    not at all: stacked training needs as many rows for each shadow, and people have different numbers of training
    images. The other images of a target are left to no shadow: they tell whether a person is known beyond the photos
    that were learned.

    Args:
        table, kind, seed: see `Shadows`; the seed also decides on targets and halves.
        architecture, recipe: of every shadow.
        num_units: U, even.
        num_shadows: S, even; at least 4 for an attack on each by the others.
        images_per_person: people only; whoever has fewer training images is no target.
        candidates: rows (images) or identities (people) that targets are drawn from; default: all.

    Raises:
        ValueError: unknown kind; odd numbers; images_per_person with images or missing with people; more targets than
            there are candidates, or so many that nothing is left that every shadow learns from.
    """
    if kind not in UNITS:
        raise ValueError(f"unknown kind of target {kind!r}: {choices(kind, UNITS)}")
    if (kind == "people") != (images_per_person is not None):
        raise ValueError(f"images_per_person={images_per_person} for {kind}: give it for people and for nothing else")
    if num_units < 2 or num_units % 2:
        raise ValueError(f"num_units must be even and at least 2, got {num_units}: every shadow learns half of them")
    generator = torch.Generator().manual_seed(seed)
    name = torch.arange(table.num_images) if kind == "images" else table.identity
    allowed = name if candidates is None else torch.tensor(list(candidates))
    units, target_rows, other_rows = _draw_targets(
        table, kind, name, allowed, num_units, images_per_person or 1, generator
    )
    target_units, other_units = (torch.searchsorted(units, name[rows]) for rows in (target_rows, other_rows))
    halves = random_halves(torch.arange(num_units), num_shadows, num_images=num_units, seed=seed)
    everyone = (table.split == SPLITS.index("train")) & ~torch.isin(name, units)
    if not everyone.any():
        raise ValueError(f"{num_units} {kind} are all of the train split of {table.source}: take fewer targets")
    learned = everyone.repeat(num_shadows, 1)
    learned[:, target_rows] = halves[:, target_units]
    models = [build_model(architecture, table.num_outputs, seed=seed + s) for s in range(num_shadows)]
    start = time.perf_counter()
    fit_stacked(models, table, learned, seeds=range(seed, seed + num_shadows), **recipe.fit_options())
    return Shadows(
        models=tuple(models),
        table=table,
        kind=kind,
        units=units,
        is_member=halves.numpy(),
        learned_rows=learned,
        target_rows=target_rows,
        target_units=target_units.numpy(),
        other_rows=other_rows,
        other_units=other_units.numpy(),
        seed=seed,
        training_time_s=time.perf_counter() - start,
    )


def unlearn_shadows(shadows: Shadows, method: str, values: Mapping[str, Any]) -> list[nn.Module]:
    """Return copies of the shadows after each was made to forget all targets that it learned from, in one request."""
    return [
        unlearn(method, model, shadows.table_of(s), shadows.request(s), seed=shadows.seed + s, **values)[0]
        for s, model in enumerate(shadows.models)
    ]


def confidences(models: Iterable[nn.Module], table: ImageTable, rows: torch.Tensor) -> np.ndarray:
    """Return the logit-scaled confidences of the rows: (S, n) for classes, (S, n, K) for labels, nan where unknown."""
    labels = table.labels[rows].numpy()
    logits = [predict_logits(model, table, rows).numpy() for model in models]
    if table.is_multi_label:
        return np.stack([label_confidence(own, labels) for own in logits])
    return np.stack([class_confidence(own, labels[:, 0]) for own in logits])


def shares_right(models: Iterable[nn.Module], table: ImageTable, rows: torch.Tensor) -> np.ndarray:
    """Return the share of each image's known labels (or its class) that is predicted right, (S, n) in [0, 1]."""
    known = ~table.labels[rows].isnan()
    right = torch.zeros(known.shape)
    shares = []
    for model in models:
        right[known] = right_entries(model, table, rows, known).float()
        shares.append((right.sum(1) / known.sum(1)).numpy())
    return np.stack(shares)


def shadow_attacks(
    phi: Mapping[str, ArrayLike], is_member: np.ndarray, unit: np.ndarray, *, seed: int, num_resamples: int
) -> pd.DataFrame:
    """Return both attacks on the shadows of every model, and what they find where there is nothing to find.

    Args:
        phi: name of a model -> `confidences` of its shadows; one of them is "Original", whose shadows make the null.
        is_member, unit, seed, num_resamples: see `membership.attack_shadows`.

    Returns:
        Columns model, attacker and those of `membership.attack_shadows`. The model `NULL` holds
        `membership.null_on_shuffles`.
    """
    rows = []
    for model, own in phi.items():
        found = attack_shadows(own, is_member, unit, seed=seed, num_resamples=num_resamples)
        rows += [{"model": model, **row} for row in found]
    null = null_on_shuffles(phi["Original"], is_member, unit, seed=seed)
    return pd.DataFrame(rows + [{"model": NULL, **row} for row in null])


def _draw_targets(
    table: ImageTable,
    kind: str,
    name: torch.Tensor,
    allowed: torch.Tensor,
    num_units: int,
    images_per_unit: int,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the targets, as `name` (N,) calls them, the rows of them to learn and the others, each ascending."""
    train = table.rows("train")
    candidates, counts = name[train].unique(return_counts=True)
    candidates = candidates[(counts >= images_per_unit) & (candidates >= 0) & torch.isin(candidates, allowed)]
    if num_units > len(candidates):
        raise ValueError(
            f"{num_units} targets asked for, but {table.source} has {len(candidates)} {kind} with at least "
            f"{images_per_unit} training images: ask for fewer"
        )
    units = candidates[torch.randperm(len(candidates), generator=generator)[:num_units]].sort().values
    mixed = train[torch.randperm(len(train), generator=generator)]
    target_rows = torch.cat([mixed[name[mixed] == unit][:images_per_unit] for unit in units]).sort().values
    other = torch.isin(name, units)
    other[target_rows] = False
    return units, target_rows, other.nonzero().flatten()
