"""One request: timeouts, TLS, addresses, bounds and connections."""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import ssl
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp.abc
import pytest
import trustme
from aiohttp import web
from yarl import URL

from proxy.errors import UpstreamAbsent, UpstreamError, UpstreamMisbehaved, UpstreamUnavailable
from proxy.upstream.failures import Outage
from tests.tools import SOON, free_port
from tests.unit.upstream.servers import BLOB, LAYER, MANIFEST, REPOSITORY, Server, client, manifest, raw, serve

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.oci.image.manifest.v1+json\r\n"


class Hosts(aiohttp.abc.AbstractResolver):
    """Names to addresses, as told."""

    def __init__(self, **names: str) -> None:
        self._names = names

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_INET) -> list[aiohttp.abc.ResolveResult]:
        """Look it up."""
        address = self._names.get(host.replace(".", "_"))
        if address is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [{"hostname": host, "host": address, "port": port, "family": socket.AF_INET, "proto": 0, "flags": 0}]

    async def close(self) -> None:
        """Nothing to close."""


async def plain(request: web.Request) -> web.StreamResponse:
    """A manifest, whatever is asked."""
    return manifest()


# -- what cannot be reached -----------------------------------------------------------------------------------------


async def test_promise_33_a_refused_connection() -> None:
    """Nobody listens there: said so, with host and port."""
    port = free_port()
    async with client(URL(f"http://127.0.0.1:{port}")) as upstreams:
        with pytest.raises(UpstreamUnavailable, match=rf"127\.0\.0\.1:{port} refuses connections"):
            await upstreams.manifest(REPOSITORY, "1.0")


async def test_promise_33_a_name_that_does_not_resolve() -> None:
    """Said so, with the name."""
    async with client(URL("http://nowhere.test"), resolver=Hosts()) as upstreams:
        with pytest.raises(UpstreamUnavailable, match=r"the name nowhere\.test cannot be resolved: Name or service not known"):
            await upstreams.manifest(REPOSITORY, "1.0")


@pytest.mark.parametrize("target", ["http://127.0.0.1:{port}", "http://rebound.test:{port}", "http://[::ffff:127.0.0.1]:{port}"])
async def test_promise_23_private_addresses_are_not_dialled(target: str) -> None:
    """Neither a literal nor a name that resolves to one, unless it is allowed; the error names the way out."""
    async with serve(plain) as server:
        place, names = URL(target.format(port=server.url.port)), Hosts(rebound_test="127.0.0.1")
        async with client(place, allow_private=False, resolver=names) as upstreams:
            with pytest.raises(UpstreamMisbehaved, match=r"not a public address; .*`allow_private: true` for upstream registry"):
                await upstreams.manifest(REPOSITORY, "1.0")
        assert server.requests == []


async def test_promise_23_numeric_hosts_in_disguise() -> None:
    """``2130706433`` is 127.0.0.1 to some; it is no address here."""
    async with client(URL("http://2130706433"), allow_private=False) as upstreams:
        with pytest.raises(UpstreamMisbehaved):
            await upstreams.manifest(REPOSITORY, "1.0")


# -- TLS ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def authority() -> trustme.CA:
    """A certificate authority for one test."""
    return trustme.CA()


