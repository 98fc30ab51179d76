"""Where registries are: the well-known ones as data, and the endpoint of each configured upstream.

Only what differs from the rule is written down. The rule: a registry lives at ``https://<name>`` and its token endpoint is on the
same host (so it is with GHCR, Quay, ``gcr.io`` and ``pkg.dev``, ECR, MCR, ACR, Red Hat and most others).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import MappingProxyType

from yarl import URL

from proxy.settings import Upstream
from storage.reference import DOCKER_HUB


@dataclass(frozen=True, slots=True)
class WellKnown:
    """A registry that departs from the rule."""

    url: str  #: where its API is
    realm_hosts: tuple[str, ...] = ()  #: hosts of its token endpoint besides its own
    docker_keys: tuple[str, ...] = ()  #: under which names else it stands in a Docker ``config.json``


WELL_KNOWN = MappingProxyType(
    {
        DOCKER_HUB: WellKnown(
            "https://registry-1.docker.io",
            ("auth.docker.io",),
            ("https://index.docker.io/v1/", "index.docker.io", "registry-1.docker.io"),
        ),
        "dhi.io": WellKnown("https://dhi.io", ("auth.docker.io",)),
        "registry.gitlab.com": WellKnown("https://registry.gitlab.com", ("gitlab.com",)),
        "docker.elastic.co": WellKnown("https://docker.elastic.co", ("docker-auth.elastic.co",)),
    }
)
_NOT_IN_NAMES = re.compile(r"[^A-Z0-9]")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One upstream's place in the network."""

    name: str  #: the registry's canonical name, which images carry
    url: URL  #: without a slash at the end
    realm_hosts: frozenset[str]  #: ``host`` or ``host:port`` where its token endpoint may be, its own host included
    docker_keys: tuple[str, ...]  #: its names in a Docker ``config.json``, the likeliest first
    allow_private: bool

    @classmethod
    def of(cls, name: str, upstream: Upstream) -> Endpoint:
        """Build from the configuration. Raises :class:`ValueError` when ``url`` is no plain http or https URL."""
        known = WELL_KNOWN.get(name, WellKnown(f"https://{name}"))
        url = URL((upstream.url or known.url).rstrip("/"), encoded=True)
        if url.scheme not in {"http", "https"} or not url.raw_host or url.raw_user is not None:
            raise ValueError(f"the url of upstream {name} must be http(s)://host[:port], without a user")
        if url.raw_query_string or url.raw_fragment:
            raise ValueError(f"the url of upstream {name} must have neither a query nor a fragment")
        host = url.raw_host.lower()
        hosts = {host, *(allowed.lower() for allowed in upstream.realm_hosts)}
        if url == URL(known.url):  # another endpoint, a mirror say, gets no credentials of the well-known one's
            hosts.update(known.realm_hosts)
        port = f":{url.explicit_port}" if url.explicit_port is not None else ""
        keys = dict.fromkeys((*known.docker_keys, name, host + port))
        return cls(name, url, frozenset(hosts), tuple(keys), upstream.allow_private)

    @property
    def plain(self) -> bool:
        """Whether the endpoint speaks plain HTTP."""
        return self.url.scheme == "http"

    @property
    def variable(self) -> str:
        """How the names of its environment variables begin: ``TAGSTONE_DOCKER_IO``."""
        return "TAGSTONE_" + _NOT_IN_NAMES.sub("_", self.name.upper())

    def at(self, path: str) -> URL:
        """The URL of a path below the endpoint; ``path`` starts with a slash and is sent as it is."""
        return URL(f"{self.url}{path}", encoded=True)

    def owns(self, url: URL) -> bool:
        """Whether ``url`` is at the endpoint's own origin: scheme, host and port."""
        return same_origin(self.url, url)

    def realm_refusal(self, realm: URL) -> str | None:
        """Why nothing may be sent to this token endpoint; None when it may."""
        return realm_refusal(realm, self.realm_hosts, plain=self.plain)


def same_origin(one: URL, other: URL) -> bool:
    """Whether two URLs agree in scheme, host and port."""
    return (one.scheme, (one.raw_host or "").lower(), one.port) == (other.scheme, (other.raw_host or "").lower(), other.port)


def realm_refusal(realm: URL, hosts: frozenset[str], *, plain: bool) -> str | None:
    """Why a token endpoint is not one of ``hosts`` by https (``plain``: or http); None when it is."""
    host = (realm.raw_host or "").lower()
    if realm.raw_user is not None:
        return "it carries a user"
    if realm.scheme != "https" and not (plain and realm.scheme == "http"):
        return "it is not https"
    if host in hosts or f"{host}:{realm.port}" in hosts:
        return None
    return "it is not on the registry's own host"
