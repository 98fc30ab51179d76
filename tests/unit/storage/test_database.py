"""Opening, reading and writing the database."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import InvalidRequestError

from storage import database as database_module
from storage.database import Database
from storage.errors import DatabaseUnavailable
from storage.pins import PinStore
from storage.tables import notices, pins, verdicts
from tests.tools import PATIENCE
from tests.unit.storage.values import APP, AT, digest, first_pin


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """A fresh database that does not wait long."""
    database = Database(tmp_path / "tagstone.db", busy_timeout=0.1)
    await database.open()
    yield database
    await database.close()


def add(connection: Connection, subject: str) -> None:
    """Write something small."""
    connection.execute(insert(notices).values(kind="test", subject=subject))


def subjects(connection: Connection) -> list[str]:
    """Read it back."""
    return list(connection.execute(select(notices.c.subject).order_by(notices.c.sequence)).scalars())


# -- opening -------------------------------------------------------------------------------------------------------------


async def test_a_fresh_database_belongs_to_its_owner_alone(tmp_path: Path) -> None:
    """Folder 0700, files 0600, whatever the name of the folder."""
    path = tmp_path / "über 100% #1?mode=memory" / "tagstone.db"
    database = Database(path)
    await database.open()
    await database.write(add, "a")
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    files = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert files == dict.fromkeys(("tagstone.db", "tagstone.db-wal", "tagstone.db-shm", "tagstone.db.lock"), 0o600)
    await database.close()
    assert sorted(file.name for file in path.parent.iterdir()) == ["tagstone.db", "tagstone.db.lock"]


async def test_what_was_written_is_there_after_reopening(database: Database) -> None:
    """Closing is idempotent; the same object may be opened again, but not twice at once."""
    await database.write(add, "a")
    with pytest.raises(RuntimeError, match="already open"):
        await database.open()
    await database.close()
    await database.close()
    await database.open()
    assert await database.read(subjects) == ["a"]


async def test_every_connection_keeps_the_promises(database: Database) -> None:
    """WAL, full synchronisation, foreign keys; a reader cannot write."""

    def state(connection: Connection) -> list[object]:
        subjects(connection)
        names = ("journal_mode", "synchronous", "foreign_keys", "query_only", "busy_timeout")
        return [connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in names]

    assert await database.write(state) == ["wal", 2, 1, 0, 100]
    assert await database.read(state) == ["wal", 2, 1, 1, 100]
    with pytest.raises(DatabaseUnavailable, match="it is read-only"):
        await database.read(add, "a")
    orphan = insert(verdicts).values(content_id=77, fingerprint="f", accepted=True, reasons=(), decided_at=AT)
    with pytest.raises(DatabaseUnavailable, match="FOREIGN KEY"):
        await database.write(lambda connection: connection.execute(orphan).close())


async def test_reading_only(database: Database) -> None:
    """Opened for reading, the database shows what others write, writes nothing, and is never created."""
    reader = Database(database.path)
    await reader.open(read_only=True)
    await database.write(add, "a")
    assert await reader.read(subjects) == ["a"]
    with pytest.raises(DatabaseUnavailable, match="opened for reading only"):
        await reader.write(add, "b")
    await reader.close()
    with pytest.raises(DatabaseUnavailable, match="there is no database at"):
        await Database(database.path.with_name("other.db")).open(read_only=True)
    assert not database.path.with_name("other.db").exists()


async def test_a_closed_database_cannot_be_asked(database: Database) -> None:
    """Before opening and after closing every question is refused, in the same words."""
    await database.close()
    for ask in (lambda: database.read(subjects), lambda: database.write(add, "a"), database.commit_mark):
        with pytest.raises(DatabaseUnavailable, match="is not open"):
            await ask()


async def test_a_file_that_vanishes_does_not_come_back_empty(tmp_path: Path) -> None:
    """New connections never create: a database that was removed under a running server is an outage, not an empty one."""
    database = Database(tmp_path / "tagstone.db")
    await database.open()
    for file in tmp_path.iterdir():
        file.unlink()

    beside, leave = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def keep(connection: Connection) -> None:
        loop.call_soon_threadsafe(beside.set)
        leave.wait(PATIENCE)  # the one connection that there was before

    keeping = asyncio.create_task(database.read(keep))
    await asyncio.wait_for(beside.wait(), PATIENCE)
    with pytest.raises(DatabaseUnavailable, match="it cannot be opened"):
        await database.read(subjects)
    leave.set()
    await keeping
    assert list(tmp_path.iterdir()) == []
    await database.close()


async def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """A file in the way, or a folder where the file should be."""
    (tmp_path / "file").touch()
    with pytest.raises(DatabaseUnavailable, match=r"file/tagstone.db: (Not a directory|File exists)"):
        await Database(tmp_path / "file" / "tagstone.db").open()
    with pytest.raises(DatabaseUnavailable, match="Is a directory"):
        await Database(tmp_path).open()


async def test_a_system_without_shared_memory_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where SQLite cannot switch to WAL (some network file systems), opening says so."""

    class Stubborn(sqlite3.Connection):
        def execute(self, sql: str, *_: object) -> sqlite3.Cursor:
            return super().execute("PRAGMA journal_mode" if sql == "PRAGMA journal_mode=WAL" else sql)

    real = sqlite3.connect
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", lambda *args, **named: real(*args, **(named | {"factory": Stubborn})))
        with pytest.raises(DatabaseUnavailable, match="WAL mode needs"):
            await Database(tmp_path / "tagstone.db").open()


