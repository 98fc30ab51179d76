"""The log: what is written where, and that nothing stops because it cannot be written."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import sys
from collections.abc import Iterator

import pytest
import structlog

from proxy.log import configure
from proxy.settings import Log


@pytest.fixture(autouse=True)
def _afterwards() -> Iterator[None]:
    """The logging of the test run is as it was."""
    root = logging.getLogger()
    before, handlers, level = structlog.get_config(), root.handlers[:], root.level
    yield
    structlog.configure(**before)
    root.handlers[:], root.level = handlers, level


class Broken(io.StringIO):
    """A standard error whose disk is full."""

    attempts = 0

    def write(self, text: str) -> int:
        self.attempts += 1
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def flush(self) -> None:
        raise BrokenPipeError


def test_lines_are_json_where_that_is_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    """One object a line, on standard error, also for what libraries log; below the level nothing."""
    configure(Log(format="json", level="warning"))
    structlog.get_logger("tagstone.test").info("unheard")
    structlog.get_logger("tagstone.test").warning("heard", number=3)
    logging.getLogger("library").warning("also %s", "heard")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["event"], line["level"]) for line in lines] == [("heard", "warning"), ("also heard", "warning")]
    assert lines[0]["number"] == 3


def test_no_terminal_obeys_what_clients_call_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters of any kind are shown by their numbers; a traceback keeps its lines."""
    configure(Log())
    odd = "a\x9b2J\u202e\x1b]0;x\x07"
    structlog.get_logger("tagstone.test").warning("pull", agent=odd, why=[odd], said=f"with blanks {odd}")
    structlog.get_logger("tagstone.test").error("failed", exc_info=ValueError("x"))
    told = capsys.readouterr().err
    assert all(each.isprintable() for line in told.splitlines() for each in line), ascii(told)
    assert "agent=a\\u{9b}2J" in told
    assert told.count("pull") == 1
    assert "ValueError: x" in told.splitlines()


def test_promise_52_a_log_that_cannot_be_written_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a full disk below standard error, or nobody who reads it, logging goes on without an error."""
    broken = Broken()
    monkeypatch.setattr(sys, "stderr", broken)
    configure(Log())
    structlog.get_logger("tagstone.test").error("lost")
    logging.getLogger("library").error("lost", exc_info=ValueError("x"))
    assert broken.attempts >= 2
