"""Attestations on the index, on each platform, or on either: through the whole proxy, with what is stored and served."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.test_signatures_over_http import KEYLESS, PROVENANCE, SIGSTORE, proxy_of
from tests.simulator import images, when
from tests.simulator.behaviours import status
from tests.simulator.images import Blob, Image
from tests.simulator.registry import Registry
from tests.simulator.sigstore import Signing, attestation_tag

THREE = ("linux/amd64", "linux/arm64", "linux/s390x")


def wanted(on: str) -> str:
    """A requirement for provenance on the index, the platforms, or either."""
    return f"{{attestation: {{type: '{PROVENANCE}', by: {KEYLESS}, on: {on}}}}}"


def attest(upstream: Registry, *about: Image, how: Signing | None = None) -> None:
    """As GitHub's actions do: a bundle that refers to each."""
    for each in about:
        upstream.refer("acme/app", SIGSTORE.attestation_referrer(each, PROVENANCE, {}, how or Signing()))


@pytest.mark.parametrize(
    ("on", "attested", "expected"),
    [
        ("index", "index", 200),
        ("index", "platforms", 403),
        ("index", "none", 403),
        ("platform", "index", 403),
        ("platform", "platforms", 200),
        ("platform", "all but one", 403),
        ("platform", "none", 403),
        ("either", "index", 200),
        ("either", "platforms", 200),
        ("either", "all but one", 403),
        ("either", "none", 403),
    ],
)
async def test_where_the_attestation_must_be(tmp_path: Path, on: str, attested: str, expected: int) -> None:
    """Each place by name; one platform without is a refusal, which names it."""
    async with Registry() as upstream, proxy_of(tmp_path, upstream, wanted(on)) as proxy:
        image = upstream.add("acme/app", images.multi_arch("app", THREE), "v1")
        about = {"index": [image], "platforms": image.images, "all but one": image.images[:2], "none": []}[attested]
        attest(upstream, *about)
        answer = await proxy.manifest("acme/app", "v1")
        assert answer.status == expected
        if attested == "all but one":
            assert f"platform linux/s390x ({image.images[2].digest.short})" in answer.error["message"]
        if expected == 200:
            for child in image.images:
                assert (await proxy.manifest("acme/app", child.digest)).body == child.body
                assert (await proxy.blob("acme/app", child.blobs[1].digest)).status == 200
        else:
            assert (await proxy.blob("acme/app", image.images[2].blobs[1].digest)).status == 403


@pytest.mark.parametrize("on", ["index", "platform", "either"])
async def test_an_image_of_one_platform_is_judged_itself(tmp_path: Path, on: str) -> None:
    """Without an index there is one manifest, and every place is that one; so it is for a platform pulled by digest."""
    async with Registry() as upstream, proxy_of(tmp_path, upstream, wanted(on)) as proxy:
        image = upstream.image("acme/app", "v1")
        assert (await proxy.manifest("acme/app", "v1")).status == 403
        child = upstream.add("acme/app", images.multi_arch("other"), "v2").images[0]
        attest(upstream, image, child)
        await proxy.reload(f'rules: [{{match: "**", require: {wanted(on)}}}]\n')
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        assert (await proxy.manifest("acme/app", child.digest)).status == 200


async def test_a_threshold_of_signers_holds_on_every_platform(tmp_path: Path) -> None:
    """GHSA-9vcr-p3rj-q5q6: two signers in all, but one of them alone on one platform, are not two."""

    def by(identity: str) -> str:
        who = f"{{root: private, issuer: '{Signing().issuer}', identity: '{identity}'}}"
        return f"{{attestation: {{type: '{PROVENANCE}', by: {who}, on: platform}}}}"

    both = f"{{at_least: 2, of: [{by('*@example.test')}, {by('o*@example.test')}]}}"
    release, other = Signing(identity="release@example.test"), Signing(identity="other@example.test")
    async with Registry() as upstream, proxy_of(tmp_path, upstream, both) as proxy:
        image = upstream.add("acme/app", images.multi_arch("app"), "v1")
        first, second = image.images
        attest(upstream, first, how=release)
        attest(upstream, *image.images, how=other)
        answer = await proxy.manifest("acme/app", "v1")
        assert answer.status == 403
        assert f"platform linux/arm64 ({second.digest.short}): at least 2" in answer.error["message"]
        attest(upstream, second, how=release)
        await proxy.reload(f'rules: [{{match: "**", require: {both}}}]\n')
        assert (await proxy.manifest("acme/app", "v1")).status == 200


async def test_a_platform_that_cannot_be_asked_is_no_refusal(tmp_path: Path) -> None:
    """503 while one platform's manifest is not to be had; accepted afterwards."""
    async with Registry() as upstream, proxy_of(tmp_path, upstream, wanted("platform")) as proxy:
        image = upstream.add("acme/app", images.multi_arch("app"), "v1")
        attest(upstream, *image.images)
        fault = upstream.on(when.manifest("GET", str(image.images[1].digest)), status(503))
        answer = await proxy.manifest("acme/app", "v1")
        assert (answer.status, answer.error["code"]) == (503, "UNAVAILABLE")
        assert f"platform linux/arm64 ({image.images[1].digest.short})" in answer.error["message"]
        fault.off()
        assert (await proxy.manifest("acme/app", "v1")).status == 200


