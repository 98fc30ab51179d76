"""The container clients of Debian, each with state of its own below a folder: pull, look at what was kept, remove it.

Every client names an image by the registry it lives in (``reg.example/acme/app:v1``); how that becomes a request to
Tagstone is the client's own matter: a prefix name, a mirror, a registries.conf, a hosts.toml.
"""

from __future__ import annotations

import abc
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from storage.digest import Digest
from tests.integration.pictures import HERE, here
from tests.integration.processes import Process
from tests.simulator.images import Image, platform_of
from tests.tools import need

_TIMEOUT = 90.0
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class Pull:
    """How a pull ended, and everything that the client said to the person who asked for it."""

    ok: bool
    output: str


def need_root(program: str) -> str:
    """Path of a program that only root can run; without either the test skips on a laptop and fails when ``CI=true``."""
    if os.geteuid() == 0:
        return need(program)
    if os.environ.get("CI") == "true":
        pytest.fail(f"{program} needs root, and CI=true asks for every client", pytrace=False)
    pytest.skip(f"{program} needs root")


def _run(command: Sequence[str], env: Mapping[str, str] | None = None) -> Pull:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
        timeout=_TIMEOUT,
        check=False,
    )
    return Pull(done.returncode == 0, _COLOURS.sub("", done.stdout + done.stderr))


def _said(command: Sequence[str], env: Mapping[str, str] | None = None) -> str:
    done = _run(command, env)
    assert done.ok, (command, done.output)
    return done.output


class Client(abc.ABC):
    """One client, set up in one way."""

    #: Registry that it pulls from in most tests, and the one for tests that take the upstream away.
    registry = "reg.example"
    fragile = "gone.example"
    #: Whether the person who pulls is told what Tagstone said.
    explains = True

    @abc.abstractmethod
    def pull(self, name: str) -> Pull:
        """Pull ``registry/repository:tag``."""

    @abc.abstractmethod
    def digest(self, name: str) -> str:
        """The digest that it keeps with a pulled image: see :meth:`expects`."""

    @abc.abstractmethod
    def listing(self) -> str:
        """Everything it holds: names, digests, ids."""

    @abc.abstractmethod
    def read(self, name: str, path: str) -> bytes:
        """A file of a pulled image."""

    @abc.abstractmethod
    def remove(self, name: str) -> None:
        """Forget an image, if it has it."""

    def expects(self, image: Image) -> str:
        """What :meth:`digest` must be after a right pull of an index."""
        return str(image.digest)

    def holds(self, image: Image) -> bool:
        """Whether it kept anything of an index: itself, a child, a child's config."""
        listing = self.listing()
        digests = [image.digest, *(each for child in image.images for each in (child.digest, child.config.digest))]
        return any(digest.hex in listing for digest in digests)


class Skopeo(Client):
    """``skopeo copy`` to a folder, by prefix name: what this machine needs, or with ``--all`` every platform."""

    def __init__(self, folder: Path, proxy: str, *, everything: bool = False) -> None:
        self._program = need("skopeo")
        self._folder = folder
        self._proxy = proxy
        self._everything = everything
        folder.mkdir(parents=True)

    def pull(self, name: str) -> Pull:
        """``skopeo copy``."""
        self.remove(name)
        chosen = ("--all",) if self._everything else ()
        source = f"docker://{self._proxy}/{name}"
        return _run((self._program, "copy", *chosen, "--src-tls-verify=false", source, f"dir:{self._at(name)}"))

    def inspect(self, name: str) -> Pull:
        """``skopeo inspect``."""
        return _run((self._program, "inspect", "--tls-verify=false", f"docker://{self._proxy}/{name}"))

    def digest(self, name: str) -> str:
        """Of the manifest it wrote."""
        return str(Digest.of((self._at(name) / "manifest.json").read_bytes()))

    def expects(self, image: Image) -> str:
        """Without ``--all``, the child for this machine."""
        return str(image.digest if self._everything else here(image).digest)

    def listing(self) -> str:
        """Names of all files, and hashes of all manifests."""
        paths = [path for path in self._folder.rglob("*") if path.is_file()]
        hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.name.endswith("manifest.json")]
        return "\n".join([*hashes, *(path.name for path in paths)])

    def read(self, name: str, path: str) -> bytes:
        """From the layers."""
        folder = self._at(name)
        manifest = json.loads((folder / "manifest.json").read_bytes())
        if "manifests" in manifest:
            mine = next(each for each in manifest["manifests"] if each["platform"] == platform_of(HERE))
            manifest = json.loads((folder / f"{mine['digest'].partition(':')[2]}.manifest.json").read_bytes())
        for layer in manifest["layers"]:
            with gzip.open(folder / layer["digest"].partition(":")[2]) as plain, tarfile.open(fileobj=plain) as tar:
                if path in tar.getnames() and (file := tar.extractfile(path)) is not None:
                    return file.read()
        raise FileNotFoundError(path)

    def remove(self, name: str) -> None:
        """Delete its folder."""
        if self._at(name).exists():
            shutil.rmtree(self._at(name))

    def _at(self, name: str) -> Path:
        return self._folder / re.sub(r"[/:@]", "_", name)


