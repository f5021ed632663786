"""T1 to T6, C1 to C3 and A to F: for each form the small worlds that decide it, in float64 and from small to large.

A docstring is the check that the tables show; an argument is the premise without which a true statement fails. Nats,
where a statement doesn't say bits.

Words: A a binary label, p the success of an attack on it, W_f a filtered weight before filtering and w' after, S the
composite score, PLR the success at telling a model trained with the label from one trained without it.
"""

import itertools
import math
from collections.abc import Iterable

import numpy as np
from scipy.special import expit, logit
from scipy.stats import binom, norm

from mlu_utils.theory import information as it
from mlu_utils.theory import true_bounds as true
from mlu_utils.theory.statements import Case, tries

Cases = Iterable[Case]

_NOISE = np.array([0.25, 0.5, 0.25])  # of a replaced weight, on three values


@tries("T1", "printed", broken={"is_mask_fixed": False})
def replaced_weight(*, is_mask_fixed: bool = True) -> Cases:
    """Weights of 2 or 4 values, replaced by noise whatever their value: the information is computed."""
    for ratio, values in itertools.product((0.0, 0.5, 1.0), (2, 4)):
        channel = np.tile(np.append(_NOISE, 0), (values, 1))
        if not is_mask_fixed:
            channel[-1] = (0, 0, 0, 1)  # this value's score reaches tau, so it stays, and shows itself
        told = float(it.mutual_information(it.joint(np.full(values, 1 / values), channel)))
        yield Case(f"W_f has {values} values, sigma^2/tau^2 = {ratio}", told, math.log1p(ratio), most=0.0)


tries("T1", "proof")(
    lambda: (Case(f"w = W_f = +-1, sigma^2/tau^2 = {r}", it.BIT, math.log1p(r)) for r in (2.0, 0.5, 0.1, 0.0)),
    "Where w = W_f = +1 or -1 the conditional variance is 0, below every tau^2, and the information is ln 2.",
)


@tries("T1", "nearest_true", broken={"is_noise_independent": False})
def published_mask(*, is_noise_independent: bool = True) -> Cases:
    """Four masks, fixed by the weight or random, with independent noise: only which weights were replaced tells."""
    for chance in map(np.array, ([1.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.5, 0.5], [0.9, 0.2])):
        noise = np.tile(_NOISE, (len(chance), 1))
        if not is_noise_independent:
            noise[0] = (1, 0, 0)
        channel = np.column_stack([chance[:, None] * noise, 1 - chance])
        told = it.mutual_information(it.joint(np.full(len(chance), 1 / len(chance)), channel))
        yield Case(f"chances of replacement {chance}", float(told), float(it.binary_entropy(chance.mean())))


def printed_epsilon(max_importance: float, low: float, high: float, decay: float) -> tuple[float, float]:
    """Return T2's epsilon log(1 + x), and its x = lambda max I / min(tau_l, tau_h - tau_l), which may be infinite."""
    gap = min(low, high - low)
    x = decay * max_importance / gap if gap > 0 and math.isfinite(max_importance) else math.inf
    return math.log1p(x), x


def pruning_run(gradients: np.ndarray, *, decay: float = 1.0, reduced_rate: float = 0.1) -> tuple[np.ndarray, dict]:
    """Prune weights of 1 as printed, by the mean of gradients (n, d) >= 0, and return them with T2's promise."""
    scores = np.asarray(gradients, dtype=float).mean(0)
    low, high = (float(np.quantile(scores, q, method="inverted_cdf")) for q in (0.25, 0.75))
    shrunk = np.where(scores < high, np.exp(-decay * scores), 1 - reduced_rate * scores)
    printed, x = printed_epsilon(float(scores.max()), low, high, decay)
    promise = {"printed": printed, "proof": x / len(gradients), "delta": float((scores >= high).mean())}
    return np.where(scores < low, 0, shrunk), promise


