"""Promises about what upstreams send: documents, sizes, digests, headers. Seen by a client of the proxy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.wire import request
from tests.harness import Proxy
from tests.simulator import images, when
from tests.simulator.behaviours import bend, chunked, endless, header, refuse
from tests.simulator.images import Blob, Image, Json
from tests.simulator.registry import Registry
from tests.simulator.server import Answer

GOOD = images.image("good")
INDEX = images.index([GOOD])
SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"


def changed(image: Image = GOOD, **fields: Any) -> bytes:
    """A manifest with other fields; None takes one away."""
    document = image.manifest | fields
    return json.dumps({key: value for key, value in document.items() if value is not None}).encode()


def described(**fields: Any) -> bytes:
    """A manifest with other fields in its layer's descriptor."""
    return changed(layers=[GOOD.manifest["layers"][0] | fields])


def nested(depth: int) -> bytes:
    """A manifest with so many lists inside each other."""
    deep: Any = "x"
    for _ in range(depth):
        deep = [deep]
    return changed(deep=deep)


# -- 11 to 14: documents that must mean one thing ------------------------------------------------------------------

AMBIGUOUS: dict[str, tuple[bytes, str, str]] = {
    "sent as an index": (GOOD.body, images.OCI_INDEX, "was sent as"),
    "sent as Docker's": (GOOD.body, images.DOCKER_MANIFEST, "was sent as"),
    "calls itself an index": (changed(mediaType=images.OCI_INDEX), images.OCI_MANIFEST, "calls itself"),
    "image with manifests": (changed(manifests=INDEX.manifest["manifests"]), images.OCI_MANIFEST, "mean two things"),
    "index with layers": (changed(INDEX, layers=GOOD.manifest["layers"]), images.OCI_INDEX, "mean two things"),
    "index with config": (changed(INDEX, config=GOOD.manifest["config"]), images.OCI_INDEX, "mean two things"),
    "of no type at all": (changed(mediaType=None), "application/octet-stream", "which media type"),
    "key in another case": (changed(Layers=[]), images.OCI_MANIFEST, "'Layers'"),
}
MALFORMED: dict[str, tuple[bytes, str, str]] = {
    "key twice": (GOOD.body.replace(b'"config"', b'"config": {}, "config"', 1), images.OCI_MANIFEST, "'config' stands twice"),
    "key twice, deep inside": (
        GOOD.body.replace(b'"digest"', b'"digest": "x", "digest"', 1),
        images.OCI_MANIFEST,
        "'digest' stands twice",
    ),
    "NaN": (changed(x=float("nan")), images.OCI_MANIFEST, "NaN is not JSON"),
    "Infinity": (changed(x=float("inf")), images.OCI_MANIFEST, "Infinity is not JSON"),
    "no UTF-8": (changed(x="y").replace(b'"y"', b'"\xff"'), images.OCI_MANIFEST, "not valid UTF-8"),
    "half a surrogate pair": (changed(x="y").replace(b'"y"', b'"\\ud800"'), images.OCI_MANIFEST, "half a surrogate pair"),
    "byte order mark": (b"\xef\xbb\xbf" + GOOD.body, images.OCI_MANIFEST, "BOM"),
    "deep": (nested(33), images.OCI_MANIFEST, "nested deeper"),
    "very deep": (nested(900), images.OCI_MANIFEST, "nested deeper"),
    "a list": (b"[]", images.OCI_MANIFEST, "not a JSON object"),
    "nothing": (b"", images.OCI_MANIFEST, "not valid JSON"),
    "half of it": (GOOD.body[:-10], images.OCI_MANIFEST, "not valid JSON"),
    "two of them": (GOOD.body * 2, images.OCI_MANIFEST, "Extra data"),
}
FOREIGN: dict[str, tuple[bytes, str, str]] = {
    "schema 1": (
        b'{"schemaVersion": 1, "name": "a", "tag": "b", "fsLayers": [], "history": [], "signatures": []}',
        SCHEMA_1,
        "push the image again",
    ),
    "schema 1 by its content": (b'{"schemaVersion": 1, "fsLayers": []}', "application/json", "push the image again"),
    "schema 1 in disguise": (changed(schemaVersion=1), images.OCI_MANIFEST, "push the image again"),
    "schema 3": (changed(schemaVersion=3), images.OCI_MANIFEST, "schemaVersion is not 2"),
    "schema 2.0": (
        GOOD.body.replace(b'"schemaVersion": 2', b'"schemaVersion": 2.0'),
        images.OCI_MANIFEST,
        "schemaVersion is not 2",
    ),
    "of an unknown type": (
        changed(mediaType="application/vnd.example+json"),
        "application/vnd.example+json",
        "not a manifest type",
    ),
    "an artifact of 1.1-rc": (
        b'{"schemaVersion": 2, "mediaType": "application/vnd.oci.artifact.manifest.v1+json", "blobs": []}',
        "application/vnd.oci.artifact.manifest.v1+json",
        "not a manifest type",
    ),
}
MISMEASURED: dict[str, tuple[bytes, str, str]] = {
    "size below zero": (described(size=-1), images.OCI_MANIFEST, "no proper size"),
    "size in words": (described(size="1000"), images.OCI_MANIFEST, "no proper size"),
    "size in halves": (described(size=1000.5), images.OCI_MANIFEST, "no proper size"),
    "size that is true": (described(size=True), images.OCI_MANIFEST, "no proper size"),
    "no size": (described(size=None), images.OCI_MANIFEST, "no proper size"),
    "size beyond all bounds": (described(size=1 << 62), images.OCI_MANIFEST, "the limit is"),
    "one digest, two sizes": (
        changed(layers=[GOOD.manifest["layers"][0], GOOD.manifest["layers"][0] | {"size": 5}]),
        images.OCI_MANIFEST,
        "two sizes",
    ),
    "embedded data of another size": (described(data="AAAA"), images.OCI_MANIFEST, "embedded data"),
    "too many layers": (changed(layers=GOOD.manifest["layers"] * 501), images.OCI_MANIFEST, "501 entries"),
}


