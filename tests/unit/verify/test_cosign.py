"""cosign v2 signatures: every way to be wrong is refused for its own reason, and what is only odd passes."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from proxy.manifest import Entry
from proxy.policy.rules import AttestationBy, SignatureBy, Store
from proxy.policy.verdicts import Evidence
from proxy.settings import Limits
from proxy.verify.cosign import CERTIFICATE, CHAIN, SIGNATURE, CosignSignatures
from proxy.verify.model import Found
from proxy.verify.second import SecondVerdict
from storage.records import Descriptor
from tests.simulator import images
from tests.simulator.images import Blob
from tests.simulator.signing import (
    KEY_KINDS,
    ODD_BUT_GOOD_COSIGN,
    SIMPLE_SIGNING,
    CosignFault,
    CosignSignature,
    KeyKind,
    Signer,
    cosign_signature,
    other_digest,
    signature_manifest,
)
from tests.simulator.sigstore import PrivateSigstore
from tests.unit.verify.evidence import IMAGE, LIMITS, NOW, RELEASE, ask, asked, document, key, keys, subject

VERIFIER = CosignSignatures(LIMITS, SecondVerdict())
OTHER = other_digest(IMAGE.digest)
ASKED = [SignatureBy("release")]


def judge(*signatures: CosignSignature, found: Found = Found.SIGNATURE_TAG) -> tuple[Evidence, ...]:
    """Judged against the release key."""
    return ask(VERIFIER, document(signature_manifest(signatures), found), subject(), keys(), NOW)


def signed(payload: bytes) -> CosignSignature:
    """These bytes, properly signed by the release key."""
    right = cosign_signature(RELEASE, IMAGE.digest)
    text = base64.b64encode(RELEASE.sign(payload)).decode()
    return replace(right, blob=Blob(SIMPLE_SIGNING, payload), annotations={SIGNATURE: text})


@pytest.mark.parametrize("kind", KEY_KINDS)
def test_a_signature_by_the_key_is_accepted(kind: KeyKind) -> None:
    """Each type of managed key signs images, and the evidence says which key it was and over what."""
    signer = Signer.of(kind, "release")
    manifest = signature_manifest([cosign_signature(signer, IMAGE.digest)])
    (evidence,) = ask(VERIFIER, document(manifest, Found.SIGNATURE_TAG), subject(), {"release": key(signer)}, NOW)
    assert evidence == Evidence(
        "cosign signature",
        f"signature tag of {IMAGE.digest.short}, signature 1",
        SignatureBy("release"),
        signer.fingerprint,
        accepted=True,
        reason=f"signature by key release over {IMAGE.digest}",
        steps=("the signature is by key release", f"it is about {IMAGE.digest}"),
    )


@pytest.mark.parametrize("fault", sorted(ODD_BUT_GOOD_COSIGN))
def test_what_is_odd_but_good_is_accepted(fault: CosignFault) -> None:
    """Line breaks in the base64 and annotations by users occur in the wild."""
    (evidence,) = judge(cosign_signature(RELEASE, IMAGE.digest, fault=fault))
    assert evidence.accepted, evidence.reason


MADE = "made by key release, but it "
REASONS = {
    CosignFault.WRONG_DIGEST: f"{MADE}signed another image: it claims {OTHER}",
    CosignFault.UPPER_CASE_KEY: f"{MADE}has no text 'docker-manifest-digest' in its payload",
    CosignFault.NO_DIGEST: f"{MADE}has no text 'docker-manifest-digest' in its payload",
    CosignFault.WRONG_TYPE: f"{MADE}is for type 'atomic container signature', not a cosign container image signature",
    CosignFault.NO_TYPE: f"{MADE}has no text 'type' in its payload",
    CosignFault.OTHER_KEY: "not made by key release",
    CosignFault.CHANGED_PAYLOAD: "not made by key release",
    CosignFault.BROKEN_SIGNATURE: "not made by key release",
    CosignFault.BROKEN_BASE64: "is broken: the signature is not base64",
    CosignFault.EMPTY_SIGNATURE: f"is missing: the annotation {SIGNATURE} is empty or not there",
    CosignFault.NO_ANNOTATION: f"is missing: the annotation {SIGNATURE} is empty or not there",
    CosignFault.BROKEN_JSON: f"{MADE}has a payload that cannot be read",
    CosignFault.NOT_AN_OBJECT: f"{MADE}has a payload that is not a JSON object",
    CosignFault.DUPLICATE_KEYS: f"{MADE}has a payload that cannot be read",
    CosignFault.NOT_UTF8: f"{MADE}has a payload that cannot be read",
    CosignFault.DEEP: f"{MADE}has a payload that cannot be read",
    CosignFault.OVERSIZE: "the limit for a signature is 1048576",
}
NOT_SIGNATURES = frozenset({CosignFault.WRONG_MEDIA_TYPE, CosignFault.ATTESTATION})


@pytest.mark.parametrize("fault", sorted(frozenset(CosignFault) - ODD_BUT_GOOD_COSIGN - NOT_SIGNATURES))
def test_promise_41_every_fault_is_refused_for_its_reason(fault: CosignFault) -> None:
    """A signature that is wrong in one way is refused, in words that name that way."""
    (evidence,) = judge(cosign_signature(RELEASE, IMAGE.digest, fault=fault))
    assert not evidence.accepted
    assert REASONS[fault] in evidence.reason


@pytest.mark.parametrize("fault", sorted(NOT_SIGNATURES))
def test_promise_44_a_layer_of_another_type_is_no_signature(fault: CosignFault) -> None:
    """Only simple signing layers are judged, whatever stands beside them."""
    wrong = cosign_signature(RELEASE, IMAGE.digest, fault=fault)
    assert judge(wrong) == ()
    (evidence,) = judge(wrong, cosign_signature(RELEASE, IMAGE.digest))
    assert evidence.accepted
    assert evidence.source.endswith("signature 1")
    assert VERIFIER.judges(document(signature_manifest([wrong]))) is False


def test_before_a_key_matters_no_key_is_named() -> None:
    """What is broken in itself is not held against one key: the evidence counts for all of them."""
    broken = judge(cosign_signature(RELEASE, IMAGE.digest, fault=CosignFault.BROKEN_BASE64))
    foreign = judge(cosign_signature(RELEASE, IMAGE.digest, fault=CosignFault.OTHER_KEY))
    assert [(asked(each), each.authority) for each in broken] == [(None, None)]
    assert [(asked(each), each.authority) for each in foreign] == [("release", RELEASE.fingerprint)]


def test_each_signature_is_judged_against_each_key() -> None:
    """Three signatures by three signers and two trusted keys: six judgements, two of them accepted."""
    alice, bob, carol = (Signer.of("p256", name) for name in ("alice", "bob", "carol"))
    manifest = signature_manifest([cosign_signature(signer, IMAGE.digest) for signer in (alice, bob, carol)])
    evidence = ask(VERIFIER, document(manifest, Found.SIGNATURE_TAG), subject(), keys(alice, bob), NOW)
    accepted = {(asked(each), each.source.rpartition(", ")[2]) for each in evidence if each.accepted}
    assert accepted == {("alice", "signature 1"), ("bob", "signature 2")}
    assert len(evidence) == 6


def test_step_1_the_payload_is_the_one_that_the_manifest_names() -> None:
    """A properly signed payload in the place of another is refused, by digest and by size."""
    whole = document(signature_manifest([cosign_signature(RELEASE, IMAGE.digest)]))
    ((descriptor, notes, payload),) = whole.layers
    for wrong in (Descriptor(SIMPLE_SIGNING, OTHER, len(payload)), Descriptor(SIMPLE_SIGNING, descriptor.digest, 1)):
        (evidence,) = ask(VERIFIER, replace(whole, layers=((wrong, notes, payload),)), subject(), keys(), NOW)
        assert not evidence.accepted
        assert evidence.reason == "is broken: its payload is not what the signature manifest names"


def test_keyless_signatures_are_named_as_such() -> None:
    """A signature with a certificate is not by a managed key, and says so; if the key did make it, it counts."""
    foreign = cosign_signature(RELEASE, IMAGE.digest, fault=CosignFault.OTHER_KEY)
    (evidence,) = judge(replace(foreign, annotations={**foreign.annotations, CERTIFICATE: "-----BEGIN CERTIFICATE-----"}))
    assert (evidence.accepted, evidence.reason) == (False, "is keyless, not by the managed key release")
    own = cosign_signature(RELEASE, IMAGE.digest)
    (evidence,) = judge(replace(own, annotations={**own.annotations, CERTIFICATE: "-----BEGIN CERTIFICATE-----"}))
    assert evidence.accepted


def test_a_chain_of_a_version_that_there_is_not_is_refused() -> None:
    """The library has an error of its own for that; one broken signature must not take the right one down with it."""
    sigstore = PrivateSigstore()
    keyless = sigstore.cosign_signature(IMAGE.digest)
    der = x509.load_pem_x509_certificates(keyless.annotations[CHAIN].encode())[0].public_bytes(Encoding.DER)
    odd = der.replace(bytes.fromhex("a003020102"), bytes.fromhex("a00302010a"), 1)
    assert odd != der
    chain = base64.encodebytes(odd).decode()
    wrong = f"-----BEGIN CERTIFICATE-----\n{chain}-----END CERTIFICATE-----\n"
    broken = replace(keyless, annotations={**keyless.annotations, CHAIN: wrong})
    first, second = judge(broken, cosign_signature(RELEASE, IMAGE.digest))
    assert (first.accepted, second.accepted) == (False, True)


def test_base64_has_one_form() -> None:
    """Spare bits, URL-safe letters, blanks and missing padding are refused; endless text before it is decoded."""
    right = cosign_signature(RELEASE, IMAGE.digest)
    text = right.annotations[SIGNATURE]
    for wrong in ("QR==", "Q", text + "====", " " + text, text.replace("M", "-", 1), "A" * 20_000, "ä"):
        (evidence,) = judge(replace(right, annotations={SIGNATURE: wrong}))
        assert evidence.reason.startswith("is broken:"), wrong


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"null", "not a JSON object"),
        (b"{}", "no object 'critical'"),
        (b'{"critical": []}', "no object 'critical'"),
        (b'{"critical": {"image": "x"}}', "no object 'image'"),
        (b'{"critical": {"image": {"docker-manifest-digest": 1}}}', "no text 'docker-manifest-digest'"),
        (
            '{"critical": {"image": {"docker-manifest-digest": "sha1:ü\\n"}}}'.encode(),
            r"names no image: sha1:\xfc\n is not a digest",
        ),
        (b'{"critical": NaN}', "cannot be read"),
        (b'{"critical": ' + b"9" * 5000 + b"}", "cannot be read"),
        (b"", "cannot be read"),
    ],
)
def test_properly_signed_nonsense_is_no_signature(payload: bytes, words: str) -> None:
    """The key's owner may have signed anything; only the right document is a signature of this image."""
    (evidence,) = judge(signed(payload))
    assert not evidence.accepted
    assert words in evidence.reason
    assert evidence.reason.isascii()


