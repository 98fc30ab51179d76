"""Each kind of evidence with each fault that it can have: the rows of tables that tests hold verifiers against.

A fault is a row of a form only where it makes the evidence wrong there. Elsewhere it may do no harm: an unsigned time beside a
timestamp is not wrong, it is not believed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from tests.simulator import images
from tests.simulator.signing import CosignSignature, Signer
from tests.simulator.sigstore.bundles import Signing
from tests.simulator.sigstore.faults import (
    CERTIFICATE_FAULTS,
    CONTENT_FAULTS,
    LOG_FAULTS,
    ODDITIES,
    ROOT_FAULTS,
    TIMESTAMP_FAULTS,
    Fault,
)
from tests.simulator.sigstore.root import PrivateSigstore

FormName = Literal[
    "bundle, Rekor v1",
    "bundle, Rekor v1, timestamp",
    "bundle, Rekor v1, intoto 0.0.2",
    "bundle, Rekor v2",
    "bundle, Rekor v2, dsse 0.0.2",
    "bundle v0.1",
    "bundle v0.2",
    "bundle, GitHub",
    "message bundle, Rekor v1",
    "message bundle, Rekor v2",
    "cosign signature",
    "cosign signature, timestamp and log",
    "cosign signature, timestamp only",
    "cosign attestation, dsse 0.0.1",
    "cosign attestation, intoto 0.0.1",
    "cosign attestation, intoto 0.0.2",
    "cosign attestation, timestamp only",
    "cosign signature, own CA",
    "bundle v0.2, own CA",
    "bundle by a key, Rekor v1",
    "bundle by a key, Rekor v2",
    "cosign signature by a key",
]
Content = Literal["envelope", "message", "cosign signature", "cosign attestation"]

IMAGE = images.image("signed")
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
#: By whom the forms without a certificate are. Believed at the time of signing only, so that this time must be proven.
RELEASE = Signer.of("p256", "release")


@dataclass(frozen=True)
class Form:
    """One kind of evidence."""

    name: FormName
    content: Content
    how: Signing
    #: What it is judged by: a trusted root, one like GitHub's (neither log nor SCT), or a root certificate and no more.
    trust: Literal["sigstore", "github", "own CA"] = "sigstore"

    @property
    def keyless(self) -> bool:
        """Whether it is made with a certificate."""
        return self.how.managed is None

    @property
    def timed(self) -> bool:
        """Whether its time is a timestamp's."""
        return self.how.timestamps == 1 or self.how.rekor != 1

    def make(self, sigstore: PrivateSigstore, fault: Fault | None = None) -> bytes | CosignSignature:
        """The evidence about :data:`IMAGE`: a bundle's JSON, or a layer of a ``.sig`` or ``.att`` manifest."""
        match self.content:
            case "envelope":
                return sigstore.signature_bundle(IMAGE.digest, self.how, fault=fault)
            case "message":
                return sigstore.message_bundle(IMAGE.body, self.how, fault=fault)
            case "cosign signature":
                return sigstore.cosign_signature(IMAGE.digest, self.how, fault=fault)
            case "cosign attestation":
                return sigstore.cosign_attestation(IMAGE.digest, PREDICATE_TYPE, {"builder": "x"}, self.how, fault=fault)

    def faults(self) -> Iterator[Fault]:
        """The faults that are faults here."""
        everything: tuple[Fault, ...] = (
            *CERTIFICATE_FAULTS,
            *LOG_FAULTS,
            *TIMESTAMP_FAULTS,
            *CONTENT_FAULTS,
            *ROOT_FAULTS,
        )
        for fault in everything:
            if self._has(fault):
                yield fault

    def oddities(self) -> Iterator[Fault]:
        """What is odd and must be accepted."""
        for oddity in ODDITIES:
            if self._has(oddity):
                yield oddity

    def _has(self, fault: Fault) -> bool:
        return all(possible(self) for names, possible in _ONLY if fault in names)


def _enveloped(form: Form) -> bool:
    return form.content in ("envelope", "cosign attestation")


def _bundled(form: Form) -> bool:
    return form.content in ("envelope", "message")


