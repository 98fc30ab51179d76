"""For every N: the Nth system call fails, or is the last one, and nothing is lost or half visible."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from storage.errors import BlobStoreUnavailable
from storage.files import Files
from storage.filesystem import FilesystemBlobStore
from tests.faults.crash import DATA, described
from tests.simulator.origin import Behaviour, Origin
from tests.tools import PATIENCE
from tests.unit.services.ingesting import PIECE, REPOSITORY, Bench, drain
from tests.unit.storage.faulty import FailingFiles, open_files

PROJECT = Path(__file__).parents[2]
BLOB = described()
HALF = len(DATA) // 2
FAULTS = [errno.ENOSPC, errno.EIO, errno.EMFILE, errno.EROFS]


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder in memory where there is one: thousands of fsyncs are not what is tested."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


def assert_nothing_half_visible(root: Path) -> None:
    """Whatever stands below ``blobs`` hashes to its name. Read without the store, so as not to trust it."""
    for path in (root / "blobs").rglob("*"):
        if path.is_file():
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name


def bench_on(root: Path, files: FailingFiles | None = None) -> tuple[Bench, Origin]:
    """A process on ``root``, with an upstream that has the blob."""
    origin = Origin(chunk=10_000)
    origin.add(REPOSITORY, DATA)
    return Bench(root, origin, files=files), origin


async def assert_recovers(root: Path) -> None:
    """A process that is started now has the blob or fetches it, and stores it."""
    bench, _ = bench_on(root)
    await bench.ingest.start()
    assert await bench.pull(BLOB) == DATA
    await bench.ingest.close(10)
    assert await bench.store.read(BLOB.digest, len(DATA)) == DATA
    await bench.store.recover()  # files without a name that anybody would ask for wait for the next start
    assert bench.spools() == []
    assert not (root / "quarantine").exists()
    await bench.store.close()
    assert_nothing_half_visible(root)
    assert open_files(root) == 0


# -- killed --------------------------------------------------------------------------------------------------------------


def kill_at_every_step(folder: Path, scenario: str) -> list[Path]:
    """The folders that processes left behind which were killed at their 1st, 2nd, … system call."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.crash", str(folder), scenario],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [folder / str(nth) for nth in range(1, int(done.stdout.splitlines()[-1]) + 1)]


@pytest.mark.parametrize("restart", ["recovers", "goes on"])
@pytest.mark.parametrize(("scenario", "steps"), [("ingest", 40), ("put", 25)])
async def test_promise_51_killed_at_every_step(scratch: Path, scenario: str, steps: int, restart: str) -> None:
    """kill -9 before any system call of an ingest or put: after it nothing partial is visible, and the next fetch succeeds.

    Both after a restart of the last process (which clears up first), and in another process that was there all the time.
    """
    left_behind = await asyncio.to_thread(kill_at_every_step, scratch / "store", scenario)
    assert len(left_behind) > steps
    resumable = 0
    for root in left_behind:
        assert_nothing_half_visible(root)
        store = FilesystemBlobStore(root)
        assert await store.read(BLOB.digest, len(DATA)) in {None, DATA}
        blob = await store.open(BLOB.digest)
        if blob is not None:
            assert await blob.read() == DATA
            blob.close()
        resumable += any((root / "spool").glob("sha256-*"))
        if restart == "recovers":
            await store.recover()
            assert os.listdir(root / "spool") == []
        await store.close()
        await assert_recovers(root)
    assert bool(resumable) is (scenario == "ingest")


WRITER = """
import asyncio, sys
from pathlib import Path
from storage.filesystem import FilesystemBlobStore
from tests.faults.crash import DATA, described
from tests.simulator.spooling import append

async def main():
    blob = described()
    spool = await FilesystemBlobStore(Path(sys.argv[1])).spool(blob.digest, blob.size)
    await append(spool, DATA[: len(DATA) // 2])
    print("written", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_promise_51_readers_outlive_the_writer_s_process(scratch: Path) -> None:
    """A process that fetches is killed; another one, whose clients read along, goes on from there and they get all of it."""
    root = scratch / "store"
    bench, origin = bench_on(root)
    await bench.ingest.start()
    writer = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, str(root), cwd=PROJECT, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert writer.stdout is not None
        async with asyncio.timeout(PATIENCE):
            assert await writer.stdout.readline() == b"written\n"
        async with await bench.ingest.open(REPOSITORY, BLOB) as source:
            pulling = asyncio.ensure_future(drain(source))
            assert await source.available(0) == HALF
            assert await bench.store.recover() == 0  # it is alive
            assert origin.requests == []
            writer.send_signal(signal.SIGKILL)
            assert await pulling == DATA
    finally:
        if writer.returncode is None:
            writer.kill()
        await writer.wait()
    assert [offset for _, _, offset in origin.requests] == [HALF]
    await bench.ingest.close(10)
    await bench.store.close()
    await assert_recovers(root)


# -- failing -------------------------------------------------------------------------------------------------------------


async def fail_at_every_step(
    folder: Path, fault: int, attempt: Callable[[Path, FailingFiles], Awaitable[bool]], *, lasting: bool = False
) -> list[bool]:
    """Play ``attempt`` with its 1st, 2nd, … system call failing, until none is left to fail; which of them were felt.

    An attempt says whether it got what it wanted, or raises BlobStoreUnavailable with the system's reason. After each,
    nothing half visible may be there, no descriptor open, and a second try must succeed.
    """
    felt: list[bool] = []
    while True:
        root = folder / f"store-{len(felt)}"
        files = FailingFiles()
        files.arm(OSError(fault, os.strerror(fault)), len(felt) + 1, lasting=lasting)
        reason = None
        try:
            assert await attempt(root, files)
        except BlobStoreUnavailable as error:
            reason = str(error)
        if not files.failed:
            assert reason is None
            return felt
        assert reason is None or (os.strerror(fault) in reason and str(root) in reason)
        felt.append(reason is not None)
        assert open_files(root) == 0
        assert_nothing_half_visible(root)
        await assert_recovers(root)


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("fault", FAULTS, ids=errno.errorcode.get)
async def test_promise_52_every_call_of_an_ingest_fails(scratch: Path, fault: int, lasting: bool) -> None:
    """The Nth system call of an ingest fails: the client gets all of the right bytes or the system's reason, never less."""

    async def attempt(root: Path, files: FailingFiles) -> bool:
        bench, origin = bench_on(root, files)
        origin.script(REPOSITORY, Behaviour(break_at=30_000))
        await bench.ingest.start()
        try:
            return await bench.pull(BLOB) == DATA
        finally:
            await bench.ingest.close(10)
            await bench.store.close()

    felt = await fail_at_every_step(scratch, fault, attempt, lasting=lasting)
    assert len(felt) > 30
    assert felt[0]
    assert not felt[-1]  # the last calls seal what is stored: nobody needs to know that they failed


