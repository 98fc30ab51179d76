"""Overwrites by what is odd, broken, too large, or not to be had: told as what it is, and never as nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from proxy.policy.changes import Change, Kind
from proxy.services.snapshots import PLATFORMS
from storage.classifications import Classified
from storage.records import EventType, Severity
from storage.reference import Repository
from tests.conformance.test_signatures_over_http import KEYLESS, PROVENANCE, SIGSTORE, proxy_of
from tests.harness import Proxy, WallClock, until
from tests.simulator import images, when
from tests.simulator.behaviours import status
from tests.simulator.builds import nginx
from tests.simulator.images import Blob, Image, index
from tests.simulator.registry import Registry
from tests.simulator.sigstore import Signing

#: An upstream that is asked however often it failed.
PATIENT = "retries: 0, breaker_failures: 1000"
APP = Repository.of("reg.example", "acme/app")
OLD, NEW = nginx(), nginx("2026-06-01")
ONE = OLD.image()
ARM = replace(OLD, platform="linux/arm64").image()


async def compared(proxy: Proxy, upstream: Registry, before: Image, after: Image) -> Change:
    """What changed between two images that the upstream has."""
    for image in (before, after):
        upstream.add("acme/app", image)
    return await proxy.application.upkeep.classifier.of(APP, before.digest, after.digest)


def with_manifest(image: Image, **members: Any) -> Image:
    """The image with other members in its manifest."""
    return replace(image, body=images.encode(image.manifest | members))


def with_config(image: Image, data: bytes, **members: Any) -> Image:
    """The image with another config, which its descriptor may lie about."""
    config = Blob(images.OCI_CONFIG, data)
    return replace(with_manifest(image, config={**config.entry(), **members}), blobs=(config, *image.blobs[1:]))


def listed(image: Image, **members: Any) -> Image:
    """An index that says other things of its only image."""
    body = images.encode({"schemaVersion": 2, "mediaType": images.OCI_INDEX, "manifests": [{**image.entry(), **members}]})
    return Image(images.OCI_INDEX, body, images=(image,))


AMD = images.platform_of("linux/amd64")
SCHEMA_1 = Image(
    "application/vnd.docker.distribution.manifest.v1+prettyjws", json.dumps({"schemaVersion": 1, "fsLayers": []}).encode()
)


@pytest.mark.parametrize(
    ("after", "kind", "told"),
    [
        (SCHEMA_1, Kind.UNREADABLE, "schema 1"),
        (with_config(ONE, b"[]"), Kind.UNREADABLE, "its config is broken: the config is no object"),
        (with_config(ONE, b"{}", size=5 << 20), Kind.UNREADABLE, "more than are read"),
        (with_config(ONE, b'{"config": {}, "Config": {}}'), Kind.UNREADABLE, "two spellings"),
        (listed(NEW.image(), platform=AMD, size=3), Kind.UNREADABLE, "its index says 3"),
        (listed(with_manifest(ONE, fsLayers=[]), platform=AMD), Kind.UNREADABLE, "its manifest is refused"),
        (listed(index([ONE]), platform=AMD), Kind.UNREADABLE, "an index within the index"),
        (listed(ARM, platform=AMD), Kind.PLATFORM_MISMATCH, "the index says linux/amd64, its config linux/arm64"),
        (listed(NEW.image()), Kind.BASE_REBUILT, "the base was rebuilt"),
    ],
    ids=["schema 1", "no config", "large config", "two meanings", "size", "refused", "nested", "platform", "no platform"],
)
async def test_what_is_odd(tmp_path: Path, after: Image, kind: Kind, told: str) -> None:
    """In the tag's place, each says by its kind and its words what it is."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        before = ONE if after.media_type != images.OCI_INDEX else index([ONE])
        change = await compared(proxy, upstream, before, after)
        assert kind in change.kinds
        assert any(told in line for line in change.lines), change.lines
        assert change.severity in {Severity.WARNING, Severity.CRITICAL}
        assert change.settled
        back = await compared(proxy, upstream, after, before)
        assert back.kinds
        if kind is Kind.UNREADABLE:
            assert Kind.NOT_COMPARED in back.kinds


