"""Notary Project signatures: every way to be wrong is refused for its own reason, what is only odd passes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import EvidenceMalformed
from proxy.manifest import Bounds, parse
from proxy.policy.rules import AtLeast, SignatureBy, Store
from proxy.policy.verdicts import Evidence, Outcome, evaluate
from proxy.settings import Limits
from proxy.verify.envelopes import read_cose, read_jws
from proxy.verify.model import Document, Subject, Trusted
from proxy.verify.notation import NotationSignatures, NotationStore, _authority
from tests.simulator import images
from tests.simulator.images import Blob, Image
from tests.simulator.notation import (
    ARTIFACT_TYPE,
    THUMBPRINT,
    ChainFault,
    Fault,
    Form,
    Issued,
    envelope,
    issue,
    notation_manifest,
    notation_signature,
)
from tests.simulator.notation import subject as subject_name
from tests.simulator.signing import KeyKind, Signer, certified
from tests.simulator.sigstore.tsa import TimestampAuthority
from tests.unit.verify.evidence import IMAGE, LIMITS, NOW, REPOSITORY, document, subject

VERIFIER = NotationSignatures(LIMITS)
ACME = issue()
TSA = TimestampAuthority("stamps")
TSA_PEM = TSA.chain(NOW)[-1].public_bytes(serialization.Encoding.PEM)
SECOND = timedelta(seconds=1)
FORMS: Sequence[Form] = ("jws", "cose")


def store(issued: Issued = ACME, tsa: Sequence[bytes] = (), identities: Sequence[str] = ()) -> NotationStore:
    """A store that trusts the last certificate of a chain."""
    return NotationStore.load("acme", [issued.root_pem], tsa, identities)


def judge(
    evidence: Image | Document,
    by: NotationStore | None = None,
    *,
    now: datetime = NOW,
    of: Subject | None = None,
    question: SignatureBy | None = None,
) -> Evidence:
    """The one answer to the one question."""
    found = evidence if isinstance(evidence, Document) else document(evidence)
    asked = question or SignatureBy(Store("acme"))
    (answer,) = VERIFIER.judge(found, of or subject(), [asked], Trusted(stores={"acme": by or store()}), now)
    return answer


AUTHORITY = judge(notation_signature(ACME, IMAGE)).authority  #: whoever is called so, by whatever key


def refused(answer: Evidence, words: str) -> None:
    """It is a refusal whose reason has these words, fit for a header."""
    assert not answer.accepted
    assert words in answer.reason
    assert answer.reason.isascii()
    assert len(answer.reason) < 1000


# -- what passes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["p256", "p384", "p521", "rsa2048", "rsa3072", "rsa4096"])
def test_each_kind_of_key_signs(form: Form, kind: KeyKind) -> None:
    """JWS and COSE by each algorithm of the specification are accepted, and the evidence names the signer and the steps."""
    issued = issue(kind)
    answer = judge(notation_signature(issued, IMAGE, form), store(issued))
    assert answer.accepted, answer.reason
    assert answer.authority == AUTHORITY
    assert "CN=acme" in answer.reason
    assert len(answer.steps) == 13
    assert answer.signer is not None
    assert "CN=acme" in answer.signer
    assert answer.valid_until == issued.chain[0].not_valid_after_utc


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_chains_of_any_depth_pass(depth: int) -> None:
    """From a self-signed signer to three intermediates."""
    issued = issue(depth=depth)
    assert judge(notation_signature(issued, IMAGE), store(issued)).accepted


def test_the_store_may_hold_any_certificate_of_the_chain_that_can_vouch() -> None:
    """An intermediate in the store will do."""
    pem = ACME.chain[1].public_bytes(serialization.Encoding.PEM)
    assert judge(notation_signature(ACME, IMAGE), NotationStore.load("acme", [pem])).accepted


def test_a_signer_with_two_certificates_counts_once() -> None:
    """Renewed, with another key, by another authority: a threshold of distinct signers takes somebody of another name."""
    again, other = issue("p384"), issue("p256", "other")
    pems = [each.root_pem for each in (ACME, again, other)]
    stores = {name: NotationStore.load(name, pems) for name in ("one", "two")}
    asked = tuple(SignatureBy(Store(name)) for name in stores)

    def verdict(*by: Issued) -> Outcome:
        documents = [document(notation_signature(issued, IMAGE)) for issued in by]
        found = [piece for each in documents for piece in VERIFIER.judge(each, subject(), asked, Trusted(stores=stores), NOW)]
        assert all(piece.accepted for piece in found)
        return evaluate(AtLeast(2, asked), found).outcome

    assert verdict(ACME, again) is Outcome.REFUSED
    assert verdict(ACME, other) is Outcome.ACCEPTED
    assert verdict(ACME, again, other) is Outcome.ACCEPTED


def test_signers_without_a_name_are_told_apart_by_their_keys() -> None:
    """Which their authorities let them be."""
    nobody = x509.Name([])
    made = [_authority(_leaf_of(Signer.of("p256", each), nobody)) for each in ("one", "two", "one")]
    assert made[0] == made[2] != made[1]


def test_a_name_is_the_same_however_it_is_written() -> None:
    """Capitals, spaces and the type of text say nothing (RFC 5280, section 7.1), nor does the order here."""
    key = Signer.of("p256", "one")
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "acme"), x509.NameAttribute(NameOID.COMMON_NAME, "Release Team")]
    written = [parts[0], x509.NameAttribute(NameOID.COMMON_NAME, "release  team", _ASN1Type.PrintableString)]
    names = [x509.Name(parts), x509.Name(written[::-1])]
    assert len({_authority(_leaf_of(key, name)) for name in names}) == 1
    assert _authority(_leaf_of(key, x509.Name(parts[:1]))) != _authority(_leaf_of(key, names[0]))


def _leaf_of(key: Signer, name: x509.Name) -> x509.Certificate:
    begins, ends = NOW - timedelta(days=1), NOW + timedelta(days=1)
    builder = x509.CertificateBuilder(subject_name("root"), name, key.private.public_key(), 7, begins, ends)
    return certified(builder, key.private, hashes.SHA256())


def test_a_certificate_without_extended_key_usage_signs_code_too() -> None:
    """The extension is optional; only what it says of others keeps a key from code."""
    issued = issue(fault="leaf for no purpose")
    assert judge(notation_signature(issued, IMAGE), store(issued)).accepted


def test_a_legacy_manifest_says_it_in_its_config() -> None:
    """Older tools wrote no artifactType: the config's media type counts."""
    empty = Blob(ARTIFACT_TYPE, b"{}")
    legacy = notation_signature(ACME, IMAGE)
    body = {**legacy.manifest, "config": empty.entry()}
    del body["artifactType"]
    assert judge(Image(legacy.media_type, images.encode(body), (empty, *legacy.blobs[1:]))).accepted


