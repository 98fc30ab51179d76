"""Trust stores of the Notary Project: entries of ``trust.notation`` (specification "Trust Store and Trust Policy").

A store trusts certificates, and, where it names identities, only signers whose subject has all the attributes of one of them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from proxy.errors import EvidenceMalformed
from proxy.verify.chains import foreign, is_authority, named, self_issued

#: The largest bundle of authorities that anybody ships has a few hundred kilobytes.
_MAX_PEM = 1 << 20
_PREFIX = "x509.subject:"
_ANYBODY = "*"
_REQUIRED = ("C", "ST", "O")
_ATTRIBUTES: Mapping[str, str] = {
    "C": NameOID.COUNTRY_NAME.dotted_string,
    "ST": NameOID.STATE_OR_PROVINCE_NAME.dotted_string,
    "S": NameOID.STATE_OR_PROVINCE_NAME.dotted_string,
    "L": NameOID.LOCALITY_NAME.dotted_string,
    "O": NameOID.ORGANIZATION_NAME.dotted_string,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME.dotted_string,
    "CN": NameOID.COMMON_NAME.dotted_string,
    "STREET": NameOID.STREET_ADDRESS.dotted_string,
    "POSTALCODE": NameOID.POSTAL_CODE.dotted_string,
    "SERIALNUMBER": NameOID.SERIAL_NUMBER.dotted_string,
    "DC": NameOID.DOMAIN_COMPONENT.dotted_string,
    "UID": NameOID.USER_ID.dotted_string,
}
_OID = re.compile(r"[0-2](?:\.(?:0|[1-9][0-9]{0,20})){1,20}", re.ASCII)
_ESCAPE = re.compile(r"\\([0-9A-Fa-f]{2}|.)", re.DOTALL)

#: OID of an attribute → its value.
Subject = Mapping[str, str]


class Revocation(StrEnum):
    """What is done about the revocation of certificates (specification, "Signature Verification details")."""

    SKIP = "skip"  #: nobody is asked
    LOG = "log"  #: what is found is told, and decides nothing
    ENFORCE = "enforce"  #: a revoked certificate is refused, and without an answer there is no verdict


@dataclass(frozen=True, slots=True)
class NotationStore:
    """One entry of ``trust.notation``: certificates that are trusted, and whom of those they vouch for."""

    name: str
    ca: tuple[x509.Certificate, ...]
    tsa: tuple[x509.Certificate, ...]
    identities: tuple[str, ...]  #: as in the configuration: ``x509.subject: C=DE, ST=BE, O=acme``; none: anybody they vouch for
    #: Hash of all of it: changes whenever an old verdict would no longer answer the question.
    identity: str
    #: Authorities whose signers are believed about the time of signing (scheme ``notary.x509.signingAuthority``).
    signing_authority: tuple[x509.Certificate, ...] = ()
    revocation: Revocation = Revocation.LOG
    allow_private: bool = False  #: whether revocation servers may be at private addresses
    #: ``identities``, read. Raises :class:`ValueError` where they cannot be.
    subjects: tuple[Subject, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "subjects", read_identities(self.identities))

    @classmethod
    def load(
        cls,
        name: str,
        ca_pems: Sequence[bytes],
        tsa_pems: Sequence[bytes] = (),
        identities: Sequence[str] = (),
        signing_authority_pems: Sequence[bytes] = (),
        *,
        revocation: Revocation = Revocation.LOG,
        allow_private: bool = False,
    ) -> NotationStore:
        """Read the PEM files of a store.

        Raises :class:`ValueError` with words for the person who wrote the configuration.
        """
        ca = _unique([each for pem in ca_pems for each in _read(pem)])
        signing = _unique([each for pem in signing_authority_pems for each in _read(pem)])
        tsa = _unique([each for pem in tsa_pems for each in _read(pem)])
        if not ca and not signing:
            raise ValueError("a notation store needs at least one certificate in ca")
        for certificate in (*ca, *signing):
            if not _is(is_authority, certificate) and not _is(self_issued, certificate):
                raise ValueError(f"this is neither an authority nor self-issued, and can vouch for nobody: {named(certificate)}")
        for certificate in tsa:
            if not (_is(is_authority, certificate) and _is(self_issued, certificate)):
                raise ValueError(f"tsa takes root certificates of timestamp authorities, which this is not: {named(certificate)}")
        everybody = tuple(identities) in {(), (_ANYBODY,)}
        kept = () if everybody else tuple(identities)
        read = read_identities(kept)
        prints = [sorted(each.fingerprint(hashes.SHA256()).hex() for each in group) for group in (ca, tsa, signing)]
        # What only told before is another question than what is enforced; telling or not is the same one.
        more = ["revocation"] if revocation is Revocation.ENFORCE else []
        whole = json.dumps([*prints, sorted(sorted(subject.items()) for subject in read), *more])
        return cls(name, ca, tsa, kept, hashlib.sha256(whole.encode()).hexdigest(), signing, revocation, allow_private)

    def vouches_for(self, subject: x509.Name) -> bool:
        """Whether a signer's subject has all the attributes of one of the identities, each once and exactly so."""
        if not self.subjects:
            return True
        found: dict[str, list[object]] = {}
        for attribute in subject:
            found.setdefault(attribute.oid.dotted_string, []).append(attribute.value)
        return any(all(found.get(oid) == [value] for oid, value in wanted.items()) for wanted in self.subjects)


