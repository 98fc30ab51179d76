"""The private Sigstore is one: sigstore-python and python-tuf accept what is right, and refuse what they can see is wrong."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import rfc8785
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ObjectIdentifier
from rfc3161_client import VerifierBuilder, decode_timestamp_response
from sigstore.models import Bundle, TrustedRoot
from sigstore.verify import Verifier
from sigstore.verify.policy import Identity
from tuf.api.exceptions import DownloadError, DownloadHTTPError, RepositoryError
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.updater import Updater

from tests.simulator import signing
from tests.simulator.registry import Registry
from tests.simulator.signing import Signer, signature_tag
from tests.simulator.sigstore import PrivateSigstore, Signing, attestation_tag
from tests.simulator.sigstore.bundles import LOG_ANNOTATION, TIMESTAMP_ANNOTATION
from tests.simulator.sigstore.ca import CLAIMS
from tests.simulator.sigstore.cases import FORMS, IMAGE, PREDICATE_TYPE, Form
from tests.simulator.sigstore.faults import TUF_FAULTS, Fault, TufFault
from tests.simulator.sigstore.rekor import V1Kind

SIGSTORE = PrivateSigstore()
GITHUB = PrivateSigstore("github", github=True)
POLICY = Identity(identity=Signing().identity, issuer=Signing().issuer)


def judge(bundle: bytes | signing.CosignSignature, message: bytes | None, trusted_root: Path) -> str | None:
    """Why sigstore-python refuses a bundle, None when it accepts it. Whatever it raises is a refusal."""
    assert isinstance(bundle, bytes)
    try:
        verifier = Verifier(trusted_root=TrustedRoot.from_file(str(trusted_root)))
        parsed = Bundle.from_json(bundle)
        if message is None:
            verifier.verify_dsse(parsed, POLICY)
        else:
            verifier.verify_artifact(message, parsed, POLICY)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def judged(form: Form, trusted_root: Path, fault: Fault | None = None) -> str | None:
    """With the trusted root that goes with the fault."""
    SIGSTORE.write_trusted_root(trusted_root, fault)
    return judge(form.make(SIGSTORE, fault), IMAGE.body if form.content == "message" else None, trusted_root)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where a trusted root goes."""
    return tmp_path / "trusted_root.json"


@pytest.mark.parametrize(
    "how",
    [
        Signing(),
        Signing(timestamps=1),
        Signing(rekor=2),
        Signing(rekor=2, timestamps=2),
        Signing(version="0.1"),
        Signing(version="0.2", key="p384"),
        Signing(san="uri", identity="https://example.test/workflow.yml@refs/heads/main"),
    ],
    ids=lambda how: f"v{how.version}-rekor{how.rekor}-{how.key}-{how.san}",
)
def test_good_bundles(how: Signing, root: Path) -> None:
    """Envelopes and messages, Rekor v1 and v2, every version of the format."""
    SIGSTORE.write_trusted_root(root)
    policy = Identity(identity=how.identity, issuer=how.issuer)
    verifier = Verifier(trusted_root=TrustedRoot.from_file(str(root)))
    bundle = Bundle.from_json(SIGSTORE.attestation_bundle(IMAGE.digest, PREDICATE_TYPE, {"a": 1}, how))
    payload_type, payload = verifier.verify_dsse(bundle, policy)
    assert payload_type == signing.PAYLOAD_TYPE
    assert json.loads(payload)["predicate"] == {"a": 1}
    verifier.verify_artifact(IMAGE.body, Bundle.from_json(SIGSTORE.message_bundle(IMAGE.body, how)), policy)


@pytest.mark.parametrize("size", range(1, 10))
def test_every_place_in_a_tree(size: int, root: Path) -> None:
    """The proof of each leaf leads to the root, in trees of any shape (a single leaf has an empty proof)."""
    SIGSTORE.write_trusted_root(root)
    for index in range(size):
        assert judge(SIGSTORE.signature_bundle(IMAGE.digest, Signing(tree=(index, size))), None, root) is None


