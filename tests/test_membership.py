"""Membership inference against loops, SciPy and scikit-learn, and on a network that was made to memorise."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import norm
from sklearn import metrics
from sklearn.linear_model import LogisticRegression

from mlu_utils.scoring.membership import (
    MEMBERSHIP_METRICS,
    attack_shadows,
    class_confidence,
    complementary_pairs,
    confidence_loss,
    label_confidence,
    lira,
    lira_leave_pair_out,
    logistic_loss_attack,
    membership_leak,
    null_on_halves,
    null_on_shuffles,
    pooled,
    rmia,
    rmia_offset,
    shuffled_pairs,
    unit_scores,
)

NAN = float("nan")


# Signals


def test_class_confidence_is_the_logit_of_the_softmax():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 4)), rng.integers(0, 4, 50)
    p = softmax(logits, axis=1)[np.arange(50), labels]
    np.testing.assert_allclose(class_confidence(logits, labels), np.log(p / (1 - p)), rtol=1e-10)
    np.testing.assert_allclose(confidence_loss(class_confidence(logits, labels)), -np.log(p), rtol=1e-10)
    sure = class_confidence([[800.0, 0.0, 0.0]], [0])
    assert sure == pytest.approx(800 - np.log(2)) and confidence_loss(sure) == pytest.approx(0, abs=1e-300)


def test_label_confidence_is_the_logit_of_the_true_answer():
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(30, 3)), rng.choice([0.0, 1.0, NAN], size=(30, 3))
    labels[:, 0] = rng.integers(0, 2, 30)
    p = 1 / (1 + np.exp(-logits))
    p = np.where(labels == 1, p, 1 - p)
    phi = label_confidence(logits, labels)
    known = ~np.isnan(labels)
    np.testing.assert_allclose(phi[known], np.log(p / (1 - p))[known], rtol=1e-9)
    assert np.isnan(phi[~known]).all()
    target = torch.from_numpy(np.nan_to_num(labels))
    entry = torch.nn.functional.binary_cross_entropy_with_logits(torch.from_numpy(logits), target, reduction="none")
    expected = np.nanmean(np.where(known, entry.numpy(), NAN), axis=1)
    np.testing.assert_allclose(confidence_loss(phi), expected, rtol=1e-10)
    with pytest.raises(ValueError, match="image 1 has no known label"):
        confidence_loss([[1.0, 1.0], [NAN, NAN]])


# Reading


def loop_metrics(scores, is_member):
    thresholds = [math.inf, *sorted(set(scores))]
    rates = [
        (np.mean([s >= t for s in scores[is_member]]), np.mean([s >= t for s in scores[~is_member]]))
        for t in thresholds
    ]
    wins = [1.0 if p > q else 0.5 if p == q else 0.0 for p in scores[is_member] for q in scores[~is_member]]
    best = max((tpr + 1 - fpr) / 2 for tpr, fpr in rates)
    return [np.mean(wins), best, *(max(tpr for tpr, fpr in rates if fpr <= rate) for rate in (0.01, 0.001))]


@given(st.integers(0, 10_000), st.booleans())
def test_leak_equals_plain_loops(seed, has_ties):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(12, 130))
    scores = rng.integers(0, 5, n).astype(float) if has_ties else rng.normal(size=n)
    is_member = rng.random(n) < 0.3
    is_member[:6] = True, False, True, False, True, False  # enough for the resamples to have both
    got = membership_leak(scores, is_member, seed=0, num_resamples=20)
    assert [got[name] for name in MEMBERSHIP_METRICS] == pytest.approx(loop_metrics(scores, is_member), abs=1e-12)


def test_one_false_positive_in_a_hundred_is_one_percent():
    scores = np.concatenate([[5.0, 3.0], np.zeros(99), [4.0]])
    got = membership_leak(scores, np.arange(102) < 2, seed=0, num_resamples=50)
    assert got["tpr_at_fpr_0.01"] == 1.0 and got["tpr_at_fpr_0.001"] == 0.5


def test_equal_distributions_give_one_half_and_separable_ones_one():
    rng = np.random.default_rng(2)
    equal = membership_leak(rng.normal(size=600), np.arange(600) < 300, seed=0)
    assert equal["auc_low"] < 0.5 < equal["auc_high"] and equal["leak_auc_low"] == 0.5
    assert equal["tpr_at_fpr_0.01_low"] <= 0.01 <= equal["tpr_at_fpr_0.01_high"]
    apart = membership_leak(*pooled([3.0] * 20, [1.0] * 20), seed=0)
    assert all(apart[name] == apart[f"{name}_low"] == 1.0 for name in MEMBERSHIP_METRICS)
    over_unlearned = membership_leak(*pooled([1.0] * 20, [3.0] * 20), seed=0)
    assert over_unlearned["auc"] == 0.0 and over_unlearned["leak_auc"] == 1.0


def test_null_on_halves_is_centred_and_covers_the_attack_on_two_unseen_sets():
    rng = np.random.default_rng(3)
    unseen, members = rng.normal(size=200), rng.normal(size=100)
    null = null_on_halves(unseen, seed=0)
    assert null["auc"] == pytest.approx(0.5, abs=0.01)
    # Mann-Whitney under the null: sd = sqrt((n1 + n0 + 1) / (12 n1 n0)).
    sd = math.sqrt(201 / (12 * 100 * 100))
    assert null["auc_high"] - null["auc_low"] == pytest.approx(2 * 1.96 * sd, rel=0.1)
    assert 0.5 < null["best_balanced_accuracy"] < 0.6
    found = membership_leak(*pooled(members, unseen), seed=0)["auc"]
    assert null["auc_low"] < found < null["auc_high"]
    identity = np.repeat(np.arange(20), 10)
    by_person = null_on_halves(np.repeat(rng.normal(size=20), 10), identity=identity, seed=0)
    assert by_person["auc_high"] - by_person["auc_low"] > 0.4


def test_reading_ignores_order_refuses_nan_and_leaves_inputs_alone():
    rng = np.random.default_rng(4)
    scores, is_member, identity = rng.normal(size=80), rng.random(80) < 0.5, rng.integers(0, 9, 80)
    kept, order = scores.copy(), rng.permutation(80)
    for who in (None, identity):
        first = membership_leak(scores, is_member, identity=who, seed=0, num_resamples=99)
        shuffled = None if who is None else who[order]
        assert first == membership_leak(scores[order], is_member[order], identity=shuffled, seed=0, num_resamples=99)
        null = null_on_halves(scores, identity=who, seed=0, num_splits=50)
        assert null == null_on_halves(scores[order], identity=shuffled, seed=0, num_splits=50)
    logistic = logistic_loss_attack(scores, is_member)
    assert logistic == logistic_loss_attack(scores[order], is_member[order])
    np.testing.assert_array_equal(scores, kept)
    bad = scores.copy()
    bad[7] = NAN
    for attack in (
        lambda s: membership_leak(s, is_member, seed=0),
        lambda s: null_on_halves(s, seed=0),
        lambda s: logistic_loss_attack(s, is_member),
    ):
        with pytest.raises(ValueError, match="1 of 80 scores are nan"):
            attack(bad)
    with pytest.raises(ValueError, match="is_member has dtype int64: expected a boolean mask"):
        membership_leak(scores, is_member.astype(int), seed=0)
    with pytest.raises(ValueError, match="all 80 images are members"):
        membership_leak(scores, np.ones(80, dtype=bool), seed=0)
    with pytest.raises(ValueError, match="all 80 images are non-members"):
        membership_leak(scores, np.zeros(80, dtype=bool), seed=0)


# Attacks without shadows


def test_logistic_attack_is_the_one_threshold_of_a_fit_and_truncates_the_larger_side():
    rng = np.random.default_rng(5)
    members, others = rng.exponential(0.5, 400), rng.exponential(1.5, 300)
    got = logistic_loss_attack(*pooled(members, others))
    assert got["num_members"] == got["num_nonmembers"] == 300
    x, y = np.concatenate([members[:300], others])[:, None], np.arange(600) < 300
    assert got["accuracy"] == pytest.approx(LogisticRegression().fit(x, y).score(x, y), abs=0.03)
    assert got["forgetting_score"] == pytest.approx(abs(got["accuracy"] - 0.5))
    null = logistic_loss_attack(*pooled(rng.normal(size=300), rng.normal(size=300)))
    assert abs(null["accuracy"] - 0.5) < 0.08  # 600 test points, drawn with overlap: sd about .03
    with pytest.raises(ValueError, match="need ten of each"):
        logistic_loss_attack(*pooled([1.0] * 9, [2.0] * 30))


# LiRA


def loop_lira(phi, shadows, is_member, variant):
    scores = []
    for i in range(len(phi)):
        total = 0.0
        for k in range(phi.shape[1]):
            if math.isnan(phi[i, k]):
                continue
            inside, outside = (
                [shadows[s, i, k] for s in range(len(shadows)) if is_member[s, i] == side] for side in (True, False)
            )
            out = norm(np.median(outside), np.std(outside))
            if variant == "offline":
                total -= math.log(1 - out.cdf(phi[i, k]))
            else:
                total += norm(np.median(inside), np.std(inside)).logpdf(phi[i, k]) - out.logpdf(phi[i, k])
        scores.append(total)
    return scores


def shadow_case(seed=0, num_shadows=12, n=15, num_labels=3):
    rng = np.random.default_rng(seed)
    is_member = rng.permuted(np.arange(num_shadows)[:, None] * np.ones(n) < num_shadows // 2, axis=0)
    shadows = rng.normal(size=(num_shadows, n, num_labels)) + is_member[:, :, None]
    phi = rng.normal(size=(n, num_labels))
    unknown = rng.random((n, num_labels)) < 0.2
    unknown[:, 0] = False
    phi[unknown], shadows[:, unknown] = NAN, NAN
    return rng, phi, shadows, is_member


@pytest.mark.parametrize("variant", ["online", "offline"])
def test_lira_equals_plain_loops(variant):
    _, phi, shadows, is_member = shadow_case()
    np.testing.assert_allclose(
        lira(phi, shadows, is_member, variant=variant), loop_lira(phi, shadows, is_member, variant), rtol=1e-9
    )
    one = lira(phi[:, 0], shadows[:, :, 0], is_member, variant=variant)
    np.testing.assert_allclose(one, loop_lira(phi[:, :1], shadows[:, :, :1], is_member, variant), rtol=1e-9)


def test_global_variance_is_the_variance_within_images():
    rng = np.random.default_rng(6)
    is_member = np.arange(16)[:, None] % 2 * np.ones(300) == 1
    centers = 10 * rng.normal(size=300)  # differences between images must not enter
    shadows = centers + rng.normal(size=(16, 300)) * np.where(is_member, 2.0, 0.5) + 3 * is_member
    phi = centers + 1.0
    got = lira(phi, shadows, is_member, is_global_variance=True)
    mu_in, mu_out = (np.median(np.where(m, shadows, NAN)[m[:, 0]], axis=0) for m in (is_member, ~is_member))
    np.testing.assert_allclose(
        got, norm.logpdf(phi, mu_in, 2.0) - norm.logpdf(phi, mu_out, 0.5), rtol=0.15, atol=0.3
    )  # 2,100 degrees of freedom: sd of a standard deviation 1.5 %
    few = lira(phi, shadows[:3], is_member[:3], is_global_variance=True, variant="offline")
    assert np.isfinite(few).all()  # two shadows out are enough for it


def test_offline_scores_do_not_saturate():
    shadows = np.array([[0.0], [1.0], [-1.0], [0.5], [-0.5]])
    scores = [lira([z], shadows, np.zeros((5, 1), dtype=bool), variant="offline")[0] for z in (5.0, 50.0, 500.0)]
    assert scores[0] < scores[1] < scores[2] < math.inf


def test_u_lira_is_a_likelihood_ratio_between_its_two_states():
    _, phi, shadows, is_member = shadow_case(num_shadows=18)
    third = np.arange(18) < 6
    unlearned, never = is_member & ~third[:, None], ~is_member
    got = lira(phi, shadows, unlearned, never_trained=never)
    for i in (0, 7):
        expected = sum(
            norm(np.median(a), np.std(a)).logpdf(phi[i, k]) - norm(np.median(b), np.std(b)).logpdf(phi[i, k])
            for k in range(3)
            if not np.isnan(phi[i, k])
            for a, b in [(shadows[unlearned[:, i], i, k], shadows[never[:, i], i, k])]
        )
        assert got[i] == pytest.approx(expected)
    with pytest.raises(ValueError, match="both learned and never trained"):
        lira(phi, shadows, unlearned, never_trained=~never | never)


def test_lira_refuses_bad_shadows():
    _, phi, shadows, is_member = shadow_case()
    with pytest.raises(ValueError, match="unknown variant 'both'"):
        lira(phi, shadows, is_member, variant="both")
    with pytest.raises(ValueError, match=r"image 2 has 1 shadow models with learned_from_it: at least 2"):
        alone = is_member.copy()
        alone[:, 2] = np.arange(12) == 0
        lira(phi, shadows, alone)
    with pytest.raises(ValueError, match="nan in one model and not in another"):
        broken = shadows.copy()
        broken[0, 0, 0] = NAN
        lira(phi, broken, is_member)
    with pytest.raises(ValueError, match="confidences are infinite"):
        lira(phi * math.inf, shadows, is_member)
    with pytest.raises(ValueError, match=r"confidences \(14, 3\) and shadow_confidences \(12, 15, 3\)"):
        lira(phi[:-1], shadows, is_member)
    with pytest.raises(ValueError, match="learned_from_it has dtype int64"):
        lira(phi, shadows, is_member.astype(int))


def pairs_of_halves(rng, num_shadows, n):
    """Memberships (S, n), shadows 2k and 2k + 1 complementary."""
    return np.stack(
        [half for _ in range(num_shadows // 2) for first in [rng.random(n) < 0.5] for half in (first, ~first)]
    )


def attack_each(phi, is_member, attackers):
    """Scores (S, n) of each shadow by the shadows that `attackers(s)` picks, of the definition."""
    shadows = range(len(phi))
    return np.stack(
        [lira(phi[s], phi[attackers(s)], is_member[attackers(s)], is_global_variance=True) for s in shadows]
    )


def test_each_shadow_is_attacked_without_its_pair():
    rng = np.random.default_rng(8)
    phi, is_member = rng.normal(size=(8, 5, 2)), pairs_of_halves(rng, 8, 5)
    got = lira_leave_pair_out(phi, is_member, is_global_variance=True)
    np.testing.assert_array_equal(got, attack_each(phi, is_member, lambda s: [o for o in range(8) if o // 2 != s // 2]))
    changed = phi.copy()
    changed[5] += 9.0  # the complement of shadow 4 tells nothing about it
    other = lira_leave_pair_out(changed, is_member, is_global_variance=True)
    np.testing.assert_array_equal(other[4], got[4])
    assert (other[[0, 1, 2, 3, 6, 7]] != got[[0, 1, 2, 3, 6, 7]]).all()


def test_the_attack_on_noise_scores_one_half_only_without_the_pair():
    # Without the attacked shadow alone, its side is estimated from seven shadows and the other from eight.
    rng = np.random.default_rng(9)
    aucs = {"pair": [], "shadow": []}
    for _ in range(60):
        phi, is_member = rng.normal(size=(16, 300)), pairs_of_halves(rng, 16, 300)
        scores = {
            "pair": lira_leave_pair_out(phi, is_member, is_global_variance=True),
            "shadow": attack_each(phi, is_member, lambda s: np.arange(16) != s),
        }
        for name, found in scores.items():
            aucs[name].append(metrics.roc_auc_score(is_member.ravel(), found.ravel()))
    error = np.std(aucs["pair"]) / math.sqrt(60)
    assert error < 0.003
    assert np.mean(aucs["pair"]) == pytest.approx(0.5, abs=3 * error)
    assert np.mean(aucs["shadow"]) < 0.5 - 5 * error


def test_shuffled_pairs_are_pairs_and_independent_of_the_truth():
    rng = np.random.default_rng(10)
    is_member = pairs_of_halves(rng, 16, 200)
    kept = is_member.copy()
    shuffled = shuffled_pairs(is_member, seed=0)
    np.testing.assert_array_equal(complementary_pairs(shuffled), shuffled)
    assert (shuffled == is_member).mean() == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / 1600))
    assert (shuffled == shuffled_pairs(is_member, seed=0)).all() and (is_member == kept).all()
    assert (shuffled != shuffled_pairs(is_member, seed=1)).any()


def test_pairs_that_are_none_are_refused():
    rng = np.random.default_rng(11)
    is_member = pairs_of_halves(rng, 6, 9)
    with pytest.raises(ValueError, match="5 shadows are no pairs"):
        complementary_pairs(is_member[:5])
    with pytest.raises(ValueError, match="int64"):
        complementary_pairs(is_member.astype(int))
    broken = is_member.copy()
    broken[3, 4] = broken[2, 4]
    for use in (complementary_pairs, lambda m: shuffled_pairs(m, seed=0), lambda m: lira_leave_pair_out(m + 0.0, m)):
        with pytest.raises(ValueError, match="of shadows 2 and 3 not exactly one learned from image 4"):
            use(broken)
    with pytest.raises(ValueError, match="2 shadows: an attack on one pair"):
        lira_leave_pair_out(is_member[:2] + 0.0, is_member[:2])


# People


@given(st.integers(0, 10_000))
def test_the_score_of_a_person_is_the_mean_over_the_images(seed):
    rng = np.random.default_rng(seed)
    num_units, num_shadows = rng.integers(1, 6, 2)
    unit = rng.permutation(np.concatenate([np.arange(num_units), rng.integers(0, num_units, rng.integers(0, 20))]))
    scores = rng.normal(size=(num_shadows, len(unit)))
    got = unit_scores(scores, unit)
    assert got.shape == (num_shadows, num_units)
    for s in range(num_shadows):
        assert got[s].tolist() == pytest.approx([np.mean(scores[s][unit == u]) for u in range(num_units)])
        np.testing.assert_allclose(unit_scores(scores[s], unit), got[s])
    order = rng.permutation(len(unit))
    np.testing.assert_allclose(unit_scores(scores[:, order], unit[order]), got)


def test_units_must_be_numbered_without_gaps():
    for unit, message in (
        ([0, 2, 2], "units 0..2 have gaps"),
        ([-1, 0, 0], "units -1..0 have gaps"),
        ([0.0, 1.0, 1.0], "units has dtype float64"),
        ([0, 1], r"scores \(4, 3\) and units \(2,\)"),
        ([], r"units \(0,\): .* none empty"),
    ):
        with pytest.raises(ValueError, match=message):
            unit_scores(np.zeros((4, 3)), unit)


@pytest.mark.parametrize("num_labels", [None, 3])
def test_attacks_on_shadows_find_a_person_whose_images_alone_say_little(num_labels):
    rng = np.random.default_rng(12)
    unit = np.repeat(np.arange(20), 8)
    is_member = pairs_of_halves(rng, 16, 20)
    shape = (16, 160) if num_labels is None else (16, 160, num_labels)
    shift = is_member[:, unit] if num_labels is None else is_member[:, unit, None]
    phi = rng.normal(size=shape) + 0.6 * shift
    people = {row["attacker"]: row for row in attack_shadows(phi, is_member, unit, seed=0, num_resamples=50)}
    images = {
        row["attacker"]: row
        for row in attack_shadows(phi, is_member[:, unit], np.arange(160), seed=0, num_resamples=50)
    }
    assert list(people) == ["U-LiRA", "loss threshold"]
    for attacker in people:
        assert people[attacker]["auc_low"] > images[attacker]["auc_high"] > images[attacker]["auc"] > 0.55
        assert people[attacker]["num_members"] == 160 and images[attacker]["num_members"] == 1280
    strong = unit_scores(lira_leave_pair_out(phi, is_member[:, unit], is_global_variance=True), unit)
    assert people["U-LiRA"]["auc"] == pytest.approx(metrics.roc_auc_score(is_member.ravel(), strong.ravel()))
    loss = np.log1p(np.exp(-phi)) if num_labels is None else np.log1p(np.exp(-phi)).mean(axis=2)
    weak = -loss.reshape(16, 20, 8).mean(axis=2)
    assert people["loss threshold"]["auc"] == pytest.approx(metrics.roc_auc_score(is_member.ravel(), weak.ravel()))
    for row in null_on_shuffles(phi, is_member, unit, seed=0, num_shuffles=60):
        assert row["auc"] == pytest.approx(0.5, abs=0.03) and row["auc_low"] < 0.5 < row["auc_high"] < 0.7


def test_the_null_on_shuffles_is_the_attack_under_each_shuffle():
    rng = np.random.default_rng(14)
    phi, is_member, unit = rng.normal(size=(8, 12)), pairs_of_halves(rng, 8, 4), np.repeat(np.arange(4), 3)
    seeds = np.random.SeedSequence(5).generate_state(7)
    aucs = []
    for seed in seeds:
        shuffled = shuffled_pairs(is_member, seed=int(seed))
        aucs.append([row["auc"] for row in attack_shadows(phi, shuffled, unit, seed=0, num_resamples=1)])
    rows = null_on_shuffles(phi, is_member, unit, seed=5, num_shuffles=7)
    assert [row["attacker"] for row in rows] == ["U-LiRA", "loss threshold"]
    for k, row in enumerate(rows):
        own = [found[k] for found in aucs]
        assert row["auc"] == pytest.approx(np.mean(own))
        assert (row["auc_low"], row["auc_high"]) == pytest.approx(tuple(np.quantile(own, [0.025, 0.975])))


def test_intervals_of_attacked_shadows_draw_people():
    # The scores of a person's shadows are no independent rows: equal people give an interval without width.
    rng = np.random.default_rng(13)
    phi = np.tile(rng.normal(size=(16, 1)), 20)
    is_member = np.tile(pairs_of_halves(rng, 16, 1), 20)
    for row in attack_shadows(phi, is_member, np.arange(20), seed=0, num_resamples=50):
        assert row["auc_low"] == pytest.approx(row["auc"]) and row["auc_high"] == pytest.approx(row["auc"])


def memorising_shadows(num_models=24, n=400, d=20, num_steps=200):
    """Logits (S, n) of small networks that each learned half of the noisy data by heart, and the halves (S, n)."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(n, d))).float()
    clean = x[:, :3].sum(1) > 0
    labels = clean ^ torch.from_numpy(rng.random(n) < 0.15)
    is_member = torch.from_numpy(pairs_of_halves(rng, num_models, n))
    generator = torch.Generator().manual_seed(0)
    weights = [
        (torch.randn(num_models, *shape, generator=generator) / math.sqrt(shape[0])).requires_grad_()
        for shape in ((d, 32), (32, 1))
    ]
    optimizer = torch.optim.Adam(weights, lr=0.02)

    def forward():
        return (torch.relu(x @ weights[0]) @ weights[1])[..., 0]

    for _ in range(num_steps):
        losses = torch.nn.functional.binary_cross_entropy_with_logits(
            forward(), labels.float().expand(num_models, n), reduction="none"
        )
        optimizer.zero_grad()
        (losses * is_member).sum().backward()
        optimizer.step()
    return forward().detach().numpy().astype(np.float64), labels.numpy().astype(float), is_member.numpy()


