"""What tests of every kind ask of the machine: a program, a free port, patience."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import socket

import pytest

#: Seconds that a test waits for what has to come. Whether it comes is the question, and a busy machine takes its time.
PATIENCE = 180.0
#: Seconds in which it is over, even on a busy machine, if it does not wait for what never comes. Whoever says so sees to it that
#: the wait would be longer; most default timeouts are.
SOON = 8.0
#: Ports for processes of tests: the first, how many for each process of a parallel run, and for how many of these.
_FIRST_PORT, _PORTS, _RANGES = 20_000, 1500, 8
_TURN = itertools.count(random.randrange(_PORTS))
#: Debian keeps servers out of an ordinary user's PATH.
_ALSO = os.pathsep + os.pathsep.join(("/usr/local/sbin", "/usr/sbin", "/sbin"))


def find(name: str) -> str | None:
    """Path of an installed program, or None."""
    return shutil.which(name, path=os.environ.get("PATH", os.defpath) + _ALSO)


def need(name: str) -> str:
    """Path of an installed program; without it the test is skipped on a laptop and fails when ``CI=true``."""
    path = find(name)
    if path is not None:
        return path
    if os.environ.get("CI") == "true":
        pytest.fail(f"{name} is not installed, and CI=true asks for every client and server", pytrace=False)
    pytest.skip(f"{name} is not installed")


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on at the moment.

    Each process of a parallel run has a range of its own, below those that the system hands out by itself.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _RANGES
    first = _FIRST_PORT + worker * _PORTS
    for _ in range(_PORTS):
        port = first + next(_TURN) % _PORTS
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError(f"no port between {first} and {first + _PORTS - 1} is free")
