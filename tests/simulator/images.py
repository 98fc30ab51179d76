"""Builders of images, indexes and artifacts: pure, deterministic, bytes and descriptors.

What comes out can be put into the simulator (:meth:`tests.simulator.registry.Registry.add`) or pushed to a real registry
(:mod:`tests.simulator.push`). Equal arguments give equal bytes, so that tests can name digests; another ``seed`` gives another
image. ``platform`` is written ``os/architecture[/variant]``.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from storage.digest import Digest
from storage.records import Descriptor

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
MANIFEST_TYPES = (OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST)
IN_TOTO = "application/vnd.in-toto+json"

Family = Literal["oci", "docker"]
Json = dict[str, Any]


@dataclass(frozen=True)
class Blob:
    """Bytes with a media type."""

    media_type: str
    data: bytes = field(repr=False)
    algorithm: str = "sha256"

    @cached_property
    def digest(self) -> Digest:
        """Computed over the data."""
        return Digest.of(self.data, self.algorithm)

    @property
    def descriptor(self) -> Descriptor:
        """As a value."""
        return Descriptor(self.media_type, self.digest, len(self.data))

    def entry(self, **more: Any) -> Json:
        """As the JSON of a descriptor, with ``more`` fields."""
        return entry(self.descriptor, **more)


@dataclass(frozen=True)
class Image:
    """A manifest as raw bytes, with everything that it names: an image, an index, an artifact."""

    media_type: str
    body: bytes = field(repr=False)
    blobs: tuple[Blob, ...] = ()  #: the config, then the layers
    images: tuple[Image, ...] = ()  #: the children of an index
    algorithm: str = "sha256"

    @cached_property
    def digest(self) -> Digest:
        """Computed over the body."""
        return Digest.of(self.body, self.algorithm)

    @property
    def descriptor(self) -> Descriptor:
        """As a value."""
        return Descriptor(self.media_type, self.digest, len(self.body))

    @cached_property
    def manifest(self) -> Json:
        """The body, parsed."""
        parsed: Json = json.loads(self.body)
        return parsed

    @property
    def config(self) -> Descriptor:
        """The config's descriptor. An index has none: IndexError."""
        return self.blobs[0].descriptor

    @property
    def layers(self) -> list[Descriptor]:
        """The layers' descriptors, in order."""
        return [blob.descriptor for blob in self.blobs[1:]]

    def entry(self, **more: Any) -> Json:
        """As the JSON of a descriptor, with ``more`` fields."""
        return entry(self.descriptor, **more)


def entry(descriptor: Descriptor, **more: Any) -> Json:
    """The JSON of a descriptor, with ``more`` fields (those that are None are left out)."""
    base = {"mediaType": descriptor.media_type, "digest": str(descriptor.digest), "size": descriptor.size}
    return base | {name: value for name, value in more.items() if value is not None}


def encode(document: Mapping[str, Any]) -> bytes:
    """JSON with the indentation that real tools write: bytes that no re-serialising proxy would reproduce."""
    return json.dumps(document, indent=3).encode()


def noise(seed: str, size: int) -> bytes:
    """``size`` bytes that do not compress, always the same for the same seed."""
    return random.Random(seed).randbytes(size)


def layer(seed: str, size: int = 1000, media_type: str = OCI_LAYER) -> Blob:
    """A real gzipped tar with two files: ``seed``, and ``data`` of ``size`` bytes."""
    return Blob(media_type, gzip.compress(_tar(seed, size), 1, mtime=0))


def _tar(seed: str, size: int) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for name, data in {"seed": seed.encode(), "data": noise(seed, size)}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return plain.getvalue()


def platform_of(text: str) -> Json:
    """``linux/arm64/v8`` → the ``platform`` object of an index entry."""
    os, architecture, *variant = text.split("/")
    return {"architecture": architecture, "os": os} | ({"variant": variant[0]} if variant else {})


def image(
    seed: str = "x",
    *,
    layers: int = 1,
    layer_size: int = 1000,
    media: Family = "oci",
    platform: str = "linux/amd64",
    annotations: Mapping[str, str] | None = None,
    algorithm: str = "sha256",
    **fields: Any,
) -> Image:
    """An image that real clients can pull and unpack; ``fields`` are added to the manifest (or replace what it has)."""
    oci = media == "oci"
    seeds = [f"{seed}/{platform}/{number}" for number in range(layers)]
    blobs = [layer(each, layer_size, OCI_LAYER if oci else DOCKER_LAYER) for each in seeds]
    diff_ids = [str(Digest.of(gzip.decompress(blob.data))) for blob in blobs]
    document = {
        **platform_of(platform),
        "created": "2026-01-01T00:00:00Z",
        "config": {"Cmd": ["/seed"], "Labels": {"seed": seed}},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created": "2026-01-01T00:00:00Z", "created_by": f"COPY {each} /"} for each in seeds],
    }
    config = Blob(OCI_CONFIG if oci else DOCKER_CONFIG, encode(document))
    media_type = OCI_MANIFEST if oci else DOCKER_MANIFEST
    manifest: Json = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": config.entry(),
        "layers": [blob.entry() for blob in blobs],
    }
    if annotations:
        manifest["annotations"] = dict(annotations)
    return Image(media_type, encode(manifest | fields), (config, *blobs), algorithm=algorithm)


