"""The promises that the upstream client keeps by itself, numbered as in the project's checklist.

Both ways wherever there are two: what is wrong is refused, its honest twin is accepted, and the fault is seen to have fired.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from multidict import CIMultiDict

from proxy.errors import UpstreamAbsent, UpstreamDenied, UpstreamError, UpstreamMisbehaved, UpstreamUnavailable
from proxy.settings import Limits
from proxy.upstream import network
from storage.digest import Digest
from storage.records import Descriptor
from tests.conformance.clients import FakeNames, client_of, download, repository_of
from tests.simulator import behaviours, images, when
from tests.simulator.registry import Registry
from tests.simulator.server import Answer, Behaviour, Next, Seen, Site
from tests.simulator.storage import Storage
from tests.simulator.tls import Authority
from tests.simulator.tokens import TokenService, basic, credentials

REPOSITORY = repository_of("team/app")
ELSEWHERE = "127.0.0.2"
SECRET = {"username": "user", "password": "secret"}


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> None:
    """For this test 127.0.0.1 is the public Internet; every other address of the loopback stays private."""
    judge = network.is_public
    monkeypatch.setattr(network, "is_public", lambda text: text == "127.0.0.1" or judge(text))


@pytest.fixture(scope="module")
def authority() -> Authority:
    """A certificate authority for registries on https."""
    return Authority()


# -- 9: digests ----------------------------------------------------------------------------------------------------


async def test_promise_09_a_lying_digest_header_is_refused() -> None:
    """The digest of a manifest is computed over its bytes; a header that says something else is misbehaviour, also by tag."""
    async with Registry() as registry, client_of(registry) as client:
        image = registry.image("team/app", "1.0")
        fault = registry.on(when.manifest("GET"), behaviours.lie(Digest.of(b"another")))
        with pytest.raises(UpstreamMisbehaved, match="hash to"):
            await client.manifest(REPOSITORY, "1.0")
        fault.off()
        assert (await client.manifest(REPOSITORY, "1.0")).digest == image.digest
        assert fault.fired == 1


async def test_promise_09_another_manifest_under_the_asked_digest_is_refused() -> None:
    """GET by digest gives exactly these bytes or nothing, however the answer is labelled; the honest one passes."""
    async with Registry() as registry, client_of(registry) as client:
        image, other = registry.image("team/app", "1.0"), images.image("other")
        assert (await client.manifest(REPOSITORY, image.digest)).body == image.body
        registry.forge("team/app", image.digest, other.body)
        with pytest.raises(UpstreamMisbehaved):
            await client.manifest(REPOSITORY, image.digest)
        assert registry.requests[-1].finished


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_promise_09_both_algorithms_are_computed(algorithm: str) -> None:
    """A manifest asked by sha512 is checked by sha512, one by sha256 by sha256; a flipped bit is refused."""
    async with Registry() as registry, client_of(registry) as client:
        image = registry.add("team/app", images.image("x", algorithm=algorithm))
        fetched = await client.manifest(REPOSITORY, image.digest)
        assert (fetched.digest, fetched.body) == (image.digest, image.body)
        fault = registry.on(when.manifest("GET"), behaviours.flip())
        with pytest.raises(UpstreamMisbehaved):
            await client.manifest(REPOSITORY, image.digest)
        assert fault.fired == 1


@pytest.mark.parametrize("text", ["sha256:abc", "md5:" + "0" * 32, "sha256:" + "A" * 64, "x" * 5000, "sha256:" + "0" * 63 + "\t"])
async def test_promise_09_a_malformed_digest_header_is_no_hint(text: str) -> None:
    """HEAD gives no digest when the header holds none."""
    async with Registry() as registry, client_of(registry) as client:
        image = registry.image("team/app", "1.0")
        fault = registry.on(when.manifest("HEAD"), behaviours.lie(text))
        assert await client.head(REPOSITORY, "1.0") is None
        fault.off()
        assert await client.head(REPOSITORY, "1.0") == image.digest
        assert fault.fired == 1


# -- 14: sizes of manifests ----------------------------------------------------------------------------------------

LIMIT = Limits(manifest_size=4096)


def padded(size: int) -> bytes:
    """A manifest of exactly so many bytes."""
    body = images.image("padded").body
    return body + b" " * (size - len(body))


async def test_promise_14_a_manifest_at_the_limit_passes() -> None:
    """The limit itself is allowed."""
    async with Registry() as registry, client_of(registry, limits=LIMIT) as client:
        registry.manifest("team/app", padded(4096), tag="1.0")
        assert len((await client.manifest(REPOSITORY, "1.0")).body) == 4096


async def test_promise_14_an_announced_excess_is_refused_before_it_is_read() -> None:
    """A Content-Length above the limit ends it: the body, which never comes, is not waited for."""
    async with Registry() as registry, client_of(registry, limits=LIMIT) as client:
        registry.manifest("team/app", padded(4097), tag="1.0")
        fault = registry.on(when.manifest("GET"), behaviours.stall(0))
        with pytest.raises(UpstreamMisbehaved, match="4096"):
            await asyncio.wait_for(client.manifest(REPOSITORY, "1.0"), 2)
        assert fault.fired == 1


@pytest.mark.parametrize("behaviour", [behaviours.chunked(), behaviours.endless()], ids=["chunked one byte too many", "endless"])
async def test_promise_14_an_unannounced_excess_is_cut_off(behaviour: Behaviour) -> None:
    """Without a Content-Length reading stops at the limit."""
    async with Registry() as registry, client_of(registry, limits=LIMIT) as client:
        registry.manifest("team/app", padded(4097), tag="1.0")
        fault = registry.on(when.manifest("GET"), behaviour)
        with pytest.raises(UpstreamMisbehaved, match="4096"):
            await asyncio.wait_for(client.manifest(REPOSITORY, "1.0"), 5)
        assert fault.fired == 1


async def test_promise_14_a_limit_of_the_callers_own() -> None:
    """A caller may set a lower limit for what it expects to be small."""
    async with Registry() as registry, client_of(registry) as client:
        image = registry.image("team/app", "1.0")
        assert (await client.manifest(REPOSITORY, "1.0", limit=len(image.body))).digest == image.digest
        with pytest.raises(UpstreamMisbehaved):
            await client.manifest(REPOSITORY, "1.0", limit=len(image.body) - 1)


@pytest.mark.parametrize("number", ["-1", "1e3", "0x10", "5, 6", "99999999999999999999999999"])
async def test_promise_14_a_nonsensical_length_is_refused(number: str) -> None:
    """A Content-Length that is no plain number gives no manifest."""
    async with Registry() as registry, client_of(registry, retries=0) as client:
        registry.image("team/app", "1.0")
        raw = f"HTTP/1.1 200 OK\r\nContent-Type: {images.OCI_MANIFEST}\r\nContent-Length: {number}\r\n\r\n{{}}".encode()
        fault = registry.on(when.manifest("GET"), behaviours.verbatim(raw), times=1)
        with pytest.raises((UpstreamMisbehaved, UpstreamUnavailable)):
            await client.manifest(REPOSITORY, "1.0")
        assert fault.fired == 1


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
            await asyncio.wait_for(client.manifest(REPOSITORY, "1.0"), 10)
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


# -- 26, 27: the wire ----------------------------------------------------------------------------------------------

BODY = images.image("wire").body
FIRST = f"HTTP/1.1 200 OK\r\nContent-Type: {images.OCI_MANIFEST}\r\n".encode()
GOOD = FIRST + b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


def chunks(data: bytes) -> bytes:
    """A chunked body."""
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)


async def test_promise_26_27_the_honest_twin_passes() -> None:
    """Bytes written by hand, in good order, with a length and in chunks, are accepted."""
    for raw in (GOOD, FIRST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks(BODY)):
        async with Registry() as registry, client_of(registry) as client:
            registry.on(when.manifest("GET"), behaviours.verbatim(raw))
            assert (await client.manifest(REPOSITORY, "1.0")).body == BODY


@pytest.mark.parametrize(
    "raw",
    [
        GOOD.replace(b"OK\r\n", b"OK\r\nX-Evil: a\0b\r\n"),
        GOOD.replace(b"OK\r\n", b"OK\r\nX-Evil: a\rb\r\n"),
        GOOD.replace(b"OK\r\n", b"OK\r\nX Evil: a\r\n"),
        GOOD.replace(b"OK\r\n", b"OK\r\n: a\r\n"),
        GOOD.replace(b"OK\r\n", b"OK\r\nX-Evil: " + b"a" * 200_000 + b"\r\n"),
        GOOD.replace(b"HTTP/1.1 200 OK", b"HTTP/9 200 OK"),
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\0\1\2\3",
    ],
    ids=["NUL", "CR", "space in a name", "no name", "endless header", "HTTP/9", "another protocol", "rubbish"],
)
async def test_promise_26_broken_heads_are_refused(raw: bytes) -> None:
    """A head that HTTP does not allow gives no manifest, and no crash."""
    async with Registry() as registry, client_of(registry, retries=0) as client:
        fault = registry.on(when.manifest("GET"), behaviours.verbatim(raw))
        with pytest.raises((UpstreamMisbehaved, UpstreamUnavailable)):
            await client.manifest(REPOSITORY, "1.0")
        assert fault.fired >= 1


@pytest.mark.parametrize(
    "raw",
    [
        FIRST + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n" % len(BODY) + chunks(BODY),
        FIRST + b"Transfer-Encoding: chunked\r\nContent-Length: %d\r\n\r\n" % len(BODY) + chunks(BODY),
        FIRST + b"Content-Length: %d\r\nContent-Length: %d\r\n\r\n" % (len(BODY), len(BODY) - 1) + BODY,
        FIRST + b"Transfer-Encoding: chunked\r\n\r\n" + b"zz\r\n" + BODY,
        FIRST + b"Transfer-Encoding: chunked\r\n\r\n" + b"-1\r\n" + BODY,
        FIRST + b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n%bXX" % (len(BODY), BODY),
        FIRST + b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n%b\r\n" % (len(BODY), BODY),
        FIRST + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + chunks(BODY),
    ],
    ids=["CL+TE", "TE+CL", "two lengths", "no hex", "negative", "no CRLF", "no last chunk", "gzip, chunked"],
)
async def test_promise_27_ambiguous_and_broken_framing_is_refused(raw: bytes) -> None:
    """Bodies whose end is in doubt give no manifest, and their connection is not used again."""
    async with Registry() as registry, client_of(registry, retries=0) as client:
        registry.manifest("team/app", BODY, tag="1.0")
        fault = registry.on(when.manifest("GET"), behaviours.verbatim(raw), times=1)
        with pytest.raises((UpstreamMisbehaved, UpstreamUnavailable)):
            await client.manifest(REPOSITORY, "1.0")
        assert fault.fired == 1
        assert (await client.manifest(REPOSITORY, "1.0")).body == BODY
        assert registry.connections == 2


async def test_promise_27_rubbish_after_the_body_poisons_nothing() -> None:
    """Bytes after the end of an answer are not taken for the next answer."""
    async with Registry() as registry, client_of(registry, retries=0) as client:
        image, other = registry.image("team/app", "1.0"), images.image("other")
        poison = FIRST + b"Content-Length: %d\r\n\r\n%b" % (len(other.body), other.body)
        fault = registry.on(when.manifest("GET"), behaviours.body(image.body + poison, length=False), times=1)
        try:
            first = (await client.manifest(REPOSITORY, "1.0")).digest
        except UpstreamError:
            first = image.digest  # refusing it altogether keeps the promise, too
        assert first == image.digest
        assert (await client.manifest(REPOSITORY, "1.0")).digest == image.digest
        assert fault.fired == 1


# -- 28: encoded bodies --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "x-unknown"])
async def test_promise_28_encoded_manifests_are_refused(encoding: str) -> None:
    """A manifest with a Content-Encoding is refused, whatever it is; ``identity`` is none."""
    async with Registry() as registry, client_of(registry) as client:
        image = registry.image("team/app", "1.0")
        fault = registry.on(when.manifest("GET"), behaviours.header("Content-Encoding", encoding))
        with pytest.raises(UpstreamMisbehaved, match="encoded"):
            await client.manifest(REPOSITORY, "1.0")
        fault.off()
        identity = registry.on(when.manifest("GET"), behaviours.header("Content-Encoding", "identity"))
        assert (await client.manifest(REPOSITORY, "1.0")).digest == image.digest
        assert (fault.fired, identity.fired) == (1, 1)


async def test_promise_28_encoded_blobs_are_refused() -> None:
    """A gzipped blob, though identity was asked for, is refused before a byte of it is handed on."""
    async with Registry() as registry, client_of(registry) as client:
        image = registry.image("team/app", "1.0")
        fault = registry.on(when.blob("GET"), behaviours.gzip(unless_identity=False))
        with pytest.raises(UpstreamMisbehaved, match="encoded"):
            await download(client, REPOSITORY, image.layers[0])
        assert fault.fired == 1
        assert registry.requests[0].headers["Accept-Encoding"] == "identity"


async def test_promise_28_nothing_is_decompressed() -> None:
    """A layer that is itself gzip arrives as it is."""
    async with Registry() as registry, client_of(registry) as client:
        image = registry.image("team/app", "1.0")
        assert (await download(client, REPOSITORY, image.layers[0]))[:2] == b"\x1f\x8b"


# -- 29, 30: bodies ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """How a stream ended, and the bytes that came before."""

    data: bytes
    error: UpstreamError | None


async def stream(registry: Registry, descriptor: Descriptor, offset: int = 0) -> Outcome:
    """One attempt at a blob."""
    data = b""
    async with client_of(registry, retries=0, stall_timeout=0.5) as client:
        try:
            async with client.blob(REPOSITORY, descriptor, offset) as body:
                async for chunk in body.chunks():
                    data += chunk
        except UpstreamError as error:
            return Outcome(data, error)
    return Outcome(data, None)


DATA = images.noise("blob", 300_000)


def unannounced(change: Callable[[bytes], bytes], *, chunked: bool) -> Behaviour:
    """Another body without a Content-Length: in chunks, or ended by the end of the connection."""

    async def pieces(data: bytes) -> AsyncIterator[bytes]:
        yield data

    def bend(answer: Answer) -> None:
        answer.headers.popall("Content-Length", None)
        answer.pieces = pieces(change(answer.body))
        if chunked:
            answer.headers["Transfer-Encoding"] = "chunked"

    return behaviours.bend(bend)


def longer(data: bytes) -> bytes:
    """One byte too many."""
    return data + b"\0"


def shorter(data: bytes) -> bytes:
    """One byte too few."""
    return data[:-1]


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        (behaviours.endless(), UpstreamMisbehaved),
        (behaviours.endless(headers={"Content-Length": "999999999999"}), UpstreamMisbehaved),
        (behaviours.lengthen(), UpstreamMisbehaved),
        (unannounced(longer, chunked=True), UpstreamMisbehaved),
        (unannounced(longer, chunked=False), UpstreamMisbehaved),
        (unannounced(shorter, chunked=True), UpstreamUnavailable),
        (unannounced(shorter, chunked=False), UpstreamUnavailable),
        (behaviours.shorten(), UpstreamMisbehaved),
        (behaviours.cut(100_000), UpstreamUnavailable),
        (behaviours.cut(100_000, reset=True), UpstreamUnavailable),
        (behaviours.stall(100_000), UpstreamUnavailable),
        (behaviours.status(200, b""), UpstreamMisbehaved),
    ],
    ids=[
        "endless",
        "announced huge",
        "long",
        "long in chunks",
        "long to the end",
        "short in chunks",
        "short to the end",
        "short",
        "cut",
        "reset",
        "stalled",
        "empty",
    ],
)
async def test_promise_29_bodies_of_the_wrong_length_end_at_the_declared_size(
    behaviour: Behaviour, expected: type[UpstreamError]
) -> None:
    """The descriptor's size is the measure: never a byte more than it is handed on, and never an orderly end with fewer."""
    async with Registry() as registry:
        blob = registry.blob("team/app", DATA)
        fault = registry.on(when.blob("GET"), behaviour)
        outcome = await asyncio.wait_for(stream(registry, blob), 10)
        assert isinstance(outcome.error, expected)
        assert len(outcome.data) <= len(DATA)
        assert fault.fired == 1


