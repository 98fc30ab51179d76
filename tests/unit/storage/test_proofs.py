"""Proofs in files of their own, checked with nothing but a key."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest

from storage.entries import Entry, canonical
from storage.merkle import Frontier, Node, inclusion_spans, leaf_hash, span_hash
from storage.notes import Checkpoint, Note, SignerKey
from storage.proofs import MAX_FILE, Proof, ProofFailed
from tests.unit.storage.values import AT

KEY = SignerKey.generate("log.example")
OTHER = SignerKey.generate("log.example")


def proof_of(bodies: list[bytes], index: int, origin: str = "log.example") -> Proof:
    """A proof over a tree of these entries."""
    frontier, nodes = Frontier(), dict[Node, bytes]()
    for number, body in enumerate(bodies):
        frontier, completed = frontier.grown(leaf_hash(body))
        nodes.update({(level, number >> level): value for level, value in enumerate(completed)})
    path = tuple(span_hash(span, nodes) for span in inclusion_spans(index, len(bodies)))
    note = Note.signed(Checkpoint(origin, len(bodies), frontier.root()).text(), [KEY])
    return Proof(index, bodies[index], path, note)


ENTRIES = [Entry("block", f"sha256:{number}", AT, "olga", "why") for number in range(7)]
BODIES = [canonical(number, entry) for number, entry in enumerate(ENTRIES)]


@pytest.mark.parametrize("index", range(7))
def test_a_proof_is_written_read_and_convinces(index: int) -> None:
    """In the form of C2SP tlog-proof, the entry as its extra data."""
    proof = proof_of(BODIES, index)
    written = bytes(proof)
    lines = written.decode().split("\n")
    assert lines[0] == "c2sp.org/tlog-proof@v1"
    assert lines[1] == "extra " + base64.b64encode(BODIES[index]).decode()
    assert lines[2] == f"index {index}"
    assert written.endswith(b"\n\n" + bytes(proof.note))
    assert Proof.parse(written) == proof
    entry, checkpoint = proof.verify([KEY.verifier])
    assert (entry, checkpoint.size) == (ENTRIES[index], 7)


def test_a_proof_that_was_changed_convinces_nobody() -> None:
    """Another entry, place, path or signer; a tree of another log; an entry that says that it is another."""
    proof = proof_of(BODIES, 3)
    for changed in (
        replace(proof, entry=BODIES[2]),
        replace(proof, index=2),
        replace(proof, hashes=proof.hashes[:-1]),
        replace(proof, note=proof_of(BODIES[:6], 3).note),
    ):
        with pytest.raises(ProofFailed, match="not entry"):
            changed.verify([KEY.verifier])
    with pytest.raises(ValueError, match="no key that is known"):
        proof.verify([OTHER.verifier])
    with pytest.raises(ProofFailed, match="signed for another log"):
        proof_of(BODIES, 3, origin="other.example").verify([KEY.verifier])
    moved = [BODIES[1], BODIES[0], *BODIES[2:]]
    with pytest.raises(ProofFailed, match="says that it is entry 1"):
        proof_of(moved, 0).verify([KEY.verifier])
    with pytest.raises(ValueError, match="canonical"):
        proof_of([b'{"a": 1}'], 0).verify([KEY.verifier])


GOOD = bytes(proof_of(BODIES, 3))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x" * (MAX_FILE + 1),
        GOOD.replace(b"\n\n", b"\n"),
        GOOD.replace(b"@v1", b"@v2"),
        GOOD.replace(b"extra ", b"other "),
        GOOD.replace(b"index 3", b"index 03"),
        GOOD.replace(b"index 3", b"index -3"),
        GOOD.replace(b"index 3", "index ٣".encode()),
        GOOD.replace(b"index 3\n", b"index 3\nAAAA\n"),
        GOOD.replace(b"index 3\n", b"index 3\nA*AA\n"),
        GOOD.replace(b"index 3\n", b"index 3\n" + b"AAAA\n" * 65),
        GOOD.replace(b"extra eyJ", b"extra eyJ="),
        GOOD.partition(b"\n\n")[0] + b"\n\n",
    ],
)
def test_what_is_no_proof_is_refused(data: bytes) -> None:
    """Whatever is not written as the specification says."""
    with pytest.raises(ValueError, match=r".+"):
        Proof.parse(data)
