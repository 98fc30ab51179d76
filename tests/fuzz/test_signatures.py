"""Whatever stands in a signature: it is judged, and refused with a reason. Nothing is raised but our own, nothing changed passes.

Each test begins with something that is right, damages it, and holds the reader to two promises: only
:class:`proxy.errors.EvidenceMalformed` comes out, with a reason in ASCII of bounded length; and where the damaged thing is
accepted all the same, what was damaged was nothing that was signed.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.errors import EvidenceMalformed
from proxy.policy.rules import AttestationBy, Evidence, Identity, Pattern, SignatureBy
from proxy.verify.bodies import Deed, check_body
from proxy.verify.bundle import SigstoreBundles
from proxy.verify.certificates import SignerCertificate, verify_chain
from proxy.verify.cosign import CosignAttestations, CosignSignatures
from proxy.verify.dsse import Envelope, Statement
from proxy.verify.model import Trusted
from proxy.verify.parsing import read_object
from proxy.verify.roots import Demands, Root
from proxy.verify.sct import verify_scts
from proxy.verify.timestamps import verify_timestamp
from proxy.verify.tlog import LogEntry, verify_entry
from tests.conformance.verdicts import JUDGED, LIMITS, ROOT, SIGSTORE, SUBJECT, OursAlone
from tests.fuzz.damage import ODD, altered, damaged, examples
from tests.simulator.images import Blob
from tests.simulator.signing import CosignSignature
from tests.simulator.sigstore import Signing, statement
from tests.simulator.sigstore.bundles import layers_image
from tests.simulator.sigstore.cases import FORMS, IMAGE, PREDICATE_TYPE
from tests.unit.verify.evidence import document

EXAMPLES = examples(60)
#: More for what costs little.
CHEAP = examples(150)

HOW = Signing(timestamps=1)
ROOT_JSON = SIGSTORE.trusted_root()
TRUST = Root.load(ROOT, ROOT_JSON, Demands())
IDENTITY = Identity(ROOT, HOW.issuer, Pattern.compile(HOW.identity))
QUESTIONS = (SignatureBy(IDENTITY), AttestationBy(PREDICATE_TYPE, IDENTITY))
TRUSTED = Trusted(roots={ROOT: TRUST})
BUNDLES: dict[str, dict[str, Any]] = {
    form.name: json.loads(made)
    for form in FORMS
    if form.keyless and form.trust == "sigstore" and isinstance(made := form.make(SIGSTORE), bytes)
}
LEAF = SIGSTORE.leaf(HOW)
ENTRIES: list[Any] = [entry for each in BUNDLES.values() for entry in each["verificationMaterial"]["tlogEntries"]]


def reason_is_fit(reason: str) -> None:
    """Reasons end up in HTTP headers."""
    assert reason.isascii()
    assert reason.isprintable()
    assert 0 < len(reason) < 2000


def read(reader: Callable[[], object]) -> bool:
    """Whether it could be read; if not, for a good reason."""
    try:
        reader()
    except EvidenceMalformed as error:
        reason_is_fit(str(error))
        return False
    return True


def check_told(found: tuple[Evidence, ...]) -> bool:
    """Every piece has its reason; whether one is accepted."""
    for piece in found:
        for line in (piece.reason, *piece.steps):
            reason_is_fit(line)
    return any(piece.accepted for piece in found)


def judged(body: bytes) -> bool:
    """Whether a bundle is accepted for either question."""
    found = SigstoreBundles(LIMITS, OursAlone()).judge_bytes("a file", body, SUBJECT, QUESTIONS, TRUSTED, JUDGED)
    return check_told(found)


def signed_part(bundle: Any) -> object:
    """What a signature is about, whatever else its bundle says."""
    material = bundle["verificationMaterial"]
    leaf = material.get("certificate") or material["x509CertificateChain"]["certificates"][0]
    envelope = bundle.get("dsseEnvelope")
    content = bundle["messageSignature"] if envelope is None else [envelope["payload"], envelope["payloadType"]]
    signature = None if envelope is None else envelope["signatures"][0]["sig"]
    return leaf["rawBytes"], content, signature


@pytest.mark.parametrize("name", BUNDLES)
def test_what_is_damaged_here_was_right(name: str) -> None:
    """Else these tests would show nothing."""
    assert judged(json.dumps(BUNDLES[name]).encode())


@EXAMPLES
@given(data=st.data())
def test_any_change_in_a_bundle(data: st.DataObject) -> None:
    """Parts removed, replaced, moved, or taken from another bundle that is right by itself."""
    name = data.draw(st.sampled_from(sorted(BUNDLES)))
    others = tuple(
        part for each in BUNDLES.values() for part in (each["verificationMaterial"], *each["verificationMaterial"].values())
    )
    changed = data.draw(altered(BUNDLES[name], others))
    if judged(json.dumps(changed).encode()):
        assert signed_part(changed) == signed_part(BUNDLES[name])


@EXAMPLES
@given(data=st.data())
def test_any_damage_to_a_bundle(data: st.DataObject) -> None:
    """Bytes of it, and of the base64 inside."""
    name = data.draw(st.sampled_from(sorted(BUNDLES)))
    body = data.draw(damaged(json.dumps(BUNDLES[name]).encode()))
    if judged(body):
        assert signed_part(json.loads(body)) == signed_part(BUNDLES[name])


@EXAMPLES
@given(data=st.data(), kind=st.sampled_from(("signature", "attestation")))
def test_any_damage_to_what_cosign_writes(data: st.DataObject, kind: str) -> None:
    """Annotations and payload. Only what is beside the signature may change without harm."""
    made = COSIGN[kind]
    notes, payload = dict(made.annotations), made.blob.data
    part = data.draw(st.sampled_from([*notes, "payload"]))
    if part == "payload":
        payload = data.draw(damaged(payload))
    else:
        notes[part] = data.draw(damaged(notes[part].encode()) | st.binary(max_size=8)).decode("utf-8", "replace")
    layer = CosignSignature(Blob(made.blob.media_type, payload), notes)
    verifier = (CosignSignatures if kind == "signature" else CosignAttestations)(LIMITS, OursAlone())
    found = verifier.judge(document(layers_image([layer])), SUBJECT, QUESTIONS, TRUSTED, JUDGED)
    if check_told(found):
        assert payload == made.blob.data


COSIGN = {
    "signature": SIGSTORE.cosign_signature(IMAGE.digest, HOW),
    "attestation": SIGSTORE.cosign_attestation(IMAGE.digest, PREDICATE_TYPE, {"a": 1}, HOW),
}


@CHEAP
@given(der=damaged(LEAF.der) | st.binary(max_size=60))
@example(der=b"")
def test_any_certificate(der: bytes) -> None:
    """It is read or refused; where it is read, chain and certificate timestamps are judged or refused. None passes changed."""
    if not read(lambda: SignerCertificate.parse(der)):
        return
    leaf = SignerCertificate.parse(der)
    issuer = SIGSTORE.authority.chain(SIGSTORE.now)[0]
    read(lambda: verify_scts(leaf.certificate, issuer, TRUST))
    if read(lambda: verify_chain(leaf, (), TRUST, SIGSTORE.now)):
        assert der == LEAF.der


@CHEAP
@given(value=st.binary(max_size=120) | damaged(LEAF.certificate.extensions[-1].value.public_bytes()))
def test_any_list_of_certificate_timestamps(value: bytes) -> None:
    """Whatever the list is, in a certificate that is otherwise right."""
    whole, old = LEAF.der, LEAF.certificate.extensions[-1].value.public_bytes()
    assert old in whole
    der = whole.replace(old, (value + bytes(len(old)))[: len(old)])
    try:
        certificate = SignerCertificate.parse(der).certificate
    except EvidenceMalformed as error:
        reason_is_fit(str(error))
        return
    if read(lambda: verify_scts(certificate, SIGSTORE.authority.chain(SIGSTORE.now)[0], TRUST)):
        promises = verify_scts(certificate, SIGSTORE.authority.chain(SIGSTORE.now)[0], TRUST)
        # How it is signed stands beside the signature and is not signed; when, is.
        assert promises in ((), (SIGSTORE.now,))


@CHEAP
@given(entry=st.one_of([altered(each, tuple(ENTRIES)) for each in ENTRIES[:4]]))
def test_any_log_entry(entry: Any) -> None:
    """An entry that holds has the body of one that its log made, and at the same time."""
    if not isinstance(entry, dict) or not read(lambda: LogEntry.of_bundle(entry)):
        return
    parsed = LogEntry.of_bundle(entry)
    log = TRUST.logs.get(parsed.log_id)
    if log is not None and read(lambda: verify_entry(parsed, log)):
        right = [each for each in ENTRIES if base64.b64decode(each["canonicalizedBody"]) == parsed.body]
        assert right
        assert verify_entry(parsed, log) in (None, SIGSTORE.now)


@CHEAP
@given(node=altered(json.loads(COSIGN["signature"].annotations["dev.sigstore.cosign/bundle"])))
def test_any_cosign_entry(node: Any) -> None:
    """cosign v2's form of an entry, which has nothing but a promise: nothing of it may change."""
    if not isinstance(node, dict) or not read(lambda: LogEntry.of_cosign(node)):
        return
    parsed = LogEntry.of_cosign(node)
    right = LogEntry.of_cosign(json.loads(COSIGN["signature"].annotations["dev.sigstore.cosign/bundle"]))
    log = TRUST.logs.get(parsed.log_id)
    if log is not None and read(lambda: verify_entry(parsed, log)):
        assert parsed == right


