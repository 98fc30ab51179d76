"""Every misbehaviour of the simulator is seen on the wire: a fault that does nothing would make other tests hollow."""

from __future__ import annotations

import asyncio
import gzip
import json

import aiohttp
import pytest

from storage.digest import Digest
from tests.simulator import behaviours, images, when
from tests.simulator.registry import Registry
from tests.simulator.server import Answer, Behaviour, Next, Seen
from tests.unit.simulator.conftest import Ask

DATA = images.noise("data", 1000)


@pytest.fixture
def url(registry: Registry) -> str:
    """Where :data:`DATA` is."""
    return f"{registry.url}/v2/team/app/blobs/{registry.blob('team/app', DATA).digest}"


@pytest.mark.parametrize(
    ("behaviour", "code", "content_type", "body"),
    [
        (behaviours.status(503), 503, None, b""),
        (behaviours.status(429, "Too Many Requests\n"), 429, "text/plain", b"Too Many Requests\n"),
        (behaviours.status(500, b"<x/>", content_type="text/xml"), 500, "text/xml", b"<x/>"),
        (behaviours.status(200, {"a": 1}), 200, "application/json", b'{"a": 1}'),
        (behaviours.html(), 200, "text/html; charset=utf-8", behaviours.LOGIN_PAGE),
    ],
)
async def test_any_status_with_any_body(
    registry: Registry, url: str, ask: Ask, behaviour: Behaviour, code: int, content_type: str | None, body: bytes
) -> None:
    """Statuses, types and bodies arrive as told."""
    fault = registry.on(when.blob("GET"), behaviour)
    got = await ask("GET", url)
    assert (got.status, got.headers.get("Content-Type"), got.body, fault.fired) == (code, content_type, body, 1)


async def test_refusals_have_the_body_of_the_specification(registry: Registry, url: str, ask: Ask) -> None:
    """An error body names code, message and detail; headers can be added."""
    registry.on(when.blob(), behaviours.refuse(429, "TOOMANYREQUESTS", "slow down", headers={"Retry-After": "7"}))
    got = await ask("GET", url)
    assert json.loads(got.body) == {"errors": [{"code": "TOOMANYREQUESTS", "message": "slow down", "detail": None}]}
    assert got.headers["Retry-After"] == "7"


async def test_redirects_by_text_and_by_function(registry: Registry, url: str, ask: Ask) -> None:
    """A redirect can repeat the request's target, or be computed, at once or later."""

    async def later(seen: Seen) -> str:
        return f"/later{seen.kind}"

    found = []
    for location in ("https://elsewhere{target}", lambda seen: f"/{seen.kind}", later):
        fault = registry.on(when.blob(), behaviours.redirect(location, 302, headers={"Cache-Control": "max-age=9"}))
        got = await ask("GET", url)
        found.append(got.headers["Location"])
        assert (got.status, got.headers["Cache-Control"], fault.fired) == (302, "max-age=9", 1)
    assert found == [f"https://elsewhere{registry.requests[0].target}", "/blob", "/laterblob"]


async def raw(url: str, read: int = -1) -> bytes:
    """What really comes over the wire: ``read`` bytes of it, or all before the connection ends."""
    head, _, path = url.removeprefix("http://").partition("/")
    host, _, port = head.partition(":")
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET /{path} HTTP/1.1\r\nHost: {head}\r\n\r\n".encode())
        return await (reader.read() if read < 0 else reader.readexactly(read))
    finally:
        writer.transport.abort()


async def test_no_answer_at_all(registry: Registry, url: str) -> None:
    """The connection ends without a word: in good order, or by a reset."""
    hang_up = registry.on(when.blob(), behaviours.hang_up(), times=1)
    assert await raw(url) == b""
    reset = registry.on(when.blob(), behaviours.reset(), times=1)
    with pytest.raises(ConnectionResetError):
        await raw(url)
    assert (hang_up.fired, reset.fired) == (1, 1)


async def test_silence(registry: Registry, url: str, ask: Ask) -> None:
    """The request is taken and never answered."""
    fault = registry.on(when.blob(), behaviours.silence())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ask("GET", url), 0.1)
    assert (fault.fired, registry.requests[0].status) == (1, None)


async def test_verbatim_bytes(registry: Registry, url: str) -> None:
    """What is told goes to the socket as it is, then the connection is closed."""
    told = b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\nbody"
    registry.on(when.blob(), behaviours.verbatim(told))
    assert await raw(url) == told


