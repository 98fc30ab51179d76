"""Certificates of every shape, for tests of chains: authorities and signers that are right unless the test says otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from tests.simulator.sigstore.ca import key_usage

BEGIN, END = datetime(2024, 1, 1, tzinfo=UTC), datetime(2044, 1, 1, tzinfo=UTC)
_PURPOSES = {
    "code": ExtendedKeyUsageOID.CODE_SIGNING,
    "server": ExtendedKeyUsageOID.SERVER_AUTH,
    "any": ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
}
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


class Party:
    """Somebody with a certificate: a signer, unless ``ca``. Without an issuer it is self-signed."""

    def __init__(
        self,
        name: str,
        issuer: Party | None = None,
        *,
        ca: bool = False,
        path_length: int | None = None,
        usage: Sequence[str] | None = None,
        purposes: Sequence[str] = ("code",),
        names: Sequence[x509.GeneralName] = (x509.RFC822Name("release@example.test"),),
        begin: datetime = BEGIN,
        end: datetime = END,
        key: Key | None = None,
        curve: ec.EllipticCurve | None = None,
        more: Sequence[tuple[str, bytes, bool]] = (),
        name_constraints: bool = False,
    ) -> None:
        self.key: Key = key or ec.generate_private_key(curve or ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        by = issuer or self
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(by.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(end)
        )
        if ca:
            builder = builder.add_extension(x509.BasicConstraints(True, path_length), critical=True)
        if usage is not None:
            builder = builder.add_extension(key_usage(*usage), critical=True)
        if purposes:
            builder = builder.add_extension(x509.ExtendedKeyUsage([_PURPOSES[each] for each in purposes]), critical=False)
        if names and not ca:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        for oid, value, critical in more:
            extension = x509.UnrecognizedExtension(ObjectIdentifier(oid), value)
            builder = builder.add_extension(extension, critical)
        if name_constraints:
            bound = x509.NameConstraints([x509.DNSName("example.test")], None)
            builder = builder.add_extension(bound, critical=True)
        algorithm = None if isinstance(by.key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
        self.certificate = builder.sign(by.key, algorithm)

    @property
    def der(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def key_pem(self) -> bytes:
        """What must never be in a configuration."""
        return self.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def authority(
    name: str,
    issuer: Party | None = None,
    *,
    path_length: int | None = None,
    usage: Sequence[str] | None = None,
    purposes: Sequence[str] = (),
    begin: datetime = BEGIN,
    end: datetime = END,
    curve: ec.EllipticCurve | None = None,
    key: Key | None = None,
    name_constraints: bool = False,
    more: Sequence[tuple[str, bytes, bool]] = (),
) -> Party:
    """A certificate authority, plain as those of many companies: neither key usage nor purposes unless it is said."""
    return Party(
        name,
        issuer,
        ca=True,
        path_length=path_length,
        usage=usage,
        purposes=purposes,
        begin=begin,
        end=end,
        curve=curve,
        key=key,
        name_constraints=name_constraints,
        more=more,
    )


def pem(*parties: Party) -> bytes:
    """Their certificates in one file."""
    return b"".join(party.certificate.public_bytes(serialization.Encoding.PEM) for party in parties)
