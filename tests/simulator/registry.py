"""The simulated registry: honest by itself, dishonest where told.

::

    async with Registry() as registry:
        image = registry.image("team/app", "1.0", layers=2)
        registry.on(when.blob("GET"), cut(500), times=1)        # see tests.simulator.behaviours
        ...
        assert registry.count("GET", "/blobs/") == 2

It keeps repositories, tags, manifests and blobs in memory and speaks the pull side of the OCI distribution specification 1.1:
manifests and blobs by GET and HEAD, Range, ``tags/list`` with ``n``, ``last`` and Link, the referrers API with the
``artifactType`` filter. What it serves can be changed under the client's feet (:meth:`Registry.tag`, :meth:`Registry.delete`,
:meth:`Registry.forge`). Everything else that real upstreams do is a fault on top (:mod:`tests.simulator.behaviours`), and
whole upstreams are faults by the bundle (:mod:`tests.simulator.profiles`).
"""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import quote

from multidict import CIMultiDict

from storage.digest import Digest
from storage.errors import MalformedName
from storage.records import Descriptor
from tests.simulator import images, signing
from tests.simulator.images import Blob, Family, Image, Json
from tests.simulator.server import Answer, Seen, Site

MAX_TAGS = 1000  #: what ``n`` is clamped to
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass(slots=True)
class _Repository:
    tags: dict[str, Digest] = field(default_factory=dict)
    manifests: dict[Digest, tuple[str, bytes]] = field(default_factory=dict)
    blobs: dict[Digest, bytes] = field(default_factory=dict)


def error(status: int, code: str, message: str, detail: Any = None) -> Answer:
    """An answer with the specification's error body."""
    body = json.dumps({"errors": [{"code": code, "message": message, "detail": detail}]}).encode()
    return Answer(status, CIMultiDict({"Content-Type": "application/json"}), body)


