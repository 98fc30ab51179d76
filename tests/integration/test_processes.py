"""What becomes of the server's processes: signals, crashes, restarts, and workers that share one data directory."""

from __future__ import annotations

import hashlib
import http.client
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from storage.digest import Digest
from tests.integration.conftest import Upstream, config_of
from tests.integration.processes import Reply, Tagstone, ask_on, until
from tests.integration.relay import Relay
from tests.simulator import images
from tests.simulator.images import Image
from tests.tools import PATIENCE, SOON

pytestmark = pytest.mark.client

SIZE = 4 << 20
HOLD_AFTER = 1 << 20
#: Seconds in which a server has ended that waits for nothing: less than ``limits.drain_timeout``.
UNDRAINED = 25.0


@pytest.fixture(scope="module")
def big(upstream: Upstream) -> Image:
    """A signed image, ``acme/big:v1``, with a layer of some megabytes."""
    return upstream.signed("acme/big", "v1", images.image("big", layer_size=SIZE))


@contextmanager
def slow(upstream: Upstream) -> Iterator[Relay]:
    """A way to the upstream on which every large answer stands still until it is released."""
    with Relay(upstream.registry.port, hold_after=HOLD_AFTER) as relay:
        yield relay


Start = Callable[..., Tagstone]


@pytest.fixture
def start(base: Path, upstream: Upstream, keys: Path) -> Iterator[Start]:
    """Start a server of one's own on a relay; it is ended after the test."""
    servers: list[Tagstone] = []

    def make(relay: Relay, *, workers: int = 1, top: str = "") -> Tagstone:
        config = top + config_of(keys, reg=f"127.0.0.1:{relay.port}")
        server = Tagstone(Path(tempfile.mkdtemp(prefix="own-", dir=base)), config, workers=workers)
        servers.append(server)
        return server.start()

    yield make
    for server in servers:
        server.stop()


def blob_path(image: Image) -> str:
    """Where the proxy has the image's layer."""
    return f"/v2/reg.example/acme/big/blobs/{image.layers[0].digest}"


def pull_tag(server: Tagstone, image: Image) -> None:
    """Have the tag pinned and the image admitted."""
    assert server.manifest("reg.example/acme/big", "v1").digest == str(image.digest)


def right(reply: Reply, image: Image) -> bool:
    """The whole layer, byte for byte."""
    return reply.status == 200 and not reply.cut and Digest.of(reply.body) == image.layers[0].digest


def fetches(upstream: Upstream, image: Image) -> int:
    """How often the layer left the upstream."""
    return upstream.registry.count("GET", str(image.layers[0].digest))


def layers_in(server: Tagstone) -> list[Path]:
    """The files below the data directory in which the layer or a good part of it could be."""
    found = []
    for path in server.data.rglob("*"):
        with suppress(FileNotFoundError):  # removed meanwhile, as a spool is
            if path.is_file() and path.stat().st_size > HOLD_AFTER // 2 and not path.name.startswith("tagstone.db"):
                found.append(path)
    return found


def refuses_connections(server: Tagstone) -> bool:
    """Whether nobody listens any more."""
    connection = server.connect()
    try:
        connection.connect()
    except ConnectionRefusedError:
        return True
    finally:
        connection.close()
    return False


@pytest.mark.parametrize("workers", [1, 2])
def test_promise_59_sigterm_lets_a_download_end(start: Start, upstream: Upstream, big: Image, workers: int) -> None:
    """New clients are turned away at once, the one in the middle of a cold blob gets all of it, and the exit code is 0."""
    with slow(upstream) as relay, ThreadPoolExecutor(1) as pool:
        server = start(relay, workers=workers)
        pull_tag(server, big)
        pull = pool.submit(server.ask, "GET", blob_path(big))
        assert relay.held.wait(PATIENCE)
        idle = server.connect()
        assert ask_on(idle, "GET", "/v2/").status == 200
        server.signal(signal.SIGTERM)
        until(lambda: refuses_connections(server))
        assert not pull.done()
        relay.release.set()
        assert right(pull.result(PATIENCE), big)
        assert server.wait(UNDRAINED) == 0
        idle.close()
        assert "Traceback" not in server.log


def test_promise_59_sigterm_cuts_what_does_not_end(start: Start, upstream: Upstream, big: Image) -> None:
    """After ``limits.drain_timeout`` a download that stands still is cut, so that nobody takes it for whole; exit code 0."""
    with slow(upstream) as relay, ThreadPoolExecutor(1) as pool:
        server = start(relay, top="limits: {drain_timeout: 1s}\n")
        pull_tag(server, big)
        pull = pool.submit(server.ask, "GET", blob_path(big))
        assert relay.held.wait(PATIENCE)
        server.signal(signal.SIGTERM)
        began = time.monotonic()
        assert server.wait(PATIENCE) == 0
        assert time.monotonic() - began < SOON
        reply = pull.result(PATIENCE)
        assert reply.status == 200
        assert reply.cut
        assert len(reply.body) < big.layers[0].size
        assert not layers_in(server)
        assert "Traceback" not in server.log


