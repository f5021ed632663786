"""Unlearning: one contract for all methods, those of other packages too, then every step of WF and WP by hand."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import TinyNet, same_bits, tiny_classes, tiny_model, tiny_table, tiny_task
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from mlu_utils import devices, models
from mlu_utils.data.batches import normalise
from mlu_utils.models import build_model, copy_of
from mlu_utils.requests import KINDS, ForgetRequest, retain_loss
from mlu_utils.training import NonFiniteLossError, fit, predict, predict_logits
from mlu_utils.unlearning import METHODS, READINGS, curvature, importance, selection, unlearn
from mlu_utils.unlearning import weight_filtering as wf
from mlu_utils.unlearning import weight_pruning as wp
from mlu_utils.unlearning.constrained_finetune import constrained_finetune
from mlu_utils.unlearning.influence import image_influence, most_influential
from mlu_utils.unlearning.task import Task

QUICK = settings(max_examples=60, deadline=None, derandomize=True, database=None)

# Hyperparameters under which every method does something to a network of 126 weights, quickly. A method of another
# package runs with its defaults.
SMALL = {
    "Retrain": {"num_epochs": 2, "batch_size": 5},
    "HeadReset": {},
    "FT": {"num_epochs": 1, "batch_size": 5},
    "CF-k": {"k": 1, "batch_size": 5},
    "EU-k": {"k": 1, "num_epochs": 2, "batch_size": 5},
    "NegGrad": {"num_epochs": 2, "learning_rate": 0.01, "batch_size": 5},
    "AdvNegGrad": {"batch_size": 5},
    "UNSIR": {"num_noise_images": 3, "noise_steps": 3, "batch_size": 5},
    "SCRUB": {"num_epochs": 2, "forget_batch_size": 3, "retain_batch_size": 5},
    "SalUn": {"num_epochs": 2, "batch_size": 5},
    "SSD": {"alpha": 1.0, "batch_size": 5},
    "LAF": {"num_epochs": 1, "batch_size": 5},
    "EssentialGraph": {"proportion": 0.5, "num_layers": 2, "balance": "none"},
    "WF": {"forget_share": 0.3, "tau": 1.0, "steps_per_round": 2},
    "WP": {"forget_share": 0.3, "num_rounds": 2, "steps_per_round": 2},
}
REQUESTS = [
    (tiny_table, "label:label1"),
    (tiny_table, "people:1,2"),
    (tiny_table, "images:0,1,4,9"),
    (tiny_table, "partial:label0@0,3"),
    (tiny_classes, "class:2"),
    (tiny_classes, "people:1,2"),
    (tiny_classes, "images:0,4,5"),
    (tiny_classes, "partial:class@1"),
]
CASES = [
    (name, reading, make_table, text)
    for name, method in METHODS.items()
    for reading in method.readings
    for make_table, text in REQUESTS
    if text.split(":")[0] in method.kinds
]
FIRST = {(name, reading): (make_table, text) for name, reading, make_table, text in reversed(CASES)}
EVERY_READING = pytest.mark.parametrize(("name", "reading"), list(FIRST))


@pytest.fixture(autouse=True)
def _known_architecture(monkeypatch):
    """Retrain builds the network anew, so the registry must know it."""
    monkeypatch.setitem(models.MODELS, "tiny", TinyNet)


def options_of(name, reading):
    return SMALL.get(name, {}) | ({"reading": reading} if reading != "-" else {})


def run(name, reading, model, table, request, *, seed=3):
    return unlearn(name, model, table, request, seed=seed, **options_of(name, reading))


# The contract


def test_the_contract_covers_every_method_reading_and_kind():
    own = [case for case in CASES if case[0] in SMALL]
    assert len(own) == 153  # HeadReset and graph 2; LAF 5; Retrain and nine baselines 8 each; WF and WP 4 x 8
    assert set(SMALL) <= set(METHODS)
    for name, method in METHODS.items():
        covered = {(reading, text.split(":")[0]) for n, reading, _, text in CASES if n == name}
        assert covered == {(reading, kind) for reading in method.readings for kind in method.kinds}
    assert {text.split(":")[0] for _, text in REQUESTS} == set(KINDS)


@pytest.mark.parametrize(("name", "reading", "make_table", "text"), CASES)
def test_contract(name, reading, make_table, text):
    table = make_table()
    model = tiny_model(table.num_outputs)
    unlearned, record = run(name, reading, model, table, text)

    assert same_bits(model, tiny_model(table.num_outputs)) and not model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert make_table().sha256 == replace(table).sha256
    assert unlearned is not model and type(unlearned) is type(model)
    assert not any(m.training for m in unlearned.modules())
    own = {p.data_ptr() for p in model.parameters()}
    assert not any(p.data_ptr() in own for p in unlearned.parameters())
    changed = sum(int((p != q).sum()) for p, q in zip(model.parameters(), unlearned.parameters(), strict=True))
    assert changed > 0
    assert all(value.isfinite().all() for value in unlearned.state_dict().values())
    assert record.method == name and record.request == text and record.seed == 3

    # One task served twice; neither the global generator nor the first run may matter.
    task = Task(model, table, text, seed=3)
    for global_seed in (98, 99):
        torch.manual_seed(global_seed)
        assert same_bits(unlearned, METHODS[name].function(task, **options_of(name, reading)))


@EVERY_READING
def test_a_model_in_train_mode_gives_the_same_result_and_stays_there(name, reading):
    make_table, text = FIRST[name, reading]
    table = make_table()
    model = tiny_model(table.num_outputs).train()
    expected, _ = run(name, reading, tiny_model(table.num_outputs), table, text)
    assert same_bits(run(name, reading, model, table, text)[0], expected)
    assert all(m.training for m in model.modules()) and same_bits(model, tiny_model(table.num_outputs))


@pytest.mark.parametrize("name", METHODS)
def test_a_method_takes_a_task_and_a_few_hyperparameters_with_defaults(name):
    method = METHODS[name]
    first, *others = inspect.signature(method.function).parameters.values()
    assert first.name == "task" and first.default is first.empty and len(others) < 15
    assert all(p.kind is p.KEYWORD_ONLY for p in others)  # so neither *args nor **kwargs
    assert not {"model", "table", "request", "mask", "seed", "precision", "device"} & {p.name for p in others}
    assert set(method.hyperparameters) == {p.name for p in others}
    assert all(default is not inspect.Parameter.empty for default in method.hyperparameters.values())
    assert all(default is not None or key == "augmentation" for key, default in method.hyperparameters.items())
    assert ("reading" in method.hyperparameters) == (method.readings != ("-",))
    assert method.display_name and method.paper and set(method.kinds) <= set(KINDS)


NUMBERS = [
    (name, key, value)
    for name in SMALL
    for key, default in METHODS[name].hyperparameters.items()
    if isinstance(default, int | float) and not isinstance(default, bool)
    for value in ([-1] if isinstance(default, int) else [-1.0, math.nan, math.inf])
]


@pytest.mark.parametrize(("name", "key", "value"), NUMBERS)
def test_a_number_out_of_range_is_refused(name, key, value):
    with pytest.raises(ValueError, match=f"got .*{value}"):
        request = "label:label1" if "label" in METHODS[name].kinds else "people:1,2"
        unlearn(name, tiny_model(), tiny_table(), request, **SMALL[name] | {key: value})


REFUSED = [(n, *r) for n, m in METHODS.items() for r in REQUESTS if r[1].split(":")[0] not in m.kinds]


@pytest.mark.parametrize(("name", "make_table", "text"), REFUSED)
def test_a_kind_that_a_method_does_not_take_is_refused_by_name(name, make_table, text):
    table, kind = make_table(), text.split(":")[0]
    with pytest.raises(ValueError, match=f"{name} has no form for {kind} requests: it takes {METHODS[name].kinds[0]}"):
        run(name, "-", tiny_model(table.num_outputs), table, text)


def test_the_refusals_are_covered():
    assert len([case for case in REFUSED if case[0] in SMALL]) == 15 and len(NUMBERS) > 120
    with pytest.raises(ValueError, match="head_reset has no form for people requests: a label or class has a row"):
        METHODS["HeadReset"].function(tiny_task("people:1"))


@EVERY_READING
def test_an_empty_and_a_whole_request_are_refused(name, reading):
    table = tiny_table()
    unknown = table.labels.clone()
    unknown[:, 1] = torch.nan
    only = torch.full_like(unknown, torch.nan)
    only[:, 1] = table.labels[:, 1]
    refusals = []
    if "label" in METHODS[name].kinds:
        refusals += [
            (replace(table, labels=unknown), "label:label1", "label:label1 forgets nothing"),
            (replace(table, labels=only), "label:label1", "label:label1 forgets everything"),
        ]
    if "people" in METHODS[name].kinds:
        refusals.append((table, "people:0,1,2,3,4,5", "forgets everything"))
    if "images" in METHODS[name].kinds:
        refusals.append((table, "images:2,3", "forgets nothing"))
    for bad, text, message in refusals:
        with pytest.raises(ValueError, match=message):
            run(name, reading, tiny_model(), bad, text)


# unlearn


def test_unknown_method_and_hyperparameter():
    model, table, request = tiny_model(), tiny_table(), ForgetRequest.parse("label:label1")
    with pytest.raises(ValueError, match="unknown method 'Retrian': choose one of Retrain, .*; did you mean 'Retrain'"):
        unlearn("Retrian", model, table, request)
    with pytest.raises(ValueError, match="WP has no hyperparameter forget_shares, zeta: it takes reading, "):
        unlearn("WP", model, table, request, zeta=1, forget_shares=0.1)
    with pytest.raises(ValueError, match="HeadReset has no hyperparameter alpha: it takes none"):
        unlearn("HeadReset", model, table, request, alpha=1)
    with pytest.raises(ValueError, match="unknown request kind 'Smiling': write label:Male, class:3"):
        unlearn("HeadReset", model, table, "Smiling")
    with pytest.raises(ValueError, match="unknown precision 'half': choose auto, fp32 or bf16"):
        unlearn("HeadReset", model, table, request, precision="half")


def test_the_record():
    model, table, request = tiny_model(), tiny_table(), ForgetRequest.parse("label:label1")
    ours, record = unlearn("WF", model, table, request, seed=5, tau=2.0, num_rounds=1)
    assert (record.method, record.request, record.seed) == ("WF", "label:label1", 5)
    assert record.hyperparameters == {"tau": 2.0, "num_rounds": 1}
    assert 0 < record.unlearning_time_s < 60 and record.peak_memory_mib > 10
    assert same_bits(ours, unlearn("WF", model, table, "label:label1", seed=5, tau=2.0, num_rounds=1)[0])


def test_precision_by_name():
    table = tiny_table()
    rough, fine, plain = (
        unlearn("FT", tiny_model(), table, "people:1", precision=p)[0] for p in ("bf16", "fp32", devices.FP32)
    )
    assert same_bits(fine, plain) and not same_bits(rough, fine)
    assert all(p.dtype == torch.float32 for p in rough.parameters())


def test_retrain_is_fit_with_the_mask():
    table, request = tiny_table(), ForgetRequest.parse("partial:label0@0,3")
    ours, _ = run("Retrain", "-", tiny_model(), table, request)
    theirs = build_model("tiny", 3, seed=3)
    fit(theirs, table, mask=request.mask(table), num_epochs=2, batch_size=5, seed=3)
    assert same_bits(ours, theirs)


# Selection


def rank_by_hand(values: np.ndarray, q: float) -> float:
    return float(np.sort(values)[max(1, math.ceil(q * len(values))) - 1])


@QUICK
@given(
    st.lists(st.sampled_from([0.0, 1.0, 2.0, 0.5, math.inf]) | st.floats(0, 1e6, width=32), min_size=1, max_size=40),
    st.floats(0, 1),
)
def test_quantile_of_few_values(values, q):
    values = np.array(values, np.float32)
    assert float(selection.quantile(torch.from_numpy(values), q)) == rank_by_hand(values, q)


def many_values(kind: str, n: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    if kind == "normal":
        return rng.normal(size=n).astype(np.float32)
    if kind == "mostly zero":
        return np.where(rng.random(n) < 0.97, 0, rng.random(n)).astype(np.float32)
    if kind == "few values":
        return rng.integers(0, 4, n).astype(np.float32)
    if kind == "infinite":
        return np.where(rng.random(n) < 0.3, np.inf, rng.lognormal(0, 6, n)).astype(np.float32)
    if kind == "sorted":
        return np.arange(n, dtype=np.float32)
    # Every (n // 50,000)-th value, which is what the sample sees, is 0; the others are not.
    values = 1 + rng.random(n).astype(np.float32)
    values[:: n // 50_000] = 0
    return values


@pytest.mark.parametrize("kind", ["normal", "mostly zero", "few values", "infinite", "sorted", "misleading"])
@pytest.mark.parametrize("n", [100_001, 163_840])
def test_quantile_of_many_values(kind, n):
    values = many_values(kind, n)
    ordered, tensor = np.sort(values), torch.from_numpy(values)
    for q in (0, 1e-6, 0.01, 0.25, 0.31, 0.5, 0.75, 0.98, 0.999, 1):
        assert float(selection.quantile(tensor, q)) == ordered[max(1, math.ceil(q * n)) - 1], q


def test_percentile_thresholds_are_numpys():
    values = np.random.default_rng(0).lognormal(size=1237).astype(np.float32)
    ours = selection.percentile_thresholds(torch.from_numpy(values))
    expected = np.percentile(values, [25, 50, 75], method="inverted_cdf")
    assert [ours.low, ours.middle, ours.high] == expected.tolist()
    exclusive = torch.cat([torch.full((2000,), torch.inf), torch.from_numpy(values)])
    assert selection.percentile_thresholds(exclusive) == ours  # they are above every threshold anyway
    assert selection.percentile_thresholds(exclusive[:5]) == selection.Thresholds(math.inf, math.inf, math.inf)


def test_relative_importance_by_hand():
    forget, retain = torch.tensor([1.0, 3.0, 0.0, 4.0, 0.0]), torch.tensor([2.0, 1.0, 5.0, 0.0, 0.0])
    ours = selection.relative_importance(forget, retain, damping=0.5)
    f, r = (np.array(x.tolist()) / np.mean(x.tolist()) for x in (forget, retain))
    expected = f / (r + 0.5)
    np.testing.assert_allclose(ours, expected, rtol=1e-6)
    assert ours[4] == 0  # serves nothing at all
    exclusive = torch.tensor([False, False, True, False, True])
    expected[[2, 4]] = np.inf  # nothing that is kept can use them, whatever was measured
    ours = selection.relative_importance(forget, retain, exclusive=exclusive, damping=0.5)
    np.testing.assert_allclose(ours, expected, rtol=1e-6)
    ours = selection.relative_importance(forget, retain, damping=0.5)
    torch.testing.assert_close(ours, selection.relative_importance(forget * 1e6, retain * 1e-6, damping=0.5))
    assert selection.relative_importance(torch.zeros(3), torch.zeros(3)).tolist() == [0, 0, 0]


def test_forget_set_by_hand():
    forget = torch.tensor([0.0, 5.0, 1.0, 0.0, 3.0, 2.0, 4.0, 0.0, 0.0, 0.0])
    chosen = selection.forget_set(forget, 0.2)
    assert torch.nonzero(chosen).flatten().tolist() == [1, 4, 6]  # from the value of rank 8 of 10 on
    assert torch.equal(selection.forget_set(forget, 1.0), forget > 0)
    assert torch.equal(selection.forget_set(forget, 0.9), forget > 0)  # influence 0 is never chosen


def test_targeted_forget_set_by_hand():
    forget = torch.tensor([0.0, 5.0, 1.0, 0.1, 3.0, 2.0, 4.0, 0.0, 0.0, 0.0])  # mean 1.51
    relative = torch.tensor([0.0, 0.1, 9.0, torch.inf, 7.0, 6.0, 8.0, 0.0, 0.0, 0.0])
    chosen = selection.forget_set(forget, 0.2, relative=relative)
    # Entry 2 is below the mean, entry 3 too but serves nothing else; ranks among the rest: 6, 4, 5, 1.
    assert torch.nonzero(chosen).flatten().tolist() == [3, 4, 5, 6]
    assert torch.nonzero(selection.forget_set(forget, 1.0, relative=relative)).flatten().tolist() == [
        1,
        3,
        4,
        5,
        6,
    ]


@pytest.mark.parametrize("share", [0, -0.1, 1.1])
def test_forget_share_out_of_range(share):
    with pytest.raises(ValueError, match=rf"forget_share must be in \(0, 1\], got {share}"):
        selection.forget_set(torch.ones(4), share)


def test_overlap_by_hand():
    assert selection.overlap(torch.tensor([1.0, 0, 2]), torch.tensor([2.0, 0, 4])) == pytest.approx(1)
    assert selection.overlap(torch.tensor([1.0, 0]), torch.tensor([0, 1.0])) == 0
    assert selection.overlap(torch.tensor([1.0, 1]), torch.tensor([1.0, 0])) == pytest.approx(0.5**0.5)


@QUICK
@given(st.lists(st.integers(0, 3), min_size=1, max_size=50), st.integers(0, 2**31))
def test_a_shuffled_choice_keeps_its_counts(choice, seed):
    choice = torch.tensor(choice, dtype=torch.int8)
    ours = selection.shuffled(choice, seed=seed)
    assert torch.equal(ours.sort().values, choice.sort().values)
    assert torch.equal(ours, selection.shuffled(choice, seed=seed))


def test_a_shuffled_choice_is_blind():
    choice = torch.zeros(4000, dtype=torch.bool)
    choice[:400] = True
    hits = [int((selection.shuffled(choice, seed=s) & choice).sum()) for s in range(20)]
    assert abs(np.mean(hits) - 40) < 5 * 6 / 20**0.5  # hypergeometric: mean 40, standard deviation 5.7


def test_calibration_rows():
    table = tiny_table(num_images=80)
    labels = table.labels.clone()
    labels[::8, 1] = torch.nan
    table = replace(table, labels=labels)
    task, other = (tiny_task("partial:label1@1,2,3,4,5,6", table=table, seed=s) for s in (0, 1))
    mask = task.mask
    options = {"num_forget_images": 3, "num_retain_images": 7}
    for split in ("train", "validation"):
        forget, retain = selection.calibration_rows(task, split=split, **options)
        assert len(forget) == 3 and len(retain) == 7
        for rows, entries in ((forget, mask), (retain, ~mask)):
            assert set(rows.tolist()) <= set(table.rows(split).tolist())
            assert len(rows.unique()) == len(rows) and torch.equal(rows, rows.sort().values)
            assert (entries & ~labels.isnan())[rows].any(1).all()
    retain, again, another = (selection.calibration_rows(t, **options)[1] for t in (task, task, other))
    assert torch.equal(again, retain) and not torch.equal(again, another)
    forget, _ = selection.calibration_rows(task, num_forget_images=10**6, num_retain_images=10**6)
    train = table.rows("train")
    assert torch.equal(forget, train[(mask & ~labels.isnan())[train].any(1)])


def test_calibration_rows_refused():
    task = tiny_task("images:0,1")
    for counts in ((0, 5), (5, 0)):
        with pytest.raises(ValueError, match="num_(forget|retain)_images must be finite and at least 1, got 0"):
            selection.calibration_rows(task, num_forget_images=counts[0], num_retain_images=counts[1])
    sizes = {"num_forget_images": 4, "num_retain_images": 4}
    with pytest.raises(ValueError, match="the validation split of tiny has nothing to forget for this request"):
        selection.calibration_rows(task, split="validation", **sizes)
    rows = ",".join(map(str, [0, *task.table.rows("validation").tolist()]))
    with pytest.raises(ValueError, match="the validation split of tiny has nothing to keep"):
        selection.calibration_rows(tiny_task(f"images:{rows}"), split="validation", **sizes)
    with pytest.raises(ValueError, match="unknown split 'tests'"):
        selection.calibration_rows(task, split="tests", **sizes)


# Steps of Weight Filtering


def test_composite_scores_by_hand():
    forget, retain = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([4.0, 0.0, 3.0])
    of_forget, of_retain = wf.composite_scores(forget, retain, forget_entries=0.25)
    torch.testing.assert_close(of_forget, torch.tensor([3.25 * 1, 0.5 * 2, 0]))
    torch.testing.assert_close(of_retain, torch.tensor([3.25 * 4, 0, 2.25 * 3]))


def test_adaptive_tau_is_more_cautious_with_overlap_and_grown_curvature():
    def tau(overlap=0.0, curvature=1.0, first=1.0):
        return wf.adaptive_tau(4.0, overlap=overlap, curvature=curvature, first_curvature=first)

    assert tau() == 4
    assert [tau(overlap=o) for o in (0, 0.5, 1)] == [4, 6, 8]
    assert [tau(curvature=c) for c in (0.01, 0.5, 0.75, 1.5, 2, 100)] == [2, 2, 3, 6, 8, 8]
    assert tau(curvature=3.0, first=0.0) == 4


def test_a_larger_tau_filters_less_in_every_reading():
    scores = torch.rand(500, generator=torch.Generator().manual_seed(0)) * 10
    chosen = torch.arange(500) % 3 == 0
    for reading in READINGS:
        counts = [int(wf.filtered_weights(scores, chosen, t, reading=reading).sum()) for t in (0.9, 1.1, 2, 5)]
        assert counts == sorted(counts, reverse=True) and counts[0] > counts[-1]


def test_filtered_weights_by_hand():
    scores = torch.tensor([1.0, 2.0, 3.0, 10.0, torch.inf, 0.1])
    chosen = torch.tensor([True, True, True, True, False, False])
    ours = wf.filtered_weights(scores, chosen, 2.0, reading="printed")  # mean of W_f is 4: below 4 / 2
    assert ours.tolist() == [True, False, False, False, False, False]
    ours = wf.filtered_weights(scores, chosen, 2.0, reading="targeted")
    assert ours.tolist() == [False, False, True, True, False, False]
    control = wf.filtered_weights(scores, chosen, 2.0, reading="random", seed=1)
    assert int(control.sum()) == 2
    picked = torch.stack([wf.filtered_weights(scores, chosen, 2.0, reading="random", seed=s) for s in range(60)])
    assert picked.any(0).all()  # also weights outside W_f
    with pytest.raises(ValueError, match="unknown reading 'inverse': choose one of printed, targeted, trunk, random"):
        wf.filtered_weights(scores, chosen, 2.0, reading="inverse")
    for tau in (0, -1.0):
        with pytest.raises(ValueError, match=f"tau must be positive, got {tau}"):
            wf.filtered_weights(scores, chosen, tau, reading="targeted")


def pick(model, share: float, seed: int = 1000) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(p.shape, generator=generator) < share for name, p in model.named_parameters()}


def test_filtering_sets_exactly_the_chosen_weights_to_zero(model):
    before, filtered = copy_of(model), pick(model, 0.3)
    del filtered["conv2.weight"]
    wf.filter_weights(model, filtered, seed=0)
    for name, p in model.named_parameters():
        chosen = filtered.get(name, torch.zeros_like(p, dtype=torch.bool))
        assert torch.equal(p.data, torch.where(chosen, 0, before.get_parameter(name).data))
        assert p.requires_grad


def test_filtering_to_noise():
    model = build_model("small_cnn", 3, seed=0)
    before, filtered = copy_of(model), pick(model, 0.5)
    wf.filter_weights(model, filtered, noise_std=0.2, seed=0)
    noise = []
    for name, p in model.named_parameters():
        chosen = filtered[name]
        assert torch.equal(p.data[~chosen], before.get_parameter(name).data[~chosen])
        noise.append(p.data[chosen])
    noise = torch.cat(noise)
    n = len(noise)
    assert n > 10_000 and len(noise.unique()) > 0.99 * n
    assert abs(float(noise.mean())) < 5 * 0.2 / n**0.5
    assert abs(float(noise.std()) - 0.2) < 5 * 0.2 / (2 * n) ** 0.5
    again = copy_of(before)
    wf.filter_weights(again, filtered, noise_std=0.2, seed=0)
    assert same_bits(again, copy_of(model))
    wf.filter_weights(again, filtered, noise_std=0.2, seed=1)
    assert not same_bits(again, copy_of(model))


# Steps of Weight Pruning


def test_pruning_importance_by_hand():
    generator = torch.Generator().manual_seed(0)
    s, h, w = (torch.rand(50, generator=generator, dtype=torch.float64) for _ in range(3))
    w -= 0.5
    before = s.clone(), h.clone(), w.clone()
    ours = wp.pruning_importance(s, h, w, alpha=0.3, beta=2.0)
    saliency = 0.5 * h * w**2
    torch.testing.assert_close(ours, 0.3 * s / s.mean() + 2.0 * saliency / saliency.mean())
    assert all(torch.equal(a, b) for a, b in zip(before, (s, h, w), strict=True))
    assert wp.pruning_importance(torch.zeros(4), torch.zeros(4), torch.ones(4), alpha=1, beta=1).tolist() == [0] * 4


ZONES = {"untouched": wp.UNTOUCHED, "zeroed": wp.ZEROED, "shrunk": wp.SHRUNK, "nudged": wp.NUDGED}


@pytest.mark.parametrize(
    ("reading", "expected"),
    [
        ("printed", ["zeroed", "shrunk", "shrunk", "nudged", "nudged", "untouched", "untouched"]),
        ("targeted", ["nudged", "shrunk", "shrunk", "zeroed", "zeroed", "untouched", "untouched"]),
    ],
)
def test_zones_by_hand(reading, expected):
    scores = torch.tensor([0.5, 1.0, 2.9, 3.0, torch.inf, 0.1, 9.0])  # low 1, high 3
    chosen = torch.tensor([True] * 5 + [False] * 2)
    zones = wp.assign_zones(scores, chosen, selection.Thresholds(1, 2, 3), reading=reading)
    assert zones.dtype == torch.int8 and zones.tolist() == [ZONES[name] for name in expected]
    assert [wp.ZONE_NAMES[z] for z in zones.tolist()] == expected


def test_random_zones_have_the_counts_of_the_targeted_ones():
    scores = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    chosen = scores > 0.4
    thresholds = selection.percentile_thresholds(scores[chosen])
    targeted, control, other = (
        wp.assign_zones(scores, chosen, thresholds, reading=r, seed=s)
        for r, s in (("targeted", 0), ("random", 0), ("random", 1))
    )
    assert torch.bincount(targeted).tolist() == torch.bincount(control).tolist() == torch.bincount(other).tolist()
    assert len({tuple(z.tolist()) for z in (targeted, control, other)}) == 3
    assert (control[~chosen] != wp.UNTOUCHED).any()
    with pytest.raises(ValueError, match="unknown reading 'blind'"):
        wp.assign_zones(scores, chosen, thresholds, reading="blind")


def test_a_quarter_is_zeroed_a_half_shrunk_a_quarter_nudged():
    scores = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    chosen = torch.ones(1000, dtype=torch.bool)
    for reading in READINGS:
        zones = wp.assign_zones(scores, chosen, selection.percentile_thresholds(scores), reading=reading)
        counts = torch.bincount(zones, minlength=4)
        assert counts[0] == 0 and (counts[1:] - torch.tensor([250, 500, 250])).abs().max() <= 2


def test_prune_weights_by_hand():
    weights = torch.tensor([1.0, -2.0, 3.0, -4.0, 5.0])
    zones = torch.tensor([wp.UNTOUCHED, wp.ZEROED, wp.SHRUNK, wp.SHRUNK, wp.NUDGED], dtype=torch.int8)
    scores, gradient = torch.tensor([9.0, 9.0, 0.5, 7.0, 9.0]), torch.tensor([8.0, 8.0, 8.0, 8.0, -2.0])
    ours = wp.prune_weights(weights, zones, scores, gradient, scale=2.0, decay=1.5, reduced_rate=0.1)
    expected = [1.0, 0.0, 3 * math.exp(-1.5 * 0.25), -4 * math.exp(-1.5), 5 + 0.2]
    torch.testing.assert_close(ours, torch.tensor(expected))
    assert weights.tolist() == [1, -2, 3, -4, 5]


def test_shrinking_at_an_infinite_scale_is_finite():
    """tau_h is infinite when a quarter of W_f is; the control shrinks any weight, also one of score inf."""
    zones = torch.tensor([wp.SHRUNK, wp.SHRUNK], dtype=torch.int8)
    scores = torch.tensor([torch.inf, 1.0])
    ours = wp.prune_weights(torch.ones(2), zones, scores, torch.ones(2), scale=math.inf, decay=1.0, reduced_rate=0.1)
    assert ours.isfinite().all()


@pytest.mark.parametrize("name", ["WF", "WP"])
def test_a_forget_set_without_weights_is_said(name):
    """A logit so sure of itself that its loss has no gradient any more."""
    table, model = tiny_table(), tiny_model()
    labels = table.labels.clone()
    labels[:, 1] = 1
    with torch.no_grad():
        model.fc.bias[1] = 1000
    request = ForgetRequest.parse("label:label1")
    table = replace(table, labels=labels)
    with pytest.raises(ValueError, match="no weight"):
        unlearn(name, model, table, request, reading="printed")
    # Targeted needs no gradient to know whose row of the head it is.
    unlearned, _ = unlearn(name, model, table, request, reading="targeted")
    assert not unlearned.fc.weight[1].any() and unlearned.fc.bias[1] == 0


def test_the_share_adapts():
    options = {"first_loss": 1.0, "tolerance": 0.05}
    assert wp.next_share(0.1, loss=1.05, **options) == 0.2
    assert wp.next_share(0.1, loss=0.3, **options) == 0.2
    assert wp.next_share(0.1, loss=1.06, **options) == 0.05
    assert wp.next_share(0.7, loss=1.0, **options) == 1.0
    assert wp.next_share(0.1, loss=math.nan, **options) == 0.05


def test_weights_are_read_and_written_in_one_order(model):
    flat = importance.flat_weights(model)
    by_name = importance.unflatten(flat, dict(model.named_parameters()))
    assert all(torch.equal(by_name[name], p) for name, p in model.named_parameters()) and not flat.requires_grad
    copy_ = copy_of(model)
    wp.write_weights(copy_, torch.zeros_like(flat))
    assert not importance.flat_weights(copy_).any() and importance.flat_weights(model).any()
    wp.write_weights(copy_, flat)
    assert same_bits(copy_, model)
    flat.zero_()  # a copy, not a view
    assert importance.flat_weights(model).any()


# Constrained fine-tuning


def finetuned(model, *, table=None, text="label:label1", share=0.5, **options):
    """Return a fine-tuned copy, the choice of modified weights, and the losses."""
    ours, modified = copy_of(model), pick(model, share)
    options = {"num_steps": 4, "epsilon": 0.01, "learning_rate": 0.5, "batch_size": 5} | options
    losses = constrained_finetune(tiny_task(text, table=table, model=model), ours, modified, **options)
    return ours, modified, losses


@pytest.mark.parametrize("num_steps", [1, 2, 5])
@pytest.mark.parametrize("epsilon", [1e-4, 0.01])
def test_modified_weights_stay_within_epsilon_after_every_step(model, num_steps, epsilon):
    ours, modified, losses = finetuned(model, num_steps=num_steps, epsilon=epsilon, learning_rate=2.0)
    assert len(losses) == num_steps
    at_the_bound = moved_further = 0
    for name, p in model.named_parameters():
        q = ours.get_parameter(name)
        chosen = modified[name]
        assert (q >= p - epsilon)[chosen].all() and (q <= p + epsilon)[chosen].all()
        at_the_bound += int(((q == p - epsilon) | (q == p + epsilon))[chosen].sum())
        moved_further += int(((q - p).abs() > 2 * epsilon)[~chosen].sum())
    assert at_the_bound > 5 and moved_further > 5  # the clamp binds, and the others are free


def test_without_modified_weights_it_is_plain_sgd(model):
    table = tiny_table()
    mask = ForgetRequest.parse("label:label1").mask(table)
    ours, _, losses = finetuned(model, share=0.0, num_steps=5)
    theirs = copy_of(model)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.5, momentum=0.9, fused=True)
    generator, expected = torch.Generator().manual_seed(0), []
    rows = table.rows("train")
    while len(expected) < 5:
        for batch in rows[torch.randperm(len(rows), generator=generator)].split(5):
            images = network_input(table, batch)
            loss = retain_loss(theirs(images), table.labels[batch], mask[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            expected.append(float(loss.detach()))
            if len(expected) == 5:
                break
    assert same_bits(ours, theirs) and losses == expected


def network_input(table, rows):
    return normalise(table.images[rows]).to(memory_format=torch.channels_last)


def test_epsilon_zero_keeps_modified_weights_exactly(model):
    ours, modified, _ = finetuned(model, epsilon=0)
    moved = 0
    for name, p in model.named_parameters():
        assert torch.equal(ours.get_parameter(name)[modified[name]], p[modified[name]])
        moved += int((ours.get_parameter(name) != p)[~modified[name]].sum())
    assert moved > 0


def test_batchnorm_statistics_never_move(model):
    ours, _, _ = finetuned(model)
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, dict(ours.named_buffers())[name])
    assert not ours.training


@pytest.mark.parametrize("text", ["label:label1", "people:1,2", "images:0,1,4,9", "partial:label0@0,3"])
def test_no_gradient_comes_from_forgotten_entries(model, text):
    table = tiny_table()
    mask = ForgetRequest.parse(text).mask(table)
    flipped = replace(table, labels=torch.where(mask, 1 - table.labels, table.labels))
    ours, _, losses = finetuned(model, table=table, text=text)
    theirs, _, their_losses = finetuned(model, table=flipped, text=text)
    assert same_bits(ours, theirs) and losses == their_losses
    other = replace(table, labels=torch.where(mask, table.labels, 1 - table.labels))
    assert not same_bits(ours, finetuned(model, table=other, text=text)[0])


def test_the_head_row_of_a_forgotten_label_does_not_move(model):
    ours, _, _ = finetuned(model, share=0.0)
    assert torch.equal(ours.fc.weight[1], model.fc.weight[1]) and torch.equal(ours.fc.bias[1], model.fc.bias[1])
    assert not torch.equal(ours.fc.weight[0], model.fc.weight[0])


def test_no_steps_change_nothing(model):
    ours, _, losses = finetuned(model, num_steps=0)
    assert losses == [] and same_bits(ours, model)


def test_divergence_puts_the_weights_back(model):
    ours = copy_of(model)
    options = {"num_steps": 6, "epsilon": 0.01, "learning_rate": 1e30, "batch_size": 5}
    with pytest.raises(NonFiniteLossError, match=r"fine-tuning diverged.*learning_rate 1e\+30.*smaller learning rate"):
        constrained_finetune(tiny_task(model=model), ours, pick(model, 0.2), **options)
    assert same_bits(ours, model) and not ours.training


def test_finetuning_refuses(model):
    with pytest.raises(ValueError, match="epsilon must be finite and at least 0, got -0.1"):
        finetuned(model, epsilon=-0.1)
    with pytest.raises(ValueError, match="num_steps must be finite and at least 0, got -1"):
        finetuned(model, num_steps=-1)


# Whole methods


@pytest.mark.parametrize("name", ["WF", "WP"])
@pytest.mark.parametrize("label", [0, 1, 2])
def test_targeted_silences_the_label_and_printed_does_not(name, label):
    table, model = tiny_table(num_images=80), tiny_model()
    fit(model, table, num_epochs=5, batch_size=8, learning_rate=0.05, seed=0)
    request = ForgetRequest.parse(f"label:label{label}")
    options = SMALL[name] | ({"tau": 4.0} if name == "WF" else {})
    targeted, _ = unlearn(name, model, table, request, seed=3, reading="targeted", **options)
    assert not targeted.fc.weight[label].any() and targeted.fc.bias[label] == 0
    assert all(targeted.fc.weight[k].any() for k in range(3) if k != label)
    rows = table.rows("test")
    labels = table.labels[rows, label].numpy()
    logits = predict_logits(targeted, table, rows)[:, label].numpy()
    assert (logits[labels == 1] > 0).mean() == 0  # recall
    assert roc_auc_score(labels, logits) == 0.5
    for reading in ("printed", "trunk", "random"):
        other, _ = unlearn(name, model, table, request, seed=3, reading=reading, **options)
        assert other.fc.weight[label].any()
        assert roc_auc_score(labels, predict_logits(other, table, rows)[:, label].numpy()) != 0.5


@pytest.mark.parametrize(("name", "count"), [("WF", "num_calibration_images"), ("WP", "num_forget_images")])
def test_targeted_also_silences_features_that_sleep_on_the_calibration_images(name, count):
    """The label's logit comes back on other images through such a feature."""
    table, model = tiny_table(num_images=80), tiny_model()
    images = table.images.clone()
    images[table.split != 0] = 255 - images[table.split != 0]
    with torch.no_grad():  # every filter of conv2 sees the sign of what it would see on dark images
        model.conv2.weight[0] = -model.conv2.weight[0].abs()
        model.conv2.weight[0, 0] = 0.3
    table = replace(table, images=images)
    asleep = predict(model, table, table.rows("train"))[1][:, 0] == 0
    rows = table.rows("train")[asleep]
    assert len(rows) >= 8 and (predict(model, table, table.rows("test"))[1][:, 0] > 0).any()
    split = torch.full_like(table.split, 3)
    split[rows], split[table.rows("test")] = 0, 2
    table = table.with_split(split)
    options = {count: 64, "forget_share": 0.01, "steps_per_round": 0, "reading": "targeted"}
    unlearned, _ = unlearn(name, model, table, ForgetRequest.parse("label:label1"), seed=0, **options)
    assert not predict_logits(unlearned, table, rows)[:, 1].any()  # on the calibration images it is silent
    assert not predict_logits(unlearned, table, table.rows("test"))[:, 1].any()


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("text", ["label:label1", "people:1,2"])
def test_weight_pruning_is_its_steps_one_by_one(reading, text):
    task = tiny_task(text, seed=4)
    ours = wp.weight_pruning(
        task, reading=reading, forget_share=0.3, decay=0.7, reduced_rate=0.02, steps_per_round=3, epsilon=0.002
    )

    theirs = copy_of(task.model)
    forget_rows, retain_rows = selection.calibration_rows(task, num_forget_images=12, num_retain_images=24)
    options = {"alpha": 0.5, "beta": 0.5}
    forget = wp.pruning_scores(task, forget_rows, loss="forget", hessian="exact", **options)
    retain = wp.pruning_scores(task, retain_rows, loss="retain", hessian="squared_minibatch", **options)
    if reading == "printed":
        scores, relative = forget.importance, None
    else:
        exclusive = None if reading == "trunk" else selection.exclusive_weights(task)
        scores = relative = selection.relative_importance(forget.importance, retain.importance, exclusive=exclusive)
    last = selection.head_weights(task) & (reading == "trunk")
    chosen = selection.forget_set(torch.where(last, 0, forget.importance), 0.3, relative=relative)
    thresholds = selection.percentile_thresholds(scores[chosen])
    zones = wp.assign_zones(scores, chosen, thresholds, reading=reading, seed=4)
    pruned = wp.prune_weights(
        importance.flat_weights(theirs),
        zones,
        scores,
        retain.gradient,
        scale=thresholds.high,
        decay=0.7,
        reduced_rate=0.02,
    )
    wp.write_weights(theirs, pruned)
    modified = importance.unflatten(zones != wp.UNTOUCHED, dict(theirs.named_parameters()))
    constrained_finetune(task, theirs, modified, num_steps=3, epsilon=0.002)
    assert same_bits(ours, theirs)
    assert (zones != wp.UNTOUCHED).any() and not same_bits(ours, task.model)


