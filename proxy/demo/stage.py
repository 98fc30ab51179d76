"""Where the demonstration plays: a folder of its own, an upstream, a proxy, three clients, somebody on call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import aiohttp

from proxy.configuration import load
from proxy.demo.clients import Client, Way
from proxy.demo.pictures import Picture, Publisher
from proxy.demo.sink import OnCall
from proxy.demo.upstream import Upstream
from proxy.worker import Worker
from storage.database import FILE_NAME, Database
from storage.reference import Repository
from storage.watching import WatchStore

REGISTRY = "registry.demo"
#: Seconds that a rebuilt image waits before its tag follows it: days, in earnest.
COOLDOWN = 3.0

_LISTENING = """\
listen: 127.0.0.1:0
admin: {{listen: "127.0.0.1:0"}}
data_dir: {folder}/data
"""
_CONFIGURATION = """\
check_interval: 0s                   # ask the upstream at every pull
watch: {{interval: 2s, tags_interval: 2s, rate: 1000/s}}
log: {{level: error, pulls: none}}
upstreams:
  {registry}: {{url: "{upstream}", allow_private: true, retries: 0}}
trust:
  refresh: never
  keys:
    publisher: {{file: {folder}/publisher.pub}}
    colleague: {{file: {folder}/colleague.pub}}
rules:
  - match: {registry}/shop/**        # signed by one of two
    require:
      any:
        - signature: {{key: publisher}}
        - signature: {{key: colleague}}
    tags:
      - {{match: latest, on_overwrite: rotate, cooldown: {cooldown:g}s, otherwise: serve-pinned}}
      - {{match: "*", on_overwrite: refuse}}
  - match: {registry}/base/**        # signed by nobody: what was seen first is what a tag means
    require: first-use
  - match: "**"
    require: deny
alerts:
  sinks:
    on-call: {{cloudevents: {{url: "http://127.0.0.1:{sink}/", secret_file: {folder}/webhook.secret}}}}
"""


class Shelf(Protocol):
    """What somebody with the publisher's password can do to an upstream."""

    async def push(self, name: str, tag: str, picture: Picture, publisher: Publisher | None = None) -> None:
        """Upload an image under a tag, which then names it; signed by ``publisher`` where there is one."""
        ...

    async def tag(self, name: str, tag: str, picture: Picture) -> None:
        """Let a tag name an image that is there already."""
        ...

    async def untag(self, name: str, tag: str) -> None:
        """Delete a tag."""
        ...

    async def tamper(self, blob: bytes) -> None:
        """From now on send other bytes of the same length in place of this blob."""
        ...


@dataclass(frozen=True, slots=True)
class Stage:
    """All that a story needs."""

    shelf: Shelf
    publisher: Publisher
    colleague: Publisher  #: believed as well, but somebody else
    on_call: OnCall
    clients: tuple[Client, Client, Client]
    database: Path  #: the proxy's
    cooldown: float = COOLDOWN

    async def listed(self, name: str, seconds: float) -> None:
        """Wait until the proxy has read which tags a repository has: only what comes after that is new. Raises TimeoutError."""
        database = Database(self.database)
        await database.open(read_only=True)
        try:
            async with asyncio.timeout(seconds):
                while not await WatchStore(database).known(Repository.of(REGISTRY, name)):  # noqa: ASYNC110  (another process may write it)
                    await asyncio.sleep(0.05)
        finally:
            await database.close()


def configuration(
    folder: Path, publishers: tuple[Publisher, Publisher], upstream: str, on_call: OnCall, cooldown: float = COOLDOWN
) -> str:
    """What the proxy has to know, but where it listens and keeps its data. Keys and secrets are written below ``folder``."""
    for name, publisher in zip(("publisher", "colleague"), publishers, strict=True):
        (folder / f"{name}.pub").write_bytes(publisher.public_pem)
    (folder / "webhook.secret").write_text(on_call.secret)
    return _CONFIGURATION.format(folder=folder, registry=REGISTRY, upstream=upstream, sink=on_call.port, cooldown=cooldown)


@asynccontextmanager
async def clients(url: str) -> AsyncIterator[tuple[Client, Client, Client]]:
    """Three who pull through the proxy at ``url``."""
    async with aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(total=60)) as session:
        ways = (("node-1", Way.CONTAINERD), ("laptop", Way.DOCKER), ("ci", Way.PODMAN))
        first, second, third = (Client(name, way, url, session) for name, way in ways)
        yield first, second, third


@asynccontextmanager
async def stage(folder: Path) -> AsyncIterator[Stage]:
    """Set everything up below ``folder``, which is there, and take it down again; the files stay."""
    publisher, colleague = Publisher(), Publisher()
    async with AsyncExitStack() as exits:
        upstream = await exits.enter_async_context(Upstream(REGISTRY))
        on_call = await exits.enter_async_context(OnCall())
        file = folder / "tagstone.yaml"
        rest = configuration(folder, (publisher, colleague), f"http://127.0.0.1:{upstream.port}", on_call)
        file.write_text(_LISTENING.format(folder=folder) + rest)
        loaded = load(file)
        worker = Worker(loaded, loaded.settings.data_dir)
        await worker.start()
        exits.push_async_callback(worker.close)
        three = await exits.enter_async_context(clients(f"http://127.0.0.1:{worker.ports[0]}"))
        yield Stage(upstream, publisher, colleague, on_call, three, loaded.settings.data_dir / FILE_NAME)
