"""What can be wrong, by name. Each builder acts on the names of its own and builds everything else right.

One name may concern two builders: ``pathlen broken`` is in the certificate and in the trusted root that lists its issuers. So the
same fault is handed to both: ``sigstore.message_bundle(…, fault=f)`` and ``sigstore.trusted_root(f)``.
"""

from __future__ import annotations

from typing import Literal, get_args

CertificateFault = Literal[
    "leaf expired",  # its last second was one second before the signature
    "leaf not yet valid",  # its first second comes one second after the signature
    "leaf by another CA",  # of the same name, with another key
    "leaf signature broken",
    "leaf by a leaf",  # issued with the key of a certificate that is no CA, which the chain offers
    "leaf is a CA",
    "wrong EKU",  # serverAuth instead of codeSigning
    "no EKU",
    "wrong key usage",  # keyEncipherment instead of digitalSignature
    "pathlen broken",  # one more CA below an intermediate whose pathlen is 0
    "issuer extensions differ",  # .1 is not .8
    "no SAN",
    "SCT missing",
    "SCT broken",
    "SCT by another log",  # one that the root does not name
    "SCT of another certificate",
]

LogFault = Literal[
    "wrong digest in the entry",
    "entry of another signature",  # by the same key over the same bytes
    "entry of another key",
    "swapped entry",  # a good entry of another act of signing
    "no log entry",
    "log entry of another log",  # one that the root does not name
    "log id changed",  # the entry names another log than made it
    "SET by another key",
    "SET broken",
    "SET missing",  # the integrated time stays, and nobody signed it
    "SET and inclusion proof missing",
    "integrated time altered",
    "integrated before the certificate",
    "integrated after the certificate",
    "log index altered",
    "inclusion proof missing",
    "inclusion proof broken",
    "inclusion proof of another leaf",
    "inclusion proof too long",
    "checkpoint missing",
    "checkpoint broken",  # one bit of its signature
    "checkpoint by another key",
    "checkpoint of another size",  # properly signed
    "checkpoint of another root",  # properly signed
    "checkpoint of another origin",  # properly signed
    "entry kind changed",  # kindVersion is not what the body says
    "duplicate log entry",
    "33 log entries",
]

TimestampFault = Literal[
    "timestamp over other bytes",
    "timestamp by another TSA",  # of the same names, with other keys
    "timestamp broken",  # one bit of its signature
    "timestamp altered",  # the time, after it was signed
    "timestamp rejected",  # a response whose status is not granted
    "timestamp before the certificate",
    "timestamp after the certificate",
    "timestamp without a certificate id",  # no signing-certificate-v2 attribute: RFC 3161 demands it
    "TSA leaf without EKU",
    "TSA leaf EKU not critical",
    "TSA leaf expired",
    "TSA leaf by another CA",
    "no timestamp",
    "duplicate timestamp",
    "33 timestamps",
]

ContentFault = Literal[
    "signature broken",
    "signature by another key",  # than the certificate's
    "signature over other bytes",
    "no PAE",  # the envelope's signature is over the bare payload
    "payload changed",
    "another payload type",  # properly signed
    "two DSSE signatures",
    "no DSSE signature",
    "message digest of another",
    "statement for another digest",
    "statement without subject",
    "statement of another type",  # the ``_type``
    "statement with upper-case digest",
    "1025 subjects",
    "no certificate",
    "bundle of another version",
    "payload of another digest",  # cosign v2
    "payload of another type",  # cosign v2: ``critical.type``
]

RootFault = Literal[
    "CA window ends before",
    "CA window starts after",
    "log window ends before",
    "log window starts after",
    "CT window ends before",
    "CT window starts after",
    "TSA window ends before",
    "TSA window starts after",
    "CA expired at signing time",  # the intermediate's last second was one second before the signature
    "CA not yet valid at signing time",
    "CA root expired at signing time",
    "intermediate is no CA",
    "intermediate with another EKU",
    "intermediate by another root",
    "no CA",
    "no log",
    "no CT log",
    "no TSA",
]

#: Odd, but right: to be accepted.
Oddity = Literal[
    "CA window ends at signing",
    "CA window starts at signing",
    "log window ends at signing",
    "log window starts at signing",
    "CT window ends at signing",
    "CT window starts at signing",
    "TSA window ends at signing",
    "TSA window starts at signing",
    "leaf ends at signing",
    "leaf starts at signing",
    "subject without name",
    "predicate as text",  # a JSON string
    "1024 subjects",
    "statement v0.1",
    "newlines in base64",  # cosign v2
]

TufFault = Literal[
    "root expired",
    "timestamp expired",  # also what a freeze looks like: the same, validly signed, for too long
    "snapshot expired",
    "targets expired",
    "timestamp unsigned",
    "snapshot unsigned",
    "targets unsigned",
    "targets below threshold",  # one signature where two are required
    "timestamp by another key",
    "targets by another key",
    "next root unsigned",  # a further root that the one before did not sign
    "next root skips a version",
    "timestamp rolled back",  # for those who saw the version before
    "snapshot rolled back",
    "targets rolled back",
    "snapshot mixed",  # another version than the timestamp names
    "targets mixed",
    "target missing",
    "target changed",
    "target longer",
    "endless timestamp",
]

Fault = CertificateFault | LogFault | TimestampFault | ContentFault | RootFault | Oddity

CERTIFICATE_FAULTS: tuple[CertificateFault, ...] = get_args(CertificateFault)
LOG_FAULTS: tuple[LogFault, ...] = get_args(LogFault)
TIMESTAMP_FAULTS: tuple[TimestampFault, ...] = get_args(TimestampFault)
CONTENT_FAULTS: tuple[ContentFault, ...] = get_args(ContentFault)
ROOT_FAULTS: tuple[RootFault, ...] = get_args(RootFault)
ODDITIES: tuple[Oddity, ...] = get_args(Oddity)
TUF_FAULTS: tuple[TufFault, ...] = get_args(TufFault)
