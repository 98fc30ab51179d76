"""Promises about trouble: upstreams that fail in every way, clients that do not read, damage in the store and the database."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from pathlib import Path

import pytest

from proxy.web.listener import Listener, Patience
from storage.database import Database
from storage.digest import Digest
from tests.conformance.wire import connection
from tests.harness import Proxy, Reply, WallClock, until
from tests.simulator import when
from tests.simulator.behaviours import hang_up, html, refuse, reset, silence, stall, status
from tests.simulator.registry import Registry
from tests.simulator.server import Behaviour
from tests.simulator.tls import Authority

MANY = "retries: 0, breaker_failures: 1000, header_timeout: 300ms, stall_timeout: 300ms"
APP = "/v2/reg.example/open/app"

# -- 33: each failure is its own answer ----------------------------------------------------------------------------

BASIC = {"WWW-Authenticate": 'Basic realm="x"'}
#: behaviour → status, code of a manifest, code of a blob, words
FAILURES: dict[str, tuple[Behaviour, int, str, str, str]] = {
    "401": (status(401, headers=BASIC), 403, "DENIED", "DENIED", ""),
    "401 without a challenge": (status(401), 403, "DENIED", "DENIED", ""),
    "403": (refuse(403, "DENIED", "not for you"), 403, "DENIED", "DENIED", "not for you"),
    "404": (refuse(404, "MANIFEST_UNKNOWN", "no"), 404, "MANIFEST_UNKNOWN", "BLOB_UNKNOWN", "does not exist upstream"),
    "404 in HTML": (html(404), 404, "MANIFEST_UNKNOWN", "BLOB_UNKNOWN", "does not exist upstream"),
    "429": (refuse(429, "TOOMANYREQUESTS", "slow down"), 503, "UNAVAILABLE", "UNAVAILABLE", "429"),
    "500": (status(500), 503, "UNAVAILABLE", "UNAVAILABLE", "500"),
    "502 in HTML": (html(502), 503, "UNAVAILABLE", "UNAVAILABLE", "502"),
    "503": (status(503, "down for maintenance"), 503, "UNAVAILABLE", "UNAVAILABLE", "maintenance"),
    "a web page": (html(), 503, "UNAVAILABLE", "UNAVAILABLE", "web page"),
    "a connection that closes": (hang_up(), 503, "UNAVAILABLE", "UNAVAILABLE", "closed the connection"),
    "a connection that is reset": (reset(), 503, "UNAVAILABLE", "UNAVAILABLE", ""),
    "silence": (silence(), 503, "UNAVAILABLE", "UNAVAILABLE", "0.3 s"),
}


def assert_failure(answer: Reply, expected: int, code: str, words: str, case: str) -> None:
    """This status, code and words; an outage says when to come back, and nothing else does."""
    assert (answer.status, answer.error["code"]) == (expected, code), case
    assert words in answer.error["message"], case
    assert ("Retry-After" in answer.headers) is (expected == 503), case


async def test_promise_33_each_failure_of_a_manifest_is_its_own_answer(scratch: Path) -> None:
    """Denied, missing and unreachable are told apart for tags and digests, and none of it outlasts the failure."""
    async with Registry() as upstream, Proxy(scratch, upstream, upstream_options=MANY) as proxy:
        for number, (case, (behaviour, expected, code, _, words)) in enumerate(FAILURES.items()):
            image = upstream.image("open/app", f"v{number}", seed=case)
            fault = upstream.on(when.manifest(), behaviour)
            for reference in (f"v{number}", image.digest):
                assert_failure(await proxy.manifest("open/app", reference), expected, code, words, case)
                assert (await proxy.manifest("open/app", reference, "HEAD")).status == expected
            assert fault.fired >= 4, case
            assert await proxy.pin(f"open/app:v{number}") is None
            fault.off()
            for reference in (f"v{number}", image.digest):
                assert (await proxy.manifest("open/app", reference)).body == image.body, "what is over is over"


async def test_promise_33_each_failure_of_a_blob_is_its_own_answer(scratch: Path) -> None:
    """The same for blobs: no failure is remembered as absence, and each ends with the upstream's recovery."""
    async with Registry() as upstream, Proxy(scratch, upstream, upstream_options=MANY) as proxy:
        for number, (case, (behaviour, expected, _, code, words)) in enumerate(FAILURES.items()):
            image = upstream.image("open/app", f"v{number}", seed=case)
            layer = image.layers[0].digest
            assert (await proxy.manifest("open/app", f"v{number}")).status == 200
            fault = upstream.on(when.blob(None, layer), behaviour)
            assert_failure(await proxy.blob("open/app", layer), expected, code, words, case)
            assert fault.fired >= 1
            fault.off()
            assert (await proxy.blob("open/app", layer)).body == image.blobs[1].data


