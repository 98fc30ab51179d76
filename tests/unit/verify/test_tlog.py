"""Transparency log entries: promises, inclusion proofs, checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from proxy.errors import EvidenceMalformed
from proxy.verify.roots import LogKey, Window
from proxy.verify.tlog import InclusionProof, LogEntry, verify_entry
from tests.simulator.signing import Signer
from tests.simulator.sigstore import Fault
from tests.simulator.sigstore.rekor import Deed, audit_path, b64, leaf_hash, note_line, tree_root
from tests.unit.verify.reading import SIGSTORE, root_of

Json = dict[str, Any]
V1, V2 = SIGSTORE.rekor_v1, SIGSTORE.rekor_v2
LOGS = root_of(SIGSTORE).logs
DEED = Deed(b"signature", b"message", Signer.of("p256"))


def v1(fault: Fault | None = None) -> Json:
    """An entry of Rekor v1, as a bundle has it."""
    return V1.enter(DEED, "hashedrekord 0.0.1", SIGSTORE.now, fault=fault).of_bundle()


def v2(fault: Fault | None = None) -> Json:
    """An entry of Rekor v2."""
    return V2.enter(DEED, "hashedrekord 0.0.2", SIGSTORE.now, fault=fault).of_bundle()


def verify(node: Json) -> datetime | None:
    """The time that the log promised, by the log that the entry names."""
    entry = LogEntry.of_bundle(node)
    return verify_entry(entry, LOGS[entry.log_id])


def refused(node: Json, told: str) -> None:
    """The entry is refused with these words."""
    with pytest.raises(EvidenceMalformed, match=told):
        verify(node)


# -- what an entry says ---------------------------------------------------------------------------------------------


def test_an_entry_in_a_bundle() -> None:
    """Everything is read, and kind and version as they are said beside the body."""
    entry = LogEntry.of_bundle(v1())
    assert (entry.log_id, entry.integrated_time) == (V1.log_id, SIGSTORE.now)
    assert entry.kind == ("hashedrekord", "0.0.1")
    assert entry.proof is not None
    assert (entry.proof.index, entry.proof.size) == (1, 2)
    assert entry.index != entry.proof.index  # the log's own number, and the shard's


def test_an_entry_beside_a_cosign_signature() -> None:
    """A promise without a proof."""
    entry = LogEntry.of_cosign(V1.enter(DEED, "hashedrekord 0.0.1", SIGSTORE.now).of_cosign())
    assert entry.proof is None
    assert verify_entry(entry, LOGS[V1.log_id]) == SIGSTORE.now


def test_what_protocol_buffers_leave_out() -> None:
    """Zero is not written; numbers come as text or as numbers; null is nothing."""
    node = V1.enter(DEED, "hashedrekord 0.0.1", SIGSTORE.now, index=0, size=1).of_bundle()
    del node["inclusionProof"]["logIndex"]
    del node["inclusionProof"]["hashes"]
    node["inclusionProof"]["treeSize"] = 1
    assert verify(node) == SIGSTORE.now
    bare = {**v2(), "inclusionPromise": None, "integratedTime": "0"}
    assert verify(bare) is None


def change(key: str, value: object) -> Callable[[Json], None]:
    """Set something in an entry; dots lead downwards."""
    *path, last = key.split(".")

    def apply(node: Json) -> None:
        for part in path:
            node = node[part]
        node[last] = value

    return apply


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (change("logId", None), "no object 'logId'"),
        (change("logId.keyId", "!"), "not base64"),
        (change("logIndex", "01"), "logIndex is no number"),
        (change("logIndex", -1), "logIndex is no number"),
        (change("logIndex", True), "logIndex is no number"),
        (change("logIndex", 1.5), "logIndex is no number"),
        (change("logIndex", None), "logIndex is no number"),
        (change("logIndex", str(2**53)), "logIndex is no number"),
        (change("logIndex", "9" * 5000), "logIndex is no number"),
        (change("integratedTime", "253402300800"), "a time that is none"),
        (change("canonicalizedBody", None), "no text 'canonicalizedBody'"),
        (change("kindVersion", []), "no object 'kindVersion'"),
        (change("kindVersion.kind", 1), "no text 'kind'"),
        (change("inclusionPromise", "x"), "no object 'inclusionPromise'"),
        (change("inclusionPromise.signedEntryTimestamp", "x"), "not base64"),
        (change("inclusionProof", []), "no object 'inclusionProof'"),
        (change("inclusionProof.hashes", ["x"]), "not base64"),
        (change("inclusionProof.hashes", [1]), "not text"),
        (change("inclusionProof.hashes", [""] * 65), "the limit is 64"),
        (change("inclusionProof.rootHash", None), "no text 'rootHash'"),
        (change("inclusionProof.checkpoint", "x"), "no object 'checkpoint'"),
        (change("inclusionProof.checkpoint", {}), "no text 'envelope'"),
    ],
)
def test_entries_that_are_none(edit: Callable[[Json], None], told: str) -> None:
    """Whatever stands there, what comes out is a refusal."""
    node = v1()
    edit(node)
    refused(node, told)


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        ({"logID": "zz"}, "is not hex"),
        ({"body": "!"}, "not base64"),
        ({"integratedTime": "soon"}, "integratedTime is no number"),
        ({"logIndex": []}, "logIndex is no number"),
    ],
)
def test_annotations_that_are_no_entries(payload: Json, told: str) -> None:
    """The same for cosign's own form."""
    node = V1.enter(DEED, "hashedrekord 0.0.1", SIGSTORE.now).of_cosign()
    with pytest.raises(EvidenceMalformed, match=told):
        LogEntry.of_cosign({**node, "Payload": {**node["Payload"], **payload}})
    with pytest.raises(EvidenceMalformed, match="nothing proves"):
        LogEntry.of_cosign({**node, "SignedEntryTimestamp": ""})


