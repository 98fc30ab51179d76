"""The second verdict: what sigstore-python says of a bundle, required too wherever it can judge.

A keyless bundle passes only if the core (:mod:`proxy.verify.core`) and sigstore-python both accept it, so that a mistake in one
of them is no hole. What the library cannot judge is named in :data:`LIMITS`, and nowhere else; each is a property of the evidence
or of the root that is looked at before the library is asked, never a way to read its refusal. Whatever it answers otherwise, and
whatever it raises, is a refusal.

The library is large, and is imported when the first bundle asks for it.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from proxy.errors import EvidenceMalformed
from proxy.verify import chains
from proxy.verify.bodies import kind_of
from proxy.verify.certificates import SignerCertificate
from proxy.verify.core import Signed
from proxy.verify.parsing import read_object, shown
from proxy.verify.roots import Root
from proxy.verify.shapes import bundle_version

if TYPE_CHECKING:
    from sigstore.verify import Verifier

_MOST_ROOTS = 32
#: What the library bears, whatever ``limits.timestamps`` allows.
_MOST_TIMESTAMPS = 32
_T = TypeVar("_T")
_DEPTH = 64


class SecondVerdict:
    """Asks sigstore-python. Safe to use from several threads; keeps one of the library's verifiers for each root."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._verifiers: OrderedDict[str, Verifier | None] = OrderedDict()

    def check(self, signed: Signed, root: Root) -> str:
        """What the library says of a signature that the core accepted under ``root``: one line for people.

        Raises :class:`EvidenceMalformed` when it refuses, whatever its reason.
        """
        case = Case.of(signed, root)
        for limit in LIMITS:
            if limit.applies(case):
                return f"sigstore-python cannot judge this: {limit.name}"
        verifier = self._verifier(root)
        if verifier is None:
            return f"sigstore-python cannot judge this: {UNREADABLE_ROOT}"
        guarded(lambda: ask(verifier, signed))
        return "sigstore-python accepts it, too"

    def _verifier(self, root: Root) -> Verifier | None:
        """The library's verifier for a root; None where the library does not read that root."""
        with self._lock:
            if root.identity not in self._verifiers:
                self._verifiers[root.identity] = guarded(lambda: build(root))
                if len(self._verifiers) > _MOST_ROOTS:
                    self._verifiers.popitem(last=False)
            self._verifiers.move_to_end(root.identity)
            return self._verifiers[root.identity]


# -- what the library cannot judge ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Case:
    """A signature that the core accepted, as far as it decides whether the library can judge it."""

    signed: Signed
    root: Root
    leaf: SignerCertificate | None
    bundle: Mapping[str, object]  #: its JSON; empty where it is none

    @classmethod
    def of(cls, signed: Signed, root: Root) -> Case:
        """Look at what was accepted. Raises :class:`EvidenceMalformed`."""
        leaf = SignerCertificate.parse(signed.chain[0]) if signed.chain else None
        return cls(signed, root, leaf, {} if signed.bundle is None else read_object(signed.bundle, _DEPTH, "a bundle"))

    @property
    def kind(self) -> tuple[str, str]:
        """Kind and version of the first log entry."""
        return kind_of(self.signed.entries[0].body)


@dataclass(frozen=True, slots=True)
class Limit:
    """Something that the library cannot judge; ``applies`` is only asked where no earlier limit of the table applies."""

    name: str
    applies: Callable[[Case], bool]


_KINDS = {
    True: frozenset({("dsse", "0.0.1"), ("hashedrekord", "0.0.2")}),  # of envelopes
    False: frozenset({("hashedrekord", "0.0.1"), ("hashedrekord", "0.0.2")}),  # of messages
}
UNREADABLE_ROOT = "a trusted root that it does not read (version 0.2, or an authority without a common name)"


def _curve_key(case: Case) -> ec.EllipticCurvePublicKey | None:
    return case.leaf.key if case.leaf is not None and isinstance(case.leaf.key, ec.EllipticCurvePublicKey) else None


