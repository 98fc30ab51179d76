"""Snapshots of built images, as they are made of what a registry gives."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.manifest import Bounds, Manifest, parse
from proxy.policy.changes import (
    CONFIG_TYPES,
    Change,
    Child,
    Provenance,
    Snapshot,
    canonical,
    child_platform,
    classify,
    read_config,
)
from proxy.policy.changes.model import Image as Read
from storage.records import Descriptor
from tests.simulator.builds import Build
from tests.simulator.images import Image

KEY = "key release-key 0123456789abcdef"


def snapshot(image: Image | Build, signers: Sequence[str] | None = (), provenance: Sequence[Provenance] | None = ()) -> Snapshot:
    """What a digest stands for, with everything in it read."""
    image = image.image() if isinstance(image, Build) else image
    manifest = parse(image.body, image.media_type, Bounds())
    own = Descriptor(image.media_type, image.digest, len(image.body))
    if manifest.is_index:
        below = {child.digest: child for child in image.images}
        notes = [entry.annotations.get("vnd.docker.reference.type") for entry in manifest.manifests]
        children = tuple(
            _child(canonical(entry.platform), entry.descriptor, below[entry.descriptor.digest])
            for entry, note in zip(manifest.manifests, notes, strict=True)
            if note is None
        )
        evidence = tuple(
            entry.descriptor.digest for entry, note in zip(manifest.manifests, notes, strict=True) if note is not None
        )
    else:
        read = _read(manifest, image)
        children, evidence = (Child(child_platform(read), image.digest, own.size, read),), ()
    return Snapshot(
        image.digest,
        image.media_type,
        manifest.annotations,
        children,
        evidence,
        None if signers is None else tuple(signers),
        None if provenance is None else tuple(provenance),
    )


def _child(platform: str, descriptor: Descriptor, image: Image) -> Child:
    return Child(platform, descriptor.digest, descriptor.size, _read(parse(image.body, image.media_type, Bounds()), image))


def _read(manifest: Manifest, image: Image) -> Read:
    assert manifest.config is not None
    layers = tuple(layer.descriptor for layer in manifest.layers)
    read = read_config(image.blobs[0].data) if manifest.config.media_type in CONFIG_TYPES else None
    return Read(manifest.config, layers, manifest.annotations, manifest.artifact_type or "", read)


def compare(
    before: Image | Build, after: Image | Build, signed: tuple[Sequence[str] | None, Sequence[str] | None] = ((), ())
) -> Change:
    """How one differs from the other; ``signed``: by whom each is."""
    return classify(snapshot(before, signed[0]), snapshot(after, signed[1]))
