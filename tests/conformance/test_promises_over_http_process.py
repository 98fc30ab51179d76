"""Promises about the process: killed at any moment, told to stop, out of room and of descriptors. The installed command."""

from __future__ import annotations

import asyncio
import errno
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from storage.digest import Digest
from tests.conformance.served import Served
from tests.harness import Proxy, Reply, until
from tests.simulator import signing, when
from tests.simulator.behaviours import first, stall
from tests.simulator.images import Image
from tests.simulator.registry import Registry
from tests.tools import PATIENCE

# -- 51: kill -9 ---------------------------------------------------------------------------------------------------

#: Where the process is killed: when the upstream gets this request, in the middle of the layer, or so long after its last byte.
POINTS = ("signature", "payload", "layer", "half", "0ms", "10ms")


async def test_promise_51_killed_at_any_step_of_a_pull(scratch: Path) -> None:
    """SIGKILL at each step of a signed pull: on the same data the next process has the pin whole or not at all, no partial
    blob, and everything that a client had been told; and it finishes the pull."""
    told: dict[str, bool] = {}
    images: dict[str, Image] = {}
    async with Registry() as upstream:
        proxy = Served(scratch, upstream)
        for point in (*POINTS, "the end"):
            await proxy.start()
            assert not proxy.spools(), "what was arriving is cleared away at the start"
            for tag, image in images.items():
                pin = await proxy.pin(f"acme/app:{tag}")
                assert pin is None or pin.digest == image.digest
                assert pin is not None or not told[tag]
            if point == "the end":
                break
            images[point] = image = upstream.image("acme/app", point, seed=point, layer_size=300_000)
            told[point] = await _killed_at(proxy, upstream, point, image)
            proxy.stored()
        for tag, image in images.items():
            answer = await proxy.manifest("acme/app", tag)
            assert (answer.status, answer.digest, answer.body) == (200, str(image.digest), image.body)
            for blob in image.blobs:
                answer = await proxy.blob("acme/app", blob.digest)
                assert (answer.status, answer.body, answer.cut) == (200, blob.data, False)
        assert told == {point: point not in POINTS[:2] for point in POINTS}
        await proxy.stop()
        assert proxy.process.returncode == 0


async def _killed_at(proxy: Served, upstream: Registry, point: str, image: Image) -> bool:
    """Whether the client had its answer about the tag by then."""
    layer, tag = image.layers[0].digest, signing.signature_tag(image.digest)
    signature = upstream.sign("acme/app", image.digest, proxy.signer)
    requests = {
        "signature": when.manifest("GET", tag),
        "payload": when.blob("GET", signature.layers[0].digest),
        "layer": when.blob("GET", layer),
    }
    fault = None
    if point in requests:
        fault = upstream.on(requests[point], first(lambda _: proxy.process.kill()))
    elif point == "half":
        fault = upstream.on(when.blob("GET", layer), stall(150_000))
    client = asyncio.create_task(_client(proxy, point, layer))
    if point == "half":
        await until(lambda: proxy.spools(least=1))
        proxy.process.kill()
    elif fault is None:
        await until(lambda: [seen for seen in upstream.seen("GET", f"/blobs/{layer}") if seen.finished])
        await asyncio.sleep(int(point.removesuffix("ms")) / 1000)
        proxy.process.kill()
    assert await proxy.ended() == -signal.SIGKILL
    if fault is not None:
        assert fault.fired >= 1
        fault.off()
    return await client


async def _client(proxy: Proxy, tag: str, layer: Digest) -> bool:
    """A client whose server may die at any moment; whether it had its answer about the tag by then."""
    told = False
    try:
        told = (await proxy.manifest("acme/app", tag)).status == 200
        await proxy.blob("acme/app", layer)
    except (aiohttp.ClientError, RuntimeError):
        pass  # the session ends with the process
    return told


# -- 59: SIGTERM ---------------------------------------------------------------------------------------------------


