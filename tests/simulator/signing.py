"""Signatures for tests: cosign v2 ``.sig`` manifests and Sigstore bundles by managed keys, right or wrong on purpose.

Pure builders. Every builder takes a ``fault``, one of :class:`CosignFault` or :class:`BundleFault`: what comes out is then
wrong in exactly that way and right in every other, so that a test which sees it refused knows why. Members that a verifier
must *accept* although they look odd are listed in :data:`ODD_BUT_GOOD_COSIGN` and :data:`ODD_BUT_GOOD_BUNDLES`.

::

    alice = Signer.of("p256", "alice")
    registry.sign("team/app", image.digest, alice)                                   # tag sha256-<hex>.sig
    registry.sign("team/app", image.digest, alice, CosignFault.WRONG_DIGEST)
    registry.attach("team/app", image, alice)                                        # bundle as a referrer
    Path("alice.pub").write_bytes(alice.public_pem)
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, cached_property
from typing import Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from storage.digest import Digest
from storage.records import Descriptor
from tests.simulator import images
from tests.simulator.images import Blob, Image, Json

SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE_ANNOTATION = "dev.cosignproject.cosign/signature"
SIGNATURE_TYPE = "cosign container image signature"
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SIGN_PREDICATE = "https://sigstore.dev/cosign/sign/v1"
STATEMENT_V1 = "https://in-toto.io/Statement/v1"
STATEMENT_V01 = "https://in-toto.io/Statement/v0.1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"

KeyKind = Literal["p256", "p384", "p521", "rsa2048", "rsa3072", "rsa4096", "ed25519"]
KEY_KINDS: tuple[KeyKind, ...] = ("p256", "p384", "p521", "rsa2048", "ed25519")
Private = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

_CURVES: dict[str, tuple[ec.EllipticCurve, hashes.HashAlgorithm]] = {
    "p256": (ec.SECP256R1(), hashes.SHA256()),
    "p384": (ec.SECP384R1(), hashes.SHA384()),
    "p521": (ec.SECP521R1(), hashes.SHA512()),
}
_SHA = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}


# -- keys ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Signer:
    """A managed key pair."""

    kind: KeyKind
    name: str
    private: Private

    @staticmethod
    @cache
    def of(kind: KeyKind = "p256", name: str = "release") -> Signer:
        """The pair with this name: RSA keys are made once per test run, others are the same in every run.

        So what a fuzzer keeps from one run to the next is signed by keys that are there in the next.
        """
        private: Private
        seed = hashlib.shake_256(f"{kind} {name}".encode())
        if kind == "ed25519":
            private = ed25519.Ed25519PrivateKey.from_private_bytes(seed.digest(32))
        elif kind.startswith("rsa"):
            private = rsa.generate_private_key(65537, int(kind[3:]))
        else:
            curve = _CURVES[kind][0]
            private = ec.derive_private_key(int.from_bytes(seed.digest(curve.key_size // 8 - 1), "big"), curve)
        return Signer(kind, name, private)

    @cached_property
    def public_pem(self) -> bytes:
        """The public key as PEM (SubjectPublicKeyInfo): what an operator's key file holds."""
        return self.private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    @cached_property
    def spki(self) -> bytes:
        """The public key as DER (SubjectPublicKeyInfo)."""
        return self.private.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)

    @property
    def fingerprint(self) -> str:
        """sha256 of the SPKI, hex."""
        return hashlib.sha256(self.spki).hexdigest()

    @property
    def hint(self) -> str:
        """How a bundle names this key: base64 of the sha256 of the SPKI."""
        return base64.b64encode(hashlib.sha256(self.spki).digest()).decode()

    def sign(
        self, message: bytes, digest: Literal["sha256", "sha384", "sha512", "native"] = "sha256", *, again: bool = False
    ) -> bytes:
        """Sign as cosign does: ECDSA and RSA PKCS#1 v1.5 over SHA-256 (or another hash), Ed25519 pure.

        Each time the same signature (RFC 6979); with ``again`` another one, where there are others.
        ``native`` is the hash that belongs to the curve (SHA-384 for P-384, SHA-512 for P-521, SHA-256 for RSA).
        """
        match self.private:
            case ed25519.Ed25519PrivateKey():
                return self.private.sign(message)
            case rsa.RSAPrivateKey():
                return self.private.sign(message, padding.PKCS1v15(), _SHA.get(digest, hashes.SHA256()))
            case _:
                algorithm = _CURVES[self.kind][1] if digest == "native" else _SHA[digest]
                return self.private.sign(message, ec.ECDSA(algorithm, deterministic_signing=not again))


