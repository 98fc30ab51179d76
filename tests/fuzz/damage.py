"""What the fuzz tests do to right things: bytes that are cut, flipped and spliced, JSON in which something stands elsewhere."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st


def examples(count: int) -> settings:
    """How many examples a test tries: ``count``, or FUZZ_TIMES as many (an environment variable, for long runs)."""
    times = int(os.environ.get("FUZZ_TIMES", "1"))
    # A machine that does other things as well is slow now and then, which says nothing about what is tested.
    return settings(max_examples=count * times, deadline=None, suppress_health_check=[HealthCheck.too_slow])


#: JSON that has nothing to do with anything, with the values at which readers stumble.
ODD: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from((0, -1, 1, 2**31, 2**53, 2**63, 2**64, 10**30, 0.5, 1e308))
    | st.sampled_from(("", "0", "-1", "٣", "AAAA", "A===", "\x00", "\ud800", "é", "0.0.1", "1e9", "9" * 25, "=" * 40))
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def damaged(whole: bytes) -> st.SearchStrategy[bytes]:
    """``whole`` with one to three things done to it."""

    @st.composite
    def build(draw: st.DrawFn) -> bytes:
        data = bytearray(whole)
        for _ in range(draw(st.integers(1, 3))):
            at = draw(st.integers(0, len(data)))
            match draw(st.sampled_from(("flip", "set", "cut", "end", "insert", "repeat"))):
                case "flip" if at < len(data):
                    data[at] ^= 1 << draw(st.integers(0, 7))
                case "set" if at < len(data):
                    data[at] = draw(st.sampled_from((0, 1, 0x7F, 0x80, 0x84, 0xFF)))
                case "cut":
                    del data[at : at + draw(st.integers(1, 40))]
                case "end":
                    del data[at:]
                case "insert":
                    data[at:at] = draw(st.binary(max_size=20))
                case _:
                    data[at:at] = data[at : at + draw(st.integers(1, 200))]
        return bytes(data)

    return build()


def altered(document: object, others: tuple[object, ...] = ()) -> st.SearchStrategy[Any]:
    """A copy of a JSON document with one to three places changed: removed, replaced, doubled, or one of ``others`` instead."""

    @st.composite
    def build(draw: st.DrawFn) -> Any:
        copy = json.loads(json.dumps(document))
        for _ in range(draw(st.integers(1, 3))):
            places = list(_places(copy))
            if not places:
                break
            node, key = places[draw(st.integers(0, len(places) - 1))]
            match draw(st.sampled_from(("remove", "replace", "other", "text", "move", "add"))):
                case "remove":
                    del node[key]
                case "other" if others:
                    node[key] = json.loads(json.dumps(others[draw(st.integers(0, len(others) - 1))]))
                case "text" if isinstance(node[key], str):
                    node[key] = draw(damaged(node[key].encode("utf-8", "surrogatepass"))).decode("utf-8", "replace")
                case "move":
                    other, where = places[draw(st.integers(0, len(places) - 1))]
                    node[key] = json.loads(json.dumps(other[where]))
                case "add" if isinstance(node[key], dict):
                    node[key][draw(st.text(max_size=4))] = draw(ODD)
                case "add" if isinstance(node[key], list):
                    node[key] = node[key] * draw(st.integers(2, 40))
                case _:
                    node[key] = draw(ODD)
        return copy

    return build()


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in a document."""
    keys: Iterable[Any] = node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    for key in keys:
        yield node, key
        yield from _places(node[key])
