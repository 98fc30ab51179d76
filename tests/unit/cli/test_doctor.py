"""``tagstone doctor``: what it is told, what it answers, and with which exit code."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from proxy.cli.doctor import _summary
from proxy.cli.main import app
from proxy.clients.canary import Report, Verdict
from proxy.clients.traps.examine import Examination
from tests.unit.clients.trees import CLOSED, CONFIG_2, LED, MIRRORED, PROXY, REJECT, C, H, P, R, Tree
from tests.unit.configuration.files import RULES, Folder

SOUND = Tree("sound", "containerd", {C: CONFIG_2, H: CLOSED})
OPEN = Tree("open", "podman", {R: MIRRORED, P: REJECT})


def doctor(root: Path, *words: str | Path) -> Result:
    """Run ``tagstone doctor`` on a root, with nothing of this machine's configuration."""
    return CliRunner().invoke(app, ["doctor", "--root", str(root), *map(str, words)], env={"TAGSTONE_CONFIG": ""})


def answer(result: Result) -> dict[str, Any]:
    """What it prints with ``--json``."""
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_sound_node_ends_with_0(tmp_path: Path) -> None:
    """For people, with what was examined; for scripts, with the files that were read."""
    SOUND.write(tmp_path)
    words = ("--proxy", PROXY, "--registry", "docker.io", "--assume", "containerd=1.7")
    result = doctor(tmp_path, *words)
    assert result.exit_code == 0
    assert result.stdout.endswith("no traps found\n")
    assert "containerd 1.7" in result.stdout
    told = answer(doctor(tmp_path, *words, "--json"))
    assert told["sound"] is True
    assert told["files"] == [C, H]
    assert told["clients"] == [{"client": "containerd", "version": "1.7"}]
    assert (told["findings"], told["not_examined"], told["canary"]) == ([], [], [])


def test_a_trap_ends_with_1_and_is_told_with_its_mend(tmp_path: Path) -> None:
    """File and line, what stands there, what would happen, and what to do; the same for scripts."""
    OPEN.write(tmp_path)
    words = ("--proxy", PROXY, "--registry", "docker.io")
    result = doctor(tmp_path, *words)
    assert result.exit_code == 1
    assert f"{R}:1: OPEN podman-mirror-falls-back" in result.stdout
    for word in ("found: ", "happens: ", "mend: ", "1 trap found"):
        assert word in result.stdout
    (finding,) = answer(doctor(tmp_path, *words, "--json"))["findings"]
    assert {"trap", "client", "effect", "file", "line", "found", "title", "happens", "mend"} == set(finding)
    assert (finding["trap"], finding["file"], finding["line"]) == ("podman-mirror-falls-back", R, 1)


def test_a_trap_may_be_left_out(tmp_path: Path) -> None:
    """``--ignore`` is for what a fleet holds by other means; a name that is no trap is a mistake."""
    OPEN.write(tmp_path)
    words = ("--proxy", PROXY, "--registry", "docker.io", "--ignore")
    assert doctor(tmp_path, *words, "podman-mirror-falls-back").exit_code == 0
    assert doctor(tmp_path, *words, "podman-mirror").exit_code == 2


def test_what_cannot_be_read_ends_with_3(tmp_path: Path) -> None:
    """It is neither sound nor trapped."""
    os.mkfifo(tmp_path / "x")
    Tree("fifo", "podman", {R: LED, P: REJECT}).write(tmp_path)
    (tmp_path / R.lstrip("/")).unlink()
    os.mkfifo(tmp_path / R.lstrip("/"))
    result = doctor(tmp_path, "--proxy", PROXY, "--registry", "docker.io")
    assert result.exit_code == 3
    assert f"{R}: NOT EXAMINED" in result.stdout
    assert "is not a regular file" in result.stdout
    assert "1 not examined" in result.stdout


def test_a_node_without_clients_ends_with_3(tmp_path: Path) -> None:
    """Nothing was examined, so nothing is sound."""
    result = doctor(tmp_path, "--proxy", PROXY)
    assert result.exit_code == 3
    assert "none found" in result.stdout


