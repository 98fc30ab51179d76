"""Entries of the ledger: what is recorded of one act, and its one spelling, canonical JSON (RFC 8785).

An entry is written once and hashed as it stands, so its form is narrow: an object of strings, integers and objects of these, its
keys in ASCII. What people wrote (names, reasons) is cut at a bound, so that every entry fits the 65,535 bytes that there are for
one in C2SP tlog-tiles.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from typing import Any, NoReturn

import rfc8785

from storage.digest import Digest
from storage.records import Block, Pin, PinAction, PinWrite

#: Bytes of the longest entry: its length is two bytes where it is served.
MAX_ENTRY = 0xFFFF
#: Characters kept of a reason, and of a name. Escaped at their worst they still fit.
MAX_REASON = 3000
MAX_NAME = 1000
#: Integers that every reader of JSON understands alike (RFC 8785 §3.2.2.3).
_MAX_INTEGER = 2**53 - 1
_CUT = "…"
_ENCODE = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode

#: What of a pin an entry about it says, so that the table of pins can be held against the ledger; in the order of JSON's keys.
PIN_FACTS = (
    "approvals",
    "candidate",
    "candidate_seen_at",
    "digest",
    "judgement",
    "pinned_at",
    "pinned_by",
    "rejected",
    "signers",
    "stale_at",
    "state",
    "version",
)
#: Bytes of the longest fact that is spelled out; of what is longer, there is the hash.
_MAX_FACT = 4000


class MalformedEntry(ValueError):
    """Bytes that are no entry in its canonical form."""


class EntryKind(StrEnum):
    """What an entry is about. Changes of pins are ``pin.`` and their :class:`storage.records.PinAction`: see :func:`pin_kind`."""

    BEGUN = "ledger.begun"  #: the database is older than its ledger: what it held then follows
    KNOWN_PIN = "known.pin"  #: a pin that was there when the ledger was begun
    KNOWN_BLOCK = "known.block"  #: a block that was there when the ledger was begun
    KEY = "ledger.key"  #: checkpoints are signed by another key (``to``) from here on
    POLICY = "policy"  #: a server decides by other rules or other trust (``to``) than before
    REFUSAL = "refusal"  #: a pull was refused, for the first time for this digest
    BLOCK = "block"
    UNBLOCK = "unblock"
    IMPORT = "import"  #: reserved: images and pins that were carried here


def pin_kind(action: PinAction) -> str:
    """The kind of an entry about a change of a pin."""
    return f"pin.{action.value}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One act. ``from_`` and ``to`` are digests, or what stands in their place: a policy's hash, a verifier key."""

    kind: str
    subject: str  #: ``registry/repository:tag``, ``registry/repository@digest``, a digest, or what else it is about
    at: datetime
    by: str
    reason: str
    from_: str | None = None
    to: str | None = None
    #: The facts beyond these, by name: ``pin`` as it is afterwards (of a pin that goes: as it was), and such.
    facts: Mapping[str, Any] = field(default_factory=dict, hash=False)


def of_pin(write: PinWrite, new: Pin | None) -> Entry:
    """The entry about a change of a pin; ``new``: the pin as it is stored now, None when it is removed."""
    change = write.change
    after = new or write.expected
    return Entry(
        pin_kind(change.action),
        f"{change.repository}:{change.tag}",
        change.at,
        change.by,
        change.reason,
        _text(change.from_digest),
        _text(change.to_digest),
        {} if after is None else {"pin": pin_facts(after)},
    )


def of_block(block: Block) -> Entry:
    """The entry about a block."""
    return Entry(EntryKind.BLOCK, str(block.digest), block.at, block.by, block.reason)


def of_unblock(digest: Digest, *, by: str, reason: str, at: datetime) -> Entry:
    """The entry about the end of a block."""
    return Entry(EntryKind.UNBLOCK, str(digest), at, by, reason)


def pin_facts(pin: Pin) -> dict[str, Any]:
    """What an entry says of a pin: those of :data:`PIN_FACTS` that there are."""
    return facts_of(getattr(pin, name) for name in PIN_FACTS)


def facts_of(values: Iterable[object]) -> dict[str, Any]:
    """The same from the values of :data:`PIN_FACTS` in their order; one may be spelled already, as the database keeps it."""
    return {name: fact for name, value in zip(PIN_FACTS, values, strict=True) if (fact := _fact(value)) not in (None, [])}


def _fact(value: object) -> Any:
    """A value as an entry has it: spelled, or, where it is made of others and long, the hash of that."""
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, str):
        return shortened(value, MAX_NAME)
    parts = _parts(value)
    if isinstance(parts, str):
        return parts
    spelled = _ENCODE(parts).encode()
    return parts if len(spelled) <= _MAX_FACT else f"sha256:{sha256(spelled).hexdigest()}"


