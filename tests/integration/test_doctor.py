"""``tagstone doctor`` on real clients: each trap is shown to fail open, and named, and the canary tells truly."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.clients.canary import Canary, Driver, Tells, Verdict
from proxy.clients.canary_clients import ProxyItself, Subprocesses
from proxy.clients.traps.node import Expected, Target
from proxy.policy import canary
from proxy.routing import component
from tests.integration.clients import Containerd, Dockerd
from tests.integration.nodes import Around, doctor, podman_env, write
from tests.integration.processes import Tagstone
from tests.integration.relay import DeadEnd
from tests.tools import free_port

pytestmark = pytest.mark.client

CONFIG = """
check_interval: 0s
upstreams:
  {plain}: {{url: "http://{plain}", allow_private: true, retries: 0, breaker_failures: 1000}}
  {gone}: {{url: "http://{gone}", allow_private: true}}
  {tls}: {{url: "https://{tls}", ca: {ca}, allow_private: true, retries: 0, breaker_failures: 1000}}
  docker.io: {{url: "http://{plain}", allow_private: true, retries: 0, breaker_failures: 1000}}
rules:
  - match: "**"
    require: first-use
  - match: "*/tagstone-canary/refused"
    require: first-use
"""


@pytest.fixture(scope="module")
def plain(base: Path) -> Iterator[Around]:
    """The upstream that containerd ends at when it goes around."""
    with Around(base / "plain", plain=True) as registry:
        registry.fill()
        yield registry


@pytest.fixture(scope="module")
def tls(base: Path) -> Iterator[Around]:
    """The upstream that podman ends at when it goes around."""
    with Around(base / "tls") as registry:
        registry.fill()
        yield registry


@pytest.fixture(scope="module")
def gone() -> str:
    """A registry where nobody answers."""
    return f"localhost:{free_port()}"


@pytest.fixture(scope="module")
def guard(base: Path, plain: Around, tls: Around, gone: str) -> Iterator[Tagstone]:
    """A proxy whose rules let everything pass, the canary's name too."""
    config = CONFIG.format(gone=gone, plain=plain.called, tls=tls.called, ca=tls.authority)
    with Tagstone(base / "guard", config) as server:
        yield server


@dataclass(frozen=True, slots=True)
class Setup:
    """One way to configure a client: whether it goes around, and which trap is found."""

    name: str
    files: Mapping[str, str]
    trap: str | None = None
    verdict: str = "open"
    bait: str = "open"


