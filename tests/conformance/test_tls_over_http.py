"""TLS for clients: versions, certificates that are replaced while it runs, client certificates, unfinished handshakes."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
import trustme
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID
from structlog.testing import capture_logs

from proxy.settings import Limits, Tls
from proxy.web.listener import Listener
from proxy.web.tls import ServerTls
from tests.harness import Proxy
from tests.simulator.registry import Registry
from tests.tools import PATIENCE, SOON

RULES = 'rules: [{match: "**", require: first-use}]\n'


class Files:
    """A server's certificate and an authority for clients, as files that may be replaced."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = trustme.CA()
        self.clients = trustme.CA()
        folder.mkdir(parents=True, exist_ok=True)
        self.issue()
        self.clients.cert_pem.write_to_path(str(folder / "clients.pem"))

    def issue(self, ca: trustme.CA | None = None) -> bytes:
        """Write a new certificate; its serial number is new, too."""
        issued = (ca or self.ca).issue_cert("127.0.0.1", "localhost")
        fresh = self.folder / "fresh"
        fresh.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        os.replace(fresh, self.folder / "tls.crt")
        fresh.write_bytes(issued.private_key_pem.bytes())
        os.replace(fresh, self.folder / "tls.key")
        return issued.cert_chain_pems[0].bytes()

    def client(self, name: str | None = None, ca: trustme.CA | None = None) -> ssl.SSLContext:
        """What a client trusts, and the certificate it has."""
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        if name is not None:
            (ca or self.clients).issue_cert(name).configure_cert(context)
        return context


def proxy_of(files: Files, upstream: Registry, more: str = "", client: ssl.SSLContext | None = None, top: str = "") -> Proxy:
    """A proxy with TLS."""
    tls = f"tls: {{certificate: tls.crt, key: tls.key{more}}}\n"
    return Proxy(files.folder, upstream, rules=RULES, top=tls + top, tls=client or files.client())


async def test_everything_is_served_over_tls(tmp_path: Path) -> None:
    """Manifests, blobs, slices and refusals, with the bytes as they are."""
    files = Files(tmp_path)
    async with Registry() as upstream, proxy_of(files, upstream) as proxy:
        image = upstream.image("team/app", "v1", layer_size=3_000_000)
        layer = image.blobs[1]
        assert (await proxy.manifest("team/app", "v1")).body == image.body
        assert (await proxy.blob("team/app", layer.digest)).body == layer.data
        assert (await proxy.blob("team/app", layer.digest)).body == layer.data
        part = await proxy.blob("team/app", layer.digest, Range="bytes=1000-1999")
        assert (part.status, part.body) == (206, layer.data[1000:2000])
        assert (await proxy.manifest("team/app", "none")).status == 404


@pytest.mark.parametrize(("least", "accepted"), [("1.2", True), ("1.3", False)])
async def test_versions(tmp_path: Path, least: str, accepted: bool) -> None:
    """TLS 1.2 is the oldest that is ever spoken, and may be turned off; 1.1 never is."""
    files = Files(tmp_path)
    async with Registry() as upstream, proxy_of(files, upstream, f", min_version: '{least}'") as proxy:
        for newest in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = files.client()
            context.maximum_version = newest
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
                if accepted or newest is ssl.TLSVersion.TLSv1_3:
                    assert (await session.get(f"{proxy.url}/v2/")).status == 200
                else:
                    with pytest.raises(aiohttp.ClientConnectorError):
                        await session.get(f"{proxy.url}/v2/")


async def served_serial(proxy: Proxy, context: ssl.SSLContext) -> str:
    """The serial number of the certificate that a new connection sees."""
    _, _, port = proxy.url.rpartition(":")
    _, writer = await asyncio.open_connection("127.0.0.1", int(port), ssl=context)
    serial = str(writer.get_extra_info("peercert")["serialNumber"])
    writer.close()
    return serial


