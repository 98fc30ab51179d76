"""Kinds of keys, and the schemes by which signatures of each are accepted."""

from __future__ import annotations

from typing import Literal

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, rsa

from proxy.verify.keys import holds, spki, supported
from tests.simulator.signing import KEY_KINDS, KeyKind, Signer

MESSAGE = b"message"


@pytest.mark.parametrize("kind", KEY_KINDS)
def test_every_kind(kind: KeyKind) -> None:
    """A signature holds over its message, by its key, and no other way."""
    signer = Signer.of(kind)
    key = supported(signer.private.public_key())
    signature = signer.sign(MESSAGE)
    assert holds(key, signature, MESSAGE)
    assert not holds(key, signature, b"another")
    assert not holds(supported(Signer.of(kind, "another").private.public_key()), signature, MESSAGE)
    assert not holds(key, signature[:-1], MESSAGE)
    assert not holds(key, b"", MESSAGE)
    assert not holds(key, b"0" * 100_000, MESSAGE)
    assert spki(key) == signer.spki


@pytest.mark.parametrize(
    ("kind", "hashed", "held"),
    [
        ("p256", "sha256", True),
        ("p256", "sha384", False),
        ("p384", "sha256", True),
        ("p384", "sha384", True),
        ("p384", "sha512", False),
        ("p521", "sha256", True),
        ("p521", "sha384", False),
        ("p521", "sha512", True),
        ("rsa2048", "sha256", True),
        ("rsa2048", "sha512", False),
    ],
)
def test_hashes(kind: KeyKind, hashed: Literal["sha256", "sha384", "sha512"], held: bool) -> None:
    """SHA-256, or the curve's own."""
    signer = Signer.of(kind)
    assert holds(supported(signer.private.public_key()), signer.sign(MESSAGE, hashed), MESSAGE) is held


def test_another_padding() -> None:
    """RSA is PKCS#1 v1.5 here, as cosign writes it."""
    private = Signer.of("rsa2048").private
    assert isinstance(private, rsa.RSAPrivateKey)
    signature = private.sign(MESSAGE, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
    assert not holds(private.public_key(), signature, MESSAGE)


@pytest.mark.parametrize(
    ("key", "told"),
    [
        (ec.generate_private_key(ec.SECP256K1()).public_key(), "a key on the curve secp256k1"),
        (ec.generate_private_key(ec.SECP224R1()).public_key(), "a key on the curve secp224r1"),
        (rsa.generate_private_key(65537, 1024).public_key(), "an RSA key of 1024 bits"),
        (rsa.RSAPublicNumbers(65537, (1 << 16384) + 1).public_key(), "an RSA key of 16385 bits"),
        (ed448.Ed448PrivateKey.generate().public_key(), "a key of another kind"),
        (dsa.generate_private_key(1024).public_key(), "a key of another kind"),
        (ed25519.Ed25519PrivateKey.generate(), "a key of another kind"),
    ],
)
def test_keys_that_are_not_taken(key: object, told: str) -> None:
    """Too weak, too large, or of no kind that is known here; the reason says what is."""
    with pytest.raises(ValueError, match=f"{told}.*; supported are ECDSA on P-256"):
        supported(key)
