"""A change as JSON, for the database, the command line and events, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.policy.changes.model import MEANINGS, Change, Difference, Kind, LayerLine, PlatformChange, Side
from storage.digest import Digest
from storage.errors import MalformedName
from storage.records import Severity

#: Of the documents below. One of another version is not read, and the images are compared again.
VERSION = 1
#: Lines that an event carries.
_TOLD = 8


def document_of(change: Change) -> dict[str, Any]:
    """All of a change."""
    return {
        "version": VERSION,
        "before": str(change.before),
        "after": str(change.after),
        "severity": change.severity,
        "summary": change.summary,
        "kinds": list(change.kinds),
        "lines": list(change.lines),
        "differences": [_difference(each) for each in change.differences],
        "platforms": [_platform(each) for each in change.platforms],
        "same": list(change.same),
        "unknown": list(change.unknown),
    }


def details_of(change: Change) -> dict[str, Any]:
    """What an event tells of a change."""
    return {
        "change": change.summary,
        "kinds": list(change.kinds),
        "lines": [line[:500] for line in change.lines[:_TOLD]],
    }


def change_of(document: Mapping[str, Any]) -> Change:
    """A change as it was. Raises :class:`ValueError` for what :func:`document_of` did not make."""
    if document.get("version") != VERSION:
        raise ValueError("it is of another version")
    try:
        severity = document["severity"]
        return Change(
            Digest.parse(document["before"]),
            Digest.parse(document["after"]),
            tuple(map(Kind, document["kinds"])),
            None if severity is None else Severity(severity),
            tuple(document["lines"]),
            tuple(Difference(**each) for each in document["differences"]),
            tuple(map(_platform_of, document["platforms"])),
            tuple(document["same"]),
            tuple(document["unknown"]),
        )
    except (KeyError, TypeError, MalformedName) as error:
        raise ValueError(f"it is no change: {error}") from error


def change_or_none(document: Mapping[str, Any]) -> Change | None:
    """A change as it was; None where another version wrote it, so that it is compared again."""
    try:
        return change_of(document)
    except ValueError:
        return None


def _difference(each: Difference) -> dict[str, Any]:
    return {"name": each.name, "before": each.before, "after": each.after}


def _platform(each: PlatformChange) -> dict[str, Any]:
    return {
        "platform": each.platform,
        "before": None if each.before is None else str(each.before),
        "after": None if each.after is None else str(each.after),
        "kinds": list(each.kinds),
        "differences": [_difference(one) for one in each.differences],
        "layers": [
            {"side": line.side, "digest": str(line.digest), "size": line.size, "command": line.command} for line in each.layers
        ],
    }


def _platform_of(node: Mapping[str, Any]) -> PlatformChange:
    before, after = (None if node[side] is None else Digest.parse(node[side]) for side in ("before", "after"))
    lines = tuple(
        LayerLine(Side(line["side"]), Digest.parse(line["digest"]), line["size"], line["command"]) for line in node["layers"]
    )
    differences = tuple(Difference(**each) for each in node["differences"])
    return PlatformChange(node["platform"], before, after, tuple(map(Kind, node["kinds"])), differences, lines)


def table() -> str:
    """All kinds with their severities, as Markdown: docs/overwrites.md has this."""
    rows = [f"| `{kind}` | {meaning.words} | {meaning.same_signer} | {meaning.otherwise} |" for kind, meaning in MEANINGS.items()]
    return "\n".join(["| kind | what it says | same signer | otherwise |", "| --- | --- | --- | --- |", *rows])
