"""The examination of a node, by table: one tree, one trap."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from proxy.clients.traps.table import TRAPS, Effect, render
from tests.unit.clients.trees import SOUND, TRAPPED, Tree, places

PAGE = Path(__file__).parents[3] / "docs" / "clients" / "doctor.md"


@pytest.mark.parametrize("tree", TRAPPED, ids=[tree.name for tree in TRAPPED])
def test_each_trap_is_named_with_file_and_line(tree: Tree, tmp_path: Path) -> None:
    """In a tree that has this trap and no other, this trap is found where it stands, and no other."""
    examination = tree.examine(tmp_path)
    assert places(examination) == sorted(tree.found, key=lambda each: each[1:])
    assert not examination.troubles
    assert examination.trapped == any(TRAPS[trap].effect is not Effect.ADVICE for trap, _, _ in tree.found)


@pytest.mark.parametrize("tree", SOUND, ids=[tree.name for tree in SOUND])
def test_a_sound_node_has_no_trap(tree: Tree, tmp_path: Path) -> None:
    """Nothing is found where nothing is wrong, not even advice."""
    examination = tree.examine(tmp_path)
    assert places(examination) == []
    assert not examination.troubles
    assert examination.files


def test_every_trap_has_a_tree() -> None:
    """No entry of the table goes unseen, and none is found that is not in the table."""
    assert {trap for tree in TRAPPED for trap, _, _ in tree.found} == set(TRAPS)


@pytest.mark.parametrize("trap", TRAPS.values(), ids=list(TRAPS))
def test_every_trap_says_what_happens_and_how_it_is_mended(trap: object) -> None:
    """To its end, without the marks that would break the table of the page."""
    found = TRAPS[trap.id]  # type: ignore[attr-defined]  # a Trap
    assert re.fullmatch(r"[a-z0-9-]+", found.id)
    for text in (found.happens, found.mend):
        assert text == text.strip()
        assert text.endswith((".", ")"))
    assert not any("|" in text or "\n" in text for text in (found.title, found.happens, found.mend))


def test_the_page_is_the_table() -> None:
    """docs/clients/doctor.md tells of every trap, in the words of the table."""
    text = PAGE.read_text(encoding="utf-8")
    assert render(text) == text
    assert all(f"`{name}`" in text for name in TRAPS)
