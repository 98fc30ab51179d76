"""What a Kubernetes API server asks: an AdmissionReview (admission.k8s.io/v1), and the images that its workload names. Pure.

Read strictly: JSON that means one thing, of bounded depth and size, and a workload of a kind that is known. Whatever is not as it
must be is a :class:`ReviewMalformed`, never a workload without images.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from proxy.errors import ManifestRefused, ReviewMalformed
from proxy.manifest import strict_json

VERSION = "admission.k8s.io/v1"
KIND = "AdmissionReview"
_DEPTH = 64
#: Most values in one review: a megabyte of empty lists costs tens of megabytes.
_MOST_VALUES = 300_000
#: Most images in one workload, each as often as it stands there: each of them is a line in the log.
_MOST_IMAGES = 1000
_MAX_UID = 256
_MAX_TOLD = 200

#: Where the pod is in each kind that has one: (group, kind) → steps to its ``spec``. All are of version v1.
PODS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("", "Pod"): ("spec",),
    ("", "PodTemplate"): ("template", "spec"),
    ("", "ReplicationController"): ("spec", "template", "spec"),
    ("apps", "Deployment"): ("spec", "template", "spec"),
    ("apps", "ReplicaSet"): ("spec", "template", "spec"),
    ("apps", "StatefulSet"): ("spec", "template", "spec"),
    ("apps", "DaemonSet"): ("spec", "template", "spec"),
    ("batch", "Job"): ("spec", "template", "spec"),
    ("batch", "CronJob"): ("spec", "jobTemplate", "spec", "template", "spec"),
}
#: The lists of a pod that name images → what their entries are called, and the steps to the image's name in each.
LISTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "initContainers": ("init container", ("image",)),
    "containers": ("container", ("image",)),
    "ephemeralContainers": ("ephemeral container", ("image",)),
    "volumes": ("volume", ("image", "reference")),
}
#: What subresources of these kinds are asked with: no image is in any of them.
_WITHOUT_IMAGES = frozenset({("", "Binding"), ("policy", "Eviction"), ("autoscaling", "Scale")})
#: Operations that bring no image in.
_HARMLESS = frozenset({"DELETE", "CONNECT"})
_JUDGED = frozenset({"CREATE", "UPDATE"})


class Way(StrEnum):
    """What is asked: whether it may be, or how it should be."""

    VALIDATE = "validate"
    MUTATE = "mutate"


@dataclass(frozen=True, slots=True)
class Named:
    """One image that a workload names. ``where`` is for people, ``pointer`` is RFC 6901; ``image`` is empty where none stands."""

    where: str
    pointer: str
    image: str


@dataclass(frozen=True, slots=True)
class Review:
    """One question. ``images`` are those to be judged: of an update only what is new or other than before.

    ``made``: a controller made this from a template of its own and will go on comparing the two, so that it must stay as it is;
    never so for a pod.
    """

    uid: str
    operation: str
    kind: str
    namespace: str
    name: str
    user: str
    dry_run: bool
    images: tuple[Named, ...]
    made: bool = False

    @property
    def workload(self) -> str:
        """``Deployment web/shop``."""
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


def read_review(body: bytes) -> Review:
    """Read a question. The caller has bounded ``len(body)``. Raises :class:`ReviewMalformed`."""
    if sum(map(body.count, (b",", b"[", b"{"))) > _MOST_VALUES:
        raise ReviewMalformed(f"the review has more than {_MOST_VALUES} values")
    try:
        document = strict_json(body, _DEPTH)
    except ManifestRefused as error:
        raise ReviewMalformed(f"this is no AdmissionReview: {told(str(error))}") from None
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise ReviewMalformed("this is no AdmissionReview")
    if document.get("apiVersion") != VERSION:
        version = told(str(document.get("apiVersion")))
        raise ReviewMalformed(f"{version} is not served: let admissionReviewVersions of the webhook be [v1]")
    request = document.get("request")
    uid = request.get("uid") if isinstance(request, dict) else None
    if not isinstance(request, dict) or not isinstance(uid, str) or not 0 < len(uid) <= _MAX_UID:
        raise ReviewMalformed("this AdmissionReview asks nothing: it has no request with a uid")
    try:
        return _review(uid, request)
    except ReviewMalformed as error:
        raise ReviewMalformed(str(error), uid) from None


def _review(uid: str, request: Mapping[str, Any]) -> Review:
    operation, kind = _text(request, "operation"), request.get("kind")
    if operation not in _HARMLESS | _JUDGED:
        raise ReviewMalformed(f"{told(operation)} is no operation that is known")
    if not isinstance(kind, dict):
        raise ReviewMalformed("the review does not say of which kind its object is")
    group, version, name = (_text(kind, key) for key in ("group", "version", "kind"))
    dry_run = request.get("dryRun")
    if dry_run is not None and not isinstance(dry_run, bool):
        raise ReviewMalformed("dryRun is neither true nor false")
    user = request.get("userInfo")
    thing, before = request.get("object"), request.get("oldObject")
    review = Review(
        uid,
        operation,
        name,
        _text(request, "namespace"),
        _text(request, "name") or _called(thing),
        _text(user, "username") if isinstance(user, dict) else "",
        bool(dry_run),
        (),
    )
    if operation in _HARMLESS or (group, name) in _WITHOUT_IMAGES:
        return review
    steps = PODS.get((group, name))
    if steps is None or version != "v1":
        written = told("/".join(filter(None, (group, version, name))))
        raise ReviewMalformed(f"{written} is no kind whose images are known here: take it out of the webhook's rules")
    if not isinstance(thing, dict) or thing.get("kind", name) != name:
        raise ReviewMalformed(f"the review brings no {name}")
    if operation == "UPDATE" and not isinstance(before, dict):
        raise ReviewMalformed(f"the review does not say what the {name} was before")
    known = frozenset(_known(before, steps)) if operation == "UPDATE" else frozenset()
    images = tuple(found for key, found in _images(thing, steps) if (key, found.image) not in known)
    if len(images) > _MOST_IMAGES:
        raise ReviewMalformed(f"the {name} names images in more than {_MOST_IMAGES} places")
    made = (group, name) != ("", "Pod") and _is_made(thing)
    return replace(review, images=images, made=made)


def _known(before: Any, steps: tuple[str, ...]) -> Iterator[tuple[tuple[str, str], str]]:
    """What each container's image was. Of something that cannot be read, nothing is known: all of it is judged anew."""
    try:
        found = list(_images(before, steps))
    except ReviewMalformed:
        return
    yield from ((key, named.image) for key, named in found)


