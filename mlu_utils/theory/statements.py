"""T1-T6 and C1-C3 as claims, and the verdict that a claim's cases give it.

Each statement has three forms: as printed, as its proof has it, and the nearest true one. A verdict is never written
down here: `judge` computes it from both sides of the inequality in every case of `cases`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pandas as pd

from mlu_utils.naming import choices
from mlu_utils.theory import cases
from mlu_utils.theory.cases import Cases

STATEMENTS = ("T1", "T2", "T3", "T4", "T5", "C1", "C2", "T6", "C3")
FORMS = ("printed", "proof", "nearest_true")
VERDICTS = ("holds", "loose", "vacuous", "fails")
_ROUNDING = 1e-9  # what float64 may cost, relative
_ATTAINED = 1.01  # a bound that comes this near to the value in some case isn't called loose


@dataclass(frozen=True)
class Verdict:
    """What the cases say of an inequality.

    verdict: `fails` if any case breaks it; `vacuous` if in every case its right side is at least what the left side
    can't exceed anyway; `loose` if its right side never comes within 1 % of a left side that is not 0; else `holds`.
    factor: where it fails left / right in the counterexample, else the smallest right / left of any case.
    """

    verdict: str
    factor: float
    counterexample: str
    num_cases: int
    num_broken: int


def judge(tried: Cases) -> Verdict:
    """Return the verdict of an inequality's cases; the counterexample is the first case that breaks it.

    Raises:
        ValueError: no case, or a side that is not a number.
    """
    left, right = np.asarray(tried.left, dtype=float), np.asarray(tried.right, dtype=float)
    if len(left) == 0 or np.isnan(left).any() or np.isnan(right).any():
        raise ValueError(f"{len(left)} cases, some sides nan: an inequality needs cases with two numbers each")
    slack = _ROUNDING * np.maximum(1, np.abs(left))
    broken = left > right + slack
    if broken.any():
        first = int(broken.argmax())
        factor = float(left[first]) / float(right[first]) if right[first] > 0 else math.inf
        return Verdict("fails", factor, tried.describe(first), len(left), int(broken.sum()))
    said = left > _ROUNDING  # a left side of 0 or less is bounded by anything
    factor = float((right[said] / left[said]).min()) if said.any() else math.inf
    if (right >= tried.trivial - slack).all():
        verdict = "vacuous"
    else:
        verdict = "loose" if factor > _ATTAINED else "holds"
    return Verdict(verdict, factor, "", len(left), 0)


@dataclass(frozen=True)
class Claim:
    """One statement in one form, how it is tried, and what its verdict rests on.

    Args:
        symbols: the inequality, in LaTeX.
        try_cases: returns both sides in every case.
        check: what is enumerated.
        broken: the premise of `try_cases` with its other value, under which the verdict changes.
        otherwise: the same in words: what would have made the check come out the other way.
        reference: where a nearest true statement is proved.
    """

    statement: str
    form: str
    symbols: str
    try_cases: Callable[..., Cases]
    check: str
    broken: dict = field(default_factory=dict)
    otherwise: str = ""
    reference: str = ""

    def verdict(self) -> Verdict:
        """Judge the claim."""
        return judge(self.try_cases())

    def verdict_without_premise(self) -> Verdict:
        """Judge the claim with the one premise broken that its verdict rests on."""
        return judge(self.try_cases(**self.broken))


_T5_SEARCH = "every channel A -> f with 2 outputs in steps of 1/8 or 3 in steps of 1/6, A balanced, best attack; bits"
_PAIRS = "every pair (P_in, P_out) on 2 outcomes in steps of 1/10 and 3 in steps of 1/6, and close pairs; nats"


def _corollary(name: str, p: float, printed_bits: float) -> tuple[Claim, ...]:
    best = max(p, 1 - p)
    search = f"every channel on a grid (2 outputs, 1/100; 3 outputs, 1/20 or 1/25) whose best attack succeeds at {best}"
    return (
        Claim(
            name,
            "printed",
            rf"I(f;A) \le {printed_bits}\ \text{{bits at}}\ p={p}",
            partial(cases.leakage_at, name),
            f"{search}, against the printed bits",
            {"is_symmetric": True},
            "if f erred alike on both values of A: then I = 1 - H(p), below the printed number",
        ),
        Claim(
            name,
            "proof",
            rf"I(f;A) \le 1-H({p})",
            partial(cases.leakage_at, name, bound="formula"),
            f"{search}, against 1 - H(p) recomputed",
            {"is_symmetric": True},
            "if f erred alike on both values of A: then it is an equality",
        ),
        Claim(
            name,
            "nearest_true",
            rf"1-H({p}) \le I(f;A) \le {2 * best - 1:.2f}\ \text{{bits, {best} the best attack's success}}",
            partial(cases.leakage_interval, name),
            f"{search}; Fano below, Hellman and Raviv above",
            {"prior": 1 - best},
            f"if {best} of all labels were equal: a constant answer succeeds as often and needs no information",
            "Fano 1961; Hellman and Raviv 1970",
        ),
    )


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "T1",
        "printed",
        r"I(w';W_f) \le \log(1+\sigma^2/\tau^2),\quad w' = 0\ \text{or}\ N(0,\sigma^2)",
        cases.replaced_weight,
        "discrete W_f with 2 or 3 values, replaced whatever its value; sigma^2/tau^2 from 1e-3 to 100",
        {"is_always_filtered": False},
        "if the weight's own score decided whether it is replaced, as in Algorithm 1: the mask alone tells up to 1 bit",
    ),
    Claim(
        "T1",
        "proof",
        r"I(w';W_f) \le \log(1+\sigma^2/\tau^2),\quad w'=W_f+N(0,\sigma^2),\ \mathrm{Var}\,W_f\le\tau^2",
        cases.noisy_weight_printed,
        "Gaussian W_f in closed form, three discrete W_f by quadrature; sigma^2/tau^2 from 1e-3 to 100",
        {"smallest_ratio": cases.GOLDEN},
        "if the noise had at least 0.618 (1 / golden ratio) of the weights' variance",
    ),
    Claim(
        "T1",
        "nearest_true",
        r"I(W_f;W_f+N(0,\sigma^2)) \le \tfrac12\log(1+\tau^2/\sigma^2)",
        cases.noisy_weight_true,
        "the same weights and ratios; equality for the Gaussian",
        {"power": 4.0},
        "if weights of second moment 4 tau^2 were let in",
        "capacity of the Gaussian channel: Shannon 1948; Cover and Thomas 2006, Theorem 9.1.1",
    ),
    Claim(
        "T2",
        "printed",
        r"\text{WP is}\ (\varepsilon,\delta)\text{-DP},\ \varepsilon=\log\!\left(1+\tfrac{\lambda\max I}"
        r"{\min(\tau_l,\tau_h-\tau_l)}\right),\ \delta=\Pr[I\ge\tau_h]",
        cases.pruned_neighbours,
        "Algorithm 2 run on every pair of neighbouring data sets of 1 to 3 images, 2 weights, gradients in {1, 2, 3}",
        {"noise_std": 1.0},
        "if noise of standard deviation 1 were added to the pruned weights",
    ),
    Claim(
        "T2",
        "proof",
        r"\text{the same with}\ \varepsilon=\lambda\,\Delta I/\min(\tau_l,\tau_h-\tau_l),\ \Delta I=\max I/|D|",
        partial(cases.pruned_neighbours, form="proof"),
        "the same pairs of data sets",
        {"noise_std": 1.0},
        "if noise of standard deviation 1 were added to the pruned weights",
    ),
    Claim(
        "T2",
        "nearest_true",
        r"w'+N(0,s^2)\ \text{is}\ (\varepsilon,\delta)\text{-DP for}\ \delta \ge \Phi(\tfrac{\Delta}{2s}-"
        r"\tfrac{\varepsilon s}{\Delta})-e^\varepsilon\Phi(-\tfrac{\Delta}{2s}-\tfrac{\varepsilon s}{\Delta})",
        cases.noisy_pruning,
        "hockey-stick divergence of noisy pruned weights summed on a grid, for pairs of images, against the formula",
        {"claimed_share": 0.5},
        "if the sensitivity were understated by half",
        "definition of differential privacy: Dwork and Roth 2014; Gaussian mechanism: Balle and Wang 2018, Theorem 8",
    ),
    Claim(
        "T3",
        "printed",
        r"\max_x\|f_{w'}(x)-f_{w_0}(x)\|_2 \le \varepsilon\sqrt{\sum_{W_j}S(w)^2},\quad S=|\partial L/\partial w|",
        cases.clamped_weights,
        "f = w.x with 1 to 3 weights on all sign patterns x, zeroed, then every corner of the clamp",
        {"slope": "output", "start": "modified", "norm": 1},
        "if S were the output's slope, the change counted from the modified weights and slopes summed without squares",
    ),
    Claim(
        "T3",
        "proof",
        r"\max_x\|f_{w'}(x)-f_{w_{mod}}(x)\|_2 \le \varepsilon\sqrt{\sum_{W_j}S(w)^2},\quad "
        r"S=\max_x|\partial f/\partial w|",
        partial(cases.clamped_weights, slope="output", start="modified"),
        "the same weights, the output's slope, counted from the modified weights: all that the clamp can give",
        {"norm": 1},
        "if the slopes were summed without squares: a clamp of each weight goes with the 1-norm",
    ),
    Claim(
        "T3",
        "nearest_true",
        r"\|f_{w'}(x)-f_{w_0}(x)\| \le \sum_i |w'_i-w_{0,i}|\,\sup_{t\in[0,1]}\|\partial_i f_{w_t}(x)\|",
        cases.mean_value,
        "linear f (equality) and 2000 random f = a tanh(b x) with slopes bounded in closed form",
        {"is_sup_over_path": False},
        "if the slope were taken at w0 only, as a first-order expansion does",
        "mean value inequality: Rudin 1976, Theorem 5.19",
    ),
    Claim(
        "T4",
        "printed",
        r"\Pr\bigl[\sup_x|f^j_{w'}(x)-f^j_{never}(x)|>\gamma\bigr] \le \delta,\ \gamma=\sum_{W_j}|w|I+"
        r"\varepsilon\sqrt{\sum S^2},\ \delta\ \text{by McDiarmid}",
        cases.retrain_distance,
        "one shared weight, retrained in closed form on n = 1 to 200 images, binomial probabilities exact",
        {"is_centred": True},
        "if gamma were counted from the mean distance, which is all that McDiarmid's inequality bounds",
    ),
    Claim(
        "T4",
        "proof",
        r"\text{the same for one fixed}\ x",
        partial(cases.retrain_distance, reach=0.5),
        "the same at x = 1/2, where one image changes the distance by 1/(2n) at most",
        {"is_centred": True},
        "if gamma were counted from the mean distance",
    ),
    Claim(
        "T4",
        "nearest_true",
        r"\Pr[Z\ge\mathbb E Z+t]\le\exp(-2t^2/\sum c_i^2),\quad Z=\sup_x|f^j_{w'}-f^j_{never}|",
        cases.concentration,
        "500 random functions Z of 1 to 5 independent bits with their exact c_i, every threshold; one unfair bit",
        {"is_mean_added": False},
        "if the mean of Z were left out, as T4 does",
        "McDiarmid 1989",
    ),
    Claim(
        "T5",
        "printed",
        r"I(f;A_j)\le H(p)",
        cases.attack_entropy,
        _T5_SEARCH,
        {"highest_success": 0.82},
        "if no attack succeeded with more than 0.82: below 0.83 even the most telling channel has I <= 2 p - 1 < H(p)",
    ),
    Claim(
        "T5",
        "proof",
        r"I(f;A_j)\le 1-H(p)",
        cases.attack_capacity,
        _T5_SEARCH,
        {"is_symmetric": True},
        "if f erred alike on both values of A: then it is an equality",
    ),
    Claim(
        "T5",
        "nearest_true",
        r"H(A_j)-H(p)\le I(f;A_j)\le H(A_j)-2(1-p^*),\quad p^*\ \text{the best attack's}",
        cases.attack_interval,
        "every channel (2 outputs, 1/6; 3 outputs, 1/4), A with 0.5, 0.369 or 0.2 of ones, every attack of 3 levels",
        {"is_best_attack": False},
        "if the upper bound were asked of weaker attacks: one that fails proves nothing",
        "Fano 1961; Hellman and Raviv 1970",
    ),
    *_corollary("C1", cases.PRINTED_SUCCESS["C1"], cases.PRINTED_BITS["C1"]),
    *_corollary("C2", cases.PRINTED_SUCCESS["C2"], cases.PRINTED_BITS["C2"]),
    Claim(
        "T6",
        "printed",
        r"\mathrm{PLR}\le\tfrac12+\tfrac12\sqrt{\mathrm{KL}(P_{in}\|P_{out})}",
        cases.membership_divergence,
        f"{_PAIRS}; factor of the advantage 2 PLR - 1",
        {"prior": 0.9},
        "if 9 of 10 of the attacked images were members: the answer 'member' succeeds at .9 without looking",
    ),
    Claim(
        "T6",
        "proof",
        r"\mathrm{PLR}\le\tfrac12+\tfrac12\sqrt{\tfrac12\mathrm{KL}(P_{in}\|P_{out})}",
        partial(cases.membership_divergence, constant=0.5),
        f"{_PAIRS}; factor of the advantage 2 PLR - 1",
        {"constant": 0.49},
        "if Pinsker's constant were any smaller than 1/2",
    ),
    Claim(
        "T6",
        "nearest_true",
        r"\mathrm{PLR}\le\tfrac12+\tfrac12\min\bigl(\sqrt{\mathrm{KL}/2},\sqrt{1-e^{-\mathrm{KL}}}\bigr)",
        cases.membership_divergence_true,
        f"{_PAIRS}; factor of the advantage 2 PLR - 1",
        {"exponent": 0.5},
        "if the exponential held half of KL",
        "Pinsker: Cover and Thomas 2006, Lemma 11.6.1; Bretagnolle and Huber 1979",
    ),
    Claim(
        "C3",
        "printed",
        r"\mathrm{PLR}\le\tfrac12+\tfrac12\sqrt{1-e^{-2I(C_j)}}",
        cases.membership_information,
        f"{_PAIRS}; I of a balanced membership and the output C_j",
        {"measure": "half_kl"},
        "if KL(P_in || P_out) stood where 2 I stands",
    ),
    Claim(
        "C3",
        "proof",
        r"\mathrm{PLR}\le\tfrac12+\tfrac12\sqrt{1-e^{-\mathrm{KL}(P_{in}\|P_{out})}}",
        partial(cases.membership_information, measure="half_kl"),
        f"{_PAIRS}; the inequality of Bretagnolle and Huber that C3 is a case of",
        {"measure": "mutual_information"},
        "if 2 I stood where KL stands: 2 I is smaller",
    ),
    Claim(
        "C3",
        "nearest_true",
        r"\mathrm{PLR}\le\tfrac12+\tfrac12\sqrt{1-(1-I(C_j))^{2\ln 2}},\quad I\ \text{in bits}",
        cases.membership_information_true,
        f"{_PAIRS}; I in bits",
        {"exponent": 1.3},
        "if the exponent were 1.3 instead of 2 ln 2 = 1.386",
        "Topsoe 2001, Theorem 1.2, in Fano's inequality",
    ),
)


def claims_of(statement: str) -> dict[str, Claim]:
    """Return form -> claim of one statement.

    Raises:
        ValueError: no such statement.
    """
    if statement not in STATEMENTS:
        raise ValueError(f"unknown statement {statement!r}: {choices(statement, STATEMENTS)}")
    return {claim.form: claim for claim in CLAIMS if claim.statement == statement}


def verdict_table() -> pd.DataFrame:
    """Judge every claim and return one row each: statement, form, verdict, factor, counterexample, check."""
    rows = []
    for claim in CLAIMS:
        found = claim.verdict()
        rows.append(
            {
                "statement": claim.statement,
                "form": claim.form,
                "verdict": found.verdict,
                "factor": found.factor,
                "counterexample": found.counterexample,
                "check": f"{claim.check} ({found.num_cases} cases, {found.num_broken} against it)",
            }
        )
    return pd.DataFrame(rows)
