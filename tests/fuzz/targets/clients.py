"""The configuration files of container clients: whatever stands in them, a node with them is examined; places are told truly."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from proxy.clients.traps.examine import examine, guess
from proxy.clients.traps.node import Expected, Node
from proxy.clients.traps.node import Target as Place
from tests.fuzz.target import Target

_PROXY = Place("https", "p.example:5000", "")
_EXPECTED = Expected((_PROXY,), ("docker.io", "reg.example:5000"))


def _examined(client: str, file: str) -> Callable[[bytes], bool]:
    """Examine a node that has this one file; whether the file could be read."""

    def run(data: bytes) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, file.lstrip("/"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            node = Node(Path(folder))
            examination = examine(node, _EXPECTED, (client,), talos="/talos.yaml")
            guess(Node(Path(folder)))
        lines = data.count(b"\n") + data.count(b"\r") + 2
        for finding in examination.findings:
            assert finding.trap.id == finding.id
            assert finding.what
            assert 0 <= finding.line <= lines
        return not examination.troubles and not any(
            finding.file == file and finding.id.endswith("undecodable") for finding in examination.findings
        )

    return run


_URL = b"https://p.example:5000"
_HOSTS = (
    b'server = "' + _URL + b'"\ncapabilities = ["pull", "resolve"]\n[host]\n',
    b'[host."' + _URL + b'"]\n  capabilities = ["pull",\n "referrers"]\n  ca = ["a", "b"]\n  override_path = true\n'
    b'[host."http://[::1]:80/v2/x".header]\n  x = ["1"]\n',
    b'server = """\n' + _URL + b"\"\"\"\nhost.'a.b'.skip_verify = true\nhost = {c = {client = [['a', 'b']]}}\n# x\n",
)
_REGISTRIES = (
    (
        b'unqualified-search-registries = ["docker.io"]\nshort-name-mode = "enforcing"\n[[registry]]\nprefix = "docker.io"\n'
        b'location = "p.example:5000/docker.io"\ninsecure = false\n[aliases]\n"a" = "docker.io/library/a"\n'
    ),
    (
        b'[[registry]]\nlocation = "docker.io"\nblocked = true\n[[registry.mirror]]\nlocation = "p.example:5000/docker.io"\n'
        b'pull-from-mirror = "digest-only"\n[[registry]]\nprefix = "*.example"\nmirror-by-digest-only = true\n'
    ),
    b'[registries.search]\nregistries = ["docker.io"]\n',
)
_DAEMON = (
    (
        b'{\n  "registry-mirrors": ["https://p.example:5000"],\n  "insecure-registries": ["p.example:5000"],\n'
        b'  "features": {"containerd-snapshotter": true}\n}\n'
    ),
    b'{"registry-mirrors": "x", "features": []}',
)
_K3S = (
    (
        b'mirrors:\n  docker.io:\n    endpoint:\n      - "https://p.example:5000"\n    rewrite: {"^a": b}\n  "*": {}\nconfigs:\n'
        b"  docker.io: {auth: {username: &a x, password: *a}}\n"
    ),
    b"mirrors: {docker.io: {endpoint: https://x}}\n---\nx: 1\n",
)
_CONFIG = (
    (
        b'version = 2\nimports = ["/etc/containerd/*.toml", "config.toml"]\n[plugins."io.containerd.grpc.v1.cri".registry]\n'
        b'config_path = "/etc/containerd/certs.d:/x"\n[plugins."io.containerd.grpc.v1.cri".registry.mirrors."docker.io"]\n'
        b'endpoint = ["https://p.example:5000"]\n'
    ),
    b"version = 3\ndisabled_plugins = []\n[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = '/x'\n",
)
_TALOS = (
    (
        b"machine:\n  registries:\n    mirrors:\n      docker.io: {endpoints: [https://p.example:5000], skipFallback: true}\n"
        b'---\nkind: RegistryMirrorConfig\nname: "*"\nendpoints:\n  - url: https://p.example:5000\n'
    ),
)
_POLICY = (b'{"default": [{"type": "reject"}], "transports": {"docker": {"docker.io": [{"type": "insecureAcceptAnything"}]}}}',)
_WORDS = (
    "server",
    "[host]",
    "[[registry]]",
    "capabilities",
    "https://p.example:5000",
    "docker.io",
    '"""',
    "'''",
    "mirror",
    "- ",
    "*a",
    "&a",
)


def _target(name: str, client: str, file: str, seeds: tuple[bytes, ...]) -> Target:
    return Target(
        name, _examined(client, file), (), seeds, longest=4 << 10, largest=64 << 10, seconds=1, words=_WORDS, told=False
    )


TARGETS = (
    _target("hosts.toml", "containerd", "/etc/containerd/certs.d/docker.io/hosts.toml", _HOSTS),
    _target("config.toml", "containerd", "/etc/containerd/config.toml", _CONFIG),
    _target("registries.conf", "podman", "/etc/containers/registries.conf", _REGISTRIES),
    _target("policy.json", "podman", "/etc/containers/policy.json", _POLICY),
    _target("daemon.json", "docker", "/etc/docker/daemon.json", _DAEMON),
    _target("registries.yaml", "k3s", "/etc/rancher/k3s/registries.yaml", _K3S),
    _target("machine.yaml", "talos", "/talos.yaml", _TALOS),
)
