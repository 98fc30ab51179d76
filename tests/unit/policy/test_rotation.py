"""The table of rotation: what a pull is answered while the upstream names E, what becomes of the pin, what is told.

One row is one test. D is the pinned digest, E the candidate, which was first seen at SEEN; the cooldown is 72 hours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.decision import Answer, Observation, Upstream, decide
from proxy.policy.rotation import Hold, approvals_of, person, progress
from proxy.policy.rules import Continuity, FirstUse, OnOverwrite, Rotation, Rule, TagRule
from proxy.policy.verdicts import Outcome, Verdict
from proxy.policy.windows import Window
from storage.digest import Digest
from storage.records import EventType, Judgement, Pin, PinAction, PinState, Standing
from tests.unit.policy.rotating import (
    APP,
    BLOCKED,
    BY_OTHERS,
    DOWN,
    FAILS,
    FRESH,
    GONE,
    LATER,
    LONG,
    NAME,
    PASSES,
    PINNED_AT,
    ROTATES,
    SEEN,
    SOON,
    THEM,
    UNKNOWN,
    US,
    D,
    E,
    F,
    Story,
    approved,
    names,
    pin,
    rule,
    waiting,
)

SERVE, DENY = Answer.SERVE, Answer.DENY
PENDING, OVERWRITTEN, ROTATED, STALE = (
    EventType.TAG_ROTATION_PENDING,
    EventType.TAG_OVERWRITTEN,
    EventType.TAG_ROTATED,
    EventType.PIN_STALE,
)
ANY = rule(signer=Continuity.ANY)
FIRST_USE = rule(require=FirstUse())
ONE, TWO = rule(approvers=1), rule(approvers=2)
NIGHT = rule(window=Window(frozenset(range(7)), time(22), time(4), ZoneInfo("Europe/Berlin"), "Europe/Berlin"))
OTHER = Standing.OTHER_SIGNER
NOON, AT_NIGHT = LATER.replace(hour=12), LATER.replace(hour=23)


@dataclass(frozen=True)
class Row:
    """A row of the table. ``otherwise``: what is answered as the rule says, where that is not the same for both."""

    id: str
    rule: Rule
    pin: Pin
    seen: Observation
    now: datetime
    digest: Digest | None = D  #: what is served; None: as the rule's ``otherwise`` says
    action: PinAction | None = None
    opened: tuple[EventType, ...] = ()
    closed: tuple[EventType, ...] = ()  #: of PENDING, OVERWRITTEN and STALE
    judge: bool = False
    says: str = ""
    standing: Standing | None = None  #: what is known of the candidate afterwards, where something was written


TABLE = [
    # first seen
    Row("E is new: noted, to be judged, D served", ROTATES, pin(), names(E), SEEN, action=PinAction.OVERWRITTEN,
        closed=(PENDING, STALE), judge=True, says="is not known yet"),
    Row("E is new and was rejected before: told at once", ROTATES, pin(rejected=E), names(E), SEEN, None, PinAction.OVERWRITTEN,
        (OVERWRITTEN,), (PENDING, STALE), says="an operator rejected"),
    Row("F after E: starts anew", ROTATES, waiting(), names(F), LATER, action=PinAction.OVERWRITTEN,
        closed=(PENDING, STALE), judge=True),
    Row("E, noted by a clock that was ahead: starts anew", ROTATES, waiting(candidate_seen_at=LONG), names(E, at=SEEN), SEEN,
        action=PinAction.OVERWRITTEN, closed=(PENDING, STALE), judge=True),
    Row("E, while our clock is behind: the cooldown stays", ROTATES, waiting(), names(E, at=SOON), PINNED_AT),
    # judged
    Row("E passes, same signer: pending, told", ROTATES, waiting(None), names(E, PASSES), SOON, action=PinAction.JUDGED,
        opened=(PENDING,), closed=(OVERWRITTEN,), says="in its cooldown until 2026-01-14 12:00 UTC", standing=Standing.PASSES),
    Row("E fails: told with the reason", ROTATES, waiting(None), names(E, FAILS), SOON, None, PinAction.JUDGED,
        (OVERWRITTEN,), (PENDING, STALE), says="no signature at all", standing=Standing.FAILS),
    Row("E is blocked: told with the reason", ROTATES, waiting(None), names(E, BLOCKED), LATER, None, PinAction.JUDGED,
        (OVERWRITTEN,), (PENDING, STALE), says="is blocked by ann", standing=Standing.FAILS),
    Row("E passes, another signer: told with both", ROTATES, waiting(None), names(E, BY_OTHERS), SOON, None, PinAction.JUDGED,
        (OVERWRITTEN,), (PENDING, STALE), says="key other (bb…), the pinned digest by key release", standing=OTHER),
    Row("E passes, another signer, any may sign: pending", ANY, waiting(None, ANY), names(E, BY_OTHERS), SOON,
        action=PinAction.JUDGED, opened=(PENDING,), closed=(OVERWRITTEN,), standing=Standing.PASSES),
    Row("E passes, nobody signed either: pending", FIRST_USE, waiting(None, FIRST_USE, signers=()),
        names(E, replace(PASSES, signers=()), before=()), SOON, action=PinAction.JUDGED, opened=(PENDING,), closed=(OVERWRITTEN,),
        standing=Standing.PASSES),
    Row("E passes without the signature that D had: another signer", ROTATES, waiting(None),
        names(E, replace(PASSES, signers=())), SOON, None, PinAction.JUDGED, (OVERWRITTEN,), (PENDING, STALE), standing=OTHER),
    Row("E cannot be judged: waits", ROTATES, waiting(None), names(E, UNKNOWN), SOON, says="is not known yet"),
    Row("E passes, who signed D is not known: waits", ROTATES, waiting(None), names(E, PASSES, before=None), LATER),
    Row("E passes, who signed E is not known: waits", ROTATES, waiting(None), names(E, replace(PASSES, signers=None)), LATER),
    Row("E was rejected, as the history says: remembered, told", ROTATES, waiting(None), names(E, PASSES, rejected=True), LATER,
        None, PinAction.JUDGED, (OVERWRITTEN,), (PENDING, STALE), says="an operator rejected", standing=Standing.PASSES),
    Row("E failed, and is signed now: pending, the overwrite is over", ROTATES, waiting(Standing.FAILS), names(E, PASSES), SOON,
        action=PinAction.JUDGED, opened=(PENDING,), closed=(OVERWRITTEN,), standing=Standing.PASSES),
    Row("E passed, and fails now: told", ROTATES, waiting(), names(E, FAILS), SOON, None, PinAction.JUDGED, (OVERWRITTEN,),
        (PENDING, STALE), standing=Standing.FAILS),
    Row("E fails still: told already", ROTATES, waiting(Standing.FAILS), names(E, FAILS), SOON, None),
    Row("E failed, and cannot be judged now: as before", ROTATES, waiting(Standing.FAILS), names(E, UNKNOWN), SOON, None),
    # known
    Row("E in its cooldown, fresh: D served", ROTATES, waiting(), FRESH, SOON),
    Row("E in its cooldown, named again: D served", ROTATES, waiting(), names(E), SOON),
    Row("E failed, fresh: as the rule says, judged again", ROTATES, waiting(Standing.FAILS), FRESH, SOON, None, judge=True),
    Row("E by another signer, fresh: as the rule says, judged again", ROTATES, waiting(OTHER), FRESH, SOON, None, judge=True),
    Row("E rejected: as the rule says", ROTATES, waiting(rejected=E), FRESH, LATER, None, says="an operator rejected"),
    Row("E judged by another rule: judged again", ROTATES, waiting(held=ANY), FRESH, LATER, judge=True, says="not known yet"),
    Row("the upstream is down: D served, nothing judged", ROTATES, waiting(), DOWN, LATER),
    # due
    Row("E due, fresh: D served, judged once more", ROTATES, waiting(), FRESH, LATER, judge=True, says="judged once more"),
    Row("E due, named: D served, judged once more", ROTATES, waiting(), names(E), LATER, judge=True),
    Row("E due and passes: the pin moves", ROTATES, waiting(), names(E, PASSES), LATER, E, PinAction.ROTATED, (ROTATED,),
        (OVERWRITTEN, PENDING, STALE), says="was rotated"),
    Row("E due, judged for the first time: the pin moves", ROTATES, waiting(None), names(E, PASSES), LATER, E, PinAction.ROTATED,
        (ROTATED,), (OVERWRITTEN, PENDING, STALE)),
    Row("E due, had before: said", ROTATES, waiting(), names(E, PASSES, held=True), LATER, E, PinAction.ROTATED, (ROTATED,),
        (OVERWRITTEN, PENDING, STALE), says="back to a digest that it had before"),
    Row("E due, nobody signed either: the pin moves", FIRST_USE, waiting(None, FIRST_USE, signers=()),
        names(E, replace(PASSES, signers=()), before=()), LATER, E, PinAction.ROTATED, (ROTATED,), (OVERWRITTEN, PENDING, STALE)),
    Row("E due, fails now: told", ROTATES, waiting(), names(E, FAILS), LATER, None, PinAction.JUDGED, (OVERWRITTEN,),
        (PENDING, STALE), standing=Standing.FAILS),
    Row("E due, cannot be judged now: waits", ROTATES, waiting(), names(E, UNKNOWN), LATER, says="is not known yet"),
    Row("E due by a clock that is a year ahead of the upstream's: waits", ROTATES, waiting(),
        names(E, PASSES, at=SOON), SOON + timedelta(days=6), says="too far ahead of the upstream's"),
    Row("E due by such a clock for too long: told", ROTATES, waiting(), names(E, PASSES, at=SOON), SOON + timedelta(days=365),
        action=PinAction.STALE, opened=(STALE,)),
    Row("E due by a clock that is a little ahead: the pin moves", ROTATES, waiting(),
        names(E, PASSES, at=LATER - timedelta(minutes=50)), LATER, E, PinAction.ROTATED, (ROTATED,),
        (OVERWRITTEN, PENDING, STALE)),
    # approvals
    Row("E in its cooldown, to be approved: D served", TWO, waiting(held=TWO), FRESH, SOON, says="needs 2 more approvals"),
    Row("E after its cooldown, nobody approved: as the rule says", TWO, waiting(held=TWO), FRESH, LATER, None,
        says="needs 2 more approvals"),
    Row("E after its cooldown, one of two: as the rule says", TWO, waiting(held=TWO, approvals=approved("ann")),
        names(E, PASSES), LATER, None, says="needs 1 more approval (of 2)"),
    Row("E, one person twice: as the rule says", TWO, waiting(held=TWO, approvals=approved("ann", " ANN ", "Ann")),
        names(E, PASSES), LATER, None, says="needs 1 more approval"),
    Row("E, approved for another digest: as the rule says", ONE, waiting(held=ONE, approvals=approved("ann", digest=F)),
        names(E, PASSES), LATER, None),
    Row("E approved by two, due: judged once more", TWO, waiting(held=TWO, approvals=approved("ann", "bob")), FRESH, LATER,
        judge=True),
    Row("E approved by two and passes: the pin moves", TWO, waiting(held=TWO, approvals=approved("ann", "bob")),
        names(E, PASSES), LATER, E, PinAction.ROTATED, (ROTATED,), (OVERWRITTEN, PENDING, STALE), says="approved by ann and bob"),
    Row("E approved, in its cooldown: D served", ONE, waiting(held=ONE, approvals=approved("ann")), FRESH, SOON),
    Row("E by another signer, approved, in its cooldown: D served", ROTATES, waiting(OTHER, approvals=approved("ann")), FRESH,
        SOON),
    Row("E by another signer, approved: the pin moves", ROTATES, waiting(OTHER, approvals=approved("ann")),
        names(E, BY_OTHERS), LATER, E, PinAction.ROTATED, (ROTATED,), (OVERWRITTEN, PENDING, STALE)),
    Row("E by another signer, one of two approved: as the rule says", TWO, waiting(OTHER, TWO, approvals=approved("ann")),
        names(E, BY_OTHERS), LATER, None),
    Row("E fails, approved: as the rule says", ROTATES, waiting(Standing.FAILS, approvals=approved("ann")), names(E, FAILS),
        LATER, None),
    # the window
    Row("E after its cooldown, outside the window: D served", NIGHT, waiting(held=NIGHT), FRESH, NOON,
        says="from 2026-01-14 21:00 UTC on"),
    Row("E after its cooldown, in the window: judged once more", NIGHT, waiting(held=NIGHT), FRESH, AT_NIGHT, judge=True),
    Row("E in the window and passes: the pin moves", NIGHT, waiting(held=NIGHT), names(E, PASSES), AT_NIGHT, E,
        PinAction.ROTATED, (ROTATED,), (OVERWRITTEN, PENDING, STALE)),
    Row("E outside the window and passes: D served", NIGHT, waiting(held=NIGHT), names(E, PASSES), NOON),
    # too long
    Row("E waits for approval for too long: told", ONE, waiting(held=ONE), FRESH, LONG, None, PinAction.STALE, (STALE,)),
    Row("E waits for approval, told before: no more", ONE, waiting(held=ONE, stale_at=LATER), FRESH, LONG, None),
    Row("E waits for its window for too long: told", NIGHT, waiting(held=NIGHT), FRESH, LONG.replace(hour=13),
        action=PinAction.STALE, opened=(STALE,)),
    Row("E cannot be judged for too long: told", ROTATES, waiting(), names(E, UNKNOWN), LONG, action=PinAction.STALE,
        opened=(STALE,)),
    # other ends
    Row("D again: over", ROTATES, waiting(approvals=approved("ann"), stale_at=SOON), names(D), LATER, action=PinAction.REVERTED,
        opened=(EventType.TAG_REVERTED,), closed=(OVERWRITTEN, PENDING, STALE)),
    Row("the tag is gone: E is over", ROTATES, waiting(approvals=approved("ann")), GONE, LATER, action=PinAction.DELETED,
        opened=(EventType.TAG_DELETED,), closed=(OVERWRITTEN, PENDING, STALE)),
    Row("D passes again, E due: first the one, then the other", ROTATES, replace(waiting(), state=PinState.REVOKED),
        names(E, PASSES), LATER, action=PinAction.RESTORED),
]  # fmt: skip


@pytest.mark.parametrize("otherwise", [OnOverwrite.REFUSE, OnOverwrite.SERVE_PINNED])
@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.id)
def test_a_tag_that_rotates(row: Row, otherwise: OnOverwrite) -> None:
    """The answer, the write and what is told. Where more than time keeps E from becoming the pin, ``otherwise`` counts."""
    (tags,) = row.rule.tags
    assert tags.rotation is not None
    held = replace(row.rule, tags=(replace(tags, rotation=replace(tags.rotation, otherwise=otherwise)),))
    decision = decide(APP, "latest", held, row.pin, PASSES, row.seen, row.now)
    served = D if row.digest is None and otherwise is OnOverwrite.SERVE_PINNED else row.digest
    assert (decision.answer, decision.digest) == (DENY if served is None else SERVE, served)
    assert decision.valid_until == (None if served is None else PASSES.valid_until)
    assert decision.judge == ((row.seen.digest or row.pin.candidate) if row.judge else None)
    assert row.says in "; ".join(decision.reasons)
    if served is None:
        assert f"--digest {E}" in decision.reasons[-1] or "pull the pinned" in decision.reasons[-1]
    elif row.seen.upstream not in {Upstream.NAMES, Upstream.FRESH} or row.seen.digest == D or served == E:
        pass
    else:
        assert "the pinned digest is served" in (decision.warning or "")
    write = decision.write
    if row.action is None:
        assert write is None
        return
    assert write is not None
    assert write.new is not None
    assert (write.expected, write.new.version) == (row.pin, row.pin.version + 1)
    assert (write.change.action, write.change.at) == (row.action, row.now)
    assert tuple(event.type for event in write.opened) == row.opened
    assert all(event.subject == NAME and event.at == row.now for event in write.opened)
    assert {each for each in (PENDING, OVERWRITTEN, STALE) if each in write.closed} == set(row.closed)
    if row.standing is not None:
        assert write.new.judgement is not None
        assert write.new.judgement.standing is row.standing
    if row.action is PinAction.ROTATED:
        assert row.seen.candidacy is not None
        fresh = Pin(APP, "latest", E, PinState.PINNED, row.now, 'rule "r.example/**"', write.change.reason, row.now)
        assert write.new == replace(fresh, version=5, signers=row.seen.candidacy.verdict.signers)
        assert (write.change.from_digest, write.change.to_digest) == (D, E)
    elif row.action in {PinAction.REVERTED, PinAction.DELETED}:
        kept = write.new
        assert (kept.candidate, kept.candidate_seen_at, kept.judgement, kept.approvals, kept.stale_at) == (None,) * 3 + ((), None)
    elif row.action is PinAction.OVERWRITTEN:
        kept = write.new
        begins = row.now if row.seen.at is None else max(row.now, row.seen.at)
        assert (kept.candidate, kept.candidate_seen_at, kept.judgement) == (row.seen.digest, begins, None)
    assert row.action is PinAction.ROTATED or write.new.digest == D


# -- stories --------------------------------------------------------------------------------------------------------


def at(hours: float) -> datetime:
    """So long after SEEN."""
    return SEEN + timedelta(hours=hours)


def test_promise_1_a_bad_overwrite_is_told_once_and_moves_nothing() -> None:
    """However often it is seen and judged: one alert, the pin stays."""
    story = Story(verdicts={E: FAILS})
    answers = [story.pull(seen, at(hour)) for hour, seen in enumerate((names(E), FRESH, names(E), FRESH, names(E)))]
    assert answers == [(SERVE, D), *[(DENY, None)] * 4]
    assert story.told == [("tag.overwritten", E)]
    assert story.history == [PinAction.OVERWRITTEN, PinAction.JUDGED]


def test_promise_2_a_signed_overwrite_moves_nothing_before_its_time() -> None:
    """The rule says that it may, and when: until then the pin is served, and it is told once."""
    story = Story(verdicts={E: PASSES})
    for hour in (0, 1, 24, 71.9):
        assert story.pull(names(E), at(hour)) == (SERVE, D)
    assert story.told == [("tag.rotation.pending", E)]
    assert story.pull(names(E), at(72)) == (SERVE, D)
    assert story.pull(FRESH, at(72)) == (SERVE, E)
    assert story.told == [("tag.rotation.pending", E), ("tag.rotated", E)]
    assert story.open == set()
    assert story.history == [PinAction.OVERWRITTEN, PinAction.JUDGED, PinAction.ROTATED]


def test_promise_3_a_reverted_candidate_is_over_and_starts_anew() -> None:
    """A→B→A→B: the first cooldown counts for nothing."""
    story = Story(verdicts={E: PASSES})
    story.pull(names(E), at(0))
    assert story.pull(names(D), at(70)) == (SERVE, D)
    assert story.open == set()
    for hour in (71, 73, 140):
        assert story.pull(names(E), at(hour)) == (SERVE, D)
    assert story.pull(names(E), at(71 + 72)) == (SERVE, D)
    assert story.pull(FRESH, at(71 + 72)) == (SERVE, E)


@pytest.mark.parametrize("between", [names(F), GONE], ids=["another candidate", "no tag"])
def test_a_candidate_that_vanished_and_came_back_starts_anew(between: Observation) -> None:
    """Its cooldown and its approvals are those of this time."""
    story = Story(rule(approvers=1), verdicts={E: PASSES, F: PASSES})
    story.pull(names(E), at(0))
    assert story.pin is not None
    story.pin = replace(story.pin, approvals=approved("ann"))
    story.pull(between, at(70))
    story.pull(names(E), at(71))
    assert story.pin.approvals == ()
    assert story.pull(names(E), at(73)) == (SERVE, D)
    assert story.pull(names(E), at(150)) == (DENY, None)


def test_promise_10_an_older_signed_digest_rotates_like_any_other_and_is_told_as_such() -> None:
    """Nothing is known of its age; that the pin had it before is."""
    story = Story(verdicts={E: PASSES, D: PASSES})
    story.pull(names(E), at(0))
    story.pull(names(E), at(72))
    assert story.pin is not None
    assert story.pin.digest == E
    story.pull(names(D), at(80))
    decision = story._decide(names(D, PASSES, held=True), at(200))
    assert decision.digest == D
    assert "back to a digest that it had before" in story.pin.reason


def test_promise_55_no_clock_moves_a_pin_early() -> None:
    """A year ahead of the upstream's, or a year back: the cooldown is not over; set right, it is over when it was to be."""
    year = timedelta(days=366)
    story = Story(verdicts={E: PASSES})
    story.pull(names(E), at(0))
    ahead = story._decide(names(E, PASSES, at=at(1)), at(1) + year)
    assert ahead.digest == D
    assert story.pull(FRESH, at(2) - year) == (SERVE, D)
    assert story._decide(names(E, PASSES, at=at(72)), at(72)).digest == E


