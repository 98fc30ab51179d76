"""Answers as they go over the wire: status, code, words, headers; and nothing that a stranger could write into them."""

from __future__ import annotations

import asyncio
import json
import time
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from proxy.errors import MalformedRequest
from proxy.policy.decision import Answer
from proxy.services.answers import Refused, Thing
from proxy.settings import Limits
from proxy.web import responses
from storage.digest import Digest
from tests.tools import PATIENCE
from tests.unit.web.wire import connected, listening

DIGEST = Digest.of(b"manifest")
NS = {"OCI-Namespace": "docker.io"}


def body_of(response: web.Response) -> Any:
    """The JSON of an answer."""
    assert isinstance(response.body, bytes)
    return json.loads(response.body)


# -- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("refusal", "status", "code"),
    [
        (Refused(Answer.DENY, ("why",)), 403, "DENIED"),
        (Refused(Answer.DENY, ("why",), Thing.BLOB), 403, "DENIED"),
        (Refused(Answer.ABSENT, ("why",)), 404, "MANIFEST_UNKNOWN"),
        (Refused(Answer.ABSENT, ("why",), Thing.BLOB), 404, "BLOB_UNKNOWN"),
        (Refused(Answer.ABSENT, ("why",), Thing.NAME), 404, "NAME_UNKNOWN"),
        (Refused(Answer.UNAVAILABLE, ("why",)), 503, "UNAVAILABLE"),
    ],
)
def test_each_refusal_has_its_status_and_code(refusal: Refused, status: int, code: str) -> None:
    """One table from answers to OCI error codes."""
    response = responses.refused(refusal, NS)
    assert response.status == status
    assert body_of(response) == {"errors": [{"code": code, "message": "why", "detail": {"reasons": ["why"]}}]}
    assert response.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
    assert response.headers["OCI-Namespace"] == "docker.io"
    assert response.content_type == "application/json"


def test_a_refusal_says_why_in_the_body_and_in_the_reason_phrase() -> None:
    """Some clients show only the one, some only the other."""
    response = responses.refused(Refused(Answer.DENY, ("not signed", "found nothing")), {})
    assert response.reason == "Forbidden: not signed; found nothing"
    (error,) = body_of(response)["errors"]
    assert error["message"] == "not signed; found nothing"
    assert error["detail"]["reasons"] == ["not signed", "found nothing"]


def test_an_outage_says_why_in_the_reason_phrase() -> None:
    """docker, podman, skopeo and containerd show nothing else of a 503."""
    response = responses.refused(Refused(Answer.UNAVAILABLE, ("the upstream cannot be asked now",)), {})
    assert response.reason == "Service Unavailable: the upstream cannot be asked now"


def test_a_reason_phrase_leaves_whole_reasons_out() -> None:
    """A person copies commands and digests from it: what does not fit is not begun."""
    reasons = ("overwritten", f"to accept it: {'x' * 600}", "short")
    assert responses.refused(Refused(Answer.DENY, reasons), {}).reason == "Forbidden: overwritten"
    assert body_of(responses.refused(Refused(Answer.DENY, reasons), {}))["errors"][0]["message"] == "; ".join(reasons)


@pytest.mark.parametrize(("asked", "told"), [(None, "5"), (0.0, "1"), (0.2, "1"), (1.0, "1"), (1.01, "2"), (60.0, "60")])
def test_promise_33_an_outage_says_when_to_come_back(asked: float | None, told: str) -> None:
    """Whole seconds, rounded up, one at least."""
    response = responses.refused(Refused(Answer.UNAVAILABLE, ("down",), retry_after=asked), NS)
    assert response.headers["Retry-After"] == told
    assert response.headers["OCI-Namespace"] == "docker.io"


def test_promise_33_only_an_outage_says_when_to_come_back() -> None:
    """A refusal is not overcome by waiting."""
    for answer in (Answer.DENY, Answer.ABSENT):
        assert "Retry-After" not in responses.refused(Refused(answer, ("no",), retry_after=7.0), {}).headers


def test_a_malformed_request_is_answered_with_its_own_code() -> None:
    """As the parser said it."""
    response = responses.malformed(MalformedRequest(400, "NAME_INVALID", "no name"))
    assert (response.status, response.reason) == (400, "Bad Request")
    assert body_of(response)["errors"][0]["code"] == "NAME_INVALID"


