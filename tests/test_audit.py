"""Verification on shadow data and the auditor's table: they pass, fail and rank for the right reasons."""

import numpy as np
import pytest

from mlu_utils.scoring.audit import AUDIT_COLUMNS, AUDIT_QUESTIONS, audit_table, verify_unlearning

NAN = float("nan")
THRESHOLDS = {"max_attribute_auc": 0.7, "max_excess_auc": 0.05, "max_membership_auc": 0.6}


def shadow_case(seed=0):
    rng = np.random.default_rng(seed)
    identity = np.repeat(np.arange(60), 5)
    labels = rng.integers(0, 2, 300).astype(float)
    arrays = {
        "labels": labels,
        "features": rng.normal(size=(300, 4)),
        "reference_features": rng.normal(size=(300, 4)),
        "identity": identity,
        "member_scores": rng.normal(size=200),
        "shadow_scores": rng.normal(size=300),
    }
    return rng, arrays


def verify(arrays, **changes):
    arrays = arrays | changes
    first = [arrays.pop(name) for name in ("features", "reference_features", "labels")]
    return verify_unlearning(*first, **({**THRESHOLDS, "seed": 0, "num_resamples": 200} | arrays))


def test_nothing_to_find_passes_with_reasons():
    _, arrays = shadow_case()
    kept = {name: a.copy() for name, a in arrays.items()}
    got = verify(arrays)
    assert got.passed.all() and list(got.check) == ["attribute_auc", "excess_auc", "membership_auc"]
    assert len(got) == 3 and all("is within" in reason for reason in got.reason)
    for name, a in arrays.items():
        np.testing.assert_array_equal(a, kept[name])


def test_each_leak_fails_its_own_check():
    rng, arrays = shadow_case()
    leak = 3 * arrays["labels"][:, None] * [1, 0, 0, 0]
    planted = verify(arrays, features=arrays["features"] + leak)
    assert planted.passed.tolist() == [False, False, True]
    assert planted.is_certain.iloc[:2].all() and "is above 0.7" in planted.reason[0]
    # As readable from Retrain: correlation, not failed unlearning; the first check alone says that it is readable.
    both = verify(arrays, features=arrays["features"] + leak, reference_features=arrays["reference_features"] + leak)
    assert both.passed.tolist() == [False, True, True]
    for shift in (2.0, -2.0):  # members that stand out in either direction
        members = verify(arrays, member_scores=rng.normal(size=200) + shift)
        assert members.passed.tolist() == [True, True, False]


def test_an_interval_across_the_threshold_is_called_uncertain():
    _, arrays = shadow_case(1)
    value = verify(arrays).set_index("check").loc["attribute_auc"]
    close = verify(arrays, max_attribute_auc=float(value.value) + 0.001).iloc[0]
    assert close.passed and not close.is_certain and "more shadow data could change this" in close.reason


def test_verification_refuses_bad_input():
    _, arrays = shadow_case()
    with pytest.raises(ValueError, match="max_attribute_auc 65 must lie in"):
        verify(arrays, max_attribute_auc=65)
    with pytest.raises(ValueError, match=r"labels \(299,\)"):
        verify(arrays, labels=arrays["labels"][1:])
    with pytest.raises(ValueError, match="features are nan"):
        verify(arrays, features=arrays["features"] * NAN)


LIMITS = {
    "max_utility_loss": 0.01,
    "max_output_excess": 0.05,
    "max_feature_excess": 0.05,
    "min_relearning_ratio": 0.8,
    "max_time_share": 1.0,
}


def numbers(**changes):
    row = dict(zip(AUDIT_COLUMNS, (0.93, 0.6, 0.7, 20, 100.0), strict=True))
    return row | changes


def test_every_question_fails_alone():
    failures = {
        "retained_accuracy": 0.91,
        "output_leak_auc": 0.66,
        "feature_leak_auc": 0.76,
        "relearning_steps": 15,
        "unlearning_time_s": 101.0,
    }
    methods = {"Retrain": numbers(), **{name: numbers(**{name: value}) for name, value in failures.items()}}
    table = audit_table(methods, **LIMITS).set_index("method")
    assert table.loc["Retrain", "passed"] and table.loc["Retrain", "rank"] == 1
    for column, question in zip(AUDIT_COLUMNS, AUDIT_QUESTIONS, strict=True):
        assert [q for q in AUDIT_QUESTIONS if not table.loc[column, q]] == [question]
        assert table.loc[column, "num_passed"] == 4 and not table.loc[column, "passed"]


def test_limits_include_their_ends():
    edge = numbers(retained_accuracy=0.92, output_leak_auc=0.65, feature_leak_auc=0.75, relearning_steps=16)
    assert audit_table({"Retrain": numbers(), "WP": edge}, **LIMITS).passed.all()


def test_ranks_follow_their_keys_and_ties_share_one():
    methods = {
        "Slow": numbers(unlearning_time_s=200.0),
        "Leaky": numbers(feature_leak_auc=0.74),
        "Retrain": numbers(),
        "Twin": numbers(),
        "Quick": numbers(unlearning_time_s=1.0),
        "Better": numbers(retained_accuracy=0.95),
    }
    table = audit_table(methods, **LIMITS)
    assert table.method.tolist() == ["Better", "Quick", "Retrain", "Twin", "Leaky", "Slow"]
    assert table["rank"].tolist() == [1, 2, 3, 3, 5, 6]
    shuffled = audit_table(dict(reversed(methods.items())), **LIMITS)
    assert dict(zip(table.method, table["rank"], strict=True)) == dict(
        zip(shuffled.method, shuffled["rank"], strict=True)
    )


def test_censored_is_passed_and_unmeasured_is_not():
    methods = {
        "Retrain": numbers(),
        "Never": numbers(relearning_steps=float("inf")),
        "Unknown": numbers(relearning_steps=NAN, feature_leak_auc=NAN),
    }
    table = audit_table(methods, **LIMITS).set_index("method")
    assert table.loc["Never", "is_slow_to_relearn"] and table.loc["Never", "passed"]
    assert table.loc["Unknown", "is_slow_to_relearn"] is None and table.loc["Unknown", "is_gone_from_features"] is None
    assert table.loc["Unknown", "num_passed"] == 3 and not table.loc["Unknown", "passed"]


def test_table_refuses_missing_numbers():
    with pytest.raises(ValueError, match="unknown reference 'Retrain': choose one of WP"):
        audit_table({"WP": numbers()}, **LIMITS)
    with pytest.raises(ValueError, match="WP lacks relearning_steps"):
        short = numbers()
        del short["relearning_steps"]
        audit_table({"Retrain": numbers(), "WP": short}, **LIMITS)
    with pytest.raises(ValueError, match="Retrain has no unlearning_time_s"):
        audit_table({"Retrain": numbers(unlearning_time_s=NAN)}, **LIMITS)
