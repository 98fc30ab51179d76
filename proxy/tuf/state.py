"""What is known of a TUF repository: one small file, replaced as a whole, read by every process on the data directory."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from proxy.tuf.repository import MAX_TARGET, TufRepository
from storage.errors import StorageError

#: Name of the folder below the data directory that has one folder for each repository.
FOLDER = "tuf"
_NAME = "state.json"
_FORM = 1
#: A target of JSON text may need up to six bytes of JSON for one of its own.
_MAX_STATE = 6 * MAX_TARGET + (64 << 10)


@dataclass(frozen=True, slots=True)
class Versions:
    """Which metadata the trusted root was accepted by."""

    root: int
    timestamp: int
    snapshot: int
    targets: int


@dataclass(frozen=True, slots=True)
class Accepted:
    """The last good answer."""

    body: bytes  #: the trusted root
    versions: Versions
    expires: datetime  #: when the first of the metadata expires
    at: datetime

    @property
    def sha256(self) -> str:
        """Hash of the trusted root, hex."""
        return hashlib.sha256(self.body).hexdigest()


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong, and since when (None: that is not known either)."""

    since: datetime | None
    reason: str

    def __str__(self) -> str:
        return self.reason if self.since is None else f"{self.reason} (since {self.since.astimezone(UTC):%Y-%m-%d %H:%M} UTC)"


@dataclass(frozen=True, slots=True)
class State:
    """Everything that is known. An answer that does not hold stays ``refused`` until a good one comes."""

    asked_at: datetime | None = None  #: the last attempt, however it ended
    accepted: Accepted | None = None
    refused: Trouble | None = None  #: the repository answered with something expired, rolled back or wrongly signed
    unreachable: Trouble | None = None  #: the last attempt was not answered at all

    def believed(self, repository: TufRepository) -> bytes | None:
        """The trusted root that counts: the last one fetched, else the embedded one; None where there is neither.

        An embedded one that begins from newer root metadata than the stored one was accepted by is the newer of the two.
        """
        newer = self.accepted is not None and self.accepted.versions.root < repository.root_version
        if self.accepted is None or (newer and repository.embedded is not None):
            return repository.embedded
        return self.accepted.body

    def after_refusal(self, now: datetime, reason: str) -> State:
        """The same after an answer that does not hold."""
        since = self.refused.since if self.refused is not None else now
        return replace(self, asked_at=now, refused=Trouble(since, reason), unreachable=None)

    def after_silence(self, now: datetime, reason: str) -> State:
        """The same after no answer."""
        since = self.unreachable.since if self.unreachable is not None else now
        return replace(self, asked_at=now, unreachable=Trouble(since, reason))


def folder_of(data_dir: Path, repository: TufRepository) -> Path:
    """Where everything about a repository is kept."""
    return data_dir / FOLDER / repository.folder


#: Changes whenever a state is written; None where there is none that could be looked at.
Mark: TypeAlias = tuple[int, int, int] | None


def mark(folder: Path) -> Mark:
    """See :data:`Mark`."""
    try:
        found = (folder / _NAME).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def read(folder: Path) -> State:
    """What is known. What is damaged is a state in which nothing is decided.

    Raises StorageError where the system does not let it be read now: that says nothing about what is there.
    """
    path = folder / _NAME
    try:
        with path.open("rb") as file:
            body = file.read(_MAX_STATE + 1)
    except (FileNotFoundError, NotADirectoryError):
        return State()
    except OSError as error:
        raise StorageError(f"{_unreadable(path)}: {error.strerror or error}") from error
    if len(body) > _MAX_STATE:
        return _damaged(path, f"it has more than {_MAX_STATE} bytes")
    try:
        return _parse(json.loads(body))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        return _damaged(path, f"it is damaged ({type(error).__name__})")


def write(folder: Path, state: State) -> None:
    """Replace what is known, for good: it survives a crash, and nobody ever reads half of it. Raises StorageError.

    Only for who holds the lock of the folder.
    """
    path, arriving = folder / _NAME, folder / f"{_NAME}.new"
    accepted = state.accepted
    document: dict[str, Any] = {
        "form": _FORM,
        "asked_at": _text(state.asked_at),
        "accepted": accepted
        and {
            "trusted_root": accepted.body.decode(),
            "sha256": accepted.sha256,
            "versions": asdict(accepted.versions),
            "expires": _text(accepted.expires),
            "at": _text(accepted.at),
        },
        "refused": _trouble(state.refused),
        "unreachable": _trouble(state.unreachable),
    }
    try:
        with arriving.open("wb") as file:
            file.write(json.dumps(document, indent=1).encode())
            file.flush()
            os.fsync(file.fileno())
        arriving.replace(path)
        sync_folder(folder)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


def sync_folder(folder: Path) -> None:
    """Return when the names in a folder are on the disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _damaged(path: Path, why: str) -> State:
    return State(refused=Trouble(None, f"{_unreadable(path)}: {why}"))


def _unreadable(path: Path) -> str:
    return f"what is stored of its TUF repository, {path}, cannot be read"


def _parse(document: Mapping[str, Any]) -> State:
    if document["form"] != _FORM:
        raise ValueError("another form")
    found = document["accepted"]
    accepted = None
    if found is not None:
        versions = Versions(**{name: int(version) for name, version in found["versions"].items()})
        body = found["trusted_root"].encode()
        accepted = Accepted(body, versions, datetime.fromisoformat(found["expires"]), datetime.fromisoformat(found["at"]))
        if accepted.sha256 != found["sha256"]:
            raise ValueError("the trusted root is not what was written")
    asked_at = None if document["asked_at"] is None else datetime.fromisoformat(document["asked_at"])
    moments = (asked_at, *(() if accepted is None else (accepted.expires, accepted.at)))
    if any(moment is not None and moment.utcoffset() is None for moment in moments):
        raise ValueError("a time without a zone")
    return State(asked_at, accepted, _read_trouble(document["refused"]), _read_trouble(document["unreachable"]))


def _read_trouble(found: Mapping[str, Any] | None) -> Trouble | None:
    if found is None:
        return None
    return Trouble(None if found["since"] is None else datetime.fromisoformat(found["since"]), str(found["reason"]))


def _trouble(trouble: Trouble | None) -> dict[str, str | None] | None:
    return None if trouble is None else {"since": _text(trouble.since), "reason": trouble.reason}


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat()
