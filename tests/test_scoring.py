"""Scores against known points, plain loops and scikit-learn; the probe against planted and absent leaks.

The contract of every score lies here too, those of the privacy analysis included: whatever the order of the images it
is the same, nan is refused, inputs stay as they were.
"""

import doctest
import importlib
import inspect
import math
import pkgutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from mlu_utils import scoring
from mlu_utils.scoring.probe import linear_probe
from mlu_utils.scoring.utility import (
    SCORES,
    auc,
    binary_scores,
    class_scores,
    flip_safe_accuracy,
    label_scores,
    reassign_removed_class,
)

NAN = float("nan")
NUM_SCORES = 6  # the sweeps below must not go quiet when the registry shrinks
NUM_CONTRACT_CASES = 40
NUM_MODULES = 14


# --- brute-force oracles: plain loops over Python floats ----------------------------------------------------


def loop_scores(logits, labels):
    """Count every score by hand."""
    pairs = [(z, y) for z, y in zip(logits, labels, strict=True) if not math.isnan(y)]
    hits = sum((1 if z > 0 else 0) == y for z, y in pairs)
    positives = [z for z, y in pairs if y == 1]
    negatives = [z for z, y in pairs if y == 0]
    recall = sum(z > 0 for z in positives) / len(positives)
    false_rate = sum(z > 0 for z in negatives) / len(negatives)
    wins = sum(1.0 if p > q else 0.5 if p == q else 0.0 for p in positives for q in negatives)
    accuracy = hits / len(pairs)
    return {
        "accuracy": accuracy,
        "balanced_accuracy": (recall + 1 - false_rate) / 2,
        "recall": recall,
        "false_positive_rate": false_rate,
        "auc": wins / (len(positives) * len(negatives)),
        "flip_safe_accuracy": max(accuracy, 1 - accuracy),
    }


@st.composite
def wild_inputs(draw):
    """Logits of any size with many ties and zeros; labels with unknowns and both classes."""
    logit = st.one_of(
        st.sampled_from([0.0, -0.0, 1.0, -1.0]),
        st.floats(allow_nan=False, allow_infinity=False),
        st.floats(-1e-300, 1e-300),
    )
    rows = draw(st.lists(st.tuples(logit, st.sampled_from([0.0, 1.0, NAN])), max_size=30))
    rows += [(draw(logit), 0.0), (draw(logit), 1.0)]
    rows = draw(st.permutations(rows))
    return np.array([z for z, _ in rows]), np.array([y for _, y in rows])


# --- the contract of the scores that take more than logits and labels ----------------------------------------


@dataclass(frozen=True)
class Case:
    """A call of a score on arrays of 60 images."""

    call: Callable
    arrays: dict[str, np.ndarray]
    permuted: dict[str, int]  # array -> its axis of images; in one order for all of them
    refuses_nan_in: tuple[str, ...]
    output_axis: int | None = None  # of images; None = one result for all of them


