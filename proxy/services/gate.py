"""The gate: every path to a byte asks here, and nowhere else.

Tag and digest, manifest and blob, HEAD, GET and Range, referrers and signature tags, cache hit and miss: each is one method that
answers something to serve or a refusal. What it answered it remembers for as long as it stays true (``check_interval`` for tags,
a key's validity window, until a notice from the database says otherwise), so that warm pulls need no I/O at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeAlias, TypeVar

import structlog

from proxy.errors import ManifestRefused, UpstreamError, UpstreamMisbehaved
from proxy.policy.decision import Answer, Decision, Observation, Refusal, Upstream, decide, decide_digest
from proxy.policy.rules import Never, Rule
from proxy.policy.verdicts import Verdict
from proxy.services.admission import Admission
from proxy.services.answers import GrantedBlob, Refused, ServedManifest, ServedReferrers, ServedTags, Thing
from proxy.services.candidates import Candidates, write_pin
from proxy.services.checks import Checked, Judged, Result, Standing, result_of
from proxy.services.discovery import Ask, Discovery
from proxy.services.explain import observe_failure
from proxy.services.flights import Flights
from proxy.services.memory import Memory
from proxy.services.revision import Clock, Revision
from proxy.services.weighing import Manner, Rejudged
from proxy.settings import Limits
from proxy.upstream.client import Upstreams
from proxy.verify.shapes import evidence_tag
from storage.blobs import BlobStore
from storage.catalog import BLOCK_NOTICE
from storage.digest import Digest
from storage.errors import PinConflict, StorageError
from storage.notices import EVERYTHING
from storage.pins import PinStore
from storage.records import Notice, Pin
from storage.reference import Repository

log = structlog.get_logger("tagstone.gate")

#: How long an answer that nothing limits is remembered; a notice removes it earlier.
_LONG = 3600.0
_RACES = 5
_UNAVAILABLE_RETRY = 10.0

_T = TypeVar("_T")


#: Told that a pull was refused: what was asked for (``registry/repository:tag`` or ``…@digest``), what was judged, and why.
OnRefused: TypeAlias = Callable[[str, Refusal, str], None]


@dataclass(frozen=True, slots=True)
class _Settled:
    """A decision that was made and written: the pin before and after, and what the upstream said."""

    before: Pin | None
    seen: Observation
    decision: Decision
    after: Pin | None

    @property
    def told(self) -> bool:
        """Whether the upstream said what the tag names, so that the check counts."""
        return self.before is not None and self.seen.upstream in {Upstream.NAMES, Upstream.ABSENT}


class Gate:
    """Answers pulls. Built once; :meth:`adopt` swaps the policy, :meth:`notice` tells what changed in the database."""

    def __init__(
        self,
        revision: Revision,
        admission: Admission,
        pins: PinStore,
        blobs: BlobStore,
        upstreams: Upstreams,
        candidates: Candidates,
        limits: Limits,
        clock: Clock,
        on_refused: OnRefused | None = None,
    ) -> None:
        self._revision = revision
        self._on_refused = on_refused
        self._admission = admission
        self._candidates = candidates
        self._pins = pins
        self._blobs = blobs
        self._upstreams = upstreams
        self._limits = limits
        self._clock = clock
        self._discovery = Discovery(admission, upstreams)

        def wall() -> float:
            return clock().timestamp()

        self._manifests: Memory[tuple[Repository, str | Digest], ServedManifest] = Memory(limits.memory_manifests, wall=wall)
        self._granted: Memory[tuple[Repository, Digest], GrantedBlob] = Memory(limits.memory_blobs, wall=wall)
        self._listed: Memory[Repository, ServedTags] = Memory(limits.memory_manifests)
        self._tag_flights: Flights[tuple[int, Repository, str], ServedManifest | Refused] = Flights()
        self._flights: Flights[tuple[int, Repository, Digest], ServedManifest | Refused] = Flights()
        self._list_flights: Flights[tuple[int, Repository], ServedTags | Refused] = Flights()
        #: How often somebody blocked something, or took a block back. What was granted before that is asked for again.
        self.withdrawals = 0

    # -- what may change while it runs ----------------------------------------------------------------------------------

    def adopt(self, revision: Revision) -> None:
        """Decide by this policy from now on; what was remembered under the old one is forgotten."""
        self._revision = revision
        self.forget()

    def notice(self, notice: Notice) -> None:
        """Another worker or an operator changed something: forget what depends on it."""
        if notice.kind == "pin":
            name, _, tag = notice.subject.rpartition(":")
            registry, _, path = name.partition("/")
            self._manifests.invalidate((Repository(registry, path), tag))
            self._candidates.notice(Repository(registry, path), tag)
        else:
            # Verdicts may end by the thousand when trust changes: what is being answered ends by the one that it began with.
            self.withdrawals += notice.kind in {BLOCK_NOTICE, EVERYTHING}
            self.forget()

    def forget(self) -> None:
        """Remember nothing: what is asked next is looked up again."""
        self._manifests.clear()
        self._granted.clear()
        self._listed.clear()
        self._admission.forget_refusals()
        self._candidates.forget()

    async def close(self) -> None:
        """End the pulls under way."""
        await self._tag_flights.close()
        await self._flights.close()
        await self._list_flights.close()
        await self._candidates.close()
        await self._admission.close()

    def rule(self, repository: Repository) -> Rule:
        """The rule that holds for a repository now."""
        return self._revision.rule(repository)

    def rule_of(self, repository: Repository) -> str:
        """The rule that holds for a repository, for people."""
        return str(self.rule(repository))

    # -- manifests ------------------------------------------------------------------------------------------------------

    def recall_tag(self, repository: Repository, tag: str) -> ServedManifest | None:
        """The remembered answer for a tag, while it is fresh: the whole of a warm pull."""
        return self._manifests.get((repository, tag))

    def recall_manifest(self, repository: Repository, digest: Digest) -> ServedManifest | None:
        """The remembered answer for a manifest by digest."""
        return self._manifests.get((repository, digest))

    def recall_blob(self, repository: Repository, digest: Digest) -> GrantedBlob | None:
        """The remembered grant for a blob."""
        return self._granted.get((repository, digest))

    async def tag(self, repository: Repository, tag: str) -> ServedManifest | Refused:
        """A pull by tag: design table of :mod:`proxy.policy.decision`."""
        key = (repository, tag)
        if (known := self._manifests.get(key)) is not None:
            return known
        flight = (self._revision.number, repository, tag)
        return await self._tag_flights.run(flight, lambda: self._in_time(Thing.MANIFEST, lambda: self._tag(repository, tag)))

    async def manifest(self, repository: Repository, digest: Digest) -> ServedManifest | Refused:
        """A pull by digest: judged like a candidate, or reached from what was accepted; never pinned."""
        key = (repository, digest)
        if (known := self._manifests.get(key)) is not None:
            return known
        flight = (self._revision.number, repository, digest)
        return await self._flights.run(flight, lambda: self._in_time(Thing.MANIFEST, lambda: self._manifest(repository, digest)))

    async def _tag(self, repository: Repository, tag: str) -> ServedManifest | Refused:
        ask = self._ask(repository)
        if (subject := evidence_tag(tag)) is not None:
            return await self._discovery.evidence(ask, tag, subject)
        generation = self._manifests.generation
        for _ in range(_RACES):
            pin = await self._pins.get(repository, tag)
            age = None if pin is None else (self._clock() - pin.checked_at).total_seconds()
            # A check in the future (the clock stepped back) is no check.
            fresh = age is not None and 0 <= age < ask.revision.check_interval
            if (settled := await self._settle(ask, tag, pin, fresh=fresh)) is None:
                continue
            if settled.told and settled.decision.write is None and ask.revision.check_interval > 0:
                await self._pins.checked(repository, tag, self._clock())
            interval = ask.revision.check_interval - (age if fresh and age is not None else 0)
            return await self._deliver_tag(ask, tag, settled.decision, interval, generation)
        return Refused(Answer.UNAVAILABLE, (f"{repository}:{tag} changes too often to be decided now",), retry_after=1.0)

    async def check(self, repository: Repository, tag: str, standing: Standing | None = None) -> Checked:
        """Ask the upstream now what a pinned tag names; decide and write as for a pull of it. Nothing is served.

        ``standing``: the pin, where somebody has just looked for many at once whether a verdict stands for it: it is taken at
        its word, unless another question counts by now. What follows is written only while the pin is still the same.

        That the upstream answered (``Checked.told``) is for the caller to note, who may do so for many at once:
        :meth:`storage.watching.WatchStore.turned`. Raises StorageError.
        """
        ask = self._ask(repository, background=True)
        try:
            async with asyncio.timeout(self._limits.request_timeout):
                for attempt in range(_RACES):
                    pinned: Verdict | None = None
                    if standing is not None and attempt == 0 and standing.question == ask.rule.fingerprint:
                        pin, pinned = standing.pin, standing.verdict
                    elif (found := await self._pins.get(repository, tag)) is not None:
                        pin = found
                    else:
                        return Checked(repository, tag, Result.UNPINNED, None)
                    if (settled := await self._settle(ask, tag, pin, fresh=False, pinned=pinned)) is not None:
                        seen, decision, after = settled.seen, settled.decision, settled.after
                        message, asked = seen.message or "; ".join(decision.reasons), seen.upstream is not Upstream.FRESH
                        result = result_of(pin, seen, decision, after)
                        return Checked(repository, tag, result, after, message, settled.told, asked)
        except TimeoutError:
            reason = f"no decision within {self._limits.request_timeout:g} s; the upstream is slow"
            return Checked(repository, tag, Result.UNREACHABLE, None, reason)
        return Checked(repository, tag, Result.UNREACHABLE, None, f"{repository}:{tag} changes too often to be decided now")

    async def judged(self) -> None:
        """Wait until the candidates that pulls and checks found so far are judged, and what follows is written."""
        await self._candidates.judged()

    async def judge(self, repository: Repository, tag: str, manner: Manner) -> Judged | None:
        """Judge the digest that a tag is pinned to again; decide and write as a pull would that found the same.

        The upstream is not asked what the tag names, and nothing is served. None: there is no pin. Raises StorageError.
        """
        found: Rejudged | None = None
        about: tuple[Revision, Digest] | None = None
        while (pin := await self._pins.get(repository, tag)) is not None:
            ask = self._ask(repository)
            if found is None or about != (ask.revision, pin.digest):
                about = ask.revision, pin.digest
                found = await self._admission.again(ask.revision, ask.rule, repository, pin.digest, manner)
                continue  # it took its time: the pin and the policy may be others by now
            if (settled := await self._settle(ask, tag, pin, fresh=True, pinned=found.verdict)) is not None:
                return Judged(pin, settled.after or pin, found)
        return None

    async def _settle(
        self, ask: Ask, tag: str, pin: Pin | None, *, fresh: bool, pinned: Verdict | None = None
    ) -> _Settled | None:
        """Decide, and write what follows. None: somebody else moved the pin first; decide again with what they wrote.

        ``pinned``: the verdict on the pinned digest, where it was reached just now.
        """
        seen, decision = await self._decide(ask, tag, pin, fresh=fresh, pinned=pinned)
        try:
            after = await self._apply(decision, pin)
        except PinConflict:
            return None
        if decision.judge is not None and after is not None:
            self._candidates.begin(ask.revision, ask.rule, after, decision.judge)
        return _Settled(pin, seen, decision, after)

    async def _decide(
        self, ask: Ask, tag: str, pin: Pin | None, *, fresh: bool, pinned: Verdict | None
    ) -> tuple[Observation, Decision]:
        now = self._clock()
        if pin is None:
            seen = await self._observe(ask, tag, None)
            return seen, decide(ask.repository, tag, ask.rule, None, None, seen, now)
        if pinned is None:
            pinned = await self._admission.of_pin(ask.revision, ask.rule, ask.repository, pin.digest)
        if fresh or not pinned.accepted:
            seen = Observation(Upstream.FRESH)
        else:
            seen = await self._observe(ask, tag, pin)
        return seen, decide(ask.repository, tag, ask.rule, pin, pinned, seen, now)

    async def _observe(self, ask: Ask, tag: str, pin: Pin | None) -> Observation:
        """Ask the upstream what a tag names, and judge that where it is not the pin."""
        if isinstance(ask.rule.require, Never):
            return Observation(Upstream.FRESH)  # nothing that the upstream could say would matter: it is not even asked
        repository = ask.repository
        try:
            if pin is not None:
                hint = await self._upstreams.named(repository, tag, background=ask.background)
                # A header may confirm what was hashed before; it never raises an alarm of its own.
                if hint.digest is not None and hint.digest in {pin.digest, pin.candidate}:
                    return Observation(Upstream.NAMES, hint.digest, at=hint.at)
            fetched = await self._upstreams.manifest(repository, tag, background=ask.background)
            if pin is not None:
                return Observation(Upstream.NAMES, fetched.digest, at=fetched.at)
            verdict = await self._admission.of_tag(ask.revision, ask.rule, repository, fetched)
        except UpstreamError as error:
            if isinstance(error, UpstreamMisbehaved):
                log.warning("upstream.misbehaved", image=f"{repository}:{tag}", error=str(error))
            return observe_failure(error)
        return Observation(Upstream.NAMES, fetched.digest, verdict)

    async def _apply(self, decision: Decision, pin: Pin | None) -> Pin | None:
        """Write what the decision says, in one transaction; then tell about it. The pin afterwards. Raises PinConflict."""
        return pin if decision.write is None else await write_pin(self._pins, decision.write)

    async def _deliver_tag(
        self, ask: Ask, tag: str, decision: Decision, interval: float, generation: int
    ) -> ServedManifest | Refused:
        if decision.answer is not Answer.SERVE or decision.digest is None:
            self._note_refusal(f"{ask.repository}:{tag}", decision)
            return Refused.of(decision)
        held = await self._hold(ask.repository, decision.digest)
        if isinstance(held, Refused):
            return held
        served = replace(held, warning=decision.warning, reasons=decision.reasons)
        # Fresh until the next check is due; an answer that leans on a key's window, or on a candidate's cooldown, ends with it.
        seconds = min(interval, self._seconds_until(decision.valid_until), self._seconds_until(decision.due))
        key = (ask.repository, tag)
        self._manifests.put(key, served, seconds=seconds, cost=len(served.body) + 1000, generation=generation)
        return served

    async def _manifest(self, repository: Repository, digest: Digest) -> ServedManifest | Refused:
        ask = self._ask(repository)
        generation = self._manifests.generation
        name = f"{repository}@{digest}"
        try:
            verdict = await self._admission.of_digest(ask.revision, ask.rule, repository, digest)
        except UpstreamError as error:
            return Refused.by_upstream(name, error, Thing.MANIFEST)
        decision = decide_digest(repository, digest, ask.rule, verdict)
        if decision.answer is not Answer.SERVE:
            self._note_refusal(name, decision)
            return Refused.of(decision)
        served = await self._hold(repository, digest)
        if isinstance(served, ServedManifest):
            served = replace(served, reasons=decision.reasons)
            seconds = self._seconds_until(verdict.valid_until)
            self._manifests.put(
                (repository, digest), served, seconds=seconds, cost=len(served.body) + 1000, generation=generation
            )
        return served

    async def _hold(self, repository: Repository, digest: Digest) -> ServedManifest | Refused:
        """The bytes of what was decided."""
        try:
            held = await self._admission.holdings.hold(repository, digest)
        except ManifestRefused as error:
            return Refused(Answer.DENY, (f"{repository}@{digest} is refused", str(error)))
        except UpstreamError as error:
            return Refused.by_upstream(f"{repository}@{digest}", error, Thing.MANIFEST)
        return ServedManifest(held.descriptor, held.body)

    # -- discovery ------------------------------------------------------------------------------------------------------

    async def referrers(self, repository: Repository, subject: Digest, artifact_type: str | None) -> ServedReferrers | Refused:
        """The referrers of an admitted manifest, as an image index (OCI distribution specification 1.1, end-12)."""
        ask = self._ask(repository)
        return await self._in_time(Thing.NAME, lambda: self._discovery.referrers(ask, subject, artifact_type))

    # -- blobs ----------------------------------------------------------------------------------------------------------

    async def blob(self, repository: Repository, digest: Digest) -> GrantedBlob | Refused:
        """The right to a blob: an accepted manifest of this repository reaches it."""
        if (known := self._granted.get((repository, digest))) is not None:
            return known
        return await self._in_time(Thing.BLOB, lambda: self._blob(repository, digest))

    async def withdrawn(self, repository: Repository, digest: Digest) -> Refused | None:
        """Why a blob that was granted is not any more; None where it is. An outage takes nothing back."""
        found = await self.blob(repository, digest)
        return found if isinstance(found, Refused) and found.answer is Answer.DENY else None

    async def _blob(self, repository: Repository, digest: Digest) -> GrantedBlob | Refused:
        ask = self._ask(repository)
        generation = self._granted.generation
        verdict, descriptor = await self._admission.of_blob(ask.revision, ask.rule, repository, digest)
        if not verdict.accepted or descriptor is None:
            decision = decide_digest(repository, digest, ask.rule, verdict)
            return Refused.of(decision, Thing.BLOB)
        body = None
        if descriptor.size <= self._limits.memory_blob_size:
            body = await self._blobs.read(digest, descriptor.size)
        granted = GrantedBlob(descriptor, body, verdict.reasons)
        if body is not None or descriptor.size > self._limits.memory_blob_size:
            seconds = self._seconds_until(verdict.valid_until)
            self._granted.put((repository, digest), granted, seconds=seconds, cost=500 + len(body or b""), generation=generation)
        return granted

    # -- tags -----------------------------------------------------------------------------------------------------------

    async def tags(self, repository: Repository) -> ServedTags | Refused:
        """All tags that the upstream lists for a repository that some rule allows."""
        if (known := self._listed.get(repository)) is not None:
            return known
        flight = (self._revision.number, repository)
        return await self._list_flights.run(flight, lambda: self._in_time(Thing.NAME, lambda: self._tags(repository)))

    async def _tags(self, repository: Repository) -> ServedTags | Refused:
        ask = self._ask(repository)
        if isinstance(ask.rule.require, Never):
            return Refused(Answer.DENY, (f"{ask.rule} allows nothing in {repository}",), Thing.NAME)
        generation = self._listed.generation
        try:
            found = await self._upstreams.tags(repository)
        except UpstreamError as error:
            return Refused.by_upstream(f"the tags of {repository}", error, Thing.NAME)
        served = ServedTags(found.tags, found.complete)
        cost = 1000 + sum(len(tag) + 60 for tag in found.tags)
        self._listed.put(repository, served, seconds=ask.revision.check_interval, cost=cost, generation=generation)
        return served

    # -- shared ---------------------------------------------------------------------------------------------------------

    def _note_refusal(self, subject: str, decision: Decision) -> None:
        if self._on_refused is not None and decision.refusal is not None:
            self._on_refused(subject, decision.refusal, "; ".join(decision.reasons))

    def _ask(self, repository: Repository, *, background: bool = False) -> Ask:
        revision = self._revision
        return Ask(revision, revision.rule(repository), repository, background)

    async def _in_time(self, thing: Thing, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T | Refused:
        """Answer within ``limits.request_timeout``; trouble with our own storage is an outage, too."""
        try:
            async with asyncio.timeout(self._limits.request_timeout):
                for _ in range(_RACES):
                    before = self.withdrawals
                    answer = await work()
                    # It took as long as the upstream did: a block that came meanwhile is heeded.
                    if before == self.withdrawals or isinstance(answer, Refused):
                        return answer
        except TimeoutError:
            reason = f"no decision within {self._limits.request_timeout:g} s; the upstream is slow"
            return Refused(Answer.UNAVAILABLE, (reason,), thing, _UNAVAILABLE_RETRY)
        except StorageError as error:
            log.error("storage.unavailable", error=str(error))
            return Refused(Answer.UNAVAILABLE, (f"Tagstone's own storage cannot answer: {error}",), thing, _UNAVAILABLE_RETRY)
        return Refused(Answer.UNAVAILABLE, ("blocks change too often for it to be decided now",), thing, retry_after=1.0)

    def _seconds_until(self, until: datetime | None) -> float:
        return _LONG if until is None else min(_LONG, (until - self._clock()).total_seconds())
