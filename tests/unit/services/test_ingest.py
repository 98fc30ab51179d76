"""Bytes for many clients from one fetch."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from proxy.errors import UpstreamAbsent, UpstreamDenied, UpstreamError, UpstreamMisbehaved, UpstreamUnavailable
from proxy.services.ingest import Ingest, Source
from storage.digest import Digest
from storage.errors import BlobStoreUnavailable, StorageError
from storage.files import Files
from storage.records import Descriptor
from storage.reference import Repository
from tests.simulator.origin import Behaviour, Origin
from tests.simulator.spooling import append
from tests.tools import PATIENCE
from tests.unit.services.ingesting import DATA, HOLDBACK, OTHER, PIECE, REPOSITORY, Bench, MakeBench, drain, until
from tests.unit.storage.faulty import FailingFiles, WaitingFiles, open_files

SIZE = len(DATA)
HALF = 50_000
FULL = OSError(28, "No space left on device")
DOWN = UpstreamUnavailable("one.example does not answer")


def spool_path(root: Path, descriptor: Descriptor) -> Path:
    """Where a blob's bytes arrive."""
    path = root / "spool" / f"{descriptor.digest.algorithm}-{descriptor.digest.hex}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


async def idle(bench: Bench) -> None:
    """Wait until no fetch is under way."""
    await until(lambda: not bench.ingest._tasks)


async def gathered(*pulls: Any) -> list[Any]:
    """Results or errors of what runs at once."""
    return await asyncio.gather(*pulls, return_exceptions=True)


# -- one client ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, HOLDBACK - 1, HOLDBACK, HOLDBACK + 1, PIECE, SIZE])
async def test_a_cold_blob_is_fetched_and_a_warm_one_is_not(bench: Bench, origin: Origin, root: Path, size: int) -> None:
    """The first pull fetches and stores, the second is answered from the store; both are right to the byte."""
    descriptor = origin.add(REPOSITORY, DATA[:size])
    assert await bench.pull(descriptor) == DATA[:size]
    await idle(bench)
    assert await bench.pull(descriptor) == DATA[:size]
    assert origin.fetches(descriptor.digest) == (1 if size else 0)
    assert bench.spools() == []
    assert open_files(root) == 0


async def test_sha512_is_fetched_alike(bench: Bench, origin: Origin) -> None:
    """The digest's own algorithm is the one that counts."""
    descriptor = origin.add(REPOSITORY, DATA, "sha512")
    assert await bench.pull(descriptor) == DATA
    await idle(bench)
    assert await bench.store.read(descriptor.digest, SIZE) == DATA


async def test_the_end_is_held_back_until_the_digest_is_known(bench: Bench, origin: Origin, descriptor: Descriptor) -> None:
    """Before verification a client gets all but the hold-back; the source is complete only after it."""
    release = asyncio.Event()
    origin.script(REPOSITORY, Behaviour(hold_at=SIZE, release=release))
    async with await bench.ingest.open(REPOSITORY, descriptor) as source:
        assert (source.size, source.digest) == (SIZE, descriptor.digest)
        await source.ready()
        limit = 0
        while limit < SIZE - SIZE % PIECE - HOLDBACK:
            limit = await source.available(limit)
            assert limit <= SIZE - HOLDBACK
        assert os.pread(source.fileno(), limit, 0) == DATA[:limit]
        assert not source.complete
        release.set()
        assert await drain(source) == DATA
        assert source.complete
        assert await source.available(0) == SIZE


async def test_a_small_blob_is_ready_only_when_verified(bench: Bench, origin: Origin) -> None:
    """Of a blob no larger than the hold-back nothing is promised before it is verified."""
    descriptor = origin.add(REPOSITORY, DATA[:HOLDBACK])
    release = asyncio.Event()
    origin.script(REPOSITORY, Behaviour(hold_at=HOLDBACK, release=release))
    async with await bench.ingest.open(REPOSITORY, descriptor) as source:
        waiting = asyncio.ensure_future(source.ready())
        await until(lambda: origin.sent == HOLDBACK)
        await asyncio.sleep(0.01)
        assert not waiting.done()
        release.set()
        await waiting
        assert source.complete
        assert await drain(source) == DATA[:HOLDBACK]


async def test_a_stored_blob_is_complete_at_once(bench: Bench, descriptor: Descriptor) -> None:
    """What is stored may be served in any part."""
    await bench.store.put(descriptor.digest, DATA)
    async with await bench.ingest.open(REPOSITORY, descriptor) as source:
        assert source.complete
        await source.ready()
        assert await source.available(0) == SIZE
        assert os.pread(source.fileno(), 10, 100) == DATA[100:110]


