"""Conditions in CEL: what holds, what does not, and what can never pass for true."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import EvidenceMalformed
from proxy.verify.conditions import Condition

PREDICATE: dict[str, Any] = {"a": {"b": 7, "list": ["x", "y"], "text": "https://builder"}, "none": None}


def check(text: str, predicate: object = PREDICATE) -> None:
    """Hold the condition against a statement with this predicate."""
    Condition(text).check({"predicate": predicate}, predicate)


@pytest.mark.parametrize(
    "text",
    [
        "true",
        "predicate.a.b == 7",
        "statement.predicate.a.b > 6",
        "predicate.a.text.startsWith('https://')",
        "'x' in predicate.a.list",
        "predicate.a.list.all(each, size(each) == 1)",
        "!has(predicate.missing)",
        "predicate.none == null",
    ],
)
def test_conditions_that_hold(text: str) -> None:
    """Fields, lists, macros, and asking whether something is there."""
    check(text)


@pytest.mark.parametrize(
    "text",
    [
        "false",
        "predicate.a.b == 8",
        "predicate.a.b",  # 7 is not true
        "predicate.a.text",
        "predicate.missing",
        "predicate.missing.deeper == 1",
        "predicate.a.b.c == 1",
        "predicate.a.b + 'x' == '7x'",
        "nowhere == 1",
        "1 / 0 == 1",
        "predicate.a.list[9] == 'x'",
    ],
)
def test_conditions_that_do_not_hold(text: str) -> None:
    """Whatever is not exactly true is a refusal that repeats the condition: other values, missing fields, errors."""
    with pytest.raises(EvidenceMalformed, match="does not meet"):
        check(text)


@pytest.mark.parametrize("text", ["", "1 +", "predicate.", "a b", "x" * 10_000])
def test_expressions_that_cannot_be_read(text: str) -> None:
    """A mistake of who wrote the rule, told when the configuration is read."""
    with pytest.raises(ValueError, match=r"CEL|characters"):
        Condition(text)


def test_a_statement_of_endless_values_is_refused() -> None:
    """The number of values that an expression may meet is bounded."""
    with pytest.raises(EvidenceMalformed, match="too many for a condition"):
        check("true", [0] * 600_000)


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=True) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(_json)
def test_no_statement_gets_past_a_condition_by_its_shape(predicate: object) -> None:
    """Whatever the predicate is: refused in our own words, or the field is really there and right."""
    try:
        check("predicate.level == 'gold'", predicate)
    except EvidenceMalformed as error:
        assert str(error).isascii()  # noqa: PT017 - both outcomes are of interest
    else:
        assert isinstance(predicate, dict)
        assert predicate["level"] == "gold"
