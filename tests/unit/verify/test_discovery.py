"""Discovery: both sources, their bounds, what is not believed, and the difference between absent, useless and unavailable."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from dataclasses import replace

import pytest

from proxy.content import FetchedManifest, ReferrersSource
from proxy.errors import UpstreamAbsent, UpstreamDenied, UpstreamError, UpstreamMisbehaved, UpstreamUnavailable
from proxy.manifest import Entry, Manifest
from proxy.policy.rules import SignatureBy
from proxy.settings import Limits
from proxy.verify.discovery import discover, merge
from proxy.verify.model import Found, Harvest
from proxy.verify.pipeline import default_verifiers
from storage.digest import Digest
from storage.reference import Repository
from tests.simulator import images
from tests.simulator.images import Blob, Image
from tests.simulator.signing import (
    BUNDLE_TYPE,
    BundleFault,
    CosignFault,
    bundle_referrer,
    cosign_signature,
    disguised_image,
    many_signatures,
    signature_manifest,
    signature_tag,
)
from tests.unit.verify.evidence import IMAGE, LIMITS, RELEASE, Stall, Upstream, subject

SIGNATURES = signature_manifest([cosign_signature(RELEASE, IMAGE.digest)])
BUNDLE = bundle_referrer(RELEASE, IMAGE)
ASKED = [SignatureBy("release")]
TAG_SOURCE = f"signature tag of {IMAGE.digest.short}"
LIST_SOURCE = f"referrers of {IMAGE.digest.short}"


def bundles(count: int) -> list[Image]:
    """Different bundles for the image."""
    return [bundle_referrer(RELEASE, IMAGE, predicate_body={"number": number}) for number in range(count)]


async def harvest(upstream: Upstream, limits: Limits = LIMITS, of: Image = IMAGE) -> Harvest:
    """Everything that discovery finds, the signature tag first."""

    def wants(manifest: Manifest, layer: Entry) -> int | None:
        return max(
            (v for each in default_verifiers(limits) if (v := each.wants(manifest, layer, ASKED)) is not None), default=None
        )

    async with aclosing(discover(upstream, subject(of), limits, wants)) as sources:
        parts = {rank: part async for rank, part in sources}
    assert sorted(parts) == [0, 1]
    return merge([parts[0], parts[1]])


def failures(found: Harvest) -> list[str]:
    """Failed evidence as people read it."""
    assert all(not each.accepted and each.about is None for each in found.malformed)
    return [f"{each.source}: {each.reason}" for each in found.malformed]


async def test_nothing_is_definitely_nothing() -> None:
    """No tag and no referrers: no documents, no failures, and nothing that was unavailable."""
    assert await harvest(Upstream()) == Harvest((), (), ())


async def test_both_sources_are_read() -> None:
    """Signature tag and referrers come home as documents with their layers' bytes, in that order."""
    upstream = Upstream()
    upstream.sign(SIGNATURES)
    upstream.refer(BUNDLE)
    found = await harvest(upstream)
    assert [(d.found, d.manifest.digest) for d in found.documents] == [
        (Found.SIGNATURE_TAG, SIGNATURES.digest),
        (Found.REFERRERS_API, BUNDLE.digest),
    ]
    assert [body for d in found.documents for _, _, body in d.layers] == [SIGNATURES.blobs[1].data, BUNDLE.blobs[1].data]
    assert found.documents[1].parsed.artifact_type == BUNDLE_TYPE
    assert (failures(found), found.unavailable) == ([], ())


async def test_the_fallback_tag_is_named_as_the_source() -> None:
    """Whether a list came from the API or the tag stays known."""
    upstream = Upstream(source=ReferrersSource.TAG)
    upstream.refer(BUNDLE)
    assert [d.found for d in (await harvest(upstream)).documents] == [Found.REFERRERS_TAG]


async def test_the_list_is_not_believed() -> None:
    """Entries are fetched although their hints (all wrong in this upstream) would let a filter pass them by."""
    upstream = Upstream()
    upstream.refer(bundle_referrer(RELEASE, IMAGE, fault=BundleFault.EMPTY_ARTIFACT_TYPE))
    assert len((await harvest(upstream)).documents) == 1


