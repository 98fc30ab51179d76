"""Alerts from a pull to the receiver, over real sockets."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from proxy.configuration import load
from tests.harness import Proxy, until
from tests.simulator.registry import Registry
from tests.simulator.sink import Post, Receiver, Reply

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


def sinks(folder: Path, wanted: str = "*", **urls: str) -> str:
    """The configuration of CloudEvents sinks for these types of events."""
    (folder / "secret").write_text(f"{SECRET}\n")
    lines = [
        f"    {name}: {{cloudevents: {{url: {url}, secret_file: {folder}/secret}}, types: ['{wanted}']}}"
        for name, url in urls.items()
    ]
    return "alerts:\n  source: https://tagstone.example\n  sinks:\n" + "\n".join(lines)


def types(posts: list[Post]) -> list[str]:
    """The types of CloudEvents."""
    return [post.json["type"] for post in posts]


async def test_promise_58_an_overwrite_is_told_signed_and_resolved(tmp_path: Path) -> None:
    """A→B is told once, with both digests in words, in a form that the reference library accepts; B→A says that it is over."""
    async with Registry() as upstream, Receiver() as receiver:
        before = upstream.image("open/app", "v1")
        async with Proxy(tmp_path, upstream, top=sinks(tmp_path, soc=receiver.url)) as proxy:
            assert (await proxy.manifest("open/app", "v1")).status == 200
            after = upstream.image("open/app", "v1", seed="2")
            for _ in range(3):
                assert (await proxy.manifest("open/app", "v1")).status == 403
            (post,) = await receiver.wait(1)
            told = Webhook(SECRET).verify(post.body, dict(post.headers))
            assert told["id"] == post.headers["webhook-id"]
            assert (told["type"], told["source"], told["subject"]) == (
                "dev.tagstone.tag.overwritten",
                "https://tagstone.example",
                "reg.example/open/app:v1",
            )
            assert told["data"]["digest"] == str(after.digest)
            assert str(before.digest) in told["data"]["message"]
            upstream.tag("open/app", "v1", before.digest)
            assert (await proxy.manifest("open/app", "v1")).status == 200
            await receiver.wait(3)
            assert set(types(receiver.posts[1:])) == {"dev.tagstone.tag.overwritten.resolved", "dev.tagstone.tag.reverted"}
            await until(lambda: _shown(proxy, 'tagstone_alerts_delivered_total{sink="soc"} 3.0'))


async def test_promise_58_a_sink_that_is_down_holds_up_no_other(tmp_path: Path) -> None:
    """One that never answers and one that is not there: the third is told, and pulls are answered meanwhile."""
    never = asyncio.Event()
    async with Registry() as upstream, Receiver(lambda _: Reply(wait=never)) as slow, Receiver() as good:
        upstream.image("open/app", "v1")
        gone = "http://127.0.0.1:1/"
        top = sinks(tmp_path, "tag.overwritten", gone=gone, slow=slow.url, good=good.url)
        async with Proxy(tmp_path, upstream, top=top) as proxy:
            await proxy.manifest("open/app", "v1")
            upstream.image("open/app", "v1", seed="2")
            assert (await proxy.manifest("open/app", "v1")).status == 403
            await good.wait(1)
            await slow.wait(1)
            upstream.image("open/app", "v1", seed="3")
            assert (await proxy.manifest("open/app", "v1")).status == 403
            await good.wait(2)
            assert types(good.posts) == ["dev.tagstone.tag.overwritten"] * 2
            await until(lambda: _shown(proxy, 'tagstone_alerts_waiting{sink="gone"} 2.0'))
            never.set()


async def test_promise_58_what_waits_is_delivered_after_a_restart(tmp_path: Path) -> None:
    """The sink is down until the server has been stopped and started again; the id stays the same."""
    down = [True]
    async with Registry() as upstream, Receiver(lambda _: Reply(503 if down[0] else 204)) as receiver:
        upstream.image("open/app", "v1")
        async with Proxy(tmp_path, upstream, top=sinks(tmp_path, soc=receiver.url)) as proxy:
            await proxy.manifest("open/app", "v1")
            upstream.image("open/app", "v1", seed="2")
            await proxy.manifest("open/app", "v1")
            await receiver.wait(1)
            down[0] = False
            await proxy.restart()
            await until(lambda: _shown(proxy, 'tagstone_alerts_delivered_total{sink="soc"} 1.0'))
    assert len({post.headers["webhook-id"] for post in receiver.posts}) == 1


async def test_a_dead_sink_is_reported_to_the_others_and_so_is_its_recovery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``sink.failing``, once, while it is down; resolved when it takes something again. It is not told of itself."""
    monkeypatch.setattr("proxy.policy.alerts.FIRST_PAUSE", 0.05)
    down = [True]
    async with Registry() as upstream, Receiver(lambda _: Reply(500 if down[0] else 204)) as bad, Receiver() as good:
        upstream.image("open/app", "v1")
        async with Proxy(tmp_path, upstream, top=sinks(tmp_path, bad=bad.url, good=good.url)) as proxy:
            await proxy.manifest("open/app", "v1")
            upstream.image("open/app", "v1", seed="2")
            await proxy.manifest("open/app", "v1")
            await good.wait(2, 60)
            down[0] = False
            await good.wait(3, 60)
            kinds = [kind.removeprefix("dev.tagstone.") for kind in types(good.posts)]
            assert kinds == ["tag.overwritten", "sink.failing", "sink.failing.resolved"]
            assert good.posts[1].json["subject"] == "sink:bad"
            assert {kind.removeprefix("dev.tagstone.") for kind in types(bad.posts)} == {"tag.overwritten"}


async def test_sinks_are_changed_by_a_reload(tmp_path: Path) -> None:
    """A sink that is added hears of what happens from then on; one that is taken away hears no more."""
    async with Registry() as upstream, Receiver() as first, Receiver() as second:
        upstream.image("open/app", "v1")
        async with Proxy(tmp_path, upstream, top=sinks(tmp_path, first=first.url)) as proxy:
            await proxy.manifest("open/app", "v1")
            upstream.image("open/app", "v1", seed="2")
            await proxy.manifest("open/app", "v1")
            await first.wait(1)
            proxy.config.write_text(
                proxy.config.read_text().replace(
                    f"first: {{cloudevents: {{url: {first.url}", f"second: {{cloudevents: {{url: {second.url}"
                )
            )
            assert proxy.application.adopt(load(proxy.config)) == ()
            await until(lambda: _shown(proxy, 'tagstone_alerts_waiting{sink="second"}'))
            upstream.image("open/app", "v1", seed="3")
            await proxy.manifest("open/app", "v1")
            await second.wait(1)
    assert len(first.posts) == 1


async def _shown(proxy: Proxy, text: str) -> bool:
    return text in await proxy.metrics()
