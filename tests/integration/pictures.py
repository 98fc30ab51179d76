"""Images that real clients unpack: a static busybox and a seed, for two platforms."""

from __future__ import annotations

import base64
import gzip
import io
import json
import platform
import tarfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from storage.digest import Digest
from tests.simulator import images
from tests.simulator.images import Blob, Image
from tests.simulator.push import Pusher
from tests.tools import need

#: What this machine is, in the words of an image.
HERE = f"linux/{ {'x86_64': 'amd64', 'aarch64': 'arm64'}.get(platform.machine(), platform.machine()) }"
PLATFORMS = tuple(dict.fromkeys((HERE, "linux/amd64", "linux/arm64")))
BUSYBOX = "bin/busybox"


@lru_cache(maxsize=1)
def busybox() -> bytes:
    """Debian's static busybox."""
    return Path(need("busybox")).read_bytes()


@lru_cache(maxsize=1)
def _busybox_layer() -> tuple[Blob, Digest]:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for name in ("bin", BUSYBOX):
            member = tarfile.TarInfo(name)
            member.mode = 0o755
            if name == "bin":
                member.type = tarfile.DIRTYPE
                tar.addfile(member)
            else:
                member.size = len(busybox())
                tar.addfile(member, io.BytesIO(busybox()))
    return Blob(images.OCI_LAYER, gzip.compress(plain.getvalue(), 1, mtime=0)), Digest.of(plain.getvalue())


def picture(seed: str, *, layer_size: int = 20_000) -> Image:
    """An index over one image per platform: busybox in the first layer, ``/seed`` and ``/data`` of its own in the second."""
    return images.index([_child(seed, each, layer_size) for each in PLATFORMS])


def here(image: Image) -> Image:
    """The child of an index that a client on this machine takes."""
    return image.images[PLATFORMS.index(HERE)]


def elsewhere(image: Image) -> Image:
    """A child of an index that is for another machine."""
    return next(child for child, name in zip(image.images, PLATFORMS, strict=True) if name != HERE)


def seed_of(child: Image) -> bytes:
    """What ``/seed`` of a platform's image holds."""
    label: str = json.loads(child.blobs[0].data)["config"]["Labels"]["seed"]
    return label.encode()


def _child(seed: str, name: str, layer_size: int) -> Image:
    first, diff_id = _busybox_layer()
    second = images.layer(f"{seed}/{name}", layer_size)
    document = {
        **images.platform_of(name),
        "config": {"Cmd": [f"/{BUSYBOX}", "cat", "/seed"], "Labels": {"seed": f"{seed}/{name}"}},
        "rootfs": {"type": "layers", "diff_ids": [str(diff_id), str(Digest.of(gzip.decompress(second.data)))]},
    }
    config = Blob(images.OCI_CONFIG, images.encode(document))
    manifest = {
        "schemaVersion": 2,
        "mediaType": images.OCI_MANIFEST,
        "config": config.entry(),
        "layers": [first.entry(), second.entry()],
    }
    return Image(images.OCI_MANIFEST, images.encode(manifest), (config, first, second))


# -- a recording -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Recording:
    """A repository as a real signing tool left it, and the public key that it signed for."""

    public_key: bytes
    blobs: dict[str, bytes]
    manifests: dict[str, Image]  #: by tag or digest, children before parents

    @property
    def index(self) -> Image:
        """The image itself, its children with it."""
        body = self.manifests["v1"].body
        children = tuple(self.manifests[each["digest"]] for each in json.loads(body)["manifests"])
        return Image(images.OCI_INDEX, body, images=children)

    async def push(self, pusher: Pusher, repository: str, *, signed: tuple[Digest, ...]) -> None:
        """Upload the image as ``v1``, and of the signatures those over the digests named."""
        signatures = tuple(f"sha256-{digest.hex}.sig" for digest in signed)
        for reference, image in self.manifests.items():
            if reference.endswith(".sig") and reference not in signatures:
                continue
            await pusher.push(repository, image, None if reference.startswith("sha256:") else reference)


def recording() -> Recording:
    """An image of two platforms that skopeo 1.18 copied with ``--all --sign-by-sigstore-private-key``.

    Debian 12 builds skopeo without that option, so what it does is kept here. Made with a key pair of which only the public
    half was kept.
    """
    kept = json.loads((Path(__file__).parent / "data" / "skopeo-1.18.json").read_text())
    blobs = {name: base64.b64decode(text) for name, text in kept["blobs"].items()}

    def image(media_type: str, body: bytes) -> Image:
        manifest = json.loads(body)
        named = [manifest["config"], *manifest["layers"]] if "config" in manifest else []
        return Image(media_type, body, tuple(Blob(each["mediaType"], blobs[each["digest"]]) for each in named))

    manifests = {
        reference: image(each["mediaType"], base64.b64decode(each["body"])) for reference, each in kept["manifests"].items()
    }
    return Recording(kept["public key"].encode(), blobs, manifests)
