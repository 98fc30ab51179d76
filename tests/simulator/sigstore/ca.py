"""A certificate authority in the manner of Fulcio, with its certificate transparency log; or in the manner of GitHub's own.

Root → intermediate (``codeSigning``, pathlen 0) → a leaf of ten minutes with an empty subject, a critical subject alternative
name, the issuer of the identity token as extension ``.1`` (raw) and ``.8`` (UTF8String), further claims by name
(1.3.6.1.4.1.57264.1.x), and an embedded SCT (RFC 6962, section 3.3). GitHub's own authority has one intermediate more, and no
transparency log.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from tests.simulator.signing import Signer, certified, serial
from tests.simulator.sigstore import der
from tests.simulator.sigstore.faults import Fault

SanKind = Literal["email", "uri", "other name"]

#: Claims of the identity token by name → the last arc of their extension.
CLAIMS: Mapping[str, int] = {
    "build_signer": 9,
    "build_signer_digest": 10,
    "runner": 11,
    "source_repository": 12,
    "source_digest": 13,
    "source_ref": 14,
    "source_repository_id": 15,
    "owner": 16,
    "owner_id": 17,
    "build_config": 18,
    "build_config_digest": 19,
    "trigger": 20,
    "run": 21,
    "visibility": 22,
}

_FULCIO = "1.3.6.1.4.1.57264.1"
_SCT_LIST = ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_BEGIN = datetime(2022, 1, 1, tzinfo=UTC)
_END = datetime(2052, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_CHAIN_FAULTS: tuple[Fault, ...] = (
    "CA expired at signing time",
    "CA not yet valid at signing time",
    "CA root expired at signing time",
    "intermediate is no CA",
    "intermediate with another EKU",
    "intermediate by another root",
    "pathlen broken",
)
#: How long before and after the act of signing a leaf is valid: ten minutes in all.
BEFORE, AFTER = timedelta(minutes=2), timedelta(minutes=8)


def broken(data: bytes) -> bytes:
    """One bit flipped, at the end, where a signature's last number stands."""
    return data[:-1] + bytes([data[-1] ^ 1])


@dataclass(frozen=True)
class Leaf:
    """A signer's certificate, with the intermediates that its chain offers (issuer first), and the root."""

    certificate: x509.Certificate
    offered: tuple[x509.Certificate, ...]
    root: x509.Certificate

    @cached_property
    def der(self) -> bytes:
        """As bundles carry it."""
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @cached_property
    def pem(self) -> bytes:
        """As cosign's annotations and Rekor v1 carry it."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @cached_property
    def chain_pem(self) -> bytes:
        """What cosign's chain annotation holds: the intermediates, one after the other, and the root."""
        return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in (*self.offered, self.root))


@dataclass(frozen=True)
class CtLog:
    """A certificate transparency log: the key that signs SCTs (P-256, SHA-256)."""

    key: Signer
    other: Signer  #: the key of a log that nobody trusts

    @property
    def log_id(self) -> bytes:
        """sha256 of the SPKI."""
        return bytes.fromhex(self.key.fingerprint)

    def sct_list(self, precertificate: x509.Certificate, issuer: x509.Certificate, at: datetime, fault: Fault | None) -> bytes:
        """The value of the SCT extension for a certificate that has none yet (RFC 6962, sections 3.2 and 3.3)."""
        spki = issuer.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        digest = hashes.Hash(hashes.SHA256())
        digest.update(spki)
        tbs = precertificate.tbs_certificate_bytes
        if fault == "SCT of another certificate":
            tbs = broken(tbs)
        milliseconds = int(at.timestamp() * 1000)
        signed = struct.pack(">BBQH", 0, 0, milliseconds, 1) + digest.finalize()
        signed += len(tbs).to_bytes(3, "big") + tbs + b"\0\0"
        by = self.other if fault == "SCT by another log" else self.key
        signature = by.sign(signed)
        if fault == "SCT broken":
            signature = broken(signature)
        sct = struct.pack(">B32sQH", 0, bytes.fromhex(by.fingerprint), milliseconds, 0)
        sct += struct.pack(">BBH", 4, 3, len(signature)) + signature  # SHA-256, ECDSA
        return der.octets(struct.pack(">HH", len(sct) + 2, len(sct)) + sct)


