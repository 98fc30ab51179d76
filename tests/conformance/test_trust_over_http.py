"""Roots of TUF repositories, through the whole proxy: refreshed while it runs, suspended, and counting again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from proxy.tuf.state import read
from tests.harness import Proxy, WallClock, until
from tests.simulator import images, signing, when
from tests.simulator.behaviours import hold
from tests.simulator.images import Image
from tests.simulator.registry import Registry
from tests.simulator.sigstore import PrivateSigstore, Signing
from tests.simulator.sigstore.faults import TufFault
from tests.simulator.sigstore.tuf import TufRepository
from tests.simulator.sigstore.tufserver import Answer, TufServer
from tests.tools import SOON

SIGSTORE, OTHER = PrivateSigstore(), PrivateSigstore("other")
WHO = Signing()
KEYLESS = f"{{signature: {{keyless: {{root: corp, issuer: {WHO.issuer!r}, identity: {WHO.identity!r}}}}}}}"
BY_KEY = "{signature: {key: release-key}}"
SUSPENDED = "root corp: makes no new decisions: its TUF repository"


class Corp:
    """A company's TUF repository over HTTP, and proxies that believe it."""

    def __init__(self, folder: Path, server: TufServer, published: TufRepository) -> None:
        self.folder = folder
        self.server = server
        self.published = published

    def proxy(self, upstream: Registry, require: str = KEYLESS, refresh: str = "100ms", more: str = "", keys: str = "") -> Proxy:
        """A proxy with one rule."""
        (self.folder / "root.json").write_bytes(self.published.bootstrap)
        root = f"{{tuf: '{self.server.url}', root: {self.folder}/root.json}}"
        trust = f"roots: {{corp: {root}}}\nrefresh: {refresh}\n{more}"
        rules = f'rules: [{{match: "**", require: {require}}}]\n'
        return Proxy(self.folder, upstream, rules=rules, trust=trust, key_options=keys)

    def publish(self, fault: TufFault | None = None, by: PrivateSigstore = SIGSTORE) -> None:
        """The next version."""
        self.published.publish(by.tuf_targets(), fault)


@pytest.fixture
def corp(tmp_path: Path) -> Iterator[Corp]:
    """With a first and a second version."""
    published = SIGSTORE.tuf_repository(tmp_path / "repository")
    with TufServer(published.folder) as server:
        corp = Corp(tmp_path, server, published)
        corp.publish()
        yield corp


def image_of(upstream: Registry, tag: str, by: PrivateSigstore = SIGSTORE) -> Image:
    """Another image, signed keyless."""
    image = upstream.image("acme/app", tag, seed=tag)
    upstream.add("acme/app", by.signature_image(image.digest, WHO), signing.signature_tag(image.digest))
    return image


async def sign_and_pull(upstream: Registry, proxy: Proxy, image: Image, by: PrivateSigstore) -> None:
    """Put another signature in the place of what is there, and have a client pull it, so that it is kept."""
    tag = signing.signature_tag(image.digest)
    upstream.add("acme/app", by.signature_image(image.digest, WHO), tag)
    assert (await proxy.manifest("acme/app", tag)).status == 200


async def served(proxy: Proxy, tag: str) -> bool:
    """Whether a pull of the tag passes."""
    return (await proxy.manifest("acme/app", tag)).status == 200


def reading(metrics: str, name: str) -> float:
    """The value of a gauge for the root."""
    (line,) = [line for line in metrics.splitlines() if line.startswith(f'tagstone_trust_root_{name}{{root="corp"}}')]
    return float(line.rpartition(" ")[2])


def suspended(proxy: Proxy) -> bool:
    """Whether the proxy knows that the root is suspended."""
    return reading_of(proxy) is not None


def reading_of(proxy: Proxy) -> str | None:
    """Why the root makes no decisions."""
    return proxy.application._current.trusted.roots["corp"].unusable(datetime.now(UTC))


