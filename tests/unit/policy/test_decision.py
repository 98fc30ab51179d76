"""The table of the product: what a pull is answered, and what becomes of the pin.

One row is one test. D is the pinned digest; E and F are others that the upstream names instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.decision import Answer, Decision, Observation, Upstream, decide, decide_digest
from proxy.policy.patterns import Pattern
from proxy.policy.rotation import question_of
from proxy.policy.rules import DEFAULT_RULE, FirstUse, Never, OnOverwrite, Requirement, Rule, SignatureBy, TagRule, fingerprint
from proxy.policy.verdicts import Outcome, Verdict
from proxy.policy.writes import AT_REST
from storage.digest import Digest
from storage.records import ACTS, EventType, Judgement, Pin, PinAction, PinState, Standing
from storage.reference import Repository

D, E, F = (Digest("sha256", letter * 64) for letter in "def")
THEN = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
NOW = THEN + timedelta(days=30)
UNTIL = NOW + timedelta(days=365)
APP = Repository.of("r.example", "acme/app")
NAME = "r.example/acme/app:v1"

REFUSE, SERVE_PINNED = OnOverwrite.REFUSE, OnOverwrite.SERVE_PINNED
PINNED, OVERWRITTEN, DELETED, REVOKED = PinState.PINNED, PinState.OVERWRITTEN, PinState.DELETED, PinState.REVOKED
SERVE, DENY, ABSENT, UNAVAILABLE = Answer.SERVE, Answer.DENY, Answer.ABSENT, Answer.UNAVAILABLE

PASSES = Verdict(Outcome.ACCEPTED, ("a signature by key acme: found",), valid_until=UNTIL)
FAILS = Verdict(Outcome.REFUSED, ("a signature by key acme is required; found: no signature at all",))
UNKNOWN = Verdict(Outcome.UNKNOWN, ("could not ask: the signature tag: 503",), retry_after=7.0)


def rule(on_overwrite: OnOverwrite = REFUSE, require: Requirement | None = None) -> Rule:
    """The rule for the image, which answers overwrites of every tag so."""
    needed = require or SignatureBy("acme")
    return Rule(Pattern.compile("r.example/**"), needed, (TagRule(Pattern.compile("*"), on_overwrite),), fingerprint(needed, {}))


def pin(state: PinState = PINNED, candidate: Digest | None = None, rejected: Digest | None = None) -> Pin:
    """The pin on D, first seen THEN."""
    seen_at = None if candidate is None else THEN
    return Pin(APP, "v1", D, state, THEN, "rule", "why", THEN, candidate, seen_at, rejected, version=4)


def names(digest: Digest, verdict: Verdict | None = None) -> Observation:
    """The upstream's tag names ``digest``."""
    return Observation(Upstream.NAMES, digest, verdict)


FRESH = Observation(Upstream.FRESH)
GONE = Observation(Upstream.ABSENT)
REFUSED = Observation(Upstream.DENIED, message="401 from the registry")
DOWN = Observation(Upstream.UNREACHABLE, message="503 from the registry", retry_after=30.0)
LIES = Observation(Upstream.MISBEHAVED, message="the digest is wrong")


# -- no pin yet -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class First:
    """A row of the table for a tag without a pin."""

    id: str
    upstream: Observation
    answer: Answer
    says: tuple[str, ...] = ()  #: words that the reasons hold
    retry_after: float | None = None


FIRST = [
    First("D verifies: pin D, serve D", names(D, PASSES), SERVE, ("a signature by key acme",)),
    First(
        "D does not verify: what was required, what was found",
        names(D, FAILS),
        DENY,
        (str(D), "is required", "no signature at all"),
    ),
    First("whether D verifies cannot be told: 503", names(D, UNKNOWN), UNAVAILABLE, (str(D), "cannot be told", "503"), 7.0),
    First("the upstream says 404: 404", GONE, ABSENT, ("does not exist upstream",)),
    First("the upstream denies: refused, not absent", REFUSED, DENY, ("401 from the registry", "or it does not exist")),
    First(
        "the upstream is down: 503 with Retry-After",
        DOWN,
        UNAVAILABLE,
        ("has not been verified before", "503 from the registry"),
        30.0,
    ),
    First("the upstream misbehaves: refused", LIES, DENY, ("the digest is wrong",)),
]


