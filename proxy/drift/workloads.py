"""What runs, as kubectl, crictl, docker and podman print it. Pure.

Everything read here is untrusted: JSON that means one thing, of bounded size, depth and number of values, with texts that are
cut. Where one entry is not as it should be, nothing can be told of that container; the others stay what they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from proxy.errors import ManifestRefused, WorkloadsMalformed
from proxy.manifest import strict_json, values_in
from storage.digest import Digest
from storage.errors import MalformedName

#: Bytes of one input: some ten thousand pods.
MAX_INPUT = 256 << 20
#: Values in one input: they take up to a hundred times their size in memory.
MAX_VALUES = 16_000_000
#: Containers in all inputs together.
MAX_WORKLOADS = 200_000
_DEPTH = 64
_MAX_TEXT = 1024
_MAX_CLAIMS = 64  #: of one image

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,30}://", re.ASCII)
_HEX = re.compile(r"[0-9a-f]{64}", re.ASCII)


class Source(StrEnum):
    """Who told what runs."""

    KUBERNETES = "kubernetes"
    CRI = "cri"
    DOCKER = "docker"
    PODMAN = "podman"
    CONTAINERD = "containerd"


@dataclass(frozen=True, slots=True)
class Claim:
    """One digest that a source gives for an image. ``name``: the repository that it gives with it; empty with an image's ID."""

    name: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class Workload:
    """One container, or an image that a pod mounts. ``image`` is the name that it was started from, as it was written."""

    source: Source
    namespace: str
    pod: str
    container: str
    kind: str = "container"  #: init container, ephemeral container, volume
    id: str = ""  #: the runtime's
    image: str = ""
    claims: tuple[Claim, ...] = ()
    running: bool = True
    missing: str = ""  #: why nothing is claimed

    @property
    def name(self) -> str:
        """``namespace/pod/container``, as far as there are any."""
        return "/".join(part for part in (self.namespace, self.pod, self.container) if part) or self.id[:12]

    @property
    def key(self) -> tuple[str, ...]:
        """What tells it apart from all others of its source."""
        return (self.source, self.namespace, self.pod, self.kind, self.container, "" if self.pod else self.id)


@dataclass(frozen=True, slots=True)
class Held:
    """An image that a node has: its ID, its names and the digests that it was pulled by."""

    id: Digest
    names: tuple[str, ...]
    claims: tuple[Claim, ...]


@dataclass(frozen=True, slots=True)
class Inventory:
    """All that was told. ``skipped`` counts what is neither a container nor an image."""

    workloads: tuple[Workload, ...] = ()
    held: tuple[Held, ...] = ()
    skipped: int = 0

    def __add__(self, other: Inventory) -> Inventory:
        """Both together."""
        return Inventory(self.workloads + other.workloads, self.held + other.held, self.skipped + other.skipped)

    def complete(self) -> tuple[Workload, ...]:
        """The workloads, each once, with what is known of the images whose IDs they name."""
        held: dict[Digest, list[Held]] = {}
        for image in self.held:
            held.setdefault(image.id, []).append(image)
        once: dict[object, Workload] = {}
        for each in self.workloads:
            if each.claims or (each.key, each.id) not in once:
                once[each.key, each.id] = each
        return tuple(_completed(each, held) for each in once.values())


def _completed(workload: Workload, held: Mapping[Digest, list[Held]]) -> Workload:
    images = [image for claim in workload.claims if not claim.name for image in held.get(claim.digest, ())]
    if not images:
        return workload
    claims = dict.fromkeys((*workload.claims, *(claim for image in images for claim in image.claims)))
    image = workload.image
    if is_id(image, workload.claims):  # it was started by its ID: then by its names, if it has but one
        names = {name for each in images for name in each.names}
        image = names.pop() if len(names) == 1 else image
    return replace(workload, image=image, claims=tuple(claims)[: 2 * _MAX_CLAIMS])


def is_id(image: str, claims: Iterable[Claim]) -> bool:
    """Whether what stands in the place of a name is an image's ID, or the beginning of one."""
    if _identifier(image) is not None or not image:
        return True
    short = image.removeprefix("sha256:")
    return len(short) >= 12 and any(claim.digest.hex.startswith(short) for claim in claims if not claim.name)


def read(body: bytes) -> Inventory:
    """Read what one of these programs printed; which one, it says by its shape.

    Raises :class:`WorkloadsMalformed`. It takes long for large inputs: not on the event loop.
    """
    if len(body) > MAX_INPUT:
        raise WorkloadsMalformed(f"it has more than {MAX_INPUT >> 20} MiB")
    if values_in(body) > MAX_VALUES:
        raise WorkloadsMalformed(f"it holds more than {MAX_VALUES} values")
    try:
        document = strict_json(body.strip() or b"null", _DEPTH, None)
    except ManifestRefused as error:
        raise WorkloadsMalformed(ascii(str(error)[:300])[1:-1]) from None
    found = _read(document)
    if len(found.workloads) > MAX_WORKLOADS:
        raise WorkloadsMalformed(f"it has more than {MAX_WORKLOADS} containers")
    return found