def test_odd_but_good() -> None:
    """User annotations in the payload, and thumbprints of anybody in the manifest, change nothing."""
    body = envelope(ACME, IMAGE, annotations={"build": "123"})
    odd = notation_manifest(body, IMAGE)
    named = Image(odd.media_type, images.encode(odd.manifest | {"annotations": {THUMBPRINT: "nonsense"}}), odd.blobs)
    assert judge(odd).accepted
    assert judge(named).accepted


def test_the_manifests_media_type_comes_from_the_answer_or_from_itself() -> None:
    """What the upstream called the manifest counts; without that, what it calls itself; without either there is no match."""
    signature = notation_signature(ACME, IMAGE)
    assert judge(signature, of=replace(subject(), media_type=IMAGE.media_type)).accepted
    refused(judge(signature, of=replace(subject(), media_type="application/json")), "another media type of the manifest")
    nameless = Image(IMAGE.media_type, images.encode({k: v for k, v in IMAGE.manifest.items() if k != "mediaType"}))
    bare = Subject(REPOSITORY, nameless.digest, nameless.body)
    signature = notation_signature(ACME, nameless)
    refused(judge(signature, of=bare), "another media type of the manifest")
    assert judge(signature, of=replace(bare, media_type=nameless.media_type)).accepted


# -- what does not --------------------------------------------------------------------------------------------------

