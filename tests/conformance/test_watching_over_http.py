"""The watcher: what becomes of pinned tags is told without anybody pulling them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from proxy.services.checks import Result, Standing
from proxy.services.watching import lane, pace
from storage.records import Block, Event, EventType, PinState, Severity
from storage.reference import Repository
from tests.conformance.served import Served
from tests.harness import Proxy, until
from tests.simulator import when
from tests.simulator.behaviours import bend, header, hold, lie, refuse, status, without
from tests.simulator.registry import Registry


def watching(interval: str = "1s", more: str = "") -> str:
    """The configuration of a watcher in a hurry."""
    return f"watch: {{interval: {interval}, tags_interval: never, rate: 500/s{more}}}"


def listing(interval: str = "1s", more: str = "") -> str:
    """The configuration of one that reads lists of tags only."""
    return f"watch: {{interval: never, tags_interval: {interval}, rate: 500/s{more}}}"


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be asked is asked again soon."""
    monkeypatch.setattr(lane, "AGAIN", 0.1)
    monkeypatch.setattr(lane, "REST", 0.0)
    monkeypatch.setattr(pace, "FIRST", 0.2)
    monkeypatch.setattr(pace, "LAST", 0.5)


async def told(proxy: Proxy, kind: EventType) -> list[Event]:
    """The events of a type, oldest first."""
    return [event for event in reversed(await proxy.events()) if event.type is kind]


async def pinned(proxy: Proxy, upstream: Registry, tags: int, repository: str = "open/app", seed: str = "one") -> None:
    """Pin so many tags of one image."""
    image = upstream.image(repository, None, seed=seed)
    for number in range(tags):
        upstream.tag(repository, f"t{number}", image.digest)
        assert (await proxy.manifest(repository, f"t{number}")).status == 200


def turns(upstream: Registry, count: int, tag: str = "v1", repository: str = "open/app") -> Callable[[], bool]:
    """Whether a tag is asked about so many more times than it was until now."""
    path = f"/{repository}/manifests/{tag}"
    before = upstream.count("HEAD", path)
    return lambda: upstream.count("HEAD", path) >= before + count


async def test_promise_01_an_overwrite_is_told_without_a_pull(tmp_path: Path) -> None:
    """Within an interval, once, however often it is looked at; the pin does not move, and the next pull is refused."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=watching()) as proxy:
        first = upstream.image("open/app", "v1", seed="one")
        assert (await proxy.manifest("open/app", "v1")).digest == str(first.digest)
        await until(turns(upstream, 2))
        assert await proxy.events() == []
        second = upstream.image("open/app", "v1", seed="two")
        await until(lambda: told(proxy, EventType.TAG_OVERWRITTEN))
        await until(turns(upstream, 3))
        (event,) = await proxy.events()
        assert (event.subject, event.digest) == ("reg.example/open/app:v1", second.digest)
        pin = await proxy.pin("open/app:v1")
        assert pin is not None
        assert (pin.digest, pin.state, pin.candidate) == (first.digest, PinState.OVERWRITTEN, second.digest)
        assert upstream.count("GET", "/manifests/v1") == 2, "once to pin it, once to hash what it became"
        assert (await proxy.manifest("open/app", "v1")).status == 403


async def test_promise_03_an_overwrite_that_is_taken_back_is_over_without_a_pull(tmp_path: Path) -> None:
    """A→B→A: one event, closed, and one that says so; a second B is news again."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=watching()) as proxy:
        first = upstream.image("open/app", "v1", seed="one")
        second = upstream.image("open/app", None, seed="two")
        await proxy.manifest("open/app", "v1")
        for number in (1, 2):
            upstream.tag("open/app", "v1", second.digest)
            await until(lambda: proxy.events(open_only=True))
            upstream.tag("open/app", "v1", first.digest)

            async def closed(number: int = number) -> bool:
                return len(await told(proxy, EventType.TAG_REVERTED)) == number

            await until(closed)
            assert await proxy.events(open_only=True) == []
        types = [event.type for event in reversed(await proxy.events())]
        assert types == [EventType.TAG_OVERWRITTEN, EventType.TAG_REVERTED] * 2
        assert (await proxy.manifest("open/app", "v1")).digest == str(first.digest)


