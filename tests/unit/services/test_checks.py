"""What a check is called, by the pin before and after and what the upstream said."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from proxy.policy.decision import Observation, Upstream, decide
from proxy.policy.patterns import Pattern
from proxy.policy.rules import FirstUse, Rule
from proxy.policy.verdicts import Outcome, Verdict
from proxy.services.checks import Result, result_of
from storage.digest import Digest
from storage.records import Pin, PinState
from tests.unit.storage.values import APP, AT, LATER, digest

RULE = Rule(Pattern.compile("**"), FirstUse(), (), "f")
PIN = Pin(APP, "v1", digest("one"), PinState.PINNED, AT, "rule", "first use", AT, version=1)
OVERWRITTEN = replace(PIN, state=PinState.OVERWRITTEN, candidate=digest("two"), candidate_seen_at=AT)
GONE = replace(PIN, state=PinState.DELETED)
REVOKED = replace(PIN, state=PinState.REVOKED)
PASSES, FAILS, UNKNOWN = (Verdict(outcome, ("because",)) for outcome in (Outcome.ACCEPTED, Outcome.REFUSED, Outcome.UNKNOWN))


def names(what: str) -> Observation:
    """The upstream names what stands for ``what``."""
    return Observation(Upstream.NAMES, digest(what))


@pytest.mark.parametrize(
    ("pin", "verdict", "seen", "result"),
    [
        (PIN, PASSES, names("one"), Result.UNCHANGED),
        (PIN, PASSES, names("two"), Result.OVERWRITTEN),
        (PIN, PASSES, Observation(Upstream.ABSENT), Result.DELETED),
        (PIN, PASSES, Observation(Upstream.UNREACHABLE), Result.UNREACHABLE),
        (PIN, PASSES, Observation(Upstream.DENIED), Result.DENIED),
        (PIN, PASSES, Observation(Upstream.MISBEHAVED), Result.MISBEHAVED),
        (PIN, FAILS, Observation(Upstream.FRESH), Result.REVOKED),
        (PIN, UNKNOWN, Observation(Upstream.FRESH), Result.UNREACHABLE),
        (OVERWRITTEN, PASSES, names("two"), Result.OVERWRITTEN),
        (OVERWRITTEN, PASSES, names("three"), Result.OVERWRITTEN),
        (OVERWRITTEN, PASSES, names("one"), Result.REVERTED),
        (GONE, PASSES, names("one"), Result.REVERTED),
        (GONE, PASSES, Observation(Upstream.ABSENT), Result.DELETED),
        (REVOKED, PASSES, names("one"), Result.UNCHANGED),
        (REVOKED, FAILS, Observation(Upstream.FRESH), Result.REVOKED),
        (REVOKED, UNKNOWN, Observation(Upstream.FRESH), Result.UNREACHABLE),
    ],
)
def test_what_became_of_a_pin(pin: Pin, verdict: Verdict, seen: Observation, result: Result) -> None:
    """Named by the decision itself, with its write applied."""
    decision = decide(APP, "v1", RULE, pin, verdict, seen, LATER + timedelta(minutes=1))
    after = pin if decision.write is None else decision.write.new
    assert result_of(pin, seen, decision, after) is result


def test_a_pin_that_moves_has_rotated_and_one_that_goes_is_none() -> None:
    """By what is written, whoever's rule it was."""
    decision = decide(APP, "v1", RULE, PIN, PASSES, names("one"), LATER)
    moved = replace(PIN, digest=Digest.of(b"two"))
    assert result_of(PIN, Observation(Upstream.NAMES, moved.digest), decision, moved) is Result.ROTATED
    assert result_of(PIN, names("one"), decision, None) is Result.UNPINNED
    assert result_of(None, names("one"), decision, PIN) is Result.UNPINNED
