"""Promises about what clients may say: targets, digests, names of registries, framing. Seen on the wire, byte by byte."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path

import pytest

from proxy.web import responses
from tests.conformance.wire import Raw, connection, request, speak
from tests.harness import Proxy
from tests.simulator import images
from tests.simulator.registry import Registry

D = "0123456789abcdef" * 4
APP = "/v2/reg.example/open/app"
DOCKER_IO = """
rules:
  - {match: docker.io/library/**, require: first-use}
  - {match: other.example/**, require: first-use}
  - {match: "**", require: deny}
"""

# -- 17: digests ---------------------------------------------------------------------------------------------------


NO_DIGESTS = (
    "sha256:",
    f"sha256:{D[1:]}",
    f"sha256:{D}0",
    f"sha256:{D.upper()}",
    f"SHA256:{D}",
    f"sha512:{D}",
    f"sha384:{D}{D[:32]}",
    f"md5:{D[:32]}",
    f"sha256:{D[:-1]}g",
    f"sha256:{D}:{D}",
    f"sha256:sha256:{D}",
    f"sha256+b64:{D}",
    f":{D}",
    f"sha256%3A{D[1:]}",
    f"sha256:{D[:-2]}..",
    f"sha256:{D}@sha256:{D}",
)


async def test_promise_17_a_digest_that_is_none_is_400(scratch: Path) -> None:
    """Unknown, upper-case, short and long digests are refused at every endpoint that takes one; the upstream hears nothing."""
    async with Registry() as upstream, Proxy(scratch, upstream) as proxy:
        for endpoint in ("manifests", "blobs", "referrers"):
            for digest in NO_DIGESTS:
                answer = await proxy.get(f"{APP}/{endpoint}/{digest}")
                assert (answer.status, answer.error["code"]) == (400, "DIGEST_INVALID"), (endpoint, digest)
            assert not upstream.requests
        for endpoint, status in (("manifests", 404), ("blobs", 403), ("referrers", 403)):
            assert (await proxy.get(f"{APP}/{endpoint}/sha256:{D}")).status == status, "one that is gets an answer"


# -- 19: targets ---------------------------------------------------------------------------------------------------

TARGETS: dict[str, tuple[str | bytes, int]] = {
    "up and out": ("/v2/../../../etc/passwd", 404),
    "up within the name": ("/v2/reg.example/open/../acme/app/manifests/v1", 400),
    "up within the endpoint": (f"{APP}/blobs/../manifests/v1", 400),
    "up as a tag": (f"{APP}/manifests/..", 400),
    "here": ("/v2/reg.example/open/./app/manifests/v1", 400),
    "nothing between slashes": ("/v2/reg.example/open//app/manifests/v1", 400),
    "encoded dots": ("/v2/reg.example/open/%2e%2e/acme/app/manifests/v1", 400),
    "dots encoded twice": ("/v2/reg.example/open/%252e%252e/acme/app/manifests/v1", 400),
    "encoded slash": ("/v2/reg.example/open%2fapp/manifests/v1", 400),
    "encoded slash in a tag": (f"{APP}/manifests/v1%2f..%2fv2", 400),
    "encoded NUL": (f"{APP}/manifests/v1%00", 400),
    "NUL": (f"{APP}\0/manifests/v1", 400),
    "encoded line break": (f"{APP}/manifests/v1%0d%0aX-Evil:%20y", 400),
    "half an escape": (f"{APP}/manifests/v1%", 400),
    "backslash": ("/v2/reg.example/open\\app/manifests/v1", 400),
    "Unicode": ("/v2/reg.example/open/\u00e9/manifests/v1".encode(), 400),
    "no UTF-8": (b"/v2/reg.example/open/\xff/manifests/v1", 400),
    "encoded Unicode": ("/v2/reg.example/open/%C3%A9/manifests/v1", 400),
    "full-width dots": ("/v2/reg.example/open/\uff0e\uff0e/manifests/v1".encode(), 400),
    "upper-case name": ("/v2/reg.example/Open/app/manifests/v1", 400),
    "upper-case endpoint": (f"{APP}/Manifests/v1", 404),
    "upper-case v2": ("/V2/reg.example/open/app/manifests/v1", 404),
    "tag of 129": (f"{APP}/manifests/{'v' * 129}", 400),
    "name of 256": (f"/v2/reg.example/open/{'a' * 256}/manifests/v1", 400),
    "target above 4096": (f"{APP}/manifests/v1?{'x' * 4096}", 414),
    "target above 64 KiB": (f"{APP}/manifests/{'v' * 70_000}", 400),
    "tag that is hidden": (f"{APP}/manifests/.v1", 400),
    "tag that looks like an option": (f"{APP}/manifests/-v1", 400),
    "no tag": (f"{APP}/manifests/", 400),
    "slash after the tag": (f"{APP}/manifests/v1/", 404),
    "component that ends in a dot": ("/v2/reg.example/open/app./manifests/v1", 400),
    "three underscores": ("/v2/reg.example/open___a/app/manifests/v1", 400),
    "path parameter": ("/v2/reg.example/open;x=1/app/manifests/v1", 400),
    "fragment": (f"{APP}/manifests/v1#x", 400),
    "blank": ("/v2/reg.example/o pen/manifests/v1", 400),
    "two slashes first": ("//v2/reg.example/open/app/manifests/v1", 404),
    "absolute": (f"http://evil.example{APP}/manifests/v1", 404),
    "absolute to a private address": ("http://169.254.169.254/latest/meta-data/", 404),
    "asterisk": ("*", 400),
    "no path": ("evil", 400),
    "another API": ("/v1/_ping", 404),
    "catalog": ("/v2/_catalog", 404),
    "blob by tag": (f"{APP}/blobs/v1", 400),
    "n below zero": (f"{APP}/tags/list?n=-1", 400),
    "n in words": (f"{APP}/tags/list?n=all", 400),
    "n twice": (f"{APP}/tags/list?n=1&n=2", 400),
    "last that is no tag": (f"{APP}/tags/list?last=%2e%2e", 400),
    "artifactType with a line break": (f"{APP}/referrers/sha256:{D}?artifactType=a%0d%0ab", 400),
    "query that is no UTF-8": (f"{APP}/manifests/v1?ns=%ff", 400),
}


async def test_promise_19_a_target_beyond_the_grammar_is_refused(scratch: Path) -> None:
    """No such target reaches the upstream or a file; each gets its 4xx, for GET and HEAD, and nothing after it."""
    async with Registry() as upstream, Proxy(scratch, upstream) as proxy:
        upstream.image("open/app", "v1")
        for method in ("GET", "HEAD"):
            answers = {case: await request(proxy, target, method) for case, (target, _) in TARGETS.items()}
            assert {case: answer.status for case, answer in answers.items()} == {
                case: status for case, (_, status) in TARGETS.items()
            }
            assert not any(answer.rest for answer in answers.values())
        assert not upstream.requests
        assert (await request(proxy, f"{APP}/manifests/v1")).status == 200, "the honest twin"


async def test_promise_19_an_encoded_colon_is_a_colon(scratch: Path) -> None:
    """``%3A`` in a digest is what some clients send, and the only escape that is understood."""
    async with Registry() as upstream, Proxy(scratch, upstream) as proxy:
        image = upstream.image("open/app", "v1")
        for colon in (":", "%3A", "%3a"):
            answer = await request(proxy, f"{APP}/manifests/sha256{colon}{image.digest.hex}")
            assert (answer.status, answer.body) == (200, image.body)


# -- 20, names: which registry is meant ----------------------------------------------------------------------------


NAMES = {
    "/v2/open/app/manifests/v1?ns=reg.example&ns=reg.example": 400,
    "/v2/open/app/manifests/v1?ns=reg.example&ns=evil.example": 400,
    "/v2/open/app/manifests/v1?ns=evil.example": 403,
    "/v2/open/app/manifests/v1?ns={upstream}": 403,
    "/v2/{upstream}/open/app/manifests/v1": 403,
    "/v2/open/app/manifests/v1?ns=169.254.169.254": 403,
    "/v2/open/app/manifests/v1?ns=%5B::1%5D:5000": 403,
    "/v2/open/app/manifests/v1?ns=reg.example:443": 403,
    "/v2/open/app/manifests/v1?ns=http://reg.example": 400,
    "/v2/open/app/manifests/v1?ns=reg.example/open": 400,
    "/v2/open/app/manifests/v1?ns=user@reg.example": 400,
    "/v2/open/app/manifests/v1?ns=": 400,
    "/v2/reg.example/open/app/manifests/v1?ns=other.example": 400,
    "/v2/evil.example/open/app/manifests/v1": 403,
    "/v2/open/app/manifests/v1": 403,
}


async def test_promise_20_a_registry_that_is_not_listed_is_never_dialled(scratch: Path) -> None:
    """Repeated, unlisted, contradictory and literal names of registries are refused, and no host that they name hears of it."""
    async with Registry() as upstream, Registry() as other:
        upstream.image("open/app", "v1")
        listed = f"other.example: {{url: {other.url}, allow_private: true}}"
        async with Proxy(scratch, upstream, upstreams=listed) as proxy:
            statuses = {target: (await request(proxy, target.format(upstream=upstream.host))).status for target in NAMES}
            assert statuses == NAMES
            assert not upstream.requests
            assert not other.requests
            twin = await request(proxy, "/v2/open/app/manifests/v1?ns=reg.example")
            assert (twin.status, twin.headers["OCI-Namespace"]) == (200, "reg.example")


async def test_promise_20_a_host_header_alone_dials_nothing(scratch: Path) -> None:
    """A Host header that ``hosts`` does not know stands for the default registry, whatever it names."""
    async with Registry() as upstream, Proxy(scratch, upstream) as proxy:
        upstream.image("open/app", "v1")
        for host in ("evil.example", "169.254.169.254", "reg.example", "REG.example:80", upstream.host, "[::1]:5000", "%"):
            raw = f"GET /v2/open/app/manifests/v1 HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            answer = Raw.read(await speak(proxy, raw.encode()))
            assert answer.status == 403, host
            assert b"docker.io is not configured" in answer.body
        assert not upstream.requests


async def test_docker_io_is_one_registry_however_it_is_written(scratch: Path) -> None:
    """With and without ``library/``, by each of its host names, by prefix, ``ns`` or default: one image, one pin, one fetch."""
    async with Registry() as upstream, Proxy(scratch, upstream, name="docker.io", rules=DOCKER_IO) as proxy:
        image = upstream.image("library/nginx", "1.27")
        for path in (
            "/v2/library/nginx/manifests/1.27",
            "/v2/nginx/manifests/1.27",
            "/v2/docker.io/nginx/manifests/1.27",
            "/v2/docker.io/library/nginx/manifests/1.27",
            "/v2/index.docker.io/library/nginx/manifests/1.27",
            "/v2/registry-1.docker.io/library/nginx/manifests/1.27",
            "/v2/library/nginx/manifests/1.27?ns=docker.io",
            "/v2/library/nginx/manifests/1.27?ns=index.docker.io",
            "/v2/docker.io/library/nginx/manifests/1.27?ns=docker.io",
        ):
            answer = await proxy.get(path)
            assert (answer.status, answer.digest) == (200, str(image.digest)), path
            assert answer.headers.get("OCI-Namespace") == ("docker.io" if "ns=" in path else None)
        assert upstream.count("GET", "/v2/library/nginx/manifests/1.27") == 1
        assert {seen.repository for seen in upstream.requests} == {"library/nginx"}
        assert len(await proxy.application.pins.list()) == 1


async def test_spellings_of_a_registry_cost_no_memory(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered for a manifest and a small blob is remembered once, in however many ways ``ns`` is written."""
    built: list[int] = []

    class Counted(responses.Wire):
        def __init__(self, headers: Mapping[str, str], length: int, body: bytes) -> None:
            built.append(length)
            super().__init__(headers, length, body)

    monkeypatch.setattr("proxy.web.responses.Wire", Counted)
    async with Registry() as upstream, Proxy(scratch, upstream, top="check_interval: 1h\n") as proxy:
        image = upstream.image("open/app", "v1")
        for path in (f"manifests/{image.digest}", f"blobs/{image.blobs[0].digest}"):
            await proxy.get(f"{APP}/{path}")
            await proxy.get(f"{APP}/{path}")
            built.clear()
            for letters in product(*((letter, letter.upper()) for letter in "reg.e")):
                answer = await proxy.get(f"/v2/open/app/{path}?ns={''.join(letters)}xample")
                assert (answer.status, answer.headers["OCI-Namespace"]) == (200, "reg.example")
            assert len(built) == 1


async def test_hosts_name_the_registry_and_must_not_contradict_the_request(scratch: Path) -> None:
    """A host name stands for the registry it is mapped to; a request that names another one as well is refused."""
    async with Registry() as upstream, Registry() as other:
        hub, elsewhere = upstream.image("library/app", "v1", seed="hub"), other.image("library/app", "v1", seed="elsewhere")
        listed = f"other.example: {{url: {other.url}, allow_private: true}}"
        hosts = "hosts: {hub.mirror: docker.io, other.mirror: other.example}\ndefault_registry: other.example"
        async with Proxy(scratch, upstream, name="docker.io", rules=DOCKER_IO, upstreams=listed, top=hosts) as proxy:

            async def ask(host: str, target: str) -> Raw:
                raw = f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
                return Raw.read(await speak(proxy, raw.encode()))

            app = "/v2/library/app/manifests/v1"
            assert (await ask("hub.mirror", app)).body == hub.body
            assert (await ask("HUB.mirror:5000", app)).body == hub.body
            assert (await ask("other.mirror", app)).body == elsewhere.body
            assert (await ask("unknown.mirror", app)).body == elsewhere.body, "the default registry"
            assert (await ask("hub.mirror", f"{app}?ns=docker.io")).body == hub.body
            assert (await ask("hub.mirror", f"{app}?ns=other.example")).status == 400
            assert (await ask("hub.mirror", "/v2/other.example/library/app/manifests/v1")).status == 400
            assert (await ask("hub.mirror", "/v2/docker.io/library/app/manifests/v1")).body == hub.body


# -- 27: framing ---------------------------------------------------------------------------------------------------

PULL = b"GET /v2/reg.example/open/app/manifests/v1 HTTP/1.1\r\nHost: x\r\n"
SECOND = b"GET /v2/reg.example/open/second/manifests/v1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
AMBIGUOUS = {
    "CL and TE": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE and CL": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 0\r\nContent-Length: 5\r\n\r\n",
    "list of lengths": b"Content-Length: 0, 0\r\n\r\n",
    "length below zero": b"Content-Length: -1\r\n\r\n",
    "length with a sign": b"Content-Length: +0\r\n\r\n",
    "length in hex": b"Content-Length: 0x0\r\n\r\n",
    "blank before the colon": b"Content-Length : 0\r\n\r\n",
    "TE twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE that is not known": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "TE without chunks": b"Transfer-Encoding: identity\r\n\r\n",
    "chunk that is no hex": b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    "chunk below zero": b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
    "chunk beyond all bounds": b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n\r\n",
    "chunk longer than it says": b"Transfer-Encoding: chunked\r\n\r\n2\r\nabXX0\r\n\r\n",
    "chunk that ends in LF": b"Transfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\n",
    "folded line": b"X-Evil: a\r\n b\r\n\r\n",
    "bare LF": b"X-Evil: a\nX-Evil: b\r\n\r\n",
    "bare CR": b"X-Evil: a\rX-Evil: b\r\n\r\n",
    "NUL": b"X-Evil: a\0b\r\n\r\n",
    "no name": b": a\r\n\r\n",
    "endless line": b"X-Evil: " + b"a" * 100_000 + b"\r\n\r\n",
    "endless lines": b"X-Evil: a\r\n" * 5000 + b"\r\n",
    "two hosts": b"Host: y\r\n\r\n",
}


async def test_promise_27_framing_in_doubt_ends_the_connection(scratch: Path) -> None:
    """400, then the connection is closed: what follows is never taken for a request."""
    async with Registry() as upstream, Proxy(scratch, upstream) as proxy:
        upstream.image("open/app", "v1")
        answers = {case: Raw.read(await speak(proxy, PULL + raw + SECOND)) for case, raw in AMBIGUOUS.items()}
        assert {case: (answer.status, answer.rest) for case, answer in answers.items()} == dict.fromkeys(AMBIGUOUS, (400, b""))
        assert not upstream.count(None, "/second/")


async def test_promise_27_honest_framing_is_understood(scratch: Path) -> None:
    """The twin: a body that means nothing is read past, and the next request of the connection is answered."""
    async with Registry() as upstream, Proxy(scratch, upstream) as proxy:
        image, second = upstream.image("open/app", "v1"), upstream.image("open/second", "v1", seed="second")
        for body in (
            b"\r\n",
            b"Content-Length: 3\r\n\r\nabc",
            b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        ):
            answer = Raw.read(await speak(proxy, PULL + body + SECOND))
            assert (answer.status, answer.body) == (200, image.body)
            assert Raw.read(answer.rest).body == second.body


# -- HEAD ----------------------------------------------------------------------------------------------------------


async def test_head_is_get_without_its_body(scratch: Path) -> None:
    """Every endpoint and every kind of refusal says the same to HEAD as to GET: status, reason, headers, length."""
    async with Registry() as upstream, Proxy(scratch, upstream, top="limits: {memory_blob_size: 4KiB}") as proxy:
        image = upstream.image("acme/app", "v1", layers=1, layer_size=20_000)
        signature = upstream.sign("acme/app", image.digest, proxy.signer)
        bundle = upstream.attach("acme/app", image, proxy.signer)
        upstream.image("acme/app", "unsigned", seed="unsigned")
        upstream.image("acme/app", "moved", seed="moved")
        upstream.tag("acme/app", "moved", image.digest)
        app = "/v2/reg.example/acme/app"
        assert (await proxy.get(f"{app}/manifests/moved")).status == 200
        upstream.image("acme/app", "moved", seed="moved again")
        for blob in image.blobs:
            assert (await proxy.get(f"{app}/blobs/{blob.digest}")).body == blob.data
        for target, expected in {
            "/v2/": 200,
            f"{app}/manifests/v1": 200,
            f"{app}/manifests/{image.digest}": 200,
            f"{app}/manifests/v1?x": 200,
            f"{app}/blobs/{image.layers[0].digest}": 200,
            f"{app}/blobs/{image.config.digest}": 200,
            f"{app}/tags/list": 200,
            f"{app}/tags/list?n=1": 200,
            f"{app}/referrers/{image.digest}": 200,
            f"{app}/manifests/{bundle.digest}": 200,
            f"{app}/manifests/{signature.digest}": 200,
            f"{app}/manifests/unsigned": 403,
            f"{app}/manifests/moved": 403,
            f"{app}/manifests/absent": 404,
            f"{app}/manifests/sha256:{D}": 404,
            f"{app}/blobs/sha256:{D}": 403,
            f"{app}/referrers/sha256:{D}": 403,
            f"{app}/manifests/UPPER:CASE": 400,
            "/v2/evil.example/app/manifests/v1": 403,
            "/v2/reg.example/other/app/manifests/v1": 403,
            "/v2/reg.example/other/app/tags/list": 403,
            "/elsewhere": 404,
        }.items():
            await _assert_same(proxy, target, expected)
        await upstream.stop()
        await _assert_same(proxy, f"{app}/manifests/v2", 503)
        await _assert_same(proxy, f"{app}/manifests/v1", 200)


async def _assert_same(proxy: Proxy, target: str, expected: int) -> None:
    accept = f"Accept: {', '.join(images.MANIFEST_TYPES)}"
    get, head = await request(proxy, target, "GET", accept), await request(proxy, target, "HEAD", accept)
    for answer in (get, head):
        answer.headers.pop("Date")
        answer.headers.pop("Retry-After", None)  # a breaker counts its seconds
    assert (get.status, head.status) == (expected, expected), target
    assert get.reason == head.reason
    assert get.headers == head.headers
    assert len(get.body) == int(get.headers["Content-Length"]) > 0
    assert head.body == b""


async def test_a_connection_is_used_again_after_every_kind_of_answer(scratch: Path) -> None:
    """Refusals, absences and images on one connection, each answer where its request stood."""
    async with Registry() as upstream, Proxy(scratch, upstream) as proxy:
        image = upstream.image("open/app", "v1")
        targets = [
            (f"{APP}/manifests/v1", 200),
            (f"{APP}/manifests/none", 404),
            (f"{APP}/manifests/v1", 200),
            ("/v2/reg.example/acme/app/manifests/v1", 404),
            (f"{APP}/manifests/%", 400),
            (f"{APP}/blobs/{image.layers[0].digest}", 200),
            ("/v2/", 200),
        ]
        async with connection(proxy) as (reader, writer):
            writer.write(b"".join(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for target, _ in targets[:-1]))
            writer.write(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            rest = await reader.read(-1)
        statuses = []
        while rest:
            answer = Raw.read(rest)
            statuses.append(answer.status)
            rest = answer.rest
        assert statuses == [status for _, status in targets]