async def test_a_migration_elsewhere_is_waited_for_and_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another process holds the lock file, opening a fresh database waits; when that takes too long, it gives up."""
    path = tmp_path / "tagstone.db"
    with Path(f"{path}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        monkeypatch.setattr(database_module, "MIGRATION_WAIT", 0.05)
        with pytest.raises(DatabaseUnavailable, match=r"under migration by another process for 0\.05 s"):
            await Database(path).open()
        monkeypatch.setattr(database_module, "MIGRATION_WAIT", 30)
        database = Database(path)
        opening = asyncio.create_task(database.open())
        await asyncio.sleep(0.05)
        assert not opening.done()
        fcntl.flock(lock, fcntl.LOCK_UN)
        async with asyncio.timeout(PATIENCE):
            await opening
    assert await database.read(subjects) == []
    await database.close()


async def test_a_current_database_opens_without_the_lock(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that start while one of them holds the lock file do not wait for it when there is nothing to do."""
    monkeypatch.setattr(database_module, "MIGRATION_WAIT", 0)
    with Path(f"{database.path}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        other = Database(database.path)
        await other.open()
        await other.close()


async def test_many_open_a_fresh_database_at_once(tmp_path: Path) -> None:
    """Whoever comes first makes the schema; all the others find it."""
    databases = [Database(tmp_path / "new" / "tagstone.db") for _ in range(6)]
    await asyncio.gather(*(database.open() for database in databases))
    for number, database in enumerate(databases):
        await database.write(add, str(number))
    assert await databases[0].read(subjects) == list("012345")
    await asyncio.gather(*(database.close() for database in databases))


def test_opening_a_current_database_does_not_import_alembic(tmp_path: Path) -> None:
    """Neither a fresh nor a current database pays for the migration machinery."""
    script = (
        "import asyncio, sys, pathlib\n"
        "from storage.database import Database\n"
        "async def main():\n"
        "    for _ in range(2):\n"
        "        database = Database(pathlib.Path(sys.argv[1]))\n"
        "        await database.open()\n"
        "        await database.close()\n"
        "asyncio.run(main())\n"
        "print(sorted({'alembic', 'sqlalchemy.dialects.postgresql'} & sys.modules.keys()))\n"
    )
    arguments = [sys.executable, "-c", script, str(tmp_path / "tagstone.db")]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout.strip() == "[]"


# -- reading and writing -------------------------------------------------------------------------------------------------


async def test_a_write_that_raises_is_undone(database: Database) -> None:
    """The exception comes out as it is, nothing of the transaction stays, and the next write works."""

    def fails(connection: Connection) -> None:
        add(connection, "a")
        raise LookupError("changed my mind")

    with pytest.raises(LookupError, match="changed my mind"):
        await database.write(fails)
    await database.write(add, "b")
    assert await database.read(subjects) == ["b"]


async def test_writers_of_one_process_wait_for_each_other(tmp_path: Path) -> None:
    """Many writes at once all get through, one after the other."""
    database = Database(tmp_path / "tagstone.db", busy_timeout=30)
    await database.open()
    await asyncio.gather(*(database.write(add, str(number)) for number in range(50)))
    assert sorted(await database.read(subjects), key=int) == [str(number) for number in range(50)]
    await database.close()


async def test_writes_that_wait_are_committed_together_and_fail_alone(database: Database) -> None:
    """What waited behind one write becomes visible at once; those that raised left nothing, and each heard its own error."""
    inside, leave = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slow(connection: Connection) -> None:
        loop.call_soon_threadsafe(inside.set)
        leave.wait(PATIENCE)
        add(connection, "slow")

    def fails(connection: Connection, name: str) -> None:
        add(connection, name)
        raise LookupError(name)

    orphan = insert(verdicts).values(content_id=77, fingerprint="f", accepted=True, reasons=(), decided_at=AT)
    tasks = [asyncio.create_task(database.write(slow))]
    await asyncio.wait_for(inside.wait(), PATIENCE)
    for number in range(6):
        tasks += [
            asyncio.create_task(database.write(add, f"a{number}")),
            asyncio.create_task(database.write(fails, f"f{number}")),
            asyncio.create_task(database.write(lambda connection: connection.execute(orphan).close())),
        ]
    await asyncio.sleep(0)
    before = await database.commit_mark()
    leave.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(each) for each in outcomes if isinstance(each, LookupError)] == [f"f{number}" for number in range(6)]
    assert len([each for each in outcomes if isinstance(each, DatabaseUnavailable) and "FOREIGN KEY" in str(each)]) == 6
    assert outcomes.count(None) == 7
    assert await database.read(subjects) == ["slow", *(f"a{number}" for number in range(6))]
    assert await database.commit_mark() != before


