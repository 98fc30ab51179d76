"""Sigstore: certificates, logs, bundles, envelopes, statements, timestamps, roots.

Beside "nothing but ours comes out" each target says what must be so where its bytes are accepted.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from proxy.errors import EvidenceMalformed
from proxy.policy.patterns import Pattern
from proxy.policy.rules import AttestationBy, Identity, SignatureBy
from proxy.verify.bodies import Deed, check_body
from proxy.verify.bundle import SigstoreBundles
from proxy.verify.certificates import SignerCertificate, verify_chain
from proxy.verify.conditions import Condition
from proxy.verify.core import Signed
from proxy.verify.cosign import CosignAttestations, CosignSignatures
from proxy.verify.dsse import Envelope, Statement
from proxy.verify.keys import holds
from proxy.verify.model import Trusted
from proxy.verify.parsing import read_object
from proxy.verify.roots import Demands, Root
from proxy.verify.sct import verify_scts
from proxy.verify.timestamps import verify_timestamp
from proxy.verify.tlog import InclusionProof, LogEntry, verify_entry
from proxy.verify.trust import Key
from tests.conformance.verdicts import JUDGED, LIMITS, ROOT, SIGSTORE, SUBJECT, WITHOUT_LOG, OursAlone
from tests.fuzz.forms import read_der, write_der
from tests.fuzz.target import Target, quietly, told
from tests.simulator.images import Blob
from tests.simulator.signing import SIGNATURE_ANNOTATION, CosignSignature, pae
from tests.simulator.sigstore import Signing, der, statement
from tests.simulator.sigstore.bundles import CERTIFICATE_ANNOTATION, layers_image
from tests.simulator.sigstore.cases import FORMS, IMAGE, PREDICATE_TYPE, RELEASE
from tests.simulator.sigstore.faults import CERTIFICATE_FAULTS, CONTENT_FAULTS, LOG_FAULTS, TIMESTAMP_FAULTS
from tests.simulator.sigstore.rekor import note_line
from tests.unit.verify.evidence import document

OURS = (EvidenceMalformed,)
HOW = Signing(timestamps=1)
NOW = SIGSTORE.now
ROOT_JSON = SIGSTORE.trusted_root()
TRUST = Root.load(ROOT, ROOT_JSON, Demands())
OWN = Root.of_ca("own", [SIGSTORE.own_ca()], Demands(log=False, sct=False), [SIGSTORE.own_tsa()])


def dumps(tree: object) -> bytes:
    """As short as it can be."""
    return json.dumps(tree, separators=(",", ":")).encode()


def loads(data: bytes) -> dict[str, Any] | None:
    """The object that this is; None when it is none."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return tree if isinstance(tree, dict) else None


# -- certificates ---------------------------------------------------------------------------------------------------

LEAF = SIGSTORE.leaf(HOW)
ISSUER, *_ABOVE = SIGSTORE.authority.chain(NOW)
OFFERED = tuple(each.public_bytes(Encoding.DER) for each in (ISSUER, *_ABOVE))


def certificate(data: bytes) -> bool:
    """What it says is read, and then chain and certificate timestamps are judged."""
    leaf = SignerCertificate.parse(data)
    quietly(verify_scts, leaf.certificate, ISSUER, TRUST)
    by_root, by_own = _chain(leaf, (), TRUST), _chain(leaf, OFFERED, OWN)
    return by_root or by_own


def _chain(leaf: SignerCertificate, offered: tuple[bytes, ...], root: Root) -> bool:
    if not quietly(verify_chain, leaf, offered, root, NOW):
        return False
    # By the authority, for signing code, at this time: asked of the certificate once more.
    of, key = leaf.certificate, ISSUER.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert of.signature_hash_algorithm is not None
    key.verify(of.signature, of.tbs_certificate_bytes, ec.ECDSA(of.signature_hash_algorithm))
    assert of.not_valid_before_utc <= NOW <= of.not_valid_after_utc
    assert ExtendedKeyUsageOID.CODE_SIGNING in of.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    return True


