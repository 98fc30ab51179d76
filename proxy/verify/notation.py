"""Notary Project signatures (notation): JWS and COSE envelopes judged by a trust store."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509


@dataclass(frozen=True, slots=True)
class NotationStore:
    """One entry of ``trust.notation``: certificates that are trusted, and whom of those they vouch for."""

    name: str
    ca: tuple[x509.Certificate, ...]
    tsa: tuple[x509.Certificate, ...]
    identities: tuple[str, ...]  #: as in the configuration: ``x509.subject: C=DE, ST=BE, O=acme``; none: anybody they vouch for
    #: Hash of all of it: changes whenever an old verdict would no longer answer the question.
    identity: str
