"""The small worlds in which each statement is tried: both sides of its inequality, case by case.

Each function returns `Cases` in an order from small to large, so that the first case that breaks the inequality is the
smallest counterexample found. Its keyword argument is the premise on which the verdict rests; a test gives the other
value and sees the verdict change. Nothing here judges: that is `statements`. Unit: nats, bits where a docstring says
so.

Words: A a binary label, p the success of an attack on it, W_f a filtered weight before filtering and w' after.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import expit
from scipy.stats import binom

from mlu_utils.theory import information as it
from mlu_utils.unlearning.selection import percentile_thresholds
from mlu_utils.unlearning.weight_pruning import assign_zones, prune_weights

GOLDEN = (math.sqrt(5) - 1) / 2  # the noise-to-signal ratio below which T1's formula fails
PRINTED_SUCCESS = {"C1": 0.65, "C2": 0.46}  # the attack's success that each corollary starts from
PRINTED_BITS = {"C1": 0.074, "C2": 0.034}
CELEBA_HQ_MALE = 0.369  # share of the label 1, for an unbalanced prior


@dataclass(frozen=True)
class Cases:
    """Both sides of an inequality `left <= right` in many cases, and what any of them is.

    Args:
        left, right: (n,).
        describe: case number -> the case in words.
        trivial: (n,) or a number: what `left` can't exceed, whether the statement holds or not.
    """

    left: np.ndarray
    right: np.ndarray
    describe: Callable[[int], str]
    trivial: np.ndarray | float = math.inf


def _collect(rows: list[tuple[float, float, str]], trivial: float = math.inf) -> Cases:
    left, right, names = zip(*rows, strict=True)
    return Cases(np.array(left), np.array(right), names.__getitem__, trivial)


def _number(value: float) -> str:
    """Write a probability or size as a reader would: three digits, no trailing zeros."""
    return f"{value:.3g}"


def _matrix(rows: np.ndarray) -> str:
    """Write rows of numbers, the longest tail of columns that are 0 in all rows left out."""
    used = np.flatnonzero(rows.any(0))
    rows = rows[:, : used[-1] + 1] if len(used) else rows
    return "; ".join("(" + ", ".join(map(_number, row)) + ")" for row in rows)


# --- T1: I(w'; W_f) <= log(1 + sigma^2 / tau^2) -------------------------------------------------------------

# sigma^2 / tau^2: round numbers first, so that a counterexample is a round one.
RATIOS = (1.0, 0.5, 0.25, 0.1, 0.01, 2.0, 10.0, GOLDEN, *np.logspace(-3, 2, 41))
# Weights of second moment 1 = tau^2, as values and probabilities. None: Gaussian.
INPUTS: dict[str, tuple | None] = {
    "Gaussian": None,
    "+-tau": ((-1.0, 1.0), (0.5, 0.5)),
    "-a, 0, a": ((-math.sqrt(2), 0.0, math.sqrt(2)), (0.25, 0.5, 0.25)),
    "seven equal steps": (np.arange(-3, 4) / 2, np.full(7, 1 / 7)),
}


def replaced_weight(*, is_always_filtered: bool = True) -> Cases:
    """T1 as printed: w' is 0 or fresh noise instead of W_f. Its premise: the weight is filtered whatever it is.

    Otherwise, as in Algorithm 1, the weight stays where its score reaches tau: then w' shows whether it did.
    Fresh noise meets a kept value with probability 0, so all filtered weights count as one output.
    """
    rows = []
    for num_values, ratio in itertools.product((2, 3), RATIOS):
        for prior in it.distributions(num_values, 4):
            kept = np.arange(num_values) > 0  # the scores of all values but the first reach tau
            channel = np.eye(num_values)
            channel[~kept | is_always_filtered] = np.eye(num_values)[0]
            rows.append(
                (
                    float(it.mutual_information(it.joint(prior, channel))),
                    math.log1p(ratio),
                    f"W_f has {num_values} values with probabilities {_matrix(prior[None])}, "
                    f"only the first is filtered; sigma^2/tau^2 = {_number(ratio)}",
                )
            )
    return _collect(rows, trivial=0.0 if is_always_filtered else math.inf)


def _noisy_weight(ratio: float, name: str, power: float) -> float:
    if INPUTS[name] is None:
        return float(it.gaussian_capacity(power, ratio))
    points, probabilities = INPUTS[name]
    scale = math.sqrt(power / np.dot(np.square(points), probabilities))
    return it.additive_noise_information(np.multiply(points, scale), probabilities, math.sqrt(ratio))


def noisy_weight_printed(*, smallest_ratio: float = 0.0) -> Cases:
    """T1 as its proof has it: w' = W_f + N(0, sigma^2) with variance of W_f at most tau^2, and the printed formula.

    Premise: how small sigma^2 / tau^2 may be. From 1 / golden section on the formula holds.
    """
    rows = [
        (_noisy_weight(r, name, 1.0), math.log1p(r), f"w' = W_f + noise, W_f {name}, sigma^2/tau^2 = {_number(r)}")
        for r in RATIOS
        if r >= smallest_ratio
        for name in INPUTS
    ]
    return _collect(rows)


def noisy_weight_true(*, power: float = 1.0) -> Cases:
    """T1 put right: I(W_f; W_f + N(0, sigma^2)) <= 1/2 log(1 + tau^2 / sigma^2). Premise: E W_f^2 / tau^2 <= 1."""
    rows = [
        (
            _noisy_weight(r, name, power),
            float(it.gaussian_capacity(1, r)),
            f"W_f {name} of second moment {power} tau^2, sigma^2/tau^2 = {_number(r)}",
        )
        for r in RATIOS
        for name in INPUTS
    ]
    return _collect(rows)


# --- T2: Weight Pruning is (epsilon, delta)-differentially private ------------------------------------------


def printed_epsilon(
    max_importance: float, low: float, high: float, decay: float, num_images: int | None = None
) -> float:
    """Return T2's epsilon: log(1 + x), or the proof's x / |D| where num_images is given; x is the printed ratio.

    x = lambda max I / min(tau_l, tau_h - tau_l), infinite where that minimum is 0 or an importance is infinite.
    """
    gap = min(low, high - low)
    x = decay * max_importance / gap if gap > 0 and math.isfinite(max_importance) else math.inf
    return math.log1p(x) if num_images is None else x / num_images


@dataclass(frozen=True)
class PruningRun:
    """Algorithm 2's step 3 on one data set: new weights, and what T2 says of it."""

    weights: np.ndarray
    epsilon: float
    proof_epsilon: float
    delta: float