async def test_promise_04_a_deleted_tag_is_told_without_a_pull(tmp_path: Path) -> None:
    """Once; the pin is served all the same, and the tag that comes back ends it."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=watching()) as proxy:
        image = upstream.image("open/app", "v1")
        await proxy.manifest("open/app", "v1")
        upstream.untag("open/app", "v1")
        await until(proxy.events)
        await until(turns(upstream, 2))
        assert [event.type for event in await proxy.events()] == [EventType.TAG_DELETED]
        assert (await proxy.manifest("open/app", "v1")).digest == str(image.digest)
        upstream.tag("open/app", "v1", image.digest)
        await until(lambda: told(proxy, EventType.TAG_REVERTED))
        assert await proxy.events(open_only=True) == []


async def test_promise_04_an_upstream_that_is_away_is_told_once(tmp_path: Path) -> None:
    """Not one event for each tag; pins are served, readiness does not suffer, and it ends when the upstream is back."""
    top = watching("2s", ", unreachable_after: 1s")
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=top) as proxy:
        await pinned(proxy, upstream, 12)
        await until(turns(upstream, 1, "t0"))
        away = upstream.on(when.always, status(500))
        await until(lambda: proxy.events(open_only=True))
        asked, now = len(upstream.requests), asyncio.get_running_loop().time
        began = now()
        await asyncio.sleep(2.0)
        assert len(upstream.requests) - asked < (now() - began) / 0.15 + 4, "it is tried now and then"
        (event,) = await proxy.events()
        assert (event.type, event.subject) == (EventType.UPSTREAM_UNREACHABLE, "reg.example")
        assert "500" in event.message
        assert 'tagstone_watch_away{upstream="reg.example"} 1.0' in (await proxy.metrics()).splitlines()
        assert (await proxy.manifest("open/app", "t3")).status == 200
        async with aiohttp.ClientSession() as session, session.get(f"{proxy.admin}/readyz") as ready:
            assert ready.status == 200
        away.active = False

        async def over() -> bool:
            return not await proxy.events(open_only=True)

        await until(over)
        await until(turns(upstream, 1, "t7"))
        assert len(await proxy.events()) == 1


async def test_a_pin_that_nobody_can_judge_is_not_its_upstreams_silence(tmp_path: Path) -> None:
    """A new rule asks for a signature that cannot be had now: the tag is not asked about, and nothing is said of the upstream."""
    top, options = watching(more=", unreachable_after: 0s"), "retries: 0, breaker_failures: 1000"
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=top, upstream_options=options) as proxy:
        await pinned(proxy, upstream, 6)
        upstream.on(lambda seen: not seen.reference.startswith("t"), status(503))
        await proxy.reload('rules: [{match: "**", require: {signature: {key: release-key}}}]')
        checked = await proxy.application.gate.check(Repository.of("reg.example", "open/app"), "t0")
        assert (checked.result, checked.asked, checked.told) == (Result.UNREACHABLE, False, False)

        async def counted() -> float:
            lines = [line for line in (await proxy.metrics()).splitlines() if line.startswith("tagstone_watch_checks_total")]
            return sum(float(line.rpartition(" ")[2]) for line in lines if 'result="unreachable"' in line)

        async def often() -> bool:
            return await counted() >= 20

        await until(often)
        assert 'tagstone_watch_away{upstream="reg.example"} 0.0' in (await proxy.metrics()).splitlines()
        assert await proxy.events() == []


async def test_what_stood_a_moment_ago_is_taken_at_its_word_and_written_on_by_nobody(tmp_path: Path) -> None:
    """A check that is given a pin looks up nothing; but under another question, or where the pin has moved on, it does."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top="watch: {interval: never, tags_interval: never}") as proxy:
        gate, app = proxy.application.gate, Repository.of("reg.example", "open/app")
        await pinned(proxy, upstream, 2)
        before = await proxy.pin("open/app:t0")
        assert before is not None
        standing = Standing(before, gate.rule(app).fingerprint)
        await proxy.application.catalog.block(Block(before.digest, "bad", "olga", before.pinned_at))
        assert (await gate.check(app, "t0", standing)).result is Result.UNCHANGED
        checked = await gate.check(app, "t0", replace(standing, question="of yesterday"))
        assert (checked.result, checked.asked) == (Result.REVOKED, False)
        await proxy.application.catalog.unblock(before.digest, by="olga", reason="", at=before.pinned_at)
        assert (await gate.check(app, "t0")).result is Result.UNCHANGED
        upstream.tag("open/app", "t0", upstream.image("open/app", None, seed="two").digest)
        checked = await gate.check(app, "t0", standing)
        assert checked.result is Result.OVERWRITTEN
        after = await proxy.pin("open/app:t0")
        assert after is not None
        assert after == checked.pin
        assert after.version == before.version + 3, "revoked, restored, overwritten: each on what was there"


