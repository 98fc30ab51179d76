"""Push what :mod:`tests.simulator.images` and :mod:`tests.simulator.signing` build to a real registry.

By the OCI distribution specification 1.1 ("Push"): POST then PUT for blobs, PUT for manifests, children before parents.
Where the registry has no referrers API (no ``OCI-Subject`` in its answer), :meth:`Pusher.refer` updates the fallback tag, as
every signing tool does.

::

    async with Pusher("http://127.0.0.1:5000") as pusher:
        image = await pusher.push("team/app", images.multi_arch("one"), "1.0")
        await pusher.sign("team/app", image.digest, alice)
"""

from __future__ import annotations

import io
import json
import ssl
from base64 import b64encode
from types import TracebackType
from typing import Any, Self

import aiohttp
from yarl import URL

from storage.digest import Digest
from tests.simulator import images, signing
from tests.simulator.images import Blob, Image, Json

_ACCEPT = {"Accept": ", ".join(images.MANIFEST_TYPES)}


class PushFailed(AssertionError):
    """The registry did not take what was pushed; the message holds its answer."""


class Pusher:
    """An async context manager over one registry, anonymous or with user name and password; ``tls`` is what it trusts."""

    def __init__(self, url: str, *, auth: tuple[str, str] | None = None, tls: ssl.SSLContext | None = None) -> None:
        self._url = URL(url)
        self._headers = {"Authorization": f"Basic {b64encode(':'.join(auth).encode()).decode()}"} if auth else {}
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = None if self._tls is None else aiohttp.TCPConnector(ssl=self._tls)
        timeout = aiohttp.ClientTimeout(total=60)
        self._session = aiohttp.ClientSession(headers=self._headers, connector=connector, timeout=timeout)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._session is not None:
            await self._session.close()

    async def _ask(self, method: str, url: URL, expected: tuple[int, ...], **options: Any) -> tuple[int, dict[str, str], bytes]:
        assert self._session is not None, "use the pusher as a context manager"
        async with self._session.request(method, url, **options) as answer:
            body = await answer.read()
            if answer.status not in expected:
                raise PushFailed(f"{method} {url} answered {answer.status}: {body[:500]!r}")
            return answer.status, {name.lower(): value for name, value in answer.headers.items()}, body

    def _at(self, path: str) -> URL:
        return self._url.join(URL(f"/v2/{path}", encoded=True))

    async def blob(self, repository: str, blob: Blob) -> None:
        """Upload a blob, unless the registry has it."""
        status, _, _ = await self._ask("HEAD", self._at(f"{repository}/blobs/{blob.digest}"), (200, 404))
        if status == 200:
            return
        _, headers, _ = await self._ask("POST", self._at(f"{repository}/blobs/uploads/"), (202,))
        where = self._url.join(URL(headers["location"], encoded=True)).update_query(digest=str(blob.digest))
        await self._ask("PUT", where, (201,), data=io.BytesIO(blob.data), headers={"Content-Type": "application/octet-stream"})

    async def push(self, repository: str, image: Image, tag: str | None = None) -> Image:
        """Upload an image with its blobs and children, under ``tag`` or by digest only."""
        for blob in image.blobs:
            await self.blob(repository, blob)
        for child in image.images:
            await self.push(repository, child)
        await self._manifest(repository, image, tag)
        return image

    async def _manifest(self, repository: str, image: Image, tag: str | None) -> dict[str, str]:
        where = self._at(f"{repository}/manifests/{tag or image.digest}")
        _, headers, _ = await self._ask("PUT", where, (201,), data=image.body, headers={"Content-Type": image.media_type})
        return headers

    async def tag(self, repository: str, tag: str, image: Image) -> None:
        """Let ``tag`` name an image that is there already: how a tag is overwritten."""
        await self._manifest(repository, image, tag)

    async def delete(self, repository: str, digest: Digest) -> None:
        """Delete a manifest (the registry must allow it)."""
        await self._ask("DELETE", self._at(f"{repository}/manifests/{digest}"), (202,))

    async def get(self, repository: str, reference: str) -> tuple[str, bytes] | None:
        """Media type and bytes of a manifest; None when it is not there."""
        where = self._at(f"{repository}/manifests/{reference}")
        status, headers, body = await self._ask("GET", where, (200, 404), headers=_ACCEPT)
        return (headers["content-type"], body) if status == 200 else None

    async def sign(
        self,
        repository: str,
        digest: Digest,
        signer: signing.Signer,
        fault: signing.CosignFault | None = None,
        *,
        reference: str = "registry.test/repository",
    ) -> Image:
        """Add a cosign v2 signature to the signature tag, beside those already there."""
        tag = signing.signature_tag(digest)
        earlier: tuple[signing.CosignSignature, ...] = ()
        if (found := await self.get(repository, tag)) is not None:
            named = [Digest.parse(each["digest"]) for each in json.loads(found[1])["layers"]]
            earlier = signing.signatures_of(found[1], {each: await self._download(repository, each) for each in named})
        signature = signing.cosign_signature(signer, digest, fault=fault, reference=reference)
        return await self.push(repository, signing.signature_manifest([*earlier, signature]), tag)

    async def attach(
        self, repository: str, image: Image, signer: signing.Signer, fault: signing.BundleFault | None = None, **more: Any
    ) -> Image:
        """Add a Sigstore bundle as a referrer of ``image``."""
        return await self.refer(repository, signing.bundle_referrer(signer, image, fault=fault, **more))

    async def refer(self, repository: str, referrer: Image) -> Image:
        """Upload a referrer; where the registry does not keep track of subjects, add it to the fallback tag."""
        for blob in referrer.blobs:
            await self.blob(repository, blob)
        headers = await self._manifest(repository, referrer, None)
        if "oci-subject" not in headers:
            tag = images.referrers_tag(Digest.parse(referrer.manifest["subject"]["digest"]))
            found = await self.get(repository, tag)
            listed: list[Json] = json.loads(found[1])["manifests"] if found else []
            await self.push(repository, images.referrers_index([*listed, images.referrers_entry(referrer)]), tag)
        return referrer

    async def _download(self, repository: str, digest: Digest) -> bytes:
        _, _, body = await self._ask("GET", self._at(f"{repository}/blobs/{digest}"), (200,))
        return body
