"""Timestamps (RFC 3161): when a signature was there, by the word of an authority that is trusted.

A token is a TimeStampResp, as Sigstore keeps it, or a bare TimeStampToken, as notation does. The steps:

1. The token is DER, of at most 64 KiB, its status is "granted", and it holds a CMS SignedData with one signer. Its certificates
   are not signed; some authorities write them in another order than DER wants of a set, and this order alone is mended.
2. The imprint is the SHA-256, SHA-384 or SHA-512 of what was stamped.
3. The signer's certificate is in the token, or is the authority's own. It serves timestamps and nothing else: its extended key
   usage is critical and holds ``timeStamping`` alone. The signed attribute ``signingCertificate`` (RFC 5035) names it.
4. Its chain leads to the certificates of an authority. Where an authority names its own leaf, no other leaf will do.
5. Every certificate of the chain, and the authority itself, holds at the time of the token; windows are closed intervals.
6. The signature over the token holds.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from proxy.errors import EvidenceMalformed
from proxy.verify import chains, der
from proxy.verify.chains import foreign
from proxy.verify.roots import Authority

if TYPE_CHECKING:
    from rfc3161_client import TimeStampResponse

_MAX_TOKEN = 64 << 10
_MOST_CERTIFICATES = 16
_HASHES = {
    "2.16.840.1.101.3.4.2.1": "sha256",
    "2.16.840.1.101.3.4.2.2": "sha384",
    "2.16.840.1.101.3.4.2.3": "sha512",
}
_SIGNED_DATA = "1.2.840.113549.1.7.2"
_TST_INFO = "1.2.840.113549.1.9.16.1.4"
_SIGNING_CERTIFICATE = "1.2.840.113549.1.9.16.2.12"
_SIGNING_CERTIFICATE_V2 = "1.2.840.113549.1.9.16.2.47"
#: The baseline policy of RFC 3628 promises one second where a token does not say.
_BASELINE_POLICY = "0.4.0.2023.1.1"
#: What is less accurate proves nothing about when something was signed.
_MAX_ACCURACY = timedelta(days=1)
_GRANTED, _GRANTED_WITH_MODS = 0, 1
_FRACTION = re.compile(rb"[0-9]{14}(?:\.([0-9]{1,9}))?Z")
_WHAT = "a timestamp"


@dataclass(frozen=True, slots=True)
class Timestamp:
    """A proven moment: the stamped bytes were there at ``time``, give or take ``accuracy``."""

    time: datetime
    accuracy: timedelta
    authority: Authority
    chain: tuple[x509.Certificate, ...]  #: from the certificate that signed it to the authority's last


def verify_timestamp(token: bytes, stamped: bytes, authorities: Sequence[Authority]) -> Timestamp:
    """Judge a timestamp over ``stamped``. Raises :class:`EvidenceMalformed` for every fault."""
    parsed = _Token.parse(token)  # step 1
    parsed.check_imprint(stamped)  # step 2
    if not authorities:
        raise EvidenceMalformed("has a timestamp, but no timestamp authority is trusted here")
    refusals: list[str] = []
    for authority in authorities:
        try:
            path = parsed.check_authority(authority)  # steps 3 to 6
        except EvidenceMalformed as error:
            refusals.append(str(error))
            continue
        return Timestamp(parsed.time, parsed.accuracy, authority, path)
    # Whichever authority came furthest has the most to say; most are simply not the one.
    told = next((refusal for refusal in refusals if not refusal.startswith(_STRANGER)), None)
    if told is None:
        raise UntrustedAuthority(refusals[0])
    raise EvidenceMalformed(told)


class UntrustedAuthority(EvidenceMalformed):
    """The timestamp is by somebody who is not trusted here: it neither proves nor disproves anything."""


_STRANGER = "has a timestamp by an authority that is not trusted"


@dataclass(frozen=True, slots=True)
class _Token:
    response: TimeStampResponse
    time: datetime
    accuracy: timedelta
    imprint: tuple[str, bytes]  #: OID of the hash, and the hash
    certificates: tuple[x509.Certificate, ...]  #: those that came along; nobody signed them
    signer: tuple[x509.Name, int]  #: issuer and serial number
    named: tuple[str, bytes]  #: hash algorithm, and the hash of the signer's certificate in the signed attributes

    @classmethod
    def parse(cls, token: bytes) -> _Token:
        """Step 1."""
        from rfc3161_client import decode_timestamp_response

        if len(token) > _MAX_TOKEN:
            raise EvidenceMalformed(f"has a timestamp of {len(token)} bytes; the limit is {_MAX_TOKEN}")
        canonical, embedded, fraction, named = _canonical(_unwrapped(token))
        certificates = tuple(chains.load(each, "a timestamp's certificate") for each in embedded)
        response_bytes = der.encode(der.SEQUENCE, der.encode(der.SEQUENCE, b"\x02\x01\x00") + canonical)
        with foreign(_WHAT):
            response = decode_timestamp_response(response_bytes)
            info = response.tst_info
            accuracy = _accuracy(info.accuracy, info.policy.dotted_string)
            imprint = (info.message_imprint.hash_algorithm.dotted_string, info.message_imprint.message)
            signers = list(response.signed_data.signer_infos)
            time, version = info.gen_time + fraction, info.version
            signer = [(each.issuer, each.serial_number) for each in signers]
        if version != 1:
            raise EvidenceMalformed("has a timestamp of an unknown version")
        if len(signer) != 1:
            raise EvidenceMalformed(f"has a timestamp with {len(signer)} signers; one is expected")
        return cls(response, time, accuracy, imprint, certificates, signer[0], named)

    def check_imprint(self, stamped: bytes) -> None:
        """Step 2."""
        algorithm, imprint = self.imprint
        if algorithm not in _HASHES:
            raise EvidenceMalformed("has a timestamp with an imprint by another hash than SHA-256, SHA-384 or SHA-512")
        if hashlib.new(_HASHES[algorithm], stamped).digest() != imprint:
            raise EvidenceMalformed("has a timestamp over something else")

    def check_authority(self, authority: Authority) -> tuple[x509.Certificate, ...]:
        """Steps 3 to 6, for one authority: its chain, from the certificate that signed."""
        leaf = self._leaf(authority)
        path = self._path(leaf, authority)  # step 4
        _check_leaf(leaf)  # step 3
        algorithm, digest = self.named
        if hashlib.new(algorithm, leaf.public_bytes(Encoding.DER)).digest() != digest:
            raise EvidenceMalformed("has a timestamp that was signed for another certificate than it shows")
        chains.check_links(path)
        chains.check_windows(path, self.time, self.time, "at the time of its timestamp")  # step 5
        if not authority.window.holds(self.time):
            raise EvidenceMalformed("has a timestamp from outside the time in which its authority is trusted")
        self._check_signature(path)  # step 6
        return path

    def _leaf(self, authority: Authority) -> x509.Certificate:
        with foreign("a timestamp's certificate"):
            for certificate in (*self.certificates, *authority.chain[:1]):
                if (certificate.issuer, certificate.serial_number) == self.signer:
                    return certificate
        raise EvidenceMalformed(f"{_STRANGER}: its certificate is not there")

    def _path(self, leaf: x509.Certificate, authority: Authority) -> tuple[x509.Certificate, ...]:
        """From the leaf to the authority's last certificate."""
        if not authority.chain:
            raise EvidenceMalformed(f"{_STRANGER}: the authority has no certificates")
        issuer = authority.chain[0]
        if leaf == issuer:
            return authority.chain
        path = [leaf]
        pool = [certificate for certificate in self.certificates if certificate != leaf and certificate not in authority.chain]
        # One certificate of the pool is used up at each turn, and there are few.
        while chains.is_authority(issuer):
            if chains.issued(path[-1], issuer):
                return (*path, *authority.chain)
            found = next((each for each in pool if chains.issued(path[-1], each)), None)
            if found is None:
                break
            pool.remove(found)
            path.append(found)
        raise EvidenceMalformed(f"{_STRANGER}: {chains.named(leaf)}")

    def _check_signature(self, path: Sequence[x509.Certificate]) -> None:
        from rfc3161_client import VerificationError, VerifierBuilder

        response = self.response
        if any(chains.window(certificate).end == self.time for certificate in path):
            # The library counts a certificate's last second as beyond it. It was judged above; here it is about the signature.
            info = SimpleNamespace(gen_time=self.time - timedelta(seconds=1), message_imprint=response.tst_info.message_imprint)
            response = cast(
                "TimeStampResponse",
                SimpleNamespace(
                    status=response.status,
                    signed_data=response.signed_data,
                    tst_info=info,
                    time_stamp_token=response.time_stamp_token,
                ),
            )
        with foreign("a timestamp's signature"):
            # The library builds the chain once more, out of these certificates alone.
            verifier = VerifierBuilder(tsa_certificate=path[0], intermediates=list(path[1:-1]), roots=[path[-1]]).build()
            try:
                holds = verifier.verify(response, self.imprint[1])
            except VerificationError as error:
                # Its words are a dump of OpenSSL's errors; what it looks at beyond the signature was judged above.
                raise EvidenceMalformed("has a timestamp whose signature does not hold") from error
            if not holds:
                raise EvidenceMalformed("has a timestamp whose signature does not hold")


