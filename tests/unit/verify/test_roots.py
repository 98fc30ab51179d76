"""Roots of trust: what a trusted root or a certificate file must hold, and what it comes to mean."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from proxy.verify.roots import Demands, Root, Window, note_key_id, public_good
from tests.simulator.sigstore.rekor import b64
from tests.tools import PATIENCE
from tests.unit.verify.pki import Party, authority, pem
from tests.unit.verify.reading import GITHUB, SIGSTORE

NOTHING = Demands(log=False, sct=False)
Json = dict[str, Any]
V1, V2 = SIGSTORE.rekor_v1, SIGSTORE.rekor_v2


def written() -> Json:
    """The private Sigstore's trusted root."""
    document: Json = json.loads(SIGSTORE.trusted_root())
    return document


def load(document: Json, demands: Demands | None = None) -> Root:
    """The root, under usual demands."""
    return Root.load("corp", json.dumps(document).encode(), demands or Demands())


def test_a_trusted_root() -> None:
    """Authorities with their chains, logs by their ids, and windows; the JSON stays for the second verdict."""
    root = load(written())
    assert [len(each.chain) for each in root.authorities] == [2]
    assert set(root.logs) == {V1.log_id, V2.log_id}
    assert SIGSTORE.ct_log is not None
    assert set(root.ct_logs) == {SIGSTORE.ct_log.log_id}
    assert len(root.timestamp_authorities) == 1
    assert root.authorities[0].window == Window(datetime(2022, 1, 1, tzinfo=UTC), None)
    assert root.document is not None


def test_the_public_good_root_is_at_hand_without_a_heavy_import() -> None:
    """It is read out of the sigstore distribution, of which nothing is run."""
    code = (
        "import sys\n"
        "from proxy.verify.roots import Demands, Root, public_good\n"
        "root = Root.load('sigstore', public_good(), Demands())\n"
        "print(len(root.authorities), len(root.logs), len(root.ct_logs))\n"
        "print([name for name in sys.modules if name.startswith('sigstore.') and name != 'sigstore._store' or name == 'tuf'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert done.stdout.splitlines() == ["2 2 2", "[]"]
    assert public_good().startswith(b"{")


@pytest.mark.parametrize(
    "kind",
    [
        "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
        "application/vnd.dev.sigstore.trustedroot+json;version=0.2",
        "application/vnd.dev.sigstore.trustedroot.v0.1+json",
        "application/vnd.dev.sigstore.trustedroot.v0.2+json",
    ],
)
def test_versions(kind: str) -> None:
    """Both versions, in the old spelling and the new."""
    assert load({**written(), "mediaType": kind}).logs


def test_logs_without_an_id() -> None:
    """The id is the hash of the key, for Rekor v2 with the log's name."""
    document = written()
    for log in (*document["tlogs"], *document["ctlogs"]):
        del log["logId"]
    root = load(document)
    assert set(root.logs) == {V1.log_id, V2.log_id}
    assert root.logs[V1.log_id].spki_sha256 == V1.log_id
    key = V2.key.private.public_key()
    assert V2.log_id == note_key_id(V2.origin, key)  # type: ignore[arg-type]  # Rekor v2's keys are Ed25519


def test_keys_of_unknown_kinds_are_left_out() -> None:
    """A log by a key that nothing can be proven by is an unknown log, and the root stays of use."""
    curve = ec.generate_private_key(ec.SECP256K1()).public_key()
    der = curve.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    document = written()
    for raw, details in ((der, "PKIX_ECDSA_SECP256K1"), (b"what will come", "ML_DSA_65"), (b"nor is this a kind", {})):
        document["tlogs"].append({**document["tlogs"][0], "publicKey": {"rawBytes": b64(raw), "keyDetails": details}})
    assert set(load(document).logs) == {V1.log_id, V2.log_id}


def edit(*path: str | int, to: object) -> Callable[[Json], None]:
    """Set something deep in a document."""

    def apply(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = to

    return apply


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (edit("mediaType", to="application/json"), "media type 'application/json'"),
        (edit("mediaType", to=7), "no text 'mediaType'"),
        (edit("tlogs", to={}), "no list 'tlogs'"),
        (edit("tlogs", 0, to="log"), "not an object"),
        (edit("tlogs", to=[{}] * 257), "the limit is 256"),
        (edit("tlogs", 0, "hashAlgorithm", to="SHA2_512"), "SHA2_512"),
        (edit("tlogs", 0, "publicKey", to=None), "no object 'publicKey'"),
        (edit("tlogs", 0, "publicKey", "rawBytes", to="AAAA"), "log's key that cannot be read"),
        (edit("tlogs", 0, "publicKey", "rawBytes", to="!"), "not base64"),
        (edit("tlogs", 0, "logId", to="AAAA"), "should be an object"),
        (edit("tlogs", 0, "logId", "keyId", to="AAAA"), "whose id is no hash"),
        (edit("tlogs", 1, "logId", "keyId", to=b64(V1.log_id)), "twice"),
        (edit("tlogs", 0, "publicKey", "validFor", "start", to="yesterday"), "a time that is none: yesterday"),
        (edit("tlogs", 0, "publicKey", "validFor", "start", to="2025-02-30T00:00:00Z"), "a time that is none"),
        (edit("tlogs", 0, "publicKey", "validFor", "start", to=1), "a time that is none"),
        (edit("tlogs", 0, "publicKey", "validFor", "end", to="2001-01-01T00:00:00Z"), "ends before it begins"),
        (edit("certificateAuthorities", 0, "certChain", "certificates", to=[]), "without certificates"),
        (edit("certificateAuthorities", 0, "certChain", "certificates", 0, "rawBytes", to="AAAA"), "certificate that cannot"),
        (edit("certificateAuthorities", 0, "certChain", "certificates", to=[7]), "should be an object"),
    ],
)
def test_trusted_roots_that_are_none(change: Callable[[Json], None], told: str) -> None:
    """Each is refused with words for the person who wrote the configuration."""
    document = written()
    change(document)
    with pytest.raises(ValueError, match=r"^this trusted root ") as refusal:
        load(document)
    assert told in str(refusal.value)


