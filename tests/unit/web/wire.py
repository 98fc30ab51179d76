"""HTTP/1.1 as bytes: a listener on a free port, and a client that sees exactly what was sent."""

from __future__ import annotations

import asyncio
import functools
import inspect
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import uvloop
from aiohttp import web

from proxy.settings import Limits
from proxy.web.listener import Listener
from proxy.web.tls import ServerTls
from tests.tools import PATIENCE

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def listening(handler: Handler, limits: Limits | None = None, tls: ServerTls | None = None) -> AsyncIterator[int]:
    """The port of a listener that answers by ``handler``."""
    listener = Listener(handler, "127.0.0.1", 0, limits or Limits(), tls=tls)
    await listener.start()
    try:
        yield listener.port
    finally:
        await listener.close()


@dataclass(frozen=True)
class Reply:
    """One answer. ``headers`` have lower-case names."""

    status: int
    reason: str
    headers: dict[str, str]
    body: bytes


class Client:
    """One connection. Every wait ends after a few seconds."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)
        async with asyncio.timeout(PATIENCE):
            await self.writer.drain()

    async def ask(self, target: str = "/", method: str = "GET", version: str = "1.1", **headers: str) -> Reply:
        """Send one request and read its answer. Underscores in names of headers stand for dashes."""
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        await self.send(f"{method} {target} HTTP/{version}\r\nHost: proxy\r\n{lines}\r\n".encode())
        return await self.reply(head=method == "HEAD")

    async def reply(self, *, head: bool = False) -> Reply:
        """Read one answer. Raises asyncio.IncompleteReadError when the connection ends before it does."""
        async with asyncio.timeout(PATIENCE):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("ascii").split("\r\n")
            _, status, reason = lines[0].split(" ", 2)
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:] if line)}
            length = 0 if head or status in {"204", "304"} else int(headers["content-length"])
            return Reply(int(status), reason, headers, await self.reader.readexactly(length))

    async def rest(self) -> bytes:
        """Everything until the server ends the connection, however it does."""
        received = bytearray()
        async with asyncio.timeout(PATIENCE):
            try:
                while piece := await self.reader.read(1 << 16):
                    received += piece
            except ConnectionResetError:
                pass
        return bytes(received)


@asynccontextmanager
async def connected(port: int, *, receive_buffer: int | None = None, tls: ssl.SSLContext | None = None) -> AsyncIterator[Client]:
    """A connection to a listener; with a small ``receive_buffer`` (bytes) the server soon finds that it cannot write."""
    sock = socket.socket()
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    name = None if tls is None else "127.0.0.1"
    reader, writer = await asyncio.open_connection(sock=sock, limit=receive_buffer or 1 << 16, ssl=tls, server_hostname=name)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test on asyncio's own loop and on uvloop, which differ in what a transport does with bytes."""

    @functools.wraps(test)
    def run(*, loop_factory: Callable[[], asyncio.AbstractEventLoop], **fixtures: Any) -> None:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(test(**fixtures))

    signature = inspect.signature(test)
    added = inspect.Parameter("loop_factory", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), added])  # type: ignore[attr-defined]  # for pytest
    loops = [asyncio.new_event_loop, uvloop.new_event_loop]
    both: Callable[..., None] = pytest.mark.parametrize("loop_factory", loops, ids=["asyncio", "uvloop"])(run)
    return both
