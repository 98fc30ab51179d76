"""What happens to tags over time: severities, details and leases. Each section is one concern."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_TIME = sa.DateTime(timezone=True).with_variant(sa.String, "sqlite")


def upgrade() -> None:
    """Create and widen the tables."""
    _events()
    _leases()
    _verdicts()


def _events() -> None:
    op.add_column("events", sa.Column("severity", sa.String))
    op.add_column("events", sa.Column("details", sa.String))


def _leases() -> None:
    op.create_table(
        "leases",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("holder", sa.String, nullable=False),
        sa.Column("until", _TIME, nullable=False),
    )


def _verdicts() -> None:
    op.add_column("verdicts", sa.Column("signers", sa.String))
