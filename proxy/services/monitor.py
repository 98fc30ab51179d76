"""Watching the ledger of another proxy: every checkpoint must extend the one before, or the log was written anew.

The observer needs to trust nothing but a key. The tree that was accepted last is carried on by the entries that are new; where
that does not end at the signed root, or the log shrank, two signed notes prove that it lied, and both are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from proxy.services.revision import Clock
from proxy.upstream.tiledlog import LogUnreachable, TiledLog
from storage.entries import Entry, EntryKind, MalformedEntry, parse
from storage.merkle import EMPTY_ROOT, Frontier, Node, consistency_spans, leaf_hash, nodes_of, span_hash, verify_consistency
from storage.notes import Checkpoint, MalformedNote, Note, UnverifiedNote, VerifierKey
from storage.tiles import WIDTH, MalformedTile
from storage.watchbook import Seen, Watchbook


class Forked(Exception):
    """The log is not the one that was seen before, or shows what it never signed. ``str(error)`` says how."""


@dataclass(frozen=True, slots=True)
class Look:
    """One look: the checkpoint before (None: this was the first), and the one now."""

    before: Checkpoint | None
    now: Checkpoint


class Monitor:
    """``on_entry`` is told every new entry, once it is proven to be in the tree: index, bytes, and what it says if that reads."""

    def __init__(
        self, log: TiledLog, book: Watchbook, clock: Clock, on_entry: Callable[[int, bytes, Entry | None], None] | None = None
    ) -> None:
        self._log = log
        self._book = book
        self._clock = clock
        self._on_entry = on_entry

    async def look(self) -> Look:
        """Look once. Raises :class:`Forked`, LogUnreachable, and WatchbookUnusable."""
        data = await self._log.checkpoint()
        last = self._book.last
        try:
            note = Note.parse(data)
        except MalformedNote as error:  # a page that stands in for the log, say: whoever signed nothing has contradicted nothing
            raise LogUnreachable(f"{self._log.prefix} answers with something else than a checkpoint: {error}") from error
        try:
            try:
                signers = note.verified_by(self._book.keys)
                now = Checkpoint.parse(note.text)
            except (MalformedNote, UnverifiedNote) as error:
                raise Forked(f"what it shows is no checkpoint of this log: {error}") from error
            if now.origin not in {key.name for key in signers}:
                raise Forked(f"it shows a checkpoint of another log, {now.origin}")
            new = await self._proven(last, now)
        except Forked as error:
            self._book.accuse(data, str(error), self._clock())
            raise
        for index, body, entry in new:
            if entry is not None and entry.kind == EntryKind.KEY:
                self._follow(entry)
            if self._on_entry is not None:
                self._on_entry(index, body, entry)
        if last is None or last.checkpoint != now:
            self._book.accept(data, now, self._clock())
        return Look(None if last is None else last.checkpoint, now)

    async def _proven(self, last: Seen | None, now: Checkpoint) -> list[tuple[int, bytes, Entry | None]]:
        """What is new, proven to carry on the last tree to the one that is signed now."""
        if last is None:
            await self._frontier(now.size, now.size, now.root)
            return []
        before = last.checkpoint
        if now.size < before.size:
            raise Forked(
                f"it was rolled back: a checkpoint over {before.size} entries was signed, now it shows one over {now.size}"
            )
        if now.size == before.size:
            if now.root != before.root:
                raise Forked(f"it shows another tree of {now.size} entries than before")
            return []
        spans = consistency_spans(before.size, now.size)
        nodes = await self._nodes([node for span in spans for node in nodes_of(span)], now.size)
        proof = [span_hash(span, nodes) for span in spans]
        if not verify_consistency(before.size, now.size, before.root if before.size else EMPTY_ROOT, now.root, proof):
            raise Forked(f"its tree of {now.size} entries does not begin with the {before.size} that were signed before")
        return await self._entries(await self._frontier(before.size, now.size, before.root), now)

    async def _entries(self, frontier: Frontier, now: Checkpoint) -> list[tuple[int, bytes, Entry | None]]:
        """The entries between two checkpoints, as they are in the tree: those that somebody wants to know of."""
        new: list[tuple[int, bytes, Entry | None]] = []
        while frontier.size < now.size:
            number = frontier.size // WIDTH
            try:
                bundle = await self._log.entries(number, now.size)
            except MalformedTile as error:
                raise Forked(f"it shows entries that are none: {error}") from error
            for body in bundle[frontier.size - number * WIDTH :]:
                entry = _entry(frontier.size, body)
                if self._on_entry is not None or (entry is not None and entry.kind == EntryKind.KEY):
                    new.append((frontier.size, body, entry))  # nothing else is needed, and there may be millions
                frontier, _ = frontier.grown(leaf_hash(body))
        if frontier.root() != now.root:
            raise Forked(f"the entries that it shows are not those of its tree of {now.size}")
        return new

    async def _frontier(self, size: int, of: int, root: bytes) -> Frontier:
        """Where the tree of the first ``size`` entries goes on, out of the log's tree of ``of``; its root must be ``root``."""
        nodes = nodes_of((0, size))
        found = await self._nodes(nodes, of)
        frontier = Frontier(size, tuple(found[node] for node in nodes))
        if frontier.root() != root:
            raise Forked(f"the tree of {size} entries that it shows is not the one that was signed")
        return frontier

    async def _nodes(self, nodes: list[Node], size: int) -> dict[Node, bytes]:
        try:
            return dict(await self._log.nodes(nodes, size))
        except MalformedTile as error:
            raise Forked(f"it shows hashes that are none: {error}") from error

    def _follow(self, entry: Entry) -> None:
        """A key that the log hands over to, in a tree that was signed by one that is known."""
        try:
            key = VerifierKey.parse(entry.to or "")
        except MalformedNote:
            return  # an entry in the words of a later version: the next checkpoint is signed by a known key, or is not believed
        if self._book.keys and key.name == self._book.keys[0].name:
            self._book.trust(key, self._clock())


def _entry(index: int, body: bytes) -> Entry | None:
    try:
        said, entry = parse(body)
    except MalformedEntry:
        return None
    return entry if said == index else None
