"""Failures in words: what a person reads when an upstream cannot be reached, refuses, or answers nonsense.

Everything here comes from the other side and is bounded and cleaned before it becomes part of a message: one line, printable,
without secrets and without the query strings of (signed) URLs.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
from yarl import URL

from proxy.errors import UpstreamError, UpstreamMisbehaved, UpstreamUnavailable

#: Characters of an upstream's own words that are passed on.
MAX_WORDS = 200
_URL_SECRETS = re.compile(r"(https?://)(?:[^\s/?#\"'<>]*@)?([^\s?#\"'<>]*)(?:[?#][^\s\"'<>]*)?", re.IGNORECASE)
_CREDENTIALS = re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE)
_JWT = re.compile(r"\beyJ[\w-]{4,}\.[\w-]*(?:\.[\w-]*)?")
_STALE = re.compile(r"(?=.*\b(?:token|credentials?|authorization)\b)(?=.*\b(?:expired|invalid|not valid)\b)", re.IGNORECASE)


class Outage(UpstreamUnavailable):
    """The other side's failure: the breaker counts it. ``retry`` says whether trying again at once may help.

    ``busy``: it answers, and says that there were too many requests.
    """

    def __init__(self, message: str, retry_after: float | None = None, *, retry: bool = True, busy: bool = False) -> None:
        super().__init__(message, retry_after)
        self.retry = retry
        self.busy = busy


class PrivateAddress(OSError):
    """The host has no address that may be dialled: loopback, private or link-local, and ``allow_private`` is not set."""


@dataclass(frozen=True, slots=True)
class Complaint:
    """What an error body says: the OCI error code, if any, and one clean line."""

    code: str
    words: str

    @property
    def stale(self) -> bool:
        """Whether it says that the token or the credential has expired or is invalid."""
        return _STALE.match(self.words) is not None

    def __str__(self) -> str:
        return " ".join(part for part in (self.code, self.words) if part)


def clean(text: str, limit: int = MAX_WORDS) -> str:
    """One printable line of at most ``limit`` characters, without credentials and query strings."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text[: 20 * limit]).split())
    line = _URL_SECRETS.sub(r"\1\2", line)
    line = _JWT.sub("…", _CREDENTIALS.sub(r"\1 …", line))
    return line if len(line) <= limit else line[: limit - 1] + "…"


def place(url: URL) -> str:
    """A URL as it may be shown: scheme, host and path, without user and query."""
    port = f":{url.explicit_port}" if url.explicit_port is not None else ""
    host = url.raw_host or ""
    return clean(f"{url.scheme}://{f'[{host}]' if ':' in host else host}{port}{url.raw_path}")


def host_of(url: URL) -> str:
    """``host``, or ``host:port`` where the port is not the scheme's own."""
    host = (url.raw_host or "").lower()
    host = f"[{host}]" if ":" in host else host
    return host if url.is_default_port() else f"{host}:{url.port}"


def complaint(content_type: str, body: bytes) -> Complaint:
    """Read an error body: the OCI error format, other JSON, text, HTML, or nothing."""
    text = body.decode("utf-8", "replace").strip()
    if text.startswith("{"):
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            return Complaint("", clean(text))
        return _from_json(document)
    if "html" in content_type.lower() or text[:15].lower().startswith(("<!doctype", "<html")):
        return Complaint("", "a web page" if text else "")
    return Complaint("", clean(text))


def _from_json(document: Mapping[str, Any]) -> Complaint:
    errors = document.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else document
    if not isinstance(first, dict):
        first = document
    code = first.get("code", first.get("error"))
    words = first.get("message", first.get("details", first.get("error_description")))
    return Complaint(
        clean(str(code), 60) if isinstance(code, str | int) else "",
        clean(words) if isinstance(words, str) else "",
    )


def retry_after(headers: Mapping[str, str], limit: float) -> float | None:
    """Seconds that the upstream asks us to wait (RFC 9110, section 10.2.3: seconds or a date), at most ``limit``."""
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,10}", value):
        return min(float(value), limit)
    then = _date(value)
    if then is None:
        return None
    now = _date(headers.get("Date", "")) or time.time()  # its own clock, so that ours need not agree with it
    return min(max(0.0, then - now), limit)


def _date(value: str) -> float | None:
    try:
        return parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def explain(error: Exception, url: URL, *, allow_private_hint: str, connect: float) -> UpstreamError:
    """Turn what aiohttp, TLS, DNS or the socket raised while talking to ``url`` into one of our errors, in plain words."""
    host = host_of(url)
    cause = _cause(error)
    match cause:
        case PrivateAddress():
            return UpstreamMisbehaved(f"{host} is at {cause}, which is not a public address; {allow_private_hint}")
        case ssl.SSLCertVerificationError():
            reason = clean(cause.verify_message or cause.reason or "verification failed", 120)
            return Outage(
                f"the TLS certificate of {host} is not trusted: {reason}; a private authority goes into `ca`", retry=False
            )
        case ssl.SSLError():
            reason = clean((cause.reason or "handshake failed").replace("_", " ").lower(), 120)
            return Outage(f"TLS with {host} failed: {reason}", retry=False)
        case socket.gaierror():
            reason = clean(cause.strerror or "no such host", 120)
            return Outage(f"the name {url.raw_host} cannot be resolved: {reason}")
    match error:
        case aiohttp.ClientConnectorDNSError():
            return Outage(f"the name {url.raw_host} cannot be resolved: {_reason(error.os_error)}")
        case aiohttp.ClientConnectorError():
            if isinstance(error.os_error, ConnectionRefusedError):
                return Outage(f"{host} refuses connections")
            return Outage(f"{host} cannot be reached: {_reason(error.os_error)}")
        case aiohttp.ConnectionTimeoutError():
            return Outage(f"no {'TLS ' if url.scheme == 'https' else ''}connection to {host} within {connect:g} s")
        case aiohttp.ClientConnectionError() | ConnectionError():
            return Outage(f"{host} closed the connection")
        case aiohttp.InvalidURL():
            return UpstreamMisbehaved(f"{place(url)} is no address that can be asked")
    return Outage(f"{host} answered with broken HTTP")


def _cause(error: BaseException) -> BaseException:
    """The innermost error of the guard, of TLS or of the resolver inside aiohttp's wrappings; else ``error`` itself."""
    found, inner = error, error
    for _ in range(5):
        if isinstance(inner, PrivateAddress | ssl.SSLError | socket.gaierror):
            found = inner
        wrapped = getattr(inner, "certificate_error", None) or getattr(inner, "os_error", None) or inner.__cause__
        if not isinstance(wrapped, BaseException):
            break
        inner = wrapped
    return found


def _reason(error: OSError) -> str:
    return clean(error.strerror or str(error) or type(error).__name__, 120)
