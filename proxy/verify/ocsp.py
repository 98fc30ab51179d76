"""OCSP: what is asked about a certificate, and what an answer says of it (RFC 6960). No I/O: bytes in, values out.

An answer is signed by the certificate's issuer, or by somebody to whom that issuer delegated it: a certificate that it issued
for this purpose alone. It names the certificate by serial number and by hashes of its issuer's name and key, and holds until its
``nextUpdate``; one without an end holds for no time. Where it repeats the nonce of the question it must be that nonce; many
servers sign their answers in advance, and repeat none.

Everything raises :class:`proxy.errors.EvidenceMalformed` with a text that continues "the answer …".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, SignatureAlgorithmOID

from proxy.errors import EvidenceMalformed
from proxy.verify import chains, der
from proxy.verify.certificates import check_critical
from proxy.verify.chains import foreign
from proxy.verify.parsing import utc

#: How far the clock of a server may be ahead of ours.
SKEW = timedelta(minutes=5)
_WHAT = "something"
_MOST_CERTIFICATES = 8
_MOST_ANSWERS = 64
_RSA: Mapping[x509.ObjectIdentifier, hashes.HashAlgorithm] = {
    SignatureAlgorithmOID.RSA_WITH_SHA256: hashes.SHA256(),
    SignatureAlgorithmOID.RSA_WITH_SHA384: hashes.SHA384(),
    SignatureAlgorithmOID.RSA_WITH_SHA512: hashes.SHA512(),
}
_ECDSA: Mapping[x509.ObjectIdentifier, hashes.HashAlgorithm] = {
    SignatureAlgorithmOID.ECDSA_WITH_SHA256: hashes.SHA256(),
    SignatureAlgorithmOID.ECDSA_WITH_SHA384: hashes.SHA384(),
    SignatureAlgorithmOID.ECDSA_WITH_SHA512: hashes.SHA512(),
}


@dataclass(frozen=True, slots=True)
class OcspQuery:
    """A question about one certificate; ``url`` is one of those that it names itself."""

    url: str
    certificate: x509.Certificate
    issuer: x509.Certificate
    private: bool  #: whether the server may be at a private address

    def request(self, nonce: bytes) -> bytes:
        """The question as DER. SHA-1 names the issuer, as every server understands; nothing leans on its strength."""
        builder = ocsp.OCSPRequestBuilder().add_certificate(self.certificate, self.issuer, hashes.SHA1())  # noqa: S303
        return builder.add_extension(x509.OCSPNonce(nonce), critical=False).build().public_bytes(serialization.Encoding.DER)


class Status(StrEnum):
    """What a server says of a certificate."""

    GOOD = "good"
    REVOKED = "revoked"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Revoked:
    """When and why a certificate was revoked."""

    at: datetime
    reason: str  #: as in RFC 5280, section 5.3.1; ``unspecified`` where nothing is said
    invalid_since: datetime | None  #: since when its key is known or suspected to be in other hands


@dataclass(frozen=True, slots=True)
class OcspAnswer:
    """An answer that holds until ``until``. ``delegate`` signed it, where its own revocation is to be looked at."""

    status: Status
    revoked: Revoked | None
    until: datetime
    delegate: x509.Certificate | None


def read_ocsp(body: bytes, query: OcspQuery, nonce: bytes, now: datetime) -> OcspAnswer:
    """Read an answer to ``query``; the caller has bounded its size. Raises :class:`EvidenceMalformed`."""
    with foreign(_WHAT):
        response = ocsp.load_der_ocsp_response(body)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise EvidenceMalformed(f"says {response.response_status.name.lower().replace('_', ' ')}")
        delegate = _signer(response, query.issuer, now)
        _check_nonce(response, nonce)
        single, alone = _about(response, query)
        until = single.next_update_utc
        if until is None:
            raise EvidenceMalformed("does not say until when it holds")
        if single.this_update_utc > now + SKEW:
            raise EvidenceMalformed(f"is of {utc(single.this_update_utc)}, which is yet to come")
        if until < now:
            raise EvidenceMalformed(f"held until {utc(until)}")
        match single.certificate_status:
            case ocsp.OCSPCertStatus.GOOD:
                return OcspAnswer(Status.GOOD, None, until, delegate)
            case ocsp.OCSPCertStatus.REVOKED:
                assert single.revocation_time_utc is not None  # by the syntax
                reason = "unspecified" if single.revocation_reason is None else single.revocation_reason.value
                revoked = Revoked(single.revocation_time_utc, reason, _invalid_since(response) if alone else None)
                return OcspAnswer(Status.REVOKED, revoked, until, delegate)
            case _:
                return OcspAnswer(Status.UNKNOWN, None, until, delegate)


def _about(response: ocsp.OCSPResponse, query: OcspQuery) -> tuple[ocsp.OCSPSingleResponse, bool]:
    """What is said of the certificate, and whether nothing else is said."""
    found: list[ocsp.OCSPSingleResponse] = []
    count = 0
    for single in response.responses:
        count += 1
        if count > _MOST_ANSWERS:
            raise EvidenceMalformed(f"is about more than {_MOST_ANSWERS} certificates")
        if single.serial_number == query.certificate.serial_number and _names_issuer(single, query.issuer):
            found.append(single)
    if not found:
        raise EvidenceMalformed("is about another certificate")
    if len(found) > 1:
        raise EvidenceMalformed("says more than one thing of the certificate")
    return found[0], count == 1


def _names_issuer(single: ocsp.OCSPSingleResponse, issuer: x509.Certificate) -> bool:
    def hashed(data: bytes) -> bytes:
        digest = hashes.Hash(single.hash_algorithm)
        digest.update(data)
        return digest.finalize()

    names = single.issuer_name_hash == hashed(issuer.subject.public_bytes())
    return names and single.issuer_key_hash == hashed(_key_bits(issuer))


def _key_bits(certificate: x509.Certificate) -> bytes:
    """What the hash of a key is over: the content of its BIT STRING, without the octet that counts unused bits."""
    spki = certificate.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return der.children(der.only(spki, der.SEQUENCE, _WHAT), _WHAT, 2)[1].content[1:]


def _check_nonce(response: ocsp.OCSPResponse, nonce: bytes) -> None:
    """RFC 9654, section 2.1; no other critical extension is known."""
    for extension in response.extensions:
        if isinstance(extension.value, x509.OCSPNonce):
            if extension.value.nonce != nonce:
                raise EvidenceMalformed("is to another question: its nonce is not the one that was sent")
        elif extension.critical:
            raise EvidenceMalformed(f"has an unknown critical extension ({extension.oid.dotted_string})")


def _invalid_since(response: ocsp.OCSPResponse) -> datetime | None:
    for extension in response.single_extensions:
        if isinstance(extension.value, x509.InvalidityDate):
            return extension.value.invalidity_date_utc
    return None


# -- who signed -----------------------------------------------------------------------------------------------------


def _signer(response: ocsp.OCSPResponse, issuer: x509.Certificate, now: datetime) -> x509.Certificate | None:
    """RFC 6960, section 4.2.2.2: the issuer, or its delegate. The delegate whose revocation is to be looked at, if any."""
    embedded = response.certificates
    if len(embedded) > _MOST_CERTIFICATES:
        raise EvidenceMalformed(f"brings {len(embedded)} certificates; the limit is {_MOST_CERTIFICATES}")
    told: EvidenceMalformed | None = None
    for candidate in (issuer, *embedded):
        if not _is_named(response, candidate):
            continue
        try:
            _check_signature(response, candidate)
            return None if candidate == issuer else _delegate(candidate, issuer, now)
        except EvidenceMalformed as error:
            told = told or error
    raise told or EvidenceMalformed("is signed by nobody whose certificate is at hand")


def _is_named(response: ocsp.OCSPResponse, candidate: x509.Certificate) -> bool:
    if response.responder_name is not None:
        return response.responder_name == candidate.subject
    # Method 1 of RFC 5280, section 4.2.1.2, is what RFC 6960 demands of ``byKey``.
    return response.responder_key_hash == x509.SubjectKeyIdentifier.from_public_key(candidate.public_key()).digest


def _delegate(candidate: x509.Certificate, issuer: x509.Certificate, now: datetime) -> x509.Certificate | None:
    if not chains.issued(candidate, issuer):
        raise EvidenceMalformed(f"is signed by {chains.named(candidate)}, whom the issuer of the certificate did not certify")
    purposes = chains.extension(candidate, x509.ExtendedKeyUsage)
    if purposes is None or ExtendedKeyUsageOID.OCSP_SIGNING not in purposes.value:
        raise EvidenceMalformed(f"is signed by {chains.named(candidate)}, who may not answer for the issuer")
    usage = chains.extension(candidate, x509.KeyUsage)
    if usage is not None and not usage.value.digital_signature:
        raise EvidenceMalformed(f"is signed by {chains.named(candidate)}, whose key may not sign")
    chains.check_hash(candidate)
    check_critical(candidate)
    if not chains.window(candidate).holds(now):
        raise EvidenceMalformed(f"is signed by {chains.named(candidate)}, whose certificate does not hold now")
    return None if chains.extension(candidate, x509.OCSPNoCheck) is not None else candidate


def _check_signature(response: ocsp.OCSPResponse, signer: x509.Certificate) -> None:
    chains.check_key(signer)
    key, algorithm = signer.public_key(), response.signature_algorithm_oid
    try:
        if isinstance(key, rsa.RSAPublicKey) and (digest := _RSA.get(algorithm)) is not None:
            key.verify(response.signature, response.tbs_response_bytes, padding.PKCS1v15(), digest)
            return
        if isinstance(key, ec.EllipticCurvePublicKey) and (digest := _ECDSA.get(algorithm)) is not None:
            key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(digest))
            return
    except InvalidSignature:
        raise EvidenceMalformed(f"is not signed by {chains.named(signer)}, as it says") from None
    raise EvidenceMalformed("is signed by an algorithm that is too weak or not known here")