async def test_what_undoes_everything_is_told_to_everybody(database: Database) -> None:
    """Where SQLite itself gives a transaction up (a full disk), nothing of the group is there, and nobody is told that it is."""
    inside, leave = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slow(_: Connection) -> None:
        loop.call_soon_threadsafe(inside.set)
        leave.wait(PATIENCE)

    def given_up(connection: Connection) -> None:
        connection.exec_driver_sql("ROLLBACK")
        raise sqlite3.OperationalError("database or disk is full")

    tasks = [asyncio.create_task(database.write(slow))]
    await asyncio.wait_for(inside.wait(), PATIENCE)
    tasks += map(asyncio.create_task, (database.write(add, "a"), database.write(given_up), database.write(add, "b")))
    await asyncio.sleep(0)
    leave.set()
    first, *others = await asyncio.gather(*tasks, return_exceptions=True)
    assert first is None
    assert all(isinstance(each, DatabaseUnavailable) and "disk is full" in str(each) for each in others)
    await database.write(add, "c")
    assert await database.read(subjects) == ["c"]


async def test_what_an_exception_left_open_is_closed(database: Database) -> None:
    """A result that was not read to its end neither freezes what later reads see, nor keeps later writes out."""
    kept: list[BaseException] = []  # with their frames, and all that is in these
    gc.disable()
    try:
        for number in range(3):
            await database.write(add, f"a{number}")

        def stops(connection: Connection) -> None:
            rows = iter(connection.execute(select(notices.c.subject)))
            raise LookupError(next(rows).subject)

        def returns(connection: Connection) -> None:
            rows = iter(connection.execute(insert(notices).values(kind="test", subject="x").returning(notices.c.sequence)))
            raise LookupError(next(rows).sequence)

        for _ in range(3):
            with pytest.raises(LookupError) as caught:
                await database.read(stops)
            kept.append(caught.value)
        for ask in (database.write(add, "b"), database.write(returns), database.write(add, "c")):
            kept += [each for each in await asyncio.gather(ask, return_exceptions=True) if each is not None]
        outcomes = await asyncio.gather(
            *(database.write(*each) for each in ((add, "d"), (returns,), (add, "e"), (stops,), (add, "f"))),
            return_exceptions=True,
        )
        assert [type(each) for each in outcomes] == [type(None), LookupError, type(None), LookupError, type(None)]
        assert await database.read(subjects) == ["a0", "a1", "a2", "b", "c", "d", "e", "f"]
        assert len(kept) == 4
    finally:
        gc.enable()


