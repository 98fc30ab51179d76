"""Root filesystems held against file lists: what is told, what is left out, and what cannot be looked at."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import proxy.drift.rootfs
from proxy.drift.compare import Aspect, Change, Finding
from proxy.drift.disk import Disk, mount_of, names_in
from proxy.drift.ignores import DEFAULTS, MAX_PATTERNS, of_operator, read_patterns
from proxy.drift.layers import choose, host_platform, layer_blobs, links_followed
from proxy.drift.model import Facts, Kind
from proxy.drift.rootfs import Examination, Options
from proxy.errors import LayerRefused, Unexaminable
from storage.digest import Digest
from storage.records import Descriptor
from tests.simulator.trees import CAPABILITY, ROOT, Put, file, folder, hardlink, symlink, unpack
from tests.unit.drift.reading import changes, file_list, look

BASE = [folder("bin"), file("bin/app", b"\x7fELF", 0o755), folder("etc"), file("etc/hosts", b"one"), symlink("etc/link", "x")]
BARE = Options(ignores=())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """What BASE unpacks to."""
    made = tmp_path / "root"
    made.mkdir()
    unpack(made, BASE)
    return made


def test_every_aspect(root: Path) -> None:
    """In one file, one link; the words say what was and what is."""
    files = file_list(BASE)
    (root / "bin/app").write_bytes(b"#!/bin/sh")
    (root / "bin/app").chmod(0o4755)
    (root / "etc/link").unlink()
    (root / "etc/link").symlink_to("y")
    report = look(root, files)
    assert changes(report) == {"bin/app": "changed content mode", "etc/link": "changed target"}
    assert [finding.in_words for finding in report.findings] == [
        "content (4 → 9 bytes); mode 0755 → 4755",
        "target x → y",
    ]
    assert [(each.path, each.kind) for each in report.executables] == [(b"bin/app", "script")]


@pytest.mark.skipif(not ROOT, reason="only root may do these")
def test_aspects_that_only_root_can_change(root: Path) -> None:
    """Owners, capabilities, devices; owners not where nobody asks."""
    devices = [*BASE, Put("null", b"3", device=(1, 3))]
    unpack(root, [devices[-1]])
    os.chown(root / "etc", 5, 6)
    os.setxattr(root / "bin/app", "security.capability", CAPABILITY)
    (root / "null").unlink()
    os.mknod(root / "null", 0o20644, os.makedev(1, 5))
    report = look(root, file_list(devices))
    assert changes(report) == {"bin/app": "changed capability", "etc": "changed owner", "null": "changed device"}
    words = {finding.path: finding.in_words for finding in report.findings}
    assert words[b"etc"] == "owner 0:0 → 5:6"
    assert words[b"null"] == "device 1:3 → 1:5"
    assert words[b"bin/app"] == f"capability none → {CAPABILITY.hex()}"
    assert "etc" not in changes(look(root, file_list(devices), Options(ignores=(), owners=False)))


def test_capabilities_of_a_user_namespace() -> None:
    """Version 3 of the attribute says whose root has them, and gives the same."""
    version_3 = b"\x01\x00\x00\x03" + CAPABILITY[4:] + (100_000).to_bytes(4, "little")
    from proxy.drift.compare import _rights

    assert _rights(version_3) == _rights(CAPABILITY)
    assert _rights(CAPABILITY) != _rights(b"\0" * 20)


def test_the_root_itself(root: Path) -> None:
    """Runtimes make it as they like; what everybody could write to is told."""
    assert changes(look(root, file_list(BASE))) == {}
    root.chmod(0o777)
    assert changes(look(root, file_list(BASE))) == {"": "changed mode"}
    assert changes(look(root, file_list([*BASE, folder("./", 0o777)]))) == {}


def test_directories_that_no_entry_describes(tmp_path: Path) -> None:
    """Are as runtimes make them; a mode that none of them gives is told, and a file in their place."""
    files = file_list([file("a/b/c")], [file("a/d")])
    unpack(tmp_path, [folder("a", 0o700), folder("a/b"), file("a/b/c"), file("a/d")])
    assert changes(look(tmp_path, files)) == {}
    (tmp_path / "a/b").chmod(0o777)
    assert changes(look(tmp_path, files)) == {"a/b": "changed mode"}
    (tmp_path / "a/b/c").unlink()
    (tmp_path / "a/b").rmdir()
    (tmp_path / "a/b").write_bytes(b"")
    assert changes(look(tmp_path, files)) == {"a/b": "changed type"}


def test_directories_that_upper_layers_go_through(tmp_path: Path) -> None:
    """Some runtimes make them anew then: their own mode, or the layer's, both are good."""
    files = file_list([folder("a", 0o750), file("a/x")], [file("a/y")])
    unpack(tmp_path, [folder("a", 0o750), file("a/x"), file("a/y")])
    for mode, expected in ((0o750, {}), (0o755, {}), (0o777, {"a": "changed mode"})):
        (tmp_path / "a").chmod(mode)
        assert changes(look(tmp_path, files)) == expected