def contract_cases():
    rng = np.random.default_rng(0)
    n, m = 60, 40
    member = rng.permuted(np.arange(8)[:, None] * np.ones(n) < 4, axis=0)
    pairs = np.repeat(np.arange(4)[:, None] * np.arange(n) % 3 == 0, 2, axis=0)
    pairs[1::2] ^= True  # of shadows 2k and 2k + 1 one learned from each image
    a = {
        "logits": rng.normal(size=(n, 3)),
        "other": rng.normal(size=(n, 3)),
        "table": rng.integers(0, 2, (n, 3)).astype(float),
        "classes": rng.integers(0, 3, n),
        "x": rng.normal(size=n),
        "x2": rng.normal(size=n),
        "y": np.arange(n) % 2 * 1.0,
        "is_member": np.arange(n) % 3 == 0,
        "identity": rng.integers(0, 15, n),
        "entropy": rng.exponential(size=n),
        "losses": rng.exponential(size=n),
        "shadows": rng.normal(size=(8, n, 3)),
        "member": member,
        "pairs": pairs,
        "unit": np.arange(n) % 15,
        "pairs_of_units": pairs[:, :15].copy(),
        "references": rng.exponential(size=(8, n)),
        "z": rng.exponential(size=m),
        "z_references": rng.exponential(size=(8, m)),
        "margins": rng.normal(size=(8, n)),
        "margins2": rng.normal(size=(6, n)),
        "fit": rng.normal(size=(50, 3)),
        "y_fit": np.arange(50) % 2 * 1.0,
    }
    boot = {"seed": 0, "num_resamples": 60}
    mod = {name: importlib.import_module(f"mlu_utils.scoring.{name}") for name in MODULES}
    ai, en, di, me = (mod[name] for name in ("attribute_inference", "entropy", "distances", "membership"))
    names = list("abc")

    def case(call, permuted, refuses=None, output_axis=None, fixed=()):
        used = [name for name in [*permuted.split(), *fixed] if name]
        axes = {
            k: 1 if k in ("shadows", "member", "pairs", "references", "margins", "margins2", "z_references") else 0
            for k in a
        }
        refuses = (
            tuple(k for k in used if a[k].dtype == float and k not in ("y", "table", "y_fit"))
            if refuses is None
            else refuses
        )
        return Case(call, {k: a[k] for k in used}, {k: axes[k] for k in permuted.split()}, refuses, output_axis)

    return {
        "utility.binary_scores": case(binary_scores, "x y"),
        "utility.label_scores": case(
            lambda logits, table: label_scores(logits, table, names, np.array([True, False, False])), "logits table"
        ),
        "utility.class_scores": case(
            lambda logits, classes, is_member: class_scores(logits, classes, names, is_member),
            "logits classes is_member",
        ),
        "utility.class_margins": case(mod["utility"].class_margins, "logits", output_axis=0),
        "probe.linear_probe": case(
            lambda logits, y, fit, y_fit: linear_probe(fit, y_fit, logits, y, seed=0),
            "logits y",
            fixed=("fit", "y_fit"),
        ),
        "probe.attack_logits": case(
            lambda logits, fit, y_fit: mod["probe"].attack_logits(fit, y_fit, logits, attacker="mlp", seed=0),
            "logits",
            output_axis=0,
            fixed=("fit", "y_fit"),
        ),
        "attribute_inference.retained_label_inputs": case(
            lambda table: ai.retained_label_inputs(table, 1), "table", (), output_axis=0
        ),
        "attribute_inference.attribute_leak": case(
            lambda x, y, identity: ai.attribute_leak(x, y, identity=identity, **boot), "x y identity"
        ),
        "attribute_inference.excess_leak": case(
            lambda x, x2, y, identity: ai.excess_leak(x, x2, y, identity=identity, **boot), "x x2 y identity"
        ),
        "attribute_inference.attack_table": case(
            lambda logits, y, identity, fit, y_fit: ai.attack_table(
                {"Retrain": {"logits": (fit, logits)}},
                y_fit,
                y,
                attackers=["linear"],
                identity_fit=np.arange(100, 150),
                identity_eval=identity,
                **boot,
            ),
            "logits y identity",
            fixed=("fit", "y_fit"),
        ),
        "correlation.mean_interval": case(mod["correlation"].mean_interval, "x"),
        "correlation.change_along_phi": case(
            lambda x, x2, classes, identity: mod["correlation"].change_along_phi(
                x, x2, label=classes, model=identity, **boot
            ),
            "x x2 classes identity",
        ),
        "entropy.label_entropy": case(en.label_entropy, "logits", output_axis=0),
        "entropy.class_entropy": case(en.class_entropy, "logits", output_axis=0),
        "entropy.log_entropy": case(en.log_entropy, "entropy", output_axis=0),
        "entropy.modified_label_entropy": case(en.modified_label_entropy, "logits table", output_axis=0),
        "entropy.modified_class_entropy": case(en.modified_class_entropy, "logits classes", output_axis=0),
        "entropy.streisand": case(lambda entropy, z: en.streisand(entropy, z, **boot), "entropy", fixed=("z",)),
        "entropy.streisand_table": case(
            lambda entropy, z: en.streisand_table({"Retrain": {"train": entropy, "unseen": z}}, **boot),
            "entropy",
            fixed=("z",),
        ),
        "distances.label_js": case(di.label_js, "logits other"),
        "distances.class_js": case(di.class_js, "logits other"),
        "distances.label_zrf": case(di.label_zrf, "logits other"),
        "distances.activation_distance": case(
            lambda logits, other: di.activation_distance(logits, other, is_multi_label=True), "logits other"
        ),
        "distances.label_agreement": case(di.label_agreement, "logits other"),
        "distances.klom": case(di.klom, "margins margins2", output_axis=0),
        "membership.label_confidence": case(me.label_confidence, "logits table", output_axis=0),
        "membership.class_confidence": case(me.class_confidence, "logits classes", output_axis=0),
        "membership.confidence_loss": case(me.confidence_loss, "x", output_axis=0),
        "membership.membership_leak": case(
            lambda x, is_member, identity: me.membership_leak(x, is_member, identity=identity, **boot),
            "x is_member identity",
        ),
        "membership.null_on_halves": case(lambda x: me.null_on_halves(x, seed=0, num_splits=60), "x"),
        "membership.logistic_loss_attack": case(me.logistic_loss_attack, "losses is_member"),
        "membership.lira": case(me.lira, "logits shadows member", output_axis=0),
        "membership.lira, of U-LiRA": case(
            lambda logits, shadows, member: me.lira(logits, shadows, member, never_trained=~member),
            "logits shadows member",
            output_axis=0,
        ),
        "membership.lira_leave_pair_out": case(me.lira_leave_pair_out, "shadows pairs", output_axis=1),
        "membership.unit_scores": case(me.unit_scores, "x unit"),
        "membership.attack_shadows": case(
            lambda shadows, unit, pairs_of_units: {
                f"{row['attacker']} {key}": value
                for row in me.attack_shadows(shadows, pairs_of_units, unit, **boot)
                for key, value in row.items()
                if key != "attacker"
            },
            "shadows unit",
            fixed=("pairs_of_units",),
        ),
        "membership.rmia": case(
            lambda losses, references, member, z, z_references: me.rmia(losses, references, member, z, z_references),
            "losses references member",
            output_axis=0,
            fixed=("z", "z_references"),
        ),
        "membership.rmia_offset": case(me.rmia_offset, "references member", fixed=("z_references",)),
        "forgetting_quality.example_epsilon": case(
            mod["forgetting_quality"].example_epsilon, "margins margins2", output_axis=0
        ),
        "forgetting_quality.forgetting_quality": case(
            lambda entropy: mod["forgetting_quality"].forgetting_quality(entropy, num_models=16), "entropy"
        ),
    }


