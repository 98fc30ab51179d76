"""Pins that rotate, as clients and people on call see them: rebuilds, other signers, people, clocks, races.

The decision's own table is in tests/unit/policy/test_rotation.py.
"""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from storage.records import EventType, PinAction, PinState, Standing
from storage.tables import pins, verdicts
from tests.conformance.rotating import BY_KEYS, KEYLESS, OTHER, Rotating, build, in_some_days, rules, sign, workflow
from tests.harness import WallClock, until
from tests.simulator import signing, when
from tests.simulator.behaviours import first, header, hold, status
from tests.simulator.registry import Registry
from tests.simulator.signing import Signer

RELEASE = Signer.of("p256", "release")
PENDING, OVERWRITTEN, STALE = EventType.TAG_ROTATION_PENDING, EventType.TAG_OVERWRITTEN, EventType.PIN_STALE


# -- nobody pulls -----------------------------------------------------------------------------------------------------


async def test_the_watcher_alone_lets_a_tag_rotate(scratch: Path) -> None:
    """Seen, judged, told as pending, and pinned when the cooldown is over: by the schedule, without a pull. Then it is quiet."""
    top = "watch: {interval: 1s, tags_interval: never, rate: 500/s}"
    async with Registry() as upstream, Rotating.of(scratch, upstream, top=top) as proxy:
        first = build(upstream, "one", RELEASE)
        assert await proxy.get_tag() == (200, str(first.digest))
        second = build(upstream, "two", RELEASE)

        async def waits() -> bool:
            return (await proxy.app()).judgement is not None

        await until(waits)
        pin = await proxy.app()
        assert (pin.digest, pin.candidate) == (first.digest, second.digest)
        assert await proxy.open() == {PENDING}
        await proxy.age()

        async def rotated() -> bool:
            return (await proxy.app()).digest == second.digest

        await until(rotated)
        asked = upstream.count("HEAD", "/manifests/latest")
        await until(lambda: upstream.count("HEAD", "/manifests/latest") >= asked + 2)
        assert await proxy.history() == [PinAction.PINNED, PinAction.OVERWRITTEN, PinAction.JUDGED, PinAction.ROTATED]
        assert await proxy.told() == [("tag.rotation.pending", second.digest), ("tag.rotated", second.digest)]
        assert await proxy.open() == set()
        assert await proxy.get_tag() == (200, str(second.digest))


async def test_the_watcher_alone_tells_of_a_candidate_that_may_not_rotate(scratch: Path) -> None:
    """By another signer: told as an overwrite, once, with the reason; the pin stays, and what is put back ends it."""
    top = "watch: {interval: 1s, tags_interval: never, rate: 500/s}"
    async with Registry() as upstream, Rotating.of(scratch, upstream, "cooldown: 0s", top=top) as proxy:
        first = build(upstream, "one", RELEASE)
        assert await proxy.get_tag() == (200, str(first.digest))
        second = build(upstream, "two", OTHER)
        await until(proxy.open)
        asked = upstream.count("HEAD", "/manifests/latest")
        await until(lambda: upstream.count("HEAD", "/manifests/latest") >= asked + 2)
        (event,) = await proxy.events()
        assert (event.type, event.digest) == (OVERWRITTEN, second.digest)
        assert "it is by another signer" in event.message
        assert (await proxy.app()).digest == first.digest
        upstream.tag("acme/app", "latest", first.digest)

        async def over() -> bool:
            return not await proxy.open()

        await until(over)
        assert (await proxy.app()).state is PinState.PINNED


async def test_a_tag_that_names_another_digest_whenever_it_is_asked_is_told_of(scratch: Path) -> None:
    """It never stands still for as long as a judgement takes: what was seen is judged all the same, and not served."""
    number = itertools.count()
    async with Registry() as upstream, Rotating.of(scratch, upstream, "cooldown: 0s, otherwise: serve-pinned") as proxy:
        one = build(upstream, "one", RELEASE)
        assert await proxy.get_tag() == (200, str(one.digest))
        upstream.on(when.manifest(reference="latest"), first(lambda _: build(upstream, f"unsigned {next(number)}")))

        async def told() -> bool:
            assert await proxy.get_tag() == (200, str(one.digest))
            await proxy.application.gate.judged()
            return OVERWRITTEN in await proxy.open()

        await until(told)
        event = next(event for event in await proxy.events() if event.type is OVERWRITTEN)
        assert "it does not pass its rule" in event.message
        assert (await proxy.app()).digest == one.digest


