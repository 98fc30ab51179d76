"""hosts.toml, as containerd reads it: what of a file leads to the upstream.

containerd 1.5 and later, nerdctl, and docker from 28 with the containerd store. What does not decode there is logged and left
out, and the pull goes on without it; so every reason for which it does not decode is a trap.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from typing import Any

from proxy.clients.reading import Document, Unreadable
from proxy.clients.traps.node import Expected, Node, Target, Version, canonical, listed, shown_version
from proxy.routing import component
from storage.errors import MalformedName
from storage.reference import parse_registry

DEFAULT = "_default"
_CAPABILITIES = frozenset({"pull", "resolve", "push"})
_LATER_CAPABILITIES = frozenset({"referrers"})


@dataclass(frozen=True, slots=True)
class Reader:
    """Who reads the folder: the client and its version (None: any)."""

    client: str
    version: Version | None

    @property
    def needs_host_table(self) -> bool:
        """containerd 1.x takes a file without ``[host]`` for broken."""
        return self.version is None or self.version < (2,)

    @property
    def knows_referrers(self) -> bool:
        """Whether the capability is known."""
        return self.version is not None and self.version >= (2, 2)

    def __str__(self) -> str:
        return f"{self.client} {shown_version(self.version)}"


def registry_of(name: str) -> str | None:
    """The registry that a folder of certs.d is for: ``host_5000_`` is ``host:5000``. None for ``_default``."""
    if name == DEFAULT:
        return None
    if name.endswith("_") and "_" in name[:-1]:
        host, _, port = name[:-1].rpartition("_")
        if port.isdigit():
            return f"{host}:{port}"
    return name


def folders_of(registry: str) -> tuple[str, ...]:
    """The folders that containerd looks for, in order; the first that exists decides."""
    host, colon, port = registry.rpartition(":")
    ported = (f"{host}_{port}_",) if colon and port.isdigit() else ()
    return (*ported, registry, DEFAULT)


def examine(node: Node, expected: Expected, roots: tuple[str, ...], reader: Reader, uncovered: str) -> None:
    """Examine the folders of certs.d below ``roots``; ``uncovered`` is the trap of a registry that has none."""
    present = [(root, name) for root in roots for name in node.names(root) if node.is_dir(f"{root}/{name}")]
    has_default = any(name == DEFAULT for _, name in present)
    for root, name in present:
        registry = registry_of(name)
        if registry is not None and (expected.is_proxy(registry) or not expected.wants(registry)):
            continue  # certificates of the proxy itself, or a registry that is none of its business
        _folder(node, expected, f"{root}/{name}", registry, reader, shadows=has_default)
    for registry in expected.registries:
        if not any((root, name) in present for root in roots for name in folders_of(registry)):
            aliases = [name for _, name in present if name not in {registry, DEFAULT} and _same(name, registry)]
            hint = f"; the folder {listed(aliases)} is not looked at, for images say {registry}" if aliases else ""
            node.found(uncovered, roots[0] if roots else "/etc/containerd/certs.d", 0, f"{registry} has no folder{hint}")


def _same(name: str, registry: str) -> bool:
    own = registry_of(name)
    return own is not None and canonical(own) == registry


def _folder(node: Node, expected: Expected, folder: str, registry: str | None, reader: Reader, *, shadows: bool) -> None:
    file = f"{folder}/hosts.toml"
    label = registry or "every registry without a folder of its own"
    try:
        text = node.text(file)
    except Unreadable as error:
        if error.had:
            node.found("containerd-undecodable", file, error.line, f"{label}: {error}")
        else:
            node.trouble(file, error)
        return
    if not text:
        more = "; _default is passed over for it" if shadows and registry is not None else ""
        missing = "is empty" if text == "" else "is missing"
        node.found("containerd-empty-directory", file if text == "" else folder, 0, f"hosts.toml {missing} for {label}{more}")
        return
    try:
        document = node.toml(file)
    except Unreadable as error:
        node.found("containerd-undecodable", file, error.line, f"{label}: {error}")
        return
    if document is not None:
        _File(node, expected, document, label, registry, reader).examine()


@dataclass(slots=True)
class _File:
    """One hosts.toml that is TOML."""

    node: Node
    expected: Expected
    document: Document
    label: str
    registry: str | None
    reader: Reader

    def found(self, trap: str, line: int, what: str) -> None:
        self.node.found(trap, self.document.file, line, f"{self.label}: {what}")

    def examine(self) -> None:
        document = self.document
        if not self._decodes():
            return
        hosts = document.table("host")
        server = document.get("server")
        upstream_line = 0
        if not server:
            at = document.line("server") if "server" in document.data else 1
            self.found("containerd-no-server", at, "`server` is missing, so the upstream itself stands at the end of the list")
        elif (endpoint := _endpoint(server)) is None or self.expected.proxy(endpoint) is None:
            # A host that may only push is never pulled from.
            if _capabilities(document.data) != {"push"}:
                upstream_line = document.line("server")
        else:
            self._proxy(endpoint, document.data, document.line("server"), ())
        narrow = 0
        for name, table in hosts.items():
            endpoint = _endpoint(name)
            line = document.line("host", name)
            if endpoint is None or self.expected.proxy(endpoint) is None:
                if _capabilities(table) != {"push"}:
                    self.found("containerd-other-host", line, f"{name} is not the proxy")
                continue
            self._proxy(endpoint, table, line, ("host", name))
            if "resolve" not in _capabilities(table):
                narrow = document.line("host", name, "capabilities")
        if upstream_line and narrow:
            self.found("containerd-pull-only", narrow, f"tags are resolved by {server}, not by the proxy")
        elif upstream_line:
            self.found("containerd-server-elsewhere", upstream_line, f"`server` is {server}")

    # -- what makes containerd drop the file ------------------------------------------------------------------------------

    def _decodes(self) -> bool:
        document = self.document
        host = document.get("host")
        if "host" not in document.data:
            if self.reader.needs_host_table:
                last = max(document.lines.values(), default=1)
                self.found("containerd-no-host-table", last, f"there is no [host] table, which {self.reader} needs")
                return False
        elif not isinstance(host, dict) or not all(isinstance(table, dict) for table in host.values()):
            return self._broken(document.line("host"), "`host` is not a table of tables")
        if not isinstance(document.data.get("server", ""), str):
            return self._broken(document.line("server"), "`server` is not a text")
        tables: list[tuple[tuple[str, ...], dict[str, Any]]] = [((), document.data)]
        tables += [(("host", name), table) for name, table in document.table("host").items()]
        return all(self._table(place, table) for place, table in tables)

    def _table(self, place: tuple[str, ...], table: dict[str, Any]) -> bool:
        line = self.document.line
        if place and not place[-1].strip():
            return self._broken(line(*place), "a host has no name")
        for key, kinds in _KINDS.items():
            if key in table and not isinstance(table[key], kinds):
                return self._broken(line(*place, key), f"`{key}` is not {_NAMES[kinds]}")
        capabilities = table.get("capabilities", [])
        for index, each in enumerate(capabilities):
            if isinstance(each, str) and each.lower() in _CAPABILITIES:
                continue
            if isinstance(each, str) and each.lower() in _LATER_CAPABILITIES:
                if self.reader.knows_referrers:
                    continue
                self.found("containerd-referrers", line(*place, "capabilities", index), f"{self.reader} does not know `{each}`")
                return False
            return self._broken(line(*place, "capabilities", index), f"there is no capability {each!r}")
        return True

    def _broken(self, line: int, what: str) -> bool:
        self.found("containerd-undecodable", line, what)
        return False

    # -- a host that is the proxy -----------------------------------------------------------------------------------------

    def _proxy(self, endpoint: Target, table: dict[str, Any], line: int, place: tuple[str, ...]) -> None:
        proxy = self.expected.proxy(endpoint)
        if proxy is None:
            return
        override = table.get("override_path") is True
        path = posixpath.normpath(endpoint.path) if endpoint.path else ""
        asked = path if override else path if path.endswith("/v2") else f"{path}/v2"
        if not self._leads_to(asked):
            self.found("containerd-path", line, f"{endpoint} is asked for {asked}/NAME/manifests/TAG")
        scheme = endpoint.scheme or "https"
        if proxy.scheme and scheme != proxy.scheme:
            self.found("wrong-scheme", line, f"the proxy is {proxy}, the file says {scheme}")
        elif (scheme == "http" or table.get("skip_verify") is True) and not endpoint.loopback:
            key = "skip_verify" if table.get("skip_verify") is True else ""
            at = self.document.line(*place, key) if key else line
            self.found("unproven-proxy", at, f"{endpoint}{' with skip_verify' if key else ''}")

    def _leads_to(self, asked: str) -> bool:
        """``/v2``, where ``?ns=`` names the registry, or ``/v2/REGISTRY``."""
        if asked in {"/v2", "/v2/"}:
            return True
        prefix = asked.removeprefix("/v2/")
        if prefix == asked or "/v2" in f"/{prefix}":
            return False
        head = prefix.partition("/")[0]
        meant = parse_or_none(self.registry) if self.registry else head
        return meant is not None and (canonical(head) == meant or head == component(meant))


def parse_or_none(registry: str) -> str | None:
    """The canonical name of a registry; None for what is none."""
    try:
        return parse_registry(registry)
    except MalformedName:
        return None


def _endpoint(text: str) -> Target | None:
    # containerd: what does not begin with "http" gets "https://" in front.
    return Target.parse(text if text.startswith("http") else f"https://{text}")


def _capabilities(table: Any) -> set[str]:
    given = table.get("capabilities") if isinstance(table, dict) else None
    known = {each.lower() for each in given if isinstance(each, str)} if isinstance(given, list) else set()
    return known or set(_CAPABILITIES)


_KINDS: dict[str, Any] = {
    "capabilities": list,
    "ca": (str, list),
    "client": (str, list),
    "skip_verify": bool,
    "header": dict,
    "override_path": bool,
    "dial_timeout": str,
}
_NAMES: dict[Any, str] = {list: "a list", (str, list): "a text or a list", bool: "true or false", dict: "a table", str: "a text"}