@pytest.mark.parametrize(
    "content_range",
    ["bytes 0-99999/300000", "bytes 100001-299999/300000", "bytes 100000-299999/400000", "bytes */300000", "items 1-2/3", ""],
)
async def test_promise_29_a_206_must_continue_where_it_was_asked_to(content_range: str) -> None:
    """Bytes of another place are refused; the right Content-Range passes."""
    async with Registry() as registry:
        blob = registry.blob("team/app", DATA)
        honest = await stream(registry, blob, 100_000)
        assert honest == Outcome(DATA[100_000:], None)
        fault = registry.on(when.blob("GET"), behaviours.header("Content-Range", content_range))
        outcome = await stream(registry, blob, 100_000)
        assert outcome.error is not None
        assert outcome.data == b""
        assert fault.fired >= 1


async def test_promise_29_a_416_starts_again() -> None:
    """A registry that refuses the Range gives the blob from its beginning."""
    async with Registry() as registry, client_of(registry) as client:
        blob = registry.blob("team/app", DATA)
        fault = registry.on(when.blob("GET") & when.header("Range"), behaviours.status(416))
        cut = registry.on(when.blob("GET"), behaviours.cut(100_000), times=1)
        assert await download(client, REPOSITORY, blob, attempts=4) == DATA
        assert fault.fired >= 1
        assert cut.fired == 1


