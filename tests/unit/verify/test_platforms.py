"""What an index lists, read for a judgement on each platform."""

from __future__ import annotations

import threading
import time

import pytest

from proxy.content import FetchedManifest
from proxy.manifest import Bounds, Manifest, parse
from proxy.policy.patterns import Pattern
from proxy.policy.rules import AttestationBy, On, Rule
from proxy.policy.verdicts import Outcome
from proxy.verify import reading
from proxy.verify.model import Subject, Trusted
from proxy.verify.pipeline import Pipeline, default_verifiers
from tests.simulator.images import Image, image, index
from tests.unit.verify.evidence import LIMITS, NOW, RELEASE, REPOSITORY, Upstream, keys

BUILT = AttestationBy("https://slsa.dev/provenance/v1", RELEASE.name, on=On.PLATFORM)


def about(of: Image) -> Subject:
    """An index, as it is judged."""
    listed = parse(of.body, of.media_type, LIMITS.bounds()).manifests
    return Subject(REPOSITORY, of.digest, of.body, of.media_type, listed)


@pytest.mark.parametrize("bound_for", ["platforms", "referrers"])
async def test_promise_15_long_manifests_of_one_judgement_are_read_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, bound_for: str
) -> None:
    """Side by side, each document of bad will would swell and stop all threads at the same time."""
    alone = threading.Lock()
    read: list[int] = []

    def lonely(body: bytes, media_type: str, bounds: Bounds) -> Manifest:
        assert alone.acquire(blocking=False), "another document is being read"
        try:
            time.sleep(0.01)
            read.append(len(body))
            return parse(body, media_type, bounds)
        finally:
            alone.release()

    upstream = Upstream()
    long = {"org.example.long": "x" * (80 << 10)}
    if bound_for == "platforms":
        platforms = [image(f"app-{number}", annotations=long) for number in range(6)]
        upstream.manifests |= {each.digest: each for each in platforms}
    else:
        platforms = [image(f"app-{number}") for number in range(3)]
        upstream.manifests |= {each.digest: each for each in platforms}
        upstream.refer(*(image(f"referrer-{number}", annotations=long) for number in range(2)))
    monkeypatch.setattr(reading, "parse", lonely)
    pipeline = Pipeline(default_verifiers(LIMITS), Trusted(keys()), LIMITS)
    verdict, _ = await pipeline.judge(upstream, about(index(platforms)), Rule(Pattern.compile("**"), BUILT, (), "f"), NOW)
    assert verdict.outcome is Outcome.REFUSED
    assert sum(size > 80 << 10 for size in read) == 6


async def test_what_is_short_is_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread is started for what takes no time, and nobody waits for what is long."""
    reader = reading.Reader()
    threads: list[threading.Thread] = []

    def noted(body: bytes, media_type: str, bounds: Bounds) -> Manifest:
        threads.append(threading.current_thread())
        return parse(body, media_type, bounds)

    monkeypatch.setattr(reading, "parse", noted)
    for each in (image("short"), image("long", annotations={"org.example.long": "x" * (16 << 10)})):
        read = await reader.read(FetchedManifest(each.body, each.digest, each.media_type), LIMITS.bounds())
        assert len(read.layers) == len(each.layers)
    assert [thread is threading.main_thread() for thread in threads] == [True, False]
