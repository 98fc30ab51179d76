"""The frame of an OpenPGP message (RFC 9580, section 4): which packets it has, before anybody interprets them.

What a stranger may send as a signed message is opened here first, so that the library that knows cryptography never unpacks
anything: compression is undone once, up to a limit, and what comes out must be one signature over one literal text and nothing
else. The rest (encrypted, detached, signed twice, compressed twice) is refused in words.

Everything raises :class:`proxy.errors.EvidenceMalformed` with a text that continues "this signature …".
"""

from __future__ import annotations

import bz2
import zlib
from dataclasses import dataclass, field

from proxy.errors import EvidenceMalformed

_SIGNATURE, _ONE_PASS, _COMPRESSED, _LITERAL = 2, 4, 8, 11
_ENCRYPTED = frozenset({1, 3, 9, 18, 20})
_KEYS = frozenset({5, 6, 7, 14})
#: A signed message has three packets; the others are counted for the reason alone.
_MAX_PACKETS = 64
#: Pieces of one body: gpg writes 8 KiB at a time, and a body of single bytes would cost more than it says.
_MAX_PIECES = 1024


@dataclass(frozen=True, slots=True)
class SignedMessage:
    """An inline signed message, not compressed any more."""

    packets: bytes = field(repr=False)  #: as they came, for whoever verifies them
    signature: bytes = field(repr=False)  #: the signature packet alone


@dataclass(frozen=True, slots=True)
class _Packet:
    tag: int
    raw: bytes = field(repr=False)  #: with its header
    body: bytes = field(repr=False)


def read_message(body: bytes, limit: int) -> SignedMessage:
    """Open a message that must be signed once. ``limit``: most bytes that it may have when it is unpacked."""
    _is_openpgp(body)
    packets = _packets(body)
    if [packet.tag for packet in packets] == [_COMPRESSED]:
        body = _unpacked(packets[0].body, limit)
        packets = _packets(body)
    tags = [packet.tag for packet in packets]
    if tags not in ([_ONE_PASS, _LITERAL, _SIGNATURE], [_SIGNATURE, _LITERAL]):
        raise EvidenceMalformed(_refusal(tags))
    return SignedMessage(body, next(packet.raw for packet in packets if packet.tag == _SIGNATURE))


def _is_openpgp(body: bytes) -> None:
    if not body:
        raise EvidenceMalformed("is empty")
    if body[0] & 0x80:
        return
    if body.startswith(b"-----BEGIN PGP "):
        raise EvidenceMalformed("is in ASCII armor, where signatures of images are binary (gpg --sign without --armor)")
    if body.startswith(b"\0sigstore-json\n"):
        raise EvidenceMalformed("is a sigstore signature, not OpenPGP")
    raise EvidenceMalformed("is no OpenPGP message")


def _refusal(tags: list[int]) -> str:
    signatures = tags.count(_SIGNATURE)
    if not tags:
        return "is empty"
    if _ENCRYPTED & {*tags}:
        return "is an encrypted OpenPGP message, which proves nothing to others"
    if signatures == len(tags) == 1:
        return "is a detached OpenPGP signature; one that holds what it signs is expected (gpg --sign)"
    if signatures > 1 or tags.count(_ONE_PASS) > 1:
        return f"has {max(signatures, tags.count(_ONE_PASS))} OpenPGP signatures; exactly one is expected"
    if _COMPRESSED in tags:
        return "is an OpenPGP message that is compressed twice, or beside something else"
    if _KEYS & {*tags}:
        return "is an OpenPGP key, not a signature"
    if signatures == 0:
        return "is an OpenPGP message that nobody signed"
    return f"is no signed OpenPGP message: its packets are {', '.join(map(str, tags[:8]))}"


def _packets(body: bytes) -> list[_Packet]:
    packets: list[_Packet] = []
    at = 0
    while at < len(body):
        if len(packets) == _MAX_PACKETS:
            raise EvidenceMalformed(f"is an OpenPGP message of more than {_MAX_PACKETS} packets")
        packet, at = _packet(body, at)
        packets.append(packet)
    return packets


def _packet(body: bytes, start: int) -> tuple[_Packet, int]:
    """The packet that begins at ``start``, and where the next one does (section 4.2)."""
    first = body[start]
    if not first & 0x80:
        raise EvidenceMalformed("is broken: there is something between its OpenPGP packets")
    if first & 0x40:
        tag, (content, end) = first & 0x3F, _new_body(body, start + 1)
    else:
        tag, (content, end) = (first >> 2) & 0x0F, _old_body(body, start + 1, first & 3)
    return _Packet(tag, body[start:end], content), end


def _new_body(body: bytes, at: int) -> tuple[bytes, int]:
    pieces: list[bytes] = []
    while True:
        octet = _number(body, at, 1)
        partial = 224 <= octet < 255
        if octet < 192:
            size, at = octet, at + 1
        elif octet < 224:
            size, at = ((octet - 192) << 8) + _number(body, at + 1, 1) + 192, at + 2
        elif partial:
            size, at = 1 << (octet & 0x1F), at + 1
        else:
            size, at = _number(body, at + 1, 4), at + 5
        if len(pieces) == _MAX_PIECES:
            raise EvidenceMalformed(f"is an OpenPGP message in more than {_MAX_PIECES} pieces")
        pieces.append(_bytes(body, at, size))
        at += size
        if not partial:
            return b"".join(pieces), at


def _old_body(body: bytes, at: int, kind: int) -> tuple[bytes, int]:
    if kind == 3:  # until the end of everything
        return body[at:], len(body)
    width = 1 << kind
    size = _number(body, at, width)
    return _bytes(body, at + width, size), at + width + size


def _number(body: bytes, at: int, width: int) -> int:
    return int.from_bytes(_bytes(body, at, width), "big")


def _bytes(body: bytes, at: int, size: int) -> bytes:
    found = body[at : at + size]
    if len(found) != size:
        raise EvidenceMalformed("is broken: an OpenPGP packet ends too early")
    return found


def _unpacked(content: bytes, limit: int) -> bytes:
    """What a compressed packet holds (section 5.6): never more than ``limit`` bytes of it are made."""
    algorithm, content = content[:1], content[1:]
    try:
        match algorithm:
            case b"\0":
                unpacked, ended, rest = content[: limit + 1], True, b""
            case b"\1" | b"\2":
                deflated = zlib.decompressobj(-15 if algorithm == b"\1" else 15)
                unpacked = deflated.decompress(content, limit + 1)
                ended, rest = deflated.eof, deflated.unused_data
            case b"\3":
                squeezed = bz2.BZ2Decompressor()
                unpacked = squeezed.decompress(content, limit + 1)
                ended, rest = squeezed.eof, squeezed.unused_data
            case _:
                raise EvidenceMalformed("is compressed in a way that OpenPGP does not know")
    except (zlib.error, OSError, EOFError, ValueError) as error:
        raise EvidenceMalformed("is broken: it cannot be unpacked") from error
    if len(unpacked) > limit:
        raise EvidenceMalformed(f"has more than {limit} bytes when it is unpacked")
    if not ended or rest:
        raise EvidenceMalformed("is broken: what is compressed in it does not end where it should")
    return unpacked
