"""What the tests of rotation share: a pin on D by the release key, rules that rotate, candidates as they were judged."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from proxy.policy.decision import Answer, Decision, Observation, Upstream, decide
from proxy.policy.patterns import Pattern
from proxy.policy.rotation import Candidacy, question_of
from proxy.policy.rules import OnOverwrite, Requirement, Rotation, Rule, SignatureBy, TagRule, fingerprint
from proxy.policy.verdicts import Outcome, Verdict
from storage.digest import Digest
from storage.records import Approval, EventType, Judgement, Pin, PinAction, PinState, Standing
from storage.reference import Repository

D, E, F = (Digest("sha256", letter * 64) for letter in "def")
PINNED_AT = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
SEEN = PINNED_AT + timedelta(days=10)  #: when E was first seen
SOON = SEEN + timedelta(hours=1)
LATER = SEEN + timedelta(hours=72)  #: the cooldown is over
LONG = LATER + timedelta(days=7)  #: and somebody should look at it
APP = Repository.of("r.example", "acme/app")
NAME = "r.example/acme/app:latest"
US, THEM = ("key release aa",), ("key other bb",)

PASSES = Verdict(Outcome.ACCEPTED, ("a signature by key release: found",), valid_until=LONG + timedelta(days=365), signers=US)
BY_OTHERS = replace(PASSES, signers=THEM)
FAILS = Verdict(Outcome.REFUSED, ("a signature by key release is required; found: no signature at all",))
BLOCKED = Verdict(Outcome.REFUSED, (f"{E} is blocked by ann: it mines",))
UNKNOWN = Verdict(Outcome.UNKNOWN, ("could not ask: the signature tag: 503",))


def rule(approvers: int = 0, require: Requirement | None = None, **how: Any) -> Rule:
    """Every tag rotates, by default after 72 hours."""
    needed = require or SignatureBy("release")
    rotation = Rotation(**{"cooldown": timedelta(hours=72), **how})
    tags = (TagRule(Pattern.compile("*"), OnOverwrite.ROTATE, approvers, rotation),)
    return Rule(Pattern.compile("r.example/**"), needed, tags, fingerprint(needed, {}))


ROTATES = rule()


def pin(state: PinState = PinState.PINNED, **fields: Any) -> Pin:
    """The pin on D."""
    whole: dict[str, Any] = {"checked_at": PINNED_AT, "version": 4, "signers": US} | fields
    return Pin(APP, "latest", D, state, PINNED_AT, "rule", "why", **whole)


def waiting(standing: Standing | None = Standing.PASSES, held: Rule = ROTATES, **fields: Any) -> Pin:
    """The same, with E as its candidate since SEEN, judged with this outcome."""
    judgement = None
    if standing is not None:
        judgement = Judgement(standing, ("why",), SEEN, question_of(held, held.tag_rule("latest")))
    whole: dict[str, Any] = {"candidate": E, "candidate_seen_at": SEEN, "judgement": judgement, "checked_at": SEEN} | fields
    return pin(PinState.OVERWRITTEN, **whole)


def approved(*people: str, digest: Digest = E) -> tuple[Approval, ...]:
    """Approvals by these people."""
    return tuple(Approval(digest, by, "looks right", SEEN) for by in people)


def names(digest: Digest, verdict: Verdict | None = None, **more: Any) -> Observation:
    """The upstream's tag names ``digest``, judged so; by default the pin's signers are those of its acceptance."""
    at = more.pop("at", None)
    candidacy = None if verdict is None else Candidacy(digest, verdict, **({"before": US} | more))
    return Observation(Upstream.NAMES, digest, candidacy=candidacy, at=at)


FRESH = Observation(Upstream.FRESH)
GONE = Observation(Upstream.ABSENT)
DOWN = Observation(Upstream.UNREACHABLE, message="503 from the registry")


@dataclass
class Story:
    """A tag through a series of moments, as the gate goes through them: what is decided is written, what is asked is judged."""

    rule: Rule = ROTATES
    pin: Pin | None = field(default_factory=pin)
    verdicts: dict[Digest, Verdict] = field(default_factory=dict)
    open: set[tuple[EventType, Digest | None]] = field(default_factory=set)
    told: list[tuple[str, Digest | None]] = field(default_factory=list)
    history: list[PinAction] = field(default_factory=list)

    def pull(self, seen: Observation, now: datetime) -> tuple[Answer, Digest | None]:
        """One pull, and what is judged because of it; the answer of the pull."""
        assert self.pin is not None
        decision = self._decide(seen, now)
        if decision.judge is not None:
            self._decide(names(decision.judge, self.verdicts[decision.judge], before=self.pin.signers), now)
        return decision.answer, decision.digest

    def _decide(self, seen: Observation, now: datetime) -> Decision:
        assert self.pin is not None
        decision = decide(APP, "latest", self.rule, self.pin, PASSES, seen, now)
        if (write := decision.write) is not None:
            assert write.expected == self.pin
            self.pin = write.new
            self.history.append(write.change.action)
            self.open = {key for key in self.open if key[0] not in write.closed}
            for event in write.opened:
                if (event.type, event.digest) not in self.open:
                    self.told.append((event.type.value, event.digest))
                if event.closed_at is None:
                    self.open.add((event.type, event.digest))
        return decision
