"""A signer's certificate in the manner of Fulcio: whom it names, what it claims, and whether an authority vouches for it.

Claims stand in extensions 1.3.6.1.4.1.57264.1.x (Fulcio, ``docs/oid-info.md``). Chains follow RFC 5280, as far as signing
code needs it, and are judged at the time of signing: every certificate of the chain and the root's entry for its authority
must hold at that time, both ends included (CVE-2026-24122: an issuer that had expired when it was used).

Everything raises :class:`proxy.errors.EvidenceMalformed` with a text that continues "this signature …".
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from proxy.errors import EvidenceMalformed
from proxy.verify import chains
from proxy.verify.der import only
from proxy.verify.keys import PublicKey, spki, supported
from proxy.verify.parsing import shown, utc
from proxy.verify.roots import Authority, Root

_MAX_DER = 64 << 10
_MAX_CLAIM = 8 << 10
_MOST_NAMES = 64
_MOST_OFFERED = 10
_FULCIO = "1.3.6.1.4.1.57264.1."
_ISSUER_RAW, _ISSUER, _USERNAME = f"{_FULCIO}1", f"{_FULCIO}8", f"{_FULCIO}7"
#: Last arc → name of the claim; those that rules may name are among them (:data:`proxy.policy.rules.EXTENSIONS`).
_CLAIMS: Mapping[str, str] = {
    f"{_FULCIO}9": "build_signer",
    f"{_FULCIO}10": "build_signer_digest",
    f"{_FULCIO}11": "runner",
    f"{_FULCIO}12": "source_repository",
    f"{_FULCIO}13": "source_digest",
    f"{_FULCIO}14": "source_ref",
    f"{_FULCIO}15": "source_repository_id",
    f"{_FULCIO}16": "owner",
    f"{_FULCIO}17": "owner_id",
    f"{_FULCIO}18": "build_config",
    f"{_FULCIO}20": "trigger",
    f"{_FULCIO}21": "run",
    f"{_FULCIO}22": "visibility",
}
_UTF8_STRING = 0x0C
#: What may be critical, because it is looked at here or cannot narrow what a signature means.
_UNDERSTOOD = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.CERTIFICATE_POLICIES,
    }
)
#: What an authority's extended key usage, where it has one, must allow (its leaves' own is checked apart).
FOR_CODE = frozenset({ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE})
_STRONG = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


@dataclass(frozen=True, slots=True)
class SignerCertificate:
    """What a leaf certificate says. Nothing of it is believed before :func:`verify_chain`."""

    der: bytes = field(repr=False)
    certificate: x509.Certificate = field(repr=False)
    key: PublicKey = field(repr=False)
    spki_sha256: str  #: of the DER SubjectPublicKeyInfo, hex
    identities: tuple[str, ...]  #: e-mail addresses, URIs and user names of the subject alternative name
    issuer: str | None  #: who vouched for the identity (the token's issuer); None where the certificate does not say
    claims: Mapping[str, str]  #: by name: ``source_repository``, ``owner_id``, …

    @classmethod
    def parse(cls, der: bytes) -> SignerCertificate:
        """Read a DER certificate. Raises :class:`EvidenceMalformed`."""
        if len(der) > _MAX_DER:
            raise EvidenceMalformed(f"has a certificate of {len(der)} bytes; the limit is {_MAX_DER}")
        certificate = chains.load(der, "a certificate")
        try:
            key = supported(certificate.public_key())
        except ValueError as error:
            raise EvidenceMalformed(f"was made with {error}") from error
        values = {
            extension.oid.dotted_string: extension.value.value
            for extension in certificate.extensions
            if isinstance(extension.value, x509.UnrecognizedExtension)
        }
        claims = {name: _utf8_string(values[oid], name) for oid, name in _CLAIMS.items() if oid in values}
        return cls(
            der,
            certificate,
            key,
            hashlib.sha256(spki(key)).hexdigest(),
            _identities(certificate),
            _issuer(values),
            MappingProxyType(claims),
        )

    def check_purpose(self) -> None:
        """Whether the certificate is for signing code. Raises :class:`EvidenceMalformed`."""
        certificate = self.certificate
        if chains.is_authority(certificate):
            raise EvidenceMalformed("was made with the certificate of an authority, not of a signer")
        usage = chains.extension(certificate, x509.KeyUsage)
        if usage is not None and not usage.value.digital_signature:
            raise EvidenceMalformed("was made with a certificate that is not for signatures")
        purposes = chains.extension(certificate, x509.ExtendedKeyUsage)
        if purposes is None or ExtendedKeyUsageOID.CODE_SIGNING not in purposes.value:
            raise EvidenceMalformed("was made with a certificate that is not for signing code")
        check_critical(certificate)


@dataclass(frozen=True, slots=True)
class Chain:
    """A way from a signer's certificate to a root of trust."""

    issuers: tuple[x509.Certificate, ...]  #: who issued the leaf, up to the root
    authority: Authority  #: of the root of trust

    @property
    def until(self) -> datetime:
        """The last moment at which all of it is believed."""
        ends = [certificate.not_valid_after_utc for certificate in self.issuers]
        return min(ends if self.authority.window.end is None else [*ends, self.authority.window.end])