@pytest.mark.parametrize("headers", [None, {"Content-Length": "1000"}], ids=["chunked", "beyond its length"])
async def test_endless(registry: Registry, url: str, headers: dict[str, str] | None) -> None:
    """A body goes on for as long as the client reads."""
    registry.on(when.blob(), behaviours.endless(headers=headers))
    assert len(await raw(url, 2 << 20)) == 2 << 20
    await registry.stop()
    assert not registry.requests[0].finished


@pytest.mark.parametrize(
    ("behaviour", "body", "length"),
    [
        (behaviours.flip(), DATA[:-1] + bytes([DATA[-1] ^ 1]), "1000"),
        (behaviours.flip(0), bytes([DATA[0] ^ 1]) + DATA[1:], "1000"),
        (behaviours.shorten(10), DATA[:-10], "990"),
        (behaviours.lengthen(10), DATA + bytes(10), "1010"),
        (behaviours.body(b"other"), b"other", "5"),
        (behaviours.drip(300, 0), DATA, "1000"),
        (behaviours.chunked(), DATA, None),
        (behaviours.header("Content-Type", "text/html"), DATA, "1000"),
    ],
    ids=["flip last", "flip first", "shorten", "lengthen", "other", "drip", "chunked", "header"],
)
async def test_bent_bodies(registry: Registry, url: str, ask: Ask, behaviour: Behaviour, body: bytes, length: str | None) -> None:
    """Bodies are changed as told, with a Content-Length that fits."""
    fault = registry.on(when.blob(), behaviour)
    got = await ask("GET", url)
    assert (got.body, got.headers.get("Content-Length"), got.error, fault.fired) == (body, length, None, 1)


async def test_a_body_that_breaks_its_content_length(registry: Registry, url: str, ask: Ask) -> None:
    """A short body under the true length is an error for the client, a long one leaves rubbish that ends the connection."""
    short = registry.on(when.blob(), behaviours.body(DATA[:-1], length=False), times=1)
    got = await ask("GET", url)
    assert isinstance(got.error, aiohttp.ClientPayloadError)
    registry.on(when.blob(), behaviours.body(DATA + b"HTTP/1.1 200 OK\r\n", length=False), times=1)
    assert (await ask("GET", url)).body == DATA
    assert (await ask("GET", url)).body == DATA
    assert (short.fired, registry.connections) == (1, 3)


async def test_cut(registry: Registry, url: str, ask: Ask) -> None:
    """The body breaks off where it was told to; the next request is whole again."""
    fault = registry.on(when.blob(), behaviours.cut(400), times=1)
    got = await ask("GET", url)
    assert isinstance(got.error, aiohttp.ClientPayloadError)
    assert (got.body, got.headers["Content-Length"]) == (DATA[:400], "1000")
    assert (await ask("GET", url)).body == DATA
    assert (fault.fired, [seen.finished for seen in registry.requests]) == (1, [False, True])


async def test_cut_by_a_reset(registry: Registry, url: str) -> None:
    """The connection is reset in the middle of the body."""
    fault = registry.on(when.blob(), behaviours.cut(400, reset=True))
    with pytest.raises(ConnectionResetError):
        await raw(url)
    assert (fault.fired, registry.requests[0].sent) == (1, 400)


async def test_stall(registry: Registry, url: str, ask: Ask) -> None:
    """The body stops in the middle until it is let go on."""
    event = asyncio.Event()
    registry.on(when.blob(), behaviours.stall(400, event))
    asked = asyncio.create_task(ask("GET", url))
    while not (registry.requests and registry.requests[0].sent == 400):
        await asyncio.sleep(0.001)
    assert not asked.done()
    event.set()
    assert (await asked).body == DATA


async def test_hold(registry: Registry, url: str, ask: Ask) -> None:
    """The answer waits for an event."""
    event = asyncio.Event()
    fault = registry.on(when.blob(), behaviours.hold(event))
    asked = asyncio.create_task(ask("GET", url))
    while not fault.fired:
        await asyncio.sleep(0.001)
    assert registry.requests[0].status is None
    event.set()
    assert (await asked).body == DATA


async def test_gzip_unless_identity(registry: Registry, url: str, ask: Ask) -> None:
    """Those who ask for identity get it, unless told otherwise."""
    registry.on(when.blob(), behaviours.gzip(), times=2)
    encoded = await ask("GET", url, headers={"Accept-Encoding": "gzip"})
    plain = await ask("GET", url, headers={"Accept-Encoding": "identity"})
    registry.on(when.blob(), behaviours.gzip(unless_identity=False))
    forced = await ask("GET", url, headers={"Accept-Encoding": "identity"})
    assert (encoded.headers["Content-Encoding"], gzip.decompress(encoded.body)) == ("gzip", DATA)
    assert (plain.headers.get("Content-Encoding"), plain.body) == (None, DATA)
    assert forced.body == encoded.body