def test_claims_in_sha512_are_compared_in_sha512() -> None:
    """A subject named by sha512 is signed by its sha512; the sha256 of the same bytes is another name."""
    image = images.image("app", algorithm="sha512")
    manifest = document(signature_manifest([cosign_signature(RELEASE, image.digest)]))
    assert ask(VERIFIER, manifest, subject(image), keys(), NOW)[0].accepted
    assert not ask(VERIFIER, manifest, subject(), keys(), NOW)[0].accepted


def test_a_key_outside_its_window_does_not_count() -> None:
    """The right key, too late or too early, is told apart from a wrong key."""
    manifest = document(signature_manifest([cosign_signature(RELEASE, IMAGE.digest)]))
    hour = timedelta(hours=1)
    (late,) = ask(VERIFIER, manifest, subject(), {"release": key(valid_until=NOW - hour)}, NOW)
    (early,) = ask(VERIFIER, manifest, subject(), {"release": key(valid_from=NOW + hour)}, NOW)
    (good,) = ask(VERIFIER, manifest, subject(), {"release": key(valid_from=NOW - hour, valid_until=NOW + hour)}, NOW)
    assert late.reason == "made by key release, but key release was valid until 2026-06-01 11:00:00 UTC"
    assert early.reason == "made by key release, but key release is valid from 2026-06-01 13:00:00 UTC only"
    assert (late.accepted, early.accepted) == (False, False)
    assert (good.accepted, good.valid_until) == (True, NOW + hour)


