"""Lookasides as a place of evidence: who asks for them, their bounds, and what an outage in the middle leaves."""

from __future__ import annotations

from contextlib import aclosing
from datetime import UTC, datetime

import pysequoia
import pytest

from proxy.content import Lookaside
from proxy.errors import UpstreamDenied, UpstreamMisbehaved, UpstreamUnavailable
from proxy.policy.patterns import Pattern
from proxy.policy.rules import AnyOf, AttestationBy, OpenPgp, Question, Requirement, Rule, SignatureBy, Store, fingerprint
from proxy.policy.verdicts import Outcome, Verdict
from proxy.settings import Limits
from proxy.verify.discovery import discover
from proxy.verify.model import Found, Harvest, Trusted
from proxy.verify.openpgp import OpenPgpKey
from proxy.verify.pipeline import Pipeline, default_verifiers, places_of
from tests.simulator.openpgp import text
from tests.simulator.signing import cosign_signature, signature_manifest
from tests.unit.verify.evidence import IMAGE, LIMITS, RELEASE, REPOSITORY, Stall, Upstream, keys, subject

PLACE, ELSEWHERE, REGISTRY = Lookaside("https://sigs.test"), Lookaside("https://other.test"), Lookaside()
PRIVATE = pysequoia.Tsk.generate("Acme <acme@acme.test>")
PUBLIC = bytes(PRIVATE.extract_certificate())
RIGHT = pysequoia.sign(PRIVATE.signer(), text(IMAGE.digest, str(REPOSITORY)), armor=False)
WRONG = b"\x90wrong"
TRUSTED = Trusted(
    keys(),
    openpgp={name: OpenPgpKey.load(name, PUBLIC, at) for name, at in (("acme", PLACE), ("again", PLACE), ("own", REGISTRY))},
)
BY_ACME = SignatureBy(OpenPgp("acme"))
SOURCE = f"lookaside https://sigs.test for {IMAGE.digest.short}"


async def harvest(upstream: Upstream, limits: Limits = LIMITS, place: Lookaside = PLACE) -> Harvest:
    """What discovery brings home from a lookaside."""
    async with aclosing(discover(upstream, subject(), limits, lambda *_: None, [place])) as sources:
        ((rank, found),) = [each async for each in sources]
    assert rank == 0
    return found


async def judge(upstream: Upstream, require: Requirement = BY_ACME, limits: Limits = LIMITS) -> Verdict:
    """The verdict of a rule."""
    rule = Rule(Pattern.compile("**"), require, (), fingerprint(require, {}))
    verdict, _ = await Pipeline(default_verifiers(limits), TRUSTED, limits).judge(upstream, subject(), rule, datetime.now(UTC))
    return verdict


@pytest.mark.parametrize(
    ("questions", "places"),
    [
        ([BY_ACME], (PLACE,)),
        ([BY_ACME, SignatureBy(OpenPgp("again")), SignatureBy(OpenPgp("own"))], (PLACE, REGISTRY)),
        ([BY_ACME, SignatureBy("release")], (PLACE, Found.SIGNATURE_TAG, Found.REFERRERS_API)),
        ([BY_ACME, AttestationBy("t", "release")], (PLACE, Found.ATTESTATION_TAG, Found.REFERRERS_API)),
        ([BY_ACME, SignatureBy(Store("acme"))], (PLACE, Found.REFERRERS_API)),
        ([SignatureBy(OpenPgp("unknown"))], ()),
    ],
    ids=["one", "each place once", "beside cosign", "beside attestations", "beside notation", "not configured"],
)
def test_each_question_is_asked_where_its_answer_can_be(questions: list[Question], places: tuple[Found | Lookaside, ...]) -> None:
    """OpenPGP in lookasides and nowhere else; nothing else in lookasides."""
    assert places_of(questions, TRUSTED) == places


async def test_signatures_become_documents_in_their_order() -> None:
    """Each by itself, asked for by the image's digest and the limit for signatures."""
    upstream = Upstream(beside={PLACE: [WRONG, RIGHT], ELSEWHERE: [WRONG]})
    found = await harvest(upstream)
    assert [document.layers[0][2] for document in found.documents] == [WRONG, RIGHT]
    assert {document.found for document in found.documents} == {Found.LOOKASIDE}
    assert upstream.asked == [(IMAGE.digest, PLACE, LIMITS.signature_size)]
    assert (found.malformed, found.unavailable) == ((), ())
    assert (await harvest(Upstream())).documents == ()


