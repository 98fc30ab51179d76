"""The helpers of :mod:`tests.tools`."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.tools import find, free_port, need


def test_an_installed_program_is_found() -> None:
    """The answer is a path that can be run."""
    assert Path(need("sh")).is_file()


def test_servers_are_found_outside_an_ordinary_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian's servers live in /usr/sbin, which an ordinary user's PATH leaves out."""
    monkeypatch.setenv("PATH", "/nonexistent")
    assert any(find(name) for name in ("chroot", "useradd", "nginx"))


def test_a_missing_program_skips_on_a_laptop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside continuous integration the test is skipped, and the reason names the program."""
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no-such-client"):
        need("no-such-client")


def test_a_missing_program_fails_in_continuous_integration(monkeypatch: pytest.MonkeyPatch) -> None:
    """With CI=true nothing is skipped quietly."""
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no-such-client"):
        need("no-such-client")


def test_a_free_port_can_be_listened_on() -> None:
    """Nobody else holds it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_port()))
