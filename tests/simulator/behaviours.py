"""What a fault does: the misbehaviour of upstreams and of what stands in between, one function each.

Each returns a :data:`tests.simulator.server.Behaviour` for :meth:`Site.on`. Those of the first part answer by themselves; those
of the second bend the answer of what stands below them, so that they compose: ``cut(500)`` over ``redirect(...)`` cuts the
redirect, ``header(...)`` over ``status(429)`` adds to it.
"""

from __future__ import annotations

import asyncio
import gzip as gzip_module
import inspect
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from multidict import CIMultiDict

from storage.digest import Digest
from tests.simulator.registry import error
from tests.simulator.server import PIECE, Answer, Behaviour, Cut, Next, Seen

LOGIN_PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body><form>...</form></body></html>\n"

# -- answers of their own ------------------------------------------------------------------------------------------


def status(
    code: int,
    body: bytes | str | Mapping[str, Any] = b"",
    *,
    headers: Mapping[str, str] | None = None,
    content_type: str | None = None,
) -> Behaviour:
    """Any status with any body: bytes, text, or an object that becomes JSON."""

    async def behave(seen: Seen, following: Next) -> Answer:
        if isinstance(body, Mapping):
            data, kind = json.dumps(body).encode(), "application/json"
        else:
            data, kind = (body.encode(), "text/plain") if isinstance(body, str) else (body, "application/octet-stream")
        fields = CIMultiDict(headers or {})
        if data:
            fields.setdefault("Content-Type", content_type or kind)
        return Answer(code, fields, data)

    return behave


def refuse(code: int, name: str, message: str, detail: Any = None, *, headers: Mapping[str, str] | None = None) -> Behaviour:
    """An error with the specification's body: ``{"errors": [{code, message, detail}]}``."""

    async def behave(seen: Seen, following: Next) -> Answer:
        answer = error(code, name, message, detail)
        answer.headers.update(headers or {})
        return answer

    return behave


def html(code: int = 200, body: bytes = LOGIN_PAGE) -> Behaviour:
    """A page for people where a machine asked: a captive portal, a login."""
    return status(code, body, content_type="text/html; charset=utf-8")


def redirect(
    location: str | Callable[[Seen], str | Awaitable[str]], code: int = 307, *, headers: Mapping[str, str] | None = None
) -> Behaviour:
    """Send the client elsewhere. A ``{target}`` in the text stands for path and query of the request."""

    async def behave(seen: Seen, following: Next) -> Answer:
        if isinstance(location, str):
            where: str | Awaitable[str] = location.replace("{target}", seen.target)
        else:
            where = location(seen)
        text = where if isinstance(where, str) else await where
        return Answer(code, CIMultiDict({"Location": text, "Content-Type": "text/html"} | dict(headers or {})), b"<a>Moved</a>\n")

    return behave


def hang_up() -> Behaviour:
    """Close the connection without a word."""

    async def behave(seen: Seen, following: Next) -> Answer:
        return Answer(hang_up=True)

    return behave


def reset() -> Behaviour:
    """Reset the connection instead of an answer."""

    async def behave(seen: Seen, following: Next) -> Answer:
        raise Cut(reset=True)

    return behave


def silence() -> Behaviour:
    """Take the request and never answer."""

    async def behave(seen: Seen, following: Next) -> Answer:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    return behave


def verbatim(data: bytes, code: int = 200) -> Behaviour:
    """These bytes on the socket, status line and all; then the connection is closed."""

    async def behave(seen: Seen, following: Next) -> Answer:
        return Answer(code, verbatim=data)

    return behave


def endless(piece: bytes = b"\0" * PIECE, *, headers: Mapping[str, str] | None = None) -> Behaviour:
    """A 200 whose chunked body never ends, or, with a Content-Length among the headers, does not heed it."""

    async def behave(seen: Seen, following: Next) -> Answer:
        fields = CIMultiDict({"Content-Type": "application/octet-stream"} | dict(headers or {}))
        if "Content-Length" not in fields:
            fields["Transfer-Encoding"] = "chunked"
        return Answer(200, fields, pieces=_for_ever(piece))

    return behave


async def _for_ever(piece: bytes) -> AsyncIterator[bytes]:
    while True:
        yield piece
        await asyncio.sleep(0)


# -- bending the honest answer -------------------------------------------------------------------------------------


def bend(change: Callable[[Answer], Answer | None]) -> Behaviour:
    """Any change to the answer: the function may alter it in place or return another."""

    async def behave(seen: Seen, following: Next) -> Answer:
        answer = await following()
        return change(answer) or answer

    return behave


def header(name: str, value: str) -> Behaviour:
    """Set a header, also one that is not true."""
    return bend(lambda answer: answer.headers.update({name: value}))


