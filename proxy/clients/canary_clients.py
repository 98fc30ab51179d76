"""The clients of a node as the canary drives them, each with the node's own configuration."""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxy.clients.canary import Driver, Outcome, Tells, clean
from proxy.clients.traps import containerd, kubernetes
from proxy.clients.traps.node import Expected, Node, Target
from storage.reference import DOCKER_HUB, Reference

_PULL_TIMEOUT = 120.0
_HTTP_TIMEOUT = 30.0
_MAX_BODY = 1 << 20
#: A place of its own in containerd, so that nothing of it meets the images of anybody.
NAMESPACE: Final = "tagstone-canary"
_ACCEPT = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json"


@dataclass(frozen=True, slots=True)
class Subprocesses:
    """Runs programs of this machine, with bounded output and patience."""

    environment: Mapping[str, str]
    timeout: float = _PULL_TIMEOUT

    def __call__(self, command: Sequence[str], env: Mapping[str, str]) -> Outcome | None:
        """Run a command. None where it cannot be run, or takes too long."""
        try:
            done = subprocess.run(  # noqa: S603 - a client of this machine, by its full path, without a shell
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**self.environment, **env},
                timeout=self.timeout,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return Outcome(done.returncode == 0, clean(done.stdout))


def drivers(node: Node, programs: Node, run: Subprocesses, clients: Iterable[str]) -> Iterator[Driver]:
    """The programs that are on the node ``programs``, for the kinds of clients that were examined on ``node``."""
    kinds = set(clients)
    if kinds & {"containerd", "nerdctl"}:
        yield from _containerd(programs, run, containerd.folders(node)[0], node, {})
    for rancher in kubernetes.RANCHERS if "k3s" in kinds else ():
        if node.exists(rancher.etc):
            socket = rancher.socket
            env = {"CONTAINERD_ADDRESS": socket, "CONTAINER_RUNTIME_ENDPOINT": f"unix://{socket}"}
            yield from _containerd(programs, run, rancher.generated, node, env)
    if "docker" in kinds and (docker := programs.program("docker")) is not None:
        info = run((str(docker), "info", "--format", "{{json .DriverStatus}}"), {})
        # Where nobody can tell which store it has, its words are taken for worth no more than they may be.
        graph = info is not None and info.ok and "io.containerd.snapshotter" not in info.output
        tells = Tells.LAST if graph else Tells.FIRST
        words = (str(docker), "image")
        daemon = (str(docker), "version", "--format", "{{.Server.Version}}")
        yield Driver("docker", tells, (str(docker), "pull"), (*words, "inspect"), (*words, "rm", "--force"), {}, daemon=daemon)
    if "podman" in kinds and (podman := programs.program("podman")) is not None:
        words = (str(podman), "image")
        pull = (str(podman), "--log-level=debug", "pull")
        yield Driver("podman", Tells.TRACE, pull, (*words, "exists"), (*words, "rm", "--force"), {})


def _containerd(programs: Node, run: Subprocesses, folder: str, node: Node, env: Mapping[str, str]) -> Iterator[Driver]:
    """What pulls by the library of containerd, with hosts.toml below ``folder``; ``env`` says which containerd."""
    env = {name: value for name, value in env.items() if name not in run.environment}
    if (ctr := programs.program("ctr")) is not None:
        own = (str(ctr), "--namespace", NAMESPACE, "images")
        options = ["--hosts-dir", str(node.path(folder))]
        about = run((*own, "pull", "--help"), {})
        # Since 1.7 the daemon may resolve the name, and then its requests are not in ctr's trace.
        options += ["--local"] if about is not None and "--local" in about.output else []
        pull = (str(ctr), "--debug", "--namespace", NAMESPACE, "images", "pull", *options)
        after = (str(ctr), "namespaces", "remove", NAMESPACE)
        remove = (*own, "remove", "--sync")
        yield Driver("ctr", Tells.TRACE, pull, (*own, "list", "--quiet"), remove, env, after, by_code=False)
    if (nerdctl := programs.program("nerdctl")) is not None:
        there = (str(nerdctl), "--namespace", NAMESPACE)
        pull = (str(nerdctl), "--debug", "--namespace", NAMESPACE, "pull")
        yield Driver("nerdctl", Tells.TRACE, pull, (*there, "image", "inspect"), (*there, "rmi", "--force"), env)
    if (crictl := programs.program("crictl")) is not None:
        program = str(crictl)
        held, daemon = (program, "inspecti", "--quiet"), (program, "version")
        yield Driver("crictl", Tells.FIRST, (program, "pull"), held, (program, "rmi"), env, daemon=daemon)


class ProxyItself:
    """Asks the proxy, without any client in between, whether it refuses a reference."""

    def __init__(self, proxy: Target, expected: Expected, authority: Path | None = None) -> None:
        self._proxy = proxy
        self._expected = expected
        self._authority = authority

    def __call__(self, reference: str, token: str) -> str | None:
        """None where it refuses in its own words (with ``token``, where one is given); else why this proves nothing."""
        parsed = Reference.parse(reference.removeprefix(f"{self._proxy.host}/"), DOCKER_HUB)
        what = parsed.tag if parsed.digest is None else str(parsed.digest)
        path = f"{self._proxy.path}/v2/{parsed.repository}/manifests/{what}"
        try:
            status, body = self._get(path)
        except (OSError, http.client.HTTPException) as error:
            return f"the proxy itself cannot be asked at {self._proxy}: {error}"
        if status == 401:
            return f"the proxy at {self._proxy} wants a login, which is not given to it here"
        if status == 200:
            return f"the proxy at {self._proxy} serves {reference}"
        if token and token not in body:
            return (
                f"{self._proxy} does not answer as a Tagstone that serves {parsed.repository.registry}: {_message(body, status)}"
            )
        if not token and status != 403:
            return f"the proxy at {self._proxy} does not refuse {reference}: {_message(body, status)}"
        return None

    def _get(self, path: str) -> tuple[int, str]:
        host = self._proxy.host
        connection: http.client.HTTPConnection
        if self._proxy.scheme == "http":
            connection = http.client.HTTPConnection(host, timeout=_HTTP_TIMEOUT)
        else:
            context = ssl.create_default_context(cafile=None if self._authority is None else str(self._authority))
            connection = http.client.HTTPSConnection(host, timeout=_HTTP_TIMEOUT, context=context)
        try:
            connection.request("GET", path, headers={"Accept": _ACCEPT, "User-Agent": "tagstone-doctor"})
            answer = connection.getresponse()
            return answer.status, answer.read(_MAX_BODY).decode("utf-8", "replace")
        finally:
            connection.close()


def _message(body: str, status: int) -> str:
    try:
        return str(json.loads(body)["errors"][0]["message"])[:300]
    except (ValueError, LookupError, TypeError, RecursionError):
        return f"it answers {status}"
