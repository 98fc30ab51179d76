"""What the tests of the services share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from storage.records import Descriptor
from tests.simulator.origin import Origin
from tests.unit.services.ingesting import DATA, REPOSITORY, Bench, MakeBench


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of a blob store, not made yet."""
    return tmp_path / "store"


@pytest.fixture
def origin() -> Origin:
    """An upstream."""
    return Origin(chunk=5000)


@pytest.fixture
def descriptor(origin: Origin) -> Descriptor:
    """A blob that the upstream has."""
    return origin.add(REPOSITORY, DATA)


@pytest.fixture
async def make_bench(root: Path, origin: Origin) -> AsyncIterator[MakeBench]:
    """Makes benches on one folder and one upstream, started."""
    benches: list[Bench] = []

    async def make(**options: Any) -> Bench:
        bench = Bench(root, origin, **options)
        benches.append(bench)
        await bench.ingest.start()
        return bench

    yield make
    for bench in benches:
        await bench.close()


@pytest.fixture
async def bench(make_bench: MakeBench) -> Bench:
    """A bench."""
    return await make_bench()
