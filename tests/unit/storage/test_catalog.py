"""What is admitted, and why: manifests, edges, verdicts, blocks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from storage import catalog as catalog_module
from storage.catalog import MAX_DEPTH, MAX_EDGES, Catalog
from storage.database import Database
from storage.events import EventStore
from storage.lineage import accepted_root, blocked
from storage.notices import Notices
from storage.records import Edge, EventType, Grounds, Kind, Lineage, OperatorAct, StoredVerdict
from storage.reference import Repository
from tests.unit.storage.test_lineage import Graph, graphs
from tests.unit.storage.values import APP, AT, LATER, OTHER, block, digest, edge, manifest, verdict


async def record(catalog: Catalog, edges: Sequence[Edge] = (), verdict: StoredVerdict | None = None) -> None:
    """Record edges and a verdict in APP."""
    await catalog.record(APP, manifest=None, edges=edges, verdict=verdict)


async def test_an_unknown_digest_has_an_empty_lineage(catalog: Catalog) -> None:
    """What was never recorded has nothing above it, and is no manifest."""
    assert await catalog.lineage(APP, digest("x"), "f") == Lineage(APP, digest("x"), None, None, (), (), ())
    assert await catalog.manifest(APP, digest("x")) is None
    assert await catalog.children(APP, digest("x")) == []
    assert await catalog.evidence(APP, digest("x")) == []


async def test_an_image_is_found_again_from_its_layer(catalog: Catalog) -> None:
    """The way from a layer up to the judged index comes back with the verdict's reasons and end."""
    up = [edge("index", "image", Kind.MANIFEST)]
    down = [edge("image", "config"), edge("image", "layer")]
    judged = replace(verdict("index", valid_until=LATER), signers=("key release ab12",))
    await catalog.record(APP, manifest=manifest("index"), edges=up, verdict=judged)
    await catalog.record(APP, manifest=manifest("image"), edges=down, verdict=None)
    found = await catalog.lineage(APP, digest("layer"), "f")
    assert found.descriptor == down[1].child
    assert found.kind is Kind.BLOB
    assert found.edges == (down[1], up[0])
    assert found.verdicts == (judged,)
    assert accepted_root(found, AT) == judged
    assert await catalog.children(APP, digest("image")) == down


async def test_recording_twice_changes_nothing(catalog: Catalog, database: Database) -> None:
    """The same facts again leave one of each, in the first order, and no notice."""
    edges = [edge("image", "b"), edge("image", "a"), edge("image", "b")]
    for _ in range(2):
        await catalog.record(APP, manifest=manifest("image"), edges=edges, verdict=verdict("image"))
    assert await catalog.children(APP, digest("image")) == edges[:2]
    assert await Notices(database).latest() == 0


async def test_a_right_in_one_repository_is_none_in_another(catalog: Catalog) -> None:
    """Edges, verdicts and manifests of another repository are never seen, though the bytes are the same."""
    await catalog.record(APP, manifest=manifest("image"), edges=[edge("image", "layer")], verdict=verdict("image"))
    assert (await catalog.lineage(OTHER, digest("layer"), "f")).edges == ()
    assert (await catalog.lineage(OTHER, digest("image"), "f")).verdicts == ()
    assert await catalog.manifest(OTHER, digest("image")) is None


async def test_verdicts_under_another_fingerprint_are_another_question(catalog: Catalog) -> None:
    """Only verdicts under the asked fingerprint come back; the others stay."""
    await record(catalog, verdict=verdict("image", fingerprint="old"))
    await record(catalog, verdict=verdict("image", accepted=False, fingerprint="new"))
    assert [v.accepted for v in (await catalog.lineage(APP, digest("image"), "old")).verdicts] == [True]
    assert [v.accepted for v in (await catalog.lineage(APP, digest("image"), "new")).verdicts] == [False]
    assert (await catalog.lineage(APP, digest("image"), "none")).verdicts == ()