async def test_what_comes_while_it_is_being_stored_is_complete(
    make_bench: MakeBench, origin: Origin, descriptor: Descriptor
) -> None:
    """Between verification and the end of the commit a blob is whole, and is not fetched again."""
    files = WaitingFiles("sync")
    bench = await make_bench(files=files)
    await bench.store.put(Digest.of(b""), b"")  # folders are synced, too: have them there
    release = asyncio.Event()
    origin.script(REPOSITORY, Behaviour(hold_at=SIZE, release=release))
    first = asyncio.ensure_future(bench.pull(descriptor))
    await until(lambda: origin.sent == SIZE)
    files.on = True
    release.set()
    assert await first == DATA
    async with await bench.ingest.open(REPOSITORY, descriptor) as source:
        assert source.complete
        assert await drain(source) == DATA
    assert files.reached.wait(PATIENCE)
    files.go.set()
    await idle(bench)
    assert origin.fetches(descriptor.digest) == 1
    assert await bench.store.read(descriptor.digest, SIZE) == DATA


async def test_a_slow_upstream_streams_in_small_pieces(bench: Bench, origin: Origin, descriptor: Descriptor) -> None:
    """Bytes do not wait for others to be written with."""
    release = asyncio.Event()
    origin.script(REPOSITORY, Behaviour(hold_at=2 * origin.chunk, release=release))
    async with await bench.ingest.open(REPOSITORY, descriptor) as source:
        assert await source.available(origin.chunk) == 2 * origin.chunk < PIECE
        release.set()
        assert await drain(source) == DATA


async def test_a_source_is_used_between_ready_and_close(bench: Bench, origin: Origin, descriptor: Descriptor, root: Path) -> None:
    """There is no file before ready() and nothing at all after close(), which may be called again."""
    release = asyncio.Event()
    origin.script(REPOSITORY, Behaviour(opening=True, release=release))
    source = await bench.ingest.open(REPOSITORY, descriptor)
    with pytest.raises(ValueError, match="no file yet"):
        source.fileno()
    release.set()
    assert await drain(source) == DATA
    source.close()
    source.close()
    for use in (source.fileno, lambda: source.complete):
        with pytest.raises(ValueError, match="closed"):
            use()
    await idle(bench)
    stored = await bench.ingest.open(REPOSITORY, descriptor)
    stored.close()
    stored.close()
    assert open_files(root) == 0


# -- many clients --------------------------------------------------------------------------------------------------------


async def test_promise_56_many_clients_one_fetch(bench: Bench, origin: Origin, descriptor: Descriptor, root: Path) -> None:
    """200 first pulls at once, from two repositories, cause one upstream fetch, and each gets the whole blob."""
    origin.add(OTHER, DATA)
    pulls = await asyncio.gather(*(bench.pull(descriptor, (REPOSITORY, OTHER)[n % 2]) for n in range(200)))
    assert all(pull == DATA for pull in pulls)
    assert origin.fetches(descriptor.digest) == 1
    await idle(bench)
    assert open_files(root) == 0


async def test_promise_56_a_leader_that_leaves_kills_nobody(bench: Bench, origin: Origin, descriptor: Descriptor) -> None:
    """The client that caused the fetch is cancelled in the middle; the others never notice."""
    release = asyncio.Event()
    origin.script(REPOSITORY, Behaviour(hold_at=HALF, release=release))
    leader = asyncio.ensure_future(bench.pull(descriptor))
    await until(lambda: origin.sent == HALF)
    others = [asyncio.ensure_future(bench.pull(descriptor)) for _ in range(5)]
    await bench.joined(descriptor, 6)
    leader.cancel()
    with suppress(asyncio.CancelledError):
        await leader
    release.set()
    assert await asyncio.gather(*others) == [DATA] * 5
    assert origin.fetches(descriptor.digest) == 1


async def test_promise_56_the_fetch_goes_on_without_any_client(
    bench: Bench, origin: Origin, descriptor: Descriptor, root: Path
) -> None:
    """All clients leave: the blob is stored all the same."""
    release = asyncio.Event()
    origin.script(REPOSITORY, Behaviour(hold_at=HALF, release=release))
    clients = [asyncio.ensure_future(bench.pull(descriptor)) for _ in range(3)]
    await until(lambda: origin.sent == HALF)
    for client in clients:
        client.cancel()
    await gathered(*clients)
    release.set()
    await idle(bench)
    assert await bench.store.read(descriptor.digest, SIZE) == DATA
    assert open_files(root) == 0