@pytest.mark.parametrize("reading", READINGS)
def test_weight_filtering_is_its_steps_one_by_one(reading):
    task = tiny_task(seed=4)
    ours = wf.weight_filtering(
        task, reading=reading, forget_share=0.3, tau=1.5, num_rounds=1, steps_per_round=3, epsilon=0.002
    )

    theirs = copy_of(task.model)
    forget_rows, retain_rows = selection.calibration_rows(task, num_forget_images=64, num_retain_images=64)
    influential = most_influential(image_influence(task, forget_rows), forget_rows, 0.5)
    of_forget = wf.gradients_of(task, influential, loss="forget").mean_absolute
    of_retain = wf.gradients_of(task, retain_rows, loss="retain").mean_absolute
    forget, retain = wf.composite_scores(of_forget, of_retain, forget_entries=float(task.mask.float().mean()))
    exclusive = None if reading == "trunk" else selection.exclusive_weights(task)
    relative = None if reading == "printed" else selection.relative_importance(forget, retain, exclusive=exclusive)
    scores = forget if reading == "printed" else relative
    last = selection.head_weights(task) & (reading == "trunk")
    chosen = selection.forget_set(torch.where(last, 0, of_forget), 0.3, relative=relative)
    tau = wf.adaptive_tau(1.5, overlap=selection.overlap(of_forget, of_retain), curvature=1, first_curvature=1)
    filtered = wf.filtered_weights(scores, chosen, tau, reading=reading, seed=4)
    by_name = importance.unflatten(filtered, dict(theirs.named_parameters()))
    wf.filter_weights(theirs, by_name, seed=4)
    constrained_finetune(task, theirs, by_name, num_steps=3, epsilon=0.002)
    assert same_bits(ours, theirs)
    assert filtered.any() and not filtered.all()


