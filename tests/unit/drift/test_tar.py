"""Archives as runtimes read them, and those that nobody should send."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import subprocess
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from backports import zstd

from proxy.drift.model import Bounds, Kind
from proxy.drift.tar import Member
from proxy.errors import LayerRefused
from tests.simulator.trees import CAPABILITY, Put, archive, file, folder, hardlink, symlink
from tests.tools import need
from tests.unit.drift.reading import read

LONG = "/".join(["d" * 90] * 5) + "/end"
ENTRIES = [
    folder("etc", 0o1777),
    file("etc/passwd", b"root\n", 0o4755),
    file(LONG, b"long"),
    symlink("link", "/" + "t" * 200),
    hardlink("again", "etc/passwd", 0o4755),
    Put("pipe", tarfile.FIFOTYPE),
    Put("null", tarfile.CHRTYPE, device=(1, 3)),
    Put("disk", tarfile.BLKTYPE, device=(8, 1)),
    file("odd\udcff\n", b"x"),
]


def by_path(members: list[Member]) -> dict[bytes, Member]:
    """Entries by their paths."""
    return {member.path: member for member in members}


def header(name: bytes = b"x", size: int = 0, flag: bytes = b"0", link: bytes = b"", magic: bytes = b"ustar\x0000") -> bytes:
    """A header of our own making, with a right checksum."""
    fields = [name.ljust(100, b"\0"), b"0000644\0", b"0000000\0", b"0000000\0", b"%011o\0" % size, b"0" * 11 + b"\0"]
    head = b"".join(fields) + b" " * 8 + flag + link.ljust(100, b"\0") + magic
    return summed(head.ljust(512, b"\0"))


def summed(block: bytes) -> bytes:
    """A header block with the checksum that its bytes have."""
    bare = block[:148] + b" " * 8 + block[156:]
    return bare[:148] + b"%06o\0 " % sum(bare) + bare[156:]


def blocks(*parts: bytes) -> bytes:
    """Parts, each filled up to whole blocks."""
    return b"".join(part + bytes(-len(part) % 512) for part in parts)


def pax(**records: bytes) -> bytes:
    """A pax header with these records."""
    body = b""
    for key, value in records.items():
        line = b" " + key.replace("_", ".").encode() + b"=" + value + b"\n"
        length = len(line) + 1
        while len(b"%d" % length) + len(line) != length:
            length += 1
        body += b"%d" % length + line
    return blocks(header(b"pax", len(body), b"x"), body)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
def test_everything_that_an_archive_holds(form: int) -> None:
    """Types, modes, owners, devices, long names and targets, names that are no UTF-8; contents by their hash."""
    found = by_path(read(archive(ENTRIES, form)))
    assert [each.decode("utf-8", "surrogateescape") for each in found] == [entry.path for entry in ENTRIES]
    passwd = found[b"etc/passwd"].facts
    assert (passwd.kind, passwd.mode, passwd.size) == (Kind.FILE, 0o4755, 5)
    assert passwd.sha256 == hashlib.sha256(b"root\n").digest()
    assert found[b"link"].facts.target == b"/" + b"t" * 200
    assert found[b"again"].link == b"etc/passwd"
    assert found[b"null"].facts.device == (1, 3)
    assert [found[name].facts.kind for name in (b"etc", b"pipe", b"null", b"disk")] == [
        Kind.DIRECTORY,
        Kind.FIFO,
        Kind.CHARACTER,
        Kind.BLOCK,
    ]


@pytest.mark.parametrize(
    "pack",
    [
        gzip.compress,
        zstd.compress,
        bytes,
        lambda data: gzip.compress(data[:700]) + gzip.compress(data[700:]),
        lambda data: zstd.compress(data[:700]) + zstd.compress(data[700:]),
        lambda data: struct.pack("<II", 0x184D2A50, 5) + b"hello" + zstd.compress(data),
        lambda data: gzip.compress(data) + bytes(1000),
    ],
    ids=["gzip", "zstd", "plain", "gzip members", "zstd frames", "zstd skippable", "gzip padded"],
)
def test_packed_in_every_way(pack: Callable[[bytes], bytes]) -> None:
    """However a layer is packed, and however its bytes come, it holds the same."""
    plain = archive([*ENTRIES, file("big", bytes(600_000))])
    expected = read(plain)
    for piece in (1 << 18, 333, 7):
        assert read(pack(plain), piece=piece) == expected


@pytest.mark.parametrize("way", ["gnu", "pax --sparse-version=0.0", "pax --sparse-version=0.1", "pax --sparse-version=1.0"])
def test_sparse_files(tmp_path: Path, way: str) -> None:
    """Files with holes, in the four ways in which GNU tar writes them: their content is read with the holes."""
    for name, pieces in (("few", 2), ("many", 60), ("only-a-hole", 0)):
        with (tmp_path / name).open("wb") as sparse:
            for number in range(pieces):
                sparse.seek(number * 65536 + 8192)
                sparse.write(bytes([number + 1]) * 4096)
            sparse.truncate(pieces * 65536 + 100_000)
    (tmp_path / "plain").write_bytes(b"plain")
    command = (
        need("tar"),
        "-c",
        "--sparse",
        *f"--format={way}".split(),
        "-C",
        str(tmp_path),
        "few",
        "many",
        "only-a-hole",
        "plain",
    )
    packed = subprocess.run(command, check=True, capture_output=True).stdout
    assert len(packed) < 600_000
    found = by_path(read(packed))
    for name in ("few", "many", "only-a-hole", "plain"):
        content = (tmp_path / name).read_bytes()
        facts = found[name.encode()].facts
        assert (facts.size, facts.sha256) == (len(content), hashlib.sha256(content).digest())


def test_capabilities_are_read() -> None:
    """``security.capability`` comes in a pax record, bytes and all."""
    (member,) = read(archive([file("ping", b"x", capability=CAPABILITY)]))
    assert member.facts.capability == CAPABILITY


def test_names_are_cleaned() -> None:
    """``./``, a leading slash, doubled slashes and ``..`` within the root mean what they mean to runtimes."""
    entries = [file("./a"), file("/b"), file("x//c"), file("x/../d"), Put("./", tarfile.DIRTYPE)]
    assert [member.path for member in read(archive(entries))] == [b"a", b"b", b"x/c", b"d", b""]


def test_headers_of_old_tools() -> None:
    """V7 without a magic, a folder by its trailing slash, base-256 sizes, checksums over signed bytes."""
    assert read(header(b"dir/", flag=b"\0", magic=b"") + bytes(1024))[0].facts.kind is Kind.DIRECTORY
    block = bytearray(header(b"big"))
    block[124:136] = b"\x80" + (3).to_bytes(11, "big")
    assert read(blocks(summed(bytes(block)), b"abc") + bytes(1024))[0].facts.size == 3
    high = bytearray(header(b"\xe9"))
    bare = bytes(high[:148]) + b" " * 8 + bytes(high[156:])
    high[148:156] = b"%06o\0 " % (sum(bare) - 256)
    assert read(bytes(high) + bytes(1024))[0].path == b"\xe9"


def test_extended_headers_count_as_they_do_for_runtimes() -> None:
    """The last of several counts, GNU's name wins over pax, a global one is passed over, an empty record says nothing."""
    body = b"16 path=global\n\n"
    data = blocks(header(b"g", len(body), b"g"), body, pax(path=b"first"), pax(path=b"second"), header(b"own"))
    assert read(data + bytes(1024))[0].path == b"second"
    long = blocks(header(b"L", 5, b"L"), b"gnu!\0")
    assert read(long + pax(path=b"pax") + header(b"own") + bytes(1024))[0].path == b"gnu!"
    assert read(pax(path=b"", uid=b"7") + header(b"own") + bytes(1024))[0].path == b"own"
    assert read(pax(uid=b"77", gid=b"3000000000") + header(b"own") + bytes(1024))[0].facts.gid == 3_000_000_000