def index(
    images: Sequence[Image],
    *,
    media: Family = "oci",
    platforms: Sequence[str] | None = None,
    entries: Sequence[Json] = (),
    algorithm: str = "sha256",
    **fields: Any,
) -> Image:
    """An index (or Docker list) of ``images``; a platform is read from the config where ``platforms`` does not say.

    ``entries`` are further raw descriptors, for children that are not there or not right.
    """
    media_type = OCI_INDEX if media == "oci" else DOCKER_LIST
    named = [platform_of(text) for text in platforms] if platforms is not None else [_platform(child) for child in images]
    manifest: Json = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "manifests": [
            *(child.entry(platform=platform) for child, platform in zip(images, named, strict=True)),
            *entries,
        ],
    }
    return Image(media_type, encode(manifest | fields), images=tuple(images), algorithm=algorithm)


def _platform(child: Image) -> Json | None:
    if not child.blobs or child.media_type not in (OCI_MANIFEST, DOCKER_MANIFEST):
        return None
    config: Json = json.loads(child.blobs[0].data)
    return {name: config[name] for name in ("architecture", "os", "variant") if name in config} or None


def multi_arch(
    seed: str = "x", platforms: Sequence[str] = ("linux/amd64", "linux/arm64"), *, media: Family = "oci", layer_size: int = 1000
) -> Image:
    """An index with one image per platform."""
    children = [image(seed, media=media, platform=platform, layer_size=layer_size) for platform in platforms]
    return index(children, media=media)


def artifact(
    artifact_type: str,
    blobs: Sequence[tuple[Blob, Mapping[str, str] | None]],
    *,
    subject: Descriptor | None = None,
    annotations: Mapping[str, str] | None = None,
    **fields: Any,
) -> Image:
    """An OCI 1.1 artifact manifest: empty config, ``artifactType``, layers with annotations, a subject if any."""
    empty = Blob(OCI_EMPTY, b"{}")
    manifest: Json = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": artifact_type,
        "config": empty.entry(),
        "layers": [blob.entry(annotations=dict(notes) if notes else None) for blob, notes in blobs],
    }
    if subject is not None:
        manifest["subject"] = entry(subject)
    if annotations:
        manifest["annotations"] = dict(annotations)
    return Image(OCI_MANIFEST, encode(manifest | fields), (empty, *(blob for blob, _ in blobs)))


def buildkit_index(seed: str = "x", platform: str = "linux/amd64") -> Image:
    """What BuildKit pushes: an image and its attestation manifest as an ``unknown/unknown`` child of the same index."""
    child = image(seed, platform=platform)
    statement = Blob(
        IN_TOTO, encode({"_type": "https://in-toto.io/Statement/v0.1", "predicateType": "https://slsa.dev/provenance/v0.2"})
    )
    config = Blob(
        OCI_CONFIG, encode({**platform_of("unknown/unknown"), "rootfs": {"type": "layers", "diff_ids": [str(statement.digest)]}})
    )
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config.entry(),
        "layers": [statement.entry(annotations={"in-toto.io/predicate-type": "https://slsa.dev/provenance/v0.2"})],
    }
    attestation = Image(OCI_MANIFEST, encode(manifest), (config, statement))
    notes = {"vnd.docker.reference.digest": str(child.digest), "vnd.docker.reference.type": "attestation-manifest"}
    entries = [
        child.entry(platform=platform_of(platform)),
        attestation.entry(platform=platform_of("unknown/unknown"), annotations=notes),
    ]
    body = encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
    return Image(OCI_INDEX, body, images=(child, attestation))


def referrers_tag(subject: Digest) -> str:
    """The fallback tag of the OCI distribution specification 1.1 ("Referrers Tag Schema")."""
    return f"{subject.algorithm}-{subject.hex[:64]}"


def referrers_entry(referrer: Image) -> Json:
    """How a registry lists a referrer: its descriptor with artifactType and annotations from the manifest."""
    manifest = referrer.manifest
    kind = manifest.get("artifactType") or manifest.get("config", {}).get("mediaType")
    return referrer.entry(artifactType=kind, annotations=manifest.get("annotations"))


def referrers_index(entries: Sequence[Json]) -> Image:
    """The index that lists referrers, as the API answers it and as the fallback tag holds it."""
    return Image(OCI_INDEX, encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries)}))
