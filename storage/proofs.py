"""Proofs that an entry is in the ledger, in one file that stands by itself (C2SP tlog-proof).

The file's extra data is the entry itself. Nothing vouches for that but the proof: it counts because its hash is the leaf.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection
from dataclasses import dataclass

from storage.entries import MAX_ENTRY, Entry, parse
from storage.merkle import HASH_SIZE, MAX_PROOF, leaf_hash, verify_inclusion
from storage.notes import MAX_NOTE, Checkpoint, Note, VerifierKey

_HEAD = "c2sp.org/tlog-proof@v1"
_EXTRA = "extra "
_INDEX = re.compile(r"index (0|[1-9][0-9]{0,18})", re.ASCII)
#: Bytes of the longest proof that is read.
MAX_FILE = MAX_NOTE + 2 * MAX_ENTRY + 64 * MAX_PROOF


class ProofFailed(ValueError):
    """A proof that is not written as it should be, or does not prove anything."""


@dataclass(frozen=True, slots=True)
class Proof:
    """An entry, its place, the path from it to a root, and the signed note that has this root."""

    index: int
    entry: bytes
    hashes: tuple[bytes, ...]
    note: Note

    @classmethod
    def parse(cls, data: bytes) -> Proof:
        """Read a proof. Raises ValueError (:class:`ProofFailed`, or MalformedNote for its checkpoint)."""
        if len(data) > MAX_FILE:
            raise ProofFailed(f"a proof of more than {MAX_FILE} bytes is not read")
        head, empty, note = data.partition(b"\n\n")
        if not empty:
            raise ProofFailed("a proof is its lines, an empty line and a checkpoint")
        try:
            first, extra, index, *hashes = head.decode("ascii").split("\n")
        except ValueError as error:  # too few lines, or not ASCII
            raise ProofFailed("a proof begins with its version, the entry (extra) and its index") from error
        if first != _HEAD or not extra.startswith(_EXTRA):
            raise ProofFailed(f"a proof begins with {_HEAD} and the entry (extra)")
        if (found := _INDEX.fullmatch(index)) is None:
            raise ProofFailed("a proof has the index of its entry")
        if len(hashes) > MAX_PROOF:
            raise ProofFailed(f"a proof has at most {MAX_PROOF} hashes")
        path = tuple(map(_unbase64, hashes))
        if any(len(each) != HASH_SIZE for each in path):
            raise ProofFailed(f"a hash is {HASH_SIZE} bytes")
        return cls(int(found[1]), _unbase64(extra.removeprefix(_EXTRA)), path, Note.parse(note))

    def __bytes__(self) -> bytes:
        lines = [_HEAD, _EXTRA + _base64(self.entry), f"index {self.index}", *map(_base64, self.hashes)]
        return "".join(f"{line}\n" for line in lines).encode() + b"\n" + bytes(self.note)

    def verify(self, keys: Collection[VerifierKey]) -> tuple[Entry, Checkpoint]:
        """What the entry says, and the checkpoint that it is under. Raises ValueError where it is not, or nobody known signed."""
        signers = self.note.verified_by(keys)
        checkpoint = Checkpoint.parse(self.note.text)
        if checkpoint.origin not in {key.name for key in signers}:
            raise ProofFailed(f"the checkpoint is of {checkpoint.origin}, and signed for another log")
        if not verify_inclusion(leaf_hash(self.entry), self.index, checkpoint.size, self.hashes, checkpoint.root):
            raise ProofFailed(f"the entry is not entry {self.index} of the tree of {checkpoint.size} that was signed")
        index, entry = parse(self.entry)
        if index != self.index:
            raise ProofFailed(f"the entry says that it is entry {index}")
        return entry, checkpoint


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _unbase64(text: str) -> bytes:
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ProofFailed("a proof is written in base64") from error
    if _base64(decoded) != text:
        raise ProofFailed("a proof is written in base64, in its one spelling")
    return decoded
