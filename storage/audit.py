"""The audit: everything that the database says, held against its ledger, and the ledger against what was signed for.

One walk over all entries, in their order and over one snapshot, ends at the first that does not fit: an entry that is missing,
out of place, not in its canonical form, or whose hashes are not those of its bytes; a tree that is not the one of a kept
checkpoint; a change of a pin that the history tells otherwise. Then pins and blocks are held against what the entries left of
them.

What an audit of the database alone cannot find is a database that was exchanged as a whole by an older or another one: for that
somebody else has to remember checkpoints.
"""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, String, func, select, type_coerce

from storage.checkpoints import Kept, page_of
from storage.entries import MAX_NAME, MAX_REASON, PIN_FACTS, Entry, EntryKind, facts_of, moment, pin_kind, shortened
from storage.errors import DatabaseUnavailable, LedgerDamaged
from storage.ledger import PAGE, Recorded, page_after, size_of
from storage.merkle import Frontier, leaf_hash
from storage.notes import MalformedNote, UnverifiedNote, VerifierKey
from storage.records import PinAction
from storage.tables import blocks, checkpoints, pin_changes, pins

#: Told how many entries were looked at, and how many there are.
Progress = Callable[[int, int], None]
_PIN_PREFIX = "pin."
_GONE = pin_kind(PinAction.UNPINNED)


@dataclass(frozen=True, slots=True)
class Finding:
    """What does not fit. ``index``: the first entry that does not; with ``until``, it is one of those from it up to that one."""

    index: int
    problem: str
    until: int | None = None


@dataclass(frozen=True, slots=True)
class Audit:
    """What was looked at, and the first thing that does not fit; None: all of it does."""

    size: int
    root: bytes
    checkpoints: int
    signed: int  #: how many entries the newest good checkpoint speaks for
    pins: int
    blocks: int
    finding: Finding | None
    keys: tuple[VerifierKey, ...]  #: whom the ledger says that it was signed by, oldest first


class _Misfit(Exception):  # it ends the walk, and never leaves this module
    def __init__(self, index: int, problem: str, until: int | None = None) -> None:
        self.finding = Finding(index, problem, until)


def audit(connection: Connection, trusted: Collection[VerifierKey], progress: Progress | None = None) -> Audit:
    """Look at everything, within one snapshot (:meth:`storage.database.Database.snapshot`).

    ``trusted``: the keys that the newest checkpoint must be signed by one of; with none, those that the ledger names suffice.
    Raises DatabaseUnavailable when the database cannot be read.
    """
    walk = _Walk(connection, frozenset(trusted))
    finding = None
    try:
        walk.entries(progress)
        walk.ends()
        walk.pins()
        walk.blocks()
    except _Misfit as misfit:
        finding = misfit.finding
    except LedgerDamaged as error:
        finding = Finding(error.index, error.problem)
    return Audit(
        walk.frontier.size,
        walk.frontier.root(),
        walk.checkpoints,
        walk.signed,
        len(walk.known),
        len(walk.barred),
        finding,
        tuple(walk.keys),
    )


