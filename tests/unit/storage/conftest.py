"""What the tests of the storage share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from storage.catalog import Catalog
from storage.database import Database
from storage.digest import Digest
from storage.files import Files
from storage.filesystem import FilesystemBlobStore
from storage.pins import PinStore

Damage: TypeAlias = list[tuple[Digest, str]]
MakeStore: TypeAlias = Callable[..., FilesystemBlobStore]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of a blob store, not made yet."""
    return tmp_path / "store"


@pytest.fixture
def damage() -> Damage:
    """What the store reported as damaged."""
    return []


@pytest.fixture
async def make_store(root: Path, damage: Damage) -> AsyncIterator[MakeStore]:
    """Makes stores on one folder, as several processes would have."""
    closing: list[Callable[[], Awaitable[None]]] = []

    def make(files: Files | None = None) -> FilesystemBlobStore:
        store = FilesystemBlobStore(root, on_damage=lambda digest, reason: damage.append((digest, reason)), files=files)
        closing.append(store.close)
        return store

    yield make
    for close in closing:
        await close()


@pytest.fixture
def store(make_store: MakeStore) -> FilesystemBlobStore:
    """A store."""
    return make_store()


@pytest.fixture
def pins(database: Database) -> PinStore:
    """The pins on it."""
    return PinStore(database)


@pytest.fixture
def catalog(database: Database) -> Catalog:
    """What is recorded on it."""
    return Catalog(database)
