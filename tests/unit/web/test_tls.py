"""TLS on a listener: connections count from before the handshake, however it ends; versions; files that are replaced."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import struct
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web
from structlog.testing import capture_logs

from proxy.settings import Limits, Tls
from proxy.web.listener import Listener
from proxy.web.tls import ServerTls, context_of
from tests.unit.web.wire import Client, connected, listening, on_both_loops

DEADLINE = 30


async def hello(_: web.BaseRequest) -> web.StreamResponse:
    """A small answer."""
    return web.Response(text="hello")


async def certificate(request: web.BaseRequest) -> web.StreamResponse:
    """What the handler sees of the client's certificate."""
    assert request.transport is not None
    return web.Response(text=json.dumps(request.transport.get_extra_info("peercert")))


class Files:
    """A server's certificate, and an authority for clients, as files that may be replaced."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.clients = trustme.CA()
        self.clients.cert_pem.write_to_path(str(folder / "clients.pem"))
        self.issue()

    def issue(self) -> None:
        """Write a new certificate."""
        issued = self.authority.issue_cert("127.0.0.1")
        for name, content in (("tls.crt", issued.cert_chain_pems[0]), ("tls.key", issued.private_key_pem)):
            content.write_to_path(str(self.folder / "fresh"))
            os.replace(self.folder / "fresh", self.folder / name)

    def server(self, *, mutual: bool = False) -> ServerTls:
        """The server's side."""
        of_clients = self.folder / "clients.pem" if mutual else None
        return ServerTls(Tls(certificate=self.folder / "tls.crt", key=self.folder / "tls.key", client_ca=of_clients))

    def client(self, name: str | None = None) -> ssl.SSLContext:
        """The client's side, with a certificate where it has a name."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        if name is not None:
            self.clients.issue_cert(name).configure_cert(context)
        return context


async def eventually(holds: Callable[[], Coroutine[Any, Any, bool]]) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(DEADLINE):
        while not await holds():
            await asyncio.sleep(0.02)


async def answered(port: int, client: ssl.SSLContext) -> bool:
    """Whether a new connection is served."""
    try:
        async with connected(port, tls=client) as connection:
            return (await connection.ask()).status == 200
    except (OSError, asyncio.IncompleteReadError):
        return False


# -- promise 32: places -----------------------------------------------------------------------------------------------


async def still_open(connections: list[socket.socket]) -> int:
    """How many of these the server has not ended."""
    found = 0
    for connection in connections:
        try:
            found += connection.recv(1) != b""
        except BlockingIOError:
            found += 1
        except ConnectionError:
            pass
    return found


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@on_both_loops
async def test_promise_32_one_address_has_its_share_of_connections(tmp_path: Path, tls: bool) -> None:
    """It holds so many and no more, though it never says a word, and before TLS; another address is served meanwhile."""
    files = Files(tmp_path)
    held: list[socket.socket] = []
    async with listening(hello, Limits(client_connections=8, client_first_timeout=60), files.server() if tls else None) as port:
        try:
            for _ in range(20):
                held.append(socket.socket())
                held[-1].bind(("127.0.0.9", 0))
                held[-1].setblocking(False)
                await asyncio.get_running_loop().sock_connect(held[-1], ("127.0.0.1", port))

            async def is_half() -> bool:
                return await still_open(held) == 4

            await eventually(is_half)
            for _ in range(3):
                async with connected(port, tls=files.client() if tls else None) as other:
                    assert (await other.ask()).body == b"hello"
            assert await is_half()
        finally:
            for connection in held:
                connection.close()


def reset(client: Client) -> None:
    """End a connection by a reset."""
    client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.writer.transport.abort()


async def leaves(client: Client) -> None:
    """It goes as soon as it has come."""
    client.writer.close()


async def is_reset(client: Client) -> None:
    """Its host knows nothing of it any more."""
    reset(client)


async def is_reset_halfway(client: Client) -> None:
    """The same, when the server waits for its part of the handshake."""
    await client.send(first_flight(ssl.create_default_context()))
    await client.reader.read(1)
    reset(client)


async def leaves_halfway(client: Client) -> None:
    """It goes when the server waits for its part of the handshake."""
    await client.send(first_flight(ssl.create_default_context()))
    await client.reader.read(1)
    client.writer.close()


async def speaks_http(client: Client) -> None:
    """What it says is no TLS."""
    await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert await client.rest() == b""


async def says_half_a_word(client: Client) -> None:
    """And waits."""
    await client.send(first_flight(ssl.create_default_context())[:20])
    assert await client.rest() == b""


async def says_nothing(client: Client) -> None:
    """And waits."""
    assert await client.rest() == b""


def first_flight(context: ssl.SSLContext) -> bytes:
    """A client's first message."""
    outgoing = ssl.MemoryBIO()
    connection = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize(
    "behaves", [leaves, is_reset, is_reset_halfway, leaves_halfway, speaks_http, says_half_a_word, says_nothing]
)
@on_both_loops
async def test_promise_32_a_handshake_that_fails_leaves_its_place(
    tmp_path: Path, behaves: Callable[[Client], Coroutine[Any, Any, None]]
) -> None:
    """There is one place: after whatever a client did, the next one has it, time after time."""
    files = Files(tmp_path)
    limits = Limits(client_connections=1, client_first_timeout=1 if behaves in (says_nothing, says_half_a_word) else 60)
    async with listening(hello, limits, files.server()) as port:
        for _ in range(2):
            async with connected(port) as client:
                await behaves(client)
            await eventually(lambda: answered(port, files.client()))