def test_faults_are_refused_for_their_own_reason(root: Path) -> None:
    """What sigstore-python says about a few of them: a builder that broke something else would be noticed."""
    v1, v2 = FORMS[0], next(form for form in FORMS if form.name == "message bundle, Rekor v2")
    reasons: dict[Fault, str] = {
        "SET by another key": "SET: invalid inclusion promise: keyring: invalid signature",
        "integrated time altered": "SET: invalid inclusion promise: keyring: invalid signature",
        "inclusion proof of another leaf": "inclusion proof contains invalid root hash",
        "inclusion proof too long": "inclusion proof has wrong size",
        "checkpoint by another key": "checkpoint: invalid signature",
        "checkpoint of another root": "Inclusion proof contains invalid root hash signature",
        "entry of another key": "log entry signatures do not match bundle",
        "entry of another signature": "log entry signatures do not match bundle",
        "wrong digest in the entry": "log entry payload hash does not match bundle",
        "SCT missing": "Certificate does not contain a signed certificate timestamp extension",
        "SCT of another certificate": "SCT verify failed: keyring: invalid signature",
        "wrong EKU": "Extended usage does not contain `code signing`",
        "leaf expired": "failed to build timestamp certificate chain",
        "signature over other bytes": "DSSE: invalid signature",
        "two DSSE signatures": "envelope must contain exactly one signature",
    }
    for fault, reason in reasons.items():
        assert reason in (judged(v1, root, fault) or "accepted"), fault
    stamped: dict[Fault, str] = {
        "33 timestamps": "too many signed timestamp",
        "duplicate timestamp": "duplicate timestamp found",
        "timestamp over other bytes": "not enough sources of verified time",
        "message digest of another": "Bundle message digest mismatch",
    }
    for fault, reason in stamped.items():
        assert reason in (judged(v2, root, fault) or "accepted"), fault


def test_the_clock(root: Path) -> None:
    """Everything is made at the time that the clock shows."""
    sigstore = PrivateSigstore("clock", now=SIGSTORE.now.replace(year=2024, microsecond=7))
    assert sigstore.now.microsecond == 0
    sigstore.write_trusted_root(root, windows={"CA": (sigstore.now, sigstore.now)})
    earlier = sigstore.signature_bundle(IMAGE.digest)
    sigstore.now = sigstore.now.replace(month=9)
    later = sigstore.signature_bundle(IMAGE.digest)
    times = [int(json.loads(each)["verificationMaterial"]["tlogEntries"][0]["integratedTime"]) for each in (earlier, later)]
    assert times == [int(sigstore.now.replace(month=6).timestamp()), int(sigstore.now.timestamp())]
    assert judge(earlier, None, root) is None
    assert judge(later, None, root) is None
    certificate = sigstore.leaf().certificate
    assert certificate.not_valid_before_utc < sigstore.now < certificate.not_valid_after_utc
    assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).total_seconds() == 600


def test_what_a_leaf_claims() -> None:
    """Empty subject, critical name, the issuer raw and as text, each further claim under its number."""
    claims = {name: f"value of {name}" for name in CLAIMS}
    leaf = SIGSTORE.leaf(Signing(san="other name", identity="joe", claims=claims)).certificate
    assert leaf.subject == x509.Name([])
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical
    (name,) = names.value
    assert isinstance(name, x509.OtherName)
    assert (name.type_id.dotted_string, name.value) == ("1.3.6.1.4.1.57264.1.7", b"\x0c\x03joe")

    def value(arc: int) -> bytes:
        found = leaf.extensions.get_extension_for_oid(ObjectIdentifier(f"1.3.6.1.4.1.57264.1.{arc}")).value
        assert isinstance(found, x509.UnrecognizedExtension)
        return found.value

    issuer = Signing().issuer.encode()
    assert (value(1), value(8)) == (issuer, bytes([0x0C, len(issuer)]) + issuer)
    assert all(value(arc)[2:].decode() == claims[name] for name, arc in CLAIMS.items())


