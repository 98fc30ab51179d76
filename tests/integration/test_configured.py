"""Promise 60: with the configuration that ``tagstone client`` installs, a refusal is the end of a pull.

The upstream beyond Tagstone has the right image, the world outside another one under the same name. A client that goes around
Tagstone is seen by the world outside, and ends with the wrong image.
"""

from __future__ import annotations

import json
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trustme

from tests.integration.clients import need_root
from tests.integration.configured import Configured, ContainerdDaemon, Cri, Ctr, Docker, DockerDaemon, Node, Podman, Skopeo
from tests.integration.conftest import Upstream
from tests.integration.outside import Outside
from tests.integration.pictures import picture
from tests.integration.processes import Tagstone
from tests.simulator.images import Image
from tests.tools import need

pytestmark = pytest.mark.client

CONFIG = """
check_interval: 0s
{tls}
upstreams:
  docker.io: {{url: http://{host}, allow_private: true, retries: 0}}
  ghcr.io: {{url: http://{host}, allow_private: true, retries: 0}}
rules:
  - match: "*/fine/**"
    require: first-use
  - match: "**"
    require: deny
"""
CLIENTS = ("ctr", "cri", "docker", "podman", "skopeo")
#: Images by names that every client spells the same: one that passes, and those that do not.
FINE = "docker.io/fine/app:v1"
REFUSED = ("docker.io/team/app:v1", "registry-1.docker.io/team/app:v1", "ghcr.io/team/app:v1")
#: Ways to go around Tagstone that look as if they did not: hosts.toml by registry.
TRAPS = {
    "trap.example": 'server = "{url}"\ncapabilities = ["pull", "resolve"]\n',
    "second.trap.example": 'server = "https://second.trap.example"\n[host."{url}"]\ncapabilities = ["pull", "resolve"]\n',
}


@dataclass
class Stage:
    """What the tests share: Tagstone with TLS and without, what the upstream has, and what the world outside has."""

    folder: Path
    proxies: dict[str, Tagstone]
    authority: Path
    outside: Outside
    right: Image
    wrong: Image
    exits: ExitStack
    made: dict[str, Configured] = field(default_factory=dict)

    def client(self, name: str, scheme: str = "http") -> Configured:
        """A client with the configuration that was installed for it; made when first asked for."""
        key = f"{name}-{scheme}"
        if key not in self.made:
            self.made |= {f"{each}-{scheme}": made for each, made in self._make(name, scheme).items()}
        return self.made[key]

    def _make(self, name: str, scheme: str) -> dict[str, Configured]:
        proxy = self.proxies[scheme]
        more = ("--ca", str(self.authority)) if scheme == "https" else ()
        if name in ("ctr", "cri"):
            node = self.node(f"c{scheme}")
            node.write("/etc/containerd/config.toml", ContainerdDaemon.settings(node.root))
            for registry, trap in TRAPS.items():
                node.write(f"/etc/containerd/certs.d/{registry}/hosts.toml", trap.format(url=f"http://{proxy.host}"))
            node.install("containerd", proxy, "--all-registries", *more)
            daemon = self.exits.enter_context(ContainerdDaemon(node))
            return {"ctr": Ctr(daemon), "cri": Cri(daemon)}
        if name == "docker":
            node = self.node(f"d{scheme}")
            node.write("/etc/docker/daemon.json", '{"labels": ["kept=1"]}')
            node.install("docker", proxy, *more)
            return {"docker": Docker(self.exits.enter_context(DockerDaemon(node)), f"{proxy.host}/")}
        node = self.node(f"p{scheme}")
        node.install("podman", proxy, *more)
        return {"podman": Podman(node), "skopeo": Skopeo(node)}

    def node(self, name: str) -> Node:
        """A machine whose clients meet the world outside."""
        return Node(self.folder / name, self.outside.env)

    def asked(self) -> list[str]:
        """What the world outside was asked since the last time."""
        asked = self.outside.asked[:]
        del self.outside.asked[:]
        return asked


@pytest.fixture(scope="module")
def stage(base: Path, upstream: Upstream) -> Iterator[Stage]:
    """Everything, once."""
    folder = base / "k"
    folder.mkdir()
    right, wrong = picture("right"), picture("impostor")
    for repository in ("fine/app", "team/app"):
        upstream.push(repository, "v1", right)
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    (folder / "tls.crt").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    (folder / "tls.key").write_bytes(issued.private_key_pem.bytes())
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    tls = f"tls: {{certificate: {folder}/tls.crt, key: {folder}/tls.key}}"
    with ExitStack() as exits:
        outside = exits.enter_context(Outside(folder / "outside", wrong))
        proxies = {}
        for scheme, section in {"http": "", "https": tls}.items():
            proxy = Tagstone(folder, CONFIG.format(tls=section, host=upstream.registry.host), name=scheme)
            if section:
                proxy.tls = ssl.create_default_context(cafile=str(folder / "ca.pem"))
            proxies[scheme] = exits.enter_context(proxy)
        yield Stage(folder, proxies, folder / "ca.pem", outside, right, wrong, exits)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("name", CLIENTS)
