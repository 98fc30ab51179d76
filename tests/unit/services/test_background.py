"""What runs beside the pulls outlives what nobody foresaw."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import cast

import pytest
from structlog.testing import capture_logs

from proxy.services import background
from proxy.services.background import forever
from proxy.services.metrics import Metrics
from proxy.services.news import News
from proxy.services.revision import utc_now
from proxy.services.watched import FileWatch
from storage.digest import Digest
from storage.events import EventStore
from storage.records import Block, Event
from tests.harness import Proxy, until
from tests.simulator.registry import Registry


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long for the next step."""
    monkeypatch.setattr(background, "PAUSE", 0.01)


class Fails:
    """Fails at the first call; the calls that came after it."""

    def __init__(self, error: Exception) -> None:
        self.error: Exception | None = error
        self.calls = 0

    async def __call__(self, *_: object) -> None:
        """Fail, or count."""
        if (error := self.error) is not None:
            self.error = None
            raise error
        self.calls += 1
        await asyncio.sleep(0.01)


@asynccontextmanager
async def failing_once() -> AsyncIterator[None]:
    """Within it one step fails, and one only; that is told with its origin."""
    with capture_logs() as logs:
        yield
    told = [(line["log_level"], line["exc_info"]) for line in logs if line["event"] == "background.failed"]
    assert told == [("error", True)]


async def test_a_step_that_fails_ends_nothing() -> None:
    """The next one comes after a pause; only who owns the task ends it."""
    step = Fails(OSError("no file left"))
    async with failing_once():
        task = asyncio.create_task(forever("steps", step))
        await until(lambda: step.calls > 2)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_a_change_that_could_not_be_taken_over_is_seen_again(tmp_path: Path) -> None:
    """Once it was, nothing happens until the next."""
    changed = Fails(RuntimeError("not foreseen"))
    refused = list[Exception]()
    watch = FileWatch([tmp_path / "file"], changed, refused.append, interval=0.01)
    async with failing_once():
        await watch.start()
        await until(lambda: changed.calls == 1)
        await asyncio.sleep(0.1)
        await watch.close()
    assert changed.calls == 1
    assert refused == []


async def test_files_that_cannot_be_used_now_are_tried_until_they_can(tmp_path: Path) -> None:
    """Also while they stay as they are, since it may have been no fault of theirs; each reason is told once."""
    reasons = iter([OSError("too many open files")] * 3 + [ValueError("no PEM")] * 2)
    calls = list[None]()
    refused = list[str]()

    async def changed() -> None:
        if (error := next(reasons, None)) is not None:
            raise error
        calls.append(None)

    def refuse(error: Exception) -> None:
        refused.append(str(error))

    watch = FileWatch([tmp_path / "file"], changed, refuse, interval=0.01)
    with capture_logs() as logs:
        await watch.start()
        await until(lambda: calls)
        await asyncio.sleep(0.1)
        await watch.close()
    assert (refused, len(calls), logs) == (["too many open files", "no PEM"], 1, [])


async def test_news_go_on_after_one_that_could_not_be_written() -> None:
    """The log has that one."""

    class Pins:
        written: tuple[Event, ...] = ()
        first = Fails(RuntimeError("not foreseen"))

        async def record(self, event: Event) -> bool:
            await self.first()
            self.written = (*self.written, event)
            return False

    pins = Pins()
    news = News(cast("EventStore", pins), Metrics(lambda: ()))
    async with failing_once():
        await news.start()
        for text in ("one", "two"):
            news.damaged(Digest.of(text.encode()), text)
        two = Digest.of(b"two")
        await until(lambda: [event.message for event in pins.written] == [f"the stored blob {two} is damaged: two"])
        await news.close()


async def test_promise_53_notices_are_heeded_after_a_look_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was remembered is forgotten, since it may not be true any more; what comes next is heard."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, rules='rules: [{match: "**", require: first-use}]\n') as proxy:
        application = proxy.application
        forgotten, heard = list[None](), list[object]()
        monkeypatch.setattr(application.gate, "forget", lambda: forgotten.append(None))
        monkeypatch.setattr(application.gate, "notice", heard.append)
        wait = application._notices.wait
        broken = Fails(RuntimeError("not foreseen"))

        async def fragile(since: int) -> object:
            await broken()
            return await wait(since)

        monkeypatch.setattr(application._notices, "wait", fragile)
        image = upstream.image("acme/app", "v1", seed="v1")
        async with failing_once():
            await application.catalog.block(Block(Digest.of(b"one"), "a test", "olga", utc_now()))
            await until(lambda: len(heard) == 1)  # by who waited already; the next wait fails
            await application.catalog.block(Block(Digest.of(b"two"), "a test", "olga", utc_now()))
            await until(lambda: len(heard) == 2)
        assert len(forgotten) == 1
        assert (await proxy.manifest("acme/app", image.digest)).status == 200
