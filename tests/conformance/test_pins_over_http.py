"""Tags stay what they were: the decision table, seen by a client."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from storage.records import EventType, PinState
from tests.harness import Proxy, until
from tests.simulator import when
from tests.simulator.behaviours import header
from tests.simulator.registry import Registry


async def test_promise_01_an_overwritten_tag_is_refused_with_one_alert(tmp_path: Path) -> None:
    """However it is asked for, an overwritten tag is refused, told once, and its pin does not move."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        first = upstream.image("acme/app", "v1", seed="one")
        upstream.sign("acme/app", first.digest, proxy.signer)
        assert (await proxy.manifest("acme/app", "v1")).digest == str(first.digest)
        second = upstream.image("acme/app", "v1", seed="two")
        for method in ("HEAD", "GET"):
            for accept in ("*/*", "application/vnd.oci.image.index.v1+json", first.media_type):
                answer = await proxy.manifest("acme/app", "v1", method, Accept=accept)
                assert answer.status == 403
                assert str(first.digest) in answer.reason
        assert str(second.digest) in (await proxy.manifest("acme/app", "v1")).error["message"]
        pin = await proxy.pin("acme/app:v1")
        assert pin is not None
        assert (pin.digest, pin.state, pin.candidate) == (first.digest, PinState.OVERWRITTEN, second.digest)
        told = [event for event in await proxy.events() if event.type is EventType.TAG_OVERWRITTEN]
        assert [event.digest for event in told] == [second.digest]


async def test_promise_02_a_signed_overwrite_still_changes_nothing(tmp_path: Path) -> None:
    """A validly signed new image under a pinned tag is refused like any other overwrite."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        first = upstream.image("acme/app", "v1", seed="one")
        upstream.sign("acme/app", first.digest, proxy.signer)
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        second = upstream.image("acme/app", "v1", seed="two")
        upstream.sign("acme/app", second.digest, proxy.signer)
        assert (await proxy.manifest("acme/app", "v1")).status == 403
        assert (await proxy.manifest("acme/app", second.digest)).status == 200, "by digest it is what its signature says"
        pin = await proxy.pin("acme/app:v1")
        assert pin is not None
        assert pin.digest == first.digest


async def test_promise_03_a_reverted_overwrite_closes_its_event(tmp_path: Path) -> None:
    """A→B→A: one event, A served again, the event closed; a second B is news again."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        first = upstream.image("acme/app", "stay-1", seed="one")
        upstream.sign("acme/app", first.digest, proxy.signer)
        second = upstream.image("acme/app", None, seed="two")
        for expected_open, tagged in ((0, first), (1, second), (1, second), (0, first), (1, second)):
            upstream.tag("acme/app", "stay-1", tagged.digest)
            answer = await proxy.manifest("acme/app", "stay-1")
            assert answer.status == 200
            assert answer.digest == str(first.digest)
            assert ("299" in answer.headers.get("Warning", "")) is (expected_open == 1)
            assert len(await proxy.events(open_only=True)) == expected_open
        told = [event.type for event in reversed(await proxy.events())]
        assert told == [EventType.TAG_OVERWRITTEN, EventType.TAG_REVERTED, EventType.TAG_OVERWRITTEN]