@pytest.mark.parametrize("fault", FAULTS, ids=errno.errorcode.get)
async def test_promise_52_every_call_of_a_put_fails(scratch: Path, fault: int) -> None:
    """The Nth system call of a put fails: it says so, and the blob is there whole or not at all."""

    async def attempt(root: Path, files: FailingFiles) -> bool:
        store = FilesystemBlobStore(root, files=files)
        try:
            await store.put(BLOB.digest, DATA)
        finally:
            await store.close()
        return True

    felt = await fail_at_every_step(scratch, fault, attempt)
    assert len(felt) > 20
    assert felt[0]


@pytest.mark.parametrize("how", ["open", "read"])
@pytest.mark.parametrize("fault", [errno.EIO, errno.EMFILE], ids=errno.errorcode.get)
async def test_promise_52_every_call_of_a_look_fails(scratch: Path, fault: int, how: str) -> None:
    """The Nth system call of a look at an unsealed blob fails: an error or the blob, never an absence, never the quarantine."""

    async def attempt(root: Path, files: FailingFiles) -> bool:
        good = FilesystemBlobStore(root)
        await good.put(BLOB.digest, DATA)
        await good.close()
        (root / "seals").rename(root / "lost")
        store = FilesystemBlobStore(root, files=files)
        try:
            if how == "read":
                return await store.read(BLOB.digest, len(DATA)) == DATA
            blob = await store.open(BLOB.digest)
            if blob is None:
                return False
            blob.close()
            return True
        finally:
            await store.close()

    felt = await fail_at_every_step(scratch, fault, attempt)
    assert len(felt) > 5
    assert felt[0]


@pytest.mark.parametrize("fault", [errno.EIO, errno.EMFILE, errno.EROFS], ids=errno.errorcode.get)
async def test_promise_37_every_call_of_a_quarantine_fails(scratch: Path, fault: int) -> None:
    """The Nth system call on the way of a damaged blob to the quarantine fails: an error or an absence, never the blob."""

    async def attempt(root: Path, files: FailingFiles) -> bool:
        good = FilesystemBlobStore(root)
        await good.put(BLOB.digest, DATA)
        await good.close()
        path = next((root / "blobs").rglob(BLOB.digest.hex))
        path.chmod(0o600)
        path.write_bytes(b"x" + DATA[1:])
        store = FilesystemBlobStore(root, files=files)
        try:
            return await store.open(BLOB.digest) is None
        finally:
            files.disarm()
            assert await store.open(BLOB.digest) is None
            await store.close()
            (damaged,) = (root / "quarantine").iterdir()
            assert damaged.read_bytes() == b"x" + DATA[1:]
            damaged.unlink()
            damaged.parent.rmdir()

    felt = await fail_at_every_step(scratch, fault, attempt)
    assert len(felt) > 15
    assert felt[0]


# -- many at once --------------------------------------------------------------------------------------------------------


class WeighedFiles(Files):
    """Weighs what has left the network and is not on its way to the disk yet."""

    def __init__(self, origin: Origin) -> None:
        self.heaviest = 0
        self._origin = origin
        self._written = 0
        self._mutex = threading.Lock()

    def write(self, fd: int, data: memoryview, offset: int) -> int:
        """Weigh, then write."""
        with self._mutex:
            self.heaviest = max(self.heaviest, self._origin.sent - self._written)
            self._written += len(data)
        return super().write(fd, data, offset)


async def test_promise_56_many_clients_many_blobs_little_memory(scratch: Path) -> None:
    """200 clients, 50 cold blobs: one fetch each, and what is read from the network but not yet written stays bounded."""
    root = scratch / "store"
    origin = Origin(chunk=PIECE // 2)
    blobs = [(origin.add(REPOSITORY, bytes([n]) * (10 * PIECE)), bytes([n])) for n in range(50)]
    files = WeighedFiles(origin)
    bench = Bench(root, origin, files=files, max_concurrent=8)
    await bench.ingest.start()

    async def client(n: int) -> bool:
        descriptor, byte = blobs[n % 50]
        return await bench.pull(descriptor) == byte * descriptor.size

    assert all(await asyncio.gather(*(client(n) for n in range(200))))
    assert len(origin.requests) == 50
    assert origin.most_open == 8
    assert 0 < files.heaviest <= 8 * 5 * PIECE
    await bench.ingest.close(10)
    assert bench.spools() == []
    await bench.store.close()
    assert open_files(root) == 0
