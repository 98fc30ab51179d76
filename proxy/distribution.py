"""The registry API's requests, parsed once into values (OCI distribution specification 1.1, "Endpoints").

Only reading is served: end-1 to end-3, end-8 and end-12. The path is taken apart by text alone: the last components say which
endpoint it is, everything before is the name. The only percent-encoding that is understood is ``%3A`` (clients encode the
colon of a digest); any other would only serve to hide something, and is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from urllib.parse import parse_qsl

from proxy.errors import MalformedRequest
from storage.digest import Digest
from storage.errors import MalformedName
from storage.reference import parse_tag

MAX_TARGET = 4096
#: ``n`` above this is answered with this many tags (CVE-2023-2253: never allocate what a client names).
MAX_TAGS = 1000


class Endpoint(StrEnum):
    """What is asked for."""

    PING = "ping"
    MANIFEST = "manifest"
    BLOB = "blob"
    TAGS = "tags"
    REFERRERS = "referrers"


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a client. ``name`` is as it stands in the path: routing decides what it means."""

    endpoint: Endpoint
    path: str  #: without the query, for a rewritten ``Link``
    name: str = ""
    tag: str | None = None
    digest: Digest | None = None
    ns: str | None = None
    n: int | None = None
    last: str | None = None
    artifact_type: str | None = None


_ENCODED_COLON = re.compile(r"%3[aA]")
_NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)
_ARTIFACT_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+/-]{1,255}", re.ASCII)


@lru_cache(maxsize=8192)
def parse(target: str) -> Request:
    """Read the request target (path and query as they came) of a GET or HEAD. Raises :class:`MalformedRequest`."""
    if len(target) > MAX_TARGET:
        raise MalformedRequest(414, "NAME_INVALID", f"the request target is longer than {MAX_TARGET} characters")
    raw_path, _, raw_query = target.partition("?")
    if raw_path in {"/v2/", "/v2"}:
        return Request(Endpoint.PING, raw_path)
    path = _ENCODED_COLON.sub(":", raw_path)
    if "%" in path or not path.isascii() or not path.isprintable() or "\\" in path:
        raise MalformedRequest(400, "NAME_INVALID", "the path holds characters that no image name has")
    if not path.startswith("/v2/"):
        raise MalformedRequest(404, "UNSUPPORTED", "only the registry API under /v2/ is served here")
    parts = path[4:].split("/")
    query = _query(raw_query)
    ns = query.get("ns")
    if parts[-2:] == ["tags", "list"] and len(parts) > 2:
        n = query.get("n")
        if n is not None and not _NUMBER.fullmatch(n):
            raise MalformedRequest(400, "PAGINATION_NUMBER_INVALID", f"n={n[:40]!r} is not a number of tags")
        last = query.get("last")
        if last:
            _tag(last)
        limit = None if n is None else min(int(n), MAX_TAGS)
        return Request(Endpoint.TAGS, path, _name(parts[:-2]), ns=ns, n=limit, last=last or None)
    if len(parts) < 3:
        raise MalformedRequest(404, "UNSUPPORTED", "this path is no endpoint of the registry API that is served here")
    operation, reference = parts[-2], parts[-1]
    if operation == "manifests":
        name = _name(parts[:-2])
        if ":" in reference:
            return Request(Endpoint.MANIFEST, path, name, digest=_digest(reference), ns=ns)
        return Request(Endpoint.MANIFEST, path, name, tag=_tag(reference), ns=ns)
    if operation == "blobs":
        return Request(Endpoint.BLOB, path, _name(parts[:-2]), digest=_digest(reference), ns=ns)
    if operation == "referrers":
        kind = query.get("artifactType")
        if kind is not None and not _ARTIFACT_TYPE.fullmatch(kind):
            raise MalformedRequest(400, "UNSUPPORTED", "artifactType is not a media type")
        return Request(Endpoint.REFERRERS, path, _name(parts[:-2]), digest=_digest(reference), ns=ns, artifact_type=kind)
    raise MalformedRequest(404, "UNSUPPORTED", "this path is no endpoint of the registry API that is served here")


def _query(text: str) -> Mapping[str, str]:
    """The parameters we know, each at most once; others are ignored, as the specification asks."""
    if not text:
        return {}
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=32, errors="strict")
    except (ValueError, UnicodeDecodeError) as error:
        raise MalformedRequest(400, "UNSUPPORTED", "the query cannot be read") from error
    found: dict[str, str] = {}
    for key, value in pairs:
        if key in {"ns", "n", "last", "artifactType"}:
            if key in found:
                raise MalformedRequest(400, "UNSUPPORTED", f"{key} is given twice: which one is meant?")
            found[key] = value
    return found


def _name(parts: list[str]) -> str:
    name = "/".join(parts)
    # The grammar of the name proper is checked by routing, once it is known where the registry's name ends.
    if not name or "" in parts or "." in parts or ".." in parts:
        raise MalformedRequest(400, "NAME_INVALID", f"{name[:100]!r} is not a repository name")
    return name


def _digest(text: str) -> Digest:
    try:
        return Digest.parse(text)
    except MalformedName as error:
        raise MalformedRequest(400, "DIGEST_INVALID", str(error)) from error


def _tag(text: str) -> str:
    try:
        return parse_tag(text)
    except MalformedName as error:
        raise MalformedRequest(400, "TAG_INVALID", str(error)) from error