async def test_an_end_of_iteration_is_an_error_like_any_other(database: Database) -> None:
    """The one exception that a future cannot carry neither hangs its caller nor those behind it."""

    def ends(_: Connection) -> str:
        return next(iter(()))

    for ask in (database.read, database.write):
        with pytest.raises(RuntimeError, match="ended by StopIteration"):
            await asyncio.wait_for(ask(ends), PATIENCE)
    await database.write(add, "a")
    assert await database.read(subjects) == ["a"]


async def test_closing_goes_on_where_its_caller_is_cancelled(database: Database) -> None:
    """Whoever closes next waits for the same end, and everything is closed then."""
    inside, leave = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slow(_: Connection) -> None:
        loop.call_soon_threadsafe(inside.set)
        leave.wait(PATIENCE)

    writing = asyncio.create_task(database.write(slow))
    await asyncio.wait_for(inside.wait(), PATIENCE)
    first = asyncio.create_task(database.close())
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    with pytest.raises(DatabaseUnavailable, match="is not open"):
        await database.read(subjects)
    second = asyncio.create_task(database.close())
    leave.set()
    await asyncio.wait_for(second, PATIENCE)
    await writing
    assert sorted(file.name for file in database.path.parent.iterdir()) == ["tagstone.db", "tagstone.db.lock"]


async def test_a_queue_of_writes_has_an_end(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes when too many wait is told at once that there is no room."""
    monkeypatch.setattr(database_module, "WAITING", 2)
    writes = [asyncio.create_task(database.write(add, str(number))) for number in range(3)]
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    assert [type(each) for each in outcomes] == [type(None), type(None), DatabaseUnavailable]


async def test_readers_do_not_wait_for_a_writer(database: Database) -> None:
    """While a write holds its transaction open, reads answer with what was committed before; more writers wait and give up."""
    inside, leave = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slow(connection: Connection) -> None:
        add(connection, "a")
        loop.call_soon_threadsafe(inside.set)
        connection.exec_driver_sql("SELECT wait()")

    def wait() -> int:
        leave.wait(PATIENCE)
        return 1

    await database.write(lambda connection: connection.connection.dbapi_connection.create_function("wait", 0, wait))  # type: ignore[union-attr]  # the driver's own, not of DBAPI
    writing = asyncio.create_task(database.write(slow))
    await inside.wait()
    assert await database.read(subjects) == []
    with pytest.raises(DatabaseUnavailable, match=r"no connection became free within 0\.3 s"):
        await database.write(add, "b")
    leave.set()
    await writing
    assert await database.read(subjects) == ["a"]


async def test_a_cancelled_caller_leaves_at_once_and_its_write_is_whole(database: Database) -> None:
    """Cancelling never stops a transaction in the middle: it ends by itself, and closing waits for it."""
    inside, leave = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slow(connection: Connection) -> None:
        add(connection, "a")
        loop.call_soon_threadsafe(inside.set)
        connection.exec_driver_sql("SELECT wait()")
        add(connection, "b")

    def wait() -> int:
        leave.wait(PATIENCE)
        return 1

    await database.write(lambda connection: connection.connection.dbapi_connection.create_function("wait", 0, wait))  # type: ignore[union-attr]  # the driver's own, not of DBAPI
    writing = asyncio.create_task(database.write(slow))
    await inside.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    closing = asyncio.create_task(database.close())
    await asyncio.sleep(0.02)
    assert not closing.done()
    leave.set()
    await closing
    await database.open()
    assert await database.read(subjects) == ["a", "b"]


async def test_cancelling_at_any_moment_leaves_the_database_usable(database: Database) -> None:
    """Reads and writes that are abandoned after a few steps of the loop leak nothing and lose nothing."""
    for steps in range(30):
        tasks = [asyncio.create_task(database.write(add, "a")), asyncio.create_task(database.read(subjects))]
        for _ in range(steps):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await database.close()
    await database.open()
    found = await database.read(subjects)
    assert 0 < len(found) <= 30


async def test_an_abandoned_failure_makes_no_noise(database: Database) -> None:
    """When nobody is left to be told, the exception of an abandoned read is dropped, not warned about."""

    def fails(connection: Connection) -> None:
        subjects(connection)
        raise LookupError("nobody hears")

    reading = asyncio.create_task(database.read(fails))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await database.close()


# -- values --------------------------------------------------------------------------------------------------------------


async def test_a_time_without_a_zone_is_the_callers_mistake(database: Database) -> None:
    """Naive times are refused in the caller's words, not as an outage."""
    store = PinStore(database)
    await store.apply(first_pin())
    with pytest.raises(ValueError, match="has no time zone"):
        await store.checked(APP, "v1", datetime(2026, 1, 1))  # noqa: DTZ001  (that is the mistake)


async def test_times_of_any_zone_come_back_as_utc(database: Database) -> None:
    """The same moment, whatever zone it was written in."""
    store = PinStore(database)
    await store.apply(first_pin(at=datetime.fromisoformat("2026-01-01T12:00:00.000001+02:00")))
    pin = await store.get(APP, "v1")
    assert pin is not None
    assert pin.pinned_at.isoformat() == "2026-01-01T10:00:00.000001+00:00"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("digest", "sha256:abc"),
        ("state", "eaten"),
        ("pinned_at", "yesterday"),
        ("checked_at", "12"),
        ("repository", "ghcr.io"),
        ("candidate", b"\x00\xff"),
    ],
)
async def test_promise_53_a_row_that_does_not_parse_is_an_outage(database: Database, column: str, value: object) -> None:
    """A damaged value is never half understood: the database is unavailable, and says which value it was."""
    store = PinStore(database)
    await store.apply(first_pin())
    with sqlite3.connect(database.path) as connection:
        connection.execute(f"UPDATE pins SET {column} = ?", (value,))
    connection.close()
    with pytest.raises(DatabaseUnavailable, match="damaged"):
        await store.get(APP, "v1")
    with pytest.raises(DatabaseUnavailable, match="damaged"):
        await store.list(limit=5)


