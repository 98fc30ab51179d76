"""Readers with mistakes in them, which the fuzzers must find: else their silence about the others would mean nothing."""

from __future__ import annotations

import base64
import json

from proxy.errors import EvidenceMalformed
from proxy.verify.parsing import member, read_object, text, unbase64
from tests.fuzz.target import Target


def index_error(data: bytes) -> bool:
    """Breaks on an empty list that lies in JSON in base64 in JSON."""
    node = member(read_object(data, 16, "a thing"), "material", "it")
    inner = read_object(unbase64(text(node, "body", "it"), "its body"), 16, "a body")
    entries = inner.get("entries")
    if isinstance(entries, list):
        entries[0]
    return True


def slow(data: bytes) -> bool:
    """Takes a time that grows with the square of a run of spaces."""
    words = 0
    for at in range(len(data)):
        words += data[at:].lstrip(b" ") == b""
        for _ in range(4 * (len(data) - at) if data[at:].startswith(b"    ") else 0):
            words += 1
    return words > 0


def large(data: bytes) -> bool:
    """Takes memory that a number in the bytes asks for, and keeps it."""
    try:
        size = json.loads(data)["size"]
    except (ValueError, TypeError, LookupError) as error:
        raise EvidenceMalformed("has no size") from error
    if isinstance(size, int) and size >= 1 << 31:
        _KEPT.append(bytearray(min(size, 3 << 30)))
    return True


_KEPT: list[bytearray] = []

_BODY = base64.b64encode(json.dumps({"kind": "list", "entries": [1, 2]}).encode()).decode()
PLANTED = (
    Target("planted-exception", index_error, (EvidenceMalformed,), (json.dumps({"material": {"body": _BODY}}).encode(),)),
    Target("planted-time", slow, (EvidenceMalformed,), (b"        ",), longest=2 << 10, seconds=60),
    Target("planted-memory", large, (EvidenceMalformed,), (b'{"size": 1}',)),
)
