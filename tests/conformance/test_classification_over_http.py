"""What an overwrite changed, told while nobody is served a byte of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storage.classifications import SETTLED
from storage.digest import Digest
from storage.records import Event, EventType, Severity
from storage.reference import Repository
from tests.harness import Proxy, until
from tests.simulator import when
from tests.simulator.behaviours import status
from tests.simulator.builds import Build, Step, nginx
from tests.simulator.images import Image, index
from tests.simulator.registry import Registry

ON_TOP = Step("COPY xmrig /usr/local/bin/ # buildkit", "xmrig", 3000)
OLD, NEW = nginx(), nginx("2026-06-01")
TROJAN = replace(
    OLD, steps=(*OLD.steps, ON_TOP), run={**OLD.run, "Entrypoint": ["/usr/local/bin/xmrig", "/docker-entrypoint.sh"]}
)
#: An upstream that is asked however often it failed.
PATIENT = "retries: 0, breaker_failures: 1000"
APP = Repository.of("reg.example", "acme/app")


async def told(proxy: Proxy, settled: bool | None = True) -> Event:
    """The one open event, once it says what changed (for good; not for good; either)."""
    found: list[Event] = []

    async def says() -> bool:
        found[:] = [each for each in await proxy.events(open_only=True) if each.type is EventType.TAG_OVERWRITTEN]
        return bool(found) and SETTLED in found[0].details and settled in {None, found[0].details[SETTLED]}

    await until(says)
    (event,) = found
    return event


async def overwritten(upstream: Registry, proxy: Proxy, before: Image, after: Image, *, signed: tuple[bool, bool]) -> Event:
    """Pin one image, overwrite its tag with the other, and have that noted by a pull; the event with what changed."""
    for image, by in zip((before, after), signed, strict=True):
        upstream.add("acme/app", image)
        if by:
            upstream.sign("acme/app", image.digest, proxy.signer)
    upstream.tag("acme/app", "v1", before.digest)
    assert (await proxy.manifest("acme/app", "v1")).status == 200
    upstream.tag("acme/app", "v1", after.digest)
    assert (await proxy.manifest("acme/app", "v1")).status == 403
    return await told(proxy, None)


@pytest.mark.parametrize(
    ("after", "signed", "severity", "kinds"),
    [
        (NEW, True, Severity.INFO, {"base-rebuilt"}),
        (NEW, False, Severity.CRITICAL, {"base-rebuilt", "signature-lost"}),
        (TROJAN, True, Severity.CRITICAL, {"entrypoint", "layers-added"}),
        (TROJAN, False, Severity.CRITICAL, {"entrypoint", "layers-added", "signature-lost"}),
    ],
    ids=["a rebuild", "a rebuild that nobody signed", "a signed binary on top", "a binary on top"],
)
async def test_an_overwrite_says_what_changed(
    tmp_path: Path, after: Build, signed: bool, severity: Severity, kinds: set[str]
) -> None:
    """The event has severity, kinds and words within moments, by itself; the pair is kept, and not compared again."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        event = await overwritten(upstream, proxy, OLD.image(), after.image(), signed=(True, signed))
        assert event.severity is severity
        assert set(event.details["kinds"]) == kinds
        assert event.details["change"].startswith(f"{severity}: ")
        assert event.details["lines"]
        asked = len(upstream.requests)
        change = await proxy.application.upkeep.classifier.of(APP, OLD.image().digest, after.image().digest)
        assert change.severity is severity
        assert len(upstream.requests) == asked


