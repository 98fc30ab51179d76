"""What an upstream of bad will may send, held against the judgement as a whole."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from proxy.errors import EvidenceMalformed
from proxy.policy.patterns import Pattern
from proxy.policy.rules import AtLeast, AttestationBy, Identity, SignatureBy, Store
from proxy.policy.verdicts import Outcome, evaluate
from proxy.verify import der
from proxy.verify.bundle import SigstoreBundles
from proxy.verify.certificates import SignerCertificate, verify_chain
from proxy.verify.conditions import Condition
from proxy.verify.core import prove_certificate
from proxy.verify.cosign import CERTIFICATE, SIGNATURE, CosignAttestations, CosignSignatures
from proxy.verify.dsse import Statement
from proxy.verify.model import Document, Trusted
from proxy.verify.notation import NotationSignatures, NotationStore
from proxy.verify.parsing import read_object
from proxy.verify.roots import Demands, Root, Window
from proxy.verify.timestamps import verify_timestamp
from storage.digest import Digest
from tests.simulator.notation import issue, notation_signature
from tests.simulator.signing import Signer, simple_signing
from tests.simulator.sigstore import SIGNING_TIME
from tests.unit.verify.evidence import IMAGE, NOW, document, subject
from tests.unit.verify.pki import BEGIN, Party, authority, pem
from tests.unit.verify.reading import read_bundle
from tests.unit.verify.test_judgement import LIMITS, ROOT, SECOND, SIGSTORE, TRUSTED, TYPE, WHO, identity

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


@pytest.mark.parametrize(
    ("extension", "critical", "told"),
    [
        (x509.NameConstraints([x509.DNSName("example.test")], None), True, "name constraints, which are not supported"),
        (x509.NameConstraints([x509.DNSName("example.test")], None), False, "name constraints, which are not supported"),
        (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b""), True, "a critical extension that is not known"),
        (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b""), False, None),
    ],
)
def test_what_narrows_a_notation_authority_is_not_overlooked(
    extension: x509.ExtensionType, critical: bool, told: str | None
) -> None:
    """An intermediate authority that may only vouch for some must not vouch for all because nobody read its bounds."""
    good = issue("p256", "acme")
    leaf, middle, root = good.chain
    builder = x509.CertificateBuilder(
        middle.issuer, middle.subject, middle.public_key(), 7, middle.not_valid_before_utc, middle.not_valid_after_utc
    )
    for each in middle.extensions:
        builder = builder.add_extension(each.value, each.critical)
    bound = builder.add_extension(extension, critical).sign(Signer.of("p384", "acme root").private, hashes.SHA384())
    held = document(notation_signature(replace(good, chain=(leaf, bound, root)), IMAGE))
    trusted = Trusted(stores={"acme": NotationStore.load("acme", [good.root_pem])})
    (judged,) = NotationSignatures(LIMITS).judge(held, subject(), [SignatureBy(Store("acme"))], trusted, NOW)
    assert judged.accepted is (told is None)
    assert told is None or told in judged.reason


def test_name_constraints_of_an_offered_authority_hold_though_not_critical() -> None:
    """RFC 5280 wants them critical; where they are not, they bind all the same."""
    root = authority("root")
    value = x509.NameConstraints([x509.DNSName("example.test")], None).public_bytes()
    middle = authority("middle", root, more=[("2.5.29.30", value, False)])
    own = Root.of_ca("own", [pem(root)], Demands(log=False, sct=False))
    signer = SignerCertificate.parse(Party("signer", middle).der)
    with pytest.raises(EvidenceMalformed, match="name constraints, which are not supported: CN=middle"):
        verify_chain(signer, [middle.der], own, BEGIN)


def test_predicates_that_are_text_count_for_conditions() -> None:
    """A predicate that is text of JSON is one value in its statement, and as many as it holds for a condition."""
    statement = {"_type": "https://in-toto.io/Statement/v1", "subject": [], "predicateType": TYPE}
    read = Statement.parse(json.dumps({**statement, "predicate": json.dumps({"all": [0] * 500_001})}).encode(), LIMITS)
    with pytest.raises(EvidenceMalformed, match="more than 500000 values"):
        Condition("true").check(read.document, read.predicate)


def test_what_is_only_known_by_now_ends_with_its_log() -> None:
    """Without a proven time everything that an acceptance leans on is believed now: the log's window is part of it."""
    bundle = json.loads(SIGSTORE.signature_bundle(IMAGE.digest, WHO))
    del bundle["verificationMaterial"]["tlogEntries"][0]["inclusionPromise"]
    end = SIGNING_TIME + timedelta(minutes=1)
    logs = {log_id: replace(log, window=Window(log.window.start, end)) for log_id, log in ROOT.logs.items()}
    proof = prove_certificate(read_bundle(json.dumps(bundle).encode()), replace(ROOT, logs=logs), LIMITS, SIGNING_TIME, [])
    assert proof.times == ()
    assert proof.valid_until == end