async def _in_flight(proxy: Served, upstream: Registry, over: asyncio.Event) -> tuple[Image, asyncio.Task[Reply]]:
    """A download that stands still at its half until ``over``."""
    image = upstream.image("open/app", "v1", layer_size=600_000)
    layer = image.layers[0].digest
    assert (await proxy.manifest("open/app", "v1")).status == 200
    fault = upstream.on(when.blob("GET", layer), stall(400_000, over))
    download = asyncio.create_task(proxy.blob("open/app", layer))
    await until(lambda: proxy.spools(least=1))
    assert fault.fired == 1
    return image, download


async def _refuses(proxy: Served) -> bool:
    """Whether nobody listens any more."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # it came in the very moment in which the listener went
        return False
    writer.close()
    return False


@pytest.mark.parametrize("workers", [1, 2])
async def test_promise_59_what_is_in_flight_ends_before_the_process_does(scratch: Path, workers: int) -> None:
    """After SIGTERM nobody new is let in, a download under way is finished and kept, and the exit code is 0."""
    over = asyncio.Event()
    async with Registry() as upstream:
        proxy = Served(scratch, upstream)
        proxy.workers = workers
        async with proxy:
            image, download = await _in_flight(proxy, upstream, over)
            proxy.process.send_signal(signal.SIGTERM)
            await until(lambda: _refuses(proxy))
            assert not download.done()
            assert proxy.process.returncode is None
            over.set()
            answer = await asyncio.wait_for(download, PATIENCE)
            assert (answer.status, answer.body, answer.cut) == (200, image.blobs[1].data, False)
            assert await proxy.ended() == 0
            assert not proxy.spools()
            assert image.layers[0].digest.hex in {path.name for path in proxy.stored()}


async def test_promise_59_what_does_not_end_is_cut(scratch: Path) -> None:
    """After ``limits.drain_timeout`` a download that stands still is cut, leaves nothing behind, and the exit code is 0."""
    async with Registry() as upstream, Served(scratch, upstream, top="limits: {drain_timeout: 500ms}") as proxy:
        image, download = await _in_flight(proxy, upstream, asyncio.Event())
        proxy.process.send_signal(signal.SIGTERM)
        answer = await asyncio.wait_for(download, PATIENCE)
        assert answer.cut or answer.status == 503
        assert len(answer.body) < image.layers[0].size
        assert await proxy.ended(10) == 0
        assert not proxy.spools()
        assert image.layers[0].digest.hex not in {path.name for path in proxy.stored()}


# -- 52: no room, no descriptors -----------------------------------------------------------------------------------


async def test_promise_52_files_that_may_not_grow_are_a_clean_error(scratch: Path) -> None:
    """Where files may not grow, a large blob is an error and not half a file, and small things go on; then all is well."""
    async with Registry() as upstream, Served(scratch, upstream) as proxy:
        image = upstream.image("open/app", "v1", layer_size=3 << 20)
        small = upstream.image("open/small", "v1")
        layer = image.blobs[1]
        assert (await proxy.manifest("open/app", "v1")).status == 200
        proxy.limit(resource.RLIMIT_FSIZE, 1 << 20)
        for _ in range(2):
            answer = await proxy.blob("open/app", layer.digest)
            assert answer.status == 503 or answer.cut
            assert len(answer.body) < len(layer.data)
        assert (await proxy.manifest("open/small", "v1")).body == small.body
        assert (await proxy.blob("open/small", small.layers[0].digest)).body == small.blobs[1].data
        proxy.limit(resource.RLIMIT_FSIZE, 0)
        new = upstream.image("open/new", "v1", seed="new")
        answer = await proxy.manifest("open/new", "v1")
        assert (answer.status, answer.error["code"]) == (503, "UNAVAILABLE")
        assert (await proxy.manifest("open/small", "v1")).body == small.body, "what is pinned needs no room"
        proxy.limit(resource.RLIMIT_FSIZE, None)
        assert (await proxy.manifest("open/new", "v1")).body == new.body
        answer = await proxy.blob("open/app", layer.digest)
        assert (answer.status, answer.body, answer.cut) == (200, layer.data, False)
        proxy.stored()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own of four MiB; skips where the test may not mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], check=False, capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"mounting is not permitted: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def _fill(filler: Path) -> None:
    """Writes until there is no room: what is free changes while it is asked for, since the proxy writes too."""
    with filler.open("wb", buffering=0) as opened:
        try:
            while True:
                opened.write(bytes(4096))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


async def test_promise_52_a_full_disk_is_a_clean_error_and_recovers(scratch: Path, small_disk: Path) -> None:
    """On a full disk what is stored is served, what is new is 503 or whole but not kept; with room again everything is."""
    async with Registry() as upstream, Proxy(scratch, upstream, data_dir=small_disk / "data") as proxy:
        old, new = upstream.image("open/app", "old"), upstream.image("open/app", "new", seed="new")
        large = upstream.image("open/large", "v1", layer_size=1 << 20)
        for name, tag in (("open/app", "old"), ("open/large", "v1")):
            assert (await proxy.manifest(name, tag)).status == 200
        assert (await proxy.blob("open/app", old.layers[0].digest)).status == 200
        filler = small_disk / "filler"
        _fill(filler)
        assert shutil.disk_usage(small_disk).free == 0
        assert (await proxy.manifest("open/app", "old")).body == old.body
        assert (await proxy.blob("open/app", old.layers[0].digest)).body == old.blobs[1].data
        for reference in ("new", new.digest):
            answer = await proxy.manifest("open/app", reference)
            assert (answer.status, answer.error["code"]) == (503, "UNAVAILABLE")
            assert int(answer.headers["Retry-After"]) >= 1
        assert await proxy.pin("open/app:new") is None
        for layer in (large.blobs[1], large.blobs[0]):
            answer = await proxy.blob("open/large", layer.digest)
            if answer.status == 200 and not answer.cut:
                assert answer.body == layer.data
            else:
                assert answer.status in {200, 503}
                assert len(answer.body) < len(layer.data) or answer.status == 503
            assert not list((proxy.data_dir / "blobs").rglob(layer.digest.hex))
        filler.unlink()
        assert (await proxy.manifest("open/app", "new")).body == new.body
        for layer in large.blobs:
            answer = await proxy.blob("open/large", layer.digest)
            assert (answer.status, answer.body, answer.cut) == (200, layer.data, False)
            await until(lambda layer=layer: list((proxy.data_dir / "blobs").rglob(layer.digest.hex)))


async def test_promise_52_without_descriptors_what_is_remembered_goes_on(scratch: Path) -> None:
    """With no descriptor left, warm pulls on open connections are answered and cold ones are 503; then all is well."""
    async with Registry() as upstream, Served(scratch, upstream, top="check_interval: 1h") as proxy:
        image = upstream.image("open/app", "v1", layer_size=400_000)
        new = upstream.image("open/new", "v1", seed="new")
        layer = image.blobs[1]
        for _ in range(2):
            assert (await proxy.manifest("open/app", "v1")).status == 200
            await asyncio.sleep(1)  # the process hears of its own first pin, and forgets once more
        proxy.limit(resource.RLIMIT_NOFILE, proxy.descriptors[-1] + 1)
        answer = await proxy.blob("open/app", layer.digest)
        assert answer.status == 503 or answer.cut
        for _ in range(5):
            assert (await proxy.manifest("open/app", "v1")).body == image.body
        proxy.limit(resource.RLIMIT_NOFILE, None)
        answer = await proxy.blob("open/app", layer.digest)
        assert (answer.status, answer.body, answer.cut) == (200, layer.data, False)
        assert (await proxy.manifest("open/new", "v1")).body == new.body
        await asyncio.gather(*(proxy.blob("open/app", layer.digest) for _ in range(20)))
        proxy.stored()