@pytest.mark.parametrize("on_overwrite", [REFUSE, SERVE_PINNED])
@pytest.mark.parametrize("row", FIRST, ids=lambda row: row.id)
def test_a_tag_without_a_pin(row: First, on_overwrite: OnOverwrite) -> None:
    """Only what verifies is served, and pinned by the same act; every refusal says why."""
    decision = decide(APP, "v1", rule(on_overwrite), None, None, row.upstream, NOW)
    told = "; ".join(decision.reasons)
    assert decision.answer is row.answer
    assert decision.retry_after == row.retry_after
    assert decision.warning is None
    assert all(words in told for words in row.says), told
    if row.answer is not SERVE:
        assert (decision.digest, decision.write, decision.valid_until) == (None, None, None)
        assert NAME in told
        return
    assert (decision.digest, decision.valid_until) == (D, UNTIL)
    assert decision.write is not None
    written = decision.write
    assert written.expected is None  # somebody else's pin is never replaced
    assert written.new == Pin(APP, "v1", D, PINNED, NOW, 'rule "r.example/**"', PASSES.reasons[0], NOW, version=1)
    assert (written.change.action, written.change.from_digest, written.change.to_digest) == (PinAction.PINNED, None, D)
    assert (written.change.at, written.change.by, written.change.reason) == (NOW, 'rule "r.example/**"', PASSES.reasons[0])
    assert (written.opened, written.closed) == ((), ())


@pytest.mark.parametrize("upstream", [FRESH, names(D, PASSES), GONE, REFUSED, DOWN, LIES], ids=lambda seen: seen.upstream.value)
def test_a_rule_that_denies_needs_no_upstream(upstream: Observation) -> None:
    """Whatever the upstream would say, and without asking it: nothing is let in, nothing is pinned."""
    for denies in (rule(require=Never()), DEFAULT_RULE):
        decision = decide(APP, "v1", denies, None, None, upstream, NOW)
        assert (decision.answer, decision.digest, decision.write) == (DENY, None, None)
        assert decision.reasons == (f"{NAME} does not pass {denies}", "the rule allows nothing here (require: deny)")


@pytest.mark.parametrize(
    "upstream", [FRESH, names(D), Observation(Upstream.NAMES, None, PASSES)], ids=["fresh", "unjudged", "no digest"]
)
def test_a_tag_without_a_pin_is_never_decided_from_nothing(upstream: Observation) -> None:
    """Without a digest and a verdict there is nothing to serve: a mistake in the caller, not an allow."""
    with pytest.raises(ValueError, match="cannot be decided"):
        decide(APP, "v1", rule(), None, None, upstream, NOW)


# -- a pin ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A row of the table for a tag that is pinned to D. ``becomes`` None: nothing is written."""

    id: str
    pin: Pin
    upstream: Observation
    refuse: Answer  #: where the rule says ``on_overwrite: refuse``
    serve_pinned: Answer  #: where it says ``serve-pinned``
    becomes: PinState | None = None
    action: PinAction | None = None
    opened: tuple[tuple[EventType, Digest], ...] = ()
    closed: tuple[EventType, ...] = ()
    candidate: Digest | None = None  #: what the pin knows the upstream to name instead, afterwards
    checked: bool = True  #: whether the pin's last check becomes NOW
    warns: tuple[str, ...] = ()
    verdict: Verdict = field(default=PASSES)


TAG_OVERWRITTEN, TAG_DELETED, PIN_REVOKED = EventType.TAG_OVERWRITTEN, EventType.TAG_DELETED, EventType.PIN_REVOKED
TAG_REVERTED = EventType.TAG_REVERTED
WAITING = (EventType.TAG_ROTATION_PENDING, EventType.PIN_STALE)
KNOWN_E = pin(OVERWRITTEN, E)


