"""What Alertmanager is told."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from proxy.policy.alerts import Alertmanager, Http
from proxy.sinks.alertmanager import AlertmanagerSink, labels
from storage.records import EventType, Severity
from tests.simulator.sink import Receiver
from tests.unit.sinks.values import AT, DIGEST, message

NOW = AT + timedelta(hours=2)
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def sink(url: str = "http://alertmanager:9093", source: str = "https://tagstone.example") -> AlertmanagerSink:
    """A sink whose clock stands still."""
    target = Alertmanager(Http(url), {"team": "platform", "severity": "none"}, resend=60, hold=900)
    return AlertmanagerSink(target, source, 20, user_agent="t", clock=NOW.timestamp)


def moment(text: str) -> datetime:
    """A time of an alert."""
    return datetime.fromisoformat(text)


@pytest.mark.parametrize("kind", list(EventType))
def test_labels_are_valid_and_tell_events_apart(kind: EventType) -> None:
    """Every type has a name in the style of alerts, no label is empty, and ours are not replaced by configured ones."""
    found = labels(message(kind=kind).event, {"team": "platform", "severity": "none"})
    assert all(_LABEL.fullmatch(name) and value for name, value in found.items())
    assert re.fullmatch(r"Tagstone([A-Z][a-z]+)+", found["alertname"])
    assert (found["type"], found["digest"], found["team"]) == (kind.value, str(DIGEST), "platform")
    assert found["severity"] in {"info", "warning", "critical"}


def test_labels_about_images_name_repository_and_tag() -> None:
    """For routes and silences; a port is no tag."""
    found = labels(message().event, {})
    assert (found["repository"], found["tag"]) == ("docker.io/library/nginx", "1.27")
    found = labels(message(kind=EventType.BLOB_TAMPERED, subject="r.example:5000/app").event, {})
    assert (found["repository"], "tag" in found) == ("r.example:5000/app", False)
    assert "repository" not in labels(message(kind=EventType.SINK_FAILING, subject="sink:x").event, {})


def test_an_open_alert_ends_by_itself_if_nobody_sends_it_any_more() -> None:
    """Four intervals ahead of now, from when it began."""
    alert = sink().alert(message().event, resolved=False)
    assert moment(alert["startsAt"]) == AT.replace(microsecond=589000)
    assert moment(alert["endsAt"]) == (NOW + timedelta(seconds=240)).replace(microsecond=589000)
    assert alert["generatorURL"] == "https://tagstone.example"
    assert "generatorURL" not in sink(source="/tagstone").alert(message().event, resolved=False)


def test_what_is_over_has_the_end_that_it_had() -> None:
    """In the past, so that it is resolved; a clock that was set back makes no end before the beginning."""
    over = message(resolved=True).event
    assert moment(sink().alert(over, resolved=True)["endsAt"]) == (AT + timedelta(hours=1)).replace(microsecond=589000)
    backwards = sink().alert(replace(over, closed_at=AT - timedelta(days=365)), resolved=True)
    assert backwards["endsAt"] == backwards["startsAt"]


def test_an_act_counts_as_open_for_a_while() -> None:
    """It has no end that could be waited for: from when it is sent, however late."""
    alert = sink().alert(message(kind=EventType.TAG_CREATED).event, resolved=False)
    assert moment(alert["endsAt"]) == (NOW + timedelta(seconds=900)).replace(microsecond=589000)


def test_annotations_say_what_happened() -> None:
    """The message as summary, the details below each other."""
    alert = sink().alert(message(lines=["user changed"], count=2, pinned="sha256:aa").event, resolved=False)
    assert alert["annotations"] == {
        "summary": "it was overwritten",
        "description": "lines:\n  - user changed\ncount: 2\npinned: sha256:aa",
    }
    assert sink().alert(message().event, resolved=False)["annotations"] == {"summary": "it was overwritten"}


async def test_alerts_are_posted_together() -> None:
    """Messages and reminders, as one list each, to the API's path below the address."""
    async with Receiver() as receiver:
        asked = sink(receiver.url.removesuffix("hook") + "prefix/")
        assert (await asked.send([message(1), message(2, resolved=True, severity=Severity.CRITICAL)])).taken
        assert (await asked.remind([message(3).event])).taken
        await asked.close()
    assert [post.path for post in receiver.posts] == ["/prefix/api/v2/alerts"] * 2
    assert [len(post.json) for post in receiver.posts] == [2, 1]
    assert receiver.posts[0].json[1]["labels"]["severity"] == "critical"
    assert receiver.posts[0].headers["Content-Type"] == "application/json"
