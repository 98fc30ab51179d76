"""Promises of the upstream client about hosts: where credentials go, where redirects and links may lead.

Numbered as in the project's checklist. Both ways wherever there are two: what is wrong is refused, its honest twin is accepted,
and the fault is seen to have fired.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.errors import UpstreamDenied, UpstreamError, UpstreamMisbehaved, UpstreamUnavailable
from proxy.settings import Limits
from tests.conformance.clients import ELSEWHERE, REPOSITORY, SECRET, FakeNames, client_of, download
from tests.simulator import behaviours, when
from tests.simulator.registry import Registry
from tests.simulator.server import Behaviour, Seen, Site
from tests.simulator.storage import Storage
from tests.simulator.tls import Authority
from tests.simulator.tokens import TokenService, basic
from tests.tools import SOON

# -- 22: bearer realms ---------------------------------------------------------------------------------------------


async def test_promise_22_credentials_go_to_the_own_host_and_its_realm() -> None:
    """The honest twin: a realm on the registry's own host gets the credentials."""
    async with Registry() as registry, client_of(registry, auth=SECRET) as client:
        image = registry.image("team/app", "1.0")
        service = TokenService(registry, users={"user": "secret"}, anonymous=False).guard(registry)
        assert await client.head(REPOSITORY, "1.0") == image.digest
        assert [token.account for token in service.issued] == ["user"]


@pytest.mark.parametrize("auth", [SECRET, {}], ids=["with credentials", "anonymous"])
async def test_promise_22_a_realm_on_another_host_gets_nothing(auth: dict[str, str]) -> None:
    """A challenge that names another host is not answered there, with credentials or without; configured, it is."""
    async with Registry() as registry, Site(address=ELSEWHERE) as thief:
        image = registry.image("team/app", "1.0")
        service = TokenService(thief, users={"user": "secret"}).guard(registry)
        async with client_of(registry, auth=auth) as client:
            with pytest.raises(UpstreamError) as caught:
                await client.manifest(REPOSITORY, "1.0")
            assert "secret" not in str(caught.value)
        assert thief.requests == []
        assert service.challenges is not None
        assert service.challenges.fired >= 1
        async with client_of(registry, auth=auth, realm_hosts=[ELSEWHERE]) as client:
            assert (await client.manifest(REPOSITORY, "1.0")).digest == image.digest
        assert [token.account for token in service.issued] == [auth.get("username")]


async def test_promise_22_a_token_endpoint_that_redirects_away_takes_nothing_along() -> None:
    """A redirect from the expected realm to another host does not carry credentials there."""
    async with Registry() as registry, Site(address=ELSEWHERE) as thief, client_of(registry, auth=SECRET) as client:
        registry.image("team/app", "1.0")
        TokenService(registry, users={"user": "secret"}).guard(registry)
        fault = registry.on(when.path("/token"), behaviours.redirect(thief.url + "{target}"))
        with pytest.raises(UpstreamError):
            await client.manifest(REPOSITORY, "1.0")
        assert fault.fired >= 1
        assert not [seen for seen in thief.requests if seen.authorization]


async def test_promise_22_a_plain_realm_of_an_https_registry_gets_nothing(authority: Authority, tmp_path: Path) -> None:
    """The same host by plain HTTP is refused, by https it is asked."""
    async with Registry(tls=authority.server()) as registry, Site() as plain:
        image = registry.image("team/app", "1.0")
        ca = str(authority.file(tmp_path))
        service = TokenService(registry, realm=f"{plain.url}/token", users={"user": "secret"}).guard(registry)
        async with client_of(registry, ca=ca, auth=SECRET) as client:
            with pytest.raises(UpstreamError, match="https"):
                await client.manifest(REPOSITORY, "1.0")
        assert plain.requests == []
        service.realm = None
        async with client_of(registry, ca=ca, auth=SECRET) as client:
            assert (await client.manifest(REPOSITORY, "1.0")).digest == image.digest