def test_promise_55_a_cooldown_begins_by_the_later_clock() -> None:
    """A candidate that is first seen while our clock is a year behind is not due when it is set right."""
    story = Story(verdicts={E: PASSES})
    story.pull(names(E, at=at(0)), at(0) - timedelta(days=366))
    assert story.pin is not None
    assert story.pin.candidate_seen_at == at(0)
    assert story.pull(names(E), at(1)) == (SERVE, D)
    assert story.pull(names(E), at(72)) == (SERVE, D)
    assert story.pull(FRESH, at(72)) == (SERVE, E)


def test_an_outage_in_a_cooldown_ends_nothing() -> None:
    """While nobody can be asked nothing moves; afterwards the candidate of before is due."""
    story = Story(verdicts={E: PASSES})
    story.pull(names(E), at(0))
    assert [story.pull(DOWN, at(hour)) for hour in (10, 80, 100)] == [(SERVE, D)] * 3
    assert story.pull(names(E), at(101)) == (SERVE, D)
    assert story.pull(FRESH, at(101)) == (SERVE, E)


# -- under rules that do not rotate -----------------------------------------------------------------------------------


@pytest.mark.parametrize("on_overwrite", [OnOverwrite.REFUSE, OnOverwrite.SERVE_PINNED])
@pytest.mark.parametrize(
    ("verdict", "standing"), [(PASSES, Standing.PASSES), (BY_OTHERS, Standing.PASSES), (FAILS, Standing.FAILS)]
)
def test_what_came_out_is_noted_for_those_who_look(on_overwrite: OnOverwrite, verdict: Verdict, standing: Standing) -> None:
    """The candidate of a rule that only people move is judged until it passes; that changes no answer and tells nobody."""
    held = replace(ROTATES, tags=(TagRule(ROTATES.tags[0].pattern, on_overwrite),))
    before = replace(waiting(None), approvals=approved("ann"))
    asked = decide(APP, "latest", held, before, PASSES, names(E), SOON)
    assert asked.judge == E
    judged = decide(APP, "latest", held, before, PASSES, names(E, verdict), SOON)
    assert (judged.answer, judged.digest) == (asked.answer, asked.digest)
    assert judged.write is not None
    assert judged.write.new is not None
    assert judged.write.new.judgement is not None
    assert judged.write.new.judgement.standing is standing
    assert (judged.write.opened, judged.write.closed) == ((), ())
    after = decide(APP, "latest", held, judged.write.new, PASSES, names(E), SOON)
    assert (after.judge, after.write) == (E if standing is Standing.FAILS else None, None)


