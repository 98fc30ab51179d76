"""What the rest of Tagstone asks for: hints, manifests, blobs, tags and referrers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web

from proxy.content import ReferrersSource
from proxy.errors import UpstreamAbsent, UpstreamDenied, UpstreamError, UpstreamMisbehaved, UpstreamUnavailable
from proxy.settings import Limits, Upstream
from proxy.upstream.client import TagList, Upstreams
from proxy.upstream.listings import OCI_INDEX, referrers_tag
from storage.digest import Digest
from storage.records import Descriptor
from storage.reference import Repository
from tests.unit.upstream.servers import BLOB, LAYER, MANIFEST, MANIFEST_TYPE, REPOSITORY, Handler, client, manifest, raw, serve

DIGEST = Digest.of(MANIFEST)
SHA512 = Digest.of(MANIFEST, "sha512")
WRONG = Digest.of(b"wrong")


def fixed(*answers: web.Response | Mapping[str, Any]) -> Handler:
    """These answers one after the other, the last again and again; mappings are arguments of a response."""
    left = list(answers)

    async def handle(request: web.Request) -> web.Response:
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, web.Response):  # which can be sent only once
            return web.Response(status=answer.status, body=answer.body, headers=answer.headers)
        return web.Response(**answer)

    return handle


async def test_building_and_membership() -> None:
    """Known registries are in it; an unknown one is refused; a url that is none is an error at once."""
    upstreams = Upstreams({"docker.io": Upstream(), "reg.example": Upstream()}, Limits(), user_agent="x")
    assert "docker.io" in upstreams
    assert "ghcr.io" not in upstreams
    assert [each.name for each in upstreams.status()] == ["docker.io", "reg.example"]
    with pytest.raises(UpstreamDenied, match=r"ghcr\.io is not among the configured upstreams"):
        await upstreams.head(Repository.of("ghcr.io", "a/b"), "1.0")
    with pytest.raises(ValueError, match="the url of upstream x"):
        Upstreams({"x": Upstream(url="nonsense")}, Limits(), user_agent="x")
    await upstreams.close()


# -- HEAD -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "hint"),
    [(str(DIGEST), DIGEST), (str(SHA512), SHA512), (None, None), ("", None), ("sha256:00", None), (f'"{DIGEST}"', None)],
)
async def test_the_hint_of_a_head(header: str | None, hint: Digest | None) -> None:
    """A proper digest in the header, else nothing; one request."""
    answer = manifest() if header is None else manifest(Docker_Content_Digest=header)
    async with serve(fixed(answer)) as server, client(server) as upstreams:
        assert await upstreams.head(REPOSITORY, "1.0") == hint
        assert server.paths() == ["HEAD /v2/team/app/manifests/1.0"]


@pytest.mark.parametrize(
    ("header", "at"),
    [
        ("Wed, 21 Oct 2015 07:28:00 GMT", datetime(2015, 10, 21, 7, 28, tzinfo=UTC)),
        ("Wed, 21 Oct 2015 07:28:00 +0200", datetime(2015, 10, 21, 5, 28, tzinfo=UTC)),
        ("Wed, 21 Oct 2015 07:28:00", None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 -0100", None),
        ("Thu, 01 Jan 1969 00:00:00 GMT", None),
        ("tomorrow", None),
    ],
)
async def test_the_time_at_the_upstream(header: str, at: datetime | None) -> None:
    """As its header says, where that is a time that a clock may show; anything else is none, and no error."""
    async with serve(fixed(manifest(Docker_Content_Digest=str(DIGEST), Date=header))) as server, client(server) as upstreams:
        assert (await upstreams.named(REPOSITORY, "1.0")).at == at
        assert (await upstreams.manifest(REPOSITORY, "1.0")).at == at


@pytest.mark.parametrize("status", [204, 405, 406, 410, 501])
async def test_a_registry_that_does_not_answer_head(status: int) -> None:
    """No hint, no error: the caller asks by GET."""
    async with serve(fixed({"status": status})) as server, client(server) as upstreams:
        assert await upstreams.head(REPOSITORY, "1.0") is None
        assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_a_refusal_of_head_alone(status: int) -> None:
    """GET decides: it may be had by GET, or is denied."""
    get: web.Response | None = manifest()

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.method == "GET" and request.path != "/v2/" and get is not None:
            return manifest()
        return web.Response(status=status if status != 400 or request.method == "HEAD" else 403)

    async with serve(handle) as server, client(server) as upstreams:
        assert await upstreams.head(REPOSITORY, "1.0") is None
        get = None
        with pytest.raises(UpstreamDenied):
            await upstreams.head(REPOSITORY, "1.0")


async def test_a_head_without_enough_scope_is_denied_at_once() -> None:
    """The challenge says so itself: no GET is needed."""

    async def handle(request: web.Request) -> web.Response:
        if request.path == "/token":
            return web.json_response({"token": "t"})
        return web.Response(status=401, headers={"WWW-Authenticate": 'Bearer realm="/token",error="insufficient_scope"'})

    async with serve(handle) as server, client(server) as upstreams:
        with pytest.raises(UpstreamDenied):
            await upstreams.head(REPOSITORY, "1.0")
        assert [each.method for each in server.requests] == ["HEAD", "GET", "HEAD"]


async def test_heads_of_what_is_not_there() -> None:
    """Absence and outage are told apart."""
    async with serve(fixed({"status": 404}, {"status": 503})) as server, client(server) as upstreams:
        with pytest.raises(UpstreamAbsent, match=r"registry\.test/team/app:1\.0 does not exist upstream"):
            await upstreams.head(REPOSITORY, "1.0")
        with pytest.raises(UpstreamUnavailable):
            await upstreams.head(REPOSITORY, "1.0")


async def test_promise_19_names_are_checked_before_they_are_sent() -> None:
    """What is no tag never becomes part of a URL."""
    async with serve(fixed(manifest())) as server, client(server) as upstreams:
        for bad in ("../x", "a b", "", "x?y"):
            with pytest.raises(ValueError, match="is not a tag"):
                await upstreams.head(REPOSITORY, bad)
            with pytest.raises(ValueError, match="is not a tag"):
                await upstreams.manifest(REPOSITORY, bad)
        assert server.requests == []


# -- manifests ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", [None, DIGEST, SHA512, "nonsense"])
async def test_a_manifest_by_tag(header: Digest | str | None) -> None:
    """Raw bytes, their SHA-256, the media type alone and in lower case; a true header of another algorithm is fine."""
    headers = {"Content-Type": f"{MANIFEST_TYPE.upper()}; charset=utf-8"}
    if header is not None:
        headers["Docker-Content-Digest"] = str(header)
    async with serve(fixed({"body": MANIFEST, "headers": headers})) as server, client(server) as upstreams:
        fetched = await upstreams.manifest(REPOSITORY, "1.0")
        assert (fetched.body, fetched.digest, fetched.media_type) == (MANIFEST, DIGEST, MANIFEST_TYPE)


@pytest.mark.parametrize("header", [WRONG, Digest.of(b"wrong", "sha512")])
async def test_promise_09_a_lying_digest_is_refused(header: Digest) -> None:
    """By tag the header must agree with the bytes, in its own algorithm."""
    async with serve(fixed(manifest(Docker_Content_Digest=str(header)))) as server, client(server) as upstreams:
        with pytest.raises(UpstreamMisbehaved, match=r"hash to sha.*calls them sha"):
            await upstreams.manifest(REPOSITORY, "1.0")


@pytest.mark.parametrize("digest", [DIGEST, SHA512])
async def test_promise_17_a_manifest_by_digest(digest: Digest) -> None:
    """It hashes to what it was asked for, in its algorithm, whatever the header says; else it is refused."""
    async with serve(fixed(manifest(Docker_Content_Digest=str(WRONG)))) as server, client(server) as upstreams:
        assert (await upstreams.manifest(REPOSITORY, digest)).digest == digest
        with pytest.raises(UpstreamMisbehaved, match="the bytes of"):
            await upstreams.manifest(REPOSITORY, replace(digest, hex=digest.hex[::-1]))
        assert server.paths()[0] == f"GET /v2/team/app/manifests/{digest}"


async def test_a_web_page_in_place_of_a_manifest() -> None:
    """A login page is an outage, not a lie, by tag and by digest."""
    page = {"text": "<html>log in", "content_type": "text/html"}
    async with serve(fixed(page)) as server, client(server) as upstreams:
        for reference in ("1.0", DIGEST):
            with pytest.raises(UpstreamUnavailable, match="sent a web page instead of"):
                await upstreams.manifest(REPOSITORY, reference)


async def test_large_manifests_and_their_limit() -> None:
    """Hashed in a thread where they are large; the caller's limit counts."""
    body = b" " * (200 << 10)
    async with serve(fixed(manifest(body))) as server, client(server) as upstreams:
        assert (await upstreams.manifest(REPOSITORY, "1.0")).digest == Digest.of(body)
        with pytest.raises(UpstreamMisbehaved, match="more than the 100 that are allowed"):
            await upstreams.manifest(REPOSITORY, "1.0", limit=100)


