"""Which pinned digests an accepted verdict stands for, of many at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import Connection, or_, select

from storage.database import Database
from storage.digest import Digest
from storage.reference import Repository
from storage.tables import blocks, contents, repositories, verdicts

_CHUNK = 500  #: values in one ``IN (…)``


class VerdictStore:
    """Looks over the verdicts of one database. Raises :class:`storage.errors.DatabaseUnavailable` when it cannot be asked."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def standing(
        self, questions: Mapping[str, Sequence[tuple[Repository, Digest]]], now: datetime
    ) -> set[tuple[Repository, Digest]]:
        """Of ``questions`` (fingerprint → manifests) those that an accepted verdict under it stands for, none of them blocked."""
        return await self._database.read(_standing, questions, now)


def _standing(
    connection: Connection, questions: Mapping[str, Sequence[tuple[Repository, Digest]]], now: datetime
) -> set[tuple[Repository, Digest]]:
    found: set[tuple[Repository, Digest]] = set()
    for fingerprint, manifests in questions.items():
        for start in range(0, len(manifests), _CHUNK):
            wanted = manifests[start : start + _CHUNK]
            query = (
                select(repositories.c.name, contents.c.digest)
                .join_from(verdicts, contents, contents.c.id == verdicts.c.content_id)
                .join(repositories, repositories.c.id == contents.c.repository_id)
                .where(
                    contents.c.digest.in_([digest for _, digest in wanted]),
                    verdicts.c.fingerprint == fingerprint,
                    verdicts.c.accepted,
                    or_(verdicts.c.valid_until.is_(None), verdicts.c.valid_until > now),
                    contents.c.digest.not_in(select(blocks.c.digest)),
                )
            )
            found.update((name, digest) for name, digest in connection.execute(query))
    return found
