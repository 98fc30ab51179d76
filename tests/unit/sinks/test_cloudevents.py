"""CloudEvents: the envelope, and what goes over the wire."""

from __future__ import annotations

import base64
import json
import re
from datetime import datetime
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from proxy.policy.alerts import CloudEvents, Http, SecretSource
from proxy.sinks.cloudevents import CONTENT_TYPE, CloudEventsSink, envelope
from proxy.sinks.model import Kind
from storage.records import EventType, Severity
from tests.simulator.sink import Receiver
from tests.unit.sinks.values import DIGEST, message

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
#: Names of attributes: CloudEvents 1.0.2, "Naming Conventions".
_ATTRIBUTE = re.compile(r"[a-z0-9]{1,20}")


@pytest.mark.parametrize("kind", list(EventType))
@pytest.mark.parametrize("resolved", [False, True])
def test_every_event_is_a_cloudevent(kind: EventType, resolved: bool) -> None:
    """Required attributes, names and types as the specification has them, for every type of event."""
    made = envelope(message(kind=kind, resolved=resolved, n=1), "https://tagstone.example")
    assert made["specversion"] == "1.0"
    for name, value in made.items():
        assert _ATTRIBUTE.fullmatch(name)
        assert name == "data" or (isinstance(value, str) and value) or isinstance(value, int)
    assert made["type"] == f"dev.tagstone.{kind.value}" + (".resolved" if resolved else "")
    assert made["time"].endswith("Z")
    assert datetime.fromisoformat(made["time"]).utcoffset() is not None
    assert json.loads(json.dumps(made)) == made


def test_the_data_says_it_all() -> None:
    """State, digest, times, details; an open event that ended meanwhile is told as it began."""
    opened = envelope(message(severity=Severity.CRITICAL, kinds=["user"]), "/tagstone")
    assert opened["data"] == {
        "event": 41,
        "type": "tag.overwritten",
        "state": "open",
        "severity": "critical",
        "subject": "docker.io/library/nginx:1.27",
        "digest": str(DIGEST),
        "message": "it was overwritten",
        "opened_at": "2026-03-14T09:26:53.589Z",
        "closed_at": None,
        "details": {"kinds": ["user"]},
    }
    assert (opened["severitytext"], opened["severitynumber"]) == ("ERROR", 17)
    over = envelope(message(resolved=True), "/tagstone")
    assert (over["data"]["state"], over["data"]["closed_at"]) == ("resolved", "2026-03-14T10:26:53.589Z")
    act = envelope(message(kind=EventType.TAG_CREATED), "/tagstone")
    assert (act["data"]["state"], act["data"]["closed_at"]) == ("happened", act["data"]["opened_at"])


async def test_events_are_signed_with_the_secret_of_the_moment(tmp_path: Path) -> None:
    """The reference library verifies them; the secret is read anew each time; every attempt has its own timestamp."""
    file = tmp_path / "secret"
    new = "whsec_" + base64.b64encode(b"n" * 24).decode()
    async with Receiver() as receiver:
        sink = CloudEventsSink(CloudEvents(Http(receiver.url), SecretSource(file)), "/tagstone", 20, user_agent="t")
        for text in (SECRET, f"{new}\n{SECRET}", new):
            file.write_text(text)
            assert (await sink.send([message()])).taken
        await sink.close()
    for secret, posts in ((SECRET, receiver.posts[:2]), (new, receiver.posts[1:])):
        for post in posts:
            assert Webhook(secret).verify(post.body, dict(post.headers))["id"] == "id-1"
            assert post.headers["Content-Type"] == CONTENT_TYPE
    assert {post.headers["webhook-id"] for post in receiver.posts} == {"id-1"}


async def test_without_a_secret_there_is_an_id_and_no_signature() -> None:
    """Receivers can still tell what they have already."""
    async with Receiver() as receiver:
        sink = CloudEventsSink(CloudEvents(Http(receiver.url)), "/tagstone", 20, user_agent="t")
        assert (await sink.send([message(words="größer")])).taken
        await sink.close()
        (post,) = receiver.posts
    assert post.headers["webhook-id"] == "id-1"
    assert "webhook-signature" not in post.headers
    assert post.json["data"]["message"] == "größer"


@pytest.mark.parametrize("text", [None, "", "password"])
async def test_nothing_is_sent_that_could_not_be_signed(tmp_path: Path, text: str | None) -> None:
    """A secret that is not there, or none, is a failure of the sink, without a word of what stands there."""
    file = tmp_path / "secret"
    if text is not None:
        file.write_text(text)
    async with Receiver() as receiver:
        sink = CloudEventsSink(CloudEvents(Http(receiver.url), SecretSource(file)), "/tagstone", 20, user_agent="t")
        answer = await sink.send([message()])
        await sink.close()
    assert answer.kind is Kind.FAILED
    assert str(file) in answer.words
    assert "password" not in answer.words
    assert receiver.posts == []