def issued(data: bytes) -> bytes:
    """Signed by the authority, whatever it says."""
    tree = read_der(data)
    if tree is None or len(tree) != 1 or not isinstance(tree[0][1], list) or len(tree[0][1]) != 3:
        return data
    parts = tree[0][1]
    private = SIGSTORE.authority._issuer.private
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    parts[2] = (0x03, b"\0" + private.sign(write_der(parts[0]), ec.ECDSA(hashes.SHA384(), deterministic_signing=True)))
    return write_der(tree[0])


def _leaves() -> Iterator[bytes]:
    yield LEAF.der
    claims = {"source_repository": "https://a.example/b", "owner_id": "1", "trigger": "push"}
    yield SIGSTORE.leaf(Signing(identity="https://a.example/b.yml@refs/heads/main", san="uri", claims=claims, key="p384")).der
    yield SIGSTORE.leaf(Signing(san="other name", key="ed25519")).der
    yield WITHOUT_LOG.leaf(HOW).der
    yield OFFERED[0]
    for fault in CERTIFICATE_FAULTS:
        yield SIGSTORE.leaf(HOW, fault=fault).der


_SCT_LIST = der.oid("1.3.6.1.4.1.11129.2.4.2")
_LEAF_PARTS = read_der(LEAF.der)
assert _LEAF_PARTS is not None
_EXTENSIONS: list[Any] = _LEAF_PARTS[0][1][0][1][-1][1][0][1]
_SCT_PLACE = next(at for at, each in enumerate(_EXTENSIONS) if write_der(each[1][0]) == _SCT_LIST)
SCTS: bytes = _EXTENSIONS[_SCT_PLACE][1][-1][1]


def sct_list(data: bytes) -> bool:
    """In a certificate that is otherwise right: whatever holds is of the time at which its log made it."""
    extensions = [*_EXTENSIONS]
    extensions[_SCT_PLACE] = (0x30, [*extensions[_SCT_PLACE][1][:-1], (0x04, data)])
    assert _LEAF_PARTS is not None
    tbs, *signed = _LEAF_PARTS[0][1]
    whole = write_der((0x30, [(0x30, [*tbs[1][:-1], (0xA3, [(0x30, extensions)])]), *signed]))
    leaf = SignerCertificate.parse(whole)
    seen = set(verify_scts(leaf.certificate, ISSUER, TRUST))
    assert seen <= {NOW}
    return bool(seen)


# -- logs -----------------------------------------------------------------------------------------------------------

BUNDLES: dict[str, dict[str, Any]] = {
    form.name: json.loads(made) for form in FORMS if form.trust == "sigstore" and isinstance(made := form.make(SIGSTORE), bytes)
}
KEYLESS = [each for each in BUNDLES.values() if "publicKey" not in each["verificationMaterial"]]
ENTRIES: list[dict[str, Any]] = [entry for each in BUNDLES.values() for entry in each["verificationMaterial"]["tlogEntries"]]
LAYERS: list[CosignSignature] = [
    made for form in FORMS if form.trust == "sigstore" and isinstance(made := form.make(SIGSTORE), CosignSignature)
]
_PROMISED = [
    json.loads(layer.annotations["dev.sigstore.cosign/bundle"])
    for layer in LAYERS
    if "dev.sigstore.cosign/bundle" in layer.annotations
]


def log_entry(data: bytes) -> bool:
    """In a bundle's form or in cosign's: one that holds was promised or noted by its log, as it stands there."""
    node: Any = read_object(data, 16, "a log entry")
    parsed = LogEntry.of_cosign(node) if "Payload" in node else LogEntry.of_bundle(node)
    log = TRUST.logs.get(parsed.log_id)
    if log is None:
        return False
    assert verify_entry(parsed, log) in (None, NOW)
    by = SIGSTORE.rekor_v1 if parsed.log_id == SIGSTORE.rekor_v1.log_id else SIGSTORE.rekor_v2
    if parsed.promise is not None:
        said = node["Payload"] if "Payload" in node else node | {"body": node["canonicalizedBody"], "logID": by.log_id.hex()}
        promised = {"body": said["body"], "integratedTime": int(said["integratedTime"]), "logID": said["logID"].lower()}
        assert holds(log.key, parsed.promise, dumps(promised | {"logIndex": int(said["logIndex"])}))
    else:
        head, _, tail = node["inclusionProof"]["checkpoint"]["envelope"].partition("\n\n")
        signatures = [base64.b64decode(line.split(" ")[2])[4:] for line in tail.splitlines()]
        assert any(holds(log.key, each, f"{head}\n".encode()) for each in signatures)
        assert node["inclusionProof"]["rootHash"] in head
    return True