MESSAGE = BUNDLES["message bundle, Rekor v1"]
BODY = base64.b64decode(MESSAGE["verificationMaterial"]["tlogEntries"][0]["canonicalizedBody"])
DEED = Deed(
    base64.b64decode(MESSAGE["messageSignature"]["signature"]),
    IMAGE.body,
    None,
    None,
    base64.b64decode(MESSAGE["verificationMaterial"]["certificate"]["rawBytes"]),
    by_certificate=True,
)


@CHEAP
@given(body=altered(json.loads(BODY)).map(lambda tree: json.dumps(tree).encode()) | damaged(BODY))
@example(body=BODY)
def test_any_body_of_an_entry(body: bytes) -> None:
    """A body is about this signature only if it holds it."""
    holds = read(lambda: check_body(body, None, DEED))
    assert holds or body != BODY
    if holds:
        spec = json.loads(body)["spec"]
        assert base64.b64decode(spec["signature"]["content"]) == DEED.signature
        right = json.loads(BODY)["spec"]["data"]["hash"]
        assert {key: spec["data"]["hash"].get(key) for key in right} == right


@CHEAP
@given(node=altered(BUNDLES["bundle, Rekor v1"]["dsseEnvelope"]) | ODD)
def test_any_envelope(node: Any) -> None:
    """It is read or refused."""
    if isinstance(node, dict) and read(lambda: Envelope.parse(node)):
        envelope = Envelope.parse(node)
        assert envelope.signed_bytes.startswith(b"DSSEv1 ")


