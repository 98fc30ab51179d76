"""Continuous verification: what becomes of the evidence, the rules and the trust is told without anybody pulling."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from proxy.configuration import load
from proxy.services import duty
from proxy.services.verifying import lane
from proxy.worker import Worker
from storage.digest import Digest
from storage.records import Block, Event, EventType, PinAction, PinState, Severity
from tests.conformance.test_revocation_over_http import proxy_of as notation_proxy
from tests.conformance.test_revocation_over_http import signed as notation_signed
from tests.harness import RULES, Proxy, until
from tests.simulator import when
from tests.simulator.behaviours import status
from tests.simulator.images import Image
from tests.simulator.notation import issue
from tests.simulator.registry import Registry
from tests.simulator.revocation import RevocationServer
from tests.simulator.signing import Signer, signature_tag

TOP = (
    "check_interval: 1h\nverification: {interval: 500ms}\n"
    "watch: {interval: never, tags_interval: never, rate: 1000/s}\nlimits: {refusal_ttl: 0s}"
)
#: Nothing is due for a day, but what changes concern.
IDLE = TOP.replace("500ms", "1d")


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long."""
    monkeypatch.setattr(duty, "RENEWAL", 1.0)
    monkeypatch.setattr(lane, "AGAIN", 0.1)


async def told(proxy: Proxy, kind: EventType) -> list[Event]:
    """The events of a type, oldest first."""
    return [event for event in reversed(await proxy.events()) if event.type is kind]


async def state(proxy: Proxy, name: str) -> PinState | None:
    """The state of a pin."""
    pin = await proxy.pin(name)
    return None if pin is None else pin.state


def becomes(proxy: Proxy, wanted: PinState, name: str = "acme/app:v1") -> Callable[[], Awaitable[bool]]:
    """Whether a pin is in this state."""

    async def look() -> bool:
        return await state(proxy, name) is wanted

    return look


def rounds(upstream: Registry, digest: Digest, count: int = 2) -> Callable[[], bool]:
    """Whether an image's signatures were asked for so many more times than until now."""
    path = f"/manifests/{signature_tag(digest)}"
    before = upstream.count("GET", path)
    return lambda: upstream.count("GET", path) >= before + count


async def pinned(proxy: Proxy, upstream: Registry, tag: str = "v1") -> Image:
    """A signed image that was pulled."""
    image = upstream.image("acme/app", tag, seed=tag)
    upstream.sign("acme/app", image.digest, proxy.signer)
    assert (await proxy.manifest("acme/app", tag)).status == 200
    return image


async def test_promise_47_a_signature_stripped_after_acceptance_is_told_once(tmp_path: Path) -> None:
    """The pin is served, one alert says whose signature is gone, and it closes when that is back."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=TOP) as proxy:
        image = await pinned(proxy, upstream)
        await until(rounds(upstream, image.digest))
        assert await proxy.events() == []
        upstream.untag("acme/app", signature_tag(image.digest))
        await until(lambda: proxy.events(open_only=True))
        await until(rounds(upstream, image.digest, 3))
        (event,) = await proxy.events()
        assert (event.type, event.subject, event.digest) == (EventType.SIGNATURE_LOST, "reg.example/acme/app:v1", image.digest)
        assert "by key release-key (" in event.message
        (gone,) = event.details["gone"]
        assert gone.startswith("key release-key ")
        assert await state(proxy, "acme/app:v1") is PinState.PINNED
        for _ in range(2):
            assert (await proxy.manifest("acme/app", "v1")).digest == str(image.digest)
            await proxy.restart()
        upstream.sign("acme/app", image.digest, proxy.signer)

        async def over() -> bool:
            return not await proxy.events(open_only=True)

        await until(over)
        assert len(await proxy.events()) == 1


async def test_promise_47_a_signature_by_somebody_else_is_none(tmp_path: Path) -> None:
    """A signature that was replaced by one that does not count is lost, too."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=TOP) as proxy:
        image = await pinned(proxy, upstream)
        upstream.untag("acme/app", signature_tag(image.digest))
        upstream.sign("acme/app", image.digest, Signer.of("p256", "mallory"))
        await until(lambda: told(proxy, EventType.SIGNATURE_LOST))
        assert (await proxy.manifest("acme/app", "v1")).status == 200


