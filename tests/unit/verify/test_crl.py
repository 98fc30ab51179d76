"""Revocation lists: what is read, and for whom it is; each fault by itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from proxy.errors import EvidenceMalformed
from proxy.verify.crl import CrlQuery, Point, freshest_of, places_of, read_crl
from proxy.verify.ocsp import Revoked
from tests.simulator.notation import issue
from tests.simulator.revocation import LIFE, CrlFault, Entry, crl, lists_at, point

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
URL = "http://crl.test/list"
HERE = Point((URL,))
ACME = issue(servers=(lists_at(URL),))
LEAF, MIDDLE, KEY = ACME.chain[0], ACME.chain[1], ACME.keys[1]
QUERY = CrlQuery(URL, MIDDLE, private=False)

UNREADABLE: dict[CrlFault, str] = {
    "noise": "cannot be read",
    "signature broken": "is not signed by CN=intermediate 1|cannot be read",
    "signed by a stranger": "is not signed by CN=intermediate 1",
    "another issuer": "is the list of another issuer",
    "signed with SHA-224": "an algorithm that is too weak or not known here",
    "without end": "does not say until when it holds",
    "from the future": "which is yet to come",
    "unknown critical extension": "unknown critical extension",
}
NOT_FOR_IT: dict[CrlFault, str] = {
    "for another place": "is the list of another place",
    "for authorities": "is not about certificates of this kind",
    "for attributes": "is not about certificates of this kind",
    "for some reasons": "is about some reasons only",
    "indirect": "is an indirect list",
}


def test_what_a_list_says() -> None:
    """Who is on it, since when and why, and until when it holds."""
    entries = {LEAF.serial_number: Entry(NOW - LIFE, "key_compromise", NOW - 2 * LIFE), 7: Entry(NOW)}
    read = read_crl(crl(MIDDLE, KEY, NOW, entries, number=5), QUERY, NOW)
    assert read.entry(LEAF) == Revoked(NOW - LIFE, "keyCompromise", NOW - 2 * LIFE)
    assert read.entry(MIDDLE) is None
    assert (read.until, read.number, read.since, read.freshest) == (NOW + LIFE, 5, None, ())
    assert read.refusal(LEAF, HERE) is None


def test_a_list_of_changes() -> None:
    """It says to what, and a whole list says where it is."""
    read = read_crl(crl(MIDDLE, KEY, NOW, number=6, since=5), QUERY, NOW)
    assert (read.number, read.since) == (6, 5)
    read = read_crl(crl(MIDDLE, KEY, NOW, freshest=[point("http://a.test/"), point("http://b.test/")]), QUERY, NOW)
    assert read.freshest == (Point(("http://a.test/",)), Point(("http://b.test/",)))


def test_one_that_is_over_is_read() -> None:
    """What it lists it still proves; that it is over stands there."""
    read = read_crl(crl(MIDDLE, KEY, NOW, fault="stale"), QUERY, NOW)
    assert read.until == NOW - timedelta(seconds=1)


@pytest.mark.parametrize("fault", UNREADABLE)
def test_faults(fault: CrlFault) -> None:
    """Each is refused with its reason, though everything else is right."""
    with pytest.raises(EvidenceMalformed, match=UNREADABLE[fault]):
        read_crl(crl(MIDDLE, KEY, NOW, fault=fault), QUERY, NOW)


@pytest.mark.parametrize("fault", NOT_FOR_IT)
def test_lists_for_others(fault: CrlFault) -> None:
    """A list says for whom it is: whoever is not among them is not missing on it."""
    read = read_crl(crl(MIDDLE, KEY, NOW, fault=fault), QUERY, NOW)
    assert read.refusal(LEAF, HERE) == NOT_FOR_IT[fault]


def test_lists_for_users_and_for_authorities() -> None:
    """Each for its own."""
    for_users, for_authorities = (read_crl(crl(MIDDLE, KEY, NOW, fault=f), QUERY, NOW) for f in ("for users", "for authorities"))
    assert for_users.refusal(LEAF, HERE) is None
    assert for_users.refusal(MIDDLE, HERE) == "is not about certificates of this kind"
    assert for_authorities.refusal(MIDDLE, HERE) is None


def test_a_list_that_names_its_place() -> None:
    """By any of the names that the certificate has for it."""
    read = read_crl(crl(MIDDLE, KEY, NOW, place=URL), QUERY, NOW)
    assert read.refusal(LEAF, HERE) is None
    assert read.refusal(LEAF, Point(("http://other.test/", URL))) is None
    assert read.refusal(LEAF, Point(("http://other.test/",))) == "is the list of another place"


def test_every_fault_is_tried() -> None:
    """In one of the tables, or by a test of its own."""
    assert {*UNREADABLE, *NOT_FOR_IT, "stale", "for users"} == {*get_args(CrlFault)}


def test_an_issuer_who_may_not_sign_lists() -> None:
    """A signature that holds is not enough where the key is for something else."""
    leaf = issue(name="no lists")
    query = CrlQuery(URL, leaf.chain[0], private=False)
    with pytest.raises(EvidenceMalformed, match="whose key may not sign lists"):
        read_crl(crl(leaf.chain[0], leaf.keys[0], NOW), query, NOW)


def test_entries_with_unknown_critical_extensions() -> None:
    """Whoever does not understand them does not know what the entry says (RFC 5280, section 5.3)."""
    odd = x509.RevokedCertificateBuilder().serial_number(LEAF.serial_number).revocation_date(NOW)
    odd = odd.add_extension(x509.CertificateIssuer([x509.DNSName("x.test")]), critical=True)
    builder = x509.CertificateRevocationListBuilder().issuer_name(MIDDLE.subject).last_update(NOW).next_update(NOW + LIFE)
    signed = builder.add_revoked_certificate(odd.build()).sign(KEY.private, hashes.SHA256())
    read = read_crl(signed.public_bytes(serialization.Encoding.DER), QUERY, NOW)
    assert read.entry(MIDDLE) is None
    with pytest.raises(EvidenceMalformed, match="unknown critical extension"):
        read.entry(LEAF)


def test_places() -> None:
    """What a certificate says of its lists, and what of that cannot be read."""
    reasons = frozenset({x509.ReasonFlags.superseded})
    named = lists_at(point("http://a.test/", "ldap://b.test/"), point("http://c.test/", reasons=reasons), point(issuer="other"))
    certificate = issue(name="places", servers=(named, x509.FreshestCRL([point("http://d.test/")]))).chain[0]
    one, two, three = places_of(certificate)
    assert one == Point(("http://a.test/", "ldap://b.test/"))
    assert (two.problem, three.problem) == (
        "a list for some reasons only is not read here",
        "a list by another issuer is not read here",
    )
    assert freshest_of(certificate) == (Point(("http://d.test/",)),)
    assert (places_of(ACME.chain[-1]), freshest_of(LEAF)) == ((), ())