def serial(*of: object) -> int:
    """A certificate's serial number, the same for the same certificate in every run."""
    return int.from_bytes(hashlib.sha256(repr(of).encode()).digest()[:19], "big") + 1


def certified(
    builder: x509.CertificateBuilder, by: Private, algorithm: hashes.SHA224 | hashes.SHA256 | hashes.SHA384
) -> x509.Certificate:
    """The certificate, signed in the one way that is the same in every run (but by RSA)."""
    if isinstance(by, ec.EllipticCurvePrivateKey):
        return builder.sign(by, algorithm, ecdsa_deterministic=True)
    return builder.sign(by, None if isinstance(by, ed25519.Ed25519PrivateKey) else algorithm)


# -- A. cosign v2 signatures ---------------------------------------------------------------------------------------


class CosignFault(StrEnum):
    """One thing that is wrong (or odd) about a cosign v2 signature."""

    WRONG_DIGEST = "wrong digest"  #: the payload, properly signed, claims another image
    UPPER_CASE_KEY = "upper-case key"  #: ``Docker-manifest-digest`` names the image, the lower-case key does not exist
    NO_DIGEST = "no digest"
    WRONG_TYPE = "wrong type"  #: ``critical.type`` is ``atomic container signature``
    NO_TYPE = "no type"
    OTHER_KEY = "other key"  #: signed by a key that nobody trusts
    CHANGED_PAYLOAD = "changed payload"  #: the signature is over other bytes
    BROKEN_SIGNATURE = "broken signature"  #: one bit of the signature flipped
    BROKEN_BASE64 = "broken base64"
    EMPTY_SIGNATURE = "empty signature"
    NO_ANNOTATION = "no annotation"
    BROKEN_JSON = "broken json"  #: properly signed bytes that are no JSON
    NOT_AN_OBJECT = "not an object"  #: a JSON list, properly signed
    DUPLICATE_KEYS = "duplicate keys"  #: the digest twice, the right one last
    NOT_UTF8 = "not utf-8"
    DEEP = "deeply nested"
    WRONG_MEDIA_TYPE = "wrong media type"  #: the layer says it is a tar
    ATTESTATION = "attestation"  #: a DSSE envelope where a signature belongs
    OVERSIZE = "oversize"  #: a payload of ``oversize`` bytes, properly signed
    NEWLINES = "newlines in base64"  #: odd, but good
    USER_ANNOTATIONS = "user annotations"  #: odd, but good


ODD_BUT_GOOD_COSIGN = frozenset({CosignFault.NEWLINES, CosignFault.USER_ANNOTATIONS})


@dataclass(frozen=True)
class CosignSignature:
    """One layer of a ``.sig`` manifest: the signed payload and the annotations beside it."""

    blob: Blob
    annotations: Mapping[str, str]


def signature_tag(digest: Digest) -> str:
    """``sha256-<hex>.sig``."""
    return f"{digest.algorithm}-{digest.hex}.sig"


def other_digest(digest: Digest) -> Digest:
    """A well-formed digest that is not ``digest``."""
    return Digest.of(f"not {digest}".encode(), digest.algorithm)


def simple_signing(digest: Digest, reference: str = "registry.test/repository", optional: Any = None) -> Json:
    """The payload's document (containers/image "simple signing")."""
    return {
        "critical": {
            "identity": {"docker-reference": reference},
            "image": {"docker-manifest-digest": str(digest)},
            "type": SIGNATURE_TYPE,
        },
        "optional": optional,
    }


