"""One POST to a sink, and what its answer means.

Sinks are the operator's own choice, so they may be anywhere, private networks included; but only there: no redirect is followed,
no proxy is taken from the environment. Of the answer's body no more than :data:`ANSWER` bytes are read.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from contextlib import suppress

import aiohttp
from yarl import URL

from proxy.policy.alerts import LONGEST_RETRY_AFTER, Http
from proxy.sinks.model import Answer, Kind
from proxy.sinks.secrets import SecretUnreadable, read
from proxy.upstream.failures import clean, explain, host_of, retry_after

#: Bytes of an answer's body that are read.
ANSWER = 2048
#: Statuses below 500 that may be better at the next attempt.
_PASSING = frozenset({408, 429})


class Poster:
    """Posts to one endpoint. ``timeout`` (seconds) is for everything: connecting, sending, the answer."""

    def __init__(self, target: Http, timeout: float, *, user_agent: str) -> None:
        self._target = target
        self._timeout = timeout
        self._headers = {"User-Agent": user_agent}
        self._session: aiohttp.ClientSession | None = None

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send ``body`` to ``path`` below the endpoint (as it is where that is empty). Raises nothing but CancelledError."""
        try:
            url = await self._url(path)
            sent = {**self._headers, **headers, **await self._authorization()}
            session = await self._open()
        except (SecretUnreadable, OSError, ValueError) as error:
            return Answer(Kind.FAILED, clean(str(error)))
        return await self._exchange(session, url, body, sent)

    async def _exchange(self, session: aiohttp.ClientSession, url: URL, body: bytes, headers: Mapping[str, str]) -> Answer:
        host = host_of(url)
        try:
            async with session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                return judge(response.status, response.headers, await response.content.read(ANSWER), host)
        except TimeoutError:
            return Answer(Kind.FAILED, f"no answer from {host} within {self._timeout:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Answer(Kind.FAILED, str(explain(error, url, allow_private_hint="", connect=self._timeout)))

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _url(self, path: str) -> URL:
        target = self._target
        url = parse_url(target.url if target.source is None else await read(target.source))
        return url.with_path(url.raw_path.rstrip("/") + path, encoded=True, keep_query=True) if path else url

    async def _authorization(self) -> dict[str, str]:
        if self._target.bearer is None:
            return {}
        token = await read(self._target.bearer)
        if not token.isascii() or not token.isprintable():
            raise SecretUnreadable(f"{self._target.bearer} holds something that no header can")
        return {"Authorization": f"Bearer {token}"}

    async def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            context = await asyncio.to_thread(_context, self._target)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=context, limit=4),
                timeout=aiohttp.ClientTimeout(total=self._timeout),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._session


def parse_url(text: str | None) -> URL:
    """An address of a sink. Raises ValueError, which does not repeat it."""
    url = None
    with suppress(ValueError):
        url = URL((text or "").strip())
    if url is None or url.scheme not in {"http", "https"} or url.host is None or url.fragment or not url.port:
        raise ValueError("the sink's address is not of the form https://host/path")
    return url


def judge(status: int, headers: Mapping[str, str], body: bytes, host: str) -> Answer:
    """What an answer means: Standard Webhooks 1.0.0, "Delivery success and failure", and RFC 9110."""
    words = f"{host} answered {status}"
    if 200 <= status < 300:
        return Answer(Kind.TAKEN, words)
    said = clean(body.decode("utf-8", "replace"), 200)
    words = f"{words}: {said}" if said and "<" not in said[:1] else words
    wait = retry_after(headers, LONGEST_RETRY_AFTER)
    if status == 410:
        return Answer(Kind.GONE, words, wait)
    if 300 <= status < 400:
        return Answer(Kind.FAILED, f"{host} answered {status}, a redirect; redirects are not followed: write the final address")
    if 400 <= status < 500 and status not in _PASSING:
        return Answer(Kind.REFUSED, words)
    return Answer(Kind.FAILED, words, wait)


def _context(target: Http) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=None if target.ca is None else str(target.ca))
