"""OpenPGP keys that an operator names in ``trust.keys``, and what is signed with them.

The cryptography is Sequoia's, by way of ``pysequoia``, which is installed on demand (``pip install tagstone[gpg]``) and imported
when the first key is read. A file may hold several certificates, as a keyring does: each of them is believed, and each is an
authority of its own, named by the fingerprint of its primary key.

Nothing proves when an OpenPGP signature was made: its time is the signer's own word. Whoever got hold of a key that has expired
since, or was given up, can write any time. So a key must hold twice: at the time that the signature gives, which Sequoia sees
to, and now.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from proxy.content import Lookaside
from proxy.errors import EvidenceMalformed
from proxy.verify.packets import read_message
from proxy.verify.parsing import shown

if TYPE_CHECKING:
    import pysequoia

#: What brings the library.
EXTRA = "pip install 'tagstone[gpg]'"
#: A keyring of more certificates is somebody's address book.
MAX_CERTIFICATES = 64
_MAX_FILE = 1 << 20
_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_T = TypeVar("_T")


class ExtraMissing(Exception):
    """The library for OpenPGP is not installed; ``str(error)`` says what to do."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """One certificate ("public key") of a file: a primary key with its user IDs and subkeys."""

    fingerprint: str  #: of the primary key, lower-case hex
    user: str  #: its first user ID, fit for reasons
    revoked: bool
    expires: datetime | None  #: the primary key's own end
    ends: Mapping[str, datetime | None] = field(repr=False)  #: when each subkey ends, by fingerprint
    withdrawn: frozenset[str] = field(repr=False)  #: subkeys that were revoked
    _cert: pysequoia.Cert = field(repr=False, compare=False)

    @property
    def cert(self) -> pysequoia.Cert:
        """What the library works with."""
        return self._cert

    def has(self, key: str) -> bool:
        """Whether a fingerprint or key id is that of the primary key or of a subkey."""
        return any(each.endswith(key) for each in (self.fingerprint, *self.ends))

    def until(self, signing_key: str) -> datetime | None:
        """The last moment of a key of this certificate; None: it does not end."""
        moments = [self.expires, self.ends.get(signing_key)]
        return min((moment for moment in moments if moment is not None), default=None)


@dataclass(frozen=True, slots=True)
class Opened:
    """A signature that holds: what was signed, by whom, and when by the signer's own word."""

    payload: bytes = field(repr=False)
    by: Certificate
    signing_key: str  #: fingerprint of the primary key, or of the subkey that made it
    created: datetime | None
    expires: datetime | None  #: the signature's own end


@dataclass(frozen=True, slots=True)
class OpenPgpKey:
    """The certificates of a file, the name they go by, and the closed interval in which they are believed."""

    name: str
    certificates: tuple[Certificate, ...]
    valid_from: datetime | None
    valid_until: datetime | None
    lookaside: Lookaside  #: where its signatures are
    _digest: str = field(repr=False)  #: sha256 of the file

    @classmethod
    def load(
        cls,
        name: str,
        body: bytes,
        lookaside: Lookaside,
        valid_from: datetime | None = None,
        valid_until: datetime | None = None,
    ) -> OpenPgpKey:
        """Read OpenPGP certificates, binary or in ASCII armor.

        Raises :class:`ValueError` with words for the person who wrote the configuration, :class:`ExtraMissing`.
        """
        try:
            import pysequoia
        except ImportError as error:
            raise ExtraMissing(f"OpenPGP keys need a library that is not installed: {EXTRA}") from error
        if len(body) > _MAX_FILE:
            raise ValueError(f"this is no OpenPGP key: it has more than {_MAX_FILE} bytes")
        if b"-----BEGIN PUBLIC KEY" in body:
            raise ValueError("this is a PEM public key, not OpenPGP: give it under `file`")
        try:
            secret = _guarded(lambda: _holds_secrets(body))
            certs = _guarded(lambda: _merged(pysequoia.Cert.split_bytes(body)))
            found = tuple(_guarded(partial(_certificate, cert)) for cert in certs[: MAX_CERTIFICATES + 1])
        except ValueError as error:
            raise ValueError(f"this is no OpenPGP key ({error})") from error
        if secret:
            raise ValueError(
                "this is a private key, which must never leave its signer: give the public one (gpg --export), and consider the"
                " private one known"
            )
        if not found:
            raise ValueError("there is no OpenPGP key in here (gpg --export writes one)")
        if len(found) > MAX_CERTIFICATES:
            raise ValueError(f"there are more than {MAX_CERTIFICATES} OpenPGP keys in here")
        return cls(name, found, valid_from, valid_until, lookaside, hashlib.sha256(body).hexdigest())

    @property
    def identity(self) -> str:
        """What the name stands for, in one line: changes whenever an old verdict would no longer answer the question."""
        window = (moment.astimezone(UTC).isoformat() if moment else "" for moment in (self.valid_from, self.valid_until))
        return "/".join(("openpgp", self._digest, *window))

    @property
    def fingerprints(self) -> frozenset[str]:
        """The authorities behind the name."""
        return frozenset(each.fingerprint for each in self.certificates)

    def open(self, signature: bytes, limit: int) -> Opened:
        """What this key signed. ``limit``: most bytes that the message may have when it is unpacked.

        Exactly one signature, by a key of these certificates that may sign and that held at the time the signature gives.
        Raises :class:`EvidenceMalformed` with a text that continues "this signature …", whatever the bytes are.
        """
        import pysequoia

        message = read_message(signature, limit)
        try:
            issuer, created, expires = _guarded(lambda: _claims(pysequoia.Sig.from_bytes(message.signature)))
        except ValueError as error:
            raise EvidenceMalformed(f"is broken: its OpenPGP signature cannot be read ({error})") from error
        certs = [each.cert for each in self.certificates]
        try:
            verified = _guarded(lambda: pysequoia.verify(bytes=message.packets, store=lambda _: certs))
        except ValueError as error:
            raise EvidenceMalformed(self._why_not(issuer)) from error
        if verified.bytes is None or len(verified.valid_sigs) != 1:
            raise EvidenceMalformed(f"has {len(verified.valid_sigs)} OpenPGP signatures that hold; exactly one is expected")
        valid = verified.valid_sigs[0]
        by = next((each for each in self.certificates if each.fingerprint == valid.certificate), None)
        if by is None:
            raise EvidenceMalformed(f"is not made by key {self.name}")
        return Opened(verified.bytes, by, valid.signing_key, created, expires)

    def _why_not(self, issuer: str | None) -> str:
        """What to say of a signature that does not hold: ``issuer`` is who it says made it, fingerprint or key id."""
        if not issuer:
            return f"is not made by key {self.name}"
        named = next((each for each in self.certificates if each.has(issuer)), None)
        if named is None:
            return f"is not made by key {self.name}, but by OpenPGP key {shown(issuer)}"
        if named.revoked:
            return f"names {named.user} as its signer, whose OpenPGP key {named.fingerprint} was revoked (key {self.name})"
        return (
            f"names {named.user} as its signer (key {self.name}), but does not hold: it was changed, its digest is too weak,"
            " it is not of its time, or its key may not sign or did not hold then"
        )


