"""What the commands share: options, exit codes, and how trouble is told.

Exit codes of every command: 0 done or passes; 1 refused; 2 wrong usage or configuration; 3 could not tell (an outage of the
upstream, or storage that does not answer).
"""

from __future__ import annotations

import asyncio
import getpass
import json
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

from proxy.errors import ConfigurationError
from storage.errors import MalformedName, PinConflict, StorageError
from storage.reference import Reference

if TYPE_CHECKING:
    from proxy.configuration import Configuration
    from proxy.services.admission import Admission
    from proxy.services.gate import Gate
    from proxy.services.operators import Operators
    from proxy.services.revision import Revision
    from proxy.upstream.client import Upstreams
    from storage.catalog import Catalog
    from storage.database import Database
    from storage.filesystem import FilesystemBlobStore
    from storage.pins import PinStore

REFUSED = 1
USAGE = 2
UNKNOWN = 3
#: What a pattern that was mistyped is answered: "all is well" would be wrong.
NO_MATCH = 'no pin matches {pattern}; patterns are for whole names, such as "docker.io/library/nginx:*"'
_NO_DATABASE = "{root} holds no database: no server has run with this data directory (--data-dir, or data_dir in the file)"
_T = TypeVar("_T")

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="Configuration file. Default: $TAGSTONE_CONFIG, ./tagstone.yaml, /etc/tagstone/tagstone.yaml.",
        show_default=False,
    ),
]
DataDirOption = Annotated[
    Path | None, typer.Option("--data-dir", help="Use this data directory instead of the configured one.", show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
ByOption = Annotated[str | None, typer.Option("--by", help="Who acts. Default: your user name.", show_default=False)]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; kept in the history.")]


def fail(message: str, code: int) -> NoReturn:
    """Say what is wrong on standard error and end with ``code``."""
    print(f"tagstone: {message}", file=sys.stderr)
    raise typer.Exit(code)


def warn(message: str) -> None:
    """Say on standard error what somebody should know, and go on."""
    print(f"tagstone: {message}", file=sys.stderr)


def load(config: Path | None, data_dir: Path | None = None) -> Configuration:
    """Read the configuration, or end with 2 and every problem in it. ``data_dir``: in place of the configured one."""
    from proxy import configuration

    try:
        return configuration.load(configuration.find(config), data_dir=data_dir)
    except ConfigurationError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        raise typer.Exit(USAGE) from error


def parse_reference(text: str, configuration: Configuration) -> Reference:
    """Read an image name, or end with 2."""
    try:
        return Reference.parse(text, configuration.default_registry)
    except MalformedName as error:
        fail(str(error), USAGE)


def tagged(text: str, configuration: Configuration) -> tuple[Reference, str]:
    """Read the name of a tag, or end with 2."""
    reference = parse_reference(text, configuration)
    if reference.tag is None or reference.digest is not None:
        fail(f"{text} names no tag; pins belong to tags: registry/repository:tag", USAGE)
    return reference, reference.tag


def acting(by: str | None) -> str:
    """Who acts: the given name, else the user's."""
    if by:
        return by
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown user"


def run(work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Run a command's coroutine; storage that does not answer ends with 3."""
    try:
        return asyncio.run(work())
    except PinConflict:
        fail("the pin changed at the same moment; look at it again (tagstone pins show) and repeat", UNKNOWN)
    except StorageError as error:
        fail(str(error), UNKNOWN)


@dataclass(frozen=True, slots=True)
class House:
    """The services that a command needs, on the same database as the running server."""

    database: Database
    pins: PinStore
    catalog: Catalog
    admission: Admission
    upstreams: Upstreams
    revision: Revision
    operators: Operators
    blobs: FilesystemBlobStore
    gate: Gate


def root_of(configuration: Configuration, data_dir: Path | None) -> Path:
    """The folder with a server's data. Ends with 3 where it cannot be looked into, and where no server has made a database.

    That is most likely another folder than the server's, and "nothing is known" would be a wrong answer about that one.
    """
    root = data_dir or configuration.settings.data_dir
    if not begun(root):
        fail(_NO_DATABASE.format(root=root), UNKNOWN)
    return root


def begun(root: Path) -> bool:
    """Whether a database is there. Ends with 3 where that cannot be seen."""
    from storage.database import FILE_NAME

    try:
        (root / FILE_NAME).stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        fail(f"the data directory {root} cannot be looked into: {error.strerror or error}", UNKNOWN)
    return True


@dataclass(frozen=True, slots=True)
class Records:
    """What a server wrote, for commands that only look at it: they load nothing of what decides, and begin in half the time."""

    database: Database
    pins: PinStore
    catalog: Catalog


@asynccontextmanager
async def records(configuration: Configuration, data_dir: Path | None) -> AsyncIterator[Records]:
    """Open the database for reading. Ends with 3 where there is none."""
    from storage.catalog import Catalog
    from storage.database import FILE_NAME, Database
    from storage.pins import PinStore

    database = Database(root_of(configuration, data_dir) / FILE_NAME)
    await database.open(read_only=True)
    try:
        yield Records(database, PinStore(database), Catalog(database))
    finally:
        await database.close()


@asynccontextmanager
async def house(
    configuration: Configuration, data_dir: Path | None, *, dry: bool = False, anywhere: bool = False
) -> AsyncIterator[House]:
    """Open the data directory. ``dry`` writes nothing, and ends with 3 where there is none yet, unless ``anywhere``."""
    import tempfile
    from contextlib import AsyncExitStack, ExitStack

    from proxy.app import DATABASE, revision_of, revocations_of, upstreams_of
    from proxy.log import configure
    from proxy.services.admission import Admission
    from proxy.services.candidates import Candidates, Judge
    from proxy.services.gate import Gate
    from proxy.services.operators import Operators
    from proxy.services.revision import utc_now
    from storage.catalog import Catalog
    from storage.database import Database
    from storage.files import OwnedFiles, owner_of
    from storage.filesystem import FilesystemBlobStore
    from storage.pins import PinStore

    configure(configuration.settings.log)  # to standard error: what a command answers stands alone on standard output
    with ExitStack() as exits:
        root = root_of(configuration, data_dir) if dry and not anywhere else data_dir or configuration.settings.data_dir
        missing = not begun(root)
        if missing and not dry:
            warn(f"{_NO_DATABASE.format(root=root)}; it is made now, and no server with another one heeds it")
        if dry and missing:
            root = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="tagstone-")))
        # The server may run as somebody else than root, who commonly runs this, and has to read what is made here.
        owner = owner_of(root / DATABASE, root)
        database = Database(root / DATABASE, owner=owner)
        upstreams = upstreams_of(configuration)
        async with AsyncExitStack() as cleanup:
            cleanup.push_async_callback(database.close)
            cleanup.push_async_callback(upstreams.close)
            revocations = revocations_of(configuration)
            cleanup.push_async_callback(revocations.close)
            await database.open(read_only=dry and not missing)
            catalog, pins = Catalog(database), PinStore(database)
            blobs = FilesystemBlobStore(root, on_damage=None, files=None if owner is None else OwnedFiles(owner))
            cleanup.push_async_callback(blobs.close)
            limits = configuration.settings.limits
            admission = Admission(catalog, blobs, upstreams, limits, utc_now, record=not dry)
            cleanup.push_async_callback(admission.close)
            revision = revision_of(configuration, 0, revocations)
            operators = Operators(pins, catalog, admission, revision, utc_now)
            candidates = Candidates(Judge(admission, pins), admission, pins, upstreams, limits, utc_now)
            gate = Gate(revision, admission, pins, blobs, upstreams, candidates, limits, utc_now)
            cleanup.push_async_callback(gate.close)
            yield House(database, pins, catalog, admission, upstreams, revision, operators, blobs, gate)


def show_json(value: object) -> None:
    """Print JSON."""
    print(json.dumps(value, indent=2, default=str))


def moment(time: datetime | None) -> str | None:
    """A time as RFC 3339 in UTC."""
    return None if time is None else time.isoformat(timespec="seconds").replace("+00:00", "Z")


def plain(text: str) -> str:
    """What others wrote, fit for a terminal: whatever is no visible character is shown by its number."""
    return "".join(each if each.isprintable() else f"\\u{{{ord(each):x}}}" for each in text)