async def test_a_tag_that_names_another_signed_digest_whenever_it_is_asked_rotates_nowhere(scratch: Path) -> None:
    """Each of them passes, and is told as waiting; the pin moves when the upstream names one of them twice."""
    number = itertools.count()
    async with Registry() as upstream, Rotating.of(scratch, upstream, "cooldown: 0s") as proxy:
        one = build(upstream, "one", RELEASE)
        assert await proxy.get_tag() == (200, str(one.digest))
        restless = upstream.on(
            when.manifest(reference="latest"), first(lambda _: build(upstream, f"signed {next(number)}", RELEASE))
        )

        async def told() -> bool:
            assert await proxy.get_tag() == (200, str(one.digest))
            await proxy.application.gate.judged()
            return "tag.rotation.pending" in dict(await proxy.told())

        await until(told)
        restless.active = False
        named = upstream.tags("acme/app")["latest"]
        await proxy.answers(200, named)
        assert await proxy.open() == set()


# -- rebuilds and signers ---------------------------------------------------------------------------------------------


async def test_a_rebuild_by_the_same_workflow_is_served_when_its_cooldown_is_over(scratch: Path) -> None:
    """The pinned image until then, with a warning; then the new one with all its layers. Told once when seen, once when moved."""
    async with Registry() as upstream, Rotating.of(scratch, upstream, require=KEYLESS) as proxy:
        first = build(upstream, "one", workflow("release.yml", "v1.0.0"))
        assert await proxy.get_tag() == (200, str(first.digest))
        second = build(upstream, "two", workflow("release.yml", "v1.0.1"))
        assert await proxy.get_tag() == (200, str(first.digest))
        waiting = await proxy.judged()
        assert (waiting.digest, waiting.candidate, waiting.state) == (first.digest, second.digest, PinState.OVERWRITTEN)
        answer = await proxy.manifest("acme/app", "latest")
        assert (answer.status, answer.digest) == (200, str(first.digest))
        assert "299" in answer.headers["Warning"]
        assert str(second.digest) in answer.headers["Warning"]
        assert await proxy.told() == [("tag.rotation.pending", second.digest)]
        await proxy.age()
        await proxy.answers(200, second.digest)
        answer = await proxy.manifest("acme/app", "latest")
        assert (answer.body, answer.headers.get("Warning")) == (second.body, None)
        for layer in (*first.layers, *second.layers):
            assert (await proxy.blob("acme/app", layer.digest)).status == 200
        pin = await proxy.app()
        assert (pin.digest, pin.state, pin.candidate, pin.judgement) == (second.digest, PinState.PINNED, None, None)
        assert pin.signers == (
            f"keyless {workflow('release.yml', 'v1.0.1').issuer} {workflow('release.yml', 'v1.0.1').identity}",
        )
        assert await proxy.told() == [("tag.rotation.pending", second.digest), ("tag.rotated", second.digest)]
        assert await proxy.open() == set()
        assert await proxy.history() == [PinAction.PINNED, PinAction.OVERWRITTEN, PinAction.JUDGED, PinAction.ROTATED]


async def test_an_image_by_another_workflow_is_refused_and_told_with_both(scratch: Path) -> None:
    """The rule accepts either; the pin was made by one. An approval lets it in after its cooldown."""
    async with Registry() as upstream, Rotating.of(scratch, upstream, require=KEYLESS) as proxy:
        first = build(upstream, "one", workflow("release.yml", "v1"))
        assert await proxy.get_tag() == (200, str(first.digest))
        second = build(upstream, "two", workflow("nightly.yml", "v2"))
        await proxy.answers(403)
        (told,) = await proxy.events(open_only=True)
        assert (told.type, told.digest) == (OVERWRITTEN, second.digest)
        assert "release.yml@refs/tags/v1" in told.message
        assert "nightly.yml@refs/tags/v2" in told.message
        answer = await proxy.manifest("acme/app", "latest")
        assert "it is by another signer" in answer.error["message"]
        assert f"tagstone pins approve reg.example/acme/app:latest --digest {second.digest}" in answer.error["message"]
        assert "is in its cooldown" in (await proxy.act("approve")).message
        assert await proxy.get_tag() == (200, str(first.digest)), "approved, it waits like any other"
        assert await proxy.open() == {PENDING}
        await proxy.age()
        await proxy.answers(200, second.digest)