@pytest.mark.parametrize(
    ("body", "told"),
    [(b"[]", "not a JSON object"), (b"{", "cannot be read"), (b" " * ((4 << 20) + 1), "has 4194305 bytes")],
)
def test_bytes_that_are_no_trusted_root(body: bytes, told: str) -> None:
    """Nor are these."""
    with pytest.raises(ValueError, match=told):
        Root.load("corp", body, NOTHING)


def test_a_chain_out_of_order() -> None:
    """The issuer comes first; the other way round, nothing was issued by what follows."""
    document = written()
    document["certificateAuthorities"][0]["certChain"]["certificates"].reverse()
    with pytest.raises(ValueError, match="is not issued by"):
        load(document)


@pytest.mark.parametrize(
    ("missing", "demands", "told"),
    [
        ("tlogs", Demands(), "say `log: none`"),
        ("ctlogs", Demands(), "say `sct: none`"),
        ("timestampAuthorities", Demands(timestamp=True), "say `timestamp: none`"),
    ],
)
def test_demands_that_the_root_cannot_meet(missing: str, demands: Demands, told: str) -> None:
    """A root under which nothing could pass is a mistake, and what to write instead is said."""
    document = written()
    del document[missing]
    with pytest.raises(ValueError, match=told):
        load(document, demands)
    assert load(document, NOTHING).name == "corp"


def test_an_empty_root() -> None:
    """Nothing at all is trusted by nobody."""
    with pytest.raises(ValueError, match="is empty"):
        load({"mediaType": written()["mediaType"]}, NOTHING)


