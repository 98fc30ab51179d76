"""Promises about signatures, as a pull meets them: which let an image through, in what number, at what time, and from where."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from storage.digest import Digest
from storage.records import EventType, PinState
from tests.harness import Proxy, WallClock, until
from tests.simulator import images, signing, when
from tests.simulator.behaviours import status
from tests.simulator.images import Image
from tests.simulator.registry import Registry
from tests.simulator.signing import BundleFault, CosignFault, Signer

Sign = Callable[[Registry, Image, Signer], object]


def rules(require: str) -> str:
    """``acme/**`` with this requirement."""
    return f'rules:\n  - match: reg.example/acme/**\n    require: {require}\n  - {{match: "**", require: deny}}\n'


# -- 44, 46: what counts as a signature, and from where ------------------------------------------------------------


async def test_an_image_that_is_signed_after_it_was_refused_passes_at_once(scratch: Path) -> None:
    """Unsigned is no lasting verdict: with ``check_interval: 0s`` the next pull finds the signature."""
    async with Registry() as upstream, Proxy(scratch, upstream) as proxy:
        image = upstream.image("acme/app", "v1")
        for reference in ("v1", image.digest):
            assert (await proxy.manifest("acme/app", reference)).status == 403
        upstream.sign("acme/app", image.digest, proxy.signer)
        for reference in (image.digest, "v1"):
            assert (await proxy.manifest("acme/app", reference)).body == image.body


async def test_a_refusal_is_remembered_for_a_moment_only(scratch: Path) -> None:
    """Within ``refusal_ttl`` a crowd of pulls of an unsigned image costs one search; after it the signature is found."""
    top = "check_interval: 60s\nlimits: {refusal_ttl: 1s}"
    async with Registry() as upstream, Proxy(scratch, upstream, top=top) as proxy:
        image = upstream.image("acme/app", "v1")
        for _ in range(20):
            assert (await proxy.manifest("acme/app", "v1")).status == 403
        assert upstream.count("GET", signing.signature_tag(image.digest)) < 10
        upstream.sign("acme/app", image.digest, proxy.signer)

        async def served() -> bool:
            return (await proxy.manifest("acme/app", "v1")).status == 200

        await until(served)


@pytest.mark.parametrize("api", [True, False], ids=["referrers API", "fallback tag"])
async def test_a_bundle_among_the_referrers_is_a_signature(scratch: Path, api: bool) -> None:
    """A Sigstore bundle by the key admits the image from wherever referrers are listed; the bundle itself is served."""
    async with Registry(referrers_api=api) as upstream, Proxy(scratch, upstream) as proxy:
        image = upstream.image("acme/app", "v1")
        upstream.attach("acme/app", image, proxy.signer, BundleFault.OTHER_KEY)
        refused = await proxy.manifest("acme/app", "v1")
        assert (refused.status, "not made by key release-key" in refused.error["message"]) == (403, True)
        bundle = upstream.attach("acme/app", image, proxy.signer)
        for reference in ("v1", image.digest, bundle.digest):
            assert (await proxy.manifest("acme/app", reference)).status == 200
        assert upstream.count(None, "/referrers/") == 2
        fallback = [seen for seen in upstream.requests if seen.reference == images.referrers_tag(image.digest)]
        assert len(fallback) == (0 if api else 2)


@pytest.mark.parametrize("api", [True, False], ids=["referrers API", "fallback tag"])
async def test_promise_44_an_attestation_is_no_signature(scratch: Path, api: bool) -> None:
    """A bundle by the right key with another predicate does not admit the image, whether its annotations own up to it or not."""
    async with Registry(referrers_api=api) as upstream, Proxy(scratch, upstream) as proxy:
        image = upstream.image("acme/app", "v1")
        upstream.attach("acme/app", image, proxy.signer, BundleFault.WRONG_PREDICATE)
        answer = await proxy.manifest("acme/app", "v1")
        assert answer.status == 403
        assert "is an attestation (https://slsa.dev/provenance/v1), not a signature" in answer.error["message"]
        frank = upstream.image("acme/app", "v2", seed="frank")
        upstream.attach("acme/app", frank, proxy.signer, predicate="https://slsa.dev/provenance/v1")
        answer = await proxy.manifest("acme/app", "v2")
        assert (answer.status, "an attestation" in answer.error["message"]) == (403, True)
        upstream.sign("acme/app", image.digest, proxy.signer, CosignFault.ATTESTATION)
        assert (await proxy.manifest("acme/app", "v1")).status == 403
        upstream.attach("acme/app", image, proxy.signer)
        assert (await proxy.manifest("acme/app", "v1")).status == 200, "beside a signature it does no harm"


async def test_promise_46_one_source_that_is_down_does_not_hide_the_other(scratch: Path) -> None:
    """With the referrers down, a signature under the tag suffices, and the other way round; without either it is an outage."""
    async with Registry() as upstream, Proxy(scratch, upstream) as proxy:
        tagged, referred = upstream.image("acme/app", "tagged"), upstream.image("acme/app", "referred", seed="r")
        upstream.sign("acme/app", tagged.digest, proxy.signer)
        upstream.attach("acme/app", referred, proxy.signer)
        referrers = upstream.on(when.referrers(), status(500))
        assert (await proxy.manifest("acme/app", "tagged")).status == 200
        answer = await proxy.manifest("acme/app", "referred")
        assert (answer.status, "could not ask" in answer.error["message"]) == (503, True)
        assert referrers.fired >= 1
        referrers.off()
        tags = upstream.on(when.manifest(None, signing.signature_tag(referred.digest)), status(500))
        assert (await proxy.manifest("acme/app", "referred")).status == 200
        assert tags.fired >= 1


async def test_promise_47_a_stripped_signature_leaves_the_pin_but_admits_nothing_new(scratch: Path) -> None:
    """After the signature was removed upstream the pinned tag and its digest are served; another tag of it is as well,
    since its acceptance is on record, but an overwrite of the pin is not."""
    async with Registry() as upstream, Proxy(scratch, upstream) as proxy:
        image = upstream.image("acme/app", "v1")
        upstream.sign("acme/app", image.digest, proxy.signer)
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        upstream.untag("acme/app", signing.signature_tag(image.digest))
        for reference in ("v1", image.digest):
            answer = await proxy.manifest("acme/app", reference)
            assert (answer.status, answer.body) == (200, image.body)
        upstream.image("acme/app", "v1", seed="other")
        assert (await proxy.manifest("acme/app", "v1")).status == 403
        assert [event.type for event in await proxy.events()] == [EventType.TAG_OVERWRITTEN]


# -- 45: numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("good_at", [0, 63, 64, 1999])
async def test_promise_45_of_thousands_of_signatures_the_first_count(scratch: Path, good_at: int) -> None:
    """2,000 signatures cost no more fetches than the cap; the right one suffices within it, and beyond it the refusal says so."""
    async with Registry() as upstream, Proxy(scratch, upstream) as proxy:
        image = upstream.image("acme/app", "v1")
        flood = signing.many_signatures(proxy.signer, image.digest, 2000, good_at)
        upstream.add("acme/app", flood, signing.signature_tag(image.digest))
        answer = await proxy.manifest("acme/app", "v1")
        if good_at < 64:
            assert (answer.status, answer.body) == (200, image.body)
        else:
            assert answer.status == 403
            assert "2000 signatures are there; only the first 64 were judged" in answer.error["message"]
        assert 0 < upstream.count("GET", "/blobs/") <= 64


async def test_promise_45_a_flood_in_one_place_leaves_room_in_the_other(scratch: Path) -> None:
    """Two thousand wrong signatures under the tag do not drown the right bundle among the referrers."""
    async with Registry() as upstream, Proxy(scratch, upstream) as proxy:
        image = upstream.image("acme/app", "v1")
        flood = signing.many_signatures(proxy.signer, image.digest, 2000)
        upstream.add("acme/app", flood, signing.signature_tag(image.digest))
        assert (await proxy.manifest("acme/app", "v1")).status == 403
        upstream.attach("acme/app", image, proxy.signer)
        assert (await proxy.manifest("acme/app", "v1")).status == 200


@pytest.mark.parametrize("good_at", [4, 5])
async def test_promise_45_referrers_are_capped(scratch: Path, good_at: int) -> None:
    """Of more referrers than ``limits.referrers`` the first are looked at, and a refusal says that there are more."""
    async with Registry() as upstream, Proxy(scratch, upstream, top="limits: {referrers: 5}") as proxy:
        image = upstream.image("acme/app", "v1")
        for number in range(8):
            fault = None if number == good_at else BundleFault.OTHER_KEY
            upstream.attach("acme/app", image, proxy.signer, fault, predicate_body={"n": number})
        answer = await proxy.manifest("acme/app", "v1")
        assert upstream.count("GET", "/manifests/sha256:") == 5
        if good_at == 4:
            assert answer.status == 200
        else:
            assert (answer.status, "only the first 5" in answer.error["message"]) == (403, True)


async def test_promise_45_a_signature_that_is_too_large_is_not_fetched(scratch: Path) -> None:
    """Beyond ``limits.signature_size`` a signature is told and left alone; a proper one beside it counts."""
    async with Registry() as upstream, Proxy(scratch, upstream, top="limits: {signature_size: 16KiB}") as proxy:
        image = upstream.image("acme/app", "v1")
        huge = upstream.sign("acme/app", image.digest, proxy.signer, CosignFault.OVERSIZE, oversize=17 << 10)
        answer = await proxy.manifest("acme/app", "v1")
        assert (answer.status, "the limit is 16384" in answer.error["message"]) == (403, True)
        assert not upstream.count("GET", f"/blobs/{huge.layers[0].digest}")
        upstream.sign("acme/app", image.digest, proxy.signer)
        assert (await proxy.manifest("acme/app", "v1")).status == 200


# -- rules ---------------------------------------------------------------------------------------------------------

A, B, C = (Signer.of("p256", name) for name in "abc")
ED = Signer.of("ed25519", "ed")


@pytest.mark.parametrize(
    ("require", "signers", "passes"),
    [
        ("{all: [{signature: {key: a}}, {signature: {key: b}}]}", (A, B), True),
        ("{all: [{signature: {key: a}}, {signature: {key: b}}]}", (A,), False),
        ("{all: [{signature: {key: a}}, {signature: {key: b}}]}", (A, C), False),
        ("{any: [{signature: {key: a}}, {signature: {key: b}}]}", (B,), True),
        ("{any: [{signature: {key: a}}, {signature: {key: b}}]}", (C,), False),
        ("{at_least: 2, of: [{signature: {key: a}}, {signature: {key: b}}, {signature: {key: c}}]}", (A, C), True),
        ("{at_least: 2, of: [{signature: {key: a}}, {signature: {key: b}}, {signature: {key: c}}]}", (C,), False),
        ("{at_least: 2, of: [{signature: {key: a}}, {signature: {key: a-again}}, {signature: {key: b}}]}", (A,), False),
        ("{at_least: 2, of: [{signature: {key: a}}, {signature: {key: a-again}}, {signature: {key: b}}]}", (A, B), True),
        ("{any: [{all: [{signature: {key: a}}, {signature: {key: b}}]}, {signature: {key: ed}}]}", (ED,), True),
        ("{any: [{all: [{signature: {key: a}}, {signature: {key: b}}]}, {signature: {key: ed}}]}", (A,), False),
    ],
)
async def test_requirements_count_signers(scratch: Path, require: str, signers: tuple[Signer, ...], passes: bool) -> None:
    """``all``, ``any`` and ``at_least`` over signatures and bundles: one key under two names is one signer."""
    keys = []
    for name, signer in (("a", A), ("a-again", A), ("b", B), ("c", C), ("ed", ED)):
        (scratch / f"{name}.pub").write_bytes(signer.public_pem)
        keys.append(f"{name}: {{file: {scratch}/{name}.pub}}")
    async with Registry() as upstream, Proxy(scratch, upstream, rules=rules(require), keys="\n".join(keys)) as proxy:
        image = upstream.image("acme/app", "v1")
        upstream.sign("acme/app", image.digest, signers[0])
        for signer in signers[1:]:
            upstream.attach("acme/app", image, signer)
        answer = await proxy.manifest("acme/app", "v1")
        assert answer.status == (200 if passes else 403)
        if not passes:
            assert "required" in answer.error["message"]
            assert "required" in answer.reason
            for missing in {A, B, C, ED} - set(signers):
                upstream.sign("acme/app", image.digest, missing)
            assert (await proxy.manifest("acme/app", "v1")).status == 200, "it was only these that were missing"


# -- 55: time ------------------------------------------------------------------------------------------------------


def day(days: int) -> str:
    """A date so many days from now."""
    return f"{datetime.now(UTC) + timedelta(days=days):%Y-%m-%d}"


@pytest.mark.parametrize(
    ("window", "passes", "words"),
    [
        (f"valid_from: {day(-2)}, valid_until: {day(2)}", True, ""),
        (f"valid_until: {day(-2)}", False, "was valid until"),
        (f"valid_from: {day(2)}", False, "is valid from"),
    ],
    ids=["within", "after", "before"],
)
async def test_a_key_counts_within_its_window(scratch: Path, window: str, passes: bool, words: str) -> None:
    """A signature by a key that is out of its time does not admit the image, and the refusal says since when."""
    async with Registry() as upstream, Proxy(scratch, upstream, key_options=window) as proxy:
        image = upstream.image("acme/app", "v1")
        upstream.sign("acme/app", image.digest, proxy.signer)
        answer = await proxy.manifest("acme/app", "v1")
        assert answer.status == (200 if passes else 403)
        if not passes:
            assert f"made by key release-key, but key release-key {words}" in answer.error["message"]


@pytest.mark.parametrize("years", [1, -1])
@pytest.mark.parametrize("interval", ["0s", "60s"])
async def test_promise_55_a_clock_that_is_wrong_by_a_year_opens_nothing(
    scratch: Path, clock: WallClock, years: int, interval: str
) -> None:
    """A key's window closes with the clock, for tag, digest and blob, remembered or not; set right, all is as before."""
    window = f"valid_from: {day(-30)}, valid_until: {day(30)}"
    async with Registry() as upstream, Proxy(scratch, upstream, key_options=window, top=f"check_interval: {interval}") as proxy:
        image = upstream.image("acme/app", "v1", layer_size=500_000)
        upstream.sign("acme/app", image.digest, proxy.signer)
        pinned = upstream.image("open/app", "v1")
        layer = image.layers[0].digest

        async def statuses() -> list[int]:
            return [
                (await proxy.manifest("acme/app", "v1")).status,
                (await proxy.manifest("acme/app", image.digest)).status,
                (await proxy.blob("acme/app", layer)).status,
                (await proxy.blob("acme/app", layer, "HEAD")).status,
            ]

        assert await statuses() == [200] * 4
        assert (await proxy.manifest("open/app", "v1")).body == pinned.body
        clock.ahead = timedelta(days=366 * years)
        assert await statuses() == [403] * 4
        assert (await proxy.manifest("open/app", "v1")).body == pinned.body, "what needs no key needs no clock"
        clock.ahead = timedelta()
        assert await statuses() == [200] * 4
        for name, digest in (("acme/app:v1", image.digest), ("open/app:v1", pinned.digest)):
            await _assert_pinned(proxy, name, digest)


async def _assert_pinned(proxy: Proxy, name: str, digest: Digest) -> None:
    pin = await proxy.pin(name)
    assert pin is not None
    assert (pin.digest, pin.state) == (digest, PinState.PINNED)


async def test_promise_55_what_is_remembered_ends_with_its_key(scratch: Path) -> None:
    """An answer that could be remembered for an hour is not when its key expires earlier: tag, digest and blob."""
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=4)
    window = f"valid_until: {end:%Y-%m-%dT%H:%M:%SZ}"
    async with Registry() as upstream, Proxy(scratch, upstream, key_options=window, top="check_interval: 1h") as proxy:
        image = upstream.image("acme/app", "v1")
        upstream.sign("acme/app", image.digest, proxy.signer)

        async def statuses() -> set[int]:
            blob = await proxy.blob("acme/app", image.layers[0].digest)
            return {blob.status, *[(await proxy.manifest("acme/app", each)).status for each in ("v1", image.digest)]}

        assert (await proxy.manifest("acme/app", "v1")).status == 200
        assert await statuses() == {200}
        assert datetime.now(UTC) < end, "this machine is too slow for this test"

        async def refused() -> bool:
            return await statuses() == {403}

        await until(refused)
        assert datetime.now(UTC) > end


@pytest.mark.parametrize("years", [1, -1])
async def test_promise_55_a_check_in_the_future_is_no_check(scratch: Path, clock: WallClock, years: int) -> None:
    """After the clock stepped, back or forth, the next pull asks the upstream: an overwrite does not hide behind the step."""
    async with Registry() as upstream, Proxy(scratch, upstream, top="check_interval: 1h") as proxy:
        first = upstream.image("open/app", "v1")
        assert (await proxy.manifest("open/app", "v1")).status == 200
        second = upstream.image("open/app", "v1", seed="second")
        assert (await proxy.manifest("open/app", "v1")).digest == str(first.digest), "checked less than an hour ago"
        clock.ahead = timedelta(days=366 * years)
        await proxy.restart()
        answer = await proxy.manifest("open/app", "v1")
        assert (answer.status, str(second.digest) in answer.error["message"]) == (403, True)
        assert [event.type for event in await proxy.events()] == [EventType.TAG_OVERWRITTEN]