def server_tls(authority: trustme.CA, *names: str, demand: bool = False) -> ssl.SSLContext:
    """A server's side of TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    if demand:
        context.verify_mode = ssl.CERT_REQUIRED
        authority.configure_trust(context)
    return context


def write(authority: trustme.CA, folder: Path) -> tuple[Path, Path]:
    """The authority and a client certificate with its key, as files."""
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    authority.issue_cert("me@test.example").private_key_and_cert_chain_pem.write_to_path(str(folder / "client.pem"))
    return folder / "ca.pem", folder / "client.pem"


async def test_tls_with_an_authority_of_its_own(authority: trustme.CA, tmp_path: Path) -> None:
    """``ca`` is trusted; without it, and for another name, the certificate is refused with its reason."""
    ca, _ = write(authority, tmp_path)
    async with serve(plain, tls=server_tls(authority, "127.0.0.1")) as server:
        async with client(server, ca=ca) as upstreams:
            assert (await upstreams.manifest(REPOSITORY, "1.0")).body == MANIFEST
        async with client(server, retries=3) as upstreams:
            with pytest.raises(UpstreamUnavailable, match=r"certificate of 127\.0\.0\.1:\d+ is not trusted: unable to get"):
                await upstreams.manifest(REPOSITORY, "1.0")
        named = URL(f"https://other.test:{server.url.port}")
        async with client(named, ca=ca, resolver=Hosts(other_test="127.0.0.1")) as upstreams:
            with pytest.raises(UpstreamUnavailable, match="is not trusted: Hostname mismatch"):
                await upstreams.manifest(REPOSITORY, "1.0")


async def test_plain_http_where_tls_should_be() -> None:
    """Said to be a failure of TLS."""
    async with raw(hold=True) as url, client(url.with_scheme("https"), connect_timeout=0.2) as upstreams:
        with pytest.raises(UpstreamUnavailable, match=r"no TLS connection to .* within 0\.2 s"):
            await upstreams.manifest(REPOSITORY, "1.0")


async def test_the_client_certificate_is_for_the_registry_alone(authority: trustme.CA, tmp_path: Path) -> None:
    """It is shown to the registry, not to the host that it redirects to, even where that asks for one."""
    ca, pair = write(authority, tmp_path)
    shown: list[Any] = []

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        shown.append(request.transport.get_extra_info("peercert"))
        return web.Response(body=BLOB)

    curious = server_tls(authority, "127.0.0.2")
    curious.verify_mode = ssl.CERT_OPTIONAL
    authority.configure_trust(curious)
    async with serve(elsewhere, host="127.0.0.2", tls=curious) as second:

        async def handle(request: web.Request) -> web.StreamResponse:
            assert request.transport is not None
            shown.append(request.transport.get_extra_info("peercert"))
            return web.Response(status=307, headers={"Location": f"{second.url}/blob"})

        certificate = {"cert": pair, "key": pair}
        async with (
            serve(handle, tls=server_tls(authority, "127.0.0.1", demand=True)) as server,
            client(server, ca=ca, client_certificate=certificate) as upstreams,
            upstreams.blob(REPOSITORY, LAYER) as stream,
        ):
            assert b"".join([piece async for piece in stream.chunks()]) == BLOB
        assert shown[0]
        assert not shown[1]


async def test_a_registry_that_demands_a_certificate_and_gets_none(authority: trustme.CA, tmp_path: Path) -> None:
    """An outage whose words speak of TLS or of the closed connection, according to who noticed first."""
    ca, _ = write(authority, tmp_path)
    async with serve(plain, tls=server_tls(authority, "127.0.0.1", demand=True)) as server, client(server, ca=ca) as upstreams:
        with pytest.raises(UpstreamUnavailable, match=r"TLS with|closed the connection"):
            await upstreams.manifest(REPOSITORY, "1.0")


async def test_files_that_are_missing_are_our_own_trouble(tmp_path: Path) -> None:
    """No outage of the upstream: nothing is tried again, the breaker does not count it."""
    async with client(URL("https://127.0.0.1:1"), ca=tmp_path / "gone.pem", breaker_failures=1, retries=3) as upstreams:
        for _ in range(2):
            with pytest.raises(UpstreamUnavailable, match=r"gone\.pem, cannot be used") as caught:
                await upstreams.manifest(REPOSITORY, "1.0")
            assert not isinstance(caught.value, Outage)
        assert upstreams.status()[0].breaker == "closed"


# -- time -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pieces", "settings", "words"),
    [
        ((0.0,), {"header_timeout": 0.1}, "no answer from .* within 0.1 s"),
        ((b"HTTP/1.1 200 OK\r\n", *(b"X: 1\r\n", 0.05) * 20), {"header_timeout": 0.2}, "no answer from .* within 0.2 s"),
        ((HEAD + b"Content-Length: 19\r\n\r\n{",), {"stall_timeout": 0.1}, "fell silent in the middle of its answer for 0.1 s"),
        ((HEAD + b"Content-Length: 900\r\n\r\n", *(b"x", 0.05) * 40), {"request_timeout": 0.6}, "fell silent in the middle"),
        ((0.0,), {"request_timeout": 0.5}, "no answer from .* in the time that was left for it"),
    ],
    ids=["no head", "slow head", "silent body", "slow body", "late"],
)
async def test_promise_32_everything_has_a_timeout(
    pieces: tuple[bytes | float, ...], settings: dict[str, Any], words: str
) -> None:
    """Silence before the head, a dripping head, silence in the body and a dripping body all end, and are outages."""
    limits = {key: settings.pop(key) for key in ("request_timeout",) if key in settings}
    async with raw(*pieces, hold=True) as url, client(url, limits=limits, **settings) as upstreams:
        began = asyncio.get_running_loop().time()
        with pytest.raises(UpstreamUnavailable, match=words):
            await upstreams.manifest(REPOSITORY, "1.0")
        assert asyncio.get_running_loop().time() - began < SOON


async def test_promise_32_a_connection_that_does_not_come_about() -> None:
    """A listener whose queue is full accepts nobody: the connect timeout ends it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
            async with client(URL(f"http://127.0.0.1:{port}"), connect_timeout=0.1) as upstreams:
                with pytest.raises(UpstreamUnavailable, match=r"no connection to .* within 0\.1 s"):
                    await upstreams.manifest(REPOSITORY, "1.0")
        finally:
            for filler in fillers:
                filler.close()