def _by_another_hash(case: Case) -> bool:
    key = _curve_key(case)
    try:
        if key is not None and key.curve.name != "secp256r1":
            key.verify(case.signed.signature, case.signed.message, ec.ECDSA(SHA256()))
    except InvalidSignature:
        return True
    return False


def _without_proof(case: Case) -> bool:
    proof = case.signed.entries[0].proof
    return proof is None or proof.checkpoint is None


def _on_a_larger_curve(case: Case) -> bool:
    key = _curve_key(case)
    return case.kind == ("hashedrekord", "0.0.2") and key is not None and key.curve.name != "secp256r1"


def _without_time(case: Case) -> bool:
    return not case.signed.timestamps and case.signed.entries[0].promise is None


def _sct(case: Case) -> bool:
    assert case.leaf is not None  # an earlier limit
    listed = chains.extension(case.leaf.certificate, x509.PrecertificateSignedCertificateTimestamps)
    promises = [] if listed is None else list(listed.value)
    return len(promises) != 1 or promises[0].log_id not in case.root.ct_logs


def _envelope_signatures(case: Case) -> bool:
    envelope = case.bundle.get("dsseEnvelope")
    signatures = envelope.get("signatures") if isinstance(envelope, dict) else None
    return isinstance(signatures, list) and len(signatures) != 1


def _message_digest(case: Case) -> bool:
    message = case.bundle.get("messageSignature")
    digest = message.get("messageDigest") if isinstance(message, dict) else None
    return isinstance(digest, dict) and digest.get("algorithm") != "SHA2_256"


def _timed_by_stamps(case: Case) -> bool:
    """Whether timestamps are all that proves the time: beside a log's promise the library passes over those that fail."""
    return bool(case.signed.timestamps) and case.signed.entries[0].promise is None


def _partial_authority(case: Case) -> bool:
    return _timed_by_stamps(case) and any(
        len(authority.chain) < 2 or chains.is_authority(authority.chain[0]) for authority in case.root.timestamp_authorities
    )


def _stamped_at(token: bytes) -> datetime | None:
    """The time of a timestamp as the library reads it; None where it does not read it."""
    from rfc3161_client import decode_timestamp_response

    try:
        with chains.foreign("a timestamp"):
            return decode_timestamp_response(token).tst_info.gen_time
    except EvidenceMalformed:
        return None


def _unreadable_timestamp(case: Case) -> bool:
    return any(_stamped_at(token) is None for token in case.signed.timestamps)


def _last_moment(case: Case) -> bool:
    ends = {authority.window.end for authority in case.root.timestamp_authorities}
    return _timed_by_stamps(case) and any(_stamped_at(token) in ends for token in case.signed.timestamps)


#: Every limit of the library, in the order in which they are asked. Each has a test that notices when it is lifted.
LIMITS: tuple[Limit, ...] = (
    Limit("a managed key", lambda case: not case.signed.chain),
    Limit("a signature that is no Sigstore bundle", lambda case: case.signed.bundle is None),
    Limit("a root that is certificates of one's own", lambda case: case.root.document is None),
    Limit("a certificate with an RSA or Ed25519 key", lambda case: _curve_key(case) is None),
    Limit("a signature by the curve's own hash, where that is not SHA-256", _by_another_hash),
    Limit("a bundle without exactly one log entry", lambda case: len(case.signed.entries) != 1),
    Limit(f"more than {_MOST_TIMESTAMPS} timestamps", lambda case: len(case.signed.timestamps) > _MOST_TIMESTAMPS),
    Limit("an entry of a log that the root does not name", lambda case: case.signed.entries[0].log_id not in case.root.logs),
    Limit("a log entry without inclusion proof and checkpoint", _without_proof),
    Limit(
        "a log entry of this kind (intoto, or dsse 0.0.2)",
        lambda case: case.kind not in _KINDS[case.signed.payload is not None],
    ),
    Limit(
        "an entry of Rekor v2 about a key on P-384 or P-521",
        _on_a_larger_curve,
    ),
    Limit("a signature whose time nothing proves", _without_time),
    Limit("a certificate without exactly one certificate timestamp by a log of the root", _sct),
    Limit("an envelope without exactly one signature", _envelope_signatures),
    Limit("a message digest by another hash than SHA-256", _message_digest),
    Limit(
        "a timestamp under a root without timestamp authorities",
        lambda case: bool(case.signed.timestamps) and not case.root.timestamp_authorities,
    ),
    Limit("a timestamp authority whose own certificate, or whose root, the trusted root does not hold", _partial_authority),
    Limit("a timestamp whose certificates are not in the order of DER", _unreadable_timestamp),
    Limit("a timestamp of the last moment in which its authority is trusted", _last_moment),
)