def test_lira_beats_the_loss_threshold_at_low_false_positive_rates():
    logits, labels, is_member = memorising_shadows()
    phi = (2 * labels - 1) * logits
    losses = confidence_loss(phi.ravel())
    assert losses[is_member.ravel()].mean() < 0.1 < losses[~is_member.ravel()].mean()
    flat = is_member.ravel()
    found = {
        "threshold": membership_leak(-losses, flat, seed=0, num_resamples=20),
        "online": membership_leak(
            lira_leave_pair_out(phi, is_member, is_global_variance=True).ravel(), flat, seed=0, num_resamples=20
        ),
        "offline": membership_leak(
            lira_leave_pair_out(phi, is_member, variant="offline", is_global_variance=True).ravel(),
            flat,
            seed=0,
            num_resamples=20,
        ),
    }
    assert found["online"]["tpr_at_fpr_0.01_low"] > 1.5 * found["threshold"]["tpr_at_fpr_0.01_high"]
    assert found["offline"]["tpr_at_fpr_0.01_low"] > 1.5 * found["threshold"]["tpr_at_fpr_0.01_high"]
    assert found["online"]["auc"] > found["threshold"]["auc"] + 0.02
    permuted = np.random.default_rng(1).permuted(flat)
    null = membership_leak(lira_leave_pair_out(phi, is_member).ravel(), permuted, seed=0, num_resamples=50)
    assert null["auc"] == pytest.approx(0.5, abs=0.03)


