"""The 25 ways of real upstreams, seen by a client of the proxy that stands before them.

What the upstream client alone makes of each stands in :mod:`tests.conformance.test_upstream_scenarios`. Here is what comes out at
the other end: the right bytes, or the right refusal in words for people, and what has become of the pin.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from storage.records import EventType, PinState
from tests.conformance.test_upstream_scenarios import helper, leaked
from tests.harness import Proxy, Reply, until
from tests.simulator import images, signing, when
from tests.simulator.behaviours import header
from tests.simulator.images import Image
from tests.simulator.profiles import World, profile

TEAM = "team/app"
FIRST_USE = """
rules:
  - {match: reg.example/team/**, require: first-use}
  - {match: "**", require: deny}
"""
SIGNED = FIRST_USE.replace("first-use", "{signature: {key: release-key}}")
NO_RETRIES = "retries: 0"
USER = "auth: {username: user, password: secret}"


@asynccontextmanager
async def before(
    name: str, folder: Path, *, rules: str = FIRST_USE, options: str = NO_RETRIES
) -> AsyncIterator[tuple[World, Proxy]]:
    """A proxy before the upstream with this name, none of whose traps may have been sprung in the end."""
    async with profile(name) as world, Proxy(folder, world, rules=rules, upstream_options=options) as proxy:
        yield world, proxy
        assert world.traps() == {}


async def pull(proxy: Proxy, image: Image, reference: object) -> Reply:
    """Pull as containerd does (HEAD of the tag, then everything by digest) and check each byte; the answer to the HEAD."""
    answer = await proxy.manifest(TEAM, reference, "HEAD")
    assert (answer.status, answer.digest, answer.body) == (200, str(image.digest), b"")
    await _pull_all(proxy, image)
    return answer


async def _pull_all(proxy: Proxy, image: Image) -> None:
    manifest = await proxy.manifest(TEAM, image.digest)
    assert (manifest.status, manifest.headers["Content-Type"], manifest.body) == (200, image.media_type, image.body)
    for child in image.images:
        await _pull_all(proxy, child)
    # The layers first: where an upstream breaks the first blob off, it shall be a large one.
    for blob in reversed(image.blobs):
        assert_whole(await proxy.blob(TEAM, blob.digest), blob)


def assert_whole(answer: Reply, blob: images.Blob) -> None:
    """All of a blob, raw, under its digest."""
    assert (answer.status, answer.digest, answer.cut) == (200, str(blob.digest), False)
    assert answer.body == blob.data


def assert_denied(answer: Reply, *words: str) -> None:
    """403 DENIED with these words where the one client shows them, and where the other does."""
    assert (answer.status, answer.error["code"]) == (403, "DENIED")
    for word in words:
        assert word in answer.error["message"]
        assert word in answer.reason


def assert_outage(answer: Reply, *words: str) -> None:
    """503 with a time to come back and these words."""
    assert (answer.status, answer.error["code"]) == (503, "UNAVAILABLE")
    assert int(answer.headers["Retry-After"]) >= 1
    for word in words:
        assert word in answer.error["message"]


async def assert_kept(proxy: Proxy, world: World, *words: str) -> None:
    """The tag is still what it was pinned to, with all its bytes, and a warning says what is the matter upstream."""
    answer = await pull(proxy, world.image, world.tag)
    assert answer.headers["Warning"].startswith("299 ")
    for word in words:
        assert word in answer.headers["Warning"]
    pin = await proxy.pin(f"{TEAM}:{world.tag}")
    assert pin is not None
    assert pin.digest == world.image.digest


async def test_scenario_01_hub_anonymous_through_the_proxy(scratch: Path) -> None:
    """A whole pull costs one anonymous token, and what is left of the rate limit stands in the metrics."""
    async with before("hub-anonymous", scratch) as (world, proxy):
        await pull(proxy, world.image, world.tag)
        await pull(proxy, world.image, world.tag)
        assert len(world.tokens.asked()) == 1
        assert not leaked(world.tokens.site)
        assert 'tagstone_upstream_ratelimit_remaining{upstream="reg.example"} 99.0' in (await proxy.metrics()).splitlines()
        assert world.faults["ratelimit"].fired == 2, "one GET and, as the tag was pinned then, one HEAD, which is free"


async def test_scenario_02_hub_missing_repo_through_the_proxy(scratch: Path) -> None:
    """A token that does not suffice is told as denied or missing, pins nothing, and takes nothing from what is pinned."""
    async with before("hub-missing-repo", scratch) as (world, proxy):
        insufficient = world.faults["insufficient"]
        assert_denied(await proxy.manifest(TEAM, world.tag), "the upstream refuses", "or it does not exist")
        assert 1 <= insufficient.fired <= 2
        assert await proxy.pin(f"{TEAM}:{world.tag}") is None
        insufficient.off()
        await pull(proxy, world.image, world.tag)
        insufficient.again()
        await assert_kept(proxy, world, "could not be asked")
        assert not await proxy.events()


async def test_scenario_03_hub_missing_tag_through_the_proxy(scratch: Path) -> None:
    """A missing tag is a 404, and no longer one as soon as it is there."""
    async with before("hub-missing-tag", scratch) as (world, proxy):
        for method in ("HEAD", "GET"):
            assert (await proxy.manifest(TEAM, world.tag, method)).status == 404
        assert (await proxy.manifest(TEAM, world.tag)).error["code"] == "MANIFEST_UNKNOWN"
        world.registry.tag(TEAM, world.tag, world.image.digest)
        await pull(proxy, world.image, world.tag)
        world.registry.untag(TEAM, world.tag)
        await assert_kept(proxy, world, "deleted upstream")
        assert [event.type for event in await proxy.events(open_only=True)] == [EventType.TAG_DELETED]


async def test_scenario_04_hub_429_through_the_proxy(scratch: Path) -> None:
    """Over the limit, an unpinned tag is a 503; a pinned one is served, also when the header alone says that it moved."""
    async with before("hub-429", scratch) as (world, proxy):
        limit = world.faults["limit"]
        assert_outage(await proxy.manifest(TEAM, world.tag), "429", "pull rate limit")
        limit.off()
        await pull(proxy, world.image, world.tag)
        limit.again()
        assert "Warning" not in (await pull(proxy, world.image, world.tag)).headers, "HEAD is free, and confirms the pin"
        world.registry.image(TEAM, world.tag, seed="another")
        fired = limit.fired
        await assert_kept(proxy, world, "could not be asked", "429")
        assert limit.fired > fired
        assert not await proxy.events(), "a header alone raises no alarm"


async def test_scenario_05_hub_abuse_through_the_proxy(scratch: Path) -> None:
    """A token host that says 429 in text is an outage; then it is left alone for a while, which clients are told."""
    options = "retries: 0, breaker_failures: 2, breaker_cooldown: 2s"
    async with before("hub-abuse", scratch, options=options) as (world, proxy):
        abuse = world.faults["abuse"]
        for _ in range(2):
            assert_outage(await proxy.manifest(TEAM, world.tag), "429")
        for _ in range(3):
            answer = await proxy.manifest(TEAM, world.tag)
            assert_outage(answer, "left alone")
            assert int(answer.headers["Retry-After"]) <= 2
        assert abuse.fired == 2
        assert 'tagstone_upstream_breaker_open{upstream="reg.example"} 1.0' in (await proxy.metrics()).splitlines()
        abuse.off()

        async def recovered() -> bool:
            return (await proxy.manifest(TEAM, world.tag)).status == 200

        await until(recovered)
        await pull(proxy, world.image, world.tag)
        world.tokens.expire()
        abuse.again()
        await assert_kept(proxy, world, "could not be asked")
        assert abuse.fired == 3


async def test_scenario_06_hub_accept_through_the_proxy(scratch: Path) -> None:
    """Whatever the client accepts, it gets the index, and the attestation among its entries with all its bytes."""
    async with before("hub-accept", scratch) as (world, proxy):
        for accept in (images.OCI_MANIFEST, images.DOCKER_MANIFEST, "*/*"):
            answer = await proxy.manifest(TEAM, world.tag, Accept=accept)
            assert (answer.status, answer.digest) == (200, str(world.image.digest))
        attestation = world.image.images[1]
        assert b'"unknown"' in world.image.body
        await pull(proxy, world.image, world.tag)
        assert world.registry.count("GET", f"/blobs/{attestation.layers[0].digest}") == 1


async def test_scenario_07_r2_authorization_through_the_proxy(scratch: Path) -> None:
    """All blobs come from the storage, to which the registry's token does not go."""
    async with before("r2-authorization", scratch) as (world, proxy):
        await pull(proxy, world.image, world.tag)
        assert world.faults["redirect"].fired == 2
        assert world.storage.count("GET") == 2
        assert not leaked(world.storage)


async def test_scenario_08_exact_url_through_the_proxy(scratch: Path) -> None:
    """Signed URLs are followed byte for byte."""
    async with before("exact-url", scratch) as (world, proxy):
        await pull(proxy, world.image, world.tag)
        assert [seen.status for seen in world.storage.requests] == [200, 200]
        assert all("sig=a%2Bb%2F%3D" in seen.target for seen in world.storage.requests)


async def test_scenario_09_url_expired_through_the_proxy(scratch: Path) -> None:
    """A blob whose first answer broke off, and whose URL had expired by then, is one whole right answer to the client."""
    async with before("url-expired", scratch) as (world, proxy):
        await pull(proxy, world.image, world.tag)
        assert (world.faults["cut"].fired, world.faults["expired"].fired) == (1, 1)
        assert [seen.status for seen in world.storage.requests][:3] == [200, 403, 206]


async def test_scenario_10_range_ignored_through_the_proxy(scratch: Path) -> None:
    """An upstream that cannot resume costs a second download, not a wrong blob."""
    async with before("range-ignored", scratch) as (world, proxy):
        await pull(proxy, world.image, world.tag)
        assert (world.faults["cut"].fired, world.faults["range"].fired) == (1, 1)


async def test_scenario_11_ghcr_placeholder_through_the_proxy(scratch: Path) -> None:
    """The scope of the request is asked for, never the placeholder."""
    async with before("ghcr-placeholder", scratch) as (world, proxy):
        await pull(proxy, world.image, world.tag)
        assert {seen.query["scope"] for seen in world.tokens.asked()} == {"repository:team/app:pull"}


async def test_scenario_12_ghcr_denied_through_the_proxy(scratch: Path) -> None:
    """A token that is denied is a 403 that says so, no outage, and forgotten as soon as it is granted."""
    async with before("ghcr-denied", scratch) as (world, proxy):
        assert_denied(await proxy.manifest(TEAM, world.tag), "the upstream refuses", "or it does not exist")
        assert len(world.tokens.asked()) == 1
        world.tokens.grants = lambda scope: True
        await pull(proxy, world.image, world.tag)


async def test_scenario_13_ghcr_referrers_through_the_proxy(scratch: Path) -> None:
    """A bundle under the fallback tag admits the image, and the proxy lists it; the web page is never fetched."""
    async with before("ghcr-referrers", scratch, rules=SIGNED) as (world, proxy):
        assert_denied(await proxy.manifest(TEAM, world.tag), "key release-key is required", "no signature at all")
        bundle = world.registry.attach(TEAM, world.image, proxy.signer)
        await pull(proxy, world.image, world.tag)
        listed = await proxy.get(f"/v2/reg.example/{TEAM}/referrers/{world.image.digest}")
        assert [entry["digest"] for entry in json.loads(listed.body)["manifests"]] == [str(bundle.digest)]
        assert (await proxy.manifest(TEAM, bundle.digest)).body == bundle.body
        assert world.faults["redirect"].fired >= 3


async def test_scenario_14_quay_redirect_through_the_proxy(scratch: Path) -> None:
    """URLs that work once and claim to last for a year: each download asks the registry for one of its own."""
    async with before("quay-redirect", scratch) as (world, proxy):
        await pull(proxy, world.image, world.tag)
        assert world.faults["redirect"].fired == 2
        await proxy.stop()
        for blob in world.image.blobs:
            (stored,) = (proxy.data_dir / "blobs").rglob(blob.digest.hex)
            stored.unlink()
        await proxy.start()
        await pull(proxy, world.image, world.tag)
        assert world.faults["redirect"].fired == 4
        assert [seen.status for seen in world.storage.requests] == [200] * 4


async def test_scenario_15_quay_gzip_through_the_proxy(scratch: Path) -> None:
    """Raw bytes arrive, though each connection is closed, and clients see neither."""
    async with before("quay-gzip", scratch) as (world, proxy):
        answer = await pull(proxy, world.image, world.tag)
        assert answer.headers.get("Connection") != "close"
        layer = await proxy.blob(TEAM, world.image.layers[0].digest, **{"Accept-Encoding": "gzip, zstd"})
        assert_whole(layer, world.image.blobs[1])
        assert "Content-Encoding" not in layer.headers
        assert world.faults["gzip"].fired == 2
        assert world.faults["close"].fired == world.registry.connections >= 3


async def test_scenario_16_quay_expired_tag_through_the_proxy(scratch: Path) -> None:
    """An expired tag is absent; one that was pinned before stays what it was, and the event ends when it is revived."""
    async with before("quay-expired-tag", scratch) as (world, proxy):
        answer = await proxy.manifest(TEAM, world.tag)
        assert (answer.status, answer.error["code"]) == (404, "MANIFEST_UNKNOWN")
        world.faults["expired"].off()
        await pull(proxy, world.image, world.tag)
        world.faults["expired"].again()
        await assert_kept(proxy, world, "deleted upstream")
        assert [event.type for event in await proxy.events(open_only=True)] == [EventType.TAG_DELETED]
        world.faults["expired"].off()
        assert "Warning" not in (await pull(proxy, world.image, world.tag)).headers
        assert not await proxy.events(open_only=True)


async def test_scenario_17_k8s_hop_through_the_proxy(scratch: Path) -> None:
    """Manifests from a second host and blobs from a third are served under the first, whose token stays with it."""
    async with before("k8s-hop", scratch) as (world, proxy):
        await pull(proxy, world.image, world.tag)
        await pull(proxy, world.image, world.tag)
        second = world.hosts["second"]
        assert not leaked(second, world.storage)
        assert [seen.method for seen in second.requests] == ["GET", "GET", "GET", "HEAD"]
        assert (world.faults["hop"].fired, world.faults["blob hop"].fired) == (4, 2)
        assert any(seen.authorization for seen in world.registry.requests)


async def test_scenario_18_k8s_signature_through_the_proxy(scratch: Path) -> None:
    """A signature that is there by its tag only admits the image, and clients have it by tag and by digest."""
    async with before("k8s-signature", scratch, rules=SIGNED) as (world, proxy):
        assert_denied(await proxy.manifest(TEAM, world.tag), "no signature at all")
        signature = world.registry.sign(TEAM, world.image.digest, proxy.signer)
        assert (await proxy.manifest(TEAM, signature.digest)).status == 404
        assert world.faults["by digest"].fired == 1
        await pull(proxy, world.image, world.tag)
        for reference in (signing.signature_tag(world.image.digest), signature.digest):
            answer = await proxy.manifest(TEAM, reference)
            assert (answer.status, answer.body) == (200, signature.body)
        assert_whole(await proxy.blob(TEAM, signature.layers[0].digest), signature.blobs[1])
        assert world.faults["by digest"].fired == 1, "it was stored when it was judged"


async def test_scenario_19_ar_relative_through_the_proxy(scratch: Path) -> None:
    """A relative redirect is resolved with its escapes as they are."""
    async with before("ar-relative", scratch) as (world, proxy):
        await pull(proxy, world.image, world.tag)
        assert (world.faults["redirect"].fired, world.faults["download"].fired) == (2, 2)
        assert "/namespaces/a%2Fb+c/" in world.registry.requests[-1].target


async def test_scenario_20_ecr_public_through_the_proxy(scratch: Path) -> None:
    """Without digests on GET and without HEAD of blobs, both are answered; a token that went bad is replaced without a word."""
    async with before("ecr-public", scratch) as (world, proxy):
        await pull(proxy, world.image, world.tag)
        for descriptor in (world.image.config, *world.image.layers):
            answer = await proxy.blob(TEAM, descriptor.digest, "HEAD")
            assert (answer.status, int(answer.headers["Content-Length"])) == (200, descriptor.size)
        assert {seen.query["scope"] for seen in world.tokens.asked()} == {"aws"}
        asked = len(world.tokens.asked())
        world.registry.tag(TEAM, "2.0", world.image.digest)
        world.faults["invalid"].again()
        await pull(proxy, world.image, "2.0")
        assert world.faults["invalid"].fired == 1
        assert len(world.tokens.asked()) == asked + 1
        assert world.faults["no digest"].fired >= 2


async def test_scenario_21_ecr_private_through_the_proxy(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A password that expired is asked for once more; tags come whole and in order, in pages of the client's size."""
    monkeypatch.setenv("PATH", f"{scratch}:/usr/bin:/bin")
    log = helper(scratch, "first", "second")
    async with before("ecr-private", scratch, options="retries: 0, auth: {helper: test}") as (world, proxy):
        await pull(proxy, world.image, world.tag)
        assert world.faults["expired"].fired == 1
        assert len(log.read_text().split()) == 2
        path = f"/v2/reg.example/{TEAM}/tags/list"
        assert json.loads((await proxy.get(path)).body) == {"name": f"reg.example/{TEAM}", "tags": ["1.0", "t0", "t1", "t2"]}
        first = await proxy.get(f"{path}?n=3")
        assert json.loads(first.body)["tags"] == ["1.0", "t0", "t1"]
        link = first.headers["Link"]
        assert "next_token" not in link, "the upstream's cursor is not the client's"
        rest = await proxy.get(link.partition(">")[0].removeprefix("<"))
        assert json.loads(rest.body)["tags"] == ["t2"]
        assert "Link" not in rest.headers
        assert [seen.status for seen in world.registry.seen(kind="tags")] == [200, 200] * 3


@pytest.mark.parametrize("credential", ["password", "identity token"])
async def test_scenario_22_acr_token_through_the_proxy(scratch: Path, credential: str) -> None:
    """``access_token`` alone is a token, and a POST that is refused leads to a GET."""
    (scratch / "identity").write_text("identity\n")
    auth = USER if credential == "password" else f"auth: {{identity_token_file: {scratch}/identity}}"
    async with before("acr-token", scratch, options=f"{NO_RETRIES}, {auth}") as (world, proxy):
        await pull(proxy, world.image, world.tag)
        methods = ["GET"] if credential == "password" else ["POST", "GET"]
        assert [seen.method for seen in world.tokens.asked()] == methods


async def test_scenario_23_gitlab_fallback_through_the_proxy(scratch: Path) -> None:
    """A fallback tag that is the image itself means: no referrers. The image is refused as unsigned, not as unknown."""
    async with before("gitlab-fallback", scratch, rules=SIGNED) as (world, proxy):
        assert_denied(await proxy.manifest(TEAM, world.tag), "key release-key is required", "no signature at all")
        assert world.faults["subject"].fired >= 1
        world.registry.sign(TEAM, world.image.digest, proxy.signer)
        await pull(proxy, world.image, world.tag)
        listed = await proxy.get(f"/v2/reg.example/{TEAM}/referrers/{world.image.digest}")
        assert (listed.status, json.loads(listed.body)["manifests"]) == (200, [])
        assert (await proxy.manifest(TEAM, images.referrers_tag(world.image.digest))).status == 404


async def test_scenario_24_redhat_no_digest_through_the_proxy(scratch: Path) -> None:
    """Without digests in the headers each check is a GET, which is hashed: no false overwrite, and the true one is found."""
    async with before("redhat-no-digest", scratch) as (world, proxy):
        for _ in range(4):
            assert "Warning" not in (await pull(proxy, world.image, world.tag)).headers
        pin = await proxy.pin(f"{TEAM}:{world.tag}")
        assert pin is not None
        assert (pin.digest, pin.state) == (world.image.digest, PinState.PINNED)
        assert not await proxy.events()
        assert world.faults["no digest"].fired >= 7
        other = world.registry.image(TEAM, world.tag, seed="another")
        assert_denied(await proxy.manifest(TEAM, world.tag), str(world.image.digest))
        (event,) = await proxy.events(open_only=True)
        assert (event.type, event.digest) == (EventType.TAG_OVERWRITTEN, other.digest)


async def test_scenario_25_harbor_artifactory_through_the_proxy(scratch: Path) -> None:
    """The scope is the challenge's; a stale token, for which Basic is asked, breaks no pull."""
    async with before("harbor-artifactory", scratch, options=f"{NO_RETRIES}, {USER}") as (world, proxy):
        await pull(proxy, world.image, world.tag)
        assert [seen.query["scope"] for seen in world.tokens.asked()] == ["repository:app:pull"]
        world.tokens.expire()
        assert "Warning" not in (await pull(proxy, world.image, world.tag)).headers
        assert world.faults["basic"].fired == 1
        empty = world.registry.on(when.registry(), header("WWW-Authenticate", ""), guard=True)
        world.tokens.expire()
        world.faults["basic accepted"].off()
        await assert_kept(proxy, world, "could not be asked")
        assert_denied(await proxy.manifest(TEAM, "2.0"), "the upstream refuses", "or it does not exist")
        assert empty.fired >= 2
