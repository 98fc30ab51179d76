"""TLS for clients: versions, certificates that are replaced while it runs, client certificates, unfinished handshakes."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from pathlib import Path

import aiohttp
import pytest
import trustme
from aiohttp import web

from proxy.settings import Limits, Tls
from proxy.web.listener import Listener
from proxy.web.tls import ServerTls
from tests.harness import Proxy
from tests.simulator.registry import Registry

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
        async with asyncio.timeout(15):
            while await served_serial(proxy, context) == before:
                await asyncio.sleep(0.1)
        after = await served_serial(proxy, context)
        assert (await proxy.manifest("team/app", "v1")).status == 200
        (files.folder / "tls.key").write_bytes(b"no key")
        await asyncio.sleep(2.5)
        assert await served_serial(proxy, context) == after


async def test_client_certificates(tmp_path: Path) -> None:
    """Required: without one, or with a stranger's, there is no connection; the name in it is a principal."""
    files = Files(tmp_path)
    access = 'access: {rules: [{who: ["certificate:node-*.example"], pull: ["reg.example/team/**"]}]}\n'
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


async def test_an_authority_that_was_taken_out_vouches_for_nobody(tmp_path: Path) -> None:
    """The file of authorities is read again, too, and no old session of TLS is resumed past it."""
    files = Files(tmp_path)
    access = 'access: {rules: [{who: ["certificate:**"], pull: ["**"]}]}\n'
    client = files.client("node-7.example")
    async with Registry() as upstream, proxy_of(files, upstream, ", client_ca: clients.pem", client, access) as proxy:
        upstream.image("team/app", "v1")
        assert (await proxy.manifest("team/app", "v1")).status == 200
        trustme.CA().cert_pem.write_to_path(str(files.folder / "clients.pem"))

        async def refused() -> bool:
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=client)) as session:
                try:
                    return (await session.get(f"{proxy.url}/v2/reg.example/team/app/manifests/v1")).status != 200
                except aiohttp.ClientError:
                    return True

        async with asyncio.timeout(15):
            while not await refused():
                await asyncio.sleep(0.1)


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
        async with asyncio.timeout(10):
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
