"""Who was handed what is recorded, over real sockets, and nothing else is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from storage.database import Database
from storage.pulls import PullStore
from storage.records import PullRecord
from tests.harness import Proxy
from tests.simulator.registry import Registry


async def records(proxy: Proxy) -> list[PullRecord]:
    """What was recorded, once the proxy has ended."""
    await proxy.stop()
    database = Database(proxy.data_dir / "tagstone.db")
    await database.open(read_only=True)
    try:
        return await PullStore(database).find()
    finally:
        await database.close()
        await proxy.start()


async def test_what_is_handed_out_is_recorded(tmp_path: Path) -> None:
    """Cold and warm, by tag and by digest; what is asked for by HEAD, or is known to the client already, was resolved."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top="check_interval: 1h") as proxy:
        image = upstream.image("open/app", "v1")
        agent = {"User-Agent": "containerd/1.7"}
        for _ in range(2):
            await proxy.manifest("open/app", "v1", "HEAD", **agent)
            await proxy.manifest("open/app", "v1", **agent)
            await proxy.manifest("open/app", image.digest, **agent)
        await proxy.manifest("open/app", "v1", **{"If-None-Match": f'"{image.digest}"', **agent})
        # What is written meanwhile parts the records: what counts is their sum.
        counts: Counter[tuple[str | None, str]] = Counter()
        for record in await records(proxy):
            assert (record.digest, record.agent) == (image.digest, "containerd/1.7")
            counts[record.tag, "fetched"] += record.fetched
            counts[record.tag, "resolved"] += record.resolved
        assert counts == {("v1", "fetched"): 2, ("v1", "resolved"): 3, (None, "fetched"): 2, (None, "resolved"): 0}
        assert {(record.principal, record.address) for record in await records(proxy)} == {("anonymous", "127.0.0.1")}


async def test_refusals_and_blobs_are_not_recorded(tmp_path: Path) -> None:
    """What was not handed out is in the log of pulls; who has a blob has had its manifest."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        image = upstream.image("open/app", "v1")
        upstream.image("acme/app", "v1")
        assert (await proxy.manifest("acme/app", "v1")).status == 403
        assert (await proxy.manifest("open/app", "v2")).status == 404
        assert (await proxy.manifest("open/app", "v1")).status == 200
        assert (await proxy.blob("open/app", image.layers[0].digest)).status == 200
        assert [record.tag for record in await records(proxy)] == ["v1"]