def cosign_signature(
    signer: Signer,
    digest: Digest,
    *,
    fault: CosignFault | None = None,
    reference: str = "registry.test/repository",
    oversize: int = 1 << 20,
) -> CosignSignature:
    """A signature over ``digest``. ``reference`` is the docker-reference; ``oversize`` the size with that fault."""
    payload = _payload(digest, fault, reference, oversize)
    if fault is CosignFault.OTHER_KEY:
        signature = Signer.of(signer.kind, f"not {signer.name}").sign(payload)
    elif fault is CosignFault.CHANGED_PAYLOAD:
        signature = signer.sign(payload + b" ")
    elif fault is CosignFault.ATTESTATION:
        signature = b""
    else:
        signature = signer.sign(payload)
    text = _encoded(signature, fault)
    if fault is CosignFault.WRONG_MEDIA_TYPE:
        media_type = images.OCI_LAYER
    elif fault is CosignFault.ATTESTATION:
        media_type = "application/vnd.dsse.envelope.v1+json"
    else:
        media_type = SIMPLE_SIGNING
    annotations = {} if fault is CosignFault.NO_ANNOTATION else {SIGNATURE_ANNOTATION: text}
    return CosignSignature(Blob(media_type, payload), annotations)


def _payload(digest: Digest, fault: CosignFault | None, reference: str, oversize: int) -> bytes:
    document = simple_signing(digest, reference)
    image, critical = document["critical"]["image"], document["critical"]
    match fault:
        case CosignFault.WRONG_DIGEST:
            image["docker-manifest-digest"] = str(other_digest(digest))
        case CosignFault.UPPER_CASE_KEY:
            image["Docker-manifest-digest"] = image.pop("docker-manifest-digest")
        case CosignFault.NO_DIGEST:
            del image["docker-manifest-digest"]
        case CosignFault.WRONG_TYPE:
            critical["type"] = "atomic container signature"
        case CosignFault.NO_TYPE:
            del critical["type"]
        case CosignFault.USER_ANNOTATIONS:
            document["optional"] = {"creator": "cosign", "timestamp": 1735689600, "note": "grüß"}
        case CosignFault.OVERSIZE:
            document["optional"] = {"padding": "x" * oversize}
        case CosignFault.DEEP:
            return json.dumps(document)[:-1].encode() + b', "deep": ' + b"[" * 5000 + b"]" * 5000 + b"}"
        case CosignFault.BROKEN_JSON:
            return json.dumps(document).encode()[:-1]
        case CosignFault.NOT_AN_OBJECT:
            return json.dumps([document]).encode()
        case CosignFault.NOT_UTF8:
            return json.dumps(document).encode().replace(b"repository", b"reposit\xff\xfey")
        case CosignFault.DUPLICATE_KEYS:
            twice = f'{{"docker-manifest-digest": "{other_digest(digest)}", "docker-manifest-digest": "{digest}"}}'
            return json.dumps(document).replace(json.dumps(image), twice).encode()
        case CosignFault.ATTESTATION:
            statement = _statement(digest, SIGN_PREDICATE)
            return json.dumps({"payloadType": PAYLOAD_TYPE, "payload": _b64(statement), "signatures": []}).encode()
        case _:
            pass
    return json.dumps(document, separators=(",", ":")).encode()


def _encoded(signature: bytes, fault: CosignFault | None) -> str:
    text = _b64(signature)
    match fault:
        case CosignFault.BROKEN_SIGNATURE:
            return _b64(_flipped(signature))
        case CosignFault.BROKEN_BASE64:
            return "%%%" + text[3:]
        case CosignFault.EMPTY_SIGNATURE:
            return ""
        case CosignFault.NEWLINES:
            return "\n".join(text[start : start + 40] for start in range(0, len(text), 40)) + "\n"
        case _:
            return text


