"""Which contents an SBOM lists: SPDX 2 and 3, CycloneDX, as in-toto statements, bare, in DSSE envelopes or in Sigstore bundles.

What is listed there excuses nothing: it is told beside an executable that no layer knows, so that a person can judge.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Iterator, Mapping

from proxy.errors import EvidenceMalformed, ManifestRefused
from proxy.manifest import strict_json
from storage.digest import Digest

_SPDX = "https://spdx.dev/Document"
_CYCLONEDX = "https://cyclonedx.org/bom"
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_DEPTH = 64
_VALUES = 3_000_000
#: Components within components.
_NESTED = 32


def listed(body: bytes, subjects: Collection[Digest]) -> frozenset[bytes]:
    """The SHA-256 hashes of files that an attestation about one of ``subjects`` lists; none where it is no SBOM.

    The caller has bounded ``len(body)``; its signature is not judged. Raises :class:`EvidenceMalformed` for what cannot be read.
    """
    document = _object(body)
    envelope = document.get("dsseEnvelope", document)
    if isinstance(envelope, dict) and isinstance(payload := envelope.get("payload"), str):
        try:
            document = _object(base64.b64decode(payload))
        except ValueError as error:  # not base64, or not even ASCII
            raise EvidenceMalformed("has a payload that is no base64") from error
    kind = document.get("predicateType")
    if not isinstance(kind, str) or not kind.startswith((_SPDX, _CYCLONEDX)):
        return frozenset()
    if not _about(document.get("subject"), subjects):
        raise EvidenceMalformed("speaks of another image")
    predicate = _predicate(document.get("predicate"))
    hashes = _of_cyclonedx(predicate, _NESTED) if kind.startswith(_CYCLONEDX) else _of_spdx(predicate)
    return frozenset(bytes.fromhex(each) for each in hashes if _SHA256.fullmatch(each))


def _object(body: bytes) -> Mapping[str, object]:
    try:
        value = strict_json(body, _DEPTH, _VALUES)
    except ManifestRefused as error:
        raise EvidenceMalformed(f"cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise EvidenceMalformed("is no JSON object")
    return value


def _about(named: object, subjects: Collection[Digest]) -> bool:
    for subject in _objects(named):
        digests = subject.get("digest")
        if isinstance(digests, dict) and any(digests.get(each.algorithm) == each.hex for each in subjects):
            return True
    return False


def _predicate(value: object) -> Mapping[str, object]:
    """What is said; some tools put it into a ``Data`` of their own, or into text."""
    for _ in range(3):
        if isinstance(value, str):
            value = _object(value.encode("utf-8", "surrogatepass"))
        elif isinstance(value, dict) and "Data" in value:
            value = value["Data"]
    return value if isinstance(value, dict) else {}


def _of_spdx(document: Mapping[str, object]) -> Iterator[str]:
    for file in _objects(document.get("files")):
        for checksum in _objects(file.get("checksums")):
            if checksum.get("algorithm") == "SHA256":
                yield str(checksum.get("checksumValue"))
    for element in _objects(document.get("@graph")):
        for method in _objects(element.get("verifiedUsing")):
            if method.get("algorithm") == "sha256":
                yield str(method.get("hashValue"))


def _of_cyclonedx(node: Mapping[str, object], depth: int) -> Iterator[str]:
    for component in _objects(node.get("components")):
        for each in _objects(component.get("hashes")):
            if each.get("alg") == "SHA-256":
                yield str(each.get("content"))
        if depth:
            yield from _of_cyclonedx(component, depth - 1)


def _objects(value: object) -> Iterator[Mapping[str, object]]:
    if isinstance(value, list):
        yield from (each for each in value if isinstance(each, dict))