@pytest.mark.parametrize("way", ["deleted", "down"])
async def test_promise_04_a_pin_outlives_its_upstream(tmp_path: Path, way: str) -> None:
    """A tag that was deleted upstream, or whose upstream is gone, is served with all its blobs; nothing new gets in."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        image = upstream.image("acme/app", "v1", layers=2)
        upstream.sign("acme/app", image.digest, proxy.signer)
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        for layer in image.layers:
            assert (await proxy.blob("acme/app", layer.digest)).status == 200
        if way == "deleted":
            upstream.untag("acme/app", "v1")
        else:
            await upstream.stop()
        answer = await proxy.manifest("acme/app", "v1")
        assert (answer.status, answer.digest) == (200, str(image.digest))
        assert "299" in answer.headers["Warning"]
        for layer in image.layers:
            assert (await proxy.blob("acme/app", layer.digest)).status == 200
        other = await proxy.manifest("acme/app", "other")
        assert other.status == (404 if way == "deleted" else 503)
        if way == "deleted":
            assert [event.type for event in await proxy.events(open_only=True)] == [EventType.TAG_DELETED]
        else:
            assert int(other.headers["Retry-After"]) >= 1


async def test_promise_05_two_replicas_agree_on_one_digest(tmp_path: Path) -> None:
    """Two proxies on one data directory whose first pulls see different digests: one pin, and the other follows it."""
    async with Registry() as upstream, Proxy(tmp_path / "a", upstream, data_dir=tmp_path / "data") as one:
        two = Proxy(tmp_path / "b", upstream, data_dir=tmp_path / "data", signer=one.signer)
        async with two:
            first, second = (upstream.image("open/app", None, seed=seed) for seed in "ab")
            for tag in (f"t{number}" for number in range(10)):
                upstream.tag("open/app", tag, first.digest)
                asked = asyncio.create_task(one.manifest("open/app", tag))
                await until(lambda tag=tag: upstream.count("GET", f"/manifests/{tag}"))
                upstream.tag("open/app", tag, second.digest)
                answers = await asyncio.gather(asked, two.manifest("open/app", tag))
                pin = await one.pin(f"open/app:{tag}")
                assert pin is not None
                assert {answer.digest for answer in answers if answer.status == 200} == {str(pin.digest)}
                assert all(answer.status in {200, 403} for answer in answers)


async def test_promise_06_accept_never_chooses_another_pin(tmp_path: Path) -> None:
    """A multi-platform tag is pinned to its index whatever the client accepts; no child is pinned in its place."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        children = [upstream.image("acme/app", None, seed=arch) for arch in ("amd64", "arm64")]
        index = upstream.index("acme/app", "v1", images=children)
        upstream.sign("acme/app", index.digest, proxy.signer)
        for accept in (children[0].media_type, "application/json", index.media_type):
            answer = await proxy.manifest("acme/app", "v1", Accept=accept)
            assert (answer.status, answer.digest) == (200, str(index.digest))
        pin = await proxy.pin("acme/app:v1")
        assert pin is not None
        assert pin.digest == index.digest


async def test_promise_08_one_tag_is_fetched_once_and_served_as_it_was_verified(tmp_path: Path) -> None:
    """The bytes that were judged are the bytes that are stored and served; the tag is not fetched a second time for them."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        image = upstream.image("acme/app", "v1")
        upstream.sign("acme/app", image.digest, proxy.signer)
        answer = await proxy.manifest("acme/app", "v1")
        assert answer.body == image.body
        assert upstream.count("GET", "/manifests/v1") == 1
        assert upstream.count("GET", f"/manifests/{image.digest}") == 0
        by_digest = await proxy.manifest("acme/app", image.digest)
        assert by_digest.body == image.body
        assert upstream.count("GET", f"/manifests/{image.digest}") == 0


async def test_promise_09_a_lying_digest_header_is_refused(tmp_path: Path) -> None:
    """A Docker-Content-Digest that does not fit the bytes is refused on a first pull and changes nothing for a pin."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        image = upstream.image("open/app", "v1")
        other = upstream.image("open/app", None, seed="other")
        lie = upstream.on(when.manifest(), header("Docker-Content-Digest", str(other.digest)))
        refused = await proxy.manifest("open/app", "v1")
        assert refused.status == 403
        assert lie.fired
        lie.active = False
        assert (await proxy.manifest("open/app", "v1")).digest == str(image.digest)
        lie.active = True
        answer = await proxy.manifest("open/app", "v1")
        assert (answer.status, answer.digest) == (200, str(image.digest))
        pin = await proxy.pin("open/app:v1")
        assert pin is not None
        assert (pin.digest, pin.state) == (image.digest, PinState.PINNED)


async def test_promise_10_an_old_signed_image_is_pinned_on_first_use_only(tmp_path: Path) -> None:
    """An old but signed digest is a valid first pull; under a pinned tag it is an overwrite like any other."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        old, new = (upstream.image("acme/app", None, seed=seed) for seed in ("old", "new"))
        for image in (old, new):
            upstream.sign("acme/app", image.digest, proxy.signer)
        upstream.tag("acme/app", "first", old.digest)
        assert (await proxy.manifest("acme/app", "first")).digest == str(old.digest)
        upstream.tag("acme/app", "latest", new.digest)
        assert (await proxy.manifest("acme/app", "latest")).digest == str(new.digest)
        upstream.tag("acme/app", "latest", old.digest)
        assert (await proxy.manifest("acme/app", "latest")).status == 403
