"""Can a label be read out of features? The attackers that are fitted to them: a linear one and a small network.

Must not: see a model or an image; the caller extracts the features and keeps identities apart.

Shapes: `features` (n, d) real, `labels` (n,) in {0, 1, nan = unknown, dropped}.
"""

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logit
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from mlu_utils.scoring.utility import accuracy, auc, balanced_accuracy

NUM_FOLDS = 3
INVERSE_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # C, on standardised features
MAX_ITERATIONS = 5_000  # a safety net: lbfgs stops on its tolerance after tens to hundreds
HIDDEN_UNITS = 64
MLP_STEPS = 600  # Adam steps on batches of 64, whatever the number of rows
MLP_BATCH_SIZE = 64
MLP_PENALTY = 1.0  # scikit-learn's alpha, which it divides by the number of rows


def linear_probe(
    features_fit: ArrayLike,
    labels_fit: ArrayLike,
    features_eval: ArrayLike,
    labels_eval: ArrayLike,
    *,
    seed: int,
) -> dict[str, float]:
    """How well a logistic regression fitted on one set of features predicts the label on another.

    The value alone is not leakage. A label that correlates with retained labels can be read out of any
    features that serve those, the retrained model's included: leakage due to failed unlearning is this value
    minus the same probe's value on the retrained model, fitted and evaluated on the same images.

    Args:
        features_fit: (n, d), finite; rows that the attacker may learn from.
        labels_fit: (n,), 1, 0 or nan; at least three known of each class.
        features_eval: (m, d), finite; their people should not occur among the rows to fit.
        labels_eval: (m,), 1, 0 or nan; both classes present.
        seed: deals rows to the inner folds; the fit itself has no randomness.

    Returns:
        probe_accuracy, probe_balanced_accuracy, probe_auc, each in [0, 1]; no information: AUC near .5.

    Raises:
        ValueError: wrong shapes, non-finite features, labels outside {0, 1, nan}, too few rows of a class.

    Source:
        Attribute inference by a probe on frozen features, as is field practice (Alain and Bengio, 2017, for
        linear probes): standardised features, L2-penalised logistic regression, classes weighted to equal
        mass.

    Differs:
        C is the best of `INVERSE_PENALTIES` by mean AUC over three inner folds; these folds do not keep
        people apart, which can only make the attack weaker (a less suitable C), never flatter it.

    Example:
        >>> x = np.linspace(-1, 1, 40)[:, None]
        >>> linear_probe(x, x[:, 0] > 0, x, x[:, 0] > 0, seed=0)["probe_auc"]
        1.0
    """
    features_eval, labels_eval = _known_rows(features_eval, labels_eval, "eval")
    for value in (0, 1):
        if not (labels_eval == value).any():
            raise ValueError(f"labels_eval has no row labelled {value}: AUC needs both classes")
    logits = attack_logits(features_fit, labels_fit, features_eval, attacker="linear", seed=seed)
    return {
        "probe_accuracy": accuracy(logits, labels_eval),
        "probe_balanced_accuracy": balanced_accuracy(logits, labels_eval),
        "probe_auc": auc(logits, labels_eval),
    }