async def test_an_upstream_that_is_away_starves_no_other(tmp_path: Path) -> None:
    """While one answers nothing, the tags of the other are checked as ever."""
    rules = 'rules: [{match: "**", require: first-use}]'
    async with Registry() as silent, Registry() as upstream:
        more = f"other.example: {{url: {silent.url}, allow_private: true, retries: 0, header_timeout: 60s}}"
        async with Proxy(tmp_path, upstream, rules=rules, upstreams=more, top=watching()) as proxy:
            for registry in (upstream, silent):
                registry.image("open/app", "v1")
            for path in ("reg.example", "other.example"):
                assert (await proxy.get(f"/v2/{path}/open/app/manifests/v1")).status == 200
            held = asyncio.Event()
            silent.on(when.always, hold(held))
            await until(lambda: silent.requests[-1].status is None)
            await until(turns(upstream, 4))
            upstream.image("open/app", "v1", seed="two")
            await until(lambda: told(proxy, EventType.TAG_OVERWRITTEN))
            held.set()


async def test_a_digest_in_a_header_raises_no_alarm(tmp_path: Path) -> None:
    """Without one the manifest is hashed; one that does not fit the bytes is told of the upstream, once, and not of the tags."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=watching()) as proxy:
        await pinned(proxy, upstream, 3)
        fault = upstream.on(when.manifest(), without("Docker-Content-Digest"))
        fetched = upstream.count("GET", "/manifests/t0")
        await until(lambda: upstream.count("GET", "/manifests/t0") >= fetched + 2)
        assert await proxy.events() == []
        fault.active = False
        other = upstream.image("open/app", None, seed="other")
        fault = upstream.on(when.manifest(), lie(other.digest))
        await until(proxy.events)
        await until(turns(upstream, 2, "t2"))
        (event,) = await proxy.events()
        assert (event.type, event.subject) == (EventType.UPSTREAM_MISBEHAVING, "reg.example")
        fault.active = False

        async def over() -> bool:
            return not await proxy.events(open_only=True)

        await until(over)
        assert all(pin.state is PinState.PINNED for pin in await proxy.application.pins.list())


async def test_promise_33_an_upstream_that_says_too_many_requests_is_asked_less(tmp_path: Path) -> None:
    """After a 429 nothing is asked for as long as it says; it is logged once and to be seen in the metrics."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=watching()) as proxy:
        await pinned(proxy, upstream, 20)
        await until(turns(upstream, 1, "t0"))
        limit = upstream.on(when.manifest("HEAD"), refuse(429, "TOOMANYREQUESTS", "slow down", headers={"Retry-After": "50"}))
        await until(lambda: limit.fired)

        async def slowed() -> bool:
            return 'tagstone_watch_slowed{upstream="reg.example"} 1.0' in (await proxy.metrics()).splitlines()

        await until(slowed)
        limit.active = False
        asked = upstream.count("HEAD")
        await asyncio.sleep(2.0)
        assert upstream.count("HEAD") <= asked + 4, "no more than were under way"
        assert limit.fired <= 8
        assert await proxy.events() == []