def read_identities(identities: Sequence[str]) -> tuple[Subject, ...]:
    """Read trusted identities. Raises :class:`ValueError` with words for the author of the configuration."""
    subjects: list[Subject] = []
    for text in identities:
        if text == _ANYBODY:
            raise ValueError('"*" trusts anybody, so it must stand alone')
        subject = _subject(text)
        for other, earlier in zip(identities, subjects, strict=False):
            if subject.items() <= earlier.items() or earlier.items() <= subject.items():
                raise ValueError(f"{text!r} and {other!r} overlap: one of them says all that the other says")
        subjects.append(subject)
    return tuple(subjects)


def _subject(text: str) -> Subject:
    """One identity, with escapes as in RFC 4514, section 3."""
    if not text.startswith(_PREFIX):
        raise ValueError(f'{text!r} is no identity: write "{_PREFIX} C=DE, ST=Berlin, O=acme"')
    found: dict[str, str] = {}
    for part in _split(text[len(_PREFIX) :]):
        key, equals, value = part.partition("=")
        key = key.strip().upper()
        oid = _ATTRIBUTES.get(key) or (key if _OID.fullmatch(key) else None)
        value = _unescape(value)
        if not equals or not value:
            raise ValueError(f"{text!r} has a part that is not of the form NAME=value: {part.strip()!r}")
        if oid is None:
            raise ValueError(f"{text!r} has an unknown attribute {key!r}: known are {', '.join(_ATTRIBUTES)} and dotted OIDs")
        if oid in found:
            raise ValueError(f"{text!r} has the attribute {key} twice")
        found[oid] = value
    if missing := [key for key in _REQUIRED if _ATTRIBUTES[key] not in found]:
        raise ValueError(f"{text!r} needs C, ST and O; there is no {', '.join(missing)}")
    return found


def _split(text: str) -> list[str]:
    """Split at commas and semicolons that are not escaped. ``+`` would join several attributes into one."""
    parts, current, escaped = [], "", False
    for letter in text:
        if not escaped and letter in ",;":
            parts.append(current)
            current = ""
            continue
        if not escaped and letter == "+":
            raise ValueError(f"{text.strip()!r} has a +, which would join attributes; write \\+ where it is part of a value")
        escaped = not escaped and letter == "\\"
        current += letter
    if escaped:
        raise ValueError(f"{text.strip()!r} ends in a backslash")
    return [*parts, current]


def _unescape(value: str) -> str:
    """Without the white space around it, but for what is escaped."""
    stripped = value.lstrip()
    bare = stripped.rstrip()
    # An odd number of backslashes before the space that was cut off: that space was meant.
    if len(stripped) > len(bare) and (len(bare) - len(bare.rstrip("\\"))) % 2:
        bare += " "
    # Pairs of hexadecimal digits are octets of UTF-8.
    octets, at = bytearray(), 0
    for found in _ESCAPE.finditer(bare):
        octets += bare[at : found.start()].encode()
        octets += bytes.fromhex(found[1]) if len(found[1]) == 2 else found[1].encode()
        at = found.end()
    octets += bare[at:].encode()
    try:
        return octets.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{value.strip()!r} is not UTF-8") from None


def _read(pem: bytes) -> list[x509.Certificate]:
    if len(pem) > _MAX_PEM:
        raise ValueError(f"these are no certificates: {len(pem)} bytes")
    if b"PRIVATE KEY-----" in pem:
        raise ValueError("there is a private key in here, which must never leave its owner: give the certificates alone")
    if b"-----BEGIN CERTIFICATE-----" not in pem:
        raise ValueError('these are no PEM certificates: there must be a line "-----BEGIN CERTIFICATE-----"')
    try:
        with foreign("a certificate"):
            return x509.load_pem_x509_certificates(pem)
    except EvidenceMalformed as error:
        raise ValueError(f"this file {error}") from error


def _is(question: Callable[[x509.Certificate], bool], certificate: x509.Certificate) -> bool:
    try:
        return question(certificate)
    except EvidenceMalformed as error:
        raise ValueError(f"a certificate {error}") from error


def _unique(certificates: Sequence[x509.Certificate]) -> tuple[x509.Certificate, ...]:
    return tuple(dict.fromkeys(certificates))
