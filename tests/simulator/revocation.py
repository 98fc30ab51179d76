"""Who tells whether certificates are revoked: OCSP answers and revocation lists, right or wrong on purpose, and a server of both.

Answers are put together by hand (RFC 6960), so that they can say what no proper server would. Builders take a ``fault`` by name.

::

    async with RevocationServer() as server:
        acme = issue(servers=server.named_by())
        server.know(acme)
        server.revoke(acme.chain[0], at=NOW)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID
from multidict import CIMultiDict

from tests.simulator.notation import Issued, subject
from tests.simulator.server import Answer, Seen, Site
from tests.simulator.signing import Signer
from tests.simulator.sigstore import der
from tests.simulator.sigstore.ca import broken, key_usage

OcspFault = Literal[
    "try later",
    "noise",
    "signature broken",
    "signed by a stranger",
    "named by a stranger",
    "signed with SHA-1",
    "stale",
    "without end",
    "from the future",
    "another nonce",
    "unknown critical extension",
    "another certificate",
    "another issuer",
    "no certificate",
    "says two things",
    "unknown",
    "delegate without purpose",
    "delegate ended",
    "delegate by a stranger",
    "delegate may not sign",
    "delegate with a weak hash",
    "nine certificates",
    "65 answers",
]
#: What is odd and right.
OcspOddity = Literal["delegate", "by key", "no nonce", "SHA-256 in the id", "delegate to be looked up", "two answers"]
CrlFault = Literal[
    "noise",
    "signature broken",
    "signed by a stranger",
    "another issuer",
    "signed with SHA-224",
    "stale",
    "without end",
    "from the future",
    "unknown critical extension",
    "for another place",
    "for authorities",
    "for users",
    "for attributes",
    "for some reasons",
    "indirect",
]
#: Long enough for every test, and for the real clock.
LIFE = timedelta(days=2)
_SHA1, _SHA256 = "1.3.14.3.2.26", "2.16.840.1.101.3.4.2.1"
_BASIC, _NONCE, _INVALIDITY = "1.3.6.1.5.5.7.48.1.1", "1.3.6.1.5.5.7.48.1.2", "2.5.29.24"
_SIGNATURES = {"sha1": "1.2.840.10045.4.1", "sha256": "1.2.840.10045.4.3.2", "rsa": "1.2.840.113549.1.1.11"}
_REASONS = {reason: number for number, reason in enumerate(
    ("unspecified", "key_compromise", "ca_compromise", "affiliation_changed", "superseded", "cessation_of_operation",
     "certificate_hold", "", "remove_from_crl", "privilege_withdrawn", "aa_compromise")
)}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A revocation."""

    at: datetime
    reason: str | None = None  #: as members of ``x509.ReasonFlags`` are called
    invalid_since: datetime | None = None


# -- certificates ---------------------------------------------------------------------------------------------------


def ocsp_at(*urls: str) -> x509.AuthorityInformationAccess:
    """The extension that names OCSP servers."""
    return x509.AuthorityInformationAccess(
        [x509.AccessDescription(AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(url)) for url in urls]
    )


def point(*urls: str, reasons: frozenset[x509.ReasonFlags] | None = None, issuer: str | None = None) -> x509.DistributionPoint:
    """One place of a list, with all of its names."""
    by = None if issuer is None else [x509.DirectoryName(subject(issuer))]
    return x509.DistributionPoint([x509.UniformResourceIdentifier(url) for url in urls], None, reasons, by)


def lists_at(*points: str | x509.DistributionPoint) -> x509.CRLDistributionPoints:
    """The extension that names places of lists."""
    return x509.CRLDistributionPoints([point(each) if isinstance(each, str) else each for each in points])


