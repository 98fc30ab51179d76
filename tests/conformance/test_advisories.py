"""The advisories of others' verifiers, each by its name: what went wrong there does not go wrong here.

Judged by the whole pipeline, from what an upstream lists to the verdict of a rule, with the private Sigstore behind it.
"""

from __future__ import annotations

import pytest

from proxy.policy.rules import (
    AtLeast,
    AttestationBy,
    Identity,
    Outcome,
    Pattern,
    Requirement,
    Rule,
    SignatureBy,
    Verdict,
    fingerprint,
)
from proxy.verify.model import Trusted
from proxy.verify.pipeline import Pipeline, default_verifiers
from proxy.verify.roots import Demands, Root
from proxy.verify.trust import Key
from tests.conformance.verdicts import JUDGED, LIMITS, ROOT, SIGSTORE, SUBJECT
from tests.simulator.images import Image
from tests.simulator.signing import CosignSignature, Signer, signature_tag
from tests.simulator.sigstore import PrivateSigstore, Signing, attestation_tag
from tests.simulator.sigstore.bundles import layers_image
from tests.simulator.sigstore.cases import IMAGE
from tests.simulator.sigstore.faults import Fault
from tests.unit.verify.evidence import Upstream

HOW = Signing()
IDENTITY = Identity(ROOT, HOW.issuer, Pattern.compile(HOW.identity))
SIGNED = SignatureBy(IDENTITY)
SLSA, VULN = "https://slsa.dev/provenance/v1", "https://cosign.sigstore.dev/attestation/vuln/v1"
KEY = Signer.of("p256", "advisories")


async def verdict(
    *referrers: Image,
    signatures: tuple[CosignSignature, ...] = (),
    attestations: tuple[CosignSignature, ...] = (),
    require: Requirement = SIGNED,
    fault: Fault | None = None,
    sigstore: PrivateSigstore = SIGSTORE,
) -> Verdict:
    """What a rule says of the image, with this evidence upstream; ``fault`` is the trusted root's."""
    upstream = Upstream()
    upstream.refer(*referrers)
    for tag, layers in ((signature_tag(IMAGE.digest), signatures), (attestation_tag(IMAGE.digest), attestations)):
        if layers:
            upstream.tags[tag] = upstream._hold(layers_image(layers))
    roots = {ROOT: Root.load(ROOT, sigstore.trusted_root(fault), Demands())}
    keys = {"release": Key.load("release", KEY.public_pem, valid_until=SIGSTORE.now, root=ROOT)}
    pipeline = Pipeline(default_verifiers(LIMITS), Trusted(keys, roots), LIMITS)
    rule = Rule(Pattern.compile("**"), require, (), fingerprint(require, {}))
    found, _ = await pipeline.judge(upstream, SUBJECT, rule, JUDGED)
    return found


def cosign(fault: Fault | None = None, how: Signing = HOW) -> tuple[CosignSignature, ...]:
    """One cosign v2 signature."""
    return (SIGSTORE.cosign_signature(IMAGE.digest, how, fault=fault),)


async def test_what_is_right_is_accepted() -> None:
    """Else the tests below would show nothing."""
    assert (await verdict(signatures=cosign())).accepted
    assert (await verdict(SIGSTORE.signature_referrer(IMAGE))).accepted
    assert (await verdict(SIGSTORE.attestation_referrer(IMAGE, SLSA, {}), require=AttestationBy(SLSA, IDENTITY))).accepted
    layer = SIGSTORE.cosign_attestation(IMAGE.digest, SLSA, {})
    assert (await verdict(attestations=(layer,), require=AttestationBy(SLSA, IDENTITY))).accepted


@pytest.mark.parametrize(
    "fault", ["wrong digest in the entry", "entry of another signature", "entry of another key", "swapped entry"]
)
async def test_an_entry_is_bound_to_signature_key_and_digest(fault: Fault) -> None:
    """CVE-2022-23649, CVE-2022-36056, CVE-2026-22703: a good log entry of something else made a signature pass."""
    for found in (await verdict(signatures=cosign(fault)), await verdict(SIGSTORE.signature_referrer(IMAGE, fault=fault))):
        assert found.outcome is Outcome.REFUSED
        assert "log entry about" in found.reasons[0]


async def test_the_type_that_is_asked_for_is_matched() -> None:
    """CVE-2022-35929, CVE-2022-35930, CVE-2026-39395: an attestation of another type counted as the one that was asked for."""
    other = SIGSTORE.attestation_referrer(IMAGE, VULN, {})
    layer = SIGSTORE.cosign_attestation(IMAGE.digest, VULN, {})
    for require in (AttestationBy(SLSA, IDENTITY), SIGNED):
        assert (await verdict(other, attestations=(layer,), require=require)).outcome is Outcome.REFUSED
    assert (await verdict(other, attestations=(layer,), require=AttestationBy(VULN, IDENTITY))).accepted


