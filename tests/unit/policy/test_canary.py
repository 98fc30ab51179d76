"""The reserved name: which repositories bear it, and that no rule stands before its own."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from proxy.policy import canary
from proxy.policy.decision import Answer, Observation, Upstream, decide, decide_digest
from proxy.policy.patterns import Pattern
from proxy.policy.rules import CANARY_RULE, FirstUse, Rule, fingerprint, match
from proxy.policy.verdicts import evaluate
from storage.digest import Digest
from storage.reference import Reference, Repository

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "reserved"),
    [
        ("docker.io/tagstone-canary/refused", True),
        ("docker.io/tagstone-canary", True),
        ("ghcr.io/acme/tagstone-canary", True),
        ("ghcr.io/a/tagstone-canary/b/c", True),
        ("ghcr.io/acme/tagstone-canary-2", False),
        ("ghcr.io/acme/my-tagstone-canary", False),
        ("tagstone-canary.example/app", False),
    ],
)
def test_a_name_is_reserved_by_one_of_its_components(name: str, reserved: bool) -> None:
    """Of the repository: a registry may be called as it likes."""
    repository = Reference.parse(name).repository
    assert canary.reserved(repository) is reserved
    rule = Rule(Pattern.compile(str(repository)), FirstUse(), (), fingerprint(FirstUse(), {}))
    assert match([rule], repository) is (CANARY_RULE if reserved else rule)


def test_its_decision_is_a_refusal_that_carries_the_token() -> None:
    """By tag with the token, by digest without; a tag that begins with ``absent-`` is not there."""
    repository = Repository("docker.io", canary.REPOSITORY)
    seen = Observation(Upstream.FRESH)
    decision = decide(repository, "t", CANARY_RULE, None, None, seen, NOW)
    assert decision.answer is Answer.DENY
    assert decision.write is None
    assert canary.token("t") in decision.reasons[0]
    assert decide(repository, f"{canary.ABSENT}t", CANARY_RULE, None, None, seen, NOW).answer is Answer.ABSENT
    digest = Digest.of(b"x")
    assert decide_digest(repository, digest, CANARY_RULE, evaluate(CANARY_RULE.require, ())).answer is Answer.DENY


def test_tokens_differ_and_do_not_tell_their_tag() -> None:
    """So that an upstream that repeats the tag does not look like the proxy."""
    assert canary.token("a") != canary.token("b")
    assert len(canary.token("a")) == 24
    assert "0123456789" not in canary.refusal("0123456789")
