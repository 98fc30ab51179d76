"""What an observer of another proxy's ledger reads: checkpoints, entries, bundles of them, proofs."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import rfc8785

from storage.entries import MAX_ENTRY, Entry, MalformedEntry, canonical, parse
from storage.merkle import Frontier, Node, inclusion_spans, leaf_hash, span_hash
from storage.notes import MAX_NOTE, Checkpoint, MalformedNote, Note, SignerKey, UnverifiedNote
from storage.proofs import Proof, ProofFailed
from storage.tiles import MalformedTile, bundle, entries_of
from tests.fuzz.target import Target

KEY = SignerKey("log.example/ledger", bytes(range(32)))
WITNESS = SignerKey("witness.example", bytes(range(1, 33)))
AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
ENTRIES = [
    Entry("pin.pinned", f"ghcr.io/acme/app:v{number}", AT, "rule **", "ä", None, f"sha256:{number:064x}", {"pin": {"version": 1}})
    for number in range(7)
]
BODIES = [canonical(number, entry) for number, entry in enumerate(ENTRIES)]


def _proofs() -> list[Proof]:
    frontier, nodes = Frontier(), dict[Node, bytes]()
    for number, body in enumerate(BODIES):
        frontier, completed = frontier.grown(leaf_hash(body))
        nodes |= {(level, number >> level): value for level, value in enumerate(completed)}
    note = Note.signed(Checkpoint(KEY.name, len(BODIES), frontier.root()).text(), [KEY, WITNESS])
    paths = (tuple(span_hash(span, nodes) for span in inclusion_spans(number, len(BODIES))) for number in range(len(BODIES)))
    return [Proof(number, BODIES[number], path, note) for number, path in enumerate(paths)]


PROOFS = _proofs()
SIGNED = PROOFS[0].note.text
#: Signed by the same key, and no checkpoint.
OTHER = "text\n\nmore\n"


def checkpoint(data: bytes) -> bool:
    """Believed is what was signed, and nothing else; what reads is written again as it was."""
    note = Note.parse(data)
    assert bytes(note) == data
    signers = note.verified_by([KEY.verifier])
    assert note.text in {SIGNED, OTHER}
    said = Checkpoint.parse(note.text)
    assert said.text() == note.text == SIGNED
    return signers == (KEY.verifier,)


def resigned(data: bytes) -> bytes:
    """The signature of a note in the place of another's: it belongs to the text that was signed alone."""
    text, _, _ = data.rpartition(b"\n\n")
    return text + b"\n\n" + b"".join(str(each).encode() for each in PROOFS[0].note.signatures)


def proof(data: bytes) -> bool:
    """What is proven is an entry of the tree, at its place."""
    read = Proof.parse(data)
    assert bytes(read) == data
    entry, said = read.verify([KEY.verifier])
    assert read.entry == BODIES[read.index]
    assert entry == ENTRIES[read.index]
    assert said.size == len(BODIES)
    return True


def entry(data: bytes) -> bool:
    """What reads is in the canonical form that another implementation has."""
    index, _ = parse(data)
    assert index >= 0
    assert rfc8785.dumps(json.loads(data)) == data
    return True


def entries(data: bytes) -> bool:
    """Seven entries, or fewer, and not a byte besides."""
    width = min(7, data[0] if data else 0)
    found = entries_of(data[1:], width)
    assert bundle(found) == data[1:]
    return len(found) == width


_KNOWN = (MalformedNote, UnverifiedNote)
TARGETS = (
    Target(
        "ledger-checkpoint",
        checkpoint,
        _KNOWN,
        [bytes(PROOFS[0].note), bytes(Note.signed(SIGNED, [WITNESS])), bytes(Note.signed(OTHER, [KEY]))],
        repair=resigned,
        largest=MAX_NOTE,
        seconds=1,
        told=False,
    ),
    Target(
        "ledger-proof",
        proof,
        (ProofFailed, MalformedEntry, *_KNOWN),
        [bytes(each) for each in PROOFS[::3]],
        largest=MAX_NOTE,
        seconds=1,
        told=False,
    ),
    Target("ledger-entry", entry, (MalformedEntry,), BODIES, largest=MAX_ENTRY, seconds=1, told=False),
    Target(
        "ledger-bundle",
        entries,
        (MalformedTile,),
        [bytes([width]) + bundle(BODIES[:width]) for width in (0, 1, 7)],
        seconds=1,
        told=False,
    ),
)
