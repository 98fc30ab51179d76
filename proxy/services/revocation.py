"""Answers about revoked certificates: asked of whom the certificates name, kept until they end.

What is kept has been checked, so that who answers wrongly once is asked again. Silence is never kept: an outage says nothing.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog

from proxy.errors import EvidenceMalformed, UpstreamError
from proxy.services.flights import Flights
from proxy.services.memory import Memory
from proxy.settings import Limits
from proxy.upstream.revocation import RevocationServers
from proxy.verify.crl import CrlQuery, read_crl
from proxy.verify.ocsp import OcspAnswer, OcspQuery, Status, read_ocsp
from proxy.verify.parsing import shown
from proxy.verify.revocation import Answer, Answers, Query, Silence

_log = structlog.get_logger(__name__)
#: However long a server says that its answer holds: revocations should be heard of.
_LONGEST = timedelta(days=1)
#: Shares of the whole time that one server has.
_OCSP_SHARE, _CRL_SHARE = 0.2, 0.5
_NONCE = 16
#: How many servers are asked at a time.
_AT_A_TIME = 8


class Revocations:
    """See :class:`proxy.verify.model.Inquirer`."""

    def __init__(self, servers: RevocationServers, limits: Limits) -> None:
        self._servers = servers
        self._limits = limits
        self._known: Memory[Query, Answer] = Memory(limits.memory_revocation, wall=time.time)
        self._flights: Flights[Query, Answer | Silence] = Flights()
        self._slots = asyncio.Semaphore(_AT_A_TIME)

    async def ask(self, queries: Sequence[Query], now: datetime, by: float) -> Answers:
        """See :meth:`proxy.verify.model.Inquirer.ask`."""
        found = await asyncio.gather(*(self._answer(query, now, by) for query in queries))
        return dict(zip(queries, found, strict=True))

    async def close(self) -> None:
        """End what is under way and close the connections."""
        await self._flights.close()
        await self._servers.close()

    async def _answer(self, query: Query, now: datetime, by: float) -> Answer | Silence:
        if (known := self._known.get(query)) is not None:
            return known
        try:
            async with asyncio.timeout_at(by):
                return await self._flights.run(query, lambda: self._asked(query, now, by))
        except TimeoutError:
            return Silence("it did not answer in time")

    async def _asked(self, query: Query, now: datetime, by: float) -> Answer | Silence:
        limits, nonce = self._limits, secrets.token_bytes(_NONCE)
        if isinstance(query, OcspQuery):
            question, limit, share = query.request(nonce), limits.ocsp_size, _OCSP_SHARE
        else:
            question, limit, share = None, limits.crl_size, _CRL_SHARE
        until = min(by, asyncio.get_running_loop().time() + share * limits.revocation_timeout)
        try:
            async with asyncio.timeout_at(until), self._slots:
                body = await self._servers.ask(query.url, question, limit, until, private=query.private)
        except TimeoutError:
            return Silence("it did not answer in time")
        except UpstreamError as error:
            return Silence(str(error))
        try:
            answer = await asyncio.to_thread(_read, query, body, nonce, now)
        except EvidenceMalformed as error:
            _log.warning("revocation.refused", url=shown(query.url), reason=str(error))
            return Silence(f"its answer {error}")
        if isinstance(answer, OcspAnswer) and answer.status is Status.UNKNOWN:
            return answer  # no more than silence
        seconds = min(answer.until - now, _LONGEST).total_seconds()
        self._known.put(query, answer, seconds=seconds, cost=len(body), generation=self._known.generation)
        return answer


def _read(query: Query, body: bytes, nonce: bytes, now: datetime) -> Answer:
    return read_crl(body, query, now) if isinstance(query, CrlQuery) else read_ocsp(body, query, nonce, now)
