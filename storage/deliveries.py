"""Deliveries: every message of the outbox on its way to every sink that wants it.

A message is *assigned* to the sinks that want it, once, in its order; each sink then has rows of its own and knows nothing of the
others. A row waits until the sink has taken it (``delivered``), refused it, or was out of reach for too long (``failed``); what
ended is kept for a while, so that it can be looked at and tried again. What is sent and not yet noted is sent again after a
crash: receivers know it by its :attr:`storage.records.Message.id`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, Select, and_, delete, func, or_, select, update

from storage.database import Database, insert_or
from storage.events import close_events, event_of, open_events
from storage.notices import notify
from storage.outbox import OUTBOX_NOTICE
from storage.records import Delivery, DeliveryState, Event, EventType, Message, SinkStatus, sink_subject
from storage.tables import alert_sinks, deliveries, events, outbox

_WAITING = deliveries.c.state == DeliveryState.WAITING
#: Why what waited for a sink that is gone is not tried again.
GONE = "the sink is not in the configuration any more"


@dataclass(frozen=True, slots=True)
class Assignment:
    """One message for one sink; ``due_at`` None: to be sent at once."""

    sink: str
    message: Message
    due_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Patience:
    """For how long a message is tried: ``time`` while nothing gets through to the sink, ``attempts`` where others do.

    Time is what the pauses between attempts come to: a clock that leaps makes nothing old.
    """

    time: timedelta
    attempts: int


@dataclass(frozen=True, slots=True)
class Work:
    """What one sink has to do now: the messages that are due, and when the next one will be."""

    failures: int
    failing_since: datetime | None
    retry_at: datetime | None
    batch: tuple[Delivery, ...]
    next_at: datetime | None


class Deliveries:
    """All deliveries of one database. Every method raises :class:`storage.errors.DatabaseUnavailable` when it cannot be asked."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- from the outbox to the sinks -----------------------------------------------------------------------------------

    async def register(self, sinks: Collection[str], now: datetime) -> None:
        """Make these sinks known: what is told from now on is for them, too. Those that are known stay as they are."""
        await self._database.write(_register, tuple(sinks), now)

    async def unassigned(self, sinks: Collection[str], limit: int) -> list[Message]:
        """The oldest messages that were not assigned to all of these sinks yet, in their order."""
        return await self._database.read(_unassigned, tuple(sinks), limit)

    async def assign(
        self, sinks: Collection[str], last: Message, plan: Sequence[Assignment], changed: Sequence[tuple[Message, Event]] = ()
    ) -> None:
        """Note that everything up to ``last`` was looked through for these sinks, and which message is for which.

        ``changed`` says of messages that more is known of their events now: message, severity and details are taken over,
        unless somebody else has written them meanwhile.
        """
        await self._database.write(_assign, tuple(sinks), last.sequence, plan, changed)

    # -- one sink -------------------------------------------------------------------------------------------------------

    async def work(self, sink: str, now: datetime, far: datetime, limit: int, *, in_order: bool = True) -> Work:
        """At most ``limit`` messages that are due for a sink, those that have waited longest first.

        A time behind ``far`` was written by a clock that was wrong: it counts as come. ``in_order``: the end of an event is not
        due while its beginning waits.
        """
        return await self._database.read(_work, sink, now, far, limit, in_order)

    async def delivered(self, sink: str, ids: Sequence[int], now: datetime) -> bool:
        """The sink took these. If an event says that it fails, that is closed: True.

        What was put off because the sink failed is then due at once.
        """
        return await self._database.write(_delivered, sink, tuple(ids), now)

    async def postponed(
        self,
        sink: str,
        due: Mapping[int, datetime],
        now: datetime,
        retry_at: datetime,
        error: str,
        patience: Patience,
        tell: Event | None = None,
    ) -> tuple[int, bool]:
        """An attempt failed: try these again at their times, and the sink not before ``retry_at``.

        What was tried for too long is given up. ``tell`` is opened unless it is open. How many were given up, and whether it
        was news.
        """
        return await self._database.write(_postponed, sink, dict(due), now, retry_at, error, patience, tell)

    async def refused(self, sink: str, ids: Sequence[int], now: datetime, error: str, tell: Event | None) -> bool:
        """The sink will never take these. Whether ``tell`` was news."""
        return await self._database.write(_refused, sink, tuple(ids), now, error, tell)

    # -- looking after --------------------------------------------------------------------------------------------------

    async def status(self) -> list[SinkStatus]:
        """How every known sink does, by name."""
        return await self._database.read(_status)

    async def list(self, sink: str | None = None, limit: int = 100) -> list[Delivery]:
        """What waits or failed, oldest first, at most ``limit``."""
        return await self._database.read(_list, sink, limit)

    async def retry(self, sink: str | None = None) -> int:
        """Let what failed be tried again, and what waits for its next attempt at once; how many these are."""
        return await self._database.write(_retry, sink)

    async def prune(self, now: datetime, *, ended_before: datetime, unseen_since: datetime) -> int:
        """Remove what ended before ``ended_before`` and is needed by nobody; how many deliveries these were.

        Sinks that no server has had in its configuration since ``unseen_since`` are removed; what waited for them has failed.
        """
        return await self._database.write(_prune, now, ended_before, unseen_since)