# -- promise 26: what strangers write -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "limit", "line"),
    [
        ("plain", 10, "plain"),
        ("cut…", 10, "cut..."),
        ("two\r\nlines", 20, "two lines"),
        ("\r\n\r\nX: y", 20, "X: y"),
        ("a\x00b\x1b[31mc\x7f", 20, "a?b?[31mc?"),
        ("caf\u00e9 \u2014 \U0001f600", 20, "caf? ? ?"),
        ("half \ud800", 20, "half ?"),
        ("next\u2028line\u0085end", 20, "next line end"),
        ("0123456789", 10, "0123456789"),
        ("0123456789a", 10, "0123456..."),
        ("", 10, ""),
    ],
)
def test_promise_26_text_becomes_one_plain_line(text: str, limit: int, line: str) -> None:
    """Printable ASCII on one line, cut where it is too long."""
    assert responses.plain(text, limit) == line


@given(st.text(max_size=60), st.integers(3, 50))
def test_promise_26_no_text_escapes_its_line(text: str, limit: int) -> None:
    """Whatever comes in, what comes out fits into a status line or a header."""
    line = responses.plain(text, limit)
    assert line.isascii()
    assert line.isprintable()
    assert len(line) <= limit


@given(st.text(max_size=60))
def test_promise_26_no_text_escapes_a_warning(text: str) -> None:
    """A warning is code, agent and one quoted string, without a quote or an escape inside."""
    value = responses.warn(text)
    assert value.startswith('299 - "')
    assert value.endswith('"')
    assert not set(value[7:-1]) & {'"', "\\", "\r", "\n"}
    assert value.isascii()


def test_a_warning_is_cut() -> None:
    """Long enough for two digests and a sentence, short enough for every client's header limits."""
    assert len(responses.warn("x" * 10_000)) < 700
    assert len(responses.refused(Refused(Answer.DENY, ("x" * 10_000,)), {}).reason or "") <= 600


async def test_promise_26_a_hostile_reason_stays_in_its_place() -> None:
    """Over the wire: one status line, no header that was not ours, the words whole in the body."""
    hostile = 'x\r\nSet-Cookie: a=b\r\n\r\n{"y": "\ud800\u00e9\x00'

    async def refuse(_: web.BaseRequest) -> web.StreamResponse:
        return responses.refused(Refused(Answer.DENY, (hostile,)), NS)

    async with listening(refuse) as port, connected(port) as client:
        for method in ("GET", "HEAD", "GET"):
            reply = await client.ask(method=method)
            assert (reply.status, reply.reason) == (403, 'Forbidden: x Set-Cookie: a=b {"y": "???')
            assert "set-cookie" not in reply.headers
            assert int(reply.headers["content-length"]) > 100
            if method == "GET":
                assert json.loads(reply.body)["errors"][0]["message"] == hostile


# -- headers of content ---------------------------------------------------------------------------------------------


def test_headers_of_content() -> None:
    """The digest is ours, the entity tag is the digest, the namespace is echoed, a warning only where there is one."""
    assert responses.content_headers("a/b", DIGEST, None, NS) == {
        "Content-Type": "a/b",
        "Docker-Content-Digest": str(DIGEST),
        "ETag": f'"{DIGEST}"',
        "Docker-Distribution-Api-Version": "registry/2.0",
        "OCI-Namespace": "docker.io",
    }
    assert responses.content_headers("a/b", DIGEST, 'it "moved"', {})["Warning"] == "299 - \"it 'moved'\""


@pytest.mark.parametrize(
    ("given_headers", "known"),
    [
        ([], False),
        ([f'"{DIGEST}"'], True),
        ([f'W/"{DIGEST}"'], True),
        ([str(DIGEST)], True),
        (["*"], True),
        ([" * "], True),
        ([f'"x", "{DIGEST}"'], True),
        ([f'"x",W/"{DIGEST}" , "y"'], True),
        (['"x"', f'"{DIGEST}"'], True),
        (['"x"'], False),
        ([""], False),
        (['"*"'], False),
        (['"*", "x"'], False),
        (["*x"], False),
        ([f'"{DIGEST}x"'], False),
        ([f'"x,{DIGEST}"'], False),
        ([f'"{DIGEST}'], False),
        ([f'w/"{DIGEST}"'], False),
        ([f'"{Digest.of(b"other")}"'], False),
        ([f'"{str(DIGEST).upper()}"'], False),
    ],
)
def test_if_none_match(given_headers: list[str], known: bool) -> None:
    """RFC 9110 §13.1.2: any of the listed tags, by weak comparison, in any of the header's lines; ``*`` stands for all."""
    headers = CIMultiDict([("If-None-Match", value) for value in given_headers])
    assert responses.not_modified(make_mocked_request("GET", "/", headers), DIGEST) is known


# -- answers whose bytes are ready ----------------------------------------------------------------------------------

BODY = b'{"schemaVersion": 2}'
WIRE = responses.Wire(responses.content_headers("a/b", DIGEST, "old news", NS), len(BODY), BODY)


