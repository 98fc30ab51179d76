"""What an observer remembers of a log: its keys, and every checkpoint that it showed, in a file that is only ever appended to.

One JSON object per line, ``{"at": …, "key": …}``, ``{"at": …, "checkpoint": …}`` or ``{"at": …, "fork": …, "problem": …}``. A
last line that was cut off by a crash counts for nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from storage.entries import moment
from storage.notes import Checkpoint, Note, VerifierKey

#: How every line begins.
_BEGINNING = b'{"at": "'


class WatchbookUnusable(ValueError):
    """The file cannot be read, written or believed; ``str(error)`` says why."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The last checkpoint that was accepted."""

    note: bytes
    checkpoint: Checkpoint


class Watchbook:
    """The file, held by one observer at a time. Raises :class:`WatchbookUnusable`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self.keys: tuple[VerifierKey, ...] = ()
        self.last: Seen | None = None
        self._accused = ""

    def __enter__(self) -> Self:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._read()
        except BlockingIOError as error:
            self._close()
            raise WatchbookUnusable(f"{self._path} is in use by another observer") from error
        except OSError as error:
            self._close()
            raise WatchbookUnusable(f"{self._path}: {error.strerror or error}") from error
        except ValueError as error:
            self._close()
            raise WatchbookUnusable(f"{self._path} is damaged: {error}") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()

    def trust(self, key: VerifierKey, at: datetime) -> None:
        """Remember a key. Those of another name are refused: a file is about one log."""
        if key in self.keys:
            return
        if self.keys and key.name != self.keys[0].name:
            raise WatchbookUnusable(f"{self._path} is about {self.keys[0].name}, not {key.name}")
        self._append(at, key=str(key))
        self.keys = (*self.keys, key)

    def accept(self, note: bytes, checkpoint: Checkpoint, at: datetime) -> None:
        """Remember a checkpoint; the next has to extend it."""
        self._append(at, checkpoint=note.decode())
        self.last = Seen(note, checkpoint)

    def accuse(self, note: bytes, problem: str, at: datetime) -> None:
        """Keep what proves that the log is not what it was: a signed note beside the last one that was accepted.

        One that is shown again and again is kept once.
        """
        if (shown := note.decode("utf-8", "replace")) != self._accused:
            self._append(at, fork=shown, problem=problem)
            self._accused = shown

    def _read(self) -> None:
        with os.fdopen(os.dup(self._fd), "rb") as file:
            data = file.read()
        whole, _, rest = data.rpartition(b"\n")
        keys: list[VerifierKey] = []
        for line in whole.splitlines():
            match json.loads(line):
                case {"key": str(key)}:
                    keys.append(VerifierKey.parse(key))
                case {"checkpoint": str(text)}:
                    note = text.encode()
                    self.last = Seen(note, Checkpoint.parse(Note.parse(note).text))
                case {"fork": str(text)}:
                    self._accused = text
                case _:
                    raise ValueError("a line of another kind")
        if not rest.startswith(_BEGINNING[: len(rest)]):
            raise ValueError("it ends with something else than a line that was cut off")  # a file of somebody else, perhaps
        if rest:
            os.ftruncate(self._fd, len(data) - len(rest))
        self.keys = tuple(keys)

    def _append(self, at: datetime, **values: Any) -> None:
        line = json.dumps({"at": moment(at), **values}, ensure_ascii=False).encode() + b"\n"
        try:
            written = os.write(self._fd, line)
            os.fsync(self._fd)
        except OSError as error:
            raise WatchbookUnusable(f"{self._path}: {error.strerror or error}") from error
        if written < len(line):  # the disk is full: the next observer removes what is there of the line
            raise WatchbookUnusable(f"{self._path}: only {written} of {len(line)} bytes could be written")

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
