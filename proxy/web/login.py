"""At the door: who asks, may they, and Docker's token flow (distribution specification "Token Authentication"; RFC 6750).

A challenge is always Bearer, never Basic: clients answer a Basic challenge with whatever credentials they have, those for the
upstream among them, on every request from then on; a token endpoint they show them once. And it is only given where it can help:
to a request without credentials that some login would let through. Credentials that do not hold are 401, so that a client fetches
a new token; somebody known who may not is 403, so that no client tries for ever.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qs

import structlog
from aiohttp import hdrs, web

from proxy.errors import LoginRefused, LoginUnavailable
from proxy.policy import canary
from proxy.policy.access import ANONYMOUS, Access, Principal
from proxy.services.authentication import Authenticator, Identified
from proxy.web import responses
from storage.reference import Repository

log = structlog.get_logger("tagstone.login")

TOKEN_PATH = "/token"  # noqa: S105 (a path, not a secret)
_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}(?::\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](?::\d{1,5})?", re.ASCII)
_MAX_FORM = 32 << 10
_FORM_TIMEOUT = 10.0
_MAX_FIELDS = 32
_MAX_CERTIFICATE_NAME = 256


@dataclass(frozen=True, slots=True)
class Guest:
    """Whoever is let in: who, from where."""

    principal: Principal
    address: str | None

    @property
    def name(self) -> str:
        """Whose share of this proxy is used: the principal's, else the address's."""
        return str(self.principal) if self.principal.known else self.address or "nobody"


@dataclass(frozen=True, slots=True)
class TurnedAway:
    """Somebody who is not let in: the answer, why, and who it is as far as that is known."""

    guest: Guest
    response: web.Response
    reason: str
    routine: bool = False  #: no credentials were shown: how every login begins


OPEN = Guest(ANONYMOUS, None)  #: where nobody is asked


class Door:
    """Decides who may pull. ``access`` None: everybody may, and nobody is asked."""

    def __init__(self, access: Access | None, authenticator: Authenticator, service: str, realm: str | None) -> None:
        self._access = access
        self._authenticator = authenticator
        self._service = service
        self._realm = realm

    def adopt(self, access: Access | None, service: str, realm: str | None) -> None:
        """Decide by these from now on."""
        self._access = access
        self._service = service
        self._realm = realm

    @property
    def open(self) -> bool:
        """Whether nobody is asked."""
        return self._access is None

    # -- who asks -----------------------------------------------------------------------------------------------------------

    async def identify(self, request: web.BaseRequest) -> Guest:
        """Who asks, wherever anybody is asked. Raises LoginRefused and LoginUnavailable."""
        if self._access is None:
            return Guest(ANONYMOUS, request.remote)
        header = _authorization(request)
        if header is _TWICE:
            raise LoginRefused("there are two Authorization headers")
        who = await self._authenticator.identify(header, _certificate(request), request.remote)
        return Guest(who.principal, request.remote)

    def allows(self, guest: Guest, repository: Repository) -> bool:
        """Whether somebody may pull from a repository."""
        return self._access is None or self._access.allows(guest.principal, guest.address, repository)

    def welcomes(self, guest: Guest) -> bool:
        """Whether somebody may pull anything at all."""
        return self._access is None or self._access.welcomes(guest.principal, guest.address)

    # -- pulls --------------------------------------------------------------------------------------------------------------

    async def admit(self, request: web.BaseRequest, repository: Repository | None, asked: str) -> Guest | TurnedAway:
        """Let somebody in to a repository (``asked`` is its name in the path), or to the ping (None)."""
        access = self._access
        address = request.remote
        if access is None:
            return Guest(ANONYMOUS, address)
        header = _authorization(request)
        try:
            guest = await self.identify(request)
        except LoginRefused as error:
            response = self._challenge(request, repository, asked, str(error), "invalid_token")
            return TurnedAway(Guest(ANONYMOUS, address), response, str(error))
        except LoginUnavailable as error:
            return TurnedAway(Guest(ANONYMOUS, address), _unavailable(error), str(error))
        who = guest.principal
        if repository is None:
            # Docker's clients take their whole way of logging in from this answer.
            if who.known or header is not None or not self._authenticator.accepts_logins:
                return guest
            return TurnedAway(guest, self._challenge(request, None, asked, "log in", None), "log in", routine=True)
        # The canary is nobody's: the gate refuses it to whoever asks, in words by which a node knows whom it has asked.
        if access.allows(who, address, repository) or canary.reserved(repository):
            return guest
        if header is None and not who.known and self._authenticator.accepts_logins:
            reason = f"log in to pull from {repository}"
            return TurnedAway(guest, self._challenge(request, repository, asked, reason, None), reason, routine=True)
        place = f" from {address}" if address else ""
        reason = f"{who} may not pull from {repository}{place}: no access rule allows it"
        return TurnedAway(guest, responses.error(403, "DENIED", (reason,)), reason)

    def _challenge(
        self, request: web.BaseRequest, repository: Repository | None, asked: str, reason: str, error: str | None
    ) -> web.Response:
        if not self._authenticator.accepts_logins:
            return responses.error(403, "DENIED", (reason,))
        parts = [f'realm="{self._realm_for(request)}"', f'service="{self._service}"']
        if repository is not None:
            parts.append(f'scope="repository:{asked}:pull"')
        if error is not None:
            parts.append(f'error="{error}"')
        return responses.error(401, "UNAUTHORIZED", (reason,), {"WWW-Authenticate": "Bearer " + ",".join(parts)})

    def _realm_for(self, request: web.BaseRequest) -> str:
        if self._realm is not None:
            return self._realm
        host = request.headers.get(hdrs.HOST, "")
        if not _HOST.fullmatch(host):
            name = request.transport.get_extra_info("sockname") if request.transport is not None else None
            host = f"{name[0]}:{name[1]}" if name and ":" not in name[0] else "localhost"
        secure = request.transport is not None and request.transport.get_extra_info("sslcontext") is not None
        return f"{'https' if secure else 'http'}://{host}{TOKEN_PATH}"

    # -- tokens -------------------------------------------------------------------------------------------------------------

    async def token(self, request: web.BaseRequest) -> web.Response:
        """The token endpoint: GET with Basic credentials, or POST with a form (OAuth 2.0 password grant)."""
        access = self._access
        if access is None or not self._authenticator.accepts_logins:
            return responses.error(404, "UNSUPPORTED", ("nobody needs a token here",))
        address = request.remote
        try:
            header = await self._credentials(request)
            # Not the certificate: it is shown with every request, and needs no token; a token would do without it.
            who = await self._authenticator.identify(header, None, address)
        except LoginRefused as error:
            log.info("login.refused", address=address, reason=str(error))
            return _ask_again(str(error))
        except LoginUnavailable as error:
            log.warning("login.unavailable", address=address, reason=str(error))
            return _unavailable(error)
        if not who.principal.known and not access.welcomes(ANONYMOUS, address):
            return _ask_again("log in: without credentials nothing may be pulled")
        try:
            return self._issued(who)
        except LoginRefused as error:
            return _ask_again(str(error))

    async def _credentials(self, request: web.BaseRequest) -> str | None:
        header = _authorization(request)
        if header is _TWICE:
            raise LoginRefused("there are two Authorization headers")
        if request.method != hdrs.METH_POST:
            return header
        return "Basic " + responses.basic(*read_form(await _form(request)))

    def _issued(self, who: Identified) -> web.Response:
        token, seconds = self._authenticator.issue(who)
        now = datetime.now(UTC).replace(microsecond=0).isoformat().replace("+00:00", "Z")
        body = {"token": token, "access_token": token, "token_type": "Bearer", "expires_in": seconds, "issued_at": now}
        return web.Response(
            body=json.dumps(body).encode() + b"\n",
            content_type="application/json",
            headers={**responses.API_VERSION, "Cache-Control": "no-store"},
        )


_TWICE = "\0"


def _authorization(request: web.BaseRequest) -> str | None:
    given = request.headers.getall(hdrs.AUTHORIZATION, ())
    if len(given) > 1:
        return _TWICE
    return given[0] if given else None


def _certificate(request: web.BaseRequest) -> str | None:
    """The name in the client's certificate, which TLS has verified, with its kind, since one may look like another.

    The first URI, DNS name or e-mail address, else the CN; None where there is none that can be shown.
    """
    found = request.transport.get_extra_info("peercert") if request.transport is not None else None
    if not found:
        return None
    names = [
        *found.get("subjectAltName", ()),
        *(("cn", value) for part in found.get("subject", ()) for kind, value in part if kind == "commonName"),
    ]
    for wanted in ("URI", "DNS", "email", "cn"):
        for kind, value in names:
            if kind == wanted and isinstance(value, str) and 0 < len(value) <= _MAX_CERTIFICATE_NAME and value.isprintable():
                return f"{kind.lower()}:{value}"
    return None


def read_form(body: bytes) -> tuple[str, str]:
    """User and password out of a form (OAuth 2.0 password grant, RFC 6749 §4.3.2). Raises LoginRefused."""
    try:
        form = parse_qs(body.decode("utf-8", "replace"), max_num_fields=_MAX_FIELDS)
    except ValueError as error:
        raise LoginRefused(f"the form has more than {_MAX_FIELDS} fields") from error
    grant = form.get("grant_type", [""])[0]
    if grant != "password":
        raise LoginRefused(f"grant_type={grant[:40]!r} is not served; use password, or GET with Basic credentials")
    return form.get("username", [""])[0], form.get("password", [""])[0]


async def _form(request: web.BaseRequest) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(_FORM_TIMEOUT):
            async for piece in request.content.iter_any():
                body += piece
                if len(body) > _MAX_FORM:
                    raise LoginRefused(f"the form has more than {_MAX_FORM} bytes")
    except TimeoutError:
        raise LoginRefused("the form did not arrive in time") from None
    return bytes(body)


def _ask_again(reason: str) -> web.Response:
    return responses.error(401, "UNAUTHORIZED", (reason,), {"WWW-Authenticate": 'Basic realm="Tagstone"'})


def _unavailable(error: LoginUnavailable) -> web.Response:
    seconds = 5 if error.retry_after is None else max(1, int(error.retry_after))
    return responses.error(503, "UNAVAILABLE", (str(error),), {"Retry-After": str(seconds)})
