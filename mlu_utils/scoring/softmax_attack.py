"""The membership attack by which Label-Agnostic Forgetting reports its success, and what a constant answer scores.

A boosted classifier learns to tell images that stayed in the training set from test images by their sorted
probabilities, and is asked about the images to forget and further test images. The share of right answers has no null
of its own: it depends on how many images are on each side, so the two constant answers stand beside it.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import softmax
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from mlu_utils.scoring.arrays import checked

MOST_ROWS = 5_000


def sorted_probabilities(logits: ArrayLike) -> np.ndarray:
    """Probabilities of each image, (n, C), ascending: how sure a model is, without saying of what.

    >>> sorted_probabilities([[0.0, -100.0, 0.0]]).round(2).tolist()
    [[0.0, 0.5, 0.5]]
    """
    (logits,) = checked(logits=(logits, "n C"))
    return np.sort(softmax(logits, axis=1), axis=1)


def softmax_attack(
    sample_logits: ArrayLike,
    test_logits: ArrayLike,
    forget_logits: ArrayLike,
    *,
    most_rows: int = MOST_ROWS,
    batch_size: int = 32,
    seed: int = 0,
) -> dict[str, float]:
    """How often a boosted classifier calls images to forget members and unseen ones strangers.

    Args:
        sample_logits: (n, C), training images that stay: members to learn from.
        test_logits: (m, C): the first `most_rows` are strangers to learn from, as many of the next as there are images
            to forget are strangers to be asked about.
        forget_logits: (f, C).
        most_rows: of each side to learn from; rounded up to whole batches, as in the public code.
        seed: of the classifier.

    Returns:
        accuracy; all_members and no_members, what the two constant answers score; auc of these answers, .5 = nothing;
        num_learned of each side, num_forget and num_strangers asked about.

    Raises:
        ValueError: no test image is left to ask about: lower `most_rows`.

    Source: Shen et al. (2024), Label-Agnostic Forgetting, public code.
    Differs: scikit-learn's boosting with XGBoost's defaults (100 trees of depth 6, rate .3) instead of XGBoost.
    """
    sample, test, forget = map(sorted_probabilities, (sample_logits, test_logits, forget_logits))

    def whole_batches(rows: np.ndarray, most: int) -> np.ndarray:
        # The code adds batches while it has at most `most` - 1 rows.
        return rows[: -(-most // batch_size) * batch_size]

    members, strangers = whole_batches(sample, most_rows), whole_batches(test, most_rows)
    asked = whole_batches(test[len(strangers) :], len(forget))
    if not len(asked):
        raise ValueError(
            f"{len(test)} test images and most_rows {most_rows}: none is left to ask about; lower most_rows"
        )
    classifier = HistGradientBoostingClassifier(
        **{"max_iter": 100, "learning_rate": 0.3, "max_depth": 6, "max_leaf_nodes": None, "min_samples_leaf": 1},
        **{"l2_regularization": 1.0, "early_stopping": False, "random_state": seed},
    )
    classifier.fit(np.concatenate([members, strangers]), np.arange(len(members) + len(strangers)) < len(members))
    is_member = np.arange(len(forget) + len(asked)) < len(forget)
    belief = classifier.predict_proba(np.concatenate([forget, asked]))[:, 1]
    share = len(forget) / len(is_member)
    return {
        "accuracy": float(((belief > 0.5) == is_member).mean()),
        "all_members": share,
        "no_members": 1 - share,
        "auc": float(roc_auc_score(is_member, belief)),
        "num_learned": len(members),
        "num_forget": len(forget),
        "num_strangers": len(asked),
    }
