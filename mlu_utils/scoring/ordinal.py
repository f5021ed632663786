"""Ordered classes: where the images of a removed class go when their class no longer exists.

Must not: touch models or files. Shapes: n images, C classes in the order of their positions.
"""

import numpy as np
from numpy.typing import ArrayLike


def reassign_removed_class(
    labels: ArrayLike, removed: int, positions: ArrayLike, values: ArrayLike | None = None
) -> np.ndarray:
    """Return the labels with every image of the removed class moved to the nearest class that is left.

    Args:
        labels: (n,), integers in [0, C).
        removed: the class that no longer exists.
        positions: (C,), where each class lies on its axis, such as the middle of an age group in years.
        values: (n,), where each image lies on that axis, such as its person's age; default: the middle of its class.

    Returns:
        (n,), new array; of two classes equally near the lower one.

    Raises:
        ValueError: fewer than two classes, a class out of range, shapes that do not fit, a position or value that
            is not finite.

    Source: Hossain et al. (2025), section 7.1 (Table 3), "distance-based heuristic" over age groups.

    Differs: the paper gives no formula.

    Example:
        >>> reassign_removed_class([0, 1, 2, 1], 1, [25, 38, 53], [22, 36, 50, 45]).tolist()
        [0, 0, 2, 2]
    """
    labels, positions = np.asarray(labels), np.asarray(positions, dtype=np.float64)
    if positions.ndim != 1 or len(positions) < 2:
        raise ValueError(f"positions {positions.shape}: expected (C,) with at least two classes")
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels {labels.shape} of dtype {labels.dtype}: expected integers (n,)")
    if not 0 <= removed < len(positions):
        raise ValueError(f"removed class {removed}: expected 0..{len(positions) - 1}")
    if len(labels) and not (0 <= labels.min() and labels.max() < len(positions)):
        raise ValueError(f"labels span {labels.min()}..{labels.max()}: expected 0..{len(positions) - 1}")
    values = positions[labels] if values is None else np.asarray(values, dtype=np.float64)
    if values.shape != labels.shape:
        raise ValueError(f"values {values.shape}: expected one per label, {labels.shape}")
    if not (np.isfinite(positions).all() and np.isfinite(values).all()):
        raise ValueError("positions and values must be finite")
    left = np.delete(np.arange(len(positions)), removed)
    nearest = left[np.abs(values[:, None] - positions[left]).argmin(1)]
    return np.where(labels == removed, nearest, labels)