@pytest.mark.parametrize("on_overwrite", [OnOverwrite.REFUSE, OnOverwrite.SERVE_PINNED])
def test_a_candidate_whose_rule_rotates_no_more_is_told_as_an_overwrite(on_overwrite: OnOverwrite) -> None:
    """It was about to rotate, and waits for people now: told once, and no longer as pending; not where one said no."""
    held = replace(ROTATES, tags=(TagRule(ROTATES.tags[0].pattern, on_overwrite),))
    story = Story(verdicts={E: PASSES})
    story.pull(names(E), at(0))
    assert story.told == [("tag.rotation.pending", E)]
    story.rule = held
    for hour in (1, 2, 3):
        story.pull(names(E), at(hour))
    assert story.told == [("tag.rotation.pending", E), ("tag.overwritten", E)]
    assert story.open == {(EventType.TAG_OVERWRITTEN, E)}
    rejected = decide(APP, "latest", held, waiting(rejected=E), PASSES, names(E, PASSES), SOON)
    assert rejected.write is None or rejected.write.opened == ()


@pytest.mark.parametrize("year", [1970, 2999])
def test_no_moment_that_a_clock_may_show_is_too_much_to_reckon_with(year: int) -> None:
    """The upstream's clock is as far off as it may be: every pull is answered, and once it is right the cooldown begins anew."""
    story = Story(rule=rule(window=Window(frozenset({0}), time(1), time(2), UTC, "UTC")), verdicts={E: PASSES})
    off = datetime(year, 12, 31, 23, 59, 59, tzinfo=UTC)
    assert story.pull(names(E, at=off), at(0)) == (SERVE, D)
    assert story.pull(names(E, at=off), at(100)) == (SERVE, D)
    assert story.pull(names(E, at=at(200)), at(200)) == (SERVE, D)
    assert story.pin is not None
    assert story.pin.candidate_seen_at in {at(0), at(200)}


