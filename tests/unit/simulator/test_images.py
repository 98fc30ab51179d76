"""The image builders: deterministic, well-formed, and what a real registry takes."""

from __future__ import annotations

import gzip
import io
import json
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.digest import Digest
from tests.simulator import images, signing
from tests.simulator.push import Pusher, PushFailed
from tests.tools import free_port, need


def test_equal_arguments_give_equal_bytes() -> None:
    """Digests can be named in tests: only another argument gives another image."""
    assert images.image("a", layers=2).digest == images.image("a", layers=2).digest
    assert len({images.image("a").digest, images.image("b").digest, images.image("a", media="docker").digest}) == 3
    assert images.multi_arch("a").digest == images.multi_arch("a").digest


@pytest.mark.parametrize("media", ["oci", "docker"])
def test_images_are_what_their_manifests_say(media: images.Family) -> None:
    """Layers are real tars, the config names their content, the descriptors fit the bytes."""
    image = images.image("a", layers=2, layer_size=5000, media=media, platform="linux/arm64/v8")
    config = json.loads(image.blobs[0].data)
    assert (config["os"], config["architecture"], config["variant"]) == ("linux", "arm64", "v8")
    for blob, named, diff_id in zip(image.blobs[1:], image.manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
        plain = gzip.decompress(blob.data)
        assert named == {"mediaType": blob.media_type, "digest": str(blob.digest), "size": len(blob.data)}
        assert diff_id == str(Digest.of(plain))
        with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
            assert tar.getnames() == ["seed", "data"]
    assert image.manifest["config"]["digest"] == str(image.config.digest)
    assert [layer.digest for layer in image.layers] == [blob.digest for blob in image.blobs[1:]]
    assert image.media_type == image.manifest["mediaType"]


def test_fields_are_added_or_replaced() -> None:
    """Any field of a manifest can be set, also to what no manifest should have."""
    image = images.image("a", annotations={"a": "b"}, schemaVersion=1, manifests=[])
    assert (image.manifest["schemaVersion"], image.manifest["manifests"], image.manifest["annotations"]) == (1, [], {"a": "b"})


def test_indexes_name_their_children() -> None:
    """An index lists its images by platform; a nested index has none; raw entries come last."""
    children = [images.image("a"), images.multi_arch("b", media="docker")]
    index = images.index(children, entries=[{"digest": "odd"}], annotations={"a": "b"})
    first, second, odd = index.manifest["manifests"]
    assert first["platform"] == {"architecture": "amd64", "os": "linux"}
    assert "platform" not in second
    assert (second["mediaType"], odd) == (images.DOCKER_LIST, {"digest": "odd"})
    assert index.manifest["annotations"] == {"a": "b"}
    named = images.index(children, platforms=["linux/s390x", "linux/arm/v7"])
    assert [entry["platform"]["architecture"] for entry in named.manifest["manifests"]] == ["s390x", "arm"]


def test_buildkit_indexes_hold_an_attestation_manifest() -> None:
    """The second child is for ``unknown/unknown`` and refers to the first by annotation."""
    index = images.buildkit_index("a")
    image, attestation = index.manifest["manifests"]
    assert attestation["platform"] == {"architecture": "unknown", "os": "unknown"}
    assert attestation["annotations"]["vnd.docker.reference.digest"] == image["digest"]


@pytest.fixture
def real_registry(tmp_path: Path) -> Iterator[str]:
    """Debian's docker-registry on a free port."""
    program, port = need("docker-registry"), free_port()
    settings = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "data")}, "delete": {"enabled": True}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    (tmp_path / "config.yml").write_text(json.dumps(settings))
    with subprocess.Popen(
        [program, "serve", tmp_path / "config.yml"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as run:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
        run.terminate()


@pytest.mark.client
async def test_a_real_registry_takes_everything(real_registry: str) -> None:
    """Images, indexes, signatures, bundles and the fallback tag can be pushed to Debian's docker-registry and read back."""
    alice, bob = signing.Signer.of("p256", "alice"), signing.Signer.of("ed25519", "bob")
    async with Pusher(real_registry) as pusher:
        image = await pusher.push("team/app", images.multi_arch("one"), "1.0")
        for built in (images.multi_arch("one", media="docker"), images.buildkit_index("one"), images.image("two", layers=3)):
            await pusher.push("team/app", built, "1.1")
            assert await pusher.get("team/app", "1.1") == (built.media_type, built.body)
        await pusher.tag("team/app", "1.1", image)
        assert await pusher.get("team/app", "1.1") == (image.media_type, image.body)
        await pusher.sign("team/app", image.digest, alice)
        await pusher.sign("team/app", image.digest, bob, signing.CosignFault.WRONG_TYPE)
        await pusher.attach("team/app", image, alice)
        await pusher.attach("team/app", image, bob)
        signatures = await pusher.get("team/app", signing.signature_tag(image.digest))
        listed = await pusher.get("team/app", images.referrers_tag(image.digest))
        assert signatures is not None
        assert listed is not None
        assert len(json.loads(signatures[1])["layers"]) == 2
        assert len(json.loads(listed[1])["manifests"]) == 2
        await pusher.delete("team/app", image.digest)
        assert await pusher.get("team/app", "1.0") is None
        with pytest.raises(PushFailed, match="answered 404"):
            await pusher.delete("team/app", image.digest)
