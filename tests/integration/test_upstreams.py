"""Real registries that are reached by TLS with an authority of their own, and that want credentials."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from tests.integration.conftest import Upstream
from tests.integration.processes import DockerRegistry, Tagstone
from tests.simulator import images
from tests.simulator.images import Image
from tests.simulator.push import Pusher
from tests.simulator.signing import Signer

pytestmark = pytest.mark.client

USER, PASSWORD = "puller", "open sesame"
# docker-registry takes bcrypt only; this is PASSWORD with the lowest cost there is.
HTPASSWD = f"{USER}:$2y$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW\n"
NAME = "private.example/acme/app"


@pytest.fixture(scope="module")
def folder(base: Path) -> Path:
    """Where keys and certificates are."""
    path = base / "private"
    path.mkdir()
    return path


@pytest.fixture(scope="module")
def authority(folder: Path) -> trustme.CA:
    """Nobody's system trusts it. Its certificate is ``ca.pem``, another one's ``other.pem``."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    trustme.CA().cert_pem.write_to_path(str(folder / "other.pem"))
    issued = ca.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(str(folder / "server.key"))
    for number, blob in enumerate(issued.cert_chain_pems):
        blob.write_to_path(str(folder / "server.pem"), append=number > 0)
    return ca


@pytest.fixture(scope="module")
def private(folder: Path, authority: trustme.CA) -> Iterator[DockerRegistry]:
    """A registry on TLS that lets in whoever knows the password."""
    (folder / "htpasswd").write_text(HTPASSWD)
    tls = ssl.create_default_context()
    authority.configure_trust(tls)
    http = f", tls: {{certificate: {folder}/server.pem, key: {folder}/server.key}}"
    with DockerRegistry(
        folder, http=http, more=f"auth: {{htpasswd: {{realm: r, path: {folder}/htpasswd}}}}\n", tls=tls
    ) as registry:
        yield registry


@pytest.fixture(scope="module")
def image(private: DockerRegistry, upstream: Upstream, folder: Path) -> Image:
    """A signed image in it, ``acme/app:v1``."""
    signer: Signer = upstream.signer.signer
    (folder / "release.pub").write_bytes(signer.public_pem)
    made = images.image("private", layer_size=300_000)

    async def push() -> None:
        async with Pusher(private.url, auth=(USER, PASSWORD), tls=private.tls) as pusher:
            await pusher.push("acme/app", made, "v1")
            await pusher.sign("acme/app", made.digest, signer)

    asyncio.run(push())
    return made


Start = Callable[..., Tagstone]


@pytest.fixture
def start(folder: Path, private: DockerRegistry, image: Image, request: pytest.FixtureRequest) -> Iterator[Start]:
    """Start a server whose upstream has these options; it is ended after the test."""
    servers: list[Tagstone] = []

    def make(options: str, password: str = PASSWORD) -> Tagstone:
        config = (
            "check_interval: 0s\n"
            f"upstreams:\n  private.example: {{url: {private.url}, allow_private: true, retries: 0, {options}}}\n"
            f"trust: {{keys: {{release-key: {{file: {folder}/release.pub}}}}}}\n"
            "rules:\n  - match: private.example/acme/**\n    require: {signature: {key: release-key}}\n"
        )
        name = f"proxy-{request.node.name[:60]}"
        servers.append(Tagstone(folder / name, config, env={"UPSTREAM_PASSWORD": password}))
        return servers[-1].start()

    yield make
    for server in servers:
        server.stop()


def test_a_private_registry_with_its_own_authority_is_served(start: Start, folder: Path, image: Image) -> None:
    """Credentials from the environment, trust from ``ca``: manifest and blob come through; the password is written nowhere."""
    server = start(f"ca: {folder}/ca.pem, auth: {{username: {USER}, password_env: UPSTREAM_PASSWORD}}")
    assert server.manifest(NAME, "v1").body == image.body
    layer = server.blob(NAME, image.layers[0].digest)
    assert layer.body == image.blobs[1].data
    assert server.json("verify", f"{NAME}:v1")["answer"] == "serve"
    assert PASSWORD not in server.log
    shown = server.run("config", "show")
    assert shown.returncode == 0, shown.stderr
    assert PASSWORD not in shown.stdout
    for path in server.data.rglob("*"):
        assert not path.is_file() or PASSWORD.encode() not in path.read_bytes()


def test_a_registry_of_an_unknown_authority_is_not_believed(start: Start, folder: Path) -> None:
    """Without ``ca``, or with another one, nothing is fetched: 503, and the words are about the certificate."""
    credentials = f"auth: {{username: {USER}, password_env: UPSTREAM_PASSWORD}}"
    for options in (credentials, f"ca: {folder}/other.pem, {credentials}"):
        server = start(options)
        reply = server.manifest(NAME, "v1")
        assert reply.status == 503, reply
        assert "certificate" in reply.error["message"]
        assert "certificate" in reply.reason
        server.stop()


def test_refused_credentials_are_told_apart_from_an_outage(start: Start, folder: Path) -> None:
    """A wrong password and none at all are 403 with words about the upstream's refusal; neither password nor header is logged."""
    for options in (f"auth: {{username: {USER}, password_env: UPSTREAM_PASSWORD}}", "auth: {}"):
        server = start(f"ca: {folder}/ca.pem, {options}", password="let me in")
        reply = server.manifest(NAME, "v1")
        assert reply.status == 403, reply
        assert reply.error["code"] == "DENIED"
        assert "the upstream refuses" in reply.error["message"]
        assert "let me in" not in server.log
        assert "Basic " not in server.log
        server.stop()


def test_a_missing_password_never_becomes_an_anonymous_pull(start: Start, folder: Path, private: DockerRegistry) -> None:
    """The log warns at the start, a pull is 503 and names the variable; the upstream's challenge stays unanswered."""
    server = start(f"ca: {folder}/ca.pem, auth: {{username: {USER}, password_env: NO_SUCH_VARIABLE}}")
    before = len(private.log)
    reply = server.manifest(NAME, "v1")
    assert reply.status == 503, reply
    assert "NO_SUCH_VARIABLE" in reply.error["message"]
    assert '" 200 ' not in private.log[before:]
    assert "warning" in server.log
    assert "NO_SUCH_VARIABLE" in server.log
    checked = server.run("config", "check")
    assert checked.returncode == 0
    assert "NO_SUCH_VARIABLE" in checked.stderr