ENVELOPES: dict[Fault, str] = {
    "signature broken": "does not hold over what it signs",
    "signature by another key": "does not hold over what it signs",
    "signature as DER": "does not hold over what it signs",
    "payload changed": "does not hold over what it signs",
    "another algorithm": "says that it is made by ES512, where its key demands ES256",
    "no crit": "does not say which of its attributes are critical",
    "crit without scheme": "does not call io.cncf.notary.signingScheme critical",
    "crit names a stranger": "a critical attribute that is not known here: com.example.stranger",
    "crit names what is absent": "calls an attribute critical that is not there: io.cncf.notary.authenticSigningTime",
    "crit twice": "a list of critical attributes that is not proper",
    "plugin": "demands a verification plugin",
    "plugin, not critical": "demands a verification plugin",
    "unknown scheme": "an unknown signing scheme",
    "no signing time": "another time of signing than its scheme demands",
    "both signing times": "another time of signing than its scheme demands",
    "time of no form": "no time in 'io.cncf.notary.signingTime'",
    "expiry not critical": "does not call io.cncf.notary.expiry critical",
    "another payload type": "a payload of type 'application/json'",
    "attribute twice": "says 'io.cncf.notary.signingScheme' twice",
    "crit not signed": "a header that changes what is signed",
    "17 certificates": "16",
    "certificate of noise": "a certificate that cannot be read",
    "another digest": "signed another image",
    "another size": "claims another size",
    "size as text": "claims another size",
    "another media type": "claims another media type",
    "no target": "no object 'targetArtifact'",
    "payload is no JSON": "a payload that cannot be read",
    "timestamp of another type": "a timestamp that is",
    "no certificates": "has no certificates",
}
JWS: dict[Fault, str] = {
    "not JSON": "a JWS envelope that cannot be read",
    "unknown key": "an unknown key 'signatures'",
    "general form": "an unknown key 'signatures'",
    "padded": "base64url",
    "not canonical": "base64url in its canonical form",
    "b64": "a header that changes what is signed",
    "keys twice": "a protected header that cannot be read",
    "crit of a registered name": "a list of critical attributes that is not proper: alg",
}
COSE: dict[Fault, str] = {
    "no tag": "no tagged COSE_Sign1",
    "another tag": "the tag 98, which has no place there",
    "three parts": "it must have four parts",
    "detached": "must be byte strings",
    "indefinite length": "of indefinite length",
    "label twice": "cannot be read",
    "true as label": "a label that is neither a number nor text",
    "tag of a regular expression": "the tag 35, which has no place there",
    "something behind": "with something behind it",
    "too deep": "of too many parts",
    "too many items": "of too many parts",
    "cut off": "ends too early",
    "header is a list": "a header that is no map",
    "protected header is a list": "a protected header that is no map",
    "one certificate, bare": "no list of certificates",
    "algorithm as text": "says that it is made by none",
}


@pytest.mark.parametrize(
    ("form", "fault", "words"),
    [
        *(("jws", fault, words) for fault, words in (ENVELOPES | JWS).items()),
        *(("cose", fault, words) for fault, words in (ENVELOPES | COSE).items()),
    ],
)
def test_a_faulty_envelope_is_refused(form: Form, fault: Fault, words: str) -> None:
    """Each for its own reason."""
    refused(judge(notation_signature(ACME, IMAGE, form, fault=fault)), words)


CHAINS: dict[ChainFault, str] = {
    "leaf is a CA": "is by a certificate authority itself",
    "leaf without key usage": "without the critical key usage digitalSignature",
    "leaf key usage not critical": "without the critical key usage digitalSignature",
    "leaf without digitalSignature": "without the critical key usage digitalSignature",
    "leaf key also enciphers": "for more than signatures",
    "leaf for servers": "extended key usage is not for signing code",
    "leaf for timestamps": "extended key usage is not for signing code",
    "leaf for documents": "extended key usage is not for signing code",
    "leaf for purposes of its own": "extended key usage is not for signing code",
    "issuer is no CA": "is not a certificate authority",
    "issuer without key usage": "basic constraints and key usage",
    "issuer constraints not critical": "basic constraints and key usage",
    "issuer may not sign certificates": "may not sign certificates",
    "issuer with another key": "is not issued by",
    "path length exceeded": "may not have 1 authorities below it",
    "no root": "an incomplete chain",
    "out of order": "an incomplete chain",
    "root twice": "a chain out of order",
    "root with a key of another kind": "too weak or of another kind",
    "signed with SHA-224": "a weak or unknown hash",
}


