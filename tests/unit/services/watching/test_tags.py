"""New tags: which of them are told, how loudly, and in how many events."""

from __future__ import annotations

import pytest

from proxy.policy.patterns import Pattern
from proxy.policy.rules import FirstUse, OnOverwrite, Rule, TagRule
from proxy.services.watching.tags import MOST_EVENTS, NAMED, events_of
from storage.records import EventType, Severity
from storage.watching import NewTags
from tests.unit.storage.values import APP, AT

KEPT = TagRule(Pattern.compile("v*"), OnOverwrite.REFUSE)
LOOSE = TagRule(Pattern.compile("v0.*"), OnOverwrite.SERVE_PINNED)
RULE = Rule(Pattern.compile("**"), FirstUse(), (KEPT, LOOSE), "f")


@pytest.mark.parametrize(
    ("tag", "overwritten", "severity", "why"),
    [
        ("edge", None, Severity.INFO, ""),
        ("v1", None, Severity.WARNING, "tags that match v* are not to change"),
        ("v0.1", None, Severity.INFO, ""),
        ("edge", "v1", Severity.WARNING, "the tag v1 of the same repository was overwritten lately"),
        ("v2", "v1", Severity.WARNING, "the tag v1 of the same repository was overwritten lately"),
    ],
)
def test_what_makes_a_new_tag_suspect(tag: str, overwritten: str | None, severity: Severity, why: str) -> None:
    """A pattern of the policy's own that refuses changes, the most specific one; or an overwrite beside it."""
    (event,) = events_of(APP, RULE, NewTags((tag,), overwritten), AT)
    assert (event.type, event.subject, event.severity) == (EventType.TAG_CREATED, f"{APP}:{tag}", severity)
    assert event.message == f"{APP}:{tag} is new upstream" + (f"; {why}" if why else "")
    assert event.details == {"tags": [tag]}
    assert event.closed_at == AT


def test_many_new_tags_are_one_event() -> None:
    """With their number, and so many names: those that matter first, for many may be made to hide one."""
    few = tuple(f"x{number:02}" for number in range(MOST_EVENTS))
    assert len(events_of(APP, RULE, NewTags(few, None), AT)) == MOST_EVENTS
    many = (*(f"a{number:04}" for number in range(1000)), "v9")
    (event,) = events_of(APP, RULE, NewTags(many, None), AT)
    assert (event.subject, event.severity) == (str(APP), Severity.WARNING)
    assert event.details["count"] == 1001
    assert event.details["suspect"] == 1
    assert event.details["tags"] == ["v9", *many[: NAMED - 1]]
    assert event.message.startswith(f"1001 tags are new in {APP}: v9, a0000, ")
    assert len(event.message) < 300
    (event,) = events_of(APP, RULE, NewTags(many[:-1], None), AT)
    assert event.severity is Severity.INFO