# -- from the outbox to the sinks ---------------------------------------------------------------------------------------


def _register(connection: Connection, sinks: Collection[str], now: datetime) -> None:
    newest: int = connection.execute(select(func.max(outbox.c.sequence))).scalar_one() or 0
    for name in sinks:
        values = {"name": name, "position": newest, "seen_at": now, "delivered": 0, "rejected": 0}
        values |= {"failures": 0, "paused": 0}
        upsert = insert_or(alert_sinks).values(values)
        connection.execute(upsert.on_conflict_do_update(index_elements=["name"], set_={"seen_at": now}))


def _unassigned(connection: Connection, sinks: Collection[str], limit: int) -> list[Message]:
    lowest = select(func.min(alert_sinks.c.position)).where(alert_sinks.c.name.in_(sinks)).scalar_subquery()
    query = _messages().where(outbox.c.sequence > lowest).order_by(outbox.c.sequence).limit(limit)
    return [_message(row) for row in connection.execute(query).mappings()]


def _assign(
    connection: Connection,
    sinks: Collection[str],
    last: int,
    plan: Sequence[Assignment],
    changed: Sequence[tuple[Message, Event]],
) -> None:
    rows = connection.execute(select(alert_sinks.c.name, alert_sinks.c.position).where(alert_sinks.c.name.in_(sinks)))
    positions: dict[str, int] = {row.name: row.position for row in rows}
    for message, event in changed:
        mine = events.c.id == message.number
        now = event_of(connection.execute(select(events).where(mine)).mappings().one())
        if now == replace(message.event, closed_at=now.closed_at):
            values = {"message": event.message, "severity": event.severity, "details": event.details}
            connection.execute(update(events).where(mine).values(values))
    made = [
        {
            "sink": each.sink,
            "sequence": each.message.sequence,
            "event_id": each.message.number,
            "state": DeliveryState.WAITING,
            "attempts": 0,
            "due_at": each.due_at,
        }
        for each in plan
        if each.sink in positions and positions[each.sink] < each.message.sequence
    ]
    if made:
        connection.execute(insert_or(deliveries).on_conflict_do_nothing(), made)
    behind = and_(alert_sinks.c.name.in_(sinks), alert_sinks.c.position < last)
    connection.execute(update(alert_sinks).where(behind).values(position=last))


# -- one sink -----------------------------------------------------------------------------------------------------------


def _work(connection: Connection, sink: str, now: datetime, far: datetime, limit: int, in_order: bool) -> Work:
    state = connection.execute(select(alert_sinks).where(alert_sinks.c.name == sink)).mappings().one_or_none()
    come = or_(deliveries.c.due_at.is_(None), deliveries.c.due_at <= now, deliveries.c.due_at > far)
    query = _with_messages().where(deliveries.c.sink == sink, _WAITING, come)
    if in_order:
        earlier = deliveries.alias()
        before = (
            select(earlier.c.id)
            .where(
                earlier.c.sink == sink,
                earlier.c.event_id == deliveries.c.event_id,
                earlier.c.state == DeliveryState.WAITING,
                earlier.c.id < deliveries.c.id,
            )
            .exists()
        )
        query = query.where(~before)
    # NULL, which is at once, sorts first in SQLite; where it does not, those wait for the others, but not for long.
    rows = connection.execute(query.order_by(deliveries.c.due_at, deliveries.c.id).limit(limit)).mappings()
    batch = tuple(_delivery(row) for row in rows)
    # Not ``~come``, which says the same: for a range the index is searched, and not read from end to end.
    later = select(func.min(deliveries.c.due_at)).where(
        deliveries.c.sink == sink, _WAITING, deliveries.c.due_at > now, deliveries.c.due_at <= far
    )
    next_at = connection.execute(later).scalar_one()
    if state is None:
        return Work(0, None, None, batch, next_at)
    return Work(state["failures"], state["failing_since"], state["retry_at"], batch, next_at)


