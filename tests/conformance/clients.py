"""What the conformance tests of the upstream client share: a client over a simulated world, and a caller that resumes."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiohttp.abc import ResolveResult
from aiohttp.resolver import ThreadedResolver

from proxy.errors import UpstreamUnavailable
from proxy.settings import Limits, Upstream
from proxy.upstream.client import Upstreams
from storage.records import Descriptor
from storage.reference import Repository
from tests.simulator.profiles import World
from tests.simulator.registry import Registry

NAME = "registry.test"
AGENT = "tagstone/test"
#: The repository that most tests use.
REPOSITORY = Repository.of(NAME, "team/app")
#: Another loopback address: another host.
ELSEWHERE = "127.0.0.2"
#: Credentials that must not get about.
SECRET = {"username": "user", "password": "secret"}


class Clock:
    """A monotonic clock that a test moves by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeNames(ThreadedResolver):
    """Names that resolve to addresses of the loopback, as no real name server would have it."""

    def __init__(self, names: Mapping[str, str]) -> None:
        super().__init__()
        self._names = names

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        """As the system does, for another name."""
        return await super().resolve(self._names.get(host, host), port, family)


@asynccontextmanager
async def client_of(
    source: World | Registry,
    *,
    limits: Limits | None = None,
    resolver: FakeNames | None = None,
    clock: Clock | None = None,
    **upstream: Any,
) -> AsyncIterator[Upstreams]:
    """A client of one upstream, whose settings are those of the world, or loopback allowed, and ``upstream`` on top."""
    if isinstance(source, World):
        settings = source.upstream(**upstream)
    else:
        settings = Upstream.model_validate({"url": source.url, "allow_private": True, **upstream})
    client = Upstreams({NAME: settings}, limits or Limits(), user_agent=AGENT, resolver=resolver, clock=clock or time.monotonic)
    try:
        yield client
    finally:
        await client.close()


async def download(client: Upstreams, repository: Repository, descriptor: Descriptor, attempts: int = 1) -> bytes:
    """A blob whole, resumed after interruptions as its callers do it; the last interruption is raised."""
    data = bytearray()
    for left in reversed(range(attempts)):
        try:
            async with client.blob(repository, descriptor, len(data)) as stream:
                del data[stream.offset :]
                async for chunk in stream.chunks():
                    data += chunk
            break
        except UpstreamUnavailable:
            if not left:
                raise
    return bytes(data)
