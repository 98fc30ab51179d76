"""Tar archives as container runtimes read them (POSIX.1-2001 pax, ustar, GNU, V7), a block at a time.

Where readers of tar differ, what counts is what runtimes put on a node, and these use Go's ``archive/tar``: global pax headers
are passed over, the last of several extended headers counts, GNU's long names win over pax. What runtimes fail on is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from proxy.drift.model import Facts, Kind
from proxy.drift.names import MAX_PATH, clean, shown
from proxy.drift.unpacking import Budget, Plain
from proxy.errors import LayerRefused
from storage.digest import Hasher

BLOCK = 512
#: Most bytes of an extended header or of a long name; Go's limit.
_MAX_EXTENDED = 1 << 20
#: Most data and holes of a sparse file.
_MAX_SPARSE = 1 << 16
_MAX_ID = (1 << 32) - 1
_ZEROS = bytes(BLOCK)
_HOLE = bytes(1 << 16)
_TYPES = {
    b"2": Kind.SYMLINK,
    b"3": Kind.CHARACTER,
    b"4": Kind.BLOCK,
    b"5": Kind.DIRECTORY,
    b"6": Kind.FIFO,
}
#: Bytes of the longest ``struct vfs_ns_cap_data`` (capabilities(7)).
_MAX_CAPABILITY = 24
_CAPABILITY = "SCHILY.xattr.security.capability"


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of an archive: its path, and what it says stands there. ``link``: it is a hard link to that path.

    Of a hard link ``facts`` has the mode and the owner of its own header only.
    """

    path: bytes
    facts: Facts
    link: bytes | None = None


@dataclass(slots=True)
class _Header:
    name: bytes
    mode: int
    uid: int
    gid: int
    size: int
    flag: bytes
    linkname: bytes
    device: tuple[int, int]
    block: bytes
    gnu: bool


def members(plain: Plain, budget: Budget) -> Iterator[Member]:
    """The entries in their order; contents are hashed on the way. Raises :class:`LayerRefused`.

    The stream is read to its end, what stands behind the archive's end, too.
    """
    pax: Mapping[str, bytes] = {}
    long_name = long_link = None
    while (header := _header(plain)) is not None:
        if header.flag in {b"x", b"g"}:
            body = _extended(plain, header)
            if header.flag == b"x":
                pax = _records(body)
            continue
        if header.flag in {b"L", b"K"}:
            text = _extended(plain, header).split(b"\0", 1)[0]
            if header.flag == b"L":
                long_name = text
            else:
                long_link = text
            continue
        budget.enter()
        _merge(header, pax)
        header.name = header.name if long_name is None else long_name
        header.linkname = header.linkname if long_link is None else long_link
        member = _member(plain, header, pax, budget)
        for name in (member.path, member.link or b"", member.facts.target):
            budget.name(name)
        yield member
        pax, long_name, long_link = {}, None, None
    if pax or long_name is not None or long_link is not None:
        raise LayerRefused("it ends behind an extended header")
    plain.drain()


def _member(plain: Plain, header: _Header, pax: Mapping[str, bytes], budget: Budget) -> Member:
    capability = pax.get(_CAPABILITY) or None
    if capability is not None and len(capability) > _MAX_CAPABILITY:
        raise LayerRefused(f"{shown(header.name[:100])} has a capability of {len(capability)} bytes, which Linux does not know")
    mode = header.mode & 0o7777
    if header.flag == b"\0":
        header.flag = b"5" if header.name.endswith(b"/") else b"0"
    if header.flag in {b"0", b"S"}:
        content = _content(plain, header, pax, budget)
        path = clean(header.name)  # a sparse file's name may stand in its map
        facts = Facts(Kind.FILE, mode, header.uid, header.gid, content.size, content.sha256, capability=capability)
        return Member(path, facts)
    path = clean(header.name)
    if header.flag == b"1":
        facts = Facts(Kind.FILE, mode, header.uid, header.gid, capability=capability)
        return Member(path, facts, clean(header.linkname))
    kind = _TYPES.get(header.flag)
    if kind is None:
        raise LayerRefused(f"{shown(path)} is of type {header.flag!r}, which container runtimes do not unpack")
    if kind is Kind.SYMLINK:
        if b"\0" in header.linkname or len(header.linkname) >= MAX_PATH:
            raise LayerRefused(f"{shown(path)} links to what is no path")
        return Member(path, Facts(kind, mode, header.uid, header.gid, target=header.linkname))
    device = header.device if kind in {Kind.CHARACTER, Kind.BLOCK} else (0, 0)
    return Member(path, Facts(kind, mode, header.uid, header.gid, device=device, capability=capability))


# -- headers ---------------------------------------------------------------------------------------------------------