def pruning_run(gradients: np.ndarray, *, decay: float, reduced_rate: float = 0.1) -> PruningRun:
    """Prune weights of 1 by this library's own step, as printed, from the gradients of the images.

    Args:
        gradients: (n, d), |dl_n/dw| >= 0; I(w) is their mean over images.
        decay: lambda.
        reduced_rate: alpha_r.
    """
    scores = torch.tensor(gradients.mean(0))
    thresholds = percentile_thresholds(scores)
    zones = assign_zones(scores, torch.ones_like(scores, dtype=torch.bool), thresholds, reading="printed")
    pruned = prune_weights(
        torch.ones_like(scores),
        zones,
        scores,
        scores,
        scale=thresholds.high,
        decay=decay * thresholds.high,  # prune_weights divides by its scale: exp(-lambda I), as printed
        reduced_rate=reduced_rate,
    )
    ratio = (float(scores.max()), thresholds.low, thresholds.high, decay)
    return PruningRun(
        pruned.numpy(),
        printed_epsilon(*ratio),
        printed_epsilon(*ratio, num_images=len(gradients)),
        float((scores >= thresholds.high).double().mean()),
    )


def pruned_neighbours(*, form: str = "printed", noise_std: float = 0.0, max_images: int = 3) -> Cases:
    """T2: the delta that two data sets differing in one image need at the claimed epsilon, against the claimed delta.

    Two weights (one has tau_h = tau_l and an infinite epsilon), two kinds of image with gradients in {1, 2, 3}^2,
    every data set of up to max_images images. Each pair is given the larger epsilon and delta of its two sides.

    Args:
        form: printed (epsilon and delta as stated), proof (epsilon with 1/|D|).
        noise_std: the premise; noise added to every pruned weight. Algorithm 2 adds none.
        max_images: images in the largest data set.
    """
    kinds = [np.array(kind, dtype=float) for kind in itertools.product((1, 2, 3), repeat=2)]
    rows = []
    for n, decay in itertools.product(range(1, max_images + 1), (1.0, 0.1)):
        for zero, one in itertools.combinations(kinds, 2):
            runs = [pruning_run(np.stack([one] * k + [zero] * (n - k)), decay=decay) for k in range(n + 1)]
            for k, (a, b) in enumerate(itertools.pairwise(runs)):
                epsilon = max(a.epsilon, b.epsilon) if form == "printed" else max(a.proof_epsilon, b.proof_epsilon)
                if math.isinf(epsilon):
                    continue
                distance = float(np.linalg.norm(a.weights - b.weights))
                name = (
                    f"{n} image(s), {k} or {k + 1} with gradients {_matrix(one[None])}, the others "
                    f"{_matrix(zero[None])}, lambda {decay}: weights {_matrix(a.weights[None])} or "
                    f"{_matrix(b.weights[None])}, epsilon {_number(epsilon)}"
                )
                rows.append(
                    (float(it.gaussian_privacy_delta(distance, noise_std, epsilon)), max(a.delta, b.delta), name)
                )
    return _collect(rows, trivial=1.0)