def served(title: str, before: Pin, seen: Observation, *warns: str) -> Row:
    """D is served, and nothing is written."""
    return Row(title, before, seen, SERVE, SERVE, candidate=before.candidate, warns=warns)


def told(title: str, before: Pin, seen: Observation, digest: Digest) -> Row:
    """The overwrite by ``digest`` is news: written, and told."""
    closed = (TAG_DELETED, PIN_REVOKED, *WAITING)
    opened = ((TAG_OVERWRITTEN, digest),)
    return Row(title, before, seen, DENY, SERVE, OVERWRITTEN, PinAction.OVERWRITTEN, opened, closed, digest)


def known(title: str, before: Pin, seen: Observation) -> Row:
    """The overwrite by E was told before: answered by the rule, and nothing is written."""
    return Row(title, before, seen, DENY, SERVE, candidate=E)


def back(title: str, before: Pin, action: PinAction = PinAction.REVERTED) -> Row:
    """The upstream names D again: D is served, and all news about the pin ends."""
    opened = ((TAG_REVERTED, D),) if action is PinAction.REVERTED else ()
    return Row(title, before, names(D), SERVE, SERVE, PINNED, action, opened, AT_REST)


def deleted(title: str, before: Pin) -> Row:
    """The tag is gone: D is served, the deletion is told, other news about the pin ends."""
    closed = (TAG_OVERWRITTEN, PIN_REVOKED, *WAITING)
    opened = ((TAG_DELETED, D),)
    return Row(title, before, GONE, SERVE, SERVE, DELETED, PinAction.DELETED, opened, closed, warns=("was deleted upstream",))


def revoked(title: str, before: Pin, seen: Observation) -> Row:
    """D does not pass any more: refused by every rule, and told."""
    opened, closed = ((PIN_REVOKED, D),), (EventType.SIGNATURE_LOST,)
    return Row(
        title,
        before,
        seen,
        DENY,
        DENY,
        REVOKED,
        PinAction.REVOKED,
        opened,
        closed,
        before.candidate,
        checked=False,
        verdict=FAILS,
    )


def restored(title: str, before: Pin, seen: Observation, *closed: EventType, checked: bool) -> Row:
    """D passes again, and the upstream is where it was before the revocation."""
    overwritten = before.candidate is not None
    return Row(
        title,
        before,
        seen,
        DENY if overwritten else SERVE,
        SERVE,
        OVERWRITTEN if overwritten else PINNED,
        PinAction.RESTORED,
        (),
        closed,
        before.candidate,
        checked,
    )