_OF_V1, _OF_V2 = (
    LogEntry.of_bundle(BUNDLES[name]["verificationMaterial"]["tlogEntries"][0])
    for name in ("bundle, Rekor v1", "bundle, Rekor v2")
)
_NOTES = tuple(each.proof.checkpoint for each in (_OF_V1, _OF_V2) if each.proof is not None and each.proof.checkpoint)


def checkpoint(data: bytes) -> bool:
    """Under a proof that is right: one that holds is of the proof's tree."""
    note, holding = data.decode("utf-8", "replace"), False
    for entry in (_OF_V1, _OF_V2):
        proof = entry.proof
        assert proof is not None
        noted = InclusionProof(proof.index, proof.size, proof.root_hash, proof.hashes, note)
        with_note = LogEntry(entry.log_id, entry.index, None, entry.body, None, noted, None)
        if quietly(verify_entry, with_note, TRUST.logs[with_note.log_id]):
            size, root = note.split("\n")[1:3]
            assert (int(size), base64.b64decode(root)) == (proof.size, proof.root_hash)
            holding = True
    return holding


def noted(data: bytes) -> bytes:
    """Signed by one of the logs, whatever it says."""
    text = data.partition(b"\n\n")[0].decode("utf-8", "replace") + "\n"
    log = SIGSTORE.rekor_v1 if len(text) % 2 else SIGSTORE.rekor_v2
    signature = log.key.sign(text.encode())
    return f"{text}\n{note_line(log.name, log.log_id[:4], signature)}".encode()


# -- what is signed -------------------------------------------------------------------------------------------------

IDENTITY = Identity(ROOT, HOW.issuer, Pattern.compile(HOW.identity))
BY_KEY = RELEASE.name
QUESTIONS = tuple(ask for by in (IDENTITY, BY_KEY) for ask in (SignatureBy(by), AttestationBy(PREDICATE_TYPE, by)))
KEYS = {BY_KEY: Key.load(BY_KEY, RELEASE.public_pem)}
TRUSTED = Trusted(KEYS, roots={ROOT: TRUST})
ALONE = OursAlone()
_BUNDLES = SigstoreBundles(LIMITS, ALONE)
_SIGNATURES, _ATTESTATIONS = CosignSignatures(LIMITS, ALONE), CosignAttestations(LIMITS, ALONE)


def _signed_part(tree: Any) -> object:
    """What a keyless signature is about, whatever else its bundle says."""
    envelope = tree.get("dsseEnvelope")
    return tree["messageSignature"]["messageDigest"]["digest"] if envelope is None else envelope["payload"]


_SIGNED_PARTS = [_signed_part(each) for each in KEYLESS]
#: A bundle by a managed key that leans on no log, so that it can be signed anew.
BARE = json.loads(SIGSTORE.signature_bundle(IMAGE.digest, Signing(managed=RELEASE, rekor=None, timestamps=0)))


def bundle(data: bytes) -> bool:
    """One that passes by its certificate says what was signed; one by the key (which the fuzzer has) is about the image."""
    found = _BUNDLES.judge_bytes("a file", data, SUBJECT, QUESTIONS, TRUSTED, JUDGED)
    if not told(found):
        return False
    tree = json.loads(data)
    if any(piece.accepted and piece.about is not None and piece.about.by == IDENTITY for piece in found):
        assert _signed_part(tree) in _SIGNED_PARTS
    elif tree.get("dsseEnvelope") is not None:
        assert IMAGE.digest.hex in json.dumps(json.loads(base64.b64decode(tree["dsseEnvelope"]["payload"])))
    return True