async def test_a_root_is_fetched_while_the_server_runs(tmp_path: Path, corp: Corp) -> None:
    """It starts without one and says that nobody can tell; soon after, pulls are judged by it. Metrics tell."""
    corp.server.all_else = Answer(503)
    async with Registry() as upstream, corp.proxy(upstream) as proxy:
        image = image_of(upstream, "v1")
        answer = await proxy.manifest("acme/app", "v1")
        assert answer.status == 503
        assert "there is none yet from its TUF repository" in answer.error["message"]
        assert "Retry-After" in answer.headers
        corp.server.all_else = None
        await until(lambda: served(proxy, "v1"))
        assert (await proxy.manifest("acme/app", "v1")).body == image.body
        metrics = await proxy.metrics()
        assert (reading(metrics, "suspended"), reading(metrics, "unreachable")) == (0, 0)
        assert abs(reading(metrics, "refreshed_timestamp_seconds") - datetime.now(UTC).timestamp()) < 60
        assert reading(metrics, "expires_timestamp_seconds") == corp.published.expires.timestamp()


FAULTS: dict[str, TufFault] = {
    "expired": "timestamp expired",
    "rolled back": "timestamp rolled back",
    "snapshot rolled back": "snapshot rolled back",
    "wrongly signed": "timestamp by another key",
    "another root": "next root unsigned",
}


@pytest.mark.parametrize("what", [*FAULTS, "frozen"])
async def test_promise_49_a_tuf_root_that_does_not_hold_makes_no_new_decisions(tmp_path: Path, corp: Corp, what: str) -> None:
    """New pulls are neither passed nor refused; what is pinned or was judged is served on; a good answer ends it."""
    async with Registry() as upstream, corp.proxy(upstream) as proxy:
        image = image_of(upstream, "v1")
        await until(lambda: served(proxy, "v1"))
        unpinned = image_of(upstream, "v2")
        assert (await proxy.manifest("acme/app", unpinned.digest)).status == 200  # judged by digest, not pinned
        if what == "frozen":
            corp.published.expires = datetime.now(UTC) + timedelta(seconds=1)
            corp.publish()
        elif what == "another root":
            corp.published.rotate_root("next root unsigned")
        else:
            corp.publish(FAULTS[what])
        await until(lambda: suspended(proxy))
        image_of(upstream, "v3")
        for _ in range(2):  # nothing of it is remembered as a verdict
            answer = await proxy.manifest("acme/app", "v3")
            assert (answer.status, await proxy.pin("acme/app:v3")) == (503, None)
            assert SUSPENDED in answer.error["message"]
            assert "Retry-After" in answer.headers
        assert (await proxy.manifest("acme/app", "v1")).body == image.body
        assert (await proxy.blob("acme/app", image.blobs[1].digest)).body == image.blobs[1].data
        assert (await proxy.manifest("acme/app", "v2")).body == unpinned.body
        assert reading(await proxy.metrics(), "suspended") == 1
        await proxy.restart()
        assert suspended(proxy)
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        assert (await proxy.manifest("acme/app", "v3")).status == 503
        corp.published.expires = datetime.now(UTC) + timedelta(days=1)
        if what == "another root":
            (corp.published.folder / "2.root.json").unlink()
        else:
            corp.publish()
            corp.publish()
        await until(lambda: served(proxy, "v3"))
        assert reading(await proxy.metrics(), "suspended") == 0


async def test_an_unreachable_repository_changes_nothing(tmp_path: Path, corp: Corp) -> None:
    """The last good root counts on, for new pulls as well, also after a restart; that it is so is told."""
    async with Registry() as upstream, corp.proxy(upstream) as proxy:
        image_of(upstream, "v1")
        await until(lambda: served(proxy, "v1"))
        corp.server.all_else = Answer(503)
        await until(lambda: proxy.application._current.states[_folder(proxy)].unreachable is not None)
        image_of(upstream, "v2")
        assert await served(proxy, "v2")
        await proxy.restart()
        image_of(upstream, "v3")
        assert await served(proxy, "v3")
        metrics = await proxy.metrics()
        assert (reading(metrics, "unreachable"), reading(metrics, "suspended")) == (1, 0)


