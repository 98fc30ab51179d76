"""Where ``tagstone drift`` is told what runs: files, a command, the API of docker and podman, containerd.

All are bounded in bytes, containers and time. None of them is trusted; what they say is read by :mod:`proxy.drift.workloads`.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeVar

import aiohttp

from proxy.cli import common
from proxy.drift import containerd
from proxy.drift.workloads import MAX_INPUT, Inventory, Workload, read
from proxy.errors import Unexaminable, WorkloadsMalformed
from storage.digest import Digest

_AT_ONCE = 8
_MOST_CONTAINERS = 5000
_MAX_TROUBLE = 64 << 10  #: bytes that a command says of what is wrong
_ID = re.compile(r"[0-9a-f]{12,64}", re.ASCII)

_A = TypeVar("_A")
_B = TypeVar("_B")


class Source:
    """One place where what runs is told. ``str()`` names it for people."""

    async def ask(self) -> Inventory:
        """What runs now. Raises :class:`Unexaminable` and :class:`WorkloadsMalformed`."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Files(Source):
    """What was printed into files; ``-`` is standard input."""

    names: tuple[str, ...]

    def __str__(self) -> str:
        return ", ".join("standard input" if name == "-" else name for name in self.names)

    async def ask(self) -> Inventory:
        """Read them all; a file that is not there is a mistake in the command."""
        found = Inventory()
        for name in self.names:
            try:
                body = await asyncio.to_thread(_read_file, name)
            except OSError as error:
                common.fail(f"{name} cannot be read: {error.strerror or error}", common.USAGE)
            found += await asyncio.to_thread(read, body)
        return found


def _read_file(name: str) -> bytes:
    if name == "-":
        return sys.stdin.buffer.read(MAX_INPUT + 1)
    with Path(name).open("rb") as file:
        return file.read(MAX_INPUT + 1)


@dataclass(frozen=True, slots=True)
class Command(Source):
    """A command that is run anew each time, without a shell."""

    words: tuple[str, ...]
    seconds: float

    @classmethod
    def parse(cls, text: str, seconds: float) -> Command:
        """Split as a shell would. Raises ValueError."""
        words = tuple(shlex.split(text))
        if not words:
            raise ValueError("it is empty")
        return cls(words, seconds)

    def __str__(self) -> str:
        return shlex.join(self.words)

    async def ask(self) -> Inventory:
        """Run it, and read what it prints."""
        body = await _limited(output(self.words, MAX_INPUT), self.seconds)
        return await asyncio.to_thread(read, body)


@dataclass(frozen=True, slots=True)
class Docker(Source):
    """The API of docker, or podman's that is like it, on a Unix socket."""

    socket: Path
    seconds: float
    ended: bool = False

    def __str__(self) -> str:
        return f"docker at {self.socket}"

    async def ask(self) -> Inventory:
        """List the containers and the images, and inspect each container: only that tells the name it was started from."""
        return await _limited(self._ask(), self.seconds)

    async def _ask(self) -> Inventory:
        connector = aiohttp.UnixConnector(str(self.socket), limit=_AT_ONCE)
        try:
            async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=self.seconds)) as session:

                async def get(path: str) -> Inventory | None:
                    async with session.get(f"http://localhost{path}") as response:
                        body = await _bounded(response.content, MAX_INPUT)
                        if response.status == 404:
                            return None
                        if response.status != 200:
                            raise Unexaminable(f"it answers {response.status} to {path}")
                        return await asyncio.to_thread(read, body)

                listed, images = await get(f"/containers/json?all={int(self.ended)}"), await get("/images/json")
                if listed is None or images is None:
                    raise Unexaminable("it answers 404 to /containers/json or /images/json: it is no docker or podman")
                found = await _each(listed.workloads, lambda each: get(f"/containers/{_id(each)}/json"))
        except (aiohttp.ClientError, OSError) as error:
            raise Unexaminable(f"it cannot be asked: {common.plain(str(error))[:200]}") from error
        return sum((each for each in found if each is not None), images)  # what is gone meanwhile does not run


def _id(workload: Workload) -> str:
    if not _ID.fullmatch(workload.id):
        raise WorkloadsMalformed("a container has no ID")
    return workload.id


@dataclass(frozen=True, slots=True)
class Containerd(Source):
    """containerd, asked by ``ctr``: all of its namespaces."""

    socket: Path
    seconds: float

    def __str__(self) -> str:
        return f"containerd at {self.socket}"

    async def ask(self) -> Inventory:
        """The containers of every namespace."""
        return await _limited(self._ask(), self.seconds)

    async def _ask(self) -> Inventory:
        found = Inventory()
        for namespace in containerd.words(await self.ctr("namespaces", "list", "-q")):
            found += await _Namespace(self, namespace).ask()
        return found

    async def ctr(self, *words: str) -> bytes:
        """What ``ctr`` prints."""
        return await output(("ctr", "--address", str(self.socket), *words), containerd.MAX_OUTPUT)


