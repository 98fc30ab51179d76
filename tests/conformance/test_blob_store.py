"""What every blob store keeps (:mod:`storage.blobs`), over each implementation.

Two stores that one backing makes behave as two processes that share it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from storage.blobs import Buffer, Spool
from storage.digest import Digest
from storage.errors import BlobStoreUnavailable, DigestMismatch, MalformedName
from storage.filesystem import FilesystemBlobStore
from tests.simulator.spooling import append

DATA = bytes(range(256)) * 400
DIGEST = Digest.of(DATA)
HALF = len(DATA) // 2


class Backing:
    """Where blobs end up, and the stores that were opened on it."""

    def __init__(self, make: Callable[[], FilesystemBlobStore]) -> None:
        self._make = make
        self._stores: list[FilesystemBlobStore] = []

    def store(self) -> FilesystemBlobStore:
        """Another store on this backing."""
        store = self._make()
        self._stores.append(store)
        return store

    async def close(self) -> None:
        """Close every store."""
        for store in self._stores:
            await store.close()


def filesystem(root: Path) -> FilesystemBlobStore:
    """A store of files."""
    return FilesystemBlobStore(root)


@pytest.fixture(params=[filesystem])
async def backing(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backing]:
    """One backing of each kind."""
    backing = Backing(lambda: request.param(tmp_path / "store"))
    yield backing
    await backing.close()


@pytest.fixture
def store(backing: Backing) -> FilesystemBlobStore:
    """A store."""
    return backing.store()


@pytest.fixture
def other(backing: Backing) -> FilesystemBlobStore:
    """Another store on the same backing."""
    return backing.store()


async def claimed(store: FilesystemBlobStore, digest: Digest = DIGEST, size: int = len(DATA)) -> Spool:
    """The right to write, which nobody else may have."""
    spool = await store.spool(digest, size)
    assert spool is not None
    return spool


async def keep(store: FilesystemBlobStore, data: bytes = DATA) -> Digest:
    """Store ``data`` by way of a spool."""
    digest = Digest.of(data)
    spool = await claimed(store, digest, len(data))
    await append(spool, data)
    await spool.verify()
    await spool.commit()
    return digest


async def content(store: FilesystemBlobStore, digest: Digest = DIGEST) -> bytes | None:
    """All bytes of a stored blob."""
    blob = await store.open(digest)
    if blob is None:
        return None
    try:
        assert blob.digest == digest
        data = await blob.read()
        assert len(data) == blob.size
        return data
    finally:
        blob.close()


async def test_what_was_never_stored_is_absent(store: FilesystemBlobStore) -> None:
    """An empty store answers None to every question."""
    assert await store.open(DIGEST) is None
    assert await store.read(DIGEST, 100) is None
    assert await store.follow(DIGEST, len(DATA)) is None
    assert await store.recover() == 0


async def test_what_was_committed_can_be_opened(store: FilesystemBlobStore, other: FilesystemBlobStore) -> None:
    """A committed blob is there whole, in this process and in another."""
    spool = await claimed(store)
    assert (spool.digest, spool.size, spool.written) == (DIGEST, len(DATA), 0)
    await append(spool, DATA[:HALF])
    assert spool.written == HALF
    await append(spool, DATA[HALF:])
    await spool.verify()
    await spool.commit()
    assert await content(store) == DATA
    assert await content(other) == DATA


async def test_nothing_is_visible_before_commit(store: FilesystemBlobStore, other: FilesystemBlobStore) -> None:
    """All bytes written, even verified, is not stored."""
    spool = await claimed(store)
    await append(spool, DATA)
    await spool.verify()
    for one in (store, other):
        assert await one.open(DIGEST) is None
        assert await one.read(DIGEST, len(DATA)) is None
    await spool.discard()
    assert await store.open(DIGEST) is None


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [
        (0, None, DATA),
        (0, 0, b""),
        (10, 20, DATA[10:30]),
        (len(DATA) - 5, None, DATA[-5:]),
        (len(DATA) - 5, 100, DATA[-5:]),
        (len(DATA), None, b""),
        (len(DATA) + 10, 3, b""),
    ],
    ids=["all", "nothing", "the middle", "the end", "over the end", "at the end", "past the end"],
)
async def test_promise_31_slices_are_exact(store: FilesystemBlobStore, offset: int, length: int | None, expected: bytes) -> None:
    """A slice holds exactly the bytes asked for, and ends where the blob ends."""
    await keep(store)
    blob = await store.open(DIGEST)
    assert blob is not None
    assert await blob.read(offset, length) == expected
    if expected:
        assert os.pread(blob.fileno(), len(expected), offset) == expected
    blob.close()


async def test_a_closed_blob_is_closed_for_good(store: FilesystemBlobStore) -> None:
    """Closing twice is fine, reading after it is an error."""
    await keep(store)
    blob = await store.open(DIGEST)
    assert blob is not None
    blob.close()
    blob.close()
    with pytest.raises(ValueError, match="closed"):
        blob.fileno()


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("data", [b"", b"{}", DATA])
async def test_small_blobs_are_put_and_read_whole(store: FilesystemBlobStore, algorithm: str, data: bytes) -> None:
    """put() and read() are each other's inverse, for both algorithms; doing it twice changes nothing."""
    digest = Digest.of(data, algorithm)
    await store.put(digest, data)
    await store.put(digest, data)
    assert await store.read(digest, len(data)) == data
    assert await content(store, digest) == data