def _read(document: object) -> Inventory:
    match document:
        case {"kind": "Pod"}:
            return _pods([document])
        case {"kind": "List" | "PodList" as kind, "items": list(items)}:
            pods = [item for item in items if not isinstance(item, dict) or _is_pod(item, kind)]
            return _pods(pods) + Inventory(skipped=len(items) - len(pods))
        case {"containers": list(containers)}:
            return Inventory(tuple(map(cri_container, containers)))
        case {"images": list(images)}:
            return _held(images)
        case {"status": {"imageRef": _} as status}:
            return Inventory((cri_container(status),))
        case {"State": _, "Image": _}:
            return _inspected([document])
        case list(entries):
            return _inspected(entries)
    shapes = "kubectl get pods, crictl ps, crictl images, docker inspect or podman inspect"
    raise WorkloadsMalformed(f"it is nothing that {shapes} prints as JSON")


def _is_pod(item: Mapping[str, Any], listed: str) -> bool:
    return bool(item.get("kind", "Pod" if listed == "PodList" else None) == "Pod")


# -- Kubernetes -----------------------------------------------------------------------------------------------------


#: The lists of a pod: what its spec calls them, what its status calls them, what people call their entries.
_LISTS = (
    ("containers", "containerStatuses", "container"),
    ("initContainers", "initContainerStatuses", "init container"),
    ("ephemeralContainers", "ephemeralContainerStatuses", "ephemeral container"),
)


def _pods(pods: Iterable[object]) -> Inventory:
    return Inventory(tuple(workload for pod in pods for workload in _pod(pod)))


def _pod(pod: object) -> Iterator[Workload]:
    """The containers of a pod (core/v1), and the images that it mounts."""
    metadata, spec, status = (_object(pod, name) for name in ("metadata", "spec", "status"))
    namespace, name = _text(metadata, "namespace"), _text(metadata, "name")
    over = _text(status, "phase") in {"Succeeded", "Failed"}
    for listed, told, kind in _LISTS:
        asked = {_text(each, "name"): each for each in _list(spec, listed)}
        states = {_text(each, "name"): each for each in _list(status, told)}
        for container in dict.fromkeys((*asked, *states)):
            state = states.get(container, {})
            given = _text(state, "imageID")
            claims = _claims([given])
            yield Workload(
                Source.KUBERNETES,
                namespace,
                name,
                container,
                kind,
                _text(state, "containerID").rpartition("//")[2],
                _text(asked.get(container, {}), "image") or _text(state, "image"),
                claims,
                _runs(state, bool(given)) and not over,
                "" if claims else _no_image_id(given),
            )
    for volume in _list(spec, "volumes"):
        if isinstance(mounted := volume.get("image"), dict):
            missing = "the status of a pod does not say which digest of an image it mounts"
            reference, label = _text(mounted, "reference"), _text(volume, "name")
            claims = _claims([reference]) if "@" in reference else ()
            yield Workload(Source.KUBERNETES, namespace, name, label, "volume", "", reference, claims, not over, missing)


def _runs(state: Mapping[str, Any], has_image: bool) -> bool:
    """Whether a container runs, or is between two runs."""
    current = state.get("state")
    if not state:
        return False  # it was not begun
    if not isinstance(current, dict) or not current or "running" in current:
        return True
    return has_image and "waiting" in current


def _no_image_id(given: str) -> str:
    if not given:
        return "its status has no imageID"
    return "the imageID in its status holds no digest"


#: What does not run. Whatever is not among these does.
_ENDED = frozenset({"created", "configured", "initialized", "exited", "stopped", "dead", "removing"})
_ENDED_CRI = ("CONTAINER_CREATED", "CONTAINER_EXITED", 0, 2)


def _among(value: object, known: tuple[object, ...]) -> bool:
    return isinstance(value, (str, int)) and value in known


# -- the container runtime interface --------------------------------------------------------------------------------


def cri_container(entry: object) -> Workload:
    """One entry of ``crictl ps``, or the status that ``crictl inspect`` gives (runtime.v1, "Container", "ContainerStatus")."""
    labels, metadata, image = (_object(entry, name) for name in ("labels", "metadata", "image"))
    entry = entry if isinstance(entry, dict) else {}
    reference = _text(entry, "imageRef")
    # Not what it was asked for but what it is: newer versions give both.
    claims = _claims([reference, _text(entry, "imageId"), _text(image, "image")])
    return Workload(
        Source.CRI,
        _text(labels, "io.kubernetes.pod.namespace"),
        _text(labels, "io.kubernetes.pod.name"),
        _text(labels, "io.kubernetes.container.name") or _text(metadata, "name"),
        "container",
        _text(entry, "id"),
        _text(image, "userSpecifiedImage") or _text(image, "image") or reference,
        claims,
        not _among(entry.get("state"), _ENDED_CRI),
        "" if claims else "its imageRef holds no digest",
    )