async def test_headers_that_lie_or_lack(registry: Registry, ask: Ask) -> None:
    """Digest headers can name something else, or be gone."""
    image, other = registry.image("team/app", "1.0"), Digest.of(b"other")
    where = f"{registry.url}/v2/team/app/manifests/1.0"
    registry.on(when.manifest(), behaviours.lie(other), times=1)
    assert (await ask("HEAD", where)).headers["Docker-Content-Digest"] == str(other)
    registry.on(when.manifest(), behaviours.without("Docker-Content-Digest", "ETag"), times=1)
    assert "Docker-Content-Digest" not in (await ask("HEAD", where)).headers
    assert (await ask("HEAD", where)).headers["Docker-Content-Digest"] == str(image.digest)


async def test_range_ignored(registry: Registry, url: str, ask: Ask) -> None:
    """A Range request gets the whole, as a 200."""
    registry.on(when.blob() & when.header("Range"), behaviours.ignore_range())
    got = await ask("GET", url, headers={"Range": "bytes=500-"})
    assert (got.status, got.body) == (200, DATA)


async def test_close(registry: Registry, url: str, ask: Ask) -> None:
    """The connection is closed after each answer, which says so."""
    registry.on(when.blob(), behaviours.close())
    assert (await ask("GET", url)).headers["Connection"] == "close"
    await ask("GET", url)
    assert registry.connections == 2


async def test_something_happens_first(registry: Registry, ask: Ask) -> None:
    """A function, plain or async, runs before the honest answer: here the tag moves under the client's hands."""
    one, two = registry.image("team/app", "1.0", seed="1"), registry.image("team/app", seed="2")
    where = f"{registry.url}/v2/team/app/manifests/1.0"

    async def back(seen: Seen) -> None:
        registry.tag("team/app", "1.0", one.digest)

    registry.on(when.manifest("GET"), behaviours.first(lambda seen: registry.tag("team/app", "1.0", two.digest)), times=1)
    bodies = [(await ask("GET", where)).body]
    registry.on(when.manifest("GET"), behaviours.first(back), times=1)
    bodies.append((await ask("GET", where)).body)
    assert bodies == [two.body, one.body]


async def test_a_bend_may_replace_the_answer(registry: Registry, url: str, ask: Ask) -> None:
    """A change may return another answer."""
    registry.on(when.blob(), behaviours.bend(lambda answer: Answer(203, answer.headers, answer.body)))
    assert (await ask("GET", url)).status == 203


async def test_predicates_join(registry: Registry, ask: Ask) -> None:
    """Conditions are joined by and, or, not; each looks at what its name says."""
    asked: list[tuple[str, dict[str, str]]] = [
        ("GET", {"Accept": "a, b"}),
        ("GET", {"Accept": "a"}),
        ("HEAD", {"Range": "bytes=0-"}),
    ]
    seen = []

    async def keep(request: Seen, following: Next) -> Answer:
        seen.append(request)
        return await following()

    registry.on(when.always, keep)
    for method, headers in asked:
        await ask(method, f"{registry.url}/v2/team/app/manifests/1.0", headers=headers)
    for path in ("/v2/", "/v2/a/tags/list", f"/v2/a/referrers/{Digest.of(b'')}", "/x"):
        await ask("GET", registry.url + path)

    def which(predicate: when.When) -> list[int]:
        return [number for number, request in enumerate(seen) if predicate(request)]

    assert which(when.always) == [0, 1, 2, 3, 4, 5, 6]
    assert which(when.manifest()) == which(when.manifest(None, "1.0")) == [0, 1, 2]
    assert which(when.manifest(None, "2.0")) == which(when.blob()) == []
    assert which(when.accepts("a", "b")) == [0]
    assert which(when.header("Range") | when.ping()) == [2, 3]
    assert which(when.manifest("GET") & ~when.accepts("a", "b")) == [1]
    assert which(when.tags() | when.referrers()) == [4, 5]
    assert which(~when.registry()) == which(when.path("/x")) == [6]
    assert which(when.method("HEAD")) == which(when.header("Range", "bytes=0-")) == [2]
