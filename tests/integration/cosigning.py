"""Signatures that skopeo writes: ``skopeo copy --sign-by-sigstore-private-key`` with a key file as cosign makes them.

Debian 12 builds skopeo without the signing itself ("Debian-local change: sigstore disabled"; Debian 13 has it). There the
signature over the payload is made here, handed to skopeo in a ``dir:`` image, and skopeo writes it into the registry
as it writes its own: tag, manifest, config and annotations are skopeo's either way.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.poly1305 import Poly1305

from storage.digest import Digest
from tests.integration.processes import DockerRegistry
from tests.simulator import signing
from tests.simulator.images import Image
from tests.simulator.signing import Signer
from tests.tools import PATIENCE, need

_PASSPHRASE = b"open sesame"
_DISABLED = "sigstore disabled"

#: Which of an index's manifests are copied, and so signed: all of them and the index itself, or the one for this machine.
MultiArch = Literal["all", "system"]


class SkopeoSigner:
    """Copies images into a registry with skopeo, signing what it copies."""

    def __init__(self, folder: Path, registry: DockerRegistry, signer: Signer) -> None:
        self.signer = signer
        self._folder = folder
        self._registry = registry
        self._skopeo = need("skopeo")
        #: whether this skopeo signs; None until it was tried
        self.signs: bool | None = None
        registries = folder / "registries.d"
        registries.mkdir(parents=True)
        (registries / "attachments.yaml").write_text(f'docker: {{"{registry.host}": {{use-sigstore-attachments: true}}}}\n')
        (folder / "cosign.key").write_bytes(encrypted_key(signer, _PASSPHRASE))
        (folder / "passphrase").write_bytes(_PASSPHRASE)

    def push(self, image: Image, repository: str, tag: str, multi_arch: MultiArch = "all") -> Image:
        """Copy an index into the registry under ``tag``, signed; what is under the tag then."""
        layout = self._folder / "dir"
        write_dir(layout, image)
        try:
            done = self._copy(layout, repository, tag, multi_arch, sign=self.signs is not False)
            if self.signs is None:
                self.signs = _DISABLED not in done.stderr
            if not self.signs:
                self._sign(layout, image, f"{self._registry.host}/{repository}:{tag}", multi_arch)
                done = self._copy(layout, repository, tag, multi_arch, sign=False)
            assert done.returncode == 0, done.stderr
        finally:
            shutil.rmtree(layout)
        return image

    def _copy(
        self, layout: Path, repository: str, tag: str, multi_arch: MultiArch, *, sign: bool
    ) -> subprocess.CompletedProcess[str]:
        destination = f"docker://{self._registry.host}/{repository}:{tag}"
        options: tuple[str, ...] = ("--all",) if multi_arch == "all" else ()
        if sign:
            options += ("--sign-by-sigstore-private-key", "cosign.key", "--sign-passphrase-file", "passphrase")
        return subprocess.run(
            (
                *(self._skopeo, "--insecure-policy", "--registries.d", "registries.d", "copy", "--preserve-digests"),
                *(*options, "--dest-tls-verify=false", f"dir:{layout}", destination),
            ),
            capture_output=True,
            text=True,
            cwd=self._folder,
            timeout=PATIENCE,
            check=False,
        )

    def _sign(self, layout: Path, image: Image, reference: str, multi_arch: MultiArch) -> None:
        signed = [] if multi_arch == "system" else [("signature-1", image.digest)]
        for name, digest in [*signed, *((f"{child.digest.hex}.signature-1", child.digest) for child in image.images)]:
            (layout / name).write_bytes(_attachment(self.signer, digest, reference))


def _attachment(signer: Signer, digest: Digest, reference: str) -> bytes:
    """A signature as containers/image keeps it in a file: a marker, then mediaType, payload and annotations as JSON."""
    made = signing.cosign_signature(signer, digest, reference=reference)
    payload = base64.b64encode(made.blob.data).decode()
    document = {"mimeType": made.blob.media_type, "payload": payload, "annotations": dict(made.annotations)}
    return b"\0sigstore-json\n" + json.dumps(document).encode()


def write_dir(folder: Path, image: Image) -> None:
    """Write an index in the ``dir:`` layout of containers/image."""
    folder.mkdir()
    (folder / "version").write_text("Directory Transport Version: 1.1\n")
    (folder / "manifest.json").write_bytes(image.body)
    for child in image.images:
        (folder / f"{child.digest.hex}.manifest.json").write_bytes(child.body)
        for blob in child.blobs:
            (folder / blob.digest.hex).write_bytes(blob.data)


# -- cosign's key files ------------------------------------------------------------------------------------------------


def encrypted_key(signer: Signer, passphrase: bytes) -> bytes:
    """A private key as ``cosign generate-key-pair`` writes it: PKCS#8 in a secretbox whose key is made by scrypt."""
    cost = {"N": 32768, "r": 8, "p": 1}
    salt, nonce = os.urandom(32), os.urandom(24)
    key = hashlib.scrypt(passphrase, salt=salt, n=cost["N"], r=cost["r"], p=cost["p"], maxmem=64 << 20, dklen=32)
    plain = signer.private.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    document = {
        "kdf": {"name": "scrypt", "params": cost, "salt": base64.b64encode(salt).decode()},
        "cipher": {"name": "nacl/secretbox", "nonce": base64.b64encode(nonce).decode()},
        "ciphertext": base64.b64encode(secretbox(key, nonce, plain)).decode(),
    }
    kind = b"ENCRYPTED COSIGN PRIVATE KEY"
    return b"-----BEGIN %b-----\n%b-----END %b-----\n" % (kind, base64.encodebytes(json.dumps(document).encode()), kind)