# -- bounds ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (HEAD + b"Content-Length: 99999999\r\n\r\n", UpstreamMisbehaved, "announced 99999999 bytes, more than the 1000"),
        (
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"400\r\n" + b"x" * 1024 + b"\r\n",
            UpstreamMisbehaved,
            "more than the 1000",
        ),
        (HEAD + b"\r\n" + b"x" * 2000, UpstreamMisbehaved, "more than the 1000"),
        (HEAD + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", UpstreamMisbehaved, "encoded body .gzip. although"),
        (
            HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            (UpstreamMisbehaved, UpstreamUnavailable),
            "both Transfer-Encoding and Content-Length|broken HTTP",
        ),
        (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", UpstreamMisbehaved, "not only chunked but gzip"),
        (HEAD + b"Content-Length: 19\r\n\r\n{", UpstreamUnavailable, "cut its answer short"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", UpstreamUnavailable, "broken HTTP|cut its answer short"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", UpstreamUnavailable, "answered with broken HTTP"),
        (b"", UpstreamUnavailable, "closed the connection"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", UpstreamUnavailable, "answered with broken HTTP"),
    ],
    ids=["announced", "chunked", "endless", "gzip", "CL+TE", "TE", "short", "chunk", "no HTTP", "nothing", "header"],
)
async def test_promises_14_27_28_29_bodies_and_heads(answer: bytes, error: Any, words: str) -> None:
    """Too long, encoded, ambiguous, short and broken answers, each with its own words."""
    async with raw(answer) as url, client(url, limits={"manifest_size": 1000}) as upstreams:
        with pytest.raises(error, match=words):
            await upstreams.manifest(REPOSITORY, "1.0")


@pytest.mark.parametrize(
    "header", [b"Content-Length: 99999999", b"Content-Encoding: gzip\r\nContent-Length: 3", b"Transfer-Encoding: chunked"]
)
async def test_a_head_has_no_body_to_refuse(header: bytes) -> None:
    """What it says of a body that nobody sends is for whoever gets that; the connection is free at once."""
    answer = HEAD + b"Docker-Content-Digest: " + str(LAYER.digest).encode() + b"\r\n" + header + b"\r\n\r\n"
    options: dict[str, Any] = {"connections": 1, "queue_timeout": 0.5}
    async with raw(answer) as url, client(url, limits={"manifest_size": 1000}, **options) as upstreams:
        for _ in range(3):
            assert await upstreams.head(REPOSITORY, "1.0") == LAYER.digest


async def test_a_connection_keeps_nothing_of_who_opened_it() -> None:
    """What asked first is gone when it has ended, though its connection waits for the next."""
    async with serve(plain) as server, client(server) as upstreams:
        task = asyncio.create_task(upstreams.manifest(REPOSITORY, "1.0"))
        await task
        gone = weakref.ref(task)
        del task
        await asyncio.sleep(0)
        gc.collect()
        assert gone() is None
        assert (await upstreams.manifest(REPOSITORY, "1.0")).body == MANIFEST


async def test_identity_is_an_encoding_like_none() -> None:
    """``Content-Encoding: identity`` says nothing."""
    async with (
        raw(HEAD + b"Content-Encoding: identity\r\nContent-Length: 19\r\n\r\n" + MANIFEST) as url,
        client(url) as upstreams,
    ):
        assert (await upstreams.manifest(REPOSITORY, "1.0")).body == MANIFEST


async def test_an_encoded_error_body_is_not_read() -> None:
    """The status decides; what cannot be read says nothing."""
    answer = b"HTTP/1.1 404 X\r\nContent-Encoding: gzip\r\nContent-Length: 6\r\n\r\nsecret"
    async with raw(answer) as url, client(url) as upstreams:
        with pytest.raises(UpstreamAbsent) as caught:
            await upstreams.manifest(REPOSITORY, "1.0")
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "pieces",
    [
        (b"HTTP/1.1 404 X\r\n\r\n", *(b"y" * 65536,) * 4),
        (b"HTTP/1.1 404 X\r\nContent-Length: 50\r\n\r\ny",),
    ],
    ids=["endless", "cut"],
)
async def test_error_bodies_are_bounded(pieces: tuple[bytes, ...]) -> None:
    """An endless or cut error body changes nothing about what the status says."""
    async with raw(*pieces) as url, client(url, limits={"error_body": 1000}) as upstreams:
        with pytest.raises(UpstreamAbsent, match=r"does not exist upstream \(404 y"):
            await upstreams.manifest(REPOSITORY, "1.0")


