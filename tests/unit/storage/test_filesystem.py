"""The store of files: its layout, its seals, and what it does about files that are not what they should be."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.digest import Digest
from storage.errors import BlobStoreUnavailable
from storage.files import Files
from storage.filesystem import FilesystemBlobStore
from tests.unit.storage.conftest import Damage, MakeStore
from tests.unit.storage.faulty import CountedFiles, FailingFiles, WaitingFiles, open_files

DATA = bytes(range(256)) * 100
DIGEST = Digest.of(DATA)


def blob_path(root: Path, digest: Digest = DIGEST) -> Path:
    """Where a blob is kept."""
    return root / "blobs" / digest.algorithm / digest.hex[:2] / digest.hex


def seal_path(root: Path) -> Path:
    """Where a blob's seal is kept."""
    return root / "seals" / "sha256" / DIGEST.hex[:2] / DIGEST.hex


def quarantined(root: Path) -> list[str]:
    """What is in the quarantine."""
    folder = root / "quarantine"
    return os.listdir(folder) if folder.exists() else []


async def opened(store: FilesystemBlobStore) -> bytes | None:
    """The bytes that open() leads to."""
    blob = await store.open(DIGEST)
    if blob is None:
        return None
    data = await blob.read()
    blob.close()
    return data


async def test_the_layout_is_what_operators_are_told(store: FilesystemBlobStore, root: Path) -> None:
    """A blob's file is named by its digest's hex, below its first two characters; nothing is open to other users."""
    await store.put(DIGEST, DATA)
    assert blob_path(root).read_bytes() == DATA
    assert blob_path(root).stat().st_mode & 0o777 == 0o400
    assert seal_path(root).is_file()
    for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
        assert folder.stat().st_mode & 0o777 == 0o700, folder
    spool = await store.spool(Digest.of(b"x"), 1)
    assert spool is not None
    assert (root / "spool" / f"sha256-{Digest.of(b'x').hex}").stat().st_mode & 0o777 == 0o600
    await spool.discard()
    assert store.quarantine_dir() == root / "quarantine"
    assert quarantined(root) == []


async def test_a_sealed_blob_is_not_hashed_again(make_store: MakeStore) -> None:
    """Opening what still matches its seal reads not one byte of it, and nothing else from the second time on."""
    await make_store().put(DIGEST, DATA)
    files = CountedFiles()
    store = make_store(files)
    first = await store.open(DIGEST)
    assert files.calls["read_into"] <= 2  # the sidecar's
    files.calls.clear()
    second = await store.open(DIGEST)
    assert files.calls["read_into"] == 0
    assert files.calls["open"] == 5  # root, three folders, the file
    for blob in (first, second):
        assert blob is not None
        blob.close()


def flip(path: Path) -> None:
    """One bit is another."""
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(1000)
        byte = file.read(1)[0]
        file.seek(1000)
        file.write(bytes([byte ^ 1]))


