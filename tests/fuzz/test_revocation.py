"""Whatever happens to the answers of revocation servers on their way, and whatever certificates name: an end, and never a yes."""

from __future__ import annotations

from random import Random

from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import EvidenceMalformed
from proxy.verify.crl import CrlQuery, Point, freshest_of, places_of, read_crl
from proxy.verify.ocsp import OcspQuery, read_ocsp
from proxy.verify.revocation import Answer, LookUp, Query, Silence, Standing
from tests.fuzz.examples import examples
from tests.fuzz.forms import Changer
from tests.fuzz.targets.revocation import ENTRY, LIST_URL, NONCE, NOW, OCSP_URL
from tests.simulator.notation import issue
from tests.simulator.revocation import crl, lists_at, ocsp_answer, ocsp_at, point

ACME = issue(name="fuzz both", depth=2, servers=(ocsp_at(OCSP_URL), lists_at(LIST_URL)))
LEAF, ISSUER, KEY = ACME.chain[0], ACME.chain[1], ACME.keys[1]
BODIES = {
    OCSP_URL: ocsp_answer(OcspQuery(OCSP_URL, LEAF, ISSUER, private=False).request(NONCE), LEAF, ISSUER, KEY, NOW, ENTRY),
    LIST_URL: crl(ISSUER, KEY, NOW, {LEAF.serial_number: ENTRY}),
}
URLS = st.sampled_from(("http://a.test/", "HTTP://b.test/", "https://c.test/", "ldap://d.test/", "", "http://", "x" * 3000))


def read(query: Query, body: bytes) -> Answer | Silence:
    """What is read; silence where it is refused."""
    try:
        return read_crl(body, query, NOW) if isinstance(query, CrlQuery) else read_ocsp(body, query, NONCE, NOW)
    except EvidenceMalformed as error:
        return Silence(str(error))


@examples(200)
@given(random=st.randoms(use_true_random=False))
def test_nobody_on_the_way_makes_a_certificate_good(random: Random) -> None:
    """A revoked certificate: whatever becomes of the answers, it is revoked or not known."""
    known: dict[Query, Answer | Silence] = {}
    for _ in range(10):
        look = LookUp(known, NOW, private=False)
        (found,) = look.chain(ACME.chain, None)
        if not look.missing:
            assert found.standing is not Standing.GOOD
            return
        for query in look.missing:
            known[query] = read(query, Changer(random).change(BODIES[query.url]))
    raise AssertionError("it never stops asking")


@examples(50)
@given(
    servers=st.lists(URLS, min_size=1, max_size=12),
    places=st.lists(st.lists(URLS, min_size=1, max_size=6), min_size=1, max_size=12),
)
def test_whatever_certificates_name(servers: list[str], places: list[list[str]]) -> None:
    """A bounded number of questions, by http alone, and then an end."""
    freshest = x509.FreshestCRL([point(*places[0])])
    named = (ocsp_at(*servers), lists_at(*(point(*each) for each in places)), freshest)
    chain = issue(depth=2, name="fuzz", servers=named).chain
    assert all(isinstance(each, Point) for each in (*places_of(chain[0]), *freshest_of(chain[0])))
    known: dict[Query, Answer | Silence] = {}
    while True:
        look = LookUp(known, NOW, private=False)
        (found,) = look.chain(chain, None)
        assert found.standing is Standing.UNKNOWN
        if not look.missing:
            break
        assert all(query.url.lower().startswith("http://") for query in look.missing)
        known |= {query: Silence("silence") for query in look.missing}
    assert len(known) <= 3 + 8 * 3
