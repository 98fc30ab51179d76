"""Reading what strangers wrote."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import EvidenceMalformed
from proxy.verify.parsing import items, member, read_object, shown, text, unbase64


@given(st.text(max_size=400))
def test_shown_text_is_one_short_ascii_line(value: str) -> None:
    """Nothing in it can break a header, a log line or a page of reasons."""
    safe = shown(value)
    assert safe.isascii()
    assert safe.isprintable() or not safe
    assert len(safe) <= 160 * len("\\U0010ffff") + 3


def test_plain_text_is_shown_as_it_is() -> None:
    """A URL stays readable; what is too long ends in dots."""
    assert shown("https://slsa.dev/provenance/v1") == "https://slsa.dev/provenance/v1"
    assert shown("x" * 161) == "x" * 160 + "..."


@given(st.binary(max_size=100))
def test_base64_of_anything_is_read_back(data: bytes) -> None:
    """The canonical form is accepted."""
    assert unbase64(base64.b64encode(data).decode(), "it") == data


@given(st.text(max_size=40))
def test_only_the_canonical_form_is_read(value: str) -> None:
    """Whatever is accepted is exactly what encoding gives back."""
    try:
        decoded = unbase64(value, "it")
    except EvidenceMalformed:
        return
    assert base64.b64encode(decoded).decode() == value


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_an_object_or_malformed(body: bytes) -> None:
    """No other exception leaves the reader."""
    try:
        value = read_object(body, 8, "a payload")
    except EvidenceMalformed:
        return
    assert value == json.loads(body)


def test_members_have_their_types() -> None:
    """Object, text and list, each or a reason."""
    node: dict[str, object] = {"object": {"a": 1}, "text": "b", "list": [1, 2], "null": None}
    assert member(node, "object", "it") == {"a": 1}
    assert text(node, "text", "it") == "b"
    assert items(node, "list", "it", 2) == [1, 2]
    assert items(node, "null", "it", 2) == items(node, "absent", "it", 2) == ()
    for call in (
        lambda: member(node, "text", "it"),
        lambda: text(node, "object", "it"),
        lambda: items(node, "object", "it", 2),
        lambda: items(node, "list", "it", 1),
    ):
        with pytest.raises(EvidenceMalformed, match="has "):
            call()