# -- people -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["ann", "ANN", "  Ann ", "ａｎｎ", "An\u006e", "an\u200bn", "\u2066ann\u2069", "ann\x00"])
def test_a_person_is_one_however_the_name_is_spelled(other: str) -> None:
    """Case, spaces, forms of characters and what cannot be seen make nobody else."""
    assert person(other) == person("ann")
    assert len(approvals_of(approved("ann", other), E)) == 1


def test_two_people_are_two() -> None:
    """The first approval of each counts, in order."""
    assert [each.by for each in approvals_of(approved("Ann Lee", "bob", "ann  lee", "Bob"), E)] == ["Ann Lee", "bob"]


# -- values -----------------------------------------------------------------------------------------------------------


def test_values_that_make_no_sense_cannot_be_built() -> None:
    """A rotation that falls back to itself, a rule that rotates without saying how, an approval by nobody."""
    pattern = ROTATES.tags[0].pattern
    with pytest.raises(ValueError, match="cannot be"):
        Rotation(timedelta(), otherwise=OnOverwrite.ROTATE)
    with pytest.raises(ValueError, match="says how"):
        TagRule(pattern, OnOverwrite.ROTATE)
    with pytest.raises(ValueError, match="says how"):
        TagRule(pattern, OnOverwrite.REFUSE, rotation=Rotation(timedelta()))
    with pytest.raises(ValueError, match="approval"):
        TagRule(pattern, OnOverwrite.REFUSE, approvers=0)
    with pytest.raises(ValueError, match="no candidate"):
        progress(pin(), ROTATES.tags[0], None, SEEN)