@lru_cache
def delegate(
    issuer: x509.Certificate, issuer_key: Signer, fault: OcspFault | None = None, lists: x509.CRLDistributionPoints | None = None
) -> tuple[x509.Certificate, Signer]:
    """Somebody whom an issuer lets answer; with ``lists`` his own revocation is to be looked up there."""
    key, by = Signer.of("p256", "ocsp delegate"), issuer_key
    begins, ends = datetime(2024, 1, 1, tzinfo=UTC), datetime(2044, 1, 1, tzinfo=UTC)
    if fault == "delegate by a stranger":
        by = Signer.of("p384", "ocsp stranger")
    if fault == "delegate ended":
        ends = begins + timedelta(days=1)
    purpose = ExtendedKeyUsageOID.CODE_SIGNING if fault == "delegate without purpose" else ExtendedKeyUsageOID.OCSP_SIGNING
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject("ocsp delegate"))
        .issuer_name(issuer.subject)
        .public_key(key.private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(key_usage("key_agreement" if fault == "delegate may not sign" else "digital_signature"), critical=True)
    )
    builder = builder.add_extension(x509.OCSPNoCheck() if lists is None else lists, critical=False)
    assert isinstance(by.private, ec.EllipticCurvePrivateKey)
    return builder.sign(by.private, hashes.SHA224() if fault == "delegate with a weak hash" else hashes.SHA256()), key


# -- OCSP -----------------------------------------------------------------------------------------------------------


def ocsp_answer(
    request: bytes,
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    issuer_key: Signer,
    now: datetime,
    entry: Entry | None = None,
    fault: OcspFault | OcspOddity | None = None,
    lists: x509.CRLDistributionPoints | None = None,
) -> bytes:
    """An answer to ``request``, which is taken for one about ``certificate``; revoked where there is an ``entry``."""
    if fault == "noise":
        return b"\x30\x03\x0a\x01"
    if fault == "try later":
        return der.sequence(der.tlv(0x0A, b"\x03"))
    answer = _single(certificate, issuer, now, entry, fault)
    answers = {
        "says two things": [answer, _single(certificate, issuer, now, Entry(now), None)],
        "two answers": [_single(issuer, issuer, now, None, None), answer],
        "65 answers": [answer, *[_single(issuer, issuer, now, None, None)] * 64],
        "no certificate": [],
    }.get(fault or "", [answer])
    signer, key, certificates = issuer, issuer_key, list[x509.Certificate]()
    if fault is not None and fault.startswith("delegate"):
        signer, key = delegate(issuer, issuer_key, _chosen(fault), lists)
        certificates = [signer]
    elif fault == "signed by a stranger":
        key = Signer.of("p384", "ocsp stranger")
    elif fault == "nine certificates":
        certificates = [issuer] * 9
    named = subject("stranger") if fault == "named by a stranger" else signer.subject
    digest = x509.SubjectKeyIdentifier.from_public_key(signer.public_key()).digest
    by = der.explicit(2, der.octets(digest)) if fault == "by key" else der.explicit(1, named.public_bytes())
    extensions = _extensions(request, fault)
    told = der.sequence(by, der.generalized_time(now), der.sequence(*answers), *extensions)
    return _envelope(told, key, certificates, fault)


def _chosen(fault: str) -> OcspFault | None:
    chosen: tuple[OcspFault, ...] = (
        "delegate without purpose",
        "delegate ended",
        "delegate by a stranger",
        "delegate may not sign",
        "delegate with a weak hash",
        "delegate with a weak hash",
    )
    return next((each for each in chosen if each == fault), None)


def _single(
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    now: datetime,
    entry: Entry | None,
    fault: OcspFault | OcspOddity | None,
) -> bytes:
    sha256 = fault == "SHA-256 in the id"
    algorithm: hashes.HashAlgorithm = hashes.SHA256() if sha256 else hashes.SHA1()

    def hashed(data: bytes) -> bytes:
        digest = hashes.Hash(algorithm)
        digest.update(data)
        return digest.finalize()

    name, bits = issuer.subject.public_bytes(), _bits(issuer)
    serial = certificate.serial_number + (fault == "another certificate")
    identifier = der.sequence(
        der.sequence(der.oid(_SHA256 if sha256 else _SHA1), b"\x05\x00"),
        der.octets(hashed(name)),
        der.octets(hashed(bits + b"x" if fault == "another issuer" else bits)),
        der.integer(serial),
    )
    status, extensions = b"\x80\x00", b""
    if fault == "unknown":
        status = b"\x82\x00"
    elif entry is not None:
        reason = b"" if entry.reason is None else der.explicit(0, der.tlv(0x0A, bytes([_REASONS[entry.reason]])))
        status = der.explicit(1, der.generalized_time(entry.at), reason)
        if entry.invalid_since is not None:
            date = der.octets(der.generalized_time(entry.invalid_since))
            extensions = der.explicit(1, der.sequence(der.sequence(der.oid(_INVALIDITY), date)))
    begins, ends = now - timedelta(minutes=5), now + LIFE
    if fault == "stale":
        begins, ends = now - LIFE, now - timedelta(seconds=1)
    elif fault == "from the future":
        begins = now + timedelta(hours=1)
    until = b"" if fault == "without end" else der.explicit(0, der.generalized_time(ends))
    return der.sequence(identifier, status, der.generalized_time(begins), until, extensions)


