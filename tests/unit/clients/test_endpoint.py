"""The address of Tagstone and versions of clients, as people write them."""

from __future__ import annotations

import pytest

from proxy.clients.endpoint import Endpoint, Release
from proxy.schema import Address


@pytest.mark.parametrize(
    ("text", "url", "name", "port", "loopback"),
    [
        ("https://proxy.example", "https://proxy.example", "proxy.example", 443, False),
        ("https://Proxy.Example:5000/", "https://proxy.example:5000", "proxy.example", 5000, False),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000", "127.0.0.1", 5000, True),
        ("http://localhost", "http://localhost", "localhost", 80, True),
        ("https://[fd00::1]:5000", "https://[fd00::1]:5000", "fd00::1", 5000, False),
        ("https://[::1]", "https://[::1]", "::1", 443, True),
    ],
)
def test_an_address_is_read(text: str, url: str, name: str, port: int, loopback: bool) -> None:
    """Scheme, host and port, spelled one way."""
    endpoint = Endpoint.parse(text)
    assert (endpoint.url, endpoint.name, endpoint.port, endpoint.loopback) == (url, name, port, loopback)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("proxy.example:5000", "write https://proxy.example:5000"),
        ("ftp://proxy.example", "another scheme"),
        ("https://proxy.example/v2", "more than an address"),
        ("https://user@proxy.example", "more than an address"),
        ("https://proxy.example?x", "more than an address"),
        ("https://", "is not an address"),
        ("https://proxy.example:99999", "is not an address"),
        ('https://proxy"\n[host]', "is not an address"),
        ("https://[::1", "is not an address"),
        ("https://pro\nxy.example", "is not an address"),
        ("", "is not an address"),
        ("https://Kelvin.example", "is not an address"),
    ],
)
def test_what_is_no_address_is_refused_with_the_way_out(text: str, told: str) -> None:
    """Nothing that would mean another place, or another thing, gets into a file."""
    with pytest.raises(ValueError, match=told):
        Endpoint.parse(text)


@pytest.mark.parametrize(
    ("listen", "tls", "url"),
    [
        ("127.0.0.1:5000", False, "http://127.0.0.1:5000"),
        ("0.0.0.0:5000", True, "https://node-1:5000"),
        ("[::]:443", False, "http://node-1:443"),
        ("[fd00::1]:5000", True, "https://[fd00::1]:5000"),
        ("proxy.example:5000", False, "http://proxy.example:5000"),
    ],
)
def test_the_guess_follows_the_listener(listen: str, tls: bool, url: str) -> None:
    """An address of every interface is nobody's: then it is the machine's name."""
    assert Endpoint.guess(Address.parse(listen), "node-1", tls=tls).url == url


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("1.7", Release(1, 7)),
        ("v2.1.4", Release(2, 1, 4)),
        ("28", Release(28)),
        ("20.10.24+dfsg1", Release(20, 10, 24)),
        ("v1.31.6+k3s1", Release(1, 31, 6)),
        ("1.6.20~ds1-1+deb12u3", Release(1, 6, 20)),
    ],
)
def test_a_version_is_read_as_clients_print_it(text: str, release: Release) -> None:
    """What a distribution appends does not matter."""
    assert Release.parse(text) == release


@pytest.mark.parametrize("text", ["", "latest", "1.x", "1.7\n", "-1", "１"])
def test_what_is_no_version_is_refused(text: str) -> None:
    """Rather than taken for an old one."""
    with pytest.raises(ValueError, match="is not a version"):
        Release.parse(text)