async def assert_refused(proxy: Proxy, registry: Registry, cases: dict[str, tuple[bytes, str, str]]) -> None:
    """Each document is refused by tag and by digest, HEAD and GET, in the words that it earns, though it is properly signed."""
    for case, (body, media_type, words) in cases.items():
        digest = registry.manifest("acme/app", body, media_type, "bad")
        registry.sign("acme/app", digest, proxy.signer)
        for reference in ("bad", digest):
            for method in ("HEAD", "GET"):
                answer = await proxy.manifest("acme/app", reference, method)
                assert (answer.status, answer.digest) == (403, None), (case, reference)
        answer = await proxy.manifest("acme/app", digest)
        assert answer.error["code"] == "DENIED"
        assert words in answer.error["message"], case
        assert registry.count("GET", "/manifests/bad") == 2
        assert await proxy.pin("acme/app:bad") is None
        assert not list((proxy.data_dir / "blobs").rglob(digest.hex)), case
        registry.forget()
    assert not registry.count(None, "/blobs/")


async def test_promise_11_a_document_that_means_two_things_is_refused(scratch: Path) -> None:
    """A Content-Type that is not the document's, an image that is an index as well: refused, signed or not (CVE-2021-41190)."""
    async with Registry() as upstream, Proxy(scratch, upstream) as proxy:
        await assert_refused(proxy, upstream, AMBIGUOUS)


async def test_promise_12_only_strict_json_is_a_manifest(scratch: Path) -> None:
    """Repeated keys, numbers that are none, broken text and deep nesting are refused, signed or not."""
    async with Registry() as upstream, Proxy(scratch, upstream) as proxy:
        await assert_refused(proxy, upstream, MALFORMED)


async def test_promise_12_odd_bytes_stay_as_they_are(scratch: Path) -> None:
    """What is strict but unusual is served byte for byte, also after a restart: it is never written anew."""
    odd = GOOD.body.replace(b'"schemaVersion": 2', b'"schemaVersion"  :\t2, "\\u0078": [1e2, "\xc3\xa9\\/"]') + b"\n\n "
    async with Registry() as upstream, Proxy(scratch, upstream) as proxy:
        upstream.image("open/app", None, seed="good")
        digest = upstream.manifest("open/app", odd, images.OCI_MANIFEST, "odd")
        for _ in range(2):
            for reference in ("odd", digest):
                answer = await proxy.manifest("open/app", reference)
                assert (answer.status, answer.digest, answer.body) == (200, str(digest), odd)
            await proxy.restart()
        assert upstream.count("GET", "/manifests/") == 1


