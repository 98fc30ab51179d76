"""Roots of trust for certificates: who may issue them, which logs and timestamp authorities are believed, and when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class Window:
    """A closed interval of time (aware datetimes; None: open on that side)."""

    start: datetime | None = None
    end: datetime | None = None

    def holds(self, moment: datetime) -> bool:
        """Whether ``moment`` lies inside; both ends belong to it."""
        return (self.start is None or self.start <= moment) and (self.end is None or moment <= self.end)


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate chain, issuer first and root last, and when it is believed: a CA, or a timestamp authority."""

    chain: tuple[x509.Certificate, ...]
    window: Window
    uri: str = ""


@dataclass(frozen=True, slots=True)
class LogKey:
    """The public key of a transparency log, and when it is believed."""

    log_id: bytes
    key: PublicKey = field(repr=False)
    window: Window
    url: str = ""


@dataclass(frozen=True, slots=True)
class Demands:
    """What the operator demands of evidence under a root. The evidence itself never chooses."""

    log: bool = True  #: an entry in one of the root's logs
    sct: bool = True  #: a certificate transparency timestamp in the certificate
    timestamp: bool = False  #: an RFC 3161 timestamp by one of the root's authorities


@dataclass(frozen=True, slots=True)
class Root:
    """One entry of ``trust.roots``."""

    name: str
    authorities: tuple[Authority, ...]
    logs: Mapping[bytes, LogKey]  #: by log id
    ct_logs: Mapping[bytes, LogKey]  #: by log id
    timestamp_authorities: tuple[Authority, ...]
    demands: Demands
    #: Hash of all of it: changes whenever an old verdict would no longer answer the question.
    identity: str
    #: The trusted root as JSON, for the second verdict; None for certificates of one's own.
    document: bytes | None = field(default=None, repr=False)
