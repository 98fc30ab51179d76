"""Sigstore bundles by managed keys: envelopes and message signatures, right, odd and wrong."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.manifest import Entry
from proxy.policy.rules import AttestationBy, SignatureBy
from proxy.policy.verdicts import Evidence
from proxy.settings import Limits
from proxy.verify.bundle import SigstoreBundles
from proxy.verify.dsse import IN_TOTO
from proxy.verify.second import SecondVerdict
from storage.records import Descriptor
from tests.simulator import images
from tests.simulator.images import Blob
from tests.simulator.signing import (
    BUNDLE_TYPE,
    KEY_KINDS,
    ODD_BUT_GOOD_BUNDLES,
    SIGN_PREDICATE,
    STATEMENT_V01,
    BundleFault,
    KeyKind,
    Signer,
    bundle,
    bundle_manifest,
    bundle_referrer,
    message_bundle,
    other_digest,
    pae,
)
from tests.unit.verify.evidence import IMAGE, LIMITS, NOW, RELEASE, ask, asked, document, key, keys, subject

VERIFIER = SigstoreBundles(LIMITS, SecondVerdict())
OTHER = other_digest(IMAGE.digest)
ASKED = [SignatureBy("release")]
Json = dict[str, Any]


def judge(body: bytes) -> tuple[Evidence, ...]:
    """A referrer with this bundle, judged against the release key."""
    return ask(VERIFIER, document(bundle_manifest(body, IMAGE)), subject(), keys(), NOW)


def changed(change: Callable[[Json], object], body: bytes | None = None) -> bytes:
    """The right bundle, changed."""
    parsed = json.loads(bundle(RELEASE, IMAGE.digest) if body is None else body)
    change(parsed)
    return json.dumps(parsed).encode()


def enveloped(payload: bytes, payload_type: str = IN_TOTO) -> bytes:
    """A bundle with this payload, properly signed by the release key."""
    signature = base64.b64encode(RELEASE.sign(pae(payload_type, payload))).decode()
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": payload_type,
        "signatures": [{"sig": signature}],
    }
    return changed(lambda parsed: parsed.update(dsseEnvelope=envelope))


def statement(**members: Any) -> Json:
    """cosign's statement, with members replaced."""
    named = {"digest": {IMAGE.digest.algorithm: IMAGE.digest.hex}}
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [named],
        "predicateType": SIGN_PREDICATE,
        "predicate": {},
    } | members


@pytest.mark.parametrize("kind", KEY_KINDS)
def test_an_envelope_by_the_key_is_accepted(kind: KeyKind) -> None:
    """What cosign v3 writes with each type of managed key passes, named by its referrer."""
    signer = Signer.of(kind, "release")
    referrer = bundle_referrer(signer, IMAGE)
    (evidence,) = ask(VERIFIER, document(referrer), subject(), {"release": key(signer)}, NOW)
    assert evidence == Evidence(
        "sigstore bundle",
        f"referrer {referrer.digest.short}",
        SignatureBy("release"),
        signer.fingerprint,
        accepted=True,
        reason=f"signature by key release over {IMAGE.digest}",
        steps=("the signature is by key release", f"it is about {IMAGE.digest}"),
    )


@pytest.mark.parametrize("kind", KEY_KINDS)
def test_a_message_signature_over_the_manifest_is_accepted(kind: KeyKind) -> None:
    """A bundle may also sign the manifest's bytes."""
    signer = Signer.of(kind, "release")
    manifest = bundle_manifest(message_bundle(signer, IMAGE.body), IMAGE)
    (evidence,) = ask(VERIFIER, document(manifest), subject(), {"release": key(signer)}, NOW)
    assert evidence.accepted, evidence.reason


@pytest.mark.parametrize("fault", sorted(ODD_BUT_GOOD_BUNDLES))
@pytest.mark.parametrize("kind", ["p256", "p384", "p521"])
def test_what_is_odd_but_good_is_accepted(fault: BundleFault, kind: KeyKind) -> None:
    """Older writers, user annotations, the curve's own hash, no hint."""
    signer = Signer.of(kind, "release")
    (evidence,) = ask(VERIFIER, document(bundle_referrer(signer, IMAGE, fault=fault)), subject(), {"release": key(signer)}, NOW)
    assert evidence.accepted, evidence.reason


