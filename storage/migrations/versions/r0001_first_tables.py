"""Pins and their history, events, what is admitted and why, blocks, the operator log, notices."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_TIME = sa.DateTime(timezone=True).with_variant(sa.String, "sqlite")


def upgrade() -> None:
    """Create all tables of the first schema."""
    op.create_table(
        "pins",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("repository", sa.String, nullable=False),
        sa.Column("tag", sa.String, nullable=False),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("pinned_at", _TIME, nullable=False),
        sa.Column("pinned_by", sa.String, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("checked_at", _TIME, nullable=False),
        sa.Column("candidate", sa.String),
        sa.Column("candidate_seen_at", _TIME),
        sa.Column("rejected", sa.String),
        sa.Column("version", _ID, nullable=False),
    )
    op.create_index("ix_pins_state", "pins", ["state", "name"])
    op.create_table(
        "pin_changes",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("repository", sa.String, nullable=False),
        sa.Column("tag", sa.String, nullable=False),
        sa.Column("action", sa.String, nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("by", sa.String, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("from_digest", sa.String),
        sa.Column("to_digest", sa.String),
    )
    op.create_index("ix_pin_changes_tag", "pin_changes", ["repository", "tag"])
    op.create_table(
        "events",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("type", sa.String, nullable=False),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("digest", sa.String),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("closed_at", _TIME),
    )
    still_open = sa.text("closed_at IS NULL")
    op.create_index(
        "uq_events_open",
        "events",
        ["type", "subject", sa.text("coalesce(digest, '')")],
        unique=True,
        sqlite_where=still_open,
        postgresql_where=still_open,
    )
    op.create_index("ix_events_open", "events", ["id"], sqlite_where=still_open, postgresql_where=still_open)
    op.create_table(
        "repositories",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("name", sa.String, nullable=False, unique=True),
    )
    op.create_table(
        "contents",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("repository_id", _ID, sa.ForeignKey("repositories.id"), nullable=False),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("media_type", sa.String),
        sa.Column("size", _ID),
        sa.UniqueConstraint("repository_id", "digest", name="uq_contents_digest"),
    )
    op.create_table(
        "edges",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("parent_id", _ID, sa.ForeignKey("contents.id"), nullable=False),
        sa.Column("child_id", _ID, sa.ForeignKey("contents.id"), nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("media_type", sa.String, nullable=False),
        sa.Column("size", _ID, nullable=False),
        sa.UniqueConstraint("parent_id", "child_id", "kind", name="uq_edges"),
    )
    op.create_index("ix_edges_child", "edges", ["child_id", "parent_id", "kind"])
    op.create_table(
        "verdicts",
        sa.Column("content_id", _ID, sa.ForeignKey("contents.id"), primary_key=True, autoincrement=False),
        sa.Column("fingerprint", sa.String, primary_key=True),
        sa.Column("accepted", sa.Boolean, nullable=False),
        sa.Column("reasons", sa.String, nullable=False),
        sa.Column("decided_at", _TIME, nullable=False),
        sa.Column("valid_until", _TIME),
    )
    op.create_table(
        "blocks",
        sa.Column("digest", sa.String, primary_key=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("by", sa.String, nullable=False),
        sa.Column("at", _TIME, nullable=False),
    )
    op.create_table(
        "operator_log",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("by", sa.String, nullable=False),
        sa.Column("action", sa.String, nullable=False),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )
    op.create_table(
        "notices",
        sa.Column("sequence", _ID, primary_key=True),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("subject", sa.String, nullable=False),
        sqlite_autoincrement=True,
    )