async def test_freshness_can_be_required(tmp_path: Path, corp: Corp, clock: WallClock) -> None:
    """Unreachable until the metadata has expired: then nothing new is decided. Without the demand it would be."""
    async with Registry() as upstream, corp.proxy(upstream, more="freshness: required") as proxy:
        image_of(upstream, "v1")
        await until(lambda: served(proxy, "v1"))
        corp.server.all_else = Answer(503)
        clock.ahead = corp.published.expires - datetime.now(UTC) + timedelta(days=1)
        image_of(upstream, "v2")
        answer = await proxy.manifest("acme/app", "v2")
        assert answer.status == 503
        assert "it has not been refreshed, and its TUF metadata expired" in answer.error["message"]
        assert await served(proxy, "v1")
        proxy.config.write_text(proxy.config.read_text().replace("freshness: required", "freshness: none"))
        from proxy.configuration import load

        proxy.application.adopt(load(proxy.config))
        assert await served(proxy, "v2")


async def test_a_new_root_is_taken_over(tmp_path: Path, corp: Corp) -> None:
    """Keys that are gone no longer vouch, new ones do; a pinned image is judged again from stored evidence."""
    async with Registry() as upstream, corp.proxy(upstream) as proxy:
        image_of(upstream, "v1")
        image_of(upstream, "v2", OTHER)
        await until(lambda: served(proxy, "v1"))
        assert (await proxy.manifest("acme/app", "v2")).status == 403
        corp.publish(by=OTHER)
        await until(lambda: served(proxy, "v2"))
        answer = await proxy.manifest("acme/app", "v1")
        assert (answer.status, answer.error["code"]) == (403, "DENIED")


async def test_what_was_accepted_is_judged_again_by_a_suspended_root(tmp_path: Path, corp: Corp) -> None:
    """A root that changed and was suspended before the next pull: the last good one repeats itself, and decides nothing else."""
    async with Registry() as upstream, corp.proxy(upstream) as proxy:
        image = image_of(upstream, "v1")
        await until(lambda: served(proxy, "v1"))
        before = proxy.application._current.rules
        later = SIGSTORE.trusted_root(windows={"TSA": (datetime(2022, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))})
        corp.published.publish({"trusted_root.json": later})
        await until(lambda: proxy.application._current.rules != before)
        corp.publish("timestamp expired")
        await until(lambda: suspended(proxy))
        assert (await proxy.manifest("acme/app", "v1")).body == image.body
        image_of(upstream, "v2")
        assert (await proxy.manifest("acme/app", "v2")).status == 503


async def test_promise_49_what_another_rule_accepted_a_suspended_root_never_did(tmp_path: Path, corp: Corp) -> None:
    """Accepted without a signature, then signed, and the signature pulled and kept: under a new rule that is a new decision."""
    async with Registry() as upstream, corp.proxy(upstream, "first-use") as proxy:
        await until(lambda: not suspended(proxy))
        image = upstream.image("acme/app", "v1", seed="v1")
        assert await served(proxy, str(image.digest))
        corp.publish("timestamp expired")
        await until(lambda: suspended(proxy))
        await sign_and_pull(upstream, proxy, image, SIGSTORE)
        await proxy.reload(f'rules: [{{match: "**", require: {KEYLESS}}}]\n')
        answer = await proxy.manifest("acme/app", "v1")
        assert answer.status == 503
        assert SUSPENDED in answer.error["message"]


async def test_promise_49_what_was_kept_later_is_no_ground(tmp_path: Path, corp: Corp) -> None:
    """The root changes, withdraws what it had accepted, and is suspended: another signature was kept, but never judged."""
    async with Registry() as upstream, corp.proxy(upstream) as proxy:
        image = image_of(upstream, "v1")
        await until(lambda: served(proxy, "v1"))
        await sign_and_pull(upstream, proxy, image, OTHER)
        before = proxy.application._current.rules
        corp.publish(by=OTHER)
        await until(lambda: proxy.application._current.rules != before)
        corp.publish("timestamp expired", by=OTHER)
        await until(lambda: suspended(proxy))
        assert (await proxy.manifest("acme/app", "v1")).status == 503
        corp.publish(by=OTHER)
        corp.publish(by=OTHER)
        await until(lambda: served(proxy, "v1"))


