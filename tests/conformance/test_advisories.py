"""The advisories of others' verifiers, each by its name: what went wrong there does not go wrong here.

Judged by the whole pipeline, from what an upstream lists to the verdict of a rule, with the private Sigstore behind it.
"""

from __future__ import annotations

import pytest

from proxy.policy.patterns import Pattern
from proxy.policy.rules import AtLeast, AttestationBy, Identity, Requirement, Rule, SignatureBy, fingerprint
from proxy.policy.verdicts import Outcome, Verdict
from proxy.settings import Limits
from proxy.verify.model import Trusted
from proxy.verify.pipeline import Pipeline, default_verifiers
from proxy.verify.roots import Demands, Root
from proxy.verify.trust import Key
from tests.conformance.verdicts import JUDGED, LIMITS, ROOT, SIGSTORE, SUBJECT
from tests.simulator.images import Blob, Image
from tests.simulator.signing import SIGN_PREDICATE, SIMPLE_SIGNING, CosignSignature, Signer, bundle_manifest, signature_tag
from tests.simulator.sigstore import PrivateSigstore, Signing, attestation_tag, statement
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
    return await judged(upstream, require, fault, sigstore)


async def judged(
    upstream: Upstream,
    require: Requirement,
    fault: Fault | None = None,
    sigstore: PrivateSigstore = SIGSTORE,
    limits: Limits = LIMITS,
) -> Verdict:
    """What a rule says of the image by what this upstream has."""
    roots = {ROOT: Root.load(ROOT, sigstore.trusted_root(fault), Demands())}
    keys = {"release": Key.load("release", KEY.public_pem, valid_until=SIGSTORE.now, root=ROOT)}
    pipeline = Pipeline(default_verifiers(limits), Trusted(keys, roots), limits)
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
async def test_cve_2022_23649_cve_2022_36056_cve_2026_22703_an_entry_is_bound(fault: Fault) -> None:
    """A good log entry of something else made a signature pass; here it is bound to signature, key and digest."""
    for found in (await verdict(signatures=cosign(fault)), await verdict(SIGSTORE.signature_referrer(IMAGE, fault=fault))):
        assert found.outcome is Outcome.REFUSED
        assert "log entry about" in found.reasons[0]


async def test_cve_2022_35929_cve_2022_35930_cve_2026_39395_the_type_is_matched() -> None:
    """An attestation of another type counted as the one that was asked for, or as a signature."""
    other = SIGSTORE.attestation_referrer(IMAGE, VULN, {})
    layer = SIGSTORE.cosign_attestation(IMAGE.digest, VULN, {})
    for require, wanted in ((AttestationBy(SLSA, IDENTITY), SLSA), (SIGNED, SIGN_PREDICATE)):
        assert (await verdict(other, attestations=(layer,), require=require)).outcome is Outcome.REFUSED
        # Its manifest may call it what is wanted: nobody signed that.
        named = bundle_manifest(SIGSTORE.dsse_bundle(statement(IMAGE.digest, VULN, {})), IMAGE, predicate=wanted)
        found = await verdict(named, require=require)
        assert found.outcome is Outcome.REFUSED
        assert "is an attestation" in found.reasons[0]
    assert (await verdict(other, attestations=(layer,), require=AttestationBy(VULN, IDENTITY))).accepted


async def test_cve_2023_46737_signatures_are_counted_before_they_are_read() -> None:
    """Endless signatures kept a verifier busy; here their number has an end, and so has that of attestations."""
    wrong = cosign("signature by another key")
    many = tuple(
        CosignSignature(wrong[0].blob, {**wrong[0].annotations, "number": str(number)}) for number in range(LIMITS.signatures)
    )
    assert (await verdict(signatures=(*many[1:], *cosign()))).accepted
    found = await verdict(signatures=(*many, *cosign()))
    assert found.outcome is Outcome.REFUSED
    assert f"only the first {LIMITS.signatures} were judged" in "".join(piece.reason for piece in found.evidence)
    right = SIGSTORE.cosign_attestation(IMAGE.digest, SLSA, {})
    other = SIGSTORE.cosign_attestation(IMAGE.digest, VULN, {})
    attested = tuple(
        CosignSignature(other.blob, {**other.annotations, "number": str(number)}) for number in range(LIMITS.signatures)
    )
    require = AttestationBy(SLSA, IDENTITY)
    assert (await verdict(attestations=(*attested[1:], right), require=require)).accepted
    assert (await verdict(attestations=(*attested, right), require=require)).outcome is Outcome.REFUSED