async def test_promise_13_schema_1_and_unknown_types_are_refused(scratch: Path) -> None:
    """What cannot be verified, or is of no type that clients know, is not handed out; the words say what to do."""
    async with Registry() as upstream, Proxy(scratch, upstream) as proxy:
        await assert_refused(proxy, upstream, FOREIGN)


async def test_promise_14_sizes_that_cannot_be_are_refused(scratch: Path) -> None:
    """Negative, missing, contradictory and excessive sizes refuse the document before anything is fetched for them."""
    async with Registry() as upstream, Proxy(scratch, upstream) as proxy:
        await assert_refused(proxy, upstream, MISMEASURED)


@pytest.mark.parametrize("way", ["announced", "chunked", "endless"])
async def test_promise_14_a_manifest_above_the_limit_is_cut_off(scratch: Path, way: str) -> None:
    """One byte above the limit is refused, announced or not, and an endless one costs no more than the limit."""
    limit = 64 << 10
    padded = changed(padding="")
    at_limit = changed(padding="x" * (limit - len(padded)))
    above = changed(padding="x" * (limit - len(padded) + 1))
    async with Registry() as upstream, Proxy(scratch, upstream, top="limits: {manifest_size: 64KiB}") as proxy:
        upstream.image("open/app", None, seed="good")
        upstream.manifest("open/app", at_limit, images.OCI_MANIFEST, "fits")
        upstream.manifest("open/app", above, images.OCI_MANIFEST, "above")
        behaviour = endless(headers={"Content-Type": images.OCI_MANIFEST}) if way == "endless" else chunked()
        fault = None if way == "announced" else upstream.on(when.manifest("GET", "above"), behaviour)
        answer = await proxy.manifest("open/app", "above")
        assert answer.status == 403
        assert str(limit) in answer.error["message"]
        assert fault is None or fault.fired == 1
        (seen,) = upstream.seen("GET", "/manifests/above")
        assert seen.sent < 100 * limit, "nobody read on for long"
        assert (await proxy.manifest("open/app", "fits")).body == at_limit


@pytest.mark.parametrize("wrong", ["size", "type"])
async def test_promise_14_what_an_index_says_of_its_child_binds(scratch: Path, wrong: str) -> None:
    """A child of another size or type than its signed index says is refused; its sibling is not."""
    async with Registry() as upstream, Proxy(scratch, upstream) as proxy:
        child, twin = upstream.image("acme/app", None, seed="child"), upstream.image("acme/app", None, seed="twin")
        said = child.entry() | ({"size": len(child.body) + 1} if wrong == "size" else {"mediaType": images.OCI_INDEX})
        index = upstream.index("acme/app", "v1", images=[twin], entries=[said])
        upstream.sign("acme/app", index.digest, proxy.signer)
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        assert (await proxy.manifest("acme/app", child.digest, "HEAD")).status == 403
        answer = await proxy.manifest("acme/app", child.digest)
        assert (answer.status, "its index" in answer.error["message"]) == (403, True)
        assert (await proxy.blob("acme/app", child.layers[0].digest)).status == 403
        assert (await proxy.manifest("acme/app", twin.digest)).body == twin.body


@pytest.mark.parametrize("difference", [1, -1])
async def test_promise_14_a_layer_of_another_size_never_completes(scratch: Path, difference: int) -> None:
    """A layer that is longer or shorter than its descriptor says is an error to the client, and is not kept."""
    async with Registry() as upstream, Proxy(scratch, upstream) as proxy:
        image = upstream.image("open/app", None, layer_size=200_000)
        layer = image.manifest["layers"][0]
        body = changed(image, layers=[layer | {"size": layer["size"] + difference}])
        upstream.manifest("open/app", body, images.OCI_MANIFEST, "wrong")
        assert (await proxy.manifest("open/app", "wrong")).status == 200
        answer = await proxy.blob("open/app", layer["digest"])
        assert answer.status != 200 or answer.cut
        assert len(answer.body) < layer["size"] - 1 or answer.status != 200
        assert not list((proxy.data_dir / "blobs").rglob(layer["digest"].partition(":")[2]))
        assert upstream.count("GET", "/blobs/") >= 1