async def test_the_subject_itself_is_no_referrer() -> None:
    """A registry whose fallback tag resolves to the subject lists nothing; an entry named twice is one."""
    upstream = Upstream()
    upstream.refer(IMAGE, BUNDLE, BUNDLE)
    found = await harvest(upstream)
    assert len(found.documents) == 1
    assert failures(found) == []
    assert str(IMAGE.digest) not in upstream.calls


async def test_promise_41_a_referrer_must_name_the_image() -> None:
    """A manifest that refers to another image, or to none, is not evidence for this one, whatever the list says."""
    upstream = Upstream()
    other = bundle_referrer(RELEASE, IMAGE, fault=BundleFault.OTHER_SUBJECT)
    bare = bundle_referrer(RELEASE, IMAGE, fault=BundleFault.NO_MANIFEST_SUBJECT)
    upstream.refer(other, bare)
    found = await harvest(upstream)
    assert found.documents == ()
    assert failures(found) == [
        f"referrer {other.digest.short}: is about another image: its subject is {other.manifest['subject']['digest']}",
        f"referrer {bare.digest.short}: is listed as a referrer, but its manifest names no subject",
    ]


async def test_a_runnable_image_is_not_evidence() -> None:
    """An image under the signature tag, and one with a subject in the list, are never documents."""
    upstream = Upstream()
    upstream.sign(disguised_image())
    upstream.refer(images.image("other", subject=IMAGE.entry()))
    found = await harvest(upstream)
    assert found.documents == ()
    assert [text.partition(": holds no signature: it is ")[2][:40] for text in failures(found)] == [images.OCI_CONFIG[:40]] * 2


async def test_a_signature_beside_a_runnable_layer_is_not_evidence() -> None:
    """One good signature does not carry an image's layer into the house."""
    layer = cosign_signature(RELEASE, IMAGE.digest, fault=CosignFault.WRONG_MEDIA_TYPE)
    upstream = Upstream()
    upstream.sign(signature_manifest([cosign_signature(RELEASE, IMAGE.digest), layer]))
    found = await harvest(upstream)
    assert found.documents == ()
    assert len(failures(found)) == 1


async def test_indexes_and_other_evidence_are_named_not_fetched() -> None:
    """An SBOM, an attestation and an index are no signatures; their layers are not fetched."""
    sbom = images.artifact("application/spdx+json", [(Blob("application/spdx+json", b"{}"), None)], subject=IMAGE.descriptor)
    attestation = bundle_referrer(RELEASE, IMAGE, predicate="https://slsa.dev/provenance/v1")
    index = images.index([], subject=IMAGE.entry())
    upstream = Upstream()
    upstream.refer(sbom, attestation, index)
    found = await harvest(upstream)
    assert found.documents == ()
    assert [text.partition("it is ")[2] for text in failures(found)] == [
        "application/spdx+json with application/spdx+json",
        "an attestation (https://slsa.dev/provenance/v1)",
        "an index",
    ]
    assert not {str(blob.digest) for each in (sbom, attestation) for blob in each.blobs} & set(upstream.calls)


@pytest.mark.parametrize("body", [b"{}", b"", b"\xff", b'{"schemaVersion": 1}', b"[" * 5000], ids=repr)
async def test_what_is_no_manifest_is_failed_evidence(body: bytes) -> None:
    """Garbage under the signature tag and in the list is told, not passed over."""
    upstream = Upstream()
    broken = Image(images.OCI_MANIFEST, body)
    upstream.sign(broken)
    upstream.refer(broken)
    found = await harvest(upstream)
    assert [": is no acceptable manifest: " in text for text in failures(found)] == [True, True]


async def test_a_manifest_for_another_digest_is_refused() -> None:
    """Even a fetcher that forgot to check cannot pass one manifest off as another."""
    upstream = Upstream()
    upstream.refer(BUNDLE)
    other = bundles(1)[0]
    upstream.manifests[BUNDLE.digest] = other
    assert failures(await harvest(upstream)) == [
        f"referrer {BUNDLE.digest.short}: is refused: the upstream sent {other.digest} for it"
    ]