def _flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def signature_manifest(signatures: Sequence[CosignSignature], *, subject: Image | None = None) -> Image:
    """The image manifest that cosign v2 keeps under the signature tag.

    With a ``subject`` it is the OCI 1.1 variant of cosign's: a referrer of artifactType
    ``application/vnd.dev.cosign.artifact.sig.v1+json``.
    """
    diff_ids = [str(each.blob.digest) for each in signatures]
    config = Blob(
        images.OCI_CONFIG,
        images.encode({"architecture": "", "os": "", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}),
    )
    manifest: Json = {
        "schemaVersion": 2,
        "mediaType": images.OCI_MANIFEST,
        "config": config.entry(),
        "layers": [each.blob.entry(annotations=dict(each.annotations) or None) for each in signatures],
    }
    if subject is not None:
        manifest["artifactType"] = "application/vnd.dev.cosign.artifact.sig.v1+json"
        manifest["subject"] = subject.entry()
    return Image(images.OCI_MANIFEST, images.encode(manifest), (config, *(each.blob for each in signatures)))


def signatures_of(body: bytes, blobs: Mapping[Digest, bytes]) -> tuple[CosignSignature, ...]:
    """Take a ``.sig`` manifest apart again, to add to it."""
    return tuple(
        CosignSignature(Blob(each["mediaType"], blobs[Digest.parse(each["digest"])]), each.get("annotations", {}))
        for each in json.loads(body)["layers"]
    )


def many_signatures(signer: Signer, digest: Digest, count: int, good_at: int | None = None) -> Image:
    """A ``.sig`` manifest with ``count`` different signatures; all by another key but the one at ``good_at``."""
    signatures = [
        cosign_signature(
            signer,
            digest,
            fault=None if number == good_at else CosignFault.OTHER_KEY,
            reference=f"registry.test/repository-{number}",
        )
        for number in range(count)
    ]
    return signature_manifest(signatures)


def disguised_image(seed: str = "runnable") -> Image:
    """A runnable image that somebody puts under a ``.sig`` tag in the hope that the name alone lets it through."""
    return images.image(seed)


# -- C. Sigstore bundles -------------------------------------------------------------------------------------------


class BundleFault(StrEnum):
    """One thing that is wrong (or odd) about a Sigstore bundle in a referrer."""

    WRONG_DIGEST = "wrong digest"  #: the statement, properly signed, is about another image
    NO_SUBJECT = "no subject"
    WRONG_ALGORITHM = "wrong algorithm"  #: the subject gives the digest as sha512, the hex of the sha256
    OTHER_KEY = "other key"  #: signed by a key that nobody trusts, hint and all
    FALSE_HINT = "false hint"  #: signed by another key, but the hint names the trusted one
    WRONG_PREDICATE = "wrong predicate"  #: an attestation by the right key: no signature
    WRONG_STATEMENT = "wrong statement type"
    WRONG_PAYLOAD_TYPE = "wrong payload type"  #: properly signed, but it says text/plain
    NO_PAE = "no pae"  #: the signature is over the bare payload
    CHANGED_PAYLOAD = "changed payload"
    BROKEN_SIGNATURE = "broken signature"
    BROKEN_BASE64 = "broken base64"
    NO_SIGNATURES = "no signatures"
    TWO_SIGNATURES = "two signatures"  #: specification: exactly one
    BROKEN_JSON = "broken json"
    DUPLICATE_KEYS = "duplicate keys"  #: two ``payload`` members, the right one last
    DEEP = "deeply nested"
    NO_CONTENT = "no content"  #: neither envelope nor message signature
    NO_MATERIAL = "no verification material"
    WRONG_MEDIA_TYPE = "wrong bundle media type"  #: the JSON's own mediaType
    WRONG_LAYER_TYPE = "wrong layer media type"
    TWO_LAYERS = "two layers"
    OTHER_SUBJECT = "other subject"  #: the manifest refers to another image; listed all the same
    NO_MANIFEST_SUBJECT = "no manifest subject"
    MANY_SUBJECTS = "many subjects"  #: 1025 of them
    OVERSIZE = "oversize"  #: a bundle above ``oversize`` bytes
    EMPTY_ARTIFACT_TYPE = "empty artifact type"  #: odd, but good: older writers
    ANNOTATED = "annotated"  #: odd, but good: user annotations on the subject
    NATIVE_HASH = "native hash"  #: odd, but good: signed over the curve's own hash
    NO_HINT = "no hint"  #: odd, but good: the public key is not named


