"""Images that skopeo and podman signed with gpg, pulled through the proxy: ``--sign-by``, a web server with the signatures."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest

from tests.integration.cosigning import write_dir
from tests.integration.processes import DockerRegistry, Tagstone
from tests.integration.simple_signing import Containers, web_server
from tests.simulator import images
from tests.simulator.openpgp import Keyring
from tests.tools import need

pytestmark = pytest.mark.client

CONFIG = """
check_interval: 0s
upstreams: {{"{host}": {{url: "http://{host}", allow_private: true, retries: 0}}}}
trust:
  keys:
    acme: {{gpg: acme.asc, lookaside: "{lookaside}", allow_private: true}}
    other: {{gpg: other.asc, lookaside: "{lookaside}", allow_private: true}}
rules:
  - match: "{host}/acme/**"
    require: {{signature: {{key: acme}}}}
  - match: "{host}/other/**"
    require: {{signature: {{key: other}}}}
"""


@dataclass(frozen=True, slots=True)
class World:
    """Signers, a registry, and a proxy that knows both."""

    registry: DockerRegistry
    containers: Containers
    proxy: Tagstone
    acme: str  #: fingerprint
    other: str

    def pull(self, repository: str, reference: object) -> tuple[int, bytes]:
        """Status and body of a manifest, as containerd asks for it."""
        answer = self.proxy.ask("GET", f"/v2/{repository}/manifests/{reference}?ns={self.registry.host}")
        return answer.status, answer.body


@pytest.fixture(scope="module")
def world(base: Path) -> Iterator[World]:
    """Everything, started once."""
    folder = base / "gpg"
    with Keyring(need("gpg")) as keyring, DockerRegistry(folder / "registry") as registry:
        acme, other = (keyring.make(f"{name} <{name}@acme.test>", kind="rsa2048") for name in ("acme", "other"))
        containers = Containers(folder / "home", registry, keyring)
        proxy = folder / "proxy"
        proxy.mkdir()
        for name, key in (("acme", acme), ("other", other)):
            (proxy / f"{name}.asc").write_bytes(keyring.export(key))
        with (
            web_server(containers.lookaside) as lookaside,
            Tagstone(proxy, CONFIG.format(host=registry.host, lookaside=lookaside)) as server,
        ):
            yield World(registry, containers, server, acme, other)


def test_what_skopeo_signs_is_pulled(world: World, tmp_path: Path) -> None:
    """An index and its platforms, each signed: by tag and by digest; the signatures stand where the documents say."""
    index = images.index([images.image("amd", platform="linux/amd64"), images.image("arm", platform="linux/arm64")])
    write_dir(tmp_path / "dir", index)
    world.containers.copy(tmp_path / "dir", "acme/app:v1", world.acme)
    assert (world.containers.lookaside / f"acme/app@sha256={index.digest.hex}" / "signature-1").is_file()
    assert world.pull("acme/app", "v1") == (200, index.body)
    for child in index.images:
        assert world.pull("acme/app", child.digest) == (200, child.body)
    shown = world.proxy.run("verify", f"{world.registry.host}/acme/app@{index.digest}", "--explain")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert f"it names the repository: {world.registry.host}/acme/app:v1" in shown.stdout


def test_what_podman_signs_is_pulled(world: World, tmp_path: Path) -> None:
    """``podman push --sign-by`` keeps its signatures in the same way."""
    with tarfile.open(tmp_path / "layer.tar", "w") as tar:
        entry = tarfile.TarInfo("hello")
        entry.size = 5
        tar.addfile(entry, BytesIO(b"hello"))
    world.containers.push(tmp_path / "layer.tar", "acme/pushed:v1", world.acme)
    status, body = world.pull("acme/pushed", "v1")
    assert status == 200, body


def test_another_signer_and_none_are_refused(world: World, tmp_path: Path) -> None:
    """Signed by somebody else; by the right one, but for another repository; not signed at all."""
    image = images.index([images.image("x", platform="linux/amd64")])
    write_dir(tmp_path / "dir", image)
    world.containers.copy(tmp_path / "dir", "acme/stranger:v1", world.other)
    status, body = world.pull("acme/stranger", "v1")
    assert status == 403
    assert b"is not made by key acme, but by OpenPGP key" in body
    world.containers.copy(tmp_path / "dir", "other/app:v1", world.other)
    assert world.pull("other/app", "v1")[0] == 200
    # The same image and the same signature under another name.
    world.containers.copy(tmp_path / "dir", "other/moved:v1", world.other)
    shelf = world.containers.lookaside
    signature = (shelf / f"other/app@sha256={image.digest.hex}" / "signature-1").read_bytes()
    there = shelf / f"other/moved@sha256={image.digest.hex}" / "signature-1"
    there.write_bytes(signature)
    status, body = world.pull("other/moved", "v1")
    assert status == 403
    assert f"names another repository: {world.registry.host}/other/app:v1".encode() in body
    there.unlink()
    status, body = world.pull("other/moved", image.digest)
    assert status == 403
    assert b"no signature at all" in body


def test_a_signature_file_is_judged_without_a_network(world: World, tmp_path: Path) -> None:
    """``--evidence signature-1``: as it lies in the lookaside."""
    image = images.index([images.image("file", platform="linux/amd64")])
    write_dir(tmp_path / "dir", image)
    world.containers.copy(tmp_path / "dir", "acme/file:v1", world.acme)
    signature = world.containers.lookaside / f"acme/file@sha256={image.digest.hex}" / "signature-1"
    name = f"{world.registry.host}/acme/file@{image.digest}"
    done = world.proxy.run("verify", name, "--evidence", str(signature))
    assert done.returncode == 0, done.stdout + done.stderr
    other = world.proxy.run("verify", name.replace("acme/file", "acme/other"), "--evidence", str(signature))
    assert other.returncode == 1
    assert "names another repository" in other.stdout
