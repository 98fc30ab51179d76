"""Which media types are evidence, and which manifests are nothing but evidence.

Signatures, attestations and SBOMs are not signed themselves, so they are let through by their shape: a manifest of which
every layer is of an evidence type. No client runs such layers; a runnable image under a signature's tag does not pass.
"""

from __future__ import annotations

import re

from proxy.manifest import Manifest
from storage.digest import Digest
from storage.errors import MalformedName
from storage.reference import parse_tag

DSSE = "application/vnd.dsse.envelope.v1+json"
SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
#: An OpenPGP signature that was found beside the registry, as it is kept here.
OPENPGP = "application/vnd.tagstone.simplesigning.openpgp.v1"
#: What cosign writes beside a bundle about its contents: a hint to what is worth fetching, and no more.
PREDICATE_ANNOTATION = "dev.sigstore.bundle.predicateType"

_IMAGE_CONFIGS = frozenset({"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"})
#: Configs of artifacts that say nothing of their own.
_BLANK_CONFIGS = frozenset({"application/vnd.oci.empty.v1+json", "application/vnd.unknown.config.v1+json"})
_EVIDENCE_TYPES = (
    # signatures
    r"application/vnd\.dev\.cosign\.simplesigning\.v1\+json",
    r"application/vnd\.dev\.cosign\.artifact\.(?:sig|att|sbom)\.v1\+json",
    r"application/vnd\.dev\.sigstore\.bundle(?:[.+;][a-z0-9.+;= ]{1,60})?",
    r"application/vnd\.cncf\.notary\.signature",
    r"application/jose\+json",
    r"application/cose",
    r"application/vnd\.tagstone\.simplesigning\.openpgp\.v1",
    # attestations
    r"application/vnd\.dsse\.envelope\.v1\+json",
    r"application/vnd\.in-toto(?:\.[a-z0-9.-]{1,60})?\+(?:json|dsse)",
    r"application/vnd\.slsa(?:\.[a-z0-9.-]{1,60})?\+json",
    # what is in an image, and what was found there
    r"(?:application|text)/(?:vnd\.)?spdx(?:\+json|\+xml)?",
    r"application/vnd\.cyclonedx(?:\+json|\+xml)?",
    r"application/vnd\.syft\+json",
    r"application/sarif\+json",
    r"application/(?:vnd\.)?(?:open)?vex\+json",
    r"application/(?:vnd\.)?csaf\+json",
)
_BUNDLE = re.compile(
    r"application/vnd\.dev\.sigstore\.bundle(?:\.v0\.([123])\+json|\+json;\s*version=(?:v)?0\.([123]))", re.ASCII
)
_EVIDENCE = re.compile("|".join(_EVIDENCE_TYPES), re.ASCII)
_EVIDENCE_TAG = re.compile(r"(sha256|sha512)-([0-9a-f]{64,128})(?:\.(?:sig|att|sbom))?", re.ASCII)


def is_evidence_type(media_type: str) -> bool:
    """Whether content of this media type speaks about an image and cannot be one."""
    return _EVIDENCE.fullmatch(media_type) is not None


def is_bundle(media_type: str) -> bool:
    """Whether this is a Sigstore bundle of whatever version."""
    return media_type.startswith("application/vnd.dev.sigstore.bundle") and is_evidence_type(media_type)


def bundle_version(media_type: str) -> int | None:
    """The minor version of a Sigstore bundle of version 0.1, 0.2 or 0.3, in whatever spelling; None for anything else."""
    found = _BUNDLE.fullmatch(media_type)
    return None if found is None else int(found[1] or found[2])


def is_evidence(manifest: Manifest) -> bool:
    """Whether a manifest is evidence and nothing else: at least one layer, and each of them of an evidence type.

    The config may be empty or of an evidence type. It may also be an image's, because cosign v2 writes one beside its
    signatures; without a single layer to unpack there is still nothing to run. An index never is evidence.
    """
    if manifest.is_index or not manifest.layers:
        return False
    if not all(is_evidence_type(layer.descriptor.media_type) for layer in manifest.layers):
        return False
    config = manifest.config
    return (
        config is None
        or config.media_type in _BLANK_CONFIGS
        or config.media_type in _IMAGE_CONFIGS
        or is_evidence_type(config.media_type)
    )


def has_image_config(manifest: Manifest) -> bool:
    """Whether the config is an image's: some clients would then unpack the layers, whatever media types these claim."""
    return manifest.config is not None and manifest.config.media_type in _IMAGE_CONFIGS


def is_text(content: bytes) -> bool:
    """Whether content is UTF-8 without NUL, as every JSON, SPDX or XML document is and no layer, packed or not, can be."""
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in content


def describe(manifest: Manifest) -> str:
    """What a manifest says it is, for people; text of strangers, not yet fit for a header."""
    if manifest.is_index:
        return "an index"
    if predicate := manifest.annotations.get(PREDICATE_ANNOTATION):
        return f"an attestation ({predicate})"
    kind = manifest.artifact_type or (manifest.config.media_type if manifest.config is not None else "untyped")
    layers = dict.fromkeys(layer.descriptor.media_type for layer in manifest.layers)
    return f"{kind} with {', '.join(layers) or 'no layers'}"


def signature_tag(digest: Digest) -> str | None:
    """The tag under which cosign keeps an image's signatures; None where that would be no tag (sha512 is too long)."""
    return _cosign_tag(digest, "sig")


def attestation_tag(digest: Digest) -> str | None:
    """The tag under which cosign keeps an image's attestations; None as for :func:`signature_tag`."""
    return _cosign_tag(digest, "att")


def _cosign_tag(digest: Digest, kind: str) -> str | None:
    try:
        return parse_tag(f"{digest.algorithm}-{digest.hex}.{kind}")
    except MalformedName:
        return None


def evidence_tag(tag: str) -> Digest | None:
    """The image that a tag speaks about: ``sha256-<hex>`` (referrers) with ``.sig``, ``.att`` or ``.sbom`` (cosign).

    A name, and nothing more: what stands under it must still have the shape of evidence.
    """
    found = _EVIDENCE_TAG.fullmatch(tag)
    if found is None:
        return None
    try:
        return Digest.parse(f"{found[1]}:{found[2]}")
    except MalformedName:
        return None