async def test_a_share_of_the_rate_limit_is_left_to_pulls(tmp_path: Path) -> None:
    """When half of what an upstream allows is gone, the watcher asks no more than now and then, and pulls go on."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=watching()) as proxy:
        left = 100
        spend = upstream.on(when.manifest(), header("RateLimit-Limit", "100;w=21600"))

        def spent(seen: object) -> str:
            nonlocal left
            left -= 1
            return str(left)

        upstream.on(when.manifest(), bend(lambda answer: answer.headers.update({"RateLimit-Remaining": spent(answer)})))
        await pinned(proxy, upstream, 10)
        await until(lambda: left <= 50)
        await asyncio.sleep(2.0)
        assert 44 <= left <= 50
        assert spend.fired == 100 - left
        assert (await proxy.manifest("open/app", "t1")).status == 200


async def test_two_workers_ask_once(tmp_path: Path) -> None:
    """One of two watches: each tag is asked about once in its turn, and when that one ends, the other goes on."""
    top = watching("3s", ", jitter: 10%")
    async with Registry() as upstream, Proxy(tmp_path / "a", upstream, top=top, data_dir=tmp_path / "data") as one:
        two = Proxy(tmp_path / "b", upstream, top=top, data_dir=tmp_path / "data", signer=one.signer)
        async with two:
            await pinned(one, upstream, 20)
            upstream.requests.clear()
            now = asyncio.get_running_loop().time
            began = now()
            await asyncio.sleep(6.0)
            assert upstream.count("HEAD") <= 20 * 1.3 * ((now() - began) / 2.7 + 1), "of two it would be twice as many"
            assert [("on_duty 1.0" in await each.metrics()) for each in (one, two)] == [True, False]
            await one.stop()
            await until(turns(upstream, 1, "t0"))
            assert "on_duty 1.0" in await two.metrics()
            await one.start()


async def test_the_schedule_is_reloaded(tmp_path: Path) -> None:
    """From never to now and then, without a restart."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        await pinned(proxy, upstream, 1)
        await asyncio.sleep(0.5)
        assert upstream.count("HEAD") == 0
        proxy._top = watching()
        await proxy.reload(proxy._rules)
        await until(turns(upstream, 2, "t0"))
        proxy._top = watching("never")
        await proxy.reload(proxy._rules)
        await asyncio.sleep(0.5)
        asked = upstream.count("HEAD")
        await asyncio.sleep(1.5)
        assert upstream.count("HEAD") == asked


@pytest.mark.slow
async def test_promise_51_a_watcher_that_was_killed_goes_on_without_a_burst(scratch: Path) -> None:
    """Killed in the middle of a round: the next process goes on once the lease of the dead one has ended, without haste."""
    async with Registry() as upstream, Served(scratch, upstream, top=watching("20s")) as proxy:
        await pinned(proxy, upstream, 40)
        await until(lambda: upstream.count("HEAD") >= 8)
        proxy.process.kill()
        await proxy.ended()
        upstream.requests.clear()
        await proxy.start()
        now = asyncio.get_running_loop().time
        await until(lambda: upstream.count("HEAD"))
        began = now()
        await asyncio.sleep(3.0)
        assert upstream.count("HEAD") <= 10 + 1.5 * 2 * 40 * (now() - began) / 18
        await until(lambda: len({seen.reference for seen in upstream.seen("HEAD")}) == 40)


# -- new tags ------------------------------------------------------------------------------------------------------------