def test_promise_51_a_killed_server_leaves_nothing_partial(start: Start, upstream: Upstream, big: Image) -> None:
    """kill -9 in the middle of a cold blob: the client is cut; the next start has the pin, no part of the blob, and pulls it."""
    with slow(upstream) as relay, ThreadPoolExecutor(1) as pool:
        server = start(relay, workers=2)
        pull_tag(server, big)
        pull = pool.submit(_ask_whatever_comes, server, blob_path(big))
        assert relay.held.wait(PATIENCE)
        workers = server.workers()
        server.signal(signal.SIGSTOP)  # or it would put another in the place of the first one, which may be there a while longer
        for pid in (*workers, server.pid):
            os.kill(pid, signal.SIGKILL)
        assert server.wait() == -signal.SIGKILL
        reply = pull.result(PATIENCE)
        assert reply is None or reply.cut
        assert not [path for path in layers_in(server) if path.name == big.layers[0].digest.hex]
        relay.release.set()
        before = fetches(upstream, big)
        server.start()
        assert server.json("pins", "show", "reg.example/acme/big:v1")["digest"] == str(big.digest)
        assert right(server.ask("GET", blob_path(big)), big)
        assert until(lambda: fetches(upstream, big) - before) == 1
        until(lambda: [path.name for path in layers_in(server)] == [big.layers[0].digest.hex])
        assert Digest.of(layers_in(server)[0].read_bytes()) == big.layers[0].digest


def _ask_whatever_comes(server: Tagstone, path: str) -> Reply | None:
    try:
        return server.ask("GET", path)
    except (OSError, http.client.HTTPException):
        return None


def test_promise_56_workers_share_one_fetch(start: Start, upstream: Upstream, big: Image) -> None:
    """Both workers are asked for the same cold blob while it arrives: both clients get it whole, the upstream is asked once."""
    with slow(upstream) as relay, ThreadPoolExecutor(2) as pool:
        server = start(relay, workers=2)
        pull_tag(server, big)
        before = fetches(upstream, big)
        with server.by_worker() as connections:
            pulls = [pool.submit(ask_on, connection, "GET", blob_path(big)) for connection in connections.values()]
            assert relay.held.wait(PATIENCE)
            assert not any(pull.done() for pull in pulls)
            relay.release.set()
            assert [right(pull.result(PATIENCE), big) for pull in pulls] == [True, True]
        assert fetches(upstream, big) - before == 1


def test_a_worker_that_dies_is_replaced(start: Start, upstream: Upstream, big: Image) -> None:
    """kill -9 of the worker that fetches a cold blob: its clients are cut, those of the other get it whole, a new one comes."""
    with slow(upstream) as relay, ThreadPoolExecutor(2) as pool:
        server = start(relay, workers=2)
        pull_tag(server, big)
        with server.by_worker() as connections:
            victim, other = connections
            pull = pool.submit(_ask_on_whatever_comes, connections[victim], blob_path(big))
            assert relay.held.wait(PATIENCE)
            follower = pool.submit(ask_on, connections[other], "GET", blob_path(big))
            with pytest.raises(TimeoutError):
                follower.result(0.5)  # it follows what the other one writes
            os.kill(victim, signal.SIGKILL)
            reply = pull.result(PATIENCE)
            assert reply is None or reply.cut
            relay.release.set()
            assert right(follower.result(PATIENCE), big)
            until(lambda: len(set(server.workers()) - {victim}) == 2)
            assert other in server.workers()
        with server.by_worker() as connections:
            assert all(right(ask_on(connection, "GET", blob_path(big)), big) for connection in connections.values())
        assert f"pid={victim}" in server.log
        assert server.stop() == 0


def test_a_worker_that_is_replaced_decides_as_the_others_do(start: Start, upstream: Upstream, big: Image) -> None:
    """What was reloaded holds for it from its first request on: who may pull, and the rules; a broken file changes nothing."""
    token = "tagstone_" + "a" * 43
    known = f"access: {{tokens: {{ci: {{sha256: {hashlib.sha256(token.encode()).hexdigest()}}}}}}}\n"
    path = f"/v2/reg.example/acme/big/manifests/{big.digest}"

    def answers() -> list[int]:
        with server.by_worker() as found:
            return [ask_on(connection, "GET", path, Authorization=f"Bearer {token}").status for connection in found.values()]

    def reload(config: str, line: str, times: int) -> None:
        server.config.write_text(config)
        server.signal(signal.SIGHUP)
        until(lambda: server.log.count(line) == times)

    def replaced(victim: int) -> bool:
        return victim not in server.workers() and len(server.workers()) == 2

    def replace_all() -> None:
        for victim in server.workers():
            os.kill(victim, signal.SIGKILL)
            until(partial(replaced, victim))

    with slow(upstream) as relay:
        relay.release.set()
        server = start(relay, workers=2, top=known)
        config = server.config.read_text()
        assert answers() == [200, 200]
        denied = config.replace("rules:\n", "rules:\n  - {match: '*/acme/big', require: deny}\n")
        reload(denied, "reloaded", 2)
        assert answers() == [403, 403]
        replace_all()
        assert answers() == [403, 403]
        other = hashlib.sha256(b"another").hexdigest()
        revoked = denied.replace(hashlib.sha256(token.encode()).hexdigest(), other)
        reload(revoked, "reloaded", 4)
        reload(config + "nonsense: 1\n", "the old one stays in force", 1)
        assert answers() == [401, 401]
        replace_all()
        assert answers() == [401, 401]


