"""Answers of the registry API: headers, error bodies, and the one table from refusals to status codes.

The same answer serves GET and HEAD: aiohttp leaves the body out of an answer to HEAD and keeps every header.

OCI distribution specification 1.1, "Error Codes"; "Warning" as in RFC 7234 §5.5. A refusal is 403 DENIED with a message for
people in the body and the same words in the reason phrase: some clients show only the one, some only the other. So is it with
an outage (503), of which no client shows the body.
"""

from __future__ import annotations

import base64
import json
import math
import time
from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from aiohttp import web
from aiohttp.http import HttpVersion11

from proxy.errors import MalformedRequest
from proxy.policy.decision import Answer
from proxy.services.answers import Refused, Thing
from storage.digest import Digest

API_VERSION: Final = {"Docker-Distribution-Api-Version": "registry/2.0"}
_UNKNOWN = {Thing.MANIFEST: "MANIFEST_UNKNOWN", Thing.BLOB: "BLOB_UNKNOWN", Thing.NAME: "NAME_UNKNOWN"}
#: The longest reason phrase: a status line must stay well below the line limits of HTTP libraries.
_MAX_REASON = 600
_MAX_WARNING = 600
#: What clients show by its status line alone: containerd a refused HEAD, and all of them an outage.
_EXPLAINED: Final = frozenset({HTTPStatus.FORBIDDEN, HTTPStatus.SERVICE_UNAVAILABLE})
_DEFAULT_RETRY = 5


def plain(text: str, limit: int) -> str:
    """``text`` as one line of printable ASCII, at most ``limit`` characters: safe in a status line or a header."""
    line = " ".join(text.replace("…", "...").split())
    clean = "".join(character if " " <= character <= "~" else "?" for character in line)
    return clean if len(clean) <= limit else clean[: limit - 3] + "..."


def phrase(status: HTTPStatus, reasons: tuple[str, ...]) -> str:
    """A reason phrase that tells why: as many whole reasons as fit, for half a digest or half a command helps nobody."""
    told = f"{status.phrase}: {reasons[0]}" if reasons else status.phrase
    for reason in reasons[1:]:
        if len(told) + len(reason) + 2 > _MAX_REASON:
            break
        told = f"{told}; {reason}"
    return plain(told, _MAX_REASON)


def error(status: int, code: str, reasons: tuple[str, ...], headers: Mapping[str, str] | None = None) -> web.Response:
    """An OCI error. The message joins the reasons; ``detail`` has them one by one."""
    message = "; ".join(reasons)
    body = json.dumps({"errors": [{"code": code, "message": message, "detail": {"reasons": list(reasons)}}]}).encode() + b"\n"
    reason = phrase(HTTPStatus(status), reasons) if status in _EXPLAINED else None
    return web.Response(
        status=status, reason=reason, body=body, content_type="application/json", headers={**API_VERSION, **(headers or {})}
    )


def basic(user: str, password: str) -> str:
    """Credentials as a Basic ``Authorization`` header has them (RFC 7617)."""
    return base64.b64encode(f"{user}:{password}".encode("utf-8", "surrogatepass")).decode("ascii")


def ping() -> web.Response:
    """The answer to ``GET /v2/``: this is a registry, and it needs no login."""
    return web.Response(body=b"{}", content_type="application/json", headers=API_VERSION)


def malformed(problem: MalformedRequest) -> web.Response:
    """The answer to a request that has no meaning."""
    return error(problem.status, problem.code, (str(problem),))


def refused(refusal: Refused, namespace: Mapping[str, str]) -> web.Response:
    """The answer to a request that is not served."""
    match refusal.answer:
        case Answer.DENY:
            return error(403, "DENIED", refusal.reasons, namespace)
        case Answer.ABSENT:
            return error(404, _UNKNOWN[refusal.thing], refusal.reasons, namespace)
        case _:
            seconds = _DEFAULT_RETRY if refusal.retry_after is None else max(1, math.ceil(refusal.retry_after))
            headers = {"Retry-After": str(seconds), **namespace}
            return error(503, "UNAVAILABLE", refusal.reasons, headers)


def content_headers(media_type: str, digest: Digest, warning: str | None, namespace: Mapping[str, str]) -> dict[str, str]:
    """Headers of a manifest or a blob. The digest is always the one that was computed here."""
    headers = {
        "Content-Type": media_type,
        "Docker-Content-Digest": str(digest),
        "ETag": f'"{digest}"',
        **API_VERSION,
        **namespace,
    }
    if warning is not None:
        headers["Warning"] = warn(warning)
    return headers


def warn(text: str) -> str:
    """The value of a ``Warning`` header, code 299 (miscellaneous persistent warning)."""
    quoted = plain(text, _MAX_WARNING).replace("\\", "/").replace('"', "'")
    return f'299 - "{quoted}"'


def not_modified(request: web.BaseRequest, digest: Digest) -> bool:
    """Whether ``If-None-Match`` names this content (RFC 9110 §13.1.2); a bare digest counts, too."""
    own = {f'"{digest}"', str(digest)}
    for given in request.headers.getall("If-None-Match", ()):
        if given.strip() == "*" or any(tag.strip().removeprefix("W/") in own for tag in given.split(",")):
            return True
    return False


class Prebuilt(web.StreamResponse):
    """An answer whose bytes are ready: written in one piece, past aiohttp's header building.

    Only for HTTP/1.1 connections that stay open and whose write buffer is empty (:func:`fits_prebuilt`).
    """

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._data = data

    async def prepare(self, request: web.BaseRequest) -> None:
        """Write everything."""
        if request.transport is not None:
            request.transport.write(self._data)

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""

    @property
    def keep_alive(self) -> bool:
        """The connection stays open."""
        return True


def fits_prebuilt(request: web.BaseRequest) -> bool:
    """Whether a :class:`Prebuilt` answer may be used: else a client that does not read could fill our memory."""
    transport = request.transport
    return (
        transport is not None
        and request.version == HttpVersion11
        and request.keep_alive
        and transport.get_write_buffer_size() == 0
    )


class Wire:
    """Head and body of a 200, ready for the wire but for the ``Date`` of the second. Raises ValueError for what is no header."""

    __slots__ = ("_body", "_head")

    def __init__(self, headers: Mapping[str, str], length: int, body: bytes) -> None:
        lines = [f"{name}: {value}" for name, value in headers.items()]
        if not all(line.isprintable() for line in lines):
            raise ValueError("a header holds what ends its line")
        head = "\r\n".join(("HTTP/1.1 200 OK", *lines, f"Content-Length: {length}", ""))
        self._head = head.encode("ascii")
        self._body = body

    def bytes(self, *, head: bool) -> bytes:
        """All that is sent, for GET or HEAD."""
        return b"".join((self._head, _DATE.line(), b"" if head else self._body))


class _DateLine:
    """The ``Date`` header and the blank line after the head, built once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._line = b""

    def line(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._line = f"Date: {formatdate(second, usegmt=True)}\r\n\r\n".encode("ascii")
            self._second = second
        return self._line


_DATE: Final = _DateLine()