# -- connections ----------------------------------------------------------------------------------------------------


async def test_what_is_sent() -> None:
    """A real User-Agent, identity, all manifest types in one Accept; no cookies although some were set."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return manifest(Set_Cookie="a=b; Path=/")

    async with serve(handle) as server, client(server) as upstreams:
        for _ in range(2):
            await upstreams.manifest(REPOSITORY, "1.0")
        for request in server.requests:
            assert request.headers["User-Agent"] == "tagstone/test"
            assert request.headers["Accept-Encoding"] == "identity"
            assert request.headers["Accept"].count("application/vnd.") == 4
            assert "Cookie" not in request.headers
        assert len({request.transport for request in server.requests}) == 1


async def test_connections_are_used_again_after_refusals_and_redirects() -> None:
    """Short bodies that nobody wants are read, so that one connection does for all."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/1.0"):
            return web.Response(status=404, text="x" * 1000)
        if request.path.endswith("/2.0"):
            return web.Response(status=307, text="moved", headers={"Location": "/elsewhere"})
        return manifest()

    peers = set()
    async with serve(handle) as server, client(server) as upstreams:
        with pytest.raises(UpstreamAbsent):
            await upstreams.manifest(REPOSITORY, "1.0")
        await upstreams.manifest(REPOSITORY, "2.0")
        peers = {request.transport for request in server.requests}
    assert len(peers) == 1


async def test_blobs_leave_room_for_manifests() -> None:
    """With all streams taken a manifest still gets through, and a further blob waits for its turn, bounded in time."""
    release = asyncio.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        if "/blobs/" not in request.path:
            return manifest()
        response = web.StreamResponse(headers={"Content-Length": str(len(BLOB))})
        await response.prepare(request)
        await release.wait()
        await response.write(BLOB)
        return response

    async with serve(handle) as server, client(server, connections=2, queue_timeout=0.2) as upstreams:
        async with upstreams.blob(REPOSITORY, LAYER) as first:
            assert (await upstreams.manifest(REPOSITORY, "1.0")).body == MANIFEST
            with pytest.raises(UpstreamUnavailable, match=r"all 2 connections to registry\.test are busy") as caught:
                async with upstreams.blob(REPOSITORY, LAYER):
                    pass
            assert caught.value.retry_after == 1.0
            release.set()
            assert b"".join([piece async for piece in first.chunks()]) == BLOB
        async with upstreams.blob(REPOSITORY, LAYER) as second:
            assert b"".join([piece async for piece in second.chunks()]) == BLOB
        assert upstreams.status()[0].last_error is None


