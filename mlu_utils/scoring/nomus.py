"""NoMUS and its membership attack, as MUFAC / MUCAC define them; a model never trained has a NoMUS above one half."""

import numpy as np
from numpy.typing import ArrayLike
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score

from mlu_utils.scoring.arrays import checked

SMALLEST = 10  # images of a side: a tenth of them is set aside to test


def split_accuracies(losses: np.ndarray, is_member: np.ndarray, *, seed: int) -> np.ndarray:
    """Accuracy of a logistic regression of membership on losses, (n,), in ten stratified splits, a tenth to test."""
    splits = StratifiedShuffleSplit(n_splits=10, random_state=seed)
    return cross_val_score(LogisticRegression(), losses[:, None], is_member, cv=splits)


def benchmark_attack(forget_losses: ArrayLike, unseen_losses: ArrayLike, *, seed: int = 42) -> dict[str, float]:
    """Accuracy of a logistic regression that tells images to forget, (n,), from unseen ones, (m,), by their loss.

    mia_accuracy in [0, 1], mean over ten stratified splits with a tenth to test; mia_sd over the splits;
    forgetting_score = |mia_accuracy - .5|, lower = the two look alike; num_members and num_nonmembers used, at least
    ten, else a ValueError.

    Source: Choi and Na (2023), Towards Machine Unlearning Benchmarks; public notebooks. Losses to forget are shuffled
    and cut to the number of unseen ones; where they are fewer, nothing is balanced.
    Differs: always in double precision; in single precision losses of a thousandth give .492 where double gives .5.
    """
    forget, unseen = checked(forget=(forget_losses, "n"), unseen=(unseen_losses, "m"))
    forget = forget.copy()
    np.random.RandomState(seed).shuffle(forget)
    forget = forget[: len(unseen)]
    if min(len(forget), len(unseen)) < SMALLEST:
        sizes = f"{len(forget)} losses to forget and {len(unseen)} unseen"
        raise ValueError(f"{sizes}: the attack needs {SMALLEST} of each")
    is_member = np.arange(len(unseen) + len(forget)) >= len(unseen)
    found = split_accuracies(np.concatenate([unseen, forget]), is_member, seed=0)
    accuracy = float(found.mean())
    scores = {"mia_accuracy": accuracy, "forgetting_score": abs(accuracy - 0.5), "mia_sd": float(found.std())}
    return scores | {"num_members": len(forget), "num_nonmembers": len(unseen)}


def balanced_attack(
    forget_losses: ArrayLike, unseen_losses: ArrayLike, *, num_draws: int = 10, seed: int = 42
) -> dict[str, float]:
    """mia_accuracy and mia_sd: mean and spread of `benchmark_attack` over draws of equally many of both sides.

    Where one side has more images the published attack scores its share by calling all of them so: .78 for 210 unseen
    and 60 to forget, whatever the model. On the benchmark's own data the sides are equal or are cut.
    """
    sides = checked(forget=(forget_losses, "n"), unseen=(unseen_losses, "m"))
    draw, size = np.random.default_rng(seed), min(map(len, sides))
    draws = ([draw.permutation(side)[:size] for side in sides] for _ in range(num_draws))
    found = [benchmark_attack(*pair, seed=seed)["mia_accuracy"] for pair in draws]
    return {"mia_accuracy": float(np.mean(found)), "mia_sd": float(np.std(found))}


def attack_null(unseen_losses: ArrayLike, *, num_splits: int = 20, seed: int = 42) -> dict[str, float]:
    """mia_null and mia_null_sd: mean and spread of `benchmark_attack` between random halves of unseen images (m,)."""
    (unseen,) = checked(unseen=(unseen_losses, "m"))
    draw, half = np.random.default_rng(seed), len(unseen) // 2
    orders = [draw.permutation(unseen) for _ in range(num_splits)]
    found = [benchmark_attack(x[:half], x[half : 2 * half], seed=seed)["mia_accuracy"] for x in orders]
    return {"mia_null": float(np.mean(found)), "mia_null_sd": float(np.std(found))}


def matched_rows(labels: ArrayLike, other_labels: ArrayLike, *, seed: int = 42) -> tuple[np.ndarray, np.ndarray]:
    """Rows of two label tables, (n, K) and (m, K) with nan = unknown, in pairs that have equal labels.

    Of each combination of labels as many rows as both tables have, drawn at random under the seed; the rest is left
    out. An attack on such pairs cannot live on who has which labels.

    >>> [rows.tolist() for rows in matched_rows([[0], [1], [1]], [[1], [0], [0]])]
    [[0, 1], [2, 0]]
    """
    tables = [np.nan_to_num(np.asarray(each, dtype=float), nan=-1) for each in (labels, other_labels)]
    _, pattern = np.unique(np.concatenate(tables), axis=0, return_inverse=True)
    patterns = np.split(pattern.ravel(), [len(tables[0])])
    draw, pairs = np.random.default_rng(seed), [[], []]
    for one in np.intersect1d(*patterns):
        rows = [draw.permutation(np.flatnonzero(own == one)) for own in patterns]
        for side, own in zip(pairs, rows, strict=True):
            side.extend(own[: min(map(len, rows))])
    return tuple(np.array(side, dtype=int) for side in pairs)


def nomus(accuracy: float, mia_accuracy: float, *, weight: float = 0.5) -> float:
    """Weight * accuracy + (1 - weight) (1 - 2 |mia_accuracy - .5|), in [0, 1], higher is better.

    Source: Choi and Na (2023); the notebooks have a weight of one half.

    >>> round(nomus(0.5951, 0.7136), 4)  # the benchmark's original model
    0.5839
    """
    for name, value in (("accuracy", accuracy), ("mia_accuracy", mia_accuracy), ("weight", weight)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {value}")
    return weight * accuracy + (1 - weight) * (1 - 2 * abs(mia_accuracy - 0.5))