def _parts(value: Any) -> Any:
    """Integers as they are, texts and times spelled, what is made of these likewise."""
    match value:
        case None | int():
            return value
        case str() | Digest():
            return shortened(str(value), MAX_NAME)
        case datetime():
            return moment(value)
        case tuple():
            return [_parts(each) for each in value]
        case _:
            return {name: _parts(getattr(value, name)) for name in sorted(each.name for each in fields(value))}


def moment(time: datetime) -> str:
    """A time as entries spell it: RFC 3339, UTC, six decimals."""
    time = time if time.tzinfo is UTC else time.astimezone(UTC)
    return time.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def shortened(text: str, most: int) -> str:
    """A text of ``most`` characters at most that is sure to have bytes: what was cut off is stood for by ``…``."""
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= most else text[: most - 1] + _CUT


def canonical(index: int, entry: Entry) -> bytes:
    """The bytes of an entry at its place in the ledger. Raises ValueError where it is longer than :data:`MAX_ENTRY`."""
    spelled: dict[str, Any] = {
        "index": index,
        "time": moment(entry.at),
        "kind": str(entry.kind),
        "subject": shortened(entry.subject, MAX_NAME),
        "by": shortened(entry.by, MAX_NAME),
        "reason": shortened(entry.reason, MAX_REASON),
        **entry.facts,
    }
    if entry.from_ is not None:
        spelled["from"] = shortened(entry.from_, MAX_NAME)
    if entry.to is not None:
        spelled["to"] = shortened(entry.to, MAX_NAME)
    # Strings, integers and ASCII keys: here the standard library spells as RFC 8785 does, and several times as fast.
    body = _ENCODE(spelled).encode()
    if len(body) > MAX_ENTRY:
        raise ValueError(f"an entry of {len(body)} bytes is longer than {MAX_ENTRY}")
    return body


_REQUIRED = ("kind", "subject", "by", "reason")
_TEXTS = (*_REQUIRED, "from", "to")
_KNOWN = frozenset({"index", "time", *_TEXTS})
#: How :func:`moment` spells, and nothing else.
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)


def parse(body: bytes) -> tuple[int, Entry]:
    """Read an entry, wherever it comes from: its index, and what it says. Raises :class:`MalformedEntry`."""
    spelled = _read(body)
    index, time = spelled.get("index"), spelled.get("time")
    if not isinstance(index, int) or isinstance(index, bool) or index < 0:
        raise MalformedEntry("it has no index")
    if not isinstance(time, str):
        raise MalformedEntry("it has no time")
    try:
        at = datetime.fromisoformat(time)
    except ValueError as error:
        raise MalformedEntry("it has no time") from error
    if _MOMENT.fullmatch(time) is None:
        raise MalformedEntry(f"{time[:40]!r} is not how a time is spelled")
    for name in _TEXTS:
        text = spelled.get(name)
        if not (isinstance(text, str) or (text is None and name not in _REQUIRED)):
            raise MalformedEntry(f"it has no {name}")
    facts = {name: value for name, value in spelled.items() if name not in _KNOWN}
    kind, subject, by, reason = spelled["kind"], spelled["subject"], spelled["by"], spelled["reason"]
    return index, Entry(kind, subject, at, by, reason, spelled.get("from"), spelled.get("to"), facts)


def _read(body: bytes) -> dict[str, Any]:
    """The object of an entry, which is in its canonical form."""
    if len(body) > MAX_ENTRY:
        raise MalformedEntry("it is longer than an entry may be")
    try:
        spelled = _DECODE(body.decode())
        same = body == (_ENCODE(spelled).encode() if body.isascii() else rfc8785.dumps(spelled))
    except RecursionError:
        raise MalformedEntry("it is nested too deeply") from None
    except MalformedEntry:
        raise
    except ValueError as error:  # of JSON, of UTF-8, or of what has no canonical form
        raise MalformedEntry(f"it cannot be read: {error}") from error
    if not isinstance(spelled, dict):
        raise MalformedEntry("it is no object")
    if not same:
        raise MalformedEntry("it is not in canonical form (RFC 8785)")
    return spelled


def _text(digest: Digest | None) -> str | None:
    return None if digest is None else str(digest)


def _refuse(text: str) -> NoReturn:
    raise MalformedEntry(f"{text[:40]} is not a number that an entry may have")


def _integer(text: str) -> int:
    if len(text) > 20 or abs(number := int(text)) > _MAX_INTEGER:
        raise MalformedEntry(f"{text[:40]} is not a number that an entry may have")
    return number


_DECODE = json.JSONDecoder(parse_float=_refuse, parse_constant=_refuse, parse_int=_integer).decode
