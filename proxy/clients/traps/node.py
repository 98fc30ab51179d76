"""The node that is examined: its files below a root, the versions of its clients, and what is to hold on it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import urlsplit

from proxy.clients import reading
from proxy.clients.reading import Document, Unreadable
from proxy.clients.traps.table import Finding
from storage.errors import MalformedName
from storage.reference import DOCKER_HUB, parse_registry

_VERSION = re.compile(r"\bv?(\d{1,4})\.(\d{1,4})(?:\.(\d{1,6}))?")
_MAX_LINKS = 40
_ASK_TIMEOUT = 10.0
#: Most files that are looked at in one folder.
_MAX_ENTRIES = 2000
_BINARIES: Final = (
    "usr/bin",
    "usr/sbin",
    "usr/local/bin",
    "usr/local/sbin",
    "opt/bin",
    "bin",
    "sbin",
    "var/lib/rancher/rke2/bin",
)

Version = tuple[int, ...]


def parse_version(text: str) -> Version | None:
    """The first version number in ``text``."""
    found = _VERSION.search(text)
    return None if found is None else tuple(int(part) for part in found.groups() if part is not None)


def shown_version(version: Version | None) -> str:
    """For people."""
    return "unknown version" if version is None else ".".join(map(str, version))


@dataclass(frozen=True, slots=True)
class Target:
    """A place that a client asks: scheme ("" where the file names none), host with its port as written, path."""

    scheme: str
    host: str
    path: str

    @classmethod
    def parse(cls, text: str) -> Target | None:
        """Read ``URL``, ``host:port`` or ``host:port/path``. None for what is neither."""
        rest = text.strip()
        if "://" not in rest:
            rest = f"//{rest}"
        try:
            parts = urlsplit(rest)
            port = parts.port
        except ValueError:
            return None
        if not parts.hostname:
            return None
        scheme = parts.scheme.lower()
        if (scheme, port) in {("https", 443), ("http", 80)}:
            port = None
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return cls(scheme, host if port is None else f"{host}:{port}", parts.path.rstrip("/"))

    @property
    def loopback(self) -> bool:
        """Whether nobody else can be on the way."""
        name = self.host.rpartition(":")[0] if re.search(r":\d+$", self.host) else self.host
        return name in {"localhost", "[::1]"} or name.startswith("127.")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}{self.path}" if self.scheme else f"{self.host}{self.path}"


@dataclass(frozen=True, slots=True)
class Expected:
    """What is to hold on the node: these registries come through these proxies and no other way."""

    proxies: tuple[Target, ...]
    registries: tuple[str, ...] = ()  #: canonical names
    default_registry: str = DOCKER_HUB

    def proxy(self, endpoint: Target | None) -> Target | None:
        """The proxy that an endpoint names, whatever the scheme; None for anything else."""
        if endpoint is None:
            return None
        for proxy in self.proxies:
            if endpoint.host == proxy.host:
                return proxy
            # A file that names no scheme leaves the port of https out or writes it.
            if not endpoint.scheme and endpoint.host in {f"{proxy.host}:443", f"{proxy.host}:80"}:
                return proxy
        return None

    def is_proxy(self, text: str) -> bool:
        """Whether a URL or location names the proxy."""
        return self.proxy(Target.parse(text)) is not None

    def wants(self, registry: str) -> bool:
        """Whether this registry is to come through the proxy: where nothing is known of that, any may be meant to."""
        return not self.registries or canonical(registry) in self.registries


def canonical(registry: str) -> str:
    """A registry's name spelled one way; as it stands where it is none."""
    try:
        return parse_registry(registry)
    except MalformedName:
        return registry