@pytest.mark.parametrize(
    "realm",
    [
        "",
        "ftp://{host}/token",
        "http://user:pw@{host}/token",
        "//",
        "http://[::1/token",
        "http://{host}\\@evil.example/",
        "x" * 9000,
    ],
    ids=["empty", "ftp", "with a user", "no host", "broken", "backslash", "endless"],
)
async def test_promise_22_a_realm_that_is_no_url_is_not_asked(realm: str) -> None:
    """A realm that cannot be understood is denied or misbehaviour, and nobody is asked."""
    async with Registry() as registry, client_of(registry, auth=SECRET, retries=0) as client:
        registry.image("team/app", "1.0")
        service = TokenService(registry, realm=realm.replace("{host}", registry.host)).guard(registry)
        with pytest.raises((UpstreamDenied, UpstreamMisbehaved, UpstreamUnavailable)):
            await client.manifest(REPOSITORY, "1.0")
        assert service.asked() == []
        assert service.challenges is not None
        assert service.challenges.fired >= 1


async def test_promise_22_a_realm_at_a_private_address_is_not_dialled(public: None) -> None:
    """Even a realm host that is configured is not dialled when it lives at a private address and those are not allowed."""
    async with Registry() as registry, Site(address=ELSEWHERE) as inside:
        image = registry.image("team/app", "1.0")
        TokenService(inside).guard(registry)
        async with client_of(registry, allow_private=False, realm_hosts=[ELSEWHERE]) as client:
            with pytest.raises(UpstreamMisbehaved, match="public"):
                await client.manifest(REPOSITORY, "1.0")
        assert inside.connections == 0
        async with client_of(registry, allow_private=True, realm_hosts=[ELSEWHERE]) as client:
            assert (await client.manifest(REPOSITORY, "1.0")).digest == image.digest


@pytest.mark.parametrize(
    "answer",
    [
        behaviours.status(200, {"token": ""}),
        behaviours.status(200, {"token": "a\r\nX-Evil: 1"}),
        behaviours.status(200, {"token": 7}),
        behaviours.status(200, b"[" * 60_000, content_type="application/json"),
        behaviours.html(),
        behaviours.endless(b'{"token": "' + b"x" * 60_000),
        behaviours.status(200, {"token": "x" * (65 << 10)}),
    ],
    ids=["empty", "header injection", "number", "deep", "login page", "endless", "oversize"],
)
async def test_promise_22_an_odd_token_is_no_token(answer: Behaviour) -> None:
    """What a token endpoint answers is bounded and checked before it goes into a header."""
    async with Registry() as registry, client_of(registry, retries=0) as client:
        registry.image("team/app", "1.0")
        service = TokenService(registry).guard(registry)
        fault = registry.on(when.path("/token"), answer)
        with pytest.raises((UpstreamUnavailable, UpstreamMisbehaved)):
            await asyncio.wait_for(client.manifest(REPOSITORY, "1.0"), SOON)
        assert fault.fired >= 1
        assert not [seen for seen in registry.requests if seen.authorization or "X-Evil" in seen.headers]
        assert service.issued == []


# -- 23: redirects -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["another host", "another port"])
@pytest.mark.parametrize("scheme", ["bearer", "basic"])
async def test_promise_23_redirect_drops_authorization(where: str, scheme: str) -> None:
    """Another host or port is another origin: neither a token nor a password goes along; the registry itself gets it."""
    async with (
        Registry() as registry,
        Storage(registry, address=ELSEWHERE if where == "another host" else "127.0.0.1") as storage,
    ):
        image = registry.image("team/app", "1.0")
        fault = registry.on(when.blob("GET"), storage.redirect())
        if scheme == "bearer":
            TokenService(registry, users={"user": "secret"}, anonymous=False).guard(registry)
        else:
            registry.on(when.registry(), basic({"user": "secret"}), guard=True)
        async with client_of(registry, auth=SECRET) as client:
            assert await download(client, REPOSITORY, image.layers[0]) == image.blobs[1].data
        assert fault.fired == 1
        (seen,) = storage.requests
        assert not {"Authorization", "Cookie", "Proxy-Authorization"} & set(seen.headers)
        assert [request for request in registry.requests if request.authorization]