def test_where_archives_end() -> None:
    """At two blocks of zeros, whatever stands behind them; or where the bytes end, as some tools leave it."""
    assert len(read(header(b"a") + bytes(1024) + header(b"b"))) == 1
    assert len(read(header(b"a"))) == 1
    assert len(read(header(b"a") + bytes(512))) == 1
    assert read(b"") == []


REFUSED: dict[str, tuple[bytes, str]] = {
    "leaves the root": (header(b"../x") + bytes(1024), "leaves the root"),
    "leaves the root from within": (header(b"a/../../x") + bytes(1024), "leaves the root"),
    "hard link out of the root": (header(b"x", flag=b"1", link=b"../../etc/shadow"), "leaves the root"),
    "no tar archive": (b"MZ" * 600, "checksum"),
    "cut in a header": (header(b"a")[:300], "middle of a header"),
    "cut in a file": (header(b"a", 5000) + bytes(600), "middle of a file"),
    "cut in the padding": (header(b"a", 100) + bytes(200), "middle of a file"),
    "cut in a pax header": (pax(path=b"x" * 900)[:700], "middle of an extended header"),
    "a pax header and nothing": (pax(path=b"x"), "behind an extended header"),
    "zeros between headers": (header(b"a") + bytes(512) + header(b"b"), "zeros"),
    "huge pax header": (header(b"p", 1 << 30, b"x"), "the limit is"),
    "huge long name": (header(b"p", 1 << 30, b"L"), "the limit is"),
    "name of 300 bytes": (pax(path=b"n" * 300) + header(), "file systems allow 255"),
    "path of 5000 bytes": (pax(path=b"/".join([b"n" * 99] * 50)) + header(), "the limit is 4096"),
    "300 folders deep": (pax(path=b"/".join([b"n"] * 300)) + header(), "the limit is 256"),
    "NUL in a pax name": (pax(path=b"a\0b") + header(), "NUL"),
    "negative size": (summed(bytes(header(b"a")[:124]) + b"\xff" * 12 + bytes(header(b"a")[136:])), "negative"),
    "no octal number": (summed(header(b"a")[:124] + b"9z999999999\0" + header(b"a")[136:]), "octal"),
    "number beyond all": (summed(header(b"a")[:124] + b"\xa0" + b"\xff" * 11 + header(b"a")[136:]), "too large"),
    "pax record without length": (blocks(header(b"p", 9, b"x"), b"path=abc\n") + header(), "no length"),
    "pax record that lies": (blocks(header(b"p", 9, b"x"), b"99 a=b\n\n\n") + header(), "broken"),
    "pax record without newline": (blocks(header(b"p", 6, b"x"), b"6 a=bc") + header(), "broken"),
    "pax size that is none": (pax(size=b"1e3") + header(), "no number"),
    "owner beyond 32 bits": (pax(uid=b"4294967296") + header(), "owner"),
    "unknown type": (header(b"x", flag=b"V") + bytes(1024), "do not unpack"),
    "contiguous file": (header(b"x", flag=b"7") + bytes(1024), "do not unpack"),
    "sparse out of order": (pax(GNU_sparse_map=b"10,2,5,2", GNU_sparse_size=b"99") + blocks(header(b"s", 4), b"abcd"), "fit"),
    "sparse beyond the end": (pax(GNU_sparse_map=b"10,2", GNU_sparse_size=b"5") + blocks(header(b"s", 2), b"ab"), "fit"),
    "sparse with other data": (pax(GNU_sparse_map=b"0,2", GNU_sparse_size=b"5") + blocks(header(b"s", 3), b"abc"), "fit"),
    "sparse of odd numbers": (pax(GNU_sparse_map=b"0,2,4", GNU_sparse_size=b"5") + blocks(header(b"s", 2), b"ab"), "map"),
    "sparse map of words": (pax(GNU_sparse_map=b"a,b", GNU_sparse_size=b"5") + blocks(header(b"s", 2), b"ab"), "map"),
    "sparse map without end": (
        pax(GNU_sparse_major=b"1", GNU_sparse_minor=b"0") + blocks(header(b"s", 2048), b"7" * 2048),
        "map",
    ),
    "sparse map of millions": (
        pax(GNU_sparse_major=b"1", GNU_sparse_minor=b"0") + blocks(header(b"s", 512), b"999999\n"),
        "map",
    ),
    "sparse pieces out of turn": (
        pax(GNU_sparse_numbytes=b"1") + blocks(header(b"s", 1), b"a"),
        "in turn",
    ),
    "a capability of kilobytes": (archive([file("a", capability=bytes(5000))]), "a capability of 5000 bytes"),
    "old sparse of no known kind": (header(b"s", 0, b"S"), "no known kind"),
}


