"""What the gate answers: something to serve, or a refusal with its reasons. The web layer turns either into HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from proxy.errors import UpstreamAbsent, UpstreamError, UpstreamUnavailable
from proxy.policy.decision import Answer, Decision
from storage.records import Descriptor


class Thing(StrEnum):
    """What a refusal is about; decides which OCI code says that it does not exist."""

    MANIFEST = "manifest"
    BLOB = "blob"
    NAME = "repository"


@dataclass(frozen=True, slots=True)
class Refused:
    """Not served. ``answer`` is DENY, ABSENT or UNAVAILABLE; ``reasons`` are sentences for people."""

    answer: Answer
    reasons: tuple[str, ...]
    thing: Thing = Thing.MANIFEST
    retry_after: float | None = None

    @classmethod
    def of(cls, decision: Decision, thing: Thing = Thing.MANIFEST) -> Refused:
        """The refusal that a decision amounts to."""
        return cls(decision.answer, decision.reasons, thing, decision.retry_after)

    @classmethod
    def by_upstream(cls, name: str, error: UpstreamError, thing: Thing) -> Refused:
        """The refusal that an upstream's failure to give ``name`` amounts to."""
        match error:
            case UpstreamAbsent():
                return cls(Answer.ABSENT, (f"{name} does not exist upstream",), thing)
            case UpstreamUnavailable():
                return cls(Answer.UNAVAILABLE, (f"{name}: {error}",), thing, error.retry_after)
            case _:
                return cls(Answer.DENY, (f"{name}: {error}",), thing)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class ServedManifest:
    """A manifest that may be served: its raw bytes under the digest that was decided."""

    descriptor: Descriptor
    body: bytes
    warning: str | None = None
    reasons: tuple[str, ...] = ()  #: why, for people


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class GrantedBlob:
    """A blob that may be served in this repository; ``body`` when it is small and was read and hashed already."""

    descriptor: Descriptor
    body: bytes | None = None
    reasons: tuple[str, ...] = ()  #: why, for people


@dataclass(frozen=True, slots=True)
class ServedReferrers:
    """An image index of referrers, built here from what the upstream lists."""

    body: bytes
    filtered: bool
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class ServedTags:
    """All tags of a repository, sorted; ``complete`` is False when the upstream lists more than the configured pages."""

    tags: tuple[str, ...]
    complete: bool
