"""The examination of a node: every client that is there, or that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from proxy.clients.reading import Document, Unreadable
from proxy.clients.traps import containerd, docker, hosts, kubernetes, podman
from proxy.clients.traps.node import Expected, Node, Target, canonical
from proxy.clients.traps.table import Effect, Finding

#: The kinds of clients, by the names that ``--client`` takes.
CLIENTS = ("containerd", "nerdctl", "docker", "buildkit", "podman", "k3s", "talos")
#: What else they are called.
ALIASES = {"crio": "podman", "cri-o": "podman", "buildah": "podman", "skopeo": "podman", "rke2": "k3s"}


@dataclass(frozen=True, slots=True)
class Examination:
    """What was examined, and what was found."""

    clients: tuple[str, ...]
    files: tuple[str, ...]
    findings: tuple[Finding, ...]
    troubles: tuple[Finding, ...]  #: files that could not be examined

    @property
    def trapped(self) -> bool:
        """Whether anything but advice was found."""
        return any(finding.trap.effect is not Effect.ADVICE for finding in self.findings)


def examine(
    node: Node, expected: Expected, clients: Iterable[str] = (), *, talos: str | None = None, ignore: Iterable[str] = ()
) -> Examination:
    """Examine the named clients, or those that are there. ``talos`` is a machine configuration; ``ignore`` leaves traps out."""
    chosen = tuple(dict.fromkeys(clients)) or present(node, talos=talos)
    work: dict[str, Callable[[], None]] = {
        "containerd": lambda: containerd.examine(node, expected),
        "nerdctl": lambda: containerd.examine(node, expected, cri=False),
        "docker": lambda: docker.examine(node, expected),
        "buildkit": lambda: docker.examine_buildkit(node, expected),
        "podman": lambda: podman.examine(node, expected),
        "k3s": lambda: kubernetes.examine(node, expected),
        "talos": lambda: kubernetes.examine_talos(node, expected, talos or kubernetes.TALOS_CONFIG),
    }
    for each in chosen:
        work[each]()
    left_out = frozenset(ignore)
    findings = tuple(sorted(finding for finding in node.findings if finding.id not in left_out))
    return Examination(chosen, tuple(node.read), findings, tuple(sorted(node.troubles)))


def present(node: Node, *, talos: str | None = None) -> tuple[str, ...]:
    """The clients that are on the node."""
    here = {
        "containerd": containerd.present(node),
        "nerdctl": False,  # examined with containerd; by itself where somebody asks for that
        "docker": docker.present(node),
        "buildkit": docker.buildkit_present(node),
        "podman": podman.present(node),
        "k3s": kubernetes.present(node),
        "talos": talos is not None or node.exists(kubernetes.TALOS_CONFIG),
    }
    return tuple(name for name in CLIENTS if here[name])


def guess(node: Node) -> tuple[Target, ...]:
    """What the files name besides registries themselves: the proxy, where it is the only such thing."""
    found: dict[str, Target] = {}
    for text, registry in _named(node):
        endpoint = Target.parse(text)
        if endpoint is None or canonical(endpoint.host) == canonical(registry or ""):
            continue
        # The first that has a scheme says more than one without.
        known = found.get(endpoint.host)
        if known is None or (endpoint.scheme and not known.scheme):
            found[endpoint.host] = Target(endpoint.scheme, endpoint.host, "")
    return tuple(found.values())


def _named(node: Node) -> Iterable[tuple[str, str | None]]:
    """Every place that a file has a client ask, with the registry that it stands for."""
    for name in node.names(containerd.CERTS):
        if (document := _quiet(node, f"{containerd.CERTS}/{name}/hosts.toml")) is not None:
            registry = hosts.registry_of(name)
            yield from ((text, registry) for text in (*document.texts("server"), *document.table("host")))
    for file in (f"{podman.ETC}/registries.conf", *(f"{podman.ETC}/registries.conf.d/{n}" for n in _confs(node))):
        document = _quiet(node, file)
        given = None if document is None else document.get("registry")
        for table in given if isinstance(given, list) else ():
            if isinstance(table, dict):
                prefix = str(table.get("prefix") or table.get("location"))
                mirrors = table.get("mirror")
                for each in (table, *(mirrors if isinstance(mirrors, list) else ())):
                    if isinstance(each, dict) and isinstance(each.get("location"), str):
                        yield each["location"], prefix.partition("/")[0]
    try:
        daemon = node.json(docker.DAEMON)
    except Unreadable:
        daemon = None
    if daemon is not None:
        yield from ((text, None) for text in daemon.texts("registry-mirrors"))
    for name in ("k3s", "rke2"):
        try:
            documents = node.yaml(f"/etc/rancher/{name}/registries.yaml")
        except Unreadable:
            documents = None
        for each in documents or ():
            for registry in each.table("mirrors"):
                yield from ((text, registry) for text in each.texts("mirrors", registry, "endpoint"))


def _confs(node: Node) -> tuple[str, ...]:
    return node.names(f"{podman.ETC}/registries.conf.d", ".conf")


def _quiet(node: Node, file: str) -> Document | None:
    try:
        return node.toml(file)
    except Unreadable:
        return None  # told by the examination
