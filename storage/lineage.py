"""Whether a digest may be served because of what stands above it: pure functions over :class:`storage.records.Lineage`.

A *path* leads from a node down to the digest; the digest by itself is a path of length zero. An edge of kind BLOB can only be
its last step: what a manifest names as a blob is bytes, and reaches nothing, even where they spell a manifest. A path is blocked
when any node on it is, its ends included.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import TypeVar

from storage.digest import Digest
from storage.records import Block, Kind, Lineage, StoredVerdict

_Node = TypeVar("_Node", bound=Hashable)


def accepted_root(lineage: Lineage, now: datetime) -> StoredVerdict | None:
    """The nearest accepted verdict that is still valid and has an unblocked path down to the digest; None without one."""
    valid = {
        verdict.digest: verdict
        for verdict in lineage.verdicts
        if verdict.accepted and (verdict.valid_until is None or now < verdict.valid_until)
    }
    steps = _climb(lineage.digest, _parents(lineage), {block.digest for block in lineage.blocks})
    return next((valid[node] for node, _ in steps if node in valid), None)


def blocked(lineage: Lineage) -> Block | None:
    """The block that keeps the digest from being served, if it is a block that does.

    That is the block on the digest itself, or on a blob that it needs: whoever has that from elsewhere could run it. Else, when
    every path from an accepted verdict (of any validity) is blocked, the block nearest to the digest on one of them. None when
    an unblocked path exists, and when nothing above was ever accepted: then no block is the reason.
    """
    blocks = {block.digest: block for block in lineage.blocks}
    if lineage.digest in blocks:
        return blocks[lineage.digest]
    if lineage.blocked_needs:
        return lineage.blocked_needs[0]
    accepted = {verdict.digest for verdict in lineage.verdicts if verdict.accepted}
    parents = _parents(lineage)
    if any(node in accepted for node, _ in _climb(lineage.digest, parents, blocks)):
        return None
    came_from: dict[Digest, Digest | None] = {}
    for node, child in _climb(lineage.digest, parents, ()):
        came_from[node] = child
        if node in accepted:
            path = _descend(node, came_from)
            return next(blocks[step] for step in reversed(path) if step in blocks)
    return None


def narrow(
    start: int,
    edges: Sequence[tuple[int, int, int]],
    accepted: Mapping[int, datetime | None],
    barred: Collection[int],
    limit: int,
) -> list[int]:
    """Choose ``limit`` of the edges above ``start`` so that :func:`accepted_root` and :func:`blocked` answer as over all of them.

    ``edges`` are (number, parent, child), higher numbers being newer; ``accepted`` maps accepted nodes to the end of their
    verdict's validity (None: no end); ``barred`` are blocked nodes. Always kept is the shortest unblocked path from the
    accepted node that stays valid longest, so that it is valid if any is; and the same path disregarding blocks, which
    explains a refusal. The rest are whole paths, newest first. Returns edge numbers.
    """
    parents: dict[int, list[int]] = {}
    numbers: dict[tuple[int, int], int] = {}
    for number, parent, child in sorted(edges, reverse=True):
        if (parent, child) not in numbers:
            numbers[parent, child] = number
            parents.setdefault(child, []).append(parent)
    kept: dict[int, None] = {}
    for wall in (barred, ()):
        path = _lasting_path(start, parents, accepted, wall)
        kept |= {numbers[pair]: None for pair in pairwise(path)}
    seen = {start}
    stack = [(start, iter(parents.get(start, ())))]
    while stack and len(kept) < limit:
        node, above = stack[-1]
        for parent in above:
            kept[numbers[parent, node]] = None
            if parent not in seen:
                seen.add(parent)
                stack.append((parent, iter(parents.get(parent, ()))))
            break
        else:
            stack.pop()
    return list(kept)


def _lasting_path(
    start: int, parents: Mapping[int, Sequence[int]], accepted: Mapping[int, datetime | None], barred: Collection[int]
) -> list[int]:
    """From the reachable accepted node of longest validity down to ``start``; empty when none is reachable."""
    came_from: dict[int, int | None] = {}
    best: int | None = None
    for node, child in _climb(start, parents, barred):
        came_from[node] = child
        if node in accepted and (best is None or _outlasts(accepted[node], accepted[best])):
            best = node
    return [] if best is None else _descend(best, came_from)


def _outlasts(one: datetime | None, other: datetime | None) -> bool:
    return other is not None and (one is None or one > other)


def _parents(lineage: Lineage) -> dict[Digest, list[Digest]]:
    parents: dict[Digest, list[Digest]] = {}
    for edge in lineage.edges:
        if edge.kind is not Kind.BLOB or edge.child.digest == lineage.digest:
            parents.setdefault(edge.child.digest, []).append(edge.parent)
    return parents


def _climb(
    start: _Node, parents: Mapping[_Node, Sequence[_Node]], barred: Collection[_Node]
) -> Iterator[tuple[_Node, _Node | None]]:
    """Every node from which a path without barred nodes leads to ``start``, nearest first, with the next node on that path."""
    if start in barred:
        return
    came_from: dict[_Node, _Node | None] = {start: None}
    queue = deque([start])
    while queue:
        node = queue.popleft()
        yield node, came_from[node]
        for parent in parents.get(node, ()):
            if parent not in came_from and parent not in barred:
                came_from[parent] = node
                queue.append(parent)


def _descend(top: _Node, came_from: Mapping[_Node, _Node | None]) -> list[_Node]:
    path = [top]
    while (below := came_from[path[-1]]) is not None:
        path.append(below)
    return path
