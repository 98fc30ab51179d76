"""What is evidence by its shape, and what only looks like it by its name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.manifest import Bounds, Entry, Manifest, parse
from proxy.verify.shapes import describe, evidence_tag, is_bundle, is_evidence, is_evidence_type, signature_tag
from storage.digest import Digest
from storage.records import Descriptor
from tests.simulator import images
from tests.simulator.images import Image
from tests.simulator.signing import SIMPLE_SIGNING, bundle_referrer, cosign_signature, disguised_image, signature_manifest
from tests.unit.verify.evidence import IMAGE, RELEASE

DIGEST = Digest.of(b"content")
BUNDLE = "application/vnd.dev.sigstore.bundle"
SIGNATURES = signature_manifest([cosign_signature(RELEASE, IMAGE.digest)])

EVIDENCE_TYPES = [
    SIMPLE_SIGNING,
    "application/vnd.dsse.envelope.v1+json",
    f"{BUNDLE}.v0.3+json",
    f"{BUNDLE}+json;version=0.2",
    BUNDLE,
    "application/jose+json",
    "application/cose",
    "application/vnd.cncf.notary.signature",
    "application/vnd.in-toto+json",
    "application/vnd.in-toto.provenance+dsse",
    "application/spdx+json",
    "text/spdx",
    "text/spdx+xml",
    "application/vnd.cyclonedx",
    "application/vnd.cyclonedx+json",
    "application/vnd.cyclonedx+xml",
    "application/vnd.syft+json",
    "application/sarif+json",
    "application/vex+json",
    "application/openvex+json",
    "application/vnd.slsa.provenance.v1+json",
]
OTHER_TYPES = [
    images.OCI_LAYER,
    images.DOCKER_LAYER,
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    images.OCI_CONFIG,
    images.OCI_MANIFEST,
    images.OCI_EMPTY,
    "application/octet-stream",
    "application/json",
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
    f"{SIMPLE_SIGNING}+gzip",
    f"x{SIMPLE_SIGNING}",
    f"{BUNDLE}s",
    "application/vnd.in-toto.a+json+tar",
    "",
]


def manifest(*layers: str, config: str | None = images.OCI_EMPTY, is_index: bool = False) -> Manifest:
    """A manifest with these media types."""
    entries = tuple(Entry(Descriptor(layer, DIGEST, 7), {}) for layer in layers)
    described = None if config is None else Descriptor(config, DIGEST, 7)
    kind = images.OCI_INDEX if is_index else images.OCI_MANIFEST
    return Manifest(kind, is_index, described, entries, (), None, None, {})


def parsed(image: Image) -> Manifest:
    """Read as a manifest."""
    return parse(image.body, image.media_type, Bounds())


@pytest.mark.parametrize("media_type", EVIDENCE_TYPES)
def test_evidence_types(media_type: str) -> None:
    """A manifest of one such layer is evidence, with an empty config, its own type, or cosign's dummy image config."""
    assert is_evidence_type(media_type)
    for config in (None, images.OCI_EMPTY, media_type, images.OCI_CONFIG, images.DOCKER_CONFIG):
        assert is_evidence(manifest(media_type, config=config))


@pytest.mark.parametrize("media_type", OTHER_TYPES)
def test_other_types_never_pass(media_type: str) -> None:
    """Such a layer makes a manifest no evidence, alone or among signatures, whatever the config says."""
    assert not is_evidence_type(media_type)
    for config in (None, images.OCI_EMPTY, SIMPLE_SIGNING, images.OCI_CONFIG):
        assert not is_evidence(manifest(media_type, config=config))
        assert not is_evidence(manifest(SIMPLE_SIGNING, media_type, config=config))
        assert not is_evidence(manifest(media_type, SIMPLE_SIGNING, config=config))


def test_configs_that_mean_something_else_do_not_pass() -> None:
    """A chart or a module does not become evidence by a layer that is."""
    assert not is_evidence(manifest(SIMPLE_SIGNING, config="application/vnd.cncf.helm.config.v1+json"))


