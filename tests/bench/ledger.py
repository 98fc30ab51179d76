"""The ledger: how fast entries are appended with what they tell of, and how long it takes to look at all of them."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection, insert, select

from storage.audit import audit
from storage.checkpoints import Checkpoints, Kept
from storage.database import GROUP, Database
from storage.digest import Digest
from storage.entries import Entry, of_pin
from storage.ledger import Ledger, append
from storage.notes import Checkpoint, Note, SignerKey
from storage.pins import PinStore
from storage.records import Pin, PinAction, PinChange, PinState, PinWrite
from storage.reference import Repository
from storage.tables import pin_changes, pins
from tests.bench.clients import Wrong
from tests.bench.report import Line, Target

_AT = datetime(2026, 1, 1, tzinfo=UTC)
#: Writes of pins in one transaction, while the database is filled.
_AT_ONCE = 1000
#: How many times as many are written side by side as one after the other.
_BESIDE = 10
_SIGNED_EVERY = 1000
_PIN = tuple(Pin.__dataclass_fields__)
_CHANGE = tuple(PinChange.__dataclass_fields__)


def ledger(entries: int, alone: int, note: Callable[[str], None]) -> list[Line]:
    """Fill a ledger with ``entries`` changes of pins, ``alone`` of them each in a transaction of its own, and audit it."""
    with tempfile.TemporaryDirectory(prefix="tagstone-bench-ledger-") as folder:
        return asyncio.run(_measured(Path(folder), entries, alone, note))


async def _measured(folder: Path, entries: int, alone: int, note: Callable[[str], None]) -> list[Line]:
    database = Database(folder / "tagstone.db")
    await database.open()
    try:
        store, log = PinStore(database), Ledger(database)
        began = time.monotonic()
        for number in range(alone):
            await store.apply(_write(number))
        single = alone / (time.monotonic() - began)
        began = time.monotonic()
        for number in range(alone):
            await store.checked(_REPOSITORY, f"v{number}", _AT + timedelta(days=number))
        bare = alone / (time.monotonic() - began)
        began = time.monotonic()
        for start in range(alone, (1 + _BESIDE) * alone, GROUP):
            await asyncio.gather(*(store.apply(_write(number)) for number in range(start, start + GROUP)))
        written = alone + -(-_BESIDE * alone // GROUP) * GROUP
        beside = (written - alone) / (time.monotonic() - began)
        note(f"filling a ledger with {entries} entries")
        began = time.monotonic()
        for start in range(written, entries, _AT_ONCE):
            await database.write(_fill, start, min(entries, start + _AT_ONCE))
        filled = (entries - written) / (time.monotonic() - began)
        key = SignerKey.generate("bench")
        keyed = Entry("ledger.key", "bench", _AT, "bench", "", None, str(key.verifier))
        await log.append(keyed)
        size = await log.size()
        for at in (*range(_SIGNED_EVERY, size, _SIGNED_EVERY), size):
            text = Checkpoint("bench", at, (await log.frontier(at)).root()).text()
            await Checkpoints(database).keep(Kept(at, _AT, bytes(Note.signed(text, [key]))))
        began = time.monotonic()
        result = await database.snapshot(audit, [key.verifier])
        took = time.monotonic() - began
        if result.finding is not None or result.size != size or result.pins != entries:
            raise Wrong(f"the audit of what was just written says {result.finding}")
    finally:
        await database.close()
    return [
        Line(f"ledger: pins written and entered, {GROUP} wait at a time", "/s", beside, {}, (Target(500, at_least=True),)),
        Line("ledger: pins written and entered, one after the other", "/s", single, {}),
        Line("ledger: transactions that enter nothing, for comparison", "/s", bare, {}),
        Line("ledger: entries, a thousand in a transaction", "/s", filled, {}, (Target(500, at_least=True),)),
        Line(f"ledger: verify, {size:,} entries and as many pins", "s", took, {}, (Target(10, at_least=False),)),
    ]


_REPOSITORY = Repository.of("registry.example", "acme/app")


def _fill(connection: Connection, start: int, stop: int) -> None:
    """The same rows as so many writes leave, at once."""
    writes = [_write(number) for number in range(start, stop)]
    append(connection, [of_pin(write, write.new) for write in writes])
    held = [write.new for write in writes if write.new is not None]
    beside = dict(connection.execute(select(pins).limit(1)).mappings().one())  # whatever columns others have added
    connection.execute(insert(pins), [{**beside, "name": pin.name} | {name: getattr(pin, name) for name in _PIN} for pin in held])
    connection.execute(insert(pin_changes), [{name: getattr(write.change, name) for name in _CHANGE} for write in writes])


def _write(number: int) -> PinWrite:
    at, tag, digest = _AT + timedelta(seconds=number), f"v{number}", Digest.of(b"%d" % number)
    reason = "a signature by key release-key: cosign signature from the signature tag, signature 1"
    pin = Pin(_REPOSITORY, tag, digest, PinState.PINNED, at, 'rule "registry.example/acme/**"', reason, at, version=1)
    return PinWrite(None, pin, PinChange(_REPOSITORY, tag, PinAction.PINNED, at, pin.pinned_by, reason, None, digest))
