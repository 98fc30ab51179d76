"""A transparency log somewhere else, read over HTTP (C2SP tlog-tiles). Its answers are bounded, and believed by nobody here."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import hdrs

from storage.merkle import HASH_SIZE, Node
from storage.notes import MAX_NOTE
from storage.tiles import MAX_BUNDLE, WIDTH, Tile, entries_of, nodes_from, tile_at, tiles_of

#: Tiles that are fetched at a time.
_AT_ONCE = 8
_FULL_TILE = WIDTH * HASH_SIZE


class LogUnreachable(Exception):
    """The log does not answer, or not as such a log does; ``str(error)`` says what it did."""


class TiledLog:
    """One log, by its prefix. ``timeout``: seconds for each answer; ``token``: a Bearer token; ``ca``: whom TLS trusts."""

    def __init__(self, prefix: str, *, timeout: float = 30.0, token: str | None = None, ca: Path | None = None) -> None:
        self.prefix = prefix.rstrip("/")
        self._timeout = timeout
        self._token = token
        self._ca = ca
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        import ssl

        context = True if self._ca is None else await asyncio.to_thread(ssl.create_default_context, cafile=str(self._ca))
        headers = {hdrs.ACCEPT_ENCODING: "gzip, identity"}
        if self._token is not None:
            headers[hdrs.AUTHORIZATION] = f"Bearer {self._token}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_AT_ONCE, ssl=context),
            headers=headers,
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=self._timeout),
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def checkpoint(self) -> bytes:
        """The note that it serves now. Raises :class:`LogUnreachable`."""
        body = await self._get("checkpoint", MAX_NOTE)
        if body is None:
            raise LogUnreachable(f"{self.prefix}/checkpoint is not there: is this the prefix of a log?")
        return body

    async def nodes(self, nodes: Iterable[Node], size: int) -> Mapping[Node, bytes]:
        """Nodes of its tree of ``size``, as it says. Raises :class:`LogUnreachable`, and MalformedTile."""
        wanted = list(nodes)
        tiles = sorted(tiles_of(wanted, size), key=Tile.path)
        slots = asyncio.Semaphore(_AT_ONCE)

        async def fetch(tile: Tile) -> bytes:
            async with slots:
                return await self._tile(tile)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(fetch(tile)) for tile in tiles]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None  # one of them says enough, and callers know it by its name
        return nodes_from(wanted, size, {tile: task.result() for tile, task in zip(tiles, tasks, strict=True)})

    async def entries(self, number: int, size: int) -> list[bytes]:
        """The entries of one bundle of its tree of ``size``. Raises :class:`LogUnreachable`, and MalformedTile."""
        bundle = tile_at(None, number, size)
        return entries_of(await self._tile(bundle), bundle.width)

    async def _tile(self, tile: Tile) -> bytes:
        limit = MAX_BUNDLE if tile.level is None else _FULL_TILE
        body = await self._get(tile.path(), limit)
        if body is None and tile.width < WIDTH:
            # A log may drop partial tiles once the full one is there.
            body = await self._get(Tile(tile.level, tile.number).path(), limit)
            if body is not None and tile.level is not None:
                return body[: tile.width * HASH_SIZE]
            if body is not None:
                from storage.tiles import bundle

                return bundle(entries_of(body, WIDTH)[: tile.width])
        if body is None:
            raise LogUnreachable(f"{self.prefix}/{tile.path()} is not there, and the checkpoint says that it is")
        return body

    async def _get(self, path: str, limit: int) -> bytes | None:
        """A body of ``limit`` bytes at most; None for 404."""
        if self._session is None:
            raise RuntimeError("the log is not open")
        url = f"{self.prefix}/{path}"
        try:
            async with self._session.get(url, allow_redirects=False) as response:
                if response.status == 404:
                    return None
                if response.status != 200:
                    raise LogUnreachable(f"{url} answers {response.status}")
                coding = response.headers.get(hdrs.CONTENT_ENCODING, "identity")
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > limit:
                        raise LogUnreachable(f"{url} is longer than {limit} bytes")
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise LogUnreachable(f"{url} cannot be read: {str(error) or type(error).__name__}") from error
        match coding:
            case "identity":
                return bytes(body)
            case "gzip":
                return await asyncio.to_thread(_unzipped, bytes(body), limit, url)
            case _:
                raise LogUnreachable(f"{url} is encoded as {coding[:40]}, which was not asked for")


def _unzipped(data: bytes, limit: int, url: str) -> bytes:
    unzip = zlib.decompressobj(31)
    try:
        body = unzip.decompress(data, limit + 1)
    except zlib.error as error:
        raise LogUnreachable(f"{url} is no gzip: {error}") from error
    if len(body) > limit or not unzip.eof:
        raise LogUnreachable(f"{url} is longer than {limit} bytes, or breaks off")
    return body