@pytest.mark.parametrize(("signer", "rotates"), [("same", False), ("any", True)])
async def test_another_key_rotates_only_where_the_rule_says_any(scratch: Path, signer: str, rotates: bool) -> None:
    """Both keys pass the rule."""
    async with Registry() as upstream, Rotating.of(scratch, upstream, f"cooldown: 0s, signer: {signer}") as proxy:
        first = build(upstream, "one", RELEASE)
        assert await proxy.get_tag() == (200, str(first.digest))
        second = build(upstream, "two", OTHER)
        await proxy.answers(200 if rotates else 403, second.digest if rotates else None)
        assert (await proxy.app()).digest == (second if rotates else first).digest


async def test_who_else_signed_a_rebuild_makes_no_difference(scratch: Path) -> None:
    """Signed by the pin's key and by another, it continues by the pin's key alone: the other gains nothing by it."""
    async with Registry() as upstream, Rotating.of(scratch, upstream, "cooldown: 0s") as proxy:
        build(upstream, "one", RELEASE)
        await proxy.get_tag()
        before = (await proxy.app()).signers
        second = build(upstream, "two", OTHER, RELEASE)
        await proxy.answers(200, second.digest)
        assert (await proxy.app()).signers == before
        build(upstream, "three", OTHER)
        await proxy.answers(403)


async def test_a_threshold_is_continued_by_the_same_people(scratch: Path) -> None:
    """Where two must sign, the two that did must again."""
    both = "{at_least: 2, of: [{signature: {key: release-key}}, {signature: {key: other}}, {signature: {key: third}}]}"
    third = Signer.of("p256", "third")
    async with Registry() as upstream:
        (scratch / "third.pub").write_bytes(third.public_pem)
        proxy = Rotating.of(scratch, upstream, "cooldown: 0s", both)
        proxy._keys += f"\nthird: {{file: {scratch}/third.pub}}"
        async with proxy:
            first = build(upstream, "one", RELEASE, OTHER)
            assert await proxy.get_tag() == (200, str(first.digest))
            second = build(upstream, "two", RELEASE, OTHER, third)
            await proxy.answers(200, second.digest)
            build(upstream, "three", RELEASE, third)
            await proxy.answers(403)


@pytest.mark.parametrize(("otherwise", "code"), [("refuse", 403), ("serve-pinned", 200)])
async def test_an_unsigned_overwrite_is_answered_as_the_rule_says(scratch: Path, otherwise: str, code: int) -> None:
    """Refused, or the pinned image with a warning; told at once. Signed later, it waits like any other."""
    async with Registry() as upstream, Rotating.of(scratch, upstream, f"cooldown: 72h, otherwise: {otherwise}") as proxy:
        first = build(upstream, "one", RELEASE)
        await proxy.get_tag()
        second = build(upstream, "two")
        pin = await proxy.judged()
        assert pin.judgement is not None
        assert pin.judgement.standing is Standing.FAILS
        answer = await proxy.manifest("acme/app", "latest")
        assert (answer.status, answer.digest) == (code, str(first.digest) if code == 200 else None)
        if code == 200:
            assert "it does not pass its rule" in answer.headers["Warning"]
        else:
            assert "no signature at all" in answer.error["message"]
        await proxy.age()
        assert (await proxy.manifest("acme/app", "latest")).status == code
        assert await proxy.told() == [("tag.overwritten", second.digest)]
        sign(upstream, second, RELEASE)
        proxy.application.gate.forget()
        await proxy.answers(200, second.digest)
        assert await proxy.told() == [("tag.overwritten", second.digest), ("tag.rotated", second.digest)]


