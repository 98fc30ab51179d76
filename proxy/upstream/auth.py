"""What goes into ``Authorization``: challenges answered, tokens fetched once and kept until they expire.

Distribution's token specification, with what real registries make of it: realm and service come from the request's own 401,
else from the ping; the scope from the request's own 401, else ``repository:<name>:pull``, never from the ping. Only reading is
asked for, one scope a token. Credentials go to the registry's own host and to token endpoints that are expected
(:mod:`proxy.upstream.registries`); when they are refused, nothing goes on anonymously.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote

from yarl import URL

from proxy.errors import UpstreamDenied, UpstreamUnavailable
from proxy.settings import Limits
from proxy.upstream.challenge import Challenge, parse_challenges
from proxy.upstream.credentials import Credential, CredentialSource
from proxy.upstream.failures import Outage, host_of, place, retry_after
from proxy.upstream.network import resolved
from proxy.upstream.registries import Endpoint, realm_refusal
from proxy.upstream.transport import Reply, Transport

#: Default and least life of a token (the token specification), and the longest that is believed, in seconds.
MIN_LIFE, MAX_LIFE = 60.0, 86400.0
#: Tokens and learned challenges that are remembered for one upstream.
MAX_TOKENS, MAX_CHALLENGES = 1024, 4096
#: How long a registry that did not challenge the ping is believed to need no authorization, in seconds.
OPEN_FOR = 600.0
REDIRECTS = frozenset({301, 302, 303, 307, 308})
_VISIBLE = re.compile(r"[\x21-\x7e]+", re.ASCII)
_K = TypeVar("_K")
_V = TypeVar("_V")


@dataclass(frozen=True, slots=True)
class Scope:
    """What a request is about, as far as authorization goes: a repository, and its content or its list of tags."""

    repository: str
    purpose: str = "pull"


@dataclass(frozen=True, slots=True)
class Demand:
    """Where a token is to be had and for what; with the credential, the key under which it is kept."""

    host: str  #: the host it is for
    realm: URL
    service: str
    scope: str
    credential: Credential | None


@dataclass(frozen=True, slots=True)
class Authorization:
    """An Authorization header and how it came about."""

    header: str = field(repr=False)
    credential: Credential | None
    demand: Demand | None  #: for Bearer
    fresh: bool  #: made for this very request, not remembered


@dataclass(frozen=True, slots=True)
class _Token:
    header: str = field(repr=False)
    until: float


class Authorizer:
    """The authorization of requests to one upstream."""

    def __init__(
        self, endpoint: Endpoint, credentials: CredentialSource, transport: Transport, limits: Limits, clock: Callable[[], float]
    ) -> None:
        self._endpoint = endpoint
        self._credentials = credentials
        self._transport = transport
        self._limits = limits
        self._clock = clock
        self._learned: dict[Scope, tuple[URL, Challenge]] = {}  # which challenge answered for what, and from where it came
        self._basic = False  # whether the registry wants Basic
        self._open_until = 0.0
        self._tokens: dict[Demand, _Token] = {}
        self._flights: dict[Demand, asyncio.Task[_Token]] = {}

    @property
    def configured(self) -> bool:
        """Whether there are credentials to be used."""
        return self._credentials.configured

    async def current(self, scope: Scope, by: float) -> Authorization | None:
        """What is known to be wanted for ``scope``, before anybody asked; None: ask without."""
        if (known := self._learned.get(scope)) is not None:
            return await self._bearer(scope, *known, by)
        if self._basic and (credential := await self._credential(by)) is not None:
            return Authorization(credential.basic, credential, None, fresh=False)
        return None

    async def answer(self, reply: Reply, scope: Scope, refused: Authorization | None, by: float) -> Authorization | None:
        """What to send after ``reply`` refused a request that was sent with ``refused``; None: there is nothing better.

        Raises :class:`UpstreamDenied` when a token endpoint refuses or must not be asked, and the errors of the transport.
        """
        challenges = parse_challenges(reply.headers.getall("WWW-Authenticate", ())) if reply.status == 401 else ()
        bearer = next((each for each in challenges if each.scheme == "bearer" and each.realm), None)
        if bearer is not None:
            return await self._again(scope, reply.url, bearer, refused, by)
        if self.configured and any(each.scheme == "basic" for each in challenges):
            return await self._basic_again(scope, refused, by)
        if refused is not None and refused.demand is None:
            return await self._basic_again(scope, refused, by)
        if (known := self._learned.get(scope)) is not None:
            return await self._again(scope, *known, refused, by)
        if self._clock() < self._open_until:
            return None
        return await self._ask_ping(scope, by)

    async def anonymous(self, reply: Reply, by: float) -> str | None:
        """A token for a host that a redirect led to and that challenges by itself: anonymous, from its own host, for it alone."""
        for challenge in parse_challenges(reply.headers.getall("WWW-Authenticate", ())):
            if challenge.scheme == "bearer" and challenge.realm:
                realm = resolved(reply.url, challenge.realm, "a token endpoint", downward=True)
                own = frozenset({(reply.url.raw_host or "").lower()})
                if realm_refusal(realm, own, plain=reply.url.scheme == "http") is None:
                    demand = Demand(host_of(reply.url), realm, challenge.service, challenge.scope, None)
                    return (await self._token(demand, by))[0].header
        return None

    async def close(self) -> None:
        """End the flights that are under way."""
        for flight in (flights := tuple(self._flights.values())):
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    # -- challenges ------------------------------------------------------------------------------------------------

    async def _again(
        self, scope: Scope, origin: URL, challenge: Challenge, refused: Authorization | None, by: float
    ) -> Authorization:
        """Answer a Bearer challenge, with another token than the one that was refused."""
        if refused is not None and refused.demand is not None:
            token = self._tokens.get(refused.demand)
            if token is not None and token.header == refused.header:  # else somebody else has already replaced it
                del self._tokens[refused.demand]
        return await self._bearer(scope, origin, challenge, by)

    async def _basic_again(self, scope: Scope, refused: Authorization | None, by: float) -> Authorization | None:
        if refused is not None and refused.demand is None and refused.credential is not None:
            credential = await self._credential(by, refused.credential)
        else:
            credential = await self._credential(by)
        if credential is None:
            return None
        self._basic = True
        self._learned.pop(scope, None)
        return Authorization(credential.basic, credential, None, fresh=True)

    async def _ask_ping(self, scope: Scope, by: float) -> Authorization | None:
        """Take realm and service from ``/v2/``; its scope is a placeholder with some registries and is never used."""
        with await self._transport.send("GET", self._endpoint.at("/v2/"), {}, by) as reply:
            self._raise_outage(reply, str(await reply.complaint(self._limits.error_body, by)))
            challenges = parse_challenges(reply.headers.getall("WWW-Authenticate", ())) if reply.status == 401 else ()
        for challenge in challenges:
            if challenge.scheme == "bearer" and challenge.realm:
                parameters = {key: value for key, value in challenge.parameters.items() if key != "scope"}
                return await self._bearer(scope, reply.url, Challenge("bearer", parameters), by)
        if self.configured and any(each.scheme == "basic" for each in challenges):
            return await self._basic_again(scope, None, by)
        self._open_until = self._clock() + OPEN_FOR
        return None

    async def _bearer(self, scope: Scope, origin: URL, challenge: Challenge, by: float) -> Authorization:
        realm = resolved(origin, challenge.realm, "a token endpoint", downward=True)
        if (reason := self._endpoint.realm_refusal(realm)) is not None:
            raise self._unexpected(realm, reason)
        wanted = challenge.scope or f"repository:{scope.repository}:pull"
        credential = await self._credential(by)
        demand = Demand(host_of(self._endpoint.url), realm, challenge.service, wanted, credential)
        try:
            token, fresh = await self._token(demand, by)
        except _Refused as refusal:
            renewed = await self._credential(by, credential) if credential is not None else None
            if renewed is None:
                raise UpstreamDenied(str(refusal)) from None
            demand = Demand(demand.host, realm, challenge.service, wanted, renewed)
            try:
                token, fresh = await self._token(demand, by)
            except _Refused as again:
                raise UpstreamDenied(str(again)) from None
        remember(self._learned, scope, (origin, challenge), MAX_CHALLENGES)
        return Authorization(token.header, demand.credential, demand, fresh)

    def _unexpected(self, realm: URL, reason: str) -> UpstreamDenied:
        name = self._endpoint.name
        way_out = f"; if that is right, add {host_of(realm)} to `realm_hosts` of upstream {name}" if "host" in reason else ""
        return UpstreamDenied(f"{name} asks for a token from {place(realm)}, but {reason}: nothing was sent there{way_out}")

    async def _credential(self, by: float, refused: Credential | None = None) -> Credential | None:
        """The credential to use, another one than ``refused``; None: there is none."""
        try:
            async with asyncio.timeout_at(by):
                return await (self._credentials.current() if refused is None else self._credentials.renewed(refused))
        except TimeoutError:
            raise UpstreamUnavailable(f"no credentials for {self._endpoint.name} in time") from None

    # -- tokens ----------------------------------------------------------------------------------------------------

    async def _token(self, demand: Demand, by: float) -> tuple[_Token, bool]:
        """The token for a demand and whether it is fresh; one flight for all who want it at the same time."""
        held = self._tokens.get(demand)
        if held is not None and self._clock() < held.until:
            return held, False
        flight = self._flights.get(demand)
        if flight is None:
            # A task of its own: it lives on when the request that started it goes away.
            flight = asyncio.create_task(self._fly(demand), name=f"token {demand.host}")
            self._flights[demand] = flight
            flight.add_done_callback(lambda done: self._landed(demand, done))
        try:
            async with asyncio.timeout_at(by):
                return await asyncio.shield(flight), True
        except TimeoutError:
            raise Outage(f"no token from {host_of(demand.realm)} in time") from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if flight.cancelled() and task is not None and not task.cancelling():  # close() ended the flight, not the request
                raise UpstreamUnavailable(f"{self._endpoint.name} is not asked any more: Tagstone is shutting down") from None
            raise

    def _landed(self, demand: Demand, flight: asyncio.Task[_Token]) -> None:
        del self._flights[demand]
        if not flight.cancelled():
            flight.exception()  # seen: those who waited have it, and when nobody did it is nobody's

    async def _fly(self, demand: Demand) -> _Token:
        token = await self._fetch(demand, asyncio.get_running_loop().time() + self._limits.request_timeout)
        remember(self._tokens, demand, token, MAX_TOKENS)
        return token

    async def _fetch(self, demand: Demand, by: float) -> _Token:
        asked_at = self._clock()  # life counts from here: the answer may have been long under way
        credential = demand.credential
        parameters = {key: value for key, value in (("service", demand.service), ("scope", demand.scope)) if value}
        if credential is not None and credential.identity:
            form = parameters | {"grant_type": "refresh_token", "refresh_token": credential.secret, "client_id": "tagstone"}
            with await self._transport.send("POST", demand.realm, {"Accept": "application/json"}, by, form) as reply:
                if reply.status not in {400, 401, 404, 405}:  # these mean: ask by GET
                    return await self._read(reply, demand, asked_at, by)
                await reply.complaint(self._limits.error_body, by)
        query = "&".join(f"{key}={quote(value, safe='')}" for key, value in parameters.items())
        base = str(demand.realm)
        url = URL(f"{base}{'&' if demand.realm.raw_query_string else '?'}{query}" if query else base, encoded=True)
        headers = {"Accept": "application/json"} | ({"Authorization": credential.basic} if credential is not None else {})
        for _ in range(self._limits.redirects + 1):
            with await self._transport.send("GET", url, headers, by) as reply:
                if reply.status not in REDIRECTS:
                    return await self._read(reply, demand, asked_at, by)
                target = resolved(reply.url, reply.headers.get("Location", ""), "a redirect")
            hosts = self._endpoint.realm_hosts if demand.host == host_of(self._endpoint.url) else frozenset({demand.host})
            if (reason := realm_refusal(target, hosts, plain=url.scheme == "http")) is not None:
                raise self._unexpected(target, reason)
            url = target
        raise Outage(f"{host_of(demand.realm)} redirects without end")

    async def _read(self, reply: Reply, demand: Demand, asked_at: float, by: float) -> _Token:
        where = f"the token endpoint {place(demand.realm)}"
        if reply.status != 200:
            complaint = await reply.complaint(self._limits.error_body, by)
            said = f" ({reply.status} {complaint})".replace(" )", ")")
            if reply.status in {401, 403}:
                if reply.status == 401 and demand.credential is not None:
                    raise _Refused(f"{where} refuses the credentials for {self._endpoint.name}{said}")
                how = "an anonymous token" if demand.credential is None else "a token to the configured credentials"
                raise _Refused(f"{self._endpoint.name} denies access, or it does not exist: {where} does not give {how}{said}")
            self._raise_outage(reply, str(complaint))
            raise Outage(f"{where} gave no token{said}", retry=False)
        found = read_token(await reply.read(self._limits.token_size, by, by))
        if found is None:
            raise Outage(f"{where} answered without a token" + (": it sent a web page" if reply.html else ""), retry=False)
        value, life = found
        return _Token(f"Bearer {value}", asked_at + life)

    def _raise_outage(self, reply: Reply, said: str) -> None:
        if reply.status == 429 or reply.status >= 500:
            raise Outage(
                f"{reply.host} answered {reply.status}" + (f": {said}" if said else ""),
                retry_after(reply.headers, self._limits.retry_after),
            )


class _Refused(UpstreamDenied):
    """The token endpoint said 401 or 403: other credentials may do better."""


def read_token(body: bytes) -> tuple[str, float] | None:
    """The token in a token endpoint's answer, and how many seconds it lives; None where there is none."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    value = document.get("token") or document.get("access_token") if isinstance(document, dict) else None
    if not isinstance(value, str) or not _VISIBLE.fullmatch(value):
        return None
    return value, _life(document)


def _life(document: dict[str, Any]) -> float:
    """Seconds that a token lives: ``expires_in``, between the least and the longest that is believed."""
    value = document.get("expires_in")
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,12}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:  # noqa: PLR0124 - NaN
        return MIN_LIFE
    return float(min(max(value, MIN_LIFE), MAX_LIFE))  # in this order: there are numbers that no float can hold


def remember(where: MutableMapping[_K, _V], key: _K, value: _V, most: int) -> None:
    """Keep ``value``, and forget the oldest when there are more than ``most``."""
    where.pop(key, None)
    where[key] = value
    while len(where) > most:
        del where[next(iter(where))]