# -- properties -------------------------------------------------------------------------------------------------------

_rules = st.builds(
    rule,
    st.sampled_from([0, 1, 2]),
    signer=st.sampled_from(Continuity),
    otherwise=st.sampled_from([OnOverwrite.REFUSE, OnOverwrite.SERVE_PINNED]),
    cooldown=st.sampled_from([timedelta(), timedelta(hours=1), timedelta(hours=72)]),
    window=st.sampled_from([None, NIGHT.tags[0].rotation.window if NIGHT.tags[0].rotation else None]),
)
_people = st.lists(st.sampled_from(["ann", "ANN", " ann", "bob"]), max_size=3)
_judged = st.sampled_from([PASSES, BY_OTHERS, FAILS, UNKNOWN, BLOCKED])
_candidates = st.sampled_from([E, F])
_times = st.sampled_from([SEEN - timedelta(days=300), SEEN, SOON, NOON, AT_NIGHT, LONG])
_seen = st.one_of(
    st.builds(names, st.sampled_from([D, E, F]), at=st.none() | _times),
    st.builds(names, _candidates, _judged, rejected=st.booleans(), held=st.booleans(), at=st.none() | _times),
    st.sampled_from([FRESH, GONE, DOWN]),
)


@st.composite
def _pins(draw: st.DrawFn, held: Rule) -> Pin:
    standing = draw(st.none() | st.sampled_from(Standing))
    candidate = draw(_candidates)
    fields = {
        "candidate": candidate,
        "rejected": draw(st.sampled_from([None, E, F])),
        "stale_at": draw(st.sampled_from([None, SOON])),
        "approvals": approved(*draw(_people), digest=draw(_candidates)),
        "signers": draw(st.sampled_from([US, THEM, (), None])),
    }
    found = waiting(standing, draw(st.sampled_from([held, ROTATES, ANY])), **fields)
    state = draw(st.sampled_from([PinState.OVERWRITTEN, PinState.REVOKED, PinState.PINNED, PinState.DELETED]))
    if state in {PinState.OVERWRITTEN, PinState.REVOKED}:
        return replace(found, state=state)
    return pin(state, rejected=found.rejected, signers=found.signers)


