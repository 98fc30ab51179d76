"""The address at which clients reach Tagstone, and the versions of clients: parsed once, from what a person wrote."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from proxy.schema import Address
from storage.errors import MalformedName
from storage.reference import parse_registry

_RELEASE = re.compile(r"v?(\d{1,4})(?:\.(\d{1,4})(?:\.(\d{1,4}))?)?(?:[-+~][0-9A-Za-z.+~-]{0,60})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """``scheme://host``; ``host`` carries the port where it is not the scheme's own, and brackets around IPv6."""

    scheme: str  #: ``http`` or ``https``
    host: str

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read a URL. Raises ValueError with the way out."""
        try:
            parts = urlsplit(text)
        except ValueError:
            parts = urlsplit("")
        if not text.isprintable() or parts == urlsplit(""):  # urlsplit drops line breaks and tabs
            raise ValueError(f"{text[:100]!r} is not an address: write https://host or https://host:port")
        if "://" not in text:
            raise ValueError(f"{text[:100]!r} has no scheme: write https://{text[:100]}, or http:// where there is no TLS")
        if parts.scheme not in ("http", "https"):
            raise ValueError(f"{text[:100]!r} has another scheme than https and http")
        if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError(f"{text[:100]!r} is more than an address: write {parts.scheme}://host or {parts.scheme}://host:port")
        try:
            parse_registry(parts.netloc)
        except MalformedName:
            raise ValueError(f"{text[:100]!r} is not an address: write https://host or https://host:port") from None
        return cls(parts.scheme, parts.netloc.lower())

    @classmethod
    def guess(cls, listen: Address, machine: str, *, tls: bool) -> Endpoint:
        """From where Tagstone listens; a listener on every address is reached by the name of its machine. Raises ValueError."""
        try:
            anywhere = ipaddress.ip_address(listen.host).is_unspecified
        except ValueError:
            anywhere = False
        scheme = "https" if tls else "http"
        return cls.parse(f"{scheme}://{Address(machine if anywhere else listen.host, listen.port)}")

    @property
    def url(self) -> str:
        """As clients are told."""
        return f"{self.scheme}://{self.host}"

    @property
    def plain(self) -> bool:
        """Whether it speaks HTTP without TLS."""
        return self.scheme == "http"

    @property
    def name(self) -> str:
        """The host without its port, IPv6 without brackets."""
        bare = self.host if self.host.endswith("]") else self.host.rpartition(":")[0] or self.host
        return bare.strip("[]")

    @property
    def port(self) -> int:
        """The port, the scheme's own where none is written."""
        number = "" if self.host.endswith("]") else self.host.rpartition(":")[2] if ":" in self.host else ""
        return int(number) if number else {"http": 80, "https": 443}[self.scheme]

    @property
    def address(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The IP address, where it is written as one."""
        try:
            return ipaddress.ip_address(self.name)
        except ValueError:
            return None

    @property
    def loopback(self) -> bool:
        """Whether only clients on the same machine reach it."""
        return self.name == "localhost" or (self.address is not None and self.address.is_loopback)


@dataclass(frozen=True, slots=True, order=True)
class Release:
    """A version of a client, as far as it decides which form of configuration it reads."""

    major: int
    minor: int = 0
    patch: int = 0

    @classmethod
    def parse(cls, text: str) -> Release:
        """Read ``1.7``, ``v2.1.4``, ``28``, ``20.10.24+dfsg1`` or ``v1.31.6+k3s1``. Raises ValueError."""
        found = _RELEASE.fullmatch(text)
        if found is None:
            raise ValueError(f"{text[:60]!r} is not a version: write 1.7 or 28.5.2")
        return cls(*(int(number or 0) for number in found.groups()))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"
