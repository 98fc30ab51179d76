"""What may be served because of what stands above it: against a search that simply tries every path."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from storage.digest import Digest
from storage.lineage import accepted_root, blocked, narrow
from storage.records import Kind, Lineage
from tests.unit.storage.values import APP, AT, block, digest, edge, verdict

NODES = 7
#: Everything but what is asked for is a manifest, or evidence.
_KINDS = (Kind.MANIFEST, Kind.EVIDENCE)
EARLY, LATE = AT - timedelta(days=1), AT + timedelta(days=1)


@dataclass(frozen=True)
class Graph:
    """A repository in small: node 0 is the digest that is asked for."""

    edges: tuple[tuple[int, int], ...]  #: parent, child
    accepted: dict[int, datetime | None]
    refused: frozenset[int]
    barred: frozenset[int]

    def lineage(self, only: list[int] | None = None) -> Lineage:
        """The lineage over all edges, or over those with the numbers ``only``, as the catalog would give it."""
        numbers = range(len(self.edges)) if only is None else only
        chosen = [self.edges[number] for number in numbers]
        nodes = {0, *(parent for parent, _ in chosen)}
        judged = [verdict(node, valid_until=end) for node, end in self.accepted.items() if node in nodes]
        judged += [verdict(node, accepted=False) for node in self.refused if node in nodes]
        return Lineage(
            APP,
            digest(0),
            None,
            None,
            tuple(edge(parent, child, _KINDS[child % 2] if child else Kind.BLOB) for parent, child in chosen),
            tuple(judged),
            tuple(block(node) for node in self.barred if node in nodes),
        )

    def paths(self, node: int = 0, below: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
        """Every path without a repetition that ends at node 0, as the nodes from there upwards."""
        path = (*below, node)
        yield path
        for parent, child in self.edges:
            if child == node and parent not in path:
                yield from self.paths(parent, path)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Any graph over a few nodes, cycles included; verdicts and blocks anywhere."""
    nodes = st.integers(0, NODES - 1)
    edges = draw(st.lists(st.tuples(nodes, nodes), max_size=14, unique=True))
    accepted = draw(st.dictionaries(nodes, st.sampled_from([None, EARLY, LATE]), max_size=3))
    refused = draw(st.frozensets(nodes, max_size=2)) - accepted.keys()
    return Graph(tuple(edges), accepted, refused, draw(st.frozensets(nodes, max_size=2)))


def reached(graph: Graph, now: datetime | None) -> dict[Digest, int]:
    """Accepted nodes with an unblocked path, and the length of the shortest; with ``now``, only those valid then."""
    found: dict[Digest, int] = {}
    for path in graph.paths():
        top = path[-1]
        if top not in graph.accepted or graph.barred.intersection(path):
            continue
        end = graph.accepted[top]
        if now is None or end is None or now < end:
            found[digest(top)] = min(len(path), found.get(digest(top), NODES))
    return found


@given(graphs())
def test_accepted_root_is_the_nearest_of_those_that_an_exhaustive_search_finds(graph: Graph) -> None:
    """An accepted, valid root is found when and only when an unblocked path exists, and it is a nearest one."""
    expected = reached(graph, AT)
    found = accepted_root(graph.lineage(), AT)
    assert (found is None) == (not expected)
    if found is not None:
        assert found.accepted
        assert expected[found.digest] == min(expected.values())


def test_a_blob_reaches_nothing() -> None:
    """An accepted image names a blob that spells a manifest: the blob is admitted, what it spells names nothing."""
    up = (edge("image", "blob"), edge("blob", "inner layer"))
    for what, found in (("blob", "image"), ("inner layer", None)):
        lineage = Lineage(APP, digest(what), None, None, up, (verdict("image"),), (block("image"),))
        assert accepted_root(replace(lineage, blocks=()), AT) == (None if found is None else verdict(found))
        assert (blocked(lineage) is None) is (found is None)


@given(graphs())
def test_blocked_names_a_block_when_and_only_when_a_block_is_the_reason(graph: Graph) -> None:
    """The digest's own block, or one on a path from an accepted verdict that no unblocked path replaces."""
    found = blocked(graph.lineage())
    if 0 in graph.barred:
        assert found is not None
        assert found.digest == digest(0)
        return
    through = [path for path in graph.paths() if path[-1] in graph.accepted]
    if reached(graph, None) or not through:
        assert found is None
        return
    assert found is not None
    assert found.digest in {digest(node) for path in through for node in graph.barred.intersection(path)}


@given(graphs(), st.integers(0, 14))
def test_narrowed_edges_answer_like_all_edges(graph: Graph, limit: int) -> None:
    """However few edges are kept, whether there is a valid root at any time, and whether a block stops it, stays the same."""
    numbered = [(number, parent, child) for number, (parent, child) in enumerate(graph.edges)]
    kept = narrow(0, numbered, graph.accepted, graph.barred, limit)
    assert len(set(kept)) == len(kept)
    assert len(kept) <= max(limit, 2 * NODES)
    whole, part = graph.lineage(), graph.lineage(kept)
    for now in (EARLY - timedelta(days=1), AT, LATE):
        assert (accepted_root(part, now) is None) == (accepted_root(whole, now) is None)
    assert (blocked(part) is None) == (blocked(whole) is None)


@given(graphs())
def test_narrowing_to_enough_keeps_everything_that_leads_to_the_digest(graph: Graph) -> None:
    """With room for all, exactly the edges from which the digest can be reached are kept."""
    numbered = [(number, parent, child) for number, (parent, child) in enumerate(graph.edges)]
    climbed = {node for path in graph.paths() for node in path}
    kept = narrow(0, numbered, {}, frozenset(), 100)
    assert sorted(kept) == [number for number, _, child in numbered if child in climbed]


def test_narrowing_keeps_whole_paths_and_prefers_the_newest() -> None:
    """Of a thousand images over one layer, a few edges are the newest images, each with its index."""
    edges = []
    for image in range(1, 1001):
        edges += [(2 * image, image, 0), (2 * image + 1, 10_000 + image, image)]
    kept = narrow(0, edges, {}, frozenset(), 6)
    assert sorted(kept) == [1996, 1997, 1998, 1999, 2000, 2001]


def test_a_block_on_what_an_image_needs_is_a_block_on_it() -> None:
    """Whoever has a blocked layer from elsewhere could run the image; its own block is named first."""
    lineage = Lineage(APP, digest("image"), None, None, (), (verdict("image"),), (), (block("layer"),))
    assert blocked(lineage) == block("layer")
    assert blocked(replace(lineage, blocks=(block("image"),))) == block("image")


def test_a_refused_manifest_between_is_no_obstacle() -> None:
    """A child of a signed index is admitted through it, though it was refused when asked for by itself."""
    graph = Graph(((1, 0), (2, 1)), {2: None}, frozenset({1}), frozenset())
    root = accepted_root(graph.lineage(), AT)
    assert root is not None
    assert root.digest == digest(2)


def test_a_verdict_ends_at_its_end() -> None:
    """At the very moment at which a verdict's validity ends it is not valid any more."""
    graph = Graph((), {0: LATE}, frozenset(), frozenset())
    assert accepted_root(graph.lineage(), LATE - timedelta(microseconds=1)) is not None
    assert accepted_root(graph.lineage(), LATE) is None
