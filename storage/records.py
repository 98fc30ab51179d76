"""What is remembered, as frozen values: descriptors, pins and their history, verdicts, edges, blocks, events.

Times are aware UTC datetimes. Every value here maps to one table of :mod:`storage.database`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from storage.digest import Digest
from storage.reference import Repository


@dataclass(frozen=True, slots=True)
class Descriptor:
    """An OCI content descriptor, reduced to what identifies bytes: media type, digest, size in bytes."""

    media_type: str
    digest: Digest
    size: int


class PinState(StrEnum):
    """What is known about a pinned tag upstream."""

    PINNED = "pinned"  #: the upstream names the pinned digest, or has not said otherwise
    OVERWRITTEN = "overwritten"  #: the upstream names another digest, held in ``Pin.candidate``
    DELETED = "deleted"  #: the upstream says that the tag is gone
    REVOKED = "revoked"  #: the pinned digest no longer passes its rule


class Standing(StrEnum):
    """What came out when a candidate was judged. That nobody could tell is no standing."""

    PASSES = "passes"
    FAILS = "fails"
    OTHER_SIGNER = "other-signer"  #: it passes its rule, but others vouch for it than for the pinned digest


@dataclass(frozen=True, slots=True)
class Judgement:
    """How the candidate of a pin was judged: ``question`` names the rule that it was held against, another one judges anew."""

    standing: Standing
    reasons: tuple[str, ...]
    at: datetime
    question: str


@dataclass(frozen=True, slots=True)
class Approval:
    """One person's word that a pin may move to a digest."""

    digest: Digest
    by: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Pin:
    """(registry, repository, tag) → first-verified digest, with what the upstream says today.

    ``judgement``, ``approvals`` and ``stale_at`` end with the candidate.
    """

    repository: Repository
    tag: str
    digest: Digest
    state: PinState
    pinned_at: datetime
    pinned_by: str  #: ``rule <pattern>`` or an operator's name
    reason: str
    checked_at: datetime  #: when the upstream last answered what the tag names
    candidate: Digest | None = None  #: what the upstream names instead, while ``state`` is OVERWRITTEN
    candidate_seen_at: datetime | None = None
    rejected: Digest | None = None  #: the candidate an operator has said no to
    version: int = 0  #: grows with every change; the compare of compare-and-swap
    signers: tuple[str, ...] | None = None  #: who vouched for ``digest`` as it was pinned; None: pinned before that was kept
    judgement: Judgement | None = None  #: of the candidate; None: it was not judged yet, or nobody could tell
    approvals: tuple[Approval, ...] = ()
    stale_at: datetime | None = None  #: when it was told that an accepted candidate waits for too long

    @property
    def name(self) -> str:
        """``registry/repository:tag``."""
        return f"{self.repository}:{self.tag}"


class PinAction(StrEnum):
    """Why a pin's history has an entry."""

    PINNED = "pinned"
    OVERWRITTEN = "overwritten"
    REVERTED = "reverted"
    DELETED = "deleted"
    REVOKED = "revoked"
    RESTORED = "restored"
    JUDGED = "judged"  #: the candidate was, and what came out is news
    APPROVAL = "approval"  #: one person's, which does not move the pin by itself
    APPROVED = "approved"
    ROTATED = "rotated"
    STALE = "stale"  #: an accepted candidate waits for too long
    REJECTED = "rejected"
    UNPINNED = "unpinned"


@dataclass(frozen=True, slots=True)
class PinChange:
    """One line of a pin's history: who or what did it, when, why, and from which digest to which."""

    repository: Repository
    tag: str
    action: PinAction
    at: datetime
    by: str
    reason: str
    from_digest: Digest | None
    to_digest: Digest | None


class Severity(StrEnum):
    """How much an event matters to whoever is on call."""

    INFO = "info"  #: good to know
    WARNING = "warning"  #: to be looked at in working hours
    CRITICAL = "critical"  #: to be looked at now

    @property
    def rank(self) -> int:
        """Higher is graver."""
        return tuple(Severity).index(self)


class EventType(StrEnum):
    """News that somebody may want to hear; delivered by the alert sinks, listed by the CLI.

    States stay open until they end; acts (:data:`ACTS`) are over as they are told.
    """

    TAG_CREATED = "tag.created"  #: a new tag in a repository that has pins
    TAG_OVERWRITTEN = "tag.overwritten"
    TAG_REVERTED = "tag.reverted"  #: the upstream names the pinned digest again
    TAG_DELETED = "tag.deleted"
    TAG_ROTATION_PENDING = "tag.rotation.pending"  #: the pin will move when its cooldown is over
    TAG_ROTATED = "tag.rotated"
    PIN_REVOKED = "pin.revoked"
    PIN_STALE = "pin.stale"  #: an accepted candidate waits for somebody
    PIN_APPROVED = "pin.approved"
    PIN_REJECTED = "pin.rejected"
    PIN_REMOVED = "pin.removed"
    SIGNATURE_LOST = "signature.lost"  #: evidence that a pin leant on is not to be had upstream any more
    KEY_EXPIRING = "key.expiring"
    DIGEST_BLOCKED = "digest.blocked"
    DIGEST_UNBLOCKED = "digest.unblocked"
    BLOB_TAMPERED = "blob.tampered"  #: an upstream sent bytes that do not hash to what was asked for
    BLOB_DAMAGED = "blob.damaged"  #: a stored file no longer hashes to its name; it was quarantined
    UPSTREAM_UNREACHABLE = "upstream.unreachable"
    UPSTREAM_MISBEHAVING = "upstream.misbehaving"  #: it breaks promises of the protocol
    RUNTIME_DRIFT = "runtime.drift"  #: what runs is not what was approved
    LEDGER_DAMAGED = "ledger.damaged"
    LEDGER_UNSIGNED = "ledger.unsigned"  #: no checkpoint can be signed: its key is gone, or cannot be read
    SINK_FAILING = "sink.failing"  #: alerts do not get through to one of their sinks
    ALERT_TEST = "alert.test"  #: an operator tries the sinks; never recorded


