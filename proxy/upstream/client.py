"""The upstreams: what the rest of Tagstone asks registries for, and nothing of how that goes about.

Every method takes names that were parsed before and answers values whose promises were checked here: bytes hash to the digest
that they were asked for by, lists have the right shape. Errors are those of :mod:`proxy.errors`, one line each, without secrets.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import TypeVar

import aiohttp.abc
from yarl import URL

from proxy.content import FetchedManifest, ListedReferrer, Lookaside, Referrers, ReferrersSource
from proxy.errors import UpstreamAbsent, UpstreamDenied, UpstreamMisbehaved, UpstreamOversized, UpstreamUnavailable
from proxy.settings import Limits, Upstream
from proxy.upstream.auth import REDIRECTS, Authorizer, Scope
from proxy.upstream.blobs import BlobStream
from proxy.upstream.breaker import Breaker
from proxy.upstream.credentials import CredentialSource
from proxy.upstream.exchange import SPENT, Answer, Exchange, Follow, Request
from proxy.upstream.failures import place
from proxy.upstream.listings import (
    OCI_INDEX,
    NotAList,
    next_page,
    read_referrers,
    read_signatures,
    read_tags,
    referrers_tag,
)
from proxy.upstream.lookaside import Lookasides
from proxy.upstream.network import resolved
from proxy.upstream.registries import Endpoint, same_origin
from proxy.upstream.transport import Transport
from storage.digest import Digest
from storage.errors import MalformedName
from storage.records import Descriptor
from storage.reference import Repository, parse_tag

#: All four manifest types: with fewer, registries say 404, convert to schema 1, or pick a platform.
MANIFEST_TYPES = (
    OCI_INDEX,
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_ACCEPT = {"Accept": ", ".join(MANIFEST_TYPES)}
#: Answers that say that there is no referrers API: refusals of the path or method, a redirect to elsewhere, some other document.
_NO_REFERRERS_API = REDIRECTS | {200, 400, 404, 405, 406}
#: The header by which a registry says, at ``/v2/``, that it has a signature API.
_SIGNATURE_API = "X-Registry-Supports-Signatures"
#: Tags that are asked for per page; more is refused by some, fewer costs requests.
PAGE = 100
#: Bytes of a list (all its pages together) that are read, as a multiple of the largest manifest.
LIST_FACTOR = 4
#: Years that a clock may show.
_YEARS = range(1970, 3000)
#: Hashing and parsing of more than this happens in a thread.
_IN_LOOP = 64 << 10
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class TagList:
    """The tags of a repository, sorted, each once; ``complete`` is False when the bounds ended the reading early."""

    tags: tuple[str, ...]
    complete: bool
    pages: int = field(default=1, compare=False)  #: that were asked for


@dataclass(frozen=True, slots=True)
class UpstreamStatus:
    """How an upstream is doing."""

    name: str
    breaker: str  #: ``closed``, ``open`` or ``half-open``
    retry_after: float | None  #: seconds until it is asked again, while not closed
    remaining: int | None  #: of its rate limit, as it last said
    last_error: str | None  #: the latest outage


@dataclass(frozen=True, slots=True)
class Allowance:
    """What an upstream says of how often it may be asked, for whoever has time."""

    remaining: int | None = None  #: of its rate limit; None: it says nothing of one
    limit: int | None = None
    window: float = 0.0  #: seconds for which the limit is; 0: it does not say
    refusals: int = 0  #: how often it has answered that there were too many requests
    pause: float = 0.0  #: seconds until it is better asked again, after such an answer or while the breaker is open


@dataclass(frozen=True, slots=True)
class Named:
    """What an upstream's headers say of a tag: the digest, and what time it is there; None where they do not."""

    digest: Digest | None
    at: datetime | None = None


