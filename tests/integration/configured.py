"""Real clients with the configuration that ``tagstone client`` installed for them, and nothing else.

Each has a tree of its own that holds its ``/etc``; its programs run in a mount namespace in which that tree lies over the
machine's. So they read the very paths that are installed, and the machine's own files are neither changed nor in the way of
anything that is written. Debian's configuration shines through, as it would on a node.
"""

from __future__ import annotations

import abc
import json
import os
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tests.integration.clients import Pull, need_root
from tests.integration.processes import Process, Tagstone, tagstone
from tests.simulator.images import Image
from tests.tools import need

_TIMEOUT = 90.0
_OVERLAY = 'mount -t overlay overlay -o "lowerdir=/etc,upperdir=$0/etc,workdir=$0/work" /etc && exec "$@"'


class Node:
    """A machine of one's own as far as ``/etc`` goes: ``root`` stands for ``/``."""

    def __init__(self, root: Path, env: Mapping[str, str]) -> None:
        self.root = root
        self.env = {**os.environ, "HOME": str(root / "home"), **env}
        for name in ("etc", "work", "home"):
            (root / name).mkdir(parents=True)

    def write(self, path: str, text: str) -> None:
        """Put a file where its client has it."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def install(self, client: str, proxy: Tagstone, *words: str) -> dict[str, Any]:
        """``tagstone client CLIENT --write``; what it says."""
        url = f"http{'s' if proxy.tls else ''}://{proxy.host}"
        command = (
            tagstone(),
            "client",
            client,
            "--config",
            str(proxy.config),
            "--proxy",
            url,
            "--write",
            str(self.root),
            "--json",
        )
        done = subprocess.run((*command, *words), capture_output=True, text=True, timeout=_TIMEOUT, check=False)
        assert done.returncode == 0, (done.stdout, done.stderr)
        said: dict[str, Any] = json.loads(done.stdout)
        assert said["written"]
        return said

    def command(self, *words: str) -> tuple[str, ...]:
        """A command that sees this machine's ``/etc``; the process is the command's own."""
        return (need_root("unshare"), "--mount", "sh", "-c", _OVERLAY, str(self.root), *words)

    def run(self, *words: str) -> Pull:
        """Run such a command."""
        done = subprocess.run(
            self.command(*words),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self.env,
            timeout=_TIMEOUT,
            check=False,
        )
        return Pull(done.returncode == 0, done.stdout + done.stderr)

    def said(self, *words: str) -> str:
        """What such a command prints; it must succeed."""
        done = self.run(*words)
        assert done.ok, (words, done.output)
        return done.output


class Configured(abc.ABC):
    """A client on a node."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def name(self, image: str) -> str:
        """How a person names an image to it: as ever, where the configuration lets them."""
        return image

    @abc.abstractmethod
    def pull(self, image: str) -> Pull:
        """Pull an image by the name that it has in its registry."""

    @abc.abstractmethod
    def listing(self) -> str:
        """Everything that it holds: names, digests, ids."""

    def holds(self, image: Image) -> bool:
        """Whether it kept anything of an index: itself, a child, a child's config."""
        listing = self.listing()
        digests = [image.digest, *(each for child in image.images for each in (child.digest, child.config.digest))]
        return any(digest.hex in listing for digest in digests)


