"""The installed ``tagstone serve`` as a process of its own, for what cannot be done to the test's: signals, limits."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp

from storage.database import Database
from storage.digest import Digest
from storage.pins import PinStore
from storage.records import Pin
from storage.reference import Reference
from tests.harness import Proxy, until
from tests.tools import PATIENCE, free_port

_SERVING = re.compile(r"\bserving\b.*\badmin_port=(\d+)")
_TAGSTONE = Path(sys.executable).parent / "tagstone"


class Served(Proxy):
    """As :class:`tests.harness.Proxy`, in another process, or in several ``workers``."""

    workers: int = 1
    port: int = 0
    process: asyncio.subprocess.Process

    @property
    def log(self) -> Path:
        """What all its lives have printed."""
        return self.folder / "log"

    async def start(self) -> None:
        """Write the configuration, start the process, wait until it serves; on the same port at each start."""
        self.write()
        self.port = self.port or free_port()
        arguments = ("--listen", f"127.0.0.1:{self.port}", "--workers", str(self.workers))
        with self.log.open("ab") as log:
            before = log.tell()
            self.process = await asyncio.create_subprocess_exec(
                _TAGSTONE, "serve", "--config", self.config, *arguments, stdout=log, stderr=log, cwd=self.folder
            )

        def serving() -> list[str]:
            text = self.log.read_bytes()[before:].decode()
            assert self.process.returncode is None, text
            found = _SERVING.findall(text)
            return found if len(found) == self.workers else []

        await until(serving)
        admin = serving()[0]
        self.admin, self.url = f"http://127.0.0.1:{admin}", f"http://127.0.0.1:{self.port}"
        self._session = aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(total=60))

    async def stop(self) -> None:
        """End it as an operator would, and for certain."""
        if self._session is not None:
            await self._session.close()
            self._session = None
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self.process.wait(), PATIENCE)
            except TimeoutError:
                self.process.kill()
                await self.process.wait()

    async def ended(self, seconds: float = 30.0) -> int:
        """Wait for the end of the process; its exit code."""
        code = await asyncio.wait_for(self.process.wait(), seconds)
        if self._session is not None:
            await self._session.close()
            self._session = None
        return code

    def limit(self, what: int, soft: int | None) -> None:
        """Set a resource limit of the running process; None takes it back."""
        _, hard = resource.prlimit(self.process.pid, what)
        resource.prlimit(self.process.pid, what, (hard if soft is None else soft, hard))

    @property
    def descriptors(self) -> list[int]:
        """What the process has open."""
        return sorted(int(name) for name in os.listdir(f"/proc/{self.process.pid}/fd"))

    async def pin(self, name: str) -> Pin | None:
        """The pin of ``repository:tag``, as another process reads it."""
        reference = Reference.parse(f"{self.name}/{name}")
        async with _reading(self.data_dir) as pins:
            return await pins.get(reference.repository, reference.tag or "latest")

    def stored(self) -> list[Path]:
        """The stored blobs; fails when one does not hash to its name."""
        found = [path for path in (self.data_dir / "blobs").rglob("*") if path.is_file()]
        for path in found:
            algorithm = "sha256" if len(path.name) == 64 else "sha512"
            assert Digest(algorithm, path.name).matches(path.read_bytes()), path
        return found

    def spools(self, least: int = 0) -> list[Path]:
        """What is on its way in, with at least so many bytes. Files come and go while this looks."""
        found = []
        for path in (self.data_dir / "spool").rglob("*"):
            with suppress(FileNotFoundError):
                if path.is_file() and path.stat().st_size >= least:
                    found.append(path)
        return found


@asynccontextmanager
async def _reading(data_dir: Path) -> AsyncIterator[PinStore]:
    database = Database(data_dir / "tagstone.db")
    await database.open(read_only=True)
    try:
        yield PinStore(database)
    finally:
        await database.close()