def test_what_is_worth_fetching() -> None:
    """Simple signing layers up to the limit, nothing else."""
    manifest = document(signature_manifest([cosign_signature(RELEASE, IMAGE.digest)])).parsed
    other = Entry(Descriptor(images.OCI_LAYER, OTHER, 1), {})
    verifier = CosignSignatures(Limits(signature_size=1000), SecondVerdict())
    assert verifier.wants(manifest, manifest.layers[0], ASKED) == 1000
    assert verifier.wants(manifest, other, ASKED) is None
    assert verifier.wants(manifest, manifest.layers[0], [AttestationBy("t", "release")]) is None
    assert verifier.wants(manifest, manifest.layers[0], [SignatureBy(Store("s"))]) is None


RIGHT = cosign_signature(RELEASE, IMAGE.digest)


@given(position=st.integers(0, len(RIGHT.blob.data) - 1), bits=st.integers(1, 255))
def test_no_changed_payload_is_accepted(position: int, bits: int) -> None:
    """Each byte of the payload is signed, even where the changed payload is named properly by its manifest."""
    changed = bytearray(RIGHT.blob.data)
    changed[position] ^= bits
    assert not any(each.accepted for each in judge(replace(RIGHT, blob=Blob(SIMPLE_SIGNING, bytes(changed)))))


@given(position=st.integers(0, len(RIGHT.annotations[SIGNATURE]) - 1), letter=st.characters(codec="utf-8"))
def test_no_changed_signature_is_accepted(position: int, letter: str) -> None:
    """Each character of the signature counts; line breaks are not characters of it."""
    text = RIGHT.annotations[SIGNATURE]
    changed = text[:position] + letter + text[position + 1 :]
    assert any(each.accepted for each in judge(replace(RIGHT, annotations={SIGNATURE: changed}))) is (changed == text)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["critical", "image", "type", "x"]), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(payload=st.binary(max_size=400) | JSON.map(lambda value: json.dumps(value).encode()), text=st.text(max_size=100))
def test_arbitrary_documents_raise_nothing(payload: bytes, text: str) -> None:
    """Whatever was signed, and whatever stands in the annotations, the answer is evidence that failed."""
    for signature in (signed(payload), replace(RIGHT, blob=Blob(SIMPLE_SIGNING, payload), annotations={SIGNATURE: text})):
        (evidence,) = judge(signature)
        assert not evidence.accepted
        assert evidence.reason.isascii()