async def test_a_missing_content_type() -> None:
    """It is empty, not guessed."""
    async with raw(b"HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n" + MANIFEST) as url, client(url) as upstreams:
        assert (await upstreams.manifest(REPOSITORY, "1.0")).media_type == ""


# -- blobs ----------------------------------------------------------------------------------------------------------


async def read(upstreams: Upstreams, offset: int = 0, descriptor: Descriptor = LAYER) -> tuple[int, bytes]:
    """Where a blob's answer starts, and its bytes."""
    async with upstreams.blob(REPOSITORY, descriptor, offset) as stream:
        return stream.offset, b"".join([piece async for piece in stream.chunks()])


async def test_a_whole_blob() -> None:
    """One GET, no HEAD, no Range."""
    async with serve(fixed({"body": BLOB})) as server, client(server) as upstreams:
        assert await read(upstreams) == (0, BLOB)
        assert server.paths() == [f"GET /v2/team/app/blobs/{LAYER.digest}"]
        assert "Range" not in server.requests[0].headers


async def test_an_empty_blob() -> None:
    """Nothing is fine when nothing is due."""
    empty = Descriptor("x/y", Digest.of(b""), 0)
    async with serve(fixed({"body": b""})) as server, client(server) as upstreams:
        assert await read(upstreams, 0, empty) == (0, b"")