async def test_no_more_than_the_limit_is_judged() -> None:
    """One more is asked for, so that it can be told; none after that."""
    upstream = Upstream(beside={PLACE: [WRONG + bytes([number]) for number in range(10)]})
    found = await harvest(upstream, Limits(signatures=3))
    assert len(found.documents) == 3
    assert [each.reason for each in found.malformed] == ["more than 3 signatures are there; only the first 3 were judged"]
    assert upstream.calls == ["signature-1", "signature-2", "signature-3", "signature-4"]


async def test_the_bytes_of_one_place_are_bounded() -> None:
    """What goes beyond its share is not judged, and said."""
    upstream = Upstream(beside={PLACE: [b"\x90" + bytes(600)] * 3})
    found = await harvest(upstream, Limits(evidence_total=1500))
    assert len(found.documents) == 2
    assert [each.reason for each in found.malformed] == ["is beyond the 1500 bytes that one source has of limits.evidence_total"]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (UpstreamUnavailable("down", retry_after=7.0), "down"),
        (UpstreamDenied("denied"), "denied"),
        (Stall(), "did not answer in time"),
    ],
)
async def test_what_came_before_an_outage_is_judged(fault: Exception, told: str) -> None:
    """The right signature suffices; without it nobody can tell."""
    limits = Limits(evidence_timeout=0.2)
    upstream = Upstream(beside={PLACE: [WRONG, RIGHT]}, faults={"signature-2": fault})
    found = await harvest(upstream, limits)
    assert [document.layers[0][2] for document in found.documents] == [WRONG]
    assert found.unavailable == (f"{SOURCE}: {told}",)
    assert found.retry_after == getattr(fault, "retry_after", None)
    assert (await judge(upstream, limits=limits)).outcome is Outcome.UNKNOWN
    upstream = Upstream(beside={PLACE: [RIGHT, WRONG]}, faults={"signature-2": fault})
    assert (await judge(upstream, limits=limits)).outcome is Outcome.ACCEPTED


async def test_what_breaks_a_promise_is_a_refusal() -> None:
    """It is there, and useless; so is what may come after it."""
    upstream = Upstream(beside={PLACE: [WRONG, RIGHT]}, faults={"signature-1": UpstreamMisbehaved("sent too much")})
    verdict = await judge(upstream)
    assert verdict.outcome is Outcome.REFUSED
    assert verdict.reasons == (f"a signature by key acme is required; found: {SOURCE}: is refused: sent too much",)


async def test_an_accepted_signature_does_not_wait_for_other_places() -> None:
    """Nor does a lookaside that never answers hold up the others."""
    either = AnyOf((BY_ACME, SignatureBy("release")))
    slow = {"referrers": Stall(), "tagged": Stall()}
    assert (await judge(Upstream(beside={PLACE: [RIGHT]}, faults=dict(slow)), either)).accepted
    upstream = Upstream(faults={"the end": Stall(), "referrers": Stall()})
    upstream.sign(signature_manifest([cosign_signature(RELEASE, IMAGE.digest)]))
    assert (await judge(upstream, either)).accepted
    assert sorted(upstream.cancelled) == ["referrers", "the end"]


async def test_a_key_that_nothing_stands_for_refuses() -> None:
    """As for other signers; nothing is asked."""
    upstream = Upstream()
    verdict = await judge(upstream, SignatureBy(OpenPgp("unknown")))
    assert verdict.outcome is Outcome.REFUSED
    assert "knows no key unknown" in verdict.reasons[0]
    assert upstream.calls == []


def test_the_question_is_another_than_that_of_a_pem_key_of_the_name() -> None:
    """Verdicts of the one are none of the other, as long as what they stand for differs."""
    assert fingerprint(BY_ACME, {"acme": "openpgp/1"}) != fingerprint(SignatureBy("acme"), {"acme": "sha256"})
    assert fingerprint(BY_ACME, {}) == fingerprint(BY_ACME, {})
    assert str(BY_ACME) == "a signature by key acme"
