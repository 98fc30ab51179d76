"""What runs, held against what was approved: real containers of an image that was pulled through a running Tagstone."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from storage.digest import Digest
from tests.integration.clients import Client, Containerd, need_root
from tests.integration.conftest import Upstream
from tests.integration.nodes import podman_env
from tests.integration.pictures import HERE, busybox
from tests.integration.processes import Tagstone, tagstone, until
from tests.simulator import images
from tests.simulator.images import Blob, Image
from tests.simulator.trees import Put, archive, file, folder, hardlink, symlink
from tests.tools import PATIENCE, need

pytestmark = pytest.mark.client
NAME = "reg.example/acme/drift"
_TIMEOUT = 180.0
_TURN = itertools.count()
LAYERS: list[Callable[[], list[Put]]] = [
    lambda: [
        *(folder(name) for name in ("bin", "etc", "usr", "usr/bin", "proc", "sys", "dev", "tmp")),
        file("bin/busybox", busybox(), 0o755),
        hardlink("bin/sh", "bin/busybox", 0o755),
        symlink("usr/bin/env", "/bin/busybox"),
        file("etc/app.conf", b"mode = safe\n"),
        file("etc/motd", b"welcome\n"),
        file("etc/old", b"old\n"),
        folder("cache"),
        file("cache/a", b"a"),
    ],
    lambda: [folder("etc"), file("etc/.wh.old"), folder("cache", 0o700), file("cache/.wh..wh..opq"), file("cache/b", b"b")],
]


def drifting() -> Image:
    """An image that sleeps, of two layers with hard links and whiteouts."""
    plain = [archive(layer()) for layer in LAYERS]
    blobs = [Blob(images.OCI_LAYER, gzip.compress(each, 1, mtime=0)) for each in plain]
    document = {
        **images.platform_of(HERE),
        "config": {"Cmd": ["/bin/busybox", "sleep", "1000"]},
        "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(each)) for each in plain]},
    }
    config = Blob(images.OCI_CONFIG, images.encode(document))
    manifest = {
        "schemaVersion": 2,
        "mediaType": images.OCI_MANIFEST,
        "config": config.entry(),
        "layers": [blob.entry() for blob in blobs],
    }
    return Image(images.OCI_MANIFEST, images.encode(manifest), (config, *blobs))


@pytest.fixture(scope="module")
def image(upstream: Upstream) -> Image:
    """It is signed, and upstream."""
    return upstream.signed("acme/drift", "v1", drifting())


@dataclass(frozen=True, slots=True)
class Running:
    """A container that runs: how a command is run in it (``{turn}``: a new number each time), and what finds it."""

    name: str
    runtime: str
    exec: tuple[str, ...]
    env: Mapping[str, str]
    pid: int

    def run(self, script: str) -> None:
        """Run a shell's words in it."""
        words = (word.replace("{turn}", str(next(_TURN))) for word in self.exec)
        command(*words, "/bin/busybox", "sh", "-c", script, env=self.env)


def command(*words: str, env: Mapping[str, str] | None = None) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
        timeout=_TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


@contextmanager
def by_podman(base: Path, proxy: Tagstone) -> Iterator[Running]:
    """A container of podman's, pulled by a name of Tagstone's."""
    need_root("runc")
    podman, env = need("podman"), podman_env(base / "drift-p")
    name = f"{proxy.host}/{NAME}:v1"
    command(podman, "pull", "--tls-verify=false", name, env=env)
    # Limits as they are here: to raise them takes a right that not every machine gives.
    limits = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
    started = command(podman, "--runtime", "runc", "run", "--detach", "--network", "none", *limits, name, env=env).strip()
    try:
        pid = int(command(podman, "inspect", "--format", "{{.State.Pid}}", started, env=env))
        yield Running(started, "podman", (podman, "--runtime", "runc", "exec", started), env, pid)
    finally:
        command(podman, "--runtime", "runc", "rm", "--force", "--time", "0", started, env=env)


@contextmanager
def by_containerd(daemon: Containerd, client: Client) -> Iterator[Running]:
    """A container of containerd's, pulled through the mirror."""
    pulled = client.pull(f"{NAME}:v1")
    assert pulled.ok, pulled.output
    name = f"tagstone-{secrets.token_hex(6)}"  # runc knows the containers of the whole machine by their names
    command(*daemon.ctr, "run", "--detach", "--snapshotter", "native", f"{NAME}:v1", name)
    try:
        listed = command(*daemon.ctr, "tasks", "ls").splitlines()
        pid = next(int(line.split()[1]) for line in listed if line.split()[0] == name)
        env = {"CONTAINERD_ADDRESS": str(daemon.folder / "s")}
        yield Running(name, "ctr", (*daemon.ctr, "tasks", "exec", "--exec-id", "drift-{turn}", name), env, pid)
    finally:
        command(*daemon.ctr, "tasks", "rm", "--force", name)
        command(*daemon.ctr, "containers", "rm", name)


@pytest.fixture(params=["podman", "containerd"])
def running(
    request: pytest.FixtureRequest, base: Path, proxy: Tagstone, image: Image, client_of: Callable[[str], Client]
) -> Iterator[Running]:
    """A running container of the image."""
    del image
    started = (
        by_podman(base, proxy)
        if request.param == "podman"
        else by_containerd(request.getfixturevalue("containerd"), client_of("ctr"))
    )
    with started as container:
        yield container