@dataclass(slots=True)
class _Namespace:
    """One namespace of containerd."""

    source: Containerd
    name: str
    _chains: dict[Digest, frozenset[str]] = field(default_factory=dict)

    async def ask(self) -> Inventory:
        names = containerd.words(await self._ctr("containers", "list", "-q"))
        active = containerd.running(await self._ctr("tasks", "list"))
        images = containerd.images(await self._ctr("images", "list"))
        found = await _each(names, lambda name: self._container(name, active))
        there = [each for each in found if each is not None]
        return Inventory(tuple([each.workload if each.workload.claims else await self._made_of(each, images) for each in there]))

    async def _container(self, name: str, active: frozenset[str]) -> containerd.Container | None:
        try:
            info = await self._ctr("containers", "info", name)
        except Unexaminable:
            if name in containerd.words(await self._ctr("containers", "list", "-q")):
                raise
            return None  # it is gone meanwhile
        return containerd.container(info, self.name, active)

    async def _made_of(self, container: containerd.Container, images: dict[str, Digest]) -> Workload:
        """What its image's name means now, if that is what it was made of."""
        digest = images.get(container.workload.image)
        if digest is None:
            return container.made_of(None, "", frozenset())
        if digest not in self._chains:
            self._chains[digest] = frozenset([each async for each in self._chains_of(digest)])
        try:
            snapshot = await self._ctr("snapshots", "--snapshotter", container.snapshotter, "info", container.snapshot)
            parent = containerd.parent(snapshot)
        except Unexaminable:
            parent = ""  # then it is told that it does not fit
        return container.made_of(digest, parent, self._chains[digest])

    async def _chains_of(self, digest: Digest) -> AsyncIterator[str]:
        """What the images that are here of this one are made of: of an index, those of the platforms that were fetched."""
        document = await self._content(digest)
        if document is None:
            return
        for manifest in [await self._content(each) for each in containerd.manifests(document)] or [document]:
            config = None if manifest is None else containerd.config(manifest)
            described = None if config is None else await self._content(config)
            if described is not None and (chain := containerd.chain(described)):
                yield chain

    async def _content(self, digest: Digest) -> bytes | None:
        try:
            return await self._ctr("content", "get", str(digest))
        except Unexaminable:
            return None  # it was never fetched, or is not kept

    async def _ctr(self, *words: str) -> bytes:
        return await self.source.ctr("--namespace", self.name, *words)


# -- bounds ---------------------------------------------------------------------------------------------------------


async def _limited(work: Awaitable[_A], seconds: float) -> _A:
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        raise Unexaminable(f"it did not answer within {seconds:g} s") from None


async def _each(values: Iterable[_A], ask: Callable[[_A], Awaitable[_B]]) -> list[_B]:
    """Ask for each of them, a few at once. Raises the first error."""
    listed = list(values)
    if len(listed) > _MOST_CONTAINERS:
        raise Unexaminable(f"it has more than {_MOST_CONTAINERS} containers")
    turns = asyncio.Semaphore(_AT_ONCE)

    async def one(value: _A) -> _B:
        async with turns:
            return await ask(value)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(value)) for value in listed]
    except BaseExceptionGroup as failed:
        error: BaseException = failed
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
    return [task.result() for task in tasks]


async def output(command: tuple[str, ...], most: int) -> bytes:
    """What a command prints. Raises :class:`Unexaminable` where it cannot be run, fails, or prints more than ``most`` bytes.

    Its processes end with this call, however that ends.
    """
    async with _pipe() as (printed, out), _pipe() as (trouble, err):
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=out.fileno(), stderr=err.fileno(), start_new_session=True
            )
        except OSError as error:
            raise Unexaminable(f"{command[0]} cannot be run: {error.strerror or error}") from error
        out.close()
        err.close()
        said = asyncio.create_task(_some(trouble, _MAX_TROUBLE))
        ended = False
        try:
            body = await _bounded(printed, most)
            told = await said
            code = await process.wait()
            ended = True
        finally:
            if not ended:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # what it started, too
            await process.wait()
            said.cancel()
            await asyncio.wait({said})
    if code != 0:
        lines = told.decode(errors="replace").split("\n")
        raise Unexaminable(f"{command[0]} ended with {code}: {common.plain(next(filter(None, lines), ''))[:300]}")
    return body


@asynccontextmanager
async def _pipe() -> AsyncIterator[tuple[asyncio.StreamReader, BinaryIO]]:
    """A pipe of our own, to read from and to hand out: a process is waited for until asyncio's are closed."""
    source, sink = os.pipe()
    with os.fdopen(sink, "wb", 0) as end:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(source, "rb", 0))
        try:
            yield reader, end
        finally:
            transport.close()


async def _bounded(stream: asyncio.StreamReader | aiohttp.StreamReader, most: int) -> bytes:
    body = bytearray()
    while piece := await stream.read(1 << 16):
        body += piece
        if len(body) > most:
            raise Unexaminable(f"it says more than {most >> 20} MiB")
    return bytes(body)


async def _some(stream: asyncio.StreamReader, most: int) -> bytes:
    """The beginning of what comes; the rest is read, so that nobody waits, and dropped."""
    body = bytearray()
    while piece := await stream.read(1 << 16):
        body += piece[: most - len(body)]
    return bytes(body)