class ContainerdDaemon(Process):
    """The node's containerd, with the configuration that lies in ``/etc/containerd``."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.socket = node.root / "s"
        super().__init__("containerd", node.command(need_root("containerd")), node.root, env=node.env)

    @staticmethod
    def settings(root: Path) -> str:
        """A config.toml that keeps it apart from every other containerd; it says nothing of registries."""
        cri = 'plugins."io.containerd.grpc.v1.cri"'
        return (
            f'version = 2\nroot = "{root}/c"\nstate = "{root}/state"\n[grpc]\n  address = "{root}/s"\n'
            f'[{cri}]\n  disable_tcp_service = true\n[{cri}.containerd]\n  snapshotter = "native"\n'
        )

    def ready(self) -> bool:
        """Whether ``ctr`` can talk to it."""
        return self.socket.exists() and self.ctr("version").ok

    def ctr(self, *words: str, namespace: str = "default") -> Pull:
        """Run ``ctr``."""
        return self.node.run(need("ctr"), "--address", str(self.socket), "--namespace", namespace, *words)

    def everything(self, namespace: str) -> str:
        """Images and content."""
        found = self.ctr("images", "ls", namespace=namespace), self.ctr("content", "ls", namespace=namespace)
        assert all(each.ok for each in found), found
        return "".join(each.output for each in found)


class Ctr(Configured):
    """``ctr images pull``, which has to be told where hosts.toml files are."""

    def __init__(self, daemon: ContainerdDaemon) -> None:
        super().__init__(daemon.node)
        self._daemon = daemon

    def pull(self, image: str) -> Pull:
        """With the folder that was installed."""
        options = ("--snapshotter", "native", "--hosts-dir", "/etc/containerd/certs.d")
        return self._daemon.ctr("images", "pull", *options, image)

    def listing(self) -> str:
        """Of its namespace."""
        return self._daemon.everything("default")


class Cri(Configured):
    """What a kubelet does: ``PullImage`` of the container runtime interface (gRPC in its plain form: one framed message)."""

    def __init__(self, daemon: ContainerdDaemon) -> None:
        super().__init__(daemon.node)
        self._daemon = daemon

    def pull(self, image: str) -> Pull:
        """``runtime.v1.ImageService/PullImage`` with an image and nothing else."""
        inner = _field(image.encode())
        message = _field(inner)
        (self.node.root / "request").write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
        done = self.node.run(
            *(need("curl"), "--silent", "--show-error", "--http2-prior-knowledge", "--unix-socket", str(self._daemon.socket)),
            *("--header", "content-type: application/grpc", "--header", "te: trailers", "--include", "--output", "-"),
            *("--max-time", str(int(_TIMEOUT)), "--data-binary", f"@{self.node.root}/request"),
            "http://localhost/runtime.v1.ImageService/PullImage",
        )
        assert "grpc-status: " in done.output, done.output
        return Pull("grpc-status: 0" in done.output, unquote(done.output))

    def listing(self) -> str:
        """Of the namespace that Kubernetes has."""
        return self._daemon.everything("k8s.io")


def _field(value: bytes) -> bytes:
    """Field 1 of a protobuf message, its length in one byte."""
    assert len(value) < 128
    return b"\x0a" + bytes([len(value)]) + value


class DockerDaemon(Process):
    """The node's dockerd, with the daemon.json that lies in ``/etc/docker``."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.socket = node.root / "d.sock"
        options = ("--iptables=false", "--bridge=none", "--storage-driver", "vfs", "--pidfile", str(node.root / "pid"))
        state = ("--data-root", str(node.root / "d"), "--exec-root", str(node.root / "x"), "--host", f"unix://{self.socket}")
        super().__init__("dockerd", node.command(need_root("dockerd"), *options, *state), node.root, env=node.env)

    def ready(self) -> bool:
        """Whether it answers a ping."""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(5)
                connection.connect(str(self.socket))
                connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return b" 200 " in connection.recv(1000).split(b"\r\n")[0]
        except OSError:
            return False

    def docker(self, *words: str) -> Pull:
        """Run ``docker``."""
        return self.node.run(need("docker"), "--host", f"unix://{self.socket}", *words)


class Docker(Configured):
    """``docker pull`` by names with Tagstone's prefix: what the graph store can."""

    def __init__(self, daemon: DockerDaemon, prefix: str) -> None:
        super().__init__(daemon.node)
        self._daemon = daemon
        self._prefix = prefix

    def name(self, image: str) -> str:
        """With the prefix."""
        return self._prefix + image

    def pull(self, image: str) -> Pull:
        """``docker pull``."""
        return self._daemon.docker("pull", self.name(image))

    def listing(self) -> str:
        """All images."""
        found = self._daemon.docker("images", "--all", "--digests", "--no-trunc")
        assert found.ok, found.output
        return found.output


class Podman(Configured):
    """``podman pull``."""

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        root = node.root
        self._command = (
            *(need_root("podman"), "--root", str(root / "g"), "--runroot", str(root / "r"), "--tmpdir", str(root / "t")),
            *("--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none"),
        )

    def pull(self, image: str) -> Pull:
        """``podman pull``."""
        return self.node.run(*self._command, "pull", image)

    def listing(self) -> str:
        """All images."""
        return self.node.said(*self._command, "images", "--all", "--digests", "--no-trunc", "--format", "json")


class Skopeo(Configured):
    """``skopeo copy`` to a folder: it reads what podman reads."""

    def pull(self, image: str) -> Pull:
        """Every platform."""
        target = self.node.root / "copied"
        return self.node.run(need_root("skopeo"), "copy", "--all", f"docker://{image}", f"dir:{target}")

    def listing(self) -> str:
        """Names of all files, which are digests."""
        folder = self.node.root / "copied"
        names = [path.name for path in folder.rglob("*")]
        return "\n".join([*names, *(path.read_text() for path in folder.glob("*manifest.json"))])
