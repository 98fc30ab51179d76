"""Whether an image that a workload names may run: the gate's own answer, or what it would be.

A review asks the gate as a pull does, so that the first one of a tag pins it, and what is warm is answered from memory. A dry run
must leave nothing behind: there the same evidence is judged and decided without writing (:mod:`proxy.services.explain`), once for
all who ask at the same time, and for a moment afterwards.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from proxy.policy.decision import Answer
from proxy.services.admission import Admission
from proxy.services.answers import Refused, ServedManifest
from proxy.services.explain import Explainer
from proxy.services.flights import Flights
from proxy.services.gate import Gate
from proxy.services.memory import Memory
from proxy.services.revision import Clock, Revision
from proxy.settings import Limits
from proxy.upstream.client import Upstreams
from proxy.verify.shapes import evidence_tag
from storage.digest import Digest
from storage.errors import StorageError
from storage.pins import PinStore
from storage.reference import Reference

log = structlog.get_logger("tagstone.review")

_MOST_KNOWN = 1000


@dataclass(frozen=True, slots=True)
class Judged:
    """The answer about one image. ``digest`` is there when it is SERVE; ``remembered``: it took no look anywhere."""

    answer: Answer
    digest: Digest | None
    reasons: tuple[str, ...]
    warning: str | None = None
    remembered: bool = False

    @property
    def accepted(self) -> bool:
        """Whether it may run."""
        return self.answer is Answer.SERVE and self.digest is not None


class Reviewer:
    """Judges images one by one. ``dry`` must not record."""

    def __init__(
        self,
        gate: Gate,
        dry: Admission,
        pins: PinStore,
        upstreams: Upstreams,
        revision: Revision,
        limits: Limits,
        clock: Clock,
    ) -> None:
        self._gate = gate
        self._limits = limits
        self._flights: Flights[tuple[int, Reference], Judged] = Flights()
        self._known: Memory[tuple[int, Reference], Judged] = Memory(_MOST_KNOWN)
        self._dry = dry
        self._pins = pins
        self._upstreams = upstreams
        self._revision = revision
        self._clock = clock

    def adopt(self, revision: Revision) -> None:
        """Decide dry runs by this policy from now on; the gate is told of it by itself."""
        self._revision = revision
        self.forget()

    def forget(self) -> None:
        """Explain anew what is asked next: a block, a pin or the policy has changed."""
        self._known.clear()
        self._dry.forget_refusals()

    async def close(self) -> None:
        """End the dry runs under way."""
        await self._flights.close()
        await self._dry.close()

    async def judge(self, reference: Reference, *, dry_run: bool) -> Judged:
        """The answer about one image. The caller limits the time; what was begun goes on, and is known at the next try."""
        repository, digest, tag = reference.repository, reference.digest, reference.tag or "latest"
        if digest is None and evidence_tag(tag) is not None:
            return Judged(Answer.DENY, None, (f"{reference} is the name of a signature, not of an image",))
        known = self._gate.recall_tag(repository, tag) if digest is None else self._gate.recall_manifest(repository, digest)
        if known is not None:
            return _judged(known, remembered=True)
        if dry_run:
            return await self._explained(reference, self._revision)
        if digest is None:
            return _judged(await self._gate.tag(repository, tag))
        return _judged(await self._gate.manifest(repository, digest))

    async def _explained(self, reference: Reference, revision: Revision) -> Judged:
        """What the gate would say. Nothing is stored, so it is remembered here: else each dry run would ask the upstream anew."""
        key = (revision.number, reference)
        if (known := self._known.get(key)) is not None:
            return known
        generation = self._known.generation
        judged = await self._flights.run(key, lambda: self._explain(reference, revision))
        if judged.answer is not Answer.UNAVAILABLE:
            seconds = min(self._limits.refusal_ttl, revision.check_interval)
            self._known.put(key, judged, seconds=seconds, cost=1, generation=generation)
        return judged

    async def _explain(self, reference: Reference, revision: Revision) -> Judged:
        explainer = Explainer(self._pins, self._dry, self._upstreams, revision, self._clock)
        try:
            async with asyncio.timeout(self._limits.request_timeout):
                decision = (await explainer.explain(reference)).decision
        except TimeoutError:
            return Judged(
                Answer.UNAVAILABLE, None, (f"no decision within {self._limits.request_timeout:g} s; the upstream is slow",)
            )
        except StorageError as error:
            log.error("storage.unavailable", error=str(error))
            return Judged(Answer.UNAVAILABLE, None, (f"Tagstone's own storage cannot answer: {error}",))
        return Judged(decision.answer, decision.digest, decision.reasons, decision.warning)


def _judged(found: ServedManifest | Refused, *, remembered: bool = False) -> Judged:
    if isinstance(found, Refused):
        return Judged(found.answer, None, found.reasons)
    return Judged(Answer.SERVE, found.descriptor.digest, found.reasons, found.warning, remembered)