#: Types that are over as they are told: such an event is closed when it is opened, and may come again.
ACTS = frozenset(
    {
        EventType.TAG_CREATED,
        EventType.TAG_REVERTED,
        EventType.TAG_ROTATED,
        EventType.PIN_APPROVED,
        EventType.PIN_REJECTED,
        EventType.PIN_REMOVED,
        EventType.DIGEST_BLOCKED,
        EventType.DIGEST_UNBLOCKED,
        EventType.ALERT_TEST,
    }
)

_SEVERITIES = {
    EventType.TAG_CREATED: Severity.INFO,
    EventType.TAG_REVERTED: Severity.INFO,
    EventType.TAG_ROTATION_PENDING: Severity.INFO,
    EventType.TAG_ROTATED: Severity.INFO,
    EventType.PIN_APPROVED: Severity.INFO,
    EventType.PIN_REJECTED: Severity.INFO,
    EventType.PIN_REMOVED: Severity.INFO,
    EventType.DIGEST_UNBLOCKED: Severity.INFO,
    EventType.ALERT_TEST: Severity.INFO,
    EventType.PIN_REVOKED: Severity.CRITICAL,
    EventType.BLOB_TAMPERED: Severity.CRITICAL,
    EventType.RUNTIME_DRIFT: Severity.CRITICAL,
    EventType.LEDGER_DAMAGED: Severity.CRITICAL,
}


@dataclass(frozen=True, slots=True)
class Event:
    """One piece of news. (type, subject, digest) is unique while it is open: seen twice, told once.

    ``subject`` is ``registry/repository:tag`` for tags and ``registry/repository`` for content. ``details`` are few, small and
    fit for JSON. ``severity`` None: that of its type.
    """

    type: EventType
    subject: str
    digest: Digest | None
    message: str
    at: datetime
    closed_at: datetime | None = None
    severity: Severity | None = None
    details: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.severity is None:
            object.__setattr__(self, "severity", _SEVERITIES.get(self.type, Severity.WARNING))
        if self.closed_at is None and self.type in ACTS:
            object.__setattr__(self, "closed_at", self.at)


def sink_subject(sink: str) -> str:
    """What events about an alert sink are about."""
    return f"sink:{sink}"


@dataclass(frozen=True, slots=True)
class Message:
    """What sinks are told: that an event happened or began, or (``resolved``) that it is over.

    ``id`` is unique for ever, and the same however often the message is sent: receivers know by it what they have already.
    ``event`` is as it is now: it may have ended since, and its severity may have been raised.
    """

    sequence: int
    id: str
    number: int  #: of the event
    event: Event
    resolved: bool
    at: datetime  #: when it was to be told


class DeliveryState(StrEnum):
    """What became of a message on its way to one sink."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    FAILED = "failed"  #: it is not tried again: the sink refused it, or was out of reach for too long


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message on its way to one sink."""

    id: int
    sink: str
    message: Message
    state: DeliveryState
    attempts: int
    due_at: datetime | None  #: when it is tried next; None: at once
    ended_at: datetime | None
    error: str | None  #: why the last attempt failed


@dataclass(frozen=True, slots=True)
class SinkStatus:
    """How one sink does. Counts are since it was first known."""

    name: str
    waiting: int
    failed: int  #: messages that are not tried again and still kept
    oldest: datetime | None  #: since when the oldest waiting message waits
    delivered: int
    rejected: int
    failures: int  #: attempts that failed since the last that did not
    failing_since: datetime | None
    retry_at: datetime | None  #: it is left alone until then
    error: str | None
    delivered_at: datetime | None


class Kind(StrEnum):
    """What a digest is to the manifest that names it."""

    MANIFEST = "manifest"  #: a child of an index
    BLOB = "blob"  #: a config or a layer
    EVIDENCE = "evidence"  #: a manifest that speaks about its subject: signature, attestation, SBOM


@dataclass(frozen=True, slots=True)
class Edge:
    """``parent`` reaches ``child`` within one repository.

    For MANIFEST and BLOB the parent names the child in its descriptors. For EVIDENCE the parent is the subject.
    """

    parent: Digest
    child: Descriptor
    kind: Kind


