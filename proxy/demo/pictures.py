"""Images and signatures for the demonstration: small, and real in every respect that is checked."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from storage.digest import Digest
from storage.reference import Repository

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
_SIGNATURE = "dev.cosignproject.cosign/signature"


class Publisher:
    """Somebody who signs, with a key of their own."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())

    @property
    def public_pem(self) -> bytes:
        """What goes into the trust of whoever believes them."""
        return self._key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    def sign(self, message: bytes) -> bytes:
        """ECDSA over SHA-256, as cosign does with managed keys."""
        return self._key.sign(message, ec.ECDSA(hashes.SHA256()))


@dataclass(frozen=True, slots=True)
class Picture:
    """An image: its manifest, and what that names."""

    body: bytes
    blobs: tuple[bytes, ...]  #: the config, then the layers

    @property
    def digest(self) -> Digest:
        """Of the manifest."""
        return Digest.of(self.body)


def image(version: str, *, created: str, files: dict[str, str], entrypoint: str = "/app", user: str = "1000") -> Picture:
    """An image of a base layer and one with ``files``. Equal arguments make equal bytes."""
    layers = [_layer({"etc/os-release": "ID=demo\n"}), _layer(files)]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": created,
        "config": {"Entrypoint": [entrypoint], "User": user, "Labels": {"org.opencontainers.image.version": version}},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(raw).hexdigest()}" for raw, _ in layers]},
        "history": [{"created": created, "created_by": "base"}, {"created": created, "created_by": f"COPY app {version}"}],
    }
    blobs = (_json(config), *(packed for _, packed in layers))
    return Picture(_manifest(blobs, _CONFIG, _LAYER), blobs)


def signature(repository: Repository, digest: Digest, publisher: Publisher) -> Picture:
    """A cosign signature (v2): a manifest whose layer is the signed statement, to be put under :func:`signature_tag`."""
    statement = {
        "critical": {
            "identity": {"docker-reference": str(repository)},
            "image": {"docker-manifest-digest": str(digest)},
            "type": "cosign container image signature",
        },
        "optional": None,
    }
    payload = _json(statement)
    config = _json(
        {"architecture": "", "os": "", "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(payload))]}, "config": {}}
    )
    signed = {_SIGNATURE: base64.b64encode(publisher.sign(payload)).decode()}
    return Picture(_manifest((config, payload), _CONFIG, _SIMPLE_SIGNING, signed), (config, payload))


def signature_tag(digest: Digest) -> str:
    """Where cosign v2 looks for signatures of a digest."""
    return f"{digest.algorithm}-{digest.hex}.sig"


def _manifest(blobs: tuple[bytes, ...], config: str, layer: str, annotations: dict[str, str] | None = None) -> bytes:
    more = {} if annotations is None else {"annotations": annotations}
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _descriptor(blobs[0], config),
        "layers": [_descriptor(blob, layer) | more for blob in blobs[1:]],
    }
    return _json(document)


def _descriptor(data: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": str(Digest.of(data)), "size": len(data)}


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _layer(files: dict[str, str]) -> tuple[bytes, bytes]:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for name, text in files.items():
            data = text.encode()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o755
            archive.addfile(entry, io.BytesIO(data))
    return raw.getvalue(), gzip.compress(raw.getvalue(), mtime=0)
