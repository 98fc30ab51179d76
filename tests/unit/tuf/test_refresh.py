"""Refreshing from a real server: what is accepted, refused and merely unreachable, and what is kept between runs."""

from __future__ import annotations

import errno
import fcntl
import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from tuf.api.metadata import Metadata

from proxy import __version__
from proxy.tuf.fetcher import Fetcher
from proxy.tuf.refresh import Ended, refresh
from proxy.tuf.repository import TufRepository
from proxy.tuf.state import State, Versions, folder_of, read, write
from storage.errors import StorageError
from tests.simulator.sigstore import PrivateSigstore
from tests.simulator.sigstore.faults import TUF_FAULTS, TufFault
from tests.simulator.sigstore.tuf import TufRepository as Published
from tests.simulator.sigstore.tufserver import Answer, TufServer
from tests.tools import PATIENCE

SIGSTORE = PrivateSigstore()
#: Faults that are an absence: nobody says anything wrong.
SILENT: tuple[TufFault, ...] = ("target missing",)


class Setting:
    """A published repository, its server, and a client's data directory."""

    def __init__(self, folder: Path, server: TufServer, published: Published) -> None:
        self.server = server
        self.published = published
        self.data_dir = folder / "data"
        self.repository = TufRepository.of(server.url, published.bootstrap, "trusted_root.json")

    def ask(self, *, known: State | None = None, seconds: float = 20.0) -> tuple[Ended, State]:
        """Refresh."""
        with Fetcher(seconds) as fetcher:
            return refresh(self.repository, self.data_dir, fetcher, sound, known=known)

    @property
    def folder(self) -> Path:
        """What is kept of the repository."""
        return folder_of(self.data_dir, self.repository)

    @property
    def stored(self) -> State:
        """The state as another process reads it."""
        return read(self.folder)


def sound(body: bytes) -> None:
    """What stands for a check of the trusted root."""
    if not body.startswith(b"{"):
        raise ValueError("this is no trusted root")


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    """A good repository with its first version."""
    published = SIGSTORE.tuf_repository(tmp_path / "repository")
    with TufServer(published.folder) as server:
        yield Setting(tmp_path, server, published)


def test_a_good_answer_is_stored(setting: Setting) -> None:
    """The trusted root with the versions and the expiry of its metadata, for every process on the data directory."""
    ended, state = setting.ask()
    assert ended is Ended.REFRESHED
    assert state == setting.stored
    assert state.accepted is not None
    assert state.accepted.body == SIGSTORE.trusted_root()
    assert (state.accepted.versions.root, state.accepted.versions.timestamp) == (1, 1)
    assert state.accepted.expires == setting.published.expires
    assert state.believed(setting.repository) == SIGSTORE.trusted_root()
    assert abs(datetime.now(UTC) - state.accepted.at) < timedelta(minutes=1)


def test_what_is_known_is_not_fetched_again(setting: Setting) -> None:
    """A second refresh asks whether there is a newer root and for the timestamp, no more."""
    setting.ask()
    setting.server.asked.clear()
    assert setting.ask()[0] is Ended.REFRESHED
    assert setting.server.asked == ["/2.root.json", "/timestamp.json"]
    assert setting.server.headers[-1]["User-Agent"] == f"tagstone/{__version__}"


def test_a_new_version_and_new_keys(setting: Setting) -> None:
    """What is published next is what counts next, also after the root's keys changed."""
    setting.ask()
    setting.published.publish({"trusted_root.json": b"{second}"})
    assert setting.ask()[1].believed(setting.repository) == b"{second}"
    setting.published.rotate_root()
    setting.published.publish({"trusted_root.json": b"{third}"})
    state = setting.ask()[1]
    assert state.believed(setting.repository) == b"{third}"
    assert state.accepted is not None
    assert (state.accepted.versions.root, state.accepted.versions.timestamp) == (2, 3)


