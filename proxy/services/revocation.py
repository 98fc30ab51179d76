"""Answers about revoked certificates: asked of whom the certificates name, kept until they end.

What is kept has been checked, so that who answers wrongly once is asked again. Silence is no answer: where a verdict depends on
one, who was silent is asked again. Where it would only be told, a moment's silence is remembered, so that a network without a way
out does not hold up one pull after the other.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping
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
#: How long silence is remembered, in seconds, and how often.
_SILENCE = 60.0
_MOST_SILENT = 1024
#: How many servers are asked at a time.
_AT_A_TIME = 8


class Revocations:
    """See :class:`proxy.verify.model.Inquirer`."""

    def __init__(self, servers: RevocationServers, limits: Limits) -> None:
        self._servers = servers
        self._limits = limits
        self._known: Memory[Query, Answer] = Memory(limits.memory_revocation, wall=time.time)
        self._silent: Memory[Query, Silence] = Memory(_MOST_SILENT)
        self._flights: Flights[Query, Answer | Silence] = Flights()
        self._slots = asyncio.Semaphore(_AT_A_TIME)

    async def ask(self, queries: Mapping[Query, bool], now: datetime, by: float) -> Answers:
        """See :meth:`proxy.verify.model.Inquirer.ask`."""
        found = await asyncio.gather(*(self._answer(query, now, by, decides=decides) for query, decides in queries.items()))
        return dict(zip(queries, found, strict=True))

    async def close(self) -> None:
        """End what is under way and close the connections."""
        await self._flights.close()
        await self._servers.close()

    async def _answer(self, query: Query, now: datetime, by: float, *, decides: bool) -> Answer | Silence:
        if (known := self._known.get(query)) is not None:
            return known
        if not decides and (silent := self._silent.get(query)) is not None:
            return silent
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
        asked = False
        try:
            async with asyncio.timeout_at(until), self._slots:
                asked = True
                body = await self._servers.ask(query.url, question, limit, until, private=query.private)
        except TimeoutError:
            silence = Silence("it did not answer in time")
        except UpstreamError as error:
            silence = Silence(str(error))
        else:
            return await self._read(query, body, nonce, now)
        if asked and until < by:  # it had its whole time, or said itself that it would not answer
            self._silent.put(query, silence, seconds=_SILENCE, cost=1, generation=self._silent.generation)
        return silence

    async def _read(self, query: Query, body: bytes, nonce: bytes, now: datetime) -> Answer | Silence:
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