# -- 15: indexes ---------------------------------------------------------------------------------------------------


async def test_promise_15_indexes_in_indexes_end_at_a_depth(scratch: Path) -> None:
    """Of a chain of indexes only so many levels are served as ``limits.index_depth`` says, and what hangs below is not."""
    async with Registry() as upstream, Proxy(scratch, upstream, top="limits: {index_depth: 2}") as proxy:
        chain = [upstream.image("open/app", None, seed="innermost")]
        for _ in range(4):
            chain.append(upstream.index("open/app", None, images=[chain[-1]]))
        _, *levels, top = chain
        upstream.tag("open/app", "v1", top.digest)
        references = ["v1", *(inner.digest for inner in reversed(levels))]
        statuses = [(await proxy.manifest("open/app", reference)).status for reference in references]
        assert statuses == [200, 200, 403, 200], "the innermost is a first use of its own: nobody reached it"
        within = [upstream.image("open/app", None, seed="within")]
        for _ in range(2):
            within.append(upstream.index("open/app", None, images=[within[-1]]))
        for image in reversed(within):
            assert (await proxy.manifest("open/app", image.digest)).body == image.body


@pytest.mark.parametrize(
    ("case", "entries"),
    [
        ("count", lambda child: [child | {"annotations": {"n": str(number)}} for number in range(11)]),
        ("total", lambda child: [child | {"digest": f"sha256:{number:064x}", "size": 4 << 20} for number in range(65)]),
        ("one too large", lambda child: [child | {"size": (4 << 20) + 1}]),
    ],
)
async def test_promise_15_an_index_promises_no_more_than_the_limits(
    scratch: Path, case: str, entries: Callable[[Json], list[Json]]
) -> None:
    """Too many manifests, too many bytes of them in all, or too large a one: the index is refused and none of them fetched."""
    count = 10 if case == "count" else 1000
    async with Registry() as upstream, Proxy(scratch, upstream, top=f"limits: {{index_manifests: {count}}}") as proxy:
        child = upstream.image("open/app", None)
        upstream.index("open/app", "bad", images=[], entries=entries(child.entry()))
        upstream.index("open/app", "good", images=[], entries=entries(child.entry())[: 10 if case == "count" else 64])
        answer = await proxy.manifest("open/app", "bad")
        assert (answer.status, "the limit is" in answer.error["message"]) == (403, True)
        assert upstream.count("GET", "/manifests/") == 1
        if case != "one too large":
            assert (await proxy.manifest("open/app", "good")).status == 200


async def test_promise_15_an_index_that_reaches_itself_ends(scratch: Path) -> None:
    """Forged bytes that would make an index its own child do not hash to the digest, and are refused."""
    async with Registry() as upstream, Proxy(scratch, upstream) as proxy:
        inner = upstream.index("open/app", None, images=[upstream.image("open/app", None)])
        outer = upstream.index("open/app", "v1", images=[inner])
        assert (await proxy.manifest("open/app", "v1")).status == 200
        upstream.forge("open/app", inner.digest, outer.body)
        assert (await proxy.manifest("open/app", inner.digest)).status == 403
        assert upstream.count("GET", f"/manifests/{inner.digest}") == 1


# -- 17: sha512 ----------------------------------------------------------------------------------------------------


def sha512_image(seed: str) -> Image:
    """An image whose manifest, config and layer all go by sha512."""
    built = images.image(seed)
    blobs = tuple(Blob(blob.media_type, blob.data, "sha512") for blob in built.blobs)
    body = json.dumps(built.manifest | {"config": blobs[0].entry(), "layers": [blobs[1].entry()]}).encode()
    return Image(built.media_type, body, blobs, algorithm="sha512")