@pytest.mark.parametrize(("fault", "words"), CHAINS.items())
def test_a_faulty_chain_is_refused(fault: ChainFault, words: str) -> None:
    """Although the store trusts every certificate of it."""
    issued = issue(fault=fault)
    everybody = [each.public_bytes(serialization.Encoding.PEM) for each in issue().chain[1:]]
    trusting = replace(NotationStore.load("acme", everybody), ca=issued.chain)
    answer = judge(notation_signature(issued, IMAGE), trusting)
    refused(answer, words)


def test_another_store_does_not_trust_the_chain() -> None:
    """The words name the signer and the store."""
    answer = judge(notation_signature(ACME, IMAGE), store(issue(name="other")))
    refused(answer, "has no certificate of notation store acme")
    assert answer.authority == AUTHORITY


def test_a_name_alone_is_no_trust() -> None:
    """A chain of the same names by other keys is a stranger's."""
    twin = issue.__wrapped__(name="twin")
    assert [each.subject for each in twin.chain[1:]] == [each.subject for each in ACME.chain[1:]]
    refused(judge(notation_signature(twin, IMAGE)), "has no certificate of notation store acme")


def test_the_layer_is_what_the_manifest_says() -> None:
    """Changed bytes, a second layer, another type and too many bytes are refused before anything is parsed."""
    good = document(notation_signature(ACME, IMAGE))
    ((descriptor, notes, body),) = good.layers
    refused(judge(replace(good, layers=((descriptor, notes, body + b" "),))), "not what its manifest names")
    other = replace(descriptor, media_type="application/vnd.dsse.envelope.v1+json")
    refused(judge(replace(good, layers=((other, notes, body),))), "neither application/jose+json nor application/cose")
    two = images.artifact(ARTIFACT_TYPE, [(Blob("application/jose+json", body), None), (Blob("application/cose", body), None)])
    refused(judge(two), "has 2 layers")
    (answer,) = NotationSignatures(Limits(signature_size=100)).judge(good, subject(), [], Trusted(), NOW)
    refused(answer, "the limit for a signature is 100")


def test_wants_and_judges_go_by_the_manifest() -> None:
    """The one layer of a notation manifest is wanted, and no other."""
    good = document(notation_signature(ACME, IMAGE))
    assert VERIFIER.judges(good)
    asked = [SignatureBy(Store("acme"))]
    assert VERIFIER.wants(good.parsed, good.parsed.layers[0], asked) == LIMITS.signature_size
    assert VERIFIER.wants(good.parsed, good.parsed.layers[0], [SignatureBy("release")]) is None
    other = parse(images.artifact("application/vnd.example", [(Blob("application/cose", b""), None)]).body, "", Bounds())
    assert VERIFIER.wants(other, other.layers[0], asked) is None


def test_only_questions_about_stores_are_answered() -> None:
    """Keys and unknown stores are nobody's business here, and no notation signature names a repository."""
    found = document(notation_signature(ACME, IMAGE))
    questions = [SignatureBy("release"), SignatureBy(Store("unknown"))]
    assert VERIFIER.judge(found, subject(), questions, Trusted(stores={"acme": store()}), NOW) == ()
    refused(judge(found, question=SignatureBy(Store("acme"), docker_reference=True)), "does not name a repository")


def test_the_body_at_hand_is_the_subject() -> None:
    """A caller that mixes two images up gets a refusal."""
    wrong = replace(subject(), body=IMAGE.body + b" ")
    refused(judge(notation_signature(ACME, IMAGE), of=wrong), "the manifest at hand is not")