@pytest.mark.parametrize("fault", [fault for fault in TUF_FAULTS if "rolled back" not in fault and fault not in SILENT])
def test_promise_49_a_wrong_answer_is_refused(fault: TufFault, tmp_path: Path) -> None:
    """At the first sight of it as well; nothing of it is believed."""
    published = SIGSTORE.tuf_repository(tmp_path / "repository", fault=fault)
    with TufServer(published.folder) as server:
        setting = Setting(tmp_path, server, published)
        ended, state = setting.ask()
        assert (ended, state.accepted) == (Ended.REFUSED, None)
        assert state == setting.stored
        assert state.refused is not None
        assert "answers with what does not hold" in state.refused.reason


@pytest.mark.parametrize("fault", [fault for fault in TUF_FAULTS if "next root" not in fault and fault not in SILENT])
def test_promise_49_a_wrong_answer_after_a_good_one(fault: TufFault, setting: Setting) -> None:
    """The mark is kept beside the last good root, outlasts an outage, and goes with the next good answer."""
    setting.published.publish(SIGSTORE.tuf_targets())
    good = setting.ask()[1]
    if fault == "root expired":
        setting.published.rotate_root(fault)
    else:
        # Another content, so that the target has to be fetched.
        setting.published.publish({"trusted_root.json": b"{second}"}, fault)
    ended, state = setting.ask()
    assert ended is Ended.REFUSED
    assert state.accepted == good.accepted
    assert state.refused is not None
    assert state.refused.since == state.asked_at
    setting.server.all_else = Answer(503)
    ended, later = setting.ask()
    assert (ended, later.refused) == (Ended.UNREACHABLE, state.refused)
    setting.server.all_else = None
    if fault == "root expired":
        setting.published.rotate_root()
    for _ in range(2):  # past what was rolled back
        setting.published.publish(SIGSTORE.tuf_targets())
    ended, state = setting.ask()
    assert (ended, state.refused, state.unreachable) == (Ended.REFRESHED, None, None)


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "root"])
def test_promise_49_what_went_back_is_seen_without_the_metadata(setting: Setting, role: str) -> None:
    """Where the client's own was lost, or could not be read: the versions are kept beside the trusted root as well."""
    good = setting.ask()[1]
    assert good.accepted is not None
    version = getattr(good.accepted.versions, role)
    later = replace(good, accepted=replace(good.accepted, versions=replace(good.accepted.versions, **{role: version + 5})))
    write(setting.folder, later)
    shutil.rmtree(setting.folder / "metadata")
    ended, state = setting.ask()
    assert (ended, state.accepted) == (Ended.REFUSED, later.accepted)
    assert state.refused is not None
    assert re.search(f"of a wrong version: its {role} has version ., and had {version + 5} before", state.refused.reason)


def test_with_a_new_root_the_other_versions_may_begin_anew(setting: Setting) -> None:
    """So that a repository can recover from an attacker who had its keys and set them to the highest that there is."""
    good = setting.ask()[1]
    assert good.accepted is not None
    write(setting.folder, replace(good, accepted=replace(good.accepted, versions=Versions(1, 99, 99, 99))))
    setting.published.rotate_root()
    setting.published.publish(SIGSTORE.tuf_targets())
    assert setting.ask()[0] is Ended.REFRESHED


def test_promise_49_a_repository_that_stands_still(setting: Setting) -> None:
    """The same, validly signed, is good until it expires, and refused from then on."""
    setting.published.expires = datetime.now(UTC) + timedelta(seconds=2)
    setting.published.publish(SIGSTORE.tuf_targets())
    assert setting.ask()[0] is Ended.REFRESHED
    deadline = time.monotonic() + 10
    while setting.ask()[0] is Ended.REFRESHED:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    refused = setting.stored.refused
    assert refused is not None
    assert "it is expired: timestamp.json is expired" in refused.reason


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Answer(503), "answers 503"),
        (Answer(404), "timestamp.json answers 404"),
        (Answer(302, headers={"Location": "http://127.0.0.1:1/"}), "a redirect, which is not followed"),
        (Answer(200, b"{", {"Content-Encoding": "gzip"}), "a content encoding"),
        (Answer(200, b"{", hangs=True), "did not answer in time"),
    ],
)
def test_an_outage_is_no_verdict(setting: Setting, answer: Answer, told: str) -> None:
    """What is good stays good, whatever stands in the way; since when it has been so is kept."""
    good = setting.ask()[1]
    setting.server.all_else = answer
    ended, state = setting.ask(seconds=0.3 if answer.hangs else 20)
    assert (ended, state.accepted, state.refused) == (Ended.UNREACHABLE, good.accepted, None)
    assert state.unreachable is not None
    assert told in state.unreachable.reason
    later = setting.ask(seconds=0.3 if answer.hangs else 20)[1]
    assert later.unreachable is not None
    assert later.unreachable.since == state.unreachable.since
    setting.server.all_else = None
    assert setting.ask()[1].unreachable is None


