"""Judging one signature for many questions: who, what, when, under which name."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from proxy.policy.patterns import Pattern, Regex
from proxy.policy.rules import AtLeast, AttestationBy, Identity, Question, SignatureBy
from proxy.policy.verdicts import Evidence, evaluate
from proxy.settings import Limits
from proxy.verify.bundle import SigstoreBundles
from proxy.verify.cosign import CosignAttestations, CosignSignatures
from proxy.verify.model import Trusted
from proxy.verify.second import SecondVerdict
from proxy.verify.trust import Key
from tests.simulator.signing import Signer
from tests.simulator.sigstore import SIGNING_TIME, PrivateSigstore, Signing
from tests.unit.verify.evidence import IMAGE, NOW, document, subject
from tests.unit.verify.reading import root_of

SIGSTORE = PrivateSigstore()
CLAIMS = {"source_repository": "https://git.example.test/acme/app", "owner_id": "4711", "trigger": "push"}
WHO = Signing(claims=CLAIMS)
ROOT = root_of(SIGSTORE)
SECOND = SecondVerdict()
LIMITS = Limits()
TYPE = "https://slsa.dev/provenance/v1"
TRUSTED = Trusted(roots={"private": ROOT})


def identity(pattern: str = WHO.identity, issuer: str = WHO.issuer, **claims: str) -> Identity:
    """The usual signer, or another."""
    return Identity("private", issuer, Pattern.compile(pattern), tuple((k, Pattern.compile(v)) for k, v in claims.items()))


def signature(*questions: Question, how: Signing = WHO, trusted: Trusted = TRUSTED, now: datetime = NOW) -> tuple[Evidence, ...]:
    """A cosign v2 signature of the image, judged for these questions."""
    held = document(SIGSTORE.signature_image(IMAGE.digest, how))
    return CosignSignatures(LIMITS, SECOND).judge(held, subject(), questions, trusted, now)


def attestation(
    *questions: Question, how: Signing = WHO, trusted: Trusted = TRUSTED, now: datetime = NOW
) -> tuple[Evidence, ...]:
    """A bundle with an attestation of the image, judged for these questions."""
    held = document(SIGSTORE.attestation_referrer(IMAGE, TYPE, {"level": 3}, how))
    return SigstoreBundles(LIMITS, SECOND).judge(held, subject(), questions, trusted, now)


@pytest.mark.parametrize(
    ("question", "told"),
    [
        (SignatureBy(identity()), None),
        (SignatureBy(identity("release@*.test")), None),
        (SignatureBy(Identity("private", WHO.issuer, Regex.compile("(release|nightly)@example[.]test"))), None),
        (SignatureBy(identity(source_repository="https://git.example.test/acme/*", owner_id="4711", trigger="push")), None),
        (SignatureBy(identity("release")), "is by another identity: release@example.test"),
        (SignatureBy(Identity("private", WHO.issuer, Regex.compile("release"))), "is by another identity"),
        (SignatureBy(identity(issuer="https://issuer.example.test/")), "of another issuer: https://issuer.example.test"),
        (SignatureBy(identity(owner_id="4712")), "whose owner_id is 4711, not 4712"),
        (SignatureBy(identity(source_repository="https://git.example.test/*")), "whose source_repository is"),
        (SignatureBy(identity(runner="*")), "whose runner is nothing, not *"),
    ],
    ids=str,
)
def test_promise_41_identities_match_whole_or_not_at_all(question: SignatureBy, told: str | None) -> None:
    """Name, issuer and further claims: patterns over whole values; a claim that is not there matches nothing."""
    (evidence,) = signature(question)
    assert evidence.accepted is (told is None), evidence.reason
    assert told is None or told in evidence.reason
    assert evidence.about == question


def test_each_question_has_an_answer_of_its_own() -> None:
    """One signature, asked about for two identities and a key: the certificate is judged once, the answers differ."""
    key = Key.load("release", Signer.of("p256", "release").public_pem)
    asked = (SignatureBy(identity()), SignatureBy(identity("else@example.test")), SignatureBy("release"))
    evidence = signature(*asked, trusted=replace(TRUSTED, keys={"release": key}))
    assert [each.signer for each in evidence] == [WHO.identity, None, None]
    assert (
        "by release@example.test"
        in evaluate(SignatureBy(identity("*@example.test")), signature(SignatureBy(identity("*@example.test")))).reasons[0]
    )
    assert [(each.about, each.accepted) for each in evidence] == list(zip(asked, (True, False, False), strict=True))
    assert evidence[2].reason == "is keyless, not by the managed key release"


def test_a_bare_key_is_not_keyless() -> None:
    """A managed key's signature answers no question about an identity."""
    (evidence,) = signature(SignatureBy(identity()), how=Signing(managed=Signer.of("p256", "release"), rekor=None))
    assert (evidence.accepted, evidence.reason) == (False, "is made with a bare key, not keyless")


