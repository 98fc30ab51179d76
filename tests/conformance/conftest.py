"""Fixtures of the conformance tests."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.upstream import network
from tests.harness import WallClock
from tests.simulator.tls import Authority


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> None:
    """For this test 127.0.0.1 is the public Internet; every other address of the loopback stays private."""
    judge = network.is_public
    monkeypatch.setattr(network, "is_public", lambda text: text == "127.0.0.1" or judge(text))


@pytest.fixture(scope="module")
def authority() -> Authority:
    """A certificate authority for registries on https."""
    return Authority()


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder in memory where there is one: these tests wait for the proxy, not for the disk below it."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    """The wall clock of every proxy that this test starts."""
    found = WallClock()
    monkeypatch.setattr("proxy.app.utc_now", found)
    return found