@pytest.mark.parametrize("platforms", [False, True])
async def test_a_classified_candidate_is_never_served(tmp_path: Path, platforms: bool) -> None:
    """Its manifests, its config and its layers were read, and are refused as if nobody had ever looked."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        before, after = OLD.image(), TROJAN.image()
        if platforms:
            before, after = index([before]), index([after])
        await overwritten(upstream, proxy, before, after, signed=(True, False))
        images = (after, *after.images)
        for image in images:
            for method in ("GET", "HEAD"):
                assert (await proxy.manifest("acme/app", image.digest, method)).status == 403
        mine = {blob.digest for image in (before, *before.images) for blob in image.blobs}
        new = [blob.digest for image in images for blob in image.blobs if blob.digest not in mine]
        assert len(new) >= 2, "a config and a layer"
        for digest in new:
            for method in ("GET", "HEAD"):
                assert (await proxy.blob("acme/app", digest, method)).status == 403
            assert await proxy.application.blobs.open(digest) is None
        assert upstream.count("GET", f"/blobs/{new[0]}") == 1, "the config was read, once"
        assert not upstream.count("GET", f"/blobs/{new[-1]}"), "a layer is not even fetched"
        assert await proxy.application.catalog.manifest(APP, after.digest) is None
        pin = await proxy.pin("acme/app:v1")
        assert pin is not None
        assert pin.digest == before.digest


async def test_an_outage_is_told_as_such_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the candidate's config is not to be had, nobody says that nothing matters; then it is said what does."""
    monkeypatch.setattr("proxy.services.classification.FIRST_PAUSE", _moments(0.05))
    monkeypatch.setattr("proxy.services.classification._POLL", 0.05)
    before, after = OLD.image(), replace(OLD, run={**OLD.run, "Entrypoint": ["/x"]}).image()
    async with Registry() as upstream, Proxy(tmp_path, upstream, upstream_options=PATIENT) as proxy:
        for image in (before, after):
            upstream.add("acme/app", image, "v1")
            upstream.sign("acme/app", image.digest, proxy.signer)
        upstream.tag("acme/app", "v1", before.digest)
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        down = upstream.on(when.blob("GET", after.config.digest), status(503))
        upstream.tag("acme/app", "v1", after.digest)
        assert (await proxy.manifest("acme/app", "v1")).status == 403
        event = await told(proxy, settled=False)
        assert event.details["kinds"] == ["not-known-yet"]
        assert event.severity is Severity.WARNING
        assert "cannot be asked for now" in event.details["lines"][0]
        down.active = False
        event = await told(proxy)
        assert set(event.details["kinds"]) == {"entrypoint"}
        assert event.severity is Severity.CRITICAL


async def test_a_signature_that_comes_late_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who pushes an image and signs it a minute later is told as a signature lost, and then no more."""
    monkeypatch.setattr("proxy.services.classification.FIRST_PAUSE", _moments(0.05))
    monkeypatch.setattr("proxy.services.classification._POLL", 0.05)
    before, after = OLD.image(), NEW.image()
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        for image in (before, after):
            upstream.add("acme/app", image)
        upstream.sign("acme/app", before.digest, proxy.signer)
        upstream.tag("acme/app", "v1", before.digest)
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        upstream.tag("acme/app", "v1", after.digest)
        assert (await proxy.manifest("acme/app", "v1")).status == 403
        event = await told(proxy, settled=False)
        assert event.severity is Severity.CRITICAL
        assert "signature-lost" in event.details["kinds"]
        upstream.sign("acme/app", after.digest, proxy.signer)
        event = await told(proxy)
        assert (event.severity, event.details["kinds"]) == (Severity.INFO, ["base-rebuilt"])


async def test_a_candidate_that_is_gone_is_not_nothing(tmp_path: Path) -> None:
    """What cannot be compared at all keeps the severity that overwrites have, and says why."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        change = await proxy.application.upkeep.classifier.of(APP, Digest.of(b"one"), Digest.of(b"other"))
        assert change.severity is Severity.WARNING
        assert len(change.unknown) == 2
        assert all("does not exist upstream" in line for line in change.unknown)
        denied = Repository.of("reg.example", "elsewhere")
        asked = len(upstream.requests)
        change = await proxy.application.upkeep.classifier.of(denied, Digest.of(b"one"), Digest.of(b"other"))
        assert "its upstream is not asked" in change.unknown[0]
        assert len(upstream.requests) == asked


async def test_the_event_is_made_to_say_more(tmp_path: Path) -> None:
    """As alerts ask before they are sent: only of overwrites, and only while they are true."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        event = await overwritten(upstream, proxy, OLD.image(), TROJAN.image(), signed=(True, True))
        bare = replace(event, details={"more": "x"}, severity=Severity.WARNING)
        rich = await proxy.application.upkeep.classifier.enrich(bare)
        assert rich.severity is Severity.CRITICAL
        assert rich.details["more"] == "x"
        assert "entrypoint" in rich.details["kinds"]
        for other in (replace(bare, digest=OLD.image().digest), replace(bare, type=EventType.TAG_DELETED)):
            assert await proxy.application.upkeep.classifier.enrich(other) == other


def _moments(seconds: float) -> Any:
    from datetime import timedelta

    return timedelta(seconds=seconds)
