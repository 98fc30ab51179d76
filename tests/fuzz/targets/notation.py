"""Notary Project: JWS and COSE envelopes, signed by a signer who is trusted, whatever they say."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from proxy.errors import EvidenceMalformed
from proxy.policy.rules import SignatureBy, Store
from proxy.verify.envelopes import read_cose, read_jws
from proxy.verify.model import Trusted
from proxy.verify.notation import NotationSignatures, NotationStore
from tests.fuzz.target import Target, told
from tests.simulator.notation import CoseFault, EnvelopeFault, Form, JwsFault, b64url, envelope, issue, notation_manifest
from tests.simulator.sigstore.tsa import TimestampAuthority
from tests.unit.verify.evidence import IMAGE, LIMITS, NOW, document, subject

ACME = issue()
TSA = TimestampAuthority("fuzz")
_TSA_ROOT = TSA.chain(NOW)[-1].public_bytes(Encoding.PEM)
STORE = NotationStore.load(
    "acme", [ACME.root_pem], [_TSA_ROOT], ["x509.subject: C=DE, ST=BE, O=acme"], signing_authority_pems=[ACME.root_pem]
)
VERIFIER = NotationSignatures(LIMITS)
#: Once while the certificates hold, and once when only a timestamp could prove that they did.
_WHEN = (NOW, NOW.replace(year=2036))


def _judge(data: bytes, form: Form) -> bool:
    found = document(notation_manifest(data, IMAGE, form))
    asked, trusted = [SignatureBy(Store("acme"))], Trusted(stores={"acme": STORE})
    early, late = (told(VERIFIER.judge(found, subject(), asked, trusted, now)) for now in _WHEN)
    return early or late


def jws(data: bytes) -> bool:
    """Accepted never with another algorithm, nor with what is critical said outside of what is signed; and about the image."""
    if not _judge(data, "jws"):
        return False
    read = read_jws(data, LIMITS.json_depth)
    assert read.algorithm == "ES256"
    assert "crit" not in json.loads(data)["header"]
    assert IMAGE.digest.hex in json.dumps(json.loads(read.payload))
    return True


def cose(data: bytes) -> bool:
    """The same."""
    if not _judge(data, "cose"):
        return False
    read = read_cose(data)
    assert read.algorithm == "ES256"
    assert 2 not in cbor2.loads(data).value[1]
    assert IMAGE.digest.hex in json.dumps(json.loads(read.payload))
    return True


def _sign(message: bytes) -> bytes:
    private = ACME.signer.private
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    return b"".join(
        n.to_bytes(32, "big")
        for n in decode_dss_signature(private.sign(message, ec.ECDSA(hashes.SHA256(), deterministic_signing=True)))
    )


def signed_jws(data: bytes) -> bytes:
    """Signed by the trusted signer, whatever it says."""
    try:
        tree = json.loads(data)
        tree["signature"] = b64url(_sign(f"{tree['protected']}.{tree['payload']}".encode()))
        return json.dumps(tree).encode()
    except (ValueError, LookupError, TypeError, RecursionError):
        return data


def signed_cose(data: bytes) -> bytes:
    """Signed by the trusted signer, whatever it says."""
    try:
        message = cbor2.loads(data)
        raw, header, payload, _ = message.value
        return cbor2.dumps(
            cbor2.CBORTag(message.tag, [raw, header, payload, _sign(cbor2.dumps(["Signature1", raw, b"", payload]))])
        )
    except Exception:  # whatever the decoder says: then it stays as it is
        return data


def _envelopes(form: Form) -> Iterator[bytes]:
    faults: Any = JwsFault if form == "jws" else CoseFault
    yield envelope(ACME, IMAGE, form)
    yield envelope(ACME, IMAGE, form, stamp=lambda signature: TSA.token(signature, NOW))
    yield envelope(ACME, IMAGE, form, authority=True, expiry=datetime(2026, 5, 1, tzinfo=UTC) + timedelta(days=900))
    for fault in (*get_args(EnvelopeFault), *get_args(faults)):
        yield envelope(ACME, IMAGE, form, fault=fault)


def _target(name: Form, run: Callable[[bytes], bool], sign: Callable[[bytes], bytes]) -> Target:
    words = ("io.cncf.notary.signingScheme", "io.cncf.notary.expiry", "io.cncf.notary.authenticSigningTime", "crit", "b64")
    return Target(name, run, (EvidenceMalformed,), tuple(_envelopes(name)), sign, words=words)


TARGETS = (_target("jws", jws, signed_jws), _target("cose", cose, signed_cose))