MADE = "made by key release, but it "
REASONS = {
    BundleFault.WRONG_DIGEST: f"{MADE}signed another image: it claims {OTHER}",
    BundleFault.NO_SUBJECT: f"{MADE}names no image: its statement has no subject",
    BundleFault.WRONG_ALGORITHM: f"{MADE}signed another image: it claims sha512:{IMAGE.digest.hex}",
    BundleFault.OTHER_KEY: "not made by key release",
    BundleFault.FALSE_HINT: "not made by key release",
    BundleFault.WRONG_PREDICATE: f"{MADE}is an attestation (https://slsa.dev/provenance/v1), not a signature",
    BundleFault.WRONG_STATEMENT: f"{MADE}is no in-toto statement but 'https://in-toto.io/Statement/v9'",
    BundleFault.WRONG_PAYLOAD_TYPE: "is an envelope of type 'text/plain', not of an in-toto statement",
    BundleFault.NO_PAE: "not made by key release",
    BundleFault.CHANGED_PAYLOAD: "not made by key release",
    BundleFault.BROKEN_SIGNATURE: "not made by key release",
    BundleFault.BROKEN_BASE64: "is broken: the signature is not base64",
    BundleFault.NO_SIGNATURES: "is broken: its envelope has no signature",
    BundleFault.BROKEN_JSON: "has a bundle that cannot be read",
    BundleFault.DUPLICATE_KEYS: "has a bundle that cannot be read",
    BundleFault.DEEP: "has a bundle that cannot be read",
    BundleFault.NO_CONTENT: "must hold either an envelope or a message signature",
    BundleFault.NO_MATERIAL: "has no object 'verificationMaterial' in its bundle",
    BundleFault.WRONG_MEDIA_TYPE: "is 'application/vnd.example+json', not a Sigstore bundle of version 0.1, 0.2 or 0.3",
    BundleFault.TWO_LAYERS: "has 2 layers in its manifest; a bundle stands alone",
    BundleFault.MANY_SUBJECTS: f"{MADE}has 1025 entries in 'subject' of its statement; the limit is 1024",
    BundleFault.OVERSIZE: "the limit for a signature is 1048576",
}


@pytest.mark.parametrize("fault", sorted(REASONS))
def test_promise_41_every_fault_is_refused_for_its_reason(fault: BundleFault) -> None:
    """A bundle that is wrong in one way is refused, in words that name that way."""
    (evidence,) = ask(VERIFIER, document(bundle_referrer(RELEASE, IMAGE, fault=fault)), subject(), keys(), NOW)
    assert not evidence.accepted
    assert REASONS[fault] in evidence.reason


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (BundleFault.OTHER_KEY, "not made by key release"),
        (BundleFault.BROKEN_SIGNATURE, "not made by key release"),
        (BundleFault.CHANGED_PAYLOAD, "not made by key release"),
        (BundleFault.WRONG_DIGEST, f"{MADE}signed another image: its message digest is not that of {IMAGE.digest}"),
    ],
)
def test_faults_of_message_signatures(fault: BundleFault, words: str) -> None:
    """A message signature must hold over the manifest, and its digest must be the manifest's."""
    (evidence,) = judge(message_bundle(RELEASE, IMAGE.body, fault=fault))
    assert (evidence.accepted, evidence.reason) == (False, words)


def test_a_message_signature_over_another_manifest_is_refused() -> None:
    """The signature of one image does not pass for another."""
    other = images.image("other")
    (evidence,) = judge(message_bundle(RELEASE, other.body))
    assert not evidence.accepted


def test_the_manifest_at_hand_must_be_the_subject() -> None:
    """A caller that hands over other bytes than the digest names gets no acceptance out of it."""
    other = images.image("other")
    confused = replace(subject(), body=other.body)
    manifest = document(bundle_manifest(message_bundle(RELEASE, other.body), IMAGE))
    (evidence,) = ask(VERIFIER, manifest, confused, keys(), NOW)
    assert (evidence.accepted, evidence.reason) == (False, f"{MADE}cannot be judged: the manifest at hand is not {IMAGE.digest}")


@pytest.mark.parametrize(("algorithm", "name"), [("SHA2_384", "sha384"), ("SHA2_512", "sha512")])
def test_message_digests_by_longer_hashes(algorithm: str, name: str) -> None:
    """The message digest says which hash it is by."""
    digest = base64.b64encode(hashlib.new(name, IMAGE.body).digest()).decode()
    named = {"algorithm": algorithm, "digest": digest}
    body = changed(lambda b: b["messageSignature"].update(messageDigest=named), message_bundle(RELEASE, IMAGE.body))
    assert judge(body)[0].accepted


