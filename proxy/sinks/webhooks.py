"""Signatures of Standard Webhooks 1.0.0 ("Signature scheme", "Webhook headers"): HMAC-SHA256 and Ed25519.

Secrets are written ``whsec_`` (base64, 24 to 64 bytes) and ``whsk_`` (base64, the 32 bytes of an Ed25519 private key). While they
are rotated there are several: every message carries a signature by each.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_SYMMETRIC, _ASYMMETRIC = "whsec_", "whsk_"
#: Most secrets at a time: an old one, a new one, and both kinds while one is changed for the other.
MOST = 4


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs by one secret. ``version`` is the identifier of the scheme, ``v1`` or ``v1a``."""

    version: str
    _sign: Callable[[bytes], bytes] = field(repr=False)

    def sign(self, signed: bytes) -> str:
        """One entry of ``webhook-signature``."""
        return f"{self.version},{base64.b64encode(self._sign(signed)).decode()}"


def parse_secrets(text: str) -> tuple[Signer, ...]:
    """Read secrets, one a line or apart by blanks. Raises ValueError, which does not repeat them."""
    words = text.split()
    if not 1 <= len(words) <= MOST:
        raise ValueError(f"holds {len(words)} secrets: write one, or up to {MOST} while they are replaced")
    return tuple(map(_parse, words))


def headers(signers: tuple[Signer, ...], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers of one attempt. ``timestamp`` is that of the attempt, in seconds since 1970.

    Raises ValueError for a message id with a full stop in it: the signature could be read in two ways.
    """
    if "." in message_id:
        raise ValueError(f"{message_id!r} must not have a full stop in it")
    signed = b"%s.%d.%s" % (message_id.encode(), timestamp, body)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signer.sign(signed) for signer in signers),
    }


def _parse(word: str) -> Signer:
    prefix, _, rest = word.partition("_")
    try:
        key = base64.b64decode(rest + "=" * (-len(rest) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if prefix + "_" == _SYMMETRIC:
        if not 24 <= len(key) <= 64:
            raise ValueError("holds a `whsec_` secret that is not 24 to 64 bytes in base64")
        return Signer("v1", lambda signed: hmac.new(key, signed, hashlib.sha256).digest())
    if prefix + "_" == _ASYMMETRIC:
        if len(key) != 32:
            raise ValueError("holds a `whsk_` key that is not the 32 bytes of an Ed25519 private key in base64")
        return Signer("v1a", Ed25519PrivateKey.from_private_bytes(key).sign)
    raise ValueError("holds something else than secrets that begin with `whsec_` or `whsk_`")