def verify_chain(leaf: SignerCertificate, offered: Sequence[bytes], root: Root, at: datetime) -> Chain:
    """The chain that vouches for ``leaf`` at ``at``. Raises :class:`EvidenceMalformed` when there is none.

    ``offered``: intermediates (DER) that came with the signature. They are looked at under certificates of one's own only: a
    trusted root names all of its authorities itself.
    """
    leaf.check_purpose()
    if root.document is None:
        ways = _ways_up(leaf.certificate, offered, root.authorities)
    else:
        ways = _direct(leaf.certificate, (), root.authorities)
    if not ways:
        raise EvidenceMalformed(f"was made with a certificate that no authority of root {root.name} issued")
    told: EvidenceMalformed | None = None
    for chain in ways:
        try:
            chains.check_windows((leaf.certificate, *chain.issuers), at, at, f"at {utc(at)}")
            if not chain.authority.window.holds(at):
                raise EvidenceMalformed(
                    f"has a certificate by {chains.named(chain.issuers[0])}, which root {root.name} does not trust at {utc(at)}"
                )
        except EvidenceMalformed as error:
            told = told or error
        else:
            return chain
    assert told is not None  # there are ways, and none returned
    raise told


# -- chains ---------------------------------------------------------------------------------------------------------


def _direct(
    certificate: x509.Certificate, between: tuple[x509.Certificate, ...], authorities: Sequence[Authority]
) -> list[Chain]:
    """The chains in which a known certificate issued ``certificate``; ``between`` leads from there down to the leaf."""
    return [
        Chain((*between, *authority.chain[place:]), authority)
        for authority in authorities
        for place, issuer in enumerate(authority.chain)
        if _issued(certificate, issuer)
    ]


def _ways_up(leaf: x509.Certificate, offered: Sequence[bytes], authorities: Sequence[Authority]) -> list[Chain]:
    """The chains to ``authorities``, over intermediates that were offered if need be: one line upwards, without branches."""
    if len(offered) > _MOST_OFFERED:
        raise EvidenceMalformed(f"has {len(offered)} certificates in its chain; the limit is {_MOST_OFFERED}")
    pool = [chains.load(der, "a certificate of its chain") for der in offered if len(der) <= _MAX_DER]
    line: tuple[x509.Certificate, ...] = ()
    while True:
        below = line[-1] if line else leaf
        if found := _direct(below, line, authorities):
            for chain in found:
                _check_between(leaf, line, chain)
            return found
        above = next((each for each in pool if _issued(below, each)), None)
        if above is None:
            return []
        pool.remove(above)
        line = (*line, above)


def _check_between(leaf: x509.Certificate, line: Sequence[x509.Certificate], chain: Chain) -> None:
    """What holds for authorities that the configuration names was checked when it was read; here are the others."""
    if not line:
        return
    chains.check_links((leaf, *chain.issuers))
    for certificate in line:
        try:
            supported(certificate.public_key())
        except ValueError as error:
            raise EvidenceMalformed(f"has a chain with {error}") from error
        purposes = chains.extension(certificate, x509.ExtendedKeyUsage)
        if purposes is not None and not FOR_CODE & set(purposes.value):
            raise EvidenceMalformed(f"has a chain over an authority that may not vouch for code: {chains.named(certificate)}")
        check_critical(certificate)


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    # Names first: most candidates are simply not the one, and a signature costs a thousand times more.
    if certificate.issuer != issuer.subject or not chains.issued(certificate, issuer):
        return False
    with chains.foreign("a certificate"):
        algorithm = certificate.signature_hash_algorithm
    return algorithm is None or isinstance(algorithm, _STRONG)  # None: Ed25519, which has no choice of hash


def check_critical(certificate: x509.Certificate) -> None:
    """RFC 5280, section 4.2: a critical extension that is not understood forbids the certificate.

    So do name constraints, critical or not: nothing here could hold them against a signer's name.
    """
    if chains.extension(certificate, x509.NameConstraints) is not None:
        raise EvidenceMalformed(f"has a certificate with name constraints, which are not supported: {chains.named(certificate)}")
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD and not extension.oid.dotted_string.startswith(_FULCIO):
            raise EvidenceMalformed(
                f"has a certificate with a critical extension that is not known: {extension.oid.dotted_string}"
            )


# -- what a leaf says -----------------------------------------------------------------------------------------------


def _identities(certificate: x509.Certificate) -> tuple[str, ...]:
    names = chains.extension(certificate, x509.SubjectAlternativeName)
    if names is None:
        return ()
    if len(names.value) > _MOST_NAMES:
        raise EvidenceMalformed(f"has a certificate for {len(names.value)} names; the limit is {_MOST_NAMES}")
    found: list[str] = []
    for name in names.value:
        match name:
            case x509.RFC822Name() | x509.UniformResourceIdentifier():
                found.append(name.value)
            case x509.OtherName() if name.type_id.dotted_string == _USERNAME:
                found.append(_utf8_string(name.value, "user name"))
    return tuple(found)


def _issuer(values: Mapping[str, bytes]) -> str | None:
    """Extension .1 holds the bare text, .8 the same as DER; a certificate with two issuers would mean two things."""
    raw = _text(values[_ISSUER_RAW], "issuer") if _ISSUER_RAW in values else None
    wrapped = _utf8_string(values[_ISSUER], "issuer") if _ISSUER in values else None
    if raw is not None and wrapped is not None and raw != wrapped:
        raise EvidenceMalformed(f"has a certificate with two issuers of its identity: {shown(raw)} and {shown(wrapped)}")
    return wrapped if wrapped is not None else raw


def _utf8_string(value: bytes, what: str) -> str:
    """A DER UTF8String (X.690, section 8.23)."""
    if len(value) > _MAX_CLAIM:
        raise EvidenceMalformed(f"has a certificate whose {what} has {len(value)} bytes; the limit is {_MAX_CLAIM}")
    return _text(only(value, _UTF8_STRING, f"a certificate's {what}").content, what)


def _text(value: bytes, what: str) -> str:
    if len(value) > _MAX_CLAIM:
        raise EvidenceMalformed(f"has a certificate whose {what} has {len(value)} bytes; the limit is {_MAX_CLAIM}")
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise EvidenceMalformed(f"has a certificate whose {what} is no text") from error
