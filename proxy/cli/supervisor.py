"""Several workers under one small process, which starts them, replaces those that die, and hands signals on.

All signals are blocked here and waited for, so that none arrives in the middle of anything. A worker inherits the block and
lifts it when its own handlers are in place (:func:`heed_signals`): a signal that comes during its start waits for it.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from proxy.cli.common import REFUSED

#: Seconds before a worker that ended is replaced.
RESTART_DELAY = 1.0
_STOP = frozenset({signal.SIGTERM, signal.SIGINT})
_HEEDED = _STOP | {signal.SIGHUP}


def hold_signals() -> None:
    """Let signals wait until :func:`heed_signals`: before that the default would end the process, SIGHUP included."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _HEEDED)


def heed_signals() -> None:
    """Take the signals that came meanwhile, and from now on each as it comes."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEEDED | {signal.SIGCHLD})


def claim(host: str, port: int) -> None:
    """Raise OSError where somebody listens already.

    Workers share their port, and would share it with another server's workers just as well, which then answered a part of
    the pulls by its own rules.
    """
    if port:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port), family=family).close()


@dataclass(frozen=True, slots=True)
class Tie:
    """What binds a worker to its supervisor: two ends of pipes."""

    supervisor: int  #: becomes readable when the supervisor has gone, however that came
    _started: int

    def started(self) -> None:
        """Tell the supervisor that this worker serves."""
        os.write(self._started, b"1")


class Supervisor:
    """Runs ``work(tie)`` in ``count`` processes; ``log`` is a structlog logger.

    SIGHUP calls ``reload`` here first, so that workers which start later know what it found, and is handed on where that says
    that there is something to reload.
    """

    def __init__(self, count: int, work: Callable[[Tie], int], reload: Callable[[], bool], log: Any) -> None:
        self._work = work
        self._reload = reload
        self._log = log
        self._workers: set[int] = set()
        self._due = [0.0] * count  #: when the missing ones are to be started
        self._stopping = False
        self._serving = False
        self._code = 0

    def run(self) -> int:
        """Return when the last worker has ended: 0, or the exit code of the worst of those that were told to end.

        When no worker comes up at all, that is the end, and not tried again: a port that is taken stays taken.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, _HEEDED | {signal.SIGCHLD})
        self._held, alive = os.pipe()
        self._told, self._telling = os.pipe()
        self._alive = alive
        os.set_blocking(self._told, False)
        try:
            while self._workers or self._due:
                self._start_due()
                self._heed(self._next_signal())
        finally:
            for end in (self._held, self._alive, self._told, self._telling):
                os.close(end)
        return self._code

    def _start_due(self) -> None:
        now = time.monotonic()
        for moment in [moment for moment in self._due if moment <= now]:
            self._due.remove(moment)
            pid = os.fork()
            if pid == 0:
                self._be_worker()
            self._workers.add(pid)

    def _be_worker(self) -> None:
        code = REFUSED
        try:
            os.close(self._alive)  # while anybody holds it open, the supervisor seems to live
            os.close(self._told)
            code = self._work(Tie(self._held, self._telling))
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _next_signal(self) -> int | None:
        """The next signal, or None when a worker is due before one comes."""
        if not self._due:
            return signal.sigwait(_HEEDED | {signal.SIGCHLD})
        found = signal.sigtimedwait(_HEEDED | {signal.SIGCHLD}, max(0.0, min(self._due) - time.monotonic()))
        return None if found is None else found.si_signo

    def _heed(self, number: int | None) -> None:
        if number == signal.SIGCHLD:
            self._reap()
        elif number == signal.SIGHUP:
            if self._reload():
                self._send(signal.SIGHUP)
        elif number in _STOP:
            self._stop()

    def _stop(self) -> None:
        self._stopping = True
        self._due.clear()
        self._send(signal.SIGTERM)

    def _send(self, number: int) -> None:
        for pid in self._workers:  # not reaped yet, so that no other process can have got one of these
            os.kill(pid, number)

    def _reap(self) -> None:
        while self._workers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self._workers.discard(pid)
            code = os.waitstatus_to_exitcode(status)
            if self._stopping:
                self._code = max(self._code, abs(code))
                continue
            self._log.error("worker.ended", pid=pid, exit_code=code)
            if self._any_serves():
                self._due.append(time.monotonic() + RESTART_DELAY)
            else:
                self._code = abs(code) or REFUSED
                self._stop()

    def _any_serves(self) -> bool:
        """Whether a worker has ever served."""
        with suppress(BlockingIOError):
            self._serving = self._serving or bool(os.read(self._told, 1))
        return self._serving
