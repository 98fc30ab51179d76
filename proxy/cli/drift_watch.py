"""One look, or one every so many seconds until somebody ends it: what both commands of ``tagstone drift`` do with their looks."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from proxy.cli import common
from proxy.cli.drift_report import DRIFT, EXIT, Look, Subject, changes, record, show, table
from proxy.errors import Unexaminable
from storage.errors import StorageError

if TYPE_CHECKING:
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
    """How often is looked, and what becomes of it."""

    seconds: float | None
    looks: int | None
    events: EventStore | None  #: None: nothing is recorded
    as_json: bool


async def watch(subject: Subject, look: Callable[[], Awaitable[Look]], how: Watching) -> int:
    """Look, tell, and go on for as long as is wanted; the exit code, which is that of the last look."""
    before = await look()
    if how.events is not None:
        await record(how.events, subject, before)
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
        if how.events is not None and (appeared or ended or behind):
            try:
                await record(how.events, subject, after)
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
