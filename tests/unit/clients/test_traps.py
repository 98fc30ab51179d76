"""The examination of a node, by table: one tree, one trap."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from proxy.clients.traps.examine import present
from proxy.clients.traps.node import Node
from proxy.clients.traps.page import render
from proxy.clients.traps.table import TRAPS, Effect
from tests.unit.clients.trees import (
    CLOSED,
    CONFIG_2,
    DH,
    HOST,
    KC,
    KG,
    LED,
    MIRRORS,
    NO_DEFAULT,
    REJECT,
    SOUND,
    STORE,
    TALOS_NEW,
    TRAPPED,
    B,
    C,
    D,
    H,
    K,
    P,
    R,
    T,
    Tree,
    places,
)

PAGE = Path(__file__).parents[3] / "docs" / "clients" / "doctor.md"


@pytest.mark.parametrize("tree", TRAPPED, ids=[tree.name for tree in TRAPPED])
def test_each_trap_is_named_with_file_and_line(tree: Tree, tmp_path: Path) -> None:
    """In a tree that has this trap and no other, this trap is found where it stands, and no other."""
    examination = tree.examine(tmp_path)
    assert places(examination) == sorted(tree.found, key=lambda each: each[1:])
    assert not examination.troubles
    assert examination.trapped == any(TRAPS[trap].effect is not Effect.ADVICE for trap, _, _ in tree.found)


@pytest.mark.parametrize("tree", SOUND, ids=[tree.name for tree in SOUND])
def test_a_sound_node_has_no_trap(tree: Tree, tmp_path: Path) -> None:
    """Nothing is found where nothing is wrong, not even advice."""
    examination = tree.examine(tmp_path)
    assert places(examination) == []
    assert not examination.troubles
    assert examination.files


def test_every_trap_has_a_tree() -> None:
    """No entry of the table goes unseen, and none is found that is not in the table."""
    assert {trap for tree in TRAPPED for trap, _, _ in tree.found} == set(TRAPS)


@pytest.mark.parametrize("trap", TRAPS.values(), ids=list(TRAPS))
def test_every_trap_says_what_happens_and_how_it_is_mended(trap: object) -> None:
    """To its end, without the marks that would break the table of the page."""
    found = TRAPS[trap.id]  # type: ignore[attr-defined]  # a Trap
    assert re.fullmatch(r"[a-z0-9-]+", found.id)
    for text in (found.happens, found.mend):
        assert text == text.strip()
        assert text.endswith((".", ")"))
    assert not any("|" in text or "\n" in text for text in (found.title, found.happens, found.mend))


def test_the_page_is_the_table() -> None:
    """docs/clients/doctor.md tells of every trap, in the words of the table."""
    text = PAGE.read_text(encoding="utf-8")
    assert render(text) == text
    assert all(f"`{name}`" in text for name in TRAPS)


UNREADABLE = (
    ("containerd", C),
    ("containerd", H),
    ("containerd", "/etc/nerdctl/nerdctl.toml"),
    ("docker", D),
    ("docker", DH),
    ("buildkit", B),
    ("podman", R),
    ("podman", P),
    ("podman", "/etc/containers/registries.conf.d/a.conf"),
    ("k3s", K),
    ("k3s", KC),
    ("talos", T),
)


@pytest.mark.parametrize(("client", "file"), UNREADABLE, ids=lambda text: text.rpartition("/")[2])
def test_a_file_that_cannot_be_read_is_told(client: str, file: str, tmp_path: Path) -> None:
    """It is neither sound nor a trap, and never passed over."""
    files = {
        "containerd": {C: CONFIG_2, H: CLOSED},
        "docker": {D: STORE},
        "podman": {R: LED, P: REJECT},
        "k3s": {K: MIRRORS, KC: NO_DEFAULT},
    }.get(client, {})
    tree = Tree("x", client, {name: text for name, text in files.items() if name != file}, versions={"docker": "28.5.2"})
    path = tmp_path / file.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    examination = tree.examine(tmp_path)
    assert [(each.file, each.what) for each in examination.troubles] == [(file, "is not a regular file")]


def test_a_talos_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    """A slip in its name must not look like a sound node."""
    (trouble,) = Tree("x", "talos", {}).examine(tmp_path).troubles
    assert trouble.what == "there is no such file"


def test_dockerd_is_told_by_flags_as_well(tmp_path: Path) -> None:
    """Another file, the store, and registries that need no TLS; a quote that never ends breaks nothing."""
    unit = (
        "[Service]\nExecStart=/usr/bin/dockerd --config-file /etc/d.json --feature containerd-snapshotter=true "
        f"--insecure-registry {HOST} --label 'it\n"
    )
    files = {"/lib/systemd/system/docker.service": unit, DH: CLOSED.replace("https", "http"), "/etc/d.json": "{}\n"}
    tree = Tree("x", "docker", files, versions={"docker": "28.5.2"}, proxy="http://" + HOST)
    examination = tree.examine(tmp_path)
    assert [finding.id for finding in examination.findings] == ["unproven-proxy", "unproven-proxy"]
    assert "/etc/d.json" in examination.files


def test_clients_are_found_by_what_they_leave_on_a_node(tmp_path: Path) -> None:
    """By files or programs; containerd below dockerd is no client of its own, unless something says so."""

    def here(*names: str) -> tuple[str, ...]:
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
        return present(Node(tmp_path))

    assert here() == ()
    assert here("usr/bin/containerd") == ("containerd",)
    assert here("usr/sbin/dockerd") == ("docker",)
    assert here("usr/local/bin/crictl") == ("containerd", "docker")
    assert here("home/ann/.config/buildkit/buildkitd.toml", "usr/bin/skopeo") == ("containerd", "docker", "buildkit", "podman")
    assert here("etc/rancher/rke2/config.yaml", "system/state/config.yaml")[-2:] == ("k3s", "talos")


def test_what_is_not_asked_about_is_left_alone(tmp_path: Path) -> None:
    """Folders and mirrors of registries that need not come through the proxy are none of its business."""
    elsewhere = '[host."https://x.example"]\n'
    folder, version = H.replace("docker.io", "other.example"), {"containerd": "1.7.0"}
    for tree in (
        Tree(
            "c",
            "containerd",
            {C: CONFIG_2, H: CLOSED, folder: elsewhere},
            versions=version,
        ),
        Tree("k", "k3s", {K: MIRRORS + "  other.example: {endpoint: [https://x.example]}\n", KC: NO_DEFAULT}),
        Tree("t", "talos", {T: TALOS_NEW + "skipFallback: true\n" + TALOS_NEW.replace("docker.io", "other.example")}),
    ):
        assert places(tree.examine(tmp_path)) == []
    # Without a list of registries every one of them is meant.
    tree = Tree("c", "containerd", {C: CONFIG_2}, versions={"containerd": "1.7.0"}, registries=())
    assert [trap for trap, _, _ in places(tree.examine(tmp_path))] == ["containerd-no-server", "containerd-other-host"]


def test_a_generated_file_that_does_not_decode_is_a_trap(tmp_path: Path) -> None:
    """What k3s wrote for containerd is read as containerd reads it."""
    tree = Tree("x", "k3s", {K: MIRRORS, KC: NO_DEFAULT, KG: "server = \n", KG.replace("docker.io", "quay.io"): "server = \n"})
    assert places(tree.examine(tmp_path)) == [("containerd-undecodable", KG, 1)]


def test_programs_among_scripts_are_not_read(tmp_path: Path) -> None:
    """Only what is text can pull with ctr in words."""
    files = {C: CONFIG_2, H: CLOSED, "/usr/local/bin/a": "\x7fELF ctr i pull x"}
    tree = Tree("x", "containerd", files, versions={"containerd": "1.7.0"})
    assert places(tree.examine(tmp_path)) == []


def test_the_largest_registries_conf_costs_little(tmp_path: Path) -> None:
    """Thousands of aliases over thousands of tables are no square."""
    tables = "".join(f'[[registry]]\nlocation="*.b{number}"\n' for number in range(3500))
    aliases = "[aliases]\n" + "".join(f'a{number}="c{number}/x"\n' for number in range(6000))
    began = time.process_time()
    examination = Tree("x", "podman", {R: tables + aliases, P: REJECT}).examine(tmp_path)
    assert time.process_time() - began < 8
    assert [finding.id for finding in examination.findings] == ["podman-uncovered", "podman-alias-elsewhere"]