@pytest.mark.parametrize("name", ["WF", "WP"])
@pytest.mark.parametrize("text", ["label:label1", "people:1,2"])
def test_the_trunk_reading_spares_the_last_layer(name, text):
    """Without fine-tuning only the trunk has changed; the targeted reading sets the head row of a label to 0."""
    table, model = tiny_table(), tiny_model()
    options = {"steps_per_round": 0, "num_rounds": 1, "forget_share": 0.3}
    made = {r: unlearn(name, model, table, text, seed=1, reading=r, **options)[0] for r in ("targeted", "trunk")}
    layers, before = {r: models.head(each) for r, each in made.items()}, models.head(model)
    assert torch.equal(layers["trunk"].weight, before.weight) and torch.equal(layers["trunk"].bias, before.bias)
    assert not same_bits(made["trunk"], model)
    if text.startswith("label"):
        assert not layers["targeted"].weight[1].any()
        assert predict_logits(made["trunk"], table, table.rows("test"))[:, 1].any()


@pytest.mark.parametrize("name", ["WF", "WP"])
@pytest.mark.parametrize("text", ["label:label1", "people:1,2"])
def test_the_random_control_changes_as_many_weights(name, text):
    """Without fine-tuning, decay and nudging, what differs from the original is what was set to 0."""
    table, model, request = tiny_table(), tiny_model(), ForgetRequest.parse(text)
    options = {"steps_per_round": 0, "num_rounds": 1, "forget_share": 0.3}
    options |= {"tau": 1.5} if name == "WF" else {"decay": 0.0, "reduced_rate": 0.0}
    results = {r: unlearn(name, model, table, request, reading=r, **options)[0] for r in ("targeted", "random")}
    zeros = {r: importance.flat_weights(m) == 0 for r, m in results.items()}
    assert int(zeros["targeted"].sum()) == int(zeros["random"].sum()) > 3
    assert not torch.equal(zeros["targeted"], zeros["random"])


