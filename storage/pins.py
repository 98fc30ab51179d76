"""Pins and their history.

A pin changes in one way only, :meth:`PinStore.apply`: compare-and-swap, ledger entry, history line, events and notice in one
transaction.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, bindparam, delete, insert, select, update

from storage import ledger
from storage.database import Database
from storage.digest import Digest
from storage.entries import of_pin
from storage.errors import PinConflict
from storage.events import close_events, open_events
from storage.notices import notify
from storage.records import EventType, Pin, PinAction, PinChange, PinState, PinWrite
from storage.reference import AFTER_ASCII, Repository
from storage.tables import pin_changes, pins
from storage.watching import enrol, list_soon, place

#: The kind of the notices about pins; their subject is ``registry/repository:tag``.
PIN_NOTICE = "pin"
#: Rows read at once while a pattern is looked for.
_PAGE = 1000
_PIN_FIELDS = tuple(field.name for field in fields(Pin))
_CHANGE_FIELDS = tuple(field.name for field in fields(PinChange))
_WILDCARD = re.compile(r"\*\*|\*|\?")
_REGEX_OF = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
_LIKE_SPECIAL = re.compile(r"[\\%_]")


@dataclass(frozen=True, slots=True)
class Past:
    """``held``: the pin had this digest. ``rejected``: the last that an operator said of it was no."""

    held: bool
    rejected: bool


class PinStore:
    """All pins of one database. Every method raises :class:`storage.errors.DatabaseUnavailable` when it cannot be asked."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, repository: Repository, tag: str) -> Pin | None:
        """The pin of one tag; None when it is not pinned."""
        return await self._database.read(_get, f"{repository}:{tag}")

    async def history(self, repository: Repository, tag: str) -> list[PinChange]:
        """Everything that ever happened to the pin of one tag, oldest first; also after it is unpinned."""
        return await self._database.read(_history, repository, tag)

    async def past(self, repository: Repository, tag: str, digest: Digest) -> Past:
        """What the pin of one tag and this digest had to do with each other before; also before it was unpinned."""
        return await self._database.read(_past, repository, tag, digest)

    async def apply(self, write: PinWrite) -> Pin | None:
        """Make one change, wholly or not at all, and return the pin as it is now (None when the write removes it).

        The stored version is the expected one plus one. Raises :class:`PinConflict` when the pin is not the expected one any
        more, judged by version, digest and moment of pinning (versions start anew after an unpin). A write that is repeated
        because its acknowledgement was lost finds itself done and changes nothing.
        """
        return await self._database.write(_apply, write)

    async def checked(self, repository: Repository, tag: str, at: datetime) -> None:
        """Note that the upstream answered at ``at``. No change of the pin: no version, no history, no notice."""
        await self._database.write(_checked, f"{repository}:{tag}", at)

    async def list(
        self, *, pattern: str | None = None, state: PinState | None = None, limit: int = 100, after: str | None = None
    ) -> list[Pin]:
        """At most ``limit`` pins in the order of their names (bytes), those behind the name ``after``.

        ``pattern`` is a glob over the whole ``registry/repository:tag``: ``*`` stops at ``/``, ``**`` crosses it, ``?`` is one
        character that is not ``/``. For the next page pass the name of the last pin; a short page is the last one.
        """
        return await self._database.read(_list, pattern, state, limit, after)


# What every pull needs is built once: SQLAlchemy takes longer to build a statement than SQLite to execute it.
_BY_NAME = select(pins).where(pins.c.name == bindparam("wanted"))
_INSERT = insert(pins)
_UPDATE = update(pins).where(pins.c.name == bindparam("wanted"))
_CHECKED = _UPDATE.values(checked_at=bindparam("at"))
_TELL = insert(pin_changes)


def _get(connection: Connection, name: str) -> Pin | None:
    row = connection.execute(_BY_NAME, {"wanted": name}).mappings().one_or_none()
    return None if row is None else from_row(row)


def _list(connection: Connection, pattern: str | None, state: PinState | None, limit: int, after: str | None) -> list[Pin]:
    conditions: list[ColumnElement[bool]] = []
    matches = re.compile("")
    if pattern is not None:
        prefix, roughly, matches = _glob(pattern)
        conditions += [pins.c.name >= prefix, pins.c.name < prefix + AFTER_ASCII, pins.c.name.like(roughly, escape="\\")]
    if state is not None:
        conditions.append(pins.c.state == state)
    query = select(pins).where(*conditions).order_by(pins.c.name)
    found: list[Pin] = []
    while len(found) < limit:
        size = _PAGE if pattern is not None else min(_PAGE, limit - len(found))
        page = query if after is None else query.where(pins.c.name > after)
        rows = connection.execute(page.limit(size)).mappings().all()
        found += [from_row(row) for row in rows if pattern is None or matches.fullmatch(row["name"])]
        if len(rows) < size:
            break
        after = rows[-1]["name"]
    return found[:limit]