@pytest.mark.parametrize(
    "predicate", ["https://slsa.dev/provenance/v1", "https://spdx.dev/Document", SIGN_PREDICATE + "/", SIGN_PREDICATE.upper(), ""]
)
def test_promise_44_an_attestation_by_the_key_is_no_signature(predicate: str) -> None:
    """The very same key, the very same subject: only ``sign/v1`` is a signature (CVE-2022-35929)."""
    (evidence,) = judge(bundle(RELEASE, IMAGE.digest, predicate=predicate))
    assert (evidence.accepted, evidence.reason) == (False, f"{MADE}is an attestation ({predicate}), not a signature")


def test_statements_of_the_older_version_are_read() -> None:
    """Statement v0.1 differs in name only."""
    (evidence,) = judge(enveloped(json.dumps(statement(_type=STATEMENT_V01)).encode()))
    assert evidence.accepted, evidence.reason


def test_one_subject_of_many_suffices() -> None:
    """An index may be signed together with others; the limit is 1024 subjects."""
    others: list[Json] = [{"digest": {"sha256": f"{number:064x}"}, "name": "x"} for number in range(1023)]
    (evidence,) = judge(enveloped(json.dumps(statement(subject=[*others, *statement()["subject"]])).encode()))
    assert evidence.accepted, evidence.reason
    (evidence,) = judge(enveloped(json.dumps(statement(subject=others)).encode()))
    assert evidence.reason == f"{MADE}signed another image: it claims sha256:{0:064x} and 1022 more"


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"[]", "has a statement that is not a JSON object"),
        (b'{"_type": 1}', "has no text '_type'"),
        (json.dumps(statement(subject={})).encode(), "has no list 'subject'"),
        (json.dumps(statement(subject=[7])).encode(), "a subject of its statement has no digest"),
        (json.dumps(statement(subject=[{"digest": "x"}])).encode(), "a subject of its statement has no digest"),
        (json.dumps(statement(subject=[{"digest": {"sha256": [7]}}])).encode(), "it claims sha256:[7]"),
        (json.dumps(statement(subject=[{"digest": {}}])).encode(), "has no subject"),
        (json.dumps(statement(predicateType=None)).encode(), "has no text 'predicateType'"),
        (json.dumps(statement()).encode()[:-1] + b', "_type": "x"}', "cannot be read"),
    ],
)
def test_properly_signed_nonsense_is_no_signature(payload: bytes, words: str) -> None:
    """The key's owner may have signed anything; only the right statement is a signature of this image."""
    (evidence,) = judge(enveloped(payload))
    assert not evidence.accepted
    assert evidence.reason.startswith(MADE)
    assert words in evidence.reason


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda b: b.update(mediaType="application/vnd.dev.sigstore.bundle.v0.4+json"), "version 0.1, 0.2 or 0.3"),
        (lambda b: b.pop("mediaType"), "has no text 'mediaType'"),
        (lambda b: b.update(messageSignature={}), "either an envelope or a message signature"),
        (lambda b: b.update(dsseEnvelope=[]), "has no object 'dsseEnvelope'"),
        (lambda b: b["verificationMaterial"].pop("publicKey"), "must name its signer by one of"),
        (lambda b: b["verificationMaterial"].update(publicKey="hint"), "has no object 'publicKey'"),
        (lambda b: b["verificationMaterial"].update(certificate={"rawBytes": ""}), "must name its signer by one of"),
        (lambda b: b["verificationMaterial"].update(x509CertificateChain={}), "must name its signer by one of"),
        (lambda b: b["verificationMaterial"].update(tlogEntries=[{}] * 33), "33 entries in 'tlogEntries'"),
        (lambda b: b["verificationMaterial"].update(tlogEntries={}), "has no list 'tlogEntries'"),
        (
            lambda b: b["verificationMaterial"].update(timestampVerificationData={"rfc3161Timestamps": [{}] * 33}),
            "33 entries in 'rfc3161Timestamps'",
        ),
        (lambda b: b["verificationMaterial"].update(timestampVerificationData=[]), "no object 'timestampVerificationData'"),
        (lambda b: b["dsseEnvelope"].update(signatures=[{"sig": "QUFB"}] * 33), "33 entries in 'signatures'"),
        (lambda b: b["dsseEnvelope"].update(signatures=["QUFB"]), "is not an object"),
        (lambda b: b["dsseEnvelope"].update(payload=None), "has no text 'payload'"),
        (lambda b: b["dsseEnvelope"].update(payload="e30"), "the payload is not base64"),
    ],
)
def test_malformed_bundles_are_named(change: Callable[[Json], object], words: str) -> None:
    """What is wrong with a bundle itself counts for every key."""
    (evidence,) = judge(changed(change))
    assert (evidence.accepted, evidence.about) == (False, None)
    assert words in evidence.reason


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.pop("signature"), "has no text 'signature'"),
        (lambda m: m.pop("messageDigest"), "has no object 'messageDigest'"),
        (lambda m: m["messageDigest"].update(algorithm="SHA3_256"), "'SHA3_256', which is not supported"),
        (lambda m: m["messageDigest"].update(digest="!"), "the message digest is not base64"),
    ],
)
def test_malformed_message_signatures_are_named(change: Callable[[Json], object], words: str) -> None:
    """A message signature needs both of its parts, in a form that is known."""
    (evidence,) = judge(changed(lambda b: change(b["messageSignature"]), message_bundle(RELEASE, IMAGE.body)))
    assert (evidence.accepted, evidence.about) == (False, None)
    assert words in evidence.reason