async def test_promise_49_what_a_key_accepted_meanwhile_is_no_ground(tmp_path: Path, corp: Corp) -> None:
    """Two may vouch; while the root is suspended the key does, and what is found beside is kept. It does not replace the key."""
    until_then = datetime.now(UTC) + timedelta(seconds=3)
    either, keys = f"{{any: [{BY_KEY}, {KEYLESS}]}}", f"valid_until: '{until_then:%Y-%m-%dT%H:%M:%S}Z'"
    async with Registry() as upstream, corp.proxy(upstream, either, keys=keys) as proxy:
        await until(lambda: not suspended(proxy))
        corp.publish("timestamp expired")
        await until(lambda: suspended(proxy))
        image = upstream.image("acme/app", "v1", seed="v1")
        both = [signing.cosign_signature(proxy.signer, image.digest), SIGSTORE.cosign_signature(image.digest, WHO)]
        upstream.add("acme/app", signing.signature_manifest(both), signing.signature_tag(image.digest))
        assert await served(proxy, "v1")
        await until(lambda: datetime.now(UTC) > until_then)
        assert (await proxy.manifest("acme/app", "v1")).status == 503


async def test_promise_50_a_pull_after_the_suspension_gets_no_answer_from_before(tmp_path: Path, corp: Corp) -> None:
    """A judgement under way goes on by what held when it began; who comes later does not join it."""
    async with Registry() as upstream, corp.proxy(upstream) as proxy:
        image = image_of(upstream, "v1")
        await until(lambda: not suspended(proxy))
        over, tag = asyncio.Event(), signing.signature_tag(image.digest)
        fault = upstream.on(when.manifest("GET", tag), hold(over))
        early = asyncio.create_task(proxy.manifest("acme/app", image.digest))
        await until(lambda: fault.fired)
        corp.publish("timestamp expired")
        await until(lambda: suspended(proxy))
        async with asyncio.timeout(SOON):
            assert (await proxy.manifest("acme/app", image.digest)).status == 503
        assert not early.done()
        over.set()
        assert (await early).status == 200


async def test_a_new_index_of_accepted_platforms_is_a_new_decision(tmp_path: Path, corp: Corp) -> None:
    """What is kept about the platforms of an accepted index does not carry another index over a suspension."""
    kind = "https://slsa.dev/provenance/v1"
    by = f"{{root: corp, issuer: {WHO.issuer!r}, identity: {WHO.identity!r}}}"
    require = f"{{attestation: {{type: '{kind}', by: {by}, on: platform}}}}"
    async with Registry() as upstream, corp.proxy(upstream, require) as proxy:
        whole = upstream.add("acme/app", images.multi_arch("app", ("linux/amd64", "linux/arm64")), "v1")
        for child in whole.images:
            upstream.refer("acme/app", SIGSTORE.attestation_referrer(child, kind, {}, WHO))
        await until(lambda: served(proxy, "v1"))
        corp.publish("timestamp expired")
        await until(lambda: suspended(proxy))
        upstream.add("acme/app", images.index(whole.images[:1]), "v2")
        assert (await proxy.manifest("acme/app", "v2")).status == 503
        assert (await proxy.manifest("acme/app", "v1")).body == whole.body
        assert (await proxy.manifest("acme/app", whole.images[0].digest)).body == whole.images[0].body


