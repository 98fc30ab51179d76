"""The network's rules: which addresses may be dialled, which redirects may be followed, whom TLS trusts.

The address is checked after the name was resolved, at the very addresses that are dialled: :class:`GuardedResolver` drops
those that are not public, and :func:`guarded_socket` looks again at each address, literals in URLs among them, before a socket
for it exists.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import re
import socket
import ssl
from collections.abc import Callable

import aiohttp.abc
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from proxy.errors import UpstreamMisbehaved, UpstreamUnavailable
from proxy.settings import Upstream
from proxy.upstream.failures import PrivateAddress, clean, host_of, place

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_LOCATION = re.compile(r"[\x21-\x7e]{1,8190}", re.ASCII)

#: (family, type, protocol, canonical name, address): what aiohttp dials.
AddressInfo = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[str, int] | tuple[str, int, int, int]]


def is_public(text: str) -> bool:
    """Whether an IP address is one of the public Internet; IPv4 addresses inside IPv6 ones are judged themselves."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not address.is_multicast
    inner = address.ipv4_mapped or address.sixtofour
    if inner is None and address in _NAT64:
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if inner is not None:
        return is_public(str(inner))
    return address in _GLOBAL_UNICAST and address.is_global


def guarded_socket(allow_private: bool) -> Callable[[AddressInfo], socket.socket]:
    """Make sockets for addresses that may be dialled; raises :class:`PrivateAddress` for the others."""

    def make(info: AddressInfo) -> socket.socket:
        family, kind, protocol, _, address = info
        if not allow_private and not is_public(address[0]):
            raise PrivateAddress(address[0])
        return socket.socket(family, kind, protocol)

    return make


class GuardedResolver(aiohttp.abc.AbstractResolver):
    """Resolves names to addresses that may be dialled, within ``timeout`` seconds."""

    def __init__(self, allow_private: bool, timeout: float, inner: aiohttp.abc.AbstractResolver | None = None) -> None:
        self._allow_private = allow_private
        self._timeout = timeout
        self._inner = inner or ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[aiohttp.abc.ResolveResult]:
        """Addresses of ``host``. Raises :class:`PrivateAddress` when none of them may be dialled, other OSErrors as they are."""
        try:
            async with asyncio.timeout(self._timeout):
                found = await self._inner.resolve(host, port, family)
        except TimeoutError:
            raise OSError(errno.ETIMEDOUT, f"no answer within {self._timeout:g} s") from None
        allowed = [each for each in found if self._allow_private or is_public(each["host"])]
        if not allowed:
            raise PrivateAddress(", ".join(each["host"] for each in found[:3]) or "no address")
        return allowed

    async def close(self) -> None:
        """Close the resolver inside."""
        await self._inner.close()


def resolved(current: URL, text: str, what: str, *, downward: bool = False) -> URL:
    """``text``, a reference in an answer from ``current``, as an absolute URL whose escapes stay byte for byte as they were.

    Raises :class:`UpstreamMisbehaved` for what is no http(s) URL, carries a user, or, unless ``downward``, goes down to http.
    """
    host = host_of(current)
    if not _LOCATION.fullmatch(text):
        raise UpstreamMisbehaved(f"{host} sent {what} that is no URL: {clean(text, 80)}")
    try:
        target = URL(text, encoded=True)
        target = target if target.scheme else current.join(target)
        proper = target.scheme in {"http", "https"} and bool(target.raw_host) and target.port != 0
    except ValueError:  # also from the properties: host and port are parsed when first looked at
        target, proper = current, False
    if not proper:
        raise UpstreamMisbehaved(f"{host} sent {what} that is no http(s) URL: {clean(text, 80)}")
    if target.raw_user is not None or target.raw_password is not None:
        raise UpstreamMisbehaved(f"{host} sent {what} with a user in it, to {place(target)}")
    if target.scheme == "http" and current.scheme != "http" and not downward:
        raise UpstreamMisbehaved(f"{host} sent {what} from https down to plain http, to {place(target)}")
    return target.with_fragment(None) if target.raw_fragment else target


def tls_context(name: str, upstream: Upstream, *, client_certificate: bool) -> ssl.SSLContext:
    """Whom to trust, and what to show. Reads files: call it in a thread.

    Raises :class:`UpstreamUnavailable` when a file is missing or is not what it should be.
    """
    try:
        context = ssl.create_default_context(cafile=upstream.ca and str(upstream.ca))
    except (OSError, ValueError) as error:
        raise UpstreamUnavailable(
            f"the `ca` of upstream {name}, {upstream.ca}, cannot be used: {clean(str(error), 120)}"
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if client_certificate and upstream.client_certificate is not None:
        pair = upstream.client_certificate
        try:
            context.load_cert_chain(pair.cert, pair.key, password=_no_password)
        except (OSError, ValueError) as error:
            raise UpstreamUnavailable(
                f"the client certificate of upstream {name}, {pair.cert}, cannot be used: {clean(str(error), 120)}"
            ) from error
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted; give one without a password")