MODULES = sorted(module.name for module in pkgutil.iter_modules(scoring.__path__))
CONTRACT = contract_cases()
EXEMPT = {
    "utility": "the scores of SCORES have their own sweeps below",
    "arrays": "what refuses nan, tested through all of them",
    "bootstrap": "tested by itself; takes weights",
    "learning_curves": "a curve has an order",
    "nomus": "the published attack deals its splits by the order of rows; tested against the benchmark's notebooks",
    "softmax_attack": "the published attack learns from the first rows; tested against LAF's code",
    "audit_table": "collects numbers of other scores; tested by itself",
    "audit": "verify_unlearning fits attackers to rows whose order deals the inner folds; audit_table takes no arrays",
}
EXEMPT_FUNCTIONS = {
    "attribute_inference.split_by_identity",  # returns rows
    "attribute_inference.permuted_labels",  # random by row
    "correlation.phi_coefficients",  # of labels, in which nan means unknown
    "membership.pooled",  # builds the input of a score
    "membership.complementary_pairs",  # memberships, checked
    "membership.shuffled_pairs",  # random by image
    "membership.null_on_shuffles",  # attack_shadows on those
}


def comparable(result):
    """A result as a dictionary of arrays."""
    if isinstance(result, pd.DataFrame):
        return {column: result[column].to_numpy() for column in result}
    if isinstance(result, dict):
        return {key: np.asarray(value) for key, value in result.items()}
    if isinstance(result, list):
        return {f"{row['label']} {row['metric']}": np.asarray(row["value"]) for row in result}
    return {"": np.asarray(result)}


