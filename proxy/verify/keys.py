"""Public keys and the signature schemes that are accepted for each: what certificates, logs and managed keys share.

ECDSA on P-256, P-384 and P-521 over SHA-256 or over the curve's own hash, RSA from 2048 bits with PKCS#1 v1.5 over SHA-256,
Ed25519 over the message itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey

SUPPORTED = "supported are ECDSA on P-256, P-384 or P-521, RSA from 2048 bits, and Ed25519"
#: Above this, one verification costs more than a signature is worth.
_MAX_RSA_BITS = 16384
_MIN_RSA_BITS = 2048
_CURVES: Mapping[str, tuple[hashes.HashAlgorithm, ...]] = {
    "secp256r1": (hashes.SHA256(),),
    "secp384r1": (hashes.SHA256(), hashes.SHA384()),
    "secp521r1": (hashes.SHA256(), hashes.SHA512()),
}


def supported(key: object) -> PublicKey:
    """The key, if signatures by it can be judged here. Raises :class:`ValueError` saying why not."""
    match key:
        case ec.EllipticCurvePublicKey():
            if key.curve.name not in _CURVES:
                raise ValueError(f"a key on the curve {key.curve.name}; {SUPPORTED}")
            return key
        case rsa.RSAPublicKey():
            if not _MIN_RSA_BITS <= key.key_size <= _MAX_RSA_BITS:
                raise ValueError(f"an RSA key of {key.key_size} bits; {SUPPORTED}")
            return key
        case ed25519.Ed25519PublicKey():
            return key
        case _:
            raise ValueError(f"a key of another kind; {SUPPORTED}")


def spki(key: PublicKey) -> bytes:
    """The key as DER SubjectPublicKeyInfo."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def holds(key: PublicKey, signature: bytes, message: bytes) -> bool:
    """Whether ``signature`` over ``message`` is this key's, by any scheme that is accepted for its type. Never raises."""
    match key:
        case ed25519.Ed25519PublicKey():
            return _verified(lambda: key.verify(signature, message))
        case rsa.RSAPublicKey():
            return _verified(lambda: key.verify(signature, message, padding.PKCS1v15(), hashes.SHA256()))
        case _:
            algorithms = _CURVES.get(key.curve.name, ())
            return any(_verified(partial(key.verify, signature, message, ec.ECDSA(algorithm))) for algorithm in algorithms)


def _verified(attempt: Callable[[], None]) -> bool:
    try:
        attempt()
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True
