"""How far a long look has come, on standard error, where that is a terminal."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.status import Status


class Progress:
    """A line that says what is being done; nothing where nobody looks. Use it as a context manager."""

    def __init__(self) -> None:
        self._status: Status | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console

            self._status = Console(stderr=True).status("opening the data directory")
            self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._status is not None:
            self._status.stop()

    def layers(self, done: int, total: int) -> None:
        """So many layers are read."""
        self.say(f"reading layers: {done} of {total}")

    def entries(self, count: int) -> None:
        """So many entries were looked at."""
        self.say(f"{count} entries")

    def processes(self, count: int) -> None:
        """So many processes were looked at."""
        self.say(f"{count} processes")

    def say(self, text: str) -> None:
        """What is being done. From any thread."""
        if self._status is not None:
            self._status.update(text)
