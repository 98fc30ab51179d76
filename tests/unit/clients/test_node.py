"""The node: its paths, its programs, and what an endpoint means."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from proxy.clients.reading import Unreadable
from proxy.clients.traps.node import Expected, Node, Target, listed, logical_lines, parse_version, shown_version


def test_links_are_followed_as_the_node_would(tmp_path: Path) -> None:
    """Absolute ones start at its root, none leads out of it, and a circle ends."""
    (tmp_path / "etc/real").mkdir(parents=True)
    (tmp_path / "etc/real/file").write_text("x")
    (tmp_path / "etc/link").symlink_to("/etc/real")
    (tmp_path / "etc/up").symlink_to("../../../etc/link/file")
    (tmp_path / "etc/circle").symlink_to("circle")
    node = Node(tmp_path)
    assert node.text("/etc/link/file") == "x"
    assert node.text("/etc/up") == "x"
    assert node.path("/../../etc/real") == tmp_path / "etc/real"
    assert not node.exists("/etc/circle")
    assert node.names("/etc") == ("circle", "link", "real", "up")
    assert node.names("/none") == ()
    assert node.read == ["/etc/link/file", "/etc/up"]


@pytest.mark.parametrize("length", [1, 30, 60])
def test_no_chain_of_links_leads_out(tmp_path: Path, length: int) -> None:
    """However long it is: at its end is the node's own root, or an error."""
    (tmp_path / "outside").write_text("not the node's")
    root = tmp_path / "root"
    root.mkdir()
    (root / f"link-{length}").symlink_to(tmp_path / "outside")
    for number in range(length):
        (root / f"link-{number}").symlink_to(f"link-{number + 1}")
    with suppress(Unreadable):
        assert Node(root).text("/link-0") is None


def test_a_unit_and_its_drop_ins_are_read_by_logical_lines(tmp_path: Path) -> None:
    """A continued line counts as the one that it begins with; comments are left out."""
    folder = tmp_path / "etc/systemd/system/docker.service.d"
    folder.mkdir(parents=True)
    (folder / "a.conf").write_text("[Service]\n# ExecStart=no\nExecStart=a \\\n  b\n\nX=1\n")
    lines = list(Node(tmp_path).units("docker.service"))
    assert [(line, " ".join(text.split())) for _, line, text in lines] == [(1, "[Service]"), (3, "ExecStart=a b"), (6, "X=1")]
    assert list(logical_lines("f", "a \\\n")) == []


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("containerd github.com/containerd/containerd 1.6.20~ds1 x", (1, 6, 20)),
        ("Docker version 28.2.2, build e6534b4", (28, 2, 2)),
        ("podman version 4.3.1", (4, 3, 1)),
        ("v1.31.6+k3s1", (1, 31, 6)),
        ("2.1", (2, 1)),
        ("none", None),
    ],
)
def test_versions_are_read_from_what_programs_print(text: str, version: tuple[int, ...] | None) -> None:
    """The first number with a dot."""
    assert parse_version(text) == version


def test_a_version_is_assumed_before_it_is_asked(tmp_path: Path) -> None:
    """A program below another root is never run."""
    program = tmp_path / "usr/bin/containerd"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho containerd 9.9.9\n")
    program.chmod(0o755)
    assert Node(tmp_path).version("containerd") is None
    assert Node(tmp_path, {"containerd": (1, 7)}).version("containerd") == (1, 7)
    assert Node(tmp_path).program("containerd") == program
    assert shown_version(None) == "unknown version"


def test_programs_of_this_machine_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what they print; one that is not there, cannot be run or says nothing has no version."""

    def version(text: str | None, *, executable: bool = True) -> tuple[int, ...] | None:
        program = tmp_path / "usr/bin/podman"
        program.parent.mkdir(parents=True, exist_ok=True)
        program.unlink(missing_ok=True)
        if text is not None:
            program.write_text(text)
            program.chmod(0o755 if executable else 0o644)
        return Node(tmp_path).version("podman")

    monkeypatch.setattr(Node, "live", property(lambda self: True))
    assert version("#!/bin/sh\necho podman version 5.4.2\n") == (5, 4, 2)
    assert version("#!/bin/sh\n") is None
    assert version("x", executable=False) is None
    assert version(None) is None


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("https://p.example:443/v2/", "https://p.example/v2"),
        ("HTTP://P.example:80", "http://p.example"),
        ("p.example:5000/docker.io", "p.example:5000/docker.io"),
        ("http://[::1]:5000", "http://[::1]:5000"),
        ("https://", None),
        ("http://a:b", None),
        ("http://[x", None),
        ("", None),
    ],
)
def test_targets_are_read_as_clients_read_them(text: str, target: str | None) -> None:
    """A default port is none, case does not matter, and what is no address is none."""
    found = Target.parse(text)
    assert (None if found is None else str(found)) == target


def test_loopback_is_where_nobody_is_on_the_way() -> None:
    """By name or address, with or without a port."""
    assert [
        Target("http", host, "").loopback for host in ("127.0.0.1:5000", "localhost", "[::1]:1", "10.0.0.1", "example:80")
    ] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_the_proxy_is_known_by_its_host() -> None:
    """Whatever the scheme and the path say, and with the port of https written out."""
    expected = Expected((Target("https", "p.example", ""),), ("docker.io",))
    for text in ("p.example", "http://p.example/x", "p.example:443/docker.io", "https://p.example:443"):
        assert expected.is_proxy(text), text
    for text in ("q.example", "p.example:5000", "", "https://"):
        assert not expected.is_proxy(text), text
    assert expected.wants("index.docker.io")
    assert not expected.wants("quay.io")
    assert Expected(expected.proxies).wants("anything")


def test_names_are_listed_for_people() -> None:
    """The first few, and how many more."""
    assert listed("abc") == "a, b, c"
    assert listed("abcdefgh") == "a, b, c, d, e and 3 more"
