"""Transparency log entries: that a log has an entry, and since when.

An entry is proven by the log's promise (SET), by an inclusion proof up to a signed checkpoint, or by both; what is there must
hold, all of it. The steps:

1. The promise: a signature over the RFC 8785 form of body, integrated time, log id and index. Only this proves the time; an
   integrated time without a promise is nobody's word.
2. The inclusion proof leads from the body to the proof's root hash (RFC 6962, section 2.1.1).
3. The checkpoint (C2SP tlog-checkpoint, a signed note) bears a good signature by the log, and the proof's size and root hash.
   Signatures of others, witnesses mostly, say nothing here. Its origin is the log's own name.

What the body says is judged in :mod:`proxy.verify.bodies`. Everything raises :class:`proxy.errors.EvidenceMalformed` with a text
that continues "this signature …".
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric import ed25519

from proxy.errors import EvidenceMalformed
from proxy.verify.keys import holds
from proxy.verify.parsing import items, member, shown, text, unbase64
from proxy.verify.roots import LogKey, note_key_id

_ENTRY = "its log entry"
#: Above this, JSON numbers are no longer exact (RFC 8785, section 3.2.2.3).
_MAX_NUMBER = 2**53 - 1
_LATEST = 253_402_300_799  #: the last second of the year 9999
_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_MAX_HASHES = 64
_MAX_NOTE = 64 << 10
_MAX_NOTE_SIGNATURES = 100
_NOTE_LINE = re.compile("\u2014 (\\S{1,512}) ([A-Za-z0-9+/=]{8,16384})", re.ASCII)


@dataclass(frozen=True, slots=True)
class InclusionProof:
    """Hashes from a leaf up to the root of a log of ``size`` entries, and the log's word for that root."""

    index: int
    size: int
    root_hash: bytes
    hashes: tuple[bytes, ...] = field(repr=False)
    checkpoint: str | None = field(repr=False)

    @classmethod
    def parse(cls, node: Mapping[str, object]) -> InclusionProof:
        """Read a bundle's ``inclusionProof``. Raises :class:`EvidenceMalformed`."""
        hashes = []
        for each in items(node, "hashes", "its inclusion proof", _MAX_HASHES):
            if not isinstance(each, str):
                raise EvidenceMalformed("is broken: a hash of its inclusion proof is not text")
            hashes.append(unbase64(each, "a hash of its inclusion proof"))
        checkpoint = node.get("checkpoint")
        note = text(member(node, "checkpoint", _ENTRY), "envelope", "its checkpoint") if checkpoint is not None else ""
        return cls(
            _number(node, "logIndex"),
            _number(node, "treeSize"),
            unbase64(text(node, "rootHash", "its inclusion proof"), "the root hash"),
            tuple(hashes),
            note or None,
        )

    def check(self, body: bytes) -> None:
        """Step 2. Raises :class:`EvidenceMalformed` unless ``body`` is the leaf."""
        if self.index >= self.size:
            raise EvidenceMalformed(f"has an inclusion proof for entry {self.index} of a log of {self.size}")
        # Up to where the path meets the right border of the tree, its turns are the bits of the index; above that, the
        # siblings are all on the left: one for each bit that is set.
        inner = (self.index ^ (self.size - 1)).bit_length()
        border = (self.index >> inner).bit_count()
        if len(self.hashes) != inner + border or any(len(each) != 32 for each in (*self.hashes, self.root_hash)):
            raise EvidenceMalformed("has an inclusion proof of the wrong length")
        node = hashlib.sha256(b"\x00" + body).digest()
        for level, sibling in enumerate(self.hashes):
            left = level >= inner or self.index >> level & 1
            node = hashlib.sha256(b"\x01" + (sibling + node if left else node + sibling)).digest()
        if node != self.root_hash:
            raise EvidenceMalformed("has an inclusion proof that does not lead to its root hash")


@dataclass(frozen=True, slots=True)
class LogEntry:
    """What came as a log entry. Nothing of it is believed before :func:`verify_entry`."""

    log_id: bytes
    index: int
    integrated_time: datetime | None
    body: bytes = field(repr=False)
    promise: bytes | None = field(repr=False)
    proof: InclusionProof | None
    #: Kind and version that were said beside the body; None where only the body says so.
    kind: tuple[str, str] | None = None

    @classmethod
    def of_bundle(cls, node: Mapping[str, object]) -> LogEntry:
        """Read one of a Sigstore bundle's ``tlogEntries``. Raises :class:`EvidenceMalformed`.

        An entry with neither promise nor proof is refused; which of them a version of the bundle format demands, its reader
        knows (:attr:`promise`, and :attr:`InclusionProof.checkpoint`).
        """
        promise = None
        if node.get("inclusionPromise") is not None:
            written = text(member(node, "inclusionPromise", _ENTRY), "signedEntryTimestamp", "its inclusion promise")
            promise = unbase64(written, "the signed entry timestamp") or None
        proof = None
        if node.get("inclusionProof") is not None:
            proof = InclusionProof.parse(member(node, "inclusionProof", _ENTRY))
        kind = None
        if node.get("kindVersion") is not None:
            version = member(node, "kindVersion", _ENTRY)
            kind = (text(version, "kind", _ENTRY), text(version, "version", _ENTRY))
        return cls._checked(
            unbase64(text(member(node, "logId", _ENTRY), "keyId", _ENTRY), "the log id"),
            _number(node, "logIndex"),
            _number(node, "integratedTime"),
            unbase64(text(node, "canonicalizedBody", _ENTRY), "the body of its log entry"),
            promise,
            proof,
            kind,
        )

    @classmethod
    def of_cosign(cls, node: Mapping[str, object]) -> LogEntry:
        """Read cosign's annotation ``dev.sigstore.cosign/bundle``: a promise without proof. Raises :class:`EvidenceMalformed`."""
        payload = member(node, "Payload", _ENTRY)
        try:
            log_id = bytes.fromhex(text(payload, "logID", _ENTRY))
        except ValueError as error:
            raise EvidenceMalformed("is broken: the log id of its log entry is not hex") from error
        return cls._checked(
            log_id,
            _number(payload, "logIndex"),
            _number(payload, "integratedTime"),
            unbase64(text(payload, "body", _ENTRY), "the body of its log entry"),
            unbase64(text(node, "SignedEntryTimestamp", _ENTRY), "the signed entry timestamp") or None,
            None,
            None,
        )

    @classmethod
    def _checked(
        cls,
        log_id: bytes,
        index: int,
        integrated: int,
        body: bytes,
        promise: bytes | None,
        proof: InclusionProof | None,
        kind: tuple[str, str] | None,
    ) -> LogEntry:
        if integrated > _LATEST:
            raise EvidenceMalformed("has a log entry of a time that is none")
        if promise is None and (proof is None or proof.checkpoint is None):
            raise EvidenceMalformed("has a log entry that nothing proves: no promise, and no inclusion proof with a checkpoint")
        # Zero is how protocol buffers write "not there".
        return cls(log_id, index, datetime.fromtimestamp(integrated, UTC) if integrated else None, body, promise, proof, kind)