def attack_logits(
    features_fit: ArrayLike, labels_fit: ArrayLike, features_eval: ArrayLike, *, attacker: str = "linear", seed: int
) -> np.ndarray:
    """What an attacker fitted on some rows says about others: (m,) log-odds of label 1, positive = predicts 1.

    Args:
        features_fit: (n, d), finite; rows that the attacker may learn from.
        labels_fit: (n,), 1, 0 or nan; at least three known of each class.
        features_eval: (m, d), finite.
        attacker: a name in `ATTACKERS`. "linear": see `linear_probe`. "mlp": one hidden layer of 64 ReLU units on
            standardised features, rows of the rarer class repeated until both weigh the same.
        seed: of the inner folds (linear), of initialisation and batches (mlp).

    Raises:
        ValueError: unknown attacker, wrong shapes, non-finite features, too few rows of a class.

    Source:
        Linear and one-hidden-layer probes: Hewitt and Liang (2019), Designing and Interpreting Probes.

    Differs:
        The mlp has a fixed number of steps and a fixed penalty; it is not tuned, so a better attacker may exist.

    Example:
        >>> x = np.linspace(-1, 1, 40)[:, None]
        >>> attack_logits(x, np.abs(x[:, 0]) > 0.5, [[0.0], [1.0]], attacker="mlp", seed=0) > 0
        array([False,  True])
    """
    if attacker not in ATTACKERS:
        raise ValueError(f"unknown attacker {attacker!r}: choose one of {', '.join(ATTACKERS)}")
    features_fit, labels_fit = _known_rows(features_fit, labels_fit, "fit")
    features_eval = _features(features_eval, "eval")
    if features_fit.shape[1] != features_eval.shape[1]:
        raise ValueError(f"features to fit have {features_fit.shape[1]} columns, to evaluate {features_eval.shape[1]}")
    for value in (0, 1):
        count = int((labels_fit == value).sum())
        if count < NUM_FOLDS:
            raise ValueError(f"labels_fit has {count} rows labelled {value}: the inner folds need {NUM_FOLDS}")
    return ATTACKERS[attacker](features_fit, labels_fit, features_eval, seed)


def _linear(features_fit: np.ndarray, labels_fit: np.ndarray, features_eval: np.ndarray, seed: int) -> np.ndarray:
    # GridSearchCV and not LogisticRegressionCV: the latter's arguments change meaning between scikit-learn
    # releases.
    steps = [
        ("scale", StandardScaler()),  # a constant feature gets scale 1 and stays a harmless column of zeros
        ("classify", LogisticRegression(class_weight="balanced", max_iter=MAX_ITERATIONS)),  # L2, lbfgs
    ]
    probe = GridSearchCV(
        Pipeline(steps),
        {"classify__C": INVERSE_PENALTIES},
        scoring="roc_auc",
        cv=StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=seed),
    ).fit(features_fit, labels_fit)
    return probe.decision_function(features_eval)


def _mlp(features_fit: np.ndarray, labels_fit: np.ndarray, features_eval: np.ndarray, seed: int) -> np.ndarray:
    scaler = StandardScaler().fit(features_fit)
    sides = [np.flatnonzero(labels_fit == value) for value in (0, 1)]
    rows = np.concatenate([np.resize(side, max(map(len, sides))) for side in sides])
    batch_size = min(MLP_BATCH_SIZE, len(rows))
    network = MLPClassifier(
        (HIDDEN_UNITS,),
        alpha=MLP_PENALTY,
        batch_size=batch_size,
        max_iter=-(-MLP_STEPS // -(-len(rows) // batch_size)),
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of steps is the choice, not a tolerance
        network.fit(scaler.transform(features_fit[rows]), labels_fit[rows])
    # A saturated probability of exactly 0 or 1 would become an infinite logit.
    share = network.predict_proba(scaler.transform(features_eval))[:, 1]
    return logit(np.clip(share, 1e-15, 1 - 1e-15))


ATTACKERS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]] = {
    "linear": _linear,
    "mlp": _mlp,
}


def _known_rows(features: ArrayLike, labels: ArrayLike, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Checked float64 features (m, d) and integer labels (m,) of the rows whose label is known."""
    features = _features(features, name)
    labels = np.asarray(labels, dtype=np.float64)
    if labels.shape != features.shape[:1]:
        raise ValueError(f"features_{name} {features.shape} and labels_{name} {labels.shape}: expected (n, d) and (n,)")
    is_known = ~np.isnan(labels)
    if not np.isin(labels[is_known], (0, 1)).all():
        raise ValueError(f"labels_{name} holds values outside 1, 0 and nan (unknown)")
    return features[is_known], labels[is_known].astype(np.int64)


def _features(features: ArrayLike, name: str) -> np.ndarray:
    """Checked float64 features (m, d)."""
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2:
        raise ValueError(f"features_{name} have shape {features.shape}: expected (n, d)")
    if not np.isfinite(features).all():
        raise ValueError(f"features_{name} holds nan or infinite values: the model that made them has diverged")
    return features
