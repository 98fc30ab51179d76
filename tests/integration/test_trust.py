"""A TUF repository under real processes: two workers on one data directory, restarts, and the operator's command."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from proxy.tuf.state import FOLDER
from tests.integration.processes import Tagstone, ask_on, until
from tests.simulator import signing
from tests.simulator.registry import Registry
from tests.simulator.sigstore import PrivateSigstore, Signing
from tests.simulator.sigstore.tuf import TufRepository
from tests.simulator.sigstore.tufserver import Answer, TufServer
from tests.tools import PATIENCE, SOON

SIGSTORE, WHO = PrivateSigstore(), Signing()
CONFIG = """
check_interval: 0s
upstreams: {{reg.example: {{url: '{upstream}', allow_private: true}}}}
trust:
  refresh: {refresh}
  roots: {{corp: {{tuf: '{tuf}', root: {folder}/root.json}}}}
rules:
  - match: "**"
    require: {{signature: {{keyless: {{root: corp, issuer: '{issuer}', identity: '{identity}'}}}}}}
"""


@pytest.fixture
def upstream() -> Iterator[Registry]:
    """A simulated registry in a thread of its own, with signed images ``acme/app:v1`` to ``v5``."""
    with in_thread() as registry:
        for tag in ("v1", "v2", "v3", "v4", "v5"):
            image = registry.image("acme/app", tag, seed=tag)
            registry.add("acme/app", SIGSTORE.signature_image(image.digest, WHO), signing.signature_tag(image.digest))
        yield registry


@contextmanager
def in_thread() -> Iterator[Registry]:
    """A registry whose event loop is not the test's."""
    started: list[Registry] = []
    ready, loop, stop = threading.Event(), asyncio.new_event_loop(), asyncio.Event()

    async def run() -> None:
        async with Registry() as registry:
            started.append(registry)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    assert ready.wait(PATIENCE)
    try:
        yield started[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(PATIENCE)
        loop.close()


@pytest.fixture
def published(tmp_path: Path) -> TufRepository:
    """A good repository with two versions."""
    repository = SIGSTORE.tuf_repository(tmp_path / "repository")
    repository.publish(SIGSTORE.tuf_targets())
    (tmp_path / "root.json").write_bytes(repository.bootstrap)
    return repository


@pytest.fixture
def tuf(published: TufRepository) -> Iterator[TufServer]:
    """The repository over HTTP."""
    with TufServer(published.folder) as server:
        yield server


def config(folder: Path, upstream: Registry, tuf: TufServer, refresh: str) -> str:
    """One root, one rule."""
    return CONFIG.format(
        upstream=upstream.url, tuf=tuf.url, folder=folder, refresh=refresh, issuer=WHO.issuer, identity=WHO.identity
    )


def statuses(server: Tagstone, tag: str) -> set[int]:
    """What the workers answer to a pull of the tag."""
    with server.by_worker() as workers:
        return {ask_on(each, "GET", f"/v2/reg.example/acme/app/manifests/{tag}").status for each in workers.values()}


def all_know(server: Tagstone) -> bool:
    """Whether both workers have taken over that the root is suspended. A pull before that would still be decided, and pinned."""
    return server.log.count("suspended=['corp']") >= 2


def test_promise_49_all_workers_stop_deciding_and_begin_again(
    tmp_path: Path, upstream: Registry, tuf: TufServer, published: TufRepository
) -> None:
    """One of them asks, all know; the mark outlasts the death of a worker and a restart of the server."""
    with Tagstone(tmp_path / "server", config(tmp_path, upstream, tuf, "200ms"), workers=2) as server:
        until(lambda: statuses(server, "v1") == {200})
        published.publish(SIGSTORE.tuf_targets(), "timestamp rolled back")
        until(lambda: all_know(server))
        assert server.run("trust", "check").returncode == 1
        assert (statuses(server, "v1"), statuses(server, "v2")) == ({200}, {503})
        dead = server.workers()[0]
        os.kill(dead, signal.SIGKILL)
        until(lambda: dead not in server.workers() and len(server.workers()) == 2)
        assert (statuses(server, "v1"), statuses(server, "v2")) == ({200}, {503})
        server.stop()
        tuf.all_else = Answer(503)
        server.start()
        assert (statuses(server, "v1"), statuses(server, "v2")) == ({200}, {503})
        answer = server.manifest("reg.example/acme/app", "v3")
        assert "root corp: makes no new decisions: its TUF repository" in answer.error["message"]
        tuf.all_else = None
        for _ in range(2):
            published.publish(SIGSTORE.tuf_targets())
        until(lambda: statuses(server, "v2") == {200})
        assert server.stop() == 0


def test_running_workers_notice_what_the_command_fetched(
    tmp_path: Path, upstream: Registry, tuf: TufServer, published: TufRepository
) -> None:
    """Where the server itself asks nobody: the operator decides when."""
    with Tagstone(tmp_path / "server", config(tmp_path, upstream, tuf, "never"), workers=2) as server:
        assert statuses(server, "v1") == {503}
        assert tuf.asked == []
        assert server.run("trust", "update").returncode == 0
        until(lambda: statuses(server, "v1") == {200})
        published.publish(SIGSTORE.tuf_targets(), "targets expired")
        assert server.run("trust", "update", "corp").returncode == 1
        until(lambda: all_know(server))
        assert (statuses(server, "v1"), statuses(server, "v2")) == ({200}, {503})


def test_a_repository_that_hangs_is_in_nobodys_way(tmp_path: Path, upstream: Registry, tuf: TufServer) -> None:
    """Neither the start nor pulls nor the end wait for it."""
    tuf.answers["/timestamp.json"] = Answer(body=b"{", hangs=True)
    began = time.monotonic()
    with Tagstone(tmp_path / "server", config(tmp_path, upstream, tuf, "1h")) as server:
        assert time.monotonic() - began < 60, "it would be waited for two minutes"
        for _ in range(2):
            began = time.monotonic()
            assert server.manifest("reg.example/acme/app", "v1").status == 503
            assert time.monotonic() - began < SOON
            until(lambda: "/timestamp.json" in tuf.asked)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 25, "limits.drain_timeout is longer"


def test_processes_that_ask_at_once_do_not_harm_each_other(tmp_path: Path, upstream: Registry, tuf: TufServer) -> None:
    """Two commands on one data directory, beside a server: all succeed, and what is stored is whole."""
    with Tagstone(tmp_path / "server", config(tmp_path, upstream, tuf, "1s"), workers=2) as server:
        codes: list[int] = []
        threads = [threading.Thread(target=lambda: codes.append(server.run("trust", "update").returncode)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert codes == [0, 0]
        (shown,) = [item for item in server.json("trust", "show") if item["kind"] == "TUF metadata"]
        assert (shown["state"], shown["source"], shown["versions"]["timestamp"]) == ("fresh", "tuf", 2)
        (folder,) = (server.data / FOLDER).iterdir()
        assert {each.name for each in folder.iterdir()} == {"lock", "metadata", "state.json"}
