"""What would a pull be answered, and why: the same evidence, the same decision, nothing written."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.content import FetchedManifest
from proxy.errors import UpstreamAbsent, UpstreamDenied, UpstreamError, UpstreamMisbehaved, UpstreamUnavailable
from proxy.policy.decision import Answer, Decision, Observation, Upstream, decide, decide_digest
from proxy.policy.rules import Never, Rule
from proxy.policy.verdicts import Verdict
from proxy.services.admission import Admission
from proxy.services.candidates import Judge
from proxy.services.revision import Clock, Revision
from proxy.upstream.client import Upstreams
from storage.digest import Digest
from storage.pins import PinStore
from storage.records import Pin
from storage.reference import Reference, Repository


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision with everything that led to it. ``judged`` is the digest that ``verdict`` is about."""

    reference: Reference
    rule: Rule
    pin: Pin | None
    seen: Observation
    judged: Digest | None
    verdict: Verdict | None
    decision: Decision


class Explainer:
    """Decides without writing. ``admission`` must not record."""

    def __init__(self, pins: PinStore, admission: Admission, upstreams: Upstreams, revision: Revision, clock: Clock) -> None:
        self._pins = pins
        self._admission = admission
        self._judge = Judge(admission, pins)
        self._upstreams = upstreams
        self._revision = revision
        self._clock = clock

    async def explain(self, reference: Reference) -> Explanation:
        """Explain a pull of ``reference``. Outages and refusals are part of the answer; only StorageError is raised."""
        rule = self._revision.rule(reference.repository)
        if reference.digest is not None:
            return await self._digest(reference, rule, reference.digest)
        return await self._tag(reference, rule, reference.tag or "latest")

    async def _digest(self, reference: Reference, rule: Rule, digest: Digest) -> Explanation:
        repository = reference.repository
        seen, fetched = Observation(Upstream.FRESH), None
        if not isinstance(rule.require, Never):
            seen, fetched = await self._fetch(repository, digest)
        if fetched is not None:
            verdict = await self._admission.of_fetched(self._revision, rule, repository, fetched, as_evidence=True)
        elif seen.upstream in {Upstream.FRESH, Upstream.UNREACHABLE}:
            verdict = await self._admission.of_pin(self._revision, rule, repository, digest)
        else:
            return Explanation(reference, rule, None, seen, digest, None, _unseen(str(reference), seen))
        decision = decide_digest(repository, digest, rule, verdict)
        return Explanation(reference, rule, None, seen, digest, verdict, decision)

    async def _tag(self, reference: Reference, rule: Rule, tag: str) -> Explanation:
        repository = reference.repository
        pin = await self._pins.get(repository, tag)
        seen, fetched = Observation(Upstream.FRESH), None
        if not isinstance(rule.require, Never):
            seen, fetched = await self._fetch(repository, tag)
        fresh: Verdict | None = None
        pinned: Verdict | None = None
        if pin is not None and (fetched is None or fetched.digest != pin.digest):
            pinned = await self._admission.of_pin(self._revision, rule, repository, pin.digest)
        if fetched is not None and pin is not None and pinned is not None and pinned.accepted:
            candidacy = await self._judge.judge(self._revision, rule, pin, pinned, fetched)
            fresh = candidacy.verdict
            seen = Observation(Upstream.NAMES, fetched.digest, candidacy=candidacy, at=fetched.at)
        elif fetched is not None:
            fresh = await self._admission.of_fetched(self._revision, rule, repository, fetched, as_evidence=False)
            seen = Observation(Upstream.NAMES, fetched.digest, fresh)
        if pin is not None and pinned is None:
            pinned = fresh
        decision = decide(repository, tag, rule, pin, pinned, seen, self._clock())
        judged = fetched.digest if fetched is not None else (pin.digest if pin is not None else None)
        return Explanation(reference, rule, pin, seen, judged, fresh or pinned, decision)

    async def _fetch(self, repository: Repository, what: str | Digest) -> tuple[Observation, FetchedManifest | None]:
        try:
            fetched = await self._upstreams.manifest(repository, what)
        except UpstreamError as error:
            return observe_failure(error), None
        return Observation(Upstream.NAMES, fetched.digest), fetched


def observe_failure(error: UpstreamError) -> Observation:
    """What an upstream's failure to answer amounts to."""
    match error:
        case UpstreamAbsent():
            return Observation(Upstream.ABSENT)
        case UpstreamDenied():
            return Observation(Upstream.DENIED, message=str(error))
        case UpstreamMisbehaved():
            return Observation(Upstream.MISBEHAVED, message=str(error))
        case UpstreamUnavailable():
            return Observation(Upstream.UNREACHABLE, message=str(error), retry_after=error.retry_after)
        case _:
            return Observation(Upstream.UNREACHABLE, message=str(error))


def _unseen(name: str, seen: Observation) -> Decision:
    """A digest that the upstream does not give."""
    if seen.upstream is Upstream.ABSENT:
        return Decision(Answer.ABSENT, None, (f"{name} does not exist upstream",))
    return Decision(Answer.DENY, None, (f"the upstream does not give {name}: {seen.message}",))
