"""Real upstreams as profiles of the simulator, by name: how Docker Hub, GHCR, Quay and the others behave on the pull path.

::

    async with profile("quay-redirect") as world:
        upstreams = {"quay.test": world.upstream()}
        ...                       # pull world.repository : world.tag; world.image is what is there
        assert world.faults["redirect"].fired == 2

Every profile holds one unsigned image under ``world.repository`` and ``world.tag``; tests add what they need to
``world.registry``. ``world.faults`` are the profile's own, by name; a trap (a fault that no proper client triggers) has a name
that starts with ``trap:`` and must not have fired. ``world.hosts`` are the other hosts that take part.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from multidict import CIMultiDict

from proxy.settings import Upstream
from storage.digest import Digest
from tests.simulator import images, when
from tests.simulator.behaviours import (
    bend,
    close,
    cut,
    first,
    gzip,
    html,
    ignore_range,
    redirect,
    refuse,
    status,
    without,
)
from tests.simulator.images import Image
from tests.simulator.registry import Registry, error
from tests.simulator.server import Answer, Fault, Next, Seen, Site
from tests.simulator.storage import Storage
from tests.simulator.tokens import TokenService, basic, credentials

#: Another loopback address: another host to everybody, without leaving the machine.
ELSEWHERE = "127.0.0.2"


@dataclass(eq=False)
class World:
    """One upstream with everything around it."""

    name: str
    registry: Registry
    stack: AsyncExitStack
    repository: str = "team/app"
    tag: str = "1.0"
    image: Image = field(default_factory=lambda: images.image("profile", layer_size=4000))
    hosts: dict[str, Site] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)
    token_service: TokenService | None = None
    settings: dict[str, Any] = field(default_factory=dict)  #: of the upstream, beyond url and allow_private

    @property
    def tokens(self) -> TokenService:
        """The token service of a profile that has one."""
        assert self.token_service is not None, f"{self.name} has no token service"
        return self.token_service

    @property
    def storage(self) -> Storage:
        """The host that blobs are redirected to, in a profile that has one."""
        found = self.hosts["storage"]
        assert isinstance(found, Storage)
        return found

    def upstream(self, **more: Any) -> Upstream:
        """The settings under which a proxy fetches from here."""
        return Upstream.model_validate({"url": self.registry.url, "allow_private": True, **self.settings, **more})

    def traps(self) -> dict[str, int]:
        """Which traps were sprung, and how often: empty after a proper client."""
        return {name: fault.fired for name, fault in self.faults.items() if name.startswith("trap:") and fault.fired}

    async def host(self, name: str, site: Site) -> Site:
        """Start another host, which ends with the world."""
        self.hosts[name] = await self.stack.enter_async_context(site)
        return site

    async def add_storage(self, **options: Any) -> Storage:
        """A storage host elsewhere, to which the registry redirects GETs of blobs."""
        storage = Storage(self.registry, address=ELSEWHERE)
        await self.host("storage", storage)
        self.faults["redirect"] = self.registry.on(when.blob("GET"), storage.redirect(**options))
        return storage

    def add_tokens(self, site: Site | None = None, **options: Any) -> TokenService:
        """Guard the registry with tokens."""
        self.token_service = TokenService(site or self.registry, **options).guard(self.registry)
        return self.token_service


Setup = Callable[[World], Awaitable[None]]
_PROFILES: dict[str, Setup] = {}


def _profile(name: str) -> Callable[[Setup], Setup]:
    def register(setup: Setup) -> Setup:
        _PROFILES[name] = setup
        return setup

    return register


def names() -> tuple[str, ...]:
    """All profiles, in the order of the scenarios."""
    return tuple(_PROFILES)


@asynccontextmanager
async def profile(name: str) -> AsyncIterator[World]:
    """Start the upstream with this name."""
    async with AsyncExitStack() as stack:
        world = World(name, await stack.enter_async_context(Registry()), stack)
        world.registry.add(world.repository, world.image, world.tag)
        await _PROFILES[name](world)
        yield world


def _replace_image(world: World, image: Image) -> None:
    world.image = image
    world.registry.add(world.repository, image, world.tag)


async def _hub(world: World) -> None:
    """Docker Hub's ways: a token host of its own that gives anonymous tokens, both fields, rate limit headers."""
    auth = await world.host("auth", Site(address=ELSEWHERE))
    world.settings["realm_hosts"] = (ELSEWHERE,)
    world.faults["ratelimit"] = world.registry.on(
        when.manifest(),
        bend(
            lambda answer: answer.headers.update(
                {
                    "ratelimit-limit": "100;w=21600",
                    "ratelimit-remaining": "99;w=21600",
                    "docker-ratelimit-source": "192.0.2.7",
                }
            )
        ),
    )
    world.add_tokens(
        auth, service="registry.docker.io", fields=("token", "access_token"), extra={"issued_at": "2026-01-01T00:00:00Z"}
    )


