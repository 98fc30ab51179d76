"""What tests of every kind ask of the machine: a program, a free port."""

from __future__ import annotations

import os
import shutil
import socket

import pytest

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
    """A TCP port on 127.0.0.1 that nobody listens on at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
