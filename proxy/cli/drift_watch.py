"""One look, or one every so many seconds until somebody ends it: what ``drift rootfs`` and ``drift processes`` have in common."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeAlias

import typer

from proxy.cli import common
from proxy.cli.drift_report import DRIFT, EXIT, Look, Subject, changes, record, show, table
from proxy.errors import LayerRefused, Unexaminable
from storage.errors import StorageError

if TYPE_CHECKING:
    from proxy.cli.drift_image import Images
    from proxy.configuration import Configuration
    from storage.events import EventStore

#: How shells tell that somebody pressed Ctrl-C: that is no verdict.
INTERRUPTED = 130
WatchOption = Annotated[
    float | None,
    typer.Option("--watch", metavar="SECONDS", min=0.1, help="Look again and again, and tell what changed.", show_default=False),
]
LooksOption = Annotated[
    int | None, typer.Option("--looks", min=1, help="With --watch: end after so many looks.", show_default=False)
]
RecordOption = Annotated[
    bool | None,
    typer.Option("--record/--no-record", help="Raise the event runtime.drift. Default: with --watch.", show_default=False),
]
PlatformOption = Annotated[
    str | None,
    typer.Option(
        "--platform",
        metavar="OS/ARCH",
        help="os/architecture or os/architecture/variant. Default: this machine's.",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True)
class Watching:
    """How often is looked, and what becomes of it. ``record`` None: events are raised where it is looked again and again."""

    seconds: float | None
    looks: int | None
    record: bool | None
    as_json: bool

    @property
    def records(self) -> bool:
        """Whether events are wanted."""
        return self.seconds is not None if self.record is None else self.record


Looker: TypeAlias = Callable[[], Awaitable[Look]]
#: Finds out what is looked at, and how; what it opens for that it leaves to the stack. Raises Unexaminable, LayerRefused.
Prepare: TypeAlias = "Callable[[Images, AsyncExitStack], Awaitable[tuple[Subject, Looker]]]"


def examine(configuration: Configuration, data_dir: Path | None, prepare: Prepare, how: Watching) -> NoReturn:
    """Open the data directory, prepare, look, and end with the exit code of the last look."""
    from proxy.cli.drift_image import images
    from storage.events import EventStore

    async def work() -> int:
        async with images(configuration, data_dir) as source, AsyncExitStack() as exits:
            subject, look = await prepare(source, exits)
            if how.records and source.ingest is None:
                common.warn("the data directory cannot be written to: no events are raised")
            events = EventStore(source.house.database) if how.records and source.ingest is not None else None
            return await watch(subject, look, how, events)

    try:
        code = common.run(work)
    except (LayerRefused, Unexaminable) as error:
        common.fail(str(error), common.UNKNOWN)
    except KeyboardInterrupt:
        code = INTERRUPTED
    raise typer.Exit(code)


async def watch(subject: Subject, look: Looker, how: Watching, events: EventStore | None) -> int:
    """Look, tell, and go on for as long as is wanted; the exit code, which is that of the last look."""
    before = await look()
    if events is not None:
        await record(events, subject, before)
    if not how.as_json:
        show(subject, before)
        sys.stdout.flush()
    elif how.seconds is None:
        common.show_json(subject.document(before))
    else:
        _line({**subject.document(before), "appeared": [each.told() for each in before.findings], "ended": []})
    looks, behind = 1, False
    while how.seconds is not None and (how.looks is None or looks < how.looks):
        await asyncio.sleep(how.seconds)
        looks += 1
        try:
            after = await look()
        except Unexaminable as error:
            common.fail(str(error), common.UNKNOWN)
        appeared, ended = changes(before, after)
        if events is not None and (appeared or ended or behind):
            try:
                await record(events, subject, after)
                behind = False
            except StorageError as error:
                common.warn(f"{error}; the event is tried again at the next look")
                behind = True
        if appeared or ended or list(before.unread) != list(after.unread):
            if how.as_json:
                _line(subject.news(after, before))
            else:
                _tell(subject, before, after)
        before = after
    return EXIT[before.result]


def _line(document: dict[str, object]) -> None:
    print(json.dumps(document, default=str), flush=True)


def _tell(subject: Subject, before: Look, after: Look) -> None:
    appeared, ended = changes(before, after)
    word = "drifts on" if after.result == DRIFT else after.result
    print(f"{common.moment(after.at)}  {subject.container}: {word}; {len(appeared)} appeared, {len(ended)} ended", flush=True)
    table(appeared)
    for finding in ended:
        kind, place, _ = finding.row
        print(f"  ended    {place} ({kind})")
    for line in set(after.unread) - set(before.unread):
        print(f"  not looked at: {line}")
    sys.stdout.flush()
