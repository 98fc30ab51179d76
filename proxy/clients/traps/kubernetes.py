"""k3s, RKE2 and Talos: the files from which they write containerd's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from proxy.clients.reading import Document, Unreadable, texts, true
from proxy.clients.traps import hosts
from proxy.clients.traps.node import Expected, Node, Target

_FLAG = "disable-default-registry-endpoint"
_SWITCH = re.compile(rf"--{_FLAG}(?:=(?P<value>\w+))?")
TALOS_CONFIG: Final = "/system/state/config.yaml"


@dataclass(frozen=True, slots=True)
class Rancher:
    """Where a distribution has its files."""

    name: str

    @property
    def etc(self) -> str:
        """Of its settings."""
        return f"/etc/rancher/{self.name}"

    @property
    def generated(self) -> str:
        """Of the hosts.toml that it writes for containerd."""
        return f"/var/lib/rancher/{self.name}/agent/etc/containerd/certs.d"

    @property
    def socket(self) -> str:
        """Where its containerd listens."""
        return "/run/k3s/containerd/containerd.sock"  # RKE2's, too

    @property
    def units(self) -> tuple[str, ...]:
        """Of systemd."""
        roles = ("", "-agent", "-server")
        return tuple(f"{self.name}{role}.service" for role in roles)


RANCHERS: Final = (Rancher("k3s"), Rancher("rke2"))


def present(node: Node) -> bool:
    """Whether k3s or RKE2 is here."""
    return any(node.exists(each.etc) for each in RANCHERS)


def examine(node: Node, expected: Expected) -> None:
    """Examine registries.yaml, whether the upstream is left out, and the hosts.toml that came of it."""
    for each in RANCHERS:
        if node.exists(each.etc):
            _rancher(node, expected, each)


def _rancher(node: Node, expected: Expected, rancher: Rancher) -> None:
    file = f"{rancher.etc}/registries.yaml"
    document = _yaml(node, file)
    if document is None:
        if not any(each.file == file for each in (*node.findings, *node.troubles)):
            for registry in expected.registries:
                node.found("k3s-uncovered", file, 0, f"{registry}: there is no such file")
        return
    before = len(node.findings)
    mirrors, configs = document.table("mirrors"), document.table("configs")
    disabled = _disabled(node, rancher)
    for name in mirrors:
        if name != "*" and not expected.wants(name):
            continue
        line = document.line("mirrors", name)
        endpoints = document.texts("mirrors", name, "endpoint")
        ours = [each for each in endpoints if expected.is_proxy(each)]
        for index, each in enumerate(endpoints):
            at = document.line("mirrors", name, "endpoint", index)
            if each not in ours:
                node.found("k3s-other-endpoint", file, at, f"{name}: {each} is not the proxy")
            else:
                _endpoint(node, expected, document.file, at, each)
        if not disabled:
            node.found("k3s-default-endpoint", file, line, f"{name}: the upstream is asked after the endpoints")
        elif name in configs and name != "*":
            what = f"{name} is mirrored, and its own entry keeps the upstream in the list"
            node.found("k3s-configs-entry", file, document.line("configs", name), what)
    for registry in expected.registries:
        # By the name that images carry: another name of the same registry is another entry.
        if "*" not in mirrors and registry not in mirrors:
            node.found("k3s-uncovered", file, 0, f"{registry} is not under mirrors")
    if len(node.findings) == before:
        _generated(node, expected, rancher, mirrors)


def _endpoint(node: Node, expected: Expected, file: str, line: int, text: str) -> None:
    endpoint = Target.parse(text)
    proxy = expected.proxy(endpoint)
    if endpoint is None or proxy is None:
        return
    scheme = endpoint.scheme or "https"
    if proxy.scheme and scheme != proxy.scheme:
        node.found("wrong-scheme", file, line, f"the proxy is {proxy}, the file says {scheme}")
    elif scheme == "http" and not endpoint.loopback:
        node.found("unproven-proxy", file, line, str(endpoint))


def _yaml(node: Node, file: str, trap: str = "k3s-undecodable") -> Document | None:
    try:
        documents = node.yaml(file)
    except Unreadable as error:
        if error.had:
            node.found(trap, file, error.line, str(error))
        else:
            node.trouble(file, error)
        return None
    return documents[0] if documents else None


def _disabled(node: Node, rancher: Rancher) -> bool:
    """Whether the upstream is left out of the list, by a file, a flag, or the environment of the unit."""
    answer = False
    folder = f"{rancher.etc}/config.yaml.d"
    for file in (f"{rancher.etc}/config.yaml", *(f"{folder}/{name}" for name in node.names(folder, ".yaml"))):
        document = _yaml(node, file)
        if document is not None and _FLAG in document.data:
            answer = true(document.get(_FLAG))
    for _, _, text in node.units(*rancher.units):
        if (found := _SWITCH.search(text)) is not None:
            answer = found["value"] is None or true(found["value"])
    return answer


def _generated(node: Node, expected: Expected, rancher: Rancher, mirrors: dict[str, object]) -> None:
    for name in node.names(rancher.generated):
        registry = hosts.registry_of(name) or "*"
        if registry not in mirrors:
            continue
        file = f"{rancher.generated}/{name}/hosts.toml"
        try:
            document = node.toml(file)
        except Unreadable as error:
            node.found("containerd-undecodable", file, error.line, str(error))
            continue
        if document is None:
            continue
        server = document.get("server")
        if isinstance(server, str) and server and not expected.is_proxy(server):
            node.found("k3s-not-restarted", file, document.line("server"), f"`server` is still {server}")


# -- Talos ----------------------------------------------------------------------------------------------------------------


def examine_talos(node: Node, expected: Expected, file: str) -> None:
    """Examine a machine configuration: the old key ``machine.registries.mirrors`` and RegistryMirrorConfig documents."""
    try:
        documents = node.yaml(file)
    except Unreadable as error:
        if error.had:
            node.found("talos-undecodable", file, error.line, str(error))
        else:
            node.trouble(file, error)
        return
    if documents is None:
        node.trouble(file, Unreadable("there is no such file", had=False))
        return
    named: set[str] = set()
    for document in documents:
        place = ("machine", "registries", "mirrors")
        for name, mirror in document.table(*place).items():
            named.add(name)
            skips = isinstance(mirror, dict) and true(mirror.get("skipFallback"))
            endpoints = [
                (each, document.line(*place, name, "endpoints", index))
                for index, each in enumerate(texts(mirror.get("endpoints") if isinstance(mirror, dict) else None))
            ]
            _talos_mirror(node, expected, file, name, endpoints, document.line(*place, name), skips=skips)
        if document.get("kind") == "RegistryMirrorConfig" and isinstance(name := document.get("name"), str):
            named.add(name)
            given = document.get("endpoints")
            endpoints = [
                (str(each.get("url")), document.line("endpoints", index, "url"))
                for index, each in enumerate(given if isinstance(given, list) else ())
                if isinstance(each, dict)
            ]
            skips = true(document.get("skipFallback"))
            _talos_mirror(node, expected, file, name, endpoints, document.line("name"), skips=skips)
    for registry in expected.registries:
        if "*" not in named and registry not in named:
            node.found("talos-uncovered", file, 0, f"{registry} has no mirror")


def _talos_mirror(
    node: Node, expected: Expected, file: str, name: str, endpoints: list[tuple[str, int]], line: int, *, skips: bool
) -> None:
    if name != "*" and not expected.wants(name):
        return
    for each, at in endpoints:
        if expected.is_proxy(each):
            _endpoint(node, expected, file, at, each)
        else:
            node.found("talos-other-endpoint", file, at, f"{name}: {each} is not the proxy")
    if not skips:
        node.found("talos-fallback", file, line, f"{name}: the upstream is asked after the endpoints")