async def test_what_is_listed_but_gone_is_failed_evidence() -> None:
    """A manifest or a layer that the upstream definitely does not have cannot be judged, and is named."""
    upstream = Upstream()
    upstream.sign(SIGNATURES)
    upstream.refer(BUNDLE)
    del upstream.manifests[BUNDLE.digest], upstream.blobs[SIGNATURES.blobs[1].digest]
    found = await harvest(upstream)
    assert failures(found) == [
        f"{TAG_SOURCE}: is incomplete: it lacks its layer {SIGNATURES.blobs[1].digest}",
        f"referrer {BUNDLE.digest.short}: is listed, but is not there",
    ]


OUTAGES: list[UpstreamError] = [
    UpstreamUnavailable("503 from registry.test", 7.0),
    UpstreamDenied("registry.test denied the request"),
    UpstreamAbsent("not there, though a fetcher says so by None"),
]


@pytest.mark.parametrize("error", OUTAGES, ids=lambda error: type(error).__name__)
async def test_promise_46_an_outage_is_unavailable_not_unsigned(error: UpstreamError) -> None:
    """Denials and outages of a source, a manifest or a layer are lines of their own; the rest is still found."""
    upstream = Upstream(faults={"tagged": error, "referrers": error})
    found = await harvest(upstream)
    assert found.unavailable == (f"{TAG_SOURCE}: {error}", f"{LIST_SOURCE}: {error}")
    assert found.retry_after == (7.0 if isinstance(error, UpstreamUnavailable) else None)
    assert failures(found) == []

    first, second, third = bundles(3)
    upstream = Upstream(faults={str(first.digest): error, str(second.blobs[1].digest): error})
    upstream.refer(first, second, third)
    found = await harvest(upstream)
    assert found.unavailable == (f"referrer {first.digest.short}: {error}", f"referrer {second.digest.short}: {error}")
    assert [document.manifest.digest for document in found.documents] == [third.digest]


async def test_misbehaviour_is_failed_evidence() -> None:
    """What breaks a promise of the protocol is refused with its reason, wherever it happens."""
    error = UpstreamMisbehaved("wrong digest")
    upstream = Upstream(faults={"tagged": error, "referrers": error})
    found = await harvest(upstream)
    assert failures(found) == [f"{TAG_SOURCE}: is refused: wrong digest", f"{LIST_SOURCE}: is refused: wrong digest"]
    assert found.unavailable == ()


async def test_the_longest_retry_after_is_kept() -> None:
    """A client that comes back too early finds the other source still down."""
    faults: dict[str, Exception] = {"tagged": UpstreamUnavailable("a", 3.0), "referrers": UpstreamUnavailable("b", 9.0)}
    assert (await harvest(Upstream(faults=faults))).retry_after == 9.0


async def test_promise_45_signatures_are_capped() -> None:
    """Of thousands of signatures the first 64 are fetched, and the cap is said."""
    upstream = Upstream()
    upstream.sign(many_signatures(RELEASE, IMAGE.digest, 2000))
    found = await harvest(upstream)
    assert [len(document.layers) for document in found.documents] == [64]
    assert failures(found) == [f"{TAG_SOURCE}: 2000 signatures are there; only the first 64 were judged"]
    assert len(upstream.calls) == 2 + 64


async def test_promise_45_referrers_are_capped() -> None:
    """The first referrers are looked at and the first signatures among them fetched; both caps are said."""
    upstream = Upstream()
    upstream.refer(*bundles(12))
    found = await harvest(upstream, Limits(referrers=10, signatures=4))
    assert [document.manifest.digest for document in found.documents] == [each.digest for each in upstream.listed[:4]]
    assert failures(found) == [
        f"{LIST_SOURCE}: 12 are listed; only the first 10 were looked at",
        f"{LIST_SOURCE}: 10 signatures are there; only the first 4 were judged",
    ]


async def test_promise_45_a_list_that_is_cut_is_told() -> None:
    """Where the list itself ended early, what is missing from it is no silent nothing."""
    upstream = Upstream(complete=False)
    upstream.refer(*bundles(2))
    found = await harvest(upstream)
    assert failures(found) == [f"{LIST_SOURCE}: more than 2 are listed; only the first 2 were looked at"]