def _header(plain: Plain) -> _Header | None:
    """The next header; None at the end, which is two blocks of zeros, or where the bytes end."""
    block = plain.read(BLOCK)
    if not block:
        return None
    if len(block) < BLOCK:
        raise LayerRefused("it ends in the middle of a header")
    if block == _ZEROS:
        second = plain.read(BLOCK)
        if second and second != _ZEROS:
            raise LayerRefused("a block of zeros stands between its headers")
        return None
    if not _sum_holds(block):
        raise LayerRefused("a header's checksum does not hold: this is no tar archive, or a broken one")
    magic = block[257:265]
    ustar, gnu = magic[:6] == b"ustar\0", magic == b"ustar  \0"
    name = _text(block[:100])
    if ustar:
        star = block[508:512] == b"tar\0"
        prefix = _text(block[345:476] if star else block[345:500])
        name = prefix + b"/" + name if prefix else name
    device = (_number(block[329:337]), _number(block[337:345])) if ustar or gnu else (0, 0)
    header = _Header(
        name,
        _number(block[100:108]),
        _number(block[108:116]),
        _number(block[116:124]),
        _number(block[124:136]),
        block[156:157],
        _text(block[157:257]),
        device,
        block,
        gnu,
    )
    _check(header)
    return header


def _check(header: _Header) -> None:
    if header.size < 0 or header.mode < 0:
        raise LayerRefused(f"{shown(header.name[:100])}: a number in its header is negative")
    if not (0 <= header.uid <= _MAX_ID and 0 <= header.gid <= _MAX_ID):
        raise LayerRefused(f"{shown(header.name[:100])}: its owner is no number that Linux knows")


def _sum_holds(block: bytes) -> bool:
    """Whether the checksum is that of the bytes, taken as unsigned, or (as old tools did) as signed numbers."""
    digits = _text(block[148:156].strip(b" \0"))
    if not digits or digits.strip(b"01234567"):
        return False
    expected = int(digits, 8)
    bare = block[:148] + b" " * 8 + block[156:]
    unsigned = sum(bare)
    return expected == unsigned or expected == unsigned - 256 * sum(byte > 127 for byte in bare)


def _text(field: bytes) -> bytes:
    return field.split(b"\0", 1)[0]


def _number(field: bytes) -> int:
    """Octal digits among spaces and NULs, or base 256 where the first bit is set (GNU). Raises LayerRefused."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ~(0x80 << 8 * (len(field) - 1))
        # The next bit is the sign, in two's complement.
        value -= (1 << 8 * len(field) - 1) if field[0] & 0x40 else 0
        if abs(value) >= 1 << 63:
            raise LayerRefused("a number in a header is too large")
        return value
    digits = field.strip(b" \0").split(b"\0", 1)[0]
    if not digits:
        return 0
    if digits.strip(b"01234567"):
        raise LayerRefused(f"{digits[:16]!r} in a header is no octal number")
    return int(digits, 8)


def _extended(plain: Plain, header: _Header) -> bytes:
    if header.size > _MAX_EXTENDED:
        raise LayerRefused(f"an extended header has {header.size} bytes; the limit is {_MAX_EXTENDED}")
    body = plain.read(header.size)
    if len(body) < header.size:
        raise LayerRefused("it ends in the middle of an extended header")
    plain.skip(-header.size % BLOCK)
    return body


def _records(body: bytes) -> dict[str, bytes]:
    """Pax records: ``<length> <key>=<value>\\n``. GNU's old way of listing a sparse file's pieces is gathered in one key."""
    found: dict[str, bytes] = {}
    sparse: list[bytes] = []
    position = 0
    while position < len(body):
        space = body.find(b" ", position, position + 12)
        digits = body[position:space] if space > 0 else b""
        if not digits.isdigit():
            raise LayerRefused("a record of an extended header has no length")
        end = position + int(digits)
        record = body[space + 1 : end]
        if end > len(body) or not record.endswith(b"\n") or b"=" not in record:
            raise LayerRefused("a record of an extended header is broken")
        raw, value = record[:-1].split(b"=", 1)
        key = raw.decode("utf-8", "surrogateescape")
        if not key or "\0" in key or (key in {"path", "linkpath", "uname", "gname"} and b"\0" in value):
            raise LayerRefused("a record of an extended header holds a NUL byte, or has no name")
        if key in {"GNU.sparse.offset", "GNU.sparse.numbytes"}:
            if (key == "GNU.sparse.offset") != (len(sparse) % 2 == 0) or b"," in value:
                raise LayerRefused("the pieces of a sparse file are not listed in turn")
            sparse.append(value)
        else:
            found[key] = value
        position = end
    if sparse:
        found["GNU.sparse.map"] = b",".join(sparse)
    return found


def _merge(header: _Header, pax: Mapping[str, bytes]) -> None:
    """Let the records of an extended header stand in place of the header's fields; an empty one says nothing."""
    header.name = pax.get("path") or header.name
    header.linkname = pax.get("linkpath") or header.linkname
    header.uid = _decimal(pax, "uid", header.uid)
    header.gid = _decimal(pax, "gid", header.gid)
    header.size = _decimal(pax, "size", header.size)
    _check(header)


