"""What people read."""

from __future__ import annotations

import re

from proxy.sinks import words
from storage.records import EventType, Severity
from tests.unit.sinks.values import DIGEST, message


def test_one_event_is_a_title_and_a_few_lines() -> None:
    """How grave, what, about what; the digest, since when, details, and the id that programs know it by."""
    one = message(pinned="sha256:aa", kinds=["user"])
    assert words.title(one) == "[warning] tag.overwritten: docker.io/library/nginx:1.27"
    assert words.text(one).splitlines() == [
        "it was overwritten",
        "",
        f"digest: {DIGEST}",
        "since: 2026-03-14 09:26:53 UTC",
        "pinned: sha256:aa",
        "kinds:",
        "  - user",
        "id: id-1",
    ]


def test_details_are_lines_and_what_is_empty_is_left_out() -> None:
    """Texts as they are, lists of texts below each other, everything else as JSON."""
    event = message(a="text", b=["one", "two"], c={"n": 1}, d=3, e=None, f=[], g="", h=[1, "x"], i=False).event
    assert words.details(event) == ["a: text", "b:", "  - one", "  - two", 'c: {"n": 1}', "d: 3", 'h: [1, "x"]', "i: false"]


def test_a_digest_says_what_changed() -> None:
    """Of an overwrite that was compared."""
    assert "it was overwritten; the user changed</td>" in words.digest_page([message(change="the user changed")])


def test_what_is_over_says_until_when() -> None:
    """The title says so first."""
    over = message(resolved=True)
    assert words.title(over) == "[resolved] tag.overwritten: docker.io/library/nginx:1.27"
    assert "until: 2026-03-14 10:26:53 UTC" in words.text(over)


def test_a_digest_is_a_table_with_the_gravest_first() -> None:
    """The title counts; rows are in the order of severity, then of time; what is over says so."""
    many = [
        message(1, EventType.TAG_CREATED),
        message(2),
        message(3, EventType.PIN_REVOKED),
        message(4, resolved=True),
    ]
    assert words.digest_title(many) == "Tagstone: 4 events (1 critical, 2 warning, 1 info)"
    assert words.digest_title(many[:1]) == "Tagstone: 1 event (1 info)"
    rows = re.findall(r"<td>([a-z.]+(?: \(resolved\))?)</td>", words.digest_page(many))
    assert [row for row in rows if "." in row] == ["pin.revoked", "tag.overwritten", "tag.overwritten (resolved)", "tag.created"]


def test_what_upstreams_say_is_text() -> None:
    """Markup in a message stays what it is."""
    page = words.digest_page([message(words="<script>alert(1)</script>")])
    assert "&lt;script&gt;" in page
    assert "<script>" not in page


def test_a_table_has_an_end() -> None:
    """What is beyond is counted."""
    page = words.digest_page([message(number, severity=Severity.INFO) for number in range(words.ROWS + 3)])
    assert page.count("<tr>") == words.ROWS + 1
    assert "<p>3 more; " in page
