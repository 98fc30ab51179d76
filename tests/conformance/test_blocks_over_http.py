"""A block is felt at once by whatever is under way, over real sockets: pulls, bodies, evidence, dry runs; and so is its end."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from storage.digest import Digest
from storage.records import Block, EventType, PinState
from tests.conformance.test_admission_over_http import ask
from tests.conformance.test_tls_over_http import Files
from tests.harness import Proxy, until
from tests.simulator import signing, when
from tests.simulator.behaviours import hold, stall
from tests.simulator.images import Image
from tests.simulator.kubernetes import pod, review
from tests.simulator.registry import Registry
from tests.tools import PATIENCE

#: More than the buffers of a connection hold.
LARGE = 12 << 20


@pytest.fixture
async def upstream() -> AsyncIterator[Registry]:
    """A registry."""
    async with Registry() as registry:
        yield registry


def signed(proxy: Proxy, upstream: Registry, **options: Any) -> Image:
    """An image that passes."""
    image = upstream.image("acme/app", "v1", **options)
    upstream.sign("acme/app", image.digest, proxy.signer)
    return image


async def block(proxy: Proxy, digest: Digest) -> None:
    """As ``tagstone block`` does; until every worker (there is one) has heard of it."""
    heard = proxy.application.gate.withdrawals
    await proxy.application.catalog.block(Block(digest, "malicious", "on-call", datetime.now(UTC)))
    await until(lambda: proxy.application.gate.withdrawals > heard)


async def unblock(proxy: Proxy, digest: Digest) -> None:
    """As ``tagstone unblock`` does."""
    heard = proxy.application.gate.withdrawals
    assert await proxy.application.catalog.unblock(digest, by="on-call", reason="", at=datetime.now(UTC))
    await until(lambda: proxy.application.gate.withdrawals > heard)


async def test_a_pull_that_waits_for_its_upstream_feels_a_block(tmp_path: Path, upstream: Registry) -> None:
    """What is pinned and was found good is not served when it is blocked before the upstream has answered."""
    async with Proxy(tmp_path, upstream) as proxy:
        image = signed(proxy, upstream)
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        release = asyncio.Event()
        fault = upstream.on(when.manifest("HEAD", "v1"), hold(release))
        pull = asyncio.create_task(proxy.manifest("acme/app", "v1"))
        await until(lambda: fault.fired)
        await block(proxy, image.digest)
        release.set()
        answer = await pull
        assert (answer.status, "malicious" in answer.error["message"]) == (403, True)
        await unblock(proxy, image.digest)
        assert (await proxy.manifest("acme/app", "v1")).digest == str(image.digest)
        pin = await proxy.pin("acme/app:v1")
        assert pin is not None
        assert (pin.state, pin.digest) == (PinState.PINNED, image.digest)
        states = [event.type for event in await proxy.events(open_only=True) if event.type is EventType.PIN_REVOKED]
        assert states == [], "it is as if nothing had been"


@asynccontextmanager
async def downloading(
    proxy: Proxy, digest: Digest, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, int]]:
    """A client that has begun to take a blob, and takes no more for now; and how long the blob is."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", proxy.worker.ports[0]))
    reader, writer = await asyncio.open_connection(sock=client, ssl=tls, server_hostname=None if tls is None else "localhost")
    try:
        writer.write(f"GET /v2/reg.example/acme/app/blobs/{digest} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)).lower()
        assert head.startswith(b"http/1.1 200 "), head
        yield reader, int(head.partition(b"content-length: ")[2].split()[0])
    finally:
        writer.transport.abort()


async def rest(reader: asyncio.StreamReader) -> int:
    """How many bytes come until the connection ends."""
    count = 0
    try:
        while piece := await asyncio.wait_for(reader.read(1 << 20), PATIENCE):
            count += len(piece)
    except OSError:
        pass  # it was cut: that is what is looked for
    return count


@pytest.mark.parametrize(("what", "encrypted"), [("manifest", False), ("layer", True)], ids=["manifest", "layer over TLS"])
async def test_what_is_on_its_way_is_cut(tmp_path: Path, upstream: Registry, what: str, encrypted: bool) -> None:
    """Who has begun to take a layer does not get the end of it once the layer, or the image, is blocked."""
    files = Files(tmp_path / "tls")
    top = f"tls: {{certificate: {files.folder}/tls.crt, key: {files.folder}/tls.key}}" if encrypted else ""
    trust = files.client() if encrypted else None
    async with Proxy(tmp_path, upstream, top=top, tls=trust) as proxy:
        image = signed(proxy, upstream, layer_size=LARGE)
        layer = image.layers[0].digest
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        assert (await proxy.blob("acme/app", layer)).status == 200
        async with downloading(proxy, layer, trust) as (reader, size):
            await block(proxy, image.digest if what == "manifest" else layer)
            assert await rest(reader) < size


async def test_what_is_still_allowed_is_not_cut(tmp_path: Path, upstream: Registry) -> None:
    """The block of something else takes nothing from it."""
    async with Proxy(tmp_path, upstream) as proxy:
        image = signed(proxy, upstream, layer_size=LARGE)
        layer = image.layers[0].digest
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        assert (await proxy.blob("acme/app", layer)).status == 200
        async with downloading(proxy, layer) as (reader, size):
            await block(proxy, Digest.of(b"something else"))
            assert len(await asyncio.wait_for(reader.readexactly(size), PATIENCE)) == image.layers[0].size


async def test_what_arrives_while_it_is_blocked_is_refused(tmp_path: Path, upstream: Registry) -> None:
    """The upstream is slow to begin a layer: who waits for it is told of the block, and gets no byte."""
    async with Proxy(tmp_path, upstream) as proxy:
        image = signed(proxy, upstream, layer_size=300_000)
        layer = image.layers[0].digest
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        release = asyncio.Event()
        fault = upstream.on(when.blob("GET", layer), hold(release))
        pull = asyncio.create_task(proxy.blob("acme/app", layer))
        await until(lambda: fault.fired)
        await block(proxy, image.digest)
        release.set()
        answer = await pull
        assert (answer.status, "malicious" in answer.error["message"]) == (403, True)


async def test_what_is_still_arriving_is_cut(tmp_path: Path, upstream: Registry) -> None:
    """The upstream stops in the middle of a layer; what comes after the block is kept, and not handed out."""
    async with Proxy(tmp_path, upstream) as proxy:
        image = signed(proxy, upstream, layer_size=2 << 20)
        layer = image.layers[0].digest
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        release = asyncio.Event()
        upstream.on(when.blob("GET", layer), stall(1 << 20, release))
        async with downloading(proxy, layer) as (reader, size):
            await block(proxy, layer)
            release.set()
            assert await rest(reader) < size


@pytest.mark.parametrize("what", ["manifest", "payload"])
async def test_a_blocked_signature_is_not_served_under_its_tag(tmp_path: Path, upstream: Registry, what: str) -> None:
    """By tag as by digest, and by what it needs; the image that it speaks of stays what it was."""
    async with Proxy(tmp_path, upstream) as proxy:
        image = upstream.image("acme/app", "v1")
        signature = upstream.sign("acme/app", image.digest, proxy.signer)
        tag = signing.signature_tag(image.digest)
        assert (await proxy.manifest("acme/app", tag)).digest == str(signature.digest)
        blocked = signature.digest if what == "manifest" else signature.layers[0].digest
        await block(proxy, blocked)
        for reference in (tag, signature.digest):
            answer = await proxy.manifest("acme/app", reference)
            assert (answer.status, "malicious" in answer.error["message"]) == (403, True)
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        await unblock(proxy, blocked)
        assert (await proxy.manifest("acme/app", tag)).digest == str(signature.digest)


async def test_a_dry_run_feels_a_block_and_its_end(tmp_path: Path, upstream: Registry) -> None:
    """What was explained a moment ago is explained anew; so it is after the block was taken back."""
    async with Proxy(tmp_path, upstream, top="admission: {}\ncheck_interval: 1h\nlimits: {refusal_ttl: 1h}") as proxy:
        image = signed(proxy, upstream)
        thing = review(pod("reg.example/acme/app:v1", f"reg.example/acme/app@{image.digest}"), dry_run=True)
        assert (await ask(proxy, thing))["allowed"]
        await block(proxy, image.digest)
        assert not (await ask(proxy, thing))["allowed"]
        await unblock(proxy, image.digest)
        assert (await ask(proxy, thing))["allowed"]


async def test_no_tag_rotates_to_what_needs_something_blocked(tmp_path: Path, upstream: Registry) -> None:
    """A layer is blocked before anybody has seen the image that needs it: the pin stays where it is, and is served."""
    rules = """
rules:
  - match: reg.example/acme/**
    require: {signature: {key: release-key}}
    tags: [{match: "*", on_overwrite: rotate, cooldown: 0s, otherwise: serve-pinned}]
"""
    async with Proxy(tmp_path, upstream, rules=rules) as proxy:
        good = signed(proxy, upstream)
        assert (await proxy.manifest("acme/app", "v1")).digest == str(good.digest)
        bad = upstream.image("acme/app", None, seed="bad")
        upstream.sign("acme/app", bad.digest, proxy.signer)
        await block(proxy, bad.layers[0].digest)
        upstream.tag("acme/app", "v1", bad.digest)
        for _ in range(3):
            assert (await proxy.manifest("acme/app", "v1")).digest == str(good.digest)
            await proxy.application.gate.judged()
        pin = await proxy.pin("acme/app:v1")
        assert pin is not None
        assert (pin.digest, pin.state) == (good.digest, PinState.OVERWRITTEN)


async def test_a_dry_run_sees_what_nobody_has_seen_yet(tmp_path: Path, upstream: Registry) -> None:
    """An image that was never pulled and needs a blocked layer would be refused: a dry run says so, as the pull does."""
    async with Proxy(tmp_path, upstream, top="admission: {}\ncheck_interval: 1h") as proxy:
        image = signed(proxy, upstream)
        await block(proxy, image.layers[0].digest)
        for name in ("reg.example/acme/app:v1", f"reg.example/acme/app@{image.digest}"):
            for dry_run in (True, False):
                found = await ask(proxy, review(pod(name), dry_run=dry_run))
                assert (found["allowed"], "malicious" in found["status"]["message"]) == (False, True), (name, dry_run)
