"""The ledger over HTTP, for reading: C2SP tlog-tiles below ``/ledger/``.

What is there is what the newest checkpoint is signed over; entries behind it are not handed out yet. Tiles never change, and a
partial tile of any width up to what there is can be had.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import MappingProxyType

import structlog
from aiohttp import hdrs, web

from storage.checkpoints import Checkpoints
from storage.errors import StorageError
from storage.ledger import Ledger
from storage.tiles import MalformedTile, Tile

log = structlog.get_logger("tagstone.ledger")

#: The log's prefix.
PREFIX = "/ledger/"
_CHECKPOINT = "checkpoint"
_OCTETS = "application/octet-stream"
_MUTABLE: Mapping[str, str] = MappingProxyType({hdrs.CACHE_CONTROL: "no-cache"})
_IMMUTABLE: Mapping[str, str] = MappingProxyType({hdrs.CACHE_CONTROL: "max-age=31536000, immutable"})


class LedgerApi:
    """Answers GET and HEAD below :data:`PREFIX`. ``patience``: seconds within which the database has to answer."""

    def __init__(self, ledger: Ledger, checkpoints: Checkpoints, patience: float) -> None:
        self._ledger = ledger
        self._checkpoints = checkpoints
        self._patience = patience

    @staticmethod
    def serves(request: web.BaseRequest) -> bool:
        """Whether a request is for the ledger."""
        return request.raw_path.startswith(PREFIX)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        try:
            async with asyncio.timeout(self._patience):
                return await self._answer(request, request.raw_path.removeprefix(PREFIX).partition("?")[0])
        except (StorageError, TimeoutError) as error:
            log.error("ledger.unavailable", path=request.raw_path[:200], error=str(error) or type(error).__name__)
            return web.Response(status=503, text="the ledger cannot be read now\n", headers={hdrs.RETRY_AFTER: "10"})

    async def _answer(self, request: web.BaseRequest, path: str) -> web.Response:
        if path == _CHECKPOINT:
            newest = await self._checkpoints.newest()
            if newest is None:
                return web.Response(status=404, text="no checkpoint has been signed yet\n", headers=_MUTABLE)
            return web.Response(body=newest.note, headers={**_MUTABLE, hdrs.CONTENT_TYPE: "text/plain; charset=utf-8"})
        try:
            tile = Tile.parse(path)
        except MalformedTile:
            return web.Response(status=404, text="here are checkpoint, tile/LEVEL/NUMBER and tile/entries/NUMBER\n")
        newest = await self._checkpoints.newest()
        if newest is None or not tile.within(newest.size):
            return web.Response(status=404, text="the ledger is not that long yet\n", headers=_MUTABLE)
        response = web.Response(body=await self._ledger.tile(tile), headers={**_IMMUTABLE, hdrs.CONTENT_TYPE: _OCTETS})
        if tile.level is None and "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, ""):
            response.enable_compression(web.ContentCoding.gzip)  # text, of which a tenth is left; hashes do not get shorter
        return response
