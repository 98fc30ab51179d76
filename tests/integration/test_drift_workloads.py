"""``tagstone drift`` on real runtimes: containers run what is approved, what was approved before, and what nobody knows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.clients import Client, Containerd, Ctr, Docker, Dockerd, need_root
from tests.integration.conftest import Upstream
from tests.integration.nodes import podman_env
from tests.integration.pictures import here, picture
from tests.integration.processes import Tagstone
from tests.integration.test_drift import command
from tests.simulator.images import Image
from tests.tools import need

pytestmark = pytest.mark.client
NAME = "reg.example/acme/runs"
SLEEP = ("/bin/busybox", "sleep", "1000")
#: Limits as they are here: to raise them takes a right that not every machine gives.
LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")


@dataclass(frozen=True, slots=True)
class Published:
    """What is upstream: ``kept`` stays what it is, ``moved`` is overwritten later, ``unknown`` nobody pulls by Tagstone."""

    upstream: Upstream
    proxy: Tagstone
    runtime: str
    kept: Image
    moved: Image
    unknown: Image

    def name(self, tag: str) -> str:
        """An image of this runtime's own repository."""
        return f"{NAME}-{self.runtime}:{tag}"

    def overwrite(self) -> Image:
        """Let ``moved`` name another image, which an operator approves."""
        new = self.upstream.signed(f"acme/runs-{self.runtime}", "moved", picture(f"{self.runtime} new"))
        self.proxy.manifest(f"{NAME}-{self.runtime}", "moved")
        acted = self.proxy.run("pins", "approve", self.name("moved"), "--digest", str(new.digest), "--by", "olga")
        assert acted.returncode == 0, acted
        return new

    def drift(self, *words: str, code: int) -> dict[str, dict[str, Any]]:
        """``tagstone drift --json``: what is said of each container, by its name."""
        done = self.proxy.run("drift", *words, "--json")
        assert done.returncode == code, done
        return {each["container"]: each for each in json.loads(done.stdout)["workloads"]}


def published(upstream: Upstream, proxy: Tagstone, runtime: str) -> Published:
    """Three images in a repository of this runtime."""
    repository = f"acme/runs-{runtime}"
    kept, moved = (upstream.signed(repository, tag, picture(f"{runtime} {tag}")) for tag in ("kept", "moved"))
    unknown = upstream.push(repository, "unknown", picture(f"{runtime} unknown"))
    return Published(upstream, proxy, runtime, kept, moved, unknown)


