"""Pulls over real sockets, in the ways of the three common clients."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import aiohttp

from proxy.demo.pictures import MANIFEST
from storage.digest import Digest
from storage.reference import Repository

_ACCEPT = {"Accept": f"{MANIFEST}, application/vnd.oci.image.index.v1+json"}


class Way(StrEnum):
    """How a client names what it wants, and in which steps it asks."""

    CONTAINERD = "containerd"  #: ``?ns=``, HEAD of the tag, then everything by digest
    DOCKER = "docker"  #: the registry as a prefix, HEAD of the tag, then everything by digest
    PODMAN = "podman"  #: the registry as a prefix, GET of the tag


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of a pull. ``digest`` is what the client ended up with; None: with nothing at all."""

    client: str
    asked: str
    status: int
    digest: Digest | None
    message: str  #: the refusal's words, or the warning's

    @property
    def served(self) -> bool:
        """Whether the client has an image now."""
        return self.digest is not None


class Client:
    """One machine that pulls through the proxy at ``url``."""

    def __init__(self, name: str, way: Way, url: str, session: aiohttp.ClientSession) -> None:
        self.name = name
        self._way = way
        self._url = url
        self._session = session

    async def pull(self, repository: Repository, tag: str) -> Seen:
        """Pull a whole image, and check every byte of it as clients do."""
        asked = f"{repository}:{tag}"

        def ended(status: int, digest: Digest | None, message: str) -> Seen:
            return Seen(self.name, asked, status, digest, message)

        reference, warning = tag, ""
        if self._way is not Way.PODMAN:
            status, headers, body = await self._ask("HEAD", repository, "manifests", tag)
            warning = headers.get("Warning", "")
            if status != 200:
                # The answer to a HEAD has no body: the reason is asked for as the client shows it.
                status, headers, body = await self._ask("GET", repository, "manifests", tag)
                return ended(status, None, _message(body))
            reference = headers["Docker-Content-Digest"]
        status, headers, body = await self._ask("GET", repository, "manifests", reference)
        if status != 200:
            return ended(status, None, _message(body))
        digest, document = Digest.of(body), json.loads(body)
        for descriptor in (document["config"], *document["layers"]):
            status, _, data = await self._ask("GET", repository, "blobs", descriptor["digest"])
            if status != 200:
                return ended(status, None, _message(data))
            if str(Digest.of(data)) != descriptor["digest"]:
                return ended(status, None, "the connection was cut before the last byte")
        return ended(200, digest, _plain(headers.get("Warning", "") or warning))

    async def _ask(self, method: str, repository: Repository, kind: str, reference: str) -> tuple[int, Any, bytes]:
        if self._way is Way.CONTAINERD:
            path, query = f"/v2/{repository.name}/{kind}/{reference}", f"?ns={repository.registry}"
        else:
            path, query = f"/v2/{repository}/{kind}/{reference}", ""
        headers = {**_ACCEPT, "User-Agent": f"{self._way}/demo"}
        async with self._session.request(method, f"{self._url}{path}{query}", headers=headers) as response:
            body = bytearray()
            try:
                async for piece in response.content.iter_any():
                    body += piece
            except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError):
                body.clear()  # cut: whatever came so far is nothing
            return response.status, response.headers, bytes(body)


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["errors"][0]["message"])
    except (ValueError, KeyError, IndexError, TypeError):
        return "no reason was given"


def _plain(warning: str) -> str:
    """The words of a Warning header (RFC 7234 §5.5)."""
    return warning.partition('"')[2].rpartition('"')[0] or warning
