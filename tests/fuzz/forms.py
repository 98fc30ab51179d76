"""Changes to documents that keep their form, so that what is changed lies deep: a byte of a certificate in base64 in JSON.

Whatever is in a text or a byte string is looked at: JSON, PEM, DER, CBOR, base64, hex, words. It is opened, something inside is
changed, and it is closed again with lengths and encodings right. Every so often the outside is changed instead. What is
changed is decided by a :class:`random.Random` alone, so that Hypothesis can shrink it and a run can be repeated.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from random import Random
from typing import Any

import cbor2

from tests.simulator.sigstore import der

#: Values at which readers stumble.
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**53, 2**53 + 1, 2**63, 2**64, 10**30, 10**400, 0.5, 1e308, 1e309),
    *("", "0", "-1", "٣", "AAAA", "A===", "\x00", "\ud800", "é", "0.0.1", "1e9", "9" * 25, "=" * 40, "\u2028", "K"),
    *([], {}, [[]], {"": ""}, [None], {"a": [{}]}),
)
_DEEPEST = 8
_DEEDS = ("text",) * 6 + ("empty", "empty", "remove", "odd", "move", "repeat", "add", "rename")
_PEM = re.compile(rb"-----BEGIN ([A-Z ]+)-----([A-Za-z0-9+/=\s]*)-----END \1-----")
_BASE64 = re.compile(rb"[A-Za-z0-9+/\r\n]{8,}={0,2}[\r\n]*")
_BASE64URL = re.compile(rb"[A-Za-z0-9_-]{8,}")
_HEX = re.compile(rb"(?:[0-9a-f]{2}){8,}")
_SPACE = re.compile(rb"([\s,;=]+)")


class Changer:
    """Changes bytes. ``raw`` changes those that have no form: :func:`damage`, or what a fuzzer has to offer."""

    def __init__(self, random: Random, raw: Callable[[bytes], bytes] | None = None) -> None:
        self._random = random
        self._raw = raw or (lambda data: damage(data, random))
        self._forms = (self._json, self._pem, self._der, self._cbor, self._hex, self._base64, self._base64url, self._words)

    def change(self, data: bytes, depth: int = 0) -> bytes:
        """``data`` with one thing, or a few, changed."""
        fate = self._random.random()
        if data and fate < 0.02:
            return self._repeated(data)
        if data and depth < _DEEPEST and fate > 0.12:
            for form in self._forms:
                changed = form(data, depth + 1)
                if changed is not None:
                    return changed
        return self._raw(data)

    def _repeated(self, data: bytes) -> bytes:
        """A few bytes over and over: what takes a time that grows faster than its input shows it then."""
        at = self._random.randrange(len(data))
        part = data[at : at + self._random.randint(1, 8)]
        return data[:at] + part * self._random.choice((10, 100, 1000, 5000)) + data[at:]

    # -- documents -------------------------------------------------------------------------------------------------

    def _json(self, data: bytes, depth: int) -> bytes | None:
        if data[:1] not in (b"{", b"["):
            return None
        try:
            document = json.loads(data)
        except (ValueError, RecursionError):
            return None
        for _ in range(self._few()):
            self._alter(document, depth)
        return json.dumps(document, separators=(",", ":")).encode()

    def _alter(self, document: Any, depth: int) -> None:
        places = list(_places(document))
        if not places:
            return
        node, key = self._random.choice(places)
        deed = self._random.choice(_DEEDS)
        if deed == "text" and not isinstance(node[key], str):  # most of what is worth changing is in texts
            texts = [(node, key) for node, key in places if isinstance(node[key], str)]
            node, key = self._random.choice(texts) if texts else (node, key)
        match deed:
            case "text" if isinstance(node[key], str):
                node[key] = self._text(node[key], depth)
            case "empty":
                node[key] = type(node[key])()
            case "remove":
                del node[key]
            case "move":
                other, where = self._random.choice(places)
                node[key] = json.loads(json.dumps(other[where]))
            case "repeat" if isinstance(node[key], list):
                node[key] = node[key] * self._random.choice((2, 3, 17, 33, 40))
            case "add" if isinstance(node[key], dict):
                node[key][self._random.choice(("", "x", "type", "digest", "\x00"))] = self._odd()
            case "rename" if isinstance(node, dict):
                node[self._text(key, depth)] = node.pop(key)
            case _:
                node[key] = self._odd()

    def _text(self, text: str, depth: int) -> str:
        return self.change(text.encode("utf-8", "surrogatepass"), depth).decode("utf-8", "replace")

    def _cbor(self, data: bytes, depth: int) -> bytes | None:
        if not (0x80 <= data[0] <= 0xBB or data[0] == 0xD2):
            return None
        stream = io.BytesIO(data)
        try:
            value = cbor2.load(stream)
            if stream.tell() != len(data):
                return None
            for _ in range(self._few()):
                value = self._item(value, depth)
            return cbor2.dumps(value)
        except Exception:  # whatever it is, it is not CBOR then
            return None

    def _item(self, value: Any, depth: int) -> Any:
        """A CBOR value with something below it changed."""
        random = self._random
        if depth > _DEEPEST or random.random() < 0.1:
            return random.choice((*ODD[:10], b"", "", {}, [], cbor2.CBORTag(1, 2**62), cbor2.CBORTag(18, []), value))
        match value:
            case cbor2.CBORTag():
                return cbor2.CBORTag(value.tag, self._item(value.value, depth + 1))
            case bytes():
                return self.change(value, depth)
            case str():
                return self._text(value, depth)
            case bool() | int() | float():
                return random.choice((value + 1, -value, value << 8 if isinstance(value, int) else value, 0, 2**63))
            case list() | tuple() if value:
                items = list(value)
                at = random.randrange(len(items))
                match random.randrange(8):
                    case 0:
                        del items[at]
                    case 1:
                        items.insert(at, random.choice(items))
                    case _:
                        items[at] = self._item(items[at], depth + 1)
                return items
            case dict() if value:
                pairs = list(value.items())
                at = random.randrange(len(pairs))
                match random.randrange(8):
                    case 0:
                        del pairs[at]
                    case 1:
                        pairs.append((random.choice((1, 2, 3, 33, "", -1, True, 1.0)), random.choice(pairs)[1]))
                    case _:
                        pairs[at] = (pairs[at][0], self._item(pairs[at][1], depth + 1))
                return dict(pairs)
            case _:
                return random.choice(ODD[:10])

    def _der(self, data: bytes, depth: int) -> bytes | None:
        if data[0] not in (0x30, 0x04, 0x0C):
            return None
        tree = read_der(data)
        if tree is None:
            return None
        for _ in range(self._few()):
            self._graft(tree, depth)
        return b"".join(map(write_der, tree))

    def _graft(self, tree: list[Any], depth: int) -> None:
        random = self._random
        places = list(elements(tree))
        if not places:
            return
        siblings, at = random.choice(places)
        tag, content = siblings[at]
        match random.choice(("content", "content", "content", "remove", "repeat", "tag", "other", "empty", "wrap")):
            case "content" if isinstance(content, bytes):
                siblings[at] = (tag, self.change(content, depth))
            case "remove":
                del siblings[at]
            case "repeat":
                siblings[at:at] = [deepcopy(siblings[at]) for _ in range(random.choice((1, 2, 40)))]
            case "tag":
                siblings[at] = (random.choice((tag ^ 0x20, tag ^ 0x80, 0x02, 0x04, 0x05, 0x06, 0x18, 0x30, 0x31, 0xA0)), content)
            case "other":
                others, where = random.choice(places)
                if where < len(others):
                    siblings[at] = deepcopy(others[where])
            case "empty":
                siblings[at] = (tag, b"")
            case "wrap":
                siblings[at] = (0x30, [(tag, content)])
            case _:
                siblings[at] = (tag, self._raw(content if isinstance(content, bytes) else b"".join(map(write_der, content))))

    # -- texts -----------------------------------------------------------------------------------------------------

    def _pem(self, data: bytes, depth: int) -> bytes | None:
        blocks = list(_PEM.finditer(data))
        if not blocks:
            return None
        block = self._random.choice(blocks)
        match self._random.randrange(8):
            case 0:
                return data + b"\n" + block[0]
            case 1:
                return data[: block.start()] + data[block.end() :]
            case _:
                try:
                    inner = base64.b64decode(block[2])
                except binascii.Error:
                    return None
                return data[: block.start()] + pem(block[1], self.change(inner, depth)) + data[block.end() :]

    def _hex(self, data: bytes, depth: int) -> bytes | None:
        return self.change(bytes.fromhex(data.decode()), depth).hex().encode() if _HEX.fullmatch(data) else None

    def _base64(self, data: bytes, depth: int) -> bytes | None:
        if not _BASE64.fullmatch(data):
            return None
        try:
            return base64.b64encode(self.change(base64.b64decode(data), depth))
        except binascii.Error:
            return None

    def _base64url(self, data: bytes, depth: int) -> bytes | None:
        if not _BASE64URL.fullmatch(data):
            return None
        try:
            inner = base64.urlsafe_b64decode(data + b"=" * (-len(data) % 4))
        except binascii.Error:
            return None
        return base64.urlsafe_b64encode(self.change(inner, depth)).rstrip(b"=")

    def _words(self, data: bytes, depth: int) -> bytes | None:
        """Words and what is between them take turns."""
        words = _SPACE.split(data)
        if len(words) < 3 or len(words) > 2000:
            return None
        at = self._random.randrange(len(words))
        match self._random.randrange(6):
            case 0:
                del words[at]
            case 1:
                words[at:at] = words[at : at + self._random.randrange(1, 9)] * self._random.choice((1, 2, 20))
            case 2:
                words[at] = self._random.choice(words)
            case _:
                words[at] = self.change(words[at], depth)
        return b"".join(words)

    def _odd(self) -> Any:
        return deepcopy(self._random.choice(ODD))

    def _few(self) -> int:
        return self._random.choice((1, 1, 1, 1, 2, 3))


def damage(data: bytes, random: Random) -> bytes:
    """Bytes that are cut, flipped and repeated, in one to three places."""
    damaged = bytearray(data)
    for _ in range(random.randint(1, 3)):
        at = random.randint(0, len(damaged))
        match random.choice(("flip", "set", "cut", "end", "insert", "repeat")):
            case "flip" if at < len(damaged):
                damaged[at] ^= 1 << random.randint(0, 7)
            case "set" if at < len(damaged):
                damaged[at] = random.choice((0, 1, 0x7F, 0x80, 0x84, 0xFF))
            case "cut":
                del damaged[at : at + random.randint(1, 40)]
            case "end":
                del damaged[at:]
            case "insert":
                damaged[at:at] = bytes(random.randint(0, 255) for _ in range(random.randint(0, 20)))
            case _:
                damaged[at:at] = damaged[at : at + random.randint(1, 200)]
    return bytes(damaged)


def pem(label: bytes, inner: bytes) -> bytes:
    """One PEM block."""
    body = base64.encodebytes(inner)
    return b"-----BEGIN %b-----\n%b-----END %b-----" % (label, body, label)


#: DER as a tree: tag, and either content or the elements in it.
Element = tuple[int, "bytes | list[Element]"]


def read_der(data: bytes) -> list[Any] | None:
    """The elements that ``data`` is made of, as deep as they are well made; None when it is no DER."""
    found: list[Any] = []
    at = 0
    while at < len(data):
        if len(data) - at < 2:
            return None
        tag, size, at = data[at], data[at + 1], at + 2
        if size & 0x80:
            width = size & 0x7F
            size = int.from_bytes(data[at : at + width], "big")
            at += width
        if at + size > len(data):
            return None
        content = data[at : at + size]
        inner = read_der(content) if tag & 0x20 else None
        found.append((tag, content if inner is None else inner))
        at += size
    return found


def write_der(element: Any) -> bytes:
    """The bytes of one element, with lengths as they must be."""
    tag, content = element
    return der.tlv(tag, *((content,) if isinstance(content, bytes) else map(write_der, content)))


def elements(tree: list[Any]) -> Iterator[tuple[list[Any], int]]:
    """Every element of a tree, as a place in the list that holds it."""
    for at, (_, content) in enumerate(tree):
        yield tree, at
        if isinstance(content, list):
            yield from elements(content)


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in a document."""
    keys: Iterable[Any] = node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    for key in keys:
        yield node, key
        yield from _places(node[key])
