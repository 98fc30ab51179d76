"""Real clients log in over TLS: docker, podman and ctr, with passwords; what one may pull, another may not."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import bcrypt
import pytest
import trustme

from tests.integration.clients import Containerd, Dockerd
from tests.integration.conftest import Upstream
from tests.integration.pictures import picture
from tests.integration.processes import Tagstone
from tests.simulator.images import Image
from tests.tools import PATIENCE, need

pytestmark = pytest.mark.client

CONFIG = """
check_interval: 0s
log: {{format: json, pulls: all}}
tls: {{certificate: {folder}/tls.crt, key: {folder}/tls.key}}
access:
  htpasswd: {folder}/users
  rules:
    - {{who: ["user:alice"], pull: ["**"]}}
    - {{who: ["user:bob"], pull: ["reg.example/other/**"]}}
    - {{who: [anyone], pull: ["reg.example/open/**"]}}
upstreams:
  reg.example: {{url: http://{host}, allow_private: true, retries: 0}}
rules: [{{match: "**", require: first-use}}]
"""
RIGHT, WRONG = "correct horse", "battery staple"


@dataclass(frozen=True, slots=True)
class Shop:
    """A proxy with TLS and users, and an image for some of them."""

    proxy: Tagstone
    ca: Path
    image: Image

    @property
    def private(self) -> str:
        """What alice may pull."""
        return f"{self.proxy.host}/reg.example/team/app:login"

    @property
    def open(self) -> str:
        """What everybody may pull."""
        return f"{self.proxy.host}/reg.example/open/app:login"

    def lines(self) -> list[dict[str, object]]:
        """The log's lines about pulls."""
        found = [json.loads(line) for line in self.proxy.log.splitlines() if line.startswith("{")]
        return [line for line in found if line["event"] == "pull"]


@pytest.fixture(scope="module")
def shop(base: Path, upstream: Upstream) -> Iterator[Shop]:
    """The proxy of these tests."""
    folder = base / "shop"
    folder.mkdir()
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    (folder / "tls.crt").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    (folder / "tls.key").write_bytes(issued.private_key_pem.bytes())
    (folder / "certs").mkdir()
    authority.cert_pem.write_to_path(str(folder / "certs" / "ca.crt"))
    users = {user: bcrypt.hashpw(RIGHT.encode(), bcrypt.gensalt(5)).decode() for user in ("alice", "bob")}
    (folder / "users").write_text("".join(f"{user}:{hashed}\n" for user, hashed in users.items()))
    image = upstream.push("team/app", "login", picture("login"))
    upstream.push("open/app", "login", image)
    proxy = Tagstone(folder, CONFIG.format(folder=folder, host=upstream.registry.host), workers=2)
    proxy.tls = ssl.create_default_context(cafile=str(folder / "certs" / "ca.crt"))
    with proxy:
        yield Shop(proxy, folder / "certs", image)


def run(command: Sequence[object], *, env: dict[str, str] | None = None, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run a client; what it says is for the assertion."""
    return subprocess.run(
        [str(word) for word in command],
        input=given,
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
        timeout=PATIENCE,
        check=False,
    )


def test_docker_logs_in(shop: Shop, dockerd: Dockerd, tmp_path: Path) -> None:
    """A wrong password is refused at login; alice pulls, bob is told why not, and logging out ends it."""
    env = {"DOCKER_CONFIG": str(tmp_path)}
    host = shop.proxy.host

    def docker(*words: str, given: str = "") -> subprocess.CompletedProcess[str]:
        return run([*dockerd.docker, *words], env=env, given=given)

    wrong = docker("login", host, "--username", "alice", "--password-stdin", given=WRONG)
    assert wrong.returncode != 0
    assert "unknown user or wrong password" in wrong.stderr + wrong.stdout
    assert docker("pull", shop.private).returncode != 0
    assert (done := docker("pull", shop.open)).returncode == 0, done.stderr
    assert (done := docker("login", host, "--username", "alice", "--password-stdin", given=RIGHT)).returncode == 0, done.stderr
    assert (done := docker("pull", shop.private)).returncode == 0, done.stderr
    assert docker("rmi", shop.private, shop.open).returncode == 0
    assert docker("login", host, "--username", "bob", "--password-stdin", given=RIGHT).returncode == 0
    refused = docker("pull", shop.private)
    assert refused.returncode != 0
    assert "user:bob may not pull from reg.example/team/app" in refused.stderr
    assert docker("logout", host).returncode == 0
    assert docker("pull", shop.private).returncode != 0
    assert shop.private not in docker("images", "--format", "{{.Repository}}:{{.Tag}}").stdout
    assert {"user:alice", "anonymous"} <= {line["who"] for line in shop.lines()}


def test_podman_logs_in(shop: Shop, tmp_path: Path, base: Path) -> None:
    """The same with podman, which trusts the authority of a folder."""
    root = base / "podman-login"
    (tmp_path / "auth.json").write_text("{}")
    auth = ("--authfile", tmp_path / "auth.json", "--cert-dir", shop.ca)
    podman = (
        *(need("podman"), "--root", root / "g", "--runroot", root / "r", "--tmpdir", root / "t"),
        *("--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none"),
    )

    def login(user: str, password: str) -> subprocess.CompletedProcess[str]:
        return run([*podman, "login", *auth, "--username", user, "--password-stdin", shop.proxy.host], given=password)

    def pull(name: str) -> subprocess.CompletedProcess[str]:
        return run([*podman, "pull", *auth, name])

    assert login("alice", WRONG).returncode != 0
    assert pull(shop.private).returncode != 0
    assert (done := pull(shop.open)).returncode == 0, done.stderr
    assert (done := login("alice", RIGHT)).returncode == 0, done.stderr
    assert (done := pull(shop.private)).returncode == 0, done.stderr
    assert run([*podman, "rmi", "--all", "--force"]).returncode == 0
    assert login("bob", RIGHT).returncode == 0
    refused = pull(shop.private)
    assert refused.returncode != 0
    assert "user:bob may not pull from reg.example/team/app" in refused.stderr
    assert run([*podman, "logout", *auth[:2], shop.proxy.host]).returncode == 0
    assert pull(shop.private).returncode != 0
    assert "team/app" not in run([*podman, "images", "--format", "{{.Repository}}"]).stdout


def test_ctr_shows_a_user(shop: Shop, containerd: Containerd, tmp_path: Path) -> None:
    """containerd follows the challenge of a request that needs one, and asks for nothing where none is needed."""
    host = shop.proxy.host
    folder = tmp_path / host
    folder.mkdir()
    (folder / "hosts.toml").write_text(
        f'server = "https://{host}"\ncapabilities = ["pull", "resolve"]\nca = "{shop.ca}/ca.crt"\n[host]\n'
    )

    def pull(name: str, *options: str) -> subprocess.CompletedProcess[str]:
        return run([*containerd.ctr, "images", "pull", "--snapshotter", "native", "--hosts-dir", tmp_path, *options, name])

    before = len(shop.lines())
    assert (done := pull(shop.open)).returncode == 0, done.stderr + done.stdout
    assert {line["who"] for line in shop.lines()[before:]} == {"anonymous"}
    assert pull(shop.private).returncode != 0
    assert pull(shop.private, "--user", f"alice:{WRONG}").returncode != 0
    refused = pull(shop.private, "--user", f"bob:{RIGHT}")
    assert refused.returncode != 0
    assert "user:bob may not pull" in refused.stderr + refused.stdout
    assert shop.private not in run([*containerd.ctr, "images", "ls", "-q"]).stdout
    assert (done := pull(shop.private, "--user", f"alice:{RIGHT}")).returncode == 0, done.stderr + done.stdout
    for name in (shop.private, shop.open):
        assert run([*containerd.ctr, "images", "rm", "--sync", name]).returncode == 0
