"""Tags stay what they were: the decision table, seen by a client."""

from __future__ import annotations

from pathlib import Path

from storage.records import EventType, PinState
from tests.harness import Proxy
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
