"""The examples of docs/alerts.md are what is really sent: each is made here by the code that makes such events."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from proxy.cli.alerts import _test_message
from proxy.cli.drift_report import Look, Subject, record
from proxy.policy import writes
from proxy.policy.alerts import CloudEvents, Http, SinkPolicy
from proxy.policy.changes.model import Change
from proxy.policy.patterns import Pattern
from proxy.policy.rotation import Candidacy, Hold, Progress, Yes
from proxy.policy.rules import FirstUse, OnOverwrite, Rotation, Rule, TagRule
from proxy.policy.verdicts import Outcome, Verdict
from proxy.services.checkpoints import Signer
from proxy.services.classification import Classifier
from proxy.services.delivery import Deliverer
from proxy.services.inventory import Item, endings
from proxy.services.metrics import Metrics
from proxy.services.news import News
from proxy.services.verifying.endings import Endings
from proxy.services.verifying.pins import PinVerifier
from proxy.services.watching.tags import events_of
from proxy.sinks import reference
from storage.catalog import Catalog
from storage.checkpoints import Checkpoints
from storage.database import Database
from storage.digest import Digest
from storage.errors import DigestMismatch, KeyUnusable, LedgerDamaged, StorageError
from storage.events import EventStore
from storage.ledger import Ledger
from storage.records import ACTS, Approval, Block, Descriptor, Event, EventType, Judgement, Pin, PinState, Standing
from storage.reference import Reference, Repository
from storage.watching import NewTags

AT = datetime(2026, 3, 14, 9, 26, 53, 589000, tzinfo=UTC)
NGINX = Repository.of("docker.io", "library/nginx")
OLD, NEW, LAYER = (Digest.of(what) for what in (b"pinned", b"moved", b"layer"))
WHO = ("key library 5e0ac5f3c1d2b7a9",)
PIN = Pin(NGINX, "1.27", OLD, PinState.PINNED, AT - timedelta(days=30), "rule", "first use", AT, version=1, signers=WHO)
MOVED = replace(PIN, state=PinState.OVERWRITTEN, candidate=NEW, candidate_seen_at=AT)
RULE = Rule(Pattern.compile("docker.io/library/**"), FirstUse(), (), "fingerprint")
REFUSE = TagRule(Pattern.compile("*"), OnOverwrite.REFUSE)
ROTATE = TagRule(Pattern.compile("*"), OnOverwrite.ROTATE, 0, Rotation(cooldown=timedelta(days=3)))
PASSES = Verdict(Outcome.ACCEPTED, ("a signature by key library: found",), signers=WHO)
JUDGED = Judgement(Standing.PASSES, PASSES.reasons, AT, "question")


def one(events: Collection[Event]) -> Event:
    """The only one."""
    (event,) = events
    return event


class Told:
    """What was recorded, in the place of the events' table."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    async def record(self, event: Event) -> bool:
        self.events.append(event)
        return True

    async def close(self, *_: object) -> int:
        return 0

    async def open_of(self, _: EventType) -> list[Event]:
        return []

    async def list(self, **_: object) -> list[Event]:
        return []


def classified(event: Event, change: Change) -> Event:
    """The event with what came of comparing."""
    classifier = Classifier(cast("Any", None), cast("Any", None), cast("Any", None), lambda: AT)
    severity, details = classifier.told(change, event.type, event.at)
    return replace(event, severity=severity or event.severity, details={**event.details, **details})


def of_pins() -> dict[EventType, Event]:
    """Those that come with a change of a pin."""
    waits = Progress(Hold.COOLDOWN, (), 0, cooldown_until=AT + timedelta(days=3), opens=AT + timedelta(days=3))
    asks = Progress(Hold.APPROVAL, (), 1)
    approval = Approval(NEW, "olga", "release 1.27.4", AT)
    yes = Yes(approval, (approval,), 1, news=True, moves=True, why="")
    pending = one(writes.judged(MOVED, MOVED, RULE, ROTATE, JUDGED, waits, AT).opened)
    refused = Verdict(Outcome.REFUSED, ("the key library has expired",))
    reasons = ("a signature by the key library is required; its window ended on 2026-03-01",)
    made = [
        classified(one(writes.overwritten(PIN, NEW, REFUSE, AT, None).opened), reference.CHANGE),
        classified(pending, reference.REBUILD),
        one(writes.restored(MOVED, RULE, AT).opened),
        one(writes.deleted(PIN, AT).opened),
        one(writes.rotated(MOVED, Candidacy(NEW, PASSES, WHO), RULE, ROTATE, Progress(None, (), 0), AT).opened),
        one(writes.revoked(PIN, RULE, refused, reasons, AT).opened),
        one(writes.stale(replace(MOVED, candidate_seen_at=AT - timedelta(days=7)), RULE, asks, JUDGED, AT).opened),
        one(writes.approved(MOVED, yes, WHO).opened),
        one(writes.rejected(MOVED, NEW, "olga", "not announced", AT).opened),
        one(writes.removed(PIN, "olga", "retired", AT).opened),
    ]
    return {event.type: event for event in made}


