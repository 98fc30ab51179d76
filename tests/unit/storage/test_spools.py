"""Spool files: who may write, what a writer that died leaves behind, what stays when something fails."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import cast

import pytest

from storage.blobs import Spool
from storage.digest import Digest
from storage.errors import BlobStoreUnavailable
from storage.files import Files, Tree
from storage.filesystem import FilesystemBlobStore
from storage.spools import FileSpool, claim
from tests.simulator.spooling import append
from tests.unit.storage.conftest import MakeStore
from tests.unit.storage.faulty import FailingFiles, WaitingFiles, open_files

DATA = bytes(range(256)) * 100
DIGEST = Digest.of(DATA)
NAME = f"sha256-{DIGEST.hex}"
FULL = OSError(28, "No space left on device")


async def claimed(store: FilesystemBlobStore) -> Spool:
    """The right to write, which nobody else may have."""
    spool = await store.spool(DIGEST, len(DATA))
    assert spool is not None
    return spool


def leave_behind(root: Path, data: bytes) -> Path:
    """A spool file whose writer died."""
    path = root / "spool" / NAME
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("left", [0, 1, 1000, len(DATA)])
async def test_promise_51_an_abandoned_spool_is_continued(store: FilesystemBlobStore, root: Path, left: int) -> None:
    """Who takes over a dead writer's spool hashes what is there and goes on from it, in the same file."""
    path = leave_behind(root, DATA[:left])
    inode = path.stat().st_ino
    spool = await claimed(store)
    assert spool.written == left
    assert os.fstat(spool.fileno()).st_ino == inode
    await append(spool, DATA[left:])
    await spool.verify()
    await spool.commit()
    assert await store.read(DIGEST, len(DATA)) == DATA


async def test_an_abandoned_spool_that_is_too_long_is_not_continued(store: FilesystemBlobStore, root: Path) -> None:
    """More bytes than the blob has cannot be its beginning: a new file is begun, nobody else gets in between."""
    path = leave_behind(root, DATA + b"x")
    with path.open("rb") as reader:
        spool = await claimed(store)
        assert spool.written == 0
        assert not os.path.samestat(os.fstat(spool.fileno()), os.fstat(reader.fileno()))
        assert reader.read() == DATA + b"x"
    assert await store.spool(DIGEST, len(DATA)) is None
    await spool.discard()
    assert os.listdir(root / "spool") == []


async def test_recovering_removes_what_nobody_holds(make_store: MakeStore, root: Path, tmp_path: Path) -> None:
    """Abandoned spools, temporary files and links go; links are not followed; folders and live spools stay."""
    store = make_store()
    leave_behind(root, b"abandoned")
    (root / "spool" / "put-1").write_bytes(b"")
    target = tmp_path / "target"
    target.write_bytes(b"kept")
    (root / "spool" / "link").symlink_to(target)
    os.mkfifo(root / "spool" / "pipe")
    (root / "spool" / "folder").mkdir()
    other = Digest.of(b"live")
    spool = await store.spool(other, 4)
    assert spool is not None
    assert await make_store().recover() == 4
    assert sorted(os.listdir(root / "spool")) == ["folder", f"sha256-{other.hex}"]
    assert target.read_bytes() == b"kept"
    assert await make_store().recover() == 0
    await spool.discard()
    assert open_files(root) == 0


async def test_recovering_says_why_it_cannot(make_store: MakeStore, root: Path) -> None:
    """What cannot be cleaned is named."""
    files = FailingFiles()
    leave_behind(root, b"abandoned")
    files.arm(OSError(30, "Read-only file system"), only="remove")
    with pytest.raises(BlobStoreUnavailable, match=r"^cannot clean .*/spool: Read-only file system$"):
        await make_store(files).recover()
    files.arm(OSError(13, "Permission denied"), nth=3, only="open")
    with pytest.raises(BlobStoreUnavailable, match="Permission denied"):
        await make_store(files).recover()
    assert open_files(root) == 0


