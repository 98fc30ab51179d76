"""Evidence by keyless and managed keys: Sigstore bundles v0.1 – v0.3, cosign v2 signatures and attestations.

Everything is made by one order of work (:meth:`SigningSide.sign`): issue the certificate, sign, log, stamp. Where a fault changes
what comes out of one step, the later steps work on what came out, so that nothing else is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from cryptography.hazmat.primitives import serialization

from storage.digest import Digest
from tests.simulator import signing
from tests.simulator.images import Blob, Image, Json
from tests.simulator.signing import PAYLOAD_TYPE, SIGN_PREDICATE, STATEMENT_V01, STATEMENT_V1, CosignSignature, KeyKind, Signer
from tests.simulator.sigstore.ca import CertificateAuthority, Leaf, SanKind, broken
from tests.simulator.sigstore.faults import Fault
from tests.simulator.sigstore.rekor import Deed, Entry, EntryKind, RekorV1, RekorV2, V1Kind, V2Kind, b64, sha256
from tests.simulator.sigstore.tsa import TimestampAuthority

DSSE_LAYER = "application/vnd.dsse.envelope.v1+json"
CERTIFICATE_ANNOTATION = "dev.sigstore.cosign/certificate"
CHAIN_ANNOTATION = "dev.sigstore.cosign/chain"
LOG_ANNOTATION = "dev.sigstore.cosign/bundle"
TIMESTAMP_ANNOTATION = "dev.sigstore.cosign/rfc3161timestamp"

BundleVersion = Literal["0.1", "0.2", "0.3"]
_MEDIA_TYPES: Mapping[BundleVersion, str] = {
    "0.1": "application/vnd.dev.sigstore.bundle+json;version=0.1",
    "0.2": "application/vnd.dev.sigstore.bundle+json;version=0.2",
    "0.3": signing.BUNDLE_TYPE,
}
_HASHES: Mapping[str, Literal["sha256", "sha384", "sha512"]] = {"p384": "sha384", "p521": "sha512"}


@dataclass(frozen=True)
class Signing:
    """How something is signed."""

    identity: str = "release@example.test"
    san: SanKind = "email"
    issuer: str = "https://issuer.example.test"
    claims: Mapping[str, str] = field(
        default_factory=dict
    )  #: further claims by name (:data:`tests.simulator.sigstore.ca.CLAIMS`)
    key: KeyKind = "p256"  #: kind of the leaf's key
    managed: Signer | None = None  #: a managed key: no certificate
    native_hash: bool = False  #: the curve's own hash instead of SHA-256
    rekor: Literal[1, 2] | None = 1  #: which log it is entered in
    kind: EntryKind | None = None  #: of the log entry; None: what cosign and sigstore use for the content
    timestamps: int | None = None  #: how many; None: one where the log gives no time
    tree: tuple[int, int] = (1, 2)  #: index and size in the log
    version: BundleVersion = "0.3"

    @property
    def hashed(self) -> Literal["sha256", "sha384", "sha512"]:
        """By which hash the message is signed."""
        kind = self.managed.kind if self.managed is not None else self.key
        return _HASHES.get(kind, "sha256") if self.native_hash else "sha256"


@dataclass(frozen=True)
class Act:
    """What an act of signing left behind."""

    signature: bytes
    key: Signer
    leaf: Leaf | None
    entries: tuple[Entry, ...]
    timestamps: tuple[bytes, ...]
    envelope: bytes | None


def statement(
    digest: Digest,
    predicate_type: str = SIGN_PREDICATE,
    predicate: object = None,
    *,
    name: str | None = "registry.test/team/app",
    version: Literal["v0.1", "v1"] = "v1",
    fault: Fault | None = None,
) -> bytes:
    """An in-toto statement about ``digest``; ``name`` is the subject's."""
    subject: Json = {} if name is None or fault == "subject without name" else {"name": name}
    subject["digest"] = {digest.algorithm: digest.hex}
    kind = STATEMENT_V01 if version == "v0.1" or fault == "statement v0.1" else STATEMENT_V1
    body: object = {} if predicate is None else predicate
    subjects = [subject]
    match fault:
        case "statement for another digest":
            subject["digest"] = {digest.algorithm: signing.other_digest(digest).hex}
        case "statement with upper-case digest":
            subject["digest"] = {digest.algorithm: digest.hex.upper()}
        case "statement without subject":
            subjects = []
        case "1025 subjects" | "1024 subjects":
            others = int(fault[:4]) - 1
            subjects = [{"name": f"{number}", "digest": {"sha256": f"{number:064x}"}} for number in range(others)] + [subject]
        case "statement of another type":
            kind = "https://in-toto.io/Statement/v9"
        case "predicate as text":
            body = json.dumps(body)
        case _:
            pass
    document = {"_type": kind, "subject": subjects, "predicateType": predicate_type, "predicate": body}
    return json.dumps(document, separators=(",", ":")).encode()


