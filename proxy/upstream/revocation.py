"""OCSP servers and the places of revocation lists: whoever a trusted certificate names, asked like any stranger.

The rules are those for upstreams: addresses are looked at when they are dialled, redirects are followed by hand and few, every
answer is bounded in size and time, nothing is sent along but the question.
"""

from __future__ import annotations

import asyncio

import aiohttp.abc
from yarl import URL

from proxy.errors import UpstreamMisbehaved, UpstreamUnavailable
from proxy.settings import Limits, Upstream
from proxy.upstream.failures import place
from proxy.upstream.network import resolved
from proxy.upstream.registries import Endpoint
from proxy.upstream.transport import Transport

_NAME = "revocation"
_HINT = "if that is right, set `allow_private: true` for the notation store"
_OCSP_REQUEST = "application/ocsp-request"
#: Redirects that keep method and body, and those that lead a GET on.
_KEEPING = frozenset({307, 308})
_LEADING = _KEEPING | {301, 302, 303}
#: However many redirects registries may need, a list needs few.
_MOST_REDIRECTS = 5


class RevocationServers:
    """Asks servers by HTTP. Built without I/O."""

    def __init__(self, limits: Limits, *, user_agent: str, resolver: aiohttp.abc.AbstractResolver | None = None) -> None:
        self._redirects = min(limits.redirects, _MOST_REDIRECTS)
        self._transports: dict[bool, Transport] = {}
        self._settings: dict[bool, Upstream] = {}
        for private in (False, True):
            self._settings[private] = upstream = Upstream(url=f"http://{_NAME}.invalid", allow_private=private)
            endpoint = Endpoint.of(_NAME, upstream)
            self._transports[private] = Transport(
                endpoint, upstream, limits, user_agent=user_agent, resolver=resolver, hint=_HINT
            )

    async def ask(self, url: str, question: bytes | None, limit: int, by: float, *, private: bool) -> bytes:
        """What the server at ``url`` answers: to an OCSP request, or with a list; at most ``limit`` bytes.

        ``by``: until when, on the loop's clock. ``private``: whether it may be at a private address. Raises
        :class:`UpstreamUnavailable` and :class:`UpstreamMisbehaved`.
        """
        transport, method = self._transports[private], "GET" if question is None else "POST"
        headers = {} if question is None else {"Content-Type": _OCSP_REQUEST}
        followed = _LEADING if question is None else _KEEPING
        target = _parsed(url)
        for _ in range(self._redirects + 1):
            with await transport.send(method, target, headers, by, question) as reply:
                if reply.status == 200:
                    return await reply.read(limit, by, self._settings[private].stall_timeout)
                if reply.status not in followed:
                    raise UpstreamUnavailable(f"{place(target)} answered {reply.status}")
                target = resolved(target, reply.headers.get("Location", ""), "a redirect")
        raise UpstreamMisbehaved(f"{place(_parsed(url))} redirects more than {self._redirects} times")

    async def close(self) -> None:
        """Close the connections."""
        await asyncio.gather(*(transport.close() for transport in self._transports.values()))


def _parsed(url: str) -> URL:
    """The URL of a certificate. Raises :class:`UpstreamMisbehaved` where it is none."""
    return resolved(URL("http://the.certificate"), url, "a URL")
