"""A plain client that neither follows nor decodes: it shows what the simulator really sends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDictProxy
from yarl import URL

from tests.simulator.registry import Registry


@dataclass(frozen=True)
class Got:
    """One answer, or how it broke off (then ``error`` is set)."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes
    error: Exception | None = None


Ask = Callable[..., Coroutine[Any, Any, Got]]


@pytest.fixture
async def ask() -> AsyncIterator[Ask]:
    """``await ask("GET", url, **options)``."""
    timeout = aiohttp.ClientTimeout(total=5)
    async with aiohttp.ClientSession(auto_decompress=False, timeout=timeout) as session:

        async def ask(method: str, url: str, **options: object) -> Got:
            body = b""
            where = URL(url, encoded=True)
            async with session.request(method, where, allow_redirects=False, **options) as answer:  # type: ignore[arg-type]  # passed on
                try:
                    async for piece in answer.content.iter_any():
                        body += piece
                except (aiohttp.ClientError, TimeoutError) as error:
                    return Got(answer.status, answer.headers, body, error)
                return Got(answer.status, answer.headers, body)

        yield ask


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    """An honest registry."""
    async with Registry() as started:
        yield started