@_profile("hub-anonymous")
async def _hub_anonymous(world: World) -> None:
    await _hub(world)


@_profile("hub-missing-repo")
async def _hub_missing_repo(world: World) -> None:
    """The endpoint grants a token for what does not exist; the registry then refuses it with ``insufficient_scope``."""
    await _hub(world)

    async def insufficient(seen: Seen, following: Next) -> Answer:
        answer = error(401, "UNAUTHORIZED", "authentication required", [{"Type": "repository", "Name": seen.repository}])
        answer.headers["WWW-Authenticate"] = world.tokens.challenge(seen, "insufficient_scope")
        return answer

    world.faults["insufficient"] = world.registry.on(when.manifest(), insufficient)


@_profile("hub-missing-tag")
async def _hub_missing_tag(world: World) -> None:
    await _hub(world)
    world.registry.untag(world.repository, world.tag)


@_profile("hub-429")
async def _hub_429(world: World) -> None:
    """HEAD is free, GET is over the limit."""
    await _hub(world)
    message = "You have reached your unauthenticated pull rate limit. https://www.docker.com/increase-rate-limit"
    world.faults["limit"] = world.registry.on(when.manifest("GET"), refuse(429, "TOOMANYREQUESTS", message))


@_profile("hub-abuse")
async def _hub_abuse(world: World) -> None:
    """The abuse limiter stands in front of the token host: text, no Retry-After."""
    await _hub(world)
    world.faults["abuse"] = world.tokens.site.on(when.always, status(429, "Too Many Requests\n"))


@_profile("hub-accept")
async def _hub_accept(world: World) -> None:
    """What is not accepted does not exist; the index has BuildKit's ``unknown/unknown`` child."""
    await _hub(world)
    _replace_image(world, images.buildkit_index("profile"))
    missing = refuse(404, "MANIFEST_UNKNOWN", "OCI index found, but Accept header does not support OCI indexes")
    world.faults["trap:accept"] = world.registry.on(when.manifest() & ~when.accepts(*images.MANIFEST_TYPES), missing)


@_profile("r2-authorization")
async def _r2_authorization(world: World) -> None:
    """R2 refuses requests that carry both a signed URL and an Authorization header."""
    storage = await world.add_storage()
    world.add_tokens()
    body = b'<?xml version="1.0"?><Error><Code>InvalidArgument</Code></Error>'
    world.faults["trap:authorization"] = storage.on(when.header("Authorization"), status(400, body))


@_profile("exact-url")
async def _exact_url(world: World) -> None:
    """The storage compares URLs byte for byte (all of ours do)."""
    await world.add_storage(prefix="/a%2Fb/(c)+d")


@_profile("url-expired")
async def _url_expired(world: World) -> None:
    """The first answer breaks off at half; the resuming Range meets an expired URL; a fresh one works."""
    storage = await world.add_storage()
    half = world.image.layers[0].size // 2
    world.faults["cut"] = storage.on(~when.header("Range"), cut(half), times=1)
    world.faults["expired"] = storage.on(when.header("Range"), status(403, b"<Error><Code>Expired</Code></Error>"), times=1)


@_profile("range-ignored")
async def _range_ignored(world: World) -> None:
    """The first answer breaks off at half; Range is not understood."""
    half = world.image.layers[0].size // 2
    world.faults["cut"] = world.registry.on(when.blob("GET"), cut(half), times=1)
    world.faults["range"] = world.registry.on(when.blob("GET") & when.header("Range"), ignore_range())


@_profile("ghcr-placeholder")
async def _ghcr_placeholder(world: World) -> None:
    """The ping's challenge has a scope that nobody may have."""
    placeholder = "repository:user/image:pull"
    world.add_tokens(
        scope=lambda seen: f"repository:{seen.repository}:pull" if seen.repository else placeholder,
        grants=lambda scope: scope != placeholder,
        expires_in=None,
    )