def _neighbours() -> Iterable[tuple[str, float, dict]]:
    """Name, distance of the pruned weights and promise (the weaker) of three pairs of data sets one image apart."""
    many = np.arange(1.0, 401)
    for one, other, n in (([1, 3], [1, 2], 1), ([1, 3], [1, 2], 3), (many, np.append(many[:-1], 500), 1)):
        (a, p), (b, q) = pruning_run([one] + [other] * (n - 1)), pruning_run([other] * n)
        name = f"{n} image(s), {len(one)} weights, last gradient of one image {one[-1]:g} or {other[-1]:g}"
        yield name, float(np.linalg.norm(a - b)), {key: max(p[key], q[key]) for key in p}


@tries("T2", "printed", form="printed")
@tries("T2", "proof", form="proof")
def pruned_neighbours(*, form: str) -> Cases:
    """Algorithm 2's step on three pairs of neighbouring data sets: the delta that they need against the claimed one."""
    for name, distance, promise in _neighbours():
        needed = float(it.gaussian_privacy_delta(distance, 0.0, promise[form]))
        yield Case(f"{name}; epsilon {promise[form]:.3g}", needed, promise["delta"], 1)


tries("T2", "line: importance")(
    lambda: (Case(f"{n} images", 1.0, 1 / n) for n in (2, 100, 131_689)),
    "One image of n has gradient n or 0, the others 0, so that I = 1 or 0; the last n is 65 % of CelebA.",
)


@tries("T2", "line: cited", broken={"sensitivity": 2.0})
def exponential_mechanism(*, sensitivity: float = 1.0) -> Cases:
    """The exponential mechanism itself (McSherry and Talwar 2007): four outputs, every change of the utilities by 1."""
    for epsilon, utilities in itertools.product((0.1, 1.0), ([0, 0, 0, 0], [9, 0, 0, 0])):
        for change in itertools.product((-sensitivity, sensitivity), repeat=4):
            p, q = (np.exp(epsilon / 2 * np.add(utilities, by)) for by in ((0, 0, 0, 0), change))
            ratio = np.abs(np.log(p / p.sum()) - np.log(q / q.sum())).max()
            yield Case(f"u = {utilities} changed by {change}", float(ratio), epsilon)


@tries("T2", "nearest_true", broken={"claimed_share": 0.5})
def noisy_pruning(*, claimed_share: float = 1.0) -> Cases:
    """Noisy pruned weights: the divergence summed on a grid against the formula of Balle and Wang (2018), Theorem 8."""
    z = np.arange(-12, 13, 1e-3)
    p, q = (np.exp(-((z - mean) ** 2) / 2) for mean in (1.0, 0.0))  # the noise is as large as the distance
    for (name, distance, _), epsilon in itertools.product(_neighbours(), (0.1, 1.0)):
        needed = float(it.hockey_stick(p / p.sum(), q / q.sum(), epsilon))
        claimed = float(it.gaussian_privacy_delta(claimed_share * distance, distance, epsilon))
        yield Case(f"{name}; epsilon {epsilon}", needed, claimed + 1e-6, 1)  # 1e-6 for the grid


def composite_score(weight: float, share: float = 1.0) -> float:
    """Return S = |dL/dw| |dL_j/dw| of f = w x, x = +-1, whose only label is x > 0 on this share of the images."""
    return (float(expit(weight)) - share) ** 2  # one label: L and L_j are the same loss


@tries("T3", "printed", form="printed")
@tries("T3", "proof", form="proof")
def clamped_weights(*, form: str) -> Cases:
    """A line f = w x on x = +-1: w is zeroed, then moved to the end of the clamp away from w0; once S = 0."""
    for level, epsilon, share in ((0.5, 0.1, 1.0), (2.0, 0.1, 1.0), (0.5, 1e-6, 1.0), (float(logit(0.8)), 0.1, 0.8)):
        slope = composite_score(level, share) if form == "printed" else 1.0
        name = f"w = {level:.3g} zeroed, then clamped within {epsilon:g}, label 1 on {share} of x > 0"
        yield Case(name, level + epsilon, epsilon * slope)


_STEPS = list(itertools.product((-1.0, 0.5, 2.0), repeat=4))  # weights a, b of f = a b x, |x| <= 1, before and after


