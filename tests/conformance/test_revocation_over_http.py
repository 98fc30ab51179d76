"""Revoked certificates through the whole proxy: servers that answer, lie, dawdle and vanish, and what a pull is answered."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from tests.harness import Proxy, Reply, WallClock
from tests.simulator import when
from tests.simulator.behaviours import endless, first, hold, redirect, silence, status
from tests.simulator.images import Image
from tests.simulator.notation import Issued, issue, notation_signature
from tests.simulator.registry import Registry
from tests.simulator.revocation import OcspFault, RevocationServer
from tests.simulator.server import Site
from tests.simulator.signing import signature_tag
from tests.simulator.sigstore.tsa import TimestampAuthority
from tests.tools import PATIENCE, SOON, free_port

DAY = timedelta(days=1)
SIGNED = datetime(2026, 5, 1, 12, tzinfo=UTC)
TSA = TimestampAuthority("revocation over http")
ELSEWHERE = "127.0.0.2"
RULES = 'rules: [{match: "**", require: {signature: {notation: {store: acme}}}}]\n'
QUICK = "limits: {revocation_timeout: 1s}\n"


def proxy_of(
    folder: Path, upstream: Registry, issued: Issued, mode: str | None, *, private: bool = True, top: str = QUICK
) -> Proxy:
    """A proxy whose one store trusts a signer's root."""
    folder.mkdir(exist_ok=True)
    (folder / "acme.pem").write_bytes(issued.root_pem)
    (folder / "tsa.pem").write_bytes(TSA.chain(SIGNED)[-1].public_bytes(serialization.Encoding.PEM))
    more = "" if mode is None else f", revocation: {mode}"
    trust = (
        f"notation: {{acme: {{ca: [{folder}/acme.pem], tsa: [{folder}/tsa.pem], allow_private: {str(private).lower()}{more}}}}}"
    )
    return Proxy(folder, upstream, rules=RULES, trust=trust, top=top)


def signed(upstream: Registry, issued: Issued, tag: str = "v1", **more: Any) -> Image:
    """A signed image."""
    image = upstream.image("acme/app", tag, seed=tag)
    upstream.refer("acme/app", notation_signature(issued, image, **more))
    return image


async def pull(proxy: Proxy, tag: str = "v1") -> Reply:
    """Pull it."""
    return await proxy.manifest("acme/app", tag)


@pytest.mark.parametrize("by", ["ocsp", "lists"])
@pytest.mark.parametrize(("mode", "expected"), [("skip", 200), ("log", 200), (None, 200), ("enforce", 403)])
async def test_a_revoked_signer(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], mode: str | None, expected: int, by: str
) -> None:
    """Not asked for, told, or refused: as the store wants it, and told where it says nothing."""
    async with RevocationServer() as server, Registry() as upstream:
        issued = issue(depth=2, servers=server.named_by(ocsp=by == "ocsp", lists=by == "lists"))
        server.know(issued)
        server.revoke(issued.chain[0], at=datetime.now(UTC) - DAY, reason="key_compromise")
        async with proxy_of(tmp_path, upstream, issued, mode) as proxy:
            image = signed(upstream, issued)
            answer = await pull(proxy)
            assert answer.status == expected, answer.body
            if expected == 403:
                assert answer.error["code"] == "DENIED"
                assert "was revoked at" in answer.error["message"]
                assert "(keyCompromise)" in answer.error["message"]
                assert (await proxy.blob("acme/app", image.layers[0].digest)).status == 403
        assert server.count() == (0 if mode == "skip" else 1)
        assert ("signer.doubtful" in capfd.readouterr().err) is (mode in {"log", None})


async def test_a_good_signer(tmp_path: Path) -> None:
    """The whole chain is asked about, and what was answered is kept for the next image."""
    async with RevocationServer() as server, Registry() as upstream:
        issued = issue(depth=4, servers=server.named_by(lists=False))
        server.know(issued)
        async with proxy_of(tmp_path, upstream, issued, "enforce") as proxy:
            for tag in ("v1", "v2"):
                signed(upstream, issued, tag)
                assert (await pull(proxy, tag)).status == 200
            assert server.count("POST", "/ocsp") == 3
        server.revoke(issued.chain[2], at=datetime.now(UTC))
        async with proxy_of(tmp_path / "another", upstream, issued, "enforce") as proxy:
            assert (await pull(proxy)).status == 403, "an authority in between"


