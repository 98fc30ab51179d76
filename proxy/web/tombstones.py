"""Refusals that look like an image: ``refusal: tombstone``, for clients that go on to the upstream after an error."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from proxy.distribution import Request
from proxy.manifest import OCI_MANIFEST
from proxy.services.answers import Refused
from proxy.services.memory import Memory
from proxy.web import responses
from storage.digest import Digest
from storage.reference import Repository

#: Refusals that clients may come back for by digest, and for how many seconds. After that the digest is simply unknown.
_MOST = 1000
_SECONDS = 600.0


class Tombstones:
    """A refused HEAD of a tag is answered with a digest that leads nowhere: that of the refusal, never handed out as a manifest.

    After an error, containerd and others resolve the tag at the upstream. After this they ask for the digest, here and there, and
    nobody has it; the one who asks here is told why. ``wanted`` False: nothing is ever buried.
    """

    def __init__(self, *, wanted: bool) -> None:
        self._wanted = wanted
        self._known: Memory[tuple[Repository, Digest], Refused] = Memory(_MOST)

    def fit(self, asked: Request, *, head: bool) -> bool:
        """Whether a refusal of this request is a tombstone: only what resolves a tag leads anywhere else."""
        return self._wanted and head and asked.tag is not None

    def find(self, repository: Repository, digest: Digest) -> Refused | None:
        """The refusal that has this digest, if it was told not long ago."""
        return self._known.get((repository, digest))

    def bury(self, refusal: Refused, repository: Repository | None, namespace: Mapping[str, str]) -> tuple[Digest, web.Response]:
        """The refusal's digest, and the answer that looks like an image; remembered where there is a repository to ask in."""
        body = responses.refused(refusal, {}).body
        if not isinstance(body, bytes):
            raise AssertionError("an error has a body of bytes")
        digest = Digest.of(body)
        if repository is not None:
            generation = self._known.generation
            self._known.put((repository, digest), refusal, seconds=_SECONDS, cost=1, generation=generation)
        return digest, web.Response(body=body, headers=responses.content_headers(OCI_MANIFEST, digest, None, namespace))
