"""The least that a format's reader does: from evidence of the private Sigstore to what the verification core judges.

No check is made here, so that a test which sees something refused knows that the core did it.
"""

from __future__ import annotations

import base64
import json
import re

from proxy.verify.core import Signed
from proxy.verify.roots import Demands, Root
from proxy.verify.tlog import LogEntry
from tests.simulator.signing import SIGNATURE_ANNOTATION, CosignSignature, pae
from tests.simulator.sigstore import Fault, PrivateSigstore
from tests.simulator.sigstore.bundles import CERTIFICATE_ANNOTATION, CHAIN_ANNOTATION, LOG_ANNOTATION, TIMESTAMP_ANNOTATION

SIGSTORE = PrivateSigstore()
GITHUB = PrivateSigstore("github", github=True)
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----([^-]+)-----END CERTIFICATE-----")


def root_of(sigstore: PrivateSigstore, fault: Fault | None = None, demands: Demands | None = None) -> Root:
    """The trusted root, with the demands that are usual for this Sigstore."""
    usual = Demands(log=False, sct=False, timestamp=True) if sigstore.github else Demands()
    return Root.load(sigstore.name, sigstore.trusted_root(fault), demands or usual)


def read_bundle(body: bytes, message: bytes | None = None) -> Signed:
    """A Sigstore bundle; ``message`` is what a message signature is over."""
    bundle = json.loads(body)
    material = bundle["verificationMaterial"]
    if "certificate" in material:
        chain = [material["certificate"]]
    else:
        chain = material.get("x509CertificateChain", {}).get("certificates", [])
    stamps = material.get("timestampVerificationData", {}).get("rfc3161Timestamps", [])
    payload: bytes | None = None
    if "dsseEnvelope" in bundle:
        envelope = bundle["dsseEnvelope"]
        payload = _bytes(envelope["payload"])
        message = pae(envelope["payloadType"], payload)
        signature = _bytes(envelope["signatures"][0]["sig"])
    else:
        assert message is not None
        signature = _bytes(bundle["messageSignature"]["signature"])
    return Signed(
        signature,
        message,
        payload,
        None,
        tuple(_bytes(each["rawBytes"]) for each in chain),
        tuple(map(LogEntry.of_bundle, material["tlogEntries"])),
        tuple(_bytes(each["signedTimestamp"]) for each in stamps),
        signature,
        body,
    )


def read_cosign(layer: CosignSignature) -> Signed:
    """A layer of a cosign v2 ``.sig`` or ``.att`` manifest."""
    notes, body = layer.annotations, layer.blob.data
    pems = _PEM.findall(notes.get(CERTIFICATE_ANNOTATION, "") + notes.get(CHAIN_ANNOTATION, ""))
    entries = (LogEntry.of_cosign(json.loads(notes[LOG_ANNOTATION])),) if LOG_ANNOTATION in notes else ()
    stamps: tuple[bytes, ...] = ()
    if TIMESTAMP_ANNOTATION in notes:
        stamps = (_bytes(json.loads(notes[TIMESTAMP_ANNOTATION])["SignedRFC3161Timestamp"]),)
    chain = tuple(_bytes("".join(pem.split())) for pem in pems)
    if notes[SIGNATURE_ANNOTATION]:
        signature = _bytes("".join(notes[SIGNATURE_ANNOTATION].split()))
        return Signed(signature, body, None, None, chain, entries, stamps, signature, None)
    envelope = json.loads(body)
    payload, signature = _bytes(envelope["payload"]), _bytes(envelope["signatures"][0]["sig"])
    message = pae(envelope["payloadType"], payload)
    return Signed(signature, message, payload, body, chain, entries, stamps, body, None)


def _bytes(encoded: str) -> bytes:
    return base64.b64decode(encoded)