async def test_on_first_use_time_alone_decides(scratch: Path) -> None:
    """Nobody vouched for the pinned image, and nobody need for the new one."""
    async with Registry() as upstream, Rotating.of(scratch, upstream, require="first-use") as proxy:
        first = build(upstream, "one")
        await proxy.get_tag()
        second = build(upstream, "two")
        await proxy.judged()
        assert await proxy.get_tag() == (200, str(first.digest))
        await proxy.age()
        await proxy.answers(200, second.digest)


async def test_promise_06_an_index_rotates_as_an_index(scratch: Path) -> None:
    """Whatever the client accepts: no child is pinned, before or after."""
    async with Registry() as upstream, Rotating.of(scratch, upstream, "cooldown: 0s") as proxy:
        for seed in ("one", "two"):
            children = [upstream.image("acme/app", None, seed=seed + arch) for arch in ("amd64", "arm64")]
            index = upstream.index("acme/app", None, images=children)
            sign(upstream, index, RELEASE)
            upstream.tag("acme/app", "latest", index.digest)
            await proxy.answers(200, index.digest)
            for accept in (children[0].media_type, "application/json", index.media_type):
                assert (await proxy.manifest("acme/app", "latest", Accept=accept)).digest == str(index.digest)
            assert (await proxy.app()).digest == index.digest


# -- promises -----------------------------------------------------------------------------------------------------------


async def test_promise_01_an_overwrite_that_fails_is_told_once(scratch: Path) -> None:
    """HEAD and GET, again and again: refused, one alert, the pin does not move."""
    async with Registry() as upstream, Rotating.of(scratch, upstream, "cooldown: 0s") as proxy:
        first = build(upstream, "one", RELEASE)
        await proxy.get_tag()
        second = build(upstream, "two")
        await proxy.answers(403)
        for method in ("HEAD", "GET") * 3:
            assert (await proxy.manifest("acme/app", "latest", method)).status == 403
        assert await proxy.told() == [("tag.overwritten", second.digest)]
        assert (await proxy.app()).digest == first.digest


async def test_promise_02_a_signed_overwrite_waits_for_its_rule(scratch: Path) -> None:
    """Signed by the right key: nothing moves before the cooldown is over."""
    async with Registry() as upstream, Rotating.of(scratch, upstream) as proxy:
        first = build(upstream, "one", RELEASE)
        await proxy.get_tag()
        second = build(upstream, "two", RELEASE)
        await proxy.judged()
        await proxy.age(timedelta(hours=71))
        for _ in range(5):
            assert await proxy.get_tag() == (200, str(first.digest))
        assert (await proxy.manifest("acme/app", second.digest)).status == 200, "by digest it is what its signature says"
        assert (await proxy.app()).digest == first.digest


async def test_promise_03_a_candidate_that_is_gone_closes_its_event_and_starts_anew(scratch: Path) -> None:
    """A→B→A→B: the second time its cooldown is a new one."""
    async with Registry() as upstream, Rotating.of(scratch, upstream) as proxy:
        first = build(upstream, "one", RELEASE)
        await proxy.get_tag()
        second = build(upstream, "two", RELEASE)
        await proxy.judged()
        await proxy.age(timedelta(hours=60))
        upstream.tag("acme/app", "latest", first.digest)
        await proxy.settled(lambda pin: pin.state is PinState.PINNED)
        assert await proxy.open() == set()
        upstream.tag("acme/app", "latest", second.digest)
        await proxy.judged()
        await proxy.age(timedelta(hours=60))
        assert await proxy.get_tag() == (200, str(first.digest))
        told = [kind for kind, _ in await proxy.told()]
        assert told == ["tag.rotation.pending", "tag.reverted", "tag.rotation.pending"]


