"""What the watcher keeps: whose turn it is, how far it has come, and which tags it knows.

The pins of one registry are spread around a *round*: each has a phase, any number below :data:`PHASES`, drawn when it is pinned
and moved back a little at each of its turns. A hand goes around at an even pace, and whoever it passes has a turn. However many
pins there are, whenever they were pinned, and wherever the hand goes on after a pause: no part of the round holds more than its
share of them, and nobody can choose or foretell a phase. A :class:`Hand` says where it is. The repositories that have pins are
spread over a second round, in which their lists of tags are read. In a third, pins have places that stay, and are judged
again.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Column, Connection, Table, TextClause, and_, bindparam, delete, exists, func, or_, select, update

from storage.database import (
    CHECKED,
    FORGET_TAGS,
    KNOW_TAGS,
    PINS_MOVED,
    REPOSITORIES_MOVED,
    VERIFIED,
    Database,
    insert_or,
)
from storage.digest import Digest
from storage.events import open_events
from storage.records import Event, PinAction
from storage.reference import AFTER_ASCII, Repository
from storage.tables import Instant, known_tags, pin_changes, pins, spelled, watch_hands, watched_repositories

#: The length of a round.
PHASES = 1 << 48


class Round(StrEnum):
    """What there are rounds of."""

    PINS = "pins"
    VERDICTS = "verdicts"  #: pins, too: their digests are judged again
    TAGS = "tags"  #: lists of tags, one for each repository


@dataclass(frozen=True, slots=True)
class Hand:
    """Everything before ``position`` has had its turn, as it was due at ``at``: when that is now, nothing is overdue."""

    position: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Turn:
    """Something whose turn it is, so many phases ahead of where the look began. ``at``: when it was last seen to; None: never."""

    repository: Repository
    tag: str  #: empty in a round of repositories
    ahead: int
    at: datetime | None

    @property
    def name(self) -> str:
        """``registry/repository:tag``, or the repository alone."""
        return f"{self.repository}:{self.tag}" if self.tag else str(self.repository)


@dataclass(frozen=True, slots=True)
class Seen:
    """A pin was seen to: the upstream has answered about it, or its digest was judged. Says nothing of another digest."""

    digest: Digest
    at: datetime


@dataclass(frozen=True, slots=True)
class NewTags:
    """What a list of tags brought, for those who make events of it: sorted names, and what makes them suspect."""

    tags: tuple[str, ...]
    overwritten: str | None  #: a tag of the same repository that was overwritten lately


def place() -> int:
    """A phase for something new."""
    return secrets.randbelow(PHASES)


def enrol(connection: Connection, repository: Repository) -> None:
    """A repository has a pin: from now on its tags are watched. In the caller's transaction."""
    values = {"name": repository, "registry": repository.registry, "phase": place(), "soon": True}
    connection.execute(_ENROL, values)


_ENROL = insert_or(watched_repositories).on_conflict_do_nothing()


def list_soon(connection: Connection, repository: Repository) -> None:
    """Something happened to a tag: look at the others before their turn. In the caller's transaction."""
    connection.execute(update(watched_repositories).where(watched_repositories.c.name == repository).values(soon=True))