@pytest.mark.parametrize("name", ["WF", "WP"])
def test_arguments_out_of_range(name):
    table, model, request = tiny_table(), tiny_model(), ForgetRequest.parse("label:label1")
    for options, message in (
        ({"reading": "both"}, "unknown reading 'both': choose one of printed, targeted, trunk, random"),
        ({"num_rounds": 0}, "num_rounds must be finite and at least 1, got 0"),
        ({"forget_share": 0}, r"forget_share must be in \(0, 1\], got 0"),
        ({"epsilon": -1}, "epsilon must be finite and at least 0, got -1"),
        ({"calibration_split": "unseen"}, "the unseen split of tiny has nothing to forget"),
    ):
        with pytest.raises(ValueError, match=message):
            unlearn(name, model, table, request, **options)
    assert same_bits(model, tiny_model())


@pytest.mark.parametrize("hessian", ["exact", "sampled", "squared_minibatch"])
def test_pruning_scores_are_made_of_their_parts(hessian):
    task = tiny_task("people:1,2", table=tiny_table(num_images=80), seed=2)
    rows = task.table.rows("train")
    ours = wp.pruning_scores(task, rows, loss="retain", alpha=0.4, beta=0.6, hessian=hessian)
    batch_size = wp.BATCH_SIZE if hessian == "squared_minibatch" else 64
    assert len(rows) > 2 * wp.BATCH_SIZE
    diagonal = curvature.diagonal_hessian(task, rows, loss="retain", method=hessian, batch_size=batch_size)
    statistics = importance.gradient_statistics(task, rows, loss="retain", batch_size=wp.BATCH_SIZE)
    sensitivity = statistics.mean_absolute
    if hessian != "squared_minibatch":
        sensitivity = curvature.image_statistics(task, rows, loss="retain").sensitivity
    weights = importance.flat_weights(task.model)
    expected = wp.pruning_importance(sensitivity, diagonal, weights, alpha=0.4, beta=0.6)
    torch.testing.assert_close(ours.importance, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours.gradient, statistics.mean, rtol=1e-3, atol=1e-6)