def flip_and_hide(path: Path) -> None:
    """One bit is another, and size, mode and modification time are as before."""
    before = path.stat()
    flip(path)
    path.chmod(before.st_mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def truncate(path: Path) -> None:
    """The end is missing."""
    path.chmod(0o600)
    os.truncate(path, len(DATA) - 1)


def extend(path: Path) -> None:
    """There is more."""
    path.chmod(0o600)
    with path.open("ab") as file:
        file.write(b"x")


def empty(path: Path) -> None:
    """Nothing is left."""
    path.chmod(0o600)
    os.truncate(path, 0)


def replace(path: Path) -> None:
    """It is another file of the same size."""
    path.unlink()
    path.write_bytes(b"x" * len(DATA))


@pytest.mark.parametrize("alter", [flip, flip_and_hide, truncate, extend, empty, replace])
@pytest.mark.parametrize("fresh", [False, True], ids=["same process", "after a restart"])
async def test_promise_37_damage_is_found_before_it_is_served(
    make_store: MakeStore, root: Path, damage: Damage, alter: Callable[[Path], None], fresh: bool
) -> None:
    """An altered file is not opened; it goes to the quarantine, is reported once, and can be stored again."""
    store = make_store()
    await store.put(DIGEST, DATA)
    assert await opened(store) == DATA
    alter(blob_path(root))
    altered = blob_path(root).read_bytes()
    if fresh:
        store = make_store()
    assert await store.open(DIGEST) is None
    assert [digest for digest, _ in damage] == [DIGEST]
    assert str(Digest.of(altered)) in damage[0][1]
    (name,) = quarantined(root)
    assert re.fullmatch(rf"\d{{8}}T\d{{6}}\.\d{{6}}Z-sha256-{DIGEST.hex}", name)
    assert (root / "quarantine" / name).read_bytes() == altered
    assert not blob_path(root).exists()
    assert not seal_path(root).exists()
    assert await store.open(DIGEST) is None
    await store.put(DIGEST, DATA)
    assert await opened(store) == DATA
    assert len(damage) == 1


@pytest.mark.parametrize("alter", [flip, flip_and_hide, truncate, extend, empty, replace])
async def test_promise_37_damage_is_found_by_reading_whole(
    store: FilesystemBlobStore, root: Path, damage: Damage, alter: Callable[[Path], None]
) -> None:
    """read() hashes the very bytes that it returns."""
    await store.put(DIGEST, DATA)
    alter(blob_path(root))
    assert await store.read(DIGEST, 1 << 20) is None
    assert [digest for digest, _ in damage] == [DIGEST]
    assert len(quarantined(root)) == 1


async def test_promise_37_damage_is_found_by_storing_again(store: FilesystemBlobStore, root: Path, damage: Damage) -> None:
    """put() takes no altered file for the blob that it is to store."""
    await store.put(DIGEST, DATA)
    flip(blob_path(root))
    await store.put(DIGEST, DATA)
    assert await opened(store) == DATA
    assert len(damage) == len(quarantined(root)) == 1


@pytest.mark.parametrize("seal", [None, b"", b"1 2 3", b"1 25600 1 1 1\n"], ids=["missing", "empty", "torn", "another"])
async def test_a_blob_without_its_seal_is_hashed_and_sealed(
    make_store: MakeStore, root: Path, damage: Damage, seal: bytes | None
) -> None:
    """Whole bytes without a seal are served after one hash; the next process needs none."""
    await make_store().put(DIGEST, DATA)
    seal_path(root).unlink()
    if seal is not None:
        seal_path(root).write_bytes(seal)
    assert await opened(make_store()) == DATA
    files = CountedFiles()
    blob = await make_store(files).open(DIGEST)
    assert blob is not None
    blob.close()
    assert files.calls["read_into"] <= 2
    assert damage == []


async def test_a_restored_backup_is_hashed_once(store: FilesystemBlobStore, root: Path, damage: Damage) -> None:
    """Right bytes in a new file (a restore, a copy) are no damage."""
    await store.put(DIGEST, DATA)
    blob_path(root).unlink()
    blob_path(root).write_bytes(DATA)
    assert await opened(store) == DATA
    assert damage == []


async def test_storing_beside_an_unsealed_blob_keeps_it(store: FilesystemBlobStore, root: Path) -> None:
    """put() of what is there whole only seals it."""
    await store.put(DIGEST, DATA)
    seal_path(root).unlink()
    inode = blob_path(root).stat().st_ino
    fresh = FilesystemBlobStore(root)
    await fresh.put(DIGEST, DATA)
    await fresh.close()
    assert blob_path(root).stat().st_ino == inode
    assert seal_path(root).exists()


def link(path: Path, elsewhere: Path) -> None:
    """A link to a file with the right bytes."""
    elsewhere.write_bytes(DATA)
    path.symlink_to(elsewhere)


def dangling(path: Path, elsewhere: Path) -> None:
    """A link to nothing."""
    path.symlink_to(elsewhere)


def pipe(path: Path, elsewhere: Path) -> None:
    """A pipe that nobody writes to."""
    os.mkfifo(path)


def folder(path: Path, elsewhere: Path) -> None:
    """A folder."""
    path.mkdir()


def listener(path: Path, elsewhere: Path) -> None:
    """A socket."""
    here = Path.cwd()
    os.chdir(path.parent)  # the path of a socket may not be long
    try:
        with socket.socket(socket.AF_UNIX) as unix:
            unix.bind("short")
        Path("short").rename(path.name)
    finally:
        os.chdir(here)


@pytest.mark.parametrize("foreign", [link, dangling, pipe, folder, listener])
@pytest.mark.parametrize("how", ["open", "read", "put"])
async def test_promise_38_a_foreign_file_is_not_followed(
    store: FilesystemBlobStore, root: Path, tmp_path: Path, damage: Damage, foreign: Callable[[Path, Path], None], how: str
) -> None:
    """What is no ordinary file is not opened, even if it leads to the right bytes; it is moved away and reported."""
    await store.put(DIGEST, DATA)
    blob_path(root).unlink()
    elsewhere = tmp_path / "elsewhere"
    foreign(blob_path(root), elsewhere)
    if how == "put":
        await store.put(DIGEST, DATA)
        assert await opened(store) == DATA
    else:
        assert await (store.open(DIGEST) if how == "open" else store.read(DIGEST, len(DATA))) is None
        assert not os.path.lexists(blob_path(root))
    assert len(damage) == len(quarantined(root)) == 1
    assert "not an ordinary file" in damage[0][1]
    assert not elsewhere.exists() or elsewhere.read_bytes() == DATA
    assert open_files(root) == 0


async def test_promise_38_a_linked_folder_is_not_followed(store: FilesystemBlobStore, root: Path, tmp_path: Path) -> None:
    """A folder of the store that became a link is an error for a person to look at, not a way out."""
    await store.put(DIGEST, DATA)
    blob_path(root).parent.rename(tmp_path / "moved")
    blob_path(root).parent.symlink_to(tmp_path / "moved")
    with pytest.raises(BlobStoreUnavailable, match=r"Not a directory|Too many levels"):
        await store.open(DIGEST)
    with pytest.raises(BlobStoreUnavailable, match=r"Not a directory|Too many levels"):
        await store.read(DIGEST, len(DATA))
    with pytest.raises(BlobStoreUnavailable, match=r"Not a directory|Too many levels"):
        await store.put(DIGEST, DATA)


async def test_many_who_open_an_unsealed_blob_have_it_hashed_once(make_store: MakeStore, root: Path) -> None:
    """One hash serves all who wait for it; the first one leaving stops nobody."""
    await make_store().put(DIGEST, DATA)
    seal_path(root).unlink()

    class Hashed(WaitingFiles):
        hashes = 0

        def step(self, name: str) -> None:
            if name == "read_into" and not self.go.is_set():
                self.hashes += 1
            super().step(name)

    files = Hashed("read_into")
    store = make_store(files)
    files.on = True
    leader = asyncio.create_task(store.open(DIGEST))
    others = [asyncio.create_task(store.open(DIGEST)) for _ in range(30)]
    assert await asyncio.to_thread(files.reached.wait, 10)
    leader.cancel()
    await asyncio.wait({leader})
    assert leader.cancelled()
    files.go.set()
    blobs = await asyncio.gather(*others)
    assert files.hashes == 1
    for blob in blobs:
        assert blob is not None
        blob.close()
    assert open_files(root) == 0


async def test_a_check_that_nobody_waits_for_ends_quietly(make_store: MakeStore, root: Path) -> None:
    """A re-hash that fails after everybody has left raises nowhere."""
    await make_store().put(DIGEST, DATA)
    seal_path(root).unlink()
    files = WaitingFiles("read_into")
    store = make_store(files)
    files.on = True
    asking = asyncio.create_task(store.open(DIGEST))
    assert await asyncio.to_thread(files.reached.wait, 10)
    asking.cancel()
    await asyncio.wait({asking})
    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    files.go.set()
    await closing
    assert open_files(root) == 0
    with pytest.raises(BlobStoreUnavailable, match="closed"):
        await store.open(DIGEST)


async def test_a_blob_that_never_rests_is_not_served(make_store: MakeStore, root: Path) -> None:
    """A file that somebody writes to while it is hashed is neither served nor called damaged."""

    class Restless(Files):
        def read_into(self, fd: int, buffer: bytearray | memoryview, offset: int) -> int:
            os.utime(fd, ns=(offset + 1, os.fstat(fd).st_mtime_ns + 1))
            return super().read_into(fd, buffer, offset)

    await make_store().put(DIGEST, DATA)
    flip(blob_path(root))
    with pytest.raises(BlobStoreUnavailable, match="changes"):
        await make_store(Restless()).open(DIGEST)
    assert quarantined(root) == []


async def test_two_processes_that_find_damage_report_it_once(make_store: MakeStore, root: Path, damage: Damage) -> None:
    """Who comes second finds the file moved, or a good copy in its place, and leaves that alone."""
    await make_store().put(DIGEST, DATA)
    flip(blob_path(root))
    files = WaitingFiles("entry")
    slow = make_store(files)
    files.on = True
    asking = asyncio.create_task(slow.open(DIGEST))
    assert await asyncio.to_thread(files.reached.wait, 10)
    fast = make_store()
    assert await fast.open(DIGEST) is None
    await fast.put(DIGEST, DATA)
    files.go.set()
    blob = await asking
    assert blob is not None
    assert await blob.read() == DATA
    blob.close()
    assert len(damage) == len(quarantined(root)) == 1


@pytest.mark.parametrize("how", ["open", "read"])
async def test_damage_that_vanishes_is_just_absent(make_store: MakeStore, root: Path, damage: Damage, how: str) -> None:
    """A damaged file that somebody else removed before it could be moved is not there any more."""

    class Removing(Files):
        def entry(self, name: str, folder: int) -> os.stat_result:
            os.unlink(name, dir_fd=folder)
            return super().entry(name, folder)

    await make_store().put(DIGEST, DATA)
    flip(blob_path(root))
    store = make_store(Removing())
    assert await (store.open(DIGEST) if how == "open" else store.read(DIGEST, len(DATA))) is None
    assert damage == []


async def test_damage_that_cannot_be_moved_is_not_served(make_store: MakeStore, root: Path) -> None:
    """Where the quarantine cannot be written the store says so rather than serving or hiding it."""
    await make_store().put(DIGEST, DATA)
    flip(blob_path(root))
    files = FailingFiles()
    store = make_store(files)
    files.arm(OSError(30, "Read-only file system"), only="rename", lasting=True)
    with pytest.raises(BlobStoreUnavailable, match="Read-only file system"):
        await store.open(DIGEST)
    with pytest.raises(BlobStoreUnavailable, match="Read-only file system"):
        await store.read(DIGEST, len(DATA))
    assert open_files(root) == 0


async def test_a_cancelled_open_leaves_no_descriptor(make_store: MakeStore, root: Path) -> None:
    """What a thread opened for somebody who left is closed."""
    await make_store().put(DIGEST, DATA)
    files = WaitingFiles("status")
    store = make_store(files)
    files.on = True
    asking = asyncio.create_task(store.open(DIGEST))
    assert await asyncio.to_thread(files.reached.wait, 10)
    asking.cancel()
    await asyncio.wait({asking})
    files.go.set()
    await store.close()
    assert open_files(root) == 0


async def test_a_blob_stays_readable_when_its_file_is_removed(store: FilesystemBlobStore, root: Path) -> None:
    """An open blob outlives its name."""
    await store.put(DIGEST, DATA)
    blob = await store.open(DIGEST)
    assert blob is not None
    blob_path(root).unlink()
    assert await blob.read() == DATA
    blob.close()
    assert await store.open(DIGEST) is None


@pytest.mark.parametrize(
    ("step", "message"),
    [("open", "cannot open"), ("status", "cannot open")],
)
async def test_promise_52_the_system_s_reason_is_told(make_store: MakeStore, step: str, message: str, root: Path) -> None:
    """An error of the system is neither an absence nor a verdict: it is raised with path and reason."""
    files = FailingFiles()
    store = make_store(files)
    await store.put(DIGEST, DATA)
    files.arm(OSError(24, "Too many open files"), only=step)
    with pytest.raises(BlobStoreUnavailable, match=rf"^{message} .*/{DIGEST.hex}: Too many open files$"):
        await store.open(DIGEST)
    assert await opened(store) == DATA
    assert open_files(root) == 0


async def test_promise_52_a_read_that_fails_is_not_damage(make_store: MakeStore, root: Path, damage: Damage) -> None:
    """An I/O error while reading leaves the file where it is."""
    await make_store().put(DIGEST, DATA)
    seal_path(root).unlink()
    files = FailingFiles()
    store = make_store(files)
    files.arm(OSError(5, "Input/output error"), only="read_into", lasting=True)
    for call in (store.open(DIGEST), store.read(DIGEST, len(DATA))):
        with pytest.raises(BlobStoreUnavailable, match="Input/output error"):
            await call
    files.disarm()
    blob = await store.open(DIGEST)
    assert blob is not None
    files.arm(OSError(5, "Input/output error"), only="read_into")
    with pytest.raises(BlobStoreUnavailable, match="Input/output error"):
        await blob.read()
    blob.close()
    assert damage == []
    assert open_files(root) == 0


async def test_a_store_that_reports_to_nobody_still_quarantines(root: Path) -> None:
    """The listener is optional."""
    store = FilesystemBlobStore(root)
    await store.put(DIGEST, DATA)
    flip(blob_path(root))
    assert await store.open(DIGEST) is None
    assert len(quarantined(root)) == 1
    await store.close()
