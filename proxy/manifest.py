"""Manifests and indexes, read strictly (OCI image specification 1.1; Docker image manifest V2, schema 2).

A document is accepted only if every reader must understand it the same way. Refused are: what is not strict JSON (duplicate
keys, NaN, invalid UTF-8, deep nesting), a Content-Type that contradicts ``mediaType`` and a document that is image and index
at once (CVE-2021-41190), keys that differ from the known ones only in case (Go readers would take them for the known ones),
schema 1, unknown types, malformed digests (CVE-2024-3727), negative, contradictory or excessive sizes, and descriptors with
``urls``, which clients dial past any mirror (CVE-2020-15157). Only the raw bytes are ever stored or served.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from proxy.errors import ManifestRefused
from storage.digest import Digest
from storage.errors import MalformedName
from storage.records import Descriptor, Edge, Kind

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
IMAGE_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_LIST})
MANIFEST_TYPES = IMAGE_TYPES | INDEX_TYPES
#: What servers say when they do not know; the document's own ``mediaType`` decides then.
_UNTYPED = frozenset({"", "application/json", "application/octet-stream", "text/plain", "binary/octet-stream"})
_SCHEMA_1 = re.compile(r"application/vnd\.docker\.distribution\.manifest\.v1(\+json|\+prettyjws)")
#: RFC 6838 §4.2; a few parameters are let through because older Sigstore bundles carry their version in one.
_MEDIA_TYPE = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}(; ?[a-z]{1,32}=[A-Za-z0-9._-]{1,64}){0,4}",
    re.ASCII,
)

_TOP_KEYS = ("schemaVersion", "mediaType", "artifactType", "config", "layers", "manifests", "subject", "annotations")
_FOREIGN_KEYS = ("fsLayers", "history", "signatures", "blobs")
_DESCRIPTOR_KEYS = ("mediaType", "digest", "size", "urls", "annotations", "data", "artifactType", "platform")
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}", re.ASCII)
#: Most values in a document. In the largest manifests each takes more than 32 bytes, since they hold digests, media types and
#: annotations; four megabytes of empty lists would swell to hundreds, and hold up every thread meanwhile.
MOST_VALUES = 1 << 17
_PLATFORM_KEYS = ("architecture", "os", "os.version", "os.features", "variant", "features")


@dataclass(frozen=True, slots=True)
class Bounds:
    """How large a document may be and how much it may promise. Sizes in bytes."""

    manifest_size: int = 4 << 20
    json_depth: int = 32
    index_manifests: int = 1000
    layers: int = 500
    blob_size: int = 64 << 30
    index_depth: int = 3  #: indexes within indexes
    index_total: int = 256 << 20  #: sum of the sizes that an index declares for its manifests


@dataclass(frozen=True, slots=True)
class Entry:
    """One descriptor of a document, with its annotations."""

    descriptor: Descriptor
    annotations: Mapping[str, str]
    artifact_type: str | None = None
    platform: str = ""  #: ``linux/arm64/v8``, as an index says; empty where it says none in plain words


@dataclass(frozen=True, slots=True)
class Manifest:
    """A document that passed every check."""

    media_type: str
    is_index: bool
    config: Descriptor | None
    layers: tuple[Entry, ...]
    manifests: tuple[Entry, ...]
    subject: Descriptor | None
    artifact_type: str | None
    annotations: Mapping[str, str]

    def edges(self, digest: Digest) -> tuple[Edge, ...]:
        """What this document, stored under ``digest``, reaches: its manifests, or its config and layers."""
        kind = Kind.MANIFEST if self.is_index else Kind.BLOB
        reached = [entry.descriptor for entry in (*self.manifests, *self.layers)]
        if self.config is not None:
            reached.insert(0, self.config)
        return tuple(Edge(digest, descriptor, kind) for descriptor in dict.fromkeys(reached))


def values_in(body: bytes) -> int:
    """How many values a JSON document holds at most, told without reading it."""
    # Every value but the first stands behind one of these. Some may be in texts: those are counted, too.
    return 1 + sum(map(body.count, (b",", b"[", b"{")))


def strict_json(body: bytes, depth: int = 32, most: int | None = MOST_VALUES) -> object:
    """Read JSON that means one thing only. Raises :class:`ManifestRefused`; the caller has bounded ``len(body)``.

    ``most`` bounds the number of its values, and that before anything is built of them. None: there is no bound.
    """
    if most is not None and values_in(body) > most:
        raise ManifestRefused(f"the document holds more than {most} values")
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise ManifestRefused("the document is not valid UTF-8") from error
    except RecursionError as error:
        raise ManifestRefused(f"the document is nested deeper than {depth} levels") from error
    except ValueError as error:
        raise ManifestRefused(f"the document is not valid JSON: {error}") from error
    _walk(value, depth)
    return value


def parse(body: bytes, media_type: str, bounds: Bounds) -> Manifest:
    """Read a manifest or an index. ``media_type`` is the Content-Type it came with, without parameters ("" if none).

    Raises :class:`ManifestRefused` with the rule that the document breaks.
    """
    if len(body) > bounds.manifest_size:
        raise ManifestRefused(f"the manifest has {len(body)} bytes; the limit is {bounds.manifest_size}")
    if _SCHEMA_1.fullmatch(media_type):
        raise ManifestRefused(
            "this is a Docker schema 1 manifest, which cannot be verified; push the image again with a current tool"
        )
    document = strict_json(body, bounds.json_depth)
    if not isinstance(document, dict):
        raise ManifestRefused("the document is not a JSON object")
    _known_spelling(document, (*_TOP_KEYS, *_FOREIGN_KEYS), "the manifest")
    version = document.get("schemaVersion")
    if version == 1 or "fsLayers" in document:
        raise ManifestRefused(
            "this is a Docker schema 1 manifest, which cannot be verified; push the image again with a current tool"
        )
    if version != 2 or isinstance(version, bool) or not isinstance(version, int):
        raise ManifestRefused("schemaVersion is not 2: this is no image manifest or index")
    kind = _media_type(document, media_type)
    for key in _FOREIGN_KEYS:
        if key in document:
            raise ManifestRefused(f"the manifest has a key that does not belong to its type: {key}")
    seen: dict[Digest, int] = {}
    subject = document.get("subject")
    artifact_type = document.get("artifactType")
    if artifact_type is not None and (
        not isinstance(artifact_type, str) or (artifact_type and not _MEDIA_TYPE.fullmatch(artifact_type))
    ):
        raise ManifestRefused("artifactType is not a media type")
    is_index = kind in INDEX_TYPES
    config: Descriptor | None = None
    layers: tuple[Entry, ...] = ()
    manifests: tuple[Entry, ...] = ()
    if is_index:
        if document.get("layers") is not None or document.get("config") is not None:
            raise ManifestRefused(
                "the document is an index that also has layers or config: it would mean two things (CVE-2021-41190)"
            )
        manifests = _entries(document.get("manifests"), "manifests", bounds.index_manifests, bounds.manifest_size, seen)
        if (total := sum(entry.descriptor.size for entry in manifests)) > bounds.index_total:
            raise ManifestRefused(f"the index declares {total} bytes of manifests; the limit is {bounds.index_total}")
    else:
        if document.get("manifests") is not None:
            raise ManifestRefused(
                "the document is an image manifest that also has manifests: it would mean two things (CVE-2021-41190)"
            )
        config = _entry(document.get("config"), "config", bounds.blob_size, seen).descriptor
        layers = _entries(document.get("layers"), "layers", bounds.layers, bounds.blob_size, seen)
    return Manifest(
        kind,
        is_index,
        config,
        layers,
        manifests,
        None if subject is None else _entry(subject, "subject", bounds.blob_size, seen).descriptor,
        artifact_type or None,
        _annotations(document.get("annotations"), "the manifest"),
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice[:60]!r} stands twice in one object")
    return found


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _walk(value: object, depth: int) -> None:
    """Bound the nesting, and refuse text that no UTF-8 can carry (lone surrogates from ``\\ud800``)."""
    level: list[object] = [value]
    for _ in range(depth + 1):
        below: list[object] = []
        for item in level:
            if isinstance(item, str):
                _encodable(item)
            elif isinstance(item, dict):
                for key in item:
                    _encodable(key)
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
        if not below:
            return
        level = below
    raise ManifestRefused(f"the document is nested deeper than {depth} levels")


def _encodable(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ManifestRefused("the document holds half a surrogate pair, which is no Unicode text") from error


def _known_spelling(document: Mapping[str, object], known: Iterable[str], what: str) -> None:
    exact = set(known)
    folded = {key.casefold(): key for key in exact}
    for key in document:
        if key not in exact and (meant := folded.get(key.casefold())) is not None:
            raise ManifestRefused(f"{what} has a key {key[:60]!r}, which some clients would read as {meant!r}")


def _media_type(document: Mapping[str, Any], header: str) -> str:
    own = document.get("mediaType")
    if own is not None and not isinstance(own, str):
        raise ManifestRefused("mediaType is not text")
    if header in _UNTYPED:
        if not own:
            raise ManifestRefused("neither the answer nor the document says which media type it is")
        kind = own
    else:
        kind = header
        if own and own != header:
            raise ManifestRefused(f"it was sent as {header[:100]!r} but calls itself {own[:100]!r} (CVE-2021-41190)")
    if _SCHEMA_1.fullmatch(kind):
        raise ManifestRefused(
            "this is a Docker schema 1 manifest, which cannot be verified; push the image again with a current tool"
        )
    if kind not in MANIFEST_TYPES:
        raise ManifestRefused(
            f"{kind[:100]!r} is not a manifest type that is handed out: OCI or Docker schema 2, manifest or index"
        )
    return kind


def _entries(value: object, where: str, count: int, size: int, seen: dict[Digest, int]) -> tuple[Entry, ...]:
    if not isinstance(value, list):
        raise ManifestRefused(f"{where} is not a list")
    if len(value) > count:
        raise ManifestRefused(f"{where} has {len(value)} entries; the limit is {count}")
    return tuple(_entry(item, f"{where}[{position}]", size, seen) for position, item in enumerate(value))


def _entry(value: object, where: str, limit: int, seen: dict[Digest, int]) -> Entry:
    if not isinstance(value, dict):
        raise ManifestRefused(f"{where} is not a descriptor")
    _known_spelling(value, _DESCRIPTOR_KEYS, where)
    media_type, digest_text, size = value.get("mediaType"), value.get("digest"), value.get("size")
    if not isinstance(media_type, str) or not _MEDIA_TYPE.fullmatch(media_type):
        raise ManifestRefused(f"{where} has no proper mediaType")
    if not isinstance(digest_text, str):
        raise ManifestRefused(f"{where} has no digest")
    try:
        digest = Digest.parse(digest_text)
    except MalformedName as error:
        raise ManifestRefused(f"{where}: {error}") from error
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ManifestRefused(f"{where} has no proper size")
    if size > limit:
        raise ManifestRefused(f"{where} declares {size} bytes; the limit is {limit}")
    if seen.setdefault(digest, size) != size:
        raise ManifestRefused(f"{where}: {digest.short} is declared with two sizes, {seen[digest]} and {size}")
    if value.get("urls") not in (None, []):
        raise ManifestRefused(f"{where} has urls: clients would fetch it from there, past this proxy (CVE-2020-15157)")
    if (data := value.get("data")) is not None:
        _embedded(data, digest, size, where)
    artifact_type = value.get("artifactType")
    if artifact_type is not None and not isinstance(artifact_type, str):
        raise ManifestRefused(f"{where}: artifactType is not text")
    if (platform := value.get("platform")) is not None:
        if not isinstance(platform, dict):
            raise ManifestRefused(f"{where}: platform is not an object")
        _known_spelling(platform, _PLATFORM_KEYS, f"{where}: platform")
    descriptor, annotations = Descriptor(media_type, digest, size), _annotations(value.get("annotations"), where)
    return Entry(descriptor, annotations, artifact_type, _platform(platform or {}))


def _platform(value: Mapping[str, object]) -> str:
    parts = [value.get(key) for key in ("os", "architecture", "variant")]
    plain = [part for part in parts if isinstance(part, str) and _PLAIN.fullmatch(part)]
    return "/".join(plain) if len(plain) >= 2 else ""


def _embedded(data: object, digest: Digest, size: int, where: str) -> None:
    """A descriptor may carry its content; some readers use it instead of fetching, so it must be the same content."""
    if not isinstance(data, str):
        raise ManifestRefused(f"{where}: data is not text")
    try:
        content = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ManifestRefused(f"{where}: data is not base64") from error
    if len(content) != size or not digest.matches(content):
        raise ManifestRefused(f"{where}: the embedded data is not the content that its digest names")


def _annotations(value: object, where: str) -> Mapping[str, str]:
    if value is None:
        return MappingProxyType({})
    if not isinstance(value, dict):
        raise ManifestRefused(f"{where}: annotations are not an object")
    for key, text in value.items():
        if not isinstance(text, str):
            raise ManifestRefused(f"{where}: the annotation {key[:60]!r} is not text")
        # Readers build paths and look-ups from these (CVE-2024-3727); builders leave them empty for images from scratch.
        if text and key.endswith(".digest"):
            try:
                Digest.parse(text)
            except MalformedName as error:
                raise ManifestRefused(f"{where}: the annotation {key[:60]!r} is no digest: {error}") from error
    return MappingProxyType(dict(value))
