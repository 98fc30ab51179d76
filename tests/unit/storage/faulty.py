"""System calls that fail, wait or are counted: :class:`storage.files.Files` with a seam."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

from storage.files import Files
from tests.tools import PATIENCE

#: What may fail. Giving back (close, unlock) does not: the system releases in any case.
STEPS = (
    "open", "status", "entry", "names", "read_into", "write", "sync", "protect", "make_folder", "rename", "remove", "lock",
)  # fmt: skip


class WatchedFiles(Files):
    """Calls :meth:`step` before every system call that may fail."""

    def step(self, name: str) -> None:
        """Raise :class:`OSError`, wait, count: what the test wants."""


def _watched(name: str) -> Any:
    def call(self: WatchedFiles, *words: Any, **options: Any) -> Any:
        self.step(name)
        return getattr(Files, name)(self, *words, **options)

    return call


for _name in STEPS:
    setattr(WatchedFiles, _name, _watched(_name))


class CountedFiles(WatchedFiles):
    """Counts calls by name."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def step(self, name: str) -> None:
        """Count."""
        self.calls[name] += 1


class FailingFiles(WatchedFiles):
    """Raises ``errno`` (with the system's text) at the Nth call from when :meth:`arm` is called, counting from 1.

    With ``only``, other calls are not counted; with ``lasting``, all later ones fail, too.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._left = 0
        self._error: OSError | None = None
        self._only: str | None = None
        self._lasting = False
        self.failed = 0

    def arm(self, error: OSError, nth: int = 1, *, only: str | None = None, lasting: bool = False) -> None:
        """Fail from now on."""
        with self._mutex:
            self._error, self._left, self._only, self._lasting, self.failed = error, nth, only, lasting, 0

    def disarm(self) -> None:
        """Work again."""
        with self._mutex:
            self._error = None

    def step(self, name: str) -> None:
        """Fail if this is the call."""
        with self._mutex:
            if self._error is None or self._only not in {None, name}:
                return
            self._left -= 1
            if self._left == 0 or (self._lasting and self._left < 0):
                self.failed += 1
                raise OSError(self._error.errno, self._error.strerror)


class WaitingFiles(WatchedFiles):
    """Stops calls of one name until they are let go."""

    def __init__(self, name: str) -> None:
        self.reached = threading.Event()
        self.go = threading.Event()
        self._name = name
        self.on = False

    def step(self, name: str) -> None:
        """Wait if this is the call."""
        if self.on and name == self._name:
            self.reached.set()
            assert self.go.wait(PATIENCE), "nobody let the call go"


def open_files(root: Path) -> int:
    """Descriptors that this process has open on files and folders of the store at ``root``, removed ones included."""
    count = 0
    for link in Path("/proc/self/fd").iterdir():
        try:
            count += str(link.readlink()).startswith(str(root))
        except FileNotFoundError:
            continue  # closed while we look
    return count