def enveloped(data: bytes) -> bytes:
    """The envelope signed by the managed key, whatever it says."""
    tree = loads(data)
    try:
        assert tree is not None
        envelope = tree["dsseEnvelope"]
        message = pae(envelope["payloadType"], base64.b64decode(envelope["payload"]))
        envelope["signatures"][0]["sig"] = base64.b64encode(RELEASE.sign(message)).decode()
    except (AssertionError, LookupError, TypeError, ValueError, AttributeError):
        return data
    return dumps(tree)


def cosign(data: bytes) -> bool:
    """A layer of a ``.sig`` or ``.att`` manifest, as ``{"type", "payload", "annotations"}``."""
    tree = loads(data)
    if tree is None or not isinstance(kind := tree.get("type"), str) or not isinstance(notes := tree.get("annotations"), dict):
        return False
    try:
        payload = base64.b64decode(tree["payload"])
        layer = CosignSignature(Blob(kind, payload), {key: value for key, value in notes.items() if isinstance(value, str)})
        evidence = document(layers_image([layer]))
    except Exception:  # what is no manifest never comes this far
        return False
    accepted = False
    for verifier in (_SIGNATURES, _ATTESTATIONS):
        if verifier.judges(evidence):
            found = verifier.judge(evidence, SUBJECT, QUESTIONS, TRUSTED, JUDGED)
            if told(found):
                said = base64.b64decode(json.loads(payload)["payload"]) if verifier is _ATTESTATIONS else payload
                keyless = any(piece.accepted and piece.about is not None and piece.about.by == IDENTITY for piece in found)
                assert said in _SAID if keyless else IMAGE.digest.hex in json.dumps(json.loads(said))
                accepted = True
    return accepted


def _said(layer: CosignSignature) -> bytes:
    tree = json.loads(layer.blob.data)
    return base64.b64decode(tree["payload"]) if "payload" in tree else layer.blob.data


_SAID = {_said(layer) for layer in LAYERS}


def cosigned(data: bytes) -> bytes:
    """The payload signed by the managed key, whatever it says, and nothing that speaks of a certificate."""
    tree = loads(data)
    try:
        assert tree is not None
        notes = tree["annotations"]
        notes.pop(CERTIFICATE_ANNOTATION, None)
        notes[SIGNATURE_ANNOTATION] = base64.b64encode(RELEASE.sign(base64.b64decode(tree["payload"]))).decode()
    except (AssertionError, LookupError, TypeError, ValueError, AttributeError):
        return data
    return dumps(tree)


def _layer(made: CosignSignature) -> bytes:
    payload = base64.b64encode(made.blob.data).decode()
    return dumps({"type": made.blob.media_type, "payload": payload, "annotations": dict(made.annotations)})


def _deeds() -> Iterator[tuple[bytes, Deed]]:
    """What each form of evidence logs, and what its entry must be about."""

    def of(signed: Signed) -> tuple[bytes, Deed]:
        signer = signed.chain[0] if signed.chain else RELEASE.spki
        deed = Deed(signed.signature, signed.message, signed.payload, signed.envelope, signer, by_certificate=bool(signed.chain))
        return signed.entries[0].body, deed

    for tree in BUNDLES.values():
        yield of(_BUNDLES._read("a file", dumps(tree), SUBJECT, 1 << 20).signed)
    for layer in LAYERS:
        ((descriptor, notes, body),) = document(layers_image([layer])).layers
        if layer.blob.media_type.endswith("dsse.envelope.v1+json") and "dev.sigstore.cosign/bundle" in notes:
            yield of(_ATTESTATIONS._made("a file", descriptor, notes, body, SUBJECT).signed)


DEEDS = tuple(_deeds())


def log_body(data: bytes) -> bool:
    """An entry is about a signature only if it holds it, or the hash of the envelope in which that stands."""
    holding = False
    for _, deed in DEEDS:
        if quietly(check_body, data, None, deed):
            once = base64.b64encode(deed.signature)
            envelope = hashlib.sha256(deed.envelope).hexdigest().encode() if deed.envelope is not None else b"\0"
            spelled = dumps(json.loads(data))  # without escapes
            assert once in spelled or base64.b64encode(once) in spelled or envelope in spelled
            holding = True
    return holding