async def test_promise_10_an_older_digest_rotates_by_rule_and_says_that_the_pin_had_it(scratch: Path) -> None:
    """Rotation is no proof of freshness; whoever reads the event is told."""
    async with Registry() as upstream, Rotating.of(scratch, upstream, "cooldown: 0s") as proxy:
        first = build(upstream, "one", RELEASE)
        await proxy.get_tag()
        second = build(upstream, "two", RELEASE)
        await proxy.answers(200, second.digest)
        upstream.tag("acme/app", "latest", first.digest)
        await proxy.answers(200, first.digest)
        newest = next(event for event in await proxy.events() if event.type is EventType.TAG_ROTATED)
        assert "back to a digest that it had before" in newest.message
        assert "back to a digest" in (await proxy.app()).reason


@pytest.mark.parametrize("years", [1, -1])
async def test_promise_55_a_clock_that_is_wrong_by_a_year_moves_no_pin(scratch: Path, clock: WallClock, years: int) -> None:
    """Neither a running proxy's nor that of one that is started so; set right, the cooldown is as long as it was."""
    async with Registry() as upstream, Rotating.of(scratch, upstream) as proxy:
        first = build(upstream, "one", RELEASE)
        await proxy.get_tag()
        second = build(upstream, "two", RELEASE)
        seen_at = (await proxy.judged()).candidate_seen_at
        clock.ahead = timedelta(days=366 * years)
        for restart in (False, True):
            if restart:
                await proxy.restart()
            for _ in range(3):
                assert await proxy.get_tag() == (200, str(first.digest))
                await until(lambda: not len(proxy.application.gate._candidates._flights))
        assert (await proxy.app()).digest == first.digest
        clock.ahead = timedelta()
        await proxy.settled(lambda pin: pin.judgement is not None)
        pin = await proxy.app()
        assert (pin.digest, pin.candidate) == (first.digest, second.digest)
        assert pin.candidate_seen_at == seen_at
        await proxy.age()
        await proxy.answers(200, second.digest)


@pytest.mark.parametrize(
    "date", ["Fri, 31 Dec 9999 23:59:59 -0100", "Fri, 31 Dec 9999 23:59:59 GMT", "Sun, 31 Dec 2999 23:59:59 GMT"]
)
async def test_promise_55_an_upstream_whose_clock_stands_at_the_end_of_time(scratch: Path, date: str) -> None:
    """Pulls are answered as ever; once it is right the cooldown begins anew, though the candidate was judged before."""
    async with Registry() as upstream, Rotating.of(scratch, upstream) as proxy:
        first = build(upstream, "one", RELEASE)
        await proxy.get_tag()
        off = upstream.on(when.manifest(), header("Date", date))
        second = build(upstream, "two", RELEASE)
        await proxy.judged()
        assert await proxy.get_tag() == (200, str(first.digest))
        off.active = False
        soon = datetime.now(UTC) + timedelta(hours=1)
        pin = await proxy.settled(lambda pin: pin.judgement is not None and (pin.candidate_seen_at or soon) < soon)
        assert (pin.digest, pin.candidate) == (first.digest, second.digest)
        await proxy.age()
        await proxy.answers(200, second.digest)


# -- people -----------------------------------------------------------------------------------------------------------


async def test_two_people_must_say_yes(scratch: Path) -> None:
    """The same one twice is one, in whatever spelling; two are two. Until then the rule's other answer, and who is missing."""
    how = "cooldown: 72h, approvers: 2"
    async with Registry() as upstream, Rotating.of(scratch, upstream, how) as proxy:
        first = build(upstream, "one", RELEASE)
        await proxy.get_tag()
        second = build(upstream, "two", RELEASE)
        await proxy.judged()
        assert await proxy.get_tag() == (200, str(first.digest)), "in its cooldown the pinned one is served"
        await proxy.age()
        await proxy.answers(403)
        assert "needs 2 more approvals" in (await proxy.manifest("acme/app", "latest")).error["message"]
        assert "needs 1 more approval" in (await proxy.act("approve", "Ann Lee")).message
        again = await proxy.act("approve", "  ann  LEE ")
        assert "has approved" in again.message
        assert (await proxy.app()).digest == first.digest
        assert await proxy.get_tag() == (403, None)
        moved = await proxy.act("approve", "bob")
        assert moved.message == f"reg.example/acme/app:latest is pinned to {second.digest} now (before: {first.digest})"
        await proxy.answers(200, second.digest)
        assert [kind for kind, _ in await proxy.told()] == ["tag.rotation.pending", "pin.approved", "pin.approved"]
        assert (await proxy.history())[-3:] == [PinAction.JUDGED, PinAction.APPROVAL, PinAction.APPROVED]
        assert await proxy.open() == set()