# -- what proves it -------------------------------------------------------------------------------------------------


def test_promise_and_proof() -> None:
    """Rekor v1 promises and proves; Rekor v2 proves, and knows no time."""
    assert verify(v1()) == SIGSTORE.now
    assert verify(v2()) is None


def test_promise_43_an_integrated_time_that_nobody_signed() -> None:
    """A time beside a bare proof proves nothing."""
    assert LogEntry.of_bundle(v1("SET missing")).integrated_time == SIGSTORE.now
    assert verify(v1("SET missing")) is None
    assert verify(v2("SET missing")) is None


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("SET by another key", "did not sign"),
        ("SET broken", "did not sign"),
        ("integrated time altered", "did not sign"),
        ("log index altered", "did not sign"),
        ("SET and inclusion proof missing", "nothing proves"),
    ],
)
def test_promises_that_do_not_hold(fault: Fault, told: str) -> None:
    """The promise is over body, time, log and index."""
    refused(v1(fault), told)


def test_a_promise_without_a_time() -> None:
    """There is nothing that could have been signed."""
    node = v1()
    del node["integratedTime"]
    refused(node, "without a time")


@pytest.mark.parametrize("make", [v1, v2])
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("inclusion proof broken", "does not lead to its root hash"),
        ("inclusion proof of another leaf", "does not lead to its root hash"),
        ("inclusion proof too long", "of the wrong length"),
        ("checkpoint broken", "did not sign"),
        ("checkpoint by another key", "did not sign"),
        ("checkpoint of another size", "another tree"),
        ("checkpoint of another root", "another tree"),
        ("checkpoint of another origin", "another origin"),
    ],
)
def test_proofs_that_do_not_hold(make: Callable[[Fault], Json], fault: Fault, told: str) -> None:
    """A proof that is there must hold, also beside a good promise."""
    refused(make(fault), told)


def test_a_proof_without_a_checkpoint() -> None:
    """Beside a promise it only has to be consistent (bundles of version 0.1); alone it proves nothing."""
    assert verify(v1("checkpoint missing")) == SIGSTORE.now
    refused(v2("checkpoint missing"), "nothing proves")
    empty = v2()
    empty["inclusionProof"]["checkpoint"]["envelope"] = ""
    refused(empty, "nothing proves")


@pytest.mark.parametrize("size", [*range(1, 18), 100])
def test_every_place_in_a_tree(size: int) -> None:
    """The path of each leaf, in trees of every shape; no other place will do for it."""
    leaves = [leaf_hash(b"%d" % number) for number in range(size)]
    root = tree_root(leaves)
    for index in range(size):
        proof = InclusionProof(index, size, root, audit_path(leaves, index), None)
        proof.check(b"%d" % index)
        for elsewhere in {(index + 1) % size, index ^ 1, size} - {index}:
            with pytest.raises(EvidenceMalformed):
                replace(proof, index=elsewhere).check(b"%d" % index)


