"""An observer whose log does not answer as it should: an outage is no fork, and ends nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from proxy.services.monitor import Forked, Monitor
from proxy.upstream.tiledlog import LogUnreachable, TiledLog
from storage.entries import Entry, canonical
from storage.merkle import Frontier, leaf_hash
from storage.notes import Checkpoint, Note, SignerKey
from storage.tiles import bundle
from storage.watchbook import Watchbook
from tests.unit.storage.values import AT

KEY = SignerKey.generate("log.example")


class Log:
    """A log of ``size`` entries in memory; ``broken`` answers in its place where it gives an answer for a path."""

    def __init__(self, size: int) -> None:
        self.bodies: list[bytes] = []
        self.grow(size)
        self.broken: Callable[[str], web.Response | None] = lambda _: None

    def grow(self, count: int) -> None:
        """Append entries."""
        first = len(self.bodies)
        self.bodies += [canonical(index, Entry("import", "x", AT, "test", "")) for index in range(first, first + count)]

    async def answer(self, request: web.Request) -> web.Response:
        """One answer; there are no more than 256 entries."""
        path = request.path.removeprefix("/ledger/")
        if (broken := self.broken(path)) is not None:
            return broken
        leaves, frontier = [leaf_hash(body) for body in self.bodies], Frontier()
        for leaf in leaves:
            frontier, _ = frontier.grown(leaf)
        if path == "checkpoint":
            text = Checkpoint(KEY.name, len(leaves), frontier.root()).text()
            return web.Response(body=bytes(Note.signed(text, [KEY])))
        width = int(path.rpartition("/")[2])
        return web.Response(body=bundle(self.bodies[:width]) if "entries" in path else b"".join(leaves[:width]))


async def looked(log: Log, state: Path) -> int:
    """Look once; how many entries there were."""
    application = web.Application()
    application.router.add_get("/{path:.*}", log.answer)
    async with TestServer(application, host="127.0.0.1") as server, TiledLog(str(server.make_url("/ledger"))) as tiles:
        with Watchbook(state) as book:
            book.trust(KEY.verifier, AT)
            return (await Monitor(tiles, book, lambda: AT).look()).now.size


@pytest.mark.parametrize("remembered", [True, False])
@pytest.mark.parametrize("path", ["checkpoint", "tile/0/", "tile/entries/"])
async def test_a_log_that_answers_in_part_is_an_outage(tmp_path: Path, path: str, remembered: bool) -> None:
    """503 to the checkpoint, to hashes or to entries: nothing is accused or forgotten, and the next look goes on."""
    log, state = Log(5), tmp_path / "ledger.watch"
    if remembered:
        assert await looked(log, state) == 5
    log.grow(6)
    log.broken = lambda asked: web.Response(status=503) if asked.startswith(path) else None
    if remembered or path != "tile/entries/":  # at the first look no entries are read
        with pytest.raises(LogUnreachable, match="answers 503"):
            await looked(log, state)
    log.broken = lambda _: None
    assert await looked(log, state) == 11
    assert not any("fork" in json.loads(line) for line in state.read_text().splitlines())


async def test_a_page_in_the_place_of_the_checkpoint_is_an_outage(tmp_path: Path) -> None:
    """Of a load balancer, say, with a status of 200: nobody signed it, so it proves nothing against anybody."""
    log, state = Log(5), tmp_path / "ledger.watch"
    await looked(log, state)
    log.broken = lambda _: web.Response(text="<html>We are back soon.</html>", content_type="text/html")
    with pytest.raises(LogUnreachable, match="something else than a checkpoint"):
        await looked(log, state)
    log.broken = lambda _: None
    assert await looked(log, state) == 5


async def test_a_note_that_a_stranger_signed_is_no_outage(tmp_path: Path) -> None:
    """It is a checkpoint, of whoever: this log shows what it never signed."""
    log, state = Log(5), tmp_path / "ledger.watch"
    await looked(log, state)
    text = Checkpoint(KEY.name, 5, leaf_hash(b"")).text()
    other = bytes(Note.signed(text, [SignerKey.generate(KEY.name)]))
    log.broken = lambda _: web.Response(body=other)
    with pytest.raises(Forked, match="no key that is known signed it"):
        await looked(log, state)