def _check_leaf(leaf: x509.Certificate) -> None:
    """Step 3: RFC 3161, section 2.3."""
    usage = chains.extension(leaf, x509.ExtendedKeyUsage)
    if usage is None or not usage.critical or list(usage.value) != [ExtendedKeyUsageOID.TIME_STAMPING]:
        raise EvidenceMalformed("has a timestamp by a certificate that is not for timestamps alone")
    if chains.is_authority(leaf):
        raise EvidenceMalformed("has a timestamp by a certificate authority itself")
    chains.check_key(leaf)


def _accuracy(given: object, policy: str) -> timedelta:
    if given is None:
        return timedelta(seconds=1 if policy == _BASELINE_POLICY else 0)
    parts = (getattr(given, unit) or 0 for unit in ("seconds", "millis", "micros"))
    seconds, millis, micros = parts
    told = timedelta(seconds=seconds, milliseconds=millis, microseconds=micros)
    if told > _MAX_ACCURACY:
        raise EvidenceMalformed(f"has a timestamp that is only accurate to {told}")
    return told


# -- the bytes: RFC 5652 and RFC 3161 -------------------------------------------------------------------------------


def _unwrapped(token: bytes) -> bytes:
    """The TimeStampToken, out of a TimeStampResp where it is in one."""
    outer = der.only(token, der.SEQUENCE, _WHAT)
    first, *rest = der.children(outer, _WHAT, 4)
    if first.tag == der.OID:
        return token
    status = der.children(first.of(der.SEQUENCE, _WHAT), _WHAT, 3)[0]
    if status.tag != der.INTEGER or int.from_bytes(status.content, "big", signed=True) not in (_GRANTED, _GRANTED_WITH_MODS):
        raise EvidenceMalformed("has a timestamp that was not granted")
    if len(rest) != 1:
        raise EvidenceMalformed("has a timestamp without a token")
    return rest[0].whole