def expected(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    """The standing of each container, by the last part of its name."""
    return {name.rpartition("-")[2]: each["status"] for name, each in found.items() if "drifting-" in name}


STANDINGS = {"kept": "approved", "moved": "overwritten-since", "unknown": "never-seen"}


@contextmanager
def on_containerd(daemon: Containerd, client: Client, world: Published, host: str) -> Iterator[None]:
    """Three containers of containerd's: the last image was pulled around the proxy, and given the name of another."""
    for tag in ("kept", "moved"):
        pulled = client.pull(world.name(tag))
        assert pulled.ok, pulled.output
    around = f"{host}/acme/runs-{world.runtime}:unknown"
    command(*daemon.ctr, "images", "pull", "--plain-http", "--snapshotter", "native", around)
    command(*daemon.ctr, "images", "tag", around, world.name("unknown"))
    with ExitStack() as exits:
        for tag in STANDINGS:
            name = f"drifting-{tag}"
            command(*daemon.ctr, "run", "--detach", "--snapshotter", "native", world.name(tag), name, *SLEEP)
            exits.callback(command, *daemon.ctr, "containers", "rm", name)
            exits.callback(command, *daemon.ctr, "tasks", "rm", "--force", name)
        yield


def test_containerd(
    upstream: Upstream, proxy: Tagstone, containerd: Containerd, client_of: Callable[[str], Client], tmp_path: Path
) -> None:
    """Live, by ctr: all three are told apart; a name that means another image on the node now is not taken for what runs."""
    client = client_of("ctr")
    assert isinstance(client, Ctr)
    world = published(upstream, proxy, "containerd")
    socket = str(containerd.folder / "s")
    with on_containerd(containerd, client, world, upstream.registry.host):
        world.overwrite()
        found = world.drift("--containerd", socket, code=1)
        assert expected(found) == STANDINGS
        moved = found["drifting-moved"]
        assert (moved["digest"], moved["moved_by"], moved["namespace"]) == (str(world.moved.digest), "olga", "default")
        assert client.pull(world.name("moved")).ok
        found = world.drift("--containerd", socket, code=1)
        assert expected(found) == STANDINGS | {"moved": "unknown"}
        assert "is not what its snapshot was made of" in found["drifting-moved"]["reason"]
    assert expected(world.drift("--containerd", socket, code=0)) == {}


@contextmanager
def on_docker(daemon: Dockerd, client: Client, world: Published) -> Iterator[None]:
    """Three containers of docker's: the last image was loaded from an archive, under the name of another."""
    docker, env = daemon.docker, daemon.env
    local = f"{world.proxy.host}/{NAME}-{world.runtime}"
    with ExitStack() as exits:
        for tag in STANDINGS:
            if tag == "unknown":
                made = command(*docker, "create", "--network", "none", f"{local}:kept", *SLEEP, env=env).strip()
                command(*docker, "commit", "--change", "LABEL changed=yes", made, f"{local}:unknown", env=env)
                command(*docker, "rm", made, env=env)
            else:
                pulled = client.pull(world.name(tag))
                assert pulled.ok, pulled.output
            run = ("run", "--detach", "--network", "none", *LIMITS, "--name", f"drifting-{tag}", f"{local}:{tag}", *SLEEP)
            command(*docker, *run, env=env)
            exits.callback(command, *docker, "rm", "--force", f"drifting-{tag}", env=env)
        yield


def test_docker(
    upstream: Upstream, proxy: Tagstone, dockerd: Dockerd, client_of: Callable[[str], Client], tmp_path: Path
) -> None:
    """Live, by its socket, and from what ``docker inspect`` prints; also after the tag was pulled again."""
    client = client_of("docker")
    assert isinstance(client, Docker)
    world = published(upstream, proxy, "docker")
    socket = str(dockerd.folder / "s")
    with on_docker(dockerd, client, world):
        new = world.overwrite()
        assert client.pull(world.name("moved")).ok
        found = world.drift("--docker", socket, code=1)
        assert expected(found) == STANDINGS
        assert found["drifting-moved"]["pinned"] == str(new.digest)
        listed = [f"drifting-{tag}" for tag in STANDINGS]
        (tmp_path / "inspect.json").write_text(command(*dockerd.docker, "inspect", *listed, env=dockerd.env))
        assert expected(world.drift(str(tmp_path / "inspect.json"), code=1)) == STANDINGS
    assert expected(world.drift("--docker", socket, code=0)) == {}


def test_podman(upstream: Upstream, proxy: Tagstone, base: Path, tmp_path: Path) -> None:
    """From what ``podman inspect`` prints, of a container and of an image's ID."""
    need_root("runc")
    world = published(upstream, proxy, "podman")
    podman, env = need("podman"), podman_env(base / "drift-w")
    local = f"{proxy.host}/{NAME}-podman"
    run = (podman, "--runtime", "runc", "run", "--detach", "--network", "none", *LIMITS)
    with ExitStack() as exits:
        for tag in STANDINGS:
            if tag == "unknown":
                made = command(
                    podman, "--runtime", "runc", "create", "--network", "none", f"{local}:kept", *SLEEP, env=env
                ).strip()
                command(podman, "commit", "--change", "LABEL changed=yes", made, f"{local}:unknown", env=env)
                command(podman, "rm", made, env=env)
            else:
                command(podman, "pull", "--tls-verify=false", f"{local}:{tag}", env=env)
            command(*run, "--name", f"drifting-{tag}", f"{local}:{tag}", *SLEEP, env=env)
            exits.callback(command, podman, "--runtime", "runc", "rm", "--force", "--time", "0", f"drifting-{tag}", env=env)
        world.overwrite()
        inspected = command(podman, "inspect", *(f"drifting-{tag}" for tag in STANDINGS), env=env)
        (tmp_path / "inspect.json").write_text(inspected)
        found = world.drift(str(tmp_path / "inspect.json"), code=1)
        assert expected(found) == STANDINGS
        assert str(here(world.kept).config.digest) in found["drifting-kept"]["claims"]
        (tmp_path / "ps.json").write_text(command(podman, "ps", "--format", "json", env=env))
        assert expected(world.drift(str(tmp_path / "ps.json"), code=1)) == STANDINGS