async def test_fetches_are_bounded_per_registry(make_bench: MakeBench, origin: Origin) -> None:
    """A registry that hangs takes no other registry's places."""
    bench = await make_bench(max_concurrent=2)
    release = asyncio.Event()
    hanging = [origin.add(REPOSITORY, bytes([n]) * SIZE) for n in range(5)]
    origin.script(REPOSITORY, *(Behaviour(hold_at=0, release=release) for _ in hanging))
    waiting = [asyncio.ensure_future(bench.pull(descriptor)) for descriptor in hanging]
    await until(lambda: origin.open == 2)
    assert await bench.pull(origin.add(OTHER, DATA), OTHER) == DATA
    assert origin.open == 2
    assert len(origin.requests) == 3
    release.set()
    assert [pull[:1] for pull in await asyncio.gather(*waiting)] == [bytes([n]) for n in range(5)]
    assert origin.most_open == 3


async def test_the_network_waits_for_the_disk(make_bench: MakeBench, origin: Origin, descriptor: Descriptor) -> None:
    """While writing hangs, no more than a few pieces are taken from the network."""
    files = WaitingFiles("write")
    bench = await make_bench(files=files)
    files.on = True
    pulling = asyncio.ensure_future(bench.pull(descriptor))
    assert await asyncio.to_thread(files.reached.wait, 10)
    taken = -1
    while taken != origin.sent:
        taken = origin.sent
        await asyncio.sleep(0.02)
    assert taken <= 4 * (PIECE + origin.chunk) < SIZE
    files.go.set()
    assert await pulling == DATA


# -- upstreams that break off --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resumed", [Behaviour(), Behaviour(whole=True)], ids=["from there", "from the start"])
@pytest.mark.parametrize("how", [{"break_at": HALF}, {"end_at": HALF}], ids=["broken", "ended early"])
async def test_a_broken_fetch_is_resumed(
    bench: Bench, origin: Origin, descriptor: Descriptor, how: dict[str, Any], resumed: Behaviour
) -> None:
    """What was received stays, the rest is asked for; where the upstream sends all of it again, the beginning is skipped."""
    origin.script(REPOSITORY, Behaviour(**how), resumed)
    assert await bench.pull(descriptor) == DATA
    assert [offset for _, _, offset in origin.requests] == [0, HALF]


async def test_progress_earns_more_resumptions(make_bench: MakeBench, origin: Origin, descriptor: Descriptor) -> None:
    """The limit counts resumptions in a row that brought nothing."""
    bench = await make_bench(resumes=2)
    nothing, little = Behaviour(break_at=0), Behaviour(break_at=10_000)
    origin.script(REPOSITORY, little, nothing, little, nothing, little, nothing, Behaviour(refuse=DOWN, break_at=0))
    with pytest.raises(UpstreamUnavailable, match="does not answer"):
        await bench.pull(descriptor)
    assert [offset for _, _, offset in origin.requests] == [0, 10_000, 10_000, 20_000, 20_000, 30_000, 30_000]
    assert await bench.pull(descriptor) == DATA


async def test_promise_29_a_short_body_is_given_up(
    make_bench: MakeBench, origin: Origin, descriptor: Descriptor, root: Path
) -> None:
    """A blob that always ends early fails after the resumptions allowed; nothing is stored, no client has all of it."""
    bench = await make_bench(resumes=3)
    origin.script(REPOSITORY, Behaviour(end_at=SIZE - 1), *(Behaviour(end_at=0) for _ in range(10)))
    with pytest.raises(UpstreamUnavailable, match=f"after {SIZE - 1} of {SIZE} bytes"):
        await bench.pull(descriptor)
    assert len(origin.requests) == 4
    assert await bench.store.open(descriptor.digest) is None
    assert bench.spools() == []
    assert open_files(root) == 0


@pytest.mark.parametrize("extra", [1, 10 * SIZE])
@pytest.mark.parametrize("size", [100, SIZE])
async def test_promise_29_a_long_body_is_aborted(bench: Bench, origin: Origin, size: int, extra: int) -> None:
    """More bytes than the descriptor says are an error at once, even if its beginning is right; nothing is stored."""
    descriptor = origin.add(REPOSITORY, DATA[:size])
    origin.script(REPOSITORY, Behaviour(extra=extra))
    with pytest.raises(UpstreamMisbehaved, match="more than"):
        await bench.pull(descriptor)
    assert origin.sent <= size + 2 * origin.chunk
    await idle(bench)
    assert await bench.store.open(descriptor.digest) is None
    assert bench.spools() == []


