"""How soon an upstream may be asked for evidence where nobody waits for the answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from proxy.services.watching.pace import Pace
from proxy.upstream.client import Upstreams

#: For so many requests one judgement counts: a tag of signatures, referrers, and what these name.
REQUESTS = 4
#: Longest sleep, in seconds, until it is looked again whether the wait is over.
_LOOK = 15.0


class Leave:
    """Gives leave to ask one upstream, no oftener than ``rate`` (requests a second) and the upstream itself allow."""

    def __init__(
        self, registry: str, upstreams: Upstreams, rate: float, reserve: float, mono: Callable[[], float] = time.monotonic
    ) -> None:
        """``reserve``: the share of the upstream's own limit that is left to pulls."""
        self._registry = registry
        self._upstreams = upstreams
        self._pace = Pace(rate, reserve)
        self._mono = mono

    def adopt(self, rate: float, reserve: float) -> None:
        """Another rate from now on."""
        self._pace.adopt(rate, reserve)

    async def __call__(self) -> None:
        """Wait until evidence about one more image may be asked for."""
        while (wait := self._wait()) > 0:  # noqa: ASYNC110 - nobody tells when an upstream allows more
            await asyncio.sleep(min(wait, _LOOK))
        self._pace.spent(self._mono(), REQUESTS)

    def _wait(self) -> float:
        return self._pace.wait(self._mono(), self._upstreams.allowance(self._registry))