class CertificateAuthority:
    """Issues leaves; :meth:`chain` is what a trusted root lists."""

    def __init__(self, name: str, ct: CtLog | None) -> None:
        """``ct`` is the log whose SCTs go into the leaves. Without one the authority is like GitHub's, one level deeper."""
        self.name = name
        self.ct = ct
        self._root = Signer.of("p384", f"{name} CA root")
        self._middle = Signer.of("p384", f"{name} CA level 1")
        self._issuer = Signer.of("p384", f"{name} CA issuer")
        self._sub = Signer.of("p384", f"{name} CA sub")  # of the CA that pathlen 0 forbids
        self._foreign = Signer.of("p384", f"{name} CA foreign")  # of whoever pretends to be this authority
        self._chains: dict[tuple[Fault | None, datetime | None], tuple[x509.Certificate, ...]] = {}

    @property
    def organization(self) -> str:
        """In every subject of the authority."""
        return f"{self.name}.test"

    @property
    def common_name(self) -> str:
        """Of the root."""
        return f"{self.name} root"

    # -- the authority's own certificates --------------------------------------------------------------------------

    def chain(self, at: datetime, fault: Fault | None = None) -> tuple[x509.Certificate, ...]:
        """Issuer first, root last; the same certificates each time. ``at`` is the time of signing, which faults are around."""
        kind = fault if fault in _CHAIN_FAULTS else None
        key = (kind, at if kind is not None and "signing time" in kind else None)
        if key not in self._chains:
            self._chains[key] = self._chain(at, kind)
        return self._chains[key]

    def _chain(self, at: datetime, fault: Fault | None) -> tuple[x509.Certificate, ...]:
        ends = at - _SECOND if fault == "CA expired at signing time" else _END
        begins = at + _SECOND if fault == "CA not yet valid at signing time" else _BEGIN
        by = self._foreign if fault == "intermediate by another root" else self._root
        root_ends = at - _SECOND if fault == "CA root expired at signing time" else _END
        root = self._ca("root", self._root, "root", self._root, None, _BEGIN, root_ends)
        above: tuple[x509.Certificate, ...] = (root,)
        parent = "root"
        if self.ct is None:
            above = (self._ca("level 1", self._middle, "root", self._root, 1, _BEGIN, _END), root)
            parent, by = "level 1", self._foreign if fault == "intermediate by another root" else self._middle
        issuer = self._ca(
            "issuer",
            self._issuer,
            parent,
            by,
            None if fault == "intermediate is no CA" else 0,
            begins,
            ends,
            ca=fault != "intermediate is no CA",
            usage=ExtendedKeyUsageOID.SERVER_AUTH
            if fault == "intermediate with another EKU"
            else ExtendedKeyUsageOID.CODE_SIGNING,
        )
        if fault == "pathlen broken":
            usage = ExtendedKeyUsageOID.CODE_SIGNING
            return (self._ca("sub", self._sub, "issuer", self._issuer, 0, _BEGIN, _END, usage=usage), issuer, *above)
        return (issuer, *above)

    def _name(self, role: str) -> x509.Name:
        return x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, self.organization),
                x509.NameAttribute(NameOID.COMMON_NAME, f"{self.name} {role}"),
            ]
        )

    def _ca(
        self,
        role: str,
        key: Signer,
        issuer: str,
        by: Signer,
        path_length: int | None,
        begins: datetime,
        ends: datetime,
        *,
        ca: bool = True,
        usage: ObjectIdentifier | None = None,
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(self._name(role))
            .issuer_name(self._name(issuer))
            .public_key(key.private.public_key())
            .serial_number(serial(self.name, role, key.fingerprint, issuer, begins, ends))
            .not_valid_before(begins)
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca, path_length), critical=True)
            .add_extension(key_usage("key_cert_sign", "crl_sign"), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.private.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.private.public_key()), critical=False)
        )
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        assert isinstance(by.private, ec.EllipticCurvePrivateKey)
        return certified(builder, by.private, hashes.SHA384())

    # -- leaves ----------------------------------------------------------------------------------------------------

    def issue(
        self,
        key: Signer,
        *,
        identity: str,
        san: SanKind,
        issuer: str,
        claims: Mapping[str, str],
        at: datetime,
        fault: Fault | None = None,
    ) -> Leaf:
        """A leaf for ``key``, valid around ``at``."""
        signing = self._issuer
        above = self.chain(at, fault)
        issuing, offered = above[0], above[:-1]
        if fault == "pathlen broken":
            signing = self._sub
        elif fault == "leaf by another CA":
            signing = self._foreign
        elif fault == "leaf by a leaf":
            signing = Signer.of("p384", f"{self.name} leaf that issues")
            between = self.issue(signing, identity=identity, san=san, issuer=issuer, claims=claims, at=at)
            issuing, offered = between.certificate, (between.certificate, *offered)
        builder = self._leaf(key, issuing, identity, san, issuer, claims, at, fault)
        assert isinstance(signing.private, ec.EllipticCurvePrivateKey)
        if self.ct is not None and fault != "SCT missing":
            precertificate = certified(builder, signing.private, hashes.SHA384())
            scts = self.ct.sct_list(precertificate, issuing, at, fault)
            builder = builder.add_extension(x509.UnrecognizedExtension(_SCT_LIST, scts), critical=False)
        leaf = certified(builder, signing.private, hashes.SHA384())
        if fault == "leaf signature broken":
            leaf = x509.load_der_x509_certificate(broken(leaf.public_bytes(serialization.Encoding.DER)))
        return Leaf(leaf, offered, above[-1])

    def _leaf(
        self,
        key: Signer,
        issuing: x509.Certificate,
        identity: str,
        san: SanKind,
        issuer: str,
        claims: Mapping[str, str],
        at: datetime,
        fault: Fault | None,
    ) -> x509.CertificateBuilder:
        begins, ends = at - BEFORE, at + AFTER
        match fault:
            case "leaf expired":
                begins, ends = begins - AFTER, at - _SECOND
            case "leaf not yet valid":
                begins = at + _SECOND
            case "leaf ends at signing":
                ends = at
            case "leaf starts at signing":
                begins = at
            case _:
                pass
        usage = "key_encipherment" if fault == "wrong key usage" else "digital_signature"
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if fault == "wrong EKU" else ExtendedKeyUsageOID.CODE_SIGNING
        public = key.private.public_key()
        identifier = issuing.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(issuing.subject)
            .public_key(public)
            .serial_number(serial(self.name, key.fingerprint, identity, issuer, sorted(claims.items()), at, fault))
            .not_valid_before(begins)
            .not_valid_after(ends)
            .add_extension(key_usage(usage), critical=True)
        )
        if fault != "no EKU":
            builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        if fault == "leaf is a CA":
            builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
        )
        if fault != "no SAN":
            builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(identity, san)]), critical=True)
        other = f"{issuer}/other" if fault == "issuer extensions differ" else issuer
        values = {1: issuer.encode(), 8: der.utf8(other)} | {CLAIMS[name]: der.utf8(text) for name, text in claims.items()}
        for arc, value in values.items():
            extension = x509.UnrecognizedExtension(ObjectIdentifier(f"{_FULCIO}.{arc}"), value)
            builder = builder.add_extension(extension, critical=False)
        return builder


def key_usage(*usages: str) -> x509.KeyUsage:
    """The extension with these bits set."""
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(*(name in usages for name in names))


def _general_name(identity: str, san: SanKind) -> x509.GeneralName:
    match san:
        case "email":
            return x509.RFC822Name(identity)
        case "uri":
            return x509.UniformResourceIdentifier(identity)
        case "other name":
            return x509.OtherName(ObjectIdentifier(f"{_FULCIO}.7"), der.utf8(identity))