async def test_cve_2024_29902_sizes_are_looked_at_before_anything_is_fetched() -> None:
    """One attestation, one signature of gigabytes took all memory; here what is too large is never asked for."""
    limits = Limits(attestation_size=100_000, signature_size=50_000)
    large = SIGSTORE.cosign_attestation(IMAGE.digest, SLSA, {"filling": "x" * limits.attestation_size})
    right = SIGSTORE.cosign_attestation(IMAGE.digest, SLSA, {})
    payload = Blob(SIMPLE_SIGNING, cosign()[0].blob.data + b" " * limits.signature_size)
    long = CosignSignature(payload, cosign()[0].annotations)
    for layers, tag, require in (
        ((large, right), attestation_tag(IMAGE.digest), AttestationBy(SLSA, IDENTITY)),
        ((long, *cosign()), signature_tag(IMAGE.digest), SIGNED),
    ):
        upstream = Upstream()
        upstream.tags[tag] = upstream._hold(layers_image(layers))
        assert (await judged(upstream, require, limits=limits)).accepted
        assert str(layers[0].blob.digest) not in upstream.calls
        upstream.tags[tag] = upstream._hold(layers_image(layers[:1]))
        found = await judged(upstream, require, limits=limits)
        assert found.outcome is Outcome.REFUSED
        assert "the limit is" in found.reasons[0]


@pytest.mark.parametrize("fault", ["33 log entries", "33 timestamps", "1025 subjects"])
async def test_ghsa_cq38_jh5f_37mq_what_is_inside_a_signature_is_counted(fault: Fault) -> None:
    """Thousands of log entries, timestamps or subjects in one bundle."""
    found = await verdict(SIGSTORE.signature_referrer(IMAGE, Signing(rekor=2), fault=fault))
    assert found.outcome is Outcome.REFUSED
    assert "the limit is" in found.reasons[0]


async def test_ghsa_9vcr_p3rj_q5q6_thresholds_count_distinct_signers() -> None:
    """One signer who signs twice is one signer, whatever patterns it matches."""
    twice = AtLeast(2, (SIGNED, SignatureBy(Identity(ROOT, HOW.issuer, Pattern.compile("*@example.test")))))
    again = (*cosign(), *cosign())
    assert (await verdict(SIGSTORE.signature_referrer(IMAGE), signatures=again, require=twice)).outcome is Outcome.REFUSED
    second = cosign(how=Signing(identity="second@example.test"))
    assert (await verdict(signatures=(*again, *second), require=twice)).accepted


async def test_ghsa_wqqc_jjcq_vfxm_a_managed_key_has_a_window() -> None:
    """A key counted for ever. Here it counts at the proven time, and else now."""
    require = SignatureBy("release")
    logged, bare = Signing(managed=KEY), Signing(managed=KEY, rekor=None, timestamps=0)
    assert (await verdict(SIGSTORE.signature_referrer(IMAGE, logged), require=require)).accepted
    assert (await verdict(SIGSTORE.signature_referrer(IMAGE, bare), require=require)).outcome is Outcome.REFUSED


@pytest.mark.parametrize("fault", ["CA expired at signing time", "CA root expired at signing time"])
async def test_cve_2026_24122_the_whole_chain_holds_at_the_time_of_signing(fault: Fault) -> None:
    """An authority that had expired when it issued a certificate was believed."""
    assert (await verdict(signatures=cosign(), fault=fault)).outcome is Outcome.REFUSED
    assert (await verdict(SIGSTORE.signature_referrer(IMAGE), fault=fault)).outcome is Outcome.REFUSED


async def test_cve_2025_25204_none_at_all_is_a_refusal() -> None:
    """Where there was no attestation, nothing failed, and so it passed."""
    for require in (SIGNED, AttestationBy(SLSA, IDENTITY), AtLeast(1, (SIGNED, AttestationBy(SLSA, IDENTITY)))):
        found = await verdict(require=require)
        assert found.outcome is Outcome.REFUSED
        assert "no signature at all" in "".join(found.reasons) or "no attestation at all" in "".join(found.reasons)


async def test_cve_2022_47633_cve_2023_47630_a_signature_speaks_of_the_digest_alone() -> None:
    """A registry answered with another image than the one whose signature it showed."""
    image = SIGSTORE.signature_referrer(IMAGE, fault="statement for another digest")
    assert (await verdict(image)).outcome is Outcome.REFUSED
    assert (await verdict(signatures=cosign("payload of another digest"))).outcome is Outcome.REFUSED


async def test_another_sigstore_of_the_same_name_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """All the names are the same, and none of the keys."""
    of = Signer.of
    monkeypatch.setattr(Signer, "of", lambda kind, name: of(kind, f"another {name}"))
    imitation = PrivateSigstore()
    assert (await verdict(imitation.signature_referrer(IMAGE), sigstore=imitation)).accepted
    assert (await verdict(imitation.signature_referrer(IMAGE))).outcome is Outcome.REFUSED
    assert (await verdict(signatures=(imitation.cosign_signature(IMAGE.digest),))).outcome is Outcome.REFUSED
