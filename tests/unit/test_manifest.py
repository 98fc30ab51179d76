"""Manifests and indexes: what is read, and everything that two readers could take for two different things."""

from __future__ import annotations

import base64
import copy
import json
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import ManifestRefused
from proxy.manifest import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    MANIFEST_TYPES,
    MOST_VALUES,
    OCI_INDEX,
    OCI_MANIFEST,
    Bounds,
    Manifest,
    parse,
    strict_json,
)
from proxy.settings import Limits
from storage.digest import Digest
from storage.records import Descriptor, Edge, Kind

BOUNDS = Bounds()
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+json"
SIGNED_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"
SELF = Digest.of(b"the document itself")

Document = dict[str, Any]


def descriptor(content: bytes = b"layer", media_type: str = LAYER_TYPE, **more: Any) -> Document:
    """A descriptor of ``content``."""
    return {"mediaType": media_type, "digest": str(Digest.of(content)), "size": len(content), **more}


def image(**changes: Any) -> Document:
    """An OCI image manifest; ``changes`` replace keys, None removes one."""
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(b"{}", CONFIG_TYPE),
        "layers": [descriptor(b"one"), descriptor(b"two")],
        **changes,
    }
    return {key: value for key, value in document.items() if value is not None}


def index(**changes: Any) -> Document:
    """An OCI index of two images."""
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [
            descriptor(b"amd64", OCI_MANIFEST, platform={"architecture": "amd64", "os": "linux"}),
            descriptor(b"arm64", OCI_MANIFEST, platform={"architecture": "arm64", "os": "linux", "variant": "v8"}),
        ],
        **changes,
    }
    return {key: value for key, value in document.items() if value is not None}


def read(document: Document | bytes, media_type: str = "", bounds: Bounds = BOUNDS) -> Manifest:
    """Read a document as it would come."""
    return parse(document if isinstance(document, bytes) else json.dumps(document).encode(), media_type, bounds)


def refused(document: Document | bytes, media_type: str = "", bounds: Bounds = BOUNDS) -> str:
    """Why a document is refused."""
    with pytest.raises(ManifestRefused) as caught:
        read(document, media_type, bounds)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 400
    return message


# -- what is read ---------------------------------------------------------------------------------------------------


def test_an_image_manifest_reaches_its_config_and_layers() -> None:
    """Config first, then the layers in their order, each once."""
    twice = descriptor(b"one")
    manifest = read(image(layers=[twice, descriptor(b"two"), twice]), OCI_MANIFEST)
    assert manifest.media_type == OCI_MANIFEST
    assert not manifest.is_index
    assert manifest.config == Descriptor(CONFIG_TYPE, Digest.of(b"{}"), 2)
    assert [entry.descriptor.digest for entry in manifest.layers] == [Digest.of(b"one"), Digest.of(b"two"), Digest.of(b"one")]
    assert manifest.edges(SELF) == tuple(
        Edge(SELF, Descriptor(kind, Digest.of(content), len(content)), Kind.BLOB)
        for kind, content in ((CONFIG_TYPE, b"{}"), (LAYER_TYPE, b"one"), (LAYER_TYPE, b"two"))
    )


def test_an_index_reaches_its_manifests() -> None:
    """Manifests, each once, even where two platforms share one."""
    document = index()
    document["manifests"].append(
        {**document["manifests"][0], "platform": {"architecture": "amd64", "os": "linux", "variant": "v2"}}
    )
    manifest = read(document, OCI_INDEX)
    assert manifest.is_index
    assert manifest.config is None
    assert manifest.layers == ()
    assert len(manifest.manifests) == 3
    assert manifest.edges(SELF) == tuple(
        Edge(SELF, Descriptor(OCI_MANIFEST, Digest.of(content), 5), Kind.MANIFEST) for content in (b"amd64", b"arm64")
    )


