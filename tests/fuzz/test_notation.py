"""Whatever stands in an envelope or a timestamp, properly signed or not: it is judged, in bounded time."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.errors import EvidenceMalformed
from proxy.policy.rules import Evidence, SignatureBy, Store
from proxy.settings import Limits
from proxy.verify.envelopes import PAYLOAD_TYPE, read_cose, read_jws
from proxy.verify.model import Trusted
from proxy.verify.notation import NotationSignatures, NotationStore
from proxy.verify.roots import Authority, Window
from proxy.verify.timestamps import verify_timestamp
from tests.fuzz.damage import examples
from tests.simulator.notation import EXPIRY, SCHEME, SIGNING_TIME, Form, b64url, issue, notation_manifest, payload_of
from tests.simulator.sigstore import der
from tests.simulator.sigstore.tsa import TimestampAuthority
from tests.unit.verify.evidence import IMAGE, NOW, document, subject

LIMITS = Limits()
VERIFIER = NotationSignatures(LIMITS)
ACME = issue()
STORE = NotationStore.load("acme", [ACME.root_pem], identities=["x509.subject: C=DE, ST=BE, O=acme"])
TSA = TimestampAuthority("fuzz")
TSA_ROOT = Authority(TSA.chain(NOW)[1:], Window())

NAMES = st.sampled_from(
    ("alg", "crit", "cty", SCHEME, SIGNING_TIME, EXPIRY, "b64", "x5c", "io.cncf.notary.verificationPlugin", "")
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(("ES256", PAYLOAD_TYPE, SCHEME, "notary.x509", "2026-05-01T12:00:00Z", "9999-12-31T23:59:59-23:59"))
    | st.text(max_size=6)
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=4), inner, max_size=4),
    max_leaves=10,
)
CBOR = st.recursive(
    SCALARS | st.binary(max_size=6) | st.integers(0, 2**33).map(lambda seconds: cbor2.CBORTag(1, seconds)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.integers(-5, 40) | NAMES, inner, max_size=4),
    max_leaves=10,
)
HEADERS = st.dictionaries(NAMES, JSON, max_size=4)
COSE_HEADERS = st.dictionaries(st.integers(-5, 40) | NAMES, CBOR, max_size=4)

PROTECTED: dict[str, Any] = {
    "alg": "ES256",
    "cty": PAYLOAD_TYPE,
    "crit": [SCHEME],
    SCHEME: "notary.x509",
    SIGNING_TIME: "2026-05-01T12:00:00Z",
}
COSE_PROTECTED: dict[Any, Any] = {
    1: -7,
    3: PAYLOAD_TYPE,
    2: [SCHEME],
    SCHEME: "notary.x509",
    SIGNING_TIME: cbor2.CBORTag(1, 1777636800),
}


def sign(message: bytes) -> bytes:
    """By the trusted signer."""
    private = ACME.signer.private
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    return b"".join(n.to_bytes(32, "big") for n in decode_dss_signature(private.sign(message, ec.ECDSA(hashes.SHA256()))))


def jws(protected: dict[str, Any], payload: bytes, header: dict[str, Any]) -> bytes:
    """A JWS whose signature holds, whatever is in there."""
    head, body = b64url(json.dumps(protected).encode()), b64url(payload)
    whole = {"x5c": [base64.b64encode(each).decode() for each in ACME.ders]} | header
    signature = b64url(sign(f"{head}.{body}".encode()))
    return json.dumps({"payload": body, "protected": head, "header": whole, "signature": signature}).encode()


def cose(protected: dict[Any, Any], payload: bytes, header: dict[Any, Any]) -> bytes:
    """A COSE_Sign1 whose signature holds, whatever is in there."""
    raw = cbor2.dumps(protected)
    signature = sign(cbor2.dumps(["Signature1", raw, b"", payload]))
    return cbor2.dumps(cbor2.CBORTag(18, [raw, {33: ACME.ders} | header, payload, signature]))


def judge(body: bytes, form: Form) -> Evidence:
    """The one answer, with a reason that is fit for a header."""
    asked = [SignatureBy(Store("acme"))]
    found = document(notation_manifest(body, IMAGE, form))
    (answer,) = VERIFIER.judge(found, subject(), asked, Trusted(stores={"acme": STORE}), NOW)
    assert answer.reason.isascii()
    assert len(answer.reason) < 2000
    assert all(step.isascii() for step in answer.steps)
    return answer


def test_the_ground_is_good() -> None:
    """What the fuzzers vary is accepted as it is."""
    assert judge(jws(PROTECTED, payload_of(IMAGE), {}), "jws").accepted
    assert judge(cose(COSE_PROTECTED, payload_of(IMAGE), {}), "cose").accepted


@examples(80)
@given(protected=HEADERS, header=HEADERS)
@example(protected={SIGNING_TIME: "0001-01-01T00:00:00+23:59"}, header={})
@example(protected={"crit": [SCHEME, EXPIRY], EXPIRY: "9999-12-31T23:59:59-23:59"}, header={})
def test_any_jws_header_is_judged(protected: dict[str, Any], header: dict[str, Any]) -> None:
    """Signed by the trusted signer: accepted or refused, and never with an algorithm or scheme that was not meant."""
    answer = judge(jws(PROTECTED | protected, payload_of(IMAGE), header), "jws")
    if answer.accepted:
        assert (PROTECTED | protected)["alg"] == "ES256"
        assert "crit" not in header


@examples(80)
@given(protected=COSE_HEADERS, header=COSE_HEADERS)
@example(protected={SIGNING_TIME: cbor2.CBORTag(1, 2**62)}, header={})
@example(protected={SIGNING_TIME: cbor2.CBORTag(1, 1e300)}, header={})
@example(protected={SIGNING_TIME: cbor2.CBORTag(1, -(2**62))}, header={})
def test_any_cose_header_is_judged(protected: dict[Any, Any], header: dict[Any, Any]) -> None:
    """Signed by the trusted signer: accepted or refused, and never with an algorithm that was not meant."""
    answer = judge(cose(COSE_PROTECTED | protected, payload_of(IMAGE), header), "cose")
    if answer.accepted:
        assert (COSE_PROTECTED | protected)[1] == -7
        assert 2 not in header


@examples(60)
@given(payload=JSON.map(lambda tree: json.dumps(tree).encode()) | st.binary(max_size=60))
def test_any_payload_is_judged(payload: bytes) -> None:
    """Only the one that names the image is accepted, and that is not among these."""
    assert not judge(jws(PROTECTED, payload, {}), "jws").accepted
    assert not judge(cose(COSE_PROTECTED, payload, {}), "cose").accepted


@examples(120)
@given(body=st.binary(max_size=64) | CBOR.map(cbor2.dumps))
@example(body=b"\xd2\x84\x5b\xff\xff\xff\xff\xff\xff\xff\xff")
@example(body=b"\xd2\x9b\xff\xff\xff\xff\xff\xff\xff\xff")
@example(body=b"\xd8\x1c\x81\xd8\x1d\x00")
def test_any_cbor_is_no_envelope(body: bytes) -> None:
    """Refused with words."""
    with pytest.raises(EvidenceMalformed):
        read_cose(body)


@pytest.mark.parametrize(
    "body",
    [
        b"\x81" * LIMITS.signature_size,
        b"\xd2" * LIMITS.signature_size,
        b"\xd2\x84" + b"\x40" * (LIMITS.signature_size - 2),
        b"\xd2\x9a\x00\x0f\xff\x00" + b"\xf6" * (LIMITS.signature_size - 6),
        b"\xd2\xba\x00\x07\xff\x00" + b"\x18\x20" * (LIMITS.signature_size // 2 - 3),
    ],
)
def test_large_cbor_is_refused_quickly(body: bytes) -> None:
    """The largest envelopes there are, made of the smallest parts."""
    began = time.process_time()
    with pytest.raises(EvidenceMalformed):
        read_cose(body)
    assert time.process_time() - began < 1


def test_large_jws_is_refused_quickly() -> None:
    """Thousands of certificates, or one that never ends."""
    began = time.process_time()
    many = jws(PROTECTED, payload_of(IMAGE), {"x5c": ["AAAA"] * 100_000})
    long = jws(PROTECTED, payload_of(IMAGE), {"x5c": ["A" * (LIMITS.signature_size // 2)]})
    for body in (many, long):
        assert not judge(body, "jws").accepted
        with pytest.raises(EvidenceMalformed):
            read_jws(b"[" * len(body), LIMITS.json_depth)
    assert time.process_time() - began < 3


DER = st.recursive(
    st.builds(der.tlv, st.sampled_from((0x02, 0x04, 0x05, 0x06, 0x18, 0x80)), st.binary(max_size=12)),
    lambda inner: st.builds(
        lambda tag, parts: der.tlv(tag, *parts), st.sampled_from((0x30, 0x31, 0xA0, 0xA1)), st.lists(inner, max_size=5)
    ),
    max_leaves=12,
)


def grafted(token: bytes, at: int, graft: bytes) -> bytes:
    """The token with the element that comes ``at``-th, depth first, replaced; every length around it is right again."""
    count = -1

    def walk(data: bytes) -> bytes:
        nonlocal count
        whole, position = b"", 0
        while position < len(data):
            tag, size, start = data[position], data[position + 1], position + 2
            if size & 0x80:
                width = size & 0x7F
                size = int.from_bytes(data[start : start + width], "big")
                start += width
            content = data[start : start + size]
            count += 1
            if count == at:
                whole += graft
            else:
                whole += der.tlv(tag, walk(content) if tag & 0x20 else content)
            position = start + size
        return whole

    return walk(token)


TOKEN = TSA.response(b"stamped", NOW)


@examples(150)
@given(at=st.integers(0, 120), graft=DER)
def test_any_element_of_a_timestamp_may_be_another(at: int, graft: bytes) -> None:
    """The token is well-formed DER still: it is refused, or what changed was not signed and the time is the same."""
    try:
        judged = verify_timestamp(grafted(TOKEN, at, graft), b"stamped", [TSA_ROOT])
    except EvidenceMalformed as error:
        reason = str(error)
    else:
        reason = ""
        assert judged.time == NOW
    assert reason.isascii()
    assert len(reason) < 1000


def test_a_large_timestamp_is_refused_quickly() -> None:
    """Of the largest size there is, made of the smallest parts, in every place that is looked at."""
    began = time.process_time()
    many = der.tlv(0x05) * 20_000
    for at in range(40):
        whole = grafted(TOKEN, at, der.tlv(0x30, many)), grafted(TOKEN, at, der.tlv(0xA0, many)), grafted(TOKEN, at, many)
        for token in whole:
            try:
                assert verify_timestamp(token, b"stamped", [TSA_ROOT]).time == NOW
            except EvidenceMalformed:
                continue
    assert time.process_time() - began < 5