async def test_promise_23_same_origin_redirects_keep_authorization() -> None:
    """The honest twin: a redirect within the registry's own origin stays authorized."""
    async with Registry() as registry, client_of(registry, auth=SECRET) as client:
        image = registry.image("team/app", "1.0")
        registry.image("team/moved", "1.0")
        TokenService(registry, users={"user": "secret"}, anonymous=False, scope=lambda seen: "all").guard(registry)
        here = when.When(lambda seen: seen.repository == "team/app")
        fault = registry.on(when.manifest(None, "1.0") & here, behaviours.redirect("/v2/team/moved/manifests/1.0"))
        assert (await client.manifest(REPOSITORY, "1.0")).digest == image.digest
        assert fault.fired == 1


async def test_promise_23_cookies_are_neither_kept_nor_sent() -> None:
    """A Set-Cookie has no effect on later requests, to this host or another."""
    names = FakeNames({"registry.example": "127.0.0.1"})  # to an address clients do not send cookies anyway
    async with Registry() as registry, Storage(registry) as storage:
        image = registry.image("team/app", "1.0")
        registry.on(when.blob("GET"), storage.redirect())
        fault = registry.on(when.registry(), behaviours.header("Set-Cookie", "session=secret; Path=/"))
        async with client_of(registry, url=registry.url_as("registry.example"), resolver=names) as client:
            for _ in range(2):
                await client.manifest(REPOSITORY, "1.0")
                await download(client, REPOSITORY, image.layers[0])
        assert fault.fired == 4
        assert not [seen for seen in (*registry.requests, *storage.requests) if "Cookie" in seen.headers]


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_promise_23_every_kind_of_redirect_is_followed(code: int) -> None:
    """All five statuses lead to the target, by GET."""
    async with Registry() as registry, Storage(registry) as storage, client_of(registry) as client:
        image = registry.image("team/app", "1.0")
        fault = registry.on(when.blob("GET"), storage.redirect(code))
        assert await download(client, REPOSITORY, image.layers[0]) == image.blobs[1].data
        assert (fault.fired, [seen.method for seen in storage.requests]) == (1, ["GET"])


@pytest.mark.parametrize("spelling", ["address", "name"])
async def test_promise_23_redirects_to_private_addresses_are_not_dialled(spelling: str, public: None) -> None:
    """A literal private address and a name that resolves to one are refused; the same redirect to a public host is followed."""
    async with Registry() as registry, Storage(registry) as outside, Storage(registry, address=ELSEWHERE) as inside:
        image = registry.image("team/app", "1.0")
        target = inside.url_as("inside.test") if spelling == "name" else inside.url
        async with client_of(registry, allow_private=False, resolver=FakeNames({"inside.test": ELSEWHERE})) as client:
            fault = registry.on(when.blob("GET"), outside.redirect(), times=1)
            assert await download(client, REPOSITORY, image.layers[0]) == image.blobs[1].data
            bad = registry.on(when.blob("GET"), behaviours.redirect(target + "/secret"))
            with pytest.raises(UpstreamMisbehaved, match="public"):
                await download(client, REPOSITORY, image.layers[0])
        assert (fault.fired, bad.fired) == (1, 1)
        assert inside.connections == 0


