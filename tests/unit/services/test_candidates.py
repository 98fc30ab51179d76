"""What can go wrong while a candidate is judged beside the pulls, and what operators' acts meet there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from proxy.services import candidates
from proxy.services.operators import Result
from storage.errors import DatabaseUnavailable, PinConflict
from storage.pins import PinStore
from storage.records import Pin, PinAction, PinWrite
from tests.conformance.rotating import OTHER, Rotating, build
from tests.harness import until
from tests.simulator import signing, when
from tests.simulator.behaviours import hold
from tests.simulator.images import Image
from tests.simulator.registry import Registry
from tests.simulator.signing import Signer

RELEASE = Signer.of("p256", "release")


class Scene:
    """A proxy with a pinned image, and an upstream on which the tag is about to be overwritten."""

    def __init__(self, upstream: Registry, proxy: Rotating, first: Image) -> None:
        self.upstream = upstream
        self.proxy = proxy
        self.first = first

    async def served(self) -> None:
        """The pinned image is served."""
        assert await self.proxy.get_tag() == (200, str(self.first.digest))

    async def at_rest(self) -> None:
        """No candidate is being judged."""
        await until(lambda: not len(self.proxy.application.gate._candidates._flights))


@pytest.fixture
async def scene(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Scene]:
    """The proxy rotates as soon as a candidate is judged; a parameter is further configuration."""
    top = getattr(request, "param", "")
    async with Registry() as upstream, Rotating.of(tmp_path, upstream, "cooldown: 0s", top=top) as proxy:
        first = build(upstream, "one", RELEASE)
        await proxy.get_tag()
        yield Scene(upstream, proxy, first)


@pytest.mark.parametrize("scene", ["limits: {request_timeout: 5s}"], indirect=True)
async def test_a_judgement_that_takes_too_long_is_given_up(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    """Told in the log; the pinned image is served meanwhile, and the next pull has it judged anew."""
    answer_now = asyncio.Event()
    second = build(scene.upstream, "two", RELEASE)
    held = scene.upstream.on(when.manifest(reference=signing.signature_tag(second.digest)), hold(answer_now))
    await scene.served()
    await until(lambda: held.fired)
    await scene.at_rest()
    assert "candidate.unjudged" in capsys.readouterr().err
    await scene.served()
    answer_now.set()
    await scene.proxy.answers(200, second.digest)


@pytest.mark.parametrize("error", [DatabaseUnavailable("the disk is full"), RuntimeError("a bug")], ids=["storage", "bug"])
async def test_a_judgement_that_breaks_is_told_and_ends_nothing_else(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    """Whatever it is: pulls are answered, and the next judgement begins afresh."""

    async def breaks(*_: Any, **__: Any) -> None:
        raise error

    second = build(scene.upstream, "two", RELEASE)
    with monkeypatch.context() as patched:
        patched.setattr(candidates.Judge, "judge", breaks)
        await scene.served()
        await scene.at_rest()
        await scene.served()
        await scene.at_rest()
    assert ("candidate.unjudged" if isinstance(error, DatabaseUnavailable) else "candidate.failed") in capsys.readouterr().err
    await scene.proxy.answers(200, second.digest)


async def test_who_loses_the_race_for_a_pin_decides_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A conflict is no failure: the candidate is judged against the pin as it is now."""
    lost: list[PinAction] = []
    whole = PinStore.apply

    async def loses_once(self: PinStore, write: PinWrite) -> Pin | None:
        if write.change.action is PinAction.ROTATED and not lost:
            lost.append(write.change.action)
            raise PinConflict("somebody was faster")
        return await whole(self, write)

    monkeypatch.setattr(PinStore, "apply", loses_once)
    second = build(scene.upstream, "two", RELEASE)
    await scene.proxy.answers(200, second.digest)
    assert lost == [PinAction.ROTATED]


async def test_what_waits_to_be_judged_is_bounded(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond that a pull has nothing judged; a later one has."""
    second = build(scene.upstream, "two", RELEASE)
    with monkeypatch.context() as patched:
        patched.setattr(candidates, "_MOST", 0)
        for _ in range(3):
            await scene.served()
        assert (await scene.proxy.app()).judgement is None
    await scene.proxy.answers(200, second.digest)


async def test_the_end_of_the_proxy_ends_its_judgements(tmp_path: Path) -> None:
    """One that hangs does not keep it; nothing is written after."""
    async with Registry() as upstream:
        async with Rotating.of(tmp_path, upstream, "cooldown: 0s") as proxy:
            build(upstream, "one", RELEASE)
            await proxy.get_tag()
            second = build(upstream, "two", RELEASE)
            never = upstream.on(when.manifest(reference=signing.signature_tag(second.digest)), hold(asyncio.Event()))
            await proxy.get_tag()
            await until(lambda: never.fired)
        never.active = False


# -- operators --------------------------------------------------------------------------------------------------------


async def test_an_act_is_tried_again_when_only_the_server_noted_something(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the operator meant is still the same; where the candidate became another, it is not."""
    proxy = scene.proxy
    second = build(scene.upstream, "two", OTHER)
    await proxy.judged()
    whole, calls = PinStore.apply, 0

    async def loses(self: PinStore, write: PinWrite) -> Pin | None:
        nonlocal calls
        if write.change.action in {PinAction.APPROVED, PinAction.APPROVAL, PinAction.REJECTED}:
            calls += 1
            if calls <= 2:
                raise PinConflict("somebody was faster")
        return await whole(self, write)

    monkeypatch.setattr(PinStore, "apply", loses)
    act = await proxy.act("approve")
    assert (act.result, calls) == (Result.DONE, 3)
    assert (await proxy.app()).digest == second.digest


async def test_an_act_about_what_became_another_is_not_done(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator looks at it again."""
    proxy = scene.proxy
    build(scene.upstream, "two", OTHER)
    await proxy.judged()

    async def loses(self: PinStore, write: PinWrite) -> Pin | None:
        monkeypatch.undo()
        build(scene.upstream, "three", OTHER)
        await proxy.settled(lambda pin: pin.candidate != write.change.to_digest)
        raise PinConflict("somebody was faster")

    monkeypatch.setattr(PinStore, "apply", loses)
    with pytest.raises(PinConflict):
        await proxy.act("approve")
    assert (await proxy.app()).digest == scene.first.digest


@pytest.mark.parametrize("name", ["", "   ", "\t"])
async def test_nobody_is_no_approver(scene: Scene, name: str) -> None:
    """A name is needed."""
    build(scene.upstream, "two", OTHER)
    await scene.proxy.judged()
    assert (await scene.proxy.act("approve", name)).result is Result.REFUSED


async def test_what_an_operator_names_need_not_be_the_candidate(scene: Scene) -> None:
    """Another digest that passes the rule has no cooldown to wait for; what passes no rule cannot be approved."""
    proxy = scene.proxy
    older, unsigned = build(scene.upstream, "older", OTHER, tag=None), build(scene.upstream, "bad", tag=None)
    assert (await proxy.act("approve", digest=unsigned.digest)).result is Result.REFUSED
    assert (await proxy.act("approve", digest=older.digest)).result is Result.DONE
    assert (await proxy.app()).digest == older.digest