async def test_an_upstream_that_stops_before_its_end_has_sent_all(bench: Bench, origin: Origin, descriptor: Descriptor) -> None:
    """A connection that breaks after the last byte took nothing away."""
    origin.script(REPOSITORY, Behaviour(break_at=SIZE))
    assert await bench.pull(descriptor) == DATA
    assert len(origin.requests) == 1


async def test_an_answer_from_further_on_is_refused(bench: Bench, origin: Origin, descriptor: Descriptor) -> None:
    """Bytes are never skipped in the blob."""
    origin.script(REPOSITORY, Behaviour(break_at=HALF), Behaviour(ahead=1))
    with pytest.raises(UpstreamMisbehaved, match=f"from byte {HALF + 1}"):
        await bench.pull(descriptor)
    assert bench.spools() == []


@pytest.mark.parametrize(
    "error", [DOWN, UpstreamAbsent("not there"), UpstreamDenied("not for us"), UpstreamMisbehaved("wrong length")], ids=repr
)
async def test_promise_33_an_upstream_that_cannot_begin_is_told_apart(
    bench: Bench, origin: Origin, descriptor: Descriptor, error: UpstreamError
) -> None:
    """ready() raises what the upstream client said, without asking again; the next pull asks anew."""
    origin.script(REPOSITORY, Behaviour(refuse=error))
    async with await bench.ingest.open(REPOSITORY, descriptor) as source:
        with pytest.raises(type(error), match=str(error)):
            await source.ready()
        with pytest.raises(type(error), match=str(error)):
            await source.available(0)
    assert len(origin.requests) == 1
    assert bench.spools() == []
    assert await bench.pull(descriptor) == DATA


@pytest.mark.parametrize(("retry_after", "requests"), [(0.01, 2), (61.0, 1)])
async def test_retry_after_is_honoured(
    bench: Bench, origin: Origin, descriptor: Descriptor, retry_after: float, requests: int
) -> None:
    """A resumption waits as long as the upstream asks, or is not tried when that is too long."""
    busy = UpstreamUnavailable("too many requests", retry_after)
    origin.script(REPOSITORY, Behaviour(break_at=HALF), Behaviour(refuse=busy))
    began = asyncio.get_running_loop().time()
    result = (await gathered(bench.pull(descriptor)))[0]
    assert (result == DATA) is (requests == 2)
    assert len(origin.requests) == requests + 1
    if requests == 2:
        assert asyncio.get_running_loop().time() - began >= retry_after
    else:
        assert result is busy


# -- upstreams that lie --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", [0, HALF, SIZE - 1])
async def test_promise_30_a_wrong_body_never_completes(
    bench: Bench, origin: Origin, descriptor: Descriptor, root: Path, position: int
) -> None:
    """Right length, wrong bytes: every client's last bytes are withheld, nothing is stored, the liar is named once."""
    origin.script(REPOSITORY, Behaviour(flip_at=position))
    sent: list[int] = []

    async def client() -> None:
        async with await bench.ingest.open(REPOSITORY, descriptor) as source:
            await source.ready()
            limit = 0
            while limit < source.size:
                limit = await source.available(limit)
                sent.append(limit)

    results = await gathered(*(client() for _ in range(10)))
    assert all(isinstance(result, UpstreamMisbehaved) for result in results)
    assert all(str(REPOSITORY) in str(result) and str(descriptor.digest) in str(result) for result in results)
    assert max(sent) <= SIZE - HOLDBACK
    await idle(bench)
    assert [(repository, told) for repository, told, _ in bench.told] == [(REPOSITORY, descriptor)]
    assert str(descriptor.digest) in bench.told[0][2]
    assert await bench.store.open(descriptor.digest) is None
    assert bench.spools() == []
    assert open_files(root) == 0
    assert await bench.pull(descriptor) == DATA


async def test_promise_30_a_small_wrong_body_is_never_begun(bench: Bench, origin: Origin) -> None:
    """Below the hold-back the error comes before any header is sent."""
    descriptor = origin.add(REPOSITORY, DATA[:100])
    origin.script(REPOSITORY, Behaviour(flip_at=99))
    async with await bench.ingest.open(REPOSITORY, descriptor) as source:
        with pytest.raises(UpstreamMisbehaved, match="wrong blob"):
            await source.ready()
    await idle(bench)
    assert len(bench.told) == 1


