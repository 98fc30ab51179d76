"""Reading what strangers wrote: strict JSON of known shape, canonical base64, and their words made safe to repeat.

Everything raises :class:`proxy.errors.EvidenceMalformed` with a text that continues "this signature …".
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from proxy.errors import EvidenceMalformed, ManifestRefused
from proxy.manifest import strict_json, values_in

#: How much of a stranger's text is repeated in a reason.
_SHOWN = 160
#: Most values in a document that nobody has signed. The largest true ones, bundles with every log entry that they may have, stay
#: far below: what is long in them is base64.
_MOST_UNSIGNED = 50_000


def shown(text: str, most: int = _SHOWN) -> str:
    """``text`` for use in a reason: cut, and ASCII without control characters, since reasons end up in HTTP headers."""
    return ascii(text[:most])[1:-1] + ("..." if len(text) > most else "")


def utc(moment: datetime) -> str:
    """A moment for people: ``2026-05-01 12:00:00 UTC``."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def read_object(body: bytes, depth: int, what: str, most: int | None = _MOST_UNSIGNED) -> Mapping[str, object]:
    """Read a JSON object that means one thing only. The caller has bounded ``len(body)``.

    ``most`` bounds the number of its values: a megabyte of empty lists costs tens of megabytes and holds up every thread. None
    is for what somebody who is trusted has signed.
    """
    if most is not None and values_in(body) > most:
        raise EvidenceMalformed(f"has {what} of more than {most} values")
    try:
        value = strict_json(body, depth, None)
    except ManifestRefused as error:
        raise EvidenceMalformed(f"has {what} that cannot be read: {shown(str(error))}") from error
    if not isinstance(value, dict):
        raise EvidenceMalformed(f"has {what} that is not a JSON object")
    return value


def member(node: Mapping[str, object], key: str, what: str) -> Mapping[str, object]:
    """The object under ``key``."""
    value = node.get(key)
    if not isinstance(value, dict):
        raise EvidenceMalformed(f"has no object {key!r} in {what}")
    return value


def text(node: Mapping[str, object], key: str, what: str) -> str:
    """The text under ``key``."""
    value = node.get(key)
    if not isinstance(value, str):
        raise EvidenceMalformed(f"has no text {key!r} in {what}")
    return value


def items(node: Mapping[str, object], key: str, what: str, most: int) -> Sequence[object]:
    """The list under ``key``: at most ``most`` entries, none when the key is absent or null."""
    value = node.get(key)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise EvidenceMalformed(f"has no list {key!r} in {what}")
    if len(value) > most:
        raise EvidenceMalformed(f"has {len(value)} entries in {key!r} of {what}; the limit is {most}")
    return value


def unbase64(encoded: str, what: str) -> bytes:
    """Decode standard base64 (RFC 4648, section 4), in its one canonical form."""
    try:
        decoded = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise EvidenceMalformed(f"is broken: {what} is not base64") from error
    # Spare bits and stray padding would let one document be written in several ways.
    if base64.b64encode(decoded).decode() != encoded:
        raise EvidenceMalformed(f"is broken: {what} is not base64 in its canonical form")
    return decoded