async def test_one_connection_is_enough_for_a_challenge() -> None:
    """Nothing waits for a connection while holding the only one: challenge, token, redirect and blob go one after the other."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.path == "/token":
            return web.json_response({"token": "t"})
        if request.path == "/there":
            return web.Response(body=BLOB)
        if "Authorization" not in request.headers:
            return web.Response(status=401, headers={"WWW-Authenticate": 'Bearer realm="/token"'})
        return web.Response(status=307, headers={"Location": "/there"})

    async with serve(handle) as server, client(server, connections=1, limits={"request_timeout": 9}) as upstreams:
        for _ in range(2):
            async with upstreams.blob(REPOSITORY, LAYER) as stream:
                assert b"".join([piece async for piece in stream.chunks()]) == BLOB


async def test_a_cancelled_request_gives_everything_back() -> None:
    """After cancellations in every state, all connections can still be had."""
    hang = True

    async def handle(request: web.Request) -> web.StreamResponse:
        if hang:
            await asyncio.sleep(5)
        return manifest()

    async with serve(handle) as server, client(server, connections=1, limits={"request_timeout": 9}) as upstreams:
        tasks = [asyncio.create_task(upstreams.manifest(REPOSITORY, "1.0")) for _ in range(3)]
        while not server.requests:
            await asyncio.sleep(0.005)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        hang = False
        assert (await upstreams.manifest(REPOSITORY, "1.0")).body == MANIFEST


async def test_closing_without_having_connected() -> None:
    """Building and closing do no I/O and need no order; closing twice is harmless."""
    async with client(Server(URL("http://127.0.0.1:1"))) as upstreams:
        await upstreams.close()


async def test_promise_56_cancellations_at_any_point_lose_nothing() -> None:
    """Hundreds of requests cut off at random points, amid challenges, redirects and bodies: every connection is there again."""
    dice = random.Random(7)

    async def handle(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(dice.random() * 0.004)
        if request.path == "/token":
            return web.json_response({"token": str(dice.random()), "expires_in": 60})
        if request.path.startswith("/there"):
            return web.Response(body=BLOB)
        if "Authorization" not in request.headers or dice.random() < 0.1:
            return web.Response(status=401, headers={"WWW-Authenticate": 'Bearer realm="/token"'})
        if "/blobs/" in request.path:
            return web.Response(status=307, headers={"Location": f"/there?{dice.random()}"})
        return manifest() if dice.random() < 0.8 else web.Response(status=503)

    async with serve(handle) as server, client(server, connections=3, retries=1, breaker_failures=1000) as upstreams:

        async def blob() -> None:
            async with upstreams.blob(REPOSITORY, LAYER) as stream:
                async for _piece in stream.chunks():
                    await asyncio.sleep(0)

        async def one(number: int) -> None:
            work = blob() if number % 2 else upstreams.manifest(REPOSITORY, f"{number}")
            with suppress(UpstreamError, TimeoutError):
                async with asyncio.timeout(dice.random() * 0.04):
                    await work

        for _ in range(30):
            await asyncio.gather(*(one(number) for number in range(10)))
        transport = upstreams._exchanges["registry.test"].transport
        held = [asyncio.create_task(transport._slots.acquire()) for _ in range(3)]
        held += [asyncio.create_task(transport._streams.acquire()) for _ in range(2)]
        async with asyncio.timeout(SOON):
            await asyncio.gather(*held)
        assert transport._slots.locked()
        assert transport._streams.locked()