async def test_a_resumed_lie_is_found(bench: Bench, origin: Origin, descriptor: Descriptor) -> None:
    """The digest is over what was put together, whoever sent which part; all who took part are named."""
    origin.add(OTHER, DATA)
    release = asyncio.Event()
    lie = Behaviour(flip_at=3, hold_at=HALF - 1, break_at=HALF, release=release)
    origin.script(REPOSITORY, lie, Behaviour(refuse=UpstreamDenied("token expired")))
    pulls = []
    for number, repository in enumerate((REPOSITORY, OTHER), 1):  # one after the other: the liar is asked first
        pulls.append(asyncio.ensure_future(bench.pull(descriptor, repository)))
        await bench.joined(descriptor, number)
    release.set()
    results = await gathered(*pulls)
    assert [type(result) for result in results] == [UpstreamMisbehaved, UpstreamMisbehaved]
    await idle(bench)
    assert [repository for repository, _, _ in bench.told] == [REPOSITORY, OTHER]


async def test_a_lie_that_nobody_listens_to_is_still_refused(
    root: Path, origin: Origin, descriptor: Descriptor, bench: Bench
) -> None:
    """The report is optional, and one that fails is logged without harm."""

    async def failing(repository: Repository, descriptor: Descriptor, reason: str) -> None:
        raise RuntimeError("no database")

    for report in (None, failing):
        origin.script(REPOSITORY, Behaviour(flip_at=3))
        ingest = Ingest(bench.store, origin, on_tampered=report, holdback=HOLDBACK)
        await ingest.start()
        with capture_logs() as logs:
            async with await ingest.open(REPOSITORY, descriptor) as source:
                with pytest.raises(UpstreamMisbehaved):
                    await drain(source)
            await ingest.close(10)
        assert ("blob.unreported" in [entry["event"] for entry in logs]) is (report is not None)


@pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1])
async def test_promise_14_the_descriptor_s_size_is_binding(
    bench: Bench, origin: Origin, descriptor: Descriptor, size: int
) -> None:
    """A blob of another size than the manifest says is not handed out, cold or stored."""
    lying = replace(descriptor, size=size)
    with pytest.raises(UpstreamError):
        await bench.pull(lying)
    assert await bench.pull(descriptor) == DATA
    await idle(bench)
    with pytest.raises(UpstreamMisbehaved, match=f"{size} bytes, but it has {SIZE}"):
        await bench.ingest.open(REPOSITORY, lying)
    assert await bench.pull(descriptor) == DATA


async def test_a_lying_manifest_does_not_harm_others(bench: Bench, origin: Origin, descriptor: Descriptor) -> None:
    """Two descriptors of one digest with different sizes are two fetches: the right one succeeds."""
    origin.add(OTHER, DATA)
    results = await gathered(bench.pull(replace(descriptor, size=SIZE + 7), OTHER), bench.pull(descriptor))
    assert isinstance(results[0], UpstreamError | StorageError)
    assert await bench.pull(descriptor) == DATA


# -- several repositories ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [UpstreamDenied("no"), UpstreamAbsent("none"), DOWN, UpstreamMisbehaved("odd")], ids=repr)
async def test_another_repository_is_asked_when_the_first_fails(
    bench: Bench, origin: Origin, descriptor: Descriptor, error: UpstreamError
) -> None:
    """Who waits with a repository that has the blob is not failed by one that has not."""
    origin.add(OTHER, DATA)
    release = asyncio.Event()
    origin.script(REPOSITORY, Behaviour(opening=True, release=release, refuse=error))
    first = asyncio.ensure_future(bench.pull(descriptor))
    await until(lambda: len(origin.requests) == 1)
    second = asyncio.ensure_future(bench.pull(descriptor, OTHER))
    await bench.joined(descriptor, 2)
    release.set()
    assert await second == DATA
    assert await first == DATA  # bytes are shared; the right to them was asked for before
    assert [repository for repository, _, _ in origin.requests] == [REPOSITORY, OTHER]


async def test_when_all_repositories_fail_each_client_hears_its_own_reason(
    bench: Bench, origin: Origin, descriptor: Descriptor
) -> None:
    """The error is that of the client's own repository."""
    origin.script(REPOSITORY, Behaviour(refuse=UpstreamDenied("one says no")))
    results = await gathered(bench.pull(descriptor), bench.pull(descriptor, OTHER))
    assert [type(result) for result in results] == [UpstreamDenied, UpstreamAbsent]


# -- the store -----------------------------------------------------------------------------------------------------------