async def test_approved_in_its_cooldown_it_rotates_by_itself_afterwards(scratch: Path) -> None:
    """Nobody has to be there when the time comes; the history names who approved."""
    async with Registry() as upstream, Rotating.of(scratch, upstream, "cooldown: 72h, approvers: 1") as proxy:
        first = build(upstream, "one", RELEASE)
        await proxy.get_tag()
        second = build(upstream, "two", RELEASE)
        await proxy.judged()
        await proxy.act("approve", "ann")
        assert await proxy.get_tag() == (200, str(first.digest))
        await proxy.age()
        await proxy.answers(200, second.digest)
        assert "approved by ann" in (await proxy.app()).reason


async def test_approvals_belong_to_one_digest(scratch: Path) -> None:
    """They end with another candidate, and with a rejection."""
    async with Registry() as upstream, Rotating.of(scratch, upstream, "cooldown: 72h, approvers: 1") as proxy:
        build(upstream, "one", RELEASE)
        await proxy.get_tag()
        second = build(upstream, "two", RELEASE)
        await proxy.judged()
        await proxy.act("approve", "ann")
        third = build(upstream, "three", RELEASE)
        assert (await proxy.settled(lambda pin: pin.candidate == third.digest)).approvals == ()
        await proxy.act("approve", "ann")
        await proxy.act("reject", "bob")
        assert (await proxy.app()).approvals == ()
        upstream.tag("acme/app", "latest", second.digest)
        await proxy.settled(lambda pin: pin.candidate == second.digest)
        await proxy.judged()
        await proxy.age()
        await proxy.answers(403)
        assert (await proxy.app()).digest != second.digest


async def test_a_rejected_digest_never_rotates_also_when_it_comes_back(scratch: Path) -> None:
    """Not now, not after another candidate; only an approval takes the no back."""
    async with Registry() as upstream, Rotating.of(scratch, upstream, "cooldown: 72h") as proxy:
        first = build(upstream, "one", RELEASE)
        await proxy.get_tag()
        second = build(upstream, "two", RELEASE)
        await proxy.judged()
        await proxy.act("reject", "bob")
        await proxy.age()
        await proxy.answers(403)
        assert "an operator rejected" in (await proxy.manifest("acme/app", "latest")).error["message"]
        third = build(upstream, "three", RELEASE)
        await proxy.settled(lambda pin: pin.candidate == third.digest and pin.judgement is not None)
        await proxy.act("reject", "bob")
        upstream.tag("acme/app", "latest", second.digest)
        await proxy.settled(lambda pin: pin.candidate == second.digest and pin.judgement is not None)
        await proxy.age()
        await proxy.answers(403)
        assert (await proxy.app()).rejected == second.digest
        await proxy.act("approve", "ann")
        await proxy.answers(200, second.digest)
        assert (await proxy.app()).digest == second.digest != first.digest


async def test_a_blocked_digest_never_rotates(scratch: Path) -> None:
    """Blocked in its cooldown: when it is due it is refused, and told with who blocked it."""
    async with Registry() as upstream, Rotating.of(scratch, upstream) as proxy:
        first = build(upstream, "one", RELEASE)
        await proxy.get_tag()
        second = build(upstream, "two", RELEASE)
        await proxy.judged()
        await proxy.act("block", "ann", second.digest)
        await proxy.age()
        await proxy.answers(403)
        told = [event for event in await proxy.events(open_only=True) if event.type is OVERWRITTEN]
        assert "is blocked by ann" in told[0].message
        assert (await proxy.app()).digest == first.digest


