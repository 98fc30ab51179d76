"""Signed notes (C2SP signed-note) with Ed25519, and the checkpoints of a log in them (C2SP tlog-checkpoint).

A note is text, an empty line, and lines that say who signed it. It is bounded before it is read, and its text means nothing until
:meth:`Note.verified_by` has said by whom it was signed.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from storage.merkle import HASH_SIZE

#: Bytes of the longest note: room for sixteen signatures of the largest algorithms, as verifiers must have.
MAX_NOTE = 256 << 10
#: Most signatures that are read.
MAX_SIGNATURES = 100
#: Sizes of trees that are believed: 63 bits, as everywhere.
MAX_SIZE = 2**63 - 1
#: Characters of the longest name of a key, which is the longest origin.
MAX_NAME = 255
_ED25519 = b"\x01"
_ID_SIZE = 4
_PRIVATE = "PRIVATE+KEY+"
_DASH = "— "
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_HEX = re.compile(r"[0-9a-f]{8}", re.ASCII)


class MalformedNote(ValueError):
    """A note, a checkpoint or a key that is not written as its specification says."""


class UnverifiedNote(ValueError):
    """A note that nobody signed whose key is known, or whose signature by such a key is wrong."""


@dataclass(frozen=True)
class VerifierKey:
    """Who a signature is checked against: a name and an Ed25519 public key, written ``name+id+key``."""

    name: str
    public: bytes

    def __post_init__(self) -> None:
        check_name(self.name)

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Read a verifier key. Raises :class:`MalformedNote`, also where the id is not the key's, or the key of another type."""
        name, written, key = _key_parts(text)
        result = cls(name, key)
        try:
            result._key  # noqa: B018  (made here, so that what is no key is found here)
        except ValueError as error:
            raise MalformedNote(f"this is no Ed25519 key: {error}") from error
        if result.id != written:
            raise MalformedNote(f"the key is not the one that its id {written.hex()} is of")
        return result

    @cached_property
    def id(self) -> bytes:
        """The key ID: four bytes by which, with the name, signature lines say whose they are."""
        return sha256(self.name.encode() + b"\n" + _ED25519 + self.public).digest()[:_ID_SIZE]

    @cached_property
    def _key(self) -> Ed25519PublicKey:
        return Ed25519PublicKey.from_public_bytes(self.public)

    def verifies(self, text: str, signature: bytes) -> bool:
        """Whether this key made the signature over the text."""
        try:
            self._key.verify(signature, text.encode())
        except InvalidSignature:
            return False
        return True

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{_base64(_ED25519 + self.public)}"