def _delivered(connection: Connection, sink: str, ids: Sequence[int], now: datetime) -> bool:
    done = _mine(sink, ids)
    values = {"state": DeliveryState.DELIVERED, "ended_at": now, "due_at": None, "error": None}
    count = connection.execute(update(deliveries).where(done, _WAITING).values(values)).rowcount
    mine = alert_sinks.c.name == sink
    was = connection.execute(select(alert_sinks.c.failures).where(mine)).scalar_one_or_none()
    values = {"failures": 0, "paused": 0, "failing_since": None, "retry_at": None, "error": None, "delivered_at": now}
    connection.execute(update(alert_sinks).where(mine).values(values | {"delivered": alert_sinks.c.delivered + count}))
    recovered = close_events(connection, sink_subject(sink), (EventType.SINK_FAILING,), now) > 0
    if recovered and was:
        # Not while it only refused: what it will not take would be tried again at every success.
        put_off = and_(deliveries.c.sink == sink, _WAITING, deliveries.c.attempts > 0)
        connection.execute(update(deliveries).where(put_off).values(due_at=None))
    return recovered


def _postponed(
    connection: Connection,
    sink: str,
    due: Mapping[int, datetime],
    now: datetime,
    retry_at: datetime,
    error: str,
    patience: Patience,
    tell: Event | None,
) -> tuple[int, bool]:
    for number, at in due.items():
        values = {"attempts": deliveries.c.attempts + 1, "due_at": at, "error": error}
        connection.execute(update(deliveries).where(_mine(sink, (number,)), _WAITING).values(values))
    mine = alert_sinks.c.name == sink
    paused: int = connection.execute(select(alert_sinks.c.paused).where(mine)).scalar_one_or_none() or 0
    paused += round((retry_at - now).total_seconds())
    since = func.coalesce(alert_sinks.c.failing_since, now)
    state = {"failures": alert_sinks.c.failures + 1, "failing_since": since, "retry_at": retry_at, "error": error}
    connection.execute(update(alert_sinks).where(mine).values(state | {"paused": paused}))
    too_long = deliveries.c.attempts >= patience.attempts
    if paused >= patience.time.total_seconds():
        early = outbox.c.at < now - patience.time
        too_long = or_(too_long, select(outbox.c.sequence).where(outbox.c.sequence == deliveries.c.sequence, early).exists())
    values = {"state": DeliveryState.FAILED, "ended_at": now, "due_at": None, "error": func.coalesce(deliveries.c.error, error)}
    lost = connection.execute(update(deliveries).where(deliveries.c.sink == sink, _WAITING, too_long).values(values)).rowcount
    if lost:
        _count_rejected(connection, sink, lost)
    return lost, tell is not None and bool(open_events(connection, (tell,)))


def _refused(connection: Connection, sink: str, ids: Sequence[int], now: datetime, error: str, tell: Event | None) -> bool:
    values = {
        "state": DeliveryState.FAILED,
        "attempts": deliveries.c.attempts + 1,
        "ended_at": now,
        "due_at": None,
        "error": error,
    }
    count = connection.execute(update(deliveries).where(_mine(sink, ids), _WAITING).values(values)).rowcount
    _count_rejected(connection, sink, count)
    connection.execute(update(alert_sinks).where(alert_sinks.c.name == sink).values(error=error))
    return tell is not None and bool(open_events(connection, (tell,)))


def _count_rejected(connection: Connection, sink: str, count: int) -> None:
    more = {"rejected": alert_sinks.c.rejected + count}
    connection.execute(update(alert_sinks).where(alert_sinks.c.name == sink).values(more))


def _mine(sink: str, ids: Sequence[int]) -> ColumnElement[bool]:
    return and_(deliveries.c.sink == sink, deliveries.c.id.in_(ids))


# -- looking after ------------------------------------------------------------------------------------------------------


