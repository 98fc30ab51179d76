"""Leases: which one process, of all on this database, does what only one should do.

A lease ends by itself when its holder does not renew it in time, and then anybody may take it. That bounds how long nobody does
the work; it does not prove that never two do: a holder that was stopped for longer than its lease finds out when it renews. What
is done under a lease must therefore be safe to do twice.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, or_

from storage.database import Database, insert_or
from storage.tables import leases


class Leases:
    """All leases of one database. Every method raises :class:`storage.errors.DatabaseUnavailable` when it cannot be asked."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def hold(self, name: str, holder: str, now: datetime, duration: timedelta) -> bool:
        """Take or renew the lease ``name`` until ``now + duration``. False while somebody else's has not ended.

        One whose end lies further ahead than anybody would have written it now comes from a clock that was wrong, and is taken.
        That is twice ``duration``: whoever asks may have waited for its turn since it looked at the clock, and clocks of replicas
        differ a little.
        """
        return await self._database.write(_hold, name, holder, now, duration)

    async def release(self, name: str, holder: str) -> None:
        """Give the lease up, if ``holder`` has it."""
        await self._database.write(_release, name, holder)


def _hold(connection: Connection, name: str, holder: str, now: datetime, duration: timedelta) -> bool:
    until = now + duration
    free = or_(leases.c.holder == holder, leases.c.until <= now, leases.c.until > until + duration)
    upsert = insert_or(leases).values(name=name, holder=holder, until=until)
    taken = upsert.on_conflict_do_update(index_elements=["name"], set_={"holder": holder, "until": until}, where=free)
    return connection.execute(taken).rowcount > 0


def _release(connection: Connection, name: str, holder: str) -> None:
    connection.execute(delete(leases).where(leases.c.name == name, leases.c.holder == holder))