@given(st.data(), _rules, _seen, _times)
def test_only_the_pin_or_an_accepted_rotation_is_ever_served(
    data: st.DataObject, held: Rule, seen: Observation, now: datetime
) -> None:
    """Another digest than the pin's is served exactly where the same decision moves the pin to it, and that takes all of it."""
    before = data.draw(_pins(held))
    decision = decide(APP, "latest", held, before, PASSES, seen, now)
    assert decision == decide(APP, "latest", held, before, PASSES, seen, now)
    after = before if decision.write is None else decision.write.new
    assert after is not None
    if decision.digest is not None:
        assert decision.digest == after.digest
    if after.digest == before.digest:
        return
    (tags,) = held.tags
    assert tags.rotation is not None
    candidacy = seen.candidacy
    assert candidacy is not None
    assert (seen.upstream, seen.digest, candidacy.digest, decision.digest) == (Upstream.NAMES, *[after.digest] * 3)
    assert candidacy.verdict.accepted
    assert not candidacy.rejected
    assert before.candidate == after.digest != before.rejected
    assert before.candidate_seen_at is not None
    assert now >= before.candidate_seen_at + tags.rotation.cooldown
    people = {person(each.by) for each in before.approvals if each.digest == after.digest}
    assert len(people) >= tags.approvers
    assert tags.rotation.window is None or tags.rotation.window.holds(now)
    if tags.rotation.signer is Continuity.SAME and not people:
        assert candidacy.before == candidacy.verdict.signers


