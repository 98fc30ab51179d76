"""``tagstone alerts``: what it prints, and how it ends."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from proxy.cli.alerts import app
from storage.database import Database
from storage.deliveries import Assignment, Deliveries, Patience
from storage.events import EventStore
from storage.records import DeliveryState, Event, EventType
from tests.tools import free_port

NOW = datetime.now(UTC)
NGINX = "docker.io/library/nginx"


class Answering(BaseHTTPRequestHandler):
    """Answers with the status that the path names; remembers what it got."""

    seen: list[dict[str, Any]]

    def do_POST(self) -> None:
        """Answer."""
        self.seen.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(int(self.path.strip("/")))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (its name in the standard library)
        """Say nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    """Of a receiver in a thread of its own."""
    Answering.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


class House:
    """A configuration and its data directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "tagstone.yaml"
        self.data = folder / "data"
        self.sinks(a="http://127.0.0.1:1/", b="http://127.0.0.1:1/")

    def sinks(self, **urls: str) -> None:
        """Write the file with these sinks."""
        lines = "".join(f'    {name}: {{cloudevents: {{url: "{url}"}}}}\n' for name, url in urls.items())
        section = f"alerts:\n  sinks:\n{lines}" if urls else ""
        rest = 'upstreams: {docker.io: {}}\nrules: [{match: "**", require: deny}]\n'
        self.file.write_text(f"data_dir: {self.data}\n{section}{rest}")

    def run(self, *words: str) -> Result:
        """Run ``tagstone alerts``."""
        return CliRunner().invoke(app, [*words, "--config", str(self.file)])

    def shown(self, *words: str) -> Any:
        """What the command prints as JSON."""
        result = self.run(*words, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def fill(self) -> None:
        """Two events; sink ``a`` took one and refused the other, both wait for ``b``, which fails."""
        asyncio.run(self._fill())

    async def _fill(self) -> None:
        database = Database(self.data / "tagstone.db")
        await database.open()
        deliveries, events = Deliveries(database), EventStore(database)
        await deliveries.register(("a", "b"), NOW)
        await events.record(Event(EventType.TAG_OVERWRITTEN, f"{NGINX}:1", None, "moved", NOW - timedelta(days=3)))
        await events.record(Event(EventType.TAG_CREATED, f"{NGINX}:2", None, "new", NOW - timedelta(hours=1)))
        page = await deliveries.unassigned(("a", "b"), 10)
        await deliveries.assign(("a", "b"), page[-1], [Assignment(sink, each) for each in page for sink in ("a", "b")])
        one, two = (await deliveries.work("a", NOW, NOW, 10)).batch
        await deliveries.delivered("a", [one.id], NOW)
        await deliveries.refused("a", [two.id], NOW, "400: bad label", None)
        (first, _) = (await deliveries.work("b", NOW, NOW, 10)).batch
        due = {first.id: NOW + timedelta(minutes=5)}
        patience = Patience(timedelta(days=7), 600)
        await deliveries.postponed("b", due, NOW, NOW + timedelta(minutes=1), "refuses connections", patience)
        await database.close()


@pytest.fixture
def house(tmp_path: Path) -> House:
    """A house."""
    return House(tmp_path)


def test_events_are_listed_newest_first(house: House) -> None:
    """With severity and state, for people and for scripts."""
    house.fill()
    lines = house.run("list").stdout.splitlines()
    assert lines[0].split()[1:] == ["info", "tag.created", "happened", f"{NGINX}:2"]
    assert lines[1] == "    new"
    assert lines[-1] == "2 events"
    newest, oldest = house.shown("list")["events"]
    assert (newest["type"], newest["state"], newest["closed_at"]) == ("tag.created", "happened", newest["opened_at"])
    assert (oldest["severity"], oldest["state"], oldest["subject"]) == ("warning", "open", f"{NGINX}:1")


def test_what_others_wrote_is_fit_for_a_terminal(house: House) -> None:
    """Names of signers and what images say of themselves may hold anything; of an overwrite, what changed stands below."""

    async def fill() -> None:
        database = Database(house.data / "tagstone.db")
        await database.open()
        await Deliveries(database).register(("a",), NOW)
        event = Event(EventType.TAG_OVERWRITTEN, f"{NGINX}:1", None, "by \x1b]0;x\x07", NOW, details={"change": "grave: \x9b31m"})
        await EventStore(database).record(event)
        (message,) = await Deliveries(database).unassigned(("a",), 10)
        await Deliveries(database).assign(("a",), message, [Assignment("a", message)])
        (waiting,) = (await Deliveries(database).work("a", NOW, NOW, 10)).batch
        await Deliveries(database).refused("a", [waiting.id], NOW, "400: \x1b[2J", None)
        await database.close()

    asyncio.run(fill())
    listed, delivered = house.run("list").stdout, house.run("deliveries").stdout
    assert "    by \\u{1b}]0;x\\u{7}\n    grave: \\u{9b}31m\n" in listed
    assert "400: \\u{1b}[2J" in delivered
    assert not {"\x1b", "\x07", "\x9b"} & {*listed, *delivered}


def test_events_can_be_chosen(house: House) -> None:
    """Only what is open, only what is new, only so many."""
    house.fill()
    assert [event["subject"] for event in house.shown("list", "--open")["events"]] == [f"{NGINX}:1"]
    assert [event["subject"] for event in house.shown("list", "--since", "24h")["events"]] == [f"{NGINX}:2"]
    assert len(house.shown("list", "--since", "2020-01-01")["events"]) == 2
    assert len(house.shown("list", "--limit", "1")["events"]) == 1
    result = house.run("list", "--since", "yesterday")
    assert result.exit_code == 2
    assert "or a duration such as 24h" in result.stderr


def test_where_nothing_ran_nothing_is_said_to_be_well(house: House) -> None:
    """That is most likely the wrong data directory, and "0 events" would be no answer; nor is one made by looking."""
    for words in (("list",), ("deliveries",), ("retry",)):
        result = house.run(*words)
        assert result.exit_code == 3
        assert f"{house.data} holds no database" in result.stderr
    assert not house.data.exists()


def test_a_sink_that_there_is_not_is_no_answer(house: House) -> None:
    """A name that was mistyped ends with 2, and says which there are; one that a server only had before is known."""
    house.fill()
    for command in ("test", "deliveries", "retry"):
        result = house.run(command, "c")
        assert (result.exit_code, result.stderr) == (2, "tagstone: there is no sink c; there are a, b\n")
    house.sinks(d="http://127.0.0.1:1/")
    assert [sink["name"] for sink in house.shown("deliveries", "a")["sinks"]] == ["a"]


def test_deliveries_say_what_waits_and_why(house: House) -> None:
    """Each sink with its numbers; what waits and what failed, with the reason."""
    house.fill()
    out = house.run("deliveries").stdout
    assert "a: 0 waiting, 1 failed, 1 delivered so far\n  last error: 400: bad label\n" in out
    assert "b: 2 waiting, 0 failed, 0 delivered so far\n" in out
    assert ", 1 times in a row, tried again " in out
    assert "1 attempt: 400: bad label" in out
    assert "1 attempt: refuses connections" in out
    found = house.shown("deliveries", "b")
    assert [sink["name"] for sink in found["sinks"]] == ["b"]
    assert [(each["sink"], each["state"], each["attempts"]) for each in found["deliveries"]] == [
        ("b", "waiting", 1),
        ("b", "waiting", 0),
    ]


def test_retry_lets_everything_be_tried_again(house: House) -> None:
    """What failed and what was put off; one sink, or all."""
    house.fill()
    assert house.run("retry", "a").stdout == "1 delivery is tried again\n"
    assert house.shown("retry") == {"retried": 1}
    assert {each["state"] for each in house.shown("deliveries")["deliveries"]} == {DeliveryState.WAITING.value}
    assert all(sink["next_attempt_at"] is None for sink in house.shown("deliveries")["sinks"])


@pytest.mark.parametrize(("statuses", "code"), [([204, 200], 0), ([204, 400], 1), ([503, 204], 3), ([503, 400], 1), ([410], 1)])
def test_sinks_are_tried(house: House, address: str, statuses: list[int], code: int) -> None:
    """Every one gets a test event; 1 where one refused it, 3 where one failed."""
    house.sinks(**{f"s{status}": f"{address}/{status}" for status in statuses})
    result = house.run("test")
    assert result.exit_code == code
    for status in statuses:
        assert f"answered {status}" in result.stdout
    assert [event["type"] for event in Answering.seen] == ["dev.tagstone.alert.test"] * len(statuses)
    assert not house.data.exists()


def test_one_sink_can_be_tried(house: House, address: str) -> None:
    """By its name, for scripts too; nobody there is 3."""
    house.sinks(good=f"{address}/204", gone=f"http://127.0.0.1:{free_port()}/")
    result = house.run("test", "good", "--json")
    assert (result.exit_code, json.loads(result.stdout)["sinks"][0]["result"]) == (0, "taken")
    result = house.run("test", "gone")
    assert (result.exit_code, "refuses connections" in result.stdout) == (3, True)
    result = house.run("test", "other")
    assert (result.exit_code, "there is no sink other; there are good, gone" in result.stderr) == (2, True)


def test_without_sinks_there_is_nothing_to_try(house: House) -> None:
    """Wrong usage, with the key to set."""
    house.sinks()
    result = house.run("test")
    assert (result.exit_code, "alerts.sinks" in result.stderr) == (2, True)
