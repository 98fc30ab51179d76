"""Which registry a request means: ``?ns=``, path prefix, host name, default registry. In this order, and never two at once.

The name that a client gives is only ever a key into the configured upstreams; nothing here, and nothing behind it, dials what
a client wrote. A request that names two registries is refused rather than guessed at.

In a path a registry with a port is written with two underscores, ``registry.example__5000``: docker and podman allow no colon in
a component of a name. The colon itself is understood, too, for clients that send it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from proxy.errors import MalformedRequest
from storage.errors import MalformedName
from storage.reference import Repository, parse_registry, repository

_PORT = re.compile(r"__([0-9]{1,5})", re.ASCII)


def component(registry: str) -> str:
    """A registry's name as the first component of a path."""
    host, colon, port = registry.rpartition(":")
    return f"{host}__{port}" if colon and not registry.endswith("]") else registry


@dataclass(frozen=True, slots=True)
class Router:
    """The configured names. ``upstreams`` and the values of ``hosts`` are canonical registry names."""

    upstreams: Collection[str]
    hosts: Mapping[str, str]  #: Host header (lower case, with port if it matters) → registry
    default_registry: str

    def route(self, name: str, ns: str | None, host: str | None) -> Repository:
        """The repository that is meant.

        Raises :class:`MalformedRequest`: 400 for malformed or contradictory names, 403 for registries that are not configured.
        """
        prefix, rest = self._prefix(name)
        named = self._named(ns, host)
        if named is None:
            if prefix is not None:
                return self._build(self._listed(prefix), rest)
            return self._build(self._listed(self.default_registry), name)
        if prefix == named:
            return self._build(named, rest)
        if prefix is not None and prefix in self.upstreams:
            raise MalformedRequest(400, "NAME_INVALID", f"the path names the registry {prefix}, the request also names {named}")
        return self._build(named, name)

    def stands_for(self, host: str) -> str | None:
        """The registry that a host name of this proxy stands for; None where it stands for none."""
        lowered = host.lower()
        return self.hosts.get(lowered) or self.hosts.get(lowered.rpartition(":")[0])

    def _named(self, ns: str | None, host: str | None) -> str | None:
        """What ``ns`` or the host name says; both may, if they agree."""
        mapped = self.stands_for(host) if host else None
        if ns is None:
            return mapped
        try:
            named = self._listed(parse_registry(ns))
        except MalformedName as error:
            raise MalformedRequest(400, "NAME_INVALID", f"ns: {error}") from error
        if mapped is not None and mapped != named:
            raise MalformedRequest(400, "NAME_INVALID", f"ns names the registry {named}, the host name stands for {mapped}")
        return named

    @staticmethod
    def _prefix(name: str) -> tuple[str | None, str]:
        """The registry that the first component names (the rule that clients follow: a dot, a colon, or localhost)."""
        head, slash, tail = name.partition("/")
        host, underscores, port = head.rpartition("__")
        if ("." in host or host == "localhost") and _PORT.fullmatch(underscores + port):
            head = f"{host}:{port}"
        if not slash or not ("." in head or ":" in head or head == "localhost"):
            return None, name
        try:
            return parse_registry(head), tail
        except MalformedName as error:
            if ":" in head:
                raise MalformedRequest(400, "NAME_INVALID", str(error)) from error
            return None, name

    def _listed(self, registry: str) -> str:
        if registry not in self.upstreams:
            raise MalformedRequest(
                403, "DENIED", f"the registry {registry} is not configured here; an operator can add it under upstreams"
            )
        return registry

    @staticmethod
    def _build(registry: str, name: str) -> Repository:
        try:
            return repository(registry, name)
        except MalformedName as error:
            raise MalformedRequest(400, "NAME_INVALID", str(error)) from error
