"""Weighing: one manifest judged by its own evidence, the upstream's and what was kept, and an acceptance remembered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass

from proxy.content import FetchedManifest
from proxy.manifest import Manifest
from proxy.policy.rules import Rule, questions_of
from proxy.policy.verdicts import Outcome, Verdict
from proxy.services.holdings import Holdings
from proxy.services.revision import Clock, Revision
from proxy.settings import Limits
from proxy.verify.model import Harvest, Subject
from storage.catalog import Catalog
from storage.digest import Digest
from storage.reference import Repository


@dataclass(frozen=True, slots=True)
class Question:
    """One question to admission: everything that its answer depends on."""

    revision: Revision
    rule: Rule
    repository: Repository
    digest: Digest


@dataclass(frozen=True, slots=True)
class Manner:
    """How what was accepted before is judged again.

    ``kept_first``: by the evidence that was kept, and by the upstream's only where that does not suffice; else the other way
    round. ``leave`` is awaited before an upstream is asked for evidence, and may raise UpstreamUnavailable in its stead. ``by``:
    only what these signers signed counts.
    """

    kept_first: bool = False
    leave: Callable[[], Awaitable[None]] | None = None
    by: Collection[str] | None = None


@dataclass(frozen=True, slots=True)
class Rejudged:
    """A verdict that was reached anew. ``upstream``: by the evidence there alone; None: it was not asked."""

    verdict: Verdict
    upstream: Verdict | None = None


class Weigher:
    """Judges manifests by what was said about them, nothing else: neither blocks nor what stands above them."""

    def __init__(self, catalog: Catalog, holdings: Holdings, limits: Limits, clock: Clock) -> None:
        self._catalog = catalog
        self._holdings = holdings
        self._limits = limits
        self._clock = clock

    async def weigh(self, question: Question, fetched: FetchedManifest, manifest: Manifest, manner: Manner) -> Rejudged:
        """Judge a manifest by its own evidence, the upstream's and what was kept, and remember an acceptance."""
        repository, rule = question.repository, question.rule
        pipeline, now = question.revision.pipeline, self._clock()
        listed = manifest.manifests if manifest.is_index else None
        subject = Subject(repository, fetched.digest, fetched.body, manifest.media_type, listed)
        kept: tuple[Verdict, Harvest] | None = None
        upstream: Verdict | None = None
        if manner.kept_first:
            kept = await self._by_kept(question, subject, manner.by)
        if kept is not None and kept[0].accepted:
            verdict, harvest = kept
        else:
            if manner.leave is not None and questions_of(rule.require):
                await manner.leave()
            verdict, harvest = await pipeline.judge(self._holdings.online, subject, rule, now, by=manner.by)
            upstream = verdict
            if (
                not verdict.accepted
                and not manner.kept_first
                and await self.kept(repository, self.about(fetched.digest, manifest))
            ):
                kept = await self._by_kept(question, subject, manner.by)
            # What the store cannot tell now may be what would have been accepted: then nothing is told.
            if (
                kept is not None
                and not verdict.accepted
                and (kept[0].accepted or (verdict.outcome is Outcome.REFUSED and kept[0].outcome is Outcome.UNKNOWN))
            ):
                verdict, harvest = kept
        if verdict.accepted:
            await self._holdings.record(repository, rule, fetched, manifest, harvest, verdict, self._clock())
        return Rejudged(verdict, upstream)

    async def _by_kept(self, question: Question, subject: Subject, by: Collection[str] | None) -> tuple[Verdict, Harvest]:
        """The verdict by the evidence that was kept, and if need be by what a root that decides nothing now accepted before."""
        pipeline, rule, now = question.revision.pipeline, question.rule, self._clock()
        found, harvest = await pipeline.judge(self._holdings.stored, subject, rule, now, by=by)
        if found.outcome is Outcome.UNKNOWN and (grounds := await self._grounds(question)):
            kept = self._holdings.stored_only(grounds)
            repeated, its_harvest = await pipeline.judge(kept, subject, rule, now, again=True, by=by)
            if repeated.accepted:
                return repeated, its_harvest
        return found, harvest

    def about(self, digest: Digest, manifest: Manifest) -> Sequence[Digest]:
        """What evidence for a manifest may be about: itself, and what it lists."""
        return (digest, *(entry.descriptor.digest for entry in manifest.manifests[: self._limits.platforms]))

    async def kept(self, repository: Repository, about: Sequence[Digest]) -> bool:
        """Whether evidence was stored about any of these."""
        for each in about:
            if await self._catalog.evidence(repository, each):
                return True
        return False

    async def _grounds(self, question: Question) -> frozenset[Digest]:
        """By which evidence a root that makes no decisions now had accepted a manifest when it made some; none: it never did."""
        if not question.rule.lasting:
            return frozenset()
        return await self._catalog.grounds(question.repository, question.digest, question.rule.lasting)