class Upstreams:
    """All configured upstreams by their registry's canonical name. Building does no I/O; each connects when first asked."""

    def __init__(
        self,
        upstreams: Mapping[str, Upstream],
        limits: Limits,
        *,
        user_agent: str,
        clock: Callable[[], float] = time.monotonic,
        environment: Mapping[str, str] = os.environ,
        resolver: aiohttp.abc.AbstractResolver | None = None,
    ) -> None:
        """``clock`` gives monotonic seconds (tokens, breaker); ``resolver`` replaces the system's.

        Raises :class:`ValueError` for an upstream's ``url`` that is none.
        """
        self._limits = limits
        self._lookasides = Lookasides(limits, user_agent=user_agent, clock=clock, resolver=resolver)
        self._exchanges: dict[str, Exchange] = {}
        for name, upstream in upstreams.items():
            endpoint = Endpoint.of(name, upstream)
            transport = Transport(endpoint, upstream, limits, user_agent=user_agent, resolver=resolver)
            credentials = CredentialSource(
                endpoint, upstream.auth, environment=environment, clock=clock, helper_timeout=upstream.header_timeout
            )
            authorizer = Authorizer(endpoint, credentials, transport, limits, clock)
            breaker = Breaker(name, failures=upstream.breaker_failures, cooldown=upstream.breaker_cooldown, clock=clock)
            self._exchanges[name] = Exchange(endpoint, upstream, limits, transport, authorizer, breaker)

    def __contains__(self, registry: object) -> bool:
        return registry in self._exchanges

    async def head(self, repository: Repository, tag: str) -> Digest | None:
        """What the upstream's header says that ``tag`` names: a hint, to be checked by :meth:`manifest`. See :meth:`named`."""
        return (await self.named(repository, tag)).digest

    async def named(self, repository: Repository, tag: str, *, background: bool = False) -> Named:
        """The same, with what time it is there. ``background``: nobody waits for it (:class:`Request`).

        No digest when it does not answer HEAD, or without a proper ``Docker-Content-Digest``. Raises :class:`UpstreamAbsent` when
        there is no such tag, :class:`UpstreamDenied`, :class:`UpstreamUnavailable` or :class:`UpstreamMisbehaved`.
        """
        exchange = self._exchange(repository)
        name = f"{repository}:{parse_tag(tag)}"
        url = _url(exchange, repository, f"manifests/{tag}")
        request = Request("HEAD", url, Scope(repository.name), _ACCEPT, background=background)
        answer = await exchange.fetch(request, self._limits.manifest_size, exchange.deadline())
        if answer.status == 200:
            return Named(_digest(answer), _date(answer))
        if answer.status == 404 or answer.insufficient:
            raise exchange.refusal(answer, name)
        if answer.status in SPENT:
            # Some refuse HEAD alone, and its refusal has no body that would tell. GET knows, and raises when refused as well.
            await self.manifest(repository, tag, background=background)
        return Named(None)

    async def manifest(
        self, repository: Repository, reference: str | Digest, *, limit: int | None = None, background: bool = False
    ) -> FetchedManifest:
        """The manifest under a tag or digest: its raw bytes, at most ``limit`` of them (default: ``limits.manifest_size``).

        By digest the bytes hash to it; by tag they hash to what ``Docker-Content-Digest`` says, if it says something, and
        ``digest`` is their SHA-256. Else :class:`UpstreamMisbehaved`. Raises :class:`UpstreamAbsent`, :class:`UpstreamDenied`
        and :class:`UpstreamUnavailable`, too.
        """
        exchange = self._exchange(repository)
        wanted = reference if isinstance(reference, Digest) else None
        name = f"{repository}@{wanted.short}" if wanted is not None else f"{repository}:{parse_tag(str(reference))}"
        url = _url(exchange, repository, f"manifests/{reference}")
        request = Request("GET", url, Scope(repository.name), _ACCEPT, background=background)
        answer = await exchange.fetch(request, self._limits.manifest_size if limit is None else limit, exchange.deadline())
        if answer.status != 200:
            raise exchange.refusal(answer, name)
        said = wanted or _digest(answer)
        actual = await _hash(answer.body, said.algorithm if said is not None else "sha256")
        if answer.html and (wanted is None or actual != wanted):
            raise UpstreamUnavailable(f"{place(answer.url)} sent a web page instead of {name}")
        if said is not None and actual != said:
            raise UpstreamMisbehaved(f"the bytes of {name} hash to {actual}, {exchange.endpoint.name} calls them {said}")
        if wanted is None and actual.algorithm != "sha256":
            actual = await _hash(answer.body, "sha256")
        return FetchedManifest(answer.body, actual, answer.media_type, _date(answer))

    @asynccontextmanager
    async def blob(self, repository: Repository, descriptor: Descriptor, offset: int = 0) -> AsyncIterator[BlobStream]:
        """Stream a blob, from ``offset`` on if the upstream can (see :attr:`BlobStream.offset`). Not hashed here.

        Always from the registry's URL, so that each resumption gets a fresh redirect; never by HEAD. Raises
        :class:`UpstreamAbsent`, :class:`UpstreamDenied`, :class:`UpstreamUnavailable`, :class:`UpstreamMisbehaved`.
        """
        exchange = self._exchange(repository)
        name = f"blob {descriptor.digest.short} of {repository}"
        async with exchange.transport.stream_slot():
            by = exchange.deadline()
            url = _url(exchange, repository, f"blobs/{descriptor.digest}")
            request = Request("GET", url, Scope(repository.name), {}, spent=SPENT)
            ranged = replace(request, headers={"Range": f"bytes={offset}-"})
            reply = await exchange.open(ranged if offset > 0 else request, by)
            if reply.status == 416 and offset > 0:  # it cannot resume there: from the start
                reply.close()
                reply = await exchange.open(request, by)
            with reply:
                if reply.status != 200 and not (reply.status == 206 and offset > 0):
                    raise await exchange.judge(reply, name, by)
                yield BlobStream(reply, descriptor, offset, stall=exchange.stall, min_rate=exchange.min_rate)

    async def tags(self, repository: Repository, *, background: bool = False) -> TagList:
        """All tags, following the upstream's own links to further pages. Raises as :meth:`manifest`."""
        exchange = self._exchange(repository)
        name = f"the tags of {repository}"
        by = exchange.deadline()
        scope = Scope(repository.name, "tags")  # some want another scope for it
        url = _url(exchange, repository, f"tags/list?n={PAGE}")
        request = Request("GET", url, scope, {"Accept": "application/json"}, background=background)
        found: set[str] = set()
        budget = LIST_FACTOR * self._limits.manifest_size
        seen: set[URL] = set()
        for _ in range(self._limits.tag_pages):
            seen.add(request.url)
            try:
                answer = await exchange.fetch(request, self._limits.manifest_size, by)
            except UpstreamUnavailable:
                if len(seen) > 1 and asyncio.get_running_loop().time() >= by:
                    break  # out of time, not out of order: what came is worth something
                raise
            if answer.status != 200:
                raise exchange.refusal(answer, name)
            try:
                found.update(await _parse(read_tags, answer.body))
            except NotAList as error:
                raise UpstreamUnavailable(f"{place(answer.url)} did not send {name}: {error}") from None
            budget -= len(answer.body)
            target = _next(answer)
            if target is None:
                return TagList(tuple(sorted(found)), complete=True, pages=len(seen))
            if target in seen or budget < 0:
                break
            request = replace(request, url=target)
        return TagList(tuple(sorted(found)), complete=False, pages=len(seen))

    async def referrers(self, repository: Repository, subject: Digest) -> Referrers:
        """Who refers to ``subject``: what the referrers API lists, else what the fallback tag holds, else nobody.

        Only the shape is checked: each listed manifest must still be fetched and its ``subject`` compared. Raises
        :class:`UpstreamUnavailable`, :class:`UpstreamDenied` or :class:`UpstreamMisbehaved` when nobody can tell.
        """
        listed = await self._listed(repository, subject)
        if listed is not None:
            return listed
        try:
            fallback = await self.manifest(repository, referrers_tag(subject))
        except UpstreamAbsent:
            return Referrers(ReferrersSource.NONE, ())
        if fallback.media_type != OCI_INDEX or await _hash(fallback.body, subject.algorithm) == subject:
            return Referrers(ReferrersSource.NONE, ())  # some resolve such a tag to the subject itself
        try:
            entries = await _parse(lambda body: read_referrers(body, subject, self._limits.referrers + 1), fallback.body)
        except NotAList as error:
            raise UpstreamMisbehaved(f"the referrers tag of {repository}@{subject.short} is unreadable: {error}") from None
        return self._bounded(ReferrersSource.TAG, entries)

    def _bounded(self, source: ReferrersSource, entries: list[ListedReferrer], *, more: bool = False) -> Referrers:
        most = self._limits.referrers
        return Referrers(source, tuple(entries[:most]), complete=len(entries) <= most and not more)

    async def _listed(self, repository: Repository, subject: Digest) -> Referrers | None:
        """What the referrers API lists; None when there is no such API."""
        exchange = self._exchange(repository)
        name = f"the referrers of {repository}@{subject.short}"
        by = exchange.deadline()
        url = _url(exchange, repository, f"referrers/{subject}")
        request = Request("GET", url, Scope(repository.name), {"Accept": OCI_INDEX}, follow=Follow.OWN_ORIGIN)
        entries: list[ListedReferrer] = []
        seen: set[URL] = set()
        target: URL | None = request.url
        while target is not None and len(entries) < self._limits.referrers and len(seen) < self._limits.tag_pages:
            request = replace(request, url=target)
            seen.add(request.url)
            answer = await exchange.fetch(request, self._limits.manifest_size, by)
            if answer.status != 200 or answer.media_type != OCI_INDEX:
                if len(seen) > 1:
                    raise UpstreamUnavailable(f"{place(answer.url)} answered {answer.said} for a further page of {name}")
                if answer.status in _NO_REFERRERS_API:
                    return None
                raise exchange.refusal(answer, name)
            try:
                entries += await _parse(lambda body: read_referrers(body, subject, self._limits.referrers + 1), answer.body)
            except NotAList as error:
                raise UpstreamMisbehaved(f"{place(answer.url)} sent {name} in a form that cannot be read: {error}") from None
            target = _next(answer)
            if target in seen:
                break
        return self._bounded(ReferrersSource.API, entries, more=target is not None)

    async def lookaside(
        self, repository: Repository, digest: Digest, where: Lookaside, limit: int
    ) -> AsyncGenerator[bytes | UpstreamOversized]:
        """The OpenPGP signatures that ``where`` holds for an image; an error in place of one of more than ``limit`` bytes.

        Raises as :meth:`manifest`, when the next one cannot be had.
        """
        if where.url is None:
            for signature in await self._own_signatures(repository, digest):
                if len(signature) > limit:
                    yield UpstreamOversized(
                        f"{repository.registry} sent a signature of {len(signature)} bytes; the limit is {limit}"
                    )
                else:
                    yield signature
            return
        async with aclosing(self._lookasides.signatures(where, where.url, repository, digest, limit)) as signatures:
            async for each in signatures:
                yield each

    async def _own_signatures(self, repository: Repository, digest: Digest) -> list[bytes]:
        """What the registry's own signature API holds; nothing where it has none.

        An extension of OpenShift's and a few other registries' (containers/image, "signature-protocols").
        """
        exchange = self._exchange(repository)
        name = f"the signatures of {repository}@{digest.short}"
        by = exchange.deadline()
        scope = Scope(repository.name)
        base = Request("GET", exchange.endpoint.at("/v2/"), scope, {"Accept": "application/json"})
        greeting = await exchange.fetch(base, self._limits.error_body, by)
        if greeting.status not in {200, 401, 404}:
            raise exchange.refusal(greeting, name)
        if greeting.headers.get(_SIGNATURE_API) != "1":
            return []
        url = exchange.endpoint.at(f"/extensions/v2/{repository.name}/signatures/{digest}")
        answer = await exchange.fetch(replace(base, url=url), self._limits.manifest_size, by)
        if answer.status == 404:
            return []
        if answer.status != 200:
            raise exchange.refusal(answer, name)
        if answer.html:
            raise UpstreamUnavailable(f"{place(answer.url)} sent a web page instead of {name}")
        try:
            return await _parse(lambda body: read_signatures(body, self._limits.signatures + 1), answer.body)
        except NotAList as error:
            raise UpstreamMisbehaved(f"{place(answer.url)} sent {name} in a form that cannot be read: {error}") from None

    def status(self) -> tuple[UpstreamStatus, ...]:
        """How each upstream is doing, for metrics and readiness."""
        return tuple(
            UpstreamStatus(name, each.breaker.state.value, each.breaker.retry_after, each.remaining, each.breaker.last_error)
            for name, each in self._exchanges.items()
        )

    def allowance(self, registry: str) -> Allowance:
        """How often an upstream may be asked, by those who need no answer now. Raises KeyError for one that is not configured."""
        each = self._exchanges[registry]
        pause = max(each.pause_until - asyncio.get_running_loop().time(), each.breaker.retry_after or 0.0, 0.0)
        return Allowance(each.remaining, each.limit, each.window, each.refusals, pause)

    async def close(self) -> None:
        """Close all connections and end what is under way."""
        await asyncio.gather(self._lookasides.close(), *(exchange.close() for exchange in self._exchanges.values()))

    def _exchange(self, repository: Repository) -> Exchange:
        exchange = self._exchanges.get(repository.registry)
        if exchange is None:
            raise UpstreamDenied(f"{repository.registry} is not among the configured upstreams")
        return exchange


