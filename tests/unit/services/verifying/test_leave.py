"""How soon an upstream may be asked: by the rate, by what it says itself, and no longer than somebody waits."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.errors import UpstreamUnavailable
from proxy.services.verifying.leave import REQUESTS, Leave
from proxy.upstream.client import Allowance


class World:
    """A clock that only sleeping moves, and an upstream."""

    def __init__(self) -> None:
        self.now = 0.0
        self.said = Allowance()

    def mono(self) -> float:
        """The clock."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds
        self.said = Allowance(pause=max(0.0, self.said.pause - seconds))

    def allowance(self, registry: str) -> Allowance:
        """What the upstream says."""
        assert registry == "reg.example"
        return self.said


@pytest.fixture
def world() -> World:
    """It, in the place of time."""
    return World()


def of(world: World, rate: float = 10.0, patience: float | None = None) -> Leave:
    """The leave to ask it."""
    upstreams: Any = world
    return Leave("reg.example", upstreams, rate, 0.5, patience, world.mono, world.sleep)


async def test_an_image_counts_for_several_requests(world: World) -> None:
    """The first goes at once, the others at the rate; another rate counts from the next on."""
    leave = of(world)
    for _ in range(3):
        await leave()
    assert world.now == pytest.approx(2 * REQUESTS / 10)
    leave.adopt(1.0, 0.5)
    await leave()
    await leave()
    assert world.now == pytest.approx(3 * REQUESTS / 10 + REQUESTS)


async def test_an_upstream_that_wants_to_be_left_alone_is(world: World) -> None:
    """For as long as it says, however long, in short sleeps; who has no patience is told so instead."""
    world.said = Allowance(pause=100.0)
    with pytest.raises(UpstreamUnavailable, match="left alone for 100 s"):
        await of(world, patience=10.0)()
    assert world.now == 0
    await of(world)()
    assert world.now == pytest.approx(100.0)
