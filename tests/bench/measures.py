"""What is measured: one function per question, each returning lines of the table."""

from __future__ import annotations

import http.client
import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tests.bench import servers
from tests.bench.clients import MIB, Wrong, curl, curls, fetch, swarm, wrk
from tests.bench.images import Blob, Image, Publisher
from tests.bench.report import Line, Target
from tests.bench.servers import Server
from tests.simulator.images import OCI_MANIFEST

TAGSTONE, REGISTRY, NGINX = "tagstone", "docker-registry", "nginx"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything."""

    seconds: float  #: of one wrk run
    rounds: int  #: runs of each measure, whose median counts
    large: int  #: bytes of the large blob
    tags: int  #: first pulls of each kind
    starts: int
    swarm_clients: int
    swarm_blobs: int
    swarm_size: int  #: bytes of each of the swarm's blobs
    swarm_each: int  #: blobs that each client of the swarm pulls
    pins: int  #: that are watched
    #: Of each of the servers that watch: a process is some percent faster or slower than its like for as long as it lives.
    watching_starts: int
    ledger_entries: int
    ledger_alone: int  #: of these, entered in a transaction each


FULL = Plan(5, 3, 256 * MIB, 40, 5, 200, 50, 32 * MIB, 4, 100_000, 9, 100_000, 2000)
QUICK = Plan(1, 1, 8 * MIB, 2, 1, 6, 3, 4 * MIB, 2, 2000, 1, 2000, 50)


class Bench:
    """The upstream with its images, the servers under test, and the measures over them."""

    def __init__(self, plan: Plan, base: Path, upstream: Server, note: Callable[[str], None]) -> None:
        """``base``: an empty folder; ``upstream``: running; ``note``: told what happens now."""
        self._plan = plan
        self._base = base
        self._upstream = upstream
        self._note = note
        self._files = base / "files"
        self._publisher = Publisher(upstream.port, self._files)

    def tagstone(self, name: str) -> Server:
        """A Tagstone with nothing cached."""
        return servers.tagstone(self._base, name, self._upstream.port, self._publisher.public_key)

    def registry(self, name: str) -> Server:
        """A docker-registry proxy with nothing cached."""
        return servers.registry_proxy(self._base, name, self._upstream.port)

    def nginx(self) -> Server:
        """An nginx over the same bytes."""
        return servers.nginx(self._base, self._files, OCI_MANIFEST)

    def warm(self, running: dict[str, Server]) -> list[Line]:
        """A tag's manifest and a small blob by wrk, a large blob by curl: all cached before the clock starts."""
        plan = self._plan
        image = self._publisher.image("signed/warm", "v1", (64 << 10, plan.large), signed=True)
        small, large = image.layers
        for server in running.values():
            fetch(server, server.manifest_path(image.repository, image.tag), image.digest)
            for blob in image.layers:
                self._warm_up(server, image, blob)

        def large_path(server: Server) -> str:
            return server.blob_path(image.repository, large.digest)

        return [
            self._compare(
                "warm tag manifest",
                "requests/s",
                running,
                lambda server: wrk(server, server.manifest_path(image.repository, image.tag), plan.seconds),
                (Target(50, True, REGISTRY), Target(0.2, True, NGINX)),
            ),
            self._compare(
                "warm 64 KiB blob",
                "requests/s",
                running,
                lambda server: wrk(server, server.blob_path(image.repository, small.digest), plan.seconds),
                (Target(10, True, REGISTRY),),
            ),
            self._compare(
                f"warm {large.size // MIB} MiB blob, one curl",
                "MB/s",
                running,
                lambda server: large.size / curl(server, large_path(server), large.size) / 1e6,
                (Target(1.2, True, REGISTRY), Target(0.9, True, NGINX)),
                rounds=3 * plan.rounds,
            ),
            self._compare(
                f"warm {large.size // MIB} MiB blob, 4 curls",
                "MB/s",
                running,
                lambda server: curls(server, large_path(server), large.size, 4) / 1e6,
                (Target(1.2, True, REGISTRY), Target(0.9, True, NGINX)),
            ),
        ]

    def cold(self, running: dict[str, Server]) -> list[Line]:
        """A large blob that only the upstream has, once through each proxy in each round.

        docker-registry hands out what it has not verified, and then fetches the blob once more to verify and store it, so there
        are two lines: until the client has all of it, and until it is known to be right.
        """
        caches = {name: server for name, server in running.items() if name != NGINX}
        repositories = [f"signed/cold{number}" for number in range(self._plan.rounds)]
        images = [self._publisher.image(repository, "v1", (self._plan.large,), signed=True) for repository in repositories]
        rates: dict[str, list[float]] = {name: [] for name in caches}
        verified: dict[str, list[float]] = {name: [] for name in caches}
        for image in images:
            blob = image.layers[0]
            for name, server in caches.items():
                fetch(server, server.manifest_path(image.repository, image.tag), image.digest)
                before = self._fetches(image.repository, blob)
                os.sync()
                began = time.perf_counter()
                rates[name].append(blob.size / curl(server, server.blob_path(image.repository, blob.digest), blob.size) / 1e6)
                if name == REGISTRY:
                    servers.wait_until_stored(server, blob.digest)
                verified[name].append(blob.size / (time.perf_counter() - began) / 1e6)
                if self._fetches(image.repository, blob) == before:
                    raise Wrong(f"{blob.digest} was not cold at {server.name}")
        name = f"cold {self._plan.large // MIB} MiB blob"
        target = (Target(1.0, True, REGISTRY),)
        return [
            self._line(f"{name}, at the client", "MB/s", rates, target),
            self._line(f"{name}, verified", "MB/s", verified, target),
        ]

    def first_pulls(self) -> list[Line]:
        """First pulls of tags from a fresh Tagstone, signed and unsigned in turns: what the signature adds."""
        pairs = [
            tuple(
                self._publisher.image(f"{kind}/first", f"t{n}", (1024,), signed=kind == "signed")
                for kind in ("signed", "unsigned")
            )
            for n in range(self._plan.tags + 1)
        ]
        took: list[list[float]] = [[], []]
        with self.tagstone("tagstone-first") as tagstone:
            connection = http.client.HTTPConnection("127.0.0.1", tagstone.port, timeout=60)
            with closing(connection):
                for pair in pairs:
                    for kind, image in enumerate(pair):
                        path = tagstone.manifest_path(image.repository, image.tag)
                        took[kind].append(1000 * fetch(tagstone, path, image.digest, connection))
        # The first of each also pays for what is loaded when first needed.
        signed, unsigned = (statistics.median(times[1:]) for times in took)
        return [
            Line("first pull of an unsigned tag", "ms", unsigned, {}),
            Line("first pull of a signed tag", "ms", signed, {}),
            Line("what the signature adds", "ms", signed - unsigned, {}, (Target(30, False),)),
            Line("the very first signed pull after start", "ms", took[0][0], {}),
        ]

    def starts(self, with_tagstone: bool) -> list[Line]:
        """Seconds from start to the first 200 on ``/v2/``, without and with state from before."""
        fresh: dict[str, list[float]] = {}
        again: dict[str, list[float]] = {}
        for number in range(self._plan.starts):
            new = {REGISTRY: self.registry(f"start-registry{number}")}
            if with_tagstone:
                new[TAGSTONE] = self.tagstone(f"start-tagstone{number}")
            for name, server in new.items():
                for seconds in (fresh, again):
                    with server:
                        seconds.setdefault(name, []).append(server.ready_after)
        return [
            self._line("ready after the first start", "s", fresh, (Target(1.0, False),)),
            self._line("ready after a restart", "s", again, (Target(1.0, False),)),
        ]

    def swarm(self, with_tagstone: bool) -> list[Line]:
        """Many clients at once on many cold blobs: one fetch each, bounded memory, right bytes.

        Fresh processes, so that their peak memory is that of the swarm alone.
        """
        plan = self._plan
        fresh = {TAGSTONE: self.tagstone("tagstone-swarm")} if with_tagstone else {}
        fresh[REGISTRY] = self.registry("registry-swarm")
        seconds: dict[str, float] = {}
        memory: dict[str, float] = {}
        fetches: dict[str, float] = {}
        for name, server in fresh.items():
            image = self._publisher.image(f"signed/swarm-{name}", "v1", (plan.swarm_size,) * plan.swarm_blobs, signed=True)
            with server:
                fetch(server, server.manifest_path(image.repository, image.tag), image.digest)
                blobs = [(server.blob_path(image.repository, blob.digest), blob.digest) for blob in image.layers]
                os.sync()
                try:
                    seconds[name] = swarm(server, blobs, plan.swarm_clients, plan.swarm_each)
                except Wrong:
                    if name == TAGSTONE:
                        raise
                    self._note(f"{name} does not stand the swarm: not measured")
                    continue
                memory[name] = server.peak_memory() / MIB
                fetches[name] = max(self._fetches(image.repository, blob) for blob in image.layers)
        volume = plan.swarm_clients * plan.swarm_each * plan.swarm_size / 1e6
        what = f"{plan.swarm_clients} clients, {plan.swarm_blobs} cold blobs of {plan.swarm_size // MIB} MiB"
        rates = {name: [volume / took] for name, took in seconds.items()}
        return [
            self._line(f"{what}: together", "MB/s", rates),
            self._line(
                "  most upstream fetches of one blob", "fetches", {k: [v] for k, v in fetches.items()}, (Target(1, False),)
            ),
            self._line("  peak resident memory", "MiB", {k: [v] for k, v in memory.items()}, (Target(200, False),)),
        ]

    # -- helpers ------------------------------------------------------------------------------------------------------

    def _compare(
        self,
        name: str,
        unit: str,
        running: dict[str, Server],
        measure: Callable[[Server], float],
        targets: tuple[Target, ...],
        rounds: int | None = None,
    ) -> Line:
        """Measure every server in turns, so that what disturbs the machine disturbs all of them."""
        seen: dict[str, list[float]] = {server: [] for server in running}
        for turn in range(rounds or self._plan.rounds):
            for key, server in running.items():
                self._note(f"{name}, round {turn + 1}: {key}")
                seen[key].append(measure(server))
        return self._line(name, unit, seen, targets)

    def _line(self, name: str, unit: str, seen: dict[str, list[float]], targets: Sequence[Target] = ()) -> Line:
        medians = {key: statistics.median(values) for key, values in seen.items()}
        return Line(name, unit, medians.pop(TAGSTONE, None), medians, tuple(targets))

    def _warm_up(self, server: Server, image: Image, blob: Blob) -> None:
        """Pull until the upstream is no longer asked (docker-registry stores a blob some time after it was served)."""
        path = server.blob_path(image.repository, blob.digest)
        deadline = time.monotonic() + 60
        fetch(server, path, blob.digest)
        while time.monotonic() < deadline:
            before = self._fetches(image.repository, blob)
            fetch(server, path, blob.digest)
            if self._fetches(image.repository, blob) == before:
                return
            time.sleep(0.2)
        raise Wrong(f"{server.name} goes on asking the upstream for {path}")

    def _fetches(self, repository: str, blob: Blob) -> int:
        """How often the upstream was asked for a blob (its access log has one line per finished request)."""
        return self._upstream.log.read_text().count(f"GET /v2/{repository}/blobs/{blob.digest} HTTP")
