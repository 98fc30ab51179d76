"""Where the services are built, once per worker process, and where their lives begin and end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack, suppress
from datetime import datetime
from pathlib import Path

import structlog

from proxy import __version__
from proxy.configuration import Configuration
from proxy.configuration.access import AccessConfiguration, read_passwords
from proxy.configuration.identity import policy_hash
from proxy.routing import Router
from proxy.services.admission import Admission
from proxy.services.authentication import Authenticator
from proxy.services.background import forever
from proxy.services.bookkeeper import Bookkeeper
from proxy.services.candidates import Candidates, Judge
from proxy.services.gate import Gate
from proxy.services.ingest import Ingest
from proxy.services.inventory import Ending, Standing, endings, inventory
from proxy.services.metrics import Gauge, Metrics
from proxy.services.news import News
from proxy.services.oidc import Issuers
from proxy.services.recorder import Recorder
from proxy.services.refresher import Refresher
from proxy.services.review import Reviewer
from proxy.services.revision import Revision, utc_now
from proxy.services.revocation import Revocations
from proxy.services.sessions import Sessions, session_key
from proxy.services.watched import FileWatch
from proxy.tuf.state import State
from proxy.upkeep import House, Upkeep
from proxy.upstream.client import Upstreams
from proxy.upstream.keysets import fetch_key_set
from proxy.upstream.revocation import RevocationServers
from proxy.verify.pipeline import Pipeline, default_verifiers
from proxy.web.admin import AdminApi
from proxy.web.admission import AdmissionApi
from proxy.web.fairness import Fairness
from proxy.web.ledger import LedgerApi
from proxy.web.listener import Handler
from proxy.web.login import Door
from proxy.web.pulls import PullLog
from proxy.web.registry import RegistryApi
from storage.catalog import Catalog
from storage.checkpoints import Checkpoints
from storage.database import FILE_NAME, Database
from storage.errors import BlobStoreUnavailable, StorageError
from storage.events import EventStore
from storage.filesystem import FilesystemBlobStore
from storage.leases import Leases
from storage.ledger import Ledger
from storage.notices import Notices
from storage.outbox import OUTBOX_NOTICE
from storage.pins import PIN_NOTICE, PinStore
from storage.pulls import PullStore

log = structlog.get_logger("tagstone.app")

DATABASE = FILE_NAME
_USER_AGENT = f"tagstone/{__version__}"
_RETRY = 1.0


def pipeline_of(configuration: Configuration, revocations: Revocations) -> Pipeline:
    """The verifiers with the trust of a configuration."""
    limits = configuration.settings.limits
    return Pipeline(default_verifiers(limits), configuration.trusted, limits, revocations)


def revision_of(configuration: Configuration, number: int, revocations: Revocations) -> Revision:
    """The part of a configuration that decides, as one value."""
    pipeline = pipeline_of(configuration, revocations)
    return Revision(number, configuration.rules, pipeline, configuration.settings.check_interval)


def router_of(configuration: Configuration) -> Router:
    """The routing table of a configuration."""
    return Router(frozenset(configuration.upstreams), configuration.hosts, configuration.default_registry)


def issuers_of(configuration: Configuration, before: Issuers | None = None) -> Issuers:
    """Those whose signed tokens count; ``before``: those until now, of whom something is known."""
    return Issuers.of(configuration.access.issuers, fetch_key_set, before)


def upstreams_of(configuration: Configuration) -> Upstreams:
    """The clients of the configured upstreams; nothing is dialled yet."""
    return Upstreams(configuration.upstreams, configuration.settings.limits, user_agent=_USER_AGENT)


async def _session_key(data_dir: Path) -> bytes:
    try:
        return await asyncio.to_thread(session_key, data_dir)
    except OSError as error:
        raise BlobStoreUnavailable(f"the key for sessions cannot be read or made: {error}") from error


def revocations_of(configuration: Configuration) -> Revocations:
    """Who asks whether certificates are revoked; nothing is dialled yet."""
    limits = configuration.settings.limits
    return Revocations(RevocationServers(limits, user_agent=_USER_AGENT), limits)


class Application:
    """Everything between the requests and the data directory. Several applications may share one data directory."""

    log = log

    def __init__(self, configuration: Configuration, data_dir: Path) -> None:
        settings = configuration.settings
        limits = settings.limits
        self._configuration = configuration  #: what this process was started with
        self._current = configuration  #: by what it decides now
        self._number = 1
        self._exits = AsyncExitStack()
        self.database = Database(data_dir / DATABASE)
        self.pins = PinStore(self.database)
        self.catalog = Catalog(self.database)
        self._notices = Notices(self.database)
        self.metrics = Metrics(self._readings)
        self.events = EventStore(self.database)
        self._news = News(self.events, self.metrics)
        self.blobs = FilesystemBlobStore(data_dir, on_damage=self._news.damaged)
        self.upstreams = upstreams_of(configuration)
        self.ingest = Ingest(self.blobs, self.upstreams, on_tampered=self._news.tampered)
        self._admission = Admission(self.catalog, self.blobs, self.upstreams, limits, utc_now)
        self._revocations = revocations_of(configuration)
        revision = revision_of(configuration, self._number, self._revocations)
        self._bookkeeper = Bookkeeper(self.database, utc_now, settings.ledger.refusals)
        refused = self._bookkeeper.refused
        judge = Judge(self._admission, self.pins)
        candidates = Candidates(judge, self._admission, self.pins, self.upstreams, limits, utc_now)
        self.gate = Gate(revision, self._admission, self.pins, self.blobs, self.upstreams, candidates, limits, utc_now, refused)
        access = configuration.access
        self._data_dir = data_dir
        self._issuers = issuers_of(configuration)
        self._authenticator = Authenticator(access.credentials, self._issuers, utc_now)
        self._door = Door(access.rules, self._authenticator, access.service, access.realm)
        self._router, pulls = router_of(configuration), PullLog(settings.log.pulls, self.gate.rule_of)
        dry = Admission(self.catalog, self.blobs, self.upstreams, limits, utc_now, record=False)
        house = House(
            self.database,
            self.pins,
            self.catalog,
            self.events,
            self.blobs,
            self.upstreams,
            self.ingest,
            self.gate,
            dry,
            self.metrics,
            Leases(self.database),
            self._endings,
        )
        self.upkeep = Upkeep(house, configuration, revision, data_dir, utc_now, _USER_AGENT)
        self._reviewer = Reviewer(self.gate, dry, self.pins, self.upstreams, revision, limits, utc_now)
        fairness = Fairness(limits)
        self._reviews = AdmissionApi(self._reviewer, configuration.reviews, self._router, limits, self._door, pulls, fairness)
        self._recorder = Recorder(PullStore(self.database), house.leases, settings.pulls, utc_now)
        books = LedgerApi(Ledger(self.database), Checkpoints(self.database), limits.request_timeout)
        self._api = RegistryApi(
            self.gate,
            self._router,
            self.ingest,
            limits,
            self.metrics,
            self._door,
            pulls,
            self._recorder,
            self._reviews,
            fairness,
            rehash=settings.cache.serve == "rehash",
            tombstones=settings.refusal == "tombstone",
            ledger=books if settings.ledger.public else None,
        )
        operators = Authenticator(access.admin, Issuers({}), utc_now) if access.admin.tokens else None
        self._admin_api = AdminApi(self.trouble, self.metrics, operators, self.upkeep.alerts.look, books)
        self._passwords = FileWatch((), self._read_passwords, self._refuse_passwords)
        self._since = 0  #: the last notice that was heeded
        self._watcher: asyncio.Task[None] | None = None
        self._refresher = Refresher(data_dir, self._learn)

    @property
    def handle(self) -> Handler:
        """The registry API: one request in, one answer out."""
        return self._api.handle

    @property
    def handle_admin(self) -> Handler:
        """The same for the admin listener."""
        return self._admin_api.handle

    async def start(self) -> None:
        """Open the storage and start what runs beside the pulls. Raises StorageError; what was opened is closed again."""
        async with AsyncExitStack() as exits:
            await self.database.open()
            exits.push_async_callback(self.database.close)
            exits.push_async_callback(self.upstreams.close)
            exits.push_async_callback(self._revocations.close)
            exits.push_async_callback(self.blobs.close)
            removed = await self.blobs.recover()
            if removed:
                log.info("spools.removed", count=removed)
            await self._news.start()
            exits.push_async_callback(self._news.close)
            await self._recorder.start()
            exits.push_async_callback(self._recorder.close)
            await self._bookkeeper.start()
            exits.push_async_callback(self._bookkeeper.close)
            await self.ingest.start()
            exits.push_async_callback(self.ingest.close, self._configuration.settings.limits.drain_timeout)
            exits.push_async_callback(self._reviewer.close)
            exits.push_async_callback(self.gate.close)
            self._session_key = await _session_key(self._data_dir)
            self._follow(self._configuration.access)
            exits.push_async_callback(self._authenticator.close)
            await self._passwords.start()
            exits.push_async_callback(self._passwords.close)
            self._since = await self._notices.latest()
            await self.upkeep.start()
            exits.push_async_callback(self.upkeep.close)
            self._watcher = asyncio.create_task(forever("notices", self._watch), name="notices")
            exits.push_async_callback(self._end_watch)
            exits.push_async_callback(self._refresher.close)
            await self._refresher.start(self._current.repositories, self._current.settings.trust.refresh)
            self._exits = exits.pop_all()
        self._record_policy("a server started")

    async def close(self) -> None:
        """Let fetches in flight end (``limits.drain_timeout``), close everything in reverse order."""
        await self._exits.aclose()
        log.info("stopped")

    def adopt(self, configuration: Configuration) -> tuple[str, ...]:
        """Decide by another configuration from now on; the keys that only a restart can change are returned."""
        access = configuration.access
        # Who may pull comes first: what is taken away is taken away before anything else is done.
        self._issuers = issuers_of(configuration, self._issuers)
        self._authenticator.adopt(access.credentials, self._issuers)
        self._door.adopt(access.rules, access.service, access.realm)
        self._decide_by(configuration)
        self.upkeep.adopt(configuration)
        self._recorder.adopt(configuration.settings.pulls)
        self._refresher.follow(configuration.repositories, configuration.settings.trust.refresh)
        old, new = self._configuration.settings, configuration.settings
        fixed = ("listen", "tls", "refusal", "admin", "data_dir", "limits", "cache", "log", "ledger", "workers")
        waiting = [name for name in fixed if getattr(old, name) != getattr(new, name)]
        if configuration.upstreams != self._configuration.upstreams:
            waiting.append("upstreams")
        else:
            self._router = router_of(configuration)
            self._api.adopt(self._router)
        self._reviews.adopt(configuration.reviews, self._router)
        self._record_policy("the configuration was reloaded")
        self._follow(access)
        return tuple(waiting)

    def _decide_by(self, configuration: Configuration) -> None:
        self._current = configuration
        self._number += 1
        revision = revision_of(configuration, self._number, self._revocations)
        self.gate.adopt(revision)
        self._reviewer.adopt(revision)
        self.upkeep.decide_by(revision)

    def _record_policy(self, reason: str) -> None:
        self._bookkeeper.decides_by(policy_hash(self._current), reason, {"rules": len(self._current.rules)})

    async def _learn(self, states: Mapping[str, State]) -> None:
        """Take over what has become known of TUF repositories, if anything is decided differently by it."""
        while True:
            old = self._current
            new = await asyncio.to_thread(old.knowing, states)
            if self._current is old:  # it was not reloaded meanwhile
                break
        changed = [name for name in new.sources if _decides(new, name) != _decides(old, name)]
        if not changed:
            self._current = new
            return
        self._decide_by(new)
        suspended = [name for name in changed if new.trusted.roots[name].suspended is not None]
        log.info("trust.adopted", roots=changed, suspended=suspended)

    # -- who may pull ---------------------------------------------------------------------------------------------------

    def _follow(self, access: AccessConfiguration) -> None:
        self._access = access
        self._authenticator.keep(Sessions(self._session_key, access.service, access.lifetime))
        self._passwords.follow(() if access.htpasswd is None else (access.htpasswd,))

    async def _read_passwords(self) -> None:
        path = self._access.htpasswd
        if path is None:
            return
        passwords = await asyncio.to_thread(read_passwords, path)
        if path == self._access.htpasswd:  # it was not reloaded meanwhile
            self._authenticator.adopt_passwords(passwords)
            log.info("htpasswd.read", file=str(path), users=len(passwords))

    def _refuse_passwords(self, error: Exception) -> None:
        log.error("htpasswd.unreadable", file=str(self._access.htpasswd), error=str(error), kept="the users as they were")

    async def trouble(self) -> dict[str, str]:
        """Why pulls cannot be decided now, by component; empty when they can."""
        try:
            await self._notices.latest()
        except StorageError as error:
            return {"database": str(error)}
        return {}

    async def _watch(self) -> None:
        """Follow the notices of all workers and operators on this database."""
        try:
            for notice in await self._notices.wait(self._since):
                self._since = max(self._since, notice.sequence)
                if notice.kind != OUTBOX_NOTICE:  # which changes no answer
                    self.gate.notice(notice)
                    if notice.kind != PIN_NOTICE:
                        self._reviewer.forget()
                self.upkeep.notice(notice)
        except Exception as error:
            # What is remembered may have been taken back meanwhile: ask the database again, or answer 503.
            self.gate.forget()
            self._reviewer.forget()
            if not isinstance(error, StorageError):
                raise
            log.error("notices.unreadable", error=str(error))
            await asyncio.sleep(_RETRY)

    async def _end_watch(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            with suppress(asyncio.CancelledError):
                await self._watcher

    def _endings(self, now: datetime) -> Iterable[Ending]:
        """What of today's trust ends soon, or has ended."""
        yield from endings(inventory(self._current.trusted), now)
        for name, source in self._current.sources.items():
            state = self._current.states[source.repository.folder]
            yield from Standing(self._current.trusted.roots[name], source.repository, state).endings(now)

    def _readings(self) -> Iterable[Gauge]:
        yield self._recorder.reading()
        yield Gauge("blobs_arriving", "Blobs that are being fetched or put away.", (), (((), float(self.ingest.arriving)),))
        states = self.upstreams.status()
        yield Gauge(
            "upstream_breaker_open",
            "1 while an upstream is not asked because it failed too often.",
            ("upstream",),
            tuple(((state.name,), float(state.breaker == "open")) for state in states),
        )
        yield Gauge(
            "upstream_ratelimit_remaining",
            "Requests that an upstream still allows, as it last said.",
            ("upstream",),
            tuple(((state.name,), float(state.remaining)) for state in states if state.remaining is not None),
        )
        yield from _root_readings(self._current)
        yield from self.upkeep.readings()


