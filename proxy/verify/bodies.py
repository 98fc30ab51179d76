"""What a log entry says: that it is about this very signature, by this very signer, over these very bytes.

An entry that is not bound to all three proves nothing about the signature beside which it lies (CVE-2022-36056, CVE-2026-22703).
Read are the kinds of Rekor v1 (``hashedrekord`` 0.0.1, ``dsse`` 0.0.1, ``intoto`` 0.0.1 and 0.0.2) and of Rekor v2
(``hashedrekord`` 0.0.2, ``dsse`` 0.0.2). A signer is compared as DER: the certificate for a keyless signature, else the key.

Everything raises :class:`proxy.errors.EvidenceMalformed` with a text that continues "this signature …".
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from proxy.errors import EvidenceMalformed
from proxy.verify.parsing import items, member, read_object, shown, text, unbase64

_BODY = "its log entry"
_DEPTH = 16
_MAX_BODY = 1 << 20
_MOST_SIGNATURES = 32
_HASHES: Mapping[str, str] = {"sha256": "sha256", "sha384": "sha384", "sha512": "sha512"}
_PROTOBUF_HASHES: Mapping[str, str] = {"SHA2_256": "sha256", "SHA2_384": "sha384", "SHA2_512": "sha512"}
_PEM = re.compile(rb"\s*-----BEGIN (CERTIFICATE|PUBLIC KEY)-----([A-Za-z0-9+/=\s]+)-----END \1-----\s*")


@dataclass(frozen=True, slots=True)
class Deed:
    """What an entry must be about."""

    signature: bytes
    message: bytes = field(repr=False)  #: what the signature is over (the PAE for an envelope)
    payload: bytes | None = field(repr=False)  #: of an envelope
    envelope: bytes | None = field(repr=False)  #: its JSON as it came, where that is what was logged
    signer: bytes = field(repr=False)  #: DER of the certificate, or of the key's SubjectPublicKeyInfo
    by_certificate: bool


def check_body(body: bytes, kind: tuple[str, str] | None, deed: Deed) -> str:
    """Judge whether an entry with this body is about ``deed``; its kind and version, for people.

    ``kind`` is what was said beside the body. Raises :class:`EvidenceMalformed` when the entry is about anything else.
    """
    document, said = _read(body)
    if kind is not None and kind != said:
        raise EvidenceMalformed("has a log entry that is not of the kind that it claims")
    check = _KINDS.get(said)
    if check is None:
        raise EvidenceMalformed(f"has a log entry of an unknown kind: {shown(' '.join(said))}")
    check(member(document, "spec", _BODY), deed)
    return " ".join(said)


def kind_of(body: bytes) -> tuple[str, str]:
    """Kind and version of an entry. Raises :class:`EvidenceMalformed`."""
    return _read(body)[1]


def _read(body: bytes) -> tuple[Mapping[str, object], tuple[str, str]]:
    if len(body) > _MAX_BODY:
        raise EvidenceMalformed(f"has a log entry of {len(body)} bytes; the limit is {_MAX_BODY}")
    document = read_object(body, _DEPTH, "a log entry")
    return document, (text(document, "kind", _BODY), text(document, "apiVersion", _BODY))


# -- Rekor v1 -------------------------------------------------------------------------------------------------------


def _hashedrekord_1(spec: Mapping[str, object], deed: Deed) -> None:
    signature = member(spec, "signature", _BODY)
    _same_signature(unbase64(text(signature, "content", _BODY), "the log entry's signature"), deed)
    _same_signer_pem(text(member(signature, "publicKey", _BODY), "content", _BODY), deed)
    _same_hash(member(member(spec, "data", _BODY), "hash", _BODY), deed.message)


def _dsse_1(spec: Mapping[str, object], deed: Deed) -> None:
    _same_hash(member(spec, "payloadHash", _BODY), _payload(deed))
    if deed.envelope is not None:
        _same_hash(member(spec, "envelopeHash", _BODY), deed.envelope)
    for entry in items(spec, "signatures", _BODY, _MOST_SIGNATURES):
        if not isinstance(entry, dict):
            raise EvidenceMalformed("has a log entry with a signature that is no object")
        if unbase64(text(entry, "signature", _BODY), "the log entry's signature") == deed.signature:
            return _same_signer_pem(text(entry, "verifier", _BODY), deed)
    raise EvidenceMalformed(_OTHER_SIGNATURE)


def _intoto_1(spec: Mapping[str, object], deed: Deed) -> None:
    content = member(spec, "content", _BODY)
    # This kind does not hold the signature; only the envelope's hash binds it.
    if deed.envelope is None:
        raise EvidenceMalformed("has a log entry of a kind (intoto 0.0.1) that cannot be bound to a signature in a bundle")
    _same_hash(member(content, "hash", _BODY), deed.envelope)
    if content.get("payloadHash") is not None:
        _same_hash(member(content, "payloadHash", _BODY), _payload(deed))
    _same_signer_pem(text(spec, "publicKey", _BODY), deed)


def _intoto_2(spec: Mapping[str, object], deed: Deed) -> None:
    content = member(spec, "content", _BODY)
    payload = _payload(deed)
    _same_hash(member(content, "payloadHash", _BODY), payload)
    envelope = member(content, "envelope", _BODY)
    kind = text(envelope, "payloadType", _BODY).encode("utf-8", "surrogatepass")
    if deed.message != b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload):
        raise EvidenceMalformed("has a log entry about an envelope of another type")
    for entry in items(envelope, "signatures", _BODY, _MOST_SIGNATURES):
        if not isinstance(entry, dict):
            raise EvidenceMalformed("has a log entry with a signature that is no object")
        # The envelope's text of the signature is bytes to this kind, and written in base64 once more.
        once = unbase64(text(entry, "sig", _BODY), "the log entry's signature")
        if once == base64.b64encode(deed.signature):
            return _same_signer_pem(text(entry, "publicKey", _BODY), deed)
    raise EvidenceMalformed(_OTHER_SIGNATURE)


# -- Rekor v2 -------------------------------------------------------------------------------------------------------


def _hashedrekord_2(spec: Mapping[str, object], deed: Deed) -> None:
    spec = member(spec, "hashedRekordV002", _BODY)
    _same_protobuf_signature(member(spec, "signature", _BODY), deed)
    _same_protobuf_hash(member(spec, "data", _BODY), deed.message)


def _dsse_2(spec: Mapping[str, object], deed: Deed) -> None:
    spec = member(spec, "dsseV002", _BODY)
    _same_protobuf_hash(member(spec, "payloadHash", _BODY), _payload(deed))
    for entry in items(spec, "signatures", _BODY, _MOST_SIGNATURES):
        if not isinstance(entry, dict):
            raise EvidenceMalformed("has a log entry with a signature that is no object")
        if unbase64(text(entry, "content", _BODY), "the log entry's signature") == deed.signature:
            return _same_protobuf_signature(entry, deed)
    raise EvidenceMalformed(_OTHER_SIGNATURE)


_KINDS: Mapping[tuple[str, str], Callable[[Mapping[str, object], Deed], None]] = {
    ("hashedrekord", "0.0.1"): _hashedrekord_1,
    ("dsse", "0.0.1"): _dsse_1,
    ("intoto", "0.0.1"): _intoto_1,
    ("intoto", "0.0.2"): _intoto_2,
    ("hashedrekord", "0.0.2"): _hashedrekord_2,
    ("dsse", "0.0.2"): _dsse_2,
}


# -- the parts ------------------------------------------------------------------------------------------------------

_OTHER_SIGNATURE = "has a log entry about another signature"


def _payload(deed: Deed) -> bytes:
    if deed.payload is None:
        raise EvidenceMalformed("has a log entry about an envelope, and is none")
    return deed.payload


def _same_signature(signature: bytes, deed: Deed) -> None:
    if signature != deed.signature:
        raise EvidenceMalformed(_OTHER_SIGNATURE)


def _same_signer_pem(encoded: str, deed: Deed) -> None:
    pem = _PEM.fullmatch(unbase64(encoded, "the log entry's signer"))
    if pem is None:
        raise EvidenceMalformed("has a log entry whose signer is neither a certificate nor a key in PEM")
    der = unbase64(b"".join(pem[2].split()).decode(), "the log entry's signer")
    _same_signer(der, pem[1] == b"CERTIFICATE", deed)


def _same_protobuf_signature(node: Mapping[str, object], deed: Deed) -> None:
    _same_signature(unbase64(text(node, "content", _BODY), "the log entry's signature"), deed)
    verifier = member(node, "verifier", _BODY)
    by_certificate = verifier.get("x509Certificate") is not None
    if by_certificate == (verifier.get("publicKey") is not None):
        raise EvidenceMalformed("has a log entry whose signer is not one certificate or key")
    raw = text(member(verifier, "x509Certificate" if by_certificate else "publicKey", _BODY), "rawBytes", _BODY)
    _same_signer(unbase64(raw, "the log entry's signer"), by_certificate, deed)


def _same_signer(der: bytes, by_certificate: bool, deed: Deed) -> None:
    if by_certificate != deed.by_certificate or der != deed.signer:
        raise EvidenceMalformed("has a log entry about another signer")


def _same_hash(node: Mapping[str, object], content: bytes) -> None:
    algorithm = _HASHES.get(text(node, "algorithm", _BODY))
    if algorithm is None or text(node, "value", _BODY) != hashlib.new(algorithm, content).hexdigest():
        raise EvidenceMalformed("has a log entry about other content")


def _same_protobuf_hash(node: Mapping[str, object], content: bytes) -> None:
    algorithm = _PROTOBUF_HASHES.get(text(node, "algorithm", _BODY))
    digest = unbase64(text(node, "digest", _BODY), "the log entry's digest")
    if algorithm is None or digest != hashlib.new(algorithm, content).digest():
        raise EvidenceMalformed("has a log entry about other content")
