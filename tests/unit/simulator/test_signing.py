"""The signature builders: the right ones verify by plain cryptography, each fault is wrong in its one way."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from storage.digest import Digest
from tests.simulator import images, signing
from tests.simulator.registry import Registry
from tests.simulator.signing import BundleFault, CosignFault, Signer

IMAGE = images.image("signed")
ALICE = Signer.of("p256", "alice")


def verifies(signer: Signer, signature: bytes, message: bytes, algorithm: hashes.HashAlgorithm | None = None) -> bool:
    """Independent of the builders: only the public PEM is used."""
    key = serialization.load_pem_public_key(signer.public_pem)
    chosen = algorithm or hashes.SHA256()
    try:
        match key:
            case ec.EllipticCurvePublicKey():
                key.verify(signature, message, ec.ECDSA(chosen))
            case rsa.RSAPublicKey():
                key.verify(signature, message, padding.PKCS1v15(), chosen)
            case ed25519.Ed25519PublicKey():
                key.verify(signature, message)
            case _:
                raise TypeError(key)
    except InvalidSignature:
        return False
    return True


@pytest.mark.parametrize("kind", signing.KEY_KINDS)
def test_cosign_signatures_of_every_kind_verify(kind: signing.KeyKind) -> None:
    """The annotation is a signature over the layer's bytes, which name the image."""
    signer = Signer.of(kind, "alice")
    signature = signing.cosign_signature(signer, IMAGE.digest, reference="registry.test/team/app")
    critical = json.loads(signature.blob.data)["critical"]
    assert critical["image"] == {"docker-manifest-digest": str(IMAGE.digest)}
    assert critical["identity"] == {"docker-reference": "registry.test/team/app"}
    assert signature.blob.media_type == signing.SIMPLE_SIGNING
    assert verifies(signer, base64.b64decode(signature.annotations[signing.SIGNATURE_ANNOTATION]), signature.blob.data)


@pytest.mark.parametrize("kind", signing.KEY_KINDS)
def test_bundles_of_every_kind_verify(kind: signing.KeyKind) -> None:
    """The envelope's signature is over the PAE, the hint names the key, the statement names the image."""
    signer = Signer.of(kind, "alice")
    document = json.loads(signing.bundle(signer, IMAGE.digest))
    envelope = document["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"])
    pae = signing.pae(envelope["payloadType"], payload)
    assert pae == b"DSSEv1 28 application/vnd.in-toto+json " + str(len(payload)).encode() + b" " + payload
    assert verifies(signer, base64.b64decode(envelope["signatures"][0]["sig"]), pae)
    statement = json.loads(payload)
    assert statement["subject"] == [{"digest": {"sha256": IMAGE.digest.hex}}]
    assert (statement["predicateType"], statement["predicate"]) == (signing.SIGN_PREDICATE, {})
    assert base64.b64decode(document["verificationMaterial"]["publicKey"]["hint"]).hex() == signer.fingerprint
    message = json.loads(signing.message_bundle(signer, IMAGE.body))["messageSignature"]
    assert verifies(signer, base64.b64decode(message["signature"]), IMAGE.body)
    assert base64.b64decode(message["messageDigest"]["digest"]).hex() == IMAGE.digest.hex


def test_the_curves_own_hash() -> None:
    """P-384 and P-521 can sign over SHA-384 and SHA-512."""
    for signer, algorithm in ((Signer.of("p384", "alice"), hashes.SHA384()), (Signer.of("p521", "alice"), hashes.SHA512())):
        envelope = json.loads(signing.bundle(signer, IMAGE.digest, fault=BundleFault.NATIVE_HASH))["dsseEnvelope"]
        signature, payload = base64.b64decode(envelope["signatures"][0]["sig"]), base64.b64decode(envelope["payload"])
        pae = signing.pae(envelope["payloadType"], payload)
        assert verifies(signer, signature, pae, algorithm)
        assert not verifies(signer, signature, pae)


def parsed(data: bytes) -> tuple[Any, bool]:
    """A JSON document, and whether one of its objects has a key twice."""
    duplicates = False

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal duplicates
        duplicates |= len(dict(pairs)) != len(pairs)
        return dict(pairs)

    document = json.loads(data, object_pairs_hook=build)
    return document, duplicates


def cosign_defects(signature: signing.CosignSignature) -> set[str]:
    """What an independent look finds wrong with a signature of ALICE's over IMAGE."""
    wrong = set()
    if signature.blob.media_type != signing.SIMPLE_SIGNING:
        wrong.add("media type")
    annotation = signature.annotations.get(signing.SIGNATURE_ANNOTATION)
    if annotation is None:
        wrong.add("annotation")
    else:
        try:
            raw = base64.b64decode(annotation.replace("\n", ""), validate=True)
        except binascii.Error:
            wrong.add("base64")
        else:
            if not verifies(ALICE, raw, signature.blob.data):
                wrong.add("signature")
    try:
        document, duplicates = parsed(signature.blob.data)
    except (ValueError, RecursionError):
        return wrong | {"json"}
    if duplicates:
        wrong.add("duplicate")
    if not isinstance(document, dict):
        return wrong | {"object"}
    critical = document.get("critical", {})
    if critical.get("image", {}).get("docker-manifest-digest") != str(IMAGE.digest):
        wrong.add("digest")
    if critical.get("type") != signing.SIGNATURE_TYPE:
        wrong.add("type")
    if len(signature.blob.data) > 100_000:
        wrong.add("size")
    return wrong