@_profile("ghcr-denied")
async def _ghcr_denied(world: World) -> None:
    """The endpoint refuses tokens for what is private or missing."""
    world.add_tokens(grants=lambda scope: False)


@_profile("ghcr-referrers")
async def _ghcr_referrers(world: World) -> None:
    """No referrers API: it redirects to a web page on another host. Referrers are listed under the fallback tag."""
    site = await world.host("web", Site(address=ELSEWHERE))
    world.faults["trap:followed"] = site.on(when.always, html())
    world.registry.referrers_api = False
    world.faults["redirect"] = world.registry.on(when.referrers(), redirect(site.url + "/login", 303))
    world.add_tokens()


@_profile("quay-redirect")
async def _quay_redirect(world: World) -> None:
    """A redirect that claims to be cacheable for a year, to a URL that works once."""
    await world.add_storage(code=302, uses=1, headers={"Cache-Control": "max-age=31536000"})


@_profile("quay-gzip")
async def _quay_gzip(world: World) -> None:
    """Bodies are gzipped unless the client asks for identity; every connection is closed."""
    world.faults["close"] = world.registry.on(when.registry(), close())
    world.faults["gzip"] = world.registry.on(when.blob("GET"), gzip())


@_profile("quay-expired-tag")
async def _quay_expired_tag(world: World) -> None:
    message = f"Tag {world.tag} was deleted or has expired. To pull, revive via time machine"
    world.faults["expired"] = world.registry.on(when.manifest(None, world.tag), refuse(404, "TAG_EXPIRED", message))


@_profile("k8s-hop")
async def _k8s_hop(world: World) -> None:
    """Manifests live at a second host, which sends blob requests to a third."""
    second = Registry(address=ELSEWHERE)
    await world.host("second", second)
    second.add(world.repository, world.image, world.tag)
    storage = Storage(second, address="127.0.0.3")
    await world.host("storage", storage)
    world.faults["blob hop"] = second.on(when.blob("GET"), storage.redirect())
    hop = redirect(second.url + "{target}")
    world.faults["hop"] = world.registry.on(when.manifest() | when.blob(), hop)
    # The real one has no tokens; here it has, so that there is an Authorization header that could leak.
    world.add_tokens()


@_profile("k8s-signature")
async def _k8s_signature(world: World) -> None:
    """Signature manifests are found by tag, not by digest. Tests put the signature in."""

    def by_digest(seen: Seen) -> bool:
        if seen.kind != "manifest" or not seen.reference.startswith("sha256:"):
            return False
        signatures = {named for tag, named in world.registry.tags(world.repository).items() if tag.endswith(".sig")}
        return Digest.parse(seen.reference) in signatures

    world.faults["by digest"] = world.registry.on(by_digest, refuse(404, "MANIFEST_UNKNOWN", "Failed to fetch"))


@_profile("ar-relative")
async def _ar_relative(world: World) -> None:
    """The redirect has no host, and its path must not be re-quoted."""
    storage = Storage(world.registry)  # not a host of its own: its URLs are answered by the registry's
    world.faults["download"] = world.registry.on(
        lambda seen: seen.target.startswith("/artifacts-downloads/"), lambda seen, following: storage.answer(seen)
    )
    world.faults["redirect"] = world.registry.on(
        when.blob("GET"), storage.redirect(302, relative=True, prefix="/artifacts-downloads/namespaces/a%2Fb+c")
    )


@_profile("ecr-public")
async def _ecr_public(world: World) -> None:
    """Scope ``aws`` for everything; no digest on GET; no HEAD of blobs; a bad token is a 400 without a challenge.

    The fault ``invalid`` is off: tests switch it on (``active = True``) when the token is to become invalid.
    """
    world.faults["no digest"] = world.registry.on(when.manifest("GET"), without("Docker-Content-Digest", "ETag"))
    world.faults["trap:head"] = world.registry.on(when.blob("HEAD"), status(401, b"Not Authorized\n"))
    world.add_tokens(scope=lambda seen: "aws", path="/token/", service="public.ecr.aws", expires_in=43200)
    invalid = refuse(400, "DENIED", "Your Authorization Token is invalid.")
    world.faults["invalid"] = world.registry.on(when.manifest("GET"), invalid, times=1, guard=True)
    world.faults["invalid"].active = False


