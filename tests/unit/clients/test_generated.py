"""What ``tagstone client`` writes, ``tagstone doctor`` finds no fault with, for every version that it claims."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proxy.clients.install import apply, prepare
from proxy.clients.kinds import Client, Store
from proxy.clients.traps.examine import examine
from proxy.clients.traps.node import Expected, Node, Target, parse_version
from proxy.clients.traps.table import Effect
from tests.unit.clients.wishes import rendered

#: Client, what more is wished for, versions that the node then has.
CASES: tuple[tuple[Client, str, dict[str, Any], tuple[str, ...]], ...] = (
    (Client.CONTAINERD, "containerd", {}, ("1.6.20", "1.7.24", "2.0.0", "2.1.9", "2.2.1", "")),
    (Client.CONTAINERD, "containerd", {"release": "1.6.20"}, ("1.6.20",)),
    (Client.CONTAINERD, "containerd", {"release": "2.1.4"}, ("2.1.4", "2.2.0")),
    (Client.NERDCTL, "nerdctl", {}, ("1.6.20", "1.7.24", "2.1.9")),
    (Client.DOCKER, "docker", {"release": "28.5.2", "store": Store.CONTAINERD}, ("28.5.2",)),
    (Client.DOCKER, "docker", {"release": "29.0.0"}, ("29.0.0",)),
    (Client.PODMAN, "podman", {}, ("4.3.1", "5.4.2", "5.8.6", "")),
    (Client.CRIO, "podman", {}, ("",)),
    (Client.BUILDKIT, "buildkit", {}, ("",)),
    (Client.K3S, "k3s", {}, ("",)),
)


def _examine(root: Path, kind: str, version: str, registries: tuple[str, ...], proxy: str) -> list[str]:
    parsed, target = parse_version(version), Target.parse(proxy)
    assert target is not None
    node = Node(root, {} if parsed is None else {"containerd" if kind == "nerdctl" else kind: parsed})
    examination = examine(node, Expected((target,), registries), (kind,))
    assert not examination.troubles
    return [
        f"{each.id} {each.file}:{each.line} {each.what}" for each in examination.findings if each.trap.effect is not Effect.ADVICE
    ]


@pytest.mark.parametrize("proxy", ["https://proxy.example:5000", "http://127.0.0.1:5000"])
@pytest.mark.parametrize(
    ("client", "kind", "wanted", "versions"),
    CASES,
    ids=[f"{c}-{'-'.join(map(str, w.values())) or 'any'}" for c, _, w, _ in CASES],
)
def test_what_is_generated_is_flawless(
    client: Client, kind: str, wanted: dict[str, Any], versions: tuple[str, ...], proxy: str, tmp_path: Path
) -> None:
    """Installed on an empty node, for each version that it covers."""
    registries = ("docker.io", "ghcr.io", "registry.corp.example:5443")
    apply(prepare(rendered(client, proxy=proxy, registries=registries, **wanted), tmp_path))
    for version in versions:
        assert _examine(tmp_path, kind, version, registries, proxy) == []


@pytest.mark.parametrize("version", ["20.10.24", "26.1.5", "28.5.2"])
def test_the_graph_store_of_docker_has_the_one_trap_that_no_file_mends(version: str, tmp_path: Path) -> None:
    """Names without the proxy in front go where they always went: which the generated files say, too."""
    apply(prepare(rendered(Client.DOCKER, registries=("docker.io",), release=version), tmp_path))
    found = _examine(tmp_path, "docker", version, ("docker.io",), "https://proxy.example:5000")
    assert [each.split()[0] for each in found] == ["docker-unmirrored"]


@pytest.mark.parametrize("release", ["1.9", "1.13"])
def test_what_is_generated_for_talos_is_flawless(release: str, tmp_path: Path) -> None:
    """The machine configuration that it prints, in both its forms."""
    rendering = rendered(Client.TALOS, registries=("docker.io", "ghcr.io"), release=release)
    assert rendering.files
    for file in rendering.files:
        (tmp_path / "talos.yaml").write_text(file.content)
        target = Target.parse("https://proxy.example:5000")
        assert target is not None
        examination = examine(Node(tmp_path), Expected((target,), ("docker.io", "ghcr.io")), ("talos",), talos="/talos.yaml")
        assert not examination.findings
        assert not examination.troubles
