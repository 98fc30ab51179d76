"""Token endpoints of all kinds, and Basic authentication.

A :class:`TokenService` stands at a path of any site (the registry's own, or another host) and guards a registry: requests without
a token of its for the right scope get a Bearer challenge. Everything that differs between registries is a field.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from multidict import CIMultiDict

from tests.simulator import when
from tests.simulator.registry import error
from tests.simulator.server import Answer, Behaviour, Fault, Next, Seen, Site


def pull_scope(seen: Seen) -> str | None:
    """``repository:<name>:pull``, or None for the ping: what registries normally ask for."""
    return f"repository:{seen.repository}:pull" if seen.repository else None


def credentials(seen: Seen) -> tuple[str, str] | None:
    """User and password of a Basic Authorization header."""
    scheme, _, value = (seen.authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    user, _, password = base64.b64decode(value).decode().partition(":")
    return user, password


@dataclass(frozen=True, slots=True)
class Token:
    """One that was given out."""

    value: str
    scope: str | None
    account: str | None
    expires: float


@dataclass(eq=False)
class TokenService:
    """A token endpoint. ``issued`` and :meth:`asked` say what happened there."""

    site: Site
    path: str = "/token"
    service: str | None = "registry.test"
    realm: str | None = None  #: what the challenge says; by default where it really is
    fields: tuple[str, ...] = ("token",)  #: under which names the token is given: ``token``, ``access_token`` or both
    expires_in: int | None = 300  #: what the answer says; None leaves it out
    really: float | None = None  #: how long tokens really live, where that is not what the answer says, in seconds
    extra: Mapping[str, Any] = field(default_factory=dict)  #: further fields of the answer, e.g. ``issued_at``
    anonymous: bool = True
    users: Mapping[str, str] = field(default_factory=dict)
    identity_tokens: Mapping[str, str] = field(default_factory=dict)  #: refresh token → account, for POST
    methods: tuple[str, ...] = ("GET",)
    refuse_method: int = 405  #: what other methods are answered (registries use 400, 401, 404, 405)
    grants: Callable[[str | None], bool] = lambda scope: True  #: False → 403 DENIED at the endpoint
    scope: Callable[[Seen], str | None] = pull_scope  #: what the challenge asks for, and what a token must be for
    issued: list[Token] = field(default_factory=list)
    challenges: Fault | None = None  #: the fault that guards the registry; ``fired`` counts guarded requests

    def guard(self, registry: Site, *where: when.When) -> TokenService:
        """Ask for tokens on everything below /v2/ (or ``where``) of a registry, and serve them at the path."""
        self.site.on(when.path(self.path), self._serve)
        self.challenges = registry.on(where[0] if where else when.registry(), self._check, guard=True)
        return self

    def expire(self) -> None:
        """Let every token given out so far be expired."""
        self.issued = [Token(each.value, each.scope, each.account, 0.0) for each in self.issued]

    def asked(self) -> list[Seen]:
        """The requests that came to the endpoint."""
        return [seen for seen in self.site.requests if seen.path == self.path]

    def valid(self, seen: Seen) -> bool:
        """Whether a request bears a token that is good for it."""
        scheme, _, value = (seen.authorization or "").partition(" ")
        wanted = self.scope(seen)
        return scheme.lower() == "bearer" and any(
            secrets.compare_digest(each.value, value) and each.expires > time.monotonic() and wanted in (None, each.scope)
            for each in self.issued
        )

    def challenge(self, seen: Seen, error_code: str | None = None) -> str:
        """The WWW-Authenticate header."""
        parts = {
            "realm": f"{self.site.url}{self.path}" if self.realm is None else self.realm,
            "service": self.service,
            "scope": self.scope(seen),
            "error": error_code,
        }
        return "Bearer " + ",".join(f'{name}="{value}"' for name, value in parts.items() if value is not None)

    async def _check(self, seen: Seen, following: Next) -> Answer:
        if self.valid(seen):
            return await following()
        answer = error(401, "UNAUTHORIZED", "authentication required", [{"Type": "repository", "Name": seen.repository}])
        stale = (seen.authorization or "").lower().startswith("bearer ")
        answer.headers["WWW-Authenticate"] = self.challenge(seen, "invalid_token" if stale else None)
        return answer

    async def _serve(self, seen: Seen, following: Next) -> Answer:
        if seen.method not in self.methods:
            return error(self.refuse_method, "UNSUPPORTED", "this endpoint does not take that method")
        asked = seen.form if seen.method == "POST" else seen.query
        account: str | None = None
        if seen.method == "POST" and asked.get("grant_type") == "refresh_token":
            account = self.identity_tokens.get(asked.get("refresh_token", ""))
            if account is None:
                return error(401, "UNAUTHORIZED", "unknown identity token")
        elif (given := credentials(seen)) is not None:
            if self.users.get(given[0]) != given[1]:
                return error(401, "UNAUTHORIZED", "incorrect username or password")
            account = given[0]
        elif not self.anonymous:
            return error(401, "UNAUTHORIZED", "no anonymous access")
        scopes = asked.getall("scope", [])
        scope = scopes[0] if scopes else None
        if not self.grants(scope):
            return error(403, "DENIED", "requested access to the resource is denied")
        said = 60 if self.expires_in is None else self.expires_in
        life = said if self.really is None else self.really
        token = Token(secrets.token_urlsafe(24), scope, account, time.monotonic() + life)
        self.issued.append(token)
        document: dict[str, Any] = dict.fromkeys(self.fields, token.value) | dict(self.extra)
        if self.expires_in is not None:
            document["expires_in"] = self.expires_in
        return Answer(200, CIMultiDict({"Content-Type": "application/json"}), json.dumps(document).encode())


def basic(users: Mapping[str, str], *, realm: str = "registry") -> Behaviour:
    """Ask for Basic credentials and let the users in who have the right ones."""

    async def behave(seen: Seen, following: Next) -> Answer:
        given = credentials(seen)
        if given is not None and users.get(given[0]) == given[1]:
            return await following()
        answer = error(401, "UNAUTHORIZED", "authentication required")
        answer.headers["WWW-Authenticate"] = f'Basic realm="{realm}"'
        return answer

    return behave