@pytest.mark.parametrize(("data", "told"), REFUSED.values(), ids=REFUSED)
def test_what_runtimes_would_fail_on_is_refused(data: bytes, told: str) -> None:
    """With a reason."""
    with pytest.raises(LayerRefused, match=told):
        read(data)


def _bomb() -> bytes:
    return zstd.compress(bytes(200_000_000), 3)


HOSTILE: dict[str, tuple[bytes, Bounds, str]] = {
    "a ratio that only bombs have": (_bomb(), Bounds(), "1100 times"),
    "more than may be unpacked": (
        gzip.compress(archive([file("x", bytes(5000))])),
        Bounds(unpacked=2000),
        "more than 2000 bytes",
    ),
    "names that fill memory": (archive([file("x" * 200 + str(n)) for n in range(3)]), Bounds(names=500), "more than 500 bytes"),
    "targets that fill memory": (archive([symlink("x", "y" * 600)]), Bounds(names=500), "more than 500 bytes"),
    "more entries": (archive([file(str(n)) for n in range(11)]), Bounds(entries=10), "more than 10 entries"),
    "a hole of exabytes": (
        pax(GNU_sparse_map=b"0,0", GNU_sparse_size=b"%d" % (1 << 60)) + blocks(header(b"s", 0)),
        Bounds(),
        "unpack to more than",
    ),
    "cut gzip": (gzip.compress(archive(ENTRIES))[:-9], Bounds(), "middle"),
    "cut zstd": (zstd.compress(archive(ENTRIES))[:-9], Bounds(), "middle"),
    "damaged gzip": (gzip.compress(archive(ENTRIES))[:-8] + bytes(8), Bounds(), "cannot be unpacked"),
    "damaged zstd": (zstd.compress(b"x" * 99)[:9] + b"\xff" * 99, Bounds(), "cannot be unpacked"),
    "something behind gzip": (gzip.compress(archive(ENTRIES)) + b"more", Bounds(), "cannot be unpacked"),
    "something behind the padding": (gzip.compress(archive(ENTRIES)) + bytes(2000) + b"more", Bounds(), "behind its end"),
    "bzip2": (b"BZh91AY&SY" + bytes(20), Bounds(), "packed with bzip2"),
    "xz": (b"\xfd7zXZ\0" + bytes(20), Bounds(), "packed with xz"),
}