def _bits(certificate: x509.Certificate) -> bytes:
    """The key as it stands in its BIT STRING."""
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)


def _extensions(request: bytes, fault: str | None) -> list[bytes]:
    found: list[bytes] = []
    for each in ocsp.load_der_ocsp_request(request).extensions:
        if isinstance(each.value, x509.OCSPNonce) and fault != "no nonce":
            nonce = b"another" if fault == "another nonce" else each.value.nonce
            found.append(der.sequence(der.oid(_NONCE), der.octets(der.octets(nonce))))
    if fault == "unknown critical extension":
        found.append(der.sequence(der.oid("1.2.3.4"), b"\x01\x01\xff", der.octets(b"\x05\x00")))
    return [der.explicit(1, der.sequence(*found))] if found else []


def _envelope(told: bytes, key: Signer, certificates: Sequence[x509.Certificate], fault: str | None) -> bytes:
    private = key.private
    if isinstance(private, rsa.RSAPrivateKey):
        algorithm, signature = der.sequence(der.oid(_SIGNATURES["rsa"]), b"\x05\x00"), key.sign(told)
    else:
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        weak = fault == "signed with SHA-1"
        algorithm = der.sequence(der.oid(_SIGNATURES["sha1" if weak else "sha256"]))
        signature = private.sign(told, ec.ECDSA(hashes.SHA1() if weak else hashes.SHA256()))
    if fault == "signature broken":
        signature = broken(signature)
    brought = [each.public_bytes(serialization.Encoding.DER) for each in certificates]
    basic = der.sequence(
        told, algorithm, der.tlv(0x03, b"\0" + signature), *([der.explicit(0, der.sequence(*brought))] if brought else [])
    )
    return der.sequence(der.tlv(0x0A, b"\0"), der.explicit(0, der.sequence(der.oid(_BASIC), der.octets(basic))))


# -- lists ----------------------------------------------------------------------------------------------------------


def crl(
    issuer: x509.Certificate,
    issuer_key: Signer,
    now: datetime,
    entries: Mapping[int, Entry] | None = None,
    *,
    number: int = 1,
    since: int | None = None,
    freshest: Sequence[x509.DistributionPoint] = (),
    place: str | None = None,
    fault: CrlFault | None = None,
) -> bytes:
    """A list; with ``since`` one of changes to the list of that number. ``place`` is the one that it names as its own."""
    if fault == "noise":
        return b"\x30\x03\x02\x01"
    begins, ends = now - timedelta(minutes=5), now + LIFE
    if fault == "stale":
        begins, ends = now - LIFE, now - timedelta(seconds=1)
    elif fault == "from the future":
        begins = now + timedelta(hours=1)
    name = subject("another") if fault == "another issuer" else issuer.subject
    builder = x509.CertificateRevocationListBuilder().issuer_name(name).last_update(begins).next_update(ends)
    builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    if since is not None:
        builder = builder.add_extension(x509.DeltaCRLIndicator(since), critical=True)
    if freshest:
        builder = builder.add_extension(x509.FreshestCRL(freshest), critical=False)
    if (scope := _scope(place, fault)) is not None:
        builder = builder.add_extension(scope, critical=True)
    if fault == "unknown critical extension":
        builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\0"), critical=True)
    for serial, entry in (entries or {}).items():
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(entry.at)
        if entry.reason is not None:
            revoked = revoked.add_extension(x509.CRLReason(x509.ReasonFlags[entry.reason]), critical=False)
        if entry.invalid_since is not None:
            revoked = revoked.add_extension(x509.InvalidityDate(entry.invalid_since.replace(tzinfo=None)), critical=False)
        builder = builder.add_revoked_certificate(revoked.build())
    by = Signer.of("p384", "ocsp stranger").private if fault == "signed by a stranger" else issuer_key.private
    assert isinstance(by, ec.EllipticCurvePrivateKey)
    signed = builder.sign(by, hashes.SHA224() if fault == "signed with SHA-224" else hashes.SHA256())
    body = signed.public_bytes(serialization.Encoding.DER)
    if fault == "without end":
        return _without_end(signed, by)
    return broken(body) if fault == "signature broken" else body