@pytest.mark.parametrize(
    ("document", "media_type"),
    [
        (image(), OCI_MANIFEST),
        (image(mediaType=DOCKER_MANIFEST), DOCKER_MANIFEST),
        (index(), OCI_INDEX),
        (index(mediaType=DOCKER_LIST), DOCKER_LIST),
    ],
    ids=["oci image", "docker image", "oci index", "docker list"],
)
@pytest.mark.parametrize("header", ["same", "", "application/json", "application/octet-stream", "text/plain"])
def test_the_type_is_the_header_or_the_documents_own_word(document: Document, media_type: str, header: str) -> None:
    """Servers that do not know what they hold leave the document to say it."""
    assert read(document, media_type if header == "same" else header).media_type == media_type


@pytest.mark.parametrize(("document", "media_type"), [(image(mediaType=None), OCI_MANIFEST), (index(mediaType=""), OCI_INDEX)])
def test_mediatype_may_be_missing_where_the_header_says_it(document: Document, media_type: str) -> None:
    """OCI documents need not name their own type."""
    assert read(document, media_type).media_type == media_type


def test_what_stands_beside_the_descriptors_is_kept() -> None:
    """Annotations, artifact types and the subject come out as they went in."""
    subject = descriptor(b"image", OCI_MANIFEST)
    manifest = read(
        image(
            artifactType="application/vnd.example.sbom",
            annotations={"org.example.name": "value", "": ""},
            subject=subject,
            layers=[descriptor(b"sbom", annotations={"a": "b"}, artifactType="text/spdx")],
        )
    )
    assert manifest.artifact_type == "application/vnd.example.sbom"
    assert manifest.annotations == {"org.example.name": "value", "": ""}
    assert manifest.subject == Descriptor(OCI_MANIFEST, Digest.of(b"image"), 5)
    assert manifest.layers[0].annotations == {"a": "b"}
    assert manifest.layers[0].artifact_type == "text/spdx"
    assert read(image(artifactType="")).artifact_type is None


def test_sha512_descriptors_are_read() -> None:
    """Either registered algorithm may name content."""
    digest = Digest.of(b"layer", "sha512")
    manifest = read(image(layers=[{"mediaType": LAYER_TYPE, "digest": str(digest), "size": 5}]))
    assert manifest.layers[0].descriptor.digest == digest


def test_keys_that_nobody_reads_are_let_through() -> None:
    """The specification lets documents grow: unknown keys are no reason to refuse, in any depth."""
    manifest = read(image(extra={"Config": [1.5, None, True]}, layers=[descriptor(b"one", more=[])]))
    assert len(manifest.layers) == 1
    assert read(index(manifests=[])).manifests == ()


# -- promise 11: two meanings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "header"),
    [
        (image(), OCI_INDEX),
        (index(), OCI_MANIFEST),
        (image(), DOCKER_MANIFEST),
        (index(), DOCKER_LIST),
        (image(mediaType=OCI_INDEX), OCI_MANIFEST),
        (image(mediaType="application/json"), OCI_MANIFEST),
        (image(mediaType="a\n\x1b[31m" + "b" * 5000), OCI_MANIFEST),
    ],
)
def test_promise_11_a_header_that_contradicts_the_document_is_refused(document: Document, header: str) -> None:
    """Content-Type and ``mediaType`` must agree (CVE-2021-41190)."""
    assert "CVE-2021-41190" in refused(document, header)


@pytest.mark.parametrize("header", ["", OCI_MANIFEST, OCI_INDEX])
@pytest.mark.parametrize(
    "document",
    [
        {**image(), **index(), "mediaType": OCI_MANIFEST},
        {**image(), **index(), "mediaType": OCI_INDEX},
        image(manifests=[]),
        index(layers=[]),
        index(config=descriptor(b"{}", CONFIG_TYPE)),
        index(config={}),
    ],
    ids=["both, image", "both, index", "empty manifests", "empty layers", "config", "empty config"],
)
def test_promise_11_image_and_index_at_once_is_refused(document: Document, header: str) -> None:
    """``manifests`` never stands together with ``layers`` or ``config``, not even empty, whoever names the type."""
    if header:
        document = {key: value for key, value in document.items() if key != "mediaType"}
    assert "CVE-2021-41190" in refused(document, header)


