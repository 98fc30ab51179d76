"""Candidates: what upstreams name in the place of pinned digests, judged beside the pulls, and pinned where their rule says so.

A pull that finds another digest under a pinned tag does not wait until that is judged: the pinned one is at hand. So each
candidate has one flight of its own, which asks the upstream once more (a pin moves to nothing that was seen a while ago), judges,
decides like any pull (:mod:`proxy.policy.decision`), and writes. Who loses the race for a pin decides again with the winner's.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import structlog

from proxy.content import FetchedManifest
from proxy.errors import UpstreamError
from proxy.policy.decision import Observation, Upstream, decide
from proxy.policy.rotation import Candidacy
from proxy.policy.rules import Continuity, Rule
from proxy.policy.signers import continues
from proxy.policy.verdicts import Outcome, Verdict
from proxy.services.admission import Admission
from proxy.services.flights import Flights
from proxy.services.memory import Memory
from proxy.services.revision import Clock, Revision
from proxy.settings import Limits
from proxy.upstream.client import Upstreams
from storage.digest import Digest
from storage.errors import PinConflict, StorageError
from storage.pins import PinStore
from storage.records import Pin, PinWrite, Severity, Standing
from storage.reference import Repository

log = structlog.get_logger("tagstone.candidates")

#: How many are judged at once, and how many wait at most: what is left out is asked for again by the next pull.
_AT_ONCE = 8
_MOST = 1000
_RACES = 5
#: Which part of its age passes until a candidate that failed is judged again.
_PATIENCE = 0.1


async def write_pin(pins: PinStore, write: PinWrite) -> Pin | None:
    """Make one change of a pin, and tell of it in the log. Raises PinConflict and DatabaseUnavailable."""
    after = await pins.apply(write)
    change = write.change
    image, digest = f"{change.repository}:{change.tag}", str(change.to_digest)
    log.info("pin.changed", action=change.action.value, image=image, digest=digest, by=change.by, reason=change.reason)
    for event in write.opened:
        tell = log.info if event.severity is Severity.INFO else log.warning
        tell(event.type.value, image=event.subject, digest=str(event.digest), message=event.message)
    return after


class Judge:
    """Judges one candidate for one pin. What it asks of ``admission`` is recorded where that records."""

    def __init__(self, admission: Admission, pins: PinStore) -> None:
        self._admission = admission
        self._pins = pins

    async def judge(
        self, revision: Revision, rule: Rule, pin: Pin, pinned: Verdict, candidate: Digest | FetchedManifest
    ) -> Candidacy:
        """The candidate as it stands now. ``pinned``: today's verdict on the pinned digest. Raises StorageError only.

        Where continuity is asked for, it is judged by the evidence of the pin's own signers if that suffices: what others signed
        beside them neither helps nor harms.
        """
        repository, rotation = pin.repository, rule.tag_rule(pin.tag).rotation
        before: tuple[str, ...] | None = None
        if rotation is not None and rotation.signer is Continuity.SAME:
            before = await self._vouched(revision, rule, pin, pinned)
        verdict = await self._admission.anew(revision, rule, repository, candidate)
        if verdict.accepted and before and verdict.signers is not None and not continues(before, verdict.signers):
            by_them = await self._admission.anew(revision, rule, repository, candidate, by=before)
            if by_them.outcome is not Outcome.REFUSED:
                verdict = by_them
        digest = candidate if isinstance(candidate, Digest) else candidate.digest
        past = await self._pins.past(repository, pin.tag, digest)
        return Candidacy(digest, verdict, before, past.held, past.rejected)

    async def _vouched(self, revision: Revision, rule: Rule, pin: Pin, pinned: Verdict) -> tuple[str, ...] | None:
        """Who vouches for the pinned digest: those who did as it was pinned, while it passes by them alone; else who does now.

        None where nobody can tell. The rule may ask for others by now; and what others signed since counts for nothing.
        """
        if pinned.signers is not None and pin.signers in {None, pinned.signers}:
            return pinned.signers
        if pin.signers:
            by_them = await self._admission.anew(revision, rule, pin.repository, pin.digest, by=pin.signers)
            if by_them.outcome is not Outcome.REFUSED:
                return by_them.signers
        today = await self._admission.anew(revision, rule, pin.repository, pin.digest)
        return today.signers


class Candidates:
    """Owns the flights of all candidates. :meth:`close` ends those under way."""

    def __init__(
        self, judge: Judge, admission: Admission, pins: PinStore, upstreams: Upstreams, limits: Limits, clock: Clock
    ) -> None:
        self._judge = judge
        self._admission = admission
        self._pins = pins
        self._upstreams = upstreams
        self._limits = limits
        self._clock = clock
        self._flights: Flights[tuple[int, Repository, str], None] = Flights()
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._seen: Memory[tuple[Repository, str], tuple[int, Digest]] = Memory(10_000)

    async def close(self) -> None:
        """End the judgements under way."""
        await self._flights.close()

    async def judged(self) -> None:
        """Wait until all that are being judged now have been, or could not be in time."""
        await self._flights.landed()

    def notice(self, repository: Repository, tag: str) -> None:
        """Something about a pin changed: its candidate may be judged again at once."""
        self._seen.invalidate((repository, tag))

    def forget(self) -> None:
        """The same about everything."""
        self._seen.clear()

    def begin(self, revision: Revision, rule: Rule, pin: Pin, candidate: Digest) -> None:
        """Have a candidate judged soon, at most once in ``check_interval``; nobody waits for it.

        One that failed may be signed a moment after it was pushed; the longer it is there, the less often that is looked for.
        """
        key, judged = (pin.repository, pin.tag), (revision.number, candidate)
        if self._seen.get(key) == judged or len(self._flights) >= _MOST:
            return
        flight = (revision.number, pin.repository, pin.tag)
        if self._flights.begin(flight, lambda: self._watched(revision, rule, pin.repository, pin.tag)):
            seconds = max(revision.check_interval, self._patience(pin, candidate))
            self._seen.put(key, judged, seconds=seconds, cost=1, generation=self._seen.generation)

    def _patience(self, pin: Pin, candidate: Digest) -> float:
        """Seconds until a candidate that failed, and that nobody stands up for, is looked at again."""
        if pin.judgement is None or pin.candidate_seen_at is None or pin.candidate != candidate or pin.approvals:
            return 0.0
        age = (self._clock() - pin.candidate_seen_at).total_seconds()
        return 0.0 if pin.judgement.standing is Standing.PASSES else age * _PATIENCE

    async def _watched(self, revision: Revision, rule: Rule, repository: Repository, tag: str) -> None:
        """One flight, whose failures are told here: nobody else sees them."""
        image = f"{repository}:{tag}"
        try:
            async with self._slots, asyncio.timeout(self._limits.request_timeout):
                await self._settle(revision, rule, repository, tag)
        except TimeoutError:
            log.warning("candidate.unjudged", image=image, error=f"no verdict within {self._limits.request_timeout:g} s")
        except (UpstreamError, StorageError) as error:
            log.warning("candidate.unjudged", image=image, error=str(error))
        except Exception:
            log.exception("candidate.failed", image=image)

    async def _settle(self, revision: Revision, rule: Rule, repository: Repository, tag: str) -> None:
        """Judge what the upstream names now, and write what follows. Raises UpstreamError and StorageError.

        Where that is another digest whenever it is asked, it is judged as it was seen: nothing rotates so, but it is told.
        """
        restless = False
        for _ in range(_RACES):
            pin = await self._pins.get(repository, tag)
            if pin is None or pin.candidate is None:
                return
            pinned = await self._admission.of_pin(revision, rule, repository, pin.digest)
            if not pinned.accepted:
                return
            fresh = Observation(Upstream.FRESH, pin.candidate)
            seen = fresh if restless else await self._observed(rule, pin, pin.candidate)
            restless = restless or seen.digest not in {pin.candidate, pin.digest}
            if seen.digest == pin.candidate:
                candidacy = await self._judge.judge(revision, rule, pin, pinned, pin.candidate)
                seen = replace(seen, candidacy=candidacy)
            decision = decide(repository, tag, rule, pin, pinned, seen, self._clock())
            if decision.write is not None:
                try:
                    await write_pin(self._pins, decision.write)
                except PinConflict:
                    continue  # somebody else moved it first: decide again with what they wrote
            if decision.judge is None:
                return

    async def _observed(self, rule: Rule, pin: Pin, candidate: Digest) -> Observation:
        """What the upstream names now. Where only people move the pin it need not be asked again. Raises UpstreamError."""
        if rule.tag_rule(pin.tag).rotation is None:
            return Observation(Upstream.FRESH, candidate)
        named = await self._upstreams.named(pin.repository, pin.tag, background=True)
        if named.digest == candidate:  # a header may confirm what was hashed before
            return Observation(Upstream.NAMES, candidate, at=named.at)
        fetched = await self._upstreams.manifest(pin.repository, pin.tag, background=True)
        return Observation(Upstream.NAMES, fetched.digest, at=fetched.at)