def _decimal(pax: Mapping[str, bytes], key: str, otherwise: int) -> int:
    value = pax.get(key)
    if not value:
        return otherwise
    if not value.isdigit() or len(value) > 19:
        raise LayerRefused(f"the record {key} of an extended header is no number")
    return int(value)


# -- contents --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Content:
    size: int
    sha256: bytes


def _content(plain: Plain, header: _Header, pax: Mapping[str, bytes], budget: Budget) -> _Content:
    """Read a file's content, holes and all."""
    stored = header.size
    version = (pax.get("GNU.sparse.major", b""), pax.get("GNU.sparse.minor", b""))
    pieces: list[tuple[int, int]] | None = None
    size = stored
    padding = -stored % BLOCK
    if header.flag == b"S":
        if not header.gnu:
            raise LayerRefused(f"{shown(header.name[:100])} is a sparse file of no known kind")
        size = _number(header.block[483:495])
        pieces = _old_map(plain, header.block)
    elif version in {(b"0", b"0"), (b"0", b"1"), (b"1", b"0")} or (version == (b"", b"") and pax.get("GNU.sparse.map")):
        header.name = pax.get("GNU.sparse.name") or header.name
        size = _decimal(pax, "GNU.sparse.size", _decimal(pax, "GNU.sparse.realsize", size))
        if version == (b"1", b"0"):
            pieces, read = _map_in_content(plain, stored)
            stored -= read
        else:
            pieces = _pairs(pax.get("GNU.sparse.map", b"").split(b","))
    hasher = hashlib.sha256()
    if pieces is None:
        for data in plain.pieces(stored):
            hasher.update(data)
    else:
        _sparse(plain, pieces, size, stored, hasher, budget)
    plain.skip(padding)
    return _Content(size, hasher.digest())


def _sparse(plain: Plain, pieces: list[tuple[int, int]], size: int, stored: int, hasher: Hasher, budget: Budget) -> None:
    ends = [(0, 0), *pieces]
    in_order = all(offset >= before + length for (before, length), (offset, _) in pairwise(ends))
    if not in_order or sum(ends[-1]) > size or sum(length for _, length in pieces) != stored:
        raise LayerRefused("the pieces of a sparse file do not fit into it")
    position = 0
    for offset, length in (*pieces, (size, 0)):
        budget.unpack(offset - position)
        for start in range(position, offset, len(_HOLE)):
            hasher.update(memoryview(_HOLE)[: offset - start])
        for data in plain.pieces(length):
            hasher.update(data)
        position = offset + length


def _old_map(plain: Plain, block: bytes) -> list[tuple[int, int]]:
    """The map in a GNU header: four pieces in it, and 21 in each block that follows (GNU tar manual, "Old GNU Format")."""
    pieces: list[tuple[int, int]] = []
    fields, more = block[386:482], block[482]
    while True:
        for start in range(0, len(fields), 24):
            if not fields[start]:
                break
            pieces.append((_number(fields[start : start + 12]), _number(fields[start + 12 : start + 24])))
        if not more:
            break
        extension = plain.read(BLOCK)
        if len(extension) < BLOCK or len(pieces) > _MAX_SPARSE:
            raise LayerRefused("the map of a sparse file is broken, or too long")
        fields, more = extension[:504], extension[504]
    if any(offset < 0 or length < 0 for offset, length in pieces):
        raise LayerRefused("the map of a sparse file holds a negative number")
    return pieces


def _pairs(numbers: list[bytes]) -> list[tuple[int, int]]:
    if numbers == [b""]:
        return []
    if len(numbers) % 2 or len(numbers) > 2 * _MAX_SPARSE or not all(each.isdigit() and len(each) <= 19 for each in numbers):
        raise LayerRefused("the map of a sparse file is broken, or too long")
    values = list(map(int, numbers))
    return list(zip(values[::2], values[1::2], strict=True))


def _map_in_content(plain: Plain, stored: int) -> tuple[list[tuple[int, int]], int]:
    """The map that stands before the content, in whole blocks (GNU tar manual, "Version 1.0"), and how many bytes it takes."""
    numbers: list[bytes] = []
    rest = b""
    read = 0
    wanted = 1
    while len(numbers) < wanted:
        if b"\n" not in rest:
            if read + BLOCK > stored or read > 40 * _MAX_SPARSE:
                raise LayerRefused("the map of a sparse file is broken, or too long")
            block = plain.read(BLOCK)
            if len(block) < BLOCK:
                raise LayerRefused("it ends in the middle of a file")
            read += BLOCK
            if b"\n" not in block and len(rest) > BLOCK:
                raise LayerRefused("the map of a sparse file is broken, or too long")
            rest += block
            continue
        *lines, rest = rest.split(b"\n", wanted - len(numbers))
        numbers += lines
        if wanted == 1:
            if not numbers[0].isdigit() or len(numbers[0]) > 6 or int(numbers[0]) > _MAX_SPARSE:
                raise LayerRefused("the map of a sparse file is broken, or too long")
            wanted += 2 * int(numbers[0])
    return _pairs(numbers[1:] or [b""]), read
