"""Lookasides: where containers' tools keep OpenPGP signatures, and registries that have a signature API."""

from __future__ import annotations

import base64
import json

from multidict import CIMultiDict

from storage.digest import Digest
from tests.simulator.registry import Registry
from tests.simulator.server import Answer, Next, Seen, Site
from tests.simulator.when import path, ping


class Shelf(Site):
    """A web server over a tree of signatures, laid out as ``skopeo copy --sign-by`` lays it out."""

    def __init__(self, prefix: str = "/sigstore") -> None:
        super().__init__()
        self.prefix = prefix
        self.files: dict[str, bytes] = {}

    @property
    def base(self) -> str:
        """What ``lookaside`` is configured as."""
        return f"{self.url}{self.prefix}"

    def put(self, repository: str, digest: Digest, *signatures: bytes) -> None:
        """Have these signatures of an image, and no others."""
        folder = f"{self.prefix}/{repository}@{digest.algorithm}={digest.hex}/"
        self.files = {name: body for name, body in self.files.items() if not name.startswith(folder)}
        self.files |= {f"{folder}signature-{number}": body for number, body in enumerate(signatures, 1)}

    async def answer(self, seen: Seen) -> Answer:
        """The file, or 404."""
        body = self.files.get(seen.path)
        return Answer(404) if body is None else Answer(200, CIMultiDict({"Content-Type": "application/octet-stream"}), body)


def give_signature_api(registry: Registry, repository: str, digest: Digest, *signatures: bytes) -> None:
    """Let a registry have the signature API of OpenShift's, with these signatures of an image."""
    entries = [
        {
            "schemaVersion": 2,
            "name": f"{digest}@{number:032x}",
            "type": "atomic",
            "content": base64.b64encode(body).decode(),
        }
        for number, body in enumerate(signatures)
    ]
    body = json.dumps({"signatures": entries}).encode()

    async def greet(seen: Seen, following: Next) -> Answer:
        answer = await following()
        answer.headers["X-Registry-Supports-Signatures"] = "1"
        return answer

    async def listed(seen: Seen, following: Next) -> Answer:
        return Answer(200, CIMultiDict({"Content-Type": "application/json"}), body)

    registry.on(ping(), greet)
    registry.on(path(f"/extensions/v2/{repository}/signatures/{digest}"), listed)
