"""``tagstone alerts``: what happened, who was told, and whether the sinks work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proxy.cli import common
from proxy.cli.common import ConfigOption, DataDirOption, JsonOption

if TYPE_CHECKING:
    from proxy.configuration import Configuration
    from proxy.sinks.model import Answer
    from storage.database import Database
    from storage.records import Delivery, Event, Message, SinkStatus

app = typer.Typer(no_args_is_help=True, help="List events, look after their delivery, try the sinks.")

SinkArgument = Annotated[str | None, typer.Argument(metavar="[SINK]", help="Only this sink.", show_default=False)]
LimitOption = Annotated[int, typer.Option("--limit", min=1, max=100_000, help="At most so many.")]


@app.command("list")
def list_events(
    open_only: Annotated[bool, typer.Option("--open", help="Only what is not over.")] = False,
    since: Annotated[
        str | None,
        typer.Option(
            "--since", metavar="T", help="Only what began or ended since: 24h, 7d, a date or a time.", show_default=False
        ),
    ] = None,
    limit: LimitOption = 100,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """List events, newest first."""
    configuration = common.load(config, data_dir)
    moment = None if since is None else _since(since)

    async def work() -> list[Event]:
        from storage.events import EventStore

        async with _database(configuration, data_dir) as database:
            return await EventStore(database).list(open_only=open_only, since=moment, limit=limit)

    events = common.run(work)
    if as_json:
        common.show_json({"events": [event_json(event) for event in events]})
        return
    for event in events:
        subject, message = common.plain(event.subject), common.plain(event.message)
        print(f"{common.moment(event.at)}  {event.severity:<8}  {event.type:<20}  {_state(event):<8}  {subject}")
        print(f"    {message}")
        if isinstance(change := event.details.get("change"), str):  # of an overwrite: what came of comparing
            print(f"    {common.plain(change)}")
    print(f"{len(events)} event{'' if len(events) == 1 else 's'}")


@app.command("test")
def try_sinks(
    sink: SinkArgument = None, config: ConfigOption = None, data_dir: DataDirOption = None, as_json: JsonOption = False
) -> None:
    """Send a test event through each sink and say what it answered. Exit 1 when one refused it, 3 when one was out of reach."""
    from proxy.sinks.model import Kind

    configuration = common.load(config, data_dir)
    names = [each.name for each in configuration.alerts.sinks]
    if not names:
        common.fail("no sink is configured: see `alerts.sinks`", common.USAGE)
    _known(sink, configuration, ())
    answers = common.run(lambda: _try(configuration, sink))
    if as_json:
        shown = [{"sink": name, "result": answer.kind.value, "answer": answer.words} for name, answer in answers.items()]
        common.show_json({"sinks": shown})
    else:
        for name, answer in answers.items():
            print(f"{name}: {answer.kind.value}: {answer.words}")
    kinds = {answer.kind for answer in answers.values()}
    if kinds & {Kind.REFUSED, Kind.GONE}:
        raise typer.Exit(common.REFUSED)
    if Kind.FAILED in kinds:
        raise typer.Exit(common.UNKNOWN)


@app.command()
def deliveries(
    sink: SinkArgument = None,
    limit: LimitOption = 100,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how each sink does, what waits for it, and what failed and why."""
    configuration = common.load(config, data_dir)

    async def work() -> tuple[list[SinkStatus], list[Delivery]]:
        from storage.deliveries import Deliveries

        async with _database(configuration, data_dir) as database:
            store = Deliveries(database)
            found = await store.status()
            _known(sink, configuration, found)
            return found, await store.list(sink, limit)

    found, listed = common.run(work)
    found = [each for each in found if sink is None or each.name == sink]
    if as_json:
        common.show_json(
            {"sinks": [_status_json(each) for each in found], "deliveries": [_delivery_json(each) for each in listed]}
        )
        return
    for each in found:
        for line in _status_lines(each):
            print(common.plain(line))
    for delivery in listed:
        for line in _delivery_lines(delivery):
            print(common.plain(line))
    if not found:
        print("no sink is known: a server makes those of its configuration known when it starts")


@app.command()
def retry(
    sink: SinkArgument = None, config: ConfigOption = None, data_dir: DataDirOption = None, as_json: JsonOption = False
) -> None:
    """Try again, at once, what failed and what waits for its next attempt."""
    configuration = common.load(config, data_dir)

    async def work() -> int:
        from storage.deliveries import Deliveries

        async with _database(configuration, data_dir, write=True) as database:
            store = Deliveries(database)
            _known(sink, configuration, await store.status())
            return await store.retry(sink)

    count = common.run(work)
    if as_json:
        common.show_json({"retried": count})
    else:
        print(f"{count} deliver{'y is' if count == 1 else 'ies are'} tried again")