@dataclass(slots=True)
class _Walk:
    connection: Connection
    trusted: frozenset[VerifierKey]
    frontier: Frontier = field(default_factory=Frontier)
    checkpoints: int = 0
    signed: int = 0
    #: name → the entry that spoke of it last, and what that said of the pin
    known: dict[str, tuple[int, str]] = field(default_factory=dict)
    #: digest → the entry that blocked it, and what that said
    barred: dict[str, tuple[int, tuple[str, str, str]]] = field(default_factory=dict)
    keys: list[VerifierKey] = field(default_factory=list)
    changes: Iterator[tuple[Any, ...]] = field(default_factory=lambda: iter(()))

    def entries(self, progress: Progress | None) -> None:
        """Every entry, with the checkpoints and the history beside it."""
        total = size_of(self.connection)
        kept = _checkpoints(self.connection)
        checkpoint = next(kept, None)
        while checkpoint is not None and checkpoint.size == 0:
            self._checkpoint(checkpoint)
            checkpoint = next(kept, None)
        self.changes = _changes(self.connection, 0)
        while page := page_after(self.connection, self.frontier.size - 1):
            for recorded in page:
                self._entry(recorded)
                if checkpoint is not None and checkpoint.size == self.frontier.size:
                    self._checkpoint(checkpoint)
                    checkpoint = next(kept, None)
            if progress is not None:
                progress(self.frontier.size, total)
        if checkpoint is not None:
            problem = f"it is missing: a checkpoint was signed for {checkpoint.size} entries, and there are {self.frontier.size}"
            raise _Misfit(self.frontier.size, problem, checkpoint.size)

    def _entry(self, recorded: Recorded) -> None:
        index = self.frontier.size
        if recorded.index != index:
            raise _Misfit(index, "it is missing", recorded.index)
        entry = recorded.read()
        beside = (recorded.kind, recorded.subject, recorded.at)
        if beside != (entry.kind, entry.subject, entry.at):
            raise _Misfit(index, "kind, subject or time beside it are not what it says")
        self.frontier, completed = self.frontier.grown(leaf_hash(recorded.body))
        if recorded.hashes != completed or recorded.root != self.frontier.root():
            raise _Misfit(index, "its bytes are not those that were hashed when it was written")
        self._replay(index, entry)

    def _replay(self, index: int, entry: Entry) -> None:
        match entry.kind:
            case EntryKind.BEGUN:
                if index != 0 or not isinstance(last := entry.facts.get("changes"), int):
                    raise _Misfit(index, "a ledger begins with its first entry")
                self.changes = _changes(self.connection, last)
            case EntryKind.BLOCK | EntryKind.KNOWN_BLOCK:
                self.barred[entry.subject] = index, (entry.by, entry.reason, moment(entry.at))
            case EntryKind.UNBLOCK:
                if self.barred.pop(entry.subject, None) is None:
                    raise _Misfit(index, f"{entry.subject} was not blocked")
            case EntryKind.KNOWN_PIN:
                self.known[entry.subject] = index, _spelled(entry.facts.get("pin"))
            case EntryKind.KEY:
                self._key(index, entry)
            case kind if kind.startswith(_PIN_PREFIX):
                self._change(index, entry)

    def _key(self, index: int, entry: Entry) -> None:
        before = str(self.keys[-1]) if self.keys else None
        if entry.from_ != before:
            raise _Misfit(index, f"it hands over from {entry.from_}, and the key was {before}")
        try:
            self.keys.append(VerifierKey.parse(entry.to or ""))
        except MalformedNote as error:
            raise _Misfit(index, f"it names no key: {error}") from error

    def _change(self, index: int, entry: Entry) -> None:
        told = next(self.changes, None)
        said = (entry.kind, entry.subject, moment(entry.at), entry.by, entry.reason, entry.from_, entry.to)
        if told is None:
            raise _Misfit(index, f"the history of {entry.subject} does not tell of it")
        if told != said:
            differs = [name for name, one, other in zip(_SAID, said, told, strict=True) if one != other]
            problem = f"the history tells otherwise: {', '.join(differs)} (there: {told[0]} of {told[1]} at {told[2]})"
            raise _Misfit(index, problem)
        if entry.kind == _GONE:
            self.known.pop(entry.subject, None)
        else:
            self.known[entry.subject] = index, _spelled(entry.facts.get("pin"))

    def _checkpoint(self, kept: Kept) -> None:
        try:
            note, checkpoint = kept.read()
            note.verified_by({*self.trusted, *self.keys})
        except (DatabaseUnavailable, UnverifiedNote) as error:
            raise _Misfit(max(0, kept.size - 1), f"the checkpoint that ends with it is not good: {error}") from error
        if checkpoint.root != self.frontier.root():
            signed = "everything" if self.signed == 0 else f"what follows entry {self.signed - 1}"
            problem = f"{signed} up to the checkpoint of size {kept.size} is not what was signed for: it was written anew"
            raise _Misfit(self.signed, problem, kept.size)
        self.checkpoints += 1
        self.signed = kept.size

    def ends(self) -> None:
        """What must be so when every entry was seen."""
        told = next(self.changes, None)
        if told is not None:
            raise _Misfit(self.frontier.size, f"it is missing: the history has {told[0]} of {told[1]} at {told[2]}, by {told[3]}")
        if not self.trusted:
            return
        newest = self.connection.execute(select(func.max(checkpoints.c.size))).scalar_one()
        for kept in page_of(self.connection, newest - 1, 1) if newest is not None else ():
            try:
                kept.read()[0].verified_by(self.trusted)
            except UnverifiedNote as error:
                raise _Misfit(
                    max(0, kept.size - 1), f"the newest checkpoint, which ends with it, is not good: {error}"
                ) from error

    def pins(self) -> None:
        """Every pin is what the last entry about it left, and there are no others."""
        problems: list[Finding] = []
        missing = dict(self.known)
        for name, repository, tag, *values in self.connection.execute(_PINS):
            facts = facts_of(values)
            index, said = missing.pop(name, (self.frontier.size, ""))
            if name != f"{repository}:{tag}":
                problems.append(Finding(index, f"the pin {name} has the name of {repository}:{tag}"))
            elif index == self.frontier.size:
                problems.append(Finding(index, f"it is missing: {name} is pinned to {facts['digest']}, and no entry says so"))
            elif _spelled(facts) != said:
                problems.append(Finding(index, f"{name} is not as it left it: {_differences(facts, said)}"))
        problems += [
            Finding(index, f"{name} is not pinned any more, and no entry says so") for name, (index, _) in missing.items()
        ]
        _raise_first(problems)

    def blocks(self) -> None:
        """Every block is what the last entry about it says, and there are no others."""
        problems: list[Finding] = []
        missing = dict(self.barred)
        for row in self.connection.execute(select(blocks)).mappings():
            index, said = missing.pop(str(row["digest"]), (self.frontier.size, None))
            found = shortened(row["by"], MAX_NAME), shortened(row["reason"], MAX_REASON), moment(row["at"])
            if said is None:
                problems.append(Finding(index, f"it is missing: {row['digest']} is blocked, and no entry says so"))
            elif said != found:
                problems.append(Finding(index, f"the block of {row['digest']} is not as it says: by whom, why or when"))
        problems += [
            Finding(index, f"{each} is not blocked any more, and no entry says so") for each, (index, _) in missing.items()
        ]
        _raise_first(problems)


