"""Discovery: fetch what the upstream holds about a digest, from the places where it may be.

The *signature tag* and the *attestation tag* are cosign's (``sha256-<hex>.sig``, ``.att``); *referrers* are the OCI 1.1 API or
its fallback tag; a *lookaside* holds OpenPGP signatures beside the registry. Those that can hold what a rule asks for are
searched at the same time, each within bounds of its own, so that a flood in one cannot drown the others:

- at most ``limits.referrers`` manifests are looked at and ``limits.signatures`` signatures fetched, in the upstream's order, and
  an equal share of ``limits.evidence_total`` bytes; what is left out is said;
- after ``limits.evidence_timeout`` seconds, what did not answer counts as unavailable and the rest is judged.

Nothing that a list says about its entries is believed: each manifest is fetched, read strictly, must name the image as its
subject and must have the shape of evidence. What was found but is not usable becomes failed evidence with its reason; what
could not be had becomes a line in ``unavailable``. Neither is ever silently nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TypeVar

from proxy.content import FetchedManifest, Lookaside, ReferrersSource
from proxy.errors import ManifestRefused, UpstreamOversized
from proxy.manifest import Bounds, Entry, Manifest
from proxy.policy.verdicts import Evidence
from proxy.settings import Limits
from proxy.verify.asking import Effort, Trouble, all_of, ask, end
from proxy.verify.model import Document, Fetcher, Found, Harvest, Subject, source_of
from proxy.verify.parsing import shown
from proxy.verify.shapes import attestation_tag, describe, is_evidence, signature_tag
from proxy.verify.simple import wrap
from storage.digest import Digest
from storage.records import Descriptor

#: Share of the time after which manifests still under way are given up, so that what they did not hold up can be fetched.
_MANIFEST_SHARE = 0.6
#: cosign's manifest grows with every signature, beyond what an image may have: its size bounds it, and the cap on signatures.
_MAX_SIGNATURE_LAYERS = 20_000

#: Where evidence may be. Which form of referrers an upstream has, it tells itself.
PLACES = (Found.SIGNATURE_TAG, Found.REFERRERS_API)
_TAGS = (Found.SIGNATURE_TAG, Found.ATTESTATION_TAG)

_T = TypeVar("_T")

#: How many bytes of a layer are worth fetching at most; None when it is of no use (:meth:`Verifier.wants`).
Wants = Callable[[Manifest, Entry], int | None]


async def discover(
    fetcher: Fetcher,
    subject: Subject,
    limits: Limits,
    wants: Wants,
    places: Sequence[Found | Lookaside] = PLACES,
    effort: Effort | None = None,
) -> AsyncGenerator[tuple[int, Harvest], None]:
    """Search the places at once; yield the rank of a place (for a stable order) and its harvest, as each ends.

    ``effort`` bounds what is under way at a time, where several searches share it. Close the generator
    (:func:`contextlib.aclosing`) to give up what is still under way. Raises nothing for what an upstream does; what a fetcher
    raises beyond :class:`proxy.errors.UpstreamError` passes through.
    """
    search = _Search(fetcher, subject, limits, wants, len(places), effort or Effort())
    ranks = {asyncio.create_task(search.place(place)): rank for rank, place in enumerate(places)}
    waiting = set(ranks)
    try:
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=ranks.__getitem__):
                yield ranks[task], task.result()
    finally:
        await end(ranks)


def merge(harvests: Sequence[Harvest]) -> Harvest:
    """One harvest of several, in their order."""
    return Harvest(
        tuple(document for harvest in harvests for document in harvest.documents),
        tuple(evidence for harvest in harvests for evidence in harvest.malformed),
        tuple(line for harvest in harvests for line in harvest.unavailable),
        max((harvest.retry_after for harvest in harvests if harvest.retry_after is not None), default=None),
        tuple(listed for harvest in harvests for listed in harvest.listed),
    )


@dataclass(frozen=True, slots=True)
class _Candidate:
    """An evidence manifest and those of its layers that are worth fetching, each with its limit in bytes."""

    found: Found
    source: str
    fetched: FetchedManifest
    manifest: Manifest
    wanted: tuple[tuple[Entry, int], ...]


@dataclass(slots=True)
class _Budget:
    """What may still be taken from one source."""

    signatures: int
    size: int  #: bytes

    def take(self, size: int) -> bool:
        """Whether ``size`` more bytes fit; if so they are taken."""
        if size > self.size:
            return False
        self.size -= size
        return True


@dataclass(slots=True)
class _Findings:
    """What one source brought, while it is being collected."""

    documents: list[Document] = field(default_factory=list)
    failed: list[Evidence] = field(default_factory=list)
    unavailable: list[str] = field(default_factory=list)
    retry_after: float | None = None

    def fail(self, source: str, reason: str) -> None:
        self.failed.append(Evidence("evidence", source, None, None, accepted=False, reason=reason))

    def note(self, trouble: Trouble) -> None:
        if not trouble.outage:
            self.fail(trouble.source, trouble.reason)
            return
        self.unavailable.append(f"{trouble.source}: {trouble.reason}")
        if trouble.retry_after is not None:
            self.retry_after = max(trouble.retry_after, self.retry_after or 0.0)

    def harvest(self) -> Harvest:
        return Harvest(tuple(self.documents), tuple(self.failed), tuple(self.unavailable), self.retry_after)


def _without_repeats(candidates: Sequence[_Candidate | Trouble]) -> list[_Candidate | Trouble]:
    """Each signature once: what stood under cosign's tag grew from manifest to manifest, and each is bounded as a whole."""
    seen: set[object] = set()
    kept: list[_Candidate | Trouble] = []
    for each in candidates:
        if isinstance(each, Trouble) or len(candidates) == 1:
            kept.append(each)
            continue
        named = {(layer.descriptor, *sorted(layer.annotations.items())): (layer, size) for layer, size in each.wanted}
        if wanted := tuple(pair for name, pair in named.items() if name not in seen):
            kept.append(replace(each, wanted=wanted))
        seen |= named.keys()
    return kept