async def test_promise_29_a_206_that_nobody_asked_for_is_refused() -> None:
    """A partial answer to a whole request is no blob."""
    async with Registry() as registry:
        blob = registry.blob("team/app", DATA)

        async def partial(seen: Seen, following: Next) -> Answer:
            seen.headers["Range"] = "bytes=0-99999"
            return await following()

        fault = registry.on(when.blob("GET"), partial)
        outcome = await stream(registry, blob)
        assert outcome.error is not None
        assert fault.fired == 1


async def test_promise_30_a_wrong_body_of_the_right_length_is_never_a_manifest() -> None:
    """One flipped bit, first, middle or last, and a manifest asked by digest is refused."""
    async with Registry() as registry, client_of(registry) as client:
        image = registry.image("team/app", "1.0")
        for position in (0, len(image.body) // 2, -1):
            fault = registry.on(when.manifest("GET"), behaviours.flip(position))
            with pytest.raises(UpstreamMisbehaved):
                await client.manifest(REPOSITORY, image.digest)
            assert fault.fired == 1
            fault.off()
        assert (await client.manifest(REPOSITORY, image.digest)).body == image.body


async def test_promise_30_a_web_page_is_never_a_manifest() -> None:
    """A login page with status 200 is an outage or misbehaviour, not an answer."""
    async with Registry() as registry, client_of(registry, retries=0) as client:
        image = registry.image("team/app", "1.0")
        fault = registry.on(when.registry(), behaviours.html())
        with pytest.raises((UpstreamUnavailable, UpstreamMisbehaved)):
            await client.manifest(REPOSITORY, "1.0")
        with pytest.raises((UpstreamUnavailable, UpstreamMisbehaved)):
            await download(client, REPOSITORY, image.layers[0])
        with pytest.raises((UpstreamUnavailable, UpstreamMisbehaved)):
            await client.tags(REPOSITORY)
        assert await client.head(REPOSITORY, "1.0") is None
        assert fault.fired >= 4


# -- 32: slowness --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "behaviour", [behaviours.silence(), behaviours.stall(0), behaviours.stall(100)], ids=["no head", "no body", "half a body"]
)
async def test_promise_32_a_stalled_manifest_times_out(behaviour: Behaviour) -> None:
    """Silence before the head or within the body is an outage after the set time."""
    async with Registry() as registry, client_of(registry, retries=0, header_timeout=0.5, stall_timeout=0.5) as client:
        image = registry.image("team/app", "1.0")
        fault = registry.on(when.manifest("GET"), behaviour, times=1)
        started = time.monotonic()
        with pytest.raises(UpstreamUnavailable):
            await client.manifest(REPOSITORY, "1.0")
        assert time.monotonic() - started < 2
        assert fault.fired == 1
        assert (await client.manifest(REPOSITORY, "1.0")).digest == image.digest


