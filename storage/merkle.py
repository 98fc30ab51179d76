"""Merkle trees as RFC 6962 §2.1 defines them, over SHA-256: roots, inclusion and consistency proofs, and the check of both.

A *node* is ``(level, index)``: the root of the complete subtree over the ``2**level`` leaves from ``index * 2**level`` on. It
never changes once its last leaf is there, so a log keeps nodes and nothing else; the hash of any *span* of leaves that a proof
speaks of is made of a few of them. Pure: where the hashes come from is the caller's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TypeAlias

#: Bytes of a hash.
HASH_SIZE = 32
#: The root of the tree without leaves (RFC 6962 §2.1).
EMPTY_ROOT = sha256(b"").digest()
#: No proof is longer: sizes are below 2**63.
MAX_PROOF = 64

Node: TypeAlias = tuple[int, int]
Span: TypeAlias = tuple[int, int]


def leaf_hash(entry: bytes) -> bytes:
    """The hash of a leaf."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of two subtrees side by side."""
    return sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True, slots=True)
class Frontier:
    """Where a tree goes on: its largest complete subtrees from left to right. All that is needed to let it grow."""

    size: int = 0
    hashes: tuple[bytes, ...] = ()

    def root(self) -> bytes:
        """The root of the tree."""
        return folded(self.hashes) if self.hashes else EMPTY_ROOT

    def grown(self, leaf: bytes) -> tuple[Frontier, tuple[bytes, ...]]:
        """The frontier with one more leaf hash, and the nodes that this leaf completes, from itself upwards."""
        made = [leaf]
        rest = list(self.hashes)
        for _ in range(_trailing_zeros(self.size + 1)):
            made.append(node_hash(rest.pop(), made[-1]))
        return Frontier(self.size + 1, (*rest, made[-1])), tuple(made)


def last_leaf(node: Node) -> int:
    """The leaf that completes a node."""
    level, index = node
    return ((index + 1) << level) - 1


def nodes_of(span: Span) -> list[Node]:
    """The largest nodes that make up a span which begins where its largest may begin, as those of proofs and tiles do."""
    start, stop = span
    nodes: list[Node] = []
    while start < stop:
        level = (stop - start).bit_length() - 1
        nodes.append((level, start >> level))
        start += 1 << level
    return nodes


def folded(hashes: Sequence[bytes]) -> bytes:
    """The hash of a span from those of its nodes, left to right (at least one)."""
    result = hashes[-1]
    for left in reversed(hashes[:-1]):
        result = node_hash(left, result)
    return result


def span_hash(span: Span, nodes: Mapping[Node, bytes]) -> bytes:
    """The Merkle tree hash of a span of leaves. Raises KeyError where ``nodes`` lacks one of :func:`nodes_of`."""
    return folded([nodes[node] for node in nodes_of(span)]) if span[0] < span[1] else EMPTY_ROOT


def inclusion_spans(index: int, size: int) -> list[Span]:
    """The spans whose hashes are the audit path of a leaf (RFC 6962 §2.1.1), from the leaf's sibling up.

    Raises ValueError for a leaf that the tree does not have.
    """
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} has no leaf {index}")
    spans: list[Span] = []
    start, stop = 0, size
    while stop - start > 1:
        middle = start + _split(stop - start)
        if index < middle:
            spans.append((middle, stop))
            stop = middle
        else:
            spans.append((start, middle))
            start = middle
    return spans[::-1]


def consistency_spans(old: int, new: int) -> list[Span]:
    """The spans whose hashes prove that the tree of ``new`` leaves extends that of ``old`` (RFC 6962 §2.1.2); none for ``old`` 0.

    Raises ValueError when ``old`` is not between 0 and ``new``.
    """
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {new} does not extend one of {old}")
    if old in {0, new}:
        return []
    spans: list[Span] = []
    start, stop = 0, new
    while old != stop:
        middle = start + _split(stop - start)
        if old <= middle:
            spans.append((middle, stop))
            stop = middle
        else:
            spans.append((start, middle))
            start = middle
    if start > 0:  # else it is the old root, which the verifier has
        spans.append((start, stop))
    return spans[::-1]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether ``proof`` shows that ``leaf`` (a leaf hash) is leaf ``index`` of a tree of ``size`` (RFC 9162 §2.1.3.2)."""
    if not 0 <= index < size or len(proof) > MAX_PROOF:
        return False
    node, last, result = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if node & 1 or node == last:
            result = node_hash(sibling, result)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            result = node_hash(result, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and result == root


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether ``proof`` shows that the tree of ``new`` leaves begins with the ``old`` leaves of the other (RFC 9162 §2.1.4.2).

    Every tree extends the empty one, without a proof; a tree extends itself, without one.
    """
    if not 0 <= old <= new or len(proof) > MAX_PROOF:
        return False
    if old == new:
        return not proof and old_root == new_root
    if old == 0:
        return not proof and old_root == EMPTY_ROOT
    hashes = list(proof)
    if old & (old - 1) == 0:
        hashes.insert(0, old_root)
    if not hashes:
        return False
    node, last = old - 1, new - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    before = after = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            before, after = node_hash(sibling, before), node_hash(sibling, after)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            after = node_hash(after, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and before == old_root and after == new_root


def _split(count: int) -> int:
    """The largest power of two below ``count`` (at least 2)."""
    return 1 << ((count - 1).bit_length() - 1)


def _trailing_zeros(number: int) -> int:
    return (number & -number).bit_length() - 1