def test_every_public_score_is_in_the_contract_or_exempt_by_name():
    assert len(CONTRACT) == NUM_CONTRACT_CASES and len(MODULES) == NUM_MODULES
    for module in set(MODULES) - set(EXEMPT):
        functions = inspect.getmembers(importlib.import_module(f"mlu_utils.scoring.{module}"), inspect.isfunction)
        own = {f"{module}.{name}" for name, f in functions if f.__module__.endswith(f".{module}") and name[0] != "_"}
        assert own - EXEMPT_FUNCTIONS <= set(CONTRACT), own - EXEMPT_FUNCTIONS - set(CONTRACT)


@pytest.mark.parametrize("name", CONTRACT)
def test_contract_of_order_and_inputs(name):
    case = CONTRACT[name]
    kept = {key: value.copy() for key, value in case.arrays.items()}
    for value in case.arrays.values():
        value.flags.writeable = False  # a read-only memory map must do
    first = comparable(case.call(*case.arrays.values()))
    order = np.random.default_rng(1).permutation(60)
    shuffled = {
        key: np.take(value, order, axis=case.permuted[key]) if key in case.permuted else value
        for key, value in case.arrays.items()
    }
    second = comparable(case.call(*shuffled.values()))
    assert first.keys() == second.keys()
    for key in first:
        expected = first[key] if case.output_axis is None else np.take(first[key], order, axis=case.output_axis)
        if expected.dtype.kind in "fiub":
            np.testing.assert_allclose(second[key], expected, rtol=1e-9, atol=1e-12, err_msg=f"{name} {key}")
        else:
            assert second[key].tolist() == expected.tolist()
    for key, value in case.arrays.items():
        np.testing.assert_array_equal(value, kept[key])


@pytest.mark.parametrize("name", CONTRACT)
def test_contract_of_nan_and_infinity(name):
    case = CONTRACT[name]
    assert case.refuses_nan_in or name == "attribute_inference.retained_label_inputs"
    for key in case.refuses_nan_in:
        for bad in (NAN, math.inf):
            broken = case.arrays[key].copy()
            broken.flat[5] = bad
            with pytest.raises(ValueError, match="nan|infinit|known|finite"):
                case.call(*{**case.arrays, key: broken}.values())


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings(module):
    done = doctest.testmod(importlib.import_module(f"mlu_utils.scoring.{module}"))
    assert done.failed == 0 and (done.attempted > 0 or module == "audit_table")


# --- the contract of every score ----------------------------------------------------------------------------


def test_registry_is_complete():
    assert len(SCORES) == NUM_SCORES
    assert list(binary_scores([1.0, -1.0], [1, 0])) == list(SCORES)


@given(wild_inputs())
def test_scores_equal_plain_loops(inputs):
    logits, labels = inputs
    expected = loop_scores(logits.tolist(), labels.tolist())
    got = binary_scores(logits, labels)
    assert got.keys() == expected.keys()
    for name in got:
        assert got[name] == pytest.approx(expected[name], abs=1e-12), name
        assert 0 <= got[name] <= 1 and type(got[name]) is float


@given(wild_inputs())
def test_scores_agree_with_sklearn(inputs):
    logits, labels = inputs
    is_known = ~np.isnan(labels)
    truth, z = labels[is_known].astype(int), logits[is_known]
    predicted = (z > 0).astype(int)
    got = binary_scores(logits, labels)
    # Ranks and not values: scikit-learn merges thresholds that differ by less than a rounding error.
    ranks = np.unique(z, return_inverse=True)[1]
    assert got["auc"] == pytest.approx(metrics.roc_auc_score(truth, ranks), abs=1e-12)
    assert got["accuracy"] == pytest.approx(metrics.accuracy_score(truth, predicted))
    assert got["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(truth, predicted))
    assert got["recall"] == pytest.approx(metrics.recall_score(truth, predicted))


@pytest.mark.parametrize("name", SCORES)
def test_score_ignores_order_and_leaves_inputs_alone(name):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=200), rng.choice([0.0, 1.0, NAN], size=200)
    kept_logits, kept_labels = logits.copy(), labels.copy()
    order = rng.permutation(200)
    assert SCORES[name](logits, labels) == SCORES[name](logits[order], labels[order])
    np.testing.assert_array_equal(logits, kept_logits)
    np.testing.assert_array_equal(labels, kept_labels)
    logits.flags.writeable = labels.flags.writeable = False  # a read-only memmap must do as well
    SCORES[name](logits, labels)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("bad", [NAN, float("inf"), -float("inf")])
