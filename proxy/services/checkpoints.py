"""Signing checkpoints of the ledger: what has been signed for cannot be written anew without anybody noticing.

Before it signs, the signer convinces itself: the tree must go on from the last checkpoint, which one of its own keys must have
signed, and every entry since then must be what was hashed when it was written. Where it is not, nothing is signed any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path

import structlog

from proxy.services.revision import Clock
from proxy.settings import LedgerSettings
from storage import keyring
from storage.checkpoints import Checkpoints, Kept
from storage.entries import Entry, EntryKind
from storage.errors import KeyUnusable, LedgerDamaged, StorageError
from storage.events import EventStore
from storage.keyring import Keyring
from storage.ledger import PAGE, Ledger, Recorded
from storage.merkle import Frontier, leaf_hash
from storage.notes import Checkpoint, MalformedNote, Note, SignerKey, UnverifiedNote, VerifierKey
from storage.records import Event, EventType

log = structlog.get_logger("tagstone.checkpoints")

#: The key's file in the data directory.
KEY_FILE = "ledger.key"
#: The subject of events about the ledger as a whole.
SUBJECT = "ledger"

_Changing = Callable[[], AbstractAsyncContextManager[None]]


class Signer:
    """Signs what has come since the last checkpoint. Safe to run twice at a time: both sign the same tree.

    ``origin``: the log's name where its key is yet to be made; None: one that nobody else has.
    """

    def __init__(
        self,
        ledger: Ledger,
        checkpoints: Checkpoints,
        events: EventStore,
        key_file: Path,
        clock: Clock,
        *,
        origin: str | None,
        interval: float,
    ) -> None:
        self._ledger = ledger
        self._checkpoints = checkpoints
        self._events = events
        self._key_file = key_file
        self._clock = clock
        self._origin = origin
        self._interval = interval
        self._trouble: str | None = None  #: what was told last, so that it is told once; None: not known
        self._last: Kept | None = None  #: what was signed last, which must not vanish while this process remembers it

    async def step(self) -> None:
        """Sign if there is anything to sign, then wait for the interval: what a duty repeats."""
        await self.attempt()
        await asyncio.sleep(self._interval)

    async def attempt(self) -> None:
        """Sign if there is anything to sign; what goes wrong is told."""
        try:
            kept = await self.sign()
            if self._trouble != "":  # at the first time as well: another process may have told of damage that was mended since
                await self._recovered()
        except LedgerDamaged as error:
            await self._told(EventType.LEDGER_DAMAGED, f"{error}; no checkpoint is signed until it is mended")
        except KeyUnusable as error:
            await self._told(EventType.LEDGER_UNSIGNED, f"no checkpoint of the ledger is signed: {error}")
        except StorageError as error:
            self._tell("ledger.unsigned", str(error))
        else:
            if kept is not None:
                log.debug("ledger.signed", size=kept.size)

    async def sign(self) -> Kept | None:
        """Sign a checkpoint over all entries; None when the last one is over all of them.

        Raises LedgerDamaged when the tree is not the one that was signed before, with more entries behind it, and other errors
        of the storage when it cannot be told.
        """
        return await self._sign(partial(keyring.changing, self._key_file))

    async def _sign(self, changing: _Changing) -> Kept | None:
        """Sign; ``changing`` keeps others from changing keys, and is entered where the ledger does not name the current one."""
        last = await self._checkpoints.newest()
        if self._last is not None and (last is None or last.size < self._last.size):
            problem = f"a checkpoint over {self._last.size} entries was signed, and it is not kept any more"
            raise LedgerDamaged(0 if last is None else last.size, problem)
        # Read after that checkpoint: whatever it was signed by is known, also if the key was changed at this moment.
        ring = await asyncio.to_thread(self._ring, last)
        frontier = Frontier() if last is None else await self._signed(last, ring)
        ring, size = await self._entered(ring, last, changing)
        if last is not None and size == last.size:
            self._last = last
            return None
        while frontier.size < size:
            page = await self._ledger.entries(frontier.size, min(size, frontier.size + PAGE))
            frontier = await asyncio.to_thread(_extended, frontier, page)
        now = self._clock()
        text = Checkpoint(ring.current.name, size, frontier.root()).text()
        kept = Kept(size, now, bytes(Note.signed(text, ring.signers(now))))
        await self._checkpoints.keep(kept)
        self._last = kept
        return kept

    async def rotate(self, *, by: str, reason: str, overlap: timedelta) -> Keyring:
        """Sign by a new key from here on, for ``overlap`` by the present one as well; the keys as they are then.

        A last checkpoint by the present key alone comes first, and the entry that hands over is under both.
        """
        async with keyring.changing(self._key_file):
            await self._sign(nullcontext)
            before = await asyncio.to_thread(keyring.load_or_make, self._key_file, self._origin)
            now = self._clock()
            after = before.rotated(now, now + overlap)
            key = str(after.current.verifier)
            await asyncio.to_thread(keyring.store, self._key_file, after)
            await self._ledger.succeed(Entry(EntryKind.KEY, before.current.name, now, by, reason, None, key))
        await self.sign()
        return after

    async def replace(self, *, by: str, reason: str) -> Keyring:
        """Sign by a new key in the place of one whose file is gone; the keys as they are then.

        What was signed until now is checked by the keys that the ledger itself names; observers have to be told the new one.
        Raises KeyUnusable where there is a file.
        """
        async with keyring.changing(self._key_file):
            if await asyncio.to_thread(keyring.load, self._key_file) is not None:
                raise KeyUnusable(f"the ledger's key is not lost, it is in {self._key_file}")
            last = await self._checkpoints.newest()
            if last is not None:
                named: list[VerifierKey] = []
                for each in await self._ledger.newest(EntryKind.KEY, PAGE):
                    with suppress(MalformedNote):  # what is no key has signed nothing
                        named.append(VerifierKey.parse(each.read().to or ""))
                ring = Keyring(SignerKey.generate(last.read()[1].origin), (), tuple(dict.fromkeys(named)))
                await self._signed(last, ring)
                await asyncio.to_thread(keyring.store, self._key_file, ring)
                key = ring.current
                await self._ledger.succeed(Entry(EntryKind.KEY, key.name, self._clock(), by, reason, None, str(key.verifier)))
        await self.sign()
        return await asyncio.to_thread(keyring.load_or_make, self._key_file, self._origin)

    def _ring(self, last: Kept | None) -> Keyring:
        """The keys; made where nothing was ever signed."""
        if last is not None and keyring.load(self._key_file) is None:
            raise KeyUnusable(
                f"the ledger's key {self._key_file} is gone, and {last.size} entries are signed for by it: restore it from a "
                "backup, or sign by a new one from here on (tagstone ledger key rotate --lost)"
            )
        return keyring.load_or_make(self._key_file, self._origin)

    async def _entered(self, ring: Keyring, last: Kept | None, changing: _Changing) -> tuple[Keyring, int]:
        """The keys by which a tree of this size is to be signed: the ledger names the current one as its last.

        Where it does not, that is entered: at first, and after a rotation that broke off. But others may be rotating it now, who
        write the file first, then who did it and why: they are waited for, and what the file says is asked again.
        """
        while True:
            size = await self._ledger.size()
            index, named = await self._named()
            if named == str(ring.current.verifier):
                if index < size:
                    return ring, size
                continue  # it was entered between the two looks
            async with changing():
                ring = await asyncio.to_thread(self._ring, last)
                key = ring.current
                _, named = await self._named()
                reason = "the first key" if named is None else "another key was found in the file"
                if named != str(key.verifier):
                    await self._ledger.succeed(
                        Entry(EntryKind.KEY, key.name, self._clock(), "server", reason, None, str(key.verifier))
                    )

    async def _named(self) -> tuple[int, str | None]:
        """The last entry of the ledger that names a key, and the key; (0, None) when there is none."""
        newest = await self._ledger.newest(EntryKind.KEY)
        return (newest[0].index, newest[0].read().to) if newest else (0, None)

    async def _signed(self, last: Kept, ring: Keyring) -> Frontier:
        """Where the tree of the last checkpoint goes on; its root is the signed one."""
        size = await self._ledger.size()
        if size < last.size:
            raise LedgerDamaged(size, f"it is missing: a checkpoint was signed for {last.size} entries, and there are {size}")
        note, checkpoint = last.read()
        try:
            note.verified_by(ring.verifiers)
        except UnverifiedNote as error:
            raise LedgerDamaged(max(0, last.size - 1), f"the checkpoint that ends with it is not good: {error}") from error
        frontier = await self._ledger.frontier(last.size)
        if (checkpoint.origin, checkpoint.root) != (ring.current.name, frontier.root()):
            raise LedgerDamaged(max(0, last.size - 1), "the tree that ends with it is not the one that was signed")
        return frontier

    # -- telling --------------------------------------------------------------------------------------------------------

    async def _told(self, kind: EventType, message: str) -> None:
        if self._tell(kind.value, message):
            other = EventType.LEDGER_DAMAGED if kind is EventType.LEDGER_UNSIGNED else EventType.LEDGER_UNSIGNED
            try:
                await self._events.close(SUBJECT, (other,), self._clock())
                await self._events.record(Event(kind, SUBJECT, None, message, self._clock()))
            except StorageError as problem:
                self._trouble = None
                log.warning("ledger.untold", error=str(problem))

    async def _recovered(self) -> None:
        ended = await self._events.close(SUBJECT, (EventType.LEDGER_DAMAGED, EventType.LEDGER_UNSIGNED), self._clock())
        if ended or self._trouble is not None:
            log.info("ledger.signed.again")
        self._trouble = ""

    def _tell(self, event: str, problem: str) -> bool:
        """Log, unless it was the last thing that was logged."""
        if problem == self._trouble:
            return False
        self._trouble = problem
        log.error(event, error=problem)
        return True


def signer_of(
    settings: LedgerSettings, data_dir: Path, ledger: Ledger, checkpoints: Checkpoints, events: EventStore, clock: Clock
) -> Signer:
    """The signer of the ledger in a data directory."""
    return Signer(ledger, checkpoints, events, data_dir / KEY_FILE, clock, origin=settings.origin, interval=settings.interval)


def _extended(frontier: Frontier, page: Sequence[Recorded]) -> Frontier:
    """The frontier with these entries; raises LedgerDamaged at the first that is not as it was written."""
    if not page:
        raise LedgerDamaged(frontier.size, "it is missing")
    for recorded in page:
        if recorded.index != frontier.size:
            raise LedgerDamaged(frontier.size, "it is missing")
        recorded.read()
        frontier, completed = frontier.grown(leaf_hash(recorded.body))
        if recorded.hashes != completed or recorded.root != frontier.root():
            raise LedgerDamaged(recorded.index, "its bytes are not those that were hashed when it was written")
    return frontier
