"""Revocation of those who sign by notation: what a store makes of it, and when a signature was there."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from proxy.content import FetchedManifest
from proxy.policy.patterns import Pattern
from proxy.policy.rules import AllOf, AnyOf, Rule, SignatureBy, Store, fingerprint
from proxy.policy.verdicts import Evidence, Outcome, evaluate
from proxy.settings import Limits
from proxy.verify.model import Inquiring, Trusted
from proxy.verify.notation import NotationSignatures
from proxy.verify.notation_store import NotationStore, Revocation
from proxy.verify.pipeline import Pipeline, default_verifiers
from proxy.verify.revocation import Answer, Answers, Query, Silence
from storage.reference import Repository
from tests.simulator.images import Image
from tests.simulator.notation import Issued, issue, notation_signature
from tests.simulator.revocation import Entry, crl, lists_at, ocsp_at
from tests.simulator.signing import cosign_signature, signature_manifest
from tests.simulator.sigstore.tsa import TimestampAuthority
from tests.tools import SOON
from tests.unit.verify.evidence import IMAGE, LIMITS, RELEASE, Upstream, document, keys, subject
from tests.unit.verify.test_revocation import DAY, LIST, NOW, OCSP, World

VERIFIER = NotationSignatures(LIMITS)
SERVERS: tuple[x509.ExtensionType, ...] = (ocsp_at(OCSP), lists_at(LIST))
ACME = issue(depth=2, servers=SERVERS)
OLD = issue(name="old", depth=2, ends=NOW - 10 * DAY, servers=SERVERS)
TSA = TimestampAuthority("revocation")
TSA_PEM = TSA.chain(NOW)[-1].public_bytes(serialization.Encoding.PEM)
ASKED = SignatureBy(Store("acme"))
SKIP, LOG, ENFORCE = Revocation.SKIP, Revocation.LOG, Revocation.ENFORCE
MODES = (SKIP, LOG, ENFORCE)


def store(mode: Revocation, issued: Issued = ACME, *, tsa: bool = False, authority: bool = False) -> NotationStore:
    """A store that trusts the root of a signer."""
    pems = ([], [issued.root_pem]) if authority else ([issued.root_pem], [])
    return NotationStore.load("acme", pems[0], [TSA_PEM] if tsa else [], (), pems[1], revocation=mode)


def judge(evidence: Image, by: NotationStore, world: World | None) -> Evidence:
    """The answer, with everything asked that is to be asked; without a world nobody is."""
    trusted = Trusted(stores={"acme": by})
    found = document(evidence)
    known: dict[Query, Answer | Silence] = {}
    while world is not None and (needed := VERIFIER.needs(found, subject(), [ASKED], trusted, NOW)):
        known |= {query: world.ask(query) for query in needed}
        found = replace(found, answers=known)
    (answer,) = VERIFIER.judge(found, subject(), [ASKED], trusted, NOW)
    return answer


def test_it_is_one_that_asks() -> None:
    """Of all the formats, this one."""
    assert [each.name for each in default_verifiers(LIMITS) if isinstance(each, Inquiring)] == ["notation signature"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("standing", ["good", "revoked", "silent"])
def test_what_a_store_makes_of_it(mode: Revocation, standing: str) -> None:
    """Nobody asked; told, and no more; refused, and without an answer no verdict at all."""
    world = World(ACME)
    if standing != "silent":
        world.ocsp()
    if standing == "revoked":
        world.revoke()
    found = judge(notation_signature(ACME, IMAGE), store(mode), world)
    assert found.accepted is (mode is not ENFORCE or standing == "good"), found.reason
    assert found.undecided is (mode is ENFORCE and standing == "silent")
    words = {"good": "is not revoked, says", "revoked": "was revoked at", "silent": "is revoked cannot be told"}[standing]
    assert (words in found.steps[-1]) is (mode is not SKIP), found.steps
    assert [words in each for each in found.warnings] == ([True] if mode is LOG and standing != "good" else [])
    if mode is SKIP:
        assert (world.asked, found.steps[-1]) == ([], "notation store acme does not ask whether certificates are revoked")
    if not found.accepted:
        assert words in found.reason
        verdict = evaluate(ASKED, [found])
        assert verdict.outcome is (Outcome.UNKNOWN if standing == "silent" else Outcome.REFUSED)


@pytest.mark.parametrize("mode", [LOG, ENFORCE])
def test_nobody_is_asked_about_what_fails_anyway(mode: Revocation) -> None:
    """Whoever is not trusted names nobody whom anybody would ask: neither a stranger, nor in a signature that does not hold."""
    world = World(ACME).ocsp()
    for evidence in (
        notation_signature(ACME, IMAGE, fault="signature broken"),
        notation_signature(ACME, IMAGE, fault="another digest"),
        notation_signature(ACME, IMAGE, expiry=NOW),
        notation_signature(issue(name="stranger", depth=2, servers=SERVERS), IMAGE),
        notation_signature(OLD, IMAGE),
    ):
        assert not judge(evidence, store(mode), world).accepted
    assert world.asked == []


@pytest.mark.parametrize("mode", [LOG, ENFORCE])
def test_where_nobody_can_ask(mode: Revocation) -> None:
    """Without a network there is no answer, and that is said."""
    found = judge(notation_signature(ACME, IMAGE), store(mode), None)
    assert (found.accepted, found.undecided) == (mode is LOG, mode is ENFORCE)
    assert "http://ocsp.test/ has not been asked" in (found.reason if mode is ENFORCE else found.warnings[0])


def stamped(issued: Issued, at: datetime) -> Image:
    """A signature with a timestamp of this moment."""
    return notation_signature(issued, IMAGE, stamp=lambda signature: TSA.token(signature, at, accuracy=timedelta(seconds=1)))


@pytest.mark.parametrize(
    ("signed", "invalid_since", "tsa", "accepted"),
    [
        (NOW - 20 * DAY, NOW - 15 * DAY, True, True),
        (NOW - 20 * DAY, NOW - 15 * DAY, False, False),  # no authority whom the store would believe
        (NOW - 20 * DAY, NOW - 20 * DAY + timedelta(seconds=2), True, True),
        (NOW - 20 * DAY, NOW - 20 * DAY + timedelta(seconds=1), True, False),  # within the accuracy of the timestamp
        (NOW - 20 * DAY, NOW - 25 * DAY, True, False),
        (NOW - 20 * DAY, None, True, False),
    ],
)
def test_a_timestamp_proves_what_was_before(signed: datetime, invalid_since: datetime | None, tsa: bool, accepted: bool) -> None:
    """For a chain that holds still as for one that held then."""
    for issued in (ACME, *((OLD,) if tsa else ())):
        world = World(issued).ocsp().revoke(invalid_since=invalid_since)
        found = judge(stamped(issued, signed), store(ENFORCE, issued, tsa=tsa), world)
        assert found.accepted is accepted, found.reason


def test_a_timestamp_that_does_not_hold_proves_nothing() -> None:
    """It decides nothing either, where nothing leaned on it."""
    broken = notation_signature(ACME, IMAGE, stamp=lambda _: b"noise")
    assert judge(broken, store(ENFORCE, tsa=True), World(ACME).ocsp()).accepted
    found = judge(broken, store(ENFORCE, tsa=True), World(ACME).ocsp().revoke(invalid_since=NOW))
    assert not found.accepted
    assert any("its timestamp says nothing" in step for step in found.steps)


@pytest.mark.parametrize(("at", "accepted"), [(NOW - 20 * DAY, True), (NOW - 10 * DAY, False)])
def test_an_authentic_signing_time_proves_it_too(at: datetime, accepted: bool) -> None:
    """Where the store believes it."""
    world = World(ACME).ocsp().revoke(invalid_since=NOW - 15 * DAY)
    evidence = notation_signature(ACME, IMAGE, authority=True, signed_at=at)
    assert judge(evidence, store(ENFORCE, authority=True), world).accepted is accepted
    assert not judge(evidence, store(ENFORCE), world).accepted, "by a store that does not believe it, it proves nothing"


def test_the_mode_is_part_of_the_question() -> None:
    """What was accepted while it was only told is asked for again once it is enforced; told or not is one question."""
    assert store(SKIP).identity == store(LOG).identity != store(ENFORCE).identity


# -- the whole search -----------------------------------------------------------------------------------------------


@dataclass
class Service:
    """Asks a world, as the service does that asks the network."""

    world: World
    rounds: list[int] = field(default_factory=list)
    silent: bool = False
    decides: set[bool] = field(default_factory=set)

    async def ask(self, queries: Mapping[Query, bool], now: datetime, by: float) -> Answers:
        """See :class:`proxy.verify.model.Inquirer`."""
        self.rounds.append(len(queries))
        self.decides |= {*queries.values()}
        if self.silent:
            await asyncio.Event().wait()
        assert now == NOW
        assert by - asyncio.get_running_loop().time() <= LIMITS.revocation_timeout
        return {query: self.world.ask(query) for query in queries}


async def verdict(service: Service | None, mode: Revocation, *signatures: Image) -> tuple[Outcome, str]:
    """What a rule says, with the reasons."""
    upstream = Upstream()
    upstream.refer(*signatures)
    pipeline = Pipeline(default_verifiers(LIMITS), Trusted(stores={"acme": store(mode)}), LIMITS, service)
    rule = Rule(Pattern.compile("**"), ASKED, (), fingerprint(ASKED, {}))
    found, harvest = await pipeline.judge(upstream, subject(), rule, NOW)
    assert all(not document.answers for document in harvest.documents), "what is recorded is evidence, not answers"
    return found.outcome, "; ".join(found.reasons)


async def test_the_search_asks_in_rounds() -> None:
    """The server, then the lists; then the verdict."""
    service = Service(World(ACME).list(entries={}))
    assert (await verdict(service, ENFORCE, notation_signature(ACME, IMAGE)))[0] is Outcome.ACCEPTED
    assert (service.world.asked, service.rounds) == ([OCSP, LIST], [1, 1])


async def test_two_signatures_by_one_signer_ask_once() -> None:
    """Answers are about certificates, not about signatures."""
    service = Service(World(ACME).ocsp())
    both = [notation_signature(ACME, IMAGE, annotations={"n": str(number)}) for number in range(2)]
    assert (await verdict(service, ENFORCE, *both))[0] is Outcome.ACCEPTED
    assert service.world.asked == [OCSP]


async def test_an_outage_is_no_verdict() -> None:
    """Neither yes nor no; beside another signature that is good it does no harm."""
    signature = notation_signature(ACME, IMAGE)
    outcome, reasons = await verdict(Service(World(ACME)), ENFORCE, signature)
    assert outcome is Outcome.UNKNOWN
    assert "http://ocsp.test/: refuses connections; http://list.test/: refuses connections" in reasons
    assert (await verdict(None, ENFORCE, signature))[0] is Outcome.UNKNOWN
    assert (await verdict(None, LOG, signature))[0] is Outcome.ACCEPTED
    assert (await verdict(Service(World(ACME).ocsp().revoke()), ENFORCE, signature))[0] is Outcome.REFUSED


@pytest.mark.parametrize("mode", [LOG, ENFORCE])
async def test_other_places_do_not_wait_for_answers(mode: Revocation) -> None:
    """Servers that never answer hold up the signatures that they are asked about, and no others, whatever comes first."""
    service = Service(World(ACME), silent=True)
    upstream = Upstream()
    upstream.refer(notation_signature(ACME, IMAGE))
    upstream.sign(signature_manifest([cosign_signature(RELEASE, IMAGE.digest)]))
    late = asyncio.Event()
    tagged = upstream.tagged

    async def later(repository: Repository, tag: str) -> Sequence[FetchedManifest]:
        while not service.rounds:  # the signature tag answers when somebody is being asked
            await asyncio.sleep(0.01)
        late.set()
        return await tagged(repository, tag)

    upstream.tagged = later  # type: ignore[method-assign]  # a slower one
    require = AnyOf((ASKED, SignatureBy(RELEASE.name)))
    pipeline = Pipeline(default_verifiers(LIMITS), Trusted(keys(), stores={"acme": store(mode)}), LIMITS, service)
    async with asyncio.timeout(SOON):
        found, harvest = await pipeline.judge(upstream, subject(), Rule(Pattern.compile("**"), require, (), ""), NOW)
    assert late.is_set()
    assert found.outcome is Outcome.ACCEPTED
    assert len(harvest.documents) == 2, "what waits is kept with the rest"
    assert service.decides == {mode is ENFORCE}


async def test_what_needs_no_answers_does_not_wait_for_those_beside_it() -> None:
    """Of one place: a signer of whom nobody could say that he is revoked, beside one whose servers are silent."""
    quiet = issue(name="quiet", depth=2)
    both = [notation_signature(each, IMAGE) for each in (ACME, quiet)]
    upstream = Upstream()
    upstream.refer(*both)
    stores = {"acme": NotationStore.load("acme", [ACME.root_pem, quiet.root_pem], revocation=ENFORCE)}
    pipeline = Pipeline(default_verifiers(LIMITS), Trusted(stores=stores), LIMITS, Service(World(ACME), silent=True))
    async with asyncio.timeout(SOON):
        found, _ = await pipeline.judge(upstream, subject(), Rule(Pattern.compile("**"), ASKED, (), ""), NOW)
    assert found.outcome is Outcome.ACCEPTED


async def test_one_question_of_two_stores_is_as_urgent_as_the_stricter() -> None:
    """The same certificate, only told by one store and enforced by the other."""
    service = Service(World(ACME).ocsp())
    upstream = Upstream()
    upstream.refer(notation_signature(ACME, IMAGE))
    stores = {"acme": store(LOG), "strict": store(ENFORCE)}
    require = AllOf((ASKED, SignatureBy(Store("strict"))))
    pipeline = Pipeline(default_verifiers(LIMITS), Trusted(stores=stores), LIMITS, service)
    found, _ = await pipeline.judge(upstream, subject(), Rule(Pattern.compile("**"), require, (), ""), NOW)
    assert found.outcome is Outcome.ACCEPTED
    assert service.decides == {True}


async def test_nobody_is_asked_until_a_pull_is_given_up() -> None:
    """However long the search took: the verdict must come before the client goes."""
    limits = Limits.model_validate({"request_timeout": 1.0, "revocation_timeout": 10.0})
    begun = asyncio.get_running_loop().time()
    until: list[float] = []

    class Noting(Service):
        async def ask(self, queries: Mapping[Query, bool], now: datetime, by: float) -> Answers:
            until.append(by)
            return await super().ask(queries, now, by)

    upstream = Upstream()
    upstream.refer(notation_signature(ACME, IMAGE))
    pipeline = Pipeline(default_verifiers(limits), Trusted(stores={"acme": store(ENFORCE)}), limits, Noting(World(ACME).ocsp()))
    await pipeline.judge(upstream, subject(), Rule(Pattern.compile("**"), ASKED, (), ""), NOW)
    assert until
    assert all(by - begun <= 0.9 for by in until)


async def test_warnings_are_logged(capsys: pytest.CaptureFixture[str]) -> None:
    """What decides nothing is at least told, once for each image."""
    service = Service(World(ACME).ocsp().revoke())
    assert (await verdict(service, LOG, notation_signature(ACME, IMAGE)))[0] is Outcome.ACCEPTED
    told = "".join(capsys.readouterr())
    assert told.count("signer.doubtful") == 1
    assert "was revoked at 2026-05-31" in told


async def test_there_is_an_end_to_asking() -> None:
    """A hundred signers are asked about within the limit; the others are not known."""
    signers = [issue(name=f"many {number}", depth=2, servers=SERVERS) for number in range(70)]
    pems = [each.root_pem for each in signers]
    service = Service(World(ACME))
    upstream = Upstream()
    upstream.refer(*(notation_signature(each, IMAGE) for each in signers))
    limits = Limits(signatures=100)
    trusted = Trusted(stores={"acme": NotationStore.load("acme", pems, revocation=ENFORCE)})
    pipeline = Pipeline(default_verifiers(limits), trusted, limits, service)
    found, _ = await pipeline.judge(upstream, subject(), Rule(Pattern.compile("**"), ASKED, (), ""), NOW)
    assert found.outcome is Outcome.UNKNOWN
    assert sum(service.rounds) == 64


async def test_a_verifier_that_breaks_while_it_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    """What it breaks on is failed evidence, not an end of the search."""

    class Broken(NotationSignatures):
        def needs(self, *_: object) -> Mapping[Query, bool]:
            raise RuntimeError("broken")

    trusted = Trusted(stores={"acme": store(ENFORCE)})
    upstream = Upstream()
    upstream.refer(notation_signature(ACME, IMAGE))
    pipeline = Pipeline((Broken(LIMITS),), trusted, LIMITS, Service(World(ACME).ocsp()))
    found, _ = await pipeline.judge(upstream, subject(), Rule(Pattern.compile("**"), ASKED, (), ""), NOW)
    assert found.outcome is Outcome.UNKNOWN
    capsys.readouterr()


def test_a_timestamp_authority_may_be_revoked() -> None:
    """Where the signature leans on its timestamp, and there alone."""
    tsa = TimestampAuthority("revoked", servers=(lists_at(LIST),))
    pem = tsa.chain(NOW)[-1].public_bytes(serialization.Encoding.PEM)
    made = notation_signature(OLD, IMAGE, stamp=lambda signature: tsa.token(signature, NOW - 20 * DAY))
    by = NotationStore.load("acme", [OLD.root_pem], [pem], revocation=ENFORCE)
    world = World(OLD).ocsp()
    found = judge(made, by, world)
    assert found.undecided
    assert "whether CN=revoked timestamps leaf" in found.reason
    leaf = tsa.chain(NOW)[0]

    def listed(entries: dict[int, Entry]) -> None:
        world.servers[LIST] = lambda query: crl(query.issuer, tsa.root_key, NOW, entries)

    listed({})
    assert judge(made, by, world).accepted
    listed({leaf.serial_number: Entry(NOW)})
    found = judge(made, by, world)
    assert (found.accepted, found.undecided) == (False, False)
    held = notation_signature(ACME, IMAGE, stamp=lambda signature: tsa.token(signature, NOW - 20 * DAY))
    by = NotationStore.load("acme", [ACME.root_pem], [pem], revocation=ENFORCE)
    other = World(ACME).ocsp()
    other.servers[LIST] = world.servers[LIST]
    assert judge(held, by, other).accepted, "nothing leans on it"
    assert not judge(held, by, other.revoke(invalid_since=NOW - 15 * DAY)).accepted, "now it would"
