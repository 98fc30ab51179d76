"""Certificate transparency: the promise of a log, inside a certificate, that it has made the certificate public.

RFC 6962, sections 3.2 and 3.3. An embedded timestamp (SCT) is over the certificate without the SCT list, and over the key of
its issuer. Everything raises :class:`proxy.errors.EvidenceMalformed` with a text that continues "this signature …".
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.certificate_transparency import LogEntryType, SignedCertificateTimestamp

from proxy.errors import EvidenceMalformed
from proxy.verify import chains
from proxy.verify.keys import holds
from proxy.verify.parsing import utc
from proxy.verify.roots import Root

_MOST = 32
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_CERTIFICATE_TIMESTAMP = b"\x00"
_PRECERT_ENTRY = b"\x00\x01"


def verify_scts(leaf: x509.Certificate, issuer: x509.Certificate, root: Root) -> tuple[datetime, ...]:
    """When each log that the root knows saw ``leaf``; empty where none did.

    Promises of other logs say nothing. One of a log that is known must hold, and its time must lie within that log's window.
    """
    listed = chains.extension(leaf, x509.PrecertificateSignedCertificateTimestamps)
    if listed is None:
        return ()
    promises = list(listed.value)
    if len(promises) > _MOST:
        raise EvidenceMalformed(f"has a certificate with {len(promises)} certificate timestamps; the limit is {_MOST}")
    return tuple(_verified(promise, leaf, issuer, root) for promise in promises if promise.log_id in root.ct_logs)


def _verified(promise: SignedCertificateTimestamp, leaf: x509.Certificate, issuer: x509.Certificate, root: Root) -> datetime:
    log = root.ct_logs[promise.log_id]
    with chains.foreign("a certificate timestamp"):
        moment = promise.timestamp.replace(tzinfo=UTC)
        sound = promise.entry_type is LogEntryType.PRE_CERTIFICATE and isinstance(promise.signature_hash_algorithm, hashes.SHA256)
        signed = _signed(promise, moment, leaf, issuer)
        signature = promise.signature
    if not sound or not holds(log.key, signature, signed):
        raise EvidenceMalformed(f"has a certificate timestamp that log {log.log_id.hex()[:16]} did not sign")
    if not log.window.holds(moment):
        raise EvidenceMalformed(f"has a certificate timestamp of {utc(moment)}, when root {root.name} did not trust its log")
    return moment


def _signed(promise: SignedCertificateTimestamp, moment: datetime, leaf: x509.Certificate, issuer: x509.Certificate) -> bytes:
    """What the log signed: ``digitally-signed`` of RFC 6962, section 3.2."""
    key = issuer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    certificate, extensions = leaf.tbs_precertificate_bytes, promise.extension_bytes
    return b"".join(
        (
            b"\x00",  # version 1, the only one there is
            _CERTIFICATE_TIMESTAMP,
            ((moment - _EPOCH) // _MILLISECOND).to_bytes(8, "big"),
            _PRECERT_ENTRY,
            hashlib.sha256(key).digest(),
            len(certificate).to_bytes(3, "big"),
            certificate,
            len(extensions).to_bytes(2, "big"),
            extensions,
        )
    )