@pytest.mark.parametrize(("data", "bounds", "told"), HOSTILE.values(), ids=HOSTILE)
def test_bounds_hold(data: bytes, bounds: Bounds, told: str) -> None:
    """What is meant to fill memory, disks or time is refused before it does, and what is broken is called broken."""
    with pytest.raises(LayerRefused, match=told):
        read(data, bounds)


def test_a_window_beyond_all_measure_is_refused() -> None:
    """A zstd frame may ask its reader for gigabytes of memory."""
    frame = b"\x28\xb5\x2f\xfd" + bytes([0x00, (31 - 10) << 3]) + b"\x01\x00\x00"
    with pytest.raises(LayerRefused, match="cannot be unpacked"):
        read(frame)


def test_nothing_is_held_in_memory() -> None:
    """A file of a hundred megabytes is hashed a piece at a time."""
    import tracemalloc

    def pieces() -> io.BytesIO:
        packer = zlib.compressobj(1, wbits=31)
        packed = packer.compress(header(b"big", 100 << 20))
        packed += b"".join(packer.compress(bytes(1 << 20)) for _ in range(100)) + packer.compress(bytes(1024)) + packer.flush()
        return io.BytesIO(packed)

    packed = pieces().getvalue()
    tracemalloc.start()
    try:
        assert read(packed, piece=1 << 16)[0].facts.size == 100 << 20
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20
