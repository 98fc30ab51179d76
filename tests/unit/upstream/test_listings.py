"""Tags, referrers and links, well formed and not."""

from __future__ import annotations

import json
import time

import pytest

from proxy.upstream.listings import OCI_INDEX, NotAList, next_page, read_referrers, read_tags, referrers_tag
from storage.digest import Digest

SUBJECT = Digest.of(b"subject")
OTHER = Digest.of(b"other")


@pytest.mark.parametrize(
    ("values", "target"),
    [
        ([], None),
        (['</v2/a/tags/list?n=100&last=z>; rel="next"'], "/v2/a/tags/list?n=100&last=z"),
        (["<x?a=%2B&b>; rel=next"], "x?a=%2B&b"),
        (['<one>; rel="prev", <two>; title="a;b,c"; rel="last next"'], "two"),
        (['<one>; rel="prev"', '<two>; REL="NEXT"'], "two"),
        (['<one>; rel="nextish"'], None),
        (['<one>; notrel="next"'], None),
        (["one; rel=next"], None),
        (["<one"], None),
        (["<" * 8000 + ";" * 8000], None),
    ],
)
def test_links(values: list[str], target: str | None) -> None:
    """The next page's target, verbatim, wherever among the links it stands."""
    assert next_page(values) == target


def test_a_link_that_could_be_read_in_many_ways_is_read_in_one() -> None:
    """White space that two parts of the grammar could take: every blank would else double the time."""
    began = time.process_time()
    for value in ("<a>" + ";x  " * 2000 + '"', "<a>" + ";x= " * 2000 + '"', "<a>;x" * 1600, "<a>" + ';x="<b>' * 1000):
        assert next_page([value]) is None
    assert next_page(["<a>" + ";x  " * 1000 + ' ; rel="next"  ,']) == "a"
    assert time.process_time() - began < 5


def test_tags_are_checked_one_by_one() -> None:
    """What is no tag is left out; null and a missing key are an empty list."""
    assert read_tags(json.dumps({"tags": ["1.0", "", "a/b", 7, None, "latest", "x" * 129, "-a"]}).encode()) == ["1.0", "latest"]
    assert read_tags(b'{"name":"x","tags":null}') == []
    assert read_tags(b"{}") == []


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"tags":{}}', b"\xff", b"[" * 200_000, b'{"tags":"x"}'])
def test_what_is_no_list(body: bytes) -> None:
    """Other documents are not taken for an empty list."""
    with pytest.raises(NotAList):
        read_tags(body)


def entry(digest: object = str(OTHER), **fields: object) -> dict[str, object]:
    """A descriptor in an index."""
    return {"mediaType": "m/t", "digest": digest, "size": 3} | fields


def index(*entries: object, **fields: object) -> bytes:
    """An index as bytes."""
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries} | fields).encode()


def test_referrers_keep_their_hints() -> None:
    """Descriptor, artifact type and textual annotations; hints of another shape are dropped."""
    body = index(entry(artifactType="a/t", annotations={"k": "v", "n": 1}), entry(artifactType=7, annotations=[1]))
    first, second = read_referrers(body, SUBJECT, 10)
    assert (first.descriptor.digest, first.descriptor.size, first.artifact_type, first.annotations) == (
        OTHER,
        3,
        "a/t",
        (("k", "v"),),
    )
    assert (second.artifact_type, second.annotations) == (None, ())


def test_malformed_entries_and_the_subject_itself_are_left_out() -> None:
    """Nothing can be fetched by them, and a manifest does not refer to itself."""
    bad = [
        entry("sha256:00"),
        entry(size=-1),
        entry(size=True),
        entry(size="3"),
        entry(7),
        entry(mediaType=None),
        entry(size=2**63),
        entry(mediaType="\ud800"),
        entry(artifactType="\ud800"),
        entry(annotations={"k": "\ud800"}),
        7,
        entry(str(SUBJECT)),
    ]
    assert [each.descriptor.digest for each in read_referrers(index(*bad, entry()), SUBJECT, 10)] == [OTHER]


def test_referrers_are_bounded() -> None:
    """No more than asked for, in the upstream's order."""
    digests = [str(Digest.of(bytes([number]))) for number in range(10)]
    found = read_referrers(index(*map(entry, digests)), SUBJECT, 3)
    assert [str(each.descriptor.digest) for each in found] == digests[:3]
    assert read_referrers(b'{"manifests":null}', SUBJECT, 3) == []


@pytest.mark.parametrize("body", [b"x", b"[]", index(mediaType="application/vnd.oci.image.manifest.v1+json"), b'{"manifests":7}'])
def test_what_is_no_index(body: bytes) -> None:
    """Another document is not an empty list of referrers."""
    with pytest.raises(NotAList):
        read_referrers(body, SUBJECT, 3)


def test_the_fallback_tag() -> None:
    """Algorithm and hex, cut to what a tag may hold (OCI distribution specification, referrers tag schema)."""
    assert referrers_tag(SUBJECT) == f"sha256-{SUBJECT.hex}"
    assert referrers_tag(Digest.of(b"x", "sha512")) == f"sha512-{Digest.of(b'x', 'sha512').hex[:64]}"


def test_lists_do_not_swell() -> None:
    """A megabyte of empty lists is refused unread; a page of a great many tags is not."""
    swollen = b'{"%s":[' + b"[]," * 300_000 + b"[]]}"
    for read in (lambda: read_tags(swollen % b"tags"), lambda: read_referrers(swollen % b"manifests", SUBJECT, 3)):
        with pytest.raises(NotAList, match="holds more than 131072 values"):
            read()
    tags = [f"{number}" for number in range(200_000)]
    assert read_tags(json.dumps({"tags": tags}).encode()) == tags