#: Faults, and the forms that can have them.
_ONLY: tuple[tuple[frozenset[Fault], Callable[[Form], bool]], ...] = (
    # Nobody's timestamp says nothing: a fault only where nothing else proves when a certificate was used.
    (frozenset({"timestamp by another TSA", "TSA leaf by another CA"}), lambda form: form.keyless and form.how.rekor != 1),
    # Where there is a certificate, a certificate transparency log, a log, a timestamp; and a file that says since when.
    (
        frozenset(CERTIFICATE_FAULTS)
        | {
            "leaf ends at signing",
            "leaf starts at signing",
            "CA window ends before",
            "CA window starts after",
            "CA window ends at signing",
            "CA window starts at signing",
            "CA expired at signing time",
            "CA not yet valid at signing time",
            "CA root expired at signing time",
            "intermediate is no CA",
            "intermediate with another EKU",
            "intermediate by another root",
            "no CA",
            "no certificate",
        },
        lambda form: form.keyless,
    ),
    (
        frozenset(
            {
                "no CA",
                "CA window ends before",
                "CA window starts after",
                "CA window ends at signing",
                "CA window starts at signing",
                "TSA window ends before",
                "TSA window starts after",
                "TSA window ends at signing",
                "TSA window starts at signing",
            }
        ),
        lambda form: form.trust != "own CA",
    ),
    (
        frozenset(
            {
                "SCT missing",
                "SCT broken",
                "SCT by another log",
                "SCT of another certificate",
                "CT window ends before",
                "CT window starts after",
                "CT window ends at signing",
                "CT window starts at signing",
                "no CT log",
            }
        ),
        lambda form: form.keyless and form.trust == "sigstore",
    ),
    (
        frozenset(LOG_FAULTS)
        | {
            "log window ends before",
            "log window starts after",
            "log window ends at signing",
            "log window starts at signing",
            "no log",
        },
        lambda form: form.how.rekor is not None,
    ),
    (
        frozenset(TIMESTAMP_FAULTS)
        | {
            "TSA window ends before",
            "TSA window starts after",
            "TSA window ends at signing",
            "TSA window starts at signing",
            "no TSA",
        },
        lambda form: form.timed,
    ),
    # Where the log proves a time as well, a timestamp may be missing.
    (frozenset({"no timestamp", "no TSA"}), lambda form: form.how.rekor != 1),
    # A managed key needs no log where a timestamp proves the time.
    (
        frozenset({"no log entry", "log entry of another log", "log id changed"}),
        lambda form: form.keyless or form.how.rekor == 1,
    ),
    # Where the log promises entries, and where that promise is the only time.
    (
        frozenset(
            {
                "SET by another key",
                "SET broken",
                "integrated time altered",
                "log index altered",
                "integrated before the certificate",
                "integrated after the certificate",
            }
        ),
        lambda form: form.how.rekor == 1,
    ),
    (frozenset({"SET missing"}), lambda form: not form.timed or not _bundled(form)),
    (frozenset({"SET and inclusion proof missing"}), lambda form: form.how.rekor == 1),
    # Where there are proofs. A bundle of version 0.1 may do without.
    (
        frozenset(
            {
                "inclusion proof broken",
                "inclusion proof of another leaf",
                "inclusion proof too long",
                "checkpoint broken",
                "checkpoint by another key",
                "checkpoint of another size",
                "checkpoint of another root",
                "checkpoint of another origin",
            }
        ),
        _bundled,
    ),
    (frozenset({"inclusion proof missing", "checkpoint missing"}), lambda form: _bundled(form) and form.how.version != "0.1"),
    # Where there may be more than one of a thing.
    (
        frozenset(
            {
                "duplicate log entry",
                "33 log entries",
                "entry kind changed",
                "duplicate timestamp",
                "33 timestamps",
                "bundle of another version",
            }
        ),
        _bundled,
    ),
    # Where there is an envelope, a statement, a message.
    (
        frozenset(
            {
                "no PAE",
                "payload changed",
                "another payload type",
                "two DSSE signatures",
                "no DSSE signature",
                "statement for another digest",
                "statement without subject",
                "statement of another type",
                "statement with upper-case digest",
                "1025 subjects",
                "subject without name",
                "predicate as text",
                "1024 subjects",
                "statement v0.1",
            }
        ),
        _enveloped,
    ),
    # A signature over an empty statement says something else with each predicate; as text only an attestation has one.
    (frozenset({"predicate as text"}), lambda form: form.content == "cosign attestation"),
    (frozenset({"message digest of another"}), lambda form: form.content == "message"),
    (
        frozenset({"payload of another digest", "payload of another type", "newlines in base64"}),
        lambda form: form.content == "cosign signature",
    ),
)

FORMS: tuple[Form, ...] = (
    Form("bundle, Rekor v1", "envelope", Signing()),
    Form("bundle, Rekor v1, timestamp", "envelope", Signing(timestamps=1)),
    Form("bundle, Rekor v1, intoto 0.0.2", "envelope", Signing(kind="intoto 0.0.2")),
    Form("bundle, Rekor v2", "envelope", Signing(rekor=2)),
    Form("bundle, Rekor v2, dsse 0.0.2", "envelope", Signing(rekor=2, kind="dsse 0.0.2")),
    Form("bundle v0.1", "envelope", Signing(version="0.1")),
    Form("bundle v0.2", "envelope", Signing(version="0.2")),
    Form("bundle, GitHub", "envelope", Signing(rekor=None), trust="github"),
    Form("message bundle, Rekor v1", "message", Signing()),
    Form("message bundle, Rekor v2", "message", Signing(rekor=2)),
    Form("cosign signature", "cosign signature", Signing()),
    Form("cosign signature, timestamp and log", "cosign signature", Signing(timestamps=1)),
    Form("cosign signature, timestamp only", "cosign signature", Signing(rekor=None), trust="github"),
    Form("cosign attestation, dsse 0.0.1", "cosign attestation", Signing(kind="dsse 0.0.1")),
    Form("cosign attestation, intoto 0.0.1", "cosign attestation", Signing(kind="intoto 0.0.1")),
    Form("cosign attestation, intoto 0.0.2", "cosign attestation", Signing(kind="intoto 0.0.2")),
    Form("cosign attestation, timestamp only", "cosign attestation", Signing(rekor=None), trust="github"),
    Form("cosign signature, own CA", "cosign signature", Signing(rekor=None), trust="own CA"),
    Form("bundle v0.2, own CA", "envelope", Signing(rekor=None, version="0.2"), trust="own CA"),
    Form("bundle by a key, Rekor v1", "envelope", Signing(managed=RELEASE)),
    Form("bundle by a key, Rekor v2", "envelope", Signing(managed=RELEASE, rekor=2)),
    Form("cosign signature by a key", "cosign signature", Signing(managed=RELEASE)),
)