async def test_recovering_passes_by_what_vanishes(make_store: MakeStore, root: Path) -> None:
    """A spool that its writer ends while start-up looks at it is no error."""

    class Vanishing(Files):
        def __init__(self, step: str) -> None:
            self.at = step

        def names(self, folder: int) -> list[str]:
            names = super().names(folder)
            if self.at == "names":
                os.unlink(NAME, dir_fd=folder)
            return names

        def lock(self, fd: int, *, shared: bool = False) -> bool:
            if self.at == "lock":
                (root / "spool" / NAME).unlink()
            return super().lock(fd, shared=shared)

    for step in ("names", "lock"):
        leave_behind(root, b"going")
        assert await make_store(Vanishing(step)).recover() == 0


def test_a_claim_looks_again_after_locking(root: Path) -> None:
    """A file that was committed or removed between opening and locking is not what was claimed."""

    class Raced(Files):
        rounds = 3

        def lock(self, fd: int, *, shared: bool = False) -> bool:
            if self.rounds:
                self.rounds -= 1
                path = root / "spool" / NAME
                if self.rounds % 2:
                    path.rename(root / "committed")  # the name is gone
                else:
                    path.unlink()
                    path.touch()  # the name is another file's
            return super().lock(fd, shared=shared)

    files = Raced()
    fd = claim(Tree(root, files), NAME)
    assert fd is not None
    assert os.path.samestat(os.fstat(fd), (root / "spool" / NAME).stat())
    assert files.rounds == 0
    os.close(fd)
    assert open_files(root) == 0


def test_a_claim_does_not_go_on_for_ever(root: Path) -> None:
    """A name that changes hands at every look is given up."""

    class Raced(Files):
        def lock(self, fd: int, *, shared: bool = False) -> bool:
            (root / "spool" / NAME).unlink()
            return super().lock(fd, shared=shared)

    with pytest.raises(OSError, match="changing hands"):
        claim(Tree(root, Raced()), NAME)
    assert open_files(root) == 0


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
async def test_promise_38_a_foreign_spool_is_not_written_to(
    store: FilesystemBlobStore, root: Path, tmp_path: Path, kind: str
) -> None:
    """A link, pipe or folder under a spool's name is neither written nor followed, and does not block."""
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    path = leave_behind(root, b"")
    path.unlink()
    match kind:
        case "link":
            path.symlink_to(target)
        case "pipe":
            os.mkfifo(path)
        case _:
            path.mkdir()
    with pytest.raises(BlobStoreUnavailable, match="cannot write"):
        await store.spool(DIGEST, len(DATA))
    if kind != "folder":
        with pytest.raises(BlobStoreUnavailable, match="cannot follow"):
            await store.follow(DIGEST, len(DATA))
    assert target.read_bytes() == b"precious"
    assert open_files(root) == 0


async def test_promise_52_a_failed_write_ends_the_spool(make_store: MakeStore, root: Path) -> None:
    """After a write that failed nothing is appended to what it may have left; discarding frees the place."""
    files = FailingFiles()
    store = make_store(files)
    spool = await claimed(store)
    await append(spool, DATA[:100])
    files.arm(FULL, only="write")
    with pytest.raises(BlobStoreUnavailable, match=rf"^cannot write .*/spool/{NAME}: No space left on device$"):
        await append(spool, DATA[100:])
    for step in (append(spool, DATA[100:]), spool.verify()):
        with pytest.raises(BlobStoreUnavailable, match="takes no more"):
            await step
    await spool.reset()
    await append(spool, DATA)
    await spool.verify()
    await spool.commit()
    assert await store.read(DIGEST, len(DATA)) == DATA


async def test_promise_52_a_spool_that_cannot_be_removed_is_let_go(make_store: MakeStore, root: Path) -> None:
    """Where only the removal fails it is said, but the right to write is free for the next, who takes over."""
    files = FailingFiles()
    store = make_store(files)
    spool = await claimed(store)
    await append(spool, DATA[:100])
    files.arm(OSError(30, "Read-only file system"), only="remove")
    with pytest.raises(BlobStoreUnavailable, match=r"^cannot remove"):
        await spool.discard()
    await spool.discard()
    assert open_files(root) == 0
    spool = await claimed(store)
    assert spool.written == 100
    await spool.discard()


async def test_a_spool_that_cannot_begin_again_says_so(make_store: MakeStore, root: Path) -> None:
    """A reset that fails leaves the right to write where it was, and no file behind."""
    files = FailingFiles()
    store = make_store(files)
    spool = await claimed(store)
    await append(spool, DATA[:100])
    files.arm(FULL, only="rename")
    with pytest.raises(BlobStoreUnavailable, match="No space"):
        await spool.reset()
    assert await make_store().spool(DIGEST, len(DATA)) is None
    assert os.listdir(root / "spool") == [NAME]
    await spool.discard()
    assert open_files(root) == 0


