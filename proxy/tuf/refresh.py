"""Asking a TUF repository for its trusted root (TUF specification 1.0, section 5, by python-tuf).

Metadata is kept between runs, so that a repository that goes back, or stands still, is noticed. One process at a time asks: who
holds the lock of the folder. What the repository says ends in one of three ways, and none of them is an exception:

* *refreshed*: everything holds. The trusted root is stored, and whatever was wrong before is forgotten.
* *refused*: it answered, but with something expired, rolled back, wrongly signed or unreadable. That is stored, and stays until a
  good answer comes: nothing new is decided by this root meanwhile.
* *unreachable*: it did not answer. An outage says nothing; what was good stays good.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import structlog
from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.ngclient import Updater, UpdaterConfig  # type: ignore[attr-defined]  # exported, but not by the typed way

from proxy.tuf import state as states
from proxy.tuf.fetcher import Fetcher
from proxy.tuf.repository import MAX_METADATA, MAX_TARGET, TufRepository
from proxy.tuf.state import Accepted, State, Versions
from storage.errors import StorageError

log = structlog.get_logger("tagstone.trust")

#: How long one refresh may take, all of it.
PATIENCE = 120.0
_ROLES = ("root", "timestamp", "snapshot", "targets")
_LOCK_POLL = 0.05
#: No file left, no memory, an installation that cannot be read: of these no answer is the reason.
_LACKS = (OSError, MemoryError, ImportError)
_KINDS: tuple[tuple[type[RepositoryError], str], ...] = (
    (ExpiredMetadataError, "expired"),
    (BadVersionNumberError, "of a wrong version"),
    (UnsignedMetadataError, "not signed as it must be"),
    (LengthOrHashMismatchError, "not what its metadata says"),
)


class Ended(StrEnum):
    """How a refresh ended."""

    REFRESHED = "refreshed"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    SKIPPED = "skipped"  #: somebody else asks now, or has just asked; or it was stopped


class _Unacceptable(Exception):
    """An answer that python-tuf would take, but that is not what is wanted."""


def refresh(
    repository: TufRepository,
    data_dir: Path,
    fetcher: Fetcher,
    check: Callable[[bytes], object],
    *,
    known: State | None = None,
    wait: float = 0.0,
) -> tuple[Ended, State]:
    """Ask once, and store what came of it. Blocks: for a thread.

    ``check`` raises ValueError for a target that is no trusted root. With ``known``, nothing is asked where somebody else has
    asked since that was read. ``wait``: how long to wait for somebody else who is asking, in seconds. Raises StorageError where
    what is stored cannot be read now, which is then left alone, or cannot be written; nothing else, whatever is sent.
    """
    folder = states.folder_of(data_dir, repository)
    with _lock(folder, wait, fetcher) as locked:
        before = states.read(folder)
        if not locked or (known is not None and known.asked_at != before.asked_at):
            return Ended.SKIPPED, before
        ended, after = _ask(repository, folder, fetcher, check, before)
        if ended is not Ended.SKIPPED:
            states.write(folder, after)
        return ended, after


def _ask(
    repository: TufRepository, folder: Path, fetcher: Fetcher, check: Callable[[bytes], object], before: State
) -> tuple[Ended, State]:
    try:
        accepted = _asked(repository, folder, fetcher, check, before)
    except DownloadLengthMismatchError as error:
        reason = _words(repository, f"it does not end where it must: {error}")
    except DownloadError as error:
        if fetcher.stopped:
            return Ended.SKIPPED, before
        return Ended.UNREACHABLE, before.after_silence(datetime.now(UTC), _clean(error))
    except RepositoryError as error:
        kind = next((words for kind, words in _KINDS if isinstance(error, kind)), "unreadable")
        reason = _words(repository, f"it is {kind}: {error}")
    except _Unacceptable as error:
        reason = _words(repository, str(error))
    except StorageError:
        raise
    except Exception as error:  # whatever it is that was sent, it must not be believed, nor end the refreshes to come
        log.exception("TUF client failed", repository=repository.url)
        reason = _words(repository, f"it cannot be read ({type(error).__name__}, a bug: see the log)")
    else:
        return Ended.REFRESHED, State(accepted.at, accepted)
    return Ended.REFUSED, before.after_refusal(datetime.now(UTC), reason)


def _asked(
    repository: TufRepository, folder: Path, fetcher: Fetcher, check: Callable[[bytes], object], before: State
) -> Accepted:
    """As :func:`_accept`; but StorageError for what this system lacks, which must not be laid at the repository's door."""
    try:
        return _accept(repository, folder, fetcher, check, before)
    except (DownloadError, _Unacceptable):
        raise  # the network's, or found by us in what was read, however it came about
    except Exception as error:
        # python-tuf calls whatever goes wrong while it reads an answer a mistake in that answer, and only names the cause.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, _LACKS):
            cause = cause.__cause__
        if cause is None:
            raise
        told = (isinstance(cause, OSError) and cause.strerror) or str(cause) or type(cause).__name__
        raise StorageError(f"cannot keep TUF metadata in {folder}: {told}") from error