async def lost() -> Event:
    """A signature that is gone upstream."""
    told = Told()
    nothing = "a signature by the key library is required; found: no signature at all"
    upstream = Verdict(Outcome.REFUSED, (nothing,))
    judged = SimpleNamespace(pin=PIN, found=SimpleNamespace(verdict=PASSES, upstream=upstream))
    checked = SimpleNamespace(pin=PIN, result=None)

    async def judge(*_: object) -> object:
        return judged

    async def check(*_: object) -> object:
        return checked

    gate = SimpleNamespace(judge=judge, check=check)
    await PinVerifier(cast("Any", gate), cast("Any", told), Metrics(), lambda: AT).verify(NGINX, "1.27", cast("Any", None))
    return one(told.events)


async def ending() -> Event:
    """A key whose time ends."""
    told = Told()
    until = datetime(2026, 4, 1, 23, 59, 59, 999999, tzinfo=UTC)
    item = Item("keys", "library", "key", "", "", AT - timedelta(days=300), until)
    await Endings(cast("Any", told), Metrics(), lambda: AT).tell(endings([item], AT))
    return one(told.events)


async def of_blobs() -> dict[EventType, Event]:
    """Bytes that are not what they should be."""
    told, why = Told(), f"{NGINX} sent a wrong blob: {DigestMismatch(str(LAYER), str(NEW))}"  # as arrivals say it
    news = News(cast("Any", told), Metrics())
    await news.start()
    news.damaged(LAYER, f"its bytes hash to {NEW}")
    await asyncio.sleep(0)  # it comes from a thread, commonly
    await news.tampered(NGINX, Descriptor("application/octet-stream", LAYER, 1), why)
    await news.close()
    return {event.type: replace(event, at=AT, closed_at=None) for event in told.events}


async def drifted() -> Event:
    """A container whose files are others."""
    told = Told()
    rows = [("added", "/usr/local/bin/xmrig", ""), ("changed", "/etc/passwd", "")]
    look = Look(AT, cast("Any", [SimpleNamespace(row=row) for row in rows]), (), {}, ())
    approved = SimpleNamespace(reference=Reference(NGINX, "1.27", None), digest=OLD)
    await record(cast("Any", told), Subject("drift rootfs", cast("Any", approved), "web-1"), look)
    return one(told.events)


def failing() -> Event:
    """A sink that takes nothing."""
    policy = SinkPolicy("oncall", CloudEvents(Http("https://alertmanager.example")))
    deliverer = Deliverer(policy, cast("Any", None), cast("Any", None), cast("Any", None), lambda: AT, give_up=timedelta(days=7))
    words = "has not taken alerts 5 times in a row: alertmanager.example refuses connections"
    return deliverer._failing(words, AT - timedelta(seconds=31))


async def real() -> Mapping[EventType, Event]:
    """One event of each type that can be made here."""
    created = one(events_of(NGINX, replace(RULE, tags=(ROTATE,)), NewTags(("1.28",), None), AT))
    alone = [
        created,
        await lost(),
        await ending(),
        await drifted(),
        failing(),
        replace(_test_message().event, at=AT, closed_at=AT),
    ]
    return of_pins() | await of_blobs() | {event.type: event for event in alone}


async def of_blocks(folder: Path) -> dict[EventType, Event]:
    """An operator's words about a digest, and those about the ledger's key and entries."""
    database = Database(folder / "tagstone.db")
    await database.open()
    try:
        catalog, events, ledger = Catalog(database), EventStore(database), Ledger(database)
        await catalog.block(Block(NEW, "backdoor", "olga", AT))
        await catalog.unblock(NEW, by="olga", reason="false alarm", at=AT)
        signer = Signer(ledger, Checkpoints(database), events, folder / "key", lambda: AT, origin="a", interval=1)
        for error in (
            LedgerDamaged(4711, "its bytes are not those that were hashed when it was written"),
            KeyUnusable("the ledger's key /var/lib/tagstone/ledger.key cannot be read: Permission denied"),
        ):

            async def fail(error: StorageError = error) -> None:
                raise error

            signer.sign = fail  # type: ignore[method-assign]  # how it comes to that is shown where it is tested
            await signer.attempt()
        return {event.type: replace(event, closed_at=AT if event.type in ACTS else None) for event in await events.list()}
    finally:
        await database.close()


#: These speak of an upstream as a whole, in sentences of :mod:`proxy.services.watching.lane`.
ELSEWHERE = {EventType.UPSTREAM_UNREACHABLE, EventType.UPSTREAM_MISBEHAVING}


async def test_the_examples_are_what_is_really_sent(tmp_path: Path) -> None:
    """To the letter, but for their times."""
    made = {**await real(), **await of_blocks(tmp_path)}
    assert set(made) | ELSEWHERE == set(EventType)
    for kind, event in made.items():
        assert event == reference.entries()[kind].example, kind