def _url(exchange: Exchange, repository: Repository, path: str) -> URL:
    return exchange.endpoint.at(f"/v2/{repository.name}/{path}")


def _digest(answer: Answer) -> Digest | None:
    """The digest in the header; None when it is missing or no digest, which says nothing at all."""
    try:
        return Digest.parse(answer.headers.get("Docker-Content-Digest", ""))
    except MalformedName:
        return None


def _date(answer: Answer) -> datetime | None:
    """``Date`` (RFC 9110, section 6.6.1); None where there is none that can be read, or none that any clock shows."""
    return _moment(answer.headers.get("Date", "")[:100])


@lru_cache(8)  # who is asked often says the same for a second
def _moment(text: str) -> datetime | None:
    try:
        said = parsedate_to_datetime(text)
        at = said.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        return None
    # Moments are reckoned with: at the ends of the calendar that would overflow.
    return at if said.tzinfo is not None and at.year in _YEARS else None


def _next(answer: Answer) -> URL | None:
    """The next page of a list, on the same origin. Raises :class:`UpstreamMisbehaved` when it is elsewhere."""
    text = next_page(answer.headers.getall("Link", []))
    if text is None:
        return None
    target = resolved(answer.url, text, "a link to the next page")
    if not same_origin(answer.url, target):
        raise UpstreamMisbehaved(f"{place(answer.url)} sent a link to the next page on another host, {place(target)}")
    return target


async def _hash(body: bytes, algorithm: str) -> Digest:
    if len(body) <= _IN_LOOP:
        return Digest.of(body, algorithm)
    return await asyncio.to_thread(Digest.of, body, algorithm)


async def _parse(read: Callable[[bytes], list[_T]], body: bytes) -> list[_T]:
    return read(body) if len(body) <= _IN_LOOP else await asyncio.to_thread(read, body)