@given(st.data(), _rules, st.sampled_from([Upstream.DENIED, Upstream.UNREACHABLE, Upstream.MISBEHAVED]), _times)
def test_an_outage_never_writes(data: st.DataObject, held: Rule, outage: Upstream, now: datetime) -> None:
    """Nor does it have anything judged."""
    decision = decide(APP, "latest", held, data.draw(_pins(held)), PASSES, Observation(outage, message="503"), now)
    assert (decision.answer, decision.digest, decision.write, decision.judge) == (SERVE, D, None, None)


@given(st.data(), _rules, _seen, _times)
def test_a_decision_after_its_own_write_writes_no_more(data: st.DataObject, held: Rule, seen: Observation, now: datetime) -> None:
    """The same observation at the same moment settles in a few steps, each of them told once."""
    current: Pin | None = data.draw(_pins(held))
    steps = 0
    acted: list[PinAction] = []
    while True:
        assert current is not None
        decision = decide(APP, "latest", held, current, PASSES, seen, now)
        if decision.write is None:
            break
        acted.append(decision.write.change.action)
        current, steps = decision.write.new, steps + 1
        assert steps <= 4, acted
    assert len(set(acted)) == len(acted)


@given(_rules, st.lists(st.sampled_from(["ann", "ANN", " ann ", "Ann"]), max_size=5), _judged, _times)
def test_two_approvals_are_never_met_by_one_person(held: Rule, people: list[str], verdict: Verdict, now: datetime) -> None:
    """However often and in whatever spelling."""
    (tags,) = held.tags
    two = replace(held, tags=(replace(tags, approvers=2),))
    before = waiting(held=two, approvals=approved(*people))
    decision = decide(APP, "latest", two, before, PASSES, names(E, verdict), now)
    assert decision.digest in {None, D}
    assert decision.write is None or decision.write.new is None or decision.write.new.digest == D


