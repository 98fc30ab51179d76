"""From an image's verified layers to its file list."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from proxy.drift.disk import Disk, reach
from proxy.drift.tar import members
from proxy.drift.tree import Layer, Node
from proxy.drift.unpacking import Budget, Plain, hashed, unpacked, verified
from proxy.errors import LayerRefused, ManifestRefused
from proxy.manifest import strict_json
from storage.digest import Digest
from storage.errors import MalformedName
from storage.records import Descriptor

_LAYER = re.compile(
    r"application/vnd\.oci\.image\.layer\.(nondistributable\.)?v1\.tar(\+gzip|\+zstd)?"
    r"|application/vnd\.docker\.image\.rootfs\.(foreign\.)?diff\.tar(\.gzip|\.zstd)?"
)
#: Media types of configs that say what the layers unpack to.
CONFIGS = frozenset({"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"})
MAX_CONFIG = 4 << 20
_MACHINES: Mapping[str, str] = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm/v7",
    "armv6l": "arm/v6",
    "i686": "386",
    "loongarch64": "loong64",
}


@dataclass(frozen=True, slots=True)
class LayerBlob:
    """A layer: what its manifest says of it, and what its image's config says that it unpacks to (None: nothing)."""

    number: int  #: from 0, the lowest first
    descriptor: Descriptor
    diff_id: Digest | None

    def __str__(self) -> str:
        return f"layer {self.number + 1} ({self.descriptor.digest})"


def layer_blobs(layers: Sequence[Descriptor], config: bytes | None) -> tuple[LayerBlob, ...]:
    """The layers of an image with what its config promises of them. Raises :class:`LayerRefused`."""
    for number, layer in enumerate(layers, 1):
        if not _LAYER.fullmatch(layer.media_type):
            raise LayerRefused(f"layer {number} ({layer.digest}) is {layer.media_type}, which is not known to be a tar archive")
    if config is None:
        return tuple(LayerBlob(number, layer, None) for number, layer in enumerate(layers))
    try:
        document = strict_json(config)
        rootfs = document.get("rootfs") if isinstance(document, dict) else None
        ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
        promised = [Digest.parse(each) if isinstance(each, str) else None for each in ids] if isinstance(ids, list) else None
    except (ManifestRefused, MalformedName) as error:
        raise LayerRefused(f"the image's config cannot be read: {error}") from error
    if promised is None or len(promised) != len(layers) or None in promised:
        raise LayerRefused(f"the image has {len(layers)} layers, and its config does not say what each unpacks to")
    return tuple(LayerBlob(number, *both) for number, both in enumerate(zip(layers, promised, strict=True)))


def read_layer(blob: LayerBlob, read: Callable[[int], bytes], budget: Budget, lower: Node | None = None) -> Layer:
    """Read a layer in one pass: ``read`` gives its packed bytes. For ``lower`` see :class:`proxy.drift.tree.Layer`.

    Raises :class:`LayerRefused`, and :class:`storage.errors.DigestMismatch` where the bytes are not the layer.
    """
    layer = Layer(blob.number, lower, budget)
    promised = blob.diff_id
    hasher = hashlib.sha256() if promised is None else promised.hasher()
    plain = unpacked(verified(read, blob.descriptor.digest), budget)
    try:
        for member in members(Plain(hashed(plain, hasher)), budget):
            layer.add(member)
    except LayerRefused as error:
        raise LayerRefused(f"{blob}: {error}") from error
    if promised is not None and hasher.hexdigest() != promised.hex:
        raise LayerRefused(f"{blob} does not unpack to {promised}, as the image's config promises")
    return layer


def links_followed(disk: Disk, crossings: Sequence[bytes]) -> bool:
    """Whether the runtime followed the links that later layers go through, or replaced them (:func:`tree.assemble`)."""
    for path in crossings:
        *above, name = path.split(b"/")
        found = disk.resolve(b"/".join(above)) if above else (b"", os.dup(disk.root))
        if found is None:
            continue
        folder = found[1]
        try:
            fd = reach(name, folder)
            if fd is not None:
                try:
                    return stat.S_ISLNK(os.fstat(fd).st_mode)
                finally:
                    os.close(fd)
        finally:
            os.close(folder)
    return False


def host_platform(machine: str) -> str:
    """This machine in the words of an index, from what ``uname -m`` says: ``linux/amd64``."""
    return f"linux/{_MACHINES.get(machine, machine)}"


def choose(platforms: Sequence[str], wanted: str) -> int | None:
    """The place in an index of the image for a platform; None where there is none.

    A variant that is wanted is what is taken; else one without a variant, else the first.
    """
    exact = [place for place, each in enumerate(platforms) if each == wanted]
    if exact:
        return exact[0]
    base = wanted.split("/")[:2]
    alike = [place for place, each in enumerate(platforms) if each.split("/")[:2] == base]
    plain = [place for place in alike if platforms[place].count("/") == 1]
    if plain:
        return plain[0]
    return alike[0] if alike and wanted.count("/") == 1 else None