@tries("T3", "line: mean value", broken={"is_sup_over_path": False})
def mean_value(*, is_sup_over_path: bool = True) -> Cases:
    """The proof's first step (Rudin 1976, Theorem 5.19), which is sound: f = w x, and 81 moves of f = a b x."""
    yield Case("f = w x", 0.6, 0.6)
    for a0, b0, a1, b1 in _STEPS:
        slope = np.hypot(max(abs(a0), abs(a1)), max(abs(b0), abs(b1))) if is_sup_over_path else np.hypot(a0, b0)
        yield Case("f = a b x", abs(a1 * b1 - a0 * b0), float(slope * np.hypot(a1 - a0, b1 - b0)))


@tries("T3", "nearest_true", broken={"is_modification_counted": False})
def clamp_and_the_rest(*, is_modification_counted: bool = True) -> Cases:
    """A line w x and 81 moves of a b x: a is zeroed and clamped within .1, b moves freely; all three terms count."""
    yield Case("f = w x", 0.5 + 0.1, 0.5 * is_modification_counted + 0.1)
    for a0, b0, a1, b1 in _STEPS:
        after = math.copysign(0.1, a1)
        modification, free = abs(a0 * b0) * is_modification_counted, abs(b1 - b0) * abs(after)
        yield Case("f = a b x", abs(after * b1 - a0 * b0), modification + 0.1 * max(abs(b0), abs(b1)) + free)


# One weight w on |x| <= 1 serves label j and another one. It is .5, unlearning zeroes it, and fine-tuning leaves it at
# +epsilon or -epsilon with 1/2 each: random and independent, as McDiarmid's inequality needs. Retrain, which never saw
# j, has .5 again for the other label. So D = sup_x |f_w' - f_never| = .5 +- epsilon, and w' changes D by c = 2 epsilon.
CLAMPS = (0.5, 0.25, 0.18, 0.1, 0.05, 0.001)


def printed_gamma(epsilon: float, weight: float = 0.5) -> float:
    """Return T4's gamma = |w| I(x_i) + epsilon S in this world, I(x_i) = g^2 / H of the logistic loss."""
    return weight * (1 / float(expit(weight)) - 1) + epsilon * composite_score(weight)


def mcdiarmid_delta(gamma: float, squared_changes: float) -> float:
    """Return T4's delta = 2 exp(-2 gamma^2 / sum c^2); 1 or more promises nothing. Source: McDiarmid (1989)."""
    return 2 * math.exp(-2 * gamma**2 / squared_changes) if squared_changes > 0 else 0.0


@tries("T4", "printed", form="printed")
@tries("T4", "proof", form="proof")
def retrain_distance(*, form: str) -> Cases:
    """One weight of two labels, left at +-epsilon by unlearning and at .5 by Retrain; c = 2 epsilon a weight."""
    for epsilon in CLAMPS:
        gamma = printed_gamma(epsilon) if form == "printed" else 0.5
        missed = sum(distance > gamma + 1e-12 for distance in (0.5 - epsilon, 0.5 + epsilon)) / 2
        yield Case(f"epsilon {epsilon}, gamma {gamma:.3g}", missed, mcdiarmid_delta(gamma, 4 * epsilon**2), 1)


@tries("T4", "reading: c per image")
def retrain_distance_by_images() -> Cases:
    """The same world where Retrain's weight is the mean of n fair bits, so that D is that mean and c = 1/n."""
    gamma = printed_gamma(0.1)
    for n in (1, 2, 3, 4, 5, 6, 8, 10, 20, 50, 100):
        missed = float(binom.sf(math.floor(gamma * n + 1e-9), n, 0.5))
        yield Case(f"{n} images, gamma {gamma:.3g}", missed, mcdiarmid_delta(gamma, 1 / n), 1)


