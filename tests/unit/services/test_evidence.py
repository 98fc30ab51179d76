"""Stored evidence: in the order of recording, within bounds that everything counts for which has to be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest

from proxy.content import Lookaside
from proxy.policy.patterns import Pattern
from proxy.policy.rules import Requirement, Rule, SignatureBy
from proxy.policy.verdicts import Outcome
from proxy.services.evidence import StoredEvidence
from proxy.settings import Limits
from proxy.verify.model import Trusted
from proxy.verify.pipeline import Pipeline, default_verifiers
from storage.blobs import BlobStore
from storage.catalog import Catalog
from storage.digest import Digest
from storage.records import Descriptor
from storage.reference import Repository
from tests.simulator.images import Blob, Image, artifact
from tests.simulator.signing import cosign_signature, signature_manifest, signature_tag
from tests.unit.verify.evidence import IMAGE, NOW, RELEASE, REPOSITORY, keys, subject

TAG = signature_tag(IMAGE.digest)


class World:
    """A catalog and a blob store in memory; ``read`` are the manifests that were read."""

    def __init__(self, recorded: Sequence[Image]) -> None:
        self.recorded = [each.descriptor for each in recorded]
        self.read: list[Digest] = []
        self._bytes = {each.digest: each.body for each in recorded}
        self._layers = {blob.digest: blob.data for each in recorded for blob in each.blobs}

    def evidence(self, limits: Limits) -> StoredEvidence:
        """The stored evidence."""
        return StoredEvidence(cast("Catalog", _Catalog(self)), cast("BlobStore", _Blobs(self)), limits.bounds(), limits)

    def bytes_of(self, digest: Digest) -> bytes | None:
        """A manifest, which is noted, or a layer."""
        if digest in self._bytes:
            self.read.append(digest)
        return self._bytes.get(digest) or self._layers.get(digest)


class _Catalog:
    def __init__(self, world: World) -> None:
        self._world = world

    async def evidence(self, repository: Repository, subject: Digest) -> list[Descriptor]:
        assert (repository, subject) == (REPOSITORY, IMAGE.digest)
        return list(self._world.recorded)

    async def manifest(self, repository: Repository, digest: Digest) -> Descriptor | None:
        return next((each for each in self._world.recorded if each.digest == digest), None)


class _Blobs:
    def __init__(self, world: World) -> None:
        self._world = world

    async def read(self, digest: Digest, limit: int) -> bytes | None:
        body = self._world.bytes_of(digest)
        return None if body is None or len(body) > limit else body


def misfit(number: int, size: int = 0) -> Image:
    """Evidence that refers to the image and answers no question of these tests; of ``size`` bytes or more."""
    blob = Blob("application/vnd.dev.sigstore.bundle.v0.3+json", b"%d" % number)
    return artifact(blob.media_type, [(blob, None)], subject=IMAGE.descriptor, annotations={"org.example.note": "x" * size})


GOOD = signature_manifest([cosign_signature(RELEASE, IMAGE.digest)])


async def judged(evidence: StoredEvidence, limits: Limits, require: Requirement) -> Outcome:
    """What a rule says of the image by what is stored."""
    pipeline = Pipeline(default_verifiers(limits), Trusted(keys()), limits)
    verdict, _ = await pipeline.judge(evidence, subject(), Rule(Pattern.compile("**"), require, (), ""), NOW)
    return verdict.outcome


@pytest.mark.parametrize(
    ("limits", "later", "size"),
    [({"referrers": 10}, 200, 0), ({"evidence_total": "1MiB"}, 30, 100_000), ({}, 12, 4_000_000)],
)
async def test_what_was_stored_later_drowns_nothing(limits: dict[str, object], later: int, size: int) -> None:
    """However many, and however long: what came first is read first, and little else."""
    bounds = Limits.model_validate(limits)
    world = World([GOOD, *(misfit(number, size) for number in range(later))])
    assert await judged(world.evidence(bounds), bounds, SignatureBy(RELEASE.name)) is Outcome.ACCEPTED


@pytest.mark.parametrize("way", ["tagged", "newest", "referrers", "lookaside"])
@pytest.mark.parametrize(
    ("limits", "size", "expected"), [({"referrers": 10}, 0, 11), ({"referrers": 10, "evidence_total": "1MiB"}, 300_000, 3)]
)
async def test_what_does_not_fit_counts_as_well(
    capsys: pytest.CaptureFixture[str], way: str, limits: dict[str, object], size: int, expected: int
) -> None:
    """To see that it does not fit it must be read: that is bounded in number and in bytes, and what is left is told."""
    world = World([misfit(number, size) for number in range(50)])
    stored = world.evidence(Limits.model_validate(limits))
    match way:
        case "tagged":
            assert await stored.tagged(REPOSITORY, TAG) == []
        case "newest":
            assert await stored.newest(REPOSITORY, TAG) is None
        case "referrers":
            assert len((await stored.referrers(REPOSITORY, IMAGE.digest)).entries) == expected
        case _:
            place = Lookaside("https://lookaside.test")
            assert [each async for each in stored.lookaside(REPOSITORY, IMAGE.digest, place, 1000)] == []
    first = [each.digest for each in world.recorded[::-1] if way == "newest"] or [each.digest for each in world.recorded]
    assert world.read == first[:expected]
    assert "evidence.unread" in "".join(capsys.readouterr())


async def test_the_newest_is_looked_for_from_the_end() -> None:
    """And found without reading what was before it."""
    other = signature_manifest([cosign_signature(RELEASE, IMAGE.digest)])
    world = World([GOOD, misfit(1), other, misfit(2)])
    stored = world.evidence(Limits())
    found = await stored.newest(REPOSITORY, TAG)
    assert found is not None
    assert found.digest == other.digest
    assert world.read == [misfit(2).digest, other.digest]
    assert [each.digest for each in await stored.tagged(REPOSITORY, TAG)] == [GOOD.digest, other.digest]
    assert await stored.newest(REPOSITORY, "v1") is None