TABLE = [
    served("D, fresh: serve D without asking", pin(), FRESH),
    served("D, upstream names D: serve D", pin(), names(D)),
    # another digest
    told("D, upstream names E: overwritten, told", pin(), names(E), E),
    told("D, upstream names E, which verifies: the same", pin(), names(E, PASSES), E),
    told("D, upstream names E, which does not: the same", pin(), names(E, FAILS), E),
    told("D deleted, then E: overwritten, told", pin(DELETED), names(E), E),
    told("D overwritten by E, upstream names F: told", KNOWN_E, names(F), F),
    known("D overwritten by E, upstream names E: told already", KNOWN_E, names(E)),
    known("D overwritten by E, fresh: still overwritten", KNOWN_E, FRESH),
    known("D overwritten by E, which an operator rejected: told already", pin(OVERWRITTEN, E, E), names(E)),
    # the pinned digest again
    back("D overwritten by E, upstream names D: it is over", KNOWN_E),
    back("D deleted, upstream names D: it is over", pin(DELETED)),
    # none
    deleted("D, tag deleted: serve D, told", pin()),
    deleted("D overwritten by E, then deleted: the overwrite is over, told", KNOWN_E),
    served("D deleted, still: told already", pin(DELETED), GONE, "was deleted upstream"),
    served("D deleted, fresh: told already", pin(DELETED), FRESH, "was deleted upstream"),
    # no answer
    served("D, upstream down: serve D", pin(), DOWN, "503 from the registry"),
    served("D, upstream denies: serve D", pin(), REFUSED, "401 from the registry"),
    served("D, upstream misbehaves: serve D", pin(), LIES, "the digest is wrong"),
    served("D, upstream names nothing: serve D", pin(), Observation(Upstream.NAMES), "could not be asked"),
    served("D deleted, upstream down: serve D", pin(DELETED), DOWN, "503 from the registry"),
    served("D overwritten by E, upstream down: serve D", KNOWN_E, DOWN, "503 from the registry", f"it last named {E}"),
    # D does not pass any more
    *(
        revoked(f"D no longer passes, {seen.upstream.value}: refused, told", pin(), seen)
        for seen in (FRESH, names(D), names(E, PASSES), GONE, REFUSED, DOWN, LIES)
    ),
    revoked("D overwritten by E, no longer passes: what was seen is kept", KNOWN_E, FRESH),
    revoked("D deleted, no longer passes: refused, told", pin(DELETED), FRESH),
    Row("D revoked, still does not pass: told already", pin(REVOKED), FRESH, DENY, DENY, verdict=FAILS),
    Row("D revoked, upstream names E that verifies: refused", pin(REVOKED), names(E, PASSES), DENY, DENY, verdict=FAILS),
    # and passes again
    back("D revoked, passes again, upstream names D: it is over", pin(REVOKED), PinAction.RESTORED),
    back("D overwritten by E and revoked, passes again, upstream names D: it is over", pin(REVOKED, E), PinAction.RESTORED),
    restored("D revoked, passes again, fresh: it is over", pin(REVOKED), FRESH, PIN_REVOKED, TAG_DELETED, checked=False),
    restored("D overwritten by E and revoked, passes again, fresh", pin(REVOKED, E), FRESH, PIN_REVOKED, checked=False),
    restored(
        "D overwritten by E and revoked, passes again, upstream names E", pin(REVOKED, E), names(E), PIN_REVOKED, checked=True
    ),
    told("D overwritten by E and revoked, passes again, upstream names F: told", pin(REVOKED, E), names(F), F),
    told("D revoked, passes again, upstream names E: told", pin(REVOKED), names(E), E),
    deleted("D revoked, passes again, tag deleted: told", pin(REVOKED)),
    served("D revoked, passes again, upstream down: serve D", pin(REVOKED), DOWN, "503 from the registry"),
    # nobody can tell whether D passes
    *(
        Row(
            f"D {before.state.value}, cannot be judged, {seen.upstream.value}: 503",
            before,
            seen,
            UNAVAILABLE,
            UNAVAILABLE,
            verdict=UNKNOWN,
        )
        for before in (pin(), KNOWN_E, pin(DELETED), pin(REVOKED))
        for seen in (FRESH, names(D), names(E, PASSES), GONE, DOWN)
    ),
]


@pytest.mark.parametrize("on_overwrite", [REFUSE, SERVE_PINNED])
@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.id)
def test_a_pinned_tag(row: Row, on_overwrite: OnOverwrite) -> None:
    """The answer by rule; what is written about the pin, and what is told, is the same for both rules."""
    decision = decide(APP, "v1", rule(on_overwrite), row.pin, row.verdict, row.upstream, NOW)
    assert decision.answer is (row.refuse if on_overwrite is REFUSE else row.serve_pinned)
    assert decision.digest == (D if decision.answer is SERVE else None)
    assert decision.valid_until == (UNTIL if decision.answer is SERVE else None)
    assert NAME in decision.reasons[0]
    assert str(D) in decision.reasons[0]
    for words in row.warns:
        assert words in (decision.warning or "")
    if not row.warns and row.refuse is SERVE:
        assert decision.warning is None

    if row.becomes is None:
        assert decision.write is None
        return
    assert decision.write is not None
    written, change = decision.write, decision.write.change
    assert written.expected == row.pin
    assert written.new == replace(
        row.pin,
        state=row.becomes,
        version=row.pin.version + 1,
        checked_at=NOW if row.checked else THEN,
        candidate=row.candidate,
        candidate_seen_at=None if row.candidate is None else THEN if row.pin.candidate == row.candidate else NOW,
    )
    assert (change.repository, change.tag, change.at, change.action) == (APP, "v1", NOW, row.action)
    assert change.by
    assert change.reason
    assert tuple((event.type, event.digest) for event in written.opened) == row.opened
    assert all((event.subject, event.at) == (NAME, NOW) for event in written.opened)
    assert all(event.closed_at == (NOW if event.type in ACTS else None) for event in written.opened)
    assert written.closed == row.closed