async def test_grounds_are_those_of_one_manifest_under_one_question(catalog: Catalog) -> None:
    """Of all its acceptances together, in this repository; what was recorded without any is grounds for nothing."""
    for evidence in (("a", "b"), ("b", "c"), ()):
        grounds = Grounds("q", tuple(map(digest, evidence)))
        await catalog.record(APP, manifest=manifest("image"), edges=(), verdict=verdict("image"), grounds=grounds)
    await record(catalog, [edge("image", "later", Kind.EVIDENCE)], verdict("other"))
    assert await catalog.grounds(APP, digest("image"), "q") == {digest("a"), digest("b"), digest("c")}
    assert await catalog.grounds(APP, digest("image"), "another") == frozenset()
    assert await catalog.grounds(APP, digest("other"), "q") == frozenset()
    assert await catalog.grounds(OTHER, digest("image"), "q") == frozenset()
    assert await catalog.grounds(APP, digest("x"), "q") == frozenset()


async def test_a_verdict_belongs_to_its_repository(catalog: Catalog) -> None:
    """A verdict on another repository's image is refused as a mistake of the caller."""
    with pytest.raises(ValueError, match="nginx"):
        await record(catalog, verdict=verdict("image", repository=OTHER))


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        pytest.param(verdict("i"), verdict("i", accepted=False), True, id="accepted-then-refused"),
        pytest.param(verdict("i"), verdict("i", valid_until=LATER), True, id="an-end-where-there-was-none"),
        pytest.param(verdict("i", valid_until=LATER), verdict("i", valid_until=AT), True, id="an-earlier-end"),
        pytest.param(verdict("i", valid_until=AT), verdict("i", valid_until=LATER), False, id="a-later-end"),
        pytest.param(verdict("i", valid_until=AT), verdict("i"), False, id="no-end-any-more"),
        pytest.param(verdict("i"), verdict("i"), False, id="the-same"),
        pytest.param(verdict("i", accepted=False), verdict("i"), False, id="refused-then-accepted"),
        pytest.param(verdict("i"), verdict("i", accepted=False, fingerprint="g"), False, id="another-question"),
    ],
)
async def test_a_notice_is_left_when_something_is_taken_away(
    catalog: Catalog, database: Database, before: StoredVerdict, after: StoredVerdict, told: bool
) -> None:
    """Workers that remember an admission hear when it ends, and only then."""
    await record(catalog, verdict=before)
    await record(catalog, verdict=after)
    notices = Notices(database)
    assert await notices.latest() == (1 if told else 0)
    if told:
        (notice,) = await notices.wait(0)
        assert (notice.kind, notice.subject) == ("admission", str(APP))
    assert (await catalog.lineage(APP, digest("i"), after.fingerprint)).verdicts == (after,)


async def test_what_is_known_of_a_digest_itself(catalog: Catalog) -> None:
    """Its own record comes first, then the newest edge; evidence is told from other manifests."""
    await record(catalog, [edge("index", "image", Kind.MANIFEST), edge("image", "signature", Kind.EVIDENCE)])
    found = await catalog.lineage(APP, digest("image"), "f")
    assert (found.descriptor, found.kind) == (edge("index", "image").child, Kind.MANIFEST)
    assert await catalog.manifest(APP, digest("image")) is None
    for what in ("image", "signature"):
        await catalog.record(APP, manifest=manifest(what, 321), edges=(), verdict=None)
        assert await catalog.manifest(APP, digest(what)) == manifest(what, 321)
    found = await catalog.lineage(APP, digest("image"), "f")
    assert (found.descriptor, found.kind) == (manifest("image", 321), Kind.MANIFEST)
    found = await catalog.lineage(APP, digest("signature"), "f")
    assert (found.descriptor, found.kind) == (manifest("signature", 321), Kind.EVIDENCE)
    await record(catalog, [edge("index", "signature", Kind.MANIFEST)])
    assert (await catalog.lineage(APP, digest("signature"), "f")).kind is Kind.MANIFEST


