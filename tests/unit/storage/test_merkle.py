"""Merkle trees, held against the definitions of RFC 6962 written out, and against trees that another program made."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.merkle import (
    EMPTY_ROOT,
    MAX_PROOF,
    Frontier,
    Node,
    consistency_spans,
    inclusion_spans,
    last_leaf,
    leaf_hash,
    node_hash,
    nodes_of,
    span_hash,
    verify_consistency,
    verify_inclusion,
)

SUMDB = json.loads((Path(__file__).parent / "data" / "sumdb.json").read_text())
#: The leaves and roots that Certificate Transparency's implementations are tested with.
CT_LEAVES = [
    bytes.fromhex(text) for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "60616263646566676869")
]
CT_LEAVES[-1] = bytes(range(0x60, 0x70))
CT_ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


def split(count: int) -> int:
    """RFC 6962 §2.1: the largest power of two smaller than ``count``."""
    power = 1
    while power * 2 < count:
        power *= 2
    return power


def tree_hash(leaves: list[bytes]) -> bytes:
    """MTH(D[n]), RFC 6962 §2.1."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    k = split(len(leaves))
    return sha256(b"\x01" + tree_hash(leaves[:k]) + tree_hash(leaves[k:])).digest()


def audit_path(m: int, leaves: list[bytes]) -> list[bytes]:
    """PATH(m, D[n]), RFC 6962 §2.1.1."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*audit_path(m, leaves[:k]), tree_hash(leaves[k:])]
    return [*audit_path(m - k, leaves[k:]), tree_hash(leaves[:k])]


def sub_proof(m: int, leaves: list[bytes], known: bool) -> list[bytes]:
    """SUBPROOF(m, D[n], b), RFC 6962 §2.1.2."""
    if m == len(leaves):
        return [] if known else [tree_hash(leaves)]
    k = split(len(leaves))
    if m <= k:
        return [*sub_proof(m, leaves[:k], known), tree_hash(leaves[k:])]
    return [*sub_proof(m - k, leaves[k:], False), tree_hash(leaves[:k])]


def grown(leaves: list[bytes]) -> tuple[Frontier, dict[Node, bytes]]:
    """A tree grown leaf by leaf, and every node that was completed on the way."""
    frontier, nodes = Frontier(), dict[Node, bytes]()
    for index, leaf in enumerate(leaves):
        frontier, completed = frontier.grown(leaf_hash(leaf))
        for level, value in enumerate(completed):
            node = level, index >> level
            assert last_leaf(node) == index
            assert node not in nodes
            nodes[node] = value
    return frontier, nodes


def proof_of(spans: list[tuple[int, int]], nodes: dict[Node, bytes]) -> list[bytes]:
    """The hashes of a proof, from the nodes of a tree."""
    return [span_hash(span, nodes) for span in spans]


leaves_of = st.integers(0, 130).map(lambda count: [b"leaf %d" % index for index in range(count)])


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_are_those_of_certificate_transparency(size: int) -> None:
    """The eight trees that every implementation of RFC 6962 is tested with."""
    assert grown(CT_LEAVES[:size])[0].root().hex() == CT_ROOTS[size - 1]


def test_trees_and_proofs_are_those_of_gos_checksum_database() -> None:
    """Roots, an audit path and a consistency proof over a thousand leaves, as another implementation made them."""
    leaves = [b"entry %d" % index for index in range(1000)]
    _, nodes = grown(leaves)
    roots = {int(size): bytes.fromhex(root) for size, root in SUMDB["roots"].items()}
    assert {size: span_hash((0, size), nodes) for size in roots} == roots
    inclusion, consistency = SUMDB["inclusion"], SUMDB["consistency"]
    path = proof_of(inclusion_spans(inclusion["index"], inclusion["size"]), nodes)
    assert [each.hex() for each in path] == inclusion["proof"]
    assert verify_inclusion(leaf_hash(b"entry 300"), 300, 1000, path, roots[1000])
    proof = proof_of(consistency_spans(consistency["old"], consistency["new"]), nodes)
    assert [each.hex() for each in proof] == consistency["proof"]
    assert verify_consistency(259, 1000, span_hash((0, 259), nodes), roots[1000], proof)


@given(leaves=leaves_of)
def test_a_tree_that_grew_has_the_root_of_the_definition(leaves: list[bytes]) -> None:
    """Leaf by leaf or all at once: the same root, and a frontier as short as the size has ones."""
    frontier, nodes = grown(leaves)
    assert frontier.root() == tree_hash(leaves)
    assert len(frontier.hashes) == len(leaves).bit_count()
    assert frontier.hashes == tuple(nodes[node] for node in nodes_of((0, len(leaves))))


@given(leaves=leaves_of.filter(bool), data=st.data())
def test_every_leaf_is_proven_by_the_path_of_the_definition_and_by_no_other(leaves: list[bytes], data: st.DataObject) -> None:
    """The audit path convinces; with any part of the claim or the path changed it does not."""
    index = data.draw(st.integers(0, len(leaves) - 1))
    frontier, nodes = grown(leaves)
    root, size, leaf = frontier.root(), len(leaves), leaf_hash(leaves[index])
    path = proof_of(inclusion_spans(index, size), nodes)
    assert path == audit_path(index, leaves)
    assert verify_inclusion(leaf, index, size, path, root)
    assert not verify_inclusion(leaf_hash(b"other"), index, size, path, root)
    assert not verify_inclusion(leaf, index, size, path, leaf) or size == 1
    assert not verify_inclusion(leaf, index, size, [*path, root], root)
    for other in {data.draw(st.integers(-1, size + 1)) for _ in range(5)} - {index}:
        assert not verify_inclusion(leaf, other, size, path, root)
    if path:
        spoiled = data.draw(st.integers(0, len(path) - 1))
        assert not verify_inclusion(leaf, index, size, path[:spoiled] + path[spoiled + 1 :], root)
        assert not verify_inclusion(leaf, index, size, [*path[:spoiled], leaf_hash(b"x"), *path[spoiled + 1 :]], root)


@given(leaves=leaves_of, data=st.data())
def test_growth_is_proven_by_the_proof_of_the_definition_and_a_fork_by_none(leaves: list[bytes], data: st.DataObject) -> None:
    """A tree extends each of its beginnings; a tree with one other leaf among them it does not extend."""
    old = data.draw(st.integers(0, len(leaves)))
    frontier, nodes = grown(leaves)
    proof = proof_of(consistency_spans(old, len(leaves)), nodes)
    if 0 < old < len(leaves):
        assert proof == sub_proof(old, leaves, True)
    before, after = tree_hash(leaves[:old]), frontier.root()
    assert verify_consistency(old, len(leaves), before, after, proof)
    assert not verify_consistency(old, len(leaves), before, after, [*proof, after])
    if old:
        forked = list(leaves)
        forked[data.draw(st.integers(0, old - 1))] = b"another"
        assert not verify_consistency(old, len(leaves), tree_hash(forked[:old]), after, proof)
        assert not verify_consistency(old, len(leaves), before, tree_hash(forked), proof)
    if proof:
        assert not verify_consistency(old, len(leaves), before, after, proof[:-1])
        assert not verify_consistency(old, len(leaves), before, after, [leaf_hash(b"x"), *proof[1:]])


def test_what_cannot_be_is_refused() -> None:
    """Leaves and sizes that a tree does not have; proofs of any length are bounded before they are looked at."""
    with pytest.raises(ValueError, match="no leaf 3"):
        inclusion_spans(3, 3)
    with pytest.raises(ValueError, match="does not extend"):
        consistency_spans(4, 3)
    with pytest.raises(KeyError):
        span_hash((0, 3), {})
    root = leaf_hash(b"")
    assert not verify_inclusion(root, 0, 1, [root] * (MAX_PROOF + 1), root)
    assert not verify_consistency(1, 2, root, root, [root] * (MAX_PROOF + 1))
    assert not verify_consistency(3, 2, root, root, [])
    assert not verify_consistency(3, 5, root, root, [])
    assert not verify_consistency(0, 5, root, root, []), "the empty tree has one root"
    assert verify_consistency(0, 5, EMPTY_ROOT, root, [])
    assert node_hash(root, root) == sha256(b"\x01" + root + root).digest()