@tries("T4", "nearest_true", broken={"is_independent": False})
def concentration(*, is_independent: bool = True) -> Cases:
    """McDiarmid (1989) for the mean of n independent bits, c = 1/n, every t: binomial probabilities are exact."""
    for n, q in itertools.product((1, 2, 5, 20), (0.05, 0.3, 0.5, 0.999)):
        for heads in range(math.floor(n * q) + 1, n + 1):
            t = heads / n - q
            chance = float(binom.sf(heads - 1, n, q)) if is_independent else q  # else all bits are one
            yield Case(f"{n} bits, q {q}, t {t:.3g}", chance, math.exp(-2 * t**2 * n), 1)


PRINTED_SUCCESS = {"C1": 0.65, "C2": 0.46}  # the attack's success that each corollary starts from
PRINTED_BITS = {"C1": 0.074, "C2": 0.034}
# Channels A -> f whose best attack succeeds with p.
CHANNELS = {
    "errs alike on both values": lambda p: [[p, 1 - p], [1 - p, p]],
    "errs on A = 1 only": lambda p: [[1, 0], [2 - 2 * p, 2 * p - 1]],
    "shows A or nothing": lambda p: [[2 * p - 1, 0, 2 - 2 * p], [0, 2 * p - 1, 2 - 2 * p]],
}


def bits_of(channel: list[list[float]], prior: float = 0.5) -> float:
    """Return I(f; A) in bits of a channel A -> f, prior being the share of A = 1."""
    return float(it.mutual_information(it.joint([1 - prior, prior], channel))) / it.BIT


def entropy_bits(p: float) -> float:
    """Return H(p) in bits."""
    return float(it.binary_entropy(p)) / it.BIT


@tries("T5", "printed")
def attack_entropy() -> Cases:
    """Outputs that show A now and then and else nothing, up to the output that always shows it."""
    for p in (0.6, 0.85, 0.9, 0.99, 1.0):
        told = bits_of(CHANNELS["shows A or nothing"](p))
        yield Case(f"A shown with probability {2 * p - 1:.3g}, best p = {p}", told, entropy_bits(p), 1)


@tries("T5", "proof")
def attack_capacity() -> Cases:
    """Outputs that err in three ways, each with the best attack, and one whose attack is bad."""
    for p, (name, make) in itertools.product((0.75, 0.51), CHANNELS.items()):
        yield Case(f"f {name}, best p = {p}", bits_of(make(p)), 1 - entropy_bits(p), 1)
    yield Case("f = A, an attack that guesses: p = 0.5", 1.0, 0.0, 1)


@tries("T5", "nearest_true", broken={"is_best_attack": False})
def attack_interval(*, is_best_attack: bool = True) -> Cases:
    """Every deterministic attack in 27 worlds (Fano 1961); for the best one also Hellman and Raviv (1970)."""
    for prior, make, quality in itertools.product((0.5, 0.369, 0.2), CHANNELS.values(), (0.6, 0.75, 0.95)):
        both, bits = it.joint([1 - prior, prior], make(quality)), bits_of(make(quality), prior)
        best = float(it.best_success(both))
        for answers in itertools.product((0, 1), repeat=both.shape[1]):
            p = min(float(np.where(answers, both[1], both[0]).sum()), 1.0)
            yield Case(f"H(A | f), attack {answers}", entropy_bits(prior) - bits, entropy_bits(p))
            upper = float(it.hellman_raviv_upper_bound(best if is_best_attack else p, prior)) / it.BIT
            yield Case(f"I(f; A), attack {answers}", bits, upper)


@tries("C1", "printed", corollary="C1", is_printed=True)
@tries("C2", "printed", corollary="C2", is_printed=True)
@tries("C1", "proof", corollary="C1", is_printed=False)
@tries("C2", "proof", corollary="C2", is_printed=False)
def leakage_at(*, corollary: str, is_printed: bool) -> Cases:
    """Outputs whose best attack succeeds as printed, erring in three ways, and one that tells all to a bad attack."""
    p = PRINTED_SUCCESS[corollary]
    limit = PRINTED_BITS[corollary] if is_printed else 1 - entropy_bits(p)
    for name, make in CHANNELS.items():
        yield Case(f"f {name}, best p = {max(p, 1 - p)}", bits_of(make(max(p, 1 - p))), limit, 1)
    yield Case(f"f = A, an attack with p = {p}", 1.0, limit, 1)