def noisy_pruning(*, claimed_share: float = 1.0) -> Cases:
    """T2 put right: pruned weights + N(0, s^2) need exactly the Gaussian mechanism's delta at their sensitivity.

    left: delta by summing the hockey-stick divergence over a fine grid; right: the formula at the sensitivity.

    Args:
        claimed_share: the premise; the share of the true sensitivity that the formula is given.
    """
    kinds = [np.array(kind, dtype=float) for kind in itertools.product((1, 2, 3), repeat=2)]
    rows = []
    for zero, one in itertools.combinations(kinds, 2):
        a, b = (pruning_run(kind[None], decay=1.0).weights for kind in (zero, one))
        distance = float(np.linalg.norm(a - b))
        for relative_noise, epsilon in itertools.product((0.5, 1.0, 3.0), (0.1, 1.0, 3.0)):
            noise_std = relative_noise * distance
            if distance == 0:
                continue
            z = np.arange(-12, 12 + distance / noise_std, 1e-3)
            p, q = (np.exp(-((z - mean) ** 2) / 2) for mean in (distance / noise_std, 0.0))
            needed = float(it.hockey_stick(p / p.sum(), q / q.sum(), epsilon))
            claimed = float(it.gaussian_privacy_delta(claimed_share * distance, noise_std, epsilon))
            name = f"weights {_matrix(a[None])} or {_matrix(b[None])}, noise {_number(noise_std)}, epsilon {epsilon}"
            rows.append((needed, claimed + 1e-6, name))  # what the grid's step may cost
    return _collect(rows, trivial=1.0)


# --- T3: |f_w'(x) - f_w0(x)| <= epsilon sqrt(sum S^2) -------------------------------------------------------


