"""The signing that the other tests of this folder rely on."""

from __future__ import annotations

import base64
import hashlib
import json

from tests.integration.cosigning import encrypted_key, secretbox
from tests.simulator.signing import Signer

# The example that NaCl itself is tested with (tests/secretbox.c).
_KEY = "1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389"
_NONCE = "69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37"
_MESSAGE = (
    "be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffce5ecbaaf33bd751a1ac728d45e6c61296cdc3c01233561f41db66cce"
    "314adb310e3be8250c46f06dceea3a7fa1348057e2f6556ad6b1318a024a838f21af1fde048977eb48f59ffd4924ca1c60902e52f0a089bc76897040"
    "e082f937763848645e0705"
)
_BOX = (
    "f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce48332ea7164d96a4476fb8c531a1186ac0dfc17c98dce87b4da7f011"
    "ec48c97271d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8ab932164548e526ae90224368517acfeabd6bb3732bc0e9da99832b61ca01b6de"
    "56244a9e88d5f9b37973f622a43d14a6599b1f654cb45a74e355a5"
)


def test_the_secretbox_is_that_of_nacl() -> None:
    """The published example comes out byte for byte."""
    assert secretbox(bytes.fromhex(_KEY), bytes.fromhex(_NONCE), bytes.fromhex(_MESSAGE)).hex() == _BOX


def test_the_key_file_is_as_cosign_writes_it() -> None:
    """PEM around JSON that names scrypt and its cost; the box opens to nothing but what the passphrase sealed."""
    pem = encrypted_key(Signer.of("p256", "release"), b"word").decode().splitlines()
    assert pem[0] == "-----BEGIN ENCRYPTED COSIGN PRIVATE KEY-----"
    assert pem[-1] == "-----END ENCRYPTED COSIGN PRIVATE KEY-----"
    document = json.loads(base64.b64decode("".join(pem[1:-1])))
    assert document["kdf"]["params"] == {"N": 32768, "r": 8, "p": 1}
    salt = base64.b64decode(document["kdf"]["salt"])
    nonce, box = (base64.b64decode(text) for text in (document["cipher"]["nonce"], document["ciphertext"]))
    key = hashlib.scrypt(b"word", salt=salt, n=32768, r=8, p=1, maxmem=64 << 20, dklen=32)
    stream = secretbox(key, nonce, bytes(len(box) - 16))[16:]
    opened = bytes(one ^ other for one, other in zip(box[16:], stream, strict=True))
    assert secretbox(key, nonce, opened) == box
    assert opened.startswith(b"\x30\x81")  # a DER sequence: PKCS#8