def test_hard_links_whose_headers_disagree(tmp_path: Path) -> None:
    """Runtimes differ in which mode counts: both are good."""
    files = file_list([file("a", b"x", 0o644), hardlink("b", "a", 0o600)])
    unpack(tmp_path, [file("a", b"x", 0o600), hardlink("b", "a", 0o600)])
    assert changes(look(tmp_path, files)) == {}


def test_a_directory_in_place_of_a_file_and_back(root: Path) -> None:
    """The change of type is told; what is below the new one is added, what was below the old one goes with it."""
    (root / "etc/hosts").unlink()
    (root / "etc/hosts").mkdir()
    (root / "etc/hosts/new").write_bytes(b"")
    (root / "bin/app").unlink()
    (root / "bin").rmdir()
    (root / "bin").symlink_to("etc")
    assert changes(look(root, file_list(BASE))) == {
        "bin": "changed type",
        "etc/hosts": "changed type",
        "etc/hosts/new": "added",
    }


def test_contents_that_layers_know(root: Path) -> None:
    """A copy of the image's own program is drift, and no unknown executable; large files are hashed beside the walk."""
    files = file_list([*BASE, file("big", bytes(300_000))])
    (root / "big").write_bytes(bytes(300_000))
    (root / "copy").write_bytes(b"\x7fELF")
    (root / "copy").chmod(0o755)
    (root / "large").write_bytes(b"#!" + bytes(300_000))
    report = look(root, files)
    assert changes(report) == {"copy": "added", "large": "added"}
    assert report.findings[0].note == "a layer has this content as /bin/app"
    assert [each.path for each in report.executables] == [b"large"]
    assert report.hashed > 600_000


# -- what is left out ----------------------------------------------------------------------------------------------------

FILE = Facts(Kind.FILE, 0o644, 0, 0, 3)
EMPTY = Facts(Kind.FILE, 0o644, 0, 0, 0)
DIRECTORY = Facts(Kind.DIRECTORY, 0o755, 0, 0)
SETUID = Facts(Kind.FILE, 0o4644, 0, 0, 0)
MTAB = Facts(Kind.SYMLINK, 0o777, 0, 0, target=b"/proc/mounts")
LINK = Facts(Kind.SYMLINK, 0o777, 0, 0, target=b"/tmp/evil")


