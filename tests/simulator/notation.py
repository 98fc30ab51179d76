"""Notary Project signatures for tests: chains, JWS and COSE envelopes, signature manifests, right or wrong on purpose.

Pure builders. Each takes a ``fault`` by name; what comes out is wrong in exactly that way and right in every other. A timestamp
is put in by a function from the primitive signature to a token, such as ``token`` of :mod:`tests.simulator.sigstore.tsa`.

::

    acme = issue("p256", "acme")
    registry.push("team/app", notation_signature(acme, image))          # a referrer
    Path("acme-ca.pem").write_bytes(acme.root_pem)
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Literal

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.simulator import images
from tests.simulator.images import Blob, Image
from tests.simulator.signing import KeyKind, Signer, certified, serial
from tests.simulator.sigstore.ca import broken, key_usage

Form = Literal["jws", "cose"]
ARTIFACT_TYPE = "application/vnd.cncf.notary.signature"
MEDIA_TYPES: Mapping[Form, str] = {"jws": "application/jose+json", "cose": "application/cose"}
PAYLOAD_TYPE = "application/vnd.cncf.notary.payload.v1+json"
THUMBPRINT = "io.cncf.notary.x509chain.thumbprint#S256"
SCHEME = "io.cncf.notary.signingScheme"
SIGNING_TIME = "io.cncf.notary.signingTime"
AUTHENTIC_TIME = "io.cncf.notary.authenticSigningTime"
EXPIRY = "io.cncf.notary.expiry"
TIMESTAMP = "io.cncf.notary.timestampSignature"
PLUGIN = "io.cncf.notary.verificationPlugin"

ChainFault = Literal[
    "leaf is a CA",
    "leaf without key usage",
    "leaf key usage not critical",
    "leaf without digitalSignature",
    "leaf key also enciphers",
    "leaf for servers",
    "leaf for timestamps",
    "leaf for documents",
    "leaf for purposes of its own",
    "leaf for no purpose",  # which the extension would name: that is no fault at all
    "issuer is no CA",
    "issuer without key usage",
    "issuer constraints not critical",
    "issuer may not sign certificates",
    "issuer with another key",  # of the same name: it did not issue the leaf
    "path length exceeded",
    "no root",  # the chain ends in the intermediate
    "out of order",
    "root twice",
    "root with a key of another kind",
    "signed with SHA-224",
]

EnvelopeFault = Literal[
    "signature broken",
    "signature by another key",
    "signature as DER",  # as everywhere but in JWS and COSE
    "payload changed",
    "another algorithm",
    "no crit",
    "crit without scheme",
    "crit names a stranger",
    "crit names what is absent",
    "crit twice",
    "plugin",
    "plugin, not critical",
    "unknown scheme",
    "no signing time",
    "both signing times",
    "time of no form",
    "expiry not critical",
    "another payload type",
    "attribute twice",  # signed, and again not signed
    "crit not signed",
    "no certificates",
    "17 certificates",
    "certificate of noise",
    "another digest",
    "another size",
    "size as text",
    "another media type",
    "no target",
    "payload is no JSON",
    "timestamp of another type",
]
JwsFault = Literal[
    "not JSON", "unknown key", "padded", "not canonical", "b64", "keys twice", "general form", "crit of a registered name"
]
CoseFault = Literal[
    "no tag",
    "another tag",
    "three parts",
    "detached",
    "indefinite length",
    "label twice",
    "true as label",
    "tag of a regular expression",
    "something behind",
    "too deep",
    "cut off",
    "header is a list",
    "protected header is a list",
    "one certificate, bare",
    "algorithm as text",
    "too many items",
]
Fault = ChainFault | EnvelopeFault | JwsFault | CoseFault

_BEGIN = datetime(2024, 1, 1, tzinfo=UTC)
_END = datetime(2034, 1, 1, tzinfo=UTC)
_SIGNED = datetime(2026, 5, 1, 12, tzinfo=UTC)
_ALGORITHMS: Mapping[str, tuple[str, int, hashes.HashAlgorithm]] = {
    "rsa2048": ("PS256", -37, hashes.SHA256()),
    "rsa3072": ("PS384", -38, hashes.SHA384()),
    "rsa4096": ("PS512", -39, hashes.SHA512()),
    "p256": ("ES256", -7, hashes.SHA256()),
    "p384": ("ES384", -35, hashes.SHA384()),
    "p521": ("ES512", -36, hashes.SHA512()),
}


# -- chains ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Issued:
    """A signer with its chain."""

    signer: Signer
    chain: tuple[x509.Certificate, ...]  #: leaf first, root last
    fault: ChainFault | None = None
    keys: tuple[Signer, ...] = ()  #: of each certificate of the chain

    @property
    def root_pem(self) -> bytes:
        """The last certificate of the chain, for a trust store."""
        return self.chain[-1].public_bytes(serialization.Encoding.PEM)

    @property
    def ders(self) -> list[bytes]:
        """The chain as DER."""
        return [each.public_bytes(serialization.Encoding.DER) for each in self.chain]


def subject(common_name: str, *more: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    """C=DE, ST=BE, O=acme and a common name."""
    parts = [
        (NameOID.COUNTRY_NAME, "DE"),
        (NameOID.STATE_OR_PROVINCE_NAME, "BE"),
        (NameOID.ORGANIZATION_NAME, "acme"),
        *more,
        (NameOID.COMMON_NAME, common_name),
    ]
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts])


@lru_cache(maxsize=256)
def issue(
    kind: KeyKind = "p256",
    name: str = "acme",
    *,
    depth: int = 3,
    begins: datetime = _BEGIN,
    ends: datetime = _END,
    fault: ChainFault | None = None,
    servers: tuple[x509.ExtensionType, ...] = (),
) -> Issued:
    """A signer whose chain has ``depth`` certificates: leaf, intermediates, root; with 1 the leaf is self-signed.

    ``begins`` and ``ends`` are the leaf's; the others hold for longer. ``servers``: extensions of all but the root that say who
    tells whether they are revoked (:mod:`tests.simulator.revocation`).
    """
    leaf_key = Signer.of(kind, f"{name} leaf")
    if depth == 1:
        own = _leaf(leaf_key, name, leaf_key, subject(name), begins, ends, fault, ())
        return Issued(leaf_key, (own,), fault, (leaf_key,))
    roles = ["root", *(f"intermediate {number}" for number in range(1, depth - 1))]
    keys = [Signer.of("p384", f"{name} {role}") for role in roles]
    if fault == "root with a key of another kind":
        keys[0] = Signer.of("ed25519", f"{name} {roles[0]}")
    authorities: list[x509.Certificate] = []
    for number, (role, key) in enumerate(zip(roles, keys, strict=True)):
        by, issuer = (key, subject(role)) if number == 0 else (keys[number - 1], authorities[-1].subject)
        last = number == len(roles) - 1
        authorities.append(
            _authority(
                key,
                subject(role),
                by,
                issuer,
                fault if last or number == 0 else None,
                number == 0,
                last,
                () if number == 0 else servers,
            )
        )
    leaf = _leaf(leaf_key, name, keys[-1], authorities[-1].subject, begins, ends, fault, servers)
    chain = [leaf, *reversed(authorities)]
    if fault == "no root":
        chain = chain[:-1]
    elif fault == "out of order":
        chain[1:3] = reversed(chain[1:3])
    elif fault == "root twice":
        chain.append(chain[-1])
    elif fault == "issuer with another key":
        stranger = Signer.of("p384", f"{name} stranger")
        chain[1] = _authority(stranger, chain[1].subject, keys[-2], chain[1].issuer, None, False, True, ())
    return Issued(leaf_key, tuple(chain), fault, (leaf_key, *reversed(keys)))


def _authority(
    key: Signer,
    name: x509.Name,
    by: Signer,
    issuer: x509.Name,
    fault: ChainFault | None,
    root: bool,
    last: bool,
    servers: tuple[x509.ExtensionType, ...],
) -> x509.Certificate:
    faulty = fault if last else None
    limit = 0 if fault == "path length exceeded" and root else None
    builder = _builder(key, name, issuer, datetime(2020, 1, 1, tzinfo=UTC), datetime(2044, 1, 1, tzinfo=UTC))
    is_ca = faulty != "issuer is no CA"
    builder = builder.add_extension(
        x509.BasicConstraints(is_ca, limit if is_ca else None), critical=faulty != "issuer constraints not critical"
    )
    if faulty != "issuer without key usage":
        usage = "digital_signature" if faulty == "issuer may not sign certificates" else "key_cert_sign"
        builder = builder.add_extension(key_usage(usage, "crl_sign"), critical=True)
    for extension in servers:
        builder = builder.add_extension(extension, critical=False)
    return _signed(builder, by, hashes.SHA384())


def _leaf(
    key: Signer,
    name: str,
    by: Signer,
    issuer: x509.Name,
    begins: datetime,
    ends: datetime,
    fault: ChainFault | None,
    servers: tuple[x509.ExtensionType, ...],
) -> x509.Certificate:
    builder = _builder(key, subject(name), issuer, begins, ends)
    if fault == "leaf is a CA":
        builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
    usages = {
        "leaf without digitalSignature": ("content_commitment",),
        "leaf key also enciphers": ("digital_signature", "key_encipherment"),
    }.get(fault or "", ("digital_signature",))
    if fault != "leaf without key usage":
        builder = builder.add_extension(key_usage(*usages), critical=fault != "leaf key usage not critical")
    purposes = [ExtendedKeyUsageOID.CODE_SIGNING]
    if fault == "leaf for servers":
        purposes.append(ExtendedKeyUsageOID.SERVER_AUTH)
    elif fault == "leaf for timestamps":
        purposes = [ExtendedKeyUsageOID.TIME_STAMPING]
    elif fault == "leaf for documents":
        purposes = [x509.ObjectIdentifier("1.3.6.1.5.5.7.3.36")]
    elif fault == "leaf for purposes of its own":
        purposes = [x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), x509.ObjectIdentifier("1.3.6.1.4.1.55555.2")]
    if fault != "leaf for no purpose":
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    for extension in servers:
        builder = builder.add_extension(extension, critical=False)
    return _signed(builder, by, hashes.SHA224() if fault == "signed with SHA-224" else hashes.SHA256())


def _builder(key: Signer, name: x509.Name, issuer: x509.Name, begins: datetime, ends: datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.private.public_key())
        .serial_number(serial(key.fingerprint, name, issuer, begins, ends))
        .not_valid_before(begins)
        .not_valid_after(ends)
    )


def _signed(
    builder: x509.CertificateBuilder, by: Signer, digest: hashes.SHA224 | hashes.SHA256 | hashes.SHA384
) -> x509.Certificate:
    return certified(builder, by.private, digest)


# -- envelopes ------------------------------------------------------------------------------------------------------


def payload_of(target: Image, fault: Fault | None = None, annotations: Mapping[str, str] | None = None) -> bytes:
    """The payload that names ``target``."""
    if fault == "payload is no JSON":
        return b"targetArtifact"
    named: dict[str, Any] = {"mediaType": target.media_type, "digest": str(target.digest), "size": len(target.body)}
    if annotations:
        named["annotations"] = dict(annotations)
    if fault == "another digest":
        named["digest"] = "sha256:" + hashlib.sha256(b"another").hexdigest()
    elif fault == "another size":
        named["size"] += 1
    elif fault == "size as text":
        named["size"] = str(named["size"])
    elif fault == "another media type":
        named["mediaType"] = "application/vnd.oci.image.config.v1+json"
    return json.dumps({"target" if fault == "no target" else "targetArtifact": named}).encode()


def envelope(
    issued: Issued,
    target: Image,
    form: Form = "jws",
    *,
    authority: bool = False,
    signed_at: datetime = _SIGNED,
    expiry: datetime | None = None,
    stamp: Callable[[bytes], bytes] | None = None,
    annotations: Mapping[str, str] | None = None,
    fault: Fault | None = None,
) -> bytes:
    """An envelope. With ``authority`` the scheme is ``notary.x509.signingAuthority``, and ``signed_at`` the authentic time."""
    payload = payload_of(target, fault, annotations)
    attributes = _attributes(authority, signed_at, expiry, fault)
    chain = [] if fault == "no certificates" else issued.ders
    if fault == "17 certificates":
        chain = [chain[0]] * 17
    elif fault == "certificate of noise":
        chain[-1] = images.noise("certificate", 300)
    build = _jws if form == "jws" else _cose
    return build(issued.signer, payload, attributes, chain, stamp, fault)


def _attributes(authority: bool, signed_at: datetime, expiry: datetime | None, fault: Fault | None) -> dict[str, Any]:
    """Protected attributes by their names; times as they are; ``crit`` and ``cty`` by these names."""
    scheme = "notary.x509.signingAuthority" if authority else "notary.x509"
    time = AUTHENTIC_TIME if authority else SIGNING_TIME
    critical = [SCHEME, *([AUTHENTIC_TIME] if authority else []), *([EXPIRY] if expiry else [])]
    attributes: dict[str, Any] = {
        "cty": "application/json" if fault == "another payload type" else PAYLOAD_TYPE,
        SCHEME: "notary.x509.unknown" if fault == "unknown scheme" else scheme,
        time: "yesterday" if fault == "time of no form" else signed_at,
    }
    if expiry:
        attributes[EXPIRY] = expiry
    match fault:
        case "no signing time":
            del attributes[time]
        case "both signing times":
            attributes |= {SIGNING_TIME: signed_at, AUTHENTIC_TIME: signed_at}
            critical = [SCHEME, AUTHENTIC_TIME]
        case "crit without scheme":
            critical = [EXPIRY]
            attributes[EXPIRY] = signed_at + timedelta(days=3650)
        case "crit names a stranger":
            critical.append("com.example.stranger")
            attributes["com.example.stranger"] = "x"
        case "crit names what is absent":
            critical.append(AUTHENTIC_TIME)
        case "crit twice":
            critical.append(SCHEME)
        case "expiry not critical":
            attributes[EXPIRY] = signed_at + timedelta(days=3650)
        case "plugin" | "plugin, not critical":
            attributes[PLUGIN] = "com.example.plugin"
            critical += [PLUGIN] if fault == "plugin" else []
        case "crit of a registered name":
            critical.append("alg")
    if fault != "no crit":
        attributes["crit"] = critical
    return attributes


def _primitive(signer: Signer, message: bytes, fault: Fault | None) -> bytes:
    """RSASSA-PSS, or ECDSA with both numbers side by side."""
    if fault == "signature by another key":
        signer = Signer.of(signer.kind, "notation stranger")
    digest = _ALGORITHMS[signer.kind][2]
    private = signer.private
    if isinstance(private, rsa.RSAPrivateKey):
        if fault == "signature as DER":
            return private.sign(message, padding.PKCS1v15(), digest)
        return private.sign(message, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    encoded = private.sign(message, ec.ECDSA(digest, deterministic_signing=True))
    if fault == "signature as DER":
        return encoded
    size = (private.curve.key_size + 7) // 8
    return b"".join(number.to_bytes(size, "big") for number in decode_dss_signature(encoded))


def _algorithm(signer: Signer, fault: Fault | None) -> tuple[str, int]:
    if fault == "another algorithm":
        return ("ES512", -36) if signer.kind != "p521" else ("ES256", -7)
    return _ALGORITHMS[signer.kind][:2]


def _finish(signature: bytes, fault: Fault | None) -> bytes:
    return broken(signature) if fault == "signature broken" else signature


def b64url(data: bytes) -> str:
    """As JWS has it, without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _jws(
    signer: Signer,
    payload: bytes,
    attributes: dict[str, Any],
    chain: list[bytes],
    stamp: Callable[[bytes], bytes] | None,
    fault: Fault | None,
) -> bytes:
    protected = {"alg": _algorithm(signer, fault)[0]} | {
        key: value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value
        for key, value in attributes.items()
    }
    if fault == "b64":
        protected["b64"] = False
    head = json.dumps(protected).encode()
    if fault == "keys twice":
        head = head[:-1] + b', "alg": "none"}'
    signing_input = f"{b64url(head)}.{b64url(payload)}".encode()
    signature = _primitive(signer, signing_input, fault)
    header: dict[str, Any] = {
        "x5c": [base64.b64encode(der).decode() for der in chain],
        "io.cncf.notary.signingAgent": "tests/1.0",
    }
    if stamp is not None:
        header[TIMESTAMP] = base64.b64encode(stamp(signature)).decode()
    if fault == "timestamp of another type":
        header[TIMESTAMP] = 1
    elif fault == "attribute twice":
        header[SCHEME] = "notary.x509"
    elif fault == "crit not signed":
        header["crit"] = [SCHEME]
        protected.pop("crit")
        head = json.dumps(protected).encode()
    encoded = {
        "payload": b64url(payload.replace(b"size", b"sizE") if fault == "payload changed" else payload),
        "protected": b64url(head),
        "signature": b64url(_finish(signature, fault)),
    }
    if fault == "padded":
        encoded["protected"] += "=" * (-len(encoded["protected"]) % 4 or 4)
    elif fault == "not canonical":
        # The last letter of this length carries spare bits: 64 bytes are 86 letters.
        encoded["signature"] = encoded["signature"][:-1] + chr(ord(encoded["signature"][-1]) + 1)
    document: dict[str, Any] = {**encoded, "header": header}
    if fault == "unknown key":
        document["signatures"] = []
    elif fault == "general form":
        document = {"payload": document["payload"], "signatures": [{k: v for k, v in document.items() if k != "payload"}]}
    return b"{" if fault == "not JSON" else json.dumps(document).encode()


