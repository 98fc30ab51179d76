"""Promises of the upstream client about the wire: heads, framing, encodings, lengths.

Numbered as in the project's checklist. Both ways wherever there are two: what is wrong is refused, its honest twin is accepted,
and the fault is seen to have fired.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest

from proxy.errors import UpstreamError, UpstreamMisbehaved, UpstreamUnavailable
from storage.records import Descriptor
from tests.conformance.clients import REPOSITORY, client_of, download
from tests.simulator import behaviours, images, when
from tests.simulator.registry import Registry
from tests.simulator.server import Answer, Behaviour, Next, Seen
from tests.tools import PATIENCE

# -- 26, 27: the wire ----------------------------------------------------------------------------------------------

BODY = images.image("wire").body
FIRST = f"HTTP/1.1 200 OK\r\nContent-Type: {images.OCI_MANIFEST}\r\n".encode()
GOOD = FIRST + b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


def chunks(data: bytes) -> bytes:
    """A chunked body."""
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)


async def test_promise_26_27_the_honest_twin_passes() -> None:
    """Bytes written by hand, in good order, with a length and in chunks, are accepted."""
    for raw in (GOOD, FIRST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks(BODY)):
        async with Registry() as registry, client_of(registry) as client:
            registry.on(when.manifest("GET"), behaviours.verbatim(raw))
            assert (await client.manifest(REPOSITORY, "1.0")).body == BODY


@pytest.mark.parametrize(
    "raw",
    [
        GOOD.replace(b"OK\r\n", b"OK\r\nX-Evil: a\0b\r\n"),
        GOOD.replace(b"OK\r\n", b"OK\r\nX-Evil: a\rb\r\n"),
        GOOD.replace(b"OK\r\n", b"OK\r\nX Evil: a\r\n"),
        GOOD.replace(b"OK\r\n", b"OK\r\n: a\r\n"),
        GOOD.replace(b"OK\r\n", b"OK\r\nX-Evil: " + b"a" * 200_000 + b"\r\n"),
        GOOD.replace(b"HTTP/1.1 200 OK", b"HTTP/9 200 OK"),
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\0\1\2\3",
    ],
    ids=["NUL", "CR", "space in a name", "no name", "endless header", "HTTP/9", "another protocol", "rubbish"],
)
async def test_promise_26_broken_heads_are_refused(raw: bytes) -> None:
    """A head that HTTP does not allow gives no manifest, and no crash."""
    async with Registry() as registry, client_of(registry, retries=0) as client:
        fault = registry.on(when.manifest("GET"), behaviours.verbatim(raw))
        with pytest.raises((UpstreamMisbehaved, UpstreamUnavailable)):
            await client.manifest(REPOSITORY, "1.0")
        assert fault.fired >= 1


@pytest.mark.parametrize(
    "raw",
    [
        FIRST + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n" % len(BODY) + chunks(BODY),
        FIRST + b"Transfer-Encoding: chunked\r\nContent-Length: %d\r\n\r\n" % len(BODY) + chunks(BODY),
        FIRST + b"Content-Length: %d\r\nContent-Length: %d\r\n\r\n" % (len(BODY), len(BODY) - 1) + BODY,
        FIRST + b"Transfer-Encoding: chunked\r\n\r\n" + b"zz\r\n" + BODY,
        FIRST + b"Transfer-Encoding: chunked\r\n\r\n" + b"-1\r\n" + BODY,
        FIRST + b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n%bXX" % (len(BODY), BODY),
        FIRST + b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n%b\r\n" % (len(BODY), BODY),
        FIRST + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + chunks(BODY),
    ],
    ids=["CL+TE", "TE+CL", "two lengths", "no hex", "negative", "no CRLF", "no last chunk", "gzip, chunked"],
)
async def test_promise_27_ambiguous_and_broken_framing_is_refused(raw: bytes) -> None:
    """Bodies whose end is in doubt give no manifest, and their connection is not used again."""
    async with Registry() as registry, client_of(registry, retries=0) as client:
        registry.manifest("team/app", BODY, tag="1.0")
        fault = registry.on(when.manifest("GET"), behaviours.verbatim(raw), times=1)
        with pytest.raises((UpstreamMisbehaved, UpstreamUnavailable)):
            await client.manifest(REPOSITORY, "1.0")
        assert fault.fired == 1
        assert (await client.manifest(REPOSITORY, "1.0")).body == BODY
        assert registry.connections == 2


async def test_promise_27_rubbish_after_the_body_poisons_nothing() -> None:
    """Bytes after the end of an answer are not taken for the next answer."""
    async with Registry() as registry, client_of(registry, retries=0) as client:
        image, other = registry.image("team/app", "1.0"), images.image("other")
        poison = FIRST + b"Content-Length: %d\r\n\r\n%b" % (len(other.body), other.body)
        fault = registry.on(when.manifest("GET"), behaviours.body(image.body + poison, length=False), times=1)
        try:
            first = (await client.manifest(REPOSITORY, "1.0")).digest
        except UpstreamError:
            first = image.digest  # refusing it altogether keeps the promise, too
        assert first == image.digest
        assert (await client.manifest(REPOSITORY, "1.0")).digest == image.digest
        assert fault.fired == 1


# -- 28: encoded bodies --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "x-unknown"])
async def test_promise_28_encoded_manifests_are_refused(encoding: str) -> None:
    """A manifest with a Content-Encoding is refused, whatever it is; ``identity`` is none."""
    async with Registry() as registry, client_of(registry) as client:
        image = registry.image("team/app", "1.0")
        fault = registry.on(when.manifest("GET"), behaviours.header("Content-Encoding", encoding))
        with pytest.raises(UpstreamMisbehaved, match="encoded"):
            await client.manifest(REPOSITORY, "1.0")
        fault.off()
        identity = registry.on(when.manifest("GET"), behaviours.header("Content-Encoding", "identity"))
        assert (await client.manifest(REPOSITORY, "1.0")).digest == image.digest
        assert (fault.fired, identity.fired) == (1, 1)


async def test_promise_28_encoded_blobs_are_refused() -> None:
    """A gzipped blob, though identity was asked for, is refused before a byte of it is handed on."""
    async with Registry() as registry, client_of(registry) as client:
        image = registry.image("team/app", "1.0")
        fault = registry.on(when.blob("GET"), behaviours.gzip(unless_identity=False))
        with pytest.raises(UpstreamMisbehaved, match="encoded"):
            await download(client, REPOSITORY, image.layers[0])
        assert fault.fired == 1
        assert registry.requests[0].headers["Accept-Encoding"] == "identity"


async def test_promise_28_nothing_is_decompressed() -> None:
    """A layer that is itself gzip arrives as it is."""
    async with Registry() as registry, client_of(registry) as client:
        image = registry.image("team/app", "1.0")
        assert (await download(client, REPOSITORY, image.layers[0]))[:2] == b"\x1f\x8b"


# -- 29, 30: bodies ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """How a stream ended, and the bytes that came before."""

    data: bytes
    error: UpstreamError | None


async def stream(registry: Registry, descriptor: Descriptor, offset: int = 0) -> Outcome:
    """One attempt at a blob."""
    data = b""
    async with client_of(registry, retries=0, stall_timeout=0.5) as client:
        try:
            async with client.blob(REPOSITORY, descriptor, offset) as body:
                async for chunk in body.chunks():
                    data += chunk
        except UpstreamError as error:
            return Outcome(data, error)
    return Outcome(data, None)


DATA = images.noise("blob", 300_000)


def unannounced(change: Callable[[bytes], bytes], *, chunked: bool) -> Behaviour:
    """Another body without a Content-Length: in chunks, or ended by the end of the connection."""

    async def pieces(data: bytes) -> AsyncIterator[bytes]:
        yield data

    def bend(answer: Answer) -> None:
        answer.headers.popall("Content-Length", None)
        answer.pieces = pieces(change(answer.body))
        if chunked:
            answer.headers["Transfer-Encoding"] = "chunked"

    return behaviours.bend(bend)


def longer(data: bytes) -> bytes:
    """One byte too many."""
    return data + b"\0"


def shorter(data: bytes) -> bytes:
    """One byte too few."""
    return data[:-1]


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        (behaviours.endless(), UpstreamMisbehaved),
        (behaviours.endless(headers={"Content-Length": "999999999999"}), UpstreamMisbehaved),
        (behaviours.lengthen(), UpstreamMisbehaved),
        (unannounced(longer, chunked=True), UpstreamMisbehaved),
        (unannounced(longer, chunked=False), UpstreamMisbehaved),
        (unannounced(shorter, chunked=True), UpstreamUnavailable),
        (unannounced(shorter, chunked=False), UpstreamUnavailable),
        (behaviours.shorten(), UpstreamMisbehaved),
        (behaviours.cut(100_000), UpstreamUnavailable),
        (behaviours.cut(100_000, reset=True), UpstreamUnavailable),
        (behaviours.stall(100_000), UpstreamUnavailable),
        (behaviours.status(200, b""), UpstreamMisbehaved),
    ],
    ids=[
        "endless",
        "announced huge",
        "long",
        "long in chunks",
        "long to the end",
        "short in chunks",
        "short to the end",
        "short",
        "cut",
        "reset",
        "stalled",
        "empty",
    ],
)
async def test_promise_29_bodies_of_the_wrong_length_end_at_the_declared_size(
    behaviour: Behaviour, expected: type[UpstreamError]
) -> None:
    """The descriptor's size is the measure: never a byte more than it is handed on, and never an orderly end with fewer."""
    async with Registry() as registry:
        blob = registry.blob("team/app", DATA)
        fault = registry.on(when.blob("GET"), behaviour)
        outcome = await asyncio.wait_for(stream(registry, blob), PATIENCE)
        assert isinstance(outcome.error, expected)
        assert len(outcome.data) <= len(DATA)
        assert fault.fired == 1