def test_score_refuses_non_finite_logits(name, bad):
    # The bad logit belongs to an unknown label: a diverged model is refused all the same.
    with pytest.raises(ValueError, match=r"1 of 3 logits are nan or infinite.*index \(1,\)"):
        SCORES[name]([1.0, bad, -1.0], [1, NAN, 0])


@pytest.mark.parametrize("name", SCORES)
def test_score_refuses_bad_labels_and_shapes(name):
    score = SCORES[name]
    with pytest.raises(ValueError, match="1 of 2 labels are neither 1, 0 nor nan"):
        score([1.0, 2.0], [1, 2])
    with pytest.raises(ValueError, match="none of the 2 labels is known"):
        score([1.0, 2.0], [NAN, NAN])
    with pytest.raises(ValueError, match=r"\(2,\) and labels \(1,\)"):
        score([1.0, 2.0], [1])
    with pytest.raises(ValueError, match=r"expected \(n,\) and \(n,\)"):
        score([[1.0], [2.0]], [[1], [0]])


@pytest.mark.parametrize(
    ("name", "labels", "missing"),
    [
        ("recall", [0, 0], 1),
        ("false_positive_rate", [1, 1], 0),
        ("balanced_accuracy", [0, 0], 1),
        ("balanced_accuracy", [1, 1], 0),
        ("auc", [0, 0], 1),
        ("auc", [1, NAN], 0),
    ],
)
def test_score_names_the_missing_class(name, labels, missing):
    with pytest.raises(ValueError, match=f"{name} needs an entry labelled {missing}, but all"):
        SCORES[name]([1.0, -1.0], labels)


# --- known points -------------------------------------------------------------------------------------------


def test_logit_of_zero_predicts_nothing():
    got = binary_scores(np.zeros(4), [1, 1, 1, 0])
    assert got["recall"] == got["false_positive_rate"] == 0.0
    assert got["accuracy"] == 0.25
    assert got["balanced_accuracy"] == got["auc"] == 0.5


@pytest.mark.parametrize("constant", [-3.0, 0.0, 1e300])
def test_constant_logit_has_auc_of_exactly_one_half(constant):
    labels = np.random.default_rng(0).integers(0, 2, 1001)
    assert auc(np.full(1001, constant), labels) == 0.5


@given(wild_inputs())
def test_inverted_head_leaks_in_full(inputs):
    _, labels = inputs
    known = labels[~np.isnan(labels)]
    inverted = 1.0 - 2.0 * known
    got = binary_scores(inverted, known)
    assert got["accuracy"] == got["recall"] == got["auc"] == 0.0
    assert flip_safe_accuracy(inverted, known) == 1.0


def test_auc_survives_float32_and_integers():
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=300).astype(np.float32), rng.integers(0, 2, 300)
    assert auc(logits, labels) == pytest.approx(metrics.roc_auc_score(labels, logits), abs=1e-12)
    assert auc(labels, labels) == 1.0


# --- label_scores -------------------------------------------------------------------------------------------


def values(rows):
    """Rows as {(label, metric): value}, each key once."""
    table = {(row["label"], row["metric"]): row["value"] for row in rows}
    assert len(table) == len(rows)
    return table


def label_case(seed=0, n=60, num_labels=4):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, num_labels))
    labels = rng.choice([0.0, 1.0, NAN], p=[0.5, 0.4, 0.1], size=(n, num_labels))
    return rng, logits, labels, [f"label_{k}" for k in range(num_labels)]


def test_label_request_retained_accuracy_is_the_mean_over_retained_labels():
    _, logits, labels, names = label_case()
    forgotten = np.array([False, True, False, False])
    got = values(label_scores(logits, labels, names, forgotten))
    per_label = [binary_scores(logits[:, k], labels[:, k]) for k in range(4)]
    for k, name in enumerate(names):
        for metric in SCORES:
            assert got[name, metric] == per_label[k][metric]
    for metric in ("accuracy", "balanced_accuracy", "auc"):
        assert got["retained", metric] == pytest.approx(np.mean([per_label[k][metric] for k in (0, 2, 3)]))
        assert got["forgotten", metric] == per_label[1][metric]
    assert len(got) == 4 * NUM_SCORES + 2 * 3  # whole labels get no partial rows