@_profile("ecr-private")
async def _ecr_private(world: World) -> None:
    """Basic with a password that expires, as a 403 without a challenge; tags with an opaque cursor.

    The user is ``AWS``; passwords are ``first`` (expired) and ``second``.
    """
    for number in range(3):
        world.registry.tag(world.repository, f"t{number}", world.image.digest)
    cursor = {"c%3D1+/=": 2}  # one opaque cursor; what follows it starts at the second tag

    async def tags(seen: Seen, following: Next) -> Answer:
        token, last, number = seen.query.get("next_token"), seen.query.get("last"), int(seen.query.get("n", "1000"))
        if last is not None or number > 1000:
            return error(405, "UNSUPPORTED", "Invalid parameter")
        named = sorted(world.registry.tags(world.repository), reverse=True)  # unsorted, to a client that expects order
        headers = CIMultiDict({"Content-Type": "text/plain; charset=utf-8"})
        if token is None:
            page = named[:2]
            headers["Link"] = (
                f'<{world.registry.url}/v2/{seen.repository}/tags/list?n={number}&next_token=c%253D1%2B%2F%3D>; rel="next"'
            )
        elif token in cursor:
            page = named[cursor[token] :]
        else:
            return error(405, "UNSUPPORTED", "Invalid parameter")
        return Answer(200, headers, json.dumps({"name": seen.repository, "tags": page}).encode())

    world.faults["tags"] = world.registry.on(when.tags(), tags)

    def expired(seen: Seen) -> bool:
        return credentials(seen) == ("AWS", "first")

    message = "Your authorization token has expired. Reauthenticate and try again."
    world.registry.on(when.registry(), basic({"AWS": "second"}, realm="https://registry.test/"), guard=True)
    world.faults["expired"] = world.registry.on(expired, refuse(403, "DENIED", message), guard=True)


@_profile("acr-token")
async def _acr_token(world: World) -> None:
    """Only ``access_token``, no ``expires_in``; POST is a 400. User ``user``, password ``secret``; or ``identity``."""
    world.add_tokens(
        path="/oauth2/token",
        fields=("access_token",),
        expires_in=None,
        anonymous=False,
        users={"user": "secret", "00000000-0000-0000-0000-000000000000": "identity"},
        refuse_method=400,
    )


@_profile("gitlab-fallback")
async def _gitlab_fallback(world: World) -> None:
    """No referrers API, and the fallback tag answers with the subject itself."""
    world.registry.referrers_api = False
    tag = images.referrers_tag(world.image.digest)
    world.faults["subject"] = world.registry.on(
        when.manifest(None, tag), first(lambda seen: world.registry.tag(world.repository, tag, world.image.digest))
    )


@_profile("redhat-no-digest")
async def _redhat_no_digest(world: World) -> None:
    """Digests are nowhere in the headers, the ETag is something else, the challenge has no scope."""

    def strip(answer: Answer) -> None:
        answer.headers.popall("Docker-Content-Digest", None)
        if "ETag" in answer.headers:
            answer.headers["ETag"] = '"abc"'

    world.faults["no digest"] = world.registry.on(when.manifest(), bend(strip))
    world.add_tokens(
        path="/auth/realms/rhcc/protocol/redhat-docker-v2/auth",
        service="docker-registry",
        scope=lambda seen: None,
    )


@_profile("harbor-artifactory")
async def _harbor_artifactory(world: World) -> None:
    """The scope differs from the path; with a stale token the challenge becomes Basic. User ``user``, password ``secret``."""
    world.add_tokens(
        path="/service/token",
        service="registry.test:443",
        scope=lambda seen: f"repository:{seen.repository.partition('/')[2]}:pull",
        users={"user": "secret"},
        anonymous=False,
    )

    def stale(seen: Seen) -> bool:
        return (seen.authorization or "").startswith("Bearer ") and not world.tokens.valid(seen)

    def entitled(seen: Seen) -> bool:
        return credentials(seen) == ("user", "secret")

    async def honest(seen: Seen, following: Next) -> Answer:
        return await world.registry.answer(seen)

    world.faults["basic"] = world.registry.on(stale, basic({}, realm="harbor"), guard=True)
    world.faults["basic accepted"] = world.registry.on(when.When(entitled) & when.registry(), honest, guard=True)
