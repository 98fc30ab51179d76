"""The tables, in SQLAlchemy Core, and the column types that turn frozen values into text and back.

What is read is parsed again: a row that does not parse means a damaged database and raises
:class:`storage.errors.DatabaseUnavailable`, so that no half-understood value is ever decided on. Nothing here is particular to
SQLite but the two partial indexes, which PostgreSQL knows as well.

A change of the schema is a new module in :mod:`storage.migrations.versions` *and* the same change here; ``REVISION`` moves
with it. A fresh database is created from here, an older one is migrated; a test holds both ways to the same result.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    func,
)
from sqlalchemy.types import TypeDecorator, TypeEngine

from storage.digest import Digest
from storage.errors import DatabaseUnavailable
from storage.records import Approval, DeliveryState, EventType, Judgement, Kind, PinAction, PinState, Severity, Standing
from storage.reference import Repository
from storage.reference import repository as known_repository

#: The newest migration. Revisions are numbers with leading zeros, so that older and newer can be told apart without Alembic.
REVISION = "0003"

_T = TypeVar("_T")


class Parsed(TypeDecorator[_T]):
    """A value kept as its text: ``parse`` reads it back, ``write`` spells it."""

    impl = String
    cache_ok = True

    def __init__(self, parse: Callable[[str], _T], write: Callable[[_T], str] = str) -> None:
        super().__init__()
        self.parse = parse
        self.write = write

    def process_bind_param(self, value: _T | None, dialect: Dialect) -> str | None:
        """Spell the value."""
        return None if value is None else self.write(value)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> _T | None:
        """Parse what is stored. Raises DatabaseUnavailable when it is nothing that was ever written."""
        if value is None:
            return None
        try:
            return self.parse(value)
        except (ValueError, TypeError) as error:
            raise DatabaseUnavailable(f"the database is damaged: {str(value)[:100]!r} was never stored by Tagstone") from error


def spelled(moment: datetime) -> str:
    """An aware datetime as it is kept where there are no timestamps."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


