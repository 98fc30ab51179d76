"""Transparency logs: Rekor v1 (ECDSA, with promises) and Rekor v2 (Ed25519, proofs only).

A log here keeps nothing: every entry is put into a tree of its own among made-up neighbours, and the proof (RFC 6962, section
2.1.1), the checkpoint (a signed note of C2SP) and, for v1, the signed entry timestamp are made for it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal

import rfc8785
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests.simulator.images import Json
from tests.simulator.signing import Signer
from tests.simulator.sigstore.ca import AFTER, BEFORE, broken
from tests.simulator.sigstore.faults import Fault

V1Kind = Literal["hashedrekord 0.0.1", "dsse 0.0.1", "intoto 0.0.1", "intoto 0.0.2"]
V2Kind = Literal["hashedrekord 0.0.2", "dsse 0.0.2"]
EntryKind = V1Kind | V2Kind

#: A log's shards count from zero, its entries from the log's begin.
_SHARD_BEGINS = 25_579
_SECOND = timedelta(seconds=1)


def b64(data: bytes) -> str:
    """Standard base64 as text."""
    return base64.b64encode(data).decode()


def sha256(data: bytes) -> bytes:
    """The digest's bytes."""
    return hashlib.sha256(data).digest()


@dataclass(frozen=True)
class Deed:
    """One act of signing, as a log is told of it."""

    signature: bytes
    message: bytes = field(repr=False)  #: what the signature is over (the PAE for an envelope)
    verifier: x509.Certificate | Signer  #: the signer's certificate, or the managed key
    hashed: Literal["sha256", "sha384", "sha512"] = "sha256"  #: by which hash the message was signed
    payload: bytes | None = field(default=None, repr=False)  #: of the envelope
    payload_type: str = ""
    envelope: bytes | None = field(default=None, repr=False)  #: the envelope's JSON

    @property
    def pem(self) -> bytes:
        """Certificate or public key, as Rekor v1 keeps it."""
        if isinstance(self.verifier, Signer):
            return self.verifier.public_pem
        return self.verifier.public_bytes(serialization.Encoding.PEM)


@dataclass(frozen=True)
class Proof:
    """That an entry is in the tree."""

    index: int
    size: int
    root: bytes
    hashes: tuple[bytes, ...]
    checkpoint: str | None


@dataclass(frozen=True)
class Entry:
    """What a log answers."""

    kind: str
    version: str
    body: bytes = field(repr=False)
    log_id: bytes
    index: int
    integrated: int | None  #: seconds since 1970
    promise: bytes | None  #: the signed entry timestamp
    proof: Proof | None

    def of_bundle(self) -> Json:
        """A ``TransparencyLogEntry`` as bundles hold it."""
        node: Json = {
            "logIndex": str(self.index),
            "logId": {"keyId": b64(self.log_id)},
            "kindVersion": {"kind": self.kind, "version": self.version},
        }
        if self.integrated is not None:
            node["integratedTime"] = str(self.integrated)
        if self.promise is not None:
            node["inclusionPromise"] = {"signedEntryTimestamp": b64(self.promise)}
        if self.proof is not None:
            node["inclusionProof"] = {
                "logIndex": str(self.proof.index),
                "rootHash": b64(self.proof.root),
                "treeSize": str(self.proof.size),
                "hashes": [b64(each) for each in self.proof.hashes],
            }
            if self.proof.checkpoint is not None:
                node["inclusionProof"]["checkpoint"] = {"envelope": self.proof.checkpoint}
        node["canonicalizedBody"] = b64(self.body)
        return node

    def of_cosign(self) -> Json:
        """The annotation ``dev.sigstore.cosign/bundle``: no proof, only the promise."""
        return {
            "SignedEntryTimestamp": b64(self.promise or b""),
            "Payload": {
                "body": b64(self.body),
                "integratedTime": self.integrated,
                "logIndex": self.index,
                "logID": self.log_id.hex(),
            },
        }


# -- trees and notes -----------------------------------------------------------------------------------------------


