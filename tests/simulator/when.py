"""On which requests a fault acts: predicates over :class:`tests.simulator.server.Seen`, joined with ``&``, ``|`` and ``~``.

::

    when.manifest("GET", "1.0")
    when.blob() & ~when.header("Range")
    when.tags() | when.referrers()
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.simulator.server import Predicate, Seen


@dataclass(frozen=True, slots=True)
class When:
    """A predicate that can be joined with others."""

    holds: Predicate

    def __call__(self, seen: Seen) -> bool:
        return self.holds(seen)

    def __and__(self, other: When) -> When:
        return When(lambda seen: self.holds(seen) and other.holds(seen))

    def __or__(self, other: When) -> When:
        return When(lambda seen: self.holds(seen) or other.holds(seen))

    def __invert__(self) -> When:
        return When(lambda seen: not self.holds(seen))


always = When(lambda seen: True)


def _kind(kind: str, method: str | None = None, reference: str | None = None) -> When:
    return When(
        lambda seen: (
            seen.kind == kind and method in (None, seen.method) and (reference is None or seen.reference == str(reference))
        )
    )


def ping() -> When:
    """``/v2/``."""
    return _kind("ping")


def manifest(method: str | None = None, reference: object = None) -> When:
    """A manifest, by any reference or by this tag or digest."""
    return _kind("manifest", method, None if reference is None else str(reference))


def blob(method: str | None = None, reference: object = None) -> When:
    """A blob, any or this one."""
    return _kind("blob", method, None if reference is None else str(reference))


def tags() -> When:
    """``tags/list``."""
    return _kind("tags")


def referrers() -> When:
    """The referrers API."""
    return _kind("referrers")


def registry() -> When:
    """Anything below ``/v2/``."""
    return When(lambda seen: seen.kind != "other")


def path(text: str) -> When:
    """The path is exactly this."""
    return When(lambda seen: seen.path == text)


def query(text: str) -> When:
    """The query is exactly this, byte for byte."""
    return When(lambda seen: seen.target.partition("?")[2] == text)


def method(name: str) -> When:
    """The request's method."""
    return When(lambda seen: seen.method == name)


def header(name: str, value: str | None = None) -> When:
    """The header is there (with this value)."""
    return When(lambda seen: name in seen.headers and value in (None, seen.headers[name]))


def accepts(*media_types: str) -> When:
    """Each of these media types is in an Accept header."""
    return When(lambda seen: all(each in ",".join(seen.headers.getall("Accept", [])) for each in media_types))