@dataclass(slots=True)
class Node:
    """A file system below ``root``. What is read and found is collected here, by client.

    Symbolic links are the node's own and are followed within the root. Versions come from ``assumed``, else, where the root is
    this machine's, from the programs themselves.
    """

    root: Path
    assumed: Mapping[str, Version] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    troubles: list[Finding] = field(default_factory=list)  #: files that could not be examined (without an entry in the table)
    read: list[str] = field(default_factory=list)
    _versions: dict[str, Version | None] = field(default_factory=dict)

    @property
    def live(self) -> bool:
        """Whether it is the machine that this runs on."""
        return self.root == Path("/")

    def found(self, trap: str, file: str, line: int, what: str) -> None:
        """Note a trap, once."""
        finding = Finding(file, line, trap, what)
        if finding not in self.findings:
            self.findings.append(finding)

    def trouble(self, file: str, error: Unreadable) -> None:
        """Note a file that could not be examined."""
        self.troubles.append(Finding(file, error.line, "", str(error)))

    # -- files --------------------------------------------------------------------------------------------------------

    def path(self, shown: str) -> Path:
        """Where a path of the node is for us, its symbolic links followed as the node itself would."""
        parts = [part for part in reversed(PurePosixPath("/", shown).parts) if part != "/"]
        at: list[str] = []
        links = 0
        while parts:
            part = parts.pop()
            if part == "..":
                at = at[:-1]
                continue
            here = self.root.joinpath(*at, part)
            try:
                target = str(here.readlink())
            except (OSError, ValueError):
                at.append(part)
                continue
            links += 1
            if links > _MAX_LINKS:
                return self.root.joinpath(*at, part)  # reading it says that it leads nowhere
            if target.startswith("/"):
                at = []
            parts += [each for each in reversed(PurePosixPath(target).parts) if each != "/"]
        return self.root.joinpath(*at)

    def exists(self, shown: str) -> bool:
        """Whether there is anything."""
        return self.path(shown).exists()

    def is_dir(self, shown: str) -> bool:
        """Whether there is a folder."""
        return self.path(shown).is_dir()

    def names(self, shown: str, suffix: str = "") -> tuple[str, ...]:
        """The sorted names in a folder."""
        try:
            with os.scandir(self.path(shown)) as entries:
                found = [entry.name for _, entry in zip(range(_MAX_ENTRIES), entries, strict=False)]
        except OSError:
            return ()
        return tuple(sorted(name for name in found if name.endswith(suffix)))

    def text(self, shown: str) -> str | None:
        """The text of a file; None where there is none. Raises :class:`Unreadable`."""
        try:
            text = reading.read_text(self.path(shown))
        except FileNotFoundError:
            return None
        if shown not in self.read:
            self.read.append(shown)
        return text

    def toml(self, shown: str) -> Document | None:
        """A TOML file; None where there is none. Raises :class:`Unreadable`."""
        return None if (text := self.text(shown)) is None else reading.toml(text, shown)

    def json(self, shown: str) -> Document | None:
        """A JSON file; None where there is none. Raises :class:`Unreadable`."""
        return None if (text := self.text(shown)) is None else reading.parse_json(text, shown)

    def yaml(self, shown: str) -> tuple[Document, ...] | None:
        """The documents of a YAML file; None where there is none. Raises :class:`Unreadable`."""
        return None if (text := self.text(shown)) is None else reading.parse_yaml(text, shown)

    def lenient(self, shown: str) -> str:
        """The text of a file that decides nothing by itself; "" where it cannot be had."""
        try:
            return reading.read_text(self.path(shown))
        except (FileNotFoundError, Unreadable):
            return ""

    # -- programs -----------------------------------------------------------------------------------------------------

    def program(self, name: str) -> Path | None:
        """Where a program is."""
        return next((path for each in _BINARIES if (path := self.path(f"/{each}/{name}")).is_file()), None)

    def version(self, name: str) -> Version | None:
        """The version of a client; None where nobody can tell."""
        if name in self.assumed:
            return self.assumed[name]
        if name not in self._versions:
            self._versions[name] = self._ask(name) if self.live else None
        return self._versions[name]

    def _ask(self, name: str) -> Version | None:
        program = self.program({"docker": "dockerd"}.get(name, name))
        if program is None:
            return None
        try:
            done = subprocess.run(  # noqa: S603 - a program of this machine, by its full path, without a shell
                (program, "--version"), stdin=subprocess.DEVNULL, capture_output=True, timeout=_ASK_TIMEOUT, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None  # then the traps of all versions are told
        return parse_version(done.stdout[:4096].decode("utf-8", "replace"))

    def units(self, *names: str) -> Iterator[tuple[str, int, str]]:
        """The lines of systemd's units and their drop-ins: file, line, text. A continued line counts as one."""
        folders = ("/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
        for folder in folders:
            for name in names:
                drop_ins = [f"{folder}/{name}.d/{each}" for each in self.names(f"{folder}/{name}.d", ".conf")]
                for file in (f"{folder}/{name}", *drop_ins):
                    yield from logical_lines(file, self.lenient(file))


def logical_lines(file: str, text: str) -> Iterator[tuple[str, int, str]]:
    """Lines with those that end in a backslash joined to the next; comments left out."""
    held, start = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        start = start or number
        if line.rstrip().endswith("\\"):
            held += line.rstrip()[:-1] + " "
            continue
        whole, at = held + line, start
        held, start = "", 0
        if whole.strip() and not whole.lstrip().startswith(("#", ";")):
            yield file, at, whole


def listed(names: Iterable[str], most: int = 5) -> str:
    """Names for people, the first few of them."""
    known = sorted(set(names))
    more = len(known) - most
    return ", ".join(known[:most]) + (f" and {more} more" if more > 0 else "")
