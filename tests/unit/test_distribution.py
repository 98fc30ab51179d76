"""The registry API's requests: what each path means, and what is refused before anything is looked up."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.distribution import MAX_TAGS, MAX_TARGET, Endpoint, Request, parse
from proxy.errors import MalformedRequest
from storage.digest import Digest

DIGEST = Digest.of(b"manifest")
LONG_DIGEST = Digest.of(b"manifest", "sha512")
ENCODED = str(DIGEST).replace(":", "%3A")


def attempt(target: str) -> Request | MalformedRequest:
    """What ``target`` means, or why it means nothing."""
    try:
        return parse(target)
    except MalformedRequest as problem:
        return problem


def refused(target: str) -> tuple[int, str, str]:
    """Status, code and message of the refusal of ``target``."""
    problem = attempt(target)
    assert isinstance(problem, MalformedRequest)
    return problem.status, problem.code, str(problem)


def request(endpoint: Endpoint, target: str, **values: Any) -> Request:
    """The request that is expected of ``target``."""
    return Request(endpoint, target.partition("?")[0], **values)


# -- what is served -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/v2/", "/v2", "/v2/?ns=docker.io", "/v2/?%ff"])
def test_the_ping_depends_on_nothing(target: str) -> None:
    """The version check is answered whatever stands behind it (end-1)."""
    assert parse(target).endpoint is Endpoint.PING


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        pytest.param(
            "/v2/nginx/manifests/latest",
            request(Endpoint.MANIFEST, "/v2/nginx/manifests/latest", name="nginx", tag="latest"),
            id="manifest by tag",
        ),
        pytest.param(
            f"/v2/docker.io/library/nginx/manifests/{DIGEST}",
            request(
                Endpoint.MANIFEST,
                f"/v2/docker.io/library/nginx/manifests/{DIGEST}",
                name="docker.io/library/nginx",
                digest=DIGEST,
            ),
            id="manifest by digest",
        ),
        pytest.param(
            f"/v2/a/b/manifests/{LONG_DIGEST}?ns=ghcr.io",
            request(Endpoint.MANIFEST, f"/v2/a/b/manifests/{LONG_DIGEST}", name="a/b", digest=LONG_DIGEST, ns="ghcr.io"),
            id="manifest by sha512, with ns",
        ),
        pytest.param(
            f"/v2/a/manifests/{ENCODED}",
            request(Endpoint.MANIFEST, f"/v2/a/manifests/{DIGEST}", name="a", digest=DIGEST),
            id="the colon of a digest, encoded",
        ),
        pytest.param(
            "/v2/localhost%3a5000/a/manifests/v1",
            request(Endpoint.MANIFEST, "/v2/localhost:5000/a/manifests/v1", name="localhost:5000/a", tag="v1"),
            id="the colon of a port, encoded in lower case",
        ),
        pytest.param(
            f"/v2/a/blobs/{DIGEST}?ns=r.example%3A5000",
            request(Endpoint.BLOB, f"/v2/a/blobs/{DIGEST}", name="a", digest=DIGEST, ns="r.example:5000"),
            id="blob, with an encoded ns",
        ),
        pytest.param("/v2/a/tags/list", request(Endpoint.TAGS, "/v2/a/tags/list", name="a"), id="tags"),
        pytest.param(
            "/v2/a/tags/list?n=10&last=v1.0",
            request(Endpoint.TAGS, "/v2/a/tags/list", name="a", n=10, last="v1.0"),
            id="tags, paged",
        ),
        pytest.param(
            "/v2/a/tags/list?n=0&last=", request(Endpoint.TAGS, "/v2/a/tags/list", name="a", n=0), id="tags, none of them"
        ),
        pytest.param(
            f"/v2/a/referrers/{DIGEST}",
            request(Endpoint.REFERRERS, f"/v2/a/referrers/{DIGEST}", name="a", digest=DIGEST),
            id="referrers",
        ),
        pytest.param(
            f"/v2/a/referrers/{DIGEST}?artifactType=application%2Fvnd.example%2Bjson",
            request(
                Endpoint.REFERRERS,
                f"/v2/a/referrers/{DIGEST}",
                name="a",
                digest=DIGEST,
                artifact_type="application/vnd.example+json",
            ),
            id="referrers, filtered",
        ),
        pytest.param(
            "/v2/a/tags/manifests/list",
            request(Endpoint.MANIFEST, "/v2/a/tags/manifests/list", name="a/tags", tag="list"),
            id="a repository named like an endpoint",
        ),
        pytest.param(
            "/v2/a/manifests/tags/list",
            request(Endpoint.TAGS, "/v2/a/manifests/tags/list", name="a/manifests"),
            id="the last components decide",
        ),
        pytest.param(
            "/v2/a/manifests/latest?unknown=1&unknown=2",
            request(Endpoint.MANIFEST, "/v2/a/manifests/latest", name="a", tag="latest"),
            id="unknown parameters are ignored",
        ),
    ],
)
def test_what_a_path_means(target: str, expected: Request) -> None:
    """One path, one request value."""
    assert parse(target) == expected


def test_promise_25_the_number_of_tags_is_clamped() -> None:
    """A client cannot make us allocate what it names (CVE-2023-2253)."""
    assert parse("/v2/a/tags/list?n=1000").n == MAX_TAGS == 1000
    assert parse("/v2/a/tags/list?n=999999999").n == MAX_TAGS


# -- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/v2/../manifests/latest", id="dots that climb"),
        pytest.param("/v2/a/../../b/manifests/latest", id="dots in the middle"),
        pytest.param("/v2/./a/manifests/latest", id="a dot alone"),
        pytest.param("/v2//a/manifests/latest", id="an empty component in front"),
        pytest.param("/v2/a//b/manifests/latest", id="an empty component"),
        pytest.param("/v2//manifests/latest", id="an empty name"),
        pytest.param("/v2/a%2fb/manifests/latest", id="an encoded slash"),
        pytest.param("/v2/a%2Fb/manifests/latest", id="an encoded slash, upper case"),
        pytest.param("/v2/%2e%2e/manifests/latest", id="encoded dots"),
        pytest.param("/v2/a%00/manifests/latest", id="an encoded NUL"),
        pytest.param("/v2/a\x00/manifests/latest", id="a NUL"),
        pytest.param("/v2/a%0d%0a/manifests/latest", id="an encoded line break"),
        pytest.param("/v2/a\r\n/manifests/latest", id="a line break"),
        pytest.param("/v2/a%253Ab/manifests/latest", id="encoded twice"),
        pytest.param("/v2/a%%3A3Ab/manifests/latest", id="encoded within an encoding"),
        pytest.param("/v2/a%/manifests/latest", id="a percent sign alone"),
        pytest.param("/v2/\u00e4/manifests/latest", id="Unicode"),
        pytest.param("/v2/\udc80/manifests/latest", id="a byte that is no text"),
        pytest.param("/v2/%c3%a4/manifests/latest", id="encoded Unicode"),
        pytest.param("/v2/a\\b/manifests/latest", id="a backslash"),
        pytest.param("/v2/a\x7f/manifests/latest", id="a control character"),
        pytest.param("/v2/a\t/manifests/latest", id="a tab"),
    ],
)
def test_promise_19_a_path_that_hides_something_is_refused(path: str) -> None:
    """Nothing is decoded but the colon, nothing is normalised: what would need either has no meaning here."""
    status, code, message = refused(path)
    assert (status, code) == (400, "NAME_INVALID")
    assert message.isprintable()


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/v2/a/manifests/", "TAG_INVALID"),
        ("/v2/a/manifests/.hidden", "TAG_INVALID"),
        ("/v2/a/manifests/..", "TAG_INVALID"),
        ("/v2/a/manifests/" + "a" * 129, "TAG_INVALID"),
        ("/v2/a/manifests/la test", "TAG_INVALID"),
        ("/v2/a/manifests/latest@" + "x", "TAG_INVALID"),
        ("/v2/a/tags/list?last=..", "TAG_INVALID"),
        ("/v2/a/tags/list?last=a%0d%0ab", "TAG_INVALID"),
        ("/v2/a/tags/list?n=", "PAGINATION_NUMBER_INVALID"),
        ("/v2/a/tags/list?n=-1", "PAGINATION_NUMBER_INVALID"),
        ("/v2/a/tags/list?n=1e3", "PAGINATION_NUMBER_INVALID"),
        ("/v2/a/tags/list?n=+5", "PAGINATION_NUMBER_INVALID"),
        ("/v2/a/tags/list?n=%D9%A1", "PAGINATION_NUMBER_INVALID"),  # a digit of another script
        ("/v2/a/tags/list?n=" + "9" * 400, "PAGINATION_NUMBER_INVALID"),
        (f"/v2/a/referrers/{DIGEST}?artifactType=a%0d%0ab", "UNSUPPORTED"),
        (f"/v2/a/referrers/{DIGEST}?artifactType=", "UNSUPPORTED"),
        (f"/v2/a/referrers/{DIGEST}?artifactType=" + "a" * 256, "UNSUPPORTED"),
    ],
)
def test_promise_19_a_malformed_tag_number_or_type_is_refused(path: str, code: str) -> None:
    """Each with the code that the specification has for it, and 400."""
    assert refused(path)[:2] == (400, code)


@pytest.mark.parametrize("endpoint", ["manifests", "blobs", "referrers"])
@pytest.mark.parametrize(
    "text",
    [
        "md5:" + "ab" * 16,
        "sha1:" + "ab" * 20,
        "SHA256:" + "ab" * 32,
        "sha256:" + "AB" * 32,
        "sha256:" + "ab" * 31,
        "sha256:" + "ab" * 33,
        "sha512:" + "ab" * 32,
        "sha256:",
        ":",
        "sha256:..",
        "localhost:5000",
    ],
)
def test_promise_17_a_malformed_digest_is_refused(endpoint: str, text: str) -> None:
    """Unknown, upper-case and short algorithms are 400 DIGEST_INVALID wherever a digest may stand."""
    assert refused(f"/v2/a/{endpoint}/{text}")[:2] == (400, "DIGEST_INVALID")


@pytest.mark.parametrize("endpoint", ["blobs", "referrers"])
def test_blobs_and_referrers_have_no_tags(endpoint: str) -> None:
    """Only manifests are found by tag."""
    assert refused(f"/v2/a/{endpoint}/latest")[:2] == (400, "DIGEST_INVALID")


@pytest.mark.parametrize(
    "query",
    [
        "ns=docker.io&ns=ghcr.io",
        "ns=docker.io&ns=docker.io",
        "ns=docker.io&%6es=ghcr.io",
        "ns=docker.io&n%73=",
        "ns=docker.io&ns",
        "n=1&n=2",
        "last=a&last=b",
        "artifactType=a&artifactType=b",
    ],
)
def test_promise_20_a_parameter_given_twice_is_refused(query: str) -> None:
    """Two readers could each take another one; encoding the name does not hide it."""
    status, code, message = refused(f"/v2/a/manifests/latest?{query}")
    assert (status, code) == (400, "UNSUPPORTED")
    assert "twice" in message


def test_parameters_are_case_sensitive() -> None:
    """``NS`` is another parameter, which nobody reads."""
    assert parse("/v2/a/manifests/latest?NS=ghcr.io&ns=docker.io").ns == "docker.io"


@pytest.mark.parametrize("query", ["ns=%ff%fe", "ns=%c3", "&".join(f"a{i}=1" for i in range(40))])
def test_a_query_that_cannot_be_read_is_refused(query: str) -> None:
    """Encodings that are no text, and more parameters than anybody needs."""
    assert refused(f"/v2/a/manifests/latest?{query}")[:2] == (400, "UNSUPPORTED")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "*",
        "/v1/_ping",
        "/v2x/a/manifests/latest",
        "/V2/a/manifests/latest",
        "//v2/a/manifests/latest",
        "http://host/v2/a/manifests/latest",
        "/v2/_catalog",
        "/v2/tags/list",
        "/v2/manifests/latest",
        "/v2/a/manifests/latest/",
        "/v2/a/manifests",
        "/v2/a/unknown/latest",
        "/v2/a/Manifests/latest",
        "/v2/a/blobs/uploads/",
        "/v2/a/tags/list/",
        "/v2/a/tags",
    ],
)
def test_what_is_no_endpoint_is_not_found(path: str) -> None:
    """Other paths are 404, the catalogue and uploads too."""
    assert refused(path)[:2] == (404, "UNSUPPORTED")


def test_an_endless_target_is_refused() -> None:
    """The longest target that is read is read; one character more is 414."""
    assert MAX_TARGET == 4096
    rest = "/v2/a/manifests/latest?x="
    assert parse(rest + "y" * (MAX_TARGET - len(rest))).tag == "latest"
    assert refused(rest + "y" * (MAX_TARGET - len(rest) + 1))[0] == 414


# -- properties -----------------------------------------------------------------------------------------------------

_pieces = st.sampled_from(
    [
        *(
            "/v2",
            "/",
            "a",
            "acme",
            "manifests",
            "blobs",
            "tags",
            "list",
            "referrers",
            str(DIGEST),
            ENCODED,
            "..",
            "%2f",
            "%",
            ":",
        ),
        *(
            "?",
            "ns=",
            "n=",
            "&",
            "last=",
            "artifactType=",
            "docker.io",
            "latest",
            "\x00",
            "\n",
            "ä",
            "\udcff",
            "+",
            ";",
            "#",
            "10",
        ),
    ]
)


@given(st.text(max_size=60) | st.lists(_pieces, max_size=12).map("".join) | st.lists(_pieces, max_size=12).map("/v2/a/".join))
def test_any_target_is_a_request_or_refused(target: str) -> None:
    """No target raises anything but MalformedRequest with a 4xx; whatever is accepted holds nothing that needs escaping."""
    read = attempt(target)
    if isinstance(read, MalformedRequest):
        assert read.status in {400, 404, 414}
        assert str(read).isprintable()
        return
    assert read.path.isascii()
    assert read.path.isprintable()
    assert "%" not in read.path
    assert (read.tag is None) or (read.digest is None)
    if read.endpoint is Endpoint.PING:
        return
    assert read.path.startswith(f"/v2/{read.name}/")
    assert not {"", ".", ".."} & set(read.name.split("/"))
    assert read.n is None or 0 <= read.n <= MAX_TAGS


@given(
    st.from_regex(r"\A[a-z0-9]{1,8}(/[a-z0-9]{1,8}){0,3}\Z"),
    st.from_regex(r"\A[A-Za-z0-9_][A-Za-z0-9._-]{0,20}\Z"),
    st.binary(max_size=8),
    st.sampled_from(["sha256", "sha512"]),
)
def test_what_clients_write_is_read(name: str, tag: str, data: bytes, algorithm: str) -> None:
    """Requests as clients build them come out with the parts that went in."""
    digest = Digest(algorithm, hashlib.new(algorithm, data).hexdigest())
    assert parse(f"/v2/{name}/manifests/{tag}") == Request(Endpoint.MANIFEST, f"/v2/{name}/manifests/{tag}", name=name, tag=tag)
    assert parse(f"/v2/{name}/manifests/{digest}").digest == digest
    assert parse(f"/v2/{name}/blobs/{digest}").digest == digest
    assert parse(f"/v2/{name}/referrers/{digest}").name == name
    assert parse(f"/v2/{name}/tags/list?last={tag}").last == tag
