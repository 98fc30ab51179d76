"""Events as people read them: a title and a text for one, a page with a table for many.

What stands in events comes from upstreams, too: it is shown as text, never as markup.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from html import escape

from proxy.sinks.cloudevents import moment, state
from storage.records import Event, Message, Severity

#: Rows of a digest's table; what is beyond is counted.
ROWS = 200
_ORDER = (Severity.CRITICAL, Severity.WARNING, Severity.INFO)


def title(message: Message) -> str:
    """One line: how grave, what, about what."""
    event = message.event
    if message.resolved:
        return f"[resolved] {event.type.value}: {event.subject}"
    return f"[{(event.severity or Severity.WARNING).value}] {event.type.value}: {event.subject}"


def text(message: Message) -> str:
    """A few lines: what happened, the digest, when, and what else is known."""
    event = message.event
    lines = [event.message, ""]
    if event.digest is not None:
        lines.append(f"digest: {event.digest}")
    lines.append(f"since: {_seconds(moment(event.at))}")
    if message.resolved and event.closed_at is not None:
        lines.append(f"until: {_seconds(moment(event.closed_at))}")
    lines += details(event)
    lines.append(f"id: {message.id}")
    return "\n".join(lines)


def details(event: Event) -> list[str]:
    """What else is known of an event, a line for each; lists of texts have a line for each text. What is empty is left out."""
    lines: list[str] = []
    for name, value in event.details.items():
        if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
            lines += [f"{name}:", *(f"  - {each}" for each in value)]
        elif value not in (None, "", [], {}):
            lines.append(f"{name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")
    return lines


def digest_title(messages: Sequence[Message]) -> str:
    """One line for many events: how many of which severity."""
    counts = Counter(message.event.severity or Severity.WARNING for message in messages)
    told = ", ".join(f"{counts[severity]} {severity.value}" for severity in _ORDER if counts[severity])
    return f"Tagstone: {len(messages)} event{'' if len(messages) == 1 else 's'} ({told})"


def digest_page(messages: Sequence[Message]) -> str:
    """A page in HTML with a table, gravest first, then in their order."""
    ordered = sorted(messages, key=lambda each: (_ORDER.index(each.event.severity or Severity.WARNING), each.sequence))
    first, last = messages[0].at, messages[-1].at
    rows = ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in _cells(message)) + "</tr>" for message in ordered[:ROWS]]
    more = len(ordered) - len(rows)
    return "\n".join(
        [
            f"<p>From {_seconds(moment(first))} to {_seconds(moment(last))}:</p>",
            "<table>",
            "<tr><th>when</th><th>severity</th><th>event</th><th>about</th><th>what</th></tr>",
            *rows,
            "</table>",
            *([f"<p>{more} more; <code>tagstone alerts list</code> shows all.</p>"] if more else []),
        ]
    )


def _cells(message: Message) -> tuple[str, ...]:
    event = message.event
    how = state(event, resolved=message.resolved)
    what = f"{event.type.value}{' (resolved)' if how == 'resolved' else ''}"
    severity = (event.severity or Severity.WARNING).value
    change = event.details.get("change")  # of an overwrite: what came of comparing
    told = f"{event.message}; {change}" if isinstance(change, str) else event.message
    return (_seconds(moment(message.at)), severity, what, event.subject, told)


def _seconds(at: str) -> str:
    return at[:19].replace("T", " ") + " UTC"