@pytest.mark.parametrize(
    ("invalid_since", "stamped", "expected"),
    [
        (SIGNED + DAY, True, 200),
        (SIGNED - DAY, True, 403),
        (SIGNED + DAY, False, 403),
        (None, True, 403),
    ],
)
async def test_when_it_was_signed(tmp_path: Path, invalid_since: datetime | None, stamped: bool, expected: int) -> None:
    """Before the key was in other hands, and a timestamp proves it: it counts. After, or unproven, or unsaid: it does not."""
    async with RevocationServer() as server, Registry() as upstream:
        issued = issue(depth=2, servers=server.named_by())
        server.know(issued)
        server.revoke(issued.chain[0], at=datetime.now(UTC), invalid_since=invalid_since)
        async with proxy_of(tmp_path, upstream, issued, "enforce") as proxy:
            stamp = (lambda signature: TSA.token(signature, SIGNED)) if stamped else None
            signed(upstream, issued, stamp=stamp)
            assert (await pull(proxy)).status == expected


@pytest.mark.parametrize(
    "fault", ["signed by a stranger", "stale", "unknown", "another certificate", "try later", "another nonce", "noise"]
)
async def test_answers_that_do_not_hold(tmp_path: Path, fault: OcspFault) -> None:
    """They are no answers: not known, which is neither yes nor no; and asked again at the next pull, when all is well."""
    async with RevocationServer() as server, Registry() as upstream:
        issued = issue(depth=2, servers=server.named_by(lists=False))
        server.know(issued)
        server.ocsp_fault = fault
        async with proxy_of(tmp_path, upstream, issued, "enforce") as proxy:
            signed(upstream, issued)
            answer = await pull(proxy)
            assert answer.status == 503
            assert "Retry-After" in answer.headers
            assert "is revoked cannot be told" in answer.error["message"]
            assert await proxy.pin("acme/app:v1") is None
            server.ocsp_fault = None
            assert (await pull(proxy)).status == 200


@pytest.mark.parametrize("what", ["huge", "slow", "gone", "error", "elsewhere", "https"])
@pytest.mark.parametrize("lists", [True, False])
async def test_servers_that_do_not_answer(tmp_path: Path, public: None, what: str, lists: bool) -> None:
    """An OCSP server that is too long, too slow, away, broken, or leads to a private address: its lists are looked at, if any."""
    async with RevocationServer() as server, Site(address=ELSEWHERE) as inside, Registry() as upstream:
        issued = issue(depth=2, servers=server.named_by(lists=lists))
        server.know(issued)
        behaviour = {
            "huge": endless(),
            "slow": silence(),
            "gone": redirect(f"http://127.0.0.1:{free_port()}/"),
            "error": status(500),
            "elsewhere": redirect(f"{inside.url}/ocsp", 308),
            "https": redirect("https://127.0.0.1:1/", 308),
        }[what]
        server.on(when.path("/ocsp"), behaviour)
        async with proxy_of(tmp_path, upstream, issued, "enforce", private=False) as proxy:
            signed(upstream, issued)
            began = asyncio.get_running_loop().time()
            assert (await pull(proxy)).status == (200 if lists else 503)
            assert asyncio.get_running_loop().time() - began < SOON
        assert inside.connections == 0


@pytest.mark.parametrize("mode", ["log", "enforce"])
async def test_a_signature_tag_does_not_wait_for_silent_servers(tmp_path: Path, mode: str) -> None:
    """Though it comes later than the referrers whose signer they are asked about."""
    async with RevocationServer() as server, Registry() as upstream:
        issued = issue(depth=2, servers=server.named_by())
        server.know(issued)
        asked = asyncio.Event()
        server.on(when.method("POST"), silence())
        server.on(when.method("POST"), first(lambda _: asked.set()))
        server.on(when.method("GET"), silence())
        async with proxy_of(tmp_path, upstream, issued, mode, top="limits: {revocation_timeout: 60s}\n") as proxy:
            either = "{any: [{signature: {key: release-key}}, {signature: {notation: {store: acme}}}]}"
            await proxy.reload(f'rules: [{{match: "**", require: {either}}}]\n')
            image = signed(upstream, issued)
            upstream.sign("acme/app", image.digest, proxy.signer)
            upstream.on(when.manifest(reference=signature_tag(image.digest)), hold(asked))
            began = asyncio.get_running_loop().time()
            assert (await pull(proxy)).status == 200
            assert asyncio.get_running_loop().time() - began < SOON


async def test_a_network_without_a_way_out_holds_up_one_pull(tmp_path: Path) -> None:
    """Where revocation is only told, silence is remembered; where it is enforced, everybody asks again."""
    async with RevocationServer() as server, Registry() as upstream:
        issued = issue(depth=2, servers=server.named_by(lists=False))
        server.know(issued)
        server.on(when.method("POST"), silence())
        async with proxy_of(tmp_path, upstream, issued, "log") as proxy:
            for tag in ("v1", "v2", "v3"):
                signed(upstream, issued, tag)
                assert (await pull(proxy, tag)).status == 200
            assert server.count("POST", "/ocsp") == 1
            proxy._trust = proxy._trust.replace("log", "enforce")
            await proxy.reload(RULES)
            for _ in range(2):
                before = server.count("POST", "/ocsp")
                assert (await pull(proxy)).status == 503
                assert server.count("POST", "/ocsp") > before


