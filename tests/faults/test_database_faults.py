"""The database under attack by circumstances: locks, damage, full disks, killed processes.

What must hold after each: a pin is wholly there, with its history, or not at all; every wait is bounded; every failure is a
DatabaseUnavailable with a line for people; and when the cause is gone, so is the failure.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection

from storage.database import Database
from storage.errors import DatabaseUnavailable, PinConflict
from storage.events import EventStore
from storage.notices import Notices
from storage.pins import PinStore
from storage.records import PinAction
from tests.unit.storage.values import APP, digest, first_pin, overwrite

NOBODY = 65534
BUSY = 0.3
#: Less than a database waits of itself.
AT_MOST = 4.5


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """A fresh database that does not wait long."""
    database = Database(tmp_path / "tagstone.db", busy_timeout=BUSY)
    await database.open()
    yield database
    await database.close()


async def consistent(path: Path) -> list[str]:
    """The tags that are pinned, after a look at everything: each with exactly its history, each history with its pin."""
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.close()
    database = Database(path)
    await database.open()
    try:
        store = PinStore(database)
        pins = await store.list(limit=100_000)
        for pin in pins:
            (change,) = await store.history(pin.repository, pin.tag)
            assert (change.action, change.to_digest, change.at) == (PinAction.PINNED, pin.digest, pin.pinned_at)
        count = "SELECT (SELECT count(*) FROM pin_changes), (SELECT count(*) FROM notices)"
        counts = await database.read(lambda connection: connection.exec_driver_sql(count).one())
        assert tuple(counts) == (len(pins), len(pins))
        return [pin.tag for pin in pins]
    finally:
        await database.close()


# -- locks ---------------------------------------------------------------------------------------------------------------


@contextmanager
def holding(path: Path, *statements: str) -> Iterator[None]:
    """Another process that runs ``statements`` and keeps what they lock until the end."""
    script = (
        "import sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "for statement in sys.argv[2:]:\n"
        "    connection.execute(statement).fetchall()\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    arguments = [sys.executable, "-c", script, str(path), *statements]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield
        finally:
            process.communicate("")


async def test_promise_53_a_locked_database_is_waited_for_within_bounds(database: Database) -> None:
    """While another process writes, a write fails after the bounded wait, reads answer at once, and later all is well."""
    store = PinStore(database)
    pin = await store.apply(first_pin())
    with holding(database.path, "BEGIN IMMEDIATE", "DELETE FROM pins"):
        start = time.monotonic()
        with pytest.raises(DatabaseUnavailable, match="another process keeps it locked"):
            await store.apply(first_pin("v2"))
        assert BUSY * 0.9 < time.monotonic() - start < AT_MOST
        assert await store.get(APP, "v1") == pin
    await store.apply(first_pin("v2"))
    assert await consistent(database.path) == ["v1", "v2"]


async def test_promise_53_a_lock_that_is_released_in_time_is_no_failure(tmp_path: Path) -> None:
    """A write that finds the database locked succeeds when the other process finishes within the wait."""
    database = Database(tmp_path / "tagstone.db", busy_timeout=30)
    await database.open()
    with holding(database.path, "BEGIN IMMEDIATE"):
        writing = asyncio.create_task(PinStore(database).apply(first_pin()))
        await asyncio.sleep(0.1)
        assert not writing.done()
    assert await writing == first_pin().new
    await database.close()


async def test_promise_53_an_exclusively_locked_database_lets_nothing_be_decided(tmp_path: Path) -> None:
    """When another program took the whole file, opening and reading fail within the bound; nothing is guessed."""
    path = tmp_path / "tagstone.db"
    database = Database(path, busy_timeout=BUSY)
    await database.open()
    await PinStore(database).apply(first_pin())
    await database.close()
    with holding(path, "PRAGMA locking_mode=EXCLUSIVE", "BEGIN EXCLUSIVE", "DELETE FROM pins"):
        start = time.monotonic()
        with pytest.raises(DatabaseUnavailable, match="another process keeps it locked"):
            await database.open()
        assert time.monotonic() - start < AT_MOST
    await database.open()
    assert await PinStore(database).get(APP, "v1") == first_pin().new
    await database.close()


# -- damage --------------------------------------------------------------------------------------------------------------


async def test_promise_53_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """Garbage in place of the database: told as such at opening, and left as it is."""
    path = tmp_path / "tagstone.db"
    garbage = b"not a database at all, but long enough to have a header" * 100
    path.write_bytes(garbage)
    for read_only in (False, True):
        with pytest.raises(DatabaseUnavailable, match="it is not a database"):
            await Database(path).open(read_only=read_only)
    assert path.read_bytes() == garbage


async def test_promise_53_damage_in_the_middle_is_an_outage(tmp_path: Path) -> None:
    """With every page but the first overwritten, no question about a pin is answered with 'there is none'."""
    path = tmp_path / "tagstone.db"
    database = Database(path)
    await database.open()
    store = PinStore(database)
    for number in range(200):
        await store.apply(first_pin(f"v{number}", what=number))
    await database.close()
    whole = path.read_bytes()

    async def ask_for_all() -> None:
        await database.open()
        try:
            for number in range(200):
                assert await store.get(APP, f"v{number}") is not None
        finally:
            await database.close()

    path.write_bytes(whole[:4096] + b"\xa5" * (len(whole) - 4096))
    with pytest.raises(DatabaseUnavailable, match="it is damaged; restore it from a backup"):
        await ask_for_all()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatabaseUnavailable):
        await ask_for_all()
    path.write_bytes(whole)
    await ask_for_all()


@contextmanager
def unprivileged() -> Iterator[Path]:
    """A folder of a user without privileges, and this process being that user: root may write everywhere."""
    folder = Path(tempfile.mkdtemp(prefix="tagstone-faults-"))
    root = os.geteuid() == 0
    try:
        if root:
            os.chown(folder, NOBODY, NOBODY)
            os.setegid(NOBODY)
            os.seteuid(NOBODY)
        yield folder
    finally:
        if root:
            os.seteuid(0)
            os.setegid(0)
        folder.chmod(0o700)
        shutil.rmtree(folder)


async def test_promise_52_a_read_only_folder_is_told() -> None:
    """No folder can be made, no file created, no existing file opened for writing: each is one clear line."""
    with unprivileged() as folder:
        path = folder / "tagstone.db"
        database = Database(path)
        await database.open()
        await database.close()
        path.chmod(0o400)
        folder.chmod(0o500)
        for unwritable in (path, folder / "other.db", folder / "deeper" / "tagstone.db"):
            with pytest.raises(DatabaseUnavailable, match=f"database {unwritable}: Permission denied"):
                await Database(unwritable).open()
        folder.chmod(0o700)
        path.chmod(0o600)
        await database.open()
        assert await PinStore(database).get(APP, "v1") is None
        await database.close()


async def test_promise_52_a_folder_that_became_read_only_is_told() -> None:
    """A current database whose log cannot be made next to it does not open, and does again when permission is back."""
    with unprivileged() as folder:
        path = folder / "tagstone.db"
        database = Database(path)
        await database.open()
        await PinStore(database).apply(first_pin())
        await database.close()
        folder.chmod(0o500)
        with pytest.raises(DatabaseUnavailable, match=r"it cannot be opened|it is read-only"):
            await database.open()
        folder.chmod(0o700)
        await database.open()
        await PinStore(database).apply(first_pin("v2"))
        await database.close()
        assert await consistent(path) == ["v1", "v2"]


# -- full disks ----------------------------------------------------------------------------------------------------------


async def test_promise_52_a_full_database_refuses_cleanly_and_recovers(database: Database) -> None:
    """When no page can be added, the write fails as a whole and says so; reads go on; with space, so do writes."""
    store = PinStore(database)

    def limit(connection: Connection, pages: int) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")

    await database.write(limit, 1)  # SQLite makes it as many as there are
    applied: list[str] = []

    async def fill() -> None:
        for number in range(1000):
            await store.apply(first_pin(f"v{number:04}", what=number))
            applied.append(f"v{number:04}")

    with pytest.raises(DatabaseUnavailable, match="the disk is full"):
        await fill()
    assert [pin.tag for pin in await store.list(limit=1000)] == applied
    with pytest.raises(DatabaseUnavailable, match="the disk is full"):
        await store.apply(first_pin("big" * 20))
    await database.write(limit, 1_000_000)
    await store.apply(first_pin("w"))
    assert await consistent(database.path) == [*applied, "w"]


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """No file of this process may grow beyond ``limit`` bytes: writes there fail in the system itself."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_promise_52_the_system_refuses_to_write_at_any_offset(database: Database) -> None:
    """The log may grow by this much and no further: whichever write fails, the pin is not there, and later it is."""
    store = PinStore(database)
    await store.apply(first_pin("first"))
    log = Path(f"{database.path}-wal")
    refusals: list[str] = []
    for number, room in enumerate(range(0, 40_000, 1300)):
        write = first_pin(f"v{number:02}", what=number)
        with file_size_limit(log.stat().st_size + room):
            try:
                await store.apply(write)
            except DatabaseUnavailable as error:
                refusals.append(str(error))
                assert await store.get(APP, f"v{number:02}") is None
        await store.apply(write)
    assert len(refusals) > 5
    assert all("the disk" in refusal for refusal in refusals)
    assert len(await consistent(database.path)) == number + 1 + 1