def test_nothing_is_no_evidence() -> None:
    """A manifest without layers says nothing; an index is never evidence."""
    assert not is_evidence(manifest())
    assert not is_evidence(manifest(SIMPLE_SIGNING, is_index=True))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (SIGNATURES, True),
        (signature_manifest([cosign_signature(RELEASE, IMAGE.digest)], subject=IMAGE), True),
        (bundle_referrer(RELEASE, IMAGE), True),
        (disguised_image(), False),
        (images.image("docker", media="docker"), False),
        (images.multi_arch(), False),
        (images.referrers_index([]), False),
    ],
    ids=["cosign", "cosign referrer", "bundle", "disguised", "docker", "index", "referrers index"],
)
def test_real_manifests(image: Image, expected: bool) -> None:
    """What tools write about images passes, images do not."""
    assert is_evidence(parsed(image)) is expected


@given(
    layers=st.lists(st.sampled_from(EVIDENCE_TYPES + OTHER_TYPES), min_size=1, max_size=5),
    config=st.sampled_from([None, images.OCI_EMPTY, images.OCI_CONFIG, SIMPLE_SIGNING]),
)
def test_a_runnable_image_never_passes(layers: list[str], config: str | None) -> None:
    """In any mixture, one layer that is no evidence is enough."""
    assert is_evidence(manifest(*layers, config=config)) is all(layer in EVIDENCE_TYPES for layer in layers)


def test_bundles() -> None:
    """Bundles of all versions, by their prefix, and nothing that only begins alike."""
    assert is_bundle(f"{BUNDLE}.v0.3+json")
    assert is_bundle(f"{BUNDLE}+json;version=0.1")
    assert not is_bundle(f"{BUNDLE}xyz")
    assert not is_bundle(SIMPLE_SIGNING)


def test_evidence_tags() -> None:
    """cosign's tags and the referrers tag name the image they speak about."""
    name = f"sha256-{DIGEST.hex}"
    for tag in (name, f"{name}.sig", f"{name}.att", f"{name}.sbom"):
        assert evidence_tag(tag) == DIGEST
    long = Digest.of(b"content", "sha512")
    assert evidence_tag(f"sha512-{long.hex}") == long


@pytest.mark.parametrize(
    "tag",
    [
        "latest",
        f"sha256:{DIGEST.hex}.sig",
        f"sha256-{DIGEST.hex}.exe",
        f"sha256-{DIGEST.hex}.sig.sig",
        f"sha256-{DIGEST.hex}.sig\n",
        f"sha256-{DIGEST.hex.upper()}.sig",
        f"sha256-{DIGEST.hex}0.sig",
        f"sha512-{DIGEST.hex}.sig",
        f"sha1-{DIGEST.hex[:40]}.sig",
        f"xsha256-{DIGEST.hex}.sig",
    ],
)
def test_other_tags_are_tags_like_any(tag: str) -> None:
    """What is not exactly such a name is an ordinary tag, under an ordinary rule."""
    assert evidence_tag(tag) is None


@given(st.text(max_size=150))
def test_any_text_may_be_asked_about(tag: str) -> None:
    """No text raises."""
    found = evidence_tag(tag)
    assert found is None or tag.startswith(f"{found.algorithm}-{found.hex}")


def test_signature_tag() -> None:
    """Where cosign keeps signatures; for sha512 that would be longer than a tag can be."""
    assert signature_tag(DIGEST) == f"sha256-{DIGEST.hex}.sig"
    assert signature_tag(Digest.of(b"content", "sha512")) is None


def test_descriptions() -> None:
    """What people read about a manifest that is of no use."""
    assert describe(parsed(images.multi_arch())) == "an index"
    provenance = bundle_referrer(RELEASE, IMAGE, predicate="https://slsa.dev/provenance/v1")
    assert describe(parsed(provenance)) == "an attestation (https://slsa.dev/provenance/v1)"
    assert describe(parsed(SIGNATURES)) == f"{images.OCI_CONFIG} with {SIMPLE_SIGNING}"
    assert describe(manifest(config=None)) == "untyped with no layers"