@pytest.mark.parametrize(
    "media_type",
    [f"application/vnd.dev.sigstore.bundle.v0.{minor}+json" for minor in (1, 2, 3)]
    + [f"application/vnd.dev.sigstore.bundle+json;version=0.{minor}" for minor in (1, 2, 3)],
)
def test_all_versions_and_spellings_are_read(media_type: str) -> None:
    """Versions 0.1 to 0.3, in the older and the newer spelling."""
    assert judge(changed(lambda b: b.update(mediaType=media_type)))[0].accepted


def test_timestamps_are_tolerated() -> None:
    """cosign writes them beside managed keys, too; up to 32."""

    def add(parsed: Json) -> None:
        parsed["verificationMaterial"]["timestampVerificationData"] = {"rfc3161Timestamps": [{"signedTimestamp": "AA=="}] * 32}

    assert judge(changed(add))[0].accepted


def test_an_envelope_with_several_signatures_is_no_bundle() -> None:
    """Which of several signatures counts would be a guess: the format allows one."""
    strange = {"sig": base64.b64encode(Signer.of("p256", "stranger").sign(b"x")).decode(), "keyid": "x"}
    for body in (
        changed(lambda b: b["dsseEnvelope"]["signatures"].insert(0, strange)),
        bundle(RELEASE, IMAGE.digest, fault=BundleFault.TWO_SIGNATURES),
    ):
        (evidence,) = judge(body)
        assert not evidence.accepted
        assert "2 signatures" in evidence.reason


def test_every_key_is_tried_whatever_the_hint_says() -> None:
    """The hint is not signed: it neither helps nor hinders."""
    alice, bob = Signer.of("p256", "alice"), Signer.of("p256", "bob")
    body = changed(lambda b: b["verificationMaterial"].update(publicKey={"hint": bob.hint}), bundle(alice, IMAGE.digest))
    evidence = ask(VERIFIER, document(bundle_manifest(body, IMAGE)), subject(), keys(alice, bob), NOW)
    assert {asked(each): each.accepted for each in evidence} == {"alice": True, "bob": False}


def test_step_1_the_bundle_is_the_one_that_the_manifest_names() -> None:
    """The right bundle in the place of another is refused."""
    whole = document(bundle_referrer(RELEASE, IMAGE))
    ((_, notes, body),) = whole.layers
    wrong = replace(whole, layers=((Descriptor(BUNDLE_TYPE, OTHER, len(body)), notes, body),))
    (evidence,) = ask(VERIFIER, wrong, subject(), keys(), NOW)
    assert evidence.reason == "is broken: the bundle is not what its manifest names"


def test_a_bundle_stands_alone() -> None:
    """Another layer beside the bundle is one too many, even where nobody fetched it."""
    sbom = (Blob("application/spdx+json", b"{}"), None)
    layers = [(Blob(BUNDLE_TYPE, bundle(RELEASE, IMAGE.digest)), None), sbom]
    both = document(images.artifact(BUNDLE_TYPE, layers, subject=IMAGE.descriptor))
    (evidence,) = ask(VERIFIER, replace(both, layers=both.layers[:1]), subject(), keys(), NOW)
    assert (evidence.accepted, evidence.reason) == (False, "has 2 layers in its manifest; a bundle stands alone")