async def test_promise_32_a_dripping_manifest_ends_with_the_request_timeout() -> None:
    """An upstream that sends a byte now and then, never silent for long, does not hold a request beyond its time."""
    async with Registry() as registry, client_of(registry, limits=Limits(request_timeout=0.5), retries=0) as client:
        registry.image("team/app", "1.0")
        fault = registry.on(when.manifest("GET"), behaviours.drip(1, 0.05))
        with pytest.raises(UpstreamUnavailable):
            await asyncio.wait_for(client.manifest(REPOSITORY, "1.0"), 3)
        assert fault.fired == 1


async def test_promise_32_a_stalled_token_endpoint_times_out() -> None:
    """The token endpoint is bound by the same times."""
    async with Registry() as registry, client_of(registry, retries=0, header_timeout=0.5) as client:
        image = registry.image("team/app", "1.0")
        TokenService(registry).guard(registry)
        fault = registry.on(when.path("/token"), behaviours.silence(), times=1)
        with pytest.raises(UpstreamUnavailable):
            await asyncio.wait_for(client.manifest(REPOSITORY, "1.0"), 3)
        assert fault.fired == 1
        assert (await client.manifest(REPOSITORY, "1.0")).digest == image.digest


async def test_promise_32_a_stalled_blob_leaves_others_unaffected() -> None:
    """While blobs hang, manifests and other blobs of the same upstream are answered."""
    async with Registry() as registry, client_of(registry, connections=4, retries=0) as client:
        image = registry.image("team/app", "1.0", layers=2)
        event = asyncio.Event()
        slow = registry.on(when.blob("GET", image.layers[0].digest), behaviours.stall(10, event))
        waiting = [asyncio.create_task(download(client, REPOSITORY, image.layers[0])) for _ in range(2)]
        while slow.fired < 2:
            await asyncio.sleep(0.001)
        assert (await asyncio.wait_for(client.manifest(REPOSITORY, "1.0"), 2)).digest == image.digest
        assert await asyncio.wait_for(download(client, REPOSITORY, image.layers[1]), 2) == image.blobs[2].data
        assert not any(task.done() for task in waiting)
        event.set()
        assert await asyncio.gather(*waiting) == [image.blobs[1].data] * 2


