"""Values for the tests of the database, spelled short."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from storage.digest import Digest
from storage.pins import PinStore
from storage.records import (
    Block,
    Descriptor,
    Edge,
    Event,
    EventType,
    Kind,
    Pin,
    PinAction,
    PinChange,
    PinState,
    PinWrite,
    StoredVerdict,
)
from storage.reference import Repository

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
LATER = AT + timedelta(hours=1)
APP = Repository.of("ghcr.io", "acme/app")
OTHER = Repository.of("docker.io", "library/nginx")


def digest(what: object) -> Digest:
    """A digest that stands for ``what``."""
    return Digest.of(str(what).encode())


def first_pin(tag: str = "v1", what: object = "one", repository: Repository = APP, at: datetime = AT) -> PinWrite:
    """The write that pins an unpinned tag."""
    pin = Pin(repository, tag, digest(what), PinState.PINNED, at, "rule **", "first use", at, version=1)
    return PinWrite(None, pin, PinChange(repository, tag, PinAction.PINNED, at, "rule **", "first use", None, digest(what)))


def overwrite(pin: Pin, what: object, at: datetime = LATER) -> PinWrite:
    """The write that notes that the upstream names something else, and opens an event."""
    new = replace(pin, state=PinState.OVERWRITTEN, candidate=digest(what), candidate_seen_at=at, checked_at=at)
    change = PinChange(pin.repository, pin.tag, PinAction.OVERWRITTEN, at, "upstream", "moved", pin.digest, digest(what))
    event = Event(EventType.TAG_OVERWRITTEN, pin.name, digest(what), f"{pin.name} was overwritten", at)
    return PinWrite(pin, new, change, (event,), (EventType.TAG_DELETED,))


def revert(pin: Pin, at: datetime = LATER) -> PinWrite:
    """The write that notes that the upstream names the pinned digest again, and closes the event."""
    new = replace(pin, state=PinState.PINNED, candidate=None, candidate_seen_at=None, checked_at=at)
    change = PinChange(pin.repository, pin.tag, PinAction.REVERTED, at, "upstream", "back", pin.candidate, pin.digest)
    return PinWrite(pin, new, change, (), (EventType.TAG_OVERWRITTEN,))


def unpin(pin: Pin, at: datetime = LATER) -> PinWrite:
    """The write that removes a pin."""
    change = PinChange(pin.repository, pin.tag, PinAction.UNPINNED, at, "olga", "retired", pin.digest, None)
    return PinWrite(pin, None, change)


def manifest(what: object, size: int = 500) -> Descriptor:
    """The descriptor of a manifest."""
    return Descriptor("application/vnd.oci.image.manifest.v1+json", digest(what), size)


def edge(parent: object, child: object, kind: Kind = Kind.BLOB) -> Edge:
    """An edge between what stands for ``parent`` and ``child``."""
    return Edge(digest(parent), Descriptor("application/vnd.oci.image.layer.v1.tar+gzip", digest(child), 1000), kind)


def verdict(
    what: object,
    accepted: bool = True,
    *,
    repository: Repository = APP,
    fingerprint: str = "f",
    valid_until: datetime | None = None,
) -> StoredVerdict:
    """A verdict on what stands for ``what``."""
    return StoredVerdict(repository, digest(what), fingerprint, accepted, ("a signature by key k", "found"), AT, valid_until)


def block(what: object, reason: str = "backdoor") -> Block:
    """An operator's block of what stands for ``what``."""
    return Block(digest(what), reason, "olga", AT)


async def pinned(pins: PinStore, write: PinWrite) -> Pin:
    """Apply a write that leaves a pin."""
    pin = await pins.apply(write)
    assert pin is not None
    return pin
