"""podman, CRI-O, buildah and skopeo: registries.conf with its drop-ins, short names, policy.json.

The order of the files, and that a table replaces an earlier one of the same prefix as a whole: containers-registries.conf(5) and
containers-registries.conf.d(5).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from proxy.clients.reading import Document, Unreadable, dig
from proxy.clients.traps.node import Expected, Node, Target, canonical, listed
from proxy.routing import component

ETC = "/etc/containers"
SHARE = "/usr/share/containers"
#: What short names were once resolved to on a terminal.
_RECORDED = "/var/cache/containers/short-name-aliases.conf"
_ENVIRONMENT = "CONTAINERS_REGISTRIES_CONF"


def present(node: Node) -> bool:
    """Whether any of them is a client here."""
    programs = ("podman", "crio", "buildah", "skopeo")
    return node.exists(f"{ETC}/registries.conf") or any(node.program(name) for name in programs)


@dataclass(slots=True)
class _Table:
    """A ``[[registry]]`` table where it stands."""

    document: Document
    index: int
    data: dict[str, Any]

    @property
    def prefix(self) -> str:
        value = self.data.get("prefix") or self.data.get("location")
        return value.rstrip("/") if isinstance(value, str) else ""

    @property
    def location(self) -> str:
        value = self.data.get("location")
        return value if isinstance(value, str) and value else "" if self.prefix.startswith("*.") else self.prefix

    @property
    def blocked(self) -> bool:
        return self.data.get("blocked") is True

    @property
    def mirrors(self) -> list[dict[str, Any]]:
        value = self.data.get("mirror")
        return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []

    def line(self, *place: str | int) -> int:
        return self.document.line("registry", self.index, *place)


@dataclass(slots=True)
class _Scope:
    """What one user of the node has: the system's files, or his own."""

    main: str
    files: list[str]
    tables: dict[str, _Table] = field(default_factory=dict)
    search: tuple[tuple[str, ...], str, int] = ((), "", 0)
    aliases: dict[str, tuple[str, str, int]] = field(default_factory=dict)
    broken: bool = False

    def holding(self, registry: str) -> _Table | None:
        """The table for images of a registry: the one of its name, else that of the longest ``*.domain`` above it."""
        if (table := self.tables.get(registry)) is not None:
            return table
        labels = registry.partition(":")[0].split(".")
        above = (f"*.{'.'.join(labels[start:])}" for start in range(1, len(labels)))
        return next((table for prefix in above if (table := self.tables.get(prefix)) is not None), None)


def examine(node: Node, expected: Expected) -> None:
    """Examine what the system has, then what each user puts in its place."""
    system = _Scope(*_system_files(node))
    _read(node, system)
    if not system.broken:
        _scope(node, expected, system)
    for home in ("/root", *(f"/home/{name}" for name in node.names("/home"))):
        _user(node, expected, home, system)
    _policies(node)


# -- which files ------------------------------------------------------------------------------------------------------------


def _system_files(node: Node) -> tuple[str, list[str]]:
    if node.live and (given := node.environment.get(_ENVIRONMENT)):
        return given, [given]
    version = node.version("podman")
    # The vendor's files below /usr/share are read from podman 6; where nobody can tell, what is there is taken to count.
    places = (ETC,) if version is not None and version < (6,) else (SHARE, ETC)
    main = next((file for place in reversed(places) if node.exists(file := f"{place}/registries.conf")), f"{ETC}/registries.conf")
    drop_ins: dict[str, str] = {}
    for place in places:
        folder = f"{place}/registries.conf.d"
        drop_ins |= {name: f"{folder}/{name}" for name in node.names(folder, ".conf")}
    return main, [main, *(drop_ins[name] for name in sorted(drop_ins)), _RECORDED]


def _read(node: Node, scope: _Scope) -> None:
    for file in scope.files:
        try:
            document = node.toml(file)
        except Unreadable as error:
            scope.broken = True
            if error.had:
                node.found("podman-undecodable", file, error.line, str(error))
            else:
                node.trouble(file, error)
            continue
        if document is None:
            continue
        if document.table("registries"):
            scope.broken = True
            line = document.line("registries", next(iter(document.table("registries"))))
            node.found("podman-old-format", file, line, "[registries.…] tables")
            continue
        _merge(scope, document)