@on_both_loops
async def test_promise_32_a_handshake_counts_to_the_time_for_the_first_request(tmp_path: Path) -> None:
    """Who has shaken hands and says nothing is cut off, and makes room."""
    files = Files(tmp_path)
    async with listening(hello, Limits(client_connections=1, client_first_timeout=3), files.server()) as port:
        async with connected(port, tls=files.client()) as client:
            assert await client.rest() == b""
        await eventually(lambda: answered(port, files.client()))


@on_both_loops
async def test_what_a_client_said_before_it_was_accepted_counts(tmp_path: Path) -> None:
    """Its first message is there before the server looks: it is the beginning of the handshake, and not of a request."""
    files = Files(tmp_path)
    async with listening(hello, Limits(client_first_timeout=60), files.server()) as port:
        for _ in range(5):
            plain = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            secure = files.client().wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
            with pytest.raises(ssl.SSLWantReadError):
                secure.do_handshake()
            plain.sendall(outgoing.read())  # nobody else has run meanwhile
            assert await asyncio.to_thread(rest_of_a_request, plain, secure, incoming, outgoing) == b"hello"


def rest_of_a_request(plain: socket.socket, secure: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> bytes:
    """Go on with a handshake, ask, and give the last five bytes of the answer."""

    def until(step: Callable[[], Any]) -> Any:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                plain.sendall(outgoing.read())
                if not (received := plain.recv(1 << 16)):
                    raise EOFError from None
                incoming.write(received)

    with plain:
        until(secure.do_handshake)
        secure.write(b"GET / HTTP/1.1\r\nHost: proxy\r\n\r\n")
        answer = b""
        while not answer.endswith(b"hello"):
            answer += until(lambda: secure.read(1 << 16))
    return answer[-5:]


@on_both_loops
async def test_what_comes_with_the_end_of_the_handshake_is_the_first_request(tmp_path: Path) -> None:
    """A client sends its last message and its request in one piece."""
    files = Files(tmp_path)
    async with listening(hello, None, files.server()) as port:
        plain = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        secure = files.client().wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
        assert await asyncio.to_thread(rest_of_a_request, plain, secure, incoming, outgoing) == b"hello"


# -- the end ----------------------------------------------------------------------------------------------------------


@on_both_loops
async def test_closing_waits_for_no_handshake(tmp_path: Path) -> None:
    """Who has not finished it is cut off, before its time is over: at once, and halfway."""
    listener = Listener(hello, "127.0.0.1", 0, Limits(client_first_timeout=600), tls=Files(tmp_path).server())
    await listener.start()
    async with connected(listener.port) as silent, connected(listener.port) as halfway, connected(listener.port) as late:
        await halfway.send(first_flight(ssl.create_default_context()))
        assert await halfway.reader.read(1)
        await late.send(b"\x16\x03\x01")
        async with asyncio.timeout(DEADLINE):
            await listener.close()
        for client in (silent, halfway, late):
            await client.rest()


@on_both_loops
async def test_other_authorities_end_handshakes_under_way(tmp_path: Path) -> None:
    """Who began under the old authorities begins anew; its place is free."""
    files = Files(tmp_path)
    async with listening(hello, Limits(client_connections=1, client_first_timeout=600), files.server(mutual=True)) as port:
        async with connected(port) as client:
            await client.send(first_flight(ssl.create_default_context()))
            assert await client.reader.read(1)
            files.clients = trustme.CA()
            files.clients.cert_pem.write_to_path(str(tmp_path / "clients.pem"))
            await client.rest()
        await eventually(lambda: answered(port, files.client("node.example")))


# -- who it is --------------------------------------------------------------------------------------------------------


@on_both_loops
async def test_the_handler_sees_the_clients_certificate(tmp_path: Path) -> None:
    """As the verified one of this connection; without one there is no connection."""
    files = Files(tmp_path)
    async with listening(certificate, None, files.server(mutual=True)) as port:
        for name in ("node-7.example", "node-8.example"):
            async with connected(port, tls=files.client(name)) as client:
                assert json.loads((await client.ask()).body)["subjectAltName"] == [["DNS", name]]
        assert not await answered(port, files.client())


# -- versions ---------------------------------------------------------------------------------------------------------

TLS_1_0, TLS_1_1, TLS_1_2 = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2


def only(context: ssl.SSLContext, version: ssl.TLSVersion) -> ssl.SSLContext:
    """Make it speak this version and no other, also where the system's settings would not have it."""
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that is why they are refused
        context.minimum_version = context.maximum_version = version
    return context


def agree(client: ssl.SSLContext, server: ssl.SSLContext) -> str | None:
    """Which version two sides come to speak, in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = client.wrap_bio(to_client, to_server, server_hostname="127.0.0.1")
    other = server.wrap_bio(to_server, to_client, server_side=True)
    done: set[ssl.SSLObject] = set()
    while len(done) < 2:
        for side in (one, other):
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                pass
    return one.version()


OLD = pytest.mark.parametrize(
    ("version", "name"),
    [
        pytest.param(TLS_1_0, "TLSv1", marks=pytest.mark.skipif(not ssl.HAS_TLSv1, reason="this OpenSSL has none")),
        pytest.param(TLS_1_1, "TLSv1.1", marks=pytest.mark.skipif(not ssl.HAS_TLSv1_1, reason="this OpenSSL has none")),
        (TLS_1_2, "TLSv1.2"),
    ],
)


@OLD
@on_both_loops
async def test_versions_before_1_2_are_refused(tmp_path: Path, version: ssl.TLSVersion, name: str) -> None:
    """A client that offers nothing newer gets no connection, though it could speak with a server that had no bounds."""
    files = Files(tmp_path)
    lax = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    lax.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    client = only(files.client(), version)
    assert agree(client, only(lax, version)) == name
    async with listening(hello, None, files.server()) as port:
        assert await answered(port, client) is (version is TLS_1_2)
        assert await answered(port, files.client())


@OLD
def test_versions_before_1_2_are_refused_where_the_system_permits_them(
    tmp_path: Path, version: ssl.TLSVersion, name: str
) -> None:
    """The bound is ours, and not only the security level of the OpenSSL that is there."""
    files = Files(tmp_path)
    server = context_of(Tls(certificate=tmp_path / "tls.crt", key=tmp_path / "tls.key"))
    server.set_ciphers("ALL:@SECLEVEL=0")
    if version is TLS_1_2:
        assert agree(only(files.client(), version), server) == name
    else:
        with pytest.raises(ssl.SSLError, match=r"(?i)protocol"):
            agree(only(files.client(), version), server)


# -- files that are replaced ------------------------------------------------------------------------------------------


@asynccontextmanager
async def serial(port: int, client: ssl.SSLContext) -> AsyncIterator[tuple[str, Client]]:
    """The serial number of the certificate that a new connection sees, and the connection."""
    async with connected(port, tls=client) as connection:
        yield str(connection.writer.get_extra_info("peercert")["serialNumber"]), connection


@on_both_loops
async def test_a_replaced_certificate_is_used_without_a_restart(tmp_path: Path) -> None:
    """Connections that are open stay; new ones see the new one; files that do not fit leave the old one in use."""
    files = Files(tmp_path)
    async with listening(hello, None, files.server()) as port:
        async with serial(port, files.client()) as (before, opened):
            assert (await opened.ask()).body == b"hello"
            files.issue()

            async def is_new() -> bool:
                async with serial(port, files.client()) as (now, _):
                    return now != before

            await eventually(is_new)
            assert (await opened.ask()).body == b"hello"
        async with serial(port, files.client()) as (after, _):
            pass
        with capture_logs() as logs:
            (tmp_path / "tls.key").write_bytes(b"no key")

            async def is_told() -> bool:
                return any(line["event"] == "tls.unusable" for line in logs)

            await eventually(is_told)
        async with serial(port, files.client()) as (now, connection):
            assert now == after
            assert (await connection.ask()).body == b"hello"