def _cose(
    signer: Signer,
    payload: bytes,
    attributes: dict[str, Any],
    chain: list[bytes],
    stamp: Callable[[bytes], bytes] | None,
    fault: Fault | None,
) -> bytes:
    labels = {"cty": 3, "crit": 2}
    algorithm: Any = "ES256" if fault == "algorithm as text" else _algorithm(signer, fault)[1]
    protected: dict[Any, Any] = {1: algorithm}
    for key, value in attributes.items():
        moment = cbor2.CBORTag(1, int(value.timestamp())) if isinstance(value, datetime) else value
        protected[labels.get(key, key)] = moment
    match fault:
        case "tag of a regular expression":
            protected["com.example.pattern"] = cbor2.CBORTag(35, "a")
        case "too deep":
            deep: Any = 1
            for _ in range(20):
                deep = [deep]
            protected["com.example.deep"] = deep
        case "too many items":
            protected["com.example.many"] = [0] * 5000
        case "crit not signed":
            protected.pop(2)
    raw = cbor2.dumps(protected)
    if fault == "label twice":
        raw = bytes([raw[0] + 1]) + raw[1:] + cbor2.dumps(1) + cbor2.dumps(-37)
    elif fault == "true as label":
        raw = bytes([raw[0]]) + cbor2.dumps(True) + raw[2:]
    elif fault == "protected header is a list":
        raw = cbor2.dumps([1])
    signature = _primitive(signer, cbor2.dumps(["Signature1", raw, b"", payload]), fault)
    header: dict[Any, Any] = {33: list(chain), "io.cncf.notary.signingAgent": "tests/1.0"}
    if stamp is not None:
        header[TIMESTAMP] = stamp(signature)
    match fault:
        case "one certificate, bare":
            header[33] = chain[0]
        case "timestamp of another type":
            header[TIMESTAMP] = "text"
        case "attribute twice":
            header[SCHEME] = "notary.x509"
        case "crit not signed":
            header[2] = [SCHEME]
    told: Any = payload.replace(b"size", b"sizE") if fault == "payload changed" else payload
    parts: list[Any] = [raw, header, None if fault == "detached" else told, _finish(signature, fault)]
    if fault == "three parts":
        parts.pop()
    elif fault == "header is a list":
        parts[1] = [1]
    if fault == "no tag":
        return cbor2.dumps(parts)
    whole = cbor2.dumps(cbor2.CBORTag(98 if fault == "another tag" else 18, parts))
    if fault == "indefinite length":
        return whole[:1] + b"\x9f" + whole[2:] + b"\xff"
    if fault == "something behind":
        return whole + b"\0"
    return whole[:-3] if fault == "cut off" else whole


# -- manifests ------------------------------------------------------------------------------------------------------


def notation_manifest(body: bytes, target: Image, form: Form = "jws", chain: tuple[x509.Certificate, ...] = ()) -> Image:
    """The referrer that holds an envelope."""
    prints = [each.fingerprint(hashes.SHA256()).hex() for each in chain]
    return images.artifact(
        ARTIFACT_TYPE,
        [(Blob(MEDIA_TYPES[form], body), None)],
        subject=target.descriptor,
        annotations={THUMBPRINT: json.dumps(prints)},
    )


def notation_signature(issued: Issued, target: Image, form: Form = "jws", **more: Any) -> Image:
    """The referrer that signs ``target``; keywords as for :func:`envelope`."""
    return notation_manifest(envelope(issued, target, form, **more), target, form, issued.chain)
