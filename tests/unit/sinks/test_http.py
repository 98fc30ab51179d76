"""What an answer of a sink means, and where nothing is sent."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
import trustme
from aiohttp import web

from proxy.policy.alerts import Http, SecretSource
from proxy.sinks.http import ANSWER, Poster, judge, parse_url
from proxy.sinks.model import Kind
from tests.simulator.sink import Receiver, Reply
from tests.tools import free_port


def poster(url: str, timeout: float = 20, **more: object) -> Poster:
    """A poster for a receiver."""
    return Poster(Http(url, **more), timeout, user_agent="tagstone/test")  # type: ignore[arg-type]  # further fields, by name


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, Kind.TAKEN),
        (202, Kind.TAKEN),
        (204, Kind.TAKEN),
        (301, Kind.FAILED),
        (307, Kind.FAILED),
        (400, Kind.REFUSED),
        (401, Kind.REFUSED),
        (404, Kind.REFUSED),
        (408, Kind.FAILED),
        (410, Kind.GONE),
        (413, Kind.REFUSED),
        (415, Kind.REFUSED),
        (422, Kind.REFUSED),
        (429, Kind.FAILED),
        (500, Kind.FAILED),
        (502, Kind.FAILED),
        (503, Kind.FAILED),
        (599, Kind.FAILED),
    ],
)
def test_what_a_status_means(status: int, kind: Kind) -> None:
    """Taken, may be taken later, will never be taken, wants nothing any more; the words say who answered what."""
    answer = judge(status, {}, b"", "soc.example")
    assert answer.kind is kind
    assert f"soc.example answered {status}" in answer.words


def test_retry_after_is_obeyed_up_to_a_day() -> None:
    """Seconds or a date, by the sink's own clock; nonsense is left alone."""
    assert judge(429, {"Retry-After": "120"}, b"", "x").retry_after == 120
    assert judge(503, {"Retry-After": "999999"}, b"", "x").retry_after == 86400
    now = datetime(2001, 1, 1, tzinfo=UTC)
    then = format_datetime(now + timedelta(minutes=3), usegmt=True)
    assert judge(503, {"Retry-After": then, "Date": format_datetime(now, usegmt=True)}, b"", "x").retry_after == 180
    assert judge(503, {"Retry-After": "soon"}, b"", "x").retry_after is None
    assert judge(200, {"Retry-After": "120"}, b"", "x").retry_after is None


def test_what_a_sink_says_is_one_clean_line() -> None:
    """No control characters, no credentials, no web pages, not too long."""
    assert judge(400, {}, b"bad\r\nlabel \x1b[31m", "x").words == "x answered 400: bad label [31m"
    assert "s3cret" not in judge(400, {}, b"Authorization: Bearer s3cret-token-value", "x").words
    assert judge(500, {}, b"<html><body>oops", "x").words == "x answered 500"
    assert len(judge(400, {}, b"x" * ANSWER, "x").words) < 250


@pytest.mark.parametrize(
    "text", [None, "", "soc.example", "ftp://soc.example/", "https://", "https://x/#y", "http://[::1", "http://x:0/"]
)
def test_what_is_no_address_is_not_repeated(text: str | None) -> None:
    """It may be a secret that stands in the wrong place."""
    with pytest.raises(ValueError, match=r"not of the form https://host/path$"):
        parse_url(text)


async def test_a_request_is_what_was_meant() -> None:
    """Path, query, headers and body; nothing from the environment, no cookies."""
    async with Receiver(lambda _: Reply(204, {"Set-Cookie": "a=b"})) as receiver:
        asked = poster(receiver.url + "?key=1")
        for _ in range(2):
            answer = await asked.post("/api/v2/alerts", b"[]", {"Content-Type": "application/json"})
            assert answer.taken
        await asked.close()
    for post in receiver.posts:
        assert (post.path, post.body) == ("/hook/api/v2/alerts?key=1", b"[]")
        assert post.headers["User-Agent"] == "tagstone/test"
        assert "Cookie" not in post.headers