def _known(sink: str | None, configuration: Configuration, found: Sequence[SinkStatus]) -> None:
    """End with 2 where a sink is named that is neither configured nor was."""
    known = dict.fromkeys([*(each.name for each in configuration.alerts.sinks), *(each.name for each in found)])
    if sink is not None and sink not in known:
        common.fail(f"there is no sink {sink}; there are {', '.join(known) or 'none'}", common.USAGE)


@asynccontextmanager
async def _database(configuration: Configuration, data_dir: Path | None, *, write: bool = False) -> AsyncIterator[Database]:
    """The database of the server."""
    from proxy.log import configure
    from storage.database import FILE_NAME, Database
    from storage.files import owner_of

    configure(configuration.settings.log)
    root = common.root_of(configuration, data_dir)
    database = Database(root / FILE_NAME, owner=owner_of(root / FILE_NAME, root))
    await database.open(read_only=not write)
    try:
        yield database
    finally:
        await database.close()


# -- trying -------------------------------------------------------------------------------------------------------------


async def _try(configuration: Configuration, only: str | None) -> dict[str, Answer]:
    from proxy import __version__
    from proxy.services.alerts import make_sink

    policy = configuration.alerts
    message = _test_message()

    async def one(name: str) -> tuple[str, Answer]:
        (chosen,) = (each for each in policy.sinks if each.name == name)
        sink = make_sink(chosen, policy.source, f"tagstone/{__version__}")
        try:
            return name, await sink.send([message])
        finally:
            await sink.close()

    names = [each.name for each in policy.sinks if only in {None, each.name}]
    return dict(await asyncio.gather(*map(one, names)))


def _test_message() -> Message:
    import uuid

    from storage.records import Event, EventType, Message

    now = datetime.now(UTC)
    event = Event(EventType.ALERT_TEST, "tagstone", None, "this is a test: alerts of Tagstone arrive here", now)
    return Message(0, str(uuid.uuid4()), 0, event, resolved=False, at=now)


# -- showing ------------------------------------------------------------------------------------------------------------


def _since(text: str) -> datetime:
    from proxy.schema import parse_duration, parse_start

    try:
        return datetime.now(UTC) - timedelta(seconds=parse_duration(text))
    except ValueError:
        pass
    try:
        found: datetime = parse_start(text)
    except ValueError as error:
        common.fail(f"--since {text}: {error}; or a duration such as 24h", common.USAGE)
    return found


def _state(event: Event) -> str:
    from storage.records import ACTS

    if event.type in ACTS:
        return "happened"
    return "open" if event.closed_at is None else "resolved"


def event_json(event: Event) -> dict[str, Any]:
    """An event as scripts read it."""
    return {
        "type": event.type.value,
        "severity": None if event.severity is None else event.severity.value,
        "state": _state(event),
        "subject": event.subject,
        "digest": None if event.digest is None else str(event.digest),
        "message": event.message,
        "opened_at": common.moment(event.at),
        "closed_at": common.moment(event.closed_at),
        "details": dict(event.details),
    }


def _status_json(status: SinkStatus) -> dict[str, Any]:
    return {
        "name": status.name,
        "waiting": status.waiting,
        "oldest": common.moment(status.oldest),
        "failed": status.failed,
        "delivered_total": status.delivered,
        "failed_total": status.rejected,
        "failures_in_a_row": status.failures,
        "failing_since": common.moment(status.failing_since),
        "next_attempt_at": common.moment(status.retry_at),
        "last_delivered_at": common.moment(status.delivered_at),
        "error": status.error,
    }


def _delivery_json(delivery: Delivery) -> dict[str, Any]:
    message = delivery.message
    return {
        "sink": delivery.sink,
        "id": message.id,
        "state": delivery.state.value,
        "type": message.event.type.value,
        "resolved": message.resolved,
        "subject": message.event.subject,
        "since": common.moment(message.at),
        "attempts": delivery.attempts,
        "next_attempt_at": common.moment(delivery.due_at),
        "ended_at": common.moment(delivery.ended_at),
        "error": delivery.error,
    }


def _status_lines(status: SinkStatus) -> list[str]:
    lines = [f"{status.name}: {status.waiting} waiting, {status.failed} failed, {status.delivered} delivered so far"]
    if status.oldest is not None:
        lines.append(f"  waiting since {common.moment(status.oldest)}")
    if status.failures:
        again = "" if status.retry_at is None else f", tried again {common.moment(status.retry_at)}"
        lines.append(f"  failing since {common.moment(status.failing_since)}, {status.failures} times in a row{again}")
    if status.error is not None:
        lines.append(f"  last error: {status.error}")
    return lines


def _delivery_lines(delivery: Delivery) -> list[str]:
    message = delivery.message
    what = f"{message.event.type.value}{' (resolved)' if message.resolved else ''}: {message.event.subject}"
    tried = f"{delivery.attempts} attempt{'' if delivery.attempts == 1 else 's'}"
    lines = [f"{common.moment(message.at)}  {delivery.state.value:<8}  {delivery.sink}  {what}", f"    {message.id}, {tried}"]
    if delivery.error is not None:
        lines[-1] += f": {delivery.error}"
    return lines