# -- 33: refusals that differ --------------------------------------------------------------------------------------

DENIED, ABSENT, OUTAGE = UpstreamDenied, UpstreamAbsent, UpstreamUnavailable


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        (behaviours.refuse(401, "UNAUTHORIZED", "authentication required"), DENIED),
        (behaviours.refuse(403, "DENIED", "requested access to the resource is denied"), DENIED),
        (behaviours.status(403, b""), DENIED),
        (behaviours.refuse(404, "MANIFEST_UNKNOWN", "manifest unknown"), ABSENT),
        (behaviours.refuse(404, "NAME_UNKNOWN", "repository unknown"), ABSENT),
        (behaviours.status(404, "manifest for x not found"), ABSENT),
        (behaviours.status(404, b""), ABSENT),
        (behaviours.refuse(429, "TOOMANYREQUESTS", "slow down"), OUTAGE),
        (behaviours.html(429), OUTAGE),
        (behaviours.status(429, "Ref A: 123"), OUTAGE),
        (behaviours.status(500, b""), OUTAGE),
        (behaviours.html(502), OUTAGE),
        (behaviours.status(503, b""), OUTAGE),
        (behaviours.status(504, b""), OUTAGE),
        (behaviours.hang_up(), OUTAGE),
        (behaviours.reset(), OUTAGE),
    ],
    ids=lambda value: None,
)
async def test_promise_33_statuses_have_distinct_meanings(behaviour: Behaviour, expected: type[UpstreamError]) -> None:
    """Denied, absent and outage are told apart by the status, whatever the body; afterwards the upstream answers as before."""
    async with Registry() as registry, client_of(registry, retries=0) as client:
        image = registry.image("team/app", "1.0")
        fault = registry.on(when.manifest(), behaviour)
        with pytest.raises(expected) as caught:
            await client.manifest(REPOSITORY, "1.0")
        assert str(caught.value)
        assert "\n" not in str(caught.value)
        with pytest.raises(expected):
            await client.manifest(REPOSITORY, image.digest)
        fault.off()
        assert (await client.manifest(REPOSITORY, "1.0")).digest == image.digest
        assert fault.fired >= 2


