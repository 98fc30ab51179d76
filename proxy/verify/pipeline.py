"""The pipeline: discovery, judgement, verdict.

::

    discover ─▶ Harvest ─▶ Inquiry ─▶ Verifier.judge (worker thread) ─▶ Evidence ─▶ evaluate(rule) ─▶ Verdict

Each signature format is one :class:`proxy.verify.model.Verifier`, listed in :func:`default_verifiers` and named nowhere else.
The pipeline stops as soon as the verdict is settled: a signature tag that satisfies the rule does not wait for referrers that
are slow or down, and the other way round, nor does anything wait for the revocation servers that another signature's judgement
asks. It fails closed: what a verifier did not foresee is failed evidence, and what was not found in time is unavailable.

Where a rule asks for attestations on each platform, what an index lists is searched in the same way, each manifest by itself
(:mod:`proxy.policy.platforms`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, assert_never

import structlog

from proxy.content import Lookaside
from proxy.manifest import IMAGE_TYPES, Entry, Manifest
from proxy.policy.platforms import each_platform, of_index, of_platforms
from proxy.policy.rules import AttestationBy, Identity, OpenPgp, Question, Rule, SignatureBy, Store, questions_of
from proxy.policy.signers import belongs, signer_line
from proxy.policy.verdicts import Evidence, Outcome, Verdict, evaluate
from proxy.settings import Limits
from proxy.verify.asking import Effort, Trouble, all_of, end
from proxy.verify.bundle import SigstoreBundles
from proxy.verify.cosign import CosignAttestations, CosignSignatures, answers
from proxy.verify.discovery import discover, merge
from proxy.verify.inquiry import Inquiry
from proxy.verify.model import Document, Fetcher, Found, Harvest, Inquirer, Subject, Trusted, Verifier
from proxy.verify.notation import NotationSignatures
from proxy.verify.platforms import entries_of, is_platform, name_of, read_listed
from proxy.verify.second import SecondVerdict
from proxy.verify.simple import SimpleSignatures

_log = structlog.get_logger(__name__)
#: Share of a pull's time after which no revocation server is waited for any more, so that the verdict comes in time.
_ASKING_SHARE = 0.8
_NOT_YET = ("the search for signatures has not ended",)


def default_verifiers(limits: Limits) -> tuple[Verifier, ...]:
    """One verifier for each signature format that is read."""
    second = SecondVerdict()
    return (
        CosignSignatures(limits, second),
        CosignAttestations(limits, second),
        SigstoreBundles(limits, second),
        NotationSignatures(limits),
        SimpleSignatures(limits),
    )


def places_of(questions: Sequence[Question], trusted: Trusted) -> tuple[Found | Lookaside, ...]:
    """Where answers to these questions may be: OpenPGP signatures in their lookasides, all others among the referrers, too."""
    beside = [question.by.name for question in questions if isinstance(question.by, OpenPgp)]
    places: list[Found | Lookaside] = [trusted.openpgp[name].lookaside for name in beside if name in trusted.openpgp]
    if any(answers(question, SignatureBy) for question in questions):
        places.append(Found.SIGNATURE_TAG)
    if any(isinstance(question, AttestationBy) for question in questions):
        places.append(Found.ATTESTATION_TAG)
    if len(beside) < len(questions):
        places.append(Found.REFERRERS_API)
    return tuple(dict.fromkeys(places))


class Pipeline:
    """Judges manifests by the evidence about them."""

    def __init__(self, verifiers: Sequence[Verifier], trusted: Trusted, limits: Limits, inquirer: Inquirer | None = None) -> None:
        """``inquirer`` asks revocation servers; without one, nobody is asked, and nothing known of that."""
        self._verifiers = tuple(verifiers)
        self._inquirer = inquirer
        self._trusted = trusted
        self._limits = limits

    async def judge(
        self,
        fetcher: Fetcher,
        subject: Subject,
        rule: Rule,
        now: datetime,
        *,
        again: bool = False,
        by: Collection[str] | None = None,
    ) -> tuple[Verdict, Harvest]:
        """Find the evidence that the rule asks for and hold it against the rule.

        ``again``: what is judged was accepted before, so roots that make no new decisions may repeat theirs. ``by``: only what
        these signers signed counts (lines of :mod:`proxy.policy.signers`).
        Nothing is fetched where evidence would change nothing (``first-use``, ``deny``). The harvest holds what was fetched
        until the verdict was settled. Raises only what ``fetcher`` raises beyond :class:`proxy.errors.UpstreamError`.
        """
        verdict = evaluate(rule.require, (), _NOT_YET)
        if verdict.outcome is not Outcome.UNKNOWN:
            return verdict, merge(())
        questions, missing = _answerable(questions_of(rule.require), self._trusted, None if again else now)
        below = () if subject.listed is None else of_platforms(questions)
        until = asyncio.get_running_loop().time() + _ASKING_SHARE * self._limits.request_timeout
        search = _Search(fetcher, self._verifiers, self._trusted, self._limits, now, Effort(), self._inquirer, until, by)

        def settled(found: Sequence[Evidence]) -> Verdict | None:
            verdict = evaluate(rule.require, (*missing, *found), _NOT_YET)
            return None if verdict.outcome is Outcome.UNKNOWN else verdict

        own = await search.about(subject, of_index(questions) if below else questions, settled)
        if own.verdict is not None:
            return own.verdict, own.harvest
        if below:
            return await _on_each(search, subject, rule, below, (*missing, *own.evidence), own.harvest)
        verdict = evaluate(rule.require, (*missing, *own.evidence), own.harvest.unavailable, own.harvest.retry_after)
        return verdict, own.harvest

    async def survey(self, fetcher: Fetcher, subject: Subject, rule: Rule, now: datetime) -> tuple[tuple[Evidence, ...], Harvest]:
        """All that answers a question of the rule, also where less would settle a verdict: who vouches for an image, all told.

        It decides nothing. Raises as :meth:`judge` does.
        """
        questions, missing = _answerable(questions_of(rule.require), self._trusted, now)
        below = () if subject.listed is None else of_platforms(questions)
        until = asyncio.get_running_loop().time() + _ASKING_SHARE * self._limits.request_timeout
        search = _Search(fetcher, self._verifiers, self._trusted, self._limits, now, Effort(), self._inquirer, until)
        found = [await search.about(subject, of_index(questions) if below else questions, _never)]
        if below:
            entries = entries_of(subject)[: self._limits.platforms]
            share = self._limits.model_copy(update={"evidence_total": self._limits.evidence_total // max(len(entries), 1)})
            search = replace(search, limits=share)
            found += await all_of([search.about_listed(subject, entry, below, _never) for entry in entries])
        evidence = tuple(piece for each in found for piece in each.evidence)
        return (*missing, *evidence), merge([each.harvest for each in found])


def _never(found: Sequence[Evidence]) -> Verdict | None:
    """Nothing settles a survey."""
    del found
    return None


@dataclass(frozen=True, slots=True)
class _Found:
    """What a search brought. ``verdict`` is there when it was settled before all was found."""

    evidence: tuple[Evidence, ...]
    harvest: Harvest
    verdict: Verdict | None = None
    platform: bool = True  #: whether what it is about is something to be run


@dataclass(frozen=True, slots=True)
class _Search:
    """Searching for one verdict: whom to ask, who judges, who is believed, when."""

    fetcher: Fetcher
    verifiers: tuple[Verifier, ...]
    trusted: Trusted
    limits: Limits
    now: datetime
    effort: Effort
    inquirer: Inquirer | None
    asking_until: float  #: on the loop's clock
    by: Collection[str] | None = None  #: whose evidence counts, where not that of all

    async def about(
        self, subject: Subject, questions: Sequence[Question], settled: Callable[[Sequence[Evidence]], Verdict | None]
    ) -> _Found:
        """Search all places for answers about one manifest, and judge them as they come, until ``settled`` says a verdict."""
        harvests: dict[int, Harvest] = {}
        judged: dict[int, tuple[Evidence, ...]] = {}
        evidence: tuple[Evidence, ...] = ()
        if not questions:
            return _Found((), merge(()))

        def wants(manifest: Manifest, layer: Entry) -> int | None:
            sizes = (verifier.wants(manifest, layer, questions) for verifier in self.verifiers)
            return max((size for size in sizes if size is not None), default=None)

        inquiry = Inquiry(self.inquirer, self.verifiers, subject, questions, self.trusted, self.now)
        places = places_of(questions, self.trusted)
        async with (
            aclosing(discover(self.fetcher, subject, self.limits, wants, places, self.effort)) as sources,
            aclosing(self._as_judged(sources, inquiry)) as pieces,
        ):
            async for rank, harvest, found in pieces:
                harvests[rank], judged[rank] = harvest, (*found, *harvest.malformed)
                evidence = tuple(piece for rank in sorted(judged) for piece in judged[rank])
                if (verdict := settled(evidence)) is not None:
                    return _Found(evidence, _in_order(harvests), verdict)
        return _Found(evidence, _in_order(harvests))

    async def _as_judged(
        self, sources: AsyncGenerator[tuple[int, Harvest], None], inquiry: Inquiry
    ) -> AsyncGenerator[tuple[int, Harvest, tuple[Evidence, ...]], None]:
        """Judge what each source brought: at once what takes no answers of others, and all of it again when they have come.

        Nobody waits for answers that another source asks for: the verdict may be settled before.
        """
        coming = asyncio.create_task(_next(sources))
        asking: dict[asyncio.Task[tuple[Evidence, ...]], tuple[int, Harvest]] = {}
        more = True
        try:
            while more or asking:
                waiting: set[asyncio.Task[Any]] = {*asking, *((coming,) if more else ())}
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in [task for task in asking if task in done]:
                    rank, harvest = asking.pop(task)
                    yield rank, harvest, task.result()
                if coming not in done:
                    continue
                if (source := coming.result()) is None:
                    more = False
                    continue
                coming = asyncio.create_task(_next(sources))
                rank, harvest = source
                ready, open_ones = await inquiry.parted(harvest.documents)
                found = await self._judge(inquiry, ready)
                if open_ones:
                    asking[asyncio.create_task(self._judge_answered(inquiry, open_ones, found))] = rank, harvest
                yield rank, harvest, found
        finally:
            await end([coming, *asking])

    async def _judge(self, inquiry: Inquiry, documents: Sequence[Document]) -> tuple[Evidence, ...]:
        subject, questions = inquiry.subject, inquiry.questions
        found = await asyncio.to_thread(judge_documents, self.verifiers, documents, subject, questions, self.trusted, self.now)
        _warn(subject, found)
        return found if self.by is None else tuple(_of_these(piece, self.by) for piece in found)

    async def _judge_answered(
        self, inquiry: Inquiry, documents: Sequence[Document], found: tuple[Evidence, ...]
    ) -> tuple[Evidence, ...]:
        by = min(asyncio.get_running_loop().time() + self.limits.revocation_timeout, self.asking_until)
        return (*found, *await self._judge(inquiry, await inquiry.answered(documents, by)))

    async def about_listed(
        self,
        subject: Subject,
        entry: Entry,
        questions: Sequence[Question],
        settled: Callable[[Sequence[Evidence]], Verdict | None],
    ) -> _Found:
        """The same about a manifest that ``subject`` lists."""
        read = await read_listed(self.fetcher, subject, entry, self.limits, self.effort)
        if isinstance(read, Trouble):
            if read.outage:
                return _Found((), Harvest((), (), (f"{read.source}: {read.reason}",), read.retry_after))
            failed = Evidence("manifest", read.source, None, None, accepted=False, reason=read.reason)
            return _Found((failed,), merge(()))
        if not is_platform(read):
            return _Found((), Harvest((), (), (), listed=(read,)), platform=False)
        listed = Subject(subject.repository, read.manifest.digest, read.manifest.body, read.parsed.media_type)
        found = await self.about(listed, questions, settled)
        whole = replace(read, documents=found.harvest.documents)
        return replace(found, harvest=replace(found.harvest, documents=(), listed=(whole,)))


async def _on_each(
    search: _Search, subject: Subject, rule: Rule, questions: Sequence[Question], evidence: Sequence[Evidence], harvest: Harvest
) -> tuple[Verdict, Harvest]:
    """The verdict on an index by what was found about it and, for ``questions``, about each manifest that it lists."""
    entries = entries_of(subject)
    most = search.limits.platforms
    if len(entries) > most:
        reason = f"lists {len(entries)} manifests; at most {most} are judged each by itself (limits.platforms)"
        failed = Evidence("index", f"index {subject.digest.short}", None, None, accepted=False, reason=reason)
        return evaluate(rule.require, (*evidence, failed), harvest.unavailable, harvest.retry_after), harvest
    share = search.limits.evidence_total // max(len(entries), 1)
    search = replace(search, limits=search.limits.model_copy(update={"evidence_total": share}))

    def settled(found: Sequence[Evidence]) -> Verdict | None:
        verdict = evaluate(rule.require, (*evidence, *found), _NOT_YET)
        return None if verdict.outcome is Outcome.UNKNOWN else verdict

    def verdict_of(found: _Found) -> Verdict:
        asked = merge((harvest, found.harvest))
        return found.verdict or evaluate(rule.require, (*evidence, *found.evidence), asked.unavailable, asked.retry_after)

    found = await all_of([search.about_listed(subject, entry, questions, settled) for entry in entries])
    whole = merge((harvest, *(each.harvest for each in found)))
    platforms = [(name_of(entry), verdict_of(each)) for entry, each in zip(entries, found, strict=True) if each.platform]
    if not platforms:  # nothing to be run, and nothing that attestations could be about
        return evaluate(rule.require, evidence, harvest.unavailable, harvest.retry_after), whole
    return each_platform(platforms), whole


def _of_these(piece: Evidence, signers: Collection[str]) -> Evidence:
    """The evidence, as failed where somebody else accounts for it."""
    if not piece.accepted or piece.about is None or piece.authority is None:
        return piece
    if belongs(signer_line(piece.about, piece.authority), signers):
        return piece
    return replace(piece, accepted=False, reason=f"{piece.reason}, but not by who vouched for the pinned digest")


async def _next(sources: AsyncGenerator[tuple[int, Harvest], None]) -> tuple[int, Harvest] | None:
    return await anext(sources, None)


def _warn(subject: Subject, found: Sequence[Evidence]) -> None:
    for warning, source in {warning: piece.source for piece in found for warning in piece.warnings}.items():
        image = f"{subject.repository}@{subject.digest}"
        _log.warning("signer.doubtful", image=image, source=source, reason=warning)


def judge_documents(
    verifiers: Sequence[Verifier],
    documents: Sequence[Document],
    subject: Subject,
    questions: Sequence[Question],
    trusted: Trusted,
    now: datetime,
) -> tuple[Evidence, ...]:
    """Judge documents without a network. Never raises for what they contain.

    A document that no verifier reads, and a verifier that breaks on one, are failed evidence.
    """
    evidence: list[Evidence] = []
    for document in documents:
        source = document.source(subject.digest)
        fitting = [verifier for verifier in verifiers if verifier.judges(document)]
        if not fitting:
            evidence.append(Evidence("evidence", source, None, None, accepted=False, reason="is of no format that is known here"))
        for verifier in fitting:
            try:
                evidence += verifier.judge(document, subject, questions, trusted, now)
            except Exception as error:  # whatever it is, it must not become an acceptance, nor end the other judgements
                _log.exception("verifier failed", verifier=verifier.name, subject=str(subject.digest), source=source)
                reason = f"could not be judged: {type(error).__name__} in the verifier of this format (a bug: see the log)"
                evidence.append(Evidence(verifier.name, source, None, None, accepted=False, reason=reason))
    return tuple(evidence)


def judge_alone(
    limits: Limits,
    source: str,
    body: bytes,
    subject: Subject,
    questions: Sequence[Question],
    trusted: Trusted,
    now: datetime,
) -> tuple[Evidence, ...]:
    """Judge one Sigstore bundle or OpenPGP signature that came without a manifest. Never raises for what it contains.

    Unless ``subject`` is known to be an image of one platform it may be an index, whose platforms only its manifest names: what
    is asked about each of them stays open.
    """
    answerable, unknown = _answerable(questions, trusted, now)
    reader = SimpleSignatures(limits) if is_openpgp(body) else SigstoreBundles(limits, SecondVerdict())
    if subject.media_type not in IMAGE_TYPES:
        unknown = (*unknown, *(_on_platforms(question, subject) for question in of_platforms(answerable)))
        answerable = of_index(answerable)
    return (*unknown, *reader.judge_bytes(source, body, subject, answerable, trusted, now))


def _on_platforms(question: Question, subject: Subject) -> Evidence:
    reason = "if it is an index, it takes its manifest to know the platforms that are asked about"
    return Evidence("index", f"image {subject.digest.short}", question, None, accepted=False, reason=reason, undecided=True)


def is_openpgp(body: bytes) -> bool:
    """Whether a file of evidence is a binary OpenPGP message: its first bit is set, as no JSON begins."""
    return body[:1] >= b"\x80"


def _in_order(harvests: Mapping[int, Harvest]) -> Harvest:
    return merge([harvests[rank] for rank in sorted(harvests)])


def _answerable(
    questions: Sequence[Question], trusted: Trusted, now: datetime | None
) -> tuple[tuple[Question, ...], tuple[Evidence, ...]]:
    """The questions that evidence may answer, and what is to be said of the others. ``now``: the time of a new decision."""
    said = {question: _not_configured(question, trusted) for question in questions}
    if now is not None:
        said = {question: piece or _suspended(question, trusted, now) for question, piece in said.items()}
    asked = tuple(question for question in questions if said[question] is None)
    return asked, tuple(piece for piece in said.values() if piece is not None)


def _suspended(question: Question, trusted: Trusted, now: datetime) -> Evidence | None:
    """That nobody can tell now, where the root that would have to vouch makes no decisions; None where it does."""
    match question.by:
        case str() as key:
            name = trusted.keys[key].root
        case Identity(root=name):
            pass
        case _:
            return None
    root = None if name is None else trusted.roots.get(name)
    if root is None or (why := root.unusable(now)) is None:
        return None
    return Evidence("root", f"root {name}", question, None, accepted=False, reason=why, undecided=True)


def _not_configured(question: Question, trusted: Trusted) -> Evidence | None:
    """Failed evidence for a signer that nothing stands for; None when something does."""
    match question.by:
        case str() as name:
            what, known = "key", name in trusted.keys
        case OpenPgp(name):
            what, known = "key", name in trusted.openpgp
        case Identity(root=name):
            what, known = "root", name in trusted.roots
        case Store(name):
            what, known = "notation store", name in trusted.stores
        case _:
            assert_never(question.by)
    if known:
        return None
    return Evidence(what, "the configuration", question, None, accepted=False, reason=f"knows no {what} {name}")
