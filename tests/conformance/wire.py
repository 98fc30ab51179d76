"""Talking to the proxy byte by byte: what no HTTP library would send, and what arrives before one has tidied it up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from multidict import CIMultiDict

from tests.harness import Proxy


@dataclass(frozen=True, slots=True)
class Raw:
    """One answer as it stood on the wire; ``rest`` is what came after it."""

    status: int
    reason: bytes
    headers: CIMultiDict[str]
    body: bytes
    rest: bytes

    @classmethod
    def read(cls, data: bytes) -> Raw:
        """The first answer in ``data``, framed by its Content-Length."""
        head, _, rest = data.partition(b"\r\n\r\n")
        start, *lines = head.split(b"\r\n")
        version, status, *reason = start.split(b" ", 2)
        assert version in {b"HTTP/1.1", b"HTTP/1.0"}, data[:200]
        headers = CIMultiDict[str]()
        for line in lines:
            name, _, value = line.partition(b": ")
            headers.add(name.decode(), value.decode("latin-1"))
        length = int(headers.get("Content-Length", "0"))
        return cls(int(status), b"".join(reason), headers, rest[:length], rest[length:])


@asynccontextmanager
async def connection(proxy: Proxy) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A TCP connection to the registry listener."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.worker.ports[0])
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def speak(proxy: Proxy, data: bytes, *, seconds: float = 10.0) -> bytes:
    """Send bytes and read until the proxy closes the connection; fail when it does not within ``seconds``."""
    async with connection(proxy) as (reader, writer):
        writer.write(data)
        heard = b""
        with suppress(ConnectionResetError):
            async with asyncio.timeout(seconds):
                while piece := await reader.read(1 << 16):
                    heard += piece
        return heard


async def request(proxy: Proxy, target: str | bytes, method: str = "GET", *headers: str) -> Raw:
    """One request with this target, byte for byte, on a connection of its own."""
    written = target.encode("latin-1") if isinstance(target, str) else target
    lines = "".join(f"{line}\r\n" for line in ("Host: proxy.example", "Connection: close", *headers))
    return Raw.read(await speak(proxy, method.encode() + b" " + written + b" HTTP/1.1\r\n" + lines.encode("latin-1") + b"\r\n"))
