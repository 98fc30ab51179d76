"""Keeping roots fresh in the background: who asks, when, and who is told."""

from __future__ import annotations

import asyncio
import errno
import fcntl
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxy.services import background, refresher
from proxy.services.refresher import Refresher, is_trusted_root
from proxy.tuf.repository import TufRepository
from proxy.tuf.state import State, folder_of, read, write
from tests.harness import until
from tests.simulator.sigstore import PrivateSigstore
from tests.simulator.sigstore.tufserver import Answer, TufServer
from tests.tools import SOON
from tests.unit.tuf.test_refresh import unreadable

SIGSTORE = PrivateSigstore()


class Watched:
    """A refresher on a repository, and what it tells."""

    def __init__(self, data_dir: Path, server: TufServer, repository: TufRepository) -> None:
        self.data_dir = data_dir
        self.server = server
        self.repository = repository
        self.folder = folder_of(data_dir, repository)
        self.told: list[State] = []
        self.refresher = Refresher(data_dir, self.learn)

    async def learn(self, states: Mapping[str, State]) -> None:
        """Take what is told."""
        self.told += [state for folder, state in states.items() if folder == self.repository.folder]

    async def start(self, every: float) -> None:
        """Begin."""
        await self.refresher.start([self.repository], every)

    def count(self) -> int:
        """How many refreshes have begun."""
        return self.server.asked.count("/2.root.json")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TufServer]:
    """A good repository."""
    published = SIGSTORE.tuf_repository(tmp_path / "repository")
    (tmp_path / "root.json").write_bytes(published.bootstrap)
    with TufServer(published.folder) as server:
        yield server


@pytest.fixture
async def watched(tmp_path: Path, server: TufServer) -> AsyncIterator[Watched]:
    """A refresher that is not started yet."""
    repository = TufRepository.of(server.url, (tmp_path / "root.json").read_bytes(), "trusted_root.json")
    watched = Watched(tmp_path / "data", server, repository)
    yield watched
    await watched.refresher.close()


async def test_the_start_waits_for_no_network(watched: Watched) -> None:
    """What is stored is told before anything is asked; what is fetched is told after it."""
    watched.server.answers["/timestamp.json"] = Answer(body=b"{", hangs=True)
    async with asyncio.timeout(SOON):
        await watched.start(3600)
    assert watched.told == [State()]
    await until(lambda: "/timestamp.json" in watched.server.asked)
    assert len(watched.told) == 1


async def test_it_is_asked_once_in_an_interval(watched: Watched) -> None:
    """Not again after a restart either, and by none of several on one data directory."""
    await watched.start(3600)
    await until(lambda: watched.told[-1].accepted is not None)
    others = [Watched(watched.data_dir, watched.server, watched.repository) for _ in range(2)]
    for other in others:
        await other.start(3600)
        assert other.told[-1] == watched.told[-1]
    await asyncio.sleep(0.1)
    for other in others:
        await other.refresher.close()
    assert watched.count() == 1


async def test_several_that_find_it_due_ask_once(watched: Watched) -> None:
    """They start at the same moment with nothing stored."""
    others = [Watched(watched.data_dir, watched.server, watched.repository) for _ in range(3)]
    for other in others:
        await other.start(3600)
    await until(lambda: all(other.told[-1].accepted is not None for other in others))
    for other in others:
        await other.refresher.close()
    assert watched.count() == 1


@pytest.mark.parametrize("asked_at", [None, timedelta(days=1), -timedelta(days=2)], ids=["never", "in the future", "long ago"])
async def test_when_it_is_due_at_once(watched: Watched, asked_at: timedelta | None) -> None:
    """A time in the future comes from a clock that was wrong, and is no reason to wait for it."""
    watched.folder.mkdir(parents=True)
    write(watched.folder, State(None if asked_at is None else datetime.now(UTC) + asked_at))
    await watched.start(86400)
    await until(lambda: watched.told[-1].accepted is not None)