HOSTS = "/etc/containerd/certs.d/{folder}/hosts.toml"
CRI = {
    "/etc/containerd/config.toml": 'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry]\n'
    'config_path = "/etc/containerd/certs.d"\n'
}
CONTAINERD = (
    Setup("closed", {HOSTS: 'server = "http://{proxy}"\ncapabilities = ["pull", "resolve"]\n[host]\n'}, None, "closed", "closed"),
    Setup(
        "closed-by-both-names",
        {HOSTS: 'server = "http://{proxy}"\n[host."http://{proxy}"]\ncapabilities = ["pull", "resolve"]\n'},
        None,
        "closed",
        "closed",
    ),
    Setup(
        "closed-by-default",
        {HOSTS.replace("{folder}", "_default"): 'server = "http://{proxy}"\n[host]\n'},
        None,
        "closed",
        "closed",
    ),
    Setup(
        "closed-by-prefix-path",
        {HOSTS: 'server = "http://{proxy}/v2/{name}"\noverride_path = true\n[host]\n'},
        None,
        "closed",
        "closed",
    ),
    Setup(
        "closed-for-pulls-alone",
        {
            HOSTS: 'server = "http://{name}"\ncapabilities = ["push"]\n'
            '[host."http://{proxy}"]\ncapabilities = ["pull", "resolve"]\n'
        },
        None,
        "closed",
        "closed",
    ),
    Setup(
        "no-host-table", {HOSTS: 'server = "http://{proxy}"\ncapabilities = ["pull", "resolve"]\n'}, "containerd-no-host-table"
    ),
    Setup("not-toml", {HOSTS: 'server = "http://{proxy}"\n[host\n'}, "containerd-undecodable"),
    Setup("wrong-type", {HOSTS: 'server = "http://{proxy}"\nskip_verify = "no"\n[host]\n'}, "containerd-undecodable"),
    Setup(
        "unknown-capability",
        {HOSTS: 'server = "http://{proxy}"\ncapabilities = ["pull", "resolv"]\n[host]\n'},
        "containerd-undecodable",
    ),
    Setup(
        "referrers",
        {HOSTS: 'server = "http://{proxy}"\ncapabilities = ["pull", "resolve", "referrers"]\n[host]\n'},
        "containerd-referrers",
    ),
    Setup("no-server", {HOSTS: '[host."http://{proxy}"]\ncapabilities = ["pull", "resolve"]\n'}, "containerd-no-server"),
    Setup("upstream", {HOSTS: 'server = "http://{name}"\n[host."http://{proxy}"]\n'}, "containerd-server-elsewhere"),
    Setup(
        "pull-only",
        {HOSTS: 'server = "http://{name}"\n[host."http://{proxy}"]\ncapabilities = ["pull"]\n'},
        "containerd-pull-only",
    ),
    Setup("other-host", {HOSTS: 'server = "http://{proxy}"\n[host."http://{name}"]\n'}, "containerd-other-host"),
    Setup("empty-file", {HOSTS: ""}, "containerd-empty-directory"),
    Setup(
        "empty-folder",
        {
            HOSTS.replace("{folder}", "_default"): 'server = "http://{proxy}"\n[host]\n',
            HOSTS.replace("hosts.toml", "notes.txt"): "",
        },
        "containerd-empty-directory",
    ),
    Setup("uncovered", {HOSTS.replace("{folder}", "quay.io"): 'server = "http://{proxy}"\n[host]\n'}, "containerd-uncovered"),
)
REGISTRIES = "/etc/containers/registries.conf"
POLICY = {"/etc/containers/policy.json": '{"default": [{"type": "reject"}]}'}
MIRROR = '[[registry.mirror]]\nlocation = "{proxy}/{path}"\ninsecure = true\n'
PODMAN = (
    Setup(
        "location",
        {REGISTRIES: '[[registry]]\nprefix = "{name}"\nlocation = "{proxy}/{path}"\ninsecure = true\n'},
        None,
        "closed",
        "closed",
    ),
    Setup("blocked", {REGISTRIES: '[[registry]]\nlocation = "{name}"\nblocked = true\n' + MIRROR}, None, "closed", "closed"),
    Setup("mirror", {REGISTRIES: '[[registry]]\nlocation = "{name}"\n' + MIRROR}, "podman-mirror-falls-back"),
    Setup(
        "by-digest-only",
        {REGISTRIES: '[[registry]]\nlocation = "{name}"\nmirror-by-digest-only = true\n' + MIRROR},
        "podman-digest-only",
    ),
    Setup(
        "digest-only",
        {REGISTRIES: '[[registry]]\nlocation = "{name}"\n' + MIRROR + 'pull-from-mirror = "digest-only"\n'},
        "podman-digest-only",
    ),
    Setup("uncovered", {REGISTRIES: "unqualified-search-registries = []\n"}, "podman-uncovered"),
    Setup(
        "narrower",
        {
            REGISTRIES: '[[registry]]\nprefix = "{name}"\nlocation = "{proxy}/{path}"\ninsecure = true\n'
            '[[registry]]\nlocation = "{name}/tagstone-canary"\n'
        },
        "podman-narrower-prefix",
    ),
    Setup(
        "plain-http",
        {REGISTRIES: '[[registry]]\nlocation = "{name}"\n' + MIRROR.replace("insecure = true\n", "")},
        "podman-plain-http",
    ),
)


def _filled(setup: Setup, name: str, proxy: str) -> dict[str, str]:
    """The files, with the names in them."""
    folder = name.replace(":", "_") + "_"
    values = {"{proxy}": proxy, "{name}": name, "{folder}": folder, "{path}": component(name)}

    def fill(text: str) -> str:
        for sign, value in values.items():
            text = text.replace(sign, value)
        return text

    return {fill(path): fill(text) for path, text in setup.files.items()}


def _examined(
    root: Path, setup: Setup, client: str, around: Around, guard: Tagstone, env: Mapping[str, str], always: Mapping[str, str]
) -> None:
    """Doctor names exactly this trap; its canary and its bait say what the upstream's own count confirms."""
    write(root, {**always, **_filled(setup, around.called, guard.host)})
    before = around.asked()
    words = ("--client", client, "--registry", around.called, "--canary", "--bait", around.bait)
    code, answer = doctor(root, guard, *words, env={**around.trusting, **env})
    found = {each["trap"] for each in answer["findings"] if each["effect"] != "advice"}
    expected = set() if setup.trap is None else {setup.trap}
    if setup.trap == "podman-plain-http":
        expected.add("podman-mirror-falls-back")
    assert found == expected
    assert answer["sound"] is (setup.trap is None)
    verdicts = [each["verdict"] for each in answer["canary"]]
    assert verdicts == [setup.verdict, setup.bait], answer["canary"]
    assert (around.asked() > before) is (setup.verdict == "open"), (answer["canary"], around.log[-2000:])
    assert code == (1 if setup.trap else 0)


