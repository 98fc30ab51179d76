"""Reading roots of trust: Sigstore's trusted root (protobuf-specs, ``sigstore_trustroot.proto``, as JSON), or PEM files.

The person who wrote the configuration vouches for these files; they are read strictly all the same, since whatever they say
is believed afterwards. Every chain is checked here, once: who issued whom, and that each may issue. *When* each of them is
valid is asked for every signature anew.

Keys of kinds that are not known here are left out: nothing can be proven by them. A log that is left out is an unknown log.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

from proxy.errors import EvidenceMalformed
from proxy.verify import chains
from proxy.verify.certificates import FOR_CODE
from proxy.verify.keys import spki, supported
from proxy.verify.parsing import items, member, read_object, shown, text, unbase64
from proxy.verify.roots import Authority, Demands, LogKey, Root, Window, note_key_id

_MAX_BODY = 4 << 20
_MAX_PEM = 1 << 20
_MOST = 256  #: of anything in one file
_LONGEST_CHAIN = 8
_MEDIA_TYPE = re.compile(r"application/vnd\.dev\.sigstore\.trustedroot(?:\+json;\s*version=0\.[12]|\.v0\.[12]\+json)", re.ASCII)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)", re.ASCII)
_HERE = "the trusted root"


def load(name: str, body: bytes, demands: Demands) -> Root:
    """See :meth:`Root.load`."""
    if len(body) > _MAX_BODY:
        raise ValueError(f"this is no trusted root: it has {len(body)} bytes")
    try:
        document = read_object(body, 16, "JSON")
        kind = text(document, "mediaType", _HERE)
        if not _MEDIA_TYPE.fullmatch(kind):
            raise EvidenceMalformed(f"is of media type {shown(kind)!r}, not a Sigstore trusted root of version 0.1 or 0.2")
        authorities = tuple(_authority(node, issuing=True) for node in _objects(document, "certificateAuthorities"))
        timestamping = tuple(_authority(node, issuing=False) for node in _objects(document, "timestampAuthorities"))
        logs = _logs(_objects(document, "tlogs"))
        ct_logs = _logs(_objects(document, "ctlogs"))
    except EvidenceMalformed as error:
        raise ValueError(f"this trusted root {error}") from error
    if not (authorities or timestamping or logs):
        raise ValueError("this trusted root is empty: it has no authorities and no logs")
    for demanded, there, key, of in (
        (demands.log, logs, "log", "transparency log (tlogs)"),
        (demands.sct, ct_logs, "sct", "certificate transparency log (ctlogs)"),
        (demands.timestamp, timestamping, "timestamp", "timestamp authority (timestampAuthorities)"),
    ):
        if demanded and not there:
            raise ValueError(f"this trusted root has no {of} that can be used, so nothing could pass: say `{key}: none`")
    identity = _identity("trusted root", authorities, timestamping, logs, ct_logs, demands)
    return Root(name, authorities, logs, ct_logs, timestamping, demands, identity, body)


def of_ca(name: str, pems: Sequence[bytes], demands: Demands, tsa: Sequence[bytes] = ()) -> Root:
    """See :meth:`Root.of_ca`."""
    for demanded, key in ((demands.log, "log"), (demands.sct, "sct")):
        if demanded:
            raise ValueError(f"certificates of one's own come without a log, so nothing could pass: say `{key}: none`")
    if demands.timestamp and not tsa:
        raise ValueError("a timestamp is required, but no timestamp authority is named under `tsa`")
    try:
        authorities = _anchored(pems, issuing=True)
        timestamping = _anchored(tsa, issuing=False)
    except EvidenceMalformed as error:
        raise ValueError(f"this certificate file {error}") from error
    if not authorities:
        raise ValueError("no certificate of an authority is named")
    identity = _identity("certificates", authorities, timestamping, {}, {}, demands)
    return Root(name, authorities, {}, {}, timestamping, demands, identity)


# -- a trusted root -------------------------------------------------------------------------------------------------


def _objects(node: Mapping[str, object], key: str) -> Iterator[Mapping[str, object]]:
    for entry in items(node, key, _HERE, _MOST):
        if not isinstance(entry, dict):
            raise EvidenceMalformed(f"has an entry in {key!r} that is not an object")
        yield entry


def _authority(node: Mapping[str, object], *, issuing: bool) -> Authority:
    what = "a certificate authority" if issuing else "a timestamp authority"
    certificates = items(member(node, "certChain", what), "certificates", what, _LONGEST_CHAIN)
    if not certificates:
        raise EvidenceMalformed(f"has {what} without certificates")
    chain = tuple(
        chains.load(unbase64(text(entry, "rawBytes", what), "a certificate"), "a certificate")
        for entry in (_object(entry, what) for entry in certificates)
    )
    _check_chain(chain, issuing)
    uri = node.get("uri")
    return Authority(chain, _window(node, what), shown(uri) if isinstance(uri, str) else "")


def _logs(nodes: Iterator[Mapping[str, object]]) -> Mapping[bytes, LogKey]:
    found: dict[bytes, LogKey] = {}
    for node in nodes:
        log = _log(node)
        if log is None:
            continue
        if log.log_id in found:
            raise EvidenceMalformed(f"names the log {log.log_id.hex()} twice")
        found[log.log_id] = log
    return found


def _log(node: Mapping[str, object]) -> LogKey | None:
    """One log; None when its key is of a kind by which nothing can be proven here."""
    what = "a log"
    hashed = node.get("hashAlgorithm", "SHA2_256")
    if hashed != "SHA2_256":
        raise EvidenceMalformed(f"has a log by {shown(str(hashed))}; logs are trees of SHA2_256")
    written = member(node, "publicKey", what)
    der = unbase64(text(written, "rawBytes", what), "a log's key")
    try:
        with chains.foreign("a log's key"):
            try:
                key = supported(load_der_public_key(der))
            except UnsupportedAlgorithm:
                return None
    except EvidenceMalformed:
        kind = written.get("keyDetails")
        if isinstance(kind, str) and kind in _KNOWN_DETAILS:
            raise
        return None
    base_url = node.get("baseUrl")
    url = base_url if isinstance(base_url, str) else ""
    given = node.get("logId")
    if given is not None:
        log_id = unbase64(text(_object(given, what), "keyId", what), "a log's id")
    elif isinstance(key, ed25519.Ed25519PublicKey):
        log_id = note_key_id(urlsplit(url).hostname or "", key)
    else:
        log_id = hashlib.sha256(spki(key)).digest()
    if len(log_id) != 32:
        raise EvidenceMalformed("has a log whose id is no hash")
    return LogKey(log_id, key, _window(written, what), shown(url))


#: Kinds of keys that must be readable here; any other kind may come, and is left out.
_KNOWN_DETAILS = frozenset(
    {
        "PKCS1_RSA_PKCS1V5",
        "PKIX_RSA_PKCS1V15_2048_SHA256",
        "PKIX_RSA_PKCS1V15_3072_SHA256",
        "PKIX_RSA_PKCS1V15_4096_SHA256",
        "PKIX_ECDSA_P256_SHA_256",
        "PKIX_ECDSA_P384_SHA_384",
        "PKIX_ECDSA_P521_SHA_512",
        "PKIX_ED25519",
    }
)


def _object(value: object, what: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise EvidenceMalformed(f"has something in {what} that should be an object")
    return value


def _window(node: Mapping[str, object], what: str) -> Window:
    valid = node.get("validFor")
    if valid is None:
        return Window()
    written = _object(valid, what)
    window = Window(_moment(written.get("start"), what), _moment(written.get("end"), what))
    if window.start is not None and window.end is not None and window.end < window.start:
        raise EvidenceMalformed(f"has {what} whose time ends before it begins")
    return window


def _moment(value: object, what: str) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise EvidenceMalformed(f"has {what} with a time that is none: {shown(str(value))}")
    try:
        return datetime.fromisoformat(value).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise EvidenceMalformed(f"has {what} with a time that is none: {shown(value)}") from error


# -- certificates of one's own --------------------------------------------------------------------------------------


def _anchored(pems: Sequence[bytes], *, issuing: bool) -> tuple[Authority, ...]:
    """One authority for every way that leads from one of the certificates up to the last that is there."""
    pool: list[x509.Certificate] = []
    for pem in pems:
        for certificate in _certificates(pem):
            if certificate not in pool:
                pool.append(certificate)
    if len(pool) > _MOST:
        raise EvidenceMalformed(f"has {len(pool)} certificates; the limit is {_MOST}")
    return tuple(Authority(chain, Window()) for certificate in pool for chain in _ways_up((certificate,), pool, issuing=issuing))


def _certificates(pem: bytes) -> Sequence[x509.Certificate]:
    if len(pem) > _MAX_PEM:
        raise EvidenceMalformed(f"is none: it has {len(pem)} bytes")
    if b"PRIVATE KEY-----" in pem:
        raise EvidenceMalformed("holds a private key, which must never leave its owner: consider it known")
    with chains.foreign("certificates"):
        found = x509.load_pem_x509_certificates(pem)
    return [chains.load(certificate.public_bytes(Encoding.DER), "a certificate") for certificate in found]


def _ways_up(
    chain: tuple[x509.Certificate, ...], pool: Sequence[x509.Certificate], *, issuing: bool
) -> Iterator[tuple[x509.Certificate, ...]]:
    parents = [each for each in pool if each not in chain and chains.is_authority(each) and chains.issued(chain[-1], each)]
    if not parents or len(chain) == _LONGEST_CHAIN:
        _check_chain(chain, issuing)
        yield chain
        return
    for parent in parents:
        yield from _ways_up((*chain, parent), pool, issuing=issuing)


# -- both -----------------------------------------------------------------------------------------------------------


def _check_chain(chain: tuple[x509.Certificate, ...], issuing: bool) -> None:
    """Everything about a chain that does not depend on the time."""
    chains.check_links(chain)
    for certificate in chain:
        try:
            supported(certificate.public_key())
        except ValueError as error:
            raise EvidenceMalformed(f"has a certificate with {error}: {chains.named(certificate)}") from error
    below = 0  # authorities; a chain of timestamps may begin with its leaf, which is none
    for certificate in chain:
        constraints = chains.extension(certificate, x509.BasicConstraints)
        if constraints is None or not constraints.value.ca:
            continue
        if constraints.value.path_length is not None and below > constraints.value.path_length:
            raise EvidenceMalformed(f"has a chain with more authorities than {chains.named(certificate)} allows below itself")
        below += 1
    if not issuing:
        return  # a timestamp authority's chain may begin with its own leaf
    issuer = chain[0]
    usage = chains.extension(issuer, x509.KeyUsage)
    if not chains.is_authority(issuer) or (usage is not None and not usage.value.key_cert_sign):
        raise EvidenceMalformed(f"has a certificate that may not issue others: {chains.named(issuer)}")
    for certificate in chain:
        purposes = chains.extension(certificate, x509.ExtendedKeyUsage)
        if purposes is not None and not FOR_CODE & set(purposes.value):
            raise EvidenceMalformed(f"has a certificate authority that may not vouch for code: {chains.named(certificate)}")
        # Nothing here could hold these against a signer's name, so an authority that is bound by them cannot be used.
        if chains.extension(certificate, x509.NameConstraints) is not None:
            raise EvidenceMalformed(
                f"has a certificate authority with name constraints, which are not supported: {chains.named(certificate)}"
            )


def _identity(
    kind: str,  # certificates of one's own also believe intermediates that come with a signature
    authorities: Sequence[Authority],
    timestamping: Sequence[Authority],
    logs: Mapping[bytes, LogKey],
    ct_logs: Mapping[bytes, LogKey],
    demands: Demands,
) -> str:
    def when(window: Window) -> list[str]:
        return ["" if moment is None else moment.isoformat() for moment in (window.start, window.end)]

    def certified(entries: Sequence[Authority]) -> Sequence[object]:
        return sorted(
            [[hashlib.sha256(each.public_bytes(Encoding.DER)).hexdigest() for each in entry.chain], when(entry.window)]
            for entry in entries
        )

    def logged(entries: Mapping[bytes, LogKey]) -> Sequence[object]:
        return sorted([each.log_id.hex(), spki(each.key).hex(), when(each.window)] for each in entries.values())

    whole = [
        kind,
        certified(authorities),
        certified(timestamping),
        logged(logs),
        logged(ct_logs),
        [demands.log, demands.sct, demands.timestamp],
    ]
    return hashlib.sha256(json.dumps(whole, separators=(",", ":")).encode()).hexdigest()