def test_what_is_worth_fetching() -> None:
    """Bundles that are signatures, or do not say what they are; not those that say they are attestations, nor other layers."""
    verifier = SigstoreBundles(Limits(signature_size=1000), SecondVerdict())
    signature = document(bundle_referrer(RELEASE, IMAGE)).parsed
    attestation = document(bundle_referrer(RELEASE, IMAGE, predicate="https://slsa.dev/provenance/v1")).parsed
    layer = signature.layers[0]
    assert verifier.wants(signature, layer, ASKED) == 1000
    assert verifier.wants(replace(signature, annotations={}), layer, ASKED) == 1000
    assert verifier.wants(attestation, attestation.layers[0], ASKED) is None
    provenance = [AttestationBy("https://slsa.dev/provenance/v1", "release")]
    assert verifier.wants(attestation, attestation.layers[0], provenance) == Limits().attestation_size
    assert verifier.wants(signature, layer, provenance) is None
    assert verifier.wants(signature, Entry(Descriptor(images.OCI_LAYER, OTHER, 1), {}), ASKED) is None
    assert verifier.judges(document(bundle_referrer(RELEASE, IMAGE)))
    assert not verifier.judges(document(images.image()))


RIGHT = bundle(RELEASE, IMAGE.digest)
MESSAGE = message_bundle(RELEASE, IMAGE.body)
#: What acceptance must depend on, byte by byte: the values, and the names of the members that hold them.
SIGNED = [(RIGHT, json.loads(RIGHT)["dsseEnvelope"][name]) for name in ("payload", "payloadType")] + [
    (RIGHT, json.loads(RIGHT)["dsseEnvelope"]["signatures"][0]["sig"]),
    (MESSAGE, json.loads(MESSAGE)["messageSignature"]["signature"]),
    (MESSAGE, json.loads(MESSAGE)["messageSignature"]["messageDigest"]["digest"]),
]


@given(data=st.data())
def test_no_changed_value_is_accepted(data: st.DataObject) -> None:
    """Each byte of what is signed and of the signature counts, even where the changed bundle is named properly."""
    body, value = data.draw(st.sampled_from(SIGNED))
    start = body.index(value.encode())
    position = start + data.draw(st.integers(0, len(value) - 1))
    wrong = bytearray(body)
    wrong[position] ^= data.draw(st.integers(1, 255))
    assert not any(each.accepted for each in judge(bytes(wrong)))


@given(position=st.integers(0, len(RIGHT) - 1), byte=st.integers(0, 255))
def test_a_changed_bundle_raises_nothing_and_means_nothing_else(position: int, byte: int) -> None:
    """One changed byte anywhere: either the bundle fails, or what was signed is still exactly the same."""
    wrong = bytearray(RIGHT)
    wrong[position] = byte
    if any(each.accepted for each in judge(bytes(wrong))):
        assert json.loads(bytes(wrong))["dsseEnvelope"]["payload"] == json.loads(RIGHT)["dsseEnvelope"]["payload"]


@given(body=st.binary(max_size=300), payload=st.binary(max_size=300))
def test_arbitrary_documents_raise_nothing(body: bytes, payload: bytes) -> None:
    """Whatever stands in a bundle or in its payload, the answer is evidence that failed."""
    for whole in (body, enveloped(payload)):
        assert [each.accepted for each in judge(whole)] == [False]


MEMBERS = ["mediaType", "verificationMaterial", "publicKey", "dsseEnvelope", "messageSignature", "signatures", "sig", "payload"]
VALUES = st.none() | st.integers() | st.text(max_size=5) | st.just(json.loads(RIGHT)["mediaType"])


@given(
    st.recursive(
        VALUES,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(MEMBERS), inner, max_size=5),
        max_leaves=15,
    )
)
def test_arbitrary_structures_raise_nothing(value: object) -> None:
    """Known members in unforeseen places and of unforeseen types are refused, not stumbled over."""
    body = changed(lambda b: b.update(value) if isinstance(value, dict) else b.update(dsseEnvelope=value))
    assert all(each.reason for each in judge(body))
