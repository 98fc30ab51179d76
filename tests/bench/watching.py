"""What many pins cost a server that watches them: memory, disk, and the rate of warm pulls."""

from __future__ import annotations

import asyncio
import http.client
import re
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert

from proxy.policy.rules import FirstUse, fingerprint
from storage import tables
from storage.database import Database
from storage.records import PinState
from storage.reference import Repository
from storage.watching import place
from tests.bench import servers
from tests.bench.clients import MIB, Load, Wrong, fetch
from tests.bench.measures import Plan
from tests.bench.report import Line, Target
from tests.bench.servers import Server
from tests.simulator.images import image

#: The rate of warm pulls with pins, as a part of that without.
WARM = Target(0.95, True)
_REGISTRY = "reg.example"
IMAGE = image("bench")
#: Tags of each repository.
LISTED = [f"t{number}" for number in range(50)]
_PAGE = 5000
#: What runs beside a virtual machine makes it a third slower and faster within a second: a turn is so many seconds, and a server
#: has so many while it lives, for each second that a wrk runs elsewhere.
_SLICE, _TURNS = 0.25, 5.4
#: So long the watcher may take to have checked something.
_PATIENCE = 120.0


def watching(plan: Plan, base: Path, note: Callable[[str], None]) -> list[Line]:
    """The same server without pins, with many as shipped, and with all of them checked within an hour; pulls in turns."""
    upstream = servers.every_tag(base, IMAGE, LISTED)
    made = {}
    for name, pins, more in (
        ("empty", 0, ""),
        ("shipped", plan.pins, ""),
        ("hourly", plan.pins, f"watch: {{rate: {_rate(plan)}/s}}\n"),
    ):
        made[name] = servers.tagstone(base, f"watch-{name}", upstream.port, b"", more)
        note(f"{pins} pins")
        asyncio.run(fill(made[name].folder / "data" / "tagstone.db", pins))
    size = (made["hourly"].folder / "data" / "tagstone.db").stat().st_size
    seen = {name: _Seen() for name in made}
    with upstream:
        for life in range(plan.watching_starts):
            note(f"warm tag manifest, start {life + 1} of {plan.watching_starts}")
            _live(made, round(_TURNS * plan.seconds), seen)
    empty, shipped, hourly = seen["empty"], seen["shipped"], seen["hourly"]
    return [
        Line(f"{plan.pins:,} pins: warm tag manifest", "requests/s", shipped.rate, {}),
        Line("  by that without pins", "ratio", shipped.rate / empty.rate, {}, (WARM,)),
        Line("  checks by the watcher meanwhile, as shipped", "checks/s", shipped.checks / shipped.lived, {}),
        Line("  by that without pins, all checked within an hour", "ratio", hourly.rate / empty.rate, {}, (WARM,)),
        Line(
            "  checks by the watcher meanwhile", "checks/s", hourly.checks / hourly.lived, {}, (Target(plan.pins / 3600, True),)
        ),
        Line("  peak resident memory", "MiB", hourly.memory / MIB, {}),
        Line("  more than without pins", "MiB", (hourly.memory - empty.memory) / MIB, {}, (Target(16, False),)),
        Line("  database", "MiB", size / MIB, {}),
        Line("  database, for each pin", "bytes", size / plan.pins, {}),
    ]


@dataclass(slots=True)
class _Seen:
    """What was seen of a server in all its lives."""

    requests: float = 0.0  #: that were answered in its turns
    seconds: float = 0.0  #: that its turns took together
    checks: float = 0.0
    lived: float = 0.0  #: seconds, those of the others' turns too
    memory: int = 0

    @property
    def rate(self) -> float:
        """Requests a second in its turns."""
        return self.requests / self.seconds


def _live(made: Mapping[str, Server], turns: int, seen: Mapping[str, _Seen]) -> None:
    """Start them, measure them in so many turns, and end them; what was seen is added to ``seen``."""
    with ExitStack() as stack:
        running = {name: stack.enter_context(server) for name, server in made.items()}
        path = running["empty"].manifest_path("unsigned/warm", "v1")
        for name, server in running.items():
            fetch(server, path, str(IMAGE.digest))
            if name != "empty":
                _until_watched(server)
        order = [(name, stack.enter_context(Load(server, path))) for name, server in running.items()]
        time.sleep(_SLICE)
        began, before = time.perf_counter(), {name: (_answers(server), _checks(server)) for name, server in running.items()}
        for _ in range(turns):
            for name, load in order:
                seen[name].seconds += load.go(_SLICE)
            order.append(order.pop(0))  # never one twice in a row: the second time it would be warmer
        time.sleep(_SLICE)  # what was under way is answered
        for name, server in running.items():
            answers, checks = before[name]
            seen[name].requests += _answers(server) - answers
            seen[name].checks += _checks(server) - checks
            seen[name].lived += time.perf_counter() - began
            seen[name].memory = max(seen[name].memory, server.peak_memory())