@tries("C1", "line: arithmetic", corollary="C1")
@tries("C2", "line: arithmetic", corollary="C2")
def printed_arithmetic(*, corollary: str) -> Cases:
    """The printed bits against the formula at the printed success."""
    yield Case("the same success", PRINTED_BITS[corollary], 1 - entropy_bits(PRINTED_SUCCESS[corollary]))


@tries("C1", "nearest_true", corollary="C1", broken={"prior": 0.35})
@tries("C2", "nearest_true", corollary="C2", broken={"prior": 0.46})
def leakage_interval(*, corollary: str, prior: float = 0.5) -> Cases:
    """Fano below, Hellman and Raviv above, for outputs that err in three ways; both ends are reached."""
    best = max(PRINTED_SUCCESS[corollary], 1 - PRINTED_SUCCESS[corollary])
    channels = [make(best) for make in CHANNELS.values()] if prior == 0.5 else [[[1, 0], [1, 0]]]  # says nothing
    for told in (bits_of(channel, prior) for channel in channels):
        yield Case("Fano", 1 - entropy_bits(best), told)
        yield Case("Hellman and Raviv", told, 2 * best - 1)


# P_in, P_out: confidences of a model trained with the label and of one trained without it, over images of the label.
PAIRS = [([0.5 + t, 0.5 - t], [0.5 - t, 0.5 + t]) for t in (1e-4, 0.1, 0.499)]
PAIRS += [([0.9, 0.1], [0.5, 0.5]), ([0.5, 0.5], [0.9, 0.1]), ([0.5, 0.5, 0.0], [0.2, 0.3, 0.5])]


@tries("T6", "printed", broken={"prior": 0.9})
@tries("T6", "proof", pinsker=0.5, broken={"pinsker": 0.49})
@tries("T6", "reading: PLR itself", is_plr=True, broken={"pinsker": 0.49})
@tries("T6", "nearest_true", pinsker=0.5, huber=1.0, broken={"huber": 0.1})
def divergence(*, pinsker: float = 1.0, huber: float = math.inf, prior: float = 0.5, is_plr: bool = False) -> Cases:
    """Six pairs of confidences, nearly equal to nearly disjoint: Pinsker, and Bretagnolle and Huber (1979)."""
    for p, q in PAIRS:
        kl, plr = float(it.kl_divergence(p, q)), float(it.best_success(it.joint([prior, 1 - prior], [p, q])))
        bound = min(math.sqrt(pinsker * kl), float(it.bretagnolle_huber_bound(huber * kl)) if huber < 9 else math.inf)
        left, right = (plr, 0.5 + bound / 2) if is_plr else (2 * plr - 1, bound)
        yield Case(f"P_in {p}, P_out {q}", left, right, 1)


@tries("C3", "reading: KL / 2", reading="half", broken={"share": 0.1})
@tries("C3", "reading: joint and product", reading="joint", broken={"share": 0.1})
@tries("C3", "reading: balanced bit", reading="bit")
def label_information(*, reading: str, share: float = 1.0) -> Cases:
    """The same pairs; I is half the divergence, the divergence of joint and product, or that of a balanced bit."""
    for p, q in PAIRS:
        both, told = it.joint([0.5, 0.5], [p, q]), float(it.kl_divergence(p, q)) / 2
        product = np.outer(both.sum(1), both.sum(0)).ravel()
        tv = it.total_variation(both.ravel(), product) if reading == "joint" else it.total_variation(p, q)
        told = told if reading == "half" else float(it.mutual_information(both))
        right = float(it.bretagnolle_huber_bound(2 * share * told))
        yield Case(f"P_in {p}, P_out {q}", float(tv), right, 1)


@tries("C3", "reading: influence score")
def influence_score() -> Cases:
    """A weight w: confidence .62 and then .8 (the optimum) with the label, .5 without, so that every image tells."""
    for weight in (0.5, float(logit(0.8))):
        gradient, name = abs(float(expit(weight)) - 0.8), f"confidence {expit(weight):.3g} or 0.5"
        yield Case(name, 1.0, float(it.bretagnolle_huber_bound(2 * gradient * (gradient > 1e-12))), 1)