@pytest.mark.parametrize("total", [str(len(BLOB)), "*"])
async def test_resuming(total: str) -> None:
    """206 with a matching range continues where it was asked to."""
    answer = {"status": 206, "body": BLOB[1000:], "headers": {"Content-Range": f"bytes 1000-{len(BLOB) - 1}/{total}"}}
    async with serve(fixed(answer)) as server, client(server) as upstreams:
        assert await read(upstreams, 1000) == (1000, BLOB[1000:])
        assert server.requests[0].headers["Range"] == "bytes=1000-"


async def test_a_range_that_is_ignored() -> None:
    """200 means that the whole blob comes, from its start."""
    async with serve(fixed({"body": BLOB})) as server, client(server) as upstreams:
        assert await read(upstreams, 1000) == (0, BLOB)


async def test_a_range_that_cannot_be_satisfied() -> None:
    """416 means to start again, without a range."""
    async with serve(fixed({"status": 416}, {"body": BLOB})) as server, client(server) as upstreams:
        assert await read(upstreams, 1000) == (0, BLOB)
        assert [each.headers.get("Range") for each in server.requests] == ["bytes=1000-", None]


@pytest.mark.parametrize(
    "content_range",
    [None, "", "bytes 999-4095/4096", "bytes 1000-4094/4096", "bytes 1000-4095/4097", "items 1000-4095/4096", "bytes */4096"],
)
async def test_a_206_with_another_range(content_range: str | None) -> None:
    """Bytes from elsewhere are never taken for a continuation."""
    headers = {} if content_range is None else {"Content-Range": content_range}
    async with serve(fixed({"status": 206, "body": BLOB[1000:], "headers": headers})) as server, client(server) as upstreams:
        with pytest.raises(UpstreamMisbehaved, match="another range"):
            await read(upstreams, 1000)