def secretbox(key: bytes, nonce: bytes, message: bytes) -> bytes:
    """NaCl's ``crypto_secretbox_xsalsa20poly1305``: 32 bytes of key, 24 of nonce. For tests: slow, and not in constant time."""
    stream = _xsalsa20(key, nonce, 32 + len(message))
    sealed = bytes(one ^ other for one, other in zip(message, stream[32:], strict=True))
    return Poly1305.generate_tag(stream[:32], sealed) + sealed


_WORD = 0xFFFFFFFF
_CONSTANTS = struct.unpack("<4I", b"expand 32-byte k")
_COLUMNS = ((0, 4, 8, 12), (5, 9, 13, 1), (10, 14, 2, 6), (15, 3, 7, 11))
_ROWS = ((0, 1, 2, 3), (5, 6, 7, 4), (10, 11, 8, 9), (15, 12, 13, 14))


def _xsalsa20(key: bytes, nonce: bytes, length: int) -> bytes:
    mixed = _rounds(_state(key, nonce[:16]))
    subkey = struct.pack("<8I", *(mixed[at] for at in (0, 5, 10, 15, 6, 7, 8, 9)))
    stream = bytearray()
    for block in range(-(-length // 64)):
        state = _state(subkey, nonce[16:] + struct.pack("<Q", block))
        words = (one + other & _WORD for one, other in zip(state, _rounds(state), strict=True))
        stream += struct.pack("<16I", *words)
    return bytes(stream[:length])


def _state(key: bytes, block: bytes) -> tuple[int, ...]:
    k, c = struct.unpack("<8I", key), _CONSTANTS
    return (c[0], *k[:4], c[1], *struct.unpack("<4I", block), c[2], *k[4:], c[3])


def _rounds(state: tuple[int, ...]) -> list[int]:
    """Salsa20's 20 rounds, without the addition at their end."""
    x = list(state)
    for _ in range(10):
        for a, b, c, d in (*_COLUMNS, *_ROWS):
            for target, one, other, by in ((b, a, d, 7), (c, b, a, 9), (d, c, b, 13), (a, d, c, 18)):
                total = x[one] + x[other] & _WORD
                x[target] ^= (total << by | total >> (32 - by)) & _WORD
    return x