@pytest.mark.parametrize("endpoint", ["tags/list", "referrers"])
async def test_promise_33_each_failure_of_a_list_is_its_own_answer(scratch: Path, endpoint: str) -> None:
    """Lists that cannot be had are outages or denials, never empty lists."""
    async with Registry() as upstream, Proxy(scratch, upstream, upstream_options=MANY) as proxy:
        image = upstream.image("open/app", "v1")
        assert (await proxy.manifest("open/app", "v1")).status == 200
        target = f"{APP}/{endpoint}" if endpoint == "tags/list" else f"{APP}/referrers/{image.digest}"
        for case, (behaviour, expected, _, _, words) in FAILURES.items():
            if expected == 404 or (case == "a web page" and endpoint == "referrers"):
                continue  # no repository; no referrers API
            fault = upstream.on(when.tags() | when.referrers(), behaviour)
            answer = await proxy.get(target)
            told = "did not send the tags" if case == "a web page" else words
            assert_failure(answer, expected, "DENIED" if expected == 403 else "UNAVAILABLE", told, case)
            assert fault.fired >= 1
            fault.off()
            assert (await proxy.get(target)).status == 200


async def test_promise_33_tls_that_is_not_trusted_is_an_outage(scratch: Path) -> None:
    """A certificate by an unknown authority lets nothing in; with that authority configured the same upstream serves."""
    authority = Authority()
    async with Registry(tls=authority.server()) as upstream:
        image = upstream.image("open/app", "v1")
        async with Proxy(scratch / "without", upstream) as proxy:
            answer = await proxy.manifest("open/app", "v1")
            assert_failure(answer, 503, "UNAVAILABLE", "certificate", "TLS")
            assert not upstream.requests
        async with Proxy(scratch / "with", upstream, upstream_options=f"ca: {authority.file(scratch)}") as proxy:
            assert (await proxy.manifest("open/app", "v1")).body == image.body


@pytest.mark.parametrize(
    ("said", "least", "most"),
    [
        (lambda: "17", 16, 17),
        (lambda: "3600", 60, 60),
        (lambda: format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True), 10, 21),
        (lambda: "soon", 1, 60),
        (lambda: "-5", 1, 60),
    ],
    ids=["seconds", "too long", "date", "nonsense", "negative"],
)
async def test_promise_33_retry_after_is_passed_on(scratch: Path, said: Callable[[], str], least: int, most: int) -> None:
    """What an upstream asks for is what clients are told, within ``limits.retry_after``; for tags, blobs and lists."""
    async with Registry() as upstream, Proxy(scratch, upstream, upstream_options=MANY) as proxy:
        image = upstream.image("open/app", "v1")
        assert (await proxy.manifest("open/app", "v1")).status == 200
        fault = upstream.on(when.registry(), status(429, headers={"Retry-After": said()}))
        for target in (f"{APP}/manifests/v2", f"{APP}/blobs/{image.layers[0].digest}", f"{APP}/tags/list"):
            answer = await proxy.get(target)
            assert answer.status == 503
            assert least <= int(answer.headers["Retry-After"]) <= most
        assert fault.fired == 3


# -- 32: patience --------------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Listeners that wait half a second for a request."""
    defaults = Listener.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "patience", Patience(first_request=0.5, idle=0.5))