@dataclass(frozen=True, slots=True)
class StoredVerdict:
    """The outcome of one rule over the evidence for (repository, digest), as it was decided."""

    repository: Repository
    digest: Digest
    fingerprint: str  #: of the requirement and the trust it names; another fingerprint is another question
    accepted: bool
    reasons: tuple[str, ...]
    decided_at: datetime
    valid_until: datetime | None = None  #: a key's window ends: judge again after this
    signers: tuple[str, ...] | None = None  #: who vouched, one canonical line each; None: judged before that was kept


@dataclass(frozen=True, slots=True)
class Grounds:
    """By which evidence a manifest was accepted, under a question that stays the same when the trust it names is renewed."""

    question: str
    evidence: tuple[Digest, ...]  #: its manifests


@dataclass(frozen=True, slots=True)
class Block:
    """An operator's word that a digest must not be served anywhere."""

    digest: Digest
    reason: str
    by: str
    at: datetime


@dataclass(frozen=True, slots=True)
class OperatorAct:
    """One thing an operator did that is no change of a pin: ``block`` or ``unblock`` of a digest."""

    at: datetime
    by: str
    action: str
    subject: str
    reason: str


@dataclass(frozen=True, slots=True)
class Lineage:
    """Everything above one digest in one repository, enough to say whether it may be served.

    ``edges`` are all known edges on paths that end at ``digest``, newest first (bounded: see
    :meth:`storage.catalog.Catalog.lineage`); ``verdicts`` those of the nodes on them and of ``digest`` itself under the asked
    fingerprint; ``blocks`` those that concern any of these nodes. ``descriptor`` is what is known of the digest itself: from
    its own manifest record, else from an edge, else None. ``kind`` is EVIDENCE where a recorded manifest is known as nothing
    else, MANIFEST for every other recorded manifest, else that of the newest edge. ``blocked_needs`` are the blocks on what the
    digest itself names as its config and layers.
    """

    repository: Repository
    digest: Digest
    descriptor: Descriptor | None
    kind: Kind | None
    edges: tuple[Edge, ...]
    verdicts: tuple[StoredVerdict, ...]
    blocks: tuple[Block, ...]
    blocked_needs: tuple[Block, ...] = ()


@dataclass(frozen=True, slots=True)
class Notice:
    """Tells every worker on this database that something remembered is no longer true."""

    sequence: int
    #: ``pin`` (subject = registry/repository:tag), ``block`` (subject = digest), ``admission`` (registry/repository)
    kind: str
    subject: str


@dataclass(frozen=True, slots=True)
class PinWrite:
    """One atomic change of one pin: what must still be true, what becomes true, and what is told about it.

    ``expected`` None means that there must be no pin; ``new`` None removes it. Applied in one transaction together with
    the history line and the events, or not at all (:class:`storage.errors.PinConflict`).
    """

    expected: Pin | None
    new: Pin | None
    change: PinChange
    opened: tuple[Event, ...] = ()
    closed: tuple[EventType, ...] = ()  #: event types whose open events about this pin end now


@dataclass(frozen=True, slots=True)
class PullRecord:
    """What one client was answered about one manifest within a few seconds."""

    repository: Repository
    tag: str | None  #: None: by digest
    digest: Digest  #: what was handed out
    principal: str
    address: str
    agent: str  #: the user agent, as the client gives it
    first_at: datetime
    last_at: datetime
    fetched: int  #: answers with the manifest itself
    resolved: int  #: answers with its digest alone (HEAD, not modified)
    contains: bool = False  #: in an answer about another digest: this manifest reaches that one


@dataclass(frozen=True, slots=True)
class Known:
    """One manifest that a reported digest stands for: itself, or one whose config it is.

    ``lineage`` holds the indexes above, the verdicts under the asked fingerprint, and in ``blocked_needs`` the blocks on its
    config and layers. ``below`` are the blocks on manifests that it lists, or on what these need.
    """

    lineage: Lineage
    recorded: bool = False  #: whether anything is recorded of the reported digest in this repository
    once_accepted: bool = False  #: it, or an index above, was accepted under whatever question
    below: tuple[Block, ...] = ()

    @property
    def digests(self) -> frozenset[Digest]:
        """The manifest and all above it."""
        return frozenset((self.lineage.digest, *(edge.parent for edge in self.lineage.edges)))


@dataclass(frozen=True, slots=True)
class Picture:
    """What is known of all that was asked for. ``known`` has at least one entry for each pair."""

    known: Mapping[tuple[Repository, Digest], tuple[Known, ...]] = field(default_factory=dict)
    pins: Mapping[Repository, tuple[Pin, ...]] = field(default_factory=dict)
    #: Of these repositories' tags, when one of the known digests ceased to be their pin; oldest first.
    moves: Mapping[Repository, tuple[PinChange, ...]] = field(default_factory=dict)
    #: Every repository in which a digest is recorded.
    places: Mapping[Digest, tuple[Repository, ...]] = field(default_factory=dict)