# -- killed processes ----------------------------------------------------------------------------------------------------

WRITER = """
import asyncio, json, os, pathlib, signal, sys
from storage.database import Database
from storage import pins as pins_module
from storage.pins import PinStore
from tests.unit.storage.values import first_pin

async def main(path, name, stop_after):
    database = Database(pathlib.Path(path))
    await database.open()
    store = PinStore(database)
    print("ready", flush=True)
    for number in range(100000):
        write = first_pin(f"{name}-{number:05}", what=number)
        if stop_after == number:
            def inside(connection):
                pins_module._apply(connection, write)
                os.kill(os.getpid(), signal.SIGKILL)
            await database.write(inside)
        await store.apply(write)
        print(write.change.tag, flush=True)

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def writer(path: Path, name: str, stop_after: int = -1) -> subprocess.Popen[str]:
    """A process that pins one tag after the other and says so; killed by itself within the transaction ``stop_after``."""
    arguments = [sys.executable, "-c", WRITER, str(path), name, str(stop_after)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


async def test_promise_07_a_process_killed_within_the_transaction_leaves_no_pin(tmp_path: Path) -> None:
    """kill -9 after everything was written and before the commit: the pin, its history and its notice are not there."""
    path = tmp_path / "tagstone.db"
    process = await asyncio.to_thread(writer, path, "a", 3)
    out, _ = await asyncio.to_thread(process.communicate)
    assert process.returncode == -signal.SIGKILL
    assert out.split() == ["a-00000", "a-00001", "a-00002"]
    assert await consistent(path) == out.split()


async def test_promise_51_a_process_killed_at_any_moment_loses_nothing_it_acknowledged(tmp_path: Path) -> None:
    """kill -9 under load, with another process writing on: every acknowledged pin is there, at most one more, all whole."""
    path = tmp_path / "tagstone.db"
    first, second = await asyncio.gather(asyncio.to_thread(writer, path, "a"), asyncio.to_thread(writer, path, "b"))
    assert first.stdout is not None
    assert second.stdout is not None
    acknowledged = [first.stdout.readline().strip() for _ in range(20)]
    first.kill()
    acknowledged += first.stdout.read().split()
    survivor = [second.stdout.readline().strip() for _ in range(20)]
    second.kill()
    survivor += second.stdout.read().split()
    first.wait()
    second.wait()
    first.stdout.close()
    second.stdout.close()
    found = await consistent(path)
    for name, told in (("a", acknowledged), ("b", survivor)):
        there = [tag for tag in found if tag.startswith(name)]
        assert there[: len(told)] == told
        assert len(there) <= len(told) + 1


async def test_promise_51_a_log_torn_at_any_byte_opens_to_whole_pins(database: Database, tmp_path: Path) -> None:
    """A power cut may leave any beginning of the log: whatever is there, the pins are the first so many, each whole."""
    await database.close()
    await database.open()  # with the schema in the file itself, the log holds the pins only
    store = PinStore(database)
    for number in range(8):
        await store.apply(first_pin(f"v{number}", what=number))
    log = Path(f"{database.path}-wal").read_bytes()
    main = database.path.read_bytes()
    seen = set()
    for cut in range(0, len(log) + 1, 9973):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "tagstone.db").write_bytes(main)
        (folder / "tagstone.db-wal").write_bytes(log[:cut])
        copy = Database(folder / "tagstone.db")
        await copy.open()
        await copy.close()
        tags = await consistent(folder / "tagstone.db")
        assert tags == [f"v{number}" for number in range(len(tags))]
        seen.add(len(tags))
    assert {0, 7} <= seen


# -- races ---------------------------------------------------------------------------------------------------------------

RACER = """
import asyncio, json, pathlib, sys
from storage.database import Database
from storage.errors import PinConflict
from storage.pins import PinStore
from tests.unit.storage.values import first_pin