@tries("C3", "nearest_true", broken={"exponent": 1.3})
def topsoe(*, exponent: float = 2 * it.BIT) -> Cases:
    """The same pairs and two disjoint distributions against Topsoe (2001), Theorem 1.2, in Fano's inequality."""
    for p, q in (*PAIRS, ([1, 0], [0, 1])):
        right = math.sqrt(1 - (1 - min(1.0, bits_of([p, q]))) ** exponent)
        yield Case(f"P_in {p}, P_out {q}", float(it.total_variation(p, q)), right, 1)


tries("C3", "printed")(None, "The four readings beside each other: two that hold and two that fail leave it undefined.")


@tries("A", "added", broken={"charged": 0.0})
def retained_label(*, charged: float = 1.0) -> Cases:
    """Four label pairs, one that of Male and No_Beard in CelebA-HQ, read out with errors of six kinds: all computed."""
    worlds = ([[10, 18933], [5662, 5395]], [[1, 0], [0, 1]], [[4, 1], [1, 4]], [[9, 0], [0, 1]])
    kinds = ((0, 0, 0, 0), (0.05, 0.05, 0.05, 0.05), (0, 0, 0.3, 0), (0, 0.1, 0, 0), (0.2, 0, 0, 0.2), (1, 1, 1, 1))
    for counts, errors in itertools.product(worlds, kinds):
        both = np.array(counts) / np.sum(counts)
        wrong = both * np.reshape(errors, (2, 2))  # the read-out errs on this share of (A_j, A_k) = 00, 01, 10, 11
        seen = both - wrong + wrong[:, ::-1]
        bound = true.retained_label_bound(counts, charged * float(wrong.sum()))
        name, balanced = f"counts {counts}, errors {errors}", seen / (2 * both.sum(1, keepdims=True))
        yield Case(f"{name}: success", bound.success, float(it.best_success(seen)))
        yield Case(f"{name}: balanced", bound.balanced_success, float(it.best_success(balanced)))
        yield Case(f"{name}: information", bound.information, float(it.mutual_information(seen)))


# Class 1 lies at -1 and, with a tenth, at 9; class 0 is its mirror image: equal means, and x < 0 is right in .9.
MIRRORED = (np.array([[-1.0], [9.0], [1.0], [-9.0]]), np.array([1, 1, 0, 0]), np.array([0.45, 0.05, 0.45, 0.05]))


