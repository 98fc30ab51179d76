"""A receiver of alerts over HTTP: in this process, or as one of its own that can be killed.

As a process (``python -m tests.simulator.sink PORT FILE``) it appends what it took to a file, one JSON object a line, and has it
on disk before it answers: what it acknowledged, it has.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from tests.tools import PATIENCE


@dataclass(frozen=True, slots=True)
class Post:
    """One request that arrived."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Its body."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Reply:
    """How one is answered; ``wait``: only after this is set."""

    status: int = 204
    headers: Mapping[str, str] | None = None
    body: str = ""
    wait: asyncio.Event | None = None


class Receiver:
    """Takes every POST; ``answer`` says how, by the requests so far with the new one as the last."""

    def __init__(self, answer: Callable[[list[Post]], Reply] | None = None, port: int = 0) -> None:
        self.posts: list[Post] = []
        self.answer = answer or (lambda _: Reply())
        self._port = port
        self._arrived = asyncio.Condition()

    @property
    def taken(self) -> list[Post]:
        """What arrived; all of it was taken where nothing else was answered."""
        return self.posts

    async def __aenter__(self) -> Self:
        runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self._port)
        await site.start()
        self._runner = runner
        self._port = runner.addresses[0][1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._port}/hook"

    async def wait(self, count: int, seconds: float = PATIENCE) -> list[Post]:
        """The posts, once there are so many at least."""
        async with asyncio.timeout(seconds), self._arrived:
            await self._arrived.wait_for(lambda: len(self.posts) >= count)
        return self.posts

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        post = Post(request.path_qs, request.headers.copy(), await request.read())
        async with self._arrived:
            self.posts.append(post)
            self._arrived.notify_all()
        reply = self.answer(self.posts)
        if reply.wait is not None:
            await reply.wait.wait()
        return web.Response(status=reply.status, headers=reply.headers, text=reply.body)


async def serve(port: int, path: Path) -> None:
    """Be a receiver until killed."""
    with path.open("a", encoding="utf-8") as file:

        def note(posts: list[Post]) -> Reply:
            post = posts.pop()
            line = {"headers": {key.lower(): value for key, value in post.headers.items()}, "body": post.body.decode()}
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
            return Reply()

        async with Receiver(note, port):
            print("ready", flush=True)
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), Path(sys.argv[2])))
