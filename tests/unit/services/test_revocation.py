"""The service that asks revocation servers: what it keeps, for how long, and what it makes of silence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from proxy.errors import UpstreamMisbehaved, UpstreamUnavailable
from proxy.services.revocation import Revocations
from proxy.settings import Limits
from proxy.upstream.revocation import RevocationServers
from proxy.verify.crl import Crl, CrlQuery
from proxy.verify.ocsp import OcspAnswer, OcspQuery, Status
from proxy.verify.revocation import Answer, Silence
from tests.simulator.notation import issue
from tests.simulator.revocation import LIFE, CrlFault, OcspFault, OcspOddity, crl, ocsp_answer, ocsp_at
from tests.tools import PATIENCE, SOON

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
ACME = issue(servers=(ocsp_at("http://ocsp.test/"),))
LEAF, ISSUER, KEY = ACME.chain[0], ACME.chain[1], ACME.keys[1]
OCSP = OcspQuery("http://ocsp.test/", LEAF, ISSUER, private=False)
LIST = CrlQuery("http://list.test/", ISSUER, private=True)


@dataclass
class Servers(RevocationServers):
    """Stands for the network; ``asked`` are the URLs, with the bounds."""

    fault: OcspFault | OcspOddity | None = None
    crl_fault: CrlFault | None = None
    error: Exception | None = None
    gate: asyncio.Event | None = None
    asked: list[tuple[str, int, bool]] = field(default_factory=list)
    left: list[float] = field(default_factory=list)

    async def ask(self, url: str, question: bytes | None, limit: int, by: float, *, private: bool) -> bytes:
        self.asked.append((url, limit, private))
        self.left.append(by - asyncio.get_running_loop().time())
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        if question is None:
            return crl(ISSUER, KEY, NOW, fault=self.crl_fault)
        return ocsp_answer(question, LEAF, ISSUER, KEY, NOW, None, self.fault)

    async def close(self) -> None:
        """There is nothing to close."""


async def ask(
    service: Revocations, *queries: OcspQuery | CrlQuery, now: datetime = NOW, seconds: float = 5.0, decides: bool = True
) -> list[Answer | Silence]:
    """The answers, in the order of the questions."""
    by = asyncio.get_running_loop().time() + seconds
    found = await service.ask(dict.fromkeys(queries, decides), now, by)
    return [found[query] for query in queries]


@pytest.fixture
def service() -> Callable[..., tuple[Revocations, Servers]]:
    """A service and what stands behind it."""

    def make(**options: object) -> tuple[Revocations, Servers]:
        limits = Limits.model_validate(options.pop("limits", {}))
        servers = Servers(**options)  # type: ignore[arg-type]  # as the fields are
        return Revocations(servers, limits), servers

    return make


Make = Callable[..., tuple[Revocations, Servers]]


async def test_answers_are_kept(service: Make) -> None:
    """Asked once, side by side, within the bounds of each kind."""
    made, servers = service(limits={"ocsp_size": 2000, "crl_size": 3000, "revocation_timeout": 1.0})
    for _ in range(2):
        one, two = await ask(made, OCSP, LIST)
        assert isinstance(one, OcspAnswer)
        assert one.status is Status.GOOD
        assert isinstance(two, Crl)
    assert servers.asked == [("http://ocsp.test/", 2000, False), ("http://list.test/", 3000, True)]
    assert servers.left[0] <= 0.2
    assert servers.left[1] <= 0.5
    await made.close()


async def test_many_callers_make_one_question(service: Make) -> None:
    """Whoever asks while an answer is on its way waits for that one."""
    made, servers = service(gate=(gate := asyncio.Event()))
    asking = [asyncio.create_task(ask(made, OCSP)) for _ in range(5)]
    await asyncio.sleep(0)
    gate.set()
    for found in await asyncio.gather(*asking):
        assert isinstance(found[0], OcspAnswer)
    assert len(servers.asked) == 1
    await made.close()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"error": UpstreamUnavailable("ocsp.test refuses connections")}, "ocsp.test refuses connections"),
        ({"error": UpstreamMisbehaved("ocsp.test sent more")}, "ocsp.test sent more"),
        ({"fault": "signed by a stranger"}, "its answer is not signed by"),
        ({"fault": "noise"}, "its answer has something that cannot be read"),
        ({"fault": "stale"}, "its answer held until"),
    ],
)
async def test_silence_is_not_kept(service: Make, options: dict[str, object], told: str) -> None:
    """What says nothing is asked again, and says so."""
    made, servers = service(**options)
    for number in (1, 2):
        (found,) = await ask(made, OCSP)
        assert isinstance(found, Silence)
        assert told in found.reason
        assert len(servers.asked) == number
    servers.error = servers.fault = None
    assert isinstance((await ask(made, OCSP))[0], OcspAnswer)
    await made.close()


@pytest.mark.parametrize("silent", ["refuses", "dawdles"])
async def test_silence_is_remembered_for_a_minute_where_it_decides_nothing(
    service: Make, monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    """A network without a way out holds up one pull a minute; but whoever must know asks again, and an answer ends it."""
    now = 1000.0
    made, servers = service(limits={"revocation_timeout": 0.5})
    monkeypatch.setattr(made._silent, "_clock", lambda: now)
    monkeypatch.setattr(made._silent, "_wall", lambda: now)
    if silent == "refuses":
        servers.error = UpstreamUnavailable("ocsp.test refuses connections")
    else:
        servers.gate = asyncio.Event()
    for _ in range(3):
        assert isinstance((await ask(made, OCSP, decides=False))[0], Silence)
        now += 20
    assert len(servers.asked) == 1
    assert isinstance((await ask(made, OCSP, decides=False))[0], Silence)
    assert len(servers.asked) == 2, "a minute later"
    for number in (3, 4):
        assert isinstance((await ask(made, OCSP, decides=True))[0], Silence)
        assert len(servers.asked) == number, "it decides"
    servers.error = servers.gate = None
    assert isinstance((await ask(made, OCSP, decides=True))[0], OcspAnswer)
    assert isinstance((await ask(made, OCSP, decides=False))[0], OcspAnswer)
    await made.close()


async def test_no_silence_is_made_of_haste(service: Make) -> None:
    """Who had no time to answer was not silent, nor who answered something that does not hold."""
    made, servers = service(gate=asyncio.Event())
    for number in (1, 2):
        assert isinstance((await ask(made, OCSP, seconds=0.05, decides=False))[0], Silence)
        assert len(servers.asked) == number
    servers.gate, servers.fault = None, "noise"
    for number in (3, 4):
        assert isinstance((await ask(made, OCSP, decides=False))[0], Silence)
        assert len(servers.asked) == number
    await made.close()


async def test_what_a_server_does_not_know_is_not_kept(service: Make) -> None:
    """Nor is a list that is over."""
    made, servers = service(fault="unknown", crl_fault="stale")
    for _ in range(2):
        one, two = await ask(made, OCSP, LIST)
        assert isinstance(one, OcspAnswer)
        assert isinstance(two, Crl)
    assert len(servers.asked) == 4
    await made.close()


async def test_slow_servers(service: Make) -> None:
    """Each has its share, and all together have the time of the judgement."""
    made, _ = service(gate=asyncio.Event(), limits={"revocation_timeout": 12})
    loop = asyncio.get_running_loop()
    begun = loop.time()
    assert await ask(made, OCSP, seconds=PATIENCE) == [Silence("it did not answer in time")]
    assert loop.time() - begun < SOON
    begun = loop.time()
    await made.close()
    made, _ = service(gate=asyncio.Event(), limits={"revocation_timeout": PATIENCE})
    assert await ask(made, LIST, seconds=0.05) == [Silence("it did not answer in time")]
    assert loop.time() - begun < SOON
    await made.close()


async def test_nothing_is_kept_for_longer_than_a_day(service: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it says that it holds: an answer of two days is asked for again after one, and one that ends sooner sooner."""
    now = 1000.0
    made, servers = service()
    monkeypatch.setattr(made._known, "_clock", lambda: now)
    monkeypatch.setattr(made._known, "_wall", lambda: now)
    assert timedelta(days=1) < LIFE
    await ask(made, OCSP)
    now += 86_399
    await ask(made, OCSP)
    assert len(servers.asked) == 1
    now += 2
    await ask(made, OCSP, now=NOW + LIFE - timedelta(minutes=1))
    assert len(servers.asked) == 2
    now += 61
    await ask(made, OCSP)
    assert len(servers.asked) == 3
    await made.close()


async def test_what_is_kept_is_bounded(service: Make) -> None:
    """Lists are large; the least used goes."""
    made, servers = service(limits={"memory_revocation": len(crl(ISSUER, KEY, NOW)) + 10})
    others = [CrlQuery(f"http://{number}.test/", ISSUER, private=False) for number in range(4)]
    for each in (*others, others[3]):  # one after the other: which of several would come last, nobody knows
        await ask(made, each)
    assert len(servers.asked) == 4
    await ask(made, others[0])
    assert len(servers.asked) == 5
    await made.close()


async def test_close_ends_what_is_under_way(service: Make) -> None:
    """Nothing is left running."""
    made, _ = service(gate=asyncio.Event())
    task = asyncio.create_task(ask(made, OCSP, LIST))
    await asyncio.sleep(0.01)
    await made.close()
    with pytest.raises(asyncio.CancelledError):
        await task