async def test_a_deleted_tag_loses_no_signature(tmp_path: Path) -> None:
    """Where the whole tag is gone that is what is told, and not that its signature is gone with it."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=TOP) as proxy:
        image = await pinned(proxy, upstream)
        upstream.untag("acme/app", "v1")
        upstream.untag("acme/app", signature_tag(image.digest))
        await until(becomes(proxy, PinState.DELETED))
        await until(rounds(upstream, image.digest, 3))
        assert [event.type for event in await proxy.events()] == [EventType.TAG_DELETED]


@pytest.mark.parametrize("answer", [503, 401, 429])
async def test_an_outage_changes_nothing(tmp_path: Path, answer: int) -> None:
    """An upstream that is broken, gives no access or wants to be left alone has lost no signature, whatever was kept."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=TOP) as proxy:
        image = await pinned(proxy, upstream)
        before = await proxy.pin("acme/app:v1")
        upstream.on(when.always, status(answer))
        times = 1 if answer == 429 else 3  # the first of these is heeded
        counted = 'tagstone_verifications_total{result="unknown",upstream="reg.example"}'

        async def tried() -> bool:
            return any(
                line.startswith(counted) and float(line.split()[-1]) >= times for line in (await proxy.metrics()).splitlines()
            )

        await until(tried)
        assert await proxy.events() == []
        assert await proxy.pin("acme/app:v1") == before
        assert (await proxy.manifest("acme/app", "v1")).digest == str(image.digest)


async def test_promise_10_a_key_that_is_not_trusted_any_more_revokes_at_once(tmp_path: Path) -> None:
    """After a reload the pin is revoked and told without a pull, and reinstated when the key comes back."""
    other = RULES.replace("release-key", "other-key")
    (tmp_path / "other.pub").write_bytes(Signer.of("p256", "other").public_pem)
    keys = f"other-key: {{file: {tmp_path}/other.pub}}"
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=IDLE, keys=keys) as proxy:
        image = await pinned(proxy, upstream)
        await proxy.reload(other)
        await until(becomes(proxy, PinState.REVOKED))
        (event,) = await proxy.events(open_only=True)
        assert (event.type, event.digest, event.severity) == (EventType.PIN_REVOKED, image.digest, Severity.CRITICAL)
        assert (await proxy.manifest("acme/app", "v1")).status == 403
        assert (await proxy.blob("acme/app", image.layers[0].digest)).status == 403
        await proxy.reload(RULES)
        await until(becomes(proxy, PinState.PINNED))
        assert await proxy.events(open_only=True) == []
        assert (await proxy.manifest("acme/app", "v1")).digest == str(image.digest)
        pin = await proxy.pin("acme/app:v1")
        assert pin is not None
        history = await proxy.application.pins.history(pin.repository, pin.tag)
        assert [change.action for change in history] == [PinAction.PINNED, PinAction.REVOKED, PinAction.RESTORED]


async def test_a_change_of_the_rules_asks_no_upstream_where_what_was_kept_suffices(tmp_path: Path) -> None:
    """The same signature under another question is judged from the store, as is what needs none; nobody is asked anything."""
    twice = RULES.replace(
        "{signature: {key: release-key}}", "{any: [{signature: {key: release-key}}, {signature: {key: other-key}}]}"
    )
    (tmp_path / "other.pub").write_bytes(Signer.of("p256", "other").public_pem)
    keys = f"other-key: {{file: {tmp_path}/other.pub}}"
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=IDLE, keys=keys) as proxy:
        await pinned(proxy, upstream)
        upstream.image("open/app", "v1")
        assert (await proxy.manifest("open/app", "v1")).status == 200
        before = upstream.count()
        await proxy.reload(twice)

        async def judged() -> bool:
            return 'result="passes"' in await proxy.metrics()

        await until(judged)
        assert upstream.count() == before
        assert await proxy.events() == []
        strict = RULES.replace("require: first-use", "require: {signature: {key: release-key}}")
        await proxy.reload(strict)
        await until(becomes(proxy, PinState.REVOKED, "open/app:v1"))
        await proxy.reload(RULES)
        await until(becomes(proxy, PinState.PINNED, "open/app:v1"))


