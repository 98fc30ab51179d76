"""The database: one SQLite file in WAL mode, opened, migrated, read and written in short transactions.

Everything that is particular to SQLite stands in this module. The stores over it (:mod:`storage.pins`, :mod:`storage.catalog`,
:mod:`storage.notices`) hand in *transaction functions*: plain functions over a SQLAlchemy connection, which :meth:`Database.read`
and :meth:`Database.write` run.

What is promised:

* a write happens behind the writer's lock, which was taken before anything was read (``BEGIN IMMEDIATE``): it is wholly there,
  on disk (``synchronous=FULL``), or not at all; it never fails half-way because somebody else wrote;
* writes that wait for each other are committed together, each behind a savepoint of its own: the disk is waited for once for all
  of them, and one that raises is undone alone;
* a read runs on a connection of its own and never waits for writers;
* every wait is bounded: ``busy_timeout`` for other processes, and before that :data:`QUEUE_TIMES` as long for other writers
  of this process, who get on with their work while one waits;
* a caller that is cancelled leaves at once, its transaction still runs to its end; :meth:`Database.close` waits for all;
* transaction functions run in threads, never on the loop;
* every failure of the driver is a :class:`storage.errors.DatabaseUnavailable` with one line for people.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar
from weakref import WeakSet

from sqlalchemy import (
    CTE,
    URL,
    Connection,
    Engine,
    Integer,
    String,
    Table,
    bindparam,
    column,
    create_engine,
    event,
    func,
    insert,
    select,
    text,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError, SQLAlchemyError, StatementError
from sqlalchemy.schema import CreateIndex, CreateTable

from storage import tables
from storage.errors import DatabaseUnavailable, SchemaMismatch
from storage.files import Owner
from storage.locking import locked

#: Connections for reading, and threads for them; one of them is kept by :meth:`Database.commit_mark`.
READERS = 5
#: How many writes are committed together at most: whoever comes next waits for all of them.
GROUP = 64
#: How many writes may wait.
WAITING = 10_000
#: How many times ``busy_timeout`` a caller may wait for its turn within this process.
QUEUE_TIMES = 3
#: Seconds to wait while another process creates or migrates the database.
MIGRATION_WAIT = 60.0
#: The name of the file in a data directory.
FILE_NAME = "tagstone.db"
#: The first schema with a ledger.
_FIRST_WITH_LEDGER = 3
_REASONS = {
    sqlite3.SQLITE_BUSY: "another process keeps it locked",
    sqlite3.SQLITE_LOCKED: "another process keeps it locked",
    sqlite3.SQLITE_PERM: "the system does not permit it",
    sqlite3.SQLITE_READONLY: "it is read-only",
    sqlite3.SQLITE_IOERR: "the disk reports an error",
    sqlite3.SQLITE_CORRUPT: "it is damaged; restore it from a backup",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened",
    sqlite3.SQLITE_NOTADB: "it is not a database",
}

#: The edges above content ``:start`` but those of kind ``:without``, ``:depth`` steps up, ``:most`` at most: whole paths, newest
#: first; edges of kind BLOB only among the lowest ``:leaves`` steps. Ordering a recursion makes it depth-first in SQLite; where
#: that is not known, any order is right, only less lucky.
NEWEST_PATHS = text(
    "WITH RECURSIVE up(edge, node, depth) AS ("
    " VALUES (0, :start, 0)"
    " UNION SELECT edges.id, edges.parent_id, up.depth + 1 FROM up JOIN edges ON edges.child_id = up.node"
    " WHERE up.depth < :depth AND edges.kind <> :without AND (edges.kind <> 'blob' OR up.depth < :leaves)"
    " ORDER BY 3 DESC, 1 DESC LIMIT :most + 1"
    ") SELECT edge FROM up WHERE edge > 0"
).columns(column("edge", Integer))

#: A JSON array ``:seen`` of [name, digest, time]: note in pins when they were asked about, or judged; only in those that still
#: hold that digest. One statement for all of them: at each row that Python has to step over, pulls wait for their turn.
CHECKED = text(
    "UPDATE pins SET checked_at = json_extract(value, '$[2]') FROM json_each(:seen)"
    " WHERE pins.name = json_extract(value, '$[0]') AND pins.digest = json_extract(value, '$[1]')"
)
VERIFIED = text(
    "UPDATE pins SET verified_at = json_extract(value, '$[2]') FROM json_each(:seen)"
    " WHERE pins.name = json_extract(value, '$[0]') AND pins.digest = json_extract(value, '$[1]')"
)
#: A JSON object ``:moved``: new phases by name.
PINS_MOVED = text("UPDATE pins SET phase = value FROM json_each(:moved) WHERE pins.name = key")
REPOSITORIES_MOVED = text(
    "UPDATE watched_repositories SET phase = value FROM json_each(:moved) WHERE watched_repositories.name = key"
)

#: Take the tags of a JSON array ``:tags`` in, and answer those that are new; forget those that are not among them. A list may
#: hold tens of thousands, which are compared here and not in Python, where everything else would wait.
KNOW_TAGS = text(
    "INSERT INTO known_tags (repository_id, tag, first_seen) SELECT :number, value, :at FROM json_each(:tags)"
    " WHERE true ON CONFLICT DO NOTHING RETURNING tag"
).bindparams(bindparam("at", type_=tables.Instant))
FORGET_TAGS = text("DELETE FROM known_tags WHERE repository_id = :number AND tag NOT IN (SELECT value FROM json_each(:tags))")


def mapping_given(name: str) -> CTE:
    """The JSON object that is bound to ``name``, as a table of ``key`` and ``value`` that is searched and not gone through."""
    given = func.json_each(bindparam(name, type_=String)).table_valued(column("key", String), column("value", String))
    return select(given.c.key, given.c.value).cte(name).prefix_with("MATERIALIZED")


_T = TypeVar("_T")
_P = ParamSpec("_P")


def insert_or(table: Table) -> sqlite.Insert:
    """``INSERT`` that takes ``on_conflict_do_nothing`` and ``on_conflict_do_update`` (same words on PostgreSQL)."""
    return sqlite.insert(table)


@dataclass(frozen=True, slots=True, eq=False)
class _Write:
    """A transaction function that waits for its turn, and what is told its caller."""

    work: Callable[[Connection], Any]
    done: asyncio.Future[Any]  #: what it returned, alone in a tuple, or what it raised


class Database:
    """One database file. All methods are for one event loop; several processes may open the same file.

    ``busy_timeout`` is in seconds. What is created belongs to ``owner`` (by default: to this process), as SQLite sees to for its
    own files. After :meth:`open` fails, or after :meth:`close`, it may be opened again.
    """

    def __init__(self, path: Path, *, busy_timeout: float = 5.0, owner: Owner | None = None) -> None:
        self.path = Path(os.path.abspath(path))  # noqa: PTH100  (resolve() would follow links, which is for SQLite to do)
        self._busy_timeout = busy_timeout
        self._owner = owner
        self._reader: Engine | None = None
        self._writer: Engine | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._readers = asyncio.Semaphore(READERS - 1)
        self._queue: deque[_Write] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._watch: Connection | None = None
        self._watches = 0
        self._watch_lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing: asyncio.Task[None] | None = None  #: while it is there, nothing new begins

    async def open(self, *, read_only: bool = False) -> None:
        """Create the folder (0700) and the file (0600) if need be, and bring the schema up to date.

        ``read_only`` creates and migrates nothing. Raises :class:`DatabaseUnavailable` when the file is missing (read-only),
        damaged, no database or not to be opened, and :class:`SchemaMismatch` when its schema is newer than this version's, is
        not Tagstone's, cannot be migrated, or would have to be.
        """
        if self._reader is not None:
            raise RuntimeError(f"database {self.path} is already open")
        try:
            await self._open(read_only)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Wait for what is under way and close every connection. Idempotent, and whole also where a caller is cancelled."""
        if self._closing is None and self._threads is not None:
            self._closing = asyncio.create_task(self._close(self._threads))
            self._closing.add_done_callback(self._closed)
        if self._closing is not None:
            await asyncio.shield(self._closing)

    async def _close(self, threads: ThreadPoolExecutor) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks)
        try:
            with self._translated():
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(threads, _end, self._watch, self._reader, self._writer)
        finally:
            self._reader = self._writer = self._watch = self._threads = None
            threads.shutdown(wait=False)

    def _closed(self, task: asyncio.Task[None]) -> None:
        self._closing = None
        _look_at(task)

    async def read(self, work: Callable[Concatenate[Connection, _P], _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run ``work(connection, *args, **kwargs)``, which only reads. Each statement sees what was committed before it."""
        engine = self._open_engine(self._reader)

        def within() -> _T:
            with engine.connect() as connection:
                return work(connection, *args, **kwargs)

        async def run() -> _T:
            try:
                async with asyncio.timeout(QUEUE_TIMES * self._busy_timeout):
                    await self._readers.acquire()
            except TimeoutError as error:
                raise self._crowded() from error
            try:
                return await self._in_thread(within)
            finally:
                self._readers.release()

        return await self._run(run())

    async def snapshot(self, work: Callable[Concatenate[Connection, _P], _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """The same as :meth:`read`, but every statement sees what was committed before the first of them."""

        def within(connection: Connection) -> _T:
            connection.exec_driver_sql("BEGIN")  # ends with the connection's turn, which rolls back
            return work(connection, *args, **kwargs)

        return await self.read(within)

    async def write(self, work: Callable[Concatenate[Connection, _P], _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run ``work(connection, *args, **kwargs)``: all of it is committed when it returns, and undone when it raises."""
        if self._reader is not None and self._writer is None:
            raise DatabaseUnavailable(f"database {self.path} was opened for reading only")
        engine = self._open_engine(self._writer)
        if len(self._queue) >= WAITING:
            raise self._crowded()
        done: asyncio.Future[tuple[_T] | Exception] = asyncio.get_running_loop().create_future()
        write = _Write(lambda connection: work(connection, *args, **kwargs), done)
        self._queue.append(write)
        if self._writing is None or self._writing.done():
            self._writing = self._begun(self._write_all(engine))
        await asyncio.wait((done,), timeout=QUEUE_TIMES * self._busy_timeout)
        if write in self._queue:
            self._queue.remove(write)
            raise self._crowded()
        await asyncio.wait((done,))  # it is under way: what becomes of it is known only then
        outcome = done.result()
        if isinstance(outcome, Exception):
            with self._translated():
                raise outcome
        return outcome[0]

    async def commit_mark(self) -> tuple[int, int]:
        """A value that differs from the last one when anybody, in any process, has committed since. Cheap: reads no table."""
        engine = self._open_engine(self._reader)

        def look() -> tuple[int, int]:
            try:
                if self._watch is None:
                    self._watches += 1
                    self._watch = engine.connect()
                return self._watches, self._watch.exec_driver_sql("PRAGMA data_version").scalar_one()
            except SQLAlchemyError:
                broken, self._watch = self._watch, None
                if broken is not None:
                    broken.invalidate()
                    broken.close()
                raise

        async def run() -> tuple[int, int]:
            async with self._watch_lock:
                return await self._in_thread(look)

        return await self._run(run())

    # -- opening ----------------------------------------------------------------------------------------------------

    async def _open(self, read_only: bool) -> None:
        if read_only:
            if not self.path.exists():
                raise DatabaseUnavailable(f"there is no database at {self.path}")
        else:
            await asyncio.to_thread(self._create_file)
        self._threads = ThreadPoolExecutor(READERS + 1, "database")
        self._reader = self._engine("ro" if read_only else "rw", READERS, "query_only=ON")
        revision, in_wal = await self.read(_inspect)
        if read_only:
            if revision != tables.REVISION:
                self._refuse_newer(revision)
                raise SchemaMismatch(
                    f"database {self.path} has schema {revision or 'none'}, this version needs {tables.REVISION}: "
                    "start its server once to migrate it"
                )
            return
        self._writer = self._engine("rw", 1, "query_only=OFF")
        event.listen(self._writer, "begin", _begin_immediate)
        if revision == tables.REVISION and in_wal:
            return
        self._refuse_newer(revision)
        async with self._alone():
            await asyncio.to_thread(self._use_wal)
            await self.write(self._bring_up_to_date)

    def _create_file(self) -> None:
        with self._translated():
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._owner is not None:
                # Only what is new, and here: behind a link root may find any file, which must not be given away.
                with suppress(FileExistsError):
                    os.close(self._owned(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)))
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def _owned(self, fd: int) -> int:
        if self._owner is not None:
            try:
                self._owner.take(fd)
            except OSError:
                os.close(fd)
                raise
        return fd

    def _use_wal(self) -> None:
        with self._translated():
            connection = sqlite3.connect(self.path, timeout=self._busy_timeout)
            try:
                (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
            finally:
                connection.close()
            if mode != "wal":
                raise DatabaseUnavailable(
                    f"database {self.path}: its file system cannot share memory, which SQLite's WAL mode needs"
                )

    def _bring_up_to_date(self, connection: Connection) -> None:
        """Create or migrate, as the one who holds both locks; another process may have been here meanwhile."""
        revision, _ = _inspect(connection)
        if revision is None:
            if _table_names(connection):
                raise SchemaMismatch(f"database {self.path} holds tables that are not Tagstone's")
            for statement in _schema():
                connection.exec_driver_sql(statement)
            connection.execute(insert(tables.alembic_version).values(version_num=tables.REVISION))
        elif revision != tables.REVISION:
            self._refuse_newer(revision)
            from storage.migrations import upgrade

            try:
                upgrade(connection)
                if int(revision) < _FIRST_WITH_LEDGER:
                    from storage.ledger import begin

                    begin(connection, datetime.now(UTC))
            except SQLAlchemyError:
                raise
            except Exception as error:  # Alembic raises its own errors, a migration any
                raise SchemaMismatch(f"database {self.path} cannot be migrated from schema {revision}: {error}") from error

    def _refuse_newer(self, revision: str | None) -> None:
        if revision is not None and (not revision.isdecimal() or int(revision) > int(tables.REVISION)):
            raise SchemaMismatch(
                f"database {self.path} has schema {revision}, this version knows {tables.REVISION} at most: "
                "run the newer version that wrote it, or restore a backup from before the upgrade"
            )

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Hold the lock file: switching to WAL does not wait for SQLite's own lock, and a migration may take longer than it."""
        with self._translated():
            try:
                lock = await locked(self.path.with_name(f"{self.path.name}.lock"), MIGRATION_WAIT, self._owner)
            except TimeoutError as error:
                message = f"database {self.path} has been under migration by another process for {MIGRATION_WAIT:g} s"
                raise DatabaseUnavailable(message) from error
        try:
            yield
        finally:
            os.close(lock)

    def _engine(self, mode: str, connections: int, *pragmas: str) -> Engine:
        # mode=rw never creates: a file that vanishes under a running server must not come back empty.
        url = URL.create("sqlite", database=self.path.as_uri(), query={"mode": mode, "uri": "true"})
        engine = create_engine(
            url,
            pool_size=connections,
            max_overflow=0,
            connect_args={
                "timeout": self._busy_timeout,
                "isolation_level": None,  # no BEGIN but ours
                "check_same_thread": False,  # one after the other, by whichever thread has its turn
                "factory": _Driver,
            },
        )

        def configure(connection: Any, _: object) -> None:
            cursor = connection.cursor()
            for pragma in ("foreign_keys=ON", "synchronous=FULL", *pragmas):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

        def quiet(connection: _Driver, *_: object) -> None:
            connection.let_go()

        event.listen(engine, "connect", configure)
        event.listen(engine, "reset", quiet)
        return engine

    # -- running ----------------------------------------------------------------------------------------------------

    async def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run ``work`` as a task of its own, so that cancelling the caller never stops SQLite in the middle of a statement."""
        task = self._begun(work)
        await asyncio.wait((task,))
        return task.result()

    def _begun(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        _look_at(task)

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        with self._translated():
            return await asyncio.get_running_loop().run_in_executor(self._threads, _answered, work)

    async def _write_all(self, engine: Engine) -> None:
        """Commit what waits, a group at a time, until nothing does."""
        while self._queue:
            group = [self._queue.popleft() for _ in range(min(len(self._queue), GROUP))]
            works = [write.work for write in group]
            outcomes: Sequence[tuple[Any] | Exception]
            try:
                outcomes = await asyncio.get_running_loop().run_in_executor(self._threads, _answered, _committed, engine, works)
            except Exception as error:  # nothing of the group is there: each of its callers is told
                outcomes = [error] * len(group)
            except BaseException:  # the loop ends: what became of it nobody can know
                for write in (*group, *self._queue):
                    write.done.set_result(DatabaseUnavailable(f"database {self.path}: stopped in the middle of a write"))
                self._queue.clear()
                raise
            for write, outcome in zip(group, outcomes, strict=True):
                write.done.set_result(outcome)

    def _crowded(self) -> DatabaseUnavailable:
        return DatabaseUnavailable(
            f"database {self.path}: no connection became free within {QUEUE_TIMES * self._busy_timeout:g} s"
        )

    def _open_engine(self, engine: Engine | None) -> Engine:
        if engine is None or self._closing is not None:
            raise DatabaseUnavailable(f"database {self.path} is not open")
        return engine

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what the driver and the system raise into DatabaseUnavailable."""
        try:
            yield
        except DBAPIError as error:
            raise self._unavailable(error.orig) from error
        except StatementError as error:
            # A value that cannot be bound: the caller's mistake, told in the caller's words.
            raise error.orig or error from error
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise self._unavailable(error) from error
        except OSError as error:
            raise DatabaseUnavailable(f"database {self.path}: {error.strerror or error}") from error

    def _unavailable(self, error: BaseException | None) -> DatabaseUnavailable:
        code = getattr(error, "sqlite_errorcode", None)
        reason = None if code is None else _REASONS.get(code & 0xFF)
        if reason is None:
            return DatabaseUnavailable(f"database {self.path}: {error}")
        return DatabaseUnavailable(f"database {self.path}: {reason} ({error})")


def _committed(engine: Engine, works: Sequence[Callable[[Connection], Any]]) -> list[tuple[Any] | Exception]:
    """Commit what these do, and answer what each returned (alone in a tuple) or raised. Raises what undoes all of it."""
    outcomes: list[tuple[Any] | Exception] = []
    with engine.begin() as connection:
        if len(works) == 1:
            return [(works[0](connection),)]
        driver = _driver(connection)
        for work in works:
            driver.execute("SAVEPOINT each")  # SQLAlchemy's own take as long as two statements
            try:
                outcome = work(connection)
            except Exception as error:
                driver.let_go()
                if not driver.in_transaction:  # a full disk, among others: SQLite itself has undone everything
                    if isinstance(error, SQLAlchemyError | sqlite3.Error):
                        raise
                    raise DatabaseUnavailable(f"a transaction was given up: {error}") from error
                driver.execute("ROLLBACK TO each")
                driver.execute("RELEASE each")
                outcomes.append(error)
            else:
                driver.execute("RELEASE each")
                outcomes.append((outcome,))
    return outcomes


def _answered(work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Run ``work``; the one exception that no future can carry becomes another."""
    try:
        return work(*args, **kwargs)
    except StopIteration as error:
        raise RuntimeError("a transaction function ended by StopIteration") from error


class _Driver(sqlite3.Connection):
    """Knows its cursors: one that an exception left open keeps its snapshot, and no savepoint can be made beside it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._begun: WeakSet[sqlite3.Cursor] = WeakSet()

    def cursor(self, *args: Any, **kwargs: Any) -> sqlite3.Cursor:  # type: ignore[override]  # whoever passes a class gets it
        """A new cursor, which is remembered while it is there."""
        cursor: sqlite3.Cursor = super().cursor(*args, **kwargs)
        self._begun.add(cursor)
        return cursor

    def let_go(self) -> None:
        """Close every cursor."""
        for cursor in tuple(self._begun):
            cursor.close()


def _look_at(task: asyncio.Task[Any]) -> None:
    """Look at what became of it: a caller that was cancelled meanwhile cannot be told any more."""
    if not task.cancelled():
        task.exception()


def _driver(connection: Connection) -> _Driver:
    driver = connection.connection.driver_connection
    if not isinstance(driver, _Driver):
        raise TypeError(f"{driver!r} is not what an engine of ours connects by")
    return driver


def _end(watch: Connection | None, reader: Engine | None, writer: Engine | None) -> None:
    with ExitStack() as exits:
        if writer is not None:  # goes last: SQLite tidies the log up when the last connection leaves, if it may write
            exits.callback(writer.dispose)
        if reader is not None:
            exits.callback(reader.dispose)
        if watch is not None:
            exits.callback(watch.close)


@cache
def _schema() -> tuple[str, ...]:
    """The statements that create every table and index; compiling them takes longer than executing them."""
    dialect = sqlite.dialect()
    found: list[str] = []
    for table in tables.metadata.sorted_tables:
        found.append(str(CreateTable(table).compile(dialect=dialect)))
        indices = sorted(table.indexes, key=lambda index: str(index.name))
        found.extend(str(CreateIndex(index).compile(dialect=dialect)) for index in indices)
    return tuple(found)


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _table_names(connection: Connection) -> list[str]:
    return list(connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars())


def _inspect(connection: Connection) -> tuple[str | None, bool]:
    """The schema's revision (None without one), and whether the file is in WAL mode."""
    names = _table_names(connection)
    in_wal = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"  # as of the last read: so after one
    if tables.alembic_version.name not in names:
        return None, in_wal
    revision = connection.execute(tables.alembic_version.select()).scalar_one_or_none()
    return revision, in_wal
