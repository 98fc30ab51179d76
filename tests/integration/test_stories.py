"""The attacks of the demonstration, with Debian's docker-registry as the upstream and an installed server of two workers."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest

from proxy.demo.pictures import MANIFEST, Picture, Publisher, signature, signature_tag
from proxy.demo.sink import OnCall
from proxy.demo.stage import REGISTRY, Stage, clients, configuration
from proxy.demo.stories import STORIES, Line, Scene
from storage.database import FILE_NAME
from storage.digest import Digest
from storage.reference import Repository
from tests.integration.processes import DockerRegistry, Tagstone, tagstone
from tests.simulator.images import Blob, Image
from tests.simulator.push import Pusher
from tests.tools import PATIENCE

#: Long enough for a machine that does much else to judge a candidate meanwhile.
COOLDOWN = 10.0

pytestmark = pytest.mark.client


class RealShelf:
    """What somebody with the password, or with access to the disk, does to a docker-registry."""

    def __init__(self, registry: DockerRegistry) -> None:
        self._url = registry.url
        self._root = registry.folder / "registry/docker/registry/v2"

    async def push(self, name: str, tag: str, picture: Picture, publisher: Publisher | None = None) -> None:
        """Upload, as every client does."""
        await self._upload(name, tag, picture)
        if publisher is not None:
            made = signature(Repository.of(REGISTRY, name), picture.digest, publisher)
            await self._upload(name, signature_tag(picture.digest), made)

    async def tag(self, name: str, tag: str, picture: Picture) -> None:
        """Let a tag name an image that is there already."""
        async with Pusher(self._url) as pusher:
            await pusher.tag(name, tag, _image(picture))

    async def untag(self, name: str, tag: str) -> None:
        """docker-registry 2.8 cannot delete a tag alone: its folder is removed."""
        await asyncio.to_thread(shutil.rmtree, self._root / "repositories" / name / "_manifests/tags" / tag)

    async def tamper(self, blob: bytes) -> None:
        """Write over the file: docker-registry sends what is there."""
        digest = Digest.of(blob)
        path = self._root / "blobs" / digest.algorithm / digest.hex[:2] / digest.hex / "data"
        assert await asyncio.to_thread(path.read_bytes) == blob
        await asyncio.to_thread(path.write_bytes, bytes(len(blob)))

    async def _upload(self, name: str, tag: str, picture: Picture) -> None:
        async with Pusher(self._url) as pusher:
            await pusher.push(name, _image(picture), tag)


def _image(picture: Picture) -> Image:
    return Image(MANIFEST, picture.body, tuple(Blob("application/octet-stream", blob) for blob in picture.blobs))


async def test_every_story_ends_well_with_a_real_registry(tmp_path: Path) -> None:
    """Each client sees what it must, and somebody on call hears of each attack; the ledger of it all is sound."""
    publishers = Publisher(), Publisher()
    lines: list[tuple[str, Line]] = []
    async with OnCall() as on_call:
        with DockerRegistry(tmp_path / "up") as registry:
            text = configuration(tmp_path, publishers, registry.url, on_call, COOLDOWN)
            server = Tagstone(tmp_path / "proxy", text, workers=2)
            await asyncio.to_thread(server.start)
            try:
                async with clients(f"http://{server.host}") as three:
                    stage = Stage(RealShelf(registry), *publishers, on_call, three, server.data / FILE_NAME, COOLDOWN)
                    for name, story in STORIES.items():
                        scene = Scene(stage, lambda line, name=name: lines.append((name, line)))  # type: ignore[misc]  # a default
                        await story(scene)
                ledger = await asyncio.to_thread(server.run, "ledger", "verify")
            finally:
                await asyncio.to_thread(server.stop)
    wrong = [(name, line) for name, line in lines if not line.right]
    assert not wrong, wrong
    assert sum(line.seen is not None for _, line in lines) >= 25
    assert sum(line.alert is not None for _, line in lines) >= 13
    assert on_call.forged == 0
    assert ledger.returncode == 0, (ledger.stdout, ledger.stderr)


def test_the_demonstration_runs_as_installed(tmp_path: Path) -> None:
    """It needs no configuration and no network; what it leaves with ``--keep`` is looked at by the other commands."""
    keep = tmp_path / "kept"
    done = subprocess.run(
        (tagstone(), "demo", "unsigned-upstream", "tampering", "--keep", str(keep)),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "2 stories, 4 pulls (2 refused), 2 alerts" in done.stdout
    assert "WRONG" not in done.stdout
    pins = subprocess.run(
        (tagstone(), "pins", "list", "--config", str(keep / "tagstone.yaml")),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert "registry.demo/base/alpine:3.20" in pins.stdout
    again = subprocess.run(
        (tagstone(), "demo", "--keep", str(keep)), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (again.returncode, "is not empty" in again.stderr) == (2, True)
    assert subprocess.run((tagstone(), "demo", "nonsense"), capture_output=True, timeout=PATIENCE, check=False).returncode == 2
