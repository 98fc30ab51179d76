"""What a hostile reading found: ways around, ways to break what worked, and ways to make the proxy grow."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from storage.records import Block
from tests.harness import Proxy, until
from tests.simulator import images, signing, when
from tests.simulator.behaviours import hold
from tests.simulator.images import Blob, Image
from tests.simulator.registry import Registry

SPDX = "application/spdx+json"


@pytest.mark.parametrize("stored", [False, True], ids=["cold", "stored"])
async def test_what_evidence_says_of_a_layer_does_not_count_against_the_image(tmp_path: Path, stored: bool) -> None:
    """Anybody who may push can attach an SBOM that names a layer of a signed image with another size: the layer is served."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        image = upstream.image("acme/app", "v1", layer_size=500_000)
        upstream.sign("acme/app", image.digest, proxy.signer)
        layer = image.layers[0]
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        if stored:
            assert (await proxy.blob("acme/app", layer.digest)).status == 200
        lie = json.loads(images.artifact(SPDX, [(Blob(SPDX, b"{}"), None)], subject=image.descriptor).body)
        lie["layers"][0] |= {"digest": str(layer.digest), "size": 1}
        sbom = upstream.refer("acme/app", Image(images.OCI_MANIFEST, images.encode(lie)))
        assert (await proxy.manifest("acme/app", sbom.digest)).status == 200
        await proxy.restart()
        assert (await proxy.blob("acme/app", layer.digest, "HEAD")).headers["Content-Length"] == str(layer.size)
        answer = await proxy.blob("acme/app", layer.digest)
        assert (answer.status, len(answer.body)) == (200, layer.size)


@pytest.mark.parametrize("lie", ["size", "kind"])
async def test_a_later_image_cannot_break_the_layers_of_an_earlier_one(tmp_path: Path, lie: str) -> None:
    """Who controls a first-use repository can push what names a cached layer with another size, or as a manifest: no matter."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        image = upstream.image("open/app", "v1", layer_size=500_000)
        layer = image.layers[0]
        assert (await proxy.manifest("open/app", "v1")).status == 200
        assert (await proxy.blob("open/app", layer.digest)).status == 200
        if lie == "size":
            document = json.loads(image.body)
            document["layers"][0]["size"] = 1
            upstream.manifest("open/app", images.encode(document), image.media_type, "v2")
        else:
            entry = images.entry(layer) | {"mediaType": images.OCI_MANIFEST}
            upstream.index("open/app", "v2", images=[], entries=[entry])
        assert (await proxy.manifest("open/app", "v2")).status == 200
        await upstream.stop()
        await proxy.restart()
        answer = await proxy.blob("open/app", layer.digest)
        assert (answer.status, len(answer.body)) == (200, layer.size)


async def test_a_block_is_felt_by_pulls_that_are_being_judged(tmp_path: Path) -> None:
    """A digest that is blocked while its signatures are fetched is neither pinned nor served, to nobody who waits for it."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        image = upstream.image("acme/app", "v1")
        upstream.sign("acme/app", image.digest, proxy.signer)
        judged = asyncio.Event()
        fault = upstream.on(when.manifest("GET", signing.signature_tag(image.digest)), hold(judged))
        early = [asyncio.create_task(proxy.manifest("acme/app", reference)) for reference in ("v1", image.digest)]
        await until(lambda: fault.fired)
        await proxy.application.catalog.block(Block(image.digest, "malicious", "on-call", datetime.now(UTC)))
        late = asyncio.create_task(proxy.manifest("acme/app", "v1"))
        judged.set()
        assert [answer.status for answer in await asyncio.gather(*early, late)] == [403, 403, 403]
        assert await proxy.pin("acme/app:v1") is None