async def test_promise_37_a_damaged_blob_is_fetched_again(
    bench: Bench, origin: Origin, descriptor: Descriptor, root: Path
) -> None:
    """An altered file is not handed out; the upstream is asked for it again."""
    await bench.pull(descriptor)
    await idle(bench)
    path = next((root / "blobs").rglob(descriptor.digest.hex))
    path.chmod(0o600)
    path.write_bytes(b"x" + DATA[1:])
    assert await bench.pull(descriptor) == DATA
    assert origin.fetches(descriptor.digest) == 2
    assert len(os.listdir(root / "quarantine")) == 1


@pytest.mark.parametrize("step", ["sync", "rename"])
async def test_promise_52_a_failed_commit_costs_no_client_its_bytes(
    make_bench: MakeBench, origin: Origin, descriptor: Descriptor, root: Path, step: str
) -> None:
    """What is verified is handed out even if it cannot be kept; the next pull fetches again."""
    files = FailingFiles()
    bench = await make_bench(files=files)
    await bench.store.recover()
    release = asyncio.Event()
    origin.script(REPOSITORY, Behaviour(hold_at=SIZE, release=release))
    pulls = [asyncio.ensure_future(bench.pull(descriptor)) for _ in range(5)]
    await until(lambda: origin.sent == SIZE)
    files.arm(FULL, only=step)
    with capture_logs() as logs:
        release.set()
        assert await asyncio.gather(*pulls) == [DATA] * 5
        await idle(bench)
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("blob.unstored", "error")]
    assert "No space left on device" in logs[0]["error"]
    assert files.failed == 1
    assert await bench.store.open(descriptor.digest) is None
    assert bench.spools() == []
    assert open_files(root) == 0
    assert await bench.pull(descriptor) == DATA


@pytest.mark.parametrize("nth", [1, 3])
async def test_promise_52_a_full_disk_is_told_to_every_client(
    make_bench: MakeBench, origin: Origin, descriptor: Descriptor, root: Path, nth: int
) -> None:
    """A write that fails ends the fetch with the system's reason; when there is space again, so are the bytes."""
    files = FailingFiles()
    bench = await make_bench(files=files)
    files.arm(FULL, nth, only="write")
    results = await gathered(*(bench.pull(descriptor) for _ in range(5)))
    assert all(isinstance(result, BlobStoreUnavailable) for result in results)
    assert "No space left on device" in str(results[0])
    assert bench.spools() == []
    assert open_files(root) == 0
    assert await bench.pull(descriptor) == DATA


async def test_a_spool_that_stays_behind_is_logged_and_used(
    make_bench: MakeBench, origin: Origin, descriptor: Descriptor
) -> None:
    """Where not even the removal works the client still hears the first reason; the next fetch goes on from there."""
    files = FailingFiles()
    bench = await make_bench(files=files, resumes=0)
    origin.script(REPOSITORY, Behaviour(break_at=HALF))
    files.arm(OSError(30, "Read-only file system"), only="remove")
    with capture_logs() as logs, pytest.raises(UpstreamUnavailable, match="reset"):
        await bench.pull(descriptor)
    assert [entry["event"] for entry in logs] == ["spool.left"]
    assert len(bench.spools()) == 1
    assert await bench.pull(descriptor) == DATA
    assert [offset for _, _, offset in origin.requests] == [0, HALF]


