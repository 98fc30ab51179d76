"""Managed keys: public keys that an operator names in ``trust.keys``, with the time in which each is believed.

Signature schemes are those of cosign (:mod:`proxy.verify.keys`).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from proxy.verify.keys import SUPPORTED, PublicKey, holds, spki, supported
from proxy.verify.model import TrustedKey
from proxy.verify.parsing import utc

if TYPE_CHECKING:
    from proxy.verify.openpgp import OpenPgpKey

#: A key file is a few hundred bytes; what is larger is something else.
_MAX_PEM = 64 << 10
_BEGIN = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,60})-----")


@dataclass(frozen=True, slots=True)
class Key:
    """A public key, the name it goes by, and the closed interval in which it is believed (aware datetimes; None: open)."""

    name: str
    fingerprint: str  #: sha256 of the DER SubjectPublicKeyInfo, hex
    valid_from: datetime | None
    valid_until: datetime | None
    root: str | None  #: entry of ``trust.roots`` that proves when it signed
    der: bytes = field(repr=False)
    _public: PublicKey = field(repr=False, compare=False)

    @classmethod
    def load(
        cls,
        name: str,
        pem: bytes,
        valid_from: datetime | None = None,
        valid_until: datetime | None = None,
        root: str | None = None,
    ) -> Key:
        """Read one PEM public key (``PUBLIC KEY``, or PKCS#1 ``RSA PUBLIC KEY``).

        Raises :class:`ValueError` with words for the person who wrote the configuration.
        """
        for moment in (valid_from, valid_until):
            if moment is not None and moment.utcoffset() is None:
                raise ValueError("the validity window needs times with a time zone")
        if valid_from is not None and valid_until is not None and valid_until < valid_from:
            raise ValueError(f"the validity window ends ({utc(valid_until)}) before it begins ({utc(valid_from)})")
        public = _read(pem)
        der = spki(public)
        return cls(name, hashlib.sha256(der).hexdigest(), valid_from, valid_until, root, der, public)

    @property
    def identity(self) -> str:
        """What the name stands for, in one line: changes whenever an old verdict would no longer answer the question."""
        window = (moment.astimezone(UTC).isoformat() if moment else "" for moment in (self.valid_from, self.valid_until))
        return "/".join((self.fingerprint, *window))

    def verify(self, signature: bytes, message: bytes) -> bool:
        """Whether ``signature`` over ``message`` is this key's, by any scheme that is accepted for its type."""
        return holds(self._public, signature, message)


def _read(pem: bytes) -> PublicKey:
    if len(pem) > _MAX_PEM:
        raise ValueError(f"this is no public key: it has {len(pem)} bytes")
    labels = [label.decode() for label in _BEGIN.findall(pem)]
    if any("PRIVATE KEY" in label for label in labels):
        raise ValueError(
            "this is a private key, which must never leave its signer: give the public one"
            " (cosign public-key --key FILE, or openssl pkey -in FILE -pubout), and consider the private one known"
        )
    if any("CERTIFICATE" in label for label in labels):
        raise ValueError("this is a certificate: give its public key (openssl x509 -in FILE -noout -pubkey)")
    if not labels:
        raise ValueError('this is no PEM public key: it must have a line "-----BEGIN PUBLIC KEY-----"')
    if len(labels) > 1:
        raise ValueError(f"there are {len(labels)} PEM blocks in here: give each key a name and a file of its own")
    if labels[0] not in ("PUBLIC KEY", "RSA PUBLIC KEY"):
        raise ValueError(f'this is a PEM "{labels[0]}", not a "PUBLIC KEY"')
    try:
        public = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"this public key cannot be read; {SUPPORTED}") from error
    try:
        return supported(public)
    except ValueError as error:
        raise ValueError(f"this is {error}") from error


def outside_window(key: TrustedKey | OpenPgpKey, now: datetime) -> str | None:
    """Why ``key`` is not believed at ``now``; None when it is. The window is closed: both of its ends belong to it."""
    if key.valid_from is not None and now < key.valid_from:
        return f"key {key.name} is valid from {utc(key.valid_from)} only"
    if key.valid_until is not None and now > key.valid_until:
        return f"key {key.name} was valid until {utc(key.valid_until)}"
    return None
