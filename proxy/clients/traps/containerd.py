"""containerd: which folder its CRI plugin reads hosts.toml from, what stands there, and who pulls without looking."""

from __future__ import annotations

import fnmatch
import posixpath
import re
from dataclasses import dataclass
from typing import Any

from proxy.clients.reading import Document, Unreadable, texts
from proxy.clients.traps import hosts
from proxy.clients.traps.node import Expected, Node, Version, logical_lines, shown_version

CONFIG = "/etc/containerd/config.toml"
CERTS = "/etc/containerd/certs.d"
_CONF_D = "/etc/containerd/conf.d/*.toml"
_NERDCTL = "/etc/nerdctl/nerdctl.toml"
#: The CRI plugin's section, by the version of the file's format.
_SECTIONS = {1: "cri", 2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.images"}
_CRI = frozenset({"cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images"})
_MAX_IMPORTS = 64
_CONFIG_FLAG = re.compile(r"\bcontainerd\b.*\s(?:--config|-c)[=\s]\s*(?P<file>/\S+)")
_SCRIPTS = ("/etc/cron.d", "/etc/cron.daily", "/etc/cron.hourly", "/usr/local/bin", "/usr/local/sbin", "/opt/bin")
_CTR_PULL = re.compile(r"\bctr\b[^|;&]*\b(?:images?|i)\s+pull\b(?P<rest>[^|;&]*)")


def present(node: Node) -> bool:
    """Whether containerd is a client here, and not just what runs below dockerd."""
    if node.names(CERTS) or any(node.program(name) for name in ("kubelet", "crictl", "nerdctl")):
        return True
    if node.program("dockerd") or node.exists("/etc/docker"):
        return "registry" in node.lenient(CONFIG)
    return node.exists(CONFIG) or node.program("containerd") is not None


def examine(node: Node, expected: Expected, *, cri: bool = True) -> None:
    """Examine config.toml with its imports, every certs.d, and the pulls that are written down.

    Without ``cri`` only what ctr and nerdctl read: they know nothing of config.toml.
    """
    version = node.version("containerd")
    reader = hosts.Reader("containerd", version)
    roots: tuple[str, ...] = ()
    if cri:
        try:
            roots = _config_path(node, _load(node, version), version)
        except Unreadable:
            roots = ()  # told already
    examined = roots or (CERTS,)
    # What ctr and nerdctl are pointed at by habit is examined too, but a registry need not be covered twice.
    hosts.examine(node, expected, examined, reader, "containerd-uncovered")
    if CERTS not in examined and node.names(CERTS):
        hosts.examine(node, Expected(expected.proxies, (), expected.default_registry), (CERTS,), reader, "containerd-uncovered")
    _nerdctl(node, examined)
    _ctr(node)


def folders(node: Node) -> tuple[str, ...]:
    """The folders of hosts.toml that CRI reads; where none is set, the one that everybody means."""
    apart = Node(node.root, node.assumed, node.environment)
    version = apart.version("containerd")
    try:
        return _config_path(apart, _load(apart, version), version) or (CERTS,)
    except Unreadable:
        return (CERTS,)


# -- config.toml --------------------------------------------------------------------------------------------------------


def config_file(node: Node) -> str:
    """The file that containerd is started with."""
    for _, _, text in node.units("containerd.service"):
        if text.strip().startswith("ExecStart=") and (found := _CONFIG_FLAG.search(text)) is not None:
            return found["file"]
    return CONFIG


def _load(node: Node, version: Version | None) -> list[Document]:
    """config.toml and what it imports, in the order in which containerd merges them. Raises :class:`Unreadable`."""
    found: list[Document] = []
    main = config_file(node)
    waiting, seen = [main], set[str]()
    while waiting and len(found) < _MAX_IMPORTS:
        file = waiting.pop(0)
        if file in seen:
            continue
        seen.add(file)
        try:
            document = node.toml(file)
        except Unreadable as error:
            if error.had:
                node.found("containerd-config-undecodable", file, error.line, str(error))
            else:
                node.trouble(file, error)
            raise
        if document is None:
            continue
        found.append(document)
        imports = document.texts("imports")
        if file == main and "imports" not in document.data and version is not None and version >= (2, 2):
            imports = (_CONF_D,)
        for pattern in imports:
            waiting += _matching(node, posixpath.join(posixpath.dirname(file), pattern))
    return found


def _matching(node: Node, pattern: str) -> list[str]:
    pattern = posixpath.normpath(pattern)
    if not any(sign in pattern for sign in "*?["):
        return [pattern]
    folder, name = posixpath.split(pattern)
    return [f"{folder}/{each}" for each in node.names(folder) if fnmatch.fnmatchcase(each, name)]


@dataclass(slots=True)
class _Path:
    """The ``config_path`` that holds so far, and where it was said."""

    value: str
    file: str
    line: int


def _config_path(node: Node, files: list[Document], version: Version | None) -> tuple[str, ...]:
    """The folders that CRI reads, with what is wrong about them told."""
    merges = version is not None and version >= (2,)
    effective: _Path | None = None
    lost: tuple[str, int] | None = None
    for document in files:
        if any(name in _CRI for name in document.texts("disabled_plugins")):
            return ()  # no CRI, no kubelet: what remains is who names the folder himself
        section = _section(document, version)
        _misplaced(node, document, section)
        plugins = document.table("plugins")
        if section not in plugins:
            continue
        place = ("plugins", section, "registry")
        registry = document.table(*place)
        for name in document.table(*place, "mirrors"):
            line = document.line(*place, "mirrors", name)
            node.found("containerd-registry-mirrors", document.file, line, f"{name} has endpoints in config.toml")
        value = registry.get("config_path")
        if isinstance(value, str) and value:
            effective, lost = _Path(value, document.file, document.line(*place, "config_path")), None
        elif not merges and effective is not None:
            lost, effective = (document.file, document.line("plugins", section)), None
    if lost is not None:
        node.found("containerd-import-replaces", *lost, "it replaces the whole section, with the config_path that was there")
        return ()
    if effective is None:
        _no_config_path(node, files, version)
        return ()
    folders = tuple(each for each in effective.value.split(":") if each)
    if len(folders) > 1 and (version is None or version >= (2, 1)):
        what = f"containerd {shown_version(version)} looks for a folder of the name {effective.value}"
        node.found("containerd-path-list", effective.file, effective.line, what)
    return folders


def _section(document: Document, version: Version | None) -> str:
    given = document.get("version")
    number = given if isinstance(given, int) and given in _SECTIONS else 1 if given is None else 3
    if number == 1 and version is not None and version >= (2,):
        number = 2  # containerd 2 has given version 1 up and reads such a file as the oldest it knows
    return _SECTIONS[number]


def _misplaced(node: Node, document: Document, section: str) -> None:
    for name in _CRI - {section}:
        if document.get("plugins", name, "registry", "config_path"):
            line = document.line("plugins", name, "registry", "config_path")
            what = f'version {document.get("version") or 1} of the file reads plugins."{section}", not plugins."{name}"'
            node.found("containerd-wrong-section", document.file, line, what)


def _no_config_path(node: Node, files: list[Document], version: Version | None) -> None:
    told = {finding.id for finding in node.findings}
    if told & {"containerd-wrong-section", "containerd-registry-mirrors"}:
        return  # that is why
    main, file = files[0] if files else None, config_file(node)
    section = _SECTIONS[2] if main is None else _section(main, version)
    line = main.line("plugins", section, "registry") if main is not None and section in main.table("plugins") else 0
    if version is not None and version >= (2, 2):
        what = f"config_path is not set, and the default of containerd {shown_version(version)} is a list"
        node.found("containerd-path-list", file, line, what)
    else:
        node.found("containerd-no-config-path", file, line, "config_path is not set" if main else "there is no such file")


# -- who pulls without CRI ------------------------------------------------------------------------------------------------


def _nerdctl(node: Node, roots: tuple[str, ...]) -> None:
    try:
        document = node.toml(_NERDCTL)
    except Unreadable as error:
        node.trouble(_NERDCTL, error)
        return
    if document is None:
        return
    given: Any = document.get("hosts_dir")
    if given is not None and not set(texts(given)) & set(roots):
        node.found("nerdctl-hosts-dir", _NERDCTL, document.line("hosts_dir"), f"hosts_dir is {list(texts(given))}")


def _ctr(node: Node) -> None:
    """Units, cron tables and scripts that pull with ctr."""
    for file, line, text in _written_down(node):
        for found in _CTR_PULL.finditer(text):
            if "--hosts-dir" not in found["rest"]:
                node.found("ctr-hosts-dir", file, line, found.group().strip()[:200])


def _written_down(node: Node) -> list[tuple[str, int, str]]:
    lines: list[tuple[str, int, str]] = []
    folder = "/etc/systemd/system"
    units = [name for name in node.names(folder) if name.endswith((".service", ".timer"))]
    lines += node.units(*units)
    for each in _SCRIPTS:
        for name in node.names(each):
            if node.path(f"{each}/{name}").is_file() and " pull" in (text := _script(node, f"{each}/{name}")):
                lines += logical_lines(f"{each}/{name}", text)
    return lines


def _script(node: Node, file: str) -> str:
    """The text of a script; "" for programs."""
    try:
        with node.path(file).open("rb") as opened:
            if opened.read(4) == b"\x7fELF":
                return ""
    except OSError:
        return ""
    return node.lenient(file)
