"""A stored blob that is damaged is found without anybody asking for it, told, and fetched again; over real sockets."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from proxy.services import duty, scrubber
from storage.digest import Digest
from storage.events import open_events
from storage.records import Event, EventType
from tests.harness import Proxy, until
from tests.simulator.registry import Registry
from tests.unit.storage.test_filesystem import blob_path
from tests.unit.storage.test_scrubbing import flip

#: Rounds follow each other at once.
TOP = "check_interval: 1h\nscrub: {interval: 1ms, rate: 1GiB}"


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long."""
    monkeypatch.setattr(duty, "RENEWAL", 1.0)
    monkeypatch.setattr(scrubber, "PAUSE", 0.05)
    monkeypatch.setattr(scrubber, "RETRY", 0.2)


async def damages(proxy: Proxy, digest: Digest) -> list[Event]:
    """What was told of the damage of one blob, oldest first."""
    events = [event for event in await proxy.events() if event.type is EventType.BLOB_DAMAGED and event.digest == digest]
    return events[::-1]


@pytest.mark.parametrize("what", ["manifest", "layer"])
async def test_promise_37_damage_is_found_told_and_mended(tmp_path: Path, what: str) -> None:
    """The event opens when the bit has flipped and closes when the blob is whole again; the damaged file is kept."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=TOP) as proxy:
        image = upstream.image("open/app", "v1", layer_size=300_000)
        digest = image.digest if what == "manifest" else image.layers[0].digest
        assert (await proxy.manifest("open/app", "v1")).status == 200
        assert (await proxy.blob("open/app", image.layers[0].digest)).status == 200
        stored = blob_path(proxy.data_dir, digest)
        await until(stored.exists)  # a client has a blob a moment before its file has its name
        whole = stored.read_bytes()
        flip(stored, quietly=True)

        async def mended() -> bool:
            return any(event.closed_at is not None for event in await damages(proxy, digest))

        await until(mended)
        assert stored.read_bytes() == whole
        assert len(list((proxy.data_dir / "quarantine").iterdir())) == 1
        assert len(await damages(proxy, digest)) == 1, "it is told once"


async def test_what_was_sent_wrongly_is_news_until_it_has_arrived(tmp_path: Path) -> None:
    """Of two wrong layers of a repository one is mended upstream: its event ends with its next pull, the other's does not."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=TOP) as proxy:
        image = upstream.image("open/app", "v1", layer_size=300_000)
        other = upstream.image("open/app", "v2", layer_size=200_000, seed="other")
        layers = {each.blobs[1].digest: each.blobs[1].data for each in (image, other)}
        for tag, (digest, whole) in zip(("v1", "v2"), layers.items(), strict=True):
            upstream.forge("open/app", digest, bytes(len(whole)))
            assert (await proxy.manifest("open/app", tag)).status == 200
            assert (await proxy.blob("open/app", digest)).cut

        async def tampered(closed: bool) -> set[Digest | None]:
            found = [event for event in await proxy.events() if event.type is EventType.BLOB_TAMPERED]
            return {event.digest for event in found if (event.closed_at is not None) == closed}

        async def both() -> bool:
            return await tampered(closed=False) == set(layers)

        await until(both)
        mended = image.layers[0].digest
        upstream.forge("open/app", mended, layers[mended])
        assert (await proxy.blob("open/app", mended)).status == 200

        async def ended() -> bool:
            return await tampered(closed=True) == {mended}

        await until(ended)
        assert await tampered(closed=False) == set(layers) - {mended}


async def test_promise_37_damage_stays_open_while_nobody_has_the_blob(tmp_path: Path) -> None:
    """Without an upstream the blob is missing and said to be; it is fetched when there is one again."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=TOP) as proxy:
        image = upstream.image("open/app", "v1", layer_size=300_000)
        layer = image.layers[0].digest
        for _ in range(2):
            assert (await proxy.manifest("open/app", "v1")).status == 200
            assert (await proxy.blob("open/app", layer)).status == 200
        await until(blob_path(proxy.data_dir, layer).exists)
        await upstream.stop()
        flip(blob_path(proxy.data_dir, layer), quietly=True)

        async def told() -> bool:
            return bool(await damages(proxy, layer))

        await until(told)
        answer = await proxy.blob("open/app", layer)
        assert (answer.status, answer.cut) == (503, False)
        assert [event.closed_at for event in await damages(proxy, layer)] == [None]
        await upstream.start()

        async def mended() -> bool:
            return (await damages(proxy, layer))[0].closed_at is not None

        await until(mended)
        assert (await proxy.blob("open/app", layer)).status == 200
        assert "tagstone_scrubbed_blobs" in await proxy.metrics()


async def test_damage_is_mended_however_much_else_is_open(tmp_path: Path) -> None:
    """A thousand tags that were overwritten since do not hide it."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=TOP) as proxy:
        image = upstream.image("open/app", "v1")
        assert (await proxy.manifest("open/app", "v1")).status == 200
        now = datetime.now(UTC)
        damaged = Event(EventType.BLOB_DAMAGED, str(image.digest), image.digest, "as an earlier worker found it", now)
        others = [Event(EventType.TAG_OVERWRITTEN, f"reg.example/open/app:{n}", None, "", now) for n in range(1001)]
        await proxy.application.database.write(open_events, [damaged, *others])

        async def mended() -> bool:
            return EventType.BLOB_DAMAGED not in {
                event.type for event in await proxy.application.events.list(open_only=True, limit=2000)
            }

        await until(mended)
