"""Bytes of blobs over real sockets: exact slices, held-back ends, cut connections, clients that stall or leave; TLS, too."""

from __future__ import annotations

import asyncio
import os
import random
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from proxy.web import responses, streaming
from proxy.web.streaming import Rehashed, Unsatisfiable, parse_range
from storage.digest import Digest
from storage.errors import DigestMismatch
from tests.simulator.tls import Authority
from tests.tools import PATIENCE, SOON
from tests.unit.web.wire import Client, connected, on_both_loops

KIB, MIB = 1 << 10, 1 << 20
PIECE, TURN = streaming._PIECE, streaming._TURN
REQUEST = b"GET /blob HTTP/1.1\r\nHost: proxy\r\n\r\n"
NOISE = random.Random(1).randbytes(9 * MIB + 123)

# -- ranges ---------------------------------------------------------------------------------------------------------

UNSATISFIABLE = "unsatisfiable"


@pytest.mark.parametrize(
    ("header", "size", "expected"),
    [
        (None, 100, None),
        ("bytes=0-0", 100, (0, 1)),
        ("bytes=0-99", 100, (0, 100)),
        ("bytes=10-19", 100, (10, 20)),
        ("bytes=99-", 100, (99, 100)),
        ("bytes=0-", 100, (0, 100)),
        ("bytes=50-1000", 100, (50, 100)),
        ("bytes=-1", 100, (99, 100)),
        ("bytes=-100", 100, (0, 100)),
        ("bytes=-1000", 100, (0, 100)),
        (" bytes=1-2 ", 100, (1, 3)),
        ("BYTES=1-2", 100, (1, 3)),
        ("bytes=007-008", 100, (7, 9)),
        # outside of the blob
        ("bytes=100-", 100, UNSATISFIABLE),
        ("bytes=100-200", 100, UNSATISFIABLE),
        ("bytes=9999999999999999999-", 100, UNSATISFIABLE),
        ("bytes=-0", 100, UNSATISFIABLE),
        ("bytes=0-", 0, UNSATISFIABLE),
        ("bytes=-5", 0, UNSATISFIABLE),
        # nothing that is understood: the whole
        ("", 100, None),
        ("bytes=", 100, None),
        ("bytes=-", 100, None),
        ("bytes=5-4", 100, None),
        ("bytes=200-100", 100, None),
        ("bytes=a-b", 100, None),
        ("bytes=1-2,4-5", 100, None),
        ("bytes=1-2,", 100, None),
        ("bytes=--5", 100, None),
        ("bytes=-5-", 100, None),
        ("bytes=+1-2", 100, None),
        ("bytes= 1-2", 100, None),
        ("bytes=1 -2", 100, None),
        ("bytes 1-2", 100, None),
        ("bytes:1-2", 100, None),
        ("items=1-2", 100, None),
        ("bytes=0x1-0x2", 100, None),
        ("bytes=1.0-2", 100, None),
        ("bytes=\u0661-\u0662", 100, None),
        ("bytes=" + "9" * 20 + "-", 100, None),
        ("bytes=1-2\r\nX: y", 100, None),
    ],
)
def test_promise_31_what_a_range_means(header: str | None, size: int, expected: tuple[int, int] | str | None) -> None:
    """RFC 9110 §14.1.2: one range within the blob is a slice, one outside is 416, anything else asks for the whole."""
    if expected == UNSATISFIABLE:
        with pytest.raises(Unsatisfiable):
            parse_range(header, size)
    else:
        assert parse_range(header, size) == expected


@given(st.integers(0, 50), st.none() | st.integers(0, 60), st.integers(0, 50))
def test_promise_31_slices_are_exact(first: int, last: int | None, size: int) -> None:
    """What is sent is what Python's own slicing takes."""
    data = bytes(range(size))
    header = f"bytes={first}-" if last is None else f"bytes={first}-{last}"
    wanted = data[first:] if last is None else data[first : last + 1]
    if last is not None and last < first:
        assert parse_range(header, size) is None
    elif not wanted:
        with pytest.raises(Unsatisfiable):
            parse_range(header, size)
    else:
        span = parse_range(header, size)
        assert span is not None
        assert data[slice(*span)] == wanted


@given(st.text(max_size=30) | st.from_regex(r"\A ?bytes ?= ?[0-9]{0,20}-[0-9]{0,20} ?\Z"), st.integers(0, 1000))
def test_promise_31_any_range_is_a_slice_of_the_blob_or_none(header: str, size: int) -> None:
    """No header leads outside."""
    try:
        span = parse_range(header, size)
    except Unsatisfiable:
        return
    assert span is None or 0 <= span[0] < span[1] <= size


