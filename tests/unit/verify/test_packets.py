"""The frame of OpenPGP messages: one signature over one text, unpacked once and within bounds; everything else in words."""

from __future__ import annotations

import bz2
import time
import tracemalloc
import zlib
from collections.abc import Callable

import pytest

from proxy.errors import EvidenceMalformed
from proxy.verify.packets import read_message
from tests.simulator.openpgp import packet

LIMIT = 1 << 20
ONE_PASS = packet(4, b"one pass")
LITERAL = packet(11, b"b\0\0\0\0\0{}")
SIGNATURE = packet(2, b"signature")
MESSAGE = ONE_PASS + LITERAL + SIGNATURE


def raw_deflate(body: bytes) -> bytes:
    """ZIP's form, which gpg writes by default."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    return deflate.compress(body) + deflate.flush()


def old(tag: int, body: bytes, kind: int) -> bytes:
    """A packet with a header of the old format; ``kind`` 3 has no length."""
    length = b"" if kind == 3 else len(body).to_bytes(1 << kind, "big")
    return bytes((0x80 | tag << 2 | kind,)) + length + body


def partial(tag: int, body: bytes, power: int) -> bytes:
    """A packet in pieces of 2**power bytes."""
    size = 1 << power
    pieces = b"".join(bytes((224 + power,)) + body[at : at + size] for at in range(0, len(body) - size + 1, size))
    rest = body[len(body) // size * size :]
    return bytes((0xC0 | tag,)) + pieces + bytes((len(rest),)) + rest


@pytest.mark.parametrize(
    "message",
    [
        MESSAGE,
        SIGNATURE + LITERAL,
        packet(8, b"\0" + MESSAGE),
        packet(8, b"\1" + raw_deflate(MESSAGE)),
        packet(8, b"\2" + zlib.compress(MESSAGE)),
        packet(8, b"\3" + bz2.compress(MESSAGE)),
        old(8, b"\1" + raw_deflate(MESSAGE), 3),
        *(old(4, b"one pass", kind) + LITERAL + SIGNATURE for kind in (0, 1, 2)),
        ONE_PASS + partial(11, b"b" + bytes(1100), 9) + SIGNATURE,
        ONE_PASS + LITERAL + bytes((0xC2, 192, 8)) + bytes(200),
    ],
    ids=[
        "plain",
        "signature first",
        "stored",
        "zip",
        "zlib",
        "bzip2",
        "no length",
        "old 1",
        "old 2",
        "old 4",
        "pieces",
        "two octets",
    ],
)
def test_every_form_of_a_signed_message_is_read(message: bytes) -> None:
    """Whatever gpg, and others by RFC 9580, wrap around it."""
    found = read_message(message, LIMIT)
    assert found.packets.count(found.signature) == 1
    assert found.signature[0] & 0x3F == 2 or found.signature[0] == 0xC2


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (b"", "is empty"),
        (b"{}", "is no OpenPGP message"),
        (b"-----BEGIN PGP MESSAGE-----\n", "is in ASCII armor"),
        (b"-----BEGIN PGP SIGNED MESSAGE-----\n", "is in ASCII armor"),
        (b"\0sigstore-json\n{}", "is a sigstore signature, not OpenPGP"),
        (SIGNATURE, "is a detached OpenPGP signature"),
        (packet(8, b"\1" + raw_deflate(SIGNATURE)), "is a detached OpenPGP signature"),
        (ONE_PASS * 2 + LITERAL + SIGNATURE * 2, "has 2 OpenPGP signatures; exactly one is expected"),
        (ONE_PASS * 2 + LITERAL + SIGNATURE, "has 2 OpenPGP signatures; exactly one is expected"),
        (SIGNATURE * 3, "has 3 OpenPGP signatures; exactly one is expected"),
        (MESSAGE + LITERAL, "is no signed OpenPGP message: its packets are 4, 11, 2, 11"),
        (LITERAL, "is an OpenPGP message that nobody signed"),
        (packet(18, b"x"), "is an encrypted OpenPGP message"),
        (packet(1, b"x") + packet(18, b"x"), "is an encrypted OpenPGP message"),
        (packet(6, b"x") + packet(13, b"x") + SIGNATURE, "is an OpenPGP key, not a signature"),
        (packet(8, b"\1" + raw_deflate(packet(8, b"\1" + raw_deflate(MESSAGE)))), "is an OpenPGP message that is compressed"),
        (packet(8, b"\0" + MESSAGE) + MESSAGE, "is an OpenPGP message that is compressed twice, or beside something else"),
        (packet(8, b""), "is compressed in a way that OpenPGP does not know"),
        (packet(8, b"\x09" + MESSAGE), "is compressed in a way that OpenPGP does not know"),
        (packet(8, b"\2" + raw_deflate(MESSAGE)), "is broken: it cannot be unpacked"),
        (packet(8, b"\3" + MESSAGE), "is broken: it cannot be unpacked"),
        (packet(8, b"\1" + raw_deflate(MESSAGE)[:-4]), "does not end where it should"),
        (packet(8, b"\1" + raw_deflate(MESSAGE) + b"more"), "does not end where it should"),
        (packet(8, b"\3" + bz2.compress(MESSAGE)[:-4]), "does not end where it should"),
        (packet(8, b"\0"), "is empty"),
        (MESSAGE[:-1], "is broken: an OpenPGP packet ends too early"),
        (MESSAGE + b"\xc2", "is broken: an OpenPGP packet ends too early"),
        (MESSAGE + b"\n", "is broken: there is something between its OpenPGP packets"),
        (b"\xcb\xe9", "is broken: an OpenPGP packet ends too early"),
        (packet(10, b"PGP") * 65, "is an OpenPGP message of more than 64 packets"),
        (partial(11, bytes(3000), 0), "is an OpenPGP message in more than 1024 pieces"),
    ],
)  # fmt: skip
def test_everything_else_is_refused_in_words(message: bytes, told: str) -> None:
    """What it is instead, as far as that can be seen."""
    with pytest.raises(EvidenceMalformed, match=told):
        read_message(message, LIMIT)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "zip": lambda body: b"\1" + raw_deflate(body),
    "zlib": lambda body: b"\2" + zlib.compress(body, 9),
    "bzip2": lambda body: b"\3" + bz2.compress(body),
}


@pytest.mark.parametrize("packer", PACKERS)
def test_a_compression_bomb_costs_no_more_than_the_limit(packer: str) -> None:
    """Thirty-two megabytes in a few kilobytes: no more than the limit is ever unpacked."""
    bomb = packet(8, PACKERS[packer](ONE_PASS + packet(11, bytes(32 << 20)) + SIGNATURE))
    assert len(bomb) < 1 << 20
    tracemalloc.start()
    try:
        began = time.process_time()
        with pytest.raises(EvidenceMalformed, match="has more than 65536 bytes when it is unpacked"):
            read_message(bomb, 64 << 10)
        assert time.process_time() - began < 10
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_what_is_unpacked_may_be_as_large_as_the_limit() -> None:
    """The limit itself is allowed, for what was stored, too."""
    for packed in (b"\0" + MESSAGE, b"\1" + raw_deflate(MESSAGE)):
        assert read_message(packet(8, packed), len(MESSAGE)).packets == MESSAGE
        with pytest.raises(EvidenceMalformed, match="when it is unpacked"):
            read_message(packet(8, packed), len(MESSAGE) - 1)