async def test_promise_33_an_upstream_that_is_down_is_an_outage() -> None:
    """Refused connections and names that do not resolve are outages; when it is back, it answers."""
    async with Registry() as registry, client_of(registry, retries=0) as client:
        image = registry.image("team/app", "1.0")
        await registry.stop()
        with pytest.raises(UpstreamUnavailable, match="refuses"):
            await client.head(REPOSITORY, "1.0")
        await registry.start()
        assert await client.head(REPOSITORY, "1.0") == image.digest


async def test_promise_33_tls_failures_are_outages(authority: Authority, tmp_path: Path) -> None:
    """An unknown authority, a certificate for another name, plain HTTP on an https port: outages, nothing is sent."""
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    ca = str(authority.file(tmp_path))
    async with (
        Registry(tls=authority.server()) as registry,
        Registry(tls=authority.server("other.test")) as misnamed,
        Registry() as plain,
    ):
        image = registry.image("team/app", "1.0")
        broken: list[tuple[Registry, dict[str, Any]]] = [
            (registry, {"ca": str(Authority().file(stranger))}),
            (misnamed, {"ca": ca}),
            (plain, {"ca": ca, "url": plain.url.replace("http:", "https:")}),
        ]
        for target, settings in broken:
            async with client_of(target, retries=0, **settings) as client:
                with pytest.raises(UpstreamUnavailable, match="TLS"):
                    await client.manifest(REPOSITORY, "1.0")
            assert target.requests == []
        async with client_of(registry, ca=ca) as client:
            assert (await client.manifest(REPOSITORY, "1.0")).digest == image.digest