def _images(thing: Mapping[str, Any], steps: tuple[str, ...]) -> Iterator[tuple[tuple[str, str], Named]]:
    """Every image of a workload, under its list and the name of its container or volume."""
    pod: Any = thing
    for step in steps:
        pod = pod.get(step) if isinstance(pod, dict) else None
    if not isinstance(pod, dict):
        raise ReviewMalformed(f"there is no pod at {'.'.join(steps)}")
    for listed, (called, inner) in LISTS.items():
        entries = pod.get(listed)
        if entries is None:
            continue
        if not isinstance(entries, list):
            raise ReviewMalformed(f"{listed} is not a list")
        for index, entry in enumerate(entries):
            if not isinstance(entry, dict):
                raise ReviewMalformed(f"{listed}[{index}] is not an object")
            name = _text(entry, "name")
            image: Any = entry
            if listed == "volumes" and entry.get("image") is None:
                continue  # a volume of another kind
            for step in inner:
                if not isinstance(image, dict):
                    raise ReviewMalformed(f"{listed}[{index}].{inner[0]} is not an object")
                image = image.get(step)
            if image is None:
                image = ""
            if not isinstance(image, str):
                raise ReviewMalformed(f"{listed}[{index}].{'.'.join(inner)} is not text")
            where = f'{called} "{told(name)}"'
            yield (listed, name), Named(where, pointer((*steps, listed, str(index), *inner)), image)


def _is_made(thing: Mapping[str, Any]) -> bool:
    """Whether a controller stands above an object (``metadata.ownerReferences[].controller``)."""
    metadata = thing.get("metadata")
    owners = metadata.get("ownerReferences") if isinstance(metadata, dict) else None
    return isinstance(owners, list) and any(isinstance(owner, dict) and owner.get("controller") is True for owner in owners)


def _called(thing: Any) -> str:
    """The name of an object that has not got one yet: ``generateName`` and a star."""
    metadata = thing.get("metadata") if isinstance(thing, dict) else None
    if not isinstance(metadata, dict):
        return ""
    return _text(metadata, "name") or (f"{prefix}*" if (prefix := _text(metadata, "generateName")) else "")


def _text(value: Mapping[str, Any], key: str) -> str:
    """A text that may be missing."""
    found = value.get(key)
    if found is not None and not isinstance(found, str):
        raise ReviewMalformed(f"{key} is not text")
    return found or ""


def told(text: str) -> str:
    """A stranger's text for people: one line of ASCII, cut."""
    return ascii(text[:_MAX_TOLD])[1:-1] + ("..." if len(text) > _MAX_TOLD else "")


# -- patches --------------------------------------------------------------------------------------------------------


def pointer(steps: Iterable[str]) -> str:
    """A JSON pointer (RFC 6901)."""
    return "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in steps)


def patch(changes: Iterable[tuple[Named, str]]) -> bytes:
    """A JSON patch (RFC 6902) that writes other names in place of these."""
    return json.dumps([{"op": "replace", "path": named.pointer, "value": name} for named, name in changes]).encode()