def clamped_weights(*, slope: str = "loss", start: str = "original", norm: int = 2, max_weights: int = 3) -> Cases:
    """T3 on f_w(x) = w . x with x in {-1, 1}^d and all d weights in W_j, zeroed, then moved by +-epsilon each.

    Linear in w, so that curvature can't be blamed. The three arguments are the statement's three premises; the
    printed one is the first of each.

    Args:
        slope: loss (S = |dL/dw| of the training loss) or output (S = max_x |df/dw|).
        start: original (the change is counted from w0) or modified (from the value right after modification).
        norm: 2 (sqrt of the sum of squares) or 1 (the sum).
        max_weights: d = 1 .. max_weights.
    """
    rows = []
    for d, level, epsilon in itertools.product(range(1, max_weights + 1), (0.5, 1.0, 2.0), (0.1, 0.5)):
        x = np.array(list(itertools.product((-1.0, 1.0), repeat=d)))
        w0 = np.full(d, level)
        errors = expit(x @ w0) - (x[:, 0] > 0)  # of the binary label "first coordinate positive"
        sensitivity = np.abs(errors @ x / len(x)) if slope == "loss" else np.ones(d)
        before = w0 if start == "original" else np.zeros(d)
        moves = np.array(list(itertools.product((-epsilon, epsilon), repeat=d)))
        change = float(np.abs((moves - before) @ x.T).max())
        bound = epsilon * np.linalg.norm(sensitivity, norm)
        name = (
            f"f = w.x, d = {d}, w0 = {level}, zeroed, then moved by at most epsilon = {epsilon}: "
            f"|f' - f| = {_number(change)}, bound {_number(bound)}"
        )
        rows.append((change, float(bound), name))
    return _collect(rows)


def mean_value(*, is_sup_over_path: bool = True, num_random: int = 2000, seed: int = 0) -> Cases:
    """T3 put right: |f_w'(x) - f_w0(x)| <= sum_i |w'_i - w0_i| max over the path of |df/dw_i|.

    Linear f (equality) and random f = a tanh(b x), whose slopes are bounded in closed form over the path.

    Args:
        is_sup_over_path: the premise; otherwise the slope is taken at w0 only, as a first-order argument does.
        num_random: random networks.
        seed: of the networks.
    """
    rows = [(d * e, d * e, f"linear, {d} weights moved by {e}") for d in (1, 2, 3) for e in (0.1, 0.5)]
    a0, b0, a1, b1, x = np.random.default_rng(seed).normal(0, 1.5, (5, num_random))
    left = np.abs(a1 * np.tanh(b1 * x) - a0 * np.tanh(b0 * x))
    if is_sup_over_path:
        slope_a = np.tanh(np.maximum(np.abs(b0), np.abs(b1)) * np.abs(x))
        flattest = np.where(b0 * b1 > 0, np.minimum(np.abs(b0), np.abs(b1)), 0)
        slope_b = np.maximum(np.abs(a0), np.abs(a1)) * np.abs(x) / np.cosh(flattest * x) ** 2
    else:
        slope_a, slope_b = np.abs(np.tanh(b0 * x)), np.abs(a0 * x) / np.cosh(b0 * x) ** 2
    right = np.abs(a1 - a0) * slope_a + np.abs(b1 - b0) * slope_b
    rows += [(lo, hi, f"a tanh(b x), random network {i}") for i, (lo, hi) in enumerate(zip(left, right, strict=True))]
    return _collect(rows)


# --- T4: Pr[sup_x |f_w'(x) - f_never(x)| <= gamma] >= 1 - delta ---------------------------------------------


@dataclass(frozen=True)
class RetrainWorld:
    """A case of T4 in closed form: one weight w on |x| <= 1, shared by labels j and k; retraining sees k alone.

    The original weight w0 carries j. Unlearning zeroes it, so f_w' = 0. Retraining by least squares gives the
    mean of the n values of k, Bernoulli(q): sup_x |f_w' - f_never| = that mean.
    """

    original_weight: float = 0.5
    epsilon: float = 0.1
    share: float = 0.5  # q

    @property
    def gamma(self) -> float:
        """T4's gamma = |w0| I + epsilon S with I = S = |dL_j/dw| at w0, label j balanced."""
        slope = abs(float(expit(self.original_weight)) - 0.5)
        return abs(self.original_weight) * slope + self.epsilon * slope

    def miss(self, num_images: int, gamma: float) -> float:
        """Return Pr[sup_x |f_w' - f_never| > gamma], exactly."""
        return float(binom.sf(math.floor(gamma * num_images + 1e-9), num_images, self.share))


