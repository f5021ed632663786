"""Messages about unknown names: complete, in order, with the nearest name and nothing far-fetched."""

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlu_utils import naming


def test_names_are_shown_in_the_order_given_and_sets_sorted():
    assert doctest.testmod(naming) == (0, 1)
    assert naming.choices("zzz", ["b", "a"]) == "choose one of b, a"
    assert naming.choices("zzz", {"b": 1, "a": 2}) == "choose one of b, a"
    assert naming.choices("zzz", {"b", "a"}) == "choose one of a, b"
    assert naming.choices("x", []) == "choose one of (none)"


def test_of_too_many_names_the_first_stand_for_all_but_the_nearest_is_found():
    names = [f"label {k:02}" for k in range(41)]
    assert naming.choices("zzz", names[:40]) == f"choose one of {', '.join(names[:40])}"
    assert naming.choices("label 4O", names) == (
        "choose one of label 00, label 01, label 02, label 03, label 04, ... (41 in all); did you mean 'label 40'?"
    )


@given(st.lists(st.text(min_size=3, max_size=20), min_size=1, max_size=10, unique=True), st.data())
def test_one_letter_too_many_is_always_understood(names, data):
    meant = data.draw(st.sampled_from(names))
    message = naming.choices(meant + "~", names)
    assert any(message.endswith(f"; did you mean {name!r}?") for name in names)
    if all(meant == name or not set(meant) & set(name) for name in names):
        assert message.endswith(f"; did you mean {meant!r}?")


@pytest.mark.parametrize("value", ["qqq", "", None, 7])
def test_nothing_is_proposed_for_what_is_like_none(value):
    assert "did you mean" not in naming.choices(value, ["orl", "digits"])
