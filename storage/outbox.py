"""The outbox: what is to be told to alert sinks, written in the transaction that makes it true, so that neither is there alone.

:func:`storage.events.open_events` and :func:`storage.events.close_events` fill it, and :mod:`storage.classifications` where an
event turns out to be graver than it was told; nobody else does. Nothing is written while no server on this database has a sink.
:mod:`storage.deliveries` takes it from here.
"""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import Connection, func, insert, select

from storage.notices import notify
from storage.tables import alert_sinks, outbox

#: The kind of the notices that something is to be told; their subject is empty.
OUTBOX_NOTICE = "outbox"


def post(connection: Connection, event: int, at: datetime, *, resolved: bool) -> None:
    """Leave a message about the event number ``event``, in the caller's transaction."""
    if connection.execute(select(alert_sinks.c.name).limit(1)).first() is None:
        return
    # Random, not counted: a database that was restored from a backup must never give an old name to something new.
    connection.execute(insert(outbox).values(id=str(uuid.uuid4()), event_id=event, resolved=resolved, at=at))
    notify(connection, OUTBOX_NOTICE, "")


def post_again(connection: Connection, event: int, at: datetime) -> None:
    """Leave another message about an open event that is graver now, in the caller's transaction, where the first is on its way.

    As long as that was not handed out to the sinks, it is going to say itself what is known by then.
    """
    handed_out = select(func.coalesce(func.max(alert_sinks.c.position), 0)).scalar_subquery()
    coming = select(outbox.c.id).where(outbox.c.event_id == event, outbox.c.resolved.is_(False), outbox.c.sequence > handed_out)
    if connection.execute(coming.limit(1)).first() is None:
        post(connection, event, at, resolved=False)
