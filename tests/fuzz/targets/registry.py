"""What registries answer and what clients ask: manifests, lists, tokens, errors, headers, names."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import suppress

from yarl import URL

from proxy.distribution import parse as parse_request
from proxy.errors import MalformedRequest, ManifestRefused, UpstreamMisbehaved
from proxy.manifest import MANIFEST_TYPES, Bounds, parse
from proxy.policy.patterns import Pattern
from proxy.routing import Router
from proxy.upstream.auth import MAX_LIFE, MIN_LIFE, read_token
from proxy.upstream.challenge import parse_challenges
from proxy.upstream.failures import MAX_WORDS, complaint, retry_after
from proxy.upstream.listings import NotAList, next_page, read_referrers, read_tags
from proxy.upstream.network import resolved
from proxy.verify.shapes import bundle_version, describe, evidence_tag, is_evidence
from proxy.web.streaming import Unsatisfiable, parse_range
from storage.digest import Digest
from storage.errors import MalformedName
from storage.reference import Reference, parse_tag
from tests.fuzz.target import Target
from tests.simulator import images
from tests.simulator.signing import BundleFault, Signer, bundle_referrer, cosign_signature, signature_manifest

IMAGE = images.image("fuzz")
BY = Signer.of("p256", "fuzz")
BOUNDS = Bounds(index_manifests=20, layers=20)


# -- manifests ------------------------------------------------------------------------------------------------------


def manifest(data: bytes) -> bool:
    """As whatever type it came: what it reaches is of its own kind, and what it says of itself can be told."""
    read = []
    for media_type in ("", *sorted(MANIFEST_TYPES)):
        with suppress(ManifestRefused):
            read.append(parse(data, media_type, BOUNDS))
    if not read:
        return False
    assert len({each.is_index for each in read}) == 1, "it means two things"
    found = read[0]
    assert len(found.edges(IMAGE.digest)) <= 21
    assert not (found.is_index and (found.layers or found.config))
    assert not (is_evidence(found) and found.is_index)
    describe(found).encode()
    return True


def _manifests() -> Iterator[bytes]:
    yield IMAGE.body
    yield images.image("docker", media="docker").body
    yield images.multi_arch("fuzz").body
    yield images.multi_arch("docker", media="docker").body
    yield images.buildkit_index("fuzz").body
    yield signature_manifest([cosign_signature(BY, IMAGE.digest)]).body
    yield bundle_referrer(BY, IMAGE).body
    document = json.loads(IMAGE.body)
    document["config"]["data"] = base64.b64encode(IMAGE.blobs[0].data).decode()
    yield json.dumps(document).encode()


# -- lists, tokens, errors ------------------------------------------------------------------------------------------


def lists(data: bytes) -> bool:
    """A page of tags, an index of referrers: what is in them can be asked for, stored and sent on."""
    tags: list[str] = []
    with suppress(NotAList):
        tags = read_tags(data)
        assert [parse_tag(tag) for tag in tags] == tags
    for each in read_referrers(data, IMAGE.digest, 10):
        Digest.parse(str(each.descriptor.digest))
        assert each.descriptor.digest != IMAGE.digest
        assert 0 <= each.descriptor.size < 2**63
        said = [each.descriptor.media_type, each.artifact_type or "", *(text for pair in each.annotations for text in pair)]
        assert all(text.encode() is not None for text in said)
    return bool(tags)


def answers(data: bytes) -> bool:
    """Of a token endpoint, or an error: one clean line, a token that fits into a header and lives for a while."""
    for content_type in ("application/json", "text/html"):
        words = str(complaint(content_type, data))
        assert len(words) <= MAX_WORDS + 61
        assert words.isprintable()
    token = read_token(data)
    if token is not None:
        assert token[0].isascii()
        assert token[0].isprintable()
        assert MIN_LIFE <= token[1] <= MAX_LIFE
    return token is not None


def _lists() -> Iterator[bytes]:
    yield json.dumps({"name": "team/app", "tags": ["1.0", "latest", "sha256-" + "0" * 64 + ".sig"]}).encode()
    yield json.dumps({"name": "team/app", "tags": None}).encode()
    referrers = [bundle_referrer(BY, IMAGE), bundle_referrer(BY, IMAGE, fault=BundleFault.WRONG_DIGEST)]
    yield images.referrers_index([images.referrers_entry(each) for each in (*referrers, IMAGE)]).body


def _answers() -> Iterator[bytes]:
    yield json.dumps({"token": "abc.def.ghi", "expires_in": 300, "issued_at": "2026-01-01T00:00:00Z"}).encode()
    yield json.dumps({"access_token": "abc", "expires_in": "3600", "refresh_token": "x"}).encode()
    yield json.dumps({"errors": [{"code": "DENIED", "message": "no: https://u:p@a.example/b?c=d", "detail": {}}]}).encode()
    yield json.dumps({"code": 401, "details": "the token eyJhbGciOi.eyJ4.x has expired", "error": "x"}).encode()
    yield b"<!DOCTYPE html><html>"
    yield b"too many requests; Bearer abcdefgh"


# -- headers --------------------------------------------------------------------------------------------------------

_HERE = URL("https://registry.test/v2/team/app/tags/list?n=5", encoded=True)


def headers(data: bytes) -> bool:
    """The same text as each of the headers that are read from strangers."""
    text = data.decode("latin-1")
    for challenge in parse_challenges((text, text)):
        assert challenge.scheme.isascii()
        assert challenge.scope.count(":") < 2 or set(challenge.scope.rpartition(":")[2].split(",")) <= _READING
    with suppress(Unsatisfiable):
        found = parse_range(text, 1000)
        assert found is None or 0 <= found[0] < found[1] <= 1000
    waited = retry_after({"Retry-After": text, "Date": text}, 60.0)
    assert waited is None or 0 <= waited <= 60
    retry_after({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT", "Date": text}, 60.0)
    for target in (text, next_page([text])):
        if target is not None:
            with suppress(UpstreamMisbehaved):
                url = resolved(_HERE, target, "a link")
                assert url.scheme == "https"
                assert url.raw_user is None
    return True


_READING = {"pull", "metadata_read"}
_HEADERS = (
    'Bearer realm="https://auth.test/token",service="registry.test",scope="repository:team/app:pull,push registry:catalog:*"',
    'Basic realm="x", Bearer realm="https://auth.test/token?a=\\"b\\"",error="insufficient_scope", Negotiate abc==',
    '</v2/team/app/tags/list?n=5&last=1.0>; rel="next", <https://registry.test/x> ; title="a, b" ; rel=prev',
    "bytes=0-499",
    "bytes=-1",
    "bytes=500-",
    "120",
    "Wed, 21 Oct 2026 07:28:00 GMT",
    "Wednesday, 21-Oct-26 07:28:00 +0130 (a)",
    "https://registry.test:5000/v2/?a=%2F#x",
    "//[::1]:80/x",
)


# -- names ----------------------------------------------------------------------------------------------------------

_ROUTER = Router(("docker.io", "ghcr.io", "localhost:5000"), {"mirror.test": "ghcr.io"}, "docker.io")
_GLOBS = tuple(map(Pattern.compile, ("**", "docker.io/**/a-?", "*/*/*", "**/a/**/b*", "https://github.com/acme/*/x.yml@refs/*")))


def names(data: bytes) -> bool:
    """The same text as a client's request target, an image's name, a digest, a tag, a media type."""
    text = data.decode("utf-8", "surrogateescape")
    for glob in _GLOBS:
        glob.matches(text)
    evidence_tag(text)
    bundle_version(text)
    for read in (_request, _reference, _digest):
        read(text)
    return True


def _request(text: str) -> None:
    try:
        asked = parse_request.__wrapped__(text)
        if asked.name:
            routed = _ROUTER.route(asked.name, asked.ns, None)
            assert ".." not in str(routed).split("/")
            assert routed.registry in _ROUTER.upstreams
    except MalformedRequest as error:
        _refused(error)


def _refused(problem: MalformedRequest) -> None:
    assert 400 <= problem.status < 500
    assert str(problem)


def _reference(text: str) -> None:
    with suppress(MalformedName):
        parsed = Reference.parse(text)
        assert Reference.parse(str(parsed)) == parsed


def _digest(text: str) -> None:
    with suppress(MalformedName):
        assert str(Digest.parse(text)) == text


_NAMES = (
    "/v2/",
    "/v2/ghcr.io/team/app/manifests/1.0?ns=docker.io",
    f"/v2/library/busybox/blobs/sha256%3A{IMAGE.digest.hex}",
    "/v2/app/tags/list?n=5&last=a",
    f"/v2/localhost:5000/app/referrers/{IMAGE.digest}?artifactType=application/vnd.x+json",
    f"ghcr.io/team/app:1.0@{IMAGE.digest}",
    "localhost:5000/a_b/c__d/e--f:latest",
    "[::1]:5000/a",
    f"sha512:{'0' * 128}",
    f"sha256-{IMAGE.digest.hex}.sig",
    "application/vnd.dev.sigstore.bundle+json;version=0.3",
)

TARGETS = (
    Target(
        "manifest", manifest, (), tuple(_manifests()), largest=4 << 20, words=("mediaType", "urls", "data"), told=False, seconds=1
    ),
    Target("lists", lists, (NotAList,), tuple(_lists()), longest=8 << 10, largest=4 << 20, seconds=1, told=False),
    Target(
        "answers",
        answers,
        (),
        tuple(_answers()),
        longest=8 << 10,
        largest=64 << 10,
        words=("errors", "error_description"),
        seconds=1,
        told=False,
    ),
    Target(
        "headers",
        headers,
        (),
        tuple(each.encode() for each in _HEADERS),
        longest=8 << 10,
        largest=8 << 10,
        words=("realm=", "scope=", '; rel="next"', "bytes=", "https://"),
        seconds=1,
        told=False,
    ),
    Target(
        "names",
        names,
        (),
        tuple(each.encode() for each in _NAMES),
        longest=4 << 10,
        largest=4 << 10,
        words=("/manifests/", "?ns="),
        seconds=1,
        told=False,
    ),
)