# -- sources --------------------------------------------------------------------------------------------------------


@dataclass
class File:
    """A blob in a file, of which ``ready`` bytes may be handed out (all of them when None), or that fails there."""

    path: Path
    size: int
    ready: int | None = None
    error: Exception | None = None
    asked: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.descriptor = os.open(self.path, os.O_RDONLY)
        self.changed = asyncio.Condition()

    def fileno(self) -> int:
        return self.descriptor

    async def available(self, offset: int) -> int:
        self.asked.append(offset)
        if self.ready is None:
            return self.size
        async with self.changed:
            await self.changed.wait_for(lambda: self.error is not None or (self.ready or 0) > offset)
        if self.ready <= offset and self.error is not None:
            raise self.error
        return self.ready

    async def release(self, ready: int, error: Exception | None = None) -> None:
        """Let more bytes go, or let it fail after them."""
        async with self.changed:
            self.ready, self.error = ready, error
            self.changed.notify_all()


@contextmanager
def stored(folder: Path, data: bytes, *, ready: int | None = None, size: int | None = None) -> Iterator[File]:
    """A stored, or growing, blob."""
    path = folder / "blob"
    path.write_bytes(data)
    file = File(path, len(data) if size is None else size, ready)
    try:
        yield file
    finally:
        os.close(file.descriptor)


class Server:
    """Answers ``/blob`` by streaming, everything else with a few bytes; remembers how the streams ended."""

    def __init__(self, source: streaming.Source, span: tuple[int, int] | None = None, stall: float = 5.0) -> None:
        self.source = source
        self.span = span or (0, source.size)
        self.stall = stall
        self.counted = list[int]()
        self.ended: asyncio.Queue[BaseException | None] = asyncio.Queue()
        self.task: asyncio.Task[None] | None = None

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/prebuilt":
            return responses.Prebuilt(responses.Wire({"X": "prebuilt"}, 3 * MIB, NOISE[: 3 * MIB]).bytes(head=False))
        if request.path != "/blob":
            return web.Response(body=b"small")
        start, stop = self.span
        response = web.StreamResponse(headers={"X-Blob": "yes"})
        response.content_length = stop - start
        count = self.counted.append
        self.task = asyncio.create_task(streaming.send(request, response, self.source, start, stop, self.stall, count))
        try:
            await self.task
        except (OSError, DigestMismatch, asyncio.CancelledError) as error:
            streaming.cut(request)
            self.ended.put_nowait(error)
        else:
            self.ended.put_nowait(None)
        return response

    async def end(self) -> BaseException | None:
        """How the next stream ended: None when it was sent whole."""
        async with asyncio.timeout(PATIENCE):
            return await self.ended.get()