def _canonical(token: bytes) -> tuple[bytes, tuple[bytes, ...], timedelta, tuple[str, bytes]]:
    """The token with its certificates in the order of DER; these; the time's fraction of a second; the signer's word on its own.

    Nothing that is signed lies in that set, and everything else stays byte for byte as it came, but for the lengths around it.
    """
    info = der.children(der.only(token, der.SEQUENCE, _WHAT), _WHAT, 2)
    if len(info) != 2 or info[0].oid() != _SIGNED_DATA or info[1].tag != der.CONTEXT_0:
        raise EvidenceMalformed("has a timestamp that is no CMS signed data")
    (signed,) = der.children(info[1], _WHAT, 1)
    fields = der.children(signed.of(der.SEQUENCE, _WHAT), _WHAT, 6)
    if len(fields) < 4 or fields[-1].tag != der.SET:
        raise EvidenceMalformed("has a timestamp that is no CMS signed data")
    content = der.children(fields[2].of(der.SEQUENCE, _WHAT), _WHAT, 2)
    if len(content) != 2 or content[0].oid() != _TST_INFO:
        raise EvidenceMalformed("has a timestamp that signs something else than a time")
    embedded: tuple[bytes, ...] = ()
    parts = [field.whole for field in fields]
    for position, field in enumerate(fields[3:-1], 3):
        if field.tag == der.CONTEXT_0:
            embedded = tuple(sorted(each.whole for each in der.children(field, _WHAT, _MOST_CERTIFICATES, least=0)))
            parts[position] = der.encode(der.CONTEXT_0, b"".join(embedded))
    whole = der.encode(der.SEQUENCE, info[0].whole + der.encode(der.CONTEXT_0, der.encode(der.SEQUENCE, b"".join(parts))))
    signers = der.children(fields[-1], _WHAT, 8)
    if len(signers) != 1:
        raise EvidenceMalformed(f"has a timestamp with {len(signers)} signers; one is expected")
    return whole, embedded, _fraction(content[1]), _signing_certificate(signers[0])


