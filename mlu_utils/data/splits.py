"""Splits: disjoint by construction, repeatable, with both values of every label in every split."""

import numpy as np
import torch

SPLITS = ("train", "validation", "test", "unseen")
FRACTIONS = (0.65, 0.25, 0.10)  # the paper's shares for train, validation and test


def stratified_split(
    labels: torch.Tensor,
    *,
    seed: int = 42,
    label_names: tuple[str, ...] | None = None,
    identity: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return for each row an index into `SPLITS`, int8 (N,), so that every label's rare value is spread in proportion.

    From the rarest value to the most common, the rows that carry it and are still free are dealt out so that each split
    comes closest to its share. The rest fills the splits up to their sizes.

    Args:
        labels: float32 (N, K) in {0, 1, nan}, or int64 (N, 1) of classes.
        seed: decides which of the equal rows go where.
        label_names: names used in error messages.
        identity: int64 (N,), -1 = unknown; all images of a person go to one split. Default: split by image.

    Source: after Sechidis, Tsoumakas and Vlahavas (2011), iterative stratification.
    Differs: deals out all free rows of the rarest value at once instead of one row at a time.
    """
    values, names = _indicator_columns(labels, label_names)
    # A unit may not be torn apart: an image, or all images of a person.
    units = np.arange(len(values))
    if identity is not None:
        people = np.where(identity.numpy() >= 0, identity.numpy(), -1 - units)
        _, units = np.unique(people, return_inverse=True)
    weight = np.bincount(units).astype(float)
    counts = np.stack([np.bincount(units, column) for column in values.T], 1)
    split = _deal(counts, weight, np.random.default_rng(seed))[units]
    for column, name in zip(values.T, names, strict=True):
        for s in range(len(FRACTIONS)):
            if not column[split == s].any():
                raise ValueError(
                    f"{name} never occurs in the {SPLITS[s]} split ({int(column.sum())} images in all): "
                    "drop this label, or add images"
                )
    return torch.from_numpy(split.astype(np.int8))


def _indicator_columns(labels: torch.Tensor, label_names: tuple[str, ...] | None) -> tuple[np.ndarray, list[str]]:
    """Return one 0/1 column per value that each split must contain, and a name for each."""
    table = labels.numpy()
    if labels.dtype == torch.int64:
        classes = np.unique(table)
        return (table == classes).astype(float), [f"class {c}" for c in classes]
    names = label_names or tuple(f"label {k}" for k in range(table.shape[1]))
    columns = np.concatenate([table == 1, table == 0], 1).astype(float)
    return columns, [f"{name} = {value}" for value in (1, 0) for name in names]


def _deal(counts: np.ndarray, weight: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Assign each unit a split; `counts` (units, columns) and `weight` (units,) are image counts."""
    split, fractions = np.full(len(weight), -1), np.asarray(FRACTIONS)
    wanted = counts.sum(0)[:, None] * fractions  # (columns, splits): images still to be placed
    room = weight.sum() * fractions  # (splits,)
    order = rng.permutation(len(weight))
    pending = list(range(counts.shape[1]))
    while pending:
        free = order[split[order] < 0]
        left = counts[free][:, pending].sum(0)
        column = pending.pop(int(np.argmin(np.where(left > 0, left, np.inf))))
        for unit in free[counts[free, column] > 0]:
            # The split that lacks most of this value; of equals the one with most room.
            best = np.lexsort((-room, -wanted[column]))[0]
            split[unit] = best
            wanted[:, best] -= counts[unit]
            room[best] -= weight[unit]
    for unit in order[split[order] < 0]:
        best = int(np.argmax(room))
        split[unit] = best
        room[best] -= weight[unit]
    return split