async def test_a_replaced_certificate_is_used_without_a_restart(tmp_path: Path) -> None:
    """Connections that are open stay; new ones see the new one; files that do not fit leave the old one in use."""
    files = Files(tmp_path)
    async with Registry() as upstream, proxy_of(files, upstream) as proxy:
        upstream.image("team/app", "v1")
        context = files.client()
        before = await served_serial(proxy, context)
        assert (await proxy.manifest("team/app", "v1")).status == 200
        files.issue()
        async with asyncio.timeout(30):
            while await served_serial(proxy, context) == before:
                await asyncio.sleep(0.1)
        after = await served_serial(proxy, context)
        assert (await proxy.manifest("team/app", "v1")).status == 200
        with capture_logs() as logs:
            (files.folder / "tls.key").write_bytes(b"no key")
            async with asyncio.timeout(30):
                while not (told := [line for line in logs if line["event"] == "tls.unusable"]):
                    await asyncio.sleep(0.1)
        assert (told[0]["log_level"], told[0]["kept"]) == ("error", "the files as they were")
        assert str(files.folder / "tls.key") in told[0]["error"]
        assert await served_serial(proxy, context) == after


async def test_client_certificates(tmp_path: Path) -> None:
    """Required: without one, or with a stranger's, there is no connection; the name in it is a principal."""
    files = Files(tmp_path)
    access = 'access: {rules: [{who: ["certificate:dns:node-*.example"], pull: ["reg.example/team/**"]}]}\n'
    more = ", client_ca: clients.pem"
    async with Registry() as upstream, proxy_of(files, upstream, more, files.client("node-7.example"), access) as proxy:
        upstream.image("team/app", "v1")
        upstream.image("other/app", "v1")
        assert (await proxy.manifest("team/app", "v1")).status == 200
        assert (await proxy.manifest("other/app", "v1")).status == 403
        for context, status in (
            (files.client("laptop.example"), 403),
            (files.client(), None),
            (files.client("node-7.example", trustme.CA()), None),
        ):
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
                url = f"{proxy.url}/v2/reg.example/team/app/manifests/v1"
                if status is None:
                    with pytest.raises(aiohttp.ClientError):
                        await session.get(url)
                else:
                    assert (await session.get(url)).status == status


async def test_optional_client_certificates(tmp_path: Path) -> None:
    """Whoever has none is anonymous; a stranger's is still turned away."""
    files = Files(tmp_path)
    access = 'access: {rules: [{who: ["certificate:**"], pull: ["**"]}, {who: [anyone], pull: ["reg.example/open/**"]}]}\n'
    more = ", client_ca: clients.pem, client_certificates: optional"
    async with Registry() as upstream, proxy_of(files, upstream, more, files.client(), access) as proxy:
        upstream.image("team/app", "v1")
        upstream.image("open/app", "v1")
        assert (await proxy.manifest("open/app", "v1")).status == 200
        reply = await proxy.manifest("team/app", "v1")
        assert (reply.status, "anonymous may not pull" in reply.error["message"]) == (403, True)
        known, stranger = files.client("a.example"), files.client("a.example", trustme.CA())
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=known)) as session:
            assert (await session.get(f"{proxy.url}/v2/reg.example/team/app/manifests/v1")).status == 200
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=stranger)) as session:
            with pytest.raises(aiohttp.ClientError):
                await session.get(f"{proxy.url}/v2/reg.example/open/app/manifests/v1")


@pytest.mark.parametrize("version", ["1.2", "1.3"])
async def test_an_authority_that_was_taken_out_vouches_for_nobody(tmp_path: Path, version: str) -> None:
    """Neither by a new connection, nor by one that is open, nor by a session of TLS that is resumed."""
    files = Files(tmp_path)
    access = 'access: {rules: [{who: ["certificate:**"], pull: ["**"]}]}\n'
    client = files.client("node-7.example")
    client.maximum_version = ssl.TLSVersion.TLSv1_2 if version == "1.2" else ssl.TLSVersion.TLSv1_3
    path = "/v2/reg.example/team/app/manifests/v1"
    async with Registry() as upstream, proxy_of(files, upstream, ", client_ca: clients.pem", client, access) as proxy:
        upstream.image("team/app", "v1")
        assert (await proxy.manifest("team/app", "v1")).status == 200
        port = int(proxy.url.rpartition(":")[2])
        session, status = await asyncio.to_thread(asked, client, port, path, None)
        assert status == 200
        opened = await asyncio.to_thread(connected, client, port)
        assert await asyncio.to_thread(ask_on, opened, path) == 200
        trustme.CA().cert_pem.write_to_path(str(files.folder / "clients.pem"))

        async def refused() -> bool:
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=client)) as http:
                try:
                    return (await http.get(f"{proxy.url}{path}")).status != 200
                except aiohttp.ClientError:
                    return True

        async with asyncio.timeout(PATIENCE):
            while not await refused():
                await asyncio.sleep(0.1)
        assert (await asyncio.to_thread(asked, client, port, path, session))[1] is None
        assert await asyncio.to_thread(ask_on, opened, path) is None
        opened.close()