async def test_promise_23_the_upstream_itself_must_be_public_unless_allowed() -> None:
    """A registry on loopback is not dialled without ``allow_private``."""
    async with Registry() as registry:
        image = registry.image("team/app", "1.0")
        for name in ("127.0.0.1", "localhost"):
            async with client_of(registry, url=registry.url_as(name), allow_private=False) as client:
                with pytest.raises(UpstreamMisbehaved, match="allow_private"):
                    await client.manifest(REPOSITORY, "1.0")
        assert registry.connections == 0
        async with client_of(registry, url=registry.url_as("localhost")) as client:
            assert (await client.manifest(REPOSITORY, "1.0")).digest == image.digest


async def test_promise_23_downgrades_to_http_are_refused(authority: Authority, tmp_path: Path) -> None:
    """From https a redirect to http is refused, one to https is followed."""
    async with (
        Registry(tls=authority.server()) as registry,
        Storage(registry) as plain,
        Storage(registry, address=ELSEWHERE, tls=authority.server()) as secure,
        client_of(registry, ca=str(authority.file(tmp_path))) as client,
    ):
        image = registry.image("team/app", "1.0")
        bad = registry.on(when.blob("GET"), plain.redirect(), times=1)
        with pytest.raises(UpstreamMisbehaved, match="http"):
            await download(client, REPOSITORY, image.layers[0])
        good = registry.on(when.blob("GET"), secure.redirect())
        assert await download(client, REPOSITORY, image.layers[0]) == image.blobs[1].data
        assert (bad.fired, good.fired, plain.connections) == (1, 1, 0)


@pytest.mark.parametrize(
    "location",
    [
        "",
        "ftp://{host}/x",
        "file:///etc/passwd",
        "gopher://{host}/x",
        "http://",
        "http://user:pw@{host}/x",
        "javascript:1",
        "http://[::1",
    ],
)
async def test_promise_23_redirects_to_what_is_no_http_are_refused(location: str) -> None:
    """Other schemes, users in URLs, no host: refused without a further request."""
    async with Registry() as registry, client_of(registry) as client:
        image = registry.image("team/app", "1.0")
        fault = registry.on(when.blob("GET"), behaviours.redirect(location.replace("{host}", registry.host)))
        with pytest.raises(UpstreamMisbehaved):
            await download(client, REPOSITORY, image.layers[0])
        assert (fault.fired, registry.count()) == (1, 1)


async def test_promise_23_loops_end() -> None:
    """A redirect to itself, a circle of two hosts and an endless chain all end soon, as misbehaviour."""
    async with (
        Registry() as registry,
        Site(address=ELSEWHERE) as other,
        client_of(registry, limits=Limits(redirects=5)) as client,
    ):
        image = registry.image("team/app", "1.0")
        other.on(when.always, behaviours.redirect(registry.url + "{target}"))
        numbers = iter(range(1000))
        circles: list[tuple[str | Callable[[Seen], str], int]] = [
            ("{target}", 1),
            (other.url + "{target}", 1),
            (lambda seen: f"/v2/team/app/blobs/{seen.reference}?{next(numbers)}", 6),
        ]
        for location, asked in circles:
            registry.forget()
            fault = registry.on(when.blob("GET"), behaviours.redirect(location))
            with pytest.raises(UpstreamMisbehaved, match="redirect"):
                await download(client, REPOSITORY, image.layers[0])
            assert fault.fired == registry.count() == asked
            fault.off()


@pytest.mark.parametrize("hops", [3, 4])
async def test_promise_23_the_number_of_redirects_is_limited(hops: int) -> None:
    """As many as the setting says are followed, one more is refused."""
    async with Registry() as registry, client_of(registry, limits=Limits(redirects=3)) as client:
        image = registry.image("team/app", "1.0")
        for hop in range(hops):
            query = f"hop={hop}" if hop else ""
            registry.on(when.manifest() & when.query(query), behaviours.redirect(f"/v2/team/app/manifests/1.0?hop={hop + 1}"))
        if hops == 3:
            assert (await client.manifest(REPOSITORY, "1.0")).digest == image.digest
        else:
            with pytest.raises(UpstreamMisbehaved):
                await client.manifest(REPOSITORY, "1.0")
        assert sum(fault.fired for fault in registry.faults) == hops