def test_promise_11_a_null_beside_the_real_content_means_nothing() -> None:
    """``null`` is what every reader takes for absent."""
    assert read({**image(), "manifests": None}).config is not None
    assert read({**index(), "layers": None, "config": None}).is_index


@pytest.mark.parametrize("document", [image(mediaType=None), index(mediaType=None), image(mediaType="")])
@pytest.mark.parametrize("header", ["", "application/json"])
def test_promise_11_a_document_without_any_type_is_refused(document: Document, header: str) -> None:
    """Without a word from either side each reader would guess for itself."""
    assert "which media type" in refused(document, header)


# -- promise 12: JSON that means one thing --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param(b'{"a":1,"a":2}', "stands twice", id="duplicate key"),
        pytest.param(b'{"a":1,"a":1}', "stands twice", id="duplicate key, same value"),
        pytest.param(b'{"a":1,"\\u0061":2}', "stands twice", id="duplicate key, one of them escaped"),
        pytest.param(b'[{"b":{"a":1,"c":3,"a":2}}]', "stands twice", id="duplicate key, deep"),
        pytest.param(b'{"a":NaN}', "not valid JSON", id="NaN"),
        pytest.param(b'{"a":Infinity}', "not valid JSON", id="Infinity"),
        pytest.param(b'{"a":-Infinity}', "not valid JSON", id="minus Infinity"),
        pytest.param(b'{"a":"\xff"}', "UTF-8", id="invalid UTF-8"),
        pytest.param(b'{"a":"\xc0\xaf"}', "UTF-8", id="overlong UTF-8"),
        pytest.param(b'{"a":"\xed\xa0\x80"}', "UTF-8", id="a surrogate in UTF-8"),
        pytest.param('{"a":1}'.encode("utf-16"), "UTF-8", id="UTF-16"),
        pytest.param(b'{"a":"\\ud800"}', "surrogate", id="half a surrogate pair"),
        pytest.param(b'{"\\udfff":1}', "surrogate", id="half a surrogate pair in a key"),
        pytest.param(b'["\\udfff\\ud800"]', "surrogate", id="a pair the wrong way round"),
        pytest.param(b'\xef\xbb\xbf{"a":1}', "not valid JSON", id="byte order mark"),
        pytest.param(b"", "not valid JSON", id="nothing"),
        pytest.param(b"\x00", "not valid JSON", id="NUL"),
        pytest.param(b'{"a":1} {}', "not valid JSON", id="a second document behind"),
        pytest.param(b'{"a":1,}', "not valid JSON", id="trailing comma"),
        pytest.param(b"{'a':1}", "not valid JSON", id="single quotes"),
        pytest.param(b'{"a":01}', "not valid JSON", id="leading zero"),
        pytest.param(b'{"a":0x1}', "not valid JSON", id="hexadecimal"),
        pytest.param(b'{"a":"\n"}', "not valid JSON", id="line break in text"),
        pytest.param(b'{"a":/**/1}', "not valid JSON", id="comment"),
        pytest.param(b'{"a":' + b"9" * 5000 + b"}", "not valid JSON", id="a number of thousands of digits"),
        pytest.param(b"[" * 100_000, "deeper|not valid", id="deep beyond every stack"),
        pytest.param(b"[" * 100_000 + b"]" * 100_000, "deeper", id="deep and closed"),
        pytest.param(b'{"a":' * 5000 + b"1" + b"}" * 5000, "deeper", id="deep objects"),
    ],
)
def test_promise_12_json_that_readers_take_differently_is_refused(body: bytes, reason: str) -> None:
    """Strict JSON in UTF-8, every key once, every number finite, nothing behind it, nested within bounds."""
    with pytest.raises(ManifestRefused, match=reason):
        strict_json(body)


@pytest.mark.parametrize(
    ("body", "depth", "fits"),
    [
        (b"1", 1, True),
        (b"[1]", 1, True),
        (b"[[1]]", 1, False),
        (b"[[1]]", 2, True),
        (b'{"a":[{"b":1}]}', 3, True),
        (b'{"a":[{"b":1}]}', 2, False),
        (b"[" * 32 + b"1" + b"]" * 32, 32, True),
        (b"[" * 33 + b"1" + b"]" * 33, 32, False),
    ],
)
def test_promise_12_nesting_is_counted(body: bytes, depth: int, fits: bool) -> None:
    """Exactly as many levels as the bound says."""
    if fits:
        strict_json(body, depth)
    else:
        with pytest.raises(ManifestRefused, match=f"deeper than {depth} levels"):
            strict_json(body, depth)