async def test_a_taken_over_spool_that_cannot_be_read_is_let_go(make_store: MakeStore, root: Path) -> None:
    """A failing take-over leaves the right to write to others."""
    leave_behind(root, DATA[:100])
    files = FailingFiles()
    files.arm(OSError(5, "Input/output error"), only="read_into")
    with pytest.raises(BlobStoreUnavailable, match="Input/output error"):
        await make_store(files).spool(DIGEST, len(DATA))
    assert open_files(root) == 0
    spool = await claimed(make_store())
    await spool.discard()


async def test_an_operator_may_clean_up_under_a_writer(store: FilesystemBlobStore, root: Path) -> None:
    """Discarding removes the writer's own file only, whatever stands under the name by then."""
    spool = await claimed(store)
    (root / "spool" / NAME).unlink()
    await spool.discard()
    spool = await claimed(store)
    (root / "spool" / NAME).unlink()
    (root / "spool" / NAME).write_bytes(b"another's")
    await spool.discard()
    assert (root / "spool" / NAME).read_bytes() == b"another's"


async def test_a_cancelled_writer_finishes_its_step_first(make_store: MakeStore, root: Path) -> None:
    """Discarding right after a cancelled append waits for the thread, so that no descriptor is pulled from under it."""
    files = WaitingFiles("write")
    store = make_store(files)
    spool = await claimed(store)
    files.on = True
    writing = asyncio.create_task(append(spool, DATA))
    assert await asyncio.to_thread(files.reached.wait, 10)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    discard = asyncio.create_task(spool.discard())
    done, _ = await asyncio.wait({discard}, timeout=0.05)
    assert not done
    files.go.set()
    await discard
    assert spool.written == len(DATA)
    assert os.listdir(root / "spool") == []
    assert open_files(root) == 0


async def test_a_cancelled_claim_is_given_back(make_store: MakeStore, root: Path) -> None:
    """Who leaves while the right to write is being taken does not keep it."""
    files = WaitingFiles("lock")
    files.on = True
    store = make_store(files)
    asking = asyncio.create_task(store.spool(DIGEST, len(DATA)))
    assert await asyncio.to_thread(files.reached.wait, 10)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    files.go.set()
    await store.close()
    assert os.listdir(root / "spool") == []
    assert open_files(root) == 0


async def test_the_spool_of_a_stored_blob_is_the_blob(store: FilesystemBlobStore, root: Path) -> None:
    """Committing renames: a reader of the spool holds the very file that is stored."""
    spool = await claimed(store)
    await append(spool, DATA)
    reader = os.dup(spool.fileno())
    await spool.verify()
    await spool.commit()
    stored = await store.open(DIGEST)
    assert stored is not None
    assert os.path.samestat(os.fstat(reader), os.fstat(stored.fileno()))
    stored.close()
    os.close(reader)
    assert cast("FileSpool", spool).written == len(DATA)
    assert os.listdir(root / "spool") == []


@pytest.mark.parametrize("position", [0, len(DATA) - 1, len(DATA)])
@pytest.mark.parametrize("written", [1000, len(DATA)])
async def test_promise_37_a_spool_that_somebody_else_wrote_to_is_not_sealed(
    store: FilesystemBlobStore, root: Path, position: int, written: int
) -> None:
    """What is altered on disk between hashing and storing is found when the blob is first opened."""
    spool = await claimed(store)
    await append(spool, DATA[:written])
    await asyncio.sleep(0.02)  # the kernel's clock for files moves in steps
    with (root / "spool" / NAME).open("r+b") as file:
        file.seek(position)
        file.write(b"?")
    await asyncio.sleep(0.02)
    for piece in (DATA[written:-1], DATA[-1:]) if written < len(DATA) else ():
        await append(spool, piece)
    await spool.verify()
    await spool.commit()
    stored = await store.open(DIGEST)
    if written < len(DATA) and position == len(DATA) - 1:
        assert stored is not None  # our own bytes came over it
        assert await stored.read() == DATA
        stored.close()
    else:
        assert stored is None
        assert len(os.listdir(root / "quarantine")) == 1
