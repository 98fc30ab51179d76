"""Certificate revocation lists (RFC 5280, sections 5 and 6.3): what a list is for, and what it says. No I/O.

A list is signed by the issuer of the certificates it is about (indirect lists, signed by others, are not read), and says until
when it holds. One that is over still proves what it lists, but nothing about what it does not. A list that names a *freshest*
list is only the base: what changed since stands there.

Everything raises :class:`proxy.errors.EvidenceMalformed` with a text that continues "the answer …".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from cryptography import x509

from proxy.errors import EvidenceMalformed
from proxy.verify import chains
from proxy.verify.chains import foreign
from proxy.verify.ocsp import SKEW, Revoked
from proxy.verify.parsing import utc

_WHAT = "something"
_UNDERSTOOD = (
    x509.AuthorityKeyIdentifier,
    x509.CRLNumber,
    x509.DeltaCRLIndicator,
    x509.FreshestCRL,
    x509.IssuingDistributionPoint,
)
_E = TypeVar("_E", bound=x509.ExtensionType)


@dataclass(frozen=True, slots=True)
class CrlQuery:
    """A question for the list at ``url``, by this issuer."""

    url: str
    issuer: x509.Certificate
    private: bool  #: whether the server may be at a private address


@dataclass(frozen=True, slots=True)
class Point:
    """One place of a list: all names that it has, of which any may be asked. ``problem``: why it cannot be asked at all."""

    names: tuple[str, ...]
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Crl:
    """A list that its issuer signed. It holds until ``until``, which may be over."""

    parsed: x509.CertificateRevocationList = field(repr=False)
    until: datetime
    number: int | None
    since: int | None  #: number of the base list from which on this one, a delta, says what changed; None: it is a whole list
    scope: x509.IssuingDistributionPoint | None
    freshest: tuple[Point, ...]

    def refusal(self, certificate: x509.Certificate, point: Point) -> str | None:
        """Why this is no list for a certificate that names ``point``; None when it is (RFC 5280, section 6.3.3 (b))."""
        scope = self.scope
        if scope is None:
            return None
        authority = chains.is_authority(certificate)
        if scope.indirect_crl:
            return "is an indirect list"
        if scope.only_contains_attribute_certs or (scope.only_contains_user_certs and authority):
            return "is not about certificates of this kind"
        if scope.only_contains_ca_certs and not authority:
            return "is not about certificates of this kind"
        if scope.relative_name is not None:
            return "names its place in a way that is not read here"
        if scope.only_some_reasons is not None:
            return "is about some reasons only"
        if scope.full_name is not None and not {*_uris(scope.full_name)} & {*point.names}:
            return "is the list of another place"
        return None

    def entry(self, certificate: x509.Certificate) -> Revoked | None:
        """What the list says of a certificate; None where it is not listed."""
        with foreign(_WHAT):
            found = self.parsed.get_revoked_certificate_by_serial_number(certificate.serial_number)
            if found is None:
                return None
            reason, invalid_since = "unspecified", None
            for extension in found.extensions:
                match extension.value:
                    case x509.CRLReason(reason=flag):
                        reason = flag.value
                    case x509.InvalidityDate() as date:
                        invalid_since = date.invalidity_date_utc
                    case _ if extension.critical:
                        raise EvidenceMalformed(f"has an unknown critical extension ({extension.oid.dotted_string})")
            return Revoked(found.revocation_date_utc, reason, invalid_since)


def read_crl(body: bytes, query: CrlQuery, now: datetime) -> Crl:
    """Read a list; the caller has bounded its size. Raises :class:`EvidenceMalformed`."""
    with foreign(_WHAT):
        parsed = x509.load_der_x509_crl(body)
        if parsed.issuer != query.issuer.subject:
            raise EvidenceMalformed("is the list of another issuer")
        usage = chains.extension(query.issuer, x509.KeyUsage)
        if usage is not None and not usage.value.crl_sign:
            raise EvidenceMalformed(f"is a list by {chains.named(query.issuer)}, whose key may not sign lists")
        if not isinstance(parsed.signature_hash_algorithm, chains.STRONG):
            raise EvidenceMalformed("is signed by an algorithm that is too weak or not known here")
        chains.check_key(query.issuer)
        if not parsed.is_signature_valid(query.issuer.public_key()):  # type: ignore[arg-type]  # of a kind that check_key lets pass
            raise EvidenceMalformed(f"is not signed by {chains.named(query.issuer)}, as it says")
        for extension in parsed.extensions:
            if extension.critical and not isinstance(extension.value, _UNDERSTOOD):
                raise EvidenceMalformed(f"has an unknown critical extension ({extension.oid.dotted_string})")
        if parsed.next_update_utc is None:
            raise EvidenceMalformed("does not say until when it holds")
        if parsed.last_update_utc > now + SKEW:
            raise EvidenceMalformed(f"is of {utc(parsed.last_update_utc)}, which is yet to come")
        number, since = _extension(parsed, x509.CRLNumber), _extension(parsed, x509.DeltaCRLIndicator)
        freshest = _extension(parsed, x509.FreshestCRL)
        return Crl(
            parsed,
            parsed.next_update_utc,
            None if number is None else number.crl_number,
            None if since is None else since.crl_number,
            _extension(parsed, x509.IssuingDistributionPoint),
            () if freshest is None else tuple(map(_point, freshest)),
        )


def _extension(parsed: x509.CertificateRevocationList, kind: type[_E]) -> _E | None:
    try:
        return parsed.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def places_of(certificate: x509.Certificate) -> tuple[Point, ...]:
    """Where the lists of a certificate are, as it says itself."""
    listed = chains.extension(certificate, x509.CRLDistributionPoints)
    return () if listed is None else tuple(map(_point, listed.value))


def freshest_of(certificate: x509.Certificate) -> tuple[Point, ...]:
    """Where the freshest lists of a certificate are, as it says itself."""
    listed = chains.extension(certificate, x509.FreshestCRL)
    return () if listed is None else tuple(map(_point, listed.value))


def _point(written: x509.DistributionPoint) -> Point:
    if written.crl_issuer is not None:
        return Point((), "a list by another issuer is not read here")
    if written.reasons is not None:
        return Point((), "a list for some reasons only is not read here")
    return Point(tuple(_uris(written.full_name or [])))


def _uris(names: list[x509.GeneralName]) -> list[str]:
    return [name.value for name in names if isinstance(name, x509.UniformResourceIdentifier)]