def answer(before: Pin, seen: Observation, on_overwrite: OnOverwrite = REFUSE, verdict: Verdict = PASSES) -> Decision:
    """The decision for a pinned tag."""
    return decide(APP, "v1", rule(on_overwrite), before, verdict, seen, NOW)


# -- words ----------------------------------------------------------------------------------------------------------


def test_a_refused_overwrite_names_both_digests_and_the_way_out() -> None:
    """A person reads what happened, since when the pin stands, and the command that would accept the new digest."""
    told, way_out = answer(pin(), names(E)).reasons
    assert told == f"{NAME} was overwritten upstream: pinned to {D} since 2026-01-01 12:00 UTC, upstream now names {E}"
    assert f"tagstone pins approve {NAME} --digest {E}" in way_out


def test_no_approval_is_promised_to_what_fails() -> None:
    """Of what is known to fail its rule it is said that an approval does not help before it passes."""
    held = rule(REFUSE)
    failed = Judgement(Standing.FAILS, ("no signature at all",), NOW, question_of(held, held.tag_rule("v1")))
    way_out = answer(replace(pin(OVERWRITTEN, E), judgement=failed), names(E)).reasons[-1]
    assert "does not pass its rule, and an approval does not stand for that; once it passes: tagstone pins approve" in way_out
    assert "does not pass" not in answer(pin(OVERWRITTEN, E), names(E)).reasons[-1]


def test_a_rejected_overwrite_says_so() -> None:
    """Once an operator has said no there is no command to suggest; for another digest there is."""
    assert "an operator rejected the new digest" in answer(pin(OVERWRITTEN, E, E), names(E)).reasons[1]
    assert "pins approve" in answer(pin(OVERWRITTEN, E, E), names(F)).reasons[1]
    assert "pins approve" in answer(pin(rejected=E), names(F)).reasons[1]


def test_serve_pinned_warns_with_both_digests() -> None:
    """The pinned digest is served, and the client is told what the upstream names instead."""
    for seen in (FRESH, names(E)):
        decision = answer(KNOWN_E, seen, SERVE_PINNED)
        assert str(D) in (decision.warning or "")
        assert str(E) in (decision.warning or "")
        assert "the pinned digest is served" in (decision.warning or "")


def test_a_revocation_names_the_rule_and_what_is_missing() -> None:
    """The refusal, the history and the event all say why."""
    decision = answer(pin(), FRESH, verdict=FAILS)
    assert decision.reasons == (f'{NAME} is pinned to {D}, which no longer passes rule "r.example/**"', *FAILS.reasons)
    assert decision.write is not None
    assert decision.write.change.reason == FAILS.reasons[0]
    assert decision.write.opened[0].message == "; ".join(decision.reasons)


def test_an_unknown_verdict_hands_on_when_to_ask_again() -> None:
    """503 with the time that the evidence's source asked for."""
    decision = answer(pin(), FRESH, verdict=UNKNOWN)
    assert decision.retry_after == 7.0
    assert decision.reasons[0].endswith('whether it still passes rule "r.example/**" cannot be told now')


def test_a_pin_without_a_verdict_is_a_mistake_of_the_caller() -> None:
    """It is never served on trust."""
    with pytest.raises(ValueError, match="without a verdict"):
        decide(APP, "v1", rule(), pin(), None, FRESH, NOW)


