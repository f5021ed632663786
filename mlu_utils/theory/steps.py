"""Each step of the six proofs as a check that can fail, SymPy where the step is algebra.

`STEPS[statement]()` returns the steps in the order of the proof. What the paper's proofs leave unsaid (how T4's two
terms arise, how C3 follows) is reconstructed in the only way that gives the printed formula, and said so.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import sympy as sp
from scipy.optimize import brentq

from mlu_utils.theory import cases
from mlu_utils.theory import information as it
from mlu_utils.theory.statements import Verdict, claims_of, judge


@dataclass(frozen=True)
class Step:
    """One step of a proof.

    claim: what the step says. holds: what the computation found. evidence: its numbers. otherwise: what would have
    made it come out the other way.
    """

    claim: str
    holds: bool
    evidence: str
    otherwise: str


def _positive(names: str) -> tuple[sp.Symbol, ...]:
    return sp.symbols(names, positive=True)


def random_distributions(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return random distributions along the last axis, uniform on the simplex, about every fifth with zeros.

    Args:
        shape: of the result.
        rng: source of chance.
    """
    mass = rng.exponential(size=shape)
    mass *= (rng.random(shape) > 0.3) | (rng.random((*shape[:-1], 1)) > 0.2)
    mass[..., 0] += mass.sum(-1) == 0
    return mass / mass.sum(-1, keepdims=True)


# --- T1 -----------------------------------------------------------------------------------------------------


def information_along_chain(rng: np.random.Generator, num_random: int, *, shortcut: float = 0.0) -> cases.Cases:
    """I(W; Z) against I(W; Y) on random chains W -> Y -> Z of up to 4 values each.

    Args:
        rng: source of chance.
        num_random: chains.
        shortcut: the premise; share of cases in which Z copies W past Y, which a chain doesn't allow.
    """
    first = it.joint(random_distributions((num_random, 4), rng), random_distributions((num_random, 4, 4), rng))
    second = random_distributions((num_random, 4, 4), rng)
    copied = first.sum(-1)[..., None] * np.eye(4)
    left = it.mutual_information((1 - shortcut) * (first @ second) + shortcut * copied)
    return cases.Cases(left, it.mutual_information(first), lambda i: f"random chain {i}")


def t1_steps(num_random: int = 1000, seed: int = 0) -> list[Step]:
    """Return the steps of T1: data processing, variance at most tau^2, the Gaussian formula, its direction."""
    rng = np.random.default_rng(seed)
    chain = judge(information_along_chain(rng, num_random))
    weights = rng.uniform(-1, 1, (num_random, 5))
    p = random_distributions((num_random, 5), rng)
    variance = (p * weights**2).sum(1) - (p * weights).sum(1) ** 2
    w, optimum, sigma, tau, r = *sp.symbols("w w_opt", real=True), *_positive("sigma tau r")
    score = sp.diff((w - optimum) ** 2 / 2, w).subs(w, optimum)

    def gaussian_entropy(variance):
        return sp.log(2 * sp.pi * sp.E * variance) / 2

    true = sp.simplify(sp.expand_log(gaussian_entropy(sigma**2 + tau**2) - gaussian_entropy(sigma**2), force=True))
    ratio_form = sp.log(1 + 1 / r) / 2
    is_formula = sp.simplify(sp.expand_log(true - ratio_form.subs(r, sigma**2 / tau**2), force=True)) == 0
    crossing = [root for root in sp.solve(sp.Eq(1 + 1 / r, (1 + r) ** 2), r) if root.is_positive]
    printed = sp.log(1 + sigma**2 / tau**2)
    slopes = [sp.simplify(sp.diff(bound, tau)) for bound in (printed, sp.log(1 + tau**2 / sigma**2) / 2)]
    return [
        Step(
            "Data processing: $W \\to Y \\to Z$ gives $I(W;Z) \\le I(W;Y)$",
            chain.verdict != "fails",
            f"{chain.num_cases} random chains, {chain.num_broken} against it",
            "a Z that sees W past Y",
        ),
        Step(
            "$|w| \\le \\tau$ gives $\\mathrm{Var}\\,w \\le \\tau^2$ (Popoviciu)",
            bool((variance <= 1).all()),
            f"largest of {num_random} random weights {variance.max():.2f} $\\tau^2$; exactly $\\tau^2$ at $\\pm\\tau$",
            "weights outside $[-\\tau, \\tau]$",
        ),
        Step(
            "A score below $\\tau$ gives $|w| \\le \\tau$",
            score != 0,
            f"$L = (w-w^*)^2/2$: score {score} at $w = w^*$, whatever the size of $w^*$",
            "a score that is the weight's size, not its gradient",
        ),
        Step(
            "The Gaussian formula is $\\log(1+\\sigma^2/\\tau^2)$",
            not is_formula,
            f"$h(w')-h(noise) = \\frac12\\log(1+\\tau^2/\\sigma^2)$; the two meet at $\\sigma^2/\\tau^2 = "
            f"{sp.latex(crossing[0])} = {float(crossing[0]):.3f}$ only, below it the printed one is too small",
            "noise and weight exchanged",
        ),
        Step(
            "The bound tightens as $\\tau$ grows",
            bool(slopes[1].is_negative),
            f"printed: derivative in $\\tau$ {_sign(slopes[0])}; right formula: {_sign(slopes[1])}",
            "a larger $\\tau$ letting smaller weights in",
        ),
    ]