def _claims(packet: pysequoia.Sig) -> tuple[str | None, datetime | None, datetime | None]:
    """Who a signature says made it (fingerprint or key id), when, and until when it holds."""
    return packet.issuer_fingerprint or packet.issuer_key_id, packet.created, packet.expiration


def _merged(certs: list[pysequoia.Cert]) -> list[pysequoia.Cert]:
    """One for each primary key. An older export beside a newer one says what held before gpg wrote the key's signatures anew."""
    found: dict[str, pysequoia.Cert] = {}
    for cert in certs:
        known = found.get(cert.fingerprint)
        found[cert.fingerprint] = cert if known is None else known.merge(cert)
    return list(found.values())


def _certificate(cert: pysequoia.Cert) -> Certificate:
    """What is to be known of a certificate beyond what the library judges at the time of a signature."""
    from pysequoia.packet import PacketPile, SignatureType, Tag

    ends: dict[str, datetime | None] = {}
    bound: dict[str, datetime] = {}  # when the binding that counts was made
    withdrawn: set[str] = set()
    subkey, born = None, None
    for packet in PacketPile.from_bytes(bytes(cert)):
        if packet.tag == Tag.PublicSubkey:
            subkey, born = packet.fingerprint, packet.key_created
        elif packet.tag == Tag.Signature and subkey is not None:
            made = packet.signature_created or _LONG_AGO
            if packet.signature_type == SignatureType.SubkeyRevocation:
                withdrawn.add(subkey)
            elif packet.signature_type == SignatureType.SubkeyBinding and made >= bound.get(subkey, _LONG_AGO):
                bound[subkey] = made
                period = packet.key_validity_period
                ends[subkey] = None if period is None or born is None else born + period
    users = cert.user_ids
    user = shown(str(users[0])) if users else "nobody"
    return Certificate(
        cert.fingerprint, user, cert.is_revoked, cert.expiration, MappingProxyType(ends), frozenset(withdrawn), cert
    )


def _holds_secrets(body: bytes) -> bool:
    from pysequoia.packet import PacketPile, Tag

    if b"PRIVATE KEY BLOCK" in body:
        return True
    secret = (Tag.SecretKey, Tag.SecretSubkey)
    return not body.startswith(b"-----BEGIN") and any(packet.tag in secret for packet in PacketPile.from_bytes(body))


def _guarded(call: Callable[[], _T]) -> _T:
    """Call into the library; whatever it raises becomes a :class:`ValueError` with the first line of its message."""
    try:
        return call()
    except Exception as error:
        told = str(error)
    except BaseException as error:
        # A panic in the library is no Exception in Python. Everything else of that kind is not about the bytes.
        if type(error).__name__ != "PanicException":
            raise
        told = "the library gave up"
    lines = told.splitlines()
    raise ValueError(shown(lines[0]) if lines else "no reason given")