async def test_reading_is_bounded(store: FilesystemBlobStore) -> None:
    """A blob above the limit is not read."""
    await store.put(DIGEST, DATA)
    assert await store.read(DIGEST, len(DATA) - 1) is None


async def test_putting_something_else_is_refused(store: FilesystemBlobStore) -> None:
    """Bytes that do not hash to the digest are not stored under it."""
    with pytest.raises(DigestMismatch):
        await store.put(DIGEST, DATA[:-1])
    assert await store.open(DIGEST) is None


async def test_many_put_at_once(store: FilesystemBlobStore, other: FilesystemBlobStore) -> None:
    """Whoever stores the same bytes at the same time succeeds."""
    await asyncio.gather(*(one.put(DIGEST, DATA) for one in (store, other) for _ in range(5)))
    assert await content(store) == await content(other) == DATA


async def test_put_beside_a_writer(store: FilesystemBlobStore) -> None:
    """Storing whole does not wait for one who is still writing, and does not disturb it."""
    spool = await claimed(store)
    await append(spool, DATA)
    await store.put(DIGEST, DATA)
    assert await content(store) == DATA
    await spool.verify()
    await spool.commit()
    assert await content(store) == DATA


@pytest.mark.parametrize("wrong", [b"", DATA[:-1], DATA[:-1] + b"x"], ids=["nothing", "too short", "one byte altered"])
async def test_wrong_bytes_are_not_verified(store: FilesystemBlobStore, wrong: bytes) -> None:
    """What is short or altered fails, is not committed, and leaves nothing once discarded."""
    spool = await claimed(store)
    await append(spool, wrong)
    with pytest.raises(DigestMismatch):
        await spool.verify()
    with pytest.raises(RuntimeError, match="verified"):
        await spool.commit()
    await spool.discard()
    assert await store.open(DIGEST) is None
    assert await store.follow(DIGEST, len(DATA)) is None


async def test_too_many_bytes_are_refused(store: FilesystemBlobStore) -> None:
    """A spool never takes more than its size."""
    spool = await claimed(store)
    await append(spool, DATA[:10])
    with pytest.raises(DigestMismatch):
        await append(spool, DATA)
    assert spool.written == 10
    await append(spool, DATA[10:])
    await spool.verify()
    await spool.commit()
    assert await content(store) == DATA


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
async def test_every_kind_of_buffer_is_taken(store: FilesystemBlobStore, wrap: Callable[[bytes], Buffer]) -> None:
    """bytes, bytearray and memoryview are all the same."""
    spool = await claimed(store)
    await append(spool, wrap(DATA))
    await spool.verify()
    await spool.commit()
    assert await content(store) == DATA


async def test_one_writer_at_a_time(store: FilesystemBlobStore, other: FilesystemBlobStore) -> None:
    """While one has the right to write, nobody else gets it, in this process or another; afterwards they do."""
    spool = await claimed(store)
    assert await store.spool(DIGEST, len(DATA)) is None
    assert await other.spool(DIGEST, len(DATA)) is None
    await spool.discard()
    spool = await claimed(other)
    assert await store.spool(DIGEST, len(DATA)) is None
    await append(spool, DATA)
    await spool.verify()
    await spool.commit()
    spool = await claimed(store)
    await spool.discard()
    assert await content(store) == DATA