@pytest.mark.parametrize("missing", ["manifest", "config"])
async def test_what_is_not_there_is_critical_and_asked_for_again(tmp_path: Path, missing: str) -> None:
    """An index that names what nobody has: nobody knows what it will be."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        new = NEW.image()
        before, after = index([ONE]), index([new])
        for image in (before, after):
            upstream.add("acme/app", image)
        upstream.delete("acme/app", new.digest if missing == "manifest" else new.config.digest)
        change = await proxy.application.upkeep.classifier.of(APP, before.digest, after.digest)
        assert (change.severity, change.settled) == (Severity.CRITICAL, False)
        assert set(change.kinds) >= {Kind.UNREADABLE, Kind.NOT_KNOWN_YET}
        upstream.add("acme/app", after)
        change = await proxy.application.upkeep.classifier.of(APP, before.digest, after.digest)
        assert set(change.kinds) == {Kind.BASE_REBUILT, Kind.PLATFORMS_CHANGED} - {Kind.PLATFORMS_CHANGED}


async def test_an_outage_takes_nothing_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was told of a pair is told again while the upstream is down, and compared anew only where it may have mended."""
    clock = WallClock()
    monkeypatch.setattr("proxy.app.utc_now", clock)
    async with Registry() as upstream, Proxy(tmp_path, upstream, upstream_options=PATIENT) as proxy:
        for image, by in ((ONE, True), (NEW.image(), False)):
            upstream.add("acme/app", image)
            if by:
                upstream.sign("acme/app", image.digest, proxy.signer)
        classifier, pair = proxy.application.upkeep.classifier, (APP, ONE.digest, NEW.image().digest)
        change = await classifier.of(*pair)
        assert set(change.kinds) == {Kind.BASE_REBUILT, Kind.SIGNATURE_LOST}
        asked = len(upstream.requests)
        assert await classifier.of(*pair) == change
        assert len(upstream.requests) == asked
        clock.ahead = timedelta(minutes=6)
        down = upstream.on(when.registry(), status(503))
        assert await classifier.of(*pair) == change
        assert down.fired
        down.active = False
        upstream.sign("acme/app", NEW.image().digest, proxy.signer)
        assert (await classifier.of(*pair)).kinds == (Kind.BASE_REBUILT,)


async def test_what_another_version_kept_is_compared_again(tmp_path: Path) -> None:
    """A document that cannot be read is as good as none."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        change = await compared(proxy, upstream, ONE, NEW.image())
        store = proxy.application.upkeep.classifier._store
        kept = await store.get(APP, ONE.digest, NEW.image().digest)
        assert kept is not None
        await store.put(APP, ONE.digest, NEW.image().digest, Classified({"version": 99}, kept.at))
        assert await proxy.application.upkeep.classifier.known(APP, ONE.digest, NEW.image().digest) is None
        assert await compared(proxy, upstream, ONE, NEW.image()) == change


async def test_comparing_ends_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upstream that does not answer keeps nobody waiting: it is not known yet."""
    monkeypatch.setattr("proxy.services.classification.TIMEOUT", 0.2)
    from tests.simulator.behaviours import silence

    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        upstream.on(when.manifest("GET"), silence())
        change = await compared(proxy, upstream, ONE, NEW.image())
        assert (change.kinds, change.settled) == ((Kind.NOT_KNOWN_YET,), False)
        assert "took longer than 0.2 s" in change.lines[0]


async def test_many_platforms_are_compared_within_bounds(tmp_path: Path) -> None:
    """Of more than are compared, those come first that somebody pulled; the others are said to differ."""
    count = PLATFORMS + 4
    old = [replace(OLD, platform=f"linux/arch{number}").image() for number in range(count)]
    new = [replace(NEW, platform=f"linux/arch{number}").image() for number in range(count)]
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        before = upstream.add("acme/app", index(old), "v1")
        upstream.sign("acme/app", before.digest, proxy.signer)
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        assert (await proxy.manifest("acme/app", old[-1].digest)).status == 200
        upstream.requests.clear()
        change = await compared(proxy, upstream, before, index(new))
        assert {Kind.NOT_COMPARED, Kind.BASE_REBUILT} <= set(change.kinds)
        by_name = {each.platform: each for each in change.platforms}
        assert Kind.BASE_REBUILT in by_name[f"linux/arch{count - 1}"].kinds
        assert sum(Kind.NOT_COMPARED in each.kinds for each in change.platforms) == 4
        assert upstream.count("GET", "/manifests/sha256:") <= 2 * PLATFORMS + 2


