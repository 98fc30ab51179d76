"""A listening address: who is waited for and how long, what becomes of answers at the end, and what a broken request gets."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from proxy.settings import Limits
from proxy.web.listener import Listener
from tests.tools import PATIENCE, SOON
from tests.unit.web.wire import Client, connected, listening, on_both_loops

HURRY = Limits(client_first_timeout=0.3, client_idle_timeout=0.3)
REQUEST = b"GET / HTTP/1.1\r\nHost: proxy\r\n\r\n"


async def hello(_: web.BaseRequest) -> web.StreamResponse:
    """A small answer."""
    return web.Response(text="hello")


async def ends_after(client: Client) -> float:
    """Seconds until the server ends a connection without having said anything."""
    began = time.monotonic()
    assert await client.rest() == b""
    return time.monotonic() - began


# -- promise 32: clients that do not ask ----------------------------------------------------------------------------


@on_both_loops
async def test_promise_32_a_client_that_says_nothing_is_closed() -> None:
    """A connection without a request ends; others are answered meanwhile."""
    async with listening(hello, HURRY) as port, connected(port) as silent:
        async with connected(port) as other:
            assert (await other.ask()).body == b"hello"
        assert 0.1 < await ends_after(silent) < 5


@pytest.mark.parametrize("part", [b"G", b"GET / HTTP/1.1\r\n", REQUEST[:-2], b"\r\n"])
@on_both_loops
async def test_promise_32_a_request_that_never_ends_is_closed(part: bytes) -> None:
    """A part of a request is no request."""
    async with listening(hello, HURRY) as port, connected(port) as client:
        await client.send(part)
        assert 0.1 < await ends_after(client) < 5


@on_both_loops
async def test_promise_32_a_request_that_drips_is_closed() -> None:
    """Each byte does not buy more time: the whole request has one deadline."""

    async def drip(client: Client) -> None:
        while True:
            await client.send(b"X")
            await asyncio.sleep(0.02)

    async with listening(hello, HURRY) as port, connected(port) as client:
        await client.send(b"GET / HTTP/1.1\r\nX-Header: ")
        dripping = asyncio.create_task(drip(client))
        assert 0.1 < await ends_after(client) < 5
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)


@pytest.mark.parametrize("part", [b"", b"GET / HTTP/1.1\r\nX: "])
@on_both_loops
async def test_promise_32_an_idle_connection_is_closed(part: bytes) -> None:
    """After an answer, too: nothing, or only a part of the next request, and the connection ends."""
    async with listening(hello, HURRY) as port, connected(port) as client:
        assert (await client.ask()).body == b"hello"
        await client.send(part)
        assert 0.1 < await ends_after(client) < 5


@on_both_loops
async def test_promise_32_a_slow_answer_is_not_the_clients_fault() -> None:
    """Once a request is there the deadline for it is over, however long the answer takes."""

    async def slow(_: web.BaseRequest) -> web.StreamResponse:
        await asyncio.sleep(0.5)
        return web.Response(text="late")

    async with listening(slow, Limits(client_first_timeout=0.2, client_idle_timeout=0.2)) as port, connected(port) as client:
        assert (await client.ask()).body == b"late"
        assert (await client.ask()).body == b"late"


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the kernel has no such timeout")
@on_both_loops
async def test_promise_32_a_client_that_reads_nothing_is_cut() -> None:
    """Its answer waits in our memory for no longer than ``client_stall_timeout``; others are answered meanwhile."""
    gone = asyncio.Event()

    async def large(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/small":
            return web.Response(text="small")
        assert request.transport is not None
        request.transport.write(bytes(16 << 20))  # past every wait that aiohttp knows
        while request.transport is not None:
            await asyncio.sleep(0.02)
        gone.set()
        return web.Response()

    async with listening(large, Limits(client_stall_timeout=0.5)) as port, connected(port, receive_buffer=4096) as client:
        await client.send(REQUEST)
        async with connected(port) as other:
            assert (await other.ask("/small")).body == b"small"
        async with asyncio.timeout(SOON):
            await gone.wait()


# -- the end --------------------------------------------------------------------------------------------------------


class Slow:
    """A handler whose answers end when the test says so."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.may_end = asyncio.Event()
        self.cancelled = False

    async def __call__(self, _: web.BaseRequest) -> web.StreamResponse:
        self.asked.set()
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return web.Response(text="done")