# RMIA


def test_rmia_equals_plain_loops():
    rng = np.random.default_rng(7)
    losses, references = rng.exponential(size=20), rng.exponential(size=(3, 20))
    is_member = rng.random((3, 20)) < 0.5
    is_member[0] = False
    z, z_references = rng.exponential(size=30), rng.exponential(size=(3, 30))
    a, gamma = 0.4, 1.5
    got = rmia(losses, references, is_member, z, z_references, offset=a, gamma=gamma)
    for i in range(20):
        out = np.mean([math.exp(-references[s, i]) for s in range(3) if not is_member[s, i]])
        ratio = math.exp(-losses[i]) / ((1 + a) / 2 * out + (1 - a) / 2)
        wins = 0
        for j in range(30):
            out_z = np.mean(np.exp(-z_references[:, j]))
            wins += ratio / (math.exp(-z[j]) / ((1 + a) / 2 * out_z + (1 - a) / 2)) > gamma
        assert got[i] == pytest.approx(wins / 30)
    order = rng.permutation(30)
    np.testing.assert_array_equal(
        got, rmia(losses, references, is_member, z[order], z_references[:, order], offset=a, gamma=gamma)
    )


def test_rmia_with_three_references_beats_the_loss_on_the_memorising_network():
    logits, labels, is_member = memorising_shadows()
    losses = np.stack([confidence_loss(row) for row in (2 * labels - 1) * logits])
    references = [5, 7, 9]  # of three pairs
    # Images that neither the target nor a reference learned from are the population.
    population = np.flatnonzero(~is_member[[0, *references]].any(axis=0))[:150]
    attacked = np.setdiff1d(np.flatnonzero((~is_member[references]).any(axis=0)), population)
    offset = rmia_offset(
        losses[references][:, attacked], is_member[references][:, attacked], losses[references][:, population]
    )
    scores = rmia(
        losses[0, attacked],
        losses[references][:, attacked],
        is_member[references][:, attacked],
        losses[0, population],
        losses[references][:, population],
        offset=offset,
    )
    truth = is_member[0, attacked]
    assert metrics.roc_auc_score(truth, scores) > metrics.roc_auc_score(truth, -losses[0, attacked]) + 0.02


def test_rmia_refuses_what_is_no_loss():
    good = ([1.0], [[1.0]], [[False]], [1.0], [[1.0]])
    with pytest.raises(ValueError, match="loss -2 found"):
        rmia([-2.0], *good[1:])
    with pytest.raises(ValueError, match="every reference learned from image 0"):
        rmia(*good[:2], [[True]], *good[3:])
    with pytest.raises(ValueError, match="offset 2"):
        rmia(*good, offset=2)
    with pytest.raises(ValueError, match="1 of 1 losses are nan"):
        rmia([NAN], *good[1:])
    with pytest.raises(ValueError, match="it needs two"):
        rmia_offset([[1.0]], [[True]], [[1.0]])
