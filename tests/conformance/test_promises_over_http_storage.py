"""Promises about our own storage: what does not belong there, a database that fails, and when it is asked at all."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from storage.database import Database
from storage.digest import Digest
from tests.conformance.test_promises_over_http_outages import assert_failure
from tests.harness import Proxy, WallClock, until
from tests.simulator.registry import Registry
from tests.tools import PATIENCE, SOON

APP = "/v2/reg.example/open/app"

# -- 38: the store -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "intruder", ["symlink", "symlink to the same bytes", "dangling symlink", "other bytes", "directory", "fifo"]
)
async def test_promise_38_what_does_not_belong_in_the_store_is_not_served(scratch: Path, intruder: str) -> None:
    """A link, a foreign file, a folder in the place of a blob: not followed, not opened, fetched again from the upstream."""
    secret = scratch / "secret"
    async with Registry() as upstream, Proxy(scratch, upstream) as proxy:
        image = upstream.image("open/app", "v1", layer_size=400_000)
        layer = image.blobs[1]
        assert (await proxy.manifest("open/app", "v1")).status == 200
        assert (await proxy.blob("open/app", layer.digest)).body == layer.data
        await proxy.stop()
        place = _place(proxy, layer.digest)
        place.unlink()
        secret.write_bytes(layer.data if "same" in intruder else b"root:secret" * 100)
        match intruder:
            case "symlink" | "symlink to the same bytes":
                place.symlink_to(secret)
            case "dangling symlink":
                place.symlink_to(scratch / "nowhere")
            case "other bytes":
                place.write_bytes(bytes(len(layer.data)))
            case "directory":
                place.mkdir()
            case _:
                os.mkfifo(place)
        kept = secret.read_bytes()
        await proxy.start()
        for _ in range(2):
            answer = await asyncio.wait_for(proxy.blob("open/app", layer.digest), PATIENCE)
            assert (answer.status, answer.body) == (200, layer.data)
        assert upstream.count("GET", f"/blobs/{layer.digest}") >= 2
        assert (await proxy.blob("open/app", layer.digest, Range="bytes=5-9")).body == layer.data[5:10]
        assert secret.read_bytes() == kept
        assert not (scratch / "nowhere").exists()


def _place(proxy: Proxy, digest: Digest) -> Path:
    (found,) = (proxy.data_dir / "blobs").rglob(digest.hex)
    return found


# -- 53: the database ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def locked(path: Path) -> AsyncIterator[None]:
    """Somebody else writes, and does not come to an end."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        # In a thread: who writes at this moment needs this loop to come to an end.
        await asyncio.to_thread(other.execute, "BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Databases that wait for a lock for half a second rather than five."""
    monkeypatch.setattr("proxy.app.Database", partial(Database, busy_timeout=0.5))


@pytest.mark.usefixtures("hasty")
async def test_promise_53_a_locked_database_is_waited_for_and_then_an_outage(scratch: Path) -> None:
    """What is remembered is served on; what must be written is 503 within bounds, and nothing unpinned comes out."""
    async with Registry() as upstream, Proxy(scratch, upstream, top="check_interval: 1h") as proxy:
        image = upstream.image("open/app", "v1")
        new = upstream.image("open/app", "v2", seed="new")
        assert (await proxy.manifest("open/app", "v1")).status == 200
        assert (await proxy.blob("open/app", image.layers[0].digest)).status == 200
        assert (await proxy.blob("open/app", image.layers[0].digest)).status == 200
        async with locked(proxy.data_dir / "tagstone.db"):
            began = time.monotonic()
            for _ in range(50):
                assert (await proxy.manifest("open/app", "v1")).body == image.body
                assert (await proxy.blob("open/app", image.layers[0].digest)).body == image.blobs[1].data
            warm = time.monotonic() - began
            began = time.monotonic()
            answers = await asyncio.gather(*(proxy.manifest("open/app", reference) for reference in ("v2", "v2", new.digest)))
            for answer in answers:
                assert_failure(answer, 503, "UNAVAILABLE", "locked", "locked")
            assert 0.3 < time.monotonic() - began < SOON
            assert warm < SOON
        for reference in ("v2", new.digest):
            assert (await proxy.manifest("open/app", reference)).body == new.body
        pin = await proxy.pin("open/app:v2")
        assert pin is not None
        assert pin.digest == new.digest


@pytest.mark.usefixtures("hasty")
async def test_promise_53_an_overwrite_under_a_locked_database_is_not_served(scratch: Path) -> None:
    """Where the overwrite cannot be written down, the answer is an outage: neither the new digest nor a silent old one."""
    async with Registry() as upstream, Proxy(scratch, upstream) as proxy:
        first = upstream.image("open/app", "v1")
        assert (await proxy.manifest("open/app", "v1")).status == 200
        second = upstream.image("open/app", "v1", seed="second")
        async with locked(proxy.data_dir / "tagstone.db"):
            answer = await proxy.manifest("open/app", "v1")
            assert_failure(answer, 503, "UNAVAILABLE", "locked", "locked")
        answer = await proxy.manifest("open/app", "v1")
        assert (answer.status, str(second.digest) in answer.error["message"]) == (403, True)
        pin = await proxy.pin("open/app:v1")
        assert pin is not None
        assert pin.digest == first.digest


@pytest.mark.parametrize("damage", ["rubbish", "truncated"])
@pytest.mark.usefixtures("hasty")
async def test_promise_53_a_database_that_is_damaged_lets_nothing_unpinned_out(scratch: Path, damage: str) -> None:
    """Rubbish in the place of a running server's database: pulls are 503 or the pinned digest, and new tags stay out."""
    async with Registry() as upstream, Proxy(scratch, upstream) as proxy:
        first = upstream.image("open/app", None, seed="first")
        second = upstream.image("open/app", None, seed="second")
        tags = [f"v{number}" for number in range(40)]
        for tag in tags:
            upstream.tag("open/app", tag, first.digest)
            assert (await proxy.manifest("open/app", tag)).status == 200
        for tag in (*tags, "new"):
            upstream.tag("open/app", tag, second.digest)
        for name in ("tagstone.db", "tagstone.db-wal"):
            file = proxy.data_dir / name
            size = file.stat().st_size
            with file.open("r+b") as opened:
                if damage == "rubbish":
                    opened.write(b"\xa5" * size)
                else:
                    opened.truncate(min(size, 100))
        proxy.application.gate.forget()
        answers = [await proxy.manifest("open/app", tag) for tag in (*tags, "new", second.digest)]
        assert not [answer for answer in answers if answer.body == second.body]
        assert {answer.status for answer in answers} <= {503, 403, 200}
        assert [answer for answer in answers if answer.status == 503], "the damage was met"
        new = await proxy.manifest("open/app", "new")
        assert_failure(new, 503, "UNAVAILABLE", "storage", damage)
        assert (await proxy.get("/v2/")).status == 200, "it depends on nothing"


# -- the interval of checks ----------------------------------------------------------------------------------------


async def test_warm_pulls_ask_nobody(scratch: Path) -> None:
    """Within ``check_interval`` pulls of tag, digest and blob cost no request upstream and no query of the database."""
    async with Registry() as upstream, Proxy(scratch, upstream, top="check_interval: 1h") as proxy:
        image = upstream.image("acme/app", "v1", layer_size=400_000)
        upstream.sign("acme/app", image.digest, proxy.signer)

        async def pull_all() -> None:
            for method in ("HEAD", "GET"):
                for reference in ("v1", image.digest):
                    assert (await proxy.manifest("acme/app", reference, method)).status == 200
                for blob in image.blobs:
                    assert (await proxy.blob("acme/app", blob.digest, method)).status == 200

        asked: list[str] = []
        database = proxy.application.database
        for name in ("read", "write"):
            honest = getattr(database, name)

            async def counted(*args: object, name: str = name, honest: object = honest, **kwargs: object) -> object:
                asked.append(name)
                return await honest(*args, **kwargs)  # type: ignore[operator]  # one of the two methods

            setattr(database, name, counted)

        async def settled() -> bool:
            # The proxy hears of its own writes, too, and small blobs are remembered once they are stored.
            asked.clear()
            await pull_all()
            await asyncio.sleep(0.2)
            return not asked

        await until(settled)
        upstream.forget()
        for _ in range(20):
            await pull_all()
        assert not upstream.requests
        assert not asked
        upstream.image("acme/app", "v2", seed="new")
        await proxy.manifest("acme/app", "v2")
        assert {"read"} <= set(asked), "the counting works"
        assert upstream.requests


async def test_a_tag_is_checked_once_an_interval(scratch: Path) -> None:
    """However many pulls there are: one HEAD a tag and interval, of which an overwrite is found at the next."""
    interval = 0.5
    async with Registry() as upstream, Proxy(scratch, upstream, top=f"check_interval: {interval * 1000:.0f}ms") as proxy:
        image = upstream.image("open/app", "v1")
        upstream.tag("open/app", "v2", image.digest)
        began = time.monotonic()
        # On a slow machine one round of pulls may take longer than an interval: go on until there was a second check.
        while (took := time.monotonic() - began) < 1.7 or (
            took < PATIENCE and min(upstream.count("HEAD", f"/manifests/{tag}") for tag in ("v1", "v2")) < 2
        ):
            answers = await asyncio.gather(*(proxy.manifest("open/app", tag) for tag in ("v1", "v2") * 10))
            assert {answer.status for answer in answers} == {200}
        most = (time.monotonic() - began) / interval + 1
        for tag in ("v1", "v2"):
            assert upstream.count("GET", f"/manifests/{tag}") == 1
            assert 2 <= upstream.count("HEAD", f"/manifests/{tag}") <= most
        upstream.image("open/app", "v1", seed="overwritten")

        async def caught() -> bool:
            return (await proxy.manifest("open/app", "v1")).status == 403

        await until(caught)
        assert (await proxy.manifest("open/app", "v2")).status == 200


async def test_a_check_counts_for_every_process_and_after_a_restart(scratch: Path, clock: WallClock) -> None:
    """The last check is on record: neither a restart nor another process on the same data asks again within the interval."""
    top, data = "check_interval: 1h", scratch / "data"
    async with Registry() as upstream, Proxy(scratch / "a", upstream, top=top, data_dir=data) as proxy:
        image = upstream.image("open/app", "v1")
        assert (await proxy.manifest("open/app", "v1")).status == 200
        for hours in (0, 2):  # after the first pull, and after a later check
            clock.ahead = timedelta(hours=hours)
            assert (await proxy.manifest("open/app", "v1")).body == image.body
            upstream.forget()
            await proxy.restart()
            assert (await proxy.manifest("open/app", "v1")).body == image.body
            async with Proxy(scratch / "b", upstream, top=top, data_dir=data) as other:
                assert (await other.manifest("open/app", "v1")).body == image.body
            assert not upstream.requests
        clock.ahead = timedelta(hours=4)
        assert (await proxy.manifest("open/app", "v1")).body == image.body
        assert [seen.method for seen in upstream.requests] == ["HEAD"]


async def test_an_overwrite_that_is_known_is_not_fetched_again(scratch: Path) -> None:
    """The new digest is fetched and hashed once; later checks know it by its header."""
    async with Registry() as upstream, Proxy(scratch, upstream) as proxy:
        upstream.image("open/app", "v1")
        assert (await proxy.manifest("open/app", "v1")).status == 200
        upstream.image("open/app", "v1", seed="other")
        for _ in range(4):
            assert (await proxy.manifest("open/app", "v1")).status == 403
        assert upstream.count("GET", "/manifests/v1") == 2
        assert upstream.count("HEAD", "/manifests/") == 4


async def test_an_interval_of_zero_asks_each_time(scratch: Path) -> None:
    """Each pull of the tag asks, by HEAD; pulls by digest and of blobs do not."""
    async with Registry() as upstream, Proxy(scratch, upstream) as proxy:
        image = upstream.image("open/app", "v1")
        for _ in range(5):
            assert (await proxy.manifest("open/app", "v1")).status == 200
            assert (await proxy.manifest("open/app", image.digest)).status == 200
            assert (await proxy.blob("open/app", image.layers[0].digest)).status == 200
        assert [seen.method for seen in upstream.seen(None, "/manifests/")] == ["GET", *["HEAD"] * 4]
        assert upstream.count("GET", "/blobs/") == 1


async def test_a_list_of_tags_is_kept_for_the_interval(scratch: Path) -> None:
    """Lists are as fresh as tags: asked once an interval, and at zero each time."""
    for interval, expected in (("1h", 1), ("0s", 3)):
        async with Registry() as upstream, Proxy(scratch / interval, upstream, top=f"check_interval: {interval}") as proxy:
            upstream.image("open/app", "v1")
            for _ in range(3):
                assert json.loads((await proxy.get(f"{APP}/tags/list")).body)["tags"] == ["v1"]
            assert upstream.count("GET", "/tags/list") == expected
