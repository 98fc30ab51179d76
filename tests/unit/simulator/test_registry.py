"""The simulated registry, honest: it does what the specification says and records what it saw."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest

from storage.digest import Digest
from tests.simulator import images, when
from tests.simulator.behaviours import status
from tests.simulator.registry import Registry
from tests.simulator.server import Answer, Next, Seen, Site
from tests.simulator.tls import Authority
from tests.unit.simulator.conftest import Ask


async def test_manifest_by_tag_and_digest(registry: Registry, ask: Ask) -> None:
    """GET and HEAD of a manifest agree in everything but the body, by tag and by digest."""
    image = registry.image("team/app", "1.0", layers=2)
    base = f"{registry.url}/v2/team/app/manifests"
    by_tag, by_digest = await ask("GET", f"{base}/1.0"), await ask("GET", f"{base}/{image.digest}")
    head = await ask("HEAD", f"{base}/1.0")
    assert by_tag.body == by_digest.body == image.body
    assert head.body == b""
    assert dict(head.headers) == dict(by_tag.headers)
    assert head.headers["Docker-Content-Digest"] == str(image.digest)
    assert head.headers["Content-Length"] == str(len(image.body))


async def test_an_overwritten_tag_names_the_new_digest(registry: Registry, ask: Ask) -> None:
    """A tag can be overwritten, removed and deleted with its manifest."""
    one, two = registry.image("team/app", "1.0", seed="1"), registry.image("team/app", seed="2")
    url = f"{registry.url}/v2/team/app/manifests/1.0"
    assert (await ask("GET", url)).body == one.body
    registry.tag("team/app", "1.0", two.digest)
    assert (await ask("GET", url)).body == two.body
    registry.delete("team/app", two.digest)
    assert (await ask("GET", url)).status == 404
    registry.tag("team/app", "1.0", one.digest)
    registry.untag("team/app", "1.0")
    assert registry.tags("team/app") == {}
    assert (await ask("GET", url)).status == 404


async def test_unknown_names_are_404_with_the_codes_of_the_specification(registry: Registry, ask: Ask) -> None:
    """What is not there is a 404 with a code that says what is not there; writes are refused."""
    registry.image("team/app", "1.0")
    nothing = Digest.of(b"nothing")
    codes = {}
    for path in ("team/app/manifests/2.0", "no/app/manifests/1.0", f"team/app/blobs/{nothing}", "no/app/tags/list", "x"):
        got = await ask("GET", f"{registry.url}/v2/{path}")
        codes[path] = (got.status, json.loads(got.body)["errors"][0]["code"])
    assert list(codes.values()) == [
        (404, "MANIFEST_UNKNOWN"),
        (404, "NAME_UNKNOWN"),
        (404, "BLOB_UNKNOWN"),
        (404, "NAME_UNKNOWN"),
        (404, "NOT_FOUND"),
    ]
    assert (await ask("PUT", f"{registry.url}/v2/team/app/manifests/2.0", data=b"{}")).status == 405


@pytest.mark.parametrize(
    ("header", "code", "expected"),
    [
        ("bytes=0-", 206, slice(0, None)),
        ("bytes=10-19", 206, slice(10, 20)),
        ("bytes=990-2000", 206, slice(990, None)),
        ("bytes=1000-", 416, slice(0, 0)),
        ("lines=1-2", 200, slice(0, None)),
    ],
)
async def test_ranges(registry: Registry, ask: Ask, header: str, code: int, expected: slice) -> None:
    """A Range gives exactly its bytes, one past the end gives 416, another unit gives the whole."""
    data = images.noise("blob", 1000)
    blob = registry.blob("team/app", data)
    got = await ask("GET", f"{registry.url}/v2/team/app/blobs/{blob.digest}", headers={"Range": header})
    assert (got.status, got.body) == (code, data[expected])
    if code == 206:
        start, stop, _ = expected.indices(1000)
        assert got.headers["Content-Range"] == f"bytes {start}-{stop - 1}/1000"


async def test_tags_come_in_pages(registry: Registry, ask: Ask) -> None:
    """``n`` and ``last`` page through the tags, and Link leads from page to page."""
    image = registry.image("team/app")
    for tag in ("c", "a", "d", "b", "e"):
        registry.tag("team/app", tag, image.digest)
    pages, target = [], "/v2/team/app/tags/list?n=2"
    while target:
        got = await ask("GET", registry.url + target)
        pages.append(json.loads(got.body)["tags"])
        target = got.headers.get("Link", "").partition(">")[0].lstrip("<")
    assert pages == [["a", "b"], ["c", "d"], ["e"]]


async def test_referrers_are_listed_and_filtered(registry: Registry, ask: Ask) -> None:
    """The referrers API lists manifests by subject, with artifactType and annotations, and filters."""
    image = registry.image("team/app", "1.0")
    for kind in ("application/one", "application/two"):
        registry.refer("team/app", images.artifact(kind, [], subject=image.descriptor, annotations={"is": kind}))
    registry.manifest("team/app", b"no json at all")
    url = f"{registry.url}/v2/team/app/referrers/{image.digest}"
    everything = await ask("GET", url)
    one = await ask("GET", url + "?artifactType=application/one")
    assert everything.headers["Content-Type"] == images.OCI_INDEX
    assert [entry["artifactType"] for entry in json.loads(everything.body)["manifests"]] == ["application/one", "application/two"]
    assert [entry["annotations"] for entry in json.loads(one.body)["manifests"]] == [{"is": "application/one"}]
    assert one.headers["OCI-Filters-Applied"] == "artifactType"


async def test_without_the_api_the_fallback_tag_lists_referrers(ask: Ask) -> None:
    """A registry without the API answers 404, and every referrer is added to the index under the fallback tag."""
    async with Registry(referrers_api=False) as registry:
        image = registry.image("team/app", "1.0")
        for kind in ("application/one", "application/two"):
            registry.refer("team/app", images.artifact(kind, [], subject=image.descriptor))
        assert (await ask("GET", f"{registry.url}/v2/team/app/referrers/{image.digest}")).status == 404
        listed = await ask("GET", f"{registry.url}/v2/team/app/manifests/{images.referrers_tag(image.digest)}")
        assert [entry["artifactType"] for entry in json.loads(listed.body)["manifests"]] == ["application/one", "application/two"]


async def test_forged_content_is_served_under_the_old_digest(registry: Registry, ask: Ask) -> None:
    """Forged manifests and blobs keep their name and claim it in the header."""
    image = registry.image("team/app", "1.0")
    registry.forge("team/app", image.digest, b"{}")
    registry.forge("team/app", image.layers[0].digest, b"other")
    manifest = await ask("GET", f"{registry.url}/v2/team/app/manifests/1.0")
    blob = await ask("GET", f"{registry.url}/v2/team/app/blobs/{image.layers[0].digest}")
    assert (manifest.body, manifest.headers["Docker-Content-Digest"]) == (b"{}", str(image.digest))
    assert (blob.body, blob.headers["Docker-Content-Digest"]) == (b"other", str(image.layers[0].digest))
    assert registry.stored("team/app", image.layers[0].digest) == b"other"


async def test_sha512_content_is_found_by_its_digest(registry: Registry, ask: Ask) -> None:
    """A manifest can be addressed by sha512."""
    image = registry.add("team/app", images.image("x", algorithm="sha512"), "1.0")
    assert image.digest.algorithm == "sha512"
    assert (await ask("GET", f"{registry.url}/v2/team/app/manifests/{image.digest}")).body == image.body


async def test_requests_are_recorded_as_they_came(registry: Registry, ask: Ask) -> None:
    """The record keeps the target byte for byte, the headers, the connection and the status."""
    await ask("GET", f"{registry.url}/v2/team%2Fapp/tags/list?n=1&last=a%2Bb", headers={"X-Test": "1"})
    await ask("GET", f"{registry.url}/v2/")
    (first, second) = registry.requests
    assert first.target == "/v2/team%2Fapp/tags/list?n=1&last=a%2Bb"
    assert (first.kind, first.repository, first.query["last"], first.headers["x-test"]) == ("tags", "team/app", "a+b", "1")
    assert (first.status, first.connection, second.connection, registry.connections) == (404, 1, 1, 1)
    assert str(second) == "GET /v2/ -> 200"
    assert registry.count("GET", "/v2/") == 2
    assert registry.count(kind="ping") == 1
    registry.forget()
    assert registry.requests == []


async def test_a_stopped_site_refuses_and_comes_back_at_the_same_port(registry: Registry, ask: Ask) -> None:
    """An outage: connections are refused until the site starts again, with all it holds."""
    registry.image("team/app", "1.0")
    url = f"{registry.url}/v2/team/app/manifests/1.0"
    assert (await ask("GET", url)).status == 200
    await registry.stop()
    await registry.stop()
    with pytest.raises(aiohttp.ClientConnectorError):
        await ask("GET", url)
    await registry.start()
    assert (await ask("GET", url)).status == 200


async def test_other_loopback_addresses_and_names_are_other_origins(ask: Ask) -> None:
    """A site can live at another loopback address, and be called by another name."""
    async with Site(address="127.0.0.2") as site:
        assert site.url.startswith("http://127.0.0.2:")
        assert site.url_as("localhost").startswith("http://localhost:")
        assert (await ask("GET", site.url + "/x")).status == 404


async def test_tls_with_an_authority_of_its_own(ask: Ask) -> None:
    """A registry on https is trusted by those who know its authority only."""
    authority = Authority()
    async with Registry(tls=authority.server()) as registry:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await ask("GET", registry.url + "/v2/")
        assert (await ask("GET", registry.url + "/v2/", ssl=authority.trust())).status == 200


async def test_tls_on_a_plain_port_is_answered_in_plain_text(registry: Registry) -> None:
    """A handshake where HTTP is spoken gets a 400, as from real servers, and the site goes on."""
    reader, writer = await asyncio.open_connection(*registry.host.split(":"))
    writer.write(b"\x16\x03\x01\x02\x00\x01")
    assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    writer.close()
    await writer.wait_closed()
    assert registry.requests == []


async def test_faults_nest_and_count(registry: Registry, ask: Ask) -> None:
    """The fault switched on last acts first; guards act before all; each counts only what it did itself."""
    log: list[str] = []

    def note(name: str, answer: bool = False):  # type: ignore[no-untyped-def]  # a local helper
        async def behave(seen: Seen, following: Next) -> Answer:
            log.append(name)
            return Answer(418) if answer else await following()

        return behave

    inner = registry.on(when.always, note("inner"))
    outer = registry.on(when.always, note("outer", answer=True), times=1)
    guard = registry.on(when.always, note("guard"), guard=True)
    late = registry.on(when.method("HEAD"), note("late"))
    assert (await ask("GET", registry.url + "/v2/")).status == 418
    assert (await ask("GET", registry.url + "/v2/")).status == 200
    inner.off()
    assert (await ask("HEAD", registry.url + "/v2/")).status == 200
    inner.again()
    assert log == ["guard", "outer", "guard", "inner", "guard", "late"]
    assert (inner.fired, outer.fired, guard.fired, late.fired) == (1, 1, 3, 1)


async def test_an_error_in_a_behaviour_fails_the_test(ask: Ask) -> None:
    """A bug in a behaviour is not taken for an outage: it is raised when the site is left."""

    def broken(seen: Seen) -> bool:
        raise LookupError("a bug in the test")

    registry = Registry()
    await registry.start()
    registry.on(broken, status(200))
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await ask("GET", registry.url + "/v2/")
    with pytest.raises(LookupError, match="a bug in the test"):
        await registry.__aexit__(None, None, None)


async def test_a_client_that_leaves_is_visible(registry: Registry) -> None:
    """An answer that was not read to its end is not marked as finished."""
    blob = registry.blob("team/app", b"x" * (32 << 20))
    reader, writer = await asyncio.open_connection(*registry.host.split(":"))
    writer.write(f"GET /v2/team/app/blobs/{blob.digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await reader.readexactly(1000)
    writer.transport.abort()
    await registry.stop()
    (seen,) = registry.requests
    assert not seen.finished
    assert 0 < seen.sent < blob.size