def _merge(scope: _Scope, document: Document) -> None:
    given = document.get("registry")
    for index, data in enumerate(given if isinstance(given, list) else ()):
        if isinstance(data, dict):
            table = _Table(document, index, data)
            scope.tables[table.prefix] = table
    if "unqualified-search-registries" in document.data:
        key = "unqualified-search-registries"
        scope.search = (document.texts(key), document.file, document.line(key))
    for name, target in document.table("aliases").items():
        if isinstance(target, str):
            scope.aliases[name] = (target, document.file, document.line("aliases", name))


# -- what they mean -----------------------------------------------------------------------------------------------------------


def _scope(node: Node, expected: Expected, scope: _Scope) -> None:
    for registry in _registries(expected, scope):
        table = scope.holding(registry)
        if table is None:
            node.found("podman-uncovered", scope.main, 0, f"no [[registry]] has the prefix {registry}")
        else:
            _judge(node, expected, table, registry, "podman-uncovered")
        for other in scope.tables.values():
            if other.prefix.startswith(f"{registry}/"):
                _judge(node, expected, other, registry, "podman-narrower-prefix")
    _short_names(node, expected, scope)


def _registries(expected: Expected, scope: _Scope) -> tuple[str, ...]:
    if expected.registries:
        return expected.registries
    heads = (table.prefix.partition("/")[0] for table in scope.tables.values() if not table.prefix.startswith("*."))
    return tuple(dict.fromkeys(head for head in heads if head and not expected.is_proxy(head)))


def _judge(node: Node, expected: Expected, table: _Table, registry: str, elsewhere: str) -> None:
    """Say where the images of a table come from, other than from the proxy."""
    file = table.document.file
    mirrors = [(index, each) for index, each in enumerate(table.mirrors)]
    ours = [(index, each) for index, each in mirrors if expected.is_proxy(str(each.get("location", "")))]
    for index, each in mirrors:
        if (index, each) not in ours:
            what = f"{table.prefix}: {each.get('location')} is asked before the upstream"
            node.found("podman-other-mirror", file, table.line("mirror", index), what)
    for index, each in ours:
        _location(node, expected, table, registry, each, ("mirror", index))
    if expected.is_proxy(table.location):
        if not table.blocked:
            _location(node, expected, table, registry, table.data, ())
        return
    if ours and (place := _digests_only(table, ours)) is not None and not table.blocked:
        node.found("podman-digest-only", file, table.line(*place), f"{table.prefix}: tags are resolved by the upstream")
    elif ours and not table.blocked:
        upstream = table.location or registry
        node.found("podman-mirror-falls-back", file, table.line(), f"{table.prefix}: after the mirror, {upstream} is asked")
    elif not table.blocked and not mirrors:
        node.found(elsewhere, file, table.line(), f"{table.prefix}: {table.location or registry} is asked directly")


def _digests_only(table: _Table, ours: list[tuple[int, dict[str, Any]]]) -> tuple[str | int, ...] | None:
    if table.data.get("mirror-by-digest-only") is True:
        return ("mirror-by-digest-only",)
    for index, each in ours:
        if each.get("pull-from-mirror") in {"digest-only", "tag-only"}:
            return ("mirror", index, "pull-from-mirror")
    return None


def _location(
    node: Node, expected: Expected, table: _Table, registry: str, data: dict[str, Any], place: tuple[str | int, ...]
) -> None:
    """A location that is the proxy: does the path say the registry, and can it be reached and believed?"""
    file = table.document.file
    endpoint = Target.parse(str(data.get("location", "")))
    proxy = expected.proxy(endpoint)
    if endpoint is None or proxy is None:
        return
    line = table.line(*place, "location")
    wildcard = table.prefix.startswith("*.")
    path = endpoint.path.strip("/")
    whole = f"{registry}{table.prefix.removeprefix(registry)}" if not wildcard else registry
    implied = whole.removeprefix(f"{registry}/") if whole != registry else ""
    fits = path == whole or (canonical(registry) == expected.default_registry and path == implied)
    right = component(registry) + whole.removeprefix(registry)
    head, bare = path.partition("/")[0], registry.rpartition(":")[0] or registry
    if ":" in path:
        node.found("podman-port-in-path", file, line, f"{table.prefix} becomes {endpoint}; write {proxy.host}/{right}")
    elif wildcard or (not fits and canonical(head) not in {canonical(registry), component(registry), bare}):
        node.found("podman-no-registry-in-path", file, line, f"{table.prefix} becomes {endpoint}; write {proxy.host}/{right}")
    insecure = data.get("insecure") is True
    if proxy.scheme == "http" and not insecure:
        node.found("podman-plain-http", file, line, f"{endpoint} is not marked `insecure = true`")
    elif insecure and not proxy.loopback:
        node.found("unproven-proxy", file, table.line(*place, "insecure"), f"{endpoint} with insecure = true")