async def test_rules_that_changed_while_nothing_ran_are_noticed(tmp_path: Path) -> None:
    """A server that starts with other rules than before judges by them what is pinned."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=IDLE) as proxy:
        await pinned(proxy, upstream)
        await proxy.stop()
        proxy.write('rules: [{match: "**", require: deny}]')
        await proxy.start()
        await until(becomes(proxy, PinState.REVOKED))
        assert len(await told(proxy, EventType.PIN_REVOKED)) == 1


async def test_promise_10_a_certificate_that_was_revoked_revokes_the_pin(tmp_path: Path) -> None:
    """The next round hears of it; what was accepted before lets nothing through any more, after a restart either."""
    async with RevocationServer() as server, Registry() as upstream:
        issued = issue(depth=2, servers=server.named_by())
        server.know(issued)
        async with notation_proxy(tmp_path, upstream, issued, "enforce", top=IDLE) as proxy:
            image = notation_signed(upstream, issued)
            assert (await proxy.manifest("acme/app", "v1")).status == 200
        server.revoke(issued.chain[0], at=datetime(2020, 1, 1, tzinfo=UTC))
        async with notation_proxy(tmp_path, upstream, issued, "enforce", top=TOP) as proxy:
            await until(becomes(proxy, PinState.REVOKED))
            (event,) = await proxy.events()
            assert event.type is EventType.PIN_REVOKED
            assert "was revoked" in event.message
            assert (await proxy.manifest("acme/app", "v1")).status == 403
        async with notation_proxy(tmp_path, upstream, issued, "enforce", top="check_interval: 1h") as proxy:
            assert (await proxy.manifest("acme/app", "v1")).status == 403
            assert (await proxy.manifest("acme/app", image.digest)).status == 403
            assert (await proxy.blob("acme/app", image.layers[0].digest)).status == 403


async def test_a_block_revokes_and_its_end_reinstates_without_a_pull(tmp_path: Path) -> None:
    """A pinned digest that somebody blocks is told as revoked at once; the verdict stays, and counts when the block is lifted."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=IDLE) as proxy:
        image = await pinned(proxy, upstream)
        catalog, now = proxy.application.catalog, datetime.now(UTC)
        await until(lambda: proxy.application.upkeep.verifier.on)
        await catalog.block(Block(image.digest, "malicious", "on-call", now))
        await until(becomes(proxy, PinState.REVOKED))
        await until(lambda: told(proxy, EventType.PIN_REVOKED))
        before = upstream.count()
        await catalog.unblock(image.digest, by="on-call", reason="it was not", at=now)
        await until(becomes(proxy, PinState.PINNED))
        assert upstream.count() == before


async def test_two_workers_tell_once(tmp_path: Path) -> None:
    """One of all workers has the duty; the other one takes it over."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=TOP) as proxy:
        second = Worker(load(proxy.config), proxy.data_dir)
        await second.start()
        try:
            image = await pinned(proxy, upstream)
            upstream.untag("acme/app", signature_tag(image.digest))
            await until(lambda: told(proxy, EventType.SIGNATURE_LOST))
            await until(rounds(upstream, image.digest, 3))
            assert len(await told(proxy, EventType.SIGNATURE_LOST)) == 1
            busy = [each for each in (proxy.application, second.application) if each.upkeep.verifier.on]
            assert len(busy) == 1
            await busy[0].upkeep.verifier.close()
            await until(rounds(upstream, image.digest, 2))
            assert len(await told(proxy, EventType.SIGNATURE_LOST)) == 1
        finally:
            await second.close()


async def test_a_pull_that_is_judged_meanwhile_neither_loses_nor_wins(tmp_path: Path) -> None:
    """Pulls and verification of the same pin agree, whoever writes first: one history, one event."""
    other = RULES.replace("release-key", "other-key")
    (tmp_path / "other.pub").write_bytes(Signer.of("p256", "other").public_pem)
    keys = f"other-key: {{file: {tmp_path}/other.pub}}"
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=IDLE, keys=keys) as proxy:
        await pinned(proxy, upstream)
        await proxy.reload(other)
        answers = await asyncio.gather(*(proxy.manifest("acme/app", "v1") for _ in range(8)))
        assert {answer.status for answer in answers} == {403}
        await until(becomes(proxy, PinState.REVOKED))
        assert len(await told(proxy, EventType.PIN_REVOKED)) == 1