@asynccontextmanager
async def serving(server: Server, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """The port of aiohttp's low-level server, as the listener uses it, with TLS or without."""
    runner = web.ServerRunner(web.Server(server, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def client_of(port: int, authority: Authority | None, receive_buffer: int | None = None) -> AbstractAsyncContextManager[Client]:
    """A client, which speaks TLS when there is an authority."""
    return connected(port, receive_buffer=receive_buffer, tls=None if authority is None else authority.trust())


@cache
def tls_of(wanted: bool) -> tuple[Authority | None, ssl.SSLContext | None]:
    """An authority and its server's context, where the connection is to be encrypted."""
    authority = Authority() if wanted else None
    return authority, None if authority is None else authority.server()


def open_files() -> int:
    """How many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))


AUTHORITY = pytest.param(True, id="tls")
BOTH = pytest.mark.parametrize("tls", [pytest.param(False, id="plain"), AUTHORITY])


# -- whole answers --------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, TURN, TURN + 1, 9 * MIB + 123])
@on_both_loops
async def test_a_blob_is_sent_whole_and_the_connection_goes_on(tmp_path: Path, size: int, tls: bool) -> None:
    """Head, then exactly the bytes, again and again on one connection, with ordinary answers in between."""
    authority, context = tls_of(tls)
    with stored(tmp_path, NOISE[:size]) as file:
        server = Server(file)
        async with serving(server, context) as port, client_of(port, authority) as client:
            for _ in range(2):
                reply = await client.ask("/blob")
                assert (reply.status, reply.headers["x-blob"], reply.headers["content-length"]) == (200, "yes", str(size))
                assert reply.body == NOISE[:size]
                assert await server.end() is None
                assert (await client.ask("/small")).body == b"small"
        assert sum(server.counted) == 2 * size


@BOTH
@pytest.mark.parametrize("span", [(0, 1), (1, 2), (PIECE - 1, PIECE + 1), (5, TURN + 7), (9 * MIB, 9 * MIB + 123), (7, 7)])
@on_both_loops
async def test_promise_31_a_slice_is_exact_over_the_wire(tmp_path: Path, span: tuple[int, int], tls: bool) -> None:
    """Nothing before it, nothing after it."""
    authority, context = tls_of(tls)
    with stored(tmp_path, NOISE) as file:
        async with serving(Server(file, span), context) as port, client_of(port, authority) as client:
            assert (await client.ask("/blob")).body == NOISE[slice(*span)]
            assert (await client.ask("/small")).body == b"small"


@on_both_loops
async def test_what_was_written_before_goes_first(tmp_path: Path) -> None:
    """A client that reads slowly gets large answers of both kinds in order: sendfile never overtakes the transport's buffer."""
    with stored(tmp_path, NOISE[: 2 * MIB]) as file:
        async with serving(Server(file)) as port, connected(port, receive_buffer=16 * KIB) as client:
            pipelined = REQUEST.replace(b"/blob", b"/prebuilt") + REQUEST + REQUEST.replace(b"/blob", b"/small")
            await client.send(pipelined * 2)
            for _ in range(2):
                assert (await client.reply()).body == NOISE[: 3 * MIB]
                assert (await client.reply()).body == NOISE[: 2 * MIB]
                assert (await client.reply()).body == b"small"


@on_both_loops
async def test_many_clients_at_different_speeds(tmp_path: Path) -> None:
    """Each gets its own bytes, and no descriptor stays open."""
    with stored(tmp_path, NOISE[: 2 * MIB]) as file:
        async with serving(Server(file)) as port:
            before = open_files()

            async def pull(receive_buffer: int | None) -> bytes:
                async with connected(port, receive_buffer=receive_buffer) as client:
                    return (await client.ask("/blob")).body

            bodies = await asyncio.gather(*(pull(None if number % 2 else 16 * KIB) for number in range(12)))
            await settled(before)
        assert all(body == NOISE[: 2 * MIB] for body in bodies)


# -- growing and failing sources ------------------------------------------------------------------------------------


@BOTH
@on_both_loops
async def test_promise_30_what_is_held_back_is_not_sent(tmp_path: Path, tls: bool) -> None:
    """A growing blob goes out as far as it may; the end follows when it is released."""
    authority, context = tls_of(tls)
    with stored(tmp_path, NOISE[:MIB], ready=1) as file:
        server = Server(file)
        async with serving(server, context) as port, client_of(port, authority) as client:
            await client.send(REQUEST)
            await client.reader.readuntil(b"\r\n\r\n")
            assert await client.reader.readexactly(1) == NOISE[:1]
            for ready in (1000, PIECE + 5, MIB - 1):
                await file.release(ready)
            received = await client.reader.readexactly(MIB - 2)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.reader.read(1), 0.1)
            await file.release(MIB)
            assert NOISE[:1] + received + await client.reader.readexactly(1) == NOISE[:MIB]
            assert await server.end() is None
            assert (await client.ask("/small")).body == b"small"


@BOTH
@on_both_loops
async def test_promise_30_a_source_that_fails_cuts_the_connection(tmp_path: Path, tls: bool) -> None:
    """The client has less than was announced, and sees that the connection ended: never a whole answer."""
    authority, context = tls_of(tls)
    with stored(tmp_path, NOISE[:MIB], ready=0) as file:
        server = Server(file)
        async with serving(server, context) as port, client_of(port, authority) as client:
            await client.send(REQUEST)
            await file.release(MIB - PIECE, DigestMismatch("sha256:a", "sha256:b"))
            received = (await client.rest()).partition(b"\r\n\r\n")[2]
            assert isinstance(await server.end(), DigestMismatch)
            assert len(received) <= MIB - PIECE
            assert NOISE.startswith(received)


@BOTH
@on_both_loops
async def test_promise_37_a_file_that_ended_early_cuts_the_connection(tmp_path: Path, tls: bool) -> None:
    """A file truncated under our hands is no whole answer, and no endless loop."""
    authority, context = tls_of(tls)
    with stored(tmp_path, NOISE[: MIB // 2], size=MIB) as file:
        server = Server(file)
        async with serving(server, context) as port, client_of(port, authority) as client:
            await client.send(REQUEST)
            assert len((await client.rest()).partition(b"\r\n\r\n")[2]) <= MIB // 2
            error = await server.end()
            assert isinstance(error, ConnectionAbortedError)
            assert "ended early" in str(error)
            assert sum(server.counted) == MIB // 2


# -- clients that stall or leave ------------------------------------------------------------------------------------


@BOTH
@on_both_loops
async def test_promise_32_a_client_that_takes_nothing_is_given_up(tmp_path: Path, tls: bool) -> None:
    """After ``stall`` seconds without a byte taken; its descriptor is given back, and others are served meanwhile."""
    authority, context = tls_of(tls)
    with stored(tmp_path, NOISE) as file:
        server = Server(file, stall=0.4)
        async with serving(server, context) as port:
            before = open_files()
            async with client_of(port, authority, 16 * KIB) as client:
                client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a stream's transport reads
                await client.send(REQUEST * 50)
                async with client_of(port, authority) as other:
                    assert (await other.ask("/small")).body == b"small"
                assert isinstance(await server.end(), TimeoutError)
            await settled(before)


@BOTH
@on_both_loops
async def test_a_client_that_leaves_in_the_middle_ends_its_own_answer(tmp_path: Path, tls: bool) -> None:
    """The send ends with an error, well before any timeout, and gives back its descriptor."""
    authority, context = tls_of(tls)
    with stored(tmp_path, NOISE) as file:
        server = Server(file, stall=30)
        async with serving(server, context) as port:
            before = open_files()
            async with client_of(port, authority, 16 * KIB) as client:
                await client.send(REQUEST)
                await client.reader.readexactly(100 * KIB)
            assert isinstance(await server.end(), ConnectionError)
            await settled(before)


@BOTH
@on_both_loops
async def test_a_client_that_leaves_while_nothing_can_be_sent_is_noticed_later(tmp_path: Path, tls: bool) -> None:
    """While the source has nothing there is nothing to notice; with the next bytes there is."""
    authority, context = tls_of(tls)
    with stored(tmp_path, NOISE, ready=1) as file:
        server = Server(file, stall=30)
        async with serving(server, context) as port:
            async with client_of(port, authority) as client:
                await client.send(REQUEST)
                await client.reader.readuntil(b"\r\n\r\n")
                await client.reader.readexactly(1)
            await file.release(len(NOISE))
            assert isinstance(await server.end(), ConnectionError)


@BOTH
@on_both_loops
async def test_a_send_that_is_cancelled_lets_go(tmp_path: Path, tls: bool) -> None:
    """Cancelled while the client is slow: the descriptor is given back, and the connection is cut."""
    authority, context = tls_of(tls)
    with stored(tmp_path, NOISE) as file:
        server = Server(file, stall=30)
        async with serving(server, context) as port:
            before = open_files()
            async with client_of(port, authority, 16 * KIB) as client:
                await client.send(REQUEST)
                await client.reader.readexactly(PIECE)
                client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a stream's transport reads
                await asyncio.sleep(0.05)
                assert server.task is not None
                server.task.cancel()
                assert isinstance(await server.end(), asyncio.CancelledError)
            await settled(before)


@on_both_loops
async def test_a_send_that_is_cancelled_waits_for_its_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that still writes keeps its descriptors: closed under it, they might be another file's by then."""
    began, may_end = threading.Event(), threading.Event()
    open_at_the_end: list[bool] = []

    def slow(out: int, source: int, offset: int, count: int) -> int:
        began.set()
        may_end.wait(10)
        open_at_the_end.extend(Path(f"/proc/self/fd/{descriptor}").exists() for descriptor in (out, source))
        return count

    monkeypatch.setattr(streaming, "_sendfile", slow)
    with stored(tmp_path, NOISE) as file:
        server = Server(file)
        async with serving(server) as port, connected(port) as client:
            await client.send(REQUEST)
            assert await asyncio.to_thread(began.wait, 10)
            assert server.task is not None
            server.task.cancel()
            await asyncio.sleep(0.05)
            assert not server.task.done()
            may_end.set()
            assert isinstance(await server.end(), asyncio.CancelledError)
    assert open_at_the_end == [True, True]


@on_both_loops
async def test_a_client_that_left_before_the_answer_gets_none(tmp_path: Path) -> None:
    """Nothing is read from the source for it."""
    asked, gone = asyncio.Event(), asyncio.Event()
    ended: list[BaseException] = []
    with stored(tmp_path, NOISE) as file:

        class Late(Server):
            async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
                asked.set()
                while request.transport is not None:
                    await asyncio.sleep(0.01)
                response = web.StreamResponse()
                response.content_length = file.size
                try:
                    await streaming.send(request, response, file, 0, file.size, 5)
                except ConnectionError as error:
                    ended.append(error)
                streaming.cut(request)  # harmless: there is nothing left to cut
                gone.set()
                return response

        async with serving(Late(file)) as port:
            async with connected(port) as client:
                await client.send(REQUEST)
                async with asyncio.timeout(SOON):
                    await asked.wait()
            async with asyncio.timeout(SOON):
                await gone.wait()
    assert len(ended) == 1
    assert file.asked == []


async def settled(descriptors: int) -> None:
    """Wait until no more than so many descriptors are open."""
    async with asyncio.timeout(SOON):
        while open_files() > descriptors:
            await asyncio.sleep(0.01)


# -- hashing once more ----------------------------------------------------------------------------------------------


async def released(blob: Rehashed) -> int:
    """How many bytes a damaged blob lets go before it is found out."""
    offset = 0
    try:
        while offset < blob.size:
            offset = await blob.available(offset)
    except DigestMismatch:
        return offset
    pytest.fail("the damage was not found")


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("size", [0, 1, PIECE, TURN, TURN + 1, 9 * MIB + 123])
async def test_a_rehashed_blob_is_released_as_it_is_hashed(tmp_path: Path, size: int, algorithm: str) -> None:
    """Always a piece behind the hash, and the end only after the digest matched."""
    data = NOISE[:size]
    with stored(tmp_path, data) as file:
        blob = Rehashed(file, Digest.of(data, algorithm))
        assert (blob.size, blob.fileno()) == (size, file.fileno())
        offset, steps = 0, []
        while offset < size:
            offset = await blob.available(offset)
            steps.append(offset)
        assert await blob.available(offset) == size
        assert steps == ([] if size == 0 else [size] if size <= TURN else [*range(TURN - PIECE, size - PIECE, TURN), size])


@pytest.mark.parametrize("position", [0, TURN, 9 * MIB + 122])
async def test_promise_37_a_flipped_bit_is_found_before_the_end_is_released(tmp_path: Path, position: int) -> None:
    """Wherever it is, the last piece never goes out, and asking again does not help."""
    damaged = bytearray(NOISE)
    damaged[position] ^= 1
    with stored(tmp_path, bytes(damaged)) as file:
        blob = Rehashed(file, Digest.of(NOISE))
        assert await released(blob) <= len(NOISE) - PIECE
        with pytest.raises(DigestMismatch):
            await blob.available(0)
        with pytest.raises(DigestMismatch):
            await blob.whole()


async def test_promise_37_a_truncated_file_is_found(tmp_path: Path) -> None:
    """A file that lost its end is damaged, too."""
    with stored(tmp_path, NOISE[:MIB], size=2 * MIB) as file:
        with pytest.raises(DigestMismatch, match="only 1048576 bytes"):
            await Rehashed(file, Digest.of(NOISE[: 2 * MIB])).whole()
        assert await released(Rehashed(file, Digest.of(NOISE[: 2 * MIB]))) <= MIB - PIECE


async def test_a_slice_needs_the_whole(tmp_path: Path) -> None:
    """``whole`` hashes everything before anything goes out."""
    with stored(tmp_path, NOISE) as file:
        blob = Rehashed(file, Digest.of(NOISE))
        await blob.whole()
        assert await blob.available(0) == len(NOISE)


@on_both_loops
async def test_promise_37_a_damaged_blob_is_never_a_whole_answer(tmp_path: Path) -> None:
    """Over the wire: what is whole arrives, what is damaged is cut."""
    with stored(tmp_path, NOISE) as file:
        async with serving(Server(Rehashed(file, Digest.of(NOISE)))) as port, connected(port) as client:
            assert (await client.ask("/blob")).body == NOISE
        server = Server(Rehashed(file, Digest.of(b"other")))
        async with serving(server) as port, connected(port) as client:
            await client.send(REQUEST)
            assert len((await client.rest()).partition(b"\r\n\r\n")[2]) <= len(NOISE) - PIECE
            assert isinstance(await server.end(), DigestMismatch)
