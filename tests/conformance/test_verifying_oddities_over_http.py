"""Continuous verification where something is odd: what stands above a digest, damage, pins that move, many pins at once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proxy.services import duty
from proxy.services.revision import utc_now
from proxy.services.verifying.pins import PinVerifier, Result
from proxy.services.weighing import Manner
from storage.records import PinAction, PinChange, PinState, PinWrite
from storage.reference import Repository
from tests.conformance.test_verifying_over_http import IDLE, pinned, state
from tests.harness import RULES, Proxy, until
from tests.simulator import images, when
from tests.simulator.behaviours import hold
from tests.simulator.registry import Registry
from tests.simulator.signing import Signer, signature_tag
from tests.unit.storage.test_filesystem import blob_path

APP = Repository.of("reg.example", "acme/app")
#: The verifier's own rounds stand still: a test judges.
STILL = IDLE.replace("1d", "never")


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long."""
    monkeypatch.setattr(duty, "RENEWAL", 1.0)


def verifier_of(proxy: Proxy) -> PinVerifier:
    """What judges one pin."""
    application = proxy.application
    return PinVerifier(application.gate, application.events, application.metrics, utc_now)


async def test_a_platform_of_a_signed_index_stands_by_the_index(tmp_path: Path) -> None:
    """A tag that names one platform of an accepted index passes by the index's signature, and is lost with it."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=STILL) as proxy:
        index = upstream.index("acme/app", "all", images=[images.image(seed="one"), images.image(seed="two")])
        upstream.sign("acme/app", index.digest, proxy.signer)
        assert (await proxy.manifest("acme/app", "all")).status == 200
        child = index.images[0]
        upstream.tag("acme/app", "one", child.digest)
        assert (await proxy.manifest("acme/app", "one")).digest == str(child.digest)

        assert (await verifier_of(proxy).verify(APP, "one", Manner())).result is Result.PASSES
        upstream.untag("acme/app", signature_tag(index.digest))
        assert (await verifier_of(proxy).verify(APP, "one", Manner())).result is Result.LOST
        assert await state(proxy, "acme/app:one") is PinState.PINNED


async def test_damage_to_what_was_kept_refuses_nothing(tmp_path: Path) -> None:
    """A signature that is gone upstream and damaged here: nobody can tell, and the pin is served on by its verdict."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=STILL) as proxy:
        image = await pinned(proxy, upstream)
        (evidence,) = await proxy.application.catalog.evidence(APP, image.digest)
        blob_path(proxy.data_dir, evidence.digest).unlink()
        upstream.untag("acme/app", signature_tag(image.digest))

        verified = await verifier_of(proxy).verify(APP, "v1", Manner())
        assert verified.result is Result.UNKNOWN
        assert verified.reasons[-1] == "the evidence by which it was accepted cannot be read now"
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        assert await proxy.events() == []


async def test_a_pin_that_moves_while_it_is_judged_is_judged_as_it_is_then(tmp_path: Path) -> None:
    """An operator who unpins a tag in the middle has the last word: nothing is written about what is gone."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=STILL) as proxy:
        image = await pinned(proxy, upstream)
        held = asyncio.Event()
        upstream.untag("acme/app", signature_tag(image.digest))
        fault = upstream.on(when.manifest("GET", signature_tag(image.digest)), hold(held))

        judging = asyncio.create_task(verifier_of(proxy).verify(APP, "v1", Manner()))
        await until(lambda: fault.fired)
        pin = await proxy.pin("acme/app:v1")
        assert pin is not None
        change = PinChange(APP, "v1", PinAction.UNPINNED, utc_now(), "olga", "retired", pin.digest, None)
        await proxy.application.pins.apply(PinWrite(pin, None, change))
        held.set()
        assert (await judging).result is Result.UNPINNED
        assert await proxy.events() == []


async def test_many_pins_are_judged_while_pulls_go_on(tmp_path: Path) -> None:
    """A change of the rules asks no upstream for any of the pins that it concerns, and pulls of others are answered meanwhile."""
    twice = RULES.replace(
        "{signature: {key: release-key}}", "{any: [{signature: {key: release-key}}, {signature: {key: other}}]}"
    )
    (tmp_path / "other.pub").write_bytes(Signer.of("p256", "other").public_pem)
    keys = f"other: {{file: {tmp_path}/other.pub}}"
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=IDLE, keys=keys) as proxy:
        for number in range(15):
            await pinned(proxy, upstream, f"t{number}")
        other = upstream.image("open/app", "v1")
        assert (await proxy.manifest("open/app", "v1")).status == 200
        await until(lambda: proxy.application.upkeep.verifier.on)
        before = upstream.count()
        await proxy.reload(twice)

        async def judged() -> bool:
            assert (await proxy.manifest("open/app", "v1")).digest == str(other.digest)
            lines = (await proxy.metrics()).splitlines()
            found = [line for line in lines if line.startswith("tagstone_verifications_total") and 'result="passes"' in line]
            return sum(float(line.split()[-1]) for line in found) >= 15

        await until(judged)
        assert upstream.count() == before
        assert await proxy.events() == []