async def main(path, name, rounds):
    database = Database(pathlib.Path(path))
    await database.open()
    store = PinStore(database)
    print("ready", flush=True)
    sys.stdin.readline()
    won = []
    for number in range(rounds):
        try:
            await store.apply(first_pin(f"v{number}", what=f"{name} {number}"))
        except PinConflict:
            continue
        won.append(number)
    print(json.dumps(won), flush=True)
    await database.close()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


async def test_promise_05_two_processes_race_for_the_same_tags_and_one_wins_each(tmp_path: Path) -> None:
    """First pulls in two processes, which also create the database together: each tag has one winner, and means its digest."""
    path = tmp_path / "new" / "tagstone.db"
    rounds = 40
    racers = {}
    for name in ("one", "two"):
        arguments = [sys.executable, "-c", RACER, str(path), name, str(rounds)]
        racers[name] = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for process in racers.values():
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == "ready\n"
    outs = await asyncio.gather(*(asyncio.to_thread(process.communicate, "go\n") for process in racers.values()))
    won = {name: json.loads(out) for name, (out, _) in zip(racers, outs, strict=True)}
    assert sorted(won["one"] + won["two"]) == list(range(rounds))
    assert sorted(await consistent(path)) == sorted(f"v{number}" for number in range(rounds))
    database = Database(path)
    await database.open()
    for name, numbers in won.items():
        for number in numbers:
            pin = await PinStore(database).get(APP, f"v{number}")
            assert pin is not None
            assert pin.digest == digest(f"{name} {number}")
    await database.close()


async def test_promise_05_many_writers_on_one_pin_make_one_chain(tmp_path: Path) -> None:
    """Twenty concurrent writes that all expect the same pin: one wins, nineteen conflict, one line of history is added."""
    database = Database(tmp_path / "tagstone.db", busy_timeout=30)
    await database.open()
    store = PinStore(database)
    pin = await store.apply(first_pin())
    assert pin is not None
    outcomes = await asyncio.gather(*(store.apply(overwrite(pin, number)) for number in range(20)), return_exceptions=True)
    assert sum(isinstance(outcome, PinConflict) for outcome in outcomes) == 19
    assert len(await store.history(APP, "v1")) == 2
    assert len(await EventStore(database).list()) == 1
    assert await Notices(database).latest() == 2
    await database.close()
