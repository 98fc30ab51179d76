"""DER, as far as a timestamp needs it: definite lengths in their shortest form, tags of one byte (X.690).

Everything raises :class:`proxy.errors.EvidenceMalformed`; the caller has bounded the bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxy.errors import EvidenceMalformed

INTEGER, OCTETS, OID, GENERALIZED_TIME, SEQUENCE, SET, CONTEXT_0 = 0x02, 0x04, 0x06, 0x18, 0x30, 0x31, 0xA0
_MULTI_BYTE_TAG = 0x1F
_LONG = 0x80
_LONGEST_OID = 64


@dataclass(frozen=True, slots=True)
class Node:
    """One element: its tag, its content, and both with the length between them."""

    tag: int
    content: bytes
    whole: bytes

    def of(self, tag: int, what: str) -> Node:
        """The same, if it has this tag."""
        if self.tag != tag:
            raise EvidenceMalformed(f"has {what} that is not the DER that it should be")
        return self

    def oid(self) -> str:
        """The dotted form of an object identifier; empty for anything else."""
        if self.tag != OID or not 0 < len(self.content) <= _LONGEST_OID or self.content[-1] & _LONG:
            return ""
        arcs: list[int] = []
        value = 0
        for byte in self.content:
            value = value << 7 | byte & 0x7F
            if not byte & _LONG:
                arcs.append(value)
                value = 0
        first = min(arcs[0] // 40, 2)
        return ".".join(map(str, (first, arcs[0] - 40 * first, *arcs[1:])))


def only(data: bytes, tag: int, what: str) -> Node:
    """The one element that these bytes are, with this tag."""
    node = _read(data, 0, what)
    if len(node.whole) != len(data):
        raise EvidenceMalformed(f"has {what} with something behind it")
    return node.of(tag, what)


def children(node: Node, what: str, most: int, least: int = 1) -> list[Node]:
    """The elements in ``node``."""
    found: list[Node] = []
    at = 0
    while at < len(node.content):
        if len(found) == most:
            raise EvidenceMalformed(f"has {what} with too many parts")
        found.append(_read(node.content, at, what))
        at += len(found[-1].whole)
    if len(found) < least:
        raise EvidenceMalformed(f"has {what} with too few parts")
    return found


def encode(tag: int, content: bytes) -> bytes:
    """One element."""
    size = len(content)
    if size < _LONG:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, _LONG | len(length))) + length + content


def _read(data: bytes, at: int, what: str) -> Node:
    if len(data) - at < 2 or data[at] & _MULTI_BYTE_TAG == _MULTI_BYTE_TAG:
        raise EvidenceMalformed(f"has {what} that is not DER")
    size, start = data[at + 1], at + 2
    if size & _LONG:
        width = size & ~_LONG
        start += width
        size = int.from_bytes(data[at + 2 : start], "big")
        # Indefinite, oversized and padded lengths: one value has one form in DER.
        if not 1 <= width <= 4 or start > len(data) or size < _LONG or size >> (8 * (width - 1)) == 0:
            raise EvidenceMalformed(f"has {what} that is not DER")
    end = start + size
    if end > len(data):
        raise EvidenceMalformed(f"has {what} that ends too early")
    return Node(data[at], data[start:end], data[at:end])
