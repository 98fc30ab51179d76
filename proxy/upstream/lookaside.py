"""Lookasides: web servers that hold OpenPGP signatures beside a registry (containers/image, "registries.d").

The signatures of an image are ``<url>/<repository without its registry>@<algorithm>=<hex>/signature-1``, ``signature-2`` and so
on; the first that is not there is the end. A lookaside is asked like an upstream (addresses, redirects, timeouts, bounds,
retries, breaker), but it is another party's server: it is shown no credentials and no client certificate.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable

import aiohttp.abc

from proxy.content import Lookaside
from proxy.errors import UpstreamOversized, UpstreamUnavailable
from proxy.settings import Limits, Upstream
from proxy.upstream.auth import Authorizer, Scope
from proxy.upstream.breaker import Breaker
from proxy.upstream.credentials import CredentialSource
from proxy.upstream.exchange import Exchange, Request
from proxy.upstream.failures import place as shown
from proxy.upstream.registries import Endpoint
from proxy.upstream.transport import Transport
from storage.digest import Digest
from storage.reference import Repository

#: The search for evidence has little time, and its end says less than what the server answered.
_RETRIES = 1


class Lookasides:
    """The lookasides that were asked so far. Building does no I/O; each connects when first asked."""

    def __init__(
        self,
        limits: Limits,
        *,
        user_agent: str,
        clock: Callable[[], float] = time.monotonic,
        resolver: aiohttp.abc.AbstractResolver | None = None,
    ) -> None:
        self._limits = limits
        self._user_agent = user_agent
        self._clock = clock
        self._resolver = resolver
        self._exchanges: dict[Lookaside, Exchange] = {}

    async def signatures(
        self, place: Lookaside, url: str, repository: Repository, digest: Digest, limit: int
    ) -> AsyncGenerator[bytes | UpstreamOversized]:
        """The signatures of an image below ``url``, in their order; an error in place of one that has more than ``limit`` bytes.

        404 is the end of them. Everything else that is no signature is raised: :class:`proxy.errors.UpstreamUnavailable`,
        :class:`UpstreamDenied`, or :class:`UpstreamMisbehaved` for what redirects where it must not.
        """
        exchange = self._exchange(place, url)
        number = 0
        while True:
            number += 1
            path = f"/{repository.name}@{digest.algorithm}={digest.hex}/signature-{number}"
            request = Request("GET", exchange.endpoint.at(path), Scope(repository.name), {})
            try:
                answer = await exchange.fetch(request, limit, exchange.deadline())
            except UpstreamOversized as error:
                yield error  # what comes behind it counts all the same
                continue
            if answer.status == 404:
                return
            if answer.status != 200:
                raise exchange.refusal(answer, f"signature {number} of {repository}@{digest.short}")
            if answer.html:
                raise UpstreamUnavailable(f"{shown(answer.url)} sent a web page instead of a signature")
            yield answer.body

    async def close(self) -> None:
        """Close all connections and end what is under way."""
        await asyncio.gather(*(exchange.close() for exchange in self._exchanges.values()))

    def _exchange(self, place: Lookaside, url: str) -> Exchange:
        if (known := self._exchanges.get(place)) is not None:
            return known
        upstream = Upstream(url=url, ca=place.ca, allow_private=place.allow_private, retries=_RETRIES)
        endpoint = Endpoint.of(f"the lookaside {url}", upstream)
        transport = Transport(endpoint, upstream, self._limits, user_agent=self._user_agent, resolver=self._resolver)
        # Nothing to take credentials from: neither configuration nor environment.
        nobody = CredentialSource(
            endpoint, upstream.auth, environment={}, clock=self._clock, helper_timeout=upstream.header_timeout
        )
        authorizer = Authorizer(endpoint, nobody, transport, self._limits, self._clock)
        breaker = Breaker(
            endpoint.name, failures=upstream.breaker_failures, cooldown=upstream.breaker_cooldown, clock=self._clock
        )
        exchange = Exchange(endpoint, upstream, self._limits, transport, authorizer, breaker)
        return self._exchanges.setdefault(place, exchange)
