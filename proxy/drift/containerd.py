"""What ``ctr`` prints of containerd's containers. Pure.

A container made by Kubernetes holds its image's ID. Any other holds its image's name alone: what that means on the node now is
what it runs only where its snapshot was made of the layers of that image.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from proxy.drift.workloads import Claim, Source, Workload
from proxy.errors import ManifestRefused, WorkloadsMalformed
from proxy.manifest import strict_json
from storage.digest import Digest
from storage.errors import MalformedName

#: Bytes of one answer.
MAX_OUTPUT = 16 << 20
#: Containers of one containerd, and manifests of one index.
MAX_CONTAINERS = 5000
MAX_CHILDREN = 100
_DEPTH = 64
_MAX_TEXT = 1024
_CRI = "io.cri-containerd.container.metadata"


@dataclass(frozen=True, slots=True)
class Container:
    """One container as ``ctr containers info`` gives it. ``workload`` claims a digest already where Kubernetes made it."""

    workload: Workload
    snapshotter: str
    snapshot: str

    def made_of(self, digest: Digest | None, parent: str, chains: frozenset[str]) -> Workload:
        """With what the name of its image means now. ``parent``: what its snapshot is made of; ``chains``: what that image is."""
        name = self.workload.image
        if digest is None:
            return replace(self.workload, missing=f"containerd keeps no digest with it, and has no image {name} any more")
        if parent not in chains:
            missing = f"containerd keeps no digest with it, and {name} is not what its snapshot was made of"
            return replace(self.workload, missing=missing)
        return replace(self.workload, claims=(Claim(name, digest),), missing="")


def rows(output: bytes) -> list[list[str]]:
    """The words of each line of a table, without its header."""
    return [line.split() for line in output.decode(errors="replace").splitlines()[1:] if line.strip()]


def words(output: bytes) -> list[str]:
    """What a command with ``-q`` prints."""
    return output.decode(errors="replace").split()


def running(output: bytes) -> frozenset[str]:
    """The containers that have a task, of ``ctr tasks list``, but for those whose task has ended."""
    return frozenset(row[0] for row in rows(output) if row[-1] not in {"STOPPED", "CREATED"})


def images(output: bytes) -> dict[str, Digest]:
    """The names of ``ctr images list``, and what they mean."""
    found: dict[str, Digest] = {}
    for row in rows(output):
        for word in row[1:4]:  # a type may be missing
            try:
                found[row[0]] = Digest.parse(word)
                break
            except MalformedName:
                continue
    return found


def container(info: bytes, namespace: str, active: frozenset[str]) -> Container:
    """Read one container. Raises :class:`WorkloadsMalformed`."""
    document = _read(info)
    labels, extensions = _object(document, "Labels"), _object(document, "Extensions")
    identifier, image = _text(document, "ID"), _text(document, "Image")
    pod = _text(labels, "io.kubernetes.pod.name")
    claim, asked = _of_kubernetes(_object(extensions, _CRI))
    workload = Workload(
        Source.CONTAINERD,
        _text(labels, "io.kubernetes.pod.namespace") or namespace,
        pod,
        _text(labels, "io.kubernetes.container.name") or ("" if pod else identifier),
        "sandbox" if _text(labels, "io.cri-containerd.kind") == "sandbox" else "container",
        identifier,
        asked or image,
        () if claim is None else (claim,),
        identifier in active,
        "" if claim is not None else "containerd keeps no digest with it",
    )
    return Container(workload, _text(document, "Snapshotter"), _text(document, "SnapshotKey"))


def _of_kubernetes(extension: Mapping[str, Any]) -> tuple[Claim | None, str]:
    """The image's ID and the name that was asked for, of what containerd's CRI keeps with its containers."""
    try:
        document = _read(base64.b64decode(_text(extension, "value", MAX_OUTPUT), validate=True) or b"{}")
        metadata = _object(document, "Metadata")
        claim = Claim("", Digest.parse(_text(metadata, "ImageRef")))
    except (binascii.Error, ValueError, WorkloadsMalformed):
        return None, ""  # another version's: then as any container
    image = _object(_object(metadata, "Config"), "image")
    return claim, _text(image, "user_specified_image")


def parent(info: bytes) -> str:
    """What a snapshot was made of, of ``ctr snapshots info``: a chain of layers. Raises :class:`WorkloadsMalformed`."""
    return _text(_read(info), "Parent")


def manifests(document: bytes) -> tuple[Digest, ...]:
    """What an index lists; nothing for another document. Raises :class:`WorkloadsMalformed`."""
    listed = _list(_read(document), "manifests")[:MAX_CHILDREN]
    return tuple(_digests(each.get("digest") for each in listed if isinstance(each, dict)))


def config(document: bytes) -> Digest | None:
    """What an image's manifest names as its config. Raises :class:`WorkloadsMalformed`."""
    return next(iter(_digests([_object(_read(document), "config").get("digest")])), None)


def chain(document: bytes) -> str:
    """The chain ID of an image's layers, of its config (OCI image specification, "Layer ChainID"); empty where it has none."""
    found = ""
    for each in _list(_object(_read(document), "rootfs"), "diff_ids"):
        if not isinstance(each, str):
            return ""
        found = "sha256:" + hashlib.sha256(f"{found} {each}".encode()).hexdigest() if found else each
    return found


def _digests(texts: Iterable[object]) -> Iterable[Digest]:
    for text in texts:
        try:
            yield Digest.parse(text if isinstance(text, str) else "")
        except MalformedName:
            continue  # nothing that could be fetched


def _read(document: bytes) -> dict[str, Any]:
    try:
        value = strict_json(document, _DEPTH)
    except ManifestRefused as error:
        raise WorkloadsMalformed(ascii(str(error)[:300])[1:-1]) from None
    if not isinstance(value, dict):
        raise WorkloadsMalformed("it is no JSON object")
    return value


def _list(value: Mapping[str, Any], key: str) -> list[Any]:
    found = value.get(key)
    return found if isinstance(found, list) else []


def _object(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def _text(value: Mapping[str, Any], key: str, most: int = _MAX_TEXT) -> str:
    found = value.get(key)
    return found[:most] if isinstance(found, str) else ""