class _Search:
    """One search about one subject."""

    def __init__(self, fetcher: Fetcher, subject: Subject, limits: Limits, wants: Wants, places: int, effort: Effort) -> None:
        self._fetcher = fetcher
        self._share = limits.evidence_total // max(1, places)
        self._subject = subject
        self._limits = limits
        self._wants = wants
        self._effort = effort
        now = asyncio.get_running_loop().time()
        self._manifests_until = now + limits.evidence_timeout * _MANIFEST_SHARE
        self._layers_until = now + limits.evidence_timeout

    # -- the places -------------------------------------------------------------------------------------------------

    def place(self, place: Found | Lookaside) -> Coroutine[object, object, Harvest]:
        """Search one place."""
        digest = self._subject.digest
        match place:
            case Lookaside():
                return self._lookaside(place)
            case Found.SIGNATURE_TAG:
                return self._tag(place, signature_tag(digest))
            case Found.ATTESTATION_TAG:
                return self._tag(place, attestation_tag(digest))
            case _:
                return self.referrers()

    async def _tag(self, found: Found, tag: str | None) -> Harvest:
        """What stands under one of cosign's tags."""
        findings, budget = _Findings(), self._budget()
        subject = self._subject
        if tag is not None:
            source = source_of(found, subject.digest, subject.digest)
            fetched = await self._ask(source, lambda: self._fetcher.tagged(subject.repository, tag), self._manifests_until)
            if isinstance(fetched, Trouble):
                findings.note(fetched)
            else:
                most = self._limits.referrers
                if len(fetched) > most:
                    findings.fail(source, f"more than {most} were stored; only the first {most} were looked at")
                looked = [await self._look(found, source, each, budget) for each in fetched[:most]]
                await self._collect(source, _without_repeats(looked), budget, findings)
        return findings.harvest()

    async def _lookaside(self, place: Lookaside) -> Harvest:
        """What a lookaside holds, until it says that there are no more. Outage or not, what came before it is judged."""
        findings, budget = _Findings(), self._budget()
        subject, most = self._subject, self._limits.signatures
        source = f"{place} for {subject.digest.short}"
        fetching = self._fetcher.lookaside(subject.repository, subject.digest, place, self._limits.signature_size)
        seen = 0
        async with aclosing(fetching) as signatures:
            while True:
                answer = await self._ask(source, lambda: anext(signatures, None), self._layers_until)
                if answer is None:
                    break
                if isinstance(answer, Trouble):
                    findings.note(answer)
                    break
                seen += 1
                if seen > most:
                    findings.fail(source, f"more than {most} signatures are there; only the first {most} were judged")
                    break
                if isinstance(answer, UpstreamOversized):
                    findings.fail(source, f"is refused: {answer}")
                    continue
                if not budget.take(len(answer)):
                    findings.fail(source, self._too_much)
                    break
                findings.documents.append(await asyncio.to_thread(wrap, answer, self._limits.bounds()))
        return findings.harvest()

    async def referrers(self) -> Harvest:
        """What the upstream lists as referring to the subject."""
        findings, budget = _Findings(), self._budget()
        subject = self._subject
        source = f"referrers of {subject.digest.short}"
        listed = await self._ask(
            source, lambda: self._fetcher.referrers(subject.repository, subject.digest), self._manifests_until
        )
        if isinstance(listed, Trouble):
            findings.note(listed)
            return findings.harvest()
        # A list may name an entry twice, and some registries answer the fallback tag with the subject itself.
        digests = [digest for digest in dict.fromkeys(e.descriptor.digest for e in listed.entries) if digest != subject.digest]
        most = self._limits.referrers
        if len(digests) > most:
            findings.fail(source, f"{len(digests)} are listed; only the first {most} were looked at")
        elif not listed.complete:
            findings.fail(source, f"more than {len(digests)} are listed; only the first {len(digests)} were looked at")
        found = Found.REFERRERS_API if listed.source is ReferrersSource.API else Found.REFERRERS_TAG
        candidates = await all_of([self._referrer(found, digest, budget) for digest in digests[:most]])
        await self._collect(source, candidates, budget, findings)
        return findings.harvest()

    async def _referrer(self, found: Found, digest: Digest, budget: _Budget) -> _Candidate | Trouble:
        repository = self._subject.repository
        source = source_of(found, self._subject.digest, digest)
        fetched = await self._ask(source, lambda: self._fetcher.manifest(repository, digest), self._manifests_until)
        if isinstance(fetched, Trouble):
            return fetched
        if fetched is None:
            return Trouble(source, "is listed, but is not there")
        if fetched.digest != digest:
            return Trouble(source, f"is refused: the upstream sent {fetched.digest} for it")
        return await self._look(found, source, fetched, budget)

    def _budget(self) -> _Budget:
        return _Budget(self._limits.signatures, self._share)

    # -- from manifests to documents --------------------------------------------------------------------------------

    async def _look(self, found: Found, source: str, fetched: FetchedManifest, budget: _Budget) -> _Candidate | Trouble:
        """Read a manifest strictly, and see whether it is evidence about the subject."""
        try:
            manifest = await self._parse(found, fetched)
        except ManifestRefused as error:
            return Trouble(source, f"is no acceptable manifest: {shown(str(error))}")
        if found not in _TAGS:
            if manifest.subject is None:
                return Trouble(source, "is listed as a referrer, but its manifest names no subject")
            if manifest.subject.digest != self._subject.digest:
                return Trouble(source, f"is about another image: its subject is {manifest.subject.digest}")
        if not is_evidence(manifest):
            return Trouble(source, f"holds no signature: it is {shown(describe(manifest))}")
        wanted = tuple((layer, size) for layer in manifest.layers if (size := self._wants(manifest, layer)) is not None)
        if not wanted:
            return Trouble(source, f"holds no signature that is asked for: it is {shown(describe(manifest))}")
        if not budget.take(len(fetched.body)):
            return Trouble(source, self._too_much)
        return _Candidate(found, source, fetched, manifest, wanted)

    async def _parse(self, found: Found, fetched: FetchedManifest) -> Manifest:
        limits = self._limits
        layers = _MAX_SIGNATURE_LAYERS if found in _TAGS else limits.layers
        bounds = Bounds(limits.manifest_size, limits.json_depth, layers=layers, blob_size=limits.blob_size)
        return await self._effort.reader.read(fetched, bounds)

    async def _collect(
        self, source: str, candidates: Sequence[_Candidate | Trouble], budget: _Budget, findings: _Findings
    ) -> None:
        """Fetch the wanted layers of what was found, within the bounds, and put the documents together."""
        chosen: list[tuple[_Candidate, list[Entry]]] = []
        wanted = sum(len(candidate.wanted) for candidate in candidates if isinstance(candidate, _Candidate))
        if wanted > budget.signatures:
            findings.fail(source, f"{wanted} signatures are there; only the first {budget.signatures} were judged")
        for candidate in candidates:
            if isinstance(candidate, Trouble):
                findings.note(candidate)
                continue
            layers = self._choose(candidate, budget, findings)
            if layers:
                chosen.append((candidate, layers))
        documents = await all_of([self._document(candidate, layers, findings) for candidate, layers in chosen])
        findings.documents += [document for document in documents if document.layers]

    def _choose(self, candidate: _Candidate, budget: _Budget, findings: _Findings) -> list[Entry]:
        """Those of the wanted layers that the limits allow."""
        layers: list[Entry] = []
        known: set[Descriptor] = set()  # one payload may stand under several signatures; it is fetched once
        for layer, most in candidate.wanted[: budget.signatures]:
            size = layer.descriptor.size
            if size > most:
                findings.fail(candidate.source, f"has a signature of {size} bytes; the limit is {most}")
            elif layer.descriptor not in known and not budget.take(size):
                findings.fail(candidate.source, self._too_much)
            else:
                known.add(layer.descriptor)
                layers.append(layer)
        budget.signatures -= min(budget.signatures, len(candidate.wanted))
        return layers

    @property
    def _too_much(self) -> str:
        return f"is beyond the {self._share} bytes that one source has of limits.evidence_total"

    async def _document(self, candidate: _Candidate, layers: Sequence[Entry], findings: _Findings) -> Document:
        descriptors = list(dict.fromkeys(layer.descriptor for layer in layers))
        answers = await all_of([self._layer(candidate.source, descriptor) for descriptor in descriptors])
        bodies: dict[Descriptor, bytes] = {}
        for descriptor, answer in zip(descriptors, answers, strict=True):
            if isinstance(answer, Trouble):
                findings.note(answer)
            else:
                bodies[descriptor] = answer
        return Document(
            candidate.found,
            candidate.fetched,
            candidate.manifest,
            tuple(
                (layer.descriptor, layer.annotations, bodies[layer.descriptor]) for layer in layers if layer.descriptor in bodies
            ),
        )

    async def _layer(self, source: str, descriptor: Descriptor) -> bytes | Trouble:
        repository = self._subject.repository
        answer = await self._ask(source, lambda: self._fetcher.blob(repository, descriptor, descriptor.size), self._layers_until)
        if answer is None:
            return Trouble(source, f"is incomplete: it lacks its layer {descriptor.digest}")
        return answer

    async def _ask(self, source: str, question: Callable[[], Awaitable[_T]], until: float) -> _T | Trouble:
        return await ask(source, question, until, self._effort.slots)
