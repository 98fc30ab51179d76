"""A request to a registry as a whole: authorization, redirects, retries, the breaker.

One :class:`Exchange` per upstream. The order of things, from the outside: the breaker admits an attempt; the attempt goes to
the registry's URL with what is known to be wanted for it; redirects are followed by hand, without Authorization outside the
registry's own origin; a refusal is answered once with better authorization; an outage is tried again after a while, as long as
there is time.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeVar

from multidict import CIMultiDictProxy
from yarl import URL

from proxy.errors import UpstreamAbsent, UpstreamDenied, UpstreamError, UpstreamMisbehaved, UpstreamUnavailable
from proxy.settings import Limits, Upstream
from proxy.upstream.auth import REDIRECTS, Authorization, Authorizer, Scope
from proxy.upstream.breaker import Breaker
from proxy.upstream.challenge import parse_challenges
from proxy.upstream.failures import Complaint, Outage, place, retry_after
from proxy.upstream.network import resolved
from proxy.upstream.registries import Endpoint
from proxy.upstream.transport import Reply, Transport

#: First and longest pause between attempts in seconds; the pause is random between 0 and what it has doubled to (full jitter).
BACKOFF, MAX_BACKOFF = 0.25, 4.0
#: The longest Retry-After that a request waits for itself; a longer one is told to the client.
MAX_WAIT = 5.0
#: How long an upstream that says 429 without saying for how long is better left alone by whoever has time.
UNSAID = 30.0
#: Statuses by which a signed URL says that it is no longer good, or that it never was.
SPENT = frozenset({400, 401, 403, 404})
_T = TypeVar("_T")


class Follow(Enum):
    """Which redirects are followed."""

    ANYWHERE = auto()
    OWN_ORIGIN = auto()  #: the first redirect to elsewhere is the answer


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: the body is read when the status is 200, else what it says is in ``complaint``."""

    status: int
    headers: CIMultiDictProxy[str]
    url: URL
    media_type: str
    html: bool
    body: bytes
    complaint: Complaint
    insufficient: bool  #: the challenge says that the token's scope does not suffice

    @property
    def said(self) -> str:
        """Status and complaint, for messages."""
        return f"{self.status} {self.complaint}".strip()


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for. ``spent`` are the statuses of a redirect's target that lead back to ``url``, once.

    ``background``: nobody waits for the answer. That there were too many requests is the answer then: whoever asks slows down.
    """

    method: str
    url: URL
    scope: Scope
    headers: Mapping[str, str]
    follow: Follow = Follow.ANYWHERE
    spent: frozenset[int] = SPENT - {404}
    background: bool = False


class Exchange:
    """Requests to one upstream."""

    def __init__(
        self,
        endpoint: Endpoint,
        upstream: Upstream,
        limits: Limits,
        transport: Transport,
        authorizer: Authorizer,
        breaker: Breaker,
    ) -> None:
        self.endpoint = endpoint
        self.transport = transport
        self.breaker = breaker
        self.stall = upstream.stall_timeout
        self.min_rate = upstream.min_rate
        self.limits = limits
        self.remaining: int | None = None  #: what the upstream last said is left of its rate limit
        self.limit: int | None = None  #: all of it, as it says, else the most that was ever left
        self.window = 0.0  #: seconds for which the limit is; 0: it does not say
        self.refusals = 0  #: how often it answered that there were too many requests
        self.pause_until = 0.0  #: until when it is better not asked again for that reason, on the loop's clock
        self._retries = upstream.retries
        self._authorizer = authorizer

    def deadline(self) -> float:
        """Until when a request that starts now must be answered, on the loop's clock."""
        return asyncio.get_running_loop().time() + self.limits.request_timeout

    async def fetch(self, request: Request, limit: int, by: float) -> Answer:
        """Ask and read the whole answer, trying again where that may help.

        Raises :class:`UpstreamUnavailable` for outages, :class:`UpstreamDenied` when there is no token to be had, and
        :class:`UpstreamMisbehaved`; every other refusal is an :class:`Answer` with its status.
        """

        async def once() -> Answer:
            return await self._whole(await self._ask(request, by), limit, by, head=request.method == "HEAD")

        return await self._persist(once, by, request)

    async def open(self, request: Request, by: float) -> Reply:
        """Ask for a body that is going to be streamed; the caller closes the reply. Raises as :meth:`fetch`."""

        async def once() -> Reply:
            return await self._ask(request, by)

        return await self._persist(once, by, request)

    async def judge(self, reply: Reply, name: str, by: float) -> UpstreamError:
        """What a refused stream means."""
        return self.refusal(await self._whole(reply, 0, by), name)

    async def close(self) -> None:
        """End what is under way and close the connections."""
        await self._authorizer.close()
        await self.transport.close()

    def refusal(self, answer: Answer, name: str) -> UpstreamError:
        """What a status other than 200 means for ``name``. 404 is absence; everything that says nothing clear is an outage."""
        who = self.endpoint.name
        if answer.status == 404:
            return UpstreamAbsent(f"{name} does not exist upstream ({answer.said})")
        if not self.endpoint.owns(answer.url):
            return UpstreamUnavailable(f"{place(answer.url)}, where {who} redirects for {name}, answers {answer.said}")
        if answer.status in {401, 403, 451} or answer.complaint.code in {"DENIED", "UNAUTHORIZED"}:
            how = "with the configured credentials" if self._authorizer.configured else "asked anonymously"
            return UpstreamDenied(f"{who} denies access to {name}, or it does not exist ({answer.said}; {how})")
        return UpstreamUnavailable(f"{who} answered {answer.said} for {name}, which says nothing clear")

    # -- trying again ----------------------------------------------------------------------------------------------

    async def _persist(self, once: Callable[[], Awaitable[_T]], by: float, request: Request) -> _T:
        loop = asyncio.get_running_loop()
        attempt = 0
        while True:
            try:
                with self.breaker.attempt(background=request.background):
                    return await once()
            except Outage as outage:
                if outage.busy and request.background:
                    raise
                pause = outage.retry_after
                if pause is None:
                    pause = random.uniform(0.0, min(MAX_BACKOFF, BACKOFF * 2**attempt))  # noqa: S311 - spreads load, guards nothing
                if not outage.retry or attempt >= self._retries or pause > MAX_WAIT or loop.time() + pause >= by:
                    raise
            await asyncio.sleep(pause)
            attempt += 1

    # -- one attempt -----------------------------------------------------------------------------------------------

    async def _ask(self, request: Request, by: float) -> Reply:
        """The final reply to a request, after redirects and authorization. A refusal's connection is given back already."""
        authorization = await self._authorizer.current(request.scope, by)
        renewed = returned = False
        while True:
            reply = await self._walk(request, authorization, by)
            if self.endpoint.owns(reply.url):
                if renewed or not await self._refused(reply, authorization, by):
                    return reply
                better = await self._authorizer.answer(reply, request.scope, authorization, by)
                if better is None:
                    return reply
                renewed = authorization is not None
                authorization = better
            elif reply.status in request.spent and not returned:
                returned = True  # the URL that the registry gave is no longer good, or never was: ask it for another
                await self._settle(reply, by)
            else:
                return reply

    async def _refused(self, reply: Reply, authorization: Authorization | None, by: float) -> bool:
        """Whether this is a refusal to which better authorization may be the answer. Then the reply is settled."""
        if reply.status not in SPENT:
            return False
        said = await self._settle(reply, by)
        if authorization is None:
            # Absence and denial count only when said to an authorized request: credentials that exist must have been shown.
            return reply.status == 401 or (self._authorizer.configured and reply.status in {403, 404})
        if reply.status == 401:
            return not authorization.fresh or said.stale or _other_scheme(reply, authorization)
        return reply.status in {400, 403} and said.stale

    async def _walk(self, request: Request, authorization: Authorization | None, by: float) -> Reply:
        """Follow redirects by hand, without Authorization elsewhere than at the registry's own origin."""
        url, foreign, seen = request.url, None, set()
        for _ in range(self.limits.redirects + 1):
            own = self.endpoint.owns(url)
            header = (authorization.header if authorization is not None else None) if own else foreign
            if (url, header) in seen:
                raise UpstreamMisbehaved(f"{self.endpoint.name} redirects in a circle, at {place(url)}")
            seen.add((url, header))
            headers = request.headers if header is None else {**request.headers, "Authorization": header}
            reply = await self.transport.send(request.method, url, headers, by)
            self._note_limit(reply)
            if _is_outage(reply.status):
                said = await self._settle(reply, by)
                wait = retry_after(reply.headers, self.limits.retry_after)
                busy = reply.status == 429 and self.endpoint.owns(reply.url)
                if busy:
                    self.refusals += 1
                    pause = asyncio.get_running_loop().time() + (UNSAID if wait is None else wait)
                    self.pause_until = max(self.pause_until, pause)
                raise Outage(f"{reply.host} answered {reply.status} {said}".strip(), wait, busy=busy)
            if reply.status in REDIRECTS:
                await self._settle(reply, by)
                target = resolved(reply.url, reply.headers.get("Location", ""), "a redirect")
                if request.follow is Follow.OWN_ORIGIN and not self.endpoint.owns(target):
                    return reply
                url, foreign = target, None
            elif reply.status == 401 and not own and foreign is None:
                await self._settle(reply, by)
                foreign = await self._authorizer.anonymous(reply, by)
                if foreign is None:
                    return reply
            else:
                return reply
        raise UpstreamMisbehaved(f"{self.endpoint.name} redirects more than {self.limits.redirects} times")

    async def _settle(self, reply: Reply, by: float) -> Complaint:
        """Take what an answer without a wanted body says, and give its connection back: nothing may wait while holding one."""
        with reply:
            return await reply.complaint(self.limits.error_body, by)

    def _note_limit(self, reply: Reply) -> None:
        """What the upstream says of its rate limit, as Docker Hub writes it: ``100;w=21600``, for a window in seconds."""
        remaining = _number(reply.headers.get("RateLimit-Remaining", "").partition(";")[0])
        if remaining is None or not self.endpoint.owns(reply.url):
            return
        self.remaining = remaining
        limit, _, more = reply.headers.get("RateLimit-Limit", "").partition(";")
        most = _number(limit)
        self.limit = max(remaining, self.limit or 0) if most is None else most
        name, _, seconds = more.partition("=")
        self.window = float((_number(seconds) if name.strip() == "w" else None) or 0)

    async def _whole(self, reply: Reply, limit: int, by: float, *, head: bool = False) -> Answer:
        with reply:
            body = await reply.read(limit, by, self.stall) if reply.status == 200 and not head else b""
            said = await self._settle(reply, by) if reply.status >= 400 else Complaint("", "")
        challenges = parse_challenges(reply.headers.getall("WWW-Authenticate", ()))
        insufficient = any(each.error == "insufficient_scope" for each in challenges)
        return Answer(reply.status, reply.headers, reply.url, reply.media_type, reply.html, body, said, insufficient)


def _number(text: str) -> int | None:
    text = text.strip()
    return int(text[:18]) if text.isascii() and text.isdigit() else None


def _is_outage(status: int) -> bool:
    """408, 429 and 5xx; but 501 is an answer: it does not do that."""
    return status in {408, 429} or (status >= 500 and status != 501)


def _other_scheme(reply: Reply, authorization: Authorization) -> bool:
    """Whether the registry now wants Basic where it got Bearer, or the other way round."""
    wanted = {each.scheme for each in parse_challenges(reply.headers.getall("WWW-Authenticate", ()))}
    return bool(wanted) and authorization.header.partition(" ")[0].lower() not in wanted