async def test_private_addresses_are_not_dialled(tmp_path: Path) -> None:
    """A certificate may name anybody; what is not public is asked only where the store says so."""
    async with RevocationServer() as server, Registry() as upstream:
        issued = issue(depth=2, servers=server.named_by())
        server.know(issued)
        async with proxy_of(tmp_path, upstream, issued, "enforce", private=False) as proxy:
            signed(upstream, issued)
            answer = await pull(proxy)
            assert answer.status == 503
            assert "not a public address" in answer.error["message"]
        assert server.connections == 0


async def test_strangers_make_nobody_ask(tmp_path: Path) -> None:
    """Who pushes a signature of his own chooses the URLs in it: nobody asks them before the chain is trusted."""
    async with RevocationServer() as server, Registry() as upstream:
        stranger = issue(name="stranger", depth=2, servers=server.named_by())
        async with proxy_of(tmp_path, upstream, issue(), "enforce") as proxy:
            signed(upstream, stranger)
            assert (await pull(proxy)).status == 403
        assert server.connections == 0


async def test_what_was_reached_stays_without_a_network(tmp_path: Path, clock: WallClock) -> None:
    """A verdict that was reached holds until evidence, trust or rule changes; when it is to be reached anew, it is not known."""
    async with RevocationServer() as server, Registry() as upstream:
        issued = issue(depth=2, servers=server.named_by())
        server.know(issued)
        async with proxy_of(tmp_path, upstream, issued, "enforce", top=f"{QUICK}check_interval: 1h\n") as proxy:
            image = signed(upstream, issued)
            assert (await pull(proxy)).status == 200
            await server.stop()
            upstream.on(when.registry(), status(503))
            clock.ahead = 30 * DAY  # every answer has ended by then
            await proxy.restart()
            assert (await pull(proxy)).body == image.body
            either = "{any: [{signature: {notation: {store: acme}}}, deny]}"
            await proxy.reload(f'rules: [{{match: "**", require: {either}}}]\n')
            assert (await pull(proxy)).status == 503, "another rule is another question"
            clock.ahead = timedelta()
            await server.start()
            assert (await pull(proxy)).body == image.body, "the stored evidence, and an answer"


async def test_a_mode_that_is_stricter_is_another_question(tmp_path: Path) -> None:
    """What passed while it was only told is judged again once it is enforced, from the stored evidence."""
    async with RevocationServer() as server, Registry() as upstream:
        issued = issue(depth=2, servers=server.named_by())
        server.know(issued)
        server.revoke(issued.chain[0], at=datetime.now(UTC))
        async with proxy_of(tmp_path, upstream, issued, "log") as proxy:
            signed(upstream, issued)
            assert (await pull(proxy)).status == 200
            proxy._trust = proxy._trust.replace("log", "enforce")
            await proxy.reload(RULES)
            assert (await pull(proxy)).status == 403


async def test_it_is_explained(tmp_path: Path) -> None:
    """`tagstone verify` says what was found of each certificate, and warns where that decides nothing."""
    async with RevocationServer() as server, Registry() as upstream:
        issued = issue(depth=3, servers=server.named_by(lists=False))
        server.know(issued)
        server.revoke(issued.chain[0], at=datetime.now(UTC), reason="superseded")
        async with proxy_of(tmp_path, upstream, issued, "log") as proxy:
            image = signed(upstream, issued)
            told = await verify(proxy, image, "--explain")
            assert "warning: CN=acme,O=acme,ST=BE,C=DE was revoked at" in told
            assert "CN=intermediate 1,O=acme,ST=BE,C=DE is not revoked, says http://127.0.0.1" in told
            shown = json.loads(await verify(proxy, image, "--json"))
            assert ["(superseded)" in each for each in shown["evidence"][0]["warnings"]] == [True]


async def verify(proxy: Proxy, image: Image, *words: str) -> str:
    """What the command says, which ends with 0."""
    command = (Path(sys.executable).parent / "tagstone", "verify", f"reg.example/acme/app@{image.digest}")
    process = await asyncio.create_subprocess_exec(*command, "--config", proxy.config, *words, stdout=asyncio.subprocess.PIPE)
    told, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert process.returncode == 0, told
    return told.decode()


async def test_an_outage_beside_a_good_signature(tmp_path: Path) -> None:
    """One signer's server is away, the other's is not: one good signature is enough."""
    async with RevocationServer() as server, Registry() as upstream:
        one = issue(name="one", depth=2, servers=server.named_by(lists=False))
        other = issue(name="other", depth=2)
        async with proxy_of(tmp_path, upstream, one, "enforce") as proxy:
            (tmp_path / "acme.pem").write_bytes(one.root_pem + other.root_pem)
            await proxy.reload(RULES)
            image = signed(upstream, one)
            assert (await pull(proxy)).status == 503
            upstream.refer("acme/app", notation_signature(other, image))
            assert (await pull(proxy)).status == 200