def test_label_mask_and_entry_mask_of_whole_columns_agree():
    _, logits, labels, names = label_case()
    forgotten = np.array([False, True, False, True])
    by_label = label_scores(logits, labels, names, forgotten)
    by_entry = label_scores(logits, labels, names, np.tile(forgotten, (len(logits), 1)))
    assert by_label == by_entry


@pytest.mark.parametrize("kind", ["partial", "people", "scattered"])
def test_entry_requests_score_either_part_by_plain_loops(kind):
    rng, logits, labels, names = label_case(seed=3)
    mask = np.zeros(labels.shape, dtype=bool)
    if kind == "partial":
        mask[:20, 2] = True
    elif kind == "people":
        mask[:20] = True
    else:
        mask = rng.random(labels.shape) < 0.3
    got = values(label_scores(logits, labels, names, mask))
    for part, chosen in (("retained", ~mask), ("forgotten", mask)):
        per_label = []
        for k in range(4):
            entries = [i for i in range(len(labels)) if chosen[i, k] and not math.isnan(labels[i, k])]
            if entries:
                right = sum((logits[i, k] > 0) == bool(labels[i, k]) for i in entries)
                per_label.append(right / len(entries))
                if (names[k], f"{part}_accuracy") in got:
                    assert got[names[k], f"{part}_accuracy"] == pytest.approx(per_label[-1])
        assert got[part, "accuracy"] == pytest.approx(sum(per_label) / len(per_label))
    # The partly forgotten labels, and only they, come with the scores of either part.
    num_partial = 1 if kind == "partial" else 4
    assert sum(metric == "forgotten_accuracy" for _, metric in got) == num_partial


def test_label_scores_mark_what_is_undefined_and_leave_it_out_of_means():
    logits = np.array([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0], [1.0, -1.0, 1.0]])
    labels = np.array([[1.0, 0.0, NAN], [0.0, 0.0, NAN], [1.0, 0.0, NAN]])  # nobody bald; third label unknown
    got = values(label_scores(logits, labels, ["Male", "Bald", "Young"], np.zeros(3, dtype=bool)))
    assert math.isnan(got["Bald", "auc"]) and math.isnan(got["Bald", "recall"])
    assert got["Bald", "accuracy"] == pytest.approx(2 / 3)
    assert all(math.isnan(got["Young", metric]) for metric in SCORES)
    assert got["retained", "auc"] == 1.0
    assert got["retained", "accuracy"] == pytest.approx((1 + 2 / 3) / 2)
    assert ("forgotten", "accuracy") not in got


def test_label_scores_refuse_bad_masks_and_names():
    _, logits, labels, names = label_case()
    with pytest.raises(ValueError, match="dtype int64: expected a boolean mask"):
        label_scores(logits, labels, names, [1])
    with pytest.raises(ValueError, match=r"forgotten \(3,\): expected .* and \(K,\)"):
        label_scores(logits, labels, names, np.zeros(3, dtype=bool))
    with pytest.raises(ValueError, match="3 names for 4 labels"):
        label_scores(logits, labels, names[:3], np.zeros(4, dtype=bool))
    with pytest.raises(ValueError, match="'retained' is reserved"):
        label_scores(logits, labels, ["retained", *names[1:]], np.zeros(4, dtype=bool))
    logits[5, 2] = NAN
    with pytest.raises(ValueError, match=r"index \(5, 2\)"):
        label_scores(logits, labels, names, np.zeros(4, dtype=bool))


# --- class_scores -------------------------------------------------------------------------------------------