# -- time -----------------------------------------------------------------------------------------------------------

ENDS = datetime(2026, 5, 20, 12, tzinfo=UTC)
OLD = issue(name="old", ends=ENDS)


def stamped(at: datetime, accuracy: timedelta | None = None, form: Form = "jws", **more: object) -> Image:
    """A signature by the expired signer, with a timestamp."""
    return notation_signature(OLD, IMAGE, form, stamp=lambda signature: TSA.token(signature, at, accuracy=accuracy), **more)


def test_windows_are_closed() -> None:
    """The last second of a certificate belongs to it, the next one does not; so does the first."""
    signature = notation_signature(OLD, IMAGE)
    assert judge(signature, store(OLD), now=ENDS).accepted
    refused(judge(signature, store(OLD), now=ENDS + SECOND), "does not hold now, and notation store acme has no tsa")
    begins = OLD.chain[0].not_valid_before_utc
    assert judge(signature, store(OLD), now=begins).accepted
    assert not judge(signature, store(OLD), now=begins - SECOND).accepted


@pytest.mark.parametrize("form", FORMS)
def test_a_timestamp_outlives_the_certificate(form: Form) -> None:
    """Signed while it held: accepted for good, by the primitive signature's timestamp."""
    answer = judge(stamped(ENDS, form=form), store(OLD, [TSA_PEM]))
    assert answer.accepted, answer.reason
    assert answer.valid_until is None
    assert any("timestamp" in step for step in answer.steps)


@pytest.mark.parametrize(
    ("at", "accuracy", "words"),
    [
        (ENDS + SECOND, None, "does not hold at the time of its timestamp"),
        (ENDS, SECOND, "does not hold at the time of its timestamp"),
        (ENDS - SECOND, timedelta(milliseconds=1001), "does not hold at the time of its timestamp"),
        (ENDS - SECOND, SECOND, None),
    ],
)
def test_accuracy_counts(at: datetime, accuracy: timedelta | None, words: str | None) -> None:
    """The whole range of the timestamp lies inside every window."""
    answer = judge(stamped(at, accuracy), store(OLD, [TSA_PEM]))
    if words is None:
        assert answer.accepted, answer.reason
    else:
        refused(answer, words)


def test_a_timestamp_is_needed_where_the_certificate_does_not_hold() -> None:
    """Without one, with a broken one, with one over something else, or by somebody else, there is no proof."""
    trusting = store(OLD, [TSA_PEM])
    refused(judge(notation_signature(OLD, IMAGE), trusting), "does not hold now, and there is no timestamp")
    noise = notation_signature(OLD, IMAGE, stamp=lambda _: b"noise")
    refused(judge(noise, trusting), "has a timestamp that")
    other = notation_signature(OLD, IMAGE, stamp=lambda signature: TSA.token(signature + b"x", ENDS))
    refused(judge(other, trusting), "has a timestamp over something else")
    stranger = TimestampAuthority("stranger")
    foreign = notation_signature(OLD, IMAGE, stamp=lambda signature: stranger.token(signature, ENDS))
    refused(judge(foreign, trusting), "by an authority that is not trusted")


def test_a_broken_timestamp_is_not_looked_at_while_the_certificate_holds() -> None:
    """Nothing depends on it then."""
    noise = notation_signature(ACME, IMAGE, stamp=lambda _: b"noise")
    assert judge(noise, store(ACME, [TSA_PEM])).accepted


@pytest.mark.parametrize("form", FORMS)
def test_expiry(form: Form) -> None:
    """A signature holds until the moment of its own expiry, timestamp or not, and the evidence says so."""
    expiry = NOW + timedelta(days=1)
    signature = notation_signature(ACME, IMAGE, form, expiry=expiry)
    answer = judge(signature)
    assert answer.accepted
    assert answer.valid_until == expiry
    assert judge(signature, now=expiry - SECOND).accepted
    refused(judge(signature, now=expiry), "expired at")
    old = stamped(ENDS, expiry=NOW)
    refused(judge(old, store(OLD, [TSA_PEM])), "expired at")


