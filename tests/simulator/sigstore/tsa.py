"""A timestamp authority (RFC 3161): root → leaf with a critical ``timeStamping`` purpose, responses and bare tokens.

A response is a ``TimeStampResp`` whose token is CMS SignedData (RFC 5652) over a ``TSTInfo``, with the attributes content type,
signing time, message digest and signing-certificate-v2 (RFC 5816). What Notary Project signatures hold is the bare token.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.simulator.signing import Signer, certified, serial
from tests.simulator.sigstore import der
from tests.simulator.sigstore.ca import AFTER, BEFORE, broken, key_usage
from tests.simulator.sigstore.faults import Fault

_BEGIN = datetime(2022, 1, 1, tzinfo=UTC)
_END = datetime(2052, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_HASHES = {"sha256": "2.16.840.1.101.3.4.2.1", "sha384": "2.16.840.1.101.3.4.2.2", "sha512": "2.16.840.1.101.3.4.2.3"}
_SIGNED_DATA = "1.2.840.113549.1.7.2"
_TST_INFO = "1.2.840.113549.1.9.16.1.4"
_POLICY = "1.3.6.1.4.1.57264.2"
_ECDSA_SHA256 = "1.2.840.10045.4.3.2"


class TimestampAuthority:
    """Stamps bytes; :meth:`chain` is what a trusted root lists."""

    def __init__(self, name: str, servers: tuple[x509.ExtensionType, ...] = ()) -> None:
        """``servers``: extensions of the leaf that say who tells whether it is revoked."""
        self.name = name
        self._servers = servers
        self._root = Signer.of("p384", f"{name} TSA root")
        self._key = Signer.of("p256", f"{name} TSA leaf")
        self._foreign = Signer.of("p384", f"{name} TSA foreign root")
        self._foreign_key = Signer.of("p256", f"{name} TSA foreign leaf")
        self._chains: dict[tuple[str, datetime | None], tuple[x509.Certificate, ...]] = {}

    @property
    def root_key(self) -> Signer:
        """The key of the root."""
        return self._root

    @property
    def organization(self) -> str:
        """In every subject of the authority."""
        return f"{self.name}.test"

    @property
    def common_name(self) -> str:
        """Of the root."""
        return f"{self.name} timestamps root"

    def chain(self, at: datetime, fault: Fault | None = None) -> tuple[x509.Certificate, ...]:
        """Leaf first, root last; the same certificates each time. ``at`` is the time of signing, around which the faults are."""
        kind = fault if fault is not None and fault.startswith("TSA leaf") else ""
        key = (kind, at if kind == "TSA leaf expired" else None)
        if key not in self._chains:
            root = self._certificate("root", self._root, self._root, _END, ca=True)
            by = self._foreign if kind == "TSA leaf by another CA" else self._root
            ends = at - _SECOND if kind == "TSA leaf expired" else _END
            purpose = None if kind == "TSA leaf without EKU" else ExtendedKeyUsageOID.TIME_STAMPING
            critical = kind != "TSA leaf EKU not critical"
            leaf = self._certificate("leaf", self._key, by, ends, purpose=purpose, critical=critical)
            self._chains[key] = (leaf, root)
        return self._chains[key]

    def _certificate(
        self,
        role: str,
        key: Signer,
        by: Signer,
        ends: datetime,
        *,
        ca: bool = False,
        purpose: x509.ObjectIdentifier | None = None,
        critical: bool = True,
    ) -> x509.Certificate:
        def name(role: str) -> x509.Name:
            return x509.Name(
                [
                    x509.NameAttribute(NameOID.ORGANIZATION_NAME, self.organization),
                    x509.NameAttribute(NameOID.COMMON_NAME, f"{self.name} timestamps {role}"),
                ]
            )

        public = key.private.public_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(role))
            .issuer_name(name("root"))
            .public_key(public)
            .serial_number(serial(self.name, role, key.fingerprint, by.fingerprint, ends, purpose, critical))
            .not_valid_before(_BEGIN)
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
            .add_extension(key_usage(*(("key_cert_sign", "crl_sign") if ca else ("digital_signature",))), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.private.public_key()), critical=False)
        )
        if purpose is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=critical)
        for extension in () if ca else self._servers:
            builder = builder.add_extension(extension, critical=False)
        assert isinstance(by.private, ec.EllipticCurvePrivateKey)
        return certified(builder, by.private, hashes.SHA384())

    # -- stamping --------------------------------------------------------------------------------------------------

    def response(
        self,
        stamped: bytes,
        at: datetime,
        *,
        serial: int = 1,
        accuracy: timedelta | None = None,
        algorithm: Literal["sha256", "sha384", "sha512"] = "sha256",
        certificates: bool = True,
        fault: Fault | None = None,
    ) -> bytes:
        """A TimeStampResp over ``stamped``."""
        status = der.sequence(der.integer(2 if fault == "timestamp rejected" else 0))
        token = self.token(
            stamped, at, serial=serial, accuracy=accuracy, algorithm=algorithm, certificates=certificates, fault=fault
        )
        return der.sequence(status, token)

    def token(
        self,
        stamped: bytes,
        at: datetime,
        *,
        serial: int = 1,
        accuracy: timedelta | None = None,
        algorithm: Literal["sha256", "sha384", "sha512"] = "sha256",
        certificates: bool = True,
        fault: Fault | None = None,
    ) -> bytes:
        """A bare token: ContentInfo. ``certificates``: whether the chain is inside."""
        signing_time = at
        chain, key = self.chain(at, fault), self._key
        if fault == "timestamp by another TSA":
            root = self._certificate("root", self._foreign, self._foreign, _END, ca=True)
            purpose = ExtendedKeyUsageOID.TIME_STAMPING
            chain = (self._certificate("leaf", self._foreign_key, self._foreign, _END, purpose=purpose), root)
            key = self._foreign_key
        elif fault == "timestamp before the certificate":
            at = at - BEFORE - _SECOND
        elif fault == "timestamp after the certificate":
            at = at + AFTER + _SECOND
        elif fault == "timestamp over other bytes":
            stamped += b" "
        info = self._info(stamped, at, serial, accuracy, algorithm)
        told = self._info(stamped, at + _SECOND, serial, accuracy, algorithm) if fault == "timestamp altered" else info
        return self._signed_data(info, told, chain, key, signing_time, certificates, fault)

    def _info(self, stamped: bytes, at: datetime, serial: int, accuracy: timedelta | None, algorithm: str) -> bytes:
        """TSTInfo (RFC 3161, section 2.4.2)."""
        imprint = der.sequence(_algorithm(_HASHES[algorithm]), der.octets(hashlib.new(algorithm, stamped).digest()))
        parts = [der.integer(1), der.oid(_POLICY), imprint, der.integer(serial), der.generalized_time(at)]
        if accuracy is not None:
            members = [der.integer(int(accuracy.total_seconds()))]
            if accuracy.microseconds:
                members.append(der.tlv(0x80, der.integer(accuracy.microseconds // 1000)[2:]))
            parts.append(der.sequence(*members))
        return der.sequence(*parts)

    def _signed_data(
        self,
        info: bytes,
        told: bytes,
        chain: tuple[x509.Certificate, ...],
        key: Signer,
        at: datetime,
        certificates: bool,
        fault: Fault | None,
    ) -> bytes:
        """``info`` is what is signed, ``told`` what the token holds."""
        leaf = chain[0]
        encoded = [each.public_bytes(serialization.Encoding.DER) for each in chain]
        identified = der.sequence(der.sequence(der.sequence(der.octets(hashlib.sha256(encoded[0]).digest()))))
        attributes = [
            _attribute("1.2.840.113549.1.9.3", der.oid(_TST_INFO)),
            _attribute("1.2.840.113549.1.9.4", der.octets(hashlib.sha256(info).digest())),
            _attribute("1.2.840.113549.1.9.5", der.utc_time(at)),
        ]
        if fault != "timestamp without a certificate id":
            attributes.append(_attribute("1.2.840.113549.1.9.16.2.47", identified))
        signature = key.sign(der.set_of(*attributes))
        signer = der.sequence(
            der.integer(1),
            der.sequence(leaf.issuer.public_bytes(), der.integer(leaf.serial_number)),
            _algorithm(_HASHES["sha256"]),
            der.explicit(0, *sorted(attributes)),
            der.sequence(der.oid(_ECDSA_SHA256)),
            der.octets(broken(signature) if fault == "timestamp broken" else signature),
        )
        data = [
            der.integer(3),
            der.set_of(_algorithm(_HASHES["sha256"])),
            der.sequence(der.oid(_TST_INFO), der.explicit(0, der.octets(told))),
        ]
        if certificates:
            data.append(der.explicit(0, *sorted(encoded)))
        return der.sequence(der.oid(_SIGNED_DATA), der.explicit(0, der.sequence(*data, der.set_of(signer))))


def _algorithm(dotted: str) -> bytes:
    return der.sequence(der.oid(dotted), der.tlv(0x05))


def _attribute(dotted: str, value: bytes) -> bytes:
    return der.sequence(der.oid(dotted), der.set_of(value))
