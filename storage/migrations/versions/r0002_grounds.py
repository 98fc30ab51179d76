"""By which evidence manifests were accepted. Of what was accepted before nothing is known: it is learned at the next."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "grounds",
        sa.Column("content_id", _ID, sa.ForeignKey("contents.id"), primary_key=True, autoincrement=False),
        sa.Column("question", sa.String, primary_key=True),
        sa.Column("evidence_id", _ID, sa.ForeignKey("contents.id"), primary_key=True, autoincrement=False),
    )
