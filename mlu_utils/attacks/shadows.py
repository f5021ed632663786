"""Shadow networks for membership attacks: each learns half of the targets and is then made to forget them again.

A target is what a deletion request may name: an image, or a person with all photos. The attacks, which know arrays
only, lie in `scoring.membership`.

Shapes: S shadows, U targets (units), N images of the table, n rows, K labels.
"""

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
from mlu_utils.naming import require_choice
from mlu_utils.requests import ForgetRequest
from mlu_utils.scoring.membership import attack_shadows, class_confidence, label_confidence, null_on_shuffles
from mlu_utils.studies import Recipe
from mlu_utils.training import predict_logits, right_entries
from mlu_utils.unlearning import unlearn

UNITS = ("images", "people")
NULL = "Null (membership shuffled)"  # a control that `shadow_attacks` lists among the models
# How networks learn people from small faces: small batches and a falling rate, so that they learn their labels.
PEOPLE_RECIPE = Recipe(num_epochs=16, batch_size=16, learning_rate=0.2, schedule="linear", is_augmented=False)


@dataclass(frozen=True)
class Shadows:
    """Trained shadows, and what each of them has seen; 2k and 2k + 1 learned complementary halves of the targets."""

    models: tuple[nn.Module, ...]  # S networks in eval mode
    table: ImageTable  # only its train split was learned from
    kind: str  # "images" or "people", what a target is; also the kind of the request that forgets it
    units: torch.Tensor  # int64 (U,), the targets: rows of the table (images) or identities (people)
    is_member: np.ndarray  # bool (S, U), the shadow learned from the target
    learned_rows: torch.Tensor  # bool (S, N), all rows that the shadow learned from
    target_rows: torch.Tensor  # int64 (n,), images of the targets that half of the shadows learned from
    target_units: np.ndarray  # int64 (n,), the target of each of them, as an index into `units`
    other_rows: torch.Tensor  # the same for images of the targets that no shadow learned from; none for images
    other_units: np.ndarray
    seed: int  # shadow s was initialised and trained under seed + s

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

    A person is learned with `images_per_person` training images or not at all, because stacked training needs as many
    rows for each shadow. The other images of a target are left to no shadow: they tell whether a person is known beyond
    the photos that were learned.

    Args:
        table, kind, seed: see `Shadows`; the seed also decides on targets and halves.
        architecture, recipe: of every shadow.
        num_units, num_shadows: U and S, even; S at least 4 for an attack on each by the others.
        images_per_person: people only; whoever has fewer training images is no target.
        candidates: rows (images) or identities (people) that targets are drawn from; default: all.

    Raises:
        ValueError: unknown kind; odd numbers; images_per_person with images or missing with people; more targets than
            there are candidates, or so many that nothing is left that every shadow learns from.
    """
    require_choice("kind of target", kind, UNITS)
    if (kind == "people") != (images_per_person is not None):
        raise ValueError(f"images_per_person={images_per_person} for {kind}: give it for people and for nothing else")
    if num_units < 2 or num_units % 2:
        raise ValueError(f"num_units must be even and at least 2, got {num_units}: every shadow learns half of them")
    generator, at_least, train = torch.Generator().manual_seed(seed), images_per_person or 1, table.rows("train")
    name = torch.arange(table.num_images) if kind == "images" else table.identity  # of each image's target
    allowed = name if candidates is None else torch.tensor(list(candidates))
    found, counts = name[train].unique(return_counts=True)
    found = found[(counts >= at_least) & (found >= 0) & torch.isin(found, allowed)]
    if num_units > len(found):
        raise ValueError(
            f"{num_units} targets asked for, but {table.source} has {len(found)} {kind} with at least {at_least} "
            "training images: ask for fewer"
        )
    units = found[torch.randperm(len(found), generator=generator)[:num_units]].sort().values
    mixed = train[torch.randperm(len(train), generator=generator)]
    target_rows = torch.cat([mixed[name[mixed] == unit][:at_least] for unit in units]).sort().values
    is_target = torch.isin(name, units)
    everyone = (table.split == SPLITS.index("train")) & ~is_target
    if not everyone.any():
        raise ValueError(f"{num_units} {kind} are all of the train split of {table.source}: take fewer targets")
    is_target[target_rows] = False
    other_rows = is_target.nonzero().flatten()
    target_units, other_units = (torch.searchsorted(units, name[rows]) for rows in (target_rows, other_rows))
    halves = random_halves(torch.arange(num_units), num_shadows, num_images=num_units, seed=seed)
    learned = everyone.repeat(num_shadows, 1)
    learned[:, target_rows] = halves[:, target_units]
    models = [build_model(architecture, table.num_outputs, seed=seed + s) for s in range(num_shadows)]
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
    """Return `membership.attack_shadows` of every model, and what it finds where there is nothing to find.

    `phi`: name of a model -> `confidences` of its shadows; those of "Original" make the null, the model `NULL`.
    """
    found = {
        model: attack_shadows(own, is_member, unit, seed=seed, num_resamples=num_resamples)
        for model, own in phi.items()
    }
    found[NULL] = null_on_shuffles(phi["Original"], is_member, unit, seed=seed)
    return pd.DataFrame([{"model": model, **row} for model, rows in found.items() for row in rows])