async def test_each_parent_names_a_layer_in_its_own_words(catalog: Catalog) -> None:
    """A Docker and an OCI manifest give one layer different media types; both stay as they are."""
    oci = edge("oci", "layer")
    docker = Edge(digest("docker"), manifest("layer"), Kind.BLOB)
    await record(catalog, [oci])
    await record(catalog, [docker])
    assert await catalog.children(APP, digest("oci")) == [oci]
    assert await catalog.children(APP, digest("docker")) == [docker]
    assert (await catalog.lineage(APP, digest("layer"), "f")).descriptor == docker.child


async def test_evidence_comes_in_the_order_of_recording(catalog: Catalog) -> None:
    """Evidence of a subject is listed as it was found; its other children are not evidence."""
    for what in ("s2", "s1", "s3"):
        await catalog.record(APP, manifest=manifest(what), edges=[edge("image", what, Kind.EVIDENCE)], verdict=None)
    await record(catalog, [edge("image", "layer")])
    assert [found.digest for found in await catalog.evidence(APP, digest("image"))] == [digest(w) for w in ("s2", "s1", "s3")]


async def test_an_index_with_more_children_than_one_statement_takes(catalog: Catalog) -> None:
    """An index of 1,200 manifests is recorded and read back whole."""
    edges = [edge("index", n, Kind.MANIFEST) for n in range(1200)]
    await catalog.record(APP, manifest=manifest("index"), edges=edges, verdict=verdict("index"))
    assert await catalog.children(APP, digest("index")) == edges
    assert accepted_root(await catalog.lineage(APP, digest(1100), "f"), AT) == verdict("index")


async def test_paths_are_followed_to_their_bounded_depth(catalog: Catalog) -> None:
    """An accepted root eight steps up is found, one nine steps up is not; a cycle ends."""
    await record(catalog, [edge(n + 1, n, Kind.MANIFEST) for n in range(20)])
    await record(catalog, [edge(0, 1, Kind.EVIDENCE)], verdict(MAX_DEPTH))
    assert accepted_root(await catalog.lineage(APP, digest(0), "f"), AT) == verdict(MAX_DEPTH)
    await record(catalog, verdict=verdict(MAX_DEPTH, accepted=False))
    await record(catalog, verdict=verdict(MAX_DEPTH + 1))
    assert accepted_root(await catalog.lineage(APP, digest(0), "f"), AT) is None
    assert accepted_root(await catalog.lineage(APP, digest(1), "f"), AT) is not None


async def test_nothing_is_above_a_manifest_as_a_blob(catalog: Catalog) -> None:
    """What an accepted image names as a blob is no manifest because of that; as a manifest it has its own way up, or none."""
    await record(catalog, [edge("image", "bytes"), edge("bytes", "inner")], verdict("image"))
    await record(catalog, [edge("index", "bytes", Kind.MANIFEST)], verdict("index"))
    as_blob = await catalog.lineage(APP, digest("bytes"), "f")
    assert {each.parent for each in as_blob.edges} == {digest("image"), digest("index")}
    as_manifest = await catalog.lineage(APP, digest("bytes"), "f", as_manifest=True)
    assert [each.parent for each in as_manifest.edges] == [digest("index")]
    assert (await catalog.lineage(APP, digest("inner"), "f", as_manifest=True)).edges == ()
    inner = await catalog.lineage(APP, digest("inner"), "f")
    assert {each.parent for each in inner.edges} == {digest("bytes"), digest("index")}
    assert accepted_root(inner, AT) == verdict("index")


# -- a layer under very many images ------------------------------------------------------------------------------------

IMAGES = 1500


@pytest.fixture
async def base(catalog: Catalog) -> Catalog:
    """A base layer under many images, each under an index of its own; nothing is accepted."""
    up = [edge(f"index {n}", f"image {n}", Kind.MANIFEST) for n in range(IMAGES)]
    await record(catalog, [*up, *(edge(f"image {n}", "base") for n in range(IMAGES))])
    return catalog


