"""The clients, the same for every server: wrk, curl, a single connection with a clock, and the swarm."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from tests.bench.images import digest_of
from tests.bench.servers import Server
from tests.simulator import images
from tests.tools import find

_ACCEPT = ", ".join(images.MANIFEST_TYPES)
_TIMEOUT = 600
#: Seconds in which a wrk connects.
_WARM_UP = 0.3
MIB = 1 << 20


class Wrong(Exception):
    """A server answered something else than it should; what it was measured at means nothing."""


def fetch(server: Server, path: str, digest: str, connection: http.client.HTTPConnection | None = None) -> float:
    """GET ``path`` whole and check that it hashes to ``digest``; returns seconds from request to last byte."""
    used = connection or http.client.HTTPConnection("127.0.0.1", server.port, timeout=_TIMEOUT)
    try:
        began = time.perf_counter()
        used.request("GET", path, headers={"Accept": _ACCEPT})
        answer = used.getresponse()
        body = answer.read()
        took = time.perf_counter() - began
    finally:
        if connection is None:
            used.close()
    if answer.status != 200 or digest_of(body) != digest:
        raise Wrong(f"{server.name} answered {answer.status} {answer.reason} to {path}: {body[:300]!r}")
    return took


def wrk(server: Server, path: str, seconds: float, connections: int = 32, threads: int = 1) -> float:
    """Requests per second that wrk sees, every answer a 200. Who answers none in that time is given more of it."""
    for times in (1, 4, 16):
        if rate := _wrk(server, path, max(1, round(times * seconds)), connections, threads):
            return rate
    raise Wrong(f"{server.name} answered nobody who asked for {path}")


def _wrk(server: Server, path: str, seconds: int, connections: int, threads: int) -> float:
    done = subprocess.run(
        (
            *(find("wrk") or "wrk", f"-t{threads}", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s"),
            *("-H", f"Accept: {_ACCEPT}", f"http://127.0.0.1:{server.port}{path}"),
        ),
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=True,
    )
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    if rate is None or "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise Wrong(f"wrk against {server.name}{path}:\n{done.stdout}{done.stderr}")
    return float(rate[1])


class Load:
    """A wrk that goes on only while it is let: so several servers are measured side by side, in turns too short for wrk's own.

    As a context manager it starts, held, and is ended.
    """

    def __init__(self, server: Server, path: str, connections: int = 32) -> None:
        self._name = server.name
        url = f"http://127.0.0.1:{server.port}{path}"
        self._command = ("-t1", f"-c{connections}", "-d3600s", "--timeout", "600s", "-H", f"Accept: {_ACCEPT}", url)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen((find("wrk") or "wrk", *self._command), stdout=subprocess.DEVNULL)
        try:
            self.go(_WARM_UP)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def go(self, seconds: float) -> float:
        """Let it go for so long; the seconds that it was. Raises Wrong where it has ended."""
        process = self._process
        if process is None or process.poll() is not None:
            raise Wrong(f"wrk against {self._name} has ended")
        began = time.perf_counter()
        process.send_signal(signal.SIGCONT)
        time.sleep(seconds)
        process.send_signal(signal.SIGSTOP)
        return time.perf_counter() - began


def curl(server: Server, path: str, size: int) -> float:
    """Seconds that one curl needs for a body of ``size`` bytes."""
    done = subprocess.run(
        (
            *(find("curl") or "curl", "--silent", "--show-error", "--output", "/dev/null", "--max-time", str(_TIMEOUT)),
            *("--write-out", "%{http_code} %{size_download} %{time_total}", f"http://127.0.0.1:{server.port}{path}"),
        ),
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=False,
    )
    words = done.stdout.split()
    if done.returncode != 0 or words[:2] != ["200", str(size)]:
        raise Wrong(f"curl of {server.name}{path}: exit {done.returncode}, {done.stdout} {done.stderr}")
    return float(words[2])


def curls(server: Server, path: str, size: int, parallel: int) -> float:
    """Bytes per second that ``parallel`` curls at once get together."""
    with ThreadPoolExecutor(parallel) as pool:
        began = time.perf_counter()
        for pull in [pool.submit(curl, server, path, size) for _ in range(parallel)]:
            pull.result()
        return parallel * size / (time.perf_counter() - began)


def swarm(server: Server, blobs: Sequence[tuple[str, str]], clients: int, each: int) -> float:
    """``clients`` at once pull ``each`` of the blobs (path, digest) from a process of their own; returns seconds.

    Every body is hashed. Raises :class:`Wrong` when one of them is not what it should be.
    """
    order = {"port": server.port, "blobs": blobs, "clients": clients, "each": each}
    done = subprocess.run(
        (sys.executable, "-m", "tests.bench.swarm"),
        input=json.dumps(order),
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=False,
    )
    if done.returncode != 0:
        raise Wrong(f"the swarm failed against {server.name}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return float(json.loads(done.stdout)["seconds"])
