"""The pipeline: verdicts with their words, early ends, and failing closed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from proxy.errors import UpstreamDenied, UpstreamMisbehaved, UpstreamUnavailable
from proxy.manifest import Entry, Manifest
from proxy.policy.patterns import Pattern
from proxy.policy.rules import (
    AllOf,
    AnyOf,
    AtLeast,
    AttestationBy,
    FirstUse,
    Identity,
    Never,
    Question,
    Requirement,
    Rule,
    SignatureBy,
    fingerprint,
)
from proxy.policy.verdicts import Evidence, Outcome, Verdict
from proxy.settings import Limits
from proxy.verify.cosign import CosignSignatures
from proxy.verify.model import Document, Found, Harvest, Subject, Trusted
from proxy.verify.pipeline import Pipeline, default_verifiers, judge_documents, places_of
from proxy.verify.roots import Demands, Root
from proxy.verify.second import SecondVerdict
from proxy.verify.trust import Key
from tests.simulator import images
from tests.simulator.signing import (
    BundleFault,
    CosignFault,
    Signer,
    bundle_referrer,
    cosign_signature,
    many_signatures,
    other_digest,
    signature_manifest,
)
from tests.simulator.sigstore import PrivateSigstore
from tests.tools import SOON
from tests.unit.verify.evidence import IMAGE, LIMITS, NOW, RELEASE, Stall, Upstream, asked, document, key, keys, subject

SIGNATURES = signature_manifest([cosign_signature(RELEASE, IMAGE.digest)])
BUNDLE = bundle_referrer(RELEASE, IMAGE)
BY_RELEASE = SignatureBy("release")
REQUIRED = "a signature by key release is required; found: "
OTHER = other_digest(IMAGE.digest)
OTHER_SIGNER = Signer.of("p256", "second")
TAG_SOURCE = f"signature tag of {IMAGE.digest.short}"


def rule(require: Requirement) -> Rule:
    """A rule for everything."""
    return Rule(Pattern.compile("**"), require, (), fingerprint(require, {}))


async def judge(
    upstream: Upstream, require: Requirement = BY_RELEASE, *signers: Signer, limits: Limits = LIMITS
) -> tuple[Verdict, Harvest]:
    """Judge the image with these signers' keys (the release key's, when none is given)."""
    pipeline = Pipeline(default_verifiers(limits), Trusted(keys(*signers)), limits)
    return await pipeline.judge(upstream, subject(), rule(require), NOW)


def signed(*evidence: images.Image, tag: images.Image | None = None) -> Upstream:
    """An upstream with these referrers and this signature manifest."""
    upstream = Upstream()
    upstream.refer(*evidence)
    if tag is not None:
        upstream.sign(tag)
    return upstream


@pytest.mark.parametrize(
    ("upstream", "found"),
    [
        (signed(tag=SIGNATURES), f"cosign signature from the {TAG_SOURCE}, signature 1"),
        (signed(BUNDLE), f"sigstore bundle from the referrer {BUNDLE.digest.short}"),
    ],
    ids=["signature tag", "bundle"],
)
async def test_a_signed_image_is_accepted(upstream: Upstream, found: str) -> None:
    """Either source satisfies the rule, and the verdict says which signature it was."""
    verdict, harvest = await judge(upstream)
    assert verdict.outcome is Outcome.ACCEPTED
    assert verdict.reasons == (f"a signature by key release: {found}",)
    assert len(harvest.documents) == 1


async def test_cosigns_referrer_variant_is_accepted() -> None:
    """cosign v2 signatures may hang on the subject instead of a tag."""
    verdict, _ = await judge(signed(signature_manifest([cosign_signature(RELEASE, IMAGE.digest)], subject=IMAGE)))
    assert verdict.accepted


@pytest.mark.parametrize(
    ("upstream", "found"),
    [
        (Upstream(), "no signature at all"),
        (
            signed(tag=signature_manifest([cosign_signature(RELEASE, IMAGE.digest, fault=CosignFault.OTHER_KEY)])),
            f"{TAG_SOURCE}, signature 1: not made by key release",
        ),
        (
            signed(tag=signature_manifest([cosign_signature(RELEASE, IMAGE.digest, fault=CosignFault.WRONG_DIGEST)])),
            f"{TAG_SOURCE}, signature 1: made by key release, but it signed another image: it claims {OTHER}",
        ),
    ],
    ids=["unsigned", "foreign", "replayed"],
)
async def test_refusals_say_what_was_required_and_what_was_found(upstream: Upstream, found: str) -> None:
    """The words of the rule, and the reason why nothing that is there fits."""
    verdict, _ = await judge(upstream)
    assert verdict.outcome is Outcome.REFUSED
    assert verdict.reasons == (REQUIRED + found,)


@pytest.mark.parametrize(
    ("require", "outcome"),
    [
        (FirstUse(), Outcome.ACCEPTED),
        (Never(), Outcome.REFUSED),
        (AllOf((BY_RELEASE, Never())), Outcome.REFUSED),
        (AnyOf((BY_RELEASE, FirstUse())), Outcome.ACCEPTED),
    ],
)
async def test_nothing_is_asked_where_evidence_would_change_nothing(require: Requirement, outcome: Outcome) -> None:
    """``first-use`` and ``deny`` cost no request."""
    upstream = signed(BUNDLE, tag=SIGNATURES)
    verdict, harvest = await judge(upstream, require)
    assert verdict.outcome is outcome
    assert (upstream.calls, harvest) == ([], Harvest((), (), ()))


async def test_promise_45_one_valid_signature_within_the_cap_suffices() -> None:
    """A valid signature among thousands counts at place 64 and no longer at place 65, and the refusal names the cap."""
    within, _ = await judge(signed(tag=many_signatures(RELEASE, IMAGE.digest, 2000, good_at=63)))
    assert within.accepted
    beyond, _ = await judge(signed(tag=many_signatures(RELEASE, IMAGE.digest, 2000, good_at=64)))
    assert beyond.outcome is Outcome.REFUSED
    assert any("only the first 64 were judged" in each.reason for each in beyond.evidence)


@pytest.mark.parametrize("fault", [UpstreamUnavailable("503", 4.0), UpstreamDenied("401"), Stall()], ids=repr)
@pytest.mark.parametrize("down", ["tagged", "referrers"])
async def test_promise_46_one_source_that_satisfies_the_rule_suffices(down: str, fault: Exception) -> None:
    """The other source may be down, denied or silent: neither does it matter, nor is it waited for."""
    upstream = signed(tag=SIGNATURES) if down == "referrers" else signed(BUNDLE)
    upstream.faults[down] = fault
    async with asyncio.timeout(SOON):
        verdict, _ = await judge(upstream)
    assert verdict.accepted


@pytest.mark.parametrize("down", ["tagged", "referrers"])
async def test_promise_46_unavailable_is_not_unsigned(down: str) -> None:
    """Without a signature elsewhere, a source that is down makes the answer unknown, in words of its own."""
    verdict, harvest = await judge(Upstream(faults={down: UpstreamUnavailable("503 from registry.test", 4.0)}))
    assert verdict.outcome is Outcome.UNKNOWN
    assert verdict.retry_after == 4.0
    assert harvest.unavailable[0] in verdict.reasons[1]
    assert verdict.reasons[0] == REQUIRED + "the signatures could not be fetched"
    unsigned, _ = await judge(Upstream())
    assert unsigned.outcome is Outcome.REFUSED
    assert set(unsigned.reasons).isdisjoint(verdict.reasons)


async def test_a_silent_upstream_ends_in_time() -> None:
    """Everything stalls: the verdict is unknown after the timeout, and nothing runs on."""
    upstream = Upstream(faults={"tagged": Stall(), "referrers": Stall()})
    async with asyncio.timeout(SOON):
        verdict, _ = await judge(upstream, limits=Limits(evidence_timeout=0.05))
    assert verdict.outcome is Outcome.UNKNOWN
    assert sorted(upstream.cancelled) == ["referrers", "tagged"]


async def test_misbehaviour_is_a_refusal() -> None:
    """An upstream that sends something else than the signature is refused, not excused."""
    verdict, _ = await judge(Upstream(faults={"tagged": UpstreamMisbehaved("the digest is wrong")}))
    assert verdict.outcome is Outcome.REFUSED
    assert verdict.reasons == (f"{REQUIRED}{TAG_SOURCE}: is refused: the digest is wrong",)


async def test_evidence_is_gathered_over_both_sources() -> None:
    """Two signers in two places satisfy a rule that asks for both, by distinct authorities."""
    alice, bob = Signer.of("p256", "alice"), Signer.of("p256", "bob")
    upstream = signed(bundle_referrer(bob, IMAGE), tag=signature_manifest([cosign_signature(alice, IMAGE.digest)]))
    for require in (AllOf, lambda of: AtLeast(2, of)):
        verdict, harvest = await judge(upstream, require((SignatureBy("alice"), SignatureBy("bob"))), alice, bob)
        assert verdict.accepted
        assert [each.found for each in harvest.documents] == [Found.SIGNATURE_TAG, Found.REFERRERS_API]
    twice, _ = await judge(upstream, AtLeast(2, (SignatureBy("alice"), SignatureBy("alice"))), alice, bob)
    assert twice.outcome is Outcome.REFUSED


async def test_one_key_under_two_names_is_one_authority() -> None:
    """GHSA-9vcr-p3rj-q5q6: a threshold counts keys, not names."""
    again = key(RELEASE)
    pipeline = Pipeline(default_verifiers(LIMITS), Trusted({"release": again, "alias": again}), LIMITS)
    require = AtLeast(2, (SignatureBy("release"), SignatureBy("alias")))
    verdict, _ = await pipeline.judge(signed(tag=SIGNATURES), subject(), rule(require), NOW)
    assert verdict.outcome is Outcome.REFUSED


async def test_the_windows_end_is_the_verdicts() -> None:
    """A verdict that leans on a key holds as long as the key is believed."""
    until = NOW + timedelta(days=1)
    pipeline = Pipeline(default_verifiers(LIMITS), Trusted({"release": key(valid_until=until)}), LIMITS)
    verdict, _ = await pipeline.judge(signed(tag=SIGNATURES), subject(), rule(BY_RELEASE), NOW)
    assert (verdict.accepted, verdict.valid_until) == (True, until)
    verdict, _ = await pipeline.judge(signed(tag=SIGNATURES), subject(), rule(BY_RELEASE), until + timedelta(seconds=1))
    assert verdict.outcome is Outcome.REFUSED
    assert "key release was valid until 2026-06-02 12:00:00 UTC" in verdict.reasons[0]


async def test_only_the_rules_keys_are_tried() -> None:
    """A signature by a key that the rule does not name is no evidence for it."""
    other = Signer.of("p256", "other")
    verdict, _ = await judge(signed(tag=signature_manifest([cosign_signature(other, IMAGE.digest)])), BY_RELEASE, RELEASE, other)
    assert verdict.outcome is Outcome.REFUSED
    assert [asked(each) for each in verdict.evidence] == ["release"]


async def test_a_key_that_is_not_configured_never_accepts() -> None:
    """A rule that names an unknown key refuses, and says that it is unknown."""
    verdict, _ = await judge(signed(tag=SIGNATURES), SignatureBy("lost"))
    assert verdict.outcome is Outcome.REFUSED
    assert verdict.reasons == ("a signature by key lost is required; found: the configuration: knows no key lost",)


class Broken(CosignSignatures):
    """A verifier with a bug."""

    name = "broken signature"

    def judge(
        self, document: Document, subject: Subject, questions: Sequence[Question], trusted: Trusted, now: datetime
    ) -> tuple[Evidence, ...]:
        raise LookupError("unforeseen")


async def test_a_verifier_that_breaks_fails_closed_and_is_logged() -> None:
    """A bug is a refusal with a reason, and the other formats are judged all the same."""
    upstream = signed(tag=SIGNATURES)
    with capture_logs() as logs:
        pipeline = Pipeline((Broken(LIMITS, SecondVerdict()),), Trusted(keys()), LIMITS)
        verdict, _ = await pipeline.judge(upstream, subject(), rule(BY_RELEASE), NOW)
    assert verdict.outcome is Outcome.REFUSED
    assert "could not be judged: LookupError" in verdict.reasons[0]
    assert [(each["event"], each["verifier"], each["log_level"]) for each in logs] == [
        ("verifier failed", "broken signature", "error")
    ]
    with capture_logs():
        pipeline = Pipeline((Broken(LIMITS, SecondVerdict()), *default_verifiers(LIMITS)), Trusted(keys()), LIMITS)
        verdict, _ = await pipeline.judge(upstream, subject(), rule(BY_RELEASE), NOW)
    assert verdict.accepted


async def test_judging_happens_in_a_thread() -> None:
    """Signature checks do not hold up the event loop."""
    threads: list[bool] = []

    class Curious(CosignSignatures):
        def judge(
            self, document: Document, subject: Subject, questions: Sequence[Question], trusted: Trusted, now: datetime
        ) -> tuple[Evidence, ...]:
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                threads.append(True)
            return super().judge(document, subject, questions, trusted, now)

    pipeline = Pipeline((Curious(LIMITS, SecondVerdict()),), Trusted(keys()), LIMITS)
    verdict, _ = await pipeline.judge(signed(tag=SIGNATURES), subject(), rule(BY_RELEASE), NOW)
    assert verdict.accepted
    assert threads == [True]


def test_documents_are_judged_without_a_network() -> None:
    """The pure core: documents in, evidence out, each by the formats that read it."""
    documents = [document(SIGNATURES, Found.SIGNATURE_TAG), document(BUNDLE), document(images.image())]
    evidence = judge_documents(default_verifiers(LIMITS), documents, subject(), [BY_RELEASE], Trusted(keys()), NOW)
    assert [(each.format, each.accepted) for each in evidence] == [
        ("cosign signature", True),
        ("sigstore bundle", True),
        ("evidence", False),
    ]
    assert evidence[2].reason == "is of no format that is known here"


def test_each_verifier_says_what_it_wants() -> None:
    """No format wants the layers of an image."""
    layer = document(images.image()).parsed.layers[0]
    manifest = document(images.image()).parsed
    assert isinstance(layer, Entry)
    assert isinstance(manifest, Manifest)
    assert {verifier.wants(manifest, layer, [BY_RELEASE]) for verifier in default_verifiers(LIMITS)} == {None}


FAULTY = [
    *(signed(tag=signature_manifest([cosign_signature(RELEASE, IMAGE.digest, fault=fault)])) for fault in CosignFault),
    *(signed(bundle_referrer(RELEASE, IMAGE, fault=fault)) for fault in BundleFault),
]


@pytest.mark.parametrize("upstream", FAULTY, ids=[str(fault) for faults in (CosignFault, BundleFault) for fault in faults])
async def test_every_word_is_fit_for_a_header(upstream: Upstream) -> None:
    """Whatever is found, the reasons are one printable ASCII line each and say that it is about a signature."""
    verdict, _ = await judge(upstream)
    assert verdict.outcome is not Outcome.UNKNOWN
    assert verdict.reasons
    for reason in verdict.reasons:
        assert "signature" in reason
        assert reason.isascii()
        assert reason.isprintable()
    assert json.dumps(verdict.reasons)


def test_each_place_has_room_for_an_attestation() -> None:
    """The bytes of evidence are shared by the places that are searched; the largest attestation still fits into one share."""
    limits = Limits()
    places = places_of([SignatureBy("release"), AttestationBy("t", "release")], Trusted())
    assert len(places) == 3
    assert limits.evidence_total // len(places) > limits.attestation_size


def suspended(**more: Any) -> Trusted:
    """The release key, whose times the suspended root ``corp`` proves, and that root."""
    root = Root.load("corp", PrivateSigstore().trusted_root(), Demands())
    release = Key.load("release", RELEASE.public_pem, root="corp")
    return Trusted({"release": release, **keys(OTHER_SIGNER)}, {"corp": replace(root, **more)})


KEYLESS = SignatureBy(Identity("corp", "https://issuer.test", Pattern.compile("a@b.test")))


@pytest.mark.parametrize("require", [BY_RELEASE, KEYLESS], ids=["key whose times it proves", "keyless"])
@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"suspended": "its repository stands still"}, "its repository stands still"),
        (
            {"fresh_until": NOW - timedelta(seconds=1)},
            "it has not been refreshed, and its TUF metadata expired 2026-06-01 11:59 UTC",
        ),
    ],
    ids=["suspended", "not fresh"],
)
async def test_promise_49_a_suspended_root_leaves_its_questions_open(require: SignatureBy, more: Any, told: str) -> None:
    """Unknown, in words, and nothing is fetched for it."""
    upstream = signed(tag=SIGNATURES)
    pipeline = Pipeline(default_verifiers(LIMITS), suspended(**more), LIMITS)
    verdict, harvest = await pipeline.judge(upstream, subject(), rule(require), NOW)
    assert verdict.outcome is Outcome.UNKNOWN
    assert verdict.reasons == (f"{require} is required; found: root corp: makes no new decisions: {told}",)
    assert (upstream.calls, harvest.documents) == ([], ())


async def test_what_a_suspended_root_had_accepted_it_accepts_again() -> None:
    """When it is told that it looks at what was accepted. Who tells it so answers for what it is shown: that is admission."""
    pipeline = Pipeline(default_verifiers(LIMITS), suspended(suspended="it stands still"), LIMITS)
    verdict, _ = await pipeline.judge(signed(tag=SIGNATURES), subject(), rule(BY_RELEASE), NOW, again=True)
    assert verdict.accepted


async def test_a_root_is_fresh_until_its_last_moment() -> None:
    """The end of freshness belongs to it."""
    pipeline = Pipeline(default_verifiers(LIMITS), suspended(fresh_until=NOW), LIMITS)
    verdict, _ = await pipeline.judge(signed(tag=SIGNATURES), subject(), rule(BY_RELEASE), NOW)
    assert verdict.accepted


async def test_other_signers_decide_beside_a_suspended_root() -> None:
    """One of two suffices: the one that can be judged decides, and is looked for."""
    upstream = signed(tag=signature_manifest([cosign_signature(OTHER_SIGNER, IMAGE.digest)]))
    pipeline = Pipeline(default_verifiers(LIMITS), suspended(suspended="it stands still"), LIMITS)
    either = AnyOf((KEYLESS, SignatureBy(OTHER_SIGNER.name)))
    assert (await pipeline.judge(upstream, subject(), rule(either), NOW))[0].accepted
    both = AllOf((KEYLESS, SignatureBy(OTHER_SIGNER.name)))
    assert (await pipeline.judge(upstream, subject(), rule(both), NOW))[0].outcome is Outcome.UNKNOWN
    assert (await pipeline.judge(Upstream(), subject(), rule(both), NOW))[0].outcome is Outcome.REFUSED