@pytest.mark.parametrize(
    "content_range",
    ["bytes 0-99999/300000", "bytes 100001-299999/300000", "bytes 100000-299999/400000", "bytes */300000", "items 1-2/3", ""],
)
async def test_promise_29_a_206_must_continue_where_it_was_asked_to(content_range: str) -> None:
    """Bytes of another place are refused; the right Content-Range passes."""
    async with Registry() as registry:
        blob = registry.blob("team/app", DATA)
        honest = await stream(registry, blob, 100_000)
        assert honest == Outcome(DATA[100_000:], None)
        fault = registry.on(when.blob("GET"), behaviours.header("Content-Range", content_range))
        outcome = await stream(registry, blob, 100_000)
        assert outcome.error is not None
        assert outcome.data == b""
        assert fault.fired >= 1


async def test_promise_29_a_416_starts_again() -> None:
    """A registry that refuses the Range gives the blob from its beginning."""
    async with Registry() as registry, client_of(registry) as client:
        blob = registry.blob("team/app", DATA)
        fault = registry.on(when.blob("GET") & when.header("Range"), behaviours.status(416))
        cut = registry.on(when.blob("GET"), behaviours.cut(100_000), times=1)
        assert await download(client, REPOSITORY, blob, attempts=4) == DATA
        assert fault.fired >= 1
        assert cut.fired == 1