async def test_trouble_is_looked_after_sooner(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Than at the usual time: an outage does not cost a day."""
    monkeypatch.setattr(refresher, "RETRY", 0.05)
    watched.server.all_else = Answer(503)
    with capture_logs() as logs:
        await watched.start(86400)
        await until(lambda: watched.count() >= 3)
        watched.server.all_else = None
        await until(lambda: watched.told[-1].accepted is not None)
    events = [line["event"] for line in logs]
    assert events[0] == "trust.unreachable"
    assert events[-1] == "trust.refreshed"


async def test_never_is_never(watched: Watched) -> None:
    """What somebody else stores is told all the same, and what somebody takes away."""
    await watched.start(0)
    other = Watched(watched.data_dir, watched.server, watched.repository)
    await other.start(3600)
    await until(lambda: watched.told[-1].accepted is not None)
    assert watched.told[-1] == other.told[-1]
    await other.refresher.close()
    assert watched.count() == 1
    (watched.folder / "state.json").unlink()
    await until(lambda: watched.told[-1] == State())


async def test_a_disk_that_refuses_is_told_and_not_asked_all_the_time(watched: Watched) -> None:
    """Nothing can be stored: the next attempt is later."""
    watched.data_dir.write_text("a file")
    with capture_logs() as logs:
        await watched.start(86400)
        await until(lambda: [line["event"] for line in logs] == ["trust.unwritten"])
        await asyncio.sleep(0.2)
    assert len(logs) == 1


async def test_while_somebody_else_asks_it_is_left_alone(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked at again a little later, in case that one went away with nothing written."""
    monkeypatch.setattr(refresher, "_BUSY", 0.05)
    watched.folder.mkdir(parents=True)
    with (watched.folder / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        await watched.start(86400)
        await asyncio.sleep(0.3)
        assert watched.server.asked == []
    await until(lambda: watched.told[-1].accepted is not None)


async def test_without_repositories_there_is_nothing_to_do(watched: Watched) -> None:
    """Until a reload brings one."""
    await watched.refresher.start([], 3600)
    assert watched.told == []
    watched.refresher.follow([watched.repository], 3600)
    await until(lambda: bool(watched.told) and watched.told[-1].accepted is not None)


async def test_what_is_known_is_told_again_after_a_reload(watched: Watched) -> None:
    """The new configuration may have been made from something older."""
    await watched.start(3600)
    await until(lambda: watched.told[-1].accepted is not None)
    count = len(watched.told)
    watched.refresher.follow([watched.repository], 3600)
    await until(lambda: len(watched.told) > count)
    assert watched.told[-1] == read(watched.folder)


async def test_a_refusal_is_told_once_for_each_answer(watched: Watched) -> None:
    """As an error, with the reason."""
    watched.server.answers["/timestamp.json"] = Answer(body=b"nonsense")
    with capture_logs() as logs:
        await watched.start(3600)
        await until(lambda: watched.told[-1].refused is not None)
    (line,) = logs
    assert (line["event"], line["log_level"]) == ("trust.refused", "error")
    assert "answers with what does not hold: it is unreadable" in line["reason"]


@pytest.mark.parametrize("every", [0.0, 3600.0], ids=["never asked", "asked"])
async def test_what_cannot_be_read_now_is_as_it_was(watched: Watched, monkeypatch: pytest.MonkeyPatch, every: float) -> None:
    """A process without a file left keeps what it knows, says so once, and looks until it can read again."""
    monkeypatch.setattr(refresher, "LOOK", 0.02)
    watched.folder.mkdir(parents=True)
    write(watched.folder, State(datetime.now(UTC)))
    await watched.start(every)
    good = watched.told[-1]
    with capture_logs() as logs, monkeypatch.context() as patch:
        unreadable(patch)
        watched.refresher.follow([watched.repository], every)
        await until(lambda: len(watched.told) > 1)
        later = replace(good, asked_at=datetime.now(UTC))
        write(watched.folder, later)
        await asyncio.sleep(0.1)
        assert watched.told == [good, good]
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["trust.unreadable"]
    await until(lambda: watched.told[-1] == later)


async def test_what_cannot_be_read_at_the_start_is_read_later(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is said of it until then."""
    monkeypatch.setattr(refresher, "LOOK", 0.02)
    watched.folder.mkdir(parents=True)
    write(watched.folder, State(datetime.now(UTC)))
    with monkeypatch.context() as patch:
        unreadable(patch)
        await watched.start(3600)
        await asyncio.sleep(0.1)
        assert watched.told == []
    await until(lambda: watched.told == [read(watched.folder)])


async def test_a_process_without_files_left_asks_later(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so, and says nothing about the repository."""
    monkeypatch.setattr(refresher, "RETRY", 0.05)

    def refuse() -> asyncio.AbstractEventLoop:
        raise OSError(errno.EMFILE, "Too many open files")

    with capture_logs() as logs:
        with monkeypatch.context() as patch:
            patch.setattr(asyncio, "new_event_loop", refuse)
            await watched.start(3600)
            await until(lambda: bool(logs))
        await until(lambda: watched.told[-1].accepted is not None)
    assert watched.told[0] == State()
    assert logs[0]["event"] == "trust.unwritten"
    assert logs[0]["error"] == "nothing can be fetched: Too many open files"


async def test_what_could_not_be_taken_over_is_told_again(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever went wrong in who was told: refreshes go on, and he hears of it."""
    monkeypatch.setattr(refresher, "LOOK", 0.02)
    monkeypatch.setattr(background, "PAUSE", 0.01)
    await watched.start(0)
    learn, calls = watched.learn, list[None]()

    async def fails_twice(states: Mapping[str, State]) -> None:
        calls.append(None)
        if len(calls) < 3:
            raise RuntimeError("not foreseen")
        await learn(states)

    monkeypatch.setattr(watched.refresher, "_learn", fails_twice)
    with capture_logs() as logs:
        watched.refresher.follow([watched.repository], 3600)
        await until(lambda: watched.told[-1].accepted is not None)
        await until(lambda: "trust.refreshed" in {line["event"] for line in logs})  # said after it was told
    assert {line["event"] for line in logs} == {"background.failed", "trust.refreshed"}


def test_what_a_trusted_root_must_be() -> None:
    """One that can be read; what is demanded of it is another question."""
    is_trusted_root(SIGSTORE.trusted_root("no log"))
    with pytest.raises(ValueError, match="this trusted root"):
        is_trusted_root(b"{}")
