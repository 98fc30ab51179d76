"""Files looked at from outside, while somebody inside may do whatever they like."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.drift.disk import Disk, IdMap, Owners, mount_of, names_in, reach, read_content, readable
from proxy.drift.model import Kind
from proxy.errors import Unexaminable
from tests.simulator.trees import CAPABILITY, ROOT


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """An empty root."""
    with Disk.open(tmp_path) as opened:
        yield opened


def never() -> bool:
    """Nobody breaks it off."""
    return False


def test_names_are_not_followed(disk: Disk, tmp_path: Path) -> None:
    """A link is looked at, and not what it leads to; a pipe does not hold anybody up; a device is not woken."""
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe")
    for name, kind in ((b"link", Kind.SYMLINK), (b"pipe", Kind.FIFO)):
        fd = reach(name, disk.root)
        assert fd is not None
        assert disk.facts(fd, os.fstat(fd)).kind is kind
        os.close(fd)
    assert reach(b"nothing", disk.root) is None
    assert sorted(names_in(disk.root)) == [b"link", b"pipe"]


@pytest.mark.skipif(not ROOT, reason="only root may set capabilities")
def test_facts(disk: Disk, tmp_path: Path) -> None:
    """Modes with setuid, owners, capabilities."""
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    os.chown(path, 5, 6)
    path.chmod(0o4755)
    os.setxattr(path, "security.capability", CAPABILITY)
    fd = reach(b"x", disk.root)
    assert fd is not None
    facts = disk.facts(fd, os.fstat(fd))
    os.close(fd)
    assert (facts.mode, facts.uid, facts.gid, facts.size, facts.capability) == (0o4755, 5, 6, 3, CAPABILITY)


def test_owners_within_a_user_namespace() -> None:
    """As ``/proc/PID/uid_map`` says; who has no name there keeps the number."""
    users = IdMap.parse("         0     100000      65536\n     70000       1000          1\n")
    assert [users.inside(number) for number in (100_000, 100_005, 1000, 7, 165_536)] == [0, 5, 70_000, 7, 165_536]
    assert IdMap().inside(1000) == 1000
    own = Owners.of_process(Path("/proc/self"))
    assert own.users.inside(os.getuid()) == os.getuid()


def test_the_root_of_a_process() -> None:
    """Is a link that is followed, with the owners of its namespace; a process that is gone has none."""
    with Disk.open(Path(f"/proc/{os.getpid()}/root")) as disk:
        assert disk.owners.users.ranges
        assert (os.fstat(disk.root).st_dev, os.fstat(disk.root).st_ino) == (Path("/").stat().st_dev, Path("/").stat().st_ino)
    with pytest.raises(Unexaminable, match="cannot be opened"), Disk.open(Path("/proc/4194305/root")):
        pass
    with pytest.raises(Unexaminable, match="cannot be opened"), Disk.open(Path("/proc/self/maps")):
        pass


def test_mounts_are_told_apart() -> None:
    """By the number that the kernel gives each."""
    with Disk.open(Path("/")) as root:
        fd = reach(b"proc", root.root)
        assert fd is not None
        assert mount_of(fd) != root.mount
        os.close(fd)


def test_paths_are_resolved_within_the_root(disk: Disk, tmp_path: Path) -> None:
    """Links and ``..`` lead nowhere else, as for a process whose root this is."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_bytes(b"ours")
    (tmp_path / "absolute").symlink_to("/etc")
    (tmp_path / "up").symlink_to("../../../etc/passwd")
    (tmp_path / "etc/self").symlink_to("../absolute/./passwd")
    (tmp_path / "loop").symlink_to("loop")
    for path in (b"etc/passwd", b"/absolute/passwd", b"up", b"/etc/self", b"../..//etc/../etc/passwd"):
        found = disk.resolve(path)
        assert found is not None
        assert found[0] == b"etc/passwd"
        fd = readable(found[1])
        assert os.read(fd, 10) == b"ours"
        os.close(fd)
        os.close(found[1])
    for path in (b"nothing", b"etc/passwd/x", b"loop", b"loop/x", b"", b"/..", b"etc/nothing/.."):
        assert disk.resolve(path) is None
    assert len(os.listdir("/proc/self/fd")) < 100


def test_what_is_read_is_what_was_opened(disk: Disk, tmp_path: Path) -> None:
    """A name that becomes another file in between does not matter."""
    (tmp_path / "x").write_bytes(b"first")
    fd = reach(b"x", disk.root)
    assert fd is not None
    (tmp_path / "x").unlink()
    (tmp_path / "x").symlink_to("/etc/passwd")
    opened = readable(fd)
    content = read_content(opened, 100, never)
    assert (content.sha256, content.head, content.size) == (hashlib.sha256(b"first").digest(), b"firs", 5)
    os.close(opened)
    os.close(fd)


def test_files_that_change_are_read_again(tmp_path: Path) -> None:
    """Once they hold still they are told as they are then; those that never do are told as such."""
    path = tmp_path / "x"
    path.write_bytes(b"0" * 10)
    fd = os.open(path, os.O_RDONLY)
    turns = 0

    def change(times: int) -> bool:
        nonlocal turns
        turns += 1
        if turns <= times:
            with path.open("ab") as opened:
                opened.write(b"x" * turns)
        return False

    content = read_content(fd, 1 << 20, lambda: change(2))
    assert content.sha256 == hashlib.sha256(path.read_bytes()).digest()
    turns = 0
    content = read_content(fd, 1 << 20, lambda: change(1000))
    assert content.changing
    assert content.sha256 is None
    os.close(fd)


def test_files_beyond_measure_are_not_hashed(tmp_path: Path) -> None:
    """A hole of a terabyte costs nothing; what cannot be finished can be broken off."""
    path = tmp_path / "huge"
    with path.open("wb") as opened:
        opened.write(b"\x7fELF")
        opened.truncate(1 << 40)
    fd = os.open(path, os.O_RDONLY)
    content = read_content(fd, 1 << 30, never)
    assert (content.sha256, content.head, content.size, content.changing) == (None, b"\x7fELF", 1 << 40, False)
    with pytest.raises(Unexaminable, match="broken off"):
        read_content(fd, 1 << 41, lambda: True)
    os.close(fd)


def test_refusals_of_the_system_are_not_swallowed(disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what says that there is nothing is taken for that."""
    (tmp_path / "x").write_bytes(b"x")

    def refusing(*_: object, **__: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("proxy.drift.disk.os.open", refusing)
    with pytest.raises(OSError, match="Input/output"):
        reach(b"x", disk.root)
    monkeypatch.undo()
    monkeypatch.setattr("proxy.drift.disk.os.getxattr", refusing)
    fd = reach(b"x", disk.root)
    assert fd is not None
    with pytest.raises(OSError, match="Input/output"):
        disk.facts(fd, os.fstat(fd))
    assert stat.S_ISREG(os.fstat(fd).st_mode)
    os.close(fd)
