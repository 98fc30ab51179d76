"""Looking certificates up: in which order who is asked, what is believed of it, and what is not known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from proxy.errors import EvidenceMalformed
from proxy.verify.crl import CrlQuery, read_crl
from proxy.verify.ocsp import OcspQuery, read_ocsp
from proxy.verify.revocation import Answer, Finding, LookUp, Query, Silence, Standing
from tests.simulator.notation import Issued, issue
from tests.simulator.revocation import (
    LIFE,
    CrlFault,
    Entry,
    OcspFault,
    OcspOddity,
    crl,
    delegate,
    lists_at,
    ocsp_answer,
    ocsp_at,
    point,
)

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
NONCE = b"0123456789abcdef"
OCSP, OCSP_2, LIST, LIST_2, DELTA = (f"http://{name}.test/" for name in ("ocsp", "ocsp-2", "list", "list-2", "delta"))
GOOD, REVOKED, UNKNOWN = Standing.GOOD, Standing.REVOKED, Standing.UNKNOWN


def signer(*servers: x509.ExtensionType) -> Issued:
    """A signer right below a root, which names these servers."""
    return issue(depth=2, servers=servers)


@dataclass
class World:
    """What servers answer, by URL; who is not in here is silent. ``asked`` keeps the order."""

    issued: Issued
    entries: dict[int, Entry] = field(default_factory=dict)
    servers: dict[str, Callable[[Query], bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def ocsp(self, url: str = OCSP, fault: OcspFault | OcspOddity | None = None, lists: str | None = None) -> World:
        """An OCSP server."""

        def answer(query: Query) -> bytes:
            assert isinstance(query, OcspQuery)
            place = self.issued.chain.index(query.certificate)
            named = None if lists is None else lists_at(lists)
            entry = self.entries.get(query.certificate.serial_number)
            issuer, key = self.issued.chain[place + 1], self.issued.keys[place + 1]
            return ocsp_answer(query.request(NONCE), query.certificate, issuer, key, NOW, entry, fault, named)

        self.servers[url] = answer
        return self

    def list(
        self,
        url: str = LIST,
        fault: CrlFault | None = None,
        entries: dict[int, Entry] | None = None,
        number: int = 1,
        since: int | None = None,
        freshest: str | None = None,
    ) -> World:
        """A place of lists."""

        def answer(query: Query) -> bytes:
            place = self.issued.chain.index(query.issuer)
            found = self.entries if entries is None else entries
            more = [] if freshest is None else [point(freshest)]
            key = self.issued.keys[place]
            return crl(query.issuer, key, NOW, found, number=number, since=since, freshest=more, fault=fault)

        self.servers[url] = answer
        return self

    def revoke(self, at: datetime = NOW - DAY, reason: str | None = None, invalid_since: datetime | None = None) -> World:
        """Revoke the leaf."""
        self.entries[self.issued.chain[0].serial_number] = Entry(at, reason, invalid_since)
        return self

    def ask(self, query: Query) -> Answer | Silence:
        """As a service would."""
        self.asked.append(query.url)
        if query.url not in self.servers:
            return Silence("refuses connections")
        body = self.servers[query.url](query)
        try:
            return read_crl(body, query, NOW) if isinstance(query, CrlQuery) else read_ocsp(body, query, NONCE, NOW)
        except EvidenceMalformed as error:
            return Silence(f"its answer {error}")

    def find(self, signed_by: datetime | None = None, now: datetime = NOW) -> tuple[Finding, ...]:
        """Look the chain up, asking until nothing more is to be asked."""
        known: dict[Query, Answer | Silence] = {}
        for _ in range(20):
            look = LookUp(known, now, private=False)
            found = look.chain(self.issued.chain, signed_by)
            if not look.missing:
                return found
            assert not look.missing.keys() & known.keys()
            known |= {query: self.ask(query) for query in look.missing}
        raise AssertionError("it never stops asking")

    def leaf(self, signed_by: datetime | None = None, now: datetime = NOW) -> Finding:
        """What is known of the leaf."""
        return self.find(signed_by, now)[0]


# -- who is asked ---------------------------------------------------------------------------------------------------


def test_one_that_names_nobody() -> None:
    """It cannot be revoked, as far as anybody can know; and the root is never asked about."""
    world = World(issue(depth=3))
    assert [each.standing for each in world.find()] == [GOOD, GOOD]
    assert (world.asked, world.leaf().words) == ([], "CN=acme,O=acme,ST=BE,C=DE names nobody who could revoke it")
    assert World(issue(depth=1)).find() == ()


def test_ocsp_first() -> None:
    """An answer makes lists needless."""
    world = World(signer(ocsp_at(OCSP), lists_at(LIST))).ocsp().list(entries={})
    assert world.leaf().standing is GOOD
    assert world.asked == [OCSP]
    assert world.leaf().words == f"CN=acme,O=acme,ST=BE,C=DE is not revoked, says {OCSP}, until 2026-06-03 12:00:00 UTC"
    assert world.revoke(reason="key_compromise").leaf().standing is REVOKED
    assert "was revoked at 2026-05-31 12:00:00 UTC (keyCompromise), says http://ocsp.test/" in world.leaf().words


def test_every_certificate_but_the_root_is_asked_about() -> None:
    """Side by side: one round for the whole chain."""
    world = World(issue(depth=4, servers=(ocsp_at(OCSP),))).ocsp()
    look = LookUp({}, NOW, private=True)
    assert [each.standing for each in look.chain(world.issued.chain, None)] == [UNKNOWN] * 3
    assert [(query.url, query.private) for query in look.missing] == [(OCSP, True)] * 3
    world.entries[world.issued.chain[1].serial_number] = Entry(NOW)
    assert [each.standing for each in world.find()] == [GOOD, REVOKED, GOOD]


@pytest.mark.parametrize("fault", ["try later", "noise", "stale", "unknown", "signed by a stranger", "another certificate"])
def test_servers_one_after_the_other_then_lists(fault: OcspFault) -> None:
    """Whoever does not answer, or wrongly, or does not know, is passed over."""
    world = World(signer(ocsp_at(OCSP, OCSP_2), lists_at(LIST))).ocsp(fault=fault).ocsp(OCSP_2)
    assert world.leaf().standing is GOOD
    assert world.asked == [OCSP, OCSP_2]
    world = World(world.issued).ocsp(fault=fault).list(entries={})
    assert (world.leaf().standing, world.asked) == (GOOD, [OCSP, OCSP_2, LIST])
    world = World(world.issued).ocsp(fault=fault).ocsp(OCSP_2, fault=fault).list().revoke()
    assert world.leaf().standing is REVOKED
    world = World(world.issued).ocsp(fault=fault)
    assert world.leaf().standing is UNKNOWN
    told = world.leaf().words
    assert told.startswith(f"whether CN=acme,O=acme,ST=BE,C=DE is revoked cannot be told: {OCSP}: ")
    assert f"{OCSP_2}: refuses connections; {LIST}: refuses connections" in told


def test_silence_alone_is_no_answer() -> None:
    """Neither of a server without lists, nor of lists without a server; what is said of it is fit for a header."""
    many = [f"http://{number}.test/{'x' * 300}" for number in range(8)]
    world = World(signer(ocsp_at(*many), lists_at(*many)))
    look = LookUp({query: Silence("\u00fcber\n" * 100) for query in _queries(world)}, NOW, private=False)
    (found,) = look.chain(world.issued.chain, None)
    assert (found.standing, found.words.isascii(), found.words.isprintable()) == (UNKNOWN, True, True)
    assert len(found.words) < 1000
    assert World(signer(ocsp_at(OCSP))).leaf().standing is UNKNOWN
    assert World(signer(lists_at(LIST))).leaf().standing is UNKNOWN


def test_only_http_is_asked() -> None:
    """Anything else is as if it were silent."""
    world = World(signer(ocsp_at("https://ocsp.test/", "ldap://ocsp.test/"), lists_at("https://list.test/")))
    assert world.leaf().standing is UNKNOWN
    assert "https://list.test/: only http:// is asked" in world.leaf().words
    assert world.asked == []
    world = World(signer(lists_at(point("ldap://list.test/", LIST)))).list(entries={})
    assert (world.leaf().standing, world.asked) == (GOOD, [LIST])


def test_so_many_are_asked_and_no_more() -> None:
    """A certificate that names many does not make many requests."""
    many = [f"http://{number}.test/" for number in range(20)]
    world = World(signer(ocsp_at(*many), lists_at(point(*many))))
    assert world.leaf().standing is UNKNOWN
    assert world.asked == [*many[:3], *many[:3]]
    world = World(signer(lists_at(*many)))
    assert (world.leaf().standing, world.asked) == (UNKNOWN, [])
    assert "20 places of lists; the limit is 8" in world.leaf().words


def _queries(world: World) -> list[Query]:
    world.find()
    leaf, issuer = world.issued.chain
    servers = [OcspQuery(url, leaf, issuer, private=False) for url in dict.fromkeys(world.asked)]
    return [*servers, *(CrlQuery(query.url, issuer, private=False) for query in servers)]


# -- who answers ----------------------------------------------------------------------------------------------------


def test_a_delegate_is_looked_up_on_the_lists() -> None:
    """Unless his certificate exempts him: revoked, or not to be found out, he answers for nobody."""
    issued = signer(ocsp_at(OCSP))
    world = World(issued).ocsp(fault="delegate")
    assert (world.leaf().standing, world.asked) == (GOOD, [OCSP])
    world = World(issued).ocsp(fault="delegate", lists=LIST).list(entries={})
    assert (world.leaf().standing, world.asked) == (GOOD, [OCSP, LIST])
    world = World(issued).ocsp(fault="delegate", lists=LIST)
    assert world.leaf().standing is UNKNOWN
    assert "who signed the answer, is revoked cannot be told" in world.leaf().words

    def everybody(query: Query) -> bytes:

        answerer, _ = delegate(query.issuer, issued.keys[1], None, lists_at(LIST))
        return crl(query.issuer, issued.keys[1], NOW, {answerer.serial_number: Entry(NOW)})

    world = World(issued).ocsp(fault="delegate", lists=LIST)
    world.servers[LIST] = everybody
    assert world.leaf().standing is UNKNOWN
    assert "who signed the answer, is revoked" in world.leaf().words


def test_an_answer_that_has_ended_since() -> None:
    """What was kept is held against the time of the judgement."""
    world = World(signer(ocsp_at(OCSP), lists_at(LIST))).ocsp().list(entries={})
    assert world.leaf(now=NOW + LIFE).standing is GOOD
    assert world.leaf(now=NOW + LIFE + timedelta(seconds=1)).standing is UNKNOWN


# -- when -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["ocsp", "list"])
@pytest.mark.parametrize(
    ("invalid_since", "signed_by", "expected"),
    [
        (None, None, REVOKED),
        (None, NOW - 100 * DAY, REVOKED),  # long before it was revoked: still nobody says since when the key is in other hands
        (NOW - 5 * DAY, None, REVOKED),  # nobody proves when it was signed
        (NOW - 5 * DAY, NOW - 4 * DAY, REVOKED),
        (NOW - 5 * DAY, NOW - 5 * DAY, REVOKED),  # at that very moment
        (NOW - 5 * DAY, NOW - 5 * DAY - timedelta(seconds=1), GOOD),
    ],
)
def test_when_it_was_signed(by: str, invalid_since: datetime | None, signed_by: datetime | None, expected: Standing) -> None:
    """Revoked is revoked, but for what is proven to be older than the harm."""
    world = World(signer(ocsp_at(OCSP) if by == "ocsp" else lists_at(LIST))).ocsp().list()
    found = world.revoke(invalid_since=invalid_since).leaf(signed_by)
    assert (found.standing, found.by_time) == (expected, expected is GOOD)


# -- lists ----------------------------------------------------------------------------------------------------------


def test_every_place_must_answer() -> None:
    """Each may list what the others do not; under one of its names."""
    issued = signer(lists_at(LIST, point("http://gone.test/", LIST_2)))
    world = World(issued).list(entries={}).list(LIST_2, entries={})
    assert (world.leaf().standing, world.asked) == (GOOD, [LIST, "http://gone.test/", LIST_2])
    assert World(issued).list(entries={}).leaf().standing is UNKNOWN
    assert World(issued).list(entries={}).list(LIST_2).revoke().leaf().standing is REVOKED
    assert World(issued).list(LIST_2).revoke().leaf().standing is REVOKED, "what one lists, the silence of another leaves alone"


@pytest.mark.parametrize("fault", ["another issuer", "signed by a stranger", "for authorities", "for another place", "indirect"])
def test_lists_that_are_none_for_it(fault: CrlFault) -> None:
    """They neither list it, nor does it help that they do not."""
    for world in (World(signer(lists_at(LIST))).list(fault=fault), World(signer(lists_at(LIST))).list(fault=fault).revoke()):
        assert world.leaf().standing is UNKNOWN


@pytest.mark.parametrize(("reason", "expected"), [(None, REVOKED), ("key_compromise", REVOKED), ("certificate_hold", UNKNOWN)])
def test_a_list_that_is_over(reason: str | None, expected: Standing) -> None:
    """What it lists stays revoked, but for what was on hold only; what it does not list may be by now."""
    world = World(signer(lists_at(LIST))).list(fault="stale")
    assert world.leaf().standing is UNKNOWN
    assert world.revoke(reason=reason).leaf().standing is expected


def test_what_is_on_hold_is_revoked_for_now() -> None:
    """Until it is taken off the list."""
    assert World(signer(lists_at(LIST))).list().revoke(reason="certificate_hold").leaf().standing is REVOKED


def serial(world: World) -> int:
    """Of the leaf."""
    return world.issued.chain[0].serial_number


@pytest.mark.parametrize("named_by", ["list", "certificate"])
def test_a_freshest_list_completes_it(named_by: str) -> None:
    """What changed since is added, or taken off; a change that does not come leaves it untold."""
    servers: tuple[x509.ExtensionType, ...] = (lists_at(LIST),)
    if named_by == "certificate":
        servers = (*servers, x509.FreshestCRL([point(DELTA)]))
    freshest = DELTA if named_by == "list" else None
    world = World(signer(*servers)).list(number=5, freshest=freshest, entries={})
    assert world.leaf().standing is UNKNOWN
    world.list(DELTA, number=7, since=4, entries={})
    assert (world.leaf().standing, world.asked[-2:]) == (GOOD, [LIST, DELTA])
    world.list(DELTA, number=7, since=5, entries={serial(world): Entry(NOW)})
    assert world.leaf().standing is REVOKED
    held = {serial(world): Entry(NOW - DAY, "certificate_hold")}
    world.list(number=5, freshest=freshest, entries=held).list(DELTA, number=7, since=5, entries={})
    assert world.leaf().standing is REVOKED
    world.list(DELTA, number=7, since=5, entries={serial(world): Entry(NOW, "remove_from_crl")})
    assert world.leaf().standing is GOOD


@pytest.mark.parametrize(("reason", "expected"), [(None, REVOKED), ("key_compromise", REVOKED), ("certificate_hold", UNKNOWN)])
def test_what_is_revoked_for_good_needs_no_changes(reason: str | None, expected: Standing) -> None:
    """Whoever keeps the changes from coming cannot make a revocation untold; only a hold may have ended."""
    world = World(signer(lists_at(LIST)))
    world.list(number=5, freshest=DELTA, entries={serial(world): Entry(NOW - DAY, reason)})
    assert world.leaf().standing is expected


def test_changes_do_not_undo_a_revocation() -> None:
    """What is taken off though it was not on hold is taken off because the certificate has ended."""
    world = World(signer(lists_at(LIST)))
    world.list(number=5, freshest=DELTA, entries={serial(world): Entry(NOW - DAY, "key_compromise")})
    world.list(DELTA, number=7, since=5, entries={serial(world): Entry(NOW, "remove_from_crl")})
    assert world.leaf().standing is REVOKED


@pytest.mark.parametrize(
    ("number", "since", "fault"),
    [(7, 6, None), (4, 3, None), (7, None, None), (7, 5, "stale"), (7, 5, "for users"), (7, 5, "signed by a stranger")],
)
def test_changes_that_do_not_follow(number: int, since: int | None, fault: CrlFault | None) -> None:
    """To a later list, of before this one, no changes at all, over, of another scope, by somebody else: nothing is told."""
    world = World(signer(lists_at(LIST))).list(number=5, freshest=DELTA, entries={})
    world.list(DELTA, number=number, since=since, fault=fault, entries={})
    assert world.leaf().standing is UNKNOWN


def test_changes_alone_are_no_list() -> None:
    """They do not say what was before."""
    world = World(signer(lists_at(LIST))).list(number=5, since=4, entries={})
    assert world.leaf().standing is UNKNOWN
    assert "a list of changes, where a whole list should be" in world.leaf().words