@pytest.mark.parametrize(
    ("path", "expected", "actual", "executable", "left_out"),
    [
        ("/etc/hosts", FILE, FILE, False, True),
        ("/etc/hosts", None, FILE, False, True),
        ("/etc/hosts", FILE, None, False, True),
        ("/etc/hosts", FILE, FILE, True, False),
        ("/etc/hosts", FILE, SETUID, False, False),
        ("/etc/hosts", FILE, LINK, False, False),
        ("/etc/hosts.allow", FILE, FILE, False, False),
        ("/.dockerenv", None, EMPTY, False, True),
        ("/dev/pts", None, DIRECTORY, False, True),
        ("/dev/console", None, EMPTY, False, True),
        ("/dev/console", None, FILE, False, False),
        ("/dev/x/y", None, DIRECTORY, False, True),
        ("/dev/null", FILE, EMPTY, False, False),
        ("/proc", None, DIRECTORY, False, True),
        ("/proc/x", None, DIRECTORY, False, False),
        ("/run/secrets/x", None, DIRECTORY, False, True),
        ("/run/secrets/x", None, FILE, False, False),
        ("/etc/mtab", None, MTAB, False, True),
        ("/etc/mtab", None, LINK, False, False),
    ],
)
def test_what_defaults_leave_out(
    path: str, expected: Facts | None, actual: Facts | None, executable: bool, left_out: bool
) -> None:
    """Just what runtimes write, and nothing that can be executed."""
    hit = [each for each in DEFAULTS if each.covers(path) and each.leaves_out(expected, actual, executable=executable)]
    assert bool(hit) is left_out


@pytest.mark.parametrize(
    ("pattern", "path", "covers"),
    [
        ("/data", "/data", True),
        ("/data/", "/data", True),
        ("/data", "/data2", False),
        ("/var/*/x", "/var/a/x", True),
        ("/var/*/x", "/var/a/b/x", False),
        ("/var/**/x", "/var/a/b/x", True),
        ("*.pyc", "/a/b/c.pyc", True),
        ("*.pyc", "/c.pyc", True),
        ("__pycache__", "/a/__pycache__", True),
        ("a/b", "/x/a/b", True),
    ],
)
def test_patterns_of_operators(pattern: str, path: str, covers: bool) -> None:
    """From the root with a leading slash, else at any depth."""
    assert of_operator([pattern])[0].covers(path) is covers


def test_what_is_left_out_on_request_is_left_out_with_all_below(root: Path) -> None:
    """Added, changed or missing; and counted once."""
    (root / "data/deep").mkdir(parents=True)
    (root / "data/deep/x").write_bytes(b"#!")
    (root / "bin/app").unlink()
    (ignore, other) = of_operator(["/data", "/bin"])
    report = look(root, file_list(BASE), Options(ignores=(ignore, other)))
    assert changes(report) == {}
    assert dict(report.ignored) == {ignore: 1, other: 1}
    (root / "bin").rmdir()
    assert changes(look(root, file_list(BASE), Options(ignores=(ignore, other)))) == {}


def test_files_of_patterns() -> None:
    """One a line; there are bounds."""
    assert read_patterns("# x\n\n /a \n*.b\n") == ("/a", "*.b")
    with pytest.raises(ValueError, match="at most"):
        read_patterns("a\n" * (MAX_PATTERNS + 1))


# -- mounts ----------------------------------------------------------------------------------------------------------------