@on_both_loops
async def test_promise_59_what_is_in_flight_ends_before_the_listener_does() -> None:
    """No new connections, idle ones are closed at once, and the answer under way is sent whole."""
    slow = Slow()
    listener = Listener(slow, "127.0.0.1", 0, Limits(drain_timeout=10))
    await listener.start()
    port = listener.port
    async with connected(port) as busy, connected(port) as idle:
        await busy.send(REQUEST)
        await slow.asked.wait()
        closing = asyncio.create_task(listener.close())
        assert await ends_after(idle) < 5
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", port)
        assert not closing.done()
        slow.may_end.set()
        reply = await busy.reply()
        assert reply.body == b"done"
        assert await busy.rest() == b""
        async with asyncio.timeout(SOON):
            await closing
    assert not slow.cancelled


@pytest.mark.parametrize("seconds", [0, 0.5])
@on_both_loops
async def test_promise_59_what_does_not_end_is_cut(seconds: float) -> None:
    """After ``drain_timeout``, zero too, the answer is cancelled and the client sees the end of the connection."""
    slow = Slow()
    listener = Listener(slow, "127.0.0.1", 0, Limits(drain_timeout=seconds))
    await listener.start()
    async with connected(listener.port) as client:
        await client.send(REQUEST)
        await slow.asked.wait()
        began = time.monotonic()
        async with asyncio.timeout(PATIENCE):
            await listener.close()
        assert seconds * 0.9 <= time.monotonic() - began < SOON
        assert await client.rest() == b""
    await asyncio.sleep(0)
    assert slow.cancelled


async def test_promise_59_an_answer_may_use_the_whole_time() -> None:
    """What ends just before ``drain_timeout`` is over is sent."""
    slow = Slow()
    listener = Listener(slow, "127.0.0.1", 0, Limits(drain_timeout=1.0))
    await listener.start()
    async with connected(listener.port) as client:
        await client.send(REQUEST)
        await slow.asked.wait()
        closing = asyncio.create_task(listener.close())
        await asyncio.sleep(0.75)
        slow.may_end.set()
        assert (await client.reply()).body == b"done"
        await closing


async def test_closing_twice_or_before_the_start_is_nothing() -> None:
    """``close`` can always be called."""
    listener = Listener(hello, "127.0.0.1", 0, Limits())
    await listener.close()
    assert listener.port == 0
    await listener.start()
    assert listener.port > 0
    await listener.close()
    await listener.close()
    assert listener.port == 0


# -- another handler ------------------------------------------------------------------------------------------------


async def test_a_handler_may_be_replaced_while_it_runs() -> None:
    """Before the start and after it: the next request is answered by the new one, on connections that stay open, too."""

    def saying(words: str) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
        async def answer(_: web.BaseRequest) -> web.StreamResponse:
            return web.Response(text=words)

        return answer

    listener = Listener(hello, "127.0.0.1", 0, Limits())
    listener.adopt(saying("first"))
    await listener.start()
    async with connected(listener.port) as client:
        assert (await client.ask()).body == b"first"
        listener.adopt(saying("second"))
        assert (await client.ask()).body == b"second"
    await listener.close()


# -- addresses ------------------------------------------------------------------------------------------------------


async def test_an_address_that_is_taken_is_an_error() -> None:
    """OSError names it; once it is free the same listener starts."""
    async with listening(hello) as port:
        second = Listener(hello, "127.0.0.1", port, Limits())
        with pytest.raises(OSError, match=str(port)):
            await second.start()
        assert second.port == port
    await second.start()
    async with connected(port) as client:
        assert (await client.ask()).body == b"hello"
    await second.close()


async def test_workers_share_a_port() -> None:
    """With ``reuse_port`` a second listener takes the same address, and each connection is answered by one of them."""
    first = Listener(hello, "127.0.0.1", 0, Limits(), reuse_port=True)
    await first.start()
    second = Listener(hello, "127.0.0.1", first.port, Limits(), reuse_port=True)
    await second.start()
    for _ in range(8):
        async with connected(first.port) as client:
            assert (await client.ask()).body == b"hello"
    await second.close()
    await first.close()


