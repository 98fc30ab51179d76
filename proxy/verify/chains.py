"""X.509 chains link by link: who issued whom, what an issuer must be, and when a certificate holds (RFC 5280).

Shared by the formats that bring certificates of their own rules. Everything raises :class:`proxy.errors.EvidenceMalformed`
with a text that continues "this signature …".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import pairwise
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from proxy.errors import EvidenceMalformed
from proxy.verify.parsing import shown
from proxy.verify.roots import Window

_MIN_RSA_BITS = 2048
#: Hashes that signatures may be over.
STRONG = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_E = TypeVar("_E", bound=x509.ExtensionType)


@contextmanager
def foreign(what: str) -> Iterator[None]:
    """Guard a library that reads strangers' bytes: whatever it raises becomes a refusal that names ``what``.

    Such libraries raise more than they document, and those in Rust may panic, which is no :class:`Exception`.
    """
    try:
        yield
    except (EvidenceMalformed, MemoryError):
        raise
    except Exception as error:
        raise EvidenceMalformed(f"has {what} that cannot be read: {shown(str(error)) or type(error).__name__}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise EvidenceMalformed(f"has {what} that cannot be read: the library broke on it") from error


def load(der: bytes, what: str) -> x509.Certificate:
    """Read one DER certificate, with every field that is looked at later, so that nothing is found broken too late."""
    with foreign(what):
        certificate = x509.load_der_x509_certificate(der)
        # These are read lazily, each with errors of its own.
        _ = certificate.subject, certificate.issuer, certificate.extensions, certificate.public_key()
        _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc, certificate.signature_algorithm_oid
    return certificate


def extension(certificate: x509.Certificate, kind: type[_E]) -> x509.Extension[_E] | None:
    """The extension of this kind; None when it is not there."""
    with foreign("a certificate"):
        try:
            return certificate.extensions.get_extension_for_class(kind)
        except x509.ExtensionNotFound:
            return None


def named(certificate: x509.Certificate) -> str:
    """The subject, for people."""
    with foreign("a certificate"):
        return shown(certificate.subject.rfc4514_string()) or "a certificate without a name"


def issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether ``issuer`` signed ``certificate``, by name and by key."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):  # other names, other keys, unknown algorithms
        return False
    return True


def self_issued(certificate: x509.Certificate) -> bool:
    """Whether a certificate names itself as its issuer, as every root does. Of an anchor, nobody needs the signature."""
    with foreign("a certificate"):
        return certificate.issuer == certificate.subject


def self_signed(certificate: x509.Certificate) -> bool:
    """Whether a certificate vouches for itself."""
    return issued(certificate, certificate)


def window(certificate: x509.Certificate) -> Window:
    """The closed interval in which a certificate holds."""
    with foreign("a certificate"):
        return Window(certificate.not_valid_before_utc, certificate.not_valid_after_utc)


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether a certificate may issue others at all."""
    constraints = extension(certificate, x509.BasicConstraints)
    return constraints is not None and constraints.value.ca


def check_links(chain: Sequence[x509.Certificate]) -> None:
    """Each certificate is issued by the next, and each but the first is an authority that may have so many below it."""
    for below, (certificate, issuer) in enumerate(pairwise(chain)):
        if not issued(certificate, issuer):
            raise EvidenceMalformed(f"has a broken chain: {named(certificate)} is not issued by {named(issuer)}")
        constraints = extension(issuer, x509.BasicConstraints)
        if constraints is None or not constraints.value.ca:
            raise EvidenceMalformed(f"has a broken chain: {named(issuer)} is not a certificate authority")
        length = constraints.value.path_length
        if length is not None and below > length:
            raise EvidenceMalformed(f"has a broken chain: {named(issuer)} may not have {below} authorities below it")
        usage = extension(issuer, x509.KeyUsage)
        if usage is not None and not usage.value.key_cert_sign:
            raise EvidenceMalformed(f"has a broken chain: the key of {named(issuer)} may not sign certificates")


def check_windows(chain: Sequence[x509.Certificate], first: datetime, last: datetime, what: str) -> None:
    """Every certificate holds from ``first`` to ``last`` (both belong to it). ``what`` names that time: ``now``."""
    for certificate in chain:
        held = window(certificate)
        if not (held.holds(first) and held.holds(last)):
            raise EvidenceMalformed(
                f"has a certificate that does not hold {what}: {named(certificate)} is valid"
                f" from {held.start:%Y-%m-%d %H:%M:%S} to {held.end:%Y-%m-%d %H:%M:%S} UTC"
            )


def check_hash(certificate: x509.Certificate) -> None:
    """The issuer signed over a hash that is strong enough: SHA-256, SHA-384 or SHA-512."""
    with foreign("a certificate"):
        strong = isinstance(certificate.signature_hash_algorithm, STRONG)
    if not strong:
        raise EvidenceMalformed(f"has a certificate that was signed with a weak or unknown hash: {named(certificate)}")


def check_key(certificate: x509.Certificate) -> None:
    """The key is strong enough: RSA from 2048 bits, or ECDSA on a curve of at least 256 bits."""
    with foreign("a certificate"):
        key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        weak = key.key_size < _MIN_RSA_BITS
    elif isinstance(key, ec.EllipticCurvePublicKey):
        weak = key.curve.key_size < 256
    else:
        weak = True
    if weak:
        raise EvidenceMalformed(f"has a certificate with a key that is too weak or of another kind: {named(certificate)}")