def dsse(data: bytes) -> bool:
    """An envelope, and what a signature of it is over."""
    node = read_object(data, LIMITS.json_depth, "an envelope")
    assert Envelope.parse(node).signed_bytes.startswith(b"DSSEv1 ")
    return True


STATEMENT = statement(IMAGE.digest, PREDICATE_TYPE, {"a": [1, {"b": "c"}]})


def in_toto(data: bytes) -> bool:
    """About an image only if that image's digest stands in it."""
    parsed = Statement.parse(data, LIMITS)
    parsed.check_subject(IMAGE.digest)
    assert IMAGE.digest.hex in json.dumps(json.loads(data))
    return True


CONDITIONS = tuple(
    map(
        Condition,
        (
            'predicate.runDetails.builder.id.startsWith("https://github.com/")',
            "predicate.scanner.result.all(r, r.severity != 'CRITICAL' || r.score < 9.5)",
            'timestamp(predicate.metadata.scanFinishedOn) > timestamp("2025-01-01T00:00:00Z")',
            "size(statement.subject) > 0 && statement.subject.exists(s, has(s.name) && s.name.matches('^[a-z/.]+$'))",
            "predicate.a[1].b == 'c' && int(predicate.count) + 1 < 10 && duration(predicate.took) < duration('1h')",
            "predicate == statement.predicate && string(predicate.count) != '' && [predicate].map(p, p.x)[0] in {'a': 1}",
        ),
    )
)


def condition(data: bytes) -> bool:
    """Holds, or does not, on whatever a stranger states."""
    parsed = Statement.parse(data, LIMITS)
    return any([quietly(each.check, parsed.document, parsed.predicate) for each in CONDITIONS])  # noqa: C419 - all of them


def _statements() -> Iterator[bytes]:
    yield STATEMENT
    predicates: tuple[object, ...] = (
        {"runDetails": {"builder": {"id": "https://github.com/x"}}, "count": "3", "took": "3s", "a": [0, {"b": "c"}]},
        {"scanner": {"result": [{"severity": "HIGH", "score": 7.5}]}, "metadata": {"scanFinishedOn": "2025-02-01T00:00:00Z"}},
        json.dumps({"count": 3, "took": "1h"}),
    )
    for each in predicates:
        yield statement(IMAGE.digest, PREDICATE_TYPE, each)
    for fault in CONTENT_FAULTS:
        if not fault.startswith("102"):
            yield statement(IMAGE.digest, PREDICATE_TYPE, {"a": 1}, fault=fault)


# -- timestamps, roots ----------------------------------------------------------------------------------------------

STAMPED = b"stamped"
TSA = SIGSTORE.timestamp_authority
_AUTHORITIES = (*TRUST.timestamp_authorities, *OWN.timestamp_authorities)


def timestamp(data: bytes) -> bool:
    """One that holds tells a time that stands in it."""
    judged = verify_timestamp(data, STAMPED, _AUTHORITIES)
    assert f"{judged.time:%Y%m%d%H%M%S}".encode() in data
    assert hashlib.sha256(STAMPED).digest() in data or hashlib.sha512(STAMPED).digest() in data
    return True


def stamped(data: bytes) -> bytes:
    """A token signed by the authority, whatever it says: the hash of its content among what is signed, then the signature."""
    tree = read_der(data)
    try:
        assert tree is not None
        outer = tree[0][1]
        token = outer if write_der(outer[0])[0] == 0x06 else outer[1][1]
        fields = token[1][1][0][1]
        content = fields[2][1][1][1][0][1]
        signer = fields[-1][1][0][1]
        at = next(at for at, each in enumerate(signer) if each[0] == 0xA0)
        digest = write_der((0x30, [(0x06, _MESSAGE_DIGEST), (0x31, [(0x04, hashlib.sha256(content).digest())])]))
        attributes = [write_der(each) for each in signer[at][1]]
        attributes = [digest if _MESSAGE_DIGEST in each else each for each in attributes]
        signer[at] = (0xA0, b"".join(sorted(attributes)))
        signer[-1] = (0x04, TSA._key.sign(der.set_of(*attributes)))
    except (AssertionError, LookupError, TypeError, ValueError, StopIteration):
        return data
    return write_der(tree[0])