async def prebuilt(request: web.BaseRequest) -> web.StreamResponse:
    """As the registry answers: ready bytes where they fit, the ordinary way elsewhere."""
    if responses.fits_prebuilt(request):
        return responses.Prebuilt(WIRE.bytes(head=request.method == "HEAD"))
    return web.Response(body=BODY, headers=responses.content_headers("a/b", DIGEST, "old news", NS))


async def test_a_prebuilt_answer_is_an_answer() -> None:
    """Many on one connection, HEAD among them, each with every header and the date of now."""
    async with listening(prebuilt) as port, connected(port) as client:
        for method in ("GET", "HEAD", "GET", "GET", "HEAD"):
            reply = await client.ask(method=method)
            assert (reply.status, reply.reason, reply.body) == (200, "OK", b"" if method == "HEAD" else BODY)
            assert reply.headers["content-length"] == str(len(BODY))
            assert reply.headers["docker-content-digest"] == str(DIGEST)
            assert reply.headers["warning"] == '299 - "old news"'
            assert "server" not in reply.headers
            assert abs(parsedate_to_datetime(reply.headers["date"]).timestamp() - time.time()) < 5


async def test_prebuilt_answers_to_pipelined_requests_come_in_order() -> None:
    """Requests sent without waiting are each answered whole, and a request's body is not taken for the next one."""
    async with listening(prebuilt) as port, connected(port) as client:
        await client.send(
            b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nGET /" + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 20
        )
        for _ in range(21):
            assert (await client.reply()).body == BODY


@pytest.mark.parametrize(("version", "connection"), [("1.0", ""), ("1.1", "close"), ("1.0", "keep-alive")])
async def test_a_connection_that_is_not_kept_is_answered_in_the_ordinary_way(version: str, connection: str) -> None:
    """Old clients and clients that want to leave get the same answer, and the end of the connection where it belongs."""
    headers = {"Connection": connection} if connection else {}
    async with listening(prebuilt) as port, connected(port) as client:
        reply = await client.ask(version=version, **headers)
        assert (reply.status, reply.body) == (200, BODY)
        assert reply.headers["docker-content-digest"] == str(DIGEST)
        if connection != "keep-alive":
            assert await client.rest() == b""


async def test_promise_32_a_client_that_does_not_read_gets_no_second_prebuilt_answer() -> None:
    """What is written past aiohttp is bounded: while the first answer waits, the next one takes the way with timeouts."""
    large = responses.Wire({}, 4 << 20, bytes(4 << 20))
    fitted: list[bool] = []
    enough = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        fitted.append(responses.fits_prebuilt(request))
        if len(fitted) == 2:
            enough.set()
        return responses.Prebuilt(large.bytes(head=False)) if fitted[-1] else web.Response()

    async with listening(answer) as port, connected(port, receive_buffer=4096) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
        async with asyncio.timeout(PATIENCE):
            await enough.wait()
        assert fitted == [True, False]


async def test_a_prebuilt_answer_to_a_client_that_has_left_is_dropped() -> None:
    """There is nobody to write to, and nothing breaks."""
    asked, left = asyncio.Event(), asyncio.Event()
    fits: list[bool] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        asked.set()
        await left.wait()
        while request.transport is not None:
            await asyncio.sleep(0.01)
        fits.append(responses.fits_prebuilt(request))
        return responses.Prebuilt(b"never sent")

    async with listening(answer, Limits(drain_timeout=2)) as port:
        async with connected(port) as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            async with asyncio.timeout(PATIENCE):
                await asked.wait()
        left.set()
    assert fits == [False]


def test_the_date_is_built_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same line within a second, another one in the next."""
    line = responses._DateLine()
    monkeypatch.setattr(time, "time", lambda: 1_000_000_000.0)
    first = line.line()
    assert first == b"Date: Sun, 09 Sep 2001 01:46:40 GMT\r\n\r\n"
    monkeypatch.setattr(time, "time", lambda: 1_000_000_000.9)
    assert line.line() is first
    monkeypatch.setattr(time, "time", lambda: 1_000_000_001.0)
    assert line.line() == b"Date: Sun, 09 Sep 2001 01:46:41 GMT\r\n\r\n"


@pytest.mark.parametrize("value", ["a\r\nY: b", "a\nY: b", "a\x00", "\u00e9", "\u2028"])
def test_promise_26_a_header_that_is_none_is_never_sent(value: str) -> None:
    """What would not fit into a header is a mistake here, not a byte on the wire."""
    for headers in ({"X": value}, {value: "x"}):
        with pytest.raises(ValueError):
            responses.Wire(headers, 0, b"")
