"""Bytes that are one thing here and another there: what is admitted as a blob is not admitted as a manifest."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness import Proxy
from tests.simulator import images
from tests.simulator.images import Blob, Image
from tests.simulator.registry import Registry

SPDX = "application/spdx+json"


async def nothing_of(proxy: Proxy, image: Image) -> None:
    """Neither by digest nor by tag is anything of an image served, in whatever order it is asked for."""
    for _ in range(2):
        for reference in (image.digest, "evil"):
            for method in ("HEAD", "GET"):
                assert (await proxy.manifest("acme/app", reference, method)).status == 403
        for blob in image.blobs:
            assert (await proxy.blob("acme/app", blob.digest)).status == 403


@pytest.mark.parametrize("api", [True, False], ids=["referrers API", "referrers tag"])
async def test_promise_48_a_blob_of_evidence_is_no_image(scratch: Path, api: bool) -> None:
    """Anybody who may push can attach an SBOM that spells an image's manifest to a signed image: it stays an SBOM."""
    async with Registry(referrers_api=api) as upstream, Proxy(scratch, upstream) as proxy:
        good = upstream.image("acme/app", "v1")
        upstream.sign("acme/app", good.digest, proxy.signer)
        evil = upstream.image("acme/app", "evil", seed="evil")
        sbom = images.artifact(SPDX, [(Blob(SPDX, evil.body), None)], subject=good.descriptor)
        upstream.refer("acme/app", sbom)
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        assert (await proxy.manifest("acme/app", sbom.digest)).status == 200
        assert (await proxy.blob("acme/app", evil.digest)).body == evil.body
        await nothing_of(proxy, evil)
        await proxy.restart()
        await nothing_of(proxy, evil)


async def test_promise_48_a_file_in_a_signed_artifact_is_no_image(scratch: Path) -> None:
    """A signature over an artifact speaks for its files as files, not for what one of them would be as a manifest."""
    async with Registry() as upstream, Proxy(scratch, upstream) as proxy:
        evil = upstream.image("acme/app", "evil", seed="evil")
        files = images.artifact("application/vnd.example.files", [(Blob("application/octet-stream", evil.body), None)])
        upstream.add("acme/app", files, "v1")
        upstream.sign("acme/app", files.digest, proxy.signer)
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        assert (await proxy.blob("acme/app", evil.digest)).body == evil.body
        await nothing_of(proxy, evil)


async def test_promise_48_a_list_of_referrers_admits_nothing_it_lists(scratch: Path) -> None:
    """Not even where the list is also the content of an SBOM, so that it is known in two ways."""
    async with Registry(referrers_api=False) as upstream, Proxy(scratch, upstream) as proxy:
        good = upstream.image("acme/app", "v1")
        upstream.sign("acme/app", good.digest, proxy.signer)
        evil = upstream.image("acme/app", "evil", seed="evil")
        listed = upstream.add("acme/app", images.referrers_index([evil.entry()]), images.referrers_tag(good.digest))
        sbom = images.artifact(SPDX, [(Blob(SPDX, listed.body), None)], subject=good.descriptor)
        upstream.add("acme/app", sbom)
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        assert (await proxy.manifest("acme/app", sbom.digest)).status == 200
        assert (await proxy.manifest("acme/app", images.referrers_tag(good.digest))).status == 200
        await proxy.manifest("acme/app", listed.digest)
        await nothing_of(proxy, evil)