# -- the library ----------------------------------------------------------------------------------------------------


def build(root: Root) -> Verifier | None:
    """The library's verifier; None where its models refuse the root, which is the operator's and no evidence."""
    from pydantic import ValidationError
    from sigstore.errors import Error
    from sigstore.models import TrustedRoot
    from sigstore.verify import Verifier
    from sigstore_models.trustroot.v1 import TrustedRoot as Model

    assert root.document is not None  # a limit
    try:
        # `TrustedRoot.from_file` does the same with a file's bytes; these are already in memory.
        return Verifier(trusted_root=TrustedRoot(Model.from_json(root.document)))
    except (ValidationError, Error):
        return None


def ask(verifier: Verifier, signed: Signed) -> None:
    """Ask the library, whatever its limits. Raises :class:`EvidenceMalformed`, or anything that the library raises."""
    from sigstore.errors import Error
    from sigstore.models import Bundle

    assert signed.bundle is not None  # a limit
    try:
        bundle = Bundle.from_json(_spelled(signed.bundle))
        # Both must speak of the same thing, or two right answers together would still be wrong.
        if bundle.signing_certificate.public_bytes(Encoding.DER) != signed.chain[0] or bundle.signature != signed.signature:
            raise EvidenceMalformed("is read by sigstore-python as another signature")
        policy = _Anybody()
        if signed.payload is None:
            verifier.verify_artifact(signed.message, bundle, policy)
        elif verifier.verify_dsse(bundle, policy)[1] != signed.payload:
            raise EvidenceMalformed("is read by sigstore-python as another payload")
    except Error as error:
        raise EvidenceMalformed(f"is refused by sigstore-python, whose verdict is required, too: {shown(str(error))}") from error


def _spelled(bundle: bytes) -> bytes:
    """The bundle with its media type as the library spells it: other writers put a ``v`` or a space before the version.

    Nobody signs the media type, and one that is misspelled must not be a way around the second verdict.
    """
    document = read_object(bundle, _DEPTH, "a bundle")
    kind = document.get("mediaType")
    version = bundle_version(kind) if isinstance(kind, str) else None
    if version is None or kind == "application/vnd.dev.sigstore.bundle.v0.3+json":
        return bundle
    return json.dumps({**document, "mediaType": f"application/vnd.dev.sigstore.bundle+json;version=0.{version}"}).encode()


class _Anybody:
    """The policy of the library that accepts every identity: whose it must be is judged apart, by the rule."""

    def verify(self, cert: x509.Certificate) -> None:
        """Accept."""


def guarded(ask: Callable[[], _T]) -> _T:
    """Whatever the library raises, panics of its Rust parts among it, becomes a refusal."""
    try:
        return ask()
    except (EvidenceMalformed, MemoryError):
        raise
    except Exception as error:
        raise EvidenceMalformed(f"broke sigstore-python, whose verdict is required, too: {type(error).__name__}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise EvidenceMalformed("broke sigstore-python, whose verdict is required, too") from error
