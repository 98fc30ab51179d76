"""Secrets of sinks: read from a file or the environment each time they are needed, so that they can be replaced at any time."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from proxy.policy.alerts import SecretSource

#: Largest file of secrets, in bytes.
LARGEST = 64 << 10


class SecretUnreadable(Exception):
    """A secret is not to be had, or is none; ``str(error)`` names its place and not what is there."""


async def read(source: SecretSource) -> str:
    """The secret, without blanks around it. Raises :class:`SecretUnreadable`."""
    return await asyncio.to_thread(read_now, source)


def read_now(source: SecretSource) -> str:
    """The same, blocking."""
    text = os.environ.get(source.variable or "") if source.file is None else _read_file(source.file)
    if text is None or not text.strip():
        raise SecretUnreadable(f"{source} holds nothing")
    return text.strip()


def _read_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise SecretUnreadable(f"the file {path} cannot be read: {error.strerror or error}") from error
    if len(content) > LARGEST:
        raise SecretUnreadable(f"the file {path} is larger than {LARGEST} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise SecretUnreadable(f"the file {path} is not UTF-8 text") from None