# -- 24: pagination ------------------------------------------------------------------------------------------------


def tag_many(registry: Registry, number: int) -> list[str]:
    """Fill a repository with tags."""
    image = registry.image("team/app")
    tags = [f"v{each:04}" for each in range(number)]
    for tag in tags:
        registry.tag("team/app", tag, image.digest)
    return tags


async def test_promise_24_links_of_the_same_origin_are_followed() -> None:
    """Pages of a hundred, relative and absolute, to their end."""
    async with Registry() as registry, client_of(registry) as client:
        tags = tag_many(registry, 250)
        listed = await client.tags(REPOSITORY)
        assert (list(listed.tags), listed.complete) == (tags, True)
        assert [seen.query.get("n") for seen in registry.requests] == ["100"] * 3
        absolute = registry.on(
            when.tags(),
            behaviours.bend(
                lambda answer: (
                    answer.headers.update({"Link": answer.headers["Link"].replace("</", f"<{registry.url}/")})
                    if "Link" in answer.headers
                    else None
                )
            ),
        )
        assert list((await client.tags(REPOSITORY)).tags) == tags
        assert absolute.fired == 3


@pytest.mark.parametrize("where", ["another host", "another port", "another scheme"])
async def test_promise_24_a_link_off_origin_is_refused(where: str) -> None:
    """Pagination never leaves the registry, and never takes its token elsewhere."""
    async with Registry() as registry, Site(address=ELSEWHERE if where == "another host" else "127.0.0.1") as thief:
        tag_many(registry, 5)
        TokenService(registry, users={"user": "secret"}, scope=lambda seen: "all").guard(registry)
        base = thief.url if where != "another scheme" else registry.url.replace("http:", "https:")
        fault = registry.on(when.tags(), behaviours.header("Link", f'<{base}/v2/team/app/tags/list?n=100&last=x>; rel="next"'))
        async with client_of(registry, auth=SECRET, retries=0) as client:
            with pytest.raises(UpstreamMisbehaved):
                await client.tags(REPOSITORY)
        assert fault.fired == 1
        assert thief.requests == []


async def test_promise_24_pages_are_capped() -> None:
    """A list without an end is cut off at the limit and said to be incomplete; a page that repeats ends it, too."""
    async with Registry() as registry:
        tag_many(registry, 5)
        numbers = iter(range(1000))
        endless = registry.on(
            when.tags(),
            behaviours.bend(
                lambda answer: answer.headers.update(
                    {"Link": f'</v2/team/app/tags/list?n=100&last=x{next(numbers)}>; rel="next"'}
                )
            ),
        )
        async with client_of(registry, limits=Limits(tag_pages=4)) as client:
            listed = await client.tags(REPOSITORY)
            assert (listed.complete, endless.fired) == (False, 4)
            endless.off()
            circle = registry.on(when.tags(), behaviours.header("Link", '</v2/team/app/tags/list?n=100>; rel="next"'))
            assert not (await client.tags(REPOSITORY)).complete
            assert circle.fired == 1


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"name": "team/app", "tags": null}', []),
        (b'{"tags": ["b", "a"]}', ["a", "b"]),
        (b'{"name": "team/app", "tags": ["a"], "manifest": {}, "child": []}', ["a"]),
    ],
    ids=["null", "unsorted", "Google's extra fields"],
)
async def test_promise_24_odd_lists_are_understood(body: bytes, expected: list[str]) -> None:
    """What real registries answer is tolerated, also as text/plain."""
    async with Registry() as registry, client_of(registry) as client:
        fault = registry.on(when.tags(), behaviours.status(200, body, content_type="text/plain; charset=utf-8"))
        assert sorted((await client.tags(REPOSITORY)).tags) == expected
        assert fault.fired == 1