def _as_kept(column: Column[Any]) -> ColumnElement[Any]:
    """A column's text as the database keeps it: what is only compared need not be understood, and this takes half the time."""
    return column if column.name in _MADE_OF_OTHERS else type_coerce(column, String)


#: Facts that entries spell otherwise than the database does.
_MADE_OF_OTHERS = frozenset({"approvals", "judgement", "signers", "version"})
_PINS = select(pins.c.name, *(_as_kept(pins.c[name]) for name in ("repository", "tag", *PIN_FACTS))).order_by(pins.c.name)
_CHANGES = (
    select(
        pin_changes.c.id,
        *(_as_kept(pin_changes.c[name]) for name in ("repository", "tag", "action", "at", "by", "reason")),
        *(_as_kept(pin_changes.c[name]) for name in ("from_digest", "to_digest")),
    )
    .order_by(pin_changes.c.id)
    .limit(PAGE)
)
_SAID = ("kind", "subject", "time", "by", "reason", "from", "to")


def _raise_first(problems: Collection[Finding]) -> None:
    if problems:
        first = min(problems, key=lambda finding: finding.index)
        raise _Misfit(first.index, first.problem)


def _spelled(facts: object) -> str:
    """Facts as one text, to be compared: their keys are in order already, in canonical JSON as in :func:`pin_facts`."""
    return repr(facts)


def _differences(found: dict[str, Any], said: str) -> str:
    entry = literal_eval(said)
    if not isinstance(entry, dict):
        return "it says nothing of it"
    names = sorted(name for name in {*found, *entry} if found.get(name) != entry.get(name))
    return "; ".join(f"{name} is {found.get(name, 'not set')}, it said {entry.get(name, 'not set')}" for name in names)


def _changes(connection: Connection, after: int) -> Iterator[tuple[Any, ...]]:
    """The history of all pins, line by line, in the words of entries."""
    while rows := connection.execute(_CHANGES.where(pin_changes.c.id > after)).all():
        for _, repository, tag, action, at, by, reason, from_digest, to_digest in rows:
            yield (
                _PIN_PREFIX + action,
                shortened(f"{repository}:{tag}", MAX_NAME),
                at,
                shortened(by, MAX_NAME),
                shortened(reason, MAX_REASON),
                from_digest,
                to_digest,
            )
        after = rows[-1].id


def _checkpoints(connection: Connection) -> Iterator[Kept]:
    after = -1
    while page := page_of(connection, after, PAGE):
        yield from page
        after = page[-1].size
