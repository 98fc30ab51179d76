"""A TUF repository (specification 1.0.31) with consistent snapshots, as a folder that any file server can serve.

Laid out as Sigstore's: ``<n>.root.json``, ``timestamp.json``, ``<n>.snapshot.json``, ``<n>.targets.json``, and
``targets/<sha256>.<name>``. Two of three keys sign root and targets, one key each signs snapshot and timestamp.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import rfc8785

from tests.simulator.images import Json
from tests.simulator.signing import Signer
from tests.simulator.sigstore.faults import TufFault

Role = Literal["root", "timestamp", "snapshot", "targets"]
_ROLES: tuple[Role, ...] = ("root", "timestamp", "snapshot", "targets")
_LATER = datetime(2100, 1, 1, tzinfo=UTC)
_EARLIER = datetime(2022, 1, 1, tzinfo=UTC)
_ENDLESS = 64 << 10  #: more than any timestamp has


class TufRepository:
    """Writes one version after the other. A client is given :attr:`bootstrap` and the folder."""

    def __init__(self, folder: Path, name: str = "private", *, expires: datetime = _LATER) -> None:
        """``expires`` is judged by the real clock of those who read the repository."""
        self.folder = folder
        self.expires = expires
        self._name = name
        self._keys: dict[Role, list[Signer]] = {
            role: [
                Signer.of("ed25519", f"{name} TUF {role} {number}") for number in range(3 if role in ("root", "targets") else 1)
            ]
            for role in _ROLES
        }
        self._versions: dict[Role, int] = dict.fromkeys(_ROLES, 0)
        self._foreign = Signer.of("ed25519", f"{name} TUF foreign")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "targets").mkdir(exist_ok=True)
        self.bootstrap = self._root(None, self._keys["root"])  #: the first root, which a client is shipped with

    # -- versions --------------------------------------------------------------------------------------------------

    def publish(self, targets: Mapping[str, bytes], fault: TufFault | None = None) -> None:
        """The next version of everything but the root, with these targets by name."""
        listed: Json = {}
        for name, data in targets.items():
            digest = hashlib.sha256(data).hexdigest()
            listed[name] = {"length": len(data), "hashes": {"sha256": digest}}
            self._write_target(self.folder / "targets" / f"{digest}.{name}", data, fault)
        versions = {role: before + (-1 if fault == f"{role} rolled back" else 1) for role, before in self._versions.items()}
        versions["root"] = self._versions["root"]
        if min(versions.values()) < 1:
            raise ValueError("nothing can be rolled back before the second version")
        named = {role: version + (fault == f"{role} mixed") for role, version in versions.items()}
        self._write("targets", versions["targets"], {"targets": listed}, fault, named["targets"])
        self._write("snapshot", versions["snapshot"], _meta("targets", named["targets"]), fault, named["snapshot"])
        self._write("timestamp", versions["timestamp"], _meta("snapshot", named["snapshot"]), fault)
        self._versions = versions

    def rotate_root(self, fault: TufFault | None = None) -> None:
        """A further root with keys of its own, signed by the old ones and the new ones."""
        old = self._keys["root"]
        version = self._versions["root"] + 1
        self._keys["root"] = [Signer.of("ed25519", f"{self._name} TUF root {version}.{number}") for number in range(3)]
        new = self._keys["root"]
        self._root(fault, new if fault == "next root unsigned" else [*old[:2], *new])

    def _root(self, fault: TufFault | None, by: Sequence[Signer]) -> bytes:
        version = self._versions["root"] + 1
        told = version + 1 if fault == "next root skips a version" else version
        keys = {each.fingerprint: _key(each) for signers in self._keys.values() for each in signers}
        roles = {
            role: {"keyids": [each.fingerprint for each in signers], "threshold": min(len(signers), 2)}
            for role, signers in self._keys.items()
        }
        body = {"consistent_snapshot": True, "keys": keys, "roles": roles}
        signed = self._signed("root", told, body, _EARLIER if fault == "root expired" else self.expires, by)
        (self.folder / f"{version}.root.json").write_bytes(signed)
        self._versions["root"] = version
        return signed

    def _write(self, role: Role, version: int, body: Json, fault: TufFault | None, named: int | None = None) -> None:
        """``named`` is the version in the file's name; a timestamp has none."""
        by = self._keys[role][:2]
        if fault == f"{role} unsigned":
            by = []
        elif fault == f"{role} by another key":
            by = [self._foreign] * len(by)
        elif fault == f"{role} below threshold":
            by = by[:1]
        data = self._signed(role, version, body, _EARLIER if fault == f"{role} expired" else self.expires, by)
        if fault == f"endless {role}":
            data += b" " * _ENDLESS
        (self.folder / (f"{role}.json" if named is None else f"{named}.{role}.json")).write_bytes(data)

    def _write_target(self, path: Path, data: bytes, fault: TufFault | None) -> None:
        match fault:
            case "target missing":
                path.unlink(missing_ok=True)
            case "target changed":
                path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
            case "target longer":
                path.write_bytes(data + b" ")
            case _:
                path.write_bytes(data)

    def _signed(self, role: Role, version: int, body: Json, expires: datetime, by: Sequence[Signer]) -> bytes:
        signed = {"_type": role, "spec_version": "1.0.31", "version": version, "expires": f"{expires:%Y-%m-%dT%H:%M:%SZ}", **body}
        # TUF signs OLPC's canonical JSON: the same as RFC 8785's for ASCII texts without control characters, and whole numbers.
        message = rfc8785.dumps(signed)
        signatures = [
            {"keyid": self._keyid(role, each, number), "sig": each.sign(message).hex()} for number, each in enumerate(by)
        ]
        return json.dumps({"signatures": signatures, "signed": signed}, indent=1).encode()

    def _keyid(self, role: Role, signer: Signer, number: int) -> str:
        """A forger claims to be the key that is expected."""
        return self._keys[role][number].fingerprint if signer is self._foreign else signer.fingerprint


def _key(signer: Signer) -> Json:
    return {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": signer.spki[-32:].hex()}}


def _meta(role: Role, version: int) -> Json:
    return {"meta": {f"{role}.json": {"version": version}}}
