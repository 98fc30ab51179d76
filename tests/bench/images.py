"""What is pulled: images of chosen sizes, pushed to the upstream by the registry API, and cosign signatures over them.

Layers go through files, a piece at a time: hundreds of megabytes never stand in memory at once.
"""

from __future__ import annotations

import hashlib
import http.client
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from storage.digest import Digest
from tests.simulator import images, signing
from tests.simulator.signing import Signer

_LAYER = "application/vnd.oci.image.layer.v1.tar"
_PIECE = 1 << 20


def digest_of(data: bytes) -> str:
    """``sha256:<hex>`` of ``data``."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Blob:
    """One blob of the upstream."""

    digest: str
    size: int

    def descriptor(self, media_type: str) -> images.Json:
        """The OCI descriptor of this blob."""
        return {"mediaType": media_type, "digest": self.digest, "size": self.size}


@dataclass(frozen=True, slots=True)
class Image:
    """One image of the upstream, under one tag."""

    repository: str
    tag: str
    digest: str
    layers: tuple[Blob, ...]


class Publisher:
    """Pushes to the upstream, and lays the same bytes out as files for nginx."""

    def __init__(self, port: int, files: Path) -> None:
        """``port``: the upstream on 127.0.0.1; ``files``: root of the static copy."""
        self._port = port
        self._files = files
        self._signer = Signer.of("p256", "bench")

    @property
    def public_key(self) -> bytes:
        """PEM of the key that signs."""
        return self._signer.public_pem

    def image(self, repository: str, tag: str, layer_sizes: tuple[int, ...], *, signed: bool) -> Image:
        """Make and push an image with layers of these sizes, filled with random bytes."""
        layers = tuple(self._random_blob(repository, size) for size in layer_sizes)
        config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [b.digest for b in layers]}}
        manifest = {
            "schemaVersion": 2,
            "mediaType": images.OCI_MANIFEST,
            "config": self._blob(repository, images.encode(config)).descriptor(images.OCI_CONFIG),
            "layers": [layer.descriptor(_LAYER) for layer in layers],
        }
        digest = self._manifest(repository, tag, images.encode(manifest))
        if signed:
            self._sign(repository, digest)
        return Image(repository, tag, digest, layers)

    def _sign(self, repository: str, digest: str) -> None:
        signed = Digest.parse(digest)
        signature = signing.signature_manifest([signing.cosign_signature(self._signer, signed)])
        for blob in signature.blobs:
            self._blob(repository, blob.data)
        self._manifest(repository, signing.signature_tag(signed), signature.body)

    def _manifest(self, repository: str, tag: str, body: bytes) -> str:
        file = self._files / "v2" / repository / "manifests" / tag
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(body)
        self._exchange("PUT", f"/v2/{repository}/manifests/{tag}", file, images.OCI_MANIFEST)
        return digest_of(body)

    def _blob(self, repository: str, data: bytes) -> Blob:
        blob = Blob(digest_of(data), len(data))
        file = self._blob_file(repository, blob.digest)
        file.write_bytes(data)
        self._upload(repository, blob, file)
        return blob

    def _random_blob(self, repository: str, size: int) -> Blob:
        hasher = hashlib.sha256()
        file = self._blob_file(repository, "growing")
        with file.open("wb") as growing:
            for start in range(0, size, _PIECE):
                piece = os.urandom(min(_PIECE, size - start))
                hasher.update(piece)
                growing.write(piece)
        blob = Blob(f"sha256:{hasher.hexdigest()}", size)
        self._upload(repository, blob, file.rename(self._blob_file(repository, blob.digest)))
        return blob

    def _blob_file(self, repository: str, name: str) -> Path:
        file = self._files / "v2" / repository / "blobs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        return file

    def _upload(self, repository: str, blob: Blob, file: Path) -> None:
        location = urlsplit(self._exchange("POST", f"/v2/{repository}/blobs/uploads/"))
        self._exchange("PUT", f"{location.path}?{location.query}&digest={blob.digest}", file, "application/octet-stream")

    def _exchange(self, method: str, path: str, file: Path | None = None, media_type: str = "") -> str:
        """One request to the upstream; returns the Location of its answer. Anything but 201 and 202 ends the benchmark."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        try:
            if file is None:
                connection.request(method, path)
            else:
                with file.open("rb") as body:
                    headers = {"Content-Type": media_type, "Content-Length": str(file.stat().st_size)}
                    connection.request(method, path, body, headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status not in (201, 202):
                raise RuntimeError(f"the upstream answered {answer.status} to {method} {path}: {text[:300]!r}")
            return answer.getheader("Location", "")
        finally:
            connection.close()
