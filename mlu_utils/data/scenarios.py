"""What the evaluation of Label-Agnostic Forgetting removes from classes: random images, or images with a wrong label.

Positions are those of the labels given; as a request of a table's training images: `images:` of `rows[positions]`.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CLASS_REMOVAL = (1.0,) + 9 * (0.0,)
RANDOM_DATA = 5 * (0.0,) + 5 * (0.4,)
NOISY_LABELS = 5 * (0.6,) + 5 * (0.0,)


class Removal(NamedTuple):
    """Which images go, each an int array of positions."""

    forget: np.ndarray  # in the order in which they were drawn
    retain: np.ndarray  # ascending
    sample: np.ndarray  # as many of `retain` as go: members that stay, for an attack
    labels: np.ndarray  # (n,): after the wrong labels were given


def draw_removal(
    labels: Sequence[int] | np.ndarray, fractions: Sequence[float], *, seed: int, num_wrong_classes: int = 0
) -> Removal:
    """Draw int(fraction * count) images of each class to forget.

    Args:
        labels: int (n,) in 0 .. C - 1.
        fractions: C shares, such as `RANDOM_DATA`.
        seed: of Python's `random`, in the order of the public code.
        num_wrong_classes: above 0 each image to forget gets a wrong label, one of the first so many classes. The public
            code has 9 of 10: the last class is never a wrong label.

    Raises:
        ValueError: a share outside [0, 1] or not one a class, or more to forget than to keep.

    Source: Shen et al. (2024), Label-Agnostic Forgetting, public code.
    """
    labels, draw = np.array(labels), random.Random(seed)
    if len(fractions) != int(labels.max()) + 1 or not all(0 <= f <= 1 for f in fractions):
        raise ValueError(f"fractions are {list(fractions)}: expected {int(labels.max()) + 1} shares in [0, 1]")
    forget: list[int] = []
    for number, fraction in enumerate(fractions):
        own = np.flatnonzero(labels == number).tolist()
        forget += draw.sample(own, int(fraction * len(own)))
    retain = np.setdiff1d(np.arange(len(labels)), forget)
    if len(forget) > len(retain):
        raise ValueError(f"{len(forget)} images to forget and {len(retain)} to keep: forget at most half")
    sample = draw.sample(retain.tolist(), len(forget))
    for position in forget if num_wrong_classes else ():
        labels[position] = draw.choice([c for c in range(num_wrong_classes) if c != labels[position]])
    return Removal(np.array(forget), retain, np.array(sample), labels)
