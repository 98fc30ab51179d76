"""SBOMs in all their wrappings, and what of them counts."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from proxy.drift.sbom import listed
from proxy.errors import EvidenceMalformed
from storage.digest import Digest

IMAGE, OTHER = Digest.of(b"image"), Digest.of(b"other")
ONE, TWO = "11" * 32, "22" * 32


def spdx(kind: str, value: str) -> dict[str, str]:
    """A checksum of SPDX 2."""
    return {"algorithm": kind, "checksumValue": value}


def cyclonedx(kind: str, value: str) -> dict[str, str]:
    """A hash of CycloneDX."""
    return {"alg": kind, "content": value}


SPDX = {
    "files": [
        {"fileName": "./bin/a", "checksums": [spdx("SHA1", "0"), spdx("SHA256", ONE)]},
        {"fileName": "./bin/b", "checksums": [spdx("SHA256", TWO.upper())]},
        {"checksums": "none"},
        7,
    ]
}
CYCLONEDX = {
    "components": [
        {"hashes": [cyclonedx("SHA-256", ONE)], "components": [{"hashes": [cyclonedx("SHA-256", TWO)]}]},
        {"hashes": [cyclonedx("MD5", "0"), cyclonedx("SHA-256", "not hex")]},
    ]
}
SPDX_3 = {"@graph": [{"verifiedUsing": [{"algorithm": "sha256", "hashValue": each}]} for each in (ONE, TWO)]}


def statement(predicate: Any, kind: str = "https://spdx.dev/Document", subject: Digest = IMAGE) -> dict[str, Any]:
    """An in-toto statement."""
    about = [{"name": "x", "digest": {subject.algorithm: subject.hex}}]
    return {"_type": "https://in-toto.io/Statement/v1", "subject": about, "predicateType": kind, "predicate": predicate}


def envelope(document: dict[str, Any]) -> dict[str, Any]:
    """The same, in a DSSE envelope."""
    return {"payloadType": "application/vnd.in-toto+json", "payload": base64.b64encode(json.dumps(document).encode()).decode()}


@pytest.mark.parametrize(
    "document",
    [
        statement(SPDX),
        statement(SPDX, "https://spdx.dev/Document/v2.3"),
        statement(SPDX_3),
        statement(CYCLONEDX, "https://cyclonedx.org/bom"),
        envelope(statement(SPDX)),
        {"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json", "dsseEnvelope": envelope(statement(SPDX))},
        statement({"Data": json.dumps(SPDX), "Timestamp": ""}),
        statement(json.dumps(CYCLONEDX), "https://cyclonedx.org/bom/v1.6"),
    ],
    ids=["SPDX 2", "with its version", "SPDX 3", "CycloneDX", "in an envelope", "in a bundle", "in Data", "as text"],
)
def test_what_is_listed(document: dict[str, Any]) -> None:
    """The SHA-256 hashes of files, however it is written and wrapped."""
    assert listed(json.dumps(document).encode(), [OTHER, IMAGE]) == {bytes.fromhex(ONE), bytes.fromhex(TWO)}


def test_what_is_no_sbom_lists_nothing() -> None:
    """Other attestations, and those of nothing."""
    for document in (statement({}, "https://slsa.dev/provenance/v1"), statement(None), statement([]), {}):
        assert listed(json.dumps(document).encode(), [IMAGE]) == frozenset()


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (json.dumps(statement(SPDX, subject=OTHER)).encode(), "another image"),
        (json.dumps({**statement(SPDX), "subject": "x"}).encode(), "another image"),
        (b"[]", "no JSON object"),
        (b"{", "cannot be read"),
        (json.dumps({"payload": "a"}).encode(), "no base64"),
        (json.dumps({"payload": "\u0663"}).encode(), "no base64"),
        (json.dumps(statement("{")).encode(), "cannot be read"),
    ],
)
def test_what_cannot_count_is_told(body: bytes, told: str) -> None:
    """Broken ones, and those about another image."""
    with pytest.raises(EvidenceMalformed, match=told):
        listed(body, [IMAGE])
