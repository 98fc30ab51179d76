"""Admission: may this digest be served in this repository under this rule, and by which manifest is it reached?

A digest is *admitted* when an accepted verdict stands above it: on the manifest itself, or on one that reaches it through
recorded edges (index → manifest → config and layers, subject → evidence) with no blocked digest on the way. Verdicts and edges
live in the catalog, so admission survives restarts; a verdict answers one fingerprint only, so a changed rule or key asks anew.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from proxy.content import FetchedManifest
from proxy.errors import ManifestRefused, UpstreamAbsent, UpstreamError, UpstreamUnavailable
from proxy.manifest import Manifest
from proxy.policy.rules import Never, Rule
from proxy.policy.verdicts import Outcome, Verdict, evaluate
from proxy.services.flights import Flights
from proxy.services.holdings import Holdings
from proxy.services.memory import Memory
from proxy.services.revision import Clock, Revision
from proxy.services.weighing import Manner, Question, Rejudged, Weigher
from proxy.settings import Limits
from proxy.upstream.client import Upstreams
from storage.blobs import BlobStore
from storage.catalog import Catalog
from storage.digest import Digest
from storage.lineage import accepted_root, blocked
from storage.records import Block, Descriptor, Edge, Kind, Lineage, StoredVerdict
from storage.reference import Repository
from storage.verdicts import SKEW

#: How many manifests above a digest are judged again when none of them holds a verdict for today's rule.
_MAX_ROOTS = 8


_ONLINE_FIRST = Manner()


class Admission:
    """Judges manifests, records what was accepted, and answers what is reachable.

    With ``record=False`` nothing is written: the same judgement as a dry run.
    """

    def __init__(
        self, catalog: Catalog, blobs: BlobStore, upstreams: Upstreams, limits: Limits, clock: Clock, *, record: bool = True
    ) -> None:
        self._catalog = catalog
        self._blobs = blobs
        self._limits = limits
        self._clock = clock
        self.holdings = Holdings(catalog, blobs, upstreams, limits, record=record)
        self._weigher = Weigher(catalog, self.holdings, limits, clock)
        self._flights: Flights[tuple[int, Repository, Digest, str, bool], Verdict] = Flights()
        self._refusals: Memory[tuple[int, Repository, Digest, str, bool], Verdict] = Memory(10_000)
        self._readings: Flights[Repository, UpstreamUnavailable | None] = Flights()

    async def close(self) -> None:
        """End the judgements under way."""
        await self._flights.close()
        await self._readings.close()

    def forget_refusals(self) -> None:
        """Ask again at the next pull what was refused a moment ago: the policy, a block or a pin has changed."""
        self._refusals.clear()

    # -- verdicts -------------------------------------------------------------------------------------------------------

    async def of_tag(self, revision: Revision, rule: Rule, repository: Repository, fetched: FetchedManifest) -> Verdict:
        """The verdict on what a tag names. Evidence about an image does not pass as an image."""
        question = Question(revision, rule, repository, fetched.digest)
        return await self._manifest(question, fetched, as_evidence=False)

    async def of_fetched(
        self,
        revision: Revision,
        rule: Rule,
        repository: Repository,
        fetched: FetchedManifest,
        *,
        as_evidence: bool,
        by: Collection[str] | None = None,
    ) -> Verdict:
        """A fresh verdict on a manifest: judged by its evidence now, whatever was recorded; blocks hold all the same.

        ``as_evidence``: pulled by digest it may also pass as evidence about an admitted image, never by tag. ``by``: only what
        these signers signed counts (lines of :mod:`proxy.policy.signers`).
        """
        if isinstance(rule.require, Never):
            return evaluate(rule.require, ())
        question = Question(revision, rule, repository, fetched.digest)
        lineage = await self._catalog.lineage(
            repository, fetched.digest, rule.fingerprint, as_manifest=True, through_evidence=as_evidence
        )
        verdict = await self._judge_alone(question, fetched, as_evidence=as_evidence, by=by)
        if verdict.accepted and (block := await self._block_on(question, fetched, as_evidence=as_evidence)) is not None:
            return _blocked(block)
        if not verdict.accepted and (above := await self._from_above(question, lineage)) is not None and above.accepted:
            return replace(above, checks=verdict.checks, evidence=verdict.evidence)
        return verdict

    async def of_pin(self, revision: Revision, rule: Rule, repository: Repository, digest: Digest) -> Verdict:
        """The verdict on a pinned digest. Raises nothing: what cannot be fetched cannot be told."""
        try:
            return await self._manifest(Question(revision, rule, repository, digest), None, as_evidence=False)
        except UpstreamError as error:
            return _untold(error)

    async def of_candidate(self, revision: Revision, rule: Rule, repository: Repository, digest: Digest) -> Verdict:
        """The verdict on a digest that is to be pinned: as :meth:`of_pin`, but one that the upstream does not have is refused."""
        try:
            return await self._manifest(Question(revision, rule, repository, digest), None, as_evidence=False)
        except UpstreamAbsent:
            return Verdict(Outcome.REFUSED, (f"{repository}@{digest} does not exist upstream",))
        except UpstreamError as error:
            return _untold(error)

    async def anew(
        self,
        revision: Revision,
        rule: Rule,
        repository: Repository,
        what: Digest | FetchedManifest,
        *,
        by: Collection[str] | None = None,
    ) -> Verdict:
        """A fresh verdict on what a tag names or is pinned to (:meth:`of_fetched`). Raises nothing, as :meth:`of_candidate`."""
        try:
            fetched = await self.holdings.fetch(repository, what) if isinstance(what, Digest) else what
            return await self.of_fetched(revision, rule, repository, fetched, as_evidence=False, by=by)
        except UpstreamAbsent:
            return Verdict(Outcome.REFUSED, (f"{repository}@{what} does not exist upstream",))
        except UpstreamError as error:
            return _untold(error)

    async def again(
        self, revision: Revision, rule: Rule, repository: Repository, digest: Digest, manner: Manner = _ONLINE_FIRST
    ) -> Rejudged:
        """Judge a pinned digest again, as it stands by evidence and not by what was recorded; blocks hold all the same.

        A definite refusal ends the acceptance that was recorded before it. With ``manner.kept_first`` an acceptance under today's
        question is an answer. Raises StorageError only: what cannot be fetched cannot be told.
        """
        if isinstance(rule.require, Never):
            return Rejudged(evaluate(rule.require, ()))
        question = Question(revision, rule, repository, digest)
        lineage = await self._catalog.lineage(repository, digest, rule.fingerprint, as_manifest=True, through_evidence=False)
        if (block := blocked(lineage)) is not None:
            return Rejudged(_blocked(block))
        lineage = self._in_time(lineage)
        if manner.kept_first and (root := accepted_root(lineage, self._clock())) is not None:
            return Rejudged(_as_recorded(root))
        refused: Rejudged | None = None
        unknown: Rejudged | None = None
        for each in (digest, *_roots(lineage)[:_MAX_ROOTS]):
            judged = await self._once_more(replace(question, digest=each), lineage, manner)
            if judged.verdict.accepted:
                # Judging takes its time: a block that came meanwhile is heeded, and one on the way from above.
                now = await self._catalog.lineage(repository, digest, rule.fingerprint, as_manifest=True, through_evidence=False)
                return judged if (block := blocked(now)) is None else Rejudged(_blocked(block))
            if judged.verdict.outcome is Outcome.UNKNOWN:
                unknown = unknown or judged
            else:
                refused = refused or judged
        return unknown or refused or Rejudged(Verdict(Outcome.REFUSED, ("nothing vouches for it",)))

    async def _once_more(self, question: Question, lineage: Lineage, manner: Manner) -> Rejudged:
        """Judge one manifest again, and end its recorded acceptance where it is refused for certain."""
        repository, digest = question.repository, question.digest
        about: Sequence[Digest] = (digest,)
        try:
            fetched = await self.holdings.fetch(repository, digest)
            manifest = await self.holdings.parse(fetched)
            about = self._weigher.about(digest, manifest)
            weighed = await self._weigher.weigh(question, fetched, manifest, manner)
        except UpstreamError as error:
            return Rejudged(_untold(error))
        except ManifestRefused as error:
            weighed = Rejudged(Verdict(Outcome.REFUSED, (str(error),)))
        known = next((each for each in lineage.verdicts if each.digest == digest and each.accepted), None)
        if weighed.verdict.outcome is not Outcome.REFUSED or known is None:
            return weighed
        return await self._withdrawn(weighed, known, about)

    async def _withdrawn(self, refused: Rejudged, known: StoredVerdict, about: Sequence[Digest]) -> Rejudged:
        """What was accepted is refused now. Evidence that is nowhere any more, or damaged here, speaks against nothing."""
        repository, now = known.repository, self._clock()
        if not await self.holdings.whole(repository, about):
            reason = "the evidence by which it was accepted cannot be read now"
            return replace(refused, verdict=Verdict(Outcome.UNKNOWN, (*refused.verdict.reasons, reason)))
        holds = known.valid_until is None or now < known.valid_until
        if holds and not refused.verdict.evidence and not await self._weigher.kept(repository, about):
            return replace(refused, verdict=_as_recorded(known))
        await self.holdings.refuse(replace(known, accepted=False, reasons=refused.verdict.reasons, decided_at=now, signers=None))
        return refused

    async def of_digest(self, revision: Revision, rule: Rule, repository: Repository, digest: Digest) -> Verdict:
        """The verdict on a manifest pulled by digest: accepted itself, reached from above, or evidence about what is.

        Raises :class:`proxy.errors.UpstreamError` when it is not stored and the upstream does not give it.
        """
        return await self._manifest(Question(revision, rule, repository, digest), None, as_evidence=True)

    async def _block_on(self, question: Question, fetched: FetchedManifest, *, as_evidence: bool) -> Block | None:
        """The block that keeps a manifest from being served now, also where nothing of it is recorded, as in a dry run."""
        lineage = await self._catalog.lineage(
            question.repository, fetched.digest, question.rule.fingerprint, as_manifest=True, through_evidence=as_evidence
        )
        if (block := blocked(lineage)) is not None:
            return block
        manifest = await self.holdings.parse(fetched)
        needed = {edge.child.digest for edge in manifest.edges(fetched.digest) if edge.kind is Kind.BLOB}
        return next((block for block in await self._catalog.blocks() if block.digest in needed), None)

    async def block_on(self, repository: Repository, digest: Digest) -> str | None:
        """Which block keeps a manifest, or a blob of its own, from being served, in words; None where none does."""
        lineage = await self._catalog.lineage(repository, digest, "", as_manifest=True)
        return None if (block := blocked(lineage)) is None else _blocked(block).reasons[0]

    async def of_blob(
        self, revision: Revision, rule: Rule, repository: Repository, digest: Digest
    ) -> tuple[Verdict, Descriptor | None]:
        """The verdict on a blob, and its descriptor in the manifest that reaches it."""
        question = Question(revision, rule, repository, digest)
        if isinstance(rule.require, Never):
            return evaluate(rule.require, ()), None
        lineage = await self._catalog.lineage(repository, digest, rule.fingerprint)
        verdict = await self._from_above(question, lineage)
        for _ in range(2):  # a reading that was under way may have begun before the index was known
            if verdict is not None:
                break
            # A client that has an image's manifest from elsewhere asks for the index, and then for the layers at once.
            outage = await self._readings.run(repository, lambda: self.holdings.read_listed(repository))
            lineage = await self._catalog.lineage(repository, digest, rule.fingerprint)
            verdict = await self._from_above(question, lineage)
            if verdict is None and outage is not None:
                reason = f"whether an accepted manifest of this repository reaches this blob cannot be told now: {outage}"
                return Verdict(Outcome.UNKNOWN, (reason,), retry_after=outage.retry_after), None
        if verdict is None:
            reason = "no accepted manifest of this repository reaches this blob; pull the manifest through this proxy first"
            return Verdict(Outcome.REFUSED, (reason,)), None
        if verdict.accepted and (descriptor := await self._as_named(question, lineage)) is not None:
            return verdict, descriptor
        if verdict.accepted:
            return Verdict(Outcome.REFUSED, ("this digest is a manifest, not a blob",)), None
        return verdict, None

    async def _as_named(self, question: Question, lineage: Lineage) -> Descriptor | None:
        """What the manifests above say of a blob; None where none of them names it as one.

        Where they contradict each other about its size, one of them lies, and must not break the others: the stored bytes
        decide, else an accepted image rather than evidence (which anybody may attach), and the oldest of these.
        """
        named = {edge.child.size: edge.child for edge in lineage.edges if _names(edge, question.digest)}
        if len(named) > 1:
            if (stored := await self._blobs.open(question.digest)) is not None:
                stored.close()
                if (descriptor := named.get(stored.size)) is not None:
                    return descriptor
            repository, digest, fingerprint = question.repository, question.digest, question.rule.fingerprint
            images = await self._catalog.lineage(repository, digest, fingerprint, through_evidence=False)
            above = tuple(edge for edge in images.edges if not _names(edge, digest))
            for edge in reversed(images.edges):
                if _names(edge, digest) and accepted_root(replace(images, edges=(*above, edge)), self._clock()) is not None:
                    return edge.child
        return next(iter(named.values()), None)

    async def _manifest(self, question: Question, fetched: FetchedManifest | None, *, as_evidence: bool) -> Verdict:
        if isinstance(question.rule.require, Never):
            return evaluate(question.rule.require, ())
        lineage = await self._catalog.lineage(
            question.repository, question.digest, question.rule.fingerprint, as_manifest=True, through_evidence=as_evidence
        )
        above = await self._from_above(question, lineage)
        if above is not None and (above.accepted or blocked(lineage) is not None):
            return above
        own = await self._judge(question, fetched, as_evidence=as_evidence)
        if own.accepted:
            # Judging takes its time: a block that came meanwhile is heeded.
            lineage = await self._catalog.lineage(
                question.repository, question.digest, question.rule.fingerprint, as_manifest=True, through_evidence=as_evidence
            )
            return own if (block := blocked(lineage)) is None else _blocked(block)
        if own.outcome is Outcome.REFUSED and above is not None and above.outcome is Outcome.UNKNOWN:
            return above
        return own

    async def _from_above(self, question: Question, lineage: Lineage) -> Verdict | None:
        """What recorded verdicts and edges say; judges manifests above again when their verdicts answer an older question.

        None when nothing above the digest is known.
        """
        if (block := blocked(lineage)) is not None:
            return _blocked(block)
        lineage = self._in_time(lineage)
        if (root := accepted_root(lineage, self._clock())) is not None:
            return _as_recorded(root)
        answer: Verdict | None = None
        for digest in _roots(lineage)[:_MAX_ROOTS]:
            verdict = await self._judge_above(replace(question, digest=digest))
            if verdict.accepted:
                stored = StoredVerdict(
                    question.repository,
                    digest,
                    question.rule.fingerprint,
                    True,
                    verdict.reasons,
                    self._clock(),
                    verdict.valid_until,
                    verdict.signers,
                )
                lineage = replace(lineage, verdicts=(*lineage.verdicts, stored))
                if accepted_root(lineage, self._clock()) is not None:
                    return verdict
            elif answer is None or verdict.outcome is Outcome.UNKNOWN:
                answer = verdict
        return answer

    def _in_time(self, lineage: Lineage) -> Lineage:
        """Without the verdicts of a clock that is not ours."""
        latest = self._clock() + SKEW
        return replace(lineage, verdicts=tuple(each for each in lineage.verdicts if each.decided_at <= latest))

    async def _judge_above(self, question: Question) -> Verdict:
        """Judge a manifest above another one; failing to get it says nothing about what is below."""
        try:
            return await self._judge(question, None, as_evidence=False)
        except UpstreamUnavailable as error:
            return Verdict(Outcome.UNKNOWN, (str(error),), retry_after=error.retry_after)
        except UpstreamError as error:
            return Verdict(Outcome.REFUSED, (str(error),))

    async def _judge(self, question: Question, fetched: FetchedManifest | None, *, as_evidence: bool) -> Verdict:
        # The fingerprint does not say who makes no decisions now: the revision does.
        key = (question.revision.number, question.repository, question.digest, question.rule.fingerprint, as_evidence)
        if (refusal := self._refusals.get(key)) is not None:
            return refusal
        generation = self._refusals.generation
        verdict = await self._flights.run(key, lambda: self._judge_alone(question, fetched, as_evidence=as_evidence))
        if verdict.outcome is Outcome.REFUSED:
            seconds = min(self._limits.refusal_ttl, question.revision.check_interval)
            self._refusals.put(key, verdict, seconds=seconds, cost=1, generation=generation)
        return verdict

    async def _judge_alone(
        self, question: Question, fetched: FetchedManifest | None, *, as_evidence: bool, by: Collection[str] | None = None
    ) -> Verdict:
        """Judge one manifest by its own evidence: the upstream's, and where that does not suffice what was stored."""
        fetched = fetched or await self.holdings.fetch(question.repository, question.digest)
        try:
            manifest = await self.holdings.parse(fetched)
        except ManifestRefused as error:
            return Verdict(Outcome.REFUSED, (str(error),))
        if as_evidence and (admitted := await self._about_admitted(question, fetched, manifest)) is not None:
            return admitted
        return (await self._weigher.weigh(question, fetched, manifest, Manner(by=by))).verdict

    async def _about_admitted(self, question: Question, fetched: FetchedManifest, manifest: Manifest) -> Verdict | None:
        """Whether a manifest is evidence, by shape, about a subject that is admitted itself; None when it is not."""
        if manifest.subject is None or not self.holdings.fits_evidence(manifest):
            return None
        subject = await self._manifest(replace(question, digest=manifest.subject.digest), None, as_evidence=False)
        if not subject.accepted:
            return None
        try:
            await self.holdings.record_evidence(question.repository, manifest.subject.digest, fetched, manifest)
        except ManifestRefused as error:
            return Verdict(Outcome.REFUSED, (str(error),))
        reason = f"evidence about {manifest.subject.digest}, which is admitted"
        return Verdict(Outcome.ACCEPTED, (reason,), valid_until=subject.valid_until)


def _untold(error: UpstreamError) -> Verdict:
    """What cannot be fetched cannot be told."""
    return Verdict(
        Outcome.UNKNOWN, (str(error),), retry_after=error.retry_after if isinstance(error, UpstreamUnavailable) else None
    )


def _as_recorded(root: StoredVerdict) -> Verdict:
    return Verdict(Outcome.ACCEPTED, root.reasons, valid_until=root.valid_until, signers=root.signers)


def _blocked(block: Block) -> Verdict:
    return Verdict(Outcome.REFUSED, (f"{block.digest} is blocked by {block.by}: {block.reason}",))


def _names(edge: Edge, blob: Digest) -> bool:
    return edge.child.digest == blob and edge.kind is Kind.BLOB


def _roots(lineage: Lineage) -> list[Digest]:
    """The manifests above a digest, those that nothing stands above first; the digest itself is not among them."""
    children = {edge.child.digest for edge in lineage.edges}
    parents = list(dict.fromkeys(edge.parent for edge in lineage.edges if edge.parent != lineage.digest))
    return sorted(parents, key=lambda digest: digest in children)