async def test_promise_45_huge_signatures_are_not_fetched() -> None:
    """A layer above the limit is refused by its declared size; a small one beside it is still judged."""
    huge = cosign_signature(RELEASE, IMAGE.digest, fault=CosignFault.OVERSIZE, oversize=5000)
    upstream = Upstream()
    upstream.sign(signature_manifest([huge, cosign_signature(RELEASE, IMAGE.digest)]))
    found = await harvest(upstream, Limits(signature_size=1000))
    assert [len(document.layers) for document in found.documents] == [1]
    assert failures(found) == [f"{TAG_SOURCE}: has a signature of {len(huge.blob.data)} bytes; the limit is 1000"]
    assert str(huge.blob.digest) not in upstream.calls


async def test_the_bytes_of_a_source_are_bounded() -> None:
    """Half of the total for each source: what does not fit is said, and one flooded source leaves the other its half."""
    upstream = Upstream()
    upstream.sign(SIGNATURES)
    upstream.refer(*bundles(8))
    sizes = len(upstream.listed[0].body) * 8 + len(upstream.listed[0].blobs[1].data) * 2
    found = await harvest(upstream, Limits(evidence_total=2 * sizes + 200))
    assert [d.found for d in found.documents] == [Found.SIGNATURE_TAG] + [Found.REFERRERS_API] * 2
    assert len(failures(found)) == 6
    assert f"is beyond the {sizes + 100} bytes that one source has of limits.evidence_total" in failures(found)[0]
    found = await harvest(upstream, Limits(evidence_total=2 * len(SIGNATURES.body)))
    assert [d.found for d in found.documents] == []


async def test_one_payload_under_several_signatures_is_fetched_once() -> None:
    """ECDSA signatures over one payload share its blob, as ``cosign sign`` by several people leaves it."""
    one = cosign_signature(RELEASE, IMAGE.digest)
    upstream = Upstream()
    upstream.sign(signature_manifest([one, one, one]))
    found = await harvest(upstream)
    assert [len(document.layers) for document in found.documents] == [3]
    assert upstream.calls.count(str(one.blob.digest)) == 1
    manifest = upstream.tags[signature_tag(IMAGE.digest)]
    enough = Limits(evidence_total=2 * (len(manifest.body) + len(one.blob.data)))
    assert [len(document.layers) for document in (await harvest(upstream, enough)).documents] == [3]


async def test_large_manifests_are_parsed_off_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a signature manifest of more than 64 KiB happens in a thread."""
    threaded: list[object] = []
    to_thread = asyncio.to_thread

    async def spy(function: object, *arguments: object) -> object:
        threaded.append(function)
        return await to_thread(function, *arguments)  # type: ignore[arg-type]  # passed through

    monkeypatch.setattr(asyncio, "to_thread", spy)
    upstream = Upstream()
    large = upstream.sign(many_signatures(RELEASE, IMAGE.digest, 300))
    assert len(large.body) > 64 << 10
    await harvest(upstream)
    assert len(threaded) == 1


async def test_no_signature_tag_for_sha512() -> None:
    """The tag would be longer than tags can be, so only the referrers are asked."""
    upstream = Upstream()
    assert await harvest(upstream, of=images.image("app", algorithm="sha512")) == Harvest((), (), ())
    assert upstream.calls == ["referrers"]


async def test_a_stalling_source_is_given_up_in_time() -> None:
    """What never answers is unavailable after the timeout; what did answer is there."""
    upstream = Upstream(faults={"referrers": Stall()})
    upstream.sign(SIGNATURES)
    found = await harvest(upstream, Limits(evidence_timeout=0.5))
    assert [d.found for d in found.documents] == [Found.SIGNATURE_TAG]
    assert found.unavailable == (f"{LIST_SOURCE}: did not answer in time",)
    assert upstream.cancelled == ["referrers"]


async def test_one_stalling_referrer_does_not_take_the_others_along() -> None:
    """Manifests that stall are given up early enough to fetch the layers of those that did not."""
    first, second, third = bundles(3)
    upstream = Upstream(faults={str(first.digest): Stall(), str(third.blobs[1].digest): Stall()})
    upstream.refer(first, second, third)
    found = await harvest(upstream, Limits(evidence_timeout=0.8))
    assert [document.manifest.digest for document in found.documents] == [second.digest]
    assert found.unavailable == (
        f"referrer {first.digest.short}: did not answer in time",
        f"referrer {third.digest.short}: did not answer in time",
    )


async def test_requests_are_bounded_in_number_at_a_time() -> None:
    """However many referrers there are, no more than eight requests are open at once."""
    upstream = Counting()
    upstream.refer(*bundles(30))
    assert len((await harvest(upstream)).documents) == 30
    assert upstream.most == 8


class Counting(Upstream):
    """Counts how many requests are open at a time."""

    open = 0
    most = 0

    async def manifest(self, repository: Repository, digest: Digest) -> FetchedManifest | None:
        self.open += 1
        self.most = max(self.most, self.open)
        await asyncio.sleep(0)
        try:
            return await super().manifest(repository, digest)
        finally:
            self.open -= 1


async def test_a_fetcher_that_breaks_takes_nothing_along() -> None:
    """An error that is not the upstream's passes through, and no request is left running."""
    first, second = bundles(2)
    upstream = Upstream(faults={str(first.digest): RuntimeError("broken store"), str(second.digest): Stall(), "tagged": Stall()})
    upstream.refer(first, second)
    with pytest.raises(RuntimeError, match="broken store"):
        await harvest(upstream)
    assert sorted(upstream.cancelled) == sorted([str(second.digest), "tagged"])