def test_certificates_of_ones_own_are_another_trust_than_a_trusted_root_of_them() -> None:
    """The same certificates, but only one of both believes intermediates that come along: old verdicts answer one of them."""
    root = authority("root")
    demands = Demands(log=False, sct=False)
    chain = {"certificates": [{"rawBytes": base64.b64encode(root.der).decode()}]}
    document = {
        "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
        "certificateAuthorities": [{"certChain": chain}],
    }
    loaded, own = Root.load("it", json.dumps(document).encode(), demands), Root.of_ca("it", [pem(root)], demands)
    assert loaded.authorities == own.authorities
    assert loaded.identity != own.identity


def signed_by(*names: str) -> Document:
    """A cosign v2 signature by a certificate for these e-mail addresses, of the authority ``OWN``."""
    issuer = b"\x0c\x0fhttps://i.test/"
    people = [x509.RFC822Name(name) for name in names]
    signer = Party("signer", OWN, names=people, more=[("1.3.6.1.4.1.57264.1.8", issuer, False)])
    assert isinstance(signer.key, ec.EllipticCurvePrivateKey)
    payload = json.dumps(simple_signing(IMAGE.digest)).encode()
    signature = signer.key.sign(payload, ec.ECDSA(hashes.SHA256()))
    notes = {SIGNATURE: base64.b64encode(signature).decode(), CERTIFICATE: pem(signer).decode()}
    held = document(SIGSTORE.signature_image(IMAGE.digest, WHO))
    descriptor = replace(held.layers[0][0], digest=Digest.of(payload), size=len(payload))
    return replace(held, layers=((descriptor, notes, payload),))


OWN = authority("own")


@pytest.mark.parametrize(
    ("names", "outcome"),
    [([("alice@a.test",), ("bob@a.test",)], Outcome.ACCEPTED), ([("alice@a.test", "bob@a.test")], Outcome.REFUSED)],
    ids=["two certificates", "one for both"],
)
def test_one_certificate_is_one_signer(names: Sequence[tuple[str, ...]], outcome: Outcome) -> None:
    """GHSA-9vcr-p3rj-q5q6: a certificate with two names is no two signatures."""
    trusted = Trusted(roots={"own": Root.of_ca("own", [pem(OWN)], Demands(log=False, sct=False))})
    asked = tuple(SignatureBy(Identity("own", "https://i.test/", Pattern.compile(f"{who}@a.test"))) for who in ("alice", "bob"))
    verifier = CosignSignatures(LIMITS, SECOND)
    evidence = [each for who in names for each in verifier.judge(signed_by(*who), subject(), asked, trusted, BEGIN)]
    assert evaluate(AtLeast(2, asked), evidence).outcome is outcome


@pytest.mark.parametrize("identifier", [b"\x80" * 70 + b"\x01", b"\xff" * 64 + b"\x7f", b"\x80", b""], ids=bytes.hex)
def test_endless_object_identifiers_are_refused(identifier: bytes) -> None:
    """A timestamp whose type is an identifier without an end is one more that says nothing, and no fault of the reader."""
    content = der.encode(der.CONTEXT_0, der.encode(der.SEQUENCE, b"\x02\x01\x01"))
    with pytest.raises(EvidenceMalformed, match="no CMS signed data"):
        verify_timestamp(der.encode(der.SEQUENCE, der.encode(der.OID, identifier) + content), b"", ())