def _scope(place: str | None, fault: CrlFault | None) -> x509.IssuingDistributionPoint | None:
    if fault == "for another place":
        place = "http://another.test/list"
    names = None if place is None else [x509.UniformResourceIdentifier(place)]
    reasons = frozenset({x509.ReasonFlags.superseded}) if fault == "for some reasons" else None
    flags = (fault == "for users", fault == "for authorities", reasons, fault == "indirect", fault == "for attributes")
    return x509.IssuingDistributionPoint(names, None, *flags) if names is not None or any(flags) else None


def _without_end(signed: x509.CertificateRevocationList, by: ec.EllipticCurvePrivateKey) -> bytes:
    """The same without ``nextUpdate``, which is optional by the syntax."""
    assert signed.next_update_utc is not None
    end = der.utc_time(signed.next_update_utc)
    told = signed.tbs_certlist_bytes
    assert told.count(end) == 1
    content = told[4 if told[1] == 0x82 else 3 if told[1] == 0x81 else 2 :].replace(end, b"")
    told = der.sequence(content)
    algorithm = der.sequence(der.oid(_SIGNATURES["sha256"]))
    return der.sequence(told, algorithm, der.tlv(0x03, b"\0" + by.sign(told, ec.ECDSA(hashes.SHA256()))))


# -- a server -------------------------------------------------------------------------------------------------------


@dataclass
class _Issuer:
    certificate: x509.Certificate
    key: Signer
    issued: list[x509.Certificate] = field(default_factory=list)


class RevocationServer(Site):
    """Answers at ``/ocsp`` for everybody it knows, and at ``/crl`` with the list of the first issuer that it came to know.

    ``ocsp_fault`` and ``crl_fault`` make its answers wrong; what happens on the way is a matter of :meth:`Site.on`.
    """

    ocsp_fault: OcspFault | OcspOddity | None = None
    crl_fault: CrlFault | None = None

    def __init__(self, **options: str) -> None:
        super().__init__(**options)  # type: ignore[arg-type]  # the address of the site
        self._issuers: list[_Issuer] = []
        self._revoked: dict[int, Entry] = {}

    def named_by(self, *, ocsp: bool = True, lists: bool = True, host: str | None = None) -> tuple[x509.ExtensionType, ...]:
        """The extensions by which certificates name this server."""
        url = self.url if host is None else self.url_as(host)
        servers: list[x509.ExtensionType] = [ocsp_at(f"{url}/ocsp")] if ocsp else []
        return (*servers, *([lists_at(f"{url}/crl")] if lists else []))

    def know(self, issued: Issued) -> None:
        """Answer for the certificates of a chain."""
        for place in range(len(issued.chain) - 1):
            issuer = _Issuer(issued.chain[place + 1], issued.keys[place + 1], [issued.chain[place]])
            self._issuers.append(issuer)

    def revoke(
        self, certificate: x509.Certificate, *, at: datetime, reason: str | None = None, invalid_since: datetime | None = None
    ) -> None:
        """Revoke from now on."""
        self._revoked[certificate.serial_number] = Entry(at.replace(microsecond=0), reason, invalid_since)

    async def answer(self, seen: Seen) -> Answer:
        """What it has to say."""
        now = datetime.now(UTC).replace(microsecond=0)
        if seen.method == "POST" and seen.path == "/ocsp":
            serial = ocsp.load_der_ocsp_request(seen.body).serial_number
            for issuer in self._issuers:
                for certificate in issuer.issued:
                    if certificate.serial_number == serial:
                        body = ocsp_answer(
                            seen.body,
                            certificate,
                            issuer.certificate,
                            issuer.key,
                            now,
                            self._revoked.get(serial),
                            self.ocsp_fault,
                        )
                        return Answer(200, CIMultiDict({"Content-Type": "application/ocsp-response"}), body)
        if seen.method == "GET" and seen.path.startswith("/crl") and self._issuers:
            issuer = self._issuers[0]
            body = crl(issuer.certificate, issuer.key, now, self._revoked, fault=self.crl_fault)
            return Answer(200, CIMultiDict({"Content-Type": "application/pkix-crl"}), body)
        return await super().answer(seen)