def test_the_proxy_is_what_the_files_name_besides_registries(tmp_path: Path) -> None:
    """Where they name one place; where they name two or none it has to be said."""
    SOUND.write(tmp_path)
    told = answer(doctor(tmp_path, "--json", "--assume", "containerd=1.7"))
    assert told["proxies"] == [PROXY]
    Tree("other", "k3s", {"/etc/rancher/k3s/registries.yaml": "mirrors: {docker.io: {endpoint: [https://x.example]}}\n"}).write(
        tmp_path
    )
    result = doctor(tmp_path)
    assert result.exit_code == 2
    assert "https://x.example" in result.stderr
    empty = tmp_path / "empty"
    empty.mkdir()
    assert doctor(empty).exit_code == 2


@pytest.mark.parametrize("client", ["podman", "docker"])
def test_the_proxy_is_found_in_every_kind_of_file(tmp_path: Path, client: str) -> None:
    """registries.conf and daemon.json name it, too."""
    files = {"podman": {R: LED}, "docker": {"/etc/docker/daemon.json": f'{{"registry-mirrors": ["{PROXY}"]}}'}}[client]
    Tree("one", client, files).write(tmp_path)
    (proxy,) = answer(doctor(tmp_path, "--json"))["proxies"]
    assert proxy in {PROXY, "proxy.example:5000"}


def test_the_configuration_says_proxy_and_registries(tmp_path: Path) -> None:
    """Where it listens, and every upstream; where it listens everywhere the URL has to be said."""
    root = tmp_path / "root"
    (tmp_path / "c").mkdir()
    folder = Folder(tmp_path / "c")
    SOUND.write(root)
    file = folder.write(f"listen: 127.0.0.1:5055\nupstreams: {{docker.io: {{}}, quay.io: {{}}}}\n{RULES}")
    told = answer(doctor(root, "--json", "--config", file))
    assert told["proxies"] == ["http://127.0.0.1:5055"]
    assert told["registries"] == ["docker.io", "quay.io"]
    everywhere = folder.write(f"listen: 0.0.0.0:5055\nupstreams: {{docker.io: {{}}}}\n{RULES}")
    assert answer(doctor(root, "--json", "--config", everywhere))["proxies"] == [PROXY]
    assert doctor(root, "--config", tmp_path / "none.yaml").exit_code == 2


@pytest.mark.parametrize(
    "words",
    [
        ("--client", "rkt"),
        ("--assume", "containerd"),
        ("--assume", "rkt=1.0"),
        ("--proxy", "proxy.example"),
        ("--proxy", "https://proxy.example/path"),
        ("--proxy", PROXY, "--registry", "not a registry"),
        ("--proxy", PROXY, "--canary", "--bait", "Not An Image"),
        ("--root", "/nowhere/at/all"),
    ],
    ids=" ".join,
)
def test_usage_ends_with_2(tmp_path: Path, words: tuple[str, ...]) -> None:
    """With a word about what is wrong."""
    result = doctor(tmp_path, *words)
    assert result.exit_code == 2
    assert result.stderr


@pytest.mark.parametrize(
    ("verdicts", "told"),
    [
        (["closed", "refused"], "no traps found; no pull went around the proxy"),
        (["closed", "open"], "no traps found; 1 of 2 pulls went around the proxy"),
        (["closed", "unknown"], "no traps found; no pull went around the proxy; 1 of 2 pulls could not tell"),
        (["open", "unknown"], "no traps found; 1 of 2 pulls went around the proxy; 1 of 2 pulls could not tell"),
        (["unknown"], "no traps found; 1 of 1 pulls could not tell"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_what_could_not_be_told_is_not_called_sound(verdicts: list[str], told: str) -> None:
    """The last line says that nothing went around only of pulls that could tell."""
    reports = [Report("podman", "reg.example/x:1", Verdict(verdict), "", "") for verdict in verdicts]
    assert _summary(Examination(("podman",), (), (), ()), reports) == told


def test_clients_have_several_names(tmp_path: Path) -> None:
    """CRI-O is examined as podman is, RKE2 as k3s."""
    told = answer(doctor(tmp_path, "--json", "--proxy", PROXY, "--client", "crio", "--client", "rke2", "--client", "podman"))
    assert [each["client"] for each in told["clients"]] == ["podman", "k3s"]


def test_a_canary_without_programs_says_so(tmp_path: Path) -> None:
    """Talos has none that could be run here: nothing is proven."""
    Tree("talos", "talos", {"/t.yaml": "version: v1alpha1\n"}).write(tmp_path)
    words = ("--proxy", PROXY, "--client", "talos", "--talos", "/t.yaml", "--canary")
    result = doctor(tmp_path, *words)
    assert result.exit_code == 3
    assert "none of the clients has a program here" in result.stdout