@pytest.mark.usefixtures("impatient")
async def test_promise_32_clients_that_never_ask_are_sent_away(scratch: Path) -> None:
    """A hundred connections that send half a request, or nothing, are closed; meanwhile others are served."""
    async with Registry() as upstream, Proxy(scratch, upstream) as proxy:
        image = upstream.image("open/app", "v1")
        starts = (b"", b"G", b"GET /v2/ HTTP/1.1\r\n", b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Slow: ", b"\x16\x03\x01\x02\x00\x01")

        async def dawdle(start: bytes) -> bytes:
            async with connection(proxy) as (reader, writer):
                writer.write(start)
                with suppress(ConnectionError):
                    return await reader.read(-1)
            return b""

        slow = [asyncio.create_task(dawdle(starts[number % len(starts)])) for number in range(100)]
        began = time.monotonic()
        for _ in range(20):
            assert (await proxy.manifest("open/app", "v1")).body == image.body
        assert time.monotonic() - began < 5
        heard = await asyncio.wait_for(asyncio.gather(*slow), 10)
        assert not any(b"200" in answer for answer in heard)


async def test_promise_32_a_client_that_stops_reading_is_cut(scratch: Path) -> None:
    """Who takes no byte for ``limits.client_stall_timeout`` loses the connection; others have the same blob meanwhile."""
    top = "limits: {client_stall_timeout: 500ms}"
    async with Registry() as upstream, Proxy(scratch, upstream, top=top) as proxy:
        image = upstream.image("open/app", "v1", layer_size=12 << 20)
        layer = image.blobs[1]
        assert (await proxy.manifest("open/app", "v1")).status == 200
        with closing(socket.socket()) as lazy:
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            lazy.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(lazy, ("127.0.0.1", proxy.worker.ports[0]))
            await loop.sock_sendall(lazy, f"GET {APP}/blobs/{layer.digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert await loop.sock_recv(lazy, 15) == b"HTTP/1.1 200 OK"
            for answer in await asyncio.gather(*(proxy.blob("open/app", layer.digest) for _ in range(3))):
                assert (answer.status, answer.body) == (200, layer.data)
            await asyncio.sleep(1.5)  # the client does nothing: that is the fault
            taken = 0
            with suppress(ConnectionResetError):
                async with asyncio.timeout(10):
                    while piece := await loop.sock_recv(lazy, 1 << 20):
                        taken += len(piece)
            assert taken < len(layer.data)
        assert (await proxy.blob("open/app", layer.digest)).body == layer.data


async def test_promise_32_a_stalled_upstream_holds_up_nobody_else(scratch: Path) -> None:
    """While one manifest and one blob stall, others of the same upstream come; when the stall is over, so do these."""
    async with Registry() as upstream, Proxy(scratch, upstream) as proxy:
        image, other = upstream.image("open/app", "v1", layer_size=300_000), upstream.image("open/app", "v2", seed="other")
        stuck = upstream.image("open/app", "stuck", seed="stuck")
        layer, over = image.blobs[1], asyncio.Event()
        assert (await proxy.manifest("open/app", "v1")).status == 200
        faults = [
            upstream.on(when.manifest("GET", "stuck"), stall(10, over)),
            upstream.on(when.blob("GET", layer.digest), stall(100_000, over)),
        ]
        stalled = [
            asyncio.create_task(proxy.manifest("open/app", "stuck")),
            asyncio.create_task(proxy.blob("open/app", layer.digest)),
        ]
        await until(lambda: all(fault.fired for fault in faults))
        assert (await proxy.manifest("open/app", "v2")).body == other.body
        assert (await proxy.blob("open/app", other.layers[0].digest)).body == other.blobs[1].data
        assert not any(task.done() for task in stalled)
        over.set()
        manifest, blob = await asyncio.wait_for(asyncio.gather(*stalled), 20)
        assert (manifest.body, blob.body) == (stuck.body, layer.data)


async def test_promise_32_a_stall_ends(scratch: Path) -> None:
    """After ``stall_timeout`` a manifest that stalls is an outage; a blob is asked for again from where it stopped."""
    async with Registry() as upstream, Proxy(scratch, upstream, upstream_options=MANY) as proxy:
        image = upstream.image("open/app", "v1", layer_size=300_000)
        layer = image.blobs[1]
        manifests = upstream.on(when.manifest("GET", "v1"), stall(10), times=1)
        blobs = upstream.on(when.blob("GET", layer.digest), stall(100_000), times=1)
        assert_failure(await proxy.manifest("open/app", "v1"), 503, "UNAVAILABLE", "open/app:v1", "stall")
        assert (await proxy.manifest("open/app", "v1")).body == image.body
        answer = await proxy.blob("open/app", layer.digest)
        assert (answer.status, answer.body) == (200, layer.data)
        assert (manifests.fired, blobs.fired) == (1, 1)
        assert [seen.status for seen in upstream.seen("GET", f"/blobs/{layer.digest}")] == [200, 206]


async def test_promise_32_a_pull_is_answered_within_the_request_timeout(scratch: Path) -> None:
    """An upstream that may take its time by its own settings still gets no longer than ``limits.request_timeout``."""
    async with Registry() as upstream, Proxy(scratch, upstream, top="limits: {request_timeout: 500ms}") as proxy:
        upstream.image("open/app", "v1")
        fault = upstream.on(when.manifest(), silence())
        began = time.monotonic()
        answer = await proxy.manifest("open/app", "v1")
        assert_failure(answer, 503, "UNAVAILABLE", "no decision within 0.5 s", "slow")
        assert time.monotonic() - began < 5
        assert fault.fired == 1


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
            answer = await asyncio.wait_for(proxy.blob("open/app", layer.digest), 10)
            assert (answer.status, answer.body) == (200, layer.data)
        assert upstream.count("GET", f"/blobs/{layer.digest}") >= 2
        assert (await proxy.blob("open/app", layer.digest, Range="bytes=5-9")).body == layer.data[5:10]
        assert secret.read_bytes() == kept
        assert not (scratch / "nowhere").exists()


def _place(proxy: Proxy, digest: Digest) -> Path:
    (found,) = (proxy.data_dir / "blobs").rglob(digest.hex)
    return found


# -- 53: the database ----------------------------------------------------------------------------------------------


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Somebody else writes, and does not come to an end."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
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
        with locked(proxy.data_dir / "tagstone.db"):
            began = time.monotonic()
            for _ in range(50):
                assert (await proxy.manifest("open/app", "v1")).body == image.body
                assert (await proxy.blob("open/app", image.layers[0].digest)).body == image.blobs[1].data
            warm = time.monotonic() - began
            began = time.monotonic()
            answers = await asyncio.gather(*(proxy.manifest("open/app", reference) for reference in ("v2", "v2", new.digest)))
            for answer in answers:
                assert_failure(answer, 503, "UNAVAILABLE", "locked", "locked")
            assert 0.3 < time.monotonic() - began < 10
            assert warm < 5
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
        with locked(proxy.data_dir / "tagstone.db"):
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
        while time.monotonic() - began < 1.7:
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
        assert upstream.count("GET", "/manifests/") == 2
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