@pytest.mark.parametrize("hindrance", ["approvers: 1", in_some_days()], ids=["approval", "window"])
async def test_a_candidate_that_waits_for_too_long_is_told_once(scratch: Path, hindrance: str) -> None:
    """Its cooldown and ``stale_after`` are over, and it is not for want of a verdict that the pin did not move."""
    async with Registry() as upstream, Rotating.of(scratch, upstream, f"cooldown: 72h, stale_after: 1d, {hindrance}") as proxy:
        first = build(upstream, "one", RELEASE)
        await proxy.get_tag()
        second = build(upstream, "two", RELEASE)
        await proxy.judged()
        await proxy.age(timedelta(hours=73))
        await proxy.get_tag()
        assert STALE not in await proxy.open()
        await proxy.age(timedelta(hours=24))
        for _ in range(3):
            await proxy.get_tag()
        stale = [event for event in await proxy.events() if event.type is STALE]
        assert [event.digest for event in stale] == [second.digest]
        assert (await proxy.app()).digest == first.digest


async def test_outside_its_window_the_pinned_image_is_served(scratch: Path) -> None:
    """Due, approved by everything but the clock: D, with the time from which on it rotates; in the window it does."""
    async with Registry() as upstream, Rotating.of(scratch, upstream, f"cooldown: 0s, {in_some_days()}") as proxy:
        first = build(upstream, "one", RELEASE)
        await proxy.get_tag()
        second = build(upstream, "two", RELEASE)
        await proxy.judged()
        answer = await proxy.manifest("acme/app", "latest")
        assert (answer.status, answer.digest) == (200, str(first.digest))
        assert "pins rotate here from" in answer.headers["Warning"]
        await proxy.reload(rules("cooldown: 0s, window: {days: [mon, tue, wed, thu, fri, sat, sun], timezone: Asia/Kolkata}"))
        await proxy.answers(200, second.digest)


# -- under other rules ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("signer", "standing"), [(RELEASE, Standing.PASSES), (None, Standing.FAILS)], ids=["signed", "unsigned"])
async def test_under_refuse_the_candidate_is_judged_for_those_who_look(
    scratch: Path, signer: Signer | None, standing: Standing
) -> None:
    """Pulls are refused all the same, the alert is one, and whoever shows the pin sees what came out."""
    async with Registry() as upstream, Rotating.of(scratch, upstream) as proxy:
        await proxy.reload(f"rules:\n  - match: reg.example/acme/**\n    require: {BY_KEYS}\n")
        build(upstream, "one", RELEASE)
        await proxy.get_tag()
        second = build(upstream, "two", *([signer] if signer else []))
        assert await proxy.get_tag() == (403, None)
        pin = await proxy.judged()
        assert pin.judgement is not None
        assert pin.judgement.standing is standing
        assert await proxy.get_tag() == (403, None)
        assert await proxy.told() == [("tag.overwritten", second.digest)]


async def test_under_refuse_two_people_may_be_asked_for(scratch: Path) -> None:
    """``approvers: 2`` without rotation: the first yes is noted, the second moves the pin at once."""
    tags = '[{match: "*", approvers: 2}]'
    async with Registry() as upstream, Rotating.of(scratch, upstream) as proxy:
        await proxy.reload(f"rules:\n  - match: reg.example/acme/**\n    require: {BY_KEYS}\n    tags: {tags}\n")
        first = build(upstream, "one", RELEASE)
        await proxy.get_tag()
        second = build(upstream, "two", RELEASE)
        await proxy.answers(403)
        assert "it needs 1 more approval (of 2)" in (await proxy.act("approve", "ann")).message
        assert (await proxy.app()).digest == first.digest
        await proxy.act("approve", "bob")
        await proxy.answers(200, second.digest)


# -- time, memory, races ----------------------------------------------------------------------------------------------


async def test_no_pull_waits_for_a_candidate_to_be_judged(scratch: Path) -> None:
    """While the search for its signatures hangs, pulls of the tag are answered with the pinned image."""
    async with Registry() as upstream, Rotating.of(scratch, upstream, "cooldown: 0s") as proxy:
        first = build(upstream, "one", RELEASE)
        await proxy.get_tag()
        answer_now = asyncio.Event()
        second = build(upstream, "two", RELEASE)
        held = upstream.on(when.manifest(reference=signing.signature_tag(second.digest)), hold(answer_now))
        assert await proxy.get_tag() == (200, str(first.digest))
        await until(lambda: held.fired)
        for _ in range(5):
            assert await proxy.get_tag() == (200, str(first.digest))
        answer_now.set()
        await proxy.answers(200, second.digest)