def _status(connection: Connection) -> list[SinkStatus]:
    joined = deliveries.join(outbox, outbox.c.sequence == deliveries.c.sequence)
    counted = (
        select(deliveries.c.sink, deliveries.c.state, func.count(), func.min(outbox.c.at))
        .select_from(joined)
        .where(deliveries.c.state != DeliveryState.DELIVERED)
        .group_by(deliveries.c.sink, deliveries.c.state)
    )
    counts = {(sink, state): (count, oldest) for sink, state, count, oldest in connection.execute(counted)}
    found = []
    for row in connection.execute(select(alert_sinks).order_by(alert_sinks.c.name)).mappings():
        name: str = row["name"]
        waiting, oldest = counts.get((name, DeliveryState.WAITING), (0, None))
        failed, _ = counts.get((name, DeliveryState.FAILED), (0, None))
        fields = ("delivered", "rejected", "failures", "failing_since", "retry_at", "error", "delivered_at")
        found.append(SinkStatus(name, waiting, failed, oldest, **{field: row[field] for field in fields}))
    return found


def _list(connection: Connection, sink: str | None, limit: int) -> list[Delivery]:
    query = _with_messages().where(deliveries.c.state != DeliveryState.DELIVERED)
    if sink is not None:
        query = query.where(deliveries.c.sink == sink)
    return [_delivery(row) for row in connection.execute(query.order_by(deliveries.c.id).limit(limit)).mappings()]


def _retry(connection: Connection, sink: str | None) -> int:
    known = deliveries.c.sink.in_(select(alert_sinks.c.name))
    these = and_(known, or_(deliveries.c.state == DeliveryState.FAILED, and_(_WAITING, deliveries.c.attempts > 0)))
    state: ColumnElement[bool] = alert_sinks.c.retry_at.is_not(None)
    if sink is not None:
        these, state = and_(these, deliveries.c.sink == sink), and_(state, alert_sinks.c.name == sink)
    values = {"state": DeliveryState.WAITING, "attempts": 0, "due_at": None, "ended_at": None}
    count = connection.execute(update(deliveries).where(these).values(values)).rowcount
    connection.execute(update(alert_sinks).where(state).values(retry_at=None))
    notify(connection, OUTBOX_NOTICE, "")
    return count


def _prune(connection: Connection, now: datetime, ended_before: datetime, unseen_since: datetime) -> int:
    unseen = alert_sinks.c.seen_at < unseen_since
    gone = connection.execute(select(alert_sinks.c.name).where(unseen)).scalars().all()
    for name in gone:
        values = {"state": DeliveryState.FAILED, "ended_at": now, "due_at": None, "error": GONE}
        connection.execute(update(deliveries).where(deliveries.c.sink == name, _WAITING).values(values))
        connection.execute(delete(alert_sinks).where(alert_sinks.c.name == name))
        close_events(connection, sink_subject(name), (EventType.SINK_FAILING,), now)
    count = connection.execute(delete(deliveries).where(deliveries.c.ended_at < ended_before)).rowcount
    lowest = select(func.min(alert_sinks.c.position)).scalar_subquery()
    needed = select(deliveries.c.id).where(deliveries.c.sequence == outbox.c.sequence).exists()
    passed = or_(lowest.is_(None), outbox.c.sequence <= lowest)
    connection.execute(delete(outbox).where(outbox.c.at < ended_before, passed, ~needed))
    return count


# -- rows ---------------------------------------------------------------------------------------------------------------

_EVENT = "event_"
_OUTBOX = "outbox_"


def _columns() -> list[ColumnElement[Any]]:
    own = [column.label(f"{_OUTBOX}{column.name}") for column in outbox.c]
    return own + [column.label(f"{_EVENT}{column.name}") for column in events.c]


def _messages() -> Select[Any]:
    return select(*_columns()).select_from(outbox.join(events, events.c.id == outbox.c.event_id))


def _with_messages() -> Select[Any]:
    named = [column.label(f"delivery_{column.name}") for column in deliveries.c]
    joined = deliveries.join(outbox, outbox.c.sequence == deliveries.c.sequence).join(events, events.c.id == outbox.c.event_id)
    return select(*named, *_columns()).select_from(joined)


def _message(row: RowMapping) -> Message:
    return Message(
        row["outbox_sequence"],
        row["outbox_id"],
        row["outbox_event_id"],
        event_of(row, _EVENT),
        row["outbox_resolved"],
        row["outbox_at"],
    )


def _delivery(row: RowMapping) -> Delivery:
    return Delivery(
        row["delivery_id"],
        row["delivery_sink"],
        _message(row),
        row["delivery_state"],
        row["delivery_attempts"],
        row["delivery_due_at"],
        row["delivery_ended_at"],
        row["delivery_error"],
    )