async def test_a_206_that_nobody_asked_for() -> None:
    """A part is never a whole; its bytes do not end in the message."""
    answer = {"status": 206, "body": BLOB, "headers": {"Content-Range": f"bytes 0-{len(BLOB) - 1}/{len(BLOB)}"}}
    async with serve(fixed(answer)) as server, client(server) as upstreams:
        with pytest.raises(UpstreamUnavailable, match=r"registry\.test answered 206 for blob sha256:.{12} of registry"):
            await read(upstreams)


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (b"Content-Length: 4095\r\n\r\n", UpstreamMisbehaved, "announced 4095 bytes of blob .*, 4096 are due"),
        (b"Content-Length: 4097\r\n\r\n", UpstreamMisbehaved, "announced 4097"),
        (b"Content-Length: 9\r\nContent-Type: text/html\r\n\r\n<html></>", UpstreamUnavailable, "sent a web page"),
        (b"\r\n" + BLOB + b"x", UpstreamMisbehaved, "more bytes of blob .* than its descriptor says"),
        (b"\r\n" + BLOB[:-1], UpstreamUnavailable, "cut blob .* short by 1 bytes"),
        (b"Content-Length: 4096\r\n\r\n" + BLOB[:-1], UpstreamUnavailable, "cut its answer short"),
        (b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", UpstreamUnavailable, "cut blob .* short by 4095"),
        (b"Content-Encoding: gzip\r\nContent-Length: 4096\r\n\r\n" + BLOB, UpstreamMisbehaved, "encoded body"),
    ],
)
async def test_promises_28_29_blobs_of_the_wrong_length(answer: bytes, error: type[UpstreamError], words: str) -> None:
    """Short bodies can be resumed, long and encoded ones are lies."""
    async with raw(b"HTTP/1.1 200 OK\r\n" + answer) as url, client(url) as upstreams:
        with pytest.raises(error, match=words):
            await read(upstreams)