def _decides(configuration: Configuration, name: str) -> tuple[object, ...]:
    """What of a root makes a difference to decisions and to the words of refusals."""
    root = configuration.trusted.roots[name]
    return root.identity, root.suspended, root.fresh_until


def _root_readings(configuration: Configuration) -> Iterable[Gauge]:
    if not configuration.sources:
        return
    now, known = utc_now(), {name: configuration.states[each.repository.folder] for name, each in configuration.sources.items()}
    accepted = {name: state.accepted for name, state in known.items() if state.accepted is not None}
    yield Gauge(
        "trust_root_suspended",
        "1 while no new decisions are made by a root of a TUF repository.",
        ("root",),
        tuple(((name,), float(configuration.trusted.roots[name].unusable(now) is not None)) for name in known),
    )
    yield Gauge(
        "trust_root_unreachable",
        "1 while a root's TUF repository cannot be reached.",
        ("root",),
        tuple(((name,), float(state.unreachable is not None)) for name, state in known.items()),
    )
    yield Gauge(
        "trust_root_refreshed_timestamp_seconds",
        "When a root was last refreshed by TUF.",
        ("root",),
        tuple(((name,), each.at.timestamp()) for name, each in accepted.items()),
    )
    yield Gauge(
        "trust_root_expires_timestamp_seconds",
        "When the TUF metadata of a root expires.",
        ("root",),
        tuple(((name,), each.expires.timestamp()) for name, each in accepted.items()),
    )