def _held(images: Iterable[object]) -> Inventory:
    """``crictl images``."""
    found = [_image(each, "id", "repoTags", "repoDigests") if isinstance(each, dict) else None for each in images]
    held = tuple(each for each in found if each is not None)
    return Inventory(held=held, skipped=len(found) - len(held))


# -- docker and podman ----------------------------------------------------------------------------------------------


def _inspected(entries: Iterable[Any]) -> Inventory:
    """``docker inspect`` and ``podman inspect`` of containers and images; other things are skipped."""
    workloads: list[Workload] = []
    held: list[Held] = []
    skipped = 0
    for entry in entries:
        match entry:
            case {"State": str(), "Image": _}:
                workloads.append(_listed(entry))
            case {"State": _, "Image": _}:
                workloads.append(_container(entry))
            case {"RepoDigests": _, "Id": _} if (image := _image(entry, "Id", "RepoTags", "RepoDigests")) is not None:
                held.append(image)
            case _:
                skipped += 1
    return Inventory(tuple(workloads), tuple(held), skipped)


def _container(entry: Mapping[str, Any]) -> Workload:
    """One container: docker's, or podman's, which gives the whole name of its image, too."""
    state, config = _object(entry, "State"), _object(entry, "Config")
    podman = "ImageName" in entry
    given = [_text(entry, "Image"), _text(entry, "ImageDigest"), _text(_object(entry, "ImageManifestDescriptor"), "digest")]
    claims = _claims(given)
    labels = _object(config, "Labels")
    status = _text(state, "Status")
    return Workload(
        Source.PODMAN if podman else Source.DOCKER,
        _text(labels, "io.kubernetes.pod.namespace"),
        _text(labels, "io.kubernetes.pod.name"),
        _text(labels, "io.kubernetes.container.name") or _text(entry, "Name").lstrip("/"),
        "container",
        _text(entry, "Id"),
        (_text(entry, "ImageName") if podman else "") or _text(config, "Image"),
        claims,
        status not in _ENDED if status else state.get("Running") is not False,
        "" if claims else "it was not made from an image, or its Image holds no ID",
    )


def _listed(entry: Mapping[str, Any]) -> Workload:
    """One line of a listing: ``podman ps --format json``, or what the socket of either answers to ``/containers/json``."""
    claims = _claims([_text(entry, "ImageID")])
    names = _texts(entry, "Names")
    return Workload(
        Source.PODMAN if "PodName" in entry else Source.DOCKER,
        "",
        _text(entry, "PodName"),
        names[0].lstrip("/") if names else "",
        "container",
        _text(entry, "Id"),
        _text(entry, "Image"),
        claims,
        _text(entry, "State") not in _ENDED,
        "" if claims else "its ImageID holds no ID",
    )


def _image(entry: Mapping[str, Any], id_: str, tags: str, digests: str) -> Held | None:
    """One image that a node has; None where its ID is none."""
    identifier = _identifier(_text(entry, id_))
    if identifier is None:
        return None
    names = tuple(each for each in _texts(entry, tags) if "<none>" not in each)
    # Podman has the manifest's digest besides, docker that of what its image store holds under this ID.
    more = [_text(entry, "Digest"), _text(_object(entry, "Descriptor"), "digest")]
    return Held(identifier, names, _claims([*_texts(entry, digests), *more]))


# -- values ---------------------------------------------------------------------------------------------------------


def _claims(given: Iterable[str]) -> tuple[Claim, ...]:
    """The digests in these texts: ``name@digest``, a digest, or the hex of an image's ID, each with or without a scheme."""
    found: dict[Claim, None] = {}
    for text in given:
        bare = _SCHEME.sub("", text, count=1)
        name, at, digest = bare.rpartition("@")
        if not at and (identifier := _identifier(bare)) is not None:
            found[Claim("", identifier)] = None
        elif at and "<none>" not in name:
            try:
                found[Claim(name, Digest.parse(digest))] = None
            except MalformedName:
                continue  # then it claims nothing
    return tuple(found)


def _identifier(text: str) -> Digest | None:
    """An image's ID: a digest, or its hex."""
    try:
        return Digest.parse(f"sha256:{text}" if _HEX.fullmatch(text) else text)
    except MalformedName:
        return None


def _object(value: object, key: str) -> Mapping[str, Any]:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def _list(value: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """The objects of a list. What is none is one without anything in it: a container nobody knows anything of."""
    found = value.get(key)
    return [each if isinstance(each, dict) else {} for each in found] if isinstance(found, list) else []


def _texts(value: Mapping[str, Any], key: str) -> list[str]:
    found = value.get(key)
    texts = [each for each in found if isinstance(each, str)] if isinstance(found, list) else []
    return [each[:_MAX_TEXT] for each in texts[:_MAX_CLAIMS]]


def _text(value: Mapping[str, Any], key: str) -> str:
    found = value.get(key)
    return found[:_MAX_TEXT] if isinstance(found, str) else ""