def test_promise_12_hostile_documents_are_refused_in_no_time() -> None:
    """A hundred thousand keys, the last of them twice, and megabytes of odd text cost no more than their length."""
    keys = ",".join(f'"{number}":0' for number in range(100_000))
    began = time.monotonic()
    assert "stands twice" in refused(b"{" + keys.encode() + b',"99999":0}')
    assert "surrogate" in refused(b'{"a":"' + "ä".encode() * 500_000 + b'\\ud800"}')
    assert "not a JSON object" in refused(b"[" + b"{}," * 60_000 + b"{}]")
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("body", [b"[]", b"1", b'"text"', b"null", b"true"])
def test_a_document_is_an_object(body: bytes) -> None:
    """Nothing else is a manifest."""
    assert "not a JSON object" in refused(body, OCI_MANIFEST)


@pytest.mark.parametrize(
    ("document", "key"),
    [
        (image(Config=descriptor(b"evil")), "Config"),
        (image(LAYERS=[descriptor(b"evil")]), "LAYERS"),
        (image(Manifests=[]), "Manifests"),
        (image(MediaType=OCI_INDEX), "MediaType"),
        (image(schemaversion=1), "schemaversion"),
        (image(Subject=descriptor(b"evil")), "Subject"),
        (image(ArtifactType="a/b"), "ArtifactType"),
        (image(Annotations={}), "Annotations"),
        (image(FSLayers=[]), "FSLayers"),
        ({**index(), "manife\u017ft\u017f": []}, "manife"),
        ({**image(), "layer\u017f": []}, "layer"),
        (image(config=descriptor(b"{}", CONFIG_TYPE, Digest=str(Digest.of(b"evil")))), "Digest"),
        (image(config=descriptor(b"{}", CONFIG_TYPE, SIZE=3)), "SIZE"),
        (image(layers=[descriptor(b"one", URLs=["https://evil.example/"])]), "URLs"),
        (image(layers=[descriptor(b"one", Data="ZXZpbA==")]), "Data"),
        (image(layers=[descriptor(b"one", MediaType="a/b")]), "MediaType"),
        (image(subject=descriptor(b"image", OCI_MANIFEST, digesT="x")), "digesT"),
        (index(manifests=[descriptor(b"amd64", OCI_MANIFEST, Platform={})]), "Platform"),
        (index(manifests=[descriptor(b"amd64", OCI_MANIFEST, platform={"os": "linux", "OS": "windows"})]), "OS"),
        (index(manifests=[descriptor(b"amd64", OCI_MANIFEST, platform={"Architecture": "arm64"})]), "Architecture"),
    ],
)
def test_promise_12_keys_that_differ_in_case_are_refused(document: Document, key: str) -> None:
    """Go's encoding/json matches keys without regard to case, the long s included, and takes the last one."""
    message = refused(document)
    assert key in message
    assert "some clients would read as" in message


def test_annotations_are_case_sensitive() -> None:
    """Their keys are data: no reader folds them."""
    assert read(image(annotations={"Config": "1", "config": "2"})).annotations == {"Config": "1", "config": "2"}


# -- promise 13: schema 1 and unknown types -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "header"),
    [
        ({"schemaVersion": 1, "name": "a", "tag": "b", "fsLayers": [], "history": [], "signatures": []}, SIGNED_SCHEMA_1),
        ({"schemaVersion": 1, "name": "a", "tag": "b", "fsLayers": [], "history": []}, SCHEMA_1),
        ({"schemaVersion": 1, "fsLayers": []}, ""),
        ({"schemaVersion": 1, "fsLayers": []}, "application/json"),
        (image(schemaVersion=1), OCI_MANIFEST),
        (image(fsLayers=[]), OCI_MANIFEST),
        (image(mediaType=SCHEMA_1), ""),
        (image(mediaType=SIGNED_SCHEMA_1), ""),
        (image(), SCHEMA_1),
    ],
)
def test_promise_13_schema_1_is_refused(document: Document, header: str) -> None:
    """By header, by mediaType, by version and by shape; with words on what to do."""
    assert "schema 1" in refused(document, header)


