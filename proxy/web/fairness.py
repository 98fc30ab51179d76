"""Each client gets its share: how many requests of one client are answered at once, and how many in a second.

A client is a principal where people log in, else an address. Who is beyond its share waits its turn, so that a burst is only
slower; who would wait for too long is sent away with 503 and Retry-After. (429 would be the word for it, but containerd and
podman answer that with more requests at once.)
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from proxy.settings import Limits

_MOST_CLIENTS = 10_000
#: How many requests of one client wait, for each that may be answered.
_QUEUE = 8


class Crowded(Exception):
    """This client asks for too much; ``retry_after`` in seconds."""

    def __init__(self, client: str, retry_after: float) -> None:
        super().__init__(f"{client} asks for more at a time than one client may; try again")
        self.retry_after = retry_after


@dataclass(slots=True)
class Client:
    """One client's share, as far as it is used."""

    name: str
    allowance: float
    seen: float
    under_way: int = 0
    coming: int = 0  #: requests in :meth:`Fairness.wait`, for a turn or for their time
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)


class Fairness:
    """Hands out turns: :meth:`enter`, answer, :meth:`leave`. With both limits 0 there is nothing to wait for."""

    def __init__(self, limits: Limits, clock: Callable[[], float] | None = None) -> None:
        self._at_once = limits.client_requests
        self._rate = limits.client_rate
        self._patience = limits.request_timeout
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._clients: OrderedDict[str, Client] = OrderedDict()

    def enter(self, name: str) -> Client | None:
        """A turn of this client, if there is one at once: the way of nearly every request."""
        if self._rate:
            return None
        client = self._client(name)
        if self._at_once and client.under_way >= self._at_once:
            return None
        client.under_way += 1
        return client

    async def wait(self, name: str) -> Client:
        """Wait for a turn of this client. Raises :class:`Crowded` where that would take too long."""
        client = self._client(name)
        client.coming += 1
        try:
            await self._pace(client)
            if self._at_once and client.under_way >= self._at_once:
                await self._turn(client)
            else:
                client.under_way += 1
        finally:
            client.coming -= 1
        return client

    async def _turn(self, client: Client) -> None:
        if len(client.waiting) >= self._at_once * _QUEUE:
            raise Crowded(client.name, 1.0)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        client.waiting.append(turn)
        try:
            async with asyncio.timeout(self._patience):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.leave(client)  # it came in the same moment
            else:
                with suppress(ValueError):  # whoever left in the same moment has passed it over, and it is gone
                    client.waiting.remove(turn)
            if isinstance(error, TimeoutError):
                raise Crowded(client.name, 1.0) from None
            raise

    @staticmethod
    def leave(client: Client) -> None:
        """The turn is over: it goes to whoever has waited longest."""
        while client.waiting:
            turn = client.waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        client.under_way -= 1

    def _client(self, name: str) -> Client:
        client = self._clients.get(name)
        if client is None:
            client = self._clients[name] = Client(name, float(self._rate), self._clock())
            if len(self._clients) > _MOST_CLIENTS:
                self._forget_one()
        else:
            self._clients.move_to_end(name)
        return client

    def _forget_one(self) -> None:
        for name, client in self._clients.items():
            if not client.under_way and not client.coming:  # forgetting one in use would give it a second share
                del self._clients[name]
                return

    async def _pace(self, client: Client) -> None:
        """Take one from the bucket, which holds a second's worth; what is missing is waited for."""
        if not self._rate:
            return
        now = self._clock()
        client.allowance = min(float(self._rate), client.allowance + (now - client.seen) * self._rate)
        client.seen = now
        missing = (1.0 - client.allowance) / self._rate
        if missing > self._patience / 2:
            raise Crowded(client.name, missing)
        client.allowance -= 1.0
        if missing > 0:
            await asyncio.sleep(missing)