def _history(connection: Connection, repository: Repository, tag: str) -> list[PinChange]:
    query = select(pin_changes).where(pin_changes.c.repository == repository, pin_changes.c.tag == tag).order_by(pin_changes.c.id)
    return [_change(row) for row in connection.execute(query).mappings()]


_HOLDING = frozenset({PinAction.PINNED, PinAction.APPROVED, PinAction.ROTATED})
_WORDS = frozenset({PinAction.REJECTED, PinAction.APPROVAL, PinAction.APPROVED})


def _past(connection: Connection, repository: Repository, tag: str, digest: Digest) -> Past:
    about = (pin_changes.c.repository == repository, pin_changes.c.tag == tag, pin_changes.c.to_digest == digest)
    query = select(pin_changes.c.action).where(*about, pin_changes.c.action.in_(_HOLDING | _WORDS))
    actions = list(connection.execute(query.order_by(pin_changes.c.id)).scalars())
    words = [action for action in actions if action in _WORDS]
    return Past(any(action in _HOLDING for action in actions), words[-1:] == [PinAction.REJECTED])


def _apply(connection: Connection, write: PinWrite) -> Pin | None:
    about = write.change
    name = f"{about.repository}:{about.tag}"
    for pin in (write.expected, write.new):
        if pin is not None and (pin.repository, pin.tag) != (about.repository, about.tag):
            raise ValueError(f"a write about {name} cannot touch {pin.name}")
    expected = write.expected
    new = None if write.new is None else replace(write.new, version=1 if expected is None else expected.version + 1)
    current = _get(connection, name)
    if not _same(current, expected):
        if _already_done(connection, current, new, about):
            return current
        raise PinConflict(f"the pin {name} changed meanwhile: {_told(expected)} was expected, {_told(current)} was found")
    ledger.append(connection, (of_pin(write, new),))
    if new is None:
        connection.execute(delete(pins).where(pins.c.name == name))
    else:
        values = {"name": name} | {field: getattr(new, field) for field in _PIN_FIELDS}
        if current is None:
            places = {"phase": place(), "verdict_phase": place()}
            connection.execute(_INSERT, values | {"registry": new.repository.registry, **places})
            enrol(connection, new.repository)
        else:
            connection.execute(_UPDATE, values | {"wanted": name})
    connection.execute(_TELL, {field: getattr(about, field) for field in _CHANGE_FIELDS})
    if write.closed:
        close_events(connection, name, write.closed, about.at)
    if any(event.type is EventType.TAG_OVERWRITTEN for event in open_events(connection, write.opened)):
        list_soon(connection, about.repository)
    notify(connection, PIN_NOTICE, name)
    return new


def _same(one: Pin | None, other: Pin | None) -> bool:
    if one is None or other is None:
        return one is other
    return (one.version, one.digest, one.pinned_at) == (other.version, other.digest, other.pinned_at)


def _already_done(connection: Connection, current: Pin | None, new: Pin | None, change: PinChange) -> bool:
    """Whether the newest change of this pin is this very change, and left what this write would leave."""
    if not _same(current, new):
        return False
    query = select(pin_changes).where(pin_changes.c.repository == change.repository, pin_changes.c.tag == change.tag)
    row = connection.execute(query.order_by(pin_changes.c.id.desc()).limit(1)).mappings().one_or_none()
    return row is not None and _change(row) == change


def _told(pin: Pin | None) -> str:
    return "no pin" if pin is None else f"version {pin.version} at {pin.digest}"


def _checked(connection: Connection, name: str, at: datetime) -> None:
    connection.execute(_CHECKED, {"wanted": name, "at": at})


def from_row(row: RowMapping) -> Pin:
    """A pin, from all columns of its table."""
    return Pin(**_take(row, _PIN_FIELDS))


def _change(row: RowMapping) -> PinChange:
    return PinChange(**_take(row, _CHANGE_FIELDS))


def _take(row: RowMapping, names: Iterable[str]) -> dict[str, Any]:
    return {name: row[name] for name in names}


def _glob(pattern: str) -> tuple[str, str, re.Pattern[str]]:
    """The literal text that every match starts with; a LIKE pattern that lets every match through; the exact expression."""
    first = _WILDCARD.search(pattern)
    like: list[str] = []
    exact: list[str] = []
    position = 0
    for wildcard in _WILDCARD.finditer(pattern):
        literal = pattern[position : wildcard.start()]
        like += [_LIKE_SPECIAL.sub(r"\\\g<0>", literal), "_" if wildcard.group() == "?" else "%"]
        exact += [re.escape(literal), _REGEX_OF[wildcard.group()]]
        position = wildcard.end()
    like.append(_LIKE_SPECIAL.sub(r"\\\g<0>", pattern[position:]))
    exact.append(re.escape(pattern[position:]))
    return pattern[: first.start()] if first else pattern, "".join(like), re.compile("".join(exact))
