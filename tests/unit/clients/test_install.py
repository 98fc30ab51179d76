"""Files get onto a file system as a whole or not at all, and what was there is kept."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from proxy.clients.install import CannotInstall, apply, prepare
from proxy.clients.kinds import Client
from proxy.clients.model import Rendering
from tests.unit.clients.wishes import files, rendered

NOW = datetime(2026, 6, 1, 12, 30, 5, tzinfo=UTC)
PLAIN = "http://10.0.0.5:5000"


@pytest.fixture
def docker() -> Rendering:
    """A rendering with drop-ins and a file that belongs to others."""
    return rendered(Client.DOCKER, proxy=PLAIN, release="28")


def tree(root: Path) -> dict[str, bytes]:
    """Everything below a folder."""
    return {f"/{path.relative_to(root)}": path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_files_are_installed_below_the_root(docker: Rendering, tmp_path: Path) -> None:
    """Each where it belongs, readable for the client; nothing else is left behind."""
    installed = apply(prepare(docker, tmp_path))
    assert tree(tmp_path) == {path: file.content.encode() for path, file in files(docker).items()}
    assert {each.path for each in installed} == {path for path in tmp_path.rglob("*") if path.is_file()}
    assert all(each.backup is None for each in installed)
    assert all(stat.S_IMODE(each.path.stat().st_mode) == 0o644 for each in installed)


def test_installing_again_changes_nothing(docker: Rendering, tmp_path: Path) -> None:
    """No new backup, no new time stamp, no diff."""
    apply(prepare(docker, tmp_path))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    plan = prepare(docker, tmp_path)
    assert plan.diff() == ""
    assert apply(plan) == ()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_what_was_there_is_kept_beside(docker: Rendering, tmp_path: Path) -> None:
    """Under a name that no client reads, with its owner and mode; the new file has them, too."""
    daemon = tmp_path / "etc/docker/daemon.json"
    daemon.parent.mkdir(parents=True)
    daemon.write_text('{"mtu": 1400}')
    daemon.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(daemon, 12, 34)
    hosts = tmp_path / "etc/docker/certs.d/docker.io/hosts.toml"
    hosts.parent.mkdir(parents=True)
    hosts.write_bytes(b"\xff old")
    (hosts.parent / "hosts.toml.20260601T123005Z.bak").write_text("an earlier one")
    kept = {each.path: each.backup for each in apply(prepare(docker, tmp_path), NOW) if each.backup}
    assert kept == {
        daemon: daemon.with_name("daemon.json.20260601T123005Z.bak"),
        hosts: hosts.with_name("hosts.toml.20260601T123005Z-1.bak"),
    }
    assert kept[daemon].read_text() == '{"mtu": 1400}'
    assert kept[hosts].read_bytes() == b"\xff old"
    assert '"mtu": 1400' in daemon.read_text()
    for path in (daemon, kept[daemon]):
        found = path.stat()
        assert stat.S_IMODE(found.st_mode) == 0o600
        assert os.geteuid() != 0 or (found.st_uid, found.st_gid) == (12, 34)


def test_the_diff_is_unified(docker: Rendering, tmp_path: Path) -> None:
    """New files against /dev/null, merged ones with their context; a missing line end is told."""
    daemon = tmp_path / "etc/docker/daemon.json"
    daemon.parent.mkdir(parents=True)
    daemon.write_text('{\n  "mtu": 1400\n}')
    diff = prepare(docker, tmp_path).diff()
    assert f"--- /dev/null\n+++ {tmp_path}/etc/docker/certs.d/docker.io/hosts.toml\n" in diff
    assert (
        f'--- {daemon}\n+++ {daemon}\n@@ -1,3 +1,6 @@\n {{\n-  "mtu": 1400\n-}}\n\\ No newline at end of file\n+  "mtu": 1400,'
        in diff
    )
    assert tree(tmp_path) == {"/etc/docker/daemon.json": b'{\n  "mtu": 1400\n}'}


@pytest.mark.parametrize(("content", "told"), [(b"{", "no JSON"), (b"\xff", "not UTF-8"), (b"0" * ((4 << 20) + 1), "more than")])
def test_one_file_in_the_way_stops_all(docker: Rendering, tmp_path: Path, content: bytes, told: str) -> None:
    """Nothing is written; the problem names the file."""
    daemon = tmp_path / "etc/docker/daemon.json"
    daemon.parent.mkdir(parents=True)
    daemon.write_bytes(content)
    with pytest.raises(CannotInstall) as caught:
        prepare(docker, tmp_path)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{daemon}: ")
    assert told in problem
    assert tree(tmp_path) == {"/etc/docker/daemon.json": content}


def test_a_folder_in_a_files_place_is_told(docker: Rendering, tmp_path: Path) -> None:
    """As the system says it."""
    (tmp_path / "etc/docker/daemon.json").mkdir(parents=True)
    with pytest.raises(CannotInstall, match=r"daemon\.json: Is a directory"):
        prepare(docker, tmp_path)


def test_links_are_followed_but_not_out_of_the_root(docker: Rendering, tmp_path: Path) -> None:
    """A link within the tree stays a link; one that leads out of it would change another machine's file."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "etc/docker").mkdir(parents=True)
    (root / "data").mkdir()
    outside.mkdir()
    link = root / "etc/docker/daemon.json"
    link.symlink_to(root / "data/daemon.json")
    apply(prepare(docker, root))
    assert link.is_symlink()
    assert "10.0.0.5:5000" in (root / "data/daemon.json").read_text()
    link.unlink()
    link.symlink_to(outside / "daemon.json")
    with pytest.raises(CannotInstall, match="leads out of"):
        prepare(docker, root)
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("failing", [1, 3, 8])
def test_a_failure_in_the_middle_puts_everything_back(
    docker: Rendering, tmp_path: Path, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Nth file cannot be written: those before it are as they were, and no temporary file is left."""
    daemon = tmp_path / "etc/docker/daemon.json"
    daemon.parent.mkdir(parents=True)
    daemon.write_text('{"mtu": 1400}')
    hosts = tmp_path / "etc/docker/certs.d/docker.io/hosts.toml"
    hosts.parent.mkdir(parents=True)
    hosts.write_text("old")
    before = tree(tmp_path)
    calls = 0
    fsync = os.fsync

    def full(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(28, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        apply(prepare(docker, tmp_path))
    assert calls == failing
    assert tree(tmp_path) == before
