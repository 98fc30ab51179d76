"""Finding a container's first process and its image, by whatever tool of this node knows it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

from proxy.drift.containers import INSPECTIONS, MAX_ANSWER, Container, ctr_digest, ctr_image, ctr_task, docker_digest, inspected
from proxy.drift.group import container_of, everyone, first_of, identity
from proxy.errors import MalformedRequest, Unexaminable
from storage.errors import MalformedName
from storage.reference import Reference

if TYPE_CHECKING:
    from proxy.configuration import Configuration

_TIMEOUT = 30.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", re.ASCII)


class Runtime(StrEnum):
    """Who is asked about a container."""

    AUTO = "auto"  #: whoever of these is installed and knows it, in this order
    DOCKER = "docker"
    PODMAN = "podman"
    CRICTL = "crictl"
    CTR = "ctr"
    CGROUP = "cgroup"  #: nobody: the names of control groups


def find(container: str, runtime: Runtime) -> Container:
    """The container with this ID or name. Raises :class:`Unexaminable`."""
    if not _NAME.fullmatch(container):
        raise Unexaminable(f"{container!r} is no container's ID or name")
    asked = [each for each in Runtime if each is not Runtime.AUTO] if runtime is Runtime.AUTO else [runtime]
    answers: list[str] = []
    for each in asked:
        try:
            found = _by_cgroup(container) if each is Runtime.CGROUP else _by_tool(each.value, container)
        except Unexaminable as error:
            answers.append(f"{each.value}: {error}")
            continue
        return found
    raise Unexaminable(f"no running container {container} is known here; {'; '.join(answers)}")


def of_process(pid: int, runtime: Runtime) -> Container:
    """The container that a process belongs to, by the names of its control groups; its process is this one."""
    try:
        process = identity(pid)
    except OSError as error:
        raise Unexaminable(f"process {pid} may not be looked at: {error.strerror or error}") from error
    if process is None:
        raise Unexaminable(f"there is no process {pid}")
    container = container_of(process)
    if container is None:
        raise Unexaminable(
            f"the control groups of process {pid} do not say which container it is of: name its image with --image"
        )
    found = find(container, runtime)
    return Container(pid, found.image, found.digest)


def _by_cgroup(container: str) -> Container:
    if len(container) < 12 or not set(container) <= set("0123456789abcdef"):
        raise Unexaminable("control groups are named after IDs, of which at least 12 characters are needed")
    pid = first_of(container, everyone())
    if pid is None:
        raise Unexaminable("no control group is named after it")
    return Container(pid)


def _by_tool(tool: str, container: str) -> Container:
    if tool == "ctr":
        return _by_ctr(container)
    found = inspected(tool, _asked(*INSPECTIONS[tool], container))
    if tool == "docker" and found.image is not None and found.digest is None:
        known = _asked("docker", "image", "inspect", "--", found.image)
        found = Container(found.pid, found.image, docker_digest(known, found.image))
    return found


def _by_ctr(container: str) -> Container:
    """containerd keeps containers in namespaces, which have to be looked through."""
    for namespace in _asked("ctr", "namespaces", "ls", "--quiet").decode("utf-8", "replace").split():
        ctr = ("ctr", "--namespace", namespace)
        pid = ctr_task(_asked(*ctr, "tasks", "ls"), container)
        if pid is not None:
            image = ctr_image(_asked(*ctr, "containers", "info", container))
            listed = b"" if image is None else _asked(*ctr, "images", "ls")
            return Container(pid, image, None if image is None else ctr_digest(listed, image))
    raise Unexaminable("no namespace has a running task of that name")


def _asked(*command: str) -> bytes:
    program = shutil.which(command[0])
    if program is None:
        raise Unexaminable("is not installed")
    try:
        done = subprocess.run(  # noqa: S603 (a fixed command; the container's name is checked, and is one word of it)
            (program, *command[1:]), stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unexaminable(f"does not answer: {error}") from error
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise Unexaminable(said[-1][:200] if said else f"ends with {done.returncode}")
    if len(done.stdout) > MAX_ANSWER:
        raise Unexaminable("says too much")
    return done.stdout


def references(container: Container, configuration: Configuration) -> Sequence[Reference]:
    """What the image of a container may be here: by what was pulled, then by its tag. Raises :class:`Unexaminable`."""
    if container.image is None:
        raise Unexaminable("nobody says which image it is of: name it with --image")
    try:
        written = Reference.parse(container.image, configuration.default_registry)
        repository = written.repository
        if repository.registry not in configuration.upstreams:
            from proxy.app import router_of

            # It may have been pulled by a name of this proxy: then it means what a pull would mean.
            router = router_of(configuration)
            behind = router.route(repository.name, None, repository.registry)
            if router.stands_for(repository.registry) is None and behind.name.endswith(repository.name):
                raise MalformedName(f"the registry {repository.registry} is not configured")
            repository = behind
    except (MalformedName, MalformedRequest) as error:
        raise Unexaminable(f"its image is called {container.image}, which means nothing here ({error}): use --image") from error
    digest = written.digest or container.digest
    found = [] if digest is None else [Reference(repository, None, digest)]
    return [*found, *([] if written.tag is None else [Reference(repository, written.tag)])]