class Podman(Client):
    """``podman pull`` by prefix name, or by registries.conf with ``location``."""

    def __init__(self, folder: Path, proxy: str, *, locations: Sequence[str] = ()) -> None:
        self._folder = folder
        self._prefix = "" if locations else f"{proxy}/"
        folder.mkdir(parents=True)
        conf = folder / "registries.conf"
        conf.write_text(
            "unqualified-search-registries = []\n"
            + "".join(
                f'[[registry]]\nprefix = "{each}"\nlocation = "{proxy}/{each}"\ninsecure = true\n' for each in (locations or ())
            )
        )
        self._env = {"CONTAINERS_REGISTRIES_CONF": str(conf)}
        self._command = (
            *(need("podman"), "--root", str(folder / "g"), "--runroot", str(folder / "r"), "--tmpdir", str(folder / "t")),
            *("--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none"),
        )

    def pull(self, name: str) -> Pull:
        """``podman pull``."""
        options = ("--tls-verify=false",) if self._prefix else ()
        return _run((*self._command, "pull", *options, self._prefix + name), self._env)

    def digest(self, name: str) -> str:
        """``Digest`` of the image."""
        return self._podman("image", "inspect", "--format", "{{.Digest}}", self._prefix + name).strip()

    def listing(self) -> str:
        """All images."""
        return self._podman("images", "--all", "--format", "json")

    def read(self, name: str, path: str) -> bytes:
        """From a mount of the image."""
        root = Path(self._podman("image", "mount", self._prefix + name).strip())
        try:
            return (root / path).read_bytes()
        finally:
            self._podman("image", "unmount", self._prefix + name)

    def remove(self, name: str) -> None:
        """``podman rmi``."""
        if self._prefix + name in self.listing():
            self._podman("rmi", self._prefix + name)

    def _podman(self, *words: str) -> str:
        return _said((*self._command, *words), self._env)


class Containerd(Process):
    """A containerd of one's own: no CRI, native snapshotter."""

    def __init__(self, folder: Path) -> None:
        self.ctr = (need("ctr"), "--address", str(folder / "s"))
        super().__init__("containerd", (need_root("containerd"), "--config", "config.toml"), folder)
        (folder / "config.toml").write_text(
            f'version = 2\nroot = "{folder}/root"\nstate = "{folder}/state"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\n  address = "{folder}/s"\n'
        )

    def ready(self) -> bool:
        """Whether ``ctr`` can talk to it."""
        return (self.folder / "s").exists() and _run((*self.ctr, "version")).ok


#: Fail-closed on containerd 1.6 and later: whatever the mirror refuses stays refused.
HOSTS_TOML = 'server = "http://{proxy}"\ncapabilities = ["pull", "resolve"]\n[host]\n'


class Ctr(Client):
    """``ctr images pull`` with a hosts.toml per registry: the registry is named by ``?ns=``."""

    def __init__(self, folder: Path, daemon: Containerd, proxy: str, registries: Sequence[str]) -> None:
        self._hosts = folder / "certs.d"
        self._mount = folder / "mount"
        self._daemon = daemon
        for each in registries:
            (self._hosts / each).mkdir(parents=True)
            (self._hosts / each / "hosts.toml").write_text(HOSTS_TOML.format(proxy=proxy))

    def pull(self, name: str) -> Pull:
        """``ctr images pull``."""
        return _run((*self._daemon.ctr, "images", "pull", "--snapshotter", "native", "--hosts-dir", str(self._hosts), name))

    def digest(self, name: str) -> str:
        """Target of the image."""
        lines = [line.split() for line in _said((*self._daemon.ctr, "images", "ls")).splitlines()]
        return next(fields[2] for fields in lines if fields[0] == name)

    def listing(self) -> str:
        """All images, and all content."""
        return _said((*self._daemon.ctr, "images", "ls")) + _said((*self._daemon.ctr, "content", "ls"))

    def read(self, name: str, path: str) -> bytes:
        """From a mount of the image."""
        self._mount.mkdir(exist_ok=True)
        _said((*self._daemon.ctr, "images", "mount", "--snapshotter", "native", name, str(self._mount)))
        try:
            return (self._mount / path).read_bytes()
        finally:
            _said((*self._daemon.ctr, "images", "unmount", "--rm", str(self._mount)))

    def remove(self, name: str) -> None:
        """``ctr images rm``, with what nothing else needs."""
        _said((*self._daemon.ctr, "images", "rm", "--sync", name))


