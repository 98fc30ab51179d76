"""A small registry on the loopback interface, whose content its owner, or somebody else, changes at will."""

from __future__ import annotations

import json
from collections import defaultdict
from types import TracebackType
from typing import Self

from aiohttp import web

from proxy.demo.pictures import MANIFEST, Picture, Publisher, signature, signature_tag
from storage.digest import Digest
from storage.reference import Repository


class Upstream:
    """An OCI registry for pulls, in memory. An async context manager: it listens while it is entered."""

    def __init__(self, name: str) -> None:
        self.name = name  #: as images are called: the address is another
        self._manifests: dict[Digest, bytes] = {}
        self._blobs: dict[Digest, bytes] = {}
        self._tags: defaultdict[str, dict[str, Digest]] = defaultdict(dict)
        self._tampered: set[Digest] = set()
        self._runner: web.ServerRunner | None = None
        self.port = 0

    async def __aenter__(self) -> Self:
        self._runner = web.ServerRunner(web.Server(self._answer), shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        addresses = self._runner.addresses
        self.port = int(addresses[0][1])
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    # -- what its owner, or somebody with the owner's password, does ----------------------------------------------------

    async def push(self, name: str, tag: str, picture: Picture, publisher: Publisher | None = None) -> None:
        """See :class:`proxy.demo.stage.Shelf`."""
        self._put(name, tag, picture)
        if publisher is not None:
            made = signature(Repository.of(self.name, name), picture.digest, publisher)
            self._put(name, signature_tag(picture.digest), made)

    async def tag(self, name: str, tag: str, picture: Picture) -> None:
        """See :class:`proxy.demo.stage.Shelf`."""
        self._tags[name][tag] = picture.digest

    async def untag(self, name: str, tag: str) -> None:
        """See :class:`proxy.demo.stage.Shelf`."""
        del self._tags[name][tag]

    async def tamper(self, blob: bytes) -> None:
        """See :class:`proxy.demo.stage.Shelf`."""
        self._tampered.add(Digest.of(blob))

    def _put(self, name: str, tag: str, picture: Picture) -> None:
        self._manifests[picture.digest] = picture.body
        self._blobs |= {Digest.of(blob): blob for blob in picture.blobs}
        self._tags[name][tag] = picture.digest

    # -- what it answers ------------------------------------------------------------------------------------------------

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        if path in {"/v2/", "/v2"}:
            return web.json_response({})
        for kind in ("manifests", "blobs", "tags", "referrers"):
            head, found, rest = path.removeprefix("/v2/").rpartition(f"/{kind}/")
            if found and request.method in {"GET", "HEAD"}:
                return self._of(kind, head, rest)
        return _error(404, "NAME_UNKNOWN")

    def _of(self, kind: str, name: str, rest: str) -> web.Response:
        match kind:
            case "manifests":
                digest = Digest.parse(rest) if ":" in rest else self._tags[name].get(rest)
                body = None if digest is None else self._manifests.get(digest)
                if body is None or digest is None:
                    return _error(404, "MANIFEST_UNKNOWN")
                return web.Response(body=body, headers={"Content-Type": MANIFEST, "Docker-Content-Digest": str(digest)})
            case "blobs":
                digest = Digest.parse(rest)
                data = self._blobs.get(digest)
                if data is None:
                    return _error(404, "BLOB_UNKNOWN")
                return web.Response(body=bytes(len(data)) if digest in self._tampered else data)
            case "tags":
                return web.json_response({"name": name, "tags": sorted(self._tags[name])})
            case _:
                return _error(404, "NAME_UNKNOWN")


def _error(status: int, code: str) -> web.Response:
    return web.Response(status=status, text=json.dumps({"errors": [{"code": code, "message": code.lower()}]}))