def drift(proxy: Tagstone, container: Running, *words: str, code: int) -> Any:
    """``tagstone drift … --json``."""
    done = subprocess.run(
        (tagstone(), "drift", *words, "--json", "--config", str(proxy.config)),
        capture_output=True,
        text=True,
        env={**os.environ, **container.env},
        timeout=_TIMEOUT,
        check=False,
    )
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return json.loads(done.stdout)


def rootfs(proxy: Tagstone, container: Running, *words: str, code: int) -> Any:
    """``tagstone drift rootfs`` of the container's root."""
    return drift(proxy, container, "rootfs", f"{NAME}:v1", f"/proc/{container.pid}/root", *words, code=code)


def processes(proxy: Tagstone, container: Running, *words: str, code: int) -> Any:
    """``tagstone drift processes`` of the container, by its name."""
    which = ("--container", container.name, "--runtime", container.runtime)
    return drift(proxy, container, "processes", *which, *words, code=code)


def test_files_of_a_real_container(proxy: Tagstone, running: Running) -> None:
    """Untouched it is clean; an added program, a changed file and a deleted one are found, and nothing else."""
    clean = rootfs(proxy, running, code=0)
    assert clean["findings"] == []
    assert clean["unread"] == []
    assert {"/proc", "/sys", "/dev"} <= set(clean["mounts"])
    running.run(
        "echo '#!/bin/sh' > /usr/bin/implant; chmod 755 /usr/bin/implant; echo 'mode = fast' > /etc/app.conf; rm /etc/motd"
    )
    found = rootfs(proxy, running, code=1)
    assert [(each["change"], each["path"], each["aspects"]) for each in found["findings"]] == [
        ("changed", "/etc/app.conf", ["content"]),
        ("missing", "/etc/motd", []),
        ("added", "/usr/bin/implant", []),
    ]
    assert [(each["path"], each["kind"]) for each in found["executables"]] == [("/usr/bin/implant", "script")]


def test_processes_of_a_real_container(proxy: Tagstone, running: Running) -> None:
    """Untouched it is clean; what runs from a deleted file or from memory is found, and nothing else; without it, it is clean."""
    clean = processes(proxy, running, code=0)
    assert [each["program"] for each in clean["processes"]] == ["/bin/busybox"]
    assert clean["unread"] == []
    # busybox goes by the name that it is called by.
    running.run("cp /bin/busybox /tmp/busybox-gone; /tmp/busybox-gone sleep 1000 >/dev/null 2>&1 </dev/null &")
    until(lambda: "/tmp/busybox-gone" in programs(running))
    running.run("rm /tmp/busybox-gone")
    with from_memory(running.pid):
        until(lambda: "/memfd:implant" in programs(running))
        found = processes(proxy, running, code=1)
        assert sorted((each["wrong"], each["role"], each["path"]) for each in found["findings"]) == [
            ("deleted", "program", "/tmp/busybox-gone"),
            ("memory only", "program", "/memfd:implant"),
        ]
        by_pid = drift(proxy, running, "processes", "--pid", str(running.pid), "--image", f"{NAME}:v1", code=1)
        assert by_pid["findings"] == found["findings"]
        (deleted,) = [each for each in found["findings"] if each["wrong"] == "deleted"]
        assert deleted["note"].startswith("a layer has this content as /bin/")
    running.run(f"kill {inner(deleted['pid'])}")
    until(lambda: not {"/tmp/busybox-gone", "/memfd:implant"} & programs(running))
    assert processes(proxy, running, code=0)["findings"] == []


def programs(running: Running) -> set[str]:
    """What is executed in the namespace of a container's processes, deleted or not."""
    found = set()
    namespace = os.readlink(f"/proc/{running.pid}/ns/pid")
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.readlink(entry / "ns/pid") == namespace:
                found.add(os.readlink(entry / "exe").removesuffix(" (deleted)"))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def inner(pid: int) -> int:
    """What a process is called in its own namespace."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("NSpid:"))
    return int(line.split()[-1])


#: Enters the namespaces of a process, and executes what is open there as if it were busybox, in a child of its own.
_ENTER = """
import ctypes, os, sys
libc, pid, memory = ctypes.CDLL(None, use_errno=True), sys.argv[1], int(sys.argv[2])
namespaces = [os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY) for name in ("pid", "mnt")]
for namespace in namespaces:
    if libc.setns(namespace, 0) != 0:
        raise OSError(ctypes.get_errno(), "setns")
child = os.fork()
if child == 0:
    os.execve(memory, ["busybox", "sleep", "1000"], {})
print(child, flush=True)
os.waitpid(child, 0)
"""


@contextmanager
def from_memory(pid: int) -> Iterator[None]:
    """A program that runs in a container's namespaces and never was in any file there."""
    memory = os.memfd_create("implant", 0)
    try:
        os.write(memory, busybox())
        words = (sys.executable, "-c", _ENTER, str(pid), str(memory))
        with subprocess.Popen(words, pass_fds=(memory,), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as entered:
            assert entered.stdout is not None
            child = int(entered.stdout.readline())
            try:
                yield
            finally:
                os.kill(child, signal.SIGKILL)
                entered.wait(PATIENCE)
    finally:
        os.close(memory)