@dataclass(frozen=True)
class SignerKey:
    """What signs: a name and the 32 bytes of an Ed25519 private key, written ``PRIVATE+KEY+name+id+key``."""

    name: str
    seed: bytes

    def __repr__(self) -> str:
        return f"SignerKey({self.verifier})"

    @classmethod
    def generate(cls, name: str) -> SignerKey:
        """A new key. Raises :class:`MalformedNote` for a name that a key cannot have."""
        check_name(name)
        return cls(name, Ed25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def parse(cls, text: str) -> SignerKey:
        """Read a signer key. Raises :class:`MalformedNote`, which never repeats what it read."""
        if not text.startswith(_PRIVATE):
            raise MalformedNote("this is no private key")
        name, written, seed = _key_parts(text.removeprefix(_PRIVATE))
        result = cls(name, seed)
        if result.verifier.id != written:
            raise MalformedNote(f"the key is not the one that its id {written.hex()} is of")
        return result

    def secret(self) -> str:
        """The key as it is written to a file."""
        return f"{_PRIVATE}{self.name}+{self.verifier.id.hex()}+{_base64(_ED25519 + self.seed)}"

    @cached_property
    def verifier(self) -> VerifierKey:
        """The public half."""
        return VerifierKey(self.name, self._key.public_key().public_bytes_raw())

    @cached_property
    def _key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)

    def sign(self, text: str) -> Signature:
        """The signature over a text."""
        return Signature(self.name, self.verifier.id, self._key.sign(text.encode()))


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line: who is said to have signed, and the signature."""

    name: str
    key_id: bytes
    signature: bytes

    def __str__(self) -> str:
        return f"{_DASH}{self.name} {_base64(self.key_id + self.signature)}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A text, which ends with a newline, and its signatures."""

    text: str
    signatures: tuple[Signature, ...]

    @classmethod
    def parse(cls, data: bytes) -> Note:
        """Read a note. Raises :class:`MalformedNote`."""
        if len(data) > MAX_NOTE:
            raise MalformedNote(f"a note of more than {MAX_NOTE} bytes is not read")
        try:
            whole = data.decode()
        except UnicodeDecodeError as error:
            raise MalformedNote("a note is text in UTF-8") from error
        if any(character < " " and character != "\n" for character in whole):
            raise MalformedNote("a note has no control characters")
        text, separator, lines = whole.rpartition("\n\n")
        if not separator or not lines.endswith("\n"):
            raise MalformedNote("a note is text, an empty line, and lines of signatures")
        rows = lines[:-1].split("\n")
        if len(rows) > MAX_SIGNATURES:
            raise MalformedNote(f"a note of more than {MAX_SIGNATURES} signatures is not read")
        return cls(text + "\n", tuple(map(_signature, rows)))

    @classmethod
    def signed(cls, text: str, signers: Iterable[SignerKey]) -> Note:
        """A text, signed."""
        return cls(text, tuple(signer.sign(text) for signer in signers))

    def verified_by(self, keys: Collection[VerifierKey]) -> tuple[VerifierKey, ...]:
        """Which of ``keys`` signed. Raises :class:`UnverifiedNote` when none did, or one of their signatures is wrong.

        Signatures of others are passed over, as the specification demands: by them keys are changed and witnesses added.
        """
        known = {(key.name, key.id): key for key in keys}
        found: dict[VerifierKey, None] = {}
        for each in self.signatures:
            key = known.get((each.name, each.key_id))
            if key is None:
                continue
            if not key.verifies(self.text, each.signature):
                raise UnverifiedNote(f"the signature by {key.name} ({key.id.hex()}) is wrong")
            found[key] = None
        if not found:
            signers = ", ".join(f"{each.name} ({each.key_id.hex()})" for each in self.signatures[:5])
            raise UnverifiedNote(f"no key that is known signed it, but {signers}")
        return tuple(found)

    def __bytes__(self) -> bytes:
        return f"{self.text}\n{''.join(map(str, self.signatures))}".encode()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log signs: which log it is, how many leaves its tree has, and the root over them."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Read the text of a note as a checkpoint. Raises :class:`MalformedNote`."""
        lines = text.split("\n")
        if len(lines) < 4 or lines.pop() or not all(lines):
            raise MalformedNote("a checkpoint has an origin, a size and a root, a line each, and no empty lines")
        origin, size, root, *extensions = lines
        if not _DECIMAL.fullmatch(size) or int(size) > MAX_SIZE:
            raise MalformedNote("the size of a checkpoint is a decimal number")
        decoded = _unbase64(root)
        if len(decoded) != HASH_SIZE:
            raise MalformedNote(f"the root of a checkpoint is {HASH_SIZE} bytes")
        return cls(origin, int(size), decoded, tuple(extensions))

    def text(self) -> str:
        """The text that is signed."""
        return "".join(f"{line}\n" for line in (self.origin, str(self.size), _base64(self.root), *self.extensions))


def check_name(name: str) -> None:
    """Raise :class:`MalformedNote` for a name that a key cannot have."""
    if not name or len(name) > MAX_NAME or not name.isprintable() or any(each.isspace() or each == "+" for each in name):
        raise MalformedNote(f"the name of a key is 1 to {MAX_NAME} characters, without spaces and '+'")


def _signature(line: str) -> Signature:
    dash, name, encoded, *more = [*line.split(" "), "", ""]
    if dash + " " != _DASH or more != ["", ""]:
        raise MalformedNote("a signature line is a dash, a name and a signature")
    if not name or any(each.isspace() or each == "+" for each in name):
        raise MalformedNote("the name in a signature line is empty, or has spaces or '+'")
    decoded = _unbase64(encoded)
    if len(decoded) <= _ID_SIZE:
        raise MalformedNote("a signature line has no signature")
    return Signature(name, decoded[:_ID_SIZE], decoded[_ID_SIZE:])


def _key_parts(text: str) -> tuple[str, bytes, bytes]:
    """Name, id and 32 bytes of an Ed25519 key in either form."""
    name, _, rest = text.partition("+")
    written, _, encoded = rest.partition("+")
    check_name(name)
    if not _HEX.fullmatch(written):
        raise MalformedNote("a key is written as name+id+key, the id as eight digits in hex")
    decoded = _unbase64(encoded)
    if len(decoded) != 33 or decoded[:1] != _ED25519:
        raise MalformedNote("only Ed25519 keys are understood")
    return name, bytes.fromhex(written), decoded[1:]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _unbase64(text: str) -> bytes:
    """Standard base64 in its one spelling."""
    try:
        decoded = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise MalformedNote("this is not base64") from error
    if _base64(decoded) != text:
        raise MalformedNote("this is not base64 as it is written")
    return decoded