def test_the_identity_is_of_what_is_trusted() -> None:
    """Spelling and name do not matter; windows, keys and demands do."""
    document = written()
    body = json.dumps(document, indent=7).encode()
    identity = load(document).identity
    assert Root.load("another name", body, Demands()).identity == identity
    changed = [load(document, NOTHING).identity]
    for change in (
        edit("tlogs", 0, "publicKey", "validFor", "end", to="2031-01-01T00:00:00Z"),
        edit("certificateAuthorities", 0, "validFor", "start", to="2022-01-02T00:00:00Z"),
        edit("timestampAuthorities", to=[]),
        edit("ctlogs", 0, "publicKey", "rawBytes", to=b64(V1.key.spki)),
    ):
        document = written()
        change(document)
        changed.append(load(document).identity)
    assert len({identity, *changed}) == 6


def test_windows_are_closed() -> None:
    """Both ends belong to a window, and no end is no bound."""
    start, end, second = datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 2, 1, tzinfo=UTC), timedelta(seconds=1)
    window = Window(start, end)
    assert [window.holds(at) for at in (start - second, start, end, end + second)] == [False, True, True, False]
    assert Window().holds(start)


# -- certificates of one's own --------------------------------------------------------------------------------------

ROOT = authority("root")
MIDDLE = authority("middle", ROOT, path_length=0)


def test_certificates_of_ones_own() -> None:
    """Each certificate stands for itself, with all that leads up from it; there is no log, and nothing for a second verdict."""
    root = Root.of_ca("legacy", [pem(ROOT, MIDDLE), pem(ROOT)], NOTHING, [GITHUB.own_tsa()])
    assert [len(each.chain) for each in root.authorities] == [1, 2]
    assert not root.logs
    assert not root.ct_logs
    assert root.document is None
    assert [len(each.chain) for each in root.timestamp_authorities] == [1]
    assert root.identity != Root.of_ca("legacy", [pem(ROOT)], NOTHING).identity


def test_an_intermediate_alone() -> None:
    """Who names an intermediate without its root trusts the intermediate."""
    assert [len(each.chain) for each in Root.of_ca("legacy", [pem(MIDDLE)], NOTHING).authorities] == [1]


@pytest.mark.parametrize(
    ("pems", "demands", "told"),
    [
        ([], NOTHING, "no certificate of an authority is named"),
        ([pem(ROOT)], Demands(log=True, sct=False), "say `log: none`"),
        ([pem(ROOT)], Demands(log=False, sct=True), "say `sct: none`"),
        ([pem(ROOT)], Demands(log=False, sct=False, timestamp=True), "under `tsa`"),
        ([b"nothing"], NOTHING, "certificates that cannot be read"),
        ([b" " * ((1 << 20) + 1)], NOTHING, "1048577 bytes"),
        ([ROOT.key_pem + pem(ROOT)], NOTHING, "holds a private key"),
        ([pem(Party("signer", ROOT))], NOTHING, "may not issue others: CN=signer"),
        ([pem(authority("bounded", name_constraints=True))], NOTHING, "name constraints"),
        ([pem(authority("for servers", purposes=("server",)))], NOTHING, "may not vouch for code"),
        ([pem(authority("without the bit", usage=("digital_signature",)))], NOTHING, "may not issue others"),
        ([pem(authority("old", curve=ec.SECP224R1()))], NOTHING, "a key on the curve secp224r1"),
        ([pem(ROOT, MIDDLE, authority("deep", MIDDLE))], NOTHING, "more authorities than CN=middle allows"),
    ],
)
def test_certificate_files_that_are_none(pems: list[bytes], demands: Demands, told: str) -> None:
    """Each is refused with words for the person who wrote the configuration."""
    with pytest.raises(ValueError) as refusal:
        Root.of_ca("legacy", pems, demands)
    assert told in str(refusal.value)


def test_log_ids_are_hashes_of_keys() -> None:
    """What the simulator calls its logs is what the specifications say."""
    assert hashlib.sha256(V1.key.spki).digest() == V1.log_id