def verify_entry(entry: LogEntry, log: LogKey) -> datetime | None:
    """Judge what proves an entry, by the log that it names: the time at which the log promised it, None for a bare proof.

    Raises :class:`EvidenceMalformed` when anything that is there does not hold.
    """
    proven = False
    time = None
    if entry.promise is not None:  # step 1
        time = _promised(entry, entry.promise, log)
        proven = True
    if entry.proof is not None:
        entry.proof.check(entry.body)  # step 2
        if entry.proof.checkpoint is not None:
            _check_note(entry.proof.checkpoint, entry.proof, log)  # step 3
            proven = True
    if not proven:
        raise EvidenceMalformed("has a log entry that nothing proves")
    return time


# -- the promise ----------------------------------------------------------------------------------------------------


def _promised(entry: LogEntry, promise: bytes, log: LogKey) -> datetime:
    """Step 1."""
    import rfc8785

    if entry.integrated_time is None:
        raise EvidenceMalformed("has a log entry with a promise, but without a time")
    promised: dict[str, str | int] = {
        "body": base64.b64encode(entry.body).decode(),
        "integratedTime": int(entry.integrated_time.timestamp()),
        "logID": entry.log_id.hex(),
        "logIndex": entry.index,
    }
    if not holds(log.key, promise, rfc8785.dumps(promised)):
        raise EvidenceMalformed("has a log entry with a promise that its log did not sign")
    return entry.integrated_time


# -- the checkpoint -------------------------------------------------------------------------------------------------


def _check_note(note: str, proof: InclusionProof, log: LogKey) -> None:
    """Step 3: C2SP signed-note and tlog-checkpoint."""
    if len(note) > _MAX_NOTE:
        raise EvidenceMalformed(f"has a checkpoint of {len(note)} characters; the limit is {_MAX_NOTE}")
    head, blank, tail = note.partition("\n\n")
    signatures = tail.split("\n")
    if not blank or signatures.pop() or len(signatures) > _MAX_NOTE_SIGNATURES:
        raise EvidenceMalformed("has a checkpoint that is no signed note")
    signed = f"{head}\n".encode("utf-8", "surrogatepass")
    origin, *lines = head.split("\n")
    found, hints = False, _hints(origin, log)
    for line in signatures:
        parsed = _NOTE_LINE.fullmatch(line)
        if parsed is None:
            raise EvidenceMalformed("has a checkpoint that is no signed note")
        raw = unbase64(parsed[2], "a signature of its checkpoint")
        if raw[:4] not in hints:
            continue
        if not holds(log.key, raw[4:], signed):
            raise EvidenceMalformed("has a checkpoint that its log did not sign")
        if origin != parsed[1] and not origin.startswith(f"{parsed[1]} - "):
            raise EvidenceMalformed(f"has a checkpoint of another origin: {shown(origin)}")
        found = True
    if not found:
        raise EvidenceMalformed("has a checkpoint without a signature by its log")
    if len(lines) < 2 or not _NUMBER.fullmatch(lines[0]):
        raise EvidenceMalformed("has a checkpoint that names no size and root")
    if int(lines[0]) != proof.size or unbase64(lines[1], "the root hash of its checkpoint") != proof.root_hash:
        raise EvidenceMalformed("has a checkpoint of another tree than its inclusion proof")


def _hints(origin: str, log: LogKey) -> frozenset[bytes]:
    """The four bytes by which the log's signatures are known: of its id, or of its key's id in signed notes.

    An Ed25519 key speaks for one origin only, where the log's id was made of both (Rekor v2). Any other id is of the key alone.
    """
    if not isinstance(log.key, ed25519.Ed25519PublicKey):
        return frozenset({log.log_id[:4]})
    made_of_both = note_key_id(origin, log.key)
    if log.log_id not in (made_of_both, log.spki_sha256):
        raise EvidenceMalformed(f"has a checkpoint of another origin: {shown(origin)}")
    return frozenset({log.log_id[:4], made_of_both[:4]})


def _number(node: Mapping[str, object], key: str) -> int:
    """A number, also as text, as protocol buffers write 64 bits in JSON; zero is what they leave out."""
    value = node.get(key, 0)
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_NUMBER:
        raise EvidenceMalformed(f"has a log entry whose {key} is no number")
    return value
