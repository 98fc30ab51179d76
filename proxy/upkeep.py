"""What one worker of all does beside the pulls: watch, verify, classify, alert, scrub, sign. Built and ended here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from proxy.configuration import Configuration
from proxy.services.admission import Admission
from proxy.services.alerts import Alerts
from proxy.services.checkpoints import signer_of
from proxy.services.classification import Classifier, Classifying
from proxy.services.duty import Duty
from proxy.services.gate import Gate
from proxy.services.ingest import Ingest
from proxy.services.inventory import Ending
from proxy.services.metrics import Gauge, Metrics
from proxy.services.revision import Clock, Revision
from proxy.services.scrubber import Scrubber
from proxy.services.snapshots import Snapshots
from proxy.services.verifying.endings import Endings
from proxy.services.verifying.lane import Tools as VerifyingTools
from proxy.services.verifying.pins import PinVerifier
from proxy.services.verifying.verifier import Verifier
from proxy.services.watching.lane import Tools as WatchingTools
from proxy.services.watching.tags import TagLists
from proxy.services.watching.watcher import Watcher
from proxy.upstream.client import Upstreams
from storage.catalog import Catalog
from storage.checkpoints import Checkpoints
from storage.classifications import ClassificationStore
from storage.database import Database
from storage.deliveries import Deliveries
from storage.events import EventStore
from storage.filesystem import FilesystemBlobStore
from storage.leases import Leases
from storage.ledger import Ledger
from storage.notices import EVERYTHING
from storage.outbox import OUTBOX_NOTICE
from storage.pins import PIN_NOTICE, PinStore
from storage.progress import ProgressStore
from storage.records import Notice
from storage.verdicts import VerdictStore
from storage.watching import WatchStore


@dataclass(frozen=True, slots=True)
class House:
    """What the application has built for the pulls. ``dry`` judges without a trace; ``endings``: what of the trust ends soon."""

    database: Database
    pins: PinStore
    catalog: Catalog
    events: EventStore
    blobs: FilesystemBlobStore
    upstreams: Upstreams
    ingest: Ingest
    gate: Gate
    dry: Admission
    metrics: Metrics
    leases: Leases
    endings: Callable[[datetime], Iterable[Ending]]


class Upkeep:
    """All of it. :meth:`start` when the house is open, :meth:`close` before it closes."""

    def __init__(
        self, house: House, configuration: Configuration, revision: Revision, data_dir: Path, clock: Clock, user_agent: str
    ) -> None:
        settings, database, leases = configuration.settings, house.database, house.leases
        watches, verdicts = WatchStore(database), VerdictStore(database)
        rates = {name: upstream.watch_rate for name, upstream in configuration.upstreams.items()}
        lists = TagLists(house.gate, house.upstreams, watches, house.metrics, clock)
        watching = WatchingTools(house.gate, house.upstreams, watches, verdicts, house.events, lists, house.metrics, clock)
        self.watcher = Watcher(watching, rates, settings.watch, leases)
        told = Endings(house.events, house.metrics, clock)
        pins = PinVerifier(house.gate, house.events, house.metrics, clock)
        judging = VerifyingTools(house.gate, pins, verdicts, watches, clock)
        self.verifier = Verifier(
            judging, house.upstreams, rates, settings.verification, settings.watch, told, house.endings, leases
        )
        classifications = ClassificationStore(database)
        self.classifier = Classifier(classifications, Snapshots(house.catalog, house.dry.holdings, house.blobs), revision, clock)
        self._classifying = Classifying(self.classifier, classifications)
        self._classification = Duty("classification", self._classifying.step, leases, clock)
        self.alerts = Alerts(
            configuration.alerts,
            Deliveries(database),
            house.events,
            leases,
            clock,
            user_agent=user_agent,
            enrich=self.classifier.enrich,
        )
        rounds = ProgressStore(database)
        self._scrubber = Scrubber(
            house.blobs, house.catalog, house.events, rounds, house.upstreams, house.ingest, settings.scrub, clock
        )
        self._scrubbing = Duty("scrub", self._scrubber.step, leases, clock)
        signer = signer_of(settings.ledger, data_dir, Ledger(database), Checkpoints(database), house.events, clock)
        self._signing = Duty("ledger", signer.step, leases, clock)
        self._exits = AsyncExitStack()

    async def start(self) -> None:
        """Begin everything; what was begun ends again where something cannot."""
        async with AsyncExitStack() as exits:
            exits.push_async_callback(self.classifier.close)
            for each in (self._signing, self._scrubbing, self._classification, self.alerts, self.watcher, self.verifier):
                await each.start()
                exits.push_async_callback(each.close)
            self._exits = exits.pop_all()

    async def close(self) -> None:
        """End everything, in reverse order."""
        await self._exits.aclose()

    def adopt(self, configuration: Configuration) -> None:
        """Go by these settings from now on."""
        settings = configuration.settings
        self._scrubber.adopt(settings.scrub)
        self.watcher.adopt(settings.watch)
        self.verifier.adopt(settings.verification, settings.watch)
        self.alerts.follow(configuration.alerts)

    def decide_by(self, revision: Revision) -> None:
        """Another policy is in force."""
        self.classifier.adopt(revision)
        self.verifier.changed()

    def notice(self, notice: Notice) -> None:
        """Somebody changed something in the database."""
        if notice.kind in {OUTBOX_NOTICE, EVERYTHING}:
            self.alerts.wake()
        if notice.kind in {PIN_NOTICE, EVERYTHING}:
            self._classifying.wake()
        self.watcher.notice(notice)
        self.verifier.notice(notice)

    def readings(self) -> Iterable[Gauge]:
        """Of everything that it does."""
        yield from self._scrubber.readings()
        yield from self.watcher.readings()
        yield from self.verifier.readings()
        yield from self.alerts.readings()