class Dockerd(Process):
    """A dockerd of one's own (it brings its own containerd): vfs, no network, Tagstone as the mirror of Docker Hub.

    What it would fetch from anywhere but 127.0.0.1 it asks ``way_out`` for.
    """

    def __init__(self, folder: Path, proxy: str, way_out: str) -> None:
        self._socket = folder / "s"
        self.docker = (need("docker"), "--host", f"unix://{self._socket}")
        #: for the client: no credentials or settings of whoever runs this
        self.env = {"DOCKER_CONFIG": str(folder / "client")}
        command = (
            *(need_root("dockerd"), "--config-file", "daemon.json", "--data-root", f"{folder}/d", "--exec-root", f"{folder}/x"),
            *("--host", f"unix://{self._socket}", "--pidfile", f"{folder}/pid", "--storage-driver", "vfs"),
            *("--iptables=false", "--bridge=none", "--insecure-registry", proxy, "--registry-mirror", f"http://{proxy}"),
        )
        environment = {"HTTP_PROXY": way_out, "HTTPS_PROXY": way_out, "NO_PROXY": "127.0.0.1"}
        super().__init__("dockerd", command, folder, env=environment | {name.lower(): v for name, v in environment.items()})
        (folder / "daemon.json").write_text("{}")

    def ready(self) -> bool:
        """Whether it answers a ping."""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(5)
                connection.connect(str(self._socket))
                connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return b" 200 " in connection.recv(1000).split(b"\r\n")[0]
        except OSError:
            return False


class Docker(Client):
    """``docker pull`` by prefix name."""

    def __init__(self, daemon: Dockerd, prefix: str) -> None:
        self.daemon = daemon
        self._prefix = prefix

    def pull(self, name: str) -> Pull:
        """``docker pull``."""
        return _run((*self.daemon.docker, "pull", self._local(name)), self.daemon.env)

    def digest(self, name: str) -> str:
        """What it was pulled as."""
        local = self._local(name)
        known: list[str] = json.loads(self._docker("image", "inspect", "--format", "{{json .RepoDigests}}", local))
        repository = local.rpartition(":")[0]
        return next(each.partition("@")[2] for each in known if each.startswith(f"{repository}@"))

    def listing(self) -> str:
        """All images."""
        return self._docker("images", "--all", "--digests", "--no-trunc")

    def read(self, name: str, path: str) -> bytes:
        """Copied from a container that never runs."""
        container = self._docker("create", "--network", "none", self._local(name)).strip()
        try:
            copied = subprocess.run(
                (*self.daemon.docker, "cp", f"{container}:/{path}", "-"),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env={**os.environ, **self.daemon.env},
                timeout=_TIMEOUT,
                check=True,
            )
        finally:
            self._docker("rm", container)
        with tarfile.open(fileobj=io.BytesIO(copied.stdout)) as tar:
            file = tar.extractfile(path.rpartition("/")[2])
            assert file is not None
            return file.read()

    def remove(self, name: str) -> None:
        """``docker rmi``."""
        if _run((*self.daemon.docker, "image", "inspect", self._local(name)), self.daemon.env).ok:
            self._docker("rmi", self._local(name))

    def _local(self, name: str) -> str:
        return self._prefix + name

    def _docker(self, *words: str) -> str:
        return _said((*self.daemon.docker, *words), self.daemon.env)


class DockerMirror(Docker):
    """``docker pull`` of Docker Hub's short names, with Tagstone in ``registry-mirrors``.

    dockerd takes a refusal for an outage of the mirror and tries Docker Hub: what is refused comes from there, where it can.
    """

    registry = fragile = "docker.io"
    explains = False

    def __init__(self, daemon: Dockerd) -> None:
        super().__init__(daemon, "")

    def _local(self, name: str) -> str:
        return name.removeprefix("docker.io/")