@pytest.mark.parametrize("name", ["open/app", "acme/app"])
async def test_promise_17_sha512_is_verified_with_sha512(scratch: Path, name: str) -> None:
    """A pull by sha512 digest, of a manifest whose blobs go by sha512: served, stored and signed under that name."""
    async with Registry() as upstream, Proxy(scratch, upstream) as proxy:
        image = upstream.add(name, sha512_image("one"), None)
        assert image.digest.algorithm == "sha512"
        if name == "acme/app":
            assert (await proxy.manifest(name, image.digest)).status == 403
            upstream.attach(name, image, proxy.signer)
        for _ in range(2):
            answer = await proxy.manifest(name, image.digest)
            assert (answer.status, answer.digest, answer.body) == (200, str(image.digest), image.body)
            for blob in image.blobs:
                served = await proxy.blob(name, blob.digest)
                assert (served.status, served.digest, served.body) == (200, str(blob.digest), blob.data)
            await proxy.restart()
        assert {path.name for path in (proxy.data_dir / "blobs").rglob("*") if path.is_file()} >= {
            image.digest.hex,
            *(blob.digest.hex for blob in image.blobs),
        }


async def test_promise_17_a_wrong_sha512_is_refused(scratch: Path) -> None:
    """Other bytes under a sha512 digest never come out, manifest or blob."""
    async with Registry() as upstream, Proxy(scratch, upstream) as proxy:
        image, other = upstream.add("open/app", sha512_image("one")), sha512_image("other")
        upstream.forge("open/app", image.digest, other.body)
        assert (await proxy.manifest("open/app", image.digest)).status == 403
        upstream.forge("open/app", image.digest, image.body)
        assert (await proxy.manifest("open/app", image.digest)).status == 200
        layer = image.blobs[1]
        upstream.forge("open/app", layer.digest, bytes(len(layer.data)))
        answer = await proxy.blob("open/app", layer.digest)
        assert answer.status == 403
        assert upstream.count("GET", "/blobs/") >= 1


async def test_promise_17_a_tag_that_the_upstream_names_by_sha512_stays_itself(scratch: Path) -> None:
    """An upstream that goes by sha512 pins like any other: by what is hashed here, with no false alarm at later checks."""
    async with Registry() as upstream, Proxy(scratch, upstream) as proxy:
        image = upstream.add("open/app", sha512_image("one"), "v1")
        first = await proxy.manifest("open/app", "v1")
        for _ in range(3):
            answer = await proxy.manifest("open/app", "v1")
            assert (answer.status, answer.digest, answer.body) == (200, first.digest, image.body)
            assert "Warning" not in answer.headers
        assert not await proxy.events()
        upstream.add("open/app", sha512_image("other"), "v1")
        assert (await proxy.manifest("open/app", "v1")).status == 403
        assert len(await proxy.events()) == 1


# -- 26: headers ---------------------------------------------------------------------------------------------------

#: All that clients ever get to see, in lower case.
OURS = {
    "accept-ranges",
    "connection",
    "content-length",
    "content-type",
    "date",
    "docker-content-digest",
    "docker-distribution-api-version",
    "etag",
    "link",
    "oci-filters-applied",
    "retry-after",
    "server",
    "warning",
}
HOSTILE = {
    "Set-Cookie": "session=evil",
    "Connection": "X-Evil",
    "Keep-Alive": "timeout=9999",
    "Proxy-Authenticate": "Basic realm=evil",
    "Trailer": "X-Evil",
    "Upgrade": "h2c",
    "Location": "https://evil.example/",
    "Content-Location": "https://evil.example/",
    "Refresh": "0; url=https://evil.example/",
    "Access-Control-Allow-Origin": "*",
    "Strict-Transport-Security": "max-age=1",
    "Alt-Svc": 'h3="evil.example:443"',
    "Cache-Control": "public, max-age=31536000",
    "Age": "1000000",
    "Expires": "Thu, 01 Jan 2099 00:00:00 GMT",
    "Via": "1.1 evil",
    "X-Evil": "evil",
    "Warning": '299 - "evil"',
    "Docker-Distribution-Api-Version": "registry/evil",
    "OCI-Namespace": "evil.example",
    "OCI-Subject": f"sha256:{'0' * 64}",
    "Server": "evil",
}
INJECTED = "зло 漢字 evil\r\nSet-Cookie: session=evil\r\n\r\nHTTP/1.1 200 OK\r\n"


