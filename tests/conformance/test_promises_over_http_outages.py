"""Promises about trouble: upstreams that fail in every way, and clients that do not ask or do not read."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from tests.conformance.wire import connection
from tests.harness import Proxy, Reply, until
from tests.simulator import when
from tests.simulator.behaviours import hang_up, html, refuse, reset, silence, stall, status
from tests.simulator.registry import Registry
from tests.simulator.server import Behaviour
from tests.simulator.tls import Authority
from tests.tools import PATIENCE, SOON

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


#: Listeners that wait half a second for a request.
IMPATIENT = "limits: {client_first_timeout: 500ms, client_idle_timeout: 500ms}\n"


async def test_promise_32_clients_that_never_ask_are_sent_away(scratch: Path) -> None:
    """A hundred connections that send half a request, or nothing, are closed; meanwhile others are served."""
    async with Registry() as upstream, Proxy(scratch, upstream, top=IMPATIENT) as proxy:
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
        assert time.monotonic() - began < SOON
        heard = await asyncio.wait_for(asyncio.gather(*slow), SOON)
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
                async with asyncio.timeout(PATIENCE):
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
        manifest, blob = await asyncio.wait_for(asyncio.gather(*stalled), PATIENCE)
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
        assert time.monotonic() - began < SOON
        assert fault.fired == 1
