"""What an upstream of bad will may send, held against the judgement as a whole."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from proxy.errors import EvidenceMalformed
from proxy.policy.rules import AttestationBy
from proxy.verify.bundle import SigstoreBundles
from proxy.verify.cosign import CosignAttestations
from proxy.verify.parsing import read_object
from tests.unit.verify.evidence import IMAGE, NOW, document, subject
from tests.unit.verify.test_judgement import LIMITS, SECOND, SIGSTORE, TRUSTED, TYPE, WHO, identity

#: A document of one megabyte that would be three hundred thousand lists.
SWOLLEN = b'{"payload":[' + b"[]," * 333_333 + b"[]]}"


def test_documents_that_nobody_signed_are_bounded_in_values() -> None:
    """Lists of empty lists swell thirtyfold in memory while no other thread runs; a statement's size is its signer's affair."""
    with pytest.raises(EvidenceMalformed, match="has an envelope of more than 50000 values"):
        read_object(SWOLLEN, 32, "an envelope")
    assert len(read_object(SWOLLEN, 32, "a statement", most=None)) == 1


def test_swollen_envelopes_and_bundles_are_refused_unread() -> None:
    """Neither a layer under the attestation tag nor a bundle is parsed beyond its bound."""
    asked = [AttestationBy(TYPE, identity())]
    (told,) = SigstoreBundles(LIMITS, SECOND).judge_bytes("here", SWOLLEN, subject(), asked, TRUSTED, NOW)
    assert told.reason == "has a bundle of more than 50000 values"
    held = document(SIGSTORE.attestation_image(IMAGE.digest, TYPE, {}, WHO))
    descriptor, notes, _ = held.layers[0]
    swollen = replace(descriptor, digest=descriptor.digest.of(SWOLLEN), size=len(SWOLLEN))
    spoiled = replace(held, layers=((swollen, notes, SWOLLEN), *held.layers))
    told, good = CosignAttestations(LIMITS, SECOND).judge(spoiled, subject(), asked, TRUSTED, NOW)
    assert told.reason == "has an envelope of more than 50000 values"
    assert good.accepted


SPELLINGS = [
    "application/vnd.dev.sigstore.bundle.v0.3+json",
    "application/vnd.dev.sigstore.bundle+json;version=0.3",
    "application/vnd.dev.sigstore.bundle+json; version=0.3",
    "application/vnd.dev.sigstore.bundle+json;version=v0.3",
    "application/vnd.dev.sigstore.bundle.v0.2+json",
    "application/vnd.dev.sigstore.bundle+json;version=v0.2",
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_a_bundles_version_has_both_verdicts(spelling: str) -> None:
    """Writers spell the version in several ways: none is refused for that, and none is a way around the second verdict."""
    held = document(SIGSTORE.attestation_referrer(IMAGE, TYPE, {}, WHO)).layers[0][2]
    bundle = json.loads(held)
    material = bundle["verificationMaterial"]
    if "0.2" in spelling:
        material["x509CertificateChain"] = {"certificates": [material.pop("certificate")]}
    body = json.dumps({**bundle, "mediaType": spelling}).encode()
    (told,) = SigstoreBundles(LIMITS, SECOND).judge_bytes(
        "here", body, subject(), [AttestationBy(TYPE, identity())], TRUSTED, NOW
    )
    assert told.accepted, told.reason
    assert "sigstore-python accepts it, too" in told.steps