@pytest.mark.parametrize(
    "media_type",
    [
        "application/vnd.oci.artifact.manifest.v1+json",
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.oci.image.manifest.v2+json",
        "application/vnd.oci.image.manifest.v1",
        "application/vnd.oci.image.manifest.v1+json; charset=utf-8",
        "application/VND.oci.image.manifest.v1+json",
        " " + OCI_MANIFEST,
        "text/html",
        "*/*",
    ],
)
def test_promise_13_unknown_types_are_refused(media_type: str) -> None:
    """Only the four types are handed out, spelled exactly."""
    assert "not a manifest type" in refused(image(mediaType=None), media_type)
    assert "not a manifest type" in refused(image(mediaType=media_type))


@pytest.mark.parametrize("version", [None, 0, 3, "2", 2.0, True, [2], {}])
def test_promise_13_only_schema_version_2_is_read(version: object) -> None:
    """The number two, and nothing that some languages take for it."""
    document = image()
    document["schemaVersion"] = version
    assert "schema" in refused(document)


@pytest.mark.parametrize("key", ["history", "signatures", "blobs"])
def test_promise_13_keys_of_other_formats_are_refused(key: str) -> None:
    """A document that also carries the content of another format is none of ours."""
    assert key in refused(image(**{key: []}))


# -- promise 14: sizes ----------------------------------------------------------------------------------------------


def test_promise_14_a_manifest_above_the_limit_is_refused_unread() -> None:
    """The limit holds before anything is parsed: what is too long need not even be JSON."""
    body = json.dumps(image()).encode()
    assert read(body, bounds=replace(BOUNDS, manifest_size=len(body))).media_type == OCI_MANIFEST
    assert "the limit is" in refused(body, bounds=replace(BOUNDS, manifest_size=len(body) - 1))
    assert "the limit is 4" in refused(b"\xff" * 5, bounds=replace(BOUNDS, manifest_size=4))


@pytest.mark.parametrize("size", [-1, -(1 << 63), 1.0, 1e2, "5", True, False, None, [], {}])
def test_promise_14_what_is_no_size_is_refused(size: object) -> None:
    """Sizes are whole numbers from zero up; no text, no fraction, no truth value."""
    for document in (
        image(config={**descriptor(b"{}", CONFIG_TYPE), "size": size}),
        image(layers=[{**descriptor(), "size": size}]),
        image(subject={**descriptor(b"image", OCI_MANIFEST), "size": size}),
        index(manifests=[{**descriptor(b"amd64", OCI_MANIFEST), "size": size}]),
    ):
        assert "no proper size" in refused(document)


def test_promise_14_declared_sizes_are_bounded() -> None:
    """Blobs, manifests and subjects each have their limit, exactly."""
    at = {**descriptor(), "size": BOUNDS.blob_size}
    assert read(image(layers=[at])).layers[0].descriptor.size == BOUNDS.blob_size
    assert "layers[0]" in refused(image(layers=[{**at, "size": BOUNDS.blob_size + 1}]))
    assert "config" in refused(image(config={**at, "size": 1 << 80}))
    assert "subject" in refused(image(subject={**at, "size": 1 << 80}))
    child = {**descriptor(b"amd64", OCI_MANIFEST), "size": BOUNDS.manifest_size}
    assert read(index(manifests=[child])).manifests[0].descriptor.size == BOUNDS.manifest_size
    assert "manifests[0]" in refused(index(manifests=[{**child, "size": BOUNDS.manifest_size + 1}]))


