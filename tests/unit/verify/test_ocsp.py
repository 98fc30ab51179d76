"""OCSP answers: what is read, and by whom they may be; each fault by itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from cryptography.x509 import ocsp

from proxy.errors import EvidenceMalformed
from proxy.verify.ocsp import OcspQuery, Revoked, Status, read_ocsp
from tests.simulator.notation import issue
from tests.simulator.revocation import LIFE, Entry, OcspFault, OcspOddity, lists_at, ocsp_answer, ocsp_at

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
NONCE = b"0123456789abcdef"
URL = "http://ocsp.test/"
ACME = issue(servers=(ocsp_at(URL),))
LEAF, ISSUER, KEY = ACME.chain[0], ACME.chain[1], ACME.keys[1]
QUERY = OcspQuery(URL, LEAF, ISSUER, private=False)
REQUEST = QUERY.request(NONCE)

FAULTS: dict[OcspFault, str] = {
    "try later": "says try later",
    "noise": "cannot be read",
    "signature broken": "is not signed by CN=intermediate 1",
    "signed by a stranger": "is not signed by CN=intermediate 1",
    "named by a stranger": "signed by nobody whose certificate is at hand",
    "signed with SHA-1": "an algorithm that is too weak or not known here",
    "stale": "held until 2026-06-01 11:59:59 UTC",
    "without end": "does not say until when it holds",
    "from the future": "which is yet to come",
    "another nonce": "is to another question",
    "unknown critical extension": "unknown critical extension",
    "another certificate": "is about another certificate",
    "another issuer": "is about another certificate",
    "no certificate": "is about another certificate",
    "says two things": "says more than one thing",
    "delegate without purpose": "who may not answer for the issuer",
    "delegate ended": "whose certificate does not hold now",
    "delegate by a stranger": "whom the issuer of the certificate did not certify",
    "delegate may not sign": "whose key may not sign",
    "delegate with a weak hash": "signed with a weak or unknown hash",
    "nine certificates": "brings 9 certificates",
    "65 answers": "more than 64 certificates",
}


def answer(fault: OcspFault | OcspOddity | None = None, entry: Entry | None = None) -> bytes:
    """An answer about the leaf."""
    return ocsp_answer(REQUEST, LEAF, ISSUER, KEY, NOW, entry, fault)


def test_the_question_is_read_by_others() -> None:
    """It names the certificate as every server understands it, and brings the nonce."""
    read = ocsp.load_der_ocsp_request(REQUEST)
    assert read.serial_number == LEAF.serial_number
    assert [each.value.nonce for each in read.extensions] == [NONCE]


@pytest.mark.parametrize("oddity", [None, "delegate", "by key", "no nonce", "SHA-256 in the id", "two answers"])
def test_good(oddity: OcspOddity | None) -> None:
    """By the issuer or its delegate, named by name or key, with or without the nonce: good, until it ends."""
    read = read_ocsp(answer(oddity), QUERY, NONCE, NOW)
    assert (read.status, read.revoked, read.until, read.delegate) == (Status.GOOD, None, NOW + LIFE, None)


@pytest.mark.parametrize(
    ("entry", "oddity", "expected"),
    [
        (Entry(NOW), None, Revoked(NOW, "unspecified", None)),
        (Entry(NOW, "key_compromise"), None, Revoked(NOW, "keyCompromise", None)),
        (Entry(NOW, None, NOW - LIFE), None, Revoked(NOW, "unspecified", NOW - LIFE)),
        # Which of several the date belongs to, the library does not say: without one, it is revoked for all times.
        (Entry(NOW, None, NOW - LIFE), "two answers", Revoked(NOW, "unspecified", None)),
    ],
)
def test_revoked(entry: Entry, oddity: OcspOddity | None, expected: Revoked) -> None:
    """When, why, and since when the key is in other hands."""
    read = read_ocsp(answer(oddity, entry), QUERY, NONCE, NOW)
    assert (read.status, read.revoked) == (Status.REVOKED, expected)


def test_unknown() -> None:
    """The server does not know it: that is an answer, though none that helps."""
    assert read_ocsp(answer("unknown"), QUERY, NONCE, NOW).status is Status.UNKNOWN


def test_a_delegate_who_may_be_revoked_himself() -> None:
    """He comes with the answer, so that he can be looked up."""
    body = ocsp_answer(REQUEST, LEAF, ISSUER, KEY, NOW, None, "delegate", lists_at("http://crl.test/"))
    found = read_ocsp(body, QUERY, NONCE, NOW).delegate
    assert found is not None
    assert "ocsp delegate" in found.subject.rfc4514_string()


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(fault: OcspFault) -> None:
    """Each is refused with its reason, though everything else is right."""
    with pytest.raises(EvidenceMalformed, match=FAULTS[fault]):
        read_ocsp(answer(fault), QUERY, NONCE, NOW)


def test_every_fault_is_tried() -> None:
    """But for what is an answer."""
    assert {*FAULTS} == {*get_args(OcspFault)} - {"unknown"}


def test_the_ends_of_an_answer_belong_to_it() -> None:
    """Until its last second it holds; a server's clock may be five minutes ahead."""
    read_ocsp(answer(), QUERY, NONCE, NOW + LIFE)
    with pytest.raises(EvidenceMalformed, match="held until"):
        read_ocsp(answer(), QUERY, NONCE, NOW + LIFE + timedelta(seconds=1))
    read_ocsp(answer(), QUERY, NONCE, NOW - timedelta(minutes=10))
    with pytest.raises(EvidenceMalformed, match="yet to come"):
        read_ocsp(answer(), QUERY, NONCE, NOW - timedelta(minutes=10, seconds=1))


@pytest.mark.parametrize("kind", ["rsa2048", "p256"])
def test_issuers_of_every_kind(kind: str) -> None:
    """RSA as well as ECDSA: an issuer is a self-signed certificate here, of whom nothing is asked but its key."""
    issuer = issue("rsa2048" if kind == "rsa2048" else "p256", f"issuer {kind}", depth=1)
    query = OcspQuery(URL, LEAF, issuer.chain[0], private=False)
    body = ocsp_answer(query.request(NONCE), LEAF, issuer.chain[0], issuer.signer, NOW)
    assert read_ocsp(body, query, NONCE, NOW).status is Status.GOOD