# -- promise 27: requests that two servers read differently ---------------------------------------------------------


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello",
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity, chunked, gzip\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n continued\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
    ],
    ids=[
        *("CL and TE", "two lengths", "a signed length", "chunked not last", "NUL", "blank before colon", "folded header"),
        *("version", "no HTTP", "TLS", "endless target", "endless header"),
    ],
)
@on_both_loops
async def test_promise_27_an_ambiguous_request_is_400_and_the_end(request_bytes: bytes) -> None:
    """One 400, then the connection is closed: nothing behind the request is taken for another one. Others are answered."""
    asked = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        asked.append(request.path)
        return web.Response(text="hello")

    async with listening(answer) as port:
        async with connected(port) as client:
            await client.send(request_bytes + b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await client.reply()).status == 400
            assert await client.rest() == b""
        async with connected(port) as client:
            assert (await client.ask("/after")).body == b"hello"
    assert asked == ["/after"]


async def test_promise_40_what_cannot_be_read_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A broken header may be a credential: its bytes stay out of the log."""
    caplog.set_level(logging.DEBUG)
    async with listening(hello) as port, connected(port) as client:
        await client.send(b"GET / HTTP/1.1\r\nAuthorization: Bearer s3cret\x00\r\n\r\n")
        assert b"400 Bad Request" in await client.rest()
    assert "s3cret" not in caplog.text
    assert "a request cannot be read" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    "sent", [REQUEST, REQUEST.replace(b"/ ", b"/stream "), REQUEST.replace(b"/ ", b"/broken "), b"nonsense\r\n\r\n"]
)
async def test_answers_do_not_say_by_what_software(sent: bytes) -> None:
    """Neither by a header nor in the words of an error, whoever makes the answer: the handler, or the server beneath it."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/broken":
            raise LookupError
        if request.path != "/stream":
            return web.Response(text="hello")
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"hello")
        return response

    async with listening(answer) as port, connected(port) as client:
        await client.send(sent.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        received = (await client.rest()).lower()
    assert received.startswith(b"http/1.")
    assert b"server:" not in received
    assert b"aiohttp" not in received
    assert b"python" not in received


async def test_a_handler_that_breaks_is_logged_and_answered_500(caplog: pytest.LogCaptureFixture) -> None:
    """A mistake of ours is in the log with its traceback, is no news for the client, and ends nothing else."""

    async def broken(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/broken":
            raise LookupError("the reason")
        return web.Response(text="hello")

    async with listening(broken) as port:
        async with connected(port) as client:
            reply = await client.ask("/broken")
            assert reply.status == 500
            assert b"the reason" not in reply.body
        async with connected(port) as client:
            assert (await client.ask()).body == b"hello"
    assert "LookupError: the reason" in caplog.text


async def answered(port: int) -> bool:
    """Whether a new connection is served."""
    async with connected(port) as client:
        try:
            return (await client.ask()).status == 200
        except (asyncio.IncompleteReadError, ConnectionError):
            return False


@on_both_loops
async def test_there_are_only_so_many_connections() -> None:
    """The one beyond is closed at once; those that are open go on, and one that closes makes room."""
    async with listening(hello, Limits(client_connections=2, client_connections_each=2)) as port:
        async with connected(port) as first, connected(port) as second:
            assert (await first.ask()).status == 200
            assert (await second.ask()).status == 200
            async with connected(port) as third:
                assert await third.rest() == b""
            assert (await first.ask()).status == 200
        async with asyncio.timeout(PATIENCE):
            while not await answered(port):
                await asyncio.sleep(0.02)


@on_both_loops
@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("X-Long: " + "a" * 2000, 400),
        ("X-Short: " + "a" * 500, 200),
        ("\r\n".join(f"X-{number}: 1" for number in range(40)), 400),
    ],
)
async def test_heads_are_bounded(head: str, status: int) -> None:
    """Lines that are too long, and too many of them, are refused before anybody looks at them."""
    async with listening(hello, Limits(client_header_size=1024, client_headers=20)) as port, connected(port) as client:
        await client.send(f"GET / HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode())
        assert (await client.reply()).status == status