@given(_rules, _judged, st.sampled_from([PASSES, FAILS, UNKNOWN]), _times)
def test_a_pin_that_does_not_pass_rotates_nowhere(held: Rule, candidate: Verdict, pinned: Verdict, now: datetime) -> None:
    """Whom its successor would continue is not known then."""
    decision = decide(APP, "latest", held, waiting(held=held), pinned, names(E, candidate), now)
    if pinned.outcome is not Outcome.ACCEPTED:
        assert decision.digest is None
        assert decision.write is None or (decision.write.new is not None and decision.write.new.digest == D)


def test_progress_tells_what_holds_and_until_when() -> None:
    """For those who look at a pin: cooldown's end, the window's next opening, approvals so far and needed."""
    (tags,) = rule(approvers=2, window=NIGHT.tags[0].rotation.window if NIGHT.tags[0].rotation else None).tags
    far = progress(waiting(approvals=approved("ann")), tags, Standing.PASSES, SOON)
    assert (far.hold, far.needed, [each.by for each in far.approvals]) == (Hold.COOLDOWN, 2, ["ann"])
    assert (far.cooldown_until, far.due) == (LATER, LATER)
    assert far.opens == LATER.replace(hour=21)


def test_a_judgement_that_answers_another_question_is_none() -> None:
    """Where the rule or its trust changed, what came out before says nothing."""
    old = replace(waiting(), judgement=Judgement(Standing.FAILS, ("why",), PINNED_AT, "another"))
    decision = decide(APP, "latest", ROTATES, old, PASSES, FRESH, SOON)
    assert (decision.answer, decision.judge) == (SERVE, E)