async def test_what_buildkit_puts_beside_an_image_is_not_fetched(tmp_path: Path) -> None:
    """Attestation manifests of an index are told by their number, as metadata."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        before, after = images.buildkit_index("x"), images.index([images.image("x")])
        change = await compared(proxy, upstream, before, after)
        assert change.kinds == (Kind.METADATA,)
        assert ("attestation manifests", "1 attestation manifest", "0 attestation manifests") in [
            (each.name, each.before, each.after) for each in change.differences
        ]
        assert not upstream.count("GET", f"/manifests/{before.images[1].digest}")


def github(ref: str, repository: str = "https://github.com/acme/app") -> dict[str, Any]:
    """A predicate as GitHub writes it."""
    return {
        "buildDefinition": {"externalParameters": {"workflow": {"ref": ref, "repository": repository}}},
        "runDetails": {"builder": {"id": "https://github.com/actions/runner/github-hosted"}},
    }


@pytest.mark.parametrize("on", ["index", "platform"])
@pytest.mark.parametrize(
    ("predicate", "kind"),
    [
        (github("refs/tags/v1"), None),
        (github("refs/heads/x"), Kind.SOURCE_REF_CHANGED),
        (github("refs/tags/v1", "https://github.com/evil/app"), Kind.SOURCE_CHANGED),
        (None, Kind.PROVENANCE_LOST),
    ],
    ids=["the same", "another branch", "another repository", "none"],
)
async def test_signed_provenance_is_compared(
    tmp_path: Path, on: str, predicate: dict[str, Any] | None, kind: Kind | None
) -> None:
    """As verification read it, of the index or of its platforms; lost with its signature, it is both."""
    rule = f"{{attestation: {{type: '{PROVENANCE}', by: {KEYLESS}, on: {on}}}}}"
    async with Registry() as upstream, proxy_of(tmp_path, upstream, rule) as proxy:
        before, after = index([ONE]), index([NEW.image()])
        for image, said in ((before, github("refs/tags/v1")), (after, predicate)):
            upstream.add("acme/app", image)
            about = image if on == "index" else image.images[0]
            if said is not None:
                upstream.refer("acme/app", SIGSTORE.attestation_referrer(about, PROVENANCE, said, Signing()))
        change = await compared(proxy, upstream, before, after)
        expected = {Kind.BASE_REBUILT} | ({kind} if kind else set())
        if kind is Kind.PROVENANCE_LOST:
            expected |= {Kind.SIGNATURE_LOST}
        assert set(change.kinds) == expected


async def test_nobody_says_that_a_signature_is_lost_while_nobody_can_tell(tmp_path: Path) -> None:
    """Signatures that cannot be asked for are not known yet; what is kept of the pinned image suffices for its own side."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, upstream_options=PATIENT) as proxy:
        for image in (ONE, NEW.image()):
            upstream.add("acme/app", image)
            upstream.sign("acme/app", image.digest, proxy.signer)
        upstream.tag("acme/app", "v1", ONE.digest)
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        down = upstream.on(when.path(".sig") | when.referrers(), status(503))
        change = await compared(proxy, upstream, ONE, NEW.image())
        assert set(change.kinds) == {Kind.BASE_REBUILT, Kind.NOT_KNOWN_YET}
        assert len(change.unknown) == 1
        assert "who signed" in change.unknown[0]
        down.active = False
        change = await compared(proxy, upstream, ONE, NEW.image())
        assert (change.kinds, change.severity) == ((Kind.BASE_REBUILT,), Severity.INFO)


async def test_a_pending_rotation_says_what_changed(tmp_path: Path) -> None:
    """What is about to rotate by rule is told with what changed, and is critical where that is."""
    rules = 'rules: [{match: "**", require: first-use, tags: [{match: "*", on_overwrite: rotate, cooldown: 72h}]}]\n'
    trojan = replace(NEW, run={**NEW.run, "Entrypoint": ["/x"]})
    async with Registry() as upstream, Proxy(tmp_path, upstream, rules=rules) as proxy:
        for tag, after, severity in (("v1", NEW, Severity.INFO), ("v2", trojan, Severity.CRITICAL)):
            upstream.add("acme/app", ONE, tag)
            assert (await proxy.manifest("acme/app", tag)).status == 200
            upstream.add("acme/app", after.image(), tag)
            assert (await proxy.manifest("acme/app", tag)).digest == str(ONE.digest)

            async def told(tag: str = tag, severity: Severity = severity) -> bool:
                found = [each for each in await proxy.events() if each.subject.endswith(tag)]
                pending = [each for each in found if each.type is EventType.TAG_ROTATION_PENDING and "kinds" in each.details]
                return bool(pending) and "base-rebuilt" in pending[0].details["kinds"] and pending[0].severity is severity

            await until(told)
