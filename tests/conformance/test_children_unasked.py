"""Clients that have an image's manifest from elsewhere ask for its layers without asking for the manifest here."""

from __future__ import annotations

import asyncio
from pathlib import Path

from storage.digest import Digest
from tests.harness import Proxy
from tests.simulator import images, when
from tests.simulator.behaviours import status
from tests.simulator.images import Image
from tests.simulator.registry import Registry


def _multi(upstream: Registry, seed: str, tag: str | None = "v1") -> Image:
    return upstream.add("open/app", images.multi_arch(seed), tag)


async def test_layers_of_an_accepted_index_are_served_before_its_children_were_asked_for(tmp_path: Path) -> None:
    """The children are read then, each once however many layers are asked for at the same time."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        image = _multi(upstream, "one")
        assert (await proxy.manifest("open/app", "v1", "HEAD")).status == 200
        wanted = [blob for child in image.images for blob in child.blobs]
        answers = await asyncio.gather(*(proxy.blob("open/app", blob.digest) for blob in wanted))
        assert [answer.body for answer in answers] == [blob.data for blob in wanted]
        for child in image.images:
            assert upstream.count("GET", f"/manifests/{child.digest}") == 1


async def test_what_no_index_reaches_stays_refused_and_costs_nothing_more(tmp_path: Path) -> None:
    """After the children were read once, guessing digests does not reach the upstream any more."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        _multi(upstream, "one")
        other = _multi(upstream, "never pulled", None)
        assert (await proxy.manifest("open/app", "v1")).status == 200
        assert (await proxy.blob("open/app", other.images[0].layers[0].digest)).status == 403
        before = len(upstream.requests)
        for guess in range(3):
            assert (await proxy.blob("open/app", Digest.of(b"%d" % guess))).status == 403
        assert len(upstream.requests) == before


async def test_a_refused_index_lends_its_children_nothing(tmp_path: Path) -> None:
    """Layers below an unsigned index are refused, and nothing of it is fetched for them."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        image = upstream.add("acme/app", images.multi_arch("unsigned"), "v1")
        assert (await proxy.manifest("acme/app", "v1")).status == 403
        assert (await proxy.blob("acme/app", image.images[0].layers[0].digest)).status == 403
        assert not any(upstream.count("GET", f"/manifests/{child.digest}") for child in image.images)


async def test_a_child_that_is_missing_upstream_keeps_nobody_from_the_others(tmp_path: Path) -> None:
    """Mirrors leave platforms out: the layers of those that are there are served, at whatever place they are listed."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        image = _multi(upstream, "one")
        fault = upstream.on(when.manifest("GET", str(image.images[1].digest)), status(404))
        assert (await proxy.manifest("open/app", "v1")).status == 200
        assert (await proxy.blob("open/app", image.images[0].layers[0].digest)).status == 200
        assert fault.fired
        assert (await proxy.blob("open/app", image.images[1].layers[0].digest)).status == 403


async def test_an_outage_is_no_verdict_on_a_layer(tmp_path: Path) -> None:
    """While the children cannot be read the answer is 503 with the reason; afterwards the layer is served."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        image = _multi(upstream, "one")
        assert (await proxy.manifest("open/app", "v1")).status == 200
        fault = upstream.on(when.manifest("GET"), status(503), times=2)
        answer = await proxy.blob("open/app", image.images[0].layers[0].digest)
        assert fault.fired
        assert answer.status == 503
        assert "Retry-After" in answer.headers
        assert "cannot be told now" in answer.error["message"]
        assert (await proxy.blob("open/app", image.images[0].layers[0].digest)).status == 200