def test_mounts_of_this_machine() -> None:
    """What /proc/self/mountinfo says is mounted in /dev is not looked below, nor told."""
    mounted = {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    below = {each.removeprefix("/dev/").encode() for each in mounted if each.startswith("/dev/") and each.count("/") == 2}
    if not below:
        pytest.skip("nothing is mounted in /dev")
    report = look(Path("/dev"), file_list([folder("shm"), file("shm/expected")]))
    assert below <= set(report.mounts)
    assert not any(finding.path.split(b"/")[0] in below for finding in report.findings)


def test_mounts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is hidden below one is not missing; what holds nothing but mounts was made for them; --cross-mounts looks below."""
    for name in ("volumes/a", "volumes/b", "mixed/a", "empty"):
        (root / name).mkdir(parents=True)
    (root / "mixed/file").write_bytes(b"")
    (root / "volumes/a/secret").write_bytes(b"")
    mounts = {(root / name).stat().st_ino for name in ("volumes/a", "volumes/b", "mixed/a", "etc")}
    real = mount_of
    monkeypatch.setattr(proxy.drift.rootfs, "mount_of", lambda fd: -1 if os.fstat(fd).st_ino in mounts else real(fd))
    report = look(root, file_list(BASE))
    assert report.mounts == (b"etc", b"mixed/a", b"volumes/a", b"volumes/b")
    assert changes(report) == {"empty": "added", "mixed": "added", "mixed/file": "added"}
    assert [(each.reason, count) for each, count in report.ignored.items()] == [("made for what is mounted in it", 1)]
    crossing = look(root, file_list(BASE), Options(ignores=(), cross=True))
    assert "volumes/a/secret" in changes(crossing)
    assert crossing.mounts == ()


# -- what cannot be looked at ---------------------------------------------------------------------------------------------


def test_bounds(root: Path) -> None:
    """Entries, depth, findings: what is not looked at is said to be; a finding too many is noted."""
    for number in range(10):
        (root / f"x{number}").write_bytes(b"")
    report = look(root, file_list(BASE), Options(ignores=(), entries=5))
    assert "more than 5 entries" in report.unread[0]
    report = look(root, file_list(BASE), Options(ignores=(), findings=3))
    assert (len(report.findings), report.truncated) == (3, True)
    report = look(root, file_list(BASE), Options(ignores=(), hashed=2))
    assert changes(report)["x0"] == "added"
    (root / "long").write_bytes(b"#!long")
    report = look(root, file_list(BASE), Options(ignores=(), hashed=2))
    assert next(each.note for each in report.findings if each.path == b"long") == "6 bytes are too many to be hashed"
    deep = root
    for _ in range(260):
        deep /= "d"
        deep.mkdir()
    assert "more than 256 folders deep" in look(root, file_list(BASE)).unread[0]


def failing(real: Callable[..., object], which: Callable[..., object]) -> Callable[..., object]:
    """A call that the system refuses now and then."""

    def call(*words: object, **more: object) -> object:
        if which(*words):
            raise PermissionError(13, "Permission denied")
        return real(*words, **more)

    return call


@pytest.mark.parametrize("call", ["reach", "readable", "names_in"])
def test_refusals_are_listed(root: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """With the path; what could not be seen is neither missing nor clean."""
    module = proxy.drift.rootfs
    refused: dict[str, Callable[..., object]] = {
        "reach": lambda name, _: name == b"app",
        "readable": lambda fd: os.readlink(f"/proc/self/fd/{fd}").endswith("/app"),
        "names_in": lambda fd: os.readlink(f"/proc/self/fd/{fd}").endswith("/bin"),
    }
    monkeypatch.setattr(module, call, failing(getattr(module, call), refused[call]))
    report = look(root, file_list(BASE))
    assert report.findings == ()
    assert report.unread[0].startswith("/bin")
    assert report.unread[0].endswith(": Permission denied")


def test_large_files_that_cannot_be_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the threads beside the walk, too."""
    (root / "large").write_bytes(bytes(300_000))

    def refusing(*_: object) -> object:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(proxy.drift.rootfs, "read_content", refusing)
    report = look(root, file_list([]))
    assert "/large: Input/output error" in report.unread


def test_names_that_go_away(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the listing and the look: not there, so missing if expected, and nothing if not."""
    real = names_in
    monkeypatch.setattr(proxy.drift.rootfs, "names_in", lambda fd: iter([*real(fd), b"gone", b"app2"]))
    assert changes(look(root, file_list([*BASE, file("bin/app2")]))) == {"bin/app2": "missing"}


def test_a_file_that_changes_all_the_time(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is told as such: it is not what the layers say."""
    real = os.fstat
    looks = 0

    def moving(fd: int) -> os.stat_result:
        nonlocal looks
        looks += 1
        status = real(fd)
        os.utime(root / "bin/app", ns=(looks, looks))
        return status

    with Disk.open(root) as disk:
        monkeypatch.setattr("proxy.drift.disk.os.fstat", moving)
        report = Examination(disk, file_list(BASE), BARE).run()
        monkeypatch.undo()
    app = next(finding for finding in report.findings if finding.path == b"bin/app")
    assert app.note == "it changes while it is read"
    assert Aspect.CONTENT in app.aspects


def test_it_can_be_broken_off(root: Path) -> None:
    """Before, or while files are hashed."""
    with Disk.open(root) as disk:
        examination = Examination(disk, file_list(BASE), BARE, lambda _: examination.stop())
        with pytest.raises(Unexaminable, match="broken off"):
            examination.run()


def test_findings_are_shown_without_what_a_terminal_would_obey() -> None:
    """Control characters, and what turns the direction of writing."""
    finding = Finding("a\x1b[2J\u202e\\b\udcff".encode("utf-8", "surrogateescape"), Change.ADDED, None, FILE)
    assert finding.row == ("added", "/a\\x1b[2J\\xe2\\x80\\xae\\x5cb\\xff", "file")
    assert finding.told()["path"] == finding.row[1]


# -- layers ------------------------------------------------------------------------------------------------------------


def descriptor(media_type: str = "application/vnd.oci.image.layer.v1.tar+gzip") -> Descriptor:
    """A layer's."""
    return Descriptor(media_type, Digest.of(b"x"), 1)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (b"{", "cannot be read"),
        (b"[]", "does not say"),
        (b'{"rootfs": 7}', "does not say"),
        (b'{"rootfs": {"diff_ids": []}}', "does not say"),
        (b'{"rootfs": {"diff_ids": [7]}}', "does not say"),
        (b'{"rootfs": {"diff_ids": ["md5:1"]}}', "cannot be read"),
    ],
)
def test_configs_that_promise_nothing(config: bytes, told: str) -> None:
    """Are refused: what the layers unpack to could not be held against anything."""
    with pytest.raises(LayerRefused, match=told):
        layer_blobs([descriptor()], config)


