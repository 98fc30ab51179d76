"""Going through everything that a store of files keeps, and hashing it again."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from storage.database import Database
from storage.digest import Digest
from storage.errors import BlobStoreUnavailable
from storage.filesystem import FilesystemBlobStore
from storage.progress import Progress, ProgressStore
from tests.tools import PATIENCE
from tests.unit.storage.conftest import Damage, MakeStore
from tests.unit.storage.test_filesystem import DATA, DIGEST, blob_path, opened, quarantined
from tests.unit.storage.values import AT, LATER

FAST = float(1 << 40)


def flip(path: Path, *, quietly: bool) -> None:
    """Change one bit; ``quietly``: as a failing disk does, so that the times stay and only the change time betrays it."""
    path.chmod(0o600)
    fd = os.open(path, os.O_RDWR)  # whoever finds the damage moves the file away at once
    try:
        status = os.fstat(fd)
        (middle,) = os.pread(fd, 1, status.st_size // 2)
        os.pwrite(fd, bytes([middle ^ 1]), status.st_size // 2)
        os.fchmod(fd, 0o400)
        if quietly:
            os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))
    finally:
        os.close(fd)


@pytest.mark.parametrize("quietly", [False, True])
async def test_promise_37_a_flipped_bit_is_found_by_the_scrubber(
    store: FilesystemBlobStore, root: Path, damage: Damage, quietly: bool
) -> None:
    """Nobody has to ask for a blob for its damage to be found: it is quarantined and reported."""
    await store.put(DIGEST, DATA)
    assert await store.scrub(DIGEST, FAST) == len(DATA)
    assert damage == []
    flip(blob_path(root), quietly=quietly)
    assert await store.scrub(DIGEST, FAST) == len(DATA)
    assert [digest for digest, _ in damage] == [DIGEST]
    assert len(quarantined(root)) == 1
    assert await opened(store) is None
    assert await store.scrub(DIGEST, FAST) == 0, "it is gone"


async def test_the_scrubber_believes_no_seal(store: FilesystemBlobStore, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the disk gives back is hashed although the seal holds; a sound blob keeps its seal."""
    await store.put(DIGEST, DATA)
    (seal,) = [path for path in (root / "seals").rglob("*") if path.is_file()]
    before = seal.stat()
    assert await store.scrub(DIGEST, FAST) == len(DATA)
    assert seal.stat() == before, "it is not written again without need"
    monkeypatch.setattr(store._seals, "holds", lambda *_: True)
    flip(blob_path(root), quietly=True)
    await store.scrub(DIGEST, FAST)
    assert len(quarantined(root)) == 1


async def test_scrubbing_keeps_to_its_rate(store: FilesystemBlobStore) -> None:
    """So many bytes take so long, however fast the disk is; closing the store does not wait for that."""
    await store.put(DIGEST, DATA)
    began = time.monotonic()
    await store.scrub(DIGEST, len(DATA) * 4.0)
    assert time.monotonic() - began >= 0.25
    slow = asyncio.create_task(store.scrub(DIGEST, 1.0))
    await asyncio.sleep(0.05)
    async with asyncio.timeout(PATIENCE):
        await store.close()
        await asyncio.gather(slow, return_exceptions=True)


async def test_everything_stored_is_listed_page_by_page(store: FilesystemBlobStore, root: Path) -> None:
    """In the order of their text, whichever algorithm; what has no digest for a name is passed over."""
    contents = [str(number).encode() for number in range(60)]
    digests = [Digest.of(data, "sha512" if number % 5 == 0 else "sha256") for number, data in enumerate(contents)]
    assert await store.digests(None, 10) == []
    for digest, data in zip(digests, contents, strict=True):
        await store.put(digest, data)
    shelf = blob_path(root, digests[1]).parent
    (shelf / "README").touch()
    (shelf.parent / "zz").touch()
    found: list[Digest] = []
    while page := await store.digests(found[-1] if found else None, 7):
        assert len(page) <= 7
        found += page
    assert found == sorted(digests, key=str)


async def test_a_store_that_cannot_be_listed_says_so(make_store: MakeStore, root: Path) -> None:
    """That the system refuses is no empty store."""
    store = make_store()
    await store.put(DIGEST, DATA)
    (root / "blobs").rename(root / "elsewhere")
    (root / "blobs").symlink_to(root / "elsewhere")
    with pytest.raises(BlobStoreUnavailable, match="cannot list"):
        await store.digests(None, 10)


async def test_rounds_are_remembered(tmp_path: Path) -> None:
    """How far a round has come survives; another one of the same name takes its place."""
    database = Database(tmp_path / "tagstone.db")
    await database.open()
    rounds = ProgressStore(database)
    assert await rounds.get("scrub") is None
    first = Progress("scrub", str(DIGEST), AT, 3)
    await rounds.put(first)
    await rounds.put(Progress("verify", "", LATER))
    assert await rounds.get("scrub") == first
    ended = Progress("scrub", str(DIGEST), AT, 4, LATER)
    await rounds.put(ended)
    assert await rounds.get("scrub") == ended
    await database.close()