def envelope_json(payload: bytes, payload_type: str, signatures: Sequence[bytes]) -> bytes:
    """A DSSE envelope."""
    listed = [{"keyid": "", "sig": b64(each)} for each in signatures]
    return json.dumps(
        {"payloadType": payload_type, "payload": b64(payload), "signatures": listed}, separators=(",", ":")
    ).encode()


def attestation_tag(digest: Digest) -> str:
    """``sha256-<hex>.att``."""
    return f"{digest.algorithm}-{digest.hex}.att"


def layers_image(layers: Sequence[CosignSignature], *, subject: Image | None = None) -> Image:
    """The manifest that cosign v2 keeps signatures or attestations in, under their tag."""
    return signing.signature_manifest(layers, subject=subject)


class SigningSide:
    """The services that a signer meets, and what the signer's tools write with their answers."""

    def __init__(
        self,
        name: str,
        authority: CertificateAuthority,
        rekor_v1: RekorV1,
        rekor_v2: RekorV2,
        timestamps: TimestampAuthority,
        now: datetime,
        usual: Signing,
    ) -> None:
        self.name = name
        self.authority = authority
        self.rekor_v1 = rekor_v1
        self.rekor_v2 = rekor_v2
        self.timestamp_authority = timestamps
        self._now = now.replace(microsecond=0)
        self.usual = usual  #: how things are signed where the caller does not say
        self._signers: dict[tuple[KeyKind, str], Signer] = {}

    @property
    def now(self) -> datetime:
        """The time of signing, by every clock here; whole seconds."""
        return self._now

    @now.setter
    def now(self, moment: datetime) -> None:
        self._now = moment.replace(microsecond=0)

    def signer(self, kind: KeyKind, name: str = "leaf") -> Signer:
        """The key of a leaf, the same each time."""
        found = self._signers.get((kind, name))
        if found is None:
            found = self._signers[kind, name] = Signer.of(kind, f"{self.name} {name}")
        return found

    def leaf(self, how: Signing | None = None, *, key: Signer | None = None, fault: Fault | None = None) -> Leaf:
        """A certificate, issued now."""
        how = how or self.usual
        key = key or self.signer(how.key)
        return self.authority.issue(
            key, identity=how.identity, san=how.san, issuer=how.issuer, claims=how.claims, at=self.now, fault=fault
        )

    # -- one act of signing ----------------------------------------------------------------------------------------

    def sign(
        self,
        message: bytes,
        how: Signing,
        *,
        payload: bytes | None = None,
        payload_type: str = "",
        stamp_envelope: bool = False,
        fault: Fault | None = None,
    ) -> Act:
        """Certificate, signature, log, timestamps. With a ``payload`` it is an envelope's, and ``message`` its PAE.

        ``stamp_envelope``: timestamps are over the whole envelope instead of the signature.
        """
        key = how.managed or self.signer(how.key)
        leaf = None if how.managed is not None else self.leaf(how, key=key, fault=fault)
        signature = self._signature(message, key, how, fault)

        def deed(signature: bytes, message: bytes, payload: bytes | None, verifier: Leaf | Signer) -> Deed:
            envelope = None if payload is None else envelope_json(payload, payload_type, self._signatures(signature, fault))
            by = verifier.certificate if isinstance(verifier, Leaf) else verifier
            return Deed(signature, message, by, how.hashed, payload, payload_type, envelope)

        done = deed(signature, message, payload, leaf or key)
        swapped: Deed | None = None
        match fault:
            case "entry of another signature":
                again = key.sign(message, how.hashed, again=True)
                swapped = deed(again if again != signature else broken(again), message, payload, leaf or key)
            case "entry of another key":
                other = self.signer(key.kind, "another leaf")
                swapped = deed(signature, message, payload, other if leaf is None else self.leaf(how, key=other))
            case "swapped entry":
                changed = None if payload is None else payload + b" "
                instead = message + b" " if changed is None else signing.pae(payload_type, changed)
                swapped = deed(key.sign(instead, how.hashed), instead, changed, leaf or key)
            case _:
                pass
        entries = self._entries(done, swapped, how, fault)
        stamped = done.envelope if stamp_envelope and done.envelope is not None else signature
        return Act(signature, key, leaf, entries, self._timestamps(stamped, how, fault), done.envelope)

    def _signature(self, message: bytes, key: Signer, how: Signing, fault: Fault | None) -> bytes:
        if fault == "signature by another key":
            key = self.signer(key.kind, "another leaf")
        if fault == "signature over other bytes":
            message += b" "
        signature = key.sign(message, how.hashed)
        return broken(signature) if fault == "signature broken" else signature

    def _signatures(self, signature: bytes, fault: Fault | None) -> list[bytes]:
        match fault:
            case "two DSSE signatures":
                return [signature, signature]
            case "no DSSE signature":
                return []
            case _:
                return [signature]

    def _entries(self, deed: Deed, swapped: Deed | None, how: Signing, fault: Fault | None) -> tuple[Entry, ...]:
        if how.rekor is None or fault == "no log entry":
            return ()
        if fault == "33 log entries":
            return tuple(self._entry(deed, swapped, how, each, 64, fault) for each in range(33))
        entry = self._entry(deed, swapped, how, *how.tree, fault)
        return (entry, entry) if fault == "duplicate log entry" else (entry,)

    def _entry(self, deed: Deed, swapped: Deed | None, how: Signing, index: int, size: int, fault: Fault | None) -> Entry:
        if how.rekor == 1:
            usual: V1Kind = "hashedrekord 0.0.1" if deed.payload is None else "dsse 0.0.1"
            v1 = next((kind for kind in self.rekor_v1.kinds if kind == how.kind), usual)
            return self.rekor_v1.enter(deed, v1, self.now, index=index, size=size, swapped=swapped, fault=fault)
        v2: V2Kind = next((kind for kind in self.rekor_v2.kinds if kind == how.kind), "hashedrekord 0.0.2")
        return self.rekor_v2.enter(deed, v2, self.now, index=index, size=size, swapped=swapped, fault=fault)

    def _timestamps(self, stamped: bytes, how: Signing, fault: Fault | None) -> tuple[bytes, ...]:
        count = how.timestamps if how.timestamps is not None else int(how.rekor != 1)
        match fault:
            case "no timestamp":
                count = 0
            case "33 timestamps":
                count = 33
            case _:
                pass
        authority = self.timestamp_authority
        made = tuple(authority.response(stamped, self.now, serial=1 + each, fault=fault) for each in range(count))
        return (*made, *made) if fault == "duplicate timestamp" else made

    # -- bundles ---------------------------------------------------------------------------------------------------

    def message_bundle(self, message: bytes, how: Signing | None = None, *, fault: Fault | None = None) -> bytes:
        """A bundle with a message signature over ``message``."""
        how = how or self.usual
        act = self.sign(message, how, fault=fault)
        named = message + b" " if fault == "message digest of another" else message
        content = {"messageDigest": {"algorithm": "SHA2_256", "digest": b64(sha256(named))}, "signature": b64(act.signature)}
        return self._bundle(act, how, {"messageSignature": content}, fault)

    def dsse_bundle(
        self, payload: bytes, how: Signing | None = None, *, payload_type: str = PAYLOAD_TYPE, fault: Fault | None = None
    ) -> bytes:
        """A bundle with a DSSE envelope around ``payload`` (:func:`statement`)."""
        how = how or self.usual
        act, payload = self._enveloped(payload, payload_type, how, fault, stamp_envelope=False)
        assert act.envelope is not None
        content = json.loads(act.envelope)
        content["payload"] = b64(payload)
        return self._bundle(act, how, {"dsseEnvelope": content}, fault)

    def _enveloped(
        self, payload: bytes, payload_type: str, how: Signing, fault: Fault | None, *, stamp_envelope: bool
    ) -> tuple[Act, bytes]:
        """Sign an envelope; also the payload that goes into it."""
        if fault == "another payload type":
            payload_type = "text/plain"
        message = payload if fault == "no PAE" else signing.pae(payload_type, payload)
        act = self.sign(message, how, payload=payload, payload_type=payload_type, stamp_envelope=stamp_envelope, fault=fault)
        return act, payload.replace(b'"predicate":', b'"changed":true,"predicate":') if fault == "payload changed" else payload

    def _bundle(self, act: Act, how: Signing, content: Json, fault: Fault | None) -> bytes:
        material: Json = {}
        if fault == "no certificate":
            pass
        elif act.leaf is None:
            material["publicKey"] = {"hint": act.key.hint}
        elif how.version == "0.3":
            material["certificate"] = {"rawBytes": b64(act.leaf.der)}
        else:
            chain = [act.leaf.certificate, *act.leaf.offered]
            encoded = [{"rawBytes": b64(each.public_bytes(serialization.Encoding.DER))} for each in chain]
            material["x509CertificateChain"] = {"certificates": encoded}
        material["tlogEntries"] = [entry.of_bundle() for entry in act.entries]
        if act.timestamps:
            stamps = [{"signedTimestamp": b64(each)} for each in act.timestamps]
            material["timestampVerificationData"] = {"rfc3161Timestamps": stamps}
        media_type = _MEDIA_TYPES[how.version]
        if fault == "bundle of another version":
            media_type = media_type.replace(how.version, "0.9")
        document = {"mediaType": media_type, "verificationMaterial": material, **content}
        return json.dumps(document, separators=(",", ":")).encode()

    def signature_bundle(self, digest: Digest, how: Signing | None = None, *, fault: Fault | None = None) -> bytes:
        """What ``cosign sign`` v3 makes for an image: an envelope whose statement is of type ``sign/v1``."""
        return self.dsse_bundle(statement(digest, name=None, fault=fault), how, fault=fault)

    def attestation_bundle(
        self, digest: Digest, predicate_type: str, predicate: Any, how: Signing | None = None, *, fault: Fault | None = None
    ) -> bytes:
        """What ``cosign attest`` v3 makes for an image."""
        return self.dsse_bundle(statement(digest, predicate_type, predicate, fault=fault), how, fault=fault)

    def signature_referrer(self, image: Image, how: Signing | None = None, *, fault: Fault | None = None) -> Image:
        """:meth:`signature_bundle` as a referrer: ``registry.refer(repository, …)``."""
        return signing.bundle_manifest(self.signature_bundle(image.digest, how, fault=fault), image)

    def attestation_referrer(
        self, image: Image, predicate_type: str, predicate: Any, how: Signing | None = None, *, fault: Fault | None = None
    ) -> Image:
        """:meth:`attestation_bundle` as a referrer."""
        body = self.attestation_bundle(image.digest, predicate_type, predicate, how, fault=fault)
        return signing.bundle_manifest(body, image, predicate=predicate_type)

    def message_referrer(self, image: Image, how: Signing | None = None, *, fault: Fault | None = None) -> Image:
        """A bundle with a message signature over the image's manifest, as a referrer."""
        return signing.bundle_manifest(self.message_bundle(image.body, how, fault=fault), image)

    # -- cosign v2 -------------------------------------------------------------------------------------------------

    def cosign_signature(
        self,
        digest: Digest,
        how: Signing | None = None,
        *,
        reference: str = "registry.test/team/app",
        fault: Fault | None = None,
    ) -> CosignSignature:
        """A layer of a ``.sig`` manifest: the payload, and annotations with signature, certificate, chain, entry, timestamp."""
        how = how or self.usual
        document = signing.simple_signing(
            signing.other_digest(digest) if fault == "payload of another digest" else digest, reference
        )
        if fault == "payload of another type":
            document["critical"]["type"] = "atomic container signature"
        payload = json.dumps(document, separators=(",", ":")).encode()
        act = self.sign(payload, how, fault=fault)
        text = b64(act.signature)
        if fault == "newlines in base64":
            text = "\n".join(text[start : start + 40] for start in range(0, len(text), 40)) + "\n"
        notes = {signing.SIGNATURE_ANNOTATION: text, **self._notes(act, fault)}
        return CosignSignature(Blob(signing.SIMPLE_SIGNING, payload), notes)

    def cosign_attestation(
        self,
        digest: Digest,
        predicate_type: str,
        predicate: Any,
        how: Signing | None = None,
        *,
        fault: Fault | None = None,
    ) -> CosignSignature:
        """A layer of an ``.att`` manifest: an envelope around a statement (v0.1), timestamps over the whole of it."""
        how = how or self.usual
        payload = statement(digest, predicate_type, predicate, version="v0.1", fault=fault)
        act, told = self._enveloped(payload, PAYLOAD_TYPE, how, fault, stamp_envelope=True)
        envelope = act.envelope
        assert envelope is not None
        if told != payload:
            envelope = json.dumps({**json.loads(envelope), "payload": b64(told)}, separators=(",", ":")).encode()
        notes = {signing.SIGNATURE_ANNOTATION: "", "predicateType": predicate_type, **self._notes(act, fault)}
        return CosignSignature(Blob(DSSE_LAYER, envelope), notes)

    def _notes(self, act: Act, fault: Fault | None) -> dict[str, str]:
        notes: dict[str, str] = {}
        if act.leaf is not None and fault != "no certificate":
            notes[CERTIFICATE_ANNOTATION] = act.leaf.pem.decode()
            notes[CHAIN_ANNOTATION] = act.leaf.chain_pem.decode()
        if act.entries:
            if act.entries[0].integrated is None:
                raise ValueError("cosign v2 holds entries of Rekor v1 only")
            notes[LOG_ANNOTATION] = json.dumps(act.entries[0].of_cosign(), separators=(",", ":"))
        if act.timestamps:
            notes[TIMESTAMP_ANNOTATION] = json.dumps({"SignedRFC3161Timestamp": b64(act.timestamps[0])})
        return notes

    def signature_image(self, digest: Digest, how: Signing | None = None, *, fault: Fault | None = None) -> Image:
        """A ``.sig`` manifest with one signature: ``registry.add(repository, …, signing.signature_tag(digest))``."""
        return layers_image([self.cosign_signature(digest, how, fault=fault)])

    def attestation_image(
        self, digest: Digest, predicate_type: str, predicate: Any, how: Signing | None = None, *, fault: Fault | None = None
    ) -> Image:
        """An ``.att`` manifest with one attestation: ``registry.add(repository, …, attestation_tag(digest))``."""
        return layers_image([self.cosign_attestation(digest, predicate_type, predicate, how, fault=fault)])