COSIGN_DEFECTS = {
    CosignFault.WRONG_DIGEST: {"digest"},
    CosignFault.UPPER_CASE_KEY: {"digest"},
    CosignFault.NO_DIGEST: {"digest"},
    CosignFault.WRONG_TYPE: {"type"},
    CosignFault.NO_TYPE: {"type"},
    CosignFault.OTHER_KEY: {"signature"},
    CosignFault.CHANGED_PAYLOAD: {"signature"},
    CosignFault.BROKEN_SIGNATURE: {"signature"},
    CosignFault.BROKEN_BASE64: {"base64"},
    CosignFault.EMPTY_SIGNATURE: {"signature"},
    CosignFault.NO_ANNOTATION: {"annotation"},
    CosignFault.BROKEN_JSON: {"json"},
    CosignFault.NOT_AN_OBJECT: {"object"},
    CosignFault.DUPLICATE_KEYS: {"duplicate"},
    CosignFault.NOT_UTF8: {"json"},
    CosignFault.DEEP: {"json"},
    CosignFault.WRONG_MEDIA_TYPE: {"media type"},
    CosignFault.ATTESTATION: {"media type", "signature", "digest", "type"},
    CosignFault.OVERSIZE: {"size"},
    CosignFault.NEWLINES: set(),
    CosignFault.USER_ANNOTATIONS: set(),
}


@pytest.mark.parametrize("fault", CosignFault, ids=lambda fault: fault.value)
def test_a_cosign_fault_is_wrong_in_its_one_way(fault: CosignFault) -> None:
    """Every fault has exactly its own defect; the odd but good ones have none."""
    assert cosign_defects(signing.cosign_signature(ALICE, IMAGE.digest)) == set()
    assert cosign_defects(signing.cosign_signature(ALICE, IMAGE.digest, fault=fault)) == COSIGN_DEFECTS[fault]
    assert (COSIGN_DEFECTS[fault] == set()) == (fault in signing.ODD_BUT_GOOD_COSIGN)


def bundle_defects(referrer: images.Image) -> set[str]:
    """What an independent look finds wrong with a bundle referrer of ALICE's for IMAGE."""
    wrong = set()
    manifest = referrer.manifest
    if manifest.get("subject", {}).get("digest") != str(IMAGE.digest):
        wrong.add("manifest subject")
    if len(manifest["layers"]) != 1:
        wrong.add("layers")
    if manifest["layers"][0]["mediaType"] != signing.BUNDLE_TYPE:
        wrong.add("layer type")
    data = referrer.blobs[1].data
    if len(data) > 500_000:
        wrong.add("size")
    try:
        document, duplicates = parsed(data)
    except (ValueError, RecursionError):
        return wrong | {"json"}
    if duplicates:
        wrong.add("duplicate")
    if document["mediaType"] != signing.BUNDLE_TYPE:
        wrong.add("media type")
    if "verificationMaterial" not in document:
        wrong.add("material")
    elif document["verificationMaterial"]["publicKey"].get("hint", ALICE.hint) != ALICE.hint:
        wrong.add("hint")
    if "dsseEnvelope" not in document:
        return wrong | {"content"}
    envelope = document["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"])
    if envelope["payloadType"] != signing.PAYLOAD_TYPE:
        wrong.add("payload type")
    if len(envelope["signatures"]) != 1:
        wrong.add("signature count")
    for signature in envelope["signatures"]:
        try:
            raw = base64.b64decode(signature["sig"], validate=True)
        except binascii.Error:
            wrong.add("base64")
            continue
        if not verifies(ALICE, raw, signing.pae(envelope["payloadType"], payload)):
            wrong.add("signature")
    statement = json.loads(payload)
    if statement["_type"] != signing.STATEMENT_V1:
        wrong.add("statement type")
    if statement["predicateType"] != signing.SIGN_PREDICATE:
        wrong.add("predicate")
    if {"sha256": IMAGE.digest.hex} not in [subject["digest"] for subject in statement["subject"]]:
        wrong.add("subject")
    if len(statement["subject"]) > 1024:
        wrong.add("subjects")
    return wrong