def test_class_scores_agree_with_plain_loops_and_sklearn():
    rng = np.random.default_rng(4)
    logits, labels = rng.normal(size=(120, 5)) * 3, rng.integers(0, 5, 120)
    logits[np.arange(120), labels] += 2
    forgotten = labels == 3
    names = list("abcde")
    got = values(class_scores(logits, labels, names, forgotten))
    predicted = [max(range(5), key=lambda c: row[c]) for row in logits.tolist()]
    kept = [p == y for p, y, f in zip(predicted, labels, forgotten, strict=True) if not f]
    assert got["retained", "accuracy"] == pytest.approx(sum(kept) / len(kept))
    assert got["forgotten", "accuracy"] == got["d", "recall"]
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for c, name in enumerate(names):
        assert got[name, "auc"] == pytest.approx(metrics.roc_auc_score(labels == c, softmax[:, c]), abs=1e-12)
        others = [p == c for p, y in zip(predicted, labels, strict=True) if y != c]
        assert got[name, "false_positive_rate"] == pytest.approx(sum(others) / len(others))


def test_class_scores_of_a_head_without_information():
    labels = np.array([0, 1, 2, 1])
    got = values(class_scores(np.zeros((4, 3)), labels, list("abc"), labels == 1))
    assert got["b", "recall"] == got["b", "false_positive_rate"] == 0.0
    assert got["b", "auc"] == 0.5
    assert got["retained", "accuracy"] == 0.0


def test_class_scores_survive_extreme_logits_and_missing_classes():
    got = values(class_scores([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]], [0, 1], list("abc"), [False, False]))
    assert got["a", "auc"] == got["b", "auc"] == 1.0
    assert math.isnan(got["c", "recall"]) and math.isnan(got["c", "auc"])
    assert got["c", "false_positive_rate"] == 0.0
    assert ("forgotten", "accuracy") not in got


def test_class_scores_refuse_bad_input():
    mask = np.zeros(2, dtype=bool)
    with pytest.raises(ValueError, match=r"span 0..3: expected 0..2"):
        class_scores(np.ones((2, 3)), np.array([0, 3]), list("abc"), mask)
    with pytest.raises(ValueError, match="float64: expected integers"):
        class_scores(np.ones((2, 3)), np.array([0.0, 1.0]), list("abc"), mask)
    with pytest.raises(ValueError, match="logits are nan or infinite"):
        class_scores(np.array([[1.0, NAN], [0.0, 1.0]]), np.array([0, 1]), list("ab"), mask)
    with pytest.raises(ValueError, match=r"forgotten_mask \(3,\)"):
        class_scores(np.ones((2, 3)), np.array([0, 1]), list("abc"), np.zeros(3, dtype=bool))


# --- the probe ----------------------------------------------------------------------------------------------