ODD_BUT_GOOD_BUNDLES = frozenset(
    {BundleFault.EMPTY_ARTIFACT_TYPE, BundleFault.ANNOTATED, BundleFault.NATIVE_HASH, BundleFault.NO_HINT}
)


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is really signed."""
    return b"DSSEv1 %d %b %d %b" % (len(payload_type), payload_type.encode(), len(payload), payload)


def _statement(digest: Digest, predicate: str, fault: BundleFault | None = None, body: Any = None) -> bytes:
    subject: Json = {"digest": {digest.algorithm: digest.hex}}
    document: Json = {"_type": STATEMENT_V1, "subject": [subject], "predicateType": predicate, "predicate": body or {}}
    match fault:
        case BundleFault.WRONG_DIGEST:
            subject["digest"] = {digest.algorithm: other_digest(digest).hex}
        case BundleFault.WRONG_ALGORITHM:
            subject["digest"] = {"sha512" if digest.algorithm == "sha256" else "sha256": digest.hex}
        case BundleFault.NO_SUBJECT:
            document["subject"] = []
        case BundleFault.MANY_SUBJECTS:
            document["subject"] = [{"digest": {"sha256": f"{number:064x}"}} for number in range(1024)] + [subject]
        case BundleFault.ANNOTATED:
            subject["annotations"] = {"build": "42"}
        case BundleFault.WRONG_PREDICATE:
            document["predicateType"] = "https://slsa.dev/provenance/v1"
        case BundleFault.WRONG_STATEMENT:
            document["_type"] = "https://in-toto.io/Statement/v9"
        case _:
            pass
    return json.dumps(document, separators=(",", ":")).encode()


def bundle(
    signer: Signer,
    digest: Digest,
    *,
    fault: BundleFault | None = None,
    predicate: str = SIGN_PREDICATE,
    predicate_body: Any = None,
    oversize: int = 1 << 20,
) -> bytes:
    """A bundle v0.3 with a DSSE envelope by a managed key, as ``cosign sign --key`` writes it (without log entries)."""
    payload = _statement(digest, predicate, fault, predicate_body)
    payload_type = "text/plain" if fault is BundleFault.WRONG_PAYLOAD_TYPE else PAYLOAD_TYPE
    by = Signer.of(signer.kind, f"not {signer.name}") if fault in (BundleFault.OTHER_KEY, BundleFault.FALSE_HINT) else signer
    message = payload if fault is BundleFault.NO_PAE else pae(payload_type, payload)
    signature = by.sign(message, "native" if fault is BundleFault.NATIVE_HASH else "sha256")
    text = _b64(_flipped(signature) if fault is BundleFault.BROKEN_SIGNATURE else signature)
    if fault is BundleFault.BROKEN_BASE64:
        text = "%%%" + text[3:]
    if fault is BundleFault.CHANGED_PAYLOAD:
        payload = payload.replace(b'"predicate":', b'"changed":true,"predicate":')
    signatures = [{"sig": text, "keyid": ""}]
    if fault is BundleFault.NO_SIGNATURES:
        signatures = []
    if fault is BundleFault.TWO_SIGNATURES:
        signatures *= 2
    hint = (signer if fault is BundleFault.FALSE_HINT else by).hint
    document: Json = {
        "mediaType": "application/vnd.example+json" if fault is BundleFault.WRONG_MEDIA_TYPE else BUNDLE_TYPE,
        "verificationMaterial": {"publicKey": {} if fault is BundleFault.NO_HINT else {"hint": hint}, "tlogEntries": []},
        "dsseEnvelope": {"payload": _b64(payload), "payloadType": payload_type, "signatures": signatures},
    }
    if fault is BundleFault.NO_CONTENT:
        del document["dsseEnvelope"]
    if fault is BundleFault.NO_MATERIAL:
        del document["verificationMaterial"]
    body = json.dumps(document, separators=(",", ":"))
    match fault:
        case BundleFault.BROKEN_JSON:
            body = body[:-1]
        case BundleFault.DUPLICATE_KEYS:
            other = _b64(_statement(other_digest(digest), predicate))
            body = body.replace('{"payload":', f'{{"payload":"{other}","payload":')
        case BundleFault.DEEP:
            body = body[:-1] + ',"deep":' + "[" * 5000 + "]" * 5000 + "}"
        case BundleFault.OVERSIZE:
            body += " " * oversize
        case _:
            pass
    return body.encode()


def message_bundle(signer: Signer, manifest: bytes, *, fault: BundleFault | None = None) -> bytes:
    """A bundle v0.3 with a message signature over the manifest's bytes.

    Faults: OTHER_KEY, BROKEN_SIGNATURE, CHANGED_PAYLOAD (over other bytes), WRONG_DIGEST (``messageDigest`` is another's).
    """
    by = Signer.of(signer.kind, f"not {signer.name}") if fault is BundleFault.OTHER_KEY else signer
    signature = by.sign(manifest + b" " if fault is BundleFault.CHANGED_PAYLOAD else manifest)
    if fault is BundleFault.BROKEN_SIGNATURE:
        signature = _flipped(signature)
    digest = hashlib.sha256(b"another" if fault is BundleFault.WRONG_DIGEST else manifest).digest()
    document = {
        "mediaType": BUNDLE_TYPE,
        "verificationMaterial": {"publicKey": {"hint": by.hint}, "tlogEntries": []},
        "messageSignature": {
            "messageDigest": {"algorithm": "SHA2_256", "digest": _b64(digest)},
            "signature": _b64(signature),
        },
    }
    return json.dumps(document, separators=(",", ":")).encode()


def bundle_manifest(body: bytes, image: Image, *, fault: BundleFault | None = None, predicate: str = SIGN_PREDICATE) -> Image:
    """The referrer that carries a bundle: empty config, one layer, subject, cosign's annotations."""
    layer_type = images.OCI_LAYER if fault is BundleFault.WRONG_LAYER_TYPE else BUNDLE_TYPE
    layers: list[tuple[Blob, None]] = [(Blob(layer_type, body), None)]
    if fault is BundleFault.TWO_LAYERS:
        layers.append((Blob(layer_type, body + b" "), None))
    subject: Descriptor | None = image.descriptor
    if fault is BundleFault.OTHER_SUBJECT:
        subject = Descriptor(image.media_type, other_digest(image.digest), len(image.body))
    elif fault is BundleFault.NO_MANIFEST_SUBJECT:
        subject = None
    return images.artifact(
        images.OCI_EMPTY if fault is BundleFault.EMPTY_ARTIFACT_TYPE else BUNDLE_TYPE,
        layers,
        subject=subject,
        annotations={
            "dev.sigstore.bundle.content": "dsse-envelope",
            "dev.sigstore.bundle.predicateType": predicate,
            "org.opencontainers.image.created": "2026-01-01T00:00:00Z",
        },
    )


def bundle_referrer(
    signer: Signer,
    image: Image,
    *,
    fault: BundleFault | None = None,
    predicate: str = SIGN_PREDICATE,
    predicate_body: Any = None,
    oversize: int = 1 << 20,
) -> Image:
    """:func:`bundle` inside :func:`bundle_manifest`: what ``cosign sign`` v3 pushes for ``image``."""
    body = bundle(signer, image.digest, fault=fault, predicate=predicate, predicate_body=predicate_body, oversize=oversize)
    return bundle_manifest(body, image, fault=fault, predicate=predicate)