def leaf_hash(data: bytes) -> bytes:
    """RFC 6962, section 2.1."""
    return sha256(b"\0" + data)


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right)


def _split(count: int) -> int:
    return 1 << (count - 1).bit_length() - 1


def tree_root(leaves: Sequence[bytes]) -> bytes:
    """The tree's hash over leaf hashes."""
    if len(leaves) == 1:
        return leaves[0]
    left = _split(len(leaves))
    return _node(tree_root(leaves[:left]), tree_root(leaves[left:]))


def audit_path(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """The inclusion proof for the leaf at ``index``, from the leaf upwards."""
    if len(leaves) == 1:
        return ()
    left = _split(len(leaves))
    if index < left:
        return (*audit_path(leaves[:left], index), tree_root(leaves[left:]))
    return (*audit_path(leaves[left:], index - left), tree_root(leaves[:left]))


def note_line(name: str, hint: bytes, signature: bytes) -> str:
    """One signature of a signed note."""
    return f"\u2014 {name} {b64(hint + signature)}\n"


def cosignature(witness: Signer, name: str, text: str, at: datetime) -> str:
    """A witness's signature line (C2SP tlog-cosignature, ``cosignature/v1``)."""
    assert isinstance(witness.private, ed25519.Ed25519PrivateKey)
    seconds = int(at.timestamp())
    signature = witness.private.sign(f"cosignature/v1\ntime {seconds}\n{text}".encode())
    public = witness.private.public_key().public_bytes_raw()
    return note_line(name, sha256(name.encode() + b"\n\x04" + public)[:4], seconds.to_bytes(8, "big") + signature)


# -- what both logs do ---------------------------------------------------------------------------------------------


class _Log:
    """What both versions have in common; ``origin`` is the first line of a checkpoint."""

    def __init__(self, origin: str, name: str, key: Signer, other: Signer) -> None:
        self.origin = origin
        self.name = name  #: before the checkpoint's signature
        self.key = key
        self.other = other  #: the key of a log that nobody trusts

    def id_of(self, key: Signer) -> bytes:
        """The log id that goes with ``key``."""
        raise NotImplementedError

    @property
    def log_id(self) -> bytes:
        """What entries name the log by."""
        return self.id_of(self.key)

    def _more_signatures(self, text: str, at: datetime) -> str:
        del text, at
        return ""

    def _prove(self, body: bytes, index: int, size: int, by: Signer, at: datetime, fault: Fault | None) -> Proof | None:
        if fault in ("inclusion proof missing", "SET and inclusion proof missing"):
            return None
        leaves = [leaf_hash(b"neighbour %d" % number) for number in range(size)]
        leaves[index] = leaf_hash(body + b" " if fault == "inclusion proof of another leaf" else body)
        root, hashes = tree_root(leaves), audit_path(leaves, index)
        if fault == "inclusion proof broken":
            hashes = (broken(hashes[0]), *hashes[1:])
        elif fault == "inclusion proof too long":
            hashes = (*hashes, hashes[-1])
        noted_size = size + 1 if fault == "checkpoint of another size" else size
        noted_root = broken(root) if fault == "checkpoint of another root" else root
        origin = f"another.{self.origin}" if fault == "checkpoint of another origin" else self.origin
        text = f"{origin}\n{noted_size}\n{b64(noted_root)}\n"
        signature = (self.other if fault == "checkpoint by another key" else by).sign(text.encode())
        if fault == "checkpoint broken":
            signature = broken(signature)
        note = f"{text}\n{note_line(self.name, self.id_of(by)[:4], signature)}{self._more_signatures(text, at)}"
        return Proof(index, size, root, hashes, None if fault == "checkpoint missing" else note)

    def _changed(self, deed: Deed, swapped: Deed | None, fault: Fault | None) -> Deed:
        """What the log is told instead."""
        match fault:
            case "wrong digest in the entry":
                payload = None if deed.payload is None else deed.payload + b" "
                return replace(deed, message=deed.message + b" ", payload=payload)
            case "entry of another signature" | "entry of another key" | "swapped entry":
                assert swapped is not None, "say by what"
                return swapped
            case _:
                return deed


class RekorV1(_Log):
    """Promises an entry (SET) and proves it; integrated times are its own."""

    kinds: tuple[V1Kind, ...] = ("hashedrekord 0.0.1", "dsse 0.0.1", "intoto 0.0.1", "intoto 0.0.2")

    def id_of(self, key: Signer) -> bytes:
        """sha256 of the SPKI."""
        return bytes.fromhex(key.fingerprint)

    def enter(
        self,
        deed: Deed,
        kind: V1Kind,
        at: datetime,
        *,
        index: int = 1,
        size: int = 2,
        swapped: Deed | None = None,
        fault: Fault | None = None,
    ) -> Entry:
        """Log a deed. ``swapped`` is what is logged instead with the faults that say so."""
        by = self.other if fault == "log entry of another log" else self.key
        body = rfc8785.dumps(v1_body(self._changed(deed, swapped, fault), kind))
        if fault == "integrated before the certificate":
            at = at - BEFORE - _SECOND
        elif fault == "integrated after the certificate":
            at = at + AFTER + _SECOND
        integrated, number, log_id = int(at.timestamp()), _SHARD_BEGINS + index, self.id_of(by)
        promise: bytes | None = (self.other if fault == "SET by another key" else by).sign(
            rfc8785.dumps({"body": b64(body), "integratedTime": integrated, "logID": log_id.hex(), "logIndex": number})
        )
        if fault == "SET broken" and promise is not None:
            promise = broken(promise)
        elif fault in ("SET missing", "SET and inclusion proof missing"):
            promise = None
        proof = self._prove(body, index, size, by, at, fault)
        name, version = kind.split()
        if fault == "entry kind changed":
            name = "intoto" if name == "hashedrekord" else "hashedrekord"
        if fault == "log id changed":
            log_id = self.id_of(self.other)
        if fault == "integrated time altered":
            integrated += 1
        if fault == "log index altered":
            number += 1
        return Entry(name, version, body, log_id, number, integrated, promise, proof)


class RekorV2(_Log):
    """Only proofs, under checkpoints that witnesses sign as well. It knows no time."""

    kinds: tuple[V2Kind, ...] = ("hashedrekord 0.0.2", "dsse 0.0.2")

    def __init__(self, origin: str, key: Signer, other: Signer, witnesses: Sequence[Signer] = ()) -> None:
        super().__init__(origin, origin, key, other)
        self.witnesses = tuple(witnesses)

    def id_of(self, key: Signer) -> bytes:
        """The key id of C2SP's signed notes, in full (a hint has its first four bytes)."""
        assert isinstance(key.private, ed25519.Ed25519PrivateKey)
        return sha256(self.origin.encode() + b"\n\x01" + key.private.public_key().public_bytes_raw())

    def _more_signatures(self, text: str, at: datetime) -> str:
        return "".join(cosignature(each, f"{each.name.replace(' ', '-')}.test", text, at) for each in self.witnesses)

    def enter(
        self,
        deed: Deed,
        kind: V2Kind,
        at: datetime,
        *,
        index: int = 1,
        size: int = 2,
        swapped: Deed | None = None,
        fault: Fault | None = None,
    ) -> Entry:
        """Log a deed. ``at`` only dates the witnesses. With "SET missing" the entry bears a time that nobody signed."""
        by = self.other if fault == "log entry of another log" else self.key
        body = rfc8785.dumps(v2_body(self._changed(deed, swapped, fault), kind))
        proof = self._prove(body, index, size, by, at, fault)
        name, version = kind.split()
        if fault == "entry kind changed":
            name = "dsse" if name == "hashedrekord" else "hashedrekord"
        log_id = self.id_of(self.other if fault == "log id changed" else by)
        return Entry(name, version, body, log_id, index, int(at.timestamp()) if fault == "SET missing" else None, None, proof)


# -- bodies --------------------------------------------------------------------------------------------------------


def v1_body(deed: Deed, kind: V1Kind) -> Json:
    """What Rekor v1 keeps of a deed (its canonical form)."""
    name, version = kind.split()
    spec: dict[str, Any]
    if kind == "hashedrekord 0.0.1":
        spec = {
            "data": {"hash": {"algorithm": deed.hashed, "value": hashlib.new(deed.hashed, deed.message).hexdigest()}},
            "signature": {"content": b64(deed.signature), "publicKey": {"content": b64(deed.pem)}},
        }
        return {"apiVersion": version, "kind": name, "spec": spec}
    assert deed.envelope is not None, "only an envelope is logged so"
    assert deed.payload is not None, "only an envelope is logged so"
    envelope_hash = {"algorithm": "sha256", "value": sha256(deed.envelope).hex()}
    payload_hash = {"algorithm": "sha256", "value": sha256(deed.payload).hex()}
    if kind == "dsse 0.0.1":
        spec = {
            "envelopeHash": envelope_hash,
            "payloadHash": payload_hash,
            "signatures": [{"signature": b64(deed.signature), "verifier": b64(deed.pem)}],
        }
    elif kind == "intoto 0.0.1":
        spec = {"content": {"hash": envelope_hash, "payloadHash": payload_hash}, "publicKey": b64(deed.pem)}
    else:
        # The signature is encoded once as in the envelope, and once more as a member of type "byte".
        signature = {"publicKey": b64(deed.pem), "sig": b64(b64(deed.signature).encode())}
        envelope = {"payloadType": deed.payload_type, "signatures": [signature]}
        spec = {"content": {"envelope": envelope, "hash": envelope_hash, "payloadHash": payload_hash}}
    return {"apiVersion": version, "kind": name, "spec": spec}


_HASHES: Mapping[str, str] = {"sha256": "SHA2_256", "sha384": "SHA2_384", "sha512": "SHA2_512"}


def key_details(key: object, hashed: str = "sha256") -> str:
    """Sigstore's name for a kind of key (``PublicKeyDetails``)."""
    match key:
        case ec.EllipticCurvePublicKey(curve=ec.SECP256R1()):
            return "PKIX_ECDSA_P256_SHA_256"
        case ec.EllipticCurvePublicKey(curve=ec.SECP384R1()):
            return "PKIX_ECDSA_P384_SHA_384" if hashed == "sha384" else "PKIX_ECDSA_P384_SHA_256"
        case ec.EllipticCurvePublicKey(curve=ec.SECP521R1()):
            return "PKIX_ECDSA_P521_SHA_512" if hashed == "sha512" else "PKIX_ECDSA_P521_SHA_256"
        case rsa.RSAPublicKey():
            return f"PKIX_RSA_PKCS1V15_{key.key_size}_SHA256"
        case ed25519.Ed25519PublicKey():
            return "PKIX_ED25519"
        case _:
            raise TypeError(key)


def v2_body(deed: Deed, kind: V2Kind) -> Json:
    """What Rekor v2 keeps of a deed."""
    verifier: Json
    if isinstance(deed.verifier, Signer):
        verifier = {"publicKey": {"rawBytes": b64(deed.verifier.spki)}}
        key: object = deed.verifier.private.public_key()
    else:
        verifier = {"x509Certificate": {"rawBytes": b64(deed.verifier.public_bytes(serialization.Encoding.DER))}}
        key = deed.verifier.public_key()
    verifier["keyDetails"] = key_details(key, deed.hashed)
    signature = {"content": b64(deed.signature), "verifier": verifier}
    name, version = kind.split()
    spec: Json
    if kind == "hashedrekord 0.0.2":
        digest = hashlib.new(deed.hashed, deed.message).digest()
        data = {"algorithm": _HASHES[deed.hashed], "digest": b64(digest)}
        spec = {"hashedRekordV002": {"data": data, "signature": signature}}
    else:
        assert deed.payload is not None, "only an envelope is logged so"
        payload = {"algorithm": "SHA2_256", "digest": b64(sha256(deed.payload))}
        spec = {"dsseV002": {"payloadHash": payload, "signatures": [signature]}}
    return {"apiVersion": version, "kind": name, "spec": spec}