class Registry(Site):
    """A registry on a free port of a loopback address."""

    def __init__(self, *, address: str = "127.0.0.1", tls: ssl.SSLContext | None = None, referrers_api: bool = True) -> None:
        super().__init__(address=address, tls=tls)
        self.referrers_api = referrers_api  #: without it, 404, and :meth:`refer` keeps the fallback tag up to date
        self._repositories: dict[str, _Repository] = {}

    # -- filling it ------------------------------------------------------------------------------------------------

    def _at(self, repository: str) -> _Repository:
        return self._repositories.setdefault(repository, _Repository())

    def add(self, repository: str, image: Image, tag: str | None = None) -> Image:
        """Put an image in, with its blobs and children, and tag it."""
        for blob in image.blobs:
            self._at(repository).blobs[blob.digest] = blob.data
        for child in image.images:
            self.add(repository, child)
        self._at(repository).manifests[image.digest] = (image.media_type, image.body)
        if tag is not None:
            self.tag(repository, tag, image.digest)
        return image

    def blob(self, repository: str, data: bytes, media_type: str = "application/octet-stream") -> Descriptor:
        """Put a blob in."""
        blob = Blob(media_type, data)
        self._at(repository).blobs[blob.digest] = data
        return blob.descriptor

    def image(
        self,
        repository: str,
        tag: str | None = None,
        *,
        seed: str = "x",
        layers: int = 1,
        layer_size: int = 1000,
        media: Family = "oci",
        platform: str = "linux/amd64",
    ) -> Image:
        """Build an image and put it in (:func:`tests.simulator.images.image`)."""
        built = images.image(seed, layers=layers, layer_size=layer_size, media=media, platform=platform)
        return self.add(repository, built, tag)

    def index(
        self,
        repository: str,
        tag: str | None = None,
        *,
        images: Sequence[Image],
        media: Family = "oci",
        entries: Sequence[Json] = (),
        **fields: Any,
    ) -> Image:
        """Build an index of ``images`` and put it in with them (:func:`tests.simulator.images.index`)."""
        return self.add(repository, _index(images, media=media, entries=entries, **fields), tag)

    def manifest(self, repository: str, body: bytes, media_type: str = images.OCI_MANIFEST, tag: str | None = None) -> Digest:
        """Put any bytes in as a manifest."""
        return self.add(repository, Image(media_type, body), tag).digest

    def tag(self, repository: str, tag: str, digest: Digest) -> None:
        """Let ``tag`` name ``digest``, whatever it named before: this is how a tag is overwritten."""
        self._at(repository).tags[tag] = digest

    def untag(self, repository: str, tag: str) -> None:
        """Remove a tag; its manifest stays."""
        del self._at(repository).tags[tag]

    def delete(self, repository: str, digest: Digest) -> None:
        """Remove a manifest with the tags that name it, or a blob."""
        content = self._at(repository)
        content.tags = {tag: named for tag, named in content.tags.items() if named != digest}
        if content.manifests.pop(digest, None) is None:
            del content.blobs[digest]

    def forge(self, repository: str, digest: Digest, data: bytes) -> None:
        """Keep other bytes under ``digest`` from now on: a registry that lies, or whose storage rotted."""
        content = self._at(repository)
        if digest in content.manifests:
            content.manifests[digest] = (content.manifests[digest][0], data)
        else:
            content.blobs[digest] = data

    def refer(self, repository: str, referrer: Image) -> Image:
        """Put a referrer in (a manifest with a ``subject``); without the API its fallback tag is updated, as clients do."""
        self.add(repository, referrer)
        if not self.referrers_api:
            subject = Digest.parse(referrer.manifest["subject"]["digest"])
            listed = [images.referrers_entry(each) for each in self.referrers(repository, subject)]
            self.add(repository, images.referrers_index(listed), images.referrers_tag(subject))
        return referrer

    def sign(
        self, repository: str, digest: Digest, signer: signing.Signer, fault: signing.CosignFault | None = None, **more: Any
    ) -> Image:
        """Add a cosign v2 signature to the tag ``sha256-<hex>.sig``, beside those already there, as cosign does."""
        tag = signing.signature_tag(digest)
        signature = signing.cosign_signature(signer, digest, fault=fault, **more)
        before = self._at(repository).tags.get(tag)
        earlier: tuple[signing.CosignSignature, ...] = ()
        if before is not None:
            earlier = signing.signatures_of(self._at(repository).manifests[before][1], self._at(repository).blobs)
        return self.add(repository, signing.signature_manifest([*earlier, signature]), tag)

    def attach(
        self, repository: str, image: Image, signer: signing.Signer, fault: signing.BundleFault | None = None, **more: Any
    ) -> Image:
        """Add a Sigstore bundle as a referrer of ``image`` (:func:`tests.simulator.signing.bundle_referrer`)."""
        return self.refer(repository, signing.bundle_referrer(signer, image, fault=fault, **more))

    # -- looking into it -------------------------------------------------------------------------------------------

    def tags(self, repository: str) -> Mapping[str, Digest]:
        """Tag → digest, now."""
        return dict(self._at(repository).tags)

    def stored(self, repository: str, digest: Digest) -> bytes | None:
        """The bytes kept under ``digest``: a blob's or a manifest's."""
        content = self._at(repository)
        found = content.manifests.get(digest)
        return found[1] if found is not None else content.blobs.get(digest)

    def referrers(self, repository: str, subject: Digest) -> list[Image]:
        """The manifests whose ``subject`` is this digest."""
        found = []
        for media_type, body in self._at(repository).manifests.values():
            try:
                named = json.loads(body).get("subject", {}).get("digest")
            except (ValueError, AttributeError):
                continue  # raw bytes that are no manifest refer to nothing
            if named == str(subject):
                found.append(Image(media_type, body))
        return found

    # -- the honest answers ----------------------------------------------------------------------------------------

    async def answer(self, seen: Seen) -> Answer:
        """What a registry that follows the specification says."""
        if seen.method not in ("GET", "HEAD"):
            return error(405, "UNSUPPORTED", "this registry is read-only")
        match seen.kind:
            case "ping":
                answer = Answer(200, CIMultiDict({"Content-Type": "application/json"}), b"{}")
            case "manifest":
                answer = self._manifest(seen)
            case "blob":
                answer = self._blob(seen)
            case "tags":
                answer = self._tags(seen)
            case "referrers":
                answer = self._referrers(seen)
            case _:
                answer = error(404, "NOT_FOUND", "no such page")
        answer.headers.setdefault("Docker-Distribution-Api-Version", "registry/2.0")
        return answer

    def _manifest(self, seen: Seen) -> Answer:
        content = self._repositories.get(seen.repository)
        if content is None:
            return error(404, "NAME_UNKNOWN", "repository name not known to registry", {"name": seen.repository})
        digest = content.tags.get(seen.reference) or _digest(seen.reference)
        found = content.manifests.get(digest) if digest is not None else None
        if digest is None or found is None:
            return error(404, "MANIFEST_UNKNOWN", "manifest unknown", {"Tag": seen.reference})
        headers = CIMultiDict({"Content-Type": found[0], "Docker-Content-Digest": str(digest), "ETag": f'"{digest}"'})
        headers["Content-Length"] = str(len(found[1]))
        headers["Date"] = format_datetime(datetime.now(UTC), usegmt=True)
        return Answer(200, headers, found[1])

    def _blob(self, seen: Seen) -> Answer:
        content = self._repositories.get(seen.repository)
        digest = _digest(seen.reference)
        data = content.blobs.get(digest) if content is not None and digest is not None else None
        if data is None:
            return error(404, "BLOB_UNKNOWN", "blob unknown to registry", {"digest": seen.reference})
        return blob_answer(seen, data, {"Docker-Content-Digest": seen.reference})

    def _tags(self, seen: Seen) -> Answer:
        content = self._repositories.get(seen.repository)
        if content is None:
            return error(404, "NAME_UNKNOWN", "repository name not known to registry", {"name": seen.repository})
        number = min(int(seen.query.get("n", MAX_TAGS)), MAX_TAGS)
        left = [tag for tag in sorted(content.tags) if tag > seen.query.get("last", "")]
        headers = CIMultiDict({"Content-Type": "application/json"})
        if len(left) > number > 0:
            target = f"/v2/{seen.repository}/tags/list?n={number}&last={quote(left[number - 1], safe='')}"
            headers["Link"] = f'<{target}>; rel="next"'
        return Answer(200, headers, json.dumps({"name": seen.repository, "tags": left[:number]}).encode())

    def _referrers(self, seen: Seen) -> Answer:
        digest = _digest(seen.reference)
        if not self.referrers_api or digest is None:
            return error(404, "NOT_FOUND", "page not found")
        entries = [images.referrers_entry(each) for each in self.referrers(seen.repository, digest)]
        headers = CIMultiDict({"Content-Type": images.OCI_INDEX})
        if wanted := seen.query.get("artifactType"):
            entries = [each for each in entries if each.get("artifactType") == wanted]
            headers["OCI-Filters-Applied"] = "artifactType"
        return Answer(200, headers, images.referrers_index(entries).body)


_index = images.index  # Registry.index takes a keyword of the module's name


def _digest(text: str) -> Digest | None:
    try:
        return Digest.parse(text)
    except MalformedName:
        return None


def blob_answer(seen: Seen, data: bytes, headers: Mapping[str, str] | None = None) -> Answer:
    """The bytes of a blob, whole or the range that was asked for (RFC 9110, section 14; one range, as ``bytes=a-[b]``)."""
    base = CIMultiDict({"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"} | dict(headers or {}))
    found = _RANGE.fullmatch(seen.headers.get("Range", ""))
    if found is None:
        base["Content-Length"] = str(len(data))
        return Answer(200, base, data)
    first, last = int(found[1]), min(int(found[2] or len(data)), len(data) - 1)
    if first >= len(data) or last < first:
        base["Content-Range"] = f"bytes */{len(data)}"
        return Answer(416, base)
    base["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
    base["Content-Length"] = str(last + 1 - first)
    return Answer(206, base, data[first : last + 1])
