"""Services for people, by apprise, against a receiver of JSON."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator, Sequence
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Self

import pytest

from proxy.policy.alerts import Apprise, SecretSource
from proxy.sinks import people
from proxy.sinks.model import Kind
from proxy.sinks.people import PeopleSink, parse_urls
from storage.records import EventType, Severity
from tests.simulator.sink import Receiver, Reply
from tests.tools import PATIENCE, free_port
from tests.unit.sinks.values import message


def json_url(receiver: Receiver, path: str = "token-s3cret") -> str:
    """A URL of apprise for a receiver, with a secret in its path."""
    return f"json://{receiver.url.removeprefix('http://').removesuffix('hook')}{path}"


def sink(folder: Path, *urls: str, digest: bool = False, timeout: float = 30) -> PeopleSink:
    """A sink with these URLs in a file."""
    (folder / "urls").write_text("# for the team\n" + "\n".join(urls))
    return PeopleSink(Apprise(SecretSource(folder / "urls")), timeout, digest=digest)


async def test_an_event_is_one_message_to_each_service(tmp_path: Path) -> None:
    """Title, text and how grave it is."""
    async with Receiver() as one, Receiver() as two:
        answer = await sink(tmp_path, json_url(one), json_url(two)).send([message(severity=Severity.CRITICAL)])
        assert answer.kind is Kind.TAKEN
        assert answer.words == "2 services took it"
        for receiver in (one, two):
            (post,) = receiver.posts
            assert post.json["title"] == "[critical] tag.overwritten: docker.io/library/nginx:1.27"
            assert post.json["message"].startswith("it was overwritten")
            assert post.json["type"] == "failure"


async def test_a_digest_is_one_message_for_many_events(tmp_path: Path) -> None:
    """With a table."""
    async with Receiver() as receiver:
        many = [message(1), message(2, EventType.TAG_CREATED, subject="docker.io/library/nginx:new"), message(3, resolved=True)]
        assert (await sink(tmp_path, json_url(receiver), digest=True).send(many)).taken
        (post,) = receiver.posts
    assert post.json["title"] == "Tagstone: 3 events (2 warning, 1 info)"
    assert "docker.io/library/nginx:new" in post.json["message"]


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """What comes to the root logger, where ours listens, at any level."""
    lines: list[str] = []

    class Listening(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.name != "aiohttp.access":  # the receiver's own
                lines.append(record.getMessage())

    root, handler = logging.getLogger(), Listening()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield lines
    root.setLevel(level)
    root.removeHandler(handler)


class Mailbox:
    """An SMTP server (RFC 5321) that takes every mail and keeps it."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mailbox.example\r\n")
        while line := await reader.readline():
            match line[:4].upper():
                case b"EHLO":
                    writer.write(b"250 mailbox.example\r\n")
                case b"DATA":
                    writer.write(b"354 go on\r\n")
                    mail = (await reader.readuntil(b"\r\n.\r\n")).replace(b"\r\n..", b"\r\n.")
                    self.mails.append(message_from_bytes(mail, policy=policy.default))
                    writer.write(b"250 taken\r\n")
                case b"QUIT":
                    writer.write(b"221 bye\r\n")
                    break
                case _:
                    writer.write(b"250 ok\r\n")
        await writer.drain()
        writer.close()


async def test_a_digest_is_a_mail_with_a_table(tmp_path: Path) -> None:
    """As HTML, with what upstreams say as text, and as text for those who read that."""
    async with Mailbox() as mailbox:
        url = f"mailto://127.0.0.1:{mailbox.port}?from=tagstone@example.com&to=team@example.com&mode=insecure"
        answer = await sink(tmp_path, url, digest=True).send([message(1, words="<b>bold</b>"), message(2, EventType.TAG_CREATED)])
        assert answer.taken, answer.words
        (mail,) = mailbox.mails
    assert mail["Subject"] == "Tagstone: 2 events (1 warning, 1 info)"
    assert "team@example.com" in mail["To"]
    page = mail.get_body(("html",))
    assert page is not None
    assert "<td>tag.created</td>" in page.get_content()
    assert "&lt;b&gt;bold" in page.get_content()


async def test_only_what_failed_is_tried_again(tmp_path: Path, logged: list[str]) -> None:
    """Of two services one is down: the other is not told twice; why is said without a word of the URLs."""
    down = [True]
    async with Receiver() as good, Receiver(lambda _: Reply(500 if down[0] else 200, body="s3cret")) as bad:
        asked = sink(tmp_path, json_url(good), json_url(bad))
        answer = await asked.send([message()])
        assert answer.kind is Kind.FAILED
        assert answer.words == "JSON answered 500"
        down[0] = False
        assert (await asked.send([message()])).taken
        assert (len(good.posts), len(bad.posts)) == (1, 2)
        assert (await asked.send([message(2)])).taken
        assert (len(good.posts), len(bad.posts)) == (2, 3)
    assert not any("s3cret" in line for line in logged)