@pytest.fixture
def no_warnings():
    """Turn any warning, such as lbfgs giving up, into a failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def probe_case(seed, n=300, d=32, share=0.3):
    rng = np.random.default_rng(seed)
    labels = (rng.random(2 * n) < share).astype(float)
    return rng, rng.normal(size=(2 * n, d)), labels


def halves(features, labels, *, seed=0):
    n = len(labels) // 2
    return linear_probe(features[:n], labels[:n], features[n:], labels[n:], seed=seed)


@pytest.mark.usefixtures("no_warnings")
def test_probe_finds_a_planted_leak():
    rng, features, labels = probe_case(0)
    direction = rng.normal(size=features.shape[1])
    got = halves(features + 4.0 * np.outer(labels, direction), labels)
    assert got["probe_auc"] > 0.99
    assert got["probe_balanced_accuracy"] > 0.95


@pytest.mark.usefixtures("no_warnings")
def test_probe_finds_nothing_where_labels_are_permuted():
    # Under the null one AUC with 90 and 210 rows has sd sqrt((n1 + n0 + 1) / (12 n1 n0)) = .036, the mean of
    # five .016: the bound is almost six of those, and the planted leak above lies thirty away.
    results = []
    for seed in range(5):
        rng, features, labels = probe_case(seed + 1, d=8)
        features = features + 4.0 * labels[:, None]
        results.append(halves(features, rng.permutation(labels), seed=seed)["probe_auc"])
    assert abs(np.mean(results) - 0.5) < 0.09


@pytest.mark.usefixtures("no_warnings")
def test_probe_on_collapsed_features_knows_nothing():
    _, features, labels = probe_case(2)
    got = halves(np.full_like(features, 0.1), labels)
    assert got["probe_auc"] == got["probe_balanced_accuracy"] == 0.5


@pytest.mark.usefixtures("no_warnings")
def test_probe_converges_on_ill_conditioned_relu_features():
    rng, features, labels = probe_case(3, n=260, d=512)
    features = np.maximum(features[:, :20] @ rng.normal(size=(20, 512)) + labels[:, None] - 3, 0)
    features = (features * 10.0 ** rng.normal(size=512)).astype(np.float32)
    features[:, :5] = 0.0  # dead units
    assert 0.5 < halves(features, labels)["probe_auc"] <= 1.0


def test_probe_is_repeatable_drops_unknown_labels_and_leaves_inputs_alone():
    _, features, labels = probe_case(4)
    features = features + labels[:, None]
    kept = features.copy(), labels.copy()
    first = halves(features, labels, seed=7)
    assert first == halves(features, labels, seed=7)
    np.testing.assert_array_equal(features, kept[0])
    np.testing.assert_array_equal(labels, kept[1])
    garbage = np.full((2, features.shape[1]), 1e6)
    more = np.concatenate([features[:300], garbage])
    unknown = np.concatenate([labels[:300], [NAN, NAN]])
    assert linear_probe(more, unknown, features[300:], labels[300:], seed=7) == first


def test_probe_refuses_what_it_cannot_fit():
    _, features, labels = probe_case(5, n=20, d=3)
    with pytest.raises(ValueError, match="labels_fit has 2 rows labelled 1: at least 3 are needed"):
        linear_probe(features, np.arange(40) < 2, features, labels, seed=0)
    with pytest.raises(ValueError, match="labels_eval has 0 rows labelled 1"):
        linear_probe(features, labels, features, np.zeros(40), seed=0)
    with pytest.raises(ValueError, match=r"features_eval \(40, 2\) and features_fit \(40, 3\)"):
        linear_probe(features, labels, features[:, :2], labels, seed=0)
    with pytest.raises(ValueError, match="120 of 120 features_eval are nan"):
        linear_probe(features, labels, np.full_like(features, NAN), labels, seed=0)
    with pytest.raises(ValueError, match=r"features_fit \(40, 3\) and labels_fit \(39,\)"):
        linear_probe(features, labels[1:], features, labels, seed=0)
    with pytest.raises(ValueError, match="labels_fit are neither 1, 0 nor nan"):
        linear_probe(features, labels + 1, features, labels, seed=0)


# Ordered classes


def test_reassigned_to_the_nearest_class_that_is_left():
    positions, labels = [3.0, 14.5, 25.0, 38.0, 53.0], [3, 0, 3, 4, 2]
    before = list(labels)
    assert reassign_removed_class(labels, 3, positions).tolist() == [2, 0, 2, 4, 2]  # 38 is 13 from 25, 15 from 53
    assert reassign_removed_class(labels, 3, positions, [45, 3, 33, 53, 25]).tolist() == [4, 0, 2, 4, 2]
    assert reassign_removed_class(labels, 0, positions).tolist() == [3, 1, 3, 4, 2]  # an end has one neighbour
    assert reassign_removed_class([1], 1, [0.0, 1.0, 2.0]).tolist() == [0]  # of equals the lower one
    assert labels == before


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(0, 4), st.permutations(range(5)))
def test_reassignment_by_brute_force(labels, removed, positions):
    ours = reassign_removed_class(labels, removed, [float(p) for p in positions])
    for label, goal in zip(labels, ours.tolist(), strict=True):
        left = [c for c in range(5) if c != removed]
        expected = min(left, key=lambda c: (abs(positions[c] - positions[removed]), c)) if label == removed else label
        assert goal == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 1], 2, [0.0, 1.0]), r"the removed class is 2: expected 0\.\.1"),
        (([0, 5], 0, [0.0, 1.0]), r"labels span 0\.\.5, .*: expected 0\.\.1"),
        (([0], 0, [0.0]), "at least two classes"),
        (([0.5], 0, [0.0, 1.0]), "expected integers"),
        (([0], 0, [0.0, math.nan]), "1 of 2 positions are nan"),
        (([0], 0, [0.0, 1.0], [1.0, 2.0]), r"labels \(1,\) and positions \(2,\) and values \(2,\)"),
    ],
)
def test_reassignment_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        reassign_removed_class(*arguments)
