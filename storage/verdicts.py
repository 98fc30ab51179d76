"""For which pins an accepted verdict stands, of many at once, in few rows: pulls feel each one that Python has to look at."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, and_, bindparam, exists, func, not_, or_, select

from storage.database import Database, mapping_given
from storage.pins import from_row
from storage.records import Kind, Pin, PinState
from storage.reference import AFTER_ASCII, Repository
from storage.tables import Instant, blocks, contents, edges, pins, repositories, verdicts

#: A verdict from further in the future than this was reached by a clock that is not ours: it is asked for again.
SKEW = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Lacking:
    """Of some pins in the order of their names those that are to be judged again, and the last name that was looked at."""

    tags: Sequence[tuple[Repository, str]]
    upto: str


class VerdictStore:
    """Looks over the verdicts of one database. Raises :class:`storage.errors.DatabaseUnavailable` when it cannot be asked.

    A verdict stands for a pin at ``now`` when it accepted the pinned digest under the question that counts (a rule's
    fingerprint), has not ended, was not reached after :data:`SKEW` from then, and neither the digest nor a blob of its own is
    blocked.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def standing(self, questions: Mapping[str, str], now: datetime) -> dict[str, Pin]:
        """Of pins, as name → question, those for which a verdict stands, as they are now.

        None that is revoked: it would be restored, which is for whoever looks at the verdict in that moment.
        """
        return await self._database.read(_standing, questions, {"now": now, "latest": now + SKEW})

    async def lacking(
        self, registry: str, after: str | None, limit: int, question: Callable[[Repository], str], now: datetime
    ) -> Lacking | None:
        """Of the next ``limit`` pins of a registry behind the name ``after`` those that are revoked, or for which none stands.

        ``question`` answers which one counts for a repository, and is called in a thread. None: there are no more pins.
        """
        within = {"after": f"{registry}/" if after is None else after, "end": f"{registry}/{AFTER_ASCII}", "limit": limit}
        return await self._database.snapshot(_lacking, within, question, {"now": now, "latest": now + SKEW})


_asked = mapping_given("asked")
# From the few blocks upwards: there may be millions of edges.
_BLOCKED = select(blocks.c.digest)
_BLOCKED_BLOBS = select(contents.c.id).where(contents.c.digest.in_(_BLOCKED))
_BLOCKED_BELOW = select(edges.c.parent_id).where(edges.c.kind == Kind.BLOB, edges.c.child_id.in_(_BLOCKED_BLOBS))
_STANDS = (
    exists()
    .select_from(repositories)
    .where(
        repositories.c.name == pins.c.repository,
        contents.c.repository_id == repositories.c.id,
        contents.c.digest == pins.c.digest,
        verdicts.c.content_id == contents.c.id,
        verdicts.c.fingerprint == _asked.c.value,
        verdicts.c.accepted,
        verdicts.c.decided_at <= bindparam("latest", type_=Instant()),
        or_(verdicts.c.valid_until.is_(None), verdicts.c.valid_until > bindparam("now", type_=Instant())),
        contents.c.digest.not_in(_BLOCKED),
        contents.c.id.not_in(_BLOCKED_BELOW),
    )
    .correlate(pins, _asked)
)
_STANDING = select(pins).join_from(_asked, pins, pins.c.name == _asked.c.key).where(pins.c.state != PinState.REVOKED, _STANDS)
_page = (
    select(pins.c.name, pins.c.repository)
    .where(pins.c.name > bindparam("after"), pins.c.name < bindparam("end"))
    .order_by(pins.c.name)
    .limit(bindparam("limit"))
    .subquery()
)
_PAGE = select(_page.c.repository, func.max(_page.c.name)).group_by(_page.c.repository)
_LACKING = (
    select(pins.c.repository, pins.c.tag)
    .join_from(pins, _asked, _asked.c.key == pins.c.repository)
    .where(
        and_(pins.c.name > bindparam("after"), pins.c.name <= bindparam("upto")),
        or_(pins.c.state == PinState.REVOKED, not_(_STANDS)),
    )
    .order_by(pins.c.name)
)


def _standing(connection: Connection, questions: Mapping[str, str], times: Mapping[str, datetime]) -> dict[str, Pin]:
    rows = connection.execute(_STANDING, {"asked": json.dumps(questions), **times}).mappings()
    found = map(from_row, rows)
    return {pin.name: pin for pin in found}


def _lacking(
    connection: Connection, within: Mapping[str, object], question: Callable[[Repository], str], times: Mapping[str, datetime]
) -> Lacking | None:
    page = connection.execute(_PAGE, within).all()
    if not page:
        return None
    upto = max(name for _, name in page)
    asked = json.dumps({str(repository): question(repository) for repository, _ in page})
    rows = connection.execute(_LACKING, {"after": within["after"], "upto": upto, "asked": asked, **times})
    return Lacking([(repository, tag) for repository, tag in rows], upto)