@tries("B", "added", broken={"is_centred": False})
def linear_erasure(*, is_centred: bool = True) -> Cases:
    """Mirrored two-point classes and 5 random samples of equal class means (Belrose et al. 2023), fitted by Newton."""
    samples = [np.random.default_rng(seed).normal(size=(60, 3)) ** 3 for seed in range(5)]
    for points, labels, weights in (MIRRORED, *((x, np.arange(60) % 3 // 2, np.full(60, 1 / 60)) for x in samples)):
        means = np.stack([np.average(points[labels == a], 0, weights[labels == a]) for a in (0, 1)])
        constant = float(it.binary_entropy(weights @ labels))
        gain = true.affine_gain(points - means[labels] if is_centred else points, labels, weights)
        yield Case(f"{len(points)} points", constant, constant - gain)


@tries("B", "reading: ranks")
def linear_erasure_of_ranks() -> Cases:
    """The mirrored two-point classes: the AUC of -x, then the success of x < 0, on balanced classes of equal mean."""
    x, labels, weights = MIRRORED[0][:, 0], *MIRRORED[1:]
    ones, zeros = labels == 1, labels == 0
    above = float(((x[ones][:, None] < x[zeros]) * np.outer(weights[ones], weights[zeros]) / 0.25).sum())
    yield Case("AUC of -x", max(above, 1 - above), 0.5, 1)
    yield Case("x < 0 answers 1", float(weights[(x < 0) == ones].sum()), 0.5, 1)


@tries("C", "added", broken={"is_erased": False})
def conditional_erasure(*, is_erased: bool = True) -> Cases:
    """Five samples with two retained labels, features that know z and c, r regressed out: least squares, exactly."""
    for rng in map(np.random.default_rng, range(5)):
        c = rng.integers(0, 2, (200, 2))
        z = (rng.random(200) < np.array([0.2, 0.5, 0.6, 0.9])[c @ (2, 1)]).astype(float)
        r = true.unexplained_by(c, z)
        phi = np.column_stack([z, *c.T, c[:, 0] * c[:, 1], np.ones(200)]) @ rng.normal(size=(5, 6))
        phi -= np.outer(r, r @ phi) / (r @ r) * is_erased
        yield Case("linear probe", true.explained_share(phi, z), true.explained_share(z - r, z))


@tries("C", "reading: kernel form", broken={"leak": 0.5})
def conditional_independence(*, leak: float = 0.0) -> Cases:
    """A label z, a retained label c and three features that see c only, best attacks on z from either: all computed."""
    both = np.array([[0.5, 0.1], [0.1, 0.3]])  # z, c
    for success in (0.6, 0.9, 1.0):
        of_c = both @ np.array([[success, 1 - success], [1 - success, success]])
        seen = (1 - leak) * of_c + leak * np.diag(both.sum(1))
        yield Case(f"feature right on c in {success}", float(it.best_success(seen)), float(it.best_success(both)))


@tries("D", "added", broken={"is_held_out": False})
def certificate(*, is_held_out: bool = True) -> Cases:
    """Outputs right in p of the images: how many of 200 certificates exceed the information, at risk 5 %; no margin."""
    for p, n in ((0.5, 50), (0.7, 400), (0.95, 400)):
        told, exceeded = it.BIT - float(it.binary_entropy(p)), 0
        for rng in map(np.random.default_rng, range(200)):
            labels = rng.integers(0, 2, n)
            seen = labels ^ (rng.random(n) > p)
            q = np.where(seen, p, 1 - p) if is_held_out else labels  # the best probe; or one that knows its images
            exceeded += true.probe_certificate(q, labels, prior=0.5, floor=0.01) > told + 1e-9
        yield Case(f"p {p}, {n} images", exceeded / 200, 0.05, 1)
        yield Case("without the margin", it.BIT + p * math.log(p) + (1 - p) * math.log(1 - p), told)


@tries("E", "added", broken={"share": 0.5})
def added_noise(*, share: float = 1.0) -> Cases:
    """Two points, and two classes of three points each, within a diameter of 2: best attacks by summing on a grid."""
    y = np.linspace(-30, 30, 20_001)
    for classes, noise in itertools.product((([-1], [1]), ([-1, 0, 0.2], [-0.5, 0.4, 1])), (0.5, 1.0, 3.0)):
        densities = np.stack([norm.pdf(y[:, None], points, noise).mean(1) for points in classes]) * (y[1] - y[0])
        right = float(true.noisy_success_bound(2.0 * share, noise))
        yield Case(f"points {classes}, noise {noise}", float(densities.max(0).sum() / 2), right + 1e-6, 1)


@tries("F", "added", broken={"claimed": 3.0})
def retrained_head(*, claimed: float = 1.0) -> Cases:
    """Logistic heads with L2 regularisation .1, retrained by Newton from five starts; one with no data but the L2."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        phi, y, start = rng.normal(size=(80, 4)) * (seed > 0), rng.integers(0, 2, 80), np.eye(4)[0] + seed
        best, steps = start, []
        for _ in range(30):
            s = expit(phi @ best)
            steps.append(phi.T @ (s - y) / 80 + 0.1 * best)  # the gradient; the first is that at the start
            best = best - np.linalg.solve((phi * (s * (1 - s))[:, None]).T @ phi / 80 + 0.1 * np.eye(4), steps[-1])
        bounds = true.head_distance_bound(np.eye(4), steps[0], claimed * 0.1)
        for left, right in zip(np.abs(start - best), bounds, strict=True):
            yield Case(f"head {seed}", float(left), float(right))