async def test_a_platform_that_is_missing_upstream_has_no_attestation(tmp_path: Path) -> None:
    """An index may list what is not there; nobody has said anything about that."""
    async with Registry() as upstream, proxy_of(tmp_path, upstream, wanted("platform")) as proxy:
        image = upstream.add("acme/app", images.multi_arch("app"), "v1")
        attest(upstream, *image.images)
        upstream.on(when.manifest("GET", str(image.images[1].digest)), status(404))
        answer = await proxy.manifest("acme/app", "v1")
        assert answer.status == 403
        assert "is listed by the index, but is not there" in answer.error["message"]


async def test_buildkits_attestation_manifest_is_no_platform(tmp_path: Path) -> None:
    """What BuildKit lists beside the image as unknown/unknown need not be attested itself, and is served."""
    async with Registry() as upstream, proxy_of(tmp_path, upstream, wanted("platform")) as proxy:
        image = upstream.add("acme/app", images.buildkit_index("app"), "v1")
        attest(upstream, image.images[0])
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        assert (await proxy.manifest("acme/app", image.images[1].digest)).body == image.images[1].body


async def test_a_runnable_image_that_calls_itself_evidence_is_refused(tmp_path: Path) -> None:
    """Layers of an evidence type under an image's config might be unpacked: what is no text there is no evidence."""
    async with Registry() as upstream, proxy_of(tmp_path, upstream, wanted("platform")) as proxy:
        good = images.image("app")
        config, layer = good.blobs[0], good.blobs[1]
        claimed = Blob(images.IN_TOTO, layer.data)
        body = {"schemaVersion": 2, "mediaType": images.OCI_MANIFEST, "config": config.entry(), "layers": [claimed.entry()]}
        hidden = Image(images.OCI_MANIFEST, images.encode(body), (config, claimed))
        image = upstream.add("acme/app", images.index([good, hidden], platforms=["linux/amd64", "unknown/unknown"]), "v1")
        attest(upstream, good)
        answer = await proxy.manifest("acme/app", "v1")
        assert answer.status == 403
        assert "calls itself evidence" in answer.error["message"]
        assert (await proxy.manifest("acme/app", image.images[1].digest)).status == 403


@pytest.mark.parametrize(("most", "expected"), [(3, 200), (2, 403)])
async def test_the_number_of_platforms_is_bounded(tmp_path: Path, most: int, expected: int) -> None:
    """An index with more manifests than the limit is refused without asking for any of them."""
    limits = f"limits: {{platforms: {most}}}\n"
    async with Registry() as upstream, proxy_of(tmp_path, upstream, wanted("platform"), limits) as proxy:
        image = upstream.add("acme/app", images.multi_arch("app", THREE), "v1")
        attest(upstream, *image.images)
        answer = await proxy.manifest("acme/app", "v1")
        assert answer.status == expected
        if expected == 403:
            assert "limits.platforms" in answer.error["message"]
            assert not any(upstream.count("GET", str(child.digest)) for child in image.images)


async def test_an_index_of_nothing_passes_nothing(tmp_path: Path) -> None:
    """CVE-2025-25204: no platforms are no attestations."""
    async with Registry() as upstream, proxy_of(tmp_path, upstream, wanted("platform")) as proxy:
        upstream.add("acme/app", images.index([]), "v1")
        assert (await proxy.manifest("acme/app", "v1")).status == 403


async def test_an_index_in_an_index_is_not_judged_by_platform(tmp_path: Path) -> None:
    """Its own platforms would go unjudged."""
    async with Registry() as upstream, proxy_of(tmp_path, upstream, wanted("platform")) as proxy:
        inner = images.multi_arch("app")
        upstream.add("acme/app", images.index([inner], platforms=["linux/amd64"]), "v1")
        attest(upstream, inner)
        answer = await proxy.manifest("acme/app", "v1")
        assert answer.status == 403
        assert "an index in an index" in answer.error["message"]


async def test_platforms_are_judged_again_without_the_upstream(tmp_path: Path) -> None:
    """Manifests and evidence of the platforms are kept with the verdict, and a new rule is answered by them."""
    async with Registry() as upstream, proxy_of(tmp_path, upstream, wanted("platform"), "check_interval: 1h\n") as proxy:
        image = upstream.add("acme/app", images.multi_arch("app"), "v1")
        attest(upstream, image.images[0])
        tagged = SIGSTORE.attestation_image(image.images[1].digest, PROVENANCE, {})
        upstream.add("acme/app", tagged, attestation_tag(image.images[1].digest))
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        upstream.on(when.registry(), status(503))
        await proxy.reload(f'rules: [{{match: "**", require: {wanted("either")}}}]\n')
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        assert (await proxy.manifest("acme/app", image.images[1].digest)).status == 200
        assert (await proxy.manifest("acme/app", tagged.digest)).body == tagged.body


async def test_each_layer_of_a_judged_platform_is_reached(tmp_path: Path) -> None:
    """Clients that know an image ask for its layers at once; the manifests were read already, and are not fetched again."""
    async with Registry() as upstream, proxy_of(tmp_path, upstream, wanted("platform")) as proxy:
        image = upstream.add("acme/app", images.multi_arch("app"), "v1")
        attest(upstream, *image.images)
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        for child in image.images:
            for blob in child.blobs:
                assert (await proxy.blob("acme/app", blob.digest)).body == blob.data
            assert upstream.count("GET", f"/manifests/{child.digest}") == 1