def test_promise_14_one_digest_with_two_sizes_is_refused() -> None:
    """One of the two is a lie, wherever the second one stands."""
    one, other = descriptor(b"one"), {**descriptor(b"one"), "size": 4}
    for document in (
        image(layers=[one, other]),
        image(config=one, layers=[other]),
        image(layers=[one], subject=other),
        index(manifests=[one, other]),
        index(manifests=[one], subject=other),
    ):
        assert "declared with two sizes, 3 and 4" in refused(document)


# -- promise 15: amplification --------------------------------------------------------------------------------------


def test_promise_15_counts_and_sums_are_bounded() -> None:
    """An index cannot promise more manifests, more layers or more bytes than are allowed."""
    bounds = replace(BOUNDS, index_manifests=2, layers=2, index_total=10)
    assert len(read(index(), bounds=bounds).manifests) == 2
    assert "the limit is 2" in refused(index(manifests=[descriptor(b"amd64")] * 3), bounds=bounds)
    assert "the limit is 2" in refused(image(layers=[descriptor(b"one")] * 3), bounds=bounds)
    assert "declares 11 bytes" in refused(index(manifests=[descriptor(b"amd64"), descriptor(b"arm/v7")]), bounds=bounds)


@pytest.mark.parametrize("piece", ["[]", "{}", "0", '""', '{"a":1}'])
def test_promise_15_documents_do_not_swell(piece: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four megabytes of tiny values are refused before anything is built of them."""
    many = ",".join([piece] * (4_190_000 // (len(piece) + 1)))
    body = json.dumps(image(more=[])).replace("[]", f"[{many}]").encode()
    assert 4_000_000 < len(body) <= BOUNDS.manifest_size

    def never(*_: object, **__: object) -> object:
        raise AssertionError("it was read")

    monkeypatch.setattr(json, "loads", never)
    assert refused(body) == f"the document holds more than {MOST_VALUES} values"


def test_promise_15_the_largest_true_index_is_read() -> None:
    """Four megabytes: a thousand manifests, each with a platform and a hundred annotations."""
    notes = {f"org.example.note.{number}": "x" * 10 for number in range(100)}
    platform = {"architecture": "amd64", "os": "linux", "os.version": "1", "os.features": ["win32k"], "variant": "v2"}
    entries = [
        descriptor(f"{number}".encode(), OCI_MANIFEST, artifactType=OCI_MANIFEST, platform=platform, annotations=notes)
        for number in range(1000)
    ]
    document = index(manifests=entries)
    assert 4_000_000 < len(json.dumps(document)) <= BOUNDS.manifest_size
    assert len(read(document).manifests) == 1000


# -- promise 16: digests in descriptors and annotations -------------------------------------------------------------

MALFORMED = [
    "",
    "latest",
    "sha256:",
    "sha256:" + "ab" * 31,
    "sha256:" + "AB" * 32,
    "SHA256:" + "ab" * 32,
    "md5:" + "ab" * 16,
    "sha256:" + "../" * 21 + "x",
    "sha256:" + "ab" * 32 + "/../../other/blobs",
    "sha256:" + "ab" * 32 + "\n",
    str(SELF) + "\x00",
]


@pytest.mark.parametrize("text", MALFORMED)
@pytest.mark.parametrize("where", ["config", "layers[1]", "subject", "manifests[0]"])
def test_promise_16_a_malformed_digest_is_refused_wherever_it_stands(text: str, where: str) -> None:
    """Clients build paths from digests (CVE-2024-3727): none leaves here unchecked, and the message says where it was."""
    bad = {"mediaType": LAYER_TYPE, "digest": text, "size": 5}
    document = {
        "config": image(config=bad),
        "layers[1]": image(layers=[descriptor(), bad]),
        "subject": image(subject=bad),
        "manifests[0]": index(manifests=[bad]),
    }[where]
    assert refused(document).startswith(f"{where}: ")


@pytest.mark.parametrize("text", [text for text in MALFORMED if text])
@pytest.mark.parametrize("key", ["org.opencontainers.image.base.digest", "vnd.docker.reference.digest", "x.digest"])
def test_promise_16_a_malformed_digest_in_an_annotation_is_refused(text: str, key: str) -> None:
    """Annotations that hold digests hold proper ones, of the document and of each descriptor."""
    for document in (
        image(annotations={key: text}),
        index(annotations={key: text}),
        image(config=descriptor(b"{}", CONFIG_TYPE, annotations={key: text})),
        image(layers=[descriptor(annotations={key: text})]),
        image(subject=descriptor(annotations={key: text})),
        index(manifests=[descriptor(annotations={key: text})]),
    ):
        assert "is no digest" in refused(document)


def test_an_annotation_for_a_digest_may_be_empty_or_right() -> None:
    """Builders leave it empty for images from scratch."""
    key = "org.opencontainers.image.base.digest"
    for text in ("", str(SELF), str(Digest.of(b"", "sha512"))):
        assert read(image(annotations={key: text})).annotations == {key: text}


@pytest.mark.parametrize("value", [None, 5, [], {}, str(SELF).encode().hex()])
def test_promise_16_a_digest_that_is_missing_or_no_text_is_refused(value: object) -> None:
    """Every descriptor has a digest."""
    bad = {**descriptor(), "digest": value}
    assert "layers[0]" in refused(image(layers=[bad]))
    del bad["digest"]
    assert "layers[0] has no digest" in refused(image(layers=[bad]))


# -- promise 18: urls and embedded data -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "urls", [["https://evil.example/layer"], [""], [None], [[]], "https://evil.example/", "", {"a": 1}, {}, 0, False]
)
def test_promise_18_descriptors_with_urls_are_refused(urls: Any) -> None:
    """Clients dial them past every mirror (CVE-2020-15157): in layers, config, children and subject alike."""
    for document in (
        image(layers=[descriptor(urls=urls)]),
        image(config=descriptor(b"{}", CONFIG_TYPE, urls=urls)),
        image(subject=descriptor(urls=urls)),
        index(manifests=[descriptor(b"amd64", OCI_MANIFEST, urls=urls)]),
    ):
        assert "CVE-2020-15157" in refused(document)


def test_promise_18_an_empty_list_of_urls_names_nothing() -> None:
    """Some tools write the key without content."""
    assert read(image(layers=[descriptor(urls=[])])).layers
    assert read(image(layers=[descriptor(urls=None)])).layers


def test_embedded_data_is_the_content_it_stands_for() -> None:
    """Where a descriptor carries its content, it is that content."""
    data = base64.b64encode(b"{}").decode()
    assert read(image(config=descriptor(b"{}", CONFIG_TYPE, data=data))).config


@pytest.mark.parametrize(
    "data",
    [
        base64.b64encode(b"[]").decode(),
        base64.b64encode(b"{} ").decode(),
        "",
        "e30",  # without its padding
        "e30=\n",
        "e 30=",
        "e30=e30=",
        "e30==",
        "=e30=",
        "é30=",
        "e3_-",
        5,
        [],
        {},
    ],
)
def test_promise_11_embedded_data_that_is_other_content_is_refused(data: object) -> None:
    """Some readers use it instead of what they fetch."""
    assert "data" in refused(image(config=descriptor(b"{}", CONFIG_TYPE, data=data)))


def test_embedded_data_of_another_size_is_refused() -> None:
    """The digest may be right: the size that is declared must be that of the content, too."""
    config = {**descriptor(b"{}", CONFIG_TYPE, data=base64.b64encode(b"{}").decode()), "size": 3}
    assert "data" in refused(image(config=config))


def test_promise_14_the_bounds_are_those_of_the_settings() -> None:
    """Who configures nothing gets the same bounds here as in the configuration."""
    assert Limits().bounds() == BOUNDS
    assert (BOUNDS.manifest_size, BOUNDS.json_depth) == (4 * 1024 * 1024, 32)  # what the specification asks for, at least


# -- shape ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (image(config=None), "config is not a descriptor"),
        (image(config=[]), "config is not a descriptor"),
        (image(config="sha256:x"), "config is not a descriptor"),
        (image(layers=None), "layers is not a list"),
        (image(layers={}), "layers is not a list"),
        (image(layers=[[]]), "layers[0] is not a descriptor"),
        (image(layers=[descriptor(), None]), "layers[1] is not a descriptor"),
        (index(manifests=None), "manifests is not a list"),
        (index(manifests="x"), "manifests is not a list"),
        (image(subject=[]), "subject is not a descriptor"),
        (image(mediaType=5), "mediaType is not text"),
        (image(layers=[{**descriptor(), "mediaType": None}]), "layers[0] has no proper mediaType"),
        (image(layers=[{**descriptor(), "mediaType": "tar"}]), "layers[0] has no proper mediaType"),
        (image(layers=[{**descriptor(), "mediaType": "a/b\r\nX: y"}]), "layers[0] has no proper mediaType"),
        (image(layers=[{**descriptor(), "mediaType": "a/" + "b" * 200}]), "layers[0] has no proper mediaType"),
        (image(artifactType=5), "artifactType is not a media type"),
        (image(artifactType="a\nb"), "artifactType is not a media type"),
        (image(layers=[descriptor(artifactType=5)]), "layers[0]: artifactType is not text"),
        (image(annotations=[]), "the manifest: annotations are not an object"),
        (image(annotations={"a": None}), "the annotation 'a' is not text"),
        (image(annotations={"a\x1b": 1}), "the annotation 'a\\x1b' is not text"),
        (image(layers=[descriptor(annotations="x")]), "layers[0]: annotations are not an object"),
        (index(manifests=[descriptor(platform="linux/amd64")]), "manifests[0]: platform is not an object"),
    ],
)
def test_what_is_no_manifest_is_refused_with_its_place(document: Document, reason: str) -> None:
    """The message names the part of the document and the rule that it breaks."""
    assert reason in refused(document)


# -- properties -----------------------------------------------------------------------------------------------------

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
_keys = [
    "schemaVersion",
    "mediaType",
    "config",
    "layers",
    "manifests",
    "subject",
    "annotations",
    "artifactType",
    "digest",
    "size",
]
_values = st.sampled_from([*MANIFEST_TYPES, str(SELF), descriptor(), [descriptor()], {}, [], 2, image(), index()])


@st.composite
def _distorted(draw: st.DrawFn) -> Document:
    """A proper document with a few keys replaced, one level down too."""
    document = json.loads(json.dumps(draw(st.sampled_from([image(), index()]))))
    for _ in range(draw(st.integers(0, 3))):
        target = document
        if draw(st.booleans()) and isinstance(document.get("config"), dict):
            target = document["config"]
        target[draw(st.sampled_from(_keys) | st.text(max_size=8))] = copy.deepcopy(draw(_json | _values))
    return dict(document)


@given(st.binary(max_size=60) | _json.map(lambda value: json.dumps(value).encode()), st.sampled_from(["", *MANIFEST_TYPES]))
def test_any_bytes_are_a_manifest_or_refused(body: bytes, media_type: str) -> None:
    """No input raises anything but ManifestRefused."""
    with suppress(ManifestRefused):
        assert read(body, media_type).media_type in MANIFEST_TYPES


@given(_distorted(), st.sampled_from(["", *sorted(MANIFEST_TYPES)]))
def test_what_is_accepted_has_one_meaning(document: Document, media_type: str) -> None:
    """A distorted document is refused, or is an image or an index and never both, of the type that both sides name."""
    try:
        manifest = read(document, media_type)
    except ManifestRefused:
        return
    assert manifest.media_type in MANIFEST_TYPES
    assert media_type in {"", manifest.media_type}
    assert document.get("mediaType") in {None, "", manifest.media_type}
    assert manifest.is_index is (document.get("manifests") is not None)
    assert manifest.is_index is (document.get("layers") is None)
    kinds = {edge.kind for edge in manifest.edges(SELF)}
    assert kinds <= {Kind.MANIFEST if manifest.is_index else Kind.BLOB}


@given(_json)
def test_strict_json_agrees_with_json(value: object) -> None:
    """What is strict JSON is read to the same value."""
    body = json.dumps(value).encode()
    try:
        read_back = strict_json(body)
    except ManifestRefused:
        assert "NaN" in str(body) or "Infinity" in str(body) or "\\\\ud" in str(body)
        return
    assert read_back == json.loads(body)
