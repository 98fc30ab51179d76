"""docker and BuildKit: daemon.json with the flags beside it, /etc/docker/certs.d, buildkitd.toml."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field

from proxy.clients.reading import Document, Unreadable, true
from proxy.clients.traps import hosts
from proxy.clients.traps.node import Expected, Node, Target, listed, shown_version

DAEMON = "/etc/docker/daemon.json"
CERTS = "/etc/docker/certs.d"
_BUILDKITD = ("/etc/buildkit/buildkitd.toml", "/root/.config/buildkit/buildkitd.toml")
_UNITS = ("docker.service",)
_FLAG = re.compile(r"--(?P<name>registry-mirror|insecure-registry|config-file|feature)[=\s]+(?P<value>\S+)")


def present(node: Node) -> bool:
    """Whether dockerd is a client here."""
    return node.exists("/etc/docker") or node.program("dockerd") is not None


@dataclass(slots=True)
class _Daemon:
    """What dockerd is told, by its file and by its flags: each value with file and line."""

    mirrors: list[tuple[str, str, int]] = field(default_factory=list)
    insecure: list[str] = field(default_factory=list)
    file: str = DAEMON
    store: bool | None = None  #: the containerd store; None: not said


def examine(node: Node, expected: Expected) -> None:
    """Examine dockerd's settings and what it reads of certs.d."""
    daemon = _flags(node)
    try:
        document = node.json(daemon.file)
    except Unreadable as error:
        if error.had:
            node.found("docker-undecodable", daemon.file, error.line, str(error))
        else:
            node.trouble(daemon.file, error)
        return
    if document is not None:
        _settings(daemon, document)
    version = node.version("docker")
    for url, file, line in daemon.mirrors:
        node.found("docker-registry-mirrors", file, line, f"{url}: what it refuses is asked of Docker Hub")
    _plain_http(node, expected, daemon, document)
    # Fresh installations of 29 and later have the containerd store unless they are told otherwise.
    store = daemon.store if daemon.store is not None else version is not None and version >= (29,)
    heeds = store and version is not None and version >= (28,)
    if heeds:
        reader = hosts.Reader("docker", None)  # which containerd is inside differs: what holds on all of them
        hosts.examine(node, expected, (CERTS,), reader, "docker-unmirrored")
        return
    ignored = [name for name in node.names(CERTS) if node.exists(f"{CERTS}/{name}/hosts.toml")]
    if version is not None and version >= (28,):
        ignored = []  # `docker build` heeds them, which is why they may be there
    for name in ignored:
        why = f"docker {shown_version(version)} with the {'containerd' if store else 'graph'} store"
        node.found("docker-hosts-ignored", f"{CERTS}/{name}/hosts.toml", 0, f"{why} does not read it")
    if not ignored and not daemon.mirrors:
        wanted = listed(expected.registries) if expected.registries else "any registry"
        node.found("docker-unmirrored", daemon.file, 0, f"{wanted}: a name without the proxy in front is asked for there")


def _flags(node: Node) -> _Daemon:
    daemon = _Daemon()
    for file, line, text in node.units(*_UNITS):
        key, _, value = text.strip().partition("=")
        if key != "ExecStart" or not value.strip():
            continue
        for name, given in _options(value):
            match name:
                case "registry-mirror":
                    daemon.mirrors.append((given, file, line))
                case "insecure-registry":
                    daemon.insecure.append(given)
                case "config-file":
                    daemon.file = given
                case _:
                    if given.startswith("containerd-snapshotter"):
                        daemon.store = not given.endswith("=false")
    return daemon


def _options(command: str) -> Iterator[tuple[str, str]]:
    try:
        words = shlex.split(command)
    except ValueError:  # quotes as systemd has them, not as a shell
        words = command.split()
    for found in _FLAG.finditer(" ".join(words)):
        yield found["name"], found["value"]


def _settings(daemon: _Daemon, document: Document) -> None:
    for index, url in enumerate(document.texts("registry-mirrors")):
        daemon.mirrors.append((url, document.file, document.line("registry-mirrors", index)))
    daemon.insecure += document.texts("insecure-registries")
    store = document.get("features", "containerd-snapshotter")
    if store is not None:
        daemon.store = true(store)


def _plain_http(node: Node, expected: Expected, daemon: _Daemon, document: Document | None) -> None:
    line = 0 if document is None or "insecure-registries" not in document.data else document.line("insecure-registries")
    for proxy in expected.proxies:
        if proxy.loopback:
            continue
        named = any((given := Target.parse(each)) is not None and given.host == proxy.host for each in daemon.insecure)
        if proxy.scheme == "http" and not named:
            node.found("docker-plain-http", daemon.file, line, f"{proxy.host} is not among insecure-registries")
        elif named:
            node.found("unproven-proxy", daemon.file, line, f"{proxy.host} is among insecure-registries")


# -- BuildKit -------------------------------------------------------------------------------------------------------------


def buildkit_present(node: Node) -> bool:
    """Whether buildkitd has a file here."""
    return any(node.exists(file) for file in _buildkit_files(node))


def _buildkit_files(node: Node) -> tuple[str, ...]:
    return (*_BUILDKITD, *(f"/home/{name}/.config/buildkit/buildkitd.toml" for name in node.names("/home")))


def examine_buildkit(node: Node, expected: Expected) -> None:
    """Examine every buildkitd.toml."""
    for file in _buildkit_files(node):
        try:
            document = node.toml(file)
        except Unreadable as error:
            if error.had:
                node.found("buildkit-undecodable", file, error.line, str(error))
            else:
                node.trouble(file, error)
            continue
        if document is None:
            continue
        for name in document.table("registry"):
            mirrors = document.texts("registry", name, "mirrors")
            if mirrors:
                line = document.line("registry", name, "mirrors")
                node.found("buildkit-mirror", file, line, f"{name} by way of {listed(mirrors)}")
        for proxy in expected.proxies:
            named = next((n for n in document.table("registry") if expected.proxy(Target.parse(n)) == proxy), None)
            plain = named is not None and document.get("registry", named, "http") is True
            if proxy.scheme == "http" and not proxy.loopback and not plain:
                line = 0 if named is None else document.line("registry", named)
                node.found("buildkit-plain-http", file, line, f"{proxy.host} is not marked `http = true`")