async def test_promise_33_a_client_certificate_is_shown(authority: Authority, tmp_path: Path) -> None:
    """A registry that demands a certificate gets it; without one it is an outage."""
    ca = str(authority.file(tmp_path))
    certificate, key = authority.client(tmp_path)
    async with Registry(tls=authority.demanding()) as registry:
        image = registry.image("team/app", "1.0")
        async with client_of(registry, ca=ca, retries=0) as client:
            with pytest.raises(UpstreamUnavailable):
                await client.manifest(REPOSITORY, "1.0")
        async with client_of(registry, ca=ca, client_certificate={"cert": str(certificate), "key": str(key)}) as client:
            assert (await client.manifest(REPOSITORY, "1.0")).digest == image.digest


def in_seconds(seconds: int) -> str:
    """An HTTP date."""
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        (lambda: "17", 17, 17),
        (lambda: "100000", 60, 60),
        (lambda: in_seconds(30), 25, 31),
        (lambda: in_seconds(-30), 0, 0),
        (lambda: "Wed, 21 Oct 2099 07:28:00 GMT", 60, 60),
    ],
    ids=["seconds", "above the cap", "date", "past date", "far date"],
)
async def test_promise_33_retry_after_is_honoured(status: int, value: Callable[[], str], least: float, most: float) -> None:
    """The hint is passed on, in seconds or as a date, up to the cap, and the request is not repeated before."""
    async with Registry() as registry, client_of(registry, retries=0) as client:
        registry.image("team/app", "1.0")
        fault = registry.on(when.manifest(), behaviours.status(status, headers={"Retry-After": value()}))
        with pytest.raises(UpstreamUnavailable) as caught:
            await client.manifest(REPOSITORY, "1.0")
        assert caught.value.retry_after is not None
        assert least <= caught.value.retry_after <= most
        assert fault.fired == 1


