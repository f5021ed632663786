"""Can labels (n,), 1, 0 or nan = dropped, be read from features (n, d)? Attackers; the caller keeps people apart."""

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logit
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mlu_utils.naming import require_choice
from mlu_utils.scoring.arrays import checked
from mlu_utils.scoring.utility import MEAN_SCORES, SCORES

NUM_FOLDS = 3
INVERSE_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # C, on standardised features
MLP_STEPS = 600  # Adam steps on batches of at most 64, whatever the number of rows


def linear_probe(
    features_fit: ArrayLike, labels_fit: ArrayLike, features_eval: ArrayLike, labels_eval: ArrayLike, *, seed: int
) -> dict[str, float]:
    """How well a logistic regression fitted on one set of features predicts the label on another.

    probe_accuracy, probe_balanced_accuracy and probe_auc in [0, 1]; no information: AUC near .5. Retained labels that
    correlate tell the label under Retrain too: only what exceeds its value is failed unlearning.

    Source: linear probes on frozen features (Alain and Bengio, 2017): standardised, L2 penalty, classes of equal mass.
    Differs: C is the best of `INVERSE_PENALTIES` by mean AUC over three inner folds, which do not keep people apart.
    """
    features_eval, labels_eval = _known_rows(features_eval, labels_eval, "eval", 1)
    logits = attack_logits(features_fit, labels_fit, features_eval, seed=seed)
    return {f"probe_{name}": SCORES[name](logits, labels_eval) for name in MEAN_SCORES}


def attack_logits(
    features_fit: ArrayLike, labels_fit: ArrayLike, features_eval: ArrayLike, *, attacker: str = "linear", seed: int
) -> np.ndarray:
    """What an attacker fitted on some rows says about others: (m,) log-odds of label 1, positive = predicts 1.

    At least three labels to fit are known of each class. "linear": see `linear_probe`; "mlp": a layer of 64 ReLU units,
    fixed steps and penalty, classes of equal weight; a better one may exist. Source: Hewitt and Liang (2019).

    >>> x = np.linspace(-1, 1, 40)[:, None]
    >>> attack_logits(x, np.abs(x[:, 0]) > 0.5, [[0.0], [1.0]], attacker="mlp", seed=0) > 0
    array([False,  True])
    """
    require_choice("attacker", attacker, ATTACKERS)
    features_fit, labels_fit = _known_rows(features_fit, labels_fit, "fit", NUM_FOLDS)
    features_eval, _ = checked(features_eval=(features_eval, "m d"), features_fit=(features_fit, "n d"))
    return ATTACKERS[attacker](features_fit, labels_fit, features_eval, seed)


def _linear(features_fit: np.ndarray, labels_fit: np.ndarray, features_eval: np.ndarray, seed: int) -> np.ndarray:
    # GridSearchCV and not LogisticRegressionCV: the latter's arguments change meaning between scikit-learn releases.
    # A constant feature gets scale 1 and stays a harmless column of zeros; L2 and lbfgs are the defaults.
    # The iterations are a safety net: lbfgs stops on its tolerance after tens to hundreds.
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=5_000))
    folds = StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=seed)
    probe = GridSearchCV(pipeline, {"logisticregression__C": INVERSE_PENALTIES}, scoring="roc_auc", cv=folds)
    return probe.fit(features_fit, labels_fit).decision_function(features_eval)


def _mlp(features_fit: np.ndarray, labels_fit: np.ndarray, features_eval: np.ndarray, seed: int) -> np.ndarray:
    scaler = StandardScaler().fit(features_fit)
    sides = [np.flatnonzero(labels_fit == value) for value in (0, 1)]
    rows = np.concatenate([np.resize(side, max(map(len, sides))) for side in sides])
    batch_size = min(64, len(rows))
    num_epochs = -(-MLP_STEPS // -(-len(rows) // batch_size))
    # Its penalty, alpha, is divided by the number of rows.
    network = MLPClassifier((64,), alpha=1.0, batch_size=batch_size, max_iter=num_epochs, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of steps is the choice, not a tolerance
        network.fit(scaler.transform(features_fit[rows]), labels_fit[rows])
    # A saturated probability of exactly 0 or 1 would become an infinite logit.
    share = network.predict_proba(scaler.transform(features_eval))[:, 1]
    return logit(np.clip(share, 1e-15, 1 - 1e-15))


ATTACKERS: dict[str, Callable] = {"linear": _linear, "mlp": _mlp}


def _known_rows(features: ArrayLike, labels: ArrayLike, name: str, fewest: int) -> tuple[np.ndarray, np.ndarray]:
    """Checked features (m, d) and integer labels (m,) of the rows whose label is known, `fewest` of each class."""
    features, labels = checked(**{f"features_{name}": (features, "n d"), f"labels_{name}": (labels, "n", "label")})
    for value in (0, 1):
        if (count := int((labels == value).sum())) < fewest:
            raise ValueError(f"labels_{name} has {count} rows labelled {value}: at least {fewest} are needed")
    is_known = ~np.isnan(labels)
    return features[is_known], labels[is_known].astype(np.int64)