_MESSAGE_DIGEST = der.oid("1.2.840.113549.1.9.4")[2:]


def _tokens() -> Iterator[bytes]:
    yield TSA.response(STAMPED, NOW)
    yield TSA.token(STAMPED, NOW)
    yield TSA.token(STAMPED, NOW, certificates=False, algorithm="sha512")
    for fault in TIMESTAMP_FAULTS:
        yield TSA.response(STAMPED, NOW, fault=fault)


def trusted_root(data: bytes) -> bool:
    """Of JSON, or certificates: it is a root, or who wrote it is told; and no demand that nothing could meet is let through."""
    if data.startswith(b"-----"):
        assert Root.of_ca(ROOT, [data], Demands(log=False, sct=False, timestamp=True), [data]).authorities
        return True
    demands = Demands(*(bool(len(data) & bit) for bit in (1, 2, 4)))
    root = Root.load(ROOT, data, demands)
    assert not demands.log or root.logs
    assert not demands.sct or root.ct_logs
    assert not demands.timestamp or root.timestamp_authorities
    return True


def _roots() -> Iterator[bytes]:
    yield ROOT_JSON
    yield WITHOUT_LOG.trusted_root()
    for fault in ("CA window ends before", "pathlen broken", "intermediate is no CA", "intermediate with another EKU", "no TSA"):
        yield SIGSTORE.trusted_root(fault)
    yield SIGSTORE.own_ca()
    yield LEAF.chain_pem
    yield LEAF.pem + LEAF.chain_pem


def _damaged_bundles() -> Iterator[bytes]:
    """Each form as it should be, and the first with all of its faults."""
    for tree in BUNDLES.values():
        yield dumps(tree)
    yield dumps(BARE)
    for fault in (*LOG_FAULTS, *CONTENT_FAULTS):
        if "33" not in fault and "102" not in fault and fault in set(FORMS[0].faults()):
            made = FORMS[0].make(SIGSTORE, fault)
            assert isinstance(made, bytes)
            yield made


_WORDS = ("mediaType", "verificationMaterial", "tlogEntries", "inclusionProof", "inclusionPromise", "kindVersion", "null")

TARGETS = (
    Target("certificate", certificate, OURS, tuple(_leaves()), issued, longest=8 << 10, largest=64 << 10),
    Target("sct-list", sct_list, OURS, (SCTS,), longest=4 << 10, largest=64 << 10, seconds=1),
    Target("log-entry", log_entry, OURS, tuple(map(dumps, (*ENTRIES, *_PROMISED))), words=_WORDS),
    Target(
        "log-body",
        log_body,
        OURS,
        tuple(body for body, _ in DEEDS),
        words=("apiVersion", "intoto", "hashedrekord", "0.0.2"),
        seconds=1,
    ),
    Target(
        "checkpoint",
        checkpoint,
        OURS,
        tuple(note.encode() for note in _NOTES),
        noted,
        longest=4 << 10,
        largest=64 << 10,
        seconds=1,
    ),
    Target("bundle", bundle, OURS, tuple(_damaged_bundles()), enveloped, words=_WORDS),
    Target("cosign", cosign, OURS, tuple(map(_layer, LAYERS)), cosigned),
    Target("dsse", dsse, OURS, tuple(dumps(each["dsseEnvelope"]) for each in BUNDLES.values() if "dsseEnvelope" in each)),
    Target("statement", in_toto, OURS, tuple(_statements())),
    Target("condition", condition, OURS, tuple(_statements()), longest=4 << 10, seconds=1),
    Target("timestamp", timestamp, OURS, tuple(_tokens()), stamped, longest=8 << 10, largest=64 << 10),
    Target("trusted-root", trusted_root, (ValueError,), tuple(_roots()), longest=32 << 10, largest=4 << 20, words=_WORDS),
)
