"""Envelopes of Notary Project signatures, read strictly: JWS in its flattened JSON form (RFC 7515) and COSE_Sign1 (RFC 9052).

Both become one :class:`Envelope`, of which nothing is believed yet. Everything raises :class:`proxy.errors.EvidenceMalformed`;
the caller has bounded the bytes.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from proxy.errors import EvidenceMalformed
from proxy.verify.chains import foreign
from proxy.verify.parsing import items, member, read_object, shown, text, unbase64

JOSE = "application/jose+json"
COSE = "application/cose"
PAYLOAD_TYPE = "application/vnd.cncf.notary.payload.v1+json"
SCHEME = "io.cncf.notary.signingScheme"
SIGNING_TIME = "io.cncf.notary.signingTime"
AUTHENTIC_TIME = "io.cncf.notary.authenticSigningTime"
EXPIRY = "io.cncf.notary.expiry"
TIMESTAMP = "io.cncf.notary.timestampSignature"
PLUGIN = "io.cncf.notary.verificationPlugin"

_MOST_CERTIFICATES = 16
_MOST_CRITICAL = 32
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Envelope:
    """What an envelope says. Only ``message`` is signed, and with it the protected attributes and the payload."""

    algorithm: str  #: as JWS calls it: ``PS256``
    critical: tuple[str, ...]
    attributes: frozenset[str]  #: the names of all protected attributes
    content_type: str
    scheme: str
    signing_time: datetime | None  #: the signer's own word
    authentic_time: datetime | None
    expiry: datetime | None
    payload: bytes = field(repr=False)
    message: bytes = field(repr=False)  #: exactly what the signature is over
    signature: bytes = field(repr=False)  #: the primitive signature; for ECDSA both numbers side by side
    chain: tuple[bytes, ...] = field(repr=False)  #: DER, leaf first
    timestamp: bytes | None = field(repr=False)  #: a TimeStampToken


# -- JWS ------------------------------------------------------------------------------------------------------------


def read_jws(body: bytes, depth: int) -> Envelope:
    """Read a JWS in the flattened JSON form (RFC 7515, section 7.2.2)."""
    envelope = read_object(body, depth, "a JWS envelope")
    if unknown := sorted(set(envelope) - {"payload", "protected", "header", "signature"}):
        raise EvidenceMalformed(f"has an unknown key {shown(unknown[0])!r} in its envelope")
    encoded = {key: text(envelope, key, "its envelope") for key in ("payload", "protected", "signature")}
    decoded = {key: _unbase64url(value, f"{key!r}") for key, value in encoded.items()}
    protected = read_object(decoded["protected"], depth, "a protected header")
    header = member(envelope, "header", "its envelope")
    if twice := sorted(set(protected) & set(header)):
        raise EvidenceMalformed(f"says {shown(twice[0])!r} twice, signed and not signed")
    if "b64" in protected or "crit" in header:  # RFC 7797 and RFC 7515, section 4.1.11
        raise EvidenceMalformed("has a header that changes what is signed")
    chain = items(header, "x5c", "its header", _MOST_CERTIFICATES)
    stamp = header.get(TIMESTAMP)
    if stamp is not None and not isinstance(stamp, str):
        raise EvidenceMalformed("has a timestamp that is not text")
    return Envelope(
        text(protected, "alg", "its protected header"),
        _names(protected.get("crit"), ("alg", "cty", "crit")),
        frozenset(protected),
        text(protected, "cty", "its protected header"),
        text(protected, SCHEME, "its protected header"),
        _jws_time(protected, SIGNING_TIME),
        _jws_time(protected, AUTHENTIC_TIME),
        _jws_time(protected, EXPIRY),
        decoded["payload"],
        f"{encoded['protected']}.{encoded['payload']}".encode(),
        decoded["signature"],
        tuple(unbase64(_text(each, "a certificate"), "a certificate") for each in chain),
        None if stamp is None else unbase64(stamp, "its timestamp"),
    )


def _unbase64url(encoded: str, what: str) -> bytes:
    """Decode base64url without padding (RFC 7515, section 2), in its one canonical form."""
    try:
        decoded = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise EvidenceMalformed(f"is broken: {what} is not base64url") from error
    if base64.urlsafe_b64encode(decoded).rstrip(b"=").decode() != encoded:
        raise EvidenceMalformed(f"is broken: {what} is not base64url in its canonical form")
    return decoded


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise EvidenceMalformed(f"has {what} that is not text")
    return value


def _jws_time(protected: Mapping[str, object], key: str) -> datetime | None:
    value = protected.get(key)
    if value is None and key not in protected:
        return None
    if not isinstance(value, str) or not _RFC_3339.fullmatch(value):
        raise EvidenceMalformed(f"has no time in {key!r}")
    try:
        # Python knows microseconds, and would not take another letter than T.
        return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise EvidenceMalformed(f"has no time in {key!r}") from error


def _names(value: object, forbidden: Sequence[object]) -> tuple[str, ...]:
    """The list of critical attributes, without those that a format must not name there."""
    if not isinstance(value, list | tuple) or not value:
        raise EvidenceMalformed("does not say which of its attributes are critical")
    if len(value) > _MOST_CRITICAL:
        raise EvidenceMalformed(f"has {len(value)} critical attributes; the limit is {_MOST_CRITICAL}")
    names: list[str] = []
    for name in value:
        if not isinstance(name, str) or name in forbidden or name in names:
            raise EvidenceMalformed(f"has a list of critical attributes that is not proper: {shown(str(name))}")
        names.append(name)
    return tuple(names)


# -- COSE -----------------------------------------------------------------------------------------------------------

_SIGN1_TAG, _EPOCH_TAG = 18, 1
_ALG, _CRIT, _CONTENT_TYPE, _X5CHAIN = 1, 2, 3, 33
_COSE_ALGORITHMS = {-37: "PS256", -38: "PS384", -39: "PS512", -7: "ES256", -35: "ES384", -36: "ES512"}
_CBOR_DEPTH = 8
_CBOR_ITEMS = 4096


def read_cose(body: bytes) -> Envelope:
    """Read a tagged COSE_Sign1 (RFC 9052, section 4.2)."""
    import cbor2

    what = "a COSE envelope"
    message = _decode(body, what)
    if not isinstance(message, cbor2.CBORTag) or message.tag != _SIGN1_TAG:
        raise EvidenceMalformed("is no tagged COSE_Sign1")
    parts = message.value
    if not isinstance(parts, list | tuple) or len(parts) != 4:
        raise EvidenceMalformed("is no COSE_Sign1: it must have four parts")
    raw, header, payload, signature = parts
    if not isinstance(raw, bytes) or not isinstance(payload, bytes) or not isinstance(signature, bytes):
        raise EvidenceMalformed("is no COSE_Sign1: protected header, payload and signature must be byte strings")
    protected = _header(_decode(raw, "a protected header"), "a protected header")
    header = _header(header, "a header")
    if twice := sorted(map(str, set(protected) & set(header))):
        raise EvidenceMalformed(f"says {shown(twice[0])!r} twice, signed and not signed")
    if _CRIT in header:  # RFC 9052, section 3.1
        raise EvidenceMalformed("has a header that changes what is signed")
    algorithm = protected.get(_ALG)
    chain = protected.get(_X5CHAIN, header.get(_X5CHAIN))
    if not isinstance(chain, list | tuple) or len(chain) > _MOST_CERTIFICATES:
        raise EvidenceMalformed(f"has no list of certificates, of at most {_MOST_CERTIFICATES}")
    stamp = header.get(TIMESTAMP)
    if stamp is not None and not isinstance(stamp, bytes):
        raise EvidenceMalformed("has a timestamp that is no byte string")
    return Envelope(
        _COSE_ALGORITHMS.get(algorithm, shown(str(algorithm))) if type(algorithm) is int else "none",
        _names(protected.get(_CRIT), ()),
        frozenset(key for key in protected if isinstance(key, str)),
        _text(protected.get(_CONTENT_TYPE), "a content type"),
        _text(protected.get(SCHEME), "a signing scheme"),
        _cose_time(protected, SIGNING_TIME),
        _cose_time(protected, AUTHENTIC_TIME),
        _cose_time(protected, EXPIRY),
        payload,
        cbor2.dumps(["Signature1", raw, b"", payload]),
        signature,
        tuple(_octets(each) for each in chain),
        stamp,
    )


def _octets(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise EvidenceMalformed("has a certificate that is no byte string")
    return value


def _cose_time(protected: Mapping[int | str, object], key: str) -> datetime | None:
    value = protected.get(key)
    if value is None and key not in protected:
        return None
    if not isinstance(value, datetime):  # the decoder makes these of the tag for an epoch-based time, and of no other
        raise EvidenceMalformed(f"has no time in {key!r}")
    return value.astimezone(UTC)


def _header(value: object, what: str) -> dict[int | str, object]:
    """A header: its labels are numbers and texts. Python takes ``true`` and ``1.0`` for 1, so the type is looked at, too."""
    if not isinstance(value, Mapping):
        raise EvidenceMalformed(f"has {what} that is no map")
    for label in value:
        if type(label) not in {int, str}:
            raise EvidenceMalformed(f"has {what} with a label that is neither a number nor text")
    return dict(value)


def _decode(data: bytes, what: str) -> object:
    import cbor2

    _scan(data, what)
    with foreign(what):
        return cbor2.loads(data, max_depth=_CBOR_DEPTH + 2, allow_indefinite=False, allow_duplicate_keys=False)


def _scan(data: bytes, what: str) -> None:
    """Bound a CBOR item before it is decoded, and let no tag through that the decoder would act upon (RFC 8949, section 3)."""
    at = seen = 0
    pending = [1]  # items still to come, by level
    while pending:
        if not pending[-1]:
            pending.pop()
            continue
        pending[-1] -= 1
        seen += 1
        if seen > _CBOR_ITEMS or len(pending) > _CBOR_DEPTH:
            raise EvidenceMalformed(f"has {what} of too many parts")
        if at >= len(data):
            raise EvidenceMalformed(f"has {what} that ends too early")
        major, value = data[at] >> 5, data[at] & 0x1F
        at += 1
        if value > 27:
            raise EvidenceMalformed(f"has {what} of indefinite length")
        if value > 23:
            width = 1 << (value - 24)
            value = int.from_bytes(data[at : at + width], "big")
            at += width
        if major in {2, 3}:
            at += value
        elif major in {4, 5}:
            pending.append(value * (major - 3))
        elif major == 6:
            if value not in {_SIGN1_TAG, _EPOCH_TAG}:
                raise EvidenceMalformed(f"has {what} with the tag {value}, which has no place there")
            pending.append(1)
        if at > len(data):
            raise EvidenceMalformed(f"has {what} that ends too early")
    if at != len(data):
        raise EvidenceMalformed(f"has {what} with something behind it")