def _rate(plan: Plan) -> int:
    """Somewhat more than checking all of them within an hour takes."""
    return max(10, plan.pins // 2700)


async def fill(file: Path, count: int) -> None:
    """Make a database with so many pins, each of an image that was accepted on first use an hour ago."""
    database = Database(file)
    await database.open()
    try:
        for start in range(0, count, _PAGE):
            await database.write(_insert, range(start, min(count, start + _PAGE)))
    finally:
        await database.close()


def _insert(connection: Connection, numbers: range) -> None:
    now = datetime.now(UTC) - timedelta(hours=1)  # what was checked a moment ago is not checked again
    repositories, rows = {}, []
    for number in numbers:
        repository = Repository(_REGISTRY, f"unsigned/app{number // len(LISTED)}")
        tag = LISTED[number % len(LISTED)]
        repositories[number // len(LISTED)] = repository
        rows.append(_pin(repository, tag, now))
    connection.execute(insert(tables.pins), rows)
    ids = {number: 1 + number for number in repositories}
    each = [(ids[number], repository) for number, repository in repositories.items()]
    # A page may begin in the middle of a repository that the one before has made.
    connection.execute(
        insert(tables.repositories).prefix_with("OR IGNORE"), [{"id": number, "name": name} for number, name in each]
    )
    connection.execute(
        insert(tables.contents).prefix_with("OR IGNORE"),
        [
            {
                "id": number,
                "repository_id": number,
                "digest": IMAGE.digest,
                "media_type": IMAGE.media_type,
                "size": len(IMAGE.body),
            }
            for number, _ in each
        ],
    )
    verdict = {"fingerprint": fingerprint(FirstUse(), {}), "accepted": True, "reasons": ("first use",), "decided_at": now}
    connection.execute(
        insert(tables.verdicts).prefix_with("OR IGNORE"), [{"content_id": number, **verdict} for number, _ in each]
    )
    connection.execute(
        insert(tables.watched_repositories).prefix_with("OR IGNORE"),
        [{"name": name, "registry": _REGISTRY, "phase": place(), "soon": False} for _, name in each],
    )


def _pin(repository: Repository, tag: str, now: datetime) -> dict[str, Any]:
    return {
        "name": f"{repository}:{tag}",
        "repository": repository,
        "tag": tag,
        "digest": IMAGE.digest,
        "state": PinState.PINNED,
        "pinned_at": now,
        "pinned_by": 'rule "reg.example/unsigned/**"',
        "reason": "first use: no signature is required",
        "checked_at": now,
        "version": 1,
        "registry": _REGISTRY,
        "phase": place(),
        "verdict_phase": place(),
    }


def _until_watched(server: Server) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not _checks(server):
        if time.monotonic() > deadline:
            raise Wrong(f"{server.name} checks none of its pins")
        time.sleep(0.2)


def _checks(server: Server) -> float:
    """How many checks the watcher has made; all of them must have confirmed the pin."""
    return _counted(server, "tagstone_watch_checks_total", "result", "unchanged")


def _answers(server: Server) -> float:
    """How many requests were answered; all of them must have been served."""
    return _counted(server, "tagstone_responses_total", "status", "200")


def _counted(server: Server, counter: str, label: str, good: str) -> float:
    port = re.search(r"admin: \{listen: 127\.0\.0\.1:(\d+)\}", (server.folder / "tagstone.yaml").read_text())
    assert port is not None
    connection = http.client.HTTPConnection("127.0.0.1", int(port[1]), timeout=30)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    found = dict(re.findall(rf'{counter}\{{{label}="([a-z0-9]+)"[^}}]*\}} ([0-9.e+]+)', text))
    if other := set(found) - {good}:
        raise Wrong(f"{server.name}: {counter} with {label} {', '.join(sorted(other))}")
    return sum(map(float, found.values()))
