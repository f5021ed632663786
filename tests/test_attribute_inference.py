"""Attribute inference: planted leaks are found, absent ones are not, and inverted ones count in full."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn import metrics

from mlu_utils.scoring.arrays import refuse_shared
from mlu_utils.scoring.attribute_inference import (
    attack_table,
    attribute_leak,
    excess_leak,
    permuted_labels,
    retained_label_inputs,
    split_by_identity,
)
from mlu_utils.scoring.probe import ATTACKERS, attack_logits

NAN = float("nan")


def case(seed=0, n=200, d=10, share=0.4):
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < share).astype(float)
    return rng, rng.normal(size=(n, d)), labels


# The attackers


@pytest.mark.parametrize("attacker", ATTACKERS)
def test_an_attacker_finds_a_label_copied_into_one_feature(attacker):
    _, features, labels = case(d=30, n=400)
    features[:, 7] = labels
    scores = attack_logits(features[:200], labels[:200], features[200:], attacker=attacker, seed=0)
    assert metrics.roc_auc_score(labels[200:], scores) > 0.99
    assert metrics.balanced_accuracy_score(labels[200:], scores > 0) > 0.95


def test_the_mlp_sees_what_no_linear_attacker_can():
    _, features, _ = case(d=4, n=800)
    labels = (features[:, 0] * features[:, 1] > 0).astype(float)
    aucs = {
        attacker: metrics.roc_auc_score(
            labels[400:], attack_logits(features[:400], labels[:400], features[400:], attacker=attacker, seed=0)
        )
        for attacker in ATTACKERS
    }
    assert aucs["mlp"] > 0.95 and abs(aucs["linear"] - 0.5) < 0.15


def test_the_mlp_repeats_balances_and_leaves_inputs_alone():
    rng, features, labels = case(seed=1, n=400, d=1, share=0.1)
    features[:, 0] += 2 * labels
    kept = features.copy(), labels.copy()
    options = {"attacker": "mlp", "seed": 3}
    scores = attack_logits(features[:200], labels[:200], features[200:], **options)
    np.testing.assert_array_equal(scores, attack_logits(features[:200], labels[:200], features[200:], **options))
    np.testing.assert_array_equal(features, kept[0])
    np.testing.assert_array_equal(labels, kept[1])
    # 10 % positives: balanced, the threshold lies at 1 and calls 23 % positive; else at 2.1, and calls 6 %.
    assert 0.13 < (scores > 0).mean() < 0.35
    order = rng.permutation(200)
    np.testing.assert_allclose(
        attack_logits(features[:200], labels[:200], features[200:][order], **options), scores[order], rtol=1e-9
    )


def test_attackers_refuse_what_they_cannot_use():
    _, features, labels = case()
    with pytest.raises(ValueError, match="unknown attacker 'forest': choose one of linear, mlp"):
        attack_logits(features, labels, features, attacker="forest", seed=0)
    with pytest.raises(ValueError, match="features_eval are nan"):
        attack_logits(features, labels, features * NAN, seed=0)
    with pytest.raises(ValueError, match=r"features_eval \(10,\)"):
        attack_logits(features, labels, features[0], seed=0)


# Splits and controls


def test_split_keeps_people_apart_and_deals_out_a_rare_label():
    identity = np.repeat(np.arange(40), 5)
    labels = np.isin(identity, [1, 5, 8, 30]).astype(float)
    labels[::7] = NAN
    fit, test = split_by_identity(identity, labels=labels, seed=2)
    assert not np.intersect1d(identity[fit], identity[test]).size
    assert sorted([*fit, *test]) == list(range(200))
    assert len(np.unique(identity[fit])) == 20
    assert (labels[fit] == 1).any() and (labels[test] == 1).any()
    again = split_by_identity(identity, labels=labels, seed=2)
    np.testing.assert_array_equal(fit, again[0])


def test_split_and_sharing_refuse_bad_input():
    with pytest.raises(ValueError, match=r"2 people are in both, the first \[3, 4\]: split them"):
        refuse_shared("people are in both", np.array([3, 4, -1]), np.array([-1, 4, 3, 5]), "split them")
    # Nobody knows whether two unknown people are one.
    refuse_shared("people are in both", np.array([-1, 1]), np.array([-1, 2]), "split them")
    with pytest.raises(ValueError, match="1 people cannot be split"):
        split_by_identity(np.array([1, 1, 1]), seed=0)


def test_permuted_labels_keep_what_they_must():
    rng, _, labels = case(n=100)
    labels[rng.permutation(100)[:20]] = NAN
    kept = labels.copy()
    permuted = permuted_labels(labels, seed=0)
    np.testing.assert_array_equal(np.isnan(permuted), np.isnan(labels))
    assert np.nansum(permuted) == np.nansum(labels) and not np.array_equal(permuted, labels, equal_nan=True)
    np.testing.assert_array_equal(labels, kept)
    identity = np.repeat(np.arange(20), 5)
    constant = (np.arange(20) < 8).astype(float)[identity]
    by_person = permuted_labels(constant, identity=identity, seed=1).reshape(20, 5)
    assert (by_person == by_person[:, :1]).all() and by_person[:, 0].sum() == 8
    assert not np.array_equal(by_person.ravel(), constant)


def test_retained_labels_leave_out_the_forgotten_one_and_mark_unknowns():
    labels = np.array([[1.0, 0.0, NAN], [0.0, NAN, 1.0]])
    np.testing.assert_array_equal(retained_label_inputs(labels, 1), [[1, 0, 1, 0], [-1, 1, 1, 1]])
    rng, _, y = case(n=400)
    table = np.stack([y, np.where(rng.random(400) < 0.9, y, 1 - y), rng.integers(0, 2, 400)], axis=1)
    inputs = retained_label_inputs(table, 0)
    scores = attack_logits(inputs[:200], y[:200], inputs[200:], seed=0)
    assert 0.8 < metrics.roc_auc_score(y[200:], scores) < 0.97  # 90 % agreement, not more: y itself is not in there
    with pytest.raises(ValueError, match=r"\(400, 3\) have no column 3"):
        retained_label_inputs(table, 3)


# Leak and excess


def test_leak_agrees_with_sklearn_and_its_interval_with_the_closed_form():
    rng, _, labels = case(n=500)
    scores = rng.normal(size=500) + labels
    got = attribute_leak(scores, labels, seed=0)
    auc = metrics.roc_auc_score(labels, scores)
    assert got["auc"] == pytest.approx(auc, abs=1e-12)
    assert got["accuracy"] == pytest.approx(metrics.accuracy_score(labels, scores > 0))
    assert got["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(labels, scores > 0))
    # Hanley and McNeil (1982): standard error of an AUC.
    n_1, n_0 = labels.sum(), (1 - labels).sum()
    q_1, q_2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    error = np.sqrt((auc * (1 - auc) + (n_1 - 1) * (q_1 - auc**2) + (n_0 - 1) * (q_2 - auc**2)) / (n_1 * n_0))
    width = 2 * norm.ppf(0.975) * error
    assert got["auc_high"] - got["auc_low"] == pytest.approx(width, rel=0.15)
    assert got["num_images"] == got["num_people"] == 500


def test_equal_distributions_have_one_half_in_their_interval_and_separable_ones_leak_all():
    rng, _, labels = case(seed=5)
    got = attribute_leak(rng.normal(size=200), labels, seed=0)
    assert got["auc_low"] < 0.5 < got["auc_high"] and got["leak_auc_low"] == 0.5
    assert got["leak_auc"] >= 0.5 and got["leak_auc_high"] == max(got["auc_high"], 1 - got["auc_low"])
    separable = attribute_leak(labels - 0.5, labels, seed=0)
    assert all(separable[name] == 1.0 for name in ("accuracy", "balanced_accuracy", "auc", "leak_auc", "leak_auc_low"))


def test_an_inverted_head_leaks_in_full():
    rng, _, labels = case(seed=6)
    inverted = 0.5 - labels
    got = attribute_leak(inverted, labels, seed=0)
    assert got["auc"] == got["accuracy"] == 0.0
    assert got["leak_auc"] == got["leak_auc_low"] == got["leak_auc_high"] == 1.0
    for scores, expected in ((-inverted, 0.5), (inverted, -0.5)):
        excess = excess_leak(scores, np.zeros(200), labels, seed=0)
        assert excess["excess_auc"] == excess["excess_auc_low"] == expected


def test_people_make_wider_intervals_than_their_images():
    rng = np.random.default_rng(7)
    identity = np.repeat(np.arange(30), 10)
    labels = (np.arange(30) % 2).astype(float)[identity]
    scores = (rng.normal(size=30) + 0.5 * (np.arange(30) % 2))[identity] + 0.1 * rng.normal(size=300)
    by_image = attribute_leak(scores, labels, seed=0)
    by_person = attribute_leak(scores, labels, identity=identity, seed=0)
    assert by_person["auc"] == by_image["auc"] and by_person["num_people"] == 30
    widths = [leak["auc_high"] - leak["auc_low"] for leak in (by_person, by_image)]
    assert widths[0] > 2 * widths[1]  # theory: sqrt(10) = 3.2


def test_excess_is_the_difference_of_aucs_with_a_paired_interval():
    rng, _, labels = case(seed=8, n=300)
    common = rng.normal(size=300) + labels
    ours, theirs = common + 0.1 * rng.normal(size=300), common + 0.1 * rng.normal(size=300)
    got = excess_leak(ours, theirs, labels, seed=0)
    expected = metrics.roc_auc_score(labels, ours) - metrics.roc_auc_score(labels, theirs)
    assert got["excess_auc"] == pytest.approx(expected, abs=1e-12)
    assert got["excess_auc_low"] < got["excess_auc"] < got["excess_auc_high"]
    single = attribute_leak(ours, labels, seed=0)
    assert got["excess_auc_high"] - got["excess_auc_low"] < 0.5 * (single["auc_high"] - single["auc_low"])
    assert excess_leak(ours, ours, labels, seed=0)["excess_auc_high"] == 0.0


def test_scores_ignore_order_drop_unknown_rows_and_leave_inputs_alone():
    rng, _, labels = case(seed=9)
    identity = rng.integers(-1, 20, 200)
    scores, other = rng.normal(size=200), rng.normal(size=200)
    labels[rng.permutation(200)[:30]] = NAN
    arrays = (scores, other, labels, identity)
    kept = [a.copy() for a in arrays]
    order, known = rng.permutation(200), ~np.isnan(labels)
    for choice in (order, np.flatnonzero(known)):
        s, o, y, who = (a[choice] for a in arrays)
        if choice is order:
            who[who < 0] = np.arange(1000, 1000 + (who < 0).sum())  # unknown people are nobody's relatives
            ours = np.where(identity < 0, 1000 + np.cumsum(identity < 0), identity)
            ours, who = ours, ours[choice]
        else:
            ours = identity
        assert attribute_leak(s, y, identity=who, seed=1) == attribute_leak(scores, labels, identity=ours, seed=1)
        assert excess_leak(s, o, y, identity=who, seed=1) == excess_leak(scores, other, labels, identity=ours, seed=1)
    for a, b in zip(arrays, kept, strict=True):
        np.testing.assert_array_equal(a, b)
    bad = scores.copy()
    bad[3] = NAN
    with pytest.raises(ValueError, match="1 of 200 logits are nan or infinite"):
        excess_leak(scores, bad, labels, seed=0)
    with pytest.raises(ValueError, match=r"identity \(3,\)"):
        attribute_leak(scores, labels, identity=np.arange(3), seed=0)


# The table


def table_case():
    rng = np.random.default_rng(10)
    identity = np.repeat(np.arange(60), 5)
    labels = rng.integers(0, 2, 300).astype(float)
    noise = {name: rng.normal(size=(300, 6)) for name in ("WP", "Retrain", "Random")}
    leaking = noise["WP"].copy()
    leaking[:, 0] += 3 * labels
    fit, test = split_by_identity(identity, seed=0)
    inputs = {
        "WP": {"logits": noise["WP"], "features": leaking},
        "Retrain": {"logits": noise["Retrain"], "features": noise["Retrain"]},
        "Random": {"features": noise["Random"], "stem": noise["Random"][:, :2]},
    }
    models = {m: {name: (x[fit], x[test]) for name, x in given.items()} for m, given in inputs.items()}
    return models, (labels[fit], labels[test]), {"identity_fit": identity[fit], "identity_eval": identity[test]}


def test_table_finds_the_leak_in_its_place_and_only_there():
    models, labels, who = table_case()
    table = attack_table(models, *labels, **who, seed=0, num_resamples=300)
    assert len(table) == 6 * 2 and (table.num_people == 30).all()
    leak = (table.model == "WP") & (table.input == "features")
    assert (table[leak].auc > 0.9).all() and (table[leak].excess_auc_low > 0.2).all()
    assert (table[~leak].auc_low < 0.5).all() and (table[~leak].auc_high > 0.5).all()
    assert table[table.input == "stem"].excess_auc.isna().all()
    assert (table[table.model == "Retrain"].excess_auc == 0).all()
    row = table[leak & (table.attacker == "linear")].iloc[0]
    fit, test = models["WP"]["features"]
    scores = attack_logits(fit, labels[0], test, seed=0)
    assert row.auc == pytest.approx(metrics.roc_auc_score(labels[1], scores), abs=1e-12)


def test_permuted_control_finds_nothing_even_in_the_leak():
    models, labels, who = table_case()
    table = attack_table(models, *labels, **who, seed=0, is_permuted=True, attackers=["linear"], num_resamples=300)
    assert table.is_permuted.all() and len(table) == 6
    assert (abs(table.auc - 0.5) < 0.2).all()  # 150 rows: sd of a null AUC .047
    no_reference = attack_table(models, *labels, seed=0, reference=None, attackers=["linear"], num_resamples=50)
    assert no_reference.excess_auc.isna().all()


def test_table_refuses_shared_people_and_unknown_references():
    models, labels, who = table_case()
    with pytest.raises(ValueError, match="occur among the rows to fit and to test"):
        attack_table(models, *labels, **{**who, "identity_fit": who["identity_eval"]}, seed=0)
    with pytest.raises(ValueError, match="belong together"):
        attack_table(models, *labels, identity_fit=who["identity_fit"], seed=0)
    with pytest.raises(ValueError, match="unknown reference 'Gold': choose one of WP, Retrain, Random"):
        attack_table(models, *labels, reference="Gold", seed=0)