class Instant(TypeDecorator[datetime]):
    """An aware datetime, kept as UTC: a timestamp where the database has one, else text of fixed width, which sorts."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Text on SQLite, so that damage is found here and not in the middle of the driver."""
        return dialect.type_descriptor(String() if dialect.name == "sqlite" else DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """Turn into UTC. Raises ValueError for a naive datetime: its zone would be a guess."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone")
        return spelled(value) if dialect.name == "sqlite" else value.astimezone(UTC)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        """Read it back as UTC. Raises DatabaseUnavailable when it is no time."""
        if value is None:
            return None
        try:
            moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
            return moment if moment.tzinfo is UTC else moment.astimezone(UTC)
        except (ValueError, TypeError) as error:
            raise DatabaseUnavailable(f"the database is damaged: {str(value)[:100]!r} is no time") from error


def _parse_repository(text: str) -> Repository:
    registry, _, name = text.partition("/")
    return known_repository(registry, name)


def _parse_lines(text: str) -> tuple[str, ...]:
    lines = json.loads(text)
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise ValueError("not a list of lines")
    return tuple(lines)


def _write_lines(lines: tuple[str, ...]) -> str:
    return json.dumps(lines, ensure_ascii=False)


def _parse_details(text: str) -> Mapping[str, Any]:
    details = json.loads(text)
    if not isinstance(details, dict):
        raise ValueError("not an object")
    return details


def _write_details(details: Mapping[str, Any]) -> str:
    return json.dumps(details, ensure_ascii=False)


def _parse_judgement(text: str) -> Judgement:
    match json.loads(text):
        case {"standing": str(standing), "reasons": [*reasons], "at": str(at), "question": str(question)}:
            told = tuple(reason for reason in reasons if isinstance(reason, str))
            return Judgement(Standing(standing), told, _parse_moment(at), question)
    raise ValueError("not a judgement")


def _write_judgement(judgement: Judgement) -> str:
    values = {"standing": judgement.standing, "reasons": judgement.reasons, "question": judgement.question}
    return json.dumps(values | {"at": judgement.at.astimezone(UTC).isoformat()}, ensure_ascii=False)


def _parse_approvals(text: str) -> tuple[Approval, ...]:
    found: list[Approval] = []
    for each in json.loads(text):
        match each:
            case {"digest": str(digest), "by": str(by), "reason": str(reason), "at": str(at)}:
                found.append(Approval(Digest.parse(digest), by, reason, _parse_moment(at)))
            case _:
                raise ValueError("not an approval")
    return tuple(found)


def _write_approvals(approvals: tuple[Approval, ...]) -> str:
    values = [
        {"digest": str(each.digest), "by": each.by, "reason": each.reason, "at": each.at.astimezone(UTC).isoformat()}
        for each in approvals
    ]
    return json.dumps(values, ensure_ascii=False)


def _parse_moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("not a moment")
    return moment.astimezone(UTC)


#: 64 bits everywhere; SQLite counts rows by themselves only in a column of exactly this type.
_ID = BigInteger().with_variant(Integer, "sqlite")
_DIGEST = Parsed(Digest.parse)
_REPOSITORY = Parsed(_parse_repository)
_LINES = Parsed(_parse_lines, _write_lines)

metadata = MetaData()

#: Alembic's own table, with one row: the revision.
alembic_version = Table(
    "alembic_version",
    metadata,
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)

pins = Table(
    "pins",
    metadata,
    Column("name", String, primary_key=True),  # registry/repository:tag, the order of listings
    Column("repository", _REPOSITORY, nullable=False),
    Column("tag", String, nullable=False),
    Column("digest", _DIGEST, nullable=False),
    Column("state", Parsed(PinState), nullable=False),
    Column("pinned_at", Instant, nullable=False),
    Column("pinned_by", String, nullable=False),
    Column("reason", Text, nullable=False),
    Column("checked_at", Instant, nullable=False),
    Column("candidate", _DIGEST),
    Column("candidate_seen_at", Instant),
    Column("rejected", _DIGEST),
    Column("version", _ID, nullable=False),
    Column("signers", _LINES),
    Column("judgement", Parsed(_parse_judgement, _write_judgement)),
    Column("approvals", Parsed(_parse_approvals, _write_approvals), nullable=False, server_default="[]"),
    Column("stale_at", Instant),
    Column("registry", String, nullable=False),
    Column("phase", _ID, nullable=False),  # where in the watcher's round it has its turn: storage.watching
    Column("verdict_phase", _ID, nullable=False),  # and where in that of those who judge its digest again
    Column("verified_at", Instant),  # when that was last done; null: not since it was pinned
    Index("ix_pins_state", "state", "name"),
    Index("ix_pins_phase", "registry", "phase"),
    Index("ix_pins_verdict_phase", "registry", "verdict_phase"),
)

pin_changes = Table(
    "pin_changes",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("repository", _REPOSITORY, nullable=False),
    Column("tag", String, nullable=False),
    Column("action", Parsed(PinAction), nullable=False),
    Column("at", Instant, nullable=False),
    Column("by", String, nullable=False),
    Column("reason", Text, nullable=False),
    Column("from_digest", _DIGEST),
    Column("to_digest", _DIGEST),
    Index("ix_pin_changes_tag", "repository", "tag"),
)

events = Table(
    "events",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("type", Parsed(EventType), nullable=False),
    Column("subject", String, nullable=False),
    Column("digest", _DIGEST),
    Column("message", Text, nullable=False),
    Column("at", Instant, nullable=False),
    Column("closed_at", Instant),
    Column("severity", Parsed(Severity)),  # null, as in details: recorded before there was one
    Column("details", Parsed(_parse_details, _write_details)),
)
_open_event = events.c.closed_at.is_(None)
Index(
    "uq_events_open",
    events.c.type,
    events.c.subject,
    func.coalesce(events.c.digest, ""),
    unique=True,
    sqlite_where=_open_event,
)
Index("ix_events_open", events.c.id, sqlite_where=_open_event)
Index("ix_events_closed", events.c.closed_at)

repositories = Table(
    "repositories",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("name", _REPOSITORY, nullable=False, unique=True),
)

#: One digest in one repository. Edges and verdicts hang on the number, so that a million edges stay small and quick to walk.
contents = Table(
    "contents",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("repository_id", _ID, ForeignKey("repositories.id"), nullable=False),
    Column("digest", _DIGEST, nullable=False),
    Column("media_type", String),  # of a recorded manifest; null while the digest is only known from an edge
    Column("size", _ID),
    UniqueConstraint("repository_id", "digest", name="uq_contents_digest"),
    Index("ix_contents_digest", "digest"),
)

#: The media type and size are those that this parent gives: an OCI and a Docker manifest name one layer by different types.
edges = Table(
    "edges",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("parent_id", _ID, ForeignKey("contents.id"), nullable=False),
    Column("child_id", _ID, ForeignKey("contents.id"), nullable=False),
    Column("kind", Parsed(Kind), nullable=False),
    Column("media_type", String, nullable=False),
    Column("size", _ID, nullable=False),
    UniqueConstraint("parent_id", "child_id", "kind", name="uq_edges"),
    Index("ix_edges_child", "child_id", "parent_id", "kind"),  # covers the walk upwards
)

verdicts = Table(
    "verdicts",
    metadata,
    Column("content_id", _ID, ForeignKey("contents.id"), primary_key=True, autoincrement=False),
    Column("fingerprint", String, primary_key=True),
    Column("accepted", Boolean, nullable=False),
    Column("reasons", _LINES, nullable=False),
    Column("decided_at", Instant, nullable=False),
    Column("valid_until", Instant),
    Column("signers", _LINES),
)

#: By which evidence a manifest was ever accepted, by questions that last longer than fingerprints do.
grounds = Table(
    "grounds",
    metadata,
    Column("content_id", _ID, ForeignKey("contents.id"), primary_key=True, autoincrement=False),
    Column("question", String, primary_key=True),
    Column("evidence_id", _ID, ForeignKey("contents.id"), primary_key=True, autoincrement=False),
)

blocks = Table(
    "blocks",
    metadata,
    Column("digest", _DIGEST, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("by", String, nullable=False),
    Column("at", Instant, nullable=False),
)

#: What operators did that is no change of a pin: those are in ``pin_changes``.
operator_log = Table(
    "operator_log",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("at", Instant, nullable=False),
    Column("by", String, nullable=False),
    Column("action", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("reason", Text, nullable=False),
)

#: AUTOINCREMENT: a number is never given twice, also after pruning.
notices = Table(
    "notices",
    metadata,
    Column("sequence", _ID, primary_key=True),
    Column("kind", String, nullable=False),
    Column("subject", String, nullable=False),
    sqlite_autoincrement=True,
)

#: How one image differs from another one that a tag was overwritten with.
classifications = Table(
    "classifications",
    metadata,
    Column("repository", _REPOSITORY, primary_key=True),
    Column("before", _DIGEST, primary_key=True),
    Column("after", _DIGEST, primary_key=True),
    Column("document", Parsed(_parse_details, _write_details), nullable=False),
    Column("at", Instant, nullable=False),
)

#: Which process does what only one should do, and until when.
leases = Table(
    "leases",
    metadata,
    Column("name", String, primary_key=True),
    Column("holder", String, nullable=False),
    Column("until", Instant, nullable=False),
)

#: What is to be told, in its order. AUTOINCREMENT: a sink's position stays right after pruning.
outbox = Table(
    "outbox",
    metadata,
    Column("sequence", _ID, primary_key=True),
    Column("id", String, nullable=False, unique=True),
    Column("event_id", _ID, ForeignKey("events.id"), nullable=False),
    Column("resolved", Boolean, nullable=False),
    Column("at", Instant, nullable=False),
    Index("ix_outbox_event", "event_id"),
    sqlite_autoincrement=True,
)

#: To whom: up to where the outbox was looked through for each, and how it does.
alert_sinks = Table(
    "alert_sinks",
    metadata,
    Column("name", String, primary_key=True),
    Column("position", _ID, nullable=False),
    Column("seen_at", Instant, nullable=False),  # when a server last had it in its configuration
    Column("delivered", _ID, nullable=False),
    Column("rejected", _ID, nullable=False),
    Column("failures", _ID, nullable=False),
    Column("paused", _ID, nullable=False),  # seconds that it was left alone since it last took something
    Column("failing_since", Instant),
    Column("retry_at", Instant),
    Column("error", Text),
    Column("delivered_at", Instant),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("sink", String, nullable=False),
    Column("sequence", _ID, ForeignKey("outbox.sequence"), nullable=False),
    Column("event_id", _ID, nullable=False),
    Column("state", Parsed(DeliveryState), nullable=False),
    Column("attempts", _ID, nullable=False),
    Column("due_at", Instant),
    Column("ended_at", Instant),
    Column("error", Text),
    UniqueConstraint("sink", "sequence", name="uq_deliveries"),
    Index("ix_deliveries_due", "sink", "state", "due_at", "id"),
    Index("ix_deliveries_event", "sink", "event_id", "state", "id"),
    Index("ix_deliveries_sequence", "sequence"),
    Index("ix_deliveries_ended", "ended_at"),
)

#: The ledger: one row for each entry. The body is what is hashed; kind, subject and time say again what it says, for searches.
#: ``hashes`` are the nodes of the tree that the entry completes, from its leaf up, ``root`` that of the tree that ends with it.
ledger = Table(
    "ledger",
    metadata,
    Column("number", _ID, primary_key=True, autoincrement=False),
    Column("at", Instant, nullable=False),
    Column("kind", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("body", Text, nullable=False),
    Column("hashes", LargeBinary, nullable=False),
    Column("root", LargeBinary, nullable=False),
    Index("ix_ledger_kind", "kind", "number"),
    Index("ix_ledger_subject", "subject", "number"),
)

#: Signed notes about the ledger, as they were handed out.
checkpoints = Table(
    "checkpoints",
    metadata,
    Column("size", _ID, primary_key=True, autoincrement=False),
    Column("at", Instant, nullable=False),
    Column("note", Text, nullable=False),
)

#: What the ledger says of refusals, so that each is said once. ``cause`` tells apart why the same digest was refused.
refusals = Table(
    "refusals",
    metadata,
    Column("subject", String, primary_key=True),
    Column("digest", _DIGEST, primary_key=True),
    Column("cause", String, primary_key=True),
    Column("at", Instant, nullable=False),
    Index("ix_refusals_at", "at"),
)

#: How far the watcher has come in each of its rounds through what there is of a registry (storage.watching).
watch_hands = Table(
    "watch_hands",
    metadata,
    Column("registry", String, primary_key=True),
    Column("round", String, primary_key=True),
    Column("position", _ID, nullable=False),
    Column("at", Instant, nullable=False),
)

#: Repositories that have, or had, pins: their lists of tags are watched.
watched_repositories = Table(
    "watched_repositories",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("name", _REPOSITORY, nullable=False, unique=True),
    Column("registry", String, nullable=False),
    Column("phase", _ID, nullable=False),
    Column("soon", Boolean, nullable=False),  # before its turn: it is new here, or one of its tags was overwritten
    Column("listed_at", Instant),
    Column("listed_to", String),  # the last tag of a list that was cut; null: it was whole
    Index("ix_watched_repositories_phase", "registry", "phase"),
)
_listed_soon = watched_repositories.c.soon.is_(True)
Index("ix_watched_repositories_soon", watched_repositories.c.registry, sqlite_where=_listed_soon)

#: The tags that were there when a repository was last listed.
known_tags = Table(
    "known_tags",
    metadata,
    Column("repository_id", _ID, ForeignKey("watched_repositories.id"), primary_key=True, autoincrement=False),
    Column("tag", String, primary_key=True),
    Column("first_seen", Instant, nullable=False),
)

#: Whoever was handed something: principal, address and user agent.
clients = Table(
    "clients",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("principal", String, nullable=False),
    Column("address", String, nullable=False),
    Column("agent", String, nullable=False),
    UniqueConstraint("principal", "address", "agent", name="uq_clients"),
)

#: What was handed out: a manifest of a repository, by a tag or (empty) by its digest.
pulled = Table(
    "pulled",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("repository_id", _ID, ForeignKey("repositories.id"), nullable=False),
    Column("tag", String, nullable=False),
    Column("digest", _DIGEST, nullable=False),
    UniqueConstraint("digest", "repository_id", "tag", name="uq_pulled"),
    Index("ix_pulled_repository", "repository_id", "tag"),
)

#: Who was handed what, when, and how often within a few seconds.
pulls = Table(
    "pulls",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("pulled_id", _ID, ForeignKey("pulled.id"), nullable=False),
    Column("client_id", _ID, ForeignKey("clients.id"), nullable=False),
    Column("first_at", Instant, nullable=False),
    Column("last_at", Instant, nullable=False),
    Column("fetched", _ID, nullable=False),  # answers with the manifest itself
    Column("resolved", _ID, nullable=False),  # answers with its digest
    Index("ix_pulls_pulled", "pulled_id", "last_at"),
    Index("ix_pulls_client", "client_id"),
    Index("ix_pulls_last", "last_at"),
)

#: How far the rounds have come that go through everything there is (storage.progress).
progress = Table(
    "progress",
    metadata,
    Column("name", String, primary_key=True),
    Column("position", String, nullable=False),
    Column("began_at", Instant, nullable=False),
    Column("done", _ID, nullable=False),
    Column("ended_at", Instant),
)
