"""Folders and files below a root."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from storage.digest import Digest
from storage.errors import BlobStoreUnavailable
from storage.files import READ, WRITE, Files, Tree, refusals
from tests.unit.storage.faulty import CountedFiles


class ShortFiles(Files):
    """Writes and reads three bytes at a time, as a system may."""

    def write(self, fd: int, data: memoryview, offset: int) -> int:
        """Three bytes at most."""
        return super().write(fd, data[:3], offset)

    def read_into(self, fd: int, buffer: bytearray | memoryview, offset: int) -> int:
        """Three bytes at most."""
        return super().read_into(fd, memoryview(buffer)[:3], offset)


class RacedFiles(Files):
    """Another worker makes every folder just before this one does."""

    def make_folder(self, name: str, folder: int) -> None:
        """Lose."""
        os.mkdir(name, 0o700, dir_fd=folder)
        super().make_folder(name, folder)


def test_folders_are_private_and_durable(root: Path) -> None:
    """Missing folders are made for the owner alone, each on the disk before something is put into it."""
    files = CountedFiles()
    with Tree(root, files).folder("one", "two", create=True) as fd:
        assert os.path.samestat(os.fstat(fd), (root / "one" / "two").stat())
    assert [path.stat().st_mode & 0o777 for path in (root, root / "one", root / "one" / "two")] == [0o700] * 3
    assert files.calls["sync"] == 2


def test_losing_the_race_for_a_folder_is_fine(root: Path) -> None:
    """A folder that another worker makes at the same moment is used."""
    with Tree(root, RacedFiles()).folder("one", create=True):
        assert (root / "one").is_dir()


def test_missing_folders_are_not_made_unasked(root: Path) -> None:
    """Looking makes nothing."""
    with pytest.raises(FileNotFoundError), Tree(root, Files()).folder("one"):
        pass
    root.mkdir()
    with pytest.raises(FileNotFoundError), Tree(root, Files()).folder("one"):
        pass
    assert os.listdir(root) == []


@pytest.mark.parametrize("create", [False, True])
def test_promise_38_folders_are_not_followed(root: Path, tmp_path: Path, create: bool) -> None:
    """A link on the way to a folder is refused; the root itself may be one."""
    (tmp_path / "target" / "two").mkdir(parents=True)
    root.mkdir()
    (root / "one").symlink_to(tmp_path / "target")
    with (
        pytest.raises(OSError, match=r"Not a directory|Too many levels"),
        Tree(root, Files()).folder("one", "two", create=create),
    ):
        pass
    linked = tmp_path / "linked-store"
    linked.symlink_to(tmp_path / "target")
    with Tree(linked, Files()).folder("two") as fd:
        assert os.path.samestat(os.fstat(fd), (tmp_path / "target" / "two").stat())


def test_short_writes_and_reads_are_continued(root: Path) -> None:
    """All bytes are written, read and hashed also where the system does fewer at a time."""
    files = ShortFiles()
    data = bytes(range(100))
    with Tree(root, files).folder(create=True) as folder:
        fd = files.open("file", WRITE, folder)
    try:
        files.write_all(fd, memoryview(data).cast("H"), 5)  # items of two bytes: what counts is bytes
        assert files.read_all(fd, 5, 1000) == data
        assert files.read_all(fd, 10, 20) == data[5:25]
        hasher = Digest.of(b"").hasher()
        assert files.hash(fd, hasher, threading.Event()) == 105
        assert hasher.hexdigest() == Digest.of(bytes(5) + data).hex
    finally:
        files.close(fd)


def test_hashing_stops_when_told(root: Path) -> None:
    """A long hash does not hold up the end of the process."""
    files = Files()
    stop = threading.Event()
    stop.set()
    root.mkdir()
    (root / "file").write_bytes(b"data")
    with Tree(root, files).folder() as folder:
        fd = files.open("file", READ, folder)
    with pytest.raises(BlobStoreUnavailable, match="closing"):
        files.hash(fd, Digest.of(b"").hasher(), stop)
    files.close(fd)


def test_locks_exclude_within_one_process(root: Path) -> None:
    """Two descriptors of one file exclude each other, whoever holds them; unlocking counts for duplicates, too."""
    files = Files()
    with Tree(root, files).folder(create=True) as folder:
        one, two = files.open("file", WRITE, folder), files.open("file", WRITE, folder)
    duplicate = os.dup(one)
    assert files.lock(one)
    assert not files.lock(two)
    assert not files.lock(two, shared=True)
    files.unlock(one)
    assert files.lock(two)
    for fd in (one, two, duplicate):
        files.close(fd)


def test_refusals_name_path_and_reason() -> None:
    """What people read says what was tried, on what, and the system's reason."""
    with (
        pytest.raises(BlobStoreUnavailable, match=r"^cannot write /a/b: No space left on device$"),
        refusals("write", Path("/a/b")),
    ):
        raise OSError(28, "No space left on device")
    with pytest.raises(BlobStoreUnavailable, match=r"^cannot write /a/b: odd$"), refusals("write", Path("/a/b")):
        raise OSError("odd")
