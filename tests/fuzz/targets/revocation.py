"""What revocation servers send: OCSP answers and lists, signed by the issuer or not, whatever they say."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import get_args

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from proxy.errors import EvidenceMalformed
from proxy.verify import der as reading
from proxy.verify.crl import CrlQuery, read_crl
from proxy.verify.ocsp import OcspQuery, Status, read_ocsp
from proxy.verify.revocation import Answer, LookUp, Query, Silence, Standing
from tests.fuzz.target import Target, fit
from tests.simulator.notation import issue
from tests.simulator.revocation import CrlFault, Entry, OcspFault, OcspOddity, crl, lists_at, ocsp_answer, ocsp_at, point
from tests.simulator.sigstore import der

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
NONCE = b"0123456789abcdef"
OCSP_URL, LIST_URL = "http://ocsp.test/", "http://list.test/"
BY_OCSP = issue(name="fuzz ocsp", depth=2, servers=(ocsp_at(OCSP_URL),))
BY_LIST = issue(name="fuzz list", depth=2, servers=(lists_at(LIST_URL),))
OCSP = OcspQuery(OCSP_URL, BY_OCSP.chain[0], BY_OCSP.chain[1], private=False)
LIST = CrlQuery(LIST_URL, BY_LIST.chain[1], private=False)
REQUEST = OCSP.request(NONCE)
ENTRY = Entry(NOW, "key_compromise", NOW)


def ocsp(data: bytes) -> bool:
    """Good only where it says so, and until it ends."""
    answer = read_ocsp(data, OCSP, NONCE, NOW)
    good = _looked_up(OCSP, answer) is Standing.GOOD
    assert not good or (answer.status is Status.GOOD and answer.until >= NOW)
    return good


def revocation_list(data: bytes) -> bool:
    """Good only where the certificate is not on it, and until it ends."""
    answer = read_crl(data, LIST, NOW)
    good = _looked_up(LIST, answer) is Standing.GOOD
    assert not good or (answer.entry(BY_LIST.chain[0]) is None and answer.until >= NOW and answer.since is None)
    return good


def _looked_up(query: Query, answer: Answer) -> Standing:
    issued = BY_OCSP if query is OCSP else BY_LIST
    known: dict[Query, Answer | Silence] = {query: answer}
    for _ in range(20):
        look = LookUp(known, NOW, private=False)
        (found,) = look.chain(issued.chain, None)
        fit(found.words)
        if not look.missing:
            return found.standing
        known |= {each: Silence("silence") for each in look.missing}
    raise AssertionError("it never stops asking")


def signed_ocsp(data: bytes) -> bytes:
    """Signed by the issuer, whatever it says."""
    try:
        status, body = reading.children(reading.only(data, reading.SEQUENCE, "it"), "it", 2)
        kind, octets = reading.children(reading.children(body, "it", 1)[0], "it", 2)
        told, _, _, *more = reading.children(reading.only(octets.content, reading.SEQUENCE, "it"), "it", 4)
        basic = der.sequence(told.whole, *_signature(told.whole, BY_OCSP.keys[1].private), *(each.whole for each in more))
        return der.sequence(status.whole, der.explicit(0, der.sequence(kind.whole, der.octets(basic))))
    except (EvidenceMalformed, ValueError, IndexError):
        return data


def signed_list(data: bytes) -> bytes:
    """Signed by the issuer, whatever it says."""
    try:
        told = reading.children(reading.only(data, reading.SEQUENCE, "it"), "it", 3)[0].whole
        return der.sequence(told, *_signature(told, BY_LIST.keys[1].private))
    except (EvidenceMalformed, ValueError, IndexError):
        return data


def _signature(told: bytes, private: object) -> tuple[bytes, bytes]:
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    signature = private.sign(told, ec.ECDSA(hashes.SHA256()))
    return der.sequence(der.oid("1.2.840.10045.4.3.2")), der.tlv(0x03, b"\0" + signature)


def _answers() -> Iterator[bytes]:
    leaf, issuer, key = BY_OCSP.chain[0], BY_OCSP.chain[1], BY_OCSP.keys[1]
    yield ocsp_answer(REQUEST, leaf, issuer, key, NOW)
    yield ocsp_answer(REQUEST, leaf, issuer, key, NOW, ENTRY)
    for fault in (*get_args(OcspOddity), *get_args(OcspFault)):
        yield ocsp_answer(REQUEST, leaf, issuer, key, NOW, None, fault, lists_at(LIST_URL))


def _lists() -> Iterator[bytes]:
    leaf, issuer, key = BY_LIST.chain[0], BY_LIST.chain[1], BY_LIST.keys[1]
    yield crl(issuer, key, NOW)
    yield crl(issuer, key, NOW, {7: ENTRY}, place=LIST_URL)
    yield crl(issuer, key, NOW, {leaf.serial_number: ENTRY, 7: Entry(NOW)}, freshest=[point("http://delta.test/")])
    yield crl(issuer, key, NOW, {leaf.serial_number: ENTRY}, number=5, since=3)
    for fault in get_args(CrlFault):
        yield crl(issuer, key, NOW, {leaf.serial_number: ENTRY}, fault=fault)


TARGETS = (
    Target("ocsp", ocsp, (EvidenceMalformed,), tuple(_answers()), signed_ocsp, seconds=1),
    Target("crl", revocation_list, (EvidenceMalformed,), tuple(_lists()), signed_list, seconds=1),
)
