"""Requests against hand-written loops: the written form, the mask, and the two losses in float64."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from conftest import tiny_classes, tiny_table
from hypothesis import given, settings
from hypothesis import strategies as st

from mlu_utils.data.table import ImageTable
from mlu_utils.requests import KINDS, ForgetRequest, entry_losses, forget_loss, retain_loss

QUICK = settings(max_examples=60, deadline=None, derandomize=True, database=None)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="@,", exclude_categories=("Cs",)), min_size=1).filter(
    lambda name: name == name.strip()
)
IDS = st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=5).map(tuple)
WRITTEN = st.one_of(
    st.builds(ForgetRequest, st.sampled_from(["label", "class"]), NAMES),
    st.builds(ForgetRequest, st.sampled_from(["people", "images"]), st.just(""), IDS),
    st.builds(ForgetRequest, st.just("label"), st.lists(NAMES, min_size=2, max_size=4, unique=True).map(",".join)),
    st.builds(ForgetRequest, st.just("partial"), NAMES, IDS, st.booleans()),
)


@QUICK
@given(WRITTEN)
def test_written_form_is_read_back(request_):
    assert ForgetRequest.parse(str(request_)) == request_


def test_written_form_of_a_label_with_an_at_sign():
    request = ForgetRequest("partial", "brow@left", (1, 2))
    assert ForgetRequest.parse(str(request)) == request


@QUICK
@given(st.text(max_size=30))
def test_any_text_is_a_request_or_a_value_error_that_shows_the_forms(text):
    try:
        assert ForgetRequest.parse(text).kind in KINDS
    except ValueError as error:
        assert "write label:Male, class:3, people:1,2" in str(error)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Male", "unknown request kind 'Male': write label:Male, class:3"),
        ("identity:3", "unknown request kind 'identity'"),
        ("", "unknown request kind ''"),
        ("label:", "a label request needs a name"),
        ("class: ", "a class request needs a name"),
        ("label:Male,", "the labels of label:Male, must be distinct and none empty"),
        ("label:Male, Male", "the labels of label:Male, Male must be distinct"),
        ("partial:Male@images:", "a partial request needs at least one number"),
        ("partial:Male@images:x", "cannot read the numbers of request 'partial:Male@images:x'"),
        ("partial:@1", "a partial request needs a name"),
        ("partial:Male", "a partial request needs at least one number"),
        ("people:", "a people request needs at least one number"),
        ("images:", "a images request needs at least one number"),
        ("people:Anna", "cannot read the numbers of request 'people:Anna'"),
        ("images:1,", "cannot read the numbers of request 'images:1,'"),
        ("partial:Male@1.5", "cannot read the numbers of request 'partial:Male@1.5'"),
    ],
)
def test_bad_text_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        ForgetRequest.parse(text)


def mask_by_hand(request: ForgetRequest, table: ImageTable) -> list[list[bool]]:
    """Decide each entry on its own."""
    wanted = []
    for n in range(table.num_images):
        row = []
        for label in table.label_names:
            person = int(table.identity[n])
            row.append(
                {
                    "label": label in request.name.split(","),
                    "class": table.class_names != () and table.class_names[int(table.labels[n, 0])] == request.name,
                    "people": person in request.ids,
                    "images": n in request.ids,
                    "partial": label in request.name.split(",")
                    and (n if request.is_of_images else person) in request.ids,
                }[request.kind]
            )
        wanted.append(row)
    return wanted


MULTI_LABEL = [
    "label:label0",
    "label:label2",
    "people:1",
    "people:0,5,3",
    "images:0",
    "images:23,1,4",
    "partial:label1@2",
    "partial:label2@5,0",
    "label:label0,label2",
    "partial:label1,label0@2,3",
    "partial:label1@images:0,4",
    "partial:label1,label2@images:9",
]
SINGLE_LABEL = ["class:0", "class:2", "people:2,4", "images:5,8", "partial:class@1"]


@pytest.mark.parametrize("text", MULTI_LABEL)
def test_multi_label_masks(text):
    table, request = tiny_table(), ForgetRequest.parse(text)
    mask = request.mask(table)
    assert mask.dtype == torch.bool
    assert mask.tolist() == mask_by_hand(request, table)


@pytest.mark.parametrize("text", SINGLE_LABEL)
def test_single_label_masks(text):
    table, request = tiny_classes(), ForgetRequest.parse(text)
    assert request.mask(table).tolist() == mask_by_hand(request, table)


def test_every_kind_is_covered():
    assert {text.split(":")[0] for text in MULTI_LABEL + SINGLE_LABEL} == set(KINDS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label:Smiling", "unknown label 'Smiling': choose one of label0, label1, label2"),
        ("label:lable1", "did you mean 'label1'"),
        ("partial:nose@1", "unknown label 'nose'"),
        ("class:3", "tiny has labels, not classes: ask for label:label0"),
        ("people:77", r"request people:77: no images of \[77\]; tiny has people 0..5"),
        ("people:1,9,8", r"no images of \[8, 9\]"),
        ("partial:label0@-1", r"no images of \[-1\]"),
        ("partial:label0@images:24", "request partial:label0@images:24: images are numbered 0..23"),
        ("label:label0,label3", "unknown label 'label3'"),
        ("label:label0,label1,label2", "forgets everything"),
        ("images:24", "request images:24: images are numbered 0..23"),
        ("images:-1", "images are numbered 0..23"),
        (
            "images:2",
            "request images:2 forgets nothing: no known training entry of tiny matches",
        ),  # validation
        ("people:0,1,2,3,4,5", "forgets everything: no training entry of tiny is left"),
    ],
)
def test_requests_that_a_multi_label_table_cannot_serve(text, message):
    with pytest.raises(ValueError, match=message):
        ForgetRequest.parse(text).mask(tiny_table())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label:class", "request label:class: tiny classes is single-label; ask for class:0"),
        ("class:7", "unknown class '7': choose one of 0, 1, 2, 3"),
        ("class:1", "request class:1 forgets nothing"),  # no training image of it
    ],
)
def test_requests_that_a_single_label_table_cannot_serve(text, message):
    with pytest.raises(ValueError, match=message):
        ForgetRequest.parse(text).mask(tiny_classes())


def test_people_nobody_knows():
    table = replace(tiny_table(), identity=torch.full((24,), -1))
    with pytest.raises(ValueError, match=r"no images of \[-1\]; tiny has no identities"):
        ForgetRequest.parse("people:-1").mask(table)


def test_unknown_entries_do_not_count_as_something_to_forget_or_to_keep():
    table = tiny_table()
    labels = table.labels.clone()
    labels[:, 0] = torch.nan
    with pytest.raises(ValueError, match="label:label0 forgets nothing"):
        ForgetRequest.parse("label:label0").mask(replace(table, labels=labels))
    labels = torch.full_like(table.labels, torch.nan)
    labels[:, 0] = table.labels[:, 0]
    with pytest.raises(ValueError, match="label:label0 forgets everything"):
        ForgetRequest.parse("label:label0").mask(replace(table, labels=labels))


@pytest.mark.parametrize("text", ["people:99999999999999999999", "images:99999999999999999999"])
def test_numbers_beyond_int64(text):
    with pytest.raises(ValueError, match="99999999999999999999"):
        ForgetRequest.parse(text).mask(tiny_table())


def loss_by_hand(logits: list, labels: list, mask: list, *, is_class: bool, wants: bool) -> tuple[float, int]:
    """Return mean loss over the known entries whose mask equals `wants`, and their number."""
    total, count = 0.0, 0
    for z, y, m in zip(logits, labels, mask, strict=True):
        for k in range(len(y)):
            if m[k] is not wants or math.isnan(y[k]):
                continue
            if is_class:
                total += math.log(sum(math.exp(v) for v in z)) - z[y[0]]
            else:
                s = 1 / (1 + math.exp(-z[k]))
                total -= y[k] * math.log(s) + (1 - y[k]) * math.log(1 - s)
            count += 1
    return (total / count if count else 0.0), count


@st.composite
def batches(draw):
    """Logits, labels with unknown entries or classes, and any mask."""
    n, k, is_class = draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.booleans())
    value = st.floats(-8, 8)
    logits = draw(st.lists(st.lists(value, min_size=k, max_size=k), min_size=n, max_size=n))
    entry = st.integers(0, k - 1) if is_class else st.sampled_from([0.0, 1.0, math.nan])
    width = 1 if is_class else k
    labels = draw(st.lists(st.lists(entry, min_size=width, max_size=width), min_size=n, max_size=n))
    mask = draw(st.lists(st.lists(st.booleans(), min_size=width, max_size=width), min_size=n, max_size=n))
    return logits, labels, mask, is_class


@QUICK
@given(batches())
def test_losses_are_the_means_by_hand_and_partition_the_plain_mean(batch):
    logits, labels, mask, is_class = batch
    z = torch.tensor(logits, dtype=torch.float64)
    y = torch.tensor(labels, dtype=torch.int64 if is_class else torch.float32)
    m = torch.tensor(mask)
    forget, num_forget = loss_by_hand(logits, labels, mask, is_class=is_class, wants=True)
    retain, num_retain = loss_by_hand(logits, labels, mask, is_class=is_class, wants=False)
    ours = forget_loss(z, y, m), retain_loss(z, y, m)
    assert ours[0].dtype == torch.float64
    assert float(ours[0]) == pytest.approx(forget, rel=1e-9, abs=1e-12)
    assert float(ours[1]) == pytest.approx(retain, rel=1e-9, abs=1e-12)
    losses, known = entry_losses(z, y)
    if known.any():
        whole = (num_forget * ours[0] + num_retain * ours[1]) / (num_forget + num_retain)
        assert float(whole) == pytest.approx(float(losses[known].mean()), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("is_class", [False, True])
@pytest.mark.parametrize(("loss", "value"), [(forget_loss, False), (retain_loss, True)])
def test_a_batch_without_entries_gives_zero_and_a_gradient_of_zero(loss, value, is_class):
    logits = torch.randn(4, 3, requires_grad=True)
    labels = torch.tensor([[0], [1], [2], [0]]) if is_class else torch.ones(4, 3)
    result = loss(logits, labels, torch.full(labels.shape, value))
    result.backward()
    assert float(result.detach()) == 0
    assert torch.equal(logits.grad, torch.zeros(4, 3))


def test_unknown_entries_get_no_gradient():
    logits = torch.randn(2, 2, requires_grad=True)
    labels = torch.tensor([[1.0, torch.nan], [torch.nan, 0.0]])
    retain_loss(logits, labels, torch.zeros(2, 2, dtype=torch.bool)).backward()
    assert torch.equal(logits.grad != 0, ~labels.isnan())


def test_half_precision_logits_are_scored_in_float32():
    logits = torch.randn(3, 2).bfloat16()
    losses, _ = entry_losses(logits, torch.ones(3, 2))
    assert losses.dtype == torch.float32