BUNDLE_DEFECTS = {
    BundleFault.WRONG_DIGEST: {"subject"},
    BundleFault.NO_SUBJECT: {"subject"},
    BundleFault.WRONG_ALGORITHM: {"subject"},
    BundleFault.OTHER_KEY: {"signature", "hint"},
    BundleFault.FALSE_HINT: {"signature"},
    BundleFault.WRONG_PREDICATE: {"predicate"},
    BundleFault.WRONG_STATEMENT: {"statement type"},
    BundleFault.WRONG_PAYLOAD_TYPE: {"payload type"},
    BundleFault.NO_PAE: {"signature"},
    BundleFault.CHANGED_PAYLOAD: {"signature"},
    BundleFault.BROKEN_SIGNATURE: {"signature"},
    BundleFault.BROKEN_BASE64: {"base64"},
    BundleFault.NO_SIGNATURES: {"signature count"},
    BundleFault.TWO_SIGNATURES: {"signature count"},
    BundleFault.BROKEN_JSON: {"json"},
    BundleFault.DUPLICATE_KEYS: {"duplicate"},
    BundleFault.DEEP: {"json"},
    BundleFault.NO_CONTENT: {"content"},
    BundleFault.NO_MATERIAL: {"material"},
    BundleFault.WRONG_MEDIA_TYPE: {"media type"},
    BundleFault.WRONG_LAYER_TYPE: {"layer type"},
    BundleFault.TWO_LAYERS: {"layers"},
    BundleFault.OTHER_SUBJECT: {"manifest subject"},
    BundleFault.NO_MANIFEST_SUBJECT: {"manifest subject"},
    BundleFault.MANY_SUBJECTS: {"subjects"},
    BundleFault.OVERSIZE: {"size"},
    BundleFault.EMPTY_ARTIFACT_TYPE: set(),
    BundleFault.ANNOTATED: set(),
    BundleFault.NATIVE_HASH: set(),
    BundleFault.NO_HINT: set(),
}


@pytest.mark.parametrize("fault", BundleFault, ids=lambda fault: fault.value)
def test_a_bundle_fault_is_wrong_in_its_one_way(fault: BundleFault) -> None:
    """Every fault has exactly its own defect; the odd but good ones have none."""
    assert bundle_defects(signing.bundle_referrer(ALICE, IMAGE)) == set()
    assert bundle_defects(signing.bundle_referrer(ALICE, IMAGE, fault=fault)) == BUNDLE_DEFECTS[fault]
    assert (BUNDLE_DEFECTS[fault] == set()) == (fault in signing.ODD_BUT_GOOD_BUNDLES)


@pytest.mark.parametrize(
    "fault", [BundleFault.OTHER_KEY, BundleFault.BROKEN_SIGNATURE, BundleFault.CHANGED_PAYLOAD, BundleFault.WRONG_DIGEST]
)
def test_message_bundle_faults(fault: BundleFault) -> None:
    """A message signature's faults break the signature, or the digest beside it."""
    message = json.loads(signing.message_bundle(ALICE, IMAGE.body, fault=fault))["messageSignature"]
    good = verifies(ALICE, base64.b64decode(message["signature"]), IMAGE.body)
    assert good == (fault is BundleFault.WRONG_DIGEST)
    named = base64.b64decode(message["messageDigest"]["digest"]).hex()
    assert (named == IMAGE.digest.hex) == (fault is not BundleFault.WRONG_DIGEST)


def test_signatures_gather_under_the_tag() -> None:
    """A second signature is added beside the first, under the tag that cosign uses."""
    registry = Registry()
    registry.add("team/app", IMAGE, "1.0")
    registry.sign("team/app", IMAGE.digest, ALICE)
    both = registry.sign("team/app", IMAGE.digest, Signer.of("rsa2048", "bob"), CosignFault.WRONG_TYPE)
    assert registry.tags("team/app")[f"sha256-{IMAGE.digest.hex}.sig"] == both.digest
    layers = both.manifest["layers"]
    assert [layer["mediaType"] for layer in layers] == [signing.SIMPLE_SIGNING] * 2
    assert registry.stored("team/app", Digest.parse(layers[0]["digest"])) is not None


def test_many_signatures_with_one_good() -> None:
    """A flood of signatures, all different, with one good among them at a known place."""
    flood = signing.many_signatures(ALICE, IMAGE.digest, 5, good_at=3)
    good = [
        verifies(ALICE, base64.b64decode(layer["annotations"][signing.SIGNATURE_ANNOTATION]), blob.data)
        for layer, blob in zip(flood.manifest["layers"], flood.blobs[1:], strict=True)
    ]
    assert good == [False, False, False, True, False]
    assert len({blob.digest for blob in flood.blobs}) == 6


def test_bundles_and_the_other_referrers() -> None:
    """A bundle attached to an image is listed for it; a signature manifest can be a referrer, too."""
    registry = Registry()
    registry.add("team/app", IMAGE, "1.0")
    bundle = registry.attach("team/app", IMAGE, ALICE)
    signature = signing.signature_manifest([signing.cosign_signature(ALICE, IMAGE.digest)], subject=IMAGE)
    registry.refer("team/app", signature)
    assert {each.digest for each in registry.referrers("team/app", IMAGE.digest)} == {bundle.digest, signature.digest}
    kinds = [images.referrers_entry(each)["artifactType"] for each in (bundle, signature)]
    assert kinds == [signing.BUNDLE_TYPE, "application/vnd.dev.cosign.artifact.sig.v1+json"]


def test_a_signer_is_made_once() -> None:
    """The same name gives the same key, another name another."""
    assert Signer.of("p256", "alice") is ALICE
    assert Signer.of("p256", "bob").fingerprint != ALICE.fingerprint
    assert signing.disguised_image().media_type == images.OCI_MANIFEST