# -- pulls by digest ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdict", "expected", "says"),
    [(PASSES, SERVE, "found"), (FAILS, DENY, "does not pass"), (UNKNOWN, UNAVAILABLE, "cannot be told now")],
    ids=["passes", "fails", "cannot be told"],
)
def test_a_pull_by_digest_is_judged_like_a_candidate_and_never_pinned(verdict: Verdict, expected: Answer, says: str) -> None:
    """The verdict is the answer; nothing is written."""
    decision = decide_digest(APP, E, rule(), verdict)
    assert decision.answer is expected
    assert decision.digest == (E if expected is SERVE else None)
    assert (decision.write, decision.warning) == (None, None)
    assert decision.valid_until == verdict.valid_until
    assert decision.retry_after == verdict.retry_after
    assert says in "; ".join(decision.reasons)


# -- stories --------------------------------------------------------------------------------------------------------


@dataclass
class Story:
    """A tag through a series of pulls, as the database would keep it: pins, history, and events that are told once."""

    on_overwrite: OnOverwrite = REFUSE
    pin: Pin | None = None
    verdict: Verdict = PASSES
    open: dict[tuple[EventType, Digest | None], str] = field(default_factory=dict)
    told: list[tuple[str, Digest | None]] = field(default_factory=list)
    history: list[PinAction] = field(default_factory=list)
    moved: list[Digest] = field(default_factory=list)

    def pull(self, seen: Observation) -> tuple[Answer, Digest | None]:
        """Decide, write, tell."""
        decision = decide(APP, "v1", rule(self.on_overwrite), self.pin, None if self.pin is None else self.verdict, seen, NOW)
        if decision.write is not None:
            write = decision.write
            assert write.expected == self.pin
            self.pin = write.new
            self.history.append(write.change.action)
            self.open = {key: subject for key, subject in self.open.items() if key[0] not in write.closed}
            for event in write.opened:
                if (event.type, event.digest) not in self.open:
                    self.told.append((event.type.value, event.digest))
                if event.closed_at is None:
                    self.open[event.type, event.digest] = event.subject
        if self.pin is not None:
            self.moved.append(self.pin.digest)
        return decision.answer, decision.digest


def test_promise_1_an_overwrite_is_told_once_and_moves_nothing() -> None:
    """The pin stays, the answer stays, and the same E is news once, however often it is seen."""
    for on_overwrite, expected in ((REFUSE, (DENY, None)), (SERVE_PINNED, (SERVE, D))):
        story = Story(on_overwrite)
        assert story.pull(names(D, PASSES)) == (SERVE, D)
        for seen in (names(E), FRESH, names(E), names(E), FRESH):
            assert story.pull(seen) == expected
        assert story.told == [("tag.overwritten", E)]
        assert set(story.moved) == {D}


def test_promise_2_a_signed_overwrite_is_an_overwrite() -> None:
    """That E verifies changes nothing without an approval."""
    story = Story()
    story.pull(names(D, PASSES))
    assert story.pull(names(E, PASSES)) == (DENY, None)
    assert set(story.moved) == {D}


def test_promise_3_a_reverted_overwrite_closes_its_event() -> None:
    """A → B → A: alert, A is served, the event closes; B once more is news once more."""
    story = Story()
    assert story.pull(names(D, PASSES)) == (SERVE, D)
    assert story.pull(names(E)) == (DENY, None)
    assert story.pull(names(D)) == (SERVE, D)
    assert story.open == {}
    assert story.pin is not None
    assert (story.pin.state, story.pin.candidate, story.pin.candidate_seen_at) == (PINNED, None, None)
    assert story.pull(names(E)) == (DENY, None)
    assert story.told == [("tag.overwritten", E), ("tag.reverted", D), ("tag.overwritten", E)]
    assert story.history == [PinAction.PINNED, PinAction.OVERWRITTEN, PinAction.REVERTED, PinAction.OVERWRITTEN]


def test_promise_4_a_deleted_tag_and_an_outage_serve_the_pin() -> None:
    """D is served through deletion, outage and return; each is told once, and closed by the return."""
    story = Story()
    for seen in (names(D, PASSES), DOWN, GONE, FRESH, DOWN, GONE, LIES, REFUSED, names(D), DOWN):
        assert story.pull(seen) == (SERVE, D)
    assert story.told == [("tag.deleted", D), ("tag.reverted", D)]
    assert story.open == {}