def test_promise_60_a_refusal_is_the_end(stage: Stage, name: str, scheme: str) -> None:
    """By tag and by digest, and by another name of the same registry: nobody outside is asked, and the client keeps nothing."""
    client = stage.client(name, scheme)
    images = [*REFUSED, f"docker.io/team/app@{stage.wrong.digest}"]
    if name in ("ctr", "cri"):  # --all-registries
        images += ["quay.io/team/app:v1", "QUAY.IO/team/app:v1", "REGISTRY-1.DOCKER.IO/team/app:v1"]
    stage.asked()
    for image in images:
        pull = client.pull(image)
        assert not pull.ok, pull.output
        assert "denied" in pull.output.lower() or "403" in pull.output, pull.output
        assert stage.asked() == []
        assert not client.holds(stage.wrong)
        assert client.name(image).rpartition("/")[0] not in client.listing()


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("name", CLIENTS)
def test_what_tagstone_serves_is_pulled_through_it(stage: Stage, name: str, scheme: str) -> None:
    """The right image, with nobody outside asked; a certificate authority is found where it was installed."""
    client = stage.client(name, scheme)
    stage.asked()
    pull = client.pull(FINE)
    assert pull.ok, pull.output
    assert client.holds(stage.right)
    assert stage.asked() == []


def assert_went_around(stage: Stage, client: Configured, image: str) -> None:
    """It pulls, and has what the world outside serves."""
    stage.asked()
    pull = client.pull(image)
    assert pull.ok, pull.output
    assert any("/manifests/" in line for line in stage.asked())
    assert client.holds(stage.wrong)


@pytest.mark.parametrize("registry", TRAPS)
@pytest.mark.parametrize("name", ["ctr", "cri"])
def test_a_trap_of_containerd_is_seen(stage: Stage, name: str, registry: str) -> None:
    """The same harness sees a containerd that goes around: without [host], or with the registry itself as the server."""
    assert_went_around(stage, stage.client(name), f"{registry}/team/app:v1")


@pytest.mark.parametrize("name", ["podman", "skopeo"])
def test_a_trap_of_podman_is_seen(stage: Stage, name: str) -> None:
    """With Tagstone as a mirror, what it refuses comes from the registry itself."""
    node = stage.node(f"t{name}")
    mirror = f'location = "{stage.proxies["http"].host}/docker.io"\ninsecure = true\n'
    node.write(
        "/etc/containers/registries.conf.d/zz.conf", f'[[registry]]\nlocation = "docker.io"\n[[registry.mirror]]\n{mirror}'
    )
    assert_went_around(stage, {"podman": Podman, "skopeo": Skopeo}[name](node), "docker.io/team/app:v1")


def test_the_trap_of_docker_is_seen(stage: Stage) -> None:
    """With Tagstone in registry-mirrors, what it refuses comes from Docker Hub."""
    node = stage.node("tdocker")
    host = stage.proxies["http"].host
    node.write("/etc/docker/daemon.json", f'{{"registry-mirrors": ["http://{host}"], "insecure-registries": ["{host}"]}}')
    with DockerDaemon(node) as daemon:
        assert_went_around(stage, Docker(daemon, ""), "docker.io/team/app:v1")


@pytest.mark.parametrize("url", ["https://proxy.example:5000", "http://10.0.0.5:5000", "https://[fd00::1]"])
def test_nft_takes_the_egress_rules(stage: Stage, url: str) -> None:
    """In a network namespace of its own, where nothing is changed; there is no control group of docker.s, and no name server."""
    proxy = stage.proxies["http"]
    done = proxy.run("client", "docker", "--proxy", url, "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    (rules,) = [file["content"] for file in shown["files"] if file["path"].endswith("egress-docker.nft")]
    group = 'socket cgroupv2 level 2 "system.slice/docker.service" '
    assert group in rules
    file = stage.folder / "egress.nft"
    file.write_text(rules.replace(group, "").replace("proxy.example", "localhost"))
    checked = subprocess.run(
        (need_root("unshare"), "--net", need("nft"), "--check", "--file", str(file)), capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