async def test_credentials_are_shown_and_read_each_time(tmp_path: Path) -> None:
    """A Bearer token from a file that is replaced; a user in the address; an address from a file."""
    token, address = tmp_path / "token", tmp_path / "address"
    async with Receiver() as receiver:
        host = receiver.url.removeprefix("http://")
        address.write_text(f"http://olga:secret@{host}\n")
        for target in (Http(receiver.url, bearer=SecretSource(token)), Http(None, SecretSource(address))):
            asked = Poster(target, 20, user_agent="")
            for number in (1, 2):
                token.write_text(f"token-{number}\n")
                assert (await asked.post("", b"", {})).taken
            await asked.close()
    given = [post.headers["Authorization"] for post in receiver.posts]
    assert given[:2] == ["Bearer token-1", "Bearer token-2"]
    assert given[2].startswith("Basic ")


async def test_a_secret_that_is_not_to_be_had_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says where the secret should be; nothing is sent."""
    monkeypatch.delenv("NO_SUCH_TOKEN", raising=False)
    (tmp_path / "broken").write_text("two\nlines")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "large").write_bytes(b"x" * 70_000)
    async with Receiver() as receiver:
        for source, said in [
            (SecretSource(tmp_path / "missing"), "cannot be read"),
            (SecretSource(variable="NO_SUCH_TOKEN"), "the environment variable NO_SUCH_TOKEN holds nothing"),
            (SecretSource(tmp_path / "broken"), "no header can"),
            (SecretSource(tmp_path / "binary"), "not UTF-8"),
            (SecretSource(tmp_path / "large"), "larger than"),
        ]:
            answer = await poster(receiver.url, bearer=source).post("", b"", {})
            assert answer.kind is Kind.FAILED
            assert said in answer.words
        assert receiver.posts == []


async def test_promise_23_no_redirect_is_followed() -> None:
    """The sink's credentials and events go where the operator said, and nowhere else."""
    async with Receiver() as other, Receiver(lambda _: Reply(307, {"Location": other.url})) as receiver:
        asked = poster(receiver.url)
        answer = await asked.post("", b"event", {})
        await asked.close()
        assert answer.kind is Kind.FAILED
        assert "redirect" in answer.words
        assert other.posts == []


async def test_outages_are_failures_in_plain_words() -> None:
    """Nobody there, no answer in time, an answer that is none."""
    gone = poster(f"http://127.0.0.1:{free_port()}/")
    answer = await gone.post("", b"", {})
    assert (answer.kind, answer.words.endswith("refuses connections")) == (Kind.FAILED, True)
    never = asyncio.Event()
    async with Receiver(lambda _: Reply(wait=never)) as receiver:
        slow = poster(receiver.url, timeout=0.1)
        answer = await slow.post("", b"", {})
        assert answer.kind is Kind.FAILED
        assert "within 0.1 s" in answer.words
        never.set()
        await slow.close()
    await gone.close()

    async def rubbish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"this is no HTTP\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(rubbish, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    asked = poster(f"http://127.0.0.1:{port}/")
    answer = await asked.post("", b"", {})
    assert answer.kind is Kind.FAILED
    await asked.close()
    server.close()
    await server.wait_closed()


async def test_an_endless_answer_is_not_read() -> None:
    """Of what a sink says no more than a little is taken."""

    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 65536)
        except ConnectionError:
            return response

    runner = web.ServerRunner(web.Server(endless))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    asked = poster(f"http://127.0.0.1:{runner.addresses[0][1]}/")
    assert (await asked.post("", b"", {})).taken
    await asked.close()
    await runner.cleanup()


async def test_tls_is_checked_against_the_given_authorities(tmp_path: Path) -> None:
    """A private authority goes into ``ca``; without it the sink is not trusted, and not told anything."""
    authority, port = trustme.CA(), free_port()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    seen: list[str] = []

    async def take(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request.path)
        return web.Response(status=204)

    runner = web.ServerRunner(web.Server(take))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context).start()
    url = f"https://127.0.0.1:{port}/hook"
    trusting, strange = poster(url, ca=tmp_path / "ca.pem"), poster(url)
    assert (await trusting.post("", b"", {})).taken
    answer = await strange.post("", b"", {})
    assert answer.kind is Kind.FAILED
    assert "certificate" in answer.words
    assert seen == ["/hook"]
    await trusting.close()
    await strange.close()
    await runner.cleanup()
