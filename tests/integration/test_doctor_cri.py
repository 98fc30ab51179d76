"""The kubelet's way: what containerd's CRI does with each trap of config.toml, and what its first error proves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.clients.canary import Canary, Driver, Outcome, Tells, Verdict
from proxy.clients.canary_clients import ProxyItself
from proxy.clients.traps.node import Expected, Target
from tests.integration.configured import ContainerdDaemon, Cri, Node
from tests.integration.nodes import Around, doctor
from tests.integration.processes import Tagstone

pytestmark = pytest.mark.client

CONFIG = """
check_interval: 0s
upstreams:
  {name}: {{url: "http://{name}", allow_private: true, retries: 0, breaker_failures: 1000}}
rules: [{{match: "**", require: first-use}}]
"""
CRI = 'plugins."io.containerd.grpc.v1.cri"'
PATH = f'[{CRI}.registry]\nconfig_path = "/etc/containerd/certs.d"\n'
CLOSED = 'server = "http://{proxy}"\ncapabilities = ["pull", "resolve"]\n[host]\n'


@dataclass(frozen=True, slots=True)
class Setup:
    """What config.toml says of registries, before and after what keeps this containerd apart, and what comes of it."""

    name: str
    after: str
    trap: str | None
    before: str = ""
    canary: Verdict = Verdict.OPEN
    hosts: str = CLOSED
    files: tuple[tuple[str, str], ...] = ()


SETUPS = (
    Setup("closed", PATH, None, canary=Verdict.REFUSED),
    Setup("no-config-path", "", "containerd-no-config-path"),
    Setup(
        "import-replaces",
        PATH,
        "containerd-import-replaces",
        'imports = ["/etc/containerd/conf.d/*.toml"]\n',
        files=(("/etc/containerd/conf.d/runtime.toml", f'version = 2\n[{CRI}.containerd]\nsnapshotter = "native"\n'),),
    ),
    # The upstream says 404 as well: that the first error is the proxy's shows nothing, the bait does.
    Setup(
        "registry-mirrors",
        f'[{CRI}.registry.mirrors."{{name}}"]\nendpoint = ["http://{{proxy}}"]\n',
        "containerd-registry-mirrors",
        canary=Verdict.REFUSED,
    ),
    Setup("no-server", PATH, "containerd-no-server", hosts='[host."http://{proxy}"]\n', canary=Verdict.REFUSED),
)


@dataclass(frozen=True, slots=True)
class Kubelet:
    """A node's CRI as a client that the canary drives."""

    daemon: ContainerdDaemon

    def __call__(self, command: Sequence[str], env: Mapping[str, str]) -> Outcome | None:
        """Pull, look, remove."""
        match command:
            case ("pull", name):
                done = Cri(self.daemon).pull(name)
            case ("held", name):
                done = self.daemon.ctr("images", "list", "--quiet", f"name=={name}", namespace="k8s.io")
            case ("remove", _):  # under every name that CRI gave it, as its RemoveImage does
                names = self.daemon.ctr("images", "list", "--quiet", namespace="k8s.io").output.split()
                done = self.daemon.ctr("images", "remove", "--sync", *names, namespace="k8s.io")
            case _:
                raise AssertionError(command)
        return Outcome(done.ok, done.output)


@pytest.fixture(scope="module")
def plain(base: Path) -> Iterator[Around]:
    """The upstream; it holds the bait."""
    with Around(base / "cri-up", plain=True) as registry:
        registry.fill()
        yield registry


@pytest.fixture(scope="module")
def guard(base: Path, plain: Around) -> Iterator[Tagstone]:
    """The proxy; its rules let everything pass."""
    with Tagstone(base / "cri-guard", CONFIG.format(name=plain.called)) as server:
        yield server


@pytest.mark.parametrize("setup", SETUPS, ids=[each.name for each in SETUPS])
def test_cri(setup: Setup, base: Path, plain: Around, guard: Tagstone) -> None:
    """Doctor names the trap of config.toml that lets the kubelet through; what its words do not prove, the bait does."""

    def fill(text: str) -> str:
        return text.replace("{proxy}", guard.host).replace("{name}", plain.called)

    node = Node(base / f"cri-{setup.name}", {})
    own = ContainerdDaemon.settings(node.root)
    node.write("/etc/containerd/config.toml", setup.before + own + fill(setup.after))
    node.write(f"/etc/containerd/certs.d/{plain.called.replace(':', '_')}_/hosts.toml", fill(setup.hosts))
    for path, text in setup.files:
        node.write(path, text)
    words = ("--client", "containerd", "--registry", plain.called, "--assume", "containerd=1.6.20")
    code, answer = doctor(node.root, guard, *words)
    assert [each["trap"] for each in answer["findings"]] == ([] if setup.trap is None else [setup.trap])
    assert code == (0 if setup.trap is None else 1)
    target = Target("http", guard.host, "")
    expected = Expected((target,), (plain.called,))
    driver = Driver("cri", Tells.FIRST, ("pull",), ("held",), ("remove",), {}, by_code=False)
    before = plain.asked()
    with ContainerdDaemon(node) as daemon:
        reports = Canary(expected, Kubelet(daemon), ProxyItself(target, expected)).try_out(driver, [plain.called], [plain.bait])
        assert plain.called not in daemon.everything("k8s.io")
    assert [each.verdict for each in reports] == [setup.canary, Verdict.CLOSED if setup.trap is None else Verdict.OPEN], reports
    assert (plain.asked() > before) is (setup.trap is not None)