def test_layers_of_other_kinds() -> None:
    """Only archives are read; artifacts without a config of an image promise nothing, and are read all the same."""
    for kind in ("application/vnd.oci.image.layer.v1.tar+encrypted", "application/vnd.in-toto+json", ""):
        with pytest.raises(LayerRefused, match="not known to be a tar archive"):
            layer_blobs([descriptor(kind)], None)
    assert layer_blobs([descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip")], None)[0].diff_id is None


@pytest.mark.parametrize(
    ("platforms", "wanted", "place"),
    [
        (["linux/amd64", "linux/arm64"], "linux/arm64", 1),
        (["linux/amd64", "linux/arm64/v8"], "linux/arm64", 1),
        (["linux/arm/v6", "linux/arm/v7"], "linux/arm/v7", 1),
        (["linux/arm/v6"], "linux/arm/v7", None),
        (["linux/amd64/v3", "linux/amd64"], "linux/amd64", 1),
        (["linux/arm64"], "linux/arm64/v8", 0),
        (["windows/amd64", ""], "linux/amd64", None),
    ],
)
def test_platforms(platforms: list[str], wanted: str, place: int | None) -> None:
    """The one that is wanted, or one of the same kind without a variant."""
    assert choose(platforms, wanted) == place
    assert host_platform("x86_64") == "linux/amd64"
    assert host_platform("s390x") == "linux/s390x"


def test_whether_links_were_followed(tmp_path: Path) -> None:
    """The root that is looked at tells: the link is still there, or it is a directory now."""
    (tmp_path / "usr").mkdir()
    with Disk.open(tmp_path) as disk:
        assert not links_followed(disk, [b"gone/lib"])
        (tmp_path / "usr/lib").symlink_to("x")
        assert links_followed(disk, [b"gone/lib", b"usr/lib"])
        (tmp_path / "lib").mkdir()
        assert not links_followed(disk, [b"lib"])