async def test_what_else_vouches_is_not_held_up(tmp_path: Path, corp: Corp) -> None:
    """Where a rule is content with another signer, that one decides; where that one is missing, nobody can tell yet."""
    async with Registry() as upstream, corp.proxy(upstream, f"{{any: [{BY_KEY}, {KEYLESS}]}}") as proxy:
        await until(lambda: not suspended(proxy))
        corp.publish("timestamp expired")
        await until(lambda: suspended(proxy))
        image = upstream.image("acme/app", "v1", seed="v1")
        assert (await proxy.manifest("acme/app", "v1")).status == 503
        upstream.sign("acme/app", image.digest, proxy.signer)
        assert await served(proxy, "v1")
        await proxy.reload(f'rules: [{{match: "**", require: {{all: [{BY_KEY}, {KEYLESS}]}}}}]\n')
        image = upstream.image("acme/app", "v2", seed="v2")
        answer = await proxy.manifest("acme/app", "v2")
        assert answer.status == 403, "without the other signature it would be refused in any case"
        upstream.sign("acme/app", image.digest, proxy.signer)
        await until(lambda: _unavailable(proxy, "v2"))


async def test_keys_whose_times_a_suspended_root_proves(tmp_path: Path, corp: Corp) -> None:
    """They wait as well: when they signed is not known without it."""
    async with Registry() as upstream, corp.proxy(upstream, BY_KEY, keys="root: corp") as proxy:
        image = upstream.image("acme/app", "v1", seed="v1")
        upstream.sign("acme/app", image.digest, proxy.signer)
        await until(lambda: served(proxy, "v1"))
        corp.publish("timestamp expired")
        await until(lambda: suspended(proxy))
        image = upstream.image("acme/app", "v2", seed="v2")
        upstream.sign("acme/app", image.digest, proxy.signer)
        answer = await proxy.manifest("acme/app", "v2")
        assert answer.status == 503
        assert SUSPENDED in answer.error["message"]


async def test_never_asks_nobody_but_notices(tmp_path: Path, corp: Corp) -> None:
    """For air gaps: no request at all; what somebody else stores is taken over while the server runs."""
    async with Registry() as upstream, corp.proxy(upstream, refresh="never") as proxy:
        image_of(upstream, "v1")
        assert (await proxy.manifest("acme/app", "v1")).status == 503
        assert corp.server.asked == []
        async with Registry() as elsewhere:
            other = corp.proxy(elsewhere)
            other.data_dir = tmp_path / "online"
            async with other:
                await until(lambda: not suspended(other))
        stored = other.data_dir / "tuf" / _folder(proxy)
        assert read(stored).accepted is not None
        carried = proxy.data_dir / "tuf" / _folder(proxy)
        carried.mkdir(parents=True)
        (carried / "state.json").write_bytes((stored / "state.json").read_bytes())
        await until(lambda: served(proxy, "v1"))


async def test_a_reload_may_bring_a_repository(tmp_path: Path, corp: Corp) -> None:
    """And take one away."""
    async with Registry() as upstream, corp.proxy(upstream, "deny") as proxy:
        text = proxy.config.read_text()
        proxy.config.write_text(text.replace("    tuf:", "    #"))
        from proxy.configuration import load

        without = text.replace("  roots: {corp:", "  # {corp:")
        proxy.config.write_text(without)
        proxy.application.adopt(load(proxy.config))
        count = len(corp.server.asked)
        assert "trust_root" not in await proxy.metrics()
        proxy.config.write_text(text)
        proxy.application.adopt(load(proxy.config))
        await until(lambda: len(corp.server.asked) > count)


async def test_stopping_does_not_wait_for_a_repository(tmp_path: Path, corp: Corp) -> None:
    """A refresh that hangs is broken off, and says nothing about the repository."""
    corp.server.answers["/timestamp.json"] = Answer(body=b"{", hangs=True)
    async with Registry() as upstream:
        proxy = corp.proxy(upstream)
        await proxy.start()
        await until(lambda: "/timestamp.json" in corp.server.asked)
        folder = proxy.data_dir / "tuf" / _folder(proxy)
        before = datetime.now(UTC)
        await proxy.stop()
        assert datetime.now(UTC) - before < timedelta(seconds=SOON)
        assert read(folder).asked_at is None


async def _unavailable(proxy: Proxy, tag: str) -> bool:
    return (await proxy.manifest("acme/app", tag)).status == 503


def _folder(proxy: Proxy) -> str:
    return proxy.application._current.repositories[0].folder
