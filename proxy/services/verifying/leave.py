"""How soon an upstream may be asked for evidence where nobody waits for the answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from proxy.errors import UpstreamUnavailable
from proxy.services.watching.pace import Pace
from proxy.upstream.client import Upstreams

#: For so many requests one judgement counts: a tag of signatures, referrers, and what these name.
REQUESTS = 4
#: Longest sleep, in seconds, until it is looked again whether the wait is over.
_LOOK = 15.0


class Leave:
    """Gives leave to ask one upstream, no oftener than ``rate`` (requests a second) and the upstream itself allow."""

    def __init__(
        self,
        registry: str,
        upstreams: Upstreams,
        rate: float,
        reserve: float,
        patience: float | None = None,
        mono: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``reserve``: the share of the upstream's own limit that is left to pulls. ``patience``: longest wait, in seconds."""
        self._registry = registry
        self._patience = patience
        self._upstreams = upstreams
        self._pace = Pace(rate, reserve)
        self._mono = mono
        self._sleep = sleep

    def adopt(self, rate: float, reserve: float) -> None:
        """Another rate from now on."""
        self._pace.adopt(rate, reserve)

    async def __call__(self) -> None:
        """Wait until evidence about one more image may be asked for. Raises UpstreamUnavailable where patience does not last."""
        while (wait := self._wait()) > 0:
            if self._patience is not None and wait > self._patience:
                raise UpstreamUnavailable(f"{self._registry} is left alone for {wait:.0f} s", retry_after=wait)
            await self._sleep(min(wait, _LOOK))
        self._pace.spent(self._mono(), REQUESTS)

    def _wait(self) -> float:
        return self._pace.wait(self._mono(), self._upstreams.allowance(self._registry))
