"""Roots of trust for certificates: who may issue them, which logs and timestamp authorities are believed, and when."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import files
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519

from proxy.verify.keys import PublicKey, spki


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

    @property
    def spki_sha256(self) -> bytes:
        """Hash of the key as DER SubjectPublicKeyInfo: what the id of a log of RFC 6962, or of Rekor v1, is."""
        return hashlib.sha256(spki(self.key)).digest()


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
    #: Why no new decision is made by it now. No part of :attr:`identity`: what was decided before goes on to count.
    suspended: str | None = None
    fresh_until: datetime | None = None  #: the last moment of new decisions, where the operator demands that it is refreshed

    def unusable(self, now: datetime) -> str | None:
        """Why nothing new may be decided by this root at ``now``; None when something may."""
        if self.suspended is None and self.fresh_until is not None and now > self.fresh_until:
            return f"makes no new decisions: it has not been refreshed, and its TUF metadata expired {_when(self.fresh_until)}"
        return None if self.suspended is None else f"makes no new decisions: {self.suspended}"

    @classmethod
    def load(cls, name: str, body: bytes, demands: Demands) -> Root:
        """Read a Sigstore trusted root (JSON, media types v0.1 and v0.2).

        Raises :class:`ValueError` with words for the person who wrote the configuration: also when the root has nothing by
        which a demand could be met.
        """
        from proxy.verify import rootfiles  # it builds these values, so it cannot be imported before they are there

        return rootfiles.load(name, body, demands)

    @classmethod
    def of_ca(cls, name: str, pems: Sequence[bytes], demands: Demands, tsa: Sequence[bytes] = ()) -> Root:
        """A root of one's own certificates: PEM files of authorities (roots, intermediates), and of timestamp authorities.

        There is no log and no certificate transparency in these, so nothing of the kind can be demanded. Raises
        :class:`ValueError` with words for the person who wrote the configuration.
        """
        from proxy.verify import rootfiles

        return rootfiles.of_ca(name, pems, demands, tsa)


def _when(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def note_key_id(origin: str, key: ed25519.Ed25519PublicKey) -> bytes:
    """The id of an Ed25519 key in signed notes (C2SP signed-note, "Signatures"), not yet cut to its first four bytes."""
    return hashlib.sha256(origin.encode("utf-8", "surrogatepass") + b"\n\x01" + key.public_bytes_raw()).digest()


#: The TUF repository of the public-good Sigstore instance.
PUBLIC_GOOD = "https://tuf-repo-cdn.sigstore.dev"


def public_good(file: str = "trusted_root.json") -> bytes:
    """The trusted root of the public-good Sigstore instance, as the installed ``sigstore`` distribution carries it.

    ``root.json``: the TUF root metadata beside it, by which :data:`PUBLIC_GOOD` is first believed.
    """
    store = files("sigstore._store")  # two empty modules: nothing heavy is imported
    return store.joinpath(quote(PUBLIC_GOOD, safe=""), file).read_bytes()
