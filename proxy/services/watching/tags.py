"""Lists of tags: what is new in a repository that has pins is told. Attackers add tags as well as overwrite them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from proxy.errors import UpstreamError, UpstreamMisbehaved, UpstreamUnavailable
from proxy.policy.patterns import most_specific
from proxy.policy.rules import Never, OnOverwrite, Rule
from proxy.services.checks import Result
from proxy.services.gate import Gate
from proxy.services.metrics import Metrics
from proxy.services.revision import Clock
from proxy.upstream.client import Upstreams
from proxy.verify.shapes import evidence_tag
from storage.records import Event, EventType, Severity
from storage.reference import Repository
from storage.watching import NewTags, WatchStore

log = structlog.get_logger("tagstone.watch")

#: More new tags than that in one list are one event about the repository.
MOST_EVENTS = 10
#: How many tags such an event names.
NAMED = 50


@dataclass(frozen=True, slots=True)
class Listing:
    """How the reading of one list ended: with how many requests, and what went wrong."""

    result: Result
    requests: int
    error: str = ""


class TagLists:
    """Reads lists of tags from upstreams, keeps them, tells what is new."""

    def __init__(self, gate: Gate, upstreams: Upstreams, store: WatchStore, metrics: Metrics, clock: Clock) -> None:
        self._gate = gate
        self._upstreams = upstreams
        self._store = store
        self._metrics = metrics
        self._clock = clock

    async def read(self, repository: Repository, most: int, lately: float) -> Listing:
        """Read one list, and tell what is new in it. Raises StorageError.

        ``most``: of how many tags notice is taken, the first in their order. ``lately``: for how many seconds the overwrite of
        another tag makes new ones suspect.
        """
        rule = self._gate.rule(repository)
        if isinstance(rule.require, Never):  # nothing that it lists would ever be let in
            await self._store.postponed(repository)
            return Listing(Result.UNCHANGED, 0)
        try:
            found = await self._upstreams.tags(repository, background=True)
        except UpstreamError as error:
            await self._store.postponed(repository)
            log.debug("watch.unlisted", repository=str(repository), error=str(error))
            match error:
                case UpstreamUnavailable():
                    return Listing(Result.UNREACHABLE, 1, str(error))
                case UpstreamMisbehaved():
                    return Listing(Result.MISBEHAVED, 1, str(error))
                case _:  # it was deleted, or is none of ours any more: its pins tell
                    return Listing(Result.DENIED, 1, str(error))
        tags = await asyncio.to_thread(_plain, found.tags)
        now = self._clock()

        def tell(new: NewTags) -> Sequence[Event]:
            return events_of(repository, rule, new, now)

        told = await self._store.listed(
            repository,
            tags[:most],
            complete=found.complete and len(tags) <= most,
            at=now,
            lately=now - timedelta(seconds=lately),
            tell=tell,
        )
        for event in told:
            self._metrics.happened(event.type.value)
            record = log.warning if event.severity is Severity.WARNING else log.info
            record(event.type.value, image=event.subject, message=event.message)
        return Listing(Result.CREATED if told else Result.UNCHANGED, found.pages)


def _plain(tags: Sequence[str]) -> list[str]:
    """Without signatures, attestations and lists of referrers: these come with images, and pass by their shape alone."""
    return [tag for tag in tags if evidence_tag(tag) is None]


def events_of(repository: Repository, rule: Rule, new: NewTags, at: datetime) -> list[Event]:
    """The events about new tags: one for each, or one for all of many."""
    suspect = {tag: reason for tag in new.tags if (reason := _suspect(rule, new, tag))}
    if len(new.tags) <= MOST_EVENTS:
        return [
            _event(f"{repository}:{tag}", f"{repository}:{tag} is new upstream", suspect.get(tag), at, {"tags": [tag]})
            for tag in new.tags
        ]
    # Those that matter first: the list is cut, and whoever makes many tags may have done so to hide one.
    first = [*suspect, *(tag for tag in new.tags if tag not in suspect)][:NAMED]
    message = f"{len(new.tags)} tags are new in {repository}: {', '.join(first[:5])}, …"
    details = {"count": len(new.tags), "tags": first, "suspect": len(suspect)}
    return [_event(str(repository), message, next(iter(suspect.values()), None), at, details)]


def _suspect(rule: Rule, new: NewTags, tag: str) -> str | None:
    """Why a new tag deserves attention."""
    if new.overwritten is not None:
        return f"the tag {new.overwritten} of the same repository was overwritten lately"
    said = most_specific(rule.tags, tag)
    if said is not None and said.on_overwrite is OnOverwrite.REFUSE:
        return f"tags that match {said.pattern.text} are not to change"
    return None


def _event(subject: str, message: str, why: str | None, at: datetime, details: dict[str, object]) -> Event:
    severity = Severity.INFO if why is None else Severity.WARNING
    told = message if why is None else f"{message}; {why}"
    return Event(EventType.TAG_CREATED, subject, None, told, at, severity=severity, details=details)