@pytest.mark.parametrize("form", FORMS)
def test_a_signing_authority_is_believed_about_the_time(form: Form) -> None:
    """Where the store lists it as one; the chain must have held then."""
    listed = NotationStore.load("acme", [], signing_authority_pems=[OLD.root_pem])
    answer = judge(notation_signature(OLD, IMAGE, form, authority=True, signed_at=ENDS), listed)
    assert answer.accepted, answer.reason
    assert answer.valid_until is None
    late = notation_signature(OLD, IMAGE, form, authority=True, signed_at=ENDS + SECOND)
    refused(judge(late, listed), "does not hold at its authentic signing time")


def test_nobody_else_is_believed_about_the_time() -> None:
    """An expired signer of an ordinary authority cannot go back in time by choosing the other scheme."""
    backdated = notation_signature(OLD, IMAGE, authority=True, signed_at=ENDS)
    refused(judge(backdated, store(OLD)), "believes no other time")
    assert judge(notation_signature(ACME, IMAGE, authority=True), store()).accepted
    plain = notation_signature(ACME, IMAGE)
    listed = NotationStore.load("acme", [], signing_authority_pems=[ACME.root_pem])
    refused(judge(plain, listed), "has no certificate of notation store acme")


# -- stores ---------------------------------------------------------------------------------------------------------

DE = "x509.subject: C=DE, ST=BE, O=acme"


@pytest.mark.parametrize(
    ("identities", "accepted"),
    [
        ([], True),
        (["*"], True),
        ([DE], True),
        (["x509.subject: O=acme,S=BE;C=DE"], True),
        (["x509.subject:C=DE,ST=BE,O=acme,CN=acme"], True),
        (["x509.subject: c=DE, st=BE, o=acme, 2.5.4.3=acme"], True),
        (["x509.subject: C=DE, ST=BE, O=\\61cme"], True),
        (["x509.subject: C=DE, ST=BE, O=Acme"], False),
        (["x509.subject: C=DE, ST=BE, O=acme, OU=release"], False),
        (["x509.subject: C=US, ST=BE, O=acme", DE], True),
        (["x509.subject: C=DE, ST=BE, O=acme\\ "], False),
        (["x509.subject: C=DE, ST=BE, O=acme, CN=ac*"], False),
    ],
)
def test_trusted_identities(identities: list[str], accepted: bool) -> None:
    """A signer has every attribute of one of the identities, exactly so."""
    answer = judge(notation_signature(ACME, IMAGE), store(identities=identities))
    assert answer.accepted is accepted
    if not accepted:
        refused(answer, "none of the identities of notation store acme")


def test_an_attribute_that_stands_twice_matches_nothing() -> None:
    """A subject with two organizations is not that of either."""
    trusting = store(identities=[DE])
    twice = x509.Name([*ACME.chain[0].subject, x509.NameAttribute(NameOID.ORGANIZATION_NAME, "other")])
    assert trusting.vouches_for(ACME.chain[0].subject)
    assert not trusting.vouches_for(twice)


@pytest.mark.parametrize(
    ("identities", "words"),
    [
        (["C=DE, ST=BE, O=acme"], "is no identity"),
        (["x509.subject: C=DE, O=acme"], "there is no ST"),
        (["x509.subject: C=DE, ST=BE"], "there is no O"),
        (["x509.subject:"], "not of the form"),
        (["x509.subject: C=DE, ST=, O=acme"], "not of the form"),
        (["x509.subject: C=DE, ST=BE, O=acme, X=1"], "an unknown attribute 'X'"),
        (["x509.subject: C=DE, ST=BE, O=acme, O=other"], "the attribute O twice"),
        (["x509.subject: C=DE, ST=BE, S=BE, O=acme"], "the attribute S twice"),
        (["x509.subject: C=DE, ST=BE, O=acme+OU=x"], "would join attributes"),
        (["x509.subject: C=DE, ST=BE, O=acme\\"], "ends in a backslash"),
        (["x509.subject: C=DE, ST=BE, O=\\ff"], "is not UTF-8"),
        ([DE, DE], "overlap"),
        ([DE, DE + ", OU=x"], "overlap"),
        ([DE + ", OU=x", DE], "overlap"),
        (["*", DE], "must stand alone"),
    ],
)
def test_a_wrong_identity_is_told(identities: list[str], words: str) -> None:
    """In words for the author of the configuration."""
    with pytest.raises(ValueError, match=words):
        store(identities=identities)


