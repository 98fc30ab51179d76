"""A whole private Sigstore, and what those who trust it are given: ``trusted_root.json``, or a TUF repository that holds it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tests.simulator.images import Json
from tests.simulator.signing import Signer
from tests.simulator.sigstore.bundles import Signing, SigningSide
from tests.simulator.sigstore.ca import CertificateAuthority, CtLog
from tests.simulator.sigstore.faults import Fault, TufFault
from tests.simulator.sigstore.rekor import RekorV1, RekorV2, b64, key_details
from tests.simulator.sigstore.tsa import TimestampAuthority
from tests.simulator.sigstore.tuf import TufRepository

MEDIA_TYPE = "application/vnd.dev.sigstore.trustedroot+json;version=0.1"
Part = Literal["CA", "log", "CT", "TSA"]
Window = tuple[datetime, datetime | None]

_BEGIN = datetime(2022, 1, 1, tzinfo=UTC)
_ALWAYS: Window = (_BEGIN, None)
_PARTS: tuple[Part, ...] = ("CA", "log", "CT", "TSA")
_SECOND = timedelta(seconds=1)
#: When things are signed, unless the test says otherwise: long ago, so that no certificate of then is valid now.
SIGNING_TIME = datetime(2025, 6, 15, 12, 0, 0, tzinfo=UTC)


class PrivateSigstore(SigningSide):
    """Certificate authority, certificate transparency log, Rekor v1 and v2, timestamp authority, all with one clock.

    ``github`` makes it like GitHub's for private repositories: timestamps only, no log, no SCT.
    """

    def __init__(self, name: str = "private", *, now: datetime = SIGNING_TIME, github: bool = False) -> None:
        self.ct_log = None if github else CtLog(Signer.of("p256", f"{name} CT"), Signer.of("p256", f"{name} other CT"))
        self.github = github
        super().__init__(
            name,
            CertificateAuthority(name, self.ct_log),
            RekorV1(
                f"rekor.{name}.test - 4242",
                f"rekor.{name}.test",
                Signer.of("p256", f"{name} Rekor v1"),
                Signer.of("p256", f"{name} other Rekor v1"),
            ),
            RekorV2(
                f"log2025-1.rekor.{name}.test",
                Signer.of("ed25519", f"{name} Rekor v2"),
                Signer.of("ed25519", f"{name} other Rekor v2"),
                [Signer.of("ed25519", f"{name} witness {number}") for number in (1, 2)],
            ),
            TimestampAuthority(name),
            now,
            Signing(rekor=None) if github else Signing(),
        )

    # -- the trusted root ------------------------------------------------------------------------------------------

    def trusted_root(self, fault: Fault | None = None, *, windows: Mapping[Part, Window] | None = None) -> bytes:
        """``trusted_root.json``. ``windows`` sets ``validFor``; the faults are around the present :attr:`now`."""
        chosen = dict.fromkeys(_PARTS, _ALWAYS)
        chosen |= windows or {}
        edges = self._edge(fault)
        if edges is not None:
            chosen[edges[0]] = edges[1]
        authority, stamps = self.authority, self.timestamp_authority
        logs = (
            []
            if fault == "no log" or self.github
            else [self._rekor(log, chosen["log"]) for log in (self.rekor_v1, self.rekor_v2)]
        )
        document: Json = {
            "mediaType": MEDIA_TYPE,
            "tlogs": logs,
            "certificateAuthorities": []
            if fault == "no CA"
            else [_authority(authority.organization, authority.common_name, authority.chain(self.now, fault), chosen["CA"])],
            "ctlogs": []
            if fault == "no CT log" or self.ct_log is None
            else [_log(f"https://ct.{self.name}.test", self.ct_log.key, self.ct_log.log_id, chosen["CT"])],
            "timestampAuthorities": []
            if fault == "no TSA"
            else [_authority(stamps.organization, stamps.common_name, stamps.chain(self.now, fault), chosen["TSA"])],
        }
        return json.dumps(document, indent=1).encode()

    def write_trusted_root(self, path: Path, fault: Fault | None = None, *, windows: Mapping[Part, Window] | None = None) -> Path:
        """:meth:`trusted_root` into a file; returns its path."""
        path.write_bytes(self.trusted_root(fault, windows=windows))
        return path

    def own_ca(self, fault: Fault | None = None) -> bytes:
        """What an operator who trusts nothing but the authority's root has: its certificate as PEM."""
        return self.authority.chain(self.now, fault)[-1].public_bytes(serialization.Encoding.PEM)

    def own_tsa(self, fault: Fault | None = None) -> bytes:
        """The same for the timestamp authority."""
        return self.timestamp_authority.chain(self.now, fault)[-1].public_bytes(serialization.Encoding.PEM)

    # -- the same by TUF -------------------------------------------------------------------------------------------

    def tuf_targets(self, fault: Fault | None = None) -> dict[str, bytes]:
        """What Sigstore's repositories hold: the trusted root, and where signers find the services."""
        service = {"majorApiVersion": 1, "validFor": _window(_ALWAYS), "operator": self.authority.organization}
        selector: Json = {"selector": "ANY"}
        config = {
            "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
            "caUrls": [{"url": f"https://{self.authority.organization}", **service}],
            "oidcUrls": [{"url": f"https://oidc.{self.name}.test", **service}],
            "rekorTlogUrls": [{"url": f"https://{self.rekor_v1.name}", **service}],
            "rekorTlogConfig": selector,
            "tsaUrls": [{"url": f"https://tsa.{self.name}.test", **service}],
            "tsaConfig": selector,
        }
        return {"trusted_root.json": self.trusted_root(fault), "signing_config.v0.2.json": json.dumps(config).encode()}

    def tuf_repository(self, folder: Path, *, fault: TufFault | None = None) -> TufRepository:
        """A repository with one version of the trusted root. Faults that roll back need a client and a second version."""
        repository = TufRepository(folder, self.name)
        if fault in ("next root unsigned", "next root skips a version", "root expired"):
            repository.rotate_root(fault)
        repository.publish(self.tuf_targets(), fault)
        return repository

    def _edge(self, fault: Fault | None) -> tuple[Part, Window] | None:
        for part in _PARTS:
            windows: dict[str, Window] = {
                f"{part} window ends before": (_BEGIN, self.now - _SECOND),
                f"{part} window starts after": (self.now + _SECOND, None),
                f"{part} window ends at signing": (_BEGIN, self.now),
                f"{part} window starts at signing": (self.now, None),
            }
            if fault is not None and fault in windows:
                return part, windows[fault]
        return None

    def _rekor(self, log: RekorV1 | RekorV2, window: Window) -> Json:
        return _log(f"https://{log.name}", log.key, log.log_id, window)


def _log(url: str, key: Signer, log_id: bytes, window: Window) -> Json:
    details = key_details(key.private.public_key())
    return {
        "baseUrl": url,
        "hashAlgorithm": "SHA2_256",
        "publicKey": {"rawBytes": b64(key.spki), "keyDetails": details, "validFor": _window(window)},
        "logId": {"keyId": b64(log_id)},
    }


def _authority(organization: str, name: str, chain: tuple[x509.Certificate, ...], window: Window) -> Json:
    return {
        "subject": {"organization": organization, "commonName": name},
        "uri": f"https://{organization}",
        "certChain": {"certificates": [{"rawBytes": b64(each.public_bytes(serialization.Encoding.DER))} for each in chain]},
        "validFor": _window(window),
    }


def _window(window: Window) -> Json:
    start, end = window
    told = {"start": f"{start:%Y-%m-%dT%H:%M:%SZ}"}
    if end is not None:
        told["end"] = f"{end:%Y-%m-%dT%H:%M:%SZ}"
    return told