async def test_promise_26_headers_of_the_upstream_stop_here(scratch: Path) -> None:
    """Of whatever an upstream adds to manifests, blobs, tags, referrers and refusals, clients see nothing."""
    async with Registry() as upstream, Proxy(scratch, upstream) as proxy:
        image = upstream.image("open/app", "v1", layer_size=100_000)
        upstream.attach("open/app", image, proxy.signer)
        upstream.image("open/app", "gone")

        def hostile(answer: Answer) -> None:
            answer.headers.update(HOSTILE)

        fault = upstream.on(when.always, bend(hostile))
        denied = upstream.on(when.manifest(None, "denied"), refuse(403, "DENIED", "no"))
        busy = upstream.on(when.manifest(None, "busy"), refuse(503, "UNAVAILABLE", "no", headers={"Retry-After": "3"}))
        app = "/v2/reg.example/open/app"
        for target, expected in {
            f"{app}/manifests/v1": 200,
            f"{app}/manifests/{image.digest}": 200,
            f"{app}/blobs/{image.layers[0].digest}": 200,
            f"{app}/blobs/{image.config.digest}": 200,
            f"{app}/tags/list": 200,
            f"{app}/referrers/{image.digest}": 200,
            f"{app}/manifests/absent": 404,
            f"{app}/manifests/denied": 403,
            f"{app}/manifests/busy": 503,
        }.items():
            for method in ("GET", "HEAD"):
                answer = await request(proxy, target, method)
                assert answer.status == expected
                assert {name.lower() for name in answer.headers} <= OURS
                assert not [text for text in answer.headers.values() if "evil" in text], target
        assert fault.fired >= 7
        assert denied.fired
        assert busy.fired


async def test_promise_26_line_breaks_stay_out_of_heads(scratch: Path) -> None:
    """CR and LF in an upstream's error, annotations, media types and tags break neither reason phrase, header nor Link."""
    async with Registry() as upstream, Proxy(scratch, upstream) as proxy:
        image = upstream.image("acme/app", "v1")
        upstream.attach("acme/app", image, proxy.signer, predicate=INJECTED)
        upstream.refer("acme/app", images.artifact("text/evil", [], subject=image.descriptor, annotations={"a": INJECTED}))
        upstream.refer("acme/app", images.artifact(INJECTED, [], subject=image.descriptor))
        kind = upstream.image("acme/app", None, seed="kind")
        upstream.manifest("acme/app", changed(kind, mediaType=INJECTED), "application/octet-stream", "kind")
        for tag in (INJECTED, "a\nb", "v9\r\nX-Evil: y", "ok"):
            upstream.tag("open/app", tag, image.digest)
        faults = [
            upstream.on(when.manifest(None, "denied"), refuse(403, "DENIED", INJECTED)),
            upstream.on(when.manifest(None, "busy"), refuse(503, INJECTED, INJECTED)),
            upstream.on(when.manifest(None, "typed"), header("Content-Type", "text/evil; x=\x0bSet-Cookie")),
        ]
        upstream.image("acme/app", "typed", seed="typed")
        app = "/v2/reg.example/acme/app"
        for target, expected in {
            f"{app}/manifests/v1": 403,
            f"{app}/manifests/kind": 403,
            f"{app}/manifests/denied": 403,
            f"{app}/manifests/typed": 403,
            f"{app}/manifests/busy": 503,
            f"{app}/referrers/{image.digest}": 403,
            "/v2/reg.example/open/app/tags/list": 200,
            "/v2/reg.example/open/app/tags/list?n=1": 200,
        }.items():
            answer = await request(proxy, target)
            assert answer.status == expected, target
            assert {name.lower() for name in answer.headers} <= OURS
            assert not answer.rest
            assert all(" " <= letter <= "~" for letter in answer.reason.decode("latin-1"))
            if target.endswith("tags/list"):
                assert json.loads(answer.body)["tags"] == ["ok"]
        assert all(fault.fired for fault in faults)
