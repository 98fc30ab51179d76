"""What container tools say of a container: its first process, and its image. Pure: what they print comes in, values go out.

What a runtime says of a container's image is a name to look up, never a reason to trust.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from proxy.errors import Unexaminable
from storage.digest import Digest
from storage.errors import MalformedName

#: Most bytes of an answer.
MAX_ANSWER = 8 << 20
_PID = re.compile(r"[0-9]{1,10}", re.ASCII)
INSPECTIONS: Mapping[str, Sequence[str]] = {
    "docker": ("docker", "inspect", "--type", "container", "--"),
    "podman": ("podman", "inspect", "--type", "container", "--"),
    "crictl": ("crictl", "inspect", "--output", "json"),
}


@dataclass(frozen=True, slots=True)
class Container:
    """A running container. ``image`` is a name as its runtime was given it, ``digest`` what was pulled under it, if it says."""

    pid: int
    image: str | None = None
    digest: Digest | None = None


def inspected(tool: str, answer: bytes) -> Container:
    """Read what a tool's ``inspect`` prints. Raises :class:`Unexaminable`."""
    try:
        document = json.loads(answer)
        match tool:
            case "crictl":
                return _of_crictl(document)
            case "docker":
                found = document[0]
                return _running(found["State"]["Pid"], found["Config"]["Image"], None)
            case _:
                found = document[0]
                return _running(found["State"]["Pid"], found["ImageName"], found.get("ImageDigest"))
    except (ValueError, KeyError, IndexError, TypeError, RecursionError, AttributeError) as error:
        raise Unexaminable(f"what {tool} says of the container cannot be read: {type(error).__name__}: {error}") from error


def _of_crictl(document: Any) -> Container:
    status = document["status"]
    reference = status.get("imageRef")
    digest = reference.rpartition("@")[2] if isinstance(reference, str) and "@" in reference else None
    image = status.get("image", {}).get("userSpecifiedImage") or status.get("image", {}).get("image")
    return _running(document["info"]["pid"], image, digest)


def docker_digest(answer: bytes, image: str) -> Digest | None:
    """Of ``docker image inspect``: under which digest the image was pulled from the repository that ``image`` names."""
    try:
        known = json.loads(answer)[0]["RepoDigests"]
        names = [each.partition("@") for each in known if isinstance(each, str)]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise Unexaminable(f"what docker says of the image cannot be read: {type(error).__name__}: {error}") from error
    repository = _repository(image)
    for name, _, digest in names:
        if name == repository:
            return _digest(digest)
    return None


def ctr_task(answer: bytes, container: str) -> int | None:
    """Of ``ctr tasks ls``: the process of a running task; None where there is none of that name."""
    for line in answer.decode("utf-8", "replace").splitlines():
        fields = line.split()
        if len(fields) == 3 and fields[0] == container and _PID.fullmatch(fields[1]) and fields[2] == "RUNNING":
            return int(fields[1])
    return None


def ctr_image(answer: bytes) -> str | None:
    """Of ``ctr containers info``: the name of its image. Raises :class:`Unexaminable`."""
    try:
        image = json.loads(answer)["Image"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Unexaminable(f"what ctr says of the container cannot be read: {type(error).__name__}: {error}") from error
    return image if isinstance(image, str) and image else None


def ctr_digest(answer: bytes, image: str) -> Digest | None:
    """Of ``ctr images ls``: what an image's name stands for."""
    for line in answer.decode("utf-8", "replace").splitlines():
        fields = line.split()
        if len(fields) > 2 and fields[0] == image:
            return _digest(fields[2])
    return None


def _running(pid: object, image: object, digest: object) -> Container:
    if not isinstance(pid, int) or isinstance(pid, bool) or not 0 < pid < 1 << 31:
        raise Unexaminable("the container does not run")
    named = image if isinstance(image, str) and image else None
    return Container(pid, named, _digest(digest) if isinstance(digest, str) else None)


def _digest(text: str) -> Digest | None:
    try:
        return Digest.parse(text)
    except MalformedName:
        return None  # an ID of its own kind; the name is what there is then


def _repository(image: str) -> str:
    """An image's name without tag and digest."""
    name = image.partition("@")[0]
    head, slash, last = name.rpartition("/")
    return f"{head}{slash}{last.partition(':')[0]}"
