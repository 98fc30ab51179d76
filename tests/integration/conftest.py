"""What the tests of this folder share: an upstream, a proxy, signed images and the clients, started once for all of them."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.clients import Client, Containerd, Ctr, Docker, Dockerd, DockerMirror, Podman, Skopeo
from tests.integration.cosigning import SkopeoSigner
from tests.integration.pictures import Recording, picture, recording
from tests.integration.processes import DockerRegistry, Tagstone
from tests.integration.relay import DeadEnd
from tests.simulator.images import Image
from tests.simulator.push import Pusher
from tests.simulator.signing import Signer

#: Upstreams are not given up or retried here, so that one test's outage is over when the test is.
_UPSTREAM = "{{url: http://{host}, allow_private: true, retries: 0, breaker_failures: 1000}}"
CONFIG = """
check_interval: 0s
upstreams:
{upstreams}
trust:
  keys:
    release-key: {{file: {folder}/release.pub}}
    recorded-key: {{file: {folder}/recorded.pub}}
rules:
  - match: "*/acme/**"
    require: {{signature: {{key: release-key}}}}
    tags:
      - {{match: "stay-*", on_overwrite: serve-pinned}}
      - {{match: "*", on_overwrite: refuse}}
  - match: "*/recorded/**"
    require: {{signature: {{key: recorded-key}}}}
  - match: "*/open/**"
    require: first-use
  - match: "**"
    require: deny
"""


@dataclass(frozen=True, slots=True)
class Upstream:
    """A real registry, and how to put something into it."""

    registry: DockerRegistry
    signer: SkopeoSigner

    def do(self, work: Callable[[Pusher], Coroutine[Any, Any, object]]) -> None:
        """Let a pusher work on it."""

        async def run() -> None:
            async with Pusher(self.registry.url) as pusher:
                await work(pusher)

        asyncio.run(run())

    def push(self, repository: str, tag: str, image: Image) -> Image:
        """Upload an image without any signature."""
        self.do(lambda pusher: pusher.push(repository, image, tag))
        return image

    def tag(self, repository: str, tag: str, image: Image) -> None:
        """Let a tag name an image that is there already."""

        async def work(pusher: Pusher) -> None:
            await pusher.tag(repository, tag, image)

        self.do(work)

    def signed(self, repository: str, tag: str, image: Image) -> Image:
        """Upload an image with a signature of the right key, made here (quicker than by skopeo)."""

        async def work(pusher: Pusher) -> None:
            await pusher.push(repository, image, tag)
            await pusher.sign(repository, image.digest, self.signer.signer)

        self.do(work)
        return image


def config_of(folder: Path, **upstreams: str) -> str:
    """The configuration of these tests; ``upstreams`` are host and port by the name before ``.example``."""
    entries = [f"  {name}.example: {_UPSTREAM.format(host=host)}" for name, host in upstreams.items()]
    return CONFIG.format(upstreams="\n".join(entries).replace("hub.example", "docker.io"), folder=folder)


@pytest.fixture(scope="package")
def base() -> Iterator[Path]:
    """A folder with a short name: podman allows its runroot 50 characters, Unix sockets have 108."""
    folder = Path(tempfile.mkdtemp(prefix="ts-", dir="/tmp"))
    yield folder
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    assert not [path for path in mounted if path.startswith(f"{folder}/")], "what is mounted there must not be deleted"
    shutil.rmtree(folder)


@pytest.fixture(scope="package")
def upstream(base: Path) -> Iterator[Upstream]:
    """The registry that holds everything."""
    with DockerRegistry(base / "up") as registry:
        yield Upstream(registry, SkopeoSigner(base / "sign", registry, Signer.of("p256", "release")))


@pytest.fixture(scope="package")
def fragile(base: Path, upstream: Upstream) -> Iterator[dict[str, DockerRegistry]]:
    """More processes over the same images, which a test may stop if it starts them again: by registry name."""
    storage = upstream.registry.folder / "registry"
    with (
        DockerRegistry(base / "up", "gone", storage=storage) as gone,
        DockerRegistry(base / "up", "hub", storage=storage) as hub,
    ):
        yield {"gone.example": gone, "docker.io": hub}


@pytest.fixture(scope="package")
def keys(base: Path, upstream: Upstream, recorded: Recording) -> Path:
    """The folder with the public keys."""
    folder = base / "keys"
    folder.mkdir()
    (folder / "release.pub").write_bytes(upstream.signer.signer.public_pem)
    (folder / "recorded.pub").write_bytes(recorded.public_key)
    return folder


@pytest.fixture(scope="package")
def proxy(base: Path, upstream: Upstream, fragile: dict[str, DockerRegistry], keys: Path) -> Iterator[Tagstone]:
    """The proxy that the clients pull through."""
    config = config_of(keys, reg=upstream.registry.host, gone=fragile["gone.example"].host, hub=fragile["docker.io"].host)
    with Tagstone(base / "ts", config) as server:
        yield server


@pytest.fixture(scope="package")
def recorded() -> Recording:
    """What a real skopeo signed."""
    return recording()


@pytest.fixture(scope="package")
def first(upstream: Upstream) -> Image:
    """A signed image of two platforms, ``acme/app:first``: index and children are signed, by skopeo."""
    return upstream.signer.push(picture("first"), "acme/app", "first")


@pytest.fixture(scope="package")
def second(upstream: Upstream) -> Image:
    """Another one, ``acme/app:second``: what tags are overwritten with."""
    return upstream.signer.push(picture("second"), "acme/app", "second")


@pytest.fixture(scope="package")
def way_out() -> Iterator[DeadEnd]:
    """Where dockerd's requests to the world end."""
    with DeadEnd() as dead_end:
        yield dead_end


@pytest.fixture(scope="package")
def containerd(base: Path) -> Iterator[Containerd]:
    """A running containerd."""
    with Containerd(base / "c") as daemon:
        yield daemon


@pytest.fixture(scope="package")
def dockerd(base: Path, proxy: Tagstone, way_out: DeadEnd) -> Iterator[Dockerd]:
    """A running dockerd."""
    with Dockerd(base / "d", proxy.host, way_out.url) as daemon:
        yield daemon


REGISTRIES = ("reg.example", "gone.example")
CLIENTS = ("skopeo", "skopeo-all", "podman", "podman-conf", "ctr", "docker", "docker-mirror")


@pytest.fixture(scope="package")
def client_of(base: Path, proxy: Tagstone, request: pytest.FixtureRequest) -> Callable[[str], Client]:
    """A client by its name in :data:`CLIENTS`; made when first asked for."""
    made: dict[str, Client] = {}

    def make(name: str) -> Client:
        folder = base / name
        match name:
            case "skopeo" | "skopeo-all":
                return Skopeo(folder, proxy.host, everything=name == "skopeo-all")
            case "podman":
                return Podman(folder, proxy.host)
            case "podman-conf":
                return Podman(folder, proxy.host, locations=REGISTRIES)
            case "ctr":
                return Ctr(folder, request.getfixturevalue("containerd"), proxy.host, REGISTRIES)
            case "docker":
                return Docker(request.getfixturevalue("dockerd"), f"{proxy.host}/")
            case _:
                return DockerMirror(request.getfixturevalue("dockerd"))

    def get(name: str) -> Client:
        if name not in made:
            made[name] = make(name)
        return made[name]

    return get


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest, client_of: Callable[[str], Client]) -> Client:
    """Every client in turn."""
    return client_of(request.param)