def _fraction(content: der.Node) -> timedelta:
    """What the library leaves out: ``genTime`` may have a fraction of a second (RFC 3161, section 2.4.2)."""
    octets = der.children(content.of(der.CONTEXT_0, _WHAT), _WHAT, 1)[0].of(der.OCTETS, _WHAT)
    fields = der.children(der.only(octets.content, der.SEQUENCE, _WHAT), _WHAT, 10)
    if len(fields) < 5 or fields[4].tag != der.GENERALIZED_TIME:
        raise EvidenceMalformed("has a timestamp without a time")
    found = _FRACTION.fullmatch(fields[4].content)
    if found is None:
        raise EvidenceMalformed("has a timestamp whose time cannot be read")
    return timedelta(microseconds=int((found[1] or b"").ljust(6, b"0")[:6]))


def _signing_certificate(signer: der.Node) -> tuple[str, bytes]:
    """The first certificate that the attribute ``signingCertificate`` names: hash algorithm, and hash (RFC 5035, section 5.4)."""
    fields = der.children(signer.of(der.SEQUENCE, _WHAT), _WHAT, 7)
    signed = next((field for field in fields[3:] if field.tag == der.CONTEXT_0), None)
    if signed is None:
        raise EvidenceMalformed("has a timestamp without signed attributes")
    found: list[tuple[str, bytes]] = []
    for attribute in der.children(signed, _WHAT, 32):
        kind, *values = der.children(attribute.of(der.SEQUENCE, _WHAT), _WHAT, 2)
        if (oid := kind.oid()) not in (_SIGNING_CERTIFICATE, _SIGNING_CERTIFICATE_V2) or not values:
            continue
        (value,) = der.children(values[0].of(der.SET, _WHAT), _WHAT, 1)
        certificates = der.children(value.of(der.SEQUENCE, _WHAT), _WHAT, 2)[0].of(der.SEQUENCE, _WHAT)
        first, *more = der.children(der.children(certificates, _WHAT, _MOST_CERTIFICATES)[0].of(der.SEQUENCE, _WHAT), _WHAT, 3)
        algorithm = "sha1" if oid == _SIGNING_CERTIFICATE else "sha256"
        if first.tag == der.SEQUENCE and oid == _SIGNING_CERTIFICATE_V2:
            algorithm = _HASHES.get(der.children(first, _WHAT, 2)[0].oid(), "")
            if not algorithm or not more:
                raise EvidenceMalformed("has a timestamp whose certificate is named by an unknown hash")
            first = more[0]
        found.append((algorithm, first.of(der.OCTETS, _WHAT).content))
    if not found:
        raise EvidenceMalformed("has a timestamp that does not name its certificate")
    # Both forms may stand side by side; the later form is the stronger one.
    return max(found, key=lambda each: len(each[1]))
