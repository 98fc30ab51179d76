"""Addresses, references and trust."""

from __future__ import annotations

import asyncio
import errno
import socket
from pathlib import Path
from typing import Any

import aiohttp.abc
import pytest
import trustme
from yarl import URL

from proxy.errors import UpstreamMisbehaved, UpstreamUnavailable
from proxy.settings import ClientCertificate, Upstream
from proxy.upstream.failures import PrivateAddress
from proxy.upstream.network import GuardedResolver, guarded_socket, is_public, resolved, tls_context


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("255.255.255.255", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("198.18.0.1", False),
        ("::", False),
        ("::1", False),
        ("fe80::1", False),
        ("fe80::1%eth0", False),
        ("fc00::1", False),
        ("fec0::1", False),
        ("ff0e::1", False),
        ("2001:db8::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("::127.0.0.1", False),
        ("2002:7f00:1::", False),
        ("2002:808:808::", True),
        ("64:ff9b::10.0.0.1", False),
        ("64:ff9b::8.8.8.8", True),
        ("64:ff9b:1::8.8.8.8", False),
    ],
)
def test_promise_23_public_addresses(address: str, public: bool) -> None:
    """Loopback, private, link-local, shared, reserved and multicast addresses are not public, in whatever disguise."""
    assert is_public(address) is public


class Names(aiohttp.abc.AbstractResolver):
    """A resolver with fixed answers; a number is how long it takes."""

    def __init__(self, *answers: str | float) -> None:
        self.answers = answers
        self.closed = False

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_INET) -> list[aiohttp.abc.ResolveResult]:
        """Answer after sleeping."""
        for each in self.answers:
            if not isinstance(each, str):
                await asyncio.sleep(each)
        return [
            {"hostname": host, "host": each, "port": port, "family": family, "proto": 0, "flags": 0}
            for each in self.answers
            if isinstance(each, str)
        ]

    async def close(self) -> None:
        """Note it."""
        self.closed = True


async def test_promise_23_names_are_judged_by_their_addresses() -> None:
    """Private addresses are dropped from an answer; an answer of nothing else is an error that shows them."""
    found = await GuardedResolver(False, 1.0, Names("10.0.0.1", "8.8.8.8")).resolve("x.example", 443)
    assert [each["host"] for each in found] == ["8.8.8.8"]
    with pytest.raises(PrivateAddress, match=r"127\.0\.0\.1, ::1"):
        await GuardedResolver(False, 1.0, Names("127.0.0.1", "::1")).resolve("x.example", 443)
    with pytest.raises(PrivateAddress):
        await GuardedResolver(True, 1.0, Names()).resolve("x.example", 443)
    assert len(await GuardedResolver(True, 1.0, Names("127.0.0.1", "::1")).resolve("x.example", 443)) == 2


async def test_a_name_server_that_does_not_answer() -> None:
    """Resolving has its own timeout."""
    resolver = GuardedResolver(False, 0.02, names := Names(30.0))
    with pytest.raises(OSError, match="no answer within") as caught:
        await resolver.resolve("x.example", 443)
    assert caught.value.errno == errno.ETIMEDOUT
    await resolver.close()
    assert names.closed


async def test_promise_23_the_address_that_is_dialled_is_judged_too() -> None:
    """No socket comes to exist for an address that may not be dialled."""
    info: Any = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", 443))
    with pytest.raises(PrivateAddress):
        guarded_socket(False)(info)
    guarded_socket(True)(info).close()


HERE = URL("https://reg.example/v2/a/blobs/x?y=1", encoded=True)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("https://cdn.example/a%2Fb%2fc?sig=a%2Bb%2F%3D&x=+~", "https://cdn.example/a%2Fb%2fc?sig=a%2Bb%2F%3D&x=+~"),
        ("/artifacts-downloads/a%2Fb?z=%7E", "https://reg.example/artifacts-downloads/a%2Fb?z=%7E"),
        ("//cdn.example/p", "https://cdn.example/p"),
        ("?n=1&last=%2F", "https://reg.example/v2/a/blobs/x?n=1&last=%2F"),
        ("https://cdn.example/p#frag", "https://cdn.example/p"),
    ],
)
def test_references_are_resolved_byte_for_byte(text: str, target: str) -> None:
    """Absolute, relative and scheme-relative references, whose escapes stay as they are."""
    assert str(resolved(HERE, text, "a redirect")) == target


@pytest.mark.parametrize(
    "text",
    [
        "",
        "https://exa mple/",
        "https://x/\r\nEvil: 1",
        "https://x/é",
        "ftp://x/",
        "https:///x",
        "https://[::1/",
        "https://x:99999/",
        "https://x:0/",
        "https://u:p@x/",
        "https://u@x/",
        "file:///etc/passwd",
        "http://x/",
        "x" * 9000,
        "http:x",
        "javascript:alert(1)",
    ],
)
def test_promise_23_references_that_are_refused(text: str) -> None:
    """No URL, another scheme, a user inside, or down from https to http."""
    with pytest.raises(UpstreamMisbehaved, match=r"reg\.example sent a redirect"):
        resolved(HERE, text, "a redirect")


def test_plain_http_may_go_on_plain_or_up() -> None:
    """From http both schemes are allowed; ``downward`` leaves the judgement to the caller."""
    plain = URL("http://reg.example/")
    assert str(resolved(plain, "http://x/", "a redirect")) == "http://x/"
    assert str(resolved(plain, "https://x/", "a redirect")) == "https://x/"
    assert str(resolved(HERE, "http://x/", "a realm", downward=True)) == "http://x/"


def test_files_that_tls_cannot_use(tmp_path: Path) -> None:
    """A missing or broken authority or certificate is said to be so, by name."""
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    for path in (tmp_path / "missing.pem", broken):
        with pytest.raises(UpstreamUnavailable, match=r"`ca` of upstream reg\.example, .*\.pem, cannot be used"):
            tls_context("reg.example", Upstream(ca=path), client_certificate=False)
    pair = Upstream(client_certificate=ClientCertificate(cert=broken, key=broken))
    with pytest.raises(UpstreamUnavailable, match=r"client certificate of upstream reg\.example"):
        tls_context("reg.example", pair, client_certificate=True)
    tls_context("reg.example", pair, client_certificate=False)


def test_an_encrypted_key_does_not_ask_for_a_password(tmp_path: Path) -> None:
    """It is refused with words instead of waiting at the terminal."""
    from cryptography.hazmat.primitives import serialization

    issued = trustme.CA().issue_cert("x@y.example")
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"pw")
    )
    (tmp_path / "key.pem").write_bytes(encrypted)
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    pair = ClientCertificate(cert=tmp_path / "cert.pem", key=tmp_path / "key.pem")
    with pytest.raises(UpstreamUnavailable, match="the key is encrypted"):
        tls_context("reg.example", Upstream(client_certificate=pair), client_certificate=True)