def test_the_proxies_of_the_environment_are_used(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """As every other program on the machine does."""
    monkeypatch.setenv("http_proxy", setting.server.url)
    monkeypatch.setenv("no_proxy", "")
    setting.repository = TufRepository.of("http://tuf.invalid", setting.published.bootstrap, "trusted_root.json")
    assert setting.ask()[0] is Ended.UNREACHABLE
    assert setting.server.asked == ["http://tuf.invalid/2.root.json", "http://tuf.invalid/timestamp.json"]


def test_nobody_listens(setting: Setting) -> None:
    """A refused connection and a name that does not resolve are outages."""
    for url in ("http://127.0.0.1:1", "http://nowhere.invalid"):
        setting.repository = TufRepository.of(url, setting.published.bootstrap, "trusted_root.json")
        ended, state = setting.ask()
        assert (ended, state.refused) == (Ended.UNREACHABLE, None)


def test_a_target_missing_is_silence(tmp_path: Path) -> None:
    """A file that the metadata names and that is not there (yet) says nothing."""
    published = SIGSTORE.tuf_repository(tmp_path / "repository", fault="target missing")
    with TufServer(published.folder) as server:
        ended, state = Setting(tmp_path, server, published).ask()
        assert (ended, state.accepted, state.refused) == (Ended.UNREACHABLE, None, None)


@pytest.mark.parametrize(
    ("targets", "told"),
    [
        ({"other.json": b"{}"}, "it has no target trusted_root.json"),
        ({"trusted_root.json": b"nonsense"}, "cannot be used: this is no trusted root"),
        ({"trusted_root.json": b"{\xff"}, "cannot be used"),
        ({"trusted_root.json": b"{" * ((4 << 20) + 1)}, "its target trusted_root.json has 4194305 bytes"),
    ],
)
def test_a_repository_without_a_trusted_root(setting: Setting, targets: dict[str, bytes], told: str) -> None:
    """Rightly signed, but of no use: nothing is decided by it."""
    setting.published.publish(targets)
    ended, state = setting.ask()
    assert ended is Ended.REFUSED
    assert state.refused is not None
    assert told in state.refused.reason


def test_endless_answers_are_cut(setting: Setting) -> None:
    """More than anybody has a use for is not read to its end."""
    setting.server.answers["/timestamp.json"] = Answer(body=b" " * (9 << 20))
    ended, state = setting.ask()
    assert ended is Ended.REFUSED
    assert state.refused is not None
    assert "does not end where it must" in state.refused.reason


def test_who_asked_meanwhile_has_asked_for_all(setting: Setting) -> None:
    """Several processes find at once that it is due: one asks."""
    before = setting.stored
    setting.ask(known=before)
    count = len(setting.server.asked)
    ended, state = setting.ask(known=before)
    assert (ended, len(setting.server.asked)) == (Ended.SKIPPED, count)
    assert state == setting.stored


def test_one_asks_at_a_time(setting: Setting) -> None:
    """Who comes while another asks goes away, or waits as long as it was told to; ``stop`` ends who asks, without a trace."""
    setting.server.answers["/timestamp.json"] = Answer(body=b"{", hangs=True)
    ended: list[tuple[Ended, State]] = []
    with Fetcher(30) as fetcher:
        thread = threading.Thread(target=lambda: ended.append(refresh(setting.repository, setting.data_dir, fetcher, sound)))
        thread.start()
        deadline = time.monotonic() + 10
        while "/timestamp.json" not in setting.server.asked:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert setting.ask()[0] is Ended.SKIPPED
        del setting.server.answers["/timestamp.json"]
        fetcher.stop()
        with Fetcher(30) as other:
            assert refresh(setting.repository, setting.data_dir, other, sound, wait=10)[0] is Ended.REFRESHED
        thread.join(PATIENCE)
    assert [each[0] for each in ended] == [Ended.SKIPPED]


def test_who_waits_for_another_has_all_its_time_left(setting: Setting) -> None:
    """What a refresh may take is reckoned from what it fetches first."""
    setting.folder.mkdir(parents=True)
    with (setting.folder / "lock").open("w") as held, Fetcher(0.5) as fetcher:
        fcntl.flock(held, fcntl.LOCK_EX)
        timer = threading.Timer(0.7, lambda: fcntl.flock(held, fcntl.LOCK_UN))
        timer.start()
        assert refresh(setting.repository, setting.data_dir, fetcher, sound, wait=10)[0] is Ended.REFRESHED
        timer.join()


def test_what_was_stopped_before_it_began(setting: Setting) -> None:
    """Asks nothing."""
    fetcher = Fetcher(30)
    fetcher.stop()
    with fetcher:
        assert refresh(setting.repository, setting.data_dir, fetcher, sound)[0] is Ended.SKIPPED
    fetcher.stop()
    assert setting.server.asked == []


def test_a_bootstrap_that_is_not_signed(setting: Setting) -> None:
    """What the operator gave is checked like everything else."""
    document = json.loads(setting.published.bootstrap)
    setting.repository = TufRepository.of(
        setting.server.url, json.dumps({**document, "signatures": []}).encode(), "trusted_root.json"
    )
    ended, state = setting.ask()
    assert (ended, state.accepted) == (Ended.REFUSED, None)


def test_a_bug_is_no_belief(setting: Setting) -> None:
    """Whatever breaks while an answer is looked at: it is refused, and the log has the rest."""

    def breaks(body: bytes) -> None:
        raise RuntimeError("this was not foreseen")

    with Fetcher(20) as fetcher, capture_logs() as logs:
        ended, state = refresh(setting.repository, setting.data_dir, fetcher, breaks)
    assert (ended, state.accepted) == (Ended.REFUSED, None)
    assert "RuntimeError, a bug: see the log" in str(state.refused)
    assert [line["event"] for line in logs] == ["TUF client failed"]


@pytest.mark.parametrize(
    ("lack", "told"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
        (MemoryError(), "MemoryError"),
        (ImportError("No module named '_strptime'"), "No module named '_strptime'"),
    ],
    ids=["files", "memory", "modules"],
)
def test_what_the_system_lacks_is_not_the_repositorys_fault(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, lack: Exception, told: str
) -> None:
    """While an answer is read: what was known stays as it is, and the root is not suspended."""
    good = setting.ask()[1]
    setting.published.publish(SIGSTORE.tuf_targets())

    def fail(*_: object) -> None:
        raise lack

    words = f"cannot keep TUF metadata in .*: {told}"
    with monkeypatch.context() as patch:
        patch.setattr(Metadata, "from_dict", fail)  # in python-tuf, which wraps it
        with pytest.raises(StorageError, match=words):
            setting.ask()
    assert setting.stored == good
    with Fetcher(20) as fetcher, pytest.raises(StorageError, match=words):
        refresh(setting.repository, setting.data_dir, fetcher, fail)
    assert setting.stored == good
    assert setting.ask()[0] is Ended.REFRESHED


def test_a_disk_that_refuses(setting: Setting, tmp_path: Path) -> None:
    """Is the storage's trouble, and says so."""
    (tmp_path / "data").write_text("a file")
    with pytest.raises(StorageError, match="cannot keep TUF metadata"):
        setting.ask()


def test_what_is_stored_is_refused_where_it_is_damaged(setting: Setting) -> None:
    """Half a file, other content: no decision is made by it until a good answer comes."""
    good = setting.ask()[1]
    path = setting.folder / "state.json"
    whole = path.read_bytes()
    for damaged in (whole[:100], b"[]", whole.replace(b"fulcio", b"fulcia").replace(b"rekor", b"rekur"), b'{"form": 2}', b"\xff"):
        path.write_bytes(damaged)
        state = setting.stored
        assert state.accepted is None
        assert state.refused is not None
        assert str(path) in str(state.refused)
    path.unlink()
    assert setting.stored == State()
    assert setting.ask()[1].believed(setting.repository) == good.believed(setting.repository)


def test_what_cannot_be_read_now_is_not_written_over(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """No verdict on what is there: the attempt ends before anything is asked, and the last good root is there afterwards."""
    good = setting.ask()[1]
    setting.server.asked.clear()
    setting.server.all_else = Answer(503)
    with monkeypatch.context() as patch:
        unreadable(patch)
        with pytest.raises(StorageError, match=r"state\.json, cannot be read: Too many open files"):
            setting.ask()
    assert (setting.stored, setting.server.asked) == (good, [])


def unreadable(patch: pytest.MonkeyPatch) -> None:
    """From now on the process has no file left for states, though they are there and can be looked at."""
    opened = Path.open

    def refuse(path: Path, mode: str = "r", *more: Any, **others: Any) -> Any:
        if path.name == "state.json":
            raise OSError(errno.EMFILE, "Too many open files")
        return opened(path, mode, *more, **others)

    patch.setattr(Path, "open", refuse)


def test_a_state_is_written_whole_or_not_at_all(setting: Setting) -> None:
    """What cannot be written leaves what was there."""
    good = setting.ask()[1]
    (setting.folder / "state.json.new").mkdir()
    with pytest.raises(StorageError, match="cannot write"):
        write(setting.folder, replace(good, accepted=None))
    assert setting.stored == good


def changed(setting: Setting) -> int:
    """Publish another content, so that everything has to be fetched; the version that it has."""
    setting.server.answers = {}
    setting.published.publish({"trusted_root.json": b"{second}"})
    version: int = json.loads((setting.server.folder / "timestamp.json").read_bytes())["signed"]["version"]
    return version


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(role=st.sampled_from(["root", "timestamp", "snapshot", "targets"]), body=st.binary(max_size=300))
@example(role="timestamp", body=b"[" * 10_000)
@example(role="timestamp", body=b'{"signed": null, "signatures": []}')
@example(role="root", body=b'{"signed": {"_type": "root"}, "signatures": [1]}')
@example(role="timestamp", body=b'{"signed": {"_type": "timestamp", "version": 1e400}, "signatures": []}')
@example(role="timestamp", body=b"1" * 10_000)
def test_whatever_bytes_come_only_our_own_ends_come_out(setting: Setting, role: str, body: bytes) -> None:
    """No exception, no belief: refused, with a reason of one line."""
    version = changed(setting)
    path = {"root": "/2.root.json", "timestamp": "/timestamp.json"}.get(role, f"/{version}.{role}.json")
    setting.server.answers = {path: Answer(body=body)}
    ended, state = setting.ask()
    assert (ended, state.accepted) == (Ended.REFUSED, None)
    assert state.refused is not None
    assert state.refused.reason.isprintable()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(role=st.sampled_from(["timestamp", "snapshot", "targets"]), at=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_whatever_becomes_of_good_metadata(setting: Setting, role: str, at: float, byte: int) -> None:
    """A byte changed anywhere in it is refused, or changed nothing that is signed."""
    version = changed(setting)
    name = "timestamp" if role == "timestamp" else f"{version}.{role}"
    body = bytearray((setting.server.folder / f"{name}.json").read_bytes())
    body[int(at * len(body))] = byte
    setting.server.answers = {f"/{name}.json": Answer(body=bytes(body))}
    ended, state = setting.ask()
    assert ended in {Ended.REFUSED, Ended.REFRESHED}
    assert state.believed(setting.repository) in {None, b"{second}"}