def test_docker_reference_is_held_against_the_repository_where_a_rule_asks() -> None:
    """The simulator signs for registry.test/team/app, which is where the image is; elsewhere the name does not fit."""
    question = SignatureBy(identity(), docker_reference=True)
    assert signature(question)[0].accepted
    held = document(SIGSTORE.signature_image(IMAGE.digest, WHO))
    elsewhere = replace(subject(), repository=replace(subject().repository, name="team/other"))
    verifier = CosignSignatures(LIMITS, SECOND)
    (refused, accepted) = verifier.judge(held, elsewhere, [question, SignatureBy(identity())], TRUSTED, NOW)
    assert (refused.accepted, accepted.accepted) == (False, True)
    assert "names another repository: registry.test/team/app" in refused.reason


def test_thresholds_count_people_not_patterns() -> None:
    """GHSA-9vcr-p3rj-q5q6: one signer who matches two patterns is one."""
    asked = (SignatureBy(identity("release@*")), SignatureBy(identity("*@example.test")))
    assert not evaluate(AtLeast(2, asked), signature(*asked)).accepted
    both = (*signature(*asked), *signature(*asked, how=replace(WHO, identity="release@other.test")))
    assert evaluate(AtLeast(2, asked), both).accepted


@pytest.mark.parametrize(
    ("question", "told"),
    [
        (AttestationBy(TYPE, identity()), None),
        (AttestationBy(TYPE, identity(), "predicate.level >= 3"), None),
        (AttestationBy(TYPE, identity(), "predicate.level >= 4"), "does not meet predicate.level >= 4"),
        (AttestationBy("https://slsa.dev/provenance/v0.2", identity()), f"is an attestation of another type: {TYPE}"),
        (AttestationBy(TYPE, identity("else@example.test")), "is by another identity"),
        (SignatureBy(identity()), f"is an attestation ({TYPE}), not a signature"),
    ],
    ids=str,
)
def test_promise_44_attestations_answer_for_their_type_alone(question: Question, told: str | None) -> None:
    """CVE-2022-35929: type, signer and condition, each by the signed statement."""
    (evidence,) = attestation(question)
    assert evidence.accepted is (told is None), evidence.reason
    assert told is None or told in evidence.reason


def test_cosigns_own_attestations_are_judged_alike() -> None:
    """An envelope in an ``.att`` layer, its predicate as an object or as text."""
    for fault in (None, "predicate as text"):
        held = document(SIGSTORE.attestation_image(IMAGE.digest, TYPE, {"level": 3}, WHO, fault=fault))
        question = AttestationBy(TYPE, identity(), "predicate.level == 3")
        (evidence,) = CosignAttestations(LIMITS, SECOND).judge(held, subject(), [question], TRUSTED, NOW)
        assert evidence.accepted, evidence.reason


def test_a_signature_is_no_attestation() -> None:
    """Neither is a bundle of cosign's own type."""
    held = document(SIGSTORE.signature_referrer(IMAGE, WHO))
    (evidence,) = SigstoreBundles(LIMITS, SECOND).judge(held, subject(), [AttestationBy(TYPE, identity())], TRUSTED, NOW)
    assert (evidence.accepted, "of another type" in evidence.reason) == (False, True)


def test_age_counts_from_the_proven_time() -> None:
    """To the second, with the end told; without a proven time there is no age."""
    question = AttestationBy(TYPE, identity(), None, timedelta(days=7))
    end = SIGNING_TIME + timedelta(days=7)
    (evidence,) = attestation(question, now=end)
    assert (evidence.accepted, evidence.valid_until) == (True, end), evidence.reason
    (evidence,) = attestation(question, now=end + timedelta(seconds=1))
    assert not evidence.accepted
    assert "is too old: signed at" in evidence.reason
    signer = Signer.of("p256", "release")
    trusted = Trusted(keys={"release": Key.load("release", signer.public_pem)})
    (evidence,) = attestation(
        AttestationBy(TYPE, "release", None, timedelta(days=7)), how=Signing(managed=signer, rekor=None), trusted=trusted
    )
    assert (evidence.accepted, "proves no time of signing" in evidence.reason) == (False, True)


@pytest.mark.parametrize(("days", "accepted"), [(1, True), (-1, False)])
def test_a_keys_window_is_judged_at_the_proven_time(days: int, accepted: bool) -> None:
    """GHSA-wqqc-jjcq-vfxm: long after the window's end what was signed within it counts, and nothing else does."""
    signer = Signer.of("p256", "release")
    key = Key.load("release", signer.public_pem, valid_until=SIGNING_TIME + timedelta(days=days), root="private")
    now = SIGNING_TIME + timedelta(days=1000)
    held = document(SIGSTORE.signature_referrer(IMAGE, Signing(managed=signer)))
    trusted = Trusted(keys={"release": key}, roots={"private": ROOT})
    (evidence,) = SigstoreBundles(LIMITS, SECOND).judge(held, subject(), [SignatureBy("release")], trusted, now.astimezone(UTC))
    assert evidence.accepted is accepted, evidence.reason
    assert evidence.valid_until is None