@pytest.mark.parametrize("value", ["-5", "soon", "10.3ms", "", "1e9", "9" * 400])
async def test_promise_33_a_nonsensical_retry_after_is_no_hint(value: str) -> None:
    """What is neither seconds nor a date is ignored."""
    async with Registry() as registry, client_of(registry, retries=0) as client:
        registry.image("team/app", "1.0")
        fault = registry.on(when.manifest(), behaviours.status(429, headers={"Retry-After": value}))
        with pytest.raises(UpstreamUnavailable) as caught:
            await client.manifest(REPOSITORY, "1.0")
        assert caught.value.retry_after is None or 0 <= caught.value.retry_after <= 60
        assert fault.fired == 1


async def test_promise_33_a_short_retry_after_is_waited_for() -> None:
    """A hint that fits into the request's time is obeyed, and the retry succeeds."""
    async with Registry() as registry, client_of(registry, retries=2) as client:
        image = registry.image("team/app", "1.0")
        fault = registry.on(when.manifest(), behaviours.status(429, headers={"Retry-After": "1"}), times=1)
        started = time.monotonic()
        assert (await client.manifest(REPOSITORY, "1.0")).digest == image.digest
        assert time.monotonic() - started >= 1
        assert fault.fired == 1


async def test_promise_33_outages_are_tried_again_and_refusals_are_not() -> None:
    """A 503 that passes is not noticed; 403 and 404 are asked once."""
    async with Registry() as registry, client_of(registry, retries=3) as client:
        image = registry.image("team/app", "1.0")
        outage = registry.on(when.manifest(), behaviours.status(503), times=2)
        assert (await client.manifest(REPOSITORY, "1.0")).digest == image.digest
        assert outage.fired == 2
        for code in (403, 404):
            fault = registry.on(when.manifest(), behaviours.status(code), times=5)
            with pytest.raises((UpstreamDenied, UpstreamAbsent)):
                await client.manifest(REPOSITORY, "1.0")
            assert fault.fired == 1
            fault.off()


@pytest.mark.parametrize("code", [401, 429, 500, 503])
async def test_promise_33_referrers_that_cannot_be_asked_are_not_none(code: int) -> None:
    """An outage or refusal of the referrers API is an error, never an empty list."""
    async with Registry() as registry, client_of(registry, retries=0) as client:
        image = registry.image("team/app", "1.0")
        fault = registry.on(when.referrers(), behaviours.status(code))
        with pytest.raises((UpstreamUnavailable, UpstreamDenied)):
            await client.referrers(REPOSITORY, image.digest)
        fault.off()
        assert (await client.referrers(REPOSITORY, image.digest)).entries == ()
        assert fault.fired >= 1


@pytest.mark.parametrize(
    "behaviour", [behaviours.status(500), behaviours.hang_up(), behaviours.html()], ids=["500", "hang up", "html"]
)
async def test_promise_33_a_fallback_tag_that_cannot_be_asked_is_not_none(behaviour: Behaviour) -> None:
    """Without the API an outage at the fallback tag is an error, too."""
    async with Registry(referrers_api=False) as registry, client_of(registry, retries=0) as client:
        image = registry.image("team/app", "1.0")
        tag = images.referrers_tag(image.digest)
        fault = registry.on(when.manifest(None, tag), behaviour)
        with pytest.raises((UpstreamUnavailable, UpstreamMisbehaved)):
            await client.referrers(REPOSITORY, image.digest)
        assert fault.fired >= 1


async def test_promise_33_secrets_stay_out_of_messages() -> None:
    """An upstream that repeats the credentials in its error body does not get them into our message."""
    async with Registry() as registry, client_of(registry, auth=SECRET, retries=0) as client:
        registry.image("team/app", "1.0")

        async def echo(seen: Seen, following: Next) -> Answer:
            if credentials(seen) is None:
                return Answer(401, CIMultiDict({"WWW-Authenticate": 'Basic realm="x"'}))
            return Answer(403, body=f"you sent {seen.authorization} to https://u:p@h/x?sig=1".encode())

        fault = registry.on(when.manifest(), echo)
        with pytest.raises(UpstreamDenied) as caught:
            await client.manifest(REPOSITORY, "1.0")
        assert "dXNlcjpzZWNyZXQ" not in str(caught.value)
        assert "sig=1" not in str(caught.value)
        assert fault.fired >= 2
