"""HTTP for python-tuf, by the rules that hold for everything Tagstone asks for.

Certificates by the system's authorities, the environment's proxies (``HTTPS_PROXY``, ``NO_PROXY``), no redirects, no content
encodings, and a bound on everything: the bytes of one answer, and the time of all of them together.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Self

import aiohttp
from tuf.api.exceptions import DownloadError, DownloadHTTPError, DownloadLengthMismatchError, SlowRetrievalError
from tuf.ngclient import FetcherInterface  # type: ignore[attr-defined]  # exported, but not by the typed way
from yarl import URL

from proxy import __version__
from storage.errors import StorageError

#: No answer of a repository is longer than this; python-tuf has a closer bound for each kind.
_LONGEST = 8 << 20
_CONNECT = 15.0
_SILENCE = 30.0


class Fetcher(FetcherInterface):
    """Fetches for one refresh, in the thread that runs it. Only :meth:`stop` may be called from others."""

    def __init__(self, seconds: float) -> None:
        """``seconds``: how long all of it may take together, from the first that is fetched."""
        self._headers = {"User-Agent": f"tagstone/{__version__}", "Accept-Encoding": "identity"}
        self._seconds = seconds
        self._end: float | None = None
        self._stopped = threading.Event()
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._session: aiohttp.ClientSession | None = None
        self._asking: asyncio.Task[bytes] | None = None

    def __enter__(self) -> Self:
        """Raises StorageError where the system has not the means: that says nothing about a repository."""
        try:
            self._loop = self._runner.get_loop()
        except OSError as error:
            raise StorageError(f"nothing can be fetched: {error.strerror or error}") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if self._session is not None:
                self._runner.run(self._session.close())
        finally:
            self._runner.close()

    @property
    def stopped(self) -> bool:
        """Whether it was told to stop: a failure then says nothing about the repository."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """End what is being fetched, and fetch nothing more. From any thread."""
        self._stopped.set()
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended already
                self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._asking is not None:
            self._asking.cancel()

    def _fetch(self, url: str) -> Iterator[bytes]:
        """One answer, whole. Raises :class:`DownloadError` and its kinds."""
        try:
            body = self._runner.run(self._ask(url))
        except asyncio.CancelledError as error:
            raise DownloadError(f"{url}: was not waited for") from error
        except TimeoutError as error:
            raise SlowRetrievalError(f"{url} did not answer in time") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise DownloadError(f"{url} cannot be fetched: {error}") from error
        return iter((body,))

    async def _ask(self, url: str) -> bytes:
        if self._end is None:
            self._end = time.monotonic() + self._seconds
        self._asking = asyncio.create_task(self._get(url))
        try:
            if self._stopped.is_set():
                self._asking.cancel()
            async with asyncio.timeout(max(0.0, self._end - time.monotonic())):
                return await self._asking
        finally:
            self._asking = None

    async def _get(self, url: str) -> bytes:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=_SILENCE)
            self._session = aiohttp.ClientSession(
                headers=self._headers, timeout=timeout, trust_env=True, auto_decompress=False, raise_for_status=False
            )
        async with self._session.get(URL(url, encoded=True), allow_redirects=False) as response:
            if 300 <= response.status < 400:
                raise DownloadHTTPError(f"{url} answers {response.status}, a redirect, which is not followed", response.status)
            if response.status != 200:
                raise DownloadHTTPError(f"{url} answers {response.status}", response.status)
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise DownloadError(f"{url} answers with a content encoding that was not asked for")
            body = bytearray()
            async for piece in response.content.iter_any():
                body += piece
                if len(body) > _LONGEST:
                    raise DownloadLengthMismatchError(f"{url} answers with more than {_LONGEST} bytes")
            return bytes(body)
