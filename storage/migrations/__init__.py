"""Migrations of the database's schema, run in this process by Alembic.

To change the schema: change :mod:`storage.tables`, add ``versions/r<number>_<what>.py`` with the next number as its revision,
and move ``storage.tables.REVISION`` to it. Migrations spell their tables out and never import :mod:`storage.tables`: they must
do tomorrow what they do today.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection


def upgrade(connection: Connection) -> None:
    """Bring the schema behind ``connection`` to the newest revision, within the caller's transaction.

    Raises what SQLAlchemy and Alembic raise. Alembic is imported here because it is slow to import and seldom needed.
    """
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
