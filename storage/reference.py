"""Names of images, parsed once: registry, repository, tag, reference.

The grammar is that of the OCI distribution specification 1.1 ("Pulling manifests"); the registry host follows RFC 3986 as
far as registries use it. ``docker.io`` is spelled one way: ``index.docker.io``, ``registry-1.docker.io`` and
``registry.hub.docker.com`` are the same registry, and a repository of a single component gets ``library/``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from storage.digest import Digest
from storage.errors import MalformedName

DOCKER_HUB = "docker.io"
_HUB_ALIASES = (DOCKER_HUB, "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com")
#: Names are printable ASCII: a prefix followed by this sorts behind every continuation of it.
AFTER_ASCII = "\x7f"
#: Names longer than this are refused before any pattern sees them (the specification's limit for ``<name>``).
MAX_NAME = 255
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", re.ASCII)
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]+\])(?::[0-9]{{1,5}})?", re.ASCII)


def parse_registry(text: str) -> str:
    """Canonical form of a registry's host, with its port if any. Raises :class:`MalformedName`."""
    # ASCII first: there are letters outside of it whose lower case is inside (the Kelvin sign is one).
    lowered = text.lower() if text.isascii() else ""
    if len(text) > MAX_NAME or not _REGISTRY.fullmatch(lowered):
        raise MalformedName(f"{text[:100]!r} is not a registry: write host or host:port")
    _, _, port = lowered.rpartition(":")
    if not lowered.endswith("]") and ":" in lowered and not 0 < int(port) < 65536:
        raise MalformedName(f"{text[:100]!r} has a port outside 1-65535")
    return DOCKER_HUB if lowered in _HUB_ALIASES else lowered


def spellings(registry: str) -> tuple[str, ...]:
    """Every name under which clients may ask for a registry given in its canonical form, which comes first."""
    return _HUB_ALIASES if registry == DOCKER_HUB else (registry,)


def parse_tag(text: str) -> str:
    """Return ``text`` if it is a tag. Raises :class:`MalformedName`."""
    if not _TAG.fullmatch(text):
        raise MalformedName(f"{text[:130]!r} is not a tag: up to 128 of A-Z a-z 0-9 _ . -, not starting with . or -")
    return text


@dataclass(frozen=True, slots=True, order=True)
class Repository:
    """One repository of one registry, in canonical spelling. The key under which rights are kept."""

    registry: str
    name: str

    @classmethod
    def of(cls, registry: str, name: str) -> Repository:
        """Build from parts, normalising Docker Hub. Raises :class:`MalformedName`."""
        registry = parse_registry(registry)
        whole = f"library/{name}" if registry == DOCKER_HUB and "/" not in name else name
        if len(whole) > MAX_NAME or not _NAME.fullmatch(whole):
            raise MalformedName(
                f"{name[:100]!r} is not a repository name: lower-case components of a-z 0-9 joined by . _ __ or -, "
                f"{MAX_NAME} characters at most"
            )
        return cls(registry, whole)

    def __str__(self) -> str:
        return f"{self.registry}/{self.name}"


@dataclass(frozen=True, slots=True)
class Reference:
    """An image as a person names it: a repository with a tag, a digest, or both (then only the digest counts)."""

    repository: Repository
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str, default_registry: str = DOCKER_HUB) -> Reference:
        """Read ``[registry/]name[:tag][@digest]``; without tag and digest the tag is ``latest``.

        The first component is a registry when it holds a dot or a colon, or is ``localhost`` (the rule every client
        follows). Raises :class:`MalformedName`.
        """
        rest, at, digest_text = text.partition("@")
        digest = Digest.parse(digest_text) if at else None
        head, slash, tail = rest.partition("/")
        registry, name = default_registry, rest
        if slash and ("." in head or ":" in head or head == "localhost"):
            registry, name = head, tail
        name, colon, tag_text = name.partition(":")
        tag = parse_tag(tag_text) if colon else (None if digest else "latest")
        return cls(Repository.of(registry, name), tag, digest)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        digest = f"@{self.digest}" if self.digest is not None else ""
        return f"{self.repository}{tag}{digest}"


@lru_cache(maxsize=4096)
def repository(registry: str, name: str) -> Repository:
    """:meth:`Repository.of`, remembered: the hot path parses the same few names again and again."""
    return Repository.of(registry, name)