@pytest.mark.parametrize("setup", CONTAINERD, ids=[each.name for each in CONTAINERD])
def test_containerd(setup: Setup, tmp_path: Path, containerd: Containerd, plain: Around, guard: Tagstone) -> None:
    """Each trap of hosts.toml lets ctr through to the upstream and is named; without one nobody asks the upstream."""
    env = {"CONTAINERD_ADDRESS": str(containerd.folder / "s"), "CONTAINERD_SNAPSHOTTER": "native"}
    _examined(tmp_path, setup, "containerd", plain, guard, env, CRI)


@pytest.mark.parametrize("setup", PODMAN, ids=[each.name for each in PODMAN])
def test_podman(setup: Setup, tmp_path: Path, base: Path, tls: Around, guard: Tagstone) -> None:
    """Each trap of registries.conf lets podman through to the upstream and is named; without one nobody asks the upstream."""
    _examined(tmp_path, setup, "podman", tls, guard, podman_env(base / "pod"), POLICY)


def test_docker(tmp_path: Path, dockerd: Dockerd, proxy: Tagstone, way_out: DeadEnd) -> None:
    """A mirror lets dockerd through to Docker Hub, and is named; by the name with the proxy in front nobody gets around."""
    write(tmp_path, {"/etc/docker/daemon.json": f'{{\n  "registry-mirrors": ["http://{proxy.host}"]\n}}\n'})
    before = len(way_out.asked)
    env = {**dockerd.env, "DOCKER_HOST": f"unix://{dockerd.folder}/s"}
    words = ("--client", "docker", "--registry", "docker.io", "--assume", "docker=20.10", "--canary")
    code, answer = doctor(tmp_path, proxy, *words, env=env)
    assert [(each["trap"], each["line"]) for each in answer["findings"]] == [("docker-registry-mirrors", 2)]
    plain, prefixed = answer["canary"]
    assert plain["image"].startswith("docker.io/")
    assert plain["verdict"] == "open"
    assert any("registry-1.docker.io" in line for line in way_out.asked[before:])
    assert prefixed["image"].startswith(f"{proxy.host}/docker.io/")
    assert prefixed["verdict"] == "closed"
    assert canary.token(prefixed["image"].rpartition(":")[2]) in prefixed["said"]
    assert code == 1


FIRST = (
    ("closed", 'server = "http://{proxy}"\n[host]\n', "absent", Verdict.REFUSED),
    ("open", '[host."http://{proxy}"]\n', "absent", Verdict.REFUSED),
    ("open", '[host."http://{proxy}"]\n', "gone", Verdict.OPEN),
)


@pytest.mark.parametrize(("kind", "hosts", "upstream", "verdict"), FIRST, ids=["closed", "unseen", "seen"])
def test_a_client_that_tells_its_first_error(
    kind: str,
    hosts: str,
    upstream: str,
    verdict: Verdict,
    tmp_path: Path,
    containerd: Containerd,
    plain: Around,
    guard: Tagstone,
    gone: str,
) -> None:
    """As CRI does, here ctr without its trace: a fallback shows where the upstream says anything but 404, and else by a bait."""
    registry = plain.called if upstream == "absent" else gone
    folder = tmp_path / (registry.replace(":", "_") + "_")
    write(folder, {"hosts.toml": hosts.replace("{proxy}", guard.host)})
    ctr = (*containerd.ctr, "--namespace", "first", "images")
    pull = (*ctr, "pull", "--snapshotter", "native", "--hosts-dir", str(tmp_path))
    driver = Driver("ctr", Tells.FIRST, pull, (*ctr, "list", "--quiet"), (*ctr, "remove", "--sync"), {}, by_code=False)
    target = Target("http", guard.host, "")
    expected = Expected((target,), (registry,))
    trial = Canary(expected, Subprocesses(dict(os.environ)), ProxyItself(target, expected))
    baits = [plain.bait] if upstream == "absent" else []
    before = plain.asked()
    canary_report, *bait_report = trial.try_out(driver, [registry], baits)
    assert canary_report.verdict is verdict, canary_report
    assert [each.verdict for each in bait_report] == [Verdict.CLOSED if kind == "closed" else Verdict.OPEN] * len(baits)
    if upstream == "absent":
        assert (plain.asked() > before) is (kind == "open")
