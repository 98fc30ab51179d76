"""What is wished for, and what comes of it: frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import PurePosixPath

from proxy.clients.endpoint import Endpoint, Release
from proxy.clients.kinds import Client, Store
from proxy.policy import canary
from storage.reference import DOCKER_HUB, parse_registry, spellings

#: Pulling it proves that a refusal is a refusal: no Tagstone serves it.
CANARY = f"{canary.REPOSITORY}:latest"


class Owner(Enum):
    """Whose file it is, which decides how it is installed over one that is there."""

    TAGSTONE = "tagstone"  #: a drop-in: replaced
    DAEMON_JSON = "daemon.json"  #: merged key by key
    POLICY_JSON = "policy.json"  #: merged, what it rejects by default made sure
    TOML = "toml"  #: added to, where that can be proven to change nothing else
    OTHERS = "others"  #: written only where there is none, or one that Tagstone wrote


@dataclass(frozen=True, slots=True)
class File:
    """One file: where it belongs on the client's machine (relative: nowhere in particular) and what is in it."""

    path: PurePosixPath
    content: str
    owner: Owner = Owner.TAGSTONE
    #: By the ``version`` of the file that is there, where the form depends on it.
    forms: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Proof:
    """How a person sees that it holds."""

    command: str
    expect: str


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person wants configured. Raises MalformedName for registries that are none, ValueError for what cannot be had."""

    client: Client
    endpoint: Endpoint
    registries: tuple[str, ...]  #: canonical once built
    release: Release | None = None  #: of the client; None: every version that is covered
    authority: str | None = None  #: certificates in PEM by which Tagstone's is checked
    everything: bool = False  #: also every registry that is not named
    store: Store | None = None  #: dockerd's; None: what its version starts with

    def __post_init__(self) -> None:
        names = dict.fromkeys(map(parse_registry, self.registries))
        if not names and not self.everything:
            raise ValueError("no registry is configured or named, so there is nothing to write")
        if self.endpoint.plain and self.authority is not None:
            raise ValueError(f"{self.endpoint.url} speaks no TLS, so a certificate authority means nothing: write https://")
        if self.store is not None and self.client is not Client.DOCKER:
            raise ValueError(f"only docker has image stores to choose from, not {self.client}")
        object.__setattr__(self, "registries", tuple(names))
        if self.endpoint.host in self.names:
            raise ValueError(f"{self.endpoint.host} is where Tagstone is; it cannot be a registry that is sent there")

    @property
    def names(self) -> tuple[str, ...]:
        """Every spelling of every registry: a client that asks for another one would go around."""
        return tuple(spelling for registry in self.registries for spelling in spellings(registry))

    @property
    def canary(self) -> str:
        """The image of the proof."""
        return f"{self.registries[0] if self.registries else DOCKER_HUB}/{CANARY}"


@dataclass(frozen=True, slots=True)
class Rendering:
    """The files, and everything a person should know before using them."""

    client: Client
    covers: str  #: versions
    files: tuple[File, ...]
    proof: Proof
    warnings: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()  #: what is left to do by hand, in order