@pytest.mark.parametrize("image", [0, IMAGES - 1])
async def test_a_subject_need_not_stand_above_its_evidence(base: Catalog, image: int) -> None:
    """Where being evidence is no reason, the accepted subject is not found, an accepted index is; however many there are."""
    await record(base, [edge("subject", "base", Kind.EVIDENCE)], verdict("subject"))
    assert accepted_root(await base.lineage(APP, digest("base"), "f"), AT) == verdict("subject")
    assert accepted_root(await base.lineage(APP, digest("base"), "f", through_evidence=False), AT) is None
    await record(base, verdict=verdict(f"index {image}"))
    found = await base.lineage(APP, digest("base"), "f", through_evidence=False)
    assert accepted_root(found, AT) == verdict(f"index {image}")
    assert all(edge.kind is not Kind.EVIDENCE for edge in found.edges)


@pytest.mark.parametrize("image", [0, IMAGES // 2, IMAGES - 1])
async def test_the_one_accepted_image_over_a_base_layer_is_found(base: Catalog, image: int) -> None:
    """Be it the oldest or the newest, the accepted index over a shared layer admits the layer; the answer stays small."""
    await record(base, verdict=verdict(f"index {image}"))
    found = await base.lineage(APP, digest("base"), "f")
    assert accepted_root(found, AT) == verdict(f"index {image}")
    assert edge(f"image {image}", "base") in found.edges
    assert len(found.edges) <= MAX_EDGES


async def test_over_a_base_layer_the_verdict_that_lasts_longest_is_found(base: Catalog) -> None:
    """Of many accepted images whose keys end at different times, one that is still valid is among what comes back."""
    for image in range(0, IMAGES, 50):
        await record(base, verdict=verdict(f"index {image}", valid_until=AT + timedelta(seconds=image)))
    found = await base.lineage(APP, digest("base"), "f")
    last = IMAGES - 50
    root = accepted_root(found, AT + timedelta(seconds=last - 1))
    assert root is not None
    assert root.digest == digest(f"index {last}")
    assert accepted_root(found, AT + timedelta(seconds=last)) is None


async def test_over_a_base_layer_blocks_are_heeded(base: Catalog) -> None:
    """A blocked image admits no layer; another accepted one does; when all are blocked, a block is named."""
    await record(base, verdict=verdict("index 3"))
    await record(base, verdict=verdict("index 5"))
    await base.block(block("index 3"))
    found = await base.lineage(APP, digest("base"), "f")
    assert accepted_root(found, AT) == verdict("index 5")
    assert blocked(found) is None
    await base.block(block("image 5"))
    found = await base.lineage(APP, digest("base"), "f")
    assert accepted_root(found, AT) is None
    assert blocked(found) in {block("index 3"), block("image 5")}


async def test_without_an_accepted_image_the_newest_paths_come_back(base: Catalog) -> None:
    """Enough to judge anew: the newest images over the layer, and nothing claims to be accepted."""
    found = await base.lineage(APP, digest("base"), "f")
    assert len(found.edges) == MAX_EDGES
    assert found.edges[0] == edge(f"image {IMAGES - 1}", "base")
    assert edge(f"index {IMAGES - 1}", f"image {IMAGES - 1}", Kind.MANIFEST) in found.edges
    assert accepted_root(found, AT) is None
    assert blocked(found) is None


_names = count()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(graphs())
def test_any_graph_is_judged_from_the_database_as_from_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, graph: Graph
) -> None:
    """With a bound of five edges per answer, every graph has a valid root, or a block, when and only when it has one in full."""
    monkeypatch.setattr(catalog_module, "MAX_EDGES", 5)
    repository = Repository.of("ghcr.io", f"acme/graph{next(_names)}")

    async def found() -> Lineage:
        database = Database(tmp_path / "graphs.db")
        await database.open()
        try:
            catalog = Catalog(database)
            for kept in await catalog.blocks():
                await catalog.unblock(kept.digest, by="olga", reason="next", at=AT)
            await catalog.record(repository, manifest=None, edges=graph.lineage().edges, verdict=None)
            for node, end in graph.accepted.items():
                judged = verdict(node, repository=repository, valid_until=end)
                await catalog.record(repository, manifest=None, edges=(), verdict=judged)
            for node in graph.barred:
                await catalog.block(block(node))
            return await catalog.lineage(repository, digest(0), "f")
        finally:
            await database.close()

    lineage = asyncio.run(found())
    moments: list[datetime] = [AT - timedelta(days=2), AT, AT + timedelta(days=1)]
    for now in moments:
        assert (accepted_root(lineage, now) is None) == (accepted_root(graph.lineage(), now) is None)
    assert (blocked(lineage) is None) == (blocked(graph.lineage()) is None)


# -- blocks --------------------------------------------------------------------------------------------------------------


async def test_a_block_is_seen_everywhere_and_told(catalog: Catalog, database: Database) -> None:
    """A block concerns every repository, known or not, and leaves a notice and a line in the log."""
    await record(catalog, [edge("image", "layer")], verdict("image"))
    await catalog.block(block("image"))
    assert await catalog.blocks() == [block("image")]
    found = await catalog.lineage(APP, digest("layer"), "f")
    assert found.blocks == (block("image"),)
    assert accepted_root(found, AT) is None
    assert blocked(found) == block("image")
    assert (await catalog.lineage(OTHER, digest("image"), "f")).blocks == (block("image"),)
    (notice,) = await Notices(database).wait(0)
    assert (notice.kind, notice.subject) == ("block", str(digest("image")))
    assert await catalog.operator_log() == [OperatorAct(AT, "olga", "block", str(digest("image")), "backdoor")]


async def test_a_repeated_block_is_told_once_and_a_new_reason_counts(catalog: Catalog, database: Database) -> None:
    """The very same block again is the retry of a lost acknowledgement; another reason is another act."""
    await catalog.block(block("image"))
    await catalog.block(block("image"))
    assert await Notices(database).latest() == 1
    await catalog.block(block("image", "worse than thought"))
    assert await catalog.blocks() == [block("image", "worse than thought")]
    assert [act.reason for act in await catalog.operator_log()] == ["worse than thought", "backdoor"]


async def test_a_block_is_lifted_once(catalog: Catalog, database: Database) -> None:
    """Unblocking says whether there was a block; the log keeps who lifted it and why."""
    await catalog.block(block("image"))
    assert await catalog.unblock(digest("image"), by="otto", reason="false alarm", at=LATER)
    assert not await catalog.unblock(digest("image"), by="otto", reason="false alarm", at=LATER)
    assert await catalog.blocks() == []
    assert await Notices(database).latest() == 2
    assert (await catalog.operator_log(limit=1)) == [
        OperatorAct(LATER, "otto", "unblock", str(digest("image")), "false alarm"),
    ]


async def test_what_an_image_needs_is_looked_at_for_blocks(catalog: Catalog) -> None:
    """A blocked config or layer keeps the image that names it from being served, and an index above it not."""
    up, down = [edge("index", "image", Kind.MANIFEST)], [edge("image", "config"), edge("image", "layer")]
    await record(catalog, up + down, verdict("index"))
    await catalog.block(block("layer", "secrets in it"))
    found = await catalog.lineage(APP, digest("image"), "f", as_manifest=True)
    assert found.blocked_needs == (block("layer", "secrets in it"),)
    assert blocked(found) == block("layer", "secrets in it")
    assert (await catalog.lineage(APP, digest("index"), "f", as_manifest=True)).blocked_needs == ()


async def test_blocks_are_events(catalog: Catalog, database: Database) -> None:
    """Both acts are told, with who and why; a repeated block and a lift of nothing are not."""
    await catalog.block(block("image"))
    await catalog.block(block("image"))
    await catalog.unblock(digest("image"), by="otto", reason="", at=LATER)
    await catalog.unblock(digest("image"), by="otto", reason="", at=LATER)
    lifted, blocking = await EventStore(database).list()
    assert (blocking.type, blocking.digest, blocking.details) == (
        EventType.DIGEST_BLOCKED,
        digest("image"),
        {"by": "olga", "reason": "backdoor"},
    )
    assert (lifted.type, lifted.message) == (
        EventType.DIGEST_UNBLOCKED,
        f"{digest('image')} was unblocked by otto: no reason was given",
    )
    assert await EventStore(database).list(open_only=True) == []