STATEMENT = statement(IMAGE.digest, PREDICATE_TYPE, {"a": [1, {"b": "c"}]})


@CHEAP
@given(payload=altered(json.loads(STATEMENT)).map(lambda tree: json.dumps(tree).encode()) | damaged(STATEMENT))
def test_any_statement(payload: bytes) -> None:
    """It is read or refused, and is about an image only if that image's digest stands in it."""
    if read(lambda: Statement.parse(payload, LIMITS)):
        parsed = Statement.parse(payload, LIMITS)
        if read(lambda: parsed.check_subject(IMAGE.digest)):
            assert IMAGE.digest.hex in json.dumps(json.loads(payload))


@CHEAP
@given(token=damaged(SIGSTORE.timestamp_authority.response(b"stamped", SIGSTORE.now)) | st.binary(max_size=80))
def test_any_timestamp(token: bytes) -> None:
    """It is read or refused, and one that holds tells the time that it was made at."""
    if read(lambda: verify_timestamp(token, b"stamped", TRUST.timestamp_authorities)):
        assert verify_timestamp(token, b"stamped", TRUST.timestamp_authorities).time == SIGSTORE.now


@CHEAP
@given(
    body=altered(json.loads(ROOT_JSON)).map(lambda tree: json.dumps(tree).encode()) | damaged(ROOT_JSON),
    demands=st.builds(Demands, st.booleans(), st.booleans(), st.booleans()),
)
def test_any_trusted_root(body: bytes, demands: Demands) -> None:
    """It is a root, or the person who wrote it is told; and a demand that nothing could meet is told, too."""
    try:
        root = Root.load(ROOT, body, demands)
    except ValueError as error:
        reason_is_fit(str(error))
        return
    assert not demands.log or root.logs
    assert not demands.sct or root.ct_logs
    assert not demands.timestamp or root.timestamp_authorities
    assert all(isinstance(each, x509.Certificate) for authority in root.authorities for each in authority.chain)


@CHEAP
@given(pem=damaged(SIGSTORE.own_ca()) | st.binary(max_size=80))
def test_any_certificates_of_ones_own(pem: bytes) -> None:
    """The same for files of certificates."""
    try:
        root = Root.of_ca(ROOT, [pem], Demands(log=False, sct=False))
    except ValueError as error:
        reason_is_fit(str(error))
        return
    assert root.authorities


@CHEAP
@given(body=st.binary(max_size=200) | ODD.map(lambda tree: json.dumps(tree).encode()))
def test_anything_at_all(body: bytes) -> None:
    """Where a bundle should be."""
    assert not judged(body)
    read(lambda: read_object(body, LIMITS.json_depth, "a thing"))
