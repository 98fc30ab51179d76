"""Databases as earlier versions left them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Column, Connection, MetaData, Table, create_engine

from storage import migrations, tables
from storage.records import Block, Pin, PinChange

_PINS = "name repository tag digest state pinned_at pinned_by reason checked_at candidate candidate_seen_at rejected version"
_CHANGES = "repository tag action at by reason from_digest to_digest"


def database_of_0002(path: Path, pins: Sequence[Pin], changes: Sequence[PinChange], blocks: Sequence[Block]) -> None:
    """Make a database of the schema before the ledger, with these rows."""
    engine = create_engine(f"sqlite:///{path}")
    try:
        with engine.begin() as connection:
            config = Config()
            config.set_main_option("script_location", str(Path(migrations.__file__).parent))
            config.attributes["connection"] = connection
            command.upgrade(config, "0002")
            _fill(connection, tables.pins, _PINS, pins)
            _fill(connection, tables.pin_changes, _CHANGES, changes)
            _fill(connection, tables.blocks, "digest reason by at", blocks)
    finally:
        engine.dispose()


def _fill(connection: Connection, table: Table, names: str, values: Sequence[Any]) -> None:
    """Insert by the columns that there were, whatever the table has now."""
    then = Table(table.name, MetaData(), *(Column(name, table.c[name].type) for name in names.split()))
    for value in values:
        connection.execute(then.insert().values({name: getattr(value, name) for name in names.split()}))