async def test_signatures_are_counted_before_they_are_read() -> None:
    """CVE-2023-46737, CVE-2024-29902, CVE-2023-33957: endless signatures kept a verifier busy; here their number has an end."""
    wrong = cosign("signature by another key")
    many = tuple(
        CosignSignature(wrong[0].blob, {**wrong[0].annotations, "number": str(number)}) for number in range(LIMITS.signatures)
    )
    assert (await verdict(signatures=(*many[1:], *cosign()))).accepted
    assert (await verdict(signatures=(*many, *cosign()))).outcome is Outcome.REFUSED


@pytest.mark.parametrize("fault", ["33 log entries", "33 timestamps", "1025 subjects"])
async def test_what_is_inside_a_signature_is_counted(fault: Fault) -> None:
    """GHSA-cq38-jh5f-37mq: thousands of log entries, timestamps or subjects in one bundle."""
    found = await verdict(SIGSTORE.signature_referrer(IMAGE, Signing(rekor=2), fault=fault))
    assert found.outcome is Outcome.REFUSED
    assert "the limit is" in found.reasons[0]


async def test_thresholds_count_distinct_signers() -> None:
    """GHSA-9vcr-p3rj-q5q6: one signer who signs twice is one signer, whatever patterns it matches."""
    twice = AtLeast(2, (SIGNED, SignatureBy(Identity(ROOT, HOW.issuer, Pattern.compile("*@example.test")))))
    again = (*cosign(), *cosign())
    assert (await verdict(SIGSTORE.signature_referrer(IMAGE), signatures=again, require=twice)).outcome is Outcome.REFUSED
    second = cosign(how=Signing(identity="second@example.test"))
    assert (await verdict(signatures=(*again, *second), require=twice)).accepted


async def test_a_managed_key_has_a_window() -> None:
    """GHSA-wqqc-jjcq-vfxm: a key counted for ever. Here it counts at the proven time, and else now."""
    require = SignatureBy("release")
    logged, bare = Signing(managed=KEY), Signing(managed=KEY, rekor=None, timestamps=0)
    assert (await verdict(SIGSTORE.signature_referrer(IMAGE, logged), require=require)).accepted
    assert (await verdict(SIGSTORE.signature_referrer(IMAGE, bare), require=require)).outcome is Outcome.REFUSED


@pytest.mark.parametrize("fault", ["CA expired at signing time", "CA root expired at signing time"])
async def test_the_whole_chain_holds_at_the_time_of_signing(fault: Fault) -> None:
    """CVE-2026-24122: an authority that had expired when it issued a certificate was believed."""
    assert (await verdict(signatures=cosign(), fault=fault)).outcome is Outcome.REFUSED
    assert (await verdict(SIGSTORE.signature_referrer(IMAGE), fault=fault)).outcome is Outcome.REFUSED


async def test_none_at_all_is_a_refusal() -> None:
    """CVE-2025-25204: where there was no attestation, nothing failed, and so it passed."""
    for require in (SIGNED, AttestationBy(SLSA, IDENTITY), AtLeast(1, (SIGNED, AttestationBy(SLSA, IDENTITY)))):
        found = await verdict(require=require)
        assert found.outcome is Outcome.REFUSED
        assert "no signature at all" in "".join(found.reasons) or "no attestation at all" in "".join(found.reasons)


async def test_a_signature_speaks_of_the_digest_alone() -> None:
    """CVE-2022-47633, CVE-2023-47630: a registry answered with another image than the one whose signature it showed."""
    image = SIGSTORE.signature_referrer(IMAGE, fault="statement for another digest")
    assert (await verdict(image)).outcome is Outcome.REFUSED
    assert (await verdict(signatures=cosign("payload of another digest"))).outcome is Outcome.REFUSED


async def test_another_sigstore_of_the_same_name_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """All the names are the same, and none of the keys."""
    monkeypatch.setattr(Signer, "of", Signer.of.__wrapped__)  # which makes new keys for the same names
    imitation = PrivateSigstore()
    assert (await verdict(imitation.signature_referrer(IMAGE), sigstore=imitation)).accepted
    assert (await verdict(imitation.signature_referrer(IMAGE))).outcome is Outcome.REFUSED
    assert (await verdict(signatures=(imitation.cosign_signature(IMAGE.digest),))).outcome is Outcome.REFUSED