@pytest.mark.parametrize("key", ["rsa2048", "p521", "ed25519"])
def test_leaves_of_every_kind(key: signing.KeyKind) -> None:
    """Their signatures hold by plain cryptography, where sigstore-python gives up."""
    document = json.loads(SIGSTORE.message_bundle(b"artifact", Signing(key=key)))
    leaf = x509.load_der_x509_certificate(base64.b64decode(document["verificationMaterial"]["certificate"]["rawBytes"]))
    assert leaf.public_key() == SIGSTORE.signer(key).private.public_key()
    signature = base64.b64decode(document["messageSignature"]["signature"])
    public = leaf.public_key()
    if isinstance(public, ec.EllipticCurvePublicKey):
        public.verify(signature, b"artifact", ec.ECDSA(hashes.SHA256()))
    else:
        assert SIGSTORE.signer(key).sign(b"artifact") == signature


def test_a_cosign_signature_holds_together() -> None:
    """Payload, signature, certificate, chain, entry and promise belong to each other."""
    made = SIGSTORE.cosign_signature(IMAGE.digest, Signing(timestamps=1))
    notes = made.annotations
    leaf = x509.load_pem_x509_certificate(notes["dev.sigstore.cosign/certificate"].encode())
    issuer, root = x509.load_pem_x509_certificates(notes["dev.sigstore.cosign/chain"].encode())
    leaf.verify_directly_issued_by(issuer)
    issuer.verify_directly_issued_by(root)
    signature = base64.b64decode(notes[signing.SIGNATURE_ANNOTATION])
    public, log = leaf.public_key(), SIGSTORE.rekor_v1.key.private.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert isinstance(log, ec.EllipticCurvePublicKey)
    public.verify(signature, made.blob.data, ec.ECDSA(hashes.SHA256()))
    entry = json.loads(notes[LOG_ANNOTATION])
    promise = base64.b64decode(entry["SignedEntryTimestamp"])
    log.verify(promise, rfc8785.dumps(entry["Payload"]), ec.ECDSA(hashes.SHA256()))
    assert entry["Payload"]["logID"] == SIGSTORE.rekor_v1.log_id.hex()
    body = json.loads(base64.b64decode(entry["Payload"]["body"]))
    assert body["spec"]["data"]["hash"]["value"] == hashlib.sha256(made.blob.data).hexdigest()
    assert base64.b64decode(body["spec"]["signature"]["content"]) == signature
    assert base64.b64decode(body["spec"]["signature"]["publicKey"]["content"]) == leaf.public_bytes(serialization.Encoding.PEM)
    stamp = base64.b64decode(json.loads(notes[TIMESTAMP_ANNOTATION])["SignedRFC3161Timestamp"])
    assert stamped_by(SIGSTORE, stamp, signature)


def stamped_by(sigstore: PrivateSigstore, stamp: bytes, over: bytes) -> bool:
    """By rfc3161-client alone."""
    leaf, root = sigstore.timestamp_authority.chain(sigstore.now)
    verifier = VerifierBuilder().tsa_certificate(leaf).add_root_certificate(root).build()
    response = decode_timestamp_response(stamp)
    assert response.tst_info.gen_time == sigstore.now
    return verifier.verify_message(response, over)