async def test_new_tags_are_told(tmp_path: Path) -> None:
    """What was there at first is not news, nor are signatures; what comes later is, each once; of many there is one event."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=listing()) as proxy:
        image = upstream.image("acme/app", "v1")
        upstream.tag("acme/app", "v0", image.digest)
        upstream.sign("acme/app", image.digest, proxy.signer)
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        await until(lambda: upstream.count("GET", "/tags/list") >= 2)
        upstream.tag("acme/app", "v2", image.digest)
        upstream.sign("acme/app", upstream.image("acme/app", None, seed="more").digest, proxy.signer)
        await until(proxy.events)
        upstream.untag("acme/app", "v0")
        for number in range(60):
            upstream.tag("acme/app", f"flood-{number}", image.digest)
        listed = upstream.count("GET", "/tags/list")
        await until(lambda: upstream.count("GET", "/tags/list") >= listed + 3)
        one, flood = reversed(await proxy.events())
        assert (one.type, one.subject, one.severity) == (EventType.TAG_CREATED, "reg.example/acme/app:v2", Severity.INFO)
        assert (flood.subject, flood.details["count"], len(flood.details["tags"])) == ("reg.example/acme/app", 60, 50)
        assert await proxy.events(open_only=True) == []
        assert upstream.count("HEAD") == 0


async def test_new_tags_where_one_was_overwritten_are_suspect(tmp_path: Path) -> None:
    """An overwrite that a pull finds has the other tags of the repository looked at at once."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=listing("1d")) as proxy:
        image = upstream.image("open/app", "v1")
        assert (await proxy.manifest("open/app", "v1")).status == 200
        await until(lambda: upstream.count("GET", "/tags/list"))
        upstream.tag("open/app", "evil", image.digest)
        upstream.image("open/app", "v1", seed="two")
        assert (await proxy.manifest("open/app", "v1")).status == 403
        await until(lambda: told(proxy, EventType.TAG_CREATED))
        (event,) = await told(proxy, EventType.TAG_CREATED)
        assert (event.subject, event.severity) == ("reg.example/open/app:evil", Severity.WARNING)
        assert "the tag v1 of the same repository was overwritten lately" in event.message


async def test_new_tags_that_must_not_change_are_suspect(tmp_path: Path) -> None:
    """A tag of a kind that the policy names, and wants kept, is more than a note."""
    rules = 'rules: [{match: "reg.example/open/**", require: first-use, tags: [{match: "v*", on_overwrite: refuse}]}]'
    async with Registry() as upstream, Proxy(tmp_path, upstream, rules=rules, top=listing()) as proxy:
        image = upstream.image("open/app", "v1")
        assert (await proxy.manifest("open/app", "v1")).status == 200
        await until(lambda: upstream.count("GET", "/tags/list"))
        upstream.tag("open/app", "v2", image.digest)
        upstream.tag("open/app", "edge", image.digest)

        async def both() -> bool:
            return len(await proxy.events()) == 2

        await until(both)
        found = {event.subject.rpartition(":")[2]: event.severity for event in await proxy.events()}
        assert found == {"v2": Severity.WARNING, "edge": Severity.INFO}


async def test_lists_that_cannot_be_read_are_no_news(tmp_path: Path) -> None:
    """An upstream that gives no list, or nonsense, is asked again in its turn; what is known of the repository stays."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=listing()) as proxy:
        image = upstream.image("open/app", "v1")
        assert (await proxy.manifest("open/app", "v1")).status == 200
        await until(lambda: upstream.count("GET", "/tags/list") >= 1)
        for fault in (status(401), status(200, "{}"), status(200, "<html>")):
            refused = upstream.on(when.tags(), fault)
            await until(lambda refused=refused: refused.fired >= 2)
            refused.active = False
        upstream.tag("open/app", "v2", image.digest)
        await until(lambda: told(proxy, EventType.TAG_CREATED))
        (event,) = await told(proxy, EventType.TAG_CREATED)
        assert event.subject == "reg.example/open/app:v2"