async def test_promise_29_a_206_that_nobody_asked_for_is_refused() -> None:
    """A partial answer to a whole request is no blob."""
    async with Registry() as registry:
        blob = registry.blob("team/app", DATA)

        async def partial(seen: Seen, following: Next) -> Answer:
            seen.headers["Range"] = "bytes=0-99999"
            return await following()

        fault = registry.on(when.blob("GET"), partial)
        outcome = await stream(registry, blob)
        assert outcome.error is not None
        assert fault.fired == 1


async def test_promise_30_a_wrong_body_of_the_right_length_is_never_a_manifest() -> None:
    """One flipped bit, first, middle or last, and a manifest asked by digest is refused."""
    async with Registry() as registry, client_of(registry) as client:
        image = registry.image("team/app", "1.0")
        for position in (0, len(image.body) // 2, -1):
            fault = registry.on(when.manifest("GET"), behaviours.flip(position))
            with pytest.raises(UpstreamMisbehaved):
                await client.manifest(REPOSITORY, image.digest)
            assert fault.fired == 1
            fault.off()
        assert (await client.manifest(REPOSITORY, image.digest)).body == image.body


async def test_promise_30_a_web_page_is_never_a_manifest() -> None:
    """A login page with status 200 is an outage or misbehaviour, not an answer."""
    async with Registry() as registry, client_of(registry, retries=0) as client:
        image = registry.image("team/app", "1.0")
        fault = registry.on(when.registry(), behaviours.html())
        with pytest.raises((UpstreamUnavailable, UpstreamMisbehaved)):
            await client.manifest(REPOSITORY, "1.0")
        with pytest.raises((UpstreamUnavailable, UpstreamMisbehaved)):
            await download(client, REPOSITORY, image.layers[0])
        with pytest.raises((UpstreamUnavailable, UpstreamMisbehaved)):
            await client.tags(REPOSITORY)
        assert await client.head(REPOSITORY, "1.0") is None
        assert fault.fired >= 4