def _ask_on_whatever_comes(connection: http.client.HTTPConnection, path: str) -> Reply | None:
    try:
        return ask_on(connection, "GET", path)
    except (OSError, http.client.HTTPException):
        return None


def test_workers_do_not_outlive_their_supervisor(start: Start, upstream: Upstream, big: Image) -> None:
    """kill -9 of the supervisor alone ends its workers, too: nobody serves by an old configuration beside the next start."""
    with slow(upstream) as relay:
        relay.release.set()
        server = start(relay, workers=2)
        pull_tag(server, big)
        workers = server.workers()
        server.signal(signal.SIGKILL)
        assert server.wait() == -signal.SIGKILL
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), UNDRAINED)
        assert refuses_connections(server)


def test_signals_in_every_moment_of_the_start(start: Start, upstream: Upstream, keys: Path) -> None:
    """SIGHUP while it starts harms nothing and is heeded; SIGTERM then ends it with exit code 0 and leaves no worker."""
    with slow(upstream) as relay:
        server = start(relay, workers=2)
        for _ in range(20):
            server.signal(signal.SIGHUP)
        until(lambda: "reloaded" in server.log)
        assert server.ask("GET", "/v2/").status == 200
        workers = server.workers()
        server.signal(signal.SIGTERM)
        assert server.wait(UNDRAINED) == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
        assert "worker.ended" not in server.log
        assert "Traceback" not in server.log


@pytest.mark.parametrize("workers", [1, 2])
def test_a_port_that_is_taken_ends_the_start(start: Start, upstream: Upstream, workers: int) -> None:
    """With a reason in the log and exit code 1, instead of trying for ever, or sharing the port with another's workers."""
    with slow(upstream) as relay:
        server = start(relay, workers=workers)
        for more in (1, 2):
            other = Tagstone(server.folder / f"other-{more}", "", workers=more)
            other.config.write_text(server.config.read_text().replace(str(server.data), str(other.data)))
            done = run_to_end(other)
            assert done.returncode == 1
            assert "cannot start" in done.stdout
            assert str(server.port) in done.stdout
            assert "Traceback" not in done.stdout


@pytest.mark.parametrize("workers", [1, 2])
def test_a_data_directory_that_cannot_be_used_ends_the_start(base: Path, keys: Path, workers: int) -> None:
    """Workers that cannot open it say why, and are not started again and again."""
    server = Tagstone(Path(tempfile.mkdtemp(prefix="own-", dir=base)), config_of(keys, reg="127.0.0.1:1"), workers=workers)
    server.data.write_text("a file, no folder")
    done = run_to_end(server)
    assert done.returncode == 1
    assert "cannot start" in done.stdout
    assert str(server.data) in done.stdout
    assert "Traceback" not in done.stdout


def run_to_end(server: Tagstone) -> subprocess.CompletedProcess[str]:
    """Run a server that is expected to end by itself."""
    return subprocess.run(
        server.command,
        cwd=server.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_pulls_go_on_while_workers_come_and_go(start: Start, upstream: Upstream, big: Image) -> None:
    """Clients that ask again after a lost connection see nothing but right answers while every worker is killed once."""
    wrong: list[object] = []
    pulled = 0
    stop = threading.Event()
    with slow(upstream) as relay:
        relay.release.set()
        server = start(relay, workers=2)
        pull_tag(server, big)

        def pull() -> None:
            nonlocal pulled
            while not stop.is_set():
                reply = _ask_whatever_comes(server, blob_path(big))
                if reply is not None and not reply.cut and not right(reply, big):
                    wrong.append((reply.status, reply.reason))
                pulled += 1

        with ThreadPoolExecutor(1) as pool:
            client: Future[None] = pool.submit(pull)
            for victim in server.workers():
                before = pulled
                os.kill(victim, signal.SIGKILL)
                until(lambda victim=victim: len(set(server.workers()) - {victim}) == 2)  # type: ignore[misc]  # the default binds it
                until(lambda before=before: pulled > before + 2)  # type: ignore[misc]  # as above
            stop.set()
            client.result(PATIENCE)
        assert wrong == []