@pytest.mark.parametrize("kind", ["dsse 0.0.1", "intoto 0.0.1", "intoto 0.0.2"])
def test_a_cosign_attestation_holds_together(kind: V1Kind) -> None:
    """The entry names the whole layer by its hash; the timestamp is over the whole layer."""
    made = SIGSTORE.cosign_attestation(IMAGE.digest, PREDICATE_TYPE, {"a": 1}, Signing(kind=kind, timestamps=1))
    assert made.annotations[signing.SIGNATURE_ANNOTATION] == ""
    envelope = json.loads(made.blob.data)
    payload = base64.b64decode(envelope["payload"])
    spec = json.loads(base64.b64decode(json.loads(made.annotations[LOG_ANNOTATION])["Payload"]["body"]))["spec"]
    hashed = spec.get("envelopeHash") or spec["content"]["hash"]
    assert hashed == {"algorithm": "sha256", "value": hashlib.sha256(made.blob.data).hexdigest()}
    hashed = spec.get("payloadHash") or spec["content"]["payloadHash"]
    assert hashed["value"] == hashlib.sha256(payload).hexdigest()
    if kind == "intoto 0.0.2":
        (signature,) = spec["content"]["envelope"]["signatures"]
        assert base64.b64decode(signature["sig"]).decode() == envelope["signatures"][0]["sig"]
    assert json.loads(payload)["_type"] == signing.STATEMENT_V01
    stamp = base64.b64decode(json.loads(made.annotations[TIMESTAMP_ANNOTATION])["SignedRFC3161Timestamp"])
    assert stamped_by(SIGSTORE, stamp, made.blob.data)


def test_cosign_v2_knows_no_rekor_v2() -> None:
    """Its annotation has no room for an entry without a promise."""
    with pytest.raises(ValueError, match="Rekor v1 only"):
        SIGSTORE.cosign_signature(IMAGE.digest, Signing(rekor=2))


def test_managed_keys_in_the_log() -> None:
    """A bundle by a managed key names it by hint; both logs hold the public key."""
    alice = Signer.of("p256", "alice")
    for rekor in (1, 2):
        document = json.loads(SIGSTORE.signature_bundle(IMAGE.digest, Signing(managed=alice, rekor=rekor)))
        material = document["verificationMaterial"]
        assert material["publicKey"] == {"hint": alice.hint}
        body = base64.b64decode(material["tlogEntries"][0]["canonicalizedBody"])
        assert base64.b64encode(alice.public_pem if rekor == 1 else alice.spki) in body


def test_github_has_neither_log_nor_sct(root: Path) -> None:
    """Only a timestamp, and a chain one level deeper."""
    document = json.loads(GITHUB.signature_bundle(IMAGE.digest))
    material = document["verificationMaterial"]
    assert material["tlogEntries"] == []
    leaf = x509.load_der_x509_certificate(base64.b64decode(material["certificate"]["rawBytes"]))
    with pytest.raises(x509.ExtensionNotFound):
        leaf.extensions.get_extension_for_class(x509.PrecertificateSignedCertificateTimestamps)
    (stamp,) = material["timestampVerificationData"]["rfc3161Timestamps"]
    signature = base64.b64decode(document["dsseEnvelope"]["signatures"][0]["sig"])
    assert stamped_by(GITHUB, base64.b64decode(stamp["signedTimestamp"]), signature)
    trusted = json.loads(GITHUB.write_trusted_root(root).read_bytes())
    assert (trusted["tlogs"], trusted["ctlogs"]) == ([], [])
    assert len(trusted["certificateAuthorities"][0]["certChain"]["certificates"]) == 3
    assert "no transparency log" in (judge(GITHUB.signature_bundle(IMAGE.digest), None, root) or "accepted")


async def test_evidence_in_a_registry(registry: Registry) -> None:
    """Signatures and attestations lie where the tools look for them."""
    image = registry.add("team/app", IMAGE, "1.0")
    registry.add("team/app", SIGSTORE.signature_image(image.digest), signature_tag(image.digest))
    registry.add("team/app", SIGSTORE.attestation_image(image.digest, PREDICATE_TYPE, {}), attestation_tag(image.digest))
    registry.refer("team/app", SIGSTORE.signature_referrer(image))
    registry.refer("team/app", SIGSTORE.attestation_referrer(image, PREDICATE_TYPE, {}))
    registry.refer("team/app", SIGSTORE.message_referrer(image))
    assert set(registry.tags("team/app")) == {"1.0", f"sha256-{image.digest.hex}.sig", f"sha256-{image.digest.hex}.att"}
    predicates = [
        each.manifest["annotations"]["dev.sigstore.bundle.predicateType"] for each in registry.referrers("team/app", image.digest)
    ]
    assert sorted(predicates) == sorted([signing.SIGN_PREDICATE, PREDICATE_TYPE, signing.SIGN_PREDICATE])