def _accept(
    repository: TufRepository, folder: Path, fetcher: Fetcher, check: Callable[[bytes], object], before: State
) -> Accepted:
    """The trusted root of today. Raises what python-tuf raises, and :class:`_Unacceptable`."""
    metadata = folder / "metadata"
    metadata.mkdir(mode=0o700, exist_ok=True)
    updater = Updater(
        str(metadata),
        repository.url,
        target_base_url=f"{repository.url}/targets/",
        fetcher=fetcher,
        config=_bounds(),
        bootstrap=repository.root,
    )
    updater.refresh()
    target = updater.get_targetinfo(repository.target)
    if target is None:
        raise _Unacceptable(f"it has no target {repository.target}")
    if target.length > MAX_TARGET:
        raise _Unacceptable(f"its target {repository.target} has {target.length} bytes")
    body = None if before.accepted is None else before.accepted.body
    if body is None or not _is(target, body):
        arriving = folder / "target.new"
        updater.download_target(target, str(arriving))
        body = arriving.read_bytes()
        arriving.unlink()
    try:
        body.decode()
        check(body)
    except ValueError as error:
        raise _Unacceptable(f"its target {repository.target} cannot be used: {error}") from error
    _sync(metadata)
    signed = {role: json.loads((metadata / f"{role}.json").read_bytes())["signed"] for role in _ROLES}
    expires = min(datetime.fromisoformat(each["expires"]) for each in signed.values())
    versions = Versions(**{role: signed[role]["version"] for role in _ROLES})
    if before.accepted is not None and (gone_back := _gone_back(before.accepted.versions, versions)) is not None:
        raise _Unacceptable(gone_back)
    return Accepted(body, versions, expires, datetime.now(UTC))


def _gone_back(before: Versions, after: Versions) -> str | None:
    """What python-tuf cannot see where its own metadata was lost, or could not be read; None where nothing went back.

    With a new root the other versions may begin anew: that is how a repository recovers from keys that were stolen (5.3.11).
    """
    for role in _ROLES if after.root == before.root else _ROLES[:1]:
        known, found = getattr(before, role), getattr(after, role)
        if found < known:
            return f"it is of a wrong version: its {role} has version {found}, and had {known} before"
    return None


def _bounds() -> UpdaterConfig:
    return UpdaterConfig(
        max_root_rotations=256,
        max_delegations=8,
        root_max_length=MAX_METADATA,
        timestamp_max_length=16 << 10,
        snapshot_max_length=1 << 20,
        targets_max_length=4 << 20,
    )


def _is(target: Any, body: bytes) -> bool:
    try:
        target.verify_length_and_hashes(body)
    except LengthOrHashMismatchError:
        return False
    return True


def _sync(metadata: Path) -> None:
    """Metadata that was lost in a crash could be rolled back unnoticed."""
    for role in _ROLES:
        descriptor = os.open(metadata / f"{role}.json", os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    states.sync_folder(metadata)


@contextmanager
def _lock(folder: Path, wait: float, fetcher: Fetcher) -> Iterator[bool]:
    """Hold the folder for as long as the block runs; False where somebody else does so for longer than ``wait``."""
    until = time.monotonic() + wait
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(f"cannot keep TUF metadata in {folder}: {error.strerror or error}") from error
    try:
        while not (locked := _try_lock(descriptor)) and time.monotonic() < until and not fetcher.stopped:
            time.sleep(_LOCK_POLL)
        yield locked
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _words(repository: TufRepository, why: str) -> str:
    return _clean(f"its TUF repository {repository.url} answers with what does not hold: {why}")


def _clean(text: object) -> str:
    """One line for people, whatever is in it."""
    return "".join(each if each.isprintable() else "?" for each in str(text))[:500]