def retrain_distance(*, is_centred: bool = False, reach: float = 1.0, max_images: int = 200) -> Cases:
    """T4 as printed in `RetrainWorld`: the chance to miss gamma against McDiarmid's delta.

    One image changes the distance by at most reach / n, so delta = exp(-2 n gamma^2 / reach^2).

    Args:
        is_centred: the premise that McDiarmid's inequality needs: gamma is counted from the mean distance.
        reach: 1 for the supremum over |x| <= 1; |x| for one fixed x.
        max_images: largest n.
    """
    world = RetrainWorld()
    rows = []
    for n in range(1, max_images + 1):
        threshold = (world.gamma + is_centred * reach * world.share) / reach
        delta = math.exp(-2 * n * (world.gamma / reach) ** 2)
        name = f"n = {n} images, gamma = {_number(world.gamma)}, mean distance {_number(reach * world.share)}"
        rows.append((world.miss(n, threshold), delta, name))
    return _collect(rows, trivial=1.0)


def concentration(*, is_mean_added: bool = True, num_random: int = 500, seed: int = 0) -> Cases:
    """T4 put right: Pr[Z >= E Z + t] <= exp(-2 t^2 / sum c_i^2) for Z a function of independent images.

    Random functions of n <= 5 fair bits with their exact c_i, and the mean of one bit that is 1 with probability q.

    Args:
        is_mean_added: the premise; otherwise Pr[Z >= t] is bounded, as T4 does.
        num_random: random functions.
        seed: of the functions.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for q in (0.5, 0.7, 0.9, 0.99, 0.999):
        t = 1 - q if is_mean_added else 1.0
        rows.append((q, math.exp(-2 * t**2), f"Z one bit, 1 with probability {q}"))
    for i in range(num_random):
        n = 1 + i % 5
        z = rng.random((2,) * n)
        squares = sum(float(np.abs(np.diff(z, axis=k)).max()) ** 2 for k in range(n))
        mean = float(z.mean()) if is_mean_added else 0.0
        for value in np.unique(z)[np.unique(z) > mean]:
            chance = float((z >= value).mean())
            rows.append((chance, math.exp(-2 * (value - mean) ** 2 / squares), f"random Z of {n} bits, number {i}"))
    return _collect(rows, trivial=1.0)


# --- T5, C1, C2: the attack's success p and I(f; A), in bits ------------------------------------------------


def _label_channels(largest_denominator: dict[int, int], prior: float = 0.5):
    """Return channels, joints, I in bits and best success, coarse grids and few outputs first."""
    for num_outputs, largest in largest_denominator.items():
        for denominator in range(1, largest + 1):
            grid = it.channels(num_outputs, denominator)
            both = it.joint([1 - prior, prior], grid)
            yield grid, both, it.mutual_information(both) / it.BIT, it.best_success(both)


def _label_cases(grids: list[np.ndarray], left, right, trivial: float = math.inf) -> Cases:
    flat = [channel for grid in grids for channel in grid]
    left, right = np.concatenate(left), np.concatenate(right)

    def describe(i):
        channel = flat[i % len(flat)]
        return f"f's distribution given A = 0, 1: {_matrix(channel)}"

    return Cases(left, right, describe, trivial)


def attack_entropy(*, highest_success: float = 1.0) -> Cases:
    """T5 as stated: I(f; A) <= H(p) in bits, balanced A, p the success of the best attack.

    Premise: how good the best attack may be.
    """
    grids, left, right = [], [], []
    for grid, _, bits, best in _label_channels({2: 8, 3: 6}):
        chosen = best <= highest_success + 1e-12
        grids.append(grid[chosen])
        left.append(bits[chosen])
        right.append(it.binary_entropy(best[chosen]) / it.BIT)
    return _label_cases(grids, left, right, trivial=1.0)


def attack_capacity(*, is_symmetric: bool = False) -> Cases:
    """T5 as its proof ends: I(f; A) <= 1 - H(p) in bits, balanced A, p the success of the best attack.

    Premise: f may be any channel. On binary symmetric channels, where both values err alike, it is an equality.
    """
    grids, left, right = [], [], []
    for grid, _, bits, best in _label_channels({2: 8} if is_symmetric else {2: 8, 3: 6}):
        chosen = grid[:, 0, 0] == grid[:, 1, -1] if is_symmetric else np.ones(len(grid), dtype=bool)
        grids.append(grid[chosen])
        left.append(bits[chosen])
        right.append(1 - it.binary_entropy(best[chosen]) / it.BIT)
    return _label_cases(grids, left, right, trivial=1.0)


def attack_interval(*, is_best_attack: bool = True) -> Cases:
    """T5 put right, in bits: H(A) - H(p) <= I(f; A) for every attack, I(f; A) <= H(A) - 2 (1 - p) for the best.

    Balanced and unbalanced labels. Attacks: each output answered 0, 1 or by a fair coin.

    Args:
        is_best_attack: the premise of the upper bound; otherwise it is asked of every attack.
    """
    grids, left, right, uppers_left, uppers_right = [], [], [], [], []
    for prior in (0.5, CELEBA_HQ_MALE, 0.2):
        for grid, both, bits, best in _label_channels({2: 6, 3: 4}, prior):
            answers = it.attacks(grid.shape[2], 2)
            success = it.attack_success(both, answers)  # (N, K)
            grids.append(np.repeat(grid, len(answers), 0))
            left.append((it.fano_lower_bound(np.clip(success, 0, 1), prior) / it.BIT).ravel())
            every = np.repeat(bits, len(answers))
            right.append(every)
            uppers_left.append(every)
            p = np.repeat(best, len(answers)) if is_best_attack else success.ravel()
            uppers_right.append(it.hellman_raviv_upper_bound(p, prior) / it.BIT)
    return _label_cases(grids, left + uppers_left, right + uppers_right)


def channels_of_success(success: float, *, prior: float = 0.5, is_symmetric: bool = False) -> np.ndarray:
    """Return channels on a grid whose best attack on the label succeeds with exactly this probability.

    Args:
        success: at least max(prior, 1 - prior).
        prior: share of the label 1.
        is_symmetric: binary symmetric channels only.

    Returns:
        (N, 2, 3), channels of two outputs first, their third output never occurs.
    """
    found = []
    for num_outputs, denominator in ((2, 100), (3, 20 if round(success * 20, 9).is_integer() else 25)):
        grid = it.channels(num_outputs, denominator)
        chosen = np.abs(it.best_success(it.joint([1 - prior, prior], grid)) - success) < 1e-9
        if is_symmetric:
            chosen &= np.abs(grid[:, 0, 0] - grid[:, 1, -1]) < 1e-9
            chosen &= num_outputs == 2
        found.append(np.pad(grid[chosen], ((0, 0), (0, 0), (0, 3 - num_outputs))))
    return np.concatenate(found)


def leakage_at(corollary: str, *, bound: str = "printed", is_symmetric: bool = False) -> Cases:
    """C1 and C2: I(f; A) in bits of every channel whose best attack succeeds as printed, against the printed bits.

    A success of .46 on a balanced label is .54 read backwards, and that is the best attack's.

    Args:
        corollary: C1 or C2.
        bound: printed (the number) or formula (1 - H(p), recomputed).
        is_symmetric: the premise under which the formula is right: f errs alike on both values of A.
    """
    p = PRINTED_SUCCESS[corollary]
    grid = channels_of_success(max(p, 1 - p), is_symmetric=is_symmetric)
    bits = it.mutual_information(it.joint([0.5, 0.5], grid)) / it.BIT
    limit = PRINTED_BITS[corollary] if bound == "printed" else 1 - float(it.binary_entropy(p)) / it.BIT
    return _label_cases([grid], [bits], [np.full(len(bits), limit)], trivial=1.0)


def leakage_interval(corollary: str, *, prior: float = 0.5) -> Cases:
    """C1 and C2 put right, in bits: 1 - H(p) <= I(f; A) <= 2 p - 1 with p the best attack's success.

    Args:
        corollary: C1 or C2.
        prior: the premise, a balanced label; at a prior of 1 - p a constant answer succeeds as often.
    """
    p = PRINTED_SUCCESS[corollary]
    best = max(p, 1 - p)
    grid = channels_of_success(best, prior=prior)
    bits = it.mutual_information(it.joint([1 - prior, prior], grid)) / it.BIT
    lower = np.full(len(bits), float(it.fano_lower_bound(p)) / it.BIT)
    upper = np.full(len(bits), float(it.hellman_raviv_upper_bound(best)) / it.BIT)
    return _label_cases([grid], [lower, bits], [bits, upper])


# --- T6, C3: the membership attack's success ----------------------------------------------------------------


def distribution_pairs() -> np.ndarray:
    """Return pairs (P_in, P_out) on up to three outcomes, (N, 2, 3): coarse grids first, close pairs last."""
    parts = [
        np.pad(it.channels(num_outputs, denominator), ((0, 0), (0, 0), (0, 3 - num_outputs)))
        for num_outputs, largest in ((2, 10), (3, 6))
        for denominator in range(1, largest + 1)
    ]
    close = np.array([[[0.5 + t, 0.5 - t, 0], [0.5 - t, 0.5 + t, 0]] for t in (0.1, 0.03, 0.01, 0.003)])
    return np.concatenate([*parts, close])


def _pair_cases(left: np.ndarray, right: np.ndarray, pairs: np.ndarray) -> Cases:
    return Cases(left, right, lambda i: f"P_in, P_out: {_matrix(pairs[i])}", 1.0)


def membership_divergence(*, constant: float = 1.0, prior: float = 0.5) -> Cases:
    """T6: the advantage 2 PLR - 1 of the best membership attack against sqrt(constant * KL(P_in || P_out)).

    Args:
        constant: 1 as printed, 1/2 by Pinsker.
        prior: the premise; the share of members among those attacked. PLR = sum max(prior P_in, (1 - prior) P_out).
    """
    pairs = distribution_pairs()
    success = it.best_success(it.joint([prior, 1 - prior], pairs))
    return _pair_cases(2 * success - 1, np.sqrt(constant * it.kl_divergence(pairs[:, 0], pairs[:, 1])), pairs)


def membership_divergence_true(*, exponent: float = 1.0) -> Cases:
    """T6 put right: the advantage is at most min(sqrt(KL / 2), sqrt(1 - exp(-KL))), which never exceeds 1.

    Args:
        exponent: the premise, the factor of KL in the exponential; 1 by Bretagnolle and Huber.
    """
    pairs = distribution_pairs()
    kl = it.kl_divergence(pairs[:, 0], pairs[:, 1])
    right = np.minimum(it.pinsker_bound(kl), it.bretagnolle_huber_bound(exponent * kl))
    return _pair_cases(it.total_variation(pairs[:, 0], pairs[:, 1]), right, pairs)


def membership_information(*, measure: str = "mutual_information") -> Cases:
    """C3: the advantage of the best membership attack against sqrt(1 - exp(-2 I)), I = I(membership; C_j) in nats.

    Args:
        measure: the premise; "half_kl" puts KL(P_in || P_out) / 2 in the place of I: Bretagnolle and Huber.
    """
    pairs = distribution_pairs()
    if measure == "mutual_information":
        value = it.mutual_information(it.joint([0.5, 0.5], pairs))
    else:
        value = it.kl_divergence(pairs[:, 0], pairs[:, 1]) / 2
    return _pair_cases(it.total_variation(pairs[:, 0], pairs[:, 1]), it.bretagnolle_huber_bound(2 * value), pairs)


def membership_information_true(*, exponent: float = 2 * it.BIT) -> Cases:
    """C3 put right: the advantage is at most sqrt(1 - (1 - I)^(2 ln 2)), I in bits.

    Args:
        exponent: the premise; Topsoe's is the smallest that holds.
    """
    pairs = distribution_pairs()
    bits = it.mutual_information(it.joint([0.5, 0.5], pairs)) / it.BIT
    right = np.sqrt(1 - np.clip(1 - bits, 0, 1) ** exponent)
    return _pair_cases(it.total_variation(pairs[:, 0], pairs[:, 1]), right, pairs)
