"""The keys of the ledger in their file."""

from __future__ import annotations

import stat
from datetime import timedelta
from pathlib import Path

import pytest

from storage import keyring
from storage.errors import KeyUnusable
from tests.unit.storage.values import AT

DAY = timedelta(days=1)


def test_the_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    """Nobody else can read it; whoever comes second finds the first one's, under the name that it got."""
    path = tmp_path / "data" / "ledger.key"
    assert keyring.load(path) is None
    made = keyring.load_or_make(path, None)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert made.current.name.startswith("tagstone/")
    assert keyring.load_or_make(path, None) == keyring.load(path) == made
    assert [each.name for each in path.parent.iterdir()] == ["ledger.key"]


def test_of_two_that_make_it_at_once_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loser's key is thrown away before anything was signed by it."""
    path = tmp_path / "ledger.key"
    winner = keyring.load_or_make(path, "one")
    looked = []

    def not_yet(where: Path) -> keyring.Keyring | None:
        looked.append(where)
        return None if len(looked) == 1 else winner

    monkeypatch.setattr(keyring, "load", not_yet)
    assert keyring.load_or_make(path, "one") == winner
    monkeypatch.undo()
    assert keyring.load(path) == winner


def test_a_log_keeps_its_name(tmp_path: Path) -> None:
    """An origin that is configured later, or changed, would make another log of it: that is said and not done."""
    path = tmp_path / "ledger.key"
    keyring.load_or_make(path, "mirror.example/ledger")
    with pytest.raises(KeyUnusable, match=r"mirror\.example/ledger by its key .*ledger\.origin says other"):
        keyring.load_or_make(path, "other")


def test_after_a_rotation_both_keys_sign_until_the_old_one_leaves(tmp_path: Path) -> None:
    """The new one first; the old one's public half stays known after its time, its private half goes at the next rotation."""
    path = tmp_path / "ledger.key"
    first = keyring.load_or_make(path, "mirror.example/ledger")
    second = first.rotated(AT, AT + DAY)
    keyring.store(path, second)
    assert keyring.load(path) == second
    assert second.signers(AT) == (second.current, first.current)
    assert second.signers(AT + DAY) == (second.current,)
    assert second.verifiers == (second.current.verifier, first.current.verifier)
    third = second.rotated(AT + 2 * DAY, AT + 2 * DAY)
    keyring.store(path, third)
    assert keyring.load(path) == third
    assert third.signers(AT + 2 * DAY) == (third.current,)
    assert third.verifiers == (third.current.verifier, second.current.verifier, first.current.verifier)
    assert path.read_text().count("PRIVATE") == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_rotation_without_overlap_ends_the_time_of_all(tmp_path: Path) -> None:
    """Those that still sign are in the same file as the one that is given up: they are in the same hands."""
    first = keyring.load_or_make(tmp_path / "ledger.key", "log.example")
    second = first.rotated(AT, AT + 30 * DAY)
    third = second.rotated(AT + DAY, AT + DAY)
    assert third.signers(AT + DAY) == (third.current,)
    assert third.verifiers == (third.current.verifier, second.current.verifier, first.current.verifier)
    assert second.rotated(AT + DAY, AT + 2 * DAY).signers(AT + DAY)[1:] == (second.current, first.current)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "nonsense\n",
        "x" * 100_000,
        "{key} until tomorrow\n",
        "{key}\n{key} until tomorrow\n",
        "{key}\n{key} until 2026-01-01\n",
        "{key}\nnonsense\n",
    ],
)
def test_a_file_that_is_damaged_is_said_to_be(tmp_path: Path, content: str) -> None:
    """No key is made in its place: that would be another log."""
    path = tmp_path / "ledger.key"
    key = keyring.load_or_make(path, None).current.secret()
    path.write_text(content.replace("{key}", key))
    with pytest.raises(KeyUnusable) as caught:
        keyring.load_or_make(path, None)
    assert key.split("+", 4)[4] not in str(caught.value)


def test_a_file_that_cannot_be_read_or_written_is_said_to_be(tmp_path: Path) -> None:
    """With the path and the system's reason."""
    (tmp_path / "ledger.key").mkdir()
    with pytest.raises(KeyUnusable, match="cannot be read"):
        keyring.load(tmp_path / "ledger.key")
    (tmp_path / "file").touch()
    with pytest.raises(KeyUnusable, match=r"cannot be (read|written)"):
        keyring.load_or_make(tmp_path / "file" / "ledger.key", None)
