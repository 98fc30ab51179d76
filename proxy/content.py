"""Values that travel between the upstream adapters, the verifiers and the services."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from storage.digest import Digest
from storage.records import Descriptor


@dataclass(frozen=True, slots=True)
class FetchedManifest:
    """A manifest as it came: raw bytes, the digest computed over them, the Content-Type header without parameters.

    ``at``: what time it was at the upstream, by its own word.
    """

    body: bytes
    digest: Digest
    media_type: str
    at: datetime | None = None


class ReferrersSource(StrEnum):
    """How a list of referrers was found (OCI distribution specification 1.1, "Listing Referrers")."""

    API = "referrers API"
    TAG = "referrers tag"
    NONE = "none"  #: neither is there: definitely no referrers


@dataclass(frozen=True, slots=True)
class ListedReferrer:
    """One entry of a referrers list: a descriptor with the hints that came beside it, which are never trusted."""

    descriptor: Descriptor
    artifact_type: str | None
    annotations: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Referrers:
    """What the upstream lists for a subject, in its order; ``complete`` is False when there are more than may be read."""

    source: ReferrersSource
    entries: tuple[ListedReferrer, ...]
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Lookaside:
    """Where OpenPGP signatures of images are: below a URL, or with ``url`` None at the image's own registry (its signature API).

    ``allow_private`` and ``ca`` mean what they mean for upstreams.
    """

    url: str | None = None
    allow_private: bool = False
    ca: Path | None = None

    def __str__(self) -> str:
        return "the registry's signature API" if self.url is None else f"lookaside {self.url}"