@pytest.mark.parametrize("reasons", ["[1]", "{}", "nothing", '"text"'])
async def test_damaged_reasons_are_an_outage(database: Database, reasons: str) -> None:
    """Reasons are a list of lines or damage."""

    def damage(connection: Connection) -> None:
        connection.exec_driver_sql("INSERT INTO repositories VALUES (1, 'ghcr.io/acme/app')")
        connection.exec_driver_sql("INSERT INTO contents VALUES (1, 1, 'x', NULL, NULL)")
        values = "INSERT INTO verdicts VALUES (1, 'f', 1, ?, '2026-01-01T00:00:00.000000Z', NULL, NULL)"
        connection.exec_driver_sql(values, (reasons,))

    await database.write(damage)
    with pytest.raises(DatabaseUnavailable, match="damaged"):
        await database.read(lambda connection: connection.execute(select(verdicts)).all())


async def test_a_mistake_in_a_statement_is_told_as_sqlalchemy_tells_it(database: Database) -> None:
    """What is not the driver's failure still comes out as DatabaseUnavailable, with SQLAlchemy's words behind it."""
    with pytest.raises(DatabaseUnavailable) as caught:
        await database.read(lambda connection: connection.execute(select(pins)).scalar_one())
    assert isinstance(caught.value.__cause__, InvalidRequestError)
    with pytest.raises(DatabaseUnavailable, match="no such table: colours"):
        await database.read(lambda connection: connection.exec_driver_sql("SELECT * FROM colours").all())


async def test_a_value_of_another_type_is_stored_as_text_of_its_own(database: Database) -> None:
    """Digests are kept as people write them, so that the file can be read with any SQLite tool."""
    await PinStore(database).apply(first_pin())
    raw = await database.read(lambda connection: connection.exec_driver_sql("SELECT digest, pinned_at FROM pins").one())
    assert tuple(raw) == (str(digest("one")), "2026-01-02T03:04:05.678901Z")


async def test_commit_mark_recovers_from_a_lost_connection(database: Database) -> None:
    """When the connection that watches breaks, the next look uses a new one, and never calls that unchanged."""
    before = await database.commit_mark()
    assert await database.commit_mark() == before
    watch = database._watch
    assert watch is not None
    driver = watch.connection.driver_connection
    assert driver is not None
    driver.close()
    with pytest.raises(DatabaseUnavailable):
        await database.commit_mark()
    assert await database.commit_mark() != before
    await database.write(lambda connection: connection.execute(update(pins).values(reason="x")).close())
