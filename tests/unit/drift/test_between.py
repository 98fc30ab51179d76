"""Which files differ between two images."""

from __future__ import annotations

import pytest

from proxy.drift.between import FileChange, between
from tests.simulator.trees import CAPABILITY, Put, file, folder, symlink
from tests.unit.drift.reading import file_list

PASSWD = file("etc/passwd", b"root", uid=0, gid=0)


def differing(before: list[Put], after: list[Put]) -> list[FileChange]:
    """What differs between two images of one layer each."""
    return list(between(file_list(before), file_list(after)))


def test_nothing_differs_from_itself() -> None:
    """Whatever there is."""
    entries = [folder("etc"), PASSWD, symlink("bin", "usr/bin"), file("x", b"y", 0o4755, uid=0, gid=0)]
    assert differing(entries, entries) == []


def test_a_directory_that_no_entry_describes_is_one() -> None:
    """Made by the way, or described: the same; a file in its place is another thing."""
    assert differing([PASSWD], [folder("etc"), PASSWD]) == []
    (gone, other) = differing([file("etc", b"")], [PASSWD])
    assert (gone.path, gone.mark) == ("/etc", "changed")
    assert gone.what.endswith("is directory")
    assert (other.path, other.mark) == ("/etc/passwd", "added")


@pytest.mark.parametrize(
    ("after", "told"),
    [
        (file("etc/passwd", b"evil", uid=0, gid=0), "content: 4 bytes sha256:"),
        (file("etc/passwd", b"root", 0o4755, uid=0, gid=0), "mode: 0644 before, 4755 now, which runs as its owner or group"),
        (file("etc/passwd", b"root", uid=1, gid=2), "owner: 0:0 before, 1:2 now"),
        (file("etc/passwd", b"root", uid=0, gid=0, capability=CAPABILITY), "capabilities"),
        (symlink("etc/passwd", "/tmp/x"), "was file 0644 0:0 4 bytes sha256:"),
    ],
    ids=["content", "setuid", "owner", "capabilities", "type"],
)
def test_what_of_a_file_changed(after: Put, told: str) -> None:
    """In words, and with both sides for scripts."""
    (change,) = differing([PASSWD], [after])
    assert (change.mark, change.path) == ("changed", "/etc/passwd")
    assert told in change.what
    sides = change.told()
    assert sides["before"] != sides["after"]


def test_links_and_devices() -> None:
    """Where a link goes, and which device it is."""
    (link,) = differing([symlink("bin", "usr/bin")], [symlink("bin", "tmp\x1b/x")])
    assert link.what == "target: usr/bin before, tmp\\x1b/x now"
    device = [Put("null", b"3", mode=0o666, device=(1, minor)) for minor in (3, 5)]
    (other,) = differing([device[0]], [device[1]])
    assert other.what == "device: 1:3 before, 1:5 now"
    (gone,) = differing([device[0]], [])
    assert gone.what.startswith("character device 0666")
    assert gone.what.endswith("1:3")


def test_what_came_and_what_went() -> None:
    """Each with what it is; what runs as its owner is said to; in the order of the paths."""
    put = file("usr/bin/x", b"x", 0o4755, uid=0, gid=0, capability=CAPABILITY)
    changes = differing([PASSWD], [put])
    assert [(each.mark, each.path) for each in changes] == [
        ("removed", "/etc"),
        ("removed", "/etc/passwd"),
        ("added", "/usr"),
        ("added", "/usr/bin"),
        ("added", "/usr/bin/x"),
    ]
    assert changes[0].what == "directory"
    assert changes[-1].what.startswith("file 4755 0:0 1 bytes sha256:")
    assert changes[-1].what.endswith("runs as its owner or group has capabilities")
    assert changes[-1].told()["before"] is None
