"""Questions by place, and one verdict of those on every platform."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.platforms import each_platform, of_index, of_platforms
from proxy.policy.rules import AttestationBy, On, Question, SignatureBy, fingerprint
from proxy.policy.verdicts import Outcome, Verdict

NOW = datetime(2026, 6, 1, tzinfo=UTC)
ACCEPTED, REFUSED, UNKNOWN = Outcome.ACCEPTED, Outcome.REFUSED, Outcome.UNKNOWN
SIGNATURE = SignatureBy("release")
BY_PLACE = {on: AttestationBy("https://t.test/v1", "release", on=on) for on in On}
ALL: tuple[Question, ...] = (SIGNATURE, *BY_PLACE.values())


def test_each_question_is_asked_where_it_belongs() -> None:
    """Signatures and ``index`` of the index, ``platform`` of the platforms, ``either`` of both."""
    assert of_index(ALL) == (SIGNATURE, BY_PLACE[On.INDEX], BY_PLACE[On.EITHER])
    assert of_platforms(ALL) == (BY_PLACE[On.PLATFORM], BY_PLACE[On.EITHER])


def test_places_are_different_questions() -> None:
    """A verdict for one place answers no other, neither in memory nor in the catalog; the default is ``index``."""
    assert len({fingerprint(question, {}) for question in BY_PLACE.values()}) == len(On)
    assert len({str(question) for question in BY_PLACE.values()}) == len(On)
    assert AttestationBy("https://t.test/v1", "release") == BY_PLACE[On.INDEX]


@given(st.lists(st.sampled_from(list(Outcome)), min_size=1, max_size=6))
def test_all_platforms_or_none(outcomes: list[Outcome]) -> None:
    """Accepted only where every platform is; refused where one is, whatever the others; unknown otherwise."""
    verdict = each_platform([(f"p{number}", Verdict(outcome, ("r",))) for number, outcome in enumerate(outcomes)])
    if set(outcomes) == {ACCEPTED}:
        assert verdict.outcome is ACCEPTED
    else:
        assert verdict.outcome is (REFUSED if REFUSED in outcomes else UNKNOWN)
    assert verdict.checks[0].found == f"{outcomes.count(ACCEPTED)} of {len(outcomes)} met"


def test_no_platforms_are_no_acceptance() -> None:
    """A verdict over nothing is a mistake of the caller."""
    with pytest.raises(ValueError, match="no platforms"):
        each_platform([])


def test_the_first_end_ends_all() -> None:
    """The verdict lasts as long as the one that ends first, and asks to wait as long as the slowest wants."""
    ends = [NOW + timedelta(days=3), None, NOW + timedelta(days=1)]
    verdict = each_platform([(str(n), Verdict(ACCEPTED, (), valid_until=end)) for n, end in enumerate(ends)])
    assert verdict.valid_until == NOW + timedelta(days=1)
    waits = each_platform([(str(n), Verdict(UNKNOWN, (), retry_after=wait)) for n, wait in enumerate((2.0, None, 7.0))])
    assert (waits.retry_after, waits.valid_until) == (7.0, None)


def test_reasons_name_the_platforms_they_hold_for() -> None:
    """One that holds for all stands by itself; others with their platforms; many are counted."""
    same = each_platform([("a", Verdict(REFUSED, ("none",))), ("b", Verdict(REFUSED, ("none",)))])
    assert same.reasons == ("none",)
    mixed = each_platform(
        [("a", Verdict(REFUSED, ("none",))), ("b", Verdict(ACCEPTED, ("fine",))), ("c", Verdict(REFUSED, ("none",)))]
    )
    assert mixed.reasons == ("platform a and 1 more: none",)
    many = each_platform([(f"p{number}", Verdict(REFUSED, (f"reason {number}",))) for number in range(20)])
    assert len(many.reasons) == 9
    assert many.reasons[-1] == "and 12 more like these"
