"""The schema: made fresh, or brought up to date."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine

from storage import migrations, tables
from storage.database import Database
from storage.errors import DatabaseUnavailable, SchemaMismatch
from storage.pins import PinStore
from tests.unit.storage.values import APP, first_pin


def schema(connection: Connection) -> dict[str, object]:
    """Every table with its columns and references, in whichever order, and the statement of every index, white space aside."""
    ask = connection.exec_driver_sql
    found: dict[str, object] = {}
    for kind, name, sql in ask(
        "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'"
    ).all():
        if kind == "table":
            columns = {tuple(row)[1:] for row in ask(f"PRAGMA table_info({name})")}
            references = {tuple(row)[2:] for row in ask(f"PRAGMA foreign_key_list({name})")}
            unique = {tuple(part[2] for part in ask(f"PRAGMA index_info({row[1]})")) for row in ask(f"PRAGMA index_list({name})")}
            found[name] = columns, references, unique, "AUTOINCREMENT" in sql
        else:
            found[name] = "".join(sql.split())
    return found


def migrated(make: Callable[[Connection], None]) -> dict[str, object]:
    """The schema that ``make`` leaves in an empty database."""
    engine = create_engine("sqlite://")
    try:
        with engine.begin() as connection:
            make(connection)
            return schema(connection)
    finally:
        engine.dispose()


def test_a_migrated_database_is_like_a_fresh_one() -> None:
    """All migrations in a row and the tables as the program knows them are the same schema."""
    assert migrated(migrations.upgrade) == migrated(tables.metadata.create_all)


def test_the_known_revision_is_the_newest_migration() -> None:
    """``REVISION`` moves with the migrations, in one line without branches, numbered so that order can be told."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    script = ScriptDirectory.from_config(config)
    revisions = [step.revision for step in script.walk_revisions()]
    assert script.get_heads() == [tables.REVISION]
    assert revisions == sorted(revisions, reverse=True)
    assert all(revision.isdecimal() and len(revision) == 4 for revision in revisions)


async def set_revision(path: Path, revision: str) -> None:
    """Make a database whose schema claims to be ``revision``."""
    database = Database(path)
    await database.open()
    await PinStore(database).apply(first_pin())
    await database.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    connection.close()


@pytest.mark.parametrize("revision", ["9999", "a1b2c3"])
@pytest.mark.parametrize("read_only", [False, True])
async def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path, revision: str, read_only: bool) -> None:
    """A database that a newer version wrote is not touched; the message says what to do."""
    path = tmp_path / "tagstone.db"
    await set_revision(path, revision)
    before = path.read_bytes()
    with pytest.raises(SchemaMismatch, match=f"has schema {revision}, this version knows {tables.REVISION} at most"):
        await Database(path).open(read_only=read_only)
    assert path.read_bytes() == before


async def test_an_older_schema_is_migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening runs the migrations in one transaction; what was stored before is still there."""
    path = tmp_path / "tagstone.db"
    await set_revision(path, tables.REVISION)
    monkeypatch.setattr(tables, "REVISION", "9998")

    def upgrade(connection: Connection) -> None:
        connection.exec_driver_sql("ALTER TABLE pins ADD COLUMN colour VARCHAR")
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9998'")

    monkeypatch.setattr(migrations, "upgrade", upgrade)
    database = Database(path)
    await database.open()
    assert await PinStore(database).get(APP, "v1") == first_pin().new
    await database.close()
    await database.open()
    await database.close()


async def test_a_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a migration is undone, with either kind of failure, and the database still opens with the version that wrote it."""
    path = tmp_path / "tagstone.db"
    await set_revision(path, tables.REVISION)

    def breaks(connection: Connection) -> None:
        connection.exec_driver_sql("DROP TABLE pins")
        raise KeyError("colour")

    def refused(connection: Connection) -> None:
        connection.exec_driver_sql("DROP TABLE pins")
        connection.exec_driver_sql("DROP TABLE colours")

    with monkeypatch.context() as patch:
        patch.setattr(tables, "REVISION", "9998")
        patch.setattr(migrations, "upgrade", breaks)
        with pytest.raises(SchemaMismatch, match=r"cannot be migrated from schema \d{4}: 'colour'"):
            await Database(path).open()
        patch.setattr(migrations, "upgrade", refused)
        with pytest.raises(DatabaseUnavailable, match="no such table: colours"):
            await Database(path).open()
    database = Database(path)
    await database.open()
    assert await PinStore(database).get(APP, "v1") == first_pin().new
    await database.close()


async def test_a_revision_that_nobody_knows_cannot_be_migrated(tmp_path: Path) -> None:
    """A number below the first migration ends in a mismatch, told by Alembic."""
    path = tmp_path / "tagstone.db"
    await set_revision(path, "0000")
    with pytest.raises(SchemaMismatch, match="0000"):
        await Database(path).open()


async def test_who_only_reads_does_not_migrate(tmp_path: Path) -> None:
    """An older or missing schema is a mismatch for a reader, and stays as it is."""
    path = tmp_path / "tagstone.db"
    await set_revision(path, "0000")
    with pytest.raises(SchemaMismatch, match="has schema 0000, this version needs"):
        await Database(path).open(read_only=True)
    empty = tmp_path / "empty.db"
    empty.touch()
    with pytest.raises(SchemaMismatch, match="has schema none"):
        await Database(empty).open(read_only=True)
    assert empty.stat().st_size == 0


async def test_somebody_elses_database_is_left_alone(tmp_path: Path) -> None:
    """A SQLite file with other tables gets none of ours."""
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE recipes (name)")
    connection.close()
    with pytest.raises(SchemaMismatch, match="not Tagstone's"):
        await Database(path).open()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("recipes",)]
    connection.close()