async def test_promise_32_a_blob_that_stalls_and_one_that_trickles() -> None:
    """Silence ends it, and so does a rate that is none; a slow reader of ours does not."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 4096\r\n\r\n"
    async with raw(head + BLOB[:10], hold=True) as url, client(url, stall_timeout=0.1) as upstreams:
        with pytest.raises(UpstreamUnavailable, match=r"fell silent in the middle of its answer for 0\.1 s"):
            await read(upstreams)
    async with raw(head, *(b"x", 0.02) * 150) as url, client(url, stall_timeout=0.8, min_rate=1000) as upstreams:
        with pytest.raises(UpstreamUnavailable, match="slower than 1000 bytes a second"):
            await read(upstreams)
    async with raw(head, *(b"x" * 1024, 0.5) * 4) as url, client(url, stall_timeout=1.2, min_rate=1000) as upstreams:
        assert (await read(upstreams))[1] == b"x" * 4096


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, UpstreamUnavailable),
        (401, UpstreamDenied),
        (403, UpstreamDenied),
        (404, UpstreamAbsent),
        (500, UpstreamUnavailable),
    ],
)
async def test_blobs_that_are_refused(status: int, error: type[UpstreamError]) -> None:
    """Each refusal as what it is."""
    async with serve(fixed({"status": status})) as server, client(server) as upstreams:
        with pytest.raises(error):
            await read(upstreams)


async def test_a_blob_that_nobody_reads_to_its_end() -> None:
    """Leaving early closes the connection and frees its place."""
    async with serve(fixed({"body": BLOB})) as server, client(server, connections=1) as upstreams:
        for _ in range(3):
            async with upstreams.blob(REPOSITORY, LAYER) as stream:
                async for _piece in stream.chunks():
                    break
        assert await read(upstreams) == (0, BLOB)


# -- tags -----------------------------------------------------------------------------------------------------------


def pages(*answers: tuple[object, str | None]) -> Handler:
    """Pages of tags with the target of the link to the next."""
    left = list(answers)

    async def handle(request: web.Request) -> web.Response:
        tags, link = left.pop(0) if len(left) > 1 else left[0]
        headers = {} if link is None else {"Link": f'<{link}>; rel="next"'}
        return web.Response(text=json.dumps({"name": "x", "tags": tags}), headers=headers)

    return handle


async def test_tags_of_many_pages() -> None:
    """Links are followed verbatim, relative and absolute; tags are sorted, each once; text/plain is fine."""
    handler = pages((["b", "a"], "/v2/team/app/tags/list?n=100&next=c%3D1%2B"), (["c", "a", "bad tag"], "?x=2"), (None, None))
    async with serve(handler) as server, client(server) as upstreams:
        assert await upstreams.tags(REPOSITORY) == TagList(("a", "b", "c"), complete=True)
        assert [each.raw_path for each in server.requests] == [
            "/v2/team/app/tags/list?n=100",
            "/v2/team/app/tags/list?n=100&next=c%3D1%2B",
            "/v2/team/app/tags/list?x=2",
        ]


async def test_tags_without_end() -> None:
    """Pages, circles and bytes are bounded; what came is given, marked as incomplete."""
    endless = pages((["a"], "?1"), (["b"], "?2"), (["c"], "?3"))
    async with serve(endless) as server, client(server, limits={"tag_pages": 2}) as upstreams:
        assert await upstreams.tags(REPOSITORY) == TagList(("a", "b"), complete=False)
    async with serve(pages((["a"], "?1"), (["b"], "?1"))) as server, client(server) as upstreams:
        assert await upstreams.tags(REPOSITORY) == TagList(("a", "b"), complete=False)
        assert len(server.requests) == 2
    count = iter(range(1000))

    async def many(request: web.Request) -> web.Response:
        body = json.dumps({"tags": ["x" * 100] * 9})
        return web.Response(text=body, headers={"Link": f'<?{next(count)}>; rel="next"'})

    async with serve(many) as server, client(server, limits={"manifest_size": 1000}) as upstreams:
        assert await upstreams.tags(REPOSITORY) == TagList(("x" * 100,), complete=False)
        assert len(server.requests) == 5


async def test_tags_that_take_too_long() -> None:
    """When the time is over in the middle, what came is given; when nothing came, it is an outage."""

    async def slow(request: web.Request) -> web.Response:
        if request.query_string != "n=100":
            await asyncio.sleep(3)
        return web.json_response({"tags": ["a"]}, headers={"Link": '<?2>; rel="next"'})

    async with serve(slow) as server, client(server, limits={"request_timeout": 0.8}) as upstreams:
        assert await upstreams.tags(REPOSITORY) == TagList(("a",), complete=False)

    broken = fixed({"text": '{"tags":["a"]}', "headers": {"Link": '<?2>; rel="next"'}}, {"status": 503})
    async with serve(broken) as server, client(server) as upstreams:
        with pytest.raises(UpstreamUnavailable, match="answered 503"):
            await upstreams.tags(REPOSITORY)


@pytest.mark.parametrize("link", ["http://127.0.0.2/v2/team/app/tags/list", "//127.0.0.2/x", "https://127.0.0.1/x"])
async def test_promise_24_links_to_elsewhere_are_refused(link: str) -> None:
    """The next page is on the same origin, or it is none."""
    async with serve(pages((["a"], link))) as server, client(server) as upstreams:
        with pytest.raises(UpstreamMisbehaved, match="another host"):
            await upstreams.tags(REPOSITORY)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"status": 404}, UpstreamAbsent),
        ({"status": 403}, UpstreamDenied),
        ({"text": "<html>", "content_type": "text/html"}, UpstreamUnavailable),
        ({"text": '{"tags": "x"}'}, UpstreamUnavailable),
        ({"text": '{"tags": [' + '"x",' * 20_000 + '"y"'}, UpstreamUnavailable),
    ],
)
async def test_tags_that_cannot_be_had(answer: dict[str, Any], error: type[UpstreamError]) -> None:
    """Each refusal as what it is; another document is an outage, not an empty list."""
    async with serve(fixed(answer)) as server, client(server) as upstreams:
        with pytest.raises(error):
            await upstreams.tags(REPOSITORY)


# -- referrers ------------------------------------------------------------------------------------------------------


def index(*digests: Digest, link: str | None = None, status: int = 200) -> web.Response:
    """An index of referrers."""
    entries = [{"mediaType": MANIFEST_TYPE, "digest": str(digest), "size": 7, "artifactType": "a/t"} for digest in digests]
    body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
    headers = {} if link is None else {"Link": f'<{link}>; rel="next"'}
    return web.Response(status=status, body=body, content_type=OCI_INDEX, headers=headers)


ONE, TWO, THREE = (Digest.of(bytes([number])) for number in range(3))


async def test_referrers_by_the_api() -> None:
    """All pages, in order; an empty list is an answer."""
    async with serve(fixed(index(ONE, link="?2"), index(TWO))) as server, client(server) as upstreams:
        found = await upstreams.referrers(REPOSITORY, DIGEST)
        assert (found.source, [each.descriptor.digest for each in found.entries]) == (ReferrersSource.API, [ONE, TWO])
        assert server.paths()[0] == f"GET /v2/team/app/referrers/{DIGEST}"
        assert server.requests[0].headers["Accept"] == OCI_INDEX
    async with serve(fixed(index())) as server, client(server) as upstreams:
        found = await upstreams.referrers(REPOSITORY, DIGEST)
        assert (found.source, found.entries, len(server.requests)) == (ReferrersSource.API, (), 1)


async def test_referrers_are_bounded() -> None:
    """Entries over all pages, and circles."""
    handler = fixed(index(ONE, TWO, link="?2"), index(THREE, link="?2"))
    async with serve(handler) as server:
        async with client(server, limits={"referrers": 2}) as upstreams:
            found = await upstreams.referrers(REPOSITORY, DIGEST)
            assert (len(found.entries), found.complete) == (2, False)
            assert len(server.requests) == 1
        async with client(server) as upstreams:
            assert len((await upstreams.referrers(REPOSITORY, DIGEST)).entries) == 2
            assert len(server.requests) == 3


def no_api(api: Mapping[str, Any], fallback: web.Response | None) -> Handler:
    """A registry whose referrers API answers so, with this under the fallback tag."""

    async def handle(request: web.Request) -> web.Response:
        if "/referrers/" in request.path:
            return web.Response(**api)
        if request.path.endswith(f"/manifests/{referrers_tag(DIGEST)}") and fallback is not None:
            return fallback
        return web.Response(status=404)

    return handle


@pytest.mark.parametrize(
    "api",
    [
        {"status": 400},
        {"status": 404},
        {"status": 405},
        {"status": 406},
        {"status": 303, "headers": {"Location": "http://127.0.0.2:1/login"}},
        {"text": "<html>", "content_type": "text/html"},
        {"text": "{}", "content_type": "application/json"},
    ],
    ids=["400", "404", "405", "406", "303", "html", "json"],
)
async def test_without_the_api_the_fallback_tag_counts(api: dict[str, Any]) -> None:
    """Whatever says that there is no such API leads to the tag; nothing there means that there are none."""
    async with serve(no_api(api, index(ONE))) as server, client(server) as upstreams:
        found = await upstreams.referrers(REPOSITORY, DIGEST)
        assert (found.source, [each.descriptor.digest for each in found.entries]) == (ReferrersSource.TAG, [ONE])
    async with serve(no_api(api, None)) as server, client(server) as upstreams:
        assert (await upstreams.referrers(REPOSITORY, DIGEST)).source is ReferrersSource.NONE


@pytest.mark.parametrize(
    ("api", "error"),
    [
        ({"status": 401}, UpstreamDenied),
        ({"status": 403}, UpstreamDenied),
        ({"status": 429}, UpstreamUnavailable),
        ({"status": 500}, UpstreamUnavailable),
        ({"status": 501}, UpstreamUnavailable),
        ({"status": 410}, UpstreamUnavailable),
        ({"text": "[]", "content_type": OCI_INDEX}, UpstreamMisbehaved),
    ],
)
async def test_promise_46_unknown_is_not_none(api: dict[str, Any], error: type[UpstreamError]) -> None:
    """A denial, an outage and nonsense never become an empty list, and are not papered over by the tag."""
    async with serve(no_api(api, index(ONE))) as server, client(server) as upstreams:
        with pytest.raises(error):
            await upstreams.referrers(REPOSITORY, DIGEST)


async def test_promise_46_a_list_that_breaks_off() -> None:
    """A further page that is refused makes the whole unknown."""
    async with serve(fixed(index(ONE, link="?2"), {"status": 404})) as server, client(server) as upstreams:
        with pytest.raises(UpstreamUnavailable, match="answered 404 for a further page"):
            await upstreams.referrers(REPOSITORY, DIGEST)


async def test_fallback_tags_that_are_no_lists() -> None:
    """The subject itself or another manifest means none; an index that cannot be read is an error."""
    for fallback in (manifest(), manifest(MANIFEST, OCI_INDEX)):
        async with serve(no_api({"status": 404}, fallback)) as server, client(server) as upstreams:
            assert (await upstreams.referrers(REPOSITORY, DIGEST)).source is ReferrersSource.NONE
    async with serve(no_api({"status": 404}, manifest(b"{", OCI_INDEX))) as server, client(server) as upstreams:
        with pytest.raises(UpstreamMisbehaved, match=r"referrers tag of .* is unreadable: it is not JSON"):
            await upstreams.referrers(REPOSITORY, DIGEST)