@pytest.mark.parametrize(
    ("ca", "tsa", "words"),
    [
        ([], [], "at least one certificate"),
        ([b"nothing"], [], "no PEM certificates"),
        ([b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"], [], "cannot be read"),
        ([b"-----BEGIN PRIVATE KEY-----"], [], "a private key in here"),
        ([b" " * (1 << 20) + b" "], [], "bytes"),
        ([ACME.chain[0].public_bytes(serialization.Encoding.PEM)], [], "neither an authority nor self-issued"),
        ([ACME.root_pem], [TSA.chain(NOW)[0].public_bytes(serialization.Encoding.PEM)], "tsa takes root certificates"),
        ([ACME.root_pem], [ACME.chain[1].public_bytes(serialization.Encoding.PEM)], "tsa takes root certificates"),
    ],
)
def test_a_wrong_store_is_told(ca: list[bytes], tsa: list[bytes], words: str) -> None:
    """In words for the author of the configuration."""
    with pytest.raises(ValueError, match=words):
        NotationStore.load("acme", ca, tsa)


def test_the_identity_of_a_store_is_all_that_it_trusts() -> None:
    """It changes with certificates and identities, and not with their order, their spelling, or the store's name."""
    base = store()
    assert base.identity == NotationStore.load("other", [ACME.root_pem, ACME.root_pem]).identity
    assert store(identities=["*"]).identity == base.identity
    others = [
        store(issue(name="other")).identity,
        store(tsa=[TSA_PEM]).identity,
        store(identities=[DE]).identity,
        NotationStore.load("acme", [], signing_authority_pems=[ACME.root_pem]).identity,
    ]
    assert len({base.identity, *others}) == 5
    one, two = DE, "x509.subject: C=US, ST=BE, O=acme"
    assert store(identities=[one, two]).identity == store(identities=[two, one]).identity


# -- whatever the bytes ---------------------------------------------------------------------------------------------

GOOD = {form: envelope(ACME, IMAGE, form) for form in FORMS}


def _read(form: Form, body: bytes) -> None:
    if form == "cose":
        read_cose(body)
    else:
        read_jws(body, 32)


@settings(max_examples=150, deadline=None)
@given(form=st.sampled_from(FORMS), body=st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(form: Form, body: bytes) -> None:
    """Nothing but the one exception comes out."""
    with suppress(EvidenceMalformed):
        _read(form, body)


@settings(max_examples=150, deadline=None)
@given(form=st.sampled_from(FORMS), data=st.data())
def test_any_change_is_judged_without_an_exception(form: Form, data: st.DataObject) -> None:
    """Mutated envelopes, under a manifest that fits them, are evidence with a reason; changed signed bytes never pass."""
    body = bytearray(GOOD[form])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    answer = judge(notation_manifest(bytes(body), IMAGE, form))
    assert answer.reason.isascii()
    if answer.accepted:
        read = read_cose(bytes(body)) if form == "cose" else read_jws(bytes(body), 32)
        good = read_cose(GOOD[form]) if form == "cose" else read_jws(GOOD[form], 32)
        assert (read.message, read.signature, read.chain[0]) == (good.message, good.signature, good.chain[0])


@settings(max_examples=100, deadline=None)
@given(
    tree=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda x: st.lists(x, max_size=3), max_leaves=5
    )
)
def test_any_value_in_a_header_is_judged(tree: object) -> None:
    """Whatever JSON stands where a certificate, a name or a time is expected."""
    document_ = json.loads(GOOD["jws"])
    document_["header"]["x5c"] = tree
    answer = judge(notation_manifest(json.dumps(document_).encode(), IMAGE))
    assert not answer.accepted
