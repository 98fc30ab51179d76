"""Lock files: what takes several steps is done by one process at a time. The system lets go when the process ends, however."""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path

from storage.files import Owner

_POLL = 0.02


async def locked(path: Path, seconds: float, owner: Owner | None) -> int:
    """The descriptor of the lock file at ``path``, held by this process alone until it is closed. A new file is ``owner``'s.

    Raises :class:`TimeoutError` when somebody else held it for ``seconds``, and :class:`OSError` when it cannot be opened.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if owner is not None:
            owner.take(fd)
        async with asyncio.timeout(seconds):
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    await asyncio.sleep(_POLL)
                else:
                    return fd
    except BaseException:
        os.close(fd)
        raise
