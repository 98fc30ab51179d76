"""Notary Project signatures (notation): JWS and COSE envelopes judged by a trust store.

A referrer of ``artifactType``, or legacy config, ``application/vnd.cncf.notary.signature``, with exactly one layer: the envelope.
The annotation with thumbprints is a hint, and nothing depends on it. The steps (specifications "Signature", "Signing Scheme",
"Trust Store and Trust Policy" of the Notary Project):

1. The layer is the manifest's only one; its digest and size are those of its descriptor.
2. The envelope is read strictly: flattened JWS, or tagged COSE_Sign1.
3. Its attributes: the payload's type is the known one; ``crit`` holds the signing scheme and what else is critical; every
   critical attribute is known; no verification plugin is asked for, since what it would check nobody checks here.
4. The algorithm is the one that the signer's key demands: PS256/384/512 for RSA of 2048/3072/4096 bits, ES256/384/512 for the
   curves P-256/384/521.
5. The signature holds over protected attributes and payload.
6. The chain is complete, in order, ends in a root, and each certificate is what its place demands. A self-signed signer is a
   chain of its own.
7. The store holds a certificate of the chain.
8. The signer's subject is one of the store's identities, where it names any.
9. The signature's own expiry has not come.
10. Time. Scheme ``notary.x509``: the whole chain holds now, or did at a timestamp over the signature by an authority of the
    store, the timestamp's accuracy included. Scheme ``notary.x509.signingAuthority``: it held at the authentic signing time,
    which only such authorities are believed about as the store lists for that; from anybody else it must hold now as well.
11. The payload's target is the image: digest, size and media type.
12. Revocation (:mod:`proxy.verify.revocation`), as the store wants it: of the chain, and of the timestamp's where the answer
    leans on that. Nothing is asked here: answers come with the document, and :meth:`NotationSignatures.needs` says which.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.x509.oid import ExtendedKeyUsageOID

from proxy.errors import EvidenceMalformed
from proxy.manifest import Entry, Manifest
from proxy.policy.rules import Question, SignatureBy, Store
from proxy.policy.verdicts import Evidence
from proxy.settings import Limits
from proxy.verify import chains
from proxy.verify.certificates import check_critical
from proxy.verify.chains import foreign
from proxy.verify.envelopes import (
    AUTHENTIC_TIME,
    COSE,
    EXPIRY,
    JOSE,
    PAYLOAD_TYPE,
    PLUGIN,
    SCHEME,
    SIGNING_TIME,
    Envelope,
    read_cose,
    read_jws,
)
from proxy.verify.model import Document, Subject, Trusted
from proxy.verify.notation_store import NotationStore, Revocation
from proxy.verify.notation_validity import Held, Unanswered, check_revocation, check_time
from proxy.verify.parsing import member, read_object, shown, text, utc
from proxy.verify.revocation import LookUp, Query

__all__ = ["NotationSignatures", "NotationStore"]

ARTIFACT_TYPE = "application/vnd.cncf.notary.signature"
_X509, _SIGNING_AUTHORITY = "notary.x509", "notary.x509.signingAuthority"
_RSA_ALGORITHMS = {2048: "PS256", 3072: "PS384", 4096: "PS512"}
_EC_ALGORITHMS = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_HASHES: Mapping[str, hashes.HashAlgorithm] = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
_OTHER_PURPOSES = (  # beside which signing code counts for nothing
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
    ExtendedKeyUsageOID.SERVER_AUTH,
    ExtendedKeyUsageOID.CLIENT_AUTH,
    ExtendedKeyUsageOID.EMAIL_PROTECTION,
    ExtendedKeyUsageOID.TIME_STAMPING,
    ExtendedKeyUsageOID.OCSP_SIGNING,
)


class NotationSignatures:
    """Judges Notary Project signatures."""

    name = "notation signature"

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def wants(self, manifest: Manifest, layer: Entry, questions: Sequence[Question]) -> int | None:
        """The one layer of a notation manifest, up to the size of one signature."""
        if not any(isinstance(question.by, Store) for question in questions):
            return None
        fits = _is_notation(manifest) and len(manifest.layers) == 1 and layer.descriptor.media_type in {JOSE, COSE}
        return self._limits.signature_size if fits else None

    def judges(self, document: Document) -> bool:
        """Whether the document is a notation manifest."""
        return _is_notation(document.parsed)

    def judge(
        self, document: Document, subject: Subject, questions: Sequence[Question], trusted: Trusted, now: datetime
    ) -> tuple[Evidence, ...]:
        """Judge the envelope for each trust store that is asked about."""
        return self._judged(document, subject, questions, trusted, now, {})

    def needs(
        self, document: Document, subject: Subject, questions: Sequence[Question], trusted: Trusted, now: datetime
    ) -> Mapping[Query, bool]:
        """What must be asked about the certificates of a signature that holds in every other way."""
        stores = (trusted.stores.get(question.by.name) for question in questions if isinstance(question.by, Store))
        missing: dict[Query, bool] = {}
        if any(store is not None and store.revocation is not Revocation.SKIP for store in stores):
            self._judged(document, subject, questions, trusted, now, missing)
        return missing

    def _judged(
        self,
        document: Document,
        subject: Subject,
        questions: Sequence[Question],
        trusted: Trusted,
        now: datetime,
        missing: dict[Query, bool],
    ) -> tuple[Evidence, ...]:
        """``missing`` collects what would have to be asked to say more."""
        source = document.source(subject.digest)
        steps: list[str] = []
        try:
            signed = self._read(document, steps)
        except EvidenceMalformed as error:
            return (Evidence(self.name, source, None, None, accepted=False, reason=str(error), steps=tuple(steps)),)
        found: list[Evidence] = []
        for question in questions:
            if isinstance(question, SignatureBy) and isinstance(question.by, Store) and question.by.name in trusted.stores:
                store = trusted.stores[question.by.name]
                look_up = LookUp(document.answers, now, store.allow_private, missing, store.revocation is Revocation.ENFORCE)
                found.append(self._judge(source, signed, subject, question, store, look_up, list(steps)))
        return tuple(found)

    def _read(self, document: Document, steps: list[str]) -> _Signed:
        """Steps 1 to 6: what does not depend on whom a store trusts."""
        if len(document.parsed.layers) != 1 or len(document.layers) != 1:
            raise EvidenceMalformed(f"has {len(document.parsed.layers)} layers in its manifest; an envelope stands alone")
        descriptor, _, body = document.layers[0]
        if len(body) > self._limits.signature_size:
            raise EvidenceMalformed(f"has {len(body)} bytes; the limit for a signature is {self._limits.signature_size}")
        if len(body) != descriptor.size or not descriptor.digest.matches(body):
            raise EvidenceMalformed("is broken: the envelope is not what its manifest names")
        steps.append(f"the envelope is {descriptor.digest.short}, as its manifest says")
        match descriptor.media_type:
            case "application/jose+json":
                envelope = read_jws(body, self._limits.json_depth)
            case "application/cose":
                envelope = read_cose(body)
            case other:
                raise EvidenceMalformed(f"is of type {shown(other)!r}, neither {JOSE} nor {COSE}")
        steps.append(
            f"it is a {'JWS' if descriptor.media_type == JOSE else 'COSE_Sign1'} with {len(envelope.chain)} certificates"
        )
        _check_attributes(envelope)
        steps.append(f"its signing scheme is {envelope.scheme}; critical are {', '.join(map(shown, envelope.critical))}")
        if not envelope.chain:
            raise EvidenceMalformed("has no certificates")
        leaf = chains.load(envelope.chain[0], "a certificate")
        _check_algorithm(envelope, leaf)
        steps.append(f"it is made by {envelope.algorithm}, as the key demands")
        _check_signature(envelope, leaf)
        steps.append("the signature holds")
        chain = (leaf, *(chains.load(der, "a certificate") for der in envelope.chain[1:]))
        _check_chain(chain)
        steps.append(f"the signer is {chains.named(leaf)}; the chain of {len(chain)} ends in {chains.named(chain[-1])}")
        return _Signed(envelope, chain)

    def _judge(
        self,
        source: str,
        signed: _Signed,
        subject: Subject,
        question: SignatureBy,
        store: NotationStore,
        look_up: LookUp,
        steps: list[str],
    ) -> Evidence:
        """Steps 7 to 12, for one store."""
        try:
            held = self._check(signed, subject, question, store, look_up.now, steps)
            warnings = check_revocation(signed.envelope, signed.chain, store, held, look_up, steps)
        except EvidenceMalformed as error:
            return Evidence(
                self.name,
                source,
                question,
                signed.authority,
                accepted=False,
                reason=str(error),
                steps=tuple(steps),
                undecided=isinstance(error, Unanswered),
            )
        reason = f"signature by {signed.signer} of notation store {store.name} over {subject.digest}"
        return Evidence(
            self.name,
            source,
            question,
            signed.authority,
            accepted=True,
            reason=reason,
            valid_until=held.until,
            steps=tuple(steps),
            signer=signed.signer,
            warnings=warnings,
        )

    def _check(
        self, signed: _Signed, subject: Subject, question: SignatureBy, store: NotationStore, now: datetime, steps: list[str]
    ) -> Held:
        """Steps 7 to 11: what the acceptance leans on."""
        envelope = signed.envelope
        believed = envelope.scheme == _SIGNING_AUTHORITY and any(each in store.signing_authority for each in signed.chain)
        if not believed and not any(each in store.ca for each in signed.chain):
            raise EvidenceMalformed(
                f"is by {signed.signer}, whose chain up to {chains.named(signed.chain[-1])} has no certificate of"
                f" notation store {store.name}"
            )
        steps.append(f"notation store {store.name} holds a certificate of the chain")
        if not store.vouches_for(signed.chain[0].subject):
            raise EvidenceMalformed(f"is by {signed.signer}, who is none of the identities of notation store {store.name}")
        steps.append("the store trusts the signer" if store.subjects else "the store names no identities")
        if envelope.expiry is not None and now >= envelope.expiry:
            raise EvidenceMalformed(f"expired at {utc(envelope.expiry)}")
        steps.append("it " + ("does not expire" if envelope.expiry is None else f"expires {utc(envelope.expiry)}"))
        held = check_time(envelope, signed.chain, store, now, believed, steps)
        if question.docker_reference:
            raise EvidenceMalformed("does not name a repository, as no signature of this format does")
        _check_payload(envelope.payload, subject, self._limits.json_depth)
        steps.append(f"it signs {subject.digest}")
        until = min((moment for moment in (held.until, envelope.expiry) if moment is not None), default=None)
        return replace(held, until=until)


@dataclass(frozen=True, slots=True)
class _Signed:
    """An envelope whose signature holds, by a chain that is well made. Whether anybody trusts it is another question."""

    envelope: Envelope
    chain: tuple[x509.Certificate, ...]  #: leaf first, root last
    authority: str = field(init=False)  #: the signer (:func:`_authority`)
    signer: str = field(init=False)  #: the leaf's subject, for people

    def __post_init__(self) -> None:
        with foreign("a certificate"):
            object.__setattr__(self, "authority", _authority(self.chain[0]))
        object.__setattr__(self, "signer", chains.named(self.chain[0]))


def _authority(leaf: x509.Certificate) -> str:
    """Who signed, the same for every certificate of the same signer: the subject, by which trust policies know signers.

    A key will not do, since every renewal brings a new one; nor will the issuer, since authorities are replaced as well. Equal
    names that two authorities gave to two signers count as one: a threshold may then be missed, but is never met by one alone.
    """
    said = sorted([attribute.oid.dotted_string, " ".join(str(attribute.value).split()).casefold()] for attribute in leaf.subject)
    if said:
        return f"x509.subject:{hashlib.sha256(json.dumps(said).encode()).hexdigest()}"
    key = leaf.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(key).hexdigest()


def _is_notation(manifest: Manifest) -> bool:
    config = None if manifest.config is None else manifest.config.media_type
    return ARTIFACT_TYPE in {manifest.artifact_type, config}


def _check_attributes(envelope: Envelope) -> None:
    """Step 3."""
    if envelope.content_type != PAYLOAD_TYPE:
        raise EvidenceMalformed(f"has a payload of type {shown(envelope.content_type)!r}, not {PAYLOAD_TYPE}")
    if plugin := sorted(name for name in envelope.attributes | {*envelope.critical} if name.startswith(PLUGIN)):
        raise EvidenceMalformed(f"demands a verification plugin ({shown(plugin[0])}), and none is run here")
    if unknown := sorted({*envelope.critical} - {SCHEME, AUTHENTIC_TIME, EXPIRY}):
        raise EvidenceMalformed(f"has a critical attribute that is not known here: {shown(unknown[0])}")
    if absent := sorted({*envelope.critical} - envelope.attributes):
        raise EvidenceMalformed(f"calls an attribute critical that is not there: {shown(absent[0])}")
    match envelope.scheme:
        case "notary.x509":
            has, not_has = SIGNING_TIME, AUTHENTIC_TIME
        case "notary.x509.signingAuthority":
            has, not_has = AUTHENTIC_TIME, SIGNING_TIME
        case other:
            raise EvidenceMalformed(f"has an unknown signing scheme {shown(other)!r}")
    if has not in envelope.attributes or not_has in envelope.attributes:
        raise EvidenceMalformed(f"has another time of signing than its scheme demands: {has} alone")
    must = {SCHEME, *({AUTHENTIC_TIME, EXPIRY} & envelope.attributes)}
    if missing := sorted(must - {*envelope.critical}):
        raise EvidenceMalformed(f"does not call {missing[0]} critical")


def _check_algorithm(envelope: Envelope, leaf: x509.Certificate) -> None:
    """Step 4."""
    with foreign("a certificate"):
        key = leaf.public_key()
    expected = None
    if isinstance(key, rsa.RSAPublicKey):
        expected = _RSA_ALGORITHMS.get(key.key_size)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        expected = _EC_ALGORITHMS.get(key.curve.name)
    if expected is None:
        raise EvidenceMalformed("is by a key that is neither RSA of 2048, 3072 or 4096 bits nor on P-256, P-384 or P-521")
    if envelope.algorithm != expected:
        raise EvidenceMalformed(f"says that it is made by {shown(envelope.algorithm)}, where its key demands {expected}")


def _check_signature(envelope: Envelope, leaf: x509.Certificate) -> None:
    """Step 5; the algorithm is known to fit the key."""
    key = leaf.public_key()
    digest = _HASHES[envelope.algorithm[2:]]
    try:
        if isinstance(key, rsa.RSAPublicKey):
            scheme = padding.PSS(padding.MGF1(digest), padding.PSS.DIGEST_LENGTH)
            key.verify(envelope.signature, envelope.message, scheme, digest)
            return
        if isinstance(key, ec.EllipticCurvePublicKey):
            size = (key.curve.key_size + 7) // 8
            if len(envelope.signature) == 2 * size:
                r, s = (int.from_bytes(half, "big") for half in (envelope.signature[:size], envelope.signature[size:]))
                key.verify(encode_dss_signature(r, s), envelope.message, ec.ECDSA(digest))
                return
    except InvalidSignature:
        pass  # told below, with those that are not even of the right length
    raise EvidenceMalformed("is broken: it does not hold over what it signs")


def _check_chain(chain: Sequence[x509.Certificate]) -> None:
    """Step 6: "Certificate Requirements" of the signature specification."""
    if not chains.self_signed(chain[-1]):
        raise EvidenceMalformed(f"has an incomplete chain: {chains.named(chain[-1])} is no root")
    if early := next((each for each in chain[:-1] if chains.self_signed(each)), None):
        raise EvidenceMalformed(f"has a chain out of order: {chains.named(early)} is a root, and not the last")
    for certificate in chain:
        chains.check_key(certificate)
    for certificate in chain:
        chains.check_hash(certificate)
    chains.check_links(chain)
    for certificate in chain:
        check_critical(certificate)
    for certificate in chain[1:]:
        constraints, usage = chains.extension(certificate, x509.BasicConstraints), chains.extension(certificate, x509.KeyUsage)
        if constraints is None or not constraints.critical or usage is None or not usage.critical:
            raise EvidenceMalformed(
                f"has a broken chain: basic constraints and key usage of {chains.named(certificate)} must be there, and critical"
            )
    _check_leaf(chain[0])


def _check_leaf(leaf: x509.Certificate) -> None:
    if chains.is_authority(leaf):
        raise EvidenceMalformed("is by a certificate authority itself, not by a signer")
    usage = chains.extension(leaf, x509.KeyUsage)
    if usage is None or not usage.critical or not usage.value.digital_signature:
        raise EvidenceMalformed("is by a certificate without the critical key usage digitalSignature")
    bits = usage.value
    if bits.key_encipherment or bits.data_encipherment or bits.key_agreement or bits.key_cert_sign or bits.crl_sign:
        raise EvidenceMalformed("is by a certificate whose key is for more than signatures")
    purposes = chains.extension(leaf, x509.ExtendedKeyUsage)
    if purposes is None:
        return
    # The specification also lets pass what names only purposes that it does not know. But an authority that issues certificates
    # for documents, log-ons and networks as well has said by them that these do not sign code (RFC 5280, section 4.2.1.12).
    if ExtendedKeyUsageOID.CODE_SIGNING not in purposes.value or any(each in _OTHER_PURPOSES for each in purposes.value):
        raise EvidenceMalformed("is by a certificate whose extended key usage is not for signing code")


def _check_payload(payload: bytes, subject: Subject, depth: int) -> None:
    """Step 11."""
    target = member(read_object(payload, depth, "a payload"), "targetArtifact", "its payload")
    if not subject.digest.matches(subject.body):
        raise EvidenceMalformed(f"cannot be judged: the manifest at hand is not {subject.digest}")
    claimed = text(target, "digest", "its payload")
    if claimed != str(subject.digest):
        raise EvidenceMalformed(f"signed another image: it claims {shown(claimed)}")
    size = target.get("size")
    if type(size) is not int or size != len(subject.body):
        raise EvidenceMalformed(
            f"claims another size of the manifest: {shown(str(size))}, where it has {len(subject.body)} bytes"
        )
    kind, media_type = text(target, "mediaType", "its payload"), subject.media_type or _own_type(subject.body, depth)
    if kind != media_type:
        raise EvidenceMalformed(f"claims another media type of the manifest: {shown(kind)!r}, where it is {shown(media_type)!r}")


def _own_type(body: bytes, depth: int) -> str:
    """What the manifest calls itself; empty where it does not, which equals no claim."""
    own = read_object(body, depth, "a subject", most=None).get("mediaType")
    return own if isinstance(own, str) else ""