async def test_of_many_who_ask_one_may_write(store: FilesystemBlobStore, other: FilesystemBlobStore) -> None:
    """The right to write goes to exactly one of many who ask at once."""
    spools = await asyncio.gather(*(one.spool(DIGEST, len(DATA)) for one in (store, other) for _ in range(10)))
    winners = [spool for spool in spools if spool is not None]
    assert len(winners) == 1
    await winners[0].discard()


async def test_different_blobs_have_different_writers(store: FilesystemBlobStore) -> None:
    """The right to write is one per digest."""
    one = await claimed(store)
    two = await claimed(store, Digest.of(b"x"), 1)
    await one.discard()
    await two.discard()


async def test_a_follower_sees_the_spool_grow(store: FilesystemBlobStore, other: FilesystemBlobStore) -> None:
    """Another process reads along while the spool grows, and sees the writer let go at commit."""
    spool = await claimed(store)
    follower = await other.follow(DIGEST, len(DATA))
    assert follower is not None
    assert follower.size == len(DATA)
    assert await follower.written() == 0
    await append(spool, DATA[:HALF])
    assert await follower.written() == HALF
    assert os.pread(follower.fileno(), HALF, 0) == DATA[:HALF]
    await append(spool, DATA[HALF:])
    assert await follower.written() == len(DATA)
    await spool.verify()
    await spool.commit()
    assert await follower.written() is None
    assert os.pread(follower.fileno(), len(DATA), 0) == DATA
    follower.close()
    follower.close()
    with pytest.raises(ValueError, match="closed"):
        follower.fileno()
    assert await other.follow(DIGEST, len(DATA)) is None


async def test_a_follower_sees_the_writer_give_up(store: FilesystemBlobStore, other: FilesystemBlobStore) -> None:
    """After discard() a follower hears that there is no writer any more."""
    spool = await claimed(store)
    follower = await other.follow(DIGEST, len(DATA))
    assert follower is not None
    await spool.discard()
    assert await follower.written() is None
    follower.close()


async def test_starting_again_does_not_alter_what_was_read(store: FilesystemBlobStore, other: FilesystemBlobStore) -> None:
    """reset() begins at zero in another file; the right to write is kept throughout, a follower is told to look again."""
    spool = await claimed(store)
    await append(spool, b"x" * 100)
    follower = await other.follow(DIGEST, len(DATA))
    assert follower is not None
    await spool.reset()
    assert spool.written == 0
    assert await follower.written() is None
    assert os.pread(follower.fileno(), 100, 0) == b"x" * 100
    follower.close()
    assert await other.spool(DIGEST, len(DATA)) is None
    await append(spool, DATA)
    await spool.verify()
    await spool.commit()
    assert await content(other) == DATA


async def test_giving_back_is_final_and_repeatable(store: FilesystemBlobStore) -> None:
    """discard() works any number of times, also after commit; nothing else works after it."""
    spool = await claimed(store)
    await append(spool, DATA)
    await spool.verify()
    await spool.commit()
    await spool.discard()
    await spool.discard()
    assert await content(store) == DATA
    for step in (append(spool, b"x"), spool.verify(), spool.commit(), spool.reset()):
        with pytest.raises(BlobStoreUnavailable, match="given back"):
            await step


async def test_recovering_leaves_live_writers_alone(store: FilesystemBlobStore, other: FilesystemBlobStore) -> None:
    """Start-up of one process does not take the spool from under another."""
    spool = await claimed(store)
    await append(spool, DATA[:HALF])
    assert await other.recover() == 0
    await append(spool, DATA[HALF:])
    await spool.verify()
    await spool.commit()
    assert await content(other) == DATA


async def test_names_are_parsed_before_they_come_here(store: FilesystemBlobStore) -> None:
    """There is no digest that could lead outside the store."""
    with pytest.raises(MalformedName):
        Digest.parse("sha256:../../../../etc/passwd")
    assert await store.open(DIGEST) is None