@pytest.mark.parametrize("reference", ["latest", "the signature"])
async def test_an_outage_lets_nothing_rotate(scratch: Path, reference: str) -> None:
    """Due, but the upstream, or the place of its signatures, does not answer: the pinned image, until it does."""
    async with Registry() as upstream, Rotating.of(scratch, upstream) as proxy:
        first = build(upstream, "one", RELEASE)
        await proxy.get_tag()
        second = build(upstream, "two", RELEASE)
        names = "latest" if reference == "latest" else signing.signature_tag(second.digest)
        down = upstream.on(when.manifest(reference=names), status(503))
        gone = upstream.on(when.referrers(), status(503))
        if reference == "latest":
            down.active = gone.active = False
            await proxy.judged()
            down.active = gone.active = True
            await proxy.age()
        else:
            await proxy.settled(lambda pin: pin.candidate == second.digest)
            await until(lambda: down.fired)
            await proxy.age()
        for _ in range(5):
            assert await proxy.get_tag() == (200, str(first.digest))
        assert (await proxy.app()).digest == first.digest
        down.active = gone.active = False
        proxy.application.gate.forget()
        await proxy.answers(200, second.digest)


async def test_what_is_remembered_ends_with_the_cooldown(scratch: Path) -> None:
    """An answer that could be remembered for an hour is not when the pin rotates earlier."""
    async with Registry() as upstream, Rotating.of(scratch, upstream, "cooldown: 4s") as proxy:
        build(upstream, "one", RELEASE)
        await proxy.get_tag()
        second = build(upstream, "two", RELEASE)
        await proxy.judged()
        proxy._top = "check_interval: 1h"
        await proxy.reload(rules("cooldown: 4s"))
        await proxy.answers(200, second.digest)


async def test_two_proxies_on_one_database_rotate_once(scratch: Path) -> None:
    """However many pull at once: one rotation, one event, and both serve it."""
    async with Registry() as upstream:
        data = scratch / "data"
        one, two = (Rotating.of(scratch / name, upstream, "cooldown: 0s", data_dir=data) for name in "ab")
        async with one, two:
            build(upstream, "one", RELEASE)
            await asyncio.gather(*(each.get_tag() for each in (one, two)))
            for seed in ("two", "three", "four"):
                newer = build(upstream, seed, RELEASE)
                await asyncio.gather(*(each.get_tag() for each in (one, two) * 4))
                await asyncio.gather(*(each.answers(200, newer.digest) for each in (one, two)))
        async with one:
            assert (await one.history()).count(PinAction.ROTATED) == 3
            assert [kind for kind, _ in await one.told()].count("tag.rotated") == 3


@pytest.mark.parametrize("kept", ["nothing", "verdict"])
async def test_pins_from_before_signers_were_kept_rotate_as_well(scratch: Path, kept: str) -> None:
    """Who vouched for the pinned image is judged again where nobody wrote it down."""
    async with Registry() as upstream, Rotating.of(scratch, upstream, "cooldown: 0s") as proxy:
        build(upstream, "one", RELEASE)
        await proxy.get_tag()
        tables = [pins] if kept == "verdict" else [pins, verdicts]
        for table in tables:
            await proxy.forget_signers(table)
        second = build(upstream, "two", RELEASE)
        await proxy.answers(200, second.digest)
        third = build(upstream, "three", OTHER)
        await proxy.answers(403)
        assert (await proxy.app()).candidate == third.digest


async def test_a_check_without_a_pull_rotates_too(scratch: Path) -> None:
    """Nobody has to pull: whoever watches tags decides by the same way."""
    async with Registry() as upstream, Rotating.of(scratch, upstream, "cooldown: 0s") as proxy:
        build(upstream, "one", RELEASE)
        await proxy.get_tag()
        second = build(upstream, "two", RELEASE)
        repository = (await proxy.app()).repository

        async def rotated() -> bool:
            await proxy.application.gate.check(repository, "latest")
            return (await proxy.app()).digest == second.digest

        await until(rotated)
