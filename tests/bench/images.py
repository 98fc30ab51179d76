"""What is pulled: images of chosen sizes, pushed to the upstream by the registry API, and cosign signatures over them."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_SIGNATURE_LAYER = "application/vnd.dev.cosign.simplesigning.v1+json"
_PIECE = 1 << 20


def digest_of(data: bytes) -> str:
    """``sha256:<hex>`` of ``data``."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Blob:
    """One blob of the upstream."""

    digest: str
    size: int

    def descriptor(self, media_type: str, **annotations: str) -> dict[str, Any]:
        """The OCI descriptor of this blob."""
        descriptor: dict[str, Any] = {"mediaType": media_type, "digest": self.digest, "size": self.size}
        return {**descriptor, "annotations": annotations} if annotations else descriptor


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
        self._key = ec.generate_private_key(ec.SECP256R1())

    def public_key(self) -> bytes:
        """PEM of the key that signs."""
        return self._key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    def image(self, repository: str, tag: str, layer_sizes: tuple[int, ...], *, signed: bool) -> Image:
        """Make and push an image with layers of these sizes, filled with random bytes."""
        layers = tuple(self._random_blob(repository, size) for size in layer_sizes)
        config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [b.digest for b in layers]}}
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self._blob(repository, json.dumps(config).encode()).descriptor(_CONFIG),
            "layers": [layer.descriptor(_LAYER) for layer in layers],
        }
        digest = self._manifest(repository, tag, manifest)
        if signed:
            self._sign(repository, digest)
        return Image(repository, tag, digest, layers)

    def _sign(self, repository: str, digest: str) -> None:
        statement = {
            "critical": {
                "identity": {"docker-reference": f"reg.example/{repository}"},
                "image": {"docker-manifest-digest": digest},
                "type": "cosign container image signature",
            },
            "optional": None,
        }
        payload = json.dumps(statement).encode()
        signature = base64.b64encode(self._key.sign(payload, ec.ECDSA(hashes.SHA256()))).decode()
        layer = self._blob(repository, payload)
        config = {"architecture": "", "os": "", "config": {}, "rootfs": {"type": "layers", "diff_ids": [layer.digest]}}
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self._blob(repository, json.dumps(config).encode()).descriptor(_CONFIG),
            "layers": [layer.descriptor(_SIGNATURE_LAYER, **{"dev.cosignproject.cosign/signature": signature})],
        }
        self._manifest(repository, digest.replace(":", "-") + ".sig", manifest)

    def _manifest(self, repository: str, tag: str, manifest: dict[str, Any]) -> str:
        body = json.dumps(manifest).encode()
        file = self._files / "v2" / repository / "manifests" / tag
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(body)
        self._exchange("PUT", f"/v2/{repository}/manifests/{tag}", file, MANIFEST)
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