def _sign(expression: sp.Expr) -> str:
    return "negative" if expression.is_negative else "positive" if expression.is_positive else "undecided"


# --- T2 -----------------------------------------------------------------------------------------------------


def private_mechanisms(num_bits: int) -> tuple[int, int]:
    """Return how many deterministic yes/no mechanisms on `num_bits` one-bit records there are, and are private.

    Private: for neighbours (one record changed) some delta < 1 is enough, at whatever epsilon.
    """
    data_sets = list(itertools.product((0, 1), repeat=num_bits))
    where = {data: i for i, data in enumerate(data_sets)}
    pairs = [
        (where[data], where[(*data[:k], 1 - data[k], *data[k + 1 :])]) for data in data_sets for k in range(num_bits)
    ]
    outputs = np.array(list(itertools.product((0, 1), repeat=len(data_sets))))  # one mechanism a row
    distributions = np.stack([1 - outputs, outputs], -1).astype(float)
    a, b = np.array(pairs).T
    needed = it.hockey_stick(distributions[:, a], distributions[:, b], 50.0).max(1)
    return len(outputs), int((needed < 1).sum())


def t2_steps(num_random: int = 1000, seed: int = 0) -> list[Step]:
    """Return the steps of T2: sensitivity, the shrinking map, privacy of a deterministic map, epsilon, delta."""
    gradient, weight, decay, low, n, x = _positive("G w lambda tau_l n x")
    # n images, one with gradient G and the others 0: replacing it changes I from G/n to 0, and max I is G/n.
    ratio = sp.simplify((gradient / n) / ((gradient / n) / n))
    jump = weight * sp.exp(-decay * low)  # from 0 below tau_l to this at tau_l
    counts = [private_mechanisms(num_bits) for num_bits in (1, 2, 3)]
    shares = []
    for scores in np.random.default_rng(seed).exponential(size=(num_random // 10, 100)):
        shares.append(float((scores >= np.sort(scores)[74]).mean()))
    return [
        Step(
            "Replacing one image changes $I(w)$ by at most $\\max I/|D|$",
            ratio == 1,
            f"one image with gradient $G$, the others 0: it changes by ${sp.latex(ratio)}$ times that",
            "max taken over single images' gradients instead of over the averaged importances",
        ),
        Step(
            "A weight moves by at most $\\lambda\\,\\Delta I$",
            sp.limit(jump, n, sp.oo) == 0,
            f"at $I = \\tau_l$ it jumps from 0 to ${sp.latex(jump)}$, however many images there are",
            "a map without thresholds, such as $w e^{-\\lambda I}$ alone (and $|w| \\le 1$)",
        ),
        Step(
            "Bounded sensitivity makes a deterministic map private",
            any(private > 2 for _, private in counts),
            "deterministic yes/no mechanisms that are private with a $\\delta < 1$: "
            + ", ".join(f"{private} of {total}" for total, private in counts)
            + " on data sets of 1, 2, 3 bits, the constant ones",
            "randomness in the output: noise of a size set by the sensitivity",
        ),
        Step(
            "$\\varepsilon = x/|D|$ and $\\log(1+x)$ say the same",
            sp.simplify(sp.log(1 + x) - x) == 0,
            f"$x - \\log(1+x) = {sp.latex(sp.series(x - sp.log(1 + x), x, 0, 4).removeO())} + \\dots$: for one image "
            "the statement promises more than its proof, for $|D| > x/\\log(1+x)$ less",
            "$|D| = x/\\log(1+x)$, the one size at which they agree",
        ),
        Step(
            "$\\delta = \\Pr[I \\ge \\tau_h]$ is small",
            max(shares) < 0.1,
            f"$\\tau_h$ is the 75th percentile of $I$: $\\delta$ between {min(shares):.2f} and {max(shares):.2f} by "
            "construction, where $\\delta \\ll 1/|D|$ is asked for",
            "a threshold far out in the tail",
        ),
    ]


# --- T3 -----------------------------------------------------------------------------------------------------


def t3_steps() -> list[Step]:
    """Return the steps of T3: what the clamp bounds, first order, the norm, the slope that is summed."""
    a, b, w = *sp.symbols("a b", real=True), sp.Symbol("w", real=True)
    excess = sp.simplify((sp.Abs(a) + sp.Abs(b)) ** 2 - (a**2 + b**2))
    loss = 2 * sp.log(1 + sp.exp(-w)) + sp.log(1 + sp.exp(w))  # x = 1 with labels 1, 1, 0
    optimum = sp.log(2)
    slope = sp.simplify(sp.diff(loss, w).subs(w, optimum))
    first_order = judge(cases.mean_value(is_sup_over_path=False))
    repaired = {"slope": "output", "start": "modified", "norm": 1}
    flaws = {"start": "original", "norm": 2, "slope": "loss"}
    alone = {name: judge(cases.clamped_weights(**(repaired | {name: flaw}))) for name, flaw in flaws.items()}
    return [
        Step(
            "The clamp keeps $w'$ within $\\varepsilon$ of $w_0$",
            alone["start"].verdict != "fails",
            f"it keeps $w'$ near $w_{{mod}}$; with the other two steps repaired: {alone['start'].counterexample}",
            "no modification before fine-tuning",
        ),
        Step(
            "$f$ changes by $\\nabla f \\cdot \\Delta w$",
            first_order.verdict != "fails",
            f"exact for linear $f$; for $a\\tanh(bx)$ {first_order.num_broken} of 2000 random networks change by more "
            "than $\\sum|\\partial_i f||\\Delta w_i|$",
            "an $f$ linear in its weights, or the slope's maximum over the path",
        ),
        Step(
            "Each $|\\Delta w_i| \\le \\varepsilon$ gives "
            "$|\\nabla f\\cdot\\Delta w| \\le \\varepsilon\\,\\|\\nabla f\\|_2$",
            alone["norm"].verdict != "fails",
            f"two weights: $(|a|+|b|)^2-(a^2+b^2) = {sp.latex(excess)}$; the factor is $\\sqrt d$ for $d$ equal "
            f"slopes; with the other two steps repaired: {alone['norm'].counterexample}",
            "a clamp of the vector's 2-norm, or one weight",
        ),
        Step(
            "$S = |\\partial L/\\partial w|$ bounds the slope of $f$",
            alone["slope"].verdict != "fails",
            f"at the optimum of labels 1, 1, 0 at $x = 1$, $w_0 = \\ln 2$: $S = {slope}$, the slope of $f$ is 1; "
            f"with the other two steps repaired: {alone['slope'].counterexample}",
            "S taken from the logits",
        ),
    ]


# --- T4 -----------------------------------------------------------------------------------------------------


def retrained_twice(num_random: int, rng: np.random.Generator, *, num_images: int = 8, num_weights: int = 20):
    """Return sup over |x| <= 1 of |f_1 - f_2| for two least-squares retrainings on the same images, (num_random,).

    Gradient descent from w_init ends at the solution nearest to it: the part of w_init that no image sees stays. With
    starts N(0, 1/d), as initialisers draw them, the two differ by the unseen part of the starts' difference.

    Args:
        num_random: pairs.
        rng: source of chance.
        num_images, num_weights: without unseen directions (num_images >= num_weights) the two agree.
    """
    images = rng.normal(size=(num_random, num_images, num_weights))
    difference = rng.normal(size=(num_random, num_weights)) * math.sqrt(2 / num_weights)
    _, singular, rows = np.linalg.svd(images, full_matrices=False)
    seen = rows * (singular > 1e-9)[..., None]
    unseen = difference - np.einsum("nij,ni->nj", seen, np.einsum("nij,nj->ni", seen, difference))
    return np.linalg.norm(unseen, axis=1)


def t4_steps(num_random: int = 2000, seed: int = 0) -> list[Step]:
    """Return the steps of T4: triangle inequality, what zeroing reaches, McDiarmid, and the mean that is dropped.

    The first two are reconstructed: the only way in which gamma's two terms can arise.
    """
    rng = np.random.default_rng(seed)
    a, b, c = rng.normal(size=(3, num_random))
    gamma = cases.RetrainWorld().gamma
    near = it.share_interval(int((retrained_twice(num_random, rng) <= 2 * gamma).sum()), num_random)
    mcdiarmid, printed = judge(cases.concentration()), judge(cases.retrain_distance())
    world = cases.RetrainWorld()
    return [
        Step(
            "$|f_{w'}-f_{never}| \\le |f_{w'}-f_{w_0}|+|f_{w_0}-f_{never}|$",
            bool((np.abs(a - c) <= np.abs(a - b) + np.abs(b - c) + 1e-12).all()),
            f"{num_random} random triples",
            "squared distances, which no triangle inequality binds",
        ),
        Step(
            "$f_{never}$ is $f_{w_0}$ without $W_j$, so that $\\sum|w|I$ bounds the second distance",
            near.low > 0.5,
            f"two retrainings on the same 8 images from two random starts (20 weights, closed form) lie within "
            f"$2\\gamma$ of each other with probability {near.value:.4f} (95 % interval {near.low:.4f} to "
            f"{near.high:.4f}; {num_random} draws): "
            "no $f_{w'}$ can be within $\\gamma$ of both",
            "as many images as weights: then retraining has one result",
        ),
        Step(
            "McDiarmid: $\\Pr[Z-\\mathbb E Z\\ge t]\\le\\exp(-2t^2/\\sum c_i^2)$",
            mcdiarmid.verdict != "fails",
            f"{mcdiarmid.num_cases} thresholds of functions of independent bits, {mcdiarmid.num_broken} against it",
            "dependent images",
        ),
        Step(
            "so $\\Pr[Z > \\gamma] \\le \\exp(-2\\gamma^2/\\sum c_i^2)$",
            printed.verdict != "fails",
            f"the mean is dropped: {printed.counterexample}; at $n = 200$ the distance exceeds $\\gamma$ with "
            f"probability {world.miss(200, world.gamma):.3f}, the theorem allows {math.exp(-400 * world.gamma**2):.3f}",
            "$\\mathbb E Z = 0$",
        ),
    ]


# --- T5, C1, C2 ---------------------------------------------------------------------------------------------


def t5_steps(num_random: int = 2000, seed: int = 0) -> list[Step]:
    """Return the steps of T5: data processing, Fano, and which way round it bounds the information."""
    rng = np.random.default_rng(seed)
    both = it.joint([0.5, 0.5], random_distributions((num_random, 2, 4), rng))
    bits = it.mutual_information(both) / it.BIT
    answers = rng.random((20, 4))
    success = np.clip(it.attack_success(both, answers), 0, 1)  # (N, K)
    seen = np.stack([both @ (1 - answers).T, both @ answers.T], -1).swapaxes(1, 2)  # (N, K, A, answer)
    through_attack = it.mutual_information(seen) / it.BIT
    error_entropy = it.binary_entropy(success) / it.BIT
    best_success = it.best_success(both)
    best = it.binary_entropy(best_success) / it.BIT
    weakest = best_success[bits > best + 1e-9].min()
    careless = np.setdiff1d(np.arange(1, 100), 50) / 100
    limits = np.stack([it.binary_entropy(careless), it.BIT - it.binary_entropy(careless)])
    p = sp.Symbol("p", positive=True)
    convexity = sp.simplify(sp.diff(p * sp.log(p) + (1 - p) * sp.log(1 - p), p, 2))
    return [
        Step(
            "An attack knows no more than $f$: $I(\\hat A;A)\\le I(f;A)$",
            bool((through_attack <= bits[:, None] + 1e-9).all()),
            f"{num_random} random channels, 20 random attacks each",
            "an attacker who sees more than $f$",
        ),
        Step(
            "Fano: $H(A\\mid f)\\le H(p)$",
            bool((1 - bits[:, None] <= error_entropy + 1e-9).all()),
            f"the same {success.size} pairs, success from {success.min():.2f} to {success.max():.2f}",
            "more than two classes, without the term $(1-p)\\log(K-1)$",
        ),
        Step(
            "so $I(f;A) = H(A)-H(A\\mid f) \\ge 1-H(p)$, a lower bound",
            bool((bits[:, None] >= 1 - error_entropy - 1e-9).all()),
            "subtracting from $H(A) = 1$ turns the inequality round",
            "an unbalanced $A$: then $H(A)-H(p)$",
        ),
        Step(
            "$I(f;A)\\le 1-H(p)$, the proof's last line",
            bool((bits <= 1 - best + 1e-9).all()),
            f"against it {int((bits > 1 - best + 1e-9).sum())} of {num_random} channels, with the best attack; "
            f"$(1-H)'' = {sp.latex(convexity)} > 0$, so by Jensen $I = \\mathbb E[1-H(p_y)] "
            "\\ge 1-H(\\mathbb E\\,p_y)$, equal only when every output is equally telling",
            "outputs that are all equally telling, as in a symmetric channel",
        ),
        Step(
            "$I(f;A)\\le H(p)$, the statement",
            bool((bits <= best + 1e-9).all()),
            f"against it {int((bits > best + 1e-9).sum())} of {num_random} channels; the best attack on each of them "
            f"succeeds at {weakest:.2f} or more, and below {telling_success():.3f} no channel can break it: "
            "$I\\le 2p-1<H(p)$",
            "a best attack that succeeds at less than that",
        ),
        Step(
            "either, with $p$ the success of some attack instead of the best",
            bool((it.BIT <= limits).any()),
            f"$f = A$ carries 1 bit; attackers who read it and err on purpose reach all of {len(careless)} successes "
            f"from {careless[0]} to {careless[-1]}, and at each of them $H(p)$ and $1-H(p)$ are below 1",
            "an attacker known to do his best",
        ),
    ]


def telling_success() -> float:
    """Return the success p from which some channel has I > H(p): the root of 2 p - 1 = H(p), in bits."""
    return float(brentq(lambda p: 2 * p - 1 - it.binary_entropy(p) / it.BIT, 0.6, 0.99))


def success_of_bits(bits: float) -> float:
    """Return the p above 1/2 at which 1 - H(p) is this many bits."""
    return float(brentq(lambda p: 1 - it.binary_entropy(p) / it.BIT - bits, 0.5, 1))


def corollary_steps(name: str) -> list[Step]:
    """Return the steps of C1 or C2: the number itself, its unit, and what it bounds."""
    p, printed = cases.PRINTED_SUCCESS[name], cases.PRINTED_BITS[name]
    nats = float(it.binary_entropy(0.5) - it.binary_entropy(p))
    bits = nats / it.BIT
    other = success_of_bits(printed)
    best = max(p, 1 - p)
    share = cases.CELEBA_HQ_MALE
    shown = float(it.fano_lower_bound(p, share)) / it.BIT
    grid = cases.channels_of_success(best)
    reached = it.mutual_information(it.joint([0.5, 0.5], grid)) / it.BIT
    return [
        Step(
            f"$1-H({p}) = {printed}$ bits",
            abs(bits - printed) < 0.0005,
            f"{bits:.4f} bits ({nats:.4f} nats): the printed number is {printed / bits:.2f} times that and belongs to "
            f"$p = {other:.3f}$ or ${1 - other:.3f}$",
            f"an attack that succeeds at {other:.3f}",
        ),
        Step(
            f"An attack at {p} on a balanced label leaks at most that",
            bool(reached.max() <= printed),
            f"channels whose best attack succeeds at {best} carry {reached.min():.4f} to {reached.max():.4f} bits"
            + (f"; {p} is below chance, read backwards it is {best}" if p < 0.5 else ""),
            "errors alike on both values of $A$",
        ),
        Step(
            "The label is balanced",
            share == 0.5,
            f"Male is 1 for {share} of CelebA-HQ: there a constant answer succeeds at {max(share, 1 - share):.3f}, and "
            + (
                f"{p} shows {shown:.4f} bits by Fano's inequality"
                if shown > 0
                else f"{p} shows nothing by Fano's inequality"
            ),
            "an attack scored on as many ones as zeros",
        ),
        Step(
            f"T5's own bound $I\\le H({p})$ would say something",
            1 - bits < 0.9,
            f"it is {1 - bits:.3f} bits, of a label that has 1",
            "an attack above 0.684",
        ),
    ]


# --- T6, C3 -------------------------------------------------------------------------------------------------


def t6_steps(num_random: int = 2000, seed: int = 0) -> list[Step]:
    """Return the steps of T6: the best attack, Pinsker, its constant, and where the bound says nothing."""
    rng = np.random.default_rng(seed)
    pairs = random_distributions((num_random, 2, 4), rng)
    tv, kl = it.total_variation(pairs[:, 0], pairs[:, 1]), it.kl_divergence(pairs[:, 0], pairs[:, 1])
    # the attack answers "member", which is row 0 of the pair
    brute = it.attack_success(pairs[:, ::-1] / 2, it.attacks(4, 1)).max(1)
    t = sp.Symbol("t", positive=True)
    divergence = t * sp.log((1 + t) / (1 - t))  # KL of (1+t)/2 against (1-t)/2, whose TV is t
    constant = sp.limit(divergence / t**2, t, 0)
    advantage = 2 * 0.5006 - 1  # the paper's MIA success of WP
    disjoint = np.eye(2)[None]
    disclosed = float(it.kl_divergence(*disjoint[0]))
    # member (row 0) is the label 1; the attacker looks with a probability equal to the advantage, else tosses a coin
    seldom = float(it.attack_success(disjoint[:, ::-1] / 2, [[(1 + advantage) / 2, (1 - advantage) / 2]])[0, 0])
    empty = it.share_interval(int((kl >= 1).sum()), num_random)
    return [
        Step(
            "The best attack on a balanced membership succeeds at $\\frac12+\\frac12 TV$",
            bool(np.allclose(brute, 0.5 + tv / 2, atol=1e-12)),
            f"the best of all 16 attacks on {num_random} random pairs",
            "more members than others among the attacked",
        ),
        Step(
            "Pinsker: $TV\\le\\sqrt{\\mathrm{KL}/2}$, KL in nats",
            bool((tv <= it.pinsker_bound(kl) + 1e-12).all()),
            f"the same pairs, {int((tv > it.pinsker_bound(kl) + 1e-12).sum())} against it",
            "a constant below 1/2, or KL counted in decimal digits",
        ),
        Step(
            "$\\sqrt{\\mathrm{KL}}$ is the tight form",
            constant == 1,
            f"$\\mathrm{{KL}}/TV^2 \\to {constant}$ for close pairs: the statement drops the 1/2 and gives away a "
            "factor $\\sqrt2$ of the advantage (KL in bits: 1.70)",
            "KL multiplied by 1/2",
        ),
        Step(
            "The bound always says something",
            empty.value == 0,
            f"it is at least 1 for {100 * empty.value:.0f} % of random pairs ($\\mathrm{{KL}}\\ge1$)",
            "the form of Bretagnolle and Huber, which stays below 1",
        ),
        Step(
            "An attack that succeeds at 0.5006 shows that little leaks",
            math.isfinite(disclosed),
            f"it shows $\\mathrm{{KL}}\\ge 2\\cdot{advantage:.4f}^2$ = {2 * advantage**2:.1e} nats, no upper bound: on "
            f"disjoint $P_{{in}}, P_{{out}}$ KL is infinite and an attacker who seldom looks succeeds at {seldom:.4f}",
            "the best of all attacks: its success is $\\frac12+\\frac12TV$",
        ),
    ]


def c3_steps(num_random: int = 2000, seed: int = 0) -> list[Step]:
    """Return the steps of C3: Bretagnolle-Huber, 2 I in the place of KL, the exact deficit, the other unit.

    The second is reconstructed: it is the only way from that inequality to the printed one.
    """
    rng = np.random.default_rng(seed)
    pairs = random_distributions((num_random, 2, 4), rng)
    tv, kl = it.total_variation(pairs[:, 0], pairs[:, 1]), it.kl_divergence(pairs[:, 0], pairs[:, 1])
    information = it.mutual_information(it.joint([0.5, 0.5], pairs))
    t = sp.Symbol("t", positive=True)
    deficit = ((2 + t) * sp.log(1 + t) + (2 - t) * sp.log(1 - t)) / 2  # I + 1/2 ln(1 - t^2) of the symmetric pair
    series = sp.series(deficit, t, 0, 9)
    k = sp.Symbol("k", integer=True, positive=True)
    coefficient = sp.simplify(1 / (2 * k - 1) - 1 / k)  # of t^(2k), from the series of both logarithms
    is_series = all(series.coeff(t, 2 * j) == coefficient.subs(k, j) for j in range(1, 5))
    bits_bound = float(np.sqrt(-np.expm1(-2.0)))
    return [
        Step(
            "Bretagnolle and Huber: $TV\\le\\sqrt{1-e^{-\\mathrm{KL}}}$",
            bool((tv <= it.bretagnolle_huber_bound(kl) + 1e-12).all()),
            f"{num_random} random pairs, {int((tv > it.bretagnolle_huber_bound(kl) + 1e-12).sum())} against it",
            "a factor below 1 in the exponent",
        ),
        Step(
            "$\\mathrm{KL}(P_{in}\\|P_{out})\\le 2I(C_j)$, so that KL may be replaced",
            bool((kl <= 2 * information + 1e-12).all()),
            f"it holds for {int((kl <= 2 * information + 1e-12).sum())} of {num_random} random pairs; by convexity "
            "$2I\\le\\frac12[\\mathrm{KL}(P_{in}\\|P_{out})+\\mathrm{KL}(P_{out}\\|P_{in})]$, the other way",
            "2 I above KL, which is bounded by $2\\ln 2$ and KL is not",
        ),
        Step(
            "The printed bound holds on $P = \\frac12(1\\pm t)$, $I$ in nats",
            not (is_series and all(coefficient.subs(k, j).is_negative for j in range(2, 50))),
            f"there $I+\\frac12\\ln(1-t^2) = {sp.latex(series)}$, the coefficient of $t^{{2k}}$ being "
            f"${sp.latex(sp.factor(coefficient))} \\le 0$: it fails for every $t$ in $(0, 1]$",
            "a series with positive coefficients",
        ),
        Step(
            "It holds with $I$ in bits",
            bits_bound >= 1,
            f"disjoint $P_{{in}}, P_{{out}}$: $I = 1$ bit, success 1, bound {0.5 + bits_bound / 2:.3f}",
            "more than 1 bit of information about one bit",
        ),
    ]


STEPS: dict[str, Callable[[], list[Step]]] = {
    "T1": t1_steps,
    "T2": t2_steps,
    "T3": t3_steps,
    "T4": t4_steps,
    "T5": t5_steps,
    "C1": lambda: corollary_steps("C1"),
    "C2": lambda: corollary_steps("C2"),
    "T6": t6_steps,
    "C3": c3_steps,
}


_FORM_DISPLAY = {"printed": "As printed", "proof": "As proved", "nearest_true": "Nearest true"}


def report(statement: str) -> str:
    """Return Markdown: the three forms of a statement with their verdicts, then the steps of its proof.

    Raises:
        ValueError: no such statement.
    """
    lines = []
    for form, claim in claims_of(statement).items():
        found = claim.verdict()
        source = f" ({claim.reference})" if claim.reference else ""
        lines += [
            f"**{_FORM_DISPLAY[form]}{source}.** ${claim.symbols}$",
            "",
            f"> **{found.verdict}**{_explained(found)}",
            ">",
        ]
        lines += [f"> It would have come out the other way {claim.otherwise}.", ""]
    lines += ["**The proof, step by step**", ""]
    for i, step in enumerate(STEPS[statement](), 1):
        lines.append(
            f"{i}. {'✓' if step.holds else '✗'} **{step.claim}.** {step.evidence}. "
            f"*The other way with {step.otherwise}.*"
        )
    return "\n".join(lines)


def _explained(found: Verdict) -> str:
    """Return what stands behind a verdict, after its name."""
    tried = f" ({found.num_broken:,} of {found.num_cases:,} cases against it)"
    if found.verdict == "fails":
        over = "without limit" if math.isinf(found.factor) else f"by a factor {found.factor:.3g}"
        return f"{tried}. Smallest counterexample, {over}: {found.counterexample}."
    if math.isinf(found.factor):
        return f"{tried}: the left side is 0 in all of them, any number would do."
    return f"{tried}: where it is tightest, the right side is {found.factor:.4g} times the left."