def connected(context: ssl.SSLContext, port: int, session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
    """A connection, which resumes a session where it may."""
    plain = socket.create_connection(("127.0.0.1", port), timeout=10)
    try:
        return context.wrap_socket(plain, server_hostname="127.0.0.1", session=session)
    except OSError:
        plain.close()
        raise


def ask_on(connection: ssl.SSLSocket, path: str) -> int | None:
    """The status of an answer; None when the connection is no more."""
    try:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head = connection.recv(1 << 16)
        while head and len(head) < 500:  # the manifest of these tests has as many bytes
            head += connection.recv(1 << 16)
    except TimeoutError:
        raise
    except OSError:
        return None
    return int(head[9:12]) if head else None


def asked(
    context: ssl.SSLContext, port: int, path: str, session: ssl.SSLSession | None
) -> tuple[ssl.SSLSession | None, int | None]:
    """What a connection of its own is answered, and the session that could be resumed."""
    try:
        with connected(context, port, session) as connection:
            status = ask_on(connection, path)
            session = connection.session
            connection.unwrap()  # a session that ends without a word is not to be resumed
            return session, status
    except OSError:
        return None, None


@pytest.mark.parametrize(
    ("name", "principal"),
    [
        ("spiffe://corp/ns/web", "certificate:cn:spiffe://corp/ns/web"),
        ("node-7.example", "certificate:cn:node-7.example"),
        ("a\x1b[31mb", None),
        ("x" * 60, f"certificate:cn:{'x' * 60}"),
    ],
)
async def test_the_kind_of_a_name_is_part_of_it(tmp_path: Path, name: str, principal: str | None) -> None:
    """A common name is none of the names that authorities check, whatever it looks like; one that cannot be shown is none."""
    files = Files(tmp_path)
    access = 'access: {rules: [{who: ["certificate:uri:**", "certificate:dns:**", "certificate:email:**"], pull: ["**"]}]}\n'
    context = files.client()
    certificate, key = common_name(files, tmp_path, name)
    context.load_cert_chain(certificate, key)
    async with Registry() as upstream, proxy_of(files, upstream, ", client_ca: clients.pem", context, access) as proxy:
        upstream.image("team/app", "v1")
        reply = await proxy.manifest("team/app", "v1")
        assert reply.status == 403
        assert f"{principal or 'anonymous'} may not pull" in reply.error["message"]


def common_name(files: Files, folder: Path, name: str) -> tuple[Path, Path]:
    """A client certificate with nothing but a common name."""
    key = ec.generate_private_key(ec.SECP256R1())
    authority = x509.load_pem_x509_certificate(files.clients.cert_pem.bytes())
    signer = load_pem_private_key(files.clients.private_key_pem.bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .sign(signer, hashes.SHA256())
    )
    paths = folder / "named.pem", folder / "named.key"
    paths[0].write_bytes(certificate.public_bytes(Encoding.PEM))
    paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return paths


async def test_promise_32_an_unfinished_handshake_is_ended(tmp_path: Path) -> None:
    """Who connects and says nothing is cut off; others are served meanwhile."""
    files = Files(tmp_path)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text="ok")

    tls = ServerTls(Tls(certificate=tmp_path / "tls.crt", key=tmp_path / "tls.key"))
    listener = Listener(answer, "127.0.0.1", 0, Limits(client_first_timeout=0.5), tls=tls)
    await listener.start()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=files.client())) as session:
            assert (await session.get(f"https://127.0.0.1:{listener.port}/")).status == 200
        async with asyncio.timeout(SOON):
            assert await reader.read() == b""
        writer.close()
    finally:
        await listener.close()


async def test_the_token_endpoint_is_named_by_https(tmp_path: Path) -> None:
    """The challenge of a listener with TLS leads to a listener with TLS."""
    files = Files(tmp_path)
    (files.folder / "users").write_text("alice:$2b$04$" + "." * 53 + "\n")
    async with Registry() as upstream, proxy_of(files, upstream, top="access: {htpasswd: users}\n") as proxy:
        reply = await proxy.get("/v2/")
        assert reply.status == 401
        assert f'realm="{proxy.url}/token"' in reply.headers["WWW-Authenticate"]
        assert json.loads(reply.body)["errors"][0]["code"] == "UNAUTHORIZED"
