"""Where an image says it was built from: SLSA provenance, v0.2 and v1, as GitHub, BuildKit, Tekton and others write it.

Only read from attestations whose signature held. Even then it is the builder's word, so it is told and never decided on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

V02 = "https://slsa.dev/provenance/v0.2"
V1 = "https://slsa.dev/provenance/v1"
#: Predicate types that are read: the versions of SLSA that people sign, and their minor spellings.
TYPES = frozenset({V02, V1, "https://slsa.dev/provenance/v0.1", "https://slsa.dev/provenance/v1.0"})
#: Longest name that is taken; what is longer names nothing.
_LONGEST = 2000


@dataclass(frozen=True, slots=True, order=True)
class Provenance:
    """What was built, and by whom. Empty: it does not say."""

    source: str = ""  #: the repository, without ``git+`` and ``.git``
    ref: str = ""  #: branch, tag or commit
    builder: str = ""


def read_provenance(predicate_type: str, predicate: object) -> Provenance | None:
    """What a predicate says; None where it is of another type, or says nothing of this. Never raises."""
    if predicate_type not in TYPES or not isinstance(predicate, Mapping):
        return None
    builder = _text(_at(predicate, "runDetails", "builder", "id")) or _text(_at(predicate, "builder", "id"))
    source, ref = "", ""
    for uri, beside in _sources(predicate):
        source, ref = _parted(uri)
        ref = beside or ref
        if source:
            break
    found = Provenance(source, ref, builder)
    return None if found == Provenance() else found


def same_builder(one: str, other: str) -> bool:
    """Whether two builders are the same, the version of the builder's own workflow aside."""
    return _unversioned(one) == _unversioned(other)


def _sources(predicate: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Where the source may be named, the most telling first; with the ref where that stands beside it."""
    workflow = _at(predicate, "buildDefinition", "externalParameters", "workflow")
    yield _text(_at(workflow, "repository")), _text(_at(workflow, "ref"))
    for key in ("source", "configSource"):
        place = _at(predicate, "buildDefinition", "externalParameters", key)
        yield _text(place) or _text(_at(place, "uri")) or _text(_at(place, "repository")), _text(_at(place, "ref"))
    yield _text(_at(predicate, "invocation", "configSource", "uri")), ""
    for listed in (_at(predicate, "buildDefinition", "resolvedDependencies"), _at(predicate, "materials")):
        if isinstance(listed, list):
            for each in listed[:16]:
                uri = _text(_at(each, "uri"))
                if uri.startswith(("git+", "https://")):
                    yield uri, ""


def _at(node: object, *path: str) -> object:
    for key in path:
        if not isinstance(node, Mapping):
            return None
        node = node.get(key)
    return node


def _text(value: object) -> str:
    return value if isinstance(value, str) and len(value) <= _LONGEST else ""


def _parted(uri: str) -> tuple[str, str]:
    """Repository and ref of ``git+https://host/path.git@refs/…`` or ``https://host/path.git#ref``."""
    uri = uri.removeprefix("git+")
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return uri, ""
    # An @ in front of the first slash belongs to the host.
    host, slash, path = rest.partition("/")
    at = min((place for place in (path.find("@"), path.find("#")) if place >= 0), default=len(path))
    return f"{scheme}://{host}{slash}{path[:at].rstrip('/').removesuffix('.git')}", path[at + 1 :]


def _unversioned(builder: str) -> str:
    return builder.partition("@refs/tags/")[0]