def test_hashes_of_another_length() -> None:
    """Hashes are SHA-256, or a node could be taken for a leaf."""
    with pytest.raises(EvidenceMalformed, match="wrong length"):
        InclusionProof(0, 2, b"0" * 32, (b"0" * 31,), None).check(b"")


# -- checkpoints ----------------------------------------------------------------------------------------------------


def noted(note: Callable[[str], str]) -> Json:
    """An entry of Rekor v2 with another note."""
    node = v2()
    checkpoint = node["inclusionProof"]["checkpoint"]
    checkpoint["envelope"] = note(checkpoint["envelope"])
    return node


def own_line(note: str) -> str:
    """The log's own signature line."""
    return next(line for line in note.splitlines(keepends=True) if line.startswith(f"\u2014 {V2.name} "))


def test_witnesses_are_ignored() -> None:
    """Signatures of others say nothing, wherever they stand; one of the log's own must be there."""
    stranger = note_line("witness.test", b"1234", b"any signature at all")
    assert verify(noted(lambda note: note.replace(own_line(note), stranger + own_line(note) + stranger))) is None
    refused(noted(lambda note: note.replace(own_line(note), "")), "without a signature by its log")
    refused(noted(lambda note: note.replace(own_line(note), stranger)), "without a signature by its log")


def test_each_signature_by_the_log_must_hold() -> None:
    """A good one does not make up for a broken one under the same hint."""
    broken = note_line(V2.name, V2.log_id[:4], b"0" * 64)
    refused(noted(lambda note: note.replace(own_line(note), own_line(note) + broken)), "did not sign")


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda note: note.rstrip("\n"), "no signed note"),
        (lambda note: note.replace("\n\n", "\n"), "no signed note"),
        (lambda note: f"{note}more\n", "no signed note"),
        (lambda note: note.replace("\u2014", "-"), "no signed note"),
        (lambda note: note + note_line("w", b"1234", b"x" * 64) * 101, "no signed note"),
        (lambda note: note + "x" * (64 << 10), "characters; the limit is"),
        (lambda note: note.replace("\n2\n", "\n02\n"), "did not sign"),
        (lambda note: f"{note}\u2014 name =AAAAAAA\n", "not base64"),
    ],
)
def test_notes_that_are_none(edit: Callable[[str], str], told: str) -> None:
    """The form of a signed note is strict, or two readers would read two notes."""
    refused(noted(edit), told)


def rewritten(text: str) -> Json:
    """An entry whose log really signed this text."""
    return noted(lambda _: f"{text}\n{note_line(V2.name, V2.log_id[:4], V2.key.sign(text.encode()))}")


def test_notes_that_are_no_checkpoints() -> None:
    """Signed by the log's key all the same."""
    root = v2()["inclusionProof"]["rootHash"]
    assert verify(rewritten(f"{V2.origin}\n2\n{root}\nan extension\n")) is None
    refused(rewritten(f"{V2.origin}\n"), "no size and root")
    refused(rewritten(f"{V2.origin}\n02\n{root}\n"), "no size and root")
    refused(rewritten(f"{V2.origin}\n2\n{root[:-4]}\n"), "not base64|another tree")
    refused(rewritten(f"{V2.origin}\n2\n{b64(b'0' * 32)}\n"), "another tree")


def test_an_ed25519_key_whose_id_is_of_the_key_alone() -> None:
    """A log may also be named by its key's hash; the origin is then bound by the signature and its hint."""
    key = V2.key.private.public_key()
    assert isinstance(key, ed25519.Ed25519PublicKey)
    log = LogKey(bytes.fromhex(V2.key.fingerprint), key, Window())
    entry = LogEntry.of_bundle(v2())
    assert verify_entry(entry, log) is None
    with pytest.raises(EvidenceMalformed, match="another origin"):
        verify_entry(entry, replace(log, log_id=b"0" * 32))
    with pytest.raises(EvidenceMalformed, match="without a signature by its log"):
        verify_entry(LogEntry.of_bundle(v2("checkpoint of another origin")), log)


def test_times_are_whole_seconds_in_utc() -> None:
    """As the log signed them."""
    assert LogEntry.of_bundle(v1()).integrated_time == datetime(2025, 6, 15, 12, tzinfo=UTC)
