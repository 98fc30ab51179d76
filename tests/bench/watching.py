"""What many pins cost a server that watches them: memory, disk, and the rate of warm pulls."""

from __future__ import annotations

import asyncio
import http.client
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
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
from tests.bench.clients import MIB, Wrong, fetch, wrk
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
#: A process is some percent faster or slower than its like for as long as it lives: each server is started so many times for
#: each round of the plan, and measured so many times while it lives.
_LIVES, _TURNS = 3, 7
#: So long the watcher may take to have checked something.
_PATIENCE = 120.0


def watching(plan: Plan, base: Path, note: Callable[[str], None]) -> list[Line]:
    """The same server without pins, with many as shipped, and with all of them checked within an hour; pulls in turns.

    Of the ratios the quieter half of the rounds counts: where others take a part of the machine, they do not take it evenly.
    """
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
    rates: dict[str, list[float]] = {name: [] for name in made}
    checks: dict[str, list[float]] = {name: [] for name in made}
    memory: dict[str, list[int]] = {name: [] for name in made}
    stolen: list[int] = []
    with upstream:
        for life in range(_LIVES * plan.rounds):
            note(f"warm tag manifest, start {life + 1} of {_LIVES * plan.rounds}")
            _live(made, plan.seconds / 5, rates, checks, memory, stolen)
    most = statistics.median(stolen)
    quiet = [number for number, ticks in enumerate(stolen) if ticks <= most]

    def part(name: str) -> float:
        return statistics.median(rates[name][number] / rates["empty"][number] for number in quiet)

    return [
        Line(f"{plan.pins:,} pins: warm tag manifest", "requests/s", statistics.median(rates["shipped"]), {}),
        Line("  by that without pins", "ratio", part("shipped"), {}, (WARM,)),
        Line("  checks by the watcher meanwhile, as shipped", "checks/s", statistics.mean(checks["shipped"]), {}),
        Line("  by that without pins, all checked within an hour", "ratio", part("hourly"), {}, (WARM,)),
        Line("  checks by the watcher meanwhile", "checks/s", statistics.mean(checks["hourly"]), {}),
        Line("  peak resident memory", "MiB", max(memory["hourly"]) / MIB, {}),
        Line("  more than without pins", "MiB", (max(memory["hourly"]) - max(memory["empty"])) / MIB, {}, (Target(16, False),)),
        Line("  database", "MiB", size / MIB, {}),
        Line("  database, for each pin", "bytes", size / plan.pins, {}),
    ]


def _live(
    made: Mapping[str, Server],
    seconds: float,
    rates: Mapping[str, list[float]],
    checks: Mapping[str, list[float]],
    memory: Mapping[str, list[int]],
    stolen: list[int],
) -> None:
    """Start them, measure them in turns, and end them; what was seen is added to ``rates``, ``checks`` (a second), ``memory``.

    ``stolen``: what other machines on the same hardware took of this one's processors in each round, in ticks.
    """
    with ExitStack() as stack:
        order = [(name, stack.enter_context(server)) for name, server in made.items()]
        path = order[0][1].manifest_path("unsigned/warm", "v1")
        for _, server in order:
            fetch(server, path, str(IMAGE.digest))
        for name, server in order:
            if name != "empty":
                _until_watched(server)
        began, before = time.perf_counter(), {name: _checks(server) for name, server in order}
        for _ in range(_TURNS):
            # Short ones beside each other, in turns the first: what else the machine does comes and goes.
            ticks = _stolen()
            for name, server in order:
                rates[name].append(wrk(server, path, seconds))
            stolen.append(_stolen() - ticks)
            order.append(order.pop(0))  # never one twice in a row: the second time it would be warmer
        took = time.perf_counter() - began
        for name, server in order:
            checks[name].append((_checks(server) - before[name]) / took)
            memory[name].append(server.peak_memory())


def _stolen() -> int:
    """Ticks that this machine would have run for if another had not (``proc(5)``, ``/proc/stat``)."""
    return int(Path("/proc/stat").read_text().split("\n", 1)[0].split()[8])


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
    found = dict(_samples(server))
    if other := set(found) - {"unchanged"}:
        raise Wrong(f"{server.name} found pins {', '.join(sorted(other))}")
    return sum(found.values())


def _samples(server: Server) -> Iterator[tuple[str, float]]:
    port = re.search(r"admin: \{listen: 127\.0\.0\.1:(\d+)\}", (server.folder / "tagstone.yaml").read_text())
    assert port is not None
    connection = http.client.HTTPConnection("127.0.0.1", int(port[1]), timeout=30)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    for result, count in re.findall(r'tagstone_watch_checks_total\{result="([a-z]+)"[^}]*\} ([0-9.e+]+)', text):
        yield result, float(count)