async def test_a_failure_that_nobody_foresaw_leaves_nobody_waiting(
    bench: Bench, origin: Origin, descriptor: Descriptor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of ours is logged with its traceback, and told to those who wait."""
    origin.script(REPOSITORY, Behaviour(refuse=LookupError("a bug")))  # type: ignore[arg-type]  # that is the point
    with capture_logs() as logs, pytest.raises(StorageError, match="unforeseen"):
        await bench.pull(descriptor)
    assert [(entry["event"], entry["exc_info"]) for entry in logs] == [("blob.failed", True)]
    assert bench.spools() == []
    assert await bench.pull(descriptor) == DATA


async def test_a_source_that_cannot_be_kept_open_fails(
    bench: Bench, descriptor: Descriptor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Running out of descriptors is the store's refusal like any other."""

    def exhausted(fd: int) -> int:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(os, "dup", exhausted)
        with pytest.raises(BlobStoreUnavailable, match="Too many open files"):
            await bench.pull(descriptor)
    assert await bench.pull(descriptor) == DATA


# -- several processes ---------------------------------------------------------------------------------------------------


async def test_promise_56_processes_share_one_fetch(
    make_bench: MakeBench, origin: Origin, descriptor: Descriptor, root: Path
) -> None:
    """Three processes, many clients each: one fetch, and everybody reads along while it runs."""
    benches = [await make_bench() for _ in range(3)]
    release = asyncio.Event()
    origin.script(REPOSITORY, Behaviour(hold_at=HALF, release=release))
    sources = [await bench.ingest.open(REPOSITORY, descriptor) for bench in benches for _ in range(3)]
    for source in sources:
        await source.ready()
        assert 0 < await source.available(0) <= HALF
        assert not source.complete
    release.set()
    assert await asyncio.gather(*map(drain, sources)) == [DATA] * 9
    for source in sources:
        source.close()
    assert origin.fetches(descriptor.digest) == 1
    for bench in benches:
        await idle(bench)
    assert open_files(root) == 0


@pytest.mark.parametrize("left", [1, HALF, SIZE - 1])
async def test_promise_51_a_dead_writer_s_bytes_are_continued(
    bench: Bench, origin: Origin, descriptor: Descriptor, root: Path, left: int
) -> None:
    """What a process that died had received is not asked for again."""
    spool_path(root, descriptor).write_bytes(DATA[:left])
    assert await bench.pull(descriptor) == DATA
    assert [offset for _, _, offset in origin.requests] == [left]


async def test_promise_51_a_whole_spool_needs_no_upstream(
    bench: Bench, origin: Origin, descriptor: Descriptor, root: Path
) -> None:
    """A writer that died between its last byte and the commit had all of it."""
    spool_path(root, descriptor).write_bytes(DATA)
    assert await bench.pull(descriptor) == DATA
    assert origin.requests == []
    await idle(bench)
    assert await bench.store.read(descriptor.digest, SIZE) == DATA


async def test_a_wrong_whole_spool_is_nobody_s_lie(bench: Bench, origin: Origin, descriptor: Descriptor, root: Path) -> None:
    """Damaged bytes that were left behind are dropped, and the upstream is asked from the start."""
    spool_path(root, descriptor).write_bytes(b"x" + DATA[1:])
    assert await bench.pull(descriptor) == DATA
    assert [offset for _, _, offset in origin.requests] == [0]
    assert bench.told == []


async def test_a_reader_takes_over_from_a_writer_that_dies(
    make_bench: MakeBench, origin: Origin, descriptor: Descriptor, root: Path
) -> None:
    """The process that read along goes on where the dead one stopped; its clients notice nothing."""
    writer, reader = await make_bench(), await make_bench()
    spool = await writer.store.spool(descriptor.digest, SIZE)
    assert spool is not None
    await append(spool, DATA[:HALF])
    pulling = asyncio.ensure_future(reader.pull(descriptor))
    async with await reader.ingest.open(REPOSITORY, descriptor) as source:
        assert await source.available(0) == HALF
        assert origin.requests == []
        os.close(spool.fileno())  # what the system does for a process that was killed
        assert await drain(source) == DATA
    assert await pulling == DATA
    assert [offset for _, _, offset in origin.requests] == [HALF]


async def test_a_reader_is_cut_when_the_writer_throws_its_bytes_away(
    make_bench: MakeBench, origin: Origin, descriptor: Descriptor
) -> None:
    """Bytes of one attempt are never followed by bytes of another; a new client gets the blob from a new fetch."""
    writer, reader = await make_bench(), await make_bench()
    spool = await writer.store.spool(descriptor.digest, SIZE)
    assert spool is not None
    await append(spool, b"x" * HALF)
    async with await reader.ingest.open(REPOSITORY, descriptor) as source:
        assert await source.available(0) == HALF
        await spool.discard()
        with pytest.raises(BlobStoreUnavailable, match="gave up"):
            await source.available(HALF)
    assert await reader.pull(descriptor) == DATA


async def test_a_reader_that_has_seen_nothing_starts_afresh(make_bench: MakeBench, origin: Origin) -> None:
    """A writer that gives up before anything of it was handed out costs the readers only time."""
    descriptor = origin.add(REPOSITORY, DATA[:HOLDBACK])
    writer, reader = await make_bench(), await make_bench()
    spool = await writer.store.spool(descriptor.digest, HOLDBACK)
    assert spool is not None
    await append(spool, b"x" * 100)
    pulling = asyncio.ensure_future(reader.pull(descriptor))
    await asyncio.sleep(0.02)
    assert origin.requests == []
    await spool.discard()
    assert await pulling == DATA[:HOLDBACK]


async def test_a_writer_elsewhere_that_stands_still_is_not_waited_for(make_bench: MakeBench, descriptor: Descriptor) -> None:
    """A process that holds a blob and makes no progress is an outage after a while."""
    writer, reader = await make_bench(), await make_bench(stall=0.05)
    spool = await writer.store.spool(descriptor.digest, SIZE)
    assert spool is not None
    with pytest.raises(UpstreamUnavailable, match="no progress"):
        await reader.pull(descriptor)
    await spool.discard()
    assert await reader.pull(descriptor) == DATA


async def test_a_right_that_is_neither_free_nor_used_is_not_waited_for(
    make_bench: MakeBench, descriptor: Descriptor, root: Path
) -> None:
    """Where the right to write cannot be had and nothing grows either, the wait ends as well."""

    class Occupied(Files):
        def lock(self, fd: int, *, shared: bool = False) -> bool:
            (root / "spool" / f"sha256-{descriptor.digest.hex}").unlink()
            return False

    reader = await make_bench(files=Occupied(), stall=0.02)
    with pytest.raises(UpstreamUnavailable, match="no progress"):
        await reader.pull(descriptor)


async def test_what_another_process_stored_meanwhile_is_used(
    make_bench: MakeBench, origin: Origin, descriptor: Descriptor, root: Path
) -> None:
    """Between looking and getting the right to write another process may have stored the blob: no second fetch."""
    files = WaitingFiles("lock")
    slow, fast = await make_bench(files=files), await make_bench()
    await fast.store.recover()
    files.on = True
    pulling = asyncio.ensure_future(slow.pull(descriptor))
    assert await asyncio.to_thread(files.reached.wait, 10)
    await fast.store.put(descriptor.digest, DATA)
    files.go.set()
    assert await pulling == DATA
    assert origin.requests == []
    await idle(slow)
    assert slow.spools() == []
    assert open_files(root) == 0


# -- the end -------------------------------------------------------------------------------------------------------------


async def test_promise_59_closing_lets_fetches_end(bench: Bench, origin: Origin, descriptor: Descriptor, root: Path) -> None:
    """A fetch that ends within the time given is stored."""
    release = asyncio.Event()
    origin.script(REPOSITORY, Behaviour(hold_at=HALF, release=release))
    pulling = asyncio.ensure_future(bench.pull(descriptor))
    await until(lambda: origin.sent == HALF)
    closing = asyncio.ensure_future(bench.ingest.close(10))
    await asyncio.sleep(0.01)
    assert not closing.done()
    with pytest.raises(UpstreamUnavailable, match="shutting down"):
        await bench.ingest.open(REPOSITORY, origin.add(REPOSITORY, b"new"))
    release.set()
    await closing
    assert await pulling == DATA
    assert await bench.store.read(descriptor.digest, SIZE) == DATA
    async with await bench.ingest.open(REPOSITORY, descriptor) as source:  # what is stored needs no fetch
        assert source.complete


async def test_promise_59_closing_breaks_off_what_takes_too_long(
    bench: Bench, origin: Origin, descriptor: Descriptor, root: Path
) -> None:
    """A fetch that does not end is cut: clients hear it, nothing is left behind."""
    origin.script(REPOSITORY, Behaviour(hold_at=HALF, release=asyncio.Event()))
    pulls = [asyncio.ensure_future(bench.pull(descriptor)) for _ in range(3)]
    await until(lambda: origin.sent == HALF)
    await bench.ingest.close(0.01)
    results = await gathered(*pulls)
    assert all(isinstance(result, UpstreamUnavailable) for result in results)
    assert origin.open == 0
    assert bench.spools() == []
    assert await bench.store.open(descriptor.digest) is None
    assert open_files(root) == 0


async def test_closing_right_after_opening_leaves_nobody_waiting(bench: Bench, origin: Origin, descriptor: Descriptor) -> None:
    """A fetch that has hardly begun is broken off like any other."""
    source: Source = await bench.ingest.open(REPOSITORY, descriptor)
    await bench.ingest.close(0)
    with suppress(UpstreamUnavailable):
        assert await drain(source) == DATA
    source.close()
    assert bench.spools() == []


async def test_nothing_is_fetched_before_the_start(bench: Bench, origin: Origin, descriptor: Descriptor) -> None:
    """An ingest that was not started refuses."""
    ingest = Ingest(bench.store, origin)
    with pytest.raises(UpstreamUnavailable):
        await ingest.open(REPOSITORY, descriptor)
    await ingest.close(0)