async def test_giving_up_cancels_what_is_under_way() -> None:
    """Closing the search early leaves nothing running."""
    upstream = Upstream(faults={"referrers": Stall()})
    async with aclosing(discover(upstream, subject(), LIMITS, lambda manifest, layer: None)) as sources:
        assert (await anext(sources))[0] == 0
    assert upstream.cancelled == ["referrers"]


async def test_cancelling_the_caller_cancels_the_search() -> None:
    """A pull that is abandoned leaves no request behind."""
    upstream = Upstream(faults={"referrers": Stall(), "tagged": Stall()})
    task = asyncio.create_task(harvest(upstream))
    while len(upstream.calls) < 2:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(upstream.cancelled) == ["referrers", "tagged"]


async def test_text_of_strangers_is_shown_safely() -> None:
    """Annotations of a manifest cannot break a header or flood a reason."""
    manifest = json.loads(bundle_referrer(RELEASE, IMAGE).body)
    manifest["annotations"]["dev.sigstore.bundle.predicateType"] = "x\r\nSet-Cookie: ü" + "y" * 5000
    hostile = replace(BUNDLE, body=json.dumps(manifest).encode())
    upstream = Upstream()
    upstream.refer(hostile)
    (text,) = failures(await harvest(upstream))
    assert text.isascii()
    assert text.isprintable()
    assert len(text) < 400


def test_the_signature_tag_is_cosigns() -> None:
    """The tests' upstream and the product agree on the tag that is meant."""
    assert signature_tag(IMAGE.digest) == f"sha256-{IMAGE.digest.hex}.sig"


async def test_of_all_that_stood_under_a_tag_so_many_are_looked_at() -> None:
    """What a store remembers is bounded as lists are, the oldest first, and what is left out is said."""
    stored = [signature_manifest([cosign_signature(RELEASE, IMAGE.digest, reference=f"r.test/{n}")]) for n in range(4)]
    upstream = Upstream(earlier={signature_tag(IMAGE.digest): stored})
    for manifest in stored:
        upstream._hold(manifest)
    found = await harvest(upstream, Limits(referrers=2))
    assert [document.manifest.digest for document in found.documents] == [each.digest for each in stored[:2]]
    assert [(piece.source, piece.reason) for piece in found.malformed] == [
        (TAG_SOURCE, "more than 2 were stored; only the first 2 were looked at")
    ]
    assert len((await harvest(upstream)).documents) == 4


async def test_what_is_repeated_under_a_tag_is_looked_at_once() -> None:
    """A manifest that adds a signature to those of the one before brings that one alone; one that adds none brings nothing."""
    one, two = (cosign_signature(RELEASE, IMAGE.digest, reference=f"r.test/{number}") for number in range(2))
    stored = [signature_manifest(each) for each in ([one], [one, two], [two])]
    upstream = Upstream(earlier={signature_tag(IMAGE.digest): stored})
    for manifest in stored:
        upstream._hold(manifest)
    found = await harvest(upstream, Limits(signatures=2))
    assert [[layer[0].digest for layer in document.layers] for document in found.documents] == [
        [one.blob.digest],
        [two.blob.digest],
    ]
    assert found.malformed == ()