def test_promise_10_an_old_signed_digest_never_replaces_a_pin() -> None:
    """On first use it is pinned like any other; afterwards it is an overwrite like any other."""
    story = Story()
    assert story.pull(names(E, PASSES)) == (SERVE, E)
    assert story.pull(names(D, PASSES)) == (DENY, None)
    assert set(story.moved) == {E}


def test_a_candidate_that_changes_is_told_once_for_each_digest() -> None:
    """E, F, E again: two pieces of news, which end together."""
    story = Story()
    for seen in (names(D, PASSES), names(E), names(F), names(E), FRESH, names(F)):
        story.pull(seen)
    assert story.told == [("tag.overwritten", E), ("tag.overwritten", F)]
    story.pull(names(D))
    assert story.open == {}


def test_an_outage_in_an_overwrite_changes_nothing() -> None:
    """While nobody can be asked the verified digest is served; the overwrite is remembered, and not told again."""
    story = Story()
    answers = [story.pull(seen) for seen in (names(D, PASSES), names(E), DOWN, names(E), FRESH)]
    assert answers == [(SERVE, D), (DENY, None), (SERVE, D), (DENY, None), (DENY, None)]
    assert story.told == [("tag.overwritten", E)]


def test_promise_47_a_signature_stripped_after_acceptance_is_a_matter_of_the_verdict() -> None:
    """As long as the stored evidence accepts D it is served, whatever the upstream names."""
    story = Story(SERVE_PINNED)
    for seen in (names(D, PASSES), names(D, FAILS), names(D, UNKNOWN), names(E, FAILS)):
        assert story.pull(seen) == (SERVE, D)


def test_a_revocation_and_its_end_are_told() -> None:
    """Revoked: refused, told once. Restored: served, closed. An overwrite from before is neither lost nor told twice."""
    story = Story()
    story.pull(names(D, PASSES))
    story.pull(names(E))
    story.verdict = FAILS
    assert [story.pull(seen) for seen in (FRESH, names(E), names(D), DOWN)] == [(DENY, None)] * 4
    story.verdict = PASSES
    assert story.pull(FRESH) == (DENY, None)  # it passes again, and is overwritten still
    assert story.pull(names(E)) == (DENY, None)
    assert story.told == [("tag.overwritten", E), ("pin.revoked", D)]
    assert list(story.open) == [(TAG_OVERWRITTEN, E)]
    assert story.pull(names(D)) == (SERVE, D)
    assert story.open == {}
    assert story.history[1:] == [PinAction.OVERWRITTEN, PinAction.REVOKED, PinAction.RESTORED, PinAction.REVERTED]


# -- properties -----------------------------------------------------------------------------------------------------

_digests = st.sampled_from([D, E, F])
_verdicts = st.sampled_from([PASSES, FAILS, UNKNOWN, replace(PASSES, valid_until=None)])
_judged = st.builds(names, _digests, _verdicts)
_failures = st.sampled_from([GONE, REFUSED, DOWN, LIES])
_rules = st.builds(rule, st.sampled_from([REFUSE, SERVE_PINNED]), st.sampled_from([None, FirstUse(), Never()]))
_pins = st.builds(pin, st.sampled_from([PINNED, DELETED, REVOKED]), st.none(), st.none() | _digests) | st.builds(
    pin, st.sampled_from([OVERWRITTEN, REVOKED]), st.sampled_from([E, F]), st.none() | _digests
)
_outages = [Upstream.DENIED, Upstream.UNREACHABLE, Upstream.MISBEHAVED]