async def test_while_one_service_is_down_the_other_is_told_everything_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several messages wait for it then, and are tried in turn; of how many that is remembered has an end."""
    told: list[tuple[str, str]] = []

    def notify(urls: Sequence[str], words: dict[str, Any], timeout: float, taken: set[str]) -> list[str]:
        told.extend((url, words["body"]) for url in urls)
        taken.update(url for url in urls if url == "json://good")
        return ["JSON answered 500"] if "json://bad" in urls else []

    monkeypatch.setattr(people, "_notify", notify)
    asked = sink(tmp_path, "json://good", "json://bad")
    for _ in range(3):
        for number in (1, 2):
            assert (await asked.send([message(number)])).kind is Kind.FAILED
    assert len([url for url, _ in told if url == "json://good"]) == 2
    assert len([url for url, _ in told if url == "json://bad"]) == 6
    monkeypatch.setattr(people, "REMEMBERED", 1)
    await asked.send([message(3)])
    await asked.send([message(4)])
    assert len(asked._taken) == 2, "it grows no more"


async def test_outages_are_failures_without_secrets(tmp_path: Path) -> None:
    """Nobody there; a URL that apprise does not know; a file that is not there, or holds something else."""
    gone = await sink(tmp_path, f"json://127.0.0.1:{free_port()}/s3cret").send([message()])
    unknown = await sink(tmp_path, "nosuchservice://s3cret").send([message()])
    other = await sink(tmp_path, "s3cret").send([message()])
    missing = PeopleSink(Apprise(SecretSource(tmp_path / "missing")), 20, digest=False)
    absent = await missing.send([message()])
    answers = {"gone": gone, "unknown": unknown, "other": other, "absent": absent}
    assert all(answer.kind is Kind.FAILED and "s3cret" not in answer.words for answer in answers.values())
    assert gone.words == "JSON did not take it"
    assert unknown.words == "URL 1 is none that apprise knows"
    assert "holds something else than apprise URLs" in other.words
    assert "cannot be read" in absent.words


async def test_promise_23_no_redirect_is_followed(tmp_path: Path) -> None:
    """Nor by apprise, whose own default is to follow."""
    async with Receiver() as other, Receiver(lambda _: Reply(302, {"Location": other.url})) as receiver:
        answer = await sink(tmp_path, json_url(receiver)).send([message()])
        assert answer.kind is Kind.FAILED
        assert other.posts == []


async def test_a_service_that_hangs_keeps_only_itself_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attempt ends in time; while its thread lives no second one is begun, and then one is."""
    release, begun = threading.Event(), []

    def hang(urls: Sequence[str], told: dict[str, Any], timeout: float, taken: set[str]) -> list[str]:
        begun.append(urls)
        release.wait(PATIENCE)
        return []

    monkeypatch.setattr(people, "_notify", hang)
    monkeypatch.setattr(people, "PATIENCE", 0.0)
    asked = sink(tmp_path, "json://x", timeout=0.1)
    first = await asked.send([message()])
    assert (first.kind, first.words) == (Kind.FAILED, "no answer within 0.1 s")
    second = await asked.send([message()])
    assert (second.kind, second.words) == (Kind.FAILED, "an earlier attempt has still not ended")
    release.set()
    async with asyncio.timeout(PATIENCE):
        while not (await asked.send([message()])).taken:
            await asyncio.sleep(0.02)
    assert len(begun) == 2


async def test_whatever_a_plugin_raises_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the name of its kind only: its words may hold the URL."""

    def fail(*_: object) -> list[str]:
        raise RuntimeError("json://token-s3cret")

    monkeypatch.setattr(people, "_notify", fail)
    answer = await sink(tmp_path, "json://x").send([message()])
    assert (answer.kind, answer.words) == (Kind.FAILED, "apprise failed (RuntimeError)")


def test_urls_are_read_from_lines_and_blanks() -> None:
    """Each once; comments and empty lines are passed over."""
    assert parse_urls("# team\njson://a json://b\n\n  # more\njson://a\n") == ("json://a", "json://b")
    for text in ("", "# only a comment", " ".join(f"json://{number}" for number in range(33))):
        with pytest.raises(ValueError, match="write 1 to 32"):
            parse_urls(text)