class WatchStore:
    """The watcher's notes. Every method raises :class:`storage.errors.DatabaseUnavailable` when it cannot be asked."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- rounds ---------------------------------------------------------------------------------------------------------

    async def hand(self, registry: str, which: Round) -> Hand | None:
        """Where the hand was last; None before its first turn."""
        return await self._database.read(_hand, registry, which)

    async def due(self, registry: str, which: Round, start: int, reach: int, limit: int) -> list[Turn]:
        """At most ``limit`` of those within ``reach`` (:data:`PHASES` at most) behind ``start``, in the order of their turns."""
        return await self._database.read(_due, registry, which, start, reach, limit)

    async def count(self, registry: str, which: Round, start: int, reach: int) -> int:
        """How many there are within ``reach`` behind ``start``."""
        return await self._database.read(_count, registry, which, start, reach)

    async def next(self, registry: str, which: Round, start: int) -> int | None:
        """How far behind ``start`` the next turn is; None where there is nothing at all."""
        turns = await self.due(registry, which, start, PHASES, 1)
        return turns[0].ahead if turns else None

    async def oldest(self, registry: str) -> datetime | None:
        """When the digest was judged that was so least lately of all pinned ones; None where there are no pins."""
        return await self._database.read(_oldest, registry)

    async def turned(self, registry: str, which: Round, hand: Hand, seen: Mapping[str, Seen], moved: Mapping[str, int]) -> None:
        """Keep where the hand is, which pins were seen to, and who has another phase now. By names.

        Repositories are seen to by :meth:`listed`.
        """
        await self._database.write(_turned, registry, which, hand, seen, moved)

    async def noted(self, seen: Mapping[str, Seen], which: Round = Round.PINS) -> None:
        """Keep which pins were seen to, by their names, out of their turn."""
        await self._database.write(_noted, seen, _SEEN[which])

    # -- tags -----------------------------------------------------------------------------------------------------------

    async def soon(self, registry: str, before: datetime, limit: int) -> list[Repository]:
        """Repositories that are to be listed before their turn, unless that was done after ``before``."""
        return await self._database.read(_soon, registry, before, limit)

    async def listed(
        self,
        repository: Repository,
        tags: Sequence[str],
        *,
        complete: bool,
        at: datetime,
        lately: datetime,
        tell: Callable[[NewTags], Sequence[Event]],
    ) -> list[Event]:
        """Take a list of tags (sorted) over, and record what ``tell`` makes of the new ones, all in one transaction.

        The first list of a repository is what there was before, and is not told. Of one that was cut, only the tags up to where
        it ended are known: those behind it are new to us, not to the world. ``lately``: since when an overwrite of another tag
        counts. A list with nothing in it is not believed. A repository that has no pins any more is forgotten with its tags.
        """
        return await self._database.write(_listed, repository, tags, complete, at, lately, tell)

    async def postponed(self, repository: Repository) -> None:
        """The list could not be had: there is no haste with it any more. What is known stays."""
        await self._database.write(_postponed, repository)

    async def known(self, repository: Repository) -> dict[str, datetime]:
        """The tags of a repository as last listed, and when each was first seen."""
        return await self._database.read(_known, repository)


def _table(which: Round) -> Table:
    return watched_repositories if which is Round.TAGS else pins


def _phase(which: Round) -> Column[int]:
    return pins.c.verdict_phase if which is Round.VERDICTS else _table(which).c.phase


#: When a pin's digest was judged last: as it was pinned, if not since.
_VERIFIED_AT = func.coalesce(pins.c.verified_at, pins.c.pinned_at, type_=Instant())


def _hand(connection: Connection, registry: str, which: Round) -> Hand | None:
    query = select(watch_hands.c.position, watch_hands.c.at).where(
        watch_hands.c.registry == registry, watch_hands.c.round == which
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else Hand(*row)


def _parts(start: int, reach: int) -> tuple[tuple[int, int, int], ...]:
    """The stretch behind ``start`` as ranges of phases (after, up to), each with what turns a phase into a distance."""
    end = start + reach
    if end < PHASES:
        return ((start, end, -start),)
    return ((start, PHASES - 1, -start), (-1, end - PHASES, PHASES - start))


def _due(connection: Connection, registry: str, which: Round, start: int, reach: int, limit: int) -> list[Turn]:
    table, place = _table(which), _phase(which)
    if which is Round.TAGS:
        columns = select(table.c.name, bindparam("no_tag", ""), place, table.c.listed_at)
    else:
        columns = select(pins.c.repository, pins.c.tag, place, pins.c.checked_at if which is Round.PINS else _VERIFIED_AT)
    turns: list[Turn] = []
    for after, upto, offset in _parts(start, reach):
        if len(turns) < limit:
            within = (table.c.registry == registry, place > after, place <= upto)
            rows = connection.execute(columns.where(*within).order_by(place).limit(limit - len(turns)))
            turns += [Turn(repository, tag, phase + offset, at) for repository, tag, phase, at in rows]
    return turns


def _count(connection: Connection, registry: str, which: Round, start: int, reach: int) -> int:
    table, place = _table(which), _phase(which)
    within = [and_(place > after, place <= upto) for after, upto, _ in _parts(start, reach)]
    query = select(func.count()).select_from(table).where(table.c.registry == registry, or_(*within))
    found: int = connection.execute(query).scalar_one()
    return found


_SEEN = {Round.PINS: CHECKED, Round.VERDICTS: VERIFIED}
_MOVED = {Round.PINS: PINS_MOVED, Round.TAGS: REPOSITORIES_MOVED}


def _noted(connection: Connection, seen: Mapping[str, Seen], statement: TextClause) -> None:
    if seen:
        rows = [(name, str(each.digest), spelled(each.at)) for name, each in seen.items()]
        connection.execute(statement, {"seen": json.dumps(rows)})


def _oldest(connection: Connection, registry: str) -> datetime | None:
    query = select(_VERIFIED_AT).where(pins.c.registry == registry).order_by(_VERIFIED_AT).limit(1)
    found: datetime | None = connection.execute(query).scalar_one_or_none()
    return found


def _turned(
    connection: Connection,
    registry: str,
    which: Round,
    hand: Hand,
    seen: Mapping[str, Seen],
    moved: Mapping[str, int],
) -> None:
    if seen:
        _noted(connection, seen, _SEEN[which])
    if moved:
        connection.execute(_MOVED[which], {"moved": json.dumps(moved)})
    where = {"position": hand.position, "at": hand.at}
    upsert = insert_or(watch_hands).values(registry=registry, round=which, **where)
    connection.execute(upsert.on_conflict_do_update(index_elements=["registry", "round"], set_=where))


def _soon(connection: Connection, registry: str, before: datetime, limit: int) -> list[Repository]:
    table = watched_repositories
    rested = or_(table.c.listed_at.is_(None), table.c.listed_at < before)
    query = select(table.c.name).where(table.c.registry == registry, table.c.soon.is_(True), rested)
    return list(connection.execute(query.limit(limit)).scalars())


def _listed(
    connection: Connection,
    repository: Repository,
    tags: Sequence[str],
    complete: bool,
    at: datetime,
    lately: datetime,
    tell: Callable[[NewTags], Sequence[Event]],
) -> list[Event]:
    table = watched_repositories
    row = connection.execute(select(table).where(table.c.name == repository)).mappings().one_or_none()
    if row is None:
        return []
    number = row["id"]
    prefix = f"{repository}:"
    if not connection.execute(select(exists().where(pins.c.name >= prefix, pins.c.name < prefix + AFTER_ASCII))).scalar_one():
        connection.execute(delete(known_tags).where(known_tags.c.repository_id == number))
        connection.execute(delete(table).where(table.c.id == number))
        return []
    if complete and not tags and row["listed_at"] is not None:
        # It has pins, so that it had tags: if that were believed, all of them would be news again at the next list.
        connection.execute(update(table).where(table.c.id == number).values(soon=False, listed_at=at))
        return []
    listing = {"number": number, "tags": json.dumps(tags)}
    new = sorted(connection.execute(KNOW_TAGS, listing | {"at": at}).scalars())
    if complete:
        connection.execute(FORGET_TAGS, listing)
    listed_to = None if complete else (tags[-1] if tags else "")
    connection.execute(update(table).where(table.c.id == number).values(soon=False, listed_at=at, listed_to=listed_to))
    if row["listed_at"] is None:
        return []
    told = tuple(tag for tag in new if row["listed_to"] is None or tag <= row["listed_to"])
    return open_events(connection, tell(NewTags(told, _overwritten(connection, repository, lately)))) if told else []


def _overwritten(connection: Connection, repository: Repository, since: datetime) -> str | None:
    change = pin_changes
    query = select(change.c.tag).where(
        change.c.repository == repository, change.c.action == PinAction.OVERWRITTEN, change.c.at >= since
    )
    found: str | None = connection.execute(query.limit(1)).scalar_one_or_none()
    return found


def _postponed(connection: Connection, repository: Repository) -> None:
    connection.execute(update(watched_repositories).where(watched_repositories.c.name == repository).values(soon=False))


def _known(connection: Connection, repository: Repository) -> dict[str, datetime]:
    query = (
        select(known_tags.c.tag, known_tags.c.first_seen)
        .join(watched_repositories, watched_repositories.c.id == known_tags.c.repository_id)
        .where(watched_repositories.c.name == repository)
        .order_by(known_tags.c.tag)
    )
    return {row.tag: row.first_seen for row in connection.execute(query)}