def test_every_fault_is_in_the_table() -> None:
    """No fault that a builder knows is left out of every form."""
    from tests.simulator.sigstore import faults

    listed = {fault for form in FORMS for fault in (*form.faults(), *form.oddities())}
    groups = (
        faults.CERTIFICATE_FAULTS,
        faults.LOG_FAULTS,
        faults.TIMESTAMP_FAULTS,
        faults.CONTENT_FAULTS,
        faults.ROOT_FAULTS,
        faults.ODDITIES,
    )
    assert listed == {fault for group in groups for fault in group}


# -- TUF -----------------------------------------------------------------------------------------------------------


class Folder(FetcherInterface):
    """Fetches from a folder."""

    base = "https://tuf.test/"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = self.folder / url.removeprefix(self.base)
        if not path.is_file():
            raise DownloadHTTPError("not found", 404)
        yield path.read_bytes()


def fetched(folder: Path, client: Path, bootstrap: bytes) -> bytes:
    """The trusted root, as a client with this state gets it."""
    (client / "targets").mkdir(parents=True, exist_ok=True)
    updater = Updater(
        str(client / "metadata"),
        Folder.base,
        str(client / "targets"),
        f"{Folder.base}targets/",
        Folder(folder),
        bootstrap=bootstrap,
    )
    updater.refresh()
    info = updater.get_targetinfo("trusted_root.json")
    assert info is not None
    return Path(updater.download_target(info)).read_bytes()


def test_a_good_tuf_repository(tmp_path: Path) -> None:
    """Its trusted root arrives; so do a second version, and one after a change of the root's keys."""
    repository = SIGSTORE.tuf_repository(tmp_path / "repository")
    client = tmp_path / "client"
    assert fetched(repository.folder, client, repository.bootstrap) == SIGSTORE.trusted_root()
    repository.publish({"trusted_root.json": b"second"})
    assert fetched(repository.folder, client, repository.bootstrap) == b"second"
    repository.rotate_root()
    repository.publish({"trusted_root.json": b"third"})
    assert fetched(repository.folder, client, repository.bootstrap) == b"third"
    assert fetched(repository.folder, tmp_path / "new", repository.bootstrap) == b"third"


@pytest.mark.parametrize("fault", [fault for fault in TUF_FAULTS if "rolled back" not in fault])
def test_a_wrong_tuf_repository(fault: TufFault, tmp_path: Path) -> None:
    """Refused by those who see it for the first time."""
    repository = SIGSTORE.tuf_repository(tmp_path / "repository", fault=fault)
    with pytest.raises((RepositoryError, DownloadError)):
        fetched(repository.folder, tmp_path / "client", repository.bootstrap)


@pytest.mark.parametrize("fault", [fault for fault in TUF_FAULTS if "rolled back" in fault])
def test_a_tuf_repository_rolled_back(fault: TufFault, tmp_path: Path) -> None:
    """Refused by those who saw what was there before."""
    repository = SIGSTORE.tuf_repository(tmp_path / "repository")
    repository.publish(SIGSTORE.tuf_targets())
    fetched(repository.folder, tmp_path / "client", repository.bootstrap)
    repository.publish(SIGSTORE.tuf_targets(), fault)
    with pytest.raises(RepositoryError):
        fetched(repository.folder, tmp_path / "client", repository.bootstrap)


def test_nothing_is_rolled_back_before_the_second_version(tmp_path: Path) -> None:
    """The builder says so."""
    with pytest.raises(ValueError, match="second version"):
        SIGSTORE.tuf_repository(tmp_path, fault="timestamp rolled back")
