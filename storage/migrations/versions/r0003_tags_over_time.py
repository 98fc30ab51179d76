"""What happens to tags over time: severities, details and leases. Each section is one concern."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_TIME = sa.DateTime(timezone=True).with_variant(sa.String, "sqlite")


def upgrade() -> None:
    """Create and widen the tables."""
    _events()
    _alerts()
    _leases()
    _progress()
    _pulls()
    _verdicts()
    _classifications()
    _ledger()
    _pins()
    _watching()


def _events() -> None:
    op.add_column("events", sa.Column("severity", sa.String))
    op.add_column("events", sa.Column("details", sa.String))
    op.create_index("ix_events_closed", "events", ["closed_at"])


def _alerts() -> None:
    op.create_table(
        "outbox",
        sa.Column("sequence", _ID, primary_key=True),
        sa.Column("id", sa.String, nullable=False, unique=True),
        sa.Column("event_id", _ID, sa.ForeignKey("events.id"), nullable=False),
        sa.Column("resolved", sa.Boolean, nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_outbox_event", "outbox", ["event_id"])
    op.create_table(
        "alert_sinks",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("position", _ID, nullable=False),
        sa.Column("seen_at", _TIME, nullable=False),
        sa.Column("delivered", _ID, nullable=False),
        sa.Column("rejected", _ID, nullable=False),
        sa.Column("failures", _ID, nullable=False),
        sa.Column("paused", _ID, nullable=False),
        sa.Column("failing_since", _TIME),
        sa.Column("retry_at", _TIME),
        sa.Column("error", sa.Text),
        sa.Column("delivered_at", _TIME),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("sink", sa.String, nullable=False),
        sa.Column("sequence", _ID, sa.ForeignKey("outbox.sequence"), nullable=False),
        sa.Column("event_id", _ID, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("attempts", _ID, nullable=False),
        sa.Column("due_at", _TIME),
        sa.Column("ended_at", _TIME),
        sa.Column("error", sa.Text),
        sa.UniqueConstraint("sink", "sequence", name="uq_deliveries"),
    )
    op.create_index("ix_deliveries_due", "deliveries", ["sink", "state", "due_at", "id"])
    op.create_index("ix_deliveries_event", "deliveries", ["sink", "event_id", "state", "id"])
    op.create_index("ix_deliveries_sequence", "deliveries", ["sequence"])
    op.create_index("ix_deliveries_ended", "deliveries", ["ended_at"])


def _leases() -> None:
    op.create_table(
        "leases",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("holder", sa.String, nullable=False),
        sa.Column("until", _TIME, nullable=False),
    )


def _progress() -> None:
    op.create_table(
        "progress",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("position", sa.String, nullable=False),
        sa.Column("began_at", _TIME, nullable=False),
        sa.Column("done", _ID, nullable=False),
        sa.Column("ended_at", _TIME),
    )


def _pulls() -> None:
    op.create_table(
        "clients",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("principal", sa.String, nullable=False),
        sa.Column("address", sa.String, nullable=False),
        sa.Column("agent", sa.String, nullable=False),
        sa.UniqueConstraint("principal", "address", "agent", name="uq_clients"),
    )
    op.create_table(
        "pulled",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("repository_id", _ID, sa.ForeignKey("repositories.id"), nullable=False),
        sa.Column("tag", sa.String, nullable=False),
        sa.Column("digest", sa.String, nullable=False),
        sa.UniqueConstraint("digest", "repository_id", "tag", name="uq_pulled"),
    )
    op.create_index("ix_pulled_repository", "pulled", ["repository_id", "tag"])
    op.create_table(
        "pulls",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("pulled_id", _ID, sa.ForeignKey("pulled.id"), nullable=False),
        sa.Column("client_id", _ID, sa.ForeignKey("clients.id"), nullable=False),
        sa.Column("first_at", _TIME, nullable=False),
        sa.Column("last_at", _TIME, nullable=False),
        sa.Column("fetched", _ID, nullable=False),
        sa.Column("resolved", _ID, nullable=False),
    )
    op.create_index("ix_pulls_pulled", "pulls", ["pulled_id", "last_at"])
    op.create_index("ix_pulls_client", "pulls", ["client_id"])
    op.create_index("ix_pulls_last", "pulls", ["last_at"])
    # Whoever looks for the images of a layer starts from its digest in any repository.
    op.create_index("ix_contents_digest", "contents", ["digest"])


def _classifications() -> None:
    op.create_table(
        "classifications",
        sa.Column("repository", sa.String, primary_key=True),
        sa.Column("before", sa.String, primary_key=True),
        sa.Column("after", sa.String, primary_key=True),
        sa.Column("document", sa.String, nullable=False),
        sa.Column("at", _TIME, nullable=False),
    )


def _verdicts() -> None:
    op.add_column("verdicts", sa.Column("signers", sa.String))


def _ledger() -> None:
    op.create_table(
        "ledger",
        sa.Column("number", _ID, primary_key=True, autoincrement=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("hashes", sa.LargeBinary, nullable=False),
        sa.Column("root", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_ledger_kind", "ledger", ["kind", "number"])
    op.create_index("ix_ledger_subject", "ledger", ["subject", "number"])
    op.create_table(
        "checkpoints",
        sa.Column("size", _ID, primary_key=True, autoincrement=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
    )
    op.create_table(
        "refusals",
        sa.Column("subject", sa.String, primary_key=True),
        sa.Column("digest", sa.String, primary_key=True),
        sa.Column("cause", sa.String, primary_key=True),
        sa.Column("at", _TIME, nullable=False),
    )
    op.create_index("ix_refusals_at", "refusals", ["at"])


def _pins() -> None:
    op.add_column("pins", sa.Column("signers", sa.String))
    op.add_column("pins", sa.Column("judgement", sa.String))
    op.add_column("pins", sa.Column("approvals", sa.String, nullable=False, server_default="[]"))
    op.add_column("pins", sa.Column("stale_at", _TIME))


def _watching() -> None:
    op.add_column("pins", sa.Column("registry", sa.String))
    op.add_column("pins", sa.Column("phase", _ID))
    op.add_column("pins", sa.Column("verdict_phase", _ID))
    op.add_column("pins", sa.Column("verified_at", _TIME))
    # 48 random bits: anywhere in the round.
    op.execute(
        "UPDATE pins SET registry = substr(name, 1, instr(name, '/') - 1), "
        "phase = random() & 281474976710655, verdict_phase = random() & 281474976710655"
    )
    with op.batch_alter_table("pins") as pins:
        pins.alter_column("registry", nullable=False)
        pins.alter_column("phase", nullable=False)
        pins.alter_column("verdict_phase", nullable=False)
        pins.create_index("ix_pins_phase", ["registry", "phase"])
        pins.create_index("ix_pins_verdict_phase", ["registry", "verdict_phase"])
    op.create_table(
        "watch_hands",
        sa.Column("registry", sa.String, primary_key=True),
        sa.Column("round", sa.String, primary_key=True),
        sa.Column("position", _ID, nullable=False),
        sa.Column("at", _TIME, nullable=False),
    )
    repositories = op.create_table(
        "watched_repositories",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("name", sa.String, nullable=False, unique=True),
        sa.Column("registry", sa.String, nullable=False),
        sa.Column("phase", _ID, nullable=False),
        sa.Column("soon", sa.Boolean, nullable=False),
        sa.Column("listed_at", _TIME),
        sa.Column("listed_to", sa.String),
    )
    op.create_index("ix_watched_repositories_phase", "watched_repositories", ["registry", "phase"])
    op.create_index(
        "ix_watched_repositories_soon", "watched_repositories", ["registry"], sqlite_where=repositories.c.soon.is_(True)
    )
    op.execute(
        "INSERT INTO watched_repositories (name, registry, phase, soon) "
        "SELECT repository, registry, random() & 281474976710655, 0 FROM pins GROUP BY repository"
    )
    op.create_table(
        "known_tags",
        sa.Column("repository_id", _ID, sa.ForeignKey("watched_repositories.id"), primary_key=True, autoincrement=False),
        sa.Column("tag", sa.String, primary_key=True),
        sa.Column("first_seen", _TIME, nullable=False),
    )