@given(_rules, _pins, _verdicts, _judged | st.builds(names, _digests) | _failures | st.just(FRESH))
def test_a_pinned_tag_is_served_by_its_pin_or_not_at_all(held: Rule, before: Pin, verdict: Verdict, seen: Observation) -> None:
    """Never another digest than the pin's, never one that does not pass now, and never a pin that moves."""
    decision = decide(APP, "v1", held, before, verdict, seen, NOW)
    assert decision == decide(APP, "v1", held, before, verdict, seen, NOW)
    assert decision.answer is not ABSENT
    if decision.answer is SERVE:
        assert decision.digest == before.digest
        assert verdict.accepted
        assert decision.valid_until == verdict.valid_until
    else:
        assert decision.digest is None
    if verdict.outcome is Outcome.UNKNOWN:
        assert decision.answer is UNAVAILABLE
    if verdict.outcome is Outcome.REFUSED:
        assert decision.answer is DENY
    assert decision.reasons
    if decision.write is not None:
        after = decision.write.new
        assert after is not None
        assert decision.write.expected == before
        assert after.version == before.version + 1
        kept = ("repository", "tag", "digest", "pinned_at", "pinned_by", "reason", "rejected")
        assert all(getattr(after, name) == getattr(before, name) for name in kept)
        assert after.checked_at in {before.checked_at, NOW}
        assert (after.candidate is not None) is (
            after.state is OVERWRITTEN or (after.state is REVOKED and before.candidate is not None)
        )
        assert (after.candidate is None) is (after.candidate_seen_at is None)
        assert after.candidate != after.digest


@given(_rules, _pins, st.sampled_from(_outages), st.text(max_size=10), st.none() | st.floats(0, 100))
def test_an_outage_never_yields_a_write(
    held: Rule, before: Pin, outage: Upstream, message: str, retry_after: float | None
) -> None:
    """What passes is served, nothing becomes known, nothing is told."""
    decision = decide(APP, "v1", held, before, PASSES, Observation(outage, message=message, retry_after=retry_after), NOW)
    assert (decision.answer, decision.digest, decision.write) == (SERVE, D, None)


@given(_rules, _judged | _failures)
def test_an_unpinned_tag_is_served_by_its_accepted_candidate_or_not_at_all(held: Rule, seen: Observation) -> None:
    """Served exactly where the candidate's verdict is ACCEPTED and the rule allows anything; pinned exactly then."""
    decision = decide(APP, "v1", held, None, None, seen, NOW)
    assert decision == decide(APP, "v1", held, None, None, seen, NOW)
    passes = seen.verdict is not None and seen.verdict.accepted and not isinstance(held.require, Never)
    assert (decision.answer is SERVE) is passes
    assert (decision.write is not None) is passes
    assert decision.digest == (seen.digest if passes else None)
    if decision.write is not None:
        assert decision.write.new is not None
        assert (decision.write.expected, decision.write.new.version, decision.write.new.digest) == (None, 1, seen.digest)


@given(_digests, _rules, _verdicts)
def test_a_digest_is_served_exactly_where_it_passes(digest: Digest, held: Rule, verdict: Verdict) -> None:
    """No pull by digest writes anything."""
    decision = decide_digest(APP, digest, held, verdict)
    assert (decision.answer is SERVE) is verdict.accepted
    assert decision.digest == (digest if verdict.accepted else None)
    assert decision.write is None


@given(
    st.sampled_from([REFUSE, SERVE_PINNED]),
    st.lists(st.tuples(_verdicts, _judged | _failures), min_size=1, max_size=12),
)
def test_no_story_moves_a_pin(on_overwrite: OnOverwrite, pulls: list[tuple[Verdict, Observation]]) -> None:
    """Through any series of pulls the first digest that passed is the only one that is ever served by the tag."""
    story = Story(on_overwrite)
    served = set()
    for verdict, seen in pulls:
        story.verdict = verdict
        if (digest := story.pull(seen)[1]) is not None:
            served.add(digest)
    assert len(served) <= 1
    assert len(set(story.moved)) <= 1
    if story.pin is not None and story.pin.state is PINNED:
        assert story.open == {}
    if story.pin is not None and story.pin.state is OVERWRITTEN:
        assert (TAG_OVERWRITTEN, story.pin.candidate) in story.open