def without(*names: str) -> Behaviour:
    """Leave headers out."""

    def change(answer: Answer) -> None:
        for name in names:
            answer.headers.popall(name, None)

    return bend(change)


def lie(digest: Digest | str) -> Behaviour:
    """Claim another Docker-Content-Digest (and ETag) than the bytes have."""
    return bend(lambda answer: answer.headers.update({"Docker-Content-Digest": str(digest), "ETag": f'"{digest}"'}))


def body(data: bytes | Callable[[bytes], bytes], *, length: bool = True) -> Behaviour:
    """Send other bytes; the Content-Length follows them unless ``length`` is false (then it stays that of the true body)."""

    def change(answer: Answer) -> None:
        answer.body = data if isinstance(data, bytes) else data(answer.body)
        if length:
            answer.headers["Content-Length"] = str(len(answer.body))

    return bend(change)


def flip(position: int = -1) -> Behaviour:
    """Flip one bit of the body: right length, wrong digest."""

    def flipped(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[position] ^= 1
        return bytes(changed)

    return body(flipped)


def shorten(by: int = 1) -> Behaviour:
    """A whole answer of too few bytes, with a Content-Length that fits them."""
    return body(lambda data: data[:-by])


def lengthen(by: int = 1) -> Behaviour:
    """A whole answer of too many bytes, with a Content-Length that fits them."""
    return body(lambda data: data + b"\0" * by)


def cut(after: int, *, reset: bool = False) -> Behaviour:
    """Promise the whole body, send ``after`` bytes of it, close (or reset) the connection."""

    def change(answer: Answer) -> None:
        answer.headers.setdefault("Content-Length", str(len(answer.body)))
        answer.pieces = _cut(answer.body[:after], reset)

    return bend(change)


async def _cut(data: bytes, reset: bool) -> AsyncIterator[bytes]:
    yield data
    raise Cut(reset)


def stall(after: int, until: asyncio.Event | None = None) -> Behaviour:
    """Send ``after`` bytes of the body and then nothing more (before ``until`` is set)."""

    def change(answer: Answer) -> None:
        answer.headers.setdefault("Content-Length", str(len(answer.body)))
        answer.pieces = _stall(answer.body, after, until or asyncio.Event())

    return bend(change)


async def _stall(data: bytes, after: int, until: asyncio.Event) -> AsyncIterator[bytes]:
    if after:
        yield data[:after]
    await until.wait()
    yield data[after:]


def drip(piece: int = 1, pause: float = 0.01) -> Behaviour:
    """Send the body in pieces of so many bytes with a pause of so many seconds after each: slow, but alive."""

    def change(answer: Answer) -> None:
        answer.headers.setdefault("Content-Length", str(len(answer.body)))
        answer.pieces = _drip(answer.body, piece, pause)

    return bend(change)


async def _drip(data: bytes, piece: int, pause: float) -> AsyncIterator[bytes]:
    for start in range(0, len(data), piece):
        yield data[start : start + piece]
        await asyncio.sleep(pause)


def chunked() -> Behaviour:
    """No Content-Length: the body in chunks."""

    def change(answer: Answer) -> None:
        answer.headers.popall("Content-Length", None)
        answer.headers["Transfer-Encoding"] = "chunked"

    return bend(change)


def gzip(*, unless_identity: bool = True) -> Behaviour:
    """Encode the body with gzip, though perhaps not for those who ask for ``identity``."""

    async def behave(seen: Seen, following: Next) -> Answer:
        answer = await following()
        if unless_identity and seen.headers.get("Accept-Encoding", "").strip() == "identity":
            return answer
        answer.body = gzip_module.compress(answer.body, mtime=0)
        answer.headers["Content-Encoding"] = "gzip"
        answer.headers["Content-Length"] = str(len(answer.body))
        return answer

    return behave


def ignore_range() -> Behaviour:
    """Answer a Range request with the whole body."""

    async def behave(seen: Seen, following: Next) -> Answer:
        seen.headers.popall("Range", None)
        return await following()

    return behave


def close() -> Behaviour:
    """Close the connection after the answer, saying so."""

    def change(answer: Answer) -> None:
        answer.close = True

    return bend(change)


def hold(until: asyncio.Event) -> Behaviour:
    """Answer only when ``until`` is set: for tests of what happens meanwhile."""

    async def behave(seen: Seen, following: Next) -> Answer:
        await until.wait()
        return await following()

    return behave


def first(change: Callable[[Seen], object]) -> Behaviour:
    """Call a function before the honest answer is made: a tag that is overwritten between HEAD and GET, say."""

    async def behave(seen: Seen, following: Next) -> Answer:
        result = change(seen)
        if inspect.isawaitable(result):
            await result
        return await following()

    return behave