def _short_names(node: Node, expected: Expected, scope: _Scope) -> None:
    def goes_around(registry: str) -> bool:
        if expected.is_proxy(registry):
            return False
        table = scope.holding(registry)
        if table is None:
            return True
        return not (table.blocked or expected.is_proxy(table.location))

    registries, file, line = scope.search
    around = [each for each in registries if goes_around(each) and not _mirrored(expected, scope.holding(each))]
    if around:
        node.found("podman-search-elsewhere", file, line, f"{listed(around)} is asked directly")
    by_file: dict[str, list[tuple[int, str, str]]] = {}
    for name, (target, source, at) in scope.aliases.items():
        registry = target.partition("/")[0]
        # What is wrong with a registry that is to be led to the proxy is told where it is led, or is not.
        told = registry in expected.registries or _mirrored(expected, scope.holding(registry))
        if goes_around(registry) and not told:
            by_file.setdefault(source, []).append((at, name, target))
    for source, found in by_file.items():
        at, name, target = min(found)
        others = f", and {len(found) - 1} more" if len(found) > 1 else ""
        node.found("podman-alias-elsewhere", source, at, f"{name} stands for {target}{others}")


def _mirrored(expected: Expected, table: _Table | None) -> bool:
    """Whether a table leads to the proxy in some way: what is wrong with it is told where it stands."""
    return table is not None and any(expected.is_proxy(str(each.get("location", ""))) for each in table.mirrors)


# -- users --------------------------------------------------------------------------------------------------------------------


def _user(node: Node, expected: Expected, home: str, system: _Scope) -> None:
    own = f"{home}/.config/containers/registries.conf"
    drop_ins = [f"{own}.d/{name}" for name in node.names(f"{own}.d", ".conf")]
    if not node.exists(own) and not drop_ins:
        return
    replaces = node.exists(own)
    scope = _Scope(own if replaces else system.main, [own, *drop_ins] if replaces else [*system.files, *drop_ins])
    # What is wrong with this user's files is one finding: that they stand instead of the system's.
    apart = Node(node.root, node.assumed, node.environment)
    _read(apart, scope)
    _scope(apart, expected, scope)
    node.troubles += [each for each in apart.troubles if each not in node.troubles]
    node.read += [each for each in apart.read if each not in node.read]
    mine = [each for each in apart.findings if each.trap.effect != "advice" and each not in node.findings]
    if mine:
        first = next((each for each in mine if each.file in {own, *drop_ins}), mine[0])
        line = first.line if first.file in {own, *drop_ins} else 0
        file = first.file if first.file in {own, *drop_ins} else own
        node.found("podman-user-file", file, line, f"{first.id}: {first.what}{_others(mine)}")


def _others(findings: Iterable[object]) -> str:
    count = len(list(findings)) - 1
    return f" (and {count} more)" if count else ""


# -- policy.json ----------------------------------------------------------------------------------------------------------------


def _policies(node: Node) -> None:
    system = next((file for each in (ETC, SHARE) if node.exists(file := f"{each}/policy.json")), None)
    homes = ("/root", *(f"/home/{name}" for name in node.names("/home")))
    own = [file for home in homes if node.exists(file := f"{home}/.config/containers/policy.json")]
    for file in ([] if system is None else [system]) + own:
        try:
            document = node.json(file)
        except Unreadable as error:
            if error.had:
                node.found("podman-policy-undecodable", file, error.line, str(error))
            else:
                node.trouble(file, error)
            continue
        if document is None:
            continue
        default = document.get("default")
        if not isinstance(default, list) or not default:
            node.found("podman-policy-undecodable", file, document.line("default"), "`default` is missing")
        elif any(dig(each, "type") == "insecureAcceptAnything" for each in default):
            node.found("podman-policy-accepts", file, document.line("default"), "`default` is insecureAcceptAnything")
